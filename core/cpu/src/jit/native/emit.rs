//! A region as a Cranelift function.
//!
//! Guest variables are Cranelift variables of 64 bits: loaded where the region is entered, in
//! registers or wherever the allocator puts them inside, stored where it is left. Vector variables
//! stay in the frame. What does not run in the common case is in cold blocks: the shims of memory
//! accesses are called with a convention that saves all registers, so that they cost the hot code
//! nothing.

mod float;
mod vector;

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::{I8, I8X16, I16, I32, I64};
use cranelift_codegen::ir::{
    AbiParam, Block, BlockArg, InstBuilder, MemFlagsData, SigRef, Signature, Type, Value,
};
use cranelift_codegen::isa::CallConv;
use cranelift_frontend::{FunctionBuilder, Variable};

use crate::frame::{FIRST_TEMP, INTS};
use crate::ir::{
    Addr, Args, BinOp, Cmp, Cond, DECLINED, Fx, Label, Mem, Op, UnOp, Val, Var, Width, opt,
};
use crate::jit::abi::{Context, Shims, TLB_BITS, access, fast, int_offset, stop, vec_offset};
use crate::region::{Region, flow};

/// Where the shims are: those of memory accesses behind stubs that save every register and leave
/// the result in the context's first argument.
#[derive(Clone, Copy, Debug)]
pub(super) struct Targets {
    pub(super) shims: Shims,
    pub(super) load: usize,
    pub(super) store: usize,
    pub(super) probe: usize,
    pub(super) vload: usize,
    pub(super) vstore: usize,
    pub(super) call: usize,
}

pub(super) const PTR: Type = I64;

fn int(w: Width) -> Type {
    match w {
        Width::W8 => I8,
        Width::W16 => I16,
        Width::W32 => I32,
        Width::W64 => I64,
    }
}

/// The context, the frame and the TLB: addresses that do not change.
fn fixed() -> MemFlagsData {
    MemFlagsData::trusted().with_readonly().with_can_move()
}

fn own() -> MemFlagsData {
    MemFlagsData::trusted()
}

fn guest() -> MemFlagsData {
    MemFlagsData::new().with_notrap()
}

pub(super) struct Emit<'a, 'f> {
    pub(super) b: FunctionBuilder<'f>,
    region: &'a Region,
    targets: &'a Targets,
    ctx: Value,
    frame: Value,
    tlb: Value,
    left: Variable,
    vars: [Option<Variable>; INTS],
    /// Guest variables that the region reads or writes.
    used: u64,
    blocks: Vec<Block>,
    budget: flow::Budget,
    /// The block being emitted, and the number of the instruction in it, from 1.
    at: usize,
    insn: u32,
    /// Program counter of the instruction.
    pc: u64,
    /// Guest variables changed and not written back.
    dirty: u64,
    /// Those changed where a branch inside the instruction was.
    skipped: u64,
    /// At most this is in a variable, as far as the instruction says.
    most: [u64; INTS],
    labels: Vec<(Label, Block)>,
    /// Guest variables are kept in the frame: stored when set, and loaded once in a block. Much
    /// less to compile.
    quick: bool,
    /// Guest variables loaded in this block, or set.
    known: u64,
    /// The current Cranelift block has its terminator.
    done: bool,
    sigs: Sigs,
}

#[derive(Clone, Copy)]
struct Sigs {
    /// `(ctx, i64, i32)`, registers saved.
    three: SigRef,
    /// `(ctx, i64, i64, i32)`, registers saved.
    four: SigRef,
    /// `(ctx, i32)`, registers saved.
    two: SigRef,
    /// `(ctx, i32) -> i64`
    call: SigRef,
    /// `(ctx, i32, i32)`
    vec: SigRef,
    /// `(ctx, i32, i64)`
    trap: SigRef,
    /// `(cpu, i64, i64, i64, i64) -> i64`
    quick: SigRef,
}

/// A signature of these parameters.
pub(super) fn signature(conv: CallConv, params: &[Type], returns: &[Type]) -> Signature {
    let mut s = Signature::new(conv);
    s.params.extend(params.iter().map(|&t| AbiParam::new(t)));
    s.returns.extend(returns.iter().map(|&t| AbiParam::new(t)));
    s
}

/// Guest variables an op reads or writes.
fn mentioned(op: &Op) -> u64 {
    let mut used = op.dest().map_or(0, flow::bit);
    opt::reads(op, &mut |v| used |= flow::bit(v));
    used
}

impl<'a, 'f> Emit<'a, 'f> {
    pub(super) fn new(
        mut b: FunctionBuilder<'f>,
        region: &'a Region,
        targets: &'a Targets,
        conv: CallConv,
        quick: bool,
    ) -> Self {
        let entry = b.create_block();
        b.append_block_params_for_function_params(entry);
        b.switch_to_block(entry);
        b.seal_block(entry);
        let ctx = b.block_params(entry)[0];
        let frame = b.ins().load(PTR, fixed(), ctx, Context::FRAME as i32);
        let tlb = b.ins().load(PTR, fixed(), ctx, Context::TLB as i32);
        let left = b.declare_var(I64);
        let budget = b.ins().load(I64, own(), ctx, Context::LEFT as i32);
        b.def_var(left, budget);
        let used = region.blocks.iter().flat_map(|b| &b.ops).fold(0, |u, op| u | mentioned(op));
        let saves = CallConv::PreserveAll;
        let sigs = Sigs {
            two: b.import_signature(signature(saves, &[PTR, I32], &[])),
            three: b.import_signature(signature(saves, &[PTR, I64, I32], &[])),
            four: b.import_signature(signature(saves, &[PTR, I64, I64, I32], &[])),
            call: b.import_signature(signature(conv, &[PTR, I32], &[I64])),
            vec: b.import_signature(signature(conv, &[PTR, I32, I32], &[])),
            trap: b.import_signature(signature(conv, &[PTR, I32, I64], &[])),
            quick: b.import_signature(signature(conv, &[PTR, I64, I64, I64, I64], &[I64])),
        };
        let blocks = region.blocks.iter().map(|_| b.create_block()).collect();
        let looks = flow::budget(region);
        let mut e = Self {
            b,
            region,
            targets,
            ctx,
            frame,
            tlb,
            left,
            vars: [None; INTS],
            used,
            blocks,
            budget: looks,
            at: 0,
            insn: 0,
            pc: 0,
            dirty: 0,
            skipped: 0,
            most: [u64::MAX; INTS],
            labels: Vec::new(),
            quick,
            known: 0,
            done: false,
            sigs,
        };
        e.look(0, budget);
        e.read_all();
        let first = e.blocks[0];
        e.b.ins().jump(first, &[]);
        e
    }

    /// Emits every block.
    pub(super) fn run(mut self) -> FunctionBuilder<'f> {
        for n in 0..self.region.blocks.len() {
            self.block(n);
        }
        self.b.seal_all_blocks();
        self.b
    }

    fn block(&mut self, n: usize) {
        let region = self.region;
        let block = &region.blocks[n];
        (self.at, self.insn, self.pc, self.dirty) = (n, 0, block.pc, block.dirty_in);
        self.b.switch_to_block(self.blocks[n]);
        self.done = false;
        self.known = 0;
        self.most.fill(u64::MAX);
        let before = self.b.use_var(self.left);
        let after = self.b.ins().iadd_imm_s(before, -i64::from(block.insns));
        self.b.def_var(self.left, after);
        for op in &block.ops {
            self.op(op);
            match op {
                Op::Insn { .. } => self.skipped = 0,
                Op::Branch { .. } | Op::Jump { .. } => self.skipped |= self.dirty,
                // A helper may have been jumped over.
                Op::Label { .. } => self.dirty |= self.skipped,
                Op::Call { .. } => {}
                _ => self.dirty = flow::after(op, self.dirty),
            }
        }
        if !self.done {
            let pc = self.konst(self.pc);
            let left = self.b.use_var(self.left);
            self.leave(stop::LOOKUP, pc, left);
        }
    }

    /// Goes on in a block that all ways to are there.
    fn begin(&mut self, block: Block) {
        self.b.switch_to_block(block);
        self.b.seal_block(block);
    }

    fn cold(&mut self) -> Block {
        let block = self.b.create_block();
        self.b.set_cold_block(block);
        block
    }

    fn konst(&mut self, n: u64) -> Value {
        self.b.ins().iconst(I64, n as i64)
    }

    // Variables.

    fn variable(&mut self, v: Var) -> Variable {
        let slot = &mut self.vars[usize::from(v.0)];
        match *slot {
            Some(v) => v,
            None => *slot.insert(self.b.declare_var(I64)),
        }
    }

    fn get(&mut self, v: Var) -> Value {
        let bit = flow::bit(v);
        let slot = self.variable(v);
        if self.quick && bit & !self.known != 0 {
            let value = self.b.ins().load(I64, own(), self.frame, int_offset(v.0) as i32);
            self.b.def_var(slot, value);
            self.known |= bit;
        }
        self.b.use_var(slot)
    }

    fn set(&mut self, d: Var, value: Value) {
        let v = self.variable(d);
        self.b.def_var(v, value);
        if self.quick && !d.is_temp() {
            self.b.ins().store(own(), value, self.frame, int_offset(d.0) as i32);
            self.known |= flow::bit(d);
        }
        self.most[usize::from(d.0)] = u64::MAX;
    }

    fn val(&mut self, v: Val) -> Value {
        match v {
            Val::Var(v) => self.get(v),
            Val::Imm(n) => self.konst(n),
        }
    }

    /// The low bits of an operand.
    fn low(&mut self, w: Width, v: Val) -> Value {
        match v {
            Val::Imm(n) if w != Width::W64 => self.b.ins().iconst(int(w), (n & w.mask()) as i64),
            _ => {
                let v = self.val(v);
                self.narrow(w, v)
            }
        }
    }

    fn narrow(&mut self, w: Width, v: Value) -> Value {
        if w == Width::W64 { v } else { self.b.ins().ireduce(int(w), v) }
    }

    /// Zero-extended to 64 bits.
    fn wide(&mut self, v: Value) -> Value {
        if self.b.func.dfg.value_type(v) == I64 { v } else { self.b.ins().uextend(I64, v) }
    }

    /// Loads every variable from the frame, or forgets what was loaded.
    fn read_all(&mut self) {
        self.known = 0;
        if self.quick {
            return;
        }
        let used = self.used;
        for v in (0..FIRST_TEMP).filter(|v| used >> v & 1 != 0) {
            let value = self.b.ins().load(I64, own(), self.frame, int_offset(v) as i32);
            self.set(Var(v), value);
        }
    }

    /// Stores the variables that changed; they still count as changed where the hot path goes on.
    fn write_back(&mut self) {
        if self.quick {
            return;
        }
        let dirty = self.dirty;
        for v in (0..FIRST_TEMP).filter(|v| dirty >> v & 1 != 0) {
            let value = self.get(Var(v));
            self.b.ins().store(own(), value, self.frame, int_offset(v) as i32);
        }
    }

    // Ways out.

    /// Ends the current Cranelift block with a stop.
    fn leave(&mut self, why: u32, pc: Value, left: Value) {
        self.write_back();
        self.b.ins().store(own(), pc, self.ctx, Context::PC as i32);
        self.b.ins().store(own(), left, self.ctx, Context::LEFT as i32);
        let why = self.b.ins().iconst(I32, i64::from(why));
        self.b.ins().return_(&[why]);
    }

    /// Ends the current block with what the context's status says, at the current instruction,
    /// which is not done.
    fn leave_here(&mut self, status: Value) {
        self.write_back();
        let pc = self.konst(self.pc);
        let rest = self.region.blocks[self.at].insns - (self.insn - 1);
        let left = self.b.use_var(self.left);
        let left = self.b.ins().iadd_imm_s(left, i64::from(rest));
        self.b.ins().store(own(), pc, self.ctx, Context::PC as i32);
        self.b.ins().store(own(), left, self.ctx, Context::LEFT as i32);
        self.b.ins().return_(&[status]);
    }

    /// Stops before block `to` unless enough is left to get to the next look. What only the stop needs is
    /// computed nowhere else, as it would be if the block did this itself.
    fn look(&mut self, to: usize, left: Value) {
        let (pc, need) = (self.region.blocks[to].pc, self.budget.need[to]);
        let (out, on) = (self.cold(), self.b.create_block());
        let short = self.b.ins().icmp_imm_s(IntCC::SignedLessThan, left, i64::from(need));
        self.b.ins().brif(short, out, &[], on, &[]);
        self.begin(out);
        let pc = self.konst(pc);
        self.leave(stop::LOOKUP, pc, left);
        self.begin(on);
    }

    /// Goes on at `pc` with `back` instructions given back.
    fn go(&mut self, pc: u64, back: u32) {
        let mut left = self.b.use_var(self.left);
        if back != 0 {
            left = self.b.ins().iadd_imm_s(left, i64::from(back));
        }
        let Some((to, page)) = self.region.edge(self.at, pc) else {
            let pc = self.konst(pc);
            return self.leave(stop::LOOKUP, pc, left);
        };
        if let Some(page) = page {
            let pages = self.b.ins().load(I32, own(), self.ctx, Context::PAGES as i32);
            let there = self.b.ins().band_imm_u(pages, 1 << page);
            let (out, on) = (self.cold(), self.b.create_block());
            self.b.ins().brif(there, on, &[], out, &[]);
            self.begin(out);
            let pc = self.konst(pc);
            self.leave(stop::LOOKUP, pc, left);
            self.begin(on);
        }
        if self.budget.look[to] {
            self.look(to, left);
        }
        self.b.def_var(self.left, left);
        let to = self.blocks[to];
        self.b.ins().jump(to, &[]);
    }

    fn go_var(&mut self, pc: Val) {
        if let Val::Imm(pc) = pc {
            return self.go(pc, 0);
        }
        let target = self.val(pc);
        let region = self.region;
        for &to in &region.returns {
            let pc = region.blocks[to].pc;
            let c = self.konst(pc);
            let same = self.b.ins().icmp(IntCC::Equal, target, c);
            let (hit, miss) = (self.b.create_block(), self.b.create_block());
            self.b.ins().brif(same, hit, &[], miss, &[]);
            self.begin(hit);
            self.go(pc, 0);
            self.begin(miss);
        }
        let left = self.b.use_var(self.left);
        self.leave(stop::LOOKUP, target, left);
    }

    // Comparisons.

    fn cmp(&mut self, c: &Cmp) -> Value {
        let (a, b) = (self.low(c.w, c.a), self.low(c.w, c.b));
        let cc = match c.cond {
            Cond::Eq => IntCC::Equal,
            Cond::Ne => IntCC::NotEqual,
            Cond::LtU => IntCC::UnsignedLessThan,
            Cond::LeU => IntCC::UnsignedLessThanOrEqual,
            Cond::GtU => IntCC::UnsignedGreaterThan,
            Cond::GeU => IntCC::UnsignedGreaterThanOrEqual,
            Cond::LtS => IntCC::SignedLessThan,
            Cond::LeS => IntCC::SignedLessThanOrEqual,
            Cond::GtS => IntCC::SignedGreaterThan,
            Cond::GeS => IntCC::SignedGreaterThanOrEqual,
            Cond::TestZ | Cond::TestNz => {
                let both = self.b.ins().band(a, b);
                let cc = if c.cond == Cond::TestZ { IntCC::Equal } else { IntCC::NotEqual };
                return self.b.ins().icmp_imm_u(cc, both, 0);
            }
        };
        self.b.ins().icmp(cc, a, b)
    }

    // Arithmetic.

    /// A shift: more than Cranelift promises, which takes the count modulo the width.
    fn shift(&mut self, op: BinOp, w: Width, a: Val, n: Val) -> Value {
        let most = match n {
            Val::Imm(n) => n & 0xff,
            Val::Var(v) => self.most[usize::from(v.0)].min(0xff),
        };
        // Narrow operands in 32 bits: then counts to 31 need no care.
        let t = if w == Width::W64 { I64 } else { I32 };
        let mut x = self.val(a);
        if w != Width::W64 {
            x = self.narrow(w, x);
            if w != Width::W32 {
                x = match op {
                    BinOp::Sar => self.b.ins().sextend(I32, x),
                    _ => self.b.ins().uextend(I32, x),
                };
            }
        }
        let count = match n {
            Val::Imm(n) => self.b.ins().iconst(t, (n & 0xff) as i64),
            Val::Var(_) => {
                let n = self.val(n);
                let n = if most == 0xff { self.b.ins().band_imm_u(n, 0xff) } else { n };
                if t == I64 { n } else { self.b.ins().ireduce(I32, n) }
            }
        };
        let bits = u64::from(t.bits());
        let r = match op {
            BinOp::Sar => {
                let count = if most < bits {
                    count
                } else {
                    let top = self.b.ins().iconst(t, bits as i64 - 1);
                    self.b.ins().umin(count, top)
                };
                self.b.ins().sshr(x, count)
            }
            _ => {
                let r = if op == BinOp::Shl {
                    self.b.ins().ishl(x, count)
                } else {
                    self.b.ins().ushr(x, count)
                };
                if most < bits {
                    r
                } else {
                    let fits = self.b.ins().icmp_imm_u(IntCC::UnsignedLessThan, count, bits as i64);
                    let zero = self.b.ins().iconst(t, 0);
                    self.b.ins().select(fits, r, zero)
                }
            }
        };
        let r = match w {
            Width::W8 | Width::W16 => self.b.ins().ireduce(int(w), r),
            _ => r,
        };
        self.wide(r)
    }

    fn div(&mut self, op: BinOp, w: Width, a: Val, b: Val) -> Value {
        let signed = matches!(op, BinOp::DivS | BinOp::RemS);
        let quotient = matches!(op, BinOp::DivU | BinOp::DivS);
        // Narrow ones in the next wider type: no overflow there.
        let t = if matches!(w, Width::W64) {
            I64
        } else if w == Width::W32 && !signed {
            I32
        } else {
            I64
        };
        let (mut x, mut y) = (self.low(w, a), self.low(w, b));
        if self.b.func.dfg.value_type(x) != t {
            (x, y) = if signed {
                (self.b.ins().sextend(t, x), self.b.ins().sextend(t, y))
            } else {
                (self.b.ins().uextend(t, x), self.b.ins().uextend(t, y))
            };
        }
        let one = self.b.ins().iconst(t, 1);
        let zero = self.b.ins().iconst(t, 0);
        let none = self.b.ins().icmp_imm_u(IntCC::Equal, y, 0);
        let mut by = self.b.ins().select(none, one, y);
        let minus =
            (signed && w == Width::W64).then(|| self.b.ins().icmp_imm_s(IntCC::Equal, y, -1));
        if let Some(minus) = minus {
            by = self.b.ins().select(minus, one, by);
        }
        let mut r = match (signed, quotient) {
            (false, true) => self.b.ins().udiv(x, by),
            (false, false) => self.b.ins().urem(x, by),
            (true, true) => self.b.ins().sdiv(x, by),
            (true, false) => self.b.ins().srem(x, by),
        };
        if let Some(minus) = minus {
            let negated = if quotient { self.b.ins().ineg(x) } else { zero };
            r = self.b.ins().select(minus, negated, r);
        }
        let r = self.b.ins().select(none, zero, r);
        let r = if t != int(w) { self.b.ins().ireduce(int(w), r) } else { r };
        self.wide(r)
    }

    fn bin(&mut self, op: BinOp, w: Width, a: Val, b: Val) -> Value {
        match op {
            BinOp::Shl | BinOp::Shr | BinOp::Sar => return self.shift(op, w, a, b),
            BinOp::DivU | BinOp::RemU | BinOp::DivS | BinOp::RemS => return self.div(op, w, a, b),
            _ => {}
        }
        let (x, y) = (self.low(w, a), self.low(w, b));
        let r = match op {
            BinOp::Add => self.b.ins().iadd(x, y),
            BinOp::Sub => self.b.ins().isub(x, y),
            BinOp::And => self.b.ins().band(x, y),
            BinOp::Or => self.b.ins().bor(x, y),
            BinOp::Xor => self.b.ins().bxor(x, y),
            BinOp::AndNot => self.b.ins().band_not(x, y),
            BinOp::Rol => self.b.ins().rotl(x, y),
            BinOp::Ror => self.b.ins().rotr(x, y),
            // Eight bits have no multiplication of their own everywhere.
            BinOp::Mul if w == Width::W8 => {
                let (x, y) = (self.b.ins().uextend(I32, x), self.b.ins().uextend(I32, y));
                let r = self.b.ins().imul(x, y);
                self.b.ins().ireduce(I8, r)
            }
            BinOp::Mul => self.b.ins().imul(x, y),
            BinOp::MulHiU if w == Width::W64 => self.b.ins().umulhi(x, y),
            BinOp::MulHiS if w == Width::W64 => self.b.ins().smulhi(x, y),
            _ => {
                let (x, y) = if op == BinOp::MulHiS {
                    (self.b.ins().sextend(I64, x), self.b.ins().sextend(I64, y))
                } else {
                    (self.b.ins().uextend(I64, x), self.b.ins().uextend(I64, y))
                };
                let r = self.b.ins().imul(x, y);
                let r = self.b.ins().ushr_imm_u(r, i64::from(w.bits()));
                self.b.ins().ireduce(int(w), r)
            }
        };
        self.wide(r)
    }

    fn un(&mut self, op: UnOp, w: Width, a: Val) -> Value {
        let x = self.low(w, a);
        let r = match op {
            UnOp::Neg => self.b.ins().ineg(x),
            UnOp::Not => self.b.ins().bnot(x),
            UnOp::Bswap if w == Width::W8 => x,
            UnOp::Bswap => self.b.ins().bswap(x),
            UnOp::Clz => self.b.ins().clz(x),
            UnOp::Ctz => self.b.ins().ctz(x),
            UnOp::Popcnt => self.b.ins().popcnt(x),
        };
        self.wide(r)
    }

    fn extract(&mut self, a: Val, pos: u8, len: u8) -> Value {
        let mut x = self.val(a);
        if pos != 0 {
            x = self.b.ins().ushr_imm_u(x, i64::from(pos));
        }
        match len {
            8 => {
                let x = self.b.ins().ireduce(I8, x);
                self.wide(x)
            }
            16 => {
                let x = self.b.ins().ireduce(I16, x);
                self.wide(x)
            }
            32 => {
                let x = self.b.ins().ireduce(I32, x);
                self.wide(x)
            }
            _ if pos + len >= 64 => x,
            _ => self.b.ins().band_imm_s(x, opt::ones(len) as i64),
        }
    }

    fn deposit(&mut self, a: Val, b: Val, pos: u8, len: u8) -> Value {
        let field = opt::ones(len) << pos;
        let (x, y) = (self.val(a), self.val(b));
        let x = self.b.ins().band_imm_s(x, !field as i64);
        let mut y = self.b.ins().band_imm_s(y, opt::ones(len) as i64);
        if pos != 0 {
            y = self.b.ins().ishl_imm_u(y, i64::from(pos));
        }
        self.b.ins().bor(x, y)
    }

    // Memory.

    /// The linear address.
    fn address(&mut self, a: &Addr) -> Value {
        let w = if a.wrap == Width::W64 { Width::W64 } else { Width::W32 };
        let t = int(w);
        let mut sum = a.base.map(|v| self.low(w, Val::Var(v)));
        if let Some(index) = a.index {
            let mut x = self.low(w, Val::Var(index));
            if a.scale != 0 {
                x = self.b.ins().ishl_imm_u(x, i64::from(a.scale));
            }
            sum = Some(match sum {
                Some(s) => self.b.ins().iadd(s, x),
                None => x,
            });
        }
        let sum = match sum {
            Some(s) if a.disp != 0 => {
                let disp = self.b.ins().iconst(t, sign(w, a.disp));
                self.b.ins().iadd(s, disp)
            }
            Some(s) => s,
            None => self.b.ins().iconst(t, sign(w, a.disp)),
        };
        let mut sum = self.wide(sum);
        if matches!(a.wrap, Width::W8 | Width::W16) {
            sum = self.b.ins().band_imm_u(sum, a.wrap.mask() as i64);
        }
        if let Some(segment) = a.segment {
            let base = self.get(segment);
            sum = self.b.ins().iadd(sum, base);
        } else if a.lin.bits() >= a.wrap.bits() {
            return sum;
        }
        match a.lin {
            Width::W64 => sum,
            w => {
                let x = self.narrow(w, sum);
                self.wide(x)
            }
        }
    }

    /// Looks the page up. Answers the host address in a block that is only reached on a hit, and
    /// the cold block for the miss.
    fn look_up(&mut self, linear: Value, bytes: u32, mem: Mem, write: bool) -> (Value, Block) {
        let shift = 12 - fast::SIZE.trailing_zeros();
        let mask = ((1u64 << TLB_BITS) - 1) * u64::from(fast::SIZE);
        let t = self.b.ins().ushr_imm_u(linear, i64::from(shift));
        let t = self.b.ins().band_imm_u(t, mask as i64);
        let entry = self.b.ins().iadd(self.tlb, t);
        let last =
            if bytes == 1 { linear } else { self.b.ins().iadd_imm_s(linear, i64::from(bytes) - 1) };
        let mut tag = self.b.ins().band_imm_s(last, !0xfff);
        if mem.mmu != 0 {
            tag = self.b.ins().bor_imm_u(tag, i64::from(mem.mmu));
        }
        let which = if write { fast::WRITE } else { fast::READ };
        let known = self.b.ins().load(I64, own(), entry, which as i32);
        let hit = self.b.ins().icmp(IntCC::Equal, known, tag);
        let (on, miss) = (self.b.create_block(), self.cold());
        self.b.ins().brif(hit, on, &[], miss, &[]);
        self.begin(on);
        let host = self.b.ins().load(I64, own(), entry, fast::HOST as i32);
        (self.b.ins().iadd(linear, host), miss)
    }

    fn shim(&mut self, sig: SigRef, target: usize, args: &[Value]) -> Option<Value> {
        let target = self.b.ins().iconst(PTR, target as i64);
        let call = self.b.ins().call_indirect(sig, target, args);
        self.b.inst_results(call).first().copied()
    }

    fn store_left(&mut self) {
        let left = self.b.use_var(self.left);
        self.b.ins().store(own(), left, self.ctx, Context::LEFT as i32);
    }

    /// Behind a shim that may fault: leaves if it did, else goes on in a new block.
    fn check_status(&mut self, on: Block) {
        let status = self.b.ins().load(I32, own(), self.ctx, Context::STATUS as i32);
        let out = self.cold();
        self.b.ins().brif(status, out, &[], on, &[]);
        self.begin(out);
        self.leave_here(status);
    }

    fn load(&mut self, w: Width, addr: &Addr, mem: Mem) -> Value {
        let linear = self.address(addr);
        let rmw = mem.flags & Mem::WRITE != 0;
        let (host, miss) = self.look_up(linear, w.bytes(), mem, rmw);
        let v = self.b.ins().load(int(w), guest(), host, 0);
        let v = self.wide(v);
        let on = self.b.create_block();
        let result = self.b.append_block_param(on, I64);
        self.b.ins().jump(on, &[BlockArg::Value(v)]);
        self.begin(miss);
        self.store_left();
        let how = self.b.ins().iconst(I32, i64::from(access(w.bytes(), mem.mmu, rmw, 0)));
        self.shim(self.sigs.three, self.targets.load, &[self.ctx, linear, how]);
        let fine = self.cold();
        self.check_status(fine);
        self.begin(fine);
        let v = self.b.ins().load(I64, own(), self.ctx, Context::ARGS as i32);
        self.b.ins().jump(on, &[BlockArg::Value(v)]);
        self.begin(on);
        result
    }

    fn store(&mut self, w: Width, a: Val, addr: &Addr, mem: Mem) {
        let linear = self.address(addr);
        let v = self.val(a);
        let (host, miss) = self.look_up(linear, w.bytes(), mem, true);
        let low = self.narrow(w, v);
        self.b.ins().store(guest(), low, host, 0);
        let on = self.b.create_block();
        self.b.ins().jump(on, &[]);
        self.begin(miss);
        self.store_left();
        let how = self.b.ins().iconst(I32, i64::from(access(w.bytes(), mem.mmu, false, 0)));
        self.shim(self.sigs.four, self.targets.store, &[self.ctx, linear, v, how]);
        self.check_status(on);
        self.begin(on);
    }

    /// A vector access, or a probe: `f` is the fast path.
    #[expect(clippy::too_many_arguments, reason = "all of the operation, and where it goes")]
    fn vec_access(
        &mut self,
        size: u32,
        addr: &Addr,
        mem: Mem,
        write: bool,
        vec: u8,
        target: usize,
        f: impl FnOnce(&mut Self, Value),
    ) {
        let linear = self.address(addr);
        let (host, miss) = self.look_up(linear, size, mem, write);
        f(self, host);
        let on = self.b.create_block();
        self.b.ins().jump(on, &[]);
        self.begin(miss);
        self.store_left();
        let how = self.b.ins().iconst(I32, i64::from(access(size, mem.mmu, false, vec)));
        self.shim(self.sigs.three, target, &[self.ctx, linear, how]);
        self.check_status(on);
        self.begin(on);
    }

    fn store_args(&mut self, args: &Args) {
        for (n, &a) in args.iter().enumerate() {
            let v = self.val(a);
            self.b.ins().store(own(), v, self.ctx, Context::ARGS as i32 + n as i32 * 8);
        }
    }

    /// `rare`: in a cold block, saving all registers.
    fn call(&mut self, f: u16, d: Option<Var>, args: &Args, fx: Fx, rare: bool) {
        let frame = fx.has(Fx::READS) || fx.has(Fx::WRITES);
        if frame {
            self.write_back();
            self.dirty = 0;
        }
        self.store_args(args);
        self.store_left();
        let rest = self.region.blocks[self.at].insns - (self.insn - 1);
        let what = self.b.ins().iconst(I32, i64::from(u32::from(f) | rest << 16));
        let v = if rare {
            self.shim(self.sigs.two, self.targets.call, &[self.ctx, what]);
            Some(self.b.ins().load(I64, own(), self.ctx, Context::ARGS as i32))
        } else {
            let target = self.targets.shims.call as usize;
            self.shim(self.sigs.call, target, &[self.ctx, what])
        };
        if fx.has(Fx::FAULTS) {
            let on = if rare { self.cold() } else { self.b.create_block() };
            self.check_status(on);
            self.begin(on);
        }
        if fx.has(Fx::WRITES) {
            self.read_all();
        }
        if let (Some(d), Some(v)) = (d, v) {
            self.set(d, v);
            self.dirty |= flow::bit(d);
        }
    }

    /// Calls a quick function; leaves where it declines.
    fn quick(&mut self, f: u16, d: Var, args: &Args) {
        let Some(&target) = self.region.quick.get(&f) else {
            let status = self.b.ins().iconst(I32, i64::from(stop::RESTART));
            self.leave_here(status);
            self.done = true;
            return;
        };
        let cpu = self.b.ins().load(PTR, fixed(), self.ctx, Context::CPU as i32);
        let [a, b, c, e] = [args[0], args[1], args[2], args[3]].map(|a| self.val(a));
        let Some(value) = self.shim(self.sigs.quick, target, &[cpu, a, b, c, e]) else { return };
        let declined = self.konst(DECLINED);
        let declined = self.b.ins().icmp(IntCC::Equal, value, declined);
        let (out, on) = (self.cold(), self.b.create_block());
        self.b.ins().brif(declined, out, &[], on, &[]);
        self.begin(out);
        let status = self.b.ins().iconst(I32, i64::from(stop::RESTART));
        self.leave_here(status);
        self.begin(on);
        self.set(d, value);
    }

    /// The fast path is done here; `helper` is the cold block where it was not to be taken.
    fn or_helper(&mut self, helper: Block, f: u16, d: Option<Var>, args: &Args) {
        let on = self.b.create_block();
        self.b.ins().jump(on, &[]);
        self.begin(helper);
        self.call(f, d, args, Fx::FAULTS, true);
        self.b.ins().jump(on, &[]);
        self.begin(on);
    }

    fn label(&mut self, label: Label) -> Block {
        if let Some((_, block)) = self.labels.iter().find(|(l, _)| *l == label) {
            return *block;
        }
        let block = self.b.create_block();
        self.labels.push((label, block));
        block
    }

    /// Leaves with a trap when the comparison holds.
    fn trap(&mut self, id: u16, arg: Val) {
        let id = self.b.ins().iconst(I32, i64::from(id));
        let arg = self.val(arg);
        self.store_left();
        let target = self.targets.shims.trap as usize;
        self.shim(self.sigs.trap, target, &[self.ctx, id, arg]);
        let status = self.b.ins().iconst(I32, i64::from(stop::FAULT));
        self.leave_here(status);
    }

    fn op(&mut self, op: &Op) {
        if self.done && !matches!(op, Op::Label { .. } | Op::Insn { .. }) {
            return;
        }
        match *op {
            Op::Insn { pc, .. } => {
                self.insn += 1;
                self.pc = pc;
                self.labels.clear();
                self.most[usize::from(FIRST_TEMP)..].fill(u64::MAX);
            }
            Op::Mov { w, d, a } => {
                let v = match a {
                    Val::Imm(n) => self.konst(n & w.mask()),
                    a => {
                        let v = self.low(w, a);
                        self.wide(v)
                    }
                };
                self.set(d, v);
                if let Val::Imm(n) = a {
                    self.most[usize::from(d.0)] = n;
                }
            }
            Op::Bin { op, w, d, a, b } => {
                let v = self.bin(op, w, a, b);
                self.set(d, v);
                if let (BinOp::And, Val::Imm(m)) = (op, b) {
                    self.most[usize::from(d.0)] = m & w.mask();
                }
            }
            Op::Un { op, w, d, a } => {
                let v = self.un(op, w, a);
                self.set(d, v);
            }
            Op::Sext { from, to, d, a } => {
                let x = self.low(from, a);
                let x = if to == from { x } else { self.b.ins().sextend(int(to), x) };
                let x = self.wide(x);
                self.set(d, x);
            }
            Op::Extract { d, a, pos, len } => {
                let v = self.extract(a, pos, len);
                self.set(d, v);
            }
            Op::Deposit { d, a, b, pos, len } => {
                let v = self.deposit(a, b, pos, len);
                self.set(d, v);
            }
            Op::Set { d, cmp } => {
                let c = self.cmp(&cmp);
                let v = self.wide(c);
                self.set(d, v);
            }
            Op::Select { w, d, cmp, x, y } => {
                let c = self.cmp(&cmp);
                let (x, y) = (self.low(w, x), self.low(w, y));
                let v = self.b.ins().select(c, x, y);
                let v = self.wide(v);
                self.set(d, v);
            }
            Op::Lea { d, addr } => {
                let v = self.address(&addr);
                self.set(d, v);
            }
            Op::Load { w, d, addr, mem } => {
                let v = self.load(w, &addr, mem);
                self.set(d, v);
            }
            Op::LoadSext { w, to, d, addr, mem } => {
                let v = self.load(w, &addr, mem);
                let v = self.narrow(w, v);
                let v = if w == to { v } else { self.b.ins().sextend(int(to), v) };
                let v = self.wide(v);
                self.set(d, v);
            }
            Op::Store { w, a, addr, mem } => self.store(w, a, &addr, mem),
            Op::Probe { size, addr, mem } => {
                let target = self.targets.probe;
                self.vec_access(size.into(), &addr, mem, true, 0, target, |_, _| {});
            }
            Op::VLoad { size, d, addr, mem } => {
                let target = self.targets.vload;
                self.vec_access(size.into(), &addr, mem, false, d.0, target, |e, host| {
                    let at = vec_offset(d.0) as i32;
                    match Width::from_bytes(size.into()) {
                        None => {
                            let v = e.b.ins().load(I8X16, guest(), host, 0);
                            e.b.ins().store(own(), v, e.frame, at);
                        }
                        Some(w) => {
                            let v = e.b.ins().load(int(w), guest(), host, 0);
                            let v = e.wide(v);
                            e.b.ins().store(own(), v, e.frame, at);
                            let zero = e.konst(0);
                            e.b.ins().store(own(), zero, e.frame, at + 8);
                        }
                    }
                });
            }
            Op::VStore { size, a, addr, mem } => {
                let target = self.targets.vstore;
                self.vec_access(size.into(), &addr, mem, true, a.0, target, |e, host| {
                    let at = vec_offset(a.0) as i32;
                    let t = Width::from_bytes(size.into()).map_or(I8X16, int);
                    let v = e.b.ins().load(t, own(), e.frame, at);
                    e.b.ins().store(guest(), v, host, 0);
                });
            }
            Op::VMov { d, a } => {
                let v = self.b.ins().load(I8X16, own(), self.frame, vec_offset(a.0) as i32);
                self.b.ins().store(own(), v, self.frame, vec_offset(d.0) as i32);
            }
            Op::VConst { d, value } => {
                let (low, high) = (self.konst(value as u64), self.konst((value >> 64) as u64));
                let at = vec_offset(d.0) as i32;
                self.b.ins().store(own(), low, self.frame, at);
                self.b.ins().store(own(), high, self.frame, at + 8);
            }
            Op::VGet { w, d, a, lane } => {
                let at = u32::from(lane) * w.bytes();
                let v = if at < 16 {
                    let at = (vec_offset(a.0) + at) as i32;
                    let v = self.b.ins().load(int(w), own(), self.frame, at);
                    self.wide(v)
                } else {
                    self.konst(0)
                };
                self.set(d, v);
            }
            Op::VPut { w, d, a, lane } => {
                let at = u32::from(lane) * w.bytes();
                if at < 16 {
                    let v = self.low(w, a);
                    self.b.ins().store(own(), v, self.frame, (vec_offset(d.0) + at) as i32);
                }
            }
            Op::VecOp { kind, d, a, b, imm } => {
                let region = self.region;
                if let Some(&known) = region.kinds.get(&kind)
                    && self.vector(known, d, a, b, imm)
                {
                    return;
                }
                let what = u32::from(kind) | u32::from(imm) << 16;
                let vars = u32::from_le_bytes([d.0, a.0, b.0, 0]);
                let what = self.b.ins().iconst(I32, i64::from(what));
                let vars = self.b.ins().iconst(I32, i64::from(vars));
                let target = self.targets.shims.vec_op as usize;
                self.shim(self.sigs.vec, target, &[self.ctx, what, vars]);
            }
            Op::Float { op, d, a, b, imm, f, kind } => {
                let args = [kind.into(), d.0.into(), a.0.into(), b.0.into(), imm.into(), 0];
                let args = args.map(Val::Imm);
                match self.float(op, d, a, b) {
                    None => self.call(f, None, &args, Fx::FAULTS, false),
                    Some(helper) => self.or_helper(helper, f, None, &args),
                }
            }
            Op::FloatInt { op, d, v, a, b, f, kind } => {
                let args = [kind.into(), v.0.into(), a.0.into(), b.0.into(), 0, 0];
                let args = args.map(Val::Imm);
                match self.float_int(op, a, b) {
                    None => self.call(f, Some(d), &args, Fx::FAULTS, false),
                    Some((value, helper)) => {
                        self.set(d, value);
                        self.or_helper(helper, f, Some(d), &args);
                    }
                }
            }
            Op::Pure { f, d, args } => {
                self.store_args(&args);
                let what = self.b.ins().iconst(I32, i64::from(f));
                let target = self.targets.shims.pure as usize;
                if let Some(v) = self.shim(self.sigs.call, target, &[self.ctx, what]) {
                    self.set(d, v);
                }
            }
            Op::Quick { f, d, args } => self.quick(f, d, &args),
            Op::Call { f, d, args, fx } => self.call(f, d, &args, fx, false),
            Op::Label { label } => {
                let block = self.label(label);
                if !self.done {
                    self.b.ins().jump(block, &[]);
                }
                self.b.switch_to_block(block);
                self.done = false;
                self.known = 0;
                self.most.fill(u64::MAX);
            }
            Op::Jump { label } => {
                let block = self.label(label);
                self.b.ins().jump(block, &[]);
                self.done = true;
            }
            Op::Branch { cmp, label } => {
                let c = self.cmp(&cmp);
                let (to, on) = (self.label(label), self.b.create_block());
                self.b.ins().brif(c, to, &[], on, &[]);
                self.begin(on);
            }
            Op::TrapIf { cmp, id, arg } => {
                let c = self.cmp(&cmp);
                let (out, on) = (self.cold(), self.b.create_block());
                self.b.ins().brif(c, out, &[], on, &[]);
                self.begin(out);
                let known = self.known;
                self.trap(id, arg);
                self.known = known;
                self.begin(on);
            }
            Op::Trap { id, arg } => {
                self.trap(id, arg);
                self.done = true;
            }
            Op::ExitIf { cmp, pc } => {
                let c = self.cmp(&cmp);
                let (out, on) = (self.b.create_block(), self.b.create_block());
                if self.region.block_at(pc).is_none() {
                    self.b.set_cold_block(out);
                }
                self.b.ins().brif(c, out, &[], on, &[]);
                self.begin(out);
                self.go(pc, self.region.blocks[self.at].insns - self.insn);
                self.begin(on);
            }
            Op::Goto { pc } => {
                self.go(pc, 0);
                self.done = true;
            }
            Op::GotoVar { pc } => {
                self.go_var(pc);
                self.done = true;
            }
            Op::Leave { pc } => {
                let pc = self.val(pc);
                let left = self.b.use_var(self.left);
                self.leave(stop::LEAVE, pc, left);
                self.done = true;
            }
        }
    }
}

/// A displacement in the type it is added in.
fn sign(w: Width, disp: i64) -> i64 {
    if w == Width::W64 { disp } else { i64::from(disp as u32) }
}
