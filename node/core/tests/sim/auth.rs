//! Digest in both directions, across nodes.

use std::time::Duration;

use sbc_core::auth::{AuthHeader, Hash, Secret, challenges};
use sbc_core::io::{AuthOutcome, ClaimOutcome, Counter};
use sbc_core::policy::{Challenger, ClusterConfig, Credentials, Route, RouteMatch, User};
use sbc_core::sip::{HeaderId, Message, Method};

use crate::rig::far::{sdp, wait};
use crate::rig::{CALLER, Far, PSAP, Rig, URI};
use crate::world::{Fault, World, addr};

const CLERK: &str = "sip:clerk@198.18.112.112";

fn secret(content: &str) -> Secret {
    let mut secret = Secret::named("s");
    assert!(secret.fill(content));
    secret
}

/// The PSAP is at 198.18.20.9, where no phone is; `clerk` is no emergency.
fn by_hand(change: impl FnOnce(&mut ClusterConfig)) -> World {
    Rig::build(3, Far::at(CALLER), |config| {
        config.routes.push(Route {
            name: "clerk".into(),
            matches: vec![RouteMatch::User("clerk".into())],
            trunks: vec!["psap".into()],
        });
        change(config);
    })
    .w
}

fn challenged(asks: AuthHeader) -> World {
    by_hand(|c| {
        c.trunks[0].auth.challenger = Some(Challenger {
            realm: "sbc".into(),
            asks,
            users: vec![User { name: "bob".into(), secret: secret("zanzibar") }],
            algorithms: vec![Hash::Sha256, Hash::Md5],
            emergency: false,
            nonce_life: Duration::from_secs(60),
        });
    })
}

fn with_credentials() -> World {
    by_hand(|c| {
        c.trunks[1].auth.credentials =
            Some(Credentials { username: "sbc".into(), secret: secret("hunter2"), realm: Some("psap".into()) });
    })
}

/// The Authorization value for a challenge to `method`.
fn response_to(challenge: &Message, password: &str, method: &str, uri: &str, count: u32) -> String {
    let secret = secret(password);
    let chosen = challenges(challenge, &secret, None);
    chosen[0].answer("bob", &secret, method, uri, "cn", count).expect("the password allows all")
}

/// RFC 8760 §2.3: the challenge at one node, the answer at another, which is a new claim (AC-29). As a server and as a proxy (RFC 3261
/// §22.3), and not the one by credentials for the other.
#[test]
fn ac_29_a_challenge_is_answered_at_another_node() {
    for (asks, other) in [(AuthHeader::User, AuthHeader::Proxy), (AuthHeader::Proxy, AuthHeader::User)] {
        let mut w = challenged(asks);
        let (mut caller, mut psap) = (Far::at(CALLER), Far::at(PSAP));
        let mut first = caller.initial(&Method::Invite, CLERK, "x", 1);
        let anycast = w.anycast;
        caller.put(&mut w, &mut first, anycast, &[]);
        wait(&mut w, 50);
        let refused = caller.response(&w, &Method::Invite);
        assert_eq!(refused.status(), Some(asks.status()));
        let offered: Vec<&str> = refused.all(asks.asks()).collect();
        assert!(offered[0].contains("algorithm=SHA-256") && offered[1].contains("algorithm=MD5"), "{offered:?}");
        assert!(refused.first(other.asks()).is_none());
        assert_eq!(w.nodes.iter().map(|n| n.sbc.call_count() + n.sbc.transaction_count()).sum::<usize>(), 0, "it costs nothing");
        assert_eq!(w.counted(Counter::Claim(ClaimOutcome::Won)), 0, "and no claim");
        // The ACK of the challenge is nobody's.
        w.fault_at(w.now / 1000, Fault::Flip(1));
        let value = response_to(&refused, "zanzibar", "INVITE", CLERK, 1);
        caller.put(&mut w, &mut caller.initial(&Method::Invite, CLERK, "x", 2), anycast, &[(other.answers().name(), &value)]);
        wait(&mut w, 50);
        assert_eq!(caller.response(&w, &Method::Invite).status(), Some(asks.status()), "no credentials of this kind");
        let mut second = caller.initial(&Method::Invite, CLERK, "x", 3);
        second.set_body(Some("application/sdp"), sdp());
        let theirs = value.replace("realm=\"sbc\"", "realm=\"theirs\"");
        let fields = [(asks.answers().name(), &*value), (other.answers().name(), &value), (asks.answers().name(), &theirs)];
        caller.put(&mut w, &mut second, anycast, &fields);
        wait(&mut w, 50);
        let (invite, from) = psap.request(&w, &Method::Invite);
        assert_eq!(from, addr("198.18.1.2:5060"), "B owns it");
        let crossed: Vec<&str> = invite.all(asks.answers()).chain(invite.all(other.answers())).collect();
        assert_eq!(crossed, [&theirs], "what a caller tells us is for us");
        assert_eq!(w.counted(Counter::Claim(ClaimOutcome::Won)), 1);
        assert_eq!(w.counted(Counter::Auth(AuthOutcome::Accepted)), 1);
    }
}

/// RFC 7616 §3.3, §3.4.6: a wrong password, a nonce used again, an old nonce.
#[test]
fn wrong_replayed_and_stale_answers_are_challenged_again() {
    let mut w = challenged(AuthHeader::User);
    let mut caller = Far::at(CALLER);
    let anycast = w.anycast;
    let ask = |w: &mut World, caller: &mut Far, id: &str, cseq, authorization: Option<&str>| {
        let mut draft = caller.initial(&Method::Invite, CLERK, id, cseq);
        let fields: Vec<_> = authorization.map(|a| ("Authorization", a)).into_iter().collect();
        caller.put(w, &mut draft, anycast, &fields);
        wait(w, 50);
        caller.inbox(w).into_iter().map(|(m, _)| m).find(|m| m.call_id() == id && m.cseq() == cseq).expect("an answer")
    };
    let first = ask(&mut w, &mut caller, "a", 1, None);
    let stale = |m: &Message| m.first(HeaderId::WwwAuthenticate).is_some_and(|v| v.contains("stale=true"));
    let wrong = ask(&mut w, &mut caller, "a", 2, Some(&response_to(&first, "guess", "INVITE", CLERK, 1)));
    assert_eq!((wrong.status(), stale(&wrong)), (Some(401), false));
    let right = response_to(&first, "zanzibar", "INVITE", CLERK, 1);
    assert_eq!(ask(&mut w, &mut caller, "a", 3, Some(&right)).status(), Some(100));
    let replayed = ask(&mut w, &mut caller, "b", 1, Some(&right));
    assert_eq!((replayed.status(), stale(&replayed)), (Some(401), true), "the same count again");
    let counted = response_to(&first, "zanzibar", "INVITE", CLERK, 2);
    assert_eq!(ask(&mut w, &mut caller, "c", 1, Some(&counted)).status(), Some(100));
    wait(&mut w, 61_000);
    let late = ask(&mut w, &mut caller, "d", 1, Some(&response_to(&first, "zanzibar", "INVITE", CLERK, 3)));
    assert_eq!((late.status(), stale(&late)), (Some(401), true));
}

/// An emergency call is not asked for a password, nor is one that shows a wrong one.
#[test]
fn emergency_calls_are_never_challenged() {
    let mut w = challenged(AuthHeader::User);
    let (caller, mut psap) = (Far::at(CALLER), Far::at(PSAP));
    let anycast = w.anycast;
    for (id, fields) in [("a", vec![]), ("b", vec![("Authorization", "Digest realm=\"sbc\", username=\"bob\"")])] {
        caller.put(&mut w, &mut caller.initial(&Method::Invite, URI, id, 1), anycast, &fields);
        wait(&mut w, 50);
        psap.request(&w, &Method::Invite);
    }
    assert_eq!(w.counted(Counter::Auth(AuthOutcome::Challenged)) + w.counted(Counter::Auth(AuthOutcome::Wrong)), 0);
}

const ASKS: &str = "Digest realm=\"psap\", nonce=\"n1\", qop=\"auth\", algorithm=SHA-256, opaque=\"o\"";

/// RFC 3261 §22.2, §13.2.2.4: INVITE, its ACK, and the BYE before it is asked for.
#[test]
fn a_challenge_of_the_called_side_is_answered() {
    let mut w = with_credentials();
    let (mut caller, mut psap) = (Far::at(CALLER), Far::at(PSAP));
    let anycast = w.anycast;
    let mut invite = caller.initial(&Method::Invite, URI, "x", 1);
    invite.set_body(Some("application/sdp"), sdp());
    caller.put(&mut w, &mut invite, anycast, &[]);
    wait(&mut w, 50);
    let first = psap.request(&w, &Method::Invite);
    assert!(first.0.first(HeaderId::Authorization).is_none(), "not before it is asked for: rule C");
    psap.answer(
        &mut w,
        &first,
        401,
        &[("WWW-Authenticate", "Digest realm=\"psap\", nonce=\"weak\""), ("WWW-Authenticate", ASKS)],
    );
    wait(&mut w, 20);
    let all = psap.inbox(&w);
    assert!(all.iter().any(|(m, _)| m.method() == &Method::Ack && m.cseq() == first.0.cseq()), "ACK to the 401");
    let second = all.into_iter().find(|(m, _)| m.method() == &Method::Invite).expect("the INVITE again");
    assert_eq!(second.0.cseq(), first.0.cseq() + 1);
    assert_eq!((second.0.call_id(), second.0.from_tag()), (first.0.call_id(), first.0.from_tag()));
    assert_ne!(second.0.top_via().branch(), first.0.top_via().branch());
    assert_eq!(second.0.body(), first.0.body());
    let given = second.0.first(HeaderId::Authorization).expect("credentials").to_owned();
    assert!(given.contains("nonce=\"n1\"") && given.contains("nc=00000001") && given.contains("opaque=\"o\""), "{given}");
    assert!(!String::from_utf8_lossy(second.0.raw()).contains("hunter2"));
    // As the Authorization of a callee: it proves the secret to who has it.
    let uri = second.0.request_uri().expect("a request").to_owned();
    let expected = {
        let text = format!(
            "SIP/2.0 401 U\r\nVia: SIP/2.0/UDP c;branch=z9hG4bK1\r\nFrom: <sip:a@c>;tag=f\r\nTo: <sip:a@c>;tag=x\r\nCall-ID: x\r\nCSeq: 7 INVITE\r\nWWW-Authenticate: {ASKS}\r\n\r\n"
        );
        let response = Message::parse(text.into()).expect("well formed");
        let cnonce = given.split("cnonce=\"").nth(1).and_then(|r| r.split('"').next()).expect("with qop").to_owned();
        challenges(&response, &secret("hunter2"), None)[0].answer("sbc", &secret("hunter2"), "INVITE", &uri, &cnonce, 1)
    };
    assert_eq!(Some(given.clone()), expected);
    let mut ok = second.0.response(200, None);
    ok.set(HeaderId::To, format!("{};tag=far", second.0.to()));
    ok.push(HeaderId::Contact, format!("<sip:far@{}>", psap.addr));
    ok.set_body(Some("application/sdp"), sdp());
    psap.put(&mut w, &mut ok, second.1, &[]);
    wait(&mut w, 20);
    let ack = psap.request(&w, &Method::Ack).0;
    assert_eq!(ack.first(HeaderId::Authorization), Some(&*given), "the ACK has the INVITE's");
    let answered = caller.response(&w, &Method::Invite);
    assert_eq!(answered.status(), Some(200));
    let (mut ack, to) = caller.within(&Method::Ack, &answered, 1);
    caller.put(&mut w, &mut ack, to, &[]);
    let (mut bye, to) = caller.within(&Method::Bye, &answered, 2);
    caller.put(&mut w, &mut bye, to, &[]);
    wait(&mut w, 20);
    let bye = psap.request(&w, &Method::Bye);
    let value = bye.0.first(HeaderId::Authorization).expect("at once").to_owned();
    assert!(value.contains("nc=00000002"), "{value}");
    // The nonce has aged: the BYE goes again, though its call is over here.
    psap.answer(&mut w, &bye, 401, &[("WWW-Authenticate", "Digest realm=\"psap\", nonce=\"n2\", qop=\"auth\", stale=true")]);
    wait(&mut w, 3000);
    let again = psap.request(&w, &Method::Bye);
    let value = again.0.first(HeaderId::Authorization).expect("credentials");
    assert!(value.contains("nonce=\"n2\"") && value.contains("nc=00000001"), "{value}");
    assert_eq!(again.0.cseq(), bye.0.cseq() + 1);
    psap.answer(&mut w, &again, 200, &[]);
    w.run_until(120_000);
    assert_eq!(w.nodes.iter().map(|n| n.sbc.call_count() + n.sbc.transaction_count()).sum::<usize>(), 0);
}

/// A proxy asks, then the user agent (RFC 3261 §22.3); then a wrong password is the end of it: 502, no loop.
#[test]
fn two_realms_and_a_refusal() {
    let mut w = by_hand(|c| {
        c.trunks[1].auth.credentials = Some(Credentials { username: "sbc".into(), secret: secret("hunter2"), realm: None });
    });
    let (mut caller, mut psap) = (Far::at(CALLER), Far::at(PSAP));
    let anycast = w.anycast;
    caller.put(&mut w, &mut caller.initial(&Method::Invite, URI, "x", 1), anycast, &[]);
    wait(&mut w, 50);
    let first = psap.request(&w, &Method::Invite);
    psap.answer(&mut w, &first, 407, &[("Proxy-Authenticate", "Digest realm=\"p\", nonce=\"p1\"")]);
    wait(&mut w, 20);
    let second = psap.request(&w, &Method::Invite);
    assert!(second.0.first(HeaderId::ProxyAuthorization).is_some() && second.0.first(HeaderId::Authorization).is_none());
    psap.answer(&mut w, &second, 401, &[("WWW-Authenticate", ASKS)]);
    wait(&mut w, 20);
    let third = psap.request(&w, &Method::Invite);
    assert!(third.0.first(HeaderId::ProxyAuthorization).is_some() && third.0.first(HeaderId::Authorization).is_some());
    assert_eq!(third.0.cseq(), first.0.cseq() + 2);
    psap.answer(&mut w, &third, 401, &[("WWW-Authenticate", &ASKS.replace("n1", "n9"))]);
    wait(&mut w, 20);
    assert!(psap.inbox(&w).iter().all(|(m, _)| m.method() == &Method::Ack));
    assert_eq!(caller.response(&w, &Method::Invite).status(), Some(502));
    assert_eq!((w.counted(Counter::Auth(AuthOutcome::Answered)), w.counted(Counter::Auth(AuthOutcome::Refused))), (2, 1));
}

/// Without credentials, and for another realm than theirs, a challenge is the caller's.
#[test]
fn a_challenge_that_is_not_ours_goes_to_the_caller() {
    for (mut w, realm) in [(by_hand(|_| ()), "psap"), (with_credentials(), "elsewhere")] {
        let (mut caller, mut psap) = (Far::at(CALLER), Far::at(PSAP));
        let anycast = w.anycast;
        caller.put(&mut w, &mut caller.initial(&Method::Invite, URI, "x", 1), anycast, &[]);
        wait(&mut w, 50);
        let invite = psap.request(&w, &Method::Invite);
        psap.answer(&mut w, &invite, 407, &[("Proxy-Authenticate", &ASKS.replace("psap", realm))]);
        wait(&mut w, 20);
        let got = caller.response(&w, &Method::Invite);
        assert_eq!(got.status(), Some(407));
        assert!(got.first(HeaderId::ProxyAuthenticate).is_some_and(|v| v.contains(realm)));
    }
}

/// Rule C: two nodes that dial without quorum are one request for the callee, also after its challenge.
#[test]
fn two_nodes_answer_a_challenge_with_the_same_identity() {
    let mut w = with_credentials();
    w.net.peer_loss = 1000;
    w.no_quorum = true;
    w.run_until(4000);
    let (caller, mut psap) = (Far::at(CALLER), Far::at(PSAP));
    let anycast = w.anycast;
    let mut invite = caller.initial(&Method::Invite, URI, "x", 1);
    caller.put(&mut w, &mut invite, anycast, &[]);
    wait(&mut w, 10);
    w.route = 1;
    caller.put(&mut w, &mut invite, anycast, &[]);
    wait(&mut w, 300);
    let firsts: Vec<_> = psap.inbox(&w).into_iter().filter(|(m, _)| m.method() == &Method::Invite).collect();
    let from: std::collections::BTreeSet<_> = firsts.iter().map(|(_, from)| *from).collect();
    assert_eq!(from.len(), 2, "both dial");
    for node in from {
        let first = firsts.iter().find(|(_, f)| *f == node).expect("from each");
        psap.answer(&mut w, first, 401, &[("WWW-Authenticate", ASKS)]);
    }
    wait(&mut w, 20);
    let seconds: Vec<_> = psap.inbox(&w).into_iter().filter(|(m, _)| m.method() == &Method::Invite).collect();
    let identity = |m: &Message| (m.call_id().to_owned(), m.from_tag().map(str::to_owned), m.cseq());
    assert_eq!(seconds.len(), 2);
    assert_eq!(identity(&seconds[0].0), identity(&seconds[1].0));
    assert_eq!(seconds[0].0.cseq(), firsts[0].0.cseq() + 1);
}

/// Outside of calls as well: the request again with the next CSeq number and the same identity. A wrong secret is not the sender's
/// fault.
#[test]
fn a_challenge_to_a_request_outside_of_calls_is_answered() {
    for method in [Method::Message, Method::Publish, Method::Subscribe] {
        let mut w = with_credentials();
        let (mut caller, mut psap) = (Far::at(CALLER), Far::at(PSAP));
        let anycast = w.anycast;
        for (id, right) in [("x", true), ("y", false)] {
            let mut draft = caller.initial(&method, URI, id, 1);
            caller.put(&mut w, &mut draft, anycast, &[("Event", "presence"), ("Expires", "60")]);
            wait(&mut w, 50);
            let first = psap.request(&w, &method);
            assert!(first.0.first(HeaderId::Authorization).is_none(), "not before it is asked for: rule C");
            psap.answer(&mut w, &first, 401, &[("WWW-Authenticate", ASKS)]);
            wait(&mut w, 20);
            let second = psap.request(&w, &method);
            assert_eq!(second.0.cseq(), first.0.cseq() + 1);
            assert_eq!((second.0.call_id(), second.0.from_tag()), (first.0.call_id(), first.0.from_tag()));
            assert!(second.0.first(HeaderId::Authorization).is_some_and(|v| v.contains("nonce=\"n1\"")));
            let fields = [("WWW-Authenticate", ASKS), ("Contact", "<sip:far@198.18.20.9>"), ("Expires", "60")];
            let fields = if right { &fields[1..] } else { &fields[..1] };
            psap.answer(&mut w, &second, if right { 200 } else { 401 }, fields);
            wait(&mut w, 20);
            let told = caller.response(&w, &method);
            assert_eq!(told.status(), Some(if right { 200 } else { 502 }), "{method}");
            assert!(told.first(HeaderId::WwwAuthenticate).is_none());
            assert!(!psap.inbox(&w).iter().any(|(m, _)| m.is_request()), "no loop");
            if right && method == Method::Subscribe {
                // The next one has them at once.
                let (mut refresh, to) = caller.within(&method, &told, 2);
                caller.put(&mut w, &mut refresh, to, &[("Event", "presence"), ("Expires", "0")]);
                wait(&mut w, 20);
                let third = psap.request(&w, &method);
                assert!(third.0.first(HeaderId::Authorization).is_some_and(|v| v.contains("nc=00000002")));
                // The nonce has aged.
                psap.answer(&mut w, &third, 401, &[("WWW-Authenticate", &format!("{}, stale=true", ASKS.replace("n1", "n2")))]);
                wait(&mut w, 20);
                let fourth = psap.request(&w, &method);
                assert!(fourth.0.first(HeaderId::Authorization).is_some_and(|v| v.contains("nonce=\"n2\"")));
                assert_eq!(fourth.0.cseq(), third.0.cseq() + 1);
                psap.answer(&mut w, &fourth, 200, &[("Expires", "0")]);
                wait(&mut w, 20);
                assert_eq!(caller.response(&w, &method).status(), Some(200));
            }
        }
        w.run_until(120_000);
        assert_eq!(w.nodes.iter().map(|n| n.sbc.subscription_count() + n.sbc.transaction_count()).sum::<usize>(), 0);
    }
}

/// A challenge that we have nothing for goes to the sender.
#[test]
fn a_challenge_outside_of_calls_that_is_not_ours_crosses() {
    let mut w = by_hand(|_| ());
    let (mut caller, mut psap) = (Far::at(CALLER), Far::at(PSAP));
    let anycast = w.anycast;
    caller.put(&mut w, &mut caller.initial(&Method::Message, URI, "x", 1), anycast, &[]);
    wait(&mut w, 50);
    let got = psap.request(&w, &Method::Message);
    psap.answer(&mut w, &got, 401, &[("WWW-Authenticate", ASKS)]);
    wait(&mut w, 20);
    let told = caller.response(&w, &Method::Message);
    assert_eq!((told.status(), told.first(HeaderId::WwwAuthenticate)), (Some(401), Some(ASKS)));
}
