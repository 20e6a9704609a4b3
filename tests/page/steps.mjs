// What the tests of the page share: the site, and what a person does.

import { test as base, expect } from "@playwright/test";
import fs from "node:fs";
import { Site, guests } from "./server.mjs";

export let site;
let list;
/** What the page complained about on its console. */
export const problems = () => list;

export const test = base.extend({
  served: [
    async ({}, use) => {
      site = await new Site().listen();
      await use(site);
      site.close();
    },
    { scope: "worker", auto: true },
  ],
  watched: [
    async ({ context }, use) => {
      list = [];
      context.on("console", (m) => m.type() === "error" && list.push(m.text()));
      context.on("weberror", (e) => list.push(e.error().message));
      await use(list);
    },
    { auto: true },
  ],
});

export const open = (page, hash = "") => page.goto(site.url + hash);

/** Starts a machine anew, also after a reload. */
export const start = (page, args, more = "&resume=no") => page.goto(`${site.url}?args=${encodeURIComponent(args)}${more}`);

const status = (page) => page.locator("#status").textContent();

/** Waits until the text screen holds `text`. */
export async function screen(page, text, seconds = 60) {
  const look = () =>
    page.evaluate(() => (globalThis.orrery?.running ? globalThis.orrery.ask("text") : document.getElementById("status").textContent));
  await expect.poll(look, { timeout: seconds * 1000 }).toContain(text);
}

/** Waits until a line has sent `text`. */
export async function serial(page, text, seconds = 60, line = "serial0") {
  const look = async () => (await page.evaluate((l) => globalThis.orrery?.serialText.get(l), line)) ?? (await status(page));
  await expect.poll(look, { timeout: seconds * 1000 }).toContain(text);
}

/** Types on the screen as a person does. */
export async function type(page, text) {
  await page.locator("#screen").focus();
  for (const c of text) {
    // The test driver sends shifted characters without the shift key; a keyboard does not.
    const key = c === "\n" ? "Enter" : c === ">" ? "Shift+Period" : c;
    await page.keyboard.press(key, { delay: 40 });
  }
}

export function needs(...names) {
  for (const name of names) test.skip(!fs.existsSync(guests[name]), `the guest ${name} is not there: ${guests[name]}`);
}

/** Asks a thread without a machine. */
export const ask = (page, kind, data) =>
  page.evaluate(
    async ([kind, data]) => {
      const { withTools } = await import("./machine.js");
      return withTools((tools) => tools.ask(kind, data));
    },
    [kind, data],
  );

/** Puts the FreeDOS floppy into the page's storage; what went wrong. */
export async function importDos(page) {
  await open(page);
  return page.evaluate(async () => {
    const { withTools } = await import("./machine.js");
    const bytes = new Uint8Array(await (await fetch("freedos.img")).arrayBuffer());
    return withTools((tools) => tools.ask("importDisk", { name: "dos.img", bytes })).then(() => "", (e) => e.message);
  });
}

/** Presses a button of the page. */
export const press = (page, name) => page.getByRole("button", { name, exact: true }).click();

/** The bytes that a press gives to the person as a file. */
export async function download(page, work) {
  const [file] = await Promise.all([page.waitForEvent("download"), work()]);
  return { name: file.suggestedFilename(), bytes: fs.readFileSync(await file.path()) };
}

export { expect, fs, guests };
