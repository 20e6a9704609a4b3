//! `orrery`: whole computers, from the command line.

#![forbid(unsafe_code)]
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "this front end is where the host's files, clock and threads come in"
)]

mod event;
mod host;
#[cfg(feature = "window")]
mod keys;
mod run;
mod runner;
mod terminal;
#[cfg(feature = "window")]
mod window;

use anyhow::Result;
use orrery_core::launch::machine_type;
use orrery_core::options::{Options, Print, help};
use orrery_cpu::x86::cpuid::Model;
use orrery_hw::i386::MACHINES;
use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_env("ORRERY_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let result = match Options::parse(&args) {
        Ok(options) => match &options.print {
            Some(print) => describe(print),
            None => run::run(&options),
        },
        Err(e) => Err(e.into()),
    };
    match result {
        Ok(code) => code,
        Err(e) => {
            // A closed standard error leaves nobody to tell.
            let _ = writeln!(std::io::stderr(), "orrery: {e:#}");
            ExitCode::FAILURE
        }
    }
}

/// Prints what the command line asks to be printed.
fn describe(print: &Print) -> Result<ExitCode> {
    let text = match print {
        Print::Help => help(),
        Print::Version => format!("Orrery emulator version {}\n", env!("CARGO_PKG_VERSION")),
        Print::Machines => {
            let default = machine_type("")?.name;
            let row = |m: &orrery_hw::machine::MachineType| {
                let mark = if m.name == default { " (default)" } else { "" };
                format!("{:<20} {}{mark}\n", m.name, m.description)
            };
            format!("Supported machines are:\n{}", MACHINES.iter().map(row).collect::<String>())
        }
        Print::Cpus => {
            let names: String = Model::NAMES.iter().map(|n| format!("  {n}\n")).collect();
            format!("Available CPUs:\n{names}")
        }
        Print::Devices | Print::DeviceProps(_) => {
            anyhow::bail!("-device: no device can be added so far")
        }
    };
    // `orrery -help | head` closes the pipe early.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(ExitCode::SUCCESS)
}
