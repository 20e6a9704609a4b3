//! `orrery nbd`: serves an image to NBD clients, with the options of `qemu-nbd`.

use super::args::{self, Spec};
use super::{Host, either};
use orrery_block::graph::Node;
use orrery_block::host::{Address, Gate};
use orrery_block::nbd::{Export, ExportInfo, ExportOptions, Limits, NbdServer, list};
use orrery_block::qcow2::Qcow2Options;
use orrery_block::{BlockError, Format, OpenOptions};
use std::io::{Read, Write};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;

const SPECS: &[Spec] = &[
    ("help", Some('h'), false),
    ("version", Some('V'), false),
    ("bind", Some('b'), true),
    ("port", Some('p'), true),
    ("socket", Some('k'), true),
    ("offset", Some('o'), true),
    ("read-only", Some('r'), false),
    ("allocation-depth", Some('A'), false),
    ("bitmap", Some('B'), true),
    ("connect", Some('c'), true),
    ("disconnect", Some('d'), false),
    ("list", Some('L'), false),
    ("snapshot", Some('s'), false),
    ("load-snapshot", Some('l'), true),
    ("nocache", Some('n'), false),
    ("cache", None, true),
    ("aio", None, true),
    ("discard", None, true),
    ("detect-zeroes", None, true),
    ("shared", Some('e'), true),
    ("format", Some('f'), true),
    ("persistent", Some('t'), false),
    ("verbose", Some('v'), false),
    ("object", None, true),
    ("export-name", Some('x'), true),
    ("description", Some('D'), true),
    ("handshake-limit", None, true),
    ("tls-creds", None, true),
    ("tls-hostname", None, true),
    ("tls-authz", None, true),
    ("image-opts", None, false),
    ("trace", Some('T'), true),
    ("fork", None, false),
    ("pid-file", None, true),
    ("selinux-label", None, true),
];

const HELP: &str = "\
Usage: orrery nbd [OPTIONS] FILE
  or:  orrery nbd -L [OPTIONS]
Serves a disk image to NBD clients.

  -h, --help                display this help and exit
  -V, --version             output version information and exit

Connection properties:
  -p, --port=PORT           port to listen on (default `10809')
  -b, --bind=IFACE          interface to bind to (default `0.0.0.0')
  -k, --socket=PATH         path to the unix socket
  -e, --shared=NUM          device can be shared by NUM clients (default '1')
  -t, --persistent          don't exit on the last connection
  -v, --verbose             display extra debugging information
  -x, --export-name=NAME    expose export by name (default is empty string)
  -D, --description=TEXT    export a human-readable description
      --handshake-limit=N   seconds for the negotiation (default 10, 0 for no limit)

Exposing part of the image:
  -o, --offset=OFFSET       offset into the image
  -A, --allocation-depth    expose the allocation depth
  -B, --bitmap=NAME         expose a persistent dirty bitmap

General purpose options:
  -L, --list                list exports available from another NBD server
      --object type,id=ID,...  define an object such as 'secret'
      --tls-creds=ID        encrypt connections with the credentials of that object
                            (tls-creds-x509,id=ID,dir=FOLDER,endpoint=server|client)
      --tls-hostname=NAME   whom the server's certificate has to name (with -L)
      --fork                fork off the server process and exit the parent once it is running
      --pid-file=PATH       store the server's process ID in the given file

Block device options:
  -f, --format=FORMAT       set image format (raw, qcow2, ...)
  -r, --read-only           export read-only
  -s, --snapshot            write to a temporary copy
  -l, --load-snapshot=SNAP  export an internal snapshot, by name or id, read-only
  -n, --nocache             disable host cache
      --cache=MODE          set cache mode (none, writeback, writethrough, directsync, unsafe)
      --aio=MODE            set AIO mode (native, io_uring or threads)
      --discard=MODE        set discard mode (ignore, unmap)
      --detect-zeroes=MODE  set detect-zeroes mode (off, on, unmap)
      --image-opts          treat FILE as a full set of image options
";

/// Tells parent and child of `--fork` apart.
const FORKED: &str = "ORRERY_NBD_FORKED";

#[derive(Default)]
struct Job {
    bind: Option<String>,
    port: Option<String>,
    socket: Option<String>,
    offset: u64,
    read_only: bool,
    snapshot: bool,
    load_snapshot: Option<String>,
    shared: u64,
    persistent: bool,
    fork: bool,
    pid_file: Option<String>,
    image_opts: bool,
    format: Option<Format>,
    discard: Option<String>,
    detect_zeroes: Option<String>,
    cache: Option<String>,
    handshake: u64,
    tls_creds: Option<String>,
    tls_hostname: Option<String>,
    list: bool,
    export: ExportOptions,
    objects: Vec<String>,
}

/// Runs the program.
pub(crate) fn main(name: &str, args: &[String]) -> ExitCode {
    match run(name, args) {
        Ok(code) => code,
        Err(text) => {
            let _ = writeln!(std::io::stderr(), "{name}: {text}");
            ExitCode::FAILURE
        }
    }
}

fn size(text: &str) -> Result<u64, String> {
    let bad = || format!("Invalid offset `{text}'");
    let (digits, shift) = match text.bytes().last().map(|b| b.to_ascii_lowercase()) {
        Some(b'k') => (&text[..text.len() - 1], 10),
        Some(b'm') => (&text[..text.len() - 1], 20),
        Some(b'g') => (&text[..text.len() - 1], 30),
        Some(b't') => (&text[..text.len() - 1], 40),
        _ => (text, 0),
    };
    digits.parse::<u64>().ok().and_then(|n| n.checked_mul(1 << shift)).ok_or_else(bad)
}

fn run(name: &str, args: &[String]) -> Result<ExitCode, String> {
    let (options, files) = args::parse(SPECS, args)
        .map_err(|e| format!("{e}\nTry `{name} --help' for more information."))?;
    let mut job = Job { shared: 1, handshake: 10, ..Job::default() };
    for (option, value) in options {
        match option {
            "help" => return print(HELP),
            "version" => return print(&format!("{name} {}\n", env!("CARGO_PKG_VERSION"))),
            "bind" => job.bind = Some(value),
            "port" => job.port = Some(value),
            "socket" => job.socket = Some(value),
            "offset" => job.offset = size(&value)?,
            "read-only" => job.read_only = true,
            "allocation-depth" => job.export.allocation_depth = true,
            "bitmap" => job.export.bitmaps.push((None, value)),
            "connect" | "disconnect" => {
                return Err("Kernel /dev/nbdN support not available".into());
            }
            "list" => job.list = true,
            "snapshot" => job.snapshot = true,
            "load-snapshot" => {
                let by =
                    value.strip_prefix("snapshot.name=").or(value.strip_prefix("snapshot.id="));
                job.load_snapshot = Some(by.unwrap_or(&value).into());
                job.read_only = true;
            }
            "nocache" => job.cache = Some("none".into()),
            "cache" => {
                let modes = ["none", "off", "writeback", "writethrough", "directsync", "unsafe"];
                if !modes.contains(&&*value) {
                    return Err(format!("Invalid cache mode `{value}'"));
                }
                job.cache = Some(value);
            }
            "aio" if !["native", "threads", "io_uring"].contains(&&*value) => {
                return Err(format!("Invalid aio mode '{value}'"));
            }
            "aio" | "trace" | "verbose" | "selinux-label" => {}
            "discard" => {
                if !["ignore", "off", "unmap", "on"].contains(&&*value) {
                    return Err(format!("Invalid discard mode `{value}'"));
                }
                job.discard = Some(value);
            }
            "detect-zeroes" => job.detect_zeroes = Some(value),
            "shared" => {
                job.shared =
                    value.parse().map_err(|_| format!("Invalid shared device number '{value}'"))?;
            }
            "format" => job.format = Some(Format::from_name(&value).map_err(|e| e.to_string())?),
            "persistent" => job.persistent = true,
            "object" => job.objects.push(value),
            "export-name" => job.export.name = value,
            "description" => job.export.description = Some(value),
            "handshake-limit" => {
                job.handshake =
                    value.parse().map_err(|_| format!("Invalid handshake limit '{value}'"))?;
            }
            "tls-creds" => job.tls_creds = Some(value),
            "tls-hostname" => job.tls_hostname = Some(value),
            "tls-authz" => return Err("TLS authorization is not available".into()),
            "image-opts" => job.image_opts = true,
            "fork" => job.fork = true,
            "pid-file" => job.pid_file = Some(value),
            other => return Err(format!("unrecognized option '--{other}'")),
        }
    }
    if job.list {
        if !files.is_empty() {
            return Err("List mode is incompatible with a file name".into());
        }
        return list_exports(&job);
    }
    let [file] = &files[..] else {
        return Err(format!(
            "Invalid number of arguments\nTry `{name} --help' for more information."
        ));
    };
    if job.socket.is_some() && (job.bind.is_some() || job.port.is_some()) {
        return Err("Unix socket can't be used with port or bind address".into());
    }
    if job.fork && std::env::var_os(FORKED).is_none() {
        return fork(name, args);
    }
    serve(name, &job, file)
}

fn print(text: &str) -> Result<ExitCode, String> {
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(ExitCode::SUCCESS)
}

/// Starts the server as another process and waits until it serves.
fn fork(name: &str, args: &[String]) -> Result<ExitCode, String> {
    use std::os::unix::process::CommandExt;
    let program = std::env::current_exe().map_err(|e| e.to_string())?;
    let mut child = Command::new(program);
    match name.strip_suffix(" nbd") {
        Some(_) => child.arg("nbd"),
        // Started under the name of the tool: its messages begin with that.
        None => child.arg0(name),
    };
    let mut child = child
        .args(args)
        .env(FORKED, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(|e| format!("Failed to fork: {e}"))?;
    // One byte says that it serves; the end of the pipe that it failed.
    let mut byte = [0];
    let told = child.stdout.take().is_some_and(|mut pipe| pipe.read_exact(&mut byte).is_ok());
    if told {
        return Ok(ExitCode::SUCCESS);
    }
    let _ = child.wait();
    Ok(ExitCode::FAILURE)
}

fn address(job: &Job) -> Address {
    match &job.socket {
        Some(path) => Address::Unix(path.clone()),
        None => Address::Inet {
            host: job.bind.clone().unwrap_or_default(),
            port: job.port.clone().unwrap_or_else(|| "10809".into()),
        },
    }
}

async fn open(host: &Host, job: &Job, file: &str) -> Result<Arc<Node>, BlockError> {
    let options = OpenOptions {
        format: job.format,
        read_only: job.read_only || job.snapshot,
        gate: Gate::PlainFiles,
        qcow2: Qcow2Options { snapshot: job.load_snapshot.clone(), ..Qcow2Options::default() },
        ..OpenOptions::default()
    };
    let node = host.graph.open_by_name(file, job.image_opts, &options).await?;
    if job.snapshot { host.graph.temporary_overlay(&node).await } else { Ok(node) }
}

fn serve(name: &str, job: &Job, file: &str) -> Result<ExitCode, String> {
    let host = Host::new().map_err(|e| e.to_string())?;
    host.block_on(async {
        for object in &job.objects {
            host.graph.add_object_argument(object).map_err(|e| e.to_string())?;
        }
        let node = open(&host, job, file)
            .await
            .map_err(|e| format!("Failed to blk_new_open '{file}': {e}"))?;
        let bitmaps = match job.snapshot {
            true => Ok(()),
            false => host.graph.follow_writes(&node).await,
        };
        bitmaps.map_err(|e| e.to_string())?;
        host.graph.show_bitmaps(&node).await.map_err(|e| e.to_string())?;
        node.set_ignore_discard(job.discard.as_deref().is_some_and(|m| m != "unmap" && m != "on"));
        match job.detect_zeroes.as_deref() {
            None | Some("off") => {}
            Some("on") => node.set_detect_zeroes(orrery_block::graph::DetectZeroes::On),
            Some("unmap") => node.set_detect_zeroes(orrery_block::graph::DetectZeroes::Unmap),
            Some(mode) => return Err(format!("Failed to parse detect_zeroes mode: {mode}")),
        }
        let cache = job.cache.as_deref().unwrap_or("writeback");
        node.set_no_flush(cache == "unsafe");
        if job.offset > node.len() {
            return Err(format!(
                "Offset ({}) has to be smaller than the image size ({})",
                job.offset,
                node.len()
            ));
        }
        let guessed = job.format.is_none() && !job.image_opts && node.driver_name() == "raw";
        if guessed && !job.read_only {
            let _ = writeln!(
                std::io::stderr(),
                "WARNING: Image format was not specified for '{file}' and probing guessed raw.\n         \
                 Automatically detecting the format is dangerous for raw images, write operations on block 0 will be restricted.\n         \
                 Specify the 'raw' format explicitly to remove the restrictions."
            );
        }
        let limits = Limits { connections: job.shared, handshake_seconds: job.handshake };
        let server = NbdServer::new(&host.graph, limits);
        if let Some(id) = &job.tls_creds {
            server.set_tls(host.graph.tls(id, true).map_err(|e| e.to_string())?);
        }
        let options = ExportOptions {
            writable: !job.read_only,
            writethrough: cache == "writethrough" || cache == "directsync",
            multi_conn: job.shared != 1,
            window: (job.offset, None),
            // What is written is looked at in sectors, lest it make a format of the disk.
            block: if guessed { 512 } else { 1 },
            ..job.export.clone()
        };
        let export = Export::new(&host.graph, &node, options).map_err(|e| e.to_string())?;
        server.add(export).map_err(|e| e.to_string())?;
        let net = host.graph.context().net().map_err(|e| e.to_string())?;
        let listener = net.listen(&address(job)).await.map_err(|e| e.to_string())?;
        server.listen(listener);
        if let Some(path) = &job.pid_file {
            std::fs::write(path, format!("{}\n", std::process::id()))
                .map_err(|e| format!("cannot write pid file '{path}': {e}"))?;
        }
        if std::env::var_os(FORKED).is_some() {
            let mut out = std::io::stdout();
            let _ = out.write_all(b".").and_then(|()| out.flush());
        }
        let ends = host.ended();
        if job.persistent {
            ends.await;
        } else {
            let idle = server.idle();
            either(ends, idle).await;
        }
        server.stop();
        drop(server);
        if let Err(error) = host.graph.close().await {
            let _ = writeln!(std::io::stderr(), "{name}: {error}");
        }
        if let Some(path) = &job.pid_file {
            let _ = std::fs::remove_file(path);
        }
        Ok(ExitCode::SUCCESS)
    })
}

fn list_exports(job: &Job) -> Result<ExitCode, String> {
    let host = Host::new().map_err(|e| e.to_string())?;
    let mut address = address(job);
    if let Address::Inet { host, .. } = &mut address
        && host.is_empty()
    {
        *host = "localhost".into();
    }
    let exports = host.block_on(async {
        for object in &job.objects {
            host.graph.add_object_argument(object)?;
        }
        let tls = match &job.tls_creds {
            Some(id) => {
                let there = match &address {
                    Address::Inet { host, .. } => host.clone(),
                    _ => String::new(),
                };
                let name = job.tls_hostname.clone().unwrap_or(there);
                Some((host.graph.tls(id, false)?, name))
            }
            None => None,
        };
        let net = host.graph.context().net()?;
        let stream = net.connect(&address).await?;
        list(&stream, tls.as_ref()).await
    });
    let exports = exports.map_err(|e| e.to_string())?;
    let mut text = format!("exports available: {}\n", exports.len());
    exports.iter().for_each(|export| describe(&mut text, export));
    print(&text)
}

const FLAGS: [&str; 13] = [
    "",
    "readonly",
    "flush",
    "fua",
    "rotational",
    "trim",
    "zeroes",
    "df",
    "multi",
    "resize",
    "cache",
    "fast-zero",
    "block-status-payload",
];

fn describe(text: &mut String, export: &ExportInfo) {
    use std::fmt::Write as _;
    let _ = writeln!(text, " export: '{}'", export.name);
    if let Some(description) = &export.description {
        let _ = writeln!(text, "  description: {description}");
    }
    let _ = writeln!(text, "  size:  {}", export.size);
    let _ = write!(text, "  flags: 0x{:x} (", export.flags);
    for (bit, name) in FLAGS.iter().enumerate().skip(1) {
        if export.flags >> bit & 1 != 0 {
            let _ = write!(text, " {name}");
        }
    }
    let _ = writeln!(text, " )");
    if export.min_block > 0 {
        let _ = writeln!(text, "  min block: {}", export.min_block);
        let _ = writeln!(text, "  opt block: {}", export.opt_block);
        let _ = writeln!(text, "  max block: {}", export.max_block);
    }
    let width = if export.extended { "64-bit" } else { "32-bit" };
    let _ = writeln!(text, "  transaction size: {width}");
    if !export.contexts.is_empty() {
        let _ = writeln!(text, "  available meta contexts: {}", export.contexts.len());
        for context in &export.contexts {
            let _ = writeln!(text, "   {context}");
        }
    }
}
