//! `orrery`: whole computers, from the command line.

#![forbid(unsafe_code)]
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "this front end is where the host's files, clock and threads come in"
)]

mod block;
mod chardev;
mod event;
mod host;
mod img;
mod io;
#[cfg(feature = "window")]
mod keys;
mod run;
mod runner;
mod sound;
#[cfg(feature = "sound")]
mod speaker;
mod terminal;
#[cfg(feature = "window")]
mod window;

use anyhow::{Context as _, Result};
use orrery_core::launch::print_text;
use orrery_core::options::{Options, Print};
use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_env("ORRERY_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let name = std::env::args().next().unwrap_or_default();
    let name = name.rsplit('/').next().unwrap_or("orrery").to_owned();
    if let Some(code) = block::program(&name, &args).or_else(|| tool(&name, &args)) {
        return code;
    }
    let result = match with_files(args).and_then(|args| Ok(Options::parse(&args)?)) {
        Ok(options) => match &options.print {
            Some(print) => describe(print),
            None => run::run(&options),
        },
        Err(e) => Err(e),
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

/// The arguments, with the files of options that they name put in their place.
fn with_files(args: Vec<String>) -> Result<Vec<String>> {
    let mut out = Vec::new();
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        match (arg.as_str(), args.len()) {
            ("-readconfig" | "--readconfig", 1..) => {
                let name = args.next().unwrap_or_default();
                let text = std::fs::read_to_string(&name)
                    .with_context(|| format!("-readconfig: cannot read '{name}'"))?;
                out.extend(orrery_core::options::readconfig(&text)?);
            }
            _ => out.push(arg),
        }
    }
    Ok(out)
}

/// Runs a tool, when the program was started under its name or with it as the first argument.
/// Messages begin with the name under which it was started.
fn tool(name: &str, args: &[String]) -> Option<ExitCode> {
    match (name, args.first().map(String::as_str)) {
        ("qemu-img" | "orrery-img", _) => Some(img::main(name, args)),
        ("qemu-io" | "orrery-io", _) => Some(io::main(name, args)),
        (_, Some("img")) => Some(img::main("orrery img", &args[1..])),
        (_, Some("io")) => Some(io::main("orrery io", &args[1..])),
        _ => None,
    }
}

/// Prints what the command line asks to be printed.
fn describe(print: &Print) -> Result<ExitCode> {
    // `orrery -help | head` closes the pipe early.
    let _ = std::io::stdout().write_all(print_text(print)?.as_bytes());
    Ok(ExitCode::SUCCESS)
}
