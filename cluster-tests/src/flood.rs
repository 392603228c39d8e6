//! A flood of calls that nobody means, and beside it callers who do: how many of these are connected, how fast, and how often the PSAP
//! is asked for one call.
//!
//! The flood comes from many loopback addresses, is bounded in number and time, and is told by what was really sent: the generator shares
//! the machine with the nodes. Its phones ignore what they hear, as those of an attacker do; the callers do as RFC 3261 says.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::message::{Dialog, Message, heard};

/// RFC 3261 §17.1.1.2.
const T1: Duration = Duration::from_millis(500);
/// Timer B: a caller who has heard nothing final by then has no call.
const GIVES_UP: Duration = Duration::from_secs(32);
/// Messages sent in a row before the clock is looked at again.
const BURST: u64 = 32;
/// Most that one flood may have, so that a slip of the finger does not run for hours.
pub const MAX_FLOOD: u64 = 1_000_000;

/// What nobody means.
#[derive(Clone, Copy, Debug)]
pub struct Flood<'a> {
    /// Whom it goes to.
    pub to: SocketAddr,
    /// What it calls.
    pub uri: &'a str,
    /// INVITEs a second that are tried.
    pub rate: u32,
    /// Addresses that it comes from.
    pub sources: u16,
    /// How long.
    pub time: Duration,
}

/// Callers, each at an address of its own.
#[derive(Clone, Copy, Debug)]
pub struct Callers<'a> {
    /// Whom they call.
    pub to: SocketAddr,
    /// What they call.
    pub uri: &'a str,
    /// Between two of them.
    pub every: Duration,
    /// How many.
    pub count: u32,
}

/// What came of the callers.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// INVITEs of the flood that were sent.
    pub flooded: u64,
    /// How long that took.
    pub took: Duration,
    /// Callers.
    pub callers: u32,
    /// Callers who were connected.
    pub connected: u32,
    /// Final answers to the others; 0: none.
    pub refused: Vec<u16>,
    /// From the first INVITE to the 200, sorted.
    pub set_up: Vec<Duration>,
}

impl Figures {
    /// INVITEs of the flood a second.
    pub fn rate(&self) -> f64 {
        self.flooded as f64 / self.took.as_secs_f64().max(0.001)
    }

    /// The set-up time that this share (0 to 1) of connected callers did not exceed.
    pub fn quantile(&self, share: f64) -> Duration {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a length")]
        let index = (self.set_up.len() as f64 * share) as usize;
        self.set_up.get(index.min(self.set_up.len().saturating_sub(1))).copied().unwrap_or_default()
    }
}

/// Floods and calls at once; both begin together, and it ends when each caller has been answered or has given up.
///
/// # Panics
/// The kernel gives no sockets, or more is asked for than [`MAX_FLOOD`].
pub fn run(flood: Flood<'_>, callers: Callers<'_>) -> Figures {
    assert!(u64::from(flood.rate) * flood.time.as_secs() <= MAX_FLOOD, "more than {MAX_FLOOD} INVITEs");
    std::thread::scope(|scope| {
        let flooding = scope.spawn(|| send_flood(&flood));
        let mut figures = call(&callers);
        (figures.flooded, figures.took) = flooding.join().expect("the flood does not panic");
        figures
    })
}

fn address(net: u8, n: u16) -> Ipv4Addr {
    let [high, low] = n.to_be_bytes();
    Ipv4Addr::new(127, net, high, low.max(1))
}

fn send_flood(flood: &Flood<'_>) -> (u64, Duration) {
    let bind = |n| UdpSocket::bind((address(90, n * 2 + 1), 0)).expect("a loopback port is free");
    let sockets: Vec<(UdpSocket, SocketAddr)> = (0..flood.sources)
        .map(|n| {
            let socket = bind(n);
            socket.set_nonblocking(true).expect("it is a socket");
            let at = socket.local_addr().expect("it is bound");
            (socket, at)
        })
        .collect();
    let (began, mut sent, mut tried, run) = (Instant::now(), 0u64, 0u64, std::process::id());
    if flood.rate == 0 || sockets.is_empty() {
        return (0, Duration::ZERO);
    }
    while began.elapsed() < flood.time {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "below MAX_FLOOD")]
        let due = (began.elapsed().as_secs_f64() * f64::from(flood.rate)) as u64;
        if sent >= due {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        }
        for _ in 0..(due - sent).min(BURST) {
            let n = tried;
            tried += 1;
            let (socket, at) = &sockets[usize::try_from(n).unwrap_or(0) % sockets.len()];
            let ip = at.ip();
            let body = format!(
                "v=0\r\no=- 1 1 IN IP4 {ip}\r\ns=-\r\nc=IN IP4 {ip}\r\nt=0 0\r\nm=audio 40000 RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\n"
            );
            let uri = flood.uri;
            let invite = format!(
                "INVITE {uri} SIP/2.0\r\nVia: SIP/2.0/UDP {at};branch=z9hG4bKx{run}-{n};rport\r\nMax-Forwards: 70\r\n\
                 From: <sip:flood@{at}>;tag=x{n}\r\nTo: <{uri}>\r\nCall-ID: flood-{run}-{n}-{}\r\nCSeq: 1 INVITE\r\n\
                 Contact: <sip:flood@{at}>\r\nContent-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{body}",
                began.elapsed().as_nanos(),
                body.len()
            );
            // A full buffer is the flood's own loss; it is not told as sent.
            if socket.send_to(invite.as_bytes(), flood.to).is_ok() {
                sent += 1;
            }
        }
    }
    (sent, began.elapsed())
}

struct Caller {
    socket: UdpSocket,
    at: SocketAddr,
    invite: Message,
    began: Instant,
    repeat: Option<(Instant, Duration)>,
    dialog: Option<Dialog>,
    bye: Option<Message>,
    done: bool,
}

fn call(callers: &Callers<'_>) -> Figures {
    let mut figures = Figures { callers: callers.count, ..Figures::default() };
    let mut active: Vec<Caller> = Vec::new();
    let (began, mut started) = (Instant::now(), 0);
    let mut buffer = [0; 8192];
    while started < callers.count || !active.is_empty() {
        let now = Instant::now();
        if started < callers.count && now >= began + callers.every * started {
            active.push(Caller::start(callers, started));
            started += 1;
        }
        for caller in &mut active {
            loop {
                match caller.socket.recv_from(&mut buffer) {
                    Ok((len, _)) => {
                        if let Some(answer) = heard(&buffer[..len]) {
                            caller.hear(&answer, callers.to, &mut figures);
                        }
                    }
                    Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                    Err(_) => {}
                }
            }
            caller.tick(now, callers.to, &mut figures);
        }
        active.retain(|caller| !caller.done);
        std::thread::sleep(Duration::from_millis(1));
    }
    figures.set_up.sort();
    figures
}

impl Caller {
    fn start(callers: &Callers<'_>, n: u32) -> Caller {
        let host = address(91, u16::try_from(n % 30_000).unwrap_or(0) * 2 + 1);
        let socket = UdpSocket::bind((host, 0)).expect("a loopback port is free");
        socket.set_nonblocking(true).expect("it is a socket");
        let at = socket.local_addr().expect("it is bound");
        let invite = Message::invite(callers.uri, at, "UDP");
        let began = Instant::now();
        let _ = socket.send_to(&invite.bytes(), callers.to);
        Caller { socket, at, invite, began, repeat: Some((began + T1, T1)), dialog: None, bye: None, done: false }
    }

    fn hear(&mut self, answer: &Message, to: SocketAddr, figures: &mut Figures) {
        match (answer.status(), answer.cseq().1) {
            (100..=199, "INVITE") if self.dialog.is_none() => self.repeat = None,
            (200, "INVITE") => {
                if self.dialog.is_none() {
                    figures.connected += 1;
                    figures.set_up.push(self.began.elapsed());
                    let mut dialog = Dialog::of_caller(&self.invite, answer, self.at, "UDP");
                    let _ = self.socket.send_to(&dialog.ack(1).bytes(), to);
                    let bye = dialog.request("BYE");
                    let _ = self.socket.send_to(&bye.bytes(), to);
                    (self.bye, self.dialog) = (Some(bye), Some(dialog));
                    self.repeat = Some((Instant::now() + T1, T1));
                } else if let Some(dialog) = &self.dialog {
                    let _ = self.socket.send_to(&dialog.ack(1).bytes(), to);
                }
            }
            (200.., "BYE") => self.done = true,
            (status @ 300.., "INVITE") if self.dialog.is_none() => {
                figures.refused.push(status);
                let _ = self.socket.send_to(&self.invite.ack_of(answer).bytes(), to);
                self.done = true;
            }
            _ => {}
        }
    }

    fn tick(&mut self, now: Instant, to: SocketAddr, figures: &mut Figures) {
        if now.duration_since(self.began) > GIVES_UP && !self.done {
            if self.dialog.is_none() {
                figures.refused.push(0);
            }
            self.done = true;
        }
        if let Some((due, interval)) = self.repeat
            && now >= due
        {
            let message = self.bye.as_ref().unwrap_or(&self.invite);
            let _ = self.socket.send_to(&message.bytes(), to);
            self.repeat = Some((now + interval * 2, interval * 2));
        }
    }
}

/// Octets that may wait at the called side.
const PSAP_BUFFER: usize = 4 << 20;

/// The called side of a flood: answers each INVITE with 200, each BYE too, and counts how often it was asked for each call.
#[derive(Debug)]
pub struct Psap {
    stop: Arc<AtomicBool>,
    asked: Arc<Mutex<HashMap<String, u32>>>,
    thread: Option<JoinHandle<()>>,
}

impl Psap {
    /// Starts it.
    ///
    /// # Panics
    /// The address is taken.
    pub fn start(at: SocketAddr) -> Psap {
        let socket = UdpSocket::bind(at).unwrap_or_else(|e| panic!("cannot bind {at}: {e}"));
        // As a PSAP's border has: with the kernel's default a burst of INVITEs is lost here, and is not the cluster's doing.
        socket2::SockRef::from(&socket).set_recv_buffer_size(PSAP_BUFFER).expect("the kernel takes any size");
        socket.set_read_timeout(Some(Duration::from_millis(50))).expect("it is not zero");
        let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(HashMap::new())));
        let (stopped, asked_here) = (stop.clone(), asked.clone());
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 8192];
            while !stopped.load(Ordering::Relaxed) {
                let Ok((len, from)) = socket.recv_from(&mut buffer) else { continue };
                let Ok(text) = std::str::from_utf8(&buffer[..len]) else { continue };
                let invite = text.starts_with("INVITE ");
                if invite && let Some(call) = text.lines().find_map(|line| line.strip_prefix("Call-ID: ")) {
                    *asked_here.lock().expect("no panic while held").entry(call.to_owned()).or_insert(0) += 1;
                }
                if !text.starts_with("ACK ") && !text.starts_with("SIP/2.0") {
                    let _ = socket.send_to(answer(text, at, invite).as_bytes(), from);
                }
            }
        });
        Psap { stop, asked, thread: Some(thread) }
    }

    /// INVITEs, and calls that they were for.
    ///
    /// # Panics
    /// Its thread has panicked.
    pub fn asked(&self) -> (u64, u64) {
        let asked = self.asked.lock().expect("no panic while held");
        (asked.values().copied().map(u64::from).sum(), asked.len() as u64)
    }
}

/// 200, from the lines of the request: the flood must not be one for the phone that answers it.
fn answer(request: &str, at: SocketAddr, invite: bool) -> String {
    let mut answer = String::from("SIP/2.0 200 OK\r\n");
    for line in request.lines().take_while(|line| !line.is_empty()) {
        if ["Via:", "From:", "Call-ID:", "CSeq:", "To:", "Record-Route:"].iter().any(|name| line.starts_with(name)) {
            answer.push_str(line);
            if line.starts_with("To:") && !line.contains(";tag=") {
                answer.push_str(";tag=psap");
            }
            answer.push_str("\r\n");
        }
    }
    if !invite {
        return answer + "Content-Length: 0\r\n\r\n";
    }
    let ip = at.ip();
    let body = format!(
        "v=0\r\no=- 1 1 IN IP4 {ip}\r\ns=-\r\nc=IN IP4 {ip}\r\nt=0 0\r\nm=audio 41000 RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\n"
    );
    let length = body.len();
    format!("{answer}Contact: <sip:psap@{at}>\r\nContent-Type: application/sdp\r\nContent-Length: {length}\r\n\r\n{body}")
}

impl Drop for Psap {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_reach_a_phone_that_answers_and_the_flood_is_counted() {
        let at: SocketAddr = "127.0.5.3:5999".parse().unwrap();
        let psap = Psap::start(at);
        let flood = Flood { to: at, uri: "sip:112@x", rate: 200, sources: 3, time: Duration::from_millis(500) };
        let callers = Callers { to: at, uri: "sip:112@x", every: Duration::from_millis(50), count: 4 };
        let figures = run(flood, callers);
        assert_eq!((figures.callers, figures.connected, figures.set_up.len()), (4, 4, 4), "{figures:?}");
        assert!(figures.flooded > 0 && figures.flooded <= 101);
        let (invites, calls) = psap.asked();
        assert!(calls >= 4 && calls <= figures.flooded + 4 && invites >= calls, "{invites} for {calls}");
    }
}
