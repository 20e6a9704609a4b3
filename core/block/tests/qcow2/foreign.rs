//! Images that QEMU's tools made: every one is read right or refused for a reason.

use crate::native::{NativeFs, corpus};
use crate::run;
use orrery_block::graph::{BlockGraph, Node};
use orrery_block::host::Gate;
use orrery_block::qcow2::{Qcow2Options, Repair};
use orrery_block::{BlockError, Format, IoBuf, OpenOptions, Result, img};
use sha2::{Digest, Sha256};
use std::path::Path;
use std::sync::Arc;

struct Row {
    image: String,
    format: String,
    check: String,
    sha256: String,
    open: String,
    note: String,
}

fn rows(folder: &Path) -> Vec<Row> {
    let text = std::fs::read_to_string(folder.join("manifest.tsv")).expect("manifest");
    let rows = text.lines().skip(1).map(|line| {
        let field: Vec<_> = line.split('\t').map(str::to_owned).collect();
        Row {
            image: field[0].clone(),
            format: field[1].clone(),
            check: field[6].clone(),
            sha256: field[7].clone(),
            open: field[8].clone(),
            note: field[9].clone(),
        }
    });
    rows.collect()
}

/// Path of a row's image, and the snapshot that the row is about.
fn place(folder: &Path, row: &Row) -> (String, Option<String>) {
    let (image, snapshot) = match row.image.split_once('@') {
        Some((image, snapshot)) => (image, Some(snapshot.to_owned())),
        None => (&row.image[..], None),
    };
    (folder.join(image).to_str().expect("plain path").to_owned(), snapshot)
}

fn options(row: &Row) -> OpenOptions {
    OpenOptions {
        format: Some(Format::from_name(&row.format).unwrap()),
        read_only: true,
        // The folder is trusted: one image describes its backing file in JSON.
        gate: Gate::Ask(Arc::new(|_| true)),
        ..OpenOptions::default()
    }
}

async fn hash(node: &Arc<Node>) -> Result<String> {
    let mut sha = Sha256::new();
    let mut at = 0;
    while at < node.len() {
        let n = (node.len() - at).min(1 << 20);
        sha.update(&node.read(at, IoBuf::zeroed(n as usize)).await?[..]);
        at += n;
    }
    Ok(sha.finalize().iter().map(|b| format!("{b:02x}")).collect())
}

/// What the encrypted images open with.
const SECRET: &[u8] = b"123456";

#[test]
fn images_of_other_tools_have_the_content_they_should() {
    let Some(folder) = corpus() else {
        eprintln!("skipped: no folder of foreign images (ORRERY_IMAGES)");
        return;
    };
    let graph = BlockGraph::new();
    let (mut right, mut refused, mut wrong) = (0, Vec::new(), Vec::new());
    for row in rows(&folder).iter() {
        let (path, snapshot) = place(&folder, row);
        let qcow2 = Qcow2Options { snapshot, ..Qcow2Options::default() };
        if row.note.contains("64 TiB") || row.sha256 == "-" {
            let node = run(graph.open(&NativeFs, &path, &options(row))).unwrap();
            let end = run(node.read(node.len() - 512, IoBuf::zeroed(512))).unwrap();
            assert!(end.iter().all(|b| *b == 0));
            right += 1;
            continue;
        }
        let secret: Option<Arc<[u8]>> = row.open.contains("secret").then(|| SECRET.into());
        if secret.is_some() {
            let locked = run(graph.open(&NativeFs, &path, &options(row)));
            assert!(matches!(locked, Err(BlockError::Encrypted(_))), "{}", row.image);
            let wrong = OpenOptions { secret: Some(b"654321"[..].into()), ..options(row) };
            let wrong = run(async {
                let node = graph.open(&NativeFs, &path, &wrong).await?;
                hash(&node).await
            });
            assert!(wrong.is_err() || wrong.as_ref() != Ok(&row.sha256), "{}", row.image);
        }
        let wanted = OpenOptions { qcow2, secret, ..options(row) };
        let result = run(async {
            let node = graph.open(&NativeFs, &path, &wanted).await?;
            hash(&node).await
        });
        match result {
            Ok(sum) if sum == row.sha256 => right += 1,
            Ok(sum) => {
                wrong.push(format!(
                    "{} ({}): content is {sum}, not {}",
                    row.image, row.note, row.sha256
                ));
            }
            Err(error) if row.sha256 == "UNREADABLE" => {
                refused.push(format!("{}: {error}", row.image));
            }
            Err(error) => wrong.push(format!("{} ({}): {error}", row.image, row.note)),
        }
    }
    eprintln!("{right} images right, {} refused:\n{}", refused.len(), refused.join("\n"));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(right >= 140, "the folder of images is incomplete");
}

#[test]
fn check_agrees_with_the_other_tools_verdict() {
    let Some(folder) = corpus() else {
        eprintln!("skipped: no folder of foreign images (ORRERY_IMAGES)");
        return;
    };
    let graph = BlockGraph::new();
    let mut agreed = 0;
    for row in rows(&folder) {
        if row.image.contains('@') || row.check == "63" || row.check == "-" {
            continue;
        }
        let path = folder.join(&row.image).to_str().unwrap().to_owned();
        let result = run(img::check(
            &graph,
            &NativeFs,
            &path,
            Some(Format::from_name(&row.format).unwrap()),
            Repair::Nothing,
        ));
        let result = result.unwrap_or_else(|error| panic!("{}: {error}", row.image));
        let verdict = match (result.corruptions, result.leaks) {
            (0, 0) => "0",
            (0, _) => "3",
            _ => "2",
        };
        // The other tool does not get as far as checking an image whose chain is broken.
        let same = row.check == verdict || row.sha256 == "UNREADABLE";
        assert!(same, "{} ({}): {} but {result:?}", row.image, row.note, row.check);
        agreed += 1;
    }
    eprintln!("{agreed} verdicts agree");
    assert!(agreed >= 70, "the folder of images is incomplete");
}

#[test]
fn dirty_images_are_repaired_when_opened_for_writing() {
    let Some(folder) = corpus() else {
        eprintln!("skipped: no folder of foreign images (ORRERY_IMAGES)");
        return;
    };
    let graph = BlockGraph::new();
    let dirty =
        rows(&folder).into_iter().filter(|row| row.note.contains("dirty") && row.format == "qcow2");
    let mut seen = 0;
    for row in dirty {
        let fs = orrery_block::host::MemFs::new();
        let bytes = std::fs::read(folder.join(&row.image)).unwrap();
        fs.add("image", Arc::new(orrery_block::host::MemFile::from_bytes(&bytes)));
        run(async {
            let writable =
                OpenOptions { read_only: false, qcow2: Qcow2Options::default(), ..options(&row) };
            let node = graph.open(&fs, "image", &writable).await?;
            assert_eq!(hash(&node).await?, row.sha256, "{}", row.image);
            node.close().await?;
            drop(node);
            let result = img::check(&graph, &fs, "image", None, Repair::Nothing).await?;
            assert!(result.is_clean(), "{}: {result:?}", row.image);
            let info = img::info(&graph, &fs, "image", None).await?;
            assert!(!info.facts.dirty);
            Ok::<_, BlockError>(())
        })
        .unwrap();
        seen += 1;
    }
    assert!(seen > 0, "the folder has a dirty image");
}
