//! What the core is told about the cluster, and what the node does for it: the view, the leader's Tick, NodeUp, the first
//! configuration, health for the announcement.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use prost::Message;
use sbc_core::ids::NodeId;
use sbc_core::io::{AlarmKind, Command, CommandReply, NodeState, NodeView, View};
use sbc_core::replica::Replica;
use sbc_core::store_pb::{self, ConfigRevision, Tick, command::Kind};
use sbc_core::time::Instant;
use sbc_raft::{RaftHandle, RaftStatus, Role, StorageState};
use tokio::sync::watch;

use super::announcing;
use super::control::{Draining, live_calls};
use super::log_health;
use super::service_alarms::{Seen, ServiceAlarms};
use crate::announce::{AnnounceState, AnnouncerHandle, BgpHandle, Health, Others, Wish};
use crate::config::NodeConfig;
use crate::control::{self, HealthState, NodeStatus};
use crate::driver::{Clock, DriverHandle};
use crate::media::{MediaHandle, PortsWatch};
use crate::peer::PeerLinks;
use crate::telemetry::{Alarms, HealthPage, Metrics};
use crate::transport::TransportHandle;

/// The view is renewed at least this often: leases in it are absolute, and end without an event.
const RENEW: Duration = Duration::from_millis(200);
/// Changes within this time are told together: Raft's state changes with every commit, and a view costs the SIP loop a turn.
const SETTLE: Duration = Duration::from_millis(25);
/// How often gauges are brought up to date.
const REPORT: Duration = Duration::from_secs(1);
/// Clocks further apart than this raise an alarm, milliseconds: CDRs and events of two nodes are put in order by them.
const SKEW: u64 = 1000;
/// And below this it is cleared.
const SKEW_OVER: u64 = 500;
/// How often the leader writes its clock into the log.
const TICK: Duration = Duration::from_secs(10);
/// How often it looks whether it is time to: how late a configuration that was not confirmed may go.
const TICK_LOOK: Duration = Duration::from_secs(1);
/// Pause between tries of what must get into the log once.
const RETRY: Duration = Duration::from_secs(1);

/// What the view is made of.
pub(super) struct Sources {
    pub(super) config: Arc<NodeConfig>,
    pub(super) clock: Clock,
    pub(super) raft: RaftHandle,
    pub(super) peers: PeerLinks,
    pub(super) announcer: AnnouncerHandle,
    pub(super) announced: watch::Receiver<AnnounceState>,
    pub(super) bgp: Option<BgpHandle>,
    pub(super) draining: Draining,
    pub(super) driver: DriverHandle,
    pub(super) transport: TransportHandle,
    pub(super) media: MediaHandle,
    pub(super) alarms: Alarms,
    pub(super) replica: Arc<RwLock<Replica>>,
    pub(super) status: watch::Sender<NodeStatus>,
    pub(super) metrics: Metrics,
    pub(super) health: watch::Sender<HealthPage>,
    /// As peers are told.
    pub(super) own: watch::Sender<NodeState>,
}

impl Sources {
    /// Until the driver is gone.
    pub(super) async fn run(self) {
        let mut raft = self.raft.watch();
        let mut links = self.peers.watch();
        let mut announced = self.announced.clone();
        let mut wish = self.announcer.wish();
        let mut draining = self.draining.watch();
        let mut service = ServiceAlarms::default();
        let mut reported: Option<std::time::Instant> = None;
        let mut shortages = Shortages::default();
        loop {
            let status = self.raft.status();
            let node = self.judge(&status);
            let own = self.own_state(&node);
            self.own.send_if_modified(|old| std::mem::replace(old, own) != own);
            if self.driver.set_view(self.view(&status, own)).await.is_err() {
                return;
            }
            self.tell(node).await;
            if reported.is_none_or(|at| at.elapsed() >= REPORT) {
                reported = Some(std::time::Instant::now());
                self.report(&status, &mut service).await;
                shortages.look(&self);
            }
            tokio::time::sleep(SETTLE).await;
            tokio::select! {
                _ = raft.changed() => {}
                _ = links.changed() => {}
                _ = announced.changed() => {}
                _ = wish.changed() => {}
                _ = draining.changed() => {}
                () = tokio::time::sleep(RENEW) => {}
            }
        }
    }

    fn view(&self, status: &RaftStatus, own_state: NodeState) -> View {
        let node = |id: u64| u16::try_from(id).ok().map(NodeId);
        let own = self.config.id;
        let nodes = self.config.cluster.members.iter().map(|m| NodeView {
            id: m.id,
            name: m.name.as_str().into(),
            unicast: m.unicast,
            core: m.core,
            alive: m.id == own || self.peers.is_alive(m.id),
            down: m.id != own && self.peers.is_down(m.id),
        });
        // The state that was applied must be as new as the lease: a node that was cut off has to read first what became of its calls. One
        // that is down by its own state has none before the log says that it is back (`life`).
        let down = {
            let replica = self.replica.read().unwrap_or_else(PoisonError::into_inner);
            replica.down_since(own).is_some()
        };
        let until = status.caught_up_until.filter(|_| !down);
        View {
            nodes: nodes.collect(),
            leader: status.leader.and_then(node),
            lease_until: until.map_or(Instant::default(), |at| self.clock.from_boot(at)),
            caught_up: status.caught_up && !down,
            announced: *self.announced.borrow() == AnnounceState::Announced,
            draining: self.draining.get(),
            own: own_state,
        }
    }

    /// How this node is.
    fn judge(&self, status: &RaftStatus) -> NodeStatus {
        NodeStatus {
            announce: announce_state(&self.announced.borrow(), *self.announcer.wish().borrow()),
            draining: self.draining.get(),
            sip_loop: self.driver.is_alive(),
            caught_up: status.caught_up,
            quorum: status.has_lease,
            core_reachable: self.transport.core_bound(),
            media: self.media.is_alive(),
            stuck: status.stuck,
            disk_failed: matches!(status.storage, StorageState::Failed { .. }),
            disk_low: status.storage == StorageState::Low,
        }
    }

    /// The same, as peers are told.
    fn own_state(&self, node: &NodeStatus) -> NodeState {
        let healthy = node.health().0 != HealthState::NotServing;
        let wish = *self.announcer.wish().borrow();
        let wants = wish.wanted && !node.draining;
        NodeState {
            healthy,
            quorum: node.quorum && !node.stuck,
            wants,
            announces: *self.announced.borrow() == AnnounceState::Announced,
            stands_by: wish.stands_by,
            draining: node.draining,
            disk_failed: node.disk_failed,
        }
    }

    /// Health for the announcement and the control plane.
    async fn tell(&self, next: NodeStatus) {
        let health = Health {
            sip_loop: next.sip_loop,
            core_side: next.core_reachable,
            raft: next.caught_up,
            quorum: next.quorum && !next.stuck,
            disk: !next.disk_failed,
            media: next.media,
        };
        self.announcer.set_health(health).await;
        self.announcer.set_others(Others { serve_instead: self.another_serves() }).await;
        let (state, wrong) = next.health();
        let page = HealthPage { serving: state != HealthState::NotServing, wrong };
        self.health.send_if_modified(|old| {
            let changed = *old != page;
            *old = page;
            changed
        });
        self.status.send_if_modified(|old| {
            let changed = *old != next;
            *old = next;
            changed
        });
    }

    fn judge_clocks(&self) {
        let raised = self.alarms.active().iter().any(|a| a.kind == AlarmKind::ClockSkew);
        let clocks = self.config.cluster.members.iter().map(|m| (m.name.as_str(), self.peers.clock_skew_ms(m.id)));
        self.alarms.set(AlarmKind::ClockSkew, skewed(clocks, raised));
    }

    /// A member says, and lately, that it is well and serves the anycast address, or will as soon as it is free.
    fn another_serves(&self) -> bool {
        let others = self.config.cluster.members.iter().filter(|m| m.id != self.config.id);
        others.filter_map(|m| self.peers.words().of(m.id)).any(|word| word.state.serves_instead())
    }

    async fn report(&self, status: &RaftStatus, service: &mut ServiceAlarms) {
        log_health::tell(&self.alarms, &self.config, status, self.raft.space());
        self.judge_clocks();
        let gauge = |g: &prometheus_client::metrics::gauge::Gauge, v: u64| {
            g.set(i64::try_from(v).unwrap_or(i64::MAX));
        };
        let g = &self.metrics.gauges;
        let announced = *self.announced.borrow() == AnnounceState::Announced;
        gauge(&g.anycast_announced, u64::from(announced));
        gauge(&g.draining, u64::from(self.draining.get()));
        self.bgp.iter().flat_map(BgpHandle::status).for_each(|router| self.metrics.router(announcing::reading(&router)));
        gauge(&g.raft_term, status.term);
        gauge(&g.raft_leader, u64::from(status.role == Role::Leader));
        gauge(&g.raft_committed_index, status.committed.unwrap_or(0));
        gauge(&g.raft_applied_index, status.applied.unwrap_or(0));
        gauge(&g.raft_quorum, u64::from(status.has_lease));
        gauge(&g.storage_free_bytes, self.raft.space().map_or(0, |space| space.free));
        gauge(&g.raft_stuck, u64::from(status.stuck));
        gauge(&g.raft_reverted_members, status.reverted.len() as u64);
        gauge(&g.replica_calls, live_calls(&self.replica));
        let stats = self.transport.stats();
        for (direction, handshakes) in [("accepted", &stats.tls_accepted), ("opened", &stats.tls_opened)] {
            self.metrics.tls_handshakes(direction, handshakes.outcomes());
        }
        if let Ok(CommandReply::Summary { by_class, transactions, load, .. }) = self.driver.command(Command::Summary).await {
            self.metrics.calls_active(&by_class);
            gauge(&g.transactions_active, transactions);
            gauge(&g.load_percent, u64::from(load));
            let seen = Seen { quorum: status.has_lease, degraded: self.metrics.degraded_calls(), load };
            service.look(&self.alarms, std::time::Instant::now(), seen);
        }
    }
}

/// What runs out under a load, as alarms.
#[derive(Default)]
struct Shortages {
    ports: PortsWatch,
    accepts: Accepts,
}

impl Shortages {
    fn look(&mut self, sources: &Sources) {
        let now = std::time::Instant::now();
        sources.alarms.set(AlarmKind::MediaPorts, self.ports.look(&sources.media.room(), now));
        let failed = [sources.transport.stats().accept_errors.get(), sources.metrics.accepts_failed()];
        sources.alarms.set(AlarmKind::Descriptors, self.accepts.look(failed, now));
    }
}

/// Connections that were not accepted for want of descriptors, and when there was a new one.
#[derive(Default)]
struct Accepts {
    failed: u64,
    last: Option<std::time::Instant>,
}

impl Accepts {
    /// `failed`: so many to the SIP ports, and to those for gRPC and metrics. `Some`: the alarm is on, with what is wrong in words.
    fn look(&mut self, failed: [u64; 2], now: std::time::Instant) -> Option<String> {
        /// How long nothing must have failed before the alarm ends.
        const CALM: Duration = Duration::from_secs(10);
        let [sip, control] = failed;
        let all = sip.saturating_add(control);
        if all > self.failed {
            (self.failed, self.last) = (all, Some(now));
        }
        self.last = self.last.filter(|at| now.saturating_duration_since(*at) < CALM);
        self.last.map(|_| {
            format!(
                "for want of descriptors {sip} SIP connections and {control} to the gRPC and metrics ports could not be accepted"
            )
        })
    }
}

/// Which clocks are too far from ours, for people; `None`: none. `raised`: the alarm stands.
fn skewed<'a>(clocks: impl Iterator<Item = (&'a str, Option<i64>)>, raised: bool) -> Option<String> {
    let limit = if raised { SKEW_OVER } else { SKEW };
    let far = clocks.filter_map(|(name, skew)| {
        let ms = skew.filter(|ms| ms.unsigned_abs() > limit)?;
        let way = if ms > 0 { "ahead" } else { "behind" };
        Some(format!("the clock of {name} is {}.{:03} s {way}", ms.unsigned_abs() / 1000, ms.unsigned_abs() % 1000))
    });
    let far: Vec<String> = far.collect();
    (!far.is_empty()).then(|| far.join("; "))
}

/// The announcer's state, as the control plane tells it.
fn announce_state(state: &AnnounceState, wish: Wish) -> control::AnnounceState {
    match state {
        AnnounceState::Standby | AnnounceState::Withdrawn if wish.left => control::AnnounceState::Left,
        AnnounceState::Announced => control::AnnounceState::Announced,
        AnnounceState::Standby | AnnounceState::Announcing => control::AnnounceState::Standby,
        AnnounceState::NeverAnnounced | AnnounceState::Withdrawing | AnnounceState::Withdrawn => {
            control::AnnounceState::Withdrawn
        }
        AnnounceState::Failed { .. } => control::AnnounceState::Blocked,
    }
}

pub(super) fn log_command(clock: Clock, kind: Kind) -> bytes::Bytes {
    store_pb::Command { unix_ms: clock.now().unix.0, kind: Some(kind) }.encode_to_vec().into()
}

/// While this node leads, writes its clock into the log: regularly, and when a configuration that nobody has confirmed is to go.
pub(super) async fn tick(raft: RaftHandle, clock: Clock, replica: Arc<RwLock<Replica>>) {
    let mut last = std::time::Instant::now();
    loop {
        tokio::time::sleep(TICK_LOOK).await;
        let pending = replica.read().unwrap_or_else(PoisonError::into_inner).config_pending();
        let due = pending.is_some_and(|p| p.until_ms <= clock.now().unix.0);
        if last.elapsed() < TICK && !due {
            continue;
        }
        last = std::time::Instant::now();
        if raft.status().role == Role::Leader {
            // A lost Tick is followed by the next.
            let _ = raft.propose(log_command(clock, Kind::Tick(Tick {}))).await;
        }
    }
}

/// Proposes the configuration file as the first revision, unless the log has one.
pub(super) async fn first_config(raft: RaftHandle, clock: Clock, replica: Arc<RwLock<Replica>>, text: String) {
    loop {
        let status = raft.status();
        let current = replica.read().unwrap_or_else(PoisonError::into_inner).config().0;
        if current > 0 {
            return;
        }
        if status.caught_up {
            let revision = ConfigRevision {
                base: 0,
                text: text.clone(),
                author: "first start".into(),
                request_id: "first-configuration".into(),
                ..ConfigRevision::default()
            };
            // The same request id from every try: applied once.
            let _ = raft.propose(log_command(clock, Kind::Config(revision))).await;
        }
        tokio::time::sleep(RETRY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_run_out_at_any_port_and_the_alarm_ends_when_nothing_failed_for_a_while() {
        let (start, mut accepts) = (std::time::Instant::now(), Accepts::default());
        let mut raised = |second, failed| accepts.look(failed, start + Duration::from_secs(second)).is_some();
        let table = [(0, [0, 0], false), (1, [0, 1], true), (10, [0, 1], true), (11, [0, 1], false), (12, [2, 1], true)];
        for (second, failed, wanted) in table {
            assert_eq!(raised(second, failed), wanted, "at {second} s");
        }
    }

    #[test]
    fn clocks_that_differ_are_named_and_an_alarm_that_stands_stays_a_little_longer() {
        let of = |b, c, raised| skewed([("node-a", None), ("node-b", b), ("node-c", c)].into_iter(), raised);
        assert_eq!(of(None, Some(0), false), None);
        assert_eq!(of(Some(900), Some(-900), false), None);
        assert_eq!(of(Some(900), None, true).unwrap(), "the clock of node-b is 0.900 s ahead");
        assert_eq!(
            of(Some(1001), Some(-3_600_000), false).unwrap(),
            "the clock of node-b is 1.001 s ahead; the clock of node-c is 3600.000 s behind"
        );
        assert_eq!(of(Some(499), Some(500), true), None);
    }
}
