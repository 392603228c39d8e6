//! What is to be announced to a router, and what it has been told in this session (RFC 4271 §3.2, Adj-RIB-Out).

use std::collections::BTreeMap;

use ipnet::IpNet;

use super::message::{Family, Open};
use super::report::Report;
use super::update::{Route, Writer};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct AdjRibOut {
    wanted: BTreeMap<IpNet, Route>,
    told: BTreeMap<IpNet, Route>,
    /// What it cannot be told, so that it is reported once a session.
    untold: Vec<IpNet>,
}

impl AdjRibOut {
    /// All that is to be announced.
    pub(super) fn want(&mut self, routes: &[Route]) {
        self.wanted = routes.iter().map(|r| (r.prefix, r.clone())).collect();
    }

    /// The session has ended: the router has forgotten what it was told.
    pub(super) fn clear(&mut self) {
        self.told.clear();
        self.untold.clear();
    }

    /// The router asks for a family again (RFC 2918 §4).
    pub(super) fn forget(&mut self, family: Family) {
        // What is no longer wanted was withdrawn at once, so all that stands here is sent again.
        self.told.retain(|_, route| route.family() != family);
    }

    pub(super) fn told(&self) -> Vec<IpNet> {
        self.told.keys().copied().collect()
    }

    /// The UPDATEs that make what was told what is wanted, each with what it comes to: what goes first, then what comes. `held`: nothing
    /// may come.
    pub(super) fn differences(&mut self, writer: &Writer, open: &Open, held: bool) -> Vec<(Option<Vec<u8>>, Report)> {
        let mut out = Vec::new();
        self.told.retain(|prefix, _| {
            let stays = self.wanted.contains_key(prefix);
            if !stays {
                out.push((Some(writer.withdraw(prefix)), Report::Withdrawn(*prefix)));
            }
            stays
        });
        self.untold.retain(|prefix| self.wanted.contains_key(prefix));
        if held {
            return out;
        }
        for (prefix, route) in &self.wanted {
            if self.told.get(prefix) == Some(route) {
                continue;
            }
            let takes = match route.family() {
                Family::Ipv4 => open.ipv4,
                Family::Ipv6 => open.ipv6,
            };
            match writer.announce(route).filter(|_| takes) {
                Some(octets) => {
                    out.push((Some(octets), Report::Announced(*prefix)));
                    self.told.insert(*prefix, route.clone());
                }
                None if !self.untold.contains(prefix) => {
                    self.untold.push(*prefix);
                    let reason = if takes { "no next hop of its family" } else { "the router does not take the family" };
                    out.push((None, Report::NotAnnounced { prefix: *prefix, reason }));
                }
                None => {}
            }
        }
        out
    }
}
