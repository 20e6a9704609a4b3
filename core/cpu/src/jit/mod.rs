//! Compiled regions: the runtime's interface to them ([`abi`]), and when what is compiled.
//!
//! The interpreter is looked at every few thousand instructions. A block found running often
//! enough becomes the entry of a [`Region`], which goes to the [`Compiler`] that the front end lent.
//! Once the code is there it takes the place of the block. Results do not depend on when that is.

pub mod abi;
#[cfg(all(feature = "jit-native", target_os = "linux"))]
pub mod native;
#[cfg(all(test, not(target_arch = "wasm32")))]
mod reference;
pub(crate) mod runtime;
#[cfg(any(target_arch = "wasm32", test))]
pub mod wasm;

use rustc_hash::FxHashMap;

use crate::region::{Limits, Region};
use abi::Code;

/// A region to compile.
#[derive(Debug)]
pub struct Job {
    /// What [`Done::id`] and [`Compiler::release`] call it. Those behind it stand for its gates, in order: each has code of
    /// its own, and is released on its own.
    pub id: u64,
    /// The region.
    pub region: Region,
    /// The best code, in however much time, in place of code made quickly. Back ends may have one kind.
    pub best: bool,
}

/// A compiled region, or one that could not be compiled.
#[derive(Clone, Copy, Debug)]
pub struct Done {
    /// The job's number.
    pub id: u64,
    /// Its code; valid until released.
    pub code: Option<Code>,
    /// Bytes of code.
    pub bytes: usize,
    /// Nanoseconds of compilation, where known.
    pub nanos: u64,
}

/// A back end. It owns the code it makes.
pub trait Compiler: Send {
    /// Takes a region to compile, in its own time.
    fn submit(&mut self, job: Job);
    /// What was finished since the last call. Cheap when there is nothing.
    fn poll(&mut self) -> Vec<Done>;
    /// The code of this job is not used any more. Also called for jobs not finished yet.
    fn release(&mut self, id: u64);
    /// Jobs submitted and not finished.
    fn pending(&self) -> usize;
    /// The code of every finished job is not used any more.
    fn release_all(&mut self);
    /// Whether code that is not the best is as good but for arithmetic ([`Policy::choosy`]).
    fn is_quick_good(&self) -> bool {
        false
    }
}

/// When regions are formed.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// How often a block must be found running.
    pub heat: u8,
    /// Every block that is looked up becomes a region at once, and is waited for: for tests.
    pub eager: bool,
    /// How often a region must be found running to be compiled again, for the best code. `None`: never.
    pub best: Option<u8>,
    /// Only those with much arithmetic are ([`Region::is_arithmetic`]), with a compiler whose other code is good
    /// enough ([`Compiler::is_quick_good`]).
    pub choosy: bool,
    /// How far a region may go.
    pub limits: Limits,
    /// How far one may go that is compiled again if need be.
    pub quick: Limits,
    /// Most bytes of code in use before everything is forgotten.
    pub bytes: usize,
}

impl Default for Policy {
    fn default() -> Self {
        // The browser's compiler takes part of the machine's own thread.
        let (heat, best) = if cfg!(target_arch = "wasm32") { (32, None) } else { (2, Some(60)) };
        let wasm = cfg!(target_arch = "wasm32");
        let limits =
            Limits { resumes: wasm, gates: if wasm { 12 } else { 0 }, ..Limits::default() };
        let quick = Limits { blocks: 32, insns: 300, ..limits };
        Self { heat, eager: false, best, choosy: true, limits, quick, bytes: 64 << 20 }
    }
}

/// Counts for `info jit`.
#[derive(Clone, Copy, Debug, Default)]
pub struct JitStats {
    /// Regions formed.
    pub formed: u64,
    /// Guest instructions in them.
    pub insns: u64,
    /// How many of them for the best code.
    pub best: u64,
    /// Regions whose code is in use or was.
    pub compiled: u64,
    /// Bytes of code made.
    pub bytes: u64,
    /// Nanoseconds of compilation.
    pub nanos: u64,
    /// Regions that went away because their bytes were written to.
    pub dropped: u64,
    /// Times a region was entered.
    pub entered: u64,
    /// Why they came back.
    pub exits: Exits,
    /// Guest instructions run in regions.
    pub run: u64,
    /// Times a region could not be entered.
    pub refused: u64,
    /// Regions that could not be compiled.
    pub failed: u64,
    /// Bytes of code in use.
    pub live: usize,
    /// Instructions run on their own (devices, code changes, end of a slice).
    pub singles: u64,
    /// Times the run loop looked at pins and attention.
    pub polls: u64,
    /// Block lookups past links and remembered jumps.
    pub lookups: u64,
    /// Traps delivered.
    pub traps: u64,
}

/// Why compiled code came back to the run loop, in times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exits {
    /// What comes next is not compiled, or not known to be.
    pub lookup: u64,
    /// The slice was over, or too little of it was left.
    pub budget: u64,
    /// Something may be pending behind an instruction that changed modes, mappings or interrupts.
    pub leave: u64,
    /// An instruction has to run on its own: a device, or code that was written to.
    pub restart: u64,
    /// An exception.
    pub fault: u64,
}

/// Where time goes, as samples find it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HotSpot {
    /// Program counter of the start of a region or block.
    pub pc: u64,
    /// Guest instructions that its samples stand for, in compiled code.
    pub compiled: u64,
    /// Those in the interpreter.
    pub interpreted: u64,
}

/// Most places that are counted at a time.
const MAX_SPOTS: usize = 4096;

/// Instructions the interpreter runs before it is looked at.
pub(crate) const SAMPLE: i64 = 4096;
/// What it takes to get to the interpreter and back, in instructions interpreted: blocks between regions are
/// mostly short.
pub(crate) const TRIP: i64 = 32;
/// Guest instructions compiled code runs before it is looked at.
pub(crate) const SAMPLE_COMPILED: i64 = 32 << 10;
/// Most jobs waiting for the compiler: what is hot then stays so.
const MAX_PENDING: usize = 40;
/// Most of them when one for the best code is added.
const MAX_PENDING_BEST: usize = 16;

/// A compiler with what it is working on.
pub(crate) struct Tier {
    compiler: Box<dyn Compiler>,
    pub(crate) policy: Policy,
    pub(crate) stats: JitStats,
    /// Counts how often the cache was emptied: jobs from before are void.
    generation: u32,
    /// Bytes of the code of each region that has some, and all of them together.
    sizes: FxHashMap<u32, usize>,
    live: usize,
    /// Instructions interpreted since the last look.
    pub(crate) since: i64,
    /// Those run in compiled code since the last look at that.
    ran: i64,
    /// What was found running: instructions compiled and interpreted.
    spots: FxHashMap<u64, [u64; 2]>,
}

impl Tier {
    pub(crate) fn new(compiler: Box<dyn Compiler>, mut policy: Policy) -> Self {
        policy.choosy &= compiler.is_quick_good();
        let stats = JitStats::default();
        let sizes = FxHashMap::default();
        let spots = FxHashMap::default();
        Self { compiler, policy, stats, generation: 0, sizes, live: 0, since: 0, ran: 0, spots }
    }

    /// This was found running.
    pub(crate) fn found(&mut self, pc: u64, compiled: bool) {
        if self.spots.len() >= MAX_SPOTS && !self.spots.contains_key(&pc) {
            self.spots.retain(|_, n| {
                *n = n.map(|n| n / 2);
                n[0] + n[1] >= SAMPLE_COMPILED as u64
            });
        }
        let [here, interpreted] = self.spots.entry(pc).or_default();
        if compiled {
            *here += SAMPLE_COMPILED as u64;
        } else {
            *interpreted += SAMPLE as u64;
        }
    }

    /// What was found running most.
    pub(crate) fn hot_spots(&self, most: usize) -> Vec<HotSpot> {
        let mut all: Vec<HotSpot> = self
            .spots
            .iter()
            .map(|(&pc, &[compiled, interpreted])| HotSpot { pc, compiled, interpreted })
            .collect();
        all.sort_by_key(|s| (std::cmp::Reverse(s.compiled + s.interpreted), s.pc));
        all.truncate(most);
        all
    }

    pub(crate) fn stats(&self) -> JitStats {
        JitStats { live: self.live, ..self.stats }
    }

    /// Whether there is as much code as there may be.
    pub(crate) fn is_full(&self) -> bool {
        self.live >= self.policy.bytes
    }

    pub(crate) fn busy(&self, best: bool) -> bool {
        self.compiler.pending() >= if best { MAX_PENDING_BEST } else { MAX_PENDING }
    }

    /// Compiled code ran so many instructions; answers whether to look at it.
    pub(crate) fn ran(&mut self, insns: i64) -> bool {
        self.stats.run += insns as u64;
        self.ran += insns;
        let look = self.ran >= SAMPLE_COMPILED;
        if look {
            self.ran = 0;
        }
        look
    }

    fn id(&self, region: u32) -> u64 {
        u64::from(self.generation) << 32 | u64::from(region)
    }

    pub(crate) fn submit(&mut self, number: u32, region: Region, best: bool) {
        self.stats.formed += 1;
        self.stats.best += u64::from(best);
        self.stats.insns += u64::from(region.insns());
        self.compiler.submit(Job { id: self.id(number), region, best });
    }

    /// The regions that are ready.
    pub(crate) fn poll(&mut self) -> Vec<(u32, Code)> {
        let mut ready = Vec::new();
        for done in self.compiler.poll() {
            self.stats.nanos += done.nanos;
            self.stats.bytes += done.bytes as u64;
            if done.id >> 32 != u64::from(self.generation) {
                self.compiler.release(done.id);
            } else if let Some(code) = done.code {
                // Gates come without bytes.
                self.stats.compiled += u64::from(done.bytes > 0);
                self.live += done.bytes;
                self.sizes.insert(done.id as u32, done.bytes);
                ready.push((done.id as u32, code));
            } else {
                self.stats.failed += 1;
            }
        }
        ready
    }

    pub(crate) fn release(&mut self, region: u32) {
        let bytes = self.sizes.remove(&region).unwrap_or(0);
        self.stats.dropped += u64::from(bytes > 0);
        self.live -= bytes;
        self.compiler.release(self.id(region));
    }

    /// The cache was emptied.
    pub(crate) fn clear(&mut self) {
        self.compiler.release_all();
        self.sizes.clear();
        self.live = 0;
        self.generation = self.generation.wrapping_add(1);
    }
}
