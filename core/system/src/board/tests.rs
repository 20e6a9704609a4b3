//! The board with small devices on it.

use super::*;
use crate::Registers;

/// Byte-wide registers: offset 0 counts reads, offset 1 maps a ROM, offset 2 arms a timer.
struct Probe {
    reads: u8,
    rom: Region,
    timer: Timer,
    woken: Vec<u64>,
}

impl Device for Probe {
    fn name(&self) -> &'static str {
        "probe"
    }
    fn reset(&mut self) {}
    fn save(&self) -> StateBlob {
        unreachable!("not saved in these tests")
    }
    fn restore(&mut self, _: &StateBlob) -> Result<(), RestoreError> {
        Ok(())
    }
    fn wake(&mut self, timer: u32, now: VmTime) {
        self.woken.push(u64::from(timer) << 32 | now.0);
    }
    fn registers(&mut self) -> Option<&mut dyn Registers> {
        Some(self)
    }
}

impl Registers for Probe {
    fn read(&mut self, _: u32, offset: u64, width: u8) -> BusResult<u64> {
        match (offset, width) {
            (0, 1) => {
                self.reads += 1;
                Ok(self.reads.into())
            }
            (0.., 1) => Ok(self.woken.len() as u64),
            _ => Err(BusError::Width),
        }
    }
    fn write(&mut self, _: u32, offset: u64, width: u8, value: u64) -> BusResult<()> {
        if width != 1 {
            return Err(BusError::Width);
        }
        match offset {
            1 => self.rom.set_enabled(value != 0),
            2 => self.timer.arm(VmTime(value)),
            _ => {}
        }
        Ok(())
    }
}

fn board() -> Board {
    let mut b = Board::new(BoardConfig { ram_capacity: 0x4000, ..BoardConfig::default() });
    let ram = b.ram().alloc("ram", 0x2000).unwrap();
    let rom_block = b.ram().alloc("rom", 0x1000).unwrap();
    let rom = b.regions().rom("rom", rom_block);
    rom.set_enabled(false);
    b.memory().add(0, &b.regions().ram("ram", ram));
    b.memory().add_priority(0x1000, 1, &rom);
    b.ram().write_u32(rom_block.offset, 0x1234_5678);
    let id = b.reserve("probe");
    let timer = b.timer(id, 7);
    b.io().add(0x100, &b.regions().device("probe", 4, id, 0));
    b.attach(id, Box::new(Probe { reads: 0, rom, timer, woken: vec![] }));
    b.settle();
    b
}

#[test]
fn a_wide_access_to_a_narrow_device_is_split() {
    let mut b = board();
    assert_eq!(b.port_in(0x100, 2) & 0xff, 1);
    assert_eq!(b.port_in(0x100, 1), 2, "one read each");
    assert_eq!(b.port_in(0x200, 4), 0xffff_ffff, "nobody there");
    assert_eq!(b.port_in(0x103, 2) >> 8, 0xff, "half there");
}

#[test]
fn a_device_that_moves_a_region_voids_direct_access() {
    let mut b = board();
    let before = b.map_generation();
    assert!(b.page(0x1000).writable);
    b.port_out(0x101, 1, 1);
    assert!(b.attention());
    assert_ne!(b.map_generation(), before);
    assert_eq!(b.read(0x1000, 4), 0x1234_5678);
    b.write(0x1000, 4, 0);
    assert_eq!(b.read(0x1000, 4), 0x1234_5678, "ROM");
    assert!(!b.page(0x1000).writable);
}

#[test]
fn a_timer_armed_inside_the_slice_calls_for_attention_and_fires_at_its_instant() {
    let mut b = board();
    assert_eq!(b.begin_slice(VmTime(100)), 100);
    assert!(!b.attention());
    b.elapse(10);
    b.port_out(0x102, 1, 50);
    assert!(b.attention());
    b.end_slice(10);
    let next = b.next_deadline();
    assert_eq!((b.begin_slice(next), next), (40, VmTime(50)));
    b.end_slice(40);
    b.run_timers();
    assert_eq!(b.port_in(0x103, 1), 1);
}

#[test]
fn time_does_not_depend_on_how_slices_are_cut() {
    let config = BoardConfig { ns_per_insn_q16: 100_000, ..BoardConfig::default() };
    let (mut a, mut b) = (Board::new(config.clone()), Board::new(config));
    a.end_slice(1000);
    for _ in 0..1000 {
        b.end_slice(1);
    }
    assert_eq!(a.now(), b.now());
}
