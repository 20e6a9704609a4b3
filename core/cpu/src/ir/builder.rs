//! What a front-end emits IR with.

use super::{Addr, Args, BinOp, Cmp, Cond, Fx, Label, Mem, Op, UnOp, Val, Var, VecVar, Width};
use crate::frame::{FIRST_TEMP, FIRST_VTEMP, LAST_TEMP, VECS};

/// Collects the ops of one block.
///
/// The engine calls [`begin_insn`](Self::begin_insn) before
/// [`Isa::lift`](crate::isa::Isa::lift); a front-end only emits ops.
/// `op(w, d, a, b)` methods take the destination first.
#[derive(Default)]
pub struct Builder {
    ops: Vec<Op>,
    temps: u8,
    vtemps: u8,
    labels: u16,
    ends: bool,
    /// The next instruction belongs to the one begun last.
    open: bool,
    /// The one begun last belongs to the one before it.
    behind: bool,
    insns: u16,
    insn_start: usize,
}

impl Builder {
    /// An empty block.
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets everything, keeping the allocation.
    pub fn clear(&mut self) {
        self.ops.clear();
        (self.temps, self.vtemps, self.labels, self.ends, self.insns, self.insn_start) =
            (0, 0, 0, false, 0, 0);
        (self.open, self.behind) = (false, false);
    }

    /// The ops so far.
    pub fn ops(&self) -> &[Op] {
        &self.ops
    }

    /// The ops, for the optimiser.
    pub fn ops_mut(&mut self) -> &mut Vec<Op> {
        &mut self.ops
    }

    /// Instructions begun.
    pub fn insns(&self) -> u16 {
        self.insns
    }

    /// Whether the instruction just lifted must be the last of the block.
    pub fn must_end(&self) -> bool {
        self.ends
    }

    /// Whether the last op ends the block.
    pub fn ended(&self) -> bool {
        self.ops.last().is_some_and(Op::is_terminal)
    }

    /// The run loop must look at the processor before the next instruction unless that
    /// is in this block too. A block that ends there all the same ends with [`end_at`](Self::end_at).
    pub fn keep_open(&mut self) {
        self.open = true;
    }

    /// Whether the instruction begun last follows one that kept the block open.
    pub fn is_behind_open(&self) -> bool {
        self.behind
    }

    /// Ends the block before the instruction at `pc`.
    pub fn end_at(&mut self, pc: u64) {
        if self.ends || self.open {
            self.leave(pc);
        } else {
            self.goto(pc);
        }
    }

    /// The ops of the instruction begun last.
    pub fn insn_ops(&self) -> &[Op] {
        &self.ops[self.insn_start..]
    }

    /// Takes ops of the instruction begun last away: all from the `n`th on.
    pub fn take_insn_ops(&mut self, n: usize) -> Vec<Op> {
        self.ops.split_off(self.insn_start + n)
    }

    /// Starts an instruction; temporaries of the one before are free again.
    pub fn begin_insn(&mut self, pc: u64) {
        self.insn_start = self.ops.len();
        (self.temps, self.vtemps) = (0, 0);
        self.insns += 1;
        self.behind = core::mem::take(&mut self.open);
        self.ops.push(Op::Insn { pc, len: 0 });
    }

    /// Notes the length of the instruction begun last.
    pub fn set_insn_len(&mut self, bytes: u8) {
        if let Some(Op::Insn { len, .. }) = self.ops.get_mut(self.insn_start) {
            *len = bytes;
        }
    }

    /// Removes the instruction begun last.
    pub fn abort_insn(&mut self) {
        self.ops.truncate(self.insn_start);
        self.insns -= 1;
        self.open = self.behind;
    }

    /// Removes what the instruction begun last has emitted so far.
    pub fn restart_insn(&mut self) {
        self.ops.truncate(self.insn_start + 1);
        (self.temps, self.vtemps, self.ends) = (0, 0, false);
    }

    /// A fresh temporary, good until the end of the instruction.
    pub fn tmp(&mut self) -> Var {
        let n = self.temps;
        assert!(n < LAST_TEMP - FIRST_TEMP, "too many temporaries in one instruction");
        self.temps += 1;
        Var(FIRST_TEMP + n)
    }

    /// A fresh vector temporary, good until the end of the instruction.
    pub fn vtmp(&mut self) -> VecVar {
        let n = self.vtemps;
        assert!(
            usize::from(n) < VECS - FIRST_VTEMP as usize,
            "too many vector temporaries in one instruction"
        );
        self.vtemps += 1;
        VecVar(FIRST_VTEMP + n)
    }

    /// Emits any op.
    pub fn push(&mut self, op: Op) {
        if let Op::Call { fx, .. } = op {
            self.ends |= fx.has(Fx::ENDS);
        }
        self.ops.push(op);
    }

    /// `d = a`, zero-extended from `w`.
    pub fn mov(&mut self, w: Width, d: Var, a: impl Into<Val>) {
        self.push(Op::Mov { w, d, a: a.into() });
    }

    /// `d = value`.
    pub fn konst(&mut self, d: Var, value: u64) {
        self.push(Op::Mov { w: Width::W64, d, a: Val::Imm(value) });
    }

    /// `d = a op b`.
    pub fn bin(&mut self, op: BinOp, w: Width, d: Var, a: impl Into<Val>, b: impl Into<Val>) {
        self.push(Op::Bin { op, w, d, a: a.into(), b: b.into() });
    }

    /// `d = op a`.
    pub fn un(&mut self, op: UnOp, w: Width, d: Var, a: impl Into<Val>) {
        self.push(Op::Un { op, w, d, a: a.into() });
    }

    /// `d = a + b`.
    pub fn add(&mut self, w: Width, d: Var, a: impl Into<Val>, b: impl Into<Val>) {
        self.bin(BinOp::Add, w, d, a, b);
    }

    /// `d = a - b`.
    pub fn sub(&mut self, w: Width, d: Var, a: impl Into<Val>, b: impl Into<Val>) {
        self.bin(BinOp::Sub, w, d, a, b);
    }

    /// `d = a & b`.
    pub fn and(&mut self, w: Width, d: Var, a: impl Into<Val>, b: impl Into<Val>) {
        self.bin(BinOp::And, w, d, a, b);
    }

    /// `d = a | b`.
    pub fn or(&mut self, w: Width, d: Var, a: impl Into<Val>, b: impl Into<Val>) {
        self.bin(BinOp::Or, w, d, a, b);
    }

    /// `d = a ^ b`.
    pub fn xor(&mut self, w: Width, d: Var, a: impl Into<Val>, b: impl Into<Val>) {
        self.bin(BinOp::Xor, w, d, a, b);
    }

    /// `d = a << b`.
    pub fn shl(&mut self, w: Width, d: Var, a: impl Into<Val>, b: impl Into<Val>) {
        self.bin(BinOp::Shl, w, d, a, b);
    }

    /// `d = a >> b`, logical.
    pub fn shr(&mut self, w: Width, d: Var, a: impl Into<Val>, b: impl Into<Val>) {
        self.bin(BinOp::Shr, w, d, a, b);
    }

    /// `d = a >> b`, arithmetic.
    pub fn sar(&mut self, w: Width, d: Var, a: impl Into<Val>, b: impl Into<Val>) {
        self.bin(BinOp::Sar, w, d, a, b);
    }

    /// `d = a` sign-extended from `from` to `to`.
    pub fn sext(&mut self, from: Width, to: Width, d: Var, a: impl Into<Val>) {
        self.push(Op::Sext { from, to, d, a: a.into() });
    }

    /// `d = (a >> pos) & ones(len)`.
    pub fn extract(&mut self, d: Var, a: impl Into<Val>, pos: u8, len: u8) {
        self.push(Op::Extract { d, a: a.into(), pos, len });
    }

    /// `d = a` with bits `pos..pos + len` from `b`.
    pub fn deposit(&mut self, d: Var, a: impl Into<Val>, b: impl Into<Val>, pos: u8, len: u8) {
        self.push(Op::Deposit { d, a: a.into(), b: b.into(), pos, len });
    }

    /// `d = cmp ? 1 : 0`.
    pub fn set(&mut self, d: Var, cmp: Cmp) {
        self.push(Op::Set { d, cmp });
    }

    /// `d = cond(a, b) ? 1 : 0`.
    pub fn set_if(&mut self, cond: Cond, w: Width, d: Var, a: impl Into<Val>, b: impl Into<Val>) {
        self.set(d, Cmp::new(cond, w, a, b));
    }

    /// `d = cmp ? x : y`.
    pub fn select(&mut self, w: Width, d: Var, cmp: Cmp, x: impl Into<Val>, y: impl Into<Val>) {
        self.push(Op::Select { w, d, cmp, x: x.into(), y: y.into() });
    }

    /// `d` = the address.
    pub fn lea(&mut self, d: Var, addr: Addr) {
        self.push(Op::Lea { d, addr });
    }

    /// `d` = memory.
    pub fn load(&mut self, w: Width, d: Var, addr: Addr, mem: Mem) {
        self.push(Op::Load { w, d, addr, mem });
    }

    /// `d` = memory, sign-extended to `to`.
    pub fn load_sext(&mut self, w: Width, to: Width, d: Var, addr: Addr, mem: Mem) {
        self.push(Op::LoadSext { w, to, d, addr, mem });
    }

    /// Memory = `a`.
    pub fn store(&mut self, w: Width, a: impl Into<Val>, addr: Addr, mem: Mem) {
        self.push(Op::Store { w, a: a.into(), addr, mem });
    }

    /// Faults unless `size` bytes may be written.
    pub fn probe(&mut self, size: u16, addr: Addr, mem: Mem) {
        self.push(Op::Probe { size, addr, mem });
    }

    /// `d = a`.
    pub fn vmov(&mut self, d: VecVar, a: VecVar) {
        self.push(Op::VMov { d, a });
    }

    /// `d` = memory.
    pub fn vload(&mut self, size: u8, d: VecVar, addr: Addr, mem: Mem) {
        self.push(Op::VLoad { size, d, addr, mem });
    }

    /// Memory = `a`.
    pub fn vstore(&mut self, size: u8, a: VecVar, addr: Addr, mem: Mem) {
        self.push(Op::VStore { size, a, addr, mem });
    }

    /// `d` = a lane of `a`.
    pub fn vget(&mut self, w: Width, d: Var, a: VecVar, lane: u8) {
        self.push(Op::VGet { w, d, a, lane });
    }

    /// A lane of `d` = `a`.
    pub fn vput(&mut self, w: Width, d: VecVar, a: impl Into<Val>, lane: u8) {
        self.push(Op::VPut { w, d, a: a.into(), lane });
    }

    /// `d = vec_op(kind, a, b, imm)`.
    pub fn vec_op(&mut self, kind: u16, d: VecVar, a: VecVar, b: VecVar, imm: u8) {
        self.push(Op::VecOp { kind, d, a, b, imm });
    }

    /// `d = pure(f, args)`.
    pub fn pure(&mut self, f: u16, d: Var, args: &[Val]) {
        self.push(Op::Pure { f, d, args: pad(args) });
    }

    /// `d = quick(f, args)`.
    pub fn quick(&mut self, f: u16, d: Var, args: &[Val]) {
        self.push(Op::Quick { f, d, args: pad(args) });
    }

    /// `d = helper(f, args)`.
    pub fn call(&mut self, f: u16, d: Option<Var>, args: &[Val], fx: Fx) {
        self.push(Op::Call { f, d, args: pad(args), fx });
    }

    /// A label to be placed later in this instruction.
    pub fn new_label(&mut self) -> Label {
        self.labels += 1;
        Label(self.labels - 1)
    }

    /// Places a label.
    pub fn label(&mut self, label: Label) {
        self.push(Op::Label { label });
    }

    /// Goes to a label.
    pub fn jump(&mut self, label: Label) {
        self.push(Op::Jump { label });
    }

    /// Goes to a label when `cmp` holds.
    pub fn branch(&mut self, cmp: Cmp, label: Label) {
        self.push(Op::Branch { cmp, label });
    }

    /// Raises a trap when `cmp` holds.
    pub fn trap_if(&mut self, cmp: Cmp, id: u16, arg: impl Into<Val>) {
        self.push(Op::TrapIf { cmp, id, arg: arg.into() });
    }

    /// Raises a trap; ends the block.
    pub fn trap(&mut self, id: u16, arg: impl Into<Val>) {
        self.push(Op::Trap { id, arg: arg.into() });
    }

    /// Leaves for `pc` when `cmp` holds.
    pub fn exit_if(&mut self, cmp: Cmp, pc: u64) {
        self.push(Op::ExitIf { cmp, pc });
    }

    /// Goes on at a known address; ends the block.
    pub fn goto(&mut self, pc: u64) {
        self.push(Op::Goto { pc });
    }

    /// Goes on at a computed address; ends the block.
    pub fn goto_var(&mut self, pc: impl Into<Val>) {
        self.push(Op::GotoVar { pc: pc.into() });
    }

    /// Goes on at `pc` through the run loop (mode or interrupt mask may have changed); ends the block.
    pub fn leave(&mut self, pc: impl Into<Val>) {
        self.push(Op::Leave { pc: pc.into() });
    }
}

fn pad(args: &[Val]) -> Args {
    let mut all = [Val::Imm(0); 6];
    all[..args.len()].copy_from_slice(args);
    all
}
