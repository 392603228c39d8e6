//! `[emergency]` and `[[numbers]]`: what is an emergency call, and what we call it.

use sbc_core::policy::{ClusterConfig, NumberRange, Numbers};

use super::cluster::name;
use super::reader::{At, Reader, Section};

/// Ranges: each dialled number is compared with them in order.
const RANGES_CAP: usize = 1000;

/// Reads both into `config`.
pub(super) fn read(reader: &Reader<'_>, root: &Section<'_>, config: &mut ClusterConfig) {
    if let Some(section) = root.section("emergency") {
        if section.has("numbers") {
            config.emergency_numbers = section.strings("numbers").iter().filter_map(|n| number(reader, n)).collect();
        }
        config.element_id = section.string("element_id").and_then(|id| element_id(reader, &id));
    }
    let mut ranges: Vec<NumberRange> = Vec::new();
    for section in &root.sections("numbers") {
        ranges.extend(range(reader, section, &ranges));
    }
    if ranges.len() > RANGES_CAP {
        reader.fault(0..0, "numbers", format!("{} ranges; the most is {RANGES_CAP}", ranges.len()), "");
    }
    config.numbers = ranges;
}

fn number(reader: &Reader<'_>, n: &At<&str>) -> Option<Box<str>> {
    if n.value.is_empty() || n.value.len() > 32 || n.value.chars().any(|c| c.is_whitespace() || c.is_control()) {
        reader.fault_at(n, format!("expected a number such as \"112\", found \"{}\"", n.value), "");
        return None;
    }
    Some(n.value.into())
}

/// A host name (NENA-STA-010: an element identifier).
fn element_id(reader: &Reader<'_>, id: &At<&str>) -> Option<Box<str>> {
    let label =
        |l: &str| !l.is_empty() && l.len() <= 63 && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if id.value.len() > 128 || !id.value.split('.').all(label) {
        reader.fault_at(id, format!("expected a host name, found \"{}\"", id.value), "for example \"sbc.example.net\"");
        return None;
    }
    Some(id.value.into())
}

fn range(reader: &Reader<'_>, section: &Section<'_>, seen: &[NumberRange]) -> Option<NumberRange> {
    let name = name(reader, section, seen, |r| &r.name);
    let digits = |key: &'static str| {
        let text = section.string(key)?;
        let plain = text.value.strip_prefix('+').unwrap_or(text.value);
        if plain.is_empty() || plain.len() > 32 || !plain.bytes().all(|b| b.is_ascii_digit()) {
            reader.fault_at(&text, format!("expected digits, found \"{}\"", text.value), "for example \"112\" or \"+4930\"");
            return None;
        }
        Some(At { value: plain, ..text })
    };
    let service = section.string("service").and_then(|s| service(reader, &s));
    let (prefix, first, last) = (digits("prefix"), digits("from"), digits("to"));
    let numbers = match (prefix, first, last) {
        (Some(prefix), None, None) => Some(Numbers::Prefix(prefix.value.into())),
        (None, Some(first), Some(last)) if first.value.len() == last.value.len() && first.value <= last.value => {
            Some(Numbers::Span(first.value.into(), last.value.into()))
        }
        (None, Some(_), Some(last)) => {
            reader.fault_at(&last, "`to` is of the same length as `from` and not below it", "");
            None
        }
        _ if ["prefix", "from", "to"].iter().any(|key| section.has(key)) => {
            let at = ["prefix", "from", "to"].iter().find_map(|key| section.string(key))?;
            reader.fault_at(&at, "either `prefix`, or both `from` and `to`", "");
            None
        }
        _ => {
            section.missing("prefix");
            None
        }
    };
    Some(NumberRange { name: name?.into(), numbers: numbers?, service: service.unwrap_or_else(|| "sos".into()) })
}

/// "sos.fire", with or without `urn:service:` (RFC 5031).
pub(super) fn service(reader: &Reader<'_>, text: &At<&str>) -> Option<Box<str>> {
    let lower = text.value.to_ascii_lowercase();
    let bare = lower.strip_prefix("urn:service:").unwrap_or(&lower);
    let label = |l: &str| !l.is_empty() && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if bare.len() > 64 || !bare.split('.').all(label) || bare.split('.').next() != Some("sos") {
        reader.fault_at(text, format!("expected an emergency service, found \"{}\"", text.value), "for example \"sos.fire\"");
        return None;
    }
    Some(bare.into())
}

#[cfg(test)]
mod tests {
    use super::super::parse_cluster;
    use super::*;

    const TEXT: &str = r#"
[emergency]
numbers = ["112"]
element_id = "sbc.example.net"
[[numbers]]
name = "police"
from = "110"
to = "110"
service = "sos.police"
[[numbers]]
name = "relay"
prefix = "+4911"
[[trunks]]
name = "psap"
realm = "core"
failover_after_ms = 1500
ring_timeout_s = 60
[[routes]]
name = "fire"
service = "urn:service:sos.fire"
host = "psap.example"
trunks = ["psap"]
"#;

    #[test]
    fn a_good_text_is_read_whole() {
        let c = parse_cluster(TEXT, 1).unwrap();
        assert_eq!((c.emergency_numbers.len(), c.element_id.as_deref()), (1, Some("sbc.example.net")));
        assert_eq!(c.numbers[0].numbers, Numbers::Span("110".into(), "110".into()));
        assert_eq!((&c.numbers[1].numbers, &*c.numbers[1].service), (&Numbers::Prefix("4911".into()), "sos"));
        let trunk = &c.trunks[0];
        assert_eq!(trunk.timers.failover_after.map(|d| d.as_millis()), Some(1500));
        assert_eq!(trunk.timers.ring_timeout.map(|d| d.as_secs()), Some(60));
        assert_eq!(c.routes[0].matches.len(), 2);
    }

    #[test]
    fn faults() {
        let paths = |from: &str, to: &str| {
            let text = TEXT.replacen(from, to, 1);
            assert_ne!(text, TEXT, "{from}");
            parse_cluster(&text, 1).unwrap_err().0.into_iter().map(|f| f.path).collect::<Vec<_>>()
        };
        assert_eq!(paths("to = \"110\"", "to = \"109\""), ["numbers[0].to"]);
        assert_eq!(paths("to = \"110\"", "to = \"1100\""), ["numbers[0].to"]);
        assert_eq!(paths("to = \"110\"\n", ""), ["numbers[0].from"]);
        assert_eq!(paths("prefix = \"+4911\"", "prefix = \"+49a\""), ["numbers[1].prefix", "numbers[1].prefix"]);
        assert_eq!(paths("name = \"relay\"", "name = \"police\""), ["numbers[1].name"]);
        assert_eq!(paths("\"sos.police\"", "\"police\""), ["numbers[0].service"]);
        assert_eq!(paths("\"sbc.example.net\"", "\"sbc example\""), ["emergency.element_id"]);
        assert_eq!(paths("urn:service:sos.fire", "urn:service:fire"), ["routes[0].service"]);
    }
}
