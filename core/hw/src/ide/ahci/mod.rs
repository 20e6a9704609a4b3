//! Serial ATA controller with the Advanced Host Controller Interface: ICH9's, six ports.
//!
//! Reference: Serial ATA AHCI 1.3.1; Serial ATA 2.6 for the frames (FIS); Intel 316972 (ICH9)
//! chapter 15 for the configuration space.
//!
//! Not modelled: port multipliers, command completion coalescing, enclosure management, link
//! power states (requests are accepted and change nothing), native hot plug.

mod port;
mod prdt;

use super::ata::{self, Drive};
use super::channel::Plug;
use crate::block::drive::{DriveIo, Queue};
use crate::pci::{self, Bus};
use orrery_block::backend::BlockBackend;
use orrery_system::device::HostIo;
use orrery_system::time::VmTime;
use orrery_system::{
    Board, BusError, BusResult, Device, DeviceId, Registers, RestoreError, StateBlob, reg_map,
};
use port::{Host, Port, Reg as PortReg, Tag};
use serde::{Deserialize, Serialize};

reg_map! {
    /// Generic host control, AHCI 1.3.1 chapter 3.1.
    pub enum Reg {
        /// Capabilities.
        0x00 Cap: 4 Ro,
        /// Global control.
        0x04 Ghc: 4 Rw,
        /// Interrupt status: one bit a port.
        0x08 Is: 4 Rw,
        /// Ports implemented.
        0x0c Pi: 4 Ro,
        /// Version.
        0x10 Vs: 4 Ro,
        /// Further capabilities.
        0x24 Cap2: 4 Ro,
    }
}

/// The bank of the memory-mapped registers (BAR 5).
pub const MEMORY_BANK: u32 = 0;
/// The bank of the index and data pair (BAR 4).
pub const INDEX_BANK: u32 = 1;

/// Ports of the chip.
pub const PORTS: usize = 6;

/// Global control: AHCI enabled, always.
const GHC_AE: u32 = 1 << 31;
/// Global control: interrupts enabled.
const GHC_IE: u32 = 1 << 1;
/// Global control: reset.
const GHC_HR: u32 = 1;

/// 64-bit addresses, queueing, AHCI only, first generation, 32 slots, six ports.
const CAP: u32 = 1 << 31 | 1 << 30 | 1 << 18 | 1 << 20 | 31 << 8 | (PORTS as u32 - 1);

/// Settings fixed when the machine is built.
#[derive(Default)]
pub struct Config {
    /// What is plugged into the ports. [`build`] gives the drives native command queueing.
    pub drives: [Plug; PORTS],
}

/// Services.
pub struct Wires {
    /// PCI function.
    pub pci: pci::Function,
    /// The drives' backends, one a port.
    pub io: DriveIo,
}

/// Everything the guest can observe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    pci: pci::ConfigState,
    ghc: u32,
    is: u32,
    index: u32,
    ports: Vec<(port::State, Option<ata::State>)>,
    queue: Queue<Tag>,
}

impl orrery_system::State for State {
    const KIND: &'static str = "ich9-ahci";
    const VERSION: u16 = 1;
}

/// The controller.
pub struct Ahci {
    wires: Wires,
    config: pci::ConfigState,
    ghc: u32,
    is: u32,
    index: u32,
    ports: Vec<Port>,
    queue: Queue<Tag>,
}

fn backends(drives: &[Plug; PORTS]) -> Vec<BlockBackend> {
    let backend = |p: &Plug| p.as_ref().map_or_else(BlockBackend::detached, |(_, b)| b.clone());
    drives.iter().map(backend).collect()
}

/// Puts the controller at `devfn` of `bus`.
pub fn build(board: &mut Board, bus: &Bus, devfn: u8, config: Config) -> DeviceId {
    let id = board.reserve(<State as orrery_system::State>::KIND);
    let io = DriveIo::new(board, id, 0, backends(&config.drives));
    let identity = pci::Identity {
        vendor: 0x8086,
        device: 0x2922,
        revision: 2,
        class: 0x01_06_01,
        subsystem: pci::Identity::SUBSYSTEM,
        pin: 1,
    };
    let mut builder = pci::Builder::new(board, bus, id, identity)
        .io_bar(4, INDEX_BANK, 32)
        .memory_bar(5, MEMORY_BANK, 0x1000)
        // Address map: AHCI mode.
        .register(0x90, 1, 0x40, 0)
        // Port control and status: firmware enables the ports it uses.
        .register(0x92, 2, 0, 0x3f)
        .msi_at(0x80, 1);
    // Serial ATA capability 1.0: index and data pair at offset 0x10 of BAR 4.
    builder.place_capability(0xa8, 0x12, &[0x10, 0x00, 0x48, 0, 0, 0], &[]);
    let pci = builder.build(devfn);
    board.attach(id, Box::new(Ahci::new(config, Wires { pci, io })));
    id
}

impl Ahci {
    /// The controller in its power-on state.
    pub fn new(config: Config, wires: Wires) -> Self {
        let port = |plug: Plug| {
            Port::new(plug.map(|(mut config, backend)| {
                config.ncq = true;
                Drive::new(config, backend)
            }))
        };
        Self {
            config: wires.pci.power_on(),
            wires,
            ghc: GHC_AE,
            is: 0,
            index: 0,
            ports: config.drives.into_iter().map(port).collect(),
            queue: Queue::default(),
        }
    }

    /// Lets the ports work and drives interrupts from the state.
    fn drive(&mut self) {
        // First the switch of bus mastering, which the ports heed.
        let level = self.ghc & GHC_IE != 0 && self.is != 0;
        self.wires.pci.drive(&mut self.config, level);
        let before = self.is;
        for (number, port) in self.ports.iter_mut().enumerate() {
            let (dma, io) = (self.wires.pci.dma(), &mut self.wires.io);
            let mut host = Host { dma, io, queue: &mut self.queue, number };
            port.run(&mut host);
            port.run_queued(&mut host);
            if port.pending() {
                self.is |= 1 << number;
            }
        }
        let enabled = self.ghc & GHC_IE != 0;
        // A message tells of every port that joins, also while others still wait.
        if level && self.is & !before != 0 && self.wires.pci.msi_enabled(&self.config) {
            self.wires.pci.signal(&mut self.config, 0);
        }
        self.wires.pci.drive(&mut self.config, enabled && self.is != 0);
    }

    fn controller_reset(&mut self) {
        self.wires.io.abandon_all(&mut self.queue);
        self.ports.iter_mut().for_each(Port::power_on);
        (self.ghc, self.is) = (GHC_AE, 0);
    }

    fn read_memory(&self, offset: u64) -> BusResult<u32> {
        if let Some((port, reg)) = port_reg(offset) {
            return PortReg::decode(reg, 4).map(|(reg, _)| self.ports[port].read(reg)).or(Ok(0));
        }
        Ok(match Reg::decode(offset, 4).map(|(reg, _)| reg) {
            Ok(Reg::Cap) => CAP,
            Ok(Reg::Ghc) => self.ghc,
            Ok(Reg::Is) => self.is,
            Ok(Reg::Pi) => (1 << PORTS) - 1,
            Ok(Reg::Vs) => 0x0001_0000,
            // Reserved registers read zero.
            Ok(Reg::Cap2) | Err(_) => 0,
        })
    }

    fn write_memory(&mut self, offset: u64, value: u32) {
        if let Some((number, reg)) = port_reg(offset) {
            if let Ok((reg, _)) = PortReg::decode(reg, 4) {
                let (dma, io) = (self.wires.pci.dma(), &mut self.wires.io);
                let mut host = Host { dma, io, queue: &mut self.queue, number };
                self.ports[number].write(reg, value, &mut host);
            }
            return;
        }
        match Reg::decode(offset, 4).map(|(reg, _)| reg) {
            Ok(Reg::Ghc) if value & GHC_HR != 0 => self.controller_reset(),
            Ok(Reg::Ghc) => self.ghc = GHC_AE | value & GHC_IE,
            Ok(Reg::Is) => {
                self.is &= !value;
                // What is left is worth another message.
                if self.is != 0
                    && self.ghc & GHC_IE != 0
                    && self.wires.pci.msi_enabled(&self.config)
                {
                    self.wires.pci.signal(&mut self.config, 0);
                }
            }
            _ => {}
        }
    }
}

/// The port and offset in its registers that a memory offset hits.
fn port_reg(offset: u64) -> Option<(usize, u64)> {
    let at = offset.checked_sub(0x100)?;
    let port = usize::try_from(at / 0x80).ok()?;
    (port < PORTS).then_some((port, at % 0x80))
}

impl Device for Ahci {
    fn name(&self) -> &'static str {
        <State as orrery_system::State>::KIND
    }

    fn reset(&mut self) {
        self.controller_reset();
        self.config = self.wires.pci.power_on();
        self.index = 0;
        self.drive();
    }

    fn save(&self) -> StateBlob {
        let port = |p: &Port| (p.state.clone(), p.drive.as_ref().map(Drive::save));
        StateBlob::encode(&State {
            pci: self.config.clone(),
            ghc: self.ghc,
            is: self.is,
            index: self.index,
            ports: self.ports.iter().map(port).collect(),
            queue: self.queue.clone(),
        })
    }

    fn restore(&mut self, blob: &StateBlob) -> Result<(), RestoreError> {
        let state: State = blob.decode()?;
        self.wires.pci.check(&state.pci)?;
        let fits = state.ports.len() == PORTS
            && self.ports.iter().zip(&state.ports).all(|(have, (port, drive))| {
                let drive = match (&have.drive, drive) {
                    (Some(have), Some(saved)) => have.accepts(saved),
                    (None, None) => true,
                    _ => false,
                };
                drive && Port::accepts(port)
            });
        if !fits {
            return Err(RestoreError::Invalid("drives on an AHCI controller"));
        }
        for (port, (state, drive)) in self.ports.iter_mut().zip(state.ports) {
            port.state = state;
            if let (Some(have), Some(saved)) = (&mut port.drive, drive) {
                have.restore(saved);
            }
        }
        self.config = state.pci;
        (self.ghc, self.is, self.index, self.queue) =
            (state.ghc, state.is, state.index, state.queue);
        self.wires.io.resume(&self.queue);
        self.drive();
        Ok(())
    }

    fn registers(&mut self) -> Option<&mut dyn Registers> {
        Some(self)
    }

    fn host_io(&mut self) -> Option<&mut dyn HostIo> {
        Some(self)
    }
}

impl Registers for Ahci {
    fn read(&mut self, bank: u32, offset: u64, width: u8) -> BusResult<u64> {
        if let Some(result) = self.wires.pci.read(&self.config, bank, offset, width) {
            return result;
        }
        match bank {
            MEMORY_BANK if offset < 0x1000 => {
                if width > 4 || offset % 4 + u64::from(width) > 4 {
                    return Err(BusError::Width);
                }
                let word = self.read_memory(offset & !3)?;
                Ok(u64::from(word) >> (8 * (offset % 4)))
            }
            INDEX_BANK => match (offset, width) {
                (0x10, 4) => Ok(self.index.into()),
                (0x14, 4) => self.read_memory(self.index.into()).map(u64::from),
                _ => Err(BusError::NoRegister),
            },
            _ => Err(BusError::NoRegister),
        }
    }

    fn write(&mut self, bank: u32, offset: u64, width: u8, value: u64) -> BusResult<()> {
        let result = match self.wires.pci.write(&mut self.config, bank, offset, width, value) {
            Some(result) => result,
            None => match (bank, offset, width) {
                // Registers are written whole (AHCI 1.3.1 chapter 3).
                (MEMORY_BANK, 0..0x1000, 4) if offset.is_multiple_of(4) => {
                    self.write_memory(offset, value as u32);
                    Ok(())
                }
                (MEMORY_BANK, 0..0x1000, 8) => return Err(BusError::Width),
                (INDEX_BANK, 0x10, 4) => {
                    self.index = value as u32 & 0xffc;
                    Ok(())
                }
                (INDEX_BANK, 0x14, 4) => {
                    self.write_memory(self.index.into(), value as u32);
                    Ok(())
                }
                _ => Err(BusError::NoRegister),
            },
        };
        self.drive();
        result
    }
}

impl HostIo for Ahci {
    fn due(&self) -> Option<VmTime> {
        self.wires.io.due(&self.queue)
    }

    fn ready(&self) -> bool {
        self.wires.io.ready(&self.queue)
    }

    fn deliver(&mut self, now: VmTime) {
        while let Some(done) = self.wires.io.take(&mut self.queue, now) {
            if let Some(port) = self.ports.get_mut(done.drive) {
                port.op_done(done.tag, done.result, self.wires.pci.dma());
            }
        }
        self.drive();
    }
}

#[cfg(test)]
mod tests;
