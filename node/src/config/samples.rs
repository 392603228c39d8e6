//! The sample files in `deploy/config` are what an operator reads: they hold every key that there is, and each line of them is right.

use std::collections::BTreeSet;
use std::path::Path;

use sbc_core::policy::{Challenger, ClusterConfig, Settings};

use super::reader::ASKED;
use super::{AnnounceDriver, NodeConfig, RaftSection, parse_cluster};

const NODE: &str = include_str!("../../../deploy/config/node.toml");
const CLUSTER: &str = include_str!("../../../deploy/config/cluster.toml");

/// The text with each commented line made live that is a key or a table: prose has a blank behind its `#`.
fn live(text: &str) -> String {
    let is_live = |rest: &&str| rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '[');
    let lines = text.lines().map(|line| line.strip_prefix('#').filter(is_live).unwrap_or(line));
    lines.flat_map(|line| [line, "\n"]).collect()
}

fn node(text: &str) -> NodeConfig {
    NodeConfig::parse(text, Path::new("/")).unwrap_or_else(|faults| panic!("{}", faults.render("node.toml", text)))
}

fn cluster(text: &str) -> ClusterConfig {
    parse_cluster(text, 1).unwrap_or_else(|faults| panic!("{}", faults.render("cluster.toml", text)))
}

#[test]
fn as_they_are() {
    assert_eq!(node(NODE).announce.driver, AnnounceDriver::None);
    let shared = cluster(CLUSTER);
    assert_eq!((shared.trunks.len(), shared.routes.len()), (2, 1));
    assert_eq!(shared.settings, Settings::default(), "all of it is commented");
}

#[test]
fn with_every_line_live() {
    let own = node(&live(NODE));
    assert_eq!((own.raft, own.dns_servers.len()), (RaftSection::default(), 2));
    let shared = cluster(&live(CLUSTER));
    assert_eq!((shared.trunks.len(), shared.routes.len(), shared.numbers.len()), (2, 2, 2));
    let (psap, callers) = (&shared.trunks[0], &shared.trunks[1]);
    assert!(psap.auth.credentials.is_some() && psap.enabled);
    let challenger = callers.auth.challenger.as_ref().expect("digest");
    assert_eq!((challenger.nonce_life, challenger.emergency), (Challenger::NONCE_LIFE, false));
    let default = Settings::default();
    // What the samples show of these is what holds without them.
    let shown = |s: &Settings| {
        let times = [s.claim_budget, s.cancel_hold, s.failover_after, s.session_expires, s.nat_keepalive, s.ring_timeout];
        (times, s.emergency_ring_timeout, s.max_calls, s.shed_at)
    };
    assert_eq!(shown(&shared.settings), shown(&default));
}

#[test]
fn every_key_that_is_known_stands_in_them() {
    ASKED.take();
    node(&live(NODE));
    cluster(&live(CLUSTER));
    // `trunks[3].users[0].name` is `trunks.users.name`.
    let plain = |path: &str| path.split('.').map(|part| part.split('[').next().unwrap_or(part)).collect::<Vec<_>>().join(".");
    let (mut known, mut there) = (BTreeSet::new(), BTreeSet::new());
    for (path, is_there) in ASKED.take() {
        known.insert(plain(&path));
        if is_there {
            there.insert(plain(&path));
        }
    }
    assert!(known.len() > 100, "{known:?}");
    assert_eq!(known.difference(&there).collect::<Vec<_>>(), Vec::<&String>::new());
}
