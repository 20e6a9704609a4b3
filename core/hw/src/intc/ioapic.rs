//! I/O APIC with 24 inputs.
//!
//! Reference: Intel 82093AA data sheet (290566-001); the EOI register of version 20h: ICH9 data
//! sheet, 13.5. Interrupts leave as messages; the end of a level-triggered one comes back over the
//! [`EoiBus`] or through the EOI register.
//!
//! Input polarity reads back and means nothing: wires here are high when active, whatever level
//! that would be on the board.

use super::Inputs;
use super::apic::EoiBus;
use bitfield_struct::bitfield;
use orrery_system::bus::{BusResult, Registers};
use orrery_system::device::{Device, Settle};
use orrery_system::ports::{Message, MessageQueue};
use orrery_system::reg_map::Access;
use orrery_system::{IrqInput, RestoreError, State as _, StateBlob};
use serde::{Deserialize, Serialize};

orrery_system::reg_map! {
    /// Registers at the base, fec00000h.
    pub enum Reg {
        /// Selects an indirect register.
        0x00 Index: 4 Rw,
        /// The register selected.
        0x10 Window: 4 Rw,
        /// End of interrupt: a vector.
        0x40 Eoi: 4 Wo,
    }
}

/// Inputs.
pub const PINS: usize = 24;
/// Version 20h, and the number of the last input.
const VERSION: u32 = 0x20 | (PINS as u32 - 1) << 16;

/// A redirection table entry.
#[bitfield(u64)]
#[derive(PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Interrupt vector.
    pub vector: u8,
    /// Delivery mode.
    #[bits(3)]
    pub mode: u8,
    /// The destination is logical.
    pub logical: bool,
    /// Delivery pending: never seen.
    pub pending: bool,
    /// Active low.
    pub active_low: bool,
    /// Sent, and not ended yet.
    pub remote_irr: bool,
    /// Level triggered.
    pub level: bool,
    /// Masked.
    pub masked: bool,
    #[bits(39)]
    __: u64,
    /// Destination.
    pub dest: u8,
}

/// Bits of an entry the guest can write.
const ENTRY_WRITABLE: u64 = 0xff00_0000_0001_afff;

/// Pins and services the machine wires up.
pub struct Wires {
    /// The inputs, of which 0 to 15 are the ISA interrupts with the timer's on 2.
    pub inputs: [IrqInput; PINS],
    /// Where interrupts go.
    pub messages: MessageQueue,
    /// Where their ends come from.
    pub eoi: EoiBus,
}

/// Everything the guest can observe, and nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    index: u8,
    id: u8,
    table: [Entry; PINS],
    /// Levels of the inputs when last looked at.
    levels: u32,
}

impl orrery_system::State for State {
    const KIND: &'static str = "ioapic";
    const VERSION: u16 = 1;
}

impl State {
    fn power_on() -> Self {
        Self { index: 0, id: 0, table: [Entry::new().with_masked(true); PINS], levels: 0 }
    }

    fn inputs(&mut self, levels: u32, edges: u32, out: &mut Vec<Message>) {
        self.levels = levels;
        for pin in 0..PINS {
            let e = self.table[pin];
            // An edge while masked is lost (82093AA 3.2.4).
            if !e.level() && !e.masked() && edges & 1 << pin != 0 {
                out.push(message(e));
            }
        }
        self.serve_levels(out);
    }

    /// Sends what level-triggered inputs ask for.
    fn serve_levels(&mut self, out: &mut Vec<Message>) {
        for (pin, e) in self.table.iter_mut().enumerate() {
            let asks = self.levels & 1 << pin != 0;
            if e.level() && asks && !e.masked() && !e.remote_irr() {
                e.set_remote_irr(true);
                out.push(message(*e));
            }
        }
    }

    fn end(&mut self, vector: u8) {
        for e in &mut self.table {
            if e.level() && e.vector() == vector {
                e.set_remote_irr(false);
            }
        }
    }

    /// The entry and half the index selects.
    fn selected(&self) -> Option<(usize, bool)> {
        let n = usize::from(self.index.checked_sub(0x10)?);
        (n / 2 < PINS).then_some((n / 2, n % 2 != 0))
    }

    fn read_window(&self) -> u32 {
        match (self.index, self.selected()) {
            (0 | 2, _) => u32::from(self.id) << 24,
            (1, _) => VERSION,
            (_, Some((n, false))) => u64::from(self.table[n]) as u32,
            (_, Some((n, true))) => (u64::from(self.table[n]) >> 32) as u32,
            _ => 0,
        }
    }

    fn write_window(&mut self, v: u32) {
        if self.index == 0 {
            self.id = (v >> 24) as u8 & 15;
        }
        let Some((n, high)) = self.selected() else { return };
        let (before, v) = (u64::from(self.table[n]), u64::from(v));
        let new = if high { before & 0xffff_ffff | v << 32 } else { before & !0xffff_ffff | v };
        let mut e = Entry::from(before & !ENTRY_WRITABLE | new & ENTRY_WRITABLE);
        if !e.level() {
            // Guests switch to edge and back to end an interrupt without an EOI.
            e.set_remote_irr(false);
        }
        self.table[n] = e;
    }
}

/// The message an entry sends.
fn message(e: Entry) -> Message {
    let logical = if e.logical() { 4 } else { 0 };
    let trigger = if e.level() { 0xc000 } else { 0 };
    Message {
        addr: 0xfee0_0000 | u64::from(e.dest()) << 12 | logical,
        data: u32::from(e.vector()) | u32::from(e.mode()) << 8 | trigger,
    }
}

/// The device.
pub struct IoApic {
    inputs: Inputs,
    messages: MessageQueue,
    eoi: EoiBus,
    state: State,
}

impl IoApic {
    /// Builds the device in its power-on state.
    pub fn new(wires: Wires) -> Self {
        let Wires { inputs, messages, eoi } = wires;
        Self { inputs: Inputs::new(inputs.into()), messages, eoi, state: State::power_on() }
    }

    /// Takes in what came over wires and from the local APICs, does `f`, and sends what follows.
    fn step<T>(&mut self, f: impl FnOnce(&mut State) -> T) -> T {
        let mut out = Vec::new();
        let (levels, edges) = self.inputs.sample();
        while let Some(vector) = self.eoi.take() {
            self.state.end(vector);
        }
        self.state.inputs(levels, edges, &mut out);
        let result = f(&mut self.state);
        self.state.serve_levels(&mut out);
        for m in out {
            self.messages.send(m);
        }
        result
    }
}

impl Device for IoApic {
    fn name(&self) -> &'static str {
        State::KIND
    }

    fn reset(&mut self) {
        self.inputs.drain();
        while self.eoi.take().is_some() {}
        self.state = State::power_on();
    }

    fn save(&self) -> StateBlob {
        StateBlob::encode(&self.state)
    }

    fn restore(&mut self, blob: &StateBlob) -> Result<(), RestoreError> {
        self.state = blob.decode()?;
        self.inputs.forget_edges();
        Ok(())
    }

    fn registers(&mut self) -> Option<&mut dyn Registers> {
        Some(self)
    }

    fn settle(&mut self) -> Option<&mut dyn Settle> {
        Some(self)
    }

    fn inspect(&self) -> Vec<(&'static str, String)> {
        let live = self.state.table.iter().enumerate().filter(|(_, e)| !e.masked());
        let entries: Vec<_> = live.map(|(n, e)| format!("{n}:{:x}", u64::from(*e))).collect();
        vec![("entries", entries.join(" ")), ("levels", format!("{:06x}", self.state.levels))]
    }
}

impl Settle for IoApic {
    fn settle(&mut self) {
        self.step(|_| ());
    }
}

impl Registers for IoApic {
    fn read(&mut self, _bank: u32, offset: u64, width: u8) -> BusResult<u64> {
        let (reg, access) = Reg::decode(offset, width)?;
        if access == Access::Wo {
            return Ok(0);
        }
        Ok(self.step(|s| match reg {
            Reg::Index => s.index.into(),
            _ => s.read_window().into(),
        }))
    }

    fn write(&mut self, _bank: u32, offset: u64, width: u8, value: u64) -> BusResult<()> {
        // The index is one byte, and some guests write it as such.
        if offset == Reg::Index.offset() && width < 4 {
            self.state.index = value as u8;
            return Ok(());
        }
        let (reg, _) = Reg::decode(offset, width)?;
        self.step(|s| match reg {
            Reg::Index => s.index = value as u8,
            Reg::Window => s.write_window(value as u32),
            Reg::Eoi => s.end(value as u8),
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orrery_system::IrqLine;

    struct Bench {
        dev: IoApic,
        pins: Vec<IrqLine>,
        messages: MessageQueue,
        eoi: EoiBus,
    }

    impl Bench {
        fn new() -> Self {
            let inputs: [IrqInput; PINS] = std::array::from_fn(|_| IrqInput::detached());
            let pins = inputs.iter().map(IrqInput::pin).collect();
            let (messages, eoi) = (MessageQueue::default(), EoiBus::new(IrqLine::open()));
            let wires = Wires { inputs, messages: messages.clone(), eoi: eoi.clone() };
            Self { dev: IoApic::new(wires), pins, messages, eoi }
        }

        fn read(&mut self, index: u8) -> u32 {
            self.dev.write(0, 0, 4, index.into()).unwrap();
            self.dev.read(0, 0x10, 4).unwrap() as u32
        }

        fn write(&mut self, index: u8, v: u32) {
            self.dev.write(0, 0, 4, index.into()).unwrap();
            self.dev.write(0, 0x10, 4, v.into()).unwrap();
        }

        fn entry(&mut self, pin: u8, v: u64) {
            self.write(0x11 + 2 * pin, (v >> 32) as u32);
            self.write(0x10 + 2 * pin, v as u32);
        }

        fn pin(&mut self, n: usize, level: bool) {
            self.pins[n].set(level);
            Settle::settle(&mut self.dev);
        }

        fn sent(&self) -> Option<(u64, u32)> {
            self.messages.take().map(|m| (m.addr, m.data))
        }
    }

    #[test]
    fn identification_and_version_read() {
        let mut b = Bench::new();
        assert_eq!(b.read(1), 0x0017_0020);
        b.write(0, 0x0500_0000);
        assert_eq!((b.read(0), b.read(2)), (0x0500_0000, 0x0500_0000));
        assert_eq!(b.read(0x3e), 0x1_0000, "masked");
        assert_eq!(b.read(0x40), 0, "no such register");
    }

    #[test]
    fn an_edge_sends_one_message() {
        let mut b = Bench::new();
        b.entry(4, 0x0200_0000_0000_0034);
        b.pin(4, true);
        assert_eq!(b.sent(), Some((0xfee0_2000, 0x34)));
        b.pin(4, true);
        assert_eq!(b.sent(), None);
        b.pins[4].set(false);
        b.pins[4].set(true);
        Settle::settle(&mut b.dev);
        assert_eq!(b.sent(), Some((0xfee0_2000, 0x34)), "however short the pulse");
    }

    #[test]
    fn the_entry_says_how_the_message_is_delivered() {
        let mut b = Bench::new();
        b.entry(1, 0x0300_0000_0000_0931);
        b.pin(1, true);
        assert_eq!(b.sent(), Some((0xfee0_3004, 0x0131)), "logical, lowest priority");
    }

    #[test]
    fn an_edge_while_masked_is_lost() {
        let mut b = Bench::new();
        b.pin(4, true);
        b.entry(4, 0x34);
        assert_eq!(b.sent(), None);
    }

    #[test]
    fn a_level_is_sent_again_after_its_end_while_it_lasts() {
        let mut b = Bench::new();
        b.entry(20, 0x8054);
        b.pin(20, true);
        assert_eq!(b.sent(), Some((0xfee0_0000, 0xc054)));
        assert_eq!(b.read(0x10 + 40), 0xc054, "remote IRR");
        b.pin(20, false);
        b.pin(20, true);
        assert_eq!(b.sent(), None);
        b.eoi.send(0x54);
        Settle::settle(&mut b.dev);
        assert_eq!(b.sent(), Some((0xfee0_0000, 0xc054)));
        b.pin(20, false);
        b.dev.write(0, 0x40, 4, 0x54).unwrap();
        assert_eq!((b.sent(), b.read(0x10 + 40)), (None, 0x8054));
    }

    #[test]
    fn a_level_held_while_masked_is_sent_when_unmasked() {
        let mut b = Bench::new();
        b.pin(20, true);
        b.entry(20, 0x1_8054);
        assert_eq!(b.sent(), None);
        b.entry(20, 0x8054);
        assert_eq!(b.sent(), Some((0xfee0_0000, 0xc054)));
    }

    #[test]
    fn switching_to_edge_and_back_ends_an_interrupt() {
        let mut b = Bench::new();
        b.entry(20, 0x8054);
        b.pin(20, true);
        b.sent();
        b.entry(20, 0x1_0054);
        b.entry(20, 0x8054);
        assert_eq!(b.sent(), Some((0xfee0_0000, 0xc054)));
    }

    #[test]
    fn restoring_sends_nothing_for_lines_driven_again() {
        let mut b = Bench::new();
        b.entry(4, 0x34);
        b.entry(20, 0x8054);
        b.pin(4, true);
        b.pin(20, true);
        let mut other = Bench::new();
        other.dev.restore(&b.dev.save()).unwrap();
        other.pins[4].set(true);
        other.pin(20, true);
        assert_eq!(other.sent(), None);
        assert_eq!(other.dev.save(), b.dev.save());
    }

    orrery_system::conformance!(Bench::new().dev, Reg::TABLE);
}
