//! Passes over the ops of one block: constants and copies forward, dead writes backward.

use super::{Addr, BinOp, Cmp, Cond, Fx, Label, Op, UnOp, Val, Var, Width};
use crate::frame::{FIRST_TEMP, INTS};

/// A set of integer variables.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Set([u64; INTS / 64]);

impl Set {
    /// All guest variables, no temporary: what is live where a block is left or an op may fault.
    const GUEST: Self = {
        assert!(FIRST_TEMP == 64);
        let mut s = [0; INTS / 64];
        s[0] = u64::MAX;
        Self(s)
    };

    /// These guest variables.
    const fn of_guest(bits: u64) -> Self {
        let mut s = [0; INTS / 64];
        s[0] = bits;
        Self(s)
    }

    fn has(&self, v: Var) -> bool {
        self.0[usize::from(v.0) / 64] >> (v.0 % 64) & 1 != 0
    }

    fn add(&mut self, v: Var) {
        self.0[usize::from(v.0) / 64] |= 1 << (v.0 % 64);
    }

    fn remove(&mut self, v: Var) {
        self.0[usize::from(v.0) / 64] &= !(1 << (v.0 % 64));
    }

    fn add_all(&mut self, other: &Self) {
        for (a, b) in self.0.iter_mut().zip(other.0) {
            *a |= b;
        }
    }
}

/// Runs every pass. `bits(v)`: at most so many low bits of guest variable `v` are not zero
/// wherever an instruction starts ([`Isa::var_bits`](crate::isa::Isa::var_bits)).
pub fn optimise(ops: &mut Vec<Op>, bits: impl Fn(Var) -> u32) {
    let mut start = [64; INTS];
    for v in 0..FIRST_TEMP {
        start[usize::from(v)] = bits(Var(v)) as u8;
    }
    propagate(ops, &start);
    coalesce(ops);
    remove_dead(ops, &|_| u64::MAX);
}

/// The value of a two-operand operation.
pub fn eval_bin(op: BinOp, w: Width, a: u64, b: u64) -> u64 {
    let (m, bits) = (w.mask(), w.bits());
    let (ua, ub) = (a & m, b & m);
    let (sa, sb) = (w.sext(a) as i64, w.sext(b) as i64);
    let count = (b & 0xff) as u32;
    let r = match op {
        BinOp::Add => ua.wrapping_add(ub),
        BinOp::Sub => ua.wrapping_sub(ub),
        BinOp::Mul => ua.wrapping_mul(ub),
        BinOp::MulHiU => (u128::from(ua) * u128::from(ub) >> bits) as u64,
        BinOp::MulHiS => (i128::from(sa) * i128::from(sb) >> bits) as u64,
        BinOp::DivU => ua.checked_div(ub).unwrap_or(0),
        BinOp::RemU => ua.checked_rem(ub).unwrap_or(0),
        BinOp::DivS if sb == 0 => 0,
        BinOp::DivS => sa.wrapping_div(sb) as u64,
        BinOp::RemS if sb == 0 => 0,
        BinOp::RemS => sa.wrapping_rem(sb) as u64,
        BinOp::And => ua & ub,
        BinOp::Or => ua | ub,
        BinOp::Xor => ua ^ ub,
        BinOp::AndNot => ua & !ub,
        BinOp::Shl if count >= bits => 0,
        BinOp::Shl => ua << count,
        BinOp::Shr if count >= bits => 0,
        BinOp::Shr => ua >> count,
        BinOp::Sar => (sa >> count.min(63)) as u64,
        BinOp::Rol => rotate_left(w, ua, (b % u64::from(bits)) as u32),
        BinOp::Ror => rotate_left(w, ua, bits - (b % u64::from(bits)) as u32),
    };
    r & m
}

fn rotate_left(w: Width, a: u64, n: u32) -> u64 {
    let n = n % w.bits();
    if n == 0 { a } else { a << n | a >> (w.bits() - n) }
}

/// The value of a one-operand operation.
pub fn eval_un(op: UnOp, w: Width, a: u64) -> u64 {
    let ua = a & w.mask();
    let r = match op {
        UnOp::Neg => ua.wrapping_neg(),
        UnOp::Not => !ua,
        UnOp::Bswap => ua.swap_bytes() >> (64 - w.bits()),
        UnOp::Clz => u64::from(ua.leading_zeros() - (64 - w.bits())),
        UnOp::Ctz => u64::from(ua.trailing_zeros().min(w.bits())),
        UnOp::Popcnt => u64::from(ua.count_ones()),
    };
    r & w.mask()
}

/// `len` ones at the bottom.
pub const fn ones(len: u8) -> u64 {
    if len >= 64 { u64::MAX } else { (1 << len) - 1 }
}

/// [`Op::Extract`] on values.
pub const fn eval_extract(a: u64, pos: u8, len: u8) -> u64 {
    a >> pos & ones(len)
}

/// [`Op::Deposit`] on values.
pub const fn eval_deposit(a: u64, b: u64, pos: u8, len: u8) -> u64 {
    let field = ones(len) << pos;
    a & !field | b << pos & field
}

/// What is known of variables at one point: a constant, or a copy of another variable.
struct Known {
    /// At most so many low bits are not zero.
    bits: [u8; INTS],
    val: [Option<Val>; INTS],
    /// Variables with an entry in `val`.
    set: Vec<u8>,
}

impl Known {
    fn new(bits: &[u8; INTS]) -> Self {
        Self { bits: *bits, val: [None; INTS], set: Vec::with_capacity(32) }
    }

    fn bits_of(&self, v: Val) -> u8 {
        match v {
            Val::Var(v) => self.bits[usize::from(v.0)],
            Val::Imm(n) => 64 - n.leading_zeros() as u8,
        }
    }

    fn clear(&mut self) {
        for v in self.set.drain(..) {
            self.val[usize::from(v)] = None;
        }
    }

    /// `d` changed: what was known of it and of its copies is void.
    fn kill(&mut self, d: Var) {
        let val = &mut self.val;
        self.set.retain(|&v| {
            let keep = v != d.0 && val[usize::from(v)] != Some(Val::Var(d));
            if !keep {
                val[usize::from(v)] = None;
            }
            keep
        });
    }

    fn learn(&mut self, d: Var, val: Val) {
        if val != Val::Var(d) {
            self.val[usize::from(d.0)] = Some(val);
            self.set.push(d.0);
        }
    }

    fn subst(&self, v: &mut Val) {
        if let Val::Var(x) = *v
            && let Some(known) = self.val[usize::from(x.0)]
        {
            *v = known;
        }
    }

    fn cmp(&self, c: &mut Cmp) {
        self.subst(&mut c.a);
        self.subst(&mut c.b);
    }

    fn addr(&self, a: &mut Addr) {
        let known = |v: Option<Var>| v.and_then(|v| self.val[usize::from(v.0)]);
        match known(a.segment) {
            Some(Val::Var(v)) => a.segment = Some(v),
            Some(Val::Imm(0)) => a.segment = None,
            _ => {}
        }
        match known(a.base) {
            Some(Val::Var(v)) => a.base = Some(v),
            Some(Val::Imm(n)) => {
                a.base = None;
                a.disp = a.disp.wrapping_add(n as i64);
            }
            None => {}
        }
        match known(a.index) {
            Some(Val::Var(v)) => a.index = Some(v),
            Some(Val::Imm(n)) => {
                a.index = None;
                a.disp = a.disp.wrapping_add((n << a.scale) as i64);
            }
            None => {}
        }
        if a.wrap == Width::W32 {
            a.disp = a.disp as i32 as i64;
        }
    }
}

/// Forward: constants and copies into operands, constant results into moves.
fn propagate(ops: &mut [Op], start: &[u8; INTS]) {
    let mut known = Known::new(start);
    for op in ops {
        // A copy may only be looked through while the original keeps its value, which `kill`
        // sees to; temporaries die with their instruction.
        match op {
            Op::Insn { .. } => known.clear_temps(),
            Op::Mov { a, .. } | Op::Un { a, .. } | Op::Sext { a, .. } | Op::Extract { a, .. } => {
                known.subst(a);
            }
            Op::Bin { a, b, .. } | Op::Deposit { a, b, .. } => {
                known.subst(a);
                known.subst(b);
            }
            Op::Set { cmp, .. } => known.cmp(cmp),
            Op::Select { cmp, x, y, .. } => {
                known.cmp(cmp);
                known.subst(x);
                known.subst(y);
            }
            Op::Lea { addr, .. } | Op::Load { addr, .. } | Op::LoadSext { addr, .. } => {
                known.addr(addr);
            }
            Op::Probe { addr, .. } | Op::VLoad { addr, .. } | Op::VStore { addr, .. } => {
                known.addr(addr);
            }
            Op::Store { a, addr, .. } => {
                known.subst(a);
                known.addr(addr);
            }
            Op::VPut { a, .. } => known.subst(a),
            Op::Pure { args, .. } | Op::Quick { args, .. } | Op::Call { args, .. } => {
                args.iter_mut().for_each(|a| known.subst(a));
            }
            Op::Branch { cmp, .. } | Op::ExitIf { cmp, .. } => known.cmp(cmp),
            Op::TrapIf { cmp, arg, .. } => {
                known.cmp(cmp);
                known.subst(arg);
            }
            Op::Trap { arg, .. } => known.subst(arg),
            Op::GotoVar { pc } | Op::Leave { pc } => known.subst(pc),
            Op::Label { .. } => {
                known.clear();
                known.bits = *start;
            }
            Op::Jump { .. } | Op::Goto { .. } => {}
            Op::VMov { .. }
            | Op::VConst { .. }
            | Op::VGet { .. }
            | Op::VecOp { .. }
            | Op::Float { .. }
            | Op::FloatInt { .. } => {}
        }
        fold(op);
        if let Op::Call { fx, .. } = op
            && fx.has(Fx::WRITES)
        {
            known.clear();
            known.bits = *start;
        }
        if let Op::Mov { w, a, .. } = op
            && u32::from(known.bits_of(*a)) <= w.bits()
        {
            *w = Width::W64;
        }
        if let Some(d) = op.dest() {
            let bits = result_bits(op, &known);
            known.kill(d);
            known.bits[usize::from(d.0)] = bits;
            match *op {
                Op::Mov { a: Val::Imm(n), .. } => known.learn(d, Val::Imm(n)),
                Op::Mov { w: Width::W64, a, .. } => known.learn(d, a),
                _ => {}
            }
        }
    }
}

/// At most so many low bits of what the op writes are not zero.
fn result_bits(op: &Op, known: &Known) -> u8 {
    match *op {
        Op::Mov { w, a, .. } => known.bits_of(a).min(w.bits() as u8),
        Op::Bin { op: BinOp::And, w, a, b, .. } => {
            known.bits_of(a).min(known.bits_of(b)).min(w.bits() as u8)
        }
        Op::Bin { op: BinOp::Or | BinOp::Xor, w, a, b, .. } => {
            known.bits_of(a).max(known.bits_of(b)).min(w.bits() as u8)
        }
        Op::Bin { w, .. }
        | Op::Un { w, .. }
        | Op::Select { w, .. }
        | Op::Load { w, .. }
        | Op::VGet { w, .. } => w.bits() as u8,
        Op::Sext { to, .. } | Op::LoadSext { to, .. } => to.bits() as u8,
        Op::Extract { len, .. } => len,
        Op::Deposit { a, pos, len, .. } => known.bits_of(a).max(pos + len),
        Op::Set { .. } => 1,
        Op::Lea { addr, .. } if addr.segment.is_none() => {
            addr.wrap.bits().min(addr.lin.bits()) as u8
        }
        Op::Lea { addr, .. } => addr.lin.bits() as u8,
        _ => 64,
    }
}

/// `t = ...; d = t` becomes `d = ...` where nothing between can tell: the temporary's other
/// readers read `d` instead.
fn coalesce(ops: &mut [Op]) {
    let mut insn_end = ops.len();
    for i in (0..ops.len()).rev() {
        if matches!(ops[i], Op::Insn { .. }) {
            insn_end = i;
            continue;
        }
        let Some(t) = ops[i].dest().filter(|t| t.is_temp()) else { continue };
        if ops[i].may_fault() && !matches!(ops[i], Op::Load { .. } | Op::LoadSext { .. }) {
            continue;
        }
        // The move, with nothing before it that may fault, branch, or look at `d`.
        let mut to = None;
        for (j, op) in ops.iter().enumerate().take(insn_end).skip(i + 1) {
            match *op {
                Op::Mov { w: Width::W64, d, a: Val::Var(a) } if a == t && !d.is_temp() => {
                    to = Some((j, d));
                    break;
                }
                Op::Insn { .. } => break,
                _ if op.may_fault()
                    || is_control(op)
                    || matches!(op, Op::Call { .. })
                    || op.dest() == Some(t) =>
                {
                    break;
                }
                _ => {}
            }
        }
        let Some((j, d)) = to else { continue };
        let mut clash = false;
        for op in &ops[i + 1..j] {
            clash |= op.dest() == Some(d);
            reads(op, &mut |v| clash |= v == d);
        }
        // Behind the move, `d` stands for the temporary until either is written again.
        let mut last = j;
        for (k, op) in ops.iter().enumerate().take(insn_end).skip(j + 1) {
            if matches!(op, Op::Insn { .. }) {
                break;
            }
            let mut uses = false;
            reads(op, &mut |v| uses |= v == t);
            if uses {
                last = k;
            }
            if op.dest() == Some(t) {
                break;
            }
        }
        for op in &ops[j + 1..last.max(j + 1)] {
            // Another way may come in at a label; a helper may write `d`.
            clash |= op.dest() == Some(d) || matches!(op, Op::Label { .. } | Op::Call { .. });
        }
        if clash {
            continue;
        }
        if let Some(written) = ops[i].dest_mut() {
            *written = d;
        }
        ops[j] = Op::Mov { w: Width::W64, d, a: Val::Var(d) };
        for op in &mut ops[i + 1..=last] {
            rename(op, t, d);
        }
    }
}

fn is_control(op: &Op) -> bool {
    matches!(op, Op::Label { .. } | Op::Jump { .. } | Op::Branch { .. } | Op::ExitIf { .. })
        || op.is_terminal()
}

/// Replaces reads of `from` by reads of `to`.
fn rename(op: &mut Op, from: Var, to: Var) {
    each_operand(op, &mut |v| {
        if *v == from {
            *v = to;
        }
    });
}

/// Calls `f` with every integer variable operand that is read.
fn each_operand(op: &mut Op, f: &mut impl FnMut(&mut Var)) {
    fn val(v: &mut Val, f: &mut impl FnMut(&mut Var)) {
        if let Val::Var(v) = v {
            f(v);
        }
    }
    fn cmp(c: &mut Cmp, f: &mut impl FnMut(&mut Var)) {
        val(&mut c.a, f);
        val(&mut c.b, f);
    }
    fn address(a: &mut Addr, f: &mut impl FnMut(&mut Var)) {
        [&mut a.segment, &mut a.base, &mut a.index].into_iter().flatten().for_each(f);
    }
    match op {
        Op::Mov { a, .. }
        | Op::Un { a, .. }
        | Op::Sext { a, .. }
        | Op::Extract { a, .. }
        | Op::VPut { a, .. } => {
            val(a, f);
        }
        Op::Bin { a, b, .. } | Op::Deposit { a, b, .. } => {
            val(a, f);
            val(b, f);
        }
        Op::Set { cmp: c, .. } | Op::Branch { cmp: c, .. } | Op::ExitIf { cmp: c, .. } => cmp(c, f),
        Op::Select { cmp: c, x, y, .. } => {
            cmp(c, f);
            val(x, f);
            val(y, f);
        }
        Op::TrapIf { cmp: c, arg, .. } => {
            cmp(c, f);
            val(arg, f);
        }
        Op::Trap { arg, .. } => val(arg, f),
        Op::GotoVar { pc } | Op::Leave { pc } => val(pc, f),
        Op::Pure { args, .. } | Op::Quick { args, .. } | Op::Call { args, .. } => {
            args.iter_mut().for_each(|a| val(a, f));
        }
        Op::Store { a, addr, .. } => {
            val(a, f);
            address(addr, f);
        }
        Op::Lea { addr, .. }
        | Op::Load { addr, .. }
        | Op::LoadSext { addr, .. }
        | Op::Probe { addr, .. }
        | Op::VLoad { addr, .. }
        | Op::VStore { addr, .. } => address(addr, f),
        Op::Insn { .. }
        | Op::Label { .. }
        | Op::Jump { .. }
        | Op::Goto { .. }
        | Op::VMov { .. }
        | Op::VConst { .. }
        | Op::VGet { .. }
        | Op::VecOp { .. }
        | Op::Float { .. }
        | Op::FloatInt { .. } => {}
    }
}

impl Known {
    fn clear_temps(&mut self) {
        let val = &mut self.val;
        self.set.retain(|&v| {
            let x = &mut val[usize::from(v)];
            let keep = v < FIRST_TEMP && !matches!(x, Some(Val::Var(t)) if t.is_temp());
            if !keep {
                *x = None;
            }
            keep
        });
    }
}

/// Rewrites an op whose result is known into a simpler one.
fn fold(op: &mut Op) {
    use Val::Imm;
    let imm = |d, n| Op::Mov { w: Width::W64, d, a: Imm(n) };
    *op = match *op {
        Op::Mov { w, d, a: Imm(n) } => imm(d, n & w.mask()),
        Op::Bin { op, w, d, a: Imm(a), b: Imm(b) } => imm(d, eval_bin(op, w, a, b)),
        Op::Bin { op: BinOp::Sub | BinOp::Xor, d, a: Val::Var(a), b: Val::Var(b), .. }
            if a == b =>
        {
            imm(d, 0)
        }
        Op::Bin { op: BinOp::And, d, b: Imm(0), .. } => imm(d, 0),
        Op::Bin { op: BinOp::Add | BinOp::Sub | BinOp::Or | BinOp::Xor, w, d, a, b: Imm(0) } => {
            Op::Mov { w, d, a }
        }
        Op::Bin { op: BinOp::Shl | BinOp::Shr | BinOp::Sar, w, d, a, b: Imm(0) } => {
            Op::Mov { w, d, a }
        }
        Op::Bin { op: BinOp::And | BinOp::Or, w, d, a, b } if a == b => Op::Mov { w, d, a },
        // The constant on the right, where the back ends look for it.
        Op::Bin {
            op: op @ (BinOp::Add | BinOp::Mul | BinOp::And | BinOp::Or | BinOp::Xor),
            w,
            d,
            a: a @ Imm(_),
            b,
        } => Op::Bin { op, w, d, a: b, b: a },
        Op::Un { op, w, d, a: Imm(a) } => imm(d, eval_un(op, w, a)),
        Op::Sext { from, to, d, a: Imm(a) } => imm(d, from.sext(a) & to.mask()),
        Op::Extract { d, a: Imm(a), pos, len } => imm(d, eval_extract(a, pos, len)),
        Op::Extract { d, a, pos: 0, len: 8 } => Op::Mov { w: Width::W8, d, a },
        Op::Extract { d, a, pos: 0, len: 16 } => Op::Mov { w: Width::W16, d, a },
        Op::Extract { d, a, pos: 0, len: 32 } => Op::Mov { w: Width::W32, d, a },
        Op::Extract { d, a, pos: 0, len: 64 } => Op::Mov { w: Width::W64, d, a },
        Op::Deposit { d, a: Imm(a), b: Imm(b), pos, len } => imm(d, eval_deposit(a, b, pos, len)),
        Op::Deposit { d, b, pos: 0, len: 64, .. } => Op::Mov { w: Width::W64, d, a: b },
        Op::Set { d, cmp } => match known_cmp(&cmp) {
            Some(v) => imm(d, v.into()),
            None => Op::Set { d, cmp: right(cmp) },
        },
        Op::Select { w, d, cmp, x, y } => match known_cmp(&cmp) {
            Some(true) => Op::Mov { w, d, a: x },
            Some(false) => Op::Mov { w, d, a: y },
            None => Op::Select { w, d, cmp: right(cmp), x, y },
        },
        Op::Branch { cmp, label } => match known_cmp(&cmp) {
            Some(true) => Op::Jump { label },
            _ => Op::Branch { cmp: right(cmp), label },
        },
        Op::ExitIf { cmp, pc } => Op::ExitIf { cmp: right(cmp), pc },
        Op::TrapIf { cmp, id, arg } => Op::TrapIf { cmp: right(cmp), id, arg },
        other => other,
    };
    if let Op::Mov { w, a: Imm(n), .. } = op {
        (*n, *w) = (*n & w.mask(), Width::W64);
    }
}

/// Whether a comparison's outcome is known.
fn known_cmp(c: &Cmp) -> Option<bool> {
    match (c.a, c.b) {
        (Val::Imm(a), Val::Imm(b)) => Some(c.cond.eval(c.w, a, b)),
        (a, b) if a == b => match c.cond {
            Cond::Eq | Cond::LeU | Cond::GeU | Cond::LeS | Cond::GeS => Some(true),
            Cond::Ne | Cond::LtU | Cond::GtU | Cond::LtS | Cond::GtS => Some(false),
            Cond::TestZ | Cond::TestNz => None,
        },
        _ => None,
    }
}

/// The comparison with its constant on the right; `test x, x` as a comparison with 0.
fn right(c: Cmp) -> Cmp {
    if let (Val::Imm(_), Val::Var(_)) = (c.a, c.b) {
        let cond = match c.cond {
            Cond::LtU => Cond::GtU,
            Cond::LeU => Cond::GeU,
            Cond::GtU => Cond::LtU,
            Cond::GeU => Cond::LeU,
            Cond::LtS => Cond::GtS,
            Cond::LeS => Cond::GeS,
            Cond::GtS => Cond::LtS,
            Cond::GeS => Cond::LeS,
            same => same,
        };
        return Cmp { cond, w: c.w, a: c.b, b: c.a };
    }
    match c.cond {
        Cond::TestZ if c.a == c.b => Cmp { cond: Cond::Eq, b: Val::Imm(0), ..c },
        Cond::TestNz if c.a == c.b => Cmp { cond: Cond::Ne, b: Val::Imm(0), ..c },
        _ => c,
    }
}

/// Calls `f` with every integer variable an op reads.
pub fn reads(op: &Op, f: &mut impl FnMut(Var)) {
    each_operand(&mut op.clone(), &mut |v| f(*v));
}

/// Backward: drops writes nothing reads. `there` says which guest variables (a bit each) are live at a program
/// counter that the block leads to.
pub fn remove_dead(ops: &mut Vec<Op>, there: &impl Fn(u64) -> u64) {
    let mut keep = vec![true; ops.len()];
    live(ops, there, |i| keep[i] = false);
    let mut i = 0;
    ops.retain(|_| {
        i += 1;
        keep[i - 1]
    });
}

/// The guest variables (a bit each) that are live at the start of a block, when writes that nothing reads are dropped:
/// `dead` is called with the index of each.
pub fn live(ops: &[Op], there: &impl Fn(u64) -> u64, mut dead: impl FnMut(usize)) -> u64 {
    let mut live = Set::GUEST;
    let mut at_label: Vec<(Label, Set)> = Vec::new();
    for (i, op) in ops.iter().enumerate().rev() {
        let removable = !op.may_fault()
            && !matches!(op, Op::Call { .. })
            && op.dest().is_some_and(|d| !live.has(d));
        if removable || matches!(op, Op::Mov { w: Width::W64, d, a: Val::Var(a) } if d == a) {
            dead(i);
            continue;
        }
        if let Some(d) = op.dest() {
            live.remove(d);
        }
        match *op {
            Op::Label { label } => at_label.push((label, live)),
            Op::Jump { label } | Op::Branch { label, .. } => {
                let there =
                    at_label.iter().rfind(|(l, _)| *l == label).map_or(Set::GUEST, |(_, s)| *s);
                if matches!(op, Op::Jump { .. }) {
                    live = there;
                } else {
                    live.add_all(&there);
                }
            }
            Op::ExitIf { pc, .. } => live.0[0] |= there(pc),
            Op::Goto { pc } => live = Set::of_guest(there(pc)),
            Op::Call { fx, .. } if fx.has(Fx::READS) => live.add_all(&Set::GUEST),
            _ if op.is_terminal() => live = Set::GUEST,
            _ => {}
        }
        if op.may_fault() {
            live.add_all(&Set::GUEST);
        }
        reads(op, &mut |v| live.add(v));
        if matches!(op, Op::Insn { .. }) {
            // Temporaries do not live across instructions.
            let mut guest = Set::GUEST;
            guest.0.iter_mut().zip(live.0).for_each(|(g, l)| *g &= l);
            live = guest;
        }
    }
    live.0[0]
}
