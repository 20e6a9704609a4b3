//! `-numa`.

use super::{KeyVals, OptionError, Options};

/// What one `-numa` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NumaOption {
    /// A node: its number, CPUs, and memory in bytes or by the id of an object.
    Node {
        /// Number; `None`: the next.
        id: Option<u64>,
        /// CPUs that it has.
        cpus: Vec<(u64, u64)>,
        /// Bytes.
        memory: Option<u64>,
        /// Id of the object that is its memory.
        memdev: Option<String>,
    },
    /// Puts the CPUs of a socket, core or thread into a node.
    Cpu {
        /// The node.
        node: u64,
        /// Socket, core and thread, where they are given.
        place: [Option<u64>; 3],
    },
    /// How far it is from one node to another.
    Distance {
        /// From.
        from: u64,
        /// To.
        to: u64,
        /// 10 is local; 255 is out of reach.
        value: u8,
    },
}

const OPTION: &str = "-numa";

fn wants<T>(value: Option<T>, key: &str) -> Result<T, OptionError> {
    value.ok_or_else(|| OptionError::refused(OPTION, format!("'{key}' is missing")))
}

fn cpu_range(text: &str) -> Result<(u64, u64), OptionError> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (first.parse(), last.parse()) {
        (Ok(first), Ok(last)) if first <= last => Ok((first, last)),
        _ => Err(OptionError::value(OPTION, "cpus", text, "a number or a range such as 0-3")),
    }
}

/// `-numa node|cpu|dist,...`
pub(super) fn numa(o: &mut Options, v: &str) -> Result<(), OptionError> {
    let mut k = KeyVals::parse(v, Some("type"));
    let kind = k.take("type").unwrap_or_default();
    let made = match kind.as_str() {
        "node" => {
            let cpus = k.take_all("cpus");
            let cpus = cpus.iter().map(|text| cpu_range(text)).collect::<Result<_, _>>()?;
            let id = k.take_number(OPTION, "nodeid")?;
            let memory = k.take_size(OPTION, "mem", 1 << 20)?;
            let memdev = k.take("memdev");
            if memory.is_some() && memdev.is_some() {
                return Err(OptionError::refused(OPTION, "'mem' and 'memdev' exclude one another"));
            }
            k.finish(OPTION, &["nodeid", "cpus", "mem", "memdev"])?;
            NumaOption::Node { id, cpus, memory, memdev }
        }
        "cpu" => {
            let node = wants(k.take_number(OPTION, "node-id")?, "node-id")?;
            let mut place = [None; 3];
            for (at, name) in place.iter_mut().zip(["socket-id", "core-id", "thread-id"]) {
                *at = k.take_number(OPTION, name)?;
            }
            k.finish(OPTION, &["node-id", "socket-id", "core-id", "thread-id"])?;
            NumaOption::Cpu { node, place }
        }
        "dist" => {
            let from = wants(k.take_number(OPTION, "src")?, "src")?;
            let to = wants(k.take_number(OPTION, "dst")?, "dst")?;
            let value = wants(k.take_number(OPTION, "val")?, "val")?;
            k.finish(OPTION, &["src", "dst", "val"])?;
            let fits = u8::try_from(value).ok().filter(|v| *v >= 10);
            let value = fits.ok_or_else(|| {
                OptionError::value(OPTION, "val", &value.to_string(), "10 to 255")
            })?;
            NumaOption::Distance { from, to, value }
        }
        other => {
            return Err(OptionError::value(OPTION, "type", other, "'node', 'cpu' or 'dist'"));
        }
    };
    o.numa.push(made);
    Ok(())
}
