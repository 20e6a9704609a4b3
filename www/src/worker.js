// The machine's thread. Messages in: `start`, input, and requests by number; messages out: ready, frame, serial, monitor,
// pointer, stopped, running, progress, error, event, reply. `machine.js` is the other end.

import init, * as core from "./pkg/orrery_web.js";
import { connect, takeNetworks } from "./network.js";
import { changes, made, makeHost, openUrl } from "./sources.js";
import * as storage from "./storage.js";

let session;
let lines = [];
let monitor;
let qmp;
let timer;
let waiting = false;
let stopped = false;
let script = false;
let drawn = 0;
let networks = [];
let sound;
let description = {};
/** Milliseconds of guest time a slice aims at: short enough that keys and pictures stay fresh. */
const SLICE = 6;
const FRAME = 16;
/** A machine that stands still is looked at so often, for its monitor's sake. */
const STILL = 40;

const post = (type, data = {}, transfer = []) => self.postMessage({ type, ...data }, transfer);
const words = (e) => String(e?.message ?? e);
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
    if (sound) for (let part; (part = session.sound(sound.rate)).length; ) sound.port.postMessage(part, [part.buffer]);
    for (const n of networks) for (const frame of session.take_frames(n.cable)) n.send(frame);
    const now = performance.now();
    if (now - drawn >= FRAME) {
      drawn = now;
      draw();
    }
  } catch (e) {
    post("error", { text: words(e) });
    session = undefined;
    return;
  }
  if (next <= -10) {
    if (!stopped) {
      stopped = true;
      draw();
      post("stopped", { reason: next });
      session.flush_disks().catch((e) => post("error", { text: words(e) }));
    }
    schedule(STILL);
    return;
  }
  if (stopped) {
    stopped = false;
    post("running");
  }
  if (next === -1) schedule(1);
  else if (next === -2) schedule(FRAME);
  else schedule(next === 0 ? 0 : Math.min(next, FRAME));
}

/** Whether the machine wants the pointer's place, as it was last told. */
let absolute = false;

/** After input: do not wait for the timer. */
function wake() {
  if (waiting) schedule(0);
}

function draw() {
  const now = session.absolute_pointer();
  if (now !== absolute) post("pointer", { absolute: (absolute = now) });
  if (!session.render()) return;
  const pixels = session.pixels();
  post("frame", { width: session.width(), height: session.height(), pixels }, [pixels.buffer]);
}

function flushLines() {
  lines.forEach((name, i) => {
    const bytes = session.take_line(i);
    if (bytes.length) post("serial", { line: name, bytes }, [bytes.buffer]);
  });
  if (monitor) {
    const bytes = session.take_monitor(monitor);
    if (bytes.length) post("serial", { line: "monitor", bytes }, [bytes.buffer]);
  }
  qmp?.take();
}

/** QMP as calls: `{execute}` with a number goes in, what comes back is found by it. */
class Qmp {
  constructor() {
    this.client = session.open_monitor(true);
    this.text = "";
    this.decoder = new TextDecoder();
    this.calls = new Map();
    this.next = 1;
    this.send({ execute: "qmp_capabilities" });
  }
  send(message) {
    session.feed_monitor(this.client, new TextEncoder().encode(`${JSON.stringify(message)}\n`));
    wake();
  }
  call(execute, args) {
    const id = this.next++;
    this.send({ execute, id, ...(args ? { arguments: args } : {}) });
    return new Promise((resolve, reject) => this.calls.set(id, { resolve, reject }));
  }
  take() {
    const bytes = session.take_monitor(this.client);
    if (!bytes.length) return;
    const parts = (this.text + this.decoder.decode(bytes, { stream: true })).split("\n");
    this.text = parts.pop();
    for (const line of parts) {
      if (!line.trim()) continue;
      const message = JSON.parse(line);
      if (message.event) post("event", { event: message });
      const call = this.calls.get(message.id);
      if (!call) continue;
      this.calls.delete(message.id);
      if (message.error) call.reject(new Error(message.error.desc));
      else call.resolve(message.return);
    }
  }
}

/** Gives addresses on the web names without a colon, which would be a protocol's to the core. */
const nameAddresses = (word, addresses) =>
  word.replace(/https?:\/\/[^\s,"]+/g, (url) => {
    const name = `web/${url.replace(/^https?:\/\//, "").replace(/:/g, "_")}`;
    addresses.set(name, url);
    return name;
  });

/** Kept disks that a command line names. */
const keptIn = (args) => [...new Set(args.flatMap((a) => [...a.matchAll(/idb:([^,]+)/g)].map((m) => m[1])))];

async function generations(args) {
  const out = {};
  for (const name of keptIn(args)) out[name] = (await storage.getRecord("disks", name))?.gen ?? 0;
  return out;
}

async function start({ args, base, files, firmware, snapshot, changes: earlier, scriptText }) {
  const times = { asked: performance.now() };
  await init();
  times.loaded = performance.now();
  const progress = (name, done, total) => post("progress", { what: `Fetching ${name}`, done, total });
  const { rest, wanted } = takeNetworks(args);
  const addresses = new Map();
  const named = rest.map((word, i) => (rest[i - 1] === "-append" ? word : nameAddresses(word, addresses)));
  globalThis.orreryHost = makeHost(core, new Map(files ?? []), { progress, earlier: new Map(earlier ?? []), addresses, base });
  description = { args, base, files: files ?? [] };
  session = await core.Session.create(named, firmware ?? "firmware/", Date.now() / 1000);
  times.built = performance.now();
  lines = session.lines().map((l) => l.split("=")[0]);
  if (snapshot) session.restore(new Uint8Array(snapshot instanceof Blob ? await snapshot.arrayBuffer() : snapshot));
  if (scriptText) {
    session.load_script(scriptText);
    script = true;
  }
  monitor = session.open_monitor(false);
  qmp = new Qmp();
  const cables = session.cables();
  networks = wanted.map((network) => {
    const cable = cables.indexOf(network.id);
    if (cable < 0) throw new Error(`-netdev ${network.kind}: no network card names '${network.id}'`);
    const receive = (frame) => {
      session?.push_frame(cable, frame);
      wake();
    };
    const tell = (text, bad) => post("network", { id: network.id, text, bad });
    return Object.assign(connect(network, receive, tell), { cable });
  });
  times.ready = performance.now();
  post("ready", { lines, warnings: session.warnings(), times });
  schedule(0);
}

/** Stands still with everything on its disks; says whether it ran before. */
async function hold() {
  const ran = !stopped;
  if (ran) {
    session.pause();
    while (!stopped) await new Promise((resolve) => setTimeout(resolve, 2));
  }
  try {
    await session.flush_disks();
  } catch (e) {
    goOn(ran);
    throw e;
  }
  return ran;
}

async function takeState() {
  const ran = await hold();
  const state = session.save();
  const record = {
    state: new Blob([state]),
    size: state.length,
    picture: new Blob([session.screenshot()], { type: "image/png" }),
    time: Date.now(),
    elapsed: session.elapsed(),
    changes: changes(),
    disks: await generations(description.args),
    args: description.args,
    base: description.base,
    files: description.files.map(([name, file]) => [name, file instanceof Blob ? file : new Blob([file])]),
  };
  return { record, ran };
}

const goOn = (ran) => ran && (session.resume(), schedule(0));

const requests = {
  save: () => session.save(),
  screenshot: () => session.screenshot(),
  text: () => session.text(),
  hash: () => session.hash(),
  icount: () => session.icount(),
  elapsed: () => session.elapsed(),
  jit: () => session.jit(),
  human: ({ line }) => session.human(line),
  complete: ({ line }) => session.complete(line),
  qmp: ({ command, args }) => qmp.call(command, args),
  flush: async () => goOn(await hold()),
  keysOf: async ({ text }) => (await init(), core.Session.keys_of(text)),

  /** Puts the machine's state where it is found again under `key`. */
  async suspend({ key, title, stay }) {
    const began = performance.now();
    const { record, ran } = await takeState();
    try {
      await storage.putRecord("states", key, { ...record, title });
    } finally {
      if (!stay) goOn(ran);
    }
    return { ms: performance.now() - began, size: record.size };
  },
  /** A snapshot with a name: the state and what its disks hold. */
  async snapshot({ key, machine, title, name, parent }) {
    const { record, ran } = await takeState();
    try {
      for (const disk of Object.keys(record.disks)) await storage.copyChunks("chunks", disk, "snapshots", `${key}/${disk}`);
      const infos = Object.fromEntries(
        await Promise.all(Object.keys(record.disks).map(async (disk) => [disk, await storage.getRecord("disks", disk)])),
      );
      await storage.putRecord("states", `snapshot:${key}`, { ...record, title, name, machine, parent, infos });
    } finally {
      goOn(ran);
    }
    return { size: record.size };
  },
  /** Puts the disks of a snapshot back, in a thread without a machine. */
  async restoreDisks({ key }) {
    const record = await storage.getRecord("states", `snapshot:${key}`);
    for (const [disk, info] of Object.entries(record.infos ?? {})) {
      await storage.lockDisk(disk, true);
      await storage.copyChunks("snapshots", `${key}/${disk}`, "chunks", disk);
      const now = await storage.getRecord("disks", disk);
      const gen = (now?.gen ?? info.gen ?? 0) + 1;
      await storage.putRecord("disks", disk, { ...info, gen });
      record.disks[disk] = gen;
    }
    return record;
  },

  listDisks: storage.listDisks,
  generations: ({ args }) => generations(args),
  importDisk: ({ name, bytes }) => storage.importDisk(name, bytes, (done, total) => post("progress", { what: `Copying ${name}`, done, total })),
  exportDisk: ({ name }) => storage.exportDisk(name, (done, total) => post("progress", { what: `Reading ${name}`, done, total }), openUrl),
  removeDisk: ({ name }) => storage.removeDisk(name),
  renameDisk: ({ from, to }) => storage.renameDisk(from, to),
  async overlayDisk({ name, url }) {
    const base = await openUrl(url);
    await storage.KeptFile.overlay(name, new URL(url, self.location.href).href, base.len);
    return base.len;
  },

  /** A tool of the core over the files of the page: `info`, `create`, `convert`, `check`, `snapshot`. */
  async image({ tool, args, files }) {
    await init();
    globalThis.orreryHost = makeHost(core, new Map(files ?? []));
    const now = Date.now() / 1000;
    if (tool === "formats") return core.image_formats();
    if (tool === "info") return JSON.parse(await core.image_info(...args));
    if (tool === "check") return JSON.parse(await core.image_check(...args));
    if (tool === "create") return core.image_create(...args, now);
    if (tool === "snapshot") return core.image_snapshot(...args, now);
    if (tool === "convert") {
      const [from, to, format] = args;
      const tell = (done, total) => post("progress", { what: `Converting to ${format}`, done, total });
      await core.image_convert(from, to, format, now, tell);
      if (!to.startsWith("mem:")) return undefined;
      const file = made.get(to);
      made.delete(to);
      return new Blob([file.bytes.subarray(0, file.len)]);
    }
    throw new Error(`there is no tool '${tool}'`);
  },
};

const input = {
  key: ({ code, down }) => session.key(code, down),
  motion: ({ dx, dy }) => session.motion(dx, dy),
  position: ({ x, y }) => session.position(x, y),
  button: ({ index, down }) => session.button(index, down),
  wheel: ({ dz }) => session.wheel(dz),
  serial({ line, bytes }) {
    if (line === "monitor") session.feed_monitor(monitor, bytes);
    else session.send_line(lines.indexOf(line), bytes);
  },
  pause: () => session.pause(),
  resume: () => (session.resume(), schedule(0)),
  reset: () => session.reset(),
  sound({ port, rate }) {
    sound = port ? { port, rate } : undefined;
  },
};

self.onmessage = async ({ data }) => {
  try {
    if (data.type === "start") await start(data);
    else if (data.type in requests) {
      if (!session && !/Disk|image|generations|keysOf/.test(data.type)) throw new Error("no machine is running");
      const value = await requests[data.type](data);
      post("reply", { id: data.id, value });
    } else if (session && data.type in input) {
      input[data.type](data);
      wake();
    }
  } catch (e) {
    if (data.id) post("reply", { id: data.id, error: words(e) });
    else post("error", { text: words(e) });
  }
};
