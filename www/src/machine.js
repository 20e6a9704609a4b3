// A machine in a worker, for pages: start it, give it input, take pictures and text.

import { scanCodes } from "./keys.js";

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
  }

  emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  receive(data) {
    if (data.type === "reply") {
      const { resolve, reject } = this.replies.get(data.id);
      this.replies.delete(data.id);
      data.error ? reject(new Error(data.error)) : resolve(data.value);
      return;
    }
    if (data.type === "ready") this.running = true;
    if (data.type === "stopped" || data.type === "error") this.running = false;
    if (data.type === "serial") {
      if (!this.decoders.has(data.line)) this.decoders.set(data.line, new TextDecoder());
      const text = this.decoders.get(data.line).decode(data.bytes, { stream: true });
      this.serialText.set(data.line, (this.serialText.get(data.line) ?? "") + text);
      data.text = text;
    }
    this.emit(data.type, data);
  }

  /** Starts with a command line; `files` are [name, Uint8Array] pairs it may name. */
  start(options) {
    this.worker.postMessage({ type: "start", ...options });
    return new Promise((resolve, reject) => {
      this.addEventListener("ready", (e) => resolve(e.detail), { once: true });
      this.addEventListener("error", (e) => reject(new Error(e.detail.text)), { once: true });
    });
  }

  ask(type, data = {}) {
    const id = this.nextId++;
    this.worker.postMessage({ type, id, ...data });
    return new Promise((resolve, reject) => this.replies.set(id, { resolve, reject }));
  }

  send(type, data = {}) {
    this.worker.postMessage({ type, ...data });
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

  serial(line, text) {
    this.send("serial", { line, bytes: new TextEncoder().encode(text) });
  }

  /** Goes on after a pause, or when a disk was full. */
  resume() {
    this.running = true;
    this.send("resume");
  }

  stop() {
    this.worker.terminate();
    this.running = false;
  }
}
