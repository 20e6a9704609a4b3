//! Intel 8259A interrupt controllers, the cascaded pair of a PC.
//!
//! Reference: Intel 8259A data sheet (231468-003); 82371AB 4.2 for the edge/level registers.
//! The second controller's output is the first one's input 2.
//!
//! Edge inputs latch the rise and keep the request when the line falls again before it is
//! acknowledged, which the chip does not: devices here may signal with a pulse of no length.
//!
//! Not modelled: the vectors of the 8080 mode (the chip then answers as in 8086 mode) and
//! buffered mode, which no PC wires up.

use super::Inputs;
use orrery_system::bus::{BusError, BusResult, Registers};
use orrery_system::device::{Device, IntAck, Settle};
use orrery_system::{IrqInput, IrqLine, RestoreError, State as _, StateBlob};
use serde::{Deserialize, Serialize};

orrery_system::reg_map! {
    /// Ports of one controller: banks [`MASTER`] and [`SLAVE`].
    pub enum Reg {
        /// ICW1, OCW2, OCW3; reads IRR, ISR or the poll word.
        0 Command: 1 Rw,
        /// ICW2 to ICW4, OCW1; reads the mask.
        1 Data: 1 Rw,
    }
}

orrery_system::reg_map! {
    /// Bank [`ELCR`]: ports 4d0h and 4d1h.
    pub enum Elcr {
        /// Inputs 0 to 7.
        0 Elcr1: 1 Rw,
        /// Inputs 8 to 15.
        1 Elcr2: 1 Rw,
    }
}

/// Bank of the first controller, ports 20h and 21h.
pub const MASTER: u32 = 0;
/// Bank of the second, ports a0h and a1h.
pub const SLAVE: u32 = 1;
/// Bank of the edge/level registers, ports 4d0h and 4d1h.
pub const ELCR: u32 = 2;

/// Inputs that may be level triggered: not the timer, keyboard, cascade, clock and FPU.
const ELCR_MASK: [u8; 2] = [0xf8, 0xde];
const CASCADE: u8 = 2;

/// Pins the machine wires up.
pub struct Wires {
    /// Interrupt requests 0 to 15; number 2 is the cascade and not looked at.
    pub inputs: [IrqInput; 16],
    /// `INT` of the first controller.
    pub intr: IrqLine,
}

/// Which initialization word comes next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
enum Expect {
    #[default]
    Operation,
    Icw2,
    Icw3,
    Icw4,
}

/// One controller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Pic {
    irr: u8,
    isr: u8,
    imr: u8,
    /// Levels of the inputs when last looked at.
    levels: u8,
    /// Inputs that are level triggered, from the ELCR.
    elcr: u8,
    /// ICW1 LTIM: all inputs are.
    level_mode: bool,
    expect: Expect,
    /// ICW1 IC4 and SNGL.
    wants_icw4: bool,
    single: bool,
    vector: u8,
    icw3: u8,
    auto_eoi: bool,
    fully_nested_cascade: bool,
    rotate_on_auto_eoi: bool,
    special_mask: bool,
    poll: bool,
    read_isr: bool,
    /// The input with the highest priority.
    first: u8,
}

impl Pic {
    fn level_triggered(&self) -> u8 {
        if self.level_mode { 0xff } else { self.elcr }
    }

    /// Follows the input pins.
    fn inputs(&mut self, levels: u8, edges: u8) {
        let level = self.level_triggered();
        self.irr = self.irr & !level | levels & level | edges & !level;
        self.levels = levels;
    }

    /// The request that has the floor, if any.
    fn request(&self, is_master: bool) -> Option<u8> {
        let pending = self.irr & !self.imr;
        if pending == 0 {
            return None;
        }
        let blocking = if self.special_mask { self.isr & !self.imr } else { self.isr };
        for i in 0..8 {
            let n = self.first.wrapping_add(i) & 7;
            let bit = 1 << n;
            if blocking & bit != 0 {
                let nests = is_master && self.fully_nested_cascade && n == CASCADE;
                return (nests && pending & bit != 0).then_some(n);
            }
            if pending & bit != 0 {
                return Some(n);
            }
        }
        None
    }

    /// Request `n` goes into service.
    fn acknowledge(&mut self, n: u8) {
        let bit = 1 << n;
        if self.auto_eoi {
            if self.rotate_on_auto_eoi {
                self.first = n.wrapping_add(1) & 7;
            }
        } else {
            self.isr |= bit;
        }
        self.irr &= !(bit & !self.level_triggered());
    }

    /// The input in service with the highest priority that an unspecific EOI ends.
    fn in_service(&self) -> Option<u8> {
        let isr = if self.special_mask { self.isr & !self.imr } else { self.isr };
        (0..8).map(|i| self.first.wrapping_add(i) & 7).find(|n| isr & 1 << n != 0)
    }

    fn icw1(&mut self, v: u8) {
        *self = Self {
            // Requests on level inputs stand by themselves; latched edges are gone.
            irr: self.levels & if v & 8 != 0 { 0xff } else { self.elcr },
            levels: self.levels,
            elcr: self.elcr,
            vector: self.vector,
            icw3: self.icw3,
            expect: Expect::Icw2,
            wants_icw4: v & 1 != 0,
            single: v & 2 != 0,
            level_mode: v & 8 != 0,
            ..Self::default()
        };
    }

    fn ocw2(&mut self, v: u8) {
        let n = v & 7;
        let mut end = |n: u8, rotate: bool| {
            self.isr &= !(1 << n);
            if rotate {
                self.first = n.wrapping_add(1) & 7;
            }
        };
        match v >> 5 {
            0 => self.rotate_on_auto_eoi = false,
            4 => self.rotate_on_auto_eoi = true,
            op @ (1 | 5) => {
                if let Some(n) = self.in_service() {
                    self.isr &= !(1 << n);
                    if op == 5 {
                        self.first = n.wrapping_add(1) & 7;
                    }
                }
            }
            3 => end(n, false),
            7 => end(n, true),
            6 => self.first = n.wrapping_add(1) & 7,
            _ => {}
        }
    }

    fn write_command(&mut self, v: u8) {
        if v & 0x10 != 0 {
            self.icw1(v);
        } else if v & 0x08 == 0 {
            self.ocw2(v);
        } else {
            if v & 0x40 != 0 {
                self.special_mask = v & 0x20 != 0;
            }
            if v & 0x04 != 0 {
                self.poll = true;
            } else if v & 0x02 != 0 {
                self.read_isr = v & 0x01 != 0;
            }
        }
    }

    fn write_data(&mut self, v: u8) {
        self.expect = match self.expect {
            Expect::Operation => {
                self.imr = v;
                Expect::Operation
            }
            Expect::Icw2 => {
                self.vector = v & 0xf8;
                match (self.single, self.wants_icw4) {
                    (false, _) => Expect::Icw3,
                    (true, true) => Expect::Icw4,
                    (true, false) => Expect::Operation,
                }
            }
            Expect::Icw3 => {
                self.icw3 = v;
                if self.wants_icw4 { Expect::Icw4 } else { Expect::Operation }
            }
            Expect::Icw4 => {
                self.auto_eoi = v & 0x02 != 0;
                self.fully_nested_cascade = v & 0x10 != 0;
                Expect::Operation
            }
        };
    }
}

/// Everything the guest can observe, and nothing else.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    pics: [Pic; 2],
    /// `INT` of the second controller when the first last looked.
    cascade: bool,
}

impl orrery_system::State for State {
    const KIND: &'static str = "isa-pic";
    const VERSION: u16 = 1;
}

impl State {
    /// Follows the second controller's output into the first.
    fn cascade(&mut self) {
        let out = self.pics[1].request(false).is_some();
        let master = &mut self.pics[0];
        let bit = 1 << CASCADE;
        if !out {
            master.irr &= !bit;
        } else if !self.cascade || master.level_triggered() & bit != 0 {
            master.irr |= bit;
        }
        master.levels = master.levels & !bit | if out { bit } else { 0 };
        self.cascade = out;
    }

    fn inputs(&mut self, levels: u16, edges: u16) {
        let bit = 1 << CASCADE;
        let latched = self.pics[0].irr & bit;
        self.pics[0].inputs(levels as u8 & !bit, edges as u8 & !bit);
        self.pics[0].irr |= latched;
        self.pics[1].inputs((levels >> 8) as u8, (edges >> 8) as u8);
        self.cascade();
    }

    /// Puts the request of controller `i` into service. Its output falls in between, so a
    /// further request makes a new edge.
    fn acknowledge(&mut self, i: usize) -> Option<u8> {
        let n = self.pics[i].request(i == 0)?;
        self.pics[i].acknowledge(n);
        if i == 1 {
            self.cascade = false;
        }
        Some(n)
    }

    /// An interrupt acknowledge cycle. A request that went away reads as input 7.
    fn int_ack(&mut self) -> u8 {
        let vector = match self.acknowledge(0) {
            Some(CASCADE) => {
                let n = self.acknowledge(1).unwrap_or(7);
                self.pics[1].vector | n
            }
            n => self.pics[0].vector | n.unwrap_or(7),
        };
        self.cascade();
        vector
    }

    fn read(&mut self, i: usize, reg: Reg) -> u8 {
        if std::mem::take(&mut self.pics[i].poll) {
            let word = self.acknowledge(i).map_or(0, |n| 0x80 | n);
            self.cascade();
            return word;
        }
        let pic = &self.pics[i];
        match reg {
            Reg::Data => pic.imr,
            Reg::Command if pic.read_isr => pic.isr,
            Reg::Command => pic.irr,
        }
    }

    fn write(&mut self, i: usize, reg: Reg, v: u8) {
        match reg {
            Reg::Command => self.pics[i].write_command(v),
            Reg::Data => self.pics[i].write_data(v),
        }
        self.cascade();
    }

    fn write_elcr(&mut self, i: usize, v: u8) {
        let pic = &mut self.pics[i];
        let changed = (pic.elcr ^ v) & ELCR_MASK[i];
        pic.elcr = v & ELCR_MASK[i];
        // An input that becomes level triggered follows its line; one that becomes edge
        // triggered waits for a rise.
        pic.irr = pic.irr & !changed | pic.levels & changed & pic.elcr;
        self.cascade();
    }
}

/// The device.
pub struct I8259 {
    inputs: Inputs,
    intr: IrqLine,
    state: State,
}

impl I8259 {
    /// Builds the pair in its power-on state.
    pub fn new(wires: Wires) -> Self {
        let inputs = Inputs::new(wires.inputs.into());
        Self { inputs, intr: wires.intr, state: State::default() }
    }

    fn look(&mut self) {
        let (levels, edges) = self.inputs.sample();
        self.state.inputs(levels as u16, edges as u16);
    }

    fn drive(&self) {
        self.intr.set(self.state.pics[0].request(true).is_some());
    }
}

impl Device for I8259 {
    fn name(&self) -> &'static str {
        State::KIND
    }

    fn reset(&mut self) {
        self.inputs.drain();
        self.state = State::default();
        self.drive();
    }

    fn save(&self) -> StateBlob {
        StateBlob::encode(&self.state)
    }

    fn restore(&mut self, blob: &StateBlob) -> Result<(), RestoreError> {
        let state: State = blob.decode()?;
        if state.pics.iter().any(|p| p.first > 7) {
            return Err(RestoreError::Invalid("priority of an input past 7"));
        }
        self.state = state;
        self.inputs.forget_edges();
        self.drive();
        Ok(())
    }

    fn registers(&mut self) -> Option<&mut dyn Registers> {
        Some(self)
    }

    fn settle(&mut self) -> Option<&mut dyn Settle> {
        Some(self)
    }

    fn int_ack(&mut self) -> Option<&mut dyn IntAck> {
        Some(self)
    }

    fn inspect(&self) -> Vec<(&'static str, String)> {
        let [m, s] = &self.state.pics;
        vec![
            ("irr", format!("{:02x} {:02x}", m.irr, s.irr)),
            ("isr", format!("{:02x} {:02x}", m.isr, s.isr)),
            ("imr", format!("{:02x} {:02x}", m.imr, s.imr)),
            ("elcr", format!("{:02x} {:02x}", m.elcr, s.elcr)),
            ("vector", format!("{:02x} {:02x}", m.vector, s.vector)),
        ]
    }
}

impl Settle for I8259 {
    fn settle(&mut self) {
        self.look();
        self.drive();
    }
}

impl IntAck for I8259 {
    fn acknowledge(&mut self, _cpu: usize) -> Option<u8> {
        self.look();
        let vector = self.state.int_ack();
        self.drive();
        Some(vector)
    }
}

impl Registers for I8259 {
    fn read(&mut self, bank: u32, offset: u64, width: u8) -> BusResult<u64> {
        let value = match bank {
            MASTER | SLAVE => {
                let (reg, _) = Reg::decode(offset, width)?;
                self.look();
                self.state.read(bank as usize, reg)
            }
            ELCR => self.state.pics[Elcr::decode(offset, width)?.0 as usize].elcr,
            _ => return Err(BusError::NoRegister),
        };
        self.drive();
        Ok(value.into())
    }

    fn write(&mut self, bank: u32, offset: u64, width: u8, value: u64) -> BusResult<()> {
        match bank {
            MASTER | SLAVE => {
                let (reg, _) = Reg::decode(offset, width)?;
                self.look();
                self.state.write(bank as usize, reg, value as u8);
            }
            ELCR => {
                let (reg, _) = Elcr::decode(offset, width)?;
                self.look();
                self.state.write_elcr(reg as usize, value as u8);
            }
            _ => return Err(BusError::NoRegister),
        }
        self.drive();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bench {
        dev: I8259,
        pins: Vec<IrqLine>,
        intr: IrqInput,
    }

    fn fresh() -> Bench {
        let inputs: [IrqInput; 16] = std::array::from_fn(|_| IrqInput::detached());
        let pins = inputs.iter().map(IrqInput::pin).collect();
        let intr = IrqInput::detached();
        let dev = I8259::new(Wires { inputs, intr: intr.pin() });
        Bench { dev, pins, intr }
    }

    impl Bench {
        /// The pair as a PC's firmware sets it up, all inputs open.
        fn new() -> Self {
            let mut b = fresh();
            b.init(0x01);
            b.mask(0, 0);
            b.mask(1, 0);
            b
        }

        fn init(&mut self, icw4: u8) {
            for (bank, vector, icw3) in [(MASTER, 0x08, 4), (SLAVE, 0x70, 2)] {
                self.command(bank, 0x11);
                self.mask(bank, vector);
                self.mask(bank, icw3);
                self.mask(bank, icw4);
            }
        }

        fn command(&mut self, bank: u32, v: u8) {
            self.dev.write(bank, 0, 1, v.into()).unwrap();
        }

        fn mask(&mut self, bank: u32, v: u8) {
            self.dev.write(bank, 1, 1, v.into()).unwrap();
        }

        fn status(&mut self, bank: u32) -> u8 {
            self.dev.read(bank, 0, 1).unwrap() as u8
        }

        fn pin(&mut self, n: usize, level: bool) {
            self.pins[n].set(level);
            Settle::settle(&mut self.dev);
        }

        fn pulse(&mut self, n: usize) {
            self.pins[n].pulse();
            Settle::settle(&mut self.dev);
        }

        fn ack(&mut self) -> u8 {
            assert!(self.intr.level(), "INT");
            self.dev.acknowledge(0).unwrap()
        }
    }

    #[test]
    fn a_request_is_acknowledged_and_ended() {
        let mut b = Bench::new();
        b.pin(1, true);
        assert_eq!(b.ack(), 0x09);
        assert!(!b.intr.level(), "in service");
        b.pin(1, false);
        b.pin(1, true);
        assert!(!b.intr.level(), "the same level waits for the end of interrupt");
        b.command(MASTER, 0x20);
        assert_eq!(b.ack(), 0x09);
    }

    #[test]
    fn an_edge_input_that_stays_high_requests_once() {
        let mut b = Bench::new();
        b.pin(3, true);
        b.ack();
        b.command(MASTER, 0x20);
        assert!(!b.intr.level());
    }

    #[test]
    fn lower_numbers_interrupt_higher_ones_but_not_the_reverse() {
        let mut b = Bench::new();
        b.pulse(4);
        assert_eq!(b.ack(), 0x0c);
        b.pulse(5);
        assert!(!b.intr.level());
        b.pulse(0);
        assert_eq!(b.ack(), 0x08);
        b.command(MASTER, 0x20);
        assert!(!b.intr.level(), "4 still in service");
        b.command(MASTER, 0x20);
        assert_eq!(b.ack(), 0x0d);
    }

    #[test]
    fn the_second_controller_comes_through_input_2() {
        let mut b = Bench::new();
        b.pin(12, true);
        assert_eq!(b.status(MASTER), 4);
        assert_eq!(b.ack(), 0x74);
        b.command(MASTER, 0x0b);
        b.command(SLAVE, 0x0b);
        assert_eq!((b.status(MASTER), b.status(SLAVE)), (0x04, 0x10));
        // A higher one on the second controller waits for input 2 of the first.
        b.pulse(8);
        assert!(!b.intr.level());
        b.command(MASTER, 0x20);
        assert_eq!(b.ack(), 0x70);
    }

    #[test]
    fn two_requests_on_the_second_controller_are_both_served() {
        let mut b = Bench::new();
        b.pulse(14);
        b.pulse(15);
        for vector in [0x76, 0x77] {
            assert_eq!(b.ack(), vector);
            b.command(SLAVE, 0x20);
            b.command(MASTER, 0x20);
        }
        assert!(!b.intr.level());
    }

    #[test]
    fn special_fully_nested_mode_lets_the_second_controller_nest() {
        let mut b = Bench::new();
        b.init(0x11);
        b.pulse(12);
        b.ack();
        b.pulse(8);
        assert_eq!(b.ack(), 0x70);
    }

    #[test]
    fn a_level_input_requests_until_its_line_falls() {
        let mut b = Bench::new();
        b.dev.write(ELCR, 1, 1, 0x08).unwrap();
        b.pin(11, true);
        for _ in 0..2 {
            assert_eq!(b.ack(), 0x73);
            b.command(SLAVE, 0x20);
            b.command(MASTER, 0x20);
        }
        b.pin(11, false);
        assert!(!b.intr.level());
    }

    #[test]
    fn the_timer_and_keyboard_inputs_cannot_be_level_triggered() {
        let mut b = Bench::new();
        b.dev.write(ELCR, 0, 2, 0xffff).unwrap_err();
        b.dev.write(ELCR, 0, 1, 0xff).unwrap();
        b.dev.write(ELCR, 1, 1, 0xff).unwrap();
        assert_eq!(b.dev.read(ELCR, 0, 1), Ok(0xf8));
        assert_eq!(b.dev.read(ELCR, 1, 1), Ok(0xde));
    }

    #[test]
    fn a_request_that_goes_away_reads_as_input_7_and_is_not_in_service() {
        let mut b = Bench::new();
        b.dev.write(ELCR, 0, 1, 0x20).unwrap();
        b.pin(5, true);
        b.pins[5].set(false);
        assert_eq!(b.ack(), 0x0f);
        b.command(MASTER, 0x0b);
        assert_eq!(b.status(MASTER), 0);
    }

    #[test]
    fn a_request_masked_on_the_second_controller_after_int_is_gone() {
        let mut b = Bench::new();
        b.pin(10, true);
        assert!(b.intr.level());
        b.mask(SLAVE, 0x04);
        assert!(!b.intr.level());
        b.mask(SLAVE, 0);
        assert_eq!(b.ack(), 0x72, "the edge stayed latched");
    }

    #[test]
    fn the_mask_reads_back_and_holds_requests() {
        let mut b = Bench::new();
        b.mask(MASTER, 0xfb);
        assert_eq!(b.dev.read(MASTER, 1, 1), Ok(0xfb));
        b.pulse(6);
        assert!(!b.intr.level());
        b.command(MASTER, 0x0a);
        assert_eq!(b.status(MASTER), 0x40);
        b.mask(MASTER, 0xbb);
        assert_eq!(b.ack(), 0x0e);
    }

    #[test]
    fn a_specific_end_of_interrupt_ends_that_input() {
        let mut b = Bench::new();
        b.pulse(5);
        b.ack();
        b.pulse(3);
        b.ack();
        b.command(MASTER, 0x65);
        b.command(MASTER, 0x0b);
        assert_eq!(b.status(MASTER), 0x08);
    }

    #[test]
    fn rotation_makes_the_served_input_the_lowest() {
        let mut b = Bench::new();
        b.pulse(0);
        b.ack();
        b.command(MASTER, 0xa0);
        b.pulse(0);
        b.pulse(7);
        assert_eq!(b.ack(), 0x0f, "7 before 0");
        b.command(MASTER, 0x20);
        b.command(MASTER, 0xc0 | 4);
        b.pulse(4);
        b.pulse(5);
        b.ack();
        b.command(MASTER, 0x0b);
        assert_eq!(b.status(MASTER), 0x20, "5 is the highest now");
    }

    #[test]
    fn special_mask_mode_opens_lower_inputs_while_a_masked_one_is_in_service() {
        let mut b = Bench::new();
        b.pulse(1);
        b.ack();
        b.pulse(6);
        b.mask(MASTER, 0x02);
        assert!(!b.intr.level());
        b.command(MASTER, 0x68);
        assert_eq!(b.ack(), 0x0e);
        b.command(MASTER, 0x20);
        b.command(MASTER, 0x0b);
        assert_eq!(b.status(MASTER), 0x02, "an unspecific EOI spares the masked input");
        b.command(MASTER, 0x48);
        b.pulse(6);
        assert!(!b.intr.level());
    }

    #[test]
    fn automatic_end_of_interrupt_leaves_nothing_in_service() {
        let mut b = Bench::new();
        b.init(0x03);
        b.pulse(4);
        b.ack();
        b.pulse(4);
        assert_eq!(b.ack(), 0x0c);
        b.command(MASTER, 0x80);
        b.pulse(4);
        b.ack();
        b.pulse(3);
        b.pulse(5);
        assert_eq!(b.ack(), 0x0d, "rotates");
    }

    #[test]
    fn polling_acknowledges() {
        let mut b = Bench::new();
        b.command(MASTER, 0x0c);
        assert_eq!(b.status(MASTER), 0, "nothing");
        b.pulse(6);
        b.command(MASTER, 0x0c);
        assert_eq!(b.status(MASTER), 0x86);
        assert!(!b.intr.level());
        b.command(MASTER, 0x0b);
        assert_eq!(b.status(MASTER), 0x40);
    }

    #[test]
    fn initialization_forgets_latched_edges_masks_and_service() {
        let mut b = Bench::new();
        b.pulse(1);
        b.ack();
        b.pulse(3);
        b.mask(MASTER, 0xaa);
        b.init(0x01);
        assert_eq!(b.dev.read(MASTER, 1, 1), Ok(0));
        assert_eq!(b.status(MASTER), 0);
        b.command(MASTER, 0x0b);
        assert_eq!(b.status(MASTER), 0);
        assert!(!b.intr.level());
    }

    #[test]
    fn restoring_makes_no_interrupt_out_of_a_line_driven_again() {
        let mut b = Bench::new();
        b.pin(3, true);
        b.ack();
        b.command(MASTER, 0x20);
        let blob = b.dev.save();
        let mut other = fresh();
        other.dev.restore(&blob).unwrap();
        other.pin(3, true);
        assert!(!other.intr.level());
        other.pin(3, false);
        other.pin(3, true);
        assert!(other.intr.level());
    }

    orrery_system::conformance!(
        fresh().dev,
        [(MASTER, Reg::TABLE), (SLAVE, Reg::TABLE), (ELCR, Elcr::TABLE)]
    );
}
