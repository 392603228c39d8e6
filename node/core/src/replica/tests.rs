//! Rules of the replicated state, each by itself and under seeded random entries.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;

use super::history::History;
use super::*;
use crate::ids::Incarnation;
use crate::store_pb::command::Kind;
use crate::store_pb::*;

fn uid(node: u16, incarnation: u32, serial: u64) -> CallUid {
    CallUid { node: NodeId(node), incarnation: Incarnation(incarnation), serial }
}

fn raw(uid: CallUid) -> Bytes {
    Bytes::copy_from_slice(&uid.to_bytes())
}

fn claim(call: CallUid, key: u8) -> Kind {
    Kind::Claim(Claim {
        key: vec![key; 16].into(),
        packet_key: vec![key; 16].into(),
        call: raw(call),
        owner: u32::from(call.node.0),
        epoch: 1,
        emergency: true,
        invite: Bytes::from_static(b"INVITE sip:112@any SIP/2.0\r\n\r\n"),
        parties: Some(CallParties { from_uri: "sip:a@x".into(), ..Default::default() }),
        ..Default::default()
    })
}

fn leg(n: u64) -> LegRecord {
    LegRecord { call_id: format!("leg{n}"), local_tag: "t".into(), ..Default::default() }
}

fn progress(call: CallUid, seq: u32, status: u32) -> Kind {
    let callee = Some(leg(call.serial));
    Kind::Progress(Progress { call: raw(call), epoch: 1, seq, status, target: "psap".into(), callee, after_ms: None })
}

fn answer(call: CallUid, seq: u32) -> Kind {
    let dialog = DialogRecord { callee: Some(leg(call.serial)), caller: Some(leg(0)), ..Default::default() };
    Kind::Answer(Answer { call: raw(call), epoch: 1, seq, dialog: Some(dialog), after_ms: None })
}

fn refresh(call: CallUid, seq: u32) -> Kind {
    let dialog = DialogRecord { callee: Some(leg(call.serial)), ..Default::default() };
    Kind::Refresh(Refresh { call: raw(call), epoch: 1, seq, dialog: Some(dialog), number: seq })
}

fn end(call: CallUid, origin: &str) -> Kind {
    let cause = EndCause { origin: origin.into(), status: 200, ..EndCause::default() };
    Kind::End(End { call: raw(call), epoch: 1, cause: Some(cause), ..End::default() })
}

fn entry(unix_ms: u64, kinds: Vec<Kind>) -> Entry {
    let commands = kinds.into_iter().map(|k| Command { unix_ms, kind: Some(k) }).collect();
    Entry { version: 1, proposer: 1, incarnation: 1, commands }
}

fn raise(replica: &mut Replica, level: u32) {
    if level > 1 {
        replica.apply(1, &entry(1, vec![Kind::Level(Level { level })])).unwrap();
    }
}

fn kinds(replica: &Replica) -> Vec<EventKind> {
    replica.events(0, usize::MAX).unwrap().iter().map(|e| e.kind()).collect()
}

#[test]
fn first_claim_wins_and_the_loser_leaves_no_trace() {
    let mut r = Replica::new();
    let (a, b) = (uid(1, 1, 1), uid(2, 1, 1));
    let effects = r.apply(1, &entry(1000, vec![claim(a, 7), claim(b, 7), claim(a, 7)])).unwrap();
    let claims: Vec<_> = effects.iter().filter(|e| matches!(e, Effect::Claimed { .. })).cloned().collect();
    assert_eq!(
        claims,
        [
            Effect::Claimed { call: a, won: true, winner: a, same_packet: true },
            Effect::Claimed { call: b, won: false, winner: a, same_packet: true },
            Effect::Claimed { call: a, won: true, winner: a, same_packet: true },
        ]
    );
    assert!(r.call(b).is_none());
    assert_eq!(r.live_calls(), 1);
    assert_eq!(kinds(&r), [EventKind::Received]);
    // Another branch with the same key is a merged request (AC-28).
    let Kind::Claim(mut other) = claim(b, 7) else { unreachable!() };
    other.packet_key = vec![9; 16].into();
    let effects = r.apply(2, &entry(1000, vec![Kind::Claim(other)])).unwrap();
    assert_eq!(effects, [Effect::Claimed { call: b, won: false, winner: a, same_packet: false }]);
}

#[test]
fn a_call_from_claim_to_cdr() {
    let mut r = Replica::new();
    let c = uid(1, 1, 5);
    r.apply(1, &entry(1000, vec![claim(c, 1)])).unwrap();
    r.apply(2, &entry(1100, vec![progress(c, 1, 0)])).unwrap();
    assert_eq!(r.call(c).unwrap().phase(), Phase::Trying);
    r.apply(3, &entry(1200, vec![progress(c, 2, 180), progress(c, 3, 183)])).unwrap();
    assert_eq!(r.by_leg("leg5", "t"), Some(c));
    assert_eq!(r.by_leg("leg5", "u"), None);
    r.apply(4, &entry(2000, vec![answer(c, 4), refresh(c, 5)])).unwrap();
    assert_eq!(r.call(c).unwrap().phase(), Phase::Answered);
    let effects = r.apply(5, &entry(9000, vec![end(c, "caller"), end(c, "callee")])).unwrap();
    assert_eq!(effects[0], Effect::Ended { call: c });
    assert_eq!(effects[2], Effect::Stale { call: Some(c), reason: StaleReason::Ended });
    assert_eq!(r.by_leg("leg5", "t"), None);
    assert_eq!(r.calls(None).count(), 0);
    use EventKind::{Answered, Ended, Received, Ringing, Updated};
    assert_eq!(kinds(&r), [Received, Ringing, Answered, Updated, Ended]);
    let cdrs = r.cdrs(0, 10).unwrap();
    assert_eq!(cdrs.len(), 1);
    let times = (cdrs[0].received_unix_ms, cdrs[0].ringing_unix_ms, cdrs[0].answered_unix_ms, cdrs[0].ended_unix_ms);
    assert_eq!(times, (1000, 1200, 2000, 9000));
    assert_eq!(cdrs[0].target, "psap");
    assert_eq!(cdrs[0].cause.as_ref().unwrap().origin, "caller");
}

/// A wall clock that jumps by an hour makes no call longer, at whatever moment of it.
#[test]
fn durations_are_those_of_the_monotonic_clock() {
    const HOUR: u64 = 3_600_000;
    let c = uid(1, 1, 5);
    let set = |kind: Kind, after: u64, talked: Option<u64>| match kind {
        Kind::Progress(p) => Kind::Progress(Progress { after_ms: Some(after), ..p }),
        Kind::Answer(a) => Kind::Answer(Answer { after_ms: Some(after), ..a }),
        Kind::End(e) => Kind::End(End { after_ms: Some(after), duration_ms: talked, ..e }),
        other => other,
    };
    let call = |level: u32, jumps: [i64; 3], answered: bool| {
        let mut r = Replica::new();
        raise(&mut r, level);
        let at = |ms: u64, jump: i64| (10 * HOUR + ms).checked_add_signed(jump).unwrap();
        r.apply(2, &entry(at(0, 0), vec![claim(c, 1)])).unwrap();
        r.apply(3, &entry(at(200, jumps[0]), vec![set(progress(c, 1, 180), 200, None)])).unwrap();
        if answered {
            r.apply(4, &entry(at(1000, jumps[1]), vec![set(answer(c, 2), 1000, None)])).unwrap();
        }
        let talked = answered.then_some(8000);
        r.apply(5, &entry(at(9000, jumps[2]), vec![set(end(c, "caller"), 9000, talked)])).unwrap();
        let cdr = r.cdrs(0, 9).unwrap().remove(0);
        [cdr.received_unix_ms, cdr.ringing_unix_ms, cdr.answered_unix_ms, cdr.ended_unix_ms].map(|t| t.saturating_sub(10 * HOUR))
    };
    let hour = 3_600_000;
    for jumps in [[0, 0, 0], [hour; 3], [0, hour, hour], [0, 0, hour], [0, 0, -hour], [-hour; 3]] {
        assert_eq!(call(2, jumps, true), [0, 200, 1000, 9000], "{jumps:?}");
        assert_eq!(call(2, jumps, false), [0, 200, 0, 9000], "{jumps:?}");
    }
    // As it was at level 1.
    assert_eq!(call(1, [0, 0, hour], true), [0, 200, 1000, 9000 + HOUR]);
}

/// Whose owner's clock was years behind at its beginning: its record is as old as the log says, not as it says itself.
#[test]
fn a_record_is_kept_however_old_its_times_are() {
    let mut r = Replica::new();
    raise(&mut r, 2);
    let c = uid(1, 1, 5);
    let tick = |at| entry(at, vec![Kind::Tick(Tick {})]);
    let now = 1_800_000_000_000;
    r.apply(2, &tick(now)).unwrap();
    r.apply(3, &entry(1000, vec![claim(c, 1)])).unwrap();
    let Kind::End(over) = end(c, "caller") else { unreachable!() };
    r.apply(4, &entry(now, vec![Kind::End(End { after_ms: Some(5000), ..over })])).unwrap();
    r.apply(5, &tick(now + 10_000)).unwrap();
    assert_eq!(r.cdrs(0, 9).unwrap()[0].ended_unix_ms, 6000);
}

#[test]
fn ended_calls_are_recognised_for_their_retention() {
    let mut r = Replica::new();
    let (a, b) = (uid(1, 1, 1), uid(2, 1, 1));
    r.apply(1, &entry(1000, vec![claim(a, 7), end(a, "caller")])).unwrap();
    assert_eq!(kinds(&r)[1], EventKind::Abandoned);
    let tick = |at| entry(at, vec![Kind::Tick(Tick {})]);
    r.apply(2, &tick(1000 + CLAIM_RETENTION_MS - 1)).unwrap();
    let effects = r.apply(3, &entry(2000, vec![claim(b, 7)])).unwrap();
    assert_eq!(effects, [Effect::Claimed { call: b, won: false, winner: a, same_packet: true }]);
    r.apply(4, &tick(1000 + CLAIM_RETENTION_MS)).unwrap();
    assert!(r.claim(&[7; 16]).is_none() && r.call(a).is_none());
    assert_eq!(r.cdrs(0, 9).unwrap().len(), 1);
}

#[test]
fn replays_other_epochs_and_orphans_change_nothing() {
    let mut r = Replica::new();
    let (c, unknown) = (uid(1, 1, 1), uid(1, 1, 2));
    r.apply(1, &entry(1000, vec![claim(c, 1), progress(c, 2, 180)])).unwrap();
    let before = r.snapshot();
    let stale = |r: &mut Replica, index, kind| {
        let effects = r.apply(index, &entry(1000, vec![kind])).unwrap();
        let [Effect::Stale { reason, .. }] = effects[..] else { panic!("{effects:?}") };
        reason
    };
    assert_eq!(stale(&mut r, 2, progress(c, 2, 180)), StaleReason::Replay);
    assert_eq!(stale(&mut r, 3, answer(c, 1)), StaleReason::Replay);
    assert_eq!(stale(&mut r, 4, answer(unknown, 1)), StaleReason::UnknownCall);
    assert_eq!(stale(&mut r, 5, end(unknown, "caller")), StaleReason::UnknownCall);
    let Kind::End(mut old) = end(c, "caller") else { unreachable!() };
    old.epoch = 2;
    assert_eq!(stale(&mut r, 6, Kind::End(old)), StaleReason::Fenced);
    let Kind::Claim(mut bad) = claim(unknown, 3) else { unreachable!() };
    bad.key = Bytes::from_static(b"short");
    assert_eq!(stale(&mut r, 7, Kind::Claim(bad)), StaleReason::Malformed);
    assert_eq!(r.snapshot(), Snapshot { last_index: 7, ..before });
    // An index that was applied before.
    assert_eq!(r.apply(7, &entry(1000, vec![end(c, "caller")])).unwrap(), []);
    assert_eq!(r.live_calls(), 1);
}

#[test]
fn unknown_versions_and_kinds_stop_before_anything_changes() {
    let mut r = Replica::new();
    let mut e = entry(1000, vec![claim(uid(1, 1, 1), 1)]);
    e.commands.push(Command { unix_ms: 1, kind: None });
    assert_eq!(r.apply(1, &e), Err(ApplyError::UnknownCommand { index: 1, position: 1 }));
    e.version = 2;
    assert_eq!(r.apply(1, &e), Err(ApplyError::UnknownVersion { index: 1, version: 2, known: 1 }));
    let many = entry(1, vec![Kind::Tick(Tick {}); MAX_COMMANDS + 1]);
    assert!(matches!(r.apply(1, &many), Err(ApplyError::TooManyCommands { .. })));
    assert_eq!(r.snapshot(), Replica::new().snapshot());
}

#[test]
fn a_restarted_owner_ends_its_calls_over_several_entries() {
    let mut r = Replica::new();
    let up = |n| entry(5000, vec![Kind::NodeUp(NodeUp { node: 1, incarnation: n, ..Default::default() })]);
    r.apply(1, &up(1)).unwrap();
    let total: u64 = 5000;
    for n in 0..total {
        let Kind::Claim(mut c) = claim(uid(1, 1, n), 0) else { unreachable!() };
        c.key = Bytes::copy_from_slice(&u128::from(n).to_be_bytes());
        r.apply(2 + n, &entry(1000, vec![Kind::Claim(c)])).unwrap();
    }
    let mine = uid(1, 2, 1);
    r.apply(6000, &entry(1000, vec![claim(mine, 99)])).unwrap();
    r.apply(6001, &up(2)).unwrap();
    assert_eq!(r.node_incarnation(NodeId(1)), Some(Incarnation(2)));
    assert!(r.live_calls() > 1, "one entry has no room for all of them");
    // A node that joins by snapshot here goes on in the same way.
    let mut other = Replica::restore(r.snapshot()).unwrap();
    let tick = entry(6000, vec![Kind::Tick(Tick {})]);
    r.apply(6002, &tick).unwrap();
    other.apply(6002, &tick).unwrap();
    assert_eq!(r.snapshot(), other.snapshot());
    assert_eq!(r.calls(None).map(|c| c.uid).collect::<Vec<_>>(), [mine]);
    let cdrs = r.cdrs(0, usize::MAX).unwrap();
    assert_eq!(cdrs.len() as u64, total);
    assert!(cdrs.iter().all(|c| c.cause.as_ref().unwrap().reason == "owner restarted"));
    // A claim of the dead incarnation that commits late is recorded and ends.
    r.apply(6003, &entry(6000, vec![claim(uid(1, 1, 9999), 98)])).unwrap();
    assert_eq!(r.live_calls(), 1);
    assert_eq!(r.cdrs(0, usize::MAX).unwrap().len() as u64, total + 1);
}

#[test]
fn configuration_is_compare_and_set_and_repeats_are_recognised() {
    let mut r = Replica::new();
    let apply = |r: &mut Replica, index, base, id: &str| {
        let c =
            ConfigRevision { base, text: format!("t{index}"), author: "op".into(), request_id: id.into(), ..Default::default() };
        r.apply(index, &entry(1, vec![Kind::Config(c)])).unwrap().remove(0)
    };
    assert_eq!(apply(&mut r, 1, 0, "a"), Effect::Config { revision: 1, text: "t1".into(), request_id: "a".into() });
    assert_eq!(apply(&mut r, 2, 0, "a"), Effect::ConfigRepeated { request_id: "a".into(), revision: 1 });
    assert_eq!(apply(&mut r, 3, 0, "b"), Effect::ConfigRefused { request_id: "b".into(), current: 1 });
    for i in 0..100u64 {
        apply(&mut r, 10 + i, 1 + i, "");
    }
    let (revision, text, history) = r.config();
    assert_eq!((revision, text, history.len()), (101, "t109", CONFIG_HISTORY_CAP));
}

#[test]
fn a_wrong_clock_expires_nothing() {
    let mut r = Replica::new();
    r.apply(1, &entry(1_000_000, vec![Kind::Tick(Tick {})])).unwrap();
    let (a, b) = (uid(1, 1, 1), uid(1, 1, 2));
    r.apply(2, &entry(1_000_000, vec![claim(a, 1)])).unwrap();
    r.apply(3, &entry(u64::MAX, vec![claim(b, 2)])).unwrap();
    assert_eq!(r.clock_ms(), 1_000_000 + MAX_CLOCK_LEAD_MS);
    assert_eq!(kinds(&r).len(), 2);
    // And the clock does not go back.
    r.apply(4, &entry(5, vec![end(a, "caller")])).unwrap();
    assert_eq!(r.clock_ms(), 1_000_000 + MAX_CLOCK_LEAD_MS);
    assert!(r.call(a).is_some());
    assert_eq!(r.cdrs(0, 1).unwrap()[0].ended_unix_ms, 1_000_000, "never before it began");
}

#[test]
fn a_tick_of_a_wrong_clock_expires_nothing() {
    const DAY: u64 = 24 * 3_600_000;
    let (now, tick) = (100 * DAY, |at| entry(at, vec![Kind::Tick(Tick {})]));
    let mut r = Replica::new();
    let (a, b) = (uid(1, 1, 1), uid(1, 1, 2));
    r.apply(1, &tick(now)).unwrap();
    r.apply(2, &entry(now, vec![claim(a, 1), end(a, "caller")])).unwrap();
    // A leader that is a year ahead, for a minute.
    for n in 0..6 {
        r.apply(3 + n, &tick(now + 365 * DAY)).unwrap();
    }
    assert!(r.clock_ms() <= now + 6 * MAX_CLOCK_LEAD_MS);
    assert_eq!((r.cdrs(0, 9).unwrap().len(), kinds(&r).len()), (1, 2), "CDR and events are there");
    // The next leader is right: time in records is, at once, and the clock is soon.
    r.apply(20, &entry(now + 70_000, vec![claim(b, 2), end(b, "caller")])).unwrap();
    assert_eq!(r.cdrs(0, 9).unwrap()[1].received_unix_ms, now + 70_000);
    for n in 0..6 {
        r.apply(21 + n, &tick(now + 80_000 + n)).unwrap();
    }
    assert!(r.clock_ms() <= now + 80_000 + MAX_CLOCK_LEAD_MS, "{}", r.clock_ms() - now);
}

#[test]
fn a_cluster_that_was_off_for_a_week_is_right_at_once_and_catches_up() {
    let (week, tick) = (7 * 24 * 3_600_000u64, |at| entry(at, vec![Kind::Tick(Tick {})]));
    let mut r = Replica::new();
    r.apply(1, &tick(1_000_000)).unwrap();
    let back = 1_000_000 + week;
    r.apply(2, &tick(back)).unwrap();
    r.apply(3, &entry(back + 5, vec![claim(uid(1, 1, 1), 1), end(uid(1, 1, 1), "caller")])).unwrap();
    let cdr = r.cdrs(0, 1).unwrap().remove(0);
    assert_eq!((cdr.received_unix_ms, cdr.ended_unix_ms), (back + 5, back + 5));
    let mut n = 0;
    while r.clock_ms() < back {
        n += 1;
        assert!(n * MAX_CLOCK_LEAD_MS <= week + 2 * MAX_CLOCK_LEAD_MS, "bounded steps");
        r.apply(3 + n, &tick(back + n * 10_000)).unwrap();
    }
    assert!(r.call(uid(1, 1, 1)).is_none(), "what is over expires while it catches up");
}

#[test]
fn a_first_tick_far_ahead_is_found_back_from() {
    let tick = |at| entry(at, vec![Kind::Tick(Tick {})]);
    let mut r = Replica::new();
    r.apply(1, &tick(1_000_000_000)).unwrap();
    for n in 0..3_400 {
        r.apply(2 + n, &tick(5_000_000 + n * 10_000)).unwrap();
    }
    assert!(r.clock_ms() <= 5_000_000 + 3_400 * 10_000 + MAX_CLOCK_LEAD_MS, "{}", r.clock_ms());
}

/// 70,000 INVITEs of ordinary calls after 80 emergency calls, in the old format and in that of level 2.
#[test]
fn ordinary_calls_cost_no_event_of_an_emergency_call() {
    const EMERGENCIES: u64 = 80;
    const INVITE: &[u8] = &[b'x'; 4000];
    for (level, left) in [(1, 0), (2, EMERGENCIES)] {
        let mut r = Replica::new();
        let mut index = 1;
        let mut apply = |r: &mut Replica, kinds| {
            r.apply(index, &entry(1_000_000, kinds)).unwrap();
            index += 1;
        };
        apply(&mut r, vec![Kind::Tick(Tick {})]);
        if level > 1 {
            apply(&mut r, vec![Kind::Level(Level { level })]);
        }
        let call = |serial: u64, emergency| {
            let Kind::Claim(claim) = claim(uid(1, 1, serial), 0) else { unreachable!() };
            let key = Bytes::copy_from_slice(&u128::from(serial).to_be_bytes());
            Kind::Claim(Claim { key: key.clone(), packet_key: key, emergency, invite: Bytes::from_static(INVITE), ..claim })
        };
        apply(&mut r, (1..=EMERGENCIES).map(|n| call(n, true)).collect());
        let before = r.last_event_revision();
        for batch in 0..70 {
            apply(&mut r, (0..1000).map(|n| call(1000 + batch * 1000 + n, false)).collect());
        }
        let (all, _) = r.compacted_to();
        assert!(all > before, "some had to go, and who reads all is told");
        let events = r.emergency_events(r.emergency_events_compacted_to(), 1000).unwrap();
        let kept = events.iter().filter(|e| e.emergency).count() as u64;
        assert_eq!((kept, r.is_short_of_events()), (left, false), "at level {level}");
        assert!(r.events(before - 1, 10).is_err());
        let again = Replica::restore(r.snapshot()).unwrap();
        assert_eq!(again.snapshot().encode_to_vec(), r.snapshot().encode_to_vec());
        assert_eq!(
            (again.compacted_to(), again.emergency_events_compacted_to()),
            (r.compacted_to(), r.emergency_events_compacted_to())
        );
    }
}

#[test]
fn events_are_bounded_in_number_age_and_octets_and_readers_are_told() {
    let limits = Limits { count: 10, weight: 100_000, age_ms: 1000 };
    let event = |revision, unix_ms, size: usize| Event { revision, unix_ms, invite: vec![0; size].into(), ..Default::default() };
    let mut j = History::new(limits);
    for i in 1..=20 {
        j.push(event(i, 0, 0).into());
        j.compact(0);
    }
    assert_eq!((j.records().len(), j.compacted_to()), (10, 10));
    assert_eq!(j.after(9, 5).unwrap_err(), Compacted { oldest: 10 });
    assert_eq!(j.after(10, 2).unwrap().iter().map(|e| e.revision).collect::<Vec<_>>(), [11, 12]);
    assert_eq!(j.after(20, 2).unwrap().len(), 0);
    j.compact(1000);
    assert_eq!((j.records().len(), j.compacted_to(), j.last_revision(), j.weight()), (0, 20, 20, 0));
    for i in 21..=24 {
        j.push(event(i, 1000, 40_000).into());
        j.compact(1000);
    }
    assert_eq!(j.records().len(), 2);
}

/// A small generator, so that the core needs no crate for it (xorshift64*).
struct Seed(u64);

impl Seed {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % n
    }
}

fn random_entry(seed: &mut Seed, now: &mut u64) -> Entry {
    *now += seed.below(3000);
    let n = 1 + seed.below(6);
    let list = (0..n)
        .map(|_| {
            let node = u16::try_from(1 + seed.below(3)).unwrap();
            let call = uid(node, u32::try_from(1 + seed.below(3)).unwrap(), seed.below(12));
            let seq = u32::try_from(seed.below(8)).unwrap();
            match seed.below(17) {
                0..=4 => claim(call, u8::try_from(seed.below(60)).unwrap()),
                5..=6 => progress(call, seq, 180),
                7..=8 => answer(call, seq),
                9 => refresh(call, seq),
                10..=12 => end(call, ["caller", "callee"][usize::try_from(seed.below(2)).unwrap()]),
                13 => Kind::NodeUp(NodeUp {
                    node: node.into(),
                    incarnation: u32::try_from(1 + seed.below(3)).unwrap(),
                    ..Default::default()
                }),
                14 => Kind::Config(ConfigRevision {
                    base: seed.below(4),
                    confirm_within_ms: u32::try_from(seed.below(3) * 2000).unwrap(),
                    ..Default::default()
                }),
                15 => Kind::ConfirmConfig(ConfirmConfig { revision: seed.below(4), author: String::new() }),
                _ => Kind::Tick(Tick {}),
            }
        })
        .collect();
    entry(*now + seed.below(500), list)
}

/// One CDR for each time a call was begun and ended, sequences 1.. without gaps, indexes that agree.
fn check(replica: &Replica, seed: u64) {
    let events = replica.events(0, usize::MAX).unwrap();
    let mut sequences: BTreeMap<Bytes, u32> = BTreeMap::new();
    let (mut begun, mut ended, mut last) = (0usize, 0usize, 0);
    for e in &events {
        assert!(e.revision > last, "seed {seed}: revisions rise");
        last = e.revision;
        if e.call.is_empty() {
            continue;
        }
        let next = sequences.entry(e.call.clone()).or_insert(0);
        if e.kind() == EventKind::Received {
            begun += 1;
            *next = 0;
        }
        *next += 1;
        assert_eq!(e.call_sequence, *next, "seed {seed}: gap-free");
        ended += usize::from(matches!(e.kind(), EventKind::Ended | EventKind::Abandoned));
    }
    assert_eq!(replica.cdrs(0, usize::MAX).unwrap().len(), ended, "seed {seed}: one CDR a call");
    assert_eq!(replica.live_calls(), begun - ended, "seed {seed}");
    assert_eq!(replica.calls(None).count(), begun - ended, "seed {seed}");
    assert_eq!(replica.by_key.len(), replica.calls.len(), "seed {seed}: one key a call");
    assert_eq!(replica.ended.len() + replica.live, replica.calls.len(), "seed {seed}");
    assert!(replica.legs.len() <= replica.live, "seed {seed}: no leg outlives its call");
}

#[test]
fn random_entries_give_the_same_bytes_everywhere() {
    for n in 1..=60u64 {
        let mut seed = Seed(n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let (mut a, mut b) = (Replica::new(), Replica::new());
        let mut now = 1_000_000;
        for index in 1..=200 {
            let e = random_entry(&mut seed, &mut now);
            // What a follower reads went over the wire.
            let e = Entry::decode(Bytes::from(e.encode_to_vec())).unwrap();
            let effects = a.apply(index, &e).unwrap();
            assert_eq!(b.apply(index, &e).unwrap(), effects, "seed {n}");
            // One of the two restarts from a snapshot now and then.
            if seed.below(20) == 0 {
                let bytes = b.snapshot().encode_to_vec();
                b = Replica::restore(Snapshot::decode(Bytes::from(bytes)).unwrap()).unwrap();
            }
            let (x, y) = (a.snapshot().encode_to_vec(), b.snapshot().encode_to_vec());
            assert!(x == y, "seed {n}, entry {index}: snapshots differ");
        }
        check(&a, n);
        check(&b, n);
    }
}

#[test]
fn a_flood_of_short_calls_leaves_bounded_memory() {
    let mut r = Replica::new();
    for n in 0..20_000u64 {
        let c = uid(1, 1, n);
        let Kind::Claim(mut k) = claim(c, 0) else { unreachable!() };
        k.key = Bytes::copy_from_slice(&u128::from(n).to_be_bytes());
        // 100 calls a second: no more than the retention's worth of them stay.
        r.apply(n + 1, &entry(1_000_000 + n * 10, vec![Kind::Claim(k), progress(c, 1, 180), end(c, "caller")])).unwrap();
        assert!(r.calls.len() <= 6_401);
    }
    assert_eq!((r.live_calls(), r.legs.len()), (0, 0));
    assert!(r.events(0, 1).unwrap().len() == 1);
}

#[test]
fn damaged_snapshots_are_refused() {
    let mut r = Replica::new();
    r.apply(1, &entry(1, vec![claim(uid(1, 1, 1), 1)])).unwrap();
    let good = r.snapshot();
    assert!(Replica::restore(good.clone()).is_ok());
    let twice = Snapshot { calls: [good.calls.clone(), good.calls.clone()].concat(), ..good.clone() };
    assert_eq!(Replica::restore(twice).unwrap_err(), RestoreError::Damaged("a call stands twice"));
    assert_eq!(
        Replica::restore(Snapshot { version: 9, ..good.clone() }).unwrap_err(),
        RestoreError::NewerLevel { level: 9, knows: LEVEL }
    );
    let mut no_phase = good;
    no_phase.calls[0].phase = 17;
    assert_eq!(Replica::restore(no_phase).unwrap_err(), RestoreError::Damaged("a call's phase"));
}

#[test]
fn blocks_stand_are_replaced_and_expire() {
    let block = |prefix: &str, until: u64| Kind::Block(Block { prefix: prefix.into(), until_unix_ms: until, ..Block::default() });
    let mut r = Replica::new();
    let standing = |r: &Replica| r.blocks().map(|b| (b.prefix.clone(), b.until_unix_ms, b.since_unix_ms)).collect::<Vec<_>>();
    let effects = r.apply(1, &entry(1000, vec![block("198.18.0.1/32", 0), block("198.18.0.2/32", 5000)])).unwrap();
    assert_eq!(effects, [Effect::Blocks, Effect::Blocks]);
    r.apply(2, &entry(2000, vec![block("198.18.0.1/32", 9000)])).unwrap();
    assert_eq!(standing(&r), [("198.18.0.1/32".into(), 9000, 2000), ("198.18.0.2/32".into(), 5000, 1000)]);
    assert_eq!(standing(&Replica::restore(r.snapshot()).unwrap()), standing(&r));
    let gone = Kind::Unblock(Unblock { prefix: "198.18.0.9/32".into() });
    assert_eq!(r.apply(3, &entry(2000, vec![gone])).unwrap(), [Effect::Stale { call: None, reason: StaleReason::NoBlock }]);
    assert_eq!(r.apply(4, &entry(5000, vec![Kind::Tick(Tick {})])).unwrap(), [Effect::Blocks]);
    assert_eq!(standing(&r), [("198.18.0.1/32".into(), 9000, 2000)]);
    r.apply(5, &entry(5001, vec![Kind::Unblock(Unblock { prefix: "198.18.0.1/32".into() })])).unwrap();
    assert!(standing(&r).is_empty());
    let long = Kind::Block(Block { prefix: "198.18.0.1/32".into(), reason: "x".repeat(300), ..Block::default() });
    let many = (0..BLOCK_CAP + 1).map(|n| block(&format!("10.{}.{}.0/24", n / 256, n % 256), 0));
    for (n, kinds) in many.collect::<Vec<_>>().chunks(MAX_COMMANDS).enumerate() {
        r.apply(6 + n as u64, &entry(6000, kinds.to_vec())).unwrap();
    }
    assert_eq!(standing(&r).len(), BLOCK_CAP);
    assert_eq!(r.apply(99, &entry(6000, vec![long])).unwrap(), [Effect::Stale { call: None, reason: StaleReason::NoBlock }]);
}

fn level(n: u32) -> Kind {
    Kind::Level(Level { level: n })
}

fn alarm(node: u32, incarnation: u32, raised: bool) -> Kind {
    Kind::Alarm(Alarm { node, incarnation, kind: "disk-low".into(), raised, detail: "3 % free".into() })
}

#[test]
fn nothing_of_a_level_counts_before_it_is_reached() {
    let mut r = Replica::new();
    let stale = |reason| Effect::Stale { call: None, reason };
    let before = r.snapshot();
    assert_eq!(r.apply(1, &entry(1, vec![alarm(1, 1, true)])).unwrap(), [stale(StaleReason::Level)]);
    assert_eq!(Snapshot { last_index: 0, clock_ms: 0, ..r.snapshot() }, before);
    assert_eq!(r.apply(2, &entry(1, vec![level(2), level(2), level(1)])).unwrap()[0], Effect::Level(2));
    assert_eq!(r.level(), 2);
    let effects = r.apply(3, &entry(5, vec![alarm(1, 1, true), alarm(1, 1, true)])).unwrap();
    assert_eq!(effects[1], stale(StaleReason::SameAlarm));
    assert_eq!(kinds(&r), [EventKind::AlarmRaised]);
    let restored = Replica::restore(r.snapshot()).unwrap();
    assert_eq!((restored.level(), restored.snapshot()), (2, r.snapshot()));
}

#[test]
fn a_node_stops_where_the_log_goes_beyond_what_it_knows() {
    let mut held = Replica::knowing(1);
    let error = held.apply(1, &entry(1, vec![Kind::Tick(Tick {}), level(2)])).unwrap_err();
    assert_eq!(error, ApplyError::NewerLevel { index: 1, level: 2, knows: 1 });
    assert_eq!(held.snapshot(), Replica::new().snapshot(), "nothing has changed");
    let mut new = Replica::new();
    assert!(matches!(new.apply(1, &entry(1, vec![level(LEVEL + 1)])), Err(ApplyError::NewerLevel { .. })));
    new.apply(1, &entry(1, vec![level(2)])).unwrap();
    assert_eq!(Replica::restore_knowing(new.snapshot(), 1).unwrap_err(), RestoreError::NewerLevel { level: 2, knows: 1 });
    assert_eq!(Replica::knowing(9).knows(), LEVEL);
}

#[test]
fn alarms_stand_until_cleared_or_the_node_starts_again() {
    let mut r = Replica::new();
    let up = |n| Kind::NodeUp(NodeUp { node: 1, incarnation: n, ..Default::default() });
    r.apply(1, &entry(1, vec![level(2), up(1), alarm(1, 1, true), alarm(2, 1, true)])).unwrap();
    let standing = |r: &Replica| r.alarms().map(|a| (a.node, a.since_unix_ms)).collect::<Vec<_>>();
    assert_eq!(standing(&r), [(1, 1), (2, 1)]);
    r.apply(2, &entry(5, vec![alarm(2, 1, false), up(2)])).unwrap();
    assert!(standing(&r).is_empty());
    // Said by what the node was before.
    let effects = r.apply(3, &entry(6, vec![alarm(1, 1, true)])).unwrap();
    assert_eq!(effects, [Effect::Stale { call: None, reason: StaleReason::OldIncarnation }]);
    r.apply(4, &entry(7, vec![alarm(1, 2, true)])).unwrap();
    assert_eq!(standing(&r), [(1, 7)]);
    // What no node says.
    let long = Kind::Alarm(Alarm { node: 1, incarnation: 2, kind: "x".repeat(65), raised: true, detail: String::new() });
    assert_eq!(r.apply(5, &entry(8, vec![long])).unwrap(), [Effect::Stale { call: None, reason: StaleReason::SameAlarm }]);
}

#[test]
fn a_node_is_known_by_its_log_directory() {
    let up = |incarnation, data: u8| {
        Kind::NodeUp(NodeUp { node: 3, incarnation, data_id: vec![data; 16].into(), ..Default::default() })
    };
    let readmit = || Kind::Readmit(Readmit { node: 3 });
    let refused = [Effect::Stale { call: None, reason: StaleReason::OtherData }];
    let mut r = Replica::new();
    // Before level 2 ids say nothing.
    r.apply(1, &entry(1, vec![up(7, 1)])).unwrap();
    assert!(r.node(NodeId(3)).unwrap().data_id.is_empty());
    // Said again under level 2, the same start is known by it.
    r.apply(2, &entry(2, vec![level(2), up(7, 1)])).unwrap();
    assert_eq!(r.node(NodeId(3)).unwrap().data_id, vec![1; 16]);
    assert_eq!(kinds(&r), [EventKind::NodeUp], "it did not start again");
    // A wiped disk, whatever incarnation it counts.
    assert_eq!(r.apply(3, &entry(3, vec![up(8, 2)])).unwrap(), refused);
    assert_eq!(r.apply(4, &entry(3, vec![up(1, 2)])).unwrap(), refused);
    assert_eq!(r.node_incarnation(NodeId(3)), Some(Incarnation(7)));
    // The operator's word, through a snapshot.
    r.apply(5, &entry(4, vec![readmit()])).unwrap();
    let mut r = Replica::restore(r.snapshot()).unwrap();
    r.apply(6, &entry(5, vec![up(7, 2)])).unwrap();
    assert!(r.node(NodeId(3)).unwrap().vacant, "incarnations still rise");
    r.apply(7, &entry(6, vec![up(9, 2)])).unwrap();
    let known = r.node(NodeId(3)).unwrap();
    assert_eq!((known.incarnation, known.vacant, &known.data_id[..]), (9, false, &[2; 16][..]));
    assert_eq!(r.apply(8, &entry(7, vec![up(10, 1)])).unwrap(), refused, "the old directory is no longer its own");
}

/// A node that is down takes its calls out of nobody's hands: they are marked, and marked no more when it is back.
#[test]
fn a_node_is_down_until_it_is_back_or_starts_again() {
    let up = |node, incarnation| Kind::NodeUp(NodeUp { node, incarnation, ..NodeUp::default() });
    let down = |node, incarnation| Kind::NodeDown(NodeDown { node, incarnation, unix_ms: 0 });
    let back = |node, incarnation| Kind::NodeBack(NodeBack { node, incarnation });
    let (a, b, later) = (uid(1, 1, 1), uid(2, 1, 1), uid(1, 1, 2));
    let mut r = Replica::new();
    raise(&mut r, 2);
    let lost = |r: &Replica| [a, b, later].map(|c| r.call(c).is_some_and(|entry| r.is_owner_lost(entry)));
    r.apply(2, &entry(1000, vec![up(1, 1), up(2, 1), claim(a, 1), claim(b, 2)])).unwrap();
    let stale = |r: &mut Replica, index, kind, why| {
        assert_eq!(r.apply(index, &entry(2000, vec![kind])).unwrap(), [Effect::Stale { call: None, reason: why }]);
    };
    stale(&mut r, 3, down(1, 2), StaleReason::OldIncarnation);
    stale(&mut r, 4, down(3, 1), StaleReason::OldIncarnation);
    stale(&mut r, 5, down(0, 1), StaleReason::Malformed);
    stale(&mut r, 6, back(1, 1), StaleReason::Replay);
    let effects = r.apply(7, &entry(5000, vec![down(1, 1)])).unwrap();
    assert_eq!(effects[0], Effect::NodeDown { node: NodeId(1), incarnation: Incarnation(1) });
    stale(&mut r, 8, down(1, 1), StaleReason::Replay);
    // Proposed before, committed after.
    r.apply(9, &entry(900, vec![claim(later, 3)])).unwrap();
    assert_eq!(lost(&r), [true, false, true]);
    assert_eq!(Replica::restore(r.snapshot()).map(|again| (lost(&again), again.snapshot())), Ok((lost(&r), r.snapshot())));
    r.apply(10, &entry(6000, vec![back(1, 1)])).unwrap();
    assert_eq!((lost(&r), r.down_since(NodeId(1))), ([false; 3], None));
    // What it ends then ends as ever.
    r.apply(11, &entry(7000, vec![end(later, "caller")])).unwrap();
    assert_eq!(r.cdrs(0, 9).unwrap()[0].ended_unix_ms, 7000);
    // Down again, and started again: its call lives until it says so, and was over when the node was.
    r.apply(12, &entry(8000, vec![down(1, 1)])).unwrap();
    r.apply(13, &entry(9000, vec![up(1, 2)])).unwrap();
    assert_eq!(r.orphans_of(NodeId(1)).map(|c| c.uid).collect::<Vec<_>>(), [a]);
    assert_eq!(lost(&r), [true, false, false]);
    r.apply(14, &entry(9500, vec![down(1, 2)])).unwrap();
    r.apply(15, &entry(9600, vec![up(1, 3), end(a, "node")])).unwrap();
    assert_eq!(r.cdrs(0, 9).unwrap()[1].ended_unix_ms, 8000);
    assert_eq!(r.orphans_of(NodeId(1)).count(), 0);
    use EventKind::{Abandoned, Ended, NodeBack as Back, NodeDown as Down, NodeUp as Up, Received};
    assert_eq!(kinds(&r)[2..], [Received, Received, Down, Received, Back, Abandoned, Down, Up, Down, Up, Ended]);
}

/// At level 1 there is no such command, and an owner that starts again ends its calls by that.
#[test]
fn below_its_level_no_node_is_down() {
    let mut r = Replica::new();
    let a = uid(1, 1, 1);
    r.apply(1, &entry(1000, vec![Kind::NodeUp(NodeUp { node: 1, incarnation: 1, ..NodeUp::default() }), claim(a, 1)])).unwrap();
    let down = Kind::NodeDown(NodeDown { node: 1, incarnation: 1, unix_ms: 0 });
    let effects = r.apply(2, &entry(2000, vec![down])).unwrap();
    assert_eq!(effects, [Effect::Stale { call: None, reason: StaleReason::Level }]);
    r.apply(3, &entry(3000, vec![Kind::NodeUp(NodeUp { node: 1, incarnation: 2, ..NodeUp::default() })])).unwrap();
    assert_eq!(r.cdrs(0, 9).unwrap()[0].ended_unix_ms, 3000);
}

/// Before and after its commit an event has the same id, and says the same.
#[test]
fn what_an_owner_tells_early_is_what_the_log_says_later() {
    let mut r = Replica::new();
    raise(&mut r, 2);
    let c = uid(1, 1, 5);
    let notice = Kind::Notice(Notice {
        call: raw(c),
        epoch: 1,
        seq: 5,
        location: true,
        data: true,
        message: Bytes::from_static(b"INFO sip:x SIP/2.0\r\n\r\n"),
        location_number: 4,
        data_number: 2,
    });
    let Kind::Refresh(second) = refresh(c, 4) else { unreachable!() };
    let second = Kind::Refresh(Refresh { number: 7, ..second });
    let records = [claim(c, 1), progress(c, 1, 180), answer(c, 2), refresh(c, 3), second, notice, end(c, "caller")];
    let numbered = || (0..).zip(&records).map(|(seq, kind)| (seq, 1000 + u64::from(seq), kind));
    let early = r.preview(c, numbered()).expect("it claims");
    assert!(r.call(c).is_none() && r.last_event_revision() == 0, "nothing has changed");
    let ids: Vec<String> = early.events.iter().map(|e| event_id(&e.event)).collect();
    let of_kind = |kinds: &[&str]| kinds.iter().map(|k| format!("1-1-5.1.{k}")).collect::<Vec<_>>();
    let kinds =
        ["received.1", "ringing.1", "answered.1", "updated.3", "updated.7", "location_updated.4", "additional_data.2", "ended.1"];
    assert_eq!(ids, of_kind(&kinds));
    for (index, (seq, at, kind)) in (2..).zip(numbered()) {
        // What is left to say begins where the log ends, and nothing of it is said to be there before it is.
        let rest = r.preview(c, numbered().skip(seq as usize)).expect("a call");
        assert_eq!(rest.entry.state().phase, early.entry.state().phase);
        assert!(rest.events.iter().all(|e| !e.is_committed(&r, c)), "{seq}");
        r.apply(index, &entry(at, vec![kind.clone()])).unwrap();
        assert!(early.events.iter().filter(|e| e.seq <= seq).all(|e| e.is_committed(&r, c)), "{seq}");
    }
    let said: Vec<Event> = r.events(0, 99).unwrap().iter().map(|e| (**e).clone()).collect();
    assert_eq!(said.iter().map(|e| e.call_sequence).collect::<Vec<_>>(), (1..=8).collect::<Vec<_>>());
    let bare = said.into_iter().map(|e| Event { revision: 0, call_sequence: 0, ..e });
    assert_eq!(bare.collect::<Vec<_>>(), early.events.iter().map(|e| (*e.event).clone()).collect::<Vec<_>>());
}

/// The Answer failed, or comes after the End: the call was answered all the same.
#[test]
fn an_end_tells_of_an_answer_that_the_log_does_not_have() {
    let c = uid(1, 1, 5);
    let Kind::End(over) = end(c, "caller") else { unreachable!() };
    let over = Kind::End(End { after_ms: Some(9000), duration_ms: Some(8000), ..over });
    let mut r = Replica::new();
    raise(&mut r, 2);
    r.apply(2, &entry(1000, vec![claim(c, 1), progress(c, 1, 180), over.clone(), answer(c, 2)])).unwrap();
    assert_eq!(kinds(&r), [EventKind::Received, EventKind::Ringing, EventKind::Answered, EventKind::Ended]);
    let cdr = r.cdrs(0, 9).unwrap().remove(0);
    assert_eq!((cdr.answered_unix_ms, cdr.ended_unix_ms), (2000, 10_000));
    let mut old = Replica::new();
    old.apply(2, &entry(1000, vec![claim(c, 1), over])).unwrap();
    assert_eq!(kinds(&old), [EventKind::Received, EventKind::Abandoned]);
}
