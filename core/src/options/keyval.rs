//! QEMU's `value,key=value,flag` option strings.

use super::OptionError;

/// The sub-options of one option, in the order given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyVals(Vec<(String, String)>);

impl KeyVals {
    /// Parses `text`. A first part without `=` is the value of key `implied`, if there is one;
    /// any other part without `=` is a switch set to `on` (`nofoo` sets `foo` to `off`). A comma
    /// inside a value is written twice.
    pub fn parse(text: &str, implied: Option<&str>) -> Self {
        let mut out = Vec::new();
        for (i, part) in split_commas(text).into_iter().enumerate() {
            if part.is_empty() {
                continue;
            }
            let pair = match (part.split_once('='), implied) {
                (Some((k, v)), _) => (k.to_string(), v.to_string()),
                (None, Some(key)) if i == 0 => (key.to_string(), part),
                (None, _) => match part.strip_prefix("no") {
                    Some(key) if !key.is_empty() && part != "node-name" && part != "nowait" => {
                        (key.to_string(), "off".into())
                    }
                    _ => (part, "on".into()),
                },
            };
            out.push(pair);
        }
        Self(out)
    }

    /// Takes a key out; the last one given wins.
    pub fn take(&mut self, key: &str) -> Option<String> {
        let mut found = None;
        self.0.retain(|(k, v)| {
            if k == key {
                found = Some(v.clone());
            }
            k != key
        });
        found
    }

    /// Takes every value given for a key.
    pub fn take_all(&mut self, key: &str) -> Vec<String> {
        let all = self.0.iter().filter(|(k, _)| k == key).map(|(_, v)| v.clone()).collect();
        self.0.retain(|(k, _)| k != key);
        all
    }

    /// Takes what is said of something below: keys with a point in them.
    pub fn take_dotted(&mut self) -> Vec<(String, String)> {
        let (dotted, plain) = self.0.drain(..).partition(|(k, _)| k.contains('.'));
        self.0 = plain;
        dotted
    }

    /// Takes a switch.
    pub fn take_bool(&mut self, option: &str, key: &str) -> Result<Option<bool>, OptionError> {
        let Some(v) = self.take(key) else { return Ok(None) };
        match v.as_str() {
            "on" | "yes" | "true" | "y" => Ok(Some(true)),
            "off" | "no" | "false" | "n" => Ok(Some(false)),
            _ => Err(OptionError::value(option, key, &v, "'on' or 'off'")),
        }
    }

    /// Takes a number, decimal or `0x` hexadecimal.
    pub fn take_number(&mut self, option: &str, key: &str) -> Result<Option<u64>, OptionError> {
        let Some(v) = self.take(key) else { return Ok(None) };
        number(&v).map(Some).ok_or_else(|| OptionError::value(option, key, &v, "a number"))
    }

    /// Takes a size with a suffix k, M, G or T; a bare number is in `unit` bytes.
    pub fn take_size(
        &mut self,
        option: &str,
        key: &str,
        unit: u64,
    ) -> Result<Option<u64>, OptionError> {
        let Some(v) = self.take(key) else { return Ok(None) };
        let wants = "a size, such as 512M or 2G";
        size(&v, unit).map(Some).ok_or_else(|| OptionError::value(option, key, &v, wants))
    }

    /// What was not taken.
    pub fn rest(self) -> Vec<(String, String)> {
        self.0
    }

    /// Refuses what was not taken, naming the nearest key there is.
    pub fn finish(self, option: &str, known: &[&str]) -> Result<(), OptionError> {
        match self.0.first() {
            None => Ok(()),
            Some((key, _)) => Err(OptionError::SubOption {
                option: option.into(),
                key: key.clone(),
                hint: super::hint(key, known.iter().copied()),
            }),
        }
    }
}

fn split_commas(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c != ',' {
            parts.last_mut().expect("never empty").push(c);
        } else if chars.next_if_eq(&',').is_some() {
            parts.last_mut().expect("never empty").push(',');
        } else {
            parts.push(String::new());
        }
    }
    parts
}

/// A number, decimal or `0x` hexadecimal.
pub fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

/// A size in bytes: a number, perhaps with a fraction, and a suffix `b`, `k`, `M`, `G` or `T`
/// (either case). Without suffix it counts `unit` bytes.
pub fn size(text: &str, unit: u64) -> Option<u64> {
    let (digits, factor) = match text.chars().last()?.to_ascii_lowercase() {
        'b' => (&text[..text.len() - 1], 1),
        'k' => (&text[..text.len() - 1], 1 << 10),
        'm' => (&text[..text.len() - 1], 1 << 20),
        'g' => (&text[..text.len() - 1], 1 << 30),
        't' => (&text[..text.len() - 1], 1 << 40),
        _ => (text, unit),
    };
    if let Some(n) = number(digits) {
        return n.checked_mul(factor);
    }
    let f: f64 = digits.parse().ok().filter(|f: &f64| f.is_finite() && *f >= 0.0)?;
    let bytes = f * factor as f64;
    (bytes < u64::MAX as f64).then_some(bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_part_may_be_an_implied_key_and_commas_double() {
        let mut k = KeyVals::parse("pc,accel=tcg,file=a,,b.img,smm", Some("type"));
        assert_eq!(k.take("type").as_deref(), Some("pc"));
        assert_eq!(k.take("file").as_deref(), Some("a,b.img"));
        assert_eq!(k.take_bool("-M", "smm"), Ok(Some(true)));
        assert_eq!(k.rest(), [("accel".to_string(), "tcg".to_string())]);
    }

    #[test]
    fn sizes_take_suffixes_and_fractions() {
        assert_eq!(size("512", 1 << 20), Some(512 << 20));
        assert_eq!(size("1.5G", 1), Some(3 << 29));
        assert_eq!(size("64k", 1), Some(65536));
        assert_eq!(size("x", 1), None);
        assert_eq!(size("99999999T", 1), None);
    }
}
