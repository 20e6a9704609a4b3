//! A guest's frames, and what comes back.

use super::*;
use crate::net::frame;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    DhcpMessageType, DhcpPacket, DhcpRepr, Icmpv4Packet, Icmpv4Repr, IpAddress, TcpControl,
    TcpPacket, TcpRepr, TcpSeqNumber,
};

const GUEST: Mac = crate::net::FIRST_MAC;
const GUEST_IP: Ipv4Address = Ipv4Address::new(10, 0, 2, 15);
const HOST: Ipv4Address = Ipv4Address::new(10, 0, 2, 2);

struct Bench {
    net: UserNet,
    cable: NetPort,
    clock: Clock,
}

impl Bench {
    fn new() -> Self {
        let cable = NetPort::default();
        let clock = Clock::default();
        let wires = Wires { cable: cable.clone(), clock: clock.clone(), timer: Timer::default() };
        Self { net: UserNet::new(Config::default(), wires), cable, clock }
    }

    /// What comes back for a frame.
    fn ask(&mut self, frame: Vec<u8>) -> Option<Vec<u8>> {
        self.cable.send(frame);
        Settle::settle(&mut self.net);
        assert!(self.cable.receive().is_none(), "an answer takes a moment");
        self.clock.advance_to(self.clock.now().after(LATENCY_NS));
        self.net.wake(0, self.clock.now());
        self.cable.receive()
    }

    /// The payload of the IPv4 answer to a payload.
    fn ip(&mut self, to: Ipv4Address, protocol: IpProtocol, bytes: Vec<u8>) -> Option<Vec<u8>> {
        let body = packet::Body { protocol, from: GUEST_IP, to, mac: None, bytes };
        let mut sent = packet::frame(&body, EthernetAddress(station(to)), 1);
        sent[6..12].copy_from_slice(&GUEST);
        let answer = self.ask(sent)?;
        assert!(frame::transport(&answer).is_some_and(|t| t.ip_good && t.good != Some(false)));
        Some(answer[34..].to_vec())
    }
}

fn dhcp(kind: DhcpMessageType, wanted: Option<Ipv4Address>) -> Vec<u8> {
    let repr = DhcpRepr {
        message_type: kind,
        transaction_id: 77,
        secs: 0,
        client_hardware_address: EthernetAddress(GUEST),
        client_ip: Ipv4Address::UNSPECIFIED,
        your_ip: Ipv4Address::UNSPECIFIED,
        server_ip: Ipv4Address::UNSPECIFIED,
        router: None,
        subnet_mask: None,
        relay_agent_ip: Ipv4Address::UNSPECIFIED,
        broadcast: false,
        requested_ip: wanted,
        client_identifier: None,
        server_identifier: None,
        parameter_request_list: None,
        dns_servers: None,
        max_size: None,
        lease_duration: None,
        renew_duration: None,
        rebind_duration: None,
        additional_options: &[],
    };
    let mut bytes = vec![0; repr.buffer_len()];
    repr.emit(&mut DhcpPacket::new_unchecked(&mut bytes)).unwrap();
    packet::udp((GUEST_IP, 68), (Ipv4Address::BROADCAST, 67), &bytes)
}

#[test]
fn the_gateway_says_where_it_is_and_nobody_else_does() {
    let ask = |wanted: Ipv4Address| {
        let question = ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Request,
            source_hardware_addr: EthernetAddress(GUEST),
            source_protocol_addr: GUEST_IP,
            target_hardware_addr: EthernetAddress([0; 6]),
            target_protocol_addr: wanted,
        };
        let mut frame = vec![0; 60];
        let (us, all) = (EthernetAddress(GUEST), EthernetAddress::BROADCAST);
        packet::ethernet(&mut frame, us, all, EthernetProtocol::Arp);
        question.emit(&mut ArpPacket::new_unchecked(&mut frame[14..]));
        Bench::new().ask(frame)
    };
    let answer = ask(HOST).unwrap();
    assert_eq!((&answer[..6], &answer[22..28]), (&GUEST[..], &[0x52, 0x55, 10, 0, 2, 2][..]));
    assert!(ask(GUEST_IP).is_none());
}

#[test]
fn a_guest_gets_the_first_address_and_keeps_it() {
    let mut b = Bench::new();
    for (asked, wanted, said) in [
        (DhcpMessageType::Discover, None, DhcpMessageType::Offer),
        (DhcpMessageType::Request, Some(GUEST_IP), DhcpMessageType::Ack),
        (DhcpMessageType::Discover, None, DhcpMessageType::Offer),
    ] {
        let answer = b.ip(Ipv4Address::BROADCAST, IpProtocol::Udp, dhcp(asked, wanted)).unwrap();
        let packet = DhcpPacket::new_checked(&answer[8..]).unwrap();
        let repr = DhcpRepr::parse(&packet).unwrap();
        assert_eq!((repr.message_type, repr.your_ip), (said, GUEST_IP));
        assert_eq!(repr.router, Some(HOST));
        assert_eq!(repr.dns_servers.unwrap()[0], Ipv4Address::new(10, 0, 2, 3));
        assert_eq!(repr.transaction_id, 77);
    }
    let other = dhcp(DhcpMessageType::Request, Some(Ipv4Address::new(10, 0, 2, 99)));
    let answer = b.ip(Ipv4Address::BROADCAST, IpProtocol::Udp, other).unwrap();
    let packet = DhcpPacket::new_checked(&answer[8..]).unwrap();
    assert_eq!(DhcpRepr::parse(&packet).unwrap().message_type, DhcpMessageType::Nak);
}

#[test]
fn the_gateway_answers_pings_and_the_world_does_not() {
    let checks = ChecksumCapabilities::default();
    let ping = Icmpv4Repr::EchoRequest { ident: 5, seq_no: 6, data: b"hello" };
    let mut bytes = vec![0; ping.buffer_len()];
    ping.emit(&mut Icmpv4Packet::new_unchecked(&mut bytes), &checks);
    let mut b = Bench::new();
    let answer = b.ip(HOST, IpProtocol::Icmp, bytes.clone()).unwrap();
    let packet = Icmpv4Packet::new_checked(&answer[..]).unwrap();
    let pong = Icmpv4Repr::EchoReply { ident: 5, seq_no: 6, data: b"hello" };
    assert_eq!(Icmpv4Repr::parse(&packet, &checks), Ok(pong));
    assert!(b.ip(Ipv4Address::new(192, 0, 2, 1), IpProtocol::Icmp, bytes).is_none());
}

#[test]
fn a_connection_is_refused_and_a_datagram_is_unreachable() {
    let mut b = Bench::new();
    let syn = TcpRepr {
        src_port: 1025,
        dst_port: 80,
        control: TcpControl::Syn,
        seq_number: TcpSeqNumber(1000),
        ack_number: None,
        window_len: 1000,
        window_scale: None,
        max_seg_size: Some(1460),
        sack_permitted: false,
        sack_ranges: [None; 3],
        timestamp: None,
        payload: &[],
    };
    let checks = ChecksumCapabilities::default();
    let (us, them) = (IpAddress::Ipv4(GUEST_IP), IpAddress::Ipv4(HOST));
    let mut bytes = vec![0; syn.buffer_len()];
    syn.emit(&mut TcpPacket::new_unchecked(&mut bytes), &us, &them, &checks);
    let answer = b.ip(HOST, IpProtocol::Tcp, bytes).unwrap();
    let packet = TcpPacket::new_checked(&answer[..]).unwrap();
    let said = TcpRepr::parse(&packet, &them, &us, &checks).unwrap();
    assert_eq!((said.control, said.dst_port), (TcpControl::Rst, 1025));
    assert_eq!(said.ack_number, Some(TcpSeqNumber(1001)));

    let datagram = packet::udp((GUEST_IP, 9), (HOST, 9), b"x");
    let answer = b.ip(HOST, IpProtocol::Udp, datagram).unwrap();
    assert_eq!((answer[0], answer[1]), (3, 3), "port unreachable");
}

#[test]
fn a_name_does_not_resolve() {
    let query = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03deb\x06debian\x03org\x00\x00\x01\x00\x01";
    let dns = Ipv4Address::new(10, 0, 2, 3);
    let asked = packet::udp((GUEST_IP, 4000), (dns, 53), query);
    let answer = Bench::new().ip(dns, IpProtocol::Udp, asked).unwrap();
    assert_eq!(answer[8..12], [0x12, 0x34, 0x81, 0x82]);
    assert_eq!(answer[20..], query[12..]);
}

#[test]
fn frames_of_any_shape_are_safe() {
    let mut b = Bench::new();
    let mut rng = orrery_system::fuzz::Rng::new(1);
    let seed = packet::frame(
        &packet::Body {
            protocol: IpProtocol::Udp,
            from: GUEST_IP,
            to: Ipv4Address::BROADCAST,
            mac: None,
            bytes: dhcp(DhcpMessageType::Discover, None),
        },
        EthernetAddress::BROADCAST,
        1,
    );
    for _ in 0..20_000 {
        let mut frame = seed.clone();
        frame.truncate(rng.below(seed.len() as u64 + 1) as usize);
        for _ in 0..rng.below(6) {
            if let Some(byte) = frame.get_mut(rng.below(seed.len() as u64) as usize) {
                *byte = rng.next_u64() as u8;
            }
        }
        b.cable.send(frame);
        Settle::settle(&mut b.net);
        b.clock.advance_to(b.clock.now().after(LATENCY_NS));
        b.net.wake(0, b.clock.now());
        while b.cable.receive().is_some() {}
    }
    let state = b.net.save();
    let mut other = Bench::new();
    other.net.restore(&state).unwrap();
    assert_eq!(other.net.save(), state);
}

orrery_system::conformance!(Bench::new().net, []);
