//! The cluster's configuration: TOML text to the core's plain values.

use std::net::IpAddr;
use std::time::Duration;

use sbc_core::io::{HostAndPort, Realm, Transport};
use sbc_core::policy::{
    ClusterConfig, MisroutePolicy, PrackPolicy, Prefix, Route, RouteMatch, Settings, SourceCheck, Trunk, TrunkLimits,
    TrunkTarget, TrunkTimers,
};

use super::admission::{ACL_CAP, acl_rule};
use super::fault::{Faults, did_you_mean};
use super::header_rules::RULES_CAP;
use super::reader::{At, Reader, Section};

/// Trunks, and routes, of one cluster: each packet is matched against them in order.
const LIST_CAP: usize = 1000;
/// One day: longer is a mistake of unit.
const MS_MAX: u64 = 86_400_000;

/// What a cluster does before anybody has configured it: it knows what is an emergency call, and has nowhere to send it.
pub fn builtin_cluster() -> ClusterConfig {
    ClusterConfig { emergency_numbers: vec!["112".into(), "911".into()], ..ClusterConfig::default() }
}

/// Parses and validates. The empty text is [`builtin_cluster`]. All faults are reported at once.
pub fn parse_cluster(text: &str, revision: u64) -> Result<ClusterConfig, Faults> {
    let reader = Reader::new(text);
    let Some(table) = reader.parse() else { return reader.finish(None) };
    let config = {
        let root = reader.root(&table);
        let trunk_sections = root.sections("trunks");
        let mut trunks: Vec<Trunk> = Vec::new();
        for section in &trunk_sections {
            trunks.extend(trunk(&reader, section, &trunks));
        }
        // Names also of trunks with faults: a route to them is not wrong.
        let names: Vec<&str> = trunk_sections.iter().filter_map(|s| s.string("name")).map(|n| n.value).collect();
        let mut routes: Vec<Route> = Vec::new();
        for section in &root.sections("routes") {
            routes.extend(route(&reader, section, &names, &routes));
        }
        for (what, count) in [("trunks", trunks.len()), ("routes", routes.len())] {
            if count > LIST_CAP {
                reader.fault(0..0, what, format!("{count} {what}; the most is {LIST_CAP}"), "");
            }
        }
        let mut header_rules = Vec::new();
        for section in &root.sections("header_rules") {
            header_rules.extend(super::header_rules::read(&reader, section, &names, &header_rules));
        }
        if header_rules.len() > RULES_CAP {
            reader.fault(0..0, "header_rules", format!("{} rules; the most is {RULES_CAP}", header_rules.len()), "");
        }
        let acl = root.sections("acl").iter().filter_map(|s| acl_rule(&reader, s)).collect::<Vec<_>>();
        if acl.len() > ACL_CAP {
            reader.fault(0..0, "acl", format!("{} rules; the most is {ACL_CAP}", acl.len()), "");
        }
        let settings = root.section("settings").map(|s| settings(&reader, &s)).unwrap_or_default();
        let mut config = ClusterConfig { revision, trunks, routes, settings, acl, header_rules, ..builtin_cluster() };
        super::emergency::read(&reader, &root, &mut config);
        config
    };
    reader.finish(Some(config))
}

pub(super) fn name<'a, T>(reader: &Reader<'_>, section: &Section<'a>, seen: &[T], of: impl Fn(&T) -> &str) -> Option<&'a str> {
    let name = section.required("name")?;
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.value.len() > 64 || !name.value.chars().all(is_name) {
        reader.fault_at(&name, "a name is up to 64 letters, digits, `-`, `_` or `.`", "");
        return None;
    }
    if seen.iter().any(|s| of(s) == name.value) {
        reader.fault_at(&name, format!("the name \"{}\" stands twice", name.value), "");
        return None;
    }
    Some(name.value)
}

fn trunk(reader: &Reader<'_>, section: &Section<'_>, seen: &[Trunk]) -> Option<Trunk> {
    let name = name(reader, section, seen, |t| &t.name);
    let realm = section.word("realm", &[("external", Realm::External), ("core", Realm::Core)]);
    if !section.has("realm") {
        section.missing("realm");
    }
    let sources = section.strings("sources").iter().filter_map(|s| prefix(reader, s)).collect();
    let targets = section.strings("targets").iter().filter_map(|t| target(reader, t)).collect();
    let misroute = section.word("misroute", &[("relay", MisroutePolicy::Relay), ("redirect", MisroutePolicy::Redirect)]);
    let enabled = section.boolean("enabled");
    let checks = [("trunk", SourceCheck::Trunk), ("strict", SourceCheck::Strict), ("off", SourceCheck::Off)];
    let source_check = section.word("source_check", &checks);
    let prack = section.word("prack", &[("offer", PrackPolicy::Offer), ("pass", PrackPolicy::Pass)]);
    let (timers, limits) = (trunk_timers(section), trunk_limits(section));
    // A trunk that is not used for its faults is read whole all the same.
    let mut trunk = Trunk::new(name.unwrap_or_default(), realm.unwrap_or(Realm::External));
    trunk.auth = super::trunk_auth::auth(reader, section, &trunk.name);
    trunk.requests = super::trunk_auth::requests(section);
    super::profile::read(reader, section, &mut trunk);
    let default = Trunk { name: name?.into(), realm: realm?, ..trunk };
    Some(Trunk {
        sources,
        targets,
        misroute: misroute.unwrap_or(default.misroute),
        enabled: enabled.unwrap_or(default.enabled),
        source_check: source_check.unwrap_or(default.source_check),
        prack: prack.unwrap_or(default.prack),
        timers,
        limits,
        ..default
    })
}

fn trunk_timers(section: &Section<'_>) -> TrunkTimers {
    TrunkTimers {
        failover_after: section.number("failover_after_ms", 100..=32_000).map(Duration::from_millis),
        ring_timeout: section.number("ring_timeout_s", 5..=3600).map(Duration::from_secs),
        session_expires: session_expires(section),
        probe: section.number_or_off("probe_s", 5..=3600).filter(|s| *s > 0).map(Duration::from_secs),
    }
}

fn trunk_limits(section: &Section<'_>) -> TrunkLimits {
    let limit = |key| section.number(key, 0..=u64::from(u32::MAX)).and_then(|n| u32::try_from(n).ok());
    let default = TrunkLimits::default();
    TrunkLimits {
        max_calls: limit("max_calls").unwrap_or(default.max_calls),
        max_rate: limit("max_rate").unwrap_or(default.max_rate),
        max_emergency_calls: limit("max_emergency_calls").unwrap_or(default.max_emergency_calls),
    }
}

pub(super) fn prefix(reader: &Reader<'_>, text: &At<&str>) -> Option<Prefix> {
    let parsed = text.value.parse::<Prefix>().ok();
    if parsed.is_none() {
        let message = format!("expected an address prefix, found \"{}\"", text.value);
        reader.fault_at(text, message, "for example \"198.51.100.0/24\" or \"2001:db8::/32\"");
    }
    parsed
}

fn target(reader: &Reader<'_>, text: &At<&str>) -> Option<TrunkTarget> {
    let parsed = parse_target(text.value);
    if let Err(why) = &parsed {
        reader.fault_at(text, format!("expected a target, found \"{}\": {why}", text.value), TARGET_HINT);
    }
    parsed.ok()
}

const TARGET_HINT: &str = "for example \"198.51.100.7:5060;transport=udp\" or \"psap.example.org\"";

fn parse_target(text: &str) -> Result<TrunkTarget, &'static str> {
    let (address, params) = text.split_once(';').map_or((text, None), |(a, p)| (a, Some(p)));
    let transport = match params.map(|p| p.strip_prefix("transport=")) {
        None => None,
        Some(Some("udp")) => Some(Transport::Udp),
        Some(Some("tcp")) => Some(Transport::Tcp),
        Some(Some("tls")) => Some(Transport::Tls),
        Some(_) => return Err("after `;` only transport=udp, tcp or tls may stand"),
    };
    let (host, port) = if let Some(rest) = address.strip_prefix('[') {
        let (host, after) = rest.split_once(']').ok_or("`]` is missing")?;
        host.parse::<std::net::Ipv6Addr>().map_err(|_| "no IPv6 address in the brackets")?;
        match (after, after.strip_prefix(':')) {
            ("", _) => (host, None),
            (_, Some(port)) => (host, Some(port)),
            _ => return Err("after `]` only a port may stand"),
        }
    } else if address.parse::<std::net::Ipv6Addr>().is_ok() {
        (address, None)
    } else {
        address.split_once(':').map_or((address, None), |(h, p)| (h, Some(p)))
    };
    let port = port.map(|p| p.parse::<u16>().ok().filter(|p| *p != 0).ok_or("the port is not 1 to 65535")).transpose()?;
    let label =
        |l: &str| !l.is_empty() && l.len() <= 63 && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if host.parse::<IpAddr>().is_err() && (host.len() > 253 || !host.trim_end_matches('.').split('.').all(label)) {
        return Err("neither an address nor a host name");
    }
    Ok(TrunkTarget { host: HostAndPort { host: host.into(), port }, transport })
}

fn route(reader: &Reader<'_>, section: &Section<'_>, trunks: &[&str], seen: &[Route]) -> Option<Route> {
    let name = name(reader, section, seen, |r| &r.name);
    let known = |trunk: &At<&str>| {
        let found = trunks.contains(&trunk.value);
        if !found {
            let hint = did_you_mean(trunk.value, trunks.iter().copied());
            reader.fault_at(trunk, format!("there is no trunk \"{}\"", trunk.value), hint);
        }
        found
    };
    let mut matches = Vec::new();
    matches.extend(section.boolean("emergency").map(RouteMatch::Emergency));
    matches.extend(section.string("user").map(|s| RouteMatch::User(s.value.into())));
    matches.extend(section.string("prefix").map(|s| RouteMatch::Prefix(s.value.into())));
    matches.extend(section.string("service").and_then(|s| super::emergency::service(reader, &s)).map(RouteMatch::Service));
    matches.extend(section.string("host").map(|s| RouteMatch::Host(s.value.into())));
    matches.extend(section.string("from_trunk").filter(known).map(|s| RouteMatch::FromTrunk(s.value.into())));
    let listed = section.strings("trunks");
    if listed.is_empty() {
        section.missing("trunks");
    }
    let trunks = listed.iter().filter(|t| known(t)).map(|t| t.value.into()).collect();
    Some(Route { name: name?.into(), matches, trunks })
}

/// RFC 4028 §4: 90 s at the least.
fn session_expires(section: &Section<'_>) -> Option<Duration> {
    section.number_or_off("session_expires_s", 90..=86_400).map(Duration::from_secs)
}

/// Parts of User-Agent values; an empty list: nobody is taken for a scanner.
fn scanners(section: &Section<'_>) -> Vec<Box<str>> {
    section
        .strings("scanners")
        .iter()
        .map(|s| s.value.trim().to_ascii_lowercase())
        .filter(|s| !s.is_empty())
        .map(Into::into)
        .collect()
}

/// Host names, without a dot at their end.
fn own_names(reader: &Reader<'_>, section: &Section<'_>) -> Vec<Box<str>> {
    let mut names = Vec::new();
    for name in section.strings("own_names") {
        let host = name.value.trim_end_matches('.').to_ascii_lowercase();
        let label = |l: &str| !l.is_empty() && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if host.split('.').all(label) && host.parse::<IpAddr>().is_err() {
            names.push(host.into());
        } else {
            reader.fault_at(&name, format!("expected a host name, found \"{}\"", name.value), "our addresses are known anyway");
        }
    }
    names
}

fn settings(reader: &Reader<'_>, section: &Section<'_>) -> Settings {
    let default = Settings::default();
    let ms = |key, least, most: u64| section.number(key, least..=most.min(MS_MAX)).map(Duration::from_millis);
    let count = |key, least| section.number(key, least..=u64::from(u32::MAX)).and_then(|n| u32::try_from(n).ok());
    Settings {
        // More than a second would let the caller's UA repeat its INVITE before it is answered.
        claim_budget: ms("claim_budget_ms", 1, 1000).unwrap_or(default.claim_budget),
        failover_after: ms("failover_after_ms", 100, 32_000).unwrap_or(default.failover_after),
        nat_keepalive: section
            .number_or_off("nat_keepalive_s", 1..=600)
            .map(Duration::from_secs)
            .unwrap_or(default.nat_keepalive),
        cancel_hold: ms("cancel_hold_ms", 0, 1000).unwrap_or(default.cancel_hold),
        ring_timeout: section.number("ring_timeout_s", 5..=3600).map(Duration::from_secs).unwrap_or(default.ring_timeout),
        emergency_ring_timeout: section
            .number("emergency_ring_timeout_s", 5..=3600)
            .map(Duration::from_secs)
            .unwrap_or(default.emergency_ring_timeout),
        session_expires: session_expires(section).unwrap_or(default.session_expires),
        max_calls: count("max_calls", 1).unwrap_or(default.max_calls),
        shed_at: section.number("shed_at", 0..=99).and_then(|n| u8::try_from(n).ok()).unwrap_or(default.shed_at),
        source_rate: count("source_rate", 0).unwrap_or(default.source_rate),
        emergency_source_rate: count("emergency_source_rate", 0).unwrap_or(default.emergency_source_rate),
        scanner_ban: section.number_or_off("scanner_ban_s", 60..=604_800).map(Duration::from_secs).unwrap_or(default.scanner_ban),
        own_names: own_names(reader, section),
        scanners: if section.has("scanners") { scanners(section) } else { default.scanners },
    }
}
