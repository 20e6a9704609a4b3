// The page in a real browser: what a person does with it.

import { expect, test } from "@playwright/test";
import fs from "node:fs";
import http from "node:http";
import path from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../..", import.meta.url));
const dist = path.join(root, "www/dist");
const shared = path.join(root, "../shared/guests");
/** Guest files by the name the page fetches them under. */
const guests = {
  "freedos.img": path.join(shared, "x86/freedos722.img"),
  "debian-i386": path.join(root, "guests/debian-i386/linux"),
  "debian-i386-initrd": path.join(root, "guests/debian-i386/initrd.gz"),
};
/** Files that nothing can be done with. */
const broken = {
  "zeros.bin": Buffer.alloc(65536),
  "cut.qcow2": Buffer.from([0x51, 0x46, 0x49, 0xfb, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
};
const types = { ".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".wasm": "application/wasm" };

let server;
let url;
let problems;

test.beforeAll(async () => {
  server = http.createServer((request, response) => {
    const name = decodeURIComponent(new URL(request.url, "http://localhost").pathname).slice(1) || "index.html";
    if (name in broken) return response.writeHead(200).end(broken[name]);
    const file = guests[name] ?? path.join(dist, name);
    fs.readFile(file, (error, bytes) => {
      if (error) return response.writeHead(404).end();
      response.writeHead(200, { "content-type": types[path.extname(file)] ?? "application/octet-stream" });
      response.end(bytes);
    });
  });
  await new Promise((done) => server.listen(0, done));
  url = `http://localhost:${server.address().port}/`;
});

test.afterAll(() => server.close());

test.beforeEach(({ page }) => {
  problems = [];
  page.on("console", (m) => m.type() === "error" && problems.push(m.text()));
  page.on("pageerror", (e) => problems.push(e.message));
});

const start = (page, args) => page.goto(`${url}?args=${encodeURIComponent(args)}`);

/** Waits until the text screen holds `text`. */
async function screen(page, text, seconds = 60) {
  const look = () =>
    page.evaluate(() => (globalThis.orrery?.running ? globalThis.orrery.ask("text") : document.getElementById("status").textContent));
  await expect.poll(look, { timeout: seconds * 1000 }).toContain(text);
}

/** Types on the screen as a person does. */
async function type(page, text) {
  await page.locator("#screen").focus();
  for (const c of text) {
    // The test driver sends shifted characters without the shift key; a keyboard does not.
    const key = c === "\n" ? "Enter" : c === ">" ? "Shift+Period" : c;
    await page.keyboard.press(key, { delay: 40 });
  }
}

function needs(...names) {
  for (const name of names) test.skip(!fs.existsSync(guests[name]), `the guest ${name} is not there: ${guests[name]}`);
}

test("with nothing to start from, the diagnostic ROM runs and counts its starts", async ({ page }) => {
  await start(page, "-m 32");
  await screen(page, "starts: 1", 90);
  await page.waitForTimeout(2500);
  await page.reload();
  await screen(page, "starts: 2", 90);
  expect(problems).toEqual([]);
});

test("FreeDOS boots, keys arrive, and a file is there after a reload", async ({ page }) => {
  needs("freedos.img");
  expect(await importDos(page)).toBe("");
  const args = "-m 16 -fda idb:dos.img -boot a";
  await start(page, args);
  await screen(page, "A:\\>");
  await type(page, "echo kept>k.txt\n");
  await page.waitForTimeout(4000);
  await page.reload();
  await screen(page, "A:\\>");
  await type(page, "type k.txt\n");
  await screen(page, "\nkept");
  expect(problems).toEqual([]);
});

test("Debian's kernel reaches its first userspace line on the serial console", async ({ page }) => {
  needs("debian-i386", "debian-i386-initrd");
  test.setTimeout(900_000);
  await start(page, '-m 256 -kernel debian-i386 -initrd debian-i386-initrd -append "console=ttyS0"');
  await expect(page.locator("#serial")).toContainText("Starting system log daemon", { timeout: 850_000 });
  expect(problems).toEqual([]);
});

/** Puts the FreeDOS floppy into the page's storage. */
async function importDos(page) {
  await page.goto(url);
  return page.evaluate(async () => {
    const { Machine } = await import("./machine.js");
    const bytes = new Uint8Array(await (await fetch("freedos.img")).arrayBuffer());
    const store = new Machine();
    try {
      await store.ask("importDisk", { name: "dos.img", bytes });
      return "";
    } catch (e) {
      return e.message;
    } finally {
      store.stop();
    }
  });
}

/** Sets how much the page may store; without a size, as much as usual. */
async function quota(page, quotaSize) {
  const client = await page.context().newCDPSession(page);
  await client.send("Storage.overrideQuotaForOrigin", { origin: new URL(url).origin, quotaSize });
}

test("a file that is missing is one clear message", async ({ page }) => {
  await start(page, "-cdrom missing.iso");
  await expect(page.locator("#status")).toContainText("'missing.iso'");
  await expect(page.locator("#status")).toContainText("404");
});

for (const [what, args, says] of [
  ["an unknown device", "-device e1001", "did you mean 'e1000'?"],
  ["an unknown option", "-kernal x", "did you mean '-kernel'?"],
  ["an unknown machine", "-M q36", "did you mean 'q35'?"],
  ["a truncated qcow2", "-hda cut.qcow2", "'cut.qcow2'"],
  ["a kernel that is no kernel", "-kernel zeros.bin", "'zeros.bin'"],
  ["a disk that was never kept here", "-hda idb:none.img", "'none.img'"],
]) {
  test(`${what} is one clear message`, async ({ page }) => {
    await start(page, args);
    await expect(page.locator("#status.bad")).toContainText(says);
    expect(problems).toEqual([]);
    // The page is still good for something.
    await page.locator("#args").fill("-m 32");
    await page.getByRole("button", { name: "Start" }).click();
    await screen(page, "orrery-diag", 90);
    const disks = await page.evaluate(() => globalThis.orrery.ask("listDisks"));
    expect(disks.filter((d) => /none|cut/.test(d.name))).toEqual([]);
  });
}

test("a disk for which there is no room is not kept in part", async ({ page }) => {
  needs("freedos.img");
  await page.goto(url);
  await quota(page, 400_000);
  expect(await importDos(page)).toContain("room");
  await quota(page);
  const disks = await page.evaluate(async () => {
    const { Machine } = await import("./machine.js");
    return new Machine().ask("listDisks");
  });
  expect(disks).toEqual([]);
});

/** Runs `code` in the machine's worker before its own. */
const inWorker = (page, code) =>
  page.route("**/worker.js", async (route) => {
    const response = await route.fetch();
    await route.fulfill({ response, body: `${code}\n${await response.text()}` });
  });

/** Ends transactions that write as browsers do when storage is used up. */
const FULL = `
  let full = false;
  self.addEventListener("message", ({ data }) => { if (data.type === "full") full = data.on; });
  const put = IDBObjectStore.prototype.put;
  IDBObjectStore.prototype.put = function (...args) {
    const t = this.transaction;
    if (!full) return put.apply(this, args);
    if (t.error === null) {
      Object.defineProperty(t, "error", { value: new DOMException("used up", "QuotaExceededError") });
      t.abort();
    }
  };`;

test("when storage is full the machine waits, and goes on when there is room", async ({ page }) => {
  needs("freedos.img");
  await inWorker(page, FULL);
  expect(await importDos(page)).toBe("");
  await start(page, "-m 16 -fda idb:dos.img -boot a");
  await screen(page, "A:\\>");
  await page.evaluate(() => globalThis.orrery.send("full", { on: true }));
  await type(page, "echo kept>k.txt\n");
  await expect(page.locator("#status")).toContainText("full", { timeout: 60_000 });
  await page.evaluate(() => globalThis.orrery.send("full", { on: false }));
  await page.getByRole("button", { name: "Resume" }).click();
  await type(page, "type k.txt\n");
  await screen(page, "\nkept");
  expect(problems).toEqual([]);
});

// How browsers refuse: there is nothing to ask, or asking fails.
for (const [how, line] of [
  ["no IndexedDB", 'Object.defineProperty(globalThis, "indexedDB", { value: undefined });'],
  ["IndexedDB that throws", 'IDBFactory.prototype.open = () => { throw new DOMException("denied", "SecurityError"); };'],
]) {
  test(`a page without permission to keep disks says so: ${how}`, async ({ page }) => {
    await inWorker(page, line);
    await start(page, "-hda idb:mine.img");
    await expect(page.locator("#status.bad")).toContainText("gives no storage");
    expect(problems).toEqual([]);
    // What needs no storage works all the same.
    await start(page, "-m 32");
    await screen(page, "starts: ", 90);
  });
}
