//! `-netdev`, `-nic` and `-net`.

use super::{DeviceSpec, KeyVals, NetdevOption, OptionError, Options, Print};

/// Backends that exist.
const KINDS: &[&str] = &["user"];
/// Those of QEMU's that do not exist here yet.
const ABSENT: &[&str] = &[
    "tap",
    "bridge",
    "socket",
    "stream",
    "dgram",
    "vde",
    "hubport",
    "l2tpv3",
    "netmap",
    "vhost-user",
    "vhost-vdpa",
    "passt",
    "af-xdp",
];

fn check_kind(option: &str, kind: &str, more: &str) -> Result<(), OptionError> {
    if KINDS.contains(&kind) {
        return Ok(());
    }
    if ABSENT.contains(&kind) {
        return Err(OptionError::refused(option, format!("'{kind}' networks are not there yet")));
    }
    let wants = format!("'user'{more}");
    Err(OptionError::value(option, "type", kind, &wants))
}

/// `-netdev`
pub(super) fn netdev(o: &mut Options, v: &str) -> Result<(), OptionError> {
    let mut k = KeyVals::parse(v, Some("type"));
    let kind = k.take("type").unwrap_or_default();
    check_kind("-netdev", &kind, "")?;
    let id = k.take("id").ok_or_else(|| OptionError::refused("-netdev", "'id' is missing"))?;
    if o.netdevs.iter().any(|n| n.id == id) {
        return Err(OptionError::refused(
            "-netdev",
            format!("there is another one with the id '{id}'"),
        ));
    }
    o.network = true;
    o.netdevs.push(NetdevOption { id, kind, props: k.rest() });
    Ok(())
}

/// Takes a card's properties out of `k`.
fn card(k: &mut KeyVals, mac: &str) -> Vec<(String, String)> {
    let mut props = Vec::new();
    for (name, property) in [(mac, "mac"), ("addr", "addr")] {
        props.extend(k.take(name).map(|v| (property.to_string(), v)));
    }
    props
}

/// `-nic`: a card and its network in one.
pub(super) fn nic(o: &mut Options, v: &str) -> Result<(), OptionError> {
    let mut k = KeyVals::parse(v, Some("type"));
    let kind = k.take("type").unwrap_or_default();
    o.network = true;
    let model = k.take("model").unwrap_or_default();
    if model == "help" {
        o.print = Some(Print::Devices);
        return Ok(());
    }
    if kind == "none" {
        return k.finish("-nic", &["model"]);
    }
    check_kind("-nic", &kind, " or 'none'")?;
    let id = k.take("id").unwrap_or_else(|| format!("#net{}", o.netdevs.len()));
    let mut props = card(&mut k, "mac");
    props.push(("netdev".into(), id.clone()));
    o.nics.push(DeviceSpec { kind: model, props });
    o.netdevs.push(NetdevOption { id, kind, props: k.rest() });
    Ok(())
}

/// `-net`: the old spelling, in which one card and one network belong together.
pub(super) fn net(o: &mut Options, v: &str) -> Result<(), OptionError> {
    const ID: &str = "#hub0";
    let mut k = KeyVals::parse(v, Some("type"));
    let kind = k.take("type").unwrap_or_default();
    o.network = true;
    let twice = |what: &str| {
        OptionError::refused("-net", format!("two {what} on one hub are not there yet; use -nic"))
    };
    let ours = |(name, id): &(String, String)| name == "netdev" && id == ID;
    match kind.as_str() {
        "none" => k.finish("-net", &[]),
        "nic" => {
            let model = k.take("model").unwrap_or_default();
            let mut props = card(&mut k, "macaddr");
            let named = k.take("netdev");
            if named.is_none() && o.nics.iter().any(|n| n.props.iter().any(ours)) {
                return Err(twice("cards"));
            }
            props.push(("netdev".into(), named.unwrap_or_else(|| ID.into())));
            k.take("name");
            k.take("vectors");
            k.finish("-net", &["model", "macaddr", "addr", "netdev", "name", "vectors"])?;
            o.nics.push(DeviceSpec { kind: model, props });
            Ok(())
        }
        _ => {
            check_kind("-net", &kind, ", 'nic' or 'none'")?;
            if o.netdevs.iter().any(|n| n.id == ID) {
                return Err(twice("networks"));
            }
            k.take("id");
            o.netdevs.push(NetdevOption { id: ID.into(), kind, props: k.rest() });
            Ok(())
        }
    }
}

/// What the machine has if nothing was said, and what must be so if something was.
pub(super) fn finish(o: &mut Options) {
    if !o.network && !o.no_defaults {
        let id = "#net0".to_string();
        o.netdevs.push(NetdevOption { id: id.clone(), kind: "user".into(), props: Vec::new() });
        let props = vec![("netdev".into(), id)];
        o.nics.push(DeviceSpec { kind: String::new(), props });
    }
    // A card of the old spelling may stay unconnected.
    if !o.netdevs.iter().any(|n| n.id == "#hub0") {
        for card in &mut o.nics {
            card.props.retain(|(name, id)| name != "netdev" || id != "#hub0");
        }
    }
}
