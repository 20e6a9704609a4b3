// The page: pick a machine, see it, type into it.

import { Machine } from "./machine.js";

const $ = (id) => document.getElementById(id);
const canvas = $("screen");
const context = canvas.getContext("2d", { alpha: false });
let machine;

function say(text, bad = false) {
  const status = $("status");
  status.textContent = text;
  status.classList.toggle("bad", bad);
}

/** Splits a command line; double quotes hold spaces together. */
function words(text) {
  return [...text.matchAll(/"([^"]*)"|(\S+)/g)].map((m) => m[1] ?? m[2]);
}

async function start(args, files = []) {
  machine?.stop();
  machine = new Machine();
  globalThis.orrery = machine;
  $("serial").textContent = "";
  machine.addEventListener("frame", ({ detail: { width, height, pixels } }) => {
    if (canvas.width !== width || canvas.height !== height) {
      canvas.width = width;
      canvas.height = height;
    }
    context.putImageData(new ImageData(pixels, width, height), 0, 0);
  });
  machine.addEventListener("serial", ({ detail }) => {
    if (detail.line === "serial0") appendSerial(detail.text);
  });
  machine.addEventListener("stopped", ({ detail }) => {
    const why = { "-10": "paused", "-11": "powered off", "-12": "reset", "-13": "the guest panicked", "-15": "a disk is full or cannot be read; Resume tries again" };
    say(`Stopped: ${why[detail.reason] ?? `exit status ${-100 - detail.reason}`}.`);
    $("resume").hidden = detail.reason !== -10 && detail.reason !== -15;
  });
  machine.addEventListener("error", ({ detail }) => say(detail.text, true));
  $("resume").hidden = true;
  say("Starting…");
  try {
    const { warnings } = await machine.start({ args, files });
    say(warnings.length ? warnings.join(" ") : "Running. Click the screen to type; Ctrl+Alt frees the pointer.");
    canvas.focus();
  } catch {
    // Said by the listener above.
  }
}

// The serial console shows plain text; escape sequences of terminals are left out.
function appendSerial(text) {
  const plain = text.replace(/\x1b\[[0-9;?]*[A-Za-z]|\x1b[()][A-Z0-9]|\r/g, "");
  const out = $("serial");
  const end = out.scrollHeight - out.scrollTop - out.clientHeight < 40;
  out.append(plain);
  if (out.textContent.length > 400_000) out.textContent = out.textContent.slice(-200_000);
  if (end) out.scrollTop = out.scrollHeight;
}

$("serial").addEventListener("keydown", (e) => {
  if (!machine || e.metaKey || e.altKey) return;
  const special = { Enter: "\r", Backspace: "\x7f", Tab: "\t", Escape: "\x1b", ArrowUp: "\x1b[A", ArrowDown: "\x1b[B", ArrowRight: "\x1b[C", ArrowLeft: "\x1b[D" };
  let text = special[e.key] ?? (e.key.length === 1 ? e.key : undefined);
  if (e.ctrlKey && e.key.length === 1) text = String.fromCharCode(e.key.toUpperCase().charCodeAt(0) & 31);
  if (text === undefined) return;
  e.preventDefault();
  machine.serial("serial0", text);
});

for (const [type, down] of [["keydown", true], ["keyup", false]]) {
  canvas.addEventListener(type, (e) => {
    if (machine?.keyEvent(e, down)) e.preventDefault();
  });
}
canvas.addEventListener("blur", () => {
  // Keys that were down when the focus went would stay down in the guest.
  for (const code of [0x1d, 0x2a, 0x36, 0x38, 0xe01d, 0xe038]) machine?.key(code, false);
});
canvas.addEventListener("click", () => canvas.requestPointerLock?.());
canvas.addEventListener("mousemove", (e) => {
  if (document.pointerLockElement === canvas) machine?.send("motion", { dx: e.movementX, dy: e.movementY });
});
for (const [type, down] of [["mousedown", true], ["mouseup", false]]) {
  canvas.addEventListener(type, (e) => {
    if (document.pointerLockElement === canvas) machine?.send("button", { index: e.button, down });
  });
}
canvas.addEventListener("wheel", (e) => {
  if (document.pointerLockElement !== canvas) return;
  machine?.send("wheel", { dz: -Math.sign(e.deltaY) });
  e.preventDefault();
});

/** Which option a dropped file goes to. */
function optionFor(name, size) {
  if (/\.iso$/i.test(name)) return ["-cdrom", name];
  if (size <= 2_949_120) return ["-fda", name];
  return ["-hda", name];
}

async function open(file) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  if ($("keep").checked) {
    const store = new Machine();
    say(`Copying ${file.name} into this browser…`);
    try {
      await store.ask("importDisk", { name: file.name, bytes });
    } catch (e) {
      say(e.message, true);
      return;
    } finally {
      store.stop();
    }
    const [option] = optionFor(file.name, file.size);
    $("args").value = `-m 64 ${option} "idb:${file.name}"`;
    start(words($("args").value));
  } else {
    $("args").value = `-m 64 ${optionFor(file.name, file.size).map((w) => (w.startsWith("-") ? w : `"${w}"`)).join(" ")}`;
    start(words($("args").value), [[file.name, bytes]]);
  }
}

$("file").addEventListener("change", (e) => e.target.files[0] && open(e.target.files[0]));
document.body.addEventListener("dragover", (e) => e.preventDefault());
document.body.addEventListener("drop", (e) => {
  e.preventDefault();
  if (e.dataTransfer.files[0]) open(e.dataTransfer.files[0]);
});
$("form").addEventListener("submit", (e) => {
  e.preventDefault();
  start(words($("args").value));
});
$("resume").addEventListener("click", () => {
  machine?.resume();
  $("resume").hidden = true;
  say("Running.");
  canvas.focus();
});
$("reset").addEventListener("click", () => machine?.send("reset"));
$("picture").addEventListener("click", async () => {
  const bytes = await machine.ask("screenshot");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([bytes], { type: "image/png" }));
  link.download = "orrery.png";
  link.click();
});

// Without anything to start: the diagnostic ROM, by the Start button.
// A link may carry a command line: ?args=-m+64+-fda+disk.img
const given = new URLSearchParams(location.search).get("args");
if (given !== null) {
  $("args").value = given;
  start(words(given));
}
