// The peer in the browser, in Node: boots a kernel with its serial line on standard output.
// Usage: node v86.mjs MODULES KERNEL INITRD APPEND

import fs from "node:fs";
import path from "node:path";
import { pathToFileURL } from "node:url";

const [modules, kernel, initrd, append] = process.argv.slice(2);
const build = path.resolve(modules, "v86/build");
const { V86 } = await import(pathToFileURL(path.join(build, "libv86.mjs")));

const file = (name) => {
  const bytes = fs.readFileSync(name);
  return { buffer: bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length) };
};
const emulator = new V86({
  wasm_path: path.join(build, "v86.wasm"),
  bios: file("guests/firmware/bios-256k.bin"),
  vga_bios: file("guests/firmware/vgabios-stdvga.bin"),
  memory_size: 512 << 20,
  vga_memory_size: 8 << 20,
  bzimage: file(kernel),
  initrd: file(initrd),
  cmdline: append,
  autostart: true,
  disable_speaker: true,
});
let line = [];
emulator.add_listener("serial0-output-byte", (byte) => {
  line.push(byte);
  if (byte !== 10) return;
  fs.writeSync(1, Buffer.from(line));
  line = [];
});
