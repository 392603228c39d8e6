//! What a call is: known when it begins, and the same until its end but for the epoch, which a takeover raises.

use bytes::Bytes;

use super::claim::INVITE_LIFE;
use super::context::Context;
use super::transfer::Replaced;
use crate::ids::{CallUid, Epoch, LocalId, PacketKey};
use crate::routing;
use crate::sip::Message;
use crate::store_pb::EmergencyInfo;
use crate::time::Instant;
use crate::token::ClaimKey;

/// What each part of a call may know of it.
pub struct About {
    /// Its place in this node's tables.
    pub id: LocalId,
    /// Its id in the cluster: who began it.
    pub uid: CallUid,
    /// How often it has changed owners.
    pub epoch: Epoch,
    /// Call-ID, From-tag and CSeq of its first INVITE, hashed.
    pub claim_key: ClaimKey,
    /// The same with its top Via.
    pub packet_key: PacketKey,
    /// Decided once, at the first INVITE.
    pub emergency: bool,
    /// Service and ids of an emergency call.
    pub emergency_info: Option<EmergencyInfo>,
    /// The caller's first INVITE.
    pub invite: Message,
    /// When a kernel had it, here or at its ingress.
    pub arrived: Instant,
    /// The dialog that this call replaces at its called side.
    pub(super) replaced: Option<Box<Replaced>>,
}

impl About {
    /// What this call is counted under.
    pub fn class(&self) -> &'static str {
        routing::class_label(self.service())
    }

    /// The emergency service that it calls, without `urn:service:`.
    pub(super) fn service(&self) -> Option<&str> {
        self.emergency_info.as_ref().map(|info| info.service.as_str())
    }

    /// Its id, as records have it.
    pub(super) fn record_id(&self) -> Bytes {
        self.uid.to_bytes().to_vec().into()
    }

    /// The transaction of its INVITE is over by its age.
    pub fn is_old(&self, cx: &Context) -> bool {
        cx.now.mono.since(self.arrived) >= INVITE_LIFE
    }
}
