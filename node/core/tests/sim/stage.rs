//! A call put on stage by hand: a caller by TCP or UDP, and the PSAP.

use std::net::SocketAddr;

use bytes::Bytes;
use sbc_core::ids::FlowId;
use sbc_core::io::AddressRole;
use sbc_core::policy::ClusterConfig;
use sbc_core::sip::{Draft, HeaderId, Message, Method, NameAddr, is_keepalive};

use crate::far::{Far, sdp, wait};
use crate::world::{Net, Sent, World, addr, config};

pub(crate) const URI: &str = "sip:112@198.18.112.112";
/// Where the caller listens, and where it sends from.
pub(crate) const LISTENS: &str = "198.18.10.9:5070";
pub(crate) const SOURCE: &str = "198.18.10.9:40001";
pub(crate) const PSAP: &str = "198.18.20.9:5060";

/// Both far ends by hand. The caller comes by TCP, on connection 1 of the first node, or by UDP.
pub(crate) struct Stage {
    pub(crate) w: World,
    pub(crate) psap: Far,
    pub(crate) tcp: bool,
    pub(crate) source: SocketAddr,
    /// The caller's connection: node and number.
    pub(crate) at: (usize, u64),
    pub(crate) read: usize,
    pub(crate) cseq: u32,
    pub(crate) ok: Option<Message>,
    pub(crate) invite: Option<(Message, SocketAddr)>,
}

/// What nodes sent to one address, parsed.
pub(crate) fn sent_to(sent: &[Sent], to: SocketAddr) -> Vec<(Message, Sent)> {
    let of = sent.iter().filter(|s| s.node.is_some() && s.to == to && !is_keepalive(&s.bytes));
    of.map(|s| (Message::parse(s.bytes.clone()).expect("well formed"), s.clone())).collect()
}

impl Stage {
    pub(crate) fn new(tcp: bool) -> Stage {
        Stage::with(tcp, |_| ())
    }

    pub(crate) fn with(tcp: bool, change: impl FnOnce(&mut ClusterConfig)) -> Stage {
        let mut config = config(sbc_core::policy::MisroutePolicy::Relay, false);
        config.trunks[1].targets[0].host.host = "198.18.20.9".into();
        change(&mut config);
        let mut w = World::with_config(3, 3, Vec::new(), Net::calm(), |_| config);
        w.sent = Some(Vec::new());
        w.trace = std::env::var_os("SIM_TRACE").is_some();
        w.run_until(100);
        let source = addr(SOURCE);
        Stage { w, psap: Far::at(PSAP), tcp, source, at: (0, 1), read: 0, cseq: 1, ok: None, invite: None }
    }

    pub(crate) fn via(&self, branch: &str) -> String {
        match self.tcp {
            true => format!("SIP/2.0/TCP {LISTENS};branch=z9hG4bK{branch}"),
            false => format!("SIP/2.0/UDP {LISTENS};branch=z9hG4bK{branch};rport"),
        }
    }

    /// From the caller, to the first node or over its connection.
    pub(crate) fn put(&mut self, draft: &Draft) {
        let bytes = draft.encode().expect("well formed");
        self.put_raw(bytes);
        wait(&mut self.w, 30);
    }

    pub(crate) fn put_raw(&mut self, bytes: Bytes) {
        let to = self.w.nodes[self.at.0].unicast;
        match self.tcp {
            true => self.w.stream(self.at.0, self.at.1, AddressRole::Unicast, self.source, bytes),
            false => self.w.inject(self.source, to, bytes),
        }
    }

    pub(crate) fn initial(&self) -> Draft {
        let mut draft = Far::at(SOURCE).initial(&Method::Invite, URI, "x", 1);
        draft.replace_first(HeaderId::Via, self.via("first"));
        let contact = if self.tcp { format!("<sip:far@{LISTENS};transport=tcp>") } else { format!("<sip:far@{LISTENS}>") };
        draft.set(HeaderId::Contact, contact);
        draft.set_body(Some("application/sdp"), sdp());
        draft
    }

    pub(crate) fn dials(&mut self, draft: &Draft) {
        self.put(draft);
        self.invite = Some(self.psap_request(&Method::Invite));
    }

    /// The one request of this method at the PSAP, with the node's port for datagrams.
    #[track_caller]
    pub(crate) fn psap_request(&mut self, method: &Method) -> (Message, SocketAddr) {
        let (request, from) = self.psap.request(&self.w, method);
        (request, (from.ip(), 5060).into())
    }

    /// The PSAP's 200; the caller's view of it.
    pub(crate) fn answers(&mut self, change: impl FnOnce(&mut Draft)) -> Option<Message> {
        let (invite, from) = self.invite.clone().expect("it was called");
        let mut draft = invite.response(200, None);
        draft.set(HeaderId::To, format!("{};tag=far", invite.to()));
        draft.push(HeaderId::Contact, format!("<sip:far@{PSAP}>"));
        draft.set_body(Some("application/sdp"), sdp());
        change(&mut draft);
        self.psap.put(&mut self.w, &mut draft, from, &[]);
        wait(&mut self.w, 20);
        let ok = self.got().into_iter().map(|(m, _)| m).find(|m| m.status() == Some(200));
        self.ok = ok.clone().or(self.ok.take());
        ok
    }

    pub(crate) fn acks(&mut self) {
        let ack = self.within(&Method::Ack, 1);
        self.put(&ack);
    }

    /// A call that stands.
    pub(crate) fn stands(tcp: bool) -> Stage {
        Stage::new(tcp).established(|_| (), |_| ())
    }

    pub(crate) fn established(mut self, call: impl FnOnce(&mut Draft), answer: impl FnOnce(&mut Draft)) -> Stage {
        let mut draft = self.initial();
        call(&mut draft);
        self.dials(&draft);
        self.answers(answer).expect("a 200");
        self.acks();
        // Every node knows the dialog.
        wait(&mut self.w, 200);
        self.psap.inbox(&self.w);
        self
    }

    pub(crate) fn within(&self, method: &Method, cseq: u32) -> Draft {
        let ok = self.ok.as_ref().expect("answered");
        let (mut draft, _) = Far::at(SOURCE).within(method, ok, cseq);
        draft.replace_first(HeaderId::Via, self.via(&format!("in{cseq}{method}")));
        draft
    }

    /// A request of the caller in the dialog; what the PSAP got.
    pub(crate) fn asks(&mut self, method: &Method, change: impl FnOnce(&mut Draft)) -> Vec<(Message, SocketAddr)> {
        self.cseq += 1;
        let mut draft = self.within(method, self.cseq);
        if method == &Method::Invite {
            draft.push(HeaderId::Contact, format!("<sip:far@{LISTENS}>"));
            draft.set_body(Some("application/sdp"), sdp());
        }
        change(&mut draft);
        self.put(&draft);
        self.psap.inbox(&self.w)
    }

    /// A request of the PSAP in the dialog, from this address.
    pub(crate) fn psap_asks(&mut self, from: &str, method: &Method, change: impl FnOnce(&mut Draft)) {
        let (invite, node) = self.invite.clone().expect("it was called");
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
        wait(&mut self.w, 30);
    }

    /// What the caller's host got since the last look, at whatever port.
    pub(crate) fn got(&mut self) -> Vec<(Message, Sent)> {
        let sent = self.w.sent.as_ref().expect("recorded");
        let new =
            sent[self.read..].iter().filter(|s| s.node.is_some() && s.to.ip() == self.source.ip() && !is_keepalive(&s.bytes));
        let got = new.map(|s| (Message::parse(s.bytes.clone()).expect("well formed"), s.clone())).collect();
        self.read = sent.len();
        got
    }

    /// The one request that the caller got.
    #[track_caller]
    pub(crate) fn got_request(&mut self, method: &Method) -> (Message, Sent) {
        let got = self.got();
        let mut found: Vec<_> = got.into_iter().filter(|(m, _)| m.is_request() && m.method() == method).collect();
        assert_eq!(found.len(), 1, "{method}: {found:#?}");
        found.remove(0)
    }

    #[track_caller]
    pub(crate) fn calm(&self) {
        assert!(self.w.violations.is_empty(), "{:#?}", self.w.violations);
    }
}

pub(crate) fn flow_of(sent: &Sent) -> Option<u64> {
    sent.stream.as_ref().and_then(|s| s.1).map(|FlowId(flow)| flow)
}
