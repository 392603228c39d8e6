//! REFER (RFC 3515) from one leg to the other: where it leads, and its notifications; and calls that replace another (RFC 3891).

use super::context::Context;
use super::end::End;
use super::leg::Leg;
use super::sides::Sides;
use super::ways::NextHop;
use crate::io::{HostAndPort, Path, Realm, Side, Target, Transport, TransportChoice};
use crate::local::bracketed;
use crate::sip::{Draft, HeaderId, Message, Method, NameAddr, unescape};
use crate::store_pb::{EmergencyInfo, ReferRecord};
use crate::targets::Hop;
use crate::token::ClusterKey;

/// REFERs of one call whose notifications are told apart.
const MAX_REFERS: usize = 8;

/// The call of a transferred party: it goes to the far end of another call, whose dialog it replaces there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replaced {
    /// The Replaces value for that far end.
    pub value: String,
    /// Its Contact: the Request-URI.
    pub uri: Box<str>,
    /// Its trunk.
    pub trunk: Box<str>,
    /// On which side it is.
    pub realm: Realm,
    /// Its connection, where it is one of this node's.
    pub flow: Option<Path>,
    /// How it is reached without.
    pub next: NextHop,
    /// The proxies on the way there.
    pub routes: Vec<Box<str>>,
    /// Of an emergency call that is replaced: the new one is part of the same emergency, for the same service and with the same
    /// incident id.
    pub emergency: Option<EmergencyInfo>,
}

impl Replaced {
    /// Its connection first: it need not listen.
    pub(super) fn hops(&self) -> impl Iterator<Item = Hop> + '_ {
        let at = |path: &Path| {
            let host = HostAndPort { host: path.remote.ip().to_string().into(), port: Some(path.remote.port()) };
            (host, TransportChoice::Fixed(path.transport))
        };
        let next = match &self.next {
            NextHop::Known { path, .. } => at(path),
            NextHop::Ask(request) => (request.target.clone(), request.transport),
        };
        let hop = |(host, choice)| {
            let (trunk, realm, uri) = (self.trunk.clone(), self.realm, Some(self.uri.clone()));
            Hop { trunk, realm, host, choice, uri }
        };
        self.flow.as_ref().map(at).into_iter().chain([next]).map(hop)
    }

    /// The way of a dialled target, where it is the far end's connection.
    pub(super) fn flow_to(&self, cx: &Context, target: &Target) -> Option<Path> {
        let leads = |path: &Path| path.remote == target.addr && path.transport == target.transport;
        self.flow.filter(leads).filter(|path| path.flow.is_some_and(|flow| cx.is_open(flow, None)))
    }
}

/// A REFER that was passed on: its CSeq number is the id of its notifications (RFC 3515 §2.4.6), and another on each leg.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refer {
    from: Side,
    here: u32,
    there: u32,
}

/// What a call leaves behind for the NOTIFYs that its REFERs still wait for (RFC 5057 §4.2).
#[derive(Debug)]
pub struct Usage {
    /// Who referred.
    pub subscriber: Side,
    /// It was an emergency call.
    pub emergency: bool,
    /// Toward the caller.
    pub caller: End,
    /// Toward the called party.
    pub callee: End,
    /// Those REFERs, never none.
    pub refers: Vec<Refer>,
}

/// CSeq numbers that a BYE under way may still take on its leg: one for each challenge that it answers.
const BYE_CSEQS: u32 = super::challenge::MAX_TRIES as u32;

/// The REFERs of a call that wait for their notifications.
#[derive(Debug, Default)]
pub(super) struct Refers(Vec<Refer>);

impl Refers {
    /// As the log has them.
    pub(super) fn record(&self) -> Vec<ReferRecord> {
        let of = |r: &Refer| ReferRecord { from_callee: r.from == Side::Callee, here: r.here, there: r.there };
        self.0.iter().map(of).collect()
    }

    /// The same, taken from there.
    pub(super) fn restore(&mut self, records: &[ReferRecord]) {
        let of = |r: &ReferRecord| {
            let from = if r.from_callee { Side::Callee } else { Side::Caller };
            Refer { from, here: r.here, there: r.there }
        };
        self.0 = records.iter().take(MAX_REFERS).map(of).collect();
    }

    /// A REFER was accepted.
    pub(super) fn keep(&mut self, from: Side, here: u32, there: u32) {
        if self.0.len() >= MAX_REFERS {
            self.0.remove(0);
        }
        self.0.push(Refer { from, here, there });
    }

    /// A NOTIFY was passed on and answered: after its last one a REFER waits for nothing (RFC 3515 §2.4.7).
    pub(super) fn note_last(&mut self, from: Side, notify: &Message) {
        let state = notify.first(HeaderId::SubscriptionState).unwrap_or_default().split(';').next().unwrap_or_default();
        let event = notify.first(HeaderId::Event).unwrap_or_default();
        if !state.trim().eq_ignore_ascii_case("terminated") || !is_refer(event) {
            return;
        }
        let id = event_id(event);
        let at = self.0.iter().position(|r| r.from != from && id.is_none_or(|id| id == r.there));
        at.map(|at| self.0.remove(at));
    }

    /// What is to be kept of a call that is over; only once.
    pub(super) fn take_usage(&mut self, emergency: bool, sides: &Sides) -> Option<Usage> {
        let mut refers = std::mem::take(&mut self.0);
        let subscriber = refers.last()?.from;
        refers.retain(|r| r.from == subscriber);
        // One that was refused before its answer may have been in an early dialog.
        let pair = sides.pairs.latest();
        let end = |side| End::of_leg(sides.leg(side), &sides.pairs[pair.toward(side)]);
        let (mut caller, mut callee) = (end(Side::Caller), end(Side::Callee));
        for end in [&mut caller, &mut callee] {
            end.dialog.local_cseq += BYE_CSEQS;
        }
        Some(Usage { subscriber, emergency, caller, callee, refers })
    }

    /// What a request within the dialog says of transfers, in the terms of the leg where it goes.
    pub(super) fn translate(&self, cx: &Context, from: Side, to: &Leg, request: &Message, draft: &mut Draft) {
        match request.method() {
            Method::Refer => map_refer_to(cx, to, draft),
            Method::Notify | Method::Subscribe => map_event_id(&self.0, from, request.method(), draft),
            _ => {}
        }
    }
}

/// A Refer-To that leads to us leads there from the other side as well: to our own address on that side, never the anycast one
/// (rule F). A Replaces in it names a dialog of the other side, of which this one learns nothing: it gets it wrapped, and brings it back
/// to whichever node it calls.
fn map_refer_to(cx: &Context, leg: &Leg, draft: &mut Draft) {
    let Some(value) = draft.first(HeaderId::ReferTo).and_then(|v| NameAddr::parse(v).ok()) else { return };
    if !cx.leads_here(&value.uri) {
        return;
    }
    let (path, far) = (leg.path, leg.path.remote.ip());
    let ours = format!("{}:{}", bracketed(cx.local.own_address(leg.realm, far)), cx.local.port_of(path.transport));
    // As our Contact on that leg says it: the other one's transport leads to a port that does not speak it.
    let secure = leg.secure && path.transport == Transport::Tls;
    let (scheme, transport) = if secure { ("sips", "") } else { ("sip", path.transport.contact_parameter()) };
    let target = hide_replaces(cx, value.uri.as_str());
    let Some(uri) = lead_to(&target, value.uri.user().is_some(), scheme, &ours, transport) else { return };
    let display = value.display.as_deref().map(|d| format!("{} ", crate::sip::quote(d))).unwrap_or_default();
    draft.set(HeaderId::ReferTo, format!("{display}<{uri}>{}", value.params_str()));
}

/// What wrapped values are for.
const WRAP: &[u8] = b"replaces";

/// A URI with the values of its Replaces headers wrapped. The tags are there for those that look for them (RFC 3891 §6.1).
fn hide_replaces(cx: &Context, uri: &str) -> String {
    let Some((address, headers)) = uri.split_once('?') else { return uri.to_owned() };
    let hide = |header: &str| match header.split_once('=') {
        Some((name, value)) if name.eq_ignore_ascii_case("Replaces") => {
            format!("{name}={}%3Bto-tag%3D1%3Bfrom-tag%3D1", cx.key.wrap(WRAP, &unescape(value)))
        }
        _ => header.to_owned(),
    };
    let headers: Vec<String> = headers.split('&').map(hide).collect();
    format!("{address}?{}", headers.join("&"))
}

/// The Replaces value that this one stands for: itself, where it is not wrapped.
pub fn unwrapped(key: &ClusterKey, value: &str) -> String {
    let wrapped = value.split(';').next().unwrap_or_default().trim();
    key.unwrap(WRAP, wrapped).unwrap_or_else(|| value.to_owned())
}

/// The id of a REFER's notifications (RFC 3515 §2.4.6) in the other leg's terms.
pub fn map_event_id(refers: &[Refer], from: Side, method: &Method, draft: &mut Draft) {
    let Some(value) = draft.first(HeaderId::Event).filter(|value| is_refer(value)) else { return };
    let id = event_id(value);
    let mapped = refers.iter().rev().find_map(|r| match method {
        Method::Notify => (r.from != from && Some(r.there) == id).then_some(r.here),
        _ => (r.from == from && Some(r.here) == id).then_some(r.there),
    });
    if let Some(mapped) = mapped {
        let part = |p: &str| if is_id(p) { format!("id={mapped}") } else { p.trim().to_owned() };
        let parts: Vec<String> = value.split(';').map(part).collect();
        draft.set(HeaderId::Event, parts.join(";"));
    }
}

fn is_refer(event: &str) -> bool {
    event.split(';').next().is_some_and(|package| package.trim().eq_ignore_ascii_case("refer"))
}

fn is_id(part: &str) -> bool {
    part.trim().get(..3).is_some_and(|name| name.eq_ignore_ascii_case("id="))
}

fn event_id(event: &str) -> Option<u32> {
    event.split(';').find(|part| is_id(part))?.trim()[3..].trim().parse().ok()
}

/// A sip or sips URI with another scheme, host, port and transport; user, other parameters and headers as they were.
fn lead_to(uri: &str, has_user: bool, scheme: &str, host: &str, transport: &str) -> Option<String> {
    let user = uri.find(':')? + 1;
    let at = if has_user { uri.find('@')? + 1 } else { user };
    let rest = &uri[at + uri[at..].find([';', '?']).unwrap_or(uri.len() - at)..];
    let (params, headers) = rest.split_at(rest.find('?').unwrap_or(rest.len()));
    let is_transport = |p: &str| p.get(..10).is_some_and(|name| name.eq_ignore_ascii_case("transport="));
    let params: String = params.split(';').skip(1).filter(|p| !is_transport(p)).map(|p| format!(";{p}")).collect();
    Some(format!("{scheme}:{}{host}{params}{transport}{headers}", &uri[user..at]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_exchanged() {
        for (uri, expected) in [
            ("sip:a@198.18.0.1:5060;transport=tcp?Replaces=x%40y", "sip:a@h:1;transport=tls?Replaces=x%40y"),
            ("sips:198.18.0.1", "sip:h:1;transport=tls"),
            ("sip:[2001:db8::1]:5070?Replaces=x%40y", "sip:h:1;transport=tls?Replaces=x%40y"),
            ("sip:a:secret@[2001:db8::1];user=phone;x", "sip:a:secret@h:1;user=phone;x;transport=tls"),
        ] {
            let has_user = crate::sip::Uri::parse(uri).expect("valid").user().is_some();
            assert_eq!(lead_to(uri, has_user, "sip", "h:1", ";transport=tls").as_deref(), Some(expected));
        }
        let secure = lead_to("sip:a@198.18.0.1;transport=udp;x", true, "sips", "h:1", "");
        assert_eq!(secure.as_deref(), Some("sips:a@h:1;x"));
    }
}
