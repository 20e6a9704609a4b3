//! Regions of random operations, run as WebAssembly and by a reference written down plainly.

use std::collections::BTreeMap;

use wasmi::{
    Caller, Config, Engine, Func, Linker, Memory, MemoryType, Ref, Store, Table, TableType, ValType,
};

use super::{IMPORTS, Slots, module};
use crate::frame::{FIRST_TEMP, FIRST_VTEMP, Var, VecVar};
use crate::ir::opt::{eval_bin, eval_deposit, eval_extract, eval_un};
use crate::ir::{
    Addr, BinOp, Cmp, Cond, DECLINED, FloatOp, Fx, Label, Mem, Op, UnOp, Val, VecKind, Width, float,
};
use crate::jit::abi::{Context, LINKS, Link, TLB_BITS, fast, int_offset, resume, stop, vec_offset};
use crate::region::{RBlock, Region, flow};

const CTX: usize = 0x100;
const FRAME: usize = 0x1000;
const TLB: usize = 0x1_0000;
const RAM: usize = 0x8_0000;
const LINKS_AT: usize = 0xa_0000;
const PAGES: usize = 5;
const PAGE: u64 = 4096;
/// Pages of the guest: reads and writes direct twice, reads only, neither, not there.
const DIRECT: [(bool, bool, bool); PAGES] = [
    (true, true, true),
    (true, true, true),
    (true, false, true),
    (false, false, true),
    (false, false, false),
];
const MMU: u8 = 1;

const SLOTS: Slots = Slots {
    load: 1,
    store: 2,
    probe: 3,
    vload: 4,
    vstore: 5,
    vec_op: 6,
    pure: 7,
    call: 8,
    trap: 9,
    resume: 12,
    tail_calls: true,
};
const REGION: u32 = 13;
const MOST_GATES: usize = 7;
/// The quick function of these tests, which is in slot 10 ([`Region::of_blocks`]).
const QUICK: u16 = 9;

fn quick(args: [u64; 4]) -> u64 {
    if args[0] % 8 == 5 { DECLINED } else { args[0].rotate_left(9) ^ args[1] ^ !args[3] }
}

/// Whether these tests go on behind an instruction that ends its block, with so many left.
fn resumes(left: i64) -> u32 {
    [resume::HERE, resume::ELSEWHERE, resume::LEAVE][(left / 2) as usize % 3]
}

/// Whether an access of so many bytes faults.
fn faults(linear: u64, bytes: u64) -> bool {
    let last = linear.wrapping_add(bytes - 1);
    let there = |a: u64| a / PAGE < PAGES as u64 && DIRECT[(a / PAGE) as usize].2;
    !there(linear) || !there(last)
}

fn pure(f: u32, args: &[u64; 6]) -> u64 {
    args.iter().fold(u64::from(f), |n, a| n.rotate_left(7) ^ a)
}

fn vec_op(kind: u16, a: u128, b: u128, imm: u8) -> u128 {
    a.rotate_left(u32::from(imm)).wrapping_add(b ^ u128::from(kind))
}

const FLOAT: u16 = 7;

/// What the helper for floating point does in these tests.
fn fallback(kind: u64, a: u128, b: u128, imm: u64) -> u128 {
    (a ^ !b).wrapping_add(u128::from(kind + imm))
}

/// What the helper of these tests does to the frame.
fn helper(ints: &mut [u64], args: &[u64; 6]) -> u64 {
    let old = ints[5];
    ints[5] = args[0].wrapping_add(ints[1]) & 0xffff_ffff;
    old
}

struct Host {
    memory: Memory,
}

type C<'a> = Caller<'a, Option<Host>>;

fn peek<const N: usize>(c: &C<'_>, at: usize) -> [u8; N] {
    let mut out = [0; N];
    let memory = c.data().as_ref().unwrap().memory;
    memory.read(c, at, &mut out).unwrap();
    out
}

fn poke(c: &mut C<'_>, at: usize, bytes: &[u8]) {
    let memory = c.data().as_ref().unwrap().memory;
    memory.write(c, at, bytes).unwrap();
}

fn status(c: &mut C<'_>, linear: u64, bytes: u64) -> bool {
    let bad = faults(linear, bytes);
    let code = if bad { stop::FAULT } else { 0 };
    poke(c, CTX + Context::STATUS as usize, &code.to_le_bytes());
    !bad
}

fn args(c: &C<'_>) -> [u64; 6] {
    std::array::from_fn(|n| u64::from_le_bytes(peek(c, CTX + Context::ARGS as usize + 8 * n)))
}

/// A machine that runs modules.
struct Wasm {
    store: Store<Option<Host>>,
    memory: Memory,
    table: Table,
}

impl Wasm {
    fn new() -> Self {
        let engine = Engine::new(&Config::default());
        let mut store = Store::new(&engine, None);
        let memory = Memory::new(&mut store, MemoryType::new(20, None)).unwrap();
        *store.data_mut() = Some(Host { memory });
        let null = wasmi::Val::FuncRef(Ref::Null);
        let table =
            Table::new(&mut store, TableType::new(ValType::FuncRef, 32, None), null).unwrap();
        let load = |mut c: C<'_>, _: i32, linear: i64, a: i32| -> i64 {
            let bytes = a as u64 & 0xffff;
            if !status(&mut c, linear as u64, bytes) {
                return 0;
            }
            let v = u64::from_le_bytes(peek(&c, RAM + linear as usize));
            (v & u64::MAX >> (64 - 8 * bytes)) as i64
        };
        let store_ = |mut c: C<'_>, _: i32, linear: i64, v: i64, a: i32| {
            let bytes = a as u64 & 0xffff;
            if status(&mut c, linear as u64, bytes) {
                poke(&mut c, RAM + linear as usize, &v.to_le_bytes()[..bytes as usize]);
            }
        };
        let probe = |mut c: C<'_>, _: i32, linear: i64, a: i32| {
            status(&mut c, linear as u64, a as u64 & 0xffff);
        };
        let vload = |mut c: C<'_>, _: i32, linear: i64, a: i32| {
            let bytes = a as u64 & 0xffff;
            if status(&mut c, linear as u64, bytes) {
                let mut v: [u8; 16] = peek(&c, RAM + linear as usize);
                v[bytes as usize..].fill(0);
                poke(&mut c, FRAME + vec_offset((a as u32 >> 24) as u8) as usize, &v);
            }
        };
        let vstore = |mut c: C<'_>, _: i32, linear: i64, a: i32| {
            let bytes = a as u64 & 0xffff;
            if status(&mut c, linear as u64, bytes) {
                let v: [u8; 16] = peek(&c, FRAME + vec_offset((a as u32 >> 24) as u8) as usize);
                poke(&mut c, RAM + linear as usize, &v[..bytes as usize]);
            }
        };
        let vec = |mut c: C<'_>, _: i32, kind: i32, vars: i32| {
            let at = |n: u32| FRAME + vec_offset((vars as u32 >> n) as u8) as usize;
            let get = |n| u128::from_le_bytes(peek(&c, at(n)));
            let v = vec_op(kind as u16, get(8), get(16), (kind >> 16) as u8);
            poke(&mut c, at(0), &v.to_le_bytes());
        };
        let pure = |c: C<'_>, _: i32, f: i32| -> i64 { pure(f as u32, &args(&c)) as i64 };
        let call = |mut c: C<'_>, _: i32, f: i32| -> i64 {
            let a = args(&c);
            poke(&mut c, CTX + Context::STATUS as usize, &[0; 4]);
            if f as u16 == FLOAT {
                let at = |n: u64| FRAME + vec_offset(n as u8) as usize;
                let get = |n| u128::from_le_bytes(peek(&c, at(n)));
                let v = fallback(a[0], get(a[2]), get(a[3]), a[4]);
                poke(&mut c, at(a[1]), &v.to_le_bytes());
                return a[0] as i64;
            }
            let mut ints: Vec<u64> = (0..8)
                .map(|v| u64::from_le_bytes(peek(&c, FRAME + int_offset(v) as usize)))
                .collect();
            let v = helper(&mut ints, &a);
            for (v, n) in ints.iter().enumerate() {
                poke(&mut c, FRAME + int_offset(v as u8) as usize, &n.to_le_bytes());
            }
            v as i64
        };
        let trap = |mut c: C<'_>, _: i32, id: i32, arg: i64| {
            poke(&mut c, CTX + Context::ARGS as usize, &(id as u64).to_le_bytes());
            poke(&mut c, CTX + Context::ARGS as usize + 8, &arg.to_le_bytes());
        };
        let quick = |_: C<'_>, _: i32, a: i64, b: i64, c: i64, d: i64| -> i64 {
            quick([a, b, c, d].map(|n| n as u64)) as i64
        };
        let resume = |c: C<'_>, _: i32| -> i32 {
            resumes(i64::from_le_bytes(peek(&c, CTX + Context::LEFT as usize))) as i32
        };
        let s = &mut store;
        let shims = [
            Func::wrap(&mut *s, load),
            Func::wrap(&mut *s, store_),
            Func::wrap(&mut *s, probe),
            Func::wrap(&mut *s, vload),
            Func::wrap(&mut *s, vstore),
            Func::wrap(&mut *s, vec),
            Func::wrap(&mut *s, pure),
            Func::wrap(&mut *s, call),
            Func::wrap(&mut *s, trap),
            Func::wrap(&mut *s, quick),
            Func::wrap(&mut *s, |_: i32| -> i32 { unreachable!("a slot of no function") }),
            Func::wrap(&mut *s, resume),
        ];
        for (i, f) in shims.into_iter().enumerate() {
            table.set(&mut store, i as u64 + 1, wasmi::Val::FuncRef(Ref::Val(f))).unwrap();
        }
        Self { store, memory, table }
    }

    /// Runs the first of these regions, with links to all of them where there are several;
    /// answers with why it stopped.
    fn run(&mut self, regions: &[&Region], state: &mut State) -> u32 {
        // As they are compiled; the reference runs all that they do.
        let mut pruned: Vec<Region> = regions.iter().map(|&r| r.clone()).collect();
        pruned.iter_mut().for_each(flow::prune);
        let all: Vec<(&Region, u32)> =
            pruned.iter().zip((REGION..).step_by(MOST_GATES + 1)).collect();
        let slots: Vec<Vec<u32>> = all
            .iter()
            .map(|&(region, first)| (first..).take(1 + region.gates.len()).collect())
            .collect();
        let placed: Vec<(&Region, &[u32])> =
            all.iter().zip(&slots).map(|(&(region, _), slots)| (region, &**slots)).collect();
        let entry = REGION + pruned[0].gate_at(state.pc).map_or(0, |n| n as u32 + 1);
        let bytes = module(&placed, &SLOTS);
        wasmparser::validate(&bytes).unwrap_or_else(|e| panic!("{e}: {:#x?}", regions[0].blocks));
        let module = wasmi::Module::new(self.store.engine(), &bytes).unwrap();
        let mut linker = Linker::new(self.store.engine());
        linker.define(IMPORTS, "m", self.memory).unwrap();
        linker.define(IMPORTS, "t", self.table).unwrap();
        linker.instantiate_and_start(&mut self.store, &module).unwrap();

        let mut put =
            |at: usize, bytes: &[u8]| self.memory.write(&mut self.store, at, bytes).unwrap();
        for (v, n) in state.ints.iter().enumerate() {
            put(FRAME + int_offset(v as u8) as usize, &n.to_le_bytes());
        }
        for (v, n) in state.vecs.iter().enumerate() {
            put(FRAME + vec_offset(v as u8) as usize, &n.to_le_bytes());
        }
        put(RAM, &state.ram);
        for i in 0..1 << TLB_BITS {
            let at = TLB + i * fast::SIZE as usize;
            let (read, write, _) = DIRECT.get(i).copied().unwrap_or_default();
            let tag = |on: bool| if on { i as u64 * PAGE | u64::from(MMU) } else { u64::MAX };
            put(at + fast::READ as usize, &tag(read).to_le_bytes());
            put(at + fast::WRITE as usize, &tag(write).to_le_bytes());
            put(at + fast::HOST as usize, &(RAM as u64).to_le_bytes());
        }
        put(CTX + Context::FRAME as usize, &(FRAME as u64).to_le_bytes());
        put(CTX + Context::TLB as usize, &(TLB as u64).to_le_bytes());
        put(CTX + Context::LEFT as usize, &state.left.to_le_bytes());
        put(CTX + Context::STATUS as usize, &[0xff; 4]);
        put(CTX + Context::PAGES as usize, &1u32.to_le_bytes());
        put(CTX + Context::LINKS as usize, &(LINKS_AT as u64).to_le_bytes());
        put(CTX + Context::TAG as usize, &7u64.to_le_bytes());
        put(LINKS_AT, &[0; LINKS * size_of::<Link>()]);
        for &(region, slot) in all.iter().filter(|_| all.len() > 1) {
            let at = LINKS_AT + Link::slot(region.pc()) * size_of::<Link>();
            put(at + Link::PC as usize, &region.pc().to_le_bytes());
            put(at + Link::TAG as usize, &7u64.to_le_bytes());
            put(at + Link::CODE as usize, &slot.to_le_bytes());
        }

        let Some(wasmi::Val::FuncRef(Ref::Val(f))) = self.table.get(&self.store, entry.into())
        else {
            panic!("the region is in its slot");
        };
        let f = f.typed::<i32, i32>(&self.store).unwrap();
        let code = f.call(&mut self.store, CTX as i32).unwrap();

        let get = |at: usize, bytes: &mut [u8]| self.memory.read(&self.store, at, bytes).unwrap();
        let mut word = [0; 8];
        for (v, n) in state.ints.iter_mut().enumerate() {
            get(FRAME + int_offset(v as u8) as usize, &mut word);
            *n = u64::from_le_bytes(word);
        }
        let mut vec = [0; 16];
        for (v, n) in state.vecs.iter_mut().enumerate() {
            get(FRAME + vec_offset(v as u8) as usize, &mut vec);
            *n = u128::from_le_bytes(vec);
        }
        get(RAM, &mut state.ram);
        get(CTX + Context::LEFT as usize, &mut word);
        state.left = i64::from_le_bytes(word);
        get(CTX + Context::PC as usize, &mut word);
        state.pc = u64::from_le_bytes(word);
        code as u32
    }
}

/// What a region works on.
#[derive(Clone, Debug, PartialEq)]
struct State {
    ints: Vec<u64>,
    vecs: Vec<u128>,
    ram: Vec<u8>,
    left: i64,
    pc: u64,
}

/// How an op ended.
enum Flow {
    On,
    Fault,
    Restart,
    To(Label),
    Exit(u64),
    /// To a place behind an instruction that may have changed anything, and whether it is known.
    Leave(u64, bool),
    /// To a computed place.
    Jump(u64),
}

impl State {
    fn val(&self, v: Val) -> u64 {
        match v {
            Val::Var(v) => self.ints[usize::from(v.0)],
            Val::Imm(n) => n,
        }
    }

    fn cmp(&self, c: &Cmp) -> bool {
        c.cond.eval(c.w, self.val(c.a), self.val(c.b))
    }

    fn addr(&self, a: &Addr) -> u64 {
        let var = |v: Option<Var>| v.map_or(0, |v| self.ints[usize::from(v.0)]);
        let sum = var(a.base).wrapping_add(var(a.index) << a.scale).wrapping_add(a.disp as u64);
        (sum & a.wrap.mask()).wrapping_add(var(a.segment)) & a.lin.mask()
    }

    /// The result of a floating-point op where it may be done on the host.
    fn on_host(&self, op: FloatOp, a: VecVar, b: VecVar, imm: u8) -> Option<u128> {
        let (a, b) = (self.vecs[usize::from(a.0)], self.vecs[usize::from(b.0)]);
        let wrong = self.ints[60] & 0xff ^ 0x20;
        let fine = !op.guarded() || wrong == 0 || wrong == 0x20 && float::exact(op, a, b);
        if fine { float::host(op, a, b, imm) } else { None }
    }

    fn op(&mut self, op: &Op, kinds: &BTreeMap<u16, VecKind>) -> Flow {
        let mut set = None;
        match *op {
            Op::Mov { w, d, a } => set = Some((d, self.val(a) & w.mask())),
            Op::Bin { op, w, d, a, b } => {
                set = Some((d, eval_bin(op, w, self.val(a), self.val(b))));
            }
            Op::Un { op, w, d, a } => set = Some((d, eval_un(op, w, self.val(a)))),
            Op::Sext { from, to, d, a } => set = Some((d, from.sext(self.val(a)) & to.mask())),
            Op::Extract { d, a, pos, len } => set = Some((d, eval_extract(self.val(a), pos, len))),
            Op::Deposit { d, a, b, pos, len } => {
                set = Some((d, eval_deposit(self.val(a), self.val(b), pos, len)));
            }
            Op::Set { d, cmp } => set = Some((d, self.cmp(&cmp).into())),
            Op::Select { w, d, cmp, x, y } => {
                let v = if self.cmp(&cmp) { x } else { y };
                set = Some((d, self.val(v) & w.mask()));
            }
            Op::Lea { d, addr } => set = Some((d, self.addr(&addr))),
            Op::Load { w, d, addr, .. } | Op::LoadSext { w, d, addr, .. } => {
                let at = self.addr(&addr);
                if faults(at, w.bytes().into()) {
                    return Flow::Fault;
                }
                let mut bytes = [0; 8];
                let n = w.bytes() as usize;
                bytes[..n].copy_from_slice(&self.ram[at as usize..at as usize + n]);
                let v = u64::from_le_bytes(bytes);
                set = Some((
                    d,
                    match *op {
                        Op::LoadSext { to, .. } => w.sext(v) & to.mask(),
                        _ => v,
                    },
                ));
            }
            Op::Store { w, a, addr, .. } => {
                let at = self.addr(&addr);
                if faults(at, w.bytes().into()) {
                    return Flow::Fault;
                }
                let n = w.bytes() as usize;
                let bytes = self.val(a).to_le_bytes();
                self.ram[at as usize..at as usize + n].copy_from_slice(&bytes[..n]);
            }
            Op::Probe { size, addr, .. } => {
                if faults(self.addr(&addr), size.into()) {
                    return Flow::Fault;
                }
            }
            Op::VMov { d, a } => self.vecs[usize::from(d.0)] = self.vecs[usize::from(a.0)],
            Op::VConst { d, value } => self.vecs[usize::from(d.0)] = value,
            Op::VLoad { size, d, addr, .. } => {
                let (at, n) = (self.addr(&addr), usize::from(size));
                if faults(at, n as u64) {
                    return Flow::Fault;
                }
                let mut bytes = [0; 16];
                bytes[..n].copy_from_slice(&self.ram[at as usize..at as usize + n]);
                self.vecs[usize::from(d.0)] = u128::from_le_bytes(bytes);
            }
            Op::VStore { size, a, addr, .. } => {
                let (at, n) = (self.addr(&addr), usize::from(size));
                if faults(at, n as u64) {
                    return Flow::Fault;
                }
                let bytes = self.vecs[usize::from(a.0)].to_le_bytes();
                self.ram[at as usize..at as usize + n].copy_from_slice(&bytes[..n]);
            }
            Op::VGet { w, d, a, lane } => {
                let v = self.vecs[usize::from(a.0)] >> (u32::from(lane) * w.bits());
                set = Some((d, v as u64 & w.mask()));
            }
            Op::VPut { w, d, a, lane } => {
                let at = u32::from(lane) * w.bits();
                let v = u128::from(self.val(a) & w.mask()) << at;
                let d = &mut self.vecs[usize::from(d.0)];
                *d = *d & !(u128::from(w.mask()) << at) | v;
            }
            Op::VecOp { kind, d, a, b, imm } => {
                let (a, b) = (self.vecs[usize::from(a.0)], self.vecs[usize::from(b.0)]);
                self.vecs[usize::from(d.0)] = match kinds.get(&kind) {
                    Some(known) => known.eval(a, b, imm),
                    None => vec_op(kind, a, b, imm),
                };
            }
            Op::Float { op, d, a, b, imm, kind, .. } => {
                let (x, y) = (self.vecs[usize::from(a.0)], self.vecs[usize::from(b.0)]);
                let done = self.on_host(op, a, b, imm);
                self.vecs[usize::from(d.0)] =
                    done.unwrap_or_else(|| fallback(kind.into(), x, y, imm.into()));
            }
            Op::FloatInt { op, d, a, b, kind, .. } => {
                let done = self.on_host(op, a, b, 0);
                set = Some((d, done.map_or(kind.into(), |v| v as u64)));
            }
            Op::Pure { f, d, args } => {
                set = Some((d, pure(f.into(), &args.map(|a| self.val(a)))));
            }
            Op::Quick { f, d, args } => {
                let args = args.map(|a| self.val(a));
                match quick([args[0], args[1], args[2], args[3]]) {
                    DECLINED => return Flow::Restart,
                    v if f == QUICK => set = Some((d, v)),
                    _ => return Flow::Restart,
                }
            }
            Op::Call { d, args, .. } => {
                let args = args.map(|a| self.val(a));
                let v = helper(&mut self.ints, &args);
                set = d.map(|d| (d, v));
            }
            Op::Jump { label } => return Flow::To(label),
            Op::Branch { cmp, label } if self.cmp(&cmp) => return Flow::To(label),
            Op::TrapIf { cmp, .. } if self.cmp(&cmp) => return Flow::Fault,
            Op::Trap { .. } => return Flow::Fault,
            Op::ExitIf { cmp, pc } if self.cmp(&cmp) => return Flow::Exit(pc),
            Op::Goto { pc } => return Flow::Exit(pc),
            Op::GotoVar { pc: Val::Var(v) } => return Flow::Jump(self.val(v.into())),
            Op::GotoVar { pc } => return Flow::Exit(self.val(pc)),
            Op::Leave { pc: Val::Imm(pc) } => return Flow::Leave(pc, true),
            Op::Leave { pc } => return Flow::Leave(self.val(pc), false),
            _ => {}
        }
        if let Some((d, v)) = set {
            self.ints[usize::from(d.0)] = v;
        }
        Flow::On
    }

    /// Runs a region as it is meant.
    fn run(&mut self, region: &Region) -> u32 {
        let budget = flow::budget(region);
        let mut at = region.gate_at(self.pc).map_or(0, |n| region.gates[n]);
        let mut look = true;
        'block: loop {
            let block = &region.blocks[at];
            if look && self.left < budget.need[at].into() {
                self.pc = block.pc;
                return stop::LOOKUP;
            }
            let mut i = 0;
            let mut here = block.pc;
            self.left += 1;
            loop {
                let op = &block.ops[i];
                if let Op::Insn { pc, .. } = *op {
                    here = pc;
                    self.left -= 1;
                }
                i += 1;
                match self.op(op, &region.kinds) {
                    Flow::On => {}
                    Flow::To(label) => {
                        i += block.ops[i..]
                            .iter()
                            .position(|o| *o == Op::Label { label })
                            .expect("forward");
                    }
                    Flow::Fault => {
                        self.pc = here;
                        return stop::FAULT;
                    }
                    Flow::Restart => {
                        self.pc = here;
                        return stop::RESTART;
                    }
                    Flow::Jump(pc) => {
                        self.left -= 1;
                        self.pc = pc;
                        match region.block_at(pc).filter(|to| region.returns.contains(to)) {
                            Some(to) => {
                                (at, look) = (to, budget.look[to]);
                                continue 'block;
                            }
                            None => return stop::LOOKUP,
                        }
                    }
                    Flow::Exit(pc) => {
                        self.left -= 1;
                        self.pc = pc;
                        let Some(to) = region.block_at(pc) else { return stop::LOOKUP };
                        (at, look) = (to, budget.look[to]);
                        continue 'block;
                    }
                    Flow::Leave(pc, known) => {
                        self.left -= 1;
                        self.pc = pc;
                        match (resumes(self.left), region.block_at(pc)) {
                            (resume::HERE, Some(to)) if known => {
                                (at, look) = (to, budget.look[to]);
                                continue 'block;
                            }
                            (resume::LEAVE, _) => return stop::LEAVE,
                            _ => return stop::LOOKUP,
                        }
                    }
                }
            }
        }
    }
}

/// Makes up ops.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 11) % n
    }

    fn width(&mut self) -> Width {
        [Width::W8, Width::W16, Width::W32, Width::W64][self.below(4) as usize]
    }

    /// A guest variable that is read.
    fn guest(&mut self) -> Var {
        Var(self.below(8) as u8)
    }

    fn number(&mut self) -> u64 {
        let n = self.next();
        match self.below(6) {
            0 => 0,
            1 => n % 80,
            2 => u64::MAX - n % 3,
            3 => 1 << (n % 64),
            4 => n & 0xffff_ffff,
            _ => n,
        }
    }

    fn val(&mut self, temps: u8) -> Val {
        match self.below(5) {
            0 => Val::Imm(self.number()),
            1 | 2 if temps > 0 => Val::Var(Var(FIRST_TEMP + self.below(temps.into()) as u8)),
            _ => Val::Var(self.guest()),
        }
    }

    fn cmp(&mut self, temps: u8) -> Cmp {
        use Cond::*;
        let all = [Eq, Ne, LtU, LeU, GtU, GeU, LtS, LeS, GtS, GeS, TestZ, TestNz];
        let (cond, w) = (all[self.below(12) as usize], self.width());
        let a = self.val(temps);
        let b = if self.below(4) == 0 { a } else { self.val(temps) };
        Cmp { cond, w, a, b }
    }

    /// An address that is mostly in the pages there are: in variable 6, which holds one.
    fn addr(&mut self) -> Addr {
        let mut a = Addr::flat(Var(6));
        a.disp = self.below(64) as i64 - 8;
        match self.below(5) {
            0 => (a.index, a.scale) = (Some(Var(7)), self.below(4) as u8),
            1 => a.segment = Some(Var(7)),
            2 => a = Addr::fixed(self.below(PAGE * PAGES as u64)),
            _ => {}
        }
        a.wrap = [Width::W16, Width::W32, Width::W64][self.below(3) as usize];
        a.lin = [Width::W32, Width::W64][self.below(2) as usize];
        a
    }

    /// Numbers of both formats, special ones among them.
    fn vector(&mut self) -> u128 {
        let mut v = 0;
        if self.below(2) == 0 {
            for i in 0..2 {
                let n = self.next();
                let odd =
                    [0, 1, f64::MIN_POSITIVE.to_bits(), f64::INFINITY.to_bits(), u64::MAX >> 1];
                let bits = match self.below(4) {
                    0 => odd[self.below(5) as usize] | n << 63,
                    1 => n,
                    _ => ((n as i32 as f64) / 4.0).to_bits(),
                };
                v |= u128::from(bits) << (64 * i);
            }
        } else {
            for i in 0..4 {
                let n = self.next() as u32;
                let odd =
                    [0, 1, f32::MIN_POSITIVE.to_bits(), f32::INFINITY.to_bits(), u32::MAX >> 1];
                let bits = match self.below(4) {
                    0 => odd[self.below(5) as usize] | n << 31,
                    1 => n,
                    _ => ((n as i16 as f32) / 4.0).to_bits(),
                };
                v |= u128::from(bits) << (32 * i);
            }
        }
        v
    }

    fn vec(&mut self) -> VecVar {
        VecVar(if self.below(3) == 0 { FIRST_VTEMP } else { self.below(4) as u8 })
    }

    /// An op that writes `d` and cannot fault.
    fn compute(&mut self, d: Var, temps: u8) -> Op {
        use BinOp::*;
        let bins = [
            Add, Sub, Mul, MulHiU, MulHiS, DivU, RemU, DivS, RemS, And, Or, Xor, AndNot, Shl, Shr,
            Sar, Rol, Ror,
        ];
        let uns = [UnOp::Neg, UnOp::Not, UnOp::Bswap, UnOp::Clz, UnOp::Ctz, UnOp::Popcnt];
        let w = self.width();
        let a = self.val(temps);
        match self.below(16) {
            0 => Op::Mov { w, d, a },
            1 => Op::Un { op: uns[self.below(6) as usize], w, d, a },
            2 => {
                let to = self.width();
                Op::Sext { from: w.min(to), to: w.max(to), d, a }
            }
            3 => {
                let pos = self.below(64) as u8;
                Op::Extract { d, a, pos, len: 1 + self.below(u64::from(64 - pos)) as u8 }
            }
            4 => {
                let pos = self.below(64) as u8;
                let len = 1 + self.below(u64::from(64 - pos)) as u8;
                Op::Deposit { d, a, b: self.val(temps), pos, len }
            }
            5 => Op::Set { d, cmp: self.cmp(temps) },
            6 => Op::Select { w, d, cmp: self.cmp(temps), x: a, y: self.val(temps) },
            7 => {
                let mut addr = self.addr();
                addr.base = Some(self.guest());
                Op::Lea { d, addr }
            }
            8 => {
                let w = self.width();
                let lane = self.below(u64::from(16 / w.bytes())) as u8;
                Op::VGet { w, d, a: VecVar(self.below(4) as u8), lane }
            }
            9 => Op::Pure {
                f: self.below(99) as u16,
                d,
                args: std::array::from_fn(|_| self.val(temps)),
            },
            _ => {
                let op = bins[self.below(18) as usize];
                Op::Bin { op, w, d, a, b: self.val(temps) }
            }
        }
    }

    fn insn(&mut self, pc: u64, ops: &mut Vec<Op>, label: &mut u16) {
        ops.push(Op::Insn { pc, len: 1 });
        let mut temps = 0;
        let fresh = |temps: &mut u8| {
            *temps += 1;
            Var(FIRST_TEMP + *temps - 1)
        };
        let mem = Mem::plain(MMU);
        if self.below(3) == 0 {
            let addr = self.addr();
            let w = self.width();
            match self.below(8) {
                0 => {
                    let d = fresh(&mut temps);
                    let to = self.width();
                    ops.push(Op::LoadSext { w: w.min(to), to: w.max(to), d, addr, mem });
                }
                1 => ops.push(Op::Store { w, a: self.val(temps), addr, mem }),
                2 => {
                    // A read-modify-write.
                    let mem = Mem::rmw(MMU);
                    let d = fresh(&mut temps);
                    ops.push(Op::Load { w, d, addr, mem });
                    let d = fresh(&mut temps);
                    ops.push(self.compute(d, temps - 1));
                    ops.push(Op::Store { w, a: d.into(), addr, mem });
                }
                3 => ops.push(Op::Probe { size: 1 + self.below(64) as u16, addr, mem }),
                4 => {
                    let size = 1 << self.below(5);
                    ops.push(Op::VLoad { size, d: VecVar(FIRST_VTEMP + 1), addr, mem });
                    ops.push(Op::VMov { d: self.vec(), a: VecVar(FIRST_VTEMP + 1) });
                }
                5 => ops.push(Op::VStore { size: 1 << self.below(5), a: VecVar(1), addr, mem }),
                _ => {
                    let d = fresh(&mut temps);
                    ops.push(Op::Load { w, d, addr, mem });
                }
            }
        }
        for _ in 0..self.below(3) {
            let d = fresh(&mut temps);
            ops.push(self.compute(d, temps - 1));
        }
        match self.below(12) {
            0 => ops.push(Op::TrapIf { cmp: self.cmp(temps), id: 3, arg: self.val(temps) }),
            1 => {
                let l = Label(*label);
                *label += 1;
                ops.push(Op::Branch { cmp: self.cmp(temps), label: l });
                ops.push(self.guest_op(temps));
                if self.below(2) == 0 {
                    let fx = Fx::READS | Fx::WRITES;
                    let args = std::array::from_fn(|_| self.val(temps));
                    ops.push(Op::Call { f: 4, d: None, args, fx });
                }
                ops.push(Op::Label { label: l });
            }
            2 => {
                let (d, a) = (VecVar(self.below(4) as u8), VecVar(self.below(4) as u8));
                let (b, imm) = (VecVar(self.below(4) as u8), self.below(128) as u8);
                ops.push(Op::VecOp { kind: self.below(10) as u16, d, a, b, imm });
            }
            3 => {
                let w = self.width();
                let lane = self.below(u64::from(16 / w.bytes())) as u8;
                let d = VecVar(self.below(4) as u8);
                ops.push(Op::VPut { w, d, a: self.val(temps), lane });
            }
            5 | 6 => {
                let (op, _) = FloatOp::ALL[self.below(FloatOp::ALL.len() as u64) as usize];
                let (a, b) = (VecVar(self.below(4) as u8), VecVar(self.below(4) as u8));
                let (d, imm) = (VecVar(self.below(4) as u8), self.below(8) as u8);
                let (f, kind) = (FLOAT, self.below(99) as u16);
                ops.push(match op {
                    FloatOp::Order(..) | FloatOp::ToInt(..) => {
                        let v = VecVar(FIRST_VTEMP + 2);
                        Op::FloatInt { op, d: fresh(&mut temps), v, a, b, f, kind }
                    }
                    _ => Op::Float { op, d, a, b, imm, f, kind },
                });
            }
            7 | 8 => {
                let f = if self.below(16) == 0 { QUICK + 1 } else { QUICK };
                let args = std::array::from_fn(|_| self.val(temps));
                ops.push(Op::Quick { f, d: fresh(&mut temps), args });
            }
            4 => ops.push(Op::VConst { d: VecVar(2), value: u128::from(self.next()) << 33 }),
            _ => {}
        }
        if self.below(4) > 0 {
            ops.push(self.guest_op(temps));
        }
    }

    /// Writes a guest variable; the narrow ones with nothing above their 32 bits.
    fn guest_op(&mut self, temps: u8) -> Op {
        let d = Var(self.below(6) as u8);
        if d.0 >= 4 {
            return Op::Mov { w: Width::W32, d, a: self.val(temps) };
        }
        self.compute(d, temps)
    }
}

/// Variables 4 to 7 are of 32 bits.
fn bits() -> [u8; FIRST_TEMP as usize] {
    std::array::from_fn(|v| if (4..8).contains(&v) { 32 } else { 64 })
}

fn state(r: &mut Random) -> State {
    let mut s = State {
        ints: (0..256).map(|_| r.number()).collect(),
        vecs: (0..64).map(|_| r.vector()).collect(),
        ram: (0..PAGES * PAGE as usize).map(|_| r.next() as u8).collect(),
        left: 10 + r.below(200) as i64,
        pc: 0,
    };
    for v in 4..8 {
        s.ints[v] &= 0xffff_ffff;
    }
    s.ints[60] = 0x1000 + r.below(3) / 2 * 0x40 + r.below(3).min(1) * 0x20;
    s.ints[6] = r.below(PAGE * PAGES as u64 - 64) & !r.below(9);
    s.ints[7] = r.below(64);
    s
}

/// Every named vector operation of every width that vectors are divided into.
fn vec_kinds() -> Vec<VecKind> {
    use VecKind::*;
    let mut all = vec![
        Move,
        HighToLow,
        And,
        AndNot,
        Or,
        Xor,
        MulHighS,
        MulHighU,
        MulWideU,
        MulAdd,
        ShlBytes,
        ShrBytes,
        Shuffle,
        ShuffleLow,
        ShuffleHigh,
        ShuffleTwo,
        ShuffleTwo64,
        ShuffleBytes,
    ];
    for w in [Width::W8, Width::W16, Width::W32, Width::W64] {
        all.extend([MoveLow(w), Low(w), Add(w), Sub(w), Equal(w), GreaterS(w), ShlImm(w)]);
        all.extend([ShrImm(w), SarImm(w), UnpackLow(w), UnpackHigh(w), SignBits(w)]);
        if w < Width::W64 {
            all.extend([MinU(w), MinS(w), MaxU(w), MaxS(w)]);
        }
        if w > Width::W8 {
            all.push(Mul(w));
        }
        if w <= Width::W16 {
            all.extend([AddSatS(w), AddSatU(w), SubSatS(w), SubSatU(w), Average(w)]);
        }
        if w == Width::W16 || w == Width::W32 {
            all.extend([PackS(w), PackU(w)]);
        }
    }
    all
}

#[test]
fn every_named_vector_operation_gives_what_its_definition_gives() {
    let mut wasm = Wasm::new();
    let mut r = Random(5);
    for known in vec_kinds() {
        let mut ops = vec![Op::Insn { pc: 0, len: 1 }];
        for (d, imm) in [(2, 0), (3, 3), (4, 0x1b), (5, 15), (6, 31), (7, 0xe4)] {
            let (d, a, b) = (VecVar(d), VecVar(0), VecVar(1));
            ops.push(Op::VecOp { kind: 1, d, a, b, imm });
        }
        ops.push(Op::Goto { pc: 99 });
        let block = RBlock { pc: 0, page: 0, insns: 1, ops, dirty_in: 0 };
        let mut region = Region::of_blocks(bits(), vec![block]);
        region.kinds.insert(1, known);
        for _ in 0..8 {
            compare(&mut wasm, &region, &state(&mut r));
        }
    }
}

#[test]
fn every_floating_point_operation_gives_what_its_definition_gives() {
    let mut wasm = Wasm::new();
    let mut r = Random(17);
    for &(op, _) in FloatOp::ALL {
        let mut ops = vec![Op::Insn { pc: 0, len: 1 }];
        for imm in 0..8 {
            let (a, b) = (VecVar(0), VecVar(1));
            ops.push(match op {
                FloatOp::Order(..) | FloatOp::ToInt(..) => {
                    let (d, v) = (Var(8 + imm), VecVar(FIRST_VTEMP));
                    Op::FloatInt { op, d, v, a, b, f: FLOAT, kind: 9 }
                }
                _ => Op::Float { op, d: VecVar(2 + imm), a, b, imm, f: FLOAT, kind: 9 },
            });
        }
        ops.push(Op::Goto { pc: 99 });
        let block = RBlock { pc: 0, page: 0, insns: 1, ops, dirty_in: 0 };
        let region = Region::of_blocks(bits(), vec![block]);
        for _ in 0..200 {
            compare(&mut wasm, &region, &state(&mut r));
        }
    }
}

fn compare(wasm: &mut Wasm, region: &Region, before: &State) {
    compare_all(wasm, &[region], before);
}

/// Runs the first region and, where there are several, goes on in the others.
fn compare_all(wasm: &mut Wasm, regions: &[&Region], before: &State) {
    let (mut want, mut got) = (before.clone(), before.clone());
    let mut why = want.run(regions[0]);
    if regions.len() > 1 {
        while why == stop::LOOKUP
            && let Some(next) = regions.iter().find(|r| r.pc() == want.pc)
            && want.left >= flow::budget(next).need[0].into()
        {
            why = want.run(next);
        }
    }
    let stopped = wasm.run(regions, &mut got);
    let ops = || {
        let blocks = regions.iter().flat_map(|r| &r.blocks);
        let all: Vec<_> = blocks.map(|b| crate::ir::text::dump(&b.ops)).collect();
        all.join("--\n")
    };
    assert_eq!((stopped, got.pc, got.left), (why, want.pc, want.left), "{}", ops());
    let guest = usize::from(FIRST_TEMP);
    for v in 0..guest {
        assert_eq!(
            got.ints[v],
            want.ints[v],
            "v{v}, from {:x} of {:?}, {:x?}\n{}",
            before.pc,
            regions[0].gates,
            &before.ints[..8],
            ops()
        );
    }
    for v in 0..usize::from(FIRST_VTEMP) {
        let kinds = &regions[0].kinds;
        assert_eq!(got.vecs[v], want.vecs[v], "x{v} {kinds:?}\n{}", ops());
    }
    assert!(got.ram == want.ram, "memory\n{}", ops());
}

#[test]
fn every_integer_operation_of_every_width_gives_what_the_interpreter_gives() {
    use BinOp::*;
    let bins = [
        Add, Sub, Mul, MulHiU, MulHiS, DivU, RemU, DivS, RemS, And, Or, Xor, AndNot, Shl, Shr, Sar,
        Rol, Ror,
    ];
    let numbers: [u64; 12] =
        [0, 1, 7, 8, 31, 32, 0x80, 0xff80, 0x8000_0000, 0xffff_ffff, 1 << 63, u64::MAX];
    let mut wasm = Wasm::new();
    let mut r = Random(99);
    for op in bins {
        for w in [Width::W8, Width::W16, Width::W32, Width::W64] {
            let mut ops = vec![Op::Insn { pc: 0, len: 1 }];
            let right = [Val::Var(Var(1)), Val::Imm(3), Val::Imm(40), Val::Imm(u64::MAX)];
            for (d, b) in (8..).zip(right) {
                ops.push(Op::Bin { op, w, d: Var(d), a: Var(0).into(), b });
            }
            ops.push(Op::Goto { pc: 99 });
            let block = RBlock { pc: 0, page: 0, insns: 1, ops, dirty_in: 0 };
            let region = Region::of_blocks(bits(), vec![block]);
            let mut s = state(&mut r);
            for a in numbers {
                let b = numbers[r.below(12) as usize];
                (s.ints[0], s.ints[1]) = (a, b);
                compare(&mut wasm, &region, &s);
                (s.ints[0], s.ints[1]) = (b, a);
                compare(&mut wasm, &region, &s);
            }
        }
    }
}

/// A region of blocks from `base` on that go to each other, to `other` or elsewhere.
fn random_region(r: &mut Random, base: u64, other: u64) -> Region {
    let n = 1 + r.below(6);
    let mut blocks = Vec::new();
    let to = |r: &mut Random| match r.below(n + 2) {
        n2 if n2 == n + 1 => other,
        b => base + b * 64,
    };
    for b in 0..n {
        let (pc, mut ops, mut label) = (base + b * 64, Vec::new(), 0);
        let insns = 1 + r.below(8);
        for k in 0..insns {
            r.insn(pc + k, &mut ops, &mut label);
            if r.below(4) == 0 {
                ops.push(Op::ExitIf { cmp: r.cmp(0), pc: to(r) });
            }
        }
        ops.push(match r.below(8) {
            0 => Op::GotoVar { pc: r.val(0) },
            1 => Op::GotoVar { pc: Var(7).into() },
            2 if r.below(2) == 0 => Op::Leave { pc: r.val(0) },
            2 => Op::Leave { pc: to(r).into() },
            3 => Op::Trap { id: 1, arg: r.val(0) },
            _ => Op::Goto { pc: to(r) },
        });
        blocks.push(RBlock { pc, page: 0, insns: insns as u32, ops, dirty_in: 0 });
    }
    let mut region = Region::of_blocks(bits(), blocks);
    if r.below(2) == 0 {
        region.returns = (0..region.blocks.len()).collect();
        flow::dirty(&mut region);
    }
    for kind in 0..8 {
        let all = vec_kinds();
        let known = all[r.below(all.len() as u64) as usize];
        region.kinds.insert(kind, known);
    }
    region
}

#[test]
fn random_regions_end_in_the_state_that_a_plain_reading_of_their_ops_gives() {
    let mut wasm = Wasm::new();
    let mut stops = BTreeMap::new();
    for seed in 1..1500u64 {
        let mut r = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let region = random_region(&mut r, 0, 0x4000);
        let mut s = state(&mut r);
        s.ints[7] &= !r.below(64);
        compare(&mut wasm, &region, &s);
        *stops.entry(s.clone().run(&region)).or_insert(0) += 1;
    }
    // All kinds of stops were among them.
    assert!(stops.len() >= 3, "{stops:?}");
}

#[test]
fn regions_entered_at_any_of_their_gates_end_in_the_same_state() {
    let mut wasm = Wasm::new();
    let mut several = 0;
    for seed in 1..1500u64 {
        let mut r = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut region = random_region(&mut r, 0, 0x4000);
        region.gates = (1..region.blocks.len()).filter(|_| r.below(2) == 0).collect();
        several += usize::from(region.gates.len() > 1);
        let mut s = state(&mut r);
        s.ints[7] &= !r.below(64);
        for n in 0..region.blocks.len() {
            s.pc = region.blocks[n].pc;
            compare(&mut wasm, &region, &s);
        }
    }
    assert!(several > 300, "{several}");
}

#[test]
fn regions_that_go_on_in_one_another_end_in_the_same_state() {
    let mut wasm = Wasm::new();
    for seed in 1..600u64 {
        let mut r = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let first = random_region(&mut r, 0, 0x4000);
        let second = random_region(&mut r, 0x4000, 0);
        let mut s = state(&mut r);
        s.ints[7] &= !r.below(64);
        compare_all(&mut wasm, &[&first, &second], &s);
    }
}
