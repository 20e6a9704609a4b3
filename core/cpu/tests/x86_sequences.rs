//! A million short random sequences of instructions, each run by every engine from the same state:
//! 16, 32 and 64-bit code with and without privilege, integers, x87, MMX and SSE to SSE4.2, operands across pages
//! and beside them, exceptions, branches, code that changes itself. Registers, flags, x87, control
//! registers, memory, page tables and the number of instructions must come out the same.
//!
//! `ORRERY_SEQUENCES=n` runs so many, `ORRERY_SEQUENCES_SEED=n` other ones, `ORRERY_SEQUENCE=n` the one
//! of this number, `ORRERY_ENGINE=one-pass` one engine beside the interpreter.
#![expect(clippy::disallowed_methods, reason = "the environment says how many to run")]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "says how many were run")]

mod engines;
mod machine;
mod sequences;

use std::collections::BTreeMap;

use engines::Engine;
use libtest_mimic::{Arguments, Trial};
use sequences::generate::Sequence;
use sequences::world::{Kind, Outcome, World};

/// How many are generated where the environment does not say.
const USUAL: u64 = 1_000_000;
/// One in so many is run by Cranelift, which takes longer than the rest together.
const CRANELIFT: u64 = 32;
/// And by Cranelift as on a host of the oldest kind.
const PLAIN: u64 = 128;
/// And by the interpreter an instruction at a time.
const STEPS: u64 = 4;

fn number(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// Says which sequence was running when an engine panicked.
struct Running<'a>(&'a Sequence, u64, u64);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Self(sequence, seed, n) = self;
            eprintln!("seed {seed}, sequence {n}, {:?}:\n{}", sequence.kind, sequence.listing());
        }
    }
}

fn worlds(kind: Kind) -> Vec<World> {
    let engines = engines::chosen().into_iter().filter(|&e| e != Engine::Interpreter);
    let mut all = vec![
        World::new(kind, Engine::Interpreter, false),
        World::new(kind, Engine::Interpreter, true),
    ];
    all.extend(engines.map(|e| World::new(kind, e, false)));
    if engines::all().contains(&Engine::Cranelift) && std::env::var_os("ORRERY_ENGINE").is_none() {
        all.push(World::new(kind, Engine::Plain, false));
    }
    all
}

/// Runs it in all worlds; answers the first outcome, and the engine that does not agree.
fn disagreement(sequence: &Sequence) -> Option<(String, Outcome, Outcome)> {
    let mut worlds = worlds(sequence.kind);
    let first = worlds[0].run(sequence);
    for world in &mut worlds[1..] {
        let other = world.run(sequence);
        if other != first {
            return Some((world.name(), first, other));
        }
    }
    None
}

/// The same disagreement with as few instructions as possible.
fn shrunk(mut sequence: Sequence) -> Sequence {
    let mut again = true;
    while again {
        again = false;
        for n in (0..sequence.len()).rev() {
            let less = sequence.without(n);
            if disagreement(&less).is_some() {
                (sequence, again) = (less, true);
            }
        }
        for budget in 1..sequence.budget.min(20) {
            let less = Sequence { budget, ..sequence.clone() };
            if disagreement(&less).is_some() {
                (sequence, again) = (less, true);
                break;
            }
        }
    }
    sequence
}

fn compare(kind: Kind) {
    let seed = number("ORRERY_SEQUENCES_SEED").unwrap_or(1);
    let only = number("ORRERY_SEQUENCE");
    let total = number("ORRERY_SEQUENCES").unwrap_or(USUAL).div_ceil(Kind::ALL.len() as u64);
    let numbers = only.map_or(0..total, |n| n..n + 1);
    let mut worlds = worlds(kind);
    let (mut classes, mut exceptions) = (BTreeMap::new(), BTreeMap::new());
    let (mut instructions, mut ran, mut runs) = (0, 0, 0);
    let count = numbers.end - numbers.start;
    for n in numbers {
        let sequence = Sequence::random(kind, seed, n);
        let running = Running(&sequence, seed, n);
        let first = worlds[0].run(&sequence);
        runs += 1;
        for world in &mut worlds[1..] {
            let one_in = match world.engine {
                Engine::Interpreter => STEPS,
                Engine::OnePass => 1,
                Engine::Cranelift => CRANELIFT,
                Engine::Plain => PLAIN,
            };
            if only.is_none() && !n.is_multiple_of(one_in) {
                continue;
            }
            let other = world.run(&sequence);
            runs += 1;
            if other == first {
                continue;
            }
            // On machines that ran nothing else.
            let alone = disagreement(&sequence).map(|_| shrunk(sequence.clone()));
            let told = alone.as_ref().unwrap_or(&sequence);
            let (name, a, b) = match &alone {
                Some(less) => disagreement(less).expect("it was shrunk to what disagrees"),
                None => (format!("{} (only after others)", world.name()), first, other),
            };
            std::mem::forget(running);
            panic!(
                "seed {seed}, sequence {n}, {kind:?}, budget {}: interpreter, {name}\n{}{}state {:#x}",
                told.budget,
                told.listing(),
                a.differences(&b),
                told.state
            );
        }
        std::mem::forget(running);
        instructions += sequence.len() as u64;
        ran += first.insns;
        *classes.entry(sequence.class).or_insert(0u64) += 1;
        *exceptions.entry(first.exception()).or_insert(0u64) += 1;
    }
    println!(
        "{kind:?}, seed {seed}: {count} sequences of {instructions} instructions, {ran} executed, {runs} runs; \
         {classes:?}; exceptions {exceptions:?}"
    );
    for world in &worlds[2..] {
        println!("  {}: {}", world.name(), world.compiled());
    }
    if only.is_none() {
        // Enough of them must come to an end of their own for the comparison to mean something.
        let whole = exceptions.get(&None).copied().unwrap_or(0);
        assert!(whole * 3 > count, "{whole} of {count} raised no exception");
    }
}

fn main() -> std::process::ExitCode {
    let trials = Kind::ALL.map(|kind| {
        let name = match kind {
            Kind::Real => "sixteen_bit_sequences_come_out_the_same",
            Kind::Protected0 => "thirty_two_bit_sequences_come_out_the_same",
            Kind::Protected3 => "thirty_two_bit_sequences_of_a_user_come_out_the_same",
            Kind::Long0 => "sixty_four_bit_sequences_come_out_the_same",
            Kind::Long3 => "sixty_four_bit_sequences_of_a_user_come_out_the_same",
        };
        Trial::test(name, move || {
            compare(kind);
            Ok(())
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.into()).exit_code()
}
