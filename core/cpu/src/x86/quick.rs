//! System instructions as compiled code calls them: functions that change state outside of the frame, or do nothing
//! ([`DECLINED`]) where something out of the ordinary is at hand.

use super::helper::Helper;
use super::segment::{Descriptor, is_null, rpl};
use super::state::{Segment, X86, attr, cr4, seg};
use crate::ir::DECLINED;
use crate::isa::Quick;

/// The first argument of [`Helper::SegAt`] and [`Helper::SegLoad`]: the segment register in the low three bits, and
pub(super) mod what {
    /// the segment must be flat,
    pub(in crate::x86) const FLAT: u64 = 1 << 3;
    /// the descriptor is read with the rights that SMAP leaves.
    pub(in crate::x86) const SMAP: u64 = 1 << 4;
}

/// What [`seg_load`] answers with the limit: the segment can be written to.
pub(super) const WRITABLE: u8 = 40;

/// The quick function of a helper.
pub(super) fn quick(f: u16) -> Option<Quick<X86>> {
    match Helper::from_id(f)? {
        Helper::Shadow => Some(shadow),
        Helper::EndShadow => Some(end_shadow),
        Helper::SegAt => Some(seg_at),
        Helper::SegLoad => Some(seg_load),
        _ => None,
    }
}

extern "C" fn shadow(cpu: &mut X86, _: u64, _: u64, _: u64, _: u64) -> u64 {
    cpu.open_shadow();
    0
}

extern "C" fn end_shadow(cpu: &mut X86, _: u64, _: u64, _: u64, _: u64) -> u64 {
    cpu.end_shadow();
    0
}

/// Where the descriptor of a selector is that is not null.
extern "C" fn seg_at(cpu: &mut X86, what: u64, selector: u64, _: u64, _: u64) -> u64 {
    let s = &cpu.sys;
    let (base, limit) = if selector & 4 == 0 {
        (s.gdtr.base, u64::from(s.gdtr.limit))
    } else if s.ldtr.present() {
        (s.ldtr.base, u64::from(s.ldtr.limit))
    } else {
        return DECLINED;
    };
    let index = selector & 0xfff8;
    if index + 7 > limit || (s.cr4 & cr4::SMAP != 0) != (what & what::SMAP != 0) {
        return DECLINED;
    }
    cpu.wrap_linear(base.wrapping_add(index))
}

/// Loads a data segment from its descriptor; answers how many bytes can be read, and [`WRITABLE`]. The variables that lifted
/// code knows of it are the caller's to set.
extern "C" fn seg_load(cpu: &mut X86, what: u64, selector: u64, raw: u64, _: u64) -> u64 {
    let selector = selector as u16;
    let flat = what & what::FLAT != 0;
    let index = (what & 7) as usize % 6;
    if is_null(selector) {
        if flat {
            return DECLINED;
        }
        cpu.sys.seg[index] = Segment { selector, attr: 0, limit: 0, base: 0 };
        return 0;
    }
    let s = Descriptor { selector, raw, high: 0, at: 0 }.segment();
    const USUAL: u16 = attr::P | attr::S | attr::A;
    let conforming = s.attr & (attr::CODE | attr::EC) == attr::CODE | attr::EC;
    let allowed = conforming || (rpl(selector) <= s.dpl() && cpu.sys.cpl <= s.dpl());
    if s.attr & USUAL != USUAL || !s.readable() || s.expand_down() || !allowed {
        return DECLINED;
    }
    if flat && (s.base != 0 || s.limit != u32::MAX || !s.writable()) {
        return DECLINED;
    }
    debug_assert!(index != seg::CS && index != seg::SS);
    cpu.sys.seg[index] = s;
    (u64::from(s.limit) + 1) | u64::from(s.writable()) << WRITABLE
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::x86::bench::Bench;

    /// What a load answers for a descriptor at CPL 0.
    fn load(what: u64, selector: u16, raw: u64) -> (u64, Segment) {
        let mut b = Bench::protected();
        let answer = seg_load(&mut b.cpu, what, selector.into(), raw, 0);
        (answer, b.cpu.sys.seg[(what & 7) as usize])
    }

    #[test]
    fn a_flat_data_segment_is_loaded() {
        let (answer, s) = load(seg::DS as u64 | what::FLAT, 0x7b, 0x00cf_f300_0000_ffff);
        assert_eq!(answer, 1 << 32 | 1 << WRITABLE);
        assert_eq!((s.selector, s.base, s.limit), (0x7b, 0, u32::MAX));
        let (answer, _) = load(seg::DS as u64 | what::FLAT, 0x78, 0x00cf_f300_0001_ffff);
        assert_eq!(answer, DECLINED, "its base is not 0");
        assert_eq!(load(seg::FS as u64, 0x78, 0x00cf_f300_0001_ffff).1.base, 1);
    }

    #[test]
    fn what_would_fault_or_write_memory_is_declined_and_changes_nothing() {
        let before = Bench::protected().cpu.sys.seg[seg::FS];
        for raw in [
            0x00cf_7300_0000_ffff_u64, // not present
            0x00cf_f200_0000_ffff,     // not accessed yet
            0x00cf_f900_0000_ffff,     // code that cannot be read
            0x0000_8900_0000_0067,     // a task state segment
            0x00cf_f700_0000_ffff,     // expands down
        ] {
            assert_eq!(load(seg::FS as u64, 0x7b, raw), (DECLINED, before), "{raw:#x}");
        }
        // RPL 3 of a segment of level 0.
        assert_eq!(load(seg::FS as u64, 0x7b, 0x00cf_9300_0000_ffff).0, DECLINED);
    }

    #[test]
    fn a_null_selector_empties_the_segment_unless_it_must_be_flat() {
        let (answer, s) = load(seg::GS as u64, 3, 0);
        assert_eq!((answer, s.selector, s.attr), (0, 3, 0));
        assert_eq!(load(seg::ES as u64 | what::FLAT, 0, 0).0, DECLINED);
    }

    #[test]
    fn a_descriptor_is_looked_for_inside_its_table_only() {
        let mut b = Bench::protected();
        let base = b.cpu.sys.gdtr.base;
        assert_eq!(seg_at(&mut b.cpu, 4, 0x13, 0, 0), base + 0x10);
        let behind = u64::from(b.cpu.sys.gdtr.limit) + 1;
        assert_eq!(seg_at(&mut b.cpu, 4, behind & 0xfff8, 0, 0), DECLINED);
        b.cpu.sys.ldtr.attr = 0;
        assert_eq!(seg_at(&mut b.cpu, 4, 0x14, 0, 0), DECLINED, "no local table");
        assert_eq!(seg_at(&mut b.cpu, 4 | what::SMAP, 0x10, 0, 0), DECLINED, "other rights");
    }
}
