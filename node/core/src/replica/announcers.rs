//! Who announces the anycast address, or would: what a withdrawal is judged by, so that of several at one time the last is refused.

use std::collections::{BTreeMap, VecDeque};

use super::{Replica, StaleReason};
use crate::ids::{Incarnation, NodeId};
use crate::store_pb::{AnnouncerState, Decision, NodeReport, Withdraw};

/// Decisions of each node that are remembered: whoever asked looks at once.
const DECISIONS: usize = 8;
/// Longest request id that is kept.
const REQUEST_ID_MAX: usize = 128;

/// One node, as the log knows it.
#[derive(Clone, Debug, PartialEq)]
struct Announcer {
    incarnation: Incarnation,
    /// The newest word that counted.
    seq: u64,
    wants: bool,
    healthy: bool,
    decisions: VecDeque<Decision>,
}

/// By node.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct AnnouncerLog(BTreeMap<NodeId, Announcer>);

impl AnnouncerLog {
    /// From a snapshot; `None` where an entry is malformed or stands twice.
    pub(super) fn restored(states: Vec<AnnouncerState>) -> Option<AnnouncerLog> {
        let mut log = BTreeMap::new();
        for s in states {
            let node = NodeId(u16::try_from(s.node).ok()?);
            let incarnation = Incarnation(s.incarnation);
            let decisions = s.decisions.into();
            let announcer = Announcer { incarnation, seq: s.seq, wants: s.wants, healthy: s.healthy, decisions };
            if log.insert(node, announcer).is_some() {
                return None;
            }
        }
        Some(AnnouncerLog(log))
    }

    pub(super) fn states(&self) -> impl Iterator<Item = AnnouncerState> {
        self.0.iter().map(|(node, a)| AnnouncerState {
            node: node.0.into(),
            incarnation: a.incarnation.0,
            seq: a.seq,
            wants: a.wants,
            healthy: a.healthy,
            decisions: a.decisions.iter().cloned().collect(),
        })
    }

    /// The record of this start of a node, if the word is newer than what stands there.
    fn newer(&mut self, node: NodeId, incarnation: Incarnation, seq: u64) -> Option<&mut Announcer> {
        let fresh = || Announcer { incarnation, seq: 0, wants: false, healthy: false, decisions: VecDeque::new() };
        let announcer = self.0.entry(node).or_insert_with(fresh);
        if announcer.incarnation != incarnation {
            *announcer = fresh();
        }
        (announcer.seq < seq).then(|| {
            announcer.seq = seq;
            announcer
        })
    }

    /// What a node says of itself. False: it has said something newer.
    pub(super) fn report(&mut self, node: NodeId, report: &NodeReport) -> bool {
        let Some(announcer) = self.newer(node, Incarnation(report.incarnation), report.seq) else { return false };
        (announcer.wants, announcer.healthy) = (report.wants, report.healthy);
        true
    }

    /// Decides whether a node may withdraw: another one must be left that is well and announces, or would, by the log and by what the asker has
    /// just heard of it. `None`: the node has said something newer.
    pub(super) fn withdraw(&mut self, node: NodeId, withdraw: &Withdraw) -> Option<bool> {
        let heard = |other: &NodeId| withdraw.heard.contains(&u32::from(other.0));
        let granted = self.0.iter().any(|(other, a)| *other != node && a.wants && a.healthy && heard(other));
        let announcer = self.newer(node, Incarnation(withdraw.incarnation), withdraw.seq)?;
        if granted {
            announcer.wants = false;
        }
        if announcer.decisions.len() == DECISIONS {
            announcer.decisions.pop_front();
        }
        let fits = withdraw.request_id.len() <= REQUEST_ID_MAX;
        let request_id = if fits { withdraw.request_id.clone() } else { String::new() };
        announcer.decisions.push_back(Decision { seq: withdraw.seq, granted, request_id });
        Some(granted)
    }

    /// What a node that has started again, or is down, said before counts no more.
    pub(super) fn forget(&mut self, node: NodeId) {
        self.0.remove(&node);
    }

    /// Whether a node announces or would, and is well; `None`: it has not said so since its start.
    pub(super) fn of(&self, node: NodeId) -> Option<(bool, bool)> {
        self.0.get(&node).map(|a| (a.wants, a.healthy))
    }

    /// What was decided of a node's withdrawal.
    pub(super) fn decision(&self, node: NodeId, is: impl Fn(&Decision) -> bool) -> Option<bool> {
        self.0.get(&node)?.decisions.iter().rev().find(|d| is(d)).map(|d| d.granted)
    }
}

impl Replica {
    /// What a node says of itself.
    pub(super) fn on_node_report(&mut self, report: &NodeReport) -> Result<(), StaleReason> {
        let node = self.this_start(report.node, report.incarnation)?;
        if self.announcers.report(node, report) { Ok(()) } else { Err(StaleReason::Replay) }
    }

    /// A node asks whether it may withdraw; the answer stands in [`Replica::withdrawal`].
    pub(super) fn on_withdraw(&mut self, withdraw: &Withdraw) -> Result<(), StaleReason> {
        let node = self.this_start(withdraw.node, withdraw.incarnation)?;
        self.announcers.withdraw(node, withdraw).map(drop).ok_or(StaleReason::Replay)
    }

    /// Only the start of a node that the log knows as its newest speaks for it.
    fn this_start(&self, node: u32, incarnation: u32) -> Result<NodeId, StaleReason> {
        let node = u16::try_from(node).map(NodeId).map_err(|_| StaleReason::Malformed)?;
        let known = self.nodes.get(&node).ok_or(StaleReason::OldIncarnation)?;
        if known.incarnation == incarnation { Ok(node) } else { Err(StaleReason::OldIncarnation) }
    }

    /// Whether a node announces or would, and whether it is well, as it last told the log since its start.
    pub fn announcer(&self, node: NodeId) -> Option<(bool, bool)> {
        self.announcers.of(node)
    }

    /// What was decided of the withdrawal with this number; `None`: nothing yet, or nothing any more.
    pub fn withdrawal(&self, node: NodeId, seq: u64) -> Option<bool> {
        self.announcers.decision(node, |d| d.seq == seq)
    }

    /// The same of the newest one that came with this request id.
    pub fn withdrawal_of(&self, node: NodeId, request_id: &str) -> Option<bool> {
        self.announcers.decision(node, |d| !request_id.is_empty() && d.request_id == request_id)
    }
}

#[cfg(test)]
mod tests {
    use super::super::LEVEL;
    use super::*;
    use crate::store_pb::command::Kind;
    use crate::store_pb::{Command, Entry, Level, NodeDown, NodeUp};

    struct Log {
        replica: Replica,
        index: u64,
        seq: u64,
    }

    impl Log {
        /// Three nodes that have started; at format level 2.
        fn new() -> Log {
            let mut log = Log { replica: Replica::new(), index: 0, seq: 0 };
            log.apply(Kind::Level(Level { level: LEVEL }));
            for node in 1..=3 {
                log.apply(Kind::NodeUp(NodeUp { node, incarnation: 1, ..NodeUp::default() }));
            }
            log
        }

        fn apply(&mut self, kind: Kind) {
            self.index += 1;
            let commands = vec![Command { unix_ms: 1000, kind: Some(kind) }];
            let entry = Entry { version: 1, proposer: 1, incarnation: 1, commands };
            self.replica.apply(self.index, &entry).expect("it is known");
        }

        fn says(&mut self, node: u32, wants: bool, healthy: bool) {
            self.seq += 1;
            self.apply(Kind::NodeReport(NodeReport { node, incarnation: 1, seq: self.seq, wants, healthy }));
        }

        fn withdraws(&mut self, node: u16, heard: &[u32]) -> Option<bool> {
            self.seq += 1;
            let request_id = format!("r{}", self.seq);
            let withdraw = Withdraw { node: node.into(), incarnation: 1, seq: self.seq, heard: heard.to_vec(), request_id };
            self.apply(Kind::Withdraw(withdraw));
            self.replica.withdrawal(NodeId(node), self.seq)
        }
    }

    #[test]
    fn of_all_that_withdraw_at_once_one_stays() {
        let mut log = Log::new();
        (1..=3).for_each(|node| log.says(node, true, true));
        // Each has heard both others, for none was gone when it asked.
        assert_eq!(log.withdraws(1, &[2, 3]), Some(true));
        assert_eq!(log.withdraws(2, &[1, 3]), Some(true));
        assert_eq!(log.withdraws(3, &[1, 2]), Some(false));
        assert_eq!(log.replica.announcer(NodeId(3)), Some((true, true)), "it goes on");
        assert_eq!(log.withdraws(3, &[1, 2]), Some(false));
        // One of the others is back.
        log.says(1, true, true);
        assert_eq!(log.withdraws(3, &[1, 2]), Some(true));
        // What was decided is found by the request too, and survives a snapshot.
        let id = format!("r{}", log.seq);
        let restored = Replica::restore(log.replica.snapshot()).expect("it was just written");
        assert_eq!(restored.withdrawal_of(NodeId(3), &id), Some(true));
        assert_eq!((restored.withdrawal_of(NodeId(3), ""), restored.withdrawal_of(NodeId(1), &id)), (None, None));
        assert_eq!(restored.snapshot(), log.replica.snapshot());
    }

    #[test]
    fn who_counts_is_well_wants_is_up_and_was_just_heard() {
        type Change = fn(&mut Log);
        let rows: [(&str, Change, &[u32], bool); 8] = [
            ("well and heard", |_| {}, &[2], true),
            ("not heard: it may have died a moment ago", |_| {}, &[], false),
            ("another was heard", |_| {}, &[3], false),
            ("it does not want", |log| log.says(2, false, true), &[2], false),
            ("it is not well", |log| log.says(2, true, false), &[2], false),
            (
                "it has started again, and not said how it is",
                |log| log.apply(Kind::NodeUp(NodeUp { node: 2, incarnation: 2, ..NodeUp::default() })),
                &[2],
                false,
            ),
            (
                "it is down, and was heard a moment before",
                |log| log.apply(Kind::NodeDown(NodeDown { node: 2, incarnation: 1, ..NodeDown::default() })),
                &[2],
                false,
            ),
            ("itself", |log| log.says(2, false, true), &[1], false),
        ];
        for (name, change, heard, granted) in rows {
            let mut log = Log::new();
            log.says(1, true, true);
            log.says(2, true, true);
            change(&mut log);
            assert_eq!(log.withdraws(1, heard), Some(granted), "{name}");
        }
    }

    #[test]
    fn what_was_said_earlier_and_commits_later_counts_for_nothing() {
        let mut log = Log::new();
        log.says(1, true, true);
        log.says(2, true, true);
        assert_eq!(log.withdraws(1, &[2]), Some(true));
        let late = NodeReport { node: 1, incarnation: 1, seq: 1, wants: true, healthy: true };
        log.apply(Kind::NodeReport(late));
        assert_eq!(log.replica.announcer(NodeId(1)), Some((false, true)));
        // Of an earlier start, or one that the log has not heard of.
        for incarnation in [0, 2] {
            log.apply(Kind::NodeReport(NodeReport { seq: 99, incarnation, ..late }));
            assert_eq!(log.replica.announcer(NodeId(1)), Some((false, true)));
        }
        log.apply(Kind::NodeReport(NodeReport { node: 9, seq: 99, ..late }));
        assert_eq!(log.replica.announcer(NodeId(9)), None);
        // Decisions are forgotten in the end.
        for _ in 0..DECISIONS {
            log.withdraws(1, &[]);
        }
        assert_eq!(log.replica.withdrawal(NodeId(1), 3), None);
    }

    #[test]
    fn before_level_2_nobody_says_anything() {
        let mut log = Log { replica: Replica::new(), index: 0, seq: 0 };
        log.apply(Kind::NodeUp(NodeUp { node: 1, incarnation: 1, ..NodeUp::default() }));
        log.says(1, true, true);
        assert_eq!((log.replica.announcer(NodeId(1)), log.withdraws(1, &[2])), (None, None));
    }
}
