// What a file is, by its first bytes; and files out of gz, xz, zst and zip.

const text = (bytes, at, len) => String.fromCharCode(...bytes.subarray(at, at + len));
const begins = (bytes, ...values) => values.every((v, i) => bytes[i] === v);

/** What a file is: `gz xz zst zip`, `state`, `cd`, `floppy`, `kernel` or `disk`. */
export async function kindOf(file) {
  const head = new Uint8Array(await file.slice(0, 0x8806).arrayBuffer());
  if (begins(head, 0x1f, 0x8b)) return "gz";
  if (begins(head, 0xfd, 0x37, 0x7a, 0x58, 0x5a, 0)) return "xz";
  if (begins(head, 0x28, 0xb5, 0x2f, 0xfd)) return "zst";
  if (begins(head, 0x50, 0x4b, 3, 4)) return "zip";
  if (text(head, 0, 8) === "ORRERYSS") return "state";
  if (text(head, 0x8001, 5) === "CD001") return "cd";
  if (text(head, 0x202, 4) === "HdrS") return "kernel";
  if (/\.iso$/i.test(file.name ?? "")) return "cd";
  const image = ["QFI\xfb", "KDMV", "vhdx", "cone", "QED\0", "With"].includes(text(head, 0, 4)) || text(head, 0, 4) === "<<< ";
  if (!image && file.size <= 2_949_120 && file.size % 512 === 0) return "floppy";
  return "disk";
}

/** Counts the bytes that go through. */
function counted(stream, size, progress) {
  let got = 0;
  const count = new TransformStream({
    transform(chunk, controller) {
      got += chunk.length;
      progress(got, size);
      controller.enqueue(chunk);
    },
  });
  return stream.pipeThrough(count);
}

async function collect(stream, name) {
  const blob = await new Response(stream).blob();
  return new File([blob], name);
}

/** Decodes Zstandard. */
async function zstd(stream) {
  const { Decompress } = await import("./vendor/fzstd.js");
  const reader = stream.getReader();
  return new ReadableStream({
    start(controller) {
      this.decoder = new Decompress((chunk) => chunk.length && controller.enqueue(chunk.slice()));
    },
    async pull(controller) {
      const { value, done } = await reader.read();
      this.decoder.push(value ?? new Uint8Array(), done);
      if (done) controller.close();
    },
  });
}

/** The largest file of a zip archive (APPNOTE.TXT, sections 4.3.7 to 4.3.16), with 64-bit sizes. */
async function unzip(file, progress) {
  const bytes = async (from, to) => new DataView(await file.slice(from, to).arrayBuffer());
  const tail = await bytes(Math.max(0, file.size - 65_557), file.size);
  let at = tail.byteLength - 22;
  while (at >= 0 && tail.getUint32(at, true) !== 0x06054b50) at--;
  if (at < 0) throw new Error(`'${file.name}' is a damaged zip archive`);
  let [count, start] = [tail.getUint16(at + 10, true), tail.getUint32(at + 16, true)];
  if (start === 0xffffffff && at >= 20) {
    const record = Number(tail.getBigUint64(at - 12, true));
    const end = await bytes(record, record + 56);
    [count, start] = [Number(end.getBigUint64(32, true)), Number(end.getBigUint64(48, true))];
  }
  const directory = await bytes(start, file.size);
  const entries = [];
  for (let p = 0, i = 0; i < count && directory.getUint32(p, true) === 0x02014b50; i++) {
    const [nameLen, extraLen, noteLen] = [28, 30, 32].map((o) => directory.getUint16(p + o, true));
    const entry = {
      method: directory.getUint16(p + 10, true),
      packed: directory.getUint32(p + 20, true),
      size: directory.getUint32(p + 24, true),
      offset: directory.getUint32(p + 42, true),
      name: new TextDecoder().decode(new Uint8Array(directory.buffer, p + 46, nameLen)),
    };
    let e = p + 46 + nameLen;
    for (const end = e + extraLen; e + 4 <= end; e += 4 + directory.getUint16(e + 2, true)) {
      if (directory.getUint16(e, true) !== 1) continue;
      let field = e + 4;
      for (const which of ["size", "packed", "offset"]) {
        if (entry[which] !== 0xffffffff) continue;
        entry[which] = Number(directory.getBigUint64(field, true));
        field += 8;
      }
    }
    entries.push(entry);
    p += 46 + nameLen + extraLen + noteLen;
  }
  const best = entries.sort((a, b) => b.size - a.size)[0];
  if (!best?.size) throw new Error(`the archive '${file.name}' is empty`);
  if (![0, 8].includes(best.method)) throw new Error(`'${best.name}' is packed by a method that this page cannot undo; unpack the archive first`);
  const local = await bytes(best.offset, best.offset + 30);
  const data = best.offset + 30 + local.getUint16(26, true) + local.getUint16(28, true);
  let stream = counted(file.slice(data, data + best.packed).stream(), best.packed, progress);
  if (best.method === 8) stream = stream.pipeThrough(new DecompressionStream("deflate-raw"));
  return collect(stream, best.name.split("/").pop());
}

/** The file itself, or what is packed in it. `progress` hears of bytes read and their sum. */
export async function unpack(file, progress = () => {}) {
  for (;;) {
    const kind = await kindOf(file);
    const inner = file.name.replace(/\.(gz|xz|zst|zstd|zip)$/i, "");
    const stream = () => counted(file.stream(), file.size, progress);
    try {
      if (kind === "gz") file = await collect(stream().pipeThrough(new DecompressionStream("gzip")), inner);
      else if (kind === "zst") file = await collect(await zstd(stream()), inner);
      else if (kind === "zip") file = await unzip(file, progress);
      else if (kind === "xz") {
        const { XzReadableStream } = await import("./vendor/xz.js");
        file = await collect(new XzReadableStream(stream()), inner);
      } else return { file, kind };
    } catch (e) {
      throw new Error(`'${file.name}' cannot be unpacked: ${e.message}; it may be damaged or cut short`, { cause: e });
    }
  }
}
