//! How a request within a dialog stands: by which ways it went, and what came of that.
//!
//! A far end's name may stand for several addresses (RFC 3263 §4.3), its connection may be gone, and what is too large for a datagram is
//! tried by TCP first (RFC 3261 §18.1.1). Whichever it is: what could not be sent, or was met by silence, goes another way. An address
//! that is passed over for its silence is listened to all the same: a slow far end sounds no other than a dead one.

use crate::ids::ResolveId;
use crate::io::Path;
use crate::transaction::ClientTxId;

use super::way::{Way, Ways};

/// Why nothing comes of a request by the way that it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Timer B or F.
    TimedOut,
    /// It could not be sent.
    NotSent,
    /// Its connection is there and takes no more for now.
    Congested,
}

impl Loss {
    /// The status that stands for it (RFC 3261 §8.1.3.1).
    pub fn status(self) -> u16 {
        match self {
            Loss::TimedOut => 408,
            Loss::NotSent | Loss::Congested => 503,
        }
    }
}

/// What has come back of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProvisionalSoFar {
    /// Nothing.
    Nothing,
    /// 100.
    Trying,
    /// Another provisional response.
    Ringing,
}

/// One transaction of a request: by which way it went, and how else it may go.
#[derive(Debug)]
pub struct Out {
    /// The transaction.
    pub tx: ClientTxId,
    /// Its way.
    pub way: Way,
    ways: Ways,
    /// There were others: what becomes of it says something of this address, for whoever has the choice.
    chosen: bool,
    /// CANCEL has gone out for it.
    cancelled: bool,
}

impl Out {
    /// It went this way; those are left.
    pub fn new(tx: ClientTxId, way: Way, ways: Ways) -> Out {
        let chosen = !ways.is_empty() && !way.is_connection();
        Out { tx, way, ways, chosen, cancelled: false }
    }

    /// True where nothing is left to be done should it fail.
    pub fn is_last_resort(&self) -> bool {
        self.ways.is_empty() && !self.way.is_connection()
    }
}

/// The transactions of a request. The last one counts, until an earlier one says something.
#[derive(Debug)]
pub struct Sent {
    heard: ProvisionalSoFar,
    last: Out,
    /// Passed over for their silence, the latest last.
    earlier: Vec<Out>,
}

#[cfg(test)]
impl Sent {
    /// What was heard, as a letter.
    pub(super) fn heard_in_short(&self) -> char {
        match self.heard {
            ProvisionalSoFar::Nothing => '0',
            ProvisionalSoFar::Trying => 't',
            ProvisionalSoFar::Ringing => 'r',
        }
    }

    /// How many transactions there are.
    pub(super) fn count(&self) -> usize {
        1 + self.earlier.len()
    }
}

/// How a request stands.
#[derive(Debug)]
pub enum CrossingState {
    /// It is not out: it waits for ports, or goes out this moment.
    Held,
    /// The next hop is looked up.
    Resolving {
        /// The question.
        question: ResolveId,
        /// The host, which a certificate there must bear (RFC 5922 §7.1).
        host: Box<str>,
    },
    /// It is out.
    Sent(Sent),
    /// An INVITE that is out, and not wanted any more. `asked`: CANCEL has gone out, for something had come back (RFC 3261 §9.1).
    Cancelled {
        /// Its transactions.
        sent: Sent,
        /// CANCEL has gone out.
        asked: bool,
    },
}

/// What a response leads to.
#[derive(Debug, PartialEq, Eq)]
pub struct Response {
    /// It is an answer of one that had been passed over: this one, which was asked after it, need not be asked again.
    pub quiet: Option<ClientTxId>,
    /// What it is.
    pub counts: Counts,
}

/// What a response is.
#[derive(Debug, PartialEq, Eq)]
pub enum Counts {
    /// One that was left for its silence, and cannot, says nothing of whoever was asked after it; nor does one that has the request by
    /// another way already (RFC 3261 §8.2.2.2). An answer may still come by that.
    Aside,
    /// Provisional. `cancel`: CANCEL is to go out now.
    Provisional {
        /// CANCEL is to go out now.
        cancel: bool,
    },
    /// The final one. `again`: where it asks for something that we have, the request may go out again.
    Final {
        /// The request may go out again.
        again: bool,
    },
}

/// What becomes of a request when nothing comes of it by one way.
#[derive(Debug)]
pub struct Lost {
    /// The way, where that says something of it.
    pub blamed: Option<Way>,
    /// What is done.
    pub next: AfterLoss,
}

/// What is done next.
#[derive(Debug)]
pub enum AfterLoss {
    /// Nothing: an answer may still come by another way.
    Wait,
    /// It goes one of these.
    Transmit(Ways),
    /// It goes to the far end's next hop, as that is known without the connection.
    Send,
    /// It came to nothing.
    Fail(u16),
}

/// What is to be done with a request that is not wanted any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cancel {
    /// Nothing for now, or nothing more.
    Wait,
    /// CANCEL goes out.
    Send,
    /// It is over: it never went out.
    Drop,
}

impl CrossingState {
    /// The DNS is asked.
    pub fn resolving(&mut self, question: ResolveId, host: Box<str>) {
        *self = CrossingState::Resolving { question, host };
    }

    /// The DNS has answered this question. The host; `None`: it is another's.
    pub fn resolved(&mut self, answered: ResolveId) -> Option<Box<str>> {
        match self {
            CrossingState::Resolving { question, host } if *question == answered => {
                let host = std::mem::take(host);
                *self = CrossingState::Held;
                Some(host)
            }
            _ => None,
        }
    }

    /// It went out.
    pub fn sent(&mut self, out: Out) {
        match self {
            CrossingState::Sent(sent) | CrossingState::Cancelled { sent, .. } => {
                sent.earlier.push(std::mem::replace(&mut sent.last, out))
            }
            CrossingState::Held | CrossingState::Resolving { .. } => {
                *self = CrossingState::Sent(Sent { heard: ProvisionalSoFar::Nothing, last: out, earlier: Vec::new() });
            }
        }
    }

    fn outs(&self) -> Option<&Sent> {
        match self {
            CrossingState::Sent(sent) | CrossingState::Cancelled { sent, .. } => Some(sent),
            CrossingState::Held | CrossingState::Resolving { .. } => None,
        }
    }

    /// The transaction that counts.
    pub fn last(&self) -> Option<&Out> {
        Some(&self.outs()?.last)
    }

    /// One of its transactions.
    pub fn out(&self, tx: ClientTxId) -> Option<&Out> {
        let sent = self.outs()?;
        std::iter::once(&sent.last).chain(&sent.earlier).find(|out| out.tx == tx)
    }

    /// Where this transaction went, if there was a choice.
    pub fn chosen(&self, tx: ClientTxId) -> Option<Path> {
        self.out(tx).filter(|out| out.chosen).map(|out| out.way.back.path)
    }

    /// True when this transaction goes over a connection of the far end.
    pub fn is_over_connection(&self, tx: ClientTxId) -> bool {
        self.out(tx).is_some_and(|out| out.way.is_connection())
    }

    /// It has been silent for as long as one is waited for where there are others. `None`: it is waited for all the same.
    pub fn on_silent(&mut self, tx: ClientTxId) -> Option<(Path, Ways)> {
        let CrossingState::Sent(sent) = self else { return None };
        let last = &mut sent.last;
        if last.tx != tx || sent.heard != ProvisionalSoFar::Nothing || last.ways.is_empty() {
            return None;
        }
        Some((last.way.back.path, std::mem::take(&mut last.ways)))
    }

    /// Nothing comes of it by this transaction. `again`: it may go another way for that. `None`: it is none of these.
    pub fn on_lost(&mut self, tx: ClientTxId, loss: Loss, again: bool) -> Option<Lost> {
        let wanted = matches!(self, CrossingState::Sent(_));
        let (CrossingState::Sent(sent) | CrossingState::Cancelled { sent, .. }) = self else { return None };
        if let Some(at) = sent.earlier.iter().position(|out| out.tx == tx) {
            sent.earlier.remove(at);
            return Some(Lost { blamed: None, next: AfterLoss::Wait });
        }
        if sent.last.tx != tx {
            return None;
        }
        let silent = sent.heard == ProvisionalSoFar::Nothing;
        let out = match sent.earlier.pop() {
            Some(other) => std::mem::replace(&mut sent.last, other),
            None => match std::mem::replace(self, CrossingState::Held) {
                CrossingState::Sent(sent) | CrossingState::Cancelled { sent, .. } => sent.last,
                CrossingState::Held | CrossingState::Resolving { .. } => return None,
            },
        };
        let over_connection = out.way.is_connection();
        let next = match self {
            _ if silent && again && wanted && over_connection => AfterLoss::Send,
            _ if silent && again && wanted && !out.ways.is_empty() => AfterLoss::Transmit(out.ways),
            CrossingState::Held => AfterLoss::Fail(loss.status()),
            _ => AfterLoss::Wait,
        };
        // A connection that is busy is one.
        let blamed = silent && (out.chosen || (over_connection && (again || loss != Loss::Congested)));
        Some(Lost { blamed: blamed.then_some(out.way), next })
    }

    /// It could not be sent at all. The status that stands for it; `None`: an answer may still come by another way.
    pub fn on_not_sent(&self) -> Option<u16> {
        self.outs().is_none().then_some(503)
    }

    /// A response. `None`: its transaction is none of these.
    pub fn on_response(&mut self, tx: ClientTxId, status: u16) -> Option<Response> {
        let (CrossingState::Sent(sent) | CrossingState::Cancelled { sent, .. }) = self else { return None };
        let mut quiet = None;
        if let Some(at) = sent.earlier.iter().position(|out| out.tx == tx) {
            let out = sent.earlier.remove(at);
            if status >= 300 {
                return Some(Response { quiet, counts: Counts::Aside });
            }
            let newer = std::mem::replace(&mut sent.last, out);
            quiet = Some(newer.tx);
            sent.earlier.push(newer);
        } else if sent.last.tx != tx {
            return None;
        }
        if matches!(status, 482 | 500)
            && let Some(other) = sent.earlier.pop()
        {
            // That one has said nothing yet.
            (sent.last, sent.heard) = (other, ProvisionalSoFar::Nothing);
            return Some(Response { quiet, counts: Counts::Aside });
        }
        if status >= 200 {
            return Some(Response { quiet, counts: Counts::Final { again: matches!(self, CrossingState::Sent(_)) } });
        }
        sent.heard = sent.heard.max(if status > 100 { ProvisionalSoFar::Ringing } else { ProvisionalSoFar::Trying });
        let cancel = match self {
            // Each transaction is cancelled for itself (RFC 3261 §9.1): one that comes back has had no CANCEL.
            CrossingState::Cancelled { sent, asked } => {
                *asked = true;
                !std::mem::replace(&mut sent.last.cancelled, true)
            }
            _ => false,
        };
        Some(Response { quiet, counts: Counts::Provisional { cancel } })
    }

    /// It is not wanted any more.
    pub fn on_cancel(&mut self) -> Cancel {
        match std::mem::replace(self, CrossingState::Held) {
            CrossingState::Held | CrossingState::Resolving { .. } => Cancel::Drop,
            CrossingState::Sent(mut sent) => {
                let asked = sent.heard != ProvisionalSoFar::Nothing;
                sent.last.cancelled = asked;
                *self = CrossingState::Cancelled { sent, asked };
                if asked { Cancel::Send } else { Cancel::Wait }
            }
            cancelled @ CrossingState::Cancelled { .. } => {
                *self = cancelled;
                Cancel::Wait
            }
        }
    }

    /// It has been out for long. Where its far end has said nothing but 100 it is cancelled.
    pub fn on_stale(&mut self) -> Cancel {
        match self {
            CrossingState::Sent(sent) if sent.heard != ProvisionalSoFar::Ringing => self.on_cancel(),
            _ => Cancel::Wait,
        }
    }

    /// True when CANCEL has gone out: 64 × T1 after that nothing is waited for any more (RFC 3261 §9.1).
    pub fn is_given_up(&self) -> bool {
        matches!(self, CrossingState::Cancelled { asked: true, .. })
    }

    /// It goes out again with another CSeq number, to whoever answered: that way first, then those that were left. Answers to the last
    /// number are none to the next.
    pub fn restart(&mut self, tx: ClientTxId) -> (Ways, Vec<Out>) {
        let outs: Vec<Out> = self.take_outs().collect();
        let mut ways = Ways::default();
        if let Some(out) = outs.iter().find(|out| out.tx == tx) {
            ways = out.ways.clone();
            ways.push_front(out.way.clone());
        }
        (ways, outs)
    }

    /// It is over: its transactions.
    pub fn take_outs(&mut self) -> impl Iterator<Item = Out> + use<> {
        let sent = match std::mem::replace(self, CrossingState::Held) {
            CrossingState::Sent(sent) | CrossingState::Cancelled { sent, .. } => Some(sent),
            CrossingState::Held | CrossingState::Resolving { .. } => None,
        };
        sent.into_iter().flat_map(|sent| sent.earlier.into_iter().chain([sent.last]))
    }
}
