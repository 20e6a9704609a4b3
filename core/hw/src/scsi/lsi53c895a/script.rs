//! The SCRIPTS processor: chapter 5 of the manual.

use super::regs::{Reg, bits};
use super::wire::Phase;
use super::{BURST, Lsi, PAUSE_NS, Run};
use crate::pci::Slot;

/// Most bytes moved at once.
const PIECE: usize = 0x1_0000;

/// An instruction being carried out.
#[derive(Clone, Copy)]
struct Insn {
    /// Where it is.
    at: u32,
    word: u32,
    /// Its second word.
    arg: u32,
}

/// A 24-bit number with a sign.
fn signed24(v: u32) -> u32 {
    ((v << 8) as i32 >> 8) as u32
}

impl Lsi {
    /// Runs the processor until it stops or waits.
    pub(super) fn execute(&mut self, slot: &mut Slot<'_>) {
        self.state.goes_on = None;
        for _ in 0..BURST {
            if self.state.run != Run::Running {
                return;
            }
            if !slot.function.dma().is_enabled() {
                break;
            }
            self.step(slot);
            if self.state.u8(Reg::Dcntl) & bits::DCNTL_SSM != 0 && self.state.run == Run::Running {
                self.raise_dma(bits::DSTAT_SSI);
            }
        }
        if self.state.run == Run::Running {
            self.state.goes_on = Some(self.wires.clock.now().after(PAUSE_NS));
        }
    }

    fn step(&mut self, slot: &mut Slot<'_>) {
        let at = self.state.u32(Reg::Dsp);
        let mut b = [0; 8];
        if !self.fetch(slot, at.into(), &mut b) {
            return self.raise_dma(bits::DSTAT_BF);
        }
        let word = u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
        let arg = u32::from_le_bytes([b[4], b[5], b[6], b[7]]);
        let s = &mut self.state;
        if word == 0 {
            // A move of nothing is illegal on the chip. SeaBIOS leaves one, with no address behind it, where a command
            // has no data, and expects both words to be passed over, each as an instruction.
            return s.set_u32(Reg::Dsp, at.wrapping_add(4));
        }
        s.set_u32(Reg::Dbc, word);
        s.set_u32(Reg::Dsps, arg);
        s.set_u32(Reg::Dsp, at.wrapping_add(8));
        let insn = Insn { at, word, arg };
        match word >> 30 {
            0 => self.block_move(insn, slot),
            1 if word >> 27 & 7 < 5 => self.io(insn, slot),
            1 => self.register(insn),
            2 => self.transfer_control(insn),
            _ if word >> 29 & 1 == 0 => self.memory_move(insn, slot),
            _ => self.load_store(insn, slot),
        }
    }

    /// Waits for a phase: the instruction starts over.
    fn wait(&mut self, insn: Insn) {
        self.state.set_u32(Reg::Dsp, insn.at);
        self.state.run = Run::Phase;
    }

    fn connect(&mut self, on: bool) {
        let s = &mut self.state;
        let istat = s.u8(Reg::Istat0) & !bits::ISTAT_CON;
        s.set(Reg::Istat0, istat | if on { bits::ISTAT_CON } else { 0 });
        let control = s.u8(Reg::Scntl1) & !0x10;
        s.set(Reg::Scntl1, control | if on { 0x10 } else { 0 });
    }

    // Block moves (5.3).

    fn block_move(&mut self, insn: Insn, slot: &mut Slot<'_>) {
        if insn.word >> 24 & 7 == Phase::MessageOut as u32 {
            self.state.wire.accept_messages();
        }
        let Some(phase) = self.state.wire.phase() else {
            if self.state.wire.connected() {
                return self.wait(insn);
            }
            // Nobody is there to move anything.
            return self.raise_scsi(bits::SIST0_UDC, 0);
        };
        let mut count = insn.word & 0xff_ffff;
        let mut address = u64::from(insn.arg);
        let mut entry = 0;
        // What stands above the count: with a table its own upper byte.
        let mut top = insn.word & 0xff00_0000;
        if insn.word & 1 << 28 != 0 {
            // From a table, relative to the data structure address.
            entry = self.state.u32(Reg::Dsa).wrapping_add(signed24(insn.arg));
            let word = self.fetch_u32(slot, entry.into());
            address = self.fetch_u32(slot, u64::from(entry) + 4).into();
            (count, top) = (word & 0xff_ffff, word & 0xff00_0000);
            address |= self.upper(word >> 24) << 32;
            self.state.set_u32(Reg::Esa, entry);
        } else if insn.word & 1 << 29 != 0 {
            address = self.fetch_u32(slot, address).into();
        } else if self.state.u8(Reg::Ccntl1) & bits::CCNTL1_EN64DBMV != 0 {
            address |= u64::from(self.state.u32(Reg::Dbms)) << 32;
        }
        if let Some((at, left)) = self.state.held.take() {
            (address, count) = (at, left);
        }
        if phase as u32 != insn.word >> 24 & 7 {
            return self.mismatch(insn, address, top | count, entry);
        }
        let mut first = None;
        while count > 0 {
            match self.state.wire.phase() {
                Some(now) if now == phase => {}
                Some(_) => {
                    self.received(first);
                    return self.mismatch(insn, address, top | count, entry);
                }
                None if self.state.wire.connected() => {
                    // The rest of the move, once the unit goes on: it starts over where it is now.
                    self.received(first);
                    self.state.held = Some((address, count));
                    return self.wait(insn);
                }
                None => break,
            }
            let n = (count as usize).min(self.state.wire.room()).min(PIECE);
            let incoming = phase as u8 & 1 != 0;
            let done = if incoming {
                let bytes = self.state.wire.take(n, &mut self.bus);
                first = first.or(bytes.first().copied());
                self.store(slot, address, &bytes)
            } else {
                let mut bytes = vec![0; n];
                let there = self.fetch(slot, address, &mut bytes);
                self.state.wire.give(&bytes, &mut self.bus);
                there
            };
            if !done {
                return self.raise_dma(bits::DSTAT_BF);
            }
            address = address.wrapping_add(n as u64);
            count -= n as u32;
        }
        self.received(first);
        let s = &mut self.state;
        s.set_u32(Reg::Dbc, insn.word & 0xff00_0000);
        s.set_u32(Reg::Dnad, address as u32);
        if !s.wire.connected() {
            self.connect(false);
        }
    }

    fn received(&mut self, first: Option<u8>) {
        if let Some(byte) = first {
            self.state.set(Reg::Sfbr, byte);
        }
    }

    /// Upper half of an address in a table: what the entry's upper byte is depends on the mode (CCNTL1).
    fn upper(&self, byte: u32) -> u64 {
        let mode = self.state.u8(Reg::Ccntl1);
        if mode & bits::CCNTL1_EN64TIBMV == 0 {
            return 0;
        }
        if mode & bits::CCNTL1_64TIMOD != 0 {
            return byte.into();
        }
        // An index of a scratch register (from C on), then of the selectors.
        let at = match byte & 0x1f {
            n @ 0..16 => 0x60 + 4 * n as usize,
            n @ 16..22 => Reg::Mmrs.at() + 4 * (n as usize - 16),
            _ => return 0,
        };
        let r = &self.state.regs;
        u32::from_le_bytes([r[at], r[at + 1], r[at + 2], r[at + 3]]).into()
    }

    /// The target is in another phase than the instruction (5.3.1, and chapter 4 on CCNTL0).
    fn mismatch(&mut self, insn: Insn, address: u64, left: u32, entry: u32) {
        let s = &mut self.state;
        s.set_u32(Reg::Dbc, insn.word & 0xff00_0000 | left & 0xff_ffff);
        s.set_u32(Reg::Dnad, address as u32);
        let control = s.u8(Reg::Ccntl0);
        let incoming = insn.word >> 24 & 1 != 0;
        if control & bits::CCNTL0_ENPMJ == 0 || insn.word >> 24 & 7 > 1 {
            return self.raise_scsi(bits::SIST0_MA, 0);
        }
        // By direction, or by whether a byte is left over, which never is.
        let second = incoming && control & bits::CCNTL0_PMJCTL == 0;
        let to = s.u32(if second { Reg::Pmjad2 } else { Reg::Pmjad1 });
        s.set_u32(Reg::Rbc, left);
        s.set_u32(Reg::Ua, address as u32);
        s.set_u32(Reg::Esa, entry);
        s.set_u32(Reg::Ia, insn.at);
        s.set_u32(Reg::Dsp, to);
    }

    // I/O instructions (5.4).

    fn io(&mut self, insn: Insn, slot: &mut Slot<'_>) {
        let Insn { word, arg, .. } = insn;
        match word >> 27 & 7 {
            0 => self.select(insn, slot),
            // Wait disconnect: the target has let go by then, or is made to.
            1 => {
                self.state.wire.free();
                self.connect(false);
            }
            // Wait reselect: nobody will; a signal leads elsewhere.
            2 => {
                self.state.run = Run::Reselect;
                if self.state.u8(Reg::Istat0) & bits::ISTAT_SIGP != 0 {
                    self.signalled();
                }
            }
            set @ (3 | 4) => {
                let on = set == 3;
                if word & 1 << 10 != 0 {
                    self.state.carry = on;
                }
                if word & 1 << 3 != 0 {
                    self.state.wire.set_attention(on);
                }
                let lines = (word & 0x48) as u8;
                let socl = self.state.u8(Reg::Socl);
                self.state.set(Reg::Socl, if on { socl | lines } else { socl & !lines });
            }
            _ => {
                tracing::trace!(word, arg, "reserved SCRIPTS instruction");
                self.raise_dma(bits::DSTAT_IID);
            }
        }
    }

    /// The driver's signal while the script waits to be reselected: it goes on at the other address. The signal stays
    /// until CTEST2 is read.
    pub(super) fn signalled(&mut self) {
        let s = &mut self.state;
        let arg = s.u32(Reg::Dsps);
        let relative = s.u32(Reg::Dbc) & 1 << 26 != 0;
        let next = s.u32(Reg::Dsp);
        s.set_u32(Reg::Dsp, if relative { next.wrapping_add(signed24(arg)) } else { arg });
        s.run = Run::Running;
    }

    fn select(&mut self, insn: Insn, slot: &mut Slot<'_>) {
        let Insn { word, arg, .. } = insn;
        let mut target = (word >> 16) as u8 & 15;
        if word & 1 << 25 != 0 {
            let from = self.state.u32(Reg::Dsa).wrapping_add(signed24(word));
            let entry = self.fetch_u32(slot, from.into());
            target = (entry >> 16) as u8 & 15;
            self.state.set(Reg::Sxfer, (entry >> 8) as u8);
            self.state.set(Reg::Scntl3, (entry >> 24) as u8);
        }
        tracing::trace!(target, arg, "select");
        self.state.set(Reg::Sdid, target);
        if self.state.wire.connected() {
            // The bus is not free: the script goes on elsewhere.
            let next = self.state.u32(Reg::Dsp);
            let relative = word & 1 << 26 != 0;
            let to = if relative { next.wrapping_add(signed24(arg)) } else { arg };
            return self.state.set_u32(Reg::Dsp, to);
        }
        if !self.bus.has_target(target) {
            return self.raise_scsi(0, bits::SIST1_STO);
        }
        self.state.wire.select(target, word & 1 << 24 != 0);
        self.connect(true);
    }

    // Registers (5.5).

    fn register(&mut self, insn: Insn) {
        let Insn { word, .. } = insn;
        let at = (word >> 16 & 0x7f | word & 0x80) as usize;
        let (opcode, operator) = (word >> 27 & 7, word >> 24 & 7);
        let sfbr = self.state.u8(Reg::Sfbr);
        let mut data = (word >> 8) as u8;
        if word & 1 << 23 != 0 {
            data = sfbr;
        }
        // From SFBR to the register, from the register to SFBR, from and to the register.
        let (source, to) = match opcode {
            5 => (sfbr, at),
            6 => (self.plain(at), Reg::Sfbr.at()),
            _ => (self.plain(at), at),
        };
        let carry = u16::from(self.state.carry);
        let (value, out) = match operator {
            // Whatever the direction, what is moved is the immediate value.
            0 => (data, None),
            1 => (source << 1 | carry as u8, Some(source >> 7 != 0)),
            2 => (source | data, None),
            3 => (source ^ data, None),
            4 => (source & data, None),
            5 => (source >> 1 | (carry as u8) << 7, Some(source & 1 != 0)),
            n => {
                let carry = if n == 7 { carry } else { 0 };
                let sum = u16::from(source) + u16::from(data) + carry;
                (sum as u8, Some(sum > 0xff))
            }
        };
        if let Some(carry) = out {
            self.state.carry = carry;
        }
        self.put(to, value);
    }

    /// A register as an instruction reads it.
    fn plain(&mut self, at: usize) -> u8 {
        self.read_reg(at)
    }

    /// Writes a register from an instruction: what starts or stops the processor does not apply.
    fn put(&mut self, at: usize, value: u8) {
        let s = &mut self.state;
        match Reg::of(at) {
            Some(Reg::Istat0) => {
                let keep = bits::ISTAT_CON | bits::ISTAT_INTF | bits::ISTAT_SIP | bits::ISTAT_DIP;
                let old = s.u8(Reg::Istat0);
                s.set(Reg::Istat0, old & keep | value & !keep & !bits::ISTAT_SRST);
            }
            Some(Reg::Dstat | Reg::Sist0 | Reg::Sist1 | Reg::Sbcl | Reg::Sstat1) => {}
            Some(Reg::Scntl1) => {
                let old = s.u8(Reg::Scntl1) & 0x10;
                s.set(Reg::Scntl1, value & !0x10 & !bits::SCNTL1_RST | old);
            }
            Some(Reg::Socl) => {
                s.set(Reg::Socl, value);
                s.wire.set_attention(value & 8 != 0);
            }
            _ => s.regs[at] = value,
        }
    }

    // Transfer of control (5.6).

    fn transfer_control(&mut self, insn: Insn) {
        let Insn { word, arg, .. } = insn;
        let wanted = word & 1 << 19 != 0;
        let holds = if word & 1 << 21 != 0 {
            self.state.carry == wanted
        } else {
            let mut same = true;
            if word & 1 << 17 != 0 {
                let phase = match self.state.wire.phase() {
                    Some(phase) => phase as u8,
                    None if word & 1 << 16 != 0 && self.state.wire.connected() => {
                        return self.wait(insn);
                    }
                    None => self.state.wire.latched(),
                };
                same &= u32::from(phase) == word >> 24 & 7;
            }
            if word & 1 << 18 != 0 {
                let mask = !(word >> 8) as u8;
                same &= self.state.u8(Reg::Sfbr) & mask == word as u8 & mask;
            }
            same == wanted
        };
        if !holds {
            return;
        }
        let next = self.state.u32(Reg::Dsp);
        let target = if word & 1 << 23 != 0 { next.wrapping_add(signed24(arg)) } else { arg };
        match word >> 27 & 7 {
            0 => self.state.set_u32(Reg::Dsp, target),
            1 => {
                self.state.set_u32(Reg::Temp, next);
                self.state.set_u32(Reg::Dsp, target);
            }
            2 => {
                let back = self.state.u32(Reg::Temp);
                self.state.set_u32(Reg::Dsp, back);
            }
            3 if word & 1 << 20 != 0 => {
                let istat = self.state.u8(Reg::Istat0);
                self.state.set(Reg::Istat0, istat | bits::ISTAT_INTF);
            }
            3 => self.raise_dma(bits::DSTAT_SIR),
            _ => self.raise_dma(bits::DSTAT_IID),
        }
    }

    // Memory (5.7, 5.8).

    fn memory_move(&mut self, insn: Insn, slot: &mut Slot<'_>) {
        let Insn { word, arg, .. } = insn;
        let next = self.state.u32(Reg::Dsp);
        let mut to = u64::from(self.fetch_u32(slot, next.into()));
        self.state.set_u32(Reg::Temp, to as u32);
        self.state.set_u32(Reg::Dsp, next.wrapping_add(4));
        let (mut from, mut left) = (u64::from(arg), (word & 0xff_ffff) as usize);
        while left > 0 {
            let n = left.min(PIECE);
            let mut bytes = vec![0; n];
            if !self.fetch(slot, from, &mut bytes) || !self.store(slot, to, &bytes) {
                return self.raise_dma(bits::DSTAT_BF);
            }
            (from, to, left) = (from + n as u64, to + n as u64, left - n);
        }
    }

    fn load_store(&mut self, insn: Insn, slot: &mut Slot<'_>) {
        let Insn { word, arg, .. } = insn;
        let mut at = arg;
        if word & 1 << 28 != 0 {
            at = self.state.u32(Reg::Dsa).wrapping_add(signed24(arg));
        }
        let (reg, n) = ((word >> 16 & 0xff) as usize, (word & 7) as usize);
        if word & 1 << 24 != 0 {
            let mut bytes = vec![0; n];
            if !self.fetch(slot, at.into(), &mut bytes) {
                return self.raise_dma(bits::DSTAT_BF);
            }
            for (i, byte) in bytes.into_iter().enumerate() {
                self.put((reg + i) & 0xff, byte);
            }
        } else {
            let bytes: Vec<u8> = (0..n).map(|i| self.plain((reg + i) & 0xff)).collect();
            if !self.store(slot, at.into(), &bytes) {
                self.raise_dma(bits::DSTAT_BF);
            }
        }
    }
}
