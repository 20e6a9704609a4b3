//! Entering compiled regions, and what they call.
//!
//! One of the two modules of the JIT that are not safe Rust. What makes it sound:
//!
//! - [`enter`] is the only way in. It holds the only references to the CPU and the run, turns them
//!   into pointers, and does not touch them until the compiled code has returned.
//! - The shims are called by compiled code only, on the same thread, with the context they were
//!   entered with: its `engine` is then the [`Engine`] in `enter`'s frame, of the same `I`, because a
//!   compiler is given [`shims`] of the instruction set of its cluster.
//! - Quick functions are called by compiled code with the CPU of the context, which is of the type
//!   they take, because they are in a region that was formed for that instruction set.
//! - Compiled code itself reads and writes the frame, the context, the fast TLB (reading only), and
//!   guest memory through entries of that TLB, which hold pages of the arena: see
//!   [`abi`](super::abi). The back ends are trusted for that, as Cranelift is.
#![expect(unsafe_code, reason = "compiled code is called, and calls back with raw pointers")]

use super::abi::{Context, Entry, Link, Shims, resume, stop};
use crate::cluster::epoch;
use crate::env::{ram_read, ram_write};
use crate::interp::{Core, Run, Stop, env, load_rmw_slow, load_slow, probe, store_slow};
use crate::interp::{vload, vstore};
use crate::ir::{VecVar, Width};
use crate::isa::Isa;

/// What the shims work with.
struct Engine<I: Isa> {
    core: *mut Core<I>,
    /// A `Run` of whatever lifetime [`enter`] was called with.
    run: *mut Run<'static>,
    trap: Option<I::Trap>,
}

/// Runs a compiled region whose pages in `pages` are in place. `run.left` is at least what its
/// first block needs. `region` is its number, and then that of the last one that was entered from here.
/// The mode in `run` is then what it now is.
pub(crate) fn enter<I: Isa>(
    core: &mut Core<I>,
    run: &mut Run<'_>,
    mut code: Entry,
    pages: u32,
    region: &mut u32,
) -> Stop<I> {
    let tag = core.tag(run.mode, run.epoch);
    let (core, run) = (&raw mut *core, &raw mut *run);
    let mut engine = Engine::<I> { core, run: run.cast(), trap: None };
    // SAFETY: the pointers come from exclusive references that live as long as this function
    // and are not used otherwise until the code has returned.
    let mut ctx = unsafe {
        Context {
            frame: I::frame_mut(&mut (*core).cpu),
            tlb: (*core).tlb.fast(I::data_mmu((*run).mode)).as_ptr(),
            engine: (&raw mut engine).cast(),
            left: (*run).left,
            pages,
            links: (*core).links.as_ptr(),
            tag,
            cpu: (&raw mut (*core).cpu).cast(),
            region: *region,
            ..Context::new()
        }
    };
    let why = loop {
        let before = ctx.left;
        // SAFETY: `code` was made by a back end for this interface and is not freed while it runs
        // (that is done between runs); the context is complete.
        let why = unsafe { code(&raw mut ctx) };
        match why {
            stop::LOOKUP if ctx.left != before => {}
            stop::LEAVE if resume_shim::<I>(&raw mut ctx) != resume::LEAVE => {}
            why => break why,
        }
        // SAFETY: as above; the code has returned. Links hold while their tag does.
        let link = unsafe { &(&*core).links }[Link::slot(ctx.pc)];
        match link.code {
            Some(next) if link.pc == ctx.pc && link.tag == ctx.tag => {
                (code, ctx.pages, ctx.region) = (next, u32::MAX, link.region);
            }
            _ => break stop::LOOKUP,
        }
    };
    // SAFETY: as above; the code has returned.
    let (core, run) = unsafe { (&mut *core, &mut *run) };
    (run.left, *region) = (ctx.left, ctx.region);
    I::set_pc(&mut core.cpu, ctx.pc);
    match why {
        stop::LEAVE => Stop::Leave,
        stop::RESTART => Stop::RestartHere,
        stop::FAULT => match engine.trap {
            Some(trap) => Stop::FaultHere(trap),
            None => unreachable!("a fault without a trap"),
        },
        _ => Stop::Lookup,
    }
}

/// Calls `f` with what the context stands for, and notes in it how that came out.
fn with<I: Isa, R: Default>(
    ctx: *mut Context,
    f: impl FnOnce(&mut Core<I>, &mut Run<'_>, &Context) -> Result<R, Stop<I>>,
) -> R {
    // SAFETY: see the top of this module: the context and the engine are those of `enter`, which
    // waits for the compiled code that waits for us, so nothing else uses them now.
    let (ctx, engine) = unsafe { (&mut *ctx, &mut *(*ctx).engine.cast::<Engine<I>>()) };
    // SAFETY: the same.
    let (core, run) = unsafe { (&mut *engine.core, &mut *engine.run) };
    run.left = ctx.left;
    let result = f(core, run, ctx);
    // What was pointed to was used by another way.
    ctx.frame = I::frame_mut(&mut core.cpu);
    match result {
        Ok(r) => {
            ctx.status = 0;
            r
        }
        Err(Stop::Fault(trap, _)) => {
            engine.trap = Some(trap);
            ctx.status = stop::FAULT;
            R::default()
        }
        Err(_) => {
            ctx.status = stop::RESTART;
            R::default()
        }
    }
}

/// An access as [`access`](super::abi::access) packs it.
#[derive(Clone, Copy)]
struct Access(u32);

impl Access {
    fn bytes(self) -> u32 {
        self.0 & 0xffff
    }
    fn width(self) -> Width {
        Width::from_bytes(self.bytes()).unwrap_or(Width::W64)
    }
    fn mmu(self) -> u8 {
        (self.0 >> 16 & 3) as u8
    }
    fn rmw(self) -> bool {
        self.0 >> 18 & 1 != 0
    }
    fn vec(self) -> VecVar {
        VecVar((self.0 >> 24) as u8)
    }
}

extern "C" fn load<I: Isa>(ctx: *mut Context, linear: u64, access: u32) -> u64 {
    let a = Access(access);
    with::<I, _>(ctx, |core, run, _| {
        // What lies close to it may be in another page.
        let (size, mmu) = (a.bytes().into(), a.mmu());
        let direct = if a.rmw() {
            core.tlb.write(linear, size, mmu)
        } else {
            core.tlb.read(linear, size, mmu)
        };
        if let Some(off) = direct {
            return Ok(ram_read(run.board.ram(), a.width(), off));
        }
        if a.rmw() {
            load_rmw_slow(core, run, linear, a.width(), a.mmu(), 0)
        } else {
            load_slow(core, run, linear, a.width(), a.mmu(), 0)
        }
    })
}

extern "C" fn store<I: Isa>(ctx: *mut Context, linear: u64, value: u64, access: u32) {
    let a = Access(access);
    with::<I, _>(ctx, |core, run, _| match core.tlb.write(linear, a.bytes().into(), a.mmu()) {
        Some(off) => {
            ram_write(run.board.ram(), a.width(), off, value);
            Ok(())
        }
        None => store_slow(core, run, linear, a.width(), a.mmu(), value, 0),
    });
}

extern "C" fn probe_shim<I: Isa>(ctx: *mut Context, linear: u64, access: u32) {
    let a = Access(access);
    with::<I, _>(ctx, |core, run, _| probe(core, run, linear, a.bytes().into(), a.mmu(), 0));
}

extern "C" fn vload_shim<I: Isa>(ctx: *mut Context, linear: u64, access: u32) {
    let a = Access(access);
    with::<I, _>(ctx, |core, run, _| {
        let v = vload(core, run, linear, a.bytes() as u8, a.mmu(), 0)?;
        I::frame_mut(&mut core.cpu).vset(a.vec(), v);
        Ok(())
    });
}

extern "C" fn vstore_shim<I: Isa>(ctx: *mut Context, linear: u64, access: u32) {
    let a = Access(access);
    with::<I, _>(ctx, |core, run, _| {
        let v = I::frame(&core.cpu).vget(a.vec());
        vstore(core, run, linear, a.bytes() as u8, a.mmu(), v, 0)
    });
}

extern "C" fn vec_op<I: Isa>(ctx: *mut Context, kind: u32, vars: u32) {
    // SAFETY: the frame is that of the CPU in `enter`, which is not used otherwise now; `with` points to it anew
    // where it was.
    let frame = unsafe { &mut *(*ctx).frame };
    let [d, a, b, _] = vars.to_le_bytes().map(VecVar);
    let (a, b) = (frame.vget(a), frame.vget(b));
    let mut out = 0;
    I::vec_op_into(kind as u16, &a, &b, (kind >> 16) as u8, &mut out);
    frame.vset(d, out);
}

extern "C" fn pure<I: Isa>(ctx: *mut Context, f: u32) -> u64 {
    // SAFETY: the context is that of `enter`.
    let args = unsafe { &(*ctx).args };
    I::pure(f as u16, args)
}

extern "C" fn call<I: Isa>(ctx: *mut Context, f: u32) -> u64 {
    with::<I, _>(ctx, |core, run, ctx| {
        let mut env = env(core, run, (f >> 16) as u8);
        I::helper(f as u16, &mut env, &ctx.args).map_err(|t| Stop::Fault(t, 0))
    })
}

/// Behind an instruction that may have changed anything: whether compiled code may go on at once, because
/// nothing is pending and nothing has to be brought up to date. Mode, tag and TLB of the context are then those of now.
extern "C" fn resume_shim<I: Isa>(ctx: *mut Context) -> u32 {
    // SAFETY: as in `with`; between regions `enter` gives its own context.
    let (ctx, engine) = unsafe { (&mut *ctx, &mut *(*ctx).engine.cast::<Engine<I>>()) };
    // SAFETY: the same.
    let (core, run) = unsafe { (&mut *engine.core, &mut *engine.run) };
    let board = &*run.board;
    let quiet = ctx.left > 0
        && !board.attention()
        && board.map_generation() == run.synced
        && !board.ram().has_stale_code()
        && I::is_quiet(&mut core.cpu, run.index, board);
    if !quiet {
        return resume::LEAVE;
    }
    let mode = I::block_key(&core.cpu);
    if I::one_insn(mode) {
        return resume::LEAVE;
    }
    ctx.frame = I::frame_mut(&mut core.cpu);
    let epoch = epoch::<I>(core, run.cache, mode);
    let tag = core.tag(mode, epoch);
    if tag == ctx.tag {
        return resume::HERE;
    }
    (run.mode, run.epoch, ctx.tag) = (mode, epoch, tag);
    ctx.tlb = core.tlb.fast(I::data_mmu(mode)).as_ptr();
    resume::ELSEWHERE
}

extern "C" fn trap<I: Isa>(ctx: *mut Context, id: u32, arg: u64) {
    with::<I, ()>(ctx, |_, _, _| Err(Stop::Fault(I::trap(id as u16, arg), 0)));
}

/// The shims of an instruction set.
pub(crate) fn shims<I: Isa>() -> Shims {
    Shims {
        mxcsr: I::MXCSR,
        stack: I::STACK,
        load: load::<I>,
        store: store::<I>,
        probe: probe_shim::<I>,
        vload: vload_shim::<I>,
        vstore: vstore_shim::<I>,
        vec_op: vec_op::<I>,
        pure: pure::<I>,
        call: call::<I>,
        trap: trap::<I>,
        resume: resume_shim::<I>,
    }
}
