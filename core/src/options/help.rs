//! The text of `-help`.

use super::table::TABLE;
use std::fmt::Write as _;

/// The option list, one option a paragraph.
pub fn help() -> String {
    let mut out = String::from(
        "usage: orrery [options] [disk image]\n\nWithout options: the built-in diagnostic ROM.\n\n",
    );
    for r in TABLE {
        let mut head = format!("-{}", r.name);
        if let Some(a) = r.alias {
            let _ = write!(head, ", -{a}");
        }
        if let Some(v) = r.value {
            let _ = write!(head, " {v}");
        }
        if head.len() < 28 {
            let _ = writeln!(out, "{head:<28}{}", r.help);
        } else {
            let _ = writeln!(out, "{head}\n{:28}{}", "", r.help);
        }
    }
    out
}
