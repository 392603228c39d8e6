//! Calls that are dialled as sips: what the Contact is, and where they may go (RFC 3261 §12.1.1, §26.2.2; RFC 5630).

use std::net::SocketAddr;

use sbc_core::io::Transport;
use sbc_core::sip::{HeaderId, Message, Method};

use crate::rig::far::sdp;
use crate::rig::{Far, Rig, target_by};

const TLS: &str = "198.18.20.9:5061";
const UDP: &str = "198.18.20.9:5060";
const CALLER: &str = "198.18.10.9:5061";

/// A caller by TLS; the targets of the PSAP, each with its transport.
fn line(emergency: bool, targets: &[(&str, Transport)]) -> Rig {
    Rig::build(1, Far::at(CALLER), |config| {
        config.trunks[1].targets = targets.iter().map(|(text, transport)| target_by(text, Some(*transport))).collect();
        if !emergency {
            config.emergency_numbers = Vec::new();
            config.routes[0].matches.clear();
        }
    })
}

impl Rig {
    fn dials_secure(&mut self, uri: &str, contact: &str, fields: &[(&str, &str)]) {
        let mut draft = self.caller.initial(&Method::Invite, uri, "x", 1);
        draft.set(HeaderId::To, "\"sips:\" <sips:112@city.example>");
        draft.set(HeaderId::Contact, contact);
        draft.set_body(Some("application/sdp"), sdp());
        let to = SocketAddr::new(self.w.anycast.ip(), 5061);
        self.caller.put(&mut self.w, &mut draft, to, fields);
        self.advance(50);
    }

    /// The INVITE at a target, which answers it; what the caller gets.
    fn answered_at(&mut self, at: &str) -> (Message, Message) {
        let mut psap = Far::at(at);
        let invite = psap.request(&self.w, &Method::Invite);
        psap.answer(&mut self.w, &invite, 200, &[]);
        self.advance(50);
        (invite.0, self.caller.response(&self.w, &Method::Invite))
    }
}

fn contact(message: &Message) -> &str {
    message.first(HeaderId::Contact).unwrap_or_default()
}

#[test]
fn the_contact_of_what_was_dialled_as_sips_is_sips_on_both_legs() {
    let own = "<sips:c@198.18.10.9:5061>";
    let mut l = line(false, &[(TLS, Transport::Tls)]);
    l.dials_secure("sips:112@198.18.112.112", own, &[]);
    let (invite, ok) = l.answered_at(TLS);
    assert_eq!(invite.request_uri(), Some("sips:112@198.18.20.9:5061"));
    assert!(contact(&invite).starts_with("<sips:") && contact(&invite).ends_with("@198.18.1.1:5061>"), "{}", contact(&invite));
    assert!(contact(&ok).starts_with("<sips:") && contact(&ok).ends_with("@198.18.0.1:5061>"), "{}", contact(&ok));
    assert!(l.w.violations.is_empty(), "{:#?}", l.w.violations);
}

/// RFC 3261 §12.1.1: the Request-URI, the topmost Record-Route, or Contact where there is none.
#[test]
fn what_makes_a_callers_leg_secure() {
    let (plain, secure) = ("<sip:c@198.18.10.9:5061;transport=tls>", "<sips:c@198.18.10.9:5061>");
    for (uri, own, route, expected) in [
        ("sip:112@198.18.112.112", plain, None, false),
        ("sip:112@198.18.112.112", secure, None, true),
        ("sip:112@198.18.112.112", secure, Some("<sip:198.18.10.8;lr>"), false),
        ("sip:112@198.18.112.112", plain, Some("<sips:198.18.10.8;lr>"), true),
        ("sips:112@198.18.112.112", plain, Some("<sip:198.18.10.8;lr>"), true),
    ] {
        let mut l = line(true, &[(UDP, Transport::Udp)]);
        let fields: Vec<_> = route.into_iter().map(|r| ("Record-Route", r)).collect();
        l.dials_secure(uri, own, &fields);
        let (invite, ok) = l.answered_at(UDP);
        assert_eq!(contact(&ok).starts_with("<sips:"), expected, "{uri} {own} {route:?}: {}", contact(&ok));
        assert!(expected || contact(&ok).contains(";transport=tls"));
        assert!(contact(&invite).starts_with("<sip:"), "the other leg has no TLS");
    }
}

/// RFC 5630: an ordinary call is not sent where it cannot be kept secret.
#[test]
fn a_sips_call_does_not_go_by_udp() {
    let mut l = line(false, &[(UDP, Transport::Udp)]);
    l.dials_secure("sips:112@198.18.112.112", "<sips:c@198.18.10.9:5061>", &[]);
    assert!(Far::at(UDP).inbox(&l.w).is_empty());
    let told = l.caller.response(&l.w, &Method::Invite);
    assert_eq!((told.status(), told.first(HeaderId::Warning)), (Some(480), Some("380 AnycastSBC \"SIPS Not Allowed\"")));
    // The next target may have TLS.
    let mut l = line(false, &[(UDP, Transport::Udp), (TLS, Transport::Tls)]);
    l.dials_secure("sips:112@198.18.112.112", "<sips:c@198.18.10.9:5061>", &[]);
    assert_eq!(l.answered_at(TLS).1.status(), Some(200));
    assert!(Far::at(UDP).inbox(&l.w).is_empty());
}

/// An emergency call goes by what there is, as what it then is.
#[test]
fn an_emergency_call_goes_on_as_sip() {
    let mut l = line(true, &[(UDP, Transport::Udp)]);
    l.dials_secure("sips:112@198.18.112.112", "<sips:c@198.18.10.9:5061>", &[]);
    let (invite, ok) = l.answered_at(UDP);
    assert_eq!(invite.request_uri(), Some("sip:112@198.18.20.9:5060"));
    assert_eq!(invite.to(), "\"sips:\" <sip:112@city.example>");
    assert!(contact(&invite).starts_with("<sip:") && contact(&ok).starts_with("<sips:"));
}
