//! Lazy arithmetic flags: which operation set them, and each flag computed from its operands.
//!
//! `CC_OP` holds a [`Kind`] and a width ([`Kind::op`]); what `CC_DST`, `CC_SRC` and `CC_SRC2` hold
//! is said at each kind. Flags that the manual calls undefined come out as most processors
//! have them.

use super::state::{flag, var};
use crate::frame::Frame;

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident,)*) => {
        /// The operations that leave flags behind.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Kind { $($(#[$doc])* $kind,)* }

        impl Kind {
            /// Every kind, by number.
            pub const ALL: &'static [Self] = &[$(Self::$kind,)*];
        }
    };
}

kinds! {
    /// SRC = the flags themselves.
    Flags,
    /// DST = a + b, SRC = b.
    Add,
    /// DST = a + b + carry, SRC = b, SRC2 = carry.
    Adc,
    /// DST = a, SRC = b; the result is a - b.
    Sub,
    /// DST = a, SRC = b, SRC2 = borrow; the result is a - b - borrow.
    Sbb,
    /// DST = result; CF, OF and AF are clear.
    Logic,
    /// DST = result, SRC = CF as it was.
    Inc,
    /// DST = result, SRC = CF as it was.
    Dec,
    /// DST = result, SRC = operand shifted left by one less: CF is its top bit.
    Shl,
    /// DST = result, SRC = operand shifted right by one less: CF is its bit 0.
    Shr,
    /// DST = low half of the product, SRC = CF and OF.
    Mul,
    /// DST = result, SRC = CF; OF and AF are clear.
    Carry,
    /// DST = result of what came before, with AF clear; SRC = result of ROL: CF and OF.
    Rol,
    /// DST = result of what came before, with AF clear; SRC = result of ROR: CF and OF.
    Ror,
}

impl Kind {
    /// The value of `CC_OP` for operands of so many bytes.
    pub const fn op(self, bytes: u32) -> u64 {
        (self as u64) << 2 | bytes.trailing_zeros() as u64
    }

    /// The kind in a value of `CC_OP`.
    pub fn of(op: u64) -> Self {
        Self::ALL.get((op >> 2) as usize).copied().unwrap_or(Self::Flags)
    }
}

/// The parts of `CC_*`, cut to the operation's width.
#[derive(Clone, Copy)]
struct Cc {
    kind: Kind,
    bits: u32,
    mask: u64,
    dst: u64,
    src: u64,
    src2: u64,
}

impl Cc {
    #[inline]
    fn new(op: u64, dst: u64, src: u64, src2: u64) -> Self {
        let bits = 8 << (op & 3);
        let mask = u64::MAX >> (64 - bits);
        Self { kind: Kind::of(op), bits, mask, dst: dst & mask, src: src & mask, src2 }
    }

    fn sign(self, value: u64) -> bool {
        value >> (self.bits - 1) & 1 != 0
    }

    #[inline]
    fn result(self) -> u64 {
        match self.kind {
            Kind::Sub => self.dst.wrapping_sub(self.src) & self.mask,
            Kind::Sbb => self.dst.wrapping_sub(self.src).wrapping_sub(self.src2) & self.mask,
            _ => self.dst,
        }
    }

    #[inline]
    fn carry(self) -> bool {
        let Self { dst, src, src2, .. } = self;
        match self.kind {
            Kind::Flags | Kind::Inc | Kind::Dec | Kind::Mul | Kind::Carry | Kind::Rol => {
                src & 1 != 0
            }
            Kind::Add => dst < src,
            Kind::Adc => {
                if src2 != 0 {
                    dst <= src
                } else {
                    dst < src
                }
            }
            Kind::Sub => dst < src,
            Kind::Sbb => {
                if src2 != 0 {
                    dst <= src
                } else {
                    dst < src
                }
            }
            Kind::Logic => false,
            Kind::Shl | Kind::Ror => self.sign(src),
            Kind::Shr => src & 1 != 0,
        }
    }

    #[inline]
    fn overflow(self) -> bool {
        let Self { dst, src, src2, mask, .. } = self;
        match self.kind {
            Kind::Flags => src & flag::OF != 0,
            Kind::Add => {
                let a = dst.wrapping_sub(src);
                self.sign((a ^ dst) & (src ^ dst))
            }
            Kind::Adc => {
                let a = dst.wrapping_sub(src).wrapping_sub(src2);
                self.sign((a ^ dst) & (src ^ dst))
            }
            Kind::Sub | Kind::Sbb => self.sign((dst ^ src) & (dst ^ self.result())),
            Kind::Logic | Kind::Carry => false,
            Kind::Inc => dst == mask / 2 + 1,
            Kind::Dec => dst == mask / 2,
            Kind::Shl | Kind::Shr => self.sign(dst ^ src),
            Kind::Mul => src & 1 != 0,
            Kind::Rol => self.sign(src) != (src & 1 != 0),
            Kind::Ror => self.sign(src ^ src << 1),
        }
    }

    fn adjust(self) -> bool {
        let Self { dst, src, src2, .. } = self;
        match self.kind {
            Kind::Flags => src & flag::AF != 0,
            Kind::Add => (dst.wrapping_sub(src) ^ src ^ dst) & 16 != 0,
            Kind::Adc => (dst.wrapping_sub(src).wrapping_sub(src2) ^ src ^ dst) & 16 != 0,
            Kind::Sub | Kind::Sbb => (dst ^ src ^ self.result()) & 16 != 0,
            Kind::Inc => dst & 15 == 0,
            Kind::Dec => dst & 15 == 15,
            Kind::Logic | Kind::Carry | Kind::Shl | Kind::Shr | Kind::Mul => false,
            Kind::Rol | Kind::Ror => false,
        }
    }

    fn zero(self) -> bool {
        if self.kind == Kind::Flags { self.src & flag::ZF != 0 } else { self.result() == 0 }
    }

    fn negative(self) -> bool {
        if self.kind == Kind::Flags { self.src & flag::SF != 0 } else { self.sign(self.result()) }
    }

    fn parity(self) -> bool {
        if self.kind == Kind::Flags {
            self.src & flag::PF != 0
        } else {
            (self.result() as u8).count_ones().is_multiple_of(2)
        }
    }
}

fn fix(op: u64) -> u64 {
    // The flags themselves need all their bits.
    if op >> 2 == Kind::Flags as u64 { 3 } else { op }
}

/// CF, PF, AF, ZF, SF and OF in their places.
pub fn arith(op: u64, dst: u64, src: u64, src2: u64) -> u64 {
    if op >> 2 == Kind::Flags as u64 {
        return src & flag::ARITH;
    }
    let cc = Cc::new(op, dst, src, src2);
    let bit = |on: bool, flag: u64| if on { flag } else { 0 };
    bit(cc.carry(), flag::CF)
        | bit(cc.parity(), flag::PF)
        | bit(cc.adjust(), flag::AF)
        | bit(cc.zero(), flag::ZF)
        | bit(cc.negative(), flag::SF)
        | bit(cc.overflow(), flag::OF)
}

/// CF alone.
#[inline]
pub fn carry(op: u64, dst: u64, src: u64, src2: u64) -> bool {
    Cc::new(fix(op), dst, src, src2).carry()
}

/// A condition code of Jcc, SETcc and CMOVcc (SDM vol. 1 appendix B).
#[inline]
pub fn condition(code: u8, op: u64, dst: u64, src: u64, src2: u64) -> bool {
    let cc = Cc::new(fix(op), dst, src, src2);
    let holds = match code >> 1 & 7 {
        0 => cc.overflow(),
        1 => cc.carry(),
        2 => cc.zero(),
        3 => cc.carry() || cc.zero(),
        4 => cc.negative(),
        5 => cc.parity(),
        6 => cc.negative() != cc.overflow(),
        _ => cc.zero() || cc.negative() != cc.overflow(),
    };
    holds != (code & 1 != 0)
}

/// RFLAGS as the program sees them.
pub fn read(frame: &Frame) -> u64 {
    let v = &frame.ints;
    v[var::EFLAGS_REST] & !flag::ARITH
        | flag::FIXED
        | arith(v[var::CC_OP], v[var::CC_DST], v[var::CC_SRC], v[var::CC_SRC2])
}

/// Sets CF, PF, AF, ZF, SF and OF from their places in `flags`; leaves the others.
pub fn set_arith(frame: &mut Frame, flags: u64) {
    frame.ints[var::CC_OP] = Kind::Flags.op(1);
    frame.ints[var::CC_SRC] = flags & flag::ARITH;
}

/// Sets all of RFLAGS.
pub fn write(frame: &mut Frame, flags: u64) {
    set_arith(frame, flags);
    frame.ints[var::EFLAGS_REST] = flags & !flag::ARITH | flag::FIXED;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_has_the_flags_and_not_the_operation_they_are_from() {
        let blob = |op: u64, dst: u64, src: u64| {
            let mut cpu = crate::x86::bench::Bench::real().cpu;
            let ints = &mut cpu.frame.ints;
            (ints[var::CC_OP], ints[var::CC_DST], ints[var::CC_SRC]) = (op, dst, src);
            orrery_system::StateBlob::encode(&cpu)
        };
        // 5 - 5 and 7 - 7.
        let equal = blob(Kind::Sub.op(4), 5, 5);
        assert_eq!(equal, blob(Kind::Sub.op(4), 7, 7));
        assert_eq!(equal, blob(Kind::Flags.op(1), 3, flag::ZF | flag::PF));
        assert_ne!(equal, blob(Kind::Sub.op(4), 5, 6));
    }

    #[test]
    fn addition_sets_flags_as_the_manual_says() {
        // 7F + 01 = 80.
        assert_eq!(arith(Kind::Add.op(1), 0x80, 1, 0), flag::OF | flag::SF | flag::AF);
        // FF + 01 = 00.
        assert_eq!(arith(Kind::Add.op(1), 0, 1, 0), flag::CF | flag::ZF | flag::AF | flag::PF);
        // FFFF + FFFF + 1 = FFFF.
        assert_eq!(
            arith(Kind::Adc.op(2), 0xffff, 0xffff, 1),
            flag::CF | flag::SF | flag::AF | flag::PF
        );
    }

    #[test]
    fn subtraction_compares_its_operands() {
        for (a, b) in [(0u64, 0), (1, 2), (0x80, 1), (0x7f, 0xff), (0xff, 0x7f)] {
            let op = Kind::Sub.op(1);
            assert_eq!(condition(2, op, a, b, 0), a < b);
            assert_eq!(condition(4, op, a, b, 0), a == b);
            assert_eq!(condition(12, op, a, b, 0), (a as i8) < b as i8);
            assert_eq!(condition(15, op, a, b, 0), a as i8 > b as i8);
        }
    }

    #[test]
    fn every_condition_agrees_with_the_flags_it_is_made_of() {
        for &kind in Kind::ALL {
            for width in 0..4 {
                for (d, s) in [(0, 0), (1, 0x80), (0x7fff, 1), (u64::MAX, 1), (1 << 31, 1 << 31)] {
                    let op = kind.op(1 << width);
                    let f = arith(op, d, s, 1);
                    let on = |bit: u64| f & bit != 0;
                    let want = [
                        on(flag::OF),
                        on(flag::CF),
                        on(flag::ZF),
                        on(flag::CF | flag::ZF),
                        on(flag::SF),
                        on(flag::PF),
                        on(flag::SF) != on(flag::OF),
                        on(flag::ZF) || on(flag::SF) != on(flag::OF),
                    ];
                    for code in 0..16 {
                        let expected = want[usize::from(code >> 1)] != (code & 1 != 0);
                        assert_eq!(condition(code, op, d, s, 1), expected, "{kind:?} {code}");
                    }
                    assert_eq!(carry(op, d, s, 1), on(flag::CF));
                }
            }
        }
    }

    #[test]
    fn written_flags_read_back() {
        let mut frame = Frame::new();
        write(&mut frame, flag::ZF | flag::CF | flag::DF | flag::IF);
        assert_eq!(read(&frame), flag::ZF | flag::CF | flag::DF | flag::IF | flag::FIXED);
        set_arith(&mut frame, flag::OF);
        assert_eq!(read(&frame), flag::OF | flag::DF | flag::IF | flag::FIXED);
    }
}
