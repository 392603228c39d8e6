//! dnsmasq, a real DNS server, with the records of a test.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::process::Command;
use std::time::Duration;

use crate::command::{self, Running};
use crate::netns::Namespace;
use crate::wait;

/// Where it serves; clusters are told by `--set dns.servers=["…"]`.
pub const DNS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 2, 53)), 5353);
/// Time to live of all records.
pub const TTL: Duration = Duration::from_secs(1);
/// How long it may take to start and to end.
const LIMIT: Duration = Duration::from_secs(10);

/// A running server for the names under `test.`; dropped: gone, and its port free.
#[derive(Debug)]
pub struct Dnsmasq(Option<Running>);

impl Dnsmasq {
    /// Starts it with records in the words of its command line, without the dashes: `host-record=a.test,127.0.2.1`,
    /// `srv-host=_sip._udp.b.test,a.test,5060,10,100`, `naptr-record=b.test,20,10,s,SIP+D2U,,_sip._udp.b.test`.
    ///
    /// # Panics
    /// There is no dnsmasq, or it does not start.
    pub fn start<S: AsRef<str>>(records: impl IntoIterator<Item = S>) -> Dnsmasq {
        Dnsmasq::with(Command::new("dnsmasq"), records, || UdpSocket::bind(DNS).is_err())
    }

    /// The same for the nodes of a host.
    ///
    /// # Panics
    /// There is no dnsmasq, or it does not start.
    pub fn start_on<S: AsRef<str>>(host: &Namespace, records: impl IntoIterator<Item = S>) -> Dnsmasq {
        Dnsmasq::with(host.command("dnsmasq"), records, || host.inside(|| UdpSocket::bind(DNS).is_err()))
    }

    fn with<S: AsRef<str>>(mut dnsmasq: Command, records: impl IntoIterator<Item = S>, serves: impl Fn() -> bool) -> Dnsmasq {
        dnsmasq.args(["--keep-in-foreground", "--conf-file=/dev/null", "--pid-file=", "--no-resolv", "--no-hosts"]);
        dnsmasq.args(["--local=/test/", "--bind-interfaces", "--except-interface=none"]);
        dnsmasq.arg(format!("--listen-address={}", DNS.ip())).arg(format!("--port={}", DNS.port()));
        dnsmasq.arg(format!("--local-ttl={}", TTL.as_secs()));
        dnsmasq.args(records.into_iter().map(|r| format!("--{}", r.as_ref())));
        let mut running = command::spawn(&mut dnsmasq).expect("dnsmasq is there: deploy/setup.sh test installs it");
        wait::until("dnsmasq serves", LIMIT, || {
            assert!(running.is_running(), "{}", running.stderr());
            if serves() { Ok(()) } else { Err("the port is free") }
        });
        Dnsmasq(Some(running))
    }

    /// Ends it and takes its port, on which then nobody answers.
    ///
    /// # Panics
    /// The port does not become free.
    pub fn hang(mut self) -> UdpSocket {
        self.0 = None;
        wait::until("the port is free", LIMIT, || UdpSocket::bind(DNS))
    }
}

impl Drop for Dnsmasq {
    fn drop(&mut self) {
        if self.0.take().is_some() {
            // The next test's server must find it free.
            wait::until("the port is free", LIMIT, || UdpSocket::bind(DNS).map(drop));
        }
    }
}

/// A (RFC 1035) and SRV (RFC 2782).
const A: u16 = 1;
const SRV: u16 = 33;

/// Where SRV leads to, the preferred first: priority and address. As a phone asks it.
///
/// # Panics
/// There is no answer.
pub fn srv(name: &str) -> Vec<(u16, SocketAddr)> {
    let mut found = Vec::new();
    let (packet, records) = ask(name, SRV);
    for at in records {
        let (priority, port) = (word(&packet, at), word(&packet, at + 4));
        let (host, _) = read_name(&packet, at + 6);
        let (answer, addresses) = ask(&host, A);
        let ips = addresses.into_iter().map(|at| Ipv4Addr::new(answer[at], answer[at + 1], answer[at + 2], answer[at + 3]));
        found.extend(ips.map(|ip| (priority, SocketAddr::new(ip.into(), port))));
    }
    found.sort_unstable();
    found
}

/// Asks the server one question: the answer, and where in it the data of each record of that type begins.
fn ask(name: &str, kind: u16) -> (Vec<u8>, Vec<usize>) {
    let mut question = vec![0x5b, 0xc0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.trim_end_matches('.').split('.') {
        question.push(u8::try_from(label.len()).expect("a label is short"));
        question.extend_from_slice(label.as_bytes());
    }
    question.push(0);
    question.extend([kind.to_be_bytes(), 1u16.to_be_bytes()].concat());
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback is free");
    socket.set_read_timeout(Some(LIMIT)).expect("not zero");
    socket.send_to(&question, DNS).expect("loopback");
    let mut packet = vec![0; 4096];
    let (len, _) = socket.recv_from(&mut packet).unwrap_or_else(|e| panic!("no answer about {name}: {e}"));
    packet.truncate(len);
    let (mut at, mut records) = (question.len(), Vec::new());
    for _ in 0..word(&packet, 6) {
        let (_, data) = read_name(&packet, at);
        if word(&packet, data) == kind {
            records.push(data + 10);
        }
        at = data + 10 + usize::from(word(&packet, data + 8));
    }
    (packet, records)
}

fn word(packet: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([packet[at], packet[at + 1]])
}

/// A name and where it ends; RFC 1035 §4.1.4.
fn read_name(packet: &[u8], mut at: usize) -> (String, usize) {
    let (mut name, mut end) = (String::new(), None);
    loop {
        match packet[at] {
            0 => return (name, end.unwrap_or(at + 1)),
            len if len >= 0xc0 => {
                end = end.or(Some(at + 2));
                at = usize::from(word(packet, at) & 0x3fff);
            }
            len => {
                let label = &packet[at + 1..=at + usize::from(len)];
                name.push_str(&format!("{}.", String::from_utf8_lossy(label)));
                at += usize::from(len) + 1;
            }
        }
    }
}
