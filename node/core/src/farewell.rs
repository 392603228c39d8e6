//! Calls that this node had before it started again: nobody serves them any more, and their far ends do not know. Each gets a BYE, whose
//! CSeq number is above all that the earlier start may have used (rule J); then the log is told. The node that was started again does it,
//! for it has the addresses that the far ends know.
//!
//! Kept true: nothing is said of a call before this node knows under a lease that the call is its own orphan (rules G and I); a far end that
//! speaks meanwhile hears 503, or 200 to its own BYE; whatever becomes of the BYEs, the log hears of the end.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::call::{Authenticated, Context, End, NextHop, TimerUser, Written, recorded_dialog, recorded_way};
use crate::crossing::{Loss, Way, Ways};
use crate::ids::{CallUid, ProposalId};
use crate::io::{CallOutcome, Counter, Output, ResolveError, ReturnPath, Side, Target};
use crate::replica::{ADOPT_LEVEL, CallEntry, OWNER_LOST_LEVEL, Phase, Replica};
use crate::sip::{HeaderId, Message, Method};
use crate::store_pb::{self, LegRecord, command::Kind};
use crate::time::Instant;
use crate::transaction::{ClientTxId, ClientUser, NewRequest, QuestionUser};

/// How often calls are begun with.
const PACE: Duration = Duration::from_millis(100);
/// Calls that are begun with at once: 400 BYEs a second, which a PSAP's border takes beside its calls.
const AT_ONCE: usize = 20;
/// Calls whose BYEs are under way, each for 32 s at the most.
const MAX_OPEN: usize = 2_000;
/// The log is told when both far ends have answered, or after so long: four of a BYE's repetitions.
const SETTLE: Duration = Duration::from_secs(4);
/// An end that did not commit is proposed again after this time.
const AGAIN: Duration = Duration::from_secs(2);
/// What the far ends are told (RFC 3326; cause 41 is a temporary failure).
const REASON: &str = "Q.850;cause=41;text=\"The call was lost with its node\"";

/// Those that are being told, and those that wait for their turn.
#[derive(Debug, Default)]
pub(crate) struct Farewells {
    open: BTreeMap<CallUid, Farewell>,
    waiting: VecDeque<CallUid>,
    ticking: bool,
}

/// One call.
#[derive(Debug)]
struct Farewell {
    epoch: u32,
    since: Instant,
    legs: Vec<Parting>,
    proposed: Option<Instant>,
}

/// One far end.
#[derive(Debug)]
struct Parting {
    side: Side,
    end: End,
    /// The BYE as it is sent, without Via and credentials.
    bye: crate::sip::Draft,
    asked: Option<Authenticated>,
    ways: Ways,
    way: Option<Way>,
    host: Box<str>,
    settled: bool,
}

impl Parting {
    /// The dialog of a leg as it was recorded, and its BYE. `None`: there is no dialog yet, or nothing that leads to its far end.
    fn of(cx: &Context, side: Side, record: &LegRecord) -> Option<Parting> {
        let (path, ingress) = recorded_way(cx, record.path.as_ref()?, cx.local.node, false)?;
        let mut dialog = recorded_dialog(record)?;
        let mut bye = dialog.request(&Method::Bye);
        bye.push(HeaderId::Reason, REASON);
        let end = End {
            realm: path.role.realm(),
            trunk: record.trunk.as_str().into(),
            dialog,
            path,
            ingress,
            secure: false,
            tls_name: None,
            token: "".into(),
            known: Default::default(),
        };
        let asked = Authenticated::of(cx, &end.trunk, Default::default(), &bye);
        Some(Parting { side, end, bye, asked, ways: Ways::default(), way: None, host: "".into(), settled: false })
    }
}

impl Farewell {
    fn is_settled(&self) -> bool {
        self.legs.iter().all(|leg| leg.settled)
    }
}

impl Farewells {
    /// Looks whether there are such calls, and begins with them.
    pub(crate) fn look_for_orphans(&mut self, cx: &mut Context) {
        if self.ticking || !cx.view.knows_all(cx.now.mono) {
            return;
        }
        if !self.open.is_empty() || self.refill(cx) {
            self.ticking = true;
            cx.start_timer(PACE, TimerUser::Farewell);
        }
    }

    /// Queues those that are not begun with: emergency calls first, then the oldest. False: there are none.
    fn refill(&mut self, cx: &Context) -> bool {
        let replica = cx.replica();
        if replica.level() < OWNER_LOST_LEVEL {
            return false;
        }
        let open = &self.open;
        let of_mine = replica.orphans_of(cx.local.node);
        let mut found: Vec<_> = of_mine
            .filter(|entry| !is_adopted(&replica, entry))
            .filter(|entry| entry.incarnation() < cx.local.incarnation && !open.contains_key(&entry.uid))
            .map(|entry| (!entry.emergency(), entry.state().claimed_unix_ms, entry.uid))
            .collect();
        found.sort_unstable();
        self.waiting = found.into_iter().map(|(_, _, uid)| uid).collect();
        !self.waiting.is_empty()
    }

    /// Time to begin with some more, and to tell the log of those that are done.
    pub(crate) fn on_tick(&mut self, cx: &mut Context) {
        self.ticking = false;
        if !cx.view.knows_all(cx.now.mono) {
            // The view that brings a lease back begins again.
            return;
        }
        self.tell_log(cx);
        if self.waiting.is_empty() {
            self.refill(cx);
        }
        for _ in 0..AT_ONCE.min(MAX_OPEN.saturating_sub(self.open.len())) {
            let Some(uid) = self.waiting.pop_front() else { break };
            self.begin(cx, uid, None);
        }
        if !self.open.is_empty() || !self.waiting.is_empty() {
            self.ticking = true;
            cx.start_timer(PACE, TimerUser::Farewell);
        }
    }

    fn tell_log(&mut self, cx: &mut Context) {
        let now = cx.now.mono;
        let live = |uid: CallUid| {
            let replica = cx.replica();
            replica.call(uid).is_some_and(|entry| entry.is_live())
        };
        let mut ends = Vec::new();
        self.open.retain(|uid, farewell| {
            let due = farewell.is_settled() || now.since(farewell.since) >= SETTLE;
            let again = farewell.proposed.is_none_or(|at| now.since(at) >= AGAIN);
            let live = live(*uid);
            if live && due && again {
                farewell.proposed = Some(now);
                ends.push((*uid, farewell.epoch));
            }
            live || !farewell.is_settled()
        });
        for (call, epoch) in ends {
            let cause = store_pb::EndCause { origin: "node".into(), reason: "owner restarted".into(), ..Default::default() };
            let end = store_pb::End { call: call.to_bytes().to_vec().into(), epoch, cause: Some(cause), ..Default::default() };
            let command = store_pb::Command { unix_ms: cx.now.unix.0, kind: Some(Kind::End(end)) };
            // No call of this start has that number.
            cx.output(Output::Propose { id: ProposalId(0), command: Box::new(command) });
        }
    }

    /// Tells the far ends of a call, but the one that has said so itself. False: it is no such call.
    fn begin(&mut self, cx: &mut Context, uid: CallUid, from: Option<Side>) -> bool {
        let entry = {
            let replica = cx.replica();
            let mine = |entry: &CallEntry| {
                entry.owner() == cx.local.node && entry.incarnation() < cx.local.incarnation && entry.is_live()
            };
            replica.call(uid).filter(|entry| mine(entry) && replica.level() >= OWNER_LOST_LEVEL).cloned()
        };
        let Some(entry) = entry else { return false };
        let records = [(Side::Caller, entry.caller()), (Side::Callee, entry.callee())];
        let records = records.into_iter().filter(|(side, _)| from != Some(*side));
        let legs: Vec<Parting> = records.filter_map(|(side, record)| Parting::of(cx, side, record?)).collect();
        let sides: Vec<Side> = legs.iter().map(|leg| leg.side).collect();
        let farewell = Farewell { epoch: entry.state().epoch, since: cx.now.mono, legs, proposed: None };
        self.open.insert(uid, farewell);
        for side in sides {
            self.say_bye(cx, uid, side);
        }
        cx.count(Counter::CallEnded(
            CallOutcome::Lost,
            crate::routing::class_label(entry.claim().emergency_info.as_ref().map(|i| i.service.as_str())),
        ));
        true
    }

    fn parting_mut(&mut self, uid: CallUid, side: Side) -> Option<&mut Parting> {
        self.open.get_mut(&uid)?.legs.iter_mut().find(|leg| leg.side == side)
    }

    /// Sends the BYE, now or when its next hop is known.
    fn say_bye(&mut self, cx: &mut Context, uid: CallUid, side: Side) {
        let Some(farewell) = self.open.get_mut(&uid) else { return };
        let Some(leg) = farewell.legs.iter_mut().find(|leg| leg.side == side) else { return };
        match leg.end.far().next_hop(cx) {
            NextHop::Known { path, ingress } => {
                leg.ways = Ways::one(leg.end.far().way(path, ingress));
                self.transmit(cx, uid, side);
            }
            NextHop::Ask(request) => {
                leg.host = request.target.host.clone();
                cx.resolve(QuestionUser::Farewell { call: uid, side }, request);
            }
        }
    }

    /// The DNS answered for such a BYE.
    pub(crate) fn on_resolved(&mut self, cx: &mut Context, uid: CallUid, side: Side, result: &Result<Vec<Target>, ResolveError>) {
        let Some(farewell) = self.open.get_mut(&uid) else { return };
        if let Some(leg) = farewell.legs.iter_mut().find(|leg| leg.side == side) {
            leg.ways = leg.end.far().ways(cx, &leg.host, result);
            self.transmit(cx, uid, side);
        }
    }

    /// Sends it the next way that there is.
    fn transmit(&mut self, cx: &mut Context, uid: CallUid, side: Side) {
        let Some(farewell) = self.open.get_mut(&uid) else { return };
        let Some(leg) = farewell.legs.iter_mut().find(|leg| leg.side == side) else { return };
        let mut draft = leg.asked.as_mut().map_or_else(|| leg.bye.clone(), |asked| asked.again(cx));
        let written = leg.end.far().write(cx, &mut leg.ways, &mut draft);
        let sent = written.and_then(|written| {
            leg.way = Some(written.way.clone());
            let Written { way: Way { back: way, tls_name }, branch, payload } = written;
            let user = ClientUser::Farewell { call: uid, side };
            cx.send_request(NewRequest { user, branch, invite: false, way, tls_name, payload })
        });
        leg.settled |= sent.is_none();
    }

    /// A response to such a BYE.
    pub(crate) fn on_response(&mut self, cx: &mut Context, uid: CallUid, side: Side, tx: ClientTxId, message: &Message) {
        let status = message.status().unwrap_or(0);
        if status < 200 {
            return;
        }
        cx.tx.set_client_user(tx, ClientUser::Nobody);
        let Some(farewell) = self.open.get_mut(&uid) else { return };
        let Some(leg) = farewell.legs.iter_mut().find(|leg| leg.side == side) else { return };
        let asked = leg.asked.as_mut().filter(|_| matches!(status, 401 | 407));
        let again = asked.is_some_and(|asked| {
            let cseq = asked.next_cseq();
            asked.learn(cx, message, cseq).is_ok()
        });
        match leg.way.clone() {
            Some(way) if again => {
                leg.ways = Ways::one(way);
                self.transmit(cx, uid, side);
            }
            _ => leg.settled = true,
        }
    }

    /// Nothing comes of it by the way that it went.
    pub(crate) fn on_lost(&mut self, cx: &mut Context, uid: CallUid, side: Side, loss: Loss) {
        let Some(leg) = self.parting_mut(uid, side) else { return };
        let over_flow = leg.way.take().filter(Way::is_connection);
        if let Some(way) = over_flow.filter(|_| loss != Loss::Congested) {
            // Its connection is gone: by its URI.
            leg.end.forget_flow(&way);
            self.say_bye(cx, uid, side);
        } else if !leg.ways.is_empty() {
            self.transmit(cx, uid, side);
        } else {
            leg.settled = true;
        }
    }

    /// The far end of an old call hangs up by itself: it hears 200 (RFC 5407 §3.2.1, the BYEs cross), and the other one BYE. False: it is no
    /// such call.
    pub(crate) fn on_bye(&mut self, cx: &mut Context, uid: CallUid, side: Side, back: ReturnPath, message: &Message) -> bool {
        if message.method() != &Method::Bye || !is_own_past(cx, uid) {
            return false;
        }
        if let Some(leg) = self.parting_mut(uid, side) {
            let dialog = &leg.end.dialog;
            if !is_within(&dialog.call_id, &dialog.local_tag, dialog.remote_tag.as_deref().unwrap_or_default(), message) {
                return false;
            }
            leg.settled = true;
        } else if !self.open.contains_key(&uid) {
            let known = cx.view.knows_all(cx.now.mono) && fits_record(cx, uid, side, message);
            if !known || !self.begin(cx, uid, Some(side)) {
                return false;
            }
        }
        self.look_for_orphans(cx);
        cx.answer_crossed_bye(back, message);
        true
    }
}

/// A call that goes on with whoever takes it over (`sbc/takeover.rs`).
fn is_adopted(replica: &Replica, entry: &CallEntry) -> bool {
    replica.level() >= ADOPT_LEVEL && entry.phase() == Phase::Answered
}

/// A call of an earlier start of this node.
fn is_own_past(cx: &Context, uid: CallUid) -> bool {
    uid.node == cx.local.node && uid.incarnation < cx.local.incarnation
}

/// It is within the dialog of the leg as it was recorded.
fn fits_record(cx: &Context, uid: CallUid, side: Side, message: &Message) -> bool {
    let replica = cx.replica();
    let entry = replica.call(uid);
    let leg = entry.and_then(|entry| if side == Side::Caller { entry.caller() } else { entry.callee() });
    leg.is_some_and(|leg| is_within(&leg.call_id, &leg.local_tag, &leg.remote_tag, message))
}

/// RFC 3261 §12.2.2: Call-ID and both tags are those of the dialog.
fn is_within(call_id: &str, local_tag: &str, remote_tag: &str, request: &Message) -> bool {
    let same = |a: Option<&str>, b: &str| a.is_some_and(|a| a.eq_ignore_ascii_case(b));
    request.call_id() == call_id && same(request.to_tag(), local_tag) && same(request.from_tag(), remote_tag)
}
