//! The message corpus (RFC 4475, RFC 5118 and our own, `node/core/tests/corpus`) at live nodes, as datagrams and over TCP: each
//! message has its answer, or none, and the nodes go on serving.

#[path = "../../node/core/tests/corpus/format.rs"]
#[allow(dead_code, reason = "shared with the tests of the core, which read more of it")]
mod format;

use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use cluster_tests::cluster::{Cluster, Options, PSAP, anycast};
use cluster_tests::message::{Message, unique};
use cluster_tests::phone::{ANSWER, Phone};
use format::{Entry, entries};

/// Answers to messages without rport go to port 5060 of the address that they came from.
const CALLER: &str = "127.0.3.77:5060";
/// One look at a socket.
const LOOK: Duration = Duration::from_millis(5);

/// What becomes of one message: the answer to its sender, and what the called side got.
#[derive(Default)]
struct Outcome {
    answer: String,
    far: Option<Message>,
}

impl Outcome {
    fn status(&self) -> &str {
        self.answer.get(8..11).unwrap_or_default()
    }

    /// The final answer is there.
    fn is_final(&self) -> bool {
        !self.answer.is_empty() && !self.answer.starts_with("SIP/2.0 1")
    }
}

/// What tells the answers to one message from those to others: its Call-ID, or, without one, its branch.
fn mark(entry: &Entry) -> String {
    let text = String::from_utf8_lossy(&entry.octets).into_owned();
    let call_id = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        ["call-id", "i"].contains(&name.trim().to_ascii_lowercase().as_str()).then(|| value.trim().to_owned())
    });
    call_id.unwrap_or_else(|| text.split("branch=").nth(1).and_then(|b| b.lines().next()).unwrap_or_default().to_owned())
}

/// The PSAP refuses calls, so that nothing is left over, and takes all else.
fn answer_at_psap(psap: &mut Phone, outcome: &mut Outcome) {
    while let Some((request, from)) = psap.wait(LOOK, |m| !m.method().is_empty()) {
        match request.method() {
            "ACK" => {}
            "INVITE" => psap.send(&request.response(486, "Busy Here", "far"), from),
            _ => psap.send(&request.response(200, "OK", "far"), from),
        }
        if request.method() != "ACK" {
            outcome.far.get_or_insert(request);
        }
    }
}

fn check(entry: &Entry, wanted: &str, outcome: &Outcome, wrong: &mut Vec<String>) {
    let far = outcome.far.as_ref().map(|m| String::from_utf8_lossy(&m.bytes()).into_owned()).unwrap_or_default();
    let fits = wanted.split('|').any(|w| match w {
        "none" => outcome.answer.is_empty() && far.is_empty(),
        "cross" => !far.is_empty() && ["486", "200"].contains(&outcome.status()),
        status => outcome.status() == status,
    });
    let has = entry.has.iter().all(|t| outcome.answer.contains(t.as_str()));
    let crossed = entry.far.iter().all(|t| far.contains(t.as_str())) && !entry.not.iter().any(|t| far.contains(t.as_str()));
    if !fits || !has || !crossed {
        wrong.push(format!("{}: wanted {wanted}\nanswer: {}\nfar side: {far}", entry.name, outcome.answer));
    }
}

/// A live cluster in which everything has a route.
fn cluster() -> Cluster {
    let cluster = Cluster::start(Options::with_own_psap());
    let text = cluster.config_text();
    cluster.apply_config(&format!("{text}\n[[routes]]\nname = \"all\"\ntrunks = [\"psap\"]\n"));
    cluster
}

/// OPTIONS gets through: what came before it has been dealt with.
fn ping(socket: &UdpSocket, mut other: impl FnMut(&str)) {
    let id = unique("ping");
    let options = Message::request("OPTIONS", "sip:127.0.0.100")
        .with("Via", &format!("SIP/2.0/UDP {CALLER};branch={};rport", unique("z9hG4bK")))
        .with("Max-Forwards", "70")
        .with("From", &format!("<sip:c@{CALLER}>;tag=1"))
        .with("To", "<sip:127.0.0.100>")
        .with("Call-ID", &id)
        .with("CSeq", "1 OPTIONS");
    socket.send_to(&options.bytes(), anycast()).expect("loopback takes it");
    let end = Instant::now() + ANSWER;
    while Instant::now() < end {
        let Some(text) = read(socket) else { continue };
        if text.contains(&id) {
            return;
        }
        other(&text);
    }
    panic!("a node no longer answers");
}

fn read(socket: &UdpSocket) -> Option<String> {
    let mut buffer = vec![0; 65_535];
    let n = socket.recv(&mut buffer).ok()?;
    Some(String::from_utf8_lossy(&buffer[..n]).into_owned())
}

#[test]
fn every_message_as_a_datagram_and_over_tcp() {
    let cluster = cluster();
    let mut psap = Phone::bind(PSAP);
    let mut wrong = Vec::new();
    datagrams(&mut psap, &mut wrong);
    streams(&mut psap, &mut wrong);
    assert!(wrong.is_empty(), "{} wrong:\n{}\n{}", wrong.len(), wrong.join("\n"), cluster.logs());
    for node in 0..3 {
        assert!(cluster.is_up(node), "node {node} died");
    }
}

fn datagrams(psap: &mut Phone, wrong: &mut Vec<String>) {
    let socket = UdpSocket::bind(CALLER).expect("loopback is free");
    socket.set_read_timeout(Some(LOOK)).expect("it is not zero");
    for entry in entries() {
        let mark = mark(&entry);
        let mut outcome = Outcome::default();
        socket.send_to(&entry.octets, anycast()).expect("loopback takes it");
        let note = |text: &str, outcome: &mut Outcome| {
            // What else comes is repeated: answers to earlier calls, which nobody acknowledges.
            if !mark.is_empty() && text.contains(&mark) && !outcome.is_final() {
                outcome.answer = text.to_owned();
            }
        };
        if entry.node == "none" {
            ping(&socket, |text| note(text, &mut outcome));
        }
        let end = Instant::now() + ANSWER;
        while entry.node != "none" && !outcome.is_final() && Instant::now() < end {
            answer_at_psap(psap, &mut outcome);
            if let Some(text) = read(&socket) {
                note(&text, &mut outcome);
            }
        }
        check(&entry, &entry.node, &outcome, wrong);
    }
}

fn streams(psap: &mut Phone, wrong: &mut Vec<String>) {
    for mut entry in entries().into_iter().filter(|e| e.tcp != "skip") {
        let wanted = if entry.tcp.is_empty() { entry.node.clone() } else { entry.tcp.clone() };
        // Another call than that of the datagram.
        let text = mark(&entry);
        entry.octets = replaced(&entry.octets, text.as_bytes(), format!("{text}.tcp").as_bytes());
        entry.octets = replaced(&entry.octets, b"z9hG4bK", b"z9hG4bKtcp");
        let mut stream = TcpStream::connect(anycast()).expect("a node listens");
        stream.set_read_timeout(Some(LOOK)).expect("it is not zero");
        stream.write_all(&entry.octets).expect("loopback takes it");
        let (mut outcome, mut seen, mut closed) = (Outcome::default(), String::new(), false);
        let silence = stream.try_clone().ok().filter(|_| wanted == "none");
        if let Some(mut stream) = silence {
            // Behind what gets no answer: a keep-alive, whose answer says that it was read (RFC 5626 §4.4.1), or the end.
            let _ = stream.write_all(b"\r\n\r\n");
        }
        let end = Instant::now() + ANSWER;
        while !outcome.is_final() && !closed && Instant::now() < end {
            answer_at_psap(psap, &mut outcome);
            let mut buffer = [0; 65_535];
            match stream.read(&mut buffer) {
                Ok(0) => closed = true,
                Ok(n) => seen.push_str(&String::from_utf8_lossy(&buffer[..n])),
                Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
                Err(_) => closed = true,
            }
            if wanted == "none" && seen == "\r\n" {
                break;
            }
            // The first that is no 1xx.
            let at = seen.match_indices("SIP/2.0 ").map(|(at, _)| at).find(|at| !seen[*at..].starts_with("SIP/2.0 1"));
            if let Some(answer) = at.map(|at| &seen[at..]).filter(|a| a.contains("\r\n\r\n")) {
                outcome.answer = answer.to_owned();
            }
        }
        check(&entry, &wanted, &outcome, wrong);
    }
}

fn replaced(octets: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let at = octets.windows(from.len().max(1)).position(|w| w == from);
    at.map_or_else(|| octets.to_vec(), |at| [&octets[..at], to, &octets[at + from.len()..]].concat())
}
