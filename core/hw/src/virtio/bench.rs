//! A driver with one request, for the tests of virtio devices.

use super::queue::Queue;
use super::{Context, VirtioDevice};
use orrery_system::Dma;
use orrery_system::time::VmTime;

const AVAIL: u64 = 0x1000;
const USED: u64 = 0x2000;
const OUT: u64 = 0x1_0000;
const IN: u64 = 0x10_0000;

/// Memory with queues in it.
pub(crate) struct Bench {
    pub(crate) dma: Dma,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self { dma: Dma::detached(4 << 20) }
    }

    /// Offers `out` and room for `room` bytes on queue `n`; waits for the host. What the device wrote, and how much
    /// it said that was; `None` if it gave nothing back.
    pub(crate) fn request<D: VirtioDevice>(
        &mut self,
        dev: &mut D,
        n: usize,
        out: &[u8],
        room: u32,
    ) -> Option<(Vec<u8>, u32)> {
        let dma = &self.dma;
        dma.write(OUT, out).unwrap();
        dma.write(IN, &vec![0; room as usize]).unwrap();
        for at in [AVAIL, USED] {
            dma.write(at, &[0; 0x100]).unwrap();
        }
        let readable = (OUT, out.len() as u32, 0_u16);
        let writable = (IN, room, 2_u16);
        let list: Vec<_> = [readable, writable].into_iter().filter(|p| p.1 > 0).collect();
        for (i, &(at, len, flags)) in list.iter().enumerate() {
            let more = u16::from(i + 1 < list.len());
            let mut d = at.to_le_bytes().to_vec();
            d.extend(len.to_le_bytes());
            d.extend((flags | more).to_le_bytes());
            d.extend((i as u16 + 1).to_le_bytes());
            dma.write(16 * i as u64, &d).unwrap();
        }
        dma.write(AVAIL + 2, &1_u16.to_le_bytes()).unwrap();
        let mut queues: Vec<Queue> = dev.queues().into_iter().map(Queue::new).collect();
        let q = &mut queues[n];
        (q.size, q.desc, q.avail, q.used, q.enabled) = (8, 0, AVAIL, USED, true);
        let mut context = Context {
            dma,
            features: 0,
            queues: &mut queues,
            given: 0,
            broken: None,
            changed: false,
        };
        dev.notified(n, &mut context);
        while dev.ready() {
            dev.deliver(VmTime::NEVER, &mut context);
        }
        if dma.read_u16(USED + 2) != Ok(1) {
            return None;
        }
        let mut written = vec![0; room as usize];
        dma.read(IN, &mut written).unwrap();
        Some((written, dma.read_u32(USED + 8).unwrap()))
    }
}
