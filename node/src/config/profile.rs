//! How a trunk sees the other side (topology, identities, codecs, media), and what it proves itself with.

use sbc_core::policy::{Codecs, IdentityPolicy, MediaPolicy, MethodPolicy, Topology, Trunk};

use super::reader::{Reader, Section};

/// Codecs named for one trunk at the most: no description has as many.
const CODECS_CAP: usize = 64;

/// SIP domains of one trunk at the most.
const TLS_NAMES_CAP: usize = 16;

/// Reads the keys of a `[[trunks]]` section into `trunk`.
pub(super) fn read(reader: &Reader<'_>, section: &Section<'_>, trunk: &mut Trunk) {
    let topologies = [("hide", Topology::Hide), ("transparent", Topology::Transparent)];
    trunk.topology = section.word("topology", &topologies).unwrap_or_default();
    let identities = [("trust", IdentityPolicy::Trust), ("strip", IdentityPolicy::Strip)];
    trunk.identity = section.word("identity", &identities).unwrap_or_default();
    trunk.tls_names = tls_names(reader, section);
    let passes = [("pass", MethodPolicy::Pass), ("refuse", MethodPolicy::Refuse)];
    trunk.media = MediaPolicy { latching: section.boolean("latching"), tcp_media: section.word("tcp_media", &passes) };
    let listed = section.strings("codecs");
    if section.has("codecs") && (listed.is_empty() || listed.len() > CODECS_CAP) {
        section.fault("codecs", format!("expected 1 to {CODECS_CAP} encoding names"), "leave the key out to allow every codec");
        return;
    }
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '+');
    for name in &listed {
        if name.value.is_empty() || !name.value.chars().all(is_name) {
            let message = format!("expected an encoding name, found \"{}\"", name.value);
            reader.fault_at(name, message, "as in a=rtpmap, for example \"PCMA\" or \"opus\"");
        }
    }
    trunk.codecs = Codecs::new(listed.iter().map(|name| name.value.to_owned()));
}

/// RFC 5922 §7.2: domains are compared whole, so that a pattern would match nothing.
fn tls_names(reader: &Reader<'_>, section: &Section<'_>) -> Vec<Box<str>> {
    let listed = section.strings("tls_names");
    if section.has("tls_names") && (listed.is_empty() || listed.len() > TLS_NAMES_CAP) {
        let hint = "leave the key out where the source address is proof enough";
        section.fault("tls_names", format!("expected 1 to {TLS_NAMES_CAP} domains"), hint);
    }
    let is_domain = |name: &str| {
        let label = |l: &str| !l.is_empty() && l.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
        name.len() <= 255 && name.split('.').all(label)
    };
    for name in listed.iter().filter(|name| !is_domain(name.value)) {
        let message = format!("expected a domain, found \"{}\"", name.value);
        reader.fault_at(
            name,
            message,
            "as it stands in the certificate, for example \"gw.example.net\"; no wildcards, no \"sip:\"",
        );
    }
    listed.iter().map(|name| name.value.to_ascii_lowercase().into()).collect()
}
