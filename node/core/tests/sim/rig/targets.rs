//! Two targets, of which one is dialled after the other.

use sbc_core::policy::{ClusterConfig, Settings};
use sbc_core::sip::{HeaderId, Method};

use super::far::sdp;
use super::{CALLER, FIRST, Far, Request, Rig, SECOND, URI, target};

impl Rig {
    /// One node with the settings that are the default.
    pub(crate) fn two_targets(change: impl FnOnce(&mut ClusterConfig)) -> Rig {
        Rig::toward_two(1, CALLER, |config| {
            config.settings = Settings::default();
            change(config);
        })
    }

    pub(crate) fn toward_two(nodes: usize, caller: &str, change: impl FnOnce(&mut ClusterConfig)) -> Rig {
        let mut rig = Rig::build(nodes, Far::at(caller), |config| {
            config.trunks[1].targets = [FIRST, SECOND].map(target).to_vec();
            change(config);
        });
        rig.psap = Far::at(FIRST);
        rig
    }

    /// The caller dials, whatever comes of it.
    pub(crate) fn rings_up(&mut self, fields: &[(&str, &str)]) {
        self.calls += 1;
        let mut draft = self.caller.initial(&Method::Invite, URI, &format!("x{}", self.calls), 1);
        draft.set_body(Some("application/sdp"), sdp());
        let anycast = self.w.anycast;
        self.caller.put(&mut self.w, &mut draft, anycast, fields);
        self.advance(50);
    }

    /// Statuses that the caller has been sent since the last look, but 100; those that are repeated once.
    pub(crate) fn told(&mut self) -> Vec<u16> {
        let mut got: Vec<u16> = self.caller.inbox(&self.w).iter().filter_map(|(m, _)| m.status()).filter(|s| *s > 100).collect();
        got.dedup();
        got
    }

    pub(crate) fn psap_call(&mut self) -> Request {
        self.psap.request(&self.w, &Method::Invite)
    }

    pub(crate) fn second_call(&mut self) -> Request {
        self.second.request(&self.w, &Method::Invite)
    }

    pub(crate) fn replies(&mut self, far: fn(&Rig) -> &Far, invite: &Request, status: u16) {
        let at = far(self).addr;
        let mut draft = invite.0.response(status, None);
        if status > 100 {
            draft.set(HeaderId::To, format!("{};tag=far", invite.0.to()));
            draft.push(HeaderId::Contact, format!("<sip:far@{at}>"));
        }
        if status == 200 {
            draft.set_body(Some("application/sdp"), sdp());
        }
        self.w.inject(at, invite.1, draft.encode().expect("well formed"));
        self.advance(50);
    }
}

pub(crate) fn first(rig: &Rig) -> &Far {
    &rig.psap
}

pub(crate) fn second(rig: &Rig) -> &Far {
    &rig.second
}
