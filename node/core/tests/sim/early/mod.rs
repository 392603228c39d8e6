//! Before the answer: several early dialogs (RFC 3261 §12.1, §13.2.2.4), reliable provisional responses (RFC 3262), UPDATE
//! (RFC 3311), early media and delayed offers. Both far ends are driven by hand, by the letter of the RFCs.

mod bodies;
mod broken;
mod farewell;
mod forks;
mod ladder;
mod offers;
mod profiles;
mod realms;
mod refused;
mod reinvites;
mod reliable;
mod rules;
mod sessions;
mod transfer;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use bytes::Bytes;
use sbc_core::io::{Counter, Side};
use sbc_core::policy::MisroutePolicy;
use sbc_core::sip::{Draft, HeaderId, Message, Method, NameAddr};

use crate::far::{Far, wait};
use crate::world::{Fault, Net, World, config};

const URI: &str = "sip:112@198.18.112.112";
const RELIABLE: (&str, &str) = ("Require", "100rel");

/// A description by which one knows again who made it, and its m-line.
fn sdp(port: u16) -> Bytes {
    Bytes::from(format!(
        "v=0\r\no=far {port} 1 IN IP4 198.18.20.9\r\ns=-\r\nc=IN IP4 198.18.20.9\r\nt=0 0\r\nm=audio {port} RTP/AVP 8\r\na=ptime:{port}\r\n"
    ))
}

fn text(message: &Message) -> String {
    String::from_utf8_lossy(&message.body()).into_owned()
}

/// Which far end's description this is, whatever we wrote into it.
fn made_by(message: &Message) -> Option<u16> {
    text(message).lines().find_map(|l| l.strip_prefix("a=ptime:")?.parse().ok())
}

/// Session id and version of the `o=` line.
fn origin(message: &Message) -> (u64, u64) {
    let body = text(message);
    let mut fields = body.lines().find_map(|l| l.strip_prefix("o=")).expect("an o= line").split(' ').skip(1);
    let mut number = || fields.next().and_then(|n| n.parse().ok()).expect("a number");
    (number(), number())
}

fn anchored(message: &Message, host: &str) -> bool {
    text(message).contains(&format!("c=IN IP4 {host}\r\n")) && !text(message).contains("198.18.20.9")
}

struct Scene {
    w: World,
    caller: Far,
    psap: Far,
    /// The INVITE as it reached the called side, and from where.
    invite: Option<(Message, SocketAddr)>,
    cseq: u32,
}

impl Scene {
    fn new(number: &str) -> Scene {
        Scene::with(number, |_| ())
    }

    fn with(number: &str, change: impl FnOnce(&mut sbc_core::policy::ClusterConfig)) -> Scene {
        let mut config = config(MisroutePolicy::Relay, false);
        config.trunks[1].targets[0].host.host = "198.18.20.9".into();
        config.emergency_numbers = vec![number.into()];
        if number != "112" {
            config.routes.push(sbc_core::policy::Route {
                name: "others".into(),
                matches: vec![sbc_core::policy::RouteMatch::User("112".into())],
                trunks: vec!["psap".into()],
            });
        }
        change(&mut config);
        let mut w = World::with_config(3, 3, Vec::new(), Net::calm(), |_| config);
        w.sent = Some(Vec::new());
        w.trace = std::env::var_os("SIM_TRACE").is_some();
        w.run_until(100);
        Scene { w, caller: Far::at("198.18.10.9:5060"), psap: Far::at("198.18.20.9:5060"), invite: None, cseq: 1 }
    }

    /// The caller's INVITE, as the called side has it.
    fn calls(fields: &[(&str, &str)], offer: Option<u16>) -> Scene {
        Scene::new("112").dials(fields, offer)
    }

    fn dials(self, fields: &[(&str, &str)], offer: Option<u16>) -> Scene {
        self.dials_as(fields, offer.map(sdp))
    }

    fn dials_with(self, offer: Bytes) -> Scene {
        self.dials_as(&[], Some(offer))
    }

    fn dials_as(mut self, fields: &[(&str, &str)], offer: Option<Bytes>) -> Scene {
        let mut draft = self.caller.initial(&Method::Invite, URI, "x", 1);
        if let Some(offer) = offer {
            draft.set_body(Some("application/sdp"), offer);
        }
        let anycast = self.w.anycast;
        self.caller.put(&mut self.w, &mut draft, anycast, fields);
        wait(&mut self.w, 50);
        self.invite = Some(self.psap.request(&self.w, &Method::Invite));
        self.caller.inbox(&self.w);
        self
    }

    /// The called side responds to the INVITE; what the caller got of it.
    fn says(&mut self, status: u16, tag: &str, fields: &[(&str, &str)], body: Option<u16>) -> Vec<Message> {
        let (invite, from) = self.invite.clone().expect("it was called");
        let mut draft = invite.response(status, None);
        draft.set(HeaderId::To, format!("{};tag={tag}", invite.to()));
        draft.push(HeaderId::Contact, format!("<sip:{tag}@198.18.20.9:5060>"));
        if let Some(port) = body {
            draft.set_body(Some("application/sdp"), sdp(port));
        }
        self.psap.put(&mut self.w, &mut draft, from, fields);
        wait(&mut self.w, 20);
        self.caller.inbox(&self.w).into_iter().map(|(m, _)| m).collect()
    }

    /// The same, where the caller gets exactly one.
    #[track_caller]
    fn says_one(&mut self, status: u16, tag: &str, fields: &[(&str, &str)], body: Option<u16>) -> Message {
        let mut got = self.says(status, tag, fields, body);
        assert_eq!(got.iter().map(Message::status).collect::<Vec<_>>(), [Some(status)]);
        got.remove(0)
    }

    /// A request of the caller in the dialog of a response; what the called side got of it.
    fn asks(&mut self, method: &Method, of: &Message, fields: &[(&str, &str)], body: Option<u16>) -> Vec<(Message, SocketAddr)> {
        let to = self.caller.within(method, of, 1).1;
        self.asks_at(to, method, of, fields, body)
    }

    fn asks_at(
        &mut self,
        to: SocketAddr,
        method: &Method,
        of: &Message,
        fields: &[(&str, &str)],
        body: Option<u16>,
    ) -> Vec<(Message, SocketAddr)> {
        self.asks_so(to, method, of, fields, body.map(|port| ("application/sdp", sdp(port))))
    }

    fn asks_so(
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
        wait(&mut self.w, 20);
        self.psap.inbox(&self.w)
    }

    /// The caller's PRACK for a reliable response.
    fn pracks(&mut self, of: &Message, body: Option<u16>) -> Vec<(Message, SocketAddr)> {
        let rack = format!("{} 1 INVITE", of.first(HeaderId::RSeq).expect("a reliable one"));
        self.asks(&Method::Prack, of, &[("RAck", &rack)], body)
    }

    /// A request of the called side in its dialog with that tag; what the caller got of it.
    fn called_asks(&mut self, method: &Method, tag: &str, body: Option<u16>) -> Vec<(Message, SocketAddr)> {
        self.called_asks_so(method, tag, body.map(sdp))
    }

    fn called_asks_so(&mut self, method: &Method, tag: &str, body: Option<Bytes>) -> Vec<(Message, SocketAddr)> {
        let (invite, from) = self.invite.clone().expect("it was called");
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
        wait(&mut self.w, 20);
        self.caller.inbox(&self.w)
    }

    /// The called side answers a request; what the caller got.
    fn called_answers(&mut self, request: &(Message, SocketAddr), status: u16, body: Option<u16>) -> Vec<Message> {
        let mut draft = request.0.response(status, None);
        if let Some(port) = body {
            draft.set_body(Some("application/sdp"), sdp(port));
        }
        self.psap.put(&mut self.w, &mut draft, request.1, &[]);
        wait(&mut self.w, 20);
        self.caller.inbox(&self.w).into_iter().map(|(m, _)| m).collect()
    }

    /// The caller answers a request; what the called side got.
    fn caller_answers(&mut self, request: &(Message, SocketAddr), status: u16, body: Option<u16>) -> Vec<Message> {
        let mut draft = request.0.response(status, None);
        if let Some(port) = body {
            draft.set_body(Some("application/sdp"), sdp(port));
        }
        self.caller.put(&mut self.w, &mut draft, request.1, &[]);
        wait(&mut self.w, 20);
        self.psap.inbox(&self.w).into_iter().map(|(m, _)| m).collect()
    }

    /// A request of the caller with this description; what the called side got of it.
    fn offers(&mut self, method: &Method, of: &Message, body: &[u8]) -> Vec<(Message, SocketAddr)> {
        let to = self.caller.within(method, of, 1).1;
        self.asks_so(to, method, of, &[], Some(("application/sdp", Bytes::copy_from_slice(body))))
    }

    /// The called side answers a request with this description; what the caller got.
    fn called_says(
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
        wait(&mut self.w, 20);
        self.caller_got()
    }

    /// Where media go now, as the node told its engine: by m-line and side, the port; 0: nowhere.
    fn media(&self) -> BTreeMap<(u8, Side), u16> {
        self.w.streams.iter().map(|(line, side, remote)| ((*line, *side), remote.map_or(0, |r| r.rtp.port()))).collect()
    }

    /// An answered call, its 2xx.
    fn answered(fields: &[(&str, &str)], psap: &[(&str, &str)]) -> (Scene, Message) {
        let mut s = Scene::calls(fields, Some(7));
        let ok = s.says_one(200, "a", psap, Some(10));
        s.acks(&ok, None);
        s.psap_got();
        (s, ok)
    }

    /// The caller's ACK for a 2xx; what the called side got.
    fn acks(&mut self, ok: &Message, body: Option<u16>) -> Vec<Message> {
        let (mut draft, to) = self.caller.within(&Method::Ack, ok, ok.cseq());
        if let Some(port) = body {
            draft.set_body(Some("application/sdp"), sdp(port));
        }
        self.caller.put(&mut self.w, &mut draft, to, &[]);
        wait(&mut self.w, 20);
        self.psap.inbox(&self.w).into_iter().map(|(m, _)| m).collect()
    }

    /// CANCEL for the INVITE.
    fn cancels(&mut self) {
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
        wait(&mut self.w, 20);
    }

    fn psap_got(&mut self) -> Vec<(Message, SocketAddr)> {
        self.psap.inbox(&self.w)
    }

    fn caller_got(&mut self) -> Vec<Message> {
        self.caller.inbox(&self.w).into_iter().map(|(m, _)| m).collect()
    }

    #[track_caller]
    fn calm(&self) {
        assert!(self.w.violations.is_empty(), "{:#?}", self.w.violations);
    }
}

fn methods(got: &[(Message, SocketAddr)]) -> Vec<&str> {
    got.iter().map(|(m, _)| m.method().as_str()).collect()
}

fn statuses(got: &[Message]) -> Vec<u16> {
    got.iter().filter_map(Message::status).collect()
}

fn uri_of(request: &(Message, SocketAddr)) -> &str {
    request.0.request_uri().unwrap_or_default()
}
