// Sound: the worker mixes, an AudioWorklet plays what comes through a channel between the two.

export class Sound {
  constructor(machine) {
    this.machine = machine;
    this.volume = Number(localStorage.getItem("orrery-volume") ?? 0.6);
    this.muted = localStorage.getItem("orrery-muted") === "1";
  }

  /** Begins to play. Browsers allow it after the person has done something on the page. */
  async start() {
    if (this.context) return this.context.resume();
    const context = new AudioContext({ latencyHint: "interactive", sampleRate: 48_000 });
    this.context = context;
    await context.audioWorklet.addModule(new URL("./sound-worklet.js", import.meta.url));
    this.node = new AudioWorkletNode(context, "orrery-sound", { numberOfInputs: 0, outputChannelCount: [2] });
    this.gain = new GainNode(context);
    this.node.connect(this.gain).connect(context.destination);
    /** What the player says of itself: samples held and how often it ran dry. */
    this.state = { held: 0, dry: 0, played: 0 };
    this.node.port.onmessage = ({ data }) => Object.assign(this.state, data);
    const { port1, port2 } = new MessageChannel();
    this.node.port.postMessage(port1, [port1]);
    this.machine.worker.postMessage({ type: "sound", port: port2, rate: context.sampleRate }, [port2]);
    this.apply();
    return context.resume();
  }

  set(volume, muted) {
    Object.assign(this, { volume, muted });
    localStorage.setItem("orrery-volume", volume);
    localStorage.setItem("orrery-muted", muted ? "1" : "0");
    this.apply();
  }

  apply() {
    // Loudness is heard by powers.
    if (this.gain) this.gain.gain.setTargetAtTime(this.muted ? 0 : this.volume ** 2, this.context.currentTime, 0.02);
  }

  stop() {
    this.context?.close();
    this.context = undefined;
  }
}
