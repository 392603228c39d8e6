//! The message corpus (RFC 4475, RFC 5118 and our own, `node/core/tests/corpus`) at live nodes, as datagrams, over TCP and over TLS:
//! each message has its answer, or none, what should not cross does not, and the nodes go on serving.

#[path = "../../node/core/tests/corpus/format.rs"]
mod format;

use std::collections::HashSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use cluster_tests::cluster::{ANYCAST, Cluster, Options, PSAP, SIPS_PORT, anycast};
use cluster_tests::command;
use cluster_tests::message::{Message, heard, unique};
use cluster_tests::phone::ANSWER;
use cluster_tests::stream::StreamPhone;
use cluster_tests::wait;
use format::{Entry, Seen, entries};

/// One look at a socket.
const LOOK: Duration = Duration::from_millis(20);
/// Whom [`fence`] calls: an emergency service, for which nobody is challenged.
const FENCE: &str = "urn:service:sos.fence";

/// The PSAP refuses calls, so that nothing is left over, takes all else, and keeps what it got.
struct Psap {
    got: Arc<Mutex<Vec<Vec<u8>>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Psap {
    fn start() -> Psap {
        let socket = UdpSocket::bind(PSAP).expect("loopback is free");
        socket.set_read_timeout(Some(LOOK)).expect("it is not zero");
        let (got, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (keep, stopped) = (Arc::clone(&got), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let (mut buffer, mut seen) = (vec![0; 65_535], HashSet::new());
            while !stopped.load(Ordering::Relaxed) {
                let Ok((n, from)) = socket.recv_from(&mut buffer) else { continue };
                let Some(request) = heard(&buffer[..n]).filter(|m| !["", "ACK"].contains(&m.method())) else { continue };
                if seen.insert((request.header("Call-ID").to_owned(), request.header("CSeq").to_owned())) {
                    keep.lock().unwrap_or_else(PoisonError::into_inner).push(buffer[..n].to_vec());
                }
                let (status, reason) = if request.method() == "INVITE" { (486, "Busy Here") } else { (200, "OK") };
                let _ = socket.send_to(&request.response(status, reason, "far").bytes(), from);
            }
        });
        Psap { got, stop, thread: Some(thread) }
    }

    /// What it got since it was last asked, but the fences.
    fn take(&self) -> Vec<Vec<u8>> {
        let mut got = std::mem::take(&mut *self.got.lock().unwrap_or_else(PoisonError::into_inner));
        got.retain(|octets| !octets.starts_with(b"INVITE urn:service:sos.fence "));
        got
    }
}

impl Drop for Psap {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A socket of an address of its own, so that whatever arrives there is for what was sent from there. Its port is that to which
/// answers go for which no rport asks.
fn socket() -> UdpSocket {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    let [high, low] = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    let socket = UdpSocket::bind((Ipv4Addr::new(127, 3, high, low), 5060)).expect("loopback is free");
    socket.set_read_timeout(Some(LOOK)).expect("it is not zero");
    socket
}

fn read(socket: &UdpSocket) -> Option<String> {
    let mut buffer = vec![0; 65_535];
    let n = socket.recv(&mut buffer).ok()?;
    Some(String::from_utf8_lossy(&buffer[..n]).into_owned())
}

/// A call that crosses and is refused: what came before it from there has been dealt with, in the log too.
fn fence(socket: &UdpSocket, seen: &mut Seen) {
    let from = socket.local_addr().expect("it is bound");
    let invite = Message::invite(FENCE, from, "UDP");
    socket.send_to(&invite.bytes(), anycast()).expect("loopback takes it");
    let end = Instant::now() + ANSWER;
    while Instant::now() < end {
        let Some(text) = read(socket) else { continue };
        if !text.contains(invite.header("Call-ID")) {
            seen.note(text);
            continue;
        }
        let Some(answer) = heard(text.as_bytes()).filter(|m| m.status() >= 200) else { continue };
        assert_eq!(answer.status(), 486, "{text}");
        let ack = Message { start: format!("ACK {FENCE} SIP/2.0"), body: Vec::new(), ..invite };
        let ack = ack.replace("CSeq", "1 ACK").replace("To", answer.header("To")).without("Content-Type");
        socket.send_to(&ack.bytes(), anycast()).expect("loopback takes it");
        return;
    }
    panic!("calls no longer cross");
}

fn datagram(entry: &Entry, psap: &Psap) -> Option<String> {
    let (socket, mut seen) = (socket(), Seen::default());
    socket.send_to(&entry.octets, anycast()).unwrap_or_else(|e| panic!("{}: {e}", entry.name));
    let end = Instant::now() + ANSWER;
    while seen.answers.len() < entry.answers(false) && Instant::now() < end {
        if let Some(text) = read(&socket) {
            seen.note(text);
        }
    }
    fence(&socket, &mut seen);
    seen.far = psap.take();
    entry.fault(false, &seen)
}

/// The next message of a stream, all of which have a Content-Length.
fn cut(buffer: &mut Vec<u8>) -> Option<String> {
    let head = buffer.windows(4).position(|w| w == b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&buffer[..head]).into_owned();
    let length = text.lines().find_map(|line| line.strip_prefix("Content-Length: ")?.parse::<usize>().ok());
    let end = head + length.unwrap_or_else(|| panic!("a message on a stream has a Content-Length: {text}"));
    (buffer.len() >= end).then(|| String::from_utf8_lossy(&buffer.drain(..end).collect::<Vec<_>>()).into_owned())
}

/// Sends a message on a connection of its own, and behind it OPTIONS, whose answer says that it has been read, or the connection ends.
fn stream(entry: &Entry, psap: &Psap, mut phone: StreamPhone) -> Option<String> {
    let mut seen = Seen::default();
    // Another call than that of the datagram.
    let mark = phone.transport().to_ascii_lowercase();
    let octets = replaced(&entry.octets, b"corpus.", format!("corpus.{mark}.").as_bytes());
    let octets = replaced(&octets, b"z9hG4bK", format!("z9hG4bK{mark}").as_bytes());
    // The far end may have closed before all was written.
    let _ = phone.try_send_raw(&octets);
    let id = unique("ping");
    let options = Message::request("OPTIONS", "sip:127.0.0.100")
        .with("Via", &format!("SIP/2.0/{} h.example.net;branch={};rport", phone.transport(), unique("z9hG4bK")))
        .with("Max-Forwards", "70")
        .with("From", "<sip:c@h.example.net>;tag=1")
        .with("To", "<sip:127.0.0.100>")
        .with("Call-ID", &id)
        .with("CSeq", "1 OPTIONS");
    let (mut buffer, mut asked, mut over) = (Vec::new(), false, false);
    let end = Instant::now() + ANSWER;
    while !over && Instant::now() < end {
        if !asked && seen.answers.len() >= entry.answers(true) {
            asked = true;
            let _ = phone.try_send_raw(&options.bytes());
        }
        match phone.octets() {
            Some(octets) => buffer.extend(octets),
            None => over = true,
        }
        while let Some(message) = cut(&mut buffer) {
            if message.contains(&id) {
                over = true;
            } else {
                seen.note(message);
            }
        }
    }
    fence(&socket(), &mut Seen::default());
    seen.far = psap.take();
    let fault = entry.fault(true, &seen).map(|fault| format!("{}: {fault}", phone.transport()));
    if over { fault } else { Some(format!("{}: {} and nothing more is answered\n{fault:?}", phone.transport(), entry.name)) }
}

/// Each occurrence replaced that something follows which is no end of a line (a branch that is the cookie alone stays so).
fn replaced(octets: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(octets.len());
    let mut at = 0;
    while at < octets.len() {
        let here = octets[at..].starts_with(from) && octets.get(at + from.len()).is_some_and(|next| *next != b'\r');
        out.extend_from_slice(if here { to } else { &octets[at..=at] });
        at += if here { from.len() } else { 1 };
    }
    out
}

/// A live cluster in which everything has a route, and its CA.
fn cluster() -> (Cluster, PathBuf) {
    let secrets = command::scratch("secrets");
    fs::create_dir_all(&secrets).expect("the temporary directory is writable");
    command::write_secret(&secrets.join("alice.sip"), "wonderland");
    let set = vec![format!("node.secrets_dir={}", secrets.display())];
    let cluster = Cluster::start(Options { set, ..Options::with_own_psap() });
    let text = cluster.config_text();
    cluster.apply_config(&format!("{text}\n[[routes]]\nname = \"all\"\ntrunks = [\"psap\"]\n"));
    let ca = cluster.dir().join("pki/ca.crt");
    (cluster, ca)
}

/// The callers are to say who they are.
fn challenge(cluster: &Cluster) {
    let (text, callers) = (cluster.config_text(), "name = \"callers\"");
    assert!(text.contains(callers), "{text}");
    let auth = "auth = \"digest\"\nusers = [{ name = \"alice\", secret = \"alice.sip\" }]";
    cluster.apply_config(&text.replace(callers, &format!("{callers}\n{auth}")));
}

/// The messages that come from such callers as the cluster now has.
fn run(trunk: &str, ca: &Path, psap: &Psap, wrong: &mut Vec<String>) {
    let entries = entries(&ANYCAST.to_string());
    for entry in entries.iter().filter(|entry| entry.trunk == trunk) {
        if entry.udp != "skip" {
            wrong.extend(datagram(entry, psap));
        }
        if entry.tcp != "skip" {
            wrong.extend(stream(entry, psap, StreamPhone::tcp(anycast())));
            wrong.extend(stream(entry, psap, StreamPhone::tls(SocketAddr::new(ANYCAST, SIPS_PORT), ca)));
        }
    }
}

#[test]
fn every_message_as_a_datagram_and_over_tcp_and_tls() {
    let (cluster, ca) = cluster();
    let psap = Psap::start();
    let mut wrong = Vec::new();
    run("", &ca, &psap, &mut wrong);
    challenge(&cluster);
    run("challenged", &ca, &psap, &mut wrong);
    assert!(wrong.is_empty(), "{} wrong:\n{}\n{}", wrong.len(), wrong.join("\n"), cluster.logs());
    for node in 0..3 {
        assert!(cluster.is_up(node), "node {node} died");
        wait::until_equal("no call is left", ANSWER, &Vec::new(), || cluster.calls_at(node));
    }
}
