//! One UDP socket and the transactions on it (RFC 3261 §17, §18).
//!
//! Requests that come are handed on once; their retransmissions are answered from memory. Requests of ours are repeated
//! until they are answered. ACKs to 2xx and answers to INVITE are repeated as RFC 3261 §13 asks.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use crate::ladder::{Ladder, LadderDirection};
use crate::message::{self, Message};
use crate::{T1, T2, TIMEOUT, lock};

/// Messages that wait for the user agent; it handles each in microseconds.
const REQUEST_QUEUE: usize = 1_024;
/// Responses that wait for one transaction: some provisional ones and a final one.
const RESPONSE_QUEUE: usize = 32;
/// Transactions remembered for retransmissions: 32 s of 100 requests a second.
const REMEMBERED: usize = 4_096;
/// The largest datagram there is.
const MAX_DATAGRAM: usize = 65_535;

/// A message and whence it came.
#[derive(Clone, Debug)]
pub(crate) struct Incoming {
    pub(crate) message: Message,
    pub(crate) source: SocketAddr,
}

impl Incoming {
    /// A response to it, as it leaves this phone.
    pub(crate) fn response(&self, code: u16, reason: &str, tag: &str) -> Message {
        let tag = if code > 100 { tag } else { "" };
        self.message.response(code, reason, tag).seen_from(self.source)
    }
}

/// The final response to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// 200..=699.
    pub code: u16,
    /// For people.
    pub reason: String,
    /// Where it came from.
    pub source: SocketAddr,
    /// URI of its Contact.
    pub contact: Option<String>,
    /// All of it.
    pub message: Message,
}

impl Reply {
    /// 2xx.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.code)
    }

    fn new(incoming: Incoming) -> Reply {
        let message = incoming.message;
        let contact = Some(message.uri("Contact").to_owned()).filter(|uri| !uri.is_empty());
        Reply { code: message.status(), reason: message.reason().to_owned(), source: incoming.source, contact, message }
    }
}

/// Why a request has no final response.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// Nobody answered in time: the far end, or the way to it, is gone.
    #[error("no final response to {method} from {to}")]
    Timeout {
        /// The request's method.
        method: String,
        /// Where it went.
        to: SocketAddr,
    },
    /// This machine could not send or bind.
    #[error("socket: {0}")]
    Io(String),
    /// The Contact is no IP address; the caller gives an address itself.
    #[error("{0} is not an IP address; this phone asks no DNS")]
    NoAddress(String),
    /// The call is not in a state for it.
    #[error("{0}")]
    State(&'static str),
}

impl From<io::Error> for CallError {
    fn from(e: io::Error) -> CallError {
        CallError::Io(e.to_string())
    }
}

/// A map that forgets its oldest entries.
#[derive(Debug)]
pub(crate) struct Recent<K, V> {
    pub(crate) map: HashMap<K, V>,
    order: VecDeque<K>,
    limit: usize,
}

impl<K: Clone + Eq + Hash, V> Recent<K, V> {
    pub(crate) fn new(limit: usize) -> Recent<K, V> {
        Recent { map: HashMap::new(), order: VecDeque::new(), limit }
    }

    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.map.get(key)
    }

    pub(crate) fn insert(&mut self, key: K, value: V) {
        if self.map.insert(key.clone(), value).is_none() {
            self.order.push_back(key);
        }
        while self.order.len() > self.limit {
            if let Some(oldest) = self.order.pop_front() {
                self.map.remove(&oldest);
            }
        }
    }
}

/// RFC 3261 §17.2.3: branch, sent-by, method.
type ServerKey = (String, String, String);

/// The socket.
#[derive(Debug)]
pub(crate) struct Endpoint {
    socket: UdpSocket,
    pub(crate) local: SocketAddr,
    ladder: Option<Arc<Ladder>>,
    /// Client transactions, by branch and method.
    pending: Mutex<HashMap<(String, String), mpsc::Sender<Incoming>>>,
    /// ACKs sent, by the INVITE's branch: repeated when its final response is.
    acks: Mutex<Recent<String, (Message, SocketAddr)>>,
    /// Server transactions and their last response.
    replies: Mutex<Recent<ServerKey, Option<(Message, SocketAddr)>>>,
    /// INVITEs answered and not yet acknowledged.
    unacknowledged: Mutex<HashMap<String, oneshot::Sender<()>>>,
    retransmissions: AtomicU64,
}

/// What starting an endpoint gives: itself, the requests that come, and the task that reads (to be aborted at the end).
pub(crate) type Started = (Arc<Endpoint>, mpsc::Receiver<Incoming>, JoinHandle<()>);

impl Endpoint {
    pub(crate) async fn start(bind: SocketAddr, ladder: Option<Arc<Ladder>>) -> io::Result<Started> {
        let socket = UdpSocket::bind(bind).await?;
        let local = socket.local_addr()?;
        let endpoint = Arc::new(Endpoint {
            socket,
            local,
            ladder,
            pending: Mutex::default(),
            acks: Mutex::new(Recent::new(REMEMBERED)),
            replies: Mutex::new(Recent::new(REMEMBERED)),
            unacknowledged: Mutex::default(),
            retransmissions: AtomicU64::new(0),
        });
        let (tx, rx) = mpsc::channel(REQUEST_QUEUE);
        let task = tokio::spawn(read(Arc::clone(&endpoint), tx));
        Ok((endpoint, rx, task))
    }

    /// Requests that came again and were answered from memory.
    pub(crate) fn retransmissions(&self) -> u64 {
        self.retransmissions.load(Ordering::Relaxed)
    }

    /// The Contact of everything that this phone says.
    pub(crate) fn contact(&self, user: &str) -> String {
        message::contact(user, self.local, None)
    }

    /// A new topmost Via with a branch of its own (RFC 3581: rport).
    pub(crate) fn via(&self) -> String {
        message::via(self.local, "UDP")
    }

    /// Sends one message.
    pub(crate) async fn send(&self, message: &Message, to: SocketAddr) -> io::Result<()> {
        if let Some(ladder) = &self.ladder {
            ladder.record(LadderDirection::Sent, self.local, to, message);
        }
        self.socket.send_to(&message.bytes(), to).await.map(drop)
    }

    /// Answers a request; the answer is remembered for its retransmissions.
    pub(crate) async fn respond(&self, request: &Incoming, response: Message) {
        let to = return_address(request);
        if let Some(key) = server_key(&request.message) {
            lock(&self.replies).insert(key, Some((response.clone(), to)));
        }
        // Lost like any datagram: the far end repeats its request.
        let _ = self.send(&response, to).await;
    }

    /// Answers an INVITE finally and repeats that until the ACK comes (RFC 3261 §13.3.1.4, Timers G and H); false: none came.
    pub(crate) async fn respond_until_ack(&self, request: &Incoming, response: Message) -> bool {
        let key = ack_key(&request.message);
        let (tx, mut acknowledged) = oneshot::channel();
        lock(&self.unacknowledged).insert(key.clone(), tx);
        let _forget = Forget(|| drop(lock(&self.unacknowledged).remove(&key)));
        let to = return_address(request);
        self.respond(request, response.clone()).await;
        let deadline = Instant::now() + TIMEOUT;
        let mut pause = T1;
        loop {
            tokio::select! {
                got = &mut acknowledged => return got.is_ok(),
                () = sleep(pause) => {
                    if Instant::now() >= deadline {
                        return false;
                    }
                    let _ = self.send(&response, to).await;
                    pause = (pause * 2).min(T2);
                }
            }
        }
    }

    /// Sends an ACK, and again whenever the response that it is for comes again.
    pub(crate) async fn acknowledge(&self, invite: &Message, ack: Message, to: SocketAddr) -> io::Result<()> {
        if let Some(via) = invite.via() {
            lock(&self.acks).insert(via.branch, (ack.clone(), to));
        }
        self.send(&ack, to).await
    }

    /// A request other than INVITE and ACK (RFC 3261 §17.1.2).
    pub(crate) async fn transact(&self, request: &Message, to: SocketAddr) -> Result<Reply, CallError> {
        let (mut responses, _forget) = self.expect_responses(request);
        let deadline = Instant::now() + TIMEOUT;
        let mut pause = T1;
        loop {
            self.send(request, to).await?;
            let next = (Instant::now() + pause).min(deadline);
            while let Ok(Some(response)) = timeout_at(next, responses.recv()).await {
                if response.message.status() >= 200 {
                    return Ok(Reply::new(response));
                }
                pause = T2; // Timer E in Proceeding
            }
            if Instant::now() >= deadline {
                return Err(CallError::Timeout { method: request.method().to_owned(), to });
            }
            pause = (pause * 2).min(T2);
        }
    }

    /// An INVITE (RFC 3261 §17.1.1), up to its final response. 3xx-6xx are acknowledged here, 2xx by the caller. After the
    /// first provisional response `ring` is the limit, and 32 s after `cancelled`.
    pub(crate) async fn invite(
        &self,
        request: &Message,
        to: SocketAddr,
        ring: Duration,
        cancelled: &Notify,
        mut on_provisional: impl FnMut(&Incoming),
    ) -> Result<Reply, CallError> {
        let (mut responses, _forget) = self.expect_responses(request);
        self.send(request, to).await?;
        let mut deadline = Instant::now() + TIMEOUT;
        let mut pause = T1;
        let mut again = Some(Instant::now() + pause); // Timer A; None once there is a provisional response
        loop {
            tokio::select! {
                response = responses.recv() => {
                    let Some(response) = response else { return Err(CallError::State("the phone was shut down")) };
                    let code = response.message.status();
                    if code >= 300 {
                        self.acknowledge(request, request.ack_of(&response.message), to).await?;
                    }
                    if code >= 200 {
                        return Ok(Reply::new(response));
                    }
                    if again.take().is_some() {
                        deadline = Instant::now() + ring;
                    }
                    on_provisional(&response);
                }
                () = sleep_until(again.unwrap_or(deadline)), if again.is_some() => {
                    self.send(request, to).await?;
                    pause *= 2;
                    again = Some(Instant::now() + pause);
                }
                () = cancelled.notified() => deadline = deadline.min(Instant::now() + TIMEOUT),
                () = sleep_until(deadline) => {
                    return Err(CallError::Timeout { method: "INVITE".to_owned(), to });
                }
            }
        }
    }

    fn expect_responses(&self, request: &Message) -> (mpsc::Receiver<Incoming>, Forget<impl FnMut() + use<'_>>) {
        let (tx, rx) = mpsc::channel(RESPONSE_QUEUE);
        let branch = request.via().map(|via| via.branch).unwrap_or_default();
        let key = (branch, request.method().to_owned());
        lock(&self.pending).insert(key.clone(), tx);
        (rx, Forget(move || drop(lock(&self.pending).remove(&key))))
    }

    async fn on_response(&self, incoming: Incoming) {
        let (Some(via), (_, method)) = (incoming.message.via(), incoming.message.cseq()) else { return };
        let waiting = lock(&self.pending).get(&(via.branch.clone(), method.to_owned())).cloned();
        if let Some(waiting) = waiting {
            // Full: the far end floods one transaction; its final response comes again.
            let _ = waiting.try_send(incoming);
        } else if method == "INVITE" && incoming.message.status() >= 200 {
            let ack = lock(&self.acks).get(&via.branch).cloned();
            if let Some((ack, to)) = ack {
                let _ = self.send(&ack, to).await;
            }
        }
    }

    async fn on_request(&self, incoming: Incoming, requests: &mpsc::Sender<Incoming>) {
        if incoming.message.method() == "ACK" {
            if let Some(waiting) = lock(&self.unacknowledged).remove(&ack_key(&incoming.message)) {
                // The other end is gone only if its call is.
                let _ = waiting.send(());
            }
            let _ = requests.try_send(incoming);
            return;
        }
        let Some(key) = server_key(&incoming.message) else { return };
        let known = lock(&self.replies).get(&key).cloned();
        match known {
            Some(last) => {
                self.retransmissions.fetch_add(1, Ordering::Relaxed);
                if let Some((response, to)) = last {
                    let _ = self.send(&response, to).await;
                }
            }
            // Taken only if there is room: its retransmission is then new.
            None => {
                if let Ok(room) = requests.try_reserve() {
                    lock(&self.replies).insert(key, None);
                    room.send(incoming);
                }
            }
        }
    }
}

/// Runs when a wait ends, however it ends.
struct Forget<F: FnMut()>(F);

impl<F: FnMut()> Drop for Forget<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

async fn read(endpoint: Arc<Endpoint>, requests: mpsc::Sender<Incoming>) {
    let mut buffer = vec![0; MAX_DATAGRAM];
    loop {
        let Ok((n, source)) = endpoint.socket.recv_from(&mut buffer).await else {
            // An ICMP error, handed over once; the pause keeps a broken socket from spinning.
            sleep(Duration::from_millis(10)).await;
            continue;
        };
        let Some(message) = Message::parse(&buffer[..n]).filter(Message::is_answerable) else { continue };
        if let Some(ladder) = &endpoint.ladder {
            ladder.record(LadderDirection::Received, source, endpoint.local, &message);
        }
        let incoming = Incoming { message, source };
        if incoming.message.status() == 0 {
            endpoint.on_request(incoming, &requests).await;
        } else {
            endpoint.on_response(incoming).await;
        }
    }
}

fn server_key(request: &Message) -> Option<ServerKey> {
    let via = request.via()?;
    Some((via.branch, via.sent_by, request.method().to_owned()))
}

/// An ACK has its INVITE's Call-ID, From-tag and CSeq number.
fn ack_key(message: &Message) -> String {
    format!("{} {} {}", message.header("Call-ID"), message.tag("From"), message.cseq().0)
}

/// RFC 3261 §18.2.2 and RFC 3581 §4: to the source; without rport to the port in the Via.
fn return_address(request: &Incoming) -> SocketAddr {
    match request.message.via() {
        Some(via) if !via.rport => {
            let port = message::host_address(&via.sent_by).map(|a| a.port());
            SocketAddr::new(request.source.ip(), port.unwrap_or(request.source.port()))
        }
        _ => request.source,
    }
}
