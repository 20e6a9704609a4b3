//! The CPUs of a machine with their shared cache of translated blocks, and the run loop.

use orrery_system::board::Board;
use orrery_system::ram::Ram;
use orrery_system::{RestoreError, StateBlob};

use crate::cache::{CodeCache, Key, Slot};
use crate::cpus::{Cpus, Ran};
use crate::debug::{DebugCpu, Debugger, Hit};
use crate::env::Env;
use crate::interp::{Core, Run, Stop, exec};
use crate::ir::text::dump;
use crate::ir::{Builder, opt};
use crate::isa::{Access, CodeWindow, Isa, Lift, Poll};
use crate::jit::{
    Compiler, HotSpot, JitStats, Policy, SAMPLE, SAMPLE_COMPILED, TRIP, Tier, abi, runtime,
};
use crate::log::{Items, Log, Wanted};
use crate::lower::lower;
use crate::region::{Chunk, Region};
use crate::uop::Uop;

const PAGE: u64 = 4096;
/// Most instructions in a block.
const MAX_INSNS: u16 = 64;
/// Most regions before the cache is emptied.
const MAX_REGIONS: usize = 50_000;
/// Bytes looked at for one block: enough for that many instructions of usual length.
const MAX_BYTES: u64 = 512;
/// Operations kept before the cache is emptied (16 bytes each).
const CACHE_OPS: usize = if cfg!(target_arch = "wasm32") { 2 << 20 } else { 4 << 20 };

/// Processors of one instruction set.
pub struct Cluster<I: Isa> {
    cores: Vec<Core<I>>,
    cache: CodeCache,
    builder: Builder,
    /// What the board said when the TLBs were last brought up to date.
    map_seen: u64,
    ram_seen: u64,
    /// The compiler of hot code.
    tier: Option<Tier>,
    pub(crate) debugger: Debugger,
    /// What is told of the code that runs, if anything is.
    log: Option<Box<Log>>,
    /// Counts of what happened, for those who tune.
    pub stats: Stats,
}

/// What the run loop has done since the start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stats {
    /// Blocks translated.
    pub translated: u64,
    /// Guest instructions translated.
    pub translated_insns: u64,
    /// Blocks dropped because their bytes were written to.
    pub invalidated: u64,
    /// Times the whole cache was emptied.
    pub emptied: u64,
    /// Instructions run on their own (devices, code changes, end of a slice).
    pub singles: u64,
    /// Times the run loop looked at pins and attention.
    pub polls: u64,
    /// Block lookups past links and remembered jumps.
    pub lookups: u64,
    /// Traps delivered.
    pub traps: u64,
}

/// Where the instructions of a block come from.
struct Source {
    window: CodeWindow,
    /// Physical page.
    gpa: u64,
    /// Arena offset of the first byte.
    at: Option<usize>,
}

impl<I: Isa> Cluster<I> {
    /// Puts CPUs together. They are used as they are; see [`Cpus::reset`].
    pub fn new(cpus: impl IntoIterator<Item = I::Cpu>) -> Self {
        Self {
            cores: cpus.into_iter().map(Core::new).collect(),
            cache: CodeCache::new(CACHE_OPS),
            builder: Builder::new(),
            map_seen: u64::MAX,
            ram_seen: u64::MAX,
            tier: None,
            debugger: Debugger::default(),
            log: None,
            stats: Stats::default(),
        }
    }

    /// Lends a compiler for hot code.
    pub fn set_compiler(&mut self, compiler: Box<dyn Compiler>, policy: Policy) {
        self.tier = Some(Tier::new(compiler, policy));
    }

    /// What compiled code may call.
    pub fn shims() -> abi::Shims {
        runtime::shims::<I>()
    }

    /// What came of compiling, if a compiler was lent.
    pub fn jit_stats(&self) -> Option<JitStats> {
        let Stats { singles, polls, lookups, traps, .. } = self.stats;
        let stats = self.tier.as_ref().map(Tier::stats)?;
        Some(JitStats { singles, polls, lookups, traps, ..stats })
    }

    /// A CPU's state.
    pub fn cpu(&self, index: usize) -> &I::Cpu {
        &self.cores[index].cpu
    }

    /// A CPU's state, for a debugger or a loader. Call [`Cluster::forget`] after changing more
    /// than registers.
    pub fn cpu_mut(&mut self, index: usize) -> &mut I::Cpu {
        &mut self.cores[index].cpu
    }

    /// Works with a CPU as a helper does.
    pub fn with_env<R>(
        &mut self,
        index: usize,
        board: &mut Board,
        f: impl FnOnce(&mut Env<'_, I>) -> R,
    ) -> R {
        f(&mut env(&mut self.cores[index], index, board, &self.cache, 0))
    }

    /// Forgets everything derived from memory and CPU state.
    pub fn forget(&mut self, board: &Board) {
        for core in &mut self.cores {
            core.tlb.flush();
        }
        self.empty(board);
    }

    /// Forgets all translations.
    pub(crate) fn empty(&mut self, board: &Board) {
        drop_all(&mut self.cache, board.ram());
        if let Some(tier) = &mut self.tier {
            tier.clear();
        }
    }

    /// Blocks are found one after the other: somebody looks at each.
    fn is_watched(&self) -> bool {
        !self.debugger.breaks.is_empty() || self.log.as_ref().is_some_and(|l| l.each_block())
    }

    /// Has the CPUs note interrupts if they are wanted.
    pub(crate) fn note_events(&mut self) {
        let on = self.log.as_ref().is_some_and(|l| l.wanted.items.has(Items::INT));
        self.cores.iter_mut().for_each(|c| c.cpu.note_events(on));
    }

    /// Puts what a CPU noted into the log.
    fn log_events(&mut self, index: usize) {
        if let Some(log) = &mut self.log {
            self.cores[index].cpu.take_events().iter().for_each(|e| log.event(e));
        }
    }

    /// How many CPUs there are.
    pub(crate) fn len(&self) -> usize {
        self.cores.len()
    }

    /// Blocks in the cache.
    pub fn blocks(&self) -> usize {
        self.cache.len()
    }

    /// Takes notice of what happened outside the CPUs: map changes, code written to.
    fn sync(&mut self, board: &Board) {
        let ram = board.ram();
        let ram_epoch = ram.epoch();
        let map = board.map_generation() - ram_epoch;
        if map != self.map_seen {
            self.map_seen = map;
            self.ram_seen = ram_epoch;
            self.cores.iter_mut().for_each(|c| c.tlb.flush());
        } else if ram_epoch != self.ram_seen {
            self.ram_seen = ram_epoch;
            self.cores.iter_mut().for_each(|c| c.tlb.revoke_writes(|page| ram.writes_freely(page)));
        }
        if ram.has_stale_code() {
            for (off, len) in ram.take_stale_code() {
                let empty = |page| ram.clear_page_flags(page, Ram::CODE);
                self.stats.invalidated += self.cache.invalidate(off, len, empty) as u64;
            }
            if let Some(tier) = &mut self.tier {
                self.cache.take_dead().into_iter().for_each(|region| tier.release(region));
            }
        }
    }

    /// Runs CPU `index` for at most `budget` instructions.
    fn run_one(&mut self, index: usize, board: &mut Board, budget: u64) -> Ran {
        let ram = board.shared_ram();
        self.cores[index].tlb.set_base(ram.as_ptr_range().0 as u64);
        self.publish();
        if self.cache.regions() >= MAX_REGIONS || self.tier.as_ref().is_some_and(Tier::is_full) {
            self.stats.emptied += 1;
            self.empty(board);
        }
        let total = i64::try_from(budget).unwrap_or(i64::MAX);
        let mut left = total;
        let mut ran = Ran { insns: 0, runnable: true, yielded: false };
        'outer: loop {
            self.sync(board);
            if left <= 0 {
                break;
            }
            self.stats.polls += 1;
            let attention = board.attention();
            let done = (total - left) as u64;
            match I::poll(&mut env(&mut self.cores[index], index, board, &self.cache, done)) {
                Poll::Run => {}
                Poll::Yield => {
                    ran.yielded = true;
                    break;
                }
                Poll::Halted | Poll::Shutdown => {
                    ran.runnable = false;
                    break;
                }
            }
            if !attention && board.attention() {
                // Taking an interrupt talks to its controller.
                break;
            }
            self.sync(board);
            let mut mode = I::block_key(&self.cores[index].cpu);
            let one = I::one_insn(mode);
            let mut single = one;
            // The exit that led here, to be linked.
            let mut via = None;
            // The same instruction again, by another way: a debugger has been asked about it.
            let mut again = false;
            loop {
                let cpu = &self.cores[index].cpu;
                if !std::mem::take(&mut again)
                    && self.debugger.stops(index, || cpu.linear_pc(I::pc(cpu)))
                {
                    break 'outer;
                }
                let emptied = self.stats.emptied;
                let known = match via {
                    None if single == one => self.known(index, mode),
                    _ => None,
                };
                let (start, insns) = match known {
                    Some(known) => known,
                    None => {
                        let id = match self.find(index, board, mode, single) {
                            Ok(id) => id,
                            Err(trap) => {
                                left -= self.deliver(index, board, trap, (total - left) as u64);
                                continue 'outer;
                            }
                        };
                        // The exit is gone when the search emptied the cache.
                        if let Some(exit) = std::mem::take(&mut via)
                            && !single
                            && !self.is_watched()
                            && emptied == self.stats.emptied
                        {
                            self.link(exit, id);
                        }
                        if !single
                            && !self.is_watched()
                            && self.tier.as_ref().is_some_and(|t| t.policy.eager)
                        {
                            self.form_eagerly(index, board, mode, id);
                        }
                        let block = self.cache.block(id);
                        (block.start, block.insns)
                    }
                };
                if !single && i64::from(insns) > left {
                    (single, again) = (true, true);
                    continue;
                }
                if single {
                    self.stats.singles += 1;
                }
                left -= i64::from(insns);
                if self.log.is_some() {
                    self.log_block(index, mode);
                }
                let stop = if single || self.tier.is_none() || self.is_watched() {
                    let core = &mut self.cores[index];
                    let epoch = epoch::<I>(core, &self.cache, mode);
                    let cache = &self.cache;
                    let synced = self.map_seen.wrapping_add(self.ram_seen);
                    let mut run =
                        Run { index, board, cache, mode, epoch, total, left, single, synced };
                    let stop = exec(core, &mut run, &ram, start);
                    left = run.left;
                    stop
                } else {
                    self.run_mixed(index, board, &ram, &mut mode, total, &mut left, start)
                };
                let core = &mut self.cores[index];
                match stop {
                    Stop::Exit(exit) => {
                        I::set_pc(&mut core.cpu, self.cache.exits[exit as usize].pc);
                        via = Some(exit);
                    }
                    Stop::Lookup => {}
                    Stop::Budget(to) => {
                        let pc = self.cache.block_at(to).key.pc;
                        I::set_pc(&mut core.cpu, pc);
                        if left == 0 {
                            continue 'outer;
                        }
                        single = true;
                        continue;
                    }
                    Stop::Leave => {
                        if one {
                            I::stepped(&mut env(
                                core,
                                index,
                                board,
                                &self.cache,
                                (total - left) as u64,
                            ));
                        }
                        if one && let Some(watch) = self.cores[index].cpu.take_watch() {
                            self.debugger.hit = Some((index, Hit::Watch(watch)));
                            break 'outer;
                        }
                        if board.attention() {
                            self.sync(board);
                            break 'outer;
                        }
                        continue 'outer;
                    }
                    Stop::Fault(trap, uop) => {
                        left += self.rewind(index, uop);
                        left -= self.deliver(index, board, trap, (total - left) as u64);
                        continue 'outer;
                    }
                    Stop::FaultHere(trap) => {
                        left -= self.deliver(index, board, trap, (total - left) as u64);
                        continue 'outer;
                    }
                    Stop::Restart(_) | Stop::RestartHere => {
                        if let Stop::Restart(uop) = stop {
                            left += self.rewind(index, uop);
                        }
                        // What came before it in the block may want each instruction on its own.
                        if I::block_key(&self.cores[index].cpu) != mode {
                            continue 'outer;
                        }
                        (single, again) = (true, true);
                        continue;
                    }
                    Stop::Enter(_) => unreachable!("entered where it started"),
                }
                if left == 0 {
                    continue 'outer;
                }
                single = one;
            }
        }
        self.log_events(index);
        ran.insns = (total - left) as u64;
        ran
    }

    /// The block at the program counter is about to run.
    #[cold]
    fn log_block(&mut self, index: usize, mode: u64) {
        self.log_events(index);
        if let Some(log) = &mut self.log {
            let cpu = &self.cores[index].cpu;
            log.block(index, mode, cpu.linear_pc(I::pc(cpu)), || I::dump(cpu));
        }
    }

    /// Bytes that were translated from `pc` on, an instruction a line.
    #[cold]
    fn log_code(&mut self, index: usize, pc: u64, bytes: &[u8]) {
        let cpu = &self.cores[index].cpu;
        let mut at = 0;
        let lines = std::iter::from_fn(|| {
            let rest = bytes.get(at..).filter(|r| !r.is_empty())?;
            let (pc, known) =
                (pc.wrapping_add(at as u64), cpu.disassemble(pc.wrapping_add(at as u64), rest));
            let (len, text) = known.unwrap_or((rest.len(), "(no text)".into()));
            let len = len.clamp(1, rest.len());
            at += len;
            Some((cpu.linear_pc(pc), rest[..len].to_vec(), text))
        });
        if let Some(log) = &mut self.log {
            log.code(lines);
        }
    }

    /// The block at the program counter, if execution was there before: its first operation and
    /// number of instructions.
    fn known(&self, index: usize, mode: u64) -> Option<(u32, u8)> {
        let core = &self.cores[index];
        core.recall(I::pc(&core.cpu), mode, epoch::<I>(core, &self.cache, mode))
    }

    /// Runs from the block at operation `start`, whose instructions are charged: compiled regions
    /// where there are some, the interpreter elsewhere. Goes on where an instruction changed `mode`.
    #[expect(clippy::too_many_arguments, reason = "the state of a run, in one place")]
    fn run_mixed(
        &mut self,
        index: usize,
        board: &mut Board,
        ram: &Ram,
        mode_of: &mut u64,
        total: i64,
        left: &mut i64,
        mut start: u32,
    ) -> Stop<I> {
        loop {
            let mode = *mode_of;
            let synced = self.map_seen.wrapping_add(self.ram_seen);
            let core = &mut self.cores[index];
            let epoch = epoch::<I>(core, &self.cache, mode);
            let Some(tier) = &mut self.tier else { unreachable!("called with one") };
            let mut covered = None;
            if let Uop::Enter { region, len } = self.cache.code[start as usize] {
                let slot = self.cache.slot(region);
                let pages = if slot.checked.get() == (index, epoch) {
                    u32::MAX
                } else {
                    let pages = in_place(core, slot);
                    if pages == u32::MAX {
                        slot.checked.set((index, epoch));
                    }
                    pages
                };
                // Code knows what pages are in place by the first block's.
                let there = if slot.own == 0 { pages & 1 != 0 } else { pages == u32::MAX };
                if let Some(code) = slot.code
                    && there
                {
                    let cache = &self.cache;
                    let budget = *left + i64::from(len);
                    // It is looked at now and then what runs.
                    let hold = match tier.policy.best {
                        Some(_) => (budget - SAMPLE_COMPILED).max(0),
                        None => 0,
                    };
                    let before = budget - hold;
                    let mut run = Run {
                        index,
                        board,
                        cache,
                        mode,
                        epoch,
                        total: total - hold,
                        left: before,
                        single: false,
                        synced,
                    };
                    if pages == u32::MAX {
                        let (pc, tag) = (cache.block(slot.block).key.pc, core.tag(mode, epoch));
                        let (chain, code) = (code.chain, Some(code.entry));
                        core.links[abi::Link::slot(pc)] =
                            abi::Link { pc, tag, code, region, chain };
                    }
                    let mut last = region;
                    let stop = runtime::enter(core, &mut run, code.entry, pages, &mut last);
                    *left = run.left + hold;
                    *mode_of = run.mode;
                    let idle = run.left == before;
                    tier.stats.entered += 1;
                    let exits = &mut tier.stats.exits;
                    match stop {
                        _ if idle => exits.budget += 1,
                        Stop::Lookup => exits.lookup += 1,
                        Stop::Leave => exits.leave += 1,
                        Stop::FaultHere(_) => exits.fault += 1,
                        _ => exits.restart += 1,
                    }
                    if tier.ran(before - run.left) {
                        self.warm(index, board, *mode_of, last);
                    }
                    match stop {
                        // Too few instructions are left for it.
                        Stop::Lookup if idle => *left -= i64::from(len),
                        Stop::Lookup => match self.next(index, *mode_of, left) {
                            Some(to) => {
                                start = to;
                                continue;
                            }
                            None => return Stop::Lookup,
                        },
                        Stop::Leave if self.goes_on(index, board, *left, mode_of) => {
                            match self.next(index, *mode_of, left) {
                                Some(to) => {
                                    start = to;
                                    continue;
                                }
                                None => return Stop::Lookup,
                            }
                        }
                        stop => return stop,
                    }
                }
                let Some(tier) = &mut self.tier else { unreachable!("called with one") };
                tier.stats.refused += 1;
                self.cache.uncover(region);
                covered = Some(region);
            }
            // What only ever runs a block at a time between regions is not met below.
            let Some(tier) = &mut self.tier else { unreachable!("called with one") };
            if tier.since >= SAMPLE {
                tier.since = 0;
                self.heat(index, board, mode, start);
            }
            let core = &mut self.cores[index];
            let Some(tier) = &mut self.tier else { unreachable!("called with one") };
            let hold = (*left - (SAMPLE - tier.since)).max(0);
            let cache = &self.cache;
            let before = *left - hold;
            let mut run = Run {
                index,
                board,
                cache,
                mode,
                epoch,
                total: total - hold,
                left: before,
                single: false,
                synced,
            };
            let stop = exec(core, &mut run, ram, start);
            *left = run.left + hold;
            // The first block is charged already; many a way to the next region is that block alone.
            tier.since += before - run.left + i64::from(self.cache.block_at(start).insns) + TRIP;
            if let Some(region) = covered {
                self.cache.cover_again(region);
            }
            match stop {
                Stop::Enter(region) => {
                    let block = self.cache.block(self.cache.slot(region).block);
                    *left -= i64::from(block.insns);
                    start = block.start;
                }
                Stop::Budget(to) => {
                    if tier.since >= SAMPLE / 2 {
                        tier.since = 0;
                        self.heat(index, board, mode, to);
                        self.publish();
                    }
                    let insns = i64::from(self.cache.block_at(to).insns);
                    if insns > *left {
                        return Stop::Budget(to);
                    }
                    *left -= insns;
                    start = to;
                }
                Stop::Leave if self.goes_on(index, board, *left, mode_of) => {
                    match self.next(index, *mode_of, left) {
                        Some(to) => start = to,
                        None => return Stop::Lookup,
                    }
                }
                stop => return stop,
            }
        }
    }

    /// The block at the program counter, its instructions charged, if execution was there before and
    /// they are left.
    fn next(&self, index: usize, mode: u64, left: &mut i64) -> Option<u32> {
        let (to, len) = self.known(index, mode)?;
        (i64::from(len) <= *left).then(|| {
            *left -= i64::from(len);
            to
        })
    }

    /// Whether execution goes on at once behind an instruction that may have changed anything:
    /// nothing is pending. `mode` is then what it is now.
    fn goes_on(&mut self, index: usize, board: &Board, left: i64, mode: &mut u64) -> bool {
        let cpu = &mut self.cores[index].cpu;
        if left <= 0 || board.attention() || !I::is_quiet(cpu, index, board) {
            return false;
        }
        let now = I::block_key(cpu);
        if I::one_insn(now) {
            return false;
        }
        *mode = now;
        self.sync(board);
        true
    }

    /// Puts compiled code that is ready where it belongs.
    fn publish(&mut self) {
        let Some(tier) = &mut self.tier else { return };
        for (region, code) in tier.poll() {
            if let Some((pc, before)) = self.cache.publish(region, code) {
                for link in self.cores.iter_mut().map(|c| &mut c.links[abi::Link::slot(pc)]) {
                    if link.code.is_some_and(|c| before.is(abi::Code::called(c))) {
                        *link = abi::Link::NONE;
                    }
                }
            }
        }
        self.cache.take_dead().into_iter().for_each(|region| tier.release(region));
    }

    /// Compiled code of this region was found to be running.
    fn warm(&mut self, index: usize, board: &Board, mode: u64, region: u32) {
        let Some(tier) = &mut self.tier else { return };
        tier.found(self.cache.block(self.cache.slot(region).block).key.pc, true);
        let Some(best) = tier.policy.best else { return };
        if I::block_key(&self.cores[index].cpu) != mode {
            return;
        }
        if let Some((heat, block)) = self.cache.warm(region)
            && heat > best
            && self.cache.block(block).key.mode == mode
            && self.cache.block(block).alive
            && !tier.busy(true)
        {
            self.cache.set_best(region);
            self.form(index, board, mode, block, false, true);
        }
    }

    /// The block at operation `start` was found to be running.
    fn heat(&mut self, index: usize, board: &Board, mode: u64, start: u32) {
        let Some(tier) = &mut self.tier else { return };
        let Uop::Block { id } = self.cache.code[start as usize - 1] else { return };
        tier.found(self.cache.block(id).key.pc, false);
        let only = tier.policy.best.is_none();
        let block = self.cache.block_mut(id);
        block.heat = block.heat.saturating_add(1);
        if block.heat >= tier.policy.heat && !block.formed && block.alive && !tier.busy(false) {
            self.form(index, board, mode, id, false, only);
        }
    }

    /// Forms the region of every block as soon as it is found, and waits for its code.
    #[cold]
    fn form_eagerly(&mut self, index: usize, board: &Board, mode: u64, id: u32) {
        let block = self.cache.block(id);
        // Both kinds of code are to be seen.
        let best = self.cache.regions().is_multiple_of(2);
        if !block.formed && block.alive {
            self.form(index, board, mode, id, true, best);
            self.publish();
        }
    }

    /// Forms the region that starts at a block and has it compiled. `whole`: also where nothing
    /// was run yet. `best`: for the best code.
    fn form(&mut self, index: usize, board: &Board, mode: u64, id: u32, whole: bool, best: bool) {
        let Some(tier) = &mut self.tier else { return };
        let core = &self.cores[index];
        let cache = &mut self.cache;
        let block = cache.block_mut(id);
        block.formed = true;
        let (start, first) = (block.key.pc, block.key.at);
        let own = I::code_window(&core.cpu, start).map_or(0, |w| w.linear / PAGE);
        let fetch = |pc: u64, rest: bool| {
            let window = I::code_window(&core.cpu, pc).ok()?;
            let page = if window.linear / PAGE == own {
                // The block runs: its page is there, known to the TLB or not.
                first / PAGE as usize * PAGE as usize
            } else {
                core.tlb.entry(window.linear, Access::Exec, window.mmu)?.offset?
            };
            let at = page + (window.linear % PAGE) as usize;
            let key = Key { at, pc, mode, single: false };
            if pc != start && !whole && !rest && cache.find(&key).is_none() {
                return None;
            }
            let len = (PAGE - window.linear % PAGE).min(window.len).min(MAX_BYTES);
            let mut bytes = vec![0; len as usize];
            board.ram().read_bytes(at, &mut bytes);
            Some(Chunk { linear: window.linear, at, bytes })
        };
        let limits = if best { tier.policy.limits } else { tier.policy.quick };
        let Some(mut region) =
            Region::form::<I>(&core.cpu, mode, start, &limits, &mut self.builder, fetch)
        else {
            let block = self.cache.block_mut(id);
            (block.formed, block.heat) = (false, 0);
            return;
        };
        let pages: Vec<usize> = region
            .pages
            .iter()
            .filter(|p| !p.bytes.is_empty())
            .map(|p| p.offset / PAGE as usize)
            .collect();
        let stays = !best && tier.policy.choosy && !region.is_arithmetic(I::MXCSR.is_some());
        let number = self.cache.add_region(id, region.pages.clone().into(), best);
        if stays {
            self.cache.set_best(number);
        }
        let cache = &mut self.cache;
        let Region { blocks, pages: places, gates, .. } = &mut region;
        gates.retain(|&gate| {
            let (pc, own) = (blocks[gate].pc, usize::from(blocks[gate].page));
            let p = &places[own];
            let linear = p.linear.wrapping_add(pc.wrapping_sub(p.pc));
            let key = Key { at: p.offset + (linear % PAGE) as usize, pc, mode, single: false };
            let block = cache.find(&key).filter(|&id| !cache.block(id).formed);
            block.map(|id| cache.add_gate(number, id, own)).is_some()
        });
        tier.submit(number, region, best);
        for page in pages {
            self.mark_code(board, page);
        }
    }

    /// Puts the program counter at the instruction with operation `uop`; gives back how many
    /// instructions of its block were charged and not run.
    fn rewind(&mut self, index: usize, uop: u32) -> i64 {
        let (block, k, pc) = self.cache.locate(uop);
        I::set_pc(&mut self.cores[index].cpu, pc);
        i64::from(block.insns - k)
    }

    /// Enters a trap's handler. Counts as an instruction, so that a guest that does nothing but
    /// fault uses up its budget.
    fn deliver(&mut self, index: usize, board: &mut Board, trap: I::Trap, done: u64) -> i64 {
        self.stats.traps += 1;
        I::deliver(&mut env(&mut self.cores[index], index, board, &self.cache, done), trap);
        1
    }

    fn link(&mut self, exit: u32, to: u32) {
        let from = self.cache.locate(self.cache.exits[exit as usize].uop).0;
        if self.cache.linkable(from, self.cache.block(to)) {
            self.cache.link(exit, to);
        } else {
            self.cache.never_link(exit);
        }
    }

    /// The block at the program counter, translated if need be.
    fn find(
        &mut self,
        index: usize,
        board: &mut Board,
        mode: u64,
        single: bool,
    ) -> Result<u32, I::Trap> {
        self.stats.lookups += 1;
        let watched = self.is_watched();
        let core = &mut self.cores[index];
        let pc = I::pc(&core.cpu);
        let window = I::code_window(&core.cpu, pc)?;
        let mut env = env(core, index, board, &self.cache, 0);
        let page = env.page(window.linear, Access::Exec, window.mmu)?;
        let at = page.offset.map(|o| o + (window.linear % PAGE) as usize);
        if let Some(at) = at
            && let Some(id) = self.cache.find(&Key { at, pc, mode, single })
        {
            let block = self.cache.block(id);
            let (start, insns, second) = (block.start, block.insns, block.second_page);
            let mut fits = u64::from(block.bytes) <= window.len;
            match second {
                None => {}
                Some(_) if !fits => {}
                Some(second) => {
                    let next =
                        (window.linear | (PAGE - 1)).wrapping_add(1) & I::linear_mask(env.cpu);
                    fits = env.page(next, Access::Exec, window.mmu)?.offset
                        == Some(second * PAGE as usize);
                }
            }
            if fits {
                if single == I::one_insn(mode) && !watched {
                    let epoch = epoch::<I>(core, &self.cache, mode);
                    core.remember(pc, mode, epoch, start, insns);
                }
                return Ok(id);
            }
        }
        self.translate(index, board, mode, single, &Source { window, gpa: page.map.gpa, at })
    }

    fn translate(
        &mut self,
        index: usize,
        board: &mut Board,
        mode: u64,
        single: bool,
        source: &Source,
    ) -> Result<u32, I::Trap> {
        if self.cache.is_full() {
            self.stats.emptied += 1;
            self.empty(board);
        }
        let core = &mut self.cores[index];
        let window = source.window;
        let pc0 = I::pc(&core.cpu);
        // Code outside of RAM and ROM is read through the device, an instruction at a time.
        let single = single || source.at.is_none();
        let in_page = PAGE - window.linear % PAGE;
        let want = if single { I::MAX_INSN as u64 } else { MAX_BYTES };
        let mut bytes = Vec::with_capacity(MAX_BYTES as usize + 16);
        fetch(
            board,
            source.gpa + window.linear % PAGE,
            source.at,
            in_page.min(want).min(window.len),
            &mut bytes,
        );

        let b = &mut self.builder;
        b.clear();
        let (mut pos, mut pc, mut second_page) = (0, pc0, None);
        while !b.ended() {
            b.begin_insn(pc);
            let (len, end) = match I::lift(&core.cpu, mode, pc, &bytes[pos..], b) {
                Lift::Next(len) => (len, b.must_end()),
                Lift::End(len) => (len, true),
                Lift::Short if pos > 0 => {
                    b.abort_insn();
                    b.end_at(pc);
                    break;
                }
                Lift::Short => {
                    assert!(bytes.len() < I::MAX_INSN, "an instruction is at most that long");
                    b.restart_insn();
                    let have = bytes.len() as u64;
                    if have >= window.len {
                        // The instruction goes on behind the segment's limit.
                        return Err(match I::code_window(&core.cpu, pc.wrapping_add(have)) {
                            Err(trap) => trap,
                            Ok(_) => unreachable!("the window ended there"),
                        });
                    }
                    b.abort_insn();
                    let mut env = env(core, index, board, &self.cache, 0);
                    let next =
                        (window.linear | (PAGE - 1)).wrapping_add(1) & I::linear_mask(env.cpu);
                    let map = env.mapping(next, Access::Exec, window.mmu)?;
                    let offset = env.board.page(map.gpa).offset;
                    let more = (I::MAX_INSN as u64).min(window.len) - have;
                    fetch(board, map.gpa, offset, more, &mut bytes);
                    second_page = Some(offset.map(|o| o / PAGE as usize));
                    continue;
                }
            };
            b.set_insn_len(len);
            pos += usize::from(len);
            pc = pc.wrapping_add(len.into());
            if b.ended() {
                break;
            }
            let stops = !self.debugger.breaks.is_empty()
                && self.debugger.breaks.contains(&core.cpu.linear_pc(pc));
            let end = end || stops || b.must_end();
            if end || single || second_page.is_some() || b.insns() >= MAX_INSNS {
                b.end_at(pc);
            }
        }
        let insns = b.insns() as u8;
        let leave = b.must_end();
        if let Some(log) = &mut self.log
            && log.wants(Items::OP, window.linear)
        {
            log.say(&format!("OP: {pc0:#x}\n{}", dump(b.ops())));
        }
        opt::optimise(b.ops_mut(), |v| I::var_bits(mode, v));
        if let Some(log) = &mut self.log
            && log.wants(Items::OP_OPT, window.linear)
        {
            log.say(&format!("OP after optimization: {pc0:#x}\n{}", dump(b.ops())));
        }
        let adding = self.cache.begin();
        lower(b.ops(), &mut self.cache, insns, single, leave, I::COMPARED);
        let keep = source.at.is_some() && second_page != Some(None);
        let second_page = second_page.flatten();
        let key = Key { at: source.at.unwrap_or(0), pc: pc0, mode, single };
        let id = self.cache.finish(&adding, key, insns, pos as u32, second_page, keep);
        self.stats.translated += 1;
        self.stats.translated_insns += u64::from(insns);
        if keep {
            let first = key.at / PAGE as usize;
            self.mark_code(board, first);
            if let Some(second) = second_page {
                self.mark_code(board, second);
            }
        }
        if self.log.as_ref().is_some_and(|l| l.wants(Items::IN_ASM, window.linear)) {
            self.log_code(index, pc0, &bytes[..pos]);
        }
        Ok(id)
    }

    /// Makes stores to a page with translated code take the slow path, on every CPU.
    fn mark_code(&mut self, board: &Board, page: usize) {
        let ram = board.ram();
        if ram.page_flags(page) & Ram::CODE != 0 {
            return;
        }
        let before = ram.epoch();
        ram.set_page_flags(page, Ram::CODE);
        for core in &mut self.cores {
            core.tlb.revoke_writes(|p| p != page);
        }
        if self.ram_seen == before {
            self.ram_seen = ram.epoch();
        }
    }
}

fn env<'a, I: Isa>(
    core: &'a mut Core<I>,
    index: usize,
    board: &'a mut Board,
    cache: &'a CodeCache,
    done: u64,
) -> Env<'a, I> {
    Env { cpu: &mut core.cpu, index, board, tlb: &mut core.tlb, done, code: Some(&cache.map) }
}

/// What places found in this mode hold for.
pub(crate) fn epoch<I: Isa>(core: &Core<I>, cache: &CodeCache, mode: u64) -> u64 {
    core.tlb.epoch(I::fetch_mmu(mode)).wrapping_add(cache.epoch())
}

/// Which pages of a region are where they were when it was formed, a bit each; all ones for all. That of
/// the block is: it was about to run.
fn in_place<I: Isa>(core: &Core<I>, slot: &Slot) -> u32 {
    let mut bits = u32::MAX;
    for (n, p) in slot.pages.iter().enumerate() {
        let there = I::code_window(&core.cpu, p.pc).is_ok_and(|w| {
            let entry = || core.tlb.entry(w.linear, Access::Exec, w.mmu);
            w.linear == p.linear
                && w.len >= p.reach
                && (n == slot.own || entry().is_some_and(|e| e.offset == Some(p.offset)))
        });
        if !there {
            bits &= !(1 << n);
        }
    }
    bits
}

/// Empties the cache and the code flags of its pages.
fn drop_all(cache: &mut CodeCache, ram: &Ram) {
    for page in cache.clear() {
        ram.clear_page_flags(page, Ram::CODE);
    }
}

/// Appends `len` bytes of one page to `out`.
fn fetch(board: &mut Board, gpa: u64, at: Option<usize>, len: u64, out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + len as usize, 0);
    match at {
        Some(off) => board.ram().read_bytes(off, &mut out[start..]),
        None => {
            for (i, b) in out[start..].iter_mut().enumerate() {
                *b = board.read(gpa + i as u64, 1) as u8;
            }
        }
    }
}

impl<I: Isa> Cpus for Cluster<I> {
    fn count(&self) -> usize {
        self.cores.len()
    }

    fn run(&mut self, cpu: usize, board: &mut Board, budget: u64) -> Ran {
        self.run_one(cpu, board, budget)
    }

    fn reset(&mut self, board: &mut Board) {
        for (index, core) in self.cores.iter_mut().enumerate() {
            if let Some(log) = self.log.as_mut().filter(|l| l.wanted.items.has(Items::CPU_RESET)) {
                log.say(&format!("CPU Reset (CPU {index})\n{}", I::dump(&core.cpu)));
            }
            I::reset(&mut core.cpu, index);
        }
        self.note_events();
        self.forget(board);
    }

    fn save(&self) -> Vec<StateBlob> {
        self.cores.iter().map(|c| StateBlob::encode(&c.cpu)).collect()
    }

    fn restore(&mut self, board: &mut Board, states: &[StateBlob]) -> Result<(), RestoreError> {
        if states.len() != self.cores.len() {
            return Err(RestoreError::Invalid("another number of CPUs"));
        }
        let states = states.iter().map(StateBlob::decode).collect::<Result<Vec<I::Cpu>, _>>()?;
        for (core, state) in self.cores.iter_mut().zip(states) {
            core.cpu = state;
        }
        self.watch_again();
        self.forget(board);
        Ok(())
    }

    fn rewind(&mut self, _: &mut Board, states: &[StateBlob]) -> Result<(), RestoreError> {
        if states.len() != self.cores.len() {
            return Err(RestoreError::Invalid("another number of CPUs"));
        }
        let states = states.iter().map(StateBlob::decode).collect::<Result<Vec<I::Cpu>, _>>()?;
        for (core, state) in self.cores.iter_mut().zip(states) {
            core.cpu = state;
            core.tlb.flush();
        }
        self.watch_again();
        Ok(())
    }

    fn flush(&mut self) {
        self.cores.iter_mut().for_each(|core| core.tlb.flush());
    }

    fn dump(&self, cpu: usize) -> String {
        I::dump(&self.cores[cpu].cpu)
    }

    fn jit_stats(&self) -> Option<JitStats> {
        Self::jit_stats(self)
    }

    fn set_log(&mut self, board: &Board, wanted: Wanted) {
        self.log = (wanted != Wanted::default()).then(|| Box::new(Log::new(wanted)));
        self.note_events();
        self.forget(board);
    }

    fn take_log(&mut self) -> String {
        self.log.as_mut().map(|l| l.take()).unwrap_or_default()
    }

    fn hot_spots(&self, most: usize) -> Vec<HotSpot> {
        self.tier.as_ref().map_or_else(Vec::new, |t| t.hot_spots(most))
    }
}
