//! Tests every device must pass, whatever it does.

use crate::device::Device;
use crate::fuzz::FuzzBus;
use crate::reg_map::{Access, RegInfo};

/// Instantiates the conformance suite for one device, inside its test module.
///
/// `$make` is an expression for a fresh device; `$table` the register table of bank 0, or
/// `(bank, table)` pairs in brackets: `[(0, Reg::TABLE), (1, Ctl::TABLE)]`. `battery $make` is for
/// a device of which a reset spares something: a battery-backed clock.
#[macro_export]
macro_rules! conformance {
    ($make:expr, [$(($bank:expr, $table:expr)),* $(,)?]) => {
        #[test]
        fn conforms() {
            $crate::conformance::check(|| $make, &[$(($bank, $table)),*]);
        }
    };
    (battery $make:expr, $table:expr) => {
        #[test]
        fn conforms() {
            $crate::conformance::check_battery(|| $make, &[(0, $table)]);
        }
    };
    ($make:expr, $table:expr) => {
        $crate::conformance!($make, [(0, $table)]);
    };
}

/// Runs the suite.
pub fn check<D: Device>(make: impl Fn() -> D, tables: &[(u32, &[RegInfo])]) {
    check_battery(&make, tables);
    reset_returns_to_power_on(make(), &banks(tables));
}

fn banks(tables: &[(u32, &[RegInfo])]) -> Vec<u32> {
    if tables.is_empty() { vec![0] } else { tables.iter().map(|t| t.0).collect() }
}

/// Runs the suite for a device of which a reset spares something.
pub fn check_battery<D: Device>(make: impl Fn() -> D, tables: &[(u32, &[RegInfo])]) {
    for (_, table) in tables {
        table_is_sorted_and_disjoint(table);
    }
    let banks = banks(tables);
    any_access_is_safe(make(), &banks);
    for &(bank, table) in tables {
        read_only_registers_ignore_writes(make(), bank, table);
    }
    save_then_restore_is_identity(&make, &banks);
    a_foreign_state_is_refused(make());
    random_use_is_safe(&make, &banks);
}

fn table_is_sorted_and_disjoint(table: &[RegInfo]) {
    for pair in table.windows(2) {
        let end = pair[0].offset + u64::from(pair[0].width);
        assert!(end <= pair[1].offset, "{} overlaps {}", pair[0].name, pair[1].name);
    }
}

/// Hits every offset in a page, aligned or not, at every width, with values that set and clear
/// every bit. A device may refuse; it may not panic.
fn any_access_is_safe(mut dev: impl Device, banks: &[u32]) {
    for &bank in banks {
        let Some(regs) = dev.registers() else { return };
        for offset in (0..0x1000).chain([u64::MAX - 7, u64::MAX]) {
            for width in [1, 2, 4, 8] {
                for value in [0, u64::MAX, 0xaaaa_5555_aaaa_5555] {
                    let value = value & crate::bus::open_bus(width);
                    let _ = regs.write(bank, offset, width, value);
                    let _ = regs.read(bank, offset, width);
                }
            }
        }
    }
}

fn read_only_registers_ignore_writes(mut dev: impl Device, bank: u32, table: &[RegInfo]) {
    let Some(regs) = dev.registers() else { return };
    for r in table.iter().filter(|r| r.access == Access::Ro) {
        let before = regs.read(bank, r.offset, r.width);
        let ones = crate::bus::open_bus(r.width);
        let _ = regs.write(bank, r.offset, r.width, ones);
        assert_eq!(regs.read(bank, r.offset, r.width), before, "{}", r.name);
    }
}

fn scribble(dev: &mut impl Device, banks: &[u32], value: u64) {
    for &bank in banks {
        let Some(regs) = dev.registers() else { return };
        for offset in 0..0x100 {
            for width in [1, 4] {
                let _ = regs.write(bank, offset, width, value & crate::bus::open_bus(width));
            }
        }
    }
}

fn save_then_restore_is_identity<D: Device>(make: &impl Fn() -> D, banks: &[u32]) {
    let (mut a, mut b) = (make(), make());
    scribble(&mut a, banks, 0x1234_5679);
    let blob = a.save();
    b.restore(&blob).expect("its own state");
    assert_eq!(b.save(), blob);
}

fn a_foreign_state_is_refused(mut dev: impl Device) {
    let before = dev.save();
    assert!(dev.restore(&crate::snapshot::StateBlob::foreign()).is_err());
    assert_eq!(dev.save(), before, "a refused state changes nothing");
}

fn reset_returns_to_power_on(mut dev: impl Device, banks: &[u32]) {
    let power_on = dev.save();
    scribble(&mut dev, banks, u64::MAX);
    dev.reset();
    assert_eq!(dev.save(), power_on);
}

fn random_use_is_safe<D: Device>(make: &impl Fn() -> D, banks: &[u32]) {
    for seed in 0..4 {
        let mut dev = make();
        FuzzBus::new(seed).run(&mut dev, banks, 20_000);
        let blob = dev.save();
        let mut other = make();
        // A device with operations in flight may refuse, but what it takes must be the same.
        if other.restore(&blob).is_ok() {
            assert_eq!(other.save(), blob);
        }
    }
}
