//! The decoder against an independent one: random bytes must mean the same instruction.

use iced_x86::{CpuidFeature as F, Decoder, DecoderOptions};
use orrery_cpu::x86::decode::{DecodeError, decode};
use orrery_cpu::x86::insn::{CodeSize, Features, Mode};

/// CPUID features of instructions that are in the opcode maps.
const KNOWN: &[F] = &[
    F::INTEL8086,
    F::INTEL8086_ONLY,
    F::INTEL186,
    F::INTEL286,
    F::INTEL386,
    F::INTEL486,
    F::X64,
    F::CPUID,
    F::TSC,
    F::MSR,
    F::CX8,
    F::CMPXCHG16B,
    F::SEP,
    F::SYSCALL,
    F::CMOV,
    F::CLFSH,
    F::CLFLUSHOPT,
    F::CLWB,
    F::MMX,
    F::FXSR,
    F::SSE,
    F::SSE2,
    F::SSE3,
    F::SSSE3,
    F::SSE4_1,
    F::SSE4_2,
    F::AES,
    F::PCLMULQDQ,
    F::MONITOR,
    F::MOVBE,
    F::POPCNT,
    F::LZCNT,
    F::BMI1,
    F::BMI2,
    F::ADX,
    F::RDRAND,
    F::RDSEED,
    F::RDTSCP,
    F::RDPID,
    F::FSGSBASE,
    F::SMAP,
    F::INVPCID,
    F::PREFETCHW,
    F::FPU,
    F::FPU287,
    F::FPU387,
    F::RDPMC,
    F::SMM,
    F::MULTIBYTENOP,
    F::PAUSE,
];

struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 33) % n
    }
}

fn bytes(rng: &mut Rng) -> Vec<u8> {
    const PREFIXES: [u8; 14] =
        [0x66, 0x67, 0xf0, 0xf2, 0xf3, 0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x48, 0x41, 0x66];
    let mut out = Vec::new();
    for _ in 0..rng.below(4) {
        out.push(PREFIXES[rng.below(14) as usize]);
    }
    match rng.below(8) {
        0..3 => out.push(0x0f),
        3 => out.extend([0x0f, 0x38]),
        4 => out.extend([0x0f, 0x3a]),
        5 => out.extend([0xc4, 0xe2 | (rng.next() as u8 & 1), rng.next() as u8 & 0xfb]),
        _ => {}
    }
    while out.len() < 24 {
        out.push(rng.next() as u8);
    }
    out
}

fn compare(code: CodeSize, bitness: u32, cases: u32) {
    let mode = Mode { code, protected: true, features: Features::all() };
    let mut rng = Rng(0x9e37_79b9_7f4a_7c15 ^ u64::from(bitness));
    let (mut valid, mut invalid, mut bad) = (0, 0, Vec::new());
    for _ in 0..cases {
        let bytes = bytes(&mut rng);
        let mut at = bytes.iter().copied();
        let ours = decode(mode, &mut || at.next().ok_or(()));
        let mut decoder = Decoder::with_ip(bitness, &bytes, 0, DecoderOptions::NONE);
        let theirs = decoder.decode();
        let known = theirs.code().cpuid_features().iter().all(|f| KNOWN.contains(f));
        match ours {
            Ok(insn) if !theirs.is_invalid() && known => {
                valid += 1;
                if usize::from(insn.len) != theirs.len() {
                    bad.push(format!(
                        "{bytes:02x?}: {:?} of {} bytes, not {theirs} of {}",
                        insn.id,
                        insn.len,
                        theirs.len()
                    ));
                }
            }
            Ok(insn) if theirs.is_invalid() => {
                bad.push(format!("{bytes:02x?}: {:?} is invalid", insn.id));
            }
            Ok(_) => {}
            Err(DecodeError::Undefined) if theirs.is_invalid() || !known => invalid += 1,
            Err(DecodeError::TooLong) if theirs.is_invalid() => invalid += 1,
            Err(e) => bad.push(format!("{bytes:02x?}: {e:?}, not {theirs}")),
        }
    }
    assert!(valid > cases / 20 && invalid > cases / 20, "{valid} valid, {invalid} invalid");
    bad.sort();
    bad.truncate(40);
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

#[test]
fn sixteen_bit_code_decodes_as_elsewhere() {
    compare(CodeSize::Bits16, 16, 300_000);
}

#[test]
fn thirty_two_bit_code_decodes_as_elsewhere() {
    compare(CodeSize::Bits32, 32, 300_000);
}

#[test]
fn sixty_four_bit_code_decodes_as_elsewhere() {
    compare(CodeSize::Bits64, 64, 300_000);
}
