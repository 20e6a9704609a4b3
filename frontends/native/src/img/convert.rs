//! `convert`, `compare`, `dd` and `bench`.

use super::bitmap;
use super::copy::{CHUNK, Copy};
use super::create::{print_options, run as make, values, wants_help};
use super::map::stored;
use super::{
    Args, Done, Fail, Image, Progress, Session, Spec, is_direct, prepare, reason, say, significant,
    size_argument, system_words, warn,
};
use orrery_block::formats::create::{FILE, options, parse_size};
use orrery_block::{BlockError, Format, IoBuf, Op};
use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::{Duration, Instant};

/// `-l` takes a name, or `snapshot.id=...` and `snapshot.name=...`.
pub(super) fn snapshot_name(text: &str) -> String {
    text.strip_prefix("snapshot.id=")
        .or_else(|| text.strip_prefix("snapshot.name="))
        .unwrap_or(text)
        .to_owned()
}

pub(super) fn convert(session: &mut Session, args: &[String]) -> Done {
    let args = Args::parse(
        args,
        "hf:O:B:CcF:o:l:S:pt:T:qnm:WUr:",
        &[
            "object=",
            "image-opts",
            "target-image-opts",
            "source-image-opts",
            "force-share",
            "salvage",
            "target-is-zero",
            "bitmaps",
            "skip-broken-bitmaps",
            "help",
        ],
    )?;
    prepare(session, &args)?;
    let format = args.get("O").unwrap_or("raw").to_owned();
    let compress = args.has("c");
    let (no_create, target_opts) = (args.has("n"), args.has("target-image-opts"));
    if wants_help(&args)? {
        let format = super::create::format_of(&format)?;
        if options(format).is_empty() {
            return Err(Fail::new(format!(
                "Format driver '{}' does not support image creation",
                format.name()
            )));
        }
        let mut specs: Vec<_> = options(format).iter().collect();
        let with_file = args.rest.len() > 1 || !args.rest.is_empty();
        if with_file {
            specs.extend(FILE);
        }
        let heading = if with_file {
            "Supported options:".to_owned()
        } else {
            format!("Supported {} options:", format.name())
        };
        print_options(&heading, &specs);
        if !with_file {
            say(
                "\nThe protocol level may support further options.\nSpecify the target filename to include those options.",
            );
        }
        return Ok(());
    }
    let mut values = values(&args)?;
    if args.rest.len() < 2 {
        return Err(Fail::new("Must specify image file name"));
    }
    if target_opts && !no_create {
        return Err(Fail::new("--target-image-opts requires use of -n flag"));
    }
    if args.has("target-is-zero") && !no_create {
        return Err(Fail::new("--target-is-zero requires use of -n flag"));
    }
    if no_create && !values.0.is_empty() {
        return Err(Fail::new("-o has no effect when skipping image creation"));
    }
    let min_sparse = match args.get("S") {
        None => 4096,
        Some(text) => {
            let size = parse_size(text).filter(|size| size.is_multiple_of(512));
            size.ok_or_else(|| Fail::new("Invalid buffer size for sparse output specified. Valid sizes are multiples of 512 up to 2147483136. Select 0 to disable sparse detection (fully allocates output)."))?
        }
    };
    if let Some(text) = args.get("m") {
        match text.parse::<u64>() {
            Ok(1..=16) => {}
            _ => {
                return Err(Fail::new(
                    "Invalid number of coroutines. Allowed number of coroutines is between 1 and 16",
                ));
            }
        }
    }
    let (target_name, source_names) = args.rest.split_last().expect("at least two");
    if args.has("B") && source_names.len() > 1 {
        return Err(Fail::new(
            "Having a backing file for the target makes no sense when concatenating multiple input images",
        ));
    }
    if args.has("C") && compress {
        return Err(Fail::new("Cannot enable copy offloading when -c is used"));
    }
    if args.has("C") && args.has("salvage") {
        return Err(Fail::new("Cannot use copy offloading in salvaging mode"));
    }
    if args.has("C") && args.has("S") {
        return Err(Fail::new("Cannot enable copy offloading when -S is used"));
    }
    let mut sources = Vec::new();
    for name in source_names {
        sources.push(session.open(&Spec {
            name: name.clone(),
            format: args.get("f").map(str::to_owned),
            image_opts: args.has("image-opts") || args.has("source-image-opts"),
            share: args.has("U") || args.has("force-share"),
            snapshot: args.get("l").map(snapshot_name),
            direct: is_direct(&args, "T"),
            ..Spec::default()
        })?);
    }
    let mut starts = Vec::new();
    let mut total = 0;
    for image in &sources {
        starts.push(total);
        total += image.node.len();
    }
    let bitmaps = match args.has("bitmaps") {
        true => bitmap::to_copy(&sources, &format, args.has("skip-broken-bitmaps"))?,
        false if args.has("skip-broken-bitmaps") => {
            return Err(Fail::new("Use of --skip-broken-bitmaps requires --bitmaps"));
        }
        false => Vec::new(),
    };
    if let Some(name) = args.get("B") {
        values.set("backing_file", name);
    }
    if let Some(name) = args.get("F") {
        values.set("backing_fmt", name);
    }
    let has_backing = values.get("backing_file").is_some_and(|name| !name.is_empty());
    if has_backing && values.get("backing_fmt").is_none() && !no_create {
        return Err(Fail::new("Use of backing file requires explicit backing format"));
    }
    if values.get("size").is_none() {
        values.set("size", total.next_multiple_of(512).to_string());
    }
    if compress {
        let kind = Format::from_name(&format).ok();
        let can = matches!(kind, Some(Format::Qcow2 | Format::Qcow | Format::Vmdk));
        if !can && !target_opts {
            return Err(Fail::new("Compression not supported for this file format"));
        }
        match (values.get("preallocation"), values.get("data_file")) {
            (Some("off") | None, None) => {}
            (None | Some("off"), Some(_)) => {}
            _ => {
                return Err(Fail::new(
                    "Compression and preallocation not supported at the same time",
                ));
            }
        }
        if values.flag("encryption").unwrap_or(false) || values.get("encrypt.format").is_some() {
            return Err(Fail::new("Compression and encryption not supported at the same time"));
        }
    }
    if !no_create {
        let made = make(session, target_name, &format, values.clone(), None, true, true);
        made.map_err(|fail| {
            if fail.text().contains("does not support image creation") {
                let own = format!("{target_name}: ");
                return Fail::new(fail.text().trim_start_matches(&own).to_owned());
            }
            Fail::new(format!(
                "{}: error while converting {format}: {}",
                target_name,
                fail.text().strip_prefix(&format!("{target_name}: ")).unwrap_or(&fail.text())
            ))
        })?;
    }
    let mut options = Vec::new();
    for (from, to) in [("encrypt.key-secret", "encrypt.key-secret"), ("key-secret", "key-secret")] {
        if let Some(id) = values.get(from) {
            options.push((to.to_owned(), id.to_owned()));
        }
    }
    let target = session.open(&Spec {
        name: target_name.clone(),
        format: (!target_opts).then(|| format.clone()),
        image_opts: target_opts,
        options,
        write: true,
        no_backing: !has_backing && !no_create,
        direct: is_direct(&args, "t"),
        ..Spec::default()
    })?;
    // A copy that is not finished is worth nothing, so nothing is made stable on the way.
    if matches!(args.get("t"), None | Some("unsafe")) {
        target.file.set_no_flush(true);
    }
    if target.node.len() < total {
        if no_create {
            return Err(Fail::new("output file is smaller than input file"));
        }
        session.run(target.node.truncate(total)).map_err(|e| Fail::new(reason(&e)))?;
    }
    let facts = target.handle.as_ref().map(|handle| handle.facts()).unwrap_or_default();
    let cluster = facts.cluster_size.unwrap_or(65536);
    let preallocated = values.get("preallocation").is_some_and(|p| p != "off");
    let zero_init = (!no_create || args.has("target-is-zero")) && !has_backing && !facts.encrypted;
    let target_backing = has_backing || (no_create && target.node.backing().is_some());
    let copy = Copy {
        session,
        starts,
        total,
        sources,
        has_backing,
        zero_init: zero_init && !(preallocated && min_sparse == 0) && !target_backing,
        compress: compress.then_some(cluster),
        min_sparse,
        salvage: args.has("salvage"),
        quiet: args.has("q"),
        target,
    };
    let mut progress = Progress::new(args.has("p") && !args.has("q"));
    copy.run(&mut progress)?;
    progress.end();
    bitmap::copy(session, &bitmaps, &copy.sources, &copy.target)?;
    let close = session.run(async {
        copy.target.node.flush().await?;
        copy.target.node.close().await
    });
    close.map_err(|e| Fail::new(format!("error while writing: {}", system_words(&e))))
}

pub(super) fn compare(session: &mut Session, args: &[String]) -> Done {
    let args = Args::parse(args, "hf:F:T:pqsU", &["object=", "image-opts", "force-share", "help"])?;
    prepare(session, &args).map_err(|f| f.with_code(2))?;
    let [a, b] = &args.rest[..] else {
        return Err(Fail::usage("Expecting two image file names").with_code(2));
    };
    let open = |name: &String, format: Option<&str>| {
        session
            .open(&Spec {
                name: name.clone(),
                format: format.map(str::to_owned),
                image_opts: args.has("image-opts"),
                share: args.has("U") || args.has("force-share"),
                direct: is_direct(&args, "T"),
                ..Spec::default()
            })
            .map_err(|f| f.with_code(2))
    };
    let (a, b) = (open(a, args.get("f"))?, open(b, args.get("F"))?);
    let (quiet, strict) = (args.has("q"), args.has("s"));
    let tell = |text: &str| {
        if !quiet {
            say(text);
        }
    };
    let (one, two) = (a.node.len(), b.node.len());
    // The first complaint is about what cannot be read.
    let wrong_size = "Warning: Image size mismatch!";
    let complain = |fail: Fail| {
        warn(&format!("qemu-img: {}", fail.text()));
        tell(wrong_size);
        Fail::code(4)
    };
    if strict && one != two {
        tell("Strict mode: Image size mismatch!");
        return Err(Fail::code(1));
    }
    let mut progress = Progress::new(args.has("p") && !quiet);
    let common = one.min(two);
    let mut at = 0;
    let failed = |name: &str, at: u64, e: &BlockError| {
        Fail::new(format!("Error while reading offset {at} of {name}: {}", system_words(e)))
            .with_code(4)
    };
    let look = |image: &Image, at: u64, end: u64| {
        session
            .run(stored(&image.node, None, at, end - at))
            .map_err(|_| Fail::new("Sector allocation test failed").with_code(3))
    };
    // Small enough for the caches of a core.
    const STRETCH: u64 = 256 << 10;
    let mut buffers = (IoBuf::zeroed(STRETCH as usize), IoBuf::zeroed(STRETCH as usize));
    while at < common {
        let (x, y) = (look(&a, at, common)?.status, look(&b, at, common)?.status);
        let len = x.len.min(y.len);
        let (x_data, y_data) =
            (x.data && !x.zero || x.compressed, y.data && !y.zero || y.compressed);
        if strict && (x.data && !x.zero) != (y.data && !y.zero) && x.allocated != y.allocated {
            tell(&format!("Strict mode: Offset {at} block status mismatch!"));
            return Err(Fail::code(1));
        }
        let end = at + len;
        while (x_data || y_data) && at < end {
            let n = STRETCH.min(end - at);
            let read = |image: &Image, mut buf: IoBuf| {
                let all = buf.narrow(0..n as usize);
                let read = session.run(image.node.read(at, buf));
                read.map(|buf| (buf, all)).map_err(|e| failed(&image.name, at, &e))
            };
            let (mut p, p_all) = read(&a, std::mem::take(&mut buffers.0))?;
            let (mut q, q_all) = read(&b, std::mem::take(&mut buffers.1))?;
            if p != q {
                let first = p.iter().zip(q.iter()).position(|(p, q)| p != q).unwrap_or(0) as u64;
                tell(&format!("Content mismatch at offset {}!", (at + first) / 512 * 512));
                return Err(Fail::code(1));
            }
            p.widen(p_all);
            q.widen(q_all);
            buffers = (p, q);
            at += n;
            progress.show(at, one.max(two));
        }
        at = end;
        progress.show(at, one.max(two));
    }
    if one != two {
        let longer = if one > two { &a } else { &b };
        while at < one.max(two) {
            let s = look(longer, at, one.max(two))?.status;
            let failed = |name: &str, at: u64, e: &BlockError| complain(failed(name, at, e));
            let mut n = s.len;
            if s.data && !s.zero || s.compressed {
                n = n.min(CHUNK);
                let buf = session
                    .run(longer.node.read(at, IoBuf::zeroed(n as usize)))
                    .map_err(|e| failed(&longer.name, at, &e))?;
                if let Some(first) = buf.iter().position(|b| *b != 0) {
                    tell(wrong_size);
                    tell(&format!(
                        "Content mismatch at offset {}!",
                        (at + first as u64) / 512 * 512
                    ));
                    return Err(Fail::code(1));
                }
            }
            at += n;
        }
        tell(wrong_size);
    }
    progress.end();
    tell("Images are identical.");
    Ok(())
}

pub(super) fn dd(session: &mut Session, args: &[String]) -> Done {
    let args = Args::parse(args, "f:O:Uh", &["object=", "image-opts", "force-share", "help"])?;
    prepare(session, &args)?;
    let (mut input, mut out, mut bs, mut count, mut skip) = (None, None, 512u64, None, 0u64);
    for operand in &args.rest {
        let Some((name, value)) = operand.split_once('=') else {
            return Err(Fail::new(format!("unrecognized operand {operand}")));
        };
        let number = |what: &str| {
            parse_size(value)
                .filter(|n| *n <= i64::MAX as u64)
                .ok_or_else(|| Fail::new(format!("invalid number: '{value}'")).with_what(what))
        };
        match name {
            "if" => input = Some(value.to_owned()),
            "of" => out = Some(value.to_owned()),
            "bs" => {
                bs = number("bs")?;
                if bs == 0 || bs > i32::MAX as u64 {
                    return Err(Fail::new(format!("invalid number: '{value}'")));
                }
            }
            "count" => count = Some(number("count")?),
            "skip" => skip = number("skip")?,
            _ => return Err(Fail::new(format!("unrecognized operand {operand}"))),
        }
    }
    let (Some(input), Some(out)) = (input, out) else {
        return Err(Fail::new("Must specify both input and output files"));
    };
    let image = session.open(&Spec {
        name: input,
        format: args.get("f").map(str::to_owned),
        image_opts: args.has("image-opts"),
        share: args.has("U") || args.has("force-share"),
        ..Spec::default()
    })?;
    let len = image.node.len();
    let end = count.map_or(len, |count| len.min(count.saturating_add(skip).saturating_mul(bs)));
    let start = skip.saturating_mul(bs);
    let size = end.saturating_sub(start);
    if start > len {
        warn(&format!("qemu-img: {}: cannot skip to specified offset", image.name));
    }
    let format = args.get("O").unwrap_or("raw");
    make(session, &out, format, Default::default(), Some(size), true, false)
        .map_err(|f| Fail::new(f.text()))?;
    let target = session.open(&Spec {
        name: out,
        format: Some(format.to_owned()),
        write: true,
        no_backing: true,
        ..Spec::default()
    })?;
    let copied = session.run(async {
        let mut at = start;
        while at < end {
            let n = bs.max(65536).min(end - at);
            let buf = image.node.read(at, IoBuf::zeroed(n as usize)).await.map_err(|e| {
                format!("error while reading from input image file: {}", system_words(&e))
            })?;
            target.node.write(at - start, buf).await.map_err(|e| {
                format!("error while writing to output image file: {}", system_words(&e))
            })?;
            at += n;
        }
        target.node.close().await.map_err(|e| system_words(&e))
    });
    copied.map_err(Fail::new)
}

impl Fail {
    fn with_what(self, _what: &str) -> Self {
        self
    }
}

/// Requests that are under way, with when they began where that is wanted.
#[derive(Default)]
struct UnderWay(Vec<(Op<IoBuf>, Option<Instant>)>);

impl UnderWay {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn push(&mut self, request: (Op<IoBuf>, Option<Instant>)) {
        self.0.push(request);
    }

    /// Waits for any of them.
    async fn next(&mut self, latencies: &mut Vec<Duration>) -> Result<IoBuf, BlockError> {
        poll_fn(|cx| {
            for i in 0..self.0.len() {
                if let Poll::Ready(result) = Pin::new(&mut self.0[i].0).poll(cx) {
                    let (_, began) = self.0.swap_remove(i);
                    latencies.extend(began.map(|began| began.elapsed()));
                    return Poll::Ready(result);
                }
            }
            Poll::Pending
        })
        .await
    }
}

pub(super) fn bench(session: &mut Session, args: &[String]) -> Done {
    let args = Args::parse(
        args,
        "hc:d:f:ni:o:qs:S:t:wU",
        &[
            "pattern=",
            "image-opts",
            "force-share",
            "flush-interval=",
            "no-drain",
            "object=",
            "help",
            "random",
            "latency",
        ],
    )?;
    prepare(session, &args)?;
    let number = |name: &str, default: u64| {
        args.get(name).map_or(Ok(default), |text| size_argument("request", text))
    };
    let (count, depth) = (number("c", 75000)?, number("d", 64)?);
    let (size, offset) = (number("s", 4096)?, number("o", 0)?);
    let step = number("S", 0)?;
    let step = if step == 0 { size } else { step };
    let write = args.has("w");
    let [name] = &args.rest[..] else { return Err(Fail::usage("Expecting one image file name")) };
    let image = session.open(&Spec {
        name: name.clone(),
        format: args.get("f").map(str::to_owned),
        image_opts: args.has("image-opts"),
        write,
        share: args.has("U"),
        direct: is_direct(&args, "t"),
        ..Spec::default()
    })?;
    let pattern = number("pattern", 0)? as u8;
    let flush_every = number("flush-interval", 0)?;
    let len = image.node.len();
    if len < size {
        return Err(Fail::new("Image is smaller than a request"));
    }
    if !args.has("q") {
        let kind = if write { "write" } else { "read" };
        say(&format!(
            "Sending {count} {kind} requests, {size} bytes each, {depth} in parallel (starting at offset {offset}, step size {step})"
        ));
    }
    let mut latencies = Vec::new();
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    let start = Instant::now();
    let result = session.run(async {
        let mut at = offset;
        let mut under_way = UnderWay::default();
        let mut free = Vec::new();
        for i in 0..count {
            if args.has("random") {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                at = seed % (len / size) * size;
            }
            while under_way.len() as u64 >= depth.max(1) {
                free.push(under_way.next(&mut latencies).await?);
            }
            let fresh = || IoBuf::from(vec![pattern; size as usize]);
            let buf = free.pop().unwrap_or_else(fresh);
            let node = &image.node;
            let began = args.has("latency").then(Instant::now);
            let request = if write { node.write(at, buf) } else { node.read(at, buf) };
            under_way.push((request, began));
            if write && flush_every > 0 && (i + 1) % flush_every == 0 {
                while !under_way.is_empty() && !args.has("no-drain") {
                    free.push(under_way.next(&mut latencies).await?);
                }
                image.node.flush().await?;
            }
            at += step;
            if at + size > len {
                at %= len - size + 1;
            }
        }
        while !under_way.is_empty() {
            under_way.next(&mut latencies).await?;
        }
        image.node.close().await
    });
    result.map_err(|e| Fail::new(format!("Failed request: {}", system_words(&e))))?;
    if !args.has("q") {
        say(&format!("Run completed in {:.3} seconds.", start.elapsed().as_secs_f64()));
        latencies.sort_unstable();
        for percent in [50, 90, 99] {
            if let Some(found) = latencies.get(latencies.len() * percent / 100) {
                say(&format!(
                    "  {percent} % within {} us",
                    significant(found.as_secs_f64() * 1e6, 4)
                ));
            }
        }
    }
    Ok(())
}
