//! A processor on a board with nothing but RAM, in any mode, for tests.
#![expect(dead_code, reason = "each test program uses a part of it")]

use orrery_cpu::Cpus;
use orrery_cpu::cluster::Cluster;
use orrery_cpu::x86::cpuid::Model;
use orrery_cpu::x86::state::{Activity, Segment, attr, cr0, cr4, efer, seg, var};
use orrery_cpu::x86::{X86, X86Isa};
use orrery_system::board::Board;

/// Where programs are put.
pub(crate) const CODE: u64 = 0x1_0000;
/// Where the stack begins.
pub(crate) const STACK: u64 = 0x8000;
/// Bytes of RAM.
pub(crate) const RAM: usize = 16 << 20;
/// Page tables of 64-bit mode: 1 GiB, identity.
const TABLES: u64 = 0xf0_0000;

/// The processor and its board.
pub(crate) struct Machine {
    /// The processor.
    pub(crate) cluster: Cluster<X86Isa>,
    /// The board.
    pub(crate) board: Board,
}

fn segment(selector: u16, base: u64, limit: u32, kind: u16) -> Segment {
    Segment { selector, attr: attr::P | attr::S | kind, limit, base }
}

impl Machine {
    /// Real mode: all segments 0, IP at [`CODE`] through CS.
    pub(crate) fn real() -> Self {
        let model = Model::named("max").expect("a model");
        let mut cpu = X86::new(model, 0, 1);
        for i in 0..6 {
            cpu.set_segment(i, Segment::real(0));
        }
        cpu.set_segment(seg::CS, Segment::real((CODE >> 4) as u16));
        cpu.frame.ints[var::RIP] = 0;
        cpu.frame.ints[var::RSP] = STACK;
        Self { cluster: Cluster::new([cpu]), board: Board::with_ram(RAM) }
    }

    /// Flat 32-bit protected mode at a privilege level, without paging.
    pub(crate) fn protected(cpl: u8) -> Self {
        let mut m = Self::real();
        let cpu = m.cpu();
        cpu.sys.cr0 |= cr0::PE | cr0::ET;
        let dpl = u16::from(cpl) << attr::DPL_SHIFT;
        for i in 0..6 {
            let data = segment(
                0x10 | u16::from(cpl),
                0,
                u32::MAX,
                attr::RW | attr::A | attr::G | attr::DB | dpl,
            );
            cpu.set_segment(i, data);
        }
        let code = attr::CODE | attr::RW | attr::A | attr::G | attr::DB | dpl;
        cpu.set_segment(seg::CS, segment(8 | u16::from(cpl), 0, u32::MAX, code));
        cpu.sys.cpl = cpl;
        cpu.sys.cr4 |= cr4::OSFXSR | cr4::OSXMMEXCPT;
        cpu.frame.ints[var::RIP] = CODE;
        m
    }

    /// 64-bit mode at a privilege level, memory mapped at its own address.
    pub(crate) fn long(cpl: u8) -> Self {
        let mut m = Self::protected(cpl);
        m.write(TABLES, &((TABLES + 0x1000) | 7).to_le_bytes());
        m.write(TABLES + 0x1000, &((TABLES + 0x2000) | 7).to_le_bytes());
        for i in 0..512u64 {
            m.write(TABLES + 0x2000 + 8 * i, &(i << 21 | 0x87).to_le_bytes());
        }
        let cpu = m.cpu();
        cpu.sys.cr3 = TABLES;
        cpu.sys.cr4 |= cr4::PAE | cr4::PSE;
        cpu.sys.efer |= efer::LME | efer::LMA | efer::SCE;
        cpu.sys.cr0 |= cr0::PG;
        let mut code = cpu.sys.seg[seg::CS];
        code.attr = code.attr & !attr::DB | attr::L;
        cpu.set_segment(seg::CS, code);
        m
    }

    /// The processor's state.
    pub(crate) fn cpu(&mut self) -> &mut X86 {
        self.cluster.cpu_mut(0)
    }

    /// An integer variable.
    pub(crate) fn get(&self, v: usize) -> u64 {
        self.cluster.cpu(0).frame.ints[v]
    }

    /// Sets an integer variable.
    pub(crate) fn set(&mut self, v: usize, value: u64) {
        self.cpu().frame.ints[v] = value;
    }

    /// RFLAGS.
    pub(crate) fn flags(&self) -> u64 {
        orrery_cpu::x86::flags::read(&self.cluster.cpu(0).frame)
    }

    /// Writes physical memory.
    pub(crate) fn write(&mut self, at: u64, bytes: &[u8]) {
        for (i, b) in bytes.iter().enumerate() {
            self.board.write(at + i as u64, 1, (*b).into());
        }
    }

    /// Reads physical memory.
    pub(crate) fn read(&mut self, at: u64, width: u8) -> u64 {
        self.board.read(at, width)
    }

    /// Writes RAM quickly.
    pub(crate) fn write_all(&mut self, at: u64, bytes: &[u8]) {
        self.board.ram().write_bytes(at as usize, bytes);
    }

    /// Reads RAM quickly.
    pub(crate) fn read_all(&mut self, at: u64, bytes: &mut [u8]) {
        self.board.ram().read_bytes(at as usize, bytes);
    }

    /// Runs one instruction.
    pub(crate) fn run_one(&mut self) {
        self.cluster.run(0, &mut self.board, 1);
    }

    /// Whether the processor has executed HLT.
    pub(crate) fn halted(&self) -> bool {
        self.cluster.cpu(0).sys.activity == Activity::Halted
    }

    /// Runs until HLT or for so many instructions.
    pub(crate) fn run(&mut self, budget: u64) -> u64 {
        let mut total = 0;
        while total < budget {
            let ran = self.cluster.run(0, &mut self.board, budget - total);
            total += ran.insns;
            if !ran.runnable {
                break;
            }
            self.board.settle();
        }
        total
    }

    /// Puts code at [`CODE`] and runs it to its HLT.
    pub(crate) fn run_code(&mut self, code: &[u8]) {
        self.write(CODE, code);
        self.run(10_000_000);
        assert!(self.halted(), "not halted:\n{}", self.cluster.dump(0));
    }
}
