// Picking a machine: the gallery, a form of one's own, files of every sort, links.

import zlib from "node:zlib";
import { execFileSync } from "node:child_process";
import { ask, expect, fs, guests, needs, open, press, problems, screen, site, start, test } from "./steps.mjs";

const DOS = () => fs.readFileSync(guests["freedos.img"]);

/** A zip archive (APPNOTE.TXT 6.3) with one file, deflated. */
function zip(name, bytes) {
  const packed = zlib.deflateRawSync(bytes);
  const fields = (o) => {
    const b = Buffer.alloc(26);
    b.writeUInt16LE(20, 0);
    b.writeUInt16LE(8, 4);
    b.writeUInt32LE(zlib.crc32?.(bytes) ?? 0, 10);
    b.writeUInt32LE(packed.length, 14);
    b.writeUInt32LE(bytes.length, 18);
    b.writeUInt16LE(name.length, 22);
    return o ? b.subarray(0, 26) : b;
  };
  const local = Buffer.concat([Buffer.from("PK\x03\x04"), fields(), Buffer.from(name), packed]);
  const central = Buffer.concat([Buffer.from("PK\x01\x02"), Buffer.from([20, 0]), fields(), Buffer.alloc(14), Buffer.from(name)]);
  const end = Buffer.alloc(22);
  end.write("PK\x05\x06", 0, "latin1");
  end.writeUInt16LE(1, 8);
  end.writeUInt16LE(1, 10);
  end.writeUInt32LE(central.length, 12);
  end.writeUInt32LE(local.length, 16);
  return Buffer.concat([local, central, end]);
}

/** Lets a file fall on the page. */
async function drop(page, name, bytes) {
  const data = await page.evaluateHandle(
    ([name, text]) => {
      const transfer = new DataTransfer();
      transfer.items.add(new File([Uint8Array.from(atob(text), (c) => c.charCodeAt(0))], name));
      return transfer;
    },
    [name, bytes.toString("base64")],
  );
  await page.dispatchEvent("body", "drop", { dataTransfer: data });
}

test("a machine of the gallery starts with a click, and its disk stays", async ({ page }) => {
  needs("freedos.img");
  site.extra["gallery.json"] = Buffer.from(
    JSON.stringify([{ id: "dos", title: "FreeDOS", what: "a prompt", args: "-m 16 -fda freedos.img -boot a", keep: "freedos.img", files: [], picture: "icon.svg", size: 737280 }]),
  );
  await open(page);
  await expect(page.locator("#gallery")).toContainText("737 kB");
  await page.getByRole("button", { name: /FreeDOS/ }).click();
  await screen(page, "A:\\>");
  const disks = await ask(page, "listDisks");
  expect(disks).toHaveLength(1);
  expect(disks[0].base).toContain("freedos.img");
  delete site.extra["gallery.json"];
  expect(problems()).toEqual([]);
});

for (const [name, pack] of [
  ["dos.img", (b) => b],
  ["dos.img.gz", (b) => zlib.gzipSync(b)],
  ["dos.zip", (b) => zip("folder/dos.img", b)],
  ["dos.img.xz", (b) => execFileSync("xz", ["-1"], { input: b, maxBuffer: 1 << 24 })],
  ["dos.img.zst", (b) => execFileSync("zstd", ["-1"], { input: b, maxBuffer: 1 << 24 })],
]) {
  test(`${name} falls on the page and boots`, async ({ page }) => {
    needs("freedos.img");
    let bytes;
    try {
      bytes = pack(DOS());
    } catch (e) {
      test.skip(e.code === "ENOENT", "the packer is not on this host");
      throw e;
    }
    await open(page);
    await page.locator("#keep").setChecked(name === "dos.img");
    await drop(page, name, bytes);
    await screen(page, "A:\\>");
    const kept = await ask(page, "listDisks");
    expect(kept.map((d) => d.name)).toEqual(name === "dos.img" ? ["dos.img"] : []);
    expect(problems()).toEqual([]);
  });
}

test("images of other formats are known by what is in them, whatever their names", async ({ page }) => {
  await open(page);
  const kinds = await page.evaluate(async () => {
    const { withTools } = await import("./machine.js");
    const out = {};
    for (const format of ["qcow2", "vmdk", "vdi", "vhdx", "vpc"]) {
      const info = await withTools(async (tools) => {
        await tools.ask("image", { tool: "create", args: [`idb:${format}.bin`, format, "8M"] });
        return tools.ask("image", { tool: "info", args: [`idb:${format}.bin`] });
      });
      out[format] = [info.format, info.virtualSize >= 8 << 20];
    }
    return out;
  });
  for (const format of ["qcow2", "vmdk", "vdi", "vhdx", "vpc"]) expect(kinds[format]).toEqual([format, true]);
});

test("a damaged archive is one clear message", async ({ page }) => {
  await open(page);
  await drop(page, "broken.img.gz", zlib.gzipSync(Buffer.alloc(100_000, 7)).subarray(0, 60));
  await expect(page.locator("#status.bad")).toContainText("'broken.img.gz' cannot be unpacked");
});

test("the form makes a machine of one's own, and its link makes it again", async ({ page, context }) => {
  needs("freedos.img");
  await context.grantPermissions(["clipboard-read", "clipboard-write"]);
  await open(page);
  await page.getByText("Your own machine").click();
  await page.locator("select[name=machine]").selectOption("isapc");
  await page.getByLabel("Memory in MB").fill("8");
  await page.getByLabel("Floppy").setInputFiles(guests["freedos.img"]);
  await press(page, "Start this machine");
  await screen(page, "A:\\>");
  expect(await page.evaluate(() => globalThis.orrery.qmp("query-memory-size-summary"))).toMatchObject({ "base-memory": 8 << 20 });
  await start(page, "-m 9 -M isapc -fda freedos.img");
  await screen(page, "A:\\>");
  await press(page, "Copy link");
  const link = await page.evaluate(() => navigator.clipboard.readText());
  const other = await context.newPage();
  await other.goto(link);
  await screen(other, "A:\\>");
  expect(await other.evaluate(() => globalThis.orrery.qmp("query-memory-size-summary"))).toMatchObject({ "base-memory": 9 << 20 });
  expect(problems()).toEqual([]);
});

test("a CD of which parts are fetched boots before it is there, and a second time fetches next to nothing", async ({ page }) => {
  needs("grub.iso");
  // A small system at the front of a large disc.
  site.extra["large.iso"] = Buffer.concat([fs.readFileSync(guests["grub.iso"]), Buffer.alloc(120 << 20)]);
  const args = "-m 64 -cdrom large.iso";
  await start(page, args);
  await screen(page, "GNU GRUB", 90);
  const once = site.given.get("large.iso");
  expect(once).toBeLessThan(site.extra["large.iso"].length * 0.05);
  await page.waitForTimeout(500);
  await page.reload();
  await screen(page, "GNU GRUB", 90);
  expect(site.given.get("large.iso") - once).toBeLessThanOrEqual(256 * 1024);
  delete site.extra["large.iso"];
});
