//! The web part of `./x bench cpu`: Orrery's wasm build and its peer v86, both in Node and both in
//! headless Chromium.

use crate::bench::{Engine, Group, machine};
use crate::{shell, web};
use anyhow::Result;

/// Prepares what is asked for and adds its engines, and what to compare.
pub(crate) fn add(
    places: &[&str],
    arch: &str,
    folder: &str,
    append: &str,
    engines: &mut Vec<Engine>,
    groups: &mut Vec<Group>,
) -> Result<()> {
    let node = places.contains(&"node");
    let chromium = places.contains(&"chromium");
    if !node && !chromium {
        return Ok(());
    }
    for tool in ["node", "npm"] {
        if !shell::have(tool) {
            println!("'{tool}' is not installed: nothing runs in Node or Chromium");
            return Ok(());
        }
    }
    let peer = arch == "i386";
    let modules = format!("{folder}/node_modules");
    std::fs::copy("benches/web/package.json", format!("{folder}/package.json"))?;
    let skip = ("PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD", "1");
    let install = ["install", "--no-audit", "--no-fund", "--silent"];
    shell::run_in("npm", &install, folder.as_ref(), &[skip])?;
    web::build()?;

    let guest = [
        format!("guests/debian-{arch}/linux"),
        format!("{folder}/bench-{arch}.cpio"),
        append.to_string(),
    ];
    let script = |name, mut args: Vec<String>, more: &[String]| {
        args.extend_from_slice(more);
        Engine { name, program: "node".into(), args }
    };
    if node {
        let own = vec!["frontends/web/node/orrery.mjs".into(), format!("{}/pkg", web::DIST)];
        engines.push(script("node", own, &machine(arch, folder, append, "")));
        if peer {
            let args = vec!["benches/web/v86.mjs".into(), modules.clone()];
            engines.push(script("v86-node", args, &guest));
        }
        groups.push(vec!["node", "v86-node", "qemu"]);
    }
    if chromium && !shell::have("chromium") {
        println!("'chromium' is not installed: nothing runs in it");
    } else if chromium {
        let page = |engine: &str| {
            vec!["benches/web/chromium.mjs".to_string(), modules.clone(), engine.into()]
        };
        engines.push(script("chromium", page("orrery"), &guest));
        if peer {
            engines.push(script("v86-chromium", page("v86"), &guest));
        }
        groups.push(vec!["chromium", "v86-chromium", "qemu"]);
    }
    Ok(())
}
