//! Responses of our own: by a server transaction, or without one.

use bytes::Bytes;

use super::context::Context;
use crate::io::{Counter, ReturnPath};
use crate::local::AGENT;
use crate::sip::{Draft, HeaderId, Message, Method, Via};
use crate::transaction::{ServerTxId, ServerUser};

impl Context {
    /// Encodes and sends a response of a server transaction.
    pub fn respond(&mut self, tx: ServerTxId, draft: &mut Draft) -> Option<Bytes> {
        let status = draft.status().unwrap_or(500);
        if let Some(back) = self.tx.server_back(tx) {
            fill_via(draft, &back);
        }
        let payload = self.encode(draft)?;
        self.count(Counter::ResponseSent(u8::try_from(status / 100).unwrap_or(0)));
        self.tx.respond(self.now.mono, tx, status, payload.clone());
        Some(payload)
    }

    /// A plain final response: tag, Allow and Retry-After where they belong.
    pub fn reject(&mut self, tx: ServerTxId, request: &Message, status: u16, local_tag: &str) {
        let mut draft = request.response(status, None);
        finish_response(&mut draft, request, status, local_tag, AGENT);
        self.respond(tx, &mut draft);
    }

    /// A response without a transaction (RFC 3261 §8.2.7).
    pub fn reject_stateless(&mut self, back: ReturnPath, request: &Message, status: u16) {
        self.reject_with(back, request, status, &[]);
    }

    /// The same with the header fields that say why, in the place of those of the same name that it would have.
    pub fn reject_with(&mut self, back: ReturnPath, request: &Message, status: u16, fields: &[(&str, String)]) {
        let tag = self.stateless_tag(request);
        let mut draft = request.response(status, None);
        finish_response(&mut draft, request, status, &tag, AGENT);
        for (name, value) in fields {
            draft.remove_named(name);
            draft.push_named(name, value.as_str());
        }
        fill_via(&mut draft, &back);
        if let Some(payload) = self.encode(&draft) {
            self.count(Counter::ResponseSent(u8::try_from(status / 100).unwrap_or(0)));
            self.send(back, None, payload);
        }
    }

    /// 200 to a BYE that crosses ours (RFC 5407 §3.2.1), and to its copies, whatever becomes of ours meanwhile.
    pub fn answer_crossed_bye(&mut self, back: ReturnPath, bye: &Message) {
        match self.create_server(ServerUser::Nobody, super::server_key(bye, &Method::Bye), false, back) {
            Some(tx) => self.reject(tx, bye, 200, ""),
            None => self.reject_stateless(back, bye, 200),
        }
    }

    /// 100, without a transaction (RFC 3261 §8.2.6.1): its sender need not repeat it.
    pub fn answer_trying(&mut self, back: ReturnPath, request: &Message) {
        let mut draft = request.response(100, None);
        fill_via(&mut draft, &back);
        if let Some(payload) = self.encode(&draft) {
            self.count(Counter::ResponseSent(1));
            self.send(back, None, payload);
        }
    }

    /// The same tag for each copy of a request (RFC 3261 §8.2.7).
    pub fn stateless_tag(&self, request: &Message) -> String {
        let key = self.key.claim_key(request.call_id(), request.from_tag().unwrap_or(""), request.cseq());
        self.key.callee_identity(key, 0, u32::from(self.local.node.0)).from_tag
    }
}

/// Fills in where the request came from (RFC 3261 §18.2.1, RFC 3581 §4): `back` leads to its source address.
pub fn fill_via(draft: &mut Draft, back: &ReturnPath) {
    let Some(via) = draft.first(HeaderId::Via).and_then(|v| Via::parse_any_version(v).ok()) else { return };
    let filled = via.with_received(back.path.remote);
    if filled != via.as_str() {
        draft.replace_first(HeaderId::Via, filled);
    }
}

/// What every final response of our own has besides the copied fields.
pub fn finish_response(draft: &mut Draft, request: &Message, status: u16, local_tag: &str, server: &str) {
    if status > 100 && request.to_tag().is_none() {
        draft.set(HeaderId::To, format!("{};tag={local_tag}", request.to()));
    }
    match status {
        // RFC 3261 §21.4.6 for 405; whoever hears 501 wants to know as well.
        405 | 501 => {
            draft.push(HeaderId::Allow, ALLOW);
        }
        503 => {
            // 1-3 s, spread by the request, so that refused ones do not all come back at once (rule G).
            let seconds = 1 + request.cseq() % 3;
            draft.push(HeaderId::RetryAfter, seconds.to_string());
        }
        _ => {}
    }
    draft.push(HeaderId::Server, server);
}

/// Via parameter of our INVITEs that holds the loop cookie (RFC 3261 §16.6 step 8).
pub const LOOP_PARAM: &str = "loop";

/// The methods that we take part in.
pub const ALLOW: &str = "INVITE, ACK, CANCEL, BYE, OPTIONS, INFO, UPDATE, PRACK, MESSAGE, REFER, NOTIFY, SUBSCRIBE, PUBLISH";
/// The same for a trunk whose subscriptions and publications are refused.
pub const ALLOW_NO_EVENTS: &str = "INVITE, ACK, CANCEL, BYE, OPTIONS, INFO, UPDATE, PRACK, MESSAGE, REFER, NOTIFY";

/// True for methods of [`ALLOW`].
pub fn allowed(method: &Method) -> bool {
    !matches!(method, Method::Register | Method::Other(_))
}
