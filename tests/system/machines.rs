//! Golden machines: one folder each in `tests/machines/`.
//!
//! `test.toml` says how the machine is started, `script.txt` what happens to it and what must
//! appear (docs/scripts.md), `screen.png` what the picture `screen.png` that the script took must
//! show, `expected` lists lines that must be in the output. `{guests}`, `{shared}` and `{here}` in
//! the arguments stand for folders; a file named through them that is not there makes the test
//! report itself as ignored.

use crate::program::{Folder, guest, root, shared, tail};
use crate::{Test, Verdict, picture};
use anyhow::{Context as _, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};

/// `test.toml`.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Spec {
    /// The command line.
    args: Vec<String>,
    /// `fast`, or `slow`: only `./x test all` makes it.
    #[serde(default)]
    tier: Tier,
    /// Seconds on the host until it counts as hung.
    seconds: u64,
    /// Files copied into the test's folder, to be written to.
    #[serde(default)]
    copy: Vec<String>,
    /// Exit status, when it is not the script's `quit 0`.
    #[serde(default)]
    status: i32,
    /// Why it is known to fail; the test fails when it passes.
    known_failure: Option<String>,
}

#[derive(Clone, Copy, Default, PartialEq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
enum Tier {
    #[default]
    Fast,
    Slow,
}

/// A test for each folder.
pub(crate) fn tests() -> Vec<Test> {
    let folder = root().join("tests/machines");
    let mut folders: Vec<PathBuf> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|e| Some(e.ok()?.path()).filter(|p| p.join("test.toml").is_file()))
        .collect();
    folders.sort();
    folders.into_iter().map(test).collect()
}

fn test(folder: PathBuf) -> Test {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let name = format!("machine {name}");
    match read(&folder) {
        Err(e) => Test::new(&name, 1, move || Err(e)),
        Ok(spec) => {
            let (seconds, slow) = (spec.seconds, spec.tier == Tier::Slow);
            let run = Box::new(move || judge(&spec, run(&spec, &folder).into()));
            Test { name, seconds, slow, run }
        }
    }
}

fn read(folder: &Path) -> Result<Spec> {
    let path = folder.join("test.toml");
    toml::from_str(&fs::read_to_string(&path)?).with_context(|| format!("{}", path.display()))
}

fn judge(spec: &Spec, verdict: Verdict) -> Verdict {
    match (&spec.known_failure, verdict) {
        (Some(_), Verdict::Failed(_)) => Verdict::Passed,
        (Some(reason), Verdict::Passed) => {
            Verdict::Failed(format!("passes now; it was known to fail: {reason}"))
        }
        (_, other) => other,
    }
}

fn run(spec: &Spec, folder: &Path) -> Result<()> {
    let work = Folder::new()?;
    let firmware = guest("firmware")?;
    let mut args = vec!["-display".into(), "none".into()];
    args.extend(["-L".into(), firmware.to_string_lossy().into_owned()]);
    for arg in &spec.args {
        args.push(expand(arg, folder)?);
    }
    for name in &spec.copy {
        let from = PathBuf::from(expand(name, folder)?);
        let to = work.file(&from.file_name().context("a file")?.to_string_lossy());
        // Through read and write: the copy is writable whatever the original is.
        fs::write(to, fs::read(&from)?)?;
    }
    let script = folder.join("script.txt");
    if script.is_file() {
        args.extend(["-script".into(), script.to_string_lossy().into_owned()]);
    }
    let output = work.start(&args)?.wait(spec.seconds)?;
    if output.status.code() != Some(spec.status) {
        bail!("{}\n{}\n{}", output.status, output.stderr.trim_end(), tail(&output.stdout));
    }
    if let Ok(expected) = fs::read_to_string(folder.join("expected")) {
        for line in expected.lines().filter(|l| !l.is_empty()) {
            if !output.stdout.contains(line) {
                bail!("'{line}' is not in the output:\n{}", tail(&output.stdout));
            }
        }
    }
    let golden = folder.join("screen.png");
    if golden.is_file() {
        picture::compare(&work.file("screen.png"), &golden)?;
    }
    Ok(())
}

/// Puts folders in place; what they lead to must be there.
fn expand(arg: &str, folder: &Path) -> Result<String> {
    let mut out = arg.to_string();
    for (mark, find) in [("{guests}/", guest as fn(&str) -> Result<PathBuf>), ("{shared}/", shared)]
    {
        while let Some(at) = out.find(mark) {
            let rest = &out[at + mark.len()..];
            let end = rest.find([',', ' ']).unwrap_or(rest.len());
            let path = find(&rest[..end])?;
            out = format!("{}{}{}", &out[..at], path.display(), &rest[end..]);
        }
    }
    if out.contains("{here}/") {
        let here = format!("{}/", folder.display());
        out = out.replace("{here}/", &here);
    }
    if out.contains('{') {
        bail!("'{arg}' has a mark that stands for nothing");
    }
    Ok(out)
}
