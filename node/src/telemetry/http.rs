//! `/metrics` and `/healthz`: fixed answers over HTTP/1.1, one request a connection.
//!
//! `/healthz` is for whoever sends calls here: 200 while the node serves them, whether all is well ("ok") or not ("degraded: ..."), else 503
//! ("not serving: ..."). `/healthz/ok` is for whoever is to be woken: the same words, and 503 unless all is well.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::Metrics;
use crate::gate::{Gate, Limits};

/// Connections at a time: a scraper and a probe need one each, for milliseconds. Where there are more, the oldest is the one that says nothing.
const CONNECTIONS: Limits = Limits { all: 16, source: 8 };
/// Request head: the two requests fit in a tenth of it, and hyper takes no less.
const HEAD_MAX: usize = 8192;
/// For one request and its answer.
const DEADLINE: Duration = Duration::from_secs(5);

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

    /// `strict`: 200 only where nothing is wrong.
    fn response(&self, strict: bool) -> Response {
        let good = self.serving && (self.wrong.is_empty() || !strict);
        let status = if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        (status, self.body()).into_response()
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
    Ok((bound, tokio::spawn(accept(listener, metrics.clone(), pages(metrics, health), Gate::new(CONNECTIONS, members)))))
}

async fn accept(listener: TcpListener, metrics: Metrics, pages: Router, gate: Gate) {
    loop {
        let (stream, remote) = gate.next(&listener, || metrics.accept_failed()).await;
        let (pages, seat) = (pages.clone(), gate.enter(remote.ip()));
        tokio::spawn(async move {
            tokio::select! {
                _ = tokio::time::timeout(DEADLINE, answer(stream, pages)) => {}
                () = seat.evicted() => {}
            }
        });
    }
}

/// One request and its answer; what is no HTTP/1 is answered by hyper.
async fn answer(stream: TcpStream, pages: Router) {
    let mut connection = http1::Builder::new();
    connection.keep_alive(false).half_close(true).max_buf_size(HEAD_MAX);
    // A peer that is slow or rude loses its connection and nothing else happens.
    let _ = connection.serve_connection(TokioIo::new(stream), TowerToHyperService::new(pages)).await;
}

fn pages(metrics: Metrics, health: watch::Receiver<HealthPage>) -> Router {
    let page = |strict| {
        let health = health.clone();
        get(move || async move { health.borrow().clone().response(strict) })
    };
    let metrics =
        async move || ([(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], metrics.render());
    Router::new().route("/metrics", get(metrics)).route("/healthz", page(false)).route("/healthz/ok", page(true)).fallback(
        async |method: Method| match method {
            Method::GET | Method::HEAD => (StatusCode::NOT_FOUND, "/metrics, /healthz or /healthz/ok\n"),
            _ => (StatusCode::METHOD_NOT_ALLOWED, ""),
        },
    )
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

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
        assert!(ask(addr, "PUT / HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 405"));
        // One request a connection, also where the client would keep it.
        let two = ask(addr, &"GET /healthz?verbose HTTP/1.1\r\nConnection: keep-alive\r\n\r\n".repeat(2)).await.to_lowercase();
        assert_eq!((two.matches("http/1.1 ").count(), two.matches("\r\nconnection: close\r\n").count()), (1, 1), "{two}");
        assert!(two.contains("\r\ncontent-type: text/plain; charset=utf-8\r\n"), "{two}");
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
