//! Mass storage by bulk transfers only (`usb-storage`, `usb-bot`): SCSI units behind two endpoints.
//!
//! Reference: USB Mass Storage Class, Bulk-Only Transport 1.0.
//!
//! The units are logical units of target 0. Data that ends before the host has all it asked for ends with a short
//! packet and counts as residue; no endpoint is halted for that (6.7.2 allows both).

use super::descriptor::{Configuration, Description, Endpoint, Interface, Layout, Speed, Transfer};
use super::device::{Function, In, Out, Setup};
use super::exchange::{Exchange, Unit};
use crate::scsi::{Address, Bus, BusState, status};
use orrery_system::{RestoreError, VmTime};
use serde::{Deserialize, Serialize};

/// Signatures of the wrappers, 5.1 and 5.2.
const COMMAND: u32 = u32::from_le_bytes(*b"USBC");
const STATUS: u32 = u32::from_le_bytes(*b"USBS");
/// Bytes of a command wrapper.
const WRAPPER: usize = 31;

/// Status of a command wrapper, table 5.3.
mod result {
    pub(super) const PASSED: u8 = 0;
    pub(super) const FAILED: u8 = 1;
    pub(super) const PHASE: u8 = 2;
}

/// Requests of the class, chapter 3.
mod request {
    pub(super) const RESET: u8 = 0xff;
    pub(super) const MOST_LUN: u8 = 0xfe;
}

/// Settings fixed when the machine is built.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Serial number.
    pub serial: Option<String>,
}

/// What the host is to do next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
enum Phase {
    #[default]
    Command,
    /// Data, to the host or from it.
    Data {
        input: bool,
    },
    Status,
}

/// Everything the guest can observe.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    phase: Phase,
    tag: u32,
    /// Bytes that the host yet expects to move, and those of them that mean nothing.
    left: u32,
    residue: u32,
    command: Exchange,
    bus: Option<BusState>,
}

/// The device.
pub struct Storage {
    config: Config,
    bus: Bus,
    state: State,
}

impl Storage {
    /// A device with the units of `bus`.
    pub fn new(config: Config, bus: Bus) -> Self {
        Self { config, bus, state: State::default() }
    }

    /// The highest logical unit.
    fn most_lun(&self) -> u8 {
        self.bus.units().map(|at| at.lun.min(15) as u8).max().unwrap_or(0)
    }

    /// Forgets the command, and is ready for the next.
    fn forget(&mut self) {
        self.bus.abort_units(|_| true);
        self.state = State::default();
    }

    /// A command wrapper.
    fn command(&mut self, b: &[u8; WRAPPER]) -> Out {
        let word = |at: usize| u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
        let len = usize::from(b[14]);
        if word(0) != COMMAND || !(1..=16).contains(&len) || b[13] & 0xf0 != 0 {
            return Out::Stall;
        }
        let s = &mut self.state;
        (s.tag, s.left) = (word(4), word(8));
        s.residue = s.left;
        s.phase = match s.left {
            0 => Phase::Status,
            _ => Phase::Data { input: b[12] & 0x80 != 0 },
        };
        let at = Address::new(0, b[13].into());
        self.state.command = Exchange::start(&mut self.bus, at, &b[15..15 + len]);
        Out::Ack
    }

    /// Gives the unit what it waits for, as far as that has come.
    fn supply(&mut self) {
        let all = self.state.phase != Phase::Data { input: false };
        self.state.command.supply(&mut self.bus, all);
    }

    fn data_in(&mut self, max: usize) -> In {
        let need = max.min(self.state.left as usize);
        let Some(data) = self.state.command.take(&mut self.bus, need) else { return In::Nak };
        let n = data.len();
        self.state.left -= n as u32;
        self.state.residue -= n as u32;
        if n < max || self.state.left == 0 {
            self.state.phase = Phase::Status;
        }
        In::Data(data)
    }

    fn data_out(&mut self, data: &[u8]) -> Out {
        if self.state.command.unit == Unit::Busy {
            return Out::Nak;
        }
        let n = data.len().min(self.state.left as usize);
        self.state.left -= n as u32;
        // Once the command is over, what comes yet is residue.
        if let Unit::Takes(_) = self.state.command.unit {
            self.state.residue -= n as u32;
            self.state.command.buffer.extend(&data[..n]);
        }
        if self.state.left == 0 {
            self.state.phase = Phase::Status;
        }
        self.supply();
        Out::Ack
    }

    fn status(&mut self) -> In {
        self.state.command.drain(&mut self.bus);
        let how = match self.state.command.unit {
            Unit::Busy => return In::Nak,
            Unit::Over(status::GOOD) => result::PASSED,
            Unit::Over(_) => result::FAILED,
            // It would move more than the host expects, or the other way.
            Unit::Gives | Unit::Takes(_) => {
                self.state.command.stop(&mut self.bus);
                result::PHASE
            }
        };
        let mut b = STATUS.to_le_bytes().to_vec();
        b.extend(self.state.tag.to_le_bytes());
        b.extend(self.state.residue.to_le_bytes());
        b.push(how);
        self.state = State::default();
        In::Data(b)
    }
}

/// What a device for storage says of itself: the same but for its interfaces, which depend on the speed.
pub(super) fn description(
    product: &str,
    serial: Option<&str>,
    interfaces: impl Fn(Speed) -> Vec<Interface>,
) -> Description {
    let layout = |(speed, packet)| Layout {
        speed,
        packet,
        configurations: vec![Configuration {
            self_powered: true,
            current: 0,
            ..Configuration::new(interfaces(speed))
        }],
    };
    let layouts = [(Speed::Full, 8), (Speed::High, 64), (Speed::Super, 512)].map(layout).into();
    Description {
        vendor: 0x46f4,
        product: 0x0001,
        release: 0,
        class: [0; 3],
        strings: vec!["QEMU".into(), product.into(), serial.unwrap_or("1").into()],
        layouts,
    }
}

/// Largest packet of a bulk endpoint.
pub(super) const fn bulk_packet(speed: Speed) -> u16 {
    match speed {
        Speed::Low | Speed::Full => 64,
        Speed::High => 512,
        Speed::Super => 1024,
    }
}

impl Function for Storage {
    type State = State;
    const NAME: &'static str = "usb-storage";
    const HOST_IO: bool = true;

    fn description(&self) -> Description {
        description("QEMU USB HARDDRIVE", self.config.serial.as_deref(), |speed| {
            let burst = if speed == Speed::Super { 15 } else { 0 };
            let bulk = |address| Endpoint {
                burst,
                ..Endpoint::new(address, Transfer::Bulk, bulk_packet(speed), 0)
            };
            // SCSI, by bulk transfers only.
            vec![Interface {
                class: [8, 6, 0x50],
                endpoints: vec![bulk(0x81), bulk(0x02)],
                ..Interface::default()
            }]
        })
    }

    fn save(&self) -> State {
        State { bus: Some(self.bus.save()), ..self.state.clone() }
    }

    fn restore(&mut self, state: State) -> Result<(), RestoreError> {
        let Some(bus) = state.bus.clone() else {
            return Err(RestoreError::Invalid("storage without units"));
        };
        self.bus.restore(bus)?;
        self.state = State { bus: None, ..state };
        Ok(())
    }

    fn reset(&mut self, _: Speed) {
        self.bus.reset();
        self.state = State::default();
    }

    fn request_in(&mut self, s: Setup) -> Option<Vec<u8>> {
        ((s.kind, s.request) == (0xa1, request::MOST_LUN)).then(|| vec![self.most_lun()])
    }

    fn request_out(&mut self, s: Setup, _: &[u8]) -> bool {
        let reset = (s.kind, s.request) == (0x21, request::RESET);
        if reset {
            self.forget();
        }
        reset
    }

    fn input(&mut self, _: u8, max: usize) -> In {
        match self.state.phase {
            Phase::Data { input: true } => self.data_in(max),
            Phase::Status if max >= 13 => self.status(),
            _ => In::Stall,
        }
    }

    fn output(&mut self, _: u8, data: &[u8]) -> Out {
        match (self.state.phase, <&[u8; WRAPPER]>::try_from(data)) {
            (Phase::Command, Ok(wrapper)) => self.command(wrapper),
            (Phase::Data { input: false }, _) => self.data_out(data),
            _ => Out::Stall,
        }
    }

    fn due(&self) -> Option<VmTime> {
        self.bus.due()
    }

    fn ready(&self) -> bool {
        self.bus.ready()
    }

    fn deliver(&mut self, now: VmTime) {
        while let Some((id, step)) = self.bus.take(now) {
            if self.state.command.arrived(id, step) {
                self.supply();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scsi::{Kind, UnitConfig, sbc};
    use crate::usb::device::{Attached, Peripheral};
    use orrery_block::backend::BlockBackend;
    use orrery_system::time::{Clock, Latency};

    fn device() -> Peripheral<Storage> {
        let content: Vec<u8> = (0..0x8_0000_u32).flat_map(u32::to_le_bytes).collect();
        let unit = UnitConfig {
            at: Address::new(0, 0),
            kind: Kind::Disk(sbc::Config::default()),
            backend: BlockBackend::ram(content),
        };
        let bus = Bus::detached(vec![unit], Clock::default(), Latency::new(false));
        let mut d = Peripheral::new(Storage::new(Config::default(), bus));
        Attached::reset(&mut d, Speed::High);
        d.setup([0, 9, 1, 0, 0, 0, 0, 0]);
        assert_eq!(d.input(0, 0), In::Data(vec![]));
        d
    }

    fn wrapper(len: u32, input: bool, cdb: &[u8]) -> Vec<u8> {
        let mut b = COMMAND.to_le_bytes().to_vec();
        b.extend([1, 2, 3, 4]);
        b.extend(len.to_le_bytes());
        b.extend([u8::from(input) << 7, 0, cdb.len() as u8]);
        b.extend(cdb);
        b.resize(WRAPPER, 0);
        b
    }

    fn wait(d: &mut Peripheral<Storage>) {
        while d.function.ready() {
            d.function.deliver(VmTime::NEVER);
        }
    }

    /// A command: its data, residue and status.
    fn command(
        d: &mut Peripheral<Storage>,
        cdb: &[u8],
        out: &[u8],
        want: u32,
    ) -> (Vec<u8>, u32, u8) {
        let input = out.is_empty();
        let len = if input { want } else { out.len() as u32 };
        assert_eq!(d.output(2, &wrapper(len, input, cdb)), Out::Ack);
        let mut data = Vec::new();
        for part in out.chunks(512) {
            while d.output(2, part) == Out::Nak {
                wait(d);
            }
        }
        loop {
            match d.input(1, 512) {
                In::Nak => wait(d),
                In::Data(b) if b.starts_with(b"USBS") && b.len() == 13 => {
                    assert_eq!(b[4..8], [1, 2, 3, 4]);
                    let residue = u32::from_le_bytes([b[8], b[9], b[10], b[11]]);
                    return (data, residue, b[12]);
                }
                In::Data(b) => data.extend(b),
                In::Stall => panic!("halted"),
            }
        }
    }

    #[test]
    fn blocks_are_read_and_written_with_their_tags() {
        let mut d = device();
        assert_eq!(command(&mut d, &[0; 6], &[], 0), (vec![], 0, result::FAILED), "power-on");
        let (data, residue, how) = command(&mut d, &[3, 0, 0, 0, 18, 0], &[], 18);
        assert_eq!((data.len(), data[2], data[12], residue, how), (18, 6, 0x29, 0, 0));
        // More than a piece of the medium, so that it is read in steps.
        let (data, residue, how) =
            command(&mut d, &[0x28, 0, 0, 0, 0, 1, 0, 4, 0, 0], &[], 0x400 * 512);
        assert_eq!((data.len(), residue, how), (0x400 * 512, 0, result::PASSED));
        let number = |at: usize| u32::from_le_bytes(data[at..at + 4].try_into().unwrap());
        assert_eq!((number(0), number(0x7_fffc)), (0x80, 0x2_007f));
        let out: Vec<u8> = (0..0x300 * 512_u32).map(|i| (i / 7) as u8).collect();
        assert_eq!(command(&mut d, &[0x2a, 0, 0, 0, 0, 9, 0, 3, 0, 0], &out, 0).2, 0);
        let cdb = [0x28, 0, 0, 0, 0, 9, 0, 3, 0, 0];
        assert!(command(&mut d, &cdb, &[], 0x300 * 512).0 == out);
    }

    #[test]
    fn what_does_not_come_is_residue() {
        let mut d = device();
        command(&mut d, &[0; 6], &[], 0);
        let (data, residue, how) = command(&mut d, &[0x12, 0, 0, 0, 36, 0], &[], 255);
        assert_eq!((data.len(), residue, how), (36, 255 - 36, result::PASSED));
        // Past the end of the medium: nothing comes, and it failed.
        let cdb = [0x28, 0, 0, 1, 0, 0, 0, 0, 1, 0];
        assert_eq!(command(&mut d, &cdb, &[], 512), (vec![], 512, result::FAILED));
        let cdb = [0x2a, 0, 0, 1, 0, 0, 0, 0, 2, 0];
        assert_eq!(command(&mut d, &cdb, &[7; 1024], 0), (vec![], 1024, result::FAILED));
        // The unit has more than the host asks for.
        let (data, _, how) = command(&mut d, &[0x28, 0, 0, 0, 0, 0, 0, 0, 2, 0], &[], 512);
        assert_eq!((data.len(), how), (512, result::PHASE));
    }

    #[test]
    fn what_is_no_command_halts_until_it_is_reset() {
        let mut d = device();
        assert_eq!(d.output(2, &[0; WRAPPER]), Out::Stall);
        assert_eq!(d.output(2, &wrapper(0, false, &[0; 6])), Out::Stall, "halted");
        for setup in [[0x21, 0xff, 0, 0, 0, 0, 0, 0], [2, 1, 0, 0, 2, 0, 0, 0]] {
            d.setup(setup);
            assert_eq!(d.input(0, 0), In::Data(vec![]));
        }
        assert_eq!(command(&mut d, &[0; 6], &[], 0).2, result::FAILED);
        d.setup([0xa1, 0xfe, 0, 0, 0, 0, 1, 0]);
        assert_eq!(d.input(0, 64), In::Data(vec![0]), "one unit");
    }
}
