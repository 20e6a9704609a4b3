//! `./x run` and the lints.

use crate::{guests, shell};
use anyhow::Result;

/// Builds the native program and runs it.
pub(crate) fn run(args: &[String]) -> Result<()> {
    shell::cargo(&["build", "--release", "--package", "orrery-native"])?;
    let target = std::env::var("CARGO_TARGET_DIR").unwrap_or_else(|_| "target".into());
    let program = format!("{target}/release/orrery");
    let mut all: Vec<String> = Vec::new();
    let graphic = args.iter().all(|a| a.trim_start_matches('-') != "nographic");
    if args.iter().all(|a| a.trim_start_matches('-') == "nographic") {
        match guests::fetch(&["firmware".into(), "debian-i386".into()]) {
            Ok(()) => {
                let window = graphic && desktop();
                let console = if window { "vga=normal" } else { "console=ttyS0 TERM=xterm" };
                let words = [
                    "-m",
                    "512",
                    "-kernel",
                    "guests/debian-i386/linux",
                    "-initrd",
                    "guests/debian-i386/initrd.gz",
                    "-append",
                    console,
                ];
                all.extend(words.map(String::from));
                if !window && graphic {
                    all.push("-nographic".into());
                }
                println!("Booting Debian's installer; Ctrl-A x ends it on the terminal.");
            }
            Err(e) => println!(
                "Debian's installer cannot be had here ({e:#}); starting the diagnostic ROM."
            ),
        }
    }
    all.extend(args.iter().cloned());
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    shell::run(&program, &all)
}

fn desktop() -> bool {
    ["DISPLAY", "WAYLAND_DISPLAY"].iter().any(|v| std::env::var_os(v).is_some())
}

/// The newest minor version of Rust whose lints the code was mended for.
const LINTED: u32 = 99;

/// Whether a warning is an error. The warnings of a compiler that is newer than the code's last
/// mending are printed and fail nothing: whoever has it did not cause them.
pub(crate) fn warnings_are_errors() -> bool {
    let output = std::process::Command::new("rustc").arg("--version").output();
    let minor = output.ok().and_then(|o| {
        let text = String::from_utf8_lossy(&o.stdout).into_owned();
        text.split('.').nth(1)?.parse::<u32>().ok()
    });
    minor.is_none_or(|minor| minor <= LINTED)
}

/// Lints everything for this host and the core for wasm32.
pub(crate) fn clippy() -> Result<()> {
    let strict: &[&str] = if warnings_are_errors() { &["--", "-D", "warnings"] } else { &[] };
    for what in [
        &["clippy", "--workspace", "--all-targets"][..],
        &["clippy", "--package", "orrery-core", "--target", "wasm32-unknown-unknown"],
    ] {
        shell::cargo(&[what, strict].concat())?;
    }
    Ok(())
}
