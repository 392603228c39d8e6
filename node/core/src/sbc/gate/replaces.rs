//! An INVITE with Replaces (RFC 3891). The dialog that it names is one of ours with the far end that transfers; the new call goes to the
//! far end on the other leg, with the name that this one has for it. Any node can tell from the log; the call itself is not touched:
//! the far end that is called ends it as the RFC demands.

use super::{Entrance, Refusal, Why};
use crate::call::{Context, NextHop, Replaced, hop_to, recorded_path, unwrapped};
use crate::dialog::uri_of;
use crate::io::Side;
use crate::sbc::calls::Calls;
use crate::sip::{HeaderId, Message};
use crate::store_pb::{EmergencyInfo, LegRecord};
use crate::token::TokenKind;

/// A Replaces value (RFC 3891 §6.1).
#[derive(Debug, PartialEq, Eq)]
struct ReplacesValue<'a> {
    call_id: &'a str,
    /// Our tag.
    to_tag: &'a str,
    /// The far end's.
    from_tag: &'a str,
    early_only: bool,
}

impl<'a> ReplacesValue<'a> {
    fn parse(value: &'a str) -> Option<ReplacesValue<'a>> {
        let mut parts = value.split(';').map(str::trim);
        let call_id = parts.next().filter(|id| !id.is_empty())?;
        let (mut to_tag, mut from_tag, mut early_only) = (None, None, false);
        for part in parts {
            let (name, value) = part.split_once('=').map_or((part, ""), |(n, v)| (n.trim(), v.trim()));
            let place = match name {
                n if n.eq_ignore_ascii_case("to-tag") => &mut to_tag,
                n if n.eq_ignore_ascii_case("from-tag") => &mut from_tag,
                n => {
                    early_only |= n.eq_ignore_ascii_case("early-only");
                    continue;
                }
            };
            // RFC 3891 §6.1: exactly one of each.
            if value.is_empty() || place.replace(value).is_some() {
                return None;
            }
        }
        Some(ReplacesValue { call_id, to_tag: to_tag?, from_tag: from_tag?, early_only })
    }

    /// RFC 3891 §3: to-tag is the local tag, from-tag the remote one, and 0 stands for none.
    fn is(&self, leg: &LegRecord) -> bool {
        let remote = self.from_tag.eq_ignore_ascii_case(&leg.remote_tag) || (self.from_tag == "0" && leg.remote_tag.is_empty());
        leg.call_id == self.call_id && leg.local_tag.eq_ignore_ascii_case(self.to_tag) && remote
    }
}

/// The dialog that it names is not one of ours, or cannot be replaced. An emergency call is not refused for a dialog that is not there.
pub(super) fn replaces(at: &Entrance<'_>) -> Option<Refusal> {
    let status = at.replaced().as_ref().err().filter(|_| !at.is_emergency())?;
    Some(Why::Replaces(*status).into())
}

/// The far end that an INVITE with Replaces is for; `Ok(None)`: it has none. `Err`: the status that refuses it (RFC 3891 §3).
pub(super) fn replaced(cx: &Context, calls: &Calls, request: &Message) -> Result<Option<Replaced>, u16> {
    let mut values = request.all(HeaderId::Replaces);
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(400);
    }
    let value = unwrapped(&cx.key, value);
    let named = ReplacesValue::parse(&value).ok_or(400u16)?;
    let replica = cx.replica();
    // Rule G holds for it as for a request within a dialog.
    let unknown = if cx.view.knows_all(cx.now.mono) { 481u16 } else { 503 };
    let by_token = cx.key.open(named.to_tag).and_then(|token| match token.kind {
        TokenKind::CallerLeg | TokenKind::CallerFork(_) => Some((token.uid, Side::Caller)),
        TokenKind::CalleeLeg => Some((token.uid, Side::Callee)),
        TokenKind::Branch => None,
    });
    let by_leg = || Some((replica.by_leg(named.call_id, named.to_tag)?, Side::Callee));
    let (uid, side) = by_token.or_else(by_leg).ok_or(unknown)?;
    let entry = replica.call(uid);
    let own = calls.own(cx, uid);
    if own.map_or_else(|| entry.is_some_and(|e| !e.is_live()), |call| call.phase.is_over()) {
        return Err(603);
    }
    let legs = match own {
        Some(call) => Some(call.sides.legs()),
        None => entry.and_then(|e| Some((e.caller()?.clone(), e.callee()?.clone()))),
    };
    let (caller, callee) = legs.ok_or(unknown)?;
    let (leg, other) = if side == Side::Caller { (caller, callee) } else { (callee, caller) };
    if !named.is(&leg) || other.remote_tag.is_empty() {
        return Err(481);
    }
    let emergency = match own {
        Some(call) => call.about.emergency_info.as_ref(),
        None => entry.and_then(|e| e.claim().emergency_info.as_ref()),
    };
    let emergency = emergency.cloned();
    replace(cx, &named, &other, own.is_some(), emergency).map(Some).ok_or(481)
}

/// The same dialog as the far end on the other leg names it, and the way there. `own`: the call is this node's.
fn replace(
    cx: &Context,
    named: &ReplacesValue<'_>,
    other: &LegRecord,
    own: bool,
    emergency: Option<EmergencyInfo>,
) -> Option<Replaced> {
    let arrival = other.path.as_ref()?;
    let seen = recorded_path(arrival)?;
    let realm = seen.role.realm();
    let here = own && (arrival.ingress == 0 || arrival.ingress == u32::from(cx.local.node.0));
    let flow = Some(seen).filter(|path| here && path.flow.is_some_and(|flow| cx.is_open(flow, None)));
    let early_only = if named.early_only { ";early-only" } else { "" };
    let next = match other.route_set.first() {
        Some(route) => hop_to(cx, realm, &seen, &uri_of(route)),
        // A connection's source port leads nowhere once it is gone (RFC 3261 §18.1.1).
        None if seen.transport.is_reliable() => hop_to(cx, realm, &seen, &other.remote_target),
        None => NextHop::Known { path: cx.path_to(realm, seen.transport, seen.remote), ingress: None },
    };
    Some(Replaced {
        value: format!("{};to-tag={};from-tag={}{early_only}", other.call_id, other.remote_tag, other.local_tag),
        uri: other.remote_target.as_str().into(),
        trunk: other.trunk.as_str().into(),
        realm,
        flow,
        next,
        routes: other.route_set.iter().map(|route| route.as_str().into()).collect(),
        emergency,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        let named = |early_only| Some(ReplacesValue { call_id: "x@y", to_tag: "t", from_tag: "f", early_only });
        for (value, expected) in [
            ("x@y;to-tag=t;from-tag=f", named(false)),
            (" x@y ; From-Tag = f ;to-tag=t ; other=1", named(false)),
            ("x@y;to-tag=t;from-tag=f;early-only", named(true)),
            ("x@y;to-tag=t", None),
            ("x@y;to-tag=t;to-tag=u;from-tag=f", None),
            ("x@y;to-tag=;from-tag=f", None),
            (";to-tag=t;from-tag=f", None),
            ("", None),
        ] {
            assert_eq!(ReplacesValue::parse(value), expected, "{value:?}");
        }
    }

    #[test]
    fn which_leg_is_meant() {
        let leg = |call_id: &str, local: &str, remote: &str| LegRecord {
            call_id: call_id.into(),
            local_tag: local.into(),
            remote_tag: remote.into(),
            ..LegRecord::default()
        };
        let named = |from_tag| ReplacesValue { call_id: "x", to_tag: "T", from_tag, early_only: false };
        assert!(named("f").is(&leg("x", "t", "F")));
        assert!(!named("f").is(&leg("x", "f", "t")), "the tags are not to be exchanged");
        assert!(!named("f").is(&leg("y", "t", "f")));
        assert!(named("0").is(&leg("x", "t", "")), "RFC 3891 §3");
        assert!(!named("0").is(&leg("x", "t", "f")));
    }
}
