/** What a machine is started with. */
export interface StartOptions {
  /** The native program's (and QEMU's) command line, word by word. Names are addresses on the web, `idb:NAME` for disks kept in this browser, or names of `files`. */
  args: string[];
  files?: [name: string, content: Blob | Uint8Array][];
  /** What names are relative to; the worker if it is not given. */
  base?: string;
  /** Where firmware is, with a slash at its end; beside the worker if it is not given. */
  firmware?: string;
  /** A state to go on from: what `save` gave. */
  snapshot?: Blob | Uint8Array;
}

export interface MachineEvents {
  ready: { lines: string[]; warnings: string[] };
  frame: { width: number; height: number; pixels: Uint8ClampedArray };
  /** Bytes of `serial0`, `serial1`, `parallel0`, `monitor`. */
  serial: { line: string; bytes: Uint8Array; text: string };
  stopped: { reason: number };
  running: object;
  /** An event of QMP. */
  event: { event: { event: string; data?: unknown; timestamp: { seconds: number; microseconds: number } } };
  progress: { what: string; done: number; total: number };
  network: { id: string; text: string; bad?: boolean };
  error: { text: string };
}

/** A machine in a worker. */
export class Machine extends EventTarget {
  readonly running: boolean;
  /** Everything each line has sent, by name. */
  readonly serialText: Map<string, string>;
  on<K extends keyof MachineEvents>(type: K, listener: (detail: MachineEvents[K]) => void): this;
  start(options: StartOptions): Promise<MachineEvents["ready"]>;
  pause(): void;
  resume(): void;
  reset(): void;
  /** Ends the worker. */
  stop(): void;
  /** A key by its set-1 scan code. */
  key(code: number, down: boolean): void;
  /** Types a text on a US keyboard; gives how many characters had a key. */
  type(text: string, pace?: number): Promise<number>;
  /** Sends text or bytes to a serial line or the monitor. */
  serial(line: string, text: string | Uint8Array): void;
  /** The characters on a text screen. */
  text(): Promise<string | undefined>;
  screenshot(): Promise<Blob>;
  /** The whole machine's state, which `orrery -loadvm FILE` opens as well. */
  save(): Promise<Blob>;
  /** A QMP command and what it returns. */
  qmp<T = unknown>(command: string, args?: object): Promise<T>;
  /** A line of the monitor for people and what it prints. */
  monitor(line: string): Promise<string>;
}

export function whyStopped(reason: number): string;
/** Runs work on disks in a thread without a machine. */
export function withTools<T>(work: (tools: Machine) => Promise<T>, progress?: (detail: MachineEvents["progress"]) => void): Promise<T>;

/** `<orrery-machine args="-m 64 -fda disk.img" autostart>`. Events are those of the machine. */
export class OrreryMachine extends HTMLElement {
  readonly machine?: Machine;
  start(options?: Partial<StartOptions>): Promise<Machine>;
  stop(): void;
}

/** Set-1 scan codes by `KeyboardEvent.code`. */
export const scanCodes: Map<string, number>;

declare global {
  interface HTMLElementTagNameMap {
    "orrery-machine": OrreryMachine;
  }
}
