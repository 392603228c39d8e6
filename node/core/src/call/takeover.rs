//! A call that another node had, or an earlier start of this one: each far end is asked by a re-INVITE with our address and our ports, and goes on with
//! us. Where a leg stands is a machine ([`TakenLeg::on`]): what the far end says goes in, what is to be done comes out.
//!
//! What is kept true: a leg ends by the far end's own word alone (481), or by a silence that its media share; a refusal ends nothing.

use std::time::Duration;

use super::session_timer::glare_wait;
use crate::ids::CallUid;
use crate::io::Side;
use crate::time::Instant;

/// The far end's own re-INVITE to the node that is gone can be open for 64 × T1, and a little longer at a slow far end.
const GLARE_FOR: Duration = Duration::from_secs(40);
/// A leg that was refused is asked again so often: its media still go to the node that is gone.
const REFUSED_WAIT: Duration = Duration::from_secs(30);
/// What a far end that is silent is waited for.
const ABSENT: Duration = Duration::from_secs(10);
const EMERGENCY_ABSENT: Duration = Duration::from_secs(60);
/// A caller that has its 200 from the old owner acknowledges that one, where nobody hears it.
const ACK_WAIT: Duration = Duration::from_secs(4);
/// How often it is asked meanwhile.
const ABSENT_WAIT: Duration = Duration::from_secs(5);
/// The most that a Retry-After is heeded: an emergency caller hears nothing meanwhile.
const RETRY_MOST: Duration = Duration::from_secs(10);
/// RFC 3261 §12.2.2: a CSeq number that is too low gets 500. Numbers of the old owner that no record has are skipped by this.
pub(super) const CSEQ_LEAP: u32 = 1 << 20;

/// Where one leg stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TakenLeg {
    /// Our ports are not there.
    Ports,
    /// It may not have its 200 yet, which was sent again: its ACK is waited for.
    Acks,
    /// It was asked.
    Asked(Asking),
    /// It is asked again after a while.
    Waits(Asking),
    /// It has our address and ports.
    Stands,
    /// It has refused, and goes on as it was.
    Refused,
    /// There is no such call at the far end.
    Over,
}

/// What was heard since the leg was asked first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Asking {
    /// Since when it has been in glare.
    glare: Option<Instant>,
    /// Since when it has been silent.
    silent: Option<Instant>,
    /// How often it said 500.
    errors: u8,
    /// How often something was put off.
    draws: u32,
    /// It was asked by UPDATE.
    by_update: bool,
}

/// What happens to a leg.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LegEvent {
    /// The ports are decided; `answer`: the caller may not have its 200 yet.
    Ports { answer: bool },
    /// The far end has acknowledged our 200.
    Acked,
    /// A final response; `retry_after` in seconds.
    Said { status: u16, retry_after: Option<u32> },
    /// The time is over that something was put off for.
    Due,
    /// The far end has sent a request of its own.
    Spoke,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TakeoverAction {
    Nothing,
    /// Its 200 goes out again, with our address.
    Answer(Duration),
    /// A re-INVITE goes out; after this leap of the CSeq number.
    Ask {
        leap: u32,
    },
    /// An UPDATE goes out, with the same offer.
    Update,
    /// Nothing for so long.
    Wait(Duration),
    /// The leg has our address: the log is told where it is.
    Done,
    /// The far end goes on sending to the node that is gone, and is asked again after a while.
    MediaLost(Duration),
    /// The leg is over, and so is the call, with this status for a reason.
    End(u16),
}

/// What decides besides.
#[derive(Clone, Copy, Debug)]
pub(super) struct LegFacts {
    pub(super) now: Instant,
    pub(super) emergency: bool,
    /// The far end takes UPDATE.
    pub(super) takes_update: bool,
    /// Media came from it lately.
    pub(super) heard: bool,
    pub(super) uid: CallUid,
    pub(super) side: Side,
}

impl TakenLeg {
    /// What an event makes of the leg.
    pub(super) fn on(&mut self, event: LegEvent, facts: &LegFacts) -> TakeoverAction {
        let (next, action) = match (*self, event) {
            (TakenLeg::Ports, LegEvent::Ports { answer: true }) => (TakenLeg::Acks, TakeoverAction::Answer(ACK_WAIT)),
            (TakenLeg::Ports, LegEvent::Ports { answer: false })
            | (TakenLeg::Acks, LegEvent::Acked | LegEvent::Due | LegEvent::Spoke) => {
                (TakenLeg::Asked(Asking::default()), TakeoverAction::Ask { leap: 0 })
            }
            (TakenLeg::Asked(asking), LegEvent::Said { status, retry_after }) => asking.said(status, retry_after, facts),
            (TakenLeg::Waits(asking), LegEvent::Due | LegEvent::Spoke) => {
                let leap = if asking.errors == 2 { CSEQ_LEAP } else { 0 };
                (TakenLeg::Asked(Asking { by_update: false, ..asking }), TakeoverAction::Ask { leap })
            }
            (TakenLeg::Refused, LegEvent::Due) => (TakenLeg::Asked(Asking::default()), TakeoverAction::Ask { leap: 0 }),
            (state, _) => (state, TakeoverAction::Nothing),
        };
        *self = next;
        action
    }

    /// It is asked later, for this node has no lease.
    pub(super) fn put_off(&mut self) {
        *self = match *self {
            TakenLeg::Ports | TakenLeg::Acks => TakenLeg::Waits(Asking::default()),
            TakenLeg::Asked(asking) => TakenLeg::Waits(asking),
            other => other,
        };
    }

    /// True while the leg may still be asked.
    pub(super) fn is_open(self) -> bool {
        !matches!(self, TakenLeg::Stands | TakenLeg::Over)
    }
}

impl Asking {
    fn said(self, status: u16, retry_after: Option<u32>, facts: &LegFacts) -> (TakenLeg, TakeoverAction) {
        let heard = Asking { silent: None, draws: self.draws + 1, ..self };
        let glare = glare_wait(facts.uid, facts.side, heard.draws);
        match status {
            200..=299 => (TakenLeg::Stands, TakeoverAction::Done),
            481 => (TakenLeg::Over, TakeoverAction::End(481)),
            // RFC 3261 §14.1.
            491 => {
                let since = self.glare.unwrap_or(facts.now);
                if facts.now.since(since) >= GLARE_FOR {
                    return heard.refused(facts);
                }
                (TakenLeg::Waits(Asking { glare: Some(since), ..heard }), TakeoverAction::Wait(glare))
            }
            500 | 503 if self.errors < 3 => {
                let wait = retry_after.map_or(glare, |s| Duration::from_secs(s.into()).min(RETRY_MOST));
                (TakenLeg::Waits(Asking { errors: self.errors + 1, ..heard }), TakeoverAction::Wait(wait))
            }
            408 | 480 | 504 => self.silent(facts),
            _ => heard.refused(facts),
        }
    }

    /// No answer, or nobody there: a far end may be on its way to another network.
    fn silent(self, facts: &LegFacts) -> (TakenLeg, TakeoverAction) {
        let since = self.silent.unwrap_or(facts.now);
        let longest = if facts.emergency { EMERGENCY_ABSENT } else { ABSENT };
        if facts.now.since(since) >= longest && !facts.heard {
            return (TakenLeg::Over, TakeoverAction::End(408));
        }
        let waits = Asking { silent: Some(since), draws: self.draws + 1, ..self };
        (TakenLeg::Waits(waits), TakeoverAction::Wait(ABSENT_WAIT))
    }

    fn refused(self, facts: &LegFacts) -> (TakenLeg, TakeoverAction) {
        if facts.takes_update && !self.by_update {
            return (TakenLeg::Asked(Asking { by_update: true, ..self }), TakeoverAction::Update);
        }
        (TakenLeg::Refused, TakeoverAction::MediaLost(REFUSED_WAIT))
    }
}

/// Both legs of a call that is taken over, the caller's first.
#[derive(Clone, Copy, Debug)]
pub struct Takeover {
    legs: [TakenLeg; 2],
    /// CSeq number of the INVITE toward the called side, of a call that was answered lately.
    invite_cseq: Option<u32>,
}

impl Takeover {
    /// Of a call whose ports were asked for.
    pub(super) fn begun(invite_cseq: Option<u32>) -> Takeover {
        Takeover { legs: [TakenLeg::Ports; 2], invite_cseq }
    }

    /// CSeq number of the INVITE toward the called side, where that may lack its ACK, and the caller its 200.
    pub(super) fn invite_cseq(&self) -> Option<u32> {
        self.invite_cseq
    }

    /// The leg of a side.
    pub(super) fn leg_mut(&mut self, side: Side) -> &mut TakenLeg {
        &mut self.legs[usize::from(side == Side::Callee)]
    }

    /// True while ports are waited for.
    pub(super) fn awaits_ports(&self) -> bool {
        self.legs.contains(&TakenLeg::Ports)
    }

    /// True once nothing more is to be asked.
    pub(super) fn is_done(&self) -> bool {
        !self.legs.iter().any(|leg| leg.is_open())
    }

    /// True once both far ends have said something, or were waited for: the next call's turn.
    pub fn is_settled(&self) -> bool {
        self.legs.iter().all(|leg| !matches!(leg, TakenLeg::Ports | TakenLeg::Asked(_)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Incarnation, NodeId};

    const UID: CallUid = CallUid { node: NodeId(1), incarnation: Incarnation(1), serial: 7 };

    fn facts(seconds: u64) -> LegFacts {
        let now = Instant::from_micros(1_000_000) + Duration::from_secs(seconds);
        LegFacts { now, emergency: false, takes_update: false, heard: false, uid: UID, side: Side::Caller }
    }

    fn said(status: u16) -> LegEvent {
        LegEvent::Said { status, retry_after: None }
    }

    fn kind(action: TakeoverAction) -> &'static str {
        match action {
            TakeoverAction::Nothing => "-",
            TakeoverAction::Answer(_) => "answer",
            TakeoverAction::Ask { leap: 0 } => "ask",
            TakeoverAction::Ask { .. } => "leap",
            TakeoverAction::Update => "update",
            TakeoverAction::Wait(_) => "wait",
            TakeoverAction::Done => "done",
            TakeoverAction::MediaLost(_) => "media lost",
            TakeoverAction::End(_) => "end",
        }
    }

    #[test]
    fn every_state_and_event() {
        let asked = TakenLeg::Asked(Asking::default());
        let by_update = TakenLeg::Asked(Asking { by_update: true, ..Asking::default() });
        let waits = TakenLeg::Waits(Asking::default());
        let erred = TakenLeg::Waits(Asking { errors: 2, ..Asking::default() });
        let states = [
            TakenLeg::Ports,
            TakenLeg::Acks,
            asked,
            by_update,
            waits,
            erred,
            TakenLeg::Stands,
            TakenLeg::Refused,
            TakenLeg::Over,
        ];
        // Of each state in turn what becomes of it, and what is done.
        let table: [(LegEvent, [&str; 9]); 15] = [
            (LegEvent::Ports { answer: false }, ["ask", "-", "-", "-", "-", "-", "-", "-", "-"]),
            (LegEvent::Ports { answer: true }, ["answer", "-", "-", "-", "-", "-", "-", "-", "-"]),
            (LegEvent::Acked, ["-", "ask", "-", "-", "-", "-", "-", "-", "-"]),
            (LegEvent::Due, ["-", "ask", "-", "-", "ask", "leap", "-", "ask", "-"]),
            (LegEvent::Spoke, ["-", "ask", "-", "-", "ask", "leap", "-", "-", "-"]),
            (said(200), ["-", "-", "done", "done", "-", "-", "-", "-", "-"]),
            (said(481), ["-", "-", "end", "end", "-", "-", "-", "-", "-"]),
            (said(491), ["-", "-", "wait", "wait", "-", "-", "-", "-", "-"]),
            (said(500), ["-", "-", "wait", "wait", "-", "-", "-", "-", "-"]),
            (said(503), ["-", "-", "wait", "wait", "-", "-", "-", "-", "-"]),
            (said(408), ["-", "-", "wait", "wait", "-", "-", "-", "-", "-"]),
            (said(488), ["-", "-", "update", "media lost", "-", "-", "-", "-", "-"]),
            (said(302), ["-", "-", "update", "media lost", "-", "-", "-", "-", "-"]),
            (said(415), ["-", "-", "update", "media lost", "-", "-", "-", "-", "-"]),
            (said(603), ["-", "-", "update", "media lost", "-", "-", "-", "-", "-"]),
        ];
        for (event, expected) in table {
            for (state, expected) in states.into_iter().zip(expected) {
                let mut leg = state;
                let action = leg.on(event, &LegFacts { takes_update: true, ..facts(0) });
                assert_eq!(kind(action), expected, "{state:?} {event:?}");
                assert_eq!(action == TakeoverAction::Nothing, leg == state, "{state:?} {event:?}: {leg:?}");
            }
        }
    }

    #[test]
    fn glare_lasts_for_so_long() {
        let mut leg = TakenLeg::Asked(Asking::default());
        for second in (0..40).step_by(5) {
            assert_eq!(kind(leg.on(said(491), &facts(second))), "wait", "{second}");
            assert_eq!(kind(leg.on(LegEvent::Due, &facts(second + 1))), "ask");
        }
        assert_eq!(kind(leg.on(said(491), &facts(40))), "media lost");
        assert_eq!(leg, TakenLeg::Refused);
    }

    #[test]
    fn a_silent_far_end_is_waited_for_while_it_may_be_there() {
        for (emergency, heard, last) in
            [(false, false, Some(10)), (true, false, Some(60)), (false, true, None), (true, true, None)]
        {
            let mut leg = TakenLeg::Asked(Asking::default());
            let mut over = None;
            for second in (0..200).step_by(5) {
                match leg.on(said(408), &LegFacts { emergency, heard, ..facts(second) }) {
                    TakeoverAction::Wait(_) => assert_eq!(kind(leg.on(LegEvent::Due, &facts(second))), "ask"),
                    TakeoverAction::End(408) => {
                        over = Some(second);
                        break;
                    }
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!(over, last, "emergency {emergency}, heard {heard}");
        }
    }

    #[test]
    fn a_number_that_is_too_low_is_left_far_behind() {
        let mut leg = TakenLeg::Asked(Asking::default());
        let mut asked = Vec::new();
        for _ in 0..3 {
            assert_eq!(kind(leg.on(said(500), &facts(0))), "wait");
            asked.push(kind(leg.on(LegEvent::Due, &facts(1))));
        }
        assert_eq!(asked, ["ask", "leap", "ask"]);
        assert_eq!(kind(leg.on(said(500), &facts(2))), "media lost", "it does not say that for our number");
    }

    #[test]
    fn retry_after_is_heeded_within_reason() {
        for (seconds, wait) in [(2, 2), (10, 10), (3600, 10)] {
            let mut leg = TakenLeg::Asked(Asking::default());
            let action = leg.on(LegEvent::Said { status: 503, retry_after: Some(seconds) }, &facts(0));
            assert_eq!(action, TakeoverAction::Wait(Duration::from_secs(wait)));
        }
    }
}
