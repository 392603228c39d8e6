//! A phone on a TCP or TLS connection, driven by hand.

use std::collections::VecDeque;
use std::fs;
use std::io::{BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::ladder::{Step, Witness};
use crate::message::{Message, heard};
use crate::phone::ANSWER;
use crate::pki::CertFiles;

/// How long one read may wait before the deadline is looked at again.
pub(crate) const READ: Duration = Duration::from_millis(50);

pub(crate) trait Pipe: Read + Write + Send {}
impl<T: Read + Write + Send> Pipe for T {}

/// One connection.
pub struct StreamPhone {
    pipe: Box<dyn Pipe>,
    at: SocketAddr,
    transport: &'static str,
    buffer: Vec<u8>,
    backlog: VecDeque<Message>,
    wire: Vec<Step>,
    closed: bool,
    certificate: Option<Vec<u8>>,
}

impl std::fmt::Debug for StreamPhone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StreamPhone({} {})", self.transport, self.at)
    }
}

impl StreamPhone {
    /// Connects by TCP.
    ///
    /// # Panics
    /// Nobody listens.
    pub fn tcp(to: SocketAddr) -> StreamPhone {
        StreamPhone::on(connect(to))
    }

    /// Takes the next connection to this listener.
    ///
    /// # Panics
    /// None comes.
    pub fn accept(listener: &TcpListener) -> StreamPhone {
        listener.set_nonblocking(true).expect("a socket");
        let (tcp, _) = crate::wait::until("somebody connects", ANSWER, || listener.accept());
        tcp.set_nonblocking(false).expect("a socket");
        StreamPhone::on(set_up(tcp))
    }

    fn on(tcp: TcpStream) -> StreamPhone {
        let at = tcp.local_addr().expect("a connected socket has an address");
        StreamPhone::over(Box::new(tcp), at, "TCP")
    }

    pub(crate) fn over(pipe: Box<dyn Pipe>, at: SocketAddr, transport: &'static str) -> StreamPhone {
        StreamPhone {
            pipe,
            at,
            transport,
            buffer: Vec::new(),
            backlog: VecDeque::new(),
            wire: Vec::new(),
            closed: false,
            certificate: None,
        }
    }

    /// Connects by TLS and checks the node's certificate against `ca` (PEM) and the address asked for (AC-33).
    ///
    /// # Panics
    /// Nobody listens, or the certificate is wrong.
    pub fn tls(to: SocketAddr, ca: &Path) -> StreamPhone {
        StreamPhone::tls_as(to, ca, None).unwrap_or_else(|e| panic!("TLS with {to}: {e}"))
    }

    /// The same, with a certificate of the phone's own, or without. By TLS 1.3 a node that does not like it says so only after
    /// this has returned.
    ///
    /// # Errors
    /// The handshake failed.
    ///
    /// # Panics
    /// Nobody listens, or the files are not good.
    pub fn tls_as(to: SocketAddr, ca: &Path, own: Option<&CertFiles>) -> std::io::Result<StreamPhone> {
        let mut roots = RootCertStore::empty();
        let pem = fs::read(ca).unwrap_or_else(|e| panic!("cannot read {}: {e}", ca.display()));
        for certificate in CertificateDer::pem_reader_iter(BufReader::new(pem.as_slice())) {
            roots.add(certificate.expect("the CA file is PEM")).expect("the CA file holds certificates");
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring supports the default versions")
            .with_root_certificates(roots);
        let config = match own {
            None => builder.with_no_client_auth(),
            Some(own) => {
                let key = PrivateKeyDer::from_pem_file(&own.key).expect("a key");
                builder.with_client_auth_cert(vec![own.der().into()], key).expect("the key is the certificate's")
            }
        };
        let name = ServerName::IpAddress(IpAddr::into(to.ip()));
        let mut session = ClientConnection::new(Arc::new(config), name).expect("the configuration is complete");
        let mut tcp = connect(to);
        let at = tcp.local_addr().expect("a connected socket has an address");
        tcp.set_read_timeout(Some(ANSWER)).expect("it is not zero");
        while session.is_handshaking() {
            session.complete_io(&mut tcp)?;
        }
        tcp.set_read_timeout(Some(READ)).expect("it is not zero");
        let certificate = session.peer_certificates().and_then(<[_]>::first).map(|c| c.to_vec());
        let phone = StreamPhone::over(Box::new(StreamOwned::new(session, tcp)), at, "TLS");
        Ok(StreamPhone { certificate, ..phone })
    }

    /// What the node showed (DER).
    pub fn certificate(&self) -> Option<&[u8]> {
        self.certificate.as_deref()
    }

    /// Its own address.
    pub fn at(&self) -> SocketAddr {
        self.at
    }

    /// TCP or TLS.
    pub fn transport(&self) -> &'static str {
        self.transport
    }

    /// Sends a message.
    ///
    /// # Panics
    /// The connection is gone.
    pub fn send(&mut self, message: &Message) {
        self.note(true, message);
        self.try_send_raw(&message.bytes()).unwrap_or_else(|e| panic!("{self:?}: {e}"));
    }

    fn note(&mut self, ours: bool, message: &Message) {
        self.wire.push(Step::new(ours, &message.start, message.header("CSeq"), message.header("Call-ID")));
    }

    /// Sends octets.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn try_send_raw(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.pipe.write_all(bytes)?;
        self.pipe.flush()
    }

    /// The first message within `limit` that is wanted; others are kept for later.
    pub fn wait(&mut self, limit: Duration, wanted: impl Fn(&Message) -> bool) -> Option<Message> {
        let end = Instant::now() + limit;
        loop {
            if let Some(i) = self.backlog.iter().position(&wanted) {
                return self.backlog.remove(i);
            }
            if self.closed || Instant::now() >= end {
                return None;
            }
            self.fill();
        }
    }

    /// True when the far end closes or resets the connection within `limit`.
    pub fn is_closed_within(&mut self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        while !self.closed && Instant::now() < end {
            self.fill();
        }
        self.closed
    }

    /// What arrives within one read, cut nowhere: for a test that frames by itself. `None` once the far end has closed.
    pub fn octets(&mut self) -> Option<Vec<u8>> {
        self.read();
        let octets = std::mem::take(&mut self.buffer);
        (!self.closed || !octets.is_empty()).then_some(octets)
    }

    fn fill(&mut self) {
        self.read();
        while let Some(message) = self.cut() {
            self.note(false, &message);
            self.backlog.push_back(message);
        }
    }

    fn read(&mut self) {
        let mut chunk = [0; 16_384];
        match self.pipe.read(&mut chunk) {
            Ok(0) => self.closed = true,
            Ok(n) => self.buffer.extend_from_slice(&chunk[..n]),
            Err(e)
                if matches!(
                    e.kind(),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut | std::io::ErrorKind::Interrupted
                ) => {}
            Err(_) => self.closed = true,
        }
    }

    /// RFC 3261 §18.3: on a stream Content-Length ends a message.
    fn cut(&mut self) -> Option<Message> {
        let blank = self.buffer.iter().take_while(|b| matches!(b, b'\r' | b'\n')).count();
        self.buffer.drain(..blank);
        let head = self.buffer.windows(4).position(|w| w == b"\r\n\r\n")? + 4;
        let text = String::from_utf8_lossy(&self.buffer[..head]).to_ascii_lowercase();
        let length = text.lines().find_map(|l| l.strip_prefix("content-length:").or_else(|| l.strip_prefix("l:")));
        let length: usize =
            length.and_then(|v| v.trim().parse().ok()).expect("RFC 3261 §20.14: Content-Length is a must on streams");
        if self.buffer.len() < head + length {
            return None;
        }
        let whole: Vec<u8> = self.buffer.drain(..head + length).collect();
        heard(&whole)
    }

    /// As [`StreamPhone::wait`], for what must come.
    ///
    /// # Panics
    /// It does not.
    #[track_caller]
    pub fn expect(&mut self, what: &str, wanted: impl Fn(&Message) -> bool) -> Message {
        self.wait(ANSWER, wanted).unwrap_or_else(|| {
            panic!(
                "{self:?}: no {what}; closed: {}; arrived: {:?}",
                self.closed,
                self.backlog.iter().map(|m| &m.start).collect::<Vec<_>>()
            )
        })
    }

    /// The response with this status to a request with this method.
    ///
    /// # Panics
    /// It does not come.
    #[track_caller]
    pub fn expect_response(&mut self, status: u16, method: &str) -> Message {
        self.expect(&format!("{status} to {method}"), |m| m.status() == status && m.cseq().1 == method)
    }
}

impl Witness for StreamPhone {
    fn ip(&self) -> IpAddr {
        self.at.ip()
    }

    fn wire(&mut self, call_id: &str) -> Vec<Step> {
        if !self.closed {
            self.fill();
        }
        self.wire.iter().filter(|s| s.call_id == call_id).cloned().collect()
    }
}

fn connect(to: SocketAddr) -> TcpStream {
    set_up(TcpStream::connect_timeout(&to, ANSWER).unwrap_or_else(|e| panic!("cannot connect to {to}: {e}")))
}

fn set_up(tcp: TcpStream) -> TcpStream {
    tcp.set_read_timeout(Some(READ)).expect("it is not zero");
    tcp.set_write_timeout(Some(ANSWER)).expect("it is not zero");
    tcp.set_nodelay(true).expect("TCP has it");
    tcp
}
