//! The process's descriptors, shared out at the start: what the log, the peers, the control plane and SIP itself need comes first, and what
//! grows with the load gets the rest. Raft does not survive a file that it cannot open, so no flood may take the last descriptor.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What a node has open whatever its load: standard streams, event loops, listeners, SIP sockets of three roles and two families, and some
/// to spare for what is opened for a moment (probes of an address, certificates, the announcer's command).
const BASE: u64 = 96;
/// Files of the log and its snapshots: 16 MiB each, a few times `snapshot_log_bytes` of them while a follower is behind.
const LOG: u64 = 64;
/// Connections to and from one peer: its link, Raft's and the control plane's, each also while it is replaced.
const PEER: u64 = 8;
/// An event loop and what wakes it.
const THREAD: u64 = 3;
/// Connections to the control plane, those in handshake included, and to the metrics.
const CONTROL: u64 = 600;
/// Sockets of DNS questions under way, at the most.
const QUESTIONS: u64 = 512;
/// More than all ports of a node and all connections that it takes.
const ENOUGH: u64 = 1 << 20;
/// No system has fewer.
const LEAST: u64 = 256;

/// What a node asks for that grows with its load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wants {
    /// Other members of the cluster.
    pub(super) peers: u64,
    /// Threads with an event loop of their own.
    pub(super) threads: u64,
    /// Sockets for all media ports at once.
    pub(super) media: u64,
    /// Accepted connections.
    pub(super) accepted: u64,
    /// Opened connections.
    pub(super) opened: u64,
}

/// Who may have how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shares {
    /// All of them.
    pub(super) limit: u64,
    /// For all that is not named below.
    pub(super) reserved: u64,
    /// DNS questions.
    pub(super) questions: u64,
    /// Accepted SIP connections.
    pub(super) accepted: u64,
    /// Opened SIP connections.
    pub(super) opened: u64,
    /// Media sockets.
    pub(super) media: u64,
}

impl Shares {
    /// Divides `limit`.
    pub(super) fn of(limit: u64, wants: &Wants) -> Shares {
        let needed = BASE + LOG + CONTROL + PEER * wants.peers + THREAD * wants.threads;
        // Where there are too few for all, calls still get half.
        let reserved = needed.min(limit / 2);
        let left = limit - reserved;
        let questions = QUESTIONS.min(left / 8);
        let left = left - questions;
        let (accepted, opened) = (wants.accepted.min(left / 4), wants.opened.min(left / 8));
        let media = wants.media.min(left - accepted - opened);
        Shares { limit, reserved, questions, accepted, opened, media }
    }
}

/// Raises the limit of this process as far as it may and needs to, and gives it. What the kernel does not tell is taken for the least
/// that any system has.
pub(super) fn raise() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // None: no limit.
    let goal = maximum.unwrap_or(ENOUGH).min(ENOUGH);
    if current.is_some_and(|soft| soft < goal)
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: Some(goal), maximum })
    {
        tracing::warn!(%error, "the limit of open files cannot be raised to what is allowed");
    }
    getrlimit(Resource::Nofile).current.unwrap_or(ENOUGH).max(LEAST)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTS: Wants = Wants { peers: 2, threads: 4, media: 90_000, accepted: 20_000, opened: 10_000 };

    #[test]
    fn nobody_gets_what_another_needs() {
        for limit in (256..5_000).chain([20_000, 262_144, 524_288, 1 << 30, u64::MAX]) {
            for wants in [WANTS, Wants { peers: 63, threads: 300, ..WANTS }, Wants { media: 0, ..WANTS }] {
                let s = Shares::of(limit, &wants);
                assert!(s.reserved + s.questions + s.accepted + s.opened + s.media <= limit, "{s:?}");
                assert!(s.reserved >= 128 && s.questions >= 16 && s.accepted >= 28 && s.opened >= 14, "{s:?}");
                assert!(s.media <= wants.media && (wants.media == 0 || s.media >= 70), "{s:?}");
            }
        }
    }

    #[test]
    fn usual_limits() {
        let few = Shares::of(600, &WANTS);
        assert_eq!((few.reserved, few.questions, few.accepted, few.opened, few.media), (300, 37, 65, 32, 166));
        let usual = Shares::of(20_000, &WANTS);
        assert_eq!((usual.reserved, usual.media), (788, 11_688));
        let plenty = Shares::of(262_144, &WANTS);
        assert_eq!((plenty.accepted, plenty.opened, plenty.media), (20_000, 10_000, 90_000));
    }

    #[test]
    fn the_soft_limit_is_raised() {
        let most = getrlimit(Resource::Nofile).maximum.unwrap_or(ENOUGH);
        assert!(raise() >= most.min(ENOUGH));
    }
}
