//! A request within a dialog on its way from one side to the other (RFC 3261 §12.2, of a call or a subscription), until its final answer.
//!
//! A **crossing** has an origin: a far end that asked, and waits on its server transaction; a refresh of ours (RFC 4028), for which nobody
//! waits; or a request that we make on our own account. Where it stands (`state`) is a machine: what happens to its transactions goes in,
//! what is to be done comes out. Whoever owns the crossing writes the request and answers it; `call/courier.rs` carries out the rest, for
//! calls and subscriptions alike.
//!
//! BYE and PRACK of ours, OPTIONS to a far end in doubt, and an ACK whose next hop is looked up are crossings too: they go by the same ways
//! for the same reasons, and a second list of what is under way would need all of this again. They differ in what they do after a loss
//! (`Origin::goes_again`) and in that they are forgotten once something has come back: the answer to a BYE concerns
//! `call/after_bye.rs` alone.
//!
//! What is kept true: a request goes out with one CSeq number at a time, by one way after another; CANCEL goes out once for each, and not before
//! something has come back; what is cancelled goes out no more; nothing is forgotten while its origin waits.

mod state;
#[cfg(test)]
mod tests;
mod way;

pub use state::{AfterLoss, Cancel, Counts, CrossingState, Loss, Lost, Out, ProvisionalSoFar, Response};
pub use way::{Way, Ways};

use crate::dialog::DialogRef;
use crate::ids::ResolveId;
use crate::io::{Path, ReturnPath, Side};
use crate::sip::{Draft, HeaderId, Message, Method};
use crate::transaction::{ClientTxId, ServerTxId};

/// Whose a request is.
#[derive(Debug)]
pub enum Origin {
    /// A far end's, which waits for the answer.
    FarEnd(Asked),
    /// Ours: it refreshes a session, or asks a far end whether it is there.
    Refresh(Method),
    /// Ours.
    Own(Purpose),
}

/// A request of a far end.
#[derive(Clone, Debug)]
pub struct Asked {
    /// As received.
    pub request: Message,
    /// Its transaction.
    pub server: ServerTxId,
    /// Its way back.
    pub back: ReturnPath,
}

/// What a request of our own is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// BYE, or PRACK: it is to arrive, and its answer concerns nobody here.
    Alone,
    /// OPTIONS: is the far end where it was? There alone it is asked.
    Question,
    /// The ACK for the 2xx to our INVITE with this CSeq number: no transaction.
    Ack(u32),
}

impl Origin {
    /// Whether a request may go another way after this loss.
    fn goes_again(&self, loss: Loss, over_connection: bool) -> bool {
        // It is there, and busy: whoever is behind a NAT has no other way.
        let busy = loss == Loss::Congested && over_connection;
        match self {
            // Who waits for the answer to what was in vain for 32 s does so no longer.
            Origin::FarEnd(_) => loss != Loss::TimedOut && !busy,
            Origin::Refresh(_) => !busy,
            Origin::Own(Purpose::Alone) => true,
            Origin::Own(Purpose::Question | Purpose::Ack(_)) => false,
        }
    }
}

/// One such request. `X`: what its owner keeps with it.
#[derive(Debug)]
pub struct Crossing<X> {
    id: u64,
    to: DialogRef,
    origin: Origin,
    /// As it is sent, without Via and credentials; `None`: it is not written yet.
    request: Option<Draft>,
    cseq: u32,
    state: CrossingState,
    /// How often it went out again with an answer to a challenge.
    pub challenges: u8,
    /// Why it was cancelled.
    pub cancel_reason: Option<Box<str>>,
    /// What its owner keeps with it.
    pub facts: X,
}

impl<X> Crossing<X> {
    /// One that is not out yet, by a number of its own.
    pub fn new(id: u64, to: DialogRef, origin: Origin, facts: X) -> Crossing<X> {
        let (request, cseq, state, challenges, cancel_reason) = (None, 0, CrossingState::Held, 0, None);
        Crossing { id, to, origin, request, cseq, state, challenges, cancel_reason, facts }
    }

    /// Its number.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The dialog that it comes from; of our own: that nobody waits in.
    pub fn from(&self) -> DialogRef {
        self.to.other()
    }

    /// The dialog that it goes to.
    pub fn to(&self) -> DialogRef {
        self.to
    }

    /// Whose it is.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The far end's request.
    pub fn asked(&self) -> Option<&Asked> {
        match &self.origin {
            Origin::FarEnd(asked) => Some(asked),
            Origin::Refresh(_) | Origin::Own(_) => None,
        }
    }

    /// The same, once it is over.
    pub fn into_asked(self) -> Option<Asked> {
        match self.origin {
            Origin::FarEnd(asked) => Some(asked),
            Origin::Refresh(_) | Origin::Own(_) => None,
        }
    }

    /// True for a refresh.
    pub fn is_refresh(&self) -> bool {
        matches!(self.origin, Origin::Refresh(_))
    }

    /// True for a request that is neither a far end's nor a refresh.
    pub fn is_own(&self) -> bool {
        matches!(self.origin, Origin::Own(_))
    }

    /// The method; `None`: it is a request of our own.
    pub fn method(&self) -> Option<&Method> {
        match &self.origin {
            Origin::FarEnd(asked) => Some(asked.request.method()),
            Origin::Refresh(method) => Some(method),
            Origin::Own(_) => None,
        }
    }

    /// True for a request with this method of a far end, or of a refresh.
    pub fn is(&self, method: &Method) -> bool {
        self.method() == Some(method)
    }

    /// The CSeq number where it goes.
    pub fn cseq(&self) -> u32 {
        self.cseq
    }

    /// As it is sent, without Via and credentials.
    pub fn request(&self) -> Option<&Draft> {
        self.request.as_ref()
    }

    /// It is written, or written anew.
    pub fn write(&mut self, cseq: u32, request: Draft) {
        (self.cseq, self.request) = (cseq, Some(request));
    }

    /// How it stands.
    pub fn state(&self) -> &CrossingState {
        &self.state
    }

    /// The same, to be told what happens.
    pub fn state_mut(&mut self) -> &mut CrossingState {
        &mut self.state
    }

    /// True while it waits for ports.
    pub fn is_held(&self) -> bool {
        matches!(self.state, CrossingState::Held)
    }

    /// It has been silent for as long as one is waited for where there are others: the ways that are left. `None`: it is waited for all the same,
    /// as by who is asked whether it is there.
    pub fn on_silent(&mut self, tx: ClientTxId) -> Option<(Path, Ways)> {
        match self.origin {
            Origin::Own(Purpose::Question | Purpose::Ack(_)) => None,
            _ => self.state.on_silent(tx),
        }
    }

    /// Nothing comes of it by this transaction.
    pub fn on_lost(&mut self, tx: ClientTxId, loss: Loss) -> Option<Lost> {
        let again = self.origin.goes_again(loss, self.state.is_over_connection(tx));
        self.state.on_lost(tx, loss, again)
    }

    /// A request that takes the way of this one, hop by hop: the ACK for a refusal, with the refusal's To (RFC 3261 §17.1.1.3), or CANCEL (§9.1).
    pub fn same_hop(&self, method: &Method, to: Option<&str>) -> Option<Draft> {
        let request = self.request.as_ref()?;
        let mut draft = Draft::request(method, request.request_uri()?);
        for field in request.headers() {
            match field.id {
                HeaderId::Route | HeaderId::From | HeaderId::CallId | HeaderId::SessionId => _ = draft.push_field(&field),
                HeaderId::To => _ = draft.push(HeaderId::To, to.unwrap_or(field.value)),
                _ => {}
            }
        }
        draft.push(HeaderId::MaxForwards, "70");
        draft.push(HeaderId::CSeq, format!("{} {}", self.cseq, method.as_str()));
        Some(draft)
    }
}

/// Those under way in one call or subscription.
#[derive(Debug)]
pub struct Crossings<X> {
    list: Vec<Crossing<X>>,
}

impl<X> Default for Crossings<X> {
    fn default() -> Crossings<X> {
        Crossings { list: Vec::new() }
    }
}

impl<X> Crossings<X> {
    /// One more.
    pub fn insert(&mut self, crossing: Crossing<X>) {
        self.list.push(crossing);
    }

    /// Takes one that is over.
    pub fn remove(&mut self, id: u64) -> Option<Crossing<X>> {
        let at = self.list.iter().position(|c| c.id == id)?;
        Some(self.list.remove(at))
    }

    /// All of them, which are forgotten.
    pub fn take_all(&mut self) -> Vec<Crossing<X>> {
        std::mem::take(&mut self.list)
    }

    /// All of them, the oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Crossing<X>> {
        self.list.iter()
    }

    /// The same.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Crossing<X>> {
        self.list.iter_mut()
    }

    /// True when none is under way.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Those that are no requests of our own.
    pub fn count(&self) -> usize {
        self.list.iter().filter(|c| !c.is_own()).count()
    }

    /// By its number.
    pub fn get(&self, id: u64) -> Option<&Crossing<X>> {
        self.list.iter().find(|c| c.id == id)
    }

    /// By its number.
    pub fn get_mut(&mut self, id: u64) -> Option<&mut Crossing<X>> {
        self.list.iter_mut().find(|c| c.id == id)
    }

    /// The number of that with this transaction toward the far end.
    pub fn of_client(&self, tx: ClientTxId) -> Option<u64> {
        self.list.iter().find(|c| c.state.out(tx).is_some()).map(|c| c.id)
    }

    /// That with this transaction of the far end that asked.
    pub fn of_server(&self, tx: ServerTxId) -> Option<&Crossing<X>> {
        self.list.iter().find(|c| c.asked().is_some_and(|asked| asked.server == tx))
    }

    /// The DNS has answered: the number of that which waited for it, and the host.
    pub fn resolved(&mut self, question: ResolveId) -> Option<(u64, Box<str>)> {
        self.list.iter_mut().find_map(|c| Some((c.id, c.state.resolved(question)?)))
    }

    /// The INVITE with this CSeq number of the far end on that side.
    pub fn invite_of(&self, from: Side, cseq: u32) -> Option<&Crossing<X>> {
        let invite = |asked: &Asked| asked.request.method() == &Method::Invite && asked.request.cseq() == cseq;
        self.list.iter().find(|c| c.from().side == from && c.asked().is_some_and(invite))
    }

    /// The status that refuses a re-INVITE for those that are open: 500 where the same far end has one (RFC 3261 §14.2), 491 where one goes
    /// to it or a session is being refreshed: an UPDATE's offer is as good as a re-INVITE's (§14.1, RFC 3311 §5.1).
    pub fn refuse_invite(&self, from: Side) -> Option<u16> {
        let invite = |c: &Crossing<X>| c.is(&Method::Invite);
        if self.list.iter().any(|c| invite(c) && c.from().side == from && c.asked().is_some()) {
            return Some(500);
        }
        let refreshes = |c: &Crossing<X>| c.is_refresh() && !c.is(&Method::Options);
        self.list.iter().any(|c| (invite(c) && c.to.side == from) || refreshes(c)).then_some(491)
    }
}
