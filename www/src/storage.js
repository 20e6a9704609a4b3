// Storage for the core: files fetched from the site, files the person gave, and disks kept in
// IndexedDB. Implements what `frontends/web/src/host.rs` asks for.

const CHUNK = 64 * 1024;
const DB = "orrery";

/** Opens the database, making it when it is new. */
function openDatabase() {
  return new Promise((resolve, reject) => {
    const refused = (why) =>
      reject(new Error(`this browser gives no storage to this page (${why}); allow it, or start without a kept disk`));
    if (!globalThis.indexedDB) return refused("IndexedDB is missing");
    let request;
    try {
      request = indexedDB.open(DB, 1);
    } catch (e) {
      return refused(e.message);
    }
    request.onupgradeneeded = () => {
      request.result.createObjectStore("disks");
      request.result.createObjectStore("chunks");
    };
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => refused(request.error?.message ?? "refused");
    request.onblocked = () => reject(new Error("another tab holds the disks; close it and try again"));
  });
}

const done = (request) =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });

const committed = (transaction) =>
  new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve();
    transaction.onabort = () => reject(transaction.error ?? new Error("storage refused a write"));
    transaction.onerror = () => {};
  });

/** A disk in IndexedDB: chunks of 64 KiB by [name, number]; a chunk that is missing is zeros. */
class KeptFile {
  constructor(db, name, len) {
    this.db = db;
    this.name = name;
    this.len = len;
    // Requests run one after another: a write may have to read the chunk it changes in part.
    this.tail = Promise.resolve();
  }

  static async open(name, create) {
    const db = await openDatabase();
    const info = await done(db.transaction("disks").objectStore("disks").get(name));
    if (!info && !create) throw new Error(`there is no disk '${name}' in this browser`);
    const file = new KeptFile(db, name, create ? 0 : info.len);
    if (create) await file.setLen(0);
    return file;
  }

  queue(work) {
    const result = this.tail.then(work);
    this.tail = result.catch(() => {});
    return result;
  }

  chunkKey(n) {
    return [this.name, n];
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
      chunks.forEach((chunk, i) => {
        if (!chunk) return;
        const at = (first + i) * CHUNK;
        const from = Math.max(offset, at);
        const to = Math.min(offset + len, at + CHUNK);
        out.set(new Uint8Array(chunk).subarray(from - at, to - at), from - offset);
      });
      return out;
    });
  }

  write(offset, bytes) {
    return this.queue(async () => {
      const first = Math.floor(offset / CHUNK);
      const last = Math.floor((offset + bytes.length - 1) / CHUNK);
      const edges = [...new Set([first, last])];
      const reading = this.db.transaction("chunks").objectStore("chunks");
      const old = new Map();
      await Promise.all(edges.map(async (n) => old.set(n, await done(reading.get(this.chunkKey(n))))));
      // One transaction for chunks and length: after a crash both are there or neither.
      const t = this.db.transaction(["chunks", "disks"], "readwrite", { durability: "relaxed" });
      for (let n = first; n <= last; n++) {
        const at = n * CHUNK;
        const chunk = old.get(n) ? new Uint8Array(old.get(n)).slice() : new Uint8Array(CHUNK);
        const from = Math.max(offset, at);
        const to = Math.min(offset + bytes.length, at + CHUNK);
        chunk.set(bytes.subarray(from - offset, to - offset), from - at);
        t.objectStore("chunks").put(chunk.buffer, this.chunkKey(n));
      }
      const len = Math.max(this.len, offset + bytes.length);
      if (len !== this.len) t.objectStore("disks").put({ len }, this.name);
      await committed(t);
      this.len = len;
    });
  }

  flush() {
    // Transactions are ordered: once a strict one has completed, those before it are on disk too.
    return this.queue(async () => {
      const t = this.db.transaction("disks", "readwrite", { durability: "strict" });
      t.objectStore("disks").put({ len: this.len }, this.name);
      await committed(t);
    });
  }

  /** Gives everything back. */
  remove() {
    return this.queue(async () => {
      const t = this.db.transaction(["chunks", "disks"], "readwrite");
      t.objectStore("chunks").delete(IDBKeyRange.bound([this.name, 0], [this.name, Infinity]));
      t.objectStore("disks").delete(this.name);
      await committed(t);
    });
  }

  setLen(len) {
    return this.queue(async () => {
      const t = this.db.transaction(["chunks", "disks"], "readwrite", { durability: "relaxed" });
      if (len < this.len || len === 0) {
        const from = this.chunkKey(Math.ceil(len / CHUNK));
        t.objectStore("chunks").delete(IDBKeyRange.bound(from, [this.name, Infinity]));
      }
      t.objectStore("disks").put({ len }, this.name);
      await committed(t);
      this.len = len;
    });
  }
}

/** Bytes in memory: fetched, or given by the person. Writes are gone with the page. */
class MemoryFile {
  constructor(bytes) {
    this.bytes = bytes;
  }
  get len() {
    return this.bytes.length;
  }
  read(offset, len) {
    const out = new Uint8Array(len);
    out.set(this.bytes.subarray(offset, Math.min(this.bytes.length, offset + len)));
    return out;
  }
  write(offset, bytes) {
    if (offset + bytes.length > this.bytes.length) this.setLen(offset + bytes.length);
    this.bytes.set(bytes, offset);
  }
  flush() {}
  setLen(len) {
    const grown = new Uint8Array(len);
    grown.set(this.bytes.subarray(0, Math.min(len, this.bytes.length)));
    this.bytes = grown;
  }
}

async function fetchFile(name) {
  const response = await fetch(name);
  if (!response.ok) throw new Error(`'${name}' cannot be fetched: ${response.status} ${response.statusText}`);
  return new MemoryFile(new Uint8Array(await response.arrayBuffer()));
}

/**
 * Makes the object the core calls. `given` maps names to Uint8Arrays; names that begin with
 * `idb:` are disks in IndexedDB; anything else is fetched.
 */
export function makeHost(core, given = new Map()) {
  const files = new Map();
  let next = 1;
  const answer = (op, promise, then) => {
    if (promise instanceof Promise) {
      promise.then(then, (e) => core.fail(op, String(e?.message ?? e), e?.name === "QuotaExceededError"));
    } else {
      then(promise);
    }
  };
  const find = async (name, create) => {
    if (name.startsWith("idb:")) return KeptFile.open(name.slice(4), create);
    if (given.has(name)) return new MemoryFile(given.get(name));
    if (create) throw new Error(`'${name}' cannot be created here; use a name that begins with 'idb:'`);
    return fetchFile(name);
  };
  return {
    keepsDisks: () => Boolean(globalThis.indexedDB),
    open(op, name, _write, create) {
      answer(op, find(name, create), (file) => {
        const id = next++;
        files.set(id, file);
        core.opened(op, id, file.len, false);
      });
    },
    read(op, id, offset, len) {
      answer(op, files.get(id).read(offset, len), (bytes) => core.finish(op, bytes));
    },
    write(op, id, offset, bytes) {
      // The bytes are a view of the core's memory, which may move: copy at once.
      answer(op, files.get(id).write(offset, bytes.slice()), () => core.finish(op, new Uint8Array()));
    },
    flush(op, id) {
      answer(op, files.get(id).flush(), () => core.finish(op, new Uint8Array()));
    },
    setLen(op, id, len) {
      answer(op, files.get(id).setLen(len), () => core.finish(op, new Uint8Array()));
    },
  };
}

/** Names and lengths of the disks kept here. */
export async function listDisks() {
  const db = await openDatabase();
  const store = db.transaction("disks").objectStore("disks");
  const [names, infos] = await Promise.all([done(store.getAllKeys()), done(store.getAll())]);
  return names.map((name, i) => ({ name, len: infos[i].len }));
}

/** Puts a disk's bytes into IndexedDB, replacing a disk of that name; all of them, or none. */
export async function importDisk(name, bytes) {
  const { quota = Infinity, usage = 0 } = (await navigator.storage?.estimate?.()) ?? {};
  if (bytes.length > quota - usage) throw new Error(`this browser has no room for '${name}': ${bytes.length} bytes`);
  const file = await KeptFile.open(name, true);
  const PIECE = 64 * CHUNK;
  try {
    for (let at = 0; at < bytes.length; at += PIECE) {
      await file.write(at, bytes.subarray(at, Math.min(bytes.length, at + PIECE)));
    }
    await file.setLen(bytes.length);
    await file.flush();
  } catch (e) {
    await file.remove();
    throw e.name === "QuotaExceededError" ? new Error(`this browser has no room for '${name}'`) : e;
  }
}

/** All bytes of a disk. */
export async function exportDisk(name) {
  const file = await KeptFile.open(name, false);
  return file.read(0, file.len);
}
