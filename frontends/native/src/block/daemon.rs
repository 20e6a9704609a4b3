//! `orrery storage-daemon`: nodes, exports and jobs without a machine, driven by QMP.

use super::args::{self, Spec};
use super::net::{Net, Stream};
use super::{Host, either};
use orrery_block::host::{Address, ByteStream};
use orrery_block::qmp::{Monitor, Session};
use orrery_block::{Event, IoBuf, NodeOptions};
use serde_json::{Map, Value};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};
use std::thread::JoinHandle;

const SPECS: &[Spec] = &[
    ("help", Some('h'), false),
    ("version", Some('V'), false),
    ("blockdev", None, true),
    ("chardev", None, true),
    ("export", None, true),
    ("monitor", None, true),
    ("nbd-server", None, true),
    ("object", None, true),
    ("pidfile", None, true),
    ("daemonize", None, false),
    ("trace", Some('T'), true),
];

const HELP: &str = "\
Usage: orrery storage-daemon [OPTIONS]
Storage daemon: nodes, exports and block jobs, driven by QMP.

  -h, --help              display this help and exit
  -V, --version           output version information and exit
  --blockdev [driver=]<driver>[,node-name=<N>][,...]
                          configure a block node
  --chardev socket,id=<id>,path=<path>,server=on[,wait=off]
  --chardev stdio,id=<id>
                          configure a character device for a monitor
  --export [type=]nbd,id=<id>,node-name=<node>[,name=<name>][,writable=on|off][,...]
                          export a node over NBD
  --monitor [chardev=]<id>[,mode=control][,pretty=on|off]
                          configure a QMP monitor
  --nbd-server addr.type=inet,addr.host=<host>,addr.port=<port>
  --nbd-server addr.type=unix,addr.path=<path>
                          start an NBD server
  --object <type>,id=<id>[,...]
                          create an object such as 'secret' or 'throttle-group'
  --pidfile <path>        write the process ID to a file
";

/// Runs the program.
pub(super) fn main(name: &str, args: &[String]) -> ExitCode {
    match run(name, args) {
        Ok(code) => code,
        Err(text) => {
            let _ = writeln!(std::io::stderr(), "{name}: {text}");
            ExitCode::FAILURE
        }
    }
}

fn print(text: &str) -> ExitCode {
    let _ = std::io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

/// `name=value,...` or JSON.
fn object(text: &str, implied: &str) -> Result<Map<String, Value>, String> {
    orrery_block::parse_options(text, implied).map_err(|e| e.to_string())
}

/// Where a monitor's client comes from.
#[derive(Clone)]
enum Chardev {
    Stdio,
    Listen(Address),
    Connect(Address),
}

fn chardev(map: &Map<String, Value>) -> Result<(String, Chardev), String> {
    let text = |name: &str| map.get(name).and_then(Value::as_str);
    let id = text("id").ok_or("Parameter 'id' is missing")?.to_owned();
    let device = match text("backend") {
        Some("stdio") => Chardev::Stdio,
        Some("socket") => {
            let address = match (text("path"), text("host"), text("port")) {
                (Some(path), _, _) => Address::Unix(path.into()),
                (_, host, Some(port)) => {
                    Address::Inet { host: host.unwrap_or_default().into(), port: port.into() }
                }
                _ => return Err("chardev: socket: no path and no port given".into()),
            };
            match text("server") {
                Some("on" | "yes" | "true") => Chardev::Listen(address),
                _ => Chardev::Connect(address),
            }
        }
        Some(other) => return Err(format!("'{other}' is not a valid char driver name")),
        None => return Err("Parameter 'backend' is missing".into()),
    };
    Ok((id, device))
}

fn run(name: &str, args: &[String]) -> Result<ExitCode, String> {
    let (options, rest) = args::parse(SPECS, args)?;
    if let Some(extra) = rest.first() {
        return Err(format!("Unexpected argument: {extra}"));
    }
    let host = Host::new().map_err(|e| e.to_string())?;
    let monitor = Monitor::new(&host.graph);
    let mut chardevs = Vec::new();
    let mut pidfile = None;
    let mut monitors: Vec<Chardev> = Vec::new();
    for (option, value) in options {
        let command = |command: &'static str, arguments: Value| {
            host.block_on(monitor.execute(command, arguments)).map_err(|e| e.desc).map(drop)
        };
        match option {
            "help" => return Ok(print(HELP)),
            "version" => {
                return Ok(print(&format!("{name} version {}\n", env!("CARGO_PKG_VERSION"))));
            }
            "blockdev" => {
                let options = NodeOptions::from_argument(&value).map_err(|e| e.to_string())?;
                command("blockdev-add", options.to_value())?;
            }
            "object" => host.graph.add_object_argument(&value).map_err(|e| e.to_string())?,
            "export" => command("block-export-add", Value::Object(object(&value, "type")?))?,
            "nbd-server" => command("nbd-server-start", Value::Object(object(&value, "addr")?))?,
            "chardev" => chardevs.push(chardev(&object(&value, "backend")?)?),
            "monitor" => {
                let map = object(&value, "chardev")?;
                let id = map.get("chardev").and_then(Value::as_str).unwrap_or_default();
                let device = chardevs.iter().find(|(other, _)| other == id);
                let (_, device) = device.ok_or_else(|| format!("chardev \"{id}\" not found"))?;
                monitors.push(device.clone());
            }
            "pidfile" => pidfile = Some(value),
            "daemonize" => return Err("--daemonize is not supported; use a service manager".into()),
            _ => {}
        }
    }
    // Nobody is answered before everything that was asked for is there.
    let mut outputs = Vec::new();
    for device in &monitors {
        outputs.extend(attach(&host, &monitor, device)?);
    }
    tracing::debug!(monitors = monitors.len(), "ready");
    if let Some(path) = &pidfile {
        std::fs::write(path, format!("{}\n", std::process::id()))
            .map_err(|e| format!("cannot create PID file '{path}': {e}"))?;
    }
    host.block_on(async {
        let asked = async {
            while !monitor.wants_to_quit() {
                host.graph.context().sleep(20_000_000).await;
            }
        };
        either(host.ended(), asked).await;
        if let Err(error) = monitor.shutdown().await {
            let _ = writeln!(std::io::stderr(), "{name}: {error}");
        }
    });
    outputs.into_iter().for_each(Output::finish);
    if let Some(path) = &pidfile {
        let _ = std::fs::remove_file(path);
    }
    Ok(ExitCode::SUCCESS)
}

/// Standard output, and who carries bytes to it.
struct Output {
    end: UnixStream,
    thread: JoinHandle<()>,
}

impl Output {
    /// Waits until everything is written.
    fn finish(self) {
        let _ = self.end.shutdown(std::net::Shutdown::Both);
        let _ = self.thread.join();
    }
}

fn attach(host: &Host, monitor: &Monitor, device: &Chardev) -> Result<Option<Output>, String> {
    let net = Net(host.reactor.clone());
    match device {
        Chardev::Stdio => return stdio(host, monitor).map(Some),
        Chardev::Connect(address) => {
            let stream = net.connect_now(address).map_err(|e| e.to_string())?;
            converse(host, monitor, stream);
        }
        Chardev::Listen(address) => {
            let listener = net
                .listen_now(address)
                .map_err(|e| format!("Failed to listen on '{address}': {e}"))?;
            let (host, monitor) = (host.clone(), monitor.clone());
            host.graph.executor().clone().spawn(async move {
                while let Ok(stream) = listener.next().await {
                    converse(&host, &monitor, stream);
                }
            });
        }
    }
    Ok(None)
}

/// Standard input and output, as one end of a socket: threads carry the bytes over.
fn stdio(host: &Host, monitor: &Monitor) -> Result<Output, String> {
    let (ours, theirs) = UnixStream::pair().map_err(|e| e.to_string())?;
    let (mut input, mut output) = (theirs.try_clone().map_err(|e| e.to_string())?, theirs);
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin(), &mut input);
        let _ = input.shutdown(std::net::Shutdown::Write);
    });
    let end = ours.try_clone().map_err(|e| e.to_string())?;
    let thread = std::thread::spawn(move || {
        let mut buf = [0; 4096];
        let mut out = std::io::stdout();
        while let Ok(n) = std::io::Read::read(&mut output, &mut buf) {
            if n == 0 || out.write_all(&buf[..n]).and_then(|()| out.flush()).is_err() {
                break;
            }
        }
    });
    let stream = Stream::unix(&host.reactor, ours).map_err(|e| e.to_string())?;
    converse(host, monitor, stream);
    Ok(Output { end, thread })
}

/// Events that a client was not told of yet.
#[derive(Default)]
struct Mailbox {
    events: VecDeque<Event>,
    waker: Option<Waker>,
    closed: bool,
}

/// Talks to one client until it leaves.
fn converse(host: &Host, monitor: &Monitor, stream: Stream) {
    let stream = Arc::new(stream);
    let mailbox: Arc<Mutex<Mailbox>> = Arc::default();
    let inbox = mailbox.clone();
    host.graph.context().on_event(Arc::new(move |event| {
        let mut mailbox = inbox.lock().unwrap_or_else(PoisonError::into_inner);
        if !mailbox.closed {
            mailbox.events.push_back(event.clone());
            if let Some(waker) = mailbox.waker.take() {
                waker.wake();
            }
        }
    }));
    let mut session = Session::new(monitor);
    host.graph.executor().spawn(async move {
        let greeting = session.greeting();
        let _ = send(&stream, greeting).await;
        loop {
            // Whichever comes first: bytes of the client, or an event.
            let step = {
                let mut bytes = std::pin::pin!(stream.some());
                poll_fn(|cx| {
                    {
                        let mut mailbox = mailbox.lock().unwrap_or_else(PoisonError::into_inner);
                        if let Some(event) = mailbox.events.pop_front() {
                            return Poll::Ready(Ok(Err(event)));
                        }
                        mailbox.waker = Some(cx.waker().clone());
                    }
                    bytes.as_mut().poll(cx).map(|result| result.map(Ok))
                })
                .await
            };
            match step {
                Ok(Err(event)) => {
                    if let Some(line) = session.event(&event)
                        && send(&stream, line).await.is_err()
                    {
                        break;
                    }
                }
                Ok(Ok(bytes)) if !bytes.is_empty() => {
                    for command in session.feed(&bytes) {
                        let answer = session.answer(command).await;
                        // What the command has caused is told before its answer.
                        loop {
                            let event = {
                                let mut mailbox =
                                    mailbox.lock().unwrap_or_else(PoisonError::into_inner);
                                mailbox.events.pop_front()
                            };
                            let Some(event) = event else { break };
                            if let Some(line) = session.event(&event) {
                                let _ = send(&stream, line).await;
                            }
                        }
                        if send(&stream, answer).await.is_err() {
                            break;
                        }
                    }
                }
                _ => break,
            }
        }
        let mut mailbox = mailbox.lock().unwrap_or_else(PoisonError::into_inner);
        mailbox.closed = true;
        mailbox.events.clear();
    });
}

async fn send(stream: &Stream, text: String) -> orrery_block::Result<()> {
    stream.send(vec![IoBuf::from(text.into_bytes())]).await.map(drop)
}
