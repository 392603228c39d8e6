//! Why a call goes where it goes: the decisions of the real way, one after the other, with their reasons. What the gate says of the message
//! comes as an [`Explanation`].

use super::{Conditions, Entry, NoEntry, carries, classify, dialled, enter, targets};
use crate::io::{Explanation, RouteOrigin};
use crate::policy::{AclAction, ClusterConfig, Route, RouteMatch, Trunk, TrunkTarget, acl_of};
use crate::sip::{Scheme, Uri};

/// What was found of one route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExplainedRoute<'a> {
    /// The route.
    pub route: &'a Route,
    /// The conditions that do not hold, for people. Empty: it matches.
    pub failed: Vec<String>,
}

/// What would happen to an INVITE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Routed<'a> {
    /// The rule of the access list that is about the source, by its number from 0.
    pub acl: Option<(usize, AclAction)>,
    /// The trunk that it comes from.
    pub trunk: Option<&'a Trunk>,
    /// The emergency service; `None`: an ordinary call.
    pub service: Option<Box<str>>,
    /// The number or user part that routes look at.
    pub dialled: Option<String>,
    /// All routes in their order. The first without a failed condition is taken.
    pub routes: Vec<ExplainedRoute<'a>>,
    /// Where it would be dialled, in order.
    pub targets: Vec<(&'a Trunk, &'a TrunkTarget)>,
    /// The status that refuses it, and why; `None`: it is dialled, or, with 0, dropped without an answer.
    pub refused: Option<(u16, String)>,
}

impl Routed<'_> {
    /// The number of the route that is taken.
    pub fn taken(&self) -> Option<usize> {
        self.routes.iter().position(|r| r.failed.is_empty())
    }
}

/// Follows a request from its source to its targets, with what the gate says of it. Limits, challenges and hold-downs are of
/// the moment and not looked at.
pub fn explain<'a>(config: &'a ClusterConfig, origin: &RouteOrigin, uri: &Uri, gate: &Explanation) -> Routed<'a> {
    let acl = match origin {
        RouteOrigin::Address(realm, ip) => acl_of(&config.acl, *realm, *ip),
        RouteOrigin::Trunk(_) => None,
    };
    let entered = match origin {
        // As if it had proved who it is.
        RouteOrigin::Address(realm, ip) => enter(config, uri, || super::trunk_of(config, *realm, *ip, None)),
        RouteOrigin::Trunk(name) => enter(config, uri, || config.trunk(name)),
    };
    let (trunk, service) = match &entered {
        Ok(Entry { trunk, service }) => (Some(*trunk), service.clone()),
        Err(_) => (None, classify(config, uri)),
    };
    let user = dialled(uri);
    let conditions =
        Conditions { user: user.as_deref(), host: uri.host(), service: service.as_deref(), from: trunk.map_or("", |t| &t.name) };
    let judge = |route: &'a Route| {
        let failed = route.matches.iter().filter(|m| !conditions.hold(m)).map(|m| conditions.why_not(m)).collect();
        ExplainedRoute { route, failed }
    };
    let routes: Vec<ExplainedRoute<'a>> = config.routes.iter().map(judge).collect();
    let taken = routes.iter().find(|r| r.failed.is_empty());
    let mut targets = taken.map(|r| targets(config, r.route)).unwrap_or_default();
    let any = !targets.is_empty();
    targets.retain(|(_, target)| carries(target.transport, uri.scheme() == Scheme::Sips, service.is_some()));
    let says = |refused: &(u16, Box<str>)| Some((refused.0, refused.1.to_string()));
    let refused = match (entered, taken) {
        _ if gate.refused.is_some() => gate.refused.as_ref().and_then(says),
        (Err(refusal), _) => Some((refusal.status(), refusal.to_string())),
        // It goes where the other dialog is, whatever the routes say.
        _ if gate.replaces.is_some() => None,
        (_, None) => Some((super::unrouted(service.is_some()), "no route matches".into())),
        (_, Some(r)) if any && targets.is_empty() => {
            Some((super::unrouted(true), format!("no target of route {} has TLS, which sips asks for", r.route.name)))
        }
        (_, Some(r)) if targets.is_empty() => {
            Some((super::unrouted(service.is_some()), format!("no trunk of route {} is enabled and has targets", r.route.name)))
        }
        _ => None,
    };
    Routed { acl, trunk, service, dialled: user, routes, targets, refused }
}

impl Conditions<'_> {
    /// Why a condition does not hold, for people.
    fn why_not(&self, condition: &RouteMatch) -> String {
        let user = self.user.map_or("no user part".to_owned(), |u| format!("{u:?}"));
        match condition {
            RouteMatch::Emergency(true) => "emergency = true, but this is no emergency call".into(),
            RouteMatch::Emergency(false) => "emergency = false, but this is an emergency call".into(),
            RouteMatch::User(wanted) => format!("user = {wanted:?}, but it is {user}"),
            RouteMatch::Prefix(wanted) => format!("prefix = {wanted:?}, but the number is {user}"),
            RouteMatch::FromTrunk(wanted) if self.from.is_empty() => {
                format!("from_trunk = {wanted:?}, but it comes from no trunk")
            }
            RouteMatch::FromTrunk(wanted) => format!("from_trunk = {wanted:?}, but it comes from {:?}", self.from),
            RouteMatch::Service(wanted) => match self.service {
                Some(service) => format!("service = {wanted:?}, but it is {service:?}"),
                None => format!("service = {wanted:?}, but this is no emergency call"),
            },
            RouteMatch::Host(wanted) => {
                format!("host = {wanted:?}, but it is {}", self.host.map_or("none".into(), |h| format!("{h:?}")))
            }
        }
    }
}

impl std::fmt::Display for NoEntry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            NoEntry::Scheme => "its Request-URI is of a scheme that cannot be called",
            NoEntry::NoTrunk => "it comes from no trunk",
            NoEntry::Disabled => "its trunk is disabled",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::{HostAndPort, Realm};
    use crate::policy::Prefix;

    fn config() -> ClusterConfig {
        let prefix = |text: &str, len| Prefix { addr: text.parse().unwrap(), len };
        let target = TrunkTarget { host: HostAndPort { host: "192.0.2.1".into(), port: None }, transport: None };
        let route = |name: &str, matches, trunk: &str| Route { name: name.into(), matches, trunks: vec![trunk.into()] };
        ClusterConfig {
            trunks: vec![
                Trunk { sources: vec![prefix("198.18.10.0", 24)], ..Trunk::new("callers", Realm::External) },
                Trunk { sources: vec![prefix("198.18.11.0", 24)], enabled: false, ..Trunk::new("off", Realm::External) },
                Trunk { targets: vec![target], ..Trunk::new("psap", Realm::Core) },
            ],
            routes: vec![
                route("desk", vec![RouteMatch::Prefix("49".into()), RouteMatch::FromTrunk("office".into())], "psap"),
                route("sos", vec![RouteMatch::Emergency(true)], "psap"),
                route("lost", vec![RouteMatch::User("7".into())], "off"),
                route("more", vec![RouteMatch::Emergency(true)], "psap"),
            ],
            emergency_numbers: vec!["112".into()],
            ..ClusterConfig::default()
        }
    }

    #[test]
    fn what_happens_to_whom() {
        let c = config();
        for (source, uri, status, taken, targets) in [
            ("198.18.10.1", "sip:112@x", None, Some(1), 1),
            ("198.18.10.1", "urn:service:sos.fire", None, Some(1), 1),
            ("198.18.10.1", "sip:+49-1@x", Some(404), None, 0),
            ("198.18.10.1", "sip:7@x", Some(404), Some(2), 0),
            ("198.18.10.1", "urn:service:counseling", Some(416), None, 0),
            ("198.18.10.1", "http://112", Some(416), None, 0),
            ("198.18.12.1", "sip:112@x", Some(403), Some(1), 1),
            ("198.18.11.1", "sip:7@x", Some(503), Some(2), 0),
            // A trunk that is switched off still has emergency calls.
            ("198.18.11.1", "sip:112@x", None, Some(1), 1),
        ] {
            let origin = RouteOrigin::Address(Realm::External, source.parse().unwrap());
            let found = explain(&c, &origin, &Uri::parse(uri).unwrap(), &Explanation::default());
            let status_found = found.refused.as_ref().map(|(status, _)| *status);
            assert_eq!((status_found, found.taken(), found.targets.len()), (status, taken, targets), "{source} {uri}");
            // The way of a real call says the same.
            let service = classify(&c, &Uri::parse(uri).unwrap());
            let real =
                super::super::route(&c, &Uri::parse(uri).unwrap(), service.as_deref(), found.trunk.map_or("", |t| &t.name));
            assert_eq!(real.map(|r| &r.name), found.taken().map(|n| &c.routes[n].name), "{source} {uri}");
        }
    }

    #[test]
    fn every_condition_says_why_it_does_not_hold() {
        let c = config();
        let found =
            explain(&c, &RouteOrigin::Trunk("callers".into()), &Uri::parse("sip:112@x").unwrap(), &Explanation::default());
        assert_eq!(found.trunk.map(|t| &*t.name), Some("callers"));
        assert_eq!(
            found.routes[0].failed,
            ["prefix = \"49\", but the number is \"112\"", "from_trunk = \"office\", but it comes from \"callers\""]
        );
        assert!(found.routes[1].failed.is_empty() && found.routes[3].failed.is_empty(), "the later one is shadowed");
        let conditions = Conditions { user: None, host: None, service: None, from: "" };
        for (condition, says) in [
            (RouteMatch::Emergency(true), "no emergency call"),
            (RouteMatch::User("1".into()), "it is no user part"),
            (RouteMatch::FromTrunk("a".into()), "from no trunk"),
            (RouteMatch::Service("sos".into()), "no emergency call"),
            (RouteMatch::Host("h".into()), "it is none"),
        ] {
            assert!(!conditions.hold(&condition));
            assert!(conditions.why_not(&condition).contains(says), "{}", conditions.why_not(&condition));
        }
    }
}
