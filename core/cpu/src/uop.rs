//! The compact operations the interpreter runs, made from IR by [`lower`](crate::lower).
//!
//! One operation is 16 bytes. Variables are indices into the frame; [`ZERO`] always
//! holds 0 and stands for an absent base, index or segment.

use crate::ir::{BinOp, Cond, FloatOp, UnOp, Width};

/// The variable that is always 0.
pub(crate) const ZERO: u8 = 255;
/// The variable that lowering puts constants and addresses in.
pub(crate) const SCRATCH: u8 = 254;
/// A second one.
pub(crate) const SCRATCH2: u8 = 253;

/// Scale (bits 0..2) and MMU index (bits 2..4) of a memory operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ScaleMmu(pub(crate) u8);

impl ScaleMmu {
    pub(crate) fn new(scale: u8, mmu: u8) -> Self {
        Self(scale & 3 | (mmu & 3) << 2)
    }
    #[inline(always)]
    pub(crate) fn scale(self) -> u32 {
        u32::from(self.0 & 3)
    }
    #[inline(always)]
    pub(crate) fn mmu(self) -> u8 {
        self.0 >> 2
    }
}

/// The tables that the operation list, lowering and the interpreter's loop are made from:
/// operations on two operands and comparisons, each for four widths with a variable or a
/// constant on the right.
macro_rules! with_tables {
    ($m:ident! { $($head:tt)* }) => {
        $m! {
            { $($head)* }
            alu {
                Add add: (W8 Add8 Add8I u8) (W16 Add16 Add16I u16) (W32 Add32 Add32I u32) (W64 Add64 Add64I u64);
                Sub sub: (W8 Sub8 Sub8I u8) (W16 Sub16 Sub16I u16) (W32 Sub32 Sub32I u32) (W64 Sub64 Sub64I u64);
                And and: (W8 And8 And8I u8) (W16 And16 And16I u16) (W32 And32 And32I u32) (W64 And64 And64I u64);
                Or or: (W8 Or8 Or8I u8) (W16 Or16 Or16I u16) (W32 Or32 Or32I u32) (W64 Or64 Or64I u64);
                Xor xor: (W8 Xor8 Xor8I u8) (W16 Xor16 Xor16I u16) (W32 Xor32 Xor32I u32) (W64 Xor64 Xor64I u64);
                Shl shl: (W8 Shl8 Shl8I u8) (W16 Shl16 Shl16I u16) (W32 Shl32 Shl32I u32) (W64 Shl64 Shl64I u64);
                Shr shr: (W8 Shr8 Shr8I u8) (W16 Shr16 Shr16I u16) (W32 Shr32 Shr32I u32) (W64 Shr64 Shr64I u64);
                Sar sar: (W8 Sar8 Sar8I u8) (W16 Sar16 Sar16I u16) (W32 Sar32 Sar32I u32) (W64 Sar64 Sar64I u64);
            }
            cond {
                Eq eq: (W8 XEq8 XEq8I u8) (W16 XEq16 XEq16I u16) (W32 XEq32 XEq32I u32) (W64 XEq64 XEq64I u64);
                Ne ne: (W8 XNe8 XNe8I u8) (W16 XNe16 XNe16I u16) (W32 XNe32 XNe32I u32) (W64 XNe64 XNe64I u64);
                LtU lt_u: (W8 XLtU8 XLtU8I u8) (W16 XLtU16 XLtU16I u16) (W32 XLtU32 XLtU32I u32) (W64 XLtU64 XLtU64I u64);
                LeU le_u: (W8 XLeU8 XLeU8I u8) (W16 XLeU16 XLeU16I u16) (W32 XLeU32 XLeU32I u32) (W64 XLeU64 XLeU64I u64);
                GtU gt_u: (W8 XGtU8 XGtU8I u8) (W16 XGtU16 XGtU16I u16) (W32 XGtU32 XGtU32I u32) (W64 XGtU64 XGtU64I u64);
                GeU ge_u: (W8 XGeU8 XGeU8I u8) (W16 XGeU16 XGeU16I u16) (W32 XGeU32 XGeU32I u32) (W64 XGeU64 XGeU64I u64);
                LtS lt_s: (W8 XLtS8 XLtS8I u8) (W16 XLtS16 XLtS16I u16) (W32 XLtS32 XLtS32I u32) (W64 XLtS64 XLtS64I u64);
                LeS le_s: (W8 XLeS8 XLeS8I u8) (W16 XLeS16 XLeS16I u16) (W32 XLeS32 XLeS32I u32) (W64 XLeS64 XLeS64I u64);
                GtS gt_s: (W8 XGtS8 XGtS8I u8) (W16 XGtS16 XGtS16I u16) (W32 XGtS32 XGtS32I u32) (W64 XGtS64 XGtS64I u64);
                GeS ge_s: (W8 XGeS8 XGeS8I u8) (W16 XGeS16 XGeS16I u16) (W32 XGeS32 XGeS32I u32) (W64 XGeS64 XGeS64I u64);
                TestZ test_z: (W8 XTestZ8 XTestZ8I u8) (W16 XTestZ16 XTestZ16I u16) (W32 XTestZ32 XTestZ32I u32) (W64 XTestZ64 XTestZ64I u64);
                TestNz test_nz: (W8 XTestNz8 XTestNz8I u8) (W16 XTestNz16 XTestNz16I u16) (W32 XTestNz32 XTestNz32I u32) (W64 XTestNz64 XTestNz64I u64);
            }
        }
    };
}
pub(crate) use with_tables;

macro_rules! define {
    (
        { $($fixed:tt)* }
        alu { $($op:ident $f:ident: $(($w:ident $rr:ident $ri:ident $t:ident))*;)* }
        cond { $($c:ident $cf:ident: $(($cw:ident $crr:ident $cri:ident $ct:ident))*;)* }
    ) => {
        /// One operation.
        #[derive(Clone, Copy, Debug, PartialEq)]
        pub(crate) enum Uop {
            $($fixed)*
            $($(
                $rr { d: u8, a: u8, b: u8 },
                $ri { d: u8, a: u8, imm: u64 },
            )*)*
            $($(
                /// Leaves for the operation at `to` (`len` instructions), giving back `back` instructions.
                $crr { a: u8, b: u8, back: u8, len: u8, to: u32 },
                $cri { a: u8, back: u8, len: u8, imm: i32, to: u32 },
            )*)*
        }

        impl Uop {
            /// `d = a op b`, for the operations that have one of their own.
            pub(crate) fn alu(op: BinOp, w: Width, d: u8, a: u8, b: u8) -> Option<Self> {
                match (op, w) {
                    $($((BinOp::$op, Width::$w) => Some(Self::$rr { d, a, b }),)*)*
                    _ => None,
                }
            }

            /// `d = a op imm`.
            pub(crate) fn alu_imm(op: BinOp, w: Width, d: u8, a: u8, imm: u64) -> Option<Self> {
                match (op, w) {
                    $($((BinOp::$op, Width::$w) => Some(Self::$ri { d, a, imm }),)*)*
                    _ => None,
                }
            }

            /// Leaves when `cond(a, b)`.
            pub(crate) fn exit(cond: Cond, w: Width, a: u8, b: u8, back: u8, to: u32) -> Self {
                match (cond, w) {
                    $($((Cond::$c, Width::$cw) => Self::$crr { a, b, back, len: 0, to },)*)*
                }
            }

            /// Leaves when `cond(a, imm)`.
            pub(crate) fn exit_imm(cond: Cond, w: Width, a: u8, imm: i32, back: u8, to: u32) -> Self {
                match (cond, w) {
                    $($((Cond::$c, Width::$cw) => Self::$cri { a, imm, back, len: 0, to },)*)*
                }
            }

            /// Where an exit goes.
            pub(crate) fn link(&self) -> Option<u32> {
                match self {
                    Self::Goto { to, .. }
                    | Self::CmpExit { to, .. }
                    | Self::CmpExitImm { to, .. }
                    | Self::TestExitImm { to, .. } => Some(*to),
                    $($(
                        Self::$crr { to, .. } | Self::$cri { to, .. } => Some(*to),
                    )*)*
                    _ => None,
                }
            }

            /// Sets where an exit goes.
            pub(crate) fn set_link(&mut self, new_to: u32, new_len: u8) {
                match self {
                    Self::Goto { to, len }
                    | Self::CmpExit { to, len, .. }
                    | Self::CmpExitImm { to, len, .. }
                    | Self::TestExitImm { to, len, .. } => (*to, *len) = (new_to, new_len),
                    $($(
                        Self::$crr { to, len, .. } | Self::$cri { to, len, .. } => (*to, *len) = (new_to, new_len),
                    )*)*
                    _ => {}
                }
            }
        }
    };
}

with_tables!(define! {
    /// Starts a block; never executed.
    Block { id: u32 },
    /// In place of the first operation of a block of `len` instructions: it is compiled.
    Enter { region: u32, len: u8 },
    Mov64 { d: u8, a: u8 },
    Mov32 { d: u8, a: u8 },
    Mov16 { d: u8, a: u8 },
    Mov8 { d: u8, a: u8 },
    Imm { d: u8, v: u64 },
    /// `d = a; e = b`
    Mov2 { d: u8, a: u8, e: u8, b: u8 },
    /// `d = v; e = a`
    ImmMov { d: u8, e: u8, a: u8, v: u64 },
    /// `d = v; e = a; f = b`
    ImmMov2 { d: u8, e: u8, a: u8, f: u8, b: u8, v: u64 },
    /// `d = v; e = a; f = w`
    ImmMovImm { d: u8, e: u8, a: u8, f: u8, v: u32, w: u32 },
    Sx8To16 { d: u8, a: u8 },
    Sx8To32 { d: u8, a: u8 },
    Sx16To32 { d: u8, a: u8 },
    Sx8To64 { d: u8, a: u8 },
    Sx16To64 { d: u8, a: u8 },
    Sx32To64 { d: u8, a: u8 },
    Extract { d: u8, a: u8, pos: u8, len: u8 },
    /// `d = (a >> 8) & 0xff`
    ExtractH { d: u8, a: u8 },
    Deposit { d: u8, a: u8, b: u8, pos: u8, len: u8 },
    /// `d = a` with its low byte from `b`
    DepositL { d: u8, a: u8, b: u8 },
    /// `d = a` with its second byte from `b`
    DepositH { d: u8, a: u8, b: u8 },
    /// `d = a` with its low 16 bits from `b`
    DepositW { d: u8, a: u8, b: u8 },
    Mul32 { d: u8, a: u8, b: u8 },
    Mul64 { d: u8, a: u8, b: u8 },
    Bin { op: BinOp, w: Width, d: u8, a: u8, b: u8 },
    Un { op: UnOp, w: Width, d: u8, a: u8 },
    Set { cond: Cond, w: Width, d: u8, a: u8, b: u8 },
    SetImm { cond: Cond, w: Width, d: u8, a: u8, imm: i32 },
    Select { cond: Cond, w: Width, dw: Width, d: u8, a: u8, b: u8, x: u8, y: u8 },
    Lea32 { d: u8, base: u8, index: u8, sm: ScaleMmu, disp: i32 },
    Lea64 { d: u8, base: u8, index: u8, sm: ScaleMmu, disp: i32 },
    /// `d = lin(segment + wrap(...))`
    LeaSeg { d: u8, base: u8, index: u8, sm: ScaleMmu, seg: u8, wrap: Width, lin: Width, disp: i32 },

    Ld8A32 { d: u8, base: u8, index: u8, sm: ScaleMmu, disp: i32 },
    Ld16A32 { d: u8, base: u8, index: u8, sm: ScaleMmu, disp: i32 },
    Ld32A32 { d: u8, base: u8, index: u8, sm: ScaleMmu, disp: i32 },
    Ld64A32 { d: u8, base: u8, index: u8, sm: ScaleMmu, disp: i32 },
    Ld8A64 { d: u8, base: u8, index: u8, sm: ScaleMmu, disp: i32 },
    Ld16A64 { d: u8, base: u8, index: u8, sm: ScaleMmu, disp: i32 },
    Ld32A64 { d: u8, base: u8, index: u8, sm: ScaleMmu, disp: i32 },
    Ld64A64 { d: u8, base: u8, index: u8, sm: ScaleMmu, disp: i32 },
    /// 32-bit load at `u32(base + disp)`, the commonest of all.
    Ld32B { d: u8, base: u8, sm: ScaleMmu, disp: i32 },
    /// A load with write intent at `base`.
    LdW { w: Width, d: u8, base: u8, sm: ScaleMmu },
    LdW32A32 { d: u8, base: u8, index: u8, sm: ScaleMmu, disp: i32 },
    LdSx8A32 { d: u8, base: u8, index: u8, sm: ScaleMmu, disp: i32 },
    LdSx16A32 { d: u8, base: u8, index: u8, sm: ScaleMmu, disp: i32 },
    LdSx32A64 { d: u8, base: u8, index: u8, sm: ScaleMmu, disp: i32 },
    St8A32 { a: u8, base: u8, index: u8, sm: ScaleMmu, disp: i32 },
    St16A32 { a: u8, base: u8, index: u8, sm: ScaleMmu, disp: i32 },
    St32A32 { a: u8, base: u8, index: u8, sm: ScaleMmu, disp: i32 },
    St64A32 { a: u8, base: u8, index: u8, sm: ScaleMmu, disp: i32 },
    St8A64 { a: u8, base: u8, index: u8, sm: ScaleMmu, disp: i32 },
    St16A64 { a: u8, base: u8, index: u8, sm: ScaleMmu, disp: i32 },
    St32A64 { a: u8, base: u8, index: u8, sm: ScaleMmu, disp: i32 },
    St64A64 { a: u8, base: u8, index: u8, sm: ScaleMmu, disp: i32 },
    /// 32-bit store at `u32(base + disp)`.
    St32B { a: u8, base: u8, sm: ScaleMmu, disp: i32 },
    Probe { base: u8, sm: ScaleMmu, size: u16 },

    // Arithmetic that sets the variables of comparisons, as `FlagOp` says.
    FAddFull32 { d: u8, a: u8, b: u8, op: u8 },
    FAddFull32I { d: u8, a: u8, op: u8, imm: u64 },
    FAddFull64 { d: u8, a: u8, b: u8, op: u8 },
    FAddFull64I { d: u8, a: u8, op: u8, imm: u64 },
    FSubFull32 { d: u8, a: u8, b: u8, op: u8 },
    FSubFull32I { d: u8, a: u8, op: u8, imm: u64 },
    FSubFull64 { d: u8, a: u8, b: u8, op: u8 },
    FSubFull64I { d: u8, a: u8, op: u8, imm: u64 },
    FAdd32 { d: u8, a: u8, b: u8, op: u8 },
    FAdd32I { d: u8, a: u8, op: u8, imm: u64 },
    FAdd64 { d: u8, a: u8, b: u8, op: u8 },
    FAdd64I { d: u8, a: u8, op: u8, imm: u64 },
    FSub32 { d: u8, a: u8, b: u8, op: u8 },
    FSub32I { d: u8, a: u8, op: u8, imm: u64 },
    FSub64 { d: u8, a: u8, b: u8, op: u8 },
    FSub64I { d: u8, a: u8, op: u8, imm: u64 },
    FAnd32 { d: u8, a: u8, b: u8, op: u8 },
    FAnd32I { d: u8, a: u8, op: u8, imm: u64 },
    FAnd64 { d: u8, a: u8, b: u8, op: u8 },
    FAnd64I { d: u8, a: u8, op: u8, imm: u64 },
    FOr32 { d: u8, a: u8, b: u8, op: u8 },
    FOr32I { d: u8, a: u8, op: u8, imm: u64 },
    FOr64 { d: u8, a: u8, b: u8, op: u8 },
    FOr64I { d: u8, a: u8, op: u8, imm: u64 },
    FXor32 { d: u8, a: u8, b: u8, op: u8 },
    FXor32I { d: u8, a: u8, op: u8, imm: u64 },
    FXor64 { d: u8, a: u8, b: u8, op: u8 },
    FXor64I { d: u8, a: u8, op: u8, imm: u64 },

    /// A store of `a` at `base + disp`, which `base` becomes.
    Push32 { a: u8, base: u8, sm: ScaleMmu, disp: i32 },
    Push64 { a: u8, base: u8, sm: ScaleMmu, disp: i32 },
    PushImm32 { base: u8, sm: ScaleMmu, disp: i16, imm: u64 },
    PushImm64 { base: u8, sm: ScaleMmu, disp: i16, imm: u64 },
    /// `d` = memory at `base`; `base += add`.
    Pop32 { d: u8, base: u8, sm: ScaleMmu, add: i32 },
    Pop64 { d: u8, base: u8, sm: ScaleMmu, add: i32 },
    /// The same, then goes on at the address in `d`.
    Ret32 { d: u8, base: u8, sm: ScaleMmu, add: i32 },
    Ret64 { d: u8, base: u8, sm: ScaleMmu, add: i32 },
    /// `d = u16(base + (index << scale) + disp)`; traps where `size` bytes there go beyond 64 KiB.
    LeaLimit { size: u8, d: u8, base: u8, index: u8, sm: ScaleMmu, id: u16, disp: i16 },
    /// `at` as above, then `d` = memory at `u32(seg + at)`.
    LdLimit { w: Width, d: u8, at: u8, base: u8, index: u8, sm: ScaleMmu, seg: u8, id: u16, disp: i16 },
    StLimit { w: Width, a: u8, at: u8, base: u8, index: u8, sm: ScaleMmu, seg: u8, id: u16, disp: i16 },
    /// `t = u16(d + imm)`, `d` with its low half replaced by it.
    AddLow16 { d: u8, t: u8, imm: u16 },

    VMov { d: u8, a: u8 },
    VConst { d: u8, index: u32 },
    VLd { size: u8, d: u8, base: u8, sm: ScaleMmu },
    VSt { size: u8, a: u8, base: u8, sm: ScaleMmu },
    VGet { w: Width, d: u8, a: u8, lane: u8 },
    VPut { w: Width, d: u8, a: u8, lane: u8 },
    VecOp { kind: u16, d: u8, a: u8, b: u8, imm: u8 },
    /// `rest` as in [`Call`](Self::Call).
    Float { op: FloatOp, d: u8, a: u8, b: u8, imm: u8, rest: u8, f: u16, kind: u16 },
    FloatInt { op: FloatOp, d: u8, v: u8, a: u8, b: u8, rest: u8, f: u16, kind: u16 },

    Pure { f: u16, d: u8, args: u32 },
    /// `rest` as in [`Call`](Self::Call).
    Quick { f: u16, d: u8, rest: u8, args: u32 },
    /// `rest`: instructions of the block from this one on.
    Call { f: u16, d: u8, rest: u8, args: u32 },

    Jump { to: u32 },
    Branch { cond: Cond, w: Width, a: u8, b: u8, to: u32 },
    BranchImm { cond: Cond, w: Width, a: u8, imm: i32, to: u32 },
    TrapIf { cond: Cond, w: Width, a: u8, b: u8, id: u16, arg: u8 },
    Trap { id: u16, arg: u8 },

    /// Sets the three variables of a comparison to `op`, `a`, `b`, then leaves when it holds.
    CmpExit { cond: Cond, w: Width, a: u8, b: u8, op: u8, back: u8, len: u8, to: u32 },
    /// The same with a constant.
    CmpExitImm { cond: Cond, w: Width, a: u8, op: u8, back: u8, len: u8, imm: i32, to: u32 },
    /// Sets the first two of them.
    TestExitImm { cond: Cond, w: Width, a: u8, op: u8, back: u8, len: u8, imm: i32, to: u32 },

    /// Goes on at the operation `to`, a block of `len` instructions (or a stub: 0).
    Goto { len: u8, to: u32 },
    /// Goes on at the address in `a`.
    GotoVar { a: u8 },
    /// Goes on at `pc`, looked up each time.
    GotoPc { pc: u64 },
    /// An exit not taken before.
    Stub { exit: u32 },
    Leave { a: u8 },
    LeavePc { pc: u64 },
});

/// Arithmetic that sets the variables of comparisons: the operation's number, and its result, its
/// result and second operand (`AddFull`) or both operands (`SubFull`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FlagOp {
    AddFull,
    SubFull,
    Add,
    Sub,
    And,
    Or,
    Xor,
}

impl Uop {
    pub(crate) fn flags(f: FlagOp, w: Width, d: u8, a: u8, b: u8, op: u8) -> Option<Self> {
        Some(match (f, w) {
            (FlagOp::AddFull, Width::W32) => Self::FAddFull32 { d, a, b, op },
            (FlagOp::AddFull, Width::W64) => Self::FAddFull64 { d, a, b, op },
            (FlagOp::SubFull, Width::W32) => Self::FSubFull32 { d, a, b, op },
            (FlagOp::SubFull, Width::W64) => Self::FSubFull64 { d, a, b, op },
            (FlagOp::Add, Width::W32) => Self::FAdd32 { d, a, b, op },
            (FlagOp::Add, Width::W64) => Self::FAdd64 { d, a, b, op },
            (FlagOp::Sub, Width::W32) => Self::FSub32 { d, a, b, op },
            (FlagOp::Sub, Width::W64) => Self::FSub64 { d, a, b, op },
            (FlagOp::And, Width::W32) => Self::FAnd32 { d, a, b, op },
            (FlagOp::And, Width::W64) => Self::FAnd64 { d, a, b, op },
            (FlagOp::Or, Width::W32) => Self::FOr32 { d, a, b, op },
            (FlagOp::Or, Width::W64) => Self::FOr64 { d, a, b, op },
            (FlagOp::Xor, Width::W32) => Self::FXor32 { d, a, b, op },
            (FlagOp::Xor, Width::W64) => Self::FXor64 { d, a, b, op },
            _ => return None,
        })
    }

    pub(crate) fn flags_imm(f: FlagOp, w: Width, d: u8, a: u8, imm: u64, op: u8) -> Option<Self> {
        Some(match (f, w) {
            (FlagOp::AddFull, Width::W32) => Self::FAddFull32I { d, a, op, imm: imm & w.mask() },
            (FlagOp::AddFull, Width::W64) => Self::FAddFull64I { d, a, op, imm: imm & w.mask() },
            (FlagOp::SubFull, Width::W32) => Self::FSubFull32I { d, a, op, imm: imm & w.mask() },
            (FlagOp::SubFull, Width::W64) => Self::FSubFull64I { d, a, op, imm: imm & w.mask() },
            (FlagOp::Add, Width::W32) => Self::FAdd32I { d, a, op, imm: imm & w.mask() },
            (FlagOp::Add, Width::W64) => Self::FAdd64I { d, a, op, imm: imm & w.mask() },
            (FlagOp::Sub, Width::W32) => Self::FSub32I { d, a, op, imm: imm & w.mask() },
            (FlagOp::Sub, Width::W64) => Self::FSub64I { d, a, op, imm: imm & w.mask() },
            (FlagOp::And, Width::W32) => Self::FAnd32I { d, a, op, imm: imm & w.mask() },
            (FlagOp::And, Width::W64) => Self::FAnd64I { d, a, op, imm: imm & w.mask() },
            (FlagOp::Or, Width::W32) => Self::FOr32I { d, a, op, imm: imm & w.mask() },
            (FlagOp::Or, Width::W64) => Self::FOr64I { d, a, op, imm: imm & w.mask() },
            (FlagOp::Xor, Width::W32) => Self::FXor32I { d, a, op, imm: imm & w.mask() },
            (FlagOp::Xor, Width::W64) => Self::FXor64I { d, a, op, imm: imm & w.mask() },
            _ => return None,
        })
    }
}

/// Integers the operations work on.
pub(crate) trait Int: Copy {
    const BITS: u32;
    fn up(self) -> u64;
    fn signed(self) -> i64;
}

macro_rules! int {
    ($($t:ident $s:ident)*) => {$(
        impl Int for $t {
            const BITS: u32 = Self::BITS;
            #[inline(always)]
            fn up(self) -> u64 {
                u64::from(self)
            }
            #[inline(always)]
            fn signed(self) -> i64 {
                i64::from(self as $s)
            }
        }
    )*};
}
int!(u8 i8 u16 i16 u32 i32 u64 i64);

/// What each row of the operation table computes; the caller narrows the result.
pub(crate) mod alu {
    use super::Int;
    #[inline(always)]
    pub(crate) fn add<T: Int>(a: T, b: T) -> u64 {
        a.up().wrapping_add(b.up())
    }
    #[inline(always)]
    pub(crate) fn sub<T: Int>(a: T, b: T) -> u64 {
        a.up().wrapping_sub(b.up())
    }
    #[inline(always)]
    pub(crate) fn and<T: Int>(a: T, b: T) -> u64 {
        a.up() & b.up()
    }
    #[inline(always)]
    pub(crate) fn or<T: Int>(a: T, b: T) -> u64 {
        a.up() | b.up()
    }
    #[inline(always)]
    pub(crate) fn xor<T: Int>(a: T, b: T) -> u64 {
        a.up() ^ b.up()
    }
    #[inline(always)]
    pub(crate) fn shl<T: Int>(a: T, b: T) -> u64 {
        let n = b.up() as u32 & 0xff;
        if n < T::BITS { a.up() << n } else { 0 }
    }
    #[inline(always)]
    pub(crate) fn shr<T: Int>(a: T, b: T) -> u64 {
        let n = b.up() as u32 & 0xff;
        if n < T::BITS { a.up() >> n } else { 0 }
    }
    #[inline(always)]
    pub(crate) fn sar<T: Int>(a: T, b: T) -> u64 {
        (a.signed() >> (b.up() as u32 & 0xff).min(63)) as u64
    }
}

/// What each row of the comparison table asks.
pub(crate) mod cond {
    use super::Int;

    #[inline(always)]
    pub(crate) fn eq<T: Int>(a: T, b: T) -> bool {
        a.up() == b.up()
    }
    #[inline(always)]
    pub(crate) fn ne<T: Int>(a: T, b: T) -> bool {
        a.up() != b.up()
    }
    #[inline(always)]
    pub(crate) fn lt_u<T: Int>(a: T, b: T) -> bool {
        a.up() < b.up()
    }
    #[inline(always)]
    pub(crate) fn le_u<T: Int>(a: T, b: T) -> bool {
        a.up() <= b.up()
    }
    #[inline(always)]
    pub(crate) fn gt_u<T: Int>(a: T, b: T) -> bool {
        a.up() > b.up()
    }
    #[inline(always)]
    pub(crate) fn ge_u<T: Int>(a: T, b: T) -> bool {
        a.up() >= b.up()
    }
    #[inline(always)]
    pub(crate) fn lt_s<T: Int>(a: T, b: T) -> bool {
        a.signed() < b.signed()
    }
    #[inline(always)]
    pub(crate) fn le_s<T: Int>(a: T, b: T) -> bool {
        a.signed() <= b.signed()
    }
    #[inline(always)]
    pub(crate) fn gt_s<T: Int>(a: T, b: T) -> bool {
        a.signed() > b.signed()
    }
    #[inline(always)]
    pub(crate) fn ge_s<T: Int>(a: T, b: T) -> bool {
        a.signed() >= b.signed()
    }
    #[inline(always)]
    pub(crate) fn test_z<T: Int>(a: T, b: T) -> bool {
        a.up() & b.up() == 0
    }
    #[inline(always)]
    pub(crate) fn test_nz<T: Int>(a: T, b: T) -> bool {
        a.up() & b.up() != 0
    }
}
