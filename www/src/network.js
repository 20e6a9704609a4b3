// What the network cards of a machine can be connected to in a page, by `-netdev KIND,id=ID,...`:
//
//   relay,url=wss://HOST/     whole ethernet frames through a WebSocket, one a message
//   switch[,name=NAME]        the machines of all tabs of this site that name the same switch
//   fetch                     HTTP on port 80 through the browser's own `fetch`
//   wisp,url=wss://HOST/      TCP through a WebSocket (Wisp protocol, version 1)
//
// `user` stays the core's own. The last two have a gateway in the page: `gateway.js`.

import { Gateway } from "./gateway.js";
import { FetchStream, Wisp } from "./streams.js";

const KINDS = ["relay", "switch", "fetch", "wisp"];

/** Takes the page's networks out of a command line: their cards keep a free end of the cable, named by the network. */
export function takeNetworks(args) {
  const wanted = [];
  const rest = [];
  for (let i = 0; i < args.length; i++) {
    const option = args[i].replace(/^--/, "-");
    const [kind, ...parts] = option === "-netdev" || option === "-nic" ? (args[i + 1] ?? "").split(",") : [];
    if (!KINDS.includes(kind)) {
      rest.push(args[i]);
      continue;
    }
    i++;
    const props = Object.fromEntries(parts.map((p) => [p.split("=")[0], p.slice(p.indexOf("=") + 1)]));
    if ((kind === "relay" || kind === "wisp") && !/^wss?:/.test(props.url ?? "")) {
      throw new Error(`${option} ${kind}: 'url=wss://...' is missing`);
    }
    const id = props.id ?? `${kind}${wanted.length}`;
    wanted.push({ ...props, kind, id });
    if (option === "-nic") rest.push("-device", `${props.model ?? "e1000"},id=${id}${props.mac ? `,mac=${props.mac}` : ""}`);
  }
  // `netdev=ID` of a card becomes its own name.
  const ids = new Set(wanted.map((n) => n.id));
  const rename = (word) => word.replace(/(^|,)netdev=([^,]+)/, (all, comma, id) => (ids.has(id) ? `${comma}id=${id}` : all));
  const named = rest.map((word, i) => (rest[i - 1] === "-device" ? rename(word.replace(/,id=[^,]+/, (id) => (ids.size && /netdev=/.test(word) ? "" : id))) : word));
  // A network of the page takes the place of the one that a machine has by itself.
  if (wanted.length && !named.some((w) => /^-(nic|net|netdev)$/.test(w))) named.push("-nic", "none");
  return { rest: named, wanted };
}

/** The other end of a cable. `receive` takes frames for the guest; `tell` says how it goes, in words. */
export function connect(network, receive, tell) {
  if (network.kind === "relay") return relay(network.url, receive, tell);
  if (network.kind === "switch") {
    const bus = new BroadcastChannel(`orrery-switch:${network.name ?? ""}`);
    bus.onmessage = ({ data }) => receive(new Uint8Array(data));
    tell(`on the switch '${network.name ?? ""}'`);
    return { send: (frame) => bus.postMessage(frame) };
  }
  if (network.kind === "wisp") {
    const wisp = new Wisp(network.url, tell);
    return new Gateway(receive, (to) => wisp.stream(to));
  }
  tell("HTTP through this browser");
  return new Gateway(receive, (to) => new FetchStream(to));
}

/** Frames through a WebSocket, which is opened again when it is lost. */
function relay(url, receive, tell) {
  let socket;
  let wait = 500;
  const open = () => {
    socket = new WebSocket(url);
    socket.binaryType = "arraybuffer";
    socket.onopen = () => {
      wait = 500;
      tell(`connected to ${url}`);
    };
    socket.onmessage = ({ data }) => typeof data !== "string" && receive(new Uint8Array(data));
    socket.onclose = () => {
      tell(`the relay ${url} does not answer; trying again in ${wait / 1000} s`, true);
      setTimeout(open, wait);
      wait = Math.min(wait * 2, 30_000);
    };
  };
  open();
  return {
    send(frame) {
      // What a cable loses, protocols above it send again.
      if (socket.readyState === WebSocket.OPEN && socket.bufferedAmount < 1 << 22) socket.send(frame);
    },
  };
}
