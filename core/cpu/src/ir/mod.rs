//! The intermediate representation every front-end lifts to and every engine runs.
//!
//! A block is a list of [`Op`]s over the variables of a [`Frame`](crate::frame::Frame).
//! The rules that make faults precise and engines simple:
//!
//! 1. Every guest instruction starts with [`Op::Insn`]. Temporaries, labels and
//!    in-block branches belong to one instruction; branches go forward only
//!    (a guest loop inside an instruction, as `REP`, is a helper call).
//! 2. An instruction writes guest variables only after its last op that may fault
//!    ([`Op::may_fault`]): when an op faults, the frame is as it was before the
//!    instruction. A read-modify-write loads with [`Mem::WRITE`] intent; its store
//!    then cannot fault.
//! 3. A helper that touches guest memory, a device, the mode (anything in
//!    [`Isa::block_key`](crate::isa::Isa::block_key)) or the interrupt mask carries
//!    [`Fx::ENDS`]: its instruction is the last of the block, and the engine looks at
//!    interrupts and attention afterwards.
//! 4. An op of width `w` reads the low `w` bits of its operands and ignores the rest;
//!    its result is zero-extended to 64 bits.
//! 5. Floating-point ops ([`Op::Float`], [`Op::FloatInt`]) are helper calls that engines may do on
//!    the host where result and status are provably the guest's: [`float`] says when. Vector ops
//!    are pure functions, most of which [`vector`] names.
//! 6. The program counter is not kept in the frame while a block runs. Helpers that
//!    need it take it as an argument.

pub mod builder;
pub mod float;
pub mod opt;
pub mod stack;
pub mod text;
pub mod vector;

pub use crate::frame::{Var, VecVar};
pub use builder::Builder;
pub use float::FloatOp;
pub use vector::VecKind;

/// Width of an integer operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Width {
    /// 8 bits.
    W8,
    /// 16 bits.
    W16,
    /// 32 bits.
    W32,
    /// 64 bits.
    W64,
}

impl Width {
    /// Bits: 8, 16, 32 or 64.
    pub const fn bits(self) -> u32 {
        8 << self as u32
    }

    /// Bytes: 1, 2, 4 or 8.
    pub const fn bytes(self) -> u32 {
        1 << self as u32
    }

    /// The low bits of this width set.
    pub const fn mask(self) -> u64 {
        u64::MAX >> (64 - self.bits())
    }

    /// The most significant bit of this width.
    pub const fn sign_bit(self) -> u64 {
        1 << (self.bits() - 1)
    }

    /// Sign-extends the low bits of this width to 64.
    pub const fn sext(self, v: u64) -> u64 {
        let shift = 64 - self.bits();
        (((v << shift) as i64) >> shift) as u64
    }

    /// The width of so many bytes (1, 2, 4 or 8).
    pub const fn from_bytes(bytes: u32) -> Option<Self> {
        match bytes {
            1 => Some(Self::W8),
            2 => Some(Self::W16),
            4 => Some(Self::W32),
            8 => Some(Self::W64),
            _ => None,
        }
    }
}

/// An operand: a variable or a constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Val {
    /// A variable.
    Var(Var),
    /// A constant.
    Imm(u64),
}

impl From<Var> for Val {
    fn from(v: Var) -> Self {
        Self::Var(v)
    }
}

impl From<u64> for Val {
    fn from(v: u64) -> Self {
        Self::Imm(v)
    }
}

impl From<u32> for Val {
    fn from(v: u32) -> Self {
        Self::Imm(v.into())
    }
}

/// Two-operand integer operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BinOp {
    /// `a + b`.
    Add,
    /// `a - b`.
    Sub,
    /// Low half of `a * b`.
    Mul,
    /// High half of the unsigned product.
    MulHiU,
    /// High half of the signed product.
    MulHiS,
    /// Unsigned quotient; 0 when `b` is 0 (check first).
    DivU,
    /// Unsigned remainder; 0 when `b` is 0.
    RemU,
    /// Signed quotient towards zero; 0 when `b` is 0, wraps on overflow.
    DivS,
    /// Signed remainder; 0 when `b` is 0.
    RemS,
    /// `a & b`.
    And,
    /// `a | b`.
    Or,
    /// `a ^ b`.
    Xor,
    /// `a & !b`.
    AndNot,
    /// Shift left; the count is `b & 0xff`, and a count of the width or more gives 0.
    Shl,
    /// Logical shift right; count as for [`Shl`](Self::Shl).
    Shr,
    /// Arithmetic shift right; count as for [`Shl`](Self::Shl), large counts give the sign.
    Sar,
    /// Rotate left by `b` modulo the width.
    Rol,
    /// Rotate right by `b` modulo the width.
    Ror,
}

/// One-operand integer operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UnOp {
    /// `0 - a`.
    Neg,
    /// `!a`.
    Not,
    /// Bytes reversed (a width of 8 is the identity).
    Bswap,
    /// Leading zeros; the width itself when `a` is 0.
    Clz,
    /// Trailing zeros; the width itself when `a` is 0.
    Ctz,
    /// Number of ones.
    Popcnt,
}

/// Comparisons of two operands of one width.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cond {
    /// `a == b`.
    Eq,
    /// `a != b`.
    Ne,
    /// `a < b`, unsigned.
    LtU,
    /// `a <= b`, unsigned.
    LeU,
    /// `a > b`, unsigned.
    GtU,
    /// `a >= b`, unsigned.
    GeU,
    /// `a < b`, signed.
    LtS,
    /// `a <= b`, signed.
    LeS,
    /// `a > b`, signed.
    GtS,
    /// `a >= b`, signed.
    GeS,
    /// `a & b == 0`.
    TestZ,
    /// `a & b != 0`.
    TestNz,
}

impl Cond {
    /// The opposite comparison.
    pub const fn negate(self) -> Self {
        match self {
            Self::Eq => Self::Ne,
            Self::Ne => Self::Eq,
            Self::LtU => Self::GeU,
            Self::LeU => Self::GtU,
            Self::GtU => Self::LeU,
            Self::GeU => Self::LtU,
            Self::LtS => Self::GeS,
            Self::LeS => Self::GtS,
            Self::GtS => Self::LeS,
            Self::GeS => Self::LtS,
            Self::TestZ => Self::TestNz,
            Self::TestNz => Self::TestZ,
        }
    }

    /// Whether it holds for `a` and `b` at width `w`. Without branches: the interpreter asks this
    /// of operations that do not have the comparison in their code.
    #[inline(always)]
    pub const fn eval(self, w: Width, a: u64, b: u64) -> bool {
        const EQ: u8 = 1;
        const LTU: u8 = 2;
        const LTS: u8 = 4;
        const TZ: u8 = 8;
        /// Which of the facts make it hold, and whether they are turned round.
        const WHEN: [(u8, bool); 12] = [
            (EQ, false),
            (EQ, true),
            (LTU, false),
            (LTU | EQ, false),
            (LTU | EQ, true),
            (LTU, true),
            (LTS, false),
            (LTS | EQ, false),
            (LTS | EQ, true),
            (LTS, true),
            (TZ, false),
            (TZ, true),
        ];
        let up = 64 - w.bits();
        let (a, b) = (a << up, b << up);
        let facts = (a == b) as u8 * EQ
            | (a < b) as u8 * LTU
            | ((a as i64) < (b as i64)) as u8 * LTS
            | (a & b == 0) as u8 * TZ;
        let (when, not) = WHEN[self as usize];
        (facts & when != 0) != not
    }
}

/// A comparison with its operands: `cond(a, b)` at width `w`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cmp {
    /// The comparison.
    pub cond: Cond,
    /// Width of the operands.
    pub w: Width,
    /// Left operand.
    pub a: Val,
    /// Right operand.
    pub b: Val,
}

impl Cmp {
    /// `cond(a, b)` at width `w`.
    pub fn new(cond: Cond, w: Width, a: impl Into<Val>, b: impl Into<Val>) -> Self {
        Self { cond, w, a: a.into(), b: b.into() }
    }

    /// The opposite.
    #[must_use]
    pub const fn negate(self) -> Self {
        Self { cond: self.cond.negate(), ..self }
    }
}

/// A guest address:
/// `linear = lin(segment + wrap(base + (index << scale) + disp))`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addr {
    /// Variable with the segment's base; `None` = 0.
    pub segment: Option<Var>,
    /// Base register.
    pub base: Option<Var>,
    /// Index register.
    pub index: Option<Var>,
    /// Left shift of the index: 0 to 3.
    pub scale: u8,
    /// Constant, sign-extended.
    pub disp: i64,
    /// The offset wraps to this width (address size).
    pub wrap: Width,
    /// The sum with the segment wraps to this width (32 outside long mode).
    pub lin: Width,
}

impl Addr {
    /// The address in a variable, as it is.
    pub const fn flat(base: Var) -> Self {
        Self {
            segment: None,
            base: Some(base),
            index: None,
            scale: 0,
            disp: 0,
            wrap: Width::W64,
            lin: Width::W64,
        }
    }

    /// A constant address.
    pub const fn fixed(address: u64) -> Self {
        Self {
            segment: None,
            base: None,
            index: None,
            scale: 0,
            disp: address as i64,
            wrap: Width::W64,
            lin: Width::W64,
        }
    }
}

/// How memory is accessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mem {
    /// MMU index given to [`Isa::walk`](crate::isa::Isa::walk): which privilege (0 supervisor, 1 user, up to 3).
    pub mmu: u8,
    /// [`Mem::WRITE`] and [`Mem::LOCKED`].
    pub flags: u8,
}

impl Mem {
    /// On a load: the same bytes are stored to later in this instruction, so the page must be writable now.
    pub const WRITE: u8 = 1;
    /// Part of an atomic read-modify-write.
    pub const LOCKED: u8 = 2;

    /// A plain access with this MMU index.
    pub const fn plain(mmu: u8) -> Self {
        Self { mmu, flags: 0 }
    }

    /// The load of a read-modify-write.
    pub const fn rmw(mmu: u8) -> Self {
        Self { mmu, flags: Self::WRITE }
    }

    /// The load or store of an atomic read-modify-write.
    pub const fn locked(mmu: u8) -> Self {
        Self { mmu, flags: Self::WRITE | Self::LOCKED }
    }
}

/// Declared effects of a helper call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Fx(pub u8);

impl Fx {
    /// Reads and writes nothing but its arguments and state outside the frame; cannot fault.
    pub const NONE: Self = Self(0);
    /// May return a trap; the frame must be as before the instruction.
    pub const FAULTS: Self = Self(1);
    /// Reads guest variables of the frame.
    pub const READS: Self = Self(2);
    /// Writes guest variables of the frame.
    pub const WRITES: Self = Self(4);
    /// Touches memory, devices, mode or interrupt mask: this instruction ends the block.
    pub const ENDS: Self = Self(8);
    /// All of them: right for any helper.
    pub const ALL: Self = Self(15);

    /// Whether all of `other` is in `self`.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl core::ops::BitOr for Fx {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// A place inside an instruction to branch to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Label(pub u16);

/// The answer of a quick function that did nothing. No other answer is this.
pub const DECLINED: u64 = 0x7FF0_0000_0000_0001;

/// Arguments of a call; unused ones are `Imm(0)`.
pub type Args = [Val; 6];

/// One operation.
#[expect(missing_docs, reason = "the fields are named in each op's line")]
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Op {
    /// A guest instruction of `len` bytes starts at `pc`.
    Insn {
        /// Its program counter.
        pc: u64,
        /// Its length in bytes.
        len: u8,
    },

    /// `d = a`, zero-extended from `w`.
    Mov { w: Width, d: Var, a: Val },
    /// `d = a op b`.
    Bin { op: BinOp, w: Width, d: Var, a: Val, b: Val },
    /// `d = op a`.
    Un { op: UnOp, w: Width, d: Var, a: Val },
    /// `d = a` sign-extended from `from` to `to`, then zero-extended to 64.
    Sext { from: Width, to: Width, d: Var, a: Val },
    /// `d = (a >> pos) & ones(len)`.
    Extract { d: Var, a: Val, pos: u8, len: u8 },
    /// `d = a` with `len` bits from `pos` on replaced by the low bits of `b`.
    Deposit { d: Var, a: Val, b: Val, pos: u8, len: u8 },
    /// `d = cmp ? 1 : 0`.
    Set { d: Var, cmp: Cmp },
    /// `d = cmp ? x : y`, zero-extended from `w`.
    Select { w: Width, d: Var, cmp: Cmp, x: Val, y: Val },
    /// `d` = the address (with the segment where one is given).
    Lea { d: Var, addr: Addr },

    /// `d` = memory, zero-extended. May fault.
    Load { w: Width, d: Var, addr: Addr, mem: Mem },
    /// `d` = memory, sign-extended to `to`, then zero-extended. May fault.
    LoadSext { w: Width, to: Width, d: Var, addr: Addr, mem: Mem },
    /// Memory = low bits of `a`. May fault (not after a load of the same bytes with [`Mem::WRITE`]).
    Store { w: Width, a: Val, addr: Addr, mem: Mem },
    /// Faults unless all `size` bytes (1 to 4096) may be written.
    Probe { size: u16, addr: Addr, mem: Mem },

    /// `d = a`.
    VMov { d: VecVar, a: VecVar },
    /// `d` = constant.
    VConst { d: VecVar, value: u128 },
    /// `d` = `size` bytes (1, 2, 4, 8, 16) of memory, zero-extended. May fault.
    VLoad { size: u8, d: VecVar, addr: Addr, mem: Mem },
    /// Memory = low `size` bytes (1, 2, 4, 8, 16) of `a`. May fault.
    VStore { size: u8, a: VecVar, addr: Addr, mem: Mem },
    /// `d` = lane `lane` of width `w` of `a`, zero-extended.
    VGet { w: Width, d: Var, a: VecVar, lane: u8 },
    /// Lane `lane` of width `w` of `d` = `a`; the other lanes stay.
    VPut { w: Width, d: VecVar, a: Val, lane: u8 },
    /// `d = vec_op(kind, a, b, imm)`: a pure function of the ISA ([`Isa::vec_op`](crate::isa::Isa::vec_op)).
    VecOp { kind: u16, d: VecVar, a: VecVar, b: VecVar, imm: u8 },
    /// `d = op(a, b, imm)` on the host where that is exact, else `helper(f, [kind, d, a, b, imm])`.
    /// May fault. See [`float`] for what engines must do.
    Float { op: FloatOp, d: VecVar, a: VecVar, b: VecVar, imm: u8, f: u16, kind: u16 },
    /// The same with the integer result in `d`; the helper writes vector variable `v` besides, which is
    /// of no interest.
    FloatInt { op: FloatOp, d: Var, v: VecVar, a: VecVar, b: VecVar, f: u16, kind: u16 },

    /// `d = pure(f, args)`: a pure function of the ISA ([`Isa::pure`](crate::isa::Isa::pure)).
    Pure { f: u16, d: Var, args: Args },
    /// `d = quick(f, args)` of the first four ([`Isa::quick`](crate::isa::Isa::quick)), which works on
    /// state outside of the frame. Where it answers [`DECLINED`], having done nothing, the instruction is
    /// run on its own: `helper(f, args)` then does all of it, program counter included.
    Quick { f: u16, d: Var, args: Args },
    /// `d = helper(f, args)` ([`Isa::helper`](crate::isa::Isa::helper)) with the effects `fx`.
    Call { f: u16, d: Option<Var>, args: Args, fx: Fx },

    /// Where branches to `label` go.
    Label { label: Label },
    /// Goes to `label`.
    Jump { label: Label },
    /// Goes to `label` when `cmp` holds.
    Branch { cmp: Cmp, label: Label },

    /// Raises `trap(id, arg)` ([`Isa::trap`](crate::isa::Isa::trap)) at this instruction when `cmp` holds.
    TrapIf { cmp: Cmp, id: u16, arg: Val },
    /// Raises `trap(id, arg)` at this instruction. Ends the block.
    Trap { id: u16, arg: Val },

    /// Leaves the block for `pc` (same mode) when `cmp` holds, with this instruction done; else goes on.
    ExitIf { cmp: Cmp, pc: u64 },
    /// Goes on at `pc`, same mode. Ends the block.
    Goto { pc: u64 },
    /// Goes on at the address in `pc`, same mode. Ends the block.
    GotoVar { pc: Val },
    /// Goes on at `pc` after looking at mode, interrupts and attention. Ends the block.
    Leave { pc: Val },
}

impl Op {
    /// Whether the op may raise a trap.
    pub const fn may_fault(&self) -> bool {
        match self {
            Self::Load { .. }
            | Self::LoadSext { .. }
            | Self::Store { .. }
            | Self::Probe { .. }
            | Self::VLoad { .. }
            | Self::VStore { .. }
            | Self::Float { .. }
            | Self::FloatInt { .. }
            | Self::Quick { .. }
            | Self::TrapIf { .. }
            | Self::Trap { .. } => true,
            Self::Call { fx, .. } => fx.has(Fx::FAULTS),
            _ => false,
        }
    }

    /// The integer variable the op writes.
    #[inline]
    pub fn dest(&self) -> Option<Var> {
        let mut op = *self;
        op.dest_mut().copied()
    }

    /// The same, to have it write another one.
    #[inline]
    pub const fn dest_mut(&mut self) -> Option<&mut Var> {
        match self {
            Self::Mov { d, .. }
            | Self::Bin { d, .. }
            | Self::Un { d, .. }
            | Self::Sext { d, .. }
            | Self::Extract { d, .. }
            | Self::Deposit { d, .. }
            | Self::Set { d, .. }
            | Self::Select { d, .. }
            | Self::Lea { d, .. }
            | Self::Load { d, .. }
            | Self::LoadSext { d, .. }
            | Self::VGet { d, .. }
            | Self::FloatInt { d, .. }
            | Self::Quick { d, .. }
            | Self::Pure { d, .. } => Some(d),
            Self::Call { d, .. } => d.as_mut(),
            _ => None,
        }
    }

    /// Whether the op ends a block.
    pub const fn is_terminal(&self) -> bool {
        matches!(
            self,
            Self::Goto { .. } | Self::GotoVar { .. } | Self::Leave { .. } | Self::Trap { .. }
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comparison_and_its_opposite_never_agree_and_mean_what_they_say() {
        let values = [0, 1, 2, 0x7f, 0x80, 0xff, 0x7fff_ffff, 0x8000_0000, u64::MAX, 1 << 63];
        for w in [Width::W8, Width::W16, Width::W32, Width::W64] {
            for a in values {
                for b in values {
                    let (ua, ub) = (a & w.mask(), b & w.mask());
                    let (sa, sb) = (w.sext(a) as i64, w.sext(b) as i64);
                    let want = [
                        (Cond::Eq, ua == ub),
                        (Cond::LtU, ua < ub),
                        (Cond::LeU, ua <= ub),
                        (Cond::LtS, sa < sb),
                        (Cond::LeS, sa <= sb),
                        (Cond::TestZ, ua & ub == 0),
                    ];
                    for (cond, holds) in want {
                        assert_eq!(cond.eval(w, a, b), holds, "{cond:?} {w:?} {a:#x} {b:#x}");
                        assert_eq!(
                            cond.negate().eval(w, a, b),
                            !holds,
                            "not {cond:?} {w:?} {a:#x} {b:#x}"
                        );
                    }
                }
            }
        }
    }
}
