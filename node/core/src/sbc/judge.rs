//! What would happen to an INVITE, told without doing it, for `sbcctl route explain`: the predicates of `receive.rs` and `initial.rs` in
//! their order (sim `explained.rs` compares the two). Trunks and routes are `routing::explain`'s part.
//!
//! Left out is what is of the moment, or would change something by being asked: limits, load, challenges, and claims and CANCELs that
//! the request may be a copy of or belong to.

use std::net::IpAddr;

use bytes::Bytes;

use super::Sbc;
use super::initial::hops_status;
use crate::call::{Unusable, asks_too_little, unusable};
use crate::io::{Realm, Verdict};
use crate::policy::{AclAction, Blocked, acl_of};
use crate::sip::Message;

type Refused = Option<(u16, Box<str>)>;

impl Sbc {
    /// Judges an INVITE that begins a call, of this source.
    pub(super) fn judge(&self, realm: Realm, source: Option<IpAddr>, message: Bytes) -> Verdict {
        let invite = match Message::parse(message) {
            Ok(invite) => invite,
            Err(error) => return Verdict { before: refused(400, &error.to_string()), ..Verdict::default() },
        };
        let before = self.refused_for_source(realm, source, &invite).or_else(|| self.refused_at_first_sight(&invite));
        let (after, replaces) = self.refused_for_content(&invite);
        Verdict { before, after, replaces }
    }

    fn refused_for_source(&self, realm: Realm, source: Option<IpAddr>, invite: &Message) -> Refused {
        let source = source?;
        let acl = acl_of(&self.cx.config.acl, realm, source).map(|(_, action)| action);
        let blocked = self.blocks.of(source, self.cx.now.unix.0);
        match (acl, blocked) {
            (Some(AclAction::Deny), _) => refused(0, "the access list denies its source: dropped without an answer"),
            (_, Some(Blocked::Everything)) => refused(0, "its source is blocked, with everything: dropped without an answer"),
            (Some(AclAction::Reject), _) => refused(403, "the access list rejects its source"),
            (_, Some(_)) if !self.is_emergency(invite) => refused(0, "its source is blocked: dropped without an answer"),
            _ => None,
        }
    }

    fn refused_at_first_sight(&self, invite: &Message) -> Refused {
        if self.is_scanner(invite) {
            return refused(0, "its User-Agent is a scanner's: dropped without an answer");
        }
        let unknown = self.refused_extensions(invite);
        if !unknown.is_empty() {
            return refused(420, &format!("its Proxy-Require asks for {}", unknown.join(", ")));
        }
        let status = hops_status(invite).or_else(|| self.loop_status(invite))?;
        refused(
            status,
            match status {
                483 => "its Max-Forwards is used up",
                482 => "it is a loop: this cluster has sent it, for the same destination",
                440 => "its Max-Breadth is used up",
                _ => "its Max-Forwards is no number",
            },
        )
    }

    /// Or the trunk of the far end that it goes to instead. An emergency call is refused for none of this.
    fn refused_for_content(&self, invite: &Message) -> (Refused, Option<Box<str>>) {
        let replaced = self.replaced(invite);
        let replaces = replaced.as_ref().ok().and_then(Option::as_ref).map(|other| other.trunk.clone());
        if self.is_emergency(invite) {
            return (None, replaces);
        }
        let why = if !self.routes_are_ours(invite) {
            refused(403, "a Route of it leads elsewhere")
        } else if asks_too_little(invite) {
            refused(422, "its Session-Expires is too short")
        } else if let Some(fault) = unusable(invite) {
            let why = match &fault {
                Unusable::Encoded => "its session description is encoded".to_owned(),
                Unusable::Sdp(error) => format!("its session description cannot be read: {error}"),
                Unusable::Hidden => "its session description cannot be found in its body".to_owned(),
            };
            refused(fault.status(), &why)
        } else if let Err(status) = replaced {
            refused(status, "its Replaces names no dialog that can be replaced")
        } else {
            None
        };
        (why, replaces)
    }
}

fn refused(status: u16, why: &str) -> Refused {
    Some((status, why.into()))
}
