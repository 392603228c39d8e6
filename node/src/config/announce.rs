//! `[announce]`: how the anycast address is announced.

use std::path::Path;
use std::time::Duration;

use super::bgp::{self, BgpSection};
use super::node::SipSection;
use super::reader::{Reader, Section};

/// How the anycast address is announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnnounceDriver {
    /// Holding the socket is announcing.
    Bind,
    /// A command announces and withdraws.
    Exec,
    /// The node speaks to its routers itself.
    Bgp,
    /// Somebody else sees to it.
    None,
}

/// `[announce]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnnounceSection {
    /// How.
    pub driver: AnnounceDriver,
    /// For `exec`: program and arguments.
    pub command: Vec<String>,
    /// For `bind`: how long this node waits for one with a lower value.
    pub preference: Duration,
    /// Whether it announces when it is ready, without being told.
    pub at_start: bool,
    /// How long it must be healthy before it announces.
    pub up_after: Duration,
    /// For `bgp`.
    pub bgp: Option<BgpSection>,
}

/// The table, or what holds without it; `None`: it has faults.
pub(super) fn read(reader: &Reader<'_>, root: &Section<'_>, base: &Path, sip: Option<&SipSection>) -> Option<AnnounceSection> {
    let Some(s) = root.section("announce") else {
        return Some(AnnounceSection {
            driver: AnnounceDriver::None,
            command: vec![],
            preference: Duration::ZERO,
            at_start: false,
            up_after: Duration::ZERO,
            bgp: None,
        });
    };
    let words = [
        ("bgp", AnnounceDriver::Bgp),
        ("bind", AnnounceDriver::Bind),
        ("exec", AnnounceDriver::Exec),
        ("none", AnnounceDriver::None),
    ];
    let driver = s.word("driver", &words);
    if !s.has("driver") {
        s.missing("driver");
    }
    let command: Vec<String> = s.strings("command").iter().map(|c| c.value.to_owned()).collect();
    if driver == Some(AnnounceDriver::Exec) && command.is_empty() {
        reader.fault(
            s.span.clone(),
            "announce.command",
            "the driver \"exec\" needs a command",
            "command = [\"/path/to/program\"]",
        );
    }
    let preference = Duration::from_millis(s.number("preference_ms", 0..=60_000).unwrap_or(0));
    let at_start = s.boolean("announce_at_start").unwrap_or(true);
    // Routes that come and go are damped by others (RFC 2439); an address on loopback is not.
    let default = if driver == Some(AnnounceDriver::Bgp) { 1000 } else { 0 };
    let up_after = Duration::from_millis(s.number("up_after_ms", 0..=60_000).unwrap_or(default));
    let table = s.section("bgp");
    let bgp_section = table.as_ref().and_then(|b| bgp::read(reader, b, base, sip.map(|s| s.anycast), sip.map(|s| s.unicast)));
    if driver == Some(AnnounceDriver::Bgp) && !s.has("bgp") {
        s.fault("driver", "the driver \"bgp\" needs the table [announce.bgp]", "");
    }
    Some(AnnounceSection { driver: driver?, command, preference, at_start, up_after, bgp: bgp_section })
}
