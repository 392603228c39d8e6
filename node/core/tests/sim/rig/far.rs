//! Far ends driven by hand: what nodes sent to an address where no phone is, and answers from there.

use std::net::SocketAddr;

use bytes::Bytes;
use sbc_core::io::{AddressRole, Transport};
use sbc_core::sip::{Draft, HeaderId, Message, Method, is_keepalive};

use crate::world::{Sent, World, addr};

/// One far end.
pub(crate) struct Far {
    /// Where it sends from.
    pub(crate) addr: SocketAddr,
    /// Where it listens.
    pub(crate) listens: SocketAddr,
    pub(crate) transport: Transport,
    /// The node that it speaks to by `send`, and its connection there.
    pub(crate) at: (usize, u64),
    read: usize,
}

impl Far {
    pub(crate) fn at(text: &str) -> Far {
        Far::from(text, text, Transport::Udp)
    }

    /// One that sends from another port than it listens at.
    pub(crate) fn from(source: &str, listens: &str, transport: Transport) -> Far {
        Far { addr: addr(source), listens: addr(listens), transport, at: (0, 1), read: 0 }
    }

    /// Its Via, by the transport that it has.
    pub(crate) fn via(&self, branch: &str) -> String {
        let rport = if self.transport == Transport::Udp { ";rport" } else { "" };
        format!("SIP/2.0/{} {};branch=z9hG4bK{branch}{rport}", self.transport.via_token(), self.listens)
    }

    /// To the node that it speaks to, by a datagram or over its connection.
    pub(crate) fn send(&self, world: &mut World, bytes: Bytes) {
        let to = world.nodes[self.at.0].unicast;
        match self.transport {
            Transport::Udp => world.inject(self.addr, to, bytes),
            transport => world.stream_by(transport, self.at.0, self.at.1, AddressRole::Unicast, self.addr, bytes),
        }
    }

    /// What its host got since the last look, at whatever port, and how.
    pub(crate) fn got(&mut self, world: &World) -> Vec<(Message, Sent)> {
        let sent = world.sent.as_ref().expect("recorded");
        let new = sent[self.read..].iter().filter(|s| s.node.is_some() && s.to.ip() == self.addr.ip() && !is_keepalive(&s.bytes));
        let got = new.map(|s| (Message::parse(s.bytes.clone()).expect("well formed"), s.clone())).collect();
        self.read = sent.len();
        got
    }

    /// What nodes have sent here since the last look, with the node's address. Retransmissions too.
    pub(crate) fn inbox(&mut self, world: &World) -> Vec<(Message, SocketAddr)> {
        let sent = world.sent.as_ref().expect("recorded");
        let new = sent[self.read..].iter().filter(|s| s.node.is_some() && s.to == self.addr);
        let messages = new.map(|s| (Message::parse(s.bytes.clone()).expect("well formed"), s.from)).collect();
        self.read = sent.len();
        messages
    }

    /// The one request of this method among what came.
    #[track_caller]
    pub(crate) fn request(&mut self, world: &World, method: &Method) -> (Message, SocketAddr) {
        let all = self.inbox(world);
        let starts: Vec<String> = all.iter().map(|(m, _)| first_line(m)).collect();
        let mut found = all.into_iter().filter(|(m, _)| m.is_request() && m.method() == method);
        found.next().unwrap_or_else(|| panic!("no {method} among {starts:?}"))
    }

    /// The final response of this method among what came.
    #[track_caller]
    pub(crate) fn response(&mut self, world: &World, method: &Method) -> Message {
        let all = self.inbox(world);
        let starts: Vec<String> = all.iter().map(|(m, _)| first_line(m)).collect();
        let mut found = all.into_iter().map(|(m, _)| m).filter(|m| m.method() == method && m.status() > Some(199));
        found.next().unwrap_or_else(|| panic!("no answer to {method} among {starts:?}"))
    }

    /// Answers a request, with a To-tag and more fields.
    pub(crate) fn answer(&self, world: &mut World, request: &(Message, SocketAddr), status: u16, fields: &[(&str, &str)]) {
        let mut draft = request.0.response(status, None);
        if status > 100 && request.0.to_tag().is_none() {
            draft.set(HeaderId::To, format!("{};tag=far", request.0.to()));
        }
        if request.0.method() == &Method::Invite && (101..300).contains(&status) {
            draft.push(HeaderId::Contact, format!("<sip:far@{}>", self.addr));
        }
        self.put(world, &mut draft, request.1, fields);
    }

    /// Sends a message.
    pub(crate) fn put(&self, world: &mut World, draft: &mut Draft, to: SocketAddr, fields: &[(&str, &str)]) {
        for (name, value) in fields {
            draft.push_named(name, *value);
        }
        let bytes = draft.encode().expect("well formed");
        world.inject(self.addr, to, bytes);
    }

    /// An initial request to the cluster, without Contact fields of any method's own but INVITE's.
    pub(crate) fn initial(&self, method: &Method, uri: &str, call_id: &str, cseq: u32) -> Draft {
        let mut draft = Draft::request(method, uri);
        draft.push(HeaderId::Via, format!("SIP/2.0/UDP {};branch=z9hG4bK{call_id}{cseq}{method};rport", self.addr));
        draft.push(HeaderId::MaxForwards, "70");
        draft.push(HeaderId::From, format!("<sip:far@{}>;tag=ft-{call_id}", self.addr));
        draft.push(HeaderId::To, format!("<{uri}>"));
        draft.push(HeaderId::CallId, call_id);
        draft.push(HeaderId::CSeq, format!("{cseq} {method}"));
        draft.push(HeaderId::Contact, format!("<sip:far@{}>", self.addr));
        draft
    }

    /// The next request of the caller's dialog that `initial` with `call_id` began, after its 2xx.
    pub(crate) fn within(&self, method: &Method, ok: &Message, cseq: u32) -> (Draft, SocketAddr) {
        let contact =
            sbc_core::sip::NameAddr::parse(ok.first(HeaderId::Contact).expect("a 2xx has one")).expect("an address").uri;
        let to = SocketAddr::new(contact.host_ip().expect("an address"), contact.port().unwrap_or(5060));
        let mut draft = Draft::request(method, contact.as_str());
        draft.push(HeaderId::Via, format!("SIP/2.0/UDP {};branch=z9hG4bKin{cseq}{method};rport", self.addr));
        draft.push(HeaderId::MaxForwards, "70");
        draft.push(HeaderId::From, ok.from());
        draft.push(HeaderId::To, ok.to());
        draft.push(HeaderId::CallId, ok.call_id());
        draft.push(HeaderId::CSeq, format!("{cseq} {method}"));
        (draft, to)
    }
}

fn first_line(message: &Message) -> String {
    String::from_utf8_lossy(message.raw()).lines().next().unwrap_or_default().to_owned()
}

/// Lets `ms` pass.
pub(crate) fn wait(world: &mut World, ms: u64) {
    world.run_until(world.now / 1000 + ms);
}

/// An offer or answer.
pub(crate) fn sdp() -> Bytes {
    Bytes::from_static(
        b"v=0\r\no=far 1 1 IN IP4 198.18.20.9\r\ns=-\r\nc=IN IP4 198.18.20.9\r\nt=0 0\r\nm=audio 30000 RTP/AVP 8\r\n",
    )
}
