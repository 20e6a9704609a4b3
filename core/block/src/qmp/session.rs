//! One client's conversation: bytes in, lines out.

use super::control::version;
use super::{Monitor, QmpError};
use crate::Event;
use serde_json::{Map, Value, json};

/// A conversation. The front end feeds it what comes and sends what it answers.
pub struct Session {
    monitor: Monitor,
    ready: bool,
    pending: Vec<u8>,
    depth: usize,
    quote: Option<u8>,
    escaped: bool,
}

/// Longest command.
const MAX_COMMAND: usize = 64 << 20;
/// Deepest nesting.
const MAX_DEPTH: usize = 1024;

impl Session {
    /// A conversation that has not begun.
    pub fn new(monitor: &Monitor) -> Self {
        Self {
            monitor: monitor.clone(),
            ready: false,
            pending: Vec::new(),
            depth: 0,
            quote: None,
            escaped: false,
        }
    }

    /// What comes first.
    pub fn greeting(&self) -> String {
        line(&json!({"QMP": {"version": version(), "capabilities": ["oob"]}}))
    }

    /// An event as a client hears it; nothing before the conversation has begun.
    pub fn event(&self, event: &Event) -> Option<String> {
        self.ready.then(|| {
            let (seconds, nanoseconds) = event.time;
            let mut out = Map::new();
            out.insert(
                "timestamp".into(),
                json!({"seconds": seconds, "microseconds": nanoseconds / 1000}),
            );
            out.insert("event".into(), event.name.into());
            if event.data.as_object().is_some_and(|data| !data.is_empty()) {
                out.insert("data".into(), event.data.clone());
            }
            line(&Value::Object(out))
        })
    }

    /// Takes bytes; gives whole commands as text, or what was wrong.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<Result<String, String>> {
        let mut out = Vec::new();
        for byte in bytes {
            // A control character or 0xff puts the parser back to its start.
            if *byte == 0xff || (*byte < 0x20 && !b"\t\n\r".contains(byte)) {
                if !self.pending.is_empty() || *byte != 0xff {
                    out.push(Err("JSON parse error, stray control character".into()));
                }
                self.reset();
                continue;
            }
            if self.pending.is_empty() && byte.is_ascii_whitespace() {
                continue;
            }
            self.pending.push(*byte);
            match (self.quote, *byte) {
                (Some(_), _) if self.escaped => self.escaped = false,
                (Some(_), b'\\') => self.escaped = true,
                (Some(quote), byte) if byte == quote => self.quote = None,
                (Some(_), _) => {}
                (None, b'"' | b'\'') => self.quote = Some(*byte),
                (None, b'{' | b'[') => self.depth += 1,
                (None, b'}' | b']') => self.depth = self.depth.saturating_sub(1),
                _ => {}
            }
            let whole = self.depth == 0 && self.quote.is_none();
            let word = self.pending.len() > 1 && byte.is_ascii_whitespace();
            if self.pending.len() > MAX_COMMAND || self.depth > MAX_DEPTH {
                out.push(Err("JSON token size limit exceeded".into()));
                self.reset();
            } else if whole && (word || b"}]".contains(byte)) {
                out.push(Ok(double_quoted(&self.pending)));
                self.reset();
            }
        }
        out
    }

    fn reset(&mut self) {
        self.pending.clear();
        (self.depth, self.quote, self.escaped) = (0, None, false);
    }

    /// Answers one command.
    pub async fn answer(&mut self, command: Result<String, String>) -> String {
        let parsed = command.and_then(|text| {
            serde_json::from_str::<Value>(&text)
                .map_err(|_| "JSON parse error, invalid syntax".into())
        });
        let (id, result) = match parsed {
            Err(text) => (None, Err(QmpError::generic(text))),
            Ok(Value::Object(mut command)) => {
                let id = command.remove("id");
                (id, self.run(command).await)
            }
            Ok(_) => (None, Err(QmpError::generic("QMP input must be a JSON object"))),
        };
        let mut out = Map::new();
        match result {
            Ok(value) => out.insert("return".into(), value),
            Err(QmpError { class, desc }) => {
                out.insert("error".into(), json!({"class": class, "desc": desc}))
            }
        };
        if let Some(id) = id {
            out.insert("id".into(), id);
        }
        line(&Value::Object(out))
    }

    async fn run(&mut self, mut command: Map<String, Value>) -> Result<Value, QmpError> {
        let name = match (command.remove("execute"), command.remove("exec-oob")) {
            (Some(Value::String(name)), None) | (None, Some(Value::String(name))) => name,
            (None, None) => return Err(QmpError::generic("QMP input lacks member 'execute'")),
            _ => return Err(QmpError::generic("QMP input member 'execute' must be a string")),
        };
        let arguments = match command.remove("arguments") {
            Some(Value::Object(arguments)) => Value::Object(arguments),
            Some(_) => {
                return Err(QmpError::generic("QMP input member 'arguments' must be an object"));
            }
            None => Value::Null,
        };
        if let Some((name, _)) = command.into_iter().find(|(name, _)| name != "control") {
            return Err(QmpError::generic(format!("QMP input member '{name}' is unexpected")));
        }
        match (self.ready, name == "qmp_capabilities") {
            (false, false) => Err(QmpError {
                class: "CommandNotFound",
                desc: "Expecting capabilities negotiation with 'qmp_capabilities'".into(),
            }),
            (true, true) => Err(QmpError {
                class: "CommandNotFound",
                desc: "Capabilities negotiation is already complete, command ignored".into(),
            }),
            (_, begins) => {
                let result = self.monitor.execute(&name, arguments).await?;
                self.ready |= begins;
                Ok(result)
            }
        }
    }
}

/// ASCII, one line.
fn line(value: &Value) -> String {
    let mut out = String::new();
    for c in value.to_string().chars() {
        if c.is_ascii() {
            out.push(c);
        } else {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    out.push_str("\r\n");
    out
}

/// Strings may come in single quotes, which JSON does not know.
fn double_quoted(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    if !text.contains('\'') {
        return text.into_owned();
    }
    let mut out = String::with_capacity(text.len());
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(_), '\\') => {
                let next = chars.next().unwrap_or('\\');
                if next != '\'' {
                    out.push('\\');
                }
                out.push(next);
            }
            (Some('\''), '\'') | (None, '\'') => {
                quote = if quote.is_none() { Some('\'') } else { None };
                out.push('"');
            }
            (Some('\''), '"') => out.push_str("\\\""),
            (Some('"'), '"') | (None, '"') => {
                quote = if quote.is_none() { Some('"') } else { None };
                out.push('"');
            }
            (_, c) => out.push(c),
        }
    }
    out
}
