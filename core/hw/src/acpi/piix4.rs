//! Intel 82371AB (PIIX4) power management function: ACPI registers, APM ports and SMBus.
//!
//! Reference: Intel 290562-001, chapter 7. The general-purpose event block is not in the
//! function's own I/O window but at AFE0, where the machine's ACPI tables say it is.
//!
//! Not modelled: device monitors, clock throttling, the burst and global standby timers.

use super::hotplug::{self, Slots};
use super::pm::{Apm, Gpe, Pm, Sleep};
use super::smbus::{Eeprom, Smbus};
use super::{Events, WAKE_BANK};
use crate::pci;
use orrery_system::pins::{Power, PowerRequest};
use orrery_system::{
    Board, BusError, BusResult, Clock, DeviceId, IrqLine, Region, RestoreError, Timer, VmTime,
};
use serde::{Deserialize, Serialize};

/// Bank of the power management window (64 ports).
pub const PM: u32 = 0;
/// Bank of the general-purpose event block (4 ports).
pub const GPE: u32 = 1;
/// Bank of ports B2 and B3.
pub const APM: u32 = 2;
/// Bank of the SMBus window (16 ports).
pub const SMB: u32 = 3;
/// Bank of the hot-plug registers (20 ports).
pub const SLOTS: u32 = 4;

/// Where the general-purpose event block is.
pub const GPE_PORT: u64 = 0xafe0;
/// Bytes in each half of it.
const GPE_LEN: u64 = 2;

/// Base of the power management window.
const PMBA: usize = 0x40;
/// Device activity B: bit 25 lets port B2 raise an SMI.
const DEVACTB: usize = 0x58;
/// Bit 0 opens the power management window.
const PMREGMISC: usize = 0x80;
/// Base of the SMBus window.
const SMBBA: usize = 0x90;
/// Bit 0 opens the SMBus window.
const SMBHSTCFG: usize = 0xd2;

const IDENTITY: pci::Identity = pci::Identity {
    vendor: 0x8086,
    device: 0x7113,
    revision: 0x03,
    class: 0x06_80_00,
    subsystem: pci::Identity::SUBSYSTEM,
    pin: 1,
};

/// Settings fixed when the machine is built.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// The machine has no system management mode: firmware finds it set up already.
    pub no_smm: bool,
    /// Serial presence detect of each memory module.
    pub spd: Vec<Vec<u8>>,
}

/// Pins and services the machine wires up.
pub struct Wires {
    /// System control interrupt, to IRQ 9.
    pub sci: IrqLine,
    /// SMI#.
    pub smi: IrqLine,
    /// What makes PM1 events.
    pub events: Events,
    /// Where sleep states go.
    pub power: Power,
    /// Virtual time.
    pub clock: Clock,
    /// Wake-up for the PM timer.
    pub timer: Timer,
    /// The bus on which devices come and go.
    pub bus: pci::Bus,
    /// The power management window.
    pub pm: Region,
    /// The SMBus window.
    pub smb: Region,
}

/// Everything the guest can observe, but for the configuration space.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    pm: Pm,
    gpe: Gpe,
    apm: Apm,
    smbus: Smbus,
    slots: Slots,
}

/// The device.
pub struct Piix4Pm {
    config: Config,
    wires: Wires,
    state: State,
}

/// What the machine keeps of the function.
pub struct Built {
    /// The device.
    pub id: DeviceId,
    /// The power management window, whose base firmware chooses.
    pub pm: Region,
}

/// Puts the function at `devfn`, its ports into the board's map.
pub fn build(
    board: &mut Board,
    bus: &pci::Bus,
    devfn: u8,
    config: Config,
    sci: IrqLine,
    events: Events,
) -> Built {
    let id = board.reserve("PIIX4_PM");
    let pci = function(board, bus, devfn, id, &config);
    let regions = board.regions();
    let (pm, smb) =
        (regions.device("piix4-pm", 64, id, PM), regions.device("pm-smbus", 16, id, SMB));
    for r in [&pm, &smb] {
        r.set_enabled(false);
        board.io().add_priority(0, 1, r);
    }
    board.io().add(GPE_PORT, &regions.device("acpi-gpe0", 2 * GPE_LEN, id, GPE));
    board.io().add(hotplug::PORT, &regions.device("acpi-pci-hotplug", hotplug::LEN, id, SLOTS));
    bus.set_hotplug(id);
    board.io().add(0xb2, &regions.device("apm", 2, id, APM));
    let wires = Wires {
        sci,
        smi: board.pins(0).smi.pin(),
        events,
        power: board.power(),
        clock: board.clock(),
        timer: board.timer(id, 0),
        bus: bus.clone(),
        pm: pm.clone(),
        smb,
    };
    board.attach(id, Box::new(pci::Card::new(pci, Piix4Pm::new(config, wires))));
    Built { id, pm }
}

fn function(
    board: &Board,
    bus: &pci::Bus,
    devfn: u8,
    id: DeviceId,
    config: &Config,
) -> pci::Function {
    let devactb = if config.no_smm { 0x0200_0000 } else { 0 };
    pci::Builder::new(board, bus, id, IDENTITY)
        .status(0x0280)
        .register(pci::reg::INTERRUPT_LINE, 1, 9, 0xff)
        .register(PMBA, 4, 1, 0xffc0)
        .register(0x44, 4, 0, u32::MAX)
        .register(0x48, 4, 0, u32::MAX)
        .register(0x4c, 4, 0, u32::MAX)
        .register(0x50, 4, 0, u32::MAX)
        .register(0x54, 4, 0, u32::MAX)
        .register(DEVACTB, 4, devactb, u32::MAX)
        .register(0x5c, 4, 0, u32::MAX)
        .register(0x60, 4, 0, u32::MAX)
        .register(0x64, 4, 0, u32::MAX)
        .register(0x68, 4, 0, u32::MAX)
        .register(0x6c, 4, 0, u32::MAX)
        .register(0x70, 4, 0, u32::MAX)
        .register(0x74, 4, 0, u32::MAX)
        .register(0x78, 4, 0, u32::MAX)
        .register(PMREGMISC, 1, 0, 1)
        .register(SMBBA, 4, 1, 0xfff0)
        .register(SMBHSTCFG, 1, 0, 0x0f)
        .build(devfn)
}

impl State {
    fn power_on(config: &Config, now: VmTime) -> Self {
        let module = |(i, spd): (usize, &Vec<u8>)| Eeprom::new(0x50 + i as u8, spd.clone());
        Self {
            pm: Pm::power_on(now),
            gpe: Gpe::default(),
            apm: Apm::default(),
            slots: Slots::default(),
            smbus: Smbus::power_on(config.spd.iter().enumerate().map(module).collect()),
        }
    }
}

impl Piix4Pm {
    fn new(config: Config, wires: Wires) -> Self {
        let state = State::power_on(&config, wires.clock.now());
        Self { config, wires, state }
    }

    fn command(&mut self, slot: &pci::Slot<'_>, command: u8) {
        // The values that the FADT gives for ACPI_ENABLE and ACPI_DISABLE.
        match command {
            0xf1 => self.state.pm.set_acpi_mode(true),
            0xf0 => self.state.pm.set_acpi_mode(false),
            _ => {}
        }
        if slot.config.u32(DEVACTB) & 0x0200_0000 != 0 && !self.config.no_smm {
            self.wires.smi.pulse();
        }
    }
}

/// Asks the machine for a sleep state.
pub(crate) fn request(power: &Power, sleep: Option<Sleep>) {
    match sleep {
        Some(Sleep::Off) => power.request(PowerRequest::Shutdown),
        Some(Sleep::Suspend) => power.request(PowerRequest::Suspend),
        None => {}
    }
}

impl pci::Chip for Piix4Pm {
    type State = State;
    const NAME: &'static str = "PIIX4_PM";
    const VERSION: u16 = 2;
    const SETTLES: bool = true;

    fn reset(&mut self) {
        self.state = State::power_on(&self.config, self.wires.clock.now());
    }

    fn save(&self) -> State {
        self.state.clone()
    }

    fn restore(&mut self, state: State) -> Result<(), RestoreError> {
        if !state.smbus.is_valid() {
            return Err(RestoreError::Invalid("SMBus controller"));
        }
        self.state = state;
        Ok(())
    }

    /// The SCI has its own wire; the function's INTA# is not used.
    fn drive(&mut self, slot: &mut pci::Slot<'_>) -> bool {
        let (s, c) = (&self.state, &*slot.config);
        self.wires.pm.set_base(u64::from(c.u16(PMBA) & 0xffc0));
        self.wires.pm.set_enabled(c.u8(PMREGMISC) & 1 != 0 && c.u16(PMBA) & 0xffc0 != 0);
        self.wires.smb.set_base(u64::from(c.u16(SMBBA) & 0xfff0));
        self.wires.smb.set_enabled(c.command().io() && c.u8(SMBHSTCFG) & 1 != 0);
        self.wires.sci.set(s.pm.sci() || s.pm.acpi_mode() && s.gpe.sci());
        self.wires.timer.set(s.pm.deadline());
        false
    }

    fn settle(&mut self, slot: &mut pci::Slot<'_>) {
        if self.wires.events.take(&mut self.state.pm) {
            self.drive(slot);
        }
    }

    fn wake(&mut self, _: &mut pci::Slot<'_>, now: VmTime) {
        self.state.pm.catch_up(now);
    }

    fn read(&mut self, _: &mut pci::Slot<'_>, bank: u32, offset: u64, width: u8) -> BusResult<u64> {
        match bank {
            PM => self.state.pm.read(offset, width, self.wires.clock.now()),
            GPE => self.state.gpe.read(GPE_LEN, offset, width),
            APM => self.state.apm.read(offset, width),
            SMB => self.state.smbus.read(offset, width),
            SLOTS => self.state.slots.read(&self.wires.bus, offset, width),
            WAKE_BANK => Ok(self.state.pm.wakes().into()),
            _ => Err(BusError::NoRegister),
        }
    }

    fn write(
        &mut self,
        slot: &mut pci::Slot<'_>,
        bank: u32,
        offset: u64,
        width: u8,
        value: u64,
    ) -> BusResult<()> {
        match bank {
            PM => {
                let sleep = self.state.pm.write(offset, width, value, self.wires.clock.now())?;
                request(&self.wires.power, sleep);
            }
            GPE => self.state.gpe.write(GPE_LEN, offset, width, value)?,
            APM => {
                if self.state.apm.write(offset, width, value)? {
                    self.command(slot, self.state.apm.command());
                }
            }
            SMB => self.state.smbus.write(offset, width, value)?,
            SLOTS => {
                let Wires { bus, power, .. } = &self.wires;
                self.state.slots.write(bus, power, offset, width, value)?;
            }
            pci::PLUG_BANK => {
                if self.state.slots.told(offset, value as u8) {
                    self.state.gpe.raise(hotplug::EVENT);
                }
            }
            WAKE_BANK => self.state.pm.wake(value as u16),
            _ => return Err(BusError::NoRegister),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orrery_system::IrqInput;
    use orrery_system::board::BoardConfig;

    struct Bench {
        board: Board,
        sci: IrqInput,
        button: IrqLine,
        bus: pci::Bus,
        id: DeviceId,
    }

    impl Bench {
        fn new(config: Config) -> Self {
            let mut board = Board::new(BoardConfig { ram_capacity: 0, ..BoardConfig::default() });
            let bus = pci::Bus::simple(&board);
            let (sci, button) = (board.wire(), board.wire());
            let (line, pin) = (sci.pin(), button.pin());
            let events = Events { power_button: button, rtc: board.wire() };
            let id = build(&mut board, &bus, pci::devfn(1, 3), config, line, events).id;
            board.settle();
            bus.solder(|_| false);
            let mut b = Self { board, sci, button: pin, bus, id };
            b.config(PMBA, 4, 0x0601);
            b.config(PMREGMISC, 1, 1);
            b
        }

        fn config(&mut self, at: usize, width: u8, value: u64) {
            self.board.device_write(self.id, pci::CONFIG_BANK, at as u64, width, value);
        }
    }

    #[test]
    fn the_window_is_where_firmware_puts_it() {
        let mut b = Bench::new(Config::default());
        b.board.warp_to(VmTime(1_000_000_000));
        assert_eq!(b.board.port_in(0x608, 4), 3_579_545);
        b.config(PMBA, 4, 0xb001);
        assert_eq!(b.board.port_in(0x608, 4), u32::MAX);
        assert_eq!(b.board.port_in(0xb008, 4), 3_579_545);
    }

    #[test]
    fn acpi_mode_is_entered_through_the_command_port_and_the_button_raises_the_sci() {
        let mut b = Bench::new(Config::default());
        b.board.port_out(0xb2, 1, 0xf1);
        assert_eq!(b.board.port_in(0x604, 2), 1);
        b.board.port_out(0x602, 2, 0x100);
        b.button.pulse();
        b.board.settle();
        assert!(b.sci.level());
        b.board.port_out(0x600, 2, 0x100);
        assert!(!b.sci.level());
    }

    #[test]
    fn the_command_port_raises_an_smi_only_if_allowed_to() {
        let mut b = Bench::new(Config::default());
        b.board.port_out(0xb2, 1, 0);
        assert!(!b.board.pins(0).smi.take_edge());
        b.config(DEVACTB, 4, 0x0200_0000);
        b.board.port_out(0xb2, 1, 0);
        assert!(b.board.pins(0).smi.take_edge());
    }

    #[test]
    fn soft_off_asks_for_power_off() {
        let mut b = Bench::new(Config::default());
        b.board.port_out(0x604, 2, 0x2000);
        assert_eq!(b.board.power().take(), Some(PowerRequest::Shutdown));
        b.board.port_out(0x604, 2, 0x2400);
        assert_eq!(b.board.power().take(), Some(PowerRequest::Suspend));
    }

    #[test]
    fn a_device_that_comes_and_one_that_is_wanted_back_raise_the_event() {
        let mut b = Bench::new(Config::default());
        b.bus.insert(pci::devfn(5, 0), DeviceId(77));
        b.board.port_out(0xb2, 1, 0xf1);
        b.board.port_out(GPE_PORT as u16 + 2, 1, 2);
        b.board.device_write(b.id, pci::PLUG_BANK, pci::plug::ARRIVED, 1, 5 << 3);
        assert!(b.sci.level());
        assert_eq!([b.board.port_in(0xae00, 4), b.board.port_in(0xae00, 4)], [0x20, 0]);
        b.board.port_out(GPE_PORT as u16, 1, 2);
        assert!(!b.sci.level());
        b.board.device_write(b.id, pci::PLUG_BANK, pci::plug::WANTED, 1, 5 << 3);
        assert!(b.sci.level());
        assert_eq!([b.board.port_in(0xae00, 4), b.board.port_in(0xae04, 4)], [0, 0x20]);
        b.board.port_out(0xae08, 4, 0x22);
        assert_eq!(b.board.power().take_ejected(), [DeviceId(77)], "slot 1 is soldered");
        b.board.device_write(b.id, pci::PLUG_BANK, pci::plug::GONE, 1, 5 << 3);
        assert_eq!(b.board.port_in(0xae04, 4), 0);
        assert_eq!(b.board.port_in(0xae0c, 4), 0xffff_fffd);
        b.board.port_out(0xae10, 4, 1);
        assert_eq!(b.board.port_in(0xae0c, 4), 0, "there is no other bus");
    }

    fn device() -> pci::Card<Piix4Pm> {
        let mut board = Board::new(BoardConfig { ram_capacity: 0, ..BoardConfig::default() });
        let bus = pci::Bus::simple(&board);
        let id = board.reserve("PIIX4_PM");
        let config = Config { spd: vec![vec![7; 16]], ..Config::default() };
        let wires = Wires {
            sci: IrqLine::open(),
            smi: IrqLine::open(),
            events: Events { power_button: board.wire(), rtc: board.wire() },
            power: board.power(),
            clock: board.clock(),
            timer: Timer::default(),
            bus: bus.clone(),
            pm: board.regions().container("pm", 64),
            smb: board.regions().container("smb", 16),
        };
        let pci = function(&board, &bus, 0, id, &config);
        pci::Card::new(pci, Piix4Pm::new(config, wires))
    }

    orrery_system::conformance!(
        device(),
        [(PM, &[]), (GPE, &[]), (APM, &[]), (SMB, &[]), (SLOTS, &[]), (pci::CONFIG_BANK, &[])]
    );
}
