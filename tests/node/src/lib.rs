//! The random sequences of `x86_sequences`, interpreted and in compiled WebAssembly: `sequences.mjs` runs them in
//! Node, where native tests cannot go.
#![cfg(target_arch = "wasm32")]

mod engines;
mod host;
#[path = "../../../frontends/web/src/jit.rs"]
mod jit;
#[path = "../../../core/cpu/tests/machine/mod.rs"]
mod machine;
#[expect(dead_code, reason = "the native test tells more of what it ran")]
#[path = "../../../core/cpu/tests/sequences/mod.rs"]
mod sequences;

use engines::Engine;
use sequences::generate::Sequence;
use sequences::world::{Kind, World};
use wasm_bindgen::prelude::*;

/// Runs sequences `first` to `end` of a kind (0 to 4: 16 bits, 32 with and without privilege, 64 so). Throws where compiled
/// code does not come out as the interpreter does; else says how much was compiled.
#[wasm_bindgen]
pub fn compare(kind: usize, seed: u32, first: u32, end: u32) -> Result<String, JsValue> {
    std::panic::set_hook(Box::new(|info| host::report(&info.to_string())));
    let kind = *Kind::ALL.get(kind).ok_or("there are five kinds")?;
    let mut worlds = [Engine::Interpreter, Engine::Wasm].map(|e| World::new(kind, e, false));
    let (mut ran, mut whole) = (0, 0);
    for n in first..end {
        let sequence = Sequence::random(kind, seed.into(), n.into());
        let [interpreted, compiled] = worlds.each_mut().map(|w| w.run(&sequence));
        engines::sweep();
        if compiled != interpreted {
            let (listing, differs) = (sequence.listing(), interpreted.differences(&compiled));
            let what = format!("seed {seed}, sequence {n}, {kind:?}, interpreter, compiled");
            return Err(format!("{what}\n{listing}{differs}").into());
        }
        ran += interpreted.insns;
        whole += u32::from(interpreted.exception().is_none());
    }
    // Enough of them must come to an end of their own for the comparison to mean something.
    if whole * 3 <= end - first {
        return Err(format!("only {whole} of {} raised no exception", end - first).into());
    }
    Ok(format!("{kind:?}: {} sequences, {ran} instructions; {}", end - first, worlds[1].compiled()))
}
