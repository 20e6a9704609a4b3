//! Input, pictures and memory as files, ring buffers.

use super::args::*;
use super::{Desk, Reply, lock};
use crate::{keyboard, screenshot};
use orrery_block::IoBuf;
use orrery_block::qmp::{Answer, QmpError};
use orrery_system::display::Surface;
use orrery_system::input::{InputEvent, Key};
use serde_json::Value;

/// How long keys are held if nobody says, in milliseconds.
const HOLD: u64 = 100;
/// Most memory written to a file at once.
const MAX_DUMP: u64 = 1 << 31;

fn invalid(name: &str, value: &str) -> QmpError {
    QmpError::generic(format!("Parameter '{name}' does not accept value '{value}'"))
}

/// A key as QMP names it: `{"type": "qcode", "data": "ret"}` or a number.
fn key_of(value: &Value) -> Answer<Key> {
    let data = value.get("data").unwrap_or(value);
    match (value.get("type").and_then(Value::as_str), data) {
        (Some("number"), Value::Number(n)) => {
            let code = n.as_u64().unwrap_or(0);
            // Bit 7 stands for the prefix of extended keys.
            let code = if code & 0x80 != 0 { 0xe000 | code & 0x7f } else { code & 0xffff };
            Ok(Key(code as u16))
        }
        (_, Value::String(name)) => keyboard::key(name).ok_or_else(|| invalid("data", name)),
        _ => Err(QmpError::generic("Parameter 'data' is missing")),
    }
}

impl Desk<'_> {
    /// Writes a file, then gives an empty result.
    pub(super) fn write_file(&mut self, name: String, bytes: Vec<u8>) -> Reply {
        let fs = self.machine.blocks.context().fs();
        Reply::later(async move {
            let broken = |e| QmpError::generic(format!("Could not open '{name}': {e}"));
            let file = fs?.create(&name).await.map_err(broken)?;
            file.write_at(0, IoBuf::from(bytes)).await?;
            Ok(serde_json::json!({}))
        })
    }

    pub(super) fn screendump(&mut self, args: Screendump) -> Answer<Reply> {
        if args.head.is_some() && args.device.is_none() {
            return Err(QmpError::generic("'head' must be specified together with 'device'"));
        }
        let mut surface = Surface::default();
        if !self.machine.render(&mut surface, true) {
            return Err(QmpError::generic("There is no console to take a screendump from"));
        }
        let bytes = match args.format {
            Some(ImageFormat::Png) => screenshot::png(&surface),
            Some(ImageFormat::Ppm) | None => screenshot::ppm(&surface),
        };
        Ok(self.write_file(args.filename, bytes))
    }

    pub(super) fn memsave(&mut self, args: FileRange) -> Answer<Reply> {
        let cpu = args.cpu_index.unwrap_or(self.state.cpu as u64) as usize;
        if cpu >= self.machine.cpus.count() {
            return Err(QmpError::generic("Parameter 'cpu-index' expects a CPU number"));
        }
        let bytes = self.read_virtual(cpu, args.val, check(args.size)?).map_err(|at| {
            QmpError::generic(format!("Invalid addr 0x{at:016x}/size {} specified", args.size))
        })?;
        Ok(self.write_file(args.filename, bytes))
    }

    pub(super) fn pmemsave(&mut self, args: FileRange) -> Answer<Reply> {
        let len = check(args.size)?;
        let bytes = self.read_physical(args.val, len);
        Ok(self.write_file(args.filename, bytes))
    }

    /// Reads memory as the board has it; nothing but RAM and ROM is touched, the rest reads ones.
    pub(crate) fn read_physical(&mut self, at: u64, len: usize) -> Vec<u8> {
        let mut out = vec![0xff; len];
        self.machine.board.peek(at, &mut out);
        out
    }

    /// Reads memory as a CPU sees it; an error is the first address that it does not see.
    pub(crate) fn read_virtual(&mut self, cpu: usize, at: u64, len: usize) -> Result<Vec<u8>, u64> {
        self.machine.read_virtual(cpu, at, len)
    }

    pub(super) fn send_key(&mut self, args: SendKey) -> Answer<Nothing> {
        let keys = args.keys.iter().map(key_of).collect::<Answer<Vec<Key>>>()?;
        self.press(&keys, args.hold_time.unwrap_or(HOLD));
        Ok(Nothing {})
    }

    /// Presses keys together, after those that are on their way.
    pub(super) fn press(&mut self, keys: &[Key], hold_ms: u64) {
        let now = self.machine.board.now();
        let last = self.state.input.back().map_or(now, |(at, _)| (*at).max(now));
        let up = last.after(hold_ms.min(60_000) * 1_000_000);
        for &key in keys {
            self.state.input.push_back((last, InputEvent::Key { key, down: true }));
        }
        for &key in keys.iter().rev() {
            self.state.input.push_back((up, InputEvent::Key { key, down: false }));
        }
    }

    pub(super) fn input_send_event(&mut self, args: InputEvents) -> Answer<Nothing> {
        let mut out = Vec::new();
        let mut pointer = self.state.pointer;
        for event in &args.events {
            let data = event.get("data").unwrap_or(&Value::Null);
            let down = data.get("down").and_then(Value::as_bool).unwrap_or(false);
            let kind = event.get("type").and_then(Value::as_str).unwrap_or_default();
            let axis = data.get("axis").and_then(Value::as_str).unwrap_or_default();
            let value = data.get("value").and_then(Value::as_i64).unwrap_or(0);
            let value32 = value.clamp(i32::MIN.into(), i32::MAX.into()) as i32;
            let event = match kind {
                "key" => {
                    let key = data
                        .get("key")
                        .ok_or_else(|| QmpError::generic("Parameter 'key' is missing"))?;
                    InputEvent::Key { key: key_of(key)?, down }
                }
                "btn" => {
                    let name = data.get("button").and_then(Value::as_str).unwrap_or_default();
                    let index = match name {
                        "left" => 0,
                        "middle" => 1,
                        "right" => 2,
                        "wheel-up" | "wheel-down" => {
                            if down {
                                let dz = if name == "wheel-up" { 1 } else { -1 };
                                out.push(InputEvent::Wheel { dz });
                            }
                            continue;
                        }
                        "side" => 3,
                        "extra" => 4,
                        other => return Err(invalid("button", other)),
                    };
                    InputEvent::Button { index, down }
                }
                "rel" => match axis {
                    "x" => InputEvent::Motion { dx: value32, dy: 0 },
                    "y" => InputEvent::Motion { dx: 0, dy: value32 },
                    other => return Err(invalid("axis", other)),
                },
                "abs" => {
                    let place = value.clamp(0, 32767) as u16;
                    match axis {
                        "x" => pointer.0 = place,
                        "y" => pointer.1 = place,
                        other => return Err(invalid("axis", other)),
                    }
                    // Both axes of one place are one movement.
                    if let Some(InputEvent::Position { .. }) = out.last() {
                        out.pop();
                    }
                    InputEvent::Position { x: pointer.0, y: pointer.1 }
                }
                other => return Err(invalid("type", other)),
            };
            out.push(event);
        }
        self.state.pointer = pointer;
        out.into_iter().for_each(|event| self.machine.input(event));
        Ok(Nothing {})
    }

    pub(super) fn ringbuf_read(&mut self, args: RingbufRead) -> Answer<String> {
        let Some((ring, _)) = self.state.settings.rings.get(&args.device) else {
            return Err(QmpError::generic(format!("Device '{}' not found", args.device)));
        };
        let mut ring = lock(ring);
        let len = (args.size as usize).min(ring.len());
        let bytes: Vec<u8> = ring.drain(..len).collect();
        Ok(match args.format.as_deref() {
            Some("base64") => base64(&bytes),
            _ => String::from_utf8_lossy(&bytes).into_owned(),
        })
    }

    pub(super) fn ringbuf_write(&mut self, args: RingbufWrite) -> Answer<Nothing> {
        let Some((ring, size)) = self.state.settings.rings.get(&args.device) else {
            return Err(QmpError::generic(format!("Device '{}' not found", args.device)));
        };
        let bytes = match args.format.as_deref() {
            Some("base64") => from_base64(&args.data)
                .ok_or_else(|| QmpError::generic("Base64 data is not valid"))?,
            _ => args.data.into_bytes(),
        };
        let mut ring = lock(ring);
        ring.extend(bytes);
        while ring.len() > *size {
            ring.pop_front();
        }
        Ok(Nothing {})
    }
}

fn check(size: u64) -> Answer<usize> {
    if size > MAX_DUMP {
        return Err(QmpError::generic("Parameter 'size' expects at most 2 GiB"));
    }
    Ok(size as usize)
}

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// RFC 4648, section 4.
pub(crate) fn base64(bytes: &[u8]) -> String {
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let word =
            chunk.iter().fold(0_u32, |w, &b| w << 8 | u32::from(b)) << (8 * (3 - chunk.len()));
        for i in 0..4 {
            out.push(if i <= chunk.len() {
                DIGITS[(word >> (18 - 6 * i)) as usize & 63].into()
            } else {
                '='
            });
        }
    }
    out
}

/// The reverse; `None` for anything that is not base64.
pub(crate) fn from_base64(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let (mut word, mut bits) = (0_u32, 0);
    for c in text.bytes().filter(|c| !c.is_ascii_whitespace() && *c != b'=') {
        let digit = DIGITS.iter().position(|&d| d == c)? as u32;
        word = word << 6 | digit;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            out.push((word >> bits) as u8);
        }
    }
    Some(out)
}
