use super::*;
use orrery_system::IrqInput;
use orrery_system::input::Key;

struct Bench {
    dev: I8042,
    irq1: IrqInput,
    irq12: IrqInput,
    a20: IrqInput,
    power: Power,
    clock: Clock,
    timer: Timer,
}

impl Bench {
    fn fresh() -> Self {
        let (irq1, irq12, a20) = (IrqInput::detached(), IrqInput::detached(), IrqInput::detached());
        let (power, clock, timer) = (Power::default(), Clock::default(), Timer::default());
        let wires = Wires {
            irq_keyboard: irq1.pin(),
            irq_mouse: irq12.pin(),
            a20: a20.pin(),
            power: power.clone(),
            clock: clock.clone(),
            timer: timer.clone(),
        };
        Self { dev: I8042::new(wires), irq1, irq12, a20, power, clock, timer }
    }

    /// As firmware leaves it: tested, interrupts and translation on.
    fn new() -> Self {
        let mut b = Self::fresh();
        b.command(0xaa);
        assert_eq!(b.data(), 0x55);
        b.command(0x60);
        b.out(0x47);
        b
    }

    /// Lets enough time pass for the next byte to come at once.
    fn pause(&mut self) {
        self.clock.advance_to(self.clock.now().after(BYTE_NS));
        self.dev.wake(0, self.clock.now());
    }

    fn command(&mut self, v: u8) {
        self.dev.write(COMMAND, 0, 1, v.into()).unwrap();
    }

    fn out(&mut self, v: u8) {
        self.dev.write(DATA, 0, 1, v.into()).unwrap();
    }

    fn status(&mut self) -> u8 {
        self.dev.read(COMMAND, 0, 1).unwrap() as u8
    }

    /// Waits for a byte and reads it.
    fn data(&mut self) -> u8 {
        if self.status() & 1 == 0 {
            let t = self.timer.deadline().expect("a byte is coming");
            self.clock.advance_to(t);
            self.timer.disarm();
            self.dev.wake(0, t);
        }
        assert_eq!(self.status() & 1, 1);
        self.dev.read(DATA, 0, 1).unwrap() as u8
    }

    fn all(&mut self) -> Vec<u8> {
        let mut bytes = vec![];
        while self.status() & 1 != 0 || self.timer.deadline().is_some() {
            bytes.push(self.data());
        }
        bytes
    }

    fn key(&mut self, key: u16, down: bool) {
        self.event(InputEvent::Key { key: Key(key), down });
    }

    fn event(&mut self, event: InputEvent) {
        InputSink::input(&mut self.dev, event);
    }

    fn mouse(&mut self, v: u8) -> Vec<u8> {
        self.command(0xd4);
        self.out(v);
        self.all()
    }

    fn mouse_rates(&mut self, rates: [u8; 3]) -> u8 {
        for rate in rates {
            self.mouse(0xf3);
            assert_eq!(self.mouse(rate), [0xfa]);
        }
        self.mouse(0xf2)[1]
    }
}

#[test]
fn a_key_interrupts_and_reads_translated() {
    let mut b = Bench::new();
    b.pause();
    b.irq1.take_edge();
    b.key(0x1e, true);
    assert!(b.irq1.take_edge() && b.irq1.level());
    assert_eq!(b.status() & 0x21, 0x01);
    assert_eq!(b.data(), 0x1e);
    assert!(!b.irq1.level());
    b.key(0x1e, false);
    assert_eq!(b.all(), [0x9e]);
    b.key(0xe04d, true);
    b.key(0xe04d, false);
    assert_eq!(b.all(), [0xe0, 0x4d, 0xe0, 0xcd]);
}

#[test]
fn the_next_byte_comes_a_little_after_the_last_was_read_and_makes_its_own_edge() {
    let mut b = Bench::new();
    b.clock.advance_to(VmTime(1_000_000));
    b.key(0xe048, true);
    b.irq1.take_edge();
    assert_eq!(b.data(), 0xe0);
    assert_eq!(b.status() & 1, 0);
    assert_eq!(b.dev.read(DATA, 0, 1), Ok(0xe0), "reading again gives the same byte");
    assert_eq!(b.timer.deadline(), Some(VmTime(1_000_000 + BYTE_NS)));
    assert_eq!(b.data(), 0x48);
    assert!(b.irq1.take_edge());
}

#[test]
fn without_translation_the_guest_sees_set_2() {
    let mut b = Bench::new();
    b.command(0x60);
    b.out(0x07);
    b.key(0x1e, true);
    b.key(0x1e, false);
    assert_eq!(b.all(), [0x1c, 0xf0, 0x1c]);
    b.key(0x41, true);
    assert_eq!(b.all(), [0x83], "F7");
}

#[test]
fn the_keyboard_can_be_told_to_use_sets_1_and_3() {
    let mut b = Bench::new();
    b.command(0x60);
    b.out(0x07);
    for (set, expected) in [(1, vec![0xe0, 0x48, 0xe0, 0xc8]), (3, vec![0x63])] {
        b.out(0xf0);
        b.out(set);
        assert_eq!(b.all(), [0xfa, 0xfa]);
        b.key(0xe048, true);
        b.key(0xe048, false);
        assert_eq!(b.all(), expected);
    }
    b.out(0xf8);
    b.out(0xf0);
    b.out(0);
    assert_eq!(b.all(), [0xfa, 0xfa, 0xfa, 3]);
    b.key(0xe048, false);
    assert_eq!(b.all(), [0xf0, 0x63], "make and break");
}

#[test]
fn pause_and_print_screen_have_sequences_of_their_own() {
    let mut b = Bench::new();
    b.key(Key::PAUSE.0, true);
    b.key(Key::PAUSE.0, false);
    assert_eq!(b.all(), [0xe1, 0x1d, 0x45, 0xe1, 0x9d, 0xc5]);
    b.key(Key::PRINT.0, true);
    b.key(Key::PRINT.0, false);
    assert_eq!(b.all(), [0xe0, 0x2a, 0xe0, 0x37, 0xe0, 0xb7, 0xe0, 0xaa]);
    b.key(0x38, true);
    b.key(Key::PRINT.0, true);
    assert_eq!(b.all(), [0x38, 0x54], "SysRq");
    b.key(0x1d, true);
    b.key(Key::PAUSE.0, true);
    assert_eq!(b.all(), [0x1d, 0xe0, 0x46, 0xe0, 0xc6], "Break");
}

#[test]
fn the_keyboard_answers_its_commands() {
    let mut b = Bench::new();
    b.out(0xff);
    assert_eq!(b.all(), [0xfa, 0xaa]);
    b.out(0xf2);
    assert_eq!(b.all(), [0xfa, 0xab, 0x41], "translated");
    b.out(0xee);
    assert_eq!(b.all(), [0xee]);
    b.out(0xed);
    b.out(0x05);
    assert_eq!(b.all(), [0xfa, 0xfa]);
    assert_eq!(b.dev.leds(), 5);
    b.out(0x00);
    assert_eq!(b.all(), [0xfe]);
}

#[test]
fn a_keyboard_that_does_not_scan_sends_no_keys() {
    let mut b = Bench::new();
    b.out(0xf5);
    b.key(0x1e, true);
    assert_eq!(b.all(), [0xfa]);
    b.out(0xf4);
    b.key(0x1e, true);
    assert_eq!(b.all(), [0xfa, 0x1e]);
}

#[test]
fn a_keyboard_switched_off_keeps_its_keys_until_it_is_switched_on() {
    let mut b = Bench::new();
    b.command(0xad);
    b.key(0x1e, true);
    assert_eq!(b.status() & 1, 0);
    b.command(0xae);
    assert_eq!(b.all(), [0x1e]);
}

#[test]
fn the_command_byte_and_tests_read_back() {
    let mut b = Bench::new();
    for (command, answer) in [(0x20, 0x47), (0xa9, 0), (0xab, 0), (0xc0, 0x80), (0xd0, 0xcf)] {
        b.command(command);
        assert_eq!(b.data(), answer, "{command:#x}");
    }
    b.command(0xa7);
    b.command(0x20);
    assert_eq!(b.data(), 0x67);
    b.command(0x65);
    b.out(0x12);
    b.command(0x25);
    assert_eq!(b.data(), 0x12);
    assert_eq!(b.status() & 0x1c, 0x1c);
    b.out(0xee);
    assert_eq!(b.status() & 0x08, 0);
}

#[test]
fn address_line_20_follows_the_output_port() {
    let mut b = Bench::new();
    assert!(b.a20.level());
    b.command(0xd1);
    b.out(0xdd);
    assert!(!b.a20.level());
    b.command(0xdf);
    assert!(b.a20.level());
    b.command(0xdd);
    b.command(0xd0);
    assert_eq!(b.data() & 2, 0);
    assert!(!b.a20.level());
}

#[test]
fn the_reset_line_asks_for_a_reset() {
    let mut b = Bench::new();
    b.command(0xff);
    assert_eq!(b.power.take(), None);
    b.command(0xfe);
    assert_eq!(b.power.take(), Some(PowerRequest::Reset));
    b.command(0xd1);
    b.out(0x02);
    assert_eq!(b.power.take(), Some(PowerRequest::Reset));
}

#[test]
fn bytes_can_be_put_into_the_output_buffer() {
    let mut b = Bench::new();
    b.irq1.take_edge();
    b.command(0xd2);
    b.out(0x1e);
    assert!(b.irq1.level() && b.data() == 0x1e);
    b.command(0xd3);
    b.out(0x42);
    assert_eq!(b.status() & 0x21, 0x21);
    assert!(b.irq12.level() && b.data() == 0x42);
}

#[test]
fn the_mouse_resets_and_reports_motion_and_buttons() {
    let mut b = Bench::new();
    assert_eq!(b.mouse(0xff), [0xfa, 0xaa, 0]);
    b.event(InputEvent::Motion { dx: 1, dy: 1 });
    assert!(b.all().is_empty(), "not enabled");
    assert_eq!(b.mouse(0xf4)[0], 0xfa);
    b.pause();
    b.irq12.take_edge();
    b.event(InputEvent::Motion { dx: 5, dy: 3 });
    assert!(b.irq12.take_edge());
    assert_eq!(b.all(), [0x28, 5, 0xfd], "down is negative");
    b.event(InputEvent::Button { index: 2, down: true });
    assert_eq!(b.all(), [0x0a, 0, 0]);
    assert_eq!(b.mouse(0xe9), [0xfa, 0x21, 2, 100]);
}

#[test]
fn motion_that_does_not_fit_one_packet_makes_more() {
    let mut b = Bench::new();
    b.mouse(0xf4);
    b.event(InputEvent::Motion { dx: -300, dy: 0 });
    assert_eq!(b.all(), [0x18, 0x00, 0, 0x18, 0xd4, 0]);
}

#[test]
fn the_wheel_and_more_buttons_appear_after_the_knock() {
    let mut b = Bench::new();
    b.mouse(0xf4);
    b.event(InputEvent::Wheel { dz: 1 });
    assert_eq!(b.all(), [0x08, 0, 0]);
    assert_eq!(b.mouse_rates([200, 100, 80]), 3);
    b.event(InputEvent::Wheel { dz: 1 });
    assert_eq!(b.all(), [0x08, 0, 0, 0xff]);
    assert_eq!(b.mouse_rates([200, 200, 80]), 4);
    b.pause();
    b.event(InputEvent::Button { index: 3, down: true });
    b.event(InputEvent::Wheel { dz: -2 });
    assert_eq!(b.all(), [0x08, 0, 0, 0x10, 0x08, 0, 0, 0x12]);
}

#[test]
fn a_mouse_in_remote_mode_is_asked() {
    let mut b = Bench::new();
    b.mouse(0xf4);
    b.mouse(0xf0);
    b.event(InputEvent::Motion { dx: 1, dy: 0 });
    assert!(b.all().is_empty());
    assert_eq!(b.mouse(0xeb), [0xfa, 0x08, 1, 0]);
    assert_eq!(b.mouse(0xee), [0xfa]);
    assert_eq!(b.mouse(0xf2), [0xf2], "wrap mode echoes");
    assert_eq!(b.mouse(0xec), [0xfa]);
}

#[test]
fn keys_nobody_reads_are_dropped() {
    let mut b = Bench::new();
    for _ in 0..10_000 {
        b.key(0x1e, true);
        b.key(0x1e, false);
        b.event(InputEvent::Motion { dx: i32::MAX, dy: i32::MIN });
    }
    let mut other = Bench::fresh();
    other.dev.restore(&b.dev.save()).unwrap();
    let codes = b.all();
    assert!(codes.len() < 300);
    assert_eq!(other.all(), codes);
}

orrery_system::conformance!(Bench::fresh().dev, [(DATA, Data::TABLE), (COMMAND, Command::TABLE)]);

#[test]
fn the_controllers_answers_do_not_interrupt_while_the_keyboard_is_off() {
    let mut b = Bench::fresh();
    b.command(0xad);
    for (command, answer) in [(0xaa, 0x55), (0xab, 0), (0x20, 0x17)] {
        b.command(command);
        assert_eq!(b.data(), answer);
    }
    assert!(!b.irq1.has_edge(), "nothing stays behind in the interrupt controller");
    b.command(0xae);
    b.command(0x20);
    assert!(b.irq1.level());
    assert_eq!(b.data(), 0x07);
}
