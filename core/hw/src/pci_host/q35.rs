//! Intel 82G33/82Q35 memory controller hub: the host bridge of `q35`.
//!
//! Reference: Intel 316966 (3 Series chipset). Ports, attribute map and SMRAM as the 440FX has
//! them; besides, memory-mapped configuration of all of PCI Express, high SMRAM and the SMM
//! segment at the top of memory (TSEG).
//!
//! Not modelled: the DRAM controller, the management engine, the PCI Express graphics port.

use super::mechanism::{Mechanism, MechanismWires};
use super::pam::{EMPTY, LowMap, write_smram};
use crate::pci::{self, CONFIG_BANK};
use orrery_system::{Board, BusError, BusResult, DeviceId, IrqInput, Region, RestoreError};

/// Bank of ports CF8–CFF.
pub const PORTS: u32 = 0;
/// Bank of the memory-mapped configuration space.
pub const ECAM: u32 = 1;
/// Size of the extended TSEG, in MiB, or all ones to ask which sizes there are.
const EXT_TSEG: usize = 0x50;
/// Base and length of the memory-mapped configuration space.
const PCIEXBAR: usize = 0x60;
/// Whether SMRAM lies at the address where a CPU's system management mode starts.
const F_SMBASE: usize = 0x9c;
/// First of seven attribute registers.
pub(crate) const PAM0: usize = 0x90;
/// SMRAM control.
const SMRAM: usize = 0x9d;
/// Extended SMRAM control.
const ESMRAMC: usize = 0x9e;

/// [`F_SMBASE`]: firmware asks whether the chipset has this; the chipset answers that it does;
/// firmware locks the memory, until a reset.
const SMBASE_ASK: u8 = 0xff;
const SMBASE_THERE: u8 = 0x01;
const SMBASE_LOCKED: u8 = 0x02;
/// Where that memory lies, and its size.
const SMBASE: (u64, u64) = (0x3_0000, 0x2_0000);

const IDENTITY: pci::Identity = pci::Identity {
    vendor: 0x8086,
    device: 0x29c0,
    revision: 0x00,
    class: 0x06_00_00,
    subsystem: pci::Identity::SUBSYSTEM,
    pin: 0,
};

/// Settings fixed when the machine is built.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Bytes of RAM below 4 GiB: TSEG lies at its top.
    pub low_ram: u64,
    /// MiB of the extended TSEG that the chipset offers (`extended-tseg-mbytes`).
    pub ext_tseg_mib: u16,
    /// The chipset can lock memory where system management mode starts (`smbase-smram`).
    pub smbase: bool,
}

impl Config {
    /// The chipset's usual settings.
    pub fn new(low_ram: u64) -> Self {
        Self { low_ram, ext_tseg_mib: 16, smbase: true }
    }
}

/// What the machine wires up.
pub struct Wires {
    /// The root bus, which is bus 0.
    pub bus: pci::Bus,
    /// Where port CF9 goes: a bank of the LPC bridge.
    pub reset_control: Option<(DeviceId, u32)>,
    /// High while a CPU is in system management mode.
    pub smiact: IrqInput,
    low: LowMap,
    ecam: Region,
    /// SMRAM as seen at FEDA0000.
    high_smram: Region,
    /// What hides TSEG outside SMM.
    tseg: Region,
    /// What hides the memory at the start of SMM outside it.
    smbase: Region,
}

/// The device.
pub struct Mch {
    config: Config,
    wires: Wires,
    mechanism: Mechanism,
}

/// Puts the bridge at 00:00.0 of the root bus and its windows into the board's maps. `pci` is the
/// memory space of the bus; `ram` the RAM block's region, from address 0. Gives the device and the
/// window of the memory-mapped configuration space, whose base firmware chooses.
pub fn build(
    board: &mut Board,
    bus: &pci::Bus,
    pci: &Region,
    ram: &Region,
    config: Config,
    reset_control: Option<(DeviceId, u32)>,
) -> (DeviceId, Region) {
    let id = board.reserve("mch");
    let pci_function = function(board, bus, id);
    board.io().add(0xcf8, &board.regions().device("pci-conf", 8, id, PORTS));
    let ecam = board.regions().device("ecam", 256 << 20, id, ECAM);
    let high_smram = board.regions().alias("smram-high", ram, 0xa_0000, 0x2_0000);
    let tseg = board.regions().device("tseg-closed", 0, id, EMPTY);
    let smbase = board.regions().device("smbase-closed", SMBASE.1, id, EMPTY);
    smbase.set_enabled(false);
    let low = LowMap::new(board, pci, id);
    let memory = board.memory();
    memory.add_priority(SMBASE.0, 2, &smbase);
    memory.add_priority(0, 2, &ecam);
    memory.add_priority(0xfeda_0000, 2, &high_smram);
    memory.add_priority(0, 2, &tseg);
    let smiact = board.smiact();
    let bus = bus.clone();
    let window = ecam.clone();
    let wires = Wires { bus, reset_control, smiact, low, ecam, high_smram, tseg, smbase };
    board.attach(id, Box::new(pci::Card::new(pci_function, Mch::new(config, wires))));
    (id, window)
}

fn function(board: &Board, bus: &pci::Bus, id: DeviceId) -> pci::Function {
    pci::Builder::new(board, bus, id, IDENTITY)
        .status(0x0090 & !0x10)
        .fixed_command(0x0006)
        .register(EXT_TSEG, 2, 0, 0xffff)
        .register(PCIEXBAR, 4, 0, 0xffff_ffff)
        .register(PCIEXBAR + 4, 4, 0, 0xf)
        .register(PAM0, 4, 0, 0x3333_3330)
        .register(PAM0 + 4, 3, 0, 0x33_3333)
        .register(F_SMBASE, 1, 0, 0xff)
        .register(SMRAM, 1, 0x02, 0xff)
        .register(ESMRAMC, 1, 0x38, 0x87)
        .build(pci::devfn(0, 0))
}

/// Base and size of the memory-mapped configuration space, if it is on.
fn ecam(config: &pci::ConfigState) -> Option<(u64, u64)> {
    let low = config.u32(PCIEXBAR);
    let size: u64 = match low >> 1 & 3 {
        0 => 256 << 20,
        1 => 128 << 20,
        2 => 64 << 20,
        _ => return None,
    };
    let base = u64::from(low) | u64::from(config.u32(PCIEXBAR + 4)) << 32;
    (low & 1 != 0).then_some((base & !(size - 1), size))
}

/// What writing `value` makes of the register that reads `old`.
fn write_smbase(old: u8, value: u8) -> u8 {
    match (old, value) {
        (SMBASE_LOCKED, _) => SMBASE_LOCKED,
        (SMBASE_THERE, SMBASE_LOCKED) => SMBASE_LOCKED,
        (_, SMBASE_ASK) => SMBASE_THERE,
        _ => 0,
    }
}

/// Bytes of TSEG, the extended one being of `ext` MiB.
fn tseg(config: &pci::ConfigState, ext: u16) -> u64 {
    if config.u8(SMRAM) & 8 == 0 || config.u8(ESMRAMC) & 1 == 0 {
        return 0;
    }
    match config.u8(ESMRAMC) >> 1 & 3 {
        0 => 1 << 20,
        1 => 2 << 20,
        2 => 8 << 20,
        _ => u64::from(ext) << 20,
    }
}

impl Mch {
    fn new(config: Config, wires: Wires) -> Self {
        Self { config, wires, mechanism: Mechanism::default() }
    }

    /// The register of the function that an offset in the memory-mapped space means.
    fn ecam(&self, offset: u64) -> Option<BusError> {
        let device = self.wires.bus.route((offset >> 20) as u8, (offset >> 12) as u8)?;
        Some(BusError::Forward { device, bank: CONFIG_BANK, offset: offset & 0xfff })
    }
}

impl pci::Chip for Mch {
    type State = Mechanism;
    const NAME: &'static str = "mch";
    const SETTLES: bool = true;

    fn reset(&mut self) {
        self.mechanism = Mechanism::default();
    }

    fn save(&self) -> Mechanism {
        self.mechanism
    }

    fn restore(&mut self, state: Mechanism) -> Result<(), RestoreError> {
        self.mechanism = state;
        Ok(())
    }

    fn drive(&mut self, slot: &mut pci::Slot<'_>) -> bool {
        let s = &*slot.config;
        let (smram, extended) = (s.u8(SMRAM), s.u8(ESMRAMC));
        let inside = self.wires.smiact.level();
        let open = smram & 8 != 0 && (smram & 0x40 != 0 || inside);
        let high = extended & 0x80 != 0;
        self.wires.low.drive(std::array::from_fn(|i| s.u8(PAM0 + i)), open && !high);
        self.wires.high_smram.set_enabled(open && high);
        let ecam = ecam(s);
        if let Some((base, size)) = ecam {
            self.wires.ecam.set_base(base);
            self.wires.ecam.set_size(size);
        }
        self.wires.ecam.set_enabled(ecam.is_some());
        let tseg = tseg(s, self.config.ext_tseg_mib).min(self.config.low_ram);
        self.wires.tseg.set_base(self.config.low_ram - tseg);
        self.wires.tseg.set_size(tseg);
        self.wires.tseg.set_enabled(tseg != 0 && !inside);
        self.wires
            .smbase
            .set_enabled(self.config.smbase && s.u8(F_SMBASE) == SMBASE_LOCKED && !inside);
        false
    }

    fn settle(&mut self, slot: &mut pci::Slot<'_>) {
        self.drive(slot);
    }

    fn configured(&mut self, before: &pci::ConfigState, slot: &mut pci::Slot<'_>) {
        let (smram, s) = (before.u8(SMRAM), &mut *slot.config);
        if s.u8(SMRAM) != smram {
            s.set_u8(SMRAM, write_smram(smram, s.u8(SMRAM)));
        }
        // D_LCK fixes the extended register too.
        if smram & 0x10 != 0 {
            s.set_u8(ESMRAMC, before.u8(ESMRAMC));
        }
        if s.u16(EXT_TSEG) == 0xffff {
            s.set_u16(EXT_TSEG, self.config.ext_tseg_mib);
        }
        if self.config.smbase {
            s.set_u8(F_SMBASE, write_smbase(before.u8(F_SMBASE), s.u8(F_SMBASE)));
        }
    }

    fn read(&mut self, _: &mut pci::Slot<'_>, bank: u32, offset: u64, width: u8) -> BusResult<u64> {
        let Wires { bus, reset_control, .. } = &self.wires;
        match bank {
            PORTS => {
                let wires = MechanismWires { bus, reset_control: *reset_control };
                self.mechanism.read(&wires, offset, width)
            }
            ECAM => self.ecam(offset).map_or(Ok(u64::MAX), Err),
            _ => Err(BusError::NoRegister),
        }
    }

    fn write(
        &mut self,
        _: &mut pci::Slot<'_>,
        bank: u32,
        offset: u64,
        width: u8,
        value: u64,
    ) -> BusResult<()> {
        let Wires { bus, reset_control, .. } = &self.wires;
        match bank {
            PORTS => {
                let wires = MechanismWires { bus, reset_control: *reset_control };
                self.mechanism.write(&wires, offset, width, value)
            }
            ECAM => self.ecam(offset).map_or(Ok(()), Err),
            _ => Err(BusError::NoRegister),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orrery_system::board::BoardConfig;

    const LOW_RAM: u64 = 4 << 20;

    fn board() -> Board {
        let mut b = Board::new(BoardConfig { ram_capacity: 8 << 20, ..BoardConfig::default() });
        let ram = b.ram().alloc("ram", LOW_RAM as usize).unwrap();
        let ram = b.regions().ram("ram", ram);
        b.memory().add(0, &ram);
        let pci = b.regions().container("pci", u64::MAX);
        b.memory().add_priority(0, -1, &pci);
        let bus = pci::Bus::new(&pci, b.io(), Vec::new(), |_, _| 0);
        build(&mut b, &bus, &pci, &ram, Config::new(LOW_RAM), None);
        b.settle();
        b
    }

    fn config_write(b: &mut Board, at: u32, width: u8, value: u32) {
        b.port_out(0xcf8, 4, 0x8000_0000 | at & !3);
        b.port_out(0xcfc + (at & 3) as u16, width, value);
    }

    #[test]
    fn the_configuration_space_shows_in_memory_where_it_is_told_to() {
        let mut b = board();
        config_write(&mut b, 0x60, 4, 0xb000_0001);
        assert_eq!(b.read(0xb000_0000, 4), 0x29c0_8086);
        assert_eq!(b.read(0xb000_0000, 8) >> 32 & 6, 6, "a wide read is split");
        assert_eq!(b.read(0xb000_8000, 4), 0xffff_ffff, "no such function");
        assert_eq!(b.read(0xbfff_fffc, 4), 0xffff_ffff);
    }

    #[test]
    fn tseg_hides_outside_smm() {
        let mut b = board();
        b.write(LOW_RAM - 8, 4, 0x1234);
        config_write(&mut b, 0x50, 2, 0xffff);
        b.port_out(0xcf8, 4, 0x8000_0050);
        assert_eq!(b.port_in(0xcfc, 2), 16, "asked for the size");
        config_write(&mut b, 0x9e, 1, 0x01);
        config_write(&mut b, 0x9d, 1, 0x0a);
        assert_eq!(b.read(LOW_RAM - 8, 4), 0xffff_ffff);
        assert_eq!(b.read(LOW_RAM - (1 << 20) - 8, 4), 0);
        let smiact = b.pins(0).smiact.clone();
        smiact.set(true);
        b.settle();
        assert_eq!(b.read(LOW_RAM - 8, 4), 0x1234);
    }

    #[test]
    fn firmware_locks_the_memory_where_smm_starts() {
        let mut b = board();
        b.write(0x3_0000, 4, 0x1234);
        config_write(&mut b, 0x9c, 1, 2);
        let register = |b: &mut Board| {
            b.port_out(0xcf8, 4, 0x8000_009c);
            b.port_in(0xcfc, 1)
        };
        assert_eq!(register(&mut b), 0, "it asks first");
        config_write(&mut b, 0x9c, 1, 0xff);
        assert_eq!(register(&mut b), 1);
        config_write(&mut b, 0x9c, 1, 2);
        config_write(&mut b, 0x9c, 1, 0);
        assert_eq!((register(&mut b), b.read(0x3_0000, 4)), (2, 0xffff_ffff));
        let smiact = b.pins(0).smiact.clone();
        smiact.set(true);
        b.settle();
        assert_eq!(b.read(0x3_0000, 4), 0x1234);
    }

    fn device() -> pci::Card<Mch> {
        let mut b = Board::new(BoardConfig { ram_capacity: 0x1000, ..BoardConfig::default() });
        let id = b.reserve("mch");
        let bus = pci::Bus::simple(&b);
        let pci = function(&b, &bus, id);
        let region = || b.regions().container("r", 0);
        let wires = Wires {
            bus,
            reset_control: None,
            smiact: b.smiact(),
            low: LowMap::new(&b, b.memory(), id),
            ecam: region(),
            high_smram: region(),
            tseg: region(),
            smbase: region(),
        };
        pci::Card::new(pci, Mch::new(Config::new(64 << 20), wires))
    }

    orrery_system::conformance!(device(), [(PORTS, &[]), (ECAM, &[]), (CONFIG_BANK, &[])]);
}
