//! A call from its INVITE on: the caller by its own transport, each request as a draft that a test may change.

use std::net::SocketAddr;

use bytes::Bytes;
use sbc_core::io::Transport;
use sbc_core::sip::{Draft, HeaderId, Message, Method, NameAddr};

use super::far::sdp;
use super::{LISTENS, PSAP, Rig, URI};
use crate::world::{Sent, addr};

impl Rig {
    /// From the caller, to the first node or over its connection.
    pub(crate) fn send(&mut self, draft: &Draft) {
        let bytes = draft.encode().expect("well formed");
        self.send_raw(bytes);
        self.advance(30);
    }

    pub(crate) fn send_raw(&mut self, bytes: Bytes) {
        self.caller.send(&mut self.w, bytes);
    }

    pub(crate) fn invite_draft(&self) -> Draft {
        let mut draft = self.caller.initial(&Method::Invite, URI, "x", 1);
        draft.replace_first(HeaderId::Via, self.caller.via("first"));
        let contact = format!("<sip:far@{LISTENS}{}>", self.caller.transport.contact_parameter());
        draft.set(HeaderId::Contact, contact);
        draft.set_body(Some("application/sdp"), sdp());
        draft
    }

    pub(crate) fn dials_draft(&mut self, draft: &Draft) {
        self.send(draft);
        self.asked = Some(self.psap_got_request(&Method::Invite));
    }

    /// The one request of this method at the PSAP, with the node's port for datagrams.
    #[track_caller]
    pub(crate) fn psap_got_request(&mut self, method: &Method) -> (Message, SocketAddr) {
        let (request, from) = self.psap.request(&self.w, method);
        (request, (from.ip(), 5060).into())
    }

    /// The PSAP's 200; the caller's view of it.
    pub(crate) fn psap_answers(&mut self, change: impl FnOnce(&mut Draft)) -> Option<Message> {
        let (invite, from) = self.asked.clone().expect("it was called");
        let mut draft = invite.response(200, None);
        draft.set(HeaderId::To, format!("{};tag=far", invite.to()));
        draft.push(HeaderId::Contact, format!("<sip:far@{PSAP}>"));
        draft.set_body(Some("application/sdp"), sdp());
        change(&mut draft);
        self.psap.put(&mut self.w, &mut draft, from, &[]);
        self.advance(20);
        let ok = self.got().into_iter().map(|(m, _)| m).find(|m| m.status() == Some(200));
        self.ok = ok.clone().or(self.ok.take());
        ok
    }

    pub(crate) fn acknowledges(&mut self) {
        let ack = self.within(&Method::Ack, 1);
        self.send(&ack);
    }

    /// A call that stands.
    pub(crate) fn stands(transport: Transport) -> Rig {
        Rig::by(transport).established(|_| (), |_| ())
    }

    pub(crate) fn established(mut self, call: impl FnOnce(&mut Draft), answer: impl FnOnce(&mut Draft)) -> Rig {
        let mut draft = self.invite_draft();
        call(&mut draft);
        self.dials_draft(&draft);
        self.psap_answers(answer).expect("a 200");
        self.acknowledges();
        // Every node knows the dialog.
        self.advance(200);
        self.psap.inbox(&self.w);
        self
    }

    pub(crate) fn within(&self, method: &Method, cseq: u32) -> Draft {
        let ok = self.ok.as_ref().expect("answered");
        let (mut draft, _) = self.caller.within(method, ok, cseq);
        draft.replace_first(HeaderId::Via, self.caller.via(&format!("in{cseq}{method}")));
        draft
    }

    /// A request of the caller in the dialog; what the PSAP got.
    pub(crate) fn requests(&mut self, method: &Method, change: impl FnOnce(&mut Draft)) -> Vec<(Message, SocketAddr)> {
        self.cseq += 1;
        let mut draft = self.within(method, self.cseq);
        if method == &Method::Invite {
            draft.push(HeaderId::Contact, format!("<sip:far@{LISTENS}>"));
            draft.set_body(Some("application/sdp"), sdp());
        }
        change(&mut draft);
        self.send(&draft);
        self.psap.inbox(&self.w)
    }

    /// A request of the PSAP in the dialog, from this address.
    pub(crate) fn psap_requests(&mut self, from: &str, method: &Method, change: impl FnOnce(&mut Draft)) {
        let (invite, node) = self.asked.clone().expect("it was called");
        let target = NameAddr::parse(invite.first(HeaderId::Contact).expect("one")).expect("an address").uri.as_str().to_owned();
        self.cseq += 1;
        let mut draft = Draft::request(method, &target);
        draft.push(HeaderId::Via, format!("SIP/2.0/UDP {from};branch=z9hG4bKpsap{};rport", self.cseq));
        draft.push(HeaderId::MaxForwards, "70");
        draft.push(HeaderId::From, format!("{};tag=far", invite.to()));
        draft.push(HeaderId::To, invite.from());
        draft.push(HeaderId::CallId, invite.call_id());
        draft.push(HeaderId::CSeq, format!("{} {method}", self.cseq));
        if method == &Method::Invite {
            draft.push(HeaderId::Contact, format!("<sip:far@{PSAP}>"));
            draft.set_body(Some("application/sdp"), sdp());
        }
        change(&mut draft);
        let bytes = draft.encode().expect("well formed");
        self.w.inject(addr(from), node, bytes);
        self.advance(30);
    }

    /// What the caller's host got since the last look, at whatever port.
    pub(crate) fn got(&mut self) -> Vec<(Message, Sent)> {
        self.caller.got(&self.w)
    }

    /// The one request that the caller got.
    #[track_caller]
    pub(crate) fn got_request(&mut self, method: &Method) -> (Message, Sent) {
        let got = self.got();
        let mut found: Vec<_> = got.into_iter().filter(|(m, _)| m.is_request() && m.method() == method).collect();
        assert_eq!(found.len(), 1, "{method}: {found:#?}");
        found.remove(0)
    }
}
