//! Virtio over PCI: VIRTIO 1.2 chapter 4.1, with the legacy interface of 4.1.4.10.
//!
//! A transitional device has both: legacy registers in I/O ports (BAR 0) and the modern
//! structures in memory (BAR 4). Message interrupts are in BAR 1.

use super::VirtioDevice;
use super::queue::{F_EVENT_IDX, F_INDIRECT, NO_VECTOR};
use super::transport::{self, Link, Transport, half};
use crate::pci::{BarKind, Builder, Bus, CONFIG_BANK, ConfigState, Function, Identity};
use orrery_system::device::HostIo;
use orrery_system::input::InputSink;
use orrery_system::time::VmTime;
use orrery_system::{
    Board, BusError, BusResult, Device, DeviceId, Dma, Registers, RestoreError, StateBlob, reg_map,
};
use serde::{Deserialize, Serialize};
use std::marker::PhantomData;

reg_map! {
    /// The legacy registers; the device's configuration follows, after two vectors while MSI-X
    /// is on.
    pub enum Legacy {
        /// Features the device offers.
        0x00 DeviceFeatures: 4 Ro,
        /// Features the driver accepts.
        0x04 DriverFeatures: 4 Rw,
        /// Page of the selected queue.
        0x08 QueueAddress: 4 Rw,
        /// Size of the selected queue.
        0x0c QueueSize: 2 Ro,
        /// Selected queue.
        0x0e QueueSelect: 2 Rw,
        /// Something is in this queue.
        0x10 QueueNotify: 2 Rw,
        /// Device status.
        0x12 Status: 1 Rw,
        /// Interrupt status, cleared by reading.
        0x13 Isr: 1 Ro,
    }
}

reg_map! {
    /// The common configuration structure (4.1.4.3).
    pub enum Common {
        /// Which half of the offered features shows.
        0x00 DeviceFeatureSelect: 4 Rw,
        /// Offered features.
        0x04 DeviceFeature: 4 Ro,
        /// Which half of the accepted features shows.
        0x08 DriverFeatureSelect: 4 Rw,
        /// Accepted features.
        0x0c DriverFeature: 4 Rw,
        /// Vector for configuration changes.
        0x10 ConfigVector: 2 Rw,
        /// Number of queues.
        0x12 NumQueues: 2 Ro,
        /// Device status.
        0x14 DeviceStatus: 1 Rw,
        /// Changes with the configuration.
        0x15 ConfigGeneration: 1 Ro,
        /// Selected queue.
        0x16 QueueSelect: 2 Rw,
        /// Its size.
        0x18 QueueSize: 2 Rw,
        /// Its vector.
        0x1a QueueVector: 2 Rw,
        /// It is in use.
        0x1c QueueEnable: 2 Rw,
        /// Where it is notified.
        0x1e QueueNotifyOff: 2 Ro,
        /// Descriptor table.
        0x20 QueueDescLow: 4 Rw,
        /// Descriptor table, upper half.
        0x24 QueueDescHigh: 4 Rw,
        /// Available ring.
        0x28 QueueDriverLow: 4 Rw,
        /// Available ring, upper half.
        0x2c QueueDriverHigh: 4 Rw,
        /// Used ring.
        0x30 QueueDeviceLow: 4 Rw,
        /// Used ring, upper half.
        0x34 QueueDeviceHigh: 4 Rw,
    }
}

/// The bank of the legacy registers.
pub const LEGACY_BANK: u32 = 0;
/// The bank of the modern structures: a page each for common configuration, interrupt status,
/// device configuration and notification.
pub const MODERN_BANK: u32 = 4;

const PAGE: u64 = 0x1000;
/// Bytes between the notification registers of two queues.
const NOTIFY_MULTIPLIER: u32 = 4;

/// Legacy features that the transport adds: any layout.
const F_ANY_LAYOUT: u64 = 1 << 27;

/// Settings of the transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Has the legacy registers.
    pub legacy: bool,
    /// MSI-X vectors; 0 for none.
    pub vectors: u16,
}

impl Default for Config {
    fn default() -> Self {
        Self { legacy: true, vectors: 2 }
    }
}

/// Everything the guest can observe of device and transport.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State<D, K> {
    pci: ConfigState,
    transport: transport::State<D>,
    #[serde(skip)]
    kind: PhantomData<K>,
}

impl<D: VirtioDevice> orrery_system::State for State<D::State, D> {
    const KIND: &'static str = D::PCI_NAME;
    const VERSION: u16 = 2;
}

/// A device on PCI.
pub struct VirtioPci<D: VirtioDevice> {
    config: Config,
    pci: Function,
    /// Offset of the capability through which configuration cycles reach the BARs.
    window: usize,
    config_space: ConfigState,
    transport: Transport<D>,
}

/// The function as the transport uses it: messages while MSI-X is on.
struct Messages<'a> {
    pci: &'a Function,
    config: &'a mut ConfigState,
}

impl Link for Messages<'_> {
    fn dma(&self) -> &Dma {
        self.pci.dma()
    }

    fn message(&mut self, vector: u16) -> bool {
        let on = self.pci.msix_enabled(self.config);
        if on {
            self.pci.signal(self.config, vector);
        }
        on
    }
}

/// Puts a device at `devfn` of `bus`; `make` builds it once its number is known.
pub fn build<D: VirtioDevice + 'static>(
    board: &mut Board,
    bus: &Bus,
    devfn: u8,
    config: Config,
    make: impl FnOnce(&mut Board, DeviceId) -> D,
) -> DeviceId {
    let id = board.reserve(D::PCI_NAME);
    let device = make(board, id);
    let (pci, window) = function(board, bus, id, devfn, config, &device);
    board.attach(id, Box::new(VirtioPci::new(config, pci, window, device)));
    id
}

fn function<D: VirtioDevice>(
    board: &Board,
    bus: &Bus,
    id: DeviceId,
    devfn: u8,
    config: Config,
    device: &D,
) -> (Function, usize) {
    let transitional = match D::TYPE {
        1 => 0x1000,
        2 => 0x1001,
        3 => 0x1003,
        4 => 0x1005,
        5 => 0x1002,
        8 => 0x1004,
        9 => 0x1009,
        t => 0x1040 + t,
    };
    let identity = Identity {
        vendor: 0x1af4,
        device: if config.legacy { transitional } else { 0x1040 + D::TYPE },
        revision: u8::from(!config.legacy),
        class: D::PCI_CLASS,
        subsystem: (0x1af4, if config.legacy { D::TYPE } else { 0x1100 }),
        pin: 1,
    };
    let mut builder = Builder::new(board, bus, id, identity);
    if config.legacy {
        let size = (0x18 + device.config().len() as u64).next_power_of_two();
        builder = builder.io_bar(0, LEGACY_BANK, size);
    }
    if config.vectors > 0 {
        builder = builder.msix(1, config.vectors);
    }
    let modern = board.regions().device("virtio", 4 * PAGE, id, MODERN_BANK);
    builder = builder.bar(4, BarKind::Prefetchable64, &modern);
    // Vendor capabilities (4.1.4): length, type, BAR, padding, offset, length in the BAR.
    let cap = |len: u8, kind: u8, page: u64| {
        let mut b = vec![len, kind, 4, 0, 0, 0];
        b.extend((page as u32 * PAGE as u32).to_le_bytes());
        b.extend((PAGE as u32).to_le_bytes());
        b
    };
    builder = builder.capability(0x09, &cap(16, 1, 0), &[]);
    builder = builder.capability(0x09, &cap(16, 3, 1), &[]);
    builder = builder.capability(0x09, &cap(16, 4, 2), &[]);
    let mut notify = cap(20, 2, 3);
    notify.extend(NOTIFY_MULTIPLIER.to_le_bytes());
    builder = builder.capability(0x09, &notify, &[]);
    // The window: BAR, offset and length are the driver's.
    let mut bytes = [0; 18];
    (bytes[0], bytes[1]) = (20, 5);
    let mut writable = [0; 18];
    writable[2] = 0xff;
    writable[6..14].fill(0xff);
    let window = builder.add_capability(0x09, &bytes, &writable);
    (builder.build(devfn), window)
}

impl<D: VirtioDevice> VirtioPci<D> {
    /// A device in its power-on state.
    fn new(config: Config, pci: Function, window: usize, device: D) -> Self {
        let config_space = pci.power_on();
        let transport = Transport::new(device, config.legacy);
        Self { config, pci, window, config_space, transport }
    }

    fn drive(&mut self) {
        let level = self.transport.state.isr != 0;
        self.pci.drive(&mut self.config_space, level);
    }

    fn notify(&mut self, n: usize) {
        let mut link = Messages { pci: &self.pci, config: &mut self.config_space };
        self.transport.notify(&mut link, n);
    }

    fn set_status(&mut self, value: u8) {
        let mut link = Messages { pci: &self.pci, config: &mut self.config_space };
        self.transport.set_status(&mut link, value);
    }

    fn vector(&self, value: u16) -> u16 {
        if value < self.config.vectors { value } else { NO_VECTOR }
    }

    fn take_isr(&mut self) -> u8 {
        let isr = std::mem::take(&mut self.transport.state.isr);
        self.drive();
        isr
    }

    // Legacy.

    fn legacy_config(&self) -> u64 {
        if self.pci.msix_enabled(&self.config_space) { 0x18 } else { 0x14 }
    }

    fn legacy_read(&mut self, offset: u64, width: u8) -> BusResult<u64> {
        let config = self.legacy_config();
        if offset >= config {
            return Ok(self.transport.read_config(offset - config, width));
        }
        if offset >= 0x14 {
            let queue = self.transport.queue().map_or(NO_VECTOR, |q| q.vector);
            return match (offset, width) {
                (0x14, 2) => Ok(self.transport.state.config_vector.into()),
                (0x16, 2) => Ok(queue.into()),
                _ => Err(BusError::Width),
            };
        }
        let (reg, _) = Legacy::decode(offset, width)?;
        Ok(match reg {
            Legacy::DeviceFeatures => u64::from((self.transport.offered() | F_ANY_LAYOUT) as u32),
            Legacy::DriverFeatures => u64::from(self.transport.state.accepted as u32),
            Legacy::QueueAddress => self.transport.queue().map_or(0, |q| q.desc >> 12),
            Legacy::QueueSize => self.transport.queue().map_or(0, |q| q.max).into(),
            Legacy::QueueSelect => self.transport.state.selected.into(),
            Legacy::QueueNotify => 0,
            Legacy::Status => self.transport.state.status.into(),
            Legacy::Isr => self.take_isr().into(),
        })
    }

    fn legacy_write(&mut self, offset: u64, width: u8, value: u64) -> BusResult<()> {
        let config = self.legacy_config();
        if offset >= config {
            self.transport.write_config(offset - config, width, value);
            return Ok(());
        }
        if offset >= 0x14 {
            let vector = self.vector(value as u16);
            match (offset, width) {
                (0x14, 2) => self.transport.state.config_vector = vector,
                (0x16, 2) => {
                    if let Some(q) = self.transport.queue() {
                        q.vector = vector;
                    }
                }
                _ => return Err(BusError::Width),
            }
            return Ok(());
        }
        let (reg, _) = Legacy::decode(offset, width)?;
        match reg {
            Legacy::DriverFeatures => {
                let known =
                    self.transport.device.features() | F_INDIRECT | F_EVENT_IDX | F_ANY_LAYOUT;
                self.transport.state.accepted = value & known & 0xffff_ffff;
            }
            Legacy::QueueAddress if value == 0 => self.transport.reset(),
            Legacy::QueueAddress => {
                if let Some(q) = self.transport.queue() {
                    q.size = q.max;
                    q.set_legacy_base(value << 12);
                }
            }
            Legacy::QueueSelect => self.transport.state.selected = value as u16,
            Legacy::QueueNotify => self.notify(value as usize),
            Legacy::Status => self.set_status(value as u8),
            Legacy::DeviceFeatures | Legacy::QueueSize | Legacy::Isr => {}
        }
        Ok(())
    }

    // Modern.

    fn modern_read(&mut self, offset: u64, width: u8) -> BusResult<u64> {
        match (offset / PAGE, offset % PAGE) {
            (0, at) => self.common_read(at, width),
            (1, 0) if width == 1 => Ok(self.take_isr().into()),
            (1, 0) => Err(BusError::Width),
            (2, at) => Ok(self.transport.read_config(at, width)),
            (3, _) => Ok(0),
            _ => Err(BusError::NoRegister),
        }
    }

    fn modern_write(&mut self, offset: u64, width: u8, value: u64) -> BusResult<()> {
        match (offset / PAGE, offset % PAGE) {
            (0, at) => self.common_write(at, width, value),
            (2, at) => {
                self.transport.write_config(at, width, value);
                Ok(())
            }
            (3, at) => {
                self.notify((at / u64::from(NOTIFY_MULTIPLIER)) as usize);
                Ok(())
            }
            _ => Err(BusError::NoRegister),
        }
    }

    fn common_read(&mut self, at: u64, width: u8) -> BusResult<u64> {
        let (reg, _) = Common::decode(at, width)?;
        let s = &self.transport.state;
        let [offered, accepted] = s.feature_select;
        match reg {
            Common::DeviceFeatureSelect => return Ok(offered.into()),
            Common::DeviceFeature => return Ok(self.transport.offered_half()),
            Common::DriverFeatureSelect => return Ok(accepted.into()),
            Common::DriverFeature => return Ok(half(s.accepted, accepted)),
            Common::ConfigVector => return Ok(s.config_vector.into()),
            Common::NumQueues => return Ok(s.queues.len() as u64),
            Common::DeviceStatus => return Ok(s.status.into()),
            Common::ConfigGeneration => return Ok(s.generation.into()),
            Common::QueueSelect => return Ok(s.selected.into()),
            _ => {}
        }
        let selected = s.selected;
        // A queue that is not there has size 0.
        let Some(q) = self.transport.queue() else { return Ok(0) };
        Ok(match reg {
            Common::QueueSize => q.size.into(),
            Common::QueueVector => q.vector.into(),
            Common::QueueEnable => q.enabled.into(),
            Common::QueueNotifyOff => selected.into(),
            Common::QueueDescLow => q.desc & 0xffff_ffff,
            Common::QueueDescHigh => q.desc >> 32,
            Common::QueueDriverLow => q.avail & 0xffff_ffff,
            Common::QueueDriverHigh => q.avail >> 32,
            Common::QueueDeviceLow => q.used & 0xffff_ffff,
            Common::QueueDeviceHigh => q.used >> 32,
            _ => 0,
        })
    }

    fn common_write(&mut self, at: u64, width: u8, value: u64) -> BusResult<()> {
        let (reg, _) = Common::decode(at, width)?;
        let vector = self.vector(value as u16);
        match reg {
            Common::DeviceFeatureSelect => self.transport.state.feature_select[0] = value as u32,
            Common::DriverFeatureSelect => self.transport.state.feature_select[1] = value as u32,
            Common::DriverFeature => self.transport.accept(value),
            Common::ConfigVector => self.transport.state.config_vector = vector,
            Common::DeviceStatus => self.set_status(value as u8),
            Common::QueueSelect => self.transport.state.selected = value as u16,
            Common::QueueSize => self.transport.set_queue_size(value),
            Common::QueueVector | Common::QueueEnable => {
                let Some(q) = self.transport.queue() else { return Ok(()) };
                match reg {
                    Common::QueueVector => q.vector = vector,
                    _ => q.enabled |= value == 1,
                }
            }
            _ if at >= Common::QueueDescLow.offset() => {
                let at = at - Common::QueueDescLow.offset();
                self.transport.set_queue_address(at / 8, (at / 4 % 2) as u32, value);
            }
            _ => {}
        }
        Ok(())
    }

    /// Where the configuration window points: bank, offset, width.
    fn windowed(&self, offset: u64) -> Option<(u32, u64, u8)> {
        let (c, w) = (&self.config_space, self.window);
        if self.window == 0 || offset != w as u64 + 16 {
            return None;
        }
        let (at, len) = (u64::from(c.u32(w + 8)), c.u32(w + 12));
        let bank = match c.u8(w + 4) {
            0 if self.config.legacy => LEGACY_BANK,
            4 => MODERN_BANK,
            _ => return None,
        };
        matches!(len, 1 | 2 | 4).then_some((bank, at, len as u8))
    }
}

impl<D: VirtioDevice + 'static> Device for VirtioPci<D> {
    fn name(&self) -> &'static str {
        D::PCI_NAME
    }

    fn reset(&mut self) {
        self.transport.reset();
        self.config_space = self.pci.power_on();
        self.drive();
    }

    fn save(&self) -> StateBlob {
        StateBlob::encode(&State::<D::State, D> {
            pci: self.config_space.clone(),
            transport: self.transport.save(),
            kind: PhantomData,
        })
    }

    fn restore(&mut self, blob: &StateBlob) -> Result<(), RestoreError> {
        let s: State<D::State, D> = blob.decode()?;
        self.pci.check(&s.pci)?;
        self.transport.restore(s.transport)?;
        self.config_space = s.pci;
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

impl<D: VirtioDevice + 'static> Registers for VirtioPci<D> {
    fn read(&mut self, bank: u32, offset: u64, width: u8) -> BusResult<u64> {
        if bank == CONFIG_BANK {
            if let Some((bank, at, width)) = self.windowed(offset) {
                return self.read(bank, at, width).or(Ok(0));
            }
        }
        if let Some(result) = self.pci.read(&self.config_space, bank, offset, width) {
            return result;
        }
        match bank {
            LEGACY_BANK if self.config.legacy && offset < 0x1000 => self.legacy_read(offset, width),
            MODERN_BANK => self.modern_read(offset, width),
            _ => Err(BusError::NoRegister),
        }
    }

    fn write(&mut self, bank: u32, offset: u64, width: u8, value: u64) -> BusResult<()> {
        if bank == CONFIG_BANK {
            if let Some((bank, at, width)) = self.windowed(offset) {
                let value = value & orrery_system::bus::open_bus(width);
                return self.write(bank, at, width, value).or(Ok(()));
            }
        }
        let result = match self.pci.write(&mut self.config_space, bank, offset, width, value) {
            Some(result) => result,
            None => match bank {
                LEGACY_BANK if self.config.legacy && offset < 0x1000 => {
                    self.legacy_write(offset, width, value)
                }
                MODERN_BANK => self.modern_write(offset, width, value),
                _ => Err(BusError::NoRegister),
            },
        };
        self.drive();
        result
    }
}

impl<D: VirtioDevice + 'static> HostIo for VirtioPci<D> {
    fn due(&self) -> Option<VmTime> {
        self.transport.device.due()
    }

    fn ready(&self) -> bool {
        self.transport.device.ready()
    }

    fn deliver(&mut self, now: VmTime) {
        let mut link = Messages { pci: &self.pci, config: &mut self.config_space };
        self.transport.call(&mut link, |device, context| device.deliver(now, context));
        self.drive();
    }
}

/// A device on no board's list, for the conformance suites of devices.
#[cfg(test)]
pub(super) fn standing_alone<D: VirtioDevice>(board: &Board, bus: &Bus, device: D) -> VirtioPci<D> {
    let config = Config::default();
    let (pci, window) = function(board, bus, DeviceId(0), 8, config, &device);
    VirtioPci::new(config, pci, window, device)
}

#[cfg(test)]
mod tests;
