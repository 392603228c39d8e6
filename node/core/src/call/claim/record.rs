//! The claim as the log records it.

use super::super::about::About;
use super::super::context::Context;
use super::super::record::arrival;
use crate::io::ReturnPath;
use crate::policy::IdentityPolicy;
use crate::sip::{HeaderId, Message, NameAddr, readable};
use crate::store_pb;

/// What is proposed of a call whose INVITE has come by `back`, from that trunk.
pub(in crate::call) fn claim_record(cx: &Context, about: &About, trunk: &str, back: &ReturnPath) -> store_pb::Claim {
    let parse = |value: &str| NameAddr::parse(value).ok();
    let invite = &about.invite;
    let (from, to) = (parse(invite.from()), parse(invite.to()));
    store_pb::Claim {
        key: about.claim_key.0.to_vec().into(),
        packet_key: about.packet_key.0.to_vec().into(),
        call: about.record_id(),
        owner: u32::from(about.uid.node.0),
        epoch: about.epoch.0,
        emergency: about.emergency,
        invite: invite.raw().clone(),
        arrival: Some(arrival(&back.path, back.ingress.or(Some(about.uid.node)))),
        trunk: trunk.to_owned(),
        emergency_info: about.emergency_info.clone(),
        beside: Default::default(),
        parties: Some(store_pb::CallParties {
            from_uri: from.as_ref().map(|n| readable(n.uri.as_str()).into_owned()).unwrap_or_default(),
            from_display: from.and_then(|n| n.display).map(|name| readable(&name).into_owned()).unwrap_or_default(),
            to_uri: to.map(|n| readable(n.uri.as_str()).into_owned()).unwrap_or_default(),
            request_uri: invite.request_uri().unwrap_or_default().to_owned(),
            call_id: invite.call_id().to_owned(),
            asserted_identity: readable(asserted_identity(cx, invite, trunk)).into_owned(),
        }),
    }
}

/// What the caller's trunk asserts of the caller; empty: nothing, or it is not believed.
fn asserted_identity<'a>(cx: &Context, invite: &'a Message, trunk: &str) -> &'a str {
    let believed = cx.config.trunk(trunk).is_none_or(|t| t.identity == IdentityPolicy::Trust);
    invite.first(HeaderId::PAssertedIdentity).filter(|_| believed).unwrap_or_default()
}
