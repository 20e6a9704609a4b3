// A gateway for a guest without a way out of its own: ARP (RFC 826), DHCP (RFC 2131), DNS (RFC 1035), ICMP echo, and TCP
// (RFC 9293) that ends here and goes on as a stream of the page's. Names get addresses of 198.18.0.0/15, which stand for
// them when a connection comes.

const MAC = [0x52, 0x55, 0x0a, 0, 2, 2];
const HOST = 0x0a000202;
const DNS = 0x0a000203;
const GUEST = 0x0a00020f;
const MSS = 1460;
const WINDOW = 65_535;
/** Bytes from a stream that wait for the guest. */
const QUEUE = 1 << 20;
const RETRY = 400;
const FIN = 1, SYN = 2, RST = 4, PSH = 8, ACK = 16;

const dotted = (ip) => [24, 16, 8, 0].map((s) => (ip >>> s) & 255).join(".");

function checksum(bytes, from, to, sum = 0) {
  for (let i = from; i < to; i += 2) sum += (bytes[i] << 8) | (i + 1 < to ? bytes[i + 1] : 0);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return ~sum & 0xffff;
}

export class Gateway {
  /** `receive` takes frames for the guest; `open({host, port})` gives a stream with `write`, `end`, `onopen`, `ondata`, `onend`, `onfail`. */
  constructor(receive, open) {
    this.receive = receive;
    this.open = open;
    this.guestMac = undefined;
    this.names = new Map();
    this.addresses = new Map();
    this.connections = new Map();
    this.ident = 1;
  }

  send(frame) {
    const view = new DataView(frame.buffer, frame.byteOffset, frame.byteLength);
    if (frame.length < 34) return;
    this.guestMac = frame.slice(6, 12);
    const kind = view.getUint16(12);
    if (kind === 0x0806) this.arp(frame, view);
    else if (kind === 0x0800 && frame[14] >> 4 === 4) this.ip(frame, view);
  }

  frame(kind, len) {
    const frame = new Uint8Array(14 + len);
    frame.set(this.guestMac);
    frame.set(MAC, 6);
    frame[12] = kind >> 8;
    frame[13] = kind & 255;
    return [frame, new DataView(frame.buffer)];
  }

  arp(frame, view) {
    const [from, to] = [view.getUint32(28), view.getUint32(38)];
    // Everyone but the guest itself is the gateway.
    if (view.getUint16(20) !== 1 || to === from || to === GUEST) return;
    const [out, o] = this.frame(0x0806, 28);
    out.set(frame.subarray(14, 20), 14);
    o.setUint16(20, 2);
    out.set(MAC, 22);
    o.setUint32(28, to);
    out.set(frame.subarray(22, 32), 32);
    this.receive(out);
  }

  ip(frame, view) {
    const header = (frame[14] & 15) * 4;
    const len = Math.min(view.getUint16(16), frame.length - 14);
    const packet = { from: view.getUint32(26), to: view.getUint32(30), data: frame.subarray(14 + header, 14 + len) };
    if (packet.data.length < 8 || view.getUint16(20) & 0x3fff) return;
    if (frame[23] === 1) this.icmp(packet);
    else if (frame[23] === 17) this.udp(packet);
    else if (frame[23] === 6) this.tcp(packet);
  }

  /** An IP packet to the guest with room for `len` bytes; `finish` puts checksums in and sends it. */
  packet(protocol, from, to, len) {
    const [out, o] = this.frame(0x0800, 20 + len);
    o.setUint16(14, 0x4500);
    o.setUint16(16, 20 + len);
    o.setUint16(18, this.ident++ & 0xffff);
    o.setUint16(20, 0x4000);
    o.setUint16(22, (64 << 8) | protocol);
    o.setUint32(26, from);
    o.setUint32(30, to);
    o.setUint16(24, checksum(out, 14, 34));
    const pseudo = (from >>> 16) + (from & 0xffff) + (to >>> 16) + (to & 0xffff) + protocol + len;
    const finish = (at) => {
      o.setUint16(34 + at, checksum(out, 34, out.length, protocol === 1 ? 0 : pseudo));
      this.receive(out);
    };
    return { out, o, finish };
  }

  icmp({ from, to, data }) {
    if (data[0] !== 8 || (to !== HOST && to !== DNS)) return;
    const { out, finish } = this.packet(1, to, from, data.length);
    out.set(data, 34);
    out.set([0, 0, 0, 0], 34);
    finish(2);
  }

  reply(from, fromPort, to, toPort, data) {
    const { out, o, finish } = this.packet(17, from, to, 8 + data.length);
    o.setUint16(34, fromPort);
    o.setUint16(36, toPort);
    o.setUint16(38, 8 + data.length);
    out.set(data, 42);
    finish(6);
  }

  udp({ from, to, data }) {
    const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
    const [fromPort, toPort] = [view.getUint16(0), view.getUint16(2)];
    const body = data.subarray(8, view.getUint16(4));
    if (toPort === 67) this.dhcp(body);
    else if (toPort === 53) {
      const answer = this.dns(body);
      if (answer) this.reply(to, 53, from, fromPort, answer);
    }
  }

  dhcp(body) {
    if (body.length < 240 || body[0] !== 1) return;
    let kind = 0;
    for (let i = 240; i < body.length && body[i] !== 255; i += body[i] === 0 ? 1 : 2 + body[i + 1]) if (body[i] === 53) kind = body[i + 2];
    if (kind !== 1 && kind !== 3) return;
    const out = new Uint8Array(300);
    const o = new DataView(out.buffer);
    out.set(body.subarray(0, 12));
    out[0] = 2;
    o.setUint32(16, GUEST);
    o.setUint32(20, HOST);
    out.set(body.subarray(28, 44), 28);
    o.setUint32(236, 0x63825363);
    const address = (code, ip) => [code, 4, ip >>> 24, (ip >>> 16) & 255, (ip >>> 8) & 255, ip & 255];
    out.set(
      [53, 1, kind === 1 ? 2 : 5, ...address(54, HOST), ...address(1, 0xffffff00), ...address(3, HOST), ...address(6, DNS), ...address(51, 86_400), 255],
      240,
    );
    this.reply(HOST, 67, 0xffffffff, 68, out);
  }

  /** The address that stands for a name. */
  addressOf(name) {
    if (/^\d+\.\d+\.\d+\.\d+$/.test(name)) return name.split(".").reduce((ip, n) => ((ip << 8) | Number(n)) >>> 0, 0);
    if (!this.names.has(name)) {
      const ip = (0xc6120000 + 256 + this.names.size) >>> 0;
      this.names.set(name, ip);
      this.addresses.set(ip, name);
    }
    return this.names.get(name);
  }

  dns(query) {
    if (query.length < 17 || query[2] & 0x80) return undefined;
    const labels = [];
    let at = 12;
    while (at < query.length && query[at]) {
      labels.push(String.fromCharCode(...query.subarray(at + 1, at + 1 + query[at])));
      at += 1 + query[at];
    }
    const end = at + 5;
    const wantsAddress = query[at + 2] === 1;
    const out = new Uint8Array(end + (wantsAddress ? 16 : 0));
    out.set(query.subarray(0, end));
    const o = new DataView(out.buffer);
    o.setUint16(2, 0x8180);
    o.setUint16(4, 1);
    o.setUint16(6, wantsAddress ? 1 : 0);
    o.setUint32(8, 0);
    if (wantsAddress) {
      out.set([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4], end);
      o.setUint32(end + 12, this.addressOf(labels.join(".").toLowerCase()));
    }
    return out;
  }

  tcp({ from, to, data }) {
    const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
    if (data.length < 20) return;
    const segment = {
      from,
      to,
      fromPort: view.getUint16(0),
      toPort: view.getUint16(2),
      seq: view.getUint32(4),
      ack: view.getUint32(8),
      flags: data[13],
      window: view.getUint16(14),
      data: data.subarray((data[12] >> 4) * 4),
    };
    const key = `${from}:${segment.fromPort}>${to}:${segment.toPort}`;
    let c = this.connections.get(key);
    if (segment.flags & SYN && !(segment.flags & ACK)) {
      if (!c || c.next !== (segment.seq + 1) >>> 0) {
        c?.drop();
        c = new Connection(this, key, segment);
        this.connections.set(key, c);
      }
      return;
    }
    if (c) c.take(segment);
    else if (!(segment.flags & RST)) {
      this.segment(segment.to, segment.toPort, from, segment.fromPort, segment.ack, (segment.seq + segment.data.length) >>> 0, RST | ACK, []);
    }
  }

  segment(from, fromPort, to, toPort, seq, ack, flags, data) {
    const options = flags & SYN ? [2, 4, MSS >> 8, MSS & 255] : [];
    const { out, o, finish } = this.packet(6, from, to, 20 + options.length + data.length);
    o.setUint16(34, fromPort);
    o.setUint16(36, toPort);
    o.setUint32(38, seq);
    o.setUint32(42, ack);
    out[46] = ((20 + options.length) / 4) << 4;
    out[47] = flags;
    o.setUint16(48, WINDOW);
    out.set(options, 54);
    out.set(data, 54 + options.length);
    finish(16);
  }
}

/** One connection of the guest's, from its first segment on. */
class Connection {
  constructor(gateway, key, syn) {
    Object.assign(this, { gateway, key, peer: syn.from, peerPort: syn.fromPort, here: syn.to, port: syn.toPort });
    this.next = (syn.seq + 1) >>> 0;
    this.una = this.sent = 0x10000;
    this.window = syn.window;
    this.queue = [];
    this.queued = 0;
    this.ended = this.closed = false;
    this.finSent = undefined;
    const host = gateway.addresses.get(syn.to) ?? (syn.to === HOST ? "gateway" : dotted(syn.to));
    this.stream = gateway.open({ host, port: syn.toPort });
    this.stream.onopen = () => {
      this.transmit(SYN | ACK, [], this.sent);
      this.sent++;
      this.arm();
    };
    this.stream.ondata = (bytes) => {
      this.queue.push(bytes);
      this.queued += bytes.length;
      this.push();
    };
    this.stream.full = () => this.queued > QUEUE;
    this.stream.onend = () => {
      this.ended = true;
      this.push();
    };
    this.stream.onfail = () => {
      this.transmit(RST | ACK, [], this.sent);
      this.drop();
    };
    this.stream.start?.();
  }

  transmit(flags, data, seq) {
    this.gateway.segment(this.here, this.port, this.peer, this.peerPort, seq, this.next, flags, data);
  }

  arm() {
    clearTimeout(this.timer);
    if (this.una === this.sent) return;
    this.timer = setTimeout(() => {
      // Go back to what was not acknowledged.
      if (this.una === 0x10000) this.transmit(SYN | ACK, [], this.una);
      else {
        this.sent = this.una;
        this.finSent = undefined;
        this.push();
      }
      this.arm();
    }, RETRY);
  }

  /** The bytes of the queue from `offset` on, at most a segment. */
  bytesAt(offset) {
    const out = [];
    let skip = offset;
    let left = MSS;
    for (const part of this.queue) {
      if (skip >= part.length) {
        skip -= part.length;
        continue;
      }
      const piece = part.subarray(skip, skip + left);
      skip = 0;
      out.push(piece);
      left -= piece.length;
      if (left === 0) break;
    }
    if (out.length === 1) return out[0];
    const bytes = new Uint8Array(MSS - left);
    let at = 0;
    for (const piece of out) {
      bytes.set(piece, at);
      at += piece.length;
    }
    return bytes;
  }

  push() {
    if (this.una === 0x10000) return;
    for (;;) {
      const flying = (this.sent - this.una) >>> 0;
      const left = this.queued - flying;
      if (this.finSent !== undefined) break;
      if (left <= 0) {
        if (this.ended) {
          this.transmit(FIN | ACK, [], this.sent);
          this.finSent = this.sent;
          this.sent = (this.sent + 1) >>> 0;
        }
        break;
      }
      const room = this.window - flying;
      if (room < Math.min(left, MSS)) break;
      const data = this.bytesAt(flying);
      this.transmit(ACK | PSH, data, this.sent);
      this.sent = (this.sent + data.length) >>> 0;
    }
    this.arm();
  }

  take({ seq, ack, flags, window, data }) {
    if (flags & RST) return this.drop();
    this.window = window;
    const gone = (ack - this.una) >>> 0;
    if (flags & ACK && gone > 0 && gone <= (this.sent - this.una) >>> 0) {
      let bytes = this.una === 0x10000 ? gone - 1 : gone;
      if (this.finSent !== undefined && ack === (this.finSent + 1) >>> 0) bytes--;
      this.una = ack;
      this.queued -= bytes;
      while (bytes > 0) {
        const first = this.queue[0];
        if (first.length > bytes) {
          this.queue[0] = first.subarray(bytes);
          break;
        }
        bytes -= first.length;
        this.queue.shift();
      }
      this.stream.drained?.();
    }
    // Segments out of order come again.
    if (seq === this.next) {
      if (data.length) {
        this.next = (this.next + data.length) >>> 0;
        this.stream.write(data.slice());
      }
      if (flags & FIN && !this.closed) {
        this.closed = true;
        this.next = (this.next + 1) >>> 0;
        this.stream.end();
      }
    }
    if (data.length || flags & FIN) this.transmit(ACK, [], this.sent);
    this.push();
    if (this.closed && this.finSent !== undefined && this.una === this.sent) this.drop();
  }

  drop() {
    clearTimeout(this.timer);
    this.gateway.connections.delete(this.key);
    this.stream.close?.();
  }
}
