//! The replicated state machine: what every node knows of every call, the configuration, and the events and CDRs that
//! derive from the log.
//!
//! It changes by committed entries and by nothing else; there is no clock but the one in the entries. The same entries give
//! the same bytes in [`Replica::snapshot`] on every node. What it keeps true:
//! one call a claim key (anycast.md, rule B); one CDR a call (rule L); event sequences of a call without gaps; a command of
//! another epoch than the call's changes nothing (rule J); a replayed command changes nothing.

mod adopt;
mod alarms;
mod announcers;
mod apply;
mod blocks;
mod budgets;
mod clock;
mod config_log;
#[cfg(test)]
mod config_tests;
mod early;
mod effect;
mod entry;
mod history;
mod legs;
mod level;
mod nodes;
mod records;
mod snapshot;
#[cfg(test)]
mod tests;
mod twins;
mod uncommitted;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

pub use adopt::{CSEQ_JUMP, CSEQ_MAX, CSEQ_STEP};
pub use blocks::BLOCK_CAP;
pub use config_log::{CONFIG_HISTORY_CAP, CONFIG_TEXT_CAP};
pub use early::EarlyCalls;
pub use effect::{ApplyError, Compacted, Effect, RestoreError, StaleReason};
pub use entry::{CallEntry, Phase, failed, left};
pub use level::{ADOPT_LEVEL, LEVEL, level_of};
pub use nodes::OWNER_LOST_LEVEL;
pub use snapshot::Frozen;
pub use twins::BESIDE_LEVEL;
pub use uncommitted::{EarlyEvent, Preview, UNCOMMITTED_LEVEL, event_id};

use crate::ids::{CallUid, NodeId};
use crate::store_pb::{AlarmState, Block, Cdr, ConfigHistory, ConfigPending, Event, NodeUp};
use alarms::AlarmLog;
use announcers::AnnouncerLog;
use blocks::BlockLog;
use budgets::Budgets;
use config_log::ConfigLog;
use history::Limits;
use legs::Legs;

/// Format version of entries.
pub const ENTRY_VERSION: u32 = 1;
/// Revisions of one entry: log index * this + position.
pub const REVISIONS_PER_ENTRY: u64 = 4096;
/// Commands of one entry. Each gives one event at most, and half of the entry's revisions are left for calls that end
/// because their owner started again.
pub const MAX_COMMANDS: usize = 2048;
/// How long an ended call is remembered, so that late copies of its INVITE are recognised: 64*T1 is 32 s (RFC 3261
/// §17.1.1.2), doubled for copies that come by another path.
pub const CLAIM_RETENTION_MS: u64 = 64_000;
/// How far the clock of a command may be ahead of the last Tick, and how far one Tick moves the log's clock. A node with a wrong clock must
/// not expire what others need. The leader ticks each 10 s: a week is caught up with in six hours, a wrong leader is noticed before.
pub const MAX_CLOCK_LEAD_MS: u64 = 300_000;
/// Events kept: about ten minutes at the sizing goal, weeks at a country's load.
pub const EVENT_CAP: usize = 100_000;
/// CDRs kept.
pub const CDR_CAP: usize = 200_000;

/// Events are promised for 24 h (control.md); RECEIVED carries the INVITE, so octets are bounded too. All of them before level 2, from then on
/// those of emergency calls and of the cluster.
const EVENT_LIMITS: Limits = Limits { count: EVENT_CAP, weight: 256 << 20, age_ms: 24 * 3_600_000 };
/// Those of ordinary calls from level 2 on: nobody is sent out by them.
const ORDINARY_EVENT_LIMITS: Limits = Limits { count: EVENT_CAP / 2, weight: 64 << 20, ..EVENT_LIMITS };
/// CDRs are kept for a week at the most: billing collects them long before. All of them before level 2, from then on those of ordinary calls.
const CDR_LIMITS: Limits = Limits { count: CDR_CAP, weight: 192 << 20, age_ms: 7 * 24 * 3_600_000 };
/// Those of emergency calls from level 2 on: a country's week is 20,000 a node.
const EMERGENCY_CDR_LIMITS: Limits = Limits { count: CDR_CAP / 2, weight: 96 << 20, ..CDR_LIMITS };
/// The level from which on ordinary records have a budget of their own.
const BUDGETS_LEVEL: u32 = 2;

/// The replicated state at one log index.
#[derive(Debug)]
pub struct Replica {
    applied_index: u64,
    /// The newest format level that this node takes part in.
    knows: u32,
    /// The one that the log has reached.
    level: u32,
    /// Live calls, and ended ones for [`CLAIM_RETENTION_MS`].
    calls: BTreeMap<CallUid, Arc<CallEntry>>,
    by_key: BTreeMap<[u8; 16], CallUid>,
    legs: Legs,
    /// Ended calls by the log's clock at their end.
    ended: BTreeSet<(u64, CallUid)>,
    /// Live calls whose owner has started again. At level 1 they are ended a bounded number an entry, later by their owner.
    orphans: BTreeSet<CallUid>,
    live: usize,
    cdrs: Budgets<Cdr>,
    events: Budgets<Event>,
    config: ConfigLog,
    blocks: BlockLog,
    alarms: AlarmLog,
    announcers: AnnouncerLog,
    /// The log's clock, by which things expire: no command but a Tick sets it back, and that by a bounded step.
    clock_ms: u64,
    /// The same as the newest Tick left it.
    stepped_ms: u64,
    /// The newest Tick.
    tick_ms: u64,
    /// What each node has said of its last start.
    nodes: BTreeMap<NodeId, NodeUp>,
    /// Nodes that are down, and since when.
    down: BTreeMap<NodeId, u64>,
}

impl Default for Replica {
    fn default() -> Replica {
        Replica::new()
    }
}

impl Replica {
    /// The state before the first entry.
    pub fn new() -> Replica {
        Replica::knowing(LEVEL)
    }

    /// The same for a node that is held at a format level: it stops where the log goes beyond.
    pub fn knowing(level: u32) -> Replica {
        Replica {
            applied_index: 0,
            knows: level.min(LEVEL),
            level: 1,
            calls: BTreeMap::new(),
            by_key: BTreeMap::new(),
            legs: Legs::default(),
            ended: BTreeSet::new(),
            orphans: BTreeSet::new(),
            live: 0,
            cdrs: Budgets::new(CDR_LIMITS),
            events: Budgets::new(EVENT_LIMITS),
            config: ConfigLog::default(),
            blocks: BlockLog::default(),
            alarms: AlarmLog::default(),
            announcers: AnnouncerLog::default(),
            clock_ms: 0,
            stepped_ms: 0,
            tick_ms: 0,
            nodes: BTreeMap::new(),
            down: BTreeMap::new(),
        }
    }

    /// Log index of the last entry applied; 0: none.
    pub fn applied_index(&self) -> u64 {
        self.applied_index
    }

    /// The format level that the log has reached: nothing of a newer one is proposed, and no old command means anything new.
    pub fn level(&self) -> u32 {
        self.level
    }

    /// The newest format level that this node takes part in.
    pub fn knows(&self) -> u32 {
        self.knows
    }

    /// The log's clock, milliseconds since the Unix epoch.
    pub fn clock_ms(&self) -> u64 {
        self.clock_ms
    }

    /// The call that holds a claim key: live, or ended less than [`CLAIM_RETENTION_MS`] ago.
    pub fn claim(&self, key: &[u8; 16]) -> Option<&Arc<CallEntry>> {
        self.calls.get(self.by_key.get(key)?)
    }

    /// A call, live or lately ended.
    pub fn call(&self, uid: CallUid) -> Option<&Arc<CallEntry>> {
        self.calls.get(&uid)
    }

    /// The live call whose called leg has this Call-ID and this tag of ours.
    pub fn by_leg(&self, call_id: &str, local_tag: &str) -> Option<CallUid> {
        self.legs.get(call_id, local_tag)
    }

    /// Live calls in the order of their identifiers, from the one after `after`.
    pub fn calls(&self, after: Option<CallUid>) -> impl Iterator<Item = &Arc<CallEntry>> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.calls.range((from, Bound::Unbounded)).map(|(_, c)| c).filter(|c| c.is_live())
    }

    /// The same, with calls that ended less than [`CLAIM_RETENTION_MS`] ago.
    pub fn all_calls(&self, after: Option<CallUid>) -> impl Iterator<Item = &Arc<CallEntry>> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.calls.range((from, Bound::Unbounded)).map(|(_, c)| c)
    }

    /// How many calls are live.
    pub fn live_calls(&self) -> usize {
        self.live
    }

    /// Up to `limit` CDRs after a revision, oldest first.
    pub fn cdrs(&self, after_revision: u64, limit: usize) -> Result<Vec<Arc<Cdr>>, Compacted> {
        self.cdrs.after(after_revision, limit, false)
    }

    /// Up to `limit` events after a revision, oldest first.
    pub fn events(&self, after_revision: u64, limit: usize) -> Result<Vec<Arc<Event>>, Compacted> {
        self.events.after(after_revision, limit, false)
    }

    /// The same, where only those of emergency calls are wanted. They last longer than those of ordinary calls, which from level 2 of the
    /// log on are not among them.
    pub fn emergency_events(&self, after_revision: u64, limit: usize) -> Result<Vec<Arc<Event>>, Compacted> {
        self.events.after(after_revision, limit, true)
    }

    /// The lowest revision after which all events of emergency calls are still there.
    pub fn emergency_events_compacted_to(&self) -> u64 {
        self.events.urgent_compacted_to()
    }

    /// True while events of emergency calls had to go that are not as old as they should become.
    pub fn is_short_of_events(&self) -> bool {
        self.events.is_short(self.clock_ms)
    }

    /// Up to `limit` of the events after a revision that are still there, whatever has gone.
    pub fn events_left(&self, after_revision: u64, limit: usize) -> Vec<Arc<Event>> {
        self.events.left(after_revision, limit)
    }

    /// The same for CDRs.
    pub fn cdrs_left(&self, after_revision: u64, limit: usize) -> Vec<Arc<Cdr>> {
        self.cdrs.left(after_revision, limit)
    }

    /// Revision of the newest event; 0: none yet.
    pub fn last_event_revision(&self) -> u64 {
        self.events.last_revision()
    }

    /// The lowest revisions after which all events, and all CDRs, are still there.
    pub fn compacted_to(&self) -> (u64, u64) {
        (self.events.compacted_to(), self.cdrs.compacted_to())
    }

    /// The configuration in force: revision (0: built in), TOML text, and the history, newest last.
    pub fn config(&self) -> (u64, &str, &VecDeque<Arc<ConfigHistory>>) {
        (self.config.revision(), self.config.text(), self.config.history())
    }

    /// The newest configuration, while it waits for its confirmation.
    pub fn config_pending(&self) -> Option<ConfigPending> {
        self.config.pending()
    }

    /// Sources that may not begin anything, in the order of their prefixes.
    pub fn blocks(&self) -> impl Iterator<Item = &Block> {
        self.blocks.iter()
    }

    /// Alarms that stand, by node and word.
    pub fn alarms(&self) -> impl Iterator<Item = &AlarmState> {
        self.alarms.iter()
    }
}
