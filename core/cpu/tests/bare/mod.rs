//! A computer with nothing but a processor, memory and a few ports, for test programs that run
//! on bare metal.
#![allow(dead_code, reason = "no test program uses all of it")]

use std::sync::{Arc, Mutex};

use orrery_cpu::cluster::Cluster;
use orrery_cpu::cpus::Cpus;
use orrery_cpu::x86::cpuid::Model;
use orrery_cpu::x86::state::{Segment, cr0, seg, var};
use orrery_cpu::x86::{X86, X86Isa};
use orrery_system::board::BoardConfig;
use orrery_system::device::{CpuRegisters, IntAck};
use orrery_system::{
    Board, BusError, BusResult, Device, IrqLine, Registers, RestoreError, State, StateBlob,
};
use serde::{Deserialize, Serialize};

/// What the program said through its ports.
#[derive(Debug, Default)]
pub(crate) struct Said {
    /// Text written to the debug port and the serial port.
    pub(crate) text: Vec<u8>,
    /// Values written to the diagnostic port.
    pub(crate) post: Vec<u8>,
    /// Value written to the exit port.
    pub(crate) exit: Option<u32>,
}

/// One device for all ports: bank 0 diagnostic, bank 1 debug console, bank 2 exit, bank 3 the
/// 16550 as far as a program polls it for output, bank 4 the keys of fw_cfg that tell the number
/// of processors and the end of memory; bank 5 a local APIC that stores its registers and sends
/// interrupts to itself; bank 6 interrupt lines and bank 7 a port that reads what was written, of
/// the test device that kvm-unit-tests knows.
struct Ports {
    said: Arc<Mutex<Said>>,
    intr: IrqLine,
    nmi: IrqLine,
    echo: u32,
    ram: u64,
    fw_cfg: (u64, u32),
    apic: [u32; 64],
    apic_base: u64,
    requests: Vec<u8>,
    cr8: u64,
}

impl Ports {
    fn fw_cfg(&mut self) -> u64 {
        let (key, at) = self.fw_cfg;
        self.fw_cfg.1 += 1;
        let value = match key {
            3 | 0x11 => self.ram,
            5 | 0xf => 1,
            _ => 0,
        };
        value.checked_shr(8 * at).unwrap_or(0) & 0xff
    }

    fn drive(&self) {
        self.intr.set(!self.requests.is_empty());
    }
}

impl IntAck for Ports {
    fn acknowledge(&mut self, _cpu: usize) -> Option<u8> {
        self.requests.sort_unstable();
        let vector = self.requests.pop();
        self.drive();
        vector
    }
}

impl CpuRegisters for Ports {
    fn msr_read(&mut self, _cpu: usize, index: u32) -> Option<u64> {
        (index == 0x1b).then_some(self.apic_base)
    }

    fn msr_write(&mut self, _cpu: usize, index: u32, value: u64) -> bool {
        if index == 0x1b {
            self.apic_base = value;
        }
        index == 0x1b
    }

    fn cr8(&mut self, _cpu: usize) -> u64 {
        self.cr8
    }

    fn set_cr8(&mut self, _cpu: usize, value: u64) {
        self.cr8 = value;
    }
}

#[derive(Serialize, Deserialize)]
struct Nothing;

impl State for Nothing {
    const KIND: &'static str = "test-ports";
    const VERSION: u16 = 1;
}

impl Device for Ports {
    fn name(&self) -> &'static str {
        Nothing::KIND
    }

    fn reset(&mut self) {}

    fn save(&self) -> StateBlob {
        StateBlob::encode(&Nothing)
    }

    fn restore(&mut self, _: &StateBlob) -> Result<(), RestoreError> {
        Ok(())
    }

    fn registers(&mut self) -> Option<&mut dyn Registers> {
        Some(self)
    }

    fn int_ack(&mut self) -> Option<&mut dyn IntAck> {
        Some(self)
    }

    fn cpu_registers(&mut self) -> Option<&mut dyn CpuRegisters> {
        Some(self)
    }
}

impl Registers for Ports {
    fn read(&mut self, bank: u32, offset: u64, width: u8) -> BusResult<u64> {
        match (bank, offset, width) {
            (5, 0x20, _) => Ok(0),
            (5, 0x30, _) => Ok(0x5_0014),
            (5, _, _) => Ok(self.apic[offset as usize / 16 % 64].into()),
            (4, 1, 1) => Ok(self.fw_cfg()),
            (7, _, _) => Ok((self.echo >> (8 * offset)).into()),
            (3, 5, 1) => Ok(0x60),
            (1, 0, 1) => Ok(0xe9),
            (_, _, 1) => Ok(0),
            _ => Err(BusError::Width),
        }
    }

    fn write(&mut self, bank: u32, offset: u64, width: u8, value: u64) -> BusResult<()> {
        let mut said = self.said.lock().expect("no panic while held");
        match (bank, offset) {
            (5, _) => {
                self.apic[offset as usize / 16 % 64] = value as u32;
                // ICR: to itself whatever the destination; fixed or NMI.
                match (offset, value >> 8 & 7) {
                    (0x300, 0) => self.requests.push(value as u8),
                    (0x300, 4) => self.nmi.pulse(),
                    _ => {}
                }
                self.drive();
            }
            // The test device's interrupt lines, the second interrupt controller's at vector 0x70.
            (6, 8..16) if value != 0 => {
                self.requests.push(0x68 + offset as u8);
                self.drive();
            }
            (4, 0) => self.fw_cfg = (value, 0),
            (7, _) => {
                let mask = (u64::MAX >> (64 - 8 * width)) as u32;
                let shift = 8 * offset as u32;
                self.echo = self.echo & !(mask << shift) | (value as u32 & mask) << shift;
            }
            (0, _) => said.post.push(value as u8),
            (2, _) => said.exit = Some(value as u32),
            _ if width > 1 => return Err(BusError::Width),
            (1 | 3, 0) => said.text.push(value as u8),
            _ => {}
        }
        Ok(())
    }
}

/// The computer.
pub(crate) struct Bare {
    /// Its board.
    pub(crate) board: Board,
    /// Its processor.
    pub(crate) cpus: Cluster<X86Isa>,
    /// What it said so far.
    pub(crate) said: Arc<Mutex<Said>>,
}

impl Bare {
    /// `ram` bytes of memory, with a ROM at the top of the first MiB and of the 4 GiB.
    pub(crate) fn new(model: &str, ram: usize, rom: &[u8]) -> Self {
        let ram_capacity = ram + rom.len() + 0x1_0000;
        let config = BoardConfig { ram_capacity, ..BoardConfig::default() };
        let mut board = Board::new(config);
        let block = board.ram().alloc("ram", ram).expect("as large as asked");
        board.memory().add(0, &board.regions().ram("ram", block));
        if !rom.is_empty() {
            let len = rom.len() as u64;
            let block = board.ram().alloc("rom", rom.len()).expect("as large as asked");
            board.ram().write_bytes(block.offset, rom);
            let low = board.regions().rom("rom", block);
            let high = board.regions().alias("rom-high", &low, 0, len);
            board.memory().add_priority(0x10_0000 - len, 1, &low);
            board.memory().add_priority((1 << 32) - len, 1, &high);
        }
        // Where the test device has its memory.
        let block = board.ram().alloc("test-memory", 0x1_0000).expect("as large as asked");
        board.memory().add(0xff00_0000, &board.regions().ram("test-memory", block));
        let said = Arc::new(Mutex::new(Said::default()));
        let id = board.reserve("ports");
        for (bank, port, len) in [
            (0, 0x190, 1),
            (1, 0xe9, 1),
            (2, 0xf4, 4),
            (3, 0x3f8, 8),
            (4, 0x510, 2),
            (6, 0x2000, 24),
            (7, 0xe0, 4),
        ] {
            let region = board.regions().device("ports", len, id, bank);
            board.io().add(port, &region);
        }
        board.memory().add_priority(0xfee0_0000, 1, &board.regions().device("apic", 0x1000, id, 5));
        let ports = Ports {
            said: said.clone(),
            intr: board.pins(0).intr.pin(),
            nmi: board.pins(0).nmi.pin(),
            echo: 0,
            ram: ram as u64,
            fw_cfg: (0, 0),
            apic: [0; 64],
            apic_base: 0xfee0_0900,
            requests: Vec::new(),
            cr8: 0,
        };
        board.attach(id, Box::new(ports));
        board.set_int_ack(vec![id]);
        board.set_cpu_registers(id);
        board.pins(0).a20.pin().set(true);
        board.settle();
        let (model, _) = Model::parse(model).expect("a model there is");
        let cpus = Cluster::new([X86::new(model, 0, 0)]);
        Self { board, cpus, said }
    }

    /// Runs until the program halts for good, exits, or `limit` instructions are done; answers how
    /// many ran.
    pub(crate) fn run(&mut self, limit: u64) -> u64 {
        let mut done = 0;
        while done < limit {
            let end = self.board.now().after(100_000);
            let budget = self.board.begin_slice(end).min(limit - done);
            let ran = self.cpus.run(0, &mut self.board, budget);
            self.board.end_slice(ran.insns);
            self.board.settle();
            done += ran.insns.max(1);
            if !ran.runnable || self.said.lock().expect("no panic while held").exit.is_some() {
                break;
            }
        }
        done
    }

    /// Loads a 32-bit ELF file and starts it as a Multiboot loader does (Multiboot specification
    /// 0.6.96, section 3.2).
    pub(crate) fn multiboot(&mut self, elf: &[u8], command_line: &str) {
        let get = |at: usize, n: usize| {
            elf[at..at + n].iter().rev().fold(0usize, |v, b| v << 8 | usize::from(*b))
        };
        let (table, size, count) = (get(28, 4), get(42, 2), get(44, 2));
        for header in (0..count).map(|i| table + i * size).filter(|&at| get(at, 4) == 1) {
            let (from, to, len) = (get(header + 4, 4), get(header + 12, 4), get(header + 16, 4));
            self.board.ram().write_bytes(to, &elf[from..from + len]);
        }
        const INFO: usize = 0x7_0000;
        const LINE: usize = 0x7_0100;
        let ram = self.board.ram();
        ram.write_bytes(LINE, command_line.as_bytes());
        ram.write_u32(INFO, 5);
        ram.write_u32(INFO + 4, 640);
        ram.write_u32(INFO + 8, (ram.len() >> 10) as u32 - 1024);
        ram.write_u32(INFO + 16, LINE as u32);
        let flat = |attr| Segment { selector: 8, attr, limit: 0xffff_ffff, base: 0 };
        let cpu = self.cpus.cpu_mut(0);
        cpu.sys.cr0 = cr0::PE | cr0::ET;
        for i in 0..6 {
            cpu.set_segment(i, flat(if i == seg::CS { 0xc09b } else { 0xc093 }));
        }
        cpu.frame.ints[var::RAX] = 0x2bad_b002;
        cpu.frame.ints[var::RBX] = INFO as u64;
        cpu.set_rip(get(24, 4) as u64);
    }
}
