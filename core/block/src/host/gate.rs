//! Who may be opened because an image says so.

use crate::{BlockError, Result};
use std::fmt;
use std::sync::Arc;

/// A name found inside an image, about to be opened.
#[derive(Clone, Copy, Debug)]
pub struct ImplicitOpen<'a> {
    /// The image that holds the name.
    pub image: &'a str,
    /// The name as stored.
    pub name: &'a str,
    /// The format recorded beside it.
    pub format: Option<&'a str>,
}

/// Policy for names stored inside images. The default lets none through.
#[derive(Clone, Default)]
pub enum Gate {
    /// Nothing is opened.
    #[default]
    Deny,
    /// Plain file names are; anything that looks like a protocol or an option string is not.
    PlainFiles,
    /// The front end decides name by name.
    Ask(Arc<dyn Fn(&ImplicitOpen<'_>) -> bool + Send + Sync>),
}

impl Gate {
    /// Lets `open` pass or says why not.
    pub fn check(&self, open: &ImplicitOpen<'_>) -> Result<()> {
        let pass = match self {
            Self::Deny => false,
            Self::PlainFiles => is_plain_name(open.name),
            Self::Ask(ask) => ask(open),
        };
        if pass { Ok(()) } else { Err(BlockError::Forbidden(open.name.to_owned())) }
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Deny => "Deny",
            Self::PlainFiles => "PlainFiles",
            Self::Ask(_) => "Ask",
        })
    }
}

/// A path, as against `nbd:...`, `json:{...}` or a device.
fn is_plain_name(name: &str) -> bool {
    let protocol = match (name.find(':'), name.find('/')) {
        (Some(colon), Some(slash)) => colon < slash,
        (Some(_), None) => true,
        _ => false,
    };
    !name.is_empty() && !protocol && !name.starts_with("/dev/") && !name.starts_with("/proc/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passes(gate: &Gate, name: &str) -> bool {
        gate.check(&ImplicitOpen { image: "a.qcow2", name, format: Some("raw") }).is_ok()
    }

    #[test]
    fn plain_names_pass_and_everything_else_does_not() {
        for name in ["base.raw", "../x/base:1.raw", "/images/base.qcow2"] {
            assert!(passes(&Gate::PlainFiles, name), "{name}");
        }
        for name in
            ["", "nbd:localhost:10809", "json:{}", "http://h/x", "/dev/sda", "/proc/self/mem"]
        {
            assert!(!passes(&Gate::PlainFiles, name), "{name}");
        }
    }

    #[test]
    fn nothing_passes_by_default_and_the_front_end_may_choose() {
        assert!(!passes(&Gate::default(), "base.raw"));
        let only_base = Gate::Ask(Arc::new(|open| open.name == "base.raw"));
        assert!(passes(&only_base, "base.raw"));
        assert!(!passes(&only_base, "other.raw"));
    }
}
