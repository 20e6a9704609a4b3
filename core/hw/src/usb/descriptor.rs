//! Descriptors as data: USB 2.0 chapter 9.6, USB 3.1 chapter 9.6.

use serde::{Deserialize, Serialize};

/// How fast a device signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Speed {
    /// 1.5 Mbit/s.
    Low,
    /// 12 Mbit/s.
    Full,
    /// 480 Mbit/s.
    High,
    /// 5 Gbit/s.
    Super,
}

impl Speed {
    /// As monitors show it, in Mbit/s.
    pub const fn megabits(self) -> &'static str {
        match self {
            Self::Low => "1.5",
            Self::Full => "12",
            Self::High => "480",
            Self::Super => "5000",
        }
    }
}

/// Descriptor types, tables 9-5 of both.
mod kind {
    /// Device.
    pub(super) const DEVICE: u8 = 1;
    /// Configuration.
    pub(super) const CONFIGURATION: u8 = 2;
    /// String.
    pub(super) const STRING: u8 = 3;
    /// Interface.
    pub(super) const INTERFACE: u8 = 4;
    /// Endpoint.
    pub(super) const ENDPOINT: u8 = 5;
    /// What the device would be at the other of full and high speed.
    pub(super) const QUALIFIER: u8 = 6;
    /// Configuration at the other speed.
    pub(super) const OTHER_SPEED: u8 = 7;
    /// Binary object store.
    pub(super) const BOS: u8 = 15;
    /// Endpoint companion of `SuperSpeed`.
    pub(super) const COMPANION: u8 = 48;
}

/// Everything a device says of itself.
#[derive(Clone, Debug)]
pub struct Description {
    /// Vendor.
    pub vendor: u16,
    /// Product.
    pub product: u16,
    /// Device release, binary-coded decimal.
    pub release: u16,
    /// Class, subclass and protocol; zeros: the interfaces say.
    pub class: [u8; 3],
    /// Strings, from index 1. The first is the manufacturer, the second the product, the third the serial number;
    /// empty ones are not there.
    pub strings: Vec<String>,
    /// What it is at each speed it has.
    pub layouts: Vec<Layout>,
}

/// What a device is at one speed.
#[derive(Clone, Debug)]
pub struct Layout {
    /// The speed.
    pub speed: Speed,
    /// Largest packet of endpoint 0, in bytes.
    pub packet: u16,
    /// Configurations.
    pub configurations: Vec<Configuration>,
}

/// A configuration.
#[derive(Clone, Debug)]
pub struct Configuration {
    /// The value that chooses it.
    pub value: u8,
    /// Index of its string.
    pub string: u8,
    /// It has power of its own.
    pub self_powered: bool,
    /// It can wake the host.
    pub wakeup: bool,
    /// Current that it takes, in mA.
    pub current: u16,
    /// Interfaces and their alternate settings, in order.
    pub interfaces: Vec<Interface>,
}

/// An alternate setting of an interface.
#[derive(Clone, Debug, Default)]
pub struct Interface {
    /// Interface number.
    pub number: u8,
    /// Alternate setting.
    pub alternate: u8,
    /// Class, subclass and protocol.
    pub class: [u8; 3],
    /// Index of its string.
    pub string: u8,
    /// Descriptors of its class.
    pub extra: Vec<u8>,
    /// Endpoints.
    pub endpoints: Vec<Endpoint>,
}

/// Transfer types, as in an endpoint's attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Transfer {
    /// At a constant rate, without being sure.
    Isochronous(u8),
    /// Whenever there is room.
    #[default]
    Bulk,
    /// Polled.
    Interrupt,
}

/// An endpoint.
#[derive(Clone, Debug, Default)]
pub struct Endpoint {
    /// Number, and 80h towards the host.
    pub address: u8,
    /// How it transfers; isochronous ones with their synchronisation bits.
    pub transfer: Transfer,
    /// Largest packet.
    pub packet: u16,
    /// Polling interval as written.
    pub interval: u8,
    /// Two bytes more, of audio endpoints.
    pub audio: bool,
    /// Largest burst less one, of `SuperSpeed`.
    pub burst: u8,
    /// Streams as a power of two, of `SuperSpeed`.
    pub streams: u8,
    /// Descriptors of its class.
    pub extra: Vec<u8>,
}

impl Endpoint {
    /// An endpoint.
    pub fn new(address: u8, transfer: Transfer, packet: u16, interval: u8) -> Self {
        Self { address, transfer, packet, interval, ..Self::default() }
    }

    fn encode(&self, out: &mut Vec<u8>, speed: Speed) {
        let attributes = match self.transfer {
            Transfer::Isochronous(sync) => 1 | sync,
            Transfer::Bulk => 2,
            Transfer::Interrupt => 3,
        };
        let [lo, hi] = self.packet.to_le_bytes();
        let len = if self.audio { 9 } else { 7 };
        out.extend([len, kind::ENDPOINT, self.address, attributes, lo, hi, self.interval]);
        if self.audio {
            out.extend([0, 0]);
        }
        if speed == Speed::Super {
            let periodic = !matches!(self.transfer, Transfer::Bulk);
            let [lo, hi] = if periodic { self.packet.to_le_bytes() } else { [0, 0] };
            out.extend([6, kind::COMPANION, self.burst, self.streams, lo, hi]);
        }
        out.extend(&self.extra);
    }
}

impl Configuration {
    /// One that the bus powers.
    pub fn new(interfaces: Vec<Interface>) -> Self {
        Self { value: 1, string: 0, self_powered: false, wakeup: false, current: 100, interfaces }
    }

    fn encode(&self, speed: Speed, kind: u8) -> Vec<u8> {
        let mut numbers: Vec<u8> = self.interfaces.iter().map(|i| i.number).collect();
        numbers.dedup();
        let attributes = 0x80 | u8::from(self.self_powered) << 6 | u8::from(self.wakeup) << 5;
        let unit = if speed == Speed::Super { 8 } else { 2 };
        let current = (self.current / unit).min(255) as u8;
        let count = numbers.len() as u8;
        let mut out = vec![9, kind, 0, 0, count, self.value, self.string, attributes, current];
        for i in &self.interfaces {
            let [class, subclass, protocol] = i.class;
            let count = i.endpoints.len() as u8;
            out.extend([9, kind::INTERFACE, i.number, i.alternate, count]);
            out.extend([class, subclass, protocol, i.string]);
            out.extend(&i.extra);
            for e in &i.endpoints {
                e.encode(&mut out, speed);
            }
        }
        let len = (out.len() as u16).to_le_bytes();
        out[2..4].copy_from_slice(&len);
        out
    }

    /// The number of interfaces.
    pub fn interfaces(&self) -> usize {
        self.interfaces.iter().map(|i| usize::from(i.number) + 1).max().unwrap_or(0)
    }
}

impl Description {
    /// The fastest layout that is not faster than `most`; the slowest one if all are.
    pub fn layout(&self, most: Speed) -> Option<&Layout> {
        let possible = self.layouts.iter().filter(|l| l.speed <= most).max_by_key(|l| l.speed);
        possible.or_else(|| self.layouts.iter().min_by_key(|l| l.speed))
    }

    fn device(&self, layout: &Layout) -> Vec<u8> {
        let version: u16 = match layout.speed {
            Speed::Super => 0x0300,
            Speed::High => 0x0200,
            _ if self.layouts.iter().any(|l| l.speed == Speed::High) => 0x0200,
            _ => 0x0110,
        };
        let packet = if layout.speed == Speed::Super { 9 } else { layout.packet as u8 };
        let string = |i: usize| if self.string(i).is_some() { i as u8 } else { 0 };
        let mut out = vec![18, kind::DEVICE];
        out.extend(version.to_le_bytes());
        out.extend(self.class);
        out.push(packet);
        for word in [self.vendor, self.product, self.release] {
            out.extend(word.to_le_bytes());
        }
        out.extend([string(1), string(2), string(3), layout.configurations.len() as u8]);
        out
    }

    /// String `index`, which is not 0.
    pub fn string(&self, index: usize) -> Option<&str> {
        let text = self.strings.get(index.checked_sub(1)?)?;
        (!text.is_empty()).then_some(text)
    }

    /// The other of full and high speed.
    fn other(&self, speed: Speed) -> Option<&Layout> {
        let other = match speed {
            Speed::Full => Speed::High,
            Speed::High => Speed::Full,
            _ => return None,
        };
        self.layouts.iter().find(|l| l.speed == other)
    }

    fn qualifier(&self, other: &Layout) -> Vec<u8> {
        let mut out = vec![10, kind::QUALIFIER, 0, 2];
        out.extend(self.class);
        out.extend([other.packet as u8, other.configurations.len() as u8, 0]);
        out
    }

    /// The capabilities of a device with `SuperSpeed`: USB 2.0 extension and `SuperSpeed`.
    fn bos(&self) -> Option<Vec<u8>> {
        if !self.layouts.iter().any(|l| l.speed == Speed::Super) {
            return None;
        }
        let mut speeds = 0;
        for l in &self.layouts {
            speeds |= 1_u8 << l.speed as u8;
        }
        let mut out = vec![5, kind::BOS, 22, 0, 2];
        out.extend([7, 16, 2, 2, 0, 0, 0]);
        out.extend([10, 16, 3, 0, speeds, 0, Speed::Full as u8, 10, 0xff, 0x07]);
        Some(out)
    }

    /// The descriptor of type and index `value`, at `speed`.
    pub fn get(&self, speed: Speed, value: u16) -> Option<Vec<u8>> {
        let [index, what] = value.to_le_bytes();
        let layout = self.layout(speed)?;
        let at = usize::from(index);
        match what {
            kind::DEVICE => Some(self.device(layout)),
            kind::CONFIGURATION => Some(layout.configurations.get(at)?.encode(speed, what)),
            kind::STRING if index == 0 => Some(vec![4, kind::STRING, 0x09, 0x04]),
            kind::STRING => {
                let units: Vec<u16> = self.string(at)?.encode_utf16().take(126).collect();
                let mut out = vec![2 + 2 * units.len() as u8, kind::STRING];
                out.extend(units.iter().flat_map(|u| u.to_le_bytes()));
                Some(out)
            }
            kind::QUALIFIER => Some(self.qualifier(self.other(speed)?)),
            kind::OTHER_SPEED => {
                let other = self.other(speed)?;
                Some(other.configurations.get(at)?.encode(other.speed, what))
            }
            kind::BOS => self.bos(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn description() -> Description {
        let bulk = |packet| Interface {
            class: [8, 6, 0x50],
            endpoints: vec![Endpoint::new(0x81, Transfer::Bulk, packet, 0)],
            ..Interface::default()
        };
        let layout = |speed, packet, bulk| Layout {
            speed,
            packet,
            configurations: vec![Configuration::new(vec![bulk])],
        };
        Description {
            vendor: 0x46f4,
            product: 1,
            release: 0,
            class: [0; 3],
            strings: vec!["A".into(), String::new(), "1".into()],
            layouts: vec![
                layout(Speed::Full, 8, bulk(64)),
                layout(Speed::High, 64, bulk(512)),
                layout(Speed::Super, 512, bulk(1024)),
            ],
        }
    }

    #[test]
    fn a_configuration_says_how_long_it_is_with_all_that_belongs_to_it() {
        let d = description();
        let c = d.get(Speed::High, 0x0200).unwrap();
        assert_eq!((c.len(), c[2]), (25, 25));
        assert_eq!(c[18..], [7, 5, 0x81, 2, 0, 2, 0]);
        let c = d.get(Speed::Super, 0x0200).unwrap();
        assert_eq!((c.len(), &c[25..27]), (31, &[6, 48][..]));
    }

    #[test]
    fn what_is_not_there_is_no_descriptor() {
        let d = description();
        assert_eq!(d.get(Speed::Full, 0x0302), None, "an empty string");
        assert_eq!(d.get(Speed::Full, 0x0201), None, "a second configuration");
        assert_eq!(d.get(Speed::Super, 0x0600), None, "a qualifier");
        assert_eq!(d.get(Speed::Full, 0x0301).unwrap(), [4, 3, b'A', 0]);
        assert_eq!(d.get(Speed::Full, 0x0100).unwrap()[14..17], [1, 0, 3]);
    }

    #[test]
    fn a_port_gets_the_fastest_it_and_the_device_have() {
        let d = description();
        let speed = |most| d.layout(most).unwrap().speed;
        assert_eq!(speed(Speed::High), Speed::High);
        assert_eq!(speed(Speed::Low), Speed::Full);
        let bos = d.get(Speed::Super, 0x0f00).unwrap();
        assert_eq!(usize::from(bos[2]), bos.len());
    }
}
