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

use super::ladder::{Ladder, LadderDirection};
use super::message::{Message, addr_uri};
use super::{T1, T2, TIMEOUT, lock, unique};

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
pub(super) struct Incoming {
    pub(super) message: Message,
    pub(super) source: SocketAddr,
}

/// The final response to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    /// 200..=699.
    pub(crate) code: u16,
    /// For people.
    pub(crate) reason: String,
    /// Where it came from.
    pub(crate) source: SocketAddr,
    /// URI of its Contact.
    pub(crate) contact: Option<String>,
    /// All of it.
    pub(crate) message: Message,
}

impl Reply {
    /// 2xx.
    pub(crate) fn is_success(&self) -> bool {
        (200..300).contains(&self.code)
    }

    fn new(incoming: Incoming) -> Reply {
        let (code, reason) = match &incoming.message.start {
            super::message::StartLine::Response { code, reason } => (*code, reason.clone()),
            super::message::StartLine::Request { .. } => (0, String::new()),
        };
        Reply { code, reason, source: incoming.source, contact: incoming.message.contact(), message: incoming.message }
    }
}

/// Why a request has no final response.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CallError {
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
pub(super) struct Recent<K, V> {
    pub(super) map: HashMap<K, V>,
    order: VecDeque<K>,
    limit: usize,
}

impl<K: Clone + Eq + Hash, V> Recent<K, V> {
    pub(super) fn new(limit: usize) -> Recent<K, V> {
        Recent { map: HashMap::new(), order: VecDeque::new(), limit }
    }

    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.map.get(key)
    }

    pub(super) fn insert(&mut self, key: K, value: V) {
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
pub(super) struct Endpoint {
    socket: UdpSocket,
    pub(super) local: SocketAddr,
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
pub(super) type Started = (Arc<Endpoint>, mpsc::Receiver<Incoming>, JoinHandle<()>);

impl Endpoint {
    pub(super) async fn start(bind: SocketAddr, ladder: Option<Arc<Ladder>>) -> io::Result<Started> {
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
    pub(super) fn retransmissions(&self) -> u64 {
        self.retransmissions.load(Ordering::Relaxed)
    }

    /// The Contact of everything that this phone says.
    pub(super) fn contact(&self, user: &str) -> String {
        format!("<sip:{user}@{}>", self.local)
    }

    /// A new topmost Via with a branch of its own (RFC 3581: rport).
    pub(super) fn via(&self) -> String {
        format!("SIP/2.0/UDP {};branch=z9hG4bK{};rport", self.local, unique())
    }

    /// Sends one message.
    pub(super) async fn send(&self, message: &Message, to: SocketAddr) -> io::Result<()> {
        if let Some(ladder) = &self.ladder {
            ladder.record(LadderDirection::Sent, self.local, to, message);
        }
        self.socket.send_to(&message.to_bytes(), to).await.map(drop)
    }

    /// Answers a request; the answer is remembered for its retransmissions.
    pub(super) async fn respond(&self, request: &Incoming, response: Message) {
        let to = return_address(request);
        if let Some(key) = server_key(&request.message) {
            lock(&self.replies).insert(key, Some((response.clone(), to)));
        }
        // Lost like any datagram: the far end repeats its request.
        let _ = self.send(&response, to).await;
    }

    /// Answers an INVITE finally and repeats that until the ACK comes (RFC 3261 §13.3.1.4, Timers G and H); false: none came.
    pub(super) async fn respond_until_ack(&self, request: &Incoming, response: Message) -> bool {
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
    pub(super) async fn acknowledge(&self, invite: &Message, ack: Message, to: SocketAddr) -> io::Result<()> {
        if let Some((branch, _)) = invite.branch() {
            lock(&self.acks).insert(branch.to_owned(), (ack.clone(), to));
        }
        self.send(&ack, to).await
    }

    /// A request other than INVITE and ACK (RFC 3261 §17.1.2).
    pub(super) async fn transact(&self, request: &Message, to: SocketAddr) -> Result<Reply, CallError> {
        let (mut responses, _forget) = self.expect_responses(request);
        let deadline = Instant::now() + TIMEOUT;
        let mut pause = T1;
        loop {
            self.send(request, to).await?;
            let next = (Instant::now() + pause).min(deadline);
            while let Ok(Some(response)) = timeout_at(next, responses.recv()).await {
                if response.message.code() >= Some(200) {
                    return Ok(Reply::new(response));
                }
                pause = T2; // Timer E in Proceeding
            }
            if Instant::now() >= deadline {
                return Err(CallError::Timeout { method: request.method().unwrap_or_default().to_owned(), to });
            }
            pause = (pause * 2).min(T2);
        }
    }

    /// An INVITE (RFC 3261 §17.1.1), up to its final response. 3xx-6xx are acknowledged here, 2xx by the caller. After the
    /// first provisional response `ring` is the limit, and 32 s after `cancelled`.
    pub(super) async fn invite(
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
                    let code = response.message.code().unwrap_or(0);
                    if code >= 300 {
                        self.acknowledge(request, ack_for_failure(request, &response.message), to).await?;
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
        let branch = request.branch().map(|(b, _)| b).unwrap_or_default().to_owned();
        let key = (branch, request.method().unwrap_or_default().to_owned());
        lock(&self.pending).insert(key.clone(), tx);
        (rx, Forget(move || drop(lock(&self.pending).remove(&key))))
    }

    async fn on_response(&self, incoming: Incoming) {
        let (Some((branch, _)), Some((_, method))) = (incoming.message.branch(), incoming.message.cseq()) else { return };
        let waiting = lock(&self.pending).get(&(branch.to_owned(), method.to_owned())).cloned();
        if let Some(waiting) = waiting {
            // Full: the far end floods one transaction; its final response comes again.
            let _ = waiting.try_send(incoming);
        } else if method == "INVITE" && incoming.message.code() >= Some(200) {
            let ack = lock(&self.acks).get(&branch.to_owned()).cloned();
            if let Some((ack, to)) = ack {
                let _ = self.send(&ack, to).await;
            }
        }
    }

    async fn on_request(&self, incoming: Incoming, requests: &mpsc::Sender<Incoming>) {
        if incoming.message.method() == Some("ACK") {
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
        let Some(message) = Message::parse(&buffer[..n]) else { continue };
        if let Some(ladder) = &endpoint.ladder {
            ladder.record(LadderDirection::Received, source, endpoint.local, &message);
        }
        let incoming = Incoming { message, source };
        if incoming.message.method().is_some() {
            endpoint.on_request(incoming, &requests).await;
        } else {
            endpoint.on_response(incoming).await;
        }
    }
}

fn server_key(request: &Message) -> Option<ServerKey> {
    let (branch, sent_by) = request.branch()?;
    Some((branch.to_owned(), sent_by.to_owned(), request.method()?.to_owned()))
}

/// An ACK has its INVITE's Call-ID, From-tag and CSeq number.
fn ack_key(message: &Message) -> String {
    let number = message.cseq().map_or(0, |(n, _)| n);
    format!("{} {} {number}", message.call_id(), message.tag("From").unwrap_or_default())
}

/// RFC 3261 §18.2.2 and RFC 3581 §4: to the source; without rport to the port in the Via.
fn return_address(request: &Incoming) -> SocketAddr {
    let via = request.message.all("Via").next().unwrap_or_default();
    if super::message::param(via, "rport").is_some() {
        return request.source;
    }
    let sent_by = request.message.branch().map(|(_, s)| s).unwrap_or_default();
    let port = super::message::uri_address(&format!("sip:{sent_by}")).map(|a| a.port());
    SocketAddr::new(request.source.ip(), port.unwrap_or(request.source.port()))
}

/// RFC 3261 §17.1.1.3: same branch, URI and routes as the INVITE, To of the response.
fn ack_for_failure(invite: &Message, response: &Message) -> Message {
    let mut ack = same_transaction(invite, "ACK");
    if let (Some(to), Some(slot)) = (response.get("To"), ack.headers.iter_mut().find(|(n, _)| n == "To")) {
        slot.1 = to.to_owned();
    }
    ack
}

/// An ACK to a failure or a CANCEL: what both take over from the INVITE (RFC 3261 §9.1, §17.1.1.3).
pub(super) fn same_transaction(invite: &Message, method: &str) -> Message {
    let uri = match &invite.start {
        super::message::StartLine::Request { uri, .. } => uri.as_str(),
        super::message::StartLine::Response { .. } => "",
    };
    let mut message = Message::request(method, uri);
    for name in ["Via", "Route", "From", "To", "Call-ID"] {
        for (_, value) in invite.headers.iter().filter(|(n, _)| n == name) {
            message.add(name, value.clone());
        }
    }
    message.add("Max-Forwards", "70");
    message.add("CSeq", format!("{} {method}", invite.cseq().map_or(0, |(n, _)| n)));
    message
}

/// The address behind a URI or name-addr, for sending.
pub(super) fn address_of(value: &str) -> Result<SocketAddr, CallError> {
    addr_uri(value).and_then(super::message::uri_address).ok_or_else(|| CallError::NoAddress(value.to_owned()))
}
