//! Devices on the ISA bus.

use super::{DeviceType, property};
use crate::misc::{debugcon, debugexit, pvpanic};

pub(super) const DEVICES: &[DeviceType] = &[
    DeviceType {
        name: "isa-debugcon",
        bus: "ISA",
        description: "a port that prints what is written to it",
        properties: &[
            property("iobase", "port (0xe9)"),
            property("readback", "what the port reads (0xe9)"),
            property("chardev", "where the output goes"),
        ],
        build: |p| {
            let at = p.number("iobase", 0xe9)? as u16;
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
            let (at, size) = (p.number("iobase", debugexit::PORT.into())?, p.number("iosize", 2)?);
            let board = &mut p.chassis.board;
            let id = board.reserve("isa-debug-exit");
            let ports = board.regions().device("debug-exit", size.clamp(1, 8), id, 0);
            board.io().add_priority(at & 0xffff, 1, &ports);
            let device = debugexit::DebugExit::new(board.power());
            board.attach(id, Box::new(device));
            Ok(())
        },
    },
    DeviceType {
        name: "pvpanic",
        bus: "ISA",
        description: "a port at which a guest says that it crashed",
        properties: &[property("ioport", "port (0x505)")],
        build: |p| {
            let at = p.number("ioport", 0x505)?;
            let board = &mut p.chassis.board;
            let id = board.reserve("pvpanic");
            let port = board.regions().device("pvpanic", 1, id, 0);
            board.io().add_priority(at & 0xffff, 1, &port);
            let device = pvpanic::PvPanic::new(board.power());
            board.attach(id, Box::new(device));
            p.chassis.items.add_file("etc/pvpanic-port", (at as u16).to_le_bytes());
            Ok(())
        },
    },
];
