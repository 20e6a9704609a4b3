//! Serial ports: a 16550A behind the ISA bus or behind plain memory.

use super::uart::{Config as UartConfig, Reg, State as UartState, Uart, Wires};
use orrery_system::bus::{BusError, BusResult, Registers};
use orrery_system::device::{Device, HostIo};
use orrery_system::{RestoreError, StateBlob, VmTime};
use serde::{Deserialize, Serialize};

/// I/O address and interrupt of COM1 to COM4.
pub const ISA_SERIAL: [(u16, u8); 4] = [(0x3f8, 4), (0x2f8, 3), (0x3e8, 4), (0x2e8, 3)];

/// Settings fixed when the machine is built.
#[derive(Clone, Copy, Debug, Default)]
pub struct Config {
    /// The chip.
    pub uart: UartConfig,
    /// Registers lie `1 << shift` bytes apart (`serial-mm`).
    pub shift: u8,
}

/// Everything the guest can observe, and nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct State(UartState);

impl orrery_system::State for State {
    const KIND: &'static str = "serial";
    const VERSION: u16 = 1;
}

/// The device: `isa-serial`, or `serial-mm` where registers lie apart.
pub struct Serial {
    config: Config,
    uart: Uart,
}

impl Serial {
    /// Builds the device in its power-on state.
    pub fn new(config: Config, wires: Wires) -> Self {
        Self { config, uart: Uart::new(config.uart, wires) }
    }

    fn decode(&self, offset: u64, width: u8) -> BusResult<Option<Reg>> {
        let stride = 1 << self.config.shift.min(3);
        if u64::from(width) > stride {
            return Err(BusError::Width);
        }
        let index = offset / stride;
        if !offset.is_multiple_of(stride) {
            // Between the registers.
            return if index < 8 { Ok(None) } else { Err(BusError::NoRegister) };
        }
        Reg::decode(index, 1).map(|(reg, _)| Some(reg))
    }
}

impl Device for Serial {
    fn name(&self) -> &'static str {
        if self.config.shift == 0 { "isa-serial" } else { "serial-mm" }
    }

    fn reset(&mut self) {
        self.uart.reset();
    }

    fn save(&self) -> StateBlob {
        StateBlob::encode(&State(self.uart.state().clone()))
    }

    fn restore(&mut self, blob: &StateBlob) -> Result<(), RestoreError> {
        self.uart.set_state(blob.decode::<State>()?.0)
    }

    fn wake(&mut self, _timer: u32, _now: VmTime) {
        self.uart.wake();
    }

    fn registers(&mut self) -> Option<&mut dyn Registers> {
        Some(self)
    }

    fn host_io(&mut self) -> Option<&mut dyn HostIo> {
        Some(self)
    }

    fn inspect(&self) -> Vec<(&'static str, String)> {
        vec![("uart", format!("{:?}", self.uart.state()))]
    }
}

impl HostIo for Serial {
    fn due(&self) -> Option<VmTime> {
        None
    }

    fn ready(&self) -> bool {
        self.uart.ready()
    }

    fn deliver(&mut self, _now: VmTime) {
        self.uart.deliver();
    }
}

impl Registers for Serial {
    fn read(&mut self, _bank: u32, offset: u64, width: u8) -> BusResult<u64> {
        let reg = self.decode(offset, width)?;
        Ok(reg.map_or(0, |reg| self.uart.read(reg)).into())
    }

    fn write(&mut self, _bank: u32, offset: u64, width: u8, value: u64) -> BusResult<()> {
        if let Some(reg) = self.decode(offset, width)? {
            self.uart.write(reg, value as u8);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::uart::Config as Chip;
    use super::*;
    use orrery_system::ports::CharPort;
    use orrery_system::{Clock, IrqInput, Timer};

    /// A character of 10 bits at 9600 baud.
    const CHAR: u64 = 1_041_666;

    struct Bench {
        dev: Serial,
        irq: IrqInput,
        port: CharPort,
        clock: Clock,
        timers: [Timer; 3],
    }

    impl Bench {
        fn with(chip: Chip, shift: u8) -> Self {
            let (irq, port, clock) = (IrqInput::detached(), CharPort::default(), Clock::default());
            let timers = [Timer::default(), Timer::default(), Timer::default()];
            let wires = Wires {
                irq: irq.pin(),
                port: port.clone(),
                clock: clock.clone(),
                timers: timers.clone(),
            };
            let dev = Serial::new(Config { uart: chip, shift }, wires);
            Self { dev, irq, port, clock, timers }
        }

        /// 9600 baud, 8 data bits, no parity.
        fn new() -> Self {
            let mut b = Self::with(Chip::default(), 0);
            b.line();
            b
        }

        fn paced() -> Self {
            Self::with(Chip { paced: true, ..Chip::default() }, 0)
        }

        fn line(&mut self) {
            self.out(Reg::Lcr, 0x83);
            self.out(Reg::Data, 12);
            self.out(Reg::Ier, 0);
            self.out(Reg::Lcr, 0x03);
        }

        fn inb(&mut self, reg: Reg) -> u8 {
            self.dev.read(0, reg.offset(), 1).unwrap() as u8
        }

        fn out(&mut self, reg: Reg, v: u8) {
            self.dev.write(0, reg.offset(), 1, v.into()).unwrap();
        }

        fn host(&mut self) {
            while HostIo::ready(&self.dev) {
                self.dev.deliver(self.clock.now());
            }
        }

        fn run(&mut self, ns: u64) {
            self.host();
            let end = self.clock.now().after(ns);
            let first = |b: &Self| {
                let due = b.timers.iter().enumerate().filter_map(|(i, t)| Some((t.deadline()?, i)));
                due.min().filter(|d| d.0 <= end)
            };
            while let Some((t, i)) = first(self) {
                self.clock.advance_to(t);
                self.timers[i].disarm();
                self.dev.wake(i as u32, t);
                self.host();
            }
            self.clock.advance_to(end);
        }
    }

    #[test]
    fn what_is_written_reaches_the_port_and_the_transmitter_is_empty_again() {
        let mut b = Bench::new();
        for c in *b"Hi!" {
            assert_eq!(b.inb(Reg::Lsr), 0x60);
            b.out(Reg::Data, c);
        }
        assert_eq!(b.port.drain(), b"Hi!");
    }

    #[test]
    fn the_empty_transmitter_interrupts_when_enabled_and_after_each_character() {
        let mut b = Bench::new();
        b.out(Reg::Ier, 0x02);
        assert!(b.irq.take_edge());
        assert_eq!(b.inb(Reg::Iir), 0x02);
        assert!(!b.irq.level(), "reading it acknowledges");
        assert_eq!(b.inb(Reg::Iir), 0x01);
        b.out(Reg::Data, b'x');
        b.out(Reg::Data, b'y');
        assert!(b.irq.take_edge());
        assert_eq!(b.inb(Reg::Iir), 0x02);
    }

    #[test]
    fn characters_arrive_at_the_speed_of_the_line() {
        let mut b = Bench::new();
        b.out(Reg::Iir, 0x01);
        b.port.push(*b"abc");
        b.host();
        assert_eq!((b.inb(Reg::Lsr) & 1, b.inb(Reg::Data)), (1, b'a'));
        assert_eq!(b.inb(Reg::Lsr) & 1, 0);
        b.run(CHAR - 1);
        assert_eq!(b.inb(Reg::Lsr) & 1, 0);
        b.run(1);
        assert_eq!(b.inb(Reg::Data), b'b');
    }

    #[test]
    fn without_fifos_the_next_character_waits_until_one_is_read() {
        let mut b = Bench::new();
        b.out(Reg::Ier, 0x01);
        b.port.push(*b"ab");
        b.run(10 * CHAR);
        assert!(b.irq.level());
        assert_eq!(b.inb(Reg::Iir), 0x04);
        assert_eq!((b.inb(Reg::Data), b.inb(Reg::Data), b.inb(Reg::Lsr)), (b'a', b'b', 0x60));
        assert!(!b.irq.level());
    }

    #[test]
    fn the_receiver_interrupts_at_its_trigger_level_or_after_four_characters_of_silence() {
        let mut b = Bench::new();
        b.out(Reg::Iir, 0x81); // 8 characters
        b.out(Reg::Ier, 0x01);
        b.port.push(0..7);
        b.run(9 * CHAR);
        assert!(!b.irq.level());
        b.run(CHAR);
        assert_eq!(b.inb(Reg::Iir), 0xcc);
        b.inb(Reg::Data);
        assert_eq!(b.inb(Reg::Iir), 0xc1, "a read acknowledges the timeout");
        b.port.push(7..9);
        b.run(2 * CHAR);
        assert_eq!(b.inb(Reg::Iir), 0xc4);
        b.inb(Reg::Data);
        assert!(!b.irq.level());
    }

    #[test]
    fn the_fifo_holds_sixteen_and_the_rest_waits_on_the_port() {
        let mut b = Bench::new();
        b.out(Reg::Iir, 0x01);
        b.port.push(0..20);
        b.run(100 * CHAR);
        assert_eq!(b.port.input_len(), 4);
        let mut got = vec![];
        while b.inb(Reg::Lsr) & 1 != 0 {
            got.push(b.inb(Reg::Data));
            b.run(CHAR);
        }
        assert_eq!(got, (0..20).collect::<Vec<u8>>());
    }

    #[test]
    fn resetting_or_switching_the_fifos_empties_them() {
        let mut b = Bench::new();
        b.out(Reg::Iir, 0x01);
        for reset in [0x03, 0x00] {
            b.port.push([1]);
            b.run(CHAR);
            assert_eq!(b.inb(Reg::Lsr) & 1, 1);
            b.out(Reg::Iir, reset);
            assert_eq!(b.inb(Reg::Lsr) & 1, 0);
        }
        assert_eq!(b.inb(Reg::Iir) & 0xc0, 0);
    }

    #[test]
    fn loopback_connects_the_outputs_to_the_inputs() {
        let mut b = Bench::new();
        assert_eq!(b.inb(Reg::Msr), 0xb0, "a terminal is connected");
        b.out(Reg::Mcr, 0x1a);
        assert_eq!(b.inb(Reg::Msr), 0x90 | 0x02, "RTS and OUT2; DSR fell");
        assert_eq!(b.inb(Reg::Msr), 0x90);
        b.out(Reg::Mcr, 0x1e);
        b.out(Reg::Mcr, 0x1a);
        assert_eq!(b.inb(Reg::Msr), 0x94, "the ring ended");
        b.out(Reg::Data, 0x5a);
        assert_eq!(b.inb(Reg::Data), 0x5a);
        assert!(b.port.drain().is_empty());
        b.out(Reg::Data, 1);
        b.out(Reg::Data, 2);
        assert_eq!(b.inb(Reg::Lsr) & 3, 3, "overrun");
        assert_eq!((b.inb(Reg::Data), b.inb(Reg::Lsr) & 2), (2, 0));
    }

    #[test]
    fn modem_and_line_changes_interrupt_in_order_of_priority() {
        let mut b = Bench::new();
        b.out(Reg::Mcr, 0x10);
        b.out(Reg::Ier, 0x0d);
        b.out(Reg::Data, 1);
        b.out(Reg::Data, 2);
        assert_eq!(b.inb(Reg::Iir), 0x06);
        b.inb(Reg::Lsr);
        assert_eq!(b.inb(Reg::Iir), 0x04);
        b.inb(Reg::Data);
        assert_eq!(b.inb(Reg::Iir), 0x00);
        b.inb(Reg::Msr);
        assert_eq!(b.inb(Reg::Iir), 0x01);
    }

    #[test]
    fn the_divisor_hides_data_and_interrupt_enable() {
        let mut b = Bench::new();
        b.out(Reg::Ier, 0x05);
        b.out(Reg::Lcr, 0x83);
        b.out(Reg::Ier, 0x12);
        assert_eq!((b.inb(Reg::Data), b.inb(Reg::Ier)), (12, 0x12));
        b.out(Reg::Lcr, 0x03);
        assert_eq!(b.inb(Reg::Ier), 0x05);
    }

    #[test]
    fn a_paced_transmitter_takes_its_time() {
        let mut b = Bench::paced();
        b.line();
        b.out(Reg::Iir, 0x01);
        b.out(Reg::Data, b'a');
        assert_eq!(b.inb(Reg::Lsr), 0x20, "in the shift register");
        b.out(Reg::Data, b'b');
        assert_eq!(b.inb(Reg::Lsr), 0);
        b.run(CHAR);
        assert_eq!((b.port.drain(), b.inb(Reg::Lsr)), (b"a".to_vec(), 0x20));
        b.run(CHAR);
        assert_eq!((b.port.drain(), b.inb(Reg::Lsr)), (b"b".to_vec(), 0x60));
    }

    #[test]
    fn registers_may_lie_apart() {
        let mut b = Bench::with(Chip::default(), 2);
        assert_eq!(b.dev.name(), "serial-mm");
        b.dev.write(0, 28, 4, 0x77).unwrap();
        assert_eq!(b.dev.read(0, 28, 4), Ok(0x77));
        assert_eq!(b.dev.read(0, 29, 1), Ok(0));
        assert_eq!(b.dev.read(0, 32, 4), Err(BusError::NoRegister));
    }

    orrery_system::conformance!(Bench::with(Chip::default(), 0).dev, Reg::TABLE);

    mod paced {
        use super::*;
        orrery_system::conformance!(Bench::paced().dev, Reg::TABLE);
    }
}
