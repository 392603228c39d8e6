//! What a far end reads out of the messages that it got.

use std::net::SocketAddr;

use bytes::Bytes;
use sbc_core::ids::FlowId;
use sbc_core::sip::{Message, is_keepalive};

use super::{Far, Request};
use crate::world::{Sent, World};

/// A description by which one knows again who made it, and its m-line.
pub(crate) fn sdp_of(port: u16) -> Bytes {
    Bytes::from(format!(
        "v=0\r\no=far {port} 1 IN IP4 198.18.20.9\r\ns=-\r\nc=IN IP4 198.18.20.9\r\nt=0 0\r\nm=audio {port} RTP/AVP 8\r\na=ptime:{port}\r\n"
    ))
}

pub(crate) fn text(message: &Message) -> String {
    String::from_utf8_lossy(&message.body()).into_owned()
}

/// Which far end's description this is, whatever we wrote into it.
pub(crate) fn made_by(message: &Message) -> Option<u16> {
    text(message).lines().find_map(|l| l.strip_prefix("a=ptime:")?.parse().ok())
}

/// Session id and version of the `o=` line.
pub(crate) fn origin(message: &Message) -> (u64, u64) {
    let body = text(message);
    let mut fields = body.lines().find_map(|l| l.strip_prefix("o=")).expect("an o= line").split(' ').skip(1);
    let mut number = || fields.next().and_then(|n| n.parse().ok()).expect("a number");
    (number(), number())
}

pub(crate) fn anchored(message: &Message, host: &str) -> bool {
    text(message).contains(&format!("c=IN IP4 {host}\r\n")) && !text(message).contains("198.18.20.9")
}

pub(crate) fn methods(got: &[Request]) -> Vec<&str> {
    got.iter().map(|(m, _)| m.method().as_str()).collect()
}

pub(crate) fn statuses(got: &[Message]) -> Vec<u16> {
    got.iter().filter_map(Message::status).collect()
}

pub(crate) fn uri_of(request: &Request) -> &str {
    request.0.request_uri().unwrap_or_default()
}

/// Methods of the requests that came, retransmissions once.
pub(crate) fn requests(far: &mut Far, w: &World) -> Vec<String> {
    let mut got: Vec<String> =
        far.inbox(w).iter().filter(|(m, _)| m.is_request()).map(|(m, _)| m.method().as_str().to_owned()).collect();
    got.dedup();
    got
}

/// What nodes sent to one address, parsed.
pub(crate) fn sent_to(sent: &[Sent], to: SocketAddr) -> Vec<(Message, Sent)> {
    let of = sent.iter().filter(|s| s.node.is_some() && s.to == to && !is_keepalive(&s.bytes));
    of.map(|s| (Message::parse(s.bytes.clone()).expect("well formed"), s.clone())).collect()
}

/// The connection by which it was sent, where it was one that the far end had opened.
pub(crate) fn flow_of(sent: &Sent) -> Option<u64> {
    sent.stream.as_ref().and_then(|s| s.1).map(|FlowId(flow)| flow)
}
