//! Reading arguments as `getopt_long` does.

/// An option: its long name, its letter, and whether it takes a value.
pub(super) type Spec = (&'static str, Option<char>, bool);

/// Options by long name with their values, and the arguments that are none.
pub(super) type Parsed = (Vec<(&'static str, String)>, Vec<String>);

/// Splits arguments into options (by long name) and the rest.
pub(super) fn parse(specs: &[Spec], args: &[String]) -> Result<Parsed, String> {
    let (mut options, mut rest) = (Vec::new(), Vec::new());
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut next = |name: &str| {
            args.next().cloned().ok_or_else(|| format!("option requires an argument -- '{name}'"))
        };
        if arg == "--" {
            rest.extend(args.cloned());
            break;
        } else if let Some(long) = arg.strip_prefix("--") {
            let (name, value) = match long.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (long, None),
            };
            let exact = specs.iter().find(|(long, _, _)| *long == name);
            let mut starts = specs.iter().filter(|(long, _, _)| long.starts_with(name));
            let only = match (starts.next(), starts.next()) {
                (Some(spec), None) => Some(spec),
                _ => None,
            };
            let spec = exact.or(only).ok_or_else(|| format!("unrecognized option '--{name}'"))?;
            let value = match (spec.2, value) {
                (true, Some(value)) => value,
                (true, None) => next(name)?,
                (false, None) => String::new(),
                (false, Some(_)) => {
                    return Err(format!("option '--{name}' doesn't allow an argument"));
                }
            };
            options.push((spec.0, value));
        } else if let Some(letters) = arg.strip_prefix('-').filter(|letters| !letters.is_empty()) {
            let mut chars = letters.chars();
            while let Some(letter) = chars.next() {
                let spec = specs.iter().find(|(_, short, _)| *short == Some(letter));
                let spec = spec.ok_or_else(|| format!("invalid option -- '{letter}'"))?;
                if !spec.2 {
                    options.push((spec.0, String::new()));
                    continue;
                }
                let value = chars.as_str();
                let value =
                    if value.is_empty() { next(&letter.to_string())? } else { value.into() };
                options.push((spec.0, value));
                break;
            }
        } else {
            rest.push(arg.clone());
        }
    }
    Ok((options, rest))
}
