//! The tasks of a node that go on as long as it does, beside the driver and Raft.

use sbc_core::io::NodeState;
use tokio::sync::watch;

use super::{AppError, Node, Runtimes, alarms, grpc, level, life, reports, start_error, view};
use crate::telemetry::{self, HealthPage};

impl Node {
    /// Begins them.
    pub(super) async fn spawn_tasks(
        &self,
        runtimes: &Runtimes,
        own: watch::Sender<NodeState>,
        first_config: Option<String>,
    ) -> Result<(), AppError> {
        let (health, healthy) = watch::channel(HealthPage::default());
        if let Some(listen) = self.config.metrics_listen {
            telemetry::serve_http(listen, self.metrics.clone(), healthy, &grpc::member_addresses(&self.config))
                .await
                .map_err(start_error("metrics"))?;
        }
        let sources = view::Sources {
            config: self.config.clone(),
            clock: self.clock,
            raft: self.raft.clone(),
            peers: self.peers.clone(),
            announcer: self.announcer.clone(),
            announced: self.announced.clone(),
            bgp: self.bgp.clone(),
            draining: self.draining.clone(),
            driver: self.driver.clone(),
            transport: self.transport.clone(),
            media: self.media.clone(),
            alarms: self.alarms.clone(),
            replica: self.replica.clone(),
            status: self.status.clone(),
            metrics: self.metrics.clone(),
            health,
            own,
        };
        let reports = reports::Reports {
            raft: self.raft.clone(),
            clock: self.clock,
            replica: self.replica.clone(),
            intents: self.intents.clone(),
            announcer: self.announcer.clone(),
            draining: self.draining.clone(),
            own: sources.own.subscribe(),
            node: self.config.id,
            incarnation: self.incarnation,
        };
        runtimes.control.spawn(reports.run());
        runtimes.control.spawn(sources.run());
        let own = self.config.id;
        let levels = level::Levels {
            raft: self.raft.clone(),
            clock: self.clock,
            replica: self.replica.clone(),
            peers: self.peers.clone(),
            others: self.config.cluster.members.iter().map(|m| m.id).filter(|id| *id != own).collect(),
            data_dir: self.config.data_dir.clone(),
        };
        let reporter = alarms::Reporter {
            raft: self.raft.clone(),
            clock: self.clock,
            replica: self.replica.clone(),
            alarms: self.alarms.clone(),
            node: own,
            incarnation: self.incarnation,
        };
        runtimes.control.spawn(levels.run());
        runtimes.control.spawn(reporter.run());
        runtimes.raft.spawn(view::tick(self.raft.clone(), self.clock, self.replica.clone()));
        let life = life::Life {
            node: self.config.id,
            incarnation: self.incarnation,
            lease: self.config.raft.lease,
            members: self.config.cluster.members.iter().map(|m| m.id).collect(),
            raft: self.raft.clone(),
            peers: self.peers.clone(),
            replica: self.replica.clone(),
            clock: self.clock,
        };
        runtimes.raft.spawn(life.run());
        if let Some(text) = first_config {
            runtimes.raft.spawn(view::first_config(self.raft.clone(), self.clock, self.replica.clone(), text));
        }
        Ok(())
    }
}
