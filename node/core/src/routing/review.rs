//! What a configuration would do to those who dial, asked before it is in force: by the way of real calls, as [`explain`] follows it.
//!
//! What is kept true: a configuration by which an emergency number leads nowhere does not pass as good.

use std::collections::BTreeSet;
use std::fmt;

use super::explain::{Routed, explain};
use super::{classify, route, targets};
use crate::io::{Explanation, Realm, RouteOrigin};
use crate::policy::{AclAction, ClusterConfig, Numbers, Prefix, RouteMatch, Trunk};
use crate::sip::Uri;

/// Findings of one review: a configuration with more is wrong as a whole, and each is asked of every trunk and number.
pub const FINDING_CAP: usize = 50;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Somebody in distress is not put through.
    Error,
    /// It cannot be meant so.
    Warning,
    /// Worth a look.
    Info,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Info => "info",
        })
    }
}

/// Something about a configuration that is right in itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What it is about, as a path such as `trunks[1]`.
    pub path: String,
    /// What was found.
    pub message: String,
    /// What to do.
    pub hint: &'static str,
}

/// Looks at a configuration as a caller would, at most [`FINDING_CAP`] findings, the worst first.
pub fn review(config: &ClusterConfig) -> Vec<Finding> {
    let mut found = Vec::new();
    let callers = callers(config, &mut found);
    no_numbers(config, &mut found);
    if callers.is_empty() {
        found.push(Finding {
            severity: Severity::Error,
            path: "trunks".into(),
            message: "no trunk has sources that can call: every call is refused, emergency calls too".into(),
            hint: "a trunk with `sources` lets calls in",
        });
    }
    let callers = distinct(config, callers);
    for dialled in dialled_in_distress(config) {
        for (n, trunk) in &callers {
            found.extend(lost(config, *n, trunk, &dialled));
        }
    }
    found.sort_by_key(|f| f.severity);
    found.truncate(FINDING_CAP);
    found
}

/// The trunks from which calls can come, and what is wrong with the others.
fn callers<'a>(config: &'a ClusterConfig, found: &mut Vec<Finding>) -> Vec<(usize, &'a Trunk)> {
    let mut callers = Vec::new();
    for (n, trunk) in config.trunks.iter().enumerate() {
        let path = format!("trunks[{n}]");
        if trunk.sources.is_empty() {
            if !config.routes.iter().any(|r| r.trunks.contains(&trunk.name)) {
                let message = format!("trunk \"{}\" has no sources and stands in no route: nothing uses it", trunk.name);
                found.push(Finding { severity: Severity::Info, path, message, hint: "" });
            }
            continue;
        }
        if let Some(before) = shadowed(config, n) {
            let message = format!("trunk \"{}\" never matches: all its sources are of trunk \"{before}\" before it", trunk.name);
            let hint = "the first trunk of a side that has the source is taken: put the one with fewer sources first";
            found.push(Finding { severity: Severity::Warning, path, message, hint });
        } else if trunk.sources.iter().all(|p| taken_by_acl(config, trunk.realm, p)) {
            let message = format!("the access list lets no source of trunk \"{}\" in, for emergency calls neither", trunk.name);
            let hint = "put an [[acl]] rule with action = \"allow\" before the one that takes them";
            found.push(Finding { severity: Severity::Error, path, message, hint });
        } else {
            callers.push((n, trunk));
        }
    }
    callers
}

/// Of the trunks that no route tells apart one a side: what is true of it is true of all, and a thousand need not be asked.
fn distinct<'a>(config: &'a ClusterConfig, callers: Vec<(usize, &'a Trunk)>) -> Vec<(usize, &'a Trunk)> {
    let conditions = || config.routes.iter().flat_map(|r| &r.matches);
    let named: BTreeSet<&str> =
        conditions().filter_map(|m| if let RouteMatch::FromTrunk(name) = m { Some(&**name) } else { None }).collect();
    let mut seen: Vec<Realm> = Vec::new();
    let mut keep = |trunk: &Trunk| {
        let first = !seen.contains(&trunk.realm);
        if !named.contains(&*trunk.name) && first {
            seen.push(trunk.realm);
        }
        named.contains(&*trunk.name) || first
    };
    callers.into_iter().filter(|(_, trunk)| keep(trunk)).collect()
}

fn no_numbers(config: &ClusterConfig, found: &mut Vec<Finding>) {
    if config.emergency_numbers.is_empty() && config.numbers.is_empty() {
        found.push(Finding {
            severity: Severity::Warning,
            path: "emergency.numbers".into(),
            message: "no number is an emergency call: 112 is routed, counted and shed as any other".into(),
            hint: "name the numbers, for example numbers = [\"112\"]",
        });
    }
}

/// The trunk that takes all that this one is for; `None`: something is left for it.
fn shadowed(config: &ClusterConfig, n: usize) -> Option<&str> {
    let trunk = config.trunks.get(n)?;
    // One whose callers prove their names takes none but those.
    let earlier = || config.trunks.iter().take(n).filter(|t| t.realm == trunk.realm && t.tls_names.is_empty());
    let before: Vec<Prefix> = earlier().flat_map(|t| &t.sources).map(|p| p.canonical()).collect();
    if !trunk.sources.iter().all(|p| is_covered(p.canonical(), &before)) {
        return None;
    }
    let first = trunk.sources.first()?.canonical().addr;
    earlier().find(|t| t.sources.iter().any(|p| p.contains(first))).map(|t| &*t.name)
}

/// Whether each address of a prefix lies in one of the others: in one that holds it whole, or its halves do.
fn is_covered(prefix: Prefix, by: &[Prefix]) -> bool {
    if by.iter().any(|b| b.len <= prefix.len && b.contains(prefix.addr)) {
        return true;
    }
    let within: Vec<Prefix> = by.iter().filter(|b| b.len > prefix.len && prefix.contains(b.addr)).copied().collect();
    // Fewer than two cannot make up a whole that none of them is.
    within.len() > 1 && prefix.halves().is_some_and(|halves| halves.into_iter().all(|half| is_covered(half, &within)))
}

/// Whether the access list takes every packet of a prefix.
fn taken_by_acl(config: &ClusterConfig, realm: Realm, prefix: &Prefix) -> bool {
    let mut taken = Vec::new();
    for rule in config.acl.iter().filter(|r| r.realm.is_none_or(|of| of == realm) && r.prefix.overlaps(prefix)) {
        let whole = rule.prefix.len <= prefix.len;
        match rule.action {
            AclAction::Allow if is_covered(rule.prefix.canonical(), &taken) => {}
            AclAction::Allow => return false,
            AclAction::Deny | AclAction::Reject if whole => return true,
            AclAction::Deny | AclAction::Reject => taken.push(rule.prefix.canonical()),
        }
    }
    is_covered(prefix.canonical(), &taken)
}

/// What people in distress dial, by this configuration: a representative of each range, and each service by its name.
fn dialled_in_distress(config: &ClusterConfig) -> Vec<Uri> {
    let mut texts: Vec<String> = config.emergency_numbers.iter().map(|n| format!("tel:{n}")).collect();
    let mut services: BTreeSet<&str> = BTreeSet::from(["sos"]);
    for range in &config.numbers {
        services.insert(&range.service);
        match &range.numbers {
            Numbers::Prefix(prefix) => texts.push(format!("tel:{prefix}")),
            Numbers::Span(first, last) if first == last => texts.push(format!("tel:{first}")),
            Numbers::Span(first, last) => texts.extend([format!("tel:{first}"), format!("tel:{last}")]),
        }
    }
    texts.extend(services.into_iter().map(|s| format!("urn:service:{s}")));
    // What is no URI cannot be dialled.
    texts.iter().filter_map(|text| Uri::parse(text).ok()).collect()
}

/// The finding that an emergency call from a trunk is not put through.
fn lost(config: &ClusterConfig, n: usize, trunk: &Trunk, uri: &Uri) -> Option<Finding> {
    // The reasons are put into words for those calls only that are lost.
    let service = classify(config, uri);
    let taken = route(config, uri, service.as_deref(), &trunk.name);
    if service.is_some() && taken.is_some_and(|r| !targets(config, r).is_empty()) {
        return None;
    }
    let found = explain(config, &RouteOrigin::Trunk(trunk.name.clone()), uri, &Explanation::default());
    let (_, why) = found.refused.as_ref()?;
    // A PSAP's own line: that it cannot call for help itself may be meant.
    let own = trunk.realm == Realm::Core && config.trunks.iter().any(|t| t.realm == Realm::External && !t.sources.is_empty());
    Some(Finding {
        severity: if own { Severity::Info } else { Severity::Error },
        path: place(n, &found),
        message: format!("{} from trunk \"{}\" is an emergency call and reaches no target: {why}", uri.as_str(), trunk.name),
        hint: "a route with emergency = true and an enabled trunk that has targets takes it",
    })
}

/// What is to be mended: the route that is taken, else the trunk whose calls find none.
fn place(n: usize, found: &Routed<'_>) -> String {
    found.taken().map_or_else(|| format!("trunks[{n}]"), |route| format!("routes[{route}]"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::HostAndPort;
    use crate::policy::{AclRule, NumberRange, Route, TrunkTarget};

    fn prefixes(texts: &[&str]) -> Vec<Prefix> {
        texts.iter().map(|t| t.parse().unwrap()).collect()
    }

    fn trunk(name: &str, realm: Realm, sources: &[&str]) -> Trunk {
        Trunk { sources: prefixes(sources), ..Trunk::new(name, realm) }
    }

    fn way(name: &str, matches: Vec<RouteMatch>) -> Route {
        Route { name: name.into(), matches, trunks: vec!["psap".into()] }
    }

    fn good() -> ClusterConfig {
        let target = TrunkTarget { host: HostAndPort { host: "192.0.2.1".into(), port: None }, transport: None };
        ClusterConfig {
            trunks: vec![
                Trunk { targets: vec![target], ..trunk("psap", Realm::Core, &["192.0.2.1"]) },
                trunk("callers", Realm::External, &["0.0.0.0/0", "::/0"]),
            ],
            routes: vec![way("emergency", vec![RouteMatch::Emergency(true)])],
            emergency_numbers: vec!["112".into(), "911".into()],
            numbers: vec![NumberRange {
                name: "police".into(),
                numbers: Numbers::Span("110".into(), "119".into()),
                service: "sos.police".into(),
            }],
            ..ClusterConfig::default()
        }
    }

    fn found(change: impl FnOnce(&mut ClusterConfig)) -> Vec<(Severity, String, String)> {
        let mut config = good();
        change(&mut config);
        review(&config).into_iter().map(|f| (f.severity, f.path, f.message)).collect()
    }

    #[test]
    fn a_good_one_has_no_findings() {
        assert_eq!(found(|_| ()), []);
    }

    #[test]
    fn an_empty_one_takes_no_calls() {
        let found = review(&ClusterConfig { emergency_numbers: vec!["112".into()], ..ClusterConfig::default() });
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].severity, &*found[0].path), (Severity::Error, "trunks"));
    }

    #[test]
    fn each_emergency_number_and_name_leads_somewhere() {
        let all = found(|c| c.routes.clear());
        let errors: Vec<&str> = all.iter().filter(|f| f.0 == Severity::Error).map(|f| &*f.2).collect();
        let dialled = ["tel:112", "tel:911", "tel:110", "tel:119", "urn:service:sos", "urn:service:sos.police"];
        assert_eq!(errors.len(), dialled.len(), "{errors:?}");
        for (error, dialled) in errors.iter().zip(dialled) {
            assert!(
                error.starts_with(&format!("{dialled} from trunk \"callers\"")) && error.ends_with("no route matches"),
                "{error}"
            );
        }
        // The PSAP's own line is told, and no error.
        assert_eq!(all.iter().filter(|f| f.0 == Severity::Info).count(), dialled.len());

        let some = found(|c| c.routes[0].matches = vec![RouteMatch::Service("sos.police".into())]);
        let errors: Vec<&str> = some.iter().filter(|f| f.0 == Severity::Error).map(|f| f.2.split(' ').next().unwrap()).collect();
        assert_eq!(errors, ["tel:112", "tel:911", "urn:service:sos"]);
    }

    #[test]
    fn the_route_is_named_whose_trunks_have_no_targets() {
        for change in
            [(|c: &mut ClusterConfig| c.trunks[0].enabled = false) as fn(&mut ClusterConfig), |c| c.trunks[0].targets.clear()]
        {
            let all = found(change);
            assert!(all.iter().any(|f| f.0 == Severity::Error && f.1 == "routes[0]"), "{all:?}");
        }
        // An ordinary route that stands before it takes the number, and leads nowhere.
        let all = found(|c| {
            c.trunks.push(Trunk::new("nowhere", Realm::Core));
            c.routes.insert(0, Route { trunks: vec!["nowhere".into()], ..way("short", vec![RouteMatch::Prefix("1".into())]) });
        });
        let errors: Vec<&str> = all.iter().filter(|f| f.0 == Severity::Error).map(|f| f.2.split(' ').next().unwrap()).collect();
        assert_eq!(errors, ["tel:112", "tel:110", "tel:119"]);
    }

    #[test]
    fn callers_of_one_trunk_only() {
        let all = found(|c| {
            c.trunks.insert(1, trunk("office", Realm::External, &["198.18.10.0/24"]));
            c.routes[0].matches.push(RouteMatch::FromTrunk("office".into()));
        });
        assert!(all.iter().any(|f| f.0 == Severity::Error && f.2.contains("\"callers\"")), "{all:?}");
        assert!(!all.iter().any(|f| f.2.contains("\"office\"")), "{all:?}");
        // Where nobody calls from outside, the core side's trunks are the callers.
        let all = found(|c| {
            c.trunks.truncate(1);
            c.routes.clear();
        });
        assert!(all.iter().any(|f| f.0 == Severity::Error && f.2.contains("\"psap\"")), "{all:?}");
    }

    #[test]
    fn a_trunk_that_never_matches() {
        let warnings = |sources: &[&str], realm, first: &[&str]| {
            let second = Trunk { sources: prefixes(sources), ..Trunk::new("second", realm) };
            let all = found(|c| {
                c.trunks[1].sources = prefixes(first);
                c.trunks.push(second);
            });
            all.into_iter().filter(|f| f.0 == Severity::Warning).map(|f| f.1).collect::<Vec<_>>()
        };
        let all = ["0.0.0.0/0", "::/0"];
        assert_eq!(warnings(&["0.0.0.0/0"], Realm::External, &all), ["trunks[2]"]);
        assert_eq!(warnings(&["198.18.0.0/15", "2001:db8::/32"], Realm::External, &all), ["trunks[2]"]);
        assert_eq!(warnings(&["0.0.0.0/0"], Realm::External, &["0.0.0.0/1", "128.0.0.0/1"]), ["trunks[2]"]);
        let none: [&str; 0] = [];
        assert_eq!(warnings(&["0.0.0.0/0"], Realm::Core, &all), none, "another side");
        assert_eq!(warnings(&["0.0.0.0/0"], Realm::External, &["0.0.0.0/1", "128.0.0.0/2"]), none, "a quarter is left");
        assert_eq!(warnings(&["198.18.0.0/15"], Realm::External, &["198.18.0.0/16"]), none, "half is left");
        assert_eq!(warnings(&["0.0.0.0/0", "::/0"], Realm::External, &["0.0.0.0/0"]), none, "IPv6 is left");
        let proved = found(|c| {
            c.trunks[1].tls_names = vec!["sbc.example".into()];
            c.trunks.push(trunk("second", Realm::External, &["0.0.0.0/0"]));
        });
        assert_eq!(proved, [], "the first takes only who proves a name");
    }

    #[test]
    fn an_access_list_that_takes_all_of_a_trunk() {
        let acl = |rules: &[(&str, AclAction)]| {
            let rule = |(p, action): &(&str, AclAction)| AclRule { prefix: p.parse().unwrap(), realm: None, action: *action };
            let rules = rules.iter().map(rule).collect();
            let all = found(|c| {
                c.trunks[1].sources = prefixes(&["198.18.0.0/16"]);
                c.acl = rules;
            });
            all.iter().any(|f| f.0 == Severity::Error && f.1 == "trunks[1]")
        };
        use AclAction::{Allow, Deny, Reject};
        assert!(acl(&[("0.0.0.0/0", Deny)]) && acl(&[("198.18.0.0/17", Deny), ("198.18.128.0/17", Reject)]));
        assert!(acl(&[("198.18.1.0/24", Deny), ("198.18.1.7/32", Allow), ("198.18.0.0/16", Deny)]));
        assert!(!acl(&[("198.18.0.0/17", Deny)]) && !acl(&[("198.18.1.0/24", Allow), ("0.0.0.0/0", Deny)]));
        assert!(!acl(&[("203.0.113.0/24", Deny)]));
    }

    #[test]
    fn no_numbers_and_trunks_of_no_use() {
        let all = found(|c| (c.emergency_numbers, c.numbers) = (Vec::new(), Vec::new()));
        assert_eq!(all.iter().map(|f| (f.0, &*f.1)).collect::<Vec<_>>(), [(Severity::Warning, "emergency.numbers")]);
        let all = found(|c| c.trunks.push(Trunk::new("spare", Realm::Core)));
        assert_eq!(all.iter().map(|f| (f.0, &*f.1)).collect::<Vec<_>>(), [(Severity::Info, "trunks[2]")]);
    }

    #[test]
    fn the_worst_come_first_and_they_are_bounded() {
        let all = review(&ClusterConfig {
            trunks: vec![trunk("callers", Realm::External, &["0.0.0.0/0"])],
            emergency_numbers: (0..60).map(|n| format!("1{n:02}").into()).collect(),
            ..ClusterConfig::default()
        });
        assert_eq!(all.len(), FINDING_CAP);
        assert!(all.is_sorted_by_key(|f| f.severity));
    }
}
