//! Assembles the diagnostic ROM from `rom/` into `OUT_DIR/diag.bin`.

#![expect(
    clippy::disallowed_methods,
    reason = "a build script reads its environment and writes its output"
)]

#[path = "rom/mod.rs"]
mod rom;

fn main() {
    println!("cargo:rerun-if-changed=rom");
    let image = rom::build().expect("the ROM assembles");
    let out = std::env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    std::fs::write(std::path::Path::new(&out).join("diag.bin"), image)
        .expect("OUT_DIR can be written");
}
