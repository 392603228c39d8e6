//! A load of calls over UDP: one thread calls, one answers, and set-up latency is measured where the 200 arrives.
//! What is heard is read and not checked ([`crate::message::heard`]): the generator shares the machine with who is measured.

use std::collections::{HashMap, VecDeque};
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::message::{Dialog, Message, sdp, unique};

/// RFC 3261 §17.1.1.2, timer A: a request without an answer goes out again, once; loopback loses nothing but under overload.
const REPEAT: Duration = Duration::from_millis(500);
/// How long the last calls may take after the last INVITE and hold.
const DRAIN: Duration = Duration::from_secs(10);
/// One wait for a packet; also the step of the pacing.
const STEP: Duration = Duration::from_millis(1);

/// The called side: answers every INVITE with 180 and 200, every BYE with 200. It keeps no state, so repeats cost nothing.
#[derive(Debug)]
pub struct Answerer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Answerer {
    /// Starts it.
    ///
    /// # Panics
    /// The address is taken.
    pub fn start(at: SocketAddr) -> Answerer {
        let socket = UdpSocket::bind(at).unwrap_or_else(|e| panic!("cannot bind {at}: {e}"));
        socket.set_read_timeout(Some(Duration::from_millis(50))).expect("it is not zero");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while !stopped.load(Ordering::Relaxed) {
                let Ok((len, from)) = socket.recv_from(&mut buffer) else { continue };
                let Some(request) = Message::parse(&buffer[..len]) else { continue };
                let contact = format!("<sip:psap@{at}>");
                match request.method() {
                    "INVITE" => {
                        let _ = socket.send_to(&request.response(180, "Ringing", "p").with("Contact", &contact).bytes(), from);
                        let ok = request.response(200, "OK", "p").with("Contact", &contact).with_sdp(sdp(at, 1, "sendrecv"));
                        let _ = socket.send_to(&ok.bytes(), from);
                    }
                    "BYE" => drop(socket.send_to(&request.response(200, "OK", "").bytes(), from)),
                    _ => {}
                }
            }
        });
        Answerer { stop, thread: Some(thread) }
    }
}

impl Drop for Answerer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What to send.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Whom to call.
    pub to: SocketAddr,
    /// Calls a second.
    pub rate: u32,
    /// Calls in all.
    pub calls: u32,
    /// From the ACK to the BYE.
    pub hold: Duration,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Calls set up and hung up.
    pub completed: u32,
    /// Calls that were not, for whatever reason.
    pub failed: u32,
    /// Requests sent a second time.
    pub repeated: u32,
    /// From the INVITE to the 200, sorted.
    pub latencies: Vec<Duration>,
    /// From the first INVITE to the last answer.
    pub took: Duration,
}

impl Outcome {
    /// The latency that this share (0 to 1) of calls did not exceed.
    pub fn quantile(&self, share: f64) -> Duration {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a length")]
        let index = (self.latencies.len() as f64 * share) as usize;
        self.latencies.get(index.min(self.latencies.len().saturating_sub(1))).copied().unwrap_or_default()
    }
}

struct Pending {
    dialog: Option<Dialog>,
    last: Message,
    sent: Instant,
    repeated: bool,
}

/// Runs a load to its end. `when_held` is called once, when all calls are up (where the hold is long enough for that).
///
/// # Panics
/// The kernel gives no socket.
pub fn run(load: Load, mut when_held: impl FnMut()) -> Outcome {
    let socket = UdpSocket::bind("127.0.5.1:0").expect("a loopback port is free");
    socket.set_read_timeout(Some(STEP)).expect("it is not zero");
    let at = socket.local_addr().expect("it is bound");
    let began = Instant::now();
    let (mut outcome, mut started) = (Outcome::default(), 0);
    let mut pending: HashMap<String, Pending> = HashMap::new();
    let mut byes: VecDeque<(Instant, String)> = VecDeque::new();
    let mut buffer = [0; 4096];
    let end = began + Duration::from_secs_f64(f64::from(load.calls) / f64::from(load.rate)) + load.hold + DRAIN;
    let mut held = false;
    while outcome.completed + outcome.failed < load.calls && Instant::now() < end {
        let now = Instant::now();
        while started < load.calls && now >= began + Duration::from_secs_f64(f64::from(started) / f64::from(load.rate)) {
            let invite = Message::invite("sip:112@127.0.0.100", at, "UDP");
            let invite = invite.replace("From", &format!("<sip:user{started}@{at}>;tag={}", unique("f")));
            let _ = socket.send_to(&invite.bytes(), load.to);
            pending.insert(
                invite.header("Call-ID").to_owned(),
                Pending { dialog: None, last: invite, sent: Instant::now(), repeated: false },
            );
            started += 1;
        }
        while byes.front().is_some_and(|(due, _)| *due <= now) {
            let Some((_, id)) = byes.pop_front() else { break };
            let Some(call) = pending.get_mut(&id) else { continue };
            let Some(dialog) = call.dialog.as_mut() else { continue };
            call.last = dialog.request("BYE");
            (call.sent, call.repeated) = (now, false);
            let _ = socket.send_to(&call.last.bytes(), load.to);
        }
        if let Ok((len, _)) = socket.recv_from(&mut buffer)
            && let Some(answer) = Message::parse(&buffer[..len])
        {
            on_answer(&answer, &socket, at, load, &mut pending, &mut byes, &mut outcome);
        } else {
            repeat_late(&socket, load.to, &mut pending, &mut outcome);
            if !held && started == load.calls && outcome.latencies.len() == load.calls as usize {
                held = true;
                when_held();
            }
        }
    }
    outcome.failed = load.calls - outcome.completed;
    outcome.took = began.elapsed();
    outcome.latencies.sort();
    outcome
}

fn on_answer(
    answer: &Message,
    socket: &UdpSocket,
    at: SocketAddr,
    load: Load,
    pending: &mut HashMap<String, Pending>,
    byes: &mut VecDeque<(Instant, String)>,
    outcome: &mut Outcome,
) {
    let id = answer.header("Call-ID").to_owned();
    let Some(call) = pending.get_mut(&id) else { return };
    match (answer.status(), answer.cseq().1) {
        (200, "INVITE") => {
            if call.dialog.is_none() {
                outcome.latencies.push(call.sent.elapsed());
                call.dialog = Some(Dialog::of_caller(&call.last, answer, at, "UDP"));
                byes.push_back((Instant::now() + load.hold, id));
            }
            if let Some(dialog) = &call.dialog {
                let _ = socket.send_to(&dialog.ack(1).bytes(), load.to);
            }
        }
        (200, "BYE") => {
            pending.remove(&id);
            outcome.completed += 1;
        }
        (300.., _) => {
            pending.remove(&id);
            outcome.failed += 1;
        }
        _ => {}
    }
}

/// Sends again what has had no final answer for [`REPEAT`]; a call that is up and held waits for nothing.
fn repeat_late(socket: &UdpSocket, to: SocketAddr, pending: &mut HashMap<String, Pending>, outcome: &mut Outcome) {
    for call in pending.values_mut() {
        let waits = call.dialog.is_none() || call.last.method() == "BYE";
        if waits && !call.repeated && call.sent.elapsed() > REPEAT {
            call.repeated = true;
            outcome.repeated += 1;
            let _ = socket.send_to(&call.last.bytes(), to);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_against_the_answerer_itself_completes() {
        let at = "127.0.5.2:5999".parse().unwrap();
        let _answerer = Answerer::start(at);
        let mut held = 0;
        let outcome = run(Load { to: at, rate: 200, calls: 100, hold: Duration::from_millis(1000) }, || held += 1);
        assert_eq!((outcome.completed, outcome.failed, outcome.latencies.len(), held), (100, 0, 100, 1));
        assert!(outcome.quantile(0.5) <= outcome.quantile(0.99));
    }
}
