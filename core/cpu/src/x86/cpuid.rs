//! Processor models and CPUID (SDM vol. 2A CPUID, AMD APM vol. 3 appendix E).
//!
//! A model is what `-cpu` names: a vendor, a family and a set of features. The feature set rules
//! what the processor does, not only what CPUID says. Names are QEMU's.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// One CPUID feature flag: word number and bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feature(pub u8, pub u8);

/// Number of feature words.
pub const WORDS: usize = 9;

/// Register of a feature word: leaf 1 EDX, 1 ECX, 80000001 EDX, 80000001 ECX, 7 EBX, 7 ECX, 7 EDX,
/// 80000007 EDX, 6 EAX.
mod word {
    pub(super) const D1: u8 = 0;
    pub(super) const C1: u8 = 1;
    pub(super) const XD: u8 = 2;
    pub(super) const XC: u8 = 3;
    pub(super) const B7: u8 = 4;
    pub(super) const C7: u8 = 5;
    pub(super) const D7: u8 = 6;
    pub(super) const APM: u8 = 7;
    pub(super) const A6: u8 = 8;
}

macro_rules! features {
    ($($word:ident { $($bit:literal $id:ident $name:literal $(| $alias:literal)*,)* })*) => {
        /// The feature flags by name.
        pub mod feature {
            use super::{Feature, word};
            $($(
                #[doc = concat!("`", $name, "`")]
                pub const $id: Feature = Feature(word::$word, $bit);
            )*)*
        }
        const NAMES: &[(&str, Feature)] = &[
            $($(($name, feature::$id), $(($alias, feature::$id),)*)*)*
        ];
    };
}

features! {
    D1 {
        0 FPU "fpu", 1 VME "vme", 2 DE "de", 3 PSE "pse", 4 TSC "tsc", 5 MSR "msr", 6 PAE "pae",
        7 MCE "mce", 8 CX8 "cx8", 9 APIC "apic", 11 SEP "sep", 12 MTRR "mtrr", 13 PGE "pge",
        14 MCA "mca", 15 CMOV "cmov", 16 PAT "pat", 17 PSE36 "pse36", 18 PN "pn",
        19 CLFLUSH "clflush", 21 DS "ds", 22 ACPI "acpi", 23 MMX "mmx", 24 FXSR "fxsr",
        25 SSE "sse", 26 SSE2 "sse2", 27 SS "ss", 28 HT "ht", 29 TM "tm", 31 PBE "pbe",
    }
    C1 {
        0 SSE3 "pni" | "sse3", 1 PCLMUL "pclmulqdq" | "pclmuldq", 2 DTES64 "dtes64",
        3 MONITOR "monitor", 5 VMX "vmx", 7 EST "est", 9 SSSE3 "ssse3", 12 FMA "fma",
        13 CX16 "cx16", 15 PDCM "pdcm", 17 PCID "pcid", 19 SSE41 "sse4.1" | "sse4-1" | "sse4_1",
        20 SSE42 "sse4.2" | "sse4-2" | "sse4_2", 21 X2APIC "x2apic", 22 MOVBE "movbe",
        23 POPCNT "popcnt", 24 TSC_DEADLINE "tsc-deadline", 25 AES "aes", 26 XSAVE "xsave",
        28 AVX "avx", 29 F16C "f16c", 30 RDRAND "rdrand", 31 HYPERVISOR "hypervisor",
    }
    XD {
        11 SYSCALL "syscall", 20 NX "nx" | "xd", 22 MMXEXT "mmxext",
        25 FXSR_OPT "fxsr-opt" | "ffxsr", 26 PDPE1GB "pdpe1gb", 27 RDTSCP "rdtscp",
        29 LM "lm" | "i64", 30 D3NOWEXT "3dnowext", 31 D3NOW "3dnow",
    }
    XC {
        0 LAHF_LM "lahf-lm", 1 CMP_LEGACY "cmp-legacy", 2 SVM "svm", 4 CR8LEGACY "cr8legacy",
        5 ABM "abm" | "lzcnt", 6 SSE4A "sse4a", 7 MISALIGNSSE "misalignsse",
        8 PREFETCHW "3dnowprefetch", 11 XOP "xop", 16 FMA4 "fma4", 21 TBM "tbm",
        22 TOPOEXT "topoext",
    }
    B7 {
        0 FSGSBASE "fsgsbase", 1 TSC_ADJUST "tsc-adjust", 3 BMI1 "bmi1", 5 AVX2 "avx2",
        7 SMEP "smep", 8 BMI2 "bmi2", 9 ERMS "erms", 10 INVPCID "invpcid", 18 RDSEED "rdseed",
        19 ADX "adx", 20 SMAP "smap", 23 CLFLUSHOPT "clflushopt", 24 CLWB "clwb", 29 SHA "sha-ni",
    }
    C7 { 2 UMIP "umip", 3 PKU "pku", 16 LA57 "la57", 22 RDPID "rdpid", }
    D7 { 4 FSRM "fsrm", 26 SPEC_CTRL "spec-ctrl", }
    APM { 8 INVTSC "invtsc", }
    A6 { 2 ARAT "arat", }
}

/// What this processor implements; asking for more is answered with a warning.
const IMPLEMENTED: &[Feature] = {
    use feature::*;
    &[
        FPU, VME, DE, PSE, TSC, MSR, PAE, MCE, CX8, APIC, SEP, MTRR, PGE, MCA, CMOV, PAT, PSE36,
        CLFLUSH, ACPI, MMX, FXSR, SSE, SSE2, SS, HT, SSE3, PCLMUL, SSSE3, CX16, SSE41, SSE42,
        MOVBE, POPCNT, AES, RDRAND, HYPERVISOR, SYSCALL, NX, MMXEXT, FXSR_OPT, PDPE1GB, RDTSCP, LM,
        LAHF_LM, CMP_LEGACY, CR8LEGACY, ABM, PREFETCHW, FSGSBASE, TSC_ADJUST, BMI1, SMEP, BMI2,
        ERMS, RDSEED, ADX, SMAP, CLFLUSHOPT, UMIP, FSRM, INVTSC, ARAT, MONITOR,
    ]
};

const PPRO: &[Feature] = {
    use feature::*;
    &[FPU, DE, PSE, TSC, MSR, MCE, CX8, PGE, CMOV, PAT, FXSR, MMX, SSE, SSE2, PAE, SEP, APIC]
};

/// A processor model: what CPUID says and what the processor therefore does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Model {
    /// QEMU's name.
    pub name: String,
    /// Twelve characters.
    pub vendor: String,
    /// Family, model, stepping.
    pub signature: (u32, u32, u32),
    /// Highest basic leaf.
    pub level: u32,
    /// Highest extended leaf; 0 = none.
    pub xlevel: u32,
    /// Feature words, see [`feature`].
    pub words: [u32; WORDS],
    /// Brand string.
    pub brand: String,
    /// Width of a physical address.
    pub phys_bits: u32,
    /// Cores in the package.
    pub cores: u32,
    /// Threads in a core.
    pub threads: u32,
}

/// Why a `-cpu` argument was refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ModelError {
    /// No such model.
    #[error("unknown CPU model '{0}' (known: {known})", known = Model::NAMES.join(", "))]
    Model(String),
    /// No such feature or property.
    #[error("unknown CPU property '{0}'{hint}", hint = nearest(.0).map(|n| format!(" (did you mean '{n}'?)")).unwrap_or_default())]
    Feature(String),
    /// A property's value.
    #[error("bad value '{1}' for CPU property '{0}'")]
    Value(String, String),
}

/// The feature name that differs least, if any is close.
fn nearest(name: &str) -> Option<&'static str> {
    let distance = |a: &str, b: &str| {
        let b: Vec<char> = b.chars().collect();
        let mut row: Vec<usize> = (0..=b.len()).collect();
        for (i, ca) in a.chars().enumerate() {
            let mut diagonal = row[0];
            row[0] = i + 1;
            for (j, &cb) in b.iter().enumerate() {
                let next = (diagonal + usize::from(ca != cb)).min(row[j] + 1).min(row[j + 1] + 1);
                diagonal = row[j + 1];
                row[j + 1] = next;
            }
        }
        row[b.len()]
    };
    NAMES
        .iter()
        .map(|(n, _)| (distance(name, n), *n))
        .min()
        .filter(|(d, _)| *d <= 2)
        .map(|(_, n)| n)
}

impl Model {
    /// The models there are.
    pub const NAMES: &'static [&'static str] =
        &["486", "pentium", "pentium2", "pentium3", "qemu32", "qemu64", "max"];

    /// A model by its name, one core.
    pub fn named(name: &str) -> Result<Self, ModelError> {
        use feature::*;
        const INTEL: &str = "GenuineIntel";
        const AMD: &str = "AuthenticAMD";
        let i486: &[Feature] = &[FPU, VME, PSE];
        let p5: &[Feature] = &[DE, TSC, MSR, MCE, CX8, MMX];
        let p6: &[Feature] = &[PAE, SEP, MTRR, PGE, MCA, CMOV, PAT, PSE36, FXSR];
        let (vendor, signature, level, xlevel, brand) = match name {
            "486" => (INTEL, (4, 8, 0), 1, 0, ""),
            "pentium" => (INTEL, (5, 4, 3), 1, 0, ""),
            "pentium2" => (INTEL, (6, 5, 2), 2, 0, ""),
            "pentium3" => (INTEL, (6, 7, 3), 3, 0, ""),
            "qemu32" => (INTEL, (6, 6, 3), 4, 0x8000_0004, "QEMU Virtual CPU version 2.5+"),
            "qemu64" => (AMD, (15, 107, 1), 0xd, 0x8000_000a, "QEMU Virtual CPU version 2.5+"),
            "max" => (AMD, (15, 107, 1), 0xd, 0x8000_000a, "Orrery max CPU"),
            _ => return Err(ModelError::Model(name.into())),
        };
        let mut model = Self {
            name: name.into(),
            vendor: vendor.into(),
            signature,
            level,
            xlevel,
            words: [0; WORDS],
            brand: brand.into(),
            phys_bits: 32,
            cores: 1,
            threads: 1,
        };
        match name {
            "486" => model.add(i486),
            "pentium" => {
                model.add(i486);
                model.add(p5);
            }
            "pentium2" | "pentium3" => {
                model.add(i486);
                model.add(p5);
                model.add(p6);
                if name == "pentium3" {
                    model.add(&[SSE]);
                }
                model.phys_bits = 36;
            }
            "qemu32" => {
                model.add(PPRO);
                model.add(&[SSE3, HYPERVISOR]);
                model.phys_bits = 36;
            }
            "qemu64" => {
                model.add(PPRO);
                model.add(&[MTRR, CLFLUSH, MCA, PSE36, SSE3, CX16, HYPERVISOR]);
                model.add(&[LM, SYSCALL, NX, LAHF_LM]);
                model.phys_bits = 40;
            }
            _ => {
                for &f in IMPLEMENTED {
                    model.set(f, true);
                }
                for f in [MONITOR, HT, CMP_LEGACY, INVTSC, FXSR_OPT, SS] {
                    model.set(f, false);
                }
                model.phys_bits = 40;
            }
        }
        Ok(model)
    }

    /// A `-cpu` argument: `model,+feature,-feature,feature=on,property=value`. The second answer
    /// names the features asked for that are not implemented.
    pub fn parse(text: &str) -> Result<(Self, Vec<String>), ModelError> {
        let mut parts = text.split(',');
        let mut model = Self::named(parts.next().unwrap_or_default())?;
        let mut missing = Vec::new();
        for part in parts.filter(|p| !p.is_empty()) {
            let (name, value) = match (part.strip_prefix('+'), part.strip_prefix('-')) {
                (Some(n), _) => (n, "on"),
                (_, Some(n)) => (n, "off"),
                _ => part.split_once('=').unwrap_or((part, "on")),
            };
            let bad = || ModelError::Value(name.into(), value.into());
            let number = || {
                let v = value.strip_prefix("0x").map(|h| u32::from_str_radix(h, 16));
                v.unwrap_or_else(|| value.parse()).map_err(|_| bad())
            };
            match name {
                "vendor" if value.len() == 12 && value.is_ascii() => model.vendor = value.into(),
                "vendor" => return Err(bad()),
                "model-id" => model.brand = value.chars().take(47).collect(),
                "family" => model.signature.0 = number()?,
                "model" => model.signature.1 = number()?,
                "stepping" => model.signature.2 = number()?,
                "level" | "min-level" => model.level = number()?,
                "xlevel" | "min-xlevel" => model.xlevel = number()?,
                "phys-bits" => {
                    model.phys_bits =
                        Some(number()?).filter(|n| (32..=52).contains(n)).ok_or_else(bad)?;
                }
                "check" | "enforce" | "host-phys-bits" | "l3-cache" | "kvm" => {}
                _ => {
                    let canonical = name.replace('_', "-");
                    let &(_, f) = NAMES
                        .iter()
                        .find(|(n, _)| *n == name || *n == canonical)
                        .ok_or_else(|| ModelError::Feature(name.into()))?;
                    let on = match value {
                        "on" | "yes" | "true" => true,
                        "off" | "no" | "false" => false,
                        _ => return Err(bad()),
                    };
                    if on && !IMPLEMENTED.contains(&f) {
                        missing.push(name.into());
                    } else {
                        model.set(f, on);
                    }
                }
            }
        }
        if model.has(feature::LM) {
            model.xlevel = model.xlevel.max(0x8000_0008);
        }
        Ok((model, missing))
    }

    fn add(&mut self, list: &[Feature]) {
        for &f in list {
            self.set(f, true);
        }
    }

    /// Turns a feature on or off.
    pub fn set(&mut self, f: Feature, on: bool) {
        let w = &mut self.words[usize::from(f.0)];
        *w = (*w & !(1 << f.1)) | u32::from(on) << f.1;
    }

    /// Whether it has a feature.
    pub const fn has(&self, f: Feature) -> bool {
        self.words[f.0 as usize] & 1 << f.1 != 0
    }

    /// Whether the vendor is AMD, whose rules differ in places.
    pub fn is_amd(&self) -> bool {
        self.vendor == "AuthenticAMD"
    }

    /// Family, model and stepping as leaf 1 EAX has them; also EDX after reset.
    pub const fn leaf1_eax(&self) -> u32 {
        let (family, model, stepping) = self.signature;
        let (base, extended) = if family > 15 { (15, family - 15) } else { (family, 0) };
        extended << 20 | (model >> 4 & 15) << 16 | base << 8 | (model & 15) << 4 | stepping & 15
    }

    /// CPUID of one processor: EAX, EBX, ECX, EDX.
    pub fn cpuid(&self, leaf: u32, subleaf: u32, apic_id: u32, apic_on: bool) -> [u32; 4] {
        let mut leaf = leaf;
        let hypervisor = self.has(feature::HYPERVISOR) && leaf >> 28 == 4;
        let in_range = match leaf >> 28 {
            0 => leaf <= self.level,
            4 => hypervisor && leaf <= 0x4000_0001,
            8 => leaf <= self.xlevel,
            _ => false,
        };
        if !in_range {
            leaf = self.level;
        }
        let w = &self.words;
        let logical = (self.cores * self.threads).max(1);
        let text = |s: &str, at: usize| {
            let byte = |i: usize| u32::from(s.as_bytes().get(at + i).copied().unwrap_or(0));
            byte(0) | byte(1) << 8 | byte(2) << 16 | byte(3) << 24
        };
        let log2 = |n: u32| n.next_power_of_two().trailing_zeros();
        match leaf {
            0 => [self.level, text(&self.vendor, 0), text(&self.vendor, 8), text(&self.vendor, 4)],
            1 => {
                let mut ebx = apic_id << 24;
                let mut edx = w[0];
                if self.has(feature::CLFLUSH) {
                    ebx |= 8 << 8;
                }
                if logical > 1 {
                    ebx |= logical << 16;
                    edx |= 1 << 28;
                }
                if !apic_on {
                    edx &= !(1 << feature::APIC.1);
                }
                [self.leaf1_eax(), ebx, w[1], edx]
            }
            // Descriptors: 2 MB second-level, 32 KB instruction and data caches.
            2 => [1, 0, 0x4d, 0x002c_307d],
            4 if !self.is_amd() => {
                let (kind, level, ways, sets, sharing) = match subleaf {
                    0 => (1, 1, 8, 64, self.threads),
                    1 => (2, 1, 8, 64, self.threads),
                    2 => (3, 2, 16, 4096, self.threads),
                    _ => return [0; 4],
                };
                let cores = (1u32 << log2(self.cores)) - 1;
                let share = (1u32 << log2(sharing)) - 1;
                let eax = kind | level << 5 | 1 << 8 | share << 14 | cores << 26;
                [eax, 63 | (ways - 1) << 22, sets - 1, 1]
            }
            5 if self.has(feature::MONITOR) => [0, 0, 3, 0],
            6 => [w[8], 0, 0, 0],
            7 if subleaf == 0 => [0, w[4], w[5], w[6]],
            0xb => {
                let (shift, count, kind) = match subleaf {
                    0 => (log2(self.threads), self.threads, 1),
                    1 => (log2(self.threads) + log2(self.cores), logical, 2),
                    _ => (0, 0, 0),
                };
                [shift, count, kind << 8 | subleaf & 0xff, apic_id]
            }
            // Not the signature of another hypervisor: guests would expect its interface.
            0x4000_0000 => [
                0x4000_0001,
                text("OrreryOrrery", 0),
                text("OrreryOrrery", 4),
                text("OrreryOrrery", 8),
            ],
            0x8000_0000 => {
                [self.xlevel, text(&self.vendor, 0), text(&self.vendor, 8), text(&self.vendor, 4)]
            }
            0x8000_0001 => {
                let mut ecx = w[3];
                // AMD repeats what the two leaves have in common.
                const SHARED: u32 = 0x0183_f3ff;
                let edx = w[2] | if self.is_amd() { w[0] & SHARED } else { 0 };
                if logical > 1 && self.is_amd() {
                    ecx |= 1 << feature::CMP_LEGACY.1;
                }
                [self.leaf1_eax(), 0, ecx, edx]
            }
            0x8000_0002..=0x8000_0004 => {
                let at = (leaf - 0x8000_0002) as usize * 16;
                [0, 4, 8, 12].map(|i| text(&self.brand, at + i))
            }
            0x8000_0005 if self.is_amd() => [0x01ff_01ff, 0x01ff_01ff, 0x4002_0140, 0x4002_0140],
            0x8000_0006 => [0, 0x4200_4200, 0x0200_8140, 0],
            0x8000_0007 => [0, 0, 0, w[7]],
            0x8000_0008 => {
                let linear = if self.has(feature::LM) { 48 } else { 32 };
                let ecx = if logical > 1 { log2(logical) << 12 | (logical - 1) } else { 0 };
                [self.phys_bits | linear << 8, 0, if self.is_amd() { ecx } else { 0 }, 0]
            }
            _ => [0; 4],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn qemu64_is_an_amd_with_long_mode_and_the_old_ones_are_intels() {
        let m = Model::named("qemu64").unwrap();
        let [max, b, c, d] = m.cpuid(0, 0, 0, true);
        assert_eq!(max, 0xd);
        let bytes: Vec<u8> = [b, d, c].iter().flat_map(|w| w.to_le_bytes()).collect();
        assert_eq!(bytes, b"AuthenticAMD");
        assert_eq!(m.cpuid(1, 0, 0, true)[0], 0x0006_0fb1);
        assert_eq!(m.cpuid(1, 0, 0, true)[2] >> 31, 1, "hypervisor bit");
        assert_ne!(m.cpuid(0x8000_0001, 0, 0, true)[3] & 1 << 29, 0);
        assert_eq!(Model::named("486").unwrap().leaf1_eax(), 0x480);
        assert_eq!(Model::named("pentium3").unwrap().leaf1_eax(), 0x673);
    }

    #[test]
    fn a_leaf_beyond_the_last_answers_as_the_last() {
        let m = Model::named("pentium").unwrap();
        assert_eq!(m.cpuid(0x8000_0000, 0, 0, true), m.cpuid(1, 0, 0, true));
    }

    #[test]
    fn features_are_switched_by_name_and_the_missing_ones_are_told() {
        let (m, missing) = Model::parse("qemu64,+sse4.2,-nx,avx2=on,smep=on").unwrap();
        assert!(m.has(feature::SSE42) && m.has(feature::SMEP) && !m.has(feature::NX));
        assert_eq!(missing, ["avx2"]);
        assert_eq!(
            Model::parse("qemu64,+sse4.3").unwrap_err().to_string(),
            "unknown CPU property 'sse4.3' (did you mean 'sse4.1'?)"
        );
        assert!(matches!(Model::parse("i8080"), Err(ModelError::Model(_))));
        assert!(matches!(Model::parse("max,nx=maybe"), Err(ModelError::Value(..))));
    }

    #[test]
    fn topology_counts_cores() {
        let mut m = Model::named("qemu64").unwrap();
        m.cores = 4;
        assert_eq!(m.cpuid(1, 0, 3, true)[1] >> 16, 3 << 8 | 4);
        assert_eq!(m.cpuid(0xb, 1, 3, true), [2, 4, 0x201, 3]);
        assert_eq!(m.cpuid(0x8000_0008, 0, 0, true)[2] & 0xff, 3);
    }

    #[test]
    fn the_apic_bit_follows_its_switch() {
        let m = Model::named("qemu32").unwrap();
        assert_eq!(m.cpuid(1, 0, 0, false)[3] & 1 << 9, 0);
        assert_ne!(m.cpuid(1, 0, 0, true)[3] & 1 << 9, 0);
    }
}
