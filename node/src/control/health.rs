//! How well a node is, in one word and in the words for people: the same in `sbc.v1`, in `grpc.health.v1` and at `/healthz`.

use super::handle::NodeStatus;

/// The word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealthState {
    /// Nothing is wrong.
    Ok,
    /// It serves calls, and something is wrong: they go on without the log, or what it holds is at risk.
    Degraded,
    /// It cannot serve a call.
    NotServing,
}

impl NodeStatus {
    /// The word, and what is wrong; empty: nothing.
    pub fn health(&self) -> (HealthState, String) {
        let no_service = [
            (self.sip_loop, "the SIP loop does not turn"),
            (self.core_reachable, "the core side's address or sockets are gone"),
            (self.media, "the media engine does not answer"),
        ];
        let no_log = [
            (!self.disk_failed, "the disk does not take the log"),
            (!self.disk_low, "the log's disk is nearly full"),
            (self.quorum, "no quorum"),
            (!self.stuck, "the log cannot be applied"),
            // Who has no quorum cannot know what there is to apply.
            (self.caught_up || !self.quorum || self.stuck, "behind the log"),
        ];
        let serves = no_service.iter().all(|(good, _)| *good);
        let wrong: Vec<&str> = no_service.iter().chain(&no_log).filter(|(good, _)| !good).map(|(_, what)| *what).collect();
        let state = match (serves, wrong.is_empty()) {
            (false, _) => HealthState::NotServing,
            (true, false) => HealthState::Degraded,
            (true, true) => HealthState::Ok,
        };
        (state, wrong.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fault_has_its_word() {
        let well = NodeStatus {
            sip_loop: true,
            caught_up: true,
            quorum: true,
            core_reachable: true,
            media: true,
            ..NodeStatus::default()
        };
        use HealthState::{Degraded, NotServing, Ok};
        for (status, state, words) in [
            (well.clone(), Ok, ""),
            (NodeStatus { draining: true, ..well.clone() }, Ok, ""),
            (NodeStatus { quorum: false, caught_up: false, ..well.clone() }, Degraded, "no quorum"),
            (NodeStatus { caught_up: false, ..well.clone() }, Degraded, "behind the log"),
            (NodeStatus { stuck: true, caught_up: false, ..well.clone() }, Degraded, "the log cannot be applied"),
            (NodeStatus { disk_low: true, ..well.clone() }, Degraded, "the log's disk is nearly full"),
            (NodeStatus { disk_failed: true, ..well.clone() }, Degraded, "the disk does not take the log"),
            (NodeStatus { media: false, ..well.clone() }, NotServing, "the media engine does not answer"),
            (NodeStatus { core_reachable: false, ..well.clone() }, NotServing, "the core side's address or sockets are gone"),
            (NodeStatus { sip_loop: false, quorum: false, ..well }, NotServing, "the SIP loop does not turn; no quorum"),
        ] {
            assert_eq!(status.health(), (state, words.to_owned()), "{status:?}");
        }
    }
}
