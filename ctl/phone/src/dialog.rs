//! A dialog (RFC 3261 §12).

use std::net::SocketAddr;

use crate::message::{self, Message};

/// One side of an established dialog, able to make requests inside it.
#[derive(Clone, Debug)]
pub struct Dialog {
    /// From of our requests, with our tag.
    pub local: String,
    /// To of our requests, with the far end's tag.
    pub remote: String,
    /// Call-ID.
    pub call_id: String,
    /// The far end's Contact URI.
    pub target: String,
    /// Route set in the order of sending, as name-addrs.
    pub routes: Vec<String>,
    /// CSeq number of our last request.
    pub cseq: u32,
    /// CSeq number of the far end's last request.
    pub remote_cseq: u32,
    /// Our own address, for Via.
    pub at: SocketAddr,
    /// UDP, TCP or TLS.
    pub transport: String,
    /// Our Contact.
    pub contact: String,
    tags: (String, String),
}

impl Dialog {
    /// The caller's side, from its INVITE and the 2xx or 1xx (RFC 3261 §12.1.2).
    pub fn of_caller(invite: &Message, answer: &Message, at: SocketAddr, transport: &str) -> Dialog {
        let mut routes: Vec<String> = answer.list("Record-Route").map(str::to_owned).collect();
        routes.reverse();
        Dialog {
            local: invite.header("From").to_owned(),
            remote: answer.header("To").to_owned(),
            call_id: invite.header("Call-ID").to_owned(),
            target: answer.uri("Contact").to_owned(),
            routes,
            cseq: invite.cseq().0,
            remote_cseq: 0,
            at,
            transport: transport.to_owned(),
            contact: message::contact("phone", at, Some(transport)),
            tags: (invite.tag("From").to_owned(), answer.tag("To").to_owned()),
        }
    }

    /// The called side, by UDP, from the INVITE and its own 2xx (RFC 3261 §12.1.1).
    pub fn of_callee(invite: &Message, answer: &Message, at: SocketAddr) -> Dialog {
        Dialog {
            local: answer.header("To").to_owned(),
            remote: invite.header("From").to_owned(),
            call_id: invite.header("Call-ID").to_owned(),
            target: invite.uri("Contact").to_owned(),
            routes: invite.list("Record-Route").map(str::to_owned).collect(),
            cseq: 100,
            remote_cseq: invite.cseq().0,
            at,
            transport: "UDP".to_owned(),
            contact: message::contact("phone", at, Some("UDP")),
            tags: (answer.tag("To").to_owned(), invite.tag("From").to_owned()),
        }
    }

    /// The same over another transport.
    #[must_use]
    pub fn over(self, transport: &str) -> Dialog {
        Dialog { transport: transport.to_owned(), contact: message::contact("phone", self.at, Some(transport)), ..self }
    }

    /// With another Contact.
    #[must_use]
    pub fn with_contact(self, contact: &str) -> Dialog {
        Dialog { contact: contact.to_owned(), ..self }
    }

    /// Itself, where both sides have named themselves; `None`: what made it had no tag or no Contact.
    pub fn whole(self) -> Option<Dialog> {
        let whole = !self.tags.0.is_empty() && !self.tags.1.is_empty() && !self.target.is_empty();
        whole.then_some(self)
    }

    /// Whether a request from the far end belongs here.
    pub fn matches(&self, request: &Message) -> bool {
        let (ours, theirs) = &self.tags;
        request.header("Call-ID") == self.call_id && request.tag("To") == ours && request.tag("From") == theirs
    }

    /// RFC 3261 §12.2.2: false for a request out of order, which is answered 500.
    pub fn accept_cseq(&mut self, request: &Message) -> bool {
        let number = request.cseq().0;
        let fresh = number > self.remote_cseq;
        self.remote_cseq = self.remote_cseq.max(number);
        fresh
    }

    /// Takes over a new remote target from a target refresh or its 2xx (RFC 3261 §12.2.1.2, §12.2.2).
    pub fn refresh(&mut self, message: &Message) {
        let target = message.uri("Contact");
        if !target.is_empty() {
            target.clone_into(&mut self.target);
        }
    }

    /// The next request of this side (RFC 3261 §12.2.1.1).
    pub fn request(&mut self, method: &str) -> Message {
        self.cseq += 1;
        self.numbered(method, self.cseq)
    }

    /// The ACK for a 2xx to the INVITE with this CSeq number (RFC 3261 §13.2.2.4).
    pub fn ack(&self, cseq: u32) -> Message {
        self.numbered("ACK", cseq)
    }

    /// Where requests go: the first route, or the remote target; `None` where that is no IP literal.
    pub fn destination(&self) -> Option<SocketAddr> {
        let next = self.routes.first().map_or(self.target.as_str(), |route| message::uri_of(route));
        message::uri_address(next)
    }

    fn numbered(&self, method: &str, cseq: u32) -> Message {
        let mut request = Message::request(method, &self.target)
            .with("Via", &message::via(self.at, &self.transport))
            .with("Max-Forwards", "70");
        for route in &self.routes {
            request.add("Route", route.clone());
        }
        request
            .with("From", &self.local)
            .with("To", &self.remote)
            .with("Call-ID", &self.call_id)
            .with("CSeq", &message::cseq(cseq, method))
            .with("Contact", &self.contact)
    }
}
