//! What the guides name is in the tree.

use crate::Test;
use crate::program::root;
use anyhow::{Result, ensure};
use std::fs;
use std::path::Path;

/// All of them.
pub(crate) fn tests() -> Vec<Test> {
    vec![
        Test::new("guides: every file they name is there", 10, files),
        Test::new("guides: every test that the page of devices names is there", 10, devices),
        Test::new("guides: the worked example is a device with a row", 10, example),
    ]
}

/// Paths of the project's own files, below `folder`.
fn paths(folder: &Path, out: &mut Vec<String>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let outside =
            matches!(name.as_str(), "target" | "guests" | "node_modules" | "dist" | ".git");
        if entry.file_type()?.is_dir() && !outside {
            paths(&entry.path(), out)?;
        } else if !outside {
            out.push(entry.path().to_string_lossy().into_owned());
        }
    }
    Ok(())
}

fn files() -> Result<()> {
    let mut all = Vec::new();
    paths(&root(), &mut all)?;
    let mut guides: Vec<&String> = all.iter().filter(|p| p.ends_with(".md")).collect();
    guides.retain(|p| !p.ends_with("CHANGELOG.md"));
    ensure!(guides.len() >= 4, "{guides:?}");
    for guide in guides {
        let text = fs::read_to_string(guide)?;
        // Every second piece is between back quotes.
        let names = text.split('`').skip(1).step_by(2);
        for name in names.filter(|n| {
            n.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "_./-".contains(c))
        }) {
            if [".rs", ".md", ".mjs", ".js"].iter().any(|end| name.ends_with(end)) {
                let end = format!("/{name}");
                ensure!(all.iter().any(|p| p.ends_with(&end)), "{guide} names '{name}'");
            }
        }
    }
    Ok(())
}

/// The tests that the page of devices names.
fn devices() -> Result<()> {
    let page = fs::read_to_string(root().join("docs/devices.md"))?;
    let names = page.split('`').filter(|n| n.starts_with("tests/"));
    let mut count = 0;
    for name in names {
        ensure!(root().join(name).exists(), "there is no '{name}'");
        count += 1;
    }
    ensure!(count > 10, "{count} tests are named");
    Ok(())
}

fn example() -> Result<()> {
    let guide = fs::read_to_string(root().join("docs/ARCHITECTURE.md"))?;
    let (_, rest) = guide.split_once("## Adding a device").unwrap_or_default();
    let file = rest.split('`').find(|w| w.starts_with("core/hw/src/") && !w.contains("FAMILY"));
    let file = file.unwrap_or_default();
    let code = fs::read_to_string(root().join(file))?;
    for part in
        ["reg_map!", "struct Wires", "struct State", "fn drive", "impl Device", "conformance!"]
    {
        ensure!(code.contains(part), "'{file}' has no '{part}'");
    }
    let name = file.rsplit('/').next().unwrap_or_default().trim_end_matches(".rs");
    let help = crate::program::Folder::new()?.orrery(&["-device", "help"], 20)?.success()?.stdout;
    ensure!(help.lines().any(|l| l.split(' ').next() == Some(name)), "'-device {name}': {help}");
    Ok(())
}
