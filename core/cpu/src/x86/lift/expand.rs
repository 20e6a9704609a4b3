//! Pure functions of the flags as operations, for compiled code: what nothing looks at is then
//! computed nowhere, and what only a rare way out looks at only there.

use super::pure::{CARRY, CONDITION, FLAGS};
use crate::frame::LAST_TEMP;
use crate::ir::{Args, BinOp, Cmp, Cond, Op, UnOp, Val, Var, Width};
use crate::x86::flags::Kind;
use crate::x86::state::flag;
use Width::{W8, W64};

/// Most temporaries that one function takes.
const TEMPS: u8 = 48;

/// Appends operations that compute `d = pure(f, args)`, with temporaries from `first` on; false
/// where there are none.
pub fn expand(f: u16, d: Var, args: &Args, first: u8, out: &mut Vec<Op>) -> bool {
    if first > LAST_TEMP - TEMPS {
        return false;
    }
    let [op, dst, src, src2, ..] = *args;
    let mut x = Expand { out, next: first };
    let v = match (op, f) {
        (Val::Imm(op), CARRY | FLAGS | CONDITION..0x30) => {
            let kind = Kind::of(op);
            let w = if kind == Kind::Flags {
                W64
            } else {
                Width::from_bytes(1 << (op & 3)).unwrap_or(W64)
            };
            let cc = Cc { kind, w, dst, src, src2 };
            match f {
                CARRY => x.carry(cc),
                FLAGS => x.flags(cc),
                _ => x.condition(cc, (f - CONDITION) as u8),
            }
        }
        (op, CARRY) => x.any_carry(op, dst, src, src2),
        _ => return false,
    };
    x.out.push(Op::Mov { w: W64, d, a: v });
    true
}

/// Where the flags are from.
#[derive(Clone, Copy)]
struct Cc {
    kind: Kind,
    w: Width,
    dst: Val,
    src: Val,
    src2: Val,
}

struct Expand<'a> {
    out: &'a mut Vec<Op>,
    next: u8,
}

impl Expand<'_> {
    fn tmp(&mut self) -> Var {
        self.next += 1;
        Var(self.next - 1)
    }

    fn bin(&mut self, op: BinOp, w: Width, a: impl Into<Val>, b: impl Into<Val>) -> Val {
        let d = self.tmp();
        self.out.push(Op::Bin { op, w, d, a: a.into(), b: b.into() });
        d.into()
    }

    fn bit(&mut self, a: Val, pos: u32) -> Val {
        let d = self.tmp();
        self.out.push(Op::Extract { d, a, pos: pos as u8, len: 1 });
        d.into()
    }

    fn set(&mut self, cond: Cond, w: Width, a: impl Into<Val>, b: impl Into<Val>) -> Val {
        let d = self.tmp();
        self.out.push(Op::Set { d, cmp: Cmp::new(cond, w, a, b) });
        d.into()
    }

    fn select(&mut self, cmp: Cmp, a: Val, b: Val) -> Val {
        let d = self.tmp();
        self.out.push(Op::Select { w: W64, d, cmp, x: a, y: b });
        d.into()
    }

    /// The top bit.
    fn sign(&mut self, cc: Cc, a: Val) -> Val {
        self.bit(a, cc.w.bits() - 1)
    }

    fn result(&mut self, cc: Cc) -> Val {
        match cc.kind {
            Kind::Sub => self.bin(BinOp::Sub, cc.w, cc.dst, cc.src),
            Kind::Sbb => {
                let t = self.bin(BinOp::Sub, cc.w, cc.dst, cc.src);
                self.bin(BinOp::Sub, cc.w, t, cc.src2)
            }
            _ => cc.dst,
        }
    }

    fn carry(&mut self, cc: Cc) -> Val {
        let Cc { kind, w, dst, src, src2 } = cc;
        match kind {
            Kind::Flags
            | Kind::Inc
            | Kind::Dec
            | Kind::Mul
            | Kind::Carry
            | Kind::Shr
            | Kind::Rol => self.bit(src, 0),
            Kind::Add | Kind::Sub => self.set(Cond::LtU, w, dst, src),
            Kind::Adc | Kind::Sbb => {
                let (with, without) =
                    (self.set(Cond::LeU, w, dst, src), self.set(Cond::LtU, w, dst, src));
                self.select(Cmp::new(Cond::Ne, W64, src2, 0u64), with, without)
            }
            Kind::Logic => Val::Imm(0),
            Kind::Shl | Kind::Ror => self.sign(cc, src),
        }
    }

    /// The carry where the operation is not known: of the kinds that are met most a comparison of
    /// the operands, a bit, or 0.
    fn any_carry(&mut self, op: Val, dst: Val, src: Val, src2: Val) -> Val {
        let kind = self.bin(BinOp::Shr, W64, op, 2u64);
        let kinds = self.bin(BinOp::Shl, W64, 1u64, kind);
        // How far the operands' top bits are from bit 63: 56, 48, 32, 0.
        let size = self.bin(BinOp::And, W64, op, 3u64);
        let bits = self.bin(BinOp::Shl, W64, 8u64, size);
        let up = self.bin(BinOp::Sub, W64, 64u64, bits);
        let (a, b) = (self.bin(BinOp::Shl, W64, dst, up), self.bin(BinOp::Shl, W64, src, up));
        let less = self.set(Cond::LtU, W64, a, b);
        let same = self.set(Cond::Eq, W64, a, b);
        let same = self.bin(BinOp::And, W64, same, src2);
        let borrow = self.bin(BinOp::Or, W64, less, same);
        let top = self.bit(b, 63);
        let mut r = self.bit(src, 0);
        for (of, v) in [
            (&[Kind::Add, Kind::Sub][..], less),
            (&[Kind::Adc, Kind::Sbb], borrow),
            (&[Kind::Logic], Val::Imm(0)),
            (&[Kind::Shl, Kind::Ror], top),
        ] {
            let of = of.iter().map(|&k| 1u64 << k as u32).sum::<u64>();
            r = self.select(Cmp::new(Cond::TestNz, W64, kinds, of), v, r);
        }
        r
    }

    fn overflow(&mut self, cc: Cc) -> Val {
        let Cc { kind, w, dst, src, src2 } = cc;
        match kind {
            Kind::Flags => self.bit(src, 11),
            Kind::Add | Kind::Adc => {
                let mut a = self.bin(BinOp::Sub, W64, dst, src);
                if kind == Kind::Adc {
                    a = self.bin(BinOp::Sub, W64, a, src2);
                }
                let (p, q) =
                    (self.bin(BinOp::Xor, W64, a, dst), self.bin(BinOp::Xor, W64, src, dst));
                let both = self.bin(BinOp::And, W64, p, q);
                self.sign(cc, both)
            }
            Kind::Sub | Kind::Sbb => {
                let r = self.result(cc);
                let (p, q) =
                    (self.bin(BinOp::Xor, W64, dst, src), self.bin(BinOp::Xor, W64, dst, r));
                let both = self.bin(BinOp::And, W64, p, q);
                self.sign(cc, both)
            }
            Kind::Logic | Kind::Carry => Val::Imm(0),
            Kind::Inc => self.set(Cond::Eq, w, dst, w.sign_bit()),
            Kind::Dec => self.set(Cond::Eq, w, dst, w.mask() >> 1),
            Kind::Shl | Kind::Shr => {
                let p = self.bin(BinOp::Xor, W64, dst, src);
                self.sign(cc, p)
            }
            Kind::Mul => self.bit(src, 0),
            Kind::Rol => {
                let (top, low) = (self.sign(cc, src), self.bit(src, 0));
                self.bin(BinOp::Xor, W64, top, low)
            }
            Kind::Ror => {
                let (top, next) = (self.sign(cc, src), self.bit(src, cc.w.bits() - 2));
                self.bin(BinOp::Xor, W64, top, next)
            }
        }
    }

    fn adjust(&mut self, cc: Cc) -> Val {
        let Cc { kind, dst, src, src2, .. } = cc;
        match kind {
            Kind::Flags => self.bit(src, 4),
            Kind::Add | Kind::Adc => {
                let mut a = self.bin(BinOp::Sub, W64, dst, src);
                if kind == Kind::Adc {
                    a = self.bin(BinOp::Sub, W64, a, src2);
                }
                let p = self.bin(BinOp::Xor, W64, a, src);
                let p = self.bin(BinOp::Xor, W64, p, dst);
                self.bit(p, 4)
            }
            Kind::Sub | Kind::Sbb => {
                let r = self.result(cc);
                let p = self.bin(BinOp::Xor, W64, dst, src);
                let p = self.bin(BinOp::Xor, W64, p, r);
                self.bit(p, 4)
            }
            Kind::Inc => self.set(Cond::TestZ, W64, dst, 15u64),
            Kind::Dec => {
                let low = self.bin(BinOp::And, W64, dst, 15u64);
                self.set(Cond::Eq, W64, low, 15u64)
            }
            Kind::Logic | Kind::Carry | Kind::Shl | Kind::Shr | Kind::Mul => Val::Imm(0),
            Kind::Rol | Kind::Ror => Val::Imm(0),
        }
    }

    fn zero(&mut self, cc: Cc) -> Val {
        if cc.kind == Kind::Flags {
            return self.bit(cc.src, 6);
        }
        let r = self.result(cc);
        self.set(Cond::Eq, cc.w, r, 0u64)
    }

    fn negative(&mut self, cc: Cc) -> Val {
        if cc.kind == Kind::Flags {
            return self.bit(cc.src, 7);
        }
        let r = self.result(cc);
        self.sign(cc, r)
    }

    fn parity(&mut self, cc: Cc) -> Val {
        if cc.kind == Kind::Flags {
            return self.bit(cc.src, 2);
        }
        let a = self.result(cc);
        let d = self.tmp();
        self.out.push(Op::Un { op: UnOp::Popcnt, w: W8, d, a });
        self.set(Cond::TestZ, W64, d, 1u64)
    }

    fn flags(&mut self, cc: Cc) -> Val {
        if cc.kind == Kind::Flags {
            return self.bin(BinOp::And, W64, cc.src, flag::ARITH);
        }
        let mut all = self.carry(cc);
        for (pos, v) in [
            (2, self.parity(cc)),
            (4, self.adjust(cc)),
            (6, self.zero(cc)),
            (7, self.negative(cc)),
            (11, self.overflow(cc)),
        ] {
            let up = self.bin(BinOp::Shl, W64, v, pos as u64);
            all = self.bin(BinOp::Or, W64, all, up);
        }
        all
    }

    fn condition(&mut self, cc: Cc, code: u8) -> Val {
        let holds = match code >> 1 & 7 {
            0 => self.overflow(cc),
            1 => self.carry(cc),
            2 => self.zero(cc),
            3 => {
                let (c, z) = (self.carry(cc), self.zero(cc));
                self.bin(BinOp::Or, W64, c, z)
            }
            4 => self.negative(cc),
            5 => self.parity(cc),
            code => {
                let (n, o) = (self.negative(cc), self.overflow(cc));
                let less = self.bin(BinOp::Xor, W64, n, o);
                if code == 6 {
                    less
                } else {
                    let z = self.zero(cc);
                    self.bin(BinOp::Or, W64, less, z)
                }
            }
        };
        if code & 1 != 0 { self.bin(BinOp::Xor, W64, holds, 1u64) } else { holds }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Frame;
    use crate::ir::opt::{eval_bin, eval_extract, eval_un};
    use crate::x86::lift::pure;

    fn run(frame: &mut Frame, ops: &[Op]) {
        for op in ops {
            let get = |v: Val| match v {
                Val::Var(v) => frame.get(v),
                Val::Imm(n) => n,
            };
            let holds = |c: &Cmp| c.cond.eval(c.w, get(c.a), get(c.b));
            let (d, v) = match *op {
                Op::Mov { w, d, a } => (d, get(a) & w.mask()),
                Op::Bin { op, w, d, a, b } => (d, eval_bin(op, w, get(a), get(b))),
                Op::Un { op, w, d, a } => (d, eval_un(op, w, get(a))),
                Op::Extract { d, a, pos, len } => (d, eval_extract(get(a), pos, len)),
                Op::Set { d, cmp } => (d, holds(&cmp).into()),
                Op::Select { d, cmp, x, y, .. } => (d, if holds(&cmp) { get(x) } else { get(y) }),
                ref op => panic!("{op:?}"),
            };
            frame.set(d, v);
        }
    }

    #[test]
    fn the_operations_are_the_functions() {
        let vars = [17, 18, 19, 20].map(Var);
        let numbers =
            [0, 1, 15, 16, 0x7f, 0x80, 0xff, 0x8000, 0x7fff_ffff, 1 << 31, 1 << 63, u64::MAX];
        let mut expanded = 0;
        for f in [CARRY, FLAGS].into_iter().chain(CONDITION..CONDITION + 16) {
            for &kind in Kind::ALL {
                for size in 0..4 {
                    let op = kind.op(1 << size);
                    let mask = u64::MAX >> (64 - (8 << size));
                    for (dst, src, src2) in numbers
                        .iter()
                        .flat_map(|&d| numbers.iter().flat_map(move |&s| [(d, s, 0), (d, s, 1)]))
                    {
                        // As lifted code leaves them.
                        let (dst, src) =
                            (dst & mask, if kind == Kind::Flags { src } else { src & mask });
                        let want = pure(f, &[op, dst, src, src2, 0, 0]);
                        for known in [true, false] {
                            let mut args = [Val::Imm(0); 6];
                            args[..4].copy_from_slice(&vars.map(Val::Var));
                            if known {
                                args[0] = Val::Imm(op);
                            }
                            let mut ops = Vec::new();
                            if !expand(f, Var(70), &args, 80, &mut ops) {
                                continue;
                            }
                            expanded += 1;
                            let mut frame = Frame::new();
                            for (v, n) in vars.into_iter().zip([op, dst, src, src2]) {
                                frame.set(v, n);
                            }
                            run(&mut frame, &ops);
                            let got = frame.get(Var(70));
                            assert_eq!(
                                got, want,
                                "{f:x} of {kind:?} {size}: {dst:x} {src:x} {src2}"
                            );
                        }
                    }
                }
            }
        }
        assert!(expanded > 100_000);
    }
}
