//! The ROM on this project's own machines, in deterministic time.
//!
//! The sums of the two pictures, and the lines looked for, are those that QEMU 7.2 gives on the
//! same machines.

use orrery_block::exec::Executor;
use orrery_block::graph::BlockGraph;
use orrery_block::host::{HostFs, MemFile, MemFs};
use orrery_block::qcow2::CreateOptions;
use orrery_block::{Format, img};
use orrery_core::launch::{Host, launch};
use orrery_core::options::Options;
use orrery_core::{Machine, Outcome, Stop, keyboard};
use orrery_diag::ROM;
use orrery_system::display::Surface;
use orrery_system::input::InputEvent;
use std::sync::Arc;

const SECOND: u64 = 1_000_000_000;

struct Files(MemFs);

impl Host for Files {
    fn fs(&self) -> &dyn HostFs {
        &self.0
    }
    fn firmware_dirs(&self) -> Vec<String> {
        Vec::new()
    }
    fn epoch_secs(&self) -> i64 {
        1_000_000_000
    }
}

/// A machine in front of which one can sit.
struct Bench {
    machine: Machine,
    serial: String,
}

impl Bench {
    fn start(board: &str, files: &Files, more: &[&str]) -> Self {
        files.0.add("diag.bin", Arc::new(MemFile::from_bytes(ROM)));
        let mut args = vec!["-M", board, "-bios", "diag.bin", "-m", "8", "-icount", "shift=3"];
        args.extend(["-display", "none", "-serial", "null"]);
        args.extend(more);
        let options = Options::parse(&args).expect("known options");
        let launched = Executor::default()
            .run_in_place(launch(&options, files))
            .expect("memory does not wait")
            .expect("the machine is built");
        Self { machine: launched.machine, serial: String::new() }
    }

    /// Runs until COM1 has sent `text`, after what was waited for before.
    fn wait(&mut self, text: &str) -> String {
        let limit = self.machine.board.now().after(30 * SECOND);
        loop {
            if let Some(at) = self.serial.find(text) {
                let seen = self.serial[..at + text.len()].to_owned();
                self.serial.drain(..at + text.len());
                return seen;
            }
            assert!(self.machine.board.now() < limit, "no {text:?} after {:?}", self.serial);
            self.slice();
        }
    }

    fn slice(&mut self) -> Outcome {
        let outcome = self.machine.run(0, SECOND / 100);
        let bytes = self.machine.handles.serials[0].drain();
        self.serial.push_str(&String::from_utf8_lossy(&bytes));
        outcome
    }

    fn idle(&mut self, ns: u64) {
        let end = self.machine.board.now().after(ns);
        while self.machine.board.now() < end {
            self.slice();
        }
    }

    fn press(&mut self, name: &str) {
        let key = keyboard::key(name).expect("a key");
        for down in [true, false] {
            self.machine.input(InputEvent::Key { key, down });
            self.idle(SECOND / 20);
        }
    }

    fn picture(&mut self) -> Surface {
        let mut surface = Surface::default();
        assert!(self.machine.render(&mut surface, true));
        surface
    }
}

fn no_files() -> Files {
    Files(MemFs::new())
}

/// A blank disk, qcow2 in memory.
fn blank_disk() -> Files {
    let files = no_files();
    let file = Arc::new(MemFile::new());
    let graph = BlockGraph::new();
    let options = CreateOptions { size: 1 << 20, ..CreateOptions::default() };
    Executor::default()
        .run_in_place(img::create(&graph, file.clone(), Format::Qcow2, &options))
        .expect("memory does not wait")
        .expect("an empty image");
    files.0.add("disk.qcow2", file);
    files
}

const DISK: [&str; 2] = ["-drive", "file=disk.qcow2,format=qcow2,if=ide"];

fn check_lines(seen: &str, lines: &[&str]) {
    for line in lines {
        assert!(seen.lines().any(|l| l == *line), "no line {line:?} in:\n{seen}");
    }
}

#[test]
fn every_pc_is_listed_line_by_line() {
    let common = [
        "orrery-diag 1",
        "memory 640 KiB + 7168 KiB",
        "isa 020 8259A pair",
        "isa 040 8254 running, interrupts arrive",
        "isa 000 8237A DMA 0-3",
        "isa 0c0 8237A DMA 4-7",
        "isa 060 8042 keyboard mouse",
        "isa 3f8 COM1 16550A",
        "isa 510 fw_cfg, memory 8 MiB, processors 1",
        "speaker 1000 Hz, 200 ms",
        "ram 8 MiB, 0 errors",
        "vga text 80x25",
        "vga 320x200x8 at 000a0000 sum 6771b2bd",
        "vbe b0c5 640x480x32 at e0000000 sum 3408018b",
        "starts: not counted, no IDE disk",
        "keys: G graphics, B beep, R reboot, P power off",
    ];
    let pc = [
        "pci 00:00.0 8086:1237 06.00 host bridge",
        "pci 00:01.0 8086:7000 06.01 ISA bridge",
        "pci 00:01.1 8086:7010 01.01 IDE",
        "pci 00:01.3 8086:7113 06.80 bridge",
        "ioapic fec00000 version 20 pins 24",
    ];
    let q35 = [
        "pci 00:00.0 8086:29c0 06.00 host bridge",
        "pci 00:1f.0 8086:2918 06.01 ISA bridge",
        "pci 00:1f.3 8086:2930 0c.05 SMBus",
    ];
    for (board, own) in [("pc", &pc[..]), ("q35", &q35), ("isapc", &["pci none"])] {
        let mut bench = Bench::start(board, &no_files(), &[]);
        let seen = bench.wait("ready\r\n");
        check_lines(&seen, &common);
        check_lines(&seen, own);
        // The clock was started at 2001-09-09 01:46:40.
        assert!(seen.contains("isa 070 RTC 2001-09-09 01:46:4"), "{seen}");
        let screen = bench.machine.screen_text().expect("text is shown").join("\n");
        assert!(screen.starts_with(" Orrery diagnostic ROM"), "{screen}");
        assert!(screen.contains("ram 8 MiB, 0 errors") && screen.contains("\nready"), "{screen}");
    }
}

#[test]
fn starts_are_counted_on_the_first_disk() {
    let files = blank_disk();
    for (board, n) in [("pc", 1), ("pc", 2), ("isapc", 3)] {
        let mut bench = Bench::start(board, &files, &DISK);
        check_lines(&bench.wait("ready\r\n"), &[&format!("starts: {n}")]);
    }
}

#[test]
fn a_reset_by_the_keyboard_controller_is_a_start_too() {
    let mut bench = Bench::start("pc", &blank_disk(), &DISK);
    check_lines(&bench.wait("ready\r\n"), &["starts: 1"]);
    bench.press("r");
    check_lines(&bench.wait("ready\r\n"), &["reboot", "orrery-diag 1", "starts: 2"]);
}

#[test]
fn a_disk_with_something_else_on_it_is_left_alone() {
    let mut boot = vec![0; 1 << 16];
    boot[510..512].copy_from_slice(&[0x55, 0xaa]);
    let mut other = vec![0; 1 << 16];
    other[512 + 300] = 1;
    for (content, line) in [
        (boot, "starts: not counted, the disk has a boot sector"),
        (other, "starts: not counted, sector 1 of the disk holds something else"),
    ] {
        let files = no_files();
        let file = Arc::new(MemFile::from_bytes(&content));
        files.0.add("disk.raw", file.clone());
        let drive = ["-drive", "file=disk.raw,format=raw,if=ide"];
        let mut bench = Bench::start("pc", &files, &drive);
        check_lines(&bench.wait("ready\r\n"), &[line]);
        assert!(file.to_vec() == content, "the disk was written to");
    }
}

#[test]
fn keys_and_mouse_packets_are_shown() {
    let mut bench = Bench::start("pc", &no_files(), &[]);
    bench.wait("ready\r\n");
    bench.press("a");
    assert_eq!(bench.wait("key 9e\r\n"), "key 1e 'a'\r\nkey 9e\r\n");
    bench.machine.input(InputEvent::Motion { dx: 10, dy: -5 });
    assert_eq!(bench.wait("\r\n"), "mouse 08 10 5\r\n");
    bench.machine.handles.serials[0].push(*b"z");
    assert_eq!(bench.wait("\r\n"), "serial 7a 'z'\r\n");
}

#[test]
fn the_pictures_are_drawn_and_text_comes_back() {
    let mut bench = Bench::start("pc", &no_files(), &[]);
    bench.wait("ready\r\n");
    let text = bench.picture();
    assert_eq!((text.width, text.height), (720, 400));
    bench.press("g");
    bench.wait("320x200, any key");
    bench.idle(SECOND / 5);
    let cells = bench.picture();
    // Colour 23h: row 2, column 3; three bits of red, three of green, two of blue.
    let (sx, sy) = (cells.width / 320, cells.height / 200);
    let at = |x: u32, y: u32| cells.pixels[(y * sy * cells.width + x * sx) as usize] & 0xff_ffff;
    assert_eq!(at(0, 0), 0);
    assert_eq!(at(319, 190), 0xff_ffff);
    assert_eq!(at(3 * 20 + 10, 2 * 12 + 6) & 0xff, 0xff, "blue is full");
    bench.press("x");
    bench.wait("640x480, any key");
    bench.idle(SECOND / 5);
    let ramps = bench.picture();
    assert_eq!((ramps.width, ramps.height), (640, 480));
    for (i, pixel) in ramps.pixels.iter().enumerate() {
        let (x, y) = (i as u32 % 640, i as u32 / 640);
        let red = x * 102 >> 8;
        let colour = red << 16 | (y * 136 >> 8) << 8 | (255 - red);
        let writing = (200..280).contains(&y) && pixel & 0xff_ffff == 0xff_ffff;
        assert!(writing || pixel & 0xff_ffff == colour, "{x},{y}: {pixel:06x}");
    }
    bench.press("x");
    bench.wait("text\r\n");
    bench.idle(SECOND / 5);
    let back = bench.picture();
    assert_eq!((back.width, back.height), (720, 400));
    // The title did not change, neither its letters nor its colours.
    let title = 720 * 16;
    assert!(back.pixels[..title] == text.pixels[..title]);
}

#[test]
fn p_powers_off_where_there_is_power_management() {
    for board in ["pc", "q35"] {
        let mut bench = Bench::start(board, &no_files(), &[]);
        bench.wait("ready\r\n");
        bench.machine.handles.serials[0].push(*b"p");
        bench.wait("power off");
        let end = bench.machine.board.now().after(SECOND);
        while bench.slice() != Outcome::Stopped(Stop::Shutdown) {
            assert!(bench.machine.board.now() < end, "{board} stays on");
        }
    }
    let mut bench = Bench::start("isapc", &no_files(), &[]);
    bench.wait("ready\r\n");
    bench.machine.handles.serials[0].push(*b"p");
    bench.wait("halted");
}

#[test]
fn two_runs_are_alike_instruction_for_instruction() {
    let run = || {
        let mut bench = Bench::start("pc", &no_files(), &[]);
        bench.wait("ready\r\n");
        (bench.machine.board.icount(), bench.machine.hash())
    };
    assert_eq!(run(), run());
}
