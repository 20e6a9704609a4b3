//! `orrery io`: single requests to an image, with the commands and words of qemu-io.

use crate::img::{
    Args, Fail, Image, Session, Spec, key_values, say, significant, system_words, warn,
};
use orrery_block::formats::Change;
use orrery_block::formats::create::parse_size;
use orrery_block::qcow2::Preallocation;
use orrery_block::{BlockError, Breakpoints, IoBuf, Op, completion};
use std::future::Future;
use std::io::{BufRead, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A number of bytes as this tool prints it: `64 KiB`, `1.500 MiB`.
fn bytes(value: f64) -> String {
    const UNITS: [(f64, &str); 6] =
        [(60.0, "EiB"), (50.0, "PiB"), (40.0, "TiB"), (30.0, "GiB"), (20.0, "MiB"), (10.0, "KiB")];
    let (scaled, suffix) = match UNITS.iter().find(|(bits, _)| value >= bits.exp2()) {
        Some((bits, name)) => (value / bits.exp2(), *name),
        None => (value, "bytes"),
    };
    let text = format!("{scaled:.3}");
    let text = text.strip_suffix(".000").unwrap_or(&text);
    format!("{text} {suffix}")
}

struct Shell {
    session: Session,
    image: Option<Image>,
    misalign: bool,
    failed: bool,
    read_only: bool,
    /// Writes are kept in memory.
    snapshot: bool,
    copy_on_read: bool,
    /// Every write is flushed.
    write_through: bool,
    /// How the image was opened.
    spec: Spec,
    /// Requests that were started and not waited for.
    started: Vec<Op<()>>,
}

/// The breakpoints of an image.
fn breakpoints(image: &Image) -> Result<Breakpoints, &'static str> {
    let points = image.node.breakpoints().ok_or("Operation not supported")?;
    points.on_change(Arc::new(say));
    Ok(points)
}

/// Refuses a range that is not inside the disk.
fn check(image: &Image, offset: u64, len: u64) -> Result<(), BlockError> {
    match offset.checked_add(len) {
        Some(end) if end <= image.node.len().next_multiple_of(512) => Ok(()),
        _ => Err(BlockError::Errno(orrery_block::errno::EIO)),
    }
}

/// What an image without room for the state of a machine says.
const NO_STATE: BlockError = BlockError::Errno(orrery_block::errno::ENOTSUP);

/// No limit to the arguments.
const MANY: usize = usize::MAX;

/// What a command asks for next.
enum Next {
    Go,
    Quit,
}

const HELP: &[(&str, &str)] = &[
    ("abort", "-- simulate a program crash using abort(3)"),
    ("aio_flush", "-- completes all outstanding aio requests"),
    ("aio_read", "[-Ciqrv] [-P pattern] off len [len..] -- asynchronously reads a number of bytes"),
    (
        "aio_write",
        "[-Cfiqruz] [-P pattern] off len [len..] -- asynchronously writes a number of bytes",
    ),
    ("alloc", "offset [count] -- checks if offset is allocated in the file"),
    ("break", "event tag -- sets a breakpoint on event and tags the stopped request as tag"),
    ("close", "-- close the current open file"),
    ("discard", "[-Cq] off len -- discards a number of bytes at a specified offset"),
    ("flush", "-- flush all in-core file state to disk"),
    ("help", "[command] -- help for one or all commands"),
    ("info", "-- prints information about the current file"),
    ("length", "-- gets the length of the current file"),
    ("map", " -- prints the allocated areas of a file"),
    (
        "open",
        "[-rsCnkU] [-t cache] [-d discard] [-o options] [path] -- open the file specified by path",
    ),
    ("quit", "-- exit the program"),
    (
        "read",
        "[-abCqrv] [-P pattern [-s off] [-l len]] off len -- reads a number of bytes at a specified offset",
    ),
    (
        "readv",
        "[-Cqrv] [-P pattern] off len [len..] -- reads a number of bytes at a specified offset",
    ),
    ("remove_break", "tag -- remove a breakpoint by tag"),
    ("resume", "tag -- resumes the request tagged as tag"),
    ("wait_break", "tag -- waits for the suspension of a request"),
    ("reopen", "[(-r|-w)] [-c cache] [-o options] -- reopens an image with new options"),
    ("sigraise", "signal -- raises a signal"),
    ("sleep", "-- waits for the given value in milliseconds"),
    ("truncate", "[-m prealloc_mode] off -- truncates the current file at the given offset"),
    (
        "write",
        "[-bcCfnqruz] [-P pattern | -s source_file] off len -- writes a number of bytes at a specified offset",
    ),
    (
        "writev",
        "[-Cfqr] [-P pattern] off len [len..] -- writes a number of bytes at a specified offset",
    ),
];

fn number(text: &str) -> Result<u64, String> {
    let negative = text.starts_with('-');
    match parse_size(text) {
        Some(n) if n <= i64::MAX as u64 => Ok(n),
        Some(_) => Err(format!("Parsing error: argument too large -- {text}")),
        None if negative
            || !text.contains(|c: char| c.is_ascii_digit())
            || parse_size(text).is_none() =>
        {
            Err(format!(
                "Parsing error: non-numeric argument, or extraneous/unrecognized suffix -- {text}"
            ))
        }
        None => Err(format!("Parsing error: non-numeric argument -- {text}")),
    }
}

fn pattern(text: &str) -> Result<u8, String> {
    let value = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    };
    match value {
        Some(n) if n <= 255 => Ok(n as u8),
        _ => Err(format!("{text} is not a valid pattern byte")),
    }
}

/// Splits a line into words. (There are no quotes.)
fn words(line: &str) -> Vec<String> {
    line.split(' ').filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

fn dump(data: &[u8], offset: u64) {
    for (i, row) in data.chunks(16).enumerate() {
        let hex: String = row.iter().map(|b| format!("{b:02x} ")).collect();
        let text: String =
            row.iter().map(|b| if b.is_ascii_graphic() { *b as char } else { '.' }).collect();
        say(&format!("{:08x}:  {hex} {text}", offset + i as u64 * 16));
    }
}

fn report(verb: &str, took: Duration, offset: u64, asked: u64, done: u64, ops: u64, short: bool) {
    let secs = took.as_secs_f64().max(1e-9);
    let rate = bytes(done as f64 / secs);
    let time = format!("{:02}.{:02}", took.as_secs(), took.subsec_millis() / 10);
    if short {
        say(&format!("{done},{ops},{time} sec,{:.4},{:.4}", done as f64 / secs, ops as f64 / secs));
        return;
    }
    say(&format!("{verb} {done}/{asked} bytes at offset {offset}"));
    say(&format!(
        "{}, {ops} ops; {time} sec ({rate}/sec and {:.4} ops/sec)",
        bytes(done as f64),
        ops as f64 / secs
    ));
}

impl Shell {
    fn run(&mut self, line: &str) -> Next {
        let words = words(line);
        let Some(name) = words.first().cloned() else { return Next::Go };
        let args = &words[1..];
        let image = self.image.clone();
        let known = |names: &[&str]| names.contains(&name.as_str());
        let needs_image = !known(&[
            "open",
            "o",
            "help",
            "?",
            "quit",
            "q",
            "sleep",
            "abort",
            "sigraise",
            "aio_flush",
        ]);
        let limits: &[(&[&str], usize, usize)] = &[
            (&["read", "r", "write", "w"], 2, MANY),
            (&["readv", "writev", "aio_read", "aio_write"], 2, MANY),
            (&["discard", "d"], 2, MANY),
            (&["alloc", "a"], 1, 2),
            (&["truncate", "t"], 1, MANY),
            (
                &[
                    "length",
                    "l",
                    "info",
                    "i",
                    "flush",
                    "f",
                    "map",
                    "m",
                    "close",
                    "c",
                    "abort",
                    "aio_flush",
                ],
                0,
                0,
            ),
            (&["sleep", "sigraise", "resume", "remove_break", "wait_break"], 1, 1),
            (&["break"], 2, 2),
            (&["quit", "q"], 0, 0),
            (&["open", "o", "reopen", "help", "?"], 0, MANY),
        ];
        let Some((_, min, max)) = limits.iter().find(|(names, ..)| known(names)) else {
            warn(&format!("command \"{name}\" not found"));
            self.failed = true;
            return Next::Go;
        };
        if needs_image && image.is_none() {
            warn("no file open, try 'help open'");
            self.failed = true;
            return Next::Go;
        }
        if args.len() < *min || args.len() > *max {
            let count = args.len();
            let expected = match (*min, *max) {
                (min, MANY) => format!("at least {min}"),
                (min, max) if min == max => format!("exactly {min}"),
                (min, max) => format!("between {min} and {max}"),
            };
            warn(&format!("bad argument count {count} to {name}, expected {expected} arguments"));
            self.failed = true;
            return Next::Go;
        }
        if known(&["write", "w", "writev", "aio_write", "discard", "d", "truncate", "t"])
            && image.as_ref().is_some_and(|image| image.node.read_only())
        {
            warn("qemu-io: Block node is read-only");
            self.failed = true;
            return Next::Go;
        }
        let result = match name.as_str() {
            "read" | "r" => self.read(&image.expect("checked"), args, false, false),
            "readv" => self.read(&image.expect("checked"), args, true, false),
            "aio_read" => self.read(&image.expect("checked"), args, true, true),
            "write" | "w" => self.write(&image.expect("checked"), args, false, false),
            "writev" => self.write(&image.expect("checked"), args, true, false),
            "aio_write" => self.write(&image.expect("checked"), args, true, true),
            "discard" | "d" => self.discard(&image.expect("checked"), args),
            "alloc" | "a" => self.alloc(&image.expect("checked"), args),
            "map" | "m" => self.map(&image.expect("checked")),
            "length" | "l" => {
                say(&bytes(image.expect("checked").node.len() as f64));
                Ok(())
            }
            "info" | "i" => {
                let image = image.expect("checked");
                let driver = image.node.driver_name();
                say(&format!("format name: {driver}"));
                if ["file", "null-co", "null-aio", "nbd"].contains(&driver) {
                    // The same again, as the name of a protocol.
                    say(&format!("format name: {driver}"));
                }
                let size = image.handle.as_ref().and_then(|h| h.facts().cluster_size);
                if let Some(size) = size.filter(|_| image.node.image_handle().is_some()) {
                    // State of machines lies behind what a whole L2 table covers.
                    let span = match image.node.driver_name() {
                        "qcow2" => image.node.len().next_multiple_of((size / 8 * size).max(1)),
                        _ => 0,
                    };
                    say(&format!(
                        "cluster size: {}\nvm state offset: {}",
                        bytes(size as f64),
                        bytes(span as f64)
                    ));
                }
                Ok(())
            }
            "flush" | "f" => {
                let done = self.session.run(image.expect("checked").node.flush());
                done.map_err(|e| system_words(&e))
            }
            "truncate" | "t" => self.truncate(&image.expect("checked"), args),
            "close" | "c" => self.close(),
            "open" | "o" => self.open(args),
            "reopen" => {
                drop(image);
                self.reopen(args)
            }
            "aio_flush" => {
                self.wait_for_all();
                Ok(())
            }
            "break" => breakpoints(&image.expect("checked"))
                .map(|points| points.set(&args[0], &args[1]))
                .map_err(|text| format!("Could not set a breakpoint: {text}")),
            "remove_break" => match breakpoints(&image.expect("checked")) {
                Ok(points) if points.remove(&args[0]) => Ok(()),
                found => {
                    let why = found.err().unwrap_or("No such file or directory");
                    Err(format!("Could not remove breakpoint {}: {why}", args[0]))
                }
            },
            "resume" => match breakpoints(&image.expect("checked")) {
                Ok(points) if points.resume(&args[0]) => Ok(()),
                found => {
                    let why = found.err().unwrap_or("No such file or directory");
                    Err(format!("Could not resume request: {why}"))
                }
            },
            "wait_break" => match breakpoints(&image.expect("checked")) {
                Ok(points) => {
                    while !points.is_suspended(&args[0]) {
                        self.pause(1);
                    }
                    Ok(())
                }
                Err(text) => Err(text.into()),
            },
            "sleep" => match args[0].parse::<u64>() {
                Ok(ms) => {
                    self.pause(ms);
                    Ok(())
                }
                Err(_) => Err(format!("{} is not a valid number", args[0])),
            },
            "abort" => std::process::abort(),
            "sigraise" => {
                let _ = std::io::stdout().flush();
                raise(args[0].parse().unwrap_or(0));
                Ok(())
            }
            "help" | "?" => {
                self.help(args);
                Ok(())
            }
            _ => return Next::Quit,
        };
        if let Err(text) = result {
            if !text.is_empty() {
                say(&text);
            }
            self.failed = true;
        }
        // Requests that were started go on.
        self.session.graph.executor().poll();
        Next::Go
    }

    /// Lets requests go on for a while, those at the other end of a connection too.
    fn pause(&self, millis: u64) {
        let sleep = self.session.graph.context().sleep(millis.saturating_mul(1_000_000));
        self.session.run(sleep);
    }

    /// Waits for the requests that were started.
    fn wait_for_all(&mut self) {
        for request in std::mem::take(&mut self.started) {
            // How it ended has been said.
            let _ = self.session.run(request);
        }
    }

    /// Carries a request out, or only starts it.
    fn perform(
        &mut self,
        aio: bool,
        request: impl Future<Output = Result<(), String>> + Send + 'static,
    ) -> Result<(), String> {
        if !aio {
            return self.session.run(request);
        }
        let (done, wait) = completion();
        self.started.push(wait);
        self.session.graph.executor().spawn(async move {
            if let Err(text) = request.await
                && !text.is_empty()
            {
                say(&text);
            }
            done.finish(Ok(()));
        });
        Ok(())
    }

    fn help(&self, args: &[String]) {
        for (name, text) in HELP.iter().filter(|(name, _)| args.is_empty() || args[0] == *name) {
            say(&format!("{name} {text}"));
        }
        if args.is_empty() {
            say("\nUse 'help commandname' for extended help.");
        }
    }

    fn parse(&self, args: &[String], short: &str) -> Result<Args, String> {
        Args::parse(args, short, &[]).map_err(|fail| format!("qemu-io: {}", fail.text()))
    }

    /// Offset and lengths of a request.
    fn range(&self, args: &Args, vector: bool) -> Result<(u64, u64), String> {
        let offset = number(args.rest.first().ok_or("")?)?;
        let mut len = 0;
        for text in args.rest.get(1..).unwrap_or_default() {
            let n = number(text)?;
            if n > i32::MAX as u64 {
                return Err(match vector {
                    true => format!("Argument '{text}' exceeds maximum size {}", i32::MAX),
                    false => format!(
                        "length cannot exceed {}, given {text}",
                        i32::MAX as u64 / 512 * 512
                    ),
                });
            }
            len += n;
        }
        Ok((offset, len))
    }

    fn read(
        &mut self,
        image: &Image,
        args: &[String],
        vector: bool,
        aio: bool,
    ) -> Result<(), String> {
        let a = self.parse(args, "abCl:pP:qrs:viU")?;
        if a.rest.len() < 2 || !vector && a.rest.len() != 2 {
            return Err(String::new());
        }
        let want = a.get("P").map(pattern).transpose()?;
        let (offset, len) = self.range(&a, vector)?;
        if a.has("i") {
            return Ok(());
        }
        let skip = a.get("s").map(number).transpose()?.unwrap_or(0);
        let count = a.get("l").map(number).transpose()?;
        if (a.has("s") || a.has("l")) && want.is_none() {
            return Err(String::new());
        }
        let count = count.unwrap_or(len.saturating_sub(skip));
        if skip + count > len {
            say("pattern verification range exceeds end of read data");
            return Err(String::new());
        }
        if a.has("b") && (!offset.is_multiple_of(512) || !len.is_multiple_of(512)) {
            let (what, n) =
                if offset.is_multiple_of(512) { ("length", len) } else { ("offset", offset) };
            say(&format!(
                "{}{n} is not a sector-aligned value for '{what}'",
                if what == "length" { "bytes " } else { "offset " }
            ));
            return Err(String::new());
        }
        let image = image.clone();
        let failed = if vector { "readv failed" } else { "read failed" };
        self.perform(aio, async move {
            let start = Instant::now();
            let result = async {
                if a.has("b") {
                    let handle = image.handle.clone().ok_or(NO_STATE)?;
                    return handle.read_state(offset, len as usize).await;
                }
                check(&image, offset, len)?;
                let there = image.node.len().saturating_sub(offset).min(len) as usize;
                let mut out = image.node.read(offset, IoBuf::zeroed(there)).await?.into_vec();
                out.resize(len as usize, 0);
                Ok(out)
            };
            let data =
                result.await.map_err(|e: BlockError| format!("{failed}: {}", system_words(&e)))?;
            let took = start.elapsed();
            let mut bad = false;
            if let Some(want) = want {
                let part = &data[skip as usize..(skip + count) as usize];
                if part.iter().any(|b| *b != want) {
                    say(&format!(
                        "Pattern verification failed at offset {}, {count} bytes",
                        offset + skip
                    ));
                    bad = true;
                }
            }
            if !a.has("q") {
                if a.has("v") {
                    dump(&data, offset);
                }
                report("read", took, offset, len, len, 1, a.has("C"));
            }
            if bad { Err(String::new()) } else { Ok(()) }
        })
    }

    fn write(
        &mut self,
        image: &Image,
        args: &[String],
        vector: bool,
        aio: bool,
    ) -> Result<(), String> {
        let a = self.parse(args, "bcCfnpP:qs:uzriU")?;
        if a.rest.len() < 2
            || !vector && a.rest.len() != 2
            || aio && a.has("z") && a.rest.len() != 2
        {
            if a.has("z") && aio {
                say("-z supports only a single length parameter");
            }
            return Err(String::new());
        }
        let byte = a.get("P").map(pattern).transpose()?;
        if a.has("b") && a.has("z") {
            return Err("-b and -z cannot be specified at the same time".into());
        }
        if a.has("b") && a.has("c") {
            return Err("-b and -c cannot be specified at the same time".into());
        }
        if a.has("f") && (a.has("b") || a.has("c")) {
            return Err("-f and -b or -c cannot be specified at the same time".into());
        }
        if a.has("n") && !a.has("z") {
            return Err("-n requires -z to be specified".into());
        }
        if a.has("u") && !a.has("z") {
            return Err("-u requires -z to be specified".into());
        }
        if usize::from(byte.is_some()) + usize::from(a.has("z")) + usize::from(a.has("s")) > 1 {
            return Err(if aio {
                "-z and -P cannot be specified at the same time".into()
            } else {
                "Only one of -z, -P, and -s can be specified at the same time".into()
            });
        }
        let (offset, len) = if a.has("z") && !vector {
            (number(&a.rest[0])?, number(&a.rest[1])?)
        } else {
            self.range(&a, vector)?
        };
        if a.has("i") {
            return Ok(());
        }
        if (a.has("b") || a.has("c")) && (!offset.is_multiple_of(512) || !len.is_multiple_of(512)) {
            let (what, n) =
                if offset.is_multiple_of(512) { ("bytes", len) } else { ("offset", offset) };
            return Err(format!("{what} {n} is not sector aligned"));
        }
        let mut data =
            if a.has("z") { Vec::new() } else { vec![byte.unwrap_or(0xcd); len as usize] };
        if let Some(path) = a.get("s") {
            let source = std::fs::read(path).map_err(|e| {
                format!("{path}: {}", e.to_string().split(" (os").next().unwrap_or_default())
            })?;
            if source.is_empty() {
                return Err(format!("{path}: file is empty"));
            }
            data.iter_mut().zip(source.iter().cycle()).for_each(|(to, from)| *to = *from);
        }
        let image = image.clone();
        let write_through = self.write_through;
        let failed = match (vector, aio) {
            (_, true) => "aio_write failed",
            (true, _) => "writev failed",
            _ => "write failed",
        };
        self.perform(aio, async move {
            let start = Instant::now();
            let result = async {
                if a.has("b") {
                    let handle = image.handle.clone().ok_or(NO_STATE)?;
                    return handle.write_state(offset, data).await;
                }
                check(&image, offset, len)?;
                if image.node.read_only() {
                    return Err(BlockError::ReadOnly);
                }
                if image.node.len() < offset + len && a.has("z") {
                    return Err(BlockError::Errno(orrery_block::errno::EIO));
                }
                if a.has("z") {
                    image.node.write_zeroes(offset, len, a.has("u")).await?;
                } else {
                    data.truncate(image.node.len().saturating_sub(offset).min(len) as usize);
                    let buf = IoBuf::from(data);
                    if a.has("c") {
                        image.node.write_compressed(offset, buf).await?;
                    } else {
                        image.node.write(offset, buf).await?;
                    }
                }
                if a.has("f") || write_through {
                    image.node.flush().await?;
                }
                Ok(())
            };
            let corrupt =
                || image.handle.as_ref().is_some_and(|handle| handle.facts().corrupt);
            let before = corrupt();
            let result = result.await;
            if let (Err(BlockError::Corrupt(why)), true) = (&result, !before && corrupt()) {
                let name = image.node.driver_name();
                warn(&format!(
                    "{name}: Marking image as corrupt: {why}; further corruption events will be suppressed"
                ));
            }
            result.map_err(|e| format!("{failed}: {}", system_words(&e)))?;
            if !a.has("q") {
                report("wrote", start.elapsed(), offset, len, len, 1, a.has("C"));
            }
            Ok(())
        })
    }

    fn discard(&mut self, image: &Image, args: &[String]) -> Result<(), String> {
        let a = self.parse(args, "Cq")?;
        let [offset, len] = &a.rest[..] else { return Err(String::new()) };
        let (offset, len) = (number(offset)?, number(len)?);
        let start = Instant::now();
        let result = check(image, offset, len)
            .and_then(|()| self.session.run(image.node.discard(offset, len)));
        if let Err(e) = result {
            return Err(format!("discard failed: {}", system_words(&e)));
        }
        if !a.has("q") {
            report("discard", start.elapsed(), offset, len, len, 1, a.has("C"));
        }
        Ok(())
    }

    fn alloc(&mut self, image: &Image, args: &[String]) -> Result<(), String> {
        let offset = number(&args[0])?;
        let count = match args.get(1) {
            Some(text) => number(text)?,
            None => 512,
        };
        let count = count.min(image.node.len().saturating_sub(offset).max(1));
        let (mut at, mut sum) = (offset, 0);
        let end = (offset + count).min(image.node.len());
        while at < end {
            let status = self.session.run(image.node.status(at, end - at));
            let status =
                status.map_err(|e| format!("is_allocated failed: {}", system_words(&e)))?;
            if status.allocated {
                sum += status.len;
            }
            at += status.len.max(1);
        }
        let text = bytes(offset as f64);
        match count {
            512 => say(&format!("sector allocated at offset {text}").replace(
                "sector allocated",
                if sum > 0 { "512/512 bytes allocated" } else { "0/512 bytes allocated" },
            )),
            _ => say(&format!("{sum}/{count} bytes allocated at offset {text}")),
        }
        Ok(())
    }

    fn map(&mut self, image: &Image) -> Result<(), String> {
        let len = image.node.len();
        if len == 0 {
            return Ok(());
        }
        let mut at = 0;
        while at < len {
            let mut run = 0;
            let mut kind = None;
            while at + run < len {
                let status = self.session.run(image.node.status(at + run, len - at - run));
                let status = status.map_err(|e| {
                    format!("Failed to query allocation status: {}", system_words(&e))
                })?;
                match kind {
                    None => kind = Some(status.allocated),
                    Some(kind) if kind != status.allocated => break,
                    _ => {}
                }
                run += status.len.max(1);
            }
            let what = if kind == Some(true) { "    allocated" } else { "not allocated" };
            say(&format!(
                "{} ({run:#x}) bytes {what} at offset {} ({at:#x})",
                bytes(run as f64),
                bytes(at as f64)
            ));
            at += run;
        }
        Ok(())
    }

    fn truncate(&mut self, image: &Image, args: &[String]) -> Result<(), String> {
        let a = self.parse(args, "m:")?;
        let [offset] = &a.rest[..] else { return Err(String::new()) };
        let to = number(offset)?;
        let how = match a.get("m") {
            None | Some("off") => Preallocation::Off,
            Some("metadata") => Preallocation::Metadata,
            Some("falloc") => Preallocation::Falloc,
            Some("full") => Preallocation::Full,
            Some(other) => return Err(format!("qemu-io: Invalid parameter '{other}'")),
        };
        let from = image.node.len();
        let done = self.session.run(async {
            match &image.handle {
                Some(handle) if to < from => handle.change(Change::Shrink(to)).await?,
                _ => image.node.truncate(to).await?,
            }
            if let (Some(handle), true) = (&image.handle, how != Preallocation::Off && to > from) {
                handle.change(Change::Preallocate { from, to, how }).await?;
            }
            Ok::<_, BlockError>(())
        });
        done.map_err(|e| {
            warn(&format!("qemu-io: {}", crate::img::reason(&e)));
            String::new()
        })
    }

    fn close(&mut self) -> Result<(), String> {
        self.wait_for_all();
        if let Some(image) = self.image.take() {
            let closed = self.session.run(self.session.close(&image.node));
            closed.map_err(|e| system_words(&e))?;
        }
        Ok(())
    }

    fn open(&mut self, args: &[String]) -> Result<(), String> {
        let a = self.parse(args, "snCro:ki:t:d:U")?;
        if self.image.is_some() {
            warn("file open already, try 'help close'");
            return Err(String::new());
        }
        let mut options = Vec::new();
        for text in a.all("o") {
            options.extend(key_values(text));
        }
        let spec = Spec {
            name: a.rest.first().cloned().unwrap_or_default(),
            options,
            write: !a.has("r") && !self.read_only,
            share: a.has("U"),
            copy_on_read: a.has("C"),
            follow: true,
            ..Spec::default()
        };
        self.open_spec(&spec).map_err(|fail| {
            warn(&format!("qemu-io: {}", fail.text()));
            String::new()
        })
    }

    fn open_spec(&mut self, spec: &Spec) -> Result<(), Fail> {
        let mut spec = spec.clone();
        if spec.image_opts {
            spec.options.extend(key_values(&std::mem::take(&mut spec.name)));
        }
        let mut image =
            self.session.open_unnamed(&spec).map_err(|text| match spec.name.as_str() {
                "" => Fail::new(format!("can't open: {text}")),
                name => Fail::new(format!("can't open device {name}: {text}")),
            })?;
        if self.snapshot {
            // Changes go with the program.
            let overlay = self.session.graph.temporary_overlay(&image.node);
            image.node = self.session.run(overlay).map_err(|e| Fail::new(e.to_string()))?;
            image.handle = image.node.image_handle();
        }
        if self.copy_on_read || spec.copy_on_read {
            image.node = self
                .session
                .copy_on_read(&image.node, spec.write)
                .map_err(|text| Fail::new(format!("can't open device {}: {text}", spec.name)))?;
        }
        self.spec = spec;
        self.image = Some(image);
        Ok(())
    }

    fn reopen(&mut self, args: &[String]) -> Result<(), String> {
        let a = self.parse(args, "c:o:rw")?;
        let Some(image) = self.image.clone() else { return Ok(()) };
        let say_no = |text: &str| {
            warn(&format!("qemu-io: {text}"));
            Err(String::new())
        };
        if a.has("r") && a.has("w") {
            return say_no("Only one -r/-c/-w option may be given");
        }
        let mut spec = self.spec.clone();
        let mut options = Vec::new();
        for text in a.all("o") {
            options.extend(key_values(text));
        }
        let given = |name: &str| options.iter().any(|(key, _)| key == name);
        if (a.has("r") || a.has("w")) && given("read-only") {
            return say_no("Cannot set both -r/-w and 'read-only'");
        }
        if a.has("c") && (given("cache.direct") || given("cache.no-flush")) {
            return say_no("Cannot set both -c and the cache options");
        }
        if let Err(text) = self.session.check_switches(&options) {
            return say_no(&text);
        }
        for (name, value) in &options {
            let Some((at, what)) = name.rsplit_once('.').or(Some(("", name.as_str()))) else {
                continue;
            };
            if what != "node-name" && what != "driver" {
                continue;
            }
            let node = match at {
                "" => Some(image.node.clone()),
                "file" => Some(image.file.clone()),
                "backing" => image.node.backing(),
                _ => None,
            };
            let Some(node) = node else { continue };
            let old = if what == "driver" { node.driver_name() } else { node.name() };
            let set = spec.options.iter().find(|(key, _)| key == name).map(|(_, v)| v.as_str());
            // A raw disk that is reopened in another place is still that disk.
            if old != value && set != Some(value) {
                return say_no(&format!("Cannot change the option '{what}'"));
            }
        }
        match (a.has("r"), a.has("w")) {
            (true, _) => spec.write = false,
            (_, true) => spec.write = true,
            _ => {}
        }
        if let Some((_, on)) = options.iter().find(|(name, _)| name == "read-only") {
            spec.write = on != "on";
        }
        // What is said about one of these replaces what was said about all.
        const GROUPS: [&[&str]; 2] = [
            &["overlap-check", "overlap-check.template"],
            &["cache-size", "l2-cache-size", "refcount-cache-size"],
        ];
        spec.options.retain(|(name, _)| {
            let group = GROUPS.iter().find(|group| group.contains(&name.as_str()));
            !options.iter().any(|(new, _)| {
                new == name || group.is_some_and(|group| group.contains(&new.as_str()))
            })
        });
        spec.options.extend(options);
        if spec == self.spec {
            // Nothing else of what can be reopened changes how requests are carried out.
            return self.session.run(image.node.flush()).map_err(|e| system_words(&e));
        }
        let old = self.spec.clone();
        drop(image);
        self.close()?;
        let Err(fail) = self.open_spec(&spec) else { return Ok(()) };
        // It stays as it was.
        self.open_spec(&old).map_err(|fail| fail.text())?;
        let text = fail.text();
        let own = format!("can't open device {}: ", old.name);
        say_no(text.strip_prefix(&own).or(text.strip_prefix("can't open: ")).unwrap_or(&text))
    }
}

/// Ends the program by a signal, as a crash would.
fn raise(signal: i32) {
    use rustix::process::{Signal, getpid, kill_process};
    if let Some(signal) = Signal::from_named_raw(signal) {
        let _ = kill_process(getpid(), signal);
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// Runs the tool.
pub(crate) fn main(prog: &str, args: &[String]) -> ExitCode {
    let parsed = Args::parse(
        args,
        "hVc:d:f:rsnCmki:t:T:U",
        &[
            "help",
            "version",
            "cmd=",
            "format=",
            "read-only",
            "snapshot",
            "nocache",
            "copy-on-read",
            "misalign",
            "native-aio",
            "aio=",
            "discard=",
            "cache=",
            "trace=",
            "force-share",
            "object=",
            "image-opts",
        ],
    );
    let args = match parsed {
        Ok(args) => args,
        Err(fail) => {
            warn(&format!("{prog}: {}\nTry '{prog} --help' for more information.", fail.text()));
            return ExitCode::FAILURE;
        }
    };
    if args.has("V") || args.has("version") {
        say(&format!("{prog} version {} (Orrery)", env!("CARGO_PKG_VERSION")));
        return ExitCode::SUCCESS;
    }
    if args.has("h") || args.has("help") {
        say(&format!("Usage: {prog} [OPTIONS]... [-c STRING]... [file]\nOrrery disk exerciser"));
        return ExitCode::SUCCESS;
    }
    let mut shell = Shell {
        session: Session::new(),
        image: None,
        misalign: args.has("m"),
        failed: false,
        read_only: args.has("r") || args.has("read-only"),
        snapshot: args.has("s") || args.has("snapshot"),
        copy_on_read: args.has("C") || args.has("copy-on-read"),
        write_through: args
            .get("t")
            .or(args.get("cache"))
            .is_some_and(|mode| mode == "writethrough" || mode == "directsync"),
        spec: Spec::default(),
        started: Vec::new(),
    };
    for object in args.all("object") {
        if let Err(fail) = shell.session.add_object(object) {
            warn(&format!("{prog}: {}", fail.text()));
            return ExitCode::FAILURE;
        }
    }
    if args.rest.len() > 1 {
        return ExitCode::FAILURE;
    }
    let _ = (shell.misalign, significant(1.0, 1));
    if let Some(name) = args.rest.first() {
        let spec = Spec {
            name: name.clone(),
            format: args.get("f").or(args.get("format")).map(str::to_owned),
            image_opts: args.has("image-opts"),
            write: !shell.read_only && !shell.snapshot,
            share: args.has("U") || args.has("force-share"),
            direct: args.has("n")
                || args.has("nocache")
                || args
                    .get("t")
                    .or(args.get("cache"))
                    .is_some_and(|mode| mode == "none" || mode == "directsync"),
            follow: true,
            ..Spec::default()
        };
        if let Err(fail) = shell.open_spec(&spec) {
            warn(&format!("{prog}: {}", fail.text()));
            return ExitCode::FAILURE;
        }
    }
    let commands: Vec<&str> = args
        .options
        .iter()
        .filter(|(n, _)| n == "c" || n == "cmd")
        .map(|(_, v)| v.as_str())
        .collect();
    if commands.is_empty() {
        let stdin = std::io::stdin();
        let prompt = || {
            let _ = write!(std::io::stdout(), "qemu-io> ");
            let _ = std::io::stdout().flush();
        };
        prompt();
        for line in stdin.lock().lines().map_while(Result::ok) {
            if let Next::Quit = shell.run(&line) {
                break;
            }
            prompt();
        }
    } else {
        for command in commands {
            if let Next::Quit = shell.run(command) {
                break;
            }
        }
    }
    if shell.close().is_err() {
        shell.failed = true;
    }
    if shell.failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
