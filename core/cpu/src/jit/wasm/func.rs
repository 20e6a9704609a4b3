//! One region as the body of a function: locals, control flow, ways out.

use wasm_encoder::{
    BlockType, BranchHint, Function, InstructionSink, MemArg, MemArgTarget, ValType,
};

use super::float::Fallback;
use super::graph::Graph;
use super::{Slots, Type};
use crate::frame::{FIRST_TEMP, FIRST_VTEMP, INTS, VECS, Var, VecVar};
use crate::ir::{Addr, Args, DECLINED, FloatOp, Fx, Label, Mem, Op, Val, Width, opt};
use crate::jit::abi::{Context, LINKS, Link, int_offset, resume, stop, vec_offset};
use crate::region::spans::{Group, Span, spans};
use crate::region::{Region, flow};

/// Most places a computed jump is compared with before it leaves the region.
const MOST_RETURNS: usize = 8;

/// The body of a region's function, which of its branches are (not) taken as a rule, and where it looks at the budget.
pub(super) fn body(region: &Region, shims: &Slots) -> (Function, Vec<BranchHint>, flow::Budget) {
    let mut f = Func::new(region, shims);
    f.enter();
    f.tree(f.graph.root);
    f.leave();
    f.finish()
}

/// The bodies of the ways into a region with gates, whose function is `body`: at its first block, then at each gate. The
/// place is told in [`Context::status`].
pub(super) fn ways_in(region: &Region, need: &[u32], body: u32, shims: &Slots) -> Vec<Function> {
    let way = |(state, block): (usize, usize)| {
        let mut f = Function::new([]);
        f.instructions()
            .local_get(CTX)
            .i64_load(field(Context::LEFT, 3))
            .i64_const(need[block].into())
            .i64_lt_s()
            .if_(BlockType::Empty)
            .local_get(CTX)
            .i64_const(region.blocks[block].pc as i64)
            .i64_store(field(Context::PC, 3))
            .i32_const(stop::LOOKUP as i32)
            .return_()
            .end()
            .local_get(CTX)
            .i32_const(state as i32)
            .i32_store(field(Context::STATUS, 2))
            .local_get(CTX);
        if shims.tail_calls {
            f.instructions().return_call(body).end();
        } else {
            f.instructions().call(body).end();
        }
        f
    };
    [0].into_iter().chain(region.gates.iter().copied()).enumerate().map(way).collect()
}

/// The body of the function that goes on at a program counter: in the region that is linked there, or
/// in the runtime.
pub(super) fn go_on() -> Function {
    let mut f = Function::new([(1, ValType::I32)]);
    let (ctx, pc, link) = (0, 1, 2);
    f.instructions()
        .local_get(pc)
        .local_get(pc)
        .i64_const(12)
        .i64_shr_u()
        .i64_xor()
        .i32_wrap_i64()
        .i32_const(LINKS as i32 - 1)
        .i32_and()
        .i32_const(size_of::<Link>().trailing_zeros() as i32)
        .i32_shl()
        .local_get(ctx)
        .i32_load(field(Context::LINKS, 2))
        .i32_add()
        .local_tee(link)
        .i64_load(field(Link::PC, 3))
        .local_get(pc)
        .i64_eq()
        .local_get(link)
        .i64_load(field(Link::TAG, 3))
        .local_get(ctx)
        .i64_load(field(Context::TAG, 3))
        .i64_eq()
        .i32_and()
        .if_(BlockType::Empty)
        .local_get(ctx)
        .i32_const(-1)
        .i32_store(field(Context::PAGES, 2))
        .local_get(ctx)
        .local_get(link)
        .i32_load(field(Link::REGION, 2))
        .i32_store(field(Context::REGION, 2))
        .local_get(ctx)
        .local_get(link)
        .i32_load(field(Link::CODE, 2))
        .return_call_indirect(0, Type::Entry as u32)
        .end()
        .local_get(ctx)
        .local_get(pc)
        .i64_store(field(Context::PC, 3))
        .i32_const(stop::LOOKUP as i32)
        .end();
    f
}

/// How an integer is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Ty {
    I32,
    I64,
}

impl Ty {
    pub(super) fn of_bits(bits: u32) -> Self {
        if bits <= 32 { Self::I32 } else { Self::I64 }
    }

    pub(super) fn of(w: Width) -> Self {
        Self::of_bits(w.bits())
    }

    pub(super) fn val_type(self) -> ValType {
        match self {
            Self::I32 => ValType::I32,
            Self::I64 => ValType::I64,
        }
    }
}

/// What is open around the code being written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    /// The loop that begins at a node.
    Loop(usize),
    /// Leaving it leads to a node.
    Block(usize),
    /// Leaving it leads to a label of the instruction.
    Label(Label),
    /// Leaving it stops the region.
    Cold,
    /// Nothing leaves it.
    Other,
}

/// The host address found by the load of a read-modify-write, for its store.
pub(super) struct Rmw {
    pub(super) addr: Addr,
    pub(super) mem: Mem,
    pub(super) bytes: u32,
    /// Local with the host address, 0 if it is not known.
    pub(super) host: u32,
}

/// Locals that are always there; the first is the parameter.
pub(super) const CTX: u32 = 0;
pub(super) const LEFT: u32 = 1;
pub(super) const FRAME: u32 = 2;
pub(super) const TLB: u32 = 3;
const PAGES: u32 = 4;
const PC: u32 = 5;
const BACK: u32 = 6;
pub(super) const STOP: u32 = 7;
const STATE: u32 = 8;
/// Whether floating-point operations that depend on rounding may be done here, and whether those
/// may whose result is exact.
pub(super) const GUARD: u32 = 9;
pub(super) const EXACT: u32 = 10;
const FIRST: [ValType; 10] = {
    use ValType::{I32, I64};
    [I64, I32, I32, I32, I64, I64, I32, I32, I32, I32]
};

pub(super) struct Func<'a> {
    pub(super) region: &'a Region,
    pub(super) shims: &'a Slots,
    graph: Graph,
    /// Where the budget is looked at.
    budget: flow::Budget,
    pub(super) code: Vec<u8>,
    /// Positions of conditional branches and whether they are taken.
    hints: Vec<(usize, bool)>,
    /// Types of all locals but the parameter.
    locals: Vec<ValType>,
    scopes: Vec<Scope>,
    /// Locals of variables, and how they are held.
    ints: [Option<u32>; INTS],
    /// The other type's local of each temporary.
    other: [Option<u32>; INTS],
    types: [Ty; INTS],
    vecs: [Option<u32>; VECS],
    /// Guest variables written somewhere.
    written: u64,
    vwritten: u64,
    /// Guest variables that may differ from the frame here.
    dirty: u64,
    /// Those that might where a branch of this instruction was.
    skipped: u64,
    /// There are floating-point operations.
    floats: bool,
    /// Vector variables that are the same in the frame here.
    pub(super) vclean: u64,
    /// At most so many low bits of each variable are not zero here.
    bits: [u8; INTS],
    scratch: Vec<(u32, ValType)>,
    /// The block being written, and the number of its instruction from 1.
    block: usize,
    k: u32,
    /// Where the current instruction begins.
    insn_pc: u64,
    pub(super) rmw: Option<Rmw>,
    /// Groups of accesses of the block being written, accesses in them, and the locals with the host address
    /// of each group's lowest byte, 0 where it is not known.
    pub(super) groups: Vec<Group>,
    spans: Vec<Span>,
    near: Vec<u32>,
    /// What the current operation is in its group.
    pub(super) span: Option<Span>,
}

impl<'a> Func<'a> {
    fn new(region: &'a Region, shims: &'a Slots) -> Self {
        let returns = &region.returns[..region.returns.len().min(MOST_RETURNS)];
        let succs = flow::ways(region, returns);
        let mut f = Self {
            region,
            shims,
            graph: Graph::new(&succs, &region.gates),
            budget: flow::budget(region),
            code: Vec::with_capacity(4096),
            hints: Vec::new(),
            locals: FIRST.to_vec(),
            scopes: Vec::new(),
            ints: [None; INTS],
            other: [None; INTS],
            types: [Ty::I64; INTS],
            vecs: [None; VECS],
            written: 0,
            vwritten: 0,
            dirty: 0,
            skipped: 0,
            floats: false,
            vclean: 0,
            bits: [64; INTS],
            scratch: Vec::new(),
            block: 0,
            k: 0,
            insn_pc: 0,
            rmw: None,
            groups: Vec::new(),
            spans: Vec::new(),
            near: Vec::new(),
            span: None,
        };
        f.variables();
        f
    }

    /// Gives every variable that is used a local.
    fn variables(&mut self) {
        let mut used = 0u64;
        let mut vused = 0u64;
        let region = self.region;
        for op in region.blocks.iter().flat_map(|b| &b.ops) {
            opt::reads(op, &mut |v| used |= flow::bit(v));
            if let Some(d) = op.dest() {
                self.written |= flow::bit(d);
            }
            self.floats |= matches!(op, Op::Float { .. } | Op::FloatInt { .. });
            let (d, sources) = vectors(op);
            for v in sources.into_iter().flatten() {
                vused |= 1 << v.0;
            }
            if let Some(d) = d {
                vused |= 1 << d.0;
                self.vwritten |= 1 << d.0;
            }
        }
        used |= self.written;
        self.vwritten &= (1 << FIRST_VTEMP) - 1;
        for v in 0..FIRST_TEMP {
            let at = usize::from(v);
            self.types[at] = Ty::of_bits(region.bits[at].into());
            if used >> v & 1 != 0 {
                self.ints[at] = Some(self.local(self.types[at].val_type()));
            }
        }
        for v in 0..VECS {
            if vused >> v & 1 != 0 {
                self.vecs[v] = Some(self.local(ValType::V128));
            }
        }
    }

    // Writing.

    pub(super) fn i(&mut self) -> InstructionSink<'_> {
        InstructionSink::new(&mut self.code)
    }

    pub(super) fn local(&mut self, ty: ValType) -> u32 {
        self.locals.push(ty);
        self.locals.len() as u32
    }

    /// The scratch local of a type with this number.
    pub(super) fn scratch(&mut self, n: u32, ty: ValType) -> u32 {
        let found = self.scratch.iter().filter(|s| s.1 == ty).nth(n as usize);
        if let Some(s) = found {
            return s.0;
        }
        let mut last = 0;
        let have = self.scratch.iter().filter(|s| s.1 == ty).count() as u32;
        for _ in have..=n {
            last = self.local(ty);
            self.scratch.push((last, ty));
        }
        last
    }

    /// `if`, with what the condition mostly is.
    pub(super) fn if_(&mut self, ty: BlockType, mostly: bool) {
        self.hints.push((self.code.len(), mostly));
        self.plain_if(ty);
    }

    pub(super) fn plain_if(&mut self, ty: BlockType) {
        self.i().if_(ty);
        self.scopes.push(Scope::Other);
    }

    pub(super) fn else_(&mut self) {
        self.i().else_();
    }

    pub(super) fn end(&mut self) {
        self.i().end();
        self.scopes.pop();
    }

    fn open(&mut self, scope: Scope) {
        match scope {
            Scope::Loop(_) => self.i().loop_(BlockType::Empty),
            _ => self.i().block(BlockType::Empty),
        };
        self.scopes.push(scope);
    }

    /// How many scopes a branch to this one leaves.
    fn depth(&self, scope: Scope) -> u32 {
        let at = self.scopes.iter().rposition(|&s| s == scope);
        (self.scopes.len() - 1 - at.unwrap_or_else(|| unreachable!("ways lead to open scopes")))
            as u32
    }

    fn br(&mut self, scope: Scope) {
        let depth = self.depth(scope);
        self.i().br(depth);
    }

    pub(super) fn const_(&mut self, ty: Ty, n: u64) {
        match ty {
            Ty::I32 => self.i().i32_const(n as u32 as i32),
            Ty::I64 => self.i().i64_const(n as i64),
        };
    }

    // Variables.

    pub(super) fn bits_of(&self, v: Val) -> u32 {
        match v {
            Val::Var(v) => self.bits[usize::from(v.0)].into(),
            Val::Imm(n) => 64 - n.leading_zeros(),
        }
    }

    /// The local with a group's host address.
    pub(super) fn near(&mut self, group: usize) -> u32 {
        while self.near.len() <= group {
            let local = self.local(ValType::I32);
            self.near.push(local);
        }
        self.near[group]
    }

    /// How a variable is held.
    pub(super) fn ty(&self, v: Val) -> Ty {
        match v {
            Val::Var(v) => self.types[usize::from(v.0)],
            Val::Imm(n) => Ty::of_bits(64 - n.leading_zeros()),
        }
    }

    fn int_local(&mut self, v: Var) -> u32 {
        let at = usize::from(v.0);
        if let Some(local) = self.ints[at] {
            return local;
        }
        let local = self.local(self.types[at].val_type());
        self.ints[at] = Some(local);
        local
    }

    /// The value of an operand: its low 32 bits, or all of it.
    pub(super) fn get(&mut self, ty: Ty, v: Val) {
        match v {
            Val::Imm(n) => self.const_(ty, n),
            Val::Var(var) => {
                let local = self.int_local(var);
                self.i().local_get(local);
                self.convert(self.ty(v), ty);
            }
        }
    }

    /// Makes a value on the stack one of another type, zero-extended.
    pub(super) fn convert(&mut self, from: Ty, to: Ty) {
        match (from, to) {
            (Ty::I32, Ty::I64) => {
                self.i().i64_extend_i32_u();
            }
            (Ty::I64, Ty::I32) => {
                self.i().i32_wrap_i64();
            }
            _ => {}
        }
    }

    /// `d` = the value on the stack, of which at most `bits` low bits are not zero.
    pub(super) fn set(&mut self, d: Var, ty: Ty, bits: u32) {
        let at = usize::from(d.0);
        self.convert(ty, self.types[at]);
        let local = self.int_local(d);
        self.i().local_set(local);
        self.bits[at] = bits.min(if self.types[at] == Ty::I32 { 32 } else { 64 }) as u8;
        self.dirty |= flow::bit(d);
        if self.rmw.as_ref().is_some_and(|r| reads_var(&r.addr, d)) {
            self.rmw = None;
        }
    }

    pub(super) fn vec(&mut self, v: VecVar) -> u32 {
        let at = usize::from(v.0) % VECS;
        match self.vecs[at] {
            Some(local) => local,
            None => {
                let local = self.local(ValType::V128);
                self.vecs[at] = Some(local);
                local
            }
        }
    }

    /// `d` = the vector on the stack.
    pub(super) fn vset(&mut self, d: VecVar) {
        let local = self.vec(d);
        self.i().local_set(local);
        self.vclean &= !(1 << d.0);
    }

    /// Chooses how the temporaries of an instruction are held.
    fn temporaries(&mut self, ops: &[Op]) {
        let mut new = [None; INTS];
        for op in ops {
            let Some(d) = op.dest().filter(|d| d.is_temp()) else { continue };
            let of = |v: Val| match v {
                Val::Var(v) if v.is_temp() => new[usize::from(v.0)].unwrap_or(Ty::I32),
                _ => self.ty(v),
            };
            let ty = match *op {
                Op::Mov { w: Width::W64, a, .. } => of(a),
                Op::Mov { w, .. }
                | Op::Bin { w, .. }
                | Op::Un { w, .. }
                | Op::Select { w, .. }
                | Op::Load { w, .. }
                | Op::VGet { w, .. } => Ty::of(w),
                Op::Sext { to, .. } | Op::LoadSext { to, .. } => Ty::of(to),
                Op::Extract { len, .. } => Ty::of_bits(len.into()),
                Op::Deposit { a, pos, len, .. } => {
                    of(a).max(Ty::of_bits(u32::from(pos) + u32::from(len)))
                }
                Op::Set { .. } => Ty::I32,
                Op::FloatInt { op: FloatOp::ToInt(_, Width::W64, _), .. } => Ty::I64,
                Op::FloatInt { .. } => Ty::I32,
                Op::Lea { addr, .. } => self.addr_ty(&addr),
                _ => Ty::I64,
            };
            let slot = &mut new[usize::from(d.0)];
            *slot = Some(slot.map_or(ty, |t| t.max(ty)));
        }
        for (v, ty) in new.iter().enumerate() {
            if let Some(ty) = *ty
                && ty != self.types[v]
            {
                self.types[v] = ty;
                std::mem::swap(&mut self.ints[v], &mut self.other[v]);
            }
        }
        self.forget();
    }

    /// Forgets what is known of variables: another way leads here.
    fn forget(&mut self) {
        let guest = usize::from(FIRST_TEMP);
        self.bits[..guest].copy_from_slice(&self.region.bits);
        for (bits, ty) in self.bits[guest..].iter_mut().zip(&self.types[guest..]) {
            *bits = if *ty == Ty::I32 { 32 } else { 64 };
        }
        self.rmw = None;
    }

    // Memory of the runtime.

    pub(super) fn load_int(&mut self, v: usize) {
        let Some(local) = self.ints[v] else { return };
        let m = field(int_offset(v as u8), 3);
        self.i().local_get(FRAME);
        match self.types[v] {
            Ty::I32 => self.i().i32_load(MemArg { align: 2, ..m }),
            Ty::I64 => self.i().i64_load(m),
        };
        self.i().local_set(local);
    }

    fn load_variables(&mut self) {
        for v in 0..usize::from(FIRST_TEMP) {
            self.load_int(v);
        }
        for v in 0..FIRST_VTEMP {
            if self.vecs[usize::from(v)].is_some() {
                self.load_vec(VecVar(v));
            }
        }
    }

    pub(super) fn load_vec(&mut self, v: VecVar) {
        let local = self.vec(v);
        self.i().local_get(FRAME).v128_load(field(vec_offset(v.0), 3)).local_set(local);
    }

    pub(super) fn store_vec(&mut self, v: VecVar) {
        let local = self.vec(v);
        self.i().local_get(FRAME).local_get(local).v128_store(field(vec_offset(v.0), 3));
    }

    /// Brings the frame up to date.
    fn write_back(&mut self, ints: u64, vecs: u64) {
        for v in 0..FIRST_TEMP {
            if ints >> v & 1 != 0 {
                self.i().local_get(FRAME);
                self.get(Ty::I64, Val::Var(Var(v)));
                self.i().i64_store(field(int_offset(v), 3));
            }
        }
        for v in 0..FIRST_VTEMP {
            if vecs >> v & 1 != 0 {
                self.store_vec(VecVar(v));
            }
        }
    }

    /// Tells the runtime how much of the budget is left, before it is called.
    pub(super) fn put_left(&mut self) {
        self.i().local_get(CTX).local_get(LEFT).i64_store(field(Context::LEFT, 3));
    }

    pub(super) fn call(&mut self, slot: u32, ty: Type) {
        self.i().i32_const(slot as i32).call_indirect(0, ty as u32);
    }

    /// After a shim that may fault: stops if it did.
    pub(super) fn check_status(&mut self) {
        self.i().local_get(CTX).i32_load(field(Context::STATUS, 2)).local_tee(STOP);
        self.if_(BlockType::Empty, false);
        self.stop_here();
        self.end();
    }

    /// Stops for the reason in its local, with the current instruction not done.
    pub(super) fn stop_here(&mut self) {
        let back = self.rest();
        self.cold(self.insn_pc, back);
    }

    /// Instructions of the block from the current one on.
    pub(super) fn rest(&self) -> u32 {
        self.insns() - (self.k - 1)
    }

    /// When floating-point operations may be done here: variable, mask and value.
    pub(super) fn guard(&self) -> (Var, u64, u64) {
        self.region.guard
    }

    fn insns(&self) -> u32 {
        self.region.blocks[self.block].insns
    }

    /// Stops for the reason in its local, at `pc`, with so many instructions given back.
    fn cold(&mut self, pc: u64, back: u32) {
        self.i().i64_const(pc as i64).local_set(PC).i64_const(back.into()).local_set(BACK);
        self.br(Scope::Cold);
    }

    // The function as a whole.

    fn enter(&mut self) {
        self.i()
            .local_get(CTX)
            .i32_load(field(Context::FRAME, 2))
            .local_set(FRAME)
            .local_get(CTX)
            .i32_load(field(Context::TLB, 2))
            .local_set(TLB)
            .local_get(CTX)
            .i64_load(field(Context::LEFT, 3))
            .local_set(LEFT);
        if self.region.pages.len() > 1 {
            self.i().local_get(CTX).i32_load(field(Context::PAGES, 2)).local_set(PAGES);
        }
        self.load_variables();
        if self.floats {
            self.read_guard();
        }
        self.open(Scope::Cold);
        if self.region.gates.is_empty() {
            self.enough(0);
        } else {
            // The way in has looked at the budget.
            self.i().local_get(CTX).i32_load(field(Context::STATUS, 2)).local_set(STATE);
        }
    }

    fn leave(&mut self) {
        self.i().unreachable();
        self.end();
        self.write_back(self.written, self.vwritten);
        self.i().local_get(LEFT).local_get(BACK).i64_add().local_set(LEFT);
        self.put_left();
        self.i().local_get(CTX).local_get(PC).i64_store(field(Context::PC, 3)).local_get(STOP);
        self.i().end();
    }

    fn finish(self) -> (Function, Vec<BranchHint>, flow::Budget) {
        let mut f = Function::new_with_locals_types(self.locals);
        let header = f.byte_len();
        f.raw(self.code);
        let hint = |&(at, taken): &(usize, bool)| BranchHint {
            branch_func_offset: (header + at) as u32,
            branch_hint_value: taken.into(),
        };
        let hints = self.hints.iter().map(hint).collect();
        (f, hints, self.budget)
    }

    /// A node and all it dominates. What is written last never goes on behind it.
    fn tree(&mut self, node: usize) {
        let is_loop = self.graph.is_loop(node);
        if is_loop {
            self.open(Scope::Loop(node));
        }
        let merges = self.graph.merges[node].clone();
        for &m in &merges {
            self.open(Scope::Block(m));
        }
        if node < self.region.blocks.len() {
            self.contents(node);
        } else {
            self.dispatch();
        }
        for &m in merges.iter().rev() {
            self.end();
            self.tree(m);
        }
        if is_loop {
            self.end();
        }
    }

    fn dispatch(&mut self) {
        let to: Vec<u32> =
            self.graph.dispatched.iter().map(|&b| self.depth(Scope::Block(b))).collect();
        let default = to[0];
        self.i().local_get(STATE).br_table(to, default);
    }

    fn contents(&mut self, block: usize) {
        let region = self.region;
        let b = &region.blocks[block];
        self.block = block;
        self.k = 0;
        self.dirty = b.dirty_in;
        self.vclean = !self.vwritten;
        self.forget();
        self.i().local_get(LEFT).i64_const(b.insns.into()).i64_sub().local_set(LEFT);
        (self.groups, self.spans) = spans(&b.ops);
        let mut i = 0;
        while i < b.ops.len() {
            if let Op::Insn { pc, .. } = b.ops[i] {
                self.k += 1;
                self.insn_pc = pc;
                self.skipped = 0;
                let rest = &b.ops[i + 1..];
                let n = rest.iter().position(|op| matches!(op, Op::Insn { .. }));
                let ops = &rest[..n.unwrap_or(rest.len())];
                self.temporaries(ops);
                // Labels come in order: the last is left by the outermost block.
                for op in ops.iter().rev() {
                    if let Op::Label { label } = *op {
                        self.open(Scope::Label(label));
                    }
                }
            } else {
                let span = self.spans.binary_search_by_key(&i, |s| s.op);
                self.span = span.ok().map(|at| self.spans[at]);
                self.op(&b.ops[i]);
            }
            i += 1;
        }
    }

    /// Stops before a block unless enough is left to get to the next look.
    fn enough(&mut self, to: usize) {
        let need = self.budget.need[to];
        self.i().local_get(LEFT).i64_const(need.into()).i64_lt_s();
        self.if_(BlockType::Empty, false);
        self.i().i32_const(stop::LOOKUP as i32).local_set(STOP);
        self.cold(self.region.blocks[to].pc, 0);
        self.end();
    }

    /// Goes to `pc`, giving back so many instructions of this block.
    fn edge(&mut self, pc: u64, back: u32) {
        let Some((to, page)) = self.region.edge(self.block, pc) else {
            self.i().i64_const(pc as i64).local_set(PC);
            return self.exit(stop::LOOKUP, back);
        };
        if let Some(page) = page {
            self.i().local_get(PAGES).i32_const(1 << page).i32_and().i32_eqz();
            self.if_(BlockType::Empty, false);
            self.i().i32_const(stop::LOOKUP as i32).local_set(STOP);
            self.cold(pc, back);
            self.end();
        }
        if back > 0 {
            self.i().local_get(LEFT).i64_const(back.into()).i64_add().local_set(LEFT);
        }
        if self.budget.look[to] {
            self.enough(to);
        }
        match self.way(to) {
            Some(scope) => {
                if let Some(state) = self.graph.state(to) {
                    self.i().i32_const(state as i32).local_set(STATE);
                }
                self.br(scope);
            }
            None => {
                let (block, k, pc) = (self.block, self.k, self.insn_pc);
                let (dirty, vclean, bits) = (self.dirty, self.vclean, self.bits);
                let skipped = self.skipped;
                let types = self.types;
                let groups = std::mem::take(&mut self.groups);
                let spans = std::mem::take(&mut self.spans);
                let (ints, other) = (self.ints, self.other);
                self.tree(to);
                (self.block, self.k, self.insn_pc) = (block, k, pc);
                (self.groups, self.spans) = (groups, spans);
                (self.dirty, self.vclean, self.bits) = (dirty, vclean, bits);
                // Temporaries as they were; locals given to them meanwhile are kept where they fit.
                for (v, &ty) in types.iter().enumerate() {
                    if self.types[v] != ty {
                        std::mem::swap(&mut self.ints[v], &mut self.other[v]);
                    }
                    self.ints[v] = self.ints[v].or(ints[v]);
                    self.other[v] = self.other[v].or(other[v]);
                }
                (self.types, self.skipped) = (types, skipped);
                self.rmw = None;
            }
        }
    }

    /// What a way to a block leaves or repeats; nothing if the block stands where the way is taken.
    fn way(&self, to: usize) -> Option<Scope> {
        let node = self.graph.node(to);
        if self.graph.goes_back(self.block, node) {
            Some(Scope::Loop(node))
        } else if self.graph.is_merge(node) {
            Some(Scope::Block(node))
        } else {
            None
        }
    }

    /// Leaves the region for the program counter in its local.
    fn exit(&mut self, why: u32, back: u32) {
        self.write_back(self.dirty & self.written, self.vwritten);
        if back > 0 {
            self.i().local_get(LEFT).i64_const(back.into()).i64_add().local_set(LEFT);
        }
        self.put_left();
        self.away(why);
    }

    fn op(&mut self, op: &Op) {
        match *op {
            Op::Insn { .. } => {}
            Op::Mov { .. }
            | Op::Bin { .. }
            | Op::Un { .. }
            | Op::Sext { .. }
            | Op::Extract { .. }
            | Op::Deposit { .. }
            | Op::Set { .. }
            | Op::Select { .. }
            | Op::Lea { .. } => self.int_op(op),
            Op::Load { w, d, addr, mem } => self.load(w, None, d, &addr, mem),
            Op::LoadSext { w, to, d, addr, mem } => self.load(w, Some(to), d, &addr, mem),
            Op::Store { w, a, addr, mem } => self.store(w, a, &addr, mem),
            Op::Probe { size, addr, mem } => self.probe(size, &addr, mem),
            Op::VMov { .. }
            | Op::VConst { .. }
            | Op::VLoad { .. }
            | Op::VStore { .. }
            | Op::VGet { .. }
            | Op::VPut { .. }
            | Op::VecOp { .. } => self.vec_op(op),
            Op::Float { op, d, a, b, imm, f, kind } => {
                self.float(op, a, b, Fallback { f, kind, v: d, imm });
            }
            Op::FloatInt { op, d, v, a, b, f, kind } => {
                self.float_int(op, d, a, b, Fallback { f, kind, v, imm: 0 });
            }
            Op::Pure { f, d, args } => {
                self.put_args(&args);
                self.i().local_get(CTX).i32_const(f.into());
                self.call(self.shims.pure, Type::Call);
                self.set(d, Ty::I64, 64);
            }
            Op::Quick { f, d, args } => self.quick(f, d, &args),
            Op::Call { f, d, args, fx } => self.helper(f, d, &args, fx),
            Op::Label { label } => {
                debug_assert!(self.scopes.last() == Some(&Scope::Label(label)));
                self.end();
                self.forget();
                self.dirty |= self.skipped;
                self.vclean = !self.vwritten & ((1 << FIRST_VTEMP) - 1);
            }
            Op::Jump { label } => {
                self.skipped |= self.dirty;
                self.br(Scope::Label(label));
            }
            Op::Branch { cmp, label } => {
                self.skipped |= self.dirty;
                self.cond(&cmp);
                let depth = self.depth(Scope::Label(label));
                self.i().br_if(depth);
            }
            Op::TrapIf { cmp, id, arg } => {
                self.cond(&cmp);
                self.if_(BlockType::Empty, false);
                self.trap(id, arg);
                self.end();
            }
            Op::Trap { id, arg } => self.trap(id, arg),
            Op::ExitIf { cmp, pc } => {
                let back = self.insns() - self.k;
                let direct = match self.region.edge(self.block, pc) {
                    Some((to, None))
                        if back == 0 && !self.budget.look[to] && self.graph.state(to).is_none() =>
                    {
                        self.way(to)
                    }
                    _ => None,
                };
                self.cond(&cmp);
                match direct {
                    Some(scope) => {
                        let depth = self.depth(scope);
                        self.i().br_if(depth);
                    }
                    None => {
                        self.plain_if(BlockType::Empty);
                        self.edge(pc, back);
                        self.end();
                    }
                }
            }
            Op::Goto { pc } | Op::GotoVar { pc: Val::Imm(pc) } => {
                let back = self.insns() - self.k;
                self.edge(pc, back);
            }
            Op::GotoVar { pc } => self.computed(pc),
            Op::Leave { pc } => self.resume(pc),
        }
    }

    /// Goes on behind an instruction after which anything may be different, where nothing that
    /// matters is.
    fn resume(&mut self, pc: Val) {
        let back = self.insns() - self.k;
        self.write_back(self.dirty & self.written, self.vwritten);
        (self.dirty, self.vclean) = (0, u64::MAX);
        if back > 0 {
            self.i().local_get(LEFT).i64_const(back.into()).i64_add().local_set(LEFT);
        }
        self.put_left();
        self.get(Ty::I64, pc);
        self.i().local_set(PC).local_get(CTX);
        self.call(self.shims.resume, Type::Entry);
        let inside = match pc {
            Val::Imm(pc) => self.region.edge(self.block, pc).map(|_| pc),
            Val::Var(_) => None,
        };
        match inside {
            Some(pc) => {
                self.i().local_tee(STOP).i32_const(resume::HERE as i32).i32_ne();
                self.plain_if(BlockType::Empty);
                self.resumed();
                self.end();
                self.edge(pc, 0);
            }
            None => {
                self.i().local_set(STOP);
                self.resumed();
            }
        }
    }

    /// Goes on by a link, or stops, as its local says; all is written back.
    fn resumed(&mut self) {
        self.i().local_get(STOP).i32_const(resume::LEAVE as i32).i32_ne();
        self.plain_if(BlockType::Empty);
        self.away(stop::LOOKUP);
        self.end();
        self.away(stop::LEAVE);
    }

    /// Leaves the region for the program counter in its local; all is written back.
    fn away(&mut self, why: u32) {
        if why == stop::LOOKUP && self.shims.tail_calls {
            self.i().local_get(CTX).local_get(PC).return_call(0);
            return;
        }
        self.i()
            .local_get(CTX)
            .local_get(PC)
            .i64_store(field(Context::PC, 3))
            .i32_const(why as i32)
            .return_();
    }

    /// A computed jump: to where calls in the region come back to, or away.
    fn computed(&mut self, pc: Val) {
        let back = self.insns() - self.k;
        self.get(Ty::I64, pc);
        self.i().local_set(PC);
        let region = self.region;
        for &to in region.returns.iter().take(MOST_RETURNS) {
            let pc = region.blocks[to].pc;
            self.i().local_get(PC).i64_const(pc as i64).i64_eq();
            self.plain_if(BlockType::Empty);
            self.edge(pc, back);
            self.end();
        }
        self.exit(stop::LOOKUP, back);
    }

    fn trap(&mut self, id: u16, arg: Val) {
        self.put_left();
        self.i().local_get(CTX).i32_const(id.into());
        self.get(Ty::I64, arg);
        self.call(self.shims.trap, Type::Trap);
        self.i().i32_const(stop::FAULT as i32).local_set(STOP);
        self.stop_here();
    }

    fn put_args(&mut self, args: &Args) {
        for (n, &a) in args.iter().enumerate() {
            self.i().local_get(CTX);
            self.get(Ty::I64, a);
            self.i().i64_store(field(Context::ARGS + 8 * n as u32, 3));
        }
    }

    /// A quick function; stops where it declines.
    fn quick(&mut self, f: u16, d: Var, args: &Args) {
        let Some(&slot) = self.region.quick.get(&f) else {
            self.i().i32_const(stop::RESTART as i32).local_set(STOP);
            return self.stop_here();
        };
        self.i().local_get(CTX).i32_load(field(Context::CPU, 2));
        for &a in &args[..4] {
            self.get(Ty::I64, a);
        }
        self.call(slot as u32, Type::Quick);
        let value = self.scratch(0, ValType::I64);
        self.i().local_tee(value).i64_const(DECLINED as i64).i64_eq();
        self.if_(BlockType::Empty, false);
        self.i().i32_const(stop::RESTART as i32).local_set(STOP);
        self.stop_here();
        self.end();
        self.i().local_get(value);
        self.set(d, Ty::I64, 64);
    }

    fn helper(&mut self, f: u16, d: Option<Var>, args: &Args, fx: Fx) {
        self.put_args(args);
        let looks = fx.has(Fx::READS) || fx.has(Fx::WRITES);
        if looks {
            self.write_back(self.dirty & self.written, self.vwritten);
            // Operands in memory come through these.
            for v in (FIRST_VTEMP..VECS as u8).map(VecVar) {
                if self.vecs[usize::from(v.0)].is_some() && self.vclean >> v.0 & 1 == 0 {
                    self.store_vec(v);
                    self.vclean |= 1 << v.0;
                }
            }
        }
        self.put_left();
        let rest = self.rest();
        self.i().local_get(CTX).i32_const((u32::from(f) | rest << 16) as i32);
        self.call(self.shims.call, Type::Call);
        let value = self.scratch(0, ValType::I64);
        self.i().local_set(value);
        if fx.has(Fx::FAULTS) {
            self.check_status();
        }
        if looks {
            self.dirty = 0;
        }
        if fx.has(Fx::WRITES) {
            self.load_variables();
            for v in (FIRST_VTEMP..VECS as u8).map(VecVar) {
                if self.vecs[usize::from(v.0)].is_some() {
                    self.load_vec(v);
                }
            }
            if self.floats {
                self.read_guard();
            }
            self.forget();
        }
        if let Some(d) = d {
            self.i().local_get(value);
            self.set(d, Ty::I64, 64);
        }
    }
}

/// A field of the runtime's memory.
pub(super) fn field(offset: u32, align: u32) -> MemArg {
    MemArg { offset: offset.into(), align, target: MemArgTarget::Memory(0), ordering: None }
}

fn reads_var(a: &Addr, v: Var) -> bool {
    [a.base, a.index, a.segment].contains(&Some(v))
}

/// The vector variables an op writes and reads.
fn vectors(op: &Op) -> (Option<VecVar>, [Option<VecVar>; 2]) {
    match *op {
        Op::VMov { d, a } => (Some(d), [Some(a), None]),
        Op::VConst { d, .. } | Op::VLoad { d, .. } => (Some(d), [None; 2]),
        Op::VStore { a, .. } | Op::VGet { a, .. } => (None, [Some(a), None]),
        Op::VPut { d, .. } => (Some(d), [Some(d), None]),
        Op::VecOp { d, a, b, .. } | Op::Float { d, a, b, .. } => (Some(d), [Some(a), Some(b)]),
        Op::FloatInt { v, a, b, .. } => (Some(v), [Some(a), Some(b)]),
        _ => (None, [None; 2]),
    }
}
