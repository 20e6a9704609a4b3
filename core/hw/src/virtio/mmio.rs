//! Virtio over memory: VIRTIO 1.2 chapter 4.2, version 2 of the registers (no legacy interface).

use super::VirtioDevice;
use super::transport::{self, Transport};
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

/// Everything the guest can observe of device and transport.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State<D, K> {
    transport: transport::State<D>,
    #[serde(skip)]
    kind: PhantomData<K>,
}

impl<D: VirtioDevice> orrery_system::State for State<D::State, D> {
    const KIND: &'static str = "virtio-mmio";
    const VERSION: u16 = 2;
}

/// A device in memory.
pub struct VirtioMmio<D: VirtioDevice> {
    dma: Dma,
    irq: IrqLine,
    transport: Transport<D>,
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
        Self { dma, irq, transport: Transport::new(device, false) }
    }

    fn drive(&self) {
        self.irq.set(self.transport.state.isr != 0);
    }
}

impl<D: VirtioDevice + 'static> Device for VirtioMmio<D> {
    fn name(&self) -> &'static str {
        "virtio-mmio"
    }

    fn reset(&mut self) {
        self.transport.reset();
        self.drive();
    }

    fn save(&self) -> StateBlob {
        StateBlob::encode(&State::<D::State, D> {
            transport: self.transport.save(),
            kind: PhantomData,
        })
    }

    fn restore(&mut self, blob: &StateBlob) -> Result<(), RestoreError> {
        let s: State<D::State, D> = blob.decode()?;
        self.transport.restore(s.transport)?;
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
        self.transport.device.input()
    }
}

impl<D: VirtioDevice + 'static> Registers for VirtioMmio<D> {
    fn read(&mut self, _bank: u32, offset: u64, width: u8) -> BusResult<u64> {
        if offset >= SIZE {
            return Err(BusError::NoRegister);
        }
        if offset >= CONFIG {
            return Ok(self.transport.read_config(offset - CONFIG, width));
        }
        let (reg, _) = Reg::decode(offset, width)?;
        Ok(match reg {
            Reg::Magic => u32::from_le_bytes(*b"virt").into(),
            Reg::Version => 2,
            Reg::DeviceId => D::TYPE.into(),
            Reg::VendorId => u32::from_le_bytes(*b"QEMU").into(),
            Reg::DeviceFeatures => self.transport.offered_half(),
            Reg::QueueNumMax => self.transport.queue().map_or(0, |q| q.max.into()),
            Reg::QueueReady => self.transport.queue().is_some_and(|q| q.enabled).into(),
            Reg::InterruptStatus => self.transport.state.isr.into(),
            Reg::Status => self.transport.state.status.into(),
            Reg::ConfigGeneration => self.transport.state.generation.into(),
            _ => 0,
        })
    }

    fn write(&mut self, _bank: u32, offset: u64, width: u8, value: u64) -> BusResult<()> {
        if offset >= SIZE {
            return Err(BusError::NoRegister);
        }
        if offset >= CONFIG {
            self.transport.write_config(offset - CONFIG, width, value);
            self.drive();
            return Ok(());
        }
        let (reg, _) = Reg::decode(offset, width)?;
        let value = value & 0xffff_ffff;
        let t = &mut self.transport;
        match reg {
            Reg::DeviceFeaturesSel => t.state.feature_select[0] = value as u32,
            Reg::DriverFeaturesSel => t.state.feature_select[1] = value as u32,
            Reg::DriverFeatures => t.accept(value),
            Reg::QueueSel => t.state.selected = u16::try_from(value).unwrap_or(u16::MAX),
            Reg::QueueNum => t.set_queue_size(value),
            Reg::QueueReady => {
                if let Some(q) = t.queue() {
                    q.enabled = value & 1 != 0;
                }
            }
            Reg::QueueNotify => t.notify(&mut &self.dma, value as usize),
            Reg::InterruptAck => t.state.isr &= !(value as u8),
            Reg::Status => t.set_status(&mut &self.dma, value as u8),
            _ if (Reg::QueueDescLow.offset()..=Reg::QueueDeviceHigh.offset()).contains(&offset) => {
                let at = offset - Reg::QueueDescLow.offset();
                t.set_queue_address(at / 16, (at / 4 % 2) as u32, value);
            }
            _ => {}
        }
        self.drive();
        Ok(())
    }
}

impl<D: VirtioDevice + 'static> HostIo for VirtioMmio<D> {
    fn due(&self) -> Option<VmTime> {
        self.transport.device.due()
    }

    fn ready(&self) -> bool {
        self.transport.device.ready()
    }

    fn deliver(&mut self, now: VmTime) {
        self.transport.call(&mut &self.dma, |device, context| device.deliver(now, context));
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
