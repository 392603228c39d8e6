//! Configurations that wait for their confirmation.

use crate::store_pb::command::Kind;
use crate::store_pb::{Command, ConfigRevision, ConfirmConfig, Entry, EventKind, Level, Tick};

use super::{CONFIG_HISTORY_CAP, Effect, Replica, StaleReason};

/// Any time; the first Tick sets the log's clock to it.
const NOW: u64 = 1_800_000_000_000;

struct Log {
    replica: Replica,
    index: u64,
}

impl Log {
    fn new() -> Log {
        let mut log = Log::old();
        log.apply(0, Kind::Level(Level { level: 2 }));
        log
    }

    /// Of a cluster with a node that knows nothing of confirmations.
    fn old() -> Log {
        let mut log = Log { replica: Replica::new(), index: 0 };
        log.tick(0);
        log
    }

    fn apply(&mut self, after_ms: u64, kind: Kind) -> Vec<Effect> {
        self.index += 1;
        let commands = vec![Command { unix_ms: NOW + after_ms, kind: Some(kind) }];
        self.replica.apply(self.index, &Entry { version: 1, proposer: 1, incarnation: 1, commands }).unwrap()
    }

    fn tick(&mut self, after_ms: u64) -> Vec<Effect> {
        self.apply(after_ms, Kind::Tick(Tick {}))
    }

    fn config(&mut self, after_ms: u64, text: &str, confirm_within_ms: u32) -> Vec<Effect> {
        let base = self.replica.config().0;
        self.apply(after_ms, Kind::Config(ConfigRevision { base, text: text.into(), confirm_within_ms, ..Default::default() }))
    }

    fn confirm(&mut self, after_ms: u64, revision: u64) -> Vec<Effect> {
        self.apply(after_ms, Kind::ConfirmConfig(ConfirmConfig { revision, author: "ann".into() }))
    }

    fn text(&self) -> &str {
        self.replica.config().1
    }
}

#[test]
fn what_nobody_confirms_is_taken_back_by_the_logs_clock() {
    let mut log = Log::new();
    log.config(0, "good", 0);
    log.config(1000, "bad", 60_000);
    assert_eq!((log.text(), log.replica.config_pending().map(|p| p.until_ms)), ("bad", Some(NOW + 61_000)));
    assert_eq!(log.tick(60_999), [], "not yet");
    let effects = log.tick(61_000);
    assert_eq!(effects[0], Effect::Config { revision: 3, text: "good".into(), request_id: String::new() });
    assert_eq!((log.text(), log.replica.config_pending()), ("good", None));
    let newest = log.replica.config().2.back().unwrap();
    assert_eq!((newest.restores, newest.author.as_str()), (1, "not confirmed in time"));
    let kinds: Vec<EventKind> = log.replica.events(0, 10).unwrap().iter().map(|e| e.kind()).collect();
    assert_eq!(kinds, [EventKind::Config, EventKind::Config, EventKind::ConfigRolledBack]);
    assert_eq!(log.tick(130_000), [], "once");
}

#[test]
fn what_is_confirmed_stands() {
    let mut log = Log::new();
    log.config(0, "good", 0);
    log.config(0, "better", 60_000);
    let nothing = vec![Effect::Stale { call: None, reason: StaleReason::NothingToConfirm }];
    assert_eq!(log.confirm(10, 1), nothing, "another revision waits");
    assert_eq!(log.confirm(59_000, 2), []);
    assert_eq!(log.tick(100_000), []);
    assert_eq!(log.text(), "better");
    let newest = log.replica.config().2.back().unwrap();
    assert_eq!((newest.confirmed_by.as_str(), newest.confirmed_unix_ms), ("ann", NOW + 59_000));
    assert_eq!(log.confirm(100_001, 2), nothing, "it has been");
    log.config(100_002, "worse", 60_000);
    log.tick(200_000);
    assert_eq!(log.confirm(200_001, 3), nothing, "too late");
    assert_eq!(log.text(), "better");
}

#[test]
fn over_one_that_waits_the_one_that_stood_comes_back() {
    let mut log = Log::new();
    log.config(0, "good", 0);
    log.config(0, "a", 60_000);
    log.config(50_000, "b", 60_000);
    assert_eq!(log.tick(60_000), [], "the newer one has its own time");
    log.tick(110_000);
    assert_eq!(log.text(), "good");
    log.config(111_000, "c", 60_000);
    log.config(112_000, "d", 0);
    log.tick(300_000);
    assert_eq!((log.text(), log.replica.config_pending()), ("d", None), "the newer one stands at once");
}

#[test]
fn below_the_level_nothing_of_it_counts() {
    let mut log = Log::old();
    log.config(0, "good", 0);
    log.apply(
        0,
        Kind::Config(ConfigRevision {
            base: 1,
            text: "bad".into(),
            confirm_within_ms: 60_000,
            restores: 1,
            ..Default::default()
        }),
    );
    let newest = log.replica.config().2.back().unwrap();
    assert_eq!((log.replica.config_pending(), newest.confirm_within_ms, newest.restores), (None, 0, 0));
    assert_eq!(log.confirm(0, 2), [Effect::Stale { call: None, reason: StaleReason::Level }]);
    log.tick(100_000);
    assert_eq!(log.text(), "bad");
    // Nor afterwards: it was applied as it was understood then.
    log.apply(100_000, Kind::Level(Level { level: 2 }));
    log.tick(200_000);
    assert_eq!(log.text(), "bad");
}

#[test]
fn before_the_first_there_is_nothing_to_come_back() {
    let mut log = Log::new();
    log.config(0, "first", 60_000);
    assert_eq!(log.replica.config_pending(), None);
    log.tick(100_000);
    assert_eq!(log.text(), "first");
}

#[test]
fn what_may_come_back_is_kept_and_all_of_it_stands_in_snapshots() {
    let mut log = Log::new();
    log.config(0, "good", 0);
    for n in 0..2 * CONFIG_HISTORY_CAP {
        log.config(1, &n.to_string(), 60_000);
    }
    assert_eq!(log.replica.config().2.len(), CONFIG_HISTORY_CAP);
    assert_eq!(log.replica.config().2[0].text, "good");
    let snapshot = log.replica.snapshot();
    let mut restored = Replica::restore(snapshot.clone()).unwrap();
    assert_eq!(restored.snapshot(), snapshot);
    log.tick(70_000);
    let tick = Command { unix_ms: NOW + 70_000, kind: Some(Kind::Tick(Tick {})) };
    restored.apply(log.index, &Entry { version: 1, proposer: 1, incarnation: 1, commands: vec![tick] }).unwrap();
    assert_eq!((log.text(), restored.snapshot()), ("good", log.replica.snapshot()));

    let mut wrong = snapshot;
    wrong.config_pending.as_mut().unwrap().back_to = 9_999;
    assert!(Replica::restore(wrong).is_err());
}
