//! Machines of older versions: names such as `pc-q35-4.1`, and what they lack.

use crate::options::Options;

/// The family and the version in a name such as `pc-q35-4.1`.
pub(crate) fn version(name: &str) -> Option<(&str, (u32, u32))> {
    let (family, version) = name.rsplit_once('-')?;
    let (major, minor) = version.split_once('.')?;
    let version = (major.parse().ok()?, minor.parse().ok()?);
    ((2, 0)..=(10, 0)).contains(&version).then_some((family, version))
}

/// What machines up to a version lack: the version, and a property of a device.
const SINCE: &[((u32, u32), [&str; 3])] = &[((4, 1), ["mch", "smbase-smram", "off"])];

/// The properties of devices that follow from the machine's version and from `-global`.
pub(crate) fn globals(options: &Options) -> Vec<(String, String, String)> {
    let wanted = version(&options.machine).map_or((u32::MAX, 0), |(_, version)| version);
    let old = SINCE.iter().filter(|(last, _)| wanted <= *last);
    let old = old.map(|(_, property)| property.map(str::to_owned).into());
    old.chain(options.globals.iter().cloned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_in_a_machines_name_takes_later_properties_away() {
        assert_eq!(version("pc-q35-4.1"), Some(("pc-q35", (4, 1))));
        assert_eq!(version("pc-q35"), None);
        assert_eq!(version("pc-q35-11.0"), None, "there is no such version");
        let of = |args: &[&str]| globals(&Options::parse(args).unwrap());
        let off = ["mch", "smbase-smram", "off"].map(str::to_owned).into();
        assert_eq!(of(&["-M", "pc-q35-4.1"]), [off]);
        assert_eq!(of(&["-M", "pc-q35-5.0"]), []);
        let given = of(&["-M", "pc-q35-4.1", "-global", "mch.smbase-smram=on"]);
        assert_eq!(given.last().map(|g| g.2.as_str()), Some("on"), "what is given wins");
    }
}
