//! Whether the far ends of a call can be heard: media tell who is there when signalling does not.

use std::time::Duration;

use crate::io::{Side, SideHeard};
use crate::time::Instant;

/// A far end that sent something within this time is there: RTP comes each 20 ms, RTCP of one that is silent each 5 s (RFC 3550 §6.2).
const LATELY: Duration = Duration::from_secs(10);

/// What the media engine has said so far, the caller's side first.
#[derive(Debug, Default)]
pub(super) struct Hearing {
    sides: [SideHearing; 2],
}

#[derive(Debug, Default)]
struct SideHearing {
    last: SideHeard,
    /// When there were more packets than before.
    rose: Option<Instant>,
}

impl Hearing {
    fn of(&self, side: Side) -> &SideHearing {
        match side {
            Side::Caller => &self.sides[0],
            Side::Callee => &self.sides[1],
        }
    }

    /// The engine has said what it hears.
    pub(super) fn note(&mut self, now: Instant, sides: [SideHeard; 2]) {
        for (heard, said) in self.sides.iter_mut().zip(sides) {
            if said.packets > heard.last.packets {
                heard.rose = Some(now);
            }
            heard.last = said;
        }
    }

    /// What it has said last of a side.
    pub(super) fn last(&self, side: Side) -> SideHeard {
        self.of(side).last
    }

    /// Something came from that side lately.
    pub(super) fn lately(&self, now: Instant, side: Side) -> bool {
        self.of(side).rose.is_some_and(|at| now.since(at) < LATELY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_side_is_heard_for_a_while_after_its_last_packet() {
        let at = |s| Instant::from_micros(1_000_000) + Duration::from_secs(s);
        let mut hearing = Hearing::default();
        let heard = |packets| SideHeard { packets, ..SideHeard::default() };
        // When, how many packets of the caller there were; whether it is heard then and the called side.
        for (time, packets, lately) in [(0, 0, false), (1, 5, true), (5, 5, true), (10, 5, true), (11, 5, false), (12, 6, true)] {
            hearing.note(at(time), [heard(packets), heard(0)]);
            assert_eq!(
                (hearing.lately(at(time), Side::Caller), hearing.lately(at(time), Side::Callee)),
                (lately, false),
                "{time}"
            );
            assert_eq!(hearing.last(Side::Caller).packets, packets);
        }
    }
}
