// The machine's thread. Messages in: start, key, motion, button, wheel, serial, pause, resume,
// reset, save, screenshot, text. Messages out: ready, frame, serial, stopped, error, reply.

import init, * as core from "./pkg/orrery_web.js";
import { exportDisk, importDisk, listDisks, makeHost } from "./storage.js";

let session;
let lines = [];
let timer;
let waiting = false;
/** Milliseconds of guest time a slice aims at: short enough that keys and pictures stay fresh. */
const SLICE = 6;
const FRAME = 16;
let drawn = 0;
let script = false;

const post = (type, data = {}, transfer = []) => self.postMessage({ type, ...data }, transfer);
// A task without the timers' least delay of four milliseconds.
const channel = new MessageChannel();
channel.port1.onmessage = () => turn();
const soon = () => channel.port2.postMessage(0);

function schedule(ms) {
  clearTimeout(timer);
  waiting = ms !== 0;
  if (ms === 0) soon();
  else timer = setTimeout(turn, ms);
}

function turn() {
  if (!session) return;
  waiting = false;
  let next;
  try {
    next = session.run(performance.now(), SLICE);
    flushLines();
    if (script) for (const [kind, a, b] of session.step()) post("script", { kind, a, b });
    const now = performance.now();
    if (now - drawn >= FRAME) {
      drawn = now;
      draw();
    }
  } catch (e) {
    post("error", { text: String(e?.message ?? e) });
    session = undefined;
    return;
  }
  if (next <= -10) {
    draw();
    post("stopped", { reason: next });
    return;
  }
  if (next === -1) schedule(1);
  else if (next === -2) schedule(FRAME);
  else schedule(next === 0 ? 0 : Math.min(next, FRAME));
}

/** After input: do not wait for the timer. */
function wake() {
  if (waiting) schedule(0);
}

function draw() {
  if (!session.render()) return;
  const pixels = session.pixels();
  post("frame", { width: session.width(), height: session.height(), pixels }, [pixels.buffer]);
}

function flushLines() {
  lines.forEach((name, i) => {
    const bytes = session.take_line(i);
    if (bytes.length) post("serial", { line: name, bytes }, [bytes.buffer]);
  });
}

async function start({ args, files, firmware, snapshot, scriptText }) {
  await init();
  globalThis.orreryHost = makeHost(core, new Map(files ?? []));
  session = await core.Session.create(args, firmware ?? "firmware/", Date.now() / 1000);
  lines = session.lines().map((l) => l.split("=")[0]);
  if (snapshot) session.restore(snapshot);
  if (scriptText) {
    session.load_script(scriptText);
    script = true;
  }
  post("ready", { lines, warnings: session.warnings() });
  schedule(0);
}

const requests = {
  save: () => session.save(),
  screenshot: () => session.screenshot(),
  text: () => session.text(),
  hash: () => session.hash(),
  icount: () => session.icount(),
  listDisks,
  importDisk: ({ name, bytes }) => importDisk(name, bytes),
  exportDisk: ({ name }) => exportDisk(name),
};

self.onmessage = async ({ data }) => {
  try {
    if (data.type === "start") await start(data);
    else if (data.type in requests) {
      const value = await requests[data.type](data);
      post("reply", { id: data.id, value });
    } else if (session) {
      if (data.type === "key") session.key(data.code, data.down);
      else if (data.type === "motion") session.motion(data.dx, data.dy);
      else if (data.type === "button") session.button(data.index, data.down);
      else if (data.type === "wheel") session.wheel(data.dz);
      else if (data.type === "serial") session.send_line(lines.indexOf(data.line), data.bytes);
      else if (data.type === "pause") session.pause();
      else if (data.type === "resume") (session.resume(), schedule(0));
      else if (data.type === "reset") session.reset();
      wake();
    }
  } catch (e) {
    if (data.id) post("reply", { id: data.id, error: String(e?.message ?? e) });
    else post("error", { text: String(e?.message ?? e) });
  }
};
