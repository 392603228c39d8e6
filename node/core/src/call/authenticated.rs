//! Requests of ours that no call looks after, sent again with credentials where their far end asks: BYEs whose call is over, and what
//! passes outside of calls.

use super::challenge::{Challenged, KnownChallenges, Retry, cseq_of, set_cseq};
use super::context::Context;
use crate::sip::{Draft, Message};

/// A request of ours that no call looks after, with what its far end has asked for: it can be sent again until its answer.
#[derive(Debug)]
pub struct Authenticated {
    trunk: Box<str>,
    retry: Retry,
    known: KnownChallenges,
}

impl Authenticated {
    /// Of a request toward a trunk, without Via; what its far end has asked for before is put in. `None`: we have no credentials
    /// there.
    pub fn new(cx: &mut Context, trunk: &str, known: KnownChallenges, draft: &mut Draft) -> Option<Authenticated> {
        let mut asked = Authenticated::of(cx, trunk, known, draft)?;
        *draft = asked.again(cx);
        Some(asked)
    }

    /// The same, the request left as it is: `again` gives it for each way that it goes.
    pub fn of(cx: &Context, trunk: &str, known: KnownChallenges, draft: &Draft) -> Option<Authenticated> {
        cx.credentials(trunk)?;
        Some(Authenticated { trunk: trunk.into(), retry: Retry { draft: draft.clone(), tries: 0 }, known })
    }

    /// Of a request that a call has made, with what its far end has asked for before.
    pub(super) fn from_retry(trunk: Box<str>, retry: Retry, known: KnownChallenges) -> Authenticated {
        Authenticated { trunk, retry, known }
    }

    /// The CSeq number after that of the request.
    pub fn next_cseq(&self) -> u32 {
        cseq_of(&self.retry.draft).unwrap_or(0).saturating_add(1)
    }

    /// The far end asks: the request again with this CSeq number, without Via. `Err`: it is not to be asked again.
    pub fn answer(&mut self, cx: &mut Context, response: &Message, cseq: u32) -> Result<Draft, Challenged> {
        self.learn(cx, response, cseq)?;
        Ok(self.again(cx))
    }

    /// Takes what the far end asks for: the request goes again with this CSeq number. `Err`: it does not.
    pub fn learn(&mut self, cx: &mut Context, response: &Message, cseq: u32) -> Result<(), Challenged> {
        match self.known.ask(cx, &self.trunk, response, &mut self.retry.tries) {
            Challenged::Answered => set_cseq(&mut self.retry.draft, cseq),
            other => return Err(other),
        }
        Ok(())
    }

    /// The request as it is, without Via, for one more way: no server takes the same proof twice (RFC 7616 §3.4, `nc`).
    pub fn again(&mut self, cx: &mut Context) -> Draft {
        let mut draft = self.retry.draft.clone();
        self.known.authorize(cx, &self.trunk, &mut draft);
        draft
    }

    /// What the far end has asked for, for the next request to it.
    pub fn known(&self) -> &KnownChallenges {
        &self.known
    }
}
