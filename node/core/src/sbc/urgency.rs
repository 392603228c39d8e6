//! How urgent a message is, by a look at its first lines: what is under way comes before what would begin, and emergency calls before
//! others. Nothing is decided by it but the order in which messages are dealt with, and what is dropped when there are too many.

use super::Sbc;
use super::calls::Calls;
use super::gate::source_weight;
use crate::call::Context;
use crate::io::{Path, Realm};
use crate::routing;
use crate::sip::Uri;
use crate::transaction::ClientUser;

/// What waits apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// Responses and requests within an emergency call that this node has, or knows of, from the core side.
    EmergencyCall,
    /// The same of callers, apart: anybody may send what looks like it.
    EmergencyCaller,
    /// Responses, and requests within a dialog, from the core side.
    Core,
    /// The same of callers.
    Underway,
    /// An INVITE that begins an emergency call, and its CANCEL.
    Emergency,
    /// Everything else that would begin something, or is no SIP.
    Ordinary,
}

impl Sbc {
    /// How urgent a message is, and how many sources its source is worth.
    pub fn urgency(&self, path: &Path, payload: &[u8]) -> (Urgency, u32) {
        let known = CallLookup { cx: &self.cx, calls: &self.calls };
        let look = first_look(payload);
        let emergency = match look {
            Look::Response(branch) => known.dialled_emergency(branch),
            Look::Within(uri) => known.is_within_emergency(uri),
            Look::Invite(_) | Look::Other => false,
        };
        let urgency = match look {
            Look::Response(_) | Look::Within(_) => match (path.role.realm(), emergency) {
                (Realm::Core, true) => Urgency::EmergencyCall,
                (Realm::Core, false) => Urgency::Core,
                (_, true) => Urgency::EmergencyCaller,
                (_, false) => Urgency::Underway,
            },
            Look::Invite(uri) if known.calls_emergency(uri) => Urgency::Emergency,
            Look::Invite(_) | Look::Other => Urgency::Ordinary,
        };
        (urgency, source_weight(&self.cx.config, path.remote.ip()))
    }
}

/// What is known of the call that a message is about.
struct CallLookup<'a> {
    cx: &'a Context,
    calls: &'a Calls,
}

impl CallLookup<'_> {
    /// True for the branch of a request that an emergency call has sent.
    fn dialled_emergency(&self, branch: &str) -> bool {
        let tx = self.cx.tx.find_client(branch, true).or_else(|| self.cx.tx.find_client(branch, false));
        match tx.map(|tx| self.cx.tx.client_user(tx)) {
            Some(ClientUser::Call { id, .. } | ClientUser::AfterBye { call: id }) => {
                self.calls.get(id).is_some_and(|c| c.about.emergency)
            }
            _ => false,
        }
    }

    /// True for a URI that is our Contact in an emergency call, this node's or another's that the log knows.
    fn is_within_emergency(&self, uri: &str) -> bool {
        let token = Uri::parse(uri).ok().and_then(|uri| self.cx.key.open(uri.user()?));
        token.is_some_and(|token| match self.calls.own(self.cx, token.uid) {
            Some(call) => call.about.emergency,
            None => {
                let replica = self.cx.replica();
                replica.call(token.uid).is_some_and(|entry| entry.emergency())
            }
        })
    }

    fn calls_emergency(&self, uri: &str) -> bool {
        Uri::parse(uri).is_ok_and(|uri| routing::is_emergency(&self.cx.config, &uri))
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Look<'a> {
    /// With the branch of its top Via; empty where that was not found at once.
    Response(&'a str),
    /// A request with a To-tag, or an ACK: with its Request-URI.
    Within(&'a str),
    /// INVITE or CANCEL without a To-tag, with its Request-URI: both, so that the one does not overtake the other.
    Invite(&'a str),
    Other,
}

fn first_look(payload: &[u8]) -> Look<'_> {
    let mut lines = payload.split(|octet| *octet == b'\n');
    let first = lines.next().unwrap_or_default();
    if first.get(..8).is_some_and(|p| p.eq_ignore_ascii_case(b"SIP/2.0 ")) {
        return Look::Response(lines.find_map(via_branch).unwrap_or_default());
    }
    let mut words = first.split(|octet| *octet == b' ');
    let method = words.next().unwrap_or_default();
    let uri = words.next().and_then(|uri| std::str::from_utf8(uri).ok());
    let tagged = || lines.take_while(|line| !line.trim_ascii().is_empty()).find_map(to_tag) == Some(true);
    match (method, uri) {
        (b"ACK", uri) => Look::Within(uri.unwrap_or_default()),
        (_, uri) if tagged() => Look::Within(uri.unwrap_or_default()),
        (b"INVITE" | b"CANCEL", Some(uri)) => Look::Invite(uri),
        _ => Look::Other,
    }
}

/// Of a Via header field: its branch, the first one's where there are several.
fn via_branch(line: &[u8]) -> Option<&str> {
    let colon = line.iter().position(|octet| *octet == b':')?;
    let name = line[..colon].trim_ascii_end();
    if !name.eq_ignore_ascii_case(b"via") && !name.eq_ignore_ascii_case(b"v") {
        return None;
    }
    let first = line[colon + 1..].split(|octet| *octet == b',').next()?;
    let branch = first.split(|octet| *octet == b';').skip(1).find_map(|parameter| {
        let (name, value) = parameter.split_at_checked(parameter.iter().position(|octet| *octet == b'=')?)?;
        name.trim_ascii().eq_ignore_ascii_case(b"branch").then(|| value[1..].trim_ascii())
    });
    Some(branch.and_then(|branch| std::str::from_utf8(branch).ok()).unwrap_or_default())
}

/// Of a To header field: whether it has a tag. One that is folded is taken as it stands: the message only waits longer.
fn to_tag(line: &[u8]) -> Option<bool> {
    let colon = line.iter().position(|octet| *octet == b':')?;
    let name = line[..colon].trim_ascii_end();
    if !name.eq_ignore_ascii_case(b"to") && !name.eq_ignore_ascii_case(b"t") {
        return None;
    }
    // Behind the URI: a quoted display name or the URI itself may hold the word.
    let value = line.iter().rposition(|octet| *octet == b'>').map_or(&line[colon..], |at| &line[at..]);
    Some(
        value
            .split(|octet| *octet == b';')
            .skip(1)
            .any(|p| p.trim_ascii_start().get(..3).is_some_and(|p| p.eq_ignore_ascii_case(b"tag"))),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_under_way_is_told_from_what_begins() {
        for (message, look) in [
            ("SIP/2.0 200 OK\r\nTo: <sip:a@b>\r\n\r\n", Look::Response("")),
            (
                "SIP/2.0 200 OK\r\nvia : SIP/2.0/UDP a;rport;Branch = z9 ;x=1, SIP/2.0/UDP b;branch=y\r\n\r\n",
                Look::Response("z9"),
            ),
            ("SIP/2.0 200 OK\nTo: x\nV: SIP/2.0/UDP a;branch=z9\nVia: SIP/2.0/UDP b;branch=y\n\n", Look::Response("z9")),
            ("SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP a;branch, SIP/2.0/UDP b;branch=y\r\n\r\n", Look::Response("")),
            ("ACK sip:a@b SIP/2.0\r\n\r\n", Look::Within("sip:a@b")),
            ("ACK", Look::Within("")),
            ("BYE sip:a@b SIP/2.0\r\nFrom: <sip:x@y>;tag=1\r\nTo: <sip:a@b>;tag=2\r\n\r\n", Look::Within("sip:a@b")),
            ("INVITE sip:a@b SIP/2.0\r\nt : \"; tag=\" <sip:a@b> ; TAG = 2\r\n\r\n", Look::Within("sip:a@b")),
            ("BYE sip:a@b SIP/2.0\nTo: sip:a@b;tag=2\n\n", Look::Within("sip:a@b")),
            ("INVITE sip:a@b SIP/2.0\r\nFrom: <sip:x@y>;tag=1\r\nTo: <sip:a@b;tag=2>\r\n\r\n", Look::Invite("sip:a@b")),
            ("CANCEL urn:service:sos SIP/2.0\r\nTo: <urn:service:sos>\r\n\r\n", Look::Invite("urn:service:sos")),
            ("INVITE sip:a@b SIP/2.0\r\nFrom: x\r\n\r\nTo: <sip:a@b>;tag=2\r\n", Look::Invite("sip:a@b")),
            ("OPTIONS sip:a@b SIP/2.0\r\nTo: <sip:a@b>\r\n\r\n", Look::Other),
            ("BYE sip:a@b SIP/2.0\r\nTo: <sip:a@b>\r\n\r\n", Look::Other),
            ("INVITE", Look::Other),
            ("INVITE \u{7f}", Look::Invite("\u{7f}")),
            ("\r\n", Look::Other),
            ("", Look::Other),
        ] {
            assert_eq!(first_look(message.as_bytes()), look, "{message}");
        }
        assert_eq!(first_look(b"INVITE sip:\xff SIP/2.0\r\n\r\n"), Look::Other);
    }
}
