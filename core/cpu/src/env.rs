//! What a helper works with: the CPU, the board, and guest memory through the TLB.

use orrery_system::board::Board;
use orrery_system::ram::Ram;

use crate::cache::CodeMap;
use crate::ir::Width;
use crate::isa::{Access, Isa, Mapping};
use crate::tlb::{Entry, Tlb};

const PAGE: u64 = 4096;

/// The surroundings of a helper.
pub struct Env<'a, I: Isa> {
    /// The CPU's state.
    pub cpu: &'a mut I::Cpu,
    /// Number of the CPU on the board.
    pub index: usize,
    /// The board.
    pub board: &'a mut Board,
    /// Translations of this CPU.
    pub tlb: &'a mut Tlb,
    /// Instructions completed since the slice began.
    pub done: u64,
    /// Which bytes are translated: stores beside them need not drop the page's translations.
    pub code: Option<&'a CodeMap>,
}

#[inline(always)]
pub(crate) fn ram_read(ram: &Ram, w: Width, off: usize) -> u64 {
    match w {
        Width::W8 => ram.read_u8(off).into(),
        Width::W16 => ram.read_u16(off).into(),
        Width::W32 => ram.read_u32(off).into(),
        Width::W64 => ram.read_u64(off),
    }
}

/// Without the page-flag work.
#[inline(always)]
pub(crate) fn ram_write(ram: &Ram, w: Width, off: usize, v: u64) {
    match w {
        Width::W8 => ram.write_fast_u8(off, v as u8),
        Width::W16 => ram.write_fast_u16(off, v as u16),
        Width::W32 => ram.write_fast_u32(off, v as u32),
        Width::W64 => ram.write_fast_u64(off, v),
    }
}

/// Where a linear address lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Physical address.
    pub gpa: u64,
    /// Arena offset when the byte can be read from [`Board::ram`]; stores too if `writable`.
    pub offset: Option<usize>,
    /// Stores go to the same bytes.
    pub writable: bool,
}

impl<'a, I: Isa> Env<'a, I> {
    /// An environment outside of a run: for tests, loaders and debuggers.
    pub fn new(cpu: &'a mut I::Cpu, index: usize, board: &'a mut Board, tlb: &'a mut Tlb) -> Self {
        Self { cpu, index, board, tlb, done: 0, code: None }
    }
}

impl<I: Isa> Env<'_, I> {
    /// Brings the clock up to the current instruction. Call before a device or the time is looked at.
    pub fn sync_clock(&mut self) {
        self.board.elapse(self.done);
    }

    /// Finds the page of `linear`, from the TLB or by a walk.
    #[inline]
    pub fn page(&mut self, linear: u64, access: Access, mmu: u8) -> Result<Entry, I::Trap> {
        match self.tlb.entry(linear, access, mmu) {
            Some(entry) => Ok(entry),
            None => self.walk(linear, access, mmu),
        }
    }

    #[inline(never)]
    fn walk(&mut self, linear: u64, access: Access, mmu: u8) -> Result<Entry, I::Trap> {
        let map = I::walk(self.cpu, self.board, linear, access, mmu)?;
        let page = self.board.page(map.gpa);
        let free = page.offset.is_some_and(|o| self.board.ram().writes_freely(o / PAGE as usize));
        let entry = Entry { map, offset: page.offset, writable: page.writable };
        match access {
            Access::Exec => self.tlb.insert_code(linear, mmu, entry),
            _ => self.tlb.insert(linear, mmu, entry, free),
        }
        Ok(entry)
    }

    /// What the page walk for `linear` found.
    pub fn mapping(&mut self, linear: u64, access: Access, mmu: u8) -> Result<Mapping, I::Trap> {
        self.page(linear, access, mmu).map(|e| e.map)
    }

    /// Translates one address; what follows in the same page is behind it.
    pub fn translate(&mut self, linear: u64, access: Access, mmu: u8) -> Result<Place, I::Trap> {
        let e = self.page(linear, access, mmu)?;
        let at = linear % PAGE;
        Ok(Place {
            gpa: e.map.gpa + at,
            offset: e.offset.map(|o| o + at as usize),
            writable: e.writable,
        })
    }

    /// Faults as a write of `len` bytes would.
    pub fn probe_write(&mut self, linear: u64, len: u64, mmu: u8) -> Result<(), I::Trap> {
        let mask = I::linear_mask(self.cpu);
        self.mapping(linear & mask, Access::Write, mmu)?;
        if linear % PAGE + len > PAGE {
            let next = (linear | (PAGE - 1)).wrapping_add(1) & mask;
            self.mapping(next, Access::Write, mmu)?;
        }
        Ok(())
    }

    /// Reads guest memory.
    pub fn read(&mut self, linear: u64, w: Width, mmu: u8) -> Result<u64, I::Trap> {
        let size = u64::from(w.bytes());
        if let Some(off) = self.tlb.read(linear, size, mmu) {
            return Ok(ram_read(self.board.ram(), w, off));
        }
        self.read_slow(linear, w, mmu)
    }

    #[cold]
    pub(crate) fn read_slow(&mut self, linear: u64, w: Width, mmu: u8) -> Result<u64, I::Trap> {
        let size = u64::from(w.bytes());
        let linear = linear & I::linear_mask(self.cpu);
        if linear % PAGE + size > PAGE {
            let mask = I::linear_mask(self.cpu);
            let next = (linear | (PAGE - 1)).wrapping_add(1) & mask;
            self.mapping(linear, Access::Read, mmu)?;
            self.mapping(next, Access::Read, mmu)?;
            let mut v = 0;
            for i in 0..size {
                v |= self.read_slow(linear.wrapping_add(i) & mask, Width::W8, mmu)? << (8 * i);
            }
            return Ok(v);
        }
        let e = self.page(linear, Access::Read, mmu)?;
        match e.offset {
            Some(offset) => Ok(ram_read(self.board.ram(), w, offset + (linear % PAGE) as usize)),
            None => {
                self.sync_clock();
                Ok(self.board.read(e.map.gpa + linear % PAGE, size as u8))
            }
        }
    }

    /// Writes guest memory.
    pub fn write(&mut self, linear: u64, w: Width, mmu: u8, value: u64) -> Result<(), I::Trap> {
        let size = u64::from(w.bytes());
        if let Some(off) = self.tlb.write(linear, size, mmu) {
            ram_write(self.board.ram(), w, off, value);
            return Ok(());
        }
        self.write_slow(linear, w, mmu, value)
    }

    #[cold]
    pub(crate) fn write_slow(
        &mut self,
        linear: u64,
        w: Width,
        mmu: u8,
        value: u64,
    ) -> Result<(), I::Trap> {
        let size = u64::from(w.bytes());
        let mask = I::linear_mask(self.cpu);
        let linear = linear & mask;
        if linear % PAGE + size > PAGE {
            self.probe_write(linear, size, mmu)?;
            for i in 0..size {
                self.write_slow(
                    linear.wrapping_add(i) & mask,
                    Width::W8,
                    mmu,
                    value >> (8 * i) & 0xff,
                )?;
            }
            return Ok(());
        }
        let e = self.page(linear, Access::Write, mmu)?;
        let Some(offset) = e.offset.filter(|_| e.writable) else {
            self.sync_clock();
            self.board.write(e.map.gpa + linear % PAGE, size as u8, value & w.mask());
            return Ok(());
        };
        let (ram, off, number) =
            (self.board.ram(), offset + (linear % PAGE) as usize, offset / PAGE as usize);
        ram_write(ram, w, off, value);
        if ram.page_flags(number) & Ram::CODE != 0
            && self.code.is_some_and(|code| !code.covers(off, size as usize))
        {
            // Data beside code: the translations stay.
            ram.set_page_flags(number, Ram::DIRTY);
            return Ok(());
        }
        ram.touch(off, size as usize);
        if ram.writes_freely(number) {
            // From now on directly.
            self.tlb.insert(linear, mmu, e, true);
        }
        Ok(())
    }

    /// Reads 16 bytes.
    pub fn read_u128(&mut self, linear: u64, mmu: u8) -> Result<u128, I::Trap> {
        let mask = I::linear_mask(self.cpu);
        if linear % PAGE > PAGE - 16 {
            self.mapping(linear & mask, Access::Read, mmu)?;
            self.mapping((linear | (PAGE - 1)).wrapping_add(1) & mask, Access::Read, mmu)?;
        }
        let lo = self.read(linear & mask, Width::W64, mmu)?;
        let hi = self.read(linear.wrapping_add(8) & mask, Width::W64, mmu)?;
        Ok(u128::from(lo) | u128::from(hi) << 64)
    }

    /// Writes 16 bytes: all of them or none.
    pub fn write_u128(&mut self, linear: u64, mmu: u8, value: u128) -> Result<(), I::Trap> {
        let mask = I::linear_mask(self.cpu);
        self.probe_write(linear, 16, mmu)?;
        self.write(linear & mask, Width::W64, mmu, value as u64)?;
        self.write(linear.wrapping_add(8) & mask, Width::W64, mmu, (value >> 64) as u64)
    }

    /// Reads bytes, in order; a fault leaves `out` partly filled.
    pub fn read_bytes(&mut self, linear: u64, out: &mut [u8], mmu: u8) -> Result<(), I::Trap> {
        let mask = I::linear_mask(self.cpu);
        let mut done = 0;
        while done < out.len() {
            let at = linear.wrapping_add(done as u64) & mask;
            let n = ((PAGE - at % PAGE) as usize).min(out.len() - done);
            match self.translate(at, Access::Read, mmu)?.offset {
                Some(off) => self.board.ram().read_bytes(off, &mut out[done..done + n]),
                None => {
                    for i in 0..n {
                        out[done + i] = self.read(at + i as u64, Width::W8, mmu)? as u8;
                    }
                }
            }
            done += n;
        }
        Ok(())
    }

    /// Writes at most a page of bytes: all of them or none.
    pub fn write_bytes(&mut self, linear: u64, bytes: &[u8], mmu: u8) -> Result<(), I::Trap> {
        let mask = I::linear_mask(self.cpu);
        self.probe_write(linear, bytes.len() as u64, mmu)?;
        let mut done = 0;
        while done < bytes.len() {
            let at = linear.wrapping_add(done as u64) & mask;
            let n = ((PAGE - at % PAGE) as usize).min(bytes.len() - done);
            let place = self.translate(at, Access::Write, mmu)?;
            match place.offset.filter(|_| place.writable) {
                Some(off) => self.board.ram().write_bytes(off, &bytes[done..done + n]),
                None => {
                    for i in 0..n {
                        self.write(at + i as u64, Width::W8, mmu, bytes[done + i].into())?;
                    }
                }
            }
            done += n;
        }
        Ok(())
    }

    /// Forgets all translations (mode change, map change, A20).
    pub fn flush(&mut self) {
        self.tlb.flush();
    }

    /// Forgets all translations but global ones.
    pub fn flush_non_global(&mut self) {
        self.tlb.flush_non_global();
    }

    /// Forgets the translation of one page.
    pub fn flush_page(&mut self, linear: u64) {
        self.tlb.flush_page(linear);
    }

    /// To be called when [`Isa::code_window`] may answer differently for the same `pc` and block
    /// key (a code segment with another base or limit).
    pub fn code_window_changed(&mut self) {
        self.tlb.flush_jumps();
    }
}
