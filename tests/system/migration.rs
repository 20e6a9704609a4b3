//! A machine that moves from one process to another while it runs.

use crate::Test;
use crate::program::{Folder, Running, root, shared, tool};
use anyhow::{Result, ensure};
use std::fs;
use std::net::TcpListener;
use std::process::Command;

/// All of them.
pub(crate) fn tests() -> Vec<Test> {
    vec![
        Test::new("migration: a running FreeDOS goes on in another process", 60, || moved("unix")),
        Test::new("migration: over TCP", 60, || moved("tcp")),
        Test::new("migration: what cannot be leaves the machine where it was", 60, stays),
    ]
}

/// Words for a conversation with monitors.
const WORDS: &str = r#"
import json, socket, sys, time
uri = sys.argv[1]
events = []
def connect(path):
    for _ in range(600):
        try:
            s = socket.socket(socket.AF_UNIX)
            s.connect(path)
            f = s.makefile("r")
            json.loads(f.readline())
            return s, f
        except OSError:
            time.sleep(0.05)
    sys.exit("nobody listens on " + path)
def ask(f, command, **arguments):
    f[0].sendall(json.dumps({"execute": command, "arguments": arguments}).encode())
    while True:
        answer = json.loads(f[1].readline())
        if "error" in answer:
            sys.exit(command + ": " + answer["error"]["desc"])
        if "return" in answer:
            return answer["return"]
        events.append((answer["event"], answer.get("data", {})))
def refused(f, command, **arguments):
    f[0].sendall(json.dumps({"execute": command, "arguments": arguments}).encode())
    while True:
        answer = json.loads(f[1].readline())
        if "error" in answer:
            return answer["error"]["desc"]
        if "return" in answer:
            sys.exit(command + " was not refused")
def person(f, line):
    return ask(f, "human-monitor-command", **{"command-line": line})
def serial(name):
    with open(name, "rb") as f:
        return f.read().decode("latin-1")
def until(what, seconds=60):
    for _ in range(seconds * 10):
        if what():
            return
        time.sleep(0.1)
    sys.exit("it did not happen")
def booted(f, name):
    # What is typed before somebody listens is lost.
    for _ in range(40):
        typed(f, "\necho up>com1\n")
        for _ in range(20):
            if "up" in serial(name):
                time.sleep(1)
                return
            time.sleep(0.1)
    sys.exit("it did not start")
def typed(f, text):
    for c in text:
        person(f, "sendkey " + {"\n": "ret", " ": "spc", ">": "shift-dot"}.get(c, c))
        time.sleep(0.12)
    # A key that is still on its way does not travel.
    time.sleep(0.5)
"#;

/// Types on both sides of the move, and looks at the receiver.
const MOVE: &str = r#"
here, there = connect("a.qmp"), connect("b.qmp")
for f in (here, there):
    ask(f, "qmp_capabilities")
assert ask(there, "query-status")["status"] == "inmigrate"
booted(here, "a.qmp.serial")
typed(here, "\necho be")
ask(here, "migrate-set-capabilities", capabilities=[{"capability": "events", "state": True}])
ask(here, "migrate", uri=uri)
until(lambda: ask(here, "query-migrate")["status"] in ("completed", "failed"))
moved = ask(here, "query-migrate")
assert moved["status"] == "completed", moved
assert ask(here, "query-status")["status"] == "postmigrate"
told = [data["status"] for name, data in events if name == "MIGRATION"]
assert told == ["setup", "active", "completed"], told
assert ("MIGRATION_PASS", {"pass": 1}) in events
assert "in use" in refused(here, "cont")
until(lambda: ask(there, "query-status")["status"] == "running")
typed(there, "fore>com1\n")
until(lambda: "before" in serial("b.qmp.serial"))
# The disk is the receiver's now.
typed(there, "echo x>y\n")
typed(there, "dir y>com1\n")
until(lambda: "1 file(s)" in serial("b.qmp.serial"))
print("moved", moved["ram"]["normal"], "pages, standing", moved["downtime"], "ms")
ask(here, "quit")
ask(there, "quit")
"#;

/// Places where a machine cannot go to; what it says of it, and that it goes on.
const STAY: &str = r#"
here = connect("a.qmp")
ask(here, "qmp_capabilities")
booted(here, "a.qmp.serial")
assert refused(here, "migrate", uri="exec:cat") == "unknown migration protocol: exec:cat"
assert "not specified" in refused(here, "migrate-incoming", uri=uri)
def fails(uri, why):
    ask(here, "migrate", uri=uri)
    until(lambda: ask(here, "query-migrate")["status"] == "failed")
    said = ask(here, "query-migrate")["error-desc"]
    assert why in said, said
    assert ask(here, "query-status")["status"] == "running"
fails("unix:nobody", "No such file or directory")
fails("tcp:127.0.0.1:" + sys.argv[2], "Connection refused")
# A machine with more memory takes it as it is.
fails(uri, "")
# One that takes its time can be told to stay.
door = socket.socket(socket.AF_UNIX)
door.bind("slow")
door.listen()
ask(here, "migrate-set-parameters", **{"max-bandwidth": 4096})
ask(here, "migrate", uri="unix:slow")
until(lambda: ask(here, "query-migrate")["status"] == "active")
assert "in progress" in refused(here, "migrate", uri="unix:slow")
ask(here, "migrate_cancel")
until(lambda: ask(here, "query-migrate")["status"] == "cancelled")
assert ask(here, "query-status")["status"] == "running"
# Into a file it goes, and on when it is told to.
ask(here, "migrate", uri="file:whole")
until(lambda: ask(here, "query-migrate")["status"] == "completed")
assert ask(here, "query-status")["status"] == "postmigrate"
ask(here, "cont")
assert ask(here, "query-status")["status"] == "running"
typed(here, "\necho further>com1\n")
until(lambda: "further" in serial("a.qmp.serial"))
ask(here, "quit")
"#;

/// What was kept in a file goes on from there.
const AGAIN: &str = r#"
there = connect("c.qmp")
ask(there, "qmp_capabilities")
until(lambda: ask(there, "query-status")["status"] == "running")
typed(there, "\necho there>com1\n")
until(lambda: "there" in serial("c.qmp.serial"))
ask(there, "quit")
"#;

/// A folder with a disk, and starts machines there.
struct Pair {
    work: Folder,
    firmware: String,
}

impl Pair {
    fn new() -> Result<Self> {
        let work = Folder::new()?;
        work.write("disk.img", fs::read(shared("guests/x86/freedos722.img")?)?)?;
        let firmware = root().join("guests/firmware").to_string_lossy().into_owned();
        Ok(Self { work, firmware })
    }

    fn start(&self, qmp: &str, more: &[&str]) -> Result<Running> {
        let serial = format!("file:{qmp}.serial");
        let qmp = format!("unix:{qmp},server=on,wait=off");
        let common = ["-M", "pc", "-display", "none", "-fda", "disk.img", "-qmp", &qmp];
        let places = ["-L", self.firmware.as_str(), "-serial", &serial];
        let args = common.iter().chain(&places).chain(more);
        self.work.start(&args.map(|s| s.to_string()).collect::<Vec<_>>())
    }

    fn talk(&self, words: &str, args: &[&str]) -> Result<()> {
        self.work.write("conversation.py", [WORDS, words].concat())?;
        let mut command = Command::new(tool("python3")?);
        command.arg("conversation.py").args(args);
        let talk = command.current_dir(self.work.path()).output()?;
        ensure!(talk.status.success(), "{}", String::from_utf8_lossy(&talk.stderr));
        Ok(())
    }
}

/// A port that nobody listens on.
fn free_port() -> Result<String> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port().to_string())
}

fn moved(how: &str) -> Result<()> {
    let pair = Pair::new()?;
    let tcp = format!("tcp:127.0.0.1:{}", free_port()?);
    let uri = if how == "tcp" { tcp.as_str() } else { "unix:way" };
    let there = pair.start("b.qmp", &["-m", "16", "-incoming", uri])?;
    let here = pair.start("a.qmp", &["-m", "16"])?;
    pair.talk(MOVE, &[uri])?;
    // Both ended because they were told to.
    here.wait(20)?.success()?;
    there.wait(20)?.success()?;
    Ok(())
}

fn stays() -> Result<()> {
    let pair = Pair::new()?;
    let other = pair.start("b.qmp", &["-m", "32", "-incoming", "unix:way"])?;
    let here = pair.start("a.qmp", &["-m", "16"])?;
    pair.talk(STAY, &["unix:way", &free_port()?])?;
    here.wait(20)?.success()?;
    let other = other.wait(20)?;
    ensure!(other.status.code() == Some(1), "{other:?}");
    // What was kept in the file is a machine that another program takes up.
    let again = pair.start("c.qmp", &["-m", "16", "-incoming", "file:whole"])?;
    pair.talk(AGAIN, &["file:whole"])?;
    again.wait(20)?.success()?;
    let bad = pair.work.orrery(&["-m", "16", "-incoming", "exec:cat"], 20)?;
    ensure!(bad.status.code() == Some(1), "{bad:?}");
    ensure!(bad.stderr.contains("unknown migration protocol: exec:cat"), "{}", bad.stderr);
    Ok(())
}
