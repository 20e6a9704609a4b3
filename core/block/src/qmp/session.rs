//! One client's conversation: bytes in, lines out.

use super::control::version;
use super::{Monitor, QmpError};
use crate::Event;
use serde_json::{Map, Value, json};

/// A conversation. The front end feeds it what comes and sends what it answers.
pub struct Session {
    monitor: Option<Monitor>,
    ready: bool,
    oob: bool,
    pretty: bool,
    pending: Vec<u8>,
    depth: usize,
    quote: Option<u8>,
    escaped: bool,
    /// What comes is skipped, up to a sign or space.
    lost: bool,
}

/// Longest command.
const MAX_COMMAND: usize = 64 << 20;
/// Deepest nesting.
const MAX_DEPTH: usize = 1024;

impl Session {
    /// A conversation that has not begun.
    pub fn new(monitor: &Monitor) -> Self {
        Self { monitor: Some(monitor.clone()), ..Self::unattached(false) }
    }

    /// A conversation whose commands somebody else runs ([`Session::begin`]).
    pub fn unattached(pretty: bool) -> Self {
        Self {
            monitor: None,
            ready: false,
            oob: false,
            pretty,
            pending: Vec::new(),
            depth: 0,
            quote: None,
            escaped: false,
            lost: false,
        }
    }

    /// What comes first.
    pub fn greeting(&self) -> String {
        self.line(&json!({"QMP": {"version": version(), "capabilities": ["oob"]}}))
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
            self.line(&Value::Object(out))
        })
    }

    /// Takes bytes; gives whole commands as text, or what was wrong.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<Result<String, String>> {
        let mut out = Vec::new();
        for byte in bytes {
            if self.lost {
                // After a word that is none, the next sign or space is a new start.
                if !(byte.is_ascii_control() || b" [{]}:,".contains(byte)) {
                    continue;
                }
                self.lost = false;
            }
            // A control character or 0xff puts the parser back to its start.
            let space = b"\t\n\r".contains(byte) && self.quote.is_none();
            if self.quote.is_none() && b"%&$#@!?*~`^|<>=;()/\\".contains(byte) {
                out.push(Err("JSON parse error, stray character".into()));
                self.reset();
                self.lost = true;
                continue;
            }
            if *byte == 0xff || (*byte < 0x20 && !space) {
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
        match self.begin(command) {
            Step::Answer(line) => line,
            Step::Run(call) => {
                let result = match self.monitor.clone() {
                    Some(monitor) => monitor.execute(&call.name, call.arguments.clone()).await,
                    None => Err(QmpError::not_found(&call.name)),
                };
                self.finish(call, result)
            }
        }
    }

    /// Reads one command: what to run, or the answer where there is nothing to run.
    pub fn begin(&mut self, command: Result<String, String>) -> Step {
        let parsed = command.and_then(|text| {
            serde_json::from_str::<Value>(&text)
                .map_err(|_| "JSON parse error, invalid syntax".into())
        });
        let (id, result) = match parsed {
            Err(text) => (None, Err(QmpError::generic(text))),
            Ok(Value::Object(mut command)) => {
                let id = command.remove("id");
                (id, self.call(command))
            }
            Ok(_) => (None, Err(QmpError::generic("QMP input must be a JSON object"))),
        };
        match result {
            Ok(call) => Step::Run(Call { id, ..call }),
            Err(error) => Step::Answer(self.reply(id, Err(error))),
        }
    }

    /// The answer to a command that was run.
    pub fn finish(&mut self, call: Call, result: Result<Value, QmpError>) -> String {
        if result.is_ok() && call.name == "qmp_capabilities" {
            self.ready = true;
            let enabled = call.arguments.get("enable").and_then(Value::as_array);
            self.oob = enabled.is_some_and(|names| names.iter().any(|name| name == "oob"));
        }
        self.reply(call.id, result)
    }

    fn reply(&self, id: Option<Value>, result: Result<Value, QmpError>) -> String {
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
        self.line(&Value::Object(out))
    }

    fn call(&self, mut command: Map<String, Value>) -> Result<Call, QmpError> {
        let (name, oob) = match (command.remove("execute"), command.remove("exec-oob")) {
            (Some(Value::String(name)), None) => (name, false),
            (None, Some(Value::String(name))) => (name, true),
            (None, None) => return Err(QmpError::generic("QMP input lacks member 'execute'")),
            _ => return Err(QmpError::generic("QMP input member 'execute' must be a string")),
        };
        if oob && !self.oob {
            return Err(QmpError::generic("QMP input member 'exec-oob' is unexpected"));
        }
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
            _ => Ok(Call { id: None, name, arguments, oob }),
        }
    }

    fn line(&self, value: &Value) -> String {
        if !self.pretty {
            return line(value);
        }
        let mut out = String::new();
        pretty(value, 0, &mut out);
        ascii(&out)
    }
}

/// What a client's text came to.
pub enum Step {
    /// An answer to send.
    Answer(String),
    /// A command to run; [`Session::finish`] makes the answer.
    Run(Call),
}

/// A command that a client wants run.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    id: Option<Value>,
    /// Its name.
    pub name: String,
    /// An object, or null.
    pub arguments: Value,
    /// It need not wait for the commands before it.
    pub oob: bool,
}

/// As `-qmp-pretty` prints.
fn pretty(value: &Value, depth: usize, out: &mut String) {
    let indent = |out: &mut String, depth: usize| {
        out.push('\n');
        out.push_str(&" ".repeat(4 * depth));
    };
    match value {
        Value::Object(map) if !map.is_empty() => {
            out.push('{');
            for (i, (key, value)) in map.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                indent(out, depth + 1);
                out.push_str(&Value::from(key.as_str()).to_string());
                out.push_str(": ");
                pretty(value, depth + 1, out);
            }
            indent(out, depth);
            out.push('}');
        }
        Value::Array(list) if !list.is_empty() => {
            out.push('[');
            for (i, value) in list.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                indent(out, depth + 1);
                pretty(value, depth + 1, out);
            }
            indent(out, depth);
            out.push(']');
        }
        value => out.push_str(&value.to_string()),
    }
}

/// As it prints otherwise: a space behind every comma and colon.
fn compact(value: &Value, out: &mut String) {
    match value {
        Value::Object(map) => {
            out.push('{');
            for (i, (key, value)) in map.iter().enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                out.push_str(&Value::from(key.as_str()).to_string());
                out.push_str(": ");
                compact(value, out);
            }
            out.push('}');
        }
        Value::Array(list) => {
            out.push('[');
            for (i, value) in list.iter().enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                compact(value, out);
            }
            out.push(']');
        }
        value => out.push_str(&value.to_string()),
    }
}

/// ASCII, one line.
fn line(value: &Value) -> String {
    let mut out = String::new();
    compact(value, &mut out);
    ascii(&out)
}

fn ascii(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
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
