//! What debuggers and monitors ask of CPUs: registers by gdb's numbers, memory as a CPU sees it,
//! breakpoints and watchpoints that the guest does not notice.

use crate::cluster::Cluster;
use crate::isa::Isa;
use orrery_system::board::Board;
use std::collections::BTreeSet;

/// What a watchpoint stops at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchKind {
    /// Stores.
    Write,
    /// Loads.
    Read,
    /// Both.
    Access,
}

/// A range of linear addresses whose use stops the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watch {
    /// First address.
    pub at: u64,
    /// Bytes, at least 1.
    pub len: u64,
    /// What for.
    pub kind: WatchKind,
}

/// Why a CPU gave up its turn to a debugger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hit {
    /// The next instruction has a breakpoint.
    Break,
    /// The last instruction used what is watched.
    Watch(Watch),
}

/// A stretch of linear addresses: first address, length, rights as `urw`.
pub type MappedRange = (u64, u64, String);

/// What an instruction set tells a debugger. The defaults know nothing.
pub trait DebugCpu {
    /// Description of the registers in gdb's XML.
    fn gdb_xml(&self) -> String {
        String::new()
    }
    /// Register `n` of the description, in the target's byte order; `None` behind the last.
    fn gdb_read(&self, n: usize) -> Option<Vec<u8>> {
        let _ = n;
        None
    }
    /// Sets it; false if there is no such register or it cannot be set.
    fn gdb_write(&mut self, n: usize, bytes: &[u8]) -> bool {
        let _ = (n, bytes);
        false
    }
    /// A register by the name that people use.
    fn register(&self, name: &str) -> Option<u64> {
        let _ = name;
        None
    }
    /// Linear address of the next instruction.
    fn linear_pc(&self, pc: u64) -> u64 {
        pc
    }
    /// Addresses are printed with 64 bits.
    fn is_wide(&self) -> bool {
        false
    }
    /// The physical address behind a linear one. Nothing changes by it.
    fn look_up(&self, board: &mut Board, linear: u64) -> Option<u64> {
        let _ = board;
        Some(linear)
    }
    /// What is mapped; empty without paging.
    fn mappings(&self, board: &mut Board) -> Vec<MappedRange> {
        let _ = board;
        Vec::new()
    }
    /// Length and text of the instruction at the start of `bytes`.
    fn disassemble(&self, pc: u64, bytes: &[u8]) -> Option<(usize, String)> {
        let _ = (pc, bytes);
        None
    }
    /// Has accesses to these ranges noted.
    fn set_watches(&mut self, list: &[Watch]) {
        let _ = list;
    }
    /// What was noted.
    fn take_watch(&mut self) -> Option<Watch> {
        None
    }
    /// Has interrupts and exceptions noted for the log, or no more.
    fn note_events(&mut self, on: bool) {
        let _ = on;
    }
    /// Those noted since this was last asked, each with the registers before it.
    fn take_events(&mut self) -> Vec<String> {
        Vec::new()
    }
}

/// [`DebugCpu`] for the CPUs of a machine, whatever they are.
pub trait DebugCpus {
    /// See [`DebugCpu::gdb_xml`].
    fn gdb_xml(&self, cpu: usize) -> String;
    /// See [`DebugCpu::gdb_read`].
    fn gdb_read(&self, cpu: usize, n: usize) -> Option<Vec<u8>>;
    /// See [`DebugCpu::gdb_write`].
    fn gdb_write(&mut self, cpu: usize, n: usize, bytes: &[u8]) -> bool;
    /// See [`DebugCpu::register`].
    fn register_by_name(&self, cpu: usize, name: &str) -> Option<u64>;
    /// Linear address of the next instruction.
    fn linear_pc(&self, cpu: usize) -> u64;
    /// See [`DebugCpu::is_wide`].
    fn is_wide(&self, cpu: usize) -> bool;
    /// See [`DebugCpu::look_up`].
    fn look_up(&self, cpu: usize, board: &mut Board, linear: u64) -> Option<u64>;
    /// See [`DebugCpu::mappings`].
    fn mappings(&self, cpu: usize, board: &mut Board) -> Vec<MappedRange>;
    /// See [`DebugCpu::disassemble`].
    fn disassemble(&self, cpu: usize, pc: u64, bytes: &[u8]) -> Option<(usize, String)>;
    /// Stops every CPU before it executes an instruction at one of these linear addresses.
    fn set_breakpoints(&mut self, board: &Board, at: &BTreeSet<u64>);
    /// Stops every CPU after it used one of these ranges.
    fn set_watchpoints(&mut self, board: &Board, list: &[Watch]);
    /// The breakpoint that CPU `cpu` stands at does not stop it once.
    fn pass_breakpoint(&mut self, cpu: usize);
    /// Whether a CPU came to a stop.
    fn is_hit(&self) -> bool;
    /// Which CPU came to a stop, and why, since this was last asked.
    fn take_hit(&mut self) -> Option<(usize, Hit)>;
}

/// What a debugger has set.
#[derive(Default)]
pub(crate) struct Debugger {
    pub(crate) breaks: BTreeSet<u64>,
    watches: Vec<Watch>,
    pub(crate) pass: Option<usize>,
    pub(crate) hit: Option<(usize, Hit)>,
}

impl Debugger {
    /// Whether CPU `index`, about to run the instruction at `linear`, must stop.
    #[inline]
    pub(crate) fn stops(&mut self, index: usize, linear: impl FnOnce() -> u64) -> bool {
        if self.breaks.is_empty() {
            return false;
        }
        let linear = linear();
        if self.pass == Some(index) {
            self.pass = None;
            return false;
        }
        if !self.breaks.contains(&linear) {
            return false;
        }
        self.hit = Some((index, Hit::Break));
        true
    }
}

impl<I: Isa> Cluster<I> {
    /// Watchpoints live in the CPUs' state, which a snapshot has replaced.
    pub(crate) fn watch_again(&mut self) {
        self.note_events();
        for index in 0..self.debugger.watches.len().min(1) * self.len() {
            let list = self.debugger.watches.clone();
            self.cpu_mut(index).set_watches(&list);
        }
    }
}

impl<I: Isa> DebugCpus for Cluster<I> {
    fn gdb_xml(&self, cpu: usize) -> String {
        self.cpu(cpu).gdb_xml()
    }

    fn gdb_read(&self, cpu: usize, n: usize) -> Option<Vec<u8>> {
        self.cpu(cpu).gdb_read(n)
    }

    fn gdb_write(&mut self, cpu: usize, n: usize, bytes: &[u8]) -> bool {
        self.cpu_mut(cpu).gdb_write(n, bytes)
    }

    fn register_by_name(&self, cpu: usize, name: &str) -> Option<u64> {
        self.cpu(cpu).register(name)
    }

    fn linear_pc(&self, cpu: usize) -> u64 {
        let cpu = self.cpu(cpu);
        cpu.linear_pc(I::pc(cpu))
    }

    fn is_wide(&self, cpu: usize) -> bool {
        self.cpu(cpu).is_wide()
    }

    fn look_up(&self, cpu: usize, board: &mut Board, linear: u64) -> Option<u64> {
        self.cpu(cpu).look_up(board, linear)
    }

    fn mappings(&self, cpu: usize, board: &mut Board) -> Vec<MappedRange> {
        self.cpu(cpu).mappings(board)
    }

    fn disassemble(&self, cpu: usize, pc: u64, bytes: &[u8]) -> Option<(usize, String)> {
        self.cpu(cpu).disassemble(pc, bytes)
    }

    fn set_breakpoints(&mut self, board: &Board, at: &BTreeSet<u64>) {
        if self.debugger.breaks != *at {
            self.debugger.breaks = at.clone();
            // Blocks that run on past them must go, and those that ended at others. What is
            // remembered of page tables stays: debugging must not change what a guest does.
            self.empty(board);
        }
    }

    fn set_watchpoints(&mut self, board: &Board, list: &[Watch]) {
        if self.debugger.watches != list {
            self.debugger.watches = list.to_vec();
            for index in 0..self.len() {
                self.cpu_mut(index).set_watches(list);
            }
            self.forget(board);
        }
    }

    fn pass_breakpoint(&mut self, cpu: usize) {
        self.debugger.pass = Some(cpu);
    }

    fn is_hit(&self) -> bool {
        self.debugger.hit.is_some()
    }

    fn take_hit(&mut self) -> Option<(usize, Hit)> {
        self.debugger.pass = None;
        self.debugger.hit.take()
    }
}
