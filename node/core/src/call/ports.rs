//! What the media engine reports, and who has waited for it.

use super::services::Services;
use super::{Call, CallPhase};
use crate::io::{Counter, MediaEvent};
use crate::targets::Candidate;

impl Call {
    /// The media engine reports on this call's session.
    pub fn on_media(&mut self, cx: &mut Services, event: &MediaEvent) {
        match event {
            MediaEvent::Opened { first, ports, .. } => self.media.on_opened(*first, ports),
            MediaEvent::OpenFailed { .. } => {
                cx.count(Counter::Unanchored(self.class()));
                self.media.on_open_failed();
            }
            MediaEvent::Latched { .. } => return,
            MediaEvent::Heard { caller, callee, .. } => {
                let sides = [*caller, *callee];
                self.on_heard_in_doubt(sides);
                return self.media.on_heard(cx.now.mono, sides);
            }
            MediaEvent::Closed { stats, .. } => {
                if self.media.on_closed(*stats) {
                    self.on_media_closed(cx);
                }
                return;
            }
        }
        if self.phase == CallPhase::Over {
            return;
        }
        if self.phase == CallPhase::Preparing || self.media.is_awaited() {
            self.try_dial(cx);
        }
        self.release_provisional(cx);
        self.release_answer(cx);
        self.release_crossings(cx);
    }

    /// True when a target is on another side than the ports: it is dialled when there are others.
    pub(super) fn waits_for_ports(&mut self, cx: &mut Services, candidate: &Candidate) -> bool {
        let waits = !self.media.reach(cx, candidate.realm);
        if waits {
            self.uac.targets.push_front(candidate.clone());
            // What was dialled with the ports that are gone cannot have the call back.
            self.uac.forget_passed_over();
            self.uac.limit_preparation(cx);
        }
        waits
    }
}
