//! A back end for tests, whose code is this program itself: a function that runs a region's first block by the
//! rules of [`abi`](super::abi), through raw pointers as compiled code does. It can be looked at by Miri, and so
//! can the runtime around it.
#![expect(unsafe_code, reason = "does what compiled code does")]

use std::cell::RefCell;
use std::collections::BTreeMap;

use super::abi::{self, Context, access, stop};
use super::{Compiler, Done, Job, Policy, runtime};
use crate::frame::Var;
use crate::ir::opt::{eval_bin, eval_un};
use crate::ir::{Addr, Cmp, Label, Mem, Op, Val, Width};
use crate::region::Region;
use crate::tlb::Fast;
use crate::toy::{Machine, Toy, code::*};

thread_local! {
    static REGIONS: RefCell<BTreeMap<u32, Region>> = const { RefCell::new(BTreeMap::new()) };
}

/// Keeps the regions for [`code`].
struct Reference(Vec<Done>);

impl Compiler for Reference {
    fn submit(&mut self, job: Job) {
        let code = Some(abi::Code::called(code));
        self.0.push(Done { id: job.id, code, bytes: 1, nanos: 0 });
        REGIONS.with_borrow_mut(|all| all.insert(job.id as u32, job.region));
    }
    fn poll(&mut self) -> Vec<Done> {
        std::mem::take(&mut self.0)
    }
    fn release(&mut self, id: u64) {
        REGIONS.with_borrow_mut(|all| all.remove(&(id as u32)));
    }
    fn pending(&self) -> usize {
        0
    }
    fn release_all(&mut self) {}
}

/// The registers and memory of the region that runs.
struct Regs(*mut Context);

impl Regs {
    fn get(&self, v: Val) -> u64 {
        match v {
            Val::Imm(n) => n,
            // SAFETY: as for all compiled code, context and frame are there while it runs.
            Val::Var(v) => unsafe { (&(*(*self.0).frame)).get(v) },
        }
    }

    fn set(&self, w: Width, v: Var, value: u64) {
        // SAFETY: as above.
        unsafe { (&mut (*(*self.0).frame)).set(v, value & w.mask()) }
    }

    fn holds(&self, c: &Cmp) -> bool {
        c.cond.eval(c.w, self.get(c.a), self.get(c.b))
    }

    fn linear(&self, a: &Addr) -> u64 {
        let of = |v: Option<Var>| v.map_or(0, |v| self.get(Val::Var(v)));
        let offset = of(a.base).wrapping_add(of(a.index) << a.scale).wrapping_add(a.disp as u64);
        (offset & a.wrap.mask()).wrapping_add(of(a.segment)) & a.lin.mask()
    }

    /// Where the bytes are, if the TLB says so.
    fn direct(&self, linear: u64, bytes: u32, mem: Mem, write: bool) -> Option<*mut u8> {
        let page = linear >> 12 & ((1 << abi::TLB_BITS) - 1);
        // SAFETY: the table has so many entries.
        let Fast { read, write: stores, host, .. } = unsafe { *(*self.0).tlb.add(page as usize) };
        let tag = linear.wrapping_add(u64::from(bytes) - 1) & !0xfff | u64::from(mem.mmu);
        let known = if write { stores } else { read };
        let at = linear.wrapping_add(host) as usize;
        (known == tag).then(|| std::ptr::with_exposed_provenance_mut(at))
    }

    fn load(&self, w: Width, addr: &Addr, mem: Mem) -> Result<u64, u32> {
        let (linear, write) = (self.linear(addr), mem.flags & Mem::WRITE != 0);
        if let Some(at) = self.direct(linear, w.bytes(), mem, write) {
            let mut bytes = [0; 8];
            for (n, b) in bytes.iter_mut().enumerate().take(w.bytes() as usize) {
                // SAFETY: an entry of the TLB names a page of the arena.
                *b = unsafe { at.add(n).read() };
            }
            return Ok(u64::from_le_bytes(bytes));
        }
        let value =
            (runtime::shims::<Toy>().load)(self.0, linear, access(w.bytes(), mem.mmu, write, 0));
        self.status(value)
    }

    fn store(&self, w: Width, addr: &Addr, mem: Mem, value: u64) -> Result<(), u32> {
        let linear = self.linear(addr);
        if let Some(at) = self.direct(linear, w.bytes(), mem, true) {
            for (n, b) in value.to_le_bytes().into_iter().enumerate().take(w.bytes() as usize) {
                // SAFETY: as above.
                unsafe { at.add(n).write(b) };
            }
            return Ok(());
        }
        let access = access(w.bytes(), mem.mmu, false, 0);
        (runtime::shims::<Toy>().store)(self.0, linear, value & w.mask(), access);
        self.status(())
    }

    fn status<T>(&self, value: T) -> Result<T, u32> {
        // SAFETY: as above.
        match unsafe { (*self.0).status } {
            0 => Ok(value),
            why => Err(why),
        }
    }

    /// Stops at a program counter with so many instructions not done.
    fn stop(&self, why: u32, pc: u64, rest: u32) -> u32 {
        // SAFETY: as above.
        unsafe {
            (*self.0).pc = pc;
            (*self.0).left += i64::from(rest);
        }
        why
    }
}

/// The entry of every region.
unsafe extern "C" fn code(ctx: *mut Context) -> u32 {
    let regs = Regs(ctx);
    // SAFETY: the runtime's context.
    let number = unsafe { (*ctx).region };
    let block = REGIONS.with_borrow(|all| all[&number].blocks[0].clone());
    // SAFETY: the same.
    unsafe {
        if (*ctx).left < i64::from(block.insns) {
            return regs.stop(stop::LOOKUP, block.pc, 0);
        }
        (*ctx).left -= i64::from(block.insns);
    }
    // Those that are not done before the current one.
    let (mut rest, mut pc, mut skip) = (block.insns + 1, block.pc, None::<Label>);
    for op in &block.ops {
        if let (Some(to), false) = (skip, matches!(op, Op::Insn { .. })) {
            if matches!(op, Op::Label { label } if *label == to) {
                skip = None;
            }
            continue;
        }
        let mut done = Ok(());
        match *op {
            Op::Insn { pc: at, .. } => (rest, pc) = (rest - 1, at),
            Op::Mov { w, d, a } => regs.set(w, d, regs.get(a)),
            Op::Bin { op, w, d, a, b } => {
                regs.set(w, d, eval_bin(op, w, regs.get(a), regs.get(b)));
            }
            Op::Un { op, w, d, a } => regs.set(w, d, eval_un(op, w, regs.get(a))),
            Op::Load { w, d, addr, mem } => {
                done = regs.load(w, &addr, mem).map(|v| regs.set(w, d, v));
            }
            Op::Store { w, a, addr, mem } => done = regs.store(w, &addr, mem, regs.get(a)),
            Op::Branch { cmp, label } => skip = regs.holds(&cmp).then_some(label),
            Op::Label { .. } => {}
            Op::ExitIf { cmp, pc: to } => {
                if regs.holds(&cmp) {
                    return regs.stop(stop::LOOKUP, to, rest - 1);
                }
            }
            Op::Goto { pc: to } => return regs.stop(stop::LOOKUP, to, 0),
            Op::GotoVar { pc: to } => return regs.stop(stop::LOOKUP, regs.get(to), 0),
            Op::Leave { pc: to } => return regs.stop(stop::LEAVE, regs.get(to), 0),
            Op::Call { f, d: None, .. } => {
                (runtime::shims::<Toy>().call)(ctx, u32::from(f) | rest << 16);
                done = regs.status(());
            }
            ref op => unreachable!("the toy has no {op:?}"),
        }
        if let Err(why) = done {
            return regs.stop(why, pc, rest);
        }
    }
    unreachable!("a block ends")
}

/// What a program of the toy leaves behind after so many instructions, compiled and interpreted.
fn same(program: &[[u8; 4]], budgets: impl Iterator<Item = u64>, set: impl Fn(&mut Machine)) {
    for budget in budgets {
        let run = |compiled: bool| {
            let mut m = Machine::new(program);
            if compiled {
                let policy = Policy { eager: true, best: None, ..Policy::default() };
                m.cpus.set_compiler(Box::new(Reference(Vec::new())), policy);
            }
            set(&mut m);
            let ran = m.run(budget);
            let mut memory = vec![0; 0x2000];
            m.board.ram().read_bytes(0x1000, &mut memory);
            let inside = m.cpus.jit_stats().map_or(0, |s| s.run);
            (ran, m.cpu().clone(), memory, inside)
        };
        let (a, b) = (run(false), run(true));
        assert_eq!((a.0, &a.2), (b.0, &b.2), "after {budget}");
        // Temporaries are nobody's.
        let visible = |m: &crate::toy::Cpu| {
            (m.frame.ints[..64].to_vec(), m.pc, m.traps.clone(), m.halted, m.seen.clone())
        };
        assert_eq!(visible(&a.1), visible(&b.1), "after {budget}");
        assert!(budget < 20 || b.3 > 0, "{} instructions in compiled code", b.3);
    }
}

#[test]
fn loops_and_memory_come_out_as_interpreted() {
    let program = [
        [ADDI, 0, 7, 9],
        [INC, 0, 3, 4],
        [STORE, 0, 3, 8],
        [LOAD, 1, 3, 4],
        [NOTNEG, 0, 1, 0],
        [CLOCK, 0, 0, 0],
        [ADDI, 0, 0, 0xff],
        [BNE, 0, 7, 0xfa],
        [HALT, 0, 0, 0],
    ];
    same(&program, [1, 2, 3, 5, 8, 9, 20, 64, 100].into_iter(), |m| m.set(3, 0x2000));
    // Half of an access in the next page.
    same(&program, [20, 100].into_iter(), |m| m.set(3, 0x1ffa));
}

#[test]
fn faults_leave_what_the_interpreter_leaves() {
    let program = [
        [ADDI, 1, 1, 5],
        [LOAD, 2, 3, 4],
        [ADDI, 3, 3, 0x40],
        [STORE, 1, 3, 4],
        [BNE, 1, 7, 0xfc],
        [HALT, 0, 0, 0],
    ];
    same(&program, [1, 2, 3, 4, 5, 30, 1000].into_iter(), |m| {
        m.set(3, 0x2e00);
        m.cpu().pages.insert(3, None);
    });
    same(&program, [1000].into_iter(), |m| {
        m.set(3, 0x2e00);
        m.cpu().pages.insert(3, Some((2, false)));
    });
}

#[test]
fn code_that_writes_to_itself_is_seen_at_once() {
    // The first byte that is stored to is the number that the instruction behind adds.
    let program =
        [[INC, 0, 3, 7], [ADDI, 1, 1, 0], [ADDI, 2, 2, 1], [BNE, 2, 4, 0xfd], [HALT, 0, 0, 0]];
    same(&program, [1, 2, 3, 50, 200].into_iter(), |m| {
        m.set(3, 0x1000);
        m.set(4, 20);
    });
}
