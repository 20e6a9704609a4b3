//! The network's addresses, from `-netdev user`'s sub-options.

use smoltcp::wire::Ipv4Address;

/// Settings fixed when the machine is built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The network.
    pub network: Ipv4Address,
    /// Bits of it that are the network's.
    pub prefix: u8,
    /// The gateway.
    pub host: Ipv4Address,
    /// The name server.
    pub dns: Ipv4Address,
    /// The first address that is leased.
    pub dhcp_start: Ipv4Address,
    /// The guest's name, if DHCP shall tell it.
    pub hostname: Option<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self::of(Ipv4Address::new(10, 0, 2, 0), 24)
    }
}

impl Config {
    fn of(network: Ipv4Address, prefix: u8) -> Self {
        let base = network.to_bits() & mask_bits(prefix);
        let nth = |n| Ipv4Address::from_bits(base | n);
        Self {
            network: nth(0),
            prefix,
            host: nth(2),
            dns: nth(3),
            dhcp_start: nth(15),
            hostname: None,
        }
    }

    /// Reads sub-options; an error says what is wrong with which.
    pub fn parse(options: &[(String, String)]) -> Result<Self, String> {
        let mut config = Self::default();
        let get = |name: &str| options.iter().rev().find(|o| o.0 == name).map(|o| o.1.as_str());
        if let Some(text) = get("net") {
            let (address, mask) = text.split_once('/').unwrap_or((text, "24"));
            let network = parse_address("net", address)?;
            let prefix = mask
                .parse()
                .ok()
                .or_else(|| prefix_of(mask.parse().ok()?))
                .filter(|p| (4..=28).contains(p))
                .ok_or_else(|| format!("'net': '{mask}' is no mask from 4 to 28 bits"))?;
            config = Self::of(network, prefix);
        }
        for (name, value) in options {
            match name.as_str() {
                "net" | "id" | "type" => {}
                "host" => config.host = parse_address(name, value)?,
                "dns" => config.dns = parse_address(name, value)?,
                "dhcpstart" => config.dhcp_start = parse_address(name, value)?,
                "hostname" => config.hostname = Some(value.clone()),
                // There is no IPv6 and no way out.
                "ipv4" if on(value) => {}
                "ipv6" if !on(value) => {}
                "restrict" => {}
                "hostfwd" | "guestfwd" | "tftp" | "bootfile" | "smb" | "ipv4" | "ipv6"
                | "dnssearch" | "domainname" | "tftp-server-name" | "smbserver" => {
                    return Err(format!("'{name}={value}' is not there yet"));
                }
                _ => return Err(format!("it has no '{name}'")),
            }
        }
        let inside = [("host", config.host), ("dns", config.dns), ("dhcpstart", config.dhcp_start)];
        for (name, address) in inside {
            if !config.contains(address) {
                return Err(format!("'{name}': {address} is not in the network"));
            }
        }
        if config.host == config.dns {
            return Err("'host' and 'dns' have the same address".into());
        }
        Ok(config)
    }

    /// The network mask.
    pub fn mask(&self) -> Ipv4Address {
        Ipv4Address::from_bits(mask_bits(self.prefix))
    }

    pub(super) fn broadcast(&self) -> Ipv4Address {
        Ipv4Address::from_bits(self.network.to_bits() | !mask_bits(self.prefix))
    }

    /// Whether an address is in the network, and not the network's own or that of all.
    pub(super) fn contains(&self, address: Ipv4Address) -> bool {
        (address.to_bits() ^ self.network.to_bits()) & mask_bits(self.prefix) == 0
            && address != self.network
            && address != self.broadcast()
    }

    /// Whether the network itself answers at an address.
    pub(super) fn has_station(&self, address: Ipv4Address) -> bool {
        address == self.host || address == self.dns
    }
}

fn on(value: &str) -> bool {
    matches!(value, "on" | "yes" | "true" | "y")
}

const fn mask_bits(prefix: u8) -> u32 {
    u32::MAX << (32 - prefix as u32)
}

fn prefix_of(mask: Ipv4Address) -> Option<u8> {
    let bits = mask.to_bits();
    (bits.leading_ones() + bits.trailing_zeros() == 32).then_some(bits.leading_ones() as u8)
}

fn parse_address(name: &str, text: &str) -> Result<Ipv4Address, String> {
    text.parse().map_err(|_| format!("'{name}': '{text}' is no IPv4 address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &[(&str, &str)]) -> Result<Config, String> {
        let owned: Vec<_> = options.iter().map(|&(k, v)| (k.into(), v.into())).collect();
        Config::parse(&owned)
    }

    #[test]
    fn a_network_of_its_own_moves_every_address() {
        let c = parse(&[("net", "192.168.76.0/24"), ("dhcpstart", "192.168.76.9")]).unwrap();
        assert_eq!(c.host, Ipv4Address::new(192, 168, 76, 2));
        assert_eq!(c.dhcp_start, Ipv4Address::new(192, 168, 76, 9));
        let masked = parse(&[("net", "10.9.0.0/255.255.0.0")]).unwrap();
        assert_eq!(masked.mask(), Ipv4Address::new(255, 255, 0, 0));
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        for (option, value) in [
            ("net", "10.0.2"),
            ("net", "10.0.2.0/33"),
            ("host", "1.2.3.4"),
            ("dns", "10.0.2.2"),
            ("hostfwd", "tcp::22-:22"),
            ("hostfw", "x"),
        ] {
            let error = parse(&[(option, value)]).unwrap_err();
            assert!(error.contains(option), "{error}");
        }
    }
}
