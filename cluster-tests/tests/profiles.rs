//! What a trunk's profile and its header rules make of real calls: topology, identities, codecs, fields, times.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use cluster_tests::cluster::{Cluster, Options, PSAP, Shared, anycast};
use cluster_tests::message::{Dialog, Message};
use cluster_tests::rtp::{heard, media};
use cluster_tests::scene::Scene;

fn cluster() -> Shared {
    Cluster::shared(Options::with_own_psap())
}

/// The targets of the PSAP's trunk as they are.
fn target() -> String {
    format!("\"{PSAP};transport=udp\"")
}

/// A call with this INVITE, answered by the PSAP with these fields, and hung up. What the PSAP got, and the 200 at the caller.
#[track_caller]
fn whole(scene: &mut Scene, invite: &Message, fields: &[(&str, &str)]) -> (Message, Message) {
    let (at_psap, from) = scene.ring(invite, anycast());
    let mut answer = Scene::answer(&at_psap);
    for (name, value) in fields {
        answer = answer.with(name, value);
    }
    scene.psap.send(&answer, from);
    let (ok, _) = scene.caller.expect_response(200, "INVITE");
    let mut dialog = Dialog::of_caller(invite, &ok, scene.caller.at(), "UDP");
    scene.caller.send(&dialog.ack(1), anycast());
    scene.psap.expect_request("ACK");
    scene.caller.send(&dialog.request("BYE"), anycast());
    scene.psap_confirms("BYE");
    scene.caller.expect_response(200, "BYE");
    (at_psap, ok)
}

/// NENA-STA-010, border control function: the PSAP sees the caller's Call-ID and hears of Replaces. Tags stay ours (rule A).
#[test]
fn a_transparent_trunk_sees_the_callers_call_id() {
    let cluster = cluster();
    let before = cluster.cdrs().len();
    cluster.with_psap(&target(), "topology = \"transparent\"", || {
        let mut scene = Scene::new();
        let mut call = scene.established(anycast());
        let at_psap = &call.psap_invite;
        assert_eq!(at_psap.header("Call-ID"), call.invite.header("Call-ID"));
        assert_ne!(at_psap.tag("From"), call.invite.tag("From"), "rule A");
        let offered = |m: &Message| m.all("Supported").any(|v| v.split(',').any(|t| t.trim() == "replaces"));
        assert!(offered(at_psap), "{at_psap:?}");
        assert!(!offered(&call.ok), "the caller's trunk is none: {:?}", call.ok);
        assert!(!at_psap.header("Contact").contains(&scene.caller.at().to_string()), "hops are hidden all the same");
        // Both directions of a dialog whose legs have one Call-ID.
        scene.caller.send(&call.from_caller.request("INFO"), anycast());
        scene.psap_confirms("INFO");
        scene.caller.expect_response(200, "INFO");
        let way = at_psap.uri("Contact").split('@').nth(1).and_then(|a| a.split(';').next()?.parse().ok()).expect("an address");
        scene.psap.send(&call.from_psap.request("INFO"), way);
        let (info, from) = scene.caller.expect_request("INFO");
        assert_eq!(info.header("Call-ID"), call.invite.header("Call-ID"));
        scene.caller.send(&info.response(200, "OK", ""), from);
        scene.psap.expect_response(200, "INFO");
        scene.hang_up(&mut call, anycast());
        scene.settled(&cluster, before + 1, (&call.invite, &call.psap_invite));
    });
}

const ASSERTED: [(&str, &str); 3] = [
    ("P-Asserted-Identity", "<sip:+4989123@example.com>"),
    ("Remote-Party-ID", "<sip:+4989123@example.com>;party=calling"),
    ("History-Info", "<sip:before@example.com>;index=1"),
];

/// RFC 3325 §5 and §7: what a trunk asserts that is not trusted does not cross, nor does it get any, but where the caller wants that.
#[test]
fn asserted_identities_stop_at_a_trunk_that_is_not_trusted() {
    let cluster = cluster();
    let before = cluster.cdrs().len();
    let says = |m: &Message| ASSERTED.iter().filter(|(name, value)| m.all(name).any(|v| v == *value)).count();
    let invite = |scene: &Scene, privacy: Option<&str>| {
        let invite = ASSERTED.iter().fold(scene.invite(), |m, (name, value)| m.with(name, value));
        privacy.map_or(invite.clone(), |p| invite.with("Privacy", p))
    };
    {
        let mut scene = Scene::new();
        let asserting = invite(&scene, None);
        let (at_psap, ok) = whole(&mut scene, &asserting, &ASSERTED);
        assert_eq!((says(&at_psap), says(&ok)), (3, 3), "trusted unless said otherwise");
    }
    cluster.with_psap(&target(), "identity = \"strip\"", || {
        let mut scene = Scene::new();
        let asserting = invite(&scene, None);
        let (at_psap, ok) = whole(&mut scene, &asserting, &ASSERTED);
        assert_eq!((says(&at_psap), says(&ok)), (0, 0), "both ways");
        let open = invite(&scene, Some("none"));
        let (at_psap, ok) = whole(&mut scene, &open, &ASSERTED);
        assert_eq!((says(&at_psap), says(&ok)), (3, 0), "the caller may give its own, the PSAP asserts nothing by it");
        assert!(at_psap.uri("From").starts_with("sip:caller@"), "From is evidence");
    });
    cluster.settled(before + 3);
}

/// RFC 3264: the trunk's codecs are what is left of the offer, and audio flows with them. A list that fits nothing changes nothing.
#[test]
fn a_codec_list_shortens_the_offer_and_audio_flows() {
    let cluster = cluster();
    let before = cluster.cdrs().len();
    let offer = "v=0\r\no=phone 77 1 IN IP4 127.0.3.1\r\ns=-\r\nc=IN IP4 127.0.3.1\r\nt=0 0\r\nm=audio 40000 RTP/AVP 0 8 18 101\r\n\
                 a=rtpmap:0 PCMU/8000\r\na=rtpmap:8 PCMA/8000\r\na=rtpmap:18 G729/8000\r\na=fmtp:18 annexb=no\r\n\
                 a=rtpmap:101 telephone-event/8000\r\na=sendrecv\r\n";
    cluster.with_psap(&target(), "codecs = [\"PCMA\"]", || {
        let mut scene = Scene::new();
        let invite = scene.invite().with_sdp(offer.into());
        let (at_psap, from) = scene.ring(&invite, anycast());
        let seen = at_psap.text();
        assert!(seen.contains(" RTP/AVP 8 101\r\na=rtpmap:8 PCMA/8000\r\na=rtpmap:101 telephone-event/8000\r\n"), "{seen}");
        assert!(!seen.contains("PCMU") && !seen.contains("G729") && !seen.contains("fmtp:18"), "{seen}");
        let answer = Scene::answer(&at_psap);
        let answer = answer.clone().with_sdp(answer.text().replace("AVP 0", "AVP 8").replace("0 PCMU", "8 PCMA").into());
        scene.psap.send(&answer, from);
        let (ok, _) = scene.caller.expect_response(200, "INVITE");
        assert!(ok.text().contains(" RTP/AVP 8\r\n"), "{}", ok.text());
        let mut dialog = Dialog::of_caller(&invite, &ok, scene.caller.at(), "UDP");
        scene.caller.send(&dialog.ack(1), anycast());
        scene.psap.expect_request("ACK");
        let (caller, psap) =
            (UdpSocket::bind("127.0.3.1:40000").expect("free"), UdpSocket::bind("127.0.2.1:42000").expect("free"));
        for (from, to, there) in [(&caller, media(&ok), &psap), (&psap, media(&at_psap), &caller)] {
            let heard = heard(from, to, there, 8);
            assert!(heard >= 45, "{heard} of 50 packets crossed to {there:?}");
        }
        scene.caller.send(&dialog.request("BYE"), anycast());
        scene.psap_confirms("BYE");
        scene.caller.expect_response(200, "BYE");
        // PCMU alone: better with it than without audio.
        let plain = scene.invite();
        let (at_psap, _) = whole(&mut scene, &plain, &[]);
        assert!(at_psap.text().contains(" RTP/AVP 0\r\n"), "{}", at_psap.text());
        cluster.settled(before + 2);
    });
}

/// One of each kind, in the order that they apply: what a trunk sends, then what the other gets.
const RULES: [&str; 8] = [
    "name = \"came\"\ntrunk = \"callers\"\ndirection = \"in\"\naction = \"add\"\nheader = \"X-Came-From\"\nvalue = \"outside\"",
    "name = \"scrub\"\ntrunk = \"callers\"\ndirection = \"in\"\naction = \"remove\"\nheader = \"Resource-Priority\"",
    "name = \"renew\"\ntrunk = \"psap\"\ndirection = \"out\"\naction = \"replace\"\nheader = \"X-Site\"\nvalue = \"alpha\"",
    "name = \"away\"\ntrunk = \"psap\"\ndirection = \"out\"\naction = \"remove\"\nheader = \"X-Secret\"\nmethods = [\"INVITE\"]",
    "name = \"urgent\"\ntrunk = \"psap\"\ndirection = \"out\"\naction = \"add\"\nheader = \"Resource-Priority\"\nvalue = \"esnet.1\"\n\
     emergency = true\nmethods = [\"INVITE\"]",
    "name = \"plain\"\ntrunk = \"psap\"\ndirection = \"out\"\naction = \"add\"\nheader = \"X-Class\"\nvalue = \"ordinary\"\nemergency = false",
    "name = \"agent\"\ntrunk = \"psap\"\ndirection = \"in\"\naction = \"replace\"\nheader = \"Server\"\nvalue = \"a PSAP\"\n\
     messages = \"responses\"",
    "name = \"told\"\ntrunk = \"callers\"\ndirection = \"out\"\naction = \"add\"\nheader = \"X-Told\"\nvalue = \"yes\"\n\
     messages = \"both\"\nmethods = [\"INVITE\", \"INFO\"]",
];

#[test]
fn header_rules_of_each_kind_shape_both_directions_of_a_call() {
    let cluster = cluster();
    let before = cluster.cdrs().len();
    let rules: String = RULES.iter().map(|rule| format!("\n[[header_rules]]\n{rule}\n")).collect();
    cluster.with_config(
        |old| format!("{old}{rules}"),
        || {
            let mut scene = Scene::new();
            let brought = [("Resource-Priority", "wps.0"), ("X-Site", "old"), ("X-Site", "older"), ("X-Secret", "s")];
            let with = |m: Message| brought.iter().fold(m, |m, (name, value)| m.with(name, value));
            let all = |m: &Message, name: &str| m.all(name).map(str::to_owned).collect::<Vec<_>>();
            for (uri, priority, class) in
                [("sip:112@127.0.0.100", &["esnet.1"][..], &[][..]), ("sip:service@127.0.0.100", &[], &["ordinary"])]
            {
                let invite = with(scene.invite().to_uri(uri).replace("To", &format!("<{uri}>")));
                let (at_psap, ok) = whole(&mut scene, &invite, &[("Server", "desk/1")]);
                assert_eq!(all(&at_psap, "X-Came-From"), ["outside"]);
                assert_eq!(
                    all(&at_psap, "Resource-Priority"),
                    priority,
                    "{uri}: what a caller claims is scrubbed (RFC 4412 §4.7)"
                );
                assert_eq!(all(&at_psap, "X-Site"), ["alpha"], "all of them by one");
                assert!(all(&at_psap, "X-Secret").is_empty() && all(&at_psap, "X-Told").is_empty());
                assert_eq!(all(&at_psap, "X-Class"), class);
                assert_eq!((all(&ok, "Server"), all(&ok, "X-Told")), (vec!["a PSAP".to_owned()], vec!["yes".to_owned()]));
            }
            // Requests of the other direction, and methods that a rule does not name.
            let mut call = scene.established(anycast());
            let way = call.psap_invite.uri("Contact").split('@').nth(1).and_then(|a| a.split(';').next()?.parse().ok());
            scene.psap.send(&with(call.from_psap.request("INFO")), way.expect("an address"));
            let (info, from) = scene.caller.expect_request("INFO");
            assert_eq!((all(&info, "X-Told"), all(&info, "X-Site").len()), (vec!["yes".to_owned()], 2));
            scene.caller.send(&info.response(200, "OK", ""), from);
            let (ok, _) = scene.psap.expect_response(200, "INFO");
            assert!(all(&ok, "X-Came-From").is_empty(), "a rule is for requests unless it says otherwise");
            scene.caller.send(&with(call.from_caller.request("INFO")), anycast());
            let info = scene.psap_confirms("INFO");
            assert_eq!((all(&info, "X-Secret"), all(&info, "X-Site")), (vec!["s".to_owned()], vec!["alpha".to_owned()]));
            assert!(all(&info, "Resource-Priority").is_empty());
            scene.caller.expect_response(200, "INFO");
            scene.hang_up(&mut call, anycast());
            cluster.settled(before + 3);
        },
    );
}

/// The settings of one trunk before those of the cluster (2 s and 180 s).
#[test]
fn a_trunk_has_its_own_times() {
    let cluster = cluster();
    let before = cluster.cdrs().len();
    let targets = format!("\"127.0.2.19:5060;transport=udp\", {}", target());
    cluster.with_psap(&targets, "failover_after_ms = 300\nring_timeout_s = 5", || {
        let mut scene = Scene::new();
        let invite = scene.invite();
        let began = Instant::now();
        scene.caller.send(&invite, anycast());
        let (at_psap, from) = scene.psap.expect_request("INVITE");
        let took = began.elapsed();
        assert!((Duration::from_millis(300)..Duration::from_secs(2)).contains(&took), "failover after {took:?}");
        scene.psap.send(&at_psap.response(180, "Ringing", "psap").with("Contact", &format!("<sip:psap@{PSAP}>")), from);
        scene.caller.expect_response(180, "INVITE");
        // It rings for as long as the trunk says, and no longer.
        let (cancel, from) = scene.psap.wait(Duration::from_secs(15), |m| m.method() == "CANCEL").expect("a CANCEL");
        let rang = began.elapsed();
        assert!((Duration::from_secs(5)..Duration::from_secs(9)).contains(&rang), "rang for {rang:?}");
        scene.psap.send(&cancel.response(200, "OK", "psap"), from);
        scene.psap.send(&at_psap.response(487, "Request Terminated", "psap"), from);
        let refused = scene.caller.final_of(&invite);
        assert_eq!(refused.status(), 480, "RFC 3261 §21.4.18: nobody answered");
        cluster.settled(before + 1);
    });
}
