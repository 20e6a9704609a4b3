//! The interpreter: runs cached blocks until something needs the run loop.

use orrery_system::board::Board;
use orrery_system::ram::Ram;

use crate::cache::CodeCache;
use crate::env::{Env, ram_read, ram_write};
use crate::frame::Frame;
use crate::ir::opt::{eval_bin, eval_deposit, eval_extract, eval_un};
use crate::ir::{Args, DECLINED, FloatOp, Val, Width, float};
use crate::isa::{Access, Isa};
use crate::jit::abi::{LINKS, Link};
use crate::tlb::Tlb;
use crate::uop::{Uop, alu, cond, with_tables};

const PAGE: u64 = 4096;
const JUMPS: usize = 4096;

/// A place execution went to before.
#[derive(Clone, Copy)]
struct Jump {
    pc: u64,
    mode: u64,
    epoch: u64,
    to: u32,
    len: u8,
}

/// One CPU with what is derived from its state.
pub(crate) struct Core<I: Isa> {
    pub(crate) cpu: I::Cpu,
    pub(crate) tlb: Tlb,
    jumps: Box<[Jump; JUMPS]>,
    /// The same for compiled regions.
    pub(crate) links: Vec<Link>,
    /// Modes that links are for, by number, and the last one asked for with its number.
    modes: Vec<u64>,
    last: (u64, u64),
}

impl<I: Isa> Core<I> {
    pub(crate) fn new(cpu: I::Cpu) -> Self {
        let jumps = vec![Jump { pc: 0, mode: u64::MAX, epoch: u64::MAX, to: 0, len: 0 }; JUMPS];
        Self {
            cpu,
            tlb: Tlb::new(),
            links: vec![Link::NONE; LINKS],
            modes: Vec::new(),
            last: (u64::MAX, 0),
            jumps: jumps.try_into().unwrap_or_else(|_| unreachable!("of that length")),
        }
    }

    /// What links hold for in this mode and epoch: no other mode or epoch has the same.
    pub(crate) fn tag(&mut self, mode: u64, epoch: u64) -> u64 {
        if self.last.0 != mode {
            let n = self.modes.iter().position(|&m| m == mode).unwrap_or_else(|| {
                self.modes.push(mode);
                self.modes.len() - 1
            });
            self.last = (mode, n as u64 & 0xffff);
        }
        epoch << 16 | self.last.1
    }

    #[inline(always)]
    fn jump_slot(pc: u64) -> usize {
        (pc ^ pc >> 12) as usize % JUMPS
    }

    /// Remembers where `pc` leads in this mode.
    pub(crate) fn remember(&mut self, pc: u64, mode: u64, epoch: u64, to: u32, len: u8) {
        self.jumps[Self::jump_slot(pc)] = Jump { pc, mode, epoch, to, len };
    }

    /// Where `pc` leads, if remembered: first operation and number of instructions.
    #[inline(always)]
    pub(crate) fn recall(&self, pc: u64, mode: u64, epoch: u64) -> Option<(u32, u8)> {
        let j = &self.jumps[Self::jump_slot(pc)];
        (j.pc == pc && j.mode == mode && j.epoch == epoch).then_some((j.to, j.len))
    }
}

/// Why the interpreter returned.
pub(crate) enum Stop<I: Isa> {
    /// By an exit that is not linked.
    Exit(u32),
    /// To the program counter as set, same mode.
    Lookup,
    /// The next block, which starts at this operation, has more instructions than are left.
    Budget(u32),
    /// To the program counter as set; mode, interrupts and attention to be looked at.
    Leave,
    /// The instruction with this operation raised a trap.
    Fault(I::Trap, u32),
    /// The instruction with this operation must be run on its own (it reaches a device or writes
    /// to translated code). Nothing of it has happened yet.
    Restart(u32),
    /// This compiled region starts here. What was charged for its first block is given back.
    Enter(u32),
    /// The instruction at the program counter raised a trap. It and what is behind it in its block
    /// are not charged.
    FaultHere(I::Trap),
    /// The same, and it must be run on its own.
    RestartHere,
}

/// What a run works with.
pub(crate) struct Run<'a> {
    pub(crate) index: usize,
    pub(crate) board: &'a mut Board,
    pub(crate) cache: &'a CodeCache,
    /// Mode the blocks were made for, and the epoch of jumps remembered.
    pub(crate) mode: u64,
    pub(crate) epoch: u64,
    /// Instructions that may be run in all, and how many of them are left.
    pub(crate) total: i64,
    pub(crate) left: i64,
    /// The block holds one instruction, which may do anything.
    pub(crate) single: bool,
    /// [`Board::map_generation`] when the TLBs were last brought up to date.
    pub(crate) synced: u64,
}

#[inline(always)]
fn at(v: u8) -> usize {
    usize::from(v)
}

#[inline(always)]
fn values(frame: &Frame, args: &Args) -> [u64; 6] {
    let value = |n: usize| match args[n] {
        Val::Var(v) => frame.get(v),
        Val::Imm(n) => n,
    };
    [value(0), value(1), value(2), value(3), value(4), value(5)]
}

pub(crate) fn env<'a, I: Isa>(core: &'a mut Core<I>, run: &'a mut Run<'_>, rest: u8) -> Env<'a, I> {
    let done = (run.total - run.left - i64::from(rest)) as u64;
    Env {
        cpu: &mut core.cpu,
        index: run.index,
        board: run.board,
        tlb: &mut core.tlb,
        done,
        code: Some(&run.cache.map),
    }
}

/// A memory access that the fast half of the TLB does not know: what to do.
enum Slow<I: Isa> {
    Go,
    Stop(Stop<I>),
}

fn check<I: Isa>(
    core: &mut Core<I>,
    run: &mut Run<'_>,
    linear: u64,
    size: u64,
    access: Access,
    mmu: u8,
    uop: usize,
) -> Slow<I> {
    if run.single {
        return Slow::Go;
    }
    let code = &run.cache.map;
    let mut env = env(core, run, 0);
    let linear = linear & I::linear_mask(env.cpu);
    let page = match env.page(linear, access, mmu) {
        Ok(page) => page,
        Err(trap) => return Slow::Stop(Stop::Fault(trap, uop as u32)),
    };
    let direct = match page.offset {
        _ if linear % PAGE + size > PAGE => false,
        None => false,
        Some(_) if access != Access::Write => true,
        Some(off) => page.writable && !code.covers(off + (linear % PAGE) as usize, size as usize),
    };
    if direct { Slow::Go } else { Slow::Stop(Stop::Restart(uop as u32)) }
}

#[cold]
#[inline(never)]
pub(crate) fn load_slow<I: Isa>(
    core: &mut Core<I>,
    run: &mut Run<'_>,
    linear: u64,
    w: Width,
    mmu: u8,
    uop: usize,
) -> Result<u64, Stop<I>> {
    match check(core, run, linear, w.bytes().into(), Access::Read, mmu, uop) {
        Slow::Go => {
            env(core, run, 1).read_slow(linear, w, mmu).map_err(|t| Stop::Fault(t, uop as u32))
        }
        Slow::Stop(stop) => Err(stop),
    }
}

/// A load whose bytes will be stored to by the same instruction.
#[cold]
#[inline(never)]
pub(crate) fn load_rmw_slow<I: Isa>(
    core: &mut Core<I>,
    run: &mut Run<'_>,
    linear: u64,
    w: Width,
    mmu: u8,
    uop: usize,
) -> Result<u64, Stop<I>> {
    let size = u64::from(w.bytes());
    match check(core, run, linear, size, Access::Write, mmu, uop) {
        Slow::Go => {}
        Slow::Stop(stop) => return Err(stop),
    }
    let mut env = env(core, run, 1);
    let read = env.probe_write(linear, size, mmu).and_then(|()| env.read_slow(linear, w, mmu));
    read.map_err(|t| Stop::Fault(t, uop as u32))
}

#[cold]
#[inline(never)]
pub(crate) fn store_slow<I: Isa>(
    core: &mut Core<I>,
    run: &mut Run<'_>,
    linear: u64,
    w: Width,
    mmu: u8,
    value: u64,
    uop: usize,
) -> Result<(), Stop<I>> {
    if beside_code(core, run, linear, w, mmu, value) {
        return Ok(());
    }
    match check(core, run, linear, w.bytes().into(), Access::Write, mmu, uop) {
        Slow::Go => env(core, run, 1)
            .write_slow(linear, w, mmu, value)
            .map_err(|t| Stop::Fault(t, uop as u32)),
        Slow::Stop(stop) => Err(stop),
    }
}

/// A store to a page with translated code, to bytes that none was made from: done here, true.
#[inline]
fn beside_code<I: Isa>(
    core: &Core<I>,
    run: &Run<'_>,
    linear: u64,
    w: Width,
    mmu: u8,
    value: u64,
) -> bool {
    let size = w.bytes() as usize;
    let at = (linear % PAGE) as usize;
    let Some(entry) = core.tlb.entry(linear, Access::Write, mmu) else { return false };
    let Some(page) = entry.offset.filter(|_| entry.writable) else { return false };
    let (ram, number) = (run.board.ram(), page / PAGE as usize);
    let beside = at + size <= PAGE as usize
        && ram.page_flags(number) & Ram::CODE != 0
        && !run.cache.map.covers(page + at, size);
    if beside {
        ram_write(ram, w, page + at, value);
        ram.set_page_flags(number, Ram::DIRTY);
    }
    beside
}

/// [`Op::Probe`](crate::ir::Op::Probe) of a page not known to be writable.
#[inline(never)]
pub(crate) fn probe<I: Isa>(
    core: &mut Core<I>,
    run: &mut Run<'_>,
    linear: u64,
    size: u64,
    mmu: u8,
    uop: usize,
) -> Result<(), Stop<I>> {
    // What is stored here later in the instruction must not need to be run on its own then.
    if let Slow::Stop(stop) = check(core, run, linear, size, Access::Write, mmu, uop) {
        return Err(stop);
    }
    env(core, run, 1).probe_write(linear, size, mmu).map_err(|t| Stop::Fault(t, uop as u32))
}

#[inline(never)]
pub(crate) fn vload<I: Isa>(
    core: &mut Core<I>,
    run: &mut Run<'_>,
    linear: u64,
    size: u8,
    mmu: u8,
    uop: usize,
) -> Result<u128, Stop<I>> {
    let fault = |t| Stop::Fault(t, uop as u32);
    match size {
        16 => {
            match check(core, run, linear, 16, Access::Read, mmu, uop) {
                Slow::Go => {}
                Slow::Stop(stop) => return Err(stop),
            }
            env(core, run, 1).read_u128(linear, mmu).map_err(fault)
        }
        _ => {
            let w = Width::from_bytes(size.into()).unwrap_or(Width::W64);
            match core.tlb.read(linear, size.into(), mmu) {
                Some(off) => Ok(ram_read(run.board.ram(), w, off).into()),
                None => load_slow(core, run, linear, w, mmu, uop).map(u128::from),
            }
        }
    }
}

#[inline(never)]
pub(crate) fn vstore<I: Isa>(
    core: &mut Core<I>,
    run: &mut Run<'_>,
    linear: u64,
    size: u8,
    mmu: u8,
    value: u128,
    uop: usize,
) -> Result<(), Stop<I>> {
    let fault = |t| Stop::Fault(t, uop as u32);
    match size {
        16 => {
            match check(core, run, linear, 16, Access::Write, mmu, uop) {
                Slow::Go => {}
                Slow::Stop(stop) => return Err(stop),
            }
            env(core, run, 1).write_u128(linear, mmu, value).map_err(fault)
        }
        _ => {
            let w = Width::from_bytes(size.into()).unwrap_or(Width::W64);
            match core.tlb.write(linear, size.into(), mmu) {
                Some(off) => {
                    ram_write(run.board.ram(), w, off, value as u64);
                    Ok(())
                }
                None => store_slow(core, run, linear, w, mmu, value as u64, uop),
            }
        }
    }
}

/// Whether the result of a floating-point operation that the host gives may be used.
#[inline(always)]
fn guard<I: Isa>(frame: &Frame, op: FloatOp, a: u128, b: u128) -> bool {
    let (var, mask, value) = I::FLOAT_GUARD;
    let wrong = frame.get(var) & mask ^ value;
    wrong == 0 || !op.guarded() || wrong & !I::FLOAT_INEXACT == 0 && float::exact(op, a, b)
}

fn vget(v: u128, w: Width, lane: u8) -> u64 {
    let shift = u32::from(lane) * w.bits();
    if shift < 128 { (v >> shift) as u64 & w.mask() } else { 0 }
}

fn vput(v: u128, w: Width, lane: u8, a: u64) -> u128 {
    let shift = u32::from(lane) * w.bits();
    if shift >= 128 {
        return v;
    }
    v & !(u128::from(w.mask()) << shift) | u128::from(a & w.mask()) << shift
}

/// The main loop, made from the fixed operations and the tables.
macro_rules! dispatch {
    (
        {
            ($isa:ident $core:ident $left:ident $ip:ident $code:ident $uop:ident)
            $($fixed:tt)*
        }
        alu { $($op:ident $f:ident: $(($w:ident $rr:ident $ri:ident $t:ident))*;)* }
        cond { $($c:ident $cf:ident: $(($cw:ident $crr:ident $cri:ident $ct:ident))*;)* }
    ) => {
        match *$uop {
            $($fixed)*
            $($(
                Uop::$rr { d, a, b } => {
                    let ints = &mut $isa::frame_mut(&mut $core.cpu).ints;
                    ints[at(d)] = u64::from(alu::$f::<$t>(ints[at(a)] as $t, ints[at(b)] as $t) as $t);
                }
                Uop::$ri { d, a, imm } => {
                    let ints = &mut $isa::frame_mut(&mut $core.cpu).ints;
                    ints[at(d)] = u64::from(alu::$f::<$t>(ints[at(a)] as $t, imm as $t) as $t);
                }
            )*)*
            $($(
                Uop::$crr { a, b, back, len, to } => {
                    let ints = &$isa::frame(&$core.cpu).ints;
                    if cond::$cf::<$ct>(ints[at(a)] as $ct, ints[at(b)] as $ct) {
                        $left += i64::from(back) - i64::from(len);
                        if $left < 0 {
                            $left += i64::from(len);
                            break Stop::Budget(to);
                        }
                        $ip = to as usize;
                    }
                }
                Uop::$cri { a, imm, back, len, to } => {
                    let ints = &$isa::frame(&$core.cpu).ints;
                    if cond::$cf::<$ct>(ints[at(a)] as $ct, imm as $ct) {
                        $left += i64::from(back) - i64::from(len);
                        if $left < 0 {
                            $left += i64::from(len);
                            break Stop::Budget(to);
                        }
                        $ip = to as usize;
                    }
                }
            )*)*
        }
    };
}

/// Runs from operation `start` of a block, for whose instructions `run.left` was charged.
#[expect(
    clippy::unnecessary_cast,
    clippy::useless_conversion,
    reason = "the tables make every width's operation from one line, the widest's too"
)]
pub(crate) fn exec<I: Isa>(
    core: &mut Core<I>,
    run: &mut Run<'_>,
    ram: &Ram,
    start: u32,
) -> Stop<I> {
    let cache = run.cache;
    let code: &[Uop] = &cache.code;
    let mut left = run.left;
    let mut ip = start as usize;
    let stop = loop {
        macro_rules! int {
            ($v:expr) => {
                I::frame(&core.cpu).ints[at($v)]
            };
        }
        macro_rules! set {
            ($d:expr, $v:expr) => {{
                let v = $v;
                I::frame_mut(&mut core.cpu).ints[at($d)] = v
            }};
        }
        macro_rules! a32 {
            ($base:expr, $index:expr, $sm:expr, $disp:expr) => {
                u64::from(
                    (int!($base) as u32)
                        .wrapping_add((int!($index) as u32) << $sm.scale())
                        .wrapping_add($disp as u32),
                )
            };
        }
        macro_rules! a64 {
            ($base:expr, $index:expr, $sm:expr, $disp:expr) => {
                int!($base)
                    .wrapping_add(int!($index) << $sm.scale())
                    .wrapping_add($disp as i64 as u64)
            };
        }
        macro_rules! compared {
            ($n:expr, $v:expr) => {
                if let Some(vars) = I::COMPARED {
                    let v = $v;
                    I::frame_mut(&mut core.cpu).ints[at(vars[$n].0)] = v;
                }
            };
        }
        macro_rules! slow {
            ($call:expr) => {{
                run.left = left;
                match $call {
                    Ok(v) => v,
                    Err(stop) => break stop,
                }
            }};
        }
        macro_rules! load {
            ($w:ident, $linear:expr, $sm:expr) => {{
                let linear = $linear;
                match core.tlb.read(linear, Width::$w.bytes().into(), $sm.mmu()) {
                    Some(off) => ram_read(ram, Width::$w, off),
                    None => slow!(load_slow(core, run, linear, Width::$w, $sm.mmu(), ip - 1)),
                }
            }};
        }
        macro_rules! load_rmw {
            ($w:expr, $linear:expr, $sm:expr) => {{
                let linear = $linear;
                match core.tlb.write(linear, $w.bytes().into(), $sm.mmu()) {
                    Some(off) => ram_read(ram, $w, off),
                    None => slow!(load_rmw_slow(core, run, linear, $w, $sm.mmu(), ip - 1)),
                }
            }};
        }
        macro_rules! store {
            ($w:ident, $linear:expr, $sm:expr, $a:expr) => {{
                let value = int!($a);
                store_value!($w, $linear, $sm, value)
            }};
        }
        macro_rules! store_value {
            ($w:ident, $linear:expr, $sm:expr, $value:expr) => {{
                let (linear, value) = ($linear, $value);
                match core.tlb.write(linear, Width::$w.bytes().into(), $sm.mmu()) {
                    Some(off) => ram_write(ram, Width::$w, off, value),
                    None => {
                        slow!(store_slow(core, run, linear, Width::$w, $sm.mmu(), value, ip - 1))
                    }
                }
            }};
        }
        macro_rules! goto {
            ($len:expr, $to:expr) => {{
                left -= i64::from($len);
                if left < 0 {
                    left += i64::from($len);
                    break Stop::Budget($to);
                }
                ip = $to as usize;
            }};
        }
        macro_rules! goto_pc {
            ($pc:expr) => {{
                let pc = $pc;
                match core.recall(pc, run.mode, run.epoch) {
                    Some((to, len)) => goto!(len, to),
                    None => {
                        I::set_pc(&mut core.cpu, pc);
                        break Stop::Lookup;
                    }
                }
            }};
        }
        let uop = &code[ip];
        ip += 1;
        with_tables!(dispatch! {
            (I core left ip code uop)
            Uop::Block { .. } => unreachable!("entered at the first operation"),
            Uop::Enter { region, len } => {
                left += i64::from(len);
                break Stop::Enter(region);
            }
            Uop::Mov64 { d, a } => set!(d, int!(a)),
            Uop::Mov32 { d, a } => set!(d, u64::from(int!(a) as u32)),
            Uop::Mov16 { d, a } => set!(d, u64::from(int!(a) as u16)),
            Uop::Mov8 { d, a } => set!(d, u64::from(int!(a) as u8)),
            Uop::Imm { d, v } => set!(d, v),
            Uop::Mov2 { d, a, e, b } => {
                set!(d, int!(a));
                set!(e, int!(b));
            }
            Uop::ImmMov { d, e, a, v } => {
                set!(e, int!(a));
                set!(d, v);
            }
            Uop::ImmMov2 { d, e, a, f, b, v } => {
                set!(e, int!(a));
                set!(f, int!(b));
                set!(d, v);
            }
            Uop::ImmMovImm { d, e, a, f, v, w } => {
                set!(e, int!(a));
                set!(d, v.into());
                set!(f, w.into());
            }
            Uop::Sx8To16 { d, a } => set!(d, u64::from(int!(a) as i8 as u16)),
            Uop::Sx8To32 { d, a } => set!(d, u64::from(int!(a) as i8 as u32)),
            Uop::Sx16To32 { d, a } => set!(d, u64::from(int!(a) as i16 as u32)),
            Uop::Sx8To64 { d, a } => set!(d, int!(a) as i8 as u64),
            Uop::Sx16To64 { d, a } => set!(d, int!(a) as i16 as u64),
            Uop::Sx32To64 { d, a } => set!(d, int!(a) as i32 as u64),
            Uop::Extract { d, a, pos, len } => set!(d, eval_extract(int!(a), pos, len)),
            Uop::ExtractH { d, a } => set!(d, int!(a) >> 8 & 0xff),
            Uop::Deposit { d, a, b, pos, len } => set!(d, eval_deposit(int!(a), int!(b), pos, len)),
            Uop::DepositL { d, a, b } => set!(d, int!(a) & !0xff | int!(b) & 0xff),
            Uop::DepositH { d, a, b } => set!(d, int!(a) & !0xff00 | (int!(b) & 0xff) << 8),
            Uop::DepositW { d, a, b } => set!(d, int!(a) & !0xffff | int!(b) & 0xffff),
            Uop::Mul32 { d, a, b } => set!(d, u64::from((int!(a) as u32).wrapping_mul(int!(b) as u32))),
            Uop::Mul64 { d, a, b } => set!(d, int!(a).wrapping_mul(int!(b))),
            Uop::Bin { op, w, d, a, b } => set!(d, eval_bin(op, w, int!(a), int!(b))),
            Uop::Un { op, w, d, a } => set!(d, eval_un(op, w, int!(a))),
            Uop::Set { cond, w, d, a, b } => set!(d, cond.eval(w, int!(a), int!(b)).into()),
            Uop::SetImm { cond, w, d, a, imm } => set!(d, cond.eval(w, int!(a), imm as i64 as u64).into()),
            Uop::Select { cond, w, dw, d, a, b, x, y } => {
                let v = if cond.eval(w, int!(a), int!(b)) { int!(x) } else { int!(y) };
                set!(d, v & dw.mask());
            }
            Uop::Lea32 { d, base, index, sm, disp } => set!(d, a32!(base, index, sm, disp)),
            Uop::Lea64 { d, base, index, sm, disp } => set!(d, a64!(base, index, sm, disp)),
            Uop::LeaSeg { d, base, index, sm, seg, wrap, lin, disp } => {
                set!(d, (a64!(base, index, sm, disp) & wrap.mask()).wrapping_add(int!(seg)) & lin.mask());
            }

            Uop::Ld8A32 { d, base, index, sm, disp } => set!(d, load!(W8, a32!(base, index, sm, disp), sm)),
            Uop::Ld16A32 { d, base, index, sm, disp } => set!(d, load!(W16, a32!(base, index, sm, disp), sm)),
            Uop::Ld32A32 { d, base, index, sm, disp } => set!(d, load!(W32, a32!(base, index, sm, disp), sm)),
            Uop::Ld64A32 { d, base, index, sm, disp } => set!(d, load!(W64, a32!(base, index, sm, disp), sm)),
            Uop::Ld8A64 { d, base, index, sm, disp } => set!(d, load!(W8, a64!(base, index, sm, disp), sm)),
            Uop::Ld16A64 { d, base, index, sm, disp } => set!(d, load!(W16, a64!(base, index, sm, disp), sm)),
            Uop::Ld32A64 { d, base, index, sm, disp } => set!(d, load!(W32, a64!(base, index, sm, disp), sm)),
            Uop::Ld64A64 { d, base, index, sm, disp } => set!(d, load!(W64, a64!(base, index, sm, disp), sm)),
            Uop::Ld32B { d, base, sm, disp } => {
                set!(d, load!(W32, u64::from((int!(base) as u32).wrapping_add(disp as u32)), sm));
            }
            Uop::LdW { w, d, base, sm } => set!(d, load_rmw!(w, int!(base), sm)),
            Uop::LdW32A32 { d, base, index, sm, disp } => {
                set!(d, load_rmw!(Width::W32, a32!(base, index, sm, disp), sm));
            }
            Uop::LdSx8A32 { d, base, index, sm, disp } => {
                set!(d, u64::from(load!(W8, a32!(base, index, sm, disp), sm) as i8 as u32));
            }
            Uop::LdSx16A32 { d, base, index, sm, disp } => {
                set!(d, u64::from(load!(W16, a32!(base, index, sm, disp), sm) as i16 as u32));
            }
            Uop::LdSx32A64 { d, base, index, sm, disp } => {
                set!(d, load!(W32, a64!(base, index, sm, disp), sm) as i32 as u64);
            }
            Uop::St8A32 { a, base, index, sm, disp } => store!(W8, a32!(base, index, sm, disp), sm, a),
            Uop::St16A32 { a, base, index, sm, disp } => store!(W16, a32!(base, index, sm, disp), sm, a),
            Uop::St32A32 { a, base, index, sm, disp } => store!(W32, a32!(base, index, sm, disp), sm, a),
            Uop::St64A32 { a, base, index, sm, disp } => store!(W64, a32!(base, index, sm, disp), sm, a),
            Uop::St8A64 { a, base, index, sm, disp } => store!(W8, a64!(base, index, sm, disp), sm, a),
            Uop::St16A64 { a, base, index, sm, disp } => store!(W16, a64!(base, index, sm, disp), sm, a),
            Uop::St32A64 { a, base, index, sm, disp } => store!(W32, a64!(base, index, sm, disp), sm, a),
            Uop::St64A64 { a, base, index, sm, disp } => store!(W64, a64!(base, index, sm, disp), sm, a),
            Uop::St32B { a, base, sm, disp } => {
                store!(W32, u64::from((int!(base) as u32).wrapping_add(disp as u32)), sm, a);
            }
            Uop::Probe { base, sm, size } => {
                let linear = int!(base);
                if core.tlb.write(linear, size.into(), sm.mmu()).is_none() {
                    slow!(probe(core, run, linear, size.into(), sm.mmu(), ip - 1));
                }
            }

            Uop::FAddFull32 { d, a, b, op } => { let (x, y) = (int!(a) as u32, int!(b)); let r = x.wrapping_add(y as u32); compared!(0, op.into()); compared!(1, u64::from(r)); compared!(2, y); set!(d, u64::from(r)); }
            Uop::FAddFull32I { d, a, op, imm } => { let (x, y) = (int!(a) as u32, imm as u32); let r = x.wrapping_add(y); compared!(0, op.into()); compared!(1, u64::from(r)); compared!(2, u64::from(y)); set!(d, u64::from(r)); }
            Uop::FAddFull64 { d, a, b, op } => { let (x, y) = (int!(a) as u64, int!(b)); let r = x.wrapping_add(y as u64); compared!(0, op.into()); compared!(1, u64::from(r)); compared!(2, y); set!(d, u64::from(r)); }
            Uop::FAddFull64I { d, a, op, imm } => { let (x, y) = (int!(a) as u64, imm as u64); let r = x.wrapping_add(y); compared!(0, op.into()); compared!(1, u64::from(r)); compared!(2, u64::from(y)); set!(d, u64::from(r)); }
            Uop::FSubFull32 { d, a, b, op } => { let (x, y) = (int!(a), int!(b)); let r = (x as u32).wrapping_sub(y as u32); compared!(0, op.into()); compared!(1, x); compared!(2, y); set!(d, u64::from(r)); }
            Uop::FSubFull32I { d, a, op, imm } => { let x = int!(a); let r = (x as u32).wrapping_sub(imm as u32); compared!(0, op.into()); compared!(1, x); compared!(2, imm); set!(d, u64::from(r)); }
            Uop::FSubFull64 { d, a, b, op } => { let (x, y) = (int!(a), int!(b)); let r = (x as u64).wrapping_sub(y as u64); compared!(0, op.into()); compared!(1, x); compared!(2, y); set!(d, u64::from(r)); }
            Uop::FSubFull64I { d, a, op, imm } => { let x = int!(a); let r = (x as u64).wrapping_sub(imm as u64); compared!(0, op.into()); compared!(1, x); compared!(2, imm); set!(d, u64::from(r)); }
            Uop::FAdd32 { d, a, b, op } => { let (x, y) = (int!(a) as u32, int!(b) as u32); let r = x.wrapping_add(y); compared!(0, op.into()); compared!(1, u64::from(r)); set!(d, u64::from(r)); }
            Uop::FAdd32I { d, a, op, imm } => { let (x, y) = (int!(a) as u32, imm as u32); let r = x.wrapping_add(y); compared!(0, op.into()); compared!(1, u64::from(r)); set!(d, u64::from(r)); }
            Uop::FAdd64 { d, a, b, op } => { let (x, y) = (int!(a) as u64, int!(b) as u64); let r = x.wrapping_add(y); compared!(0, op.into()); compared!(1, u64::from(r)); set!(d, u64::from(r)); }
            Uop::FAdd64I { d, a, op, imm } => { let (x, y) = (int!(a) as u64, imm as u64); let r = x.wrapping_add(y); compared!(0, op.into()); compared!(1, u64::from(r)); set!(d, u64::from(r)); }
            Uop::FSub32 { d, a, b, op } => { let (x, y) = (int!(a) as u32, int!(b) as u32); let r = x.wrapping_sub(y); compared!(0, op.into()); compared!(1, u64::from(r)); set!(d, u64::from(r)); }
            Uop::FSub32I { d, a, op, imm } => { let (x, y) = (int!(a) as u32, imm as u32); let r = x.wrapping_sub(y); compared!(0, op.into()); compared!(1, u64::from(r)); set!(d, u64::from(r)); }
            Uop::FSub64 { d, a, b, op } => { let (x, y) = (int!(a) as u64, int!(b) as u64); let r = x.wrapping_sub(y); compared!(0, op.into()); compared!(1, u64::from(r)); set!(d, u64::from(r)); }
            Uop::FSub64I { d, a, op, imm } => { let (x, y) = (int!(a) as u64, imm as u64); let r = x.wrapping_sub(y); compared!(0, op.into()); compared!(1, u64::from(r)); set!(d, u64::from(r)); }
            Uop::FAnd32 { d, a, b, op } => { let (x, y) = (int!(a) as u32, int!(b) as u32); let r = x & y; compared!(0, op.into()); compared!(1, u64::from(r)); set!(d, u64::from(r)); }
            Uop::FAnd32I { d, a, op, imm } => { let (x, y) = (int!(a) as u32, imm as u32); let r = x & y; compared!(0, op.into()); compared!(1, u64::from(r)); set!(d, u64::from(r)); }
            Uop::FAnd64 { d, a, b, op } => { let (x, y) = (int!(a) as u64, int!(b) as u64); let r = x & y; compared!(0, op.into()); compared!(1, u64::from(r)); set!(d, u64::from(r)); }
            Uop::FAnd64I { d, a, op, imm } => { let (x, y) = (int!(a) as u64, imm as u64); let r = x & y; compared!(0, op.into()); compared!(1, u64::from(r)); set!(d, u64::from(r)); }
            Uop::FOr32 { d, a, b, op } => { let (x, y) = (int!(a) as u32, int!(b) as u32); let r = x | y; compared!(0, op.into()); compared!(1, u64::from(r)); set!(d, u64::from(r)); }
            Uop::FOr32I { d, a, op, imm } => { let (x, y) = (int!(a) as u32, imm as u32); let r = x | y; compared!(0, op.into()); compared!(1, u64::from(r)); set!(d, u64::from(r)); }
            Uop::FOr64 { d, a, b, op } => { let (x, y) = (int!(a) as u64, int!(b) as u64); let r = x | y; compared!(0, op.into()); compared!(1, u64::from(r)); set!(d, u64::from(r)); }
            Uop::FOr64I { d, a, op, imm } => { let (x, y) = (int!(a) as u64, imm as u64); let r = x | y; compared!(0, op.into()); compared!(1, u64::from(r)); set!(d, u64::from(r)); }
            Uop::FXor32 { d, a, b, op } => { let (x, y) = (int!(a) as u32, int!(b) as u32); let r = x ^ y; compared!(0, op.into()); compared!(1, u64::from(r)); set!(d, u64::from(r)); }
            Uop::FXor32I { d, a, op, imm } => { let (x, y) = (int!(a) as u32, imm as u32); let r = x ^ y; compared!(0, op.into()); compared!(1, u64::from(r)); set!(d, u64::from(r)); }
            Uop::FXor64 { d, a, b, op } => { let (x, y) = (int!(a) as u64, int!(b) as u64); let r = x ^ y; compared!(0, op.into()); compared!(1, u64::from(r)); set!(d, u64::from(r)); }
            Uop::FXor64I { d, a, op, imm } => { let (x, y) = (int!(a) as u64, imm as u64); let r = x ^ y; compared!(0, op.into()); compared!(1, u64::from(r)); set!(d, u64::from(r)); }
            Uop::Push32 { a, base, sm, disp } => {
                let at = u64::from((int!(base) as u32).wrapping_add(disp as u32));
                store!(W32, at, sm, a);
                set!(base, at);
            }
            Uop::Push64 { a, base, sm, disp } => {
                let at = int!(base).wrapping_add(disp as i64 as u64);
                store!(W64, at, sm, a);
                set!(base, at);
            }
            Uop::PushImm32 { base, sm, disp, imm } => {
                let at = u64::from((int!(base) as u32).wrapping_add(disp as u32));
                store_value!(W32, at, sm, imm);
                set!(base, at);
            }
            Uop::PushImm64 { base, sm, disp, imm } => {
                let at = int!(base).wrapping_add(disp as i64 as u64);
                store_value!(W64, at, sm, imm);
                set!(base, at);
            }
            Uop::Pop32 { d, base, sm, add } => {
                let at = u64::from(int!(base) as u32);
                set!(d, load!(W32, at, sm));
                set!(base, u64::from((at as u32).wrapping_add(add as u32)));
            }
            Uop::Pop64 { d, base, sm, add } => {
                let at = int!(base);
                set!(d, load!(W64, at, sm));
                set!(base, at.wrapping_add(add as i64 as u64));
            }
            Uop::Ret32 { d, base, sm, add } => {
                let at = u64::from(int!(base) as u32);
                let pc = load!(W32, at, sm);
                set!(d, pc);
                set!(base, u64::from((at as u32).wrapping_add(add as u32)));
                goto_pc!(pc);
            }
            Uop::Ret64 { d, base, sm, add } => {
                let at = int!(base);
                let pc = load!(W64, at, sm);
                set!(d, pc);
                set!(base, at.wrapping_add(add as i64 as u64));
                goto_pc!(pc);
            }
            Uop::LeaLimit { size, d, base, index, sm, id, disp } => {
                let offset = a64!(base, index, sm, disp) & 0xffff;
                if offset > 0x1_0000 - u64::from(size) {
                    break Stop::Fault(I::trap(id, 0), ip as u32 - 1);
                }
                set!(d, offset);
            }
            Uop::LdLimit { w, d, at: t, base, index, sm, seg, id, disp } => {
                let offset = a64!(base, index, sm, disp) & 0xffff;
                if offset > 0x1_0000 - u64::from(w.bytes()) {
                    break Stop::Fault(I::trap(id, 0), ip as u32 - 1);
                }
                set!(t, offset);
                let linear = offset.wrapping_add(int!(seg)) & 0xffff_ffff;
                let v = match core.tlb.read(linear, w.bytes().into(), sm.mmu()) {
                    Some(off) => ram_read(ram, w, off),
                    None => slow!(load_slow(core, run, linear, w, sm.mmu(), ip - 1)),
                };
                set!(d, v);
            }
            Uop::StLimit { w, a, at: t, base, index, sm, seg, id, disp } => {
                let offset = a64!(base, index, sm, disp) & 0xffff;
                if offset > 0x1_0000 - u64::from(w.bytes()) {
                    break Stop::Fault(I::trap(id, 0), ip as u32 - 1);
                }
                set!(t, offset);
                let linear = offset.wrapping_add(int!(seg)) & 0xffff_ffff;
                let value = int!(a);
                match core.tlb.write(linear, w.bytes().into(), sm.mmu()) {
                    Some(off) => ram_write(ram, w, off, value),
                    None => slow!(store_slow(core, run, linear, w, sm.mmu(), value, ip - 1)),
                }
            }
            Uop::AddLow16 { d, t, imm } => {
                let v = int!(d);
                let sum = u64::from((v as u16).wrapping_add(imm));
                set!(t, sum);
                set!(d, v & !0xffff | sum);
            }

            Uop::VMov { d, a } => {
                let f = I::frame_mut(&mut core.cpu);
                f.vecs[at(d) % 64] = f.vecs[at(a) % 64];
            }
            Uop::VConst { d, index } => I::frame_mut(&mut core.cpu).vecs[at(d) % 64] = cache.consts[index as usize],
            Uop::VLd { size, d, base, sm } => {
                let linear = int!(base);
                let v = slow!(vload(core, run, linear, size, sm.mmu(), ip - 1));
                I::frame_mut(&mut core.cpu).vecs[at(d) % 64] = v;
            }
            Uop::VSt { size, a, base, sm } => {
                let (linear, v) = (int!(base), I::frame(&core.cpu).vecs[at(a) % 64]);
                slow!(vstore(core, run, linear, size, sm.mmu(), v, ip - 1));
            }
            Uop::VGet { w, d, a, lane } => set!(d, vget(I::frame(&core.cpu).vecs[at(a) % 64], w, lane)),
            Uop::VPut { w, d, a, lane } => {
                let a = int!(a);
                let v = &mut I::frame_mut(&mut core.cpu).vecs[at(d) % 64];
                *v = vput(*v, w, lane, a);
            }
            Uop::VecOp { kind, d, a, b, imm } => {
                let f = I::frame_mut(&mut core.cpu);
                let (a, b) = (f.vecs[at(a) % 64], f.vecs[at(b) % 64]);
                I::vec_op_into(kind, &a, &b, imm, &mut f.vecs[at(d) % 64]);
            }

            Uop::Float { op, d, a, b, imm, rest, f, kind } => {
                let frame = I::frame_mut(&mut core.cpu);
                let (x, y) = (frame.vecs[at(a) % 64], frame.vecs[at(b) % 64]);
                match float::host(op, x, y, imm).filter(|_| guard::<I>(frame, op, x, y)) {
                    Some(v) => frame.vecs[at(d) % 64] = v,
                    None => {
                        run.left = left;
                        let args = [kind.into(), d.into(), a.into(), b.into(), imm.into(), 0];
                        if let Err(trap) = I::helper(f, &mut env(core, run, rest), &args) {
                            break Stop::Fault(trap, ip as u32 - 1);
                        }
                    }
                }
            }
            Uop::FloatInt { op, d, v, a, b, rest, f, kind } => {
                let frame = I::frame_mut(&mut core.cpu);
                let (x, y) = (frame.vecs[at(a) % 64], frame.vecs[at(b) % 64]);
                match float::host(op, x, y, 0).filter(|_| guard::<I>(frame, op, x, y)) {
                    Some(v) => frame.ints[at(d)] = v as u64,
                    None => {
                        run.left = left;
                        let args = [kind.into(), v.into(), a.into(), b.into(), 0, 0];
                        match I::helper(f, &mut env(core, run, rest), &args) {
                            Ok(v) => set!(d, v),
                            Err(trap) => break Stop::Fault(trap, ip as u32 - 1),
                        }
                    }
                }
            }

            Uop::Pure { f, d, args } => {
                let args = values(I::frame(&core.cpu), &cache.args[args as usize]);
                set!(d, I::pure(f, &args));
            }
            Uop::Quick { f, d, rest, args } => {
                let args = values(I::frame(&core.cpu), &cache.args[args as usize]);
                let [a, b, c, e, ..] = args;
                match I::quick(f).map_or(DECLINED, |quick| quick(&mut core.cpu, a, b, c, e)) {
                    DECLINED if run.single => {
                        run.left = left;
                        match I::helper(f, &mut env(core, run, rest), &args) {
                            Ok(_) => break Stop::Leave,
                            Err(trap) => break Stop::Fault(trap, ip as u32 - 1),
                        }
                    }
                    DECLINED => break Stop::Restart(ip as u32 - 1),
                    value => set!(d, value),
                }
            }
            Uop::Call { f, d, rest, args } => {
                run.left = left;
                let args = values(I::frame(&core.cpu), &cache.args[args as usize]);
                match I::helper(f, &mut env(core, run, rest), &args) {
                    Ok(v) => set!(d, v),
                    Err(trap) => break Stop::Fault(trap, ip as u32 - 1),
                }
            }

            Uop::Jump { to } => ip = to as usize,
            Uop::Branch { cond, w, a, b, to } => {
                if cond.eval(w, int!(a), int!(b)) {
                    ip = to as usize;
                }
            }
            Uop::BranchImm { cond, w, a, imm, to } => {
                if cond.eval(w, int!(a), imm as i64 as u64) {
                    ip = to as usize;
                }
            }
            Uop::TrapIf { cond, w, a, b, id, arg } => {
                if cond.eval(w, int!(a), int!(b)) {
                    break Stop::Fault(I::trap(id, int!(arg)), ip as u32 - 1);
                }
            }
            Uop::Trap { id, arg } => break Stop::Fault(I::trap(id, int!(arg)), ip as u32 - 1),

            Uop::CmpExit { cond, w, a, b, op, back, len, to } => {
                let (a, b) = (int!(a), int!(b));
                compared!(0, op.into());
                compared!(1, a);
                compared!(2, b);
                if cond.eval(w, a, b) {
                    left += i64::from(back);
                    goto!(len, to);
                }
            }
            Uop::CmpExitImm { cond, w, a, op, back, len, imm, to } => {
                let a = int!(a);
                compared!(0, op.into());
                compared!(1, a);
                compared!(2, (imm as u32).into());
                if cond.eval(w, a, imm as i64 as u64) {
                    left += i64::from(back);
                    goto!(len, to);
                }
            }
            Uop::TestExitImm { cond, w, a, op, back, len, imm, to } => {
                let a = int!(a);
                compared!(0, op.into());
                compared!(1, a);
                if cond.eval(w, a, imm as i64 as u64) {
                    left += i64::from(back);
                    goto!(len, to);
                }
            }

            Uop::Goto { len, to } => goto!(len, to),
            Uop::GotoVar { a } => goto_pc!(int!(a)),
            Uop::GotoPc { pc } => goto_pc!(pc),
            Uop::Stub { exit } => break Stop::Exit(exit),
            Uop::Leave { a } => {
                let pc = int!(a);
                I::set_pc(&mut core.cpu, pc);
                break Stop::Leave;
            }
            Uop::LeavePc { pc } => {
                I::set_pc(&mut core.cpu, pc);
                break Stop::Leave;
            }
        });
    };
    run.left = left;
    stop
}
