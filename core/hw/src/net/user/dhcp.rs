//! The DHCP server (RFC 2131).

use super::config::Config;
use super::packet::{Body, udp};
use crate::net::frame::Mac;
use serde::{Deserialize, Serialize};
use smoltcp::wire::{
    DhcpMessageType, DhcpOption, DhcpPacket, DhcpRepr, EthernetAddress, IpProtocol, Ipv4Address,
};

/// Most stations with a lease.
const MOST: usize = 100;
/// How long a lease lasts.
const LEASE_SECS: u32 = 86_400;
/// Option: the guest's name.
const HOST_NAME: u8 = 12;

/// Who has which address: the first has the first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Leases(Vec<Mac>);

impl Leases {
    /// The address of a station, leased to it now if it had none.
    fn lease(&mut self, config: &Config, mac: Mac) -> Option<Ipv4Address> {
        let n = match self.0.iter().position(|m| *m == mac) {
            Some(n) => n,
            None if self.0.len() < MOST => {
                self.0.push(mac);
                self.0.len() - 1
            }
            None => return None,
        };
        let first = config.dhcp_start.to_bits();
        let taken = |a: &Ipv4Address| !config.contains(*a) || config.has_station(*a);
        (first..).map(Ipv4Address::from_bits).take(MOST * 2).filter(|a| !taken(a)).nth(n)
    }

    /// The answer to a message, if there is one.
    pub(super) fn answer(&mut self, config: &Config, data: &[u8]) -> Option<Body> {
        let packet = DhcpPacket::new_checked(data).ok()?;
        let asked = DhcpRepr::parse(&packet).ok()?;
        let mac = asked.client_hardware_address;
        let ours = asked.server_identifier.is_none_or(|id| id == config.host);
        let (message_type, address) = match asked.message_type {
            DhcpMessageType::Discover => (DhcpMessageType::Offer, self.lease(config, mac.0)?),
            DhcpMessageType::Request if ours => {
                let leased = self.lease(config, mac.0);
                let wanted = asked.requested_ip.unwrap_or(asked.client_ip);
                match leased.filter(|l| *l == wanted) {
                    Some(l) => (DhcpMessageType::Ack, l),
                    None => (DhcpMessageType::Nak, Ipv4Address::UNSPECIFIED),
                }
            }
            DhcpMessageType::Inform => (DhcpMessageType::Ack, Ipv4Address::UNSPECIFIED),
            _ => return None,
        };
        let refused = message_type == DhcpMessageType::Nak;
        let informed = asked.message_type == DhcpMessageType::Inform;
        let name = config.hostname.as_deref().unwrap_or_default();
        let options = [DhcpOption { kind: HOST_NAME, data: name.as_bytes() }];
        let told = !name.is_empty() && name.len() < 256 && !refused;
        let reply = DhcpRepr {
            message_type,
            transaction_id: asked.transaction_id,
            secs: 0,
            client_hardware_address: mac,
            client_ip: if informed { asked.client_ip } else { Ipv4Address::UNSPECIFIED },
            your_ip: address,
            server_ip: config.host,
            router: (!refused).then_some(config.host),
            subnet_mask: (!refused).then(|| config.mask()),
            relay_agent_ip: Ipv4Address::UNSPECIFIED,
            broadcast: asked.broadcast,
            requested_ip: None,
            client_identifier: None,
            server_identifier: Some(config.host),
            parameter_request_list: None,
            dns_servers: (!refused).then(|| [config.dns].into_iter().collect()),
            max_size: None,
            lease_duration: (!refused && !informed).then_some(LEASE_SECS),
            renew_duration: None,
            rebind_duration: None,
            additional_options: if told { &options } else { &[] },
        };
        let mut bytes = vec![0; reply.buffer_len()];
        reply.emit(&mut DhcpPacket::new_unchecked(&mut bytes)).ok()?;
        // Relay agents and old clients want the length that BOOTP had.
        bytes.resize(bytes.len().max(300), 0);
        // A client without an address hears what goes to all.
        let direct = asked.client_ip != Ipv4Address::UNSPECIFIED && !asked.broadcast;
        let to = if direct { asked.client_ip } else { Ipv4Address::BROADCAST };
        Some(Body {
            protocol: IpProtocol::Udp,
            from: config.host,
            to,
            mac: Some(if direct { mac } else { EthernetAddress::BROADCAST }),
            bytes: udp((config.host, 67), (to, 68), &bytes),
        })
    }
}
