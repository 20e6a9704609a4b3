//! A bus: the sockets of a controller, what is in them, and the wire on which devices tell that
//! they have something new.

use super::descriptor::Speed;
use super::device::{Function, Handle, Peripheral, Seat};
use orrery_system::{Board, DeviceId, IrqInput, IrqLine};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

/// Hubs in a row below a root port (USB 2.0 4.1.1).
const DEPTH: usize = 5;

struct Place {
    device: Option<(DeviceId, Handle)>,
    /// How often something came or went.
    moves: u32,
    /// The companion controller has it.
    companion: bool,
    /// How fast it signals at most.
    most: Speed,
}

/// A place for a device, on a controller or a hub. Clones are the same place.
#[derive(Clone)]
pub struct Socket(Arc<Mutex<Place>>);

impl Socket {
    /// An empty place whose signals are at most this fast.
    pub fn new(most: Speed) -> Self {
        Self(Arc::new(Mutex::new(Place { device: None, moves: 0, companion: false, most })))
    }

    fn lock(&self) -> MutexGuard<'_, Place> {
        self.0.lock().expect("no panic while held")
    }

    /// What is in it.
    pub fn device(&self) -> Option<Handle> {
        self.lock().device.as_ref().map(|d| d.1.clone())
    }

    /// The number on the board of what is in it.
    pub fn id(&self) -> Option<DeviceId> {
        self.lock().device.as_ref().map(|d| d.0)
    }

    /// How often something came or went.
    pub fn moves(&self) -> u32 {
        self.lock().moves
    }

    /// How fast it signals at most.
    pub fn most(&self) -> Speed {
        self.lock().most
    }

    /// Whether the companion controller has it.
    pub fn is_companions(&self) -> bool {
        self.lock().companion
    }

    /// Gives it to the companion controller, or takes it back. Says whether that is news.
    pub fn give_to_companion(&self, companion: bool) -> bool {
        let mut place = self.lock();
        std::mem::replace(&mut place.companion, companion) != companion
    }

    fn set(&self, device: Option<(DeviceId, Handle)>) {
        let mut place = self.lock();
        place.device = device;
        place.moves = place.moves.wrapping_add(1);
    }

    /// The device with this address, here or behind hubs.
    pub fn find(&self, address: u8) -> Option<Handle> {
        self.find_at(address, DEPTH)
    }

    fn find_at(&self, address: u8, depth: usize) -> Option<Handle> {
        let device = self.device()?;
        let below: Vec<Self> = {
            let d = device.lock().expect("no panic while held");
            if d.address() == address {
                drop(d);
                return Some(device);
            }
            if depth == 0 {
                return None;
            }
            let open = d.sockets().iter().enumerate().filter(|(n, _)| d.passes(*n));
            open.map(|(_, s)| s.clone()).collect()
        };
        below.iter().find_map(|s| s.find_at(address, depth - 1))
    }

    /// The sockets of the hub that is in it.
    pub fn below(&self) -> Vec<Self> {
        let Some(device) = self.device() else { return Vec::new() };
        let device = device.lock().expect("no panic while held");
        device.sockets().to_vec()
    }
}

struct Inner {
    name: String,
    sockets: Vec<Socket>,
    wire: IrqInput,
    /// What firmware calls the controller.
    path: OnceLock<String>,
    /// Companion controllers take sockets from here; what is free of them.
    companions: Mutex<usize>,
}

/// A bus. Clones are the same bus.
#[derive(Clone)]
pub struct Bus(Arc<Inner>);

/// A socket with its way from the controller: `1.3` is the third of a hub in the first.
pub struct Position {
    /// The way.
    pub path: String,
    /// The socket.
    pub socket: Socket,
}

impl Bus {
    /// A bus with these sockets.
    pub fn new(board: &Board, name: &str, sockets: Vec<Socket>) -> Self {
        let (name, wire) = (name.to_owned(), board.wire());
        Self(Arc::new(Inner {
            name,
            sockets,
            wire,
            path: OnceLock::new(),
            companions: Mutex::new(0),
        }))
    }

    /// Says what firmware calls the controller.
    pub fn set_path(&self, path: String) {
        // Set once, where the controller is built.
        let _ = self.0.path.set(path);
    }

    /// What firmware calls what is in the socket at `path` of it, a device that it calls `kind`.
    pub fn firmware_path(&self, path: &str, kind: &str) -> String {
        let mut out = self.0.path.get().cloned().unwrap_or_default();
        let (hubs, last) = path.rsplit_once('.').unwrap_or(("", path));
        for hub in hubs.split('.').filter(|h| !h.is_empty()) {
            out.push_str(&format!("/hub@{hub}"));
        }
        out + &format!("/{kind}@{last}")
    }

    /// What `bus=` of a device calls it.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The sockets of the controller.
    pub fn sockets(&self) -> &[Socket] {
        &self.0.sockets
    }

    /// The wire that devices pulse when they have something new.
    pub fn wire(&self) -> &IrqInput {
        &self.0.wire
    }

    /// A pin on it.
    pub fn news(&self) -> IrqLine {
        self.0.wire.pin()
    }

    /// Notes that a companion controller takes sockets.
    pub fn add_companion(&self) {
        *self.0.companions.lock().expect("no panic while held") += 1;
        self.news().pulse();
    }

    /// The number of companion controllers.
    pub fn companions(&self) -> usize {
        *self.0.companions.lock().expect("no panic while held")
    }

    /// Whether it has any.
    pub fn has_companions(&self) -> bool {
        self.companions() > 0
    }

    /// Every socket, those of hubs after the hub's own.
    pub fn positions(&self) -> Vec<Position> {
        let mut all = Vec::new();
        fn walk(sockets: &[Socket], prefix: &str, all: &mut Vec<Position>, depth: usize) {
            for (n, socket) in sockets.iter().enumerate() {
                let path = format!("{prefix}{}", n + 1);
                let below = format!("{path}.");
                all.push(Position { path, socket: socket.clone() });
                if depth > 0 {
                    walk(&socket.below(), &below, all, depth - 1);
                }
            }
        }
        walk(&self.0.sockets, "", &mut all, DEPTH);
        all
    }

    /// The socket that a device is in.
    pub fn place_of(&self, id: DeviceId) -> Option<Position> {
        self.positions().into_iter().find(|p| p.socket.id() == Some(id))
    }

    /// Builds a device of the board and plugs it in.
    pub fn plug<F: Function + 'static>(
        &self,
        board: &mut Board,
        socket: &Socket,
        make: impl FnOnce(&mut Board, DeviceId) -> F,
    ) -> DeviceId {
        let id = board.reserve(F::NAME);
        let function = make(board, id);
        let device = Arc::new(Mutex::new(Peripheral::new(function)));
        board.attach(id, Box::new(Seat::new(device.clone(), self.news())));
        socket.set(Some((id, device)));
        self.tell();
        id
    }

    /// Unplugs what is in a socket.
    pub fn unplug(&self, socket: &Socket) {
        socket.set(None);
        self.tell();
    }

    /// Lets hubs see what changed, and the controllers.
    fn tell(&self) {
        for device in self.0.sockets.iter().filter_map(Socket::device) {
            device.lock().expect("no panic while held").look();
        }
        self.news().pulse();
    }
}
