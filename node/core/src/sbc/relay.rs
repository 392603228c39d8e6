//! What is another node's: handed on to it as it came, or its far end told where it lives (rule D, AC-15).

use super::memory::Recent;
use crate::call::{Context, finish_response};
use crate::ids::{CallUid, NodeId};
use crate::io::{Counter, Envelope, MisrouteAction, Output, Path, PeerMessage, ReturnPath, Side, Transport};
use crate::local::AGENT;
use crate::policy::{MisroutePolicy, Trunk};
use crate::sip::{HeaderId, Message, Method, Scheme, Uri};
use crate::time::Instant;

/// Hands a packet to its owner as it came, unless it came from a peer already (rule D).
pub(super) fn relay(cx: &mut Context, to: NodeId, path: Path, ingress: Option<NodeId>, message: &Message) {
    let label = message.method().label();
    if ingress.is_some() {
        cx.count(Counter::Misrouted(label, MisrouteAction::Hop));
        return;
    }
    if !cx.reachable_peer(to) {
        cx.count(Counter::Misrouted(label, MisrouteAction::Unreachable));
        return;
    }
    cx.count(Counter::Misrouted(label, MisrouteAction::Relay));
    let age = cx.now.mono.since(cx.arrived);
    let envelope = Envelope { ingress: cx.local.node, path, payload: message.raw().clone(), age };
    cx.output(Output::Peer { to, message: PeerMessage::Relay(envelope) });
}

/// Requests that were redirected once.
#[derive(Debug, Default)]
pub(super) struct RedirectedOnce {
    recent: Recent<[u8; 16]>,
}

impl RedirectedOnce {
    /// 302 to the owner, where the trunk wants that and the request was not redirected before (AC-15). False: relay it.
    pub(super) fn redirect(
        &mut self,
        cx: &mut Context,
        trunk: Option<&Trunk>,
        to: NodeId,
        (uid, side): (CallUid, Side),
        back: ReturnPath,
        message: &Message,
    ) -> bool {
        let redirectable = matches!(message.method(), Method::Bye | Method::Invite | Method::Update | Method::Info);
        let (path, realm) = (&back.path, back.path.role.realm());
        let wanted = trunk.is_some_and(|t| t.misroute == MisroutePolicy::Redirect);
        if !redirectable || !wanted || back.ingress.is_some() {
            return false;
        }
        let id = cx.key.claim_key(message.call_id(), message.method().as_str(), message.cseq()).0;
        let Some(node) = cx.view.node(to).cloned() else { return false };
        if !self.recent.note(cx.now.mono, id) {
            return false;
        }
        let kind = match side {
            Side::Caller => crate::token::TokenKind::CallerLeg,
            Side::Callee => crate::token::TokenKind::CalleeLeg,
        };
        let token = cx.key.seal(crate::token::OwnerToken { kind, uid });
        let ip = if realm == crate::io::Realm::Core { node.core } else { node.unicast }.like(path.remote.ip());
        let port = cx.local.port_of(path.transport);
        // What was asked as sips stays so (RFC 3261 §12.1.1).
        let secure = message.request_uri().and_then(|uri| Uri::parse(uri).ok()).is_some_and(|uri| uri.scheme() == Scheme::Sips);
        let secure = secure && path.transport == Transport::Tls;
        let (scheme, parameter) = if secure { ("sips", "") } else { ("sip", path.transport.contact_parameter()) };
        let mut draft = message.response(302, None);
        finish_response(&mut draft, message, 302, "", AGENT);
        draft.push(HeaderId::Contact, format!("<{scheme}:{token}@{}:{port}{parameter}>", crate::local::bracketed(ip)));
        crate::call::fill_via(&mut draft, &back);
        cx.count(Counter::Misrouted(message.method().label(), MisrouteAction::Redirect));
        if let Some(payload) = cx.encode(&draft) {
            cx.send(back, None, payload);
        }
        true
    }

    /// Forgets what nobody repeats any more.
    pub(super) fn sweep(&mut self, now: Instant) {
        self.recent.sweep(now);
    }
}
