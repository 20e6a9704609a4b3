//! Scripts: a person in front of the machine, written down.
//!
//! One command a line, in virtual time, so that a script runs alike on every host:
//!
//! ```text
//! within 60                     # limit for each wait, in virtual seconds
//! wait-serial "login:"
//! serial "root\n"
//! wait-screen "A:\\>"           # text modes
//! type "dir\n"
//! key ctrl-alt-delete
//! move 10 -5
//! click left
//! wait 1.5                      # virtual seconds from now
//! until 12                      # virtual seconds since the machine started
//! screendump screen.png
//! savevm state.orry
//! print hash                    # screen, text, icount, hash, memory
//! quit 0
//! ```

use crate::machine::Machine;
use crate::{keyboard, screenshot};
use orrery_system::display::Surface;
use orrery_system::input::{InputEvent, Key};
use orrery_system::time::VmTime;
use std::collections::VecDeque;

/// Virtual time a key stays down, and between keys.
const KEY_NS: u64 = 20_000_000;
/// Longest output kept of a serial line to look for text in.
const KEEP: usize = 1 << 20;

/// Why a script was refused or failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScriptError {
    /// A line that is no command.
    #[error("script line {line}: {reason}")]
    Syntax {
        /// Line, from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// A wait was in vain.
    #[error("script line {line}: '{text}' did not appear within {seconds} virtual seconds; {seen}")]
    Timeout {
        /// Line, from 1.
        line: usize,
        /// What was waited for.
        text: String,
        /// How long.
        seconds: u64,
        /// What was there instead.
        seen: String,
    },
}

#[derive(Clone, Debug, PartialEq)]
enum Command {
    Within(u64),
    WaitSerial(usize, String),
    WaitScreen(String),
    Serial(usize, String),
    Type(String),
    Keys(Vec<Key>),
    Move(i32, i32),
    Click(u8),
    Wait(u64),
    Until(u64),
    Seek(u64),
    SeekIcount(u64),
    Screendump(String),
    Savevm(String),
    Print(String),
    Cont,
    Quit(i32),
}

/// What the front end does for a script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Write a file.
    Write(String, Vec<u8>),
    /// Print a line.
    Print(String),
    /// End with this exit status.
    Quit(i32),
}

/// A script in progress.
pub struct Script {
    commands: Vec<(usize, Command)>,
    at: usize,
    within: u64,
    /// When the current wait began.
    since: Option<VmTime>,
    /// Input waiting for its time.
    input: VecDeque<(VmTime, InputEvent)>,
    serial: Vec<Vec<u8>>,
    /// Where in each serial line the next wait looks.
    seen: Vec<usize>,
    surface: Surface,
    /// A journey in time was begun by the command that is worked on.
    sought: bool,
}

impl Script {
    /// Reads a script.
    pub fn parse(text: &str) -> Result<Self, ScriptError> {
        let mut commands = Vec::new();
        for (i, line) in text.lines().enumerate() {
            let words = words(line).map_err(|r| syntax(i, r))?;
            if let Some((name, args)) = words.split_first() {
                commands.push((i + 1, command(name, args).map_err(|r| syntax(i, r))?));
            }
        }
        Ok(Self {
            commands,
            at: 0,
            within: 120,
            since: None,
            input: VecDeque::new(),
            serial: Vec::new(),
            seen: Vec::new(),
            surface: Surface::default(),
            sought: false,
        })
    }

    /// Gives it what serial line `line` sent.
    pub fn feed(&mut self, line: usize, bytes: &[u8]) {
        while self.serial.len() <= line {
            self.serial.push(Vec::new());
            self.seen.push(0);
        }
        let kept = &mut self.serial[line];
        kept.extend_from_slice(bytes);
        if kept.len() > 2 * KEEP {
            let cut = kept.len() - KEEP;
            kept.drain(..cut);
            self.seen[line] = self.seen[line].saturating_sub(cut);
        }
    }

    /// Does what can be done now. Call after each slice.
    pub fn step(&mut self, machine: &mut Machine) -> Result<Vec<Action>, ScriptError> {
        let mut actions = Vec::new();
        let now = machine.board.now();
        loop {
            while self.input.front().is_some_and(|(t, _)| *t <= now) {
                let (_, event) = self.input.pop_front().expect("looked at");
                machine.input(event);
            }
            if !self.input.is_empty() {
                return Ok(actions);
            }
            let Some((line, command)) = self.commands.get(self.at).cloned() else {
                return Ok(actions);
            };
            let since = *self.since.get_or_insert(now);
            if !self.perform(&command, machine, since, &mut actions) {
                let seeks = matches!(command, Command::Seek(_) | Command::SeekIcount(_));
                let wait = seeks || matches!(command, Command::Wait(_) | Command::Until(_));
                if !wait && now.since(since) > self.within * 1_000_000_000 {
                    return Err(self.timeout(line, &command, machine));
                }
                return Ok(actions);
            }
            self.since = None;
            self.at += 1;
            if let Some(Action::Quit(_)) = actions.last() {
                return Ok(actions);
            }
        }
    }

    /// When it next does something by itself. A front end that calls [`Script::step`] at this
    /// time gives the guest its input at the same instruction on every host.
    pub fn next(&self) -> Option<VmTime> {
        if let Some((at, _)) = self.input.front() {
            return Some(*at);
        }
        match self.commands.get(self.at)? {
            (_, Command::Wait(ns)) => Some(self.since?.after(*ns)),
            (_, Command::Until(ns)) => Some(VmTime(*ns)),
            _ => None,
        }
    }

    /// Performs a command; false: not yet.
    fn perform(
        &mut self,
        c: &Command,
        m: &mut Machine,
        since: VmTime,
        out: &mut Vec<Action>,
    ) -> bool {
        match c {
            Command::Within(s) => self.within = *s,
            Command::WaitSerial(line, text) => return self.find_serial(*line, text),
            Command::WaitScreen(text) => {
                return m.screen_text().is_some_and(|rows| rows.iter().any(|r| r.contains(text)));
            }
            Command::Serial(line, text) => {
                if let Some(port) = m.handles.serials.get(*line).cloned() {
                    m.send(&port, text.as_bytes());
                }
            }
            Command::Type(text) => self.type_text(text, m.board.now()),
            Command::Keys(keys) => self.chord(keys, m.board.now()),
            Command::Move(dx, dy) => m.input(InputEvent::Motion { dx: *dx, dy: *dy }),
            Command::Click(index) => {
                let now = m.board.now();
                for (at, down) in [(now, true), (now.after(KEY_NS), false)] {
                    self.input.push_back((at, InputEvent::Button { index: *index, down }));
                }
            }
            Command::Wait(ns) => return m.board.now().since(since) >= *ns,
            Command::Until(ns) => return m.board.now().0 >= *ns,
            Command::Seek(_) | Command::SeekIcount(_) => {
                // The front end calls again when it is there.
                let result = match (std::mem::replace(&mut self.sought, true), c) {
                    (true, _) => {
                        self.sought = false;
                        return true;
                    }
                    (false, Command::Seek(ns)) => m.seek_time(VmTime(*ns)),
                    (false, Command::SeekIcount(n)) => m.seek(*n),
                    _ => Ok(()),
                };
                if let Err(error) = result {
                    out.push(Action::Print(format!("seek: {error}")));
                }
                return false;
            }
            Command::Cont => m.resume(),
            Command::Screendump(name) => {
                m.render(&mut self.surface, true);
                let image = if name.ends_with(".ppm") {
                    screenshot::ppm(&self.surface)
                } else {
                    screenshot::png(&self.surface)
                };
                out.push(Action::Write(name.clone(), image));
            }
            Command::Savevm(name) => out.push(Action::Write(name.clone(), m.save())),
            Command::Print(what) => out.push(Action::Print(self.describe(what, m))),
            Command::Quit(code) => out.push(Action::Quit(*code)),
        }
        true
    }

    fn describe(&mut self, what: &str, m: &mut Machine) -> String {
        match what {
            "screen" => {
                m.render(&mut self.surface, true);
                let bytes = screenshot::ppm(&self.surface);
                format!("screen {:016x}", xxhash_rust::xxh3::xxh3_64(&bytes))
            }
            "text" => m.screen_text().unwrap_or_default().join("\n"),
            "icount" => format!("icount {}", m.board.icount()),
            "memory" => format!("memory {:016x}", m.memory_hash()),
            _ => format!("hash {:016x}", m.hash()),
        }
    }

    fn find_serial(&mut self, line: usize, text: &str) -> bool {
        let (Some(bytes), Some(from)) = (self.serial.get(line), self.seen.get(line).copied())
        else {
            return false;
        };
        let found = bytes[from..].windows(text.len().max(1)).position(|w| w == text.as_bytes());
        if let Some(at) = found {
            self.seen[line] = from + at + text.len();
        }
        found.is_some()
    }

    fn type_text(&mut self, text: &str, now: VmTime) {
        let mut at = now;
        for c in text.chars() {
            let Some((key, shift)) = keyboard::type_char(c) else { continue };
            let keys = if shift { vec![Key(0x2a), key] } else { vec![key] };
            self.chord(&keys, at);
            at = at.after(2 * KEY_NS);
        }
    }

    /// All down in order, then up in the opposite order.
    fn chord(&mut self, keys: &[Key], at: VmTime) {
        for &key in keys {
            self.input.push_back((at, InputEvent::Key { key, down: true }));
        }
        for &key in keys.iter().rev() {
            self.input.push_back((at.after(KEY_NS), InputEvent::Key { key, down: false }));
        }
    }

    fn timeout(&self, line: usize, command: &Command, m: &mut Machine) -> ScriptError {
        let (text, seen) = match command {
            Command::WaitSerial(n, text) => {
                let tail = self.serial.get(*n).map(|b| b[b.len().saturating_sub(400)..].to_vec());
                let tail = String::from_utf8_lossy(&tail.unwrap_or_default()).into_owned();
                (text.clone(), format!("the line ended with:\n{tail}"))
            }
            Command::WaitScreen(text) => {
                let rows = m.screen_text().map(|r| r.join("\n").trim_end().to_string());
                (text.clone(), format!("the screen shows:\n{}", rows.unwrap_or("graphics".into())))
            }
            other => (format!("{other:?}"), String::new()),
        };
        ScriptError::Timeout { line, text, seconds: self.within, seen }
    }
}

fn syntax(index: usize, reason: String) -> ScriptError {
    ScriptError::Syntax { line: index + 1, reason }
}

/// Splits a line into words; a word in double quotes may hold spaces and `\n \t \\ \" \e`.
fn words(line: &str) -> Result<Vec<String>, String> {
    let mut out = Vec::new();
    let mut chars = line.chars().peekable();
    while let Some(&c) = chars.peek() {
        if c.is_whitespace() {
            chars.next();
        } else if c == '#' {
            break;
        } else if c == '"' {
            chars.next();
            let mut word = String::new();
            loop {
                match chars.next().ok_or("a quote is not closed")? {
                    '"' => break,
                    '\\' => match chars.next().ok_or("a quote is not closed")? {
                        'n' => word.push('\n'),
                        'r' => word.push('\r'),
                        't' => word.push('\t'),
                        'e' => word.push('\u{1b}'),
                        c => word.push(c),
                    },
                    c => word.push(c),
                }
            }
            out.push(word);
        } else {
            let mut word = String::new();
            while let Some(c) = chars.next_if(|c| !c.is_whitespace()) {
                word.push(c);
            }
            out.push(word);
        }
    }
    Ok(out)
}

fn command(name: &str, args: &[String]) -> Result<Command, String> {
    const NAMES: &[&str] = &[
        "within",
        "wait-serial",
        "wait-screen",
        "serial",
        "type",
        "key",
        "move",
        "click",
        "wait",
        "until",
        "seek",
        "seek-icount",
        "cont",
        "screendump",
        "savevm",
        "print",
        "quit",
    ];
    let arg = |i: usize| args.get(i).cloned().ok_or(format!("'{name}' needs more arguments"));
    let number = |s: String| s.parse::<i64>().map_err(|_| format!("'{s}' is not a number"));
    // A line of its own in front of the text, or the first.
    let lined = || -> Result<(usize, String), String> {
        match args {
            [n, text] => Ok((number(n.clone())?.clamp(0, 63) as usize, text.clone())),
            _ => Ok((0, arg(0)?)),
        }
    };
    Ok(match name {
        "within" => Command::Within(number(arg(0)?)?.max(0) as u64),
        "wait-serial" => lined().map(|(n, t)| Command::WaitSerial(n, t))?,
        "serial" => lined().map(|(n, t)| Command::Serial(n, t))?,
        "wait-screen" => Command::WaitScreen(arg(0)?),
        "type" => Command::Type(arg(0)?),
        "key" => {
            let keys = arg(0)?;
            let find = |k: &str| keyboard::key(k).ok_or(format!("there is no key '{k}'"));
            Command::Keys(keys.split('-').map(find).collect::<Result<_, _>>()?)
        }
        "move" => Command::Move(number(arg(0)?)? as i32, number(arg(1)?)? as i32),
        "click" => Command::Click(match arg(0)?.as_str() {
            "left" => 0,
            "middle" => 1,
            "right" => 2,
            other => return Err(format!("there is no button '{other}'")),
        }),
        "seek-icount" => Command::SeekIcount(number(arg(0)?)?.max(0) as u64),
        "cont" => Command::Cont,
        "wait" | "until" | "seek" => {
            let s: f64 = arg(0)?.parse().map_err(|_| format!("'{name}' takes seconds"))?;
            let ns = (s.clamp(0.0, 1e9) * 1e9) as u64;
            match name {
                "wait" => Command::Wait(ns),
                "until" => Command::Until(ns),
                _ => Command::Seek(ns),
            }
        }
        "screendump" => Command::Screendump(arg(0)?),
        "savevm" => Command::Savevm(arg(0)?),
        "print" => Command::Print(arg(0)?),
        "quit" => Command::Quit(match args.first() {
            Some(n) => number(n.clone())? as i32,
            None => 0,
        }),
        _ => {
            return Err(format!(
                "no command '{name}'{}",
                crate::options::hint(name, NAMES.iter().copied())
            ));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_words_hold_spaces_and_escapes() {
        assert_eq!(words("type \"dir a:\\n\" # x").unwrap(), ["type", "dir a:\n"]);
        assert!(words("type \"oops").is_err());
    }

    #[test]
    fn a_misspelt_command_names_its_line_and_the_nearest() {
        let err = Script::parse("wait 1\nscreendmup x.png").err().unwrap().to_string();
        assert_eq!(err, "script line 2: no command 'screendmup'; did you mean 'screendump'?");
    }

    #[test]
    fn text_is_found_once_and_later_text_after_it() {
        let mut s = Script::parse("").unwrap();
        s.feed(0, b"login: ok login");
        assert!(s.find_serial(0, "login"));
        assert!(s.find_serial(0, "login"));
        assert!(!s.find_serial(0, "login"));
    }
}
