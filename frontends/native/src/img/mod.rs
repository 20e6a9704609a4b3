//! `orrery img`: the image tool, with the command line and the words of qemu-img.

mod args;
mod bitmap;
mod change;
mod convert;
mod copy;
mod create;
mod info;
mod map;
mod runtime;
mod session;

pub(crate) use args::{Args, key_values};
pub(crate) use session::{Image, Session, Spec, reason, system_words};

use std::io::Write;
use std::process::ExitCode;

/// Why a command ended.
pub(crate) struct Fail {
    text: Option<String>,
    code: u8,
    usage: bool,
}

impl Fail {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self { text: Some(text.into()), code: 1, usage: false }
    }

    /// A wrong command line.
    pub(crate) fn usage(text: impl Into<String>) -> Self {
        Self { text: Some(text.into()), code: 1, usage: true }
    }

    /// An exit code, with what was to be said already said.
    pub(crate) fn code(code: u8) -> Self {
        Self { text: None, code, usage: false }
    }

    pub(crate) fn with_code(self, code: u8) -> Self {
        Self { code, ..self }
    }

    pub(crate) fn text(&self) -> String {
        self.text.clone().unwrap_or_default()
    }
}

pub(crate) type Done = Result<(), Fail>;

/// Prints a line; a reader that has gone away is no error.
pub(crate) fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Prints to standard error.
pub(crate) fn warn(text: &str) {
    let _ = std::io::stdout().flush();
    let _ = writeln!(std::io::stderr(), "{text}");
}

const COMMANDS: [(&str, &str); 15] = [
    ("amend", "Update format-specific options of the image"),
    ("bench", "Run simple image benchmark"),
    ("bitmap", "Perform modifications of the persistent bitmap in the image"),
    ("check", "Check basic image integrity"),
    ("commit", "Commit image to its backing file"),
    ("compare", "Check if two images have the same contents"),
    ("convert", "Copy one or more images to another with optional format conversion"),
    ("create", "Create and format a new image file"),
    ("dd", "Copy input to output with optional format conversion"),
    ("info", "Display information about the image"),
    ("map", "Dump image metadata"),
    ("measure", "Calculate the file size required for a new image"),
    ("rebase", "Change the backing file of the image"),
    ("resize", "Resize the image"),
    ("snapshot", "List or manipulate snapshots in the image"),
];

fn help(prog: &str) {
    say(&format!(
        "{prog} version {} (Orrery)\nOrrery disk image utility.  Usage:\n\n  {prog} [standard options] COMMAND [--help | command options]\n\nStandard options:\n  -h, --help\n     display this help and exit\n  -V, --version\n     display version info and exit\n  -T,--trace TRACE\n     specify tracing options:\n        [[enable=]<pattern>][,events=<file>][,file=<file>]\n\nRecognized commands (run {prog} COMMAND --help for command-specific help):\n",
        env!("CARGO_PKG_VERSION")
    ));
    for (name, what) in COMMANDS {
        say(&format!("  {name} - {what}"));
    }
    let formats: Vec<_> = orrery_block::Format::ALL.iter().map(|f| f.name()).collect();
    say(&format!("\nSupported image formats:\n  {}", formats.join(" ")));
}

/// Runs the tool. `prog` is what messages begin with.
pub(crate) fn main(prog: &str, args: &[String]) -> ExitCode {
    let mut rest = args;
    loop {
        match rest.first().map(String::as_str) {
            Some("-T" | "--trace") if rest.len() > 1 => rest = &rest[2..],
            Some(arg) if arg.starts_with("--trace=") => rest = &rest[1..],
            _ => break,
        }
    }
    let fail = |text: &str| {
        warn(&format!("{prog}: {text}\nTry '{prog} --help' for more info"));
        ExitCode::FAILURE
    };
    let Some(command) = rest.first() else { return fail("Not enough arguments") };
    let mut session = Session::new();
    let rest = &rest[1..];
    let result = match command.as_str() {
        "-h" | "--help" => {
            help(prog);
            Ok(())
        }
        "-V" | "--version" => {
            say(&format!("{prog} version {} (Orrery)", env!("CARGO_PKG_VERSION")));
            Ok(())
        }
        "amend" => change::amend(&mut session, rest),
        "bench" => convert::bench(&mut session, rest),
        "bitmap" => change::bitmap(&mut session, rest),
        "check" => info::check(&mut session, rest),
        "commit" => change::commit(&mut session, rest),
        "compare" => convert::compare(&mut session, rest),
        "convert" => convert::convert(&mut session, rest),
        "create" => create::create(&mut session, rest),
        "dd" => convert::dd(&mut session, rest),
        "info" => info::info(&mut session, rest),
        "map" => map::map(&mut session, rest),
        "measure" => map::measure(&mut session, rest),
        "rebase" => change::rebase(&mut session, rest),
        "resize" => change::resize(&mut session, rest),
        "snapshot" => change::snapshot(&mut session, rest),
        other if other.starts_with('-') => return fail(&format!("unrecognized option '{other}'")),
        other => return fail(&format!("Command not found: {other}")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(fail) => {
            if let Some(text) = &fail.text {
                warn(&format!("{prog}: {text}"));
                if fail.usage {
                    warn(&format!("Try '{prog} {command} --help' for more information"));
                }
            }
            ExitCode::from(fail.code)
        }
    }
}

/// `1.5 MiB`, as `%0.3g` prints it.
pub(crate) fn human(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    let mut unit = 0;
    while unit < 6 && bytes as f64 / f64::from(1u32 << 10).powi(unit + 1) > 0.9765 {
        // The next unit is taken from 1000 of the last on.
        if (bytes >> (10 * unit)) < 1000 {
            break;
        }
        unit += 1;
    }
    let value = bytes as f64 / 1024f64.powi(unit);
    format!("{} {}B", three(value), UNITS[unit as usize])
}

/// Three significant digits, without zeros behind.
pub(crate) fn three(value: f64) -> String {
    significant(value, 3)
}

/// Like `%.Ng`.
pub(crate) fn significant(value: f64, digits: i32) -> String {
    if value == 0.0 {
        return "0".into();
    }
    let exponent = value.abs().log10().floor() as i32;
    let text = format!("{value:.*e}", (digits - 1) as usize);
    let exponent = text.split_once('e').and_then(|(_, e)| e.parse().ok()).unwrap_or(exponent);
    if exponent >= digits || exponent < -4 {
        let (mantissa, _) = text.split_once('e').unwrap_or((&text, ""));
        let mantissa = trim(mantissa);
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{mantissa}e{sign}{:02}", exponent.abs());
    }
    let places = (digits - 1 - exponent).max(0) as usize;
    trim(&format!("{value:.places$}")).to_owned()
}

fn trim(text: &str) -> &str {
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text }
}

/// Adds the objects of a command line, and refuses cache modes that do not exist.
pub(crate) fn prepare(session: &mut Session, args: &Args) -> Done {
    for object in args.all("object") {
        session.add_object(object)?;
    }
    for option in ["t", "T"] {
        if let Some(mode) = args.get(option) {
            const MODES: [&str; 5] = ["writeback", "writethrough", "none", "directsync", "unsafe"];
            if !MODES.contains(&mode) {
                let what = if option == "T" { "source cache" } else { "cache" };
                return Err(Fail::new(format!("Invalid {what} option: {mode}")));
            }
        }
    }
    Ok(())
}

/// True when a cache mode goes past the host's page cache.
pub(crate) fn is_direct(args: &Args, option: &str) -> bool {
    matches!(args.get(option), Some("none" | "directsync"))
}

/// A size on the command line.
pub(crate) fn size_argument(name: &str, text: &str) -> Result<u64, Fail> {
    let size = orrery_block::formats::create::parse_size(text);
    if text.strip_prefix('-').is_some_and(|rest| rest.parse::<u64>().is_ok()) {
        let name = name.to_lowercase();
        let name = if name == "image" { "image size".to_owned() } else { name };
        return Err(Fail::new(format!(
            "Invalid {name} specified. Must be between 0 and 9223372036854775807."
        )));
    }
    size.filter(|size| *size <= i64::MAX as u64).ok_or_else(|| {
        let too_large = text.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_alphabetic());
        if too_large && text.starts_with(|c: char| c.is_ascii_digit()) && size.is_some() {
            return Fail::new(format!("{name} size must be less than 8 EiB!"));
        }
        Fail::new(format!(
            "Invalid {} size specified. You may use k, M, G, T, P or E suffixes for\n\
             qemu-img: kilobytes, megabytes, gigabytes, terabytes, petabytes and exabytes.",
            name.to_lowercase()
        ))
    })
}

/// `-p`: how far it has got.
pub(crate) struct Progress {
    on: bool,
    last: f64,
}

impl Progress {
    pub(crate) fn new(on: bool) -> Self {
        let progress = Self { on, last: -2.0 };
        if on {
            let _ = write!(std::io::stdout(), "    (0.00/100%)\r");
        }
        progress
    }

    pub(crate) fn is_on(&self) -> bool {
        self.on
    }

    pub(crate) fn show(&mut self, done: u64, total: u64) {
        let now = if total == 0 { 100.0 } else { done as f64 * 100.0 / total as f64 };
        // It goes back when there turns out to be more to do.
        if self.on && (now - self.last).abs() >= 1.0 {
            self.last = now;
            let _ = write!(std::io::stdout(), "    ({now:.2}/100%)\r");
            let _ = std::io::stdout().flush();
        }
    }

    pub(crate) fn end(&self) {
        if self.on {
            say("    (100.00/100%)\r");
        }
    }
}
