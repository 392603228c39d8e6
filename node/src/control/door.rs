//! Accepts gRPC connections: TLS first, within a time, and no more than there is room for.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use crate::gate::{Gate, Limits, Seat};
use crate::telemetry::Metrics;
use crate::tls::{IdentityKind, peer_identity};

/// For a TLS handshake: a far end that says nothing is let go.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How long a client that is refused is heard out, so that it learns why.
const FAREWELL: Duration = Duration::from_secs(1);
/// Handshakes at a time; each costs a signature. A real one takes milliseconds, so the oldest is the one that says nothing.
pub(super) const HANDSHAKES: Limits = Limits { all: 64, source: 16 };
/// Connections of identified clients at a time: an operator's tools have a few each, a dispatch system one a desk, all perhaps behind one
/// address.
pub(super) const CONNECTIONS: Limits = Limits { all: 512, source: 128 };

/// What stands before the server.
pub(super) struct Door {
    pub(super) tls: TlsAcceptor,
    pub(super) handshakes: Gate,
    pub(super) connections: Gate,
    pub(super) tx: mpsc::Sender<io::Result<Seated>>,
    pub(super) metrics: Metrics,
}

impl Door {
    /// Until it is dropped.
    pub(super) async fn accept(self, listener: TcpListener) {
        loop {
            let (stream, remote) = self.handshakes.next(&listener, || self.metrics.accept_failed()).await;
            self.greet(stream, remote);
        }
    }

    fn greet(&self, stream: TcpStream, remote: SocketAddr) {
        let (tls, connections, tx) = (self.tls.clone(), self.connections.clone(), self.tx.clone());
        let waiting = self.handshakes.enter(remote.ip());
        tokio::spawn(async move {
            // Without it a small answer waits 40 ms for the far end's delayed ACK.
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%remote, %error, "no TCP_NODELAY");
            }
            let shaken = tokio::select! {
                shaken = tokio::time::timeout(HANDSHAKE, tls.accept(stream).into_fallible()) => shaken,
                () = waiting.evicted() => return tracing::debug!(%remote, "gRPC handshake given up for another"),
            };
            let stream = match shaken {
                Ok(Ok(stream)) => stream,
                Ok(Err((error, stream))) => {
                    tracing::info!(%remote, %error, "gRPC handshake failed");
                    // Whoever waits for a place is let in: this one is told why, and no more.
                    drop(tokio::select! {
                        done = tokio::time::timeout(FAREWELL, hear_out(stream)) => done,
                        () = waiting.evicted() => return,
                    });
                    return;
                }
                Err(_) => return tracing::info!(%remote, "gRPC handshake timed out"),
            };
            drop(waiting);
            match connections.admit(remote.ip(), is_node(&stream)) {
                // A server that is gone takes none.
                Some(seat) => drop(tx.send(Ok(Seated { stream, seat })).await),
                None => tracing::warn!(%remote, "too many gRPC connections: this one is closed"),
            }
        });
    }
}

/// Reads what a refused client has sent already: where it lies unread, the kernel resets the connection, and the alert that says why is lost
/// with it. In TLS 1.3 a client begins to send before its certificate is judged.
async fn hear_out(mut stream: TcpStream) -> io::Result<()> {
    stream.shutdown().await?;
    let mut unread = [0; 1024];
    while stream.read(&mut unread).await? > 0 {}
    Ok(())
}

fn is_node(stream: &TlsStream<TcpStream>) -> bool {
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    certificates.first().and_then(|c| peer_identity(c)).is_some_and(|i| i.kind == IdentityKind::Node)
}

/// A connection and its place.
pub(super) struct Seated {
    stream: TlsStream<TcpStream>,
    #[expect(dead_code, reason = "held for as long as the connection lives")]
    seat: Seat,
}

impl Connected for Seated {
    type ConnectInfo = <TlsStream<TcpStream> as Connected>::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Seated {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Seated {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
