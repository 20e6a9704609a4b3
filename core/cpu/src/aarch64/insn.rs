//! Encodings of A64 (Arm ARM DDI 0487, chapter C4), by group.
//!
//! Advanced SIMD and scalar floating point are rows of a class each (`opcode` tells the instructions of a class
//! apart): what they do is done from the word itself by `simd/`.

crate::decode_table! {
    /// Instructions and classes of instructions.
    pub enum Insn: 32 by 21 {
        // C4.1.2: data processing, immediate.
        Adr "op immlo:2 10000 immhi:19 Rd:5"
        AddSubImm "sf op S 100010 sh imm12:12 Rn:5 Rd:5"
        LogicalImm "sf opc:2 100100 N immr:6 imms:6 Rn:5 Rd:5"
        MoveWide "sf opc:2 100101 hw:2 imm16:16 Rd:5"
        Bitfield "sf opc:2 100110 N immr:6 imms:6 Rn:5 Rd:5"
        Extract "sf 00 100111 N 0 Rm:5 imms:6 Rn:5 Rd:5"

        // C4.1.3: branches, exceptions, system.
        BCond "0101010 0 imm19:19 0 cond:4"
        Svc "11010100 000 imm16:16 000 01"
        Hvc "11010100 000 imm16:16 000 10"
        Smc "11010100 000 imm16:16 000 11"
        Brk "11010100 001 imm16:16 000 00"
        Hlt "11010100 010 imm16:16 000 00"
        Hint "11010101 00 0 00 011 0010 CRm:4 op2:3 11111"
        Clrex "11010101 00 0 00 011 0011 CRm:4 010 11111"
        Dsb "11010101 00 0 00 011 0011 CRm:4 100 11111"
        Dmb "11010101 00 0 00 011 0011 CRm:4 101 11111"
        Isb "11010101 00 0 00 011 0011 CRm:4 110 11111"
        MsrImm "11010101 00 0 00 op1:3 0100 CRm:4 op2:3 11111"
        Sys "11010101 00 L 01 op1:3 CRn:4 CRm:4 op2:3 Rt:5"
        MsrMrs "11010101 00 L 1 o0 op1:3 CRn:4 CRm:4 op2:3 Rt:5"
        Br "1101011 0000 11111 000000 Rn:5 00000"
        Blr "1101011 0001 11111 000000 Rn:5 00000"
        Ret "1101011 0010 11111 000000 Rn:5 00000"
        Eret "1101011 0100 11111 000000 11111 00000"
        B "op 00101 imm26:26"
        Cb "sf 011010 op imm19:19 Rt:5"
        Tb "b5 011011 op b40:5 imm14:14 Rt:5"

        // C4.1.4: loads and stores.
        LdStExcl "size:2 001000 0 L 0 Rs:5 o0 Rt2:5 Rn:5 Rt:5"
        LdStExclPair "1 sz 001000 0 L 1 Rs:5 o0 Rt2:5 Rn:5 Rt:5"
        LdStOrdered "size:2 001000 1 L 0 Rs:5 1 Rt2:5 Rn:5 Rt:5"
        Cas "size:2 001000 1 L 1 Rs:5 o0 11111 Rn:5 Rt:5"
        CasPair "0 sz 001000 0 L 1 Rs:5 o0 11111 Rn:5 Rt:5"
        LdLiteral "opc:2 011 V 00 imm19:19 Rt:5"
        LdStPair "opc:2 101 V 0 mode:2 L imm7:7 Rt2:5 Rn:5 Rt:5"
        LdStUnscaled "size:2 111 V 00 opc:2 0 imm9:9 00 Rn:5 Rt:5"
        LdStPost "size:2 111 V 00 opc:2 0 imm9:9 01 Rn:5 Rt:5"
        LdStUnpriv "size:2 111 0 00 opc:2 0 imm9:9 10 Rn:5 Rt:5"
        LdStPre "size:2 111 V 00 opc:2 0 imm9:9 11 Rn:5 Rt:5"
        LdStReg "size:2 111 V 00 opc:2 1 Rm:5 option:3 S 10 Rn:5 Rt:5"
        LdStUnsigned "size:2 111 V 01 opc:2 imm12:12 Rn:5 Rt:5"
        Atomic "size:2 111 0 00 A R 1 Rs:5 o3 opc:3 00 Rn:5 Rt:5"
        LdStMulti "0 Q 001100 0 L 000000 opcode:4 size:2 Rn:5 Rt:5"
        LdStMultiPost "0 Q 001100 1 L 0 Rm:5 opcode:4 size:2 Rn:5 Rt:5"
        LdStSingle "0 Q 001101 0 L R 00000 opcode:3 S size:2 Rn:5 Rt:5"
        LdStSinglePost "0 Q 001101 1 L R Rm:5 opcode:3 S size:2 Rn:5 Rt:5"

        // C4.1.5: data processing, register.
        LogicalShifted "sf opc:2 01010 shift:2 N Rm:5 imm6:6 Rn:5 Rd:5"
        AddSubShifted "sf op S 01011 shift:2 0 Rm:5 imm6:6 Rn:5 Rd:5"
        AddSubExt "sf op S 01011 00 1 Rm:5 option:3 imm3:3 Rn:5 Rd:5"
        AddSubCarry "sf op S 11010000 Rm:5 000000 Rn:5 Rd:5"
        CondCmpReg "sf op 1 11010010 Rm:5 cond:4 0 0 Rn:5 0 nzcv:4"
        CondCmpImm "sf op 1 11010010 imm5:5 cond:4 1 0 Rn:5 0 nzcv:4"
        CondSel "sf op 0 11010100 Rm:5 cond:4 0 op2 Rn:5 Rd:5"
        DivReg "sf 0 0 11010110 Rm:5 00001 o1 Rn:5 Rd:5"
        ShiftReg "sf 0 0 11010110 Rm:5 0010 op2:2 Rn:5 Rd:5"
        Crc32 "sf 0 0 11010110 Rm:5 010 C sz:2 Rn:5 Rd:5"
        Unary "sf 1 0 11010110 00000 000 opcode:3 Rn:5 Rd:5"
        MulAdd "sf 00 11011 000 Rm:5 o0 Ra:5 Rn:5 Rd:5"
        MulAddLong "1 00 11011 U 01 Rm:5 o0 Ra:5 Rn:5 Rd:5"
        MulHigh "1 00 11011 U 10 Rm:5 0 Ra:5 Rn:5 Rd:5"

        // C4.1.6: scalar floating point and Advanced SIMD.
        AesOp "01001110 00 10100 opcode:5 10 Rn:5 Rd:5"
        Sha3Reg "01011110 00 0 Rm:5 0 opcode:3 00 Rn:5 Rd:5"
        Sha2Reg "01011110 00 10100 opcode:5 10 Rn:5 Rd:5"
        SimdTable "0 Q 001110 000 Rm:5 0 len:2 op 00 Rn:5 Rd:5"
        SimdPermute "0 Q 001110 size:2 0 Rm:5 0 opcode:3 10 Rn:5 Rd:5"
        SimdExtract "0 Q 101110 000 Rm:5 0 imm4:4 0 Rn:5 Rd:5"
        SimdCopy "0 Q op 01110000 imm5:5 0 imm4:4 1 Rn:5 Rd:5"
        SimdThreeSame "0 Q U 01110 size:2 1 Rm:5 opcode:5 1 Rn:5 Rd:5"
        SimdThreeDiff "0 Q U 01110 size:2 1 Rm:5 opcode:4 00 Rn:5 Rd:5"
        SimdTwoMisc "0 Q U 01110 size:2 10000 opcode:5 10 Rn:5 Rd:5"
        SimdAcross "0 Q U 01110 size:2 11000 opcode:5 10 Rn:5 Rd:5"
        SimdModImm "0 Q op 0111100000 abc:3 cmode:4 0 1 defgh:5 Rd:5"
        SimdShiftImm "0 Q U 011110 immh:4 immb:3 opcode:5 1 Rn:5 Rd:5"
        SimdIndexed "0 Q U 01111 size:2 L M Rm:4 opcode:4 H 0 Rn:5 Rd:5"
        ScalarCopy "01 0 11110000 imm5:5 0 imm4:4 1 Rn:5 Rd:5"
        ScalarThreeSame "01 U 11110 size:2 1 Rm:5 opcode:5 1 Rn:5 Rd:5"
        ScalarThreeDiff "01 U 11110 size:2 1 Rm:5 opcode:4 00 Rn:5 Rd:5"
        ScalarTwoMisc "01 U 11110 size:2 10000 opcode:5 10 Rn:5 Rd:5"
        ScalarPairwise "01 U 11110 size:2 11000 opcode:5 10 Rn:5 Rd:5"
        ScalarShiftImm "01 U 111110 immh:4 immb:3 opcode:5 1 Rn:5 Rd:5"
        ScalarIndexed "01 U 11111 size:2 L M Rm:4 opcode:4 H 0 Rn:5 Rd:5"
        FpFixed "sf 0 0 11110 ftype:2 0 rmode:2 opcode:3 scale:6 Rn:5 Rd:5"
        FpInt "sf 0 0 11110 ftype:2 1 rmode:2 opcode:3 000000 Rn:5 Rd:5"
        FpOne "000 11110 ftype:2 1 opcode:6 10000 Rn:5 Rd:5"
        FpCmp "000 11110 ftype:2 1 Rm:5 00 1000 Rn:5 opcode2:5"
        FpImm "000 11110 ftype:2 1 imm8:8 100 00000 Rd:5"
        FpCondCmp "000 11110 ftype:2 1 Rm:5 cond:4 01 Rn:5 op nzcv:4"
        FpTwo "000 11110 ftype:2 1 Rm:5 opcode:4 10 Rn:5 Rd:5"
        FpCondSel "000 11110 ftype:2 1 Rm:5 cond:4 11 Rn:5 Rd:5"
        FpThree "000 11111 ftype:2 o1 Rm:5 o0 Ra:5 Rn:5 Rd:5"
    }
}

/// Fields that have the same places in all encodings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word(pub u32);

impl Word {
    /// `len` bits from `pos` on.
    pub const fn bits(self, pos: u32, len: u32) -> u32 {
        self.0 >> pos & ((1 << len) - 1)
    }
    /// One bit.
    pub const fn bit(self, pos: u32) -> bool {
        self.0 >> pos & 1 != 0
    }
    /// Destination, or register transferred.
    pub const fn rd(self) -> u8 {
        self.bits(0, 5) as u8
    }
    /// First source, or base.
    pub const fn rn(self) -> u8 {
        self.bits(5, 5) as u8
    }
    /// Second register of a pair, or addend.
    pub const fn ra(self) -> u8 {
        self.bits(10, 5) as u8
    }
    /// Second source.
    pub const fn rm(self) -> u8 {
        self.bits(16, 5) as u8
    }
    /// Bits as a signed number.
    pub const fn signed(self, pos: u32, len: u32) -> i64 {
        ((self.0 << (32 - pos - len)) as i32 >> (32 - len)) as i64
    }
}

/// The immediate of logical instructions and the masks of bit fields (Arm ARM, `DecodeBitMasks`): `wmask` and `tmask`.
pub const fn bit_masks(n: u32, imms: u32, immr: u32, logical: bool) -> Option<(u64, u64)> {
    let key = n << 6 | !imms & 0x3f;
    if key < 2 {
        return None;
    }
    let len = 31 - key.leading_zeros();
    let size = 1_u32 << len;
    let levels = size - 1;
    let (s, r) = (imms & levels, immr & levels);
    if logical && s == levels {
        return None;
    }
    let mask = if size == 64 { u64::MAX } else { (1 << size) - 1 };
    let welem = u64::MAX >> (63 - s);
    let rotated = if r == 0 { welem } else { (welem >> r | welem << (size - r)) & mask };
    let d = s.wrapping_sub(r) & levels;
    let telem = u64::MAX >> (63 - d);
    let (mut w, mut t, mut at) = (0, 0, 0);
    while at < 64 {
        w |= rotated << at;
        t |= telem << at;
        at += size;
    }
    Some((w, t))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn well_known_words_are_what_the_manual_says() {
        for (word, insn) in [
            (0xd503_201f, Insn::Hint),
            (0xd65f_03c0, Insn::Ret),
            (0x9100_03fd, Insn::AddSubImm),
            (0xa9bf_7bfd, Insn::LdStPair),
            (0xd69f_03e0, Insn::Eret),
            (0xd538_4240, Insn::MsrMrs),
            (0x4ea1_1c20, Insn::SimdThreeSame),
            (0x1e62_0820, Insn::FpTwo),
            (0xc85f_7c20, Insn::LdStExcl),
        ] {
            assert_eq!(Insn::decode(word), Some(insn), "{word:#x}");
        }
        assert_eq!(Insn::decode(0), None);
    }

    #[test]
    fn random_words_of_a_row_are_of_that_row_or_of_a_special_case_before_it() {
        let mut seed = 0x1234_5678_u32;
        for &insn in Insn::ALL {
            for _ in 0..100 {
                seed ^= seed << 13;
                seed ^= seed >> 17;
                seed ^= seed << 5;
                let word = insn.row().random(seed);
                assert!(
                    Insn::decode(word).is_some_and(|found| found <= insn),
                    "{insn:?} {word:#x}"
                );
            }
        }
    }

    #[test]
    fn logical_immediates_repeat_rotated_runs() {
        assert_eq!(bit_masks(0, 0b111100, 0, true).unwrap().0, 0x5555_5555_5555_5555);
        assert_eq!(bit_masks(1, 0b000111, 4, true).unwrap().0, 0xf000_0000_0000_000f);
        assert_eq!(bit_masks(1, 0x3f, 0, true), None);
        assert_eq!(bit_masks(0, 0x3f, 0, false), None);
    }
}
