// Disks that stay: the storage manager.

import { ask, download, expect, fs, guests, importDos, needs, open, press, problems, screen, site, start, test, type } from "./steps.mjs";

const image = (page, tool, ...args) => ask(page, "image", { tool, args });
const row = (page, name) => page.locator(".disks > li", { hasText: name });

test("a disk is made, checked, given snapshots, renamed and deleted", async ({ page }) => {
  await open(page, "#disks");
  await press(page, "New disk…");
  await page.locator("dialog input").first().fill("work.qcow2");
  await page.locator("dialog input[name=size]").fill("64M");
  await press(page, "Create");
  await expect(row(page, "work.qcow2")).toBeVisible();
  await row(page, "work.qcow2").getByRole("button", { name: "Check" }).click();
  await expect(page.locator("#status")).toContainText("is in order");
  await row(page, "work.qcow2").getByRole("button", { name: "Snapshots" }).click();
  await press(page, "Take a snapshot…");
  await page.locator("dialog input").first().fill("first");
  await press(page, "Take");
  await expect(page.locator(".tree")).toContainText("first");
  expect((await image(page, "info", "idb:work.qcow2")).snapshots.map((s) => s.name)).toEqual(["first"]);
  await row(page, "work.qcow2").getByRole("button", { name: "Rename…" }).click();
  await page.locator("dialog input").first().fill("other.qcow2");
  await press(page, "Rename");
  await row(page, "other.qcow2").getByRole("button", { name: "Delete…" }).click();
  await press(page, "Delete");
  await expect(page.locator(".disks")).toContainText("No disk is kept");
  expect(problems()).toEqual([]);
});

test("a disk is imported, and exported in other formats with the same content", async ({ page }) => {
  needs("freedos.img");
  await open(page, "#disks");
  await page.getByLabel("Import an image…").setInputFiles(guests["freedos.img"]);
  await expect(row(page, ".img")).toBeVisible();
  for (const format of ["qcow2", "vmdk", "vdi", "vhdx"]) {
    await press(page, "Export…");
    await page.locator("dialog select[name=format]").selectOption(format);
    const file = await download(page, () => press(page, "Export"));
    expect(file.name).toMatch(new RegExp(`\\.${format}$`));
    const magic = { qcow2: "QFI", vmdk: "KDMV", vdi: "<<<", vhdx: "vhdxfile" }[format];
    expect(file.bytes.subarray(0, magic.length).toString("latin1")).toBe(magic);
    if (format !== "qcow2") continue;
    // And back: the same bytes.
    fs.writeFileSync(test.info().outputPath("copy.qcow2"), file.bytes);
    await page.getByLabel("Import an image…").setInputFiles(test.info().outputPath("copy.qcow2"));
    await expect(row(page, "copy.qcow2")).toBeVisible();
    await image(page, "convert", "idb:copy.qcow2", "idb:back.raw", "raw");
    const same = await page.evaluate(async () => {
      const { withTools } = await import("./machine.js");
      const blob = await withTools((tools) => tools.ask("exportDisk", { name: "back.raw" }));
      const [a, b] = [new Uint8Array(await blob.arrayBuffer()), new Uint8Array(await (await fetch("freedos.img")).arrayBuffer())];
      return a.length === b.length && a.every((v, i) => v === b[i]);
    });
    expect(same).toBe(true);
    await ask(page, "removeDisk", { name: "back.raw" });
    await ask(page, "removeDisk", { name: "copy.qcow2" });
    await page.reload();
  }
});

test("a second tab on the same disk is refused, until the first one lets go", async ({ page, context }) => {
  needs("freedos.img");
  expect(await importDos(page)).toBe("");
  await start(page, "-m 16 -fda idb:dos.img -boot a");
  await screen(page, "A:\\>");
  const other = await context.newPage();
  await start(other, "-m 16 -fda idb:dos.img -boot a");
  await expect(other.locator("#status.bad")).toContainText("in use in another tab");
  await page.close();
  await other.getByRole("button", { name: "Start", exact: true }).click();
  await screen(other, "A:\\>");
  expect(problems()).toEqual([]);
});

test("a disk over an image on the web keeps what is changed, and the image stays as it is", async ({ page }) => {
  needs("freedos.img");
  await open(page, "#disks");
  await press(page, "Over an image on the web…");
  await page.locator("dialog input[name=url]").fill(`${site.url}freedos.img`);
  await page.locator("dialog input[name=name]").fill("web.img");
  await press(page, "Create");
  await expect(row(page, "web.img")).toContainText("over http");
  await start(page, "-m 16 -fda idb:web.img -boot a");
  await screen(page, "A:\\>");
  await type(page, "echo kept>k.txt\n");
  await page.waitForTimeout(3500);
  await start(page, "-m 16 -fda idb:web.img -boot a");
  await screen(page, "A:\\>");
  await type(page, "type k.txt\n");
  await screen(page, "\nkept");
  const [disk] = await ask(page, "listDisks");
  expect(disk.stored).toBeLessThan(disk.len);
});

test("what was flushed is there after the tab is killed while the guest writes", async ({ page, context }) => {
  needs("freedos.img");
  test.slow();
  expect(await importDos(page)).toBe("");
  let tab = page;
  for (let round = 1; round <= 4; round++) {
    await start(tab, "-m 16 -fda idb:dos.img -boot a");
    await screen(tab, "A:\\>");
    for (let n = 1; n < round; n++) {
      await type(tab, `type r${n}.txt\n`);
      await screen(tab, `\nround-${n}`);
    }
    await type(tab, `echo round-${round}>r${round}.txt\n`);
    await tab.waitForTimeout(300);
    await tab.evaluate(() => globalThis.orrery.ask("flush"));
    // More is being written when the tab dies.
    await type(tab, `echo lost>x${round}.txt\n`);
    const next = await context.newPage();
    await tab.close();
    tab = next;
    await tab.goto(site.url);
  }
});
