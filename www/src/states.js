// States of machines: the one to go on with after the page was closed, and snapshots with names.

import { getRecord, allRecords, done, keysOf, openDatabase, committed, putRecord } from "./storage.js";
import { withTools } from "./machine.js";
import { ask, bytes, choose, element, fail, save, say, when } from "./words.js";

/** Longest that closing the page is held up for the machine's state to be written. */
const PATIENCE = 700;
/** A state is taken so often while the machine runs, if that is quick. */
const EVERY = 30_000;
/** And for the first time so long after the start. */
const SOON = 8000;

/** Megabytes of memory that a machine was started with. */
const megabytes = ({ args = [] }) => {
  const [, size, unit] = /(\d+)([MG]?)/i.exec(args.includes("-m") ? args[args.indexOf("-m") + 1] : "128") ?? [0, 128, ""];
  return Number(size) * (/g/i.test(unit) ? 1024 : 1);
};

/** Keeps a state of the machine, so that closing and opening the page goes on where it was. */
export class Keeper {
  constructor() {
    document.addEventListener("visibilitychange", () => document.hidden && this.keep());
    addEventListener("pagehide", () => this.last());
    setInterval(() => this.cost < 120 && !document.hidden && this.keep(), EVERY);
  }

  /** Watches a machine with an id and a title; nothing to watch none. */
  watch(machine, id, title) {
    Object.assign(this, { machine, id, title, cost: undefined, busy: undefined });
    // A first look at what it costs, where that is little.
    const small = machine && megabytes(machine) <= 128;
    if (small) setTimeout(() => this.machine === machine && this.keep(), SOON);
  }

  keep() {
    if (!this.machine?.running || this.busy) return this.busy ?? Promise.resolve();
    const { id, title, machine } = this;
    this.busy = machine
      .ask("suspend", { key: id, title })
      .then(({ ms }) => (this.cost = ms), (e) => say(`The machine's state cannot be kept: ${e.message}`, true))
      .finally(() => (this.busy = undefined));
    return this.busy;
  }

  /** The page goes: the machine's thread still writes if the page does not end at once. */
  last() {
    if (!this.machine?.running || !(this.cost < PATIENCE)) return;
    if (!this.busy) this.machine.ask("suspend", { key: this.id, title: this.title, stay: true }).catch(() => {});
    const until = performance.now() + Math.min(PATIENCE, this.cost * 1.5 + 60);
    while (performance.now() < until);
  }
}

/** A state that fits its disks; else why not, in words. */
export async function checkState(record) {
  if (!record) return "there is no such state in this browser any more";
  const now = await withTools((tools) => tools.ask("generations", { args: record.args }));
  const other = Object.entries(record.disks ?? {}).find(([name, gen]) => now[name] !== gen);
  return other && `the disk '${other[0]}' has changed since the state was kept; start the machine anew instead`;
}

export const forget = (id) => putRecord("states", id, undefined);

/** The machines to go on with, newest first. */
export async function suspended() {
  const all = await allRecords("states").catch(() => []);
  return all.filter(([id]) => !id.startsWith("snapshot:")).map(([id, record]) => ({ id, ...record })).sort((a, b) => b.time - a.time);
}

/** What `start` of a machine takes to go on from a record. */
export const launchOf = (record) => ({ args: record.args, base: record.base, files: record.files, snapshot: record.state, changes: record.changes });

/** The file of a state: the machine's own, and behind it what the page needs to start the same machine. */
export function stateFile(record) {
  const notes = new TextEncoder().encode(JSON.stringify({ args: record.args, title: record.title, time: record.time }));
  const tail = new Uint8Array(16);
  tail.set(new TextEncoder().encode("ORRNOTES"));
  new DataView(tail.buffer).setUint32(8, notes.length, true);
  return new Blob([record.state, notes, tail]);
}

/** Reads such a file; without notes the arguments are missing. */
export async function readState(file) {
  const tail = new Uint8Array(await file.slice(-16).arrayBuffer());
  if (new TextDecoder().decode(tail.subarray(0, 8)) !== "ORRNOTES") return { state: file };
  const len = new DataView(tail.buffer).getUint32(8, true);
  const notes = JSON.parse(await file.slice(file.size - 16 - len, file.size - 16).text());
  return { ...notes, state: file };
}

async function removeSnapshot(id, record) {
  const db = await openDatabase();
  const t = db.transaction(["states", "snapshots"], "readwrite");
  t.objectStore("states").delete(`snapshot:${id}`);
  for (const disk of Object.keys(record.disks ?? {})) t.objectStore("snapshots").delete(keysOf(`${id}/${disk}`));
  await committed(t);
}

/** The panel of a machine's snapshots. `current` says which one the machine came from; `restart` starts it from a record. */
export async function showSnapshots(box, { machine, id, title, current, restart }) {
  const again = (from = current) => showSnapshots(box, { machine, id, title, current: from, restart });
  const all = (await allRecords("states")).filter(([key, r]) => key.startsWith("snapshot:") && r.machine === id);
  const run = (work) => () => Promise.resolve(work()).catch(fail);
  const row = ([key, record]) => {
    const own = key.slice(9);
    const picture = element("img", { src: URL.createObjectURL(record.picture), alt: `The screen when '${record.name}' was taken`, width: 160 });
    const children = all.filter(([, r]) => r.parent === own);
    return element(
      "li",
      {},
      element(
        "div",
        { className: "snapshot" },
        picture,
        element("div", {}, element("strong", {}, record.name), element("small", {}, `${when(record.time)} · ${bytes(record.size)}${own === current ? " · the machine goes on from here" : ""}`),
          element("div", { className: "row" },
            element("button", { onclick: run(() => restart(own)) }, "Go back"),
            element("button", { onclick: run(() => (save(stateFile(record), `${record.name}.orrery`), say(`Open it here by dropping it on the page, or with: orrery ${record.args.join(" ")} -loadvm '${record.name}.orrery'`))) }, "Export"),
            element("button", { className: "danger", onclick: run(async () => {
              if (!(await choose(`Delete '${record.name}'?`, "The machine itself is not changed.", "Delete"))) return;
              await removeSnapshot(own, record);
              await again();
            }) }, "Delete…"))),
      ),
      children.length ? element("ul", {}, ...children.map(row)) : undefined,
    );
  };
  const roots = all.filter(([, r]) => !all.some(([key]) => key === `snapshot:${r.parent}`));
  box.replaceChildren(
    element(
      "div",
      { className: "row" },
      element("button", { className: "primary", onclick: run(async () => {
        const answer = await ask("Snapshot", [{ name: "name", label: "Name", value: `Snapshot ${all.length + 1}`, required: true }], "Take");
        if (!answer) return;
        const own = crypto.randomUUID();
        const { size } = await machine.ask("snapshot", { key: own, machine: id, title, name: answer.name, parent: current });
        say(`'${answer.name}' is kept: ${bytes(size)}, with what is on its disks.`);
        await again(own);
      }) }, "Take a snapshot…"),
    ),
    roots.length ? element("ul", { className: "tree" }, ...roots.map(row)) : element("p", {}, "No snapshot yet. A snapshot is the whole machine, memory and disks, as it is at this moment."),
  );
  return current;
}

export { getRecord, done };
