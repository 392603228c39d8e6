//! OPTIONS to the node itself: is it there, what may be used through it, and, for a member, what does it have.

use super::calls::Calls;
use super::gate::{KNOWN_EXTENSIONS, RateLimits};
use super::memory::Recent;
use crate::call::{ALLOW, CLAIM_FIELD, Context, InquiryAnswer, fill_via, finish_response};
use crate::ids::PacketKey;
use crate::io::{ClaimStage, Counter, ReturnPath};
use crate::local::{AGENT, bracketed};
use crate::neighbours;
use crate::sip::{HeaderId, Message};

/// The header fields that tell the asking member how this node is, and what it has of the call that is named.
fn told_to_member(cx: &Context, calls: &Calls, tombstones: &Recent<PacketKey>, request: &Message) -> Vec<(&'static str, String)> {
    let call = Context::asked_about(request).map(|(key, packet_key)| {
        let told = match calls.what_it_has(cx, &key) {
            Some((_, stage)) if calls.has_another_way(cx, &key, &packet_key) => InquiryAnswer::HasByAnotherWay(stage),
            Some((_, stage)) => InquiryAnswer::Has(stage),
            None if tombstones.contains(cx.now.mono, &packet_key) => InquiryAnswer::Cancelled,
            // A copy of what has failed rings nobody either.
            None if calls.has_failed_here(cx, &key, &packet_key) => InquiryAnswer::Has(ClaimStage::Answered),
            None => InquiryAnswer::Nothing,
        };
        (CLAIM_FIELD, cx.seal_told(request, told))
    });
    [neighbours::own_state(cx, request)].into_iter().chain(call).collect()
}

/// OPTIONS to the node itself (RFC 3261 §11.2, AC-40).
pub(super) fn answer_options(
    cx: &mut Context,
    limits: &mut RateLimits,
    calls: &Calls,
    tombstones: &Recent<PacketKey>,
    back: ReturnPath,
    request: &Message,
) {
    let of_member = neighbours::is_a_members(cx, &back, request);
    if !of_member && !limits.may_answer(cx, &back) {
        return;
    }
    let told = if of_member { told_to_member(cx, calls, tombstones, request) } else { Vec::new() };
    if cx.view.draining {
        cx.reject_with(back, request, 503, &told);
        return;
    }
    let mut draft = request.response(200, None);
    let tag = cx.stateless_tag(request);
    finish_response(&mut draft, request, 200, &tag, AGENT);
    draft.push(HeaderId::Allow, ALLOW);
    draft.push(HeaderId::Accept, "application/sdp");
    draft.push_named("Accept-Encoding", "identity");
    draft.push(HeaderId::Supported, KNOWN_EXTENSIONS.join(", "));
    let ip = cx.local.own_address(back.path.role.realm(), back.path.remote.ip());
    let port = cx.local.port_of(back.path.transport);
    let parameter = back.path.transport.contact_parameter();
    draft.push(HeaderId::Contact, format!("<sip:{}:{port}{parameter}>", bracketed(ip)));
    for (name, value) in told {
        draft.push_named(name, value);
    }
    fill_via(&mut draft, &back);
    if let Some(payload) = cx.encode(&draft) {
        cx.count(Counter::ResponseSent(2));
        cx.send(back, None, payload);
    }
}
