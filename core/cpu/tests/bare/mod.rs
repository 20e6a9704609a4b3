//! A computer with nothing but a processor, memory and a few ports, for test programs that run
//! on bare metal.

use std::sync::{Arc, Mutex};

use orrery_cpu::cluster::Cluster;
use orrery_cpu::cpus::Cpus;
use orrery_cpu::x86::cpuid::Model;
use orrery_cpu::x86::{X86, X86Isa};
use orrery_system::board::BoardConfig;
use orrery_system::{Board, BusError, BusResult, Device, Registers, RestoreError, State, StateBlob};
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
/// 16550 as far as a program polls it for output.
struct Ports(Arc<Mutex<Said>>);

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
}

impl Registers for Ports {
    fn read(&mut self, bank: u32, offset: u64, width: u8) -> BusResult<u64> {
        match (bank, offset, width) {
            (3, 5, 1) => Ok(0x60),
            (1, 0, 1) => Ok(0xe9),
            (_, _, 1) => Ok(0),
            _ => Err(BusError::Width),
        }
    }

    fn write(&mut self, bank: u32, offset: u64, width: u8, value: u64) -> BusResult<()> {
        let mut said = self.0.lock().expect("no panic while held");
        match (bank, offset) {
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
        let config = BoardConfig { ram_capacity: ram + rom.len(), ..BoardConfig::default() };
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
        let said = Arc::new(Mutex::new(Said::default()));
        let id = board.reserve("ports");
        for (bank, port, len) in [(0, 0x190, 1), (1, 0xe9, 1), (2, 0xf4, 4), (3, 0x3f8, 8)] {
            let region = board.regions().device("ports", len, id, bank);
            board.io().add(port, &region);
        }
        board.attach(id, Box::new(Ports(said.clone())));
        board.pins(0).a20.pin().set(true);
        board.settle();
        let model = Model::named(model).expect("a model there is");
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
            done += ran.insns;
            if !ran.runnable || self.said.lock().expect("no panic while held").exit.is_some() {
                break;
            }
        }
        done
    }
}
