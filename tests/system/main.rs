//! Whole machines, run by the `orrery` program as a person would run them.
//!
//! `cargo test -p orrery-tests` builds the program first unless `$ORRERY` names one. Files that
//! are fetched and not committed (`./x guests`, `../shared`) may be missing: their tests are then
//! reported as ignored, with the file's name.

#![forbid(unsafe_code)]
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "runs programs on the developer's machine and limits their time"
)]

mod bad_input;
mod clients;
mod controllers;
mod cpio;
mod debugger;
mod determinism;
mod disks;
mod guides;
mod hotplug;
mod machines;
mod media;
mod migration;
mod nbd;
mod picture;
mod program;
mod sound;
mod time_travel;
mod usb;

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use std::process::ExitCode;

/// What a test says.
enum Verdict {
    Passed,
    /// A file that is not here.
    Missing(String),
    Failed(String),
}

impl From<anyhow::Result<()>> for Verdict {
    fn from(r: anyhow::Result<()>) -> Self {
        match r {
            Ok(()) => Self::Passed,
            Err(e) => match e.downcast::<program::Missing>() {
                Ok(m) => Self::Missing(m.to_string()),
                Err(e) => Self::Failed(format!("{e:#}")),
            },
        }
    }
}

/// A test, with the time it may take (the longest start first), and whether only `./x test all`
/// makes it.
struct Test {
    name: String,
    seconds: u64,
    slow: bool,
    run: Box<dyn FnOnce() -> Verdict + Send>,
}

impl Test {
    fn new(
        name: &str,
        seconds: u64,
        run: impl FnOnce() -> anyhow::Result<()> + Send + 'static,
    ) -> Self {
        let run = Box::new(move || run().into());
        Self { name: name.into(), seconds, slow: false, run }
    }

    fn trial(self) -> Trial {
        let run = self.run;
        let kind = if self.slow { "slow" } else { "" };
        let body = move || match run() {
            Verdict::Passed => Ok(Completion::Completed),
            Verdict::Missing(what) => Ok(Completion::ignored_with(what)),
            Verdict::Failed(why) => Err(Failed::from(why)),
        };
        Trial::ignorable_test(self.name, body).with_kind(kind)
    }
}

fn main() -> ExitCode {
    let mut args = Arguments::from_args();
    // A guest keeps one core busy.
    if args.test_threads.is_none() {
        args.test_threads = std::thread::available_parallelism().ok().map(usize::from);
    }
    if !args.list {
        if let Err(e) = program::prepare() {
            println!("cannot build the program under test: {e:#}");
            return ExitCode::FAILURE;
        }
    }
    let mut tests = machines::tests();
    tests.extend(media::tests());
    tests.extend(determinism::tests());
    tests.extend(bad_input::tests());
    tests.extend(disks::tests());
    tests.extend(nbd::tests());
    tests.extend(controllers::tests());
    tests.extend(sound::tests());
    tests.extend(usb::tests());
    tests.extend(hotplug::tests());
    tests.extend(guides::tests());
    tests.extend(time_travel::tests());
    tests.extend(debugger::tests());
    tests.extend(migration::tests());
    tests.extend(clients::tests());
    if std::env::var_os("ORRERY_FAST").is_some() {
        tests.retain(|t| !t.slow);
    }
    tests.sort_by_key(|t| std::cmp::Reverse(t.seconds));
    libtest_mimic::run(&args, tests.into_iter().map(Test::trial).collect()).exit_code()
}
