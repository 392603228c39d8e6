//! Where media go, through real nodes and with real packets: far ends whose ports change, PSAPs that send from another port than they
//! listen on.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use cluster_tests::cluster::{Cluster, Options, PSAP, Shared, anycast};
use cluster_tests::message::sdp;
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
