//! The gRPC server: services, health, reflection, behind the auth layer, over mutual TLS.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use sbc_proto::v1::call_service_server::CallServiceServer;
use sbc_proto::v1::cluster_service_server::ClusterServiceServer;
use sbc_proto::v1::config_service_server::ConfigServiceServer;
use sbc_proto::v1::dispatch_service_server::DispatchServiceServer;
use sbc_proto::v1::event_service_server::EventServiceServer;
use sbc_proto::v1::node_service_server::NodeServiceServer;
use sbc_proto::v1::policy_service_server::PolicyServiceServer;
use sbc_proto::v1::routing_service_server::RoutingServiceServer;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use super::auth::AuthLayer;
use super::calls::Calls;
use super::configs::Configs;
use super::door::{CONNECTIONS, Door, HANDSHAKES};
use super::events::Events;
use super::handle::{AnnounceState, NodeHandle, NodeStatus};
use super::health::HealthState;
use super::nodes::Nodes;
use super::policy::Policy;
use super::routing::Routing;
use super::shared::Shared;
use crate::gate::Gate;
use crate::telemetry::Metrics;

/// HTTP/2 keep-alive: a dead connection's streams end.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// Streams of one connection.
const STREAMS: u32 = 256;

/// The services of `sbc.v1`, health and reflection. Add the peer services to the result with
/// [`Routes::add_service`]: the auth layer lets only nodes reach `sbc.peer.*`.
pub fn routes(node: Arc<dyn NodeHandle>) -> Routes {
    let shared = Shared::new(Arc::clone(&node));
    let (reporter, health) = tonic_health::server::health_reporter();
    tokio::spawn(report_health(reporter, node.status(), node.shutdown()));
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(sbc_proto::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let written = "both descriptor sets were written by builds";
    let (v1, v1alpha) = (reflection().build_v1().expect(written), reflection().build_v1alpha().expect(written));
    let (nodes, events) = (Nodes(shared.clone()), Events(shared.clone()));
    Routes::new(health)
        .add_service(v1)
        // What many clients still ask first.
        .add_service(v1alpha)
        .add_service(ClusterServiceServer::new(nodes.clone()))
        .add_service(NodeServiceServer::new(nodes))
        .add_service(CallServiceServer::new(Calls(shared.clone())))
        .add_service(EventServiceServer::new(events.clone()))
        .add_service(DispatchServiceServer::new(events))
        .add_service(PolicyServiceServer::new(Policy(shared.clone())))
        .add_service(RoutingServiceServer::new(Routing(shared.clone())))
        .add_service(ConfigServiceServer::new(Configs(shared)))
}

/// `grpc.health.v1`: "" and sbc.sip are serving while the node serves new calls, degraded or not; sbc.raft follows the log, sbc.anycast the
/// announcement; sbc.ok is serving while nothing is wrong.
async fn report_health(reporter: HealthReporter, mut status: watch::Receiver<NodeStatus>, mut shutdown: watch::Receiver<bool>) {
    loop {
        let s = status.borrow_and_update().clone();
        let health = s.health().0;
        let sip = health != HealthState::NotServing && !s.draining;
        let all = [
            ("", sip),
            ("sbc.sip", sip),
            ("sbc.raft", s.caught_up && s.quorum && !s.disk_failed),
            ("sbc.anycast", s.announce == AnnounceState::Announced),
            ("sbc.ok", health == HealthState::Ok),
        ];
        for (service, good) in all {
            let serving = if good { ServingStatus::Serving } else { ServingStatus::NotServing };
            reporter.set_service_status(service, serving).await;
        }
        tokio::select! {
            r = status.changed() => if r.is_err() { return },
            () = super::shared::stopping(&mut shutdown) => return,
        }
    }
}

/// Serves until `shutdown` is true, then lets running RPCs end (watches say Goodbye). `members`: addresses of the cluster's nodes, for which
/// there is always room.
pub async fn serve(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    auth: AuthLayer,
    routes: Routes,
    members: &[IpAddr],
    metrics: Metrics,
    mut shutdown: watch::Receiver<bool>,
) -> Result<(), tonic::transport::Error> {
    let (tx, rx) = mpsc::channel(HANDSHAKES.all);
    let door = Door {
        tls: TlsAcceptor::from(tls),
        handshakes: Gate::new(HANDSHAKES, members),
        connections: Gate::new(CONNECTIONS, members),
        tx,
        metrics,
    };
    let accepting = tokio::spawn(door.accept(listener));
    let done = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .max_concurrent_streams(Some(STREAMS))
        .layer(auth)
        .add_routes(routes)
        .serve_with_incoming_shutdown(ReceiverStream::new(rx), async move {
            // A sender that is gone stops the server as well.
            let _ = shutdown.wait_for(|s| *s).await;
        })
        .await;
    accepting.abort();
    done
}
