//! A caller behind a real NAT (netfilter) that forgets a UDP flow after 4 s, and lets nothing in that nobody asked for.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use cluster_tests::baresip::Baresip;
use cluster_tests::cluster::list;
use cluster_tests::command;
use cluster_tests::lab::{CALLER_TONE, LIMIT, Lab, PSAP_TONE, SECOND, both_hear_each_other, says};
use cluster_tests::message::{Dialog, Message};
use cluster_tests::netns::Namespace;
use cluster_tests::phone::{ANSWER, Phone};
use cluster_tests::scene::Scene;
use cluster_tests::wait;

const INSIDE: &str = "192.168.55.2";
const PSAP: &str = "198.18.1.2";
/// More seconds than the NAT remembers.
const LONG: usize = 7;
/// A port-restricted NAT, with its memory cut short, at what is the caller's host in other labs.
const NAT: &str = "set -e
echo 1 >/proc/sys/net/ipv4/ip_forward
echo 4 >/proc/sys/net/netfilter/nf_conntrack_udp_timeout
echo 4 >/proc/sys/net/netfilter/nf_conntrack_udp_timeout_stream
nft -f - <<'RULES'
table ip home {
  chain out { type nat hook postrouting priority 100; oifname ua0 masquerade; }
  chain through { type filter hook forward priority 0; iifname ua0 ct state != { established, related } drop; }
}
RULES";

/// A lab whose caller is at home, behind that NAT. The nodes ping it each second.
struct Home {
    host: Namespace,
    lab: Lab,
}

impl Home {
    fn start() -> Home {
        let lab = Lab::with(&format!("{PSAP}:5060;transport=udp"), "nat_keepalive_s = 1");
        let host = Namespace::new("sbct-home");
        lab.caller.link("home0", &["192.168.55.1/24"], &host, "ua0", &[format!("{INSIDE}/24")]);
        host.ip(&["route", "add", "default", "via", "192.168.55.1"]);
        let mut rules = lab.caller.command("sh");
        command::run(rules.args(["-c", NAT]), LIMIT).unwrap_or_else(|e| panic!("{e}")).ok("the rules of the NAT");
        Home { host, lab }
    }
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// Where the SIP URI in a header field leads.
fn target(message: &Message) -> SocketAddr {
    let uri = message.uri("Contact");
    let at = uri.rsplit('@').next().and_then(|h| h.split([';', '>']).next()).expect("a host");
    address(at)
}

fn receive(socket: &UdpSocket, within: Duration) -> Option<SocketAddr> {
    socket.set_read_timeout(Some(within)).expect("not zero");
    socket.recv_from(&mut [0; 64]).ok().map(|(_, from)| from)
}

/// RFC 5626 §3.5.1, RFC 4787 §4.3: the BYE of the PSAP reaches a caller that has said nothing for longer than its NAT remembers.
#[test]
fn a_quiet_caller_is_reached_through_its_nat() {
    let home = Home::start();
    let mut caller = home.host.inside(|| Phone::bind(address(&format!("{INSIDE}:5062"))));
    let mut psap = home.lab.psap.inside(|| Phone::bind(address(&format!("{PSAP}:5060"))));
    // What happens to a flow that nobody keeps alive.
    let idle = home.host.inside(|| UdpSocket::bind((INSIDE, 7000)).expect("free"));
    let outside = home.lab.sbc.inside(|| UdpSocket::bind("198.18.0.11:7000").expect("free"));
    idle.send_to(b"out", "198.18.0.11:7000").expect("a route");
    let mapped = receive(&outside, ANSWER).expect("the NAT lets it out");
    assert_eq!(mapped.ip(), address("198.18.0.2:0").ip());
    outside.send_to(b"in", mapped).expect("a route");
    assert!(receive(&idle, ANSWER).is_some(), "the NAT lets the answer in");

    let invite = Message::invite("sip:112@198.18.0.100", caller.at(), "UDP");
    caller.send(&invite, address("198.18.0.100:5060"));
    let (at_psap, from) = psap.expect_request("INVITE");
    let answer = Scene::answer(&at_psap).replace("Contact", &format!("<sip:psap@{PSAP}>"));
    psap.send(&answer, from);
    let (ok, _) = caller.expect_response(200, "INVITE");
    let dialog = Dialog::of_caller(&invite, &ok, caller.at(), "UDP");
    caller.send(&dialog.ack(1), target(&ok));
    psap.expect_request("ACK");

    caller.pinged(LONG, LIMIT);
    outside.send_to(b"in", mapped).expect("a route");
    assert!(receive(&idle, Duration::from_millis(500)).is_none(), "the NAT has forgotten what is idle for so long");
    let bye = Dialog::of_callee(&at_psap, &answer, psap.at()).request("BYE");
    psap.send(&bye, target(&at_psap));
    let (there, node) = caller.expect_request("BYE");
    caller.send(&there.response(200, "OK", ""), node);
    assert_eq!(psap.expect_final(&bye).0.status(), 200);
}

/// A real phone there: audio both ways, though its SDP names an address that nobody can reach, and the PSAP hangs up.
#[test]
fn a_phone_behind_a_nat_hears_and_is_heard() {
    let home = Home::start();
    let lab = &home.lab;
    let mut psap = Baresip::start(&lab.psap, "ua0", PSAP, "112", PSAP_TONE, None);
    says(&psap, "baresip is ready", lab);
    let mut caller = Baresip::start(&home.host, "ua0", INSIDE, "caller", CALLER_TONE, Some("sip:112@198.18.0.100"));
    says(&caller, "Call established", lab);
    says(&psap, "Call established", lab);
    both_hear_each_other(&caller, &psap, "at first");
    wait::until("a call of some seconds", LIMIT, || {
        let seconds = caller.heard().len() / SECOND;
        if seconds >= LONG { Ok(()) } else { Err(seconds) }
    });
    psap.hang_up();
    says(&caller, "session closed", lab);
    caller.hang_up();
    wait::until("no call, one CDR", LIMIT, || {
        let cdrs = list(&lab.ctl(&["cdr", "list"]).unwrap_or_default(), "cdrs");
        if lab.calls().is_empty() && cdrs.len() == 1 { Ok(()) } else { Err(cdrs) }
    });
    let ladder = lab.ladder();
    assert!(ladder.contains("198.18.0.2:") && !ladder.contains(INSIDE), "all of it by way of the NAT: {ladder}");
}
