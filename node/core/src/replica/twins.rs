//! Two calls of one INVITE: two nodes that could not hear each other had it both. The claim key is one call's; the other one is recorded beside
//! it, where its owner has it answered, so that each call that was answered has its CDR, and one that was left to another node has none.

use std::sync::Arc;

use bytes::Bytes;

use super::apply::Run;
use super::{CallEntry, Effect, Replica, left};
use crate::ids::CallUid;
use crate::store_pb::CallState;

/// From this level on there is a place for them.
pub const BESIDE_LEVEL: u32 = 2;

impl Replica {
    /// Puts a new call into its place: under its key, or beside the call that has it.
    pub(super) fn place(&mut self, run: &mut Run, mut entry: CallEntry) {
        let (uid, key) = (entry.uid, entry.claim_key);
        let winner = self.claim(&key).map(|winner| (winner.uid, winner.was_left()));
        if let Some((winner, was_left)) = winner {
            (entry.state_mut().twin, entry.state_mut().keyless) = (bytes_of(winner), true);
            if let Some(winner) = self.calls.get_mut(&winner).map(Arc::make_mut) {
                winner.state_mut().twin = bytes_of(uid);
            }
            run.effects.push(Effect::Beside { call: uid, winner });
            self.calls.insert(uid, Arc::new(entry));
            if was_left {
                self.give_key(winner, uid);
            }
        } else {
            self.by_key.insert(key, uid);
            self.calls.insert(uid, Arc::new(entry));
        }
    }

    /// The key is that of the call which is served.
    pub(super) fn give_key(&mut self, from: CallUid, to: CallUid) {
        let Some(key) = self.calls.get(&to).map(|entry| entry.claim_key) else { return };
        for (uid, keyless) in [(from, true), (to, false)] {
            if let Some(entry) = self.calls.get_mut(&uid).map(Arc::make_mut) {
                entry.state_mut().keyless = keyless;
            }
        }
        self.by_key.insert(key, to);
    }

    /// A call has ended: what becomes of its CDR and its key. True: the CDR is due.
    pub(super) fn on_ended(&mut self, uid: CallUid) -> bool {
        let level = self.level();
        let Some(entry) = self.calls.get_mut(&uid).map(Arc::make_mut).filter(|_| level >= BESIDE_LEVEL) else { return true };
        let state = entry.state_mut();
        let cause = state.cause.clone().unwrap_or_default();
        // Its caller was another node's, or its owner lost it before anybody answered.
        let was_left = left(&cause.origin, cause.status);
        let unserved = state.answered_unix_ms == 0 && (was_left || (cause.origin == "node" && cause.status == 0));
        match CallUid::from_bytes(&state.twin) {
            Some(twin) if unserved => {
                if !state.keyless {
                    self.give_key(uid, twin);
                }
                false
            }
            None if unserved && was_left => {
                state.cdr_later = true;
                false
            }
            _ => true,
        }
    }

    /// Forgets an ended call. The CDR that it still owes, if its twin has not one in its place.
    pub(super) fn forget(&mut self, uid: CallUid) -> Option<CallState> {
        let entry = self.calls.remove(&uid)?;
        if self.by_key.get(&entry.claim_key) == Some(&uid) {
            self.by_key.remove(&entry.claim_key);
            if let Some(twin) = CallUid::from_bytes(&entry.state().twin) {
                // A copy of its INVITE is one of the other call too.
                self.give_key(uid, twin);
            }
        }
        let state = entry.state();
        (state.cdr_later && state.twin.is_empty()).then(|| state.clone())
    }
}

fn bytes_of(uid: CallUid) -> Bytes {
    Bytes::copy_from_slice(&uid.to_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Incarnation, NodeId};
    use crate::store_pb::command::Kind;
    use crate::store_pb::{Answer, Claim, Command, End, EndCause, Entry, Level, Tick};

    const T: u64 = 1_800_000_000_000;

    fn uid(node: u16) -> CallUid {
        CallUid { node: NodeId(node), incarnation: Incarnation(1), serial: 1 }
    }

    /// A replica with these commands, an entry each, and one claim of key 7 by the first node.
    struct Log(Replica, u64);

    impl Log {
        fn at(level: u32) -> Log {
            let mut log = Log(Replica::new(), 0);
            if level > 1 {
                log.put(Kind::Level(Level { level }), T);
            }
            log.put(claim(1, false), T);
            log
        }

        fn put(&mut self, kind: Kind, unix_ms: u64) -> Vec<Effect> {
            self.1 += 1;
            let entry = Entry { version: 1, proposer: 1, incarnation: 1, commands: vec![Command { unix_ms, kind: Some(kind) }] };
            self.0.apply(self.1, &entry).expect("known")
        }

        /// So many seconds later.
        fn passes(&mut self, seconds: u64) {
            for n in 1..=seconds {
                self.put(Kind::Tick(Tick {}), T + n * 1000);
            }
        }

        /// Calls with a CDR: whose, answered, and the twin's.
        fn cdrs(&self) -> Vec<(CallUid, bool, Option<CallUid>)> {
            let cdrs = self.0.cdrs(0, 10).expect("none was compacted");
            let of = |bytes: &Bytes| CallUid::from_bytes(bytes);
            cdrs.iter().map(|c| (of(&c.call).expect("an id"), c.answered_unix_ms > 0, of(&c.twin))).collect()
        }

        fn owner_of_the_key(&self) -> Option<CallUid> {
            self.0.claim(&[7; 16]).map(|entry| entry.uid)
        }

        /// The same from a snapshot.
        fn restored(self) -> Log {
            let snapshot = self.0.snapshot();
            let restored = Replica::restore(snapshot.clone()).expect("whole");
            assert_eq!(restored.snapshot(), snapshot);
            assert_eq!(restored.claim(&[7; 16]).map(|e| e.uid), self.owner_of_the_key());
            Log(restored, self.1)
        }
    }

    fn claim(node: u16, beside: bool) -> Kind {
        let beside = if beside { bytes_of(uid(1)) } else { Bytes::new() };
        let (key, packet_key) = (vec![7; 16].into(), vec![8; 16].into());
        Kind::Claim(Claim {
            key,
            packet_key,
            call: bytes_of(uid(node)),
            owner: node.into(),
            epoch: 1,
            beside,
            ..Default::default()
        })
    }

    fn answer(node: u16) -> Kind {
        Kind::Answer(Answer { call: bytes_of(uid(node)), epoch: 1, seq: 1, ..Default::default() })
    }

    fn end(node: u16, origin: &str, status: u32) -> Kind {
        let cause = Some(EndCause { origin: origin.into(), status, ..Default::default() });
        Kind::End(End { call: bytes_of(uid(node)), epoch: 1, cause, ..Default::default() })
    }

    #[test]
    fn a_call_that_lost_and_was_answered_has_the_one_cdr() {
        for left_first in [true, false] {
            let mut log = Log::at(2);
            assert!(matches!(log.put(claim(2, false), T)[..], [Effect::Claimed { won: false, .. }]));
            if left_first {
                log.put(end(1, "node", 482), T + 10);
                assert_eq!(log.cdrs(), []);
            }
            let effects = log.put(claim(2, true), T + 20);
            assert!(effects.contains(&Effect::Beside { call: uid(2), winner: uid(1) }), "{effects:?}");
            assert!(effects.contains(&Effect::Recorded { call: uid(2), seq: 0 }));
            let replayed = log.put(claim(2, true), T + 25);
            assert!(
                replayed.iter().all(|e| !matches!(e, Effect::Beside { .. } | Effect::Claimed { won: false, .. })),
                "{replayed:?}"
            );
            log.put(answer(2), T + 30);
            log = log.restored();
            if !left_first {
                assert_eq!(log.owner_of_the_key(), Some(uid(1)));
                log.put(end(1, "node", 482), T + 40);
            }
            assert_eq!(log.owner_of_the_key(), Some(uid(2)), "copies go to the node that serves it");
            log.put(end(2, "caller", 200), T + 50);
            assert_eq!(log.cdrs(), [(uid(2), true, Some(uid(1)))]);
            log = log.restored();
            log.passes(70);
            assert_eq!((log.cdrs().len(), log.0.all_calls(None).count(), log.owner_of_the_key()), (1, 0, None));
        }
    }

    #[test]
    fn two_that_were_answered_have_a_cdr_each() {
        let mut log = Log::at(2);
        log.put(answer(1), T);
        log.put(claim(2, true), T);
        log.put(answer(2), T);
        log.put(end(1, "caller", 200), T + 1000);
        log.put(end(2, "caller", 200), T + 2000);
        assert_eq!(log.cdrs(), [(uid(1), true, Some(uid(2))), (uid(2), true, Some(uid(1)))]);
        log.passes(66);
        assert_eq!(log.owner_of_the_key(), None, "both are forgotten");
    }

    #[test]
    fn a_call_that_was_left_to_nobody_known_has_its_cdr_late() {
        let mut log = Log::at(2);
        log.put(end(1, "node", 482), T);
        log.passes(60);
        assert_eq!(log.cdrs(), []);
        log = log.restored();
        log.passes(70);
        assert_eq!(log.cdrs(), [(uid(1), false, None)]);
    }

    #[test]
    fn below_the_level_nothing_is_new() {
        let mut log = Log::at(1);
        assert!(matches!(log.put(claim(2, true), T)[..], [Effect::Claimed { won: false, .. }]));
        log.put(end(1, "node", 482), T);
        assert_eq!(log.cdrs(), [(uid(1), false, None)]);
    }
}
