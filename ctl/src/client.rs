//! The way to a node: mutual TLS, and the next endpoint when one is unreachable.

use std::time::Duration;

use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use crate::args::Global;
use crate::context::{self, Context};
use crate::error::{Exit, Failure, chain, distrust};
use crate::files;

/// How long one endpoint may take to accept a connection before the next is tried.
const CONNECT: Duration = Duration::from_secs(2);
/// A connection that ends before its first answer is tried again: the reason, that a certificate is not believed, may come too late to be
/// seen.
const TRIES: usize = 5;
/// Without an answer to a keep-alive for this long a stream counts as broken and is resumed elsewhere.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// A cluster and who we are there.
#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    endpoints: Vec<String>,
    tls: ClientTlsConfig,
    timeout: Duration,
    request_id: Option<String>,
}

impl Cluster {
    /// What the command line and the contexts file name.
    pub(crate) fn new(global: &Global) -> Result<Cluster, Failure> {
        let mut cluster = Cluster::of(&context::resolve(global)?, Duration::from_secs(global.timeout))?;
        cluster.request_id.clone_from(&global.request_id);
        Ok(cluster)
    }

    /// A given cluster. Reads the certificate files.
    pub(crate) fn of(context: &Context, timeout: Duration) -> Result<Cluster, Failure> {
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(files::read(&context.ca)?))
            .identity(Identity::from_pem(files::read(&context.cert)?, files::read(&context.key)?));
        Ok(Cluster { endpoints: context.endpoints.clone(), tls, timeout, request_id: None })
    }

    /// The id of a changing request: the one given, or a fresh one.
    pub(crate) fn request_id(&self) -> Result<String, Failure> {
        match &self.request_id {
            Some(id) => Ok(id.clone()),
            None => Ok(files::hex(&files::random::<16>()?)),
        }
    }

    /// Longest wait for an answer.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// The first endpoint that accepts a connection.
    pub(crate) async fn connect(&self) -> Result<Channel, Failure> {
        let mut causes = Vec::new();
        let mut denied = None;
        for endpoint in &self.endpoints {
            match self.connect_to(endpoint).await {
                Ok(channel) => return Ok(channel),
                Err(failure) if failure.exit == Exit::Usage => return Err(failure),
                Err(failure) => {
                    causes.push(format!("{endpoint}: {}", failure.cause.clone().unwrap_or_default()));
                    denied = denied.or_else(|| Some(failure).filter(|f| f.exit == Exit::Denied));
                }
            }
        }
        // Another endpoint may just be down: that one side does not believe the other is what is to be mended.
        if let Some(denied) = denied {
            return Err(denied);
        }
        let nodes = if causes.len() == 1 { "the node is" } else { "all nodes are" };
        Err(Failure::new(Exit::Unreachable, format!("{nodes} unreachable"))
            .cause(causes.join("\n  "))
            .hint("see whether sbcd runs there and whether --ca, --cert and --key belong to this cluster"))
    }

    /// One endpoint.
    pub(crate) async fn connect_to(&self, endpoint: &str) -> Result<Channel, Failure> {
        let usage = |e: tonic::transport::Error| {
            Failure::new(Exit::Usage, format!("{endpoint:?} is no endpoint")).cause(chain(&e)).hint("write it as host:port")
        };
        let connector = Endpoint::from_shared(format!("https://{endpoint}"))
            .map_err(usage)?
            .tls_config(self.tls.clone())
            .map_err(|e| Failure::new(Exit::Usage, "the certificate files cannot be used").cause(chain(&e)))?
            .connect_timeout(CONNECT)
            .timeout(self.timeout)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE);
        let unreachable = |cause: String| match distrust(&cause) {
            Some(hint) => Failure::new(Exit::Denied, format!("no connection to {endpoint}")).cause(cause).hint(hint),
            None => Failure::new(Exit::Unreachable, format!("{endpoint} is unreachable")).cause(cause),
        };
        let mut last = String::new();
        for _ in 0..TRIES {
            match tokio::time::timeout(CONNECT, connector.connect()).await {
                Ok(Ok(channel)) => match is_served(&channel).await {
                    Ok(()) => return Ok(channel),
                    Err(cause) if distrust(&cause).is_some() => return Err(unreachable(cause)),
                    Err(cause) => last = cause,
                },
                Ok(Err(e)) => return Err(unreachable(chain(&e))),
                Err(_) => return Err(unreachable(format!("no connection within {} s", CONNECT.as_secs()))),
            }
        }
        Err(unreachable(last))
    }
}

/// Asks for the node's health. A connection of TLS 1.3 stands, for the client, before the node has judged its certificate: only an answer
/// shows that it is believed. `Err`: there is no connection any more, and why. Whatever a node says is an answer.
async fn is_served(channel: &Channel) -> Result<(), String> {
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    grpc.ready().await.map_err(|e| chain(&e))?;
    let path = PathAndQuery::from_static("/grpc.health.v1.Health/Check");
    match grpc.unary(tonic::Request::new(()), path, tonic_prost::ProstCodec::<(), ()>::default()).await {
        Err(status) if status.code() != tonic::Code::DeadlineExceeded => match std::error::Error::source(&status) {
            Some(cause) => Err(chain(cause)),
            None => Ok(()),
        },
        _ => Ok(()),
    }
}
