//! Alarms: what an operator should look at.

/// What can be wrong with a node. Each stands until it is well again: in the metric `sbc_alarm`, in `sbcctl status`, and by an event when
/// it is raised and when it is cleared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AlarmKind {
    /// Calls go on without the store (anycast.md, rule B).
    CallsDegraded,
    /// The node's clock and a peer's differ: the times in records are wrong.
    ClockSkew,
    /// File descriptors have run out.
    Descriptors,
    /// The log's disk has failed, or is full: the node takes no part in Raft.
    DiskFault,
    /// The log's disk is nearly full.
    DiskLow,
    /// Events of emergency calls would have to go before their time.
    EventRetention,
    /// A member has lost entries of the log that it had acknowledged; the leader tells.
    LogReverted,
    /// This node's log lacks what the leader believes it has: what is applied here does not move.
    LogStuck,
    /// Calls go on without media relay, for the ports have run out.
    MediaPorts,
    /// The node reaches no quorum.
    NoQuorum,
    /// The SIP loop has more to do than it can.
    Overload,
}

impl AlarmKind {
    /// All of them, in the order of their words.
    pub const ALL: [AlarmKind; 11] = [
        AlarmKind::CallsDegraded,
        AlarmKind::ClockSkew,
        AlarmKind::Descriptors,
        AlarmKind::DiskFault,
        AlarmKind::DiskLow,
        AlarmKind::EventRetention,
        AlarmKind::LogReverted,
        AlarmKind::LogStuck,
        AlarmKind::MediaPorts,
        AlarmKind::NoQuorum,
        AlarmKind::Overload,
    ];

    /// Its word in metrics, records and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            AlarmKind::CallsDegraded => "calls-degraded",
            AlarmKind::ClockSkew => "clock-skew",
            AlarmKind::Descriptors => "descriptors",
            AlarmKind::DiskFault => "disk-fault",
            AlarmKind::DiskLow => "disk-low",
            AlarmKind::EventRetention => "event-retention",
            AlarmKind::LogReverted => "log-reverted",
            AlarmKind::LogStuck => "log-stuck",
            AlarmKind::MediaPorts => "media-ports",
            AlarmKind::NoQuorum => "no-quorum",
            AlarmKind::Overload => "overload",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_a_word_of_its_own_in_order() {
        let words: Vec<&str> = AlarmKind::ALL.iter().map(|k| k.as_str()).collect();
        assert!(words.is_sorted_by(|a, b| a < b), "{words:?}");
    }
}
