//! The commands from a client's side, on images in memory.

use super::{Monitor, Session};
use crate::backend::{BlockBackend, Request};
use crate::graph::{BlockGraph, Frozen};
use crate::host::{BlockFile, Gate, MemFile, MemFs};
use crate::qcow2::{CreateOptions, Repair};
use crate::sync::lock;
use crate::{Event, Format, IoBuf, Op, OpenOptions, img};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};

struct Bench {
    graph: BlockGraph,
    monitor: Monitor,
    session: Session,
    events: Arc<Mutex<Vec<Event>>>,
}

const LEN: u64 = 4 << 20;

impl Bench {
    fn new() -> Self {
        Self::on(Arc::new(MemFs::new()))
    }

    fn on(fs: Arc<MemFs>) -> Self {
        let graph = BlockGraph::new();
        graph.context().set_fs(fs);
        let monitor = Monitor::new(&graph);
        let events: Arc<Mutex<Vec<Event>>> = Arc::default();
        let log = events.clone();
        graph.context().on_event(Arc::new(move |event| lock(&log).push(event.clone())));
        let mut this = Self { session: Session::new(&monitor), graph, monitor, events };
        this.ok("qmp_capabilities", json!({}));
        this
    }

    fn send(&mut self, command: &str, arguments: Value) -> Value {
        let line = json!({"execute": command, "arguments": arguments}).to_string();
        let mut commands = self.session.feed(line.as_bytes());
        assert_eq!(commands.len(), 1);
        let exec = self.graph.executor().clone();
        let answer = self.session.answer(commands.remove(0));
        let text = exec.run_in_place(answer).expect("nothing waits for the host");
        self.graph.poll();
        serde_json::from_str(&text).unwrap()
    }

    fn ok(&mut self, command: &str, arguments: Value) -> Value {
        let answer = self.send(command, arguments);
        answer.get("return").unwrap_or_else(|| panic!("{command}: {answer}")).clone()
    }

    fn error(&mut self, command: &str, arguments: Value) -> String {
        let answer = self.send(command, arguments);
        answer["error"]["desc"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
    }

    /// An image `name.qcow2` as node `name`.
    fn image(&mut self, name: &str, backing: Option<&str>, open: Value) {
        let file = format!("{name}.qcow2");
        let create = |options: Value| json!({"job-id": "make", "options": options});
        self.ok("blockdev-create", create(json!({"driver": "file", "filename": file, "size": 0})));
        self.ok("job-dismiss", json!({"id": "make"}));
        let mut options = json!({
            "driver": "qcow2", "size": LEN, "file": {"driver": "file", "filename": file},
        });
        if let Some(backing) = backing {
            options["backing-file"] = format!("{backing}.qcow2").into();
            options["backing-fmt"] = "qcow2".into();
        }
        self.ok("blockdev-create", create(options));
        self.ok("job-dismiss", json!({"id": "make"}));
        let mut node = json!({
            "driver": "qcow2", "node-name": name, "file": {"driver": "file", "filename": file},
        });
        for (key, value) in open.as_object().unwrap() {
            node[key] = value.clone();
        }
        self.ok("blockdev-add", node);
    }

    fn drive(&self, node: &str) -> BlockBackend {
        let backend = self.graph.create_backend("drive0").unwrap();
        backend.insert(self.graph.node(node).unwrap().medium(false)).unwrap();
        backend
    }

    fn jobs(&mut self) -> Vec<Value> {
        self.ok("query-jobs", json!({})).as_array().unwrap().clone()
    }

    fn statuses(&self, id: &str) -> Vec<String> {
        let events = lock(&self.events);
        let mine = events.iter().filter(|e| e.name == "JOB_STATUS_CHANGE" && e.data["id"] == id);
        mine.map(|e| e.data["status"].as_str().unwrap().to_owned()).collect()
    }

    fn heard(&self, name: &str) -> usize {
        lock(&self.events).iter().filter(|event| event.name == name).count()
    }

    fn read(&self, node: &str, offset: u64) -> u8 {
        let node = self.graph.node(node).unwrap();
        let read = node.read(offset, IoBuf::zeroed(1));
        self.graph.executor().run_in_place(read).unwrap().unwrap()[0]
    }
}

fn write(drive: &BlockBackend, offset: u64, byte: u8) {
    let buf = IoBuf::from(vec![byte; 65536]);
    let mut ticket = drive.submit(Request::Write { offset, buf, fua: false });
    drive.executor().poll();
    ticket.take().expect("memory is quick").unwrap();
}

#[test]
fn a_conversation_begins_with_capabilities_and_takes_single_quotes() {
    let graph = BlockGraph::new();
    let mut session = Session::new(&Monitor::new(&graph));
    assert!(session.greeting().starts_with("{\"QMP\": {\"version\""));
    let mut say = |text: &str| {
        let commands = session.feed(text.as_bytes());
        let answers: Vec<String> = commands
            .into_iter()
            .map(|c| graph.executor().run_in_place(session.answer(c)).unwrap())
            .collect();
        answers.concat()
    };
    assert!(say("{'execute':'query-jobs'}").contains("CommandNotFound"));
    assert_eq!(
        say("{'execute':'qmp_capabilities','id':\"it's\"}"),
        "{\"return\": {}, \"id\": \"it's\"}\r\n"
    );
    assert!(say("{ nonsense }").contains("JSON parse error"));
    assert!(say("{'execute':'query-jobs','id").is_empty());
    assert!(say("\u{1}").contains("GenericError"));
    assert_eq!(say("{\"execute\":\"query-jobs\"}"), "{\"return\": []}\r\n");
    assert!(
        say("{\"execute\":\"job-pause\",\"arguments\":{}}").contains("Parameter 'id' is missing")
    );
}

#[test]
fn a_snapshot_is_committed_back_into_its_base_while_the_drive_is_used() {
    let mut bench = Bench::new();
    bench.image("base", None, json!({}));
    let drive = bench.drive("base");
    write(&drive, 0, 1);
    bench.image("top", Some("base"), json!({"backing": null}));
    bench.ok("blockdev-snapshot", json!({"node": "base", "overlay": "top"}));
    assert_eq!(bench.graph.root_of(&drive).unwrap().name(), "top");
    assert!(bench.graph.node("base").unwrap().read_only());
    write(&drive, 65536, 2);
    assert_eq!((bench.read("top", 0), bench.read("base", 65536)), (1, 0));
    bench.ok("block-commit", json!({"job-id": "c", "device": "drive0"}));
    assert_eq!(bench.jobs()[0]["status"], "ready");
    write(&drive, 131_072, 3);
    bench.ok("block-job-complete", json!({"device": "c"}));
    assert!(bench.jobs().is_empty());
    assert_eq!(bench.graph.root_of(&drive).unwrap().name(), "base");
    let seen = [0, 65536, 131_072].map(|at| bench.read("base", at));
    assert_eq!(seen, [1, 2, 3]);
    let life = ["created", "running", "ready", "waiting", "pending", "concluded", "null"];
    assert_eq!(bench.statuses("c"), life);
    write(&drive, 0, 9);
    assert_eq!(bench.read("base", 0), 9);
}

#[test]
fn an_image_in_the_middle_of_a_chain_is_committed_and_the_chain_is_shorter() {
    let mut bench = Bench::new();
    bench.image("base", None, json!({}));
    let drive = bench.drive("base");
    write(&drive, 0, 1);
    for (node, overlay, byte) in [("base", "mid", 2), ("mid", "top", 3)] {
        bench.image(overlay, Some(node), json!({"backing": null}));
        bench.ok("blockdev-snapshot", json!({"node": node, "overlay": overlay}));
        write(&drive, u64::from(byte) * 65536, byte);
    }
    bench.ok(
        "block-commit",
        json!({"job-id": "c", "device": "drive0", "top-node": "mid", "base-node": "base"}),
    );
    assert!(bench.jobs().is_empty(), "it ends by itself");
    assert_eq!(bench.heard("BLOCK_JOB_COMPLETED"), 1);
    let top = bench.graph.node("top").unwrap();
    assert_eq!(top.backing().unwrap().name(), "base");
    assert_eq!((bench.read("base", 131_072), bench.read("top", 131_072)), (2, 2));
    assert_eq!(bench.read("base", 196_608), 0, "the top keeps its own");
    bench.ok("blockdev-del", json!({"node-name": "mid"}));
    let info = bench.ok("query-named-block-nodes", json!({"flat": true}));
    let top = info.as_array().unwrap().iter().find(|node| node["node-name"] == "top").unwrap();
    assert_eq!(top["image"]["backing-filename"], "base.qcow2");
}

#[test]
fn streaming_makes_an_image_stand_alone() {
    let mut bench = Bench::new();
    bench.image("base", None, json!({}));
    let drive = bench.drive("base");
    write(&drive, 0, 1);
    bench.image("top", Some("base"), json!({"backing": null}));
    bench.ok("blockdev-snapshot", json!({"node": "base", "overlay": "top"}));
    write(&drive, 65536, 2);
    bench.ok("block-stream", json!({"job-id": "s", "device": "top"}));
    assert!(bench.jobs().is_empty());
    assert!(bench.graph.node("top").unwrap().backing().is_none());
    assert_eq!((bench.read("top", 0), bench.read("top", 65536)), (1, 2));
    bench.ok("blockdev-del", json!({"node-name": "base"}));
    assert_eq!(bench.read("top", 0), 1);
}

#[test]
fn a_mirror_follows_its_source_and_takes_its_place() {
    for mode in ["background", "write-blocking"] {
        let mut bench = Bench::new();
        bench.image("a", None, json!({}));
        bench.image("b", None, json!({}));
        let drive = bench.drive("a");
        write(&drive, 0, 1);
        bench.ok(
            "blockdev-mirror",
            json!({
                "job-id": "m", "device": "drive0", "target": "b", "sync": "full",
                "copy-mode": mode, "auto-dismiss": false,
            }),
        );
        assert_eq!(bench.jobs()[0]["status"], "ready");
        assert_eq!(bench.read("b", 0), 1);
        write(&drive, 65536, 2);
        bench.graph.poll();
        assert_eq!(bench.read("b", 65536), 2, "{mode}");
        let refused = bench.error("blockdev-del", json!({"node-name": "b"}));
        assert_eq!(refused, "Node b is in use");
        bench.ok("job-complete", json!({"id": "m"}));
        assert_eq!(bench.jobs()[0]["status"], "concluded");
        assert_eq!(bench.graph.root_of(&drive).unwrap().name(), "b");
        bench.ok("job-dismiss", json!({"id": "m"}));
        bench.ok("blockdev-del", json!({"node-name": "a"}));
        write(&drive, 0, 7);
        assert_eq!(bench.read("b", 0), 7);
    }
}

#[test]
fn a_mirror_that_is_ready_and_cancelled_leaves_a_copy_and_the_source_in_place() {
    let mut bench = Bench::new();
    bench.image("a", None, json!({}));
    bench.image("b", None, json!({}));
    let drive = bench.drive("a");
    write(&drive, 0, 1);
    let args = json!({"job-id": "m", "device": "a", "target": "b", "sync": "full"});
    bench.ok("blockdev-mirror", args);
    bench.ok("block-job-cancel", json!({"device": "m"}));
    assert!(bench.jobs().is_empty());
    assert_eq!(bench.graph.root_of(&drive).unwrap().name(), "a");
    assert_eq!((bench.read("b", 0), bench.heard("BLOCK_JOB_COMPLETED")), (1, 1));
}

#[test]
fn backups_are_of_one_moment_and_incremental_ones_hold_what_changed() {
    let mut bench = Bench::new();
    bench.image("a", None, json!({}));
    bench.image("full", None, json!({}));
    bench.image("inc", None, json!({}));
    let drive = bench.drive("a");
    write(&drive, 0, 1);
    let bitmap = json!({"node": "a", "name": "bm"});
    let backup =
        json!({"job-id": "f", "device": "a", "target": "full", "sync": "full", "speed": 0});
    bench.ok(
        "transaction",
        json!({"actions": [
            {"type": "block-dirty-bitmap-add", "data": bitmap},
            {"type": "blockdev-backup", "data": backup},
        ]}),
    );
    write(&drive, 65536, 2);
    bench.graph.poll();
    assert!(bench.jobs().is_empty());
    assert_eq!(bench.read("full", 0), 1);
    write(&drive, 131_072, 3);
    let nodes = bench.ok("query-named-block-nodes", json!({}));
    let a = nodes.as_array().unwrap().iter().find(|node| node["node-name"] == "a").unwrap();
    assert_eq!(a["dirty-bitmaps"][0]["count"], 131_072);
    let mut args = json!({
        "job-id": "i", "device": "a", "target": "inc", "sync": "incremental", "bitmap": "bm",
    });
    bench.ok("blockdev-backup", args.clone());
    assert_eq!([0, 65536, 131_072].map(|at| bench.read("inc", at)), [0, 2, 3]);
    let sum = bench.ok("x-debug-block-dirty-bitmap-sha256", bitmap.clone());
    assert_eq!(sum["sha256"].as_str().unwrap().len(), 64);
    args["bitmap"] = "none".into();
    assert_eq!(bench.error("blockdev-backup", args), "Bitmap 'none' could not be found");
    bench.ok("block-dirty-bitmap-remove", bitmap);
}

#[test]
fn a_transaction_that_fails_leaves_nothing_behind() {
    let mut bench = Bench::new();
    bench.image("a", None, json!({}));
    bench.image("b", None, json!({}));
    let drive = bench.drive("a");
    let actions = json!({"actions": [
        {"type": "block-dirty-bitmap-add", "data": {"node": "a", "name": "bm"}},
        {"type": "blockdev-backup", "data":
            {"job-id": "f", "device": "a", "target": "b", "sync": "full"}},
        {"type": "abort", "data": {}},
    ]});
    let error = bench.error("transaction", actions);
    assert_eq!(error, "Transaction aborted using Abort action");
    assert!(bench.jobs().is_empty());
    let a = bench.graph.node("a").unwrap();
    assert!(a.bitmaps().is_empty());
    assert!(Arc::ptr_eq(&bench.graph.root_of(&drive).unwrap(), &a), "the filter is gone");
    bench.ok("blockdev-del", json!({"node-name": "b"}));
}

#[test]
fn jobs_wait_for_the_word_when_they_are_told_to() {
    let mut bench = Bench::new();
    bench.image("a", None, json!({}));
    bench.image("b", None, json!({}));
    bench.ok(
        "blockdev-backup",
        json!({
            "job-id": "j", "device": "a", "target": "b", "sync": "full",
            "auto-finalize": false, "auto-dismiss": false,
        }),
    );
    assert_eq!(
        (bench.jobs()[0]["status"].as_str(), bench.heard("BLOCK_JOB_PENDING")),
        (Some("pending"), 1)
    );
    let refused = bench.error("job-dismiss", json!({"id": "j"}));
    assert_eq!(refused, "Job 'j' in state 'pending' cannot accept command verb 'dismiss'");
    bench.ok("job-finalize", json!({"id": "j"}));
    bench.ok("job-dismiss", json!({"id": "j"}));
    let life = ["created", "running", "waiting", "pending", "concluded", "null"];
    assert_eq!(bench.statuses("j"), life);
    assert_eq!(bench.error("job-pause", json!({"id": "j"})), "Job not found");
}

/// A drive of the monitor's, with four reads on the way.
fn four_reads(bench: &mut Bench, command: &str, arguments: Value) -> (BlockBackend, usize) {
    let drive = bench.graph.create_backend("disk").unwrap();
    drive.insert(bench.graph.node("a").unwrap().medium(false)).unwrap();
    bench.ok(command, arguments);
    let read = |i: u64| drive.submit(Request::Read { offset: i * 512, buf: IoBuf::zeroed(512) });
    let tickets: Vec<_> = (0..4).map(read).collect();
    bench.graph.poll();
    let done = tickets.iter().filter(|ticket| ticket.poll()).count();
    (drive, done)
}

fn limits(iops: u64) -> Value {
    json!({
        "id": "disk", "bps": 0, "bps_rd": 0, "bps_wr": 0, "iops": iops, "iops_rd": 0, "iops_wr": 0,
    })
}

#[test]
fn a_limited_drive_holds_requests_back_until_it_is_set_free() {
    let mut bench = Bench::new();
    bench.image("a", None, json!({}));
    let (drive, done) = four_reads(&mut bench, "block_set_io_throttle", limits(10));
    assert!((1..4).contains(&done), "{done} of 4 passed at once");
    assert_eq!(drive.in_flight(), 4 - done as u64);
    bench.ok("block_set_io_throttle", limits(0));
    bench.graph.poll();
    assert_eq!(drive.in_flight(), 0);
    let mut bad = limits(10);
    bad["iops_rd"] = 5.into();
    assert!(bench.error("block_set_io_throttle", bad).contains("cannot be used at the same time"));
}

#[test]
fn a_drain_does_not_wait_for_limits() {
    let mut bench = Bench::new();
    bench.image("a", None, json!({}));
    let (drive, done) = four_reads(&mut bench, "block_set_io_throttle", limits(10));
    assert!(done < 4);
    assert_eq!(bench.graph.executor().run_in_place(drive.drain()), Some(()));
    assert_eq!(drive.stats().read.ops, 4);
}

#[test]
fn the_time_that_requests_take_is_sorted_into_classes() {
    let mut bench = Bench::new();
    bench.image("a", None, json!({}));
    let classes = json!({"id": "disk", "boundaries": [10, 100], "boundaries-write": [5]});
    let (_drive, done) = four_reads(&mut bench, "block-latency-histogram-set", classes);
    assert_eq!(done, 4);
    let stats = bench.ok("query-blockstats", json!({}));
    assert_eq!(
        stats[0]["stats"]["rd_latency_histogram"],
        json!({"boundaries": [10, 100], "bins": [4, 0, 0]})
    );
    assert_eq!(stats[0]["stats"]["wr_latency_histogram"]["bins"], json!([0, 0]));
    let falling = json!({"id": "disk", "boundaries": [10, 10]});
    assert!(bench.error("block-latency-histogram-set", falling).contains("boundaries"));
}

/// What files were after each change, by their numbers.
type Changes = Arc<Mutex<Vec<(usize, Vec<u8>)>>>;

/// A file that keeps what it was after every change.
struct Watched {
    number: usize,
    file: MemFile,
    log: Changes,
}

impl Watched {
    fn note<T>(&self, op: Op<T>) -> Op<T> {
        lock(&self.log).push((self.number, self.file.to_vec()));
        op
    }
}

impl BlockFile for Watched {
    fn len(&self) -> u64 {
        self.file.len()
    }

    fn read_at(&self, offset: u64, buf: IoBuf) -> Op<IoBuf> {
        self.file.read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, buf: IoBuf) -> Op<IoBuf> {
        self.note(self.file.write_at(offset, buf))
    }

    fn flush(&self) -> Op<()> {
        self.file.flush()
    }

    fn set_len(&self, len: u64) -> Op<()> {
        self.note(self.file.set_len(len))
    }

    fn punch_hole(&self, offset: u64, len: u64) -> Op<()> {
        self.note(self.file.punch_hole(offset, len))
    }
}

const NAMES: [&str; 3] = ["base.qcow2", "top.qcow2", "target.qcow2"];

/// The disk as a program sees it that starts after the other one was killed.
fn what_is_left(files: &[Vec<u8>; 3], changed: usize) -> Vec<u8> {
    let fs = MemFs::new();
    for (name, bytes) in NAMES.iter().zip(files) {
        fs.add(name, Arc::new(MemFile::from_bytes(bytes)));
    }
    let graph = BlockGraph::new();
    let exec = graph.executor();
    let check = img::check(&graph, &fs, NAMES[changed], Some(Format::Qcow2), Repair::Nothing);
    let found = exec.run_in_place(check).unwrap().unwrap();
    assert_eq!(found.corruptions, 0, "{}: {:?}", NAMES[changed], found.messages);
    let options = OpenOptions {
        format: Some(Format::Qcow2),
        read_only: true,
        gate: Gate::PlainFiles,
        ..OpenOptions::default()
    };
    let top = exec.run_in_place(graph.open(&fs, NAMES[1], &options)).unwrap().unwrap();
    exec.run_in_place(top.read(0, IoBuf::zeroed(LEN as usize))).unwrap().unwrap().into_vec()
}

#[test]
fn a_program_killed_during_a_job_leaves_images_that_open_and_the_whole_disk() {
    for job in ["block-commit", "block-stream", "blockdev-mirror", "blockdev-backup"] {
        let log = Changes::default();
        let fs = Arc::new(MemFs::new());
        let mut bench = Bench::on(fs.clone());
        let exec = bench.graph.executor().clone();
        let mut want = vec![0; LEN as usize];
        for (number, name) in NAMES.into_iter().enumerate() {
            let file = Arc::new(Watched { number, file: MemFile::new(), log: Arc::clone(&log) });
            fs.add(name, file.clone());
            let stands = number == 1;
            let options = CreateOptions {
                size: LEN,
                backing_file: stands.then(|| NAMES[0].to_owned()),
                backing_format: stands.then(|| "qcow2".to_owned()),
                ..CreateOptions::default()
            };
            let node = bench.graph.open_file(None, name, file).unwrap();
            exec.run_in_place(crate::qcow2::create(&node, &options)).unwrap().unwrap();
        }
        for (number, name) in NAMES.into_iter().enumerate() {
            let id = name.strip_suffix(".qcow2").unwrap();
            let mut node = json!({
                "driver": "qcow2", "node-name": id, "file": {"driver": "file", "filename": name},
            });
            if number == 1 {
                node["backing"] = "base".into();
            }
            if number < 2 {
                let mut first = node.clone();
                first["backing"] = Value::Null;
                bench.ok("blockdev-add", first);
                let open = bench.graph.node(id).unwrap();
                for cluster in (number as u64..40).step_by(7 + number) {
                    let byte = 10 + cluster as u8;
                    let (at, len) = (cluster << 16, 1 << 16);
                    let write = open.write(at, vec![byte; len].into());
                    exec.run_in_place(write).unwrap().unwrap();
                    want[at as usize..at as usize + len].fill(byte);
                }
                bench.ok("blockdev-del", json!({"node-name": id}));
            }
            let read_only = number == 0;
            node["read-only"] = read_only.into();
            bench.ok("blockdev-add", node);
        }
        let drive = bench.drive("top");
        let mut files: [Vec<u8>; 3] = Default::default();
        for (number, bytes) in lock(&log).drain(..) {
            files[number] = bytes;
        }
        assert!(what_is_left(&files, 1) == want);
        let mut arguments = json!({"job-id": "j", "device": "top"});
        if job.starts_with("blockdev") {
            arguments["target"] = "target".into();
            arguments["sync"] = "full".into();
        }
        bench.ok(job, arguments);
        bench.graph.poll();
        if ["block-commit", "blockdev-mirror"].contains(&job) {
            bench.ok("job-complete", json!({"id": "j"}));
            bench.graph.poll();
        }
        assert_eq!(bench.statuses("j").last().map(String::as_str), Some("null"), "{job}");
        let changes = std::mem::take(&mut *lock(&log));
        assert!(changes.len() > 5, "{job} wrote {} times", changes.len());
        for (number, bytes) in changes {
            files[number] = bytes;
            assert!(what_is_left(&files, number) == want, "{job}");
        }
        drop(drive);
    }
}

#[test]
fn links_that_a_job_relies_on_stay_as_they_are() {
    let mut bench = Bench::new();
    bench.image("base", None, json!({"backing": null}));
    bench.image("top", Some("base"), json!({"backing": "base"}));
    let _drive = bench.drive("top");
    let top = bench.graph.node("top").unwrap();
    let frozen = Frozen::chain(&top, None).unwrap();
    let stream = json!({"job-id": "j", "device": "top"});
    let text = bench.error("block-stream", stream.clone());
    assert_eq!(text, "Cannot change 'backing' link from 'top' to 'base'");
    assert!(bench.graph.set_backing(&top, None).is_err());
    drop(frozen);
    bench.ok("block-stream", stream);
    bench.graph.poll();
    assert!(top.backing().is_none(), "the job has done its work");
}

/// `drive-backup` and `drive-mirror` share members with other commands, and tell of a wrong one as those do.
#[test]
fn shared_members_are_read_and_described_like_a_commands_own() {
    let mut bench = Bench::new();
    bench.image("a", None, json!({}));
    let args = |more: &[(&str, Value)]| {
        let mut args = json!({"device": "a", "target": "t.qcow2", "sync": "full", "job-id": "j"});
        more.iter().for_each(|(name, value)| args[*name] = value.clone());
        args
    };
    for command in ["drive-backup", "drive-mirror"] {
        let odd = bench.error(command, args(&[("moed", "existing".into())]));
        assert_eq!(odd, "Parameter 'moed' is unexpected");
        let base = bench.error(command, args(&[("speed", true.into())]));
        assert_eq!(base, "Invalid parameter type for 'speed', expected: integer");
        let own = bench.error(command, args(&[("format", 5.into())]));
        assert_eq!(own, "Invalid parameter type for 'format', expected: string");
        let missing = bench.error(command, json!({"device": "a", "sync": "full"}));
        assert_eq!(missing, "Parameter 'target' is missing");
        bench.ok(command, args(&[("format", "qcow2".into())]));
        bench.send("job-cancel", json!({"id": "j"}));
    }
    let schema = bench.ok("query-qmp-schema", json!({}));
    let arguments = |command: &str| {
        let named = |name: &str| schema.as_array().unwrap().iter().find(|e| e["name"] == name);
        let object = named(named(command).unwrap()["arg-type"].as_str().unwrap()).unwrap();
        let members = object["members"].as_array().unwrap().iter();
        members.map(|m| m["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let (plain, drive) = (arguments("blockdev-backup"), arguments("drive-backup"));
    assert_eq!(drive, [plain, vec!["format".into(), "mode".into()]].concat());
    let mirror = arguments("drive-mirror");
    assert!(["buf-size", "node-name", "unmap"].iter().all(|name| mirror.iter().any(|m| m == name)));
    assert!(mirror.iter().all(|name| name != "filter-node-name"), "that is blockdev-mirror's");
}

#[test]
fn the_schema_names_every_command_and_every_type_that_it_mentions() {
    let mut bench = Bench::new();
    let schema = bench.ok("query-qmp-schema", json!({}));
    let schema = schema.as_array().unwrap();
    let named = |name: &Value| schema.iter().any(|entry| entry["name"] == *name);
    for entry in schema {
        for key in ["arg-type", "ret-type", "element-type"] {
            assert!(entry[key].is_null() || named(&entry[key]), "{entry}");
        }
        for member in entry["members"].as_array().into_iter().flatten() {
            assert!(member["type"].is_null() || named(&member["type"]), "{member}");
        }
    }
    let commands = schema.iter().filter(|entry| entry["meta-type"] == "command").count();
    assert_eq!(commands, bench.ok("query-commands", json!({})).as_array().unwrap().len());
    assert!(bench.monitor.graph().jobs().is_empty());
}
