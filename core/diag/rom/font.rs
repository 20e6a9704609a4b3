//! The ROM's own letters, drawn for it in `font.txt`.

use std::collections::BTreeMap;

const DRAWING: &str = include_str!("font.txt");

/// First character drawn.
pub(crate) const FIRST: u32 = 0x20;
/// Characters drawn: the printable ones of ASCII.
pub(crate) const COUNT: u32 = 95;

/// 16 bytes for each character, the leftmost pixel in bit 7.
pub(crate) fn glyphs() -> Vec<u8> {
    let mut drawn = BTreeMap::from([(' ', [0; 16])]);
    let mut glyph = None;
    let lines = DRAWING.lines().filter(|l| !l.starts_with("//"));
    for line in lines {
        // `char A 3`: rows of the letter A follow, the first of them is row 3 of the cell.
        if let Some((letter, row)) = line.strip_prefix("char ").and_then(|l| l.split_once(' ')) {
            let letter = letter.chars().next().expect("a letter");
            let row: usize = row.parse().expect("a row");
            glyph = Some((letter, row));
            assert!(drawn.insert(letter, [0; 16]).is_none(), "{letter} is drawn twice");
        } else if let Some((letter, row)) = &mut glyph {
            assert!(line.len() <= 7, "{letter} is too wide");
            let bits = line.bytes().zip(0..).fold(0_u8, |bits, (dot, x)| match dot {
                b'#' => bits | 0x80 >> x,
                b'.' => bits,
                _ => panic!("{letter} has a dot that is neither # nor ."),
            });
            drawn.get_mut(letter).expect("inserted above")[*row] = bits;
            *row += 1;
        }
    }
    assert_eq!(drawn.len(), COUNT as usize, "every printable character is drawn");
    drawn.into_values().flatten().collect()
}
