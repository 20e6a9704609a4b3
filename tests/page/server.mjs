// The site under test: `www/dist`, guests, and files that nothing can be done with. It gives parts of files where it is asked
// for them, and counts what it gave.

import crypto from "node:crypto";
import fs from "node:fs";
import http from "node:http";
import path from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../..", import.meta.url));
const dist = path.join(root, "www/dist");
const shared = path.join(root, "../shared/guests");
const first = (...names) => names.find((name) => fs.existsSync(name)) ?? names[0];

/** Guest files by the name the page fetches them under. */
export const guests = {
  "freedos.img": first(path.join(shared, "x86/freedos722.img"), path.join(root, "guests/freedos/freedos.img")),
  "debian-i386": path.join(root, "guests/debian-i386/linux"),
  "debian-i386-initrd": path.join(root, "guests/debian-i386/initrd.gz"),
  "ipxe.iso": path.join(root, "guests/ipxe/ipxe.iso"),
  "grub.iso": path.join(root, "guests/grub/grub-rescue-cdrom.iso"),
};
const types = { ".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".wasm": "application/wasm", ".json": "application/json", ".svg": "image/svg+xml", ".webmanifest": "application/manifest+json", ".png": "image/png" };

export class Site {
  constructor() {
    /** Contents by name, in place of files. */
    this.extra = {
      "zeros.bin": Buffer.alloc(65536),
      "cut.qcow2": Buffer.from([0x51, 0x46, 0x49, 0xfb, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
      "hello.txt": Buffer.from("hello from the page's own site\n"),
    };
    /** Bytes given, by name. */
    this.given = new Map();
    /** Names for which no parts are given. */
    this.whole = new Set();
    this.sockets = new Set();
  }

  async listen() {
    this.server = http.createServer((request, response) => this.answer(request, response));
    this.server.on("upgrade", (request, socket) => this.upgrade(request, socket));
    await new Promise((done) => this.server.listen(0, done));
    this.url = `http://localhost:${this.server.address().port}/`;
    return this;
  }

  close() {
    for (const socket of this.sockets) socket.destroy();
    this.server.closeAllConnections();
    this.server.close();
  }

  answer(request, response) {
    const name = decodeURIComponent(new URL(request.url, "http://localhost").pathname).slice(1) || "index.html";
    const file = guests[name] ?? path.join(dist, name);
    const bytes = this.extra[name];
    let size;
    try {
      const stat = bytes ? undefined : fs.statSync(file);
      if (stat && !stat.isFile()) throw new Error("no file");
      size = bytes?.length ?? stat.size;
    } catch {
      response.writeHead(404).end();
      return;
    }
    const headers = { "content-type": types[path.extname(name)] ?? "application/octet-stream", etag: `"${size}"`, "cache-control": "no-store" };
    const range = this.whole.has(name) ? null : /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? "");
    let [from, to] = [0, size];
    if (range) {
      from = Number(range[1]);
      to = range[2] ? Math.min(size, Number(range[2]) + 1) : size;
      headers["content-range"] = `bytes ${from}-${to - 1}/${size}`;
    }
    headers["content-length"] = Math.max(0, to - from);
    this.given.set(name, (this.given.get(name) ?? 0) + headers["content-length"]);
    response.writeHead(range ? 206 : 200, headers);
    if (to <= from || request.method === "HEAD") response.end();
    else if (bytes) response.end(bytes.subarray(from, to));
    else fs.createReadStream(file, { start: from, end: to - 1 }).pipe(response);
  }

  /** WebSockets (RFC 6455), binary messages: `/frames` gives each to all others, `/wisp/` is a Wisp relay to this site. */
  upgrade(request, socket) {
    const key = crypto.createHash("sha1").update(`${request.headers["sec-websocket-key"]}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest("base64");
    socket.write(`HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ${key}\r\n\r\n`);
    this.sockets.add(socket);
    socket.on("error", () => {});
    socket.on("close", () => this.sockets.delete(socket));
    socket.sendMessage = (bytes) => {
      const head = bytes.length < 126 ? Buffer.from([0x82, bytes.length]) : Buffer.from([0x82, 126, bytes.length >> 8, bytes.length & 255]);
      socket.write(Buffer.concat([head, bytes]));
    };
    socket.path = request.url;
    let data = Buffer.alloc(0);
    socket.on("data", (part) => {
      data = Buffer.concat([data, part]);
      for (;;) {
        if (data.length < 6) return;
        let [len, at] = [data[1] & 127, 2];
        if (len === 126) [len, at] = [data.readUInt16BE(2), 4];
        else if (len === 127) [len, at] = [Number(data.readBigUInt64BE(2)), 10];
        if (data.length < at + 4 + len) return;
        const mask = data.subarray(at, at + 4);
        const bytes = Buffer.from(data.subarray(at + 4, at + 4 + len).map((b, i) => b ^ mask[i & 3]));
        const opcode = data[0] & 15;
        data = data.subarray(at + 4 + len);
        if (opcode === 8) return socket.end();
        if (opcode === 2) this.message(socket, bytes);
      }
    });
    if (socket.path === "/wisp/") {
      socket.streams = new Map();
      socket.sendMessage(Buffer.from([3, 0, 0, 0, 0, 32, 0, 0, 0]));
    }
  }

  message(socket, bytes) {
    if (socket.path === "/frames") {
      for (const other of this.sockets) if (other !== socket && other.path === "/frames") other.sendMessage(bytes);
      return;
    }
    if (socket.path !== "/wisp/") return;
    const id = bytes.readUInt32LE(1);
    const packet = (kind, payload) => {
      const head = Buffer.alloc(5);
      head[0] = kind;
      head.writeUInt32LE(id, 1);
      socket.sendMessage(Buffer.concat([head, payload]));
    };
    if (bytes[0] === 1) {
      // Whatever is asked for, this site answers.
      const request = http.request({ port: this.server.address().port, path: "/hello.txt" }, (response) => {
        response.on("data", (body) => {
          packet(2, Buffer.from(`HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: ${body.length}\r\nConnection: close\r\n\r\n`));
          packet(2, body);
        });
        response.on("end", () => packet(4, Buffer.from([2])));
      });
      socket.streams.set(id, request);
      this.wisped = bytes.subarray(8).toString();
    } else if (bytes[0] === 2) {
      socket.streams.get(id)?.end();
      const credit = Buffer.alloc(4);
      credit.writeUInt32LE(32);
      packet(3, credit);
    }
  }
}
