//! `name=value,name=value`, with `,,` for a comma.

use crate::{BlockError, Result};
use serde_json::{Map, Value};

/// Splits an argument; a first part without `=` belongs to `implied`.
pub(crate) fn keyval(text: &str, implied: Option<&str>) -> Result<Map<String, Value>> {
    let mut parts = vec![String::new()];
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let last = parts.last_mut().expect("never empty");
        match c {
            ',' if chars.peek() == Some(&',') => {
                chars.next();
                last.push(',');
            }
            ',' => parts.push(String::new()),
            c => last.push(c),
        }
    }
    let mut out = Map::new();
    for (index, part) in parts.iter().enumerate().filter(|(_, part)| !part.is_empty()) {
        let (key, value) = match (part.split_once('='), implied) {
            (Some(pair), _) => pair,
            (None, Some(implied)) if index == 0 => (implied, part.as_str()),
            (None, _) => {
                return Err(BlockError::Invalid(format!("Expected '=' after parameter '{part}'")));
            }
        };
        out.insert(key.into(), value.into());
    }
    Ok(out)
}
