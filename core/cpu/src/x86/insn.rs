//! A decoded x86 instruction: which one, its operands, its sizes.

use bitflags::bitflags;

bitflags! {
    /// What a processor model implements beyond the 80386 (CPUID, SDM vol. 2A).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Features: u64 {
        /// BSWAP, CMPXCHG, XADD, INVD, WBINVD, INVLPG.
        const I486 = 1 << 0;
        /// CPUID.
        const CPUID = 1 << 1;
        /// RDTSC.
        const TSC = 1 << 2;
        /// RDMSR, WRMSR.
        const MSR = 1 << 3;
        /// CMPXCHG8B.
        const CX8 = 1 << 4;
        /// SYSENTER, SYSEXIT.
        const SEP = 1 << 5;
        /// CMOVcc, FCMOVcc, FCOMI, RDPMC.
        const CMOV = 1 << 6;
        /// CLFLUSH.
        const CLFSH = 1 << 7;
        /// CLFLUSHOPT.
        const CLFLUSHOPT = 1 << 8;
        /// CLWB.
        const CLWB = 1 << 9;
        /// MMX.
        const MMX = 1 << 10;
        /// FXSAVE, FXRSTOR.
        const FXSR = 1 << 11;
        /// SSE.
        const SSE = 1 << 12;
        /// SSE2.
        const SSE2 = 1 << 13;
        /// SSE3.
        const SSE3 = 1 << 14;
        /// SSSE3.
        const SSSE3 = 1 << 15;
        /// SSE4.1.
        const SSE41 = 1 << 16;
        /// SSE4.2.
        const SSE42 = 1 << 17;
        /// AES.
        const AES = 1 << 18;
        /// PCLMULQDQ.
        const PCLMULQDQ = 1 << 19;
        /// MONITOR, MWAIT.
        const MONITOR = 1 << 20;
        /// MOVBE.
        const MOVBE = 1 << 21;
        /// POPCNT.
        const POPCNT = 1 << 22;
        /// LZCNT.
        const LZCNT = 1 << 23;
        /// BMI1.
        const BMI1 = 1 << 24;
        /// BMI2.
        const BMI2 = 1 << 25;
        /// ADCX, ADOX.
        const ADX = 1 << 26;
        /// RDRAND.
        const RDRAND = 1 << 27;
        /// RDSEED.
        const RDSEED = 1 << 28;
        /// RDTSCP.
        const RDTSCP = 1 << 29;
        /// RDPID.
        const RDPID = 1 << 30;
        /// SYSCALL, SYSRET.
        const SYSCALL = 1 << 31;
        /// LAHF and SAHF in 64-bit mode.
        const LAHF64 = 1 << 32;
        /// RDFSBASE and its family.
        const FSGSBASE = 1 << 33;
        /// CLAC, STAC.
        const SMAP = 1 << 34;
        /// INVPCID.
        const INVPCID = 1 << 35;
        /// PREFETCHW.
        const PREFETCHW = 1 << 36;
        /// XGETBV, XSETBV.
        const XSAVE = 1 << 37;
        /// CMPXCHG16B.
        const CX16 = 1 << 38;
        /// x87 on the chip.
        const FPU = 1 << 39;
    }
}

macro_rules! instructions {
    ($($id:ident)*) => {
        /// Instructions, by the manual's mnemonic. Condition codes are not part of it: see
        /// [`Insn::condition`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(u16)]
        pub enum Id { $(#[doc = concat!("The ", stringify!($id), " instruction.")] $id),* }

        impl Id {
            /// Every instruction.
            pub const ALL: &[Self] = &[$(Self::$id),*];

            /// The mnemonic in upper case.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$id => stringify!($id)),* }
            }
        }
    };
}

instructions! {
    AAA AAD AAM AAS ADC ADCX ADD ADDPD ADDPS ADDSD ADDSS ADDSUBPD ADDSUBPS ADOX AESDEC AESDECLAST
    AESENC AESENCLAST AESIMC AESKEYGENASSIST AND ANDN ANDNPD ANDNPS ANDPD ANDPS ARPL BEXTR BLENDPD
    BLENDPS BLENDVPD BLENDVPS BLSI BLSMSK BLSR BOUND BSF BSR BSWAP BT BTC BTR BTS BZHI CALL CALLF
    CBW CLAC CLC CLD CLFLUSH CLFLUSHOPT CLI CLTS CLWB CMC CMOVCC CMP CMPPD CMPPS CMPS CMPSD CMPSS
    CMPXCHG CMPXCHG8B COMISD COMISS CPUID CRC32 CVTDQ2PD CVTDQ2PS CVTPD2DQ CVTPD2PI CVTPD2PS
    CVTPI2PD CVTPI2PS CVTPS2DQ CVTPS2PD CVTPS2PI CVTSD2SI CVTSD2SS CVTSI2SD CVTSI2SS CVTSS2SD
    CVTSS2SI CVTTPD2DQ CVTTPD2PI CVTTPS2DQ CVTTPS2PI CVTTSD2SI CVTTSS2SI CWD DAA DAS DEC DIV DIVPD
    DIVPS DIVSD DIVSS DPPD DPPS EMMS ENTER EXTRACTPS F2XM1 FABS FADD FADDP FBLD FBSTP FCHS FCMOVB
    FCMOVBE FCMOVE FCMOVNB FCMOVNBE FCMOVNE FCMOVNU FCMOVU FCOM FCOMI FCOMIP FCOMP FCOMPP FCOS
    FDECSTP FDIV FDIVP FDIVR FDIVRP FFREE FFREEP FIADD FICOM FICOMP FIDIV FIDIVR FILD FIMUL FINCSTP
    FIST FISTP FISTTP FISUB FISUBR FLD FLD1 FLDCW FLDENV FLDL2E FLDL2T FLDLG2 FLDLN2 FLDPI FLDZ FMUL
    FMULP FNCLEX FNDISI FNENI FNINIT FNOP FNSAVE FNSETPM FNSTCW FNSTENV FNSTSW FPATAN FPREM FPREM1
    FPTAN FRNDINT FRSTOR FSCALE FSIN FSINCOS FSQRT FST FSTP FSUB FSUBP FSUBR FSUBRP FTST FUCOM
    FUCOMI FUCOMIP FUCOMP FUCOMPP FWAIT FXAM FXCH FXRSTOR FXSAVE FXTRACT FYL2X FYL2XP1 HADDPD HADDPS
    HLT HSUBPD HSUBPS IDIV IMUL IN INC INS INSERTPS INT INT1 INT3 INTO INVD INVLPG INVPCID IRET JCC
    JCXZ JMP JMPF LAHF LAR LDDQU LDMXCSR LDS LEA LEAVE LES LFENCE LFS LGDT LGS LIDT LLDT LMSW LODS
    LOOP LOOPE LOOPNE LSL LSS LTR LZCNT MASKMOVDQU MASKMOVQ MAXPD MAXPS MAXSD MAXSS MFENCE MINPD
    MINPS MINSD MINSS MONITOR MOV MOVAPD MOVAPS MOVBE MOVD MOVDDUP MOVDQ2Q MOVDQA MOVDQU MOVHLPS
    MOVHPD MOVHPS MOVLHPS MOVLPD MOVLPS MOVMSKPD MOVMSKPS MOVNTDQ MOVNTDQA MOVNTI MOVNTPD MOVNTPS
    MOVNTQ MOVQ MOVQ2DQ MOVS MOVSD MOVSHDUP MOVSLDUP MOVSS MOVSX MOVSXD MOVUPD MOVUPS MOVZX MPSADBW
    MUL MULPD MULPS MULSD MULSS MULX MWAIT NEG NOP NOPL NOT OR ORPD ORPS OUT OUTS PABSB PABSD PABSW
    PACKSSDW PACKSSWB PACKUSDW PACKUSWB PADDB PADDD PADDQ PADDSB PADDSW PADDUSB PADDUSW PADDW
    PALIGNR PAND PANDN PAUSE PAVGB PAVGW PBLENDVB PBLENDW PCLMULQDQ PCMPEQB PCMPEQD PCMPEQQ PCMPEQW
    PCMPESTRI PCMPESTRM PCMPGTB PCMPGTD PCMPGTQ PCMPGTW PCMPISTRI PCMPISTRM PDEP PEXT PEXTRB PEXTRD
    PEXTRW PHADDD PHADDSW PHADDW PHMINPOSUW PHSUBD PHSUBSW PHSUBW PINSRB PINSRD PINSRW PMADDUBSW
    PMADDWD PMAXSB PMAXSD PMAXSW PMAXUB PMAXUD PMAXUW PMINSB PMINSD PMINSW PMINUB PMINUD PMINUW
    PMOVMSKB PMOVSXBD PMOVSXBQ PMOVSXBW PMOVSXDQ PMOVSXWD PMOVSXWQ PMOVZXBD PMOVZXBQ PMOVZXBW
    PMOVZXDQ PMOVZXWD PMOVZXWQ PMULDQ PMULHRSW PMULHUW PMULHW PMULLD PMULLW PMULUDQ POP POPA POPCNT
    POPF POR PREFETCHW PSADBW PSHUFB PSHUFD PSHUFHW PSHUFLW PSHUFW PSIGNB PSIGND PSIGNW PSLLD PSLLDQ
    PSLLQ PSLLW PSRAD PSRAW PSRLD PSRLDQ PSRLQ PSRLW PSUBB PSUBD PSUBQ PSUBSB PSUBSW PSUBUSB PSUBUSW
    PSUBW PTEST PUNPCKHBW PUNPCKHDQ PUNPCKHQDQ PUNPCKHWD PUNPCKLBW PUNPCKLDQ PUNPCKLQDQ PUNPCKLWD
    PUSH PUSHA PUSHF PXOR RCL RCPPS RCPSS RCR RDFSBASE RDGSBASE RDMSR RDPID RDPMC RDRAND RDSEED
    RDTSC RDTSCP RET RETF ROL ROR RORX ROUNDPD ROUNDPS ROUNDSD ROUNDSS RSM RSQRTPS RSQRTSS SAHF SALC
    SAR SARX SBB SCAS SETCC SFENCE SGDT SHL SHLD SHLX SHR SHRD SHRX SHUFPD SHUFPS SIDT SLDT SMSW
    SQRTPD SQRTPS SQRTSD SQRTSS STAC STC STD STI STMXCSR STOS STR SUB SUBPD SUBPS SUBSD SUBSS SWAPGS
    SYSCALL SYSENTER SYSEXIT SYSRET TEST TZCNT UCOMISD UCOMISS UD0 UD1 UD2 UNPCKHPD UNPCKHPS
    UNPCKLPD UNPCKLPS VERR VERW WBINVD WRFSBASE WRGSBASE WRMSR XADD XCHG XGETBV XLAT XOR XORPD XORPS
    XSETBV
}

/// Code size of the running code segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CodeSize {
    /// 16-bit code.
    Bits16,
    /// 32-bit code.
    Bits32,
    /// 64-bit mode.
    Bits64,
}

/// What decoding depends on besides the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mode {
    /// Default sizes.
    pub code: CodeSize,
    /// CR0.PE is set and EFLAGS.VM clear.
    pub protected: bool,
    /// Instructions there are.
    pub features: Features,
}

impl Mode {
    /// 64-bit mode.
    pub fn long(&self) -> bool {
        self.code == CodeSize::Bits64
    }
}

/// "No register" in [`Mem`].
pub const NO_REG: u8 = 0xff;
/// The instruction pointer as [`Mem::base`]; `disp` is then relative to the next instruction.
pub const RIP_REG: u8 = 16;

/// A memory operand's address: segment, base + index * scale + displacement, cut to the address size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mem {
    /// Segment register after overrides.
    pub seg: u8,
    /// General register, [`RIP_REG`] or [`NO_REG`].
    pub base: u8,
    /// General register or [`NO_REG`].
    pub index: u8,
    /// 0 to 3: the index is shifted left by it.
    pub scale: u8,
    /// Sign-extended displacement.
    pub disp: i64,
}

/// A decoded operand. Sizes are in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operand {
    /// General register of a size.
    Gpr(u8, u8),
    /// AH CH DH BH, as number 0 to 3.
    High(u8),
    /// [`Insn::mem`] with a size; 0 where only the address counts.
    Mem(u8),
    /// [`Insn::imm`] with the size it is used at (already sign-extended to 64 bits where that applies).
    Imm(u8),
    /// [`Insn::imm2`].
    Imm2,
    /// Branch target relative to the next instruction, in [`Insn::imm`].
    Rel,
    /// Far pointer: offset in [`Insn::imm`], selector in [`Insn::imm2`].
    Far,
    /// Segment register.
    Seg(u8),
    /// Control register.
    Cr(u8),
    /// Debug register.
    Dr(u8),
    /// String source, seg:SI, of a size.
    Src(u8),
    /// String destination, ES:DI, of a size.
    Dst(u8),
    /// x87 stack register.
    St(u8),
    /// MMX register.
    Mm(u8),
    /// XMM register.
    Xmm(u8),
}

/// Repeat prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rep {
    /// None.
    None,
    /// F3.
    Rep,
    /// F2.
    Repne,
}

/// A decoded instruction.
#[derive(Clone, Copy, Debug)]
pub struct Insn {
    /// Which instruction.
    pub id: Id,
    /// Length in bytes.
    pub len: u8,
    /// Operand size in bytes: 2, 4 or 8.
    pub opsize: u8,
    /// Address size in bytes: 2, 4 or 8.
    pub addrsize: u8,
    /// Repeat prefix, where it is not part of the opcode.
    pub rep: Rep,
    /// LOCK prefix.
    pub lock: bool,
    /// REX.W or VEX.W.
    pub wide: bool,
    /// 128-bit memory operands must be aligned.
    pub aligned: bool,
    /// Last opcode byte.
    pub opcode: u8,
    /// ModRM, or 0.
    pub modrm: u8,
    /// Segment override, or DS: what string sources use.
    pub seg: u8,
    /// Number of operands.
    pub count: u8,
    /// Operands.
    pub ops: [Operand; 4],
    /// The memory operand.
    pub mem: Mem,
    /// First immediate, displacement or far offset.
    pub imm: u64,
    /// Second immediate or far selector.
    pub imm2: u16,
}

impl Insn {
    /// Operands that are there.
    pub fn operands(&self) -> &[Operand] {
        &self.ops[..usize::from(self.count)]
    }

    /// Condition code of Jcc, SETcc and CMOVcc: low four bits of the opcode (SDM vol. 2D B.1.4.7).
    pub fn condition(&self) -> u8 {
        self.opcode & 15
    }

    /// ModRM.reg without REX.R.
    pub fn reg_field(&self) -> u8 {
        self.modrm >> 3 & 7
    }

    /// The operand in ModRM.rm is in memory.
    pub fn has_mem(&self) -> bool {
        self.operands().iter().any(|o| matches!(o, Operand::Mem(_)))
    }
}
