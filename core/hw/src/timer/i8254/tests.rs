use super::*;
use orrery_system::irq::IrqInput;

struct Bench {
    dev: I8254,
    irq: IrqInput,
    hpet: IrqLine,
    clock: Clock,
    timer: Timer,
    channel2: Channel2,
}

impl Bench {
    fn new() -> Self {
        let (irq, replaced) = (IrqInput::detached(), IrqInput::detached());
        let (clock, timer) = (Clock::default(), Timer::default());
        let channel2 = Channel2::default();
        let hpet = replaced.pin();
        let wires = Wires {
            irq: irq.pin(),
            replaced,
            channel2: channel2.clone(),
            clock: clock.clone(),
            timer: timer.clone(),
        };
        Self { dev: I8254::new(wires), irq, hpet, clock, timer, channel2 }
    }

    fn out(&mut self, reg: Reg, v: u8) {
        self.dev.write(0, reg.offset(), 1, v.into()).unwrap();
    }

    fn inb(&mut self, reg: Reg) -> u8 {
        self.dev.read(0, reg.offset(), 1).unwrap() as u8
    }

    fn count(&mut self, reg: Reg) -> u16 {
        let low = self.inb(reg);
        u16::from_le_bytes([low, self.inb(reg)])
    }

    /// Programs a counter with a control word and both bytes of a count.
    fn program(&mut self, word: u8, count: u16) {
        let reg = [Reg::Counter0, Reg::Counter1, Reg::Counter2][usize::from(word >> 6)];
        self.out(Reg::Control, word);
        let [low, high] = count.to_le_bytes();
        self.out(reg, low);
        self.out(reg, high);
    }

    fn at(&self) -> i64 {
        pulses(self.clock.now())
    }

    /// Runs for clock pulses, delivering wake-ups; returns how often IRQ 0 rose.
    fn run(&mut self, n: i64) -> u32 {
        let end = VmTime::at_tick((self.at() + n) as u64, PIT_HZ);
        let mut rises = u32::from(self.irq.take_edge());
        while let Some(t) = self.timer.deadline().filter(|&t| t <= end) {
            self.clock.advance_to(t);
            self.timer.disarm();
            self.dev.wake(0, t);
            rises += u32::from(self.irq.take_edge());
        }
        self.clock.advance_to(end);
        rises
    }

    fn status(&mut self, counter: u8) -> u8 {
        self.out(Reg::Control, 0xe0 | 2 << counter);
        self.inb([Reg::Counter0, Reg::Counter1, Reg::Counter2][usize::from(counter)])
    }

    fn gate2(&self, on: bool) {
        self.channel2.set(self.clock.now(), on, false);
    }

    fn out2(&self) -> bool {
        self.channel2.out(self.clock.now())
    }
}

#[test]
fn the_rate_generator_interrupts_once_a_period() {
    let mut b = Bench::new();
    b.program(0x34, 1000);
    b.run(0);
    assert_eq!(b.run(10_001), 10);
    assert_eq!(b.run(999), 0);
    assert_eq!(b.run(1), 1);
}

#[test]
fn a_count_of_zero_is_65536() {
    let mut b = Bench::new();
    b.program(0x34, 0);
    b.run(0);
    assert_eq!(b.run(65536), 0);
    assert_eq!(b.run(1), 1);
}

#[test]
fn a_late_wake_up_makes_one_edge_and_keeps_the_phase() {
    let mut b = Bench::new();
    b.program(0x34, 1000);
    b.run(0);
    b.clock.advance_to(VmTime::at_tick(5501, PIT_HZ));
    b.dev.wake(0, b.clock.now());
    assert!(b.irq.take_edge());
    assert_eq!(b.run(499), 0);
    assert_eq!(b.run(1), 1);
}

#[test]
fn terminal_count_raises_the_output_and_leaves_it_high() {
    let mut b = Bench::new();
    b.program(0x30, 100);
    b.run(0);
    assert!(!b.irq.level());
    assert_eq!(b.run(100), 0);
    assert_eq!(b.run(1), 1);
    assert_eq!(b.run(200_000), 0);
    assert!(b.irq.level());
    b.out(Reg::Counter0, 5);
    assert!(!b.irq.level(), "the first byte of a new count lowers it");
}

#[test]
fn terminal_count_counts_down_through_zero() {
    let mut b = Bench::new();
    b.program(0x30, 100);
    b.run(1 + 40);
    b.out(Reg::Control, 0x00);
    b.run(30);
    assert_eq!(b.count(Reg::Counter0), 60, "latched");
    assert_eq!(b.count(Reg::Counter0), 30, "live");
    b.run(31);
    assert_eq!(b.count(Reg::Counter0), 0xffff);
}

#[test]
fn the_square_wave_is_high_half_the_time_and_counts_by_two() {
    let mut b = Bench::new();
    b.program(0x36, 100);
    b.run(1);
    assert_eq!((b.count(Reg::Counter0), b.irq.level()), (100, true));
    b.run(49);
    assert_eq!((b.count(Reg::Counter0), b.irq.level()), (2, true));
    b.run(1);
    assert_eq!((b.count(Reg::Counter0), b.irq.level()), (100, false));
    assert_eq!(b.run(49), 0);
    assert_eq!(b.run(1), 1);
}

#[test]
fn an_odd_square_wave_is_high_one_clock_longer() {
    let mut b = Bench::new();
    b.gate2(true);
    b.program(0xb6, 5);
    b.run(1);
    let wave: Vec<bool> = (0..10)
        .map(|_| {
            let level = b.out2();
            b.run(1);
            level
        })
        .collect();
    assert_eq!(wave, [true, true, true, false, false, true, true, true, false, false]);
}

#[test]
fn a_new_count_of_the_rate_generator_waits_for_the_end_of_the_period() {
    let mut b = Bench::new();
    b.program(0x34, 1000);
    b.run(1 + 500);
    b.out(Reg::Counter0, 100);
    b.out(Reg::Counter0, 0);
    assert_eq!(b.status(0) & 0x40, 0x40, "null count");
    assert_eq!(b.run(499), 0);
    assert_eq!(b.run(1), 1);
    assert_eq!(b.run(100), 1);
    assert_eq!(b.status(0) & 0x40, 0);
}

#[test]
fn a_new_count_of_the_square_wave_waits_for_the_half_period() {
    let mut b = Bench::new();
    b.gate2(true);
    b.program(0xb6, 1000);
    b.run(1 + 100);
    b.out(Reg::Counter2, 20);
    b.out(Reg::Counter2, 0);
    b.run(399);
    assert!(b.out2());
    b.run(1);
    assert!(!b.out2());
    b.run(9);
    assert!(!b.out2());
    b.run(1);
    assert!(b.out2());
    b.run(10);
    assert!(!b.out2());
}

#[test]
fn the_gate_holds_and_resumes_terminal_count() {
    let mut b = Bench::new();
    b.program(0xb0, 100);
    b.run(50);
    assert_eq!(b.count(Reg::Counter2), 100);
    b.gate2(true);
    b.run(60);
    b.gate2(false);
    b.run(500);
    assert_eq!(b.count(Reg::Counter2), 40);
    assert!(!b.out2());
    b.gate2(true);
    b.run(40);
    assert!(b.out2());
}

#[test]
fn the_gate_triggers_the_one_shot_again_and_again() {
    let mut b = Bench::new();
    b.program(0xb2, 100);
    b.run(300);
    assert!(b.out2(), "not triggered");
    b.gate2(true);
    b.run(1);
    assert!(!b.out2());
    b.gate2(false);
    b.run(50);
    b.gate2(true);
    b.run(100);
    assert!(!b.out2(), "retriggered");
    b.run(1);
    assert!(b.out2());
}

#[test]
fn the_strobes_are_low_for_one_clock() {
    let mut b = Bench::new();
    b.program(0x38, 10);
    b.run(1 + 9);
    assert_eq!(b.status(0) & 0x80, 0x80);
    b.run(1);
    assert_eq!(b.status(0) & 0x80, 0);
    b.run(1);
    assert_eq!(b.status(0) & 0x80, 0x80);
    b.program(0xba, 10);
    b.run(50);
    assert!(b.out2());
    b.gate2(true);
    b.run(1 + 10);
    assert!(!b.out2());
}

#[test]
fn read_back_latches_status_before_count() {
    let mut b = Bench::new();
    b.program(0x34, 0x1234);
    b.run(1 + 4);
    b.out(Reg::Control, 0xc2);
    b.run(100);
    assert_eq!(b.inb(Reg::Counter0), 0xb4, "OUT high, both bytes, mode 2");
    assert_eq!(b.count(Reg::Counter0), 0x1230);
}

#[test]
fn a_second_latch_command_is_ignored_until_the_first_is_read() {
    let mut b = Bench::new();
    b.program(0x34, 1000);
    b.run(1);
    b.out(Reg::Control, 0x00);
    b.run(10);
    b.out(Reg::Control, 0x00);
    assert_eq!(b.count(Reg::Counter0), 1000);
}

#[test]
fn one_byte_access_reads_and_writes_that_byte() {
    let mut b = Bench::new();
    b.out(Reg::Control, 0x54);
    b.out(Reg::Counter1, 0x12);
    b.run(1);
    assert_eq!((b.inb(Reg::Counter1), b.inb(Reg::Counter1)), (0x12, 0x12));
    b.out(Reg::Control, 0x64);
    b.out(Reg::Counter1, 0x12);
    b.run(1);
    assert_eq!(b.inb(Reg::Counter1), 0x12);
}

#[test]
fn decimal_counts_have_four_digits() {
    let mut b = Bench::new();
    b.program(0x31, 0x1000);
    b.run(1 + 1);
    assert_eq!(b.count(Reg::Counter0), 0x0999);
    b.program(0x35, 0);
    b.run(0);
    assert_eq!(b.run(10_000), 0);
    assert_eq!(b.run(1), 1);
}

#[test]
fn an_hpet_in_legacy_mode_takes_the_interrupt() {
    let mut b = Bench::new();
    b.program(0x34, 1000);
    b.run(0);
    b.hpet.set(true);
    Settle::settle(&mut b.dev);
    b.irq.take_edge();
    assert_eq!(b.run(5000), 0);
    b.hpet.set(false);
    Settle::settle(&mut b.dev);
    b.irq.take_edge();
    assert_eq!(b.run(1000), 1);
}

#[test]
fn the_speaker_plays_the_square_wave_while_it_is_connected() {
    let mut b = Bench::new();
    b.program(0xb6, 1193); // 1000 Hz
    b.channel2.set(b.clock.now(), true, true);
    let (from, to) = (b.clock.now(), b.clock.now().after(100_000_000));
    b.clock.advance_to(to);
    b.channel2.set(to, true, false);
    let mut sound = vec![0.0; 2 * 4800];
    b.channel2.mix(from, to, &mut sound);
    let rises =
        sound.chunks(2).zip(sound[2..].chunks(2)).filter(|(a, b)| a[0] < 0.12 && b[0] >= 0.12);
    assert!((99..=101).contains(&rises.count()));
    let mut silence = vec![0.0; 2 * 480];
    b.channel2.mix(to, to.after(10_000_000), &mut silence);
    assert!(silence.iter().all(|&v| v == 0.0));
}

#[test]
fn restore_refuses_a_state_from_the_future() {
    let mut late = Bench::new();
    late.program(0x34, 1000);
    late.run(5000);
    late.inb(Reg::Counter0);
    let blob = late.dev.save();
    assert!(matches!(Bench::new().dev.restore(&blob), Err(RestoreError::Invalid(_))));
}

orrery_system::conformance!(Bench::new().dev, Reg::TABLE);
