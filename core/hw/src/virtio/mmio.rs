//! Virtio over memory: VIRTIO 1.2 chapter 4.2, version 2 of the registers (no legacy interface).

use super::queue::{F_EVENT_IDX, F_INDIRECT, Queue};
use super::{Context, F_VERSION_1, VirtioDevice};
use orrery_system::device::HostIo;
use orrery_system::input::InputSink;
use orrery_system::time::VmTime;
use orrery_system::{
    Board, BusError, BusResult, Device, DeviceId, Dma, IrqLine, Registers, RestoreError, StateBlob,
    reg_map,
};
use serde::{Deserialize, Serialize};
use std::marker::PhantomData;

reg_map! {
    /// Registers (4.2.2).
    pub enum Reg {
        /// `virt`.
        0x000 Magic: 4 Ro,
        /// 2.
        0x004 Version: 4 Ro,
        /// Device type.
        0x008 DeviceId: 4 Ro,
        /// Vendor.
        0x00c VendorId: 4 Ro,
        /// Offered features.
        0x010 DeviceFeatures: 4 Ro,
        /// Which half of them shows.
        0x014 DeviceFeaturesSel: 4 Wo,
        /// Accepted features.
        0x020 DriverFeatures: 4 Wo,
        /// Which half of them is written.
        0x024 DriverFeaturesSel: 4 Wo,
        /// Selected queue.
        0x030 QueueSel: 4 Wo,
        /// Its largest size.
        0x034 QueueNumMax: 4 Ro,
        /// Its size.
        0x038 QueueNum: 4 Wo,
        /// It is in use.
        0x044 QueueReady: 4 Rw,
        /// Something is in this queue.
        0x050 QueueNotify: 4 Wo,
        /// What the interrupt is for.
        0x060 InterruptStatus: 4 Ro,
        /// Takes that back.
        0x064 InterruptAck: 4 Wo,
        /// Device status.
        0x070 Status: 4 Rw,
        /// Descriptor table.
        0x080 QueueDescLow: 4 Wo,
        /// Descriptor table, upper half.
        0x084 QueueDescHigh: 4 Wo,
        /// Available ring.
        0x090 QueueDriverLow: 4 Wo,
        /// Available ring, upper half.
        0x094 QueueDriverHigh: 4 Wo,
        /// Used ring.
        0x0a0 QueueDeviceLow: 4 Wo,
        /// Used ring, upper half.
        0x0a4 QueueDeviceHigh: 4 Wo,
        /// Changes with the configuration.
        0x0fc ConfigGeneration: 4 Ro,
    }
}

/// Bytes of the registers of one device.
pub const SIZE: u64 = 0x200;
const CONFIG: u64 = 0x100;

const DRIVER_OK: u32 = 0x04;
const FEATURES_OK: u32 = 0x08;
const NEEDS_RESET: u32 = 0x40;
const ISR_QUEUE: u32 = 1;
const ISR_CONFIG: u32 = 2;

/// Everything the guest can observe of device and transport.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State<D, K> {
    feature_select: [u32; 2],
    accepted: u64,
    status: u32,
    isr: u32,
    generation: u32,
    selected: u32,
    queues: Vec<Queue>,
    device: D,
    #[serde(skip)]
    kind: PhantomData<K>,
}

impl<D: VirtioDevice> orrery_system::State for State<D::State, D> {
    const KIND: &'static str = "virtio-mmio";
    const VERSION: u16 = 1;
}

/// A device in memory.
pub struct VirtioMmio<D: VirtioDevice> {
    dma: Dma,
    irq: IrqLine,
    device: D,
    state: State<(), ()>,
}

/// Puts a device at `at`; `make` builds it once its number is known.
pub fn build<D: VirtioDevice + 'static>(
    board: &mut Board,
    at: u64,
    irq: IrqLine,
    make: impl FnOnce(&mut Board, DeviceId) -> D,
) -> DeviceId {
    let id = board.reserve("virtio-mmio");
    let device = make(board, id);
    board.memory().add(at, &board.regions().device("virtio-mmio", SIZE, id, 0));
    let dma = board.dma();
    board.attach(id, Box::new(VirtioMmio::new(dma, irq, device)));
    id
}

impl<D: VirtioDevice> VirtioMmio<D> {
    /// A device in its power-on state.
    pub fn new(dma: Dma, irq: IrqLine, device: D) -> Self {
        let state = State {
            feature_select: [0; 2],
            accepted: 0,
            status: 0,
            isr: 0,
            generation: 0,
            selected: 0,
            queues: device.queues().into_iter().map(Queue::new).collect(),
            device: (),
            kind: PhantomData,
        };
        Self { dma, irq, device, state }
    }

    fn offered(&self) -> u64 {
        self.device.features() | F_INDIRECT | F_EVENT_IDX | F_VERSION_1
    }

    fn drive(&self) {
        self.irq.set(self.state.isr != 0);
    }

    fn device_reset(&mut self) {
        self.device.reset();
        let s = &mut self.state;
        (s.feature_select, s.accepted, s.status, s.isr) = ([0; 2], 0, 0, 0);
        (s.generation, s.selected) = (0, 0);
        s.queues = self.device.queues().into_iter().map(Queue::new).collect();
    }

    /// Calls the device with its queues, and turns what it gave back into interrupts.
    fn call(&mut self, f: impl FnOnce(&mut D, &mut Context<'_>)) {
        let s = &mut self.state;
        let dma = &self.dma;
        let (features, queues) = (s.accepted, &mut s.queues);
        let mut context = Context { dma, features, queues, given: 0, broken: None, changed: false };
        f(&mut self.device, &mut context);
        let Context { given, broken, changed, .. } = context;
        for n in 0..s.queues.len() {
            if given & 1 << n != 0 && s.queues[n].wants_interrupt(dma, s.accepted) {
                s.isr |= ISR_QUEUE;
            }
        }
        if let Some(why) = &broken {
            tracing::debug!(device = D::TYPE, %why, "needs reset");
            s.status |= NEEDS_RESET;
        }
        if (changed || broken.is_some()) && s.status & DRIVER_OK != 0 {
            s.generation = s.generation.wrapping_add(1);
            s.isr |= ISR_CONFIG;
        }
    }

    fn notify(&mut self, n: usize) {
        let running = self.state.status & (DRIVER_OK | NEEDS_RESET) == DRIVER_OK;
        if running && n < self.state.queues.len() {
            self.call(|device, context| device.notified(n, context));
        }
    }

    fn set_status(&mut self, value: u32) {
        if value == 0 {
            return self.device_reset();
        }
        let old = self.state.status;
        let mut new = value & 0xff | old & NEEDS_RESET;
        let fine =
            self.state.accepted & !self.offered() == 0 && self.state.accepted & F_VERSION_1 != 0;
        if value & FEATURES_OK != 0 && old & FEATURES_OK == 0 && !fine {
            new &= !FEATURES_OK;
        }
        self.state.status = new;
        if new & DRIVER_OK != 0 && old & DRIVER_OK == 0 {
            self.device.start(self.state.accepted);
            // A driver may have filled its queues before it was ready.
            for n in 0..self.state.queues.len() {
                self.notify(n);
            }
        }
    }

    fn queue(&mut self) -> Option<&mut Queue> {
        self.state.queues.get_mut(self.state.selected as usize)
    }

    fn queue_write(&mut self, reg: Reg, value: u64) {
        let Some(q) = self.queue() else { return };
        let low = |old: u64| old & !0xffff_ffff | value;
        let high = |old: u64| old & 0xffff_ffff | value << 32;
        match reg {
            Reg::QueueReady => q.enabled = value & 1 != 0,
            // What a queue in use is made of cannot be changed.
            _ if q.enabled => {}
            Reg::QueueNum => {
                let size = value as u16;
                if size.is_power_of_two() && size <= q.max {
                    q.size = size;
                }
            }
            Reg::QueueDescLow => q.desc = low(q.desc),
            Reg::QueueDescHigh => q.desc = high(q.desc),
            Reg::QueueDriverLow => q.avail = low(q.avail),
            Reg::QueueDriverHigh => q.avail = high(q.avail),
            Reg::QueueDeviceLow => q.used = low(q.used),
            Reg::QueueDeviceHigh => q.used = high(q.used),
            _ => {}
        }
    }
}

impl<D: VirtioDevice + 'static> Device for VirtioMmio<D> {
    fn name(&self) -> &'static str {
        "virtio-mmio"
    }

    fn reset(&mut self) {
        self.device_reset();
        self.drive();
    }

    fn save(&self) -> StateBlob {
        let s = self.state.clone();
        StateBlob::encode(&State::<D::State, D> {
            feature_select: s.feature_select,
            accepted: s.accepted,
            status: s.status,
            isr: s.isr,
            generation: s.generation,
            selected: s.selected,
            queues: s.queues,
            device: self.device.save(),
            kind: PhantomData,
        })
    }

    fn restore(&mut self, blob: &StateBlob) -> Result<(), RestoreError> {
        let s: State<D::State, D> = blob.decode()?;
        let fits = s.queues.len() == self.state.queues.len()
            && self.state.queues.iter().zip(&s.queues).all(|(have, saved)| have.accepts(saved));
        if !fits {
            return Err(RestoreError::Invalid("virtqueues of another device"));
        }
        self.device.restore(s.device)?;
        self.state = State {
            feature_select: s.feature_select,
            accepted: s.accepted,
            status: s.status,
            isr: s.isr,
            generation: s.generation,
            selected: s.selected,
            queues: s.queues,
            device: (),
            kind: PhantomData,
        };
        self.drive();
        Ok(())
    }

    fn registers(&mut self) -> Option<&mut dyn Registers> {
        Some(self)
    }

    fn host_io(&mut self) -> Option<&mut dyn HostIo> {
        Some(self)
    }

    fn input(&mut self) -> Option<&mut dyn InputSink> {
        self.device.input()
    }
}

impl<D: VirtioDevice + 'static> Registers for VirtioMmio<D> {
    fn read(&mut self, _bank: u32, offset: u64, width: u8) -> BusResult<u64> {
        if offset >= SIZE {
            return Err(BusError::NoRegister);
        }
        if offset >= CONFIG {
            let (config, at) = (self.device.config(), (offset - CONFIG) as usize);
            let byte = |i: usize| u64::from(config.get(at + i).copied().unwrap_or(0)) << (8 * i);
            return Ok((0..usize::from(width)).map(byte).sum());
        }
        let (reg, _) = Reg::decode(offset, width)?;
        let half = |v: u64, select: u32| match select {
            0 => v & 0xffff_ffff,
            1 => v >> 32,
            _ => 0,
        };
        Ok(match reg {
            Reg::Magic => u32::from_le_bytes(*b"virt").into(),
            Reg::Version => 2,
            Reg::DeviceId => D::TYPE.into(),
            Reg::VendorId => u32::from_le_bytes(*b"QEMU").into(),
            Reg::DeviceFeatures => half(self.offered(), self.state.feature_select[0]),
            Reg::QueueNumMax => self.queue().map_or(0, |q| q.max.into()),
            Reg::QueueReady => self.queue().is_some_and(|q| q.enabled).into(),
            Reg::InterruptStatus => self.state.isr.into(),
            Reg::Status => self.state.status.into(),
            Reg::ConfigGeneration => self.state.generation.into(),
            _ => 0,
        })
    }

    fn write(&mut self, _bank: u32, offset: u64, width: u8, value: u64) -> BusResult<()> {
        if offset >= SIZE {
            return Err(BusError::NoRegister);
        }
        if offset >= CONFIG {
            for i in 0..usize::from(width) {
                self.device.write_config((offset - CONFIG) as usize + i, (value >> (8 * i)) as u8);
            }
            self.drive();
            return Ok(());
        }
        let (reg, _) = Reg::decode(offset, width)?;
        let value = value & 0xffff_ffff;
        match reg {
            Reg::DeviceFeaturesSel => self.state.feature_select[0] = value as u32,
            Reg::DriverFeaturesSel => self.state.feature_select[1] = value as u32,
            // Features are settled once the driver has said so.
            Reg::DriverFeatures if self.state.status & FEATURES_OK == 0 => {
                let a = self.state.accepted;
                self.state.accepted = match self.state.feature_select[1] {
                    0 => a & !0xffff_ffff | value,
                    1 => a & 0xffff_ffff | value << 32,
                    _ => a,
                };
            }
            Reg::QueueSel => self.state.selected = value as u32,
            Reg::QueueNotify => self.notify(value as usize),
            Reg::InterruptAck => self.state.isr &= !(value as u32),
            Reg::Status => self.set_status(value as u32),
            _ => self.queue_write(reg, value),
        }
        self.drive();
        Ok(())
    }
}

impl<D: VirtioDevice + 'static> HostIo for VirtioMmio<D> {
    fn due(&self) -> Option<VmTime> {
        self.device.due()
    }

    fn ready(&self) -> bool {
        self.device.ready()
    }

    fn deliver(&mut self, now: VmTime) {
        self.call(|device, context| device.deliver(now, context));
        self.drive();
    }
}

#[cfg(test)]
mod tests {
    use super::super::rng::Rng;
    use super::*;

    fn fresh() -> (VirtioMmio<Rng>, Board, IrqLine) {
        let mut board = Board::with_ram(1 << 20);
        board.settle();
        let irq = IrqLine::open();
        (VirtioMmio::new(board.dma(), irq.clone(), Rng::new(7)), board, irq)
    }

    #[test]
    fn a_driver_gets_what_it_asks_for_and_an_interrupt() {
        let (mut dev, board, irq) = fresh();
        let mut write = |reg: Reg, value: u64| dev.write(0, reg.offset(), 4, value).unwrap();
        write(Reg::DriverFeaturesSel, 1);
        write(Reg::DriverFeatures, 1);
        write(Reg::Status, 0xb);
        write(Reg::QueueNum, 4);
        write(Reg::QueueDescLow, 0x1000);
        write(Reg::QueueDriverLow, 0x2000);
        write(Reg::QueueDeviceLow, 0x3000);
        write(Reg::QueueReady, 1);
        write(Reg::Status, 0xf);
        // One writable buffer of 16 bytes.
        let ram = board.ram();
        ram.write_u64(0x1000, 0x4000);
        ram.write_u32(0x1008, 16);
        ram.write_u32(0x100c, 2);
        ram.write_u32(0x2000, 1 << 16);
        write(Reg::QueueNotify, 0);
        assert!(irq.level());
        assert_eq!((board.ram().read_u16(0x3002), board.ram().read_u32(0x3008)), (1, 16));
        assert_ne!(board.ram().read_u64(0x4000), 0);
        let read = |dev: &mut VirtioMmio<Rng>, reg: Reg| dev.read(0, reg.offset(), 4).unwrap();
        assert_eq!(read(&mut dev, Reg::InterruptStatus), 1);
        dev.write(0, Reg::InterruptAck.offset(), 4, 1).unwrap();
        assert!(!irq.level());
        assert_eq!((read(&mut dev, Reg::Magic), read(&mut dev, Reg::DeviceId)), (0x7472_6976, 4));
    }

    orrery_system::conformance!(fresh().0, Reg::TABLE);
}
