//! Messages that cross on the wire, through three real nodes: re-INVITEs of both sides, a CANCEL and the answer, two BYEs.

use std::net::SocketAddr;
use std::time::Duration;

use cluster_tests::cluster::{Cluster, Options, PSAP, SETTLE, Shared, anycast, core};
use cluster_tests::ladder::{self, Witness};
use cluster_tests::message::{Dialog, Message, sdp};
use cluster_tests::phone::Phone;
use cluster_tests::scene::{Call, Scene};
use cluster_tests::wait;

/// How often what nobody can order is tried, each side first in turn.
const ROUNDS: usize = 6;

fn cluster() -> Shared {
    Cluster::shared(Options::with_own_psap())
}

#[test]
fn reinvites_that_cross_in_sipp() {
    ladder::between(&cluster(), ("uac-reinvite-glare", "uas-reinvite-glare"), "sip:112@127.0.0.100:5060", &[]);
}

#[test]
fn reinvites_that_cross_over_tcp() {
    ladder::between(&cluster(), ("uac-reinvite-glare", "uas-reinvite-glare"), "sip:112@127.0.0.100:5060", &["-t", "t1"]);
}

/// One far end of an answered call.
struct End<'a> {
    phone: &'a mut Phone,
    dialog: &'a mut Dialog,
    /// The node, as it is seen from here.
    node: SocketAddr,
    media: SocketAddr,
    version: u32,
    /// CSeq number of the last INVITE from there: what a slow machine had repeated is none.
    heard: u32,
}

impl End<'_> {
    fn describe(&mut self, direction: &str) -> Vec<u8> {
        self.version += 1;
        sdp(self.media, self.version, direction)
    }

    fn reinvites(&mut self) -> Message {
        let body = self.describe("sendonly");
        let invite = self.dialog.request("INVITE").with_sdp(body);
        self.phone.send(&invite, self.node);
        invite
    }

    #[track_caller]
    fn is_asked(&mut self) -> (Message, SocketAddr) {
        let heard = self.heard;
        let asked = self.phone.expect("a re-INVITE", |m| m.method() == "INVITE" && m.cseq().0 > heard);
        self.heard = asked.0.cseq().0;
        asked
    }

    #[track_caller]
    fn is_acknowledged(&mut self) {
        let heard = self.heard;
        self.phone.expect("the ACK", |m| m.method() == "ACK" && m.cseq().0 == heard);
    }

    fn accepts(&mut self, (asked, from): &(Message, SocketAddr)) {
        let (body, contact) = (self.describe("recvonly"), format!("<sip:phone@{}>", self.phone.at()));
        self.phone.send(&asked.response(200, "OK", "").with("Contact", &contact).with_sdp(body), *from);
    }

    #[track_caller]
    fn is_accepted(&mut self, invite: &Message) {
        assert_eq!(self.phone.expect_final(invite).0.status(), 200);
        self.phone.send(&self.dialog.ack(invite.cseq().0), self.node);
    }

    /// RFC 3261 §14.1: the far end's is open.
    #[track_caller]
    fn is_refused(&mut self, invite: &Message) {
        assert_eq!(self.phone.final_of(invite).status(), 491);
        // The ACK took another socket than an answer to the other's does.
        self.phone.ping(self.node);
    }
}

fn ends<'a>(scene: &'a mut Scene, call: &'a mut Call, owner: u8) -> [End<'a>; 2] {
    let (caller_media, psap_media) = (SocketAddr::new(scene.caller.at().ip(), 40_000), SocketAddr::new(PSAP.ip(), 42_000));
    let heard = call.psap_invite.cseq().0;
    let (caller, psap) = (&mut scene.caller, &mut scene.psap);
    [
        End { phone: caller, dialog: &mut call.from_caller, node: anycast(), media: caller_media, version: 1, heard: 0 },
        End { phone: psap, dialog: &mut call.from_psap, node: core(owner), media: psap_media, version: 1, heard },
    ]
}

/// RFC 3261 §14.1, §14.2: who asks while the other's re-INVITE is open gets 491, whichever side it is, and what is open goes on. Once
/// that is over the second one's own is taken.
#[test]
fn who_reinvites_second_gets_491_and_may_try_again() {
    let (cluster, mut scene) = (cluster(), Scene::new());
    let (before, owner) = (cluster.cdrs().len(), cluster.holder());
    let mut call = scene.established(anycast());
    // Until the owner has the caller's ACK, each re-INVITE is glare.
    scene.caller.ping(anycast());
    let [mut caller, mut psap] = ends(&mut scene, &mut call, owner);
    for caller_first in [false, true] {
        let (caller, psap) = (&mut caller, &mut psap);
        let (first, second) = if caller_first { (caller, psap) } else { (psap, caller) };
        let open = first.reinvites();
        let asked = second.is_asked();
        let crossing = second.reinvites();
        second.is_refused(&crossing);
        second.accepts(&asked);
        first.is_accepted(&open);
        second.is_acknowledged();
        // The ACK went another way than the next INVITE does.
        first.phone.ping(first.node);
        let again = second.reinvites();
        let asked = first.is_asked();
        assert!(asked.0.text().contains("a=sendonly"), "{}", asked.0.text());
        first.accepts(&asked);
        second.is_accepted(&again);
        first.is_acknowledged();
        second.phone.ping(second.node);
    }
    scene.hang_up(&mut call, anycast());
    scene.settled(&cluster, before + 1, (&call.invite, &call.psap_invite));
}

/// Neither has the other's when it asks: one is refused, and only that one.
#[test]
fn of_two_reinvites_at_once_one_is_refused() {
    let (cluster, mut scene) = (cluster(), Scene::new());
    let (before, owner) = (cluster.cdrs().len(), cluster.holder());
    let mut call = scene.established(anycast());
    // Until the owner has the caller's ACK, each re-INVITE is glare.
    scene.caller.ping(anycast());
    let [mut caller, mut psap] = ends(&mut scene, &mut call, owner);
    for round in 0..ROUNDS {
        let (caller, psap) = (&mut caller, &mut psap);
        let (ours, theirs) = if round % 2 == 0 {
            let ours = caller.reinvites();
            (ours, psap.reinvites())
        } else {
            let theirs = psap.reinvites();
            (caller.reinvites(), theirs)
        };
        let caller_refused = wait::until("one is refused", SETTLE, || {
            let of = |end: &mut End, invite: &Message| {
                let ours = |m: &Message| m.status() >= 200 && m.header("CSeq") == invite.header("CSeq") && m.cseq().1 == "INVITE";
                end.phone.wait(Duration::from_millis(5), ours).map(|(m, from)| {
                    assert_eq!(m.status(), 491);
                    end.phone.send(&invite.ack_of(&m), from);
                })
            };
            match (of(caller, &ours), of(psap, &theirs)) {
                (Some(()), None) => Ok(true),
                (None, Some(())) => Ok(false),
                (None, None) => Err("neither"),
                (Some(()), Some(())) => panic!("both are refused"),
            }
        });
        let (winner, loser, open) = if caller_refused { (psap, caller, theirs) } else { (caller, psap, ours) };
        loser.phone.ping(loser.node);
        let asked = loser.is_asked();
        loser.accepts(&asked);
        winner.is_accepted(&open);
        loser.is_acknowledged();
        winner.phone.ping(winner.node);
    }
    scene.hang_up(&mut call, anycast());
    scene.settled(&cluster, before + 1, (&call.invite, &call.psap_invite));
}

/// The places of these requests among what the PSAP got, in their order.
#[track_caller]
fn in_order(scene: &mut Scene, psap_invite: &Message, methods: [&str; 2]) {
    let wire = scene.psap.wire(psap_invite.header("Call-ID"));
    let places = methods.map(|m| wire.iter().position(|s| !s.theirs && s.what == m));
    assert!(places.is_sorted() && places[0].is_some(), "{methods:?} at {places:?}: {wire:#?}");
}

/// The final responses to its first INVITE that the caller got, each once.
fn finals(scene: &mut Scene, invite: &Message) -> Vec<String> {
    let mut finals: Vec<String> = scene
        .caller
        .wire(invite.header("Call-ID"))
        .into_iter()
        .filter_map(|s| {
            let last = !s.theirs && s.cseq == "1 INVITE" && s.what.parse::<u16>().is_ok_and(|status| status >= 200);
            last.then_some(s.what)
        })
        .collect();
    finals.dedup();
    finals
}

/// The rest of a call that was cancelled and answered: the caller has one of the two, and the PSAP an end.
#[track_caller]
fn one_of_both(cluster: &Cluster, scene: &mut Scene, records: usize, (invite, at_psap): (&Message, &Message)) -> u16 {
    scene.caller.expect_response(200, "CANCEL");
    let last = scene.caller.final_of(invite);
    if last.status() == 200 {
        let mut dialog = Dialog::of_caller(invite, &last, scene.caller.at(), "UDP");
        scene.caller.send(&dialog.ack(1), anycast());
        scene.caller.send(&dialog.request("BYE"), anycast());
        scene.psap_confirms("BYE");
        scene.caller.expect_response(200, "BYE");
    } else {
        // RFC 3261 §9.1, §15: what was cancelled too late is ended.
        scene.psap_confirms("CANCEL");
        scene.psap_confirms("BYE");
    }
    scene.psap.expect_request("ACK");
    in_order(scene, at_psap, ["ACK", "BYE"]);
    scene.settled(cluster, records, (invite, at_psap));
    assert_eq!(finals(scene, invite), [last.status().to_string()], "one final response");
    let call_id = at_psap.header("Call-ID");
    let late = scene.psap.gather(Duration::ZERO, |m| m.method() == "CANCEL" && m.header("Call-ID") == call_id);
    assert!(last.status() != 200 || late.is_empty(), "nothing is cancelled that was answered: {late:#?}");
    let cdr = cluster.cdrs().pop().expect("its record");
    assert_eq!(cdr["cause"]["sipStatus"], last.status(), "{cdr}");
    last.status()
}

/// RFC 3261 §9.1, §9.2: a CANCEL that comes before the answer, after it, and at once with it.
#[test]
fn a_cancel_crosses_the_answer() {
    let (cluster, mut scene) = (cluster(), Scene::new());
    let before = cluster.cdrs().len();
    // The PSAP picks up before it has read the CANCEL.
    let invite = scene.invite();
    let (at_psap, from) = scene.ring(&invite, anycast());
    scene.caller.send(&invite.cancel(), anycast());
    let (cancel, _) = scene.psap.expect_request("CANCEL");
    scene.psap.send(&Scene::answer(&at_psap), from);
    scene.psap.send(&cancel.response(200, "OK", "psap"), from);
    scene.caller.expect_response(200, "CANCEL");
    assert_eq!(scene.caller.final_of(&invite).status(), 487);
    scene.psap_confirms("BYE");
    scene.psap.expect_request("ACK");
    in_order(&mut scene, &at_psap, ["ACK", "BYE"]);
    scene.settled(&cluster, before + 1, (&invite, &at_psap));
    assert_eq!(finals(&mut scene, &invite), ["487"]);

    // The 200 is on its way to the caller.
    let invite = scene.invite();
    let (at_psap, from) = scene.ring(&invite, anycast());
    scene.psap.send(&Scene::answer(&at_psap), from);
    scene.psap.expect("the ACK of ours, which follows the 200", |m| m.method() == "ACK" && m.cseq().0 == at_psap.cseq().0);
    scene.caller.send(&invite.cancel(), anycast());
    scene.caller.expect_response(200, "CANCEL");
    let ok = scene.caller.final_of(&invite);
    assert_eq!(ok.status(), 200);
    let mut dialog = Dialog::of_caller(&invite, &ok, scene.caller.at(), "UDP");
    scene.caller.send(&dialog.ack(1), anycast());
    scene.caller.send(&dialog.request("BYE"), anycast());
    scene.psap_confirms("BYE");
    scene.caller.expect_response(200, "BYE");
    scene.settled(&cluster, before + 2, (&invite, &at_psap));
    assert_eq!(finals(&mut scene, &invite), ["200"]);

    for round in 0..ROUNDS {
        let invite = scene.invite();
        let (at_psap, from) = scene.ring(&invite, anycast());
        let answer = Scene::answer(&at_psap);
        if round % 2 == 0 {
            scene.psap.send(&answer, from);
            scene.caller.send(&invite.cancel(), anycast());
        } else {
            scene.caller.send(&invite.cancel(), anycast());
            scene.psap.send(&answer, from);
        }
        one_of_both(&cluster, &mut scene, before + 3 + round, (&invite, &at_psap));
    }
}

/// RFC 3261 §15.1.2, RFC 5407 §3.2.1: both hang up at once. Each BYE is answered with 200, and the call ends once.
#[test]
fn both_hang_up_at_once() {
    let (cluster, mut scene) = (cluster(), Scene::new());
    let (before, owner) = (cluster.cdrs().len(), cluster.holder());
    for round in 0..ROUNDS {
        let mut call = scene.established(anycast());
        let (ours, theirs) = (call.from_caller.request("BYE"), call.from_psap.request("BYE"));
        if round % 2 == 0 {
            scene.caller.send(&ours, anycast());
            scene.psap.send(&theirs, core(owner));
        } else {
            scene.psap.send(&theirs, core(owner));
            scene.caller.send(&ours, anycast());
        }
        wait::until("who was second gets our BYE", SETTLE, || {
            let confirms = |phone: &mut Phone| {
                phone.wait(Duration::from_millis(5), |m| m.method() == "BYE").map(|(bye, from)| {
                    phone.send(&bye.response(200, "OK", ""), from);
                })
            };
            match (confirms(&mut scene.caller), confirms(&mut scene.psap)) {
                (None, None) => Err("neither"),
                (Some(()), Some(())) => panic!("one of them hung up first"),
                _ => Ok(()),
            }
        });
        let told = [scene.caller.expect_final(&ours).0.status(), scene.psap.expect_final(&theirs).0.status()];
        assert_eq!(told, [200, 200], "round {round}");
        scene.settled(&cluster, before + round + 1, (&call.invite, &call.psap_invite));
    }
}
