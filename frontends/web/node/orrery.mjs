// The wasm build in Node with the native command line: serial on standard input and output.
// `./x node -- ARGS` builds and runs it. Usage: node orrery.mjs PKG_FOLDER ARGS...

import fs from "node:fs";
import path from "node:path";
import process from "node:process";
import { pathToFileURL } from "node:url";
import v8 from "node:v8";

// Generated code says which branches are seldom taken; without that every access to memory keeps nothing in
// registers. These versions know it, but do not look unless told to.
const major = Number(process.versions.node.split(".")[0]);
if (major >= 16 && major < 24) v8.setFlagsFromString("--experimental-wasm-branch-hinting");

const [pkg, ...args] = process.argv.slice(2);
const core = await import(pathToFileURL(path.resolve(pkg, "orrery_web.js")));

/** Host files, synchronous: every operation ends before its call returns. */
const answer = (op, work, then) => {
  let value;
  try {
    value = work();
  } catch (e) {
    core.fail(op, e.message, e.code === "ENOSPC" || e.code === "EDQUOT");
    return;
  }
  then(value);
};
const nothing = new Uint8Array();
globalThis.orreryHost = {
  keepsDisks: () => false,
  open(op, name, write, create) {
    answer(
      op,
      () => {
        const fd = fs.openSync(name, create ? "w+" : write ? "r+" : "r");
        const stat = fs.fstatSync(fd);
        if (stat.isDirectory()) throw new Error(`'${name}' is a folder, not a disk image`);
        return [fd, stat.size];
      },
      ([fd, size]) => core.opened(op, fd, size, !write),
    );
  },
  read(op, fd, offset, len) {
    answer(
      op,
      () => {
        const out = new Uint8Array(len);
        for (let at = 0; at < len; ) {
          const n = fs.readSync(fd, out, at, len - at, offset + at);
          if (n === 0) break;
          at += n;
        }
        return out;
      },
      (bytes) => core.finish(op, bytes),
    );
  },
  write(op, fd, offset, bytes) {
    answer(
      op,
      () => {
        for (let at = 0; at < bytes.length; ) at += fs.writeSync(fd, bytes, at, bytes.length - at, offset + at);
      },
      () => core.finish(op, nothing),
    );
  },
  flush: (op, fd) => answer(op, () => fs.fdatasyncSync(fd), () => core.finish(op, nothing)),
  setLen: (op, fd, len) => answer(op, () => fs.ftruncateSync(fd, len), () => core.finish(op, nothing)),
};

function fatal(e) {
  process.stderr.write(`orrery: ${e?.message ?? e}\n`);
  process.exit(1);
}

// The options that belong to this front end are taken out; the core parses the rest.
let scriptName;
let log = 2;
const rest = [];
for (let i = 0; i < args.length; i++) {
  if (/^--?script$/.test(args[i])) scriptName = args[++i];
  else if (/^--?D$/.test(args[i])) log = fs.openSync(args[++i], "w");
  else rest.push(args[i]);
}

core.initSync({ module: fs.readFileSync(path.join(pkg, "orrery_web_bg.wasm")) });
let session;
try {
  const text = core.Session.print(rest);
  if (text !== undefined) {
    process.stdout.write(text);
    process.exit(0);
  }
  const dirs = ["guests/firmware/", "/usr/share/seabios/", "/usr/share/qemu/"];
  const firmware = dirs.find((d) => fs.existsSync(`${d}bios-256k.bin`)) ?? dirs[0];
  session = await core.Session.create(rest, firmware, Date.now() / 1000);
  if (scriptName) session.load_script(fs.readFileSync(scriptName, "utf8"));
} catch (e) {
  fatal(e);
}
for (const w of session.warnings()) process.stderr.write(`orrery: ${w}\n`);

const lines = session.lines().map((l) => l.split("="));
const outputs = lines.map(([, target]) => {
  if (target.endsWith("stdio")) return 1;
  return target.startsWith("file:") ? fs.openSync(target.slice(5), "w") : undefined;
});
const terminal = lines.findIndex(([, target]) => target.endsWith("stdio"));

async function end(code) {
  if (process.stdin.isTTY) process.stdin.setRawMode(false);
  try {
    await session.close();
  } catch (e) {
    fatal(e);
  }
  process.exit(code);
}

let wake = () => {};
let quit = false;
if (terminal >= 0) {
  if (process.stdin.isTTY) process.stdin.setRawMode(true);
  let escape = false;
  process.stdin.on("data", (bytes) => {
    const out = [];
    for (const b of bytes) {
      if (escape) {
        escape = false;
        if (b === 0x78) quit = true;
        else if (b === 1) out.push(1);
      } else if (b === 1) escape = true;
      else out.push(b);
    }
    if (out.length) session.send_line(terminal, new Uint8Array(out));
    wake();
  });
}

const pause = (ms) =>
  new Promise((resolve) => {
    wake = resolve;
    if (ms <= 0) setImmediate(resolve);
    else setTimeout(resolve, ms);
  });

while (true) {
  let next;
  try {
    next = session.run(performance.now(), 10);
    lines.forEach((_, i) => {
      const bytes = session.take_line(i);
      if (bytes.length && outputs[i] !== undefined) fs.writeSync(outputs[i], bytes);
    });
    const told = session.take_log();
    if (told) fs.writeSync(log, told);
    for (const [kind, a, b] of session.step()) {
      if (kind === "print") process.stdout.write(`${a}\n`);
      else if (kind === "write") fs.writeFileSync(a, b);
      else await end(a);
    }
  } catch (e) {
    fatal(e);
  }
  if (quit || next === -11 || next === -12) await end(0);
  if (next === -13) await end(3);
  if (next <= -100) await end((-100 - next) & 255);
  await pause(next === -1 || next < -2 ? 1 : next === -2 ? 20 : Math.min(next, 20));
}
