//! The processors of a machine as its run loop sees them.

use orrery_system::board::Board;
use orrery_system::{RestoreError, StateBlob};

use crate::jit::{HotSpot, JitStats};
use crate::log::Wanted;

/// What a CPU did with its turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ran {
    /// Instructions executed; at most the budget.
    pub insns: u64,
    /// It could go on. False: it waits for an interrupt, a start-up message or a reset.
    pub runnable: bool,
    /// It gave up its turn (a spin-wait hint) before the budget was used.
    pub yielded: bool,
}

/// One or more CPUs of one instruction set.
pub trait Cpus: Send + crate::debug::DebugCpus {
    /// How many.
    fn count(&self) -> usize;

    /// Runs CPU `cpu` for at most `budget` instructions (at least 1), until the board calls for
    /// attention, or the CPU has to wait. Looks at the CPU's pins first. The count is exact: the
    /// same instructions in every engine make the same number. Calls `board.elapse` before any
    /// device access and does not call `board.end_slice`.
    fn run(&mut self, cpu: usize, board: &mut Board, budget: u64) -> Ran;

    /// Puts all CPUs in their power-on state.
    fn reset(&mut self, board: &mut Board);

    /// The architectural state of each CPU.
    fn save(&self) -> Vec<StateBlob>;

    /// Replaces it, and forgets everything derived from memory (translations, TLBs).
    fn restore(&mut self, board: &mut Board, states: &[StateBlob]) -> Result<(), RestoreError>;

    /// The same where memory is wound back too, by writes of the pages that differ: translations
    /// of what stays are kept.
    fn rewind(&mut self, board: &mut Board, states: &[StateBlob]) -> Result<(), RestoreError> {
        self.restore(board, states)
    }

    /// Forgets what is remembered of page tables.
    fn flush(&mut self) {}

    /// The registers of CPU `cpu` as `info registers` prints them.
    fn dump(&self, cpu: usize) -> String;

    /// What came of compiling, where code is compiled.
    fn jit_stats(&self) -> Option<JitStats> {
        None
    }

    /// What is to be told of the code that runs; translations are made anew.
    fn set_log(&mut self, _board: &Board, _wanted: Wanted) {}

    /// What was told since this was last asked.
    fn take_log(&mut self) -> String {
        String::new()
    }

    /// Where most time goes, where code is compiled.
    fn hot_spots(&self, _most: usize) -> Vec<HotSpot> {
        Vec::new()
    }
}
