//! Running other programs.

use anyhow::{Context as _, Result, bail};
use std::path::Path;
use std::process::Command;

/// Makes the project's folder the current one.
pub(crate) fn enter_root() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the project's folder")?;
    std::env::set_current_dir(root).context("cannot enter the project's folder")
}

/// Runs a program; its failure is ours.
pub(crate) fn run(program: &str, args: &[&str]) -> Result<()> {
    let status = Command::new(program)
        .args(args)
        .status()
        .with_context(|| format!("cannot start '{program}'"))?;
    if !status.success() {
        bail!("'{program} {}' failed: {status}", args.join(" "));
    }
    Ok(())
}

/// Runs cargo.
pub(crate) fn cargo(args: &[&str]) -> Result<()> {
    run(&std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()), args)
}

/// Whether a program can be found.
pub(crate) fn have(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}
