//! Guessing a format from the first bytes, where the user gave none.

/// The format that the first sector of a file announces, if any.
pub(crate) fn looks_like(head: &[u8]) -> Option<&'static str> {
    let at = |offset: usize, magic: &[u8]| head.get(offset..offset + magic.len()) == Some(magic);
    let first = [
        (0, &b"QFI\xfb\0\0\0\x01"[..], "qcow"),
        (0, b"QFI\xfb", "qcow2"),
        (0, b"QED\0", "qed"),
        (0, b"KDMV", "vmdk"),
        (0, b"COWD", "vmdk"),
        (0, b"# Disk DescriptorFile", "vmdk"),
        (0, b"vhdxfile", "vhdx"),
        (0, b"conectix", "vpc"),
        (64, b"\x7f\x10\xda\xbe", "vdi"),
        (0, b"WithoutFreeSpace", "parallels"),
        (0, b"WithouFreSpacExt", "parallels"),
        (0, b"LUKS\xba\xbe", "luks"),
        (0, b"Bochs Virtual HD Image", "bochs"),
    ];
    first.iter().find(|(offset, magic, _)| at(*offset, magic)).map(|(_, _, name)| *name)
}
