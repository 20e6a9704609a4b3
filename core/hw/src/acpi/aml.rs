//! ACPI Machine Language: writes the terms a machine's DSDT is made of (ACPI 5.0 chapter 20).
//!
//! Every function gives the bytes of one term; terms nest by concatenation.

/// A piece of AML.
pub(crate) type Aml = Vec<u8>;

/// Joins terms.
pub(crate) fn list(terms: impl IntoIterator<Item = Aml>) -> Aml {
    terms.into_iter().flatten().collect()
}

/// A package length in front of `body`: it counts itself.
fn with_length(body: &[u8]) -> Aml {
    let mut n = body.len() + 1;
    let mut out = Vec::with_capacity(body.len() + 4);
    if n < 0x40 {
        out.push(n as u8);
    } else {
        let follow = if n + 1 < 1 << 12 {
            1
        } else if n + 2 < 1 << 20 {
            2
        } else {
            3
        };
        n += follow;
        out.push((follow as u8) << 6 | n as u8 & 0x0f);
        out.extend(&(n >> 4).to_le_bytes()[..follow]);
    }
    out.extend(body);
    out
}

fn package_op(op: &[u8], body: Aml) -> Aml {
    let mut out = op.to_vec();
    out.extend(with_length(&body));
    out
}

/// A name: segments of up to four characters, separated by dots, after `\` or `^`.
pub(crate) fn name(path: &str) -> Aml {
    let mut out = Vec::new();
    let rest = path.trim_start_matches(['\\', '^']);
    out.extend(&path.as_bytes()[..path.len() - rest.len()]);
    let segments: Vec<&str> = rest.split('.').filter(|s| !s.is_empty()).collect();
    match segments.len() {
        0 => out.push(0),
        1 => {}
        2 => out.push(0x2e),
        n => out.extend([0x2f, n as u8]),
    }
    for s in segments {
        let mut seg = [b'_'; 4];
        seg[..s.len()].copy_from_slice(s.as_bytes());
        out.extend(seg);
    }
    out
}

/// An integer in its shortest form.
pub(crate) fn int(v: u64) -> Aml {
    match v {
        0 => vec![0x00],
        1 => vec![0x01],
        u64::MAX => vec![0xff],
        2..=0xff => vec![0x0a, v as u8],
        0x100..=0xffff => [&[0x0b], &(v as u16).to_le_bytes()[..]].concat(),
        0x1_0000..=0xffff_ffff => [&[0x0c], &(v as u32).to_le_bytes()[..]].concat(),
        _ => [&[0x0e], &v.to_le_bytes()[..]].concat(),
    }
}

/// A string.
pub(crate) fn string(s: &str) -> Aml {
    [&[0x0d], s.as_bytes(), &[0]].concat()
}

/// A compressed EISA id, such as `PNP0A03`.
pub(crate) fn eisa_id(id: &str) -> Aml {
    let b = id.as_bytes();
    let letter = |i: usize| u32::from(b[i] - 0x40) & 0x1f;
    let hex = u32::from_str_radix(&id[3..], 16).unwrap_or(0);
    let v = letter(0) << 26 | letter(1) << 21 | letter(2) << 16 | hex;
    [&[0x0c], &v.to_be_bytes()[..]].concat()
}

/// `Name (path, value)`.
pub(crate) fn def(path: &str, value: Aml) -> Aml {
    list([vec![0x08], name(path), value])
}

/// `Scope (path) { body }`.
pub(crate) fn scope(path: &str, body: impl IntoIterator<Item = Aml>) -> Aml {
    package_op(&[0x10], list([name(path), list(body)]))
}

/// `Device (path) { body }`.
pub(crate) fn device(path: &str, body: impl IntoIterator<Item = Aml>) -> Aml {
    package_op(&[0x5b, 0x82], list([name(path), list(body)]))
}

/// `Method (path, args, NotSerialized or Serialized) { body }`.
pub(crate) fn method(
    path: &str,
    args: u8,
    serialized: bool,
    body: impl IntoIterator<Item = Aml>,
) -> Aml {
    let flags = args | u8::from(serialized) << 3;
    package_op(&[0x14], list([name(path), vec![flags], list(body)]))
}

/// `Package () { elements }`, up to 255.
pub(crate) fn package(elements: Vec<Aml>) -> Aml {
    package_op(&[0x12], list([vec![elements.len() as u8], list(elements)]))
}

/// `Buffer () { bytes }`.
pub(crate) fn buffer(bytes: &[u8]) -> Aml {
    package_op(&[0x11], list([int(bytes.len() as u64), bytes.to_vec()]))
}

/// `Processor (path, id, 0, 0) {}`.
pub(crate) fn processor(path: &str, id: u8) -> Aml {
    package_op(&[0x5b, 0x83], list([name(path), vec![id, 0, 0, 0, 0, 0]]))
}

/// Address spaces of operation regions.
pub(crate) enum Space {
    /// Ports.
    Io = 1,
    /// The configuration space of the device the region is in.
    PciConfig = 2,
}

/// `OperationRegion (path, space, offset, length)`.
pub(crate) fn op_region(path: &str, space: Space, offset: u64, length: u64) -> Aml {
    list([vec![0x5b, 0x80], name(path), vec![space as u8], int(offset), int(length)])
}

/// `Field (region, ByteAcc, NoLock, Preserve) { names with their bits }`; a field without a name
/// is skipped.
pub(crate) fn byte_field(region: &str, fields: &[(&str, u32)]) -> Aml {
    field(region, 0x01, fields)
}

fn field(region: &str, flags: u8, fields: &[(&str, u32)]) -> Aml {
    let unit = |&(field, bits): &(&str, u32)| {
        let mut out = if field.is_empty() { vec![0] } else { name(field) };
        // Its length is written as a package length is, but does not count itself.
        if bits < 0x40 {
            out.push(bits as u8);
        } else {
            out.extend([0x40 | bits as u8 & 0xf, (bits >> 4) as u8]);
        }
        out
    };
    let body = list([name(region), vec![flags], list(fields.iter().map(unit))]);
    package_op(&[0x5b, 0x81], body)
}

/// `Field (region, DWordAcc, NoLock, WriteAsZeros) { names with their bits }`; a field without a name
/// is skipped.
pub(crate) fn dword_field(region: &str, fields: &[(&str, u32)]) -> Aml {
    field(region, 0x43, fields)
}

/// `CreateDWordField (source, byte offset, path)`.
pub(crate) fn create_dword_field(source: Aml, offset: u64, path: &str) -> Aml {
    list([vec![0x8a], source, int(offset), name(path)])
}

/// Method argument `n`.
pub(crate) fn arg(n: u8) -> Aml {
    vec![0x68 + n]
}

/// Local variable `n`.
pub(crate) fn local(n: u8) -> Aml {
    vec![0x60 + n]
}

/// `target = value`.
pub(crate) fn store(value: Aml, target: Aml) -> Aml {
    list([vec![0x70], value, target])
}

/// `Return (value)`.
pub(crate) fn ret(value: Aml) -> Aml {
    list([vec![0xa4], value])
}

/// `target = a & b`.
pub(crate) fn and(a: Aml, b: Aml, target: Aml) -> Aml {
    list([vec![0x7b], a, b, target])
}

/// `target = a | b`.
pub(crate) fn or(a: Aml, b: Aml, target: Aml) -> Aml {
    list([vec![0x7d], a, b, target])
}

/// `target = a << b`.
pub(crate) fn shift_left(a: Aml, b: Aml, target: Aml) -> Aml {
    list([vec![0x79], a, b, target])
}

/// `Notify (object, value)`.
pub(crate) fn notify(object: Aml, value: Aml) -> Aml {
    list([vec![0x86], object, value])
}

/// No target.
pub(crate) fn nowhere() -> Aml {
    vec![0]
}

/// `a == b`.
pub(crate) fn equal(a: Aml, b: Aml) -> Aml {
    list([vec![0x93], a, b])
}

/// `!a`.
pub(crate) fn not(a: Aml) -> Aml {
    list([vec![0x92], a])
}

/// `a < b`.
pub(crate) fn less(a: Aml, b: Aml) -> Aml {
    list([vec![0x95], a, b])
}

/// `If (condition) { body }`.
pub(crate) fn if_(condition: Aml, body: impl IntoIterator<Item = Aml>) -> Aml {
    package_op(&[0xa0], list([condition, list(body)]))
}

/// `Else { body }`.
pub(crate) fn else_(body: impl IntoIterator<Item = Aml>) -> Aml {
    package_op(&[0xa1], list(body))
}

/// `ToUUID (text)`: a buffer.
pub(crate) fn uuid(text: &str) -> Aml {
    let hex: Vec<u8> = text
        .split('-')
        .flat_map(|part| (0..part.len() / 2).map(move |i| &part[2 * i..2 * i + 2]))
        .filter_map(|b| u8::from_str_radix(b, 16).ok())
        .collect();
    let order = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
    let bytes: Vec<u8> = order.iter().filter_map(|&i| hex.get(i).copied()).collect();
    buffer(&bytes)
}

/// Resource descriptors (ACPI 5.0 6.4).
pub(crate) mod resource {
    use super::{Aml, buffer, list};

    /// `ResourceTemplate () { descriptors }`.
    pub(crate) fn template(descriptors: impl IntoIterator<Item = Vec<u8>>) -> Aml {
        // An end tag whose checksum of zero counts as right.
        buffer(&list([list(descriptors), vec![0x79, 0]]))
    }

    /// Ports `min` (to `max`, where it may move), `len` of them, 16 address bits decoded.
    pub(crate) fn io(min: u16, max: u16, align: u8, len: u8) -> Vec<u8> {
        let (a, b) = (min.to_le_bytes(), max.to_le_bytes());
        vec![0x47, 1, a[0], a[1], b[0], b[1], align, len]
    }

    /// An edge-triggered ISA interrupt.
    pub(crate) fn irq(n: u8) -> Vec<u8> {
        let m = (1_u16 << n).to_le_bytes();
        vec![0x22, m[0], m[1]]
    }

    /// An 8-bit DMA channel.
    pub(crate) fn dma(channel: u8) -> Vec<u8> {
        vec![0x2a, 1 << channel, 0]
    }

    /// Level-triggered, active-high, shared interrupts: one of `list`.
    pub(crate) fn interrupts(list: &[u32]) -> Vec<u8> {
        let n = list.len();
        let mut out = vec![0x89, (2 + 4 * n) as u8, 0, 0x09, n as u8];
        list.iter().for_each(|i| out.extend(i.to_le_bytes()));
        out
    }

    /// Memory that does not move.
    pub(crate) fn memory_fixed(base: u32, len: u32, writable: bool) -> Vec<u8> {
        let mut out = vec![0x86, 9, 0, writable.into()];
        out.extend(base.to_le_bytes());
        out.extend(len.to_le_bytes());
        out
    }

    /// Bus numbers `first` to `last` that a bridge passes on.
    pub(crate) fn bus_numbers(first: u16, last: u16) -> Vec<u8> {
        word_range(2, 0, first, last)
    }

    /// Ports `first` to `last` that a bridge passes on.
    pub(crate) fn io_window(first: u16, last: u16) -> Vec<u8> {
        word_range(1, 3, first, last)
    }

    fn word_range(kind: u8, specific: u8, first: u16, last: u16) -> Vec<u8> {
        let mut out = vec![0x88, 13, 0, kind, 0x0c, specific];
        for v in [0, first, last, 0, last - first + 1] {
            out.extend(v.to_le_bytes());
        }
        // 256 bus numbers or ports overflow no 16-bit length here: `last - first` is below ffff.
        out
    }

    /// Memory from `first` to `last` below 4 GiB that a bridge passes on.
    pub(crate) fn memory_window(first: u32, last: u32, cacheable: bool) -> Vec<u8> {
        let mut out = vec![0x87, 23, 0, 0, 0x0c, 1 | u8::from(cacheable) << 1];
        for v in [0, first, last, 0, last - first + 1] {
            out.extend(v.to_le_bytes());
        }
        out
    }

    /// Memory from `first` to `last` anywhere that a bridge passes on.
    pub(crate) fn memory_window64(first: u64, last: u64) -> Vec<u8> {
        let mut out = vec![0x8a, 43, 0, 0, 0x0c, 3];
        for v in [0, first, last, 0, last - first + 1] {
            out.extend(v.to_le_bytes());
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn package_lengths_count_themselves_in_one_to_three_bytes() {
        assert_eq!(package(vec![int(1)]), [0x12, 3, 1, 1]);
        let long = buffer(&[0; 100]);
        assert_eq!(long[..5], [0x11, 0x48, 0x06, 0x0a, 100]);
        assert_eq!(long.len(), 1 + 0x68);
        let longer = buffer(&[0; 5000]);
        let n = usize::from(longer[1] & 0xf)
            | usize::from(longer[2]) << 4
            | usize::from(longer[3]) << 12;
        assert_eq!((longer[1] >> 6, n), (2, longer.len() - 1));
    }

    #[test]
    fn names_have_segments_of_four_characters() {
        assert_eq!(name("_SB"), b"_SB_");
        assert_eq!(name("\\_SB.PCI0"), b"\\\x2e_SB_PCI0");
        assert_eq!(name("^A.B.C"), b"^\x2f\x03A___B___C___");
    }

    #[test]
    fn an_eisa_id_is_compressed_big_endian() {
        assert_eq!(eisa_id("PNP0A03"), [0x0c, 0x41, 0xd0, 0x0a, 0x03]);
    }

    #[test]
    fn a_uuid_swaps_its_first_three_groups() {
        let b = uuid("33db4d5b-1ff7-401c-9657-7441c03dd766");
        assert_eq!(b[..8], [0x11, 0x13, 0x0a, 16, 0x5b, 0x4d, 0xdb, 0x33]);
    }
}
