//! Symmetric RTP: whose packets a side takes, and where it sends (RFC 7362 §4 calls it latching).
//!
//! A far end behind NAT sends from another address than its SDP says, so the first valid packet decides. An attacker who
//! sprays our ports could be first; therefore the signalled address, and who was heard before, take over if they speak up
//! within the guard window after that first packet. After that only one source is heard, for as long as it speaks: a NAT that
//! changes a mapping in mid-call silences the old source, and then the new one is heard (AC-54): another port of the same host
//! after [`RELATCH_SILENCE`], another host after a whole guard window of silence, which a speaker's pause does not reach.
//!
//! Each new description of the far end opens the latch again. Where the far end is known to be where it says (a trunk without
//! `latching`), the latch judges who is heard and packets go where the description says (RFC 3264 §5.1).
//!
//! The latch waits for the first packet as long as it takes: a caller may stay silent until the call is answered.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use sbc_core::io::Place;

use super::limits::RELATCH_SILENCE;

/// What a description says of one socket's far end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Signalled {
    pub(super) place: Place,
    /// Which description: another one re-opens the latch.
    pub(super) description: u32,
    /// Packets go where the far end is heard from, not where it said.
    pub(super) latching: bool,
}

/// The latch of one socket.
#[derive(Debug)]
pub(super) struct Latch {
    guard: Duration,
    state: State,
}

#[derive(Debug)]
enum State {
    /// No SDP yet. RFC 3264 §5.1: media may arrive before the answer; one source is heard, nothing is sent.
    Unsignalled { heard: Option<Heard> },
    /// Rejected or switched off: nothing is heard, nothing is sent.
    Off,
    /// Signalled; no packet since.
    Open { signalled: Signalled, before: Before },
    /// One source is heard.
    Latched { signalled: Signalled, heard: Heard },
}

/// Who was heard before a description came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Before {
    Nobody,
    /// This one, and the address is the same as before: it is most likely still there.
    Same(SocketAddr),
    /// This one, when the far end said another address: what still comes from there may be late.
    Late(SocketAddr),
}

/// The source that is heard.
#[derive(Clone, Copy, Debug)]
struct Heard {
    source: SocketAddr,
    /// When it was latched.
    since: Instant,
    /// When it last spoke.
    last: Instant,
    /// Who may take over within the guard window, and why.
    rival: Rival,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rival {
    /// Only the signalled address.
    None,
    /// And who was heard before.
    Former(SocketAddr),
    /// Anybody: what is heard may be late.
    Anybody,
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

impl Heard {
    fn new(source: SocketAddr, now: Instant, rival: Rival) -> Heard {
        Heard { source, since: now, last: now, rival }
    }

    /// Whether `source`, which is not the one that is heard, takes its place.
    fn yields_to(&self, source: SocketAddr, signalled: Option<SocketAddr>, now: Instant, guard: Duration) -> bool {
        let is_signalled = signalled == Some(source);
        // The far end itself has said so: nobody has a better claim than the signalled address.
        let may_claim = match self.rival {
            _ if signalled == Some(self.source) => false,
            Rival::Anybody => true,
            Rival::Former(former) => is_signalled || former == source,
            Rival::None => is_signalled,
        };
        if may_claim && now < self.since + guard {
            return true;
        }
        let near = is_signalled || source.ip() == self.source.ip();
        let patience = if near { RELATCH_SILENCE } else { guard.max(RELATCH_SILENCE) };
        now.saturating_duration_since(self.last) >= patience
    }

    /// Judges a packet; a new source is what is heard from then on.
    fn admit(&mut self, source: SocketAddr, signalled: Option<SocketAddr>, now: Instant, guard: Duration) -> Verdict {
        if source == self.source {
            self.last = now;
            return Verdict::Accept;
        }
        if !self.yields_to(source, signalled, now, guard) {
            return Verdict::Drop;
        }
        // Who took its claim keeps it; who came into a silence may have come into a pause.
        let claimed = now.saturating_duration_since(self.last) < RELATCH_SILENCE;
        let rival = if claimed { Rival::None } else { Rival::Former(self.source) };
        *self = Heard::new(source, now, rival);
        Verdict::Latched
    }
}

impl Latch {
    pub(super) fn new(guard: Duration) -> Latch {
        Latch { guard, state: State::Unsignalled { heard: None } }
    }

    /// Sets where the far end said that it is; `None`: nowhere. The same description again changes nothing; another one re-opens
    /// the latch.
    pub(super) fn signal(&mut self, said: Option<Signalled>) {
        let Some(new) = said else {
            self.state = State::Off;
            return;
        };
        let same_place = self.signalled().is_some_and(|old| old.place == new.place);
        let before = match &mut self.state {
            State::Open { signalled, .. } | State::Latched { signalled, .. } if *signalled == new => return,
            // The same description, judged otherwise: a trunk's setting has changed.
            State::Open { signalled, .. } | State::Latched { signalled, .. }
                if same_place && signalled.description == new.description =>
            {
                *signalled = new;
                return;
            }
            State::Open { before: Before::Same(source), .. } if same_place => Before::Same(*source),
            State::Open { before: Before::Same(source) | Before::Late(source), .. } => Before::Late(*source),
            State::Latched { heard, .. } if same_place => Before::Same(heard.source),
            State::Latched { heard, .. } => Before::Late(heard.source),
            // Who was heard before an answer without an address is who answered.
            State::Unsignalled { heard: Some(heard) } if new.place.addr().is_none() => Before::Same(heard.source),
            State::Open { before: Before::Nobody, .. } | State::Unsignalled { .. } | State::Off => Before::Nobody,
        };
        self.state = State::Open { signalled: new, before };
    }

    /// Judges a valid packet from `source` and moves the latch.
    pub(super) fn admit(&mut self, source: SocketAddr, now: Instant) -> Verdict {
        match &mut self.state {
            State::Off => Verdict::Drop,
            State::Unsignalled { heard: Some(heard) } => match heard.admit(source, None, now, self.guard) {
                Verdict::Drop => Verdict::Drop,
                Verdict::Accept | Verdict::Latched => Verdict::Accept,
            },
            State::Unsignalled { heard } => {
                *heard = Some(Heard::new(source, now, Rival::None));
                Verdict::Accept
            }
            State::Open { signalled, before } => {
                let rival = match *before {
                    Before::Same(former) if former != source => Rival::Former(former),
                    Before::Late(late) if late == source => Rival::Anybody,
                    Before::Nobody | Before::Same(_) | Before::Late(_) => Rival::None,
                };
                self.state = State::Latched { signalled: *signalled, heard: Heard::new(source, now, rival) };
                Verdict::Latched
            }
            State::Latched { signalled, heard } => heard.admit(source, signalled.place.addr(), now, self.guard),
        }
    }

    /// Whether a packet from `source` may pass without moving the latch.
    pub(super) fn hears(&self, source: SocketAddr) -> bool {
        match &self.state {
            State::Unsignalled { heard } => heard.is_none_or(|h| h.source == source),
            State::Off => false,
            State::Open { signalled, before } => signalled.place.addr() == Some(source) || *before == Before::Same(source),
            State::Latched { heard, .. } => heard.source == source,
        }
    }

    /// The source that is heard, once there is one.
    pub(super) fn source(&self) -> Option<SocketAddr> {
        match &self.state {
            State::Unsignalled { heard } => heard.map(|h| h.source),
            State::Latched { heard, .. } => Some(heard.source),
            State::Open { before: Before::Same(source), .. } => Some(*source),
            State::Off | State::Open { .. } => None,
        }
    }

    fn signalled(&self) -> Option<Signalled> {
        match &self.state {
            State::Open { signalled, .. } | State::Latched { signalled, .. } => Some(*signalled),
            State::Unsignalled { .. } | State::Off => None,
        }
    }

    /// The address in the far end's SDP.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        self.signalled()?.place.addr()
    }

    /// Where packets to the far end go. `None`: nowhere; not signalled, off, or held with 0.0.0.0 (RFC 3264 §8.4 names
    /// this old form of hold), or a port that cannot be; or the description names a host (RFC 8866 §5.7), and nobody was heard yet.
    pub(super) fn target(&self) -> Option<SocketAddr> {
        let signalled = self.signalled()?;
        let Some(address) = signalled.place.addr() else { return self.source() };
        if address.ip().is_unspecified() || address.port() == 0 {
            return None;
        }
        self.source().filter(|_| signalled.latching).or(Some(address))
    }

    /// Forgets the source that is heard, as if no packet had come since the address was signalled.
    pub(super) fn reopen(&mut self) {
        if let Some(signalled) = self.signalled() {
            self.state = State::Open { signalled, before: Before::Nobody };
        }
    }
}

#[cfg(test)]
#[path = "latch_tests.rs"]
mod tests;
