// The browser's database: kept disks, pieces of files fetched from the web, states of machines.
//
// A kept disk is chunks of 64 KiB by [name, number]. A chunk that is missing is zeros, or comes from the
// file of the web that the disk is laid over. One tab at a time writes to a disk (Web Locks).

export const CHUNK = 64 * 1024;
const DB = "orrery";
const STORES = ["disks", "chunks", "cache", "fetched", "states", "snapshots"];

let database;

/** Opens the database, making it when it is new. */
export function openDatabase() {
  database ??= new Promise((resolve, reject) => {
    const refused = (why) =>
      reject(new Error(`this browser gives no storage to this page (${why}); allow it, or start without a kept disk`));
    if (!globalThis.indexedDB) return refused("IndexedDB is missing");
    let request;
    try {
      request = indexedDB.open(DB, 2);
    } catch (e) {
      return refused(e.message);
    }
    request.onupgradeneeded = () => {
      for (const name of STORES) {
        if (!request.result.objectStoreNames.contains(name)) request.result.createObjectStore(name);
      }
    };
    request.onsuccess = () => {
      // A newer page in another tab may change the database.
      request.result.onversionchange = () => request.result.close();
      resolve(request.result);
    };
    request.onerror = () => refused(request.error?.message ?? "refused");
    request.onblocked = () => reject(new Error("another tab holds the disks; close it and try again"));
  });
  database.catch(() => (database = undefined));
  return database;
}

export const done = (request) =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });

export const committed = (transaction) =>
  new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve();
    transaction.onabort = () => reject(transaction.error ?? new Error("storage refused a write"));
    transaction.onerror = () => {};
  });

/** All keys of one name: `[name, 0]` to `[name, ...]`. */
export const keysOf = (name, from = 0) => IDBKeyRange.bound([name, from], [name, Infinity]);

/** One record of a store. */
export async function getRecord(store, key) {
  const db = await openDatabase();
  return done(db.transaction(store).objectStore(store).get(key));
}

/** Writes one record; without a value, removes it. */
export async function putRecord(store, key, value) {
  const db = await openDatabase();
  const t = db.transaction(store, "readwrite", { durability: "strict" });
  if (value === undefined) t.objectStore(store).delete(key);
  else t.objectStore(store).put(value, key);
  await committed(t);
}

/** All records of a store, as [key, value]. */
export async function allRecords(store) {
  const db = await openDatabase();
  const s = db.transaction(store).objectStore(store);
  const [keys, values] = await Promise.all([done(s.getAllKeys()), done(s.getAll())]);
  return keys.map((key, i) => [key, values[i]]);
}

const held = new Map();
const LOCK = "orrery-disk:";
/** A tab that was just closed or reloaded lets go of its disks a little later. */
const PATIENCE = 3000;

/** Takes a disk for this thread until it ends. Readers share it. */
export async function lockDisk(name, write, patience = PATIENCE) {
  if (!navigator.locks) return;
  const mode = write ? "exclusive" : "shared";
  const mine = held.get(name);
  if (mine && (mine.mode === "exclusive" || mode === "shared")) return;
  if (mine) {
    held.delete(name);
    mine.release();
  }
  const until = performance.now() + patience;
  for (;;) {
    const got = await new Promise((resolve, reject) => {
      navigator.locks
        .request(LOCK + name, { mode, ifAvailable: true }, (lock) => {
          if (!lock) return resolve(false);
          return new Promise((release) => {
            held.set(name, { mode, release });
            resolve(true);
          });
        })
        .catch(reject);
    });
    if (got) return;
    if (performance.now() > until) {
      throw new Error(`the disk '${name}' is in use in another tab or by another machine; stop that one first`);
    }
    await new Promise((resolve) => setTimeout(resolve, 150));
  }
}

/** Names of disks that some tab works with. */
export async function disksInUse() {
  const state = await navigator.locks?.query();
  return new Set((state?.held ?? []).filter((l) => l.name.startsWith(LOCK)).map((l) => l.name.slice(LOCK.length)));
}

/** A disk in the database. */
export class KeptFile {
  constructor(db, name, info, base) {
    this.db = db;
    this.name = name;
    this.len = info.len;
    this.info = info;
    this.base = base;
    this.touched = false;
    // Requests run one after another: a write may have to read the chunk it changes in part.
    this.tail = Promise.resolve();
  }

  /** Opens a disk, or makes it. `openBase` opens what a disk is laid over, by its address. */
  static async open(name, create, write = true, openBase = undefined) {
    const db = await openDatabase();
    const info = await done(db.transaction("disks").objectStore("disks").get(name));
    if (!info && !create) throw new Error(`there is no disk '${name}' in this browser`);
    await lockDisk(name, write || create);
    const base = !create && info.base ? await openBase?.(info.base) : undefined;
    const file = new KeptFile(db, name, create ? { len: 0, gen: info?.gen ?? 0 } : info, base);
    if (create) await file.setLen(0);
    return file;
  }

  /** Makes a disk that is laid over a file of the web. */
  static async overlay(name, base, len) {
    await lockDisk(name, true);
    const db = await openDatabase();
    const t = db.transaction(["chunks", "disks"], "readwrite", { durability: "strict" });
    t.objectStore("chunks").delete(keysOf(name));
    t.objectStore("disks").put({ len, base, baseLen: len, gen: 0, changed: Date.now() }, name);
    await committed(t);
  }

  queue(work) {
    const result = this.tail.then(work);
    this.tail = result.catch(() => {});
    return result;
  }

  chunkKey(n) {
    return [this.name, n];
  }

  /** Chunk `n` as it is below this disk: bytes, or nothing for zeros. */
  async below(n) {
    const at = n * CHUNK;
    const end = Math.min(this.info.baseLen ?? 0, at + CHUNK);
    if (!this.base || at >= end) return undefined;
    const out = new Uint8Array(CHUNK);
    out.set(await this.base.read(at, end - at));
    return out;
  }

  read(offset, len) {
    return this.queue(async () => {
      const out = new Uint8Array(len);
      const first = Math.floor(offset / CHUNK);
      const last = Math.floor((offset + len - 1) / CHUNK);
      const store = this.db.transaction("chunks").objectStore("chunks");
      const wanted = [];
      for (let n = first; n <= last; n++) wanted.push(done(store.get(this.chunkKey(n))));
      const chunks = await Promise.all(wanted);
      for (let i = 0; i < chunks.length; i++) {
        const chunk = chunks[i] ?? (await this.below(first + i));
        if (!chunk) continue;
        const at = (first + i) * CHUNK;
        const from = Math.max(offset, at);
        const to = Math.min(offset + len, at + CHUNK);
        out.set(new Uint8Array(chunk.buffer ?? chunk).subarray(from - at, to - at), from - offset);
      }
      return out;
    });
  }

  /** What the table of disks says of this one; a disk that changes has a new generation. */
  describe(len) {
    if (!this.touched) {
      this.touched = true;
      this.info.gen = (this.info.gen ?? 0) + 1;
    }
    const { base, gen } = this.info;
    const baseLen = base ? Math.min(this.info.baseLen, len) : undefined;
    this.info = { len, gen, changed: Date.now(), ...(base ? { base, baseLen } : {}) };
    return this.info;
  }

  write(offset, bytes) {
    return this.queue(async () => {
      const first = Math.floor(offset / CHUNK);
      const last = Math.floor((offset + bytes.length - 1) / CHUNK);
      const edges = [...new Set([first, last])];
      const reading = this.db.transaction("chunks").objectStore("chunks");
      const old = new Map();
      await Promise.all(edges.map(async (n) => old.set(n, await done(reading.get(this.chunkKey(n))))));
      if (this.base) for (const n of edges) if (!old.get(n)) old.set(n, (await this.below(n))?.buffer);
      // One transaction for chunks and length: after a crash both are there or neither.
      const t = this.db.transaction(["chunks", "disks"], "readwrite", { durability: "relaxed" });
      const [stored, disks] = [t.objectStore("chunks"), t.objectStore("disks")];
      for (let n = first; n <= last; n++) {
        const at = n * CHUNK;
        const chunk = old.get(n) ? new Uint8Array(old.get(n)).slice() : new Uint8Array(CHUNK);
        const from = Math.max(offset, at);
        const to = Math.min(offset + bytes.length, at + CHUNK);
        chunk.set(bytes.subarray(from - offset, to - offset), from - at);
        stored.put(chunk.buffer, this.chunkKey(n));
      }
      const len = Math.max(this.len, offset + bytes.length);
      if (len !== this.len || !this.touched) disks.put(this.describe(len), this.name);
      try {
        await committed(t);
      } catch (e) {
        // The new generation was not written either.
        this.touched = false;
        throw e;
      }
      this.len = len;
    });
  }

  flush() {
    // Transactions are ordered: once a strict one has completed, those before it are on disk too.
    return this.queue(async () => {
      if (!this.touched) return;
      const t = this.db.transaction("disks", "readwrite", { durability: "strict" });
      t.objectStore("disks").put(this.describe(this.len), this.name);
      await committed(t);
    });
  }

  /** Gives everything back. */
  remove() {
    return this.queue(async () => {
      const t = this.db.transaction(["chunks", "disks"], "readwrite");
      t.objectStore("chunks").delete(keysOf(this.name));
      t.objectStore("disks").delete(this.name);
      await committed(t);
    });
  }

  setLen(len) {
    return this.queue(async () => {
      const t = this.db.transaction(["chunks", "disks"], "readwrite", { durability: "relaxed" });
      if (len < this.len || len === 0) {
        t.objectStore("chunks").delete(keysOf(this.name, Math.ceil(len / CHUNK)));
      }
      t.objectStore("disks").put(this.describe(len), this.name);
      await committed(t);
      this.len = len;
    });
  }
}

/** The disks kept here: name, length, bytes stored, what they are laid over, whether they are in use. */
export async function listDisks() {
  const db = await openDatabase();
  const [infos, used] = await Promise.all([allRecords("disks"), disksInUse()]);
  const store = db.transaction("chunks").objectStore("chunks");
  const counts = await Promise.all(infos.map(([name]) => done(store.count(keysOf(name)))));
  return infos.map(([name, info], i) => ({ ...info, name, stored: counts[i] * CHUNK, inUse: used.has(name) }));
}

/** Refuses what does not fit. */
async function needRoom(name, bytes) {
  const { quota = Infinity, usage = 0 } = (await navigator.storage?.estimate?.()) ?? {};
  if (bytes > quota - usage) {
    throw new Error(`this browser has no room for '${name}': ${bytes} bytes are needed, ${Math.max(0, quota - usage)} are free`);
  }
}

/** Puts a disk's bytes (an array, or a file) into the database, replacing a disk of that name; all of them, or none. */
export async function importDisk(name, bytes, progress = () => {}) {
  const size = bytes.size ?? bytes.length;
  await needRoom(name, size);
  const file = await KeptFile.open(name, true);
  const PIECE = 64 * CHUNK;
  try {
    for (let at = 0; at < size; at += PIECE) {
      const end = Math.min(size, at + PIECE);
      const piece =
        bytes instanceof Blob ? new Uint8Array(await bytes.slice(at, end).arrayBuffer()) : bytes.subarray(at, end);
      // What is all zeros need not be stored.
      if (piece.some((b) => b !== 0)) await file.write(at, piece);
      progress(end, size);
    }
    await file.setLen(size);
    await file.flush();
  } catch (e) {
    await file.remove();
    throw e.name === "QuotaExceededError" ? new Error(`this browser has no room for '${name}'`) : e;
  }
}

/** All bytes of a disk, as a file. */
export async function exportDisk(name, progress = () => {}, openBase = undefined) {
  const file = await KeptFile.open(name, false, false, openBase);
  const parts = [];
  const PIECE = 256 * CHUNK;
  for (let at = 0; at < file.len; at += PIECE) {
    const end = Math.min(file.len, at + PIECE);
    parts.push(new Blob([await file.read(at, end - at)]));
    progress(end, file.len);
  }
  return new Blob(parts);
}

export async function removeDisk(name) {
  const file = await KeptFile.open(name, false, true, () => undefined);
  await file.remove();
}

export async function renameDisk(from, to) {
  await Promise.all([lockDisk(from, true), lockDisk(to, true)]);
  const db = await openDatabase();
  const t = db.transaction(["chunks", "disks"], "readwrite", { durability: "strict" });
  const disks = t.objectStore("disks");
  const chunks = t.objectStore("chunks");
  if (await done(disks.get(to))) throw new Error(`there is a disk '${to}' already`);
  const info = await done(disks.get(from));
  if (!info) throw new Error(`there is no disk '${from}' in this browser`);
  for (const [, n] of await done(chunks.getAllKeys(keysOf(from)))) {
    chunks.put(await done(chunks.get([from, n])), [to, n]);
  }
  chunks.delete(keysOf(from));
  disks.put(info, to);
  disks.delete(from);
  await committed(t);
}

/** Copies the chunks of a disk to another place of the database: a snapshot's, or back from it. */
export async function copyChunks(fromStore, fromName, toStore, toName) {
  const db = await openDatabase();
  const keys = await done(db.transaction(fromStore).objectStore(fromStore).getAllKeys(keysOf(fromName)));
  const clear = db.transaction(toStore, "readwrite");
  clear.objectStore(toStore).delete(keysOf(toName));
  await committed(clear);
  for (let i = 0; i < keys.length; i += 64) {
    const part = keys.slice(i, i + 64);
    const from = db.transaction(fromStore).objectStore(fromStore);
    const values = await Promise.all(part.map((key) => done(from.get(key))));
    const t = db.transaction(toStore, "readwrite");
    part.forEach(([, n], j) => t.objectStore(toStore).put(values[j], [toName, n]));
    await committed(t);
  }
}
