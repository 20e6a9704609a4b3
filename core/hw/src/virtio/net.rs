//! Virtio network device: VIRTIO 1.2 chapter 5.1.
//!
//! Not modelled: several queue pairs, long packets to the guest (frames on the cable are whole),
//! announcements, receive-side scaling. VLAN filters are taken and let everything pass.

use super::queue::Chain;
use super::{Context, F_VERSION_1, VirtioDevice};
use crate::net::frame::{self, BROADCAST, HEADER, Mac};
use crate::pci::Bus;
use orrery_system::ports::NetPort;
use orrery_system::time::VmTime;
use orrery_system::{Board, DeviceId, RestoreError};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Frames that wait for buffers of the guest.
const WAITING: usize = 256;
/// The longest packet a guest may send.
const LONGEST: u64 = 0x1_0100;
/// Addresses in each half of the filter table; with more, everything of that sort passes.
const TABLE: usize = 64;

/// Features (5.1.3).
mod feature {
    /// Checksums are filled in by the device.
    pub(super) const CSUM: u64 = 1 << 0;
    pub(super) const MAC: u64 = 1 << 5;
    /// The device cuts long TCP packets over IPv4 into frames.
    pub(super) const HOST_TSO4: u64 = 1 << 11;
    /// Received frames may take several buffers.
    pub(super) const MRG_RXBUF: u64 = 1 << 15;
    pub(super) const STATUS: u64 = 1 << 16;
    pub(super) const CTRL_VQ: u64 = 1 << 17;
    pub(super) const CTRL_RX: u64 = 1 << 18;
    pub(super) const CTRL_VLAN: u64 = 1 << 19;
    pub(super) const CTRL_RX_EXTRA: u64 = 1 << 20;
    pub(super) const CTRL_MAC_ADDR: u64 = 1 << 23;
}

/// Queues.
const RX: usize = 0;
const TX: usize = 1;
const CONTROL: usize = 2;

/// Header flags: a checksum is to be filled in.
const NEEDS_CSUM: u8 = 1;
/// Header: a long TCP packet over IPv4.
const GSO_TCPV4: u8 = 1;
/// Status: the link is up.
const LINK_UP: u16 = 1;

/// Settings fixed when the machine is built.
#[derive(Clone, Debug)]
pub struct Config {
    /// The card's address.
    pub mac: Mac,
}

/// Everything the guest can observe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    mac: Mac,
    running: bool,
    features: u64,
    /// The receive modes of the control queue, by command.
    modes: [bool; 6],
    unicast: Vec<Mac>,
    multicast: Vec<Mac>,
    waiting: VecDeque<Vec<u8>>,
    /// Buffers taken from the receive queue and not used yet.
    buffers: VecDeque<Chain>,
    /// The cable carries a signal.
    carrier: bool,
}

/// Receive modes, in the order of their commands (5.1.6.5.1).
const PROMISCUOUS: usize = 0;
const ALL_MULTICAST: usize = 1;
const ALL_UNICAST: usize = 2;
const NO_MULTICAST: usize = 3;
const NO_UNICAST: usize = 4;
const NO_BROADCAST: usize = 5;

/// The device.
pub struct Net {
    config: Config,
    cable: NetPort,
    state: State,
}

/// Puts a `virtio-net-pci` at `devfn` of `bus`.
pub fn build(
    board: &mut Board,
    bus: &Bus,
    devfn: u8,
    transport: super::pci::Config,
    config: Config,
    cable: NetPort,
) -> DeviceId {
    super::pci::build(board, bus, devfn, transport, |_, _| Net::new(config, cable))
}

impl State {
    fn power_on(config: &Config, carrier: bool) -> Self {
        let mut modes = [false; 6];
        // Until the driver says which frames it wants, it gets all (5.1.6.5.1).
        modes[PROMISCUOUS] = true;
        Self {
            mac: config.mac,
            running: false,
            features: 0,
            modes,
            unicast: Vec::new(),
            multicast: Vec::new(),
            waiting: VecDeque::new(),
            buffers: VecDeque::new(),
            carrier,
        }
    }

    fn header_len(&self) -> usize {
        if self.features & (feature::MRG_RXBUF | F_VERSION_1) != 0 { 12 } else { 10 }
    }

    fn wants(&self, frame: &[u8]) -> bool {
        let Some(to) = frame::destination(frame).filter(|_| frame.len() >= HEADER) else {
            return false;
        };
        if self.modes[PROMISCUOUS] {
            true
        } else if to == BROADCAST {
            !self.modes[NO_BROADCAST]
        } else if to[0] & 1 != 0 {
            !self.modes[NO_MULTICAST] && (self.modes[ALL_MULTICAST] || self.multicast.contains(&to))
        } else {
            !self.modes[NO_UNICAST]
                && (self.modes[ALL_UNICAST] || to == self.mac || self.unicast.contains(&to))
        }
    }

    /// Puts waiting frames into the guest's buffers.
    fn fill(&mut self, context: &mut Context<'_>) {
        while let Some(len) = self.waiting.front().map(|f| f.len() as u64) {
            let need = self.header_len() as u64 + len;
            let several = self.features & feature::MRG_RXBUF != 0;
            let room = |b: &VecDeque<Chain>| b.iter().map(|c| c.writable.len()).sum::<u64>();
            while self.buffers.is_empty() || several && room(&self.buffers) < need {
                match context.pop(RX) {
                    Some(chain) if self.buffers.len() < WAITING => self.buffers.push_back(chain),
                    Some(_) => return context.fail("buffers without room"),
                    None => return,
                }
            }
            let Some(frame) = self.waiting.pop_front() else { return };
            if room(&self.buffers) >= need {
                self.store(&frame, context);
            }
        }
    }

    fn store(&mut self, frame: &[u8], context: &mut Context<'_>) {
        let mut packet = vec![0; self.header_len()];
        packet.extend_from_slice(frame);
        let mut used = Vec::new();
        let mut done = 0;
        while done < packet.len() {
            let Some(chain) = self.buffers.pop_front() else { break };
            let n = (packet.len() - done).min(chain.writable.len() as usize);
            used.push((chain, done..done + n));
            done += n;
        }
        if packet.len() > frame.len() + 10 {
            // How many buffers it took.
            packet[10..12].copy_from_slice(&(used.len() as u16).to_le_bytes());
        }
        for (chain, range) in used {
            if chain.writable.write(context.dma, 0, &packet[range.clone()]).is_err() {
                return context.fail("buffer outside memory");
            }
            context.push(RX, &chain, range.len() as u32);
        }
    }

    /// Carries out a command of the control queue; whether it could.
    fn control(&mut self, command: &[u8]) -> bool {
        let (Some(&class), Some(&which)) = (command.first(), command.get(1)) else { return false };
        let data = &command[2..];
        match (class, which, data) {
            (0, 0..6, [on]) => self.modes[usize::from(which)] = *on != 0,
            (1, 0, _) => return self.set_table(data).is_some(),
            (1, 1, _) => match data.try_into() {
                Ok(mac) => self.mac = mac,
                Err(_) => return false,
            },
            (2, 0 | 1, [_, _]) => {}
            _ => return false,
        }
        true
    }

    /// Two lists of addresses: stations, then groups.
    fn set_table(&mut self, data: &[u8]) -> Option<()> {
        let list = |data: &mut &[u8]| {
            let n = u32::from_le_bytes(data.get(..4)?.try_into().ok()?) as usize;
            let bytes = data.get(4..n.checked_mul(6)?.checked_add(4)?)?;
            *data = &data[4 + bytes.len()..];
            Some(bytes.as_chunks::<6>().0.to_vec())
        };
        let mut rest = data;
        let (unicast, multicast) = (list(&mut rest)?, list(&mut rest)?);
        self.modes[ALL_UNICAST] |= unicast.len() > TABLE;
        self.modes[ALL_MULTICAST] |= multicast.len() > TABLE;
        self.unicast = unicast.into_iter().take(TABLE).collect();
        self.multicast = multicast.into_iter().take(TABLE).collect();
        Some(())
    }
}

impl Net {
    /// A device at the end of `cable`.
    pub fn new(config: Config, cable: NetPort) -> Self {
        let state = State::power_on(&config, cable.carrier());
        Self { config, cable, state }
    }

    fn transmit(&self, context: &mut Context<'_>) {
        while let Some(chain) = context.pop(TX) {
            let header = self.state.header_len();
            let len = chain.readable.len();
            if len < header as u64 {
                return context.fail("packet without a header");
            }
            let mut packet = vec![0; len.min(LONGEST) as usize];
            if chain.readable.read(context.dma, 0, &mut packet).is_err() {
                return context.fail("packet outside memory");
            }
            let mut data = packet.split_off(header);
            if packet[0] & NEEDS_CSUM != 0 && self.state.features & feature::CSUM != 0 {
                let field =
                    |at: usize| usize::from(u16::from_le_bytes([packet[at], packet[at + 1]]));
                let start = field(6);
                frame::insert_checksum(&mut data, start, start + field(8), 0);
            }
            let size = usize::from(u16::from_le_bytes([packet[4], packet[5]]));
            let long = packet[1] & 0x7f == GSO_TCPV4
                && self.state.features & feature::HOST_TSO4 != 0
                && data.len() > HEADER + size;
            let frames = if long { frame::segment_tcp(&data, size) } else { vec![data] };
            for frame in frames {
                if frame.len() >= HEADER && len <= LONGEST {
                    self.cable.send(frame);
                }
            }
            context.push(TX, &chain, 0);
        }
    }

    fn commands(&mut self, context: &mut Context<'_>) {
        while let Some(chain) = context.pop(CONTROL) {
            let mut command = vec![0; chain.readable.len().min(LONGEST) as usize];
            let read = chain.readable.read(context.dma, 0, &mut command).is_ok();
            let status = u8::from(!(read && self.state.control(&command)));
            if chain.writable.write(context.dma, 0, &[status]) != Ok(1) {
                return context.fail("no place for the status");
            }
            context.push(CONTROL, &chain, 1);
        }
    }
}

impl VirtioDevice for Net {
    type State = State;

    const PCI_NAME: &'static str = "virtio-net-pci";
    const TYPE: u16 = 1;
    const PCI_CLASS: u32 = 0x02_00_00;

    fn features(&self) -> u64 {
        feature::CSUM
            | feature::MAC
            | feature::HOST_TSO4
            | feature::MRG_RXBUF
            | feature::STATUS
            | feature::CTRL_VQ
            | feature::CTRL_RX
            | feature::CTRL_VLAN
            | feature::CTRL_RX_EXTRA
            | feature::CTRL_MAC_ADDR
    }

    fn queues(&self) -> Vec<u16> {
        vec![256, 256, 64]
    }

    fn config(&self) -> Vec<u8> {
        let mut c = self.state.mac.to_vec();
        let status = if self.state.carrier { LINK_UP } else { 0 };
        c.extend(status.to_le_bytes());
        // One pair of queues.
        c.extend(1_u16.to_le_bytes());
        c
    }

    fn write_config(&mut self, at: usize, value: u8) {
        // Only drivers of the legacy interface write their address here.
        if let (Some(byte), 0) = (self.state.mac.get_mut(at), self.state.features & F_VERSION_1) {
            *byte = value;
        }
    }

    fn start(&mut self, features: u64) {
        (self.state.features, self.state.running) = (features, true);
    }

    fn reset(&mut self) {
        self.state = State::power_on(&self.config, self.cable.carrier());
    }

    fn notified(&mut self, n: usize, context: &mut Context<'_>) {
        match n {
            RX => self.state.fill(context),
            TX => self.transmit(context),
            _ => self.commands(context),
        }
    }

    fn save(&self) -> State {
        self.state.clone()
    }

    fn restore(&mut self, state: State) -> Result<(), RestoreError> {
        if state.waiting.len() > WAITING || state.buffers.len() > WAITING {
            return Err(RestoreError::Invalid("more frames than fit"));
        }
        self.state = state;
        Ok(())
    }

    fn ready(&self) -> bool {
        self.cable.carrier() != self.state.carrier
            || self.cable.has_input() && self.state.waiting.len() < WAITING
    }

    fn deliver(&mut self, _now: VmTime, context: &mut Context<'_>) {
        let carrier = self.cable.carrier();
        if carrier != self.state.carrier {
            self.state.carrier = carrier;
            context.config_changed();
        }
        while self.state.waiting.len() < WAITING {
            let Some(frame) = self.cable.receive() else { break };
            if self.state.running && self.state.wants(&frame) && frame.len() < LONGEST as usize {
                self.state.waiting.push_back(frame);
            }
        }
        self.state.fill(context);
    }
}

#[cfg(test)]
mod tests {
    use super::super::queue::Queue;
    use super::*;
    use crate::net::FIRST_MAC;
    use orrery_system::Dma;

    const DATA: u64 = 0x8000;

    /// A driver with three queues of eight entries.
    struct Bench {
        dev: Net,
        dma: Dma,
        queues: [Queue; 3],
        next: [u16; 3],
        cable: NetPort,
    }

    impl Bench {
        fn new(features: u64) -> Self {
            let cable = NetPort::default();
            let mut dev = Net::new(Config { mac: FIRST_MAC }, cable.clone());
            assert_eq!(features & !(dev.features() | F_VERSION_1), 0);
            dev.start(features);
            let queues = [0_u64, 1, 2].map(|n| {
                let base = 0x1000 * (n + 1);
                let mut queue = Queue::new(8);
                (queue.desc, queue.avail, queue.used) = (base, base + 0x400, base + 0x800);
                queue.enabled = true;
                queue
            });
            Self { dev, dma: Dma::detached(0x2_0000), queues, next: [0; 3], cable }
        }

        fn with<T>(&mut self, f: impl FnOnce(&mut Net, &mut Context<'_>) -> T) -> T {
            let (features, queues) = (self.dev.state.features, &mut self.queues);
            let mut context = Context {
                dma: &self.dma,
                features,
                queues,
                given: 0,
                broken: None,
                changed: false,
            };
            let out = f(&mut self.dev, &mut context);
            assert!(context.broken.is_none());
            out
        }

        /// Offers a buffer of the guest and notifies the device.
        fn offer(&mut self, n: usize, at: u64, pieces: &[(u32, u16)]) {
            let slot = self.next[n] % 4;
            let mut address = at;
            for (i, &(len, flags)) in pieces.iter().enumerate() {
                let d = self.queues[n].desc + u64::from(slot * 2) * 16 + i as u64 * 16;
                let more = u16::from(i + 1 < pieces.len());
                self.dma.write(d, &address.to_le_bytes()).unwrap();
                self.dma.write(d + 8, &len.to_le_bytes()).unwrap();
                self.dma.write(d + 12, &(flags | more).to_le_bytes()).unwrap();
                self.dma.write(d + 14, &(slot * 2 + 1).to_le_bytes()).unwrap();
                address += u64::from(len);
            }
            let avail = self.queues[n].avail;
            let at = avail + 4 + u64::from(self.next[n] % 8) * 2;
            self.dma.write(at, &(slot * 2).to_le_bytes()).unwrap();
            self.next[n] += 1;
            self.dma.write(avail + 2, &self.next[n].to_le_bytes()).unwrap();
            self.with(|dev, context| dev.notified(n, context));
        }

        /// How many buffers came back, and the length of the last one.
        fn given(&self, n: usize) -> (u16, u32) {
            let used = self.queues[n].used;
            let count = self.dma.read_u16(used + 2).unwrap();
            let at = used + 4 + u64::from(count.wrapping_sub(1) % 8) * 8;
            (count, self.dma.read_u32(at + 4).unwrap())
        }

        fn arrive(&mut self, frame: &[u8]) {
            self.cable.push([frame.to_vec()]);
            assert!(self.dev.ready());
            self.with(|dev, context| dev.deliver(VmTime(0), context));
        }

        fn peek(&self, at: u64, len: usize) -> Vec<u8> {
            let mut out = vec![0; len];
            self.dma.read(at, &mut out).unwrap();
            out
        }
    }

    fn to(mac: Mac) -> Vec<u8> {
        let mut frame = mac.to_vec();
        frame.extend(0..94);
        frame
    }

    #[test]
    fn a_packet_goes_out_without_its_header_and_with_its_checksum() {
        let mut b = Bench::new(F_VERSION_1 | feature::CSUM);
        let mut packet = vec![NEEDS_CSUM, 0, 0, 0, 0, 0, 34, 0, 6, 0, 0, 0];
        packet.extend(to([2; 6]));
        packet[12 + 40..12 + 42].fill(0);
        b.dma.write(DATA, &packet).unwrap();
        b.offer(TX, DATA, &[(12, 0), (100, 0)]);
        let sent = b.cable.drain().remove(0);
        assert_eq!((sent.len(), &sent[..34]), (100, &to([2; 6])[..34]));
        assert_eq!(frame::checksum(&sent[34..]), 0, "the sum with its checksum is nothing");
        assert_eq!(b.given(TX), (1, 0));
    }

    #[test]
    fn a_frame_lands_behind_a_header_in_as_many_buffers_as_it_takes() {
        let mut b = Bench::new(F_VERSION_1 | feature::MRG_RXBUF);
        b.arrive(&to([3; 6]));
        assert_eq!(b.given(RX).0, 0, "no buffers yet");
        b.offer(RX, DATA, &[(64, 2)]);
        assert_eq!(b.given(RX).0, 0, "not enough");
        b.offer(RX, DATA + 0x100, &[(64, 2)]);
        assert_eq!(b.given(RX), (2, 48));
        assert_eq!(b.peek(DATA + 10, 2), [2, 0]);
        assert_eq!(b.peek(DATA + 12, 52), to([3; 6])[..52]);
        assert_eq!(b.peek(DATA + 0x100, 48), to([3; 6])[52..]);
    }

    #[test]
    fn the_old_header_is_ten_bytes_and_a_frame_too_long_is_lost() {
        let mut b = Bench::new(0);
        b.offer(RX, DATA, &[(10, 2), (90, 2)]);
        b.arrive(&to([3; 6]));
        assert_eq!(b.given(RX).0, 0);
        b.arrive(&to([4; 6])[..80]);
        assert_eq!(b.given(RX), (1, 90));
        assert_eq!(b.peek(DATA + 10, 80), to([4; 6])[..80]);
    }

    #[test]
    fn a_pulled_cable_is_told_by_the_status_and_a_configuration_interrupt() {
        let mut b = Bench::new(F_VERSION_1 | feature::STATUS);
        assert_eq!(b.dev.config()[6..8], [1, 0]);
        for up in [false, true] {
            b.cable.set_carrier(up);
            assert!(b.dev.ready());
            let told = b.with(|dev, context| {
                dev.deliver(VmTime(0), context);
                context.changed
            });
            assert!(told && !b.dev.ready());
            assert_eq!(b.dev.config()[6], u8::from(up));
            b.dev.reset();
            assert_eq!(b.dev.config()[6], u8::from(up), "a reset does not put it back");
        }
        b.cable.set_carrier(false);
        b.dev.start(F_VERSION_1);
        b.dma.write(DATA, &[0; 112]).unwrap();
        b.offer(TX, DATA, &[(12, 0), (100, 0)]);
        b.cable.push([to([3; 6])]);
        assert!(b.cable.drain().is_empty() && !b.cable.has_input());
        assert_eq!(b.given(TX).0, 1, "the driver gets its buffer back");
    }

    #[test]
    fn commands_filter_frames_and_unknown_ones_fail() {
        let mut b = Bench::new(F_VERSION_1 | feature::CTRL_VQ | feature::CTRL_RX);
        let group = [0x33, 0x33, 0, 0, 0, 1];
        let command = |b: &mut Bench, bytes: &[u8]| {
            b.dma.write(DATA, bytes).unwrap();
            b.offer(CONTROL, DATA, &[(bytes.len() as u32, 0), (1, 2)]);
            b.peek(DATA + bytes.len() as u64, 1)[0]
        };
        assert_eq!(command(&mut b, &[0, PROMISCUOUS as u8, 0]), 0);
        let mut table = vec![1, 0, 0, 0, 0, 0, 1, 0, 0, 0];
        table.extend(group);
        assert_eq!(command(&mut b, &table), 0);
        assert_eq!(command(&mut b, &table[..12]), 1, "cut short");
        assert_eq!(command(&mut b, &[9, 9]), 1);
        let passes = |b: &Bench, mac| b.dev.state.wants(&to(mac));
        assert!(passes(&b, FIRST_MAC) && passes(&b, BROADCAST) && passes(&b, group));
        assert!(!passes(&b, [2; 6]) && !passes(&b, [1; 6]));
        assert_eq!(command(&mut b, &[0, ALL_MULTICAST as u8, 1]), 0);
        assert!(passes(&b, [1; 6]));
    }

    mod suite {
        use super::*;
        use crate::pci::CONFIG_BANK;
        use crate::virtio::pci::{self, LEGACY_BANK, MODERN_BANK, VirtioPci};

        fn fresh() -> VirtioPci<Net> {
            let board = Board::with_ram(0x1_0000);
            let bus = Bus::simple(&board);
            let net = Net::new(Config { mac: FIRST_MAC }, NetPort::default());
            pci::standing_alone(&board, &bus, net)
        }

        orrery_system::conformance!(
            fresh(),
            [(LEGACY_BANK, &[]), (MODERN_BANK, &[]), (CONFIG_BANK, &[])]
        );
    }
}
