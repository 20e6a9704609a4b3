// Boots a diskette again and again in one machine, on the page in headless Chromium: does memory stay
// flat, and is the machine's thread ever held up for long? The diskette's system must come to a prompt (`A:\>`)
// by itself. Build the page first. Usage: node reboot.mjs MODULES IMAGE TIMES

import fs from "node:fs";
import http from "node:http";
import path from "node:path";
import { createRequire } from "node:module";

const [modules, image, times] = process.argv.slice(2);
const { chromium } = createRequire(path.resolve(modules, "x.js"))("playwright-core");

/** The page's worker, which also says how long its turns took. */
const worker = (text) =>
  text
    .replace(
      "next = session.run(performance.now(), SLICE);",
      `const began = performance.now();
    next = session.run(began, SLICE);
    const took = performance.now() - began;
    looked.turns++;
    looked.worst = Math.max(looked.worst, took);
    if (took > 50) looked.long.push(Math.round(took) + ' ms in turn ' + looked.turns);`,
    )
    .replace(
      "const requests = {",
      `const looked = { turns: 0, worst: 0, long: [] };
const requests = {
  looked: () => ({ ...looked, memory: wasm.memory.buffer.byteLength, jit: session.jit() }),`,
    )
    .replace("await init();", "wasm = await init();")
    .replace("let session;", "let session, wasm;");
const page = `<!doctype html><link rel="icon" href="data:,"><script type="module">
  import { Machine } from "./machine.js";
  const wait = (ms) => new Promise((done) => setTimeout(done, ms));
  const image = new Uint8Array(await (await fetch("image")).arrayBuffer());
  const machine = new Machine();
  machine.addEventListener("error", ({ detail }) => console.error(detail.text));
  const drive = "file=disk.img,if=floppy,format=raw,readonly=on";
  let last = performance.now(), frames = 0;
  const frame = (now) => { frames = Math.max(frames, now - last); last = now; requestAnimationFrame(frame); };
  requestAnimationFrame(frame);
  await machine.start({ args: ["-M", "pc", "-m", "16", "-net", "none", "-drive", drive], files: [["disk.img", image]] });
  for (let n = 1; n <= ${Number(times)}; n++) {
    const began = performance.now();
    let text = "";
    while (!/[AC]:\\\\?>/.test(text) && performance.now() - began < 60000) {
      await wait(50);
      text = (await machine.ask("text")) ?? "";
    }
    const seconds = ((performance.now() - began) / 1000).toFixed(1);
    if (n % 5 === 1 || n === ${Number(times)}) {
      const { memory, turns, worst, long, jit } = await machine.ask("looked");
      const live = /live: (\\d+)/.exec(jit)?.[1], made = /compiled: (\\d+)/.exec(jit)?.[1];
      console.log(\`boot \${n}: \${seconds} s, prompt \${/[AC]:\\\\?>/.test(text)}, wasm \${(memory / 2 ** 20).toFixed(1)} MiB, \` +
        \`regions \${made}, code in use \${live} bytes, turns \${turns}, worst \${worst.toFixed(0)} ms, over 50 ms: \${long.length} (\${long.slice(-3).join(", ")}), \` +
        \`page's longest gap \${frames.toFixed(0)} ms\`);
    }
    machine.send("reset");
    await wait(300);
  }
  console.log("DONE");
</script>`;

const types = { ".js": "text/javascript", ".wasm": "application/wasm" };
const server = http.createServer((request, response) => {
  const name = decodeURIComponent(new URL(request.url, "http://localhost").pathname).slice(1);
  if (name === "") {
    response.writeHead(200, { "content-type": "text/html" });
    return response.end(page);
  }
  fs.readFile(name === "image" ? image : path.join("www/dist", name), (error, bytes) => {
    if (error) return response.writeHead(404).end();
    response.writeHead(200, { "content-type": types[path.extname(name)] ?? "application/octet-stream" });
    response.end(name === "worker.js" ? worker(bytes.toString()) : bytes);
  });
});
await new Promise((done) => server.listen(0, done));

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"],
});
/** Resident memory of the renderers, in MiB. */
const resident = () => {
  let pages = 0;
  for (const id of fs.readdirSync("/proc").filter((name) => /^\d+$/.test(name))) {
    try {
      if (!fs.readFileSync(`/proc/${id}/cmdline`, "latin1").includes("--type=renderer")) continue;
      pages += Number(fs.readFileSync(`/proc/${id}/statm`, "latin1").split(" ")[1]);
    } catch {
      // It has ended.
    }
  }
  return (pages * 4096) / 2 ** 20;
};
const tab = await browser.newPage();
await new Promise((done) => {
  tab.on("console", (m) => {
    if (m.text() === "DONE") return done();
    console.log(m.type() === "error" ? m.text() : `${m.text()}, renderers ${resident().toFixed(0)} MiB`);
  });
  tab.on("pageerror", (e) => console.error(e.message));
  tab.goto(`http://localhost:${server.address().port}/`);
});
await browser.close();
process.exit(0);
