//! What would happen to an INVITE, told without doing it, for `sbcctl route explain`: the gate's own checks in their order, without what follows
//! from them (sim `explained.rs` compares the two). Trunks and routes are `routing::explain`'s part.
//!
//! Left out is what is of the moment: limits, load, challenges, and claims and CANCELs that the request may be a copy of or belong to.

use bytes::Bytes;

use super::Sbc;
use super::gate::{self, Entrance, Why, drops};
use crate::io::{Explanation, RouteOrigin};
use crate::sip::Message;

impl Sbc {
    /// What the gate says of an INVITE that begins a call, from there.
    pub(super) fn explain(&self, origin: &RouteOrigin, message: Bytes) -> Explanation {
        let refused = |status: u16, why: String| Explanation { refused: Some((status, why.into())), replaces: None };
        let origin = match origin {
            // As if it had proved who it is.
            RouteOrigin::Address(realm, ip) => gate::Arrival::Address { realm: *realm, ip: *ip, relayed: false, proved: None },
            RouteOrigin::Trunk(name) => gate::Arrival::Trunk(name),
        };
        if let gate::Arrival::Address { realm, ip, .. } = origin
            && let Some(why) = drops(&self.cx, &self.gate, realm, ip)
        {
            return refused(0, why.to_string());
        }
        let invite = match Message::parse(message) {
            Ok(invite) => invite,
            Err(error) => return refused(400, error.to_string()),
        };
        let (refusal, replaces) = Entrance::new(self.sights(), origin, &invite).explain();
        let said = |why: &Why| why.to_string().into();
        Explanation { refused: refusal.map(|refusal| (refusal.status, said(&refusal.why))), replaces }
    }
}
