// The board: the machine's devices as they are wired and its block nodes, with what happens in them, from the monitor.

import { element, bytes } from "./words.js";

const NODE = { width: 158, height: 40, gap: 16, row: 74 };
const svg = (tag, attributes, ...children) => {
  const e = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) e.setAttribute(name, value);
  e.append(...children);
  return e;
};

/** Where a device is drawn, by its type; the first that fits. */
const GROUPS = [
  ["processors", /cpu$|^apic$/],
  ["drives", /ide|fdc|floppy|ahci|virtio-blk|scsi|nvme|sdhci/, "disk"],
  ["network", /^net|e1000|ne2k|rtl8139|virtio-net/, "net"],
  ["screen, keys, sound", /VGA|vga|i8042|tablet|mouse|kbd|pcspk|audio|hda|sb16/, "display"],
  ["lines", /serial|parallel|console|port[0-9a-f]+|debugcon/],
  ["time and interrupts", /pic$|pit$|rtc|hpet|i8257|apic|watchdog|ib700|i6300/],
  ["chipset", /./],
];

/** The machine's devices: `{name, type, path}`, as QOM has them. */
async function devicesOf(machine) {
  const places = ["/machine/unattached", "/machine/peripheral", "/machine/peripheral-anon"];
  const lists = await Promise.all(places.map((path) => machine.qmp("qom-list", { path }).catch(() => [])));
  return lists.flatMap((list, i) =>
    list.flatMap(({ name, type }) => {
      const kind = /^child<(.+)>$/.exec(type)?.[1];
      return kind ? [{ name: i === 1 ? `${kind} ${name}` : kind, type: kind, path: `${places[i]}/${name}` }] : [];
    }),
  );
}

export class Board {
  constructor(box) {
    this.box = box;
    this.still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  }

  /** Draws the machine and follows it until `stop`. */
  async start(machine) {
    this.stop();
    this.machine = machine;
    const [devices, memory, stats] = await Promise.all([devicesOf(machine), machine.qmp("query-memory-size-summary").catch(() => ({})), machine.qmp("query-block")]);
    this.meters = element("dl", { className: "meters" });
    this.drawing = element("div", { className: "board", tabIndex: 0, role: "group", ariaLabel: "Devices of the machine" });
    this.registers = element("pre", { className: "registers", tabIndex: 0, ariaLabel: "Details" }, "Choose a device or a disk for its details.");
    this.box.replaceChildren(this.meters, this.drawing, this.registers);
    this.draw(devices, memory);
    this.blocks(stats);
    this.last = undefined;
    const look = () => this.look().catch(() => {});
    this.timer = setInterval(look, this.still ? 3000 : 700);
    await this.look();
  }

  stop() {
    clearInterval(this.timer);
  }

  /** A column for each sort of device. */
  draw(devices, memory) {
    const rest = new Set(devices);
    const columns = GROUPS.map(([title, types, kind]) => {
      const mine = [...rest].filter((d) => types.test(d.type));
      for (const d of mine) rest.delete(d);
      const buttons = mine.map((device) => {
        const button = element("button", { type: "button", className: "device" }, device.name);
        button.dataset.kind = kind ?? "";
        button.addEventListener("click", () => this.details(device, button).catch((e) => (this.registers.textContent = e.message)));
        return button;
      });
      if (title === "processors") buttons.push(element("p", {}, `memory: ${bytes(memory["base-memory"] ?? 0)}`));
      return buttons.length ? element("section", { className: "bus" }, element("h4", {}, title), ...buttons) : undefined;
    });
    this.drawing.replaceChildren(...columns.filter(Boolean));
  }

  /** The registers of a device, by the names of its data sheet. */
  async details(device, button) {
    for (const b of this.drawing.querySelectorAll("[aria-current]")) b.removeAttribute("aria-current");
    button.setAttribute("aria-current", "true");
    if (/cpu$/.test(device.type)) {
      this.registers.textContent = (await this.machine.monitor("info registers -a")).trim();
      return;
    }
    const { path } = device;
    const list = await this.machine.qmp("qom-list", { path });
    const wanted = list.filter((p) => !/^(child|link)</.test(p.type)).slice(0, 200);
    const values = await Promise.all(wanted.map((p) => this.machine.qmp("qom-get", { path, property: p.name }).catch(() => undefined)));
    const rows = wanted.map((p, i) => [p.name, values[i]]).filter(([, value]) => value !== undefined);
    const show = (value) => (typeof value === "object" ? JSON.stringify(value, undefined, 1) : String(value));
    this.registers.textContent = [`${device.type} at ${path}`, ...rows.map(([name, value]) => `${name.padEnd(24)} ${show(value)}`)].join("\n");
  }

  /** The graph of each disk: nodes and what lies below them. */
  async blocks(list) {
    const nodes = await this.machine.qmp("query-named-block-nodes", { flat: true }).catch(() => []);
    const drawn = element("section", { className: "bus wide" }, element("h4", {}, "disks"));
    for (const disk of list) {
      const chain = [];
      for (let image = disk.inserted?.image; image; image = image["backing-image"]) chain.push({ title: image.format, text: image.filename, size: image["virtual-size"] });
      const width = Math.max(1, chain.length) * (NODE.width + NODE.gap) + NODE.width + NODE.gap;
      const drawing = svg("svg", { viewBox: `0 0 ${width} ${NODE.height + 8}`, width, height: NODE.height + 8, role: "img", "aria-label": `${disk.device || disk.qdev}: ${chain.map((c) => `${c.title} ${c.text}`).join(", over ") || "empty"}` });
      const box = (n, title, text, kind) => {
        const x = n * (NODE.width + NODE.gap) + 2;
        if (n) drawing.append(svg("path", { d: `M${x - NODE.gap} ${NODE.height / 2 + 4} h${NODE.gap}`, class: "wire" }));
        const t = svg("text", { x: x + 8, y: 20 });
        t.textContent = title;
        const s = svg("text", { x: x + 8, y: 36, class: "small" });
        s.textContent = text.length > 22 ? `…${text.slice(-21)}` : text;
        drawing.append(svg("rect", { x, y: 4, width: NODE.width, height: NODE.height, rx: 6, class: kind }), t, s);
      };
      box(0, disk.device || "disk", disk.inserted ? (disk.inserted.ro ? "read only" : "read and write") : "empty", "backend");
      chain.forEach((c, i) => box(i + 1, `${c.title}${c.size ? ` ${bytes(c.size)}` : ""}`, c.text, "node"));
      drawing.dataset.disk = disk.device;
      drawn.append(drawing);
    }
    drawn.dataset.nodes = nodes.length;
    this.drawing.append(drawn);
  }

  /** What has happened since the last look. */
  async look() {
    const { machine } = this;
    if (!machine || this.box.hidden || document.hidden) return;
    const [icount, elapsed, stats] = await Promise.all([machine.ask("icount"), machine.ask("elapsed"), machine.qmp("query-blockstats")]);
    const now = { at: performance.now(), icount, elapsed, disks: new Map(stats.map((s) => [s.device || s.qdev, s.stats])) };
    const { last } = this;
    this.last = now;
    if (!last) return;
    const s = (now.at - last.at) / 1000;
    const sum = (what, from) => [...from.values()].reduce((n, d) => n + (d[what] ?? 0), 0);
    const rate = (what) => (sum(what, now.disks) - sum(what, last.disks)) / s;
    const rows = {
      Speed: `${((now.icount - last.icount) / s / 1e6).toFixed(1)} million instructions a second`,
      Time: `${(elapsed / 1000).toFixed(1)} s since power-on, ${Math.round(((elapsed - last.elapsed) / s / 10))} % of real time`,
      Disks: `${bytes(rate("rd_bytes"))}/s read, ${bytes(rate("wr_bytes"))}/s written`,
      Screen: `${machine.frame ? `${machine.frame.width} × ${machine.frame.height}` : "nothing shown"}`,
    };
    this.meters.replaceChildren(...Object.entries(rows).map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value))));
    for (const drawing of this.drawing.querySelectorAll("[data-disk]")) {
      const [a, b] = [now.disks.get(drawing.dataset.disk), last.disks.get(drawing.dataset.disk)];
      const busy = a && b ? a.rd_operations + a.wr_operations - b.rd_operations - b.wr_operations : 0;
      drawing.classList.toggle("busy", busy > 0);
    }
  }
}
