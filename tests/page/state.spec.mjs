// States: closing and opening, snapshots, files that the native program opens too.

import { execFileSync } from "node:child_process";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { download, expect, fs, guests, importDos, needs, open, press, problems, screen, start, test, type } from "./steps.mjs";

const DOS = "-m 16 -fda idb:dos.img -boot a";

test("a reload goes on where the machine was", async ({ page }) => {
  needs("freedos.img");
  expect(await importDos(page)).toBe("");
  await start(page, DOS, "");
  await screen(page, "A:\\>");
  await type(page, "echo in-memory-only");
  await screen(page, "in-memory-only");
  // Once as when the person looks at another tab; what comes after that is kept while the page goes.
  await page.evaluate(() => globalThis.orreryKeeper.keep());
  await type(page, "-late");
  await screen(page, "in-memory-only-late");
  await page.reload();
  await screen(page, "in-memory-only-late");
  await type(page, "\n");
  await screen(page, "\nin-memory-only-late");
  expect(problems()).toEqual([]);
});

test("a closed tab is offered again, with its picture, and a disk that changed since is not mixed up", async ({ page, context }) => {
  needs("freedos.img");
  expect(await importDos(page)).toBe("");
  await start(page, DOS, "");
  await screen(page, "A:\\>");
  await type(page, "echo still-here");
  await screen(page, "still-here");
  await page.evaluate(() => globalThis.orreryKeeper.keep());
  const other = await context.newPage();
  await page.close();
  await open(other);
  const offer = other.locator("#suspended .open");
  await expect(offer).toHaveCount(1);
  expect(await other.locator("#suspended img").evaluate((i) => i.decode().then(() => i.naturalWidth))).toBeGreaterThan(300);
  await offer.click();
  await screen(other, "still-here");
  // Now the disk is written to: the state that was kept does not fit it any more.
  await type(other, ">y.txt\n");
  await other.waitForTimeout(2500);
  await other.evaluate(() => globalThis.orreryKeeper.watch(undefined));
  await open(other);
  await other.locator("#suspended .open").click();
  await expect(other.locator("#status.bad")).toContainText("has changed since");
});

test("snapshots have pictures, hold the disks too, and make a tree", async ({ page }) => {
  needs("freedos.img");
  test.slow();
  expect(await importDos(page)).toBe("");
  await start(page, DOS);
  await screen(page, "A:\\>");
  await page.getByRole("tab", { name: "Snapshots" }).click();
  const take = async (name) => {
    await press(page, "Take a snapshot…");
    await page.locator("dialog input").first().fill(name);
    await press(page, "Take");
    await expect(page.locator(".snapshot", { hasText: name })).toBeVisible();
  };
  await take("before");
  await type(page, "echo late>late.txt\n");
  await page.waitForTimeout(2500);
  await take("after");
  await expect(page.locator(".tree ul .snapshot")).toContainText("after");
  await page.locator(".snapshot", { hasText: "before" }).getByRole("button", { name: "Go back" }).click();
  await expect(page.locator("#status")).toContainText("Back at 'before'", { timeout: 30_000 });
  await type(page, "type late.txt\n");
  await screen(page, "not found");
  expect(problems()).toEqual([]);
});

test("a state is one file, which the native program and another browser go on from", async ({ page, browser }) => {
  needs("freedos.img");
  await start(page, "-m 16 -fda freedos.img -boot a");
  await screen(page, "A:\\>");
  await type(page, "echo carried-over");
  await screen(page, "carried-over");
  await page.getByRole("tab", { name: "Snapshots" }).click();
  await press(page, "Take a snapshot…");
  await press(page, "Take");
  const file = await download(page, () => press(page, "Export"));
  expect(file.name).toBe("Snapshot 1.orrery");
  const saved = test.info().outputPath("state.orrery");
  fs.writeFileSync(saved, file.bytes);
  const context = await browser.newContext({ serviceWorkers: "block" });
  const other = await context.newPage();
  await open(other);
  await other.locator("#file").setInputFiles(saved);
  await screen(other, "carried-over");
  await context.close();

  const native = process.env.ORRERY;
  if (!native) return;
  const root = fileURLToPath(new URL("../..", import.meta.url));
  const script = test.info().outputPath("look.script");
  fs.writeFileSync(script, 'wait-screen "echo carried-over"\ntype "\\n"\nwait 3\nwait-screen "A:"\nquit\n');
  execFileSync(native, ["-L", `${path.join(root, "guests/firmware")}/`, "-m", "16", "-fda", guests["freedos.img"], "-boot", "a", "-display", "none", "-loadvm", saved, "-snapshot", "-script", script], { timeout: 60_000 });
});
