//! IPv4 packets from the guest, and the answers to them.

use super::station;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, Icmpv4DstUnreachable, Icmpv4Packet,
    Icmpv4Repr, IpAddress, IpProtocol, Ipv4Address, Ipv4Packet, Ipv4Repr, TcpControl, TcpPacket,
    TcpRepr, TcpSeqNumber, UdpPacket, UdpRepr,
};

/// Time to live of what the network sends.
const HOP_LIMIT: u8 = 64;

/// The payload of an answer, and where it goes if not back to the sender.
pub(super) struct Body {
    pub(super) protocol: IpProtocol,
    pub(super) from: Ipv4Address,
    pub(super) to: Ipv4Address,
    /// Hardware address it goes to; `None`: the sender's.
    pub(super) mac: Option<EthernetAddress>,
    pub(super) bytes: Vec<u8>,
}

/// A packet whose headers are sound.
pub(super) struct Packet<'a> {
    mac: EthernetAddress,
    pub(super) from: Ipv4Address,
    pub(super) to: Ipv4Address,
    pub(super) protocol: IpProtocol,
    header: Ipv4Repr,
    payload: &'a [u8],
}

/// Fills in an ethernet header.
pub(super) fn ethernet(
    frame: &mut [u8],
    from: EthernetAddress,
    to: EthernetAddress,
    kind: EthernetProtocol,
) {
    let mut header = EthernetFrame::new_unchecked(frame);
    header.set_src_addr(from);
    header.set_dst_addr(to);
    header.set_ethertype(kind);
}

/// Makes a frame of a payload.
pub(super) fn frame(body: &Body, mac: EthernetAddress, ident: u16) -> Vec<u8> {
    let header = Ipv4Repr {
        src_addr: body.from,
        dst_addr: body.to,
        next_header: body.protocol,
        payload_len: body.bytes.len(),
        hop_limit: HOP_LIMIT,
    };
    let mut frame = vec![0; 14 + header.buffer_len() + body.bytes.len()];
    ethernet(&mut frame, EthernetAddress(station(body.from)), mac, EthernetProtocol::Ipv4);
    let mut packet = Ipv4Packet::new_unchecked(&mut frame[14..]);
    header.emit(&mut packet, &ChecksumCapabilities::default());
    packet.set_ident(ident);
    packet.fill_checksum();
    packet.payload_mut().copy_from_slice(&body.bytes);
    frame
}

/// A datagram's bytes.
pub(super) fn udp(
    (from, from_port): (Ipv4Address, u16),
    (to, to_port): (Ipv4Address, u16),
    data: &[u8],
) -> Vec<u8> {
    let repr = UdpRepr { src_port: from_port, dst_port: to_port };
    let mut bytes = vec![0; repr.header_len() + data.len()];
    repr.emit(
        &mut UdpPacket::new_unchecked(&mut bytes),
        &IpAddress::Ipv4(from),
        &IpAddress::Ipv4(to),
        data.len(),
        |out| out.copy_from_slice(data),
        &ChecksumCapabilities::default(),
    );
    bytes
}

impl<'a> Packet<'a> {
    /// Reads a packet; none if its checksum is wrong, or if it is a fragment, which this network
    /// does not put together.
    pub(super) fn parse(mac: EthernetAddress, bytes: &'a [u8]) -> Option<Self> {
        let packet = Ipv4Packet::new_checked(bytes).ok()?;
        if packet.more_frags() || packet.frag_offset() != 0 {
            return None;
        }
        let header = Ipv4Repr::parse(&packet, &ChecksumCapabilities::default()).ok()?;
        Some(Self {
            mac,
            from: packet.src_addr(),
            to: packet.dst_addr(),
            protocol: packet.next_header(),
            header,
            payload: packet.payload(),
        })
    }

    fn back(&self, protocol: IpProtocol, bytes: Vec<u8>) -> Body {
        Body { protocol, from: self.to, to: self.from, mac: None, bytes }
    }

    /// Makes a frame of an answer.
    pub(super) fn answer(&self, body: &Body, ident: u16) -> Vec<u8> {
        frame(body, body.mac.unwrap_or(self.mac), ident)
    }

    /// Ports and data of a datagram.
    pub(super) fn udp(&self) -> Option<(u16, u16, &'a [u8])> {
        let packet = UdpPacket::new_checked(self.payload).ok()?;
        let good = packet.verify_checksum(&IpAddress::Ipv4(self.from), &IpAddress::Ipv4(self.to));
        good.then(|| (packet.src_port(), packet.dst_port(), packet.payload()))
    }

    /// The answer to an echo request.
    pub(super) fn echo_reply(&self) -> Option<Body> {
        let packet = Icmpv4Packet::new_checked(self.payload).ok()?;
        let checks = ChecksumCapabilities::default();
        let Ok(Icmpv4Repr::EchoRequest { ident, seq_no, data }) =
            Icmpv4Repr::parse(&packet, &checks)
        else {
            return None;
        };
        let repr = Icmpv4Repr::EchoReply { ident, seq_no, data };
        let mut bytes = vec![0; repr.buffer_len()];
        repr.emit(&mut Icmpv4Packet::new_unchecked(&mut bytes), &checks);
        Some(self.back(IpProtocol::Icmp, bytes))
    }

    /// Says that a packet went nowhere.
    pub(super) fn unreachable(&self, reason: Icmpv4DstUnreachable) -> Option<Body> {
        let data = &self.payload[..self.payload.len().min(8)];
        let repr = Icmpv4Repr::DstUnreachable { reason, header: self.header, data };
        let mut bytes = vec![0; repr.buffer_len()];
        repr.emit(&mut Icmpv4Packet::new_unchecked(&mut bytes), &ChecksumCapabilities::default());
        Some(self.back(IpProtocol::Icmp, bytes))
    }

    /// Refuses a connection (RFC 9293 3.10.7.1).
    pub(super) fn tcp_refusal(&self) -> Option<Body> {
        let (us, them) = (IpAddress::Ipv4(self.to), IpAddress::Ipv4(self.from));
        let checks = ChecksumCapabilities::default();
        let packet = TcpPacket::new_checked(self.payload).ok()?;
        let asked = TcpRepr::parse(&packet, &them, &us, &checks).ok()?;
        if asked.control == TcpControl::Rst {
            return None;
        }
        let (seq_number, ack_number) = match asked.ack_number {
            Some(ack) => (ack, None),
            None => (TcpSeqNumber(0), Some(asked.seq_number + asked.segment_len())),
        };
        let refusal = TcpRepr {
            src_port: asked.dst_port,
            dst_port: asked.src_port,
            control: TcpControl::Rst,
            seq_number,
            ack_number,
            window_len: 0,
            window_scale: None,
            max_seg_size: None,
            sack_permitted: false,
            sack_ranges: [None; 3],
            timestamp: None,
            payload: &[],
        };
        let mut bytes = vec![0; refusal.buffer_len()];
        refusal.emit(&mut TcpPacket::new_unchecked(&mut bytes), &us, &them, &checks);
        Some(self.back(IpProtocol::Tcp, bytes))
    }

    /// The answer of a name server that cannot ask anybody (RFC 1035 4.1.1: SERVFAIL).
    pub(super) fn dns_failure(&self, query: &[u8], port: u16) -> Option<Body> {
        let mut answer = query.get(..12)?.to_vec();
        if answer[2] & 0x80 != 0 {
            return None;
        }
        answer[2] = answer[2] & 0x79 | 0x80;
        answer[3] = 0x82;
        // The question is repeated; what followed it is left out.
        answer[6..12].fill(0);
        let question = &query[12..query.len().min(512)];
        let name = question.iter().position(|&b| b == 0)?;
        answer.extend(question.get(..name + 5)?);
        answer[4..6].copy_from_slice(&1_u16.to_be_bytes());
        let bytes = udp((self.to, 53), (self.from, port), &answer);
        Some(self.back(IpProtocol::Udp, bytes))
    }
}
