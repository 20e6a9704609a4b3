//! Decode tables of instruction sets whose encodings have fixed places: bit patterns as the manuals print them.
//!
//! A row is a name and a pattern of at most 32 bits, highest first, in words separated by blanks: `0` and `1` are fixed
//! bits (several may stand together), `x` is a bit that does not matter, `name:n` is a field of `n` bits and `name` alone
//! one of 1 bit.
//!
//! ```text
//! AddSubShifted  "sf op S 01011 shift:2 0 Rm:5 imm6:6 Rn:5 Rd:5"
//! ```
//!
//! [`decode_table!`](crate::decode_table) makes an enumeration of the names and their patterns of it. When it is compiled,
//! every pattern must have the right number of bits, and no two may match the same word unless one is a special case of
//! the other and stands before it. The decoder, the listing of fields ([`Row::list`]) and the generator of random
//! instructions ([`Row::random`]) are made of the same rows.

/// Most fields of one pattern.
const FIELDS: usize = 12;

/// A field of a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its name.
    name: &'static str,
    /// Its lowest bit.
    pub pos: u8,
    /// Its bits.
    pub len: u8,
}

impl Field {
    /// Its name.
    pub fn name(&self) -> &'static str {
        // The pattern from the name on.
        let end = self.name.find([':', ' ']).unwrap_or(self.name.len());
        &self.name[..end]
    }

    /// Its value in `word`.
    pub const fn get(&self, word: u32) -> u32 {
        word >> self.pos & (u32::MAX >> (32 - self.len as u32))
    }
}

/// A parsed pattern.
#[derive(Clone, Copy, Debug)]
pub struct Pattern {
    /// Which bits are fixed.
    pub mask: u32,
    /// What they are.
    pub value: u32,
    fields: [Field; FIELDS],
    count: usize,
}

impl Pattern {
    /// Parses a pattern of `bits` bits.
    ///
    /// # Panics
    /// When it is compiled, if the pattern is none.
    pub const fn parse(text: &'static str, bits: u32) -> Self {
        let bytes = text.as_bytes();
        let mut p = Self {
            mask: 0,
            value: 0,
            fields: [Field { name: "", pos: 0, len: 0 }; FIELDS],
            count: 0,
        };
        let (mut at, mut left) = (0, bits);
        while at < bytes.len() {
            match bytes[at] {
                b' ' => at += 1,
                digit @ (b'0' | b'1') => {
                    assert!(left > 0, "too many bits");
                    left -= 1;
                    p.mask |= 1 << left;
                    p.value |= ((digit - b'0') as u32) << left;
                    at += 1;
                }
                b'x' => {
                    assert!(left > 0, "too many bits");
                    left -= 1;
                    at += 1;
                }
                _ => {
                    let (_, name) = text.split_at(at);
                    while at < bytes.len() && bytes[at] != b':' && bytes[at] != b' ' {
                        at += 1;
                    }
                    let mut len = 0;
                    if at < bytes.len() && bytes[at] == b':' {
                        at += 1;
                        while at < bytes.len() && bytes[at] != b' ' {
                            len = len * 10 + (bytes[at] - b'0') as u32;
                            at += 1;
                        }
                    } else {
                        len = 1;
                    }
                    assert!(len > 0 && len <= left, "too many bits");
                    left -= len;
                    p.fields[p.count] = Field { name, pos: left as u8, len: len as u8 };
                    p.count += 1;
                }
            }
        }
        assert!(left == 0, "too few bits");
        p
    }

    /// Whether `word` is of this pattern.
    pub const fn matches(&self, word: u32) -> bool {
        word & self.mask == self.value
    }

    /// Whether some word is of both patterns.
    pub const fn meets(&self, other: &Self) -> bool {
        (self.value ^ other.value) & self.mask & other.mask == 0
    }

    /// Its fields, highest bits first.
    pub fn fields(&self) -> &[Field] {
        &self.fields[..self.count]
    }
}

/// A row of a table.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The name of what it encodes.
    pub name: &'static str,
    /// Its pattern.
    pub pattern: Pattern,
}

impl Row {
    /// Field `name` of `word`; 0 if the row has none of that name.
    pub fn get(&self, name: &str, word: u32) -> u32 {
        let field = self.pattern.fields().iter().find(|f| f.name() == name);
        debug_assert!(field.is_some(), "{} has no field {name}", self.name);
        field.map_or(0, |f| f.get(word))
    }

    /// The instruction with its fields, for people.
    pub fn list(&self, word: u32) -> String {
        let mut out = self.name.to_string();
        for field in self.pattern.fields() {
            out += &format!(" {}={:#x}", field.name(), field.get(word));
        }
        out
    }

    /// An instruction of this row, with fields from `random`.
    pub const fn random(&self, random: u32) -> u32 {
        self.pattern.value | random & !self.pattern.mask
    }
}

/// Finds rows by the bits that tell most of them apart.
pub struct Index {
    rows: &'static [Row],
    shift: u32,
    buckets: Vec<Vec<u16>>,
}

impl Index {
    /// An index by the 8 bits from `shift` on.
    pub fn new(rows: &'static [Row], shift: u32) -> Self {
        let buckets = (0..256_u32)
            .map(|key| {
                let of_key = |r: &Row| {
                    (key << shift ^ r.pattern.value) & r.pattern.mask & 0xff << shift == 0
                };
                rows.iter().enumerate().filter(|(_, r)| of_key(r)).map(|(i, _)| i as u16).collect()
            })
            .collect();
        Self { rows, shift, buckets }
    }

    /// The number of the row that `word` is of.
    pub fn find(&self, word: u32) -> Option<usize> {
        let bucket = &self.buckets[(word >> self.shift & 0xff) as usize];
        bucket.iter().map(|&i| usize::from(i)).find(|&i| self.rows[i].pattern.matches(word))
    }
}

/// Checks that no two rows match one word, but for special cases before what they are cases of.
///
/// # Panics
/// When it is compiled, if there are such rows.
pub const fn check(rows: &[Row]) {
    let mut i = 0;
    while i < rows.len() {
        let a = &rows[i].pattern;
        let mut j = i + 1;
        while j < rows.len() {
            let b = &rows[j].pattern;
            if a.meets(b) {
                let special = a.mask & b.mask == b.mask && a.mask != b.mask;
                assert!(special, "two rows of the table match the same word");
            }
            j += 1;
        }
        i += 1;
    }
}

/// An enumeration of instructions with the patterns of their encodings. See [`decode`](crate::decode).
#[macro_export]
macro_rules! decode_table {
    ($(#[$doc:meta])* $vis:vis enum $kind:ident: $bits:literal by $shift:literal {
        $($(#[$row_doc:meta])* $name:ident $pattern:literal)*
    }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        $vis enum $kind { $($(#[$row_doc])* #[doc = concat!("`", $pattern, "`")] $name,)* }

        impl $kind {
            /// Every row, in the order of the table.
            $vis const ROWS: &[$crate::decode::Row] = {
                const ROWS: &[$crate::decode::Row] = &[$($crate::decode::Row {
                    name: stringify!($name),
                    pattern: $crate::decode::Pattern::parse($pattern, $bits),
                },)*];
                $crate::decode::check(ROWS);
                ROWS
            };
            /// Every case.
            $vis const ALL: &[Self] = &[$(Self::$name,)*];

            /// The instruction that `word` is.
            $vis fn decode(word: u32) -> Option<Self> {
                static INDEX: std::sync::LazyLock<$crate::decode::Index> =
                    std::sync::LazyLock::new(|| $crate::decode::Index::new($kind::ROWS, $shift));
                INDEX.find(word).map(|i| Self::ALL[i])
            }

            /// Its row.
            $vis fn row(self) -> &'static $crate::decode::Row {
                &Self::ROWS[self as usize]
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    decode_table! {
        enum Small: 16 by 4 {
            Nop "0000 0000 0000 0000"
            Move "0000 Rd:4 imm:8"
            Add "0001 S Rd:3 Rn:4 xx Rm:2"
        }
    }

    #[test]
    fn fields_are_where_the_pattern_has_them() {
        let row = Small::Add.row();
        let word = 0b0001_1101_0110_1110;
        assert_eq!(Small::decode(word), Some(Small::Add));
        let fields = ["S", "Rd", "Rn", "Rm"].map(|f| row.get(f, word));
        assert_eq!(fields, [1, 5, 6, 2]);
        assert_eq!(row.list(word), "Add S=0x1 Rd=0x5 Rn=0x6 Rm=0x2");
    }

    #[test]
    fn special_cases_come_first_and_gaps_are_gaps() {
        assert_eq!(Small::decode(0), Some(Small::Nop));
        assert_eq!(Small::decode(1), Some(Small::Move));
        assert_eq!(Small::decode(0x2000), None);
    }

    #[test]
    fn random_instructions_are_of_their_row() {
        for random in [0x1234_5678, 0xffff_ffff, 0xdead_beef] {
            let word = Small::Add.row().random(random) & 0xffff;
            assert_eq!(Small::decode(word), Some(Small::Add));
        }
    }

    #[test]
    fn rows_that_overlap_are_found() {
        let row = |text| Row { name: "r", pattern: Pattern::parse(text, 8) };
        let wrong = [row("0x10 0000"), row("00x0 0000")];
        assert!(wrong[0].pattern.meets(&wrong[1].pattern));
        // A panic ends everything in a browser.
        #[cfg(not(target_arch = "wasm32"))]
        assert!(std::panic::catch_unwind(|| check(&wrong)).is_err());
        check(&[row("0010 0000"), row("00x0 0000")]);
    }
}
