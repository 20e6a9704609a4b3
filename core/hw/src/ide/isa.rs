//! The IDE adapter of an ISA machine: one channel at two fixed port ranges, PIO only.
//!
//! Reference: the WD1003 task file as the PC/AT wired it; ATA/ATAPI-7 for the rest.

use super::channel::{self, Channel, Plug};
use crate::block::drive::DriveIo;
use orrery_system::device::HostIo;
use orrery_system::time::VmTime;
use orrery_system::{
    Board, BusError, BusResult, Device, DeviceId, IrqLine, Registers, RestoreError, StateBlob,
};
use serde::{Deserialize, Serialize};

/// The bank of the command block.
pub const COMMAND_BANK: u32 = 0;
/// The bank of the control block.
pub const CONTROL_BANK: u32 = 1;

/// Settings fixed when the machine is built.
pub struct Config {
    /// First port of the command block.
    pub iobase: u16,
    /// Port of the control block.
    pub iobase2: u16,
    /// The drives.
    pub drives: [Plug; 2],
}

/// Everything the guest can observe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State(channel::State);

impl orrery_system::State for State {
    const KIND: &'static str = "isa-ide";
    const VERSION: u16 = 1;
}

/// The adapter.
pub struct IsaIde {
    channel: Channel,
}

/// Puts an adapter into the port map of `board`; it interrupts on `irq`.
pub fn build(board: &mut Board, config: Config, irq: IrqLine) -> DeviceId {
    let id = board.reserve(<State as orrery_system::State>::KIND);
    let io = DriveIo::new(board, id, 0, Channel::backends(&config.drives));
    let command = board.regions().device("ide", 8, id, COMMAND_BANK);
    let control = board.regions().device("ide-control", 1, id, CONTROL_BANK);
    board.io().add(config.iobase.into(), &command);
    board.io().add(config.iobase2.into(), &control);
    board.attach(id, Box::new(IsaIde::new(config.drives, io, irq)));
    id
}

impl IsaIde {
    /// An adapter in its power-on state; `io` is made from the drives' backends.
    pub fn new(drives: [Plug; 2], io: DriveIo, irq: IrqLine) -> Self {
        Self { channel: Channel::new(drives, io, irq) }
    }
}

impl Device for IsaIde {
    fn name(&self) -> &'static str {
        <State as orrery_system::State>::KIND
    }

    fn reset(&mut self) {
        self.channel.reset();
    }

    fn save(&self) -> StateBlob {
        StateBlob::encode(&State(self.channel.save()))
    }

    fn restore(&mut self, blob: &StateBlob) -> Result<(), RestoreError> {
        let State(state) = blob.decode()?;
        self.channel.check(&state)?;
        self.channel.restore(state);
        Ok(())
    }

    fn registers(&mut self) -> Option<&mut dyn Registers> {
        Some(self)
    }

    fn host_io(&mut self) -> Option<&mut dyn HostIo> {
        Some(self)
    }
}

impl Registers for IsaIde {
    fn read(&mut self, bank: u32, offset: u64, width: u8) -> BusResult<u64> {
        let result = match bank {
            COMMAND_BANK => self.channel.read(offset, width),
            CONTROL_BANK => self.channel.read_control(offset, width),
            _ => Err(BusError::NoRegister),
        };
        self.channel.drive_outputs(None);
        result
    }

    fn write(&mut self, bank: u32, offset: u64, width: u8, value: u64) -> BusResult<()> {
        let result = match bank {
            COMMAND_BANK => self.channel.write(offset, width, value),
            CONTROL_BANK => self.channel.write_control(offset, width, value),
            _ => Err(BusError::NoRegister),
        };
        self.channel.drive_outputs(None);
        result
    }
}

impl HostIo for IsaIde {
    fn due(&self) -> Option<VmTime> {
        self.channel.due()
    }

    fn ready(&self) -> bool {
        self.channel.ready()
    }

    fn deliver(&mut self, now: VmTime) {
        self.channel.deliver(now);
        self.channel.drive_outputs(None);
    }
}

#[cfg(test)]
mod tests {
    use super::super::ata::{Config as DriveConfig, Status};
    use super::super::channel::{Control, Reg};
    use super::*;
    use orrery_block::IoBuf;
    use orrery_block::backend::{BlockBackend, Request};
    use orrery_system::time::{Clock, Latency};

    const DISK_SECTORS: u64 = 20_000;

    /// A disk whose every sector begins with its number, and a CD whose blocks do.
    fn numbered(count: u64, size: usize) -> Vec<u8> {
        let mut bytes = vec![0; count as usize * size];
        for (i, sector) in bytes.chunks_exact_mut(size).enumerate() {
            sector[..4].copy_from_slice(&(i as u32).to_le_bytes());
            sector[size - 1] = 0xa5;
        }
        bytes
    }

    struct Bench {
        dev: IsaIde,
        irq: IrqLine,
        clock: Clock,
        disk: BlockBackend,
    }

    impl Bench {
        fn new() -> Self {
            let disk = BlockBackend::ram(numbered(DISK_SECTORS, 512));
            let cd = BlockBackend::ram_read_only(numbered(64, 2048));
            let drives =
                [Some((DriveConfig::disk(0), disk.clone())), Some((DriveConfig::cdrom(1), cd))];
            let (clock, irq) = (Clock::default(), IrqLine::open());
            let backends = Channel::backends(&drives);
            let io = DriveIo::detached(backends, clock.clone(), Latency::new(true));
            Self { dev: IsaIde::new(drives, io, irq.clone()), irq, clock, disk }
        }

        fn get(&mut self, reg: Reg) -> u8 {
            self.dev.read(COMMAND_BANK, reg.offset(), 1).unwrap() as u8
        }

        fn put(&mut self, reg: Reg, value: u8) {
            self.dev.write(COMMAND_BANK, reg.offset(), 1, value.into()).unwrap();
        }

        fn alt_status(&mut self) -> Status {
            Status::from_bits_truncate(self.dev.read(CONTROL_BANK, 0, 1).unwrap() as u8)
        }

        /// Lets the drive work until it is no longer busy.
        fn wait(&mut self) -> Status {
            while self.alt_status().contains(Status::BSY) {
                let due = self.dev.due().expect("a busy drive has something to wait for");
                self.clock.advance_to(due);
                self.dev.deliver(due);
            }
            self.alt_status()
        }

        fn command(&mut self, code: u8, lba: u32, count: u8) -> Status {
            self.put(Reg::Count, count);
            self.put(Reg::LbaLow, lba as u8);
            self.put(Reg::LbaMid, (lba >> 8) as u8);
            self.put(Reg::LbaHigh, (lba >> 16) as u8);
            self.put(Reg::Device, 0xe0 | (lba >> 24) as u8 & 0xf);
            self.put(Reg::Status, code);
            self.wait()
        }

        fn data_in(&mut self, bytes: usize) -> Vec<u8> {
            let mut out = Vec::new();
            while out.len() < bytes {
                let v = self.dev.read(COMMAND_BANK, 0, 2).unwrap() as u16;
                out.extend(v.to_le_bytes());
            }
            out
        }

        fn data_out(&mut self, data: &[u8]) {
            for w in data.as_chunks().0 {
                self.dev.write(COMMAND_BANK, 0, 4, u32::from_le_bytes(*w).into()).unwrap();
            }
        }

        fn stored(&self, sector: u64) -> Vec<u8> {
            let read = Request::Read { offset: sector * 512, buf: IoBuf::zeroed(512) };
            self.disk.submit(read).take().unwrap().unwrap().into_vec()
        }

        /// Sends a packet to the CD-ROM drive and gives the status after it.
        fn packet(&mut self, limit: u16, packet: &[u8]) -> Status {
            self.put(Reg::Device, 0xb0);
            self.put(Reg::Error, 0);
            self.put(Reg::LbaMid, limit as u8);
            self.put(Reg::LbaHigh, (limit >> 8) as u8);
            self.put(Reg::Status, 0xa0);
            assert_eq!(self.get(Reg::Count) & 3, 1, "the drive asks for the packet");
            let mut p = packet.to_vec();
            p.resize(12, 0);
            self.data_out(&p);
            self.wait()
        }
    }

    #[test]
    fn after_power_on_the_signatures_tell_disk_from_cdrom() {
        let mut b = Bench::new();
        b.put(Reg::Device, 0xa0);
        assert_eq!((b.get(Reg::Status), b.get(Reg::LbaMid), b.get(Reg::LbaHigh)), (0x50, 0, 0));
        b.put(Reg::Device, 0xb0);
        assert_eq!((b.get(Reg::Status), b.get(Reg::LbaMid), b.get(Reg::LbaHigh)), (0, 0x14, 0xeb));
        assert_eq!(b.get(Reg::Error), 1, "diagnostics passed");
    }

    #[test]
    fn identify_tells_model_and_capacity() {
        let mut b = Bench::new();
        let status = b.command(0xec, 0, 0);
        assert!(status.contains(Status::DRQ) && b.irq.level());
        b.get(Reg::Status);
        assert!(!b.irq.level(), "reading the status takes the interrupt back");
        let id = b.data_in(512);
        let word = |i: usize| u32::from(u16::from_le_bytes([id[2 * i], id[2 * i + 1]]));
        assert_eq!(word(60) | word(61) << 16, DISK_SECTORS as u32);
        assert_eq!(word(100), DISK_SECTORS as u32);
        let model: Vec<u8> = (27..47).flat_map(|i| (word(i) as u16).to_be_bytes()).collect();
        assert_eq!(String::from_utf8(model).unwrap().trim_end(), "QEMU HARDDISK");
        assert_eq!(b.alt_status(), Status::DRDY | Status::DSC);
    }

    #[test]
    fn pio_reads_interrupt_once_for_each_sector() {
        let mut b = Bench::new();
        b.command(0x20, 1000, 3);
        for sector in 1000_u32..1003 {
            assert!(b.irq.level());
            b.get(Reg::Status);
            assert_eq!(b.data_in(512)[..4], sector.to_le_bytes());
            b.wait();
        }
        assert!(!b.irq.level(), "no interrupt after the last one");
        assert_eq!(b.get(Reg::Status), 0x50);
        assert_eq!(b.get(Reg::LbaLow), (1003 & 0xff) as u8);
    }

    #[test]
    fn multiple_mode_moves_larger_blocks() {
        let mut b = Bench::new();
        b.command(0xc6, 0, 4);
        b.command(0xc4, 8, 6);
        b.get(Reg::Status);
        let block = b.data_in(4 * 512);
        assert_eq!(block[3 * 512..][..4], 11_u32.to_le_bytes());
        assert!(b.irq.level(), "next block");
        b.get(Reg::Status);
        assert_eq!(b.data_in(2 * 512)[512..][..4], 13_u32.to_le_bytes());
        assert!(!b.alt_status().contains(Status::DRQ));
        assert!(b.command(0xc6, 0, 3).contains(Status::ERR), "not a power of two");
    }

    #[test]
    fn pio_writes_reach_the_disk_and_wait_for_each_sector() {
        let mut b = Bench::new();
        let status = b.command(0x30, 5, 2);
        assert!(
            status.contains(Status::DRQ) && !b.irq.level(),
            "the first block needs no interrupt"
        );
        b.data_out(&[0x11; 512]);
        assert!(b.alt_status().contains(Status::BSY));
        b.wait();
        assert!(b.irq.level());
        b.get(Reg::Status);
        b.data_out(&[0x22; 512]);
        assert_eq!(b.wait(), Status::DRDY | Status::DSC);
        assert!(b.irq.level());
        assert_eq!((b.stored(5), b.stored(6)), (vec![0x11; 512], vec![0x22; 512]));
        assert_eq!(b.stored(7)[..4], 7_u32.to_le_bytes());
    }

    #[test]
    fn chs_addresses_follow_the_translation_in_force() {
        let mut b = Bench::new();
        b.put(Reg::Device, 0xa7);
        b.put(Reg::Count, 32);
        b.put(Reg::Status, 0x91);
        b.wait();
        b.put(Reg::Count, 1);
        b.put(Reg::LbaLow, 5);
        b.put(Reg::LbaMid, 2);
        b.put(Reg::LbaHigh, 0);
        b.put(Reg::Device, 0xa3);
        b.put(Reg::Status, 0x20);
        b.wait();
        let lba = (2 * 8 + 3) * 32 + 4_u32;
        assert_eq!(b.data_in(512)[..4], lba.to_le_bytes());
        b.put(Reg::LbaLow, 0);
        b.put(Reg::Status, 0x20);
        assert_eq!(b.wait(), Status::DRDY | Status::DSC | Status::ERR);
        assert_eq!(b.get(Reg::Error), 0x10, "there is no sector 0");
    }

    #[test]
    fn lba48_commands_use_both_bytes_of_each_register() {
        let mut b = Bench::new();
        b.put(Reg::Device, 0xe0);
        for (reg, hi, lo) in [
            (Reg::Count, 0, 1),
            (Reg::LbaLow, 0, 0x34),
            (Reg::LbaMid, 0, 0x12),
            (Reg::LbaHigh, 0, 0),
        ] {
            b.put(reg, hi);
            b.put(reg, lo);
        }
        b.put(Reg::Status, 0x24);
        b.wait();
        assert_eq!(b.data_in(512)[..4], 0x1234_u32.to_le_bytes());
        b.put(Reg::LbaLow, 0x77);
        b.put(Reg::LbaLow, 0x88);
        b.dev.write(CONTROL_BANK, 0, 1, 0x80).unwrap();
        assert_eq!(b.get(Reg::LbaLow), 0x77);
        b.dev.write(CONTROL_BANK, 0, 1, 0).unwrap();
        assert_eq!(b.get(Reg::LbaLow), 0x88);
        // The highest address byte is far outside this disk.
        b.put(Reg::LbaHigh, 1);
        b.put(Reg::LbaHigh, 0);
        b.put(Reg::Status, 0x24);
        assert!(b.wait().contains(Status::ERR));
    }

    #[test]
    fn reads_past_the_end_and_unknown_commands_end_with_an_error_and_an_interrupt() {
        let mut b = Bench::new();
        let status = b.command(0x20, DISK_SECTORS as u32 - 1, 2);
        assert!(status.contains(Status::ERR) && b.irq.level());
        b.get(Reg::Status);
        assert!(b.command(0xfe, 0, 0).contains(Status::ERR));
        assert_eq!(b.get(Reg::Error), 4);
        assert!(!b.command(0x40, DISK_SECTORS as u32 - 1, 1).contains(Status::ERR), "verify");
    }

    #[test]
    fn nien_silences_the_line_and_srst_brings_the_signature_back() {
        let mut b = Bench::new();
        b.dev.write(CONTROL_BANK, 0, 1, 2).unwrap();
        b.command(0xec, 0, 0);
        assert!(!b.irq.level());
        b.dev.write(CONTROL_BANK, 0, 1, 0).unwrap();
        assert!(b.irq.level());
        b.dev.write(CONTROL_BANK, 0, 1, 4).unwrap();
        assert_eq!(b.alt_status(), Status::BSY);
        b.dev.write(CONTROL_BANK, 0, 1, 0).unwrap();
        assert_eq!((b.alt_status(), b.irq.level()), (Status::DRDY | Status::DSC, false));
        assert_eq!((b.get(Reg::Count), b.get(Reg::LbaLow)), (1, 1));
    }

    #[test]
    fn a_reset_forgets_the_operation_in_flight() {
        let mut b = Bench::new();
        b.put(Reg::Count, 1);
        b.put(Reg::Device, 0xe0);
        b.put(Reg::Status, 0x20);
        assert!(b.dev.due().is_some());
        b.dev.write(CONTROL_BANK, 0, 1, 4).unwrap();
        b.dev.write(CONTROL_BANK, 0, 1, 0).unwrap();
        assert!(b.dev.due().is_none());
        assert_eq!(b.alt_status(), Status::DRDY | Status::DSC);
    }

    #[test]
    fn a_read_in_flight_survives_a_snapshot() {
        let mut b = Bench::new();
        b.put(Reg::Count, 1);
        b.put(Reg::LbaLow, 9);
        b.put(Reg::Device, 0xe0);
        b.put(Reg::Status, 0x20);
        let blob = b.dev.save();
        let mut other = Bench::new();
        other.dev.restore(&blob).unwrap();
        assert_eq!(other.dev.save(), blob);
        other.wait();
        assert!(other.irq.level());
        assert_eq!(other.data_in(512)[..4], 9_u32.to_le_bytes());
    }

    #[test]
    fn an_empty_channel_reads_zeros() {
        let io = DriveIo::detached(Vec::new(), Clock::default(), Latency::new(true));
        let mut dev = IsaIde::new([None, None], io, IrqLine::open());
        dev.write(COMMAND_BANK, 6, 1, 0xa0).unwrap();
        dev.write(COMMAND_BANK, 7, 1, 0xec).unwrap();
        assert_eq!((dev.read(COMMAND_BANK, 7, 1), dev.read(CONTROL_BANK, 0, 1)), (Ok(0), Ok(0)));
    }

    #[test]
    fn a_packet_read_comes_in_blocks_no_longer_than_the_host_asked_for() {
        let mut b = Bench::new();
        let status = b.packet(3000, &[0x28, 0, 0, 0, 0, 16, 0, 0, 2]);
        assert!(status.contains(Status::DRQ) && b.irq.level());
        assert_eq!(b.get(Reg::Count) & 3, 2, "data towards the host");
        let n = usize::from(b.get(Reg::LbaMid)) | usize::from(b.get(Reg::LbaHigh)) << 8;
        assert_eq!(n, 3000);
        let mut data = b.data_in(n);
        b.wait();
        let n = usize::from(b.get(Reg::LbaMid)) | usize::from(b.get(Reg::LbaHigh)) << 8;
        data.extend(b.data_in(n));
        assert_eq!(data.len(), 4096);
        assert_eq!((data[0], data[2048]), (16, 17));
        assert_eq!((b.wait(), b.get(Reg::Count) & 3), (Status::DRDY | Status::DSC, 3));
    }

    #[test]
    fn a_refused_packet_shows_its_sense_key_in_the_error_register() {
        let mut b = Bench::new();
        let status = b.packet(2048, &[0x28, 0, 0, 0, 1, 0, 0, 0, 1]);
        assert!(status.contains(Status::ERR));
        assert_eq!(b.get(Reg::Error) >> 4, 5);
        b.packet(18, &[3, 0, 0, 0, 18]);
        let sense = b.data_in(18);
        assert_eq!((sense[2], sense[12]), (5, 0x21));
    }

    #[test]
    fn identify_on_a_packet_device_aborts_with_its_signature() {
        let mut b = Bench::new();
        b.put(Reg::Device, 0xb0);
        b.put(Reg::Status, 0xec);
        assert!(b.wait().contains(Status::ERR));
        assert_eq!((b.get(Reg::LbaMid), b.get(Reg::LbaHigh)), (0x14, 0xeb));
        b.put(Reg::Status, 0xa1);
        assert!(b.wait().contains(Status::DRQ));
        let id = b.data_in(512);
        assert_eq!(u16::from_le_bytes([id[0], id[1]]), 0x85c0);
    }

    #[test]
    fn smart_says_that_all_is_well() {
        let mut b = Bench::new();
        b.put(Reg::Error, 0xda);
        assert!(!b.command(0xb0, 0xc2_4f00, 0).contains(Status::ERR));
        assert_eq!((b.get(Reg::LbaMid), b.get(Reg::LbaHigh)), (0x4f, 0xc2));
        b.put(Reg::Error, 0xd0);
        assert!(b.command(0xb0, 0xc2_4f00, 0).contains(Status::DRQ));
        let sum = b.data_in(512).iter().fold(0_u8, |a, &b| a.wrapping_add(b));
        assert_eq!(sum, 0);
    }

    #[test]
    fn the_last_address_is_a_number_or_a_place_as_the_device_register_says() {
        let mut b = Bench::new();
        let place =
            |b: &mut Bench| [Reg::LbaLow, Reg::LbaMid, Reg::LbaHigh, Reg::Device].map(|r| b.get(r));
        b.command(0xf8, 0, 0);
        assert_eq!(place(&mut b), [0x1f, 0x4e, 0, 0xe0], "sector 19999");
        // A geometry without sectors is refused and changes nothing.
        b.put(Reg::Device, 0xa0);
        b.put(Reg::Count, 0);
        b.put(Reg::Status, 0x91);
        assert_eq!(b.get(Reg::Error), 4);
        b.put(Reg::Device, 0xa0);
        b.put(Reg::Status, 0xf8);
        assert_eq!(place(&mut b), [63, 18, 0, 0xaf], "19 whole cylinders");
    }

    orrery_system::conformance!(
        Bench::new().dev,
        [(COMMAND_BANK, Reg::TABLE), (CONTROL_BANK, Control::TABLE)]
    );
}
