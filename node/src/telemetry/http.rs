//! `/metrics` and `/healthz`: fixed answers over HTTP/1.1, one request a connection.
//!
//! `/healthz` is for whoever sends calls here: 200 while the node serves them, whether all is well ("ok") or not ("degraded: ..."), else 503
//! ("not serving: ..."). `/healthz/ok` is for whoever is to be woken: the same words, and 503 unless all is well.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::Metrics;
use crate::gate::{Gate, Limits};

/// Connections at a time: a scraper and a probe need one each, for milliseconds. Where there are more, the oldest is the one that says nothing.
const CONNECTIONS: Limits = Limits { all: 16, source: 8 };
/// Request head: the two requests fit in a tenth of it.
const HEAD_MAX: usize = 4096;
/// For one request and its answer.
const DEADLINE: Duration = Duration::from_secs(5);
/// After a failed accept (no descriptors left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The listener could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("[metrics] listen {addr}: {source}")]
pub struct HttpError {
    /// Where.
    pub addr: SocketAddr,
    /// Why.
    pub source: io::Error,
}

/// What `/healthz` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthPage {
    /// Calls are served.
    pub serving: bool,
    /// What is wrong; empty: nothing.
    pub wrong: String,
}

impl Default for HealthPage {
    fn default() -> HealthPage {
        HealthPage { serving: false, wrong: "starting".to_owned() }
    }
}

impl HealthPage {
    fn body(&self) -> String {
        match (self.serving, self.wrong.is_empty()) {
            (true, true) => "ok\n".to_owned(),
            (true, false) => format!("degraded: {}\n", self.wrong),
            (false, _) => format!("not serving: {}\n", self.wrong),
        }
    }
}

/// Serves until the returned task is aborted. `members`: addresses of the cluster's nodes, for which there is always room. Gives the address
/// that is listened on.
pub async fn serve_http(
    addr: SocketAddr,
    metrics: Metrics,
    health: watch::Receiver<HealthPage>,
    members: &[IpAddr],
) -> Result<(SocketAddr, tokio::task::JoinHandle<()>), HttpError> {
    let listener = TcpListener::bind(addr).await.map_err(|source| HttpError { addr, source })?;
    let bound = listener.local_addr().map_err(|source| HttpError { addr, source })?;
    Ok((bound, tokio::spawn(accept(listener, metrics, health, Gate::new(CONNECTIONS, members)))))
}

async fn accept(listener: TcpListener, metrics: Metrics, health: watch::Receiver<HealthPage>, gate: Gate) {
    loop {
        let Ok((stream, remote)) = listener.accept().await else {
            gate.relieve();
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let (metrics, health, seat) = (metrics.clone(), health.clone(), gate.enter(remote.ip()));
        tokio::spawn(async move {
            // A peer that is slow or rude loses its connection and nothing else happens.
            tokio::select! {
                _ = tokio::time::timeout(DEADLINE, answer(stream, &metrics, &health)) => {}
                () = seat.evicted() => {}
            }
        });
    }
}

async fn answer(mut stream: TcpStream, metrics: &Metrics, health: &watch::Receiver<HealthPage>) -> io::Result<()> {
    let mut head = Vec::with_capacity(512);
    while !head.windows(4).any(|w| w == b"\r\n\r\n") {
        if head.len() >= HEAD_MAX {
            return respond(&mut stream, "431 Request Header Fields Too Large", "text/plain", "", true).await;
        }
        let mut chunk = [0; 512];
        let n = stream.read(&mut chunk).await?;
        if n == 0 {
            return Ok(());
        }
        head.extend_from_slice(&chunk[..n]);
    }
    let line = head.split(|b| *b == b'\r').next().unwrap_or_default();
    let mut words = line.split(|b| *b == b' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let with_body = method != b"HEAD";
    if method != b"GET" && with_body {
        return respond(&mut stream, "405 Method Not Allowed", "text/plain", "", true).await;
    }
    let path = target.split(|b| *b == b'?').next().unwrap_or_default();
    match path {
        b"/metrics" => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            respond(&mut stream, "200 OK", kind, &metrics.render(), with_body).await
        }
        b"/healthz" | b"/healthz/ok" => {
            let page = health.borrow().clone();
            let good = page.serving && (page.wrong.is_empty() || path == b"/healthz");
            let status = if good { "200 OK" } else { "503 Service Unavailable" };
            respond(&mut stream, status, "text/plain; charset=utf-8", &page.body(), with_body).await
        }
        _ => respond(&mut stream, "404 Not Found", "text/plain", "/metrics, /healthz or /healthz/ok\n", with_body).await,
    }
}

async fn respond(stream: &mut TcpStream, status: &str, kind: &str, body: &str, with_body: bool) -> io::Result<()> {
    let head =
        format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).await?;
    if with_body {
        stream.write_all(body.as_bytes()).await?;
    }
    stream.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ask(addr: SocketAddr, request: &str) -> String {
        let mut s = TcpStream::connect(addr).await.unwrap();
        s.write_all(request.as_bytes()).await.unwrap();
        let mut out = String::new();
        let _ = s.read_to_string(&mut out).await;
        out
    }

    #[tokio::test]
    async fn two_pages_and_limits() {
        let (say, health) = watch::channel(HealthPage::default());
        let metrics = Metrics::new();
        metrics.gauges.media_sessions.set(7);
        let (addr, task) = serve_http("127.0.0.1:0".parse().unwrap(), metrics, health, &[]).await.unwrap();
        let page = ask(addr, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(page.starts_with("HTTP/1.1 200 OK\r\n") && page.contains("sbc_media_sessions 7\n"), "{page}");
        for (serving, wrong, calls, well, words) in [
            (false, "starting", 503, 503, "not serving: starting"),
            (true, "", 200, 200, "\r\n\r\nok"),
            (true, "no quorum", 200, 503, "degraded: no quorum"),
            (false, "no media; no quorum", 503, 503, "not serving: no media; no quorum"),
        ] {
            say.send(HealthPage { serving, wrong: wrong.into() }).unwrap();
            for (path, status) in [("/healthz", calls), ("/healthz/ok", well)] {
                let page = ask(addr, &format!("GET {path} HTTP/1.1\r\n\r\n")).await;
                assert!(page.starts_with(&format!("HTTP/1.1 {status} ")) && page.ends_with(&format!("{words}\n")), "{page}");
            }
        }
        assert!(ask(addr, "GET / HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 404"));
        assert!(ask(addr, "POST /metrics HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 405"));
        let long = ask(addr, &"x".repeat(HEAD_MAX)).await;
        assert!(long.starts_with("HTTP/1.1 431"), "{long}");
        // Any number of connections that say nothing shut nobody out.
        let idle: Vec<TcpStream> = futures::future::join_all((0..4 * CONNECTIONS.all).map(|_| TcpStream::connect(addr)))
            .await
            .into_iter()
            .collect::<Result<_, _>>()
            .unwrap();
        let begin = std::time::Instant::now();
        assert!(ask(addr, "HEAD /healthz HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 503"));
        assert!(begin.elapsed() < DEADLINE / 2, "it did not wait for one of them to end");
        drop(idle);
        task.abort();
    }
}
