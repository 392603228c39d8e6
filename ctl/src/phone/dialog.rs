//! A dialog (RFC 3261 §12).

use std::net::SocketAddr;

use super::endpoint::{CallError, Endpoint, address_of};
use super::message::Message;

/// One end of a dialog.
#[derive(Clone, Debug)]
pub(super) struct Dialog {
    call_id: String,
    /// Our From value, with tag.
    local: String,
    /// The far end's, with tag.
    remote: String,
    local_tag: String,
    remote_tag: String,
    cseq: u32,
    remote_cseq: u32,
    /// Remote target: a URI.
    target: String,
    /// Route set in sending order, as name-addrs.
    routes: Vec<String>,
    contact: String,
}

impl Dialog {
    /// RFC 3261 §12.1.2: of our INVITE and its 2xx.
    pub(super) fn of_caller(invite: &Message, answer: &Message, contact: String) -> Option<Dialog> {
        let mut routes: Vec<String> = answer.all("Record-Route").map(str::to_owned).collect();
        routes.reverse();
        Some(Dialog {
            call_id: invite.call_id().to_owned(),
            local: invite.get("From")?.to_owned(),
            remote: answer.get("To")?.to_owned(),
            local_tag: invite.tag("From")?.to_owned(),
            remote_tag: answer.tag("To")?.to_owned(),
            cseq: invite.cseq()?.0,
            remote_cseq: 0,
            target: answer.contact()?,
            routes,
            contact,
        })
    }

    /// RFC 3261 §12.1.1: of an INVITE that came.
    pub(super) fn of_called(invite: &Message, tag: &str, contact: String) -> Option<Dialog> {
        Some(Dialog {
            call_id: invite.call_id().to_owned(),
            local: format!("{};tag={tag}", invite.get("To")?),
            remote: invite.get("From")?.to_owned(),
            local_tag: tag.to_owned(),
            remote_tag: invite.tag("From")?.to_owned(),
            cseq: 0,
            remote_cseq: invite.cseq()?.0,
            target: invite.contact()?,
            routes: invite.all("Record-Route").map(str::to_owned).collect(),
            contact,
        })
    }

    /// Whether a request from the far end belongs here.
    pub(super) fn matches(&self, request: &Message) -> bool {
        request.call_id() == self.call_id
            && request.tag("To") == Some(&self.local_tag)
            && request.tag("From") == Some(&self.remote_tag)
    }

    /// RFC 3261 §12.2.2: a request out of order is answered 500.
    pub(super) fn accept_cseq(&mut self, request: &Message) -> bool {
        let number = request.cseq().map_or(0, |(n, _)| n);
        let fresh = number > self.remote_cseq;
        self.remote_cseq = self.remote_cseq.max(number);
        fresh
    }

    /// Takes over a new remote target from a target refresh or its 2xx (RFC 3261 §12.2.1.2, §12.2.2).
    pub(super) fn refresh(&mut self, message: &Message) {
        if let Some(contact) = message.contact() {
            self.target = contact;
        }
    }

    /// The next request (RFC 3261 §12.2.1.1).
    pub(super) fn request(&mut self, endpoint: &Endpoint, method: &str) -> Message {
        self.cseq += 1;
        self.numbered(endpoint, method, self.cseq)
    }

    /// The ACK to a 2xx (RFC 3261 §13.2.2.4): the INVITE's number, a branch of its own.
    pub(super) fn ack(&self, endpoint: &Endpoint, invite: &Message) -> Message {
        self.numbered(endpoint, "ACK", invite.cseq().map_or(self.cseq, |(n, _)| n))
    }

    fn numbered(&self, endpoint: &Endpoint, method: &str, number: u32) -> Message {
        let mut request = Message::request(method, &self.target);
        request.add("Via", endpoint.via());
        for route in &self.routes {
            request.add("Route", route.clone());
        }
        request.add("From", self.local.clone());
        request.add("To", self.remote.clone());
        request.add("Call-ID", self.call_id.clone());
        request.add("CSeq", format!("{number} {method}"));
        request.add("Max-Forwards", "70");
        request.add("Contact", self.contact.clone());
        request
    }

    /// Where requests go: the first route, or the remote target.
    pub(super) fn destination(&self) -> Result<SocketAddr, CallError> {
        address_of(self.routes.first().unwrap_or(&self.target))
    }
}
