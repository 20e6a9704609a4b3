// <orrery-machine args="-m 64 -fda disk.img" [autostart] [controls] [volume="0.5"]>: a machine in any page.
// Also `src="disk.img"` for an image alone. Its `machine` is the object of machine.js.

import { Machine } from "./machine.js";
import { Screen } from "./screen.js";
import { Sound } from "./sound.js";

const STYLE = `
:host { display: inline-block; min-width: 16rem; background: #000; color: #fff; position: relative; }
div { display: flex; justify-content: center; align-items: center; width: 100%; min-height: 10rem; }
canvas { display: block; outline-offset: -3px; }
button { position: absolute; inset: 0; margin: auto; width: 7rem; height: 3rem; font: inherit; border: 0; border-radius: .5rem; cursor: pointer; }
p { position: absolute; left: 0; right: 0; bottom: 0; margin: 0; padding: .4rem; font: .85rem system-ui; background: rgb(0 0 0 / 70%); }
[hidden] { display: none; }`;

/** Splits a command line; double quotes hold spaces together. */
const words = (text) => [...text.matchAll(/"([^"]*)"|(\S+)/g)].map((m) => m[1] ?? m[2]);

export class OrreryMachine extends HTMLElement {
  connectedCallback() {
    if (this.shadowRoot) return;
    const root = this.attachShadow({ mode: "open" });
    root.innerHTML = `<style>${STYLE}</style><div><canvas width="720" height="400" tabindex="0" role="img" aria-label="Screen of a machine"></canvas></div><button type="button">Start</button><p role="status" hidden></p>`;
    this.screen = new Screen(root.querySelector("canvas"));
    this.screen.capture = true;
    this.button = root.querySelector("button");
    this.note = root.querySelector("p");
    this.button.addEventListener("click", () => this.start().catch(() => {}));
    if (this.hasAttribute("autostart")) this.start().catch(() => {});
  }

  disconnectedCallback() {
    this.stop();
  }

  say(text) {
    this.note.textContent = text;
    this.note.hidden = !text;
  }

  /** Starts the machine of the attributes, or of `options` as `Machine.start` takes them. */
  async start(options = {}) {
    this.stop();
    this.button.hidden = true;
    const machine = new Machine();
    this.machine = machine;
    const src = this.getAttribute("src");
    const args = options.args ?? [...words(this.getAttribute("args") ?? ""), ...(src ? [/\.iso$/i.test(src) ? "-cdrom" : /\.(img|flp|ima)$/i.test(src) ? "-fda" : "-hda", src] : [])];
    for (const type of ["ready", "frame", "serial", "stopped", "running", "event", "error", "progress"]) {
      machine.on(type, (detail) => this.dispatchEvent(new CustomEvent(type, { detail })));
    }
    machine.on("error", ({ text }) => {
      this.say(text);
      this.button.hidden = false;
    });
    machine.on("progress", ({ what, done, total }) => this.say(`${what}: ${Math.round(total ? (done / total) * 100 : 0)} %`));
    this.screen.attach(machine);
    // Names are relative to the page that has the element; firmware is beside the program.
    await machine.start({ base: document.baseURI, firmware: new URL("./firmware/", import.meta.url).href, ...options, args });
    this.say("");
    this.sound = new Sound(machine);
    if (this.hasAttribute("volume")) this.sound.volume = Number(this.getAttribute("volume"));
    return machine;
  }

  stop() {
    this.sound?.stop();
    this.machine?.stop();
    this.machine = undefined;
  }
}

if (!customElements.get("orrery-machine")) customElements.define("orrery-machine", OrreryMachine);
