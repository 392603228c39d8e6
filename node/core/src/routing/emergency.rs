//! Is this an emergency call, and for which service: decided once, at the first INVITE, and carried in every record.

use super::dialled;
use crate::policy::ClusterConfig;
use crate::sip::{Scheme, Uri};

/// Longest service name that is kept: names of RFC 5031 are far shorter.
const MAX_SERVICE: usize = 64;

/// The service of a call, without `urn:service:` and in lower case: "sos", "sos.fire"; `None`: no emergency call.
///
/// `urn:service:sos` and its sub-services (RFC 5031 §3), the same under the older `urn:emergency:service:`, the configured numbers
/// ("sos"), and the configured ranges.
pub fn classify(config: &ClusterConfig, uri: &Uri) -> Option<Box<str>> {
    match uri.scheme() {
        Scheme::Urn => of_urn(uri.as_str()),
        Scheme::Sip | Scheme::Sips | Scheme::Tel => {
            let number = dialled(uri)?;
            let at = emergency_number(config, &number)?;
            let range = at.checked_sub(config.emergency_numbers.len());
            Some(range.map_or("sos".into(), |range| config.numbers[range].service.clone()))
        }
        Scheme::Other => None,
    }
}

/// Which of the configured emergency numbers a number is: the single ones come first, then the ranges.
pub fn emergency_number(config: &ClusterConfig, number: &str) -> Option<usize> {
    // No number of E.164 is as short as an emergency number: who dials +112 means 112.
    let digits = number.strip_prefix('+').unwrap_or(number);
    let single = config.emergency_numbers.iter().position(|e| **e == *number || **e == *digits);
    single.or_else(|| {
        let range = config.numbers.iter().position(|range| range.numbers.contain(digits))?;
        Some(config.emergency_numbers.len() + range)
    })
}

/// RFC 8141 §3.1: the urn scheme, the namespace and, by RFC 5031 §3, the service are compared without case.
fn of_urn(text: &str) -> Option<Box<str>> {
    let text = text.split(['?', '#']).next().unwrap_or_default();
    if text.len() > MAX_SERVICE {
        return None;
    }
    let text = text.to_ascii_lowercase();
    let service = text.strip_prefix("urn:service:").or_else(|| text.strip_prefix("urn:emergency:service:"))?;
    sos(service)
}

/// The service that a test call tests: "sos.fire" of `urn:service:test.sos.fire` (RFC 6881 §17). It is no emergency call: nothing is
/// shed or challenged less for it, since anybody may make any number of them.
pub fn tested_service(uri: &Uri) -> Option<Box<str>> {
    if uri.scheme() != Scheme::Urn || uri.as_str().len() > MAX_SERVICE {
        return None;
    }
    sos(uri.as_str().to_ascii_lowercase().strip_prefix("urn:service:test.")?)
}

fn sos(service: &str) -> Option<Box<str>> {
    let rest = service.strip_prefix("sos")?;
    (rest.is_empty() || is_sub_service(rest)).then(|| service.into())
}

/// `.fire`, `.ecall.manual`: labels of letters, digits and hyphens.
fn is_sub_service(rest: &str) -> bool {
    let label = |l: &str| !l.is_empty() && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    rest.strip_prefix('.').is_some_and(|rest| rest.split('.').all(label))
}

/// A bounded label for counters: the registered services of RFC 5031 and RFC 8147, "sos.other" for more, "none" for an
/// ordinary call.
pub fn class_label(service: Option<&str>) -> &'static str {
    const KNOWN: [&str; 13] = [
        "sos",
        "sos.ambulance",
        "sos.animal-control",
        "sos.ecall.automatic",
        "sos.ecall.manual",
        "sos.fire",
        "sos.gas",
        "sos.marine",
        "sos.mountain",
        "sos.physician",
        "sos.poison",
        "sos.police",
        "sos.other",
    ];
    match service {
        None => "none",
        Some(service) => KNOWN.into_iter().find(|known| *known == service).unwrap_or("sos.other"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{NumberRange, Numbers};

    #[test]
    fn classes() {
        let range = |name: &str, numbers, service: &str| NumberRange { name: name.into(), numbers, service: service.into() };
        let config = ClusterConfig {
            emergency_numbers: vec!["112".into(), "911".into()],
            numbers: vec![
                range("police", Numbers::Span("110".into(), "110".into()), "sos.police"),
                range("relay", Numbers::Prefix("4911".into()), "sos.fire"),
            ],
            ..ClusterConfig::default()
        };
        for (uri, expected) in [
            ("sip:112@x", Some("sos")),
            ("tel:1-1-2", Some("sos")),
            ("tel:9.1.1", Some("sos")),
            ("sips:911@x:5061", Some("sos")),
            ("tel:110", Some("sos.police")),
            ("tel:+49-11-5", Some("sos.fire")),
            ("sip:+49115@x;user=phone", Some("sos.fire")),
            ("urn:service:sos", Some("sos")),
            ("URN:Service:SOS.Fire", Some("sos.fire")),
            ("urn:service:sos.ecall.manual", Some("sos.ecall.manual")),
            ("urn:emergency:service:sos.police", Some("sos.police")),
            ("urn:service:sosx", None),
            ("urn:service:sos.", None),
            ("urn:service:sos..fire", None),
            ("urn:service:counseling", None),
            ("sip:1120@x", None),
            ("sip:x@112", None),
            ("http://112", None),
            ("sip:112;phone-context=+49@x;user=phone", Some("sos")),
            ("sip:110;phone-context=ims.mnc001.mcc262.3gppnetwork.org@x;user=phone", Some("sos.police")),
            ("tel:112;phone-context=example.net", Some("sos")),
            ("sip:%31%31%32@x", Some("sos")),
            ("sip:1%2D1%2E2@x", Some("sos")),
            ("sip:+112@x", Some("sos")),
            ("sip:112:secret@x", Some("sos")),
            ("sip:1123;phone-context=112@x", None),
            ("urn:service:test.sos", None),
        ] {
            assert_eq!(classify(&config, &Uri::parse(uri).unwrap()).as_deref(), expected, "{uri}");
        }
    }

    #[test]
    fn tests_are_no_emergencies_and_take_their_routes() {
        let uri = |text: &str| Uri::parse(text).unwrap();
        for (text, expected) in [
            ("urn:service:test.sos", Some("sos")),
            ("URN:service:TEST.sos.Fire", Some("sos.fire")),
            ("urn:service:sos", None),
            ("urn:service:test.counseling", None),
            ("urn:service:test.sos.", None),
            ("sip:test.sos@x", None),
        ] {
            assert_eq!(tested_service(&uri(text)).as_deref(), expected, "{text}");
        }
        let route = |name: &str, matches| crate::policy::Route { name: name.into(), matches: vec![matches], trunks: vec![] };
        let config = ClusterConfig {
            routes: vec![
                route("fire", crate::policy::RouteMatch::Service("sos.fire".into())),
                route("all", crate::policy::RouteMatch::Emergency(true)),
            ],
            ..ClusterConfig::default()
        };
        let taken = |text: &str| super::super::route(&config, &uri(text), None, "callers").map(|r| &*r.name);
        assert_eq!((taken("urn:service:test.sos.fire"), taken("urn:service:test.sos")), (Some("fire"), Some("all")));
        assert_eq!(taken("sip:someone@x"), None);
    }

    #[test]
    fn labels_are_a_closed_set() {
        assert_eq!(class_label(None), "none");
        assert_eq!(class_label(Some("sos.fire")), "sos.fire");
        assert_eq!(class_label(Some("sos.something.else")), "sos.other");
    }
}
