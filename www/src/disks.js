// The storage manager: disks kept in this browser.

import { withTools } from "./machine.js";
import { ask, bytes, choose, element, fail, progress, save, say, when } from "./words.js";

const EXPORT = ["qcow2", "raw", "vmdk", "vdi", "vhdx", "vpc"];
const ENDING = { qcow2: "qcow2", raw: "img", vmdk: "vmdk", vdi: "vdi", vhdx: "vhdx", vpc: "vhd" };
/** From this size on whole disks are not handled in memory. */
const IN_MEMORY = 1.5e9;

/** Fills `box`; `boot(name, info)` starts a machine with a disk. */
export async function showDisks(box, boot) {
  const again = () => showDisks(box, boot);
  const list = element("ul", { className: "disks" });
  const disks = await withTools((tools) => tools.ask("listDisks")).catch((e) => {
    fail(e);
    return [];
  });
  for (const disk of disks.sort((a, b) => (b.changed ?? 0) - (a.changed ?? 0))) list.append(diskRow(disk, again, boot));
  if (!disks.length) list.append(element("li", { className: "empty" }, "No disk is kept here yet. Make one, or open an image and keep it."));
  box.replaceChildren(
    element("h1", {}, "Disks in this browser"),
    await usage(again),
    element(
      "div",
      { className: "row" },
      element("button", { onclick: () => createDisk().then(again, fail) }, "New disk…"),
      fileButton("Import an image…", async (file) => {
        const { unpack } = await import("./unpack.js");
        const { file: image } = await unpack(file, (done, total) => progress(`Unpacking ${file.name}`, done, total));
        const name = await freeName(image.name);
        await withTools((tools) => tools.ask("importDisk", { name, bytes: image }), ({ what, done, total }) => progress(what, done, total));
        say(`'${name}' is kept in this browser.`);
        await again();
      }),
      element("button", { onclick: () => overWeb().then(again, fail) }, "Over an image on the web…"),
    ),
    list,
  );
}

/** A button that opens files. */
export function fileButton(label, work, accept = "") {
  const input = element("input", { type: "file", accept });
  input.addEventListener("change", () => {
    const file = input.files[0];
    input.value = "";
    if (file) Promise.resolve(work(file)).catch(fail);
  });
  return element("label", { className: "file button" }, label, input);
}

async function usage(again) {
  const { usage: used = 0, quota = 0 } = (await navigator.storage?.estimate?.()) ?? {};
  const kept = await navigator.storage?.persisted?.();
  const text = element("p", { className: "usage" }, `${bytes(used)} used of ${bytes(quota)} that this browser gives. `);
  if (kept) text.append("It keeps them until you delete them.");
  else if (navigator.storage?.persist) {
    const allow = async () => {
      const yes = await navigator.storage.persist();
      say(yes ? "The browser keeps these disks until you delete them." : "The browser did not agree; install the page or add a bookmark, then ask again.");
      await again();
    };
    text.append("It may delete them when room is short. ", element("button", { onclick: () => allow().catch(fail) }, "Ask to keep them"));
  }
  return element("div", {}, element("meter", { min: 0, max: quota || 1, value: used, ariaLabel: "Storage used" }), text);
}

/** A name that no kept disk has. */
export async function freeName(wanted) {
  const clean = wanted.replace(/[,"\\]/g, "_");
  const taken = new Set((await withTools((tools) => tools.ask("listDisks"))).map((d) => d.name));
  if (!taken.has(clean)) return clean;
  const dot = clean.lastIndexOf(".") > 0 ? clean.lastIndexOf(".") : clean.length;
  for (let n = 2; ; n++) {
    const name = `${clean.slice(0, dot)}-${n}${clean.slice(dot)}`;
    if (!taken.has(name)) return name;
  }
}

async function createDisk() {
  const answer = await ask("New disk", [
    { name: "name", label: "Name", value: await freeName("disk.qcow2"), required: true },
    { name: "size", label: "Size", value: "2G", required: true, pattern: "[0-9]+[KMGT]?", hint: "for example 512M or 8G; only what is written takes room" },
    { name: "format", label: "Format", options: EXPORT },
  ], "Create");
  if (!answer) return;
  const { name, format, size } = answer;
  await withTools((tools) => tools.ask("image", { tool: "create", args: [`idb:${name}`, format, size] }));
  say(`The disk '${name}' is there.`);
}

async function overWeb() {
  const answer = await ask("A disk over an image on the web", [
    { name: "url", label: "Address of the image", type: "url", value: "https://", required: true, hint: "its site must let other pages read it (CORS)" },
    { name: "name", label: "Name", value: "", hint: "as the file's, if you leave it empty" },
  ], "Create");
  if (!answer) return;
  const url = new URL(answer.url, location.href).href;
  const name = await freeName(answer.name || decodeURIComponent(url.split("/").pop()) || "web.img");
  const len = await withTools((tools) => tools.ask("overlayDisk", { name, url }));
  say(`'${name}' shows ${bytes(len)} from ${url}; what is changed stays in this browser.`);
}

function diskRow(disk, again, boot) {
  const details = element("div", { className: "details" });
  const facts = [bytes(disk.len), `${bytes(disk.stored)} stored`, disk.changed ? `changed ${when(disk.changed)}` : "", disk.base ? `over ${disk.base}` : "", disk.inUse ? "in use" : ""];
  const run = (work) => () => Promise.resolve(work()).catch(fail);
  const tool = (name, ...args) => withTools((tools) => tools.ask("image", { tool: name, args: [`idb:${disk.name}`, ...args] }));
  const buttons = [
    element("button", { onclick: run(() => boot(`idb:${disk.name}`, disk)) }, "Start"),
    element("button", { onclick: run(() => exportAs(disk)) }, "Export…"),
    element("button", { onclick: run(async () => {
      const found = await tool("check", false);
      if (found.clean) return say(`'${disk.name}' is in order.`);
      const text = `${found.corruptions} errors and ${found.leaks} lost clusters. ${found.messages[0] ?? ""}`;
      if (!(await choose(`'${disk.name}' has damage`, text, "Repair"))) return undefined;
      const after = await tool("check", true);
      return say(after.clean ? `Repaired ${after.fixed} faults in '${disk.name}'.` : `${after.corruptions} errors could not be repaired.`, !after.clean);
    }) }, "Check"),
    element("button", { onclick: run(() => snapshots(disk, details, tool)) }, "Snapshots"),
    element("button", { onclick: run(async () => {
      const answer = await ask("Rename", [{ name: "name", label: "Name", value: disk.name, required: true }], "Rename");
      if (!answer || answer.name === disk.name) return;
      await withTools((tools) => tools.ask("renameDisk", { from: disk.name, to: answer.name }));
      await again();
    }) }, "Rename…"),
    element("button", { className: "danger", onclick: run(async () => {
      if (!(await choose(`Delete '${disk.name}'?`, "Everything on it is lost.", "Delete"))) return;
      await withTools((tools) => tools.ask("removeDisk", { name: disk.name }));
      say(`'${disk.name}' is deleted.`);
      await again();
    }) }, "Delete…"),
  ];
  return element(
    "li",
    {},
    element("div", { className: "name" }, element("strong", {}, disk.name), element("span", { className: "facts" }, facts.filter(Boolean).join(" · "))),
    element("div", { className: "row" }, ...buttons),
    details,
  );
}

async function exportAs(disk) {
  const answer = await ask(`Export '${disk.name}'`, [
    { name: "format", label: "Format", options: ["as it is", ...EXPORT], hint: "qcow2 for QEMU, vmdk for VMware, vdi for VirtualBox, vhdx and vpc for Hyper-V" },
  ], "Export");
  if (!answer) return;
  const { format } = answer;
  const tell = ({ what, done, total }) => progress(what, done, total);
  if (format === "as it is") {
    const blob = await withTools((tools) => tools.ask("exportDisk", { name: disk.name }), tell);
    save(blob, disk.name);
  } else {
    const stem = disk.name.replace(/\.(img|ima|qcow2|raw|vmdk|vdi|vhdx|vhd|iso|flp)$/i, "");
    const to = `${stem}.${ENDING[format]}`;
    const large = disk.stored > IN_MEMORY;
    const target = large ? `idb:${await freeName(to)}` : `mem:${to}`;
    const blob = await withTools((tools) => tools.ask("image", { tool: "convert", args: [`idb:${disk.name}`, target, format] }), tell);
    if (blob) save(blob, to);
    else return say(`The copy '${target.slice(4)}' is in this browser; export it as it is.`);
  }
  return say(`'${disk.name}' was exported.`);
}

/** The snapshots inside an image, as a tree: later ones hang on earlier ones. */
async function snapshots(disk, box, tool) {
  const info = await tool("info");
  if (info.format !== "qcow2") {
    box.replaceChildren(element("p", {}, `Disks of the format ${info.format} hold no snapshots. Export it as qcow2 and import that; snapshots of whole machines work with every format.`));
    return;
  }
  const again = () => snapshots(disk, box, tool);
  const act = (action, tag) => async () => {
    if (action === "apply" && !(await choose(`Go back to '${tag}'?`, "What was written since then is lost.", "Go back"))) return;
    await tool("snapshot", action, tag);
    await again();
  };
  const run = (work) => () => work().catch(fail);
  const tree = element("ul", { className: "tree" });
  let at = tree;
  for (const s of info.snapshots) {
    const inner = element("ul", {});
    const text = `${s.name} · ${new Date(s.date * 1000).toLocaleString()}${s.state ? ` · with the machine (${bytes(s.state)})` : ""}`;
    at.append(element("li", {}, element("span", {}, text), " ", element("button", { onclick: run(act("apply", s.name)) }, "Go back"), element("button", { onclick: run(act("delete", s.name)) }, "Delete"), inner));
    at = inner;
  }
  at.append(element("li", {}, element("em", {}, "now"), " ", element("button", { onclick: run(async () => {
    const answer = await ask("Snapshot of the disk", [{ name: "tag", label: "Name", value: new Date().toISOString().slice(0, 16), required: true }], "Take");
    if (answer) await act("create", answer.tag)();
  }) }, "Take a snapshot…")));
  box.replaceChildren(element("p", {}, `${info.format}, ${bytes(info.virtualSize)}, ${info.snapshots.length} snapshots${info.dirty ? ", not closed cleanly" : ""}`), tree);
}
