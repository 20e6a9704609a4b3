//! `create`.

use super::session::{Image, combine};
use super::{Args, Done, Fail, Session, Spec, key_values, prepare, reason, say, size_argument};
use orrery_block::Format;
use orrery_block::formats::create::{self, FILE, Kind, OptionSpec, Values};

/// What `-o` gave, with the table checked.
pub(crate) fn values(args: &Args) -> Result<Values, Fail> {
    let mut values = Values::default();
    check_lists(args)?;
    for text in args.all("o") {
        for (name, value) in key_values(text) {
            values.set(&name, value);
        }
    }
    Ok(values)
}

/// Refuses lists that begin with a comma or end with one that is not doubled.
fn check_lists(args: &Args) -> Done {
    let odd = |text: &str| !(text.len() - text.trim_end_matches(',').len()).is_multiple_of(2);
    match args.all("o").find(|text| text.is_empty() || text.starts_with(',') || odd(text)) {
        Some(text) => Err(Fail::new(format!("Invalid option list: {text}"))),
        None => Ok(()),
    }
}

/// Whether the options ask for a list of themselves.
pub(crate) fn wants_help(args: &Args) -> Result<bool, Fail> {
    check_lists(args)?;
    // (A doubled comma is one inside a value.)
    let asks =
        |text: &str| text.replace(",,", "\0").split(',').any(|word| word == "help" || word == "?");
    Ok(args.all("o").any(asks))
}

/// Prints a table of options.
pub(crate) fn print_options(heading: &str, specs: &[&OptionSpec]) {
    let mut specs = specs.to_vec();
    specs.sort_by_key(|spec| spec.name);
    specs.dedup_by_key(|spec| spec.name);
    say(heading);
    for spec in specs {
        let kind = match spec.kind {
            Kind::Text => "str",
            Kind::Flag => "bool (on/off)",
            Kind::Size => "size",
            Kind::Number => "num",
        };
        say(&format!("  {:<22} - {}", format!("{}=<{kind}>", spec.name), spec.help));
    }
}

/// A format, or something else that a node can be.
pub(crate) fn is_driver(name: &str) -> bool {
    Format::from_name(name).is_ok() || orrery_block::driver_names().contains(&name)
}

pub(crate) fn format_of(name: &str) -> Result<Format, Fail> {
    Format::from_name(name).map_err(|_| Fail::new(format!("Unknown file format '{name}'")))
}

/// Values as the table spells them: sizes in bytes.
fn spelled(spec: &OptionSpec, value: &str) -> String {
    let size = || create::parse_size(value).map(|size| size.to_string());
    match spec.kind {
        Kind::Size => size().unwrap_or_else(|| value.to_owned()),
        _ => value.to_owned(),
    }
}

/// `Formatting 'name', fmt=... `
fn describe(filename: &str, format: Format, values: &Values) -> String {
    let mut text = format!("Formatting '{filename}', fmt={}", format.name());
    let mut done = Vec::new();
    for spec in create::options(format).iter().chain(FILE) {
        if done.contains(&spec.name) {
            continue;
        }
        done.push(spec.name);
        if let Some(value) = values.get(spec.name).or(spec.default) {
            let mut value = spelled(spec, value);
            value = value.replace(',', ",,");
            text += &format!(" {}={value}", spec.name);
        }
    }
    text
}

/// The size of what is to be the backing file.
fn backing_size(session: &Session, filename: &str, values: &Values) -> Result<u64, Fail> {
    let stored = values.get("backing_file").unwrap_or_default();
    let spec = Spec {
        name: combine(filename, stored),
        format: values.get("backing_fmt").map(str::to_owned),
        share: true,
        no_io: true,
        ..Spec::default()
    };
    let image: Image = session.open_unnamed(&spec).map_err(Fail::new)?;
    Ok(image.node.len())
}

pub(super) fn create(session: &mut Session, args: &[String]) -> Done {
    let args = Args::parse(args, "f:b:F:o:uqh", &["object=", "help"])?;
    prepare(session, &args)?;
    let format = args.get("f").unwrap_or("raw");
    if wants_help(&args)? {
        let format = format_of(format)?;
        if create::options(format).is_empty() {
            return Err(Fail::new(format!(
                "Format driver '{}' does not support image creation",
                format.name()
            )));
        }
        let mut specs: Vec<_> = create::options(format).iter().collect();
        let with_file = !args.rest.is_empty();
        if with_file {
            specs.extend(FILE);
        }
        specs.retain(|spec| !(format == Format::Vdi && spec.name == "preallocation" && !with_file));
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
    let Some(filename) = args.rest.first().cloned() else {
        return Err(Fail::usage("Expecting image file name"));
    };
    let mut values = values(&args)?;
    let mut size = None;
    if let Some(text) = args.rest.get(1) {
        size = Some(size_argument("Image", text)?);
    }
    if args.rest.len() > 2 {
        return Err(Fail::new(format!("Unexpected argument: {}", args.rest[2])));
    }
    if let Some(name) = args.get("b") {
        values.set("backing_file", name);
    }
    if let Some(name) = args.get("F") {
        values.set("backing_fmt", name);
    }
    run(session, &filename, format, values, size, args.has("q"), args.has("u"))
}

/// Makes an image, as `create`, `convert` and `dd` do.
pub(crate) fn run(
    session: &Session,
    filename: &str,
    format: &str,
    mut values: Values,
    size: Option<u64>,
    quiet: bool,
    unsafely: bool,
) -> Done {
    let in_file = |text: String| Fail::new(format!("{filename}: {text}"));
    let format = Format::from_name(format)
        .map_err(|_| in_file(format!("Unknown file format '{format}'")))?;
    if create::options(format).is_empty() {
        return Err(in_file(format!(
            "Format driver '{}' does not support image creation",
            format.name()
        )));
    }
    let known = |name: &str| create::options(format).iter().any(|spec| spec.name == name);
    for (option, what) in [("backing_file", "Backing file"), ("backing_fmt", "Backing format")] {
        if values.get(option).is_some() && !known(option) {
            return Err(in_file(format!(
                "{what} not supported for file format '{}'",
                format.name()
            )));
        }
    }
    values.check(format).map_err(|e| in_file(reason(&e)))?;
    if let Some(size) = size {
        if values.get("size").is_some() {
            return Err(in_file("The image size must be specified only once".into()));
        }
        values.set("size", size.to_string());
    }
    if values.get("backing_file") == Some(filename) {
        return Err(in_file(
            "Error: Trying to create an image with the same filename as the backing file".into(),
        ));
    }
    if values.get("backing_file") == Some("") {
        return Err(in_file("Expected backing file name, got empty string".into()));
    }
    if let Some(name) = values.get("backing_fmt") {
        let create = name.to_owned();
        if !is_driver(name) {
            return Err(in_file(format!("Unknown backing file format '{create}'")));
        }
    }
    if let Some(stored) = values.get("backing_file").map(str::to_owned) {
        if !unsafely {
            match backing_size(session, filename, &values) {
                Ok(size) if values.get("size").is_none() => values.set("size", size.to_string()),
                Ok(_) => {}
                Err(fail) => {
                    return Err(in_file(format!("{}\nCould not open backing image.", fail.text())));
                }
            }
        }
        if values.get("backing_fmt").is_none() {
            let spec = Spec {
                name: combine(filename, &stored),
                share: true,
                no_backing: true,
                no_io: true,
                quiet: true,
                ..Spec::default()
            };
            let found = session.open(&spec).ok().map(|image| image.node.driver_name());
            let detected =
                found.map_or(String::new(), |name| format!("\nDetected format of {name}."));
            return Err(in_file(format!(
                "Backing file specified without backing format{detected}"
            )));
        }
    }
    if values.get("size").is_none() {
        return Err(in_file("Image creation needs a size parameter".into()));
    }
    if !quiet {
        say(&describe(filename, format, &values));
    }
    let made = session.with_host(|host| {
        session.run(create::create(&session.graph, host, filename, format, &values))
    });
    made.map_err(|e| in_file(reason(&e)))
}
