// The page: pick a machine, see it, use it, keep it.

import { Board } from "./board.js";
import { freeName, fileButton, showDisks } from "./disks.js";
import { Machine, whyStopped, withTools } from "./machine.js";
import { Screen, onScreenKeyboard } from "./screen.js";
import { Sound } from "./sound.js";
import { Keeper, checkState, forget, launchOf, readState, showSnapshots, suspended } from "./states.js";
import { getRecord } from "./storage.js";
import { kindOf, unpack } from "./unpack.js";
import { $, ask, bytes, element, fail, progress, save, say, when } from "./words.js";

const screen = new Screen($("screen"));
const keeper = new Keeper();
globalThis.orreryKeeper = keeper;
const board = new Board(element("div", { className: "panel" }));
let machine;
let sound;
/** What runs: id, title, args, files, and the snapshot that it came from. */
let now;
const files = new Map();

/** Splits a command line; double quotes hold spaces together. */
const words = (text) => [...text.matchAll(/"([^"]*)"|(\S+)/g)].map((m) => m[1] ?? m[2]);
const quoted = (args) => args.map((a) => (/[\s]/.test(a) || a === "" ? `"${a}"` : a)).join(" ");

const HINT = matchMedia("(pointer: coarse)").matches
  ? "Running. Drag on the screen to move the pointer, tap to click; Keyboard shows keys."
  : "Running. Click the screen to type; Ctrl+Alt frees the pointer.";

// --- starting ---

/** Starts a machine; `launch` has args, files, and what a state has. True if it runs. */
async function start(launch, { id = crypto.randomUUID(), title, snapshot } = {}) {
  // What runs already is kept, to be gone on with.
  if (machine?.running) await keeper.keep();
  stopMachine();
  machine = new Machine();
  globalThis.orrery = machine;
  now = { id, title: title ?? quoted(launch.args), args: launch.args, files: launch.files ?? [], snapshot };
  $("args").value = quoted(launch.args);
  const mine = machine;
  const began = performance.now();
  mine.on("stopped", ({ reason }) => {
    say(`Stopped: ${whyStopped(reason)}.`);
    standing(true, reason === -10 || reason === -15);
  });
  mine.on("running", () => {
    say("Running.");
    standing(false);
  });
  mine.on("error", ({ text }) => say(text, true));
  // A guest that uses a tablet wants places.
  mine.on("pointer", ({ absolute }) => {
    setPointer(absolute);
    if (absolute && document.pointerLockElement) document.exitPointerLock();
  });
  mine.on("progress", ({ what, done, total }) => progress(what, done, total));
  mine.on("network", ({ id: net, text, bad }) => say(`Network ${net}: ${text}.`, bad));
  say("Starting…");
  try {
    const { warnings, lines, times } = await mine.start(launch);
    mine.times = { ...times, began };
    sessionStorage.setItem("orrery-machine", id);
    show("run");
    standing(false);
    screen.attach(mine);
    sound = new Sound(mine);
    globalThis.orrerySound = sound;
    fillTabs(lines);
    keeper.watch(mine, id, now.title);
    say(warnings.length ? warnings.join(" ") : HINT);
    $("screen").focus({ preventScroll: true });
    return true;
  } catch {
    // Said by the listener above.
    stopMachine();
    show("pick");
    $("words").open = true;
    return false;
  }
}

function stopMachine() {
  keeper.watch(undefined);
  board.stop();
  sound?.stop();
  machine?.stop();
  machine = undefined;
}

function standing(still, canGoOn = true) {
  $("pause").hidden = still;
  $("resume").hidden = !still || !canGoOn;
}

/** Goes on from a state. */
async function goOn(id) {
  const record = await getRecord("states", id);
  const why = await checkState(record);
  if (why) throw new Error(why);
  return start(launchOf(record), { id, title: record.title });
}

/** Opens a file by what is in it. */
async function open(given) {
  const { file, kind } = await unpack(given, (done, total) => progress(`Unpacking ${given.name}`, done, total));
  if (kind === "state") return openState(file);
  let args = ["-m", kind === "floppy" ? "64" : "256"];
  let own = [];
  const name = file.name.replace(/[,"]/g, "_");
  let source = name;
  if ($("keep").checked && (kind === "disk" || kind === "floppy")) {
    const kept = await freeName(name);
    await withTools((tools) => tools.ask("importDisk", { name: kept, bytes: file }), ({ what, done, total }) => progress(what, done, total));
    navigator.storage?.persist?.();
    source = `idb:${kept}`;
  } else own = [[name, file]];
  const option = { cd: "-cdrom", floppy: "-fda", kernel: "-kernel" }[kind] ?? "-hda";
  args.push(option, source);
  return start({ args, files: own }, { title: file.name });
}

async function openState(file) {
  const { args, title, state } = await readState(file);
  const line = args ?? words($("args").value);
  const missing = line.find((a) => a.startsWith("idb:"));
  if (!args && !$("args").value) throw new Error(`'${file.name}' does not say which machine it is of: write its command line below, then open it again`);
  const began = await start({ args: line, files: [], snapshot: state }, { title: title ?? file.name });
  if (began && missing) say(`Running, with the disk '${missing.slice(4)}' as it is in this browser.`);
  return began;
}

// --- views ---

function show(view) {
  for (const name of ["pick", "run", "storage"]) $(name).hidden = name !== view;
  const page = view === "storage" ? "go-disks" : "go-machines";
  for (const id of ["go-machines", "go-disks"]) {
    if (id === page) $(id).setAttribute("aria-current", "page");
    else $(id).removeAttribute("aria-current");
  }
  if (view === "pick") showPick().catch(fail);
  if (view === "run") screen.fit();
}

async function showPick() {
  const [gallery, states] = await Promise.all([fetch("gallery.json").then((r) => (r.ok ? r.json() : [])).catch(() => []), suspended()]);
  $("gallery").replaceChildren(
    ...gallery.map((entry) =>
      card({ title: entry.title, text: entry.what, note: entry.size ? `${bytes(entry.size)} to fetch` : "nothing to fetch", picture: entry.picture, action: () => startEntry(entry) }),
    ),
  );
  $("resume-box").hidden = !states.length;
  $("suspended").replaceChildren(
    ...states.slice(0, 6).map((s) =>
      card({
        title: s.title,
        text: `kept ${when(s.time)} · ${bytes(s.size)}`,
        picture: URL.createObjectURL(s.picture),
        action: () => goOn(s.id),
        buttons: [
          ["Start anew", () => start({ args: s.args, files: s.files }, { id: s.id, title: s.title })],
          ["Forget", () => forget(s.id).then(showPick)],
        ],
      }),
    ),
  );
  const disks = await withTools((tools) => tools.ask("listDisks")).catch(() => []);
  $("own-form").elements.disk.replaceChildren(
    element("option", { value: "" }, "none"),
    element("option", { value: "new" }, "a new one of 2 GB"),
    ...disks.map((d) => element("option", { value: `idb:${d.name}` }, `${d.name} (${bytes(d.len)})`)),
  );
}

function card({ title, text, note, picture, action, buttons = [] }) {
  const image = element("img", { src: picture, alt: "", loading: "lazy", width: 320, height: 200 });
  image.addEventListener("error", () => image.removeAttribute("src"), { once: true });
  const main = element("button", { className: "open", type: "button" }, image, element("span", { className: "text" }, element("strong", {}, title), element("small", {}, text), note ? element("small", {}, note) : undefined));
  main.addEventListener("click", () => Promise.resolve(action()).catch(fail));
  const more = buttons.map(([label, work]) => element("button", { type: "button", onclick: () => Promise.resolve(work()).catch(fail) }, label));
  return element("li", {}, element("div", { className: "card" }, main, more.length ? element("div", { className: "row" }, ...more) : undefined));
}

async function startEntry(entry) {
  let args = words(entry.args);
  // A disk to write on stays, laid over the picture of it that the site has.
  if (entry.keep && globalThis.indexedDB) {
    const name = `${entry.id}.img`;
    const known = (await withTools((tools) => tools.ask("listDisks")).catch(() => undefined))?.some((d) => d.name === name);
    if (known === false) await withTools((tools) => tools.ask("overlayDisk", { name, url: new URL(entry.keep, location.href).href }));
    if (known !== undefined) args = args.map((a) => (a === entry.keep ? `idb:${name}` : a));
  }
  return start({ args }, { title: entry.title });
}

// --- the machine's panels ---

function fillTabs(lines) {
  const serials = lines.filter((l) => /^serial/.test(l));
  const wanted = [
    ...serials.map((line, i) => ({ name: serials.length > 1 ? `Serial ${i + 1}` : "Serial", build: () => terminalPanel(line, `Serial console ${i + 1}`) })),
    { name: "Monitor", build: () => terminalPanel("monitor", "Monitor") },
    { name: "Inside", build: insidePanel },
    { name: "Drives", build: drivesPanel },
    { name: "Snapshots", build: snapshotsPanel },
  ];
  const text = wanted.map(({ name, build }, i) => {
    const panel = element("div", { className: "panel", id: `panel-${i}`, role: "tabpanel", hidden: true });
    const tab = element("button", { type: "button", role: "tab", id: `tab-${i}`, tabIndex: i ? -1 : 0, ariaSelected: "false" }, name);
    tab.setAttribute("aria-controls", panel.id);
    panel.setAttribute("aria-labelledby", tab.id);
    let built;
    tab.select = (focus) => {
      for (const other of text) {
        const on = other.tab === tab;
        other.tab.ariaSelected = String(on);
        other.tab.tabIndex = on ? 0 : -1;
        other.panel.hidden = !on;
      }
      built ??= build();
      const content = typeof built === "function" ? built() : built;
      if (content instanceof Node && !panel.contains(content)) panel.replaceChildren(content);
      if (name !== "Inside") board.stop();
      if (focus) tab.focus();
    };
    tab.addEventListener("click", () => tab.select());
    tab.addEventListener("keydown", (e) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[e.key];
      if (step) text[(i + step + text.length) % text.length].tab.select(true);
    });
    return { tab, panel };
  });
  $("tabs").replaceChildren(...text.map((t) => t.tab));
  $("panels").replaceChildren(...text.map((t) => t.panel));
  text[0].tab.select();
}

function terminalPanel(line, label) {
  const box = element("div", { className: "terminal-box" });
  let terminal;
  const ready = () => terminal ?? Promise.reject(new Error("the terminal is not there yet"));
  const find = element("input", { type: "search", placeholder: "Find", ariaLabel: `Find in ${label}` });
  const panel = element(
    "div",
    {},
    element("div", { className: "terminal-tools" }, find,
      element("button", { type: "button", onclick: () => Promise.resolve(ready()).then((t) => navigator.clipboard.writeText(t.text())).then(() => say("Copied."), fail) }, "Copy"),
      element("button", { type: "button", onclick: () => navigator.clipboard.readText().then((t) => machine.serial(line, t.replace(/\r?\n/g, "\r")), fail) }, "Paste"),
      element("button", { type: "button", onclick: () => save(new Blob([machine.serialText.get(line) ?? ""], { type: "text/plain" }), `${line}.txt`) }, "Save as text")),
    box,
  );
  find.addEventListener("keydown", (e) => e.key === "Enter" && terminal?.find(find.value, e.shiftKey));
  const mine = machine;
  // The machine is not kept waiting for its terminals.
  import("./consoles.js")
    .then(({ Console }) => {
      terminal = new Console(box, line, label);
      terminal.attach(mine);
      requestAnimationFrame(() => terminal.fit.fit());
    })
    .catch(fail);
  return panel;
}

function insidePanel() {
  return () => {
    board.box.hidden = false;
    board.start(machine).catch(fail);
    return board.box;
  };
}

function snapshotsPanel() {
  const box = element("div");
  return () => {
    const restart = async (own) => {
      const { title, id } = now;
      stopMachine();
      const record = await withTools((tools) => tools.ask("restoreDisks", { key: own }));
      await start(launchOf(record), { id, title, snapshot: own });
      say(`Back at '${record.name}'.`);
    };
    showSnapshots(box, { machine, id: now.id, title: now.title, current: now.snapshot, restart })
      .then((current) => (now.snapshot = current))
      .catch(fail);
    return box;
  };
}

function drivesPanel() {
  const box = element("div");
  return () => {
    const refresh = async () => {
      const list = await machine.qmp("query-block");
      box.replaceChildren(
        ...list.map((d) => {
          const inserted = d.inserted?.image;
          const text = inserted ? `${inserted.filename} · ${inserted.format} · ${bytes(inserted["virtual-size"])}${d.inserted.ro ? " · read only" : ""}` : "empty";
          const eject = d.removable && inserted ? element("button", { type: "button", onclick: () => machine.qmp("eject", { device: d.device, force: true }).then(refresh).catch(fail) }, "Eject") : undefined;
          return element("div", { className: "row" }, element("strong", {}, d.device || d.qdev), element("span", {}, text), eject);
        }),
      );
      if (!list.length) box.append("This machine has no drives.");
    };
    refresh().catch(fail);
    return box;
  };
}

// --- what people press ---

const on = (id, type, work) => $(id).addEventListener(type, (e) => Promise.resolve().then(() => work(e)).catch(fail));

on("file", "change", (e) => {
  const file = e.target.files[0];
  e.target.value = "";
  return file && open(file);
});
document.body.addEventListener("dragover", (e) => {
  e.preventDefault();
  document.body.classList.add("dragging");
});
document.body.addEventListener("dragleave", (e) => !e.relatedTarget && document.body.classList.remove("dragging"));
document.body.addEventListener("drop", (e) => {
  e.preventDefault();
  document.body.classList.remove("dragging");
  const file = e.dataTransfer.files[0];
  if (file) open(file).catch(fail);
});
$("form").addEventListener("submit", (e) => {
  e.preventDefault();
  start({ args: words($("args").value), files: [...files] }).catch(fail);
});
$("own-form").addEventListener("submit", (e) => {
  e.preventDefault();
  startOwn(new FormData(e.target)).catch(fail);
});

async function startOwn(form) {
  const args = ["-M", form.get("machine"), "-m", form.get("memory"), "-smp", form.get("cpus")];
  const own = [];
  const add = async (option, field) => {
    const given = form.get(field);
    if (!given?.size) return;
    const { file } = field === "initrd" ? { file: given } : await unpack(given, (done, total) => progress(`Unpacking ${given.name}`, done, total));
    const name = file.name.replace(/[,"]/g, "_");
    own.push([name, file]);
    args.push(option, name);
  };
  let disk = form.get("disk");
  if (disk === "new") {
    const name = await freeName("disk.qcow2");
    await withTools((tools) => tools.ask("image", { tool: "create", args: [`idb:${name}`, "qcow2", "2G"] }));
    disk = `idb:${name}`;
  }
  if (disk) args.push("-hda", disk);
  await add("-cdrom", "cd");
  await add("-fda", "floppy");
  await add("-kernel", "kernel");
  await add("-initrd", "initrd");
  if (form.get("append")) args.push("-append", form.get("append"));
  const network = form.get("network");
  const url = form.get("relay");
  if (network === "none") args.push("-nic", "none");
  else if (network) args.push("-nic", `${network},model=${form.get("machine") === "isapc" ? "ne2k_isa" : "e1000"}${url && /relay|wisp/.test(network) ? `,url=${url}` : ""}`);
  await start({ args, files: own });
}

on("pause", "click", () => machine.pause());
on("resume", "click", () => {
  machine.resume();
  standing(false);
  say("Running.");
  $("screen").focus();
});
on("reset", "click", () => machine.reset());
on("off", "click", async () => {
  const answer = await ask("Turn the machine off?", [{ name: "how", label: "How", options: [{ value: "leave", label: "keep its state and leave it" }, { value: "button", label: "press its power button" }, { value: "plug", label: "pull the plug" }] }], "Do it");
  if (!answer) return;
  if (answer.how === "button") return void (await machine.qmp("system_powerdown"));
  if (answer.how === "leave") await machine.ask("suspend", { key: now.id, title: now.title, stay: true });
  else {
    await machine.ask("flush");
    await forget(now.id);
  }
  sessionStorage.removeItem("orrery-machine");
  stopMachine();
  history.replaceState(null, "", location.pathname);
  show("pick");
  say(answer.how === "leave" ? "Its state is kept; go on whenever you like." : "The machine is off; its disks are written.");
});
on("picture", "click", async () => {
  save(await machine.screenshot(), `orrery-${new Date().toISOString().slice(0, 19).replace(/:/g, "")}.png`);
  say("The screenshot was saved.");
});
let recording;
on("record", "click", async () => {
  if (!recording) {
    recording = screen.record(sound);
    $("record").ariaPressed = "true";
    $("record").textContent = "Stop recording";
    return;
  }
  const film = await recording.stop();
  recording = undefined;
  $("record").ariaPressed = "false";
  $("record").textContent = "Record";
  save(film, film.type.includes("mp4") ? "orrery.mp4" : "orrery.webm");
  say(`The film was saved: ${bytes(film.size)}.`);
});
/** Whether the pointer's place goes to the machine, or its movement once it is captured. */
function setPointer(absolute) {
  screen.tablet = absolute;
  screen.capture = !absolute;
  $("pointer").value = absolute ? "tablet" : "lock";
}
on("full", "click", () => screen.fullScreen());
on("scale", "change", (e) => {
  localStorage.setItem("orrery-scale", e.target.value);
  screen.setScale(e.target.value);
});
on("pointer", "change", (e) => setPointer(e.target.value === "tablet"));
on("keyboard", "click", () => {
  const keys = $("keys");
  if (!keys.childElementCount) onScreenKeyboard(keys, screen);
  keys.hidden = !keys.hidden;
  $("keyboard").ariaExpanded = String(!keys.hidden);
});
on("paste", "click", async () => {
  const text = await navigator.clipboard?.readText?.().catch(() => undefined);
  const given = text ?? (await ask("Paste as typing", [{ name: "text", label: "Text", value: "" }], "Type it"))?.text;
  if (!given) return;
  say("Typing…");
  const keys = await machine.type(given);
  say(`${keys} characters were typed.`);
});
on("mute", "click", async () => {
  const off = sound.context && !sound.muted;
  if (!off) await sound.start();
  sound.set(sound.volume, off);
  $("mute").ariaPressed = String(!off);
  $("mute").textContent = off ? "Sound off" : "Sound on";
});
on("volume", "input", (e) => sound?.set(Number(e.target.value), sound.muted));
on("link", "click", async () => {
  const link = `${location.origin}${location.pathname}#boot=${encodeURIComponent(quoted(now.args))}`;
  await navigator.clipboard.writeText(link);
  const mine = now.files.length || now.args.some((a) => a.startsWith("idb:"));
  say(mine ? "The link is copied. It names files of this browser: others need the same, or addresses on the web." : "The link is copied: it starts this machine for whoever opens it.");
});

// --- addresses: #disks, #boot=COMMAND LINE, ?args=COMMAND LINE ---

async function route() {
  const hash = location.hash.slice(1);
  if (hash === "disks") {
    show("storage");
    return showDisks($("storage"), async (name, disk) => {
      const option = disk.len <= 2_949_120 ? "-fda" : "-hda";
      history.replaceState(null, "", location.pathname);
      await start({ args: ["-m", "256", option, name] }, { title: disk.name });
    });
  }
  if (hash.startsWith("boot=")) return boot(decodeURIComponent(hash.slice(5)));
  show(machine ? "run" : "pick");
  return undefined;
}

/** Starts the machine of an address; a reload of this tab goes on where it was. */
async function boot(line, reload = false) {
  const id = sessionStorage.getItem("orrery-machine");
  const record = reload && id ? await getRecord("states", id).catch(() => undefined) : undefined;
  if (record && quoted(record.args) === line && !(await checkState(record))) return goOn(id);
  return start({ args: words(line) });
}

async function begin() {
  $("scale").value = localStorage.getItem("orrery-scale") ?? "sharp";
  $("volume").value = localStorage.getItem("orrery-volume") ?? 0.6;
  screen.setScale($("scale").value);
  screen.capture = true;
  const reloaded = performance.getEntriesByType("navigation")[0]?.type === "reload";
  const asked = new URLSearchParams(location.search);
  const line = asked.get("args") ?? (location.hash.startsWith("#boot=") ? decodeURIComponent(location.hash.slice(6)) : undefined);
  if (line !== undefined) return boot(line, reloaded && asked.get("resume") !== "no");
  const id = sessionStorage.getItem("orrery-machine");
  if (reloaded && id && !location.hash && !(await checkState(await getRecord("states", id).catch(() => undefined)))) return goOn(id);
  return route();
}

addEventListener("hashchange", () => route().catch(fail));
addEventListener("unhandledrejection", (e) => fail(e.reason ?? e));
globalThis.launchQueue?.setConsumer(async ({ files: handles }) => handles[0] && open(await handles[0].getFile()).catch(fail));
begin().catch(fail);
if (location.protocol === "https:" || location.hostname === "localhost") navigator.serviceWorker?.register("sw.js").catch(() => {});
