//! Ethernet frames as every card sees them: addresses, check sequences, checksums.
//!
//! Reference: IEEE 802.3 clause 3, RFC 1071.

/// A hardware address.
pub type Mac = [u8; 6];

/// Shortest frame without its check sequence.
pub const MIN: usize = 60;
/// Longest frame with a VLAN tag, without its check sequence.
pub const MAX_TAGGED: usize = 1518;
/// Bytes of header: two addresses and a type.
pub const HEADER: usize = 14;
/// The address that reaches all.
pub const BROADCAST: Mac = [0xff; 6];

/// Reads `52:54:00:12:34:56`.
pub fn parse_mac(text: &str) -> Option<Mac> {
    let mut mac = [0; 6];
    let mut parts = text.split([':', '-']);
    for byte in &mut mac {
        *byte = parts
            .next()
            .filter(|p| matches!(p.len(), 1 | 2))
            .and_then(|p| u8::from_str_radix(p, 16).ok())?;
    }
    (parts.next().is_none() && mac[0] & 1 == 0).then_some(mac)
}

/// An address as people write it: `52:54:00:12:34:56`.
pub fn mac_text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// The address `n` after `first`.
pub fn nth_mac(first: Mac, n: usize) -> Mac {
    let mut mac = first;
    mac[5] = mac[5].wrapping_add(n as u8);
    mac
}

/// The destination of a frame.
pub fn destination(frame: &[u8]) -> Option<Mac> {
    frame.get(..6)?.try_into().ok()
}

/// The 16 bits at `at`, in network order.
pub fn be16(frame: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(frame.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

/// Stores 16 bits in network order; nothing where there is no room.
pub fn put16(frame: &mut [u8], at: usize, value: u16) {
    if let Some(slot) = at.checked_add(2).and_then(|end| frame.get_mut(at..end)) {
        slot.copy_from_slice(&value.to_be_bytes());
    }
}

/// The frame check sequence (802.3 3.2.9): bits go out lowest first.
pub fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, &b| crc >> 8 ^ CRC_TABLE[usize::from(crc as u8 ^ b)])
}

const CRC_TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let mut crc = i as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 != 0 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
            bit += 1;
        }
        table[i] = crc;
        i += 1;
    }
    table
};

/// The check sequence of an address as cards with 64 hash bits use it: highest bit first, not
/// inverted at the end.
pub fn crc_msb_first(bytes: &[u8]) -> u32 {
    (!crc32(bytes)).reverse_bits()
}

/// The one's complement sum of 16-bit words, an odd byte padded with zero.
pub fn sum(bytes: &[u8]) -> u32 {
    let words = bytes.chunks(2).map(|w| u32::from(w[0]) << 8 | w.get(1).map_or(0, |&b| b.into()));
    words.fold(0_u32, |s, w| {
        let s = s + w;
        (s & 0xffff) + (s >> 16)
    })
}

/// Folds a sum to 16 bits.
pub fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The internet checksum (RFC 1071).
pub fn checksum(bytes: &[u8]) -> u16 {
    !fold(sum(bytes))
}

/// Puts the checksum of `frame[start..=end]` at `at`; an `end` of zero is the frame's end. Wrong
/// places change nothing.
pub fn insert_checksum(frame: &mut [u8], start: usize, at: usize, end: usize) {
    let end = if end == 0 { frame.len() } else { frame.len().min(end + 1) };
    if let Some(part) = frame.get(start..end) {
        let value = checksum(part);
        // Zero says that there is none; its other form means the same.
        if at < end {
            put16(frame, at, if value == 0 { 0xffff } else { value });
        }
    }
}

/// What a frame's headers say, as far as checksums go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transport {
    /// Where the IPv4 header begins.
    pub ip: usize,
    /// The header checksum is right.
    pub ip_good: bool,
    /// The TCP or UDP checksum is right; `None`: there is none that can be checked.
    pub good: Option<bool>,
}

/// Looks at the checksums of an IPv4 frame; `None` if it is none.
pub fn transport(frame: &[u8]) -> Option<Transport> {
    let mut ip = HEADER;
    let mut kind = be16(frame, 12)?;
    if kind == 0x8100 {
        kind = be16(frame, 16)?;
        ip += 4;
    }
    let header = usize::from(frame.get(ip)? & 15) * 4;
    if kind != 0x0800 || frame[ip] >> 4 != 4 || header < 20 {
        return None;
    }
    let total = usize::from(be16(frame, ip + 2)?);
    let packet = frame.get(ip..ip + total).filter(|p| p.len() >= header)?;
    let ip_good = checksum(&packet[..header]) == 0;
    let fragment = be16(packet, 6)? & 0x3fff != 0;
    let (protocol, body) = (packet[9], &packet[header..]);
    let field = match protocol {
        6 if body.len() >= 20 => be16(body, 16),
        17 if body.len() >= 8 => be16(body, 6).filter(|&c| c != 0),
        _ => None,
    };
    let good = (!fragment && field.is_some()).then(|| {
        let pseudo = sum(&packet[12..20]) + u32::from(protocol) + body.len() as u32;
        fold(pseudo + sum(body)) == 0xffff
    });
    Some(Transport { ip, ip_good, good })
}

/// An IPv4 frame's parts: where its IP header begins, where the payload of IP does and where it
/// ends, and the protocol.
fn ipv4(frame: &[u8]) -> Option<(usize, usize, usize, u8)> {
    let mut ip = HEADER;
    let mut kind = be16(frame, 12)?;
    if kind == 0x8100 {
        kind = be16(frame, 16)?;
        ip += 4;
    }
    let header = usize::from(frame.get(ip)? & 15) * 4;
    let total = usize::from(be16(frame, ip + 2)?);
    let sound = kind == 0x0800 && frame[ip] >> 4 == 4 && (20..=total).contains(&header);
    (sound && frame.len() >= ip + total).then(|| (ip, ip + header, ip + total, frame[ip + 9]))
}

/// Fills in the checksums of an IPv4 frame: IP's, and TCP's or UDP's. Other frames stay as they are.
pub fn fill_checksums(frame: &mut [u8]) {
    let Some((ip, body, end, protocol)) = ipv4(frame) else { return };
    put16(frame, ip + 10, 0);
    let header = checksum(&frame[ip..body]);
    put16(frame, ip + 10, header);
    let at = match protocol {
        6 if end - body >= 20 => body + 16,
        17 if end - body >= 8 => body + 6,
        _ => return,
    };
    put16(frame, at, 0);
    let pseudo = sum(&frame[ip + 12..ip + 20]) + u32::from(protocol) + (end - body) as u32;
    let value = !fold(pseudo + sum(&frame[body..end]));
    put16(frame, at, if value == 0 { 0xffff } else { value });
}

/// Cuts a long TCP packet over IPv4 into frames with `mss` bytes of payload each, checksums filled
/// in. Anything else comes back as it is.
pub fn segment_tcp(packet: &[u8], mss: usize) -> Vec<Vec<u8>> {
    let whole = || vec![packet.to_vec()];
    // The length field may be too short for the packet, or zero: what counts is what is there.
    let Some((ip, tcp)) = ipv4_headers(packet) else { return whole() };
    let header = match packet.get(tcp + 12) {
        Some(b) if packet[ip + 9] == 6 && b >> 4 >= 5 => tcp + usize::from(b >> 4) * 4,
        _ => return whole(),
    };
    let Some(payload) = packet.get(header..).filter(|p| !p.is_empty() && mss > 0) else {
        return whole();
    };
    let mut seq = [0; 4];
    seq.copy_from_slice(&packet[tcp + 4..tcp + 8]);
    let seq = u32::from_be_bytes(seq);
    let id = be16(packet, ip + 4).unwrap_or(0);
    // A segment of hardly anything would make very many frames.
    let mss = mss.max(8);
    let count = payload.len().div_ceil(mss);
    let frame = |(n, part): (usize, &[u8])| {
        let mut f = packet[..header].to_vec();
        f.extend_from_slice(part);
        let total = (f.len() - ip) as u16;
        put16(&mut f, ip + 2, total);
        put16(&mut f, ip + 4, id.wrapping_add(n as u16));
        let at = seq.wrapping_add((n * mss) as u32);
        f[tcp + 4..tcp + 8].copy_from_slice(&at.to_be_bytes());
        if n + 1 < count {
            // FIN and PSH belong to the last one.
            f[tcp + 13] &= !0x09;
        }
        fill_checksums(&mut f);
        f
    };
    payload.chunks(mss).enumerate().map(frame).collect()
}

/// Where the IPv4 header and what follows it begin.
fn ipv4_headers(frame: &[u8]) -> Option<(usize, usize)> {
    let tagged = be16(frame, 12)? == 0x8100;
    let ip = if tagged { HEADER + 4 } else { HEADER };
    let header = usize::from(frame.get(ip)? & 15) * 4;
    let sound = be16(frame, ip - 2)? == 0x0800 && frame[ip] >> 4 == 4 && header >= 20;
    (sound && frame.len() >= ip + header + 20).then_some((ip, ip + header))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_sequences_and_checksums_are_the_published_ones() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        // The same without the last inversion, as catalogues of CRCs have it.
        assert_eq!(crc_msb_first(b"123456789").reverse_bits(), 0x340b_c6d9);
        // RFC 1071 section 3.
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
        assert_eq!(checksum(&[1]), !0x0100);
    }

    #[test]
    fn an_address_is_six_bytes_of_one_station() {
        assert_eq!(parse_mac("52:54:00:12:34:56"), Some(FIRST));
        assert_eq!(parse_mac("52-54-0-12-34-56"), Some(FIRST));
        for bad in
            ["", "52:54:00:12:34", "52:54:00:12:34:56:78", "01:00:00:00:00:00", "a:b:c:d:e:xx"]
        {
            assert_eq!(parse_mac(bad), None, "{bad}");
        }
        assert_eq!(nth_mac(FIRST, 2)[5], 0x58);
    }

    const FIRST: Mac = super::super::FIRST_MAC;

    #[test]
    fn a_checksum_that_is_inserted_is_right() {
        let mut frame = vec![0; HEADER];
        frame[12] = 8;
        frame.extend([0x45, 0, 0, 30, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 2, 15, 10, 0, 2, 2]);
        frame.extend([0x12, 0x34, 0, 53, 0, 10, 0, 0, 0xaa, 0xbb]);
        assert_eq!(transport(&frame), Some(Transport { ip: 14, ip_good: false, good: None }));
        insert_checksum(&mut frame, 14, 24, 33);
        let pseudo = fold(sum(&frame[26..34]) + 17 + 10);
        put16(&mut frame, 40, pseudo);
        insert_checksum(&mut frame, 34, 40, 0);
        let good = Transport { ip: 14, ip_good: true, good: Some(true) };
        assert_eq!(transport(&frame), Some(good));
        frame[43] ^= 1;
        assert_eq!(transport(&frame).unwrap().good, Some(false));
    }

    #[test]
    fn a_long_packet_is_cut_into_frames_that_are_right() {
        let mut packet = vec![2; 12];
        packet.extend([8, 0, 0x45, 0, 0, 0, 0, 9, 0x40, 0, 64, 6, 0, 0, 10, 0, 2, 15, 10, 0, 2, 2]);
        packet.extend([0x12, 0x34, 0, 80, 0, 0, 1, 0, 0, 0, 0, 0, 0x50, 0x19, 2, 0, 0, 0, 0, 0]);
        packet.extend(0..=255);
        let frames = segment_tcp(&packet, 100);
        let lens: Vec<_> = frames.iter().map(Vec::len).collect();
        assert_eq!(lens, [154, 154, 110]);
        assert!(frames.iter().all(|f| transport(f).unwrap().good == Some(true)));
        let flags: Vec<_> = frames.iter().map(|f| (f[47], f[41], f[19])).collect();
        assert_eq!(flags, [(0x10, 0, 9), (0x10, 100, 10), (0x19, 200, 11)]);
        assert_eq!(frames[2][54..], packet[254..]);
        assert_eq!(segment_tcp(&packet[..20], 100), [packet[..20].to_vec()], "no packet at all");
    }
}
