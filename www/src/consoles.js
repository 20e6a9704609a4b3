// Terminals (xterm.js) for serial lines and the monitor.

import { FitAddon } from "./vendor/addon-fit.js";
import { SearchAddon } from "./vendor/addon-search.js";
import { Terminal } from "./vendor/xterm.js";

const DARK = matchMedia("(prefers-color-scheme: dark)");
const THEMES = {
  light: { background: "#ffffff", foreground: "#1d2330", cursor: "#1d2330", selectionBackground: "#b9d3ff", black: "#1d2330", white: "#5c6370", brightWhite: "#3b4252", yellow: "#8a6100", green: "#1d7a33", cyan: "#0b7285" },
  dark: { background: "#0f131a", foreground: "#d8dee9", cursor: "#d8dee9", selectionBackground: "#35507a" },
};

/** A terminal in `box` for one line of a machine. */
export class Console {
  constructor(box, line, label) {
    this.box = box;
    this.line = line;
    const term = new Terminal({
      cols: 80,
      rows: 24,
      scrollback: 5000,
      fontSize: 13,
      fontFamily: "ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace",
      screenReaderMode: false,
      convertEol: false,
      theme: THEMES[DARK.matches ? "dark" : "light"],
    });
    this.term = term;
    this.fit = new FitAddon();
    this.search = new SearchAddon();
    term.loadAddon(this.fit);
    term.loadAddon(this.search);
    term.open(box);
    term.textarea?.setAttribute("aria-label", label);
    term.onData((text) => this.machine?.serial(line, text));
    DARK.addEventListener("change", () => (term.options.theme = THEMES[DARK.matches ? "dark" : "light"]));
    new ResizeObserver(() => box.clientWidth > 40 && this.fit.fit()).observe(box);
    // Shift+Escape leaves the terminal, which otherwise takes every key.
    term.attachCustomKeyEventHandler((e) => {
      if (e.shiftKey && e.key === "Escape") {
        term.blur();
        return false;
      }
      return !(e.ctrlKey && e.shiftKey && (e.key === "C" || e.key === "V"));
    });
  }

  attach(machine) {
    this.machine = machine;
    this.term.reset();
    const before = machine.serialText.get(this.line);
    if (before) this.term.write(before);
    machine.on("serial", ({ line, bytes }) => this.machine === machine && line === this.line && this.term.write(bytes));
  }

  /** The text that is selected, or all of it. */
  text() {
    if (this.term.hasSelection()) return this.term.getSelection();
    const buffer = this.term.buffer.active;
    const rows = [];
    for (let i = 0; i < buffer.length; i++) rows.push(buffer.getLine(i)?.translateToString(true) ?? "");
    return `${rows.join("\n").trimEnd()}\n`;
  }

  find(text, back = false) {
    const options = { decorations: { matchOverviewRuler: "#c98a00", activeMatchColorOverviewRuler: "#c98a00" } };
    return back ? this.search.findPrevious(text, options) : this.search.findNext(text, options);
  }
}
