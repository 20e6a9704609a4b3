// The screen of a machine and what goes into it: keys, pointer, touch, text. Makes its own elements inside the one it is given.

import { scanCodes } from "./keys.js";

export class Screen {
  /** `canvas` takes focus and keys. */
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d", { alpha: false });
    /** The guest's picture in its own size. */
    this.source = Object.assign(document.createElement("canvas"), { width: canvas.width, height: canvas.height });
    this.frames = 0;
    this.down = new Set();
    this.listen();
    new ResizeObserver(() => this.fit()).observe(canvas.parentElement);
  }

  /** Shows a machine. */
  attach(machine) {
    this.machine = machine;
    this.frames = 0;
    this.firstPixel = undefined;
    machine.on("frame", (frame) => this.machine === machine && this.show(frame));
  }

  show({ width, height, pixels }) {
    const { source } = this;
    if (source.width !== width || source.height !== height) {
      source.width = width;
      source.height = height;
      this.fit();
    }
    source.getContext("2d", { alpha: false }).putImageData(new ImageData(pixels, width, height), 0, 0);
    this.paint();
    this.frames++;
    this.firstPixel ??= performance.now();
  }

  /** Brings the guest's picture onto the page's canvas, which has a whole multiple of its pixels. */
  paint() {
    this.context.imageSmoothingEnabled = false;
    this.context.drawImage(this.source, 0, 0, this.canvas.width, this.canvas.height);
  }

  /** `sharp` fills the room with pixels that stay sharp, `whole` takes whole multiples, `smooth` blurs, `one` shows it as it is. */
  setScale(mode) {
    this.mode = mode;
    this.fit();
  }

  fit() {
    const { canvas, source } = this;
    const box = canvas.parentElement;
    const ratio = devicePixelRatio || 1;
    const full = document.fullscreenElement === box;
    const room = { width: box.clientWidth * ratio, height: (full ? box.clientHeight : Math.max(240, innerHeight * 0.72)) * ratio };
    let scale = Math.min(room.width / source.width, room.height / source.height);
    if (this.mode === "one") scale = 1;
    else if (this.mode === "whole" && scale >= 1) scale = Math.floor(scale);
    // Sharp at any size: enlarged by the next whole factor, then made a little smaller by the browser.
    const factor = this.mode === "smooth" ? 1 : Math.max(1, Math.min(4, Math.ceil(scale)));
    if (canvas.width !== source.width * factor || canvas.height !== source.height * factor) {
      canvas.width = source.width * factor;
      canvas.height = source.height * factor;
    }
    canvas.style.width = `${(source.width * scale) / ratio}px`;
    canvas.style.height = `${(source.height * scale) / ratio}px`;
    canvas.style.imageRendering = this.mode === "whole" || this.mode === "one" ? "pixelated" : "auto";
    this.paint();
  }

  key(code, down) {
    if (down) this.down.add(code);
    else this.down.delete(code);
    this.machine?.key(code, down);
  }

  release() {
    // Keys that were down when the focus went would stay down in the guest.
    for (const code of this.down) this.machine?.key(code, false);
    this.down.clear();
  }

  listen() {
    const { canvas } = this;
    for (const [type, down] of [["keydown", true], ["keyup", false]]) {
      canvas.addEventListener(type, (e) => {
        // Ctrl+Alt lets the pointer go; Shift+Escape leaves the screen for the page.
        if (down && e.ctrlKey && e.altKey && document.pointerLockElement) document.exitPointerLock();
        if (down && e.shiftKey && e.key === "Escape") return canvas.blur();
        const code = scanCodes.get(e.code);
        if (code === undefined) return undefined;
        this.key(code, down);
        e.preventDefault();
        return undefined;
      });
    }
    canvas.addEventListener("blur", () => this.release());
    canvas.addEventListener("click", (e) => {
      if (e.pointerType !== "touch" && this.capture) canvas.requestPointerLock?.()?.catch?.(() => {});
      canvas.focus();
    });
    const locked = () => document.pointerLockElement === canvas;
    canvas.addEventListener("mousemove", (e) => {
      if (locked()) this.machine?.send("motion", { dx: e.movementX, dy: e.movementY });
      else if (this.tablet) {
        const box = canvas.getBoundingClientRect();
        const place = (at, from, size) => Math.max(0, Math.min(32767, Math.round(((at - from) / size) * 32767)));
        this.machine?.send("position", { x: place(e.clientX, box.left, box.width), y: place(e.clientY, box.top, box.height) });
      }
    });
    for (const [type, down] of [["mousedown", true], ["mouseup", false]]) {
      canvas.addEventListener(type, (e) => {
        if (locked() || this.tablet) this.machine?.send("button", { index: e.button, down });
      });
    }
    canvas.addEventListener("contextmenu", (e) => e.preventDefault());
    canvas.addEventListener("wheel", (e) => {
      if (!locked() && !this.tablet) return;
      this.machine?.send("wheel", { dz: -Math.sign(e.deltaY) });
      e.preventDefault();
    }, { passive: false });
    canvas.addEventListener("paste", (e) => {
      this.machine?.type(e.clipboardData.getData("text"));
      e.preventDefault();
    });
    this.listenTouch();
  }

  /** A finger moves the pointer as a touch pad does; a tap is a click, a tap with two fingers a right click, two that move the wheel. */
  listenTouch() {
    const { canvas } = this;
    const fingers = new Map();
    let moved = 0;
    let most = 0;
    let held;
    const button = (index, down) => this.machine?.send("button", { index, down });
    canvas.style.touchAction = "none";
    canvas.addEventListener("pointerdown", (e) => {
      if (e.pointerType !== "touch") return;
      canvas.setPointerCapture(e.pointerId);
      fingers.set(e.pointerId, { x: e.clientX, y: e.clientY });
      most = Math.max(most, fingers.size);
      if (fingers.size === 1) {
        moved = 0;
        most = 1;
        // Held still, a finger drags.
        held = setTimeout(() => {
          if (moved < 8 && fingers.size === 1) {
            held = "down";
            button(0, true);
            navigator.vibrate?.(15);
          }
        }, 450);
      }
      canvas.focus({ preventScroll: true });
      e.preventDefault();
    });
    canvas.addEventListener("pointermove", (e) => {
      const finger = fingers.get(e.pointerId);
      if (!finger) return;
      const [dx, dy] = [e.clientX - finger.x, e.clientY - finger.y];
      Object.assign(finger, { x: e.clientX, y: e.clientY });
      moved += Math.abs(dx) + Math.abs(dy);
      if (fingers.size === 1) this.machine?.send("motion", { dx: Math.round(dx * 1.5), dy: Math.round(dy * 1.5) });
      else if (Math.abs(dy) > 3) this.machine?.send("wheel", { dz: Math.sign(dy) });
    });
    const up = (e) => {
      if (!fingers.delete(e.pointerId) || fingers.size) return;
      if (held === "down") button(0, false);
      else {
        clearTimeout(held);
        if (moved < 8) {
          button(most > 1 ? 2 : 0, true);
          setTimeout(() => button(most > 1 ? 2 : 0, false), 60);
        }
      }
      held = undefined;
    };
    canvas.addEventListener("pointerup", up);
    canvas.addEventListener("pointercancel", up);
  }

  async fullScreen() {
    const box = this.canvas.parentElement;
    if (document.fullscreenElement) return document.exitFullscreen();
    await box.requestFullscreen({ navigationUI: "hide" });
    // Escape and the like go to the guest where the browser lets them.
    await navigator.keyboard?.lock?.().catch(() => {});
    this.canvas.focus();
    return undefined;
  }

  /** Records the picture, and sound where there is some; `stop` of what comes back gives the film. */
  record(sound) {
    const stream = this.canvas.captureStream(30);
    let tap;
    if (sound?.gain) {
      tap = sound.context.createMediaStreamDestination();
      sound.gain.connect(tap);
      for (const track of tap.stream.getAudioTracks()) stream.addTrack(track);
    }
    const type = ["video/webm;codecs=vp9,opus", "video/webm", "video/mp4"].find((t) => MediaRecorder.isTypeSupported(t));
    const recorder = new MediaRecorder(stream, { mimeType: type, videoBitsPerSecond: 4_000_000 });
    const parts = [];
    recorder.ondataavailable = ({ data }) => data.size && parts.push(data);
    recorder.start(500);
    // A still picture would make no film.
    const poke = setInterval(() => this.machine?.frame && this.show(this.machine.frame), 200);
    return {
      stop: () =>
        new Promise((resolve) => {
          clearInterval(poke);
          recorder.onstop = () => {
            if (tap) sound.gain.disconnect(tap);
            for (const track of stream.getTracks()) track.stop();
            resolve(new Blob(parts, { type: recorder.mimeType }));
          };
          recorder.stop();
        }),
    };
  }
}

// The on-screen keyboard, row by row: label, code (KeyboardEvent.code), label with shift, width in keys.
const ROWS = [
  "Esc=Escape F1 F2 F3 F4 F5 F6 F7 F8 F9 F10 F11 F12 Del=Delete",
  "`=Backquote 1=Digit1 2=Digit2 3=Digit3 4=Digit4 5=Digit5 6=Digit6 7=Digit7 8=Digit8 9=Digit9 0=Digit0 -=Minus ==Equal ⌫=Backspace",
  "Tab q w e r t y u i o p [=BracketLeft ]=BracketRight \\=Backslash",
  "Caps=CapsLock a s d f g h j k l ;=Semicolon '=Quote Enter",
  "Shift=ShiftLeft z x c v b n m ,=Comma .=Period /=Slash ↑=ArrowUp Shift=ShiftRight",
  "Ctrl=ControlLeft Win=MetaLeft Alt=AltLeft space=Space AltGr=AltRight ←=ArrowLeft ↓=ArrowDown →=ArrowRight",
];
const WIDE = { Space: 5, Enter: 2, Backspace: 1.5, Tab: 1.5, ShiftLeft: 2, ShiftRight: 1.5, CapsLock: 1.75 };
const STICKY = /^(Shift|Control|Alt|Meta)/;
const NAMES = { Escape: "Escape", Backspace: "Backspace", ArrowUp: "Up", ArrowDown: "Down", ArrowLeft: "Left", ArrowRight: "Right", Space: "Space", Delete: "Delete" };

/** Fills `box` with keys for `screen`. Shift, Ctrl and Alt stay down for the next key. */
export function onScreenKeyboard(box, screen) {
  const stuck = new Map();
  const letGo = () => {
    for (const [code, key] of stuck) {
      screen.key(code, false);
      key.setAttribute("aria-pressed", "false");
    }
    stuck.clear();
  };
  for (const row of ROWS) {
    const line = document.createElement("div");
    line.className = "keys";
    for (const word of row.split(" ")) {
      const at = word.indexOf("=", 1);
      const label = at > 0 ? word.slice(0, at) : word;
      const name = at > 0 ? word.slice(at + 1) : /^[a-z]$/.test(word) ? `Key${word.toUpperCase()}` : word;
      const code = scanCodes.get(name);
      const key = document.createElement("button");
      key.type = "button";
      key.tabIndex = -1;
      key.textContent = label;
      key.setAttribute("aria-label", NAMES[name] ?? label);
      key.style.flexGrow = WIDE[name] ?? 1;
      if (STICKY.test(name)) key.setAttribute("aria-pressed", "false");
      key.addEventListener("pointerdown", (e) => {
        e.preventDefault();
        if (STICKY.test(name)) {
          const on = !stuck.has(code);
          screen.key(code, on);
          key.setAttribute("aria-pressed", on);
          if (on) stuck.set(code, key);
          else stuck.delete(code);
          return;
        }
        screen.key(code, true);
        key.classList.add("down");
      });
      const up = () => {
        if (!key.classList.contains("down")) return;
        key.classList.remove("down");
        screen.key(code, false);
        letGo();
      };
      for (const type of ["pointerup", "pointerleave", "pointercancel"]) key.addEventListener(type, up);
      line.append(key);
    }
    box.append(line);
  }
}
