//! Whose packet is this, is it an emergency call, and where does it go.

mod emergency;
mod explain;
mod review;

use std::net::IpAddr;

use crate::io::{Realm, Transport, TransportChoice};
use crate::policy::{ClusterConfig, Route, RouteMatch, Trunk, TrunkTarget};
use crate::sip::{Scheme, Uri};

pub use emergency::{class_label, classify, emergency_number, tested_service};
pub use explain::{ExplainedRoute, Routed, explain};
pub use review::{FINDING_CAP, Finding, Severity, review};

/// Targets tried for one call at the most: beyond it a caller has given up.
pub const MAX_TARGETS: usize = 16;

/// The trunk that a packet came from: by its source, and by the SIP domains that its connection has proved
/// ([`Trunk::is_proved`]).
pub fn trunk_of<'a>(config: &'a ClusterConfig, realm: Realm, source: IpAddr, proved: Option<&[Box<str>]>) -> Option<&'a Trunk> {
    config.trunks.iter().find(|t| t.realm == realm && t.sources.iter().any(|p| p.contains(source)) && t.is_proved(proved))
}

/// The user part or number that routes and number lists look at: with its escapes resolved (RFC 3261 §19.1.4), without the parameters of
/// a telephone number in it (RFC 3261 §19.1.6: `112;phone-context=…`), and without visual separators in numbers.
pub fn dialled(uri: &Uri) -> Option<String> {
    let user = uri.user_decoded()?;
    let user = user.split(';').next().unwrap_or_default();
    // RFC 3966 §5.1.1 visual separators mean nothing; a user part that is no number keeps its characters.
    let number = user.trim_start_matches('+').chars().all(|c| c.is_ascii_digit() || "-.()".contains(c));
    Some(if number { user.chars().filter(|c| !"-.()".contains(*c)).collect() } else { user.to_owned() })
}

/// Whether [`classify`] finds a service.
pub fn is_emergency(config: &ClusterConfig, uri: &Uri) -> bool {
    classify(config, uri).is_some()
}

/// The first route that matches.
pub fn route<'a>(config: &'a ClusterConfig, uri: &Uri, service: Option<&str>, from: &str) -> Option<&'a Route> {
    let user = dialled(uri);
    // RFC 6881 §17: a test call takes the way that an emergency call would.
    let tested = tested_service(uri);
    let conditions = Conditions { user: user.as_deref(), host: uri.host(), service: service.or(tested.as_deref()), from };
    config.routes.iter().find(|r| r.matches.iter().all(|m| conditions.hold(m)))
}

/// What the conditions of routes look at.
struct Conditions<'a> {
    user: Option<&'a str>,
    host: Option<&'a str>,
    service: Option<&'a str>,
    from: &'a str,
}

impl Conditions<'_> {
    fn hold(&self, condition: &RouteMatch) -> bool {
        match condition {
            RouteMatch::Emergency(e) => *e == self.service.is_some(),
            RouteMatch::User(u) => self.user == Some(&**u),
            RouteMatch::Prefix(p) => self.user.is_some_and(|n| n.starts_with(&**p)),
            RouteMatch::FromTrunk(t) => &**t == self.from,
            RouteMatch::Service(wanted) => self.service.is_some_and(|s| is_part_of(s, wanted)),
            RouteMatch::Host(h) => self.host.is_some_and(|host| host.eq_ignore_ascii_case(h)),
        }
    }
}

/// A call that may come in, as far as the configuration says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The trunk that it comes from.
    pub trunk: &'a Trunk,
    /// The emergency service; `None`: an ordinary call.
    pub service: Option<Box<str>>,
}

/// Why a call may not come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoEntry {
    /// A Request-URI that nobody can be called by.
    Scheme,
    /// Its source is of no trunk.
    NoTrunk,
    /// Its trunk is switched off, and it is no emergency call.
    Disabled,
}

impl NoEntry {
    /// The status of the answer.
    pub fn status(self) -> u16 {
        match self {
            NoEntry::Scheme => 416,
            NoEntry::NoTrunk => 403,
            NoEntry::Disabled => 503,
        }
    }
}

/// Whether the configuration lets a call in, and as what. `trunk`: the trunk of its source.
pub fn enter<'a>(config: &ClusterConfig, uri: &Uri, trunk: impl FnOnce() -> Option<&'a Trunk>) -> Result<Entry<'a>, NoEntry> {
    let service = classify(config, uri);
    if uri.scheme() == Scheme::Other || (uri.scheme() == Scheme::Urn && service.is_none() && tested_service(uri).is_none()) {
        return Err(NoEntry::Scheme);
    }
    let trunk = trunk().ok_or(NoEntry::NoTrunk)?;
    if !trunk.enabled && service.is_none() {
        return Err(NoEntry::Disabled);
    }
    Ok(Entry { trunk, service })
}

/// The status of a call that nothing was dialled for. 404 would tell a caller in distress to dial something else.
pub fn unrouted(emergency: bool) -> u16 {
    if emergency { 480 } else { 404 }
}

/// RFC 5031 §3: a sub-service is one of the service above it.
fn is_part_of(service: &str, wanted: &str) -> bool {
    service.strip_prefix(wanted).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// The enabled trunks of a route, with their targets, in order.
pub fn targets<'a>(config: &'a ClusterConfig, route: &'a Route) -> Vec<(&'a Trunk, &'a TrunkTarget)> {
    route
        .trunks
        .iter()
        .filter_map(|name| config.trunks.iter().find(|t| t.name == *name && t.enabled))
        .flat_map(|t| t.targets.iter().map(move |target| (t, target)))
        .take(MAX_TARGETS)
        .collect()
}

/// Whether a call may go to a target with this transport. RFC 3261 §26.2.2, RFC 5630 §3: what was dialled as sips goes by TLS on each hop,
/// or not at all. An emergency call goes by what there is.
pub fn carries(fixed: Option<Transport>, secure: bool, emergency: bool) -> bool {
    !secure || emergency || !matches!(fixed, Some(Transport::Udp | Transport::Tcp))
}

/// The transport to ask the DNS for.
pub fn transport_choice(fixed: Option<Transport>, secure: bool) -> TransportChoice {
    match fixed {
        Some(t) => TransportChoice::Fixed(t),
        None if secure => TransportChoice::Secure,
        None => TransportChoice::Any,
    }
}

/// The transport that a URI names (RFC 3261 §19.1.1, RFC 3263 §4.1).
pub fn uri_transport(uri: &Uri) -> TransportChoice {
    let secure = uri.scheme() == Scheme::Sips;
    let fixed = uri.transport_param().and_then(|t| match t.to_ascii_lowercase().as_str() {
        "udp" => Some(Transport::Udp),
        "tcp" if secure => Some(Transport::Tls),
        "tcp" => Some(Transport::Tcp),
        "tls" => Some(Transport::Tls),
        _ => None,
    });
    transport_choice(fixed, secure)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Prefix;

    fn config() -> ClusterConfig {
        let trunk = |name: &str, realm, net: &str| Trunk {
            sources: vec![Prefix { addr: net.parse().unwrap(), len: 8 }],
            ..Trunk::new(name, realm)
        };
        ClusterConfig {
            revision: 1,
            trunks: vec![trunk("in", Realm::External, "127.0.0.0"), trunk("psap", Realm::Core, "127.0.0.0")],
            routes: vec![
                Route { name: "sos".into(), matches: vec![RouteMatch::Emergency(true)], trunks: vec!["psap".into()] },
                Route {
                    name: "p".into(),
                    matches: vec![RouteMatch::Prefix("49".into()), RouteMatch::FromTrunk("in".into())],
                    trunks: vec![],
                },
            ],
            emergency_numbers: vec!["112".into(), "911".into()],
            ..ClusterConfig::default()
        }
    }

    #[test]
    fn emergency_class() {
        let c = config();
        for (uri, expected) in [
            ("sip:112@x", true),
            ("tel:112", true),
            ("tel:1-1-2", true),
            ("tel:9.1.1", true),
            ("urn:service:sos", true),
            ("urn:service:sos.fire", true),
            ("urn:service:sosx", false),
            ("sip:1120@x", false),
            ("sip:112@x;user=phone", true),
            ("sips:911@x:5061", true),
            ("sip:x@112", false),
            ("http://112", false),
        ] {
            assert_eq!(is_emergency(&c, &Uri::parse(uri).unwrap()), expected, "{uri}");
        }
    }

    #[test]
    fn routes_and_trunks() {
        let c = config();
        let u = Uri::parse("sip:491234@x").unwrap();
        assert_eq!(&*route(&c, &u, None, "in").unwrap().name, "p");
        assert!(route(&c, &u, None, "other").is_none());
        assert_eq!(&*route(&c, &u, Some("sos"), "other").unwrap().name, "sos");
        assert_eq!(&*trunk_of(&c, Realm::Core, "127.1.1.1".parse().unwrap(), None).unwrap().name, "psap");
        let own = |names: &[&str]| Trunk { tls_names: names.iter().map(|n| (*n).into()).collect(), ..c.trunks[0].clone() };
        let gateway = own(&["gw.example.net", "example.net"]);
        assert!(own(&[]).is_proved(Some(&[])) && gateway.is_proved(None));
        assert!(gateway.is_proved(Some(&["other.test".into(), "Example.NET".into()])));
        assert!(!gateway.is_proved(Some(&[])) && !gateway.is_proved(Some(&["a.example.net".into(), "net".into()])));
        assert!(trunk_of(&c, Realm::Core, "8.8.8.8".parse().unwrap(), None).is_none());
    }

    #[test]
    fn routes_by_service_and_host() {
        let mut c = config();
        let by = |name: &str, m| Route { name: name.into(), matches: vec![m], trunks: vec![] };
        c.routes = vec![
            by("police", RouteMatch::Service("sos.police".into())),
            by("any", RouteMatch::Service("sos".into())),
            by("desk", RouteMatch::Host("desk.example".into())),
        ];
        let name = |uri: &str, service: Option<&str>| route(&c, &Uri::parse(uri).unwrap(), service, "in").map(|r| &*r.name);
        assert_eq!(name("urn:service:sos.police", Some("sos.police")), Some("police"));
        assert_eq!(name("urn:service:sos.policeman", Some("sos.policeman")), Some("any"));
        assert_eq!(name("urn:service:sos.fire", Some("sos.fire")), Some("any"));
        assert_eq!(name("sip:a@DESK.example", None), Some("desk"));
        assert_eq!(name("sip:a@other.example", None), None);
    }

    #[test]
    fn transports_of_uris() {
        let t = |s| uri_transport(&Uri::parse(s).unwrap());
        assert_eq!(t("sip:a@b"), TransportChoice::Any);
        assert_eq!(t("sips:a@b"), TransportChoice::Secure);
        assert_eq!(t("sip:a@b;transport=TCP"), TransportChoice::Fixed(Transport::Tcp));
        assert_eq!(t("sips:a@b;transport=tcp"), TransportChoice::Fixed(Transport::Tls));
    }
}
