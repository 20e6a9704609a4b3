//! The page, and the same build in Node.

use crate::shell;
use anyhow::{Context as _, Result, bail};
use std::fs;
use std::path::Path;

/// Version of the `wasm-bindgen` crate; the program that makes the bindings must be the same.
const WASM_BINDGEN: &str = "0.2.130";
/// Where the page is built to.
pub(crate) const DIST: &str = "www/dist";

/// Builds the page's wasm and its bindings into `to`.
fn bindings(to: &str) -> Result<()> {
    bind("orrery-web", "web", to)?;
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

/// Builds a package for wasm in a profile of Cargo, and its bindings into `to`.
pub(crate) fn bind(package: &str, profile: &str, to: &str) -> Result<()> {
    let wasm = "wasm32-unknown-unknown";
    shell::cargo(&["build", "--profile", profile, "--package", package, "--target", wasm])?;
    let target = std::env::var("CARGO_TARGET_DIR").unwrap_or_else(|_| "target".into());
    let module = format!("{target}/{wasm}/{profile}/{}.wasm", package.replace('-', "_"));
    let tool = bindgen(&target)?;
    shell::run(&tool, &["--target", "web", "--no-typescript", "--out-dir", to, &module])?;
    // Debian's Node (18) takes a `.js` file for a module only if it is told so.
    fs::write(format!("{to}/package.json"), r#"{"type": "module"}"#)?;
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

/// What the page uses of others: file of an npm package, name in `vendor/`.
const VENDOR: &[(&str, &str)] = &[
    ("@xterm/xterm/lib/xterm.mjs", "xterm.js"),
    ("@xterm/xterm/css/xterm.css", "xterm.css"),
    ("@xterm/addon-fit/lib/addon-fit.mjs", "addon-fit.js"),
    ("@xterm/addon-search/lib/addon-search.mjs", "addon-search.js"),
    ("fzstd/esm/index.mjs", "fzstd.js"),
    ("xz-decompress/dist/package/xz-decompress.min.js", "xz.js"),
];

/// Copies the packages that `www/package.json` pins.
fn vendor() -> Result<()> {
    if !shell::have("npm") {
        bail!("'npm' is missing; install the package 'npm'");
    }
    let modules = Path::new("www/node_modules");
    if !VENDOR.iter().all(|(from, _)| modules.join(from).is_file()) {
        shell::run_in("npm", &["ci", "--no-audit", "--no-fund"], Path::new("www"), &[])?;
    }
    let to = Path::new(DIST).join("vendor");
    fs::create_dir_all(&to)?;
    for (from, name) in VENDOR {
        let mut text = fs::read_to_string(modules.join(from)).context(*from)?;
        if *name == "xz.js" {
            // A package of the older kind of modules.
            text = format!(
                "const module = {{ exports: {{}} }};\nconst exports = module.exports;\n\
                 const require = () => globalThis;\n{text}\n\
                 export const {{ XzReadableStream }} = module.exports;\n"
            );
        }
        let lines = text.lines().filter(|l| !l.starts_with("//# sourceMappingURL"));
        fs::write(to.join(name), lines.collect::<Vec<_>>().join("\n"))?;
    }
    Ok(())
}

/// Copies a folder and those in it.
fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let path = entry?.path();
        let target = to.join(path.file_name().context("a file has a name")?);
        if path.is_dir() {
            copy_folder(&path, &target)?;
        } else {
            fs::copy(&path, target)?;
        }
    }
    Ok(())
}

/// The gallery: of `www/src/gallery.json` those machines whose files are in `guests/`.
fn gallery() -> Result<()> {
    let text = fs::read_to_string("www/src/gallery.json")?;
    let mut entries: Vec<serde_json::Value> = serde_json::from_str(&text)?;
    let files = |entry: &serde_json::Value| -> Vec<String> {
        let list = entry["files"].as_array();
        list.into_iter().flatten().filter_map(|f| f.as_str().map(str::to_owned)).collect()
    };
    entries.retain(|entry| files(entry).iter().all(|f| Path::new(f).is_file()));
    for entry in &mut entries {
        let mut size = 0;
        for file in files(entry) {
            let to = Path::new(DIST).join(&file);
            fs::create_dir_all(to.parent().context("a file is in a folder")?)?;
            size += fs::copy(&file, to)?;
        }
        entry["size"] = size.into();
    }
    fs::write(Path::new(DIST).join("gallery.json"), serde_json::to_string(&entries)?)?;
    Ok(())
}

/// Tells the service worker which files the page is made of, and gives it a name that changes with them.
fn service_worker() -> Result<()> {
    let mut names = vec!["./".to_string()];
    let mut sum = crc32(&[]);
    for folder in ["", "vendor", "pkg", "firmware", "pictures"] {
        let Ok(entries) = fs::read_dir(Path::new(DIST).join(folder)) else { continue };
        let mut paths: Vec<_> = entries.filter_map(|e| e.ok().map(|e| e.path())).collect();
        paths.sort();
        for path in paths.iter().filter(|p| p.is_file()) {
            let name = path.strip_prefix(DIST)?.to_string_lossy().into_owned();
            if !["sw.js", "pkg/package.json", "orrery.d.ts"].contains(&name.as_str()) {
                sum = sum.rotate_left(1) ^ crc32(&fs::read(path)?);
                names.push(name);
            }
        }
    }
    let text = fs::read_to_string("www/src/sw.js")?;
    let text = text.replace("VERSION", &format!("{sum:08x}")).replace("LIST", &names.join(" "));
    fs::write(Path::new(DIST).join("sw.js"), text)?;
    Ok(())
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |s, _| {
            (s >> 1) ^ if s & 1 == 1 { 0xedb8_8320 } else { 0 }
        })
    })
}

/// Builds the whole page into `www/dist`.
pub(crate) fn build() -> Result<()> {
    fs::create_dir_all(DIST)?;
    bindings(&format!("{DIST}/pkg"))?;
    assemble()
}

/// Puts the page together around bindings that are there.
pub(crate) fn assemble() -> Result<()> {
    copy_folder(Path::new("www/src"), Path::new(DIST))?;
    vendor()?;
    let firmware = Path::new(DIST).join("firmware");
    fs::create_dir_all(&firmware)?;
    if crate::guests::fetch(&["firmware".into()]).is_ok() {
        copy_folder(Path::new("guests/firmware"), &firmware)?;
    }
    gallery()?;
    service_worker()?;
    println!("built {DIST}");
    Ok(())
}

/// Builds the page and serves it on this host.
pub(crate) fn serve(args: &[String]) -> Result<()> {
    // What cannot be fetched is left out of the gallery.
    let wanted = ["debian-i386", "debian-amd64", "grub", "memtest", "ipxe"];
    if let Err(e) = crate::guests::fetch(&wanted.map(String::from)) {
        println!("without some guests: {e:#}");
    }
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
