//! Session descriptions on their way from one leg to the other: which of them count as offers and answers, what they change, and how
//! what was refused is taken back, so that both far ends and the media go on as before (RFC 3261 §14.1, RFC 3264 §8).

use bytes::Bytes;

use super::body::{Descriptions, Unusable};
use super::forward::Exchange;
use super::media::{MediaPhase, Remotes};
use super::services::Services;
use super::{Call, body, reliable};
use crate::crossing::Crossing;
use crate::ctx::AGENT;
use crate::dialog::{DialogRef, PairId};
use crate::io::{Counter, ReturnPath, Side, UnreadOutcome};
use crate::sip::{Draft, Message, Method, Sdp};
use crate::transaction::ServerTxId;

/// What both legs had agreed on before an offer crossed.
#[derive(Clone, Debug)]
pub(super) struct Agreed {
    /// In which dialogs.
    pair: PairId,
    /// Of the caller's leg: ours, its far end's.
    caller: (Bytes, Bytes),
    /// Of the called side's.
    callee: (Bytes, Bytes),
    /// Where media went.
    remotes: Remotes,
}

/// True for a message whose description is an offer or an answer, or foretells one. Elsewhere it only tells what its sender
/// could do: in the 200 to OPTIONS (RFC 3264 §9) and in a 488 (RFC 3261 §21.4.26).
pub(super) fn counts(message: &Message) -> bool {
    let session = matches!(message.method(), Method::Invite | Method::Update | Method::Prack | Method::Ack);
    session && message.status().is_none_or(|status| (101..300).contains(&status))
}

/// True for requests that, with their 2xx, say where further requests go: RFC 3261 §12.2, RFC 3311 §5.1, RFC 6665 §4.4.1, RFC 3515 §2.2.
/// In a 200 to OPTIONS a Contact means something else (RFC 3261 §11.2).
pub(super) fn refreshes_target(method: &Method) -> bool {
    matches!(method, Method::Invite | Method::Update | Method::Subscribe | Method::Notify | Method::Refer)
}

/// What an answer may not bring back: of lines that were not offered, or refused by the offer itself, there is nothing to answer
/// (RFC 3264 §6). `None`: it is an offer.
pub(super) fn stands(offer: Option<&Sdp>, line: usize) -> bool {
    offer.is_none_or(|offer| offer.media().get(line).is_some_and(|offered| offered.port != 0))
}

/// True when two descriptions say the same of everything but their `o=` line.
pub(super) fn same_session(one: &[u8], other: &[u8]) -> bool {
    rest(one).eq(rest(other))
}

fn rest(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let lines = text.split(|octet| *octet == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    lines.filter(|line| !line.is_empty() && !line.starts_with(b"o="))
}

impl Call {
    /// The body of `from`'s message as it goes to the other side: its session description is ours, all else as it was.
    /// `answers`: the description answers one of the other side.
    pub(super) fn put_body(&mut self, cx: &mut Services, from: DialogRef, message: &Message, answers: bool, draft: &mut Draft) {
        let original = message.body();
        if original.is_empty() {
            return;
        }
        let content_type = message.content_type().map(str::to_owned);
        let found = Descriptions::of(message);
        let counts = counts(message);
        if counts {
            self.note_unread(cx, from.pair, &found);
        }
        let Some((first, sdp)) = found.first() else {
            // Unreadable here, perhaps not there.
            draft.set_body(content_type.as_deref(), original);
            return;
        };
        let offer = if answers && counts { Sdp::parse(&self.pairs[from.other()].remote_sdp).ok() } else { None };
        if counts {
            self.described(cx, from, sdp, offer.as_ref());
        }
        let fewer = |sdp: &Sdp| self.fewer_codecs(cx, sdp.clone(), sdp.raw().clone());
        let mut rest: Vec<Option<(Sdp, Bytes)>> = found.all.iter().map(|sdp| sdp.as_ref().map(fewer)).collect();
        let Some((sdp, bytes)) = rest[first].take() else { return };
        let past = self.past_us(cx);
        let leg = match from.side {
            Side::Caller => &self.callee,
            Side::Callee => &self.caller,
        };
        let half = &mut self.pairs[from.other()];
        let rewritten = if counts {
            self.media.rewrite_for(cx, (leg, half), (&sdp, &bytes), offer.as_ref(), past)
        } else {
            self.media.rewrite_aside(cx, (leg, half), (&sdp, &bytes), past)
        };
        // Whichever of them is taken leads here: of each line the same ports.
        let others = rest
            .iter()
            .map(|other| other.as_ref().map(|(sdp, bytes)| self.media.rewrite_aside(cx, (leg, half), (sdp, bytes), past)));
        let mut new: Vec<Option<Bytes>> = others.collect();
        new[first] = Some(rewritten);
        draft.set_body(content_type.as_deref(), body::exchange(message, &new));
    }

    /// Counts descriptions that are not as they should be. One that cannot be read goes past us: where nothing has crossed yet, neither
    /// side is anchored, for one alone would not hear the other.
    fn note_unread(&mut self, cx: &mut Services, pair: PairId, found: &Descriptions) {
        if !found.is_unread() {
            if found.repaired {
                cx.count(Counter::Unread(UnreadOutcome::Repaired));
            }
            return;
        }
        let began = [pair.caller(), pair.callee()].iter().any(|at| !self.pairs[*at].local_sdp.is_empty());
        if self.media.phase == MediaPhase::Off {
            return;
        }
        cx.count(Counter::Unread(if began { UnreadOutcome::OneSided } else { UnreadOutcome::Unanchored }));
        if !began {
            cx.count(Counter::Unanchored(self.class()));
            self.media.give_up(cx);
        }
    }

    /// What stands now.
    fn agreed(&self, pair: PairId) -> Agreed {
        let of = |at| (self.pairs[at].local_sdp.clone(), self.pairs[at].remote_sdp.clone());
        Agreed { pair, caller: of(pair.caller()), callee: of(pair.callee()), remotes: self.media.remotes() }
    }

    /// A request is about to cross: keeps what stands, should it bring an offer, or a 2xx with one. True: it does.
    pub(super) fn keep_agreed(&mut self, id: u64) -> bool {
        let Some(crossing) = self.crossings.get(id) else { return false };
        let offers = crossing.facts.offered || crossing.is(&Method::Invite);
        // One that goes out again brings what it brought before.
        if offers && crossing.facts.before.is_none() {
            let agreed = self.agreed(crossing.to().pair);
            if let Some(crossing) = self.crossings.get_mut(id) {
                crossing.facts.before = Some(agreed);
            }
        }
        offers
    }

    /// A provisional response to a re-INVITE: a reliable one with the answer settles it, whatever the final response is (RFC 6141 §3.4).
    pub(super) fn note_early_answer(&mut self, id: u64, response: &Message) {
        let described = reliable::rseq_of(response).is_some() && body::find_sdp(response).is_some();
        let Some(crossing) = self.crossings.get_mut(id).filter(|_| described) else { return };
        if crossing.facts.offered {
            crossing.facts.answered = true;
            let pair = crossing.to().pair;
            self.settled(pair);
        } else {
            crossing.facts.early_offer = true;
        }
    }

    /// An offer was refused, or came to nothing: what stood before stands again.
    pub(super) fn take_back(&mut self, cx: &mut Services, agreed: Agreed) {
        self.media.set_remotes(cx, agreed.remotes);
        for (at, (local, remote)) in [(agreed.pair.caller(), agreed.caller), (agreed.pair.callee(), agreed.callee)] {
            let half = &mut self.pairs[at];
            half.remote_sdp = remote;
            self.media.restate(half, local);
        }
    }

    /// An exchange of offer and answer came to its end in that pair: requests that are still open there do not take it back
    /// (RFC 6141 §3.3).
    fn settled(&mut self, pair: PairId) {
        for crossing in self.crossings.iter_mut().filter(|c| c.to().pair == pair) {
            crossing.facts.before = None;
        }
    }

    /// The final response to a request that was passed on: its offer stands, waits for an answer in the ACK, or is taken back
    /// (RFC 3261 §14.1, RFC 3311 §5.2; RFC 3262 §5 for PRACK).
    pub(super) fn conclude(&mut self, cx: &mut Services, crossing: &mut Crossing<Exchange>, response: &Message) {
        let accepted = response.status().is_some_and(|status| (200..300).contains(&status));
        let described = body::find_sdp(response).is_some();
        let from = crossing.from();
        let Some(before) = crossing.facts.before.take() else {
            let prack = crossing.asked().filter(|asked| asked.request.method() == &Method::Prack);
            if accepted && prack.is_some_and(|asked| body::find_sdp(&asked.request).is_some()) {
                self.settled(from.pair);
            }
            return;
        };
        match (accepted, crossing.facts.offered, described) {
            (true, true, true) => self.settled(from.pair),
            (true, false, true) => self.two_hundred.keep_before(from.side, before),
            (true, false, false) => {}
            // A 2xx without an answer, too: nobody knows what was agreed.
            (true, true, false) | (false, ..) => self.take_back(cx, before),
        }
    }

    /// Refuses an offer within the call that nobody could anchor. The call goes on with what it has, an emergency too.
    pub(super) fn refuse_unusable(
        &mut self,
        cx: &mut Services,
        side: Side,
        tx: ServerTxId,
        back: &ReturnPath,
        request: &Message,
        fault: Unusable,
    ) {
        let mut draft = request.response(fault.status(), None);
        let (name, value) = fault.field(AGENT);
        draft.push_named(name, value);
        let realm = self.leg(side).realm;
        self.ladder.sent(cx.now.unix, realm, back, &draft);
        cx.respond(tx, &mut draft);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(start: &str, cseq: &str) -> Message {
        Message::parse(Bytes::from(format!(
            "{start}\r\nVia: SIP/2.0/UDP c;branch=z9hG4bK1\r\nFrom: <sip:a@c>;tag=ft\r\nTo: <sip:112@h>;tag=x\r\n\
             Call-ID: x@c\r\nCSeq: 7 {cseq}\r\nContent-Length: 0\r\n\r\n"
        )))
        .expect("valid")
    }

    #[test]
    fn which_descriptions_count() {
        for (method, session) in [
            ("INVITE", true),
            ("UPDATE", true),
            ("PRACK", true),
            ("ACK", true),
            ("OPTIONS", false),
            ("INFO", false),
            ("NOTIFY", false),
        ] {
            assert_eq!(counts(&message(&format!("{method} sip:x SIP/2.0"), method)), session, "{method}");
            if method == "ACK" {
                continue;
            }
            for (status, of_session) in [(183, true), (200, true), (299, true), (300, false), (488, false), (606, false)] {
                let response = message(&format!("SIP/2.0 {status} x"), method);
                assert_eq!(counts(&response), session && of_session, "{method} {status}");
            }
        }
    }

    #[test]
    fn what_is_the_same_session() {
        let one = b"v=0\r\no=a 1 1 IN IP4 192.0.2.1\r\nm=audio 4 RTP/AVP 8\r\n";
        assert!(same_session(one, b"v=0\no=a 1 2 IN IP4 192.0.2.1\nm=audio 4 RTP/AVP 8"));
        assert!(!same_session(one, b"v=0\r\no=a 1 1 IN IP4 192.0.2.1\r\nm=audio 6 RTP/AVP 8\r\n"));
    }
}
