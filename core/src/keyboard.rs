//! Typing: characters and key names to keys, for scripts, monitors and paste.

use orrery_system::input::Key;

/// Keys by QEMU's names (`sendkey`).
const NAMES: &[(&str, u16)] = &[
    ("esc", 0x01),
    ("minus", 0x0c),
    ("equal", 0x0d),
    ("backspace", 0x0e),
    ("tab", 0x0f),
    ("bracket_left", 0x1a),
    ("bracket_right", 0x1b),
    ("ret", 0x1c),
    ("enter", 0x1c),
    ("ctrl", 0x1d),
    ("semicolon", 0x27),
    ("apostrophe", 0x28),
    ("grave_accent", 0x29),
    ("shift", 0x2a),
    ("backslash", 0x2b),
    ("comma", 0x33),
    ("dot", 0x34),
    ("slash", 0x35),
    ("shift_r", 0x36),
    ("kp_multiply", 0x37),
    ("alt", 0x38),
    ("spc", 0x39),
    ("space", 0x39),
    ("caps_lock", 0x3a),
    ("num_lock", 0x45),
    ("scroll_lock", 0x46),
    ("kp_7", 0x47),
    ("kp_8", 0x48),
    ("kp_9", 0x49),
    ("kp_subtract", 0x4a),
    ("kp_4", 0x4b),
    ("kp_5", 0x4c),
    ("kp_6", 0x4d),
    ("kp_add", 0x4e),
    ("kp_1", 0x4f),
    ("kp_2", 0x50),
    ("kp_3", 0x51),
    ("kp_0", 0x52),
    ("kp_decimal", 0x53),
    ("less", 0x56),
    ("f11", 0x57),
    ("f12", 0x58),
    ("kp_enter", 0xe01c),
    ("ctrl_r", 0xe01d),
    ("kp_divide", 0xe035),
    ("print", 0xe037),
    ("alt_r", 0xe038),
    ("home", 0xe047),
    ("up", 0xe048),
    ("pgup", 0xe049),
    ("left", 0xe04b),
    ("right", 0xe04d),
    ("end", 0xe04f),
    ("down", 0xe050),
    ("pgdn", 0xe051),
    ("insert", 0xe052),
    ("delete", 0xe053),
    ("meta_l", 0xe05b),
    ("meta_r", 0xe05c),
    ("menu", 0xe05d),
    ("pause", 0xe11d),
];

/// The rows of a US keyboard with the scan code of each row's first key: plain and shifted.
const ROWS: &[(u16, &str, &str)] = &[
    (0x02, "1234567890-=", "!@#$%^&*()_+"),
    (0x10, "qwertyuiop[]", "QWERTYUIOP{}"),
    (0x1e, "asdfghjkl;'`", "ASDFGHJKL:\"~"),
    (0x2b, "\\zxcvbnm,./", "|ZXCVBNM<>?"),
];

/// The key of a name: `a`, `5`, `f1`, `ret`, `ctrl`.
pub fn key(name: &str) -> Option<Key> {
    if let Some(&(_, code)) = NAMES.iter().find(|(n, _)| *n == name) {
        return Some(Key(code));
    }
    if let Some(n) = name.strip_prefix('f').and_then(|n| n.parse::<u16>().ok()) {
        return (1..=10).contains(&n).then(|| Key(0x3a + n));
    }
    let mut chars = name.chars();
    match (chars.next(), chars.next()) {
        (Some(c), None) => type_char(c).map(|(k, _)| k),
        _ => None,
    }
}

/// The key that types a character on a US keyboard, and whether with shift.
pub fn type_char(c: char) -> Option<(Key, bool)> {
    match c {
        '\n' | '\r' => return Some((Key(0x1c), false)),
        '\t' => return Some((Key(0x0f), false)),
        ' ' => return Some((Key(0x39), false)),
        '\u{8}' => return Some((Key(0x0e), false)),
        '\u{1b}' => return Some((Key(0x01), false)),
        _ => {}
    }
    for &(first, plain, shifted) in ROWS {
        for (row, shift) in [(plain, false), (shifted, true)] {
            if let Some(i) = row.chars().position(|k| k == c) {
                return Some((Key(first + i as u16), shift));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_and_names_find_their_keys() {
        assert_eq!(type_char('a'), Some((Key(0x1e), false)));
        assert_eq!(type_char('|'), Some((Key(0x2b), true)));
        assert_eq!(type_char('/'), Some((Key(0x35), false)));
        assert_eq!(type_char('é'), None);
        assert_eq!(key("f10"), Some(Key(0x44)));
        assert_eq!(key("f12"), Some(Key(0x58)));
        assert_eq!(key("left"), Some(Key(0xe04b)));
        assert_eq!(key("f99"), None);
    }
}
