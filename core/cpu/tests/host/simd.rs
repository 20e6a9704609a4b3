//! Every vector operation on random operands under random MXCSR settings: result and MXCSR.

use core::arch::global_asm;
use core::fmt::Write as _;

use orrery_cpu::x86::mmx::mmx;
use orrery_cpu::x86::sse::{Mxcsr, SimdOp, crc32c, pcmpestr, simd};

use crate::values::Random;

/// What a stub takes and gives.
#[repr(C, align(16))]
#[derive(Clone, Debug)]
pub(crate) struct Context {
    pub(crate) a: u128,
    pub(crate) b: u128,
    gpr: u64,
    flags: u64,
    pub(crate) mxcsr: u32,
    saved: u32,
    rdx: u64,
}

macro_rules! enter {
    () => {
        "movups xmm0, [rdi]\n movups xmm1, [rdi+16]\n mov rax, [rdi+32]\n mov rdx, [rdi+56]\n \
         stmxcsr [rdi+52]\n ldmxcsr [rdi+48]\n"
    };
}

macro_rules! leave {
    () => {
        "\n pushfq\n pop rdx\n stmxcsr [rdi+48]\n ldmxcsr [rdi+52]\n movups [rdi], xmm0\n \
         mov [rdi+32], rax\n mov [rdi+40], rdx\n ret\n"
    };
}

/// Stubs of 128 bytes for operations without an immediate.
macro_rules! plain {
    ($table:ident, $label:literal, $symbol:ident: $($op:ident $bytes:literal;)*) => {
        global_asm!(
            ".p2align 7",
            concat!(".globl ", $label),
            concat!($label, ":"),
            $(concat!(".p2align 7\n", enter!(), ".byte ", $bytes, leave!()),)*
        );
        unsafe extern "C" { safe static $symbol: [[u8; 128]; 0]; }
        const $table: &[SimdOp] = &[$(SimdOp::$op),*];
    };
}

/// The same with an immediate: 256 stubs each.
macro_rules! immediate {
    ($table:ident, $label:literal, $symbol:ident: $($op:ident $bytes:literal;)*) => {
        global_asm!(
            ".p2align 7",
            concat!(".globl ", $label),
            concat!($label, ":"),
            $(concat!(
                ".set orrery_imm, 0\n .rept 256\n .p2align 7\n", enter!(),
                ".byte ", $bytes, ", orrery_imm", leave!(),
                ".set orrery_imm, orrery_imm + 1\n .endr\n"
            ),)*
        );
        unsafe extern "C" { safe static $symbol: [[u8; 128]; 0]; }
        const $table: &[SimdOp] = &[$(SimdOp::$op),*];
    };
}

// Operand bytes end in C1: xmm0, xmm1 (or eax, xmm1); C0: xmm0, eax; C8: eax, xmm1 reversed.
plain! { PLAIN, "orrery_plain", orrery_plain:
    Movss "0xf3,0x0f,0x10,0xc1";
    Movsd "0xf2,0x0f,0x10,0xc1";
    Mov "0x66,0x0f,0x6f,0xc1";
    Movq "0xf3,0x0f,0x7e,0xc1";
    Movlhps "0x0f,0x16,0xc1";
    Movhlps "0x0f,0x12,0xc1";
    Movddup "0xf2,0x0f,0x12,0xc1";
    Movsldup "0xf3,0x0f,0x12,0xc1";
    Movshdup "0xf3,0x0f,0x16,0xc1";
    Pand "0x66,0x0f,0xdb,0xc1";
    Pandn "0x66,0x0f,0xdf,0xc1";
    Por "0x66,0x0f,0xeb,0xc1";
    Pxor "0x66,0x0f,0xef,0xc1";
    Paddb "0x66,0x0f,0xfc,0xc1";
    Paddw "0x66,0x0f,0xfd,0xc1";
    Paddd "0x66,0x0f,0xfe,0xc1";
    Paddq "0x66,0x0f,0xd4,0xc1";
    Psubb "0x66,0x0f,0xf8,0xc1";
    Psubw "0x66,0x0f,0xf9,0xc1";
    Psubd "0x66,0x0f,0xfa,0xc1";
    Psubq "0x66,0x0f,0xfb,0xc1";
    Paddsb "0x66,0x0f,0xec,0xc1";
    Paddsw "0x66,0x0f,0xed,0xc1";
    Paddusb "0x66,0x0f,0xdc,0xc1";
    Paddusw "0x66,0x0f,0xdd,0xc1";
    Psubsb "0x66,0x0f,0xe8,0xc1";
    Psubsw "0x66,0x0f,0xe9,0xc1";
    Psubusb "0x66,0x0f,0xd8,0xc1";
    Psubusw "0x66,0x0f,0xd9,0xc1";
    Phaddw "0x66,0x0f,0x38,0x01,0xc1";
    Phaddd "0x66,0x0f,0x38,0x02,0xc1";
    Phaddsw "0x66,0x0f,0x38,0x03,0xc1";
    Phsubw "0x66,0x0f,0x38,0x05,0xc1";
    Phsubd "0x66,0x0f,0x38,0x06,0xc1";
    Phsubsw "0x66,0x0f,0x38,0x07,0xc1";
    Pavgb "0x66,0x0f,0xe0,0xc1";
    Pavgw "0x66,0x0f,0xe3,0xc1";
    Psadbw "0x66,0x0f,0xf6,0xc1";
    Pmullw "0x66,0x0f,0xd5,0xc1";
    Pmulhw "0x66,0x0f,0xe5,0xc1";
    Pmulhuw "0x66,0x0f,0xe4,0xc1";
    Pmulhrsw "0x66,0x0f,0x38,0x0b,0xc1";
    Pmulld "0x66,0x0f,0x38,0x40,0xc1";
    Pmuludq "0x66,0x0f,0xf4,0xc1";
    Pmuldq "0x66,0x0f,0x38,0x28,0xc1";
    Pmaddwd "0x66,0x0f,0xf5,0xc1";
    Pmaddubsw "0x66,0x0f,0x38,0x04,0xc1";
    Pcmpeqb "0x66,0x0f,0x74,0xc1";
    Pcmpeqw "0x66,0x0f,0x75,0xc1";
    Pcmpeqd "0x66,0x0f,0x76,0xc1";
    Pcmpeqq "0x66,0x0f,0x38,0x29,0xc1";
    Pcmpgtb "0x66,0x0f,0x64,0xc1";
    Pcmpgtw "0x66,0x0f,0x65,0xc1";
    Pcmpgtd "0x66,0x0f,0x66,0xc1";
    Pcmpgtq "0x66,0x0f,0x38,0x37,0xc1";
    Pminub "0x66,0x0f,0xda,0xc1";
    Pminuw "0x66,0x0f,0x38,0x3a,0xc1";
    Pminud "0x66,0x0f,0x38,0x3b,0xc1";
    Pminsb "0x66,0x0f,0x38,0x38,0xc1";
    Pminsw "0x66,0x0f,0xea,0xc1";
    Pminsd "0x66,0x0f,0x38,0x39,0xc1";
    Pmaxub "0x66,0x0f,0xde,0xc1";
    Pmaxuw "0x66,0x0f,0x38,0x3e,0xc1";
    Pmaxud "0x66,0x0f,0x38,0x3f,0xc1";
    Pmaxsb "0x66,0x0f,0x38,0x3c,0xc1";
    Pmaxsw "0x66,0x0f,0xee,0xc1";
    Pmaxsd "0x66,0x0f,0x38,0x3d,0xc1";
    Phminposuw "0x66,0x0f,0x38,0x41,0xc1";
    Pabsb "0x66,0x0f,0x38,0x1c,0xc1";
    Pabsw "0x66,0x0f,0x38,0x1d,0xc1";
    Pabsd "0x66,0x0f,0x38,0x1e,0xc1";
    Psignb "0x66,0x0f,0x38,0x08,0xc1";
    Psignw "0x66,0x0f,0x38,0x09,0xc1";
    Psignd "0x66,0x0f,0x38,0x0a,0xc1";
    Psllw "0x66,0x0f,0xf1,0xc1";
    Pslld "0x66,0x0f,0xf2,0xc1";
    Psllq "0x66,0x0f,0xf3,0xc1";
    Psrlw "0x66,0x0f,0xd1,0xc1";
    Psrld "0x66,0x0f,0xd2,0xc1";
    Psrlq "0x66,0x0f,0xd3,0xc1";
    Psraw "0x66,0x0f,0xe1,0xc1";
    Psrad "0x66,0x0f,0xe2,0xc1";
    Packsswb "0x66,0x0f,0x63,0xc1";
    Packuswb "0x66,0x0f,0x67,0xc1";
    Packssdw "0x66,0x0f,0x6b,0xc1";
    Packusdw "0x66,0x0f,0x38,0x2b,0xc1";
    Punpcklbw "0x66,0x0f,0x60,0xc1";
    Punpcklwd "0x66,0x0f,0x61,0xc1";
    Punpckldq "0x66,0x0f,0x62,0xc1";
    Punpckhbw "0x66,0x0f,0x68,0xc1";
    Punpckhwd "0x66,0x0f,0x69,0xc1";
    Punpckhdq "0x66,0x0f,0x6a,0xc1";
    Punpckhqdq "0x66,0x0f,0x6d,0xc1";
    Pshufb "0x66,0x0f,0x38,0x00,0xc1";
    Pmovsxbw "0x66,0x0f,0x38,0x20,0xc1";
    Pmovsxbd "0x66,0x0f,0x38,0x21,0xc1";
    Pmovsxbq "0x66,0x0f,0x38,0x22,0xc1";
    Pmovsxwd "0x66,0x0f,0x38,0x23,0xc1";
    Pmovsxwq "0x66,0x0f,0x38,0x24,0xc1";
    Pmovsxdq "0x66,0x0f,0x38,0x25,0xc1";
    Pmovzxbw "0x66,0x0f,0x38,0x30,0xc1";
    Pmovzxbd "0x66,0x0f,0x38,0x31,0xc1";
    Pmovzxbq "0x66,0x0f,0x38,0x32,0xc1";
    Pmovzxwd "0x66,0x0f,0x38,0x33,0xc1";
    Pmovzxwq "0x66,0x0f,0x38,0x34,0xc1";
    Pmovzxdq "0x66,0x0f,0x38,0x35,0xc1";
    Aesenc "0x66,0x0f,0x38,0xdc,0xc1";
    Aesenclast "0x66,0x0f,0x38,0xdd,0xc1";
    Aesdec "0x66,0x0f,0x38,0xde,0xc1";
    Aesdeclast "0x66,0x0f,0x38,0xdf,0xc1";
    Aesimc "0x66,0x0f,0x38,0xdb,0xc1";
    Addps "0x0f,0x58,0xc1";
    Addpd "0x66,0x0f,0x58,0xc1";
    Addss "0xf3,0x0f,0x58,0xc1";
    Addsd "0xf2,0x0f,0x58,0xc1";
    Subps "0x0f,0x5c,0xc1";
    Subpd "0x66,0x0f,0x5c,0xc1";
    Subss "0xf3,0x0f,0x5c,0xc1";
    Subsd "0xf2,0x0f,0x5c,0xc1";
    Mulps "0x0f,0x59,0xc1";
    Mulpd "0x66,0x0f,0x59,0xc1";
    Mulss "0xf3,0x0f,0x59,0xc1";
    Mulsd "0xf2,0x0f,0x59,0xc1";
    Divps "0x0f,0x5e,0xc1";
    Divpd "0x66,0x0f,0x5e,0xc1";
    Divss "0xf3,0x0f,0x5e,0xc1";
    Divsd "0xf2,0x0f,0x5e,0xc1";
    Minps "0x0f,0x5d,0xc1";
    Minpd "0x66,0x0f,0x5d,0xc1";
    Minss "0xf3,0x0f,0x5d,0xc1";
    Minsd "0xf2,0x0f,0x5d,0xc1";
    Maxps "0x0f,0x5f,0xc1";
    Maxpd "0x66,0x0f,0x5f,0xc1";
    Maxss "0xf3,0x0f,0x5f,0xc1";
    Maxsd "0xf2,0x0f,0x5f,0xc1";
    Sqrtps "0x0f,0x51,0xc1";
    Sqrtpd "0x66,0x0f,0x51,0xc1";
    Sqrtss "0xf3,0x0f,0x51,0xc1";
    Sqrtsd "0xf2,0x0f,0x51,0xc1";
    Addsubps "0xf2,0x0f,0xd0,0xc1";
    Addsubpd "0x66,0x0f,0xd0,0xc1";
    Haddps "0xf2,0x0f,0x7c,0xc1";
    Haddpd "0x66,0x0f,0x7c,0xc1";
    Hsubps "0xf2,0x0f,0x7d,0xc1";
    Hsubpd "0x66,0x0f,0x7d,0xc1";
    Cvtss2sd "0xf3,0x0f,0x5a,0xc1";
    Cvtsd2ss "0xf2,0x0f,0x5a,0xc1";
    Cvtps2pd "0x0f,0x5a,0xc1";
    Cvtpd2ps "0x66,0x0f,0x5a,0xc1";
    Cvtdq2ps "0x0f,0x5b,0xc1";
    Cvtdq2pd "0xf3,0x0f,0xe6,0xc1";
    Cvtps2dq "0x66,0x0f,0x5b,0xc1";
    Cvttps2dq "0xf3,0x0f,0x5b,0xc1";
    Cvtpd2dq "0xf2,0x0f,0xe6,0xc1";
    Cvttpd2dq "0x66,0x0f,0xe6,0xc1";
}

/// The operations without an immediate, for other tests: where their stubs are and what they do.
pub(crate) static PLAIN_TABLE: (&[[u8; 128]; 0], &[SimdOp]) = (&orrery_plain, PLAIN);

// The result is in EAX/RAX.
plain! { TO_GPR, "orrery_to_gpr", orrery_to_gpr:
    Pmovmskb "0x66,0x0f,0xd7,0xc1";
    Movmskps "0x0f,0x50,0xc1";
    Movmskpd "0x66,0x0f,0x50,0xc1";
    Cvtss2si32 "0xf3,0x0f,0x2d,0xc1";
    Cvtss2si64 "0xf3,0x48,0x0f,0x2d,0xc1";
    Cvttss2si32 "0xf3,0x0f,0x2c,0xc1";
    Cvttss2si64 "0xf3,0x48,0x0f,0x2c,0xc1";
    Cvtsd2si32 "0xf2,0x0f,0x2d,0xc1";
    Cvtsd2si64 "0xf2,0x48,0x0f,0x2d,0xc1";
    Cvttsd2si32 "0xf2,0x0f,0x2c,0xc1";
    Cvttsd2si64 "0xf2,0x48,0x0f,0x2c,0xc1";
}

// The source is in EAX/RAX.
plain! { FROM_GPR, "orrery_from_gpr", orrery_from_gpr:
    Movd "0x66,0x0f,0x6e,0xc0";
    Movq "0x66,0x48,0x0f,0x6e,0xc0";
    Cvtsi2ss32 "0xf3,0x0f,0x2a,0xc0";
    Cvtsi2ss64 "0xf3,0x48,0x0f,0x2a,0xc0";
    Cvtsi2sd32 "0xf2,0x0f,0x2a,0xc0";
    Cvtsi2sd64 "0xf2,0x48,0x0f,0x2a,0xc0";
}

// The result is in EFLAGS.
plain! { TO_FLAGS, "orrery_to_flags", orrery_to_flags:
    Comiss "0x0f,0x2f,0xc1";
    Comisd "0x66,0x0f,0x2f,0xc1";
    Ucomiss "0x0f,0x2e,0xc1";
    Ucomisd "0x66,0x0f,0x2e,0xc1";
    Ptest "0x66,0x0f,0x38,0x17,0xc1";
}

// Approximations, to be compared with a tolerance.
plain! { APPROXIMATE, "orrery_approximate", orrery_approximate:
    Rcpps "0x0f,0x53,0xc1";
    Rcpss "0xf3,0x0f,0x53,0xc1";
    Rsqrtps "0x0f,0x52,0xc1";
    Rsqrtss "0xf3,0x0f,0x52,0xc1";
}

immediate! { IMMEDIATE, "orrery_immediate", orrery_immediate:
    Palignr "0x66,0x0f,0x3a,0x0f,0xc1";
    Pshufd "0x66,0x0f,0x70,0xc1";
    Pshuflw "0xf2,0x0f,0x70,0xc1";
    Pshufhw "0xf3,0x0f,0x70,0xc1";
    Shufps "0x0f,0xc6,0xc1";
    Shufpd "0x66,0x0f,0xc6,0xc1";
    Pblendw "0x66,0x0f,0x3a,0x0e,0xc1";
    Blendps "0x66,0x0f,0x3a,0x0c,0xc1";
    Blendpd "0x66,0x0f,0x3a,0x0d,0xc1";
    Insertps "0x66,0x0f,0x3a,0x21,0xc1";
    Mpsadbw "0x66,0x0f,0x3a,0x42,0xc1";
    Pclmulqdq "0x66,0x0f,0x3a,0x44,0xc1";
    Aeskeygenassist "0x66,0x0f,0x3a,0xdf,0xc1";
    Pcmpistrm "0x66,0x0f,0x3a,0x62,0xc1";
    PsllwImm "0x66,0x0f,0x71,0xf0";
    PslldImm "0x66,0x0f,0x72,0xf0";
    PsllqImm "0x66,0x0f,0x73,0xf0";
    PsrlwImm "0x66,0x0f,0x71,0xd0";
    PsrldImm "0x66,0x0f,0x72,0xd0";
    PsrlqImm "0x66,0x0f,0x73,0xd0";
    PsrawImm "0x66,0x0f,0x71,0xe0";
    PsradImm "0x66,0x0f,0x72,0xe0";
    PslldqImm "0x66,0x0f,0x73,0xf8";
    PsrldqImm "0x66,0x0f,0x73,0xd8";
    Dpps "0x66,0x0f,0x3a,0x40,0xc1";
    Dppd "0x66,0x0f,0x3a,0x41,0xc1";
    Roundps "0x66,0x0f,0x3a,0x08,0xc1";
    Roundpd "0x66,0x0f,0x3a,0x09,0xc1";
    Roundss "0x66,0x0f,0x3a,0x0a,0xc1";
    Roundsd "0x66,0x0f,0x3a,0x0b,0xc1";
}

// Predicates above 7 are reserved.
immediate! { COMPARES, "orrery_compares", orrery_compares:
    Cmpps "0x0f,0xc2,0xc1";
    Cmppd "0x66,0x0f,0xc2,0xc1";
    Cmpss "0xf3,0x0f,0xc2,0xc1";
    Cmpsd "0xf2,0x0f,0xc2,0xc1";
}

immediate! { EXTRACTS, "orrery_extracts", orrery_extracts:
    Pextrb "0x66,0x0f,0x3a,0x14,0xc8";
    Pextrw "0x66,0x0f,0xc5,0xc1";
    Pextrd "0x66,0x0f,0x3a,0x16,0xc8";
    Pextrq "0x66,0x48,0x0f,0x3a,0x16,0xc8";
}

immediate! { INSERTS, "orrery_inserts", orrery_inserts:
    Pinsrb "0x66,0x0f,0x3a,0x20,0xc0";
    Pinsrw "0x66,0x0f,0xc4,0xc0";
    Pinsrd "0x66,0x0f,0x3a,0x22,0xc0";
    Pinsrq "0x66,0x48,0x0f,0x3a,0x22,0xc0";
}

// mov ecx, 0 before the string instructions; then mov eax, ecx.
macro_rules! strings {
    ($table:ident, $label:literal, $symbol:ident: $($op:ident $bytes:literal;)*) => {
        global_asm!(
            ".p2align 7",
            concat!(".globl ", $label),
            concat!($label, ":"),
            $(concat!(
                ".set orrery_imm, 0\n .rept 256\n .p2align 7\n", enter!(),
                ".byte ", $bytes, ", orrery_imm\n mov eax, ecx\n", leave!(),
                ".set orrery_imm, orrery_imm + 1\n .endr\n"
            ),)*
        );
        unsafe extern "C" { safe static $symbol: [[u8; 128]; 0]; }
        const $table: &[SimdOp] = &[$(SimdOp::$op),*];
    };
}

strings! { STRINGS, "orrery_strings", orrery_strings:
    Pcmpistri "0x66,0x0f,0x3a,0x63,0xc1";
    Pcmpistrm "0x66,0x0f,0x3a,0x62,0xc1";
}

// Explicit lengths: RAX, RDX.
strings! { LONG_STRINGS, "orrery_long_strings", orrery_long_strings:
    Pcmpistri "0x66,0x48,0x0f,0x3a,0x61,0xc1";
    Pcmpistrm "0x66,0x48,0x0f,0x3a,0x60,0xc1";
}

plain! { CRCS, "orrery_crcs", orrery_crcs:
    Mov "0xf2,0x0f,0x38,0xf0,0xc2";
    Mov "0xf2,0x66,0x0f,0x38,0xf1,0xc2";
    Mov "0xf2,0x0f,0x38,0xf1,0xc2";
    Mov "0xf2,0x48,0x0f,0x38,0xf1,0xc2";
}

/// Runs stub `index` of the table that starts there.
pub(crate) fn host(table: *const [u8; 128], index: usize, context: &mut Context) {
    // SAFETY: the index is within the table; a stub reads and writes the context, and otherwise
    // changes only registers that the C convention leaves to the callee.
    unsafe {
        let stub: unsafe extern "C" fn(*mut Context) =
            core::mem::transmute(table.wrapping_add(index));
        stub(context);
    }
}

fn float_lanes(random: &mut Random) -> u128 {
    let mut wide = || u128::from(random.f64()) << 64 | u128::from(random.f64());
    let doubles = wide();
    let singles = (0..4).fold(0, |v, _| v << 32 | u128::from(random.f32()));
    match random.below(8) {
        0 => random.u128(),
        1 => (0..4).fold(0, |v, _| v << 32 | u128::from(random.integer() as u32)),
        2 => {
            let n = random.below(1 << 20) as f64 * 0.25;
            let m = random.below(1 << 20) as f32 * 0.125;
            if random.next() & 1 == 0 {
                u128::from(n.to_bits()) << 64 | u128::from((-n).to_bits())
            } else {
                u128::from(n.to_bits()) << 64
                    | u128::from(m.to_bits()) << 32
                    | u128::from((-m).to_bits())
            }
        }
        3..6 => doubles,
        _ => singles,
    }
}

/// An operand: integers of few distinct bytes, small counts, floating-point lanes.
fn operand(op: SimdOp, random: &mut Random) -> u128 {
    if op.uses_mxcsr() {
        return float_lanes(random);
    }
    match random.below(6) {
        0 => u128::from(random.below(70)),
        1 => (0..16)
            .fold(0, |v, _| v << 8 | u128::from(random.pick(&[0u8, 1, 0x7F, 0x80, 0xFF, 0x61]))),
        2 => (0..8).fold(0, |v, _| {
            v << 16 | u128::from(random.pick(&[0u16, 1, 0x7FFF, 0x8000, 0xFFFF, 0x61]))
        }),
        3 => random.u128() & random.u128(),
        4 => (0..16).fold(0, |v, _| v << 8 | u128::from(random.below(4))),
        _ => random.u128(),
    }
}

pub(crate) fn context(op: SimdOp, random: &mut Random) -> Context {
    let mut b = operand(op, random);
    let a = if random.below(6) == 0 { b } else { operand(op, random) };
    if random.below(12) == 0 {
        b ^= 1 << random.below(128);
    }
    let sticky = random.next() as u32 & 0x3F & if random.next() & 1 == 0 { 0 } else { 0x3F };
    let mut mxcsr = 0x1F80 | sticky;
    if random.next() & 1 == 0 {
        // Any rounding, denormals-are-zero, flush-to-zero; else the usual setting.
        mxcsr |= random.next() as u32 & 0xE040;
    }
    Context { a, b, gpr: random.integer(), flags: 0, mxcsr, saved: 0, rdx: random.integer() }
}

/// Where an operation has its operand and its result.
#[derive(Clone, Copy, PartialEq)]
enum Shape {
    Vector,
    ToGpr,
    FromGpr,
    ToFlags,
    String,
}

#[derive(Default)]
struct Tally {
    total: u32,
    report: String,
}

fn one(
    table: *const [u8; 128],
    index: usize,
    op: SimdOp,
    imm: u8,
    shape: Shape,
    random: &mut Random,
    tally: &mut Tally,
) {
    let before = context(op, random);
    let mut after = before.clone();
    host(table, index, &mut after);
    let mut mxcsr = Mxcsr(before.mxcsr);
    let b = if shape == Shape::FromGpr { before.gpr.into() } else { before.b };
    let ours = simd(op, before.a, b, imm, &mut mxcsr).expect("all masked");
    let theirs = match shape {
        Shape::Vector | Shape::FromGpr => after.a,
        Shape::ToGpr => after.gpr.into(),
        Shape::ToFlags => u128::from(after.flags & 0x8D5),
        Shape::String if op == SimdOp::Pcmpistri => u128::from(after.gpr & 0xFFFF_FFFF),
        Shape::String => after.a,
    };
    let mut same = ours == theirs && mxcsr.0 == after.mxcsr;
    if shape == Shape::String {
        let flags = simd(SimdOp::PcmpistrFlags, before.a, b, imm, &mut mxcsr).expect("integer");
        same &= flags == u128::from(after.flags & 0x8D5);
    }
    if !same {
        tally.total += 1;
        if tally.total <= 6 || tally.report.matches(op.name()).count() < 2 && tally.total < 2000 {
            let _ = writeln!(
                tally.report,
                "{} imm {imm:02x}: a {:032x} b {:032x} gpr {:x} mxcsr {:04x}\n  host {theirs:032x} {:04x} flags {:x}\n  ours {ours:032x} {:04x}",
                op.name(),
                before.a,
                before.b,
                before.gpr,
                before.mxcsr,
                after.mxcsr,
                after.flags & 0x8D5,
                mxcsr.0,
            );
        }
    }
}

fn plain(symbol: &'static [[u8; 128]; 0], table: &[SimdOp], shape: Shape, cases: u32) {
    let mut random = Random::new(20);
    let mut tally = Tally::default();
    for (index, &op) in table.iter().enumerate() {
        for _ in 0..cases {
            one(symbol.as_ptr(), index, op, 0, shape, &mut random, &mut tally);
        }
    }
    assert_eq!(tally.total, 0, "differences from the host:\n{}", tally.report);
}

fn immediates(
    symbol: &'static [[u8; 128]; 0],
    table: &[SimdOp],
    imms: u32,
    shape: Shape,
    cases: u32,
) {
    let mut random = Random::new(21);
    let mut tally = Tally::default();
    for (index, &op) in table.iter().enumerate() {
        for imm in 0..imms {
            for _ in 0..cases {
                one(
                    symbol.as_ptr(),
                    index * 256 + imm as usize,
                    op,
                    imm as u8,
                    shape,
                    &mut random,
                    &mut tally,
                );
            }
        }
    }
    assert_eq!(tally.total, 0, "differences from the host:\n{}", tally.report);
}

#[test]
fn operations_without_immediate_agree_with_the_host() {
    plain(&orrery_plain, PLAIN, Shape::Vector, 20_000);
}

#[test]
fn operations_with_general_registers_agree_with_the_host() {
    plain(&orrery_to_gpr, TO_GPR, Shape::ToGpr, 50_000);
    plain(&orrery_from_gpr, FROM_GPR, Shape::FromGpr, 50_000);
    plain(&orrery_to_flags, TO_FLAGS, Shape::ToFlags, 50_000);
}

#[test]
fn operations_with_immediate_agree_with_the_host() {
    // The string mask has a register of its own, its test another table.
    immediates(&orrery_immediate, IMMEDIATE, 256, Shape::Vector, 100);
    immediates(&orrery_compares, COMPARES, 8, Shape::Vector, 20_000);
    immediates(&orrery_extracts, EXTRACTS, 256, Shape::ToGpr, 20);
    immediates(&orrery_inserts, INSERTS, 256, Shape::FromGpr, 20);
}

#[test]
fn string_comparisons_agree_with_the_host() {
    immediates(&orrery_strings, STRINGS, 128, Shape::String, 3000);
}

#[test]
fn string_comparisons_with_lengths_agree_with_the_host() {
    let mut random = Random::new(22);
    for (index, &op) in LONG_STRINGS.iter().enumerate() {
        for imm in 0..128u8 {
            for _ in 0..2000 {
                let mut before = context(op, &mut random);
                if random.below(8) != 0 {
                    before.gpr = random.below(20).wrapping_sub(2);
                    before.rdx = random.below(20).wrapping_sub(2);
                }
                let mut after = before.clone();
                let stub = index * 256 + usize::from(imm);
                host(orrery_long_strings.as_ptr(), stub, &mut after);
                let ours = pcmpestr(before.a, before.gpr as i64, before.b, before.rdx as i64, imm);
                if op == SimdOp::Pcmpistri {
                    assert_eq!(
                        u64::from(ours.index),
                        after.gpr & 0xFFFF_FFFF,
                        "{imm:02x} {before:x?}"
                    );
                } else {
                    assert_eq!(ours.mask, after.a, "{imm:02x} {before:x?}");
                }
                assert_eq!(u64::from(ours.flags), after.flags & 0x8D5, "{imm:02x} {before:x?}");
            }
        }
    }
}

#[test]
fn crc32_agrees_with_the_host() {
    let mut random = Random::new(23);
    for (index, len) in [1u8, 2, 4, 8].into_iter().enumerate() {
        assert_eq!(CRCS[index], SimdOp::Mov);
        for _ in 0..20_000 {
            let mut after = context(SimdOp::Mov, &mut random);
            let (crc, data) = (after.gpr as u32, after.rdx);
            host(orrery_crcs.as_ptr(), index, &mut after);
            assert_eq!(crc32c(crc, data, len), after.gpr as u32);
        }
    }
}

#[test]
fn approximations_are_within_the_documented_error_of_the_hosts() {
    let mut random = Random::new(24);
    for (index, &op) in APPROXIMATE.iter().enumerate() {
        for _ in 0..100_000 {
            let before = context(op, &mut random);
            let mut after = before.clone();
            host(orrery_approximate.as_ptr(), index, &mut after);
            let mut mxcsr = Mxcsr(before.mxcsr);
            let ours = simd(op, before.a, before.b, 0, &mut mxcsr).expect("raises nothing");
            assert_eq!(mxcsr.0, after.mxcsr, "{op:?} {before:x?}");
            for lane in 0..4 {
                let (x, y) = ((ours >> (32 * lane)) as u32, (after.a >> (32 * lane)) as u32);
                let (p, q) = (f32::from_bits(x), f32::from_bits(y));
                // Results next to the denormals may be zero.
                let tiny = |v: u32| v & 0x7FFF_FFFF <= 0x0100_0000;
                let close = x == y
                    || tiny(x) && tiny(y)
                    || (f64::from(p) / f64::from(q) - 1.0).abs() < 3.0 / 4096.0;
                assert!(close, "{op:?} {before:x?}: host {y:08x}, ours {x:08x}");
            }
        }
    }
}

macro_rules! enter_mmx {
    () => {
        "movq mm0, [rdi]\n movq mm1, [rdi+16]\n"
    };
}

macro_rules! leave_mmx {
    () => {
        "\n movq [rdi], mm0\n emms\n ret\n"
    };
}

macro_rules! mmx_plain {
    ($($op:ident $bytes:literal;)*) => {
        global_asm!(
            ".p2align 7",
            ".globl orrery_mmx",
            "orrery_mmx:",
            $(concat!(".p2align 7\n", enter_mmx!(), ".byte ", $bytes, ", 0xc1", leave_mmx!()),)*
        );
        unsafe extern "C" { safe static orrery_mmx: [[u8; 128]; 0]; }
        const MMX: &[SimdOp] = &[$(SimdOp::$op),*];
    };
}

mmx_plain! {
    Pand "0x0f,0xdb"; Pandn "0x0f,0xdf"; Por "0x0f,0xeb"; Pxor "0x0f,0xef";
    Paddb "0x0f,0xfc"; Paddw "0x0f,0xfd"; Paddd "0x0f,0xfe"; Paddq "0x0f,0xd4";
    Psubb "0x0f,0xf8"; Psubw "0x0f,0xf9"; Psubd "0x0f,0xfa"; Psubq "0x0f,0xfb";
    Paddsb "0x0f,0xec"; Paddsw "0x0f,0xed"; Paddusb "0x0f,0xdc"; Paddusw "0x0f,0xdd";
    Psubsb "0x0f,0xe8"; Psubsw "0x0f,0xe9"; Psubusb "0x0f,0xd8"; Psubusw "0x0f,0xd9";
    Phaddw "0x0f,0x38,0x01"; Phaddd "0x0f,0x38,0x02"; Phaddsw "0x0f,0x38,0x03";
    Phsubw "0x0f,0x38,0x05"; Phsubd "0x0f,0x38,0x06"; Phsubsw "0x0f,0x38,0x07";
    Pavgb "0x0f,0xe0"; Pavgw "0x0f,0xe3"; Psadbw "0x0f,0xf6";
    Pmullw "0x0f,0xd5"; Pmulhw "0x0f,0xe5"; Pmulhuw "0x0f,0xe4"; Pmulhrsw "0x0f,0x38,0x0b";
    Pmuludq "0x0f,0xf4"; Pmaddwd "0x0f,0xf5"; Pmaddubsw "0x0f,0x38,0x04";
    Pcmpeqb "0x0f,0x74"; Pcmpeqw "0x0f,0x75"; Pcmpeqd "0x0f,0x76";
    Pcmpgtb "0x0f,0x64"; Pcmpgtw "0x0f,0x65"; Pcmpgtd "0x0f,0x66";
    Pminub "0x0f,0xda"; Pminsw "0x0f,0xea"; Pmaxub "0x0f,0xde"; Pmaxsw "0x0f,0xee";
    Pabsb "0x0f,0x38,0x1c"; Pabsw "0x0f,0x38,0x1d"; Pabsd "0x0f,0x38,0x1e";
    Psignb "0x0f,0x38,0x08"; Psignw "0x0f,0x38,0x09"; Psignd "0x0f,0x38,0x0a";
    Psllw "0x0f,0xf1"; Pslld "0x0f,0xf2"; Psllq "0x0f,0xf3";
    Psrlw "0x0f,0xd1"; Psrld "0x0f,0xd2"; Psrlq "0x0f,0xd3";
    Psraw "0x0f,0xe1"; Psrad "0x0f,0xe2";
    Packsswb "0x0f,0x63"; Packuswb "0x0f,0x67"; Packssdw "0x0f,0x6b";
    Punpcklbw "0x0f,0x60"; Punpcklwd "0x0f,0x61"; Punpckldq "0x0f,0x62";
    Punpckhbw "0x0f,0x68"; Punpckhwd "0x0f,0x69"; Punpckhdq "0x0f,0x6a";
    Pshufb "0x0f,0x38,0x00";
}

macro_rules! mmx_immediate {
    ($($op:ident $bytes:literal;)*) => {
        global_asm!(
            ".p2align 7",
            ".globl orrery_mmx_immediate",
            "orrery_mmx_immediate:",
            $(concat!(
                ".set orrery_imm, 0\n .rept 256\n .p2align 7\n", enter_mmx!(),
                ".byte ", $bytes, ", orrery_imm", leave_mmx!(),
                ".set orrery_imm, orrery_imm + 1\n .endr\n"
            ),)*
        );
        unsafe extern "C" { safe static orrery_mmx_immediate: [[u8; 128]; 0]; }
        const MMX_IMMEDIATE: &[SimdOp] = &[$(SimdOp::$op),*];
    };
}

mmx_immediate! {
    Palignr "0x0f,0x3a,0x0f,0xc1";
    Pshuflw "0x0f,0x70,0xc1";
    PsllwImm "0x0f,0x71,0xf0"; PslldImm "0x0f,0x72,0xf0"; PsllqImm "0x0f,0x73,0xf0";
    PsrlwImm "0x0f,0x71,0xd0"; PsrldImm "0x0f,0x72,0xd0"; PsrlqImm "0x0f,0x73,0xd0";
    PsrawImm "0x0f,0x71,0xe0"; PsradImm "0x0f,0x72,0xe0";
}

#[test]
fn mmx_agrees_with_the_host() {
    let mut random = Random::new(25);
    let plain = MMX.iter().enumerate().map(|(i, &op)| (orrery_mmx.as_ptr(), i, op, 0));
    let immediate = MMX_IMMEDIATE.iter().enumerate().flat_map(|(i, &op)| {
        (0..256).map(move |imm| (orrery_mmx_immediate.as_ptr(), i * 256 + imm, op, imm as u8))
    });
    for (table, index, op, imm) in plain.chain(immediate) {
        for _ in 0..if index >= 256 { 100 } else { 5000 } {
            let before = context(op, &mut random);
            let mut after = before.clone();
            host(table, index, &mut after);
            let ours = mmx(op, before.a as u64, before.b as u64, imm);
            assert_eq!(ours, after.a as u64, "{op:?} {imm:02x} {before:x?}");
        }
    }
}
