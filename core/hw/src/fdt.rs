//! Flattened device trees (Devicetree Specification 0.4, chapter 5).

const BEGIN: u32 = 1;
const END: u32 = 2;
const PROP: u32 = 3;
const FINISH: u32 = 9;

/// A tree on its way. Properties of a node come before its children.
#[derive(Clone, Debug, Default)]
pub struct Fdt {
    structure: Vec<u8>,
    strings: Vec<u8>,
}

impl Fdt {
    /// An empty tree; the first node is the root, whose name is empty.
    pub fn new() -> Self {
        Self::default()
    }

    fn word(&mut self, value: u32) {
        self.structure.extend(value.to_be_bytes());
    }

    fn pad(&mut self) {
        self.structure.resize(self.structure.len().next_multiple_of(4), 0);
    }

    /// A node with what `inside` puts there.
    pub fn node(&mut self, name: &str, inside: impl FnOnce(&mut Self)) {
        self.word(BEGIN);
        self.structure.extend(name.as_bytes());
        self.structure.push(0);
        self.pad();
        inside(self);
        self.word(END);
    }

    /// A property.
    pub fn bytes(&mut self, name: &str, value: &[u8]) {
        let key = [name.as_bytes(), b"\0"].concat();
        let known = self.strings.windows(key.len()).position(|w| w == key);
        let at = known.unwrap_or_else(|| {
            self.strings.extend(&key);
            self.strings.len() - key.len()
        });
        self.word(PROP);
        self.word(value.len() as u32);
        self.word(at as u32);
        self.structure.extend(value);
        self.pad();
    }

    /// A property without a value.
    pub fn flag(&mut self, name: &str) {
        self.bytes(name, &[]);
    }

    /// A property of 32-bit cells.
    pub fn cells(&mut self, name: &str, cells: &[u32]) {
        let value: Vec<u8> = cells.iter().flat_map(|c| c.to_be_bytes()).collect();
        self.bytes(name, &value);
    }

    /// Addresses and lengths, two cells each.
    pub fn reg(&mut self, ranges: &[(u64, u64)]) {
        let value: Vec<u8> = ranges
            .iter()
            .flat_map(|(at, len)| [at.to_be_bytes(), len.to_be_bytes()].concat())
            .collect();
        self.bytes("reg", &value);
    }

    /// A 64-bit property.
    pub fn wide(&mut self, name: &str, value: u64) {
        self.bytes(name, &value.to_be_bytes());
    }

    /// A text.
    pub fn text(&mut self, name: &str, value: &str) {
        self.bytes(name, &[value.as_bytes(), b"\0"].concat());
    }

    /// Texts.
    pub fn texts(&mut self, name: &str, values: &[&str]) {
        let value: Vec<u8> =
            values.iter().flat_map(|v| v.bytes().chain(std::iter::once(0))).collect();
        self.bytes(name, &value);
    }

    /// The blob.
    pub fn finish(mut self) -> Vec<u8> {
        self.word(FINISH);
        let (header, reserved) = (40, 16);
        let structure = header + reserved;
        let strings = structure + self.structure.len();
        let total = (strings + self.strings.len()).next_multiple_of(8);
        let lengths = [self.strings.len(), self.structure.len()];
        let words =
            [0xd00d_feed, total, structure, strings, header, 17, 16, 0, lengths[0], lengths[1]];
        let mut out: Vec<u8> = words.iter().flat_map(|&w| (w as u32).to_be_bytes()).collect();
        out.extend([0; 16]);
        out.extend(self.structure);
        out.extend(self.strings);
        out.resize(total, 0);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_has_its_parts_where_the_header_says() {
        let mut fdt = Fdt::new();
        fdt.node("", |f| {
            f.cells("#size-cells", &[2]);
            f.node("cpu@0", |f| f.text("compatible", "arm,cortex-a57"));
            f.node("cpu@1", |f| f.text("compatible", "x"));
        });
        let blob = fdt.finish();
        let word = |at: usize| u32::from_be_bytes(blob[at..at + 4].try_into().unwrap()) as usize;
        assert_eq!((word(0), word(4)), (0xd00d_feed, blob.len()));
        let (structure, strings) = (word(8), word(12));
        assert_eq!((word(structure), word(structure + 8), word(structure + 12)), (1, 3, 4));
        let names = &blob[strings..strings + word(32)];
        assert_eq!(names, b"#size-cells\0compatible\0");
        assert_eq!(word(structure + word(36) - 4), 9);
    }
}
