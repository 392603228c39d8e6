//! How a trunk sees the other side: topology, identities, codecs.

use sbc_core::policy::{Codecs, IdentityPolicy, Topology, Trunk};

use super::reader::{Reader, Section};

/// Codecs named for one trunk at the most: no description has as many.
const CODECS_CAP: usize = 64;

/// Reads the keys of a `[[trunks]]` section into `trunk`.
pub(super) fn read(reader: &Reader<'_>, section: &Section<'_>, trunk: &mut Trunk) {
    let topologies = [("hide", Topology::Hide), ("transparent", Topology::Transparent)];
    trunk.topology = section.word("topology", &topologies).unwrap_or_default();
    let identities = [("trust", IdentityPolicy::Trust), ("strip", IdentityPolicy::Strip)];
    trunk.identity = section.word("identity", &identities).unwrap_or_default();
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
