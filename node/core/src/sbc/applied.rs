//! The log moved on: applies it to the replicated state, and tells the calls that it concerns.

use super::Sbc;
use super::takeover::Takeovers;
use crate::call::{ClaimEvent, Context, Winner};
use crate::ids::CallUid;
use crate::io::{AlarmKind, Output};
use crate::placement::{self, ClaimPlacement, Facts};
use crate::replica::Effect;
use crate::store_pb;

/// Whether events of emergency calls are missing that should be there.
#[derive(Debug, Default)]
pub(super) struct Retention {
    is_short: bool,
}

impl Retention {
    /// Raises or clears the alarm for events of emergency calls that had to go before their time.
    fn watch(&mut self, cx: &mut Context) {
        let short = cx.replica().is_short_of_events();
        if std::mem::replace(&mut self.is_short, short) != short {
            let detail = "more emergency calls than the journal holds: events younger than 24 h are gone";
            let raised = short.then(|| detail.to_owned());
            cx.output(Output::Alarm { kind: AlarmKind::EventRetention, raised });
        }
    }
}

impl Sbc {
    pub(super) fn on_applied(&mut self, index: u64, entry: &store_pb::Entry) {
        let effects = {
            let mut replica = self.cx.replica_mut();
            replica.apply(index, entry)
        };
        let effects = match effects {
            Ok(effects) => effects,
            Err(error) => {
                self.cx.output(Output::Halt(error.to_string()));
                return;
            }
        };
        // Before anything is made of what else the entry did.
        for effect in &effects {
            let Effect::Recorded { call, seq } = effect else { continue };
            let Some(id) = self.calls.place(&self.cx, *call) else { continue };
            if let Some(journal) = self.calls.journal_mut(id) {
                journal.confirm(*seq);
            }
        }
        let (mut events, mut blocks) = (false, false);
        for effect in effects {
            match effect {
                Effect::Claimed { call, won, winner, same_packet } => self.on_claimed(call, won, winner, same_packet),
                Effect::Recorded { call, .. } | Effect::Ended { call } | Effect::Stale { call: Some(call), .. } => {
                    self.on_recorded(call);
                }
                Effect::Beside { winner, .. } => {
                    // Another node has the caller: a call of this one that is ceded to it stays so.
                    if let Some(id) = self.calls.own(&self.cx, winner).map(|call| call.about.id) {
                        self.with_call(id, |call, cx| call.tell_claim(cx, ClaimEvent::CallerServed));
                    }
                }
                Effect::Config { revision, text, .. } => self.cx.output(Output::ConfigChanged { revision, text }),
                Effect::Event(_) => events = true,
                Effect::Blocks => blocks = true,
                Effect::Stale { call: None, .. }
                | Effect::ConfigRefused { .. }
                | Effect::ConfigRepeated { .. }
                | Effect::Level(_) => {}
                Effect::NodeUp { node, .. } | Effect::NodeDown { node, .. } => self.takeovers.on_node(&mut self.cx, node),
                Effect::Adopted { call, owner, incarnation } => {
                    // Whoever of this start had it before, and was cut off meanwhile, has nothing to say any more.
                    if let Some(id) = self.calls.own(&self.cx, call).map(|call| call.about.id) {
                        self.with_call(id, |call, cx| call.fence(cx));
                    }
                    let released = self.takeovers.on_adopted(&mut self.cx, &mut self.calls, call, (owner, incarnation));
                    released.into_iter().for_each(|(back, message)| self.on_in_dialog(back.path, back, &message));
                }
            }
        }
        if blocks {
            self.gate.bans.read(&self.cx);
        }
        if events {
            self.cx.output(Output::EventsChanged);
        }
        self.retention.watch(&mut self.cx);
    }

    /// A snapshot took the place of the state: what calls of this node had recorded may be in it, or not.
    pub(super) fn on_state_replaced(&mut self) {
        let (open, unrecorded) = self.calls.ids();
        for id in open {
            self.with_call(id, |call, cx| call.records.journal.on_snapshot(cx));
        }
        for id in unrecorded {
            self.calls.with_unrecorded(&mut self.cx, id, |ended, cx| ended.journal.on_snapshot(cx));
        }
        let (fenced, adopted) = Takeovers::after_snapshot(&self.cx, &self.calls);
        for id in fenced {
            self.with_call(id, |call, cx| call.fence(cx));
        }
        for call in adopted {
            self.takeovers.begin(&mut self.cx, &mut self.calls, call);
        }
        let config = {
            let replica = self.cx.replica();
            let (revision, text, _) = replica.config();
            (revision, text.to_owned())
        };
        self.gate.bans.read(&self.cx);
        if config.0 > 0 {
            self.cx.output(Output::ConfigChanged { revision: config.0, text: config.1 });
        }
        self.cx.output(Output::EventsChanged);
        self.retention.watch(&mut self.cx);
    }

    fn on_claimed(&mut self, call: CallUid, won: bool, winner: CallUid, same_packet: bool) {
        let (owner, key, standing, left) = {
            let replica = self.cx.replica();
            let facts =
                Facts { local: &self.cx.local, view: &self.cx.view, replica: &replica, now: self.cx.now.mono, relayed: false };
            match replica.call(winner) {
                Some(entry) => {
                    (entry.owner(), entry.claim_key, placement::of_winner(&facts, entry, same_packet), entry.was_left())
                }
                None => (winner.node, [0; 16], ClaimPlacement::Orphan, false),
            }
        };
        let standing = match standing {
            _ if left => Winner::Left,
            ClaimPlacement::Peer(node) => Winner::At(node),
            ClaimPlacement::Merged => Winner::Merged,
            ClaimPlacement::Unsure => Winner::Unsure,
            ClaimPlacement::Orphan | ClaimPlacement::New => Winner::Gone,
        };
        if let Some(id) = self.calls.own(&self.cx, call).map(|call| call.about.id) {
            let Some(waiting) = self.calls.get_mut(id) else { return };
            let after = waiting.on_claimed(&mut self.cx, (!won).then_some((winner, standing)));
            self.after_claim(id, after);
            self.with_call(id, |call, cx| call.records.journal.on_applied(cx));
        } else if let Some(id) = self.calls.unrecorded_place(&self.cx, call) {
            self.calls.with_unrecorded(&mut self.cx, id, |ended, cx| match won {
                true => ended.journal.on_applied(cx),
                false => ended.lose(cx, winner, left),
            });
        }
        self.release_holds(&key, owner);
    }

    fn on_recorded(&mut self, call: CallUid) {
        if let Some(id) = self.calls.own(&self.cx, call).map(|call| call.about.id) {
            self.with_call(id, |call, cx| call.records.journal.on_applied(cx));
        } else if let Some(id) = self.calls.unrecorded_place(&self.cx, call) {
            self.calls.with_unrecorded(&mut self.cx, id, |ended, cx| ended.journal.on_applied(cx));
        }
    }
}
