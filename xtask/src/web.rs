//! The page, and the same build in Node.

use crate::shell;
use anyhow::{Context as _, Result, bail};
use std::fs;
use std::path::Path;

/// Version of the `wasm-bindgen` crate; the program that makes the bindings must be the same.
const WASM_BINDGEN: &str = "0.2.130";
/// Where the page is built to.
pub(crate) const DIST: &str = "www/dist";

/// Builds the wasm and its bindings into `to`.
fn bindings(to: &str) -> Result<()> {
    let wasm = "wasm32-unknown-unknown";
    shell::cargo(&["build", "--release", "--package", "orrery-web", "--target", wasm])?;
    let target = std::env::var("CARGO_TARGET_DIR").unwrap_or_else(|_| "target".into());
    let module = format!("{target}/{wasm}/release/orrery_web.wasm");
    let tool = bindgen(&target)?;
    shell::run(&tool, &["--target", "web", "--no-typescript", "--out-dir", to, &module])?;
    // Debian's Node (18) takes a `.js` file for a module only if it is told so.
    fs::write(format!("{to}/package.json"), r#"{"type": "module"}"#)?;
    // Smaller and faster where binaryen is there; the page works without.
    if shell::have("wasm-opt") {
        let out = format!("{to}/orrery_web_bg.wasm");
        shell::run(
            "wasm-opt",
            &[
                "-O3",
                "--enable-bulk-memory",
                "--enable-nontrapping-float-to-int",
                "--enable-sign-ext",
                "--enable-mutable-globals",
                "--enable-reference-types",
                "--enable-multivalue",
                &out,
                "-o",
                &out,
            ],
        )?;
    }
    Ok(())
}

/// The path of wasm-bindgen of the right version, installed if it is missing.
pub(crate) fn bindgen(target: &str) -> Result<String> {
    let root = format!("{target}/tools");
    let own = format!("{root}/bin/wasm-bindgen");
    for tool in [own.as_str(), "wasm-bindgen"] {
        let version = std::process::Command::new(tool).arg("--version").output();
        if version.is_ok_and(|o| String::from_utf8_lossy(&o.stdout).contains(WASM_BINDGEN)) {
            return Ok(tool.into());
        }
    }
    shell::cargo(&[
        "install",
        "--quiet",
        "wasm-bindgen-cli",
        "--version",
        WASM_BINDGEN,
        "--root",
        &root,
    ])?;
    Ok(own)
}

/// Builds the whole page into `www/dist`.
pub(crate) fn build() -> Result<()> {
    fs::create_dir_all(DIST)?;
    bindings(&format!("{DIST}/pkg"))?;
    for entry in fs::read_dir("www/src")? {
        let path = entry?.path();
        let name = path.file_name().context("a file has a name")?;
        fs::copy(&path, Path::new(DIST).join(name))?;
    }
    let firmware = Path::new(DIST).join("firmware");
    fs::create_dir_all(&firmware)?;
    if crate::guests::fetch(&["firmware".into()]).is_ok() {
        for entry in fs::read_dir("guests/firmware")? {
            let path = entry?.path();
            fs::copy(&path, firmware.join(path.file_name().context("a file has a name")?))?;
        }
    }
    println!("built {DIST}");
    Ok(())
}

/// Builds the page and serves it on this host.
pub(crate) fn serve(args: &[String]) -> Result<()> {
    build()?;
    let port = args.first().map_or("8000", String::as_str);
    println!("open http://localhost:{port}/");
    if shell::have("python3") {
        return shell::run("python3", &["-m", "http.server", port, "--directory", DIST]);
    }
    bail!("python3 is needed to serve the page; any web server will do for {DIST}")
}

/// Runs the wasm build in Node.
pub(crate) fn node(args: &[String]) -> Result<()> {
    if !shell::have("node") {
        bail!("'node' is missing; install the package 'nodejs'");
    }
    let target = std::env::var("CARGO_TARGET_DIR").unwrap_or_else(|_| "target".into());
    let pkg = format!("{target}/node-pkg");
    bindings(&pkg)?;
    let args = args.strip_prefix(&["--".to_string()]).unwrap_or(args);
    let mut all = vec!["frontends/web/node/orrery.mjs", pkg.as_str()];
    all.extend(args.iter().map(String::as_str));
    shell::run("node", &all)
}
