//! Intel 82801IB (ICH9) LPC bridge: interrupt routing, power management, reset control.
//!
//! Reference: Intel 316972-004, chapters 10 (chipset configuration), 13 (LPC bridge).
//!
//! Not modelled: GPIO beyond storage, LPC decode ranges (every port is
//! decoded), high-precision timer relocation.

use super::piix3::{route, write_reset_control};
use crate::acpi::piix4::request;
use crate::acpi::pm::{Apm, Gpe, Pm};
use crate::acpi::tco::{Outcome, Tco};
use crate::acpi::{Events, WAKE_BANK};
use crate::pci;
use orrery_system::pins::{Power, PowerRequest};
use orrery_system::{
    Board, BusError, BusResult, Clock, DeviceId, IrqInput, IrqLine, Region, RestoreError, Timer,
    VmTime,
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Bank of port CF9.
pub const RESET_CONTROL: u32 = 0;
/// Bank of the ACPI window (128 ports).
pub const PM: u32 = 1;
/// Bank of ports B2 and B3.
pub const APM: u32 = 2;
/// Bank of the chipset configuration window (16 KiB of memory).
pub const CHIPSET: u32 = 3;
/// Bank of the GPIO window (128 ports).
pub const GPIO: u32 = 4;

/// Bytes in each half of the general-purpose event block.
const GPE_LEN: u64 = 8;

/// Base of the ACPI window.
const PMBASE: usize = 0x40;
/// Bit 7 opens the ACPI window; bits 2:0 choose the SCI's interrupt.
const ACPI_CNTL: usize = 0x44;
/// Base of the GPIO window.
const GPIOBASE: usize = 0x48;
/// Bit 4 opens the GPIO window.
const GPIO_CNTL: usize = 0x4c;
/// Routes of PIRQA# to PIRQD#, and of PIRQE# to PIRQH#.
const PIRQ_ROUT: [usize; 2] = [0x60, 0x68];
/// Base of the chipset configuration window; bit 0 opens it.
const RCBA: usize = 0xf0;

/// The watchdog's registers in the ACPI window.
const TCO: std::ops::Range<u64> = 0x60..0x80;
/// The watchdog in the SMI enable and status registers.
const TCO_SMI: u32 = 1 << 13;
/// General control and status: the watchdog does not reset the machine.
const NO_REBOOT: u32 = 1 << 5;

/// Interrupt wires of the root bus: pins of devices 0 to 24 rotate over the first four, and the
/// pins of devices 25 to 31 have wires of their own, which chipset registers route.
pub const BUS_WIRES: usize = 4 + 7 * 4;

/// The root bus' pin map for [`BUS_WIRES`].
pub fn pin_map(device: u8, pin: u8) -> usize {
    match device.checked_sub(25) {
        None => usize::from(device + pin) % 4,
        Some(d) => 4 + usize::from(d) * 4 + usize::from(pin),
    }
}

/// Interrupt route registers of devices 25 to 31 in the chipset configuration window.
const DEVICE_ROUTES: [u64; 7] = [0x3150, 0x314c, 0x3148, 0x3146, 0x3144, 0x3142, 0x3140];

const IDENTITY: pci::Identity = pci::Identity {
    vendor: 0x8086,
    device: 0x2918,
    revision: 0x02,
    class: 0x06_01_00,
    subsystem: pci::Identity::SUBSYSTEM,
    pin: 0,
};

/// Settings fixed when the machine is built.
#[derive(Clone, Copy, Debug, Default)]
pub struct Config {
    /// The machine has no system management mode: firmware finds it set up already.
    pub no_smm: bool,
    /// The strap that keeps the watchdog from resetting the machine (`noreboot`).
    pub no_reboot: bool,
}

/// Pins and services the machine wires up.
pub struct Wires {
    /// The root bus' wires: [`BUS_WIRES`] of them.
    pub bus: Vec<IrqInput>,
    /// The sixteen ISA interrupts.
    pub isa: Vec<IrqLine>,
    /// I/O APIC inputs 16 to 23.
    pub apic: Vec<IrqLine>,
    /// SMI# of each CPU.
    pub smi: Vec<IrqLine>,
    /// Which CPU makes the current access.
    pub current_cpu: Arc<AtomicUsize>,
    /// What makes PM1 events.
    pub events: Events,
    /// Where resets and sleep states go.
    pub power: Power,
    /// Virtual time.
    pub clock: Clock,
    /// Wake-up for the PM timer.
    pub timer: Timer,
    /// The ACPI window.
    pub pm: Region,
    /// The GPIO window.
    pub gpio: Region,
    /// The chipset configuration window.
    pub chipset: Region,
}

/// Everything the guest can observe, but for the configuration space.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    reset_control: u8,
    pm: Pm,
    gpe: Gpe,
    apm: Apm,
    smi_enable: u32,
    smi_status: u32,
    tco: Tco,
    gpio: Vec<u8>,
    /// Routes of devices 25 to 31: a nibble for each pin.
    routes: [u16; 7],
    /// General control and status at 3410.
    gcs: u32,
}

/// The device.
pub struct Ich9Lpc {
    config: Config,
    wires: Wires,
    state: State,
}

/// Puts the bridge at `devfn`, its windows and ports into the board's maps; gives the ACPI
/// window, whose base firmware chooses. The host bridge takes port CF9 to bank
/// [`RESET_CONTROL`]; `id` was reserved for that.
#[expect(clippy::too_many_arguments, reason = "each is a wire")]
pub fn build(
    board: &mut Board,
    bus: &pci::Bus,
    devfn: u8,
    id: DeviceId,
    config: Config,
    isa: Vec<IrqLine>,
    apic: Vec<IrqLine>,
    events: Events,
) -> Region {
    let pci = function(board, bus, devfn, id);
    let regions = board.regions();
    let pm = regions.device("ich9-pm", 128, id, PM);
    let gpio = regions.device("ich9-gpio", 128, id, GPIO);
    let chipset = regions.device("ich9-cc", 0x4000, id, CHIPSET);
    for r in [&pm, &gpio] {
        r.set_enabled(false);
        board.io().add_priority(0, 1, r);
    }
    chipset.set_enabled(false);
    board.memory().add_priority(0, 1, &chipset);
    board.io().add(0xb2, &regions.device("apm", 2, id, APM));
    let wires = Wires {
        bus: bus.wires().to_vec(),
        isa,
        apic,
        smi: (0..board.cpus()).map(|i| board.pins(i).smi.pin()).collect(),
        current_cpu: board.current_cpu(),
        events,
        power: board.power(),
        clock: board.clock(),
        timer: board.timer(id, 0),
        pm: pm.clone(),
        gpio,
        chipset,
    };
    board.attach(id, Box::new(pci::Card::new(pci, Ich9Lpc::new(config, wires))));
    pm
}

fn function(board: &Board, bus: &pci::Bus, devfn: u8, id: DeviceId) -> pci::Function {
    pci::Builder::new(board, bus, id, IDENTITY)
        .status(0x0200)
        .fixed_command(0x0007)
        .multifunction()
        .register(PMBASE, 4, 1, 0xff80)
        .register(ACPI_CNTL, 1, 0, 0x87)
        .register(GPIOBASE, 4, 1, 0xff80)
        .register(GPIO_CNTL, 1, 0, 0x11)
        .register(PIRQ_ROUT[0], 4, 0x8080_8080, 0x8f8f_8f8f)
        .register(0x64, 1, 0x10, 0xff)
        .register(PIRQ_ROUT[1], 4, 0x8080_8080, 0x8f8f_8f8f)
        .register(0x80, 2, 0, 0x1377)
        .register(0x82, 2, 0, 0x3f0f)
        .register(0x84, 4, 0, 0xfc_fffd)
        .register(0x88, 4, 0, 0xfc_fffd)
        .register(0x8c, 4, 0, 0xfc_fffd)
        .register(0x90, 4, 0, 0xfc_fffd)
        .register(0xa0, 2, 0, 0x0fff)
        .register(0xa4, 1, 0, 0xff)
        .register(RCBA, 4, 0, 0xffff_c001)
        .build(devfn)
}

impl State {
    fn power_on(now: VmTime) -> Self {
        Self {
            reset_control: 0,
            pm: Pm::power_on(now),
            gpe: Gpe::default(),
            apm: Apm::default(),
            smi_enable: 0,
            smi_status: 0,
            tco: Tco::power_on(),
            gpio: vec![0; 128],
            routes: [0x3210; 7],
            gcs: 0x20,
        }
    }

    fn sci_irq(config: &pci::ConfigState) -> usize {
        match config.u8(ACPI_CNTL) & 7 {
            1 => 10,
            2 => 11,
            4 => 20,
            5 => 21,
            _ => 9,
        }
    }

    /// The PIRQ that wire `wire` of the root bus goes to.
    fn pirq(&self, wire: usize) -> usize {
        match wire.checked_sub(4) {
            None => 4 + wire,
            // Device 30 has no register: its pins are PIRQE# to PIRQH#.
            Some(w) if w / 4 == 5 => 4 + w % 4,
            Some(w) => usize::from(self.routes[w / 4] >> (4 * (w % 4)) & 7),
        }
    }

    fn read_pm(&mut self, offset: u64, width: u8, now: VmTime) -> BusResult<u64> {
        match (offset, width) {
            (0..0x0c, _) => self.pm.read(offset, width, now),
            (0x20..0x30, _) => self.gpe.read(GPE_LEN, offset - 0x20, width),
            (0x30, 4) => Ok(self.smi_enable.into()),
            (0x34, 4) => Ok(self.smi_status.into()),
            (0x30..0x38, 2 | 1) => {
                let both = u64::from(self.smi_enable) | u64::from(self.smi_status) << 32;
                Ok(both >> (8 * (offset - 0x30)))
            }
            (_, 1) => Ok(0),
            _ => Err(BusError::Width),
        }
    }

    fn write_pm(
        &mut self,
        config: &pci::ConfigState,
        offset: u64,
        width: u8,
        value: u64,
    ) -> BusResult<()> {
        match (offset, width) {
            (0x20..0x30, _) => return self.gpe.write(GPE_LEN, offset - 0x20, width, value),
            // Bit 0 (global enable) stays once SMI_LOCK is set, which this chipset's firmware
            // does through GEN_PMCON_1 bit 4.
            (0x30, 4) => {
                let locked = config.u8(0xa0) & 0x10 != 0;
                let keep = if locked { self.smi_enable & 1 } else { 0 };
                let fixed = if self.tco.locked() { TCO_SMI } else { 0 };
                self.smi_enable = (value as u32 | keep) & !fixed | self.smi_enable & fixed;
            }
            (0x34, 4) => self.smi_status &= !(value as u32),
            (_, 1) => {}
            _ => return Err(BusError::Width),
        }
        Ok(())
    }

    fn read_chipset(&self, offset: u64, width: u8) -> BusResult<u64> {
        if let Some(i) = DEVICE_ROUTES.iter().position(|&r| r == offset).filter(|_| width == 2) {
            return Ok(self.routes[i].into());
        }
        match (offset, width) {
            (0x3410, 4) => Ok(self.gcs.into()),
            (_, 1 | 2) if (0x3140..0x3154).contains(&offset) => {
                let at = DEVICE_ROUTES.iter().position(|&r| r == offset & !1);
                Ok(at.map_or(0, |i| u64::from(self.routes[i]) >> (8 * (offset & 1))))
            }
            (_, 4 | 8) if (0x3140..0x3154).contains(&offset) => Err(BusError::Width),
            (0..0x4000, _) => Ok(0),
            _ => Err(BusError::NoRegister),
        }
    }

    fn write_chipset(&mut self, offset: u64, width: u8, value: u64) -> BusResult<()> {
        match (offset, width) {
            (0x3410, 4) => self.gcs = value as u32,
            (_, 2) => {
                if let Some(i) = DEVICE_ROUTES.iter().position(|&r| r == offset) {
                    self.routes[i] = value as u16;
                }
            }
            (_, 4 | 8) if (0x3140..0x3154).contains(&offset) => return Err(BusError::Width),
            (0..0x4000, _) => {}
            _ => return Err(BusError::NoRegister),
        }
        Ok(())
    }
}

impl Ich9Lpc {
    fn new(config: Config, wires: Wires) -> Self {
        let state = State::power_on(wires.clock.now());
        Self { config, wires, state }
    }

    fn drive_interrupts(&self, config: &pci::ConfigState) {
        let s = &self.state;
        let mut pirq = [false; 8];
        for (i, wire) in self.wires.bus.iter().enumerate() {
            pirq[s.pirq(i)] |= wire.level();
        }
        let mut isa = [false; 16];
        let mut apic = pirq;
        for (i, &level) in pirq.iter().enumerate() {
            if let Some(irq) = route(config.u8(PIRQ_ROUT[i / 4] + i % 4)) {
                isa[irq] |= level;
            }
        }
        if s.pm.sci() || s.pm.acpi_mode() && s.gpe.sci() {
            match State::sci_irq(config) {
                irq @ 0..16 => isa[irq] = true,
                irq => apic[irq - 16] = true,
            }
        }
        for (line, level) in self.wires.isa.iter().zip(isa) {
            line.set(level);
        }
        for (line, level) in self.wires.apic.iter().zip(apic) {
            line.set(level);
        }
    }

    fn command(&mut self, command: u8) {
        // The values that the FADT gives for ACPI_ENABLE and ACPI_DISABLE.
        match command {
            2 => self.state.pm.set_acpi_mode(true),
            3 => self.state.pm.set_acpi_mode(false),
            _ => {}
        }
        // APMC_EN and GBL_SMI_EN.
        self.smi(0x20);
    }

    /// Raises an SMI for the source `bit`, if that and SMIs as such are enabled.
    fn smi(&mut self, bit: u32) {
        if self.state.smi_enable & (1 | bit) != 1 | bit || self.config.no_smm {
            return;
        }
        self.state.smi_status |= bit;
        // To the CPU that is at work: firmware brings the others in by interrupts if it wants them.
        if let Some(line) = self.wires.smi.get(self.wires.current_cpu.load(Relaxed)) {
            line.pulse();
        }
    }

    fn watchdog(&mut self, happened: Outcome) {
        if happened.smi {
            self.smi(TCO_SMI);
        }
        if happened.bites {
            self.wires.power.request(PowerRequest::Watchdog);
        }
    }

    /// Lets the watchdog's time pass.
    fn tick(&mut self, now: VmTime) {
        let reboots = !self.config.no_reboot && self.state.gcs & NO_REBOOT == 0;
        let happened = self.state.tco.catch_up(now, reboots);
        self.watchdog(happened);
    }
}

impl pci::Chip for Ich9Lpc {
    type State = State;
    const NAME: &'static str = "ICH9-LPC";
    const VERSION: u16 = 2;
    const SETTLES: bool = true;

    fn reset(&mut self) {
        self.state = State::power_on(self.wires.clock.now());
    }

    fn save(&self) -> State {
        self.state.clone()
    }

    fn restore(&mut self, state: State) -> Result<(), RestoreError> {
        if state.gpio.len() != 128 {
            return Err(RestoreError::Invalid("LPC bridge"));
        }
        self.state = state;
        Ok(())
    }

    fn drive(&mut self, slot: &mut pci::Slot<'_>) -> bool {
        let c = &*slot.config;
        let pm = u64::from(c.u16(PMBASE) & 0xff80);
        self.wires.pm.set_base(pm);
        self.wires.pm.set_enabled(c.u8(ACPI_CNTL) & 0x80 != 0 && pm != 0);
        let gpio = u64::from(c.u16(GPIOBASE) & 0xff80);
        self.wires.gpio.set_base(gpio);
        self.wires.gpio.set_enabled(c.u8(GPIO_CNTL) & 0x10 != 0 && gpio != 0);
        let rcba = c.u32(RCBA);
        self.wires.chipset.set_base(u64::from(rcba & !0x3fff));
        self.wires.chipset.set_enabled(rcba & 1 != 0);
        let deadlines = [self.state.pm.deadline(), self.state.tco.deadline()];
        self.wires.timer.set(deadlines.into_iter().flatten().min());
        self.drive_interrupts(c);
        false
    }

    fn settle(&mut self, slot: &mut pci::Slot<'_>) {
        self.wires.events.take(&mut self.state.pm);
        self.drive_interrupts(slot.config);
    }

    fn wake(&mut self, _: &mut pci::Slot<'_>, now: VmTime) {
        self.state.pm.catch_up(now);
        self.tick(now);
    }

    fn read(&mut self, _: &mut pci::Slot<'_>, bank: u32, offset: u64, width: u8) -> BusResult<u64> {
        match (bank, offset, width) {
            (RESET_CONTROL, 0, 1) => Ok(self.state.reset_control.into()),
            (PM, ..) if TCO.contains(&offset) => {
                let now = self.wires.clock.now();
                self.tick(now);
                self.state.tco.read(offset - TCO.start, width, now)
            }
            (PM, ..) => self.state.read_pm(offset, width, self.wires.clock.now()),
            (APM, ..) => self.state.apm.read(offset, width),
            (CHIPSET, ..) => self.state.read_chipset(offset, width),
            (GPIO, 0..128, 1) => Ok(self.state.gpio[offset as usize].into()),
            (GPIO, 0..128, _) => Err(BusError::Width),
            (WAKE_BANK, ..) => Ok(self.state.pm.wakes().into()),
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
        match (bank, offset, width) {
            (RESET_CONTROL, 0, 1) => {
                let old = self.state.reset_control;
                self.state.reset_control = write_reset_control(old, value as u8, &self.wires.power);
            }
            (PM, 0..0x0c, _) => {
                let now = self.wires.clock.now();
                let sleep = self.state.pm.write(offset, width, value, now)?;
                request(&self.wires.power, sleep);
            }
            (PM, ..) if TCO.contains(&offset) => {
                let now = self.wires.clock.now();
                self.tick(now);
                let happened = self.state.tco.write(offset - TCO.start, width, value, now)?;
                self.watchdog(happened);
            }
            (PM, ..) => self.state.write_pm(slot.config, offset, width, value)?,
            (APM, ..) => {
                if self.state.apm.write(offset, width, value)? {
                    self.command(self.state.apm.command());
                }
            }
            (CHIPSET, ..) => self.state.write_chipset(offset, width, value)?,
            (GPIO, 0..128, 1) => self.state.gpio[offset as usize] = value as u8,
            (GPIO, 0..128, _) => return Err(BusError::Width),
            (WAKE_BANK, ..) => self.state.pm.wake(value as u16),
            _ => return Err(BusError::NoRegister),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orrery_system::board::BoardConfig;

    struct Bench {
        board: Board,
        bus: pci::Bus,
        isa: Vec<IrqInput>,
        apic: Vec<IrqInput>,
        id: DeviceId,
    }

    impl Bench {
        fn new() -> Self {
            let mut board = Board::new(BoardConfig { ram_capacity: 0, ..BoardConfig::default() });
            let wires = (0..BUS_WIRES).map(|_| board.wire()).collect();
            let bus = pci::Bus::new(board.memory(), board.io(), wires, pin_map);
            let isa: Vec<IrqInput> = (0..16).map(|_| board.wire()).collect();
            let apic: Vec<IrqInput> = (0..8).map(|_| board.wire()).collect();
            let id = board.reserve("ICH9-LPC");
            let pins = |w: &[IrqInput]| w.iter().map(IrqInput::pin).collect();
            let button = board.wire();
            let (i, a) = (pins(&isa), pins(&apic));
            let events = Events { power_button: button, rtc: board.wire() };
            build(&mut board, &bus, pci::devfn(31, 0), id, Config::default(), i, a, events);
            board.settle();
            Self { board, bus, isa, apic, id }
        }

        fn config(&mut self, at: usize, width: u8, value: u64) {
            self.board.device_write(self.id, pci::CONFIG_BANK, at as u64, width, value);
        }
    }

    #[test]
    fn slots_rotate_over_pirq_e_to_h_and_reach_both_controllers() {
        let mut b = Bench::new();
        b.config(0x69, 1, 0x0a);
        let pin = b.bus.pin(pci::devfn(1, 0), 1);
        pin.set(true);
        b.board.settle();
        assert!(b.isa[10].level() && b.apic[5].level());
        pin.set(false);
        b.board.settle();
        assert!(!b.isa[10].level() && !b.apic[5].level());
    }

    #[test]
    fn chipset_registers_route_the_built_in_devices() {
        let mut b = Bench::new();
        let pin = b.bus.pin(pci::devfn(31, 2), 1);
        pin.set(true);
        b.board.settle();
        assert!(b.apic[0].level());
        b.config(0xf0, 4, 0xfed1_c001);
        assert_eq!(b.board.read(0xfed1_f140, 2), 0x3210);
        b.board.write(0xfed1_f140, 2, 0x3217);
        assert!(b.apic[7].level() && !b.apic[0].level());
    }

    #[test]
    fn the_command_port_raises_an_smi_if_enabled() {
        let mut b = Bench::new();
        b.config(0x40, 4, 0x601);
        b.config(0x44, 1, 0x80);
        b.board.port_out(0xb2, 1, 2);
        assert_eq!(b.board.port_in(0x604, 2), 1, "ACPI mode");
        assert!(!b.board.pins(0).smi.take_edge());
        b.board.port_out(0x630, 4, 0x21);
        b.board.port_out(0xb2, 1, 0);
        assert!(b.board.pins(0).smi.take_edge());
        assert_eq!(b.board.port_in(0x634, 4), 0x20);
    }

    #[test]
    fn the_watchdog_resets_the_machine_where_chipset_and_strap_let_it() {
        let mut b = Bench::new();
        b.config(0x40, 4, 0x601);
        b.config(0x44, 1, 0x80);
        b.config(0xf0, 4, 0xfed1_c001);
        b.board.port_out(0x660, 2, 1);
        b.board.warp_to(VmTime(10_000_000_000));
        b.board.run_timers();
        assert_eq!(b.board.port_in(0x664, 4), 0x0006_0008, "it ran out twice");
        assert_eq!(b.board.power().take(), None, "the chipset forbids it");
        b.board.write(0xfed1_f410, 4, 0);
        b.board.port_out(0x660, 2, 1);
        b.board.warp_to(VmTime(20_000_000_000));
        b.board.run_timers();
        assert_eq!(b.board.power().take(), Some(PowerRequest::Watchdog));
    }

    #[test]
    fn the_sci_is_interrupt_nine_unless_moved() {
        let mut b = Bench::new();
        b.config(0x40, 4, 0x601);
        b.config(0x44, 1, 0x80);
        b.board.port_out(0xb2, 1, 2);
        b.board.port_out(0x602, 2, 1);
        b.board.warp_to(VmTime(3_000_000_000));
        b.board.run_timers();
        assert!(b.isa[9].level());
        b.config(0x44, 1, 0x84);
        assert!(!b.isa[9].level() && b.apic[4].level());
    }

    fn device() -> pci::Card<Ich9Lpc> {
        let mut board = Board::new(BoardConfig { ram_capacity: 0, ..BoardConfig::default() });
        let bus = pci::Bus::simple(&board);
        let id = board.reserve("ICH9-LPC");
        let region = || board.regions().container("r", 128);
        let wires = Wires {
            bus: bus.wires().to_vec(),
            isa: Vec::new(),
            apic: Vec::new(),
            smi: Vec::new(),
            current_cpu: board.current_cpu(),
            events: Events { power_button: board.wire(), rtc: board.wire() },
            power: Power::default(),
            clock: board.clock(),
            timer: Timer::default(),
            pm: region(),
            gpio: region(),
            chipset: region(),
        };
        let pci = function(&board, &bus, 0, id);
        pci::Card::new(pci, Ich9Lpc::new(Config::default(), wires))
    }

    orrery_system::conformance!(
        device(),
        [
            (RESET_CONTROL, &[]),
            (PM, &[]),
            (APM, &[]),
            (CHIPSET, &[]),
            (GPIO, &[]),
            (pci::CONFIG_BANK, &[])
        ]
    );
}
