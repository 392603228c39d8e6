//! What a call tells the log (`journal` has it until the log does), and when things happened in it.

use super::Cause;
use super::about::About;
use super::context::Context;
use super::course::Course;
use super::emergency::{Carried, carried};
use super::journal::{Counted, Journal};
use super::media::CallMedia;
use super::sides::Sides;
use crate::dialog::PairId;
use crate::io::{Counter, DropReason, Side};
use crate::sip::Message;
use crate::store_pb::{self, command::Kind};
use crate::time::Instant;

/// A request that is kept for its location or data is no longer: the log is no file store. It crosses whole in any case.
const MAX_NOTICE: usize = 64 * 1024;
/// Such requests that one call puts into the log: a caller that moves sends some a minute.
const MAX_NOTICES: u16 = 200;

/// The records of a call.
#[derive(Debug)]
pub struct Records {
    /// What the log is not known to have.
    pub journal: Journal,
    pub(super) course: Course,
    /// Requests whose location or data went to the log.
    notices: u16,
    /// The end was told, or is not to be.
    ended: bool,
}

impl Records {
    /// Of a call that begins.
    pub(super) fn new(journal: Journal, now: Instant) -> Records {
        Records { journal, course: Course::begun(now), notices: 0, ended: false }
    }

    /// True once the end was told, or is not to be.
    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Nothing of the call is to be in the log: another node has it.
    pub(super) fn leave(&mut self, cx: &mut Context) {
        self.journal.leave(cx);
        self.ended = true;
    }

    /// The called side rings at `target`, in the dialog of that pair.
    pub(super) fn progress(&mut self, cx: &mut Context, about: &About, status: u16, target: &str, callee: store_pb::LegRecord) {
        let progress = store_pb::Progress {
            call: about.record_id(),
            epoch: about.epoch.0,
            seq: self.journal.next_seq(),
            status: u32::from(status),
            target: target.to_owned(),
            callee: Some(callee),
            after_ms: Some(self.course.after_ms(cx.now.mono)),
        };
        self.journal.push(cx, Kind::Progress(progress));
    }

    /// The called side has answered.
    pub(super) fn answer(&mut self, cx: &mut Context, about: &About, dialog: store_pb::DialogRecord) {
        let record = store_pb::Answer {
            call: about.record_id(),
            epoch: about.epoch.0,
            seq: self.journal.next_seq(),
            dialog: Some(dialog),
            after_ms: Some(self.course.after_ms(cx.now.mono)),
        };
        self.journal.push(cx, Kind::Answer(record));
    }

    /// The session of a pair of dialogs has changed: an early one too, of which the log has no other news.
    pub(super) fn refresh(&mut self, cx: &mut Context, about: &About, dialog: store_pb::DialogRecord) {
        let record = store_pb::Refresh {
            call: about.record_id(),
            epoch: about.epoch.0,
            seq: self.journal.next_seq(),
            dialog: Some(dialog),
            number: self.journal.count(Counted::Update),
        };
        self.journal.push(cx, Kind::Refresh(record));
    }

    /// A request within an emergency call goes to the other side: what it carries for dispatchers goes to the log.
    pub(super) fn notice(&mut self, cx: &mut Context, about: &About, request: &Message) {
        if !about.emergency {
            return;
        }
        let carried = carried(request);
        if carried == Carried::default() {
            return;
        }
        if request.raw().len() > MAX_NOTICE {
            cx.count(Counter::Dropped(DropReason::NoticeSize));
            return;
        }
        if self.notices >= MAX_NOTICES {
            cx.count(Counter::Dropped(DropReason::NoticeMany));
            return;
        }
        self.notices += 1;
        let notice = store_pb::Notice {
            call: about.record_id(),
            epoch: about.epoch.0,
            seq: self.journal.next_seq(),
            location: carried.location,
            data: carried.data,
            message: request.raw().clone(),
            location_number: if carried.location { self.journal.count(Counted::Location) } else { 0 },
            data_number: if carried.data { self.journal.count(Counted::Data) } else { 0 },
        };
        self.journal.push(cx, Kind::Notice(notice));
    }

    /// The call is over, and its counters are final: the log is told, once.
    pub(super) fn end(&mut self, cx: &mut Context, about: &About, (cause, q850): (Cause, Option<u8>), media: &CallMedia) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let (caller, callee) = (media.stats().caller, media.stats().callee);
        let end = store_pb::End {
            call: about.record_id(),
            epoch: about.epoch.0,
            cause: Some(store_pb::EndCause {
                origin: cause.origin.into(),
                status: u32::from(cause.status),
                reason: cause.reason,
                q850: u32::from(q850.unwrap_or(0)),
            }),
            media: Some(store_pb::MediaTotals {
                caller_packets: caller.rtp_packets,
                caller_octets: caller.rtp_octets,
                callee_packets: callee.rtp_packets,
                callee_octets: callee.rtp_octets,
            }),
            after_ms: Some(self.course.after_ms(cx.now.mono)),
            duration_ms: self.course.duration_ms(cx.now.mono),
        };
        self.journal.push(cx, Kind::End(end));
    }
}

/// The record of a pair of dialogs for the log.
pub(super) fn dialog_record(sides: &Sides, media: &CallMedia, pair: PairId) -> store_pb::DialogRecord {
    let of = |side| store_pb::LegRecord {
        session_id: sides.session_ids.get(side).unwrap_or_default().to_owned(),
        ..sides.leg(side).record(&sides.pairs[pair.toward(side)], media.ports_toward(side))
    };
    store_pb::DialogRecord {
        caller: Some(of(Side::Caller)),
        callee: Some(of(Side::Callee)),
        media_profile: if media.has_ports() { "rtp".into() } else { "none".into() },
        refers: Vec::new(),
    }
}
