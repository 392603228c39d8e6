//! Subscriptions (RFC 6665): the caller is a desk that watches, the PSAP is the notifier.

use std::net::SocketAddr;

use bytes::Bytes;
use sbc_core::auth::Secret;
use sbc_core::io::Transport;
use sbc_core::policy::Credentials;
use sbc_core::sip::{Draft, HeaderId, Message, Method, NameAddr};

use super::{FIRST, Far, Rig, URI, target_by};
use crate::world::Sent;

/// What is watched.
pub(crate) const QUEUE: &str = "emergency-QueueState";
/// The desk by UDP, from the port at which it listens.
const DESK: &str = "198.18.10.7:5060";
/// A desk of its own transport: where it listens, and where it sends from.
pub(crate) const DESK_LISTENS: &str = "198.18.10.7:5070";
pub(crate) const DESK_SOURCE: &str = "198.18.10.7:40001";

impl Rig {
    /// A desk by UDP, and two targets.
    pub(crate) fn desk() -> Rig {
        Rig::toward_two(3, DESK, |_| ())
    }

    /// A desk by that transport, and the notifier that it watches; `onward`: how that is reached.
    pub(crate) fn watches(transport: Transport, onward: Option<Transport>) -> Rig {
        let mut rig = Rig::build(3, Far::from(DESK_SOURCE, DESK_LISTENS, transport), |config| {
            config.trunks[1].targets = vec![target_by(FIRST, onward)];
            let mut secret = Secret::named("s");
            assert!(secret.fill("hunter2"));
            config.trunks[1].auth.credentials = Some(Credentials { username: "sbc".into(), realm: None, secret });
        });
        rig.psap = Far::at(FIRST);
        rig
    }

    /// A new SUBSCRIBE to the anycast address.
    pub(crate) fn subscribes(&mut self, call_id: &str, fields: &[(&str, &str)]) {
        let mut draft = self.caller.initial(&Method::Subscribe, URI, call_id, 1);
        let to = self.w.anycast;
        self.caller.put(&mut self.w, &mut draft, to, fields);
        self.advance(50);
    }

    /// The same up to the 200; what the notifier got, and the 200 at the desk.
    pub(crate) fn subscribed(&mut self, seconds: &str) -> ((Message, SocketAddr), Message) {
        self.subscribes("s", &[("Event", QUEUE), ("Expires", seconds), ("Accept", "application/queue+json"), ("X-Odd", "kept")]);
        let got = self.psap.request(&self.w, &Method::Subscribe);
        self.psap.answer(&mut self.w, &got, 200, &[("Expires", seconds), ("Contact", &format!("<sip:psap@{FIRST}>"))]);
        self.advance(50);
        let ok = self.caller.response(&self.w, &Method::Subscribe);
        assert_eq!(ok.status(), Some(200));
        (got, ok)
    }

    /// A NOTIFY of a notifier with this tag, to the Contact that it was given; `node`: to another node's address.
    pub(crate) fn notifies(&mut self, got: &Message, tag: &str, cseq: u32, state: &str, node: Option<usize>) {
        let target = contact(got);
        let uri = NameAddr::parse(&target).expect("an address").uri;
        let to = node.map_or_else(|| (uri.host_ip().expect("an address"), 5060).into(), |n| self.w.nodes[n].core);
        self.cseq += 1;
        let mut draft = Draft::request(&Method::Notify, uri.as_str());
        draft.push(HeaderId::Via, format!("SIP/2.0/UDP {FIRST};branch=z9hG4bKn{};rport", self.cseq));
        draft.push(HeaderId::MaxForwards, "70");
        draft.push(HeaderId::From, format!("{};tag={tag}", got.to()));
        draft.push(HeaderId::To, got.from());
        draft.push(HeaderId::CallId, got.call_id());
        draft.push(HeaderId::CSeq, format!("{cseq} NOTIFY"));
        draft.push(HeaderId::Contact, format!("<sip:{tag}@{FIRST}>"));
        draft.set_body(Some("application/queue+json"), Bytes::from_static(b"{\"queue\":\xe2\x82\xac}\r\n"));
        self.psap.put(&mut self.w, &mut draft, to, &[("Event", QUEUE), ("Subscription-State", state)]);
        self.advance(20);
    }

    /// What the desk got of a NOTIFY; it answers with this status. What the notifier is told.
    pub(crate) fn passes_notify(&mut self, status: u16) -> (Message, Option<u16>) {
        let got = self.caller.request(&self.w, &Method::Notify);
        self.caller.answer(&mut self.w, &got, status, &[]);
        self.advance(20);
        (got.0, self.psap.response(&self.w, &Method::Notify).status())
    }

    /// A SUBSCRIBE within the dialog, to its owner or another node; the status that the desk gets where the notifier got nothing.
    pub(crate) fn resubscribes(
        &mut self,
        ok: &Message,
        cseq: u32,
        seconds: &str,
        node: Option<usize>,
    ) -> Option<(Message, SocketAddr)> {
        let (mut draft, owner) = self.caller.within(&Method::Subscribe, ok, cseq);
        draft.push(HeaderId::Contact, format!("<sip:far@{}>", self.caller.addr));
        let to = node.map_or(owner, |n| self.w.nodes[n].unicast);
        self.caller.put(&mut self.w, &mut draft, to, &[("Event", QUEUE), ("Expires", seconds)]);
        self.advance(30);
        self.psap.inbox(&self.w).into_iter().find(|(m, _)| m.method() == &Method::Subscribe && m.to_tag().is_some())
    }

    pub(crate) fn heard(&mut self) -> Vec<u16> {
        self.caller.inbox(&self.w).iter().filter_map(|(m, _)| m.status()).collect()
    }

    /// A subscription that stands. `uri` is dialled, `contact` the desk's; the notifier answers with these fields.
    pub(crate) fn begun(mut self, uri: &str, contact: &str, answer: &[(&str, &str)]) -> Rig {
        let mut draft = self.caller.initial(&Method::Subscribe, uri, "s", 1);
        draft.replace_first(HeaderId::Via, self.caller.via("first"));
        draft.set(HeaderId::Contact, contact);
        draft.push_named("Event", "dialog").push_named("Expires", "600");
        self.send(&draft);
        let got = self.psap.request(&self.w, &Method::Subscribe);
        let mut fields = vec![("Expires", "600"), ("Contact", "<sip:psap@198.18.20.8>")];
        fields.extend_from_slice(answer);
        self.psap.answer(&mut self.w, &got, 200, &fields);
        self.advance(30);
        let ok = self.got().into_iter().map(|(m, _)| m).find(|m| m.status() == Some(200)).expect("a 200");
        // Every node knows its owner.
        self.advance(200);
        (self.asked, self.ok) = (Some(got), Some(ok));
        self
    }

    pub(crate) fn watching(transport: Transport) -> Rig {
        let contact = format!("<sip:far@{DESK_LISTENS}{}>", transport.contact_parameter());
        Rig::watches(transport, Some(Transport::Udp)).begun(URI, &contact, &[])
    }

    /// A NOTIFY with a document of so many octets; what the desk got of it.
    pub(crate) fn notified(&mut self, octets: usize) -> Vec<(Message, Sent)> {
        let (got, node) = self.asked.clone().expect("it was asked");
        let target = NameAddr::parse(got.first(HeaderId::Contact).expect("one")).expect("an address").uri.as_str().to_owned();
        self.cseq += 1;
        let mut draft = Draft::request(&Method::Notify, &target);
        draft.push(HeaderId::Via, format!("SIP/2.0/UDP {FIRST};branch=z9hG4bKn{};rport", self.cseq));
        draft.push(HeaderId::MaxForwards, "70");
        draft.push(HeaderId::From, format!("{};tag=far", got.to()));
        draft.push(HeaderId::To, got.from());
        draft.push(HeaderId::CallId, got.call_id());
        draft.push(HeaderId::CSeq, format!("{} NOTIFY", self.cseq));
        draft.push(HeaderId::Contact, "<sip:psap@198.18.20.8>");
        draft.set_body(Some("application/dialog-info+xml"), Bytes::from(vec![b'x'; octets]));
        let node = SocketAddr::new(node.ip(), 5060);
        self.psap.put(&mut self.w, &mut draft, node, &[("Event", "dialog"), ("Subscription-State", "active;expires=600")]);
        self.advance(30);
        let got = self.got();
        got.into_iter().filter(|(m, _)| m.is_request() && m.method() == &Method::Notify).collect()
    }

    /// The one NOTIFY that the desk got, and how.
    #[track_caller]
    pub(crate) fn notified_once(&mut self) -> (Message, Sent) {
        let mut got = self.notified(10);
        assert_eq!(got.len(), 1, "{got:#?}");
        got.remove(0)
    }

    /// The desk answers; what the notifier is told.
    pub(crate) fn answers_notify(&mut self, notify: &Message) -> Option<u16> {
        self.send(&notify.response(200, None));
        self.psap.response(&self.w, &Method::Notify).status()
    }

    /// The desk refreshes.
    pub(crate) fn renews(&mut self) {
        self.cseq += 1;
        let ok = self.ok.as_ref().expect("it stands");
        let (mut draft, _) = self.caller.within(&Method::Subscribe, ok, self.cseq);
        draft.replace_first(HeaderId::Via, self.caller.via(&format!("in{}", self.cseq)));
        draft.push(HeaderId::Contact, format!("<sip:far@{DESK_LISTENS}{}>", self.caller.transport.contact_parameter()));
        draft.push_named("Event", "dialog").push_named("Expires", "600");
        self.send(&draft);
    }
}

fn contact(message: &Message) -> String {
    message.first(HeaderId::Contact).expect("one").to_owned()
}
