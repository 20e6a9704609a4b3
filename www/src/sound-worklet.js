// Plays interleaved stereo from a ring. It begins when a little is held, so that a late slice of the machine is not heard,
// and leaves out what is too much, so that sound stays with the picture.

const RING = 1 << 15;
/** Frames held before it begins, and after which it skips. */
const BEGIN = 2400;
const MOST = 9600;

class Player extends AudioWorkletProcessor {
  constructor() {
    super();
    this.ring = new Float32Array(RING * 2);
    this.first = this.end = 0;
    this.playing = false;
    this.dry = this.played = this.told = 0;
    this.port.onmessage = ({ data }) => (data.onmessage = ({ data: part }) => this.take(part));
  }

  take(part) {
    for (let i = 0; i < part.length; i++) this.ring[(this.end * 2 + i) % this.ring.length] = part[i];
    this.end += part.length / 2;
    if (this.end - this.first > MOST) this.first = this.end - BEGIN;
    if (this.end - this.first >= BEGIN) this.playing = true;
  }

  process(_, [[left, right]]) {
    for (let i = 0; i < left.length && this.playing; i++) {
      if (this.first === this.end) {
        this.playing = false;
        this.dry++;
        break;
      }
      const at = (this.first++ % RING) * 2;
      left[i] = this.ring[at];
      if (right) right[i] = this.ring[at + 1];
      this.played++;
    }
    if (currentTime - this.told > 0.25) {
      this.told = currentTime;
      this.port.postMessage({ held: this.end - this.first, dry: this.dry, played: this.played });
    }
    return true;
  }
}
registerProcessor("orrery-sound", Player);
