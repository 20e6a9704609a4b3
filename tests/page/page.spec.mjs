// The page in a real browser: what a person does with it.

import { expect, importDos, needs, open, problems, screen, serial, site, start, test, type } from "./steps.mjs";

test("with nothing to start from, the diagnostic ROM runs and counts its starts", async ({ page }) => {
  await start(page, "-m 32");
  await screen(page, "starts: 1", 90);
  await page.waitForTimeout(2500);
  await page.reload();
  await screen(page, "starts: 2", 90);
  expect(problems()).toEqual([]);
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
  expect(problems()).toEqual([]);
});

test("Debian's kernel reaches its first userspace line on the serial console", async ({ page }) => {
  needs("debian-i386", "debian-i386-initrd");
  test.setTimeout(900_000);
  await start(page, '-m 256 -kernel debian-i386 -initrd debian-i386-initrd -append "console=ttyS0"');
  await serial(page, "Starting system log daemon", 850);
  expect(problems()).toEqual([]);
});

/** Sets how much the page may store; without a size, as much as usual. */
async function quota(page, quotaSize) {
  const client = await page.context().newCDPSession(page);
  await client.send("Storage.overrideQuotaForOrigin", { origin: new URL(site.url).origin, quotaSize });
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
    expect(problems()).toEqual([]);
    // The page is still good for something.
    await page.locator("#args").fill("-m 32");
    await page.getByRole("button", { name: "Start", exact: true }).click();
    await screen(page, "orrery-diag", 90);
    const disks = await page.evaluate(() => globalThis.orrery.ask("listDisks"));
    expect(disks.filter((d) => /none|cut/.test(d.name))).toEqual([]);
  });
}

test("a disk for which there is no room is not kept in part", async ({ page }) => {
  needs("freedos.img");
  await open(page);
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
  await page.getByRole("button", { name: "Resume", exact: true }).click();
  await type(page, "type k.txt\n");
  await screen(page, "\nkept");
  expect(problems()).toEqual([]);
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
    expect(problems()).toEqual([]);
    // What needs no storage works all the same.
    await start(page, "-m 32");
    await screen(page, "starts: ", 90);
  });
}
