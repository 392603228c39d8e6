//! Alarms that the log's state gives rise to.

use sbc_core::io::AlarmKind;
use sbc_raft::{RaftStatus, Space, StorageState};

use crate::config::NodeConfig;
use crate::telemetry::Alarms;

/// Raises and clears what the status says.
pub(super) fn tell(alarms: &Alarms, config: &NodeConfig, status: &RaftStatus, space: Option<Space>) {
    let disk = config.data_dir.display();
    let fault = match &status.storage {
        StorageState::Failed { why } => {
            Some(format!("{why}; the node serves on without the log, and joins again when {disk} can be written"))
        }
        StorageState::Good | StorageState::Low => None,
    };
    alarms.set(AlarmKind::DiskFault, fault);
    let free = space.map_or(0, |space| space.free >> 20);
    let low = (status.storage == StorageState::Low)
        .then(|| format!("{free} MiB are free in {disk}: when it is full this node leaves the log"));
    alarms.set(AlarmKind::DiskLow, low);
    let shown = |index: Option<u64>| index.map_or("nothing".to_owned(), |index| index.to_string());
    let stuck =
        status.stuck.then(|| format!("applied {} of {}, and it does not move", shown(status.applied), shown(status.committed)));
    alarms.set(AlarmKind::LogStuck, stuck);
    let name =
        |id: &u64| config.cluster.members.iter().find(|m| u64::from(m.id.0) == *id).map_or(id.to_string(), |m| m.name.clone());
    let reverted: Vec<String> = status.reverted.iter().map(name).collect();
    let told =
        format!("{}: its log lacked entries that it had acknowledged; it gets them again, look at its disk", reverted.join(", "));
    alarms.set(AlarmKind::LogReverted, (!reverted.is_empty()).then_some(told));
}
