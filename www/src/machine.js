// A machine in a worker, for pages: start it, give it input, take pictures and text.

import { scanCodes } from "./keys.js";

/** What a machine does when it stops, in words. */
const ENDS = {
  "-10": "paused",
  "-11": "powered off",
  "-12": "reset",
  "-13": "the guest panicked",
  "-15": "a disk is full or cannot be read; Resume tries again",
};
export const whyStopped = (reason) => ENDS[reason] ?? `exit status ${-100 - reason}`;

export class Machine extends EventTarget {
  constructor() {
    super();
    this.worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
    this.worker.onmessage = ({ data }) => this.receive(data);
    this.worker.onerror = (e) => this.emit("error", { text: e.message || "the machine's worker could not be started" });
    this.replies = new Map();
    this.nextId = 1;
    this.running = false;
    /** Everything each line has sent, by name. */
    this.serialText = new Map();
    this.decoders = new Map();
    /** The last picture: width, height and four bytes a pixel. */
    this.frame = undefined;
  }

  emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  /** Calls `listener` with what an event says. */
  on(type, listener) {
    this.addEventListener(type, (e) => listener(e.detail));
    return this;
  }

  receive(data) {
    if (data.type === "reply") {
      const { resolve, reject } = this.replies.get(data.id);
      this.replies.delete(data.id);
      data.error ? reject(new Error(data.error)) : resolve(data.value);
      return;
    }
    if (data.type === "ready") {
      this.running = true;
      this.lines = data.lines;
    }
    if (data.type === "running") this.running = true;
    if (data.type === "stopped" || data.type === "error") this.running = false;
    if (data.type === "frame") this.frame = data;
    if (data.type === "serial") {
      if (!this.decoders.has(data.line)) this.decoders.set(data.line, new TextDecoder());
      const text = this.decoders.get(data.line).decode(data.bytes, { stream: true });
      this.serialText.set(data.line, ((this.serialText.get(data.line) ?? "") + text).slice(-400_000));
      data.text = text;
    }
    this.emit(data.type, data);
  }

  /** Starts with a command line; `files` are [name, File or Uint8Array] pairs it may name. */
  start(options) {
    this.args = options.args;
    this.worker.postMessage({ type: "start", ...options });
    return new Promise((resolve, reject) => {
      this.addEventListener("ready", (e) => resolve(e.detail), { once: true });
      this.addEventListener("error", (e) => reject(new Error(e.detail.text)), { once: true });
    });
  }

  /** Asks the machine's thread for something. */
  ask(type, data = {}) {
    const id = this.nextId++;
    this.worker.postMessage({ ...data, type, id });
    return new Promise((resolve, reject) => this.replies.set(id, { resolve, reject }));
  }

  send(type, data = {}) {
    this.worker.postMessage({ type, ...data });
  }

  /** A QMP command; the answer is what QMP returns. Events come as `event`. */
  qmp(command, args) {
    return this.ask("qmp", { command, args });
  }

  /** A line of the monitor for people (HMP); the answer is what it prints. */
  monitor(line) {
    return this.ask("human", { line });
  }

  key(code, down) {
    this.send("key", { code, down });
  }

  /** A keyboard event of the page; true if the guest has that key. */
  keyEvent(event, down) {
    const code = scanCodes.get(event.code);
    if (code === undefined) return false;
    this.key(code, down);
    return true;
  }

  /** Types a text on a US keyboard. `pace` is the time between keys in milliseconds. */
  async type(text, pace = 14) {
    const codes = await this.ask("keysOf", { text });
    const wait = () => new Promise((resolve) => setTimeout(resolve, pace));
    for (const code of codes) {
      const shift = code & 0x10000;
      if (shift) this.key(0x2a, true);
      this.key(code & 0xffff, true);
      await wait();
      this.key(code & 0xffff, false);
      if (shift) this.key(0x2a, false);
      await wait();
    }
    return codes.length;
  }

  serial(line, text) {
    this.send("serial", { line, bytes: typeof text === "string" ? new TextEncoder().encode(text) : text });
  }

  pause() {
    this.send("pause");
  }

  /** Goes on after a pause, or when a disk was full. */
  resume() {
    this.running = true;
    this.send("resume");
  }

  reset() {
    this.send("reset");
  }

  /** The screen as a PNG file. */
  async screenshot() {
    return new Blob([await this.ask("screenshot")], { type: "image/png" });
  }

  /** The characters on a text screen, a line each. */
  text() {
    return this.ask("text");
  }

  /** The whole machine's state, as a file that `orrery -loadvm` opens too. */
  async save() {
    return new Blob([await this.ask("save")]);
  }

  stop() {
    this.worker.terminate();
    this.running = false;
    this.emit("ended", {});
  }
}

/** A thread without a machine for work on disks; it gives all disks back when it is done. */
export async function withTools(work, progress) {
  const tools = new Machine();
  if (progress) tools.on("progress", progress);
  try {
    return await work(tools);
  } finally {
    tools.stop();
  }
}
