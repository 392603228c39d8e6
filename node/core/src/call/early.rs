//! Early dialogs (RFC 3261 §12.1, §13.2.2.4): each To-tag of the called side makes one, with a dialog of its own toward the caller.
//!
//! The legs of a call hold one pair of dialogs, that in **focus**; before anything is done with a response or a request of another
//! early dialog, its pair is brought there. So nothing else of a call knows that there are several. Which one is
//! answered stays in focus for good.
//!
//! Media follow the last session description, whichever dialog it came from: a called side that tries one phone after the other
//! leaves earlier early dialogs silent without telling, so the newest is the one with something to hear.

use bytes::Bytes;

use super::leg::Leg;
use super::reliable::{Heard, Sender};
use super::services::Services;
use super::{Call, CallPhase, body};
use crate::dialog::Dialog;
use crate::io::{Counter, Side};
use crate::sip::{Message, Method, Sdp};
use crate::token::{MAX_FORK, OwnerToken, TokenKind};

/// What belongs to one dialog of a leg.
#[derive(Clone, Debug)]
pub(super) struct Half {
    dialog: Dialog,
    contact_token: Box<str>,
    sdp_id: u64,
    sdp_version: u64,
    local_sdp: Bytes,
    remote_sdp: Bytes,
    offer: Option<Side>,
}

/// Both legs as an INVITE to the called side left them: the caller's and the called side's.
pub(super) type Template = Box<(Half, Half)>;

impl Half {
    fn of(leg: &Leg) -> Half {
        Half {
            dialog: leg.dialog.clone(),
            contact_token: leg.contact_token.clone(),
            sdp_id: leg.sdp_id,
            sdp_version: leg.sdp_version,
            local_sdp: leg.local_sdp.clone(),
            remote_sdp: leg.remote_sdp.clone(),
            offer: leg.offer,
        }
    }

    fn put(self, leg: &mut Leg) {
        leg.dialog = self.dialog;
        leg.contact_token = self.contact_token;
        (leg.sdp_id, leg.sdp_version) = (self.sdp_id, self.sdp_version);
        (leg.local_sdp, leg.remote_sdp) = (self.local_sdp, self.remote_sdp);
        leg.offer = self.offer;
    }
}

/// One early dialog on both sides.
#[derive(Debug)]
pub(super) struct Fork {
    /// The INVITE that it answers, by attempt.
    pub(super) attempt: u32,
    /// The called side's tag; empty once that INVITE is done with.
    tag: Box<str>,
    /// Caller's and called side's, while it is not in focus.
    parked: Option<Box<(Half, Half)>>,
    /// Nothing more is done in it.
    over: bool,
    /// An offer of the INVITE or to it was answered in it before the 2xx.
    pub(super) agreed: bool,
    /// Reliable responses from the called side.
    pub(super) heard: Heard,
    /// Reliable responses to the caller.
    pub(super) sender: Sender,
}

/// The early dialogs of a call.
#[derive(Debug, Default)]
pub(super) struct Early {
    pub(super) forks: Vec<Fork>,
    focus: Option<usize>,
    /// Both legs as the INVITE left them.
    template: Option<Template>,
}

impl Early {
    /// The one in focus.
    pub(super) fn focus(&self) -> Option<usize> {
        self.focus
    }

    /// The one in focus.
    pub(super) fn current(&mut self) -> Option<&mut Fork> {
        self.forks.get_mut(self.focus?)
    }

    fn find(&self, attempt: u32, tag: &str) -> Option<usize> {
        self.forks.iter().position(|f| f.attempt == attempt && f.tag.eq_ignore_ascii_case(tag) && !f.tag.is_empty())
    }

    /// Something may still be said in that one.
    pub(super) fn lives(&self, at: usize) -> bool {
        self.forks.get(at).is_some_and(|f| !f.over)
    }

    fn living(&self) -> usize {
        self.forks.iter().filter(|f| !f.over).count()
    }
}

/// What became of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Focus {
    /// Its dialog is in focus.
    Here,
    /// Its dialog is over, or there are too many.
    Nowhere,
}

impl Call {
    /// The INVITE is written: each early dialog begins from here.
    pub(super) fn keep_template(&mut self) -> Template {
        let offer = body::find_sdp(&self.invite).map(|_| Side::Caller);
        (self.caller.offer, self.callee.offer) = (offer, offer);
        let template = Box::new((Half::of(&self.caller), Half::of(&self.callee)));
        self.early.template = Some(template.clone());
        template
    }

    /// An earlier INVITE is the one that counts after all.
    pub(super) fn back_to(&mut self, cx: &mut Services, template: Template) {
        self.end_forks(cx);
        self.early.template = Some(template.clone());
        self.unpark(Some(template));
    }

    /// Another INVITE is to be written: the dialogs of those before are over, and the legs as before any.
    pub(super) fn end_forks(&mut self, cx: &mut Services) {
        self.blur();
        for fork in &mut self.early.forks {
            (fork.over, fork.tag) = (true, "".into());
            cx.stop_timer(&mut fork.sender.close());
        }
    }

    /// No more reliable responses; what was sent can still be acknowledged.
    pub(super) fn close_senders(&mut self, cx: &mut Services) {
        for fork in &mut self.early.forks {
            cx.stop_timer(&mut fork.sender.close());
        }
    }

    fn blur(&mut self) {
        let Some(at) = self.early.focus.take() else { return };
        self.early.forks[at].parked = Some(Box::new((Half::of(&self.caller), Half::of(&self.callee))));
        self.unpark(self.early.template.clone());
    }

    fn unpark(&mut self, parked: Option<Template>) {
        let Some((caller, callee)) = parked.map(|p| *p) else { return };
        caller.put(&mut self.caller);
        callee.put(&mut self.callee);
    }

    /// Brings an early dialog into focus. Once a call is answered there is only one.
    pub(super) fn focus_on(&mut self, at: Option<usize>) {
        let Some(at) = at.filter(|at| self.phase == CallPhase::Dialling && self.early.focus != Some(*at)) else { return };
        self.blur();
        let parked = self.early.forks[at].parked.take();
        self.unpark(parked);
        self.early.focus = Some(at);
    }

    /// Brings the dialog of a response into focus, which may begin it. Without a tag it belongs to none, and leaves all as it is.
    pub(super) fn focus_response(&mut self, cx: &mut Services, attempt: u32, response: &Message) -> Focus {
        let Some(tag) = response.to_tag().filter(|_| self.phase == CallPhase::Dialling) else { return Focus::Here };
        let answer = response.status().is_some_and(|s| s >= 200);
        let at = match self.early.find(attempt, tag) {
            Some(at) if self.early.forks[at].over => return Focus::Nowhere,
            Some(at) => at,
            None if self.early.forks.len() <= usize::from(MAX_FORK) => self.begin_fork(cx, attempt, tag),
            None if !answer => {
                cx.count(Counter::Dropped("forks"));
                return Focus::Nowhere;
            }
            None => {
                // An answer is worth more than the last of so many early dialogs.
                let last = usize::from(MAX_FORK);
                cx.stop_timer(&mut self.early.forks[last].sender.close());
                self.early.forks.truncate(last);
                if self.early.focus == Some(last) {
                    self.early.focus = None;
                    self.unpark(self.early.template.clone());
                }
                self.begin_fork(cx, attempt, tag)
            }
        };
        self.focus_on(Some(at));
        Focus::Here
    }

    fn begin_fork(&mut self, cx: &Services, attempt: u32, tag: &str) -> usize {
        self.blur();
        let number = self.early.forks.len();
        let (mut caller, callee) = (Half::of(&self.caller), Half::of(&self.callee));
        if let Ok(fork @ 1..) = u8::try_from(number) {
            let token = cx.key.seal(OwnerToken { kind: TokenKind::CallerFork(fork), uid: self.uid });
            (caller.dialog.local_tag, caller.contact_token) = (token.clone().into(), token.into());
            // Another dialog is another session (RFC 8866 §5.2): a phone that knows one session only sees that this is news.
            caller.sdp_id ^= u64::from(fork) << 1;
        }
        self.early.forks.push(Fork {
            attempt,
            tag: tag.into(),
            parked: Some(Box::new((caller, callee))),
            over: false,
            agreed: false,
            heard: Heard::default(),
            sender: Sender::default(),
        });
        number
    }

    fn dialog_of(&self, at: usize, side: Side) -> Option<&Dialog> {
        if self.early.focus == Some(at) {
            return Some(&self.leg(side).dialog);
        }
        let (caller, callee) = self.early.forks.get(at)?.parked.as_deref()?;
        Some(if side == Side::Caller { &caller.dialog } else { &callee.dialog })
    }

    /// The early dialog that a request on a leg belongs to.
    fn fork_of(&self, side: Side, request: &Message) -> Option<usize> {
        let same = |a: Option<&str>, b: Option<&str>| matches!((a, b), (Some(a), Some(b)) if a.eq_ignore_ascii_case(b));
        let fits = |at: usize, fork: &Fork| {
            let Some(dialog) = self.dialog_of(at, side) else { return false };
            let remote = if side == Side::Callee { Some(&*fork.tag) } else { dialog.remote_tag.as_deref() };
            !fork.over
                && *dialog.call_id == *request.call_id()
                && same(request.to_tag(), Some(&dialog.local_tag))
                && (same(request.from_tag(), remote) || (remote.is_none() && request.from_tag().is_none()))
        };
        self.early.forks.iter().enumerate().position(|(at, fork)| fits(at, fork))
    }

    /// True when a request is of one of the early dialogs.
    pub(super) fn fits_early(&self, side: Side, request: &Message) -> bool {
        self.fork_of(side, request).is_some() || self.fits_unforked(side, request)
    }

    /// True when a request of the caller is of the early dialog that a response of ours made, or one whose far end gave no tag.
    fn fits_unforked(&self, side: Side, request: &Message) -> bool {
        let d = &self.caller.dialog;
        let same = |a: Option<&str>, b: Option<&str>| match (a, b) {
            (Some(a), Some(b)) => a.eq_ignore_ascii_case(b),
            (a, b) => a.is_none() && b.is_none(),
        };
        side == Side::Caller
            && self.phase == CallPhase::Dialling
            && self.early.forks.is_empty()
            && *d.call_id == *request.call_id()
            && same(request.to_tag(), Some(&d.local_tag))
            && same(request.from_tag(), d.remote_tag.as_deref())
    }

    /// The dialog that a request on a leg is of.
    pub fn dialog_for(&self, side: Side, request: &Message) -> &Dialog {
        let early = if self.phase == CallPhase::Dialling { self.fork_of(side, request) } else { None };
        early.and_then(|at| self.dialog_of(at, side)).unwrap_or(&self.leg(side).dialog)
    }

    /// Brings the dialog of a request into focus.
    pub(super) fn focus_request(&mut self, side: Side, request: &Message) {
        if self.phase == CallPhase::Dialling {
            self.focus_on(self.fork_of(side, request));
        }
    }

    /// BYE in one of several early dialogs ends that one alone (RFC 3261 §15). False: it is the only one.
    pub(super) fn bye_early(&mut self, cx: &mut Services, side: Side, request: &Message) -> bool {
        if self.phase != CallPhase::Dialling || self.early.living() < 2 {
            return false;
        }
        let Some(fork) = self.early.current() else { return false };
        fork.over = true;
        cx.stop_timer(&mut fork.sender.close());
        let fork = self.early.focus;
        self.refuse_forwards(cx, |f| f.fork == fork);
        if side == Side::Caller {
            let mut bye = self.callee.dialog.request(&Method::Bye);
            self.pass(cx, side, request, &mut bye);
            self.send_on(cx, Side::Callee, bye, super::outgoing::Purpose::Alone);
        }
        true
    }

    /// The dialog in focus is answered, and stays there: the others are over, and whoever waits in them is told.
    pub(super) fn settle_early(&mut self, cx: &mut Services) {
        self.early.template = None;
        let focus = self.early.focus;
        self.close_senders(cx);
        self.refuse_forwards(cx, |f| f.fork != focus);
        (self.caller.offer, self.callee.offer) = (None, None);
        // Media may still follow another dialog.
        for side in [Side::Caller, Side::Callee] {
            if let Ok(sdp) = Sdp::parse(&self.leg(side).remote_sdp) {
                self.described(cx, side, &sdp, None);
            }
        }
    }

    /// The CSeq number of our latest request in the dialog that a response of an INVITE of ours belongs to.
    pub(super) fn cseq_of_fork(&self, attempt: u32, tag: Option<&str>) -> Option<u32> {
        let at = self.early.find(attempt, tag?)?;
        Some(self.dialog_of(at, Side::Callee)?.local_cseq)
    }
}
