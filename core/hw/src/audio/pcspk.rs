//! PC speaker and system control port B (port 61h).
//!
//! Reference: IBM PS/2 Hardware Interface Technical Reference, system control port B. The speaker
//! hears timer 2's output while bit 1 lets it through.

use crate::timer::i8254::Channel2;
use orrery_system::audio::AudioSource;
use orrery_system::bus::{BusResult, Registers};
use orrery_system::device::Device;
use orrery_system::{Clock, RestoreError, State as _, StateBlob, VmTime};
use serde::{Deserialize, Serialize};

orrery_system::reg_map! {
    /// Port 61h.
    pub enum Reg {
        /// System control port B.
        0 Control: 1 Rw,
    }
}

const GATE: u8 = 0x01;
const DATA: u8 = 0x02;
/// Gate, speaker, and the two check enables, which enable nothing.
const WRITABLE: u8 = 0x0f;
const REFRESH: u8 = 0x10;
const OUT: u8 = 0x20;
/// Memory refresh requests come this often.
const REFRESH_NS: u64 = 15_085;

/// Services the machine wires up.
pub struct Wires {
    /// Timer 2.
    pub channel2: Channel2,
    /// Virtual time.
    pub clock: Clock,
}

/// Everything the guest can observe, and nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    control: u8,
}

impl orrery_system::State for State {
    const KIND: &'static str = "isa-pcspk";
    const VERSION: u16 = 1;
}

/// The device.
pub struct PcSpeaker {
    wires: Wires,
    state: State,
}

impl PcSpeaker {
    /// Builds the device in its power-on state.
    pub fn new(wires: Wires) -> Self {
        let speaker = Self { wires, state: State { control: 0 } };
        speaker.drive();
        speaker
    }

    fn drive(&self) {
        let control = self.state.control;
        self.wires.channel2.set(self.wires.clock.now(), control & GATE != 0, control & DATA != 0);
    }
}

impl Device for PcSpeaker {
    fn name(&self) -> &'static str {
        State::KIND
    }

    fn reset(&mut self) {
        self.state = State { control: 0 };
        self.drive();
    }

    fn save(&self) -> StateBlob {
        StateBlob::encode(&self.state)
    }

    fn restore(&mut self, blob: &StateBlob) -> Result<(), RestoreError> {
        let state: State = blob.decode()?;
        self.state = State { control: state.control & WRITABLE };
        // The timer's state has the gate: setting it again must not trigger the counter.
        self.wires.channel2.set_speaker(self.wires.clock.now(), self.state.control & DATA != 0);
        Ok(())
    }

    fn registers(&mut self) -> Option<&mut dyn Registers> {
        Some(self)
    }

    fn audio(&mut self) -> Option<&mut dyn AudioSource> {
        Some(self)
    }
}

impl AudioSource for PcSpeaker {
    fn mix(&mut self, from: VmTime, to: VmTime, _rate: u32, out: &mut [f32]) {
        self.wires.channel2.mix(from, to, out);
    }
}

impl Registers for PcSpeaker {
    fn read(&mut self, _bank: u32, offset: u64, width: u8) -> BusResult<u64> {
        Reg::decode(offset, width)?;
        let now = self.wires.clock.now();
        let refresh = if (now.0 / REFRESH_NS) & 1 != 0 { REFRESH } else { 0 };
        let out = if self.wires.channel2.out(now) { OUT } else { 0 };
        Ok((self.state.control | refresh | out).into())
    }

    fn write(&mut self, _bank: u32, offset: u64, width: u8, value: u64) -> BusResult<()> {
        Reg::decode(offset, width)?;
        self.state.control = value as u8 & WRITABLE;
        self.drive();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timer::i8254::{self, I8254};
    use orrery_system::{IrqInput, IrqLine, Timer};

    struct Bench {
        dev: PcSpeaker,
        pit: I8254,
        clock: Clock,
    }

    impl Bench {
        fn new() -> Self {
            let (channel2, clock) = (Channel2::default(), Clock::default());
            let pit = I8254::new(i8254::Wires {
                irq: IrqLine::open(),
                replaced: IrqInput::detached(),
                channel2: channel2.clone(),
                clock: clock.clone(),
                timer: Timer::default(),
            });
            let dev = PcSpeaker::new(Wires { channel2, clock: clock.clone() });
            Self { dev, pit, clock }
        }

        fn read(&mut self) -> u8 {
            self.dev.read(0, 0, 1).unwrap() as u8
        }

        fn write(&mut self, v: u8) {
            self.dev.write(0, 0, 1, v.into()).unwrap();
        }

        fn program(&mut self, word: u8, count: u16) {
            let [low, high] = count.to_le_bytes();
            for (port, v) in [(3, word), (2, low), (2, high)] {
                self.pit.write(0, port, 1, v.into()).unwrap();
            }
        }

        fn run(&mut self, ns: u64) {
            self.clock.advance_to(self.clock.now().after(ns));
        }
    }

    #[test]
    fn the_output_of_timer_2_shows_when_a_delay_is_over() {
        let mut b = Bench::new();
        b.write(GATE);
        b.program(0xb0, 11932); // 10 ms
        assert_eq!(b.read() & OUT, 0);
        b.run(9_990_000);
        assert_eq!(b.read() & OUT, 0);
        b.run(20_000);
        assert_eq!(b.read() & OUT, OUT);
    }

    #[test]
    fn the_refresh_bit_toggles_every_fifteen_microseconds() {
        let mut b = Bench::new();
        let first = b.read() & REFRESH;
        b.run(REFRESH_NS);
        assert_ne!(b.read() & REFRESH, first);
        b.run(REFRESH_NS);
        assert_eq!(b.read() & REFRESH, first);
    }

    #[test]
    fn a_tone_sounds_only_with_gate_and_data_on() {
        for (control, sounds) in [(0, false), (GATE, false), (GATE | DATA, true)] {
            let mut b = Bench::new();
            b.program(0xb6, 1193);
            b.write(control);
            let (from, to) = (b.clock.now(), VmTime(50_000_000));
            b.clock.advance_to(to);
            let mut frames = vec![0.0; 2 * 2400];
            b.dev.mix(from, to, 48_000, &mut frames);
            let changes = frames.windows(3).filter(|w| w[0] != w[2]).count();
            assert_eq!(changes > 50, sounds, "{control}");
        }
    }

    #[test]
    fn the_speaker_can_be_moved_by_its_data_bit_alone() {
        let mut b = Bench::new();
        b.program(0xb0, 1);
        b.write(GATE);
        b.run(10_000);
        let from = b.clock.now();
        for i in 0..20 {
            b.write(if i % 2 == 0 { GATE | DATA } else { GATE });
            b.run(1_000_000);
        }
        let mut frames = vec![0.0; 2 * 960];
        b.dev.mix(from, b.clock.now(), 48_000, &mut frames);
        let rises = frames.windows(3).step_by(2).filter(|w| w[0] == 0.0 && w[2] > 0.0).count();
        assert!((9..=10).contains(&rises), "{rises}");
    }

    orrery_system::conformance!(Bench::new().dev, Reg::TABLE);
}
