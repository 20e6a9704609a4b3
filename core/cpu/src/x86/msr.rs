//! Model-specific registers (SDM vol. 4, AMD BKDG and APM vol. 2 appendix A), time stamp and
//! random numbers.

use super::cpuid::feature;
use super::paging::Bus;
use super::state::{Fault, X86, cr0, cr4, efer, seg, var};

/// MSR numbers.
mod number {
    pub(super) const TSC: u32 = 0x10;
    pub(super) const APIC_BASE: u32 = 0x1b;
    pub(super) const FEATURE_CONTROL: u32 = 0x3a;
    pub(super) const TSC_ADJUST: u32 = 0x3b;
    pub(super) const SPEC_CTRL: u32 = 0x48;
    pub(super) const BIOS_UPDT_TRIG: u32 = 0x79;
    pub(super) const BIOS_SIGN_ID: u32 = 0x8b;
    pub(super) const SMBASE: u32 = 0x9e;
    pub(super) const MTRR_CAP: u32 = 0xfe;
    pub(super) const SYSENTER_CS: u32 = 0x174;
    pub(super) const SYSENTER_ESP: u32 = 0x175;
    pub(super) const SYSENTER_EIP: u32 = 0x176;
    pub(super) const MCG_CAP: u32 = 0x179;
    pub(super) const MCG_STATUS: u32 = 0x17a;
    pub(super) const MCG_CTL: u32 = 0x17b;
    pub(super) const PERF_STATUS: u32 = 0x198;
    pub(super) const MISC_ENABLE: u32 = 0x1a0;
    pub(super) const DEBUGCTL: u32 = 0x1d9;
    pub(super) const MTRR_PHYS: u32 = 0x200;
    pub(super) const MTRR_DEF_TYPE: u32 = 0x2ff;
    pub(super) const PAT: u32 = 0x277;
    pub(super) const MC0_CTL: u32 = 0x400;
    pub(super) const EFER: u32 = 0xc000_0080;
    pub(super) const STAR: u32 = 0xc000_0081;
    pub(super) const LSTAR: u32 = 0xc000_0082;
    pub(super) const CSTAR: u32 = 0xc000_0083;
    pub(super) const SFMASK: u32 = 0xc000_0084;
    pub(super) const FS_BASE: u32 = 0xc000_0100;
    pub(super) const GS_BASE: u32 = 0xc000_0101;
    pub(super) const KERNEL_GS_BASE: u32 = 0xc000_0102;
    pub(super) const TSC_AUX: u32 = 0xc000_0103;
    pub(super) const HSAVE_PA: u32 = 0xc001_0117;
}

/// The fixed-range MTRRs, in the order of their storage.
const MTRR_FIXED: [u32; 11] =
    [0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f];

/// Eight variable ranges, fixed ranges, write-combining.
const MTRR_CAP_VALUE: u64 = 0x508;
/// Ten banks, MCG_CTL, user error recovery as QEMU's machines have it.
const MCG_CAP_VALUE: u64 = 10 | 1 << 8;
/// Configuration registers of AMD processors that firmware and kernels look at and that have
/// nothing to configure here: they read zero, writes are dropped.
const INERT: [u32; 16] = [
    0xc001_0010,
    0xc001_0015,
    0xc001_0016,
    0xc001_0017,
    0xc001_0018,
    0xc001_0019,
    0xc001_001a,
    0xc001_001d,
    0xc001_001f,
    0xc001_0055,
    0xc001_0114,
    0xc001_0140,
    0xc001_0141,
    0xc001_1022,
    0xc001_1023,
    0xc001_1029,
];
/// The same of Intel processors: P5 machine check, platform id, power-on configuration, BBL
/// control, last-branch records, thermal control.
const INERT_INTEL: [u32; 13] =
    [0x0, 0x1, 0x17, 0x2a, 0x119, 0x19a, 0x19b, 0x19c, 0x1db, 0x1dc, 0x1dd, 0x1de, 0x34];

const fn valid_memory_type(t: u64) -> bool {
    matches!(t, 0 | 1 | 4 | 5 | 6)
}

impl X86 {
    /// The time stamp counter: a gigahertz.
    pub fn tsc(&self, bus: &Bus<'_>) -> u64 {
        bus.board.now().0.wrapping_add(self.sys.msr.tsc_offset)
    }

    /// Puts a value into EDX:EAX.
    pub fn set_edx_eax(&mut self, value: u64) {
        self.frame.ints[var::RAX] = value & 0xffff_ffff;
        self.frame.ints[var::RDX] = value >> 32;
    }

    /// RDTSC.
    pub fn rdtsc(&mut self, bus: &Bus<'_>) -> Result<(), Fault> {
        if !self.model.has(feature::TSC) {
            return Err(Fault::UD);
        }
        if self.sys.cr4 & cr4::TSD != 0 && self.sys.cpl > 0 {
            return Err(Fault::GP0);
        }
        let tsc = self.tsc(bus);
        self.set_edx_eax(tsc);
        Ok(())
    }

    /// RDTSCP.
    pub fn rdtscp(&mut self, bus: &Bus<'_>) -> Result<(), Fault> {
        if !self.model.has(feature::RDTSCP) {
            return Err(Fault::UD);
        }
        self.rdtsc(bus)?;
        self.frame.ints[var::RCX] = self.sys.msr.tsc_aux & 0xffff_ffff;
        Ok(())
    }

    /// RDPMC: the counters there are count nothing.
    pub fn rdpmc(&mut self) -> Result<(), Fault> {
        if !self.model.has(feature::MMX) {
            return Err(Fault::UD);
        }
        if self.sys.cr4 & cr4::PCE == 0 && self.sys.cpl > 0 {
            return Err(Fault::GP0);
        }
        let n = (self.frame.ints[var::RCX] & 0xffff_ffff) as usize;
        let counters = if self.model.is_amd() { 4 } else { 2 };
        if n >= counters {
            return Err(Fault::GP0);
        }
        self.set_edx_eax(self.sys.msr.perf[4 + n] & 0xff_ffff_ffff);
        Ok(())
    }

    /// RDRAND and RDSEED: a deterministic sequence (SplitMix64) from the machine's seed.
    pub fn random(&mut self) -> u64 {
        self.sys.rng = self.sys.rng.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.sys.rng;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// CPUID from EAX and ECX into EAX, EBX, ECX and EDX.
    pub fn do_cpuid(&mut self, bus: &mut Bus<'_>) -> Result<(), Fault> {
        if self.model.level == 0 {
            return Err(Fault::UD);
        }
        let (leaf, subleaf) = (self.frame.ints[var::RAX] as u32, self.frame.ints[var::RCX] as u32);
        let apic = bus.board.msr_read(self.index, number::APIC_BASE);
        let apic_on = apic.is_some_and(|v| v & 1 << 11 != 0);
        let out = self.model.cpuid(leaf, subleaf, self.index as u32, apic_on);
        for (register, value) in [var::RAX, var::RBX, var::RCX, var::RDX].into_iter().zip(out) {
            self.frame.ints[register] = value.into();
        }
        Ok(())
    }

    /// RDMSR.
    pub fn rdmsr(&mut self, bus: &mut Bus<'_>) -> Result<(), Fault> {
        if !self.model.has(feature::MSR) {
            return Err(Fault::UD);
        }
        self.require_cpl0()?;
        let index = self.frame.ints[var::RCX] as u32;
        let value = self.read_msr(bus, index).ok_or(Fault::GP0)?;
        self.set_edx_eax(value);
        Ok(())
    }

    /// WRMSR.
    pub fn wrmsr(&mut self, bus: &mut Bus<'_>) -> Result<(), Fault> {
        if !self.model.has(feature::MSR) {
            return Err(Fault::UD);
        }
        self.require_cpl0()?;
        let index = self.frame.ints[var::RCX] as u32;
        let low = self.frame.ints[var::RAX] & 0xffff_ffff;
        let value = low | self.frame.ints[var::RDX] << 32;
        self.write_msr(bus, index, value).ok_or(Fault::GP0)
    }

    /// The value of an MSR; `None` raises #GP(0).
    pub fn read_msr(&mut self, bus: &mut Bus<'_>, index: u32) -> Option<u64> {
        let has = |f| self.model.has(f);
        let m = &self.sys.msr;
        let lm = has(feature::LM);
        let fixed = MTRR_FIXED.iter().position(|&n| n == index);
        Some(match index {
            number::TSC if has(feature::TSC) => self.tsc(bus),
            number::TSC_ADJUST if has(feature::TSC_ADJUST) => m.tsc_adjust,
            number::TSC_AUX if has(feature::RDTSCP) => m.tsc_aux,
            number::FEATURE_CONTROL if !self.model.is_amd() => m.feature_control,
            number::SPEC_CTRL if has(feature::SPEC_CTRL) => m.spec_ctrl,
            number::BIOS_SIGN_ID => m.microcode << 32,
            number::SMBASE if self.sys.smm => self.sys.smbase.into(),
            number::MTRR_CAP if has(feature::MTRR) => MTRR_CAP_VALUE,
            number::MTRR_DEF_TYPE if has(feature::MTRR) => m.mtrr_def_type,
            number::MTRR_PHYS..=0x20f if has(feature::MTRR) => m.mtrr_var[(index & 15) as usize],
            _ if fixed.is_some() && has(feature::MTRR) => m.mtrr_fixed[fixed?],
            number::PAT if has(feature::PAT) => m.pat,
            number::SYSENTER_CS if has(feature::SEP) => m.sysenter_cs,
            number::SYSENTER_ESP if has(feature::SEP) => m.sysenter_esp,
            number::SYSENTER_EIP if has(feature::SEP) => m.sysenter_eip,
            number::MCG_CAP if has(feature::MCA) => MCG_CAP_VALUE,
            number::MCG_STATUS if has(feature::MCA) => m.mcg_status,
            number::MCG_CTL if has(feature::MCA) => m.mcg_ctl,
            number::MC0_CTL..=0x427 if has(feature::MCA) => {
                let n = (index - number::MC0_CTL) as usize;
                m.mc_banks[n / 4][n % 4]
            }
            number::PERF_STATUS => 1000 | 4 << 40,
            number::MISC_ENABLE if self.model.signature.0 >= 6 => m.misc_enable,
            number::DEBUGCTL if self.model.signature.0 >= 6 => m.debugctl,
            0xc1 | 0xc2 if !self.model.is_amd() => m.perf[4 + (index - 0xc1) as usize],
            0x186 | 0x187 if !self.model.is_amd() => m.perf[(index - 0x186) as usize],
            0xc001_0000..=0xc001_0007 if self.model.is_amd() => m.perf[(index & 7) as usize],
            number::EFER if lm || has(feature::SYSCALL) || has(feature::NX) => self.sys.efer,
            number::STAR if has(feature::SYSCALL) => m.star,
            number::LSTAR if lm => m.lstar,
            number::CSTAR if lm => m.cstar,
            number::SFMASK if lm => m.sfmask,
            number::FS_BASE if lm => self.sys.seg[seg::FS].base,
            number::GS_BASE if lm => self.sys.seg[seg::GS].base,
            number::KERNEL_GS_BASE if lm => m.kernel_gs_base,
            number::HSAVE_PA if self.model.is_amd() => m.hsave_pa,
            _ if self.model.is_amd() && INERT.contains(&index) => 0,
            _ if self.model.signature.0 >= 5 && INERT_INTEL.contains(&index) => 0,
            _ => return bus.board.msr_read(self.index, index),
        })
    }

    /// Writes an MSR; `None` raises #GP(0).
    pub fn write_msr(&mut self, bus: &mut Bus<'_>, index: u32, value: u64) -> Option<()> {
        let has = |f| self.model.has(f);
        let lm = has(feature::LM);
        let canonical = Self::canonical(value).then_some(());
        let physical = (value >> self.model.phys_bits == 0).then_some(());
        let now = bus.board.now().0;
        let old_tsc = self.tsc(bus);
        let fixed = MTRR_FIXED.iter().position(|&n| n == index);
        let (amd, family) = (self.model.is_amd(), self.model.signature.0);
        let smm = self.sys.smm;
        let m = &mut self.sys.msr;
        match index {
            number::TSC if has(feature::TSC) => {
                m.tsc_adjust = m.tsc_adjust.wrapping_add(value.wrapping_sub(old_tsc));
                m.tsc_offset = value.wrapping_sub(now);
            }
            number::TSC_ADJUST if has(feature::TSC_ADJUST) => {
                let by = value.wrapping_sub(m.tsc_adjust);
                m.tsc_offset = m.tsc_offset.wrapping_add(by);
                m.tsc_adjust = value;
            }
            number::TSC_AUX if has(feature::RDTSCP) => m.tsc_aux = value & 0xffff_ffff,
            number::FEATURE_CONTROL if !amd => m.feature_control = value,
            number::SPEC_CTRL if has(feature::SPEC_CTRL) => m.spec_ctrl = value,
            number::BIOS_UPDT_TRIG => {}
            number::BIOS_SIGN_ID => m.microcode = value >> 32,
            number::SMBASE if smm => self.sys.smbase = value as u32,
            number::MTRR_DEF_TYPE if has(feature::MTRR) => {
                if value & !0xcff != 0 || !valid_memory_type(value & 0xff) {
                    return None;
                }
                m.mtrr_def_type = value;
            }
            number::MTRR_PHYS..=0x20f if has(feature::MTRR) => {
                physical?;
                let base = index & 1 == 0;
                if base && (value & 0xf00 != 0 || !valid_memory_type(value & 0xff)) {
                    return None;
                }
                if !base && value & 0x7ff != 0 {
                    return None;
                }
                m.mtrr_var[(index & 15) as usize] = value;
            }
            _ if fixed.is_some() && has(feature::MTRR) => {
                if !value.to_le_bytes().into_iter().all(|t| valid_memory_type(t.into())) {
                    return None;
                }
                m.mtrr_fixed[fixed?] = value;
            }
            number::PAT if has(feature::PAT) => {
                if !value.to_le_bytes().into_iter().all(|t| valid_memory_type(t.into()) || t == 7) {
                    return None;
                }
                m.pat = value;
            }
            number::SYSENTER_CS if has(feature::SEP) => m.sysenter_cs = value & 0xffff_ffff,
            number::SYSENTER_ESP | number::SYSENTER_EIP if has(feature::SEP) => {
                if lm {
                    canonical?;
                }
                let slot = if index == number::SYSENTER_ESP {
                    &mut m.sysenter_esp
                } else {
                    &mut m.sysenter_eip
                };
                *slot = if lm { value } else { value & 0xffff_ffff };
            }
            number::MCG_STATUS if has(feature::MCA) => m.mcg_status = value & 7,
            number::MCG_CTL if has(feature::MCA) => {
                if value != 0 && value != u64::MAX {
                    return None;
                }
                m.mcg_ctl = value;
            }
            number::MC0_CTL..=0x427 if has(feature::MCA) => {
                let n = (index - number::MC0_CTL) as usize;
                // CTL takes all or nothing, but for two bits that kernels clear against errata;
                // STATUS, on Intel ADDR and MISC too, can only be cleared.
                let allowed = match n % 4 {
                    0 => value | 1 << 10 | 1 == u64::MAX,
                    1 => false,
                    _ => amd,
                };
                if value != 0 && !allowed {
                    return None;
                }
                m.mc_banks[n / 4][n % 4] = value;
            }
            number::PERF_STATUS => {}
            number::MISC_ENABLE if family >= 6 => m.misc_enable = value,
            number::DEBUGCTL if family >= 6 => m.debugctl = value & 3,
            0xc1 | 0xc2 if !amd => m.perf[4 + (index - 0xc1) as usize] = value,
            0x186 | 0x187 if !amd => m.perf[(index - 0x186) as usize] = value,
            0xc001_0000..=0xc001_0007 if amd => m.perf[(index & 7) as usize] = value,
            number::EFER if lm || has(feature::SYSCALL) || has(feature::NX) => {
                return self.write_efer(bus, value);
            }
            number::STAR if has(feature::SYSCALL) => m.star = value,
            number::LSTAR if lm => {
                canonical?;
                m.lstar = value;
            }
            number::CSTAR if lm => {
                canonical?;
                m.cstar = value;
            }
            number::SFMASK if lm => m.sfmask = value & 0xffff_ffff,
            number::FS_BASE | number::GS_BASE if lm => {
                canonical?;
                self.set_base(if index == number::FS_BASE { seg::FS } else { seg::GS }, value);
            }
            number::KERNEL_GS_BASE if lm => {
                canonical?;
                m.kernel_gs_base = value;
            }
            number::HSAVE_PA if amd => m.hsave_pa = value,
            _ if amd && INERT.contains(&index) => {}
            _ if family >= 5 && INERT_INTEL.contains(&index) => {}
            _ => return bus.board.msr_write(self.index, index, value).then_some(()),
        }
        Some(())
    }

    fn write_efer(&mut self, bus: &mut Bus<'_>, value: u64) -> Option<()> {
        let has = |f| self.model.has(f);
        let mut bits = 0;
        if has(feature::SYSCALL) {
            bits |= efer::SCE;
        }
        if has(feature::LM) {
            bits |= efer::LME;
        }
        if has(feature::NX) {
            bits |= efer::NXE;
        }
        if has(feature::FXSR_OPT) {
            bits |= efer::FFXSR;
        }
        let old = self.sys.efer;
        if value & !(bits | efer::LMA) != 0 {
            return None;
        }
        if (old ^ value) & efer::LME != 0 && self.sys.cr0 & cr0::PG != 0 {
            return None;
        }
        self.sys.efer = (value & bits) | (old & efer::LMA);
        if (old ^ value) & efer::NXE != 0 {
            bus.tlb.flush();
        }
        Some(())
    }

    /// Sets the base of FS or GS alone.
    pub fn set_base(&mut self, index: usize, base: u64) {
        let s = super::state::Segment { base, ..self.sys.seg[index] };
        self.set_segment(index, s);
    }

    /// SWAPGS.
    pub fn swapgs(&mut self) -> Result<(), Fault> {
        if !self.code64() {
            return Err(Fault::UD);
        }
        self.require_cpl0()?;
        let old = self.sys.seg[seg::GS].base;
        let new = std::mem::replace(&mut self.sys.msr.kernel_gs_base, old);
        self.set_base(seg::GS, new);
        Ok(())
    }

    /// RDFSBASE and friends are allowed.
    pub fn check_fsgsbase(&self) -> Result<(), Fault> {
        if !self.code64() || self.sys.cr4 & cr4::FSGSBASE == 0 {
            return Err(Fault::UD);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::bench::Bench;
    use super::*;

    #[test]
    fn unknown_registers_and_bad_values_are_refused() {
        let mut b = Bench::real();
        b.with(|cpu, bus| {
            assert_eq!(cpu.read_msr(bus, 0x1234_5678), None);
            assert_eq!(cpu.write_msr(bus, number::LSTAR, 1 << 47), None);
            assert_eq!(cpu.write_msr(bus, number::PAT, 2), None);
            assert_eq!(cpu.write_msr(bus, number::EFER, 1 << 1), None);
            assert_eq!(cpu.write_msr(bus, number::MTRR_DEF_TYPE, 0xc06), Some(()));
            assert_eq!(cpu.read_msr(bus, number::MTRR_DEF_TYPE), Some(0xc06));
        });
    }

    #[test]
    fn writing_the_time_stamp_moves_its_adjustment_along() {
        let mut b = Bench::real();
        b.with(|cpu, bus| {
            cpu.write_msr(bus, number::TSC, 1_000_000).unwrap();
            assert_eq!(cpu.read_msr(bus, number::TSC), Some(1_000_000));
            assert_eq!(cpu.read_msr(bus, number::TSC_ADJUST), Some(1_000_000));
        });
    }

    #[test]
    fn bases_are_seen_by_lifted_code_at_once() {
        let mut b = Bench::real();
        b.with(|cpu, bus| cpu.write_msr(bus, number::GS_BASE, 0xffff_8000_0000_1000)).unwrap();
        assert_eq!(b.cpu.frame.ints[var::SEG_BASE + seg::GS], 0xffff_8000_0000_1000);
    }
}
