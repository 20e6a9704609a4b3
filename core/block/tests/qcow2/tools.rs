//! What QEMU's tools say about images that we wrote.

use crate::Random;
use crate::model::{options, shapes};
use crate::native::{Folder, NativeFs};
use crate::run;
use orrery_block::graph::BlockGraph;
use orrery_block::host::HostFs;
use orrery_block::qcow2::CreateOptions;
use orrery_block::{BlockError, Format, IoBuf, OpenOptions, img};
use std::process::{Command, Output};

fn qemu_img(args: &[&str]) -> Option<Output> {
    match Command::new("qemu-img").args(args).output() {
        Ok(output) => Some(output),
        Err(error) => {
            eprintln!("skipped: qemu-img: {error}");
            None
        }
    }
}

fn expect_clean(output: &Output, what: &str) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{what}: {}{}", text(&output.stdout), text(&output.stderr));
}

#[test]
fn images_that_we_wrote_are_clean_and_equal_to_the_other_tools() {
    let folder = Folder::new("tools");
    let graph = BlockGraph::new();
    let (disk, raw, base) =
        (folder.path("disk.qcow2"), folder.path("disk.raw"), folder.path("base.raw"));
    let mut seen = 0;
    for (number, shape) in shapes().iter().enumerate() {
        for backing in [false, true] {
            let mut random = Random::new(number as u64 + 90);
            let size: u64 = (5 << 20) + 512 * random.below(100);
            let mut create = CreateOptions { size, ..shape.clone() };
            let mut model = vec![0; size as usize];
            let result = run(async {
                if backing {
                    model[..3 << 20].copy_from_slice(&random.bytes(3 << 20));
                    NativeFs
                        .create(&base)
                        .await?
                        .write_at(0, model[..3 << 20].to_vec().into())
                        .await?;
                    create.backing_file = Some("base.raw".into());
                    create.backing_format = Some("raw".into());
                }
                img::create(&graph, NativeFs.create(&disk).await?, Format::Qcow2, &create).await?;
                let node = graph.open(&NativeFs, &disk, &options()).await?;
                for _ in 0..60 {
                    let at = random.below(size);
                    let len = (1 + random.below(90_000)).min(size - at);
                    let range = at as usize..(at + len) as usize;
                    match random.below(4) {
                        0 => {
                            model[range].fill(0);
                            node.write_zeroes(at, len, random.below(2) == 0).await?;
                        }
                        1 if !backing => {
                            model[range].fill(0);
                            node.write_zeroes(at, len, true).await?;
                            node.discard(at, len).await?;
                        }
                        _ => {
                            let bytes = random.bytes(len as usize);
                            model[range].copy_from_slice(&bytes);
                            node.write(at, bytes.into()).await?;
                        }
                    }
                }
                node.truncate(size + (64 << 10)).await?;
                node.write(size, vec![3; 1000].into()).await?;
                node.close().await
            });
            result.unwrap_or_else(|error| panic!("{shape:?}: {error}"));
            model.resize(size as usize + (64 << 10), 0);
            model[size as usize..size as usize + 1000].fill(3);
            std::fs::write(&raw, &model).unwrap();
            let Some(check) = qemu_img(&["check", "-f", "qcow2", &disk]) else { return };
            expect_clean(&check, &format!("check of {shape:?}, backing {backing}"));
            let compare = qemu_img(&["compare", "-f", "qcow2", "-F", "raw", &disk, &raw]);
            expect_clean(&compare.unwrap(), &format!("compare of {shape:?}, backing {backing}"));
            seen += 1;
        }
    }
    eprintln!("{seen} images clean and equal");
}

#[test]
fn what_the_other_tool_wrote_into_our_image_is_read_back() {
    let folder = Folder::new("tools");
    let graph = BlockGraph::new();
    let disk = folder.path("disk.qcow2");
    for shape in shapes() {
        let create = CreateOptions { size: 4 << 20, ..shape.clone() };
        run(async {
            img::create(&graph, NativeFs.create(&disk).await?, Format::Qcow2, &create).await
        })
        .unwrap();
        let commands =
            ["write -P 7 0 100k", "write -P 9 1000k 3000", "write -z 64k 64k", "discard 0 16k"];
        let mut args = vec!["-f", "qcow2"];
        commands.iter().for_each(|command| args.extend(["-c", command]));
        args.push(&disk);
        match Command::new("qemu-io").args(&args).output() {
            Ok(output) => expect_clean(&output, &format!("{shape:?}")),
            Err(error) => {
                eprintln!("skipped: qemu-io: {error}");
                return;
            }
        }
        run(async {
            let node =
                graph.open(&NativeFs, &disk, &OpenOptions { read_only: true, ..options() }).await?;
            let bytes = node.read(0, IoBuf::zeroed(4 << 20)).await?;
            let mut want = vec![0; 4 << 20];
            want[..100 << 10].fill(7);
            want[1000 << 10..(1000 << 10) + 3000].fill(9);
            want[64 << 10..128 << 10].fill(0);
            let from = if bytes[0] == 0 { 16 << 10 } else { 0 };
            assert!(bytes[from..] == want[from..], "{shape:?}");
            Ok::<_, BlockError>(())
        })
        .unwrap();
    }
}

#[test]
fn images_with_internal_snapshots_keep_them_while_we_write() {
    let folder = Folder::new("tools");
    let graph = BlockGraph::new();
    let (disk, before, after) =
        (folder.path("disk.qcow2"), folder.path("before.raw"), folder.path("after.raw"));
    for extra in ["cluster_size=64k", "cluster_size=512", "cluster_size=16k,extended_l2=on"] {
        if qemu_img(&["create", "-q", "-f", "qcow2", "-o", extra, &disk, "3M"]).is_none() {
            return;
        }
        let write = |command: &str| {
            let output =
                Command::new("qemu-io").args(["-f", "qcow2", "-c", command, &disk]).output();
            expect_clean(&output.expect("qemu-io comes with qemu-img"), command);
        };
        write("write -P 5 0 2M");
        write("write -c -P 6 2M 64k");
        expect_clean(&qemu_img(&["convert", "-O", "raw", &disk, &before]).unwrap(), "convert");
        expect_clean(&qemu_img(&["snapshot", "-c", "kept", &disk]).unwrap(), "snapshot");
        run(async {
            let node = graph.open(&NativeFs, &disk, &options()).await?;
            node.write(1000, vec![1; 200_000].into()).await?;
            node.write(2 << 20, vec![2; 100].into()).await?;
            node.write_zeroes(600 << 10, 300_000, true).await?;
            node.discard(1 << 20, 300_000).await?;
            node.close().await
        })
        .unwrap();
        expect_clean(&qemu_img(&["check", &disk]).unwrap(), extra);
        expect_clean(
            &qemu_img(&["convert", "-l", "kept", "-O", "raw", &disk, &after]).unwrap(),
            "convert of the snapshot",
        );
        assert!(std::fs::read(&before).unwrap() == std::fs::read(&after).unwrap(), "{extra}");
    }
}
