//! `./x test`: every check that CI makes, each told with its time; all are made even when one fails.

use crate::{guests, run, shell, web};
use anyhow::{Context as _, Result, bail};
use std::path::Path;
use std::time::Instant;

/// The target of the page.
const WASM: &str = "wasm32-unknown-unknown";

/// Makes every check; with `all`, the longest boots too; with other arguments, the
/// system tests whose names contain them.
pub(crate) fn test(args: &[String]) -> Result<()> {
    let fast = args.iter().all(|a| a != "all");
    let names: Vec<&str> = args.iter().map(String::as_str).filter(|a| *a != "all").collect();
    let mut all = Checks::default();
    if !names.is_empty() {
        all.check("guests", || guests::fetch(&[]));
        all.check("system tests", || system(fast, &names));
        return all.verdict();
    }
    all.check("toolchain", toolchain);
    all.check("format", || shell::cargo(&["fmt", "--all", "--check"]));
    all.check("clippy, this host and wasm32", run::clippy);
    all.check("documentation", documentation);
    all.check("guests", || guests::fetch(&[]));
    all.check("test images", images);
    all.check("unit and integration tests", units);
    all.check("system tests", || system(fast, &[]));
    all.check("page and wasm build", web::build);
    all.check("the wasm build in Node", node);
    all.check("random sequences in compiled WebAssembly", sequences);
    all.check("the core's unit tests in Chromium", in_browser);
    all.check("the page in Chromium", page);
    all.verdict()
}

/// What was checked.
#[derive(Default)]
struct Checks {
    done: Vec<(String, u64, Option<String>)>,
    skipped: Vec<String>,
}

/// Something this host lacks; the check is told as skipped.
#[derive(Debug)]
struct Skipped(String);

impl std::fmt::Display for Skipped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Skipped {}

impl Checks {
    fn check(&mut self, name: &str, body: impl FnOnce() -> Result<()>) {
        println!("\n==== {name}");
        let start = Instant::now();
        let result = body();
        let seconds = start.elapsed().as_secs();
        let error = match result {
            Ok(()) => None,
            Err(e) if e.is::<Skipped>() => {
                println!("SKIPPED {name}: {e}");
                self.skipped.push(format!("{name}: {e}"));
                return;
            }
            Err(e) => {
                println!("FAILED {name}: {e:#}");
                Some(format!("{e:#}"))
            }
        };
        self.done.push((name.into(), seconds, error));
    }

    fn verdict(&self) -> Result<()> {
        println!("\n==== result");
        for (name, seconds, error) in &self.done {
            println!("{:6} {seconds:5} s  {name}", if error.is_some() { "FAILED" } else { "ok" });
        }
        for what in &self.skipped {
            println!("skipped          {what}");
        }
        let failed = self.done.iter().filter(|(_, _, e)| e.is_some()).count();
        if failed > 0 {
            bail!("{failed} of {} checks failed", self.done.len());
        }
        println!("{} checks passed, {} skipped", self.done.len(), self.skipped.len());
        Ok(())
    }
}

/// The parts of the toolchain that rustup's smallest profile lacks.
fn toolchain() -> Result<()> {
    if !shell::have("rustup") {
        return Err(Skipped("no rustup; taking the toolchain as it is".into()).into());
    }
    shell::run("rustup", &["component", "add", "rustfmt", "clippy"])?;
    shell::run("rustup", &["target", "add", WASM])
}

fn documentation() -> Result<()> {
    let strict = run::warnings_are_errors().then_some(("RUSTDOCFLAGS", "-D warnings"));
    let strict: Vec<(&str, &str)> = strict.into_iter().collect();
    shell::cargo_with(&["doc", "--workspace", "--no-deps", "--quiet"], &strict)
}

/// qemu-img times its key derivation by its own CPU clock, and gives up on an encrypted image when that clock does not
/// advance meanwhile: tried again, it does.
const PATIENT_QEMU_IMG: &str = r#"#!/bin/bash
errors=$(mktemp)
for attempt in {1..50}; do
    qemu-img "$@" 2>"$errors"
    status=$?
    grep -q 'accurate CPU usage' "$errors" || break
done
cat "$errors" >&2
rm -f "$errors"
exit $status
"#;

/// Images made by another program, for the block layer's tests.
fn images() -> Result<()> {
    let make = Path::new("../shared/corpus/make.sh");
    if !make.is_file() {
        return Err(Skipped("no ../shared/corpus".into()).into());
    }
    if !shell::have("qemu-img") {
        return Err(Skipped("no qemu-img (package qemu-utils)".into()).into());
    }
    let to = images_folder();
    // Made in place: one image names its backing file by an absolute path.
    let made = Path::new(&to).join("made");
    if !made.is_file() {
        let patient = std::path::absolute(format!("{}/patient-qemu-img", shell::target()))?;
        std::fs::write(&patient, PATIENT_QEMU_IMG)?;
        shell::make_executable(&patient)?;
        let patient = patient.to_string_lossy();
        let variables = [("OUT", &to[..]), ("QEMU_IMG", &patient)];
        shell::run_in("bash", &[&make.to_string_lossy()], Path::new("."), &variables)?;
        std::fs::write(&made, "")?;
    }
    Ok(())
}

fn images_folder() -> String {
    format!("{}/images", shell::target())
}

fn units() -> Result<()> {
    let images = images_folder();
    let images = Path::new(&images).canonicalize().map(|p| p.to_string_lossy().into_owned());
    let variables: Vec<(&str, &str)> =
        images.iter().map(|i| ("ORRERY_IMAGES", i.as_str())).collect();
    let args = [
        "test",
        "--workspace",
        "--exclude",
        "orrery-tests",
        "--profile",
        "fast",
        "--quiet",
        "--no-fail-fast",
    ];
    shell::cargo_with(&args, &variables)
}

fn system(fast: bool, names: &[&str]) -> Result<()> {
    shell::cargo(&["build", "--release", "--package", "orrery-native"])?;
    let orrery = format!("{}/release/orrery", shell::target());
    let orrery = Path::new(&orrery).canonicalize().context("the program was not built")?;
    let orrery = orrery.to_string_lossy().into_owned();
    let mut variables = vec![("ORRERY", orrery.as_str())];
    if fast {
        variables.push(("ORRERY_FAST", "1"));
    }
    // The harness takes one filter.
    for name in if names.is_empty() { &[""][..] } else { names } {
        let mut args = vec!["test", "--package", "orrery-tests", "--"];
        args.extend(Some(*name).filter(|n| !n.is_empty()));
        shell::cargo_with(&args, &variables)?;
    }
    Ok(())
}

/// The wasm build says its version in Node and refuses what it must.
fn node() -> Result<()> {
    if !shell::have("node") {
        return Err(Skipped("no node (package nodejs)".into()).into());
    }
    let words =
        "-- -m 32 -display none -serial stdio -icount 3 -script tests/node/diagnostic.script";
    web::node(&words.split(' ').map(String::from).collect::<Vec<_>>())
}

/// Random sequences of instructions, interpreted and in compiled WebAssembly, in Node.
fn sequences() -> Result<()> {
    if !shell::have("node") {
        return Err(Skipped("no node (package nodejs)".into()).into());
    }
    let target = std::env::var("CARGO_TARGET_DIR").unwrap_or_else(|_| "target".into());
    let pkg = format!("{target}/node-test");
    // With the engine's own checks on, and without the long link of the page's module.
    web::bind("orrery-node-test", "fast", &pkg)?;
    shell::run("node", &["tests/node/sequences.mjs", &pkg])
}

/// The unit tests of the core's crates, in Chromium: what `wasm-pack test --headless --chrome` does,
/// with the runner that came with wasm-bindgen.
fn in_browser() -> Result<()> {
    for tool in ["chromium", "chromedriver"] {
        if !shell::have(tool) {
            return Err(Skipped(format!("no {tool} (package chromium-driver)")).into());
        }
    }
    let runner = web::bindgen(&shell::target())? + "-test-runner";
    let runner = Path::new(&runner).canonicalize().map_or(runner, |p| p.display().to_string());
    let mut args = vec!["test", "--lib", "--target", WASM, "--profile", "fast", "--no-fail-fast"];
    for package in ["orrery-system", "orrery-block", "orrery-cpu", "orrery-hw", "orrery-core"] {
        args.extend(["--package", package]);
    }
    let variables = [
        ("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUNNER", runner.as_str()),
        ("CHROMEDRIVER", "chromedriver"),
        ("WASM_BINDGEN_TEST_TIMEOUT", "600"),
    ];
    shell::cargo_with(&args, &variables)
}

/// The browser tests of `tests/page`.
fn page() -> Result<()> {
    let folder = Path::new("tests/page");
    if !folder.join("package.json").is_file() {
        return Err(Skipped("no tests/page".into()).into());
    }
    for tool in ["npm", "chromium"] {
        if !shell::have(tool) {
            return Err(Skipped(format!("no {tool} (package {tool})")).into());
        }
    }
    if !folder.join("node_modules").is_dir() {
        let skip = ("PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD", "1");
        shell::run_in("npm", &["ci", "--no-audit", "--no-fund"], folder, &[skip])?;
    }
    // What the page saves is opened by the native program, where that is built.
    let orrery = Path::new(&format!("{}/release/orrery", shell::target())).canonicalize();
    let orrery = orrery.map(|p| p.to_string_lossy().into_owned());
    let variables: Vec<(&str, &str)> = orrery.iter().map(|o| ("ORRERY", o.as_str())).collect();
    shell::run_in("npx", &["playwright", "test"], folder, &variables)
}
