//! Symmetric RTP: whose packets a side takes, and where it sends (RFC 7362 §4 calls it latching).
//!
//! A far end behind NAT sends from another address than its SDP says, so the first valid packet decides. An attacker who
//! sprays our ports could be first; therefore the signalled address, if it speaks up within the guard window after that
//! first packet, wins for good. After that only one source is heard.
//!
//! The latch waits for the first packet as long as it takes: a caller may stay silent until the call is answered.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use sbc_core::io::Place;

/// The latch of one socket.
#[derive(Debug)]
pub(super) struct Latch {
    guard: Duration,
    state: State,
}

#[derive(Debug)]
enum State {
    /// No SDP yet. RFC 3264 §5.1: media may arrive before the answer; one source is heard, nothing is sent.
    Unsignalled { source: Option<SocketAddr> },
    /// Wanted, but at a name (RFC 8866 §5.7): the first source is it, once and for all.
    Named { port: u16, source: Option<SocketAddr> },
    /// Rejected or switched off: nothing is heard, nothing is sent.
    Off,
    /// Signalled; no packet seen.
    Open { signalled: SocketAddr },
    /// A source other than the signalled one was first; until `until` the signalled one may take over.
    Guarded { signalled: SocketAddr, source: SocketAddr, until: Instant },
    /// The signalled source was heard. Final until the signalled address changes.
    Locked { signalled: SocketAddr },
}

/// What to do with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Not from the source that is heard.
    Drop,
    /// Take it.
    Accept,
    /// Take it, and its source is now the one that is heard.
    Latched,
}

impl Latch {
    pub(super) fn new(guard: Duration) -> Latch {
        Latch { guard, state: State::Unsignalled { source: None } }
    }

    /// Sets where the far end said that it is. The same address again changes nothing; another one re-opens the latch.
    pub(super) fn signal(&mut self, remote: Option<Place>) {
        self.state = match (remote, &self.state) {
            (None, _) => State::Off,
            (Some(Place::At(new)), _) if self.signalled() == Some(new) => return,
            (Some(Place::At(signalled)), _) => State::Open { signalled },
            (Some(Place::Named(new)), State::Named { port, .. }) if new == *port => return,
            // Who was heard before the answer is who answered.
            (Some(Place::Named(port)), State::Unsignalled { source }) => State::Named { port, source: *source },
            (Some(Place::Named(port)), _) => State::Named { port, source: None },
        };
    }

    /// Judges a valid packet from `source` and moves the latch.
    pub(super) fn admit(&mut self, source: SocketAddr, now: Instant) -> Verdict {
        match self.state {
            State::Unsignalled { source: None } => {
                self.state = State::Unsignalled { source: Some(source) };
                Verdict::Accept
            }
            State::Named { port, source: None } => {
                self.state = State::Named { port, source: Some(source) };
                Verdict::Latched
            }
            State::Open { signalled } if source == signalled => {
                self.state = State::Locked { signalled };
                Verdict::Latched
            }
            State::Open { signalled } => {
                self.state = State::Guarded { signalled, source, until: now + self.guard };
                Verdict::Latched
            }
            State::Guarded { signalled, until, .. } if source == signalled && now < until => {
                self.state = State::Locked { signalled };
                Verdict::Latched
            }
            _ if self.hears(source) => Verdict::Accept,
            _ => Verdict::Drop,
        }
    }

    /// Whether a packet from `source` may pass without moving the latch.
    pub(super) fn hears(&self, source: SocketAddr) -> bool {
        match self.state {
            State::Unsignalled { source: heard } => heard.is_none_or(|h| h == source),
            State::Named { source: heard, .. } => heard == Some(source),
            State::Off => false,
            State::Open { signalled } | State::Locked { signalled } => source == signalled,
            State::Guarded { source: heard, .. } => source == heard,
        }
    }

    /// The source that is heard, once there is one.
    pub(super) fn source(&self) -> Option<SocketAddr> {
        match self.state {
            State::Unsignalled { source } | State::Named { source, .. } => source,
            State::Guarded { source, .. } => Some(source),
            State::Locked { signalled } => Some(signalled),
            State::Off | State::Open { .. } => None,
        }
    }

    /// The address in the far end's SDP.
    pub(super) fn signalled(&self) -> Option<SocketAddr> {
        match self.state {
            State::Open { signalled } | State::Guarded { signalled, .. } | State::Locked { signalled } => Some(signalled),
            State::Unsignalled { .. } | State::Named { .. } | State::Off => None,
        }
    }

    /// Where packets to the far end go. `None`: nowhere; not signalled, off, or held with 0.0.0.0 (RFC 3264 §8.4 names
    /// this old form of hold), or a port that cannot be.
    pub(super) fn target(&self) -> Option<SocketAddr> {
        if let State::Named { source, .. } = self.state {
            return source;
        }
        let signalled = self.signalled()?;
        if signalled.ip().is_unspecified() || signalled.port() == 0 {
            return None;
        }
        self.source().or(Some(signalled))
    }

    /// Forgets the source that is heard, as if no packet had come since the address was signalled.
    pub(super) fn reopen(&mut self) {
        if let State::Named { port, .. } = self.state {
            self.state = State::Named { port, source: None };
        } else if let Some(signalled) = self.signalled() {
            self.state = State::Open { signalled };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn a(port: u16) -> SocketAddr {
        SocketAddr::from(([198, 51, 100, 7], port))
    }

    fn at(addr: SocketAddr) -> Option<Place> {
        Some(Place::At(addr))
    }

    const GUARD: Duration = Duration::from_secs(2);

    #[test]
    fn signalled_source_first_is_final() {
        let now = Instant::now();
        let mut l = Latch::new(GUARD);
        l.signal(at(a(1)));
        assert_eq!(l.target(), Some(a(1)));
        assert_eq!(l.admit(a(1), now), Verdict::Latched);
        assert_eq!(l.admit(a(2), now), Verdict::Drop);
        assert_eq!(l.admit(a(1), now), Verdict::Accept);
        assert_eq!(l.target(), Some(a(1)));
    }

    #[test]
    fn signalled_source_wins_inside_the_guard_window_only() {
        let now = Instant::now();
        let mut l = Latch::new(GUARD);
        l.signal(at(a(1)));
        assert_eq!(l.admit(a(2), now), Verdict::Latched);
        assert_eq!(l.target(), Some(a(2)));
        assert_eq!(l.admit(a(3), now), Verdict::Drop);
        assert_eq!(l.admit(a(1), now + Duration::from_millis(1_999)), Verdict::Latched);
        assert_eq!(l.admit(a(2), now + Duration::from_millis(1_999)), Verdict::Drop);
        assert_eq!(l.target(), Some(a(1)));

        let mut l = Latch::new(GUARD);
        l.signal(at(a(1)));
        assert_eq!(l.admit(a(2), now), Verdict::Latched);
        assert_eq!(l.admit(a(1), now + GUARD), Verdict::Drop);
        assert_eq!(l.admit(a(2), now + GUARD), Verdict::Accept);
        assert_eq!(l.target(), Some(a(2)));
    }

    #[test]
    fn a_change_reopens_and_a_repetition_does_not() {
        let now = Instant::now();
        let mut l = Latch::new(GUARD);
        l.signal(at(a(1)));
        assert_eq!(l.admit(a(2), now), Verdict::Latched);
        l.signal(at(a(1)));
        assert_eq!(l.target(), Some(a(2)));
        l.signal(at(a(4)));
        assert_eq!(l.target(), Some(a(4)));
        assert_eq!(l.admit(a(2), now), Verdict::Latched);
    }

    #[test]
    fn early_media_is_heard_from_one_source_and_answered_to_none() {
        let now = Instant::now();
        let mut l = Latch::new(GUARD);
        assert_eq!(l.admit(a(1), now), Verdict::Accept);
        assert_eq!(l.admit(a(2), now), Verdict::Drop);
        assert_eq!(l.target(), None);
        l.signal(at(a(2)));
        assert_eq!(l.admit(a(2), now), Verdict::Latched);
    }

    /// RFC 8866 §5.7: a name is as good as an address, but for who may speak first.
    #[test]
    fn a_named_far_end_is_where_its_first_packet_comes_from() {
        let now = Instant::now();
        let mut l = Latch::new(GUARD);
        l.signal(Some(Place::Named(4_000)));
        assert_eq!(l.target(), None);
        assert_eq!(l.admit(a(2), now), Verdict::Latched);
        assert_eq!(l.target(), Some(a(2)));
        assert_eq!(l.admit(a(3), now), Verdict::Drop);
        l.signal(Some(Place::Named(4_000)));
        assert_eq!((l.admit(a(2), now), l.target()), (Verdict::Accept, Some(a(2))), "the same again changes nothing");
        l.signal(Some(Place::Named(4_002)));
        assert_eq!((l.target(), l.admit(a(3), now)), (None, Verdict::Latched), "another port is news");
        l.reopen();
        assert_eq!(l.admit(a(4), now), Verdict::Latched);
        l.signal(at(a(5)));
        assert_eq!(l.target(), Some(a(5)));
        // Early media, then an answer with a name: the far end was heard already.
        let mut l = Latch::new(GUARD);
        assert_eq!(l.admit(a(1), now), Verdict::Accept);
        l.signal(Some(Place::Named(4_000)));
        assert_eq!(l.target(), Some(a(1)));
        l.signal(None);
        l.signal(Some(Place::Named(4_000)));
        assert_eq!((l.target(), l.admit(a(6), now)), (None, Verdict::Latched));
    }

    #[test]
    fn off_and_held() {
        let now = Instant::now();
        let mut l = Latch::new(GUARD);
        l.signal(None);
        assert_eq!(l.admit(a(1), now), Verdict::Drop);
        assert_eq!(l.target(), None);
        l.signal(at(SocketAddr::from(([0, 0, 0, 0], 4_000))));
        assert_eq!(l.admit(a(1), now), Verdict::Latched);
        assert_eq!(l.admit(a(1), now), Verdict::Accept);
        assert_eq!(l.target(), None);
    }
}
