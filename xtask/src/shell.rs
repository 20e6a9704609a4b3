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
    run_in(program, args, Path::new("."), &[])
}

/// Runs a program in a folder, with environment variables.
pub(crate) fn run_in(
    program: &str,
    args: &[&str],
    folder: &Path,
    variables: &[(&str, &str)],
) -> Result<()> {
    let status = Command::new(program)
        .args(args)
        .current_dir(folder)
        .envs(variables.iter().copied())
        .status()
        .with_context(|| format!("cannot start '{program}'"))?;
    if !status.success() {
        bail!("'{program} {}' failed: {status}", args.join(" "));
    }
    Ok(())
}

/// Runs cargo.
pub(crate) fn cargo(args: &[&str]) -> Result<()> {
    cargo_with(args, &[])
}

/// Runs cargo with environment variables.
pub(crate) fn cargo_with(args: &[&str], variables: &[(&str, &str)]) -> Result<()> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    run_in(&cargo, args, Path::new("."), variables)
}

/// Where cargo puts what it builds.
pub(crate) fn target() -> String {
    std::env::var("CARGO_TARGET_DIR").unwrap_or_else(|_| "target".into())
}

/// Whether a program can be found.
pub(crate) fn have(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

/// Lets the file at `path` be run.
#[cfg(unix)]
pub(crate) fn make_executable(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))
        .context("cannot set permissions")
}

/// Lets the file at `path` be run.
#[cfg(not(unix))]
pub(crate) fn make_executable(_path: &Path) -> Result<()> {
    anyhow::bail!("scripts need a Unix host")
}
