//! The life of one TCP or TLS connection: set up, frames in, messages out, end.
//!
//! One task each. Reading and writing run side by side in it, so a driver that does not take messages (back-pressure) does not
//! keep responses from leaving. The order at the end is fixed: socket closed, entry removed, what was not written moved or
//! reported, `FlowClosed` last.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use sbc_core::io::{AddressRole, Path, SendFailure, Transport};
use sbc_core::sip::stream::{Frame, StreamFramer};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf, ReadHalf, WriteHalf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsStream;

use super::table::{FlowEnds, OpenKey, Queued};
use super::{Arrived, Shared, TransportEvent, last_words, tls};

/// Read size. A message of usual length fits; more would be paid for by every idle connection.
const READ_BUFFER: usize = 8 * 1024;

/// Messages of one connection that wait for the SIP core: enough for one that many calls share, and a bound on what connections hold.
const MAX_WAITING: usize = 32;

/// How long a closing connection may take to say good-bye (TLS close_notify, FIN).
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(1);

/// The answer to a CRLF CRLF ping (RFC 5626 §3.5.1).
const PONG: &[u8] = b"\r\n";

/// First TCP keep-alive probe, and the time between probes: a dead far end is found within two minutes.
const TCP_KEEPALIVE: Duration = Duration::from_secs(30);

/// A connection, with or without TLS.
pub(crate) enum SipStream {
    /// TCP.
    Tcp(TcpStream),
    /// TLS over TCP, either side.
    Tls(Box<TlsStream<TcpStream>>),
}

impl SipStream {
    fn tcp(&self) -> &TcpStream {
        match self {
            SipStream::Tcp(s) => s,
            SipStream::Tls(s) => s.get_ref().0,
        }
    }

    fn proved(&self) -> Box<[Box<str>]> {
        match self {
            SipStream::Tcp(_) => Box::default(),
            SipStream::Tls(s) => tls::proved(s),
        }
    }
}

impl AsyncRead for SipStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            SipStream::Tcp(s) => Pin::new(s).poll_read(cx, buf),
            SipStream::Tls(s) => Pin::new(s).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for SipStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            SipStream::Tcp(s) => Pin::new(s).poll_write(cx, buf),
            SipStream::Tls(s) => Pin::new(s).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            SipStream::Tcp(s) => Pin::new(s).poll_flush(cx),
            SipStream::Tls(s) => Pin::new(s).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            SipStream::Tcp(s) => Pin::new(s).poll_shutdown(cx),
            SipStream::Tls(s) => Pin::new(s).poll_shutdown(cx),
        }
    }
}

/// Counts sockets on the anycast address; release waits until there are none.
pub(crate) struct AnycastSocket(Arc<Shared>);

impl AnycastSocket {
    pub(crate) fn new(shared: &Arc<Shared>, role: AddressRole) -> Option<AnycastSocket> {
        (role == AddressRole::Anycast).then(|| {
            shared.anycast_sockets.fetch_add(1, Ordering::SeqCst);
            AnycastSocket(Arc::clone(shared))
        })
    }
}

impl Drop for AnycastSocket {
    fn drop(&mut self) {
        self.0.anycast_sockets.fetch_sub(1, Ordering::SeqCst);
        self.0.anycast_closed.notify_waiters();
    }
}

/// A connection that is being served.
pub(crate) struct Flow {
    /// The transport's state.
    pub(crate) shared: Arc<Shared>,
    /// Its ends of the table entry.
    pub(crate) ends: FlowEnds,
    /// Which address of ours.
    pub(crate) role: AddressRole,
    /// TCP or TLS.
    pub(crate) transport: Transport,
    /// The listener's address, also for opened connections.
    pub(crate) local: SocketAddr,
    /// The far end.
    pub(crate) remote: SocketAddr,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    /// By us, all written.
    Closed,
    /// By the far end, or an error, or a timeout.
    Broken,
    /// By us, for what came is no SIP message: with an answer.
    Refused(Bytes),
    /// The anycast address was released.
    Reset,
}

impl Flow {
    fn path(&self) -> Path {
        let (role, transport, local, remote) = (self.role, self.transport, self.local, self.remote);
        Path { role, transport, local, remote, flow: Some(self.ends.id) }
    }

    /// Serves an accepted connection to its end.
    pub(crate) async fn accepted(mut self, tcp: TcpStream) {
        let guard = AnycastSocket::new(&self.shared, self.role);
        let shared = Arc::clone(&self.shared);
        prepare(&tcp);
        let stream = match (self.transport, &shared.config.tls) {
            (Transport::Tls, Some(tls)) => {
                let done = tls::accept(&shared, tls, self.role, self.remote, tcp, &mut self.ends.reset).await;
                let Some(stream) = done else {
                    drop(guard);
                    return self.never_served(SendFailure::Refused).await;
                };
                SipStream::Tls(Box::new(stream))
            }
            _ => SipStream::Tcp(tcp),
        };
        shared.stats.accepted.inc();
        self.serve(stream, guard, false).await;
    }

    /// Opens a connection and serves it to its end.
    pub(crate) async fn open(mut self, key: OpenKey) {
        let guard = AnycastSocket::new(&self.shared, self.role);
        let shared = Arc::clone(&self.shared);
        let opened = tokio::select! {
            opened = connect(&shared, &key) => opened,
            _ = &mut self.ends.reset => Err(SendFailure::Refused),
        };
        match opened {
            Ok(stream) => {
                shared.stats.opened.inc();
                self.serve(stream, guard, true).await;
            }
            Err(reason) => {
                shared.stats.connect_failures.inc();
                drop(guard);
                self.never_served(reason).await;
            }
        }
    }

    /// The end of a connection that nobody heard of: no `FlowClosed`.
    async fn never_served(mut self, reason: SendFailure) {
        self.shared.finish(self.ends.id);
        self.ends.queue.close();
        while let Some(message) = self.ends.queue.recv().await {
            self.shared.report(message.transmit.id, reason).await;
        }
    }

    async fn serve(mut self, stream: SipStream, guard: Option<AnycastSocket>, ours: bool) {
        let path = self.path();
        let pong = Notify::new();
        let mut in_flight = None;
        let names = stream.proved();
        let (mut r, mut w) = tokio::io::split(stream);
        let end = tokio::select! {
            // A reset also ends the queue: looked at first, it is a reset.
            biased;
            Ok(()) = &mut self.ends.reset => End::Reset,
            end = read_named(&self.shared, &mut r, path, &pong, ours, names) => end,
            end = write_loop(&self.shared, &mut w, &mut self.ends.queue, &mut in_flight, self.transport, &pong) => end,
        };
        let mut stream = r.unsplit(w);
        match end {
            End::Reset => {
                // RFC 793: closing with linger 0 sends RST, as the kernel of the node that holds the address now would.
                let _ = SockRef::from(stream.tcp()).set_linger(Some(Duration::ZERO));
            }
            // After half a message of ours no other can be said.
            End::Refused(answer) if in_flight.is_none() => last_words::say(&mut stream, &answer).await,
            End::Closed | End::Broken | End::Refused(_) => {
                let _ = timeout(SHUTDOWN_LIMIT, stream.shutdown()).await;
            }
        }
        drop(stream);
        drop(guard);
        self.shared.finish(self.ends.id);
        self.ends.queue.close();
        let mut left = in_flight;
        loop {
            let Some(message) = left.take() else {
                match self.ends.queue.recv().await {
                    Some(m) => left = Some(m),
                    None => break,
                }
                continue;
            };
            self.shared.move_elsewhere(message).await;
        }
        // The driver may have stopped.
        let _ = self.shared.sink.send(TransportEvent::FlowClosed(self.ends.id)).await;
    }
}

/// Options of every connection. None of them can fail in a way that matters.
fn prepare(tcp: &TcpStream) {
    let _ = tcp.set_nodelay(true);
    let keepalive = socket2::TcpKeepalive::new().with_time(TCP_KEEPALIVE).with_interval(TCP_KEEPALIVE).with_retries(3);
    let _ = SockRef::from(tcp).set_tcp_keepalive(&keepalive);
}

async fn connect(shared: &Shared, key: &OpenKey) -> Result<SipStream, SendFailure> {
    let socket = if key.remote.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
    let socket = socket.map_err(|_| SendFailure::Congested)?;
    socket.bind(SocketAddr::new(key.local, 0)).map_err(|_| SendFailure::Refused)?;
    let tcp = timeout(shared.config.limits.connect, socket.connect(key.remote))
        .await
        .map_err(|_| SendFailure::TimedOut)?
        .map_err(|_| SendFailure::Refused)?;
    prepare(&tcp);
    if key.transport != Transport::Tls {
        return Ok(SipStream::Tcp(tcp));
    }
    let Some(tls) = &shared.config.tls else { return Err(SendFailure::Refused) };
    let stream = tls::connect(shared, tls, key, tcp).await?;
    Ok(SipStream::Tls(Box::new(stream)))
}

/// When the connection is given up if nothing more comes.
fn read_deadline(shared: &Shared, used: Used, partial_since: Option<Instant>, last: Instant) -> Instant {
    let limits = &shared.config.limits;
    match (partial_since, used) {
        (Some(since), _) => since + limits.message,
        (None, Used::Not) => last + limits.message,
        (None, Used::KeptAlive) => last + limits.idle_unused,
        (None, Used::Sip) => last + limits.idle,
    }
}

/// What has come whole on a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Used {
    /// Nothing: an accepted connection must say something first.
    Not,
    /// Keep-alives, which anybody can send.
    KeptAlive,
    /// A message; or the connection is one that we opened, and waits for its response.
    Sip,
}

/// A message that an accepted connection has begun, counted for its source.
struct HalfOpen<'a> {
    shared: &'a Shared,
    remote: IpAddr,
}

impl HalfOpen<'_> {
    fn begin(shared: &Shared, remote: IpAddr) -> Option<HalfOpen<'_>> {
        let admitted = shared.table().begin_message(remote, &shared.config.limits);
        admitted.then_some(HalfOpen { shared, remote })
    }
}

impl Drop for HalfOpen<'_> {
    fn drop(&mut self) {
        self.shared.table().end_message(self.remote);
    }
}

/// Says who the far end is, and then what it says.
async fn read_named(
    shared: &Shared,
    r: &mut ReadHalf<SipStream>,
    path: Path,
    pong: &Notify,
    ours: bool,
    names: Box<[Box<str>]>,
) -> End {
    if let Some(flow) = path.flow.filter(|_| !names.is_empty()) {
        // The driver may have stopped; the next message finds out.
        let _ = shared.sink.send(TransportEvent::FlowProved { flow, names }).await;
    }
    read_loop(shared, r, path, pong, ours).await
}

async fn read_loop(shared: &Shared, r: &mut ReadHalf<SipStream>, path: Path, pong: &Notify, ours: bool) -> End {
    let mut framer = StreamFramer::new();
    let turns = Arc::new(Semaphore::new(MAX_WAITING));
    let mut buf = vec![0u8; READ_BUFFER];
    let mut used = if ours { Used::Sip } else { Used::Not };
    let mut last = Instant::now();
    let mut partial_since: Option<Instant> = None;
    let mut half_open: Option<HalfOpen<'_>> = None;
    loop {
        let deadline = read_deadline(shared, used, partial_since, last);
        let n = match timeout_at(deadline, r.read(&mut buf)).await {
            Ok(Ok(n)) if n > 0 => n,
            Ok(_) => return End::Broken,
            Err(_) => {
                shared.stats.timed_out.inc();
                return End::Broken;
            }
        };
        // `last` stays at the connection's start until something whole has come, so single bytes do not buy time.
        let started = *partial_since.get_or_insert_with(|| if used == Used::Not { last } else { Instant::now() });
        framer.push(&buf[..n]);
        let mut whole = false;
        while let Some(frame) = framer.poll() {
            whole = true;
            match frame {
                Frame::Message(payload) => {
                    used = Used::Sip;
                    if !deliver(shared, path, payload, &turns).await {
                        return End::Broken;
                    }
                }
                Frame::KeepAlivePing => {
                    shared.stats.keep_alives.inc();
                    pong.notify_one();
                }
                Frame::Pong => shared.stats.keep_alives.inc(),
                Frame::Error(error) => {
                    shared.stats.framing_errors.inc();
                    tracing::info!(remote = %path.remote, kind = ?error.kind, "connection closed: its bytes are not SIP");
                    return last_words::answer_to(&error, path).map_or(End::Broken, End::Refused);
                }
            }
        }
        if whole {
            if used == Used::Not {
                used = Used::KeptAlive;
            }
            last = Instant::now();
        }
        partial_since = match (!framer.is_mid_message(), whole) {
            (true, _) => None,
            // What is left began with this read at the earliest.
            (false, true) => Some(last),
            (false, false) => Some(started),
        };
        if partial_since.is_none() {
            half_open = None;
        } else if !ours && half_open.is_none() {
            half_open = HalfOpen::begin(shared, path.remote.ip());
            if half_open.is_none() {
                shared.stats.refused_half_open.inc();
                return End::Broken;
            }
        }
    }
}

/// Waits for room in the driver's queue, and until few enough messages of this connection wait for their turn: back-pressure. False: the
/// driver is gone.
async fn deliver(shared: &Shared, path: Path, payload: Bytes, turns: &Arc<Semaphore>) -> bool {
    shared.stats.of(path.transport).received.inc();
    let at = Instant::now().into_std();
    let turn = Arc::clone(turns).acquire_owned().await.ok();
    shared.sink.send(TransportEvent::Received(Arrived { path, payload, at, turn })).await.is_ok()
}

async fn write_loop(
    shared: &Shared,
    w: &mut WriteHalf<SipStream>,
    queue: &mut mpsc::Receiver<Queued>,
    in_flight: &mut Option<Queued>,
    transport: Transport,
    pong: &Notify,
) -> End {
    loop {
        let next = tokio::select! {
            biased;
            next = queue.recv() => Some(next),
            () = pong.notified() => None,
        };
        let payload = match next {
            Some(None) => return End::Closed,
            Some(Some(message)) => in_flight.insert(message).transmit.payload.clone(),
            None => Bytes::from_static(PONG),
        };
        let written = timeout(shared.config.limits.write, async {
            w.write_all(&payload).await?;
            w.flush().await
        });
        if !matches!(written.await, Ok(Ok(()))) {
            return End::Broken;
        }
        if in_flight.take().is_some() {
            shared.stats.of(transport).sent.inc();
        }
    }
}

/// True for a response, by its first bytes.
pub(crate) fn is_response(payload: &[u8]) -> bool {
    // RFC 3261 §7.2: a status line begins with the SIP version.
    payload.get(..8).is_some_and(|p| p.eq_ignore_ascii_case(b"SIP/2.0 "))
}
