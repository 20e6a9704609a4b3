//! What is the same in every controller: the sockets it looks at, and the wire on which it hears of them.

use super::bus::{Bus, Socket};
use super::descriptor::Speed;
use super::device::Handle;
use orrery_system::{Board, Clock, DeviceId, IrqInput, Timer};

/// A bus with `count` sockets for a controller whose ports signal at most this fast.
pub(super) fn bus(board: &Board, name: &str, count: usize, most: Speed) -> Bus {
    Bus::new(board, name, (0..count).map(|_| Socket::new(most)).collect())
}

/// Pins and services the machine wires up for a controller.
pub struct Wires {
    /// The bus.
    pub bus: Bus,
    /// Virtual time.
    pub clock: Clock,
    /// Wake-up for the next frame, or for what a turn left over.
    pub timer: Timer,
    /// Its end of the bus' wire.
    news: IrqInput,
}

impl Wires {
    /// Those of device `id`.
    pub fn new(board: &mut Board, id: DeviceId, bus: Bus) -> Self {
        let news = bus.wire().tap();
        Self { bus, clock: board.clock(), timer: board.timer(id, 0), news }
    }

    /// Whether something happened on the bus since this was last asked.
    pub(super) fn take_news(&self) -> bool {
        self.news.take_edge()
    }
}

/// How often something came or went in each of a controller's sockets, as far as it has seen.
#[derive(Default)]
pub(super) struct Seen(Vec<u32>);

impl Seen {
    /// Whether something came or went in socket `n`, or it changed hands, since this was last asked.
    pub(super) fn moved(&mut self, n: usize, socket: Option<&Socket>) -> bool {
        let moves = socket.map_or(0, |s| s.moves().wrapping_mul(2) | 1);
        if self.0.len() <= n {
            self.0.resize(n + 1, 0);
        }
        self.0.get_mut(n).is_some_and(|seen| std::mem::replace(seen, moves) != moves)
    }
}

/// Whether the device in a socket whose port sleeps wakes the host: by itself, or as a hub for one behind it.
pub(super) fn calls(socket: Option<&Socket>) -> bool {
    socket.and_then(Socket::device).is_some_and(|d| is_calling(&d))
}

/// The same of a device.
pub(super) fn is_calling(device: &Handle) -> bool {
    let mut device = device.lock().expect("no panic while held");
    device.look();
    device.calls()
}
