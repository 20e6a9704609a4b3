//! Character devices: where the bytes of serial lines, monitors and debuggers come from and go to.

use crate::event::Event;
use crate::terminal::{self, Escapes, Typed};
use anyhow::{Context as _, Result, bail};
use orrery_block::host::Address;
use orrery_core::monitor::{Chardev, ClientId, Mode, Ring};
use orrery_core::options::{CharTarget, SocketOption};
use std::fs::File;
use std::io::{Read, Write};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long a reader may take nothing before what is sent to it is dropped.
const PATIENCE: Duration = Duration::from_secs(5);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What happened at the other end.
#[derive(Debug)]
pub(crate) enum CharEvent {
    /// Somebody is there.
    Open,
    /// Bytes.
    Bytes(Vec<u8>),
    /// Nobody is there any more.
    Close,
}

/// What uses a character device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum User {
    /// A line of the machine, by its number.
    Line(usize),
    /// A monitor.
    Monitor(Mode, Option<ClientId>),
    /// A debugger.
    Gdb,
    /// A test.
    Qtest,
}

/// A connection's sending side.
enum Stream {
    Tcp(std::net::TcpStream),
    #[cfg(unix)]
    Unix(std::os::unix::net::UnixStream),
}

impl Stream {
    fn split(&self) -> std::io::Result<Self> {
        Ok(match self {
            Self::Tcp(s) => {
                s.set_nodelay(true)?;
                s.set_write_timeout(Some(PATIENCE))?;
                Self::Tcp(s.try_clone()?)
            }
            #[cfg(unix)]
            Self::Unix(s) => {
                s.set_write_timeout(Some(PATIENCE))?;
                Self::Unix(s.try_clone()?)
            }
        })
    }

    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Tcp(s) => s.read(buf),
            #[cfg(unix)]
            Self::Unix(s) => s.read(buf),
        }
    }

    fn write_all(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            Self::Tcp(s) => s.write_all(bytes),
            #[cfg(unix)]
            Self::Unix(s) => s.write_all(bytes),
        }
    }
}

enum Door {
    Tcp(std::net::TcpListener),
    #[cfg(unix)]
    Unix(std::os::unix::net::UnixListener),
}

impl Door {
    fn accept(&self) -> std::io::Result<Stream> {
        Ok(match self {
            Self::Tcp(door) => Stream::Tcp(door.accept()?.0),
            #[cfg(unix)]
            Self::Unix(door) => Stream::Unix(door.accept()?.0),
        })
    }
}

type Current = Arc<Mutex<Option<Stream>>>;

enum Out {
    Nowhere,
    Terminal,
    File(File),
    Ring(Ring, usize),
    Stream(Current),
}

/// A character device.
pub(crate) struct Char {
    label: String,
    filename: String,
    out: Out,
    /// Path of a socket to be removed at the end.
    path: Option<String>,
    /// Users share it; Ctrl-A c hands it on.
    mux: bool,
    users: Vec<User>,
    focus: usize,
    escapes: Escapes,
    open: bool,
}

/// All of them.
pub(crate) struct Chars {
    list: Vec<Char>,
    events: Sender<Event>,
    raw: Option<terminal::Raw>,
}

/// What came for a user.
pub(crate) enum Input {
    /// Somebody is there.
    Open(User),
    /// Bytes.
    Bytes(User, Vec<u8>),
    /// Nobody is there any more.
    Close(User),
    /// An escape typed at the terminal.
    Typed(Typed),
}

fn named(address: &Address) -> String {
    match address {
        Address::Inet { host, port } => format!("tcp:{host}:{port}"),
        other => other.to_string(),
    }
}

fn listen(address: &Address) -> std::io::Result<Door> {
    match address {
        Address::Inet { host, port } => {
            let host = if host.is_empty() { "0.0.0.0" } else { host };
            Ok(Door::Tcp(std::net::TcpListener::bind(format!("{host}:{port}"))?))
        }
        #[cfg(unix)]
        Address::Unix(path) => {
            use std::os::unix::net::{UnixListener, UnixStream};
            // A socket that nobody listens on any more is in the way.
            let stale = UnixStream::connect(path)
                .is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused);
            if stale {
                std::fs::remove_file(path)?;
            }
            Ok(Door::Unix(UnixListener::bind(path)?))
        }
        _ => Err(std::io::ErrorKind::Unsupported.into()),
    }
}

fn connect(address: &Address) -> std::io::Result<Stream> {
    match address {
        Address::Inet { host, port } => {
            let host = if host.is_empty() { "localhost" } else { host };
            Ok(Stream::Tcp(std::net::TcpStream::connect(format!("{host}:{port}"))?))
        }
        #[cfg(unix)]
        Address::Unix(path) => Ok(Stream::Unix(std::os::unix::net::UnixStream::connect(path)?)),
        _ => Err(std::io::ErrorKind::Unsupported.into()),
    }
}

/// Reads a connection to its end. False: the program ends.
fn pump(n: usize, mut stream: Stream, events: &Sender<Event>) -> bool {
    let mut buf = vec![0; 16384];
    loop {
        match stream.read(&mut buf) {
            Ok(0) | Err(_) => return events.send(Event::Char(n, CharEvent::Close)).is_ok(),
            Ok(len) => {
                let bytes = CharEvent::Bytes(buf[..len].to_vec());
                if events.send(Event::Char(n, bytes)).is_err() {
                    return false;
                }
            }
        }
    }
}

fn begin(n: usize, stream: Stream, current: &Current, events: &Sender<Event>) -> bool {
    match stream.split() {
        Ok(writer) => *lock(current) = Some(writer),
        Err(_) => return true,
    }
    if events.send(Event::Char(n, CharEvent::Open)).is_err() {
        return false;
    }
    let more = pump(n, stream, events);
    *lock(current) = None;
    more
}

impl Chars {
    /// None so far.
    pub(crate) fn new(events: Sender<Event>) -> Self {
        Self { list: Vec::new(), events, raw: None }
    }

    /// The number of the one with this label.
    pub(crate) fn find(&self, label: &str) -> Option<usize> {
        self.list.iter().position(|c| c.label == label)
    }

    /// Makes one.
    pub(crate) fn add(&mut self, label: &str, target: &CharTarget) -> Result<usize> {
        let n = self.list.len();
        let events = self.events.clone();
        let reader = |file: File| {
            let events = events.clone();
            std::thread::spawn(move || {
                let (mut file, mut buf) = (file, [0; 4096]);
                while let Ok(len) = file.read(&mut buf) {
                    if len == 0 {
                        break;
                    }
                    let bytes = CharEvent::Bytes(buf[..len].to_vec());
                    if events.send(Event::Char(n, bytes)).is_err() {
                        break;
                    }
                }
            });
        };
        let (mut mux, mut path, mut open) = (false, None, true);
        let (filename, out) = match target {
            CharTarget::None | CharTarget::Null | CharTarget::Vc => ("null".into(), Out::Nowhere),
            CharTarget::Chardev(id) => bail!("there is no -chardev with the id '{id}'"),
            CharTarget::Stdio { mux: shared } => {
                if self.raw.is_some() {
                    bail!("the terminal is given to two devices: {label} is the second");
                }
                mux = *shared;
                self.raw = Some(terminal::Raw::enter());
                terminal::read_stdin(events.clone(), n);
                ("stdio".into(), Out::Terminal)
            }
            CharTarget::File(name) => {
                let file = File::create(name).with_context(|| format!("cannot create '{name}'"))?;
                ("file".into(), Out::File(file))
            }
            CharTarget::Pipe(name) => {
                let open = |name: &str| File::options().read(true).write(true).open(name);
                let (input, output) =
                    match (open(&format!("{name}.in")), open(&format!("{name}.out"))) {
                        (Ok(input), Ok(output)) => (input, output),
                        _ => {
                            let both =
                                open(name).with_context(|| format!("cannot open '{name}'"))?;
                            (both.try_clone()?, both)
                        }
                    };
                reader(input);
                (format!("pipe:{name}"), Out::File(output))
            }
            CharTarget::Pty => {
                let (master, name) = pty()?;
                tracing::info!("{label} is {name}");
                let _ =
                    writeln!(std::io::stderr(), "char device redirected to {name} (label {label})");
                reader(master.try_clone()?);
                (format!("pty:{name}"), Out::File(master))
            }
            CharTarget::Ringbuf(size) => ("ringbuf".into(), Out::Ring(Ring::default(), *size)),
            CharTarget::Socket(socket) => {
                open = false;
                let current = self.socket(n, label, socket)?;
                if let (Address::Unix(name), true) = (&socket.address, socket.server) {
                    path = Some(name.clone());
                }
                let side = if socket.server { ",server=on" } else { "" };
                (format!("{}{side}", named(&socket.address)), Out::Stream(current))
            }
        };
        if open {
            let _ = self.events.send(Event::Char(n, CharEvent::Open));
        }
        self.list.push(Char {
            label: label.into(),
            filename,
            out,
            path,
            mux,
            users: Vec::new(),
            focus: 0,
            escapes: Escapes::default(),
            open: false,
        });
        Ok(n)
    }

    fn socket(&self, n: usize, label: &str, socket: &SocketOption) -> Result<Current> {
        let current = Current::default();
        let (events, ours) = (self.events.clone(), current.clone());
        let place = named(&socket.address);
        if socket.server {
            let door = listen(&socket.address)
                .with_context(|| format!("{label}: cannot listen on '{place}'"))?;
            let first = if socket.wait {
                let _ = writeln!(std::io::stderr(), "waiting for a connection on {place}");
                Some(door.accept().with_context(|| format!("{label}: '{place}'"))?)
            } else {
                None
            };
            std::thread::spawn(move || {
                let mut next = first;
                loop {
                    let stream = match next.take() {
                        Some(stream) => stream,
                        None => match door.accept() {
                            Ok(stream) => stream,
                            Err(_) => return,
                        },
                    };
                    if !begin(n, stream, &ours, &events) {
                        return;
                    }
                }
            });
        } else {
            let stream = connect(&socket.address)
                .with_context(|| format!("{label}: cannot connect to '{place}'"))?;
            // It can be written to from now on, before its thread has begun.
            *lock(&current) = Some(stream.split()?);
            std::thread::spawn(move || begin(n, stream, &ours, &events));
        }
        Ok(current)
    }

    /// Has `user` use number `n`. Only shared ones take several.
    pub(crate) fn attach(&mut self, n: usize, user: User, shared: bool) -> Result<()> {
        let c = &mut self.list[n];
        c.mux |= shared;
        if !c.users.is_empty() && !c.mux {
            bail!("chardev '{}' is already in use", c.label);
        }
        c.users.push(user);
        Ok(())
    }

    /// What the monitor is told of them.
    pub(crate) fn describe(&self) -> Vec<Chardev> {
        let one = |c: &Char| Chardev {
            label: c.label.clone(),
            filename: c.filename.clone(),
            open: !c.users.is_empty(),
        };
        self.list.iter().map(one).collect()
    }

    /// The ring buffers among them.
    pub(crate) fn rings(&self) -> impl Iterator<Item = (String, (Ring, usize))> + '_ {
        self.list.iter().filter_map(|c| match &c.out {
            Out::Ring(ring, size) => Some((c.label.clone(), (ring.clone(), *size))),
            _ => None,
        })
    }

    /// The number of the device that a user has.
    pub(crate) fn of(&self, user: User) -> Option<usize> {
        self.list.iter().position(|c| c.users.contains(&user))
    }

    /// A monitor has got or lost its client.
    pub(crate) fn set_client(&mut self, n: usize, mode: Mode, client: Option<ClientId>) {
        for user in &mut self.list[n].users {
            if let User::Monitor(m, id) = user
                && *m == mode
                && id.is_some() != client.is_some()
            {
                *id = client;
                return;
            }
        }
    }

    /// Every monitor's client, with the device it is at and whether it is the one that is seen.
    pub(crate) fn clients(&self) -> Vec<(usize, ClientId, bool)> {
        let mut out = Vec::new();
        for (n, c) in self.list.iter().enumerate() {
            for (i, user) in c.users.iter().enumerate() {
                if let User::Monitor(_, Some(id)) = user {
                    out.push((n, *id, !c.mux || c.focus == i));
                }
            }
        }
        out
    }

    /// Sends bytes.
    pub(crate) fn write(&mut self, n: usize, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        // Nobody at the other end, or one who does not listen, is no reason to stop the machine.
        match &mut self.list[n].out {
            Out::Nowhere => {}
            Out::Terminal => terminal::write(bytes),
            Out::File(file) => {
                let _ = file.write_all(bytes);
            }
            Out::Ring(ring, size) => {
                let mut ring = lock(ring);
                ring.extend(bytes);
                while ring.len() > *size {
                    ring.pop_front();
                }
            }
            Out::Stream(current) => {
                let mut current = lock(current);
                if current.as_mut().is_some_and(|s| s.write_all(bytes).is_err()) {
                    *current = None;
                }
            }
        }
    }

    /// What an event means to whom.
    pub(crate) fn take(&mut self, n: usize, event: CharEvent) -> Vec<Input> {
        let Some(c) = self.list.get_mut(n) else { return Vec::new() };
        match event {
            CharEvent::Open if !c.open => {
                c.open = true;
                c.users.iter().map(|u| Input::Open(*u)).collect()
            }
            CharEvent::Open => Vec::new(),
            CharEvent::Close => {
                c.open = false;
                c.users.iter().map(|u| Input::Close(*u)).collect()
            }
            CharEvent::Bytes(bytes) if !c.mux => {
                c.users.first().map(|u| Input::Bytes(*u, bytes)).into_iter().collect()
            }
            CharEvent::Bytes(bytes) => {
                let mut out = Vec::new();
                for byte in bytes {
                    match c.escapes.next(byte) {
                        Some(Typed::Byte(byte)) => {
                            let Some(user) = c.users.get(c.focus) else { continue };
                            match out.last_mut() {
                                Some(Input::Bytes(u, bytes)) if u == user => bytes.push(byte),
                                _ => out.push(Input::Bytes(*user, vec![byte])),
                            }
                        }
                        Some(Typed::Next) => c.focus = (c.focus + 1) % c.users.len().max(1),
                        Some(other) => out.push(Input::Typed(other)),
                        None => {}
                    }
                }
                out
            }
        }
    }
}

impl Drop for Chars {
    fn drop(&mut self) {
        for path in self.list.iter().filter_map(|c| c.path.as_ref()) {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// A pseudo-terminal: our end, and the name of the other.
#[cfg(target_os = "linux")]
fn pty() -> Result<(File, String)> {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).context("no pseudo-terminal")?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let name = ptsname(&master, Vec::new())?.to_string_lossy().into_owned();
    Ok((File::from(master), name))
}

#[cfg(not(target_os = "linux"))]
fn pty() -> Result<(File, String)> {
    bail!("there are no pseudo-terminals on this host")
}
