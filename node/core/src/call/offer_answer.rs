//! Session descriptions on their way from one leg to the other (RFC 3264): which of them count as offers and answers, what they change, and how
//! what was refused is taken back, so that both far ends and the media go on as before (RFC 3261 §14.1, RFC 3264 §8).

use bytes::Bytes;

use super::body::{self, Descriptions};
use super::context::Context;
use super::media::{CallMedia, Remotes};
use super::sides::Sides;
use crate::dialog::{DialogRef, PairId};
use crate::io::{Counter, UnreadOutcome};
use crate::policy::{PastUs, past_us};
use crate::sip::{Draft, Message, Method, Sdp};

/// What both legs had agreed on before an offer crossed.
#[derive(Clone, Debug)]
pub(super) struct AgreedDescriptions {
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

/// True when two descriptions say the same of everything but their `o=` line.
pub(super) fn same_session(one: &[u8], other: &[u8]) -> bool {
    rest(one).eq(rest(other))
}

fn rest(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let lines = text.split(|octet| *octet == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    lines.filter(|line| !line.is_empty() && !line.starts_with(b"o="))
}

/// What descriptions change on their way: the media, and what is described in the dialogs.
pub(super) struct OfferAnswer<'a> {
    pub(super) media: &'a mut CallMedia,
    pub(super) sides: &'a mut Sides,
    /// What the call is counted under.
    pub(super) class: &'static str,
}

impl OfferAnswer<'_> {
    /// The body of `from`'s message as it goes to the other side: its session description is ours, all else as it was.
    /// `answers`: the description answers one of the other side.
    pub(super) fn put(&mut self, cx: &mut Context, from: DialogRef, message: &Message, answers: bool, draft: &mut Draft) {
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
        let offer = if answers && counts { Sdp::parse(&self.sides.pairs[from.other()].remote_sdp).ok() } else { None };
        if counts {
            self.described(cx, from, sdp, offer.as_ref());
        }
        let fewer = |sdp: &Sdp| self.fewer_codecs(cx, sdp.clone(), sdp.raw().clone());
        let mut rest: Vec<Option<(Sdp, Bytes)>> = found.all.iter().map(|sdp| sdp.as_ref().map(fewer)).collect();
        let Some((sdp, bytes)) = rest[first].take() else { return };
        let past = self.past_us(cx);
        let (leg, half) = self.sides.leg_and_half(from.other());
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
    fn note_unread(&mut self, cx: &mut Context, pair: PairId, found: &Descriptions) {
        if !found.is_unread() {
            if found.repaired {
                cx.count(Counter::Unread(UnreadOutcome::Repaired));
            }
            return;
        }
        let began = [pair.caller(), pair.callee()].iter().any(|at| !self.sides.pairs[*at].local_sdp.is_empty());
        if self.media.is_off() {
            return;
        }
        cx.count(Counter::Unread(if began { UnreadOutcome::OneSided } else { UnreadOutcome::Unanchored }));
        if !began {
            cx.count(Counter::Unanchored(self.class));
            self.media.give_up(cx);
        }
    }

    /// What stands now.
    pub(super) fn agreed(&self, pair: PairId) -> AgreedDescriptions {
        let of = |at| (self.sides.pairs[at].local_sdp.clone(), self.sides.pairs[at].remote_sdp.clone());
        AgreedDescriptions { pair, caller: of(pair.caller()), callee: of(pair.callee()), remotes: self.media.remotes() }
    }

    /// An offer was refused, or came to nothing: what stood before stands again.
    pub(super) fn take_back(&mut self, cx: &mut Context, agreed: AgreedDescriptions) {
        self.media.set_remotes(cx, agreed.remotes);
        for (at, (local, remote)) in [(agreed.pair.caller(), agreed.caller), (agreed.pair.callee(), agreed.callee)] {
            let half = &mut self.sides.pairs[at];
            half.remote_sdp = remote;
            self.media.restate(half, local);
        }
    }

    /// The far end of a dialog described its media: what is not news (the same again) leaves them as they are. `offer`: what it answers.
    pub(super) fn described(&mut self, cx: &mut Context, at: DialogRef, sdp: &Sdp, offer: Option<&Sdp>) {
        let (leg, half) = self.sides.leg_and_half(at);
        self.media.on_remote_sdp(cx, (leg, half), sdp, offer);
        half.remote_sdp = sdp.raw().clone();
    }

    /// What becomes of this call's media that are not relayed.
    fn past_us(&self, cx: &Context) -> PastUs {
        past_us(cx.config.trunk(&self.sides.caller.trunk), cx.config.trunk(&self.sides.callee.trunk))
    }

    /// A description without what the codec lists of the two trunks keep from crossing.
    fn fewer_codecs(&self, cx: &Context, sdp: Sdp, bytes: Bytes) -> (Sdp, Bytes) {
        let lists = [&self.sides.caller.trunk, &self.sides.callee.trunk]
            .map(|name| cx.config.trunk(name).and_then(|t| t.codecs.as_ref()));
        if lists == [None, None] {
            return (sdp, bytes);
        }
        let allowed = |name: &str| lists.iter().flatten().all(|list| list.allows(name));
        let fewer = sdp.without_codecs(&allowed).and_then(|out| Some((Sdp::parse(&out).ok()?, out)));
        fewer.unwrap_or((sdp, bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::super::challenge::KnownChallenges;
    use super::super::ladder::Ladder;
    use super::super::leg::Leg;
    use super::super::pairs::Pairs;
    use super::super::session_id::SessionIds;
    use super::super::session_timer::SessionTimer;
    use super::*;
    use crate::dialog::{Dialog, Half, Pair};
    use crate::ids::{CallUid, Incarnation, LocalId, NodeId};
    use crate::io::{AddressRole, Path, Realm, Side, StreamPorts, Transport};

    fn message(start: &str, cseq: &str) -> Message {
        Message::parse(Bytes::from(format!(
            "{start}\r\nVia: SIP/2.0/UDP c;branch=z9hG4bK1\r\nFrom: <sip:a@c>;tag=ft\r\nTo: <sip:112@h>;tag=x\r\n\
             Call-ID: x@c\r\nCSeq: 7 {cseq}\r\nContent-Length: 0\r\n\r\n"
        )))
        .expect("valid")
    }

    fn leg(side: Side, realm: Realm) -> Leg {
        let at = |host: u8| ([192, 0, 2, host], 5060).into();
        let path = Path { role: AddressRole::Core, transport: Transport::Udp, local: at(3), remote: at(9), flow: None };
        let uid = CallUid { node: NodeId(1), incarnation: Incarnation(1), serial: 1 };
        Leg {
            side,
            realm,
            path,
            ingress: None,
            secure: false,
            tls_name: None,
            contact_params: "".into(),
            trunk: "".into(),
            known: KnownChallenges::default(),
            session: SessionTimer::new(LocalId(1), uid, side),
            gone: false,
        }
    }

    fn described(port: u16) -> Message {
        let body = format!(
            "v=0\r\no=a 1 1 IN IP4 198.51.100.1\r\ns=-\r\nc=IN IP4 198.51.100.1\r\nt=0 0\r\nm=audio {port} RTP/AVP 8\r\n"
        );
        let text = format!(
            "INVITE sip:b@h SIP/2.0\r\nVia: SIP/2.0/UDP c;branch=z9hG4bK1\r\nFrom: <sip:a@c>;tag=f\r\nTo: <sip:b@h>\r\nCall-ID: x\r\n\
             CSeq: 7 INVITE\r\nMax-Forwards: 70\r\nContent-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        Message::parse(Bytes::from(text)).expect("valid")
    }

    #[test]
    fn an_offer_crosses_with_our_ports_and_one_that_is_refused_is_taken_back() {
        let mut cx = Context::for_tests();
        cx.local.anchored = true;
        let mut media = CallMedia::new(&mut cx, [Realm::External, Realm::Core], false);
        assert!(!media.ensure(&mut cx, 1));
        media.on_opened(0, &[StreamPorts { caller: 40_000, callee: 40_002 }]);
        let dialog = Dialog::from_request(&described(1), "t");
        let half = |id| Half::new(dialog.clone(), "t".into(), id);
        let pairs = Pairs::new(Pair { caller: half(1), callee: half(2) });
        let (caller, callee) = (leg(Side::Caller, Realm::External), leg(Side::Callee, Realm::Core));
        let pair = pairs.current();
        let (ladder, session_ids) = (Ladder::default(), SessionIds::default());
        let mut sides = Sides { caller, callee, ladder, pairs, session_ids };
        let mut crossing = OfferAnswer { media: &mut media, sides: &mut sides, class: "" };
        // What the called side was told last, and where the caller's media are, as the engine knows.
        let mut told = Vec::new();
        let mut put = |crossing: &mut OfferAnswer<'_>, cx: &mut Context, port| {
            let mut draft = Draft::request(&Method::Invite, "sip:x");
            crossing.put(cx, pair.caller(), &described(port), false, &mut draft);
            let text = String::from_utf8(draft.encode().expect("plain").to_vec()).expect("text");
            assert!(text.contains("m=audio 40002 ") && !text.contains("198.51.100.1"), "{text}");
            let half = &crossing.sides.pairs[pair.callee()];
            told.push((half.sdp_version, crossing.media.remotes()[0][0].and_then(|remote| remote.rtp.addr()).map(|a| a.port())));
        };
        put(&mut crossing, &mut cx, 5000);
        put(&mut crossing, &mut cx, 5000);
        let before = crossing.agreed(pair);
        put(&mut crossing, &mut cx, 6000);
        crossing.take_back(&mut cx, before.clone());
        assert_eq!(
            told,
            [(1, Some(5000)), (1, Some(5000)), (1, Some(6000))],
            "our description is the same wherever theirs leads"
        );
        assert_eq!(crossing.sides.pairs[pair.caller()].remote_sdp, before.caller.1);
        assert_eq!(crossing.sides.pairs[pair.callee()].local_sdp, before.callee.0);
        assert_eq!(crossing.media.remotes(), before.remotes);
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
