//! Shows the IR of x86 instructions: `ir 16|32|64 HEX...`, before and after the optimiser.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a tool, not the core")]

use orrery_cpu::ir::{Builder, opt::optimise, text::dump};
use orrery_cpu::isa::{Isa, Lift};
use orrery_cpu::x86::cpuid::Model;
use orrery_cpu::x86::state::key;
use orrery_cpu::x86::{X86, X86Isa};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let Some((size, hex)) = args.split_first() else {
        eprintln!("usage: ir 16|32|64 HEX...");
        std::process::exit(1);
    };
    let key = match size.as_str() {
        "16" => 0,
        "64" => 2 | key::LONG | key::PROTECTED | key::OSFXSR,
        _ => 1 | key::STACK32 | key::PROTECTED | key::FLAT | key::OSFXSR,
    };
    let hex = hex.concat();
    let code: Vec<u8> = (0..hex.len() / 2)
        .map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).expect("hexadecimal bytes"))
        .collect();
    let cpu = X86::new(Model::named("max").expect("a model"), 0, 1);
    let (mut b, mut pos) = (Builder::new(), 0);
    while pos < code.len() && !b.ended() {
        let pc = 0x1000 + pos as u64;
        b.begin_insn(pc);
        match X86Isa::lift(&cpu, key, pc, &code[pos..], &mut b) {
            Lift::Next(len) | Lift::End(len) => {
                b.set_insn_len(len);
                pos += usize::from(len);
            }
            Lift::Short => break,
        }
    }
    if !b.ended() {
        b.goto(0x1000 + pos as u64);
    }
    println!("{}", dump(b.ops()));
    optimise(b.ops_mut(), |v| X86Isa::var_bits(key, v));
    println!("{}", dump(b.ops()));
}
