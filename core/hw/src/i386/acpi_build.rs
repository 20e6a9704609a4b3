//! The ACPI tables of the PC machines.

use crate::acpi::aml::{self, Aml, Space, resource};
use crate::acpi::hotplug;
use crate::acpi::piix4::GPE_PORT;
use crate::acpi::srat::{slit, srat};
use crate::acpi::tables::{Builder, Files, LOADER_FILE, RSDP_FILE, TABLES_FILE, Table};
use crate::numa::Numa;
use crate::nvram::fw_cfg::{Items, MadeFiles};
use orrery_system::Region;

/// Where the local APICs, the I/O APIC and the HPET are.
pub(crate) const LAPIC_BASE: u32 = 0xfee0_0000;
/// I/O APIC.
pub(crate) const IOAPIC_BASE: u32 = 0xfec0_0000;
/// HPET.
pub(crate) const HPET_BASE: u32 = 0xfed0_0000;

/// What the tables say.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// Q35 with ICH9, or 440FX with PIIX.
    pub(crate) q35: bool,
    /// CPUs, with APIC ids from 0.
    pub(crate) cpus: u8,
    /// First address above the RAM below 4 GiB.
    pub(crate) low_ram: u64,
    /// First address above all RAM, at least 4 GiB.
    pub(crate) ram_end: u64,
    /// There is an HPET.
    pub(crate) hpet: bool,
    /// There is a floppy controller.
    pub(crate) floppy: bool,
    /// Which of the serial ports there are.
    pub(crate) serial: [bool; 4],
    /// There is a parallel port.
    pub(crate) parallel: bool,
    /// Which memory is near which CPU.
    pub(crate) numa: Numa,
    /// Slots of the PCI bus, as bits, whose devices come and go (440FX).
    pub(crate) slots: u32,
}

/// The files, remade for the addresses that firmware gave to the chipset.
pub(crate) struct AcpiFiles {
    /// What the tables say.
    pub(crate) config: Config,
    /// The ACPI register window.
    pub(crate) pm: Region,
    /// The memory-mapped PCI configuration space (Q35).
    pub(crate) ecam: Option<Region>,
}

impl AcpiFiles {
    /// Index of the tables.
    pub(crate) const TABLES: usize = 0;
    /// Index of the root pointer.
    pub(crate) const RSDP: usize = 1;
    /// Index of the linker script.
    pub(crate) const LOADER: usize = 2;

    /// Adds the files to those of the machine.
    pub(crate) fn add_to(&self, items: &mut Items) {
        items.add_made(TABLES_FILE, Self::TABLES);
        items.add_made(RSDP_FILE, Self::RSDP);
        items.add_made(LOADER_FILE, Self::LOADER);
    }
}

impl MadeFiles for AcpiFiles {
    fn inputs(&self) -> [u64; 2] {
        let pm = if self.pm.enabled().0 { self.pm.base() } else { 0x600 };
        let ecam = self.ecam.as_ref().filter(|e| e.enabled().0).map_or(0xb000_0000, Region::base);
        [pm, ecam]
    }

    fn make(&self, index: usize, [pm, ecam]: [u64; 2]) -> Vec<u8> {
        let files = build(&self.config, pm as u32, ecam);
        match index {
            Self::TABLES => files.tables,
            Self::RSDP => files.rsdp,
            _ => files.loader,
        }
    }
}

/// Builds all tables.
pub(crate) fn build(c: &Config, pm: u32, ecam: u64) -> Files {
    let mut b = Builder::new();
    let mut facs = b"FACS".to_vec();
    facs.extend(64_u32.to_le_bytes());
    facs.resize(64, 0);
    let facs = b.raw(&facs);
    let mut dsdt = Table::new(*b"DSDT", 1);
    dsdt.raw(&self::dsdt(c, ecam));
    let dsdt = b.table(dsdt, &[]);
    b.root(fadt(c, pm), &[(36, facs), (40, dsdt)]);
    b.root(madt(c), &[]);
    if c.hpet {
        b.root(hpet(), &[]);
    }
    if c.q35 {
        let mut mcfg = Table::new(*b"MCFG", 1);
        mcfg.u64(0).u64(ecam).u16(0).u8(0).u8(0xff).u32(0);
        b.root(mcfg, &[]);
    }
    if c.numa.nodes() > 0 {
        b.root(srat(&c.numa, c.low_ram), &[]);
        b.root(slit(&c.numa), &[]);
    }
    b.finish()
}

/// The fixed description table (ACPI 3.0 5.2.9).
fn fadt(c: &Config, pm: u32) -> Table {
    let (gpe, gpe_len) = if c.q35 { (pm + 0x20, 16) } else { (GPE_PORT as u32, 4) };
    let (enable, disable) = if c.q35 { (2, 3) } else { (0xf1, 0xf0) };
    let mut t = Table::new(*b"FACP", 3);
    t.u32(0).u32(0);
    // Dual-PIC model; unspecified profile; SCI; SMI command port and its commands.
    t.u8(1).u8(0).u16(9).u32(0xb2).raw(&[enable, disable, 0, 0]);
    // PM1a event and control, PM1b none, PM2 none, timer, GPE0 and GPE1.
    t.u32(pm).u32(0).u32(pm + 4).u32(0).u32(0).u32(pm + 8).u32(gpe).u32(0);
    t.raw(&[4, 2, 0, 4, gpe_len, 0, 0, 0]);
    // C2 and C3 not supported; no flushing by reading; no duty cycles; no alarms but the century.
    t.u16(0x0fff).u16(0x0fff).u16(0).u16(0).raw(&[0, 0, 0, 0, 0x32]);
    // Legacy devices and an 8042.
    t.u16(0x0003).u8(0);
    // WBINVD, C1 on every CPU, no power or sleep button as control methods, RTC wakes as fixed
    // event, and on Q35 a reset register.
    let reset = if c.q35 { 1 << 10 } else { 0 };
    t.u32(1 | 1 << 2 | 1 << 5 | 1 << 7 | reset);
    t.address(1, 8, 1, 0xcf9).u8(0x0f).raw(&[0; 3]);
    // 64-bit forms: FACS and DSDT absent, then the blocks again.
    t.u64(0).u64(0);
    t.address(1, 32, 2, pm.into()).address(0, 0, 0, 0);
    t.address(1, 16, 2, u64::from(pm) + 4).address(0, 0, 0, 0).address(0, 0, 0, 0);
    t.address(1, 32, 3, u64::from(pm) + 8);
    t.address(1, gpe_len * 8, 1, gpe.into()).address(0, 0, 0, 0);
    t
}

/// The interrupt controllers (ACPI 3.0 5.2.12).
fn madt(c: &Config) -> Table {
    let mut t = Table::new(*b"APIC", 1);
    t.u32(LAPIC_BASE).u32(1);
    for cpu in 0..c.cpus {
        t.raw(&[0, 8, cpu, cpu]).u32(1);
    }
    t.raw(&[1, 12, 0, 0]).u32(IOAPIC_BASE).u32(0);
    // The timer is input 2; the SCI and what PCI links use is level-triggered and active high.
    t.raw(&[2, 10, 0, 0]).u32(2).u16(0);
    for irq in [5, 9, 10, 11] {
        t.raw(&[2, 10, 0, irq]).u32(irq.into()).u16(0x0d);
    }
    // NMI at LINT1 of every CPU.
    t.raw(&[4, 6, 0xff, 0, 0, 1]);
    t
}

fn hpet() -> Table {
    let mut t = Table::new(*b"HPET", 1);
    t.u32(0x8086_a201).address(0, 0, 0, HPET_BASE.into()).u8(0).u16(0).u8(0);
    t
}

fn dsdt(c: &Config, ecam: u64) -> Aml {
    let bridge = if c.q35 { 0x001f_0000 } else { 0x0001_0000 };
    let mut isa = vec![aml::def("_ADR", aml::int(bridge)), link_registers(c)];
    isa.extend(isa_devices(c));
    let mut pci0 = vec![
        aml::def("_ADR", aml::int(0)),
        aml::def("_UID", aml::int(0)),
        aml::def("_CRS", host_windows(c, ecam)),
        aml::device("ISA", isa),
        routing(c),
    ];
    if c.q35 {
        pci0.insert(0, aml::def("_CID", aml::eisa_id("PNP0A03")));
        pci0.insert(0, aml::def("_HID", aml::eisa_id("PNP0A08")));
        pci0.push(osc());
    } else {
        pci0.insert(0, aml::def("_HID", aml::eisa_id("PNP0A03")));
        pci0.push(hotplug::bridge(c.slots));
    }
    let mut sb = vec![aml::device("PCI0", pci0), link_methods()];
    sb.extend(links(c));
    if c.hpet {
        sb.push(aml::device(
            "HPET",
            [
                aml::def("_HID", aml::eisa_id("PNP0103")),
                aml::def("_UID", aml::int(0)),
                aml::def(
                    "_CRS",
                    resource::template([resource::memory_fixed(HPET_BASE, 0x400, false)]),
                ),
            ],
        ));
    }
    if c.q35 {
        // Keeps the configuration space out of the hands of PCI resource assignment.
        let claim = resource::memory_fixed(ecam as u32, 0x1000_0000, true);
        sb.push(aml::device(
            "DRAC",
            [
                aml::def("_HID", aml::eisa_id("PNP0C01")),
                aml::def("_CRS", resource::template([claim])),
            ],
        ));
    }
    sb.extend((0..c.cpus).map(|i| aml::processor(&format!("C{i:03X}"), i)));
    let sleep = |path, kind| {
        let v = || aml::int(kind);
        aml::def(path, aml::package(vec![v(), v(), aml::int(0), aml::int(0)]))
    };
    let mut events = vec![aml::def("_HID", aml::string("ACPI0006"))];
    if !c.q35 {
        events.push(hotplug::event());
    }
    aml::list([
        aml::def("PICF", aml::int(0)),
        aml::method("_PIC", 1, false, [aml::store(aml::arg(0), aml::name("PICF"))]),
        aml::scope("\\_SB", sb),
        aml::scope("\\_GPE", events),
        sleep("\\_S3", 1),
        sleep("\\_S4", 2),
        sleep("\\_S5", 0),
    ])
}

/// What the host bridge passes on to PCI.
fn host_windows(c: &Config, ecam: u64) -> Aml {
    let mut r = vec![
        resource::bus_numbers(0, 0xff),
        resource::io(0xcf8, 0xcf8, 1, 8),
        resource::io_window(0, 0xcf7),
        resource::io_window(0xd00, 0xffff),
        resource::memory_window(0xa_0000, 0xb_ffff, true),
    ];
    let low = c.low_ram as u32;
    // Chipset registers, APICs and the BIOS begin at FEC00000.
    let top = 0xfebf_ffff;
    if c.q35 && (c.low_ram..u64::from(top)).contains(&ecam) {
        if ecam > c.low_ram {
            r.push(resource::memory_window(low, ecam as u32 - 1, false));
        } else {
            // Keeps the size of the table the same wherever the space is.
            r.push(resource::memory_window(ecam as u32 + 0x1000_0000, top, false));
        }
        r.push(resource::memory_window(ecam as u32 + 0x1000_0000, top, false));
    } else {
        r.push(resource::memory_window(low, top, false));
    }
    let above = c.ram_end.next_multiple_of(1 << 30);
    // 36 address bits, which every CPU with PAE has.
    if above < 0xf_ffff_ffff {
        r.push(resource::memory_window64(above, 0xf_ffff_ffff));
    }
    resource::template(r)
}

/// The interrupt routing table: through links, or on Q35 with the I/O APIC in use directly.
fn routing(c: &Config) -> Aml {
    let entry = |slot: u64, pin: u64, source: Aml, index: u64| {
        aml::package(vec![aml::int(slot << 16 | 0xffff), aml::int(pin), source, aml::int(index)])
    };
    let pins = || (0..32_u64).flat_map(|slot| (0..4_u64).map(move |pin| (slot, pin)));
    let table = |f: &dyn Fn(u64, u64) -> Aml| aml::package(pins().map(|(s, p)| f(s, p)).collect());
    let link = |n: u64| aml::name(&format!("LNK{}", (b'A' + n as u8) as char));
    if !c.q35 {
        let piix = |slot, pin| match (slot, pin) {
            // The power management function's interrupt is the SCI.
            (1, 0) => entry(slot, pin, aml::name("LNKS"), 0),
            _ => entry(slot, pin, link((slot + pin + 3) % 4), 0),
        };
        return aml::def("_PRT", table(&piix));
    }
    // Devices from 25 have routes of their own, PIRQA to D by default; device 30 E to H.
    let pirq = |slot, pin| match slot {
        30 => 4 + pin,
        25.. => pin,
        _ => 4 + (slot + pin) % 4,
    };
    let pic = table(&|slot, pin| entry(slot, pin, link(pirq(slot, pin)), 0));
    let apic = table(&|slot, pin| entry(slot, pin, aml::int(0), 16 + pirq(slot, pin)));
    aml::list([
        aml::def("PRTP", pic),
        aml::def("PRTA", apic),
        aml::method(
            "_PRT",
            0,
            false,
            [
                aml::if_(aml::name("PICF"), [aml::ret(aml::name("PRTA"))]),
                aml::ret(aml::name("PRTP")),
            ],
        ),
    ])
}

/// The bridge's interrupt route registers.
fn link_registers(c: &Config) -> Aml {
    let mut fields = vec![("PRQA", 8), ("PRQB", 8), ("PRQC", 8), ("PRQD", 8)];
    if c.q35 {
        fields.extend([("", 32), ("PRQE", 8), ("PRQF", 8), ("PRQG", 8), ("PRQH", 8)]);
    }
    aml::list([
        aml::op_region("PIRQ", Space::PciConfig, 0x60, 12),
        aml::byte_field("PIRQ", &fields),
    ])
}

/// What the links have in common: status and current setting of a route register.
fn link_methods() -> Aml {
    let disabled = aml::and(aml::arg(0), aml::int(0x80), aml::nowhere());
    aml::list([
        aml::method(
            "IQST",
            1,
            false,
            [aml::if_(disabled, [aml::ret(aml::int(9))]), aml::ret(aml::int(0x0b))],
        ),
        aml::method(
            "IQCR",
            1,
            true,
            [
                aml::def("PRR0", resource::template([resource::interrupts(&[0])])),
                aml::create_dword_field(aml::name("PRR0"), 5, "PRRI"),
                aml::if_(
                    aml::less(aml::arg(0), aml::int(0x80)),
                    [aml::store(aml::arg(0), aml::name("PRRI"))],
                ),
                aml::ret(aml::name("PRR0")),
            ],
        ),
    ])
}

/// The PCI interrupt links (ACPI 3.0 6.2.11).
fn links(c: &Config) -> Vec<Aml> {
    let call = |method: &str, argument: Aml| aml::ret(aml::list([aml::name(method), argument]));
    let link = |i: u8| {
        let letter = (b'A' + i) as char;
        let register = || aml::name(&format!("\\_SB.PCI0.ISA.PRQ{letter}"));
        aml::device(
            &format!("LNK{letter}"),
            [
                aml::def("_HID", aml::eisa_id("PNP0C0F")),
                aml::def("_UID", aml::int(i.into())),
                aml::def("_PRS", resource::template([resource::interrupts(&[5, 10, 11])])),
                aml::method("_STA", 0, false, [call("IQST", register())]),
                aml::method("_DIS", 0, false, [aml::or(register(), aml::int(0x80), register())]),
                aml::method("_CRS", 0, false, [call("IQCR", register())]),
                aml::method(
                    "_SRS",
                    1,
                    false,
                    [
                        aml::create_dword_field(aml::arg(0), 5, "PRRI"),
                        aml::store(aml::name("PRRI"), register()),
                    ],
                ),
            ],
        )
    };
    let mut out: Vec<Aml> = (0..if c.q35 { 8 } else { 4 }).map(link).collect();
    if !c.q35 {
        let fixed = || resource::template([resource::interrupts(&[9])]);
        out.push(aml::device(
            "LNKS",
            [
                aml::def("_HID", aml::eisa_id("PNP0C0F")),
                aml::def("_UID", aml::int(4)),
                aml::def("_PRS", fixed()),
                aml::method("_STA", 0, false, [aml::ret(aml::int(0x0b))]),
                aml::method("_DIS", 0, false, []),
                aml::method("_CRS", 0, false, [aml::ret(fixed())]),
                aml::method("_SRS", 1, false, []),
            ],
        ));
    }
    out
}

fn isa_devices(c: &Config) -> Vec<Aml> {
    let device = |path: &str, id: &str, uid: Option<u64>, r: Vec<Vec<u8>>| {
        let mut body = vec![aml::def("_HID", aml::eisa_id(id))];
        body.extend(uid.map(|u| aml::def("_UID", aml::int(u))));
        body.push(aml::def("_STA", aml::int(0x0f)));
        body.push(aml::def("_CRS", resource::template(r)));
        aml::device(path, body)
    };
    let port = |base, len| resource::io(base, base, 1, len);
    let mut out = vec![
        device("RTC", "PNP0B00", None, vec![port(0x70, 8), resource::irq(8)]),
        device("KBD", "PNP0303", None, vec![port(0x60, 1), port(0x64, 1), resource::irq(1)]),
        device("MOU", "PNP0F13", None, vec![resource::irq(12)]),
    ];
    if c.floppy {
        let r = vec![port(0x3f2, 4), port(0x3f7, 1), resource::irq(6), resource::dma(2)];
        out.push(device("FDC0", "PNP0700", None, r));
    }
    if c.parallel {
        let r = vec![port(0x378, 8), resource::irq(7)];
        out.push(device("LPT1", "PNP0400", Some(1), r));
    }
    let serial = [(0x3f8, 4), (0x2f8, 3), (0x3e8, 4), (0x2e8, 3)];
    for (i, &(base, irq)) in serial.iter().enumerate().filter(|&(i, _)| c.serial[i]) {
        let r = vec![port(base, 8), resource::irq(irq)];
        out.push(device(&format!("COM{}", i + 1), "PNP0501", Some(i as u64 + 1), r));
    }
    out
}

/// What of PCI Express the system may control itself (PCI Firmware 3.1, 4.5.1).
fn osc() -> Aml {
    let word = |n: u8| aml::name(&format!("CDW{n}"));
    let set = |bits: u64| aml::or(word(1), aml::int(bits), word(1));
    let known = aml::uuid("33db4d5b-1ff7-401c-9657-7441c03dd766");
    aml::method(
        "_OSC",
        4,
        true,
        [
            aml::create_dword_field(aml::arg(3), 0, "CDW1"),
            aml::if_(
                aml::equal(aml::arg(0), known),
                [
                    aml::create_dword_field(aml::arg(3), 8, "CDW3"),
                    // All but the standard hot-plug controllers of conventional bridges, which nothing here has.
                    aml::and(word(3), aml::int(0x1d), aml::local(0)),
                    aml::if_(aml::not(aml::equal(aml::arg(1), aml::int(1))), [set(0x08)]),
                    aml::if_(aml::not(aml::equal(word(3), aml::local(0))), [set(0x10)]),
                    aml::store(aml::local(0), word(3)),
                ],
            ),
            aml::else_([set(0x04)]),
            aml::ret(aml::arg(3)),
        ],
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acpi::tables::link;

    fn config(q35: bool) -> Config {
        Config {
            q35,
            cpus: 2,
            low_ram: 0x0800_0000,
            ram_end: 1 << 32,
            hpet: true,
            floppy: true,
            serial: [true, true, false, false],
            parallel: true,
            numa: Numa::default(),
            slots: 0xffff_fff8,
        }
    }

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |s: u8, b| s.wrapping_add(*b))
    }

    fn u32_at(bytes: &[u8], at: usize) -> usize {
        u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
    }

    /// Follows root pointer, root table and FADT.
    fn walk(files: &Files) -> Vec<([u8; 4], Vec<u8>)> {
        const BASE: usize = 0x7fe_0000;
        let (tables, rsdp) = link(files, BASE as u32);
        assert_eq!(sum(&rsdp), 0);
        let table = |address: usize| {
            let at = address - BASE;
            let t = tables[at..at + u32_at(&tables, at + 4)].to_vec();
            let signature: [u8; 4] = t[..4].try_into().unwrap();
            if signature != *b"FACS" {
                assert_eq!(sum(&t), 0, "{}", String::from_utf8_lossy(&signature));
            }
            (signature, t)
        };
        let rsdt = table(u32_at(&rsdp, 16)).1;
        let mut out: Vec<_> =
            (36..rsdt.len()).step_by(4).map(|i| table(u32_at(&rsdt, i))).collect();
        let fadt = out[0].1.clone();
        out.push(table(u32_at(&fadt, 36)));
        out.push(table(u32_at(&fadt, 40)));
        out
    }

    #[test]
    fn firmware_can_link_the_tables_and_follow_every_pointer() {
        let names = |q35| -> Vec<String> {
            let tables = walk(&build(&config(q35), 0x600, 0xb000_0000));
            tables.iter().map(|t| String::from_utf8_lossy(&t.0).into()).collect()
        };
        assert_eq!(names(false), ["FACP", "APIC", "HPET", "FACS", "DSDT"]);
        assert_eq!(names(true), ["FACP", "APIC", "HPET", "MCFG", "FACS", "DSDT"]);
    }

    #[test]
    fn nodes_are_told_of_with_their_cpus_memory_and_distances() {
        let numa = Numa {
            memory: vec![1 << 30, 2 << 30],
            cpus: vec![0, 1],
            distances: vec![10, 21, 21, 10],
        };
        let tables = walk(&build(&Config { numa, low_ram: 2 << 30, ..config(true) }, 0x600, 0));
        let named = |name: &[u8]| &tables.iter().find(|t| t.0[..] == *name).unwrap().1;
        let srat = named(b"SRAT");
        assert_eq!(srat.len(), 48 + 2 * 16 + 3 * 40);
        assert_eq!((srat[48 + 16 + 2], srat[48 + 16 + 3]), (1, 1), "CPU 1 is in node 1");
        let above = &srat[48 + 32 + 80..];
        assert_eq!((u32_at(above, 2), u32_at(above, 8), u32_at(above, 12)), (1, 0, 1));
        assert_eq!(u32_at(above, 16), 1 << 30, "half of node 1 lies above the hole");
        assert_eq!(named(b"SLIT")[36..], [2, 0, 0, 0, 0, 0, 0, 0, 10, 21, 21, 10]);
    }

    #[test]
    fn the_fixed_table_names_the_window_that_firmware_chose() {
        let tables = walk(&build(&config(false), 0xb000, 0));
        let fadt = &tables[0].1;
        assert_eq!(fadt.len(), 244);
        assert_eq!(
            (u32_at(fadt, 56), u32_at(fadt, 76), u32_at(fadt, 80)),
            (0xb000, 0xb008, 0xafe0)
        );
    }

    #[test]
    fn tables_keep_their_size_wherever_firmware_puts_things() {
        let size = |pm, ecam| build(&config(true), pm, ecam).tables.len();
        assert_eq!(size(0x600, 0xb000_0000), size(0xb000, 0xe000_0000));
        assert_eq!(size(0x600, 0xb000_0000), size(0xb000, 0x0800_0000));
    }
}
