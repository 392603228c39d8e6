//! Dialogs (RFC 3261 §12): the state of one leg, and the requests that it implies.

mod pair;
mod strip;

pub use pair::{DialogRef, Half, Pair, PairId};
pub use strip::{fit_to_send, without_tag};

use std::net::IpAddr;

use crate::sip::{Draft, HeaderId, Message, Method, NameAddr, Scheme, Uri};

/// Headers of more hops than this are refused when a dialog is made: no real path has as many, and each is kept.
pub const MAX_ROUTES: usize = 20;

/// One dialog, early or confirmed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dialog {
    /// Call-ID.
    pub call_id: Box<str>,
    /// Our tag.
    pub local_tag: Box<str>,
    /// The far end's tag; `None` until its first response with one.
    pub remote_tag: Option<Box<str>>,
    /// Our From or To value without tag.
    pub local_uri: Box<str>,
    /// The far end's From or To value without tag.
    pub remote_uri: Box<str>,
    /// The URI of the far end's Contact.
    pub remote_target: Box<str>,
    /// It gave none: the URI is that of its From, which says who it is and not where.
    pub guessed: bool,
    /// Route header field values in the order in which they go into a request.
    pub route_set: Vec<Box<str>>,
    /// CSeq number of our latest request.
    pub local_cseq: u32,
    /// CSeq number of the far end's latest request.
    pub remote_cseq: Option<u32>,
}

/// Why a request does not fit into a dialog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CseqError {
    /// Lower than one seen before (RFC 3261 §12.2.2: 500).
    OutOfOrder,
}

impl Dialog {
    /// The dialog that a caller's INVITE begins at us (RFC 3261 §12.1.1).
    pub fn from_request(invite: &Message, local_tag: &str) -> Dialog {
        let contact = contact_uri(invite);
        Dialog {
            call_id: invite.call_id().into(),
            local_tag: local_tag.into(),
            remote_tag: invite.from_tag().map(Into::into),
            local_uri: without_tag(invite.to()).into(),
            remote_uri: without_tag(invite.from()).into(),
            // A broken phone without Contact is still reachable: where it was seen, under its From URI.
            guessed: contact.is_none(),
            remote_target: contact.unwrap_or_else(|| uri_of(invite.from()).into()),
            route_set: invite.values(HeaderId::RecordRoute).take(MAX_ROUTES).map(Into::into).collect(),
            local_cseq: 0,
            remote_cseq: Some(invite.cseq()),
        }
    }

    /// True when a request has this Call-ID and our tag, and comes from who has the tag `remote` (RFC 3261 §12.2.2). A far end of RFC 2543 has
    /// none.
    pub fn fits(&self, request: &Message, remote: Option<&str>) -> bool {
        let from_it = match (request.from_tag(), remote) {
            (Some(tag), Some(remote)) => tag.eq_ignore_ascii_case(remote),
            (tag, remote) => tag.is_none() && remote.is_none(),
        };
        *self.call_id == *request.call_id()
            && from_it
            && request.to_tag().is_some_and(|tag| tag.eq_ignore_ascii_case(&self.local_tag))
    }

    /// Takes tag, target and route set from a response that makes or confirms the dialog (RFC 3261 §12.1.2).
    pub fn on_dialog_response(&mut self, response: &Message) {
        if let Some(tag) = response.to_tag()
            && self.remote_tag.as_deref() != Some(tag)
        {
            self.remote_tag = Some(tag.into());
        }
        self.on_target_refresh(response);
        let mut routes: Vec<Box<str>> = response.values(HeaderId::RecordRoute).take(MAX_ROUTES).map(Into::into).collect();
        routes.reverse();
        self.route_set = routes;
    }

    /// Takes a new remote target (RFC 3261 §12.2).
    pub fn on_target_refresh(&mut self, message: &Message) {
        if let Some(uri) = contact_uri(message) {
            (self.remote_target, self.guessed) = (uri, false);
        }
    }

    /// Checks and notes the CSeq number of a request of the far end other than ACK and CANCEL.
    pub fn on_request(&mut self, cseq: u32) -> Result<(), CseqError> {
        if self.remote_cseq.is_some_and(|last| cseq < last) {
            return Err(CseqError::OutOfOrder);
        }
        self.remote_cseq = Some(cseq);
        Ok(())
    }

    /// A request within the dialog (RFC 3261 §12.2.1.1), without Via and Contact. Takes the next CSeq number.
    pub fn request(&mut self, method: &Method) -> Draft {
        self.local_cseq += 1;
        self.draft(method, self.local_cseq)
    }

    /// An ACK for a 2xx to the INVITE with this CSeq number (RFC 3261 §13.2.2.4).
    pub fn ack(&self, cseq: u32) -> Draft {
        self.draft(&Method::Ack, cseq)
    }

    fn draft(&self, method: &Method, cseq: u32) -> Draft {
        let strict = self.route_set.first().filter(|r| !is_loose(r));
        let target: &str = if self.remote_target.is_empty() { "sip:invalid.invalid" } else { &self.remote_target };
        let mut draft = match strict {
            // RFC 3261 §12.2.1.1: a strict router gets itself as Request-URI and the target as the last Route.
            Some(first) => Draft::request(method, &uri_of(first)),
            None => Draft::request(method, target),
        };
        let skip = usize::from(strict.is_some());
        for route in &self.route_set[skip..] {
            draft.push(HeaderId::Route, &**route);
        }
        if strict.is_some() {
            draft.push(HeaderId::Route, format!("<{target}>"));
        }
        draft.push(HeaderId::MaxForwards, "70");
        draft.push(HeaderId::From, format!("{};tag={}", self.local_uri, self.local_tag));
        match &self.remote_tag {
            Some(tag) => draft.push(HeaderId::To, format!("{};tag={tag}", self.remote_uri)),
            None => draft.push(HeaderId::To, &*self.remote_uri),
        };
        draft.push(HeaderId::CallId, &*self.call_id);
        draft.push(HeaderId::CSeq, format!("{cseq} {}", method.as_str()));
        draft
    }

    /// The URI that decides where a request goes: the first route, else the target.
    pub fn next_hop(&self) -> String {
        match self.route_set.first() {
            Some(route) => uri_of(route),
            None => self.remote_target.to_string(),
        }
    }
}

/// The addresses that a far end has named for requests to it, without asking the DNS: of its Contact, and of the proxy next to us.
pub fn named_addresses(remote_target: &str, first_route: Option<&str>) -> Vec<IpAddr> {
    let ip = |uri: &str| Uri::parse(uri).ok().and_then(|uri| uri.host_ip());
    [ip(remote_target), first_route.and_then(|route| ip(&uri_of(route)))].into_iter().flatten().collect()
}

/// The URI of the first Contact, where there is one.
pub fn contact_uri(message: &Message) -> Option<Box<str>> {
    let known = |uri: &Uri| matches!(uri.scheme(), Scheme::Sip | Scheme::Sips | Scheme::Tel);
    let uris = message.values(HeaderId::Contact).filter_map(|value| NameAddr::parse(value).ok().map(|n| n.uri));
    uris.filter(known).map(|uri| without_headers(&uri).into()).next()
}

/// RFC 3261 §19.1.1: headers have no place in a Request-URI.
pub fn without_headers(uri: &Uri) -> &str {
    let text = uri.as_str();
    uri.headers().map_or(text, |headers| &text[..text.len() - headers.len() - 1])
}

/// The URI of a Route, From or To value; empty where there is none that can be read.
pub fn uri_of(route: &str) -> String {
    NameAddr::parse(route).map(|n| n.uri.as_str().to_owned()).unwrap_or_default()
}

fn is_loose(route: &str) -> bool {
    // An unreadable route is taken as loose: the request then goes to the target, as with no route.
    Uri::parse(&uri_of(route)).map_or(true, |u| u.param("lr").is_some())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn invite() -> Message {
        Message::parse(Bytes::from_static(
            b"INVITE sip:112@h SIP/2.0\r\nVia: SIP/2.0/UDP c;branch=z9hG4bK1\r\nRecord-Route: <sip:p1;lr>, <sip:p2;lr>\r\n\
              From: \"A\" <sip:a@c>;tag=ft\r\nTo: <sip:112@h>\r\nCall-ID: x@c\r\nCSeq: 7 INVITE\r\nContact: <sip:a@c:5070>\r\n\
              Max-Forwards: 70\r\nContent-Length: 0\r\n\r\n",
        ))
        .expect("valid")
    }

    fn text(d: &Draft) -> String {
        String::from_utf8(d.encode().unwrap().to_vec()).unwrap()
    }

    #[test]
    fn request_of_a_uas_dialog() {
        let mut d = Dialog::from_request(&invite(), "lt");
        let t = text(&d.request(&Method::Bye));
        assert!(t.starts_with("BYE sip:a@c:5070 SIP/2.0\r\n"), "{t}");
        assert!(t.contains("From: <sip:112@h>;tag=lt\r\n"), "{t}");
        assert!(t.contains("To: \"A\" <sip:a@c>;tag=ft\r\n"), "{t}");
        assert!(t.contains("CSeq: 1 BYE\r\n"), "{t}");
        let (p1, p2) = (t.find("<sip:p1;lr>").unwrap(), t.find("<sip:p2;lr>").unwrap());
        assert!(p1 < p2, "RFC 3261 12.1.1: a UAS keeps the order");
        assert_eq!(d.next_hop(), "sip:p1;lr");
    }

    #[test]
    fn strict_router_becomes_the_request_uri() {
        let mut d = Dialog::from_request(&invite(), "lt");
        d.route_set = vec!["<sip:strict>".into(), "<sip:p2;lr>".into()];
        let t = text(&d.request(&Method::Bye));
        assert!(t.starts_with("BYE sip:strict SIP/2.0\r\n"), "{t}");
        assert!(t.find("<sip:p2;lr>").unwrap() < t.find("Route: <sip:a@c:5070>").unwrap(), "{t}");
    }

    #[test]
    fn what_a_far_end_names() {
        let ips = |target, route| named_addresses(target, route).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(ips("sip:a@198.18.0.1:5070", Some("<sip:[2001:db8::1];lr>")), ["198.18.0.1", "2001:db8::1"]);
        assert_eq!(ips("sip:a@host", Some("<sip:p1;lr>")), [""; 0]);
        assert_eq!(ips("", None), [""; 0]);
    }

    #[test]
    fn a_target_is_guessed_until_one_is_named() {
        let text = "INVITE sip:112@h SIP/2.0\r\nVia: SIP/2.0/UDP c;branch=z9hG4bK1\r\nFrom: <sip:a@198.18.0.1>;tag=f\r\nTo: <sip:112@h>\r\n\
                    Call-ID: x\r\nCSeq: 1 INVITE\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n";
        let mut d = Dialog::from_request(&Message::parse(Bytes::from_static(text.as_bytes())).expect("valid"), "lt");
        assert_eq!((&*d.remote_target, d.guessed), ("sip:a@198.18.0.1", true));
        d.on_target_refresh(&invite());
        assert_eq!((&*d.remote_target, d.guessed), ("sip:a@c:5070", false));
    }

    #[test]
    fn cseq_must_not_fall() {
        let mut d = Dialog::from_request(&invite(), "lt");
        assert_eq!(d.on_request(6), Err(CseqError::OutOfOrder));
        assert_eq!(d.on_request(7), Ok(()));
        assert_eq!(d.on_request(100), Ok(()));
        assert_eq!(d.on_request(99), Err(CseqError::OutOfOrder));
    }
}
