//! Regions as code for x86-64 hosts, made in one pass: the quick kind of code on these hosts.
//!
//! The first eight guest variables (all general registers of a 32-bit x86 guest) stay in host registers from
//! region to region; the others are in the frame. A region that ends goes on in the next one by
//! a jump, with nothing stored or loaded in between ([`stubs`]). Temporaries are in two more
//! registers while there is room. What does not run in the common case is behind the region's code and
//! ends in stubs that all regions share.
//!
//! | host register | holds |
//! |---|---|
//! | RBX R8 RSI R10 RDI R9 R11 R12 | guest variables 0 to 7 |
//! | R13 | a temporary of an instruction, or a guest variable within a block ([`held`]) |
//! | R15 | the host's address of a group of accesses ([`spans`]), or the same |
//! | RAX RCX RDX | nothing from one operation to the next |
//! | RBP | the frame, and [`BIAS`] more |
//! | R14 | the fast TLB; where guest registers have 64 bits, as R13 |
//! | RSP | the slots of [`slot`] |
//! | XMM1 to XMM15 | vector variables, within a block ([`xmm`]) |

mod alu;
mod asm;
mod calls;
mod float;
mod held;
mod late;
mod memory;
mod stack;
mod stubs;
mod vector;
mod ways;
mod xmm;

pub(super) use asm::Code;
use asm::{Alu, Asm, At, Mark, R8, R9, R10, R11, R12, R15, RAX, RBP, RBX, RDI};
use asm::{RSI, RSP, Reg, Rm, at};
pub(super) use stubs::{Stubs, make as make_stubs};

use held::Held;
use late::Late;
use stack::Fpu;
use ways::Cold;
use xmm::Vectors;

use crate::frame::{FIRST_TEMP, INTS};
use crate::ir::{Label, Op, Val, Var, Width, opt};
use crate::jit::abi::{int_offset, vec_offset};
use crate::region::spans::{Group, Span, spans};
use crate::region::{Region, flow};

/// What RBP is ahead of the frame, so that a byte reaches 32 variables.
const BIAS: i32 = 128;
/// Where guest variables 0 to 7 are.
const PINNED: [Reg; 8] = [RBX, R8, RSI, R10, RDI, R9, R11, R12];

/// Where the code behind the entry begins, in which variables are in their registers: what another
/// region jumps to.
pub(super) const BODY: u32 = 16;

/// What is on the host's stack while regions run: offsets from RSP.
mod slot {
    /// The context.
    pub(super) const CTX: i32 = 0;
    /// Instructions left.
    pub(super) const LEFT: i32 = 8;
    /// Pages in place.
    pub(super) const PAGES: i32 = 16;
    /// The number of the region.
    pub(super) const REGION: i32 = 20;
    /// What a stub gives back if it faults.
    pub(super) const REST: i32 = 24;
    /// The host's addresses of groups of accesses, where R15 is taken.
    pub(super) const GROUPS: [i32; 5] = [32, 40, 48, 56, 64];
    /// Where the floating-point control and status word is: [`float`](super::float::word).
    pub(super) const FLOAT: i32 = 72;
    /// The host's own word.
    pub(super) const MXCSR: i32 = 76;
    /// The guest's TOP at the start of a run of [`stack`](super::stack) instructions.
    pub(super) const TOP: i32 = 80;
    /// The host's own x87 control word.
    pub(super) const CONTROL: i32 = 84;
    /// An operand in memory.
    pub(super) const OPERAND: i32 = 88;
    /// The fast TLB.
    pub(super) const TLB: i32 = 96;
    /// The host's x87 environment, 28 bytes.
    pub(super) const ENVIRONMENT: i32 = 104;
    /// All of them, so that RSP is a multiple of 16 with six registers pushed.
    pub(super) const SIZE: i32 = 136;
}

/// Whether this host runs what is made here.
pub(super) fn works_here() -> bool {
    std::arch::is_x86_feature_detected!("popcnt") && std::arch::is_x86_feature_detected!("sse4.1")
}

/// An operand.
#[derive(Clone, Copy, Debug)]
enum Src {
    Reg(Reg),
    Mem(At),
    Imm(u64),
}

impl From<Rm> for Src {
    fn from(rm: Rm) -> Self {
        match rm {
            Rm::Reg(r) => Self::Reg(r),
            Rm::Mem(m) => Self::Mem(m),
        }
    }
}

/// What a load makes of what it finds.
#[derive(Clone, Copy, Debug)]
enum Extend {
    /// With zeros.
    Zero,
    /// With its sign to this width, and with zeros from there.
    Sign(Width),
}

/// What is known at a place in a block.
struct State {
    insn: u32,
    pc: u64,
    temps: Vec<(Var, Reg)>,
    late: Vec<Late>,
    held: Held,
    vectors: Vectors,
    float_ready: bool,
    fpu: Fpu,
}

/// The rest of a block once more, every access on its own: for where a group is not in one page that may be
/// accessed.
struct Plain {
    block: usize,
    /// The operation it begins at, and what is known there.
    from: usize,
    state: State,
    /// Where it is jumped to: operations and their marks.
    marks: Vec<(usize, Mark)>,
}

struct Emit<'a> {
    a: Asm,
    region: &'a Region,
    stubs: &'a Stubs,
    budget: flow::Budget,
    blocks: Vec<Mark>,
    /// The block that is emitted next.
    next: Option<usize>,
    /// The operation is the last of its block.
    last: bool,
    at: usize,
    insn: u32,
    pc: u64,
    /// Where the instruction's temporaries are, if in registers.
    temps: Vec<(Var, Reg)>,
    late: Vec<Late>,
    /// Guest registers have 64 bits, and there are more of them.
    wide: bool,
    held: Held,
    vectors: Vectors,
    /// The host's floating-point register has the guest's word.
    float_ready: bool,
    fpu: Fpu,
    /// The block's groups of accesses, what belongs to them, and where the host's address of each is: R15, a slot,
    /// or nowhere for want of room.
    groups: Vec<Group>,
    spans: Vec<Span>,
    keeps: Vec<Option<Rm>>,
    /// The operation being emitted.
    index: usize,
    /// The one that was done with the division before it.
    rest_done: Option<usize>,
    /// What this block wants emitted again, and what other ones do.
    plain: Option<Plain>,
    plains: Vec<Plain>,
    /// Where the plain copy that is being emitted is jumped to.
    copy: Vec<(usize, Mark)>,
    /// At most this is in a variable, as far as the instruction says.
    most: [u64; INTS],
    labels: Vec<(Label, Mark)>,
    cold: Vec<Cold>,
    /// What follows is not reached.
    done: bool,
}

/// Makes the code of a region.
pub(super) fn region(region: &Region, stubs: &Stubs) -> Code {
    let mut a = Asm::default();
    // The entry that the runtime calls: everything goes into its registers.
    a.lea_ahead(BODY as i32 - 7);
    a.jump_to(stubs.enter);
    a.fill(BODY as usize);
    let blocks = region.blocks.iter().map(|_| a.mark()).collect();
    let budget = flow::budget(region);
    let mut e = Emit {
        a,
        region,
        stubs,
        budget,
        blocks,
        next: None,
        last: false,
        at: 0,
        insn: 0,
        pc: 0,
        temps: Vec::new(),
        late: Vec::new(),
        wide: region.bits[0] == 64,
        held: Held::default(),
        vectors: Vectors::default(),
        float_ready: false,
        fpu: Fpu::default(),
        groups: Vec::new(),
        spans: Vec::new(),
        keeps: Vec::new(),
        index: 0,
        rest_done: None,
        plain: None,
        plains: Vec::new(),
        copy: Vec::new(),
        most: [u64::MAX; INTS],
        labels: Vec::new(),
        cold: Vec::new(),
        done: false,
    };
    e.look(0);
    let order = order(region);
    for (i, &n) in order.iter().enumerate() {
        e.next = order.get(i + 1).copied();
        e.block(n);
    }
    e.last = false;
    loop {
        for cold in std::mem::take(&mut e.cold) {
            e.emit_cold(cold);
        }
        match e.plains.pop() {
            Some(plain) => e.again(plain),
            None if e.cold.is_empty() => break,
            None => {}
        }
    }
    e.a.finish()
}

/// The blocks in the order of their code: where one surely goes on comes next.
fn order(region: &Region) -> Vec<usize> {
    let mut order = Vec::with_capacity(region.blocks.len());
    let mut taken = vec![false; region.blocks.len()];
    for first in 0..region.blocks.len() {
        let mut at = Some(first);
        while let Some(n) = at.filter(|&n| !taken[n]) {
            taken[n] = true;
            order.push(n);
            at = match region.blocks[n].ops.last() {
                Some(Op::Goto { pc }) => region.block_at(*pc),
                _ => None,
            };
        }
    }
    order
}

/// A guest or temporary variable's place in the frame.
fn home(v: Var) -> At {
    at(RBP, int_offset(v.0) as i32 - BIAS)
}

/// A vector variable's.
fn vector_home(v: u8) -> At {
    at(RBP, vec_offset(v) as i32 - BIAS)
}

/// The width of the host's operation for one of this width.
fn host(w: Width) -> Width {
    if w == Width::W64 { w } else { Width::W32 }
}

impl Emit<'_> {
    fn block(&mut self, n: usize) {
        let region = self.region;
        let block = &region.blocks[n];
        (self.at, self.insn, self.pc, self.done) = (n, 0, block.pc, false);
        self.most.fill(u64::MAX);
        self.a.here(self.blocks[n]);
        self.a.alu_imm(Alu::Sub, Width::W64, at(RSP, slot::LEFT), block.insns as i32);
        self.late.clear();
        self.held = Held::default();
        self.vectors = Vectors::default();
        self.float_ready = false;
        self.fpu = Fpu::default();
        (self.groups, self.spans) = spans(&block.ops);
        self.keep();
        self.ops(0);
        self.plains.extend(self.plain.take());
    }

    /// The rest of a block, without spans.
    fn again(&mut self, plain: Plain) {
        let Plain { block, from, state, marks } = plain;
        (self.at, self.insn, self.pc, self.done) = (block, state.insn, state.pc, false);
        (self.temps, self.late, self.copy) = (state.temps, state.late, marks);
        (self.vectors, self.float_ready) = (state.vectors, state.float_ready);
        (self.held, self.fpu) = (state.held, state.fpu);
        self.spans.clear();
        // Temporaries are to be where the other copy has them.
        self.keeps.resize(1, None);
        self.labels.clear();
        self.most.fill(u64::MAX);
        self.ops(from);
    }

    /// The operations of the block from the given one on.
    fn ops(&mut self, from: usize) {
        let region = self.region;
        let block = &region.blocks[self.at];
        for (i, op) in block.ops.iter().enumerate().skip(from) {
            (self.index, self.last) = (i, i + 1 == block.ops.len());
            if let Some(&(_, mark)) = self.copy.iter().find(|m| m.0 == i) {
                self.a.here(mark);
            }
            if let Op::Insn { pc, .. } = *op {
                self.insn += 1;
                self.pc = pc;
                self.labels.clear();
                self.vectors.end_instruction();
                self.most[usize::from(FIRST_TEMP)..].fill(u64::MAX);
                self.assign(&block.ops[i + 1..]);
            } else {
                self.op(op);
                self.claimed(op);
                self.overwritten(op);
            }
        }
        if !self.done {
            self.flush();
            self.exit(self.pc);
        }
    }

    /// Finds a place for the host's address of each group of the block.
    fn keep(&mut self) {
        self.keeps.clear();
        self.keeps.resize(self.groups.len(), None);
        // The last operation that uses a place.
        let mut until = [None::<usize>; 1 + slot::GROUPS.len()];
        for n in 0..self.spans.len() {
            let Span { op, group, first, .. } = self.spans[n];
            if !first {
                continue;
            }
            let Some(k) = until.iter().position(|u| u.is_none_or(|u| u < op)) else { continue };
            until[k] = self.spans.iter().rfind(|s| s.group == group).map(|s| s.op);
            let place = if k == 0 { R15.into() } else { at(RSP, slot::GROUPS[k - 1]).into() };
            self.keeps[group] = Some(place);
        }
    }

    /// What is known here.
    fn state(&self) -> State {
        State {
            insn: self.insn,
            pc: self.pc,
            temps: self.temps.clone(),
            late: self.late.clone(),
            held: self.held,
            vectors: self.vectors,
            float_ready: self.float_ready,
            fpu: self.fpu.clone(),
        }
    }

    /// The mark of the current operation in the plain copy of the block.
    fn plainly(&mut self) -> Mark {
        let mark = self.a.mark();
        let (block, from) = (self.at, self.index);
        if let Some(plain) = &mut self.plain {
            plain.marks.push((from, mark));
            return mark;
        }
        let state = self.state();
        self.plain = Some(Plain { block, from, state, marks: vec![(from, mark)] });
        mark
    }

    /// Finds registers for the temporaries of the instruction whose operations these are.
    fn assign(&mut self, ops: &[Op]) {
        self.temps.clear();
        // First and last operation that mentions each.
        let mut seen: Vec<(Var, usize, usize)> = Vec::new();
        for (i, op) in ops.iter().enumerate() {
            if matches!(op, Op::Insn { .. }) {
                break;
            }
            let mut mention = |v: Var| {
                if !v.is_temp() {
                    return;
                }
                match seen.iter_mut().find(|s| s.0 == v) {
                    Some(s) => s.2 = i,
                    None => seen.push((v, i, i)),
                }
            };
            opt::reads(op, &mut mention);
            op.dest().into_iter().for_each(&mut mention);
            // It is written together with the quotient.
            alu::rest_of(ops, i).into_iter().for_each(|(_, rest)| mention(rest));
        }
        // Two are enough for most; those that hold nothing first.
        let mut free: Vec<Reg> = self.pool().collect();
        free.sort_by_key(|&r| !self.held.is_free(r));
        free.truncate(2);
        let mut until = vec![None::<usize>; free.len()];
        for (v, first, last) in seen {
            if let Some(n) = until.iter().position(|u| u.is_none_or(|u| u <= first)) {
                if until[n].is_none() {
                    self.evict(free[n]);
                }
                until[n] = Some(last);
                self.temps.push((v, free[n]));
            }
        }
    }

    /// Where a variable is.
    fn place(&self, v: Var) -> Rm {
        if let Some(&r) = PINNED.get(usize::from(v.0)) {
            return r.into();
        }
        match self.temps.iter().find(|t| t.0 == v) {
            Some(&(_, r)) if v.is_temp() => r.into(),
            _ => self.held.find(v).map_or(home(v).into(), Rm::Reg),
        }
    }

    fn src(&self, v: Val) -> Src {
        match v {
            Val::Imm(n) => Src::Imm(n),
            Val::Var(v) => self.place(v).into(),
        }
    }

    /// The register to compute a variable in: its own, or RAX.
    fn target(&self, d: Var) -> Reg {
        match self.place(d) {
            Rm::Reg(r) => r,
            Rm::Mem(_) => RAX,
        }
    }

    /// A variable was computed in its [`target`](Self::target), all 64 bits.
    fn computed(&mut self, d: Var) {
        if let Rm::Mem(m) = self.place(d) {
            self.a.store(Width::W64, m, RAX);
        }
        self.most[usize::from(d.0)] = u64::MAX;
    }

    /// The low bits of `r` are the value of a variable.
    fn put(&mut self, w: Width, d: Var, r: Reg) {
        match self.place(d) {
            Rm::Reg(x) if x == r && w == Width::W64 => {}
            Rm::Reg(x) => self.a.load(w, x, r),
            Rm::Mem(m) => {
                if w != Width::W64 {
                    self.a.load(w, r, r);
                }
                self.a.store(Width::W64, m, r);
            }
        }
        self.most[usize::from(d.0)] = u64::MAX;
    }

    /// `r` = an operand, of which the low bits of this width count. Leaves the flags alone.
    fn fetch(&mut self, w: Width, r: Reg, s: Src) {
        match s {
            Src::Reg(x) if x == r => {}
            Src::Reg(x) => self.a.load(host(w), r, x),
            Src::Mem(m) => self.a.load(host(w), r, m),
            Src::Imm(n) => match u32::try_from(n & w.mask()) {
                Ok(n) => self.a.set_quiet(r, n),
                Err(_) => self.a.set(r, n),
            },
        }
    }

    /// The same with zeros above the width.
    fn fetch_zero(&mut self, w: Width, r: Reg, s: Src) {
        match s {
            Src::Reg(x) => self.a.load(w, r, x),
            Src::Mem(m) => self.a.load(w, r, m),
            Src::Imm(_) => self.fetch(w, r, s),
        }
    }

    /// The same with the sign to 64 bits.
    fn fetch_signed(&mut self, w: Width, r: Reg, s: Src) {
        match s {
            Src::Reg(x) => self.a.load_signed(w, true, r, x),
            Src::Mem(m) => self.a.load_signed(w, true, r, m),
            Src::Imm(n) => self.a.set(r, w.sext(n)),
        }
    }

    fn label(&mut self, label: Label) -> Mark {
        if let Some(&(_, mark)) = self.labels.iter().find(|(l, _)| *l == label) {
            return mark;
        }
        let mark = self.a.mark();
        self.labels.push((label, mark));
        mark
    }

    fn op(&mut self, op: &Op) {
        if self.done && !matches!(op, Op::Label { .. }) {
            return;
        }
        self.settle(op);
        self.claim(op);
        match *op {
            Op::Insn { .. } => {}
            Op::Mov { w, d, a } if self.may_wait(d, a) => {
                let a = if let Val::Imm(n) = a { Val::Imm(n & w.mask()) } else { a };
                self.late.push(Late { d, w, a });
                self.most[usize::from(d.0)] = u64::MAX;
            }
            Op::Mov { w, d, a } => self.mov(w, d, a),
            Op::Bin { op, w, d, a, b } => self.bin(op, w, d, a, b),
            Op::Un { op, w, d, a } => self.un(op, w, d, a),
            Op::Sext { from, to, d, a } => self.sext(from, to, d, a),
            Op::Extract { d, a, pos, len } => self.extract(d, a, pos, len),
            Op::Deposit { d, a, b, pos, len } => self.deposit(d, a, b, pos, len),
            Op::Set { d, cmp } => {
                let cc = self.cmp(&cmp);
                self.a.setcc(cc, RAX);
                self.put(Width::W8, d, RAX);
                self.most[usize::from(d.0)] = 1;
            }
            Op::Select { w, d, cmp, x, y } => self.select(w, d, &cmp, x, y),
            Op::Lea { d, addr } => {
                self.address(&addr);
                self.put(Width::W64, d, RAX);
            }
            Op::Load { w, d, addr, mem } => self.read(w, Extend::Zero, d, &addr, mem),
            Op::LoadSext { w, to, d, addr, mem } => self.read(w, Extend::Sign(to), d, &addr, mem),
            Op::Store { w, a, addr, mem } => self.write(w, a, &addr, mem),
            Op::Probe { size, addr, mem } => self.probe(size, &addr, mem),
            Op::VLoad { size, d, addr, mem } => self.vread(size, d, &addr, mem),
            Op::VStore { size, a, addr, mem } => self.vwrite(size, a, &addr, mem),
            Op::VMov { d, a } => {
                let from = self.vector(a);
                let r = self.new_vector(d);
                if r != from {
                    self.a.vmove(r, from);
                }
            }
            Op::VConst { d, value: 0 } => {
                let r = self.new_vector(d);
                self.a.vop(0xef, r, r);
            }
            Op::VConst { d, value } => {
                let m = self.take_vector(d);
                self.put_constant(m, value as u64);
                self.put_constant(At { disp: m.disp + 8, ..m }, (value >> 64) as u64);
            }
            Op::VGet { w, d, a, lane } => {
                let byte = u32::from(lane) * w.bytes();
                let r = self.target(d);
                if byte < 16 {
                    let m = self.vector_place(a);
                    self.a.load(w, r, At { disp: m.disp + byte as i32, ..m });
                } else {
                    self.a.set(r, 0);
                }
                self.computed(d);
            }
            Op::VPut { w, d, a, lane } => {
                let byte = u32::from(lane) * w.bytes();
                if byte < 16 {
                    let (m, a) = (self.take_vector(d), self.src(a));
                    let r = self.in_register(w, RAX, a);
                    self.a.store(w, At { disp: m.disp + byte as i32, ..m }, r);
                }
            }
            Op::VecOp { kind, d, a, b, imm } => self.vec_op(kind, d, a, b, imm),
            Op::Float { op, d, a, b, imm, .. } if self.floats() => self.float(op, d, a, b, imm),
            Op::FloatInt { op, d, a, b, .. } if self.floats() => self.float_int(op, d, a, b),
            Op::Float { d, a, b, imm, f, kind, .. } => {
                let args = [kind.into(), d.0.into(), a.0.into(), b.0.into(), imm.into(), 0];
                self.call(f, None, &args.map(Val::Imm));
            }
            Op::FloatInt { d, v, a, b, f, kind, .. } => {
                let args = [kind.into(), v.0.into(), a.0.into(), b.0.into(), 0, 0];
                self.call(f, Some(d), &args.map(Val::Imm));
            }
            Op::Pure { f, d, ref args } => self.pure(f, d, args),
            Op::Quick { f, d, ref args } => {
                if !self.stack_op(f, d, args) {
                    self.flush();
                    self.quick(f, d, args);
                }
            }
            Op::Call { f, d, ref args, .. } => self.call(f, d, args),
            Op::Label { label } => {
                let mark = self.label(label);
                self.a.here(mark);
                self.forget_held();
                self.forget_vectors();
                (self.done, self.float_ready, self.fpu.ready) = (false, false, false);
                self.most.fill(u64::MAX);
            }
            Op::Jump { label } => {
                let mark = self.label(label);
                self.a.jump(mark);
                self.done = true;
            }
            Op::Branch { cmp, label } => {
                let cc = self.cmp(&cmp);
                let mark = self.label(label);
                self.a.jump_if(cc, mark);
            }
            Op::TrapIf { cmp, id, arg } => {
                let cc = self.cmp(&cmp);
                let here = self.a.mark();
                self.a.jump_if(cc, here);
                self.trap(here, id, arg);
            }
            Op::Trap { id, arg } => {
                let here = self.a.mark();
                self.a.jump(here);
                self.trap(here, id, arg);
                self.done = true;
            }
            Op::ExitIf { cmp, pc } => {
                let cc = self.cmp(&cmp);
                self.go_if(cc, pc);
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
                let pc = self.src(pc);
                self.fetch(Width::W64, RAX, pc);
                self.a.jump_to(self.stubs.resume);
                self.done = true;
            }
        }
    }
}
