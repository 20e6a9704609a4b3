//! The IDE function of Intel's PIIX3 and PIIX4: two channels at the PC's ports, with bus masters.
//!
//! Reference: Intel 29055002 (82371FB/SB) chapters 2.3 and 2.7, 29056201 (82371AB). The channels
//! answer at the PC's fixed ports whatever the timing registers say: firmware other than
//! SeaBIOS relies on finding them there.

use super::bmdma::{self, Engine};
use super::channel::{self, Channel, Plug};
use crate::block::drive::DriveIo;
use crate::pci::{self, Bus};
use orrery_system::device::HostIo;
use orrery_system::time::VmTime;
use orrery_system::{
    Board, BusError, BusResult, Device, DeviceId, IrqLine, Registers, RestoreError, StateBlob,
};
use serde::{Deserialize, Serialize};

/// The bank of channel `n`'s command block.
pub const fn command_bank(n: u32) -> u32 {
    n
}

/// The bank of channel `n`'s control block.
pub const fn control_bank(n: u32) -> u32 {
    2 + n
}

/// The bank of the bus masters: 8 bytes for each channel.
pub const BUS_MASTER_BANK: u32 = 4;

/// First port of the command and control blocks of each channel.
const PORTS: [(u64, u64); 2] = [(0x1f0, 0x3f6), (0x170, 0x376)];

/// Which chip it is part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Model {
    /// 82371SB: `piix3-ide`.
    Piix3,
    /// 82371AB: `piix4-ide`.
    Piix4,
}

/// Settings fixed when the machine is built.
pub struct Config {
    /// Which chip.
    pub model: Model,
    /// The drives of the two channels.
    pub drives: [[Plug; 2]; 2],
}

/// Pins and services.
pub struct Wires {
    /// PCI function: configuration space, window, memory access.
    pub pci: pci::Function,
    /// IRQ 14 and 15.
    pub irq: [IrqLine; 2],
    /// The drives of each channel, from [`Channel::backends`].
    pub io: [DriveIo; 2],
}

/// Everything the guest can observe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    pci: pci::ConfigState,
    channels: [channel::State; 2],
    masters: [bmdma::State; 2],
}

impl orrery_system::State for State {
    const KIND: &'static str = "piix-ide";
    const VERSION: u16 = 1;
}

/// The device.
pub struct PiixIde {
    model: Model,
    pci: pci::Function,
    config: pci::ConfigState,
    channels: [Channel; 2],
    masters: [bmdma::State; 2],
}

/// Puts the function at `devfn` of `bus`; the channels interrupt on `irq`.
pub fn build(
    board: &mut Board,
    bus: &Bus,
    devfn: u8,
    config: Config,
    irq: [IrqLine; 2],
) -> DeviceId {
    let id = board.reserve(name(config.model));
    let device = match config.model {
        Model::Piix3 => 0x7010,
        Model::Piix4 => 0x7111,
    };
    let identity = pci::Identity {
        vendor: 0x8086,
        device,
        revision: 0,
        // IDE, both channels in compatibility mode, bus master.
        class: 0x01_01_80,
        subsystem: pci::Identity::SUBSYSTEM,
        pin: 0,
    };
    let pci = pci::Builder::new(board, bus, id, identity)
        .status(0x0280)
        .io_bar(4, BUS_MASTER_BANK, 16)
        // IDETIM: timings, kept for software to read; PIIX4 adds SIDETIM and the UDMA registers.
        .register(0x40, 4, 0, 0xffff_ffff)
        .register(0x44, 4, 0, if config.model == Model::Piix4 { 0xff } else { 0 })
        .register(0x48, 4, 0, if config.model == Model::Piix4 { 0x3333_000f } else { 0 })
        .build(devfn);
    for (n, (command, control)) in PORTS.into_iter().enumerate() {
        let n = n as u32;
        let regions = board.regions();
        board.io().add(command, &regions.device("ide", 8, id, command_bank(n)));
        board.io().add(control, &regions.device("ide-control", 1, id, control_bank(n)));
    }
    let [first, second] = &config.drives;
    let io = [
        DriveIo::new(board, id, 0, Channel::backends(first)),
        DriveIo::new(board, id, 1, Channel::backends(second)),
    ];
    board.attach(id, Box::new(PiixIde::new(config, Wires { pci, irq, io })));
    id
}

const fn name(model: Model) -> &'static str {
    match model {
        Model::Piix3 => "piix3-ide",
        Model::Piix4 => "piix4-ide",
    }
}

impl PiixIde {
    /// The function in its power-on state.
    pub fn new(config: Config, wires: Wires) -> Self {
        let Wires { pci, irq: [irq0, irq1], io: [io0, io1] } = wires;
        let [first, second] = config.drives;
        Self {
            model: config.model,
            config: pci.power_on(),
            pci,
            channels: [Channel::new(first, io0, irq0), Channel::new(second, io1, irq1)],
            masters: Default::default(),
        }
    }

    fn drive(&mut self) {
        self.pci.drive(&mut self.config, false);
        for (channel, state) in self.channels.iter_mut().zip(&mut self.masters) {
            let mut engine = Engine { state, dma: self.pci.dma() };
            channel.drive_outputs(Some(&mut engine));
            state.watch(channel.intrq());
        }
    }
}

impl Device for PiixIde {
    fn name(&self) -> &'static str {
        name(self.model)
    }

    fn reset(&mut self) {
        self.config = self.pci.power_on();
        self.masters = Default::default();
        self.channels.iter_mut().for_each(Channel::reset);
        self.drive();
    }

    fn save(&self) -> StateBlob {
        let [a, b] = &self.channels;
        StateBlob::encode(&State {
            pci: self.config.clone(),
            channels: [a.save(), b.save()],
            masters: self.masters.clone(),
        })
    }

    fn restore(&mut self, blob: &StateBlob) -> Result<(), RestoreError> {
        let state: State = blob.decode()?;
        self.pci.check(&state.pci)?;
        for (channel, saved) in self.channels.iter().zip(&state.channels) {
            channel.check(saved)?;
        }
        (self.config, self.masters) = (state.pci, state.masters);
        for (channel, saved) in self.channels.iter_mut().zip(state.channels) {
            channel.restore(saved);
        }
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

impl Registers for PiixIde {
    fn read(&mut self, bank: u32, offset: u64, width: u8) -> BusResult<u64> {
        if let Some(result) = self.pci.read(&self.config, bank, offset, width) {
            return result;
        }
        let n = (bank & 1) as usize;
        let result = match bank {
            0 | 1 => self.channels[n].read(offset, width),
            2 | 3 => self.channels[n].read_control(offset, width),
            BUS_MASTER_BANK if offset < 16 => {
                return self.masters[(offset >> 3) as usize].read(offset & 7, width);
            }
            _ => return Err(BusError::NoRegister),
        };
        self.drive();
        result
    }

    fn write(&mut self, bank: u32, offset: u64, width: u8, value: u64) -> BusResult<()> {
        let n = (bank & 1) as usize;
        let result = match self.pci.write(&mut self.config, bank, offset, width, value) {
            Some(result) => result,
            None => match bank {
                0 | 1 => self.channels[n].write(offset, width, value),
                2 | 3 => self.channels[n].write_control(offset, width, value),
                BUS_MASTER_BANK if offset < 16 => {
                    self.masters[(offset >> 3) as usize].write(offset & 7, width, value)
                }
                _ => Err(BusError::NoRegister),
            },
        };
        self.drive();
        result
    }
}

impl HostIo for PiixIde {
    fn due(&self) -> Option<VmTime> {
        self.channels.iter().filter_map(Channel::due).min()
    }

    fn ready(&self) -> bool {
        // The channel whose operation completes first, or in realtime any.
        let due = self.due();
        self.channels.iter().any(|c| c.due() == due && c.ready())
    }

    fn deliver(&mut self, now: VmTime) {
        for channel in &mut self.channels {
            channel.deliver(now);
        }
        self.drive();
    }
}

#[cfg(test)]
mod tests {
    use super::super::ata::{Config as DriveConfig, Status};
    use super::super::channel::Reg;
    use super::*;
    use crate::pci::CONFIG_BANK;
    use orrery_block::IoBuf;
    use orrery_block::backend::{BlockBackend, Request};
    use orrery_system::board::BoardConfig;

    struct Bench {
        board: Board,
        id: DeviceId,
        irq: IrqLine,
        disk: BlockBackend,
    }

    /// Base of the bus masters once mapped.
    const BM: u16 = 0xc000;

    impl Bench {
        fn new() -> Self {
            let mut board =
                Board::new(BoardConfig { ram_capacity: 0x10_0000, ..BoardConfig::default() });
            let ram = board.ram().alloc("ram", 0x10_0000).unwrap();
            board.memory().add(0, &board.regions().ram("ram", ram));
            let bus = Bus::simple(&board);
            let disk = BlockBackend::ram((0..1_000_000_u32).flat_map(u32::to_le_bytes).collect());
            let cd = BlockBackend::ram_read_only(vec![0xcd; 2048 * 50]);
            let drives = [
                [Some((DriveConfig::disk(0), disk.clone())), None],
                [Some((DriveConfig::cdrom(2), cd)), None],
            ];
            let irq = IrqLine::open();
            let config = Config { model: Model::Piix3, drives };
            let id = build(&mut board, &bus, 9, config, [irq.clone(), IrqLine::open()]);
            board.settle();
            let mut b = Self { board, id, irq, disk };
            b.config_write(0x20, 4, u32::from(BM) | 1);
            b.config_write(4, 2, 5);
            b
        }

        fn config_write(&mut self, at: u64, width: u8, value: u32) {
            self.board.device_write(self.id, CONFIG_BANK, at, width, value.into());
        }

        /// Lets time pass until the drive is no longer busy.
        fn wait(&mut self) -> Status {
            for _ in 0..10_000 {
                let status = Status::from_bits_truncate(self.board.port_in(0x3f6, 1) as u8);
                if !status.contains(Status::BSY) {
                    return status;
                }
                let due = self.board.next_deadline();
                self.board.warp_to(due);
                self.board.run_timers();
                assert!(self.board.deliver_host_io());
            }
            panic!("still busy");
        }

        fn table(&mut self, at: u64, entries: &[(u32, u32)]) {
            for (i, &(addr, len)) in entries.iter().enumerate() {
                self.board.write(at + 8 * i as u64, 4, addr.into());
                let last = if i + 1 == entries.len() { 1 << 31 } else { 0 };
                self.board.write(at + 8 * i as u64 + 4, 4, (len & 0xffff | last).into());
            }
            self.board.port_out(BM + 4, 4, at as u32);
        }

        fn command(&mut self, code: u8, lba: u32, count: u8) {
            self.board.port_out(0x1f2, 1, count.into());
            for (i, port) in (0x1f3..0x1f6).enumerate() {
                self.board.port_out(port, 1, lba >> (8 * i) & 0xff);
            }
            self.board.port_out(0x1f6, 1, 0xe0 | lba >> 24);
            self.board.port_out(0x1f7, 1, code.into());
        }
    }

    #[test]
    fn a_dma_read_scatters_sectors_over_the_table_and_interrupts() {
        let mut b = Bench::new();
        b.table(0x1000, &[(0x2000, 512), (0x8000, 0), (0x1_8000, 0xfe00), (0x2200, 512)]);
        b.command(0xc8, 16, 0);
        b.board.port_out(BM + 2, 1, 6);
        b.board.port_out(BM, 1, 9);
        b.command(0xc8, 16, 3);
        // The second command was ignored: the drive is busy with the first, of 256 sectors.
        assert_eq!(b.wait(), Status::DRDY | Status::DSC);
        assert!(b.irq.level());
        assert_eq!(b.board.port_in(BM + 2, 1) & 7, 5, "interrupt; the table was longer");
        assert_eq!(b.board.read(0x2000, 4), 16 * 128);
        assert_eq!(b.board.read(0x8000, 4), 17 * 128);
        assert_eq!(b.board.read(0x1_8000 + 126 * 512, 4), 271 * 128, "0 means 64 KiB");
        b.board.port_in(0x1f7, 1);
        assert!(!b.irq.level());
        b.board.port_out(BM, 1, 8);
        b.board.port_out(BM + 2, 1, 4);
        assert_eq!(b.board.port_in(BM + 2, 1) & 7, 0);
    }

    #[test]
    fn a_dma_write_gathers_and_an_exact_table_goes_idle() {
        let mut b = Bench::new();
        for i in 0..256 {
            b.board.write(0x4000 + 4 * i, 4, 0xfeed_0000 + i);
        }
        b.table(0x1000, &[(0x4000, 100), (0x4064, 924)]);
        b.board.port_out(BM, 1, 1);
        b.command(0xca, 7, 2);
        assert_eq!(b.wait(), Status::DRDY | Status::DSC);
        assert_eq!(b.board.port_in(BM + 2, 1) & 7, 4);
        let read = Request::Read { offset: 7 * 512, buf: IoBuf::zeroed(1024) };
        let stored = b.disk.submit(read).take().unwrap().unwrap();
        assert_eq!(stored[1020..], 0xfeed_00ff_u32.to_le_bytes());
    }

    #[test]
    fn the_command_waits_for_the_engine_and_the_engine_for_bus_mastering() {
        let mut b = Bench::new();
        b.table(0x1000, &[(0x2000, 512)]);
        b.command(0xc8, 1, 1);
        assert!(b.wait().contains(Status::DRQ));
        b.config_write(4, 2, 1);
        b.board.port_out(BM, 1, 9);
        assert!(b.wait().contains(Status::DRQ));
        b.config_write(4, 2, 5);
        assert_eq!(b.wait(), Status::DRDY | Status::DSC);
        assert_eq!(b.board.read(0x2000, 4), 128);
    }

    #[test]
    fn a_table_too_short_ends_the_transfer_and_one_outside_memory_is_an_error() {
        let mut b = Bench::new();
        b.table(0x1000, &[(0x2000, 512)]);
        b.board.port_out(BM, 1, 9);
        b.command(0xc8, 1, 2);
        b.wait();
        assert_eq!(b.board.port_in(BM + 2, 1) & 1, 0);
        assert_eq!(b.board.read(0x2000, 4), 128);
        b.board.port_out(BM, 1, 0);
        b.board.port_out(BM + 4, 4, 0x8000_0000);
        b.board.port_out(BM, 1, 9);
        b.command(0xc8, 1, 2);
        b.wait();
        assert_eq!(b.board.port_in(BM + 2, 1) & 3, 2);
    }

    #[test]
    fn trim_takes_its_ranges_by_dma() {
        let mut b = Bench::new();
        b.board.write(0x3000, 8, 2 << 48 | 40);
        b.table(0x1000, &[(0x3000, 512)]);
        b.board.port_out(BM, 1, 1);
        b.board.port_out(0x1f1, 1, 1);
        b.board.port_out(0x1f2, 1, 0);
        b.command(0x06, 0, 1);
        assert_eq!(b.wait(), Status::DRDY | Status::DSC);
        assert_eq!(b.disk.stats().discard.ops, 1);
    }

    #[test]
    fn a_cdrom_moves_blocks_by_dma() {
        let mut b = Bench::new();
        b.board.write(0x1000, 4, 0x2000);
        b.board.write(0x1004, 4, 0x8000_1000);
        b.board.port_out(BM + 12, 4, 0x1000);
        b.board.port_out(0x171, 1, 1);
        b.board.port_out(0x177, 1, 0xa0);
        for w in [0x28, 0, 0x0100, 0, 0x0002, 0] {
            b.board.port_out(0x170, 2, w);
        }
        b.board.port_out(BM + 8, 1, 9);
        let due = b.board.next_deadline();
        b.board.warp_to(due);
        b.board.deliver_host_io();
        assert_eq!(b.board.port_in(BM + 10, 1) & 7, 4);
        assert_eq!((b.board.read(0x2000, 1), b.board.read(0x2fff, 1)), (0xcd, 0xcd));
        assert_eq!(b.board.port_in(0x172, 1) & 3, 3);
    }

    fn alone() -> PiixIde {
        let board = Board::new(BoardConfig::default());
        let bus = Bus::simple(&board);
        let disk = || BlockBackend::ram(vec![0; 1 << 20]);
        let drives = [
            [Some((DriveConfig::disk(0), disk())), Some((DriveConfig::disk(1), disk()))],
            [Some((DriveConfig::cdrom(2), BlockBackend::detached())), None],
        ];
        let mut board = board;
        let id = board.reserve("piix3-ide");
        let identity = pci::Identity {
            vendor: 0x8086,
            device: 0x7010,
            revision: 0,
            class: 0x01_01_80,
            subsystem: (0, 0),
            pin: 0,
        };
        let io = [
            DriveIo::new(&mut board, id, 0, Channel::backends(&drives[0])),
            DriveIo::new(&mut board, id, 1, Channel::backends(&drives[1])),
        ];
        let pci =
            pci::Builder::new(&board, &bus, id, identity).io_bar(4, BUS_MASTER_BANK, 16).build(9);
        let wires = Wires { pci, irq: [IrqLine::open(), IrqLine::open()], io };
        PiixIde::new(Config { model: Model::Piix3, drives }, wires)
    }

    orrery_system::conformance!(
        alone(),
        [
            (0, Reg::TABLE),
            (1, Reg::TABLE),
            (2, &[]),
            (3, &[]),
            (BUS_MASTER_BANK, bmdma::Reg::TABLE),
            (CONFIG_BANK, &[])
        ]
    );
}
