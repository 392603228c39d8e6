//! Where media go, through real nodes and with real packets: far ends whose ports change, PSAPs that send from another port than they
//! listen on, media that are no RTP, and descriptions in odd bodies.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use cluster_tests::cluster::{Cluster, Options, PSAP, Shared, anycast};
use cluster_tests::message::{Dialog, Message, sdp};
use cluster_tests::rtp::{media, packet};
use cluster_tests::scene::{Call, Scene};
use cluster_tests::wait;

/// Longest wait for packets of a stream that is open.
const LIMIT: Duration = Duration::from_secs(10);
/// Shortest wait after which a packet is taken for lost.
const LOST: Duration = Duration::from_millis(60);
/// Packets by which a stream is known to run.
const PACKETS: usize = 10;
const PSAP_CONTACT: &str = "<sip:psap@127.0.2.1:5060>";

fn cluster() -> Shared {
    Cluster::shared(Options::with_own_psap())
}

fn socket(at: &str) -> UdpSocket {
    let socket = UdpSocket::bind(at).expect("free");
    socket.set_read_timeout(Some(LOST)).expect("not zero");
    socket
}

/// Datagrams cross, octet for octet, and reach that far end.
#[track_caller]
fn crosses_as(what: impl Fn(u16) -> Vec<u8>, from: &UdpSocket, to: SocketAddr, there: &UdpSocket) {
    let (mut heard, mut sequence) = (0, 0);
    wait::until("the packets cross", LIMIT, || {
        sequence += 1;
        let sent = what(sequence);
        from.send_to(&sent, to).expect("loopback");
        let mut buffer = [0; 2048];
        heard += usize::from(there.recv_from(&mut buffer).is_ok_and(|(len, _)| buffer[..len] == sent));
        if heard >= PACKETS { Ok(()) } else { Err(format!("{heard} of {sequence}")) }
    });
}

/// The same with RTP.
#[track_caller]
fn crosses(from: &UdpSocket, to: SocketAddr, there: &UdpSocket) {
    crosses_as(|sequence| packet(0, sequence), from, to, there);
}

/// The very first packet crosses: without a new offer another host would be heard only when the old source has been silent for a guard window.
#[track_caller]
fn first_crosses(from: &UdpSocket, to: SocketAddr, there: &UdpSocket) {
    let sent = packet(0, 0x7777);
    from.send_to(&sent, to).expect("loopback");
    let mut buffer = [0; 2048];
    wait::until("the first packet", LIMIT, || {
        let heard = there.recv_from(&mut buffer).is_ok_and(|(len, _)| buffer[..len] == sent);
        if heard { Ok(()) } else { Err("lost") }
    });
}

fn established(scene: &mut Scene) -> (Call, SocketAddr, SocketAddr) {
    let call = scene.established(anycast());
    let (for_caller, for_psap) = (media(&call.ok), media(&call.psap_invite));
    (call, for_caller, for_psap)
}

fn over(scene: &mut Scene, cluster: &Cluster, before: usize, mut call: Call) {
    scene.hang_up(&mut call, anycast());
    scene.settled(cluster, before + 1, (&call.invite, &call.psap_invite));
}

/// AC-54, RFC 7362 §4: the caller is behind a NAT, which changes its mapping in mid-call, twice: to another port, which is heard when the
/// old one is silent; and to another address, for which a new offer with the same private address opens the latch.
#[test]
fn a_caller_whose_source_changes_is_heard_again() {
    let (cluster, mut scene) = (cluster(), Scene::new());
    let before = cluster.cdrs().len();
    let (mut call, for_caller, for_psap) = established(&mut scene);
    let psap = socket("127.0.2.1:42000");
    let old = socket("127.0.3.1:40020");
    crosses(&old, for_caller, &psap);
    crosses(&psap, for_psap, &old);
    let new = socket("127.0.3.1:40030");
    crosses(&new, for_caller, &psap);
    crosses(&psap, for_psap, &new);

    let again = sdp("127.0.3.1:40000".parse().expect("an address"), 2, "sendrecv");
    let invite = call.from_caller.request("INVITE").with_sdp(again);
    scene.caller.send(&invite, anycast());
    let (asked, from) = scene.psap.expect_request("INVITE");
    let answer = sdp(SocketAddr::new(PSAP.ip(), 42_000), 1, "sendrecv");
    scene.psap.send(&asked.response(200, "OK", "").with("Contact", PSAP_CONTACT).with_sdp(answer), from);
    let (told, _) = scene.caller.expect_final(&invite);
    scene.caller.send(&call.from_caller.ack(invite.cseq().0), anycast());
    scene.psap.expect_request("ACK");
    assert_eq!(media(&told), for_caller, "the ports stay");
    let elsewhere = socket("127.0.3.9:40030");
    first_crosses(&elsewhere, for_caller, &psap);
    crosses(&elsewhere, for_caller, &psap);
    crosses(&psap, for_psap, &elsewhere);
    over(&mut scene, &cluster, before, call);
}

/// RFC 3264 §5.1: what the caller says goes where the PSAP listens, and what the PSAP says is heard wherever it sends from; a trunk whose
/// media are latched is spoken to where it speaks from.
#[test]
fn a_psap_that_sends_from_another_port_is_spoken_to_where_it_listens() {
    let (cluster, mut scene) = (cluster(), Scene::new());
    let caller = socket("127.0.3.1:40000");
    let (listens, sends) = (socket("127.0.2.1:42000"), socket("127.0.2.1:42500"));
    let mut speak = |there: &UdpSocket| {
        let before = cluster.cdrs().len();
        let (call, for_caller, for_psap) = established(&mut scene);
        crosses(&sends, for_psap, &caller);
        crosses(&caller, for_caller, there);
        over(&mut scene, &cluster, before, call);
    };
    speak(&listens);
    cluster.with_psap(&format!("\"{PSAP};transport=udp\""), "latching = true", || speak(&sends));
}

/// Where line `n` of a description leads.
fn place(message: &Message, n: usize) -> SocketAddr {
    let text = message.text();
    let ip = text.lines().find_map(|l| l.strip_prefix("c=IN IP4 ")).expect("an address");
    let line = text.lines().filter_map(|l| l.strip_prefix("m=")).nth(n).expect("a line");
    format!("{ip}:{}", line.split(' ').nth(1).expect("a port")).parse().expect("an address")
}

/// A call whose INVITE and 200 have these bodies; both as the other side got them.
fn with_bodies(scene: &mut Scene, invite: &Message, answer: Vec<u8>) -> (Call, Message, Message) {
    let (asked, from) = scene.ring(invite, anycast());
    let psap_ok = Scene::answer(&asked).with_sdp(answer);
    scene.psap.send(&psap_ok, from);
    let (ok, _) = scene.caller.expect_response(200, "INVITE");
    let from_caller = Dialog::of_caller(invite, &ok, scene.caller.at(), "UDP");
    let from_psap = Dialog::of_callee(&asked, &psap_ok, PSAP);
    scene.caller.send(&from_caller.ack(1), anycast());
    scene.psap.expect_request("ACK");
    let call = Call { invite: invite.clone(), psap_invite: asked.clone(), ok: ok.clone(), from_caller, from_psap };
    (call, asked, ok)
}

/// RFC 5764, RFC 7983, RFC 7345: the handshake of DTLS-SRTP, STUN, its RTP, and fax beside it, each on the ports of its line; MSRP is
/// refused without a trace where the topology is hidden.
#[test]
fn dtls_and_fax_cross_untouched_and_msrp_is_refused() {
    let (cluster, mut scene) = (cluster(), Scene::new());
    let before = cluster.cdrs().len();
    let lines = |ip: &str, port: u16| {
        format!(
            "v=0\r\no=- 1 1 IN IP4 {ip}\r\ns=-\r\nc=IN IP4 {ip}\r\nt=0 0\r\nm=audio {port} UDP/TLS/RTP/SAVP 0\r\n\
             a=fingerprint:sha-256 {ip}\r\na=setup:actpass\r\nm=image {} udptl t38\r\n",
            port + 4
        )
    };
    let msrp = "m=message 40008 TCP/MSRP *\r\na=path:msrp://127.0.3.1:40008/x;tcp\r\n";
    let invite = scene.invite().with_sdp(format!("{}{msrp}", lines("127.0.3.1", 40_000)).into_bytes());
    let (call, asked, ok) =
        with_bodies(&mut scene, &invite, format!("{}m=message 0 TCP/MSRP *\r\n", lines("127.0.2.1", 42_000)).into_bytes());
    let text = asked.text();
    assert!(text.contains("a=fingerprint:sha-256 127.0.3.1\r\n") && ok.text().contains("a=fingerprint:sha-256 127.0.2.1\r\n"));
    assert!(text.contains("m=message 0 TCP/MSRP") && !text.contains("a=path"), "{text}");
    let bind = |port: u16| [socket(&format!("127.0.3.1:{port}")), socket(&format!("127.0.2.1:{}", port + 2_000))];
    let ([caller, psap], [caller_fax, psap_fax]) = (bind(40_000), bind(40_004));
    let hello = |n: u16| [[22, 254, 253].as_slice(), &n.to_be_bytes(), &[7; 100]].concat();
    let stun = |n: u16| [[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42].as_slice(), &n.to_be_bytes(), &[7; 10]].concat();
    let fax = |n: u16| [n.to_be_bytes().as_slice(), &[1, 6, 0, 0]].concat();
    for what in [&hello as &dyn Fn(u16) -> Vec<u8>, &stun, &|n| packet(0, n)] {
        crosses_as(what, &caller, place(&ok, 0), &psap);
        crosses_as(what, &psap, place(&asked, 0), &caller);
    }
    crosses_as(fax, &caller_fax, place(&ok, 1), &psap_fax);
    crosses_as(fax, &psap_fax, place(&asked, 1), &caller_fax);
    over(&mut scene, &cluster, before, call);
}

/// NENA-STA-010: a location and a description in a part that lacks its blank line. The two hear each other, and neither sees where the other is.
#[test]
fn a_description_in_an_odd_body_is_anchored() {
    let (cluster, mut scene) = (cluster(), Scene::new());
    let before = cluster.cdrs().len();
    let description = String::from_utf8(sdp("127.0.3.1:40000".parse().expect("an address"), 1, "sendrecv")).expect("text");
    let body = format!(
        "--b\r\nContent-Type: application/pidf+xml\r\n\r\n<presence/>\r\n--b\r\nContent-Type: application/sdp\r\n{description}\r\n--b--\r\n"
    );
    let mut invite = scene.invite().replace("Content-Type", "multipart/mixed;boundary=b");
    invite.body = body.into_bytes();
    let answer = sdp(SocketAddr::new(PSAP.ip(), 42_000), 1, "sendrecv");
    let (call, asked, ok) = with_bodies(&mut scene, &invite, answer);
    assert!(asked.text().contains("<presence/>") && !asked.text().contains("127.0.3.1"), "{}", asked.text());
    let (caller, psap) = (socket("127.0.3.1:40000"), socket("127.0.2.1:42000"));
    crosses(&caller, media(&ok), &psap);
    crosses(&psap, media(&asked), &caller);
    over(&mut scene, &cluster, before, call);
}
