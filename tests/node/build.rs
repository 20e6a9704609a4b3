//! Link arguments.
#![expect(
    clippy::disallowed_methods,
    reason = "a build script reads its target from the environment"
)]

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_ARCH").as_deref() == Ok("wasm32") {
        // Generated code goes into the table of functions.
        println!("cargo:rustc-link-arg-cdylib=--growable-table");
    }
}
