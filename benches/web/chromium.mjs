// Runs the benchmark guest in headless Chromium, on Orrery's page or on the peer's, with the
// serial line on standard output. Usage: node chromium.mjs MODULES orrery|v86 KERNEL INITRD APPEND
// Standard error: what the page reports as errors.

import fs from "node:fs";
import http from "node:http";
import path from "node:path";
import { createRequire } from "node:module";

const [modules, engine, kernel, initrd, append, ...more] = process.argv.slice(2);
const { chromium } = createRequire(path.resolve(modules, "x.js"))("playwright-core");

/** The scripts of the pages: both send each line of the serial port to the console. */
const pages = {
  orrery: `
    import { Machine } from "./machine.js";
    const machine = new Machine();
    let text = "";
    machine.addEventListener("serial", ({ detail }) => {
      text += detail.text;
      const lines = text.split("\\n");
      text = lines.pop();
      for (const line of lines) console.log(line.trimEnd());
    });
    machine.addEventListener("error", ({ detail }) => console.error(detail.text));
    machine.addEventListener("stopped", () => console.log("STOPPED"));
    const args = ["-M", "pc", "-m", "512", "-kernel", "kernel", "-initrd", "initrd", "-append", ${JSON.stringify(append)}];
    await machine.start({ args: args.concat(${JSON.stringify(more)}) });
  `,
  v86: `
    import { V86 } from "./v86/libv86.mjs";
    const emulator = new V86({
      wasm_path: "v86/v86.wasm",
      bios: { url: "firmware/bios-256k.bin" },
      vga_bios: { url: "firmware/vgabios-stdvga.bin" },
      memory_size: 512 << 20,
      vga_memory_size: 8 << 20,
      bzimage: { url: "kernel" },
      initrd: { url: "initrd" },
      cmdline: ${JSON.stringify(append)},
      autostart: true,
      disable_speaker: true,
    });
    let line = "";
    emulator.add_listener("serial0-output-byte", (byte) => {
      if (byte !== 10) return void (line += String.fromCharCode(byte));
      console.log(line.trimEnd());
      line = "";
    });
  `,
};

const types = { ".js": "text/javascript", ".mjs": "text/javascript", ".wasm": "application/wasm" };
const find = (name) => {
  if (name === "kernel") return kernel;
  if (name === "initrd") return initrd;
  if (name.startsWith("v86/")) return path.join(modules, "v86/build", name.slice(4));
  return path.join("www/dist", name);
};
const server = http.createServer((request, response) => {
  const name = decodeURIComponent(new URL(request.url, "http://localhost").pathname).slice(1);
  if (name === "") {
    response.writeHead(200, { "content-type": "text/html" });
    return response.end(`<!doctype html><link rel="icon" href="data:,"><script type="module">${pages[engine]}</script>`);
  }
  fs.readFile(find(name), (error, bytes) => {
    if (error) return response.writeHead(404).end();
    response.writeHead(200, { "content-type": types[path.extname(name)] ?? "application/octet-stream" });
    response.end(bytes);
  });
});
await new Promise((done) => server.listen(0, done));

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"],
});
const page = await browser.newPage();
page.on("console", (m) => fs.writeSync(m.type() === "error" ? 2 : 1, `${m.text()}\n`));
page.on("pageerror", (e) => fs.writeSync(2, `${e.message}\n`));
process.on("SIGTERM", async () => {
  await browser.close();
  process.exit(0);
});
await page.goto(`http://localhost:${server.address().port}/`);
