//! Devices on the ISA bus, and the drives of older controllers.

use super::{BOOTINDEX, DeviceType, Place, Property, RERROR, WERROR, property};
use crate::display::vga;
use crate::i386::drives::DriveBus;
use crate::ide;
use crate::machine::BuildError;
use crate::misc::port::Ports;
use crate::misc::{debugcon, debugexit, ib700, pvpanic, testdev};

const CHARDEV: Property = property("chardev", "where the output goes");
const INDEX: Property = property("index", "which one (the next)");
const DRIVE: Property = property("drive", "id of the drive");
const MODEL: Property = property("model", "model name");
const VERSION: Property = property("ver", "firmware version");
const IDE_DISK: &[Property] = &[
    DRIVE,
    UNIT,
    property("serial", "serial number"),
    MODEL,
    VERSION,
    property("cyls", "cylinders (by its size)"),
    property("heads", "heads (16)"),
    property("secs", "sectors of a track (63)"),
    property("bios-chs-trans", "how a BIOS translates them: none, lba, large or auto"),
    property("lcyls", "cylinders that a BIOS is to use"),
    property("lheads", "heads that a BIOS is to use"),
    property("lsecs", "sectors of a track that a BIOS is to use"),
    RERROR,
    WERROR,
    BOOTINDEX,
];
const UNIT: Property = property("unit", "place on the cable (the next)");

/// Drives were plugged in when their controller was built.
pub(super) fn plugged(_: &mut Place<'_, '_>) -> Result<(), BuildError> {
    Ok(())
}

pub(super) const DEVICES: &[DeviceType] = &[
    DeviceType {
        name: "isa-serial",
        bus: "ISA",
        description: "a serial port (16550A)",
        properties: &[
            INDEX,
            property("iobase", "first port (the usual one of its index)"),
            property("irq", "interrupt (the usual one of its index)"),
            CHARDEV,
        ],
        build: |p| {
            let (index, base, irq) = (p.given("index")?, p.given("iobase")?, p.given("irq")?);
            p.isa_irq("irq", 4)?;
            match p.chassis.more_serial(index.map(|n: u32| n as usize), base, irq) {
                Ok(port) => p.character(port, "isa-serial"),
                Err(reason) => return p.wrong(&reason),
            }
            Ok(())
        },
    },
    DeviceType {
        name: "isa-parallel",
        bus: "ISA",
        description: "a parallel port",
        properties: &[
            INDEX,
            property("iobase", "first port (the usual one of its index)"),
            property("irq", "interrupt (the usual one of its index)"),
            CHARDEV,
        ],
        build: |p| {
            let (index, base, irq) = (p.given("index")?, p.given("iobase")?, p.given("irq")?);
            p.isa_irq("irq", 7)?;
            match p.chassis.more_parallel(index.map(|n: u32| n as usize), base, irq) {
                Ok(port) => p.character(port, "isa-parallel"),
                Err(reason) => return p.wrong(&reason),
            }
            Ok(())
        },
    },
    DeviceType {
        name: "isa-debugcon",
        bus: "ISA",
        description: "a port that prints what is written to it",
        properties: &[
            property("iobase", "port (0xe9)"),
            property("readback", "what the port reads (0xe9)"),
            CHARDEV,
        ],
        build: |p| {
            let at = p.port("iobase", 0xe9)?;
            let config = debugcon::Config { readback: p.number("readback", 0xe9)? as u8 };
            let name = p.get("chardev").or(p.get("id")).unwrap_or("debugcon").to_string();
            p.chassis.debug_console(at, &name, config);
            Ok(())
        },
    },
    DeviceType {
        name: "isa-debug-exit",
        bus: "ISA",
        description: "a port that ends the emulator",
        properties: &[
            property("iobase", "first port (0x501)"),
            property("iosize", "how many ports (2)"),
        ],
        build: |p| {
            let (at, size) = (p.port("iobase", debugexit::PORT)?, p.number("iosize", 2)?);
            let board = &mut p.chassis.board;
            let id = board.reserve("isa-debug-exit");
            let ports = board.regions().device("debug-exit", size.clamp(1, 8), id, 0);
            board.io().add_priority(at.into(), 1, &ports);
            board.attach(id, Box::new(Ports(debugexit::DebugExit::new(board.power()))));
            Ok(())
        },
    },
    DeviceType {
        name: "pvpanic",
        bus: "ISA",
        description: "a port at which a guest says that it crashed",
        properties: &[property("ioport", "port (0x505)")],
        build: |p| {
            let at = p.port("ioport", 0x505)?;
            let board = &mut p.chassis.board;
            let id = board.reserve("pvpanic");
            let port = board.regions().device("pvpanic", 1, id, 0);
            board.io().add_priority(at.into(), 1, &port);
            board.attach(id, Box::new(Ports(pvpanic::PvPanic::new(board.power()))));
            p.chassis.items.add_file("etc/pvpanic-port", at.to_le_bytes());
            Ok(())
        },
    },
    DeviceType {
        name: "ib700",
        bus: "ISA",
        description: "a watchdog (iBASE 700)",
        properties: &[],
        build: |p| {
            ib700::build(&mut p.chassis.board);
            Ok(())
        },
    },
    DeviceType {
        name: "pc-testdev",
        bus: "ISA",
        description: "registers that show how accesses arrive",
        properties: &[],
        build: |p| {
            let lines = p.chassis.irqs();
            testdev::build(&mut p.chassis.board, lines);
            Ok(())
        },
    },
    DeviceType {
        name: "isa-vga",
        bus: "ISA",
        description: "a display adapter with the Bochs interface",
        properties: &[property("vgamem_mb", "MiB of video memory (8)")],
        build: |p| {
            let mib = p.video_memory(8)?;
            let rom = p.chassis.config.video_bios.clone();
            let id = vga::build_isa(&mut p.chassis.board, mib, &rom)?;
            p.chassis.built.display.get_or_insert(id);
            Ok(())
        },
    },
    DeviceType {
        name: "isa-fdc",
        bus: "ISA",
        description: "the floppy disk controller (82078)",
        properties: &[],
        // The board has it.
        build: plugged,
    },
    DeviceType {
        name: "isa-ide",
        bus: "ISA",
        description: "a cable of two ATA drives",
        properties: &[
            property("iobase", "command block (0x1f0)"),
            property("iobase2", "control block (0x3f6)"),
            property("irq", "interrupt (14)"),
        ],
        build: |p| {
            let (iobase, iobase2) = (p.port("iobase", 0x1f0)?, p.port("iobase2", 0x3f6)?);
            let line = p.isa_irq("irq", 14)?;
            let name = p.get("id").unwrap_or("isa-ide").to_string();
            let path = format!("/isa/ide@{iobase:04x}");
            let cable = DriveBus { name: &name, usual: false, cables: 1, units: 2, path };
            let mut plugs = p.chassis.disks(&cable)?.into_iter();
            let drives = [plugs.next().flatten(), plugs.next().flatten()];
            let config = ide::isa::Config { iobase, iobase2, drives };
            ide::isa::build(&mut p.chassis.board, config, line);
            Ok(())
        },
    },
    DeviceType {
        name: "ide-hd",
        bus: "IDE",
        description: "an ATA disk",
        properties: IDE_DISK,
        build: plugged,
    },
    DeviceType {
        name: "ide-cd",
        bus: "IDE",
        description: "an ATAPI CD-ROM drive",
        properties: &[
            DRIVE,
            UNIT,
            property("serial", "serial number"),
            MODEL,
            VERSION,
            RERROR,
            WERROR,
            BOOTINDEX,
        ],
        build: plugged,
    },
    DeviceType {
        name: "floppy",
        bus: "floppy-bus",
        description: "a floppy disk drive",
        properties: &[DRIVE, UNIT, BOOTINDEX],
        build: plugged,
    },
];

impl Place<'_, '_> {
    /// Bytes of video memory.
    pub(super) fn video_memory(&self, usual: u64) -> Result<usize, BuildError> {
        match self.number("vgamem_mb", usual)? {
            mib @ 1..=32 if mib.is_power_of_two() => Ok((mib as usize) << 20),
            _ => self.wrong("vgamem_mb is a power of two up to 32"),
        }
    }
}
