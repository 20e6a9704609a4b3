//! Runs a flat 32-bit binary on one CPU with nothing but RAM and says how fast: for tuning the
//! engine. `flat FILE [INSTRUCTIONS] [jit]`; the file is loaded and entered at 0x10000, ends with HLT,
//! and leaves a checksum in EAX.
#![expect(clippy::disallowed_types, clippy::disallowed_methods, reason = "a tool, not the core")]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a tool, not the core")]

use std::time::Instant;

use orrery_cpu::x86::cpuid::Model;
use orrery_cpu::x86::state::{Activity, Segment, attr, cr0, seg, var};
use orrery_cpu::x86::{X86, X86Isa};
use orrery_cpu::{Cluster, Cpus};
use orrery_system::board::Board;

const CODE: u64 = 0x1_0000;

fn main() {
    let mut args = std::env::args().skip(1);
    let Some(file) = args.next() else {
        eprintln!("usage: flat FILE [INSTRUCTIONS]");
        std::process::exit(1);
    };
    let limit: u64 = args.next().map_or(u64::MAX, |n| n.parse().unwrap_or(u64::MAX));
    let code = std::fs::read(&file).expect("the program");

    let mut cpu = X86::new(Model::named("max").expect("a model"), 0, 1);
    cpu.sys.cr0 |= cr0::PE | cr0::ET;
    let flat = attr::P | attr::S | attr::RW | attr::A | attr::G | attr::DB;
    for i in 0..6 {
        cpu.set_segment(i, Segment { selector: 0x10, attr: flat, limit: u32::MAX, base: 0 });
    }
    cpu.set_segment(
        seg::CS,
        Segment { selector: 8, attr: flat | attr::CODE, limit: u32::MAX, base: 0 },
    );
    cpu.frame.ints[var::RIP] = CODE;
    cpu.frame.ints[var::RSP] = CODE;

    let mut board = Board::with_ram(64 << 20);
    board.ram().write_bytes(CODE as usize, &code);
    let mut cluster: Cluster<X86Isa> = Cluster::new([cpu]);
    #[cfg(feature = "jit-native")]
    if std::env::args().any(|a| a == "jit") {
        let native = orrery_cpu::jit::native::Native::new(Cluster::<X86Isa>::shims(), true)
            .expect("a compiler");
        cluster.set_compiler(Box::new(native), Default::default());
    }
    let start = Instant::now();
    let mut total = 0;
    while total < limit {
        board.begin_slice(board.now().after(1_000_000));
        let ran = cluster.run(0, &mut board, 1_000_000.min(limit - total));
        board.end_slice(ran.insns);
        total += ran.insns;
        if !ran.runnable {
            break;
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    let cpu = cluster.cpu(0);
    println!(
        "{file}: eax {:08x}, {total} instructions in {seconds:.3} s, {:.0} M/s{}",
        cpu.frame.ints[var::RAX],
        total as f64 / seconds / 1e6,
        if cpu.sys.activity == Activity::Halted { "" } else { " (not halted)" }
    );
    println!("{:?}, {} blocks", cluster.stats, cluster.blocks());
    println!("{:?}", cluster.jit_stats());
}
