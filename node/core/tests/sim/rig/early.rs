//! Before the answer and after it: responses of the called side by their To-tags, requests in the dialog of a response.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use bytes::Bytes;
use sbc_core::io::Side;
use sbc_core::sip::{Draft, HeaderId, Message, Method, NameAddr};

use super::read::sdp_of;
use super::{Rig, URI};

impl Rig {
    /// The caller's INVITE, as the called side has it.
    pub(crate) fn calls(fields: &[(&str, &str)], offer: Option<u16>) -> Rig {
        Rig::dialling("112").dials(fields, offer)
    }

    pub(crate) fn dials(self, fields: &[(&str, &str)], offer: Option<u16>) -> Rig {
        self.dials_as(fields, offer.map(sdp_of))
    }

    pub(crate) fn dials_with(self, offer: Bytes) -> Rig {
        self.dials_as(&[], Some(offer))
    }

    pub(crate) fn dials_as(mut self, fields: &[(&str, &str)], offer: Option<Bytes>) -> Rig {
        let mut draft = self.caller.initial(&Method::Invite, URI, "x", 1);
        if let Some(offer) = offer {
            draft.set_body(Some("application/sdp"), offer);
        }
        let anycast = self.w.anycast;
        self.caller.put(&mut self.w, &mut draft, anycast, fields);
        self.advance(50);
        self.asked = Some(self.psap.request(&self.w, &Method::Invite));
        self.caller.inbox(&self.w);
        self
    }

    /// The called side responds to the INVITE; what the caller got of it.
    pub(crate) fn says(&mut self, status: u16, tag: &str, fields: &[(&str, &str)], body: Option<u16>) -> Vec<Message> {
        let (invite, from) = self.asked.clone().expect("it was called");
        let mut draft = invite.response(status, None);
        draft.set(HeaderId::To, format!("{};tag={tag}", invite.to()));
        draft.push(HeaderId::Contact, format!("<sip:{tag}@198.18.20.9:5060>"));
        if let Some(port) = body {
            draft.set_body(Some("application/sdp"), sdp_of(port));
        }
        self.psap.put(&mut self.w, &mut draft, from, fields);
        self.advance(20);
        self.caller.inbox(&self.w).into_iter().map(|(m, _)| m).collect()
    }

    /// The same, where the caller gets exactly one.
    #[track_caller]
    pub(crate) fn says_one(&mut self, status: u16, tag: &str, fields: &[(&str, &str)], body: Option<u16>) -> Message {
        let mut got = self.says(status, tag, fields, body);
        assert_eq!(got.iter().map(Message::status).collect::<Vec<_>>(), [Some(status)]);
        got.remove(0)
    }

    /// A request of the caller in the dialog of a response; what the called side got of it.
    pub(crate) fn asks(
        &mut self,
        method: &Method,
        of: &Message,
        fields: &[(&str, &str)],
        body: Option<u16>,
    ) -> Vec<(Message, SocketAddr)> {
        let to = self.caller.within(method, of, 1).1;
        self.asks_at(to, method, of, fields, body)
    }

    pub(crate) fn asks_at(
        &mut self,
        to: SocketAddr,
        method: &Method,
        of: &Message,
        fields: &[(&str, &str)],
        body: Option<u16>,
    ) -> Vec<(Message, SocketAddr)> {
        self.asks_so(to, method, of, fields, body.map(|port| ("application/sdp", sdp_of(port))))
    }

    pub(crate) fn asks_so(
        &mut self,
        to: SocketAddr,
        method: &Method,
        of: &Message,
        fields: &[(&str, &str)],
        body: Option<(&str, Bytes)>,
    ) -> Vec<(Message, SocketAddr)> {
        self.cseq += 1;
        let (mut draft, _) = self.caller.within(method, of, self.cseq);
        if let Some((content_type, body)) = body {
            draft.set_body(Some(content_type), body);
        }
        self.caller.put(&mut self.w, &mut draft, to, fields);
        self.advance(20);
        self.psap.inbox(&self.w)
    }

    /// The caller's PRACK for a reliable response.
    pub(crate) fn pracks(&mut self, of: &Message, body: Option<u16>) -> Vec<(Message, SocketAddr)> {
        let rack = format!("{} 1 INVITE", of.first(HeaderId::RSeq).expect("a reliable one"));
        self.asks(&Method::Prack, of, &[("RAck", &rack)], body)
    }

    /// A request of the called side in its dialog with that tag; what the caller got of it.
    pub(crate) fn called_asks(&mut self, method: &Method, tag: &str, body: Option<u16>) -> Vec<(Message, SocketAddr)> {
        self.called_asks_so(method, tag, body.map(sdp_of))
    }

    pub(crate) fn called_asks_so(&mut self, method: &Method, tag: &str, body: Option<Bytes>) -> Vec<(Message, SocketAddr)> {
        let (invite, from) = self.asked.clone().expect("it was called");
        let target = NameAddr::parse(invite.first(HeaderId::Contact).expect("one")).expect("an address").uri.as_str().to_owned();
        self.cseq += 1;
        let mut draft = Draft::request(method, &target);
        let cseq = self.cseq;
        draft.push(HeaderId::Via, format!("SIP/2.0/UDP 198.18.20.9:5060;branch=z9hG4bKpsap{cseq};rport"));
        draft.push(HeaderId::MaxForwards, "70");
        draft.push(HeaderId::From, format!("{};tag={tag}", invite.to()));
        draft.push(HeaderId::To, invite.from());
        draft.push(HeaderId::CallId, invite.call_id());
        draft.push(HeaderId::CSeq, format!("{cseq} {method}"));
        draft.push(HeaderId::Contact, format!("<sip:{tag}@198.18.20.9:5060>"));
        if let Some(body) = body {
            draft.set_body(Some("application/sdp"), body);
        }
        self.psap.put(&mut self.w, &mut draft, from, &[]);
        self.advance(20);
        self.caller.inbox(&self.w)
    }

    /// The called side answers a request; what the caller got.
    pub(crate) fn called_answers(&mut self, request: &(Message, SocketAddr), status: u16, body: Option<u16>) -> Vec<Message> {
        let mut draft = request.0.response(status, None);
        if let Some(port) = body {
            draft.set_body(Some("application/sdp"), sdp_of(port));
        }
        self.psap.put(&mut self.w, &mut draft, request.1, &[]);
        self.advance(20);
        self.caller.inbox(&self.w).into_iter().map(|(m, _)| m).collect()
    }

    /// The caller answers a request; what the called side got.
    pub(crate) fn caller_answers(&mut self, request: &(Message, SocketAddr), status: u16, body: Option<u16>) -> Vec<Message> {
        let mut draft = request.0.response(status, None);
        if let Some(port) = body {
            draft.set_body(Some("application/sdp"), sdp_of(port));
        }
        self.caller.put(&mut self.w, &mut draft, request.1, &[]);
        self.advance(20);
        self.psap.inbox(&self.w).into_iter().map(|(m, _)| m).collect()
    }

    /// A request of the caller with this description; what the called side got of it.
    pub(crate) fn offers(&mut self, method: &Method, of: &Message, body: &[u8]) -> Vec<(Message, SocketAddr)> {
        let to = self.caller.within(method, of, 1).1;
        self.asks_so(to, method, of, &[], Some(("application/sdp", Bytes::copy_from_slice(body))))
    }

    /// The called side answers a request with this description; what the caller got.
    pub(crate) fn called_says(
        &mut self,
        request: &(Message, SocketAddr),
        status: u16,
        fields: &[(&str, &str)],
        body: &[u8],
    ) -> Vec<Message> {
        let mut draft = request.0.response(status, None);
        if !body.is_empty() {
            draft.set_body(Some("application/sdp"), Bytes::copy_from_slice(body));
        }
        self.psap.put(&mut self.w, &mut draft, request.1, fields);
        self.advance(20);
        self.caller_got()
    }

    /// Where media go now, as the node told its engine: by m-line and side, the port; 0: nowhere.
    pub(crate) fn media(&self) -> BTreeMap<(u8, Side), u16> {
        self.w.streams.iter().map(|(line, side, remote)| ((*line, *side), remote.map_or(0, |r| r.rtp.port()))).collect()
    }

    /// An answered call, its 2xx.
    pub(crate) fn answered(fields: &[(&str, &str)], psap: &[(&str, &str)]) -> (Rig, Message) {
        let mut s = Rig::calls(fields, Some(7));
        let ok = s.says_one(200, "a", psap, Some(10));
        s.acks(&ok, None);
        s.psap_got();
        (s, ok)
    }

    /// The caller's ACK for a 2xx; what the called side got.
    pub(crate) fn acks(&mut self, ok: &Message, body: Option<u16>) -> Vec<Message> {
        let (mut draft, to) = self.caller.within(&Method::Ack, ok, ok.cseq());
        if let Some(port) = body {
            draft.set_body(Some("application/sdp"), sdp_of(port));
        }
        self.caller.put(&mut self.w, &mut draft, to, &[]);
        self.advance(20);
        self.psap.inbox(&self.w).into_iter().map(|(m, _)| m).collect()
    }

    /// CANCEL for the INVITE.
    pub(crate) fn cancels(&mut self) {
        let invite = self.caller.initial(&Method::Invite, URI, "x", 1);
        let mut cancel = Draft::request(&Method::Cancel, URI);
        for field in invite.headers() {
            match field.id {
                HeaderId::CSeq => cancel.push(HeaderId::CSeq, "1 CANCEL"),
                HeaderId::Contact => &mut cancel,
                _ => cancel.push_field(&field),
            };
        }
        let anycast = self.w.anycast;
        self.caller.put(&mut self.w, &mut cancel, anycast, &[]);
        self.advance(20);
    }

    pub(crate) fn psap_got(&mut self) -> Vec<(Message, SocketAddr)> {
        self.psap.inbox(&self.w)
    }

    pub(crate) fn caller_got(&mut self) -> Vec<Message> {
        self.caller.inbox(&self.w).into_iter().map(|(m, _)| m).collect()
    }
}
