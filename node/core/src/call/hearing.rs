//! Whether the far ends of a call can be heard: media tell who is there when signalling does not.

use std::time::Duration;

use super::Call;
use super::media::MediaPhase;
use super::services::Services;
use crate::io::{MediaCommand, Output, Side, SideHeard};
use crate::time::Instant;

/// A far end that sent something within this time is there: RTP comes each 20 ms, RTCP of one that is silent each 5 s (RFC 3550 §6.2).
const LATELY: Duration = Duration::from_secs(10);

/// What the media engine has said so far, the caller's side first.
#[derive(Debug, Default)]
pub(super) struct Hearing {
    sides: [Heard; 2],
}

#[derive(Debug, Default)]
struct Heard {
    last: SideHeard,
    /// When there were more packets than before.
    rose: Option<Instant>,
}

impl Hearing {
    fn of(&self, side: Side) -> &Heard {
        match side {
            Side::Caller => &self.sides[0],
            Side::Callee => &self.sides[1],
        }
    }
}

impl Call {
    /// Asks the media engine what it hears. False: there is none to ask.
    pub(super) fn ask_media(&self, cx: &mut Services) -> bool {
        let open = self.media.phase == MediaPhase::Open && !self.media.ports.is_empty();
        if open {
            cx.out.push_back(Output::Media(MediaCommand::Ask { media: self.media.id }));
        }
        open
    }

    pub(super) fn on_heard(&mut self, cx: &Services, sides: [SideHeard; 2]) {
        self.on_heard_in_doubt(sides);
        for (heard, now) in self.media.hearing.sides.iter_mut().zip(sides) {
            if now.packets > heard.last.packets {
                heard.rose = Some(cx.now.mono);
            }
            heard.last = now;
        }
    }

    /// What the engine has said last of a side.
    pub(super) fn last_heard(&self, side: Side) -> SideHeard {
        self.media.hearing.of(side).last
    }

    /// Media came from that side lately. `None`: nobody can tell, for they do not pass here.
    pub(super) fn is_heard(&self, cx: &Services, side: Side) -> Option<bool> {
        let rose = self.media.hearing.of(side).rose;
        (self.media.phase != MediaPhase::Off).then(|| rose.is_some_and(|at| cx.now.mono.since(at) < LATELY))
    }
}
