//! Sequences of IR ops of one instruction that the interpreter runs as one operation.
//!
//! Each is a few ops from the front of a list; none contains a label, so nothing jumps into the
//! middle, and only the first part of it may fault.

use crate::ir::{Addr, BinOp, Cmp, Cond, Mem, Op, Val, Var, Width};
use crate::uop::{FlagOp, ScaleMmu, Uop, ZERO};

/// The operation and how many ops it stands for.
type Fused = Option<(Uop, usize)>;

/// The longest sequence of ops at the front of `ops` that there is an operation for. `exits` says
/// that exits may go on without the run loop.
pub(crate) fn fuse(ops: &[Op], compared: Option<[Var; 3]>, exits: bool) -> Fused {
    match *ops.first()? {
        Op::Store { .. } => push(ops),
        Op::Load { .. } => pop(ops, exits),
        Op::Lea { .. } => limited(ops),
        Op::Bin { w: Width::W16, .. } => low_word(ops),
        Op::Bin { .. } | Op::Mov { .. } => flags(ops, compared?),
        _ => None,
    }
}

fn opt(v: Option<Var>) -> u8 {
    v.map_or(ZERO, |v| v.0)
}

/// `base + disp` and nothing else, at a width that the linear address has too.
fn simple(addr: &Addr) -> Option<(Var, i64, Width)> {
    let plain = addr.segment.is_none() && addr.index.is_none();
    let w = match (addr.wrap, addr.lin) {
        (Width::W32, _) => Width::W32,
        (Width::W64, Width::W64) => Width::W64,
        _ => return None,
    };
    plain.then_some((addr.base?, addr.disp, w))
}

/// `base += n` at the width of addresses.
fn moves(op: Option<&Op>, base: Var, w: Width) -> Option<u64> {
    match op {
        Some(&Op::Bin { op: BinOp::Add, w: bw, d, a: Val::Var(a), b: Val::Imm(n) })
            if bw == w && d == base && a == base =>
        {
            Some(n)
        }
        _ => None,
    }
}

/// A store, and its address becomes the base.
fn push(ops: &[Op]) -> Fused {
    let Op::Store { w, a, addr, mem } = ops[0] else { return None };
    let (base, disp, aw) = simple(&addr)?;
    if w != aw || mem.flags != 0 || moves(ops.get(1), base, w)? & w.mask() != disp as u64 & w.mask()
    {
        return None;
    }
    let (sm, disp) = (ScaleMmu::new(0, mem.mmu), i32::try_from(disp).ok()?);
    let base = base.0;
    let uop = match (w, a) {
        (Width::W32, Val::Var(a)) => Uop::Push32 { a: a.0, base, sm, disp },
        (Width::W64, Val::Var(a)) => Uop::Push64 { a: a.0, base, sm, disp },
        (Width::W32, Val::Imm(imm)) => {
            Uop::PushImm32 { base, sm, disp: i16::try_from(disp).ok()?, imm }
        }
        (Width::W64, Val::Imm(imm)) => {
            Uop::PushImm64 { base, sm, disp: i16::try_from(disp).ok()?, imm }
        }
        _ => return None,
    };
    Some((uop, 2))
}

/// A load from the base, which then moves; and a jump to what was loaded.
fn pop(ops: &[Op], exits: bool) -> Fused {
    let Op::Load { w, d, addr, mem } = ops[0] else { return None };
    let (base, disp, aw) = simple(&addr)?;
    if w != aw || mem.flags != 0 || disp != 0 || d == base {
        return None;
    }
    let n = moves(ops.get(1), base, w)?;
    let add = i32::try_from(w.sext(n) as i64).ok()?;
    let (sm, base) = (ScaleMmu::new(0, mem.mmu), base.0);
    let ret = exits && matches!(ops.get(2), Some(&Op::GotoVar { pc }) if pc == Val::Var(d));
    let d = d.0;
    Some(match (w, ret) {
        (Width::W32, false) => (Uop::Pop32 { d, base, sm, add }, 2),
        (Width::W32, true) => (Uop::Ret32 { d, base, sm, add }, 3),
        (Width::W64, false) => (Uop::Pop64 { d, base, sm, add }, 2),
        (Width::W64, true) => (Uop::Ret64 { d, base, sm, add }, 3),
        _ => return None,
    })
}

/// A 16-bit offset checked against the end of a 64 KiB segment, and an access there.
fn limited(ops: &[Op]) -> Fused {
    let Op::Lea { d: at, addr } = ops[0] else { return None };
    let Addr { segment: None, base, index, scale, disp, wrap: Width::W16, lin: Width::W64 } = addr
    else {
        return None;
    };
    let Some(&Op::TrapIf { cmp, id, arg: Val::Imm(0) }) = ops.get(1) else { return None };
    let Cmp { cond: Cond::GtU, w: Width::W64, a: Val::Var(a), b: Val::Imm(last) } = cmp else {
        return None;
    };
    if a != at || !(0xfff0..0x1_0000).contains(&last) {
        return None;
    }
    let (base, index, disp) = (opt(base), opt(index), disp as i16);
    let seg = |addr: &Addr| match *addr {
        Addr { segment: Some(s), base: Some(b), index: None, disp: 0, wrap, lin, .. }
            if b == at && wrap == Width::W64 && lin == Width::W32 =>
        {
            Some(s.0)
        }
        _ => None,
    };
    let (size, at) = ((0x1_0000 - last) as u8, at.0);
    let sm = |mem: Mem| ScaleMmu::new(scale, mem.mmu);
    match ops.get(2) {
        Some(&Op::Load { w, d, addr, mem })
            if mem.flags == 0 && w.bytes() == u32::from(size) && seg(&addr).is_some() =>
        {
            let (seg, sm) = (seg(&addr)?, sm(mem));
            Some((Uop::LdLimit { w, d: d.0, at, base, index, sm, seg, id, disp }, 3))
        }
        Some(&Op::Store { w, a: Val::Var(a), addr, mem })
            if w.bytes() == u32::from(size) && seg(&addr).is_some() && a.0 != at =>
        {
            let (seg, sm) = (seg(&addr)?, sm(mem));
            Some((Uop::StLimit { w, a: a.0, at, base, index, sm, seg, id, disp }, 3))
        }
        _ => {
            let sm = ScaleMmu::new(scale, 0);
            Some((Uop::LeaLimit { size, d: at, base, index, sm, id, disp }, 2))
        }
    }
}

/// A sum of 16 bits into the low half of its operand.
fn low_word(ops: &[Op]) -> Fused {
    let Op::Bin { op: BinOp::Add, d: t, a: Val::Var(a), b: Val::Imm(imm), .. } = ops[0] else {
        return None;
    };
    match ops.get(1) {
        Some(&Op::Deposit { d, a: Val::Var(x), b: Val::Var(y), pos: 0, len: 16 })
            if d == a && x == a && y == t && t != a =>
        {
            Some((Uop::AddLow16 { d: d.0, t: t.0, imm: imm as u16 }, 2))
        }
        _ => None,
    }
}

/// Arithmetic with the variables of comparisons set from its operands or its result.
fn flags(ops: &[Op], [vop, vdst, vsrc]: [Var; 3]) -> Fused {
    let (mut bin, mut n) = (None, 0);
    // What each variable is set to, and whether before the arithmetic.
    let (mut op, mut dst, mut src) = (None, None, None);
    for o in ops {
        match *o {
            Op::Mov { w: Width::W64, d, a } if d == vop && op.is_none() => op = Some(a),
            Op::Mov { w: Width::W64, d, a } if d == vdst && dst.is_none() => {
                dst = Some((a, bin.is_none()));
            }
            Op::Mov { w: Width::W64, d, a } if d == vsrc && src.is_none() => {
                src = Some((a, bin.is_none()));
            }
            Op::Bin { op, w, d, a: Val::Var(a), b } if bin.is_none() => {
                bin = Some((op, w, d, a, b));
            }
            _ => break,
        }
        n += 1;
    }
    let (op2, w, d, a, b) = bin?;
    let Some(Val::Imm(op)) = op else { return None };
    let (op, (dst, dst_early)) = (u8::try_from(op).ok()?, dst?);
    let ours = [vop, vdst, vsrc];
    if ours.contains(&d) || ours.contains(&a) || matches!(b, Val::Var(b) if ours.contains(&b)) {
        return None;
    }
    let is_b = |v: Val, early: bool| match (v, b) {
        // The operation holds it cut to the width.
        (Val::Imm(v), Val::Imm(b)) => v == b && b & w.mask() == b,
        (Val::Var(v), Val::Var(b)) => v == b && (early || b != d),
        _ => false,
    };
    let form = match src {
        None if dst == Val::Var(d) && !dst_early => Form::Result,
        Some((s, early)) if is_b(s, early) => match op2 {
            BinOp::Add if dst == Val::Var(d) && !dst_early => Form::Add,
            BinOp::Sub if dst == Val::Var(a) && (dst_early || a != d) => Form::Sub,
            _ => return None,
        },
        _ => return None,
    };
    let flag = match (form, op2) {
        (Form::Add, _) => FlagOp::AddFull,
        (Form::Sub, _) => FlagOp::SubFull,
        (_, BinOp::Add) => FlagOp::Add,
        (_, BinOp::Sub) => FlagOp::Sub,
        (_, BinOp::And) => FlagOp::And,
        (_, BinOp::Or) => FlagOp::Or,
        (_, BinOp::Xor) => FlagOp::Xor,
        _ => return None,
    };
    let (d, a) = (d.0, a.0);
    let uop = match b {
        Val::Var(b) => Uop::flags(flag, w, d, a, b.0, op)?,
        Val::Imm(b) => Uop::flags_imm(flag, w, d, a, b, op)?,
    };
    Some((uop, n))
}

/// How the variables relate to the arithmetic.
enum Form {
    /// The result alone.
    Result,
    /// The result and the second operand.
    Add,
    /// Both operands.
    Sub,
}
