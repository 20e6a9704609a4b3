// Files the core opens: what the person gave, what is fetched from the web in pieces, and, on top of both,
// changes that are kept in memory. Implements what `frontends/web/src/host.rs` asks for.

import { CHUNK, KeptFile, committed, done, openDatabase } from "./storage.js";

/** Bytes of a file of the web fetched and cached at a time. */
const PIECE = 256 * 1024;
/** Pieces of such a file that are held in memory. */
const HELD = 64;
/** Most pieces asked for at once when a file is read from front to back. */
const AHEAD = 8;

/** A file that the person gave. */
class GivenFile {
  constructor(blob) {
    this.blob = blob;
    this.len = blob.size;
  }
  async read(offset, len) {
    const out = new Uint8Array(len);
    out.set(new Uint8Array(await this.blob.slice(offset, offset + len).arrayBuffer()));
    return out;
  }
}

/** Bytes in memory. */
class BytesFile {
  constructor(bytes) {
    this.bytes = bytes;
    this.len = bytes.length;
  }
  read(offset, len) {
    const out = new Uint8Array(len);
    out.set(this.bytes.subarray(offset, Math.min(this.bytes.length, offset + len)));
    return out;
  }
}

/** A file of the web whose server gives parts: each part is fetched once, and kept in the database. */
class RangeFile {
  constructor(url, len, tag, db) {
    this.url = url;
    this.len = len;
    this.key = `${url} ${len} ${tag}`;
    this.db = db;
    this.pieces = new Map();
    this.next = 0;
    this.run = 1;
    this.fetched = 0;
  }

  async read(offset, len) {
    const first = Math.floor(offset / PIECE);
    const end = Math.min(this.len, offset + len);
    const last = Math.max(first, Math.floor((end - 1) / PIECE));
    this.run = first === this.next ? Math.min(AHEAD, this.run * 2) : 1;
    this.next = last + 1;
    const out = new Uint8Array(len);
    const wanted = [];
    for (let n = first; n <= last; n++) wanted.push(this.piece(n, Math.max(1, last - n + 1)));
    for (let i = 0; i < wanted.length; i++) {
      const bytes = await wanted[i];
      const at = (first + i) * PIECE;
      const from = Math.max(offset, at);
      const to = Math.min(end, at + bytes.length);
      if (to > from) out.set(bytes.subarray(from - at, to - at), from - offset);
    }
    return out;
  }

  piece(n, more) {
    let piece = this.pieces.get(n);
    if (!piece) {
      piece = this.load(n, Math.max(more, this.run));
      this.pieces.set(n, piece);
      piece.catch(() => this.pieces.delete(n));
      for (const old of this.pieces.keys()) {
        if (this.pieces.size <= HELD) break;
        this.pieces.delete(old);
      }
    }
    return piece;
  }

  async load(n, ahead) {
    const cached = await done(this.db.transaction("cache").objectStore("cache").get([this.key, n]));
    if (cached) return new Uint8Array(cached);
    const count = Math.ceil(this.len / PIECE);
    let end = n + 1;
    // Pieces behind this one that nobody has asked for come along.
    const parts = [];
    while (end < Math.min(count, n + ahead) && !this.pieces.has(end)) {
      const at = end++;
      this.pieces.set(at, new Promise((resolve, reject) => parts.push({ at, resolve, reject })));
      this.pieces.get(at).catch(() => this.pieces.delete(at));
    }
    try {
      const range = `bytes=${n * PIECE}-${Math.min(this.len, end * PIECE) - 1}`;
      const response = await fetchAgain(this.url, { headers: { range } });
      if (response.status !== 206) throw new Error(`'${this.url}' cannot be read: ${response.status} ${response.statusText}`);
      const all = new Uint8Array(await response.arrayBuffer());
      this.fetched += all.length;
      const t = this.db.transaction("cache", "readwrite", { durability: "relaxed" });
      for (let i = n; i < end; i++) {
        const bytes = all.slice((i - n) * PIECE, (i - n + 1) * PIECE);
        t.objectStore("cache").put(bytes.buffer, [this.key, i]);
        parts.find((p) => p.at === i)?.resolve(bytes);
      }
      // A cache that is full is no reason to stop.
      committed(t).catch(() => {});
      return all.slice(0, PIECE);
    } catch (e) {
      for (const part of parts) part.reject(e);
      throw e;
    }
  }
}

/** Fetches; what the network loses is asked for again. */
async function fetchAgain(url, options, times = 4) {
  for (let n = 1; ; n++) {
    try {
      return await fetch(url, options);
    } catch (e) {
      if (n === times) throw new Error(`'${url}' cannot be fetched: ${e.message}`);
      await new Promise((resolve) => setTimeout(resolve, 300 * n));
    }
  }
}

const opened = new Map();

/** Opens a file of the web, in pieces if its server gives them. */
export function openUrl(name, progress = () => {}, base = self.location.href) {
  const url = new URL(name, base).href;
  if (!opened.has(url)) {
    opened.set(url, openFresh(url, name, progress));
    opened.get(url).catch(() => opened.delete(url));
  }
  return opened.get(url);
}

async function openFresh(url, name, progress) {
  let db;
  try {
    db = await openDatabase();
  } catch {
    // Without storage every start fetches everything.
  }
  const known = db && (await done(db.transaction("fetched").objectStore("fetched").get(url)));
  let response;
  try {
    response = await fetchAgain(url, db ? { headers: { range: `bytes=0-${PIECE - 1}` } } : {}, 2);
  } catch (e) {
    if (known) return new RangeFile(url, known.len, known.tag, db);
    throw e;
  }
  if (!response.ok) throw new Error(`'${name}' cannot be fetched: ${response.status} ${response.statusText}`);
  const total = Number(/\/(\d+)$/.exec(response.headers.get("content-range") ?? "")?.[1]);
  if (response.status === 206 && total > 0 && db) {
    const tag = response.headers.get("etag") ?? response.headers.get("last-modified") ?? "";
    const file = new RangeFile(url, total, tag, db);
    file.pieces.set(0, response.arrayBuffer().then((b) => new Uint8Array(b)));
    const first = await file.pieces.get(0);
    file.fetched += first.length;
    const t = db.transaction(["fetched", "cache"], "readwrite", { durability: "relaxed" });
    t.objectStore("fetched").put({ len: total, tag, time: Date.now() }, url);
    t.objectStore("cache").put(first.slice().buffer, [file.key, 0]);
    committed(t).catch(() => {});
    return file;
  }
  const length = Number(response.headers.get("content-length")) || 0;
  const parts = [];
  let got = 0;
  for await (const part of chunks(response.body)) {
    parts.push(part);
    got += part.length;
    progress(name, got, length);
  }
  const bytes = new Uint8Array(got);
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return new BytesFile(bytes);
}

/** The chunks of a stream. */
async function* chunks(stream) {
  const reader = stream.getReader();
  for (;;) {
    const { value, done: end } = await reader.read();
    if (end) return;
    yield value;
  }
}

/** Changes in memory over a file that is only read. They go into a state of the machine, and end with it. */
class Changed {
  constructor(base, changes) {
    this.base = base;
    this.len = changes?.len ?? base.len;
    this.changes = changes?.chunks ?? new Map();
    this.tail = Promise.resolve();
  }

  read(offset, len) {
    if (this.changes.size === 0) {
      const n = Math.min(len, this.base.len - offset);
      if (n === len) return this.base.read(offset, len);
    }
    return this.tail.then(() => this.patched(offset, len));
  }

  async patched(offset, len) {
    const out = new Uint8Array(len);
    const n = Math.min(len, this.base.len - offset);
    if (n > 0) out.set((await this.base.read(offset, n)).subarray(0, n));
    for (let c = Math.floor(offset / CHUNK); c * CHUNK < offset + len; c++) {
      const chunk = this.changes.get(c);
      if (!chunk) continue;
      const from = Math.max(offset, c * CHUNK);
      const to = Math.min(offset + len, (c + 1) * CHUNK);
      out.set(chunk.subarray(from - c * CHUNK, to - c * CHUNK), from - offset);
    }
    return out;
  }

  write(offset, bytes) {
    const result = this.tail.then(async () => {
      for (let c = Math.floor(offset / CHUNK); c * CHUNK < offset + bytes.length; c++) {
        const at = c * CHUNK;
        const from = Math.max(offset, at);
        const to = Math.min(offset + bytes.length, at + CHUNK);
        if (!this.changes.has(c)) {
          const whole = to - from === CHUNK;
          this.changes.set(c, whole ? new Uint8Array(CHUNK) : await this.patched(at, CHUNK));
        }
        this.changes.get(c).set(bytes.subarray(from - offset, to - offset), from - at);
      }
      this.len = Math.max(this.len, offset + bytes.length);
    });
    this.tail = result.catch(() => {});
    return result;
  }

  flush() {}

  setLen(len) {
    this.len = len;
  }
}

/** A file that is made in memory and handed to the person. */
class MadeFile {
  constructor() {
    this.bytes = new Uint8Array(1 << 20);
    this.len = 0;
  }
  read(offset, len) {
    const out = new Uint8Array(len);
    out.set(this.bytes.subarray(offset, Math.min(this.len, offset + len)));
    return out;
  }
  write(offset, bytes) {
    this.setLen(Math.max(this.len, offset + bytes.length));
    this.bytes.set(bytes, offset);
  }
  flush() {}
  setLen(len) {
    if (len > this.bytes.length) {
      const grown = new Uint8Array(Math.max(len, this.bytes.length * 2));
      grown.set(this.bytes.subarray(0, this.len));
      this.bytes = grown;
    } else if (len < this.len) this.bytes.fill(0, len, this.len);
    this.len = len;
  }
}

/** Files made under names that begin with `mem:`. */
export const made = new Map();
/** Changes to files that are not kept, by name. */
const changed = new Map();

/** What must go into a state of the machine besides its memory. */
export function changes() {
  return [...changed].filter(([, f]) => f.changes.size > 0).map(([name, f]) => [name, { len: f.len, chunks: f.changes }]);
}

/**
 * Makes the object the core calls. `given` maps names to files or Uint8Arrays; names that begin with `idb:` are disks in the
 * database, with `mem:` files in memory; anything else is fetched. `earlier` are changes from a state, by name.
 */
export function makeHost(core, given = new Map(), { progress, earlier = new Map(), addresses = new Map(), base } = {}) {
  const files = new Map();
  let next = 1;
  const answer = (op, promise, then) => {
    if (promise instanceof Promise) {
      promise.then(then, (e) => core.fail(op, String(e?.message ?? e), e?.name === "QuotaExceededError"));
    } else {
      then(promise);
    }
  };
  const find = async (name, write, create) => {
    if (name.startsWith("idb:")) return KeptFile.open(name.slice(4), create, write, openUrl);
    if (name.startsWith("mem:")) {
      if (create) made.set(name, new MadeFile());
      if (!made.has(name)) throw new Error(`there is no '${name}'`);
      return made.get(name);
    }
    if (changed.has(name)) return changed.get(name);
    if (create) throw new Error(`'${name}' cannot be created here; use a name that begins with 'idb:'`);
    const own = given.get(name);
    const below = own === undefined ? await openUrl(addresses.get(name) ?? name, progress, base) : own instanceof Blob ? new GivenFile(own) : new BytesFile(own);
    if (!write) return below;
    changed.set(name, new Changed(below, earlier.get(name)));
    return changed.get(name);
  };
  return {
    keepsDisks: () => Boolean(globalThis.indexedDB),
    open(op, name, write, create) {
      answer(op, find(name, write, create), (file) => {
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
      const file = files.get(id);
      if (!file.write) return core.fail(op, "it was opened for reading only", false);
      answer(op, file.write(offset, bytes.slice()), () => core.finish(op, new Uint8Array()));
    },
    flush(op, id) {
      answer(op, files.get(id).flush?.(), () => core.finish(op, new Uint8Array()));
    },
    setLen(op, id, len) {
      answer(op, files.get(id).setLen(len), () => core.finish(op, new Uint8Array()));
    },
  };
}
