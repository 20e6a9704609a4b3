//! The user-mode network (`-netdev user`): a small network of its own with a gateway, a name
//! server and a DHCP server, at the other end of a card's cable.
//!
//! Reference: RFC 826 (ARP), RFC 791, RFC 792, RFC 2131. Addresses are those of QEMU's user network.
//! It is a device of the board: what it knows is in the snapshot, and its answers come at virtual instants.
//!
//! There is no way out to the host's network yet: names do not resolve (SERVFAIL), connections
//! are refused, and datagrams to the outside are answered with "unreachable".

mod config;
mod dhcp;
mod packet;

pub use config::Config;

use super::frame::Mac;
use dhcp::Leases;
use orrery_system::device::{Device, Settle};
use orrery_system::ports::NetPort;
use orrery_system::{Board, Clock, DeviceId, RestoreError, State as _, StateBlob, Timer, VmTime};
use packet::Packet;
use serde::{Deserialize, Serialize};
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol,
    Icmpv4DstUnreachable, IpProtocol, Ipv4Address,
};
use std::collections::VecDeque;

/// How long an answer takes.
const LATENCY_NS: u64 = 100_000;
/// Most answers on their way.
const QUEUE: usize = 512;

/// Services the machine wires up.
pub struct Wires {
    /// The cable, from the card's far end.
    pub cable: NetPort,
    /// Virtual time.
    pub clock: Clock,
    /// Wake-up.
    pub timer: Timer,
}

/// Everything a guest can observe.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    leases: Leases,
    /// Frames on their way to the guest, and when they arrive.
    queue: VecDeque<(VmTime, Vec<u8>)>,
    /// Identification of the next IP packet.
    ident: u16,
}

impl orrery_system::State for State {
    const KIND: &'static str = "netdev-user";
    const VERSION: u16 = 1;
}

/// The network.
pub struct UserNet {
    config: Config,
    wires: Wires,
    state: State,
}

/// Puts the network at the far end of `cable`.
pub fn build(board: &mut Board, config: Config, cable: NetPort) -> DeviceId {
    let id = board.reserve("netdev-user");
    let wires = Wires { cable, clock: board.clock(), timer: board.timer(id, 0) };
    board.attach(id, Box::new(UserNet::new(config, wires)));
    id
}

/// The hardware address of a station of this network.
fn station(address: Ipv4Address) -> Mac {
    let [a, b, c, d] = address.octets();
    [0x52, 0x55, a, b, c, d]
}

impl UserNet {
    /// Builds the network; nobody has a lease.
    pub fn new(config: Config, wires: Wires) -> Self {
        Self { config, wires, state: State::default() }
    }

    fn reply(&mut self, frame: Vec<u8>) {
        if self.state.queue.len() < QUEUE {
            let at = self.wires.clock.now().after(LATENCY_NS);
            self.state.queue.push_back((at, frame));
        }
    }

    /// Answers a frame from the guest. What is damaged or not for this network is dropped.
    fn take(&mut self, bytes: &[u8]) {
        let Ok(frame) = EthernetFrame::new_checked(bytes) else { return };
        match frame.ethertype() {
            EthernetProtocol::Arp => self.arp(frame.payload()),
            EthernetProtocol::Ipv4 => {
                if let Some(packet) = Packet::parse(frame.src_addr(), frame.payload()) {
                    self.ip(&packet);
                }
            }
            _ => {}
        }
    }

    fn arp(&mut self, payload: &[u8]) {
        let Ok(packet) = ArpPacket::new_checked(payload) else { return };
        let Ok(ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Request,
            source_hardware_addr: from,
            source_protocol_addr: from_ip,
            target_protocol_addr: wanted,
            ..
        }) = ArpRepr::parse(&packet)
        else {
            return;
        };
        if !self.config.has_station(wanted) {
            return;
        }
        let ours = EthernetAddress(station(wanted));
        let answer = ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Reply,
            source_hardware_addr: ours,
            source_protocol_addr: wanted,
            target_hardware_addr: from,
            target_protocol_addr: from_ip,
        };
        let mut frame = vec![0; 14 + answer.buffer_len()];
        packet::ethernet(&mut frame, ours, from, EthernetProtocol::Arp);
        answer.emit(&mut ArpPacket::new_unchecked(&mut frame[14..]));
        self.reply(frame);
    }

    fn ip(&mut self, packet: &Packet<'_>) {
        let answer = match packet.protocol {
            IpProtocol::Udp => self.udp(packet),
            IpProtocol::Icmp if self.config.has_station(packet.to) => packet.echo_reply(),
            IpProtocol::Tcp => packet.tcp_refusal(),
            _ => None,
        };
        if let Some(body) = answer {
            self.state.ident = self.state.ident.wrapping_add(1);
            let frame = packet.answer(&body, self.state.ident);
            self.reply(frame);
        }
    }

    fn udp(&mut self, packet: &Packet<'_>) -> Option<packet::Body> {
        let (from_port, to_port, data) = packet.udp()?;
        if to_port == 67 {
            let body = self.state.leases.answer(&self.config, data)?;
            return Some(body);
        }
        if to_port == 53 && packet.to == self.config.dns {
            return packet.dns_failure(data, from_port);
        }
        if packet.to.is_broadcast()
            || packet.to.is_multicast()
            || packet.to == self.config.broadcast()
        {
            return None;
        }
        packet.unreachable(if self.config.has_station(packet.to) {
            Icmpv4DstUnreachable::PortUnreachable
        } else {
            Icmpv4DstUnreachable::NetProhibited
        })
    }

    fn drive(&self) {
        self.wires.timer.set(self.state.queue.front().map(|f| f.0));
    }
}

impl Device for UserNet {
    fn name(&self) -> &'static str {
        State::KIND
    }

    fn reset(&mut self) {
        // The network outlives the machine's reset, but what was on its way is lost.
        self.state.queue.clear();
        self.drive();
    }

    fn save(&self) -> StateBlob {
        StateBlob::encode(&self.state)
    }

    fn restore(&mut self, blob: &StateBlob) -> Result<(), RestoreError> {
        let state: State = blob.decode()?;
        if state.queue.len() > QUEUE {
            return Err(RestoreError::Invalid("more frames than fit"));
        }
        self.state = state;
        self.drive();
        Ok(())
    }

    fn wake(&mut self, _timer: u32, _now: VmTime) {
        let now = self.wires.clock.now();
        while self.state.queue.front().is_some_and(|f| f.0 <= now) {
            self.wires.cable.push(self.state.queue.pop_front().map(|f| f.1));
        }
        self.drive();
    }

    fn settle(&mut self) -> Option<&mut dyn Settle> {
        Some(self)
    }
}

impl Settle for UserNet {
    fn settle(&mut self) {
        for frame in self.wires.cable.drain() {
            self.take(&frame);
        }
        self.drive();
    }
}

#[cfg(test)]
mod tests;
