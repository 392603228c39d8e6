//! Snapshots: taken cheaply under a lock (only reference counts change), written out later.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::alarms::AlarmLog;
use super::announcers::AnnouncerLog;
use super::blocks::BlockLog;
use super::budgets::{Budgets, Marks};
use super::config_log::ConfigLog;
use super::{
    BUDGETS_LEVEL, CDR_LIMITS, CallEntry, EMERGENCY_CDR_LIMITS, EVENT_LIMITS, LEVEL, ORDINARY_EVENT_LIMITS, Replica, RestoreError,
};
use crate::ids::{CallUid, NodeId};
use crate::store_pb::{Cdr, Event, NodeDown, NodeUp, Snapshot};

/// The replica at one log index, sharing its records.
#[derive(Clone, Debug)]
pub struct Frozen {
    last_index: u64,
    level: u32,
    calls: Vec<Arc<CallEntry>>,
    cdrs: Budgets<Cdr>,
    events: Budgets<Event>,
    config: ConfigLog,
    blocks: BlockLog,
    alarms: AlarmLog,
    announcers: AnnouncerLog,
    clock_ms: u64,
    stepped_ms: u64,
    tick_ms: u64,
    nodes: BTreeMap<NodeId, NodeUp>,
    down: BTreeMap<NodeId, u64>,
}

impl Frozen {
    pub(super) fn of(replica: &Replica) -> Frozen {
        Frozen {
            last_index: replica.applied_index,
            level: replica.level,
            calls: replica.calls.values().cloned().collect(),
            cdrs: replica.cdrs.clone(),
            events: replica.events.clone(),
            config: replica.config.clone(),
            blocks: replica.blocks.clone(),
            alarms: replica.alarms.clone(),
            announcers: replica.announcers.clone(),
            clock_ms: replica.clock_ms,
            stepped_ms: replica.stepped_ms,
            tick_ms: replica.tick_ms,
            nodes: replica.nodes.clone(),
            down: replica.down.clone(),
        }
    }

    fn down_record(&self, node: NodeId, unix_ms: u64) -> Option<NodeDown> {
        let incarnation = self.nodes.get(&node)?.incarnation;
        Some(NodeDown { node: u32::from(node.0), incarnation, unix_ms })
    }

    /// Log index of the last entry in it.
    pub fn last_index(&self) -> u64 {
        self.last_index
    }

    /// The record to write. Calls stand in the order of their identifiers, so that equal replicas give equal bytes.
    pub fn to_snapshot(&self) -> Snapshot {
        Snapshot {
            version: self.level,
            last_index: self.last_index,
            calls: self.calls.iter().map(|c| c.state().clone()).collect(),
            cdrs: self.cdrs.records().map(|c| (**c).clone()).collect(),
            events: self.events.records().map(|e| (**e).clone()).collect(),
            config_revision: self.config.revision(),
            config_text: self.config.text().to_owned(),
            config_history: self.config.history().iter().map(|h| (**h).clone()).collect(),
            config_pending: self.config.pending(),
            events_compacted_to: self.events.marks().ordinary,
            cdrs_compacted_to: self.cdrs.marks().ordinary,
            emergency_events_compacted_to: self.events.marks().urgent,
            emergency_cdrs_compacted_to: self.cdrs.marks().urgent,
            events_short_until_ms: self.events.marks().short_until_ms,
            clock_ms: self.clock_ms,
            tick_ms: self.tick_ms,
            stepped_ms: self.stepped_ms,
            nodes: self.nodes.values().cloned().collect(),
            blocks: self.blocks.iter().cloned().collect(),
            alarms: self.alarms.iter().cloned().collect(),
            announcers: self.announcers.states().collect(),
            down: self.down.iter().filter_map(|(node, at)| self.down_record(*node, *at)).collect(),
        }
    }
}

impl Replica {
    /// Shares all records with a frozen copy.
    pub fn freeze(&self) -> Frozen {
        Frozen::of(self)
    }

    /// [`Replica::freeze`] and [`Frozen::to_snapshot`] in one.
    pub fn snapshot(&self) -> Snapshot {
        self.freeze().to_snapshot()
    }

    /// The replica that wrote the snapshot. Every index is built anew.
    pub fn restore(snapshot: Snapshot) -> Result<Replica, RestoreError> {
        Replica::restore_knowing(snapshot, LEVEL)
    }

    /// The same for a node that is held at a format level.
    pub fn restore_knowing(snapshot: Snapshot, knows: u32) -> Result<Replica, RestoreError> {
        let (level, mut replica) = (snapshot.version, Replica::knowing(knows));
        if level == 0 {
            return Err(RestoreError::Damaged("the format level"));
        }
        if level > replica.knows {
            return Err(RestoreError::NewerLevel { level, knows: replica.knows });
        }
        replica.level = level;
        replica.applied_index = snapshot.last_index;
        replica.clock_ms = snapshot.clock_ms;
        replica.tick_ms = snapshot.tick_ms;
        // A snapshot of a version without it: as if the last Tick had left the clock as it is.
        let stepped = if snapshot.stepped_ms == 0 { snapshot.clock_ms } else { snapshot.stepped_ms };
        replica.stepped_ms = if snapshot.tick_ms == 0 { 0 } else { stepped };
        for n in snapshot.nodes {
            let node = u16::try_from(n.node).map_err(|_| RestoreError::Damaged("a node's id"))?;
            replica.nodes.insert(NodeId(node), n);
        }
        for d in snapshot.down {
            let node = u16::try_from(d.node).map_err(|_| RestoreError::Damaged("a node's id"))?;
            replica.down.insert(NodeId(node), d.unix_ms);
        }
        replica.blocks = BlockLog::restored(snapshot.blocks).ok_or(RestoreError::Damaged("a block stands twice"))?;
        replica.alarms = AlarmLog::restored(snapshot.alarms).ok_or(RestoreError::Damaged("an alarm stands twice"))?;
        replica.announcers =
            AnnouncerLog::restored(snapshot.announcers).ok_or(RestoreError::Damaged("an announcer stands twice"))?;
        for state in snapshot.calls {
            let entry = CallEntry::restored(state)?;
            let twice = !entry.state().keyless && replica.by_key.contains_key(&entry.claim_key);
            if twice || replica.calls.contains_key(&entry.uid) {
                return Err(RestoreError::Damaged("a call stands twice"));
            }
            replica.index(entry);
        }
        let events = Marks {
            ordinary: snapshot.events_compacted_to,
            urgent: snapshot.emergency_events_compacted_to,
            short_until_ms: snapshot.events_short_until_ms,
        };
        let cdrs =
            Marks { ordinary: snapshot.cdrs_compacted_to, urgent: snapshot.emergency_cdrs_compacted_to, short_until_ms: 0 };
        (replica.events, replica.cdrs) = records(level, (snapshot.events, events), (snapshot.cdrs, cdrs))?;
        replica.config = ConfigLog::restored(snapshot.config_history, snapshot.config_pending)
            .ok_or(RestoreError::Damaged("the order of configuration revisions"))?;
        if replica.config.revision() != snapshot.config_revision {
            return Err(RestoreError::Damaged("the configuration revision"));
        }
        Ok(replica)
    }

    /// Takes an entry of a snapshot into all indexes.
    fn index(&mut self, entry: CallEntry) {
        let uid: CallUid = entry.uid;
        if !entry.state().keyless {
            self.by_key.insert(entry.claim_key, uid);
        }
        if entry.is_live() {
            self.live += 1;
            if let Some(leg) = entry.callee() {
                self.legs.insert(uid, None, Some(leg));
            }
            if self.is_orphan(&entry) {
                self.orphans.insert(uid);
            }
        } else {
            self.ended.insert((entry.state().ended_log_ms, uid));
        }
        self.calls.insert(uid, Arc::new(entry));
    }
}

/// Events and CDRs with their marks, in the budgets of the level.
fn records(
    level: u32,
    (events, event_marks): (Vec<Event>, Marks),
    (cdrs, cdr_marks): (Vec<Cdr>, Marks),
) -> Result<(Budgets<Event>, Budgets<Cdr>), RestoreError> {
    let (events, cdrs) = if level >= BUDGETS_LEVEL {
        (
            Budgets::restored_split([ORDINARY_EVENT_LIMITS, EVENT_LIMITS], events, event_marks),
            Budgets::restored_split([CDR_LIMITS, EMERGENCY_CDR_LIMITS], cdrs, cdr_marks),
        )
    } else {
        (Budgets::restored(EVENT_LIMITS, events, event_marks.ordinary), Budgets::restored(CDR_LIMITS, cdrs, cdr_marks.ordinary))
    };
    let events = events.ok_or(RestoreError::Damaged("the order of events"))?;
    Ok((events, cdrs.ok_or(RestoreError::Damaged("the order of CDRs"))?))
}
