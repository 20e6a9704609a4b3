//! Random guests: any device, any access, any order.

use crate::device::Device;
use crate::time::VmTime;

/// A small seeded generator (SplitMix64), the same on every host.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// Starts from `seed`.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`, which is not zero.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next_u64() % n
    }
}

/// Generates accesses, timer wake-ups, input and saves for one device.
pub struct FuzzBus {
    rng: Rng,
    now: VmTime,
}

impl FuzzBus {
    /// A run that `seed` determines.
    pub const fn new(seed: u64) -> Self {
        Self { rng: Rng::new(seed), now: VmTime(0) }
    }

    /// Makes `steps` random steps. The device must neither panic nor hang.
    pub fn run(&mut self, dev: &mut dyn Device, banks: &[u32], steps: u32) {
        let mut last = (banks[0], 0);
        for _ in 0..steps {
            let r = self.rng.next_u64();
            match r % 32 {
                0 => {
                    self.now = self.now.after(self.rng.below(50_000_000));
                    dev.wake((r >> 8) as u32 % 4, self.now);
                }
                1 => {
                    if let Some(s) = dev.settle() {
                        s.settle();
                    }
                }
                2 => {
                    if let Some(h) = dev.host_io() {
                        if h.ready() {
                            h.deliver(self.now);
                        }
                    }
                }
                3 => {
                    if let Some(a) = dev.int_ack() {
                        a.acknowledge(0);
                    }
                }
                _ => last = self.access(dev, banks, last, r),
            }
        }
    }

    fn access(
        &mut self,
        dev: &mut dyn Device,
        banks: &[u32],
        last: (u32, u64),
        r: u64,
    ) -> (u32, u64) {
        let Some(regs) = dev.registers() else { return last };
        // Half the accesses stay near the last one: sequences matter more than coverage.
        let (bank, offset) = if r & 0x100 == 0 {
            (last.0, last.1.wrapping_add(self.rng.below(5)).wrapping_sub(2))
        } else {
            (
                banks[(r >> 16) as usize % banks.len()],
                self.rng.below(if r & 0x200 == 0 { 0x20 } else { 0x1000 }),
            )
        };
        let width = 1 << (r >> 12 & 3);
        let value = match r >> 20 & 3 {
            0 => self.rng.below(256),
            1 => 1 << self.rng.below(64),
            _ => self.rng.next_u64(),
        } & crate::bus::open_bus(width);
        if r & 0x400 == 0 {
            let _ = regs.read(bank, offset, width);
        } else {
            let _ = regs.write(bank, offset, width, value);
        }
        (bank, offset)
    }
}
