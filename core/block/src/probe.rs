//! Guessing a format from the first bytes, where the user gave none.

/// The format that the beginning of a file announces, if any.
pub(crate) fn looks_like(head: &[u8]) -> Option<&'static str> {
    let at = |offset: usize, magic: &[u8]| head.get(offset..offset + magic.len()) == Some(magic);
    let first = [
        (0, &b"QFI\xfb\0\0\0\x01"[..], "qcow"),
        (0, b"QFI\xfb\0\0\0\x02", "qcow2"),
        (0, b"QFI\xfb\0\0\0\x03", "qcow2"),
        (0, b"QED\0", "qed"),
        (0, b"KDMV", "vmdk"),
        (0, b"COWD", "vmdk"),
        (0, b"vhdxfile", "vhdx"),
        (0, b"conectix", "vpc"),
        (64, b"\x7f\x10\xda\xbe", "vdi"),
        (0, b"WithoutFreeSpace\x02\0\0\0", "parallels"),
        (0, b"WithouFreSpacExt\x02\0\0\0", "parallels"),
        (0, b"LUKS\xba\xbe\0\x01", "luks"),
        (0, b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop", "cloop"),
    ];
    if let Some((_, _, name)) = first.iter().find(|(offset, magic, _)| at(*offset, magic)) {
        return Some(name);
    }
    if at(0, b"Bochs Virtual HD Image") && at(32, b"Redolog") && at(48, b"Growing") {
        return Some("bochs");
    }
    description(head).then_some("vmdk")
}

/// The format that a file with this beginning could be taken for, now or by another program.
pub(crate) fn could_be(head: &[u8]) -> Option<&'static str> {
    looks_like(head).or_else(|| head.starts_with(b"QFI\xfb").then_some("qcow2"))
}

/// True for the text of a VMDK description: comments and blank lines, then its version.
fn description(head: &[u8]) -> bool {
    let text = &head[..head.iter().position(|b| !b.is_ascii()).unwrap_or(head.len())];
    let mut lines = text.split(|b| *b == b'\n').map(<[u8]>::trim_ascii);
    let first = lines.find(|line| !line.is_empty() && !line.starts_with(b"#"));
    let version = |v: &[u8]| matches!(v, b"1" | b"2" | b"3");
    first.and_then(|line| line.strip_prefix(b"version=")).is_some_and(version)
}

/// The format that a name stands for where the content does not say.
pub(crate) fn by_name(name: &str) -> Option<&'static str> {
    name.ends_with(".dmg").then_some("dmg")
}
