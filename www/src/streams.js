// What a guest's TCP connections become in a page: requests of `fetch`, or streams of a Wisp relay.

const decoder = new TextDecoder("latin1");
const encoder = new TextEncoder();
/** Headers that belong to one connection, or that a browser sets by itself. */
const NOT_SENT = /^(host|connection|content-length|accept-encoding|transfer-encoding|user-agent|keep-alive|upgrade|te|trailer|expect)$/i;
const NOT_TOLD = /^(connection|content-length|content-encoding|transfer-encoding|keep-alive)$/i;

/** An HTTP/1 connection of a guest's whose requests are made by the browser. */
export class FetchStream {
  constructor({ host, port }) {
    this.host = host;
    this.port = port;
    this.bytes = new Uint8Array();
    this.busy = Promise.resolve();
  }

  start() {
    if (this.port === 80) this.onopen();
    else this.onfail();
  }

  write(bytes) {
    const all = new Uint8Array(this.bytes.length + bytes.length);
    all.set(this.bytes);
    all.set(bytes, this.bytes.length);
    this.bytes = all;
    for (let request; (request = this.request()); ) {
      const mine = request;
      this.busy = this.busy.then(() => this.answer(mine));
    }
  }

  end() {
    this.busy.then(() => this.onend());
  }

  /** The next whole request that has come. */
  request() {
    const text = decoder.decode(this.bytes);
    const end = text.indexOf("\r\n\r\n");
    if (end < 0) return undefined;
    const [first, ...lines] = text.slice(0, end).split("\r\n");
    const headers = lines.map((line) => [line.slice(0, line.indexOf(":")).trim(), line.slice(line.indexOf(":") + 1).trim()]);
    const get = (name) => headers.find(([n]) => n.toLowerCase() === name)?.[1];
    const length = Number(get("content-length") ?? 0);
    if (this.bytes.length < end + 4 + length) return undefined;
    const body = length ? this.bytes.slice(end + 4, end + 4 + length) : undefined;
    this.bytes = this.bytes.slice(end + 4 + length);
    const [method, target, version] = first.split(" ");
    const close = /close/i.test(get("connection") ?? "") || (version === "HTTP/1.0" && !/keep-alive/i.test(get("connection") ?? ""));
    return { method, target, headers, host: get("host") ?? this.host, body, close };
  }

  /** Where a request goes. The gateway's own address stands for the site that this page is from. */
  address({ target, host }) {
    if (/^https?:/.test(target)) return target;
    if (this.host === "gateway") return new URL(target, self.location.origin).href;
    // A page that came by https may not ask by http.
    return `${self.location.protocol === "https:" ? "https" : "http"}://${host}${target}`;
  }

  async answer(request) {
    const { method, body, close } = request;
    let response;
    try {
      const headers = new Headers(request.headers.filter(([n]) => n && !NOT_SENT.test(n)));
      response = await fetch(this.address(request), { method, headers, body, redirect: "follow" });
    } catch (e) {
      const text = `This browser could not fetch ${this.address(request)} (${e.message}). Sites must allow other pages to read them (CORS).\n`;
      response = new Response(text, { status: 502, statusText: "Bad Gateway", headers: { "content-type": "text/plain" } });
    }
    const told = [...response.headers].filter(([n]) => !NOT_TOLD.test(n)).map(([n, v]) => `${n}: ${v}\r\n`);
    // Without a length known beforehand the answer is taken whole, so that every client understands it.
    const bytes = new Uint8Array(await response.arrayBuffer().catch(() => new ArrayBuffer(0)));
    const head = `HTTP/1.1 ${response.status} ${response.statusText || "OK"}\r\n${told.join("")}Content-Length: ${bytes.length}\r\nConnection: ${close ? "close" : "keep-alive"}\r\n\r\n`;
    this.ondata(encoder.encode(head));
    if (bytes.length && method !== "HEAD") this.ondata(bytes);
    if (close) this.onend();
  }
}

const CONNECT = 1, DATA = 2, CONTINUE = 3, CLOSE = 4;

/** A Wisp relay (protocol version 1.2 of its specification): many TCP streams over one WebSocket. */
export class Wisp {
  constructor(url, tell) {
    this.url = url.endsWith("/") ? url : `${url}/`;
    this.tell = tell;
    this.streams = new Map();
    this.next = 1;
    this.open();
  }

  open() {
    this.credit = 0;
    this.waiting = [];
    this.socket = new WebSocket(this.url);
    this.socket.binaryType = "arraybuffer";
    this.socket.onopen = () => {
      this.tell(`connected to ${this.url}`);
      for (const packet of this.waiting.splice(0)) this.socket.send(packet);
    };
    this.socket.onmessage = ({ data }) => this.take(new Uint8Array(data));
    this.socket.onclose = () => {
      this.tell(`the relay ${this.url} does not answer; trying again`, true);
      for (const stream of [...this.streams.values()]) stream.onfail();
      this.streams.clear();
      setTimeout(() => this.open(), 2000);
    };
  }

  send(kind, id, payload) {
    const packet = new Uint8Array(5 + payload.length);
    packet[0] = kind;
    new DataView(packet.buffer).setUint32(1, id, true);
    packet.set(payload, 5);
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(packet);
    else this.waiting.push(packet);
  }

  take(bytes) {
    if (bytes.length < 5) return;
    const view = new DataView(bytes.buffer, bytes.byteOffset);
    const stream = this.streams.get(view.getUint32(1, true));
    if (bytes[0] === CONTINUE && view.getUint32(1, true) === 0) this.credit = view.getUint32(5, true);
    else if (!stream) return;
    else if (bytes[0] === DATA) stream.ondata(bytes.slice(5));
    else if (bytes[0] === CONTINUE) stream.more(view.getUint32(5, true));
    else if (bytes[0] === CLOSE) {
      this.streams.delete(stream.id);
      // 1 and 2 end a stream in order; the rest are reasons why there is none.
      if (bytes[5] <= 2) stream.onend();
      else stream.onfail();
    }
  }

  stream({ host, port }) {
    const wisp = this;
    const id = this.next++;
    const queue = [];
    let credit = this.credit || 16;
    const flush = () => {
      while (queue.length && credit > 0) {
        wisp.send(DATA, id, queue.shift());
        credit--;
      }
    };
    const stream = {
      id,
      start() {
        const name = encoder.encode(host === "gateway" ? "localhost" : host);
        const payload = new Uint8Array(3 + name.length);
        payload.set([1, port & 255, port >> 8]);
        payload.set(name, 3);
        wisp.streams.set(id, stream);
        wisp.send(CONNECT, id, payload);
        // The protocol does not say when a stream is open: the first bytes or a close tell.
        stream.onopen();
      },
      write(bytes) {
        queue.push(bytes);
        flush();
      },
      more(n) {
        credit = n;
        flush();
      },
      end() {},
      close() {
        if (wisp.streams.delete(id)) wisp.send(CLOSE, id, new Uint8Array([2]));
      },
    };
    return stream;
  }
}
