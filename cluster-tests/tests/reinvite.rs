//! Media that change within a call, through real nodes and with RTP: new payload types, DTMF, lines that come, go and are used again
//! (RFC 3264 §8, RFC 4733), and an offer that is refused.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use cluster_tests::cluster::{Cluster, Options, Shared, anycast, core, number, unicast};
use cluster_tests::message::Message;
use cluster_tests::scene::{Call, Scene};
use cluster_tests::wait;

/// Longest wait for packets of a stream that is open.
const LIMIT: Duration = Duration::from_secs(5);
/// Shortest wait after which a packet is taken for lost.
const LOST: Duration = Duration::from_millis(60);
/// Packets by which a stream is known to run.
const PACKETS: u16 = 20;
/// Where the PSAP of a scene is.
const PSAP_CONTACT: &str = "<sip:psap@127.0.2.1:5060>";
const OPUS: &str =
    "a=rtpmap:96 opus/48000/2\r\na=fmtp:96 useinbandfec=1\r\na=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-15\r\n";

fn cluster() -> Shared {
    Cluster::shared(Options::with_own_psap())
}

fn socket(at: &str) -> UdpSocket {
    let socket = UdpSocket::bind(at).expect("free");
    socket.set_read_timeout(Some(LOST)).expect("not zero");
    socket
}

/// A description with these lines: kind, port, payload types, attributes.
fn describe(ip: &str, version: u32, lines: &[(&str, u16, &str, &str)]) -> Vec<u8> {
    let mut text = format!("v=0\r\no=phone 77 {version} IN IP4 {ip}\r\ns=-\r\nc=IN IP4 {ip}\r\nt=0 0\r\n");
    for (kind, port, types, attributes) in lines {
        text.push_str(&format!("m={kind} {port} RTP/AVP {types}\r\n{attributes}"));
    }
    text.into_bytes()
}

/// Where line `n` of a description is wanted.
fn place(message: &Message, n: usize) -> SocketAddr {
    let text = message.text();
    let ip = text.lines().find_map(|l| l.strip_prefix("c=IN IP4 ")).expect("an address");
    let line = text.lines().filter_map(|l| l.strip_prefix("m=")).nth(n).expect("a line");
    format!("{ip}:{}", line.split(' ').nth(1).expect("a port")).parse().expect("an address")
}

/// RFC 3550 §5.1: a packet of that payload type, marked where it begins something.
fn rtp(payload_type: u8, marked: bool, sequence: u16, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x80, payload_type | if marked { 0x80 } else { 0 }, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4];
    packet[2..4].copy_from_slice(&sequence.to_be_bytes());
    packet.extend(payload);
    packet
}

/// Packets of that payload type cross, octet for octet, and reach one far end.
#[track_caller]
fn crosses(from: &UdpSocket, to: SocketAddr, there: &UdpSocket, payload_type: u8) {
    let (mut heard, mut sequence) = (0, 0);
    wait::until("the packets cross", LIMIT, || {
        sequence += 1;
        // RFC 4733 §2.3: the event 5, its volume, its duration.
        let payload: &[u8] = if payload_type == 101 { &[5, 10, 1, 0x40] } else { &[0xd5; 160] };
        let packet = rtp(payload_type, sequence == 1, sequence, payload);
        from.send_to(&packet, to).expect("loopback");
        let mut buffer = [0; 2048];
        heard += u16::from(there.recv_from(&mut buffer).is_ok_and(|(len, _)| buffer[..len] == packet));
        if heard >= PACKETS { Ok(()) } else { Err(format!("{heard} of {sequence}")) }
    });
}

/// Nothing of it arrives.
#[track_caller]
fn stops(from: &UdpSocket, to: SocketAddr, there: &UdpSocket) {
    let packet = rtp(0, false, 9999, b"nobody hears this");
    from.send_to(&packet, to).expect("loopback");
    let mut buffer = [0; 2048];
    assert!(!there.recv_from(&mut buffer).is_ok_and(|(len, _)| buffer[..len] == packet));
}

/// What a slow machine had sent twice is not taken for what comes next.
fn settle(scene: &mut Scene) {
    for phone in [&mut scene.caller, &mut scene.psap] {
        phone.gather(Duration::from_millis(5), |_| true);
    }
}

/// A re-INVITE of the caller; what either side was told.
#[track_caller]
fn caller_offers(scene: &mut Scene, call: &mut Call, offer: Vec<u8>, answer: Vec<u8>) -> (Message, Message) {
    settle(scene);
    let invite = call.from_caller.request("INVITE").with_sdp(offer);
    scene.caller.send(&invite, anycast());
    let (asked, from) = scene.psap.expect_request("INVITE");
    scene.psap.send(&asked.response(200, "OK", "").with("Contact", PSAP_CONTACT).with_sdp(answer), from);
    let (told, _) = scene.caller.expect_final(&invite);
    scene.caller.send(&call.from_caller.ack(invite.cseq().0), anycast());
    scene.psap.expect_request("ACK");
    (asked, told)
}

/// The same of the PSAP.
#[track_caller]
fn psap_offers(scene: &mut Scene, call: &mut Call, owner: u8, offer: Vec<u8>, answer: Vec<u8>) -> (Message, Message) {
    settle(scene);
    let invite = call.from_psap.request("INVITE").with_sdp(offer);
    scene.psap.send(&invite, core(owner));
    let (asked, from) = scene.caller.expect_request("INVITE");
    let contact = format!("<sip:caller@{}>", scene.caller.at());
    scene.caller.send(&asked.response(200, "OK", "").with("Contact", &contact).with_sdp(answer), from);
    let (told, _) = scene.psap.expect_final(&invite);
    scene.psap.send(&call.from_psap.ack(invite.cseq().0), core(owner));
    scene.caller.expect_request("ACK");
    (asked, told)
}

/// RFC 3264 §8.3.2, RFC 4733: payload types are added, and audio and DTMF run with them, both ways.
#[test]
fn new_codecs_and_dtmf_with_their_rtp() {
    let (cluster, mut scene) = (cluster(), Scene::new());
    let before = cluster.cdrs().len();
    let mut call = scene.established(anycast());
    let (caller, psap) = (socket("127.0.3.1:40000"), socket("127.0.2.1:42000"));
    for (from, to, there) in [(&caller, place(&call.ok, 0), &psap), (&psap, place(&call.psap_invite, 0), &caller)] {
        crosses(from, to, there, 0);
    }
    let offer = describe("127.0.3.1", 2, &[("audio", 40_000, "9 96 101", OPUS)]);
    let answer = describe("127.0.2.1", 2, &[("audio", 42_000, "96 101", OPUS)]);
    let (asked, told) = caller_offers(&mut scene, &mut call, offer, answer);
    assert!(asked.text().contains(" RTP/AVP 9 96 101\r\n") && asked.text().contains(OPUS), "{}", asked.text());
    assert!(told.text().contains(" RTP/AVP 96 101\r\n") && told.text().contains(OPUS), "{}", told.text());
    assert_eq!((place(&told, 0), place(&asked, 0)), (place(&call.ok, 0), place(&call.psap_invite, 0)), "the ports stay");
    for payload_type in [96, 101] {
        crosses(&caller, place(&told, 0), &psap, payload_type);
        crosses(&psap, place(&asked, 0), &caller, payload_type);
    }
    scene.hang_up(&mut call, anycast());
    scene.settled(&cluster, before + 1, (&call.invite, &call.psap_invite));
}

/// RFC 3264 §8.1, §8.2: the PSAP adds video, takes the audio out, and uses its place for text; the packets of each line are counted.
#[test]
fn lines_of_the_psap_come_go_and_are_used_again() {
    let (cluster, mut scene) = (cluster(), Scene::new());
    let (before, owner) = (cluster.cdrs().len(), cluster.holder());
    let mut call = scene.established(anycast());
    let (caller, psap) = (socket("127.0.3.1:40000"), socket("127.0.2.1:42000"));
    let (caller_video, psap_video) = (socket("127.0.3.1:40004"), socket("127.0.2.1:42004"));
    let (caller_text, psap_text) = (socket("127.0.3.1:40008"), socket("127.0.2.1:42008"));
    let video = "a=rtpmap:97 H264/90000\r\n";
    let two = |port, more| [("audio", port, "0", ""), ("video", more, "97", video)];
    let (offer, answer) = (describe("127.0.2.1", 2, &two(42_000, 42_004)), describe("127.0.3.1", 2, &two(40_000, 40_004)));
    let (asked, told) = psap_offers(&mut scene, &mut call, owner, offer, answer);
    for (from, to, there, payload_type) in [
        (&caller, place(&asked, 0), &psap, 0),
        (&psap, place(&told, 0), &caller, 0),
        (&caller_video, place(&asked, 1), &psap_video, 97),
        (&psap_video, place(&told, 1), &caller_video, 97),
    ] {
        crosses(from, to, there, payload_type);
    }
    // Audio goes.
    let (offer, answer) = (describe("127.0.2.1", 3, &two(0, 42_004)), describe("127.0.3.1", 3, &two(0, 40_004)));
    let (was, video_only) = (place(&asked, 0), psap_offers(&mut scene, &mut call, owner, offer, answer));
    assert_eq!((place(&video_only.0, 0).port(), place(&video_only.1, 0).port()), (0, 0));
    stops(&caller, was, &psap);
    crosses(&caller_video, place(&video_only.0, 1), &psap_video, 97);
    // Its place is used for text (RFC 4103).
    let red = "a=rtpmap:98 t140/1000\r\n";
    let again = |port, more| [("text", port, "98", red), ("video", more, "97", video)];
    let (offer, answer) = (describe("127.0.2.1", 4, &again(42_008, 42_004)), describe("127.0.3.1", 4, &again(40_008, 40_004)));
    let (asked, told) = psap_offers(&mut scene, &mut call, owner, offer, answer);
    crosses(&caller_text, place(&asked, 0), &psap_text, 98);
    crosses(&psap_text, place(&told, 0), &caller_text, 98);
    let uid =
        cluster.call(call.invite.header("Call-ID"), "CALL_STATE_ANSWERED")["uid"].as_str().expect("a call has a uid").to_owned();
    // The BYE takes another socket than the PSAP's ACK.
    scene.psap.ping(core(owner));
    scene.hang_up(&mut call, anycast());
    scene.settled(&cluster, before + 1, (&call.invite, &call.psap_invite));
    let cdr = cluster.cdrs().into_iter().find(|c| c["call"] == uid.as_str()).expect("its CDR");
    let (from_caller, from_psap) = (number(&cdr["media"]["callerPackets"]), number(&cdr["media"]["calleePackets"]));
    assert!(from_caller >= 4 * u64::from(PACKETS) && from_psap >= 3 * u64::from(PACKETS), "{cdr}");
}

/// RFC 3261 §14.1: a fax that the PSAP refuses leaves the audio as it was.
#[test]
fn audio_goes_on_after_a_refused_fax() {
    let (cluster, mut scene) = (cluster(), Scene::new());
    let before = cluster.cdrs().len();
    let mut call = scene.established(anycast());
    let (caller, psap) = (socket("127.0.3.1:40000"), socket("127.0.2.1:42000"));
    crosses(&caller, place(&call.ok, 0), &psap, 0);
    let fax = "v=0\r\no=phone 77 2 IN IP4 127.0.3.1\r\ns=-\r\nc=IN IP4 127.0.3.1\r\nt=0 0\r\nm=image 40000 udptl t38\r\n";
    let invite = call.from_caller.request("INVITE").with_sdp(fax.into());
    scene.caller.send(&invite, anycast());
    let (asked, from) = scene.psap.expect_request("INVITE");
    scene.psap.send(&asked.response(488, "Not Acceptable Here", ""), from);
    assert_eq!(scene.caller.expect_final(&invite).0.status(), 488);
    crosses(&caller, place(&call.ok, 0), &psap, 0);
    crosses(&psap, place(&call.psap_invite, 0), &caller, 0);
    scene.hang_up(&mut call, anycast());
    scene.settled(&cluster, before + 1, (&call.invite, &call.psap_invite));
}

/// RFC 3264 §5.1: both far ends on the outside, as after a transfer: the ports are on the address that the descriptions name.
#[test]
fn audio_between_two_on_the_outside() {
    let (cluster, mut scene) = (cluster(), Scene::new());
    let (old, before, owner) = (cluster.config_text(), cluster.cdrs().len(), cluster.holder());
    assert!(old.contains("realm = \"core\""), "{old}");
    cluster.apply_config(&old.replace("realm = \"core\"", "realm = \"external\""));
    let mut call = scene.established(anycast());
    cluster.apply_config(&old);
    let (caller, psap) = (socket("127.0.3.1:40000"), socket("127.0.2.1:42000"));
    let (at_caller, at_psap) = (place(&call.ok, 0), place(&call.psap_invite, 0));
    assert_eq!((at_caller.ip(), at_psap.ip()), (unicast(owner).ip(), unicast(owner).ip()));
    crosses(&caller, at_caller, &psap, 0);
    crosses(&psap, at_psap, &caller, 0);
    scene.hang_up(&mut call, anycast());
    // No ladder: it tells the legs apart by their sides of the node.
    cluster.settled(before + 1);
}
