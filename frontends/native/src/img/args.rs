//! Options in the manner of getopt_long: short ones in clusters, long ones with `=`.

use super::Fail;

/// What was given, in order.
#[derive(Default)]
pub(crate) struct Args {
    pub(crate) options: Vec<(String, String)>,
    pub(crate) rest: Vec<String>,
}

impl Args {
    /// Takes arguments apart. `short` lists letters, with `:` behind those that take a value;
    /// `long` lists words, with `=` behind those that do.
    pub(crate) fn parse(args: &[String], short: &str, long: &[&str]) -> Result<Self, Fail> {
        let mut out = Self::default();
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            if arg == "--" {
                out.rest.extend(args.cloned());
                break;
            }
            if let Some(word) = arg.strip_prefix("--") {
                let (name, value) = match word.split_once('=') {
                    Some((name, value)) => (name, Some(value.to_owned())),
                    None => (word, None),
                };
                let exact = long.iter().find(|l| l.trim_end_matches('=') == name);
                let mut close = long.iter().filter(|l| l.starts_with(name));
                let found = match (exact, close.next(), close.next()) {
                    (Some(found), ..) | (None, Some(found), None) => found,
                    _ => return Err(Fail::usage(format!("unrecognized option '{arg}'"))),
                };
                let value = match (found.ends_with('='), value) {
                    (true, Some(value)) => value,
                    (true, None) => args.next().cloned().ok_or_else(|| {
                        Fail::usage(format!("option '{arg}' requires an argument"))
                    })?,
                    (false, _) => String::new(),
                };
                out.options.push((found.trim_end_matches('=').to_owned(), value));
            } else if let Some(letters) = arg.strip_prefix('-').filter(|l| !l.is_empty()) {
                let mut letters = letters.chars();
                while let Some(letter) = letters.next() {
                    let at = short.find(letter).filter(|_| letter != ':');
                    let Some(at) = at else {
                        return Err(Fail::usage(format!("invalid option -- '{letter}'")));
                    };
                    let mut value = String::new();
                    if short[at + 1..].starts_with(':') {
                        value = letters.as_str().to_owned();
                        letters = "".chars();
                        if value.is_empty() {
                            value = args.next().cloned().ok_or_else(|| {
                                Fail::usage(format!("option requires an argument -- '{letter}'"))
                            })?;
                        }
                    }
                    out.options.push((letter.to_string(), value));
                }
            } else {
                out.rest.push(arg.clone());
            }
        }
        Ok(out)
    }

    /// The last value of an option.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.options.iter().rev().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Every value of an option.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.options.iter().filter(move |(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

/// `name=value,name=value`, with `,,` for a comma.
pub(crate) fn key_values(text: &str) -> Vec<(String, String)> {
    let mut parts = vec![String::new()];
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c != ',' {
            parts.last_mut().expect("never empty").push(c);
        } else if chars.peek() == Some(&',') {
            chars.next();
            parts.last_mut().expect("never empty").push(',');
        } else {
            parts.push(String::new());
        }
    }
    parts
        .into_iter()
        .filter(|part| !part.is_empty())
        .map(|part| match part.split_once('=') {
            Some((name, value)) => (name.to_owned(), value.to_owned()),
            None => match part.strip_prefix("no") {
                Some(name) if part.len() > 2 && !name.starts_with(['c', 'd']) => {
                    (name.to_owned(), "off".to_owned())
                }
                _ => (part, "on".to_owned()),
            },
        })
        .collect()
}
