//! The metrics of a node, with the `sbc_` prefix, base units and bounded labels (control.md, Observability).
//!
//! What core counts comes in through [`Metrics::count`]; states are set through [`Gauges`].

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, LabelSetEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter as PromCounter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::Registry;
use sbc_core::io::{
    AlarmKind, AuthOutcome, CallOutcome, ClaimOutcome, Counter, DropReason, Limit, MisrouteAction, ProbeOutcome,
    SubscriptionOutcome, TakeoverStep, TargetChange, UnreadOutcome,
};

use super::routers::{RouterReading, Routers};

/// One or two labels whose names are fixed by the metric and whose values are words of the program: bounded.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Labels<const N: usize>([(&'static str, &'static str); N]);

impl<const N: usize> EncodeLabelSet for Labels<N> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), std::fmt::Error> {
        for label in &self.0 {
            prometheus_client::encoding::EncodeLabel::encode(label, encoder.encode_label())?;
        }
        Ok(())
    }
}

/// A rule of the access list: the configuration bounds how many there are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct RuleLabel(u8);

impl EncodeLabelSet for RuleLabel {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), std::fmt::Error> {
        prometheus_client::encoding::EncodeLabel::encode(&("rule", u32::from(self.0)), encoder.encode_label())
    }
}

/// A trunk: the configuration bounds how many there are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct TrunkLabel(Box<str>);

impl EncodeLabelSet for TrunkLabel {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), std::fmt::Error> {
        prometheus_client::encoding::EncodeLabel::encode(&("trunk", &*self.0), encoder.encode_label())
    }
}

/// A number that another part of the node keeps.
pub struct Reading {
    /// Its name, without prefix and `_total`.
    pub name: &'static str,
    /// For people.
    pub help: &'static str,
    /// False: it may fall, too.
    pub counts: bool,
    /// Its present value.
    pub read: Box<dyn Fn() -> u64 + Send + Sync>,
}

impl std::fmt::Debug for Reading {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

#[derive(Debug)]
struct Readings(Vec<Reading>);

impl Collector for Readings {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        for reading in &self.0 {
            let value = (reading.read)();
            if reading.counts {
                let counter = ConstCounter::new(value);
                let metric = encoder.encode_descriptor(reading.name, reading.help, None, MetricType::Counter)?;
                counter.encode(metric)?;
            } else {
                let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
                let metric = encoder.encode_descriptor(reading.name, reading.help, None, MetricType::Gauge)?;
                gauge.encode(metric)?;
            }
        }
        Ok(())
    }
}

/// The help text of a metric, with the values of its label.
fn listed(help: &str, labels: &[&str]) -> String {
    format!("{help} ({})", labels.join(", "))
}

type Counters<const N: usize> = Family<Labels<N>, PromCounter>;

/// States, set by whoever knows them.
#[derive(Clone, Debug, Default)]
pub struct Gauges {
    /// Calls that this node owns.
    calls_active: Family<Labels<1>, Gauge>,
    /// Live transactions.
    pub transactions_active: Gauge,
    /// How busy the SIP loop is.
    pub load_percent: Gauge,
    /// Live calls in the replicated state.
    pub replica_calls: Gauge,
    /// 1 while this node serves the anycast address.
    pub anycast_announced: Gauge,
    /// 1 while it drains.
    pub draining: Gauge,
    /// Raft's term.
    pub raft_term: Gauge,
    /// 1 on the leader.
    pub raft_leader: Gauge,
    /// Highest committed index that is known here.
    pub raft_committed_index: Gauge,
    /// Highest applied index.
    pub raft_applied_index: Gauge,
    /// 1 while a quorum has confirmed within the lease.
    pub raft_quorum: Gauge,
    /// Free octets of the disk that the log is on.
    pub storage_free_bytes: Gauge,
    /// 1 while nothing of what is committed is applied here.
    pub raft_stuck: Gauge,
    /// Members that lost entries which they had acknowledged, at the leader.
    pub raft_reverted_members: Gauge,
    /// End of the certificate's validity, seconds since the Unix epoch.
    pub certificate_not_after_seconds: Gauge,
    /// The same of the certificate that far ends of SIP see.
    pub sip_certificate_not_after_seconds: Gauge,
    /// Media sessions.
    pub media_sessions: Gauge,
    /// Streams of events that are being read.
    pub event_watchers: Gauge,
}

/// All metrics of one node. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<RwLock<Registry>>,
    /// States.
    pub gauges: Gauges,
    requests: Counters<1>,
    responses: Counters<1>,
    parse_errors: Counters<1>,
    dropped: Counters<1>,
    acl: Family<RuleLabel, PromCounter>,
    claims: Counters<1>,
    misrouted: Counters<2>,
    degraded: PromCounter<u64, AtomicU64>,
    accept_errors: PromCounter<u64, AtomicU64>,
    unanchored: Counters<1>,
    unread: Counters<1>,
    targets: Counters<1>,
    calls_ended: Counters<2>,
    takeovers: Counters<2>,
    calls_received: Counters<1>,
    auth: Counters<1>,
    messages: Counters<1>,
    subscriptions: Counters<1>,
    limited: Counters<1>,
    banned: PromCounter<u64, AtomicU64>,
    probes: Counters<1>,
    alarms: Family<Labels<1>, Gauge>,
    trunk_up: Family<TrunkLabel, Gauge>,
    trunk_rtt: Family<TrunkLabel, Gauge<f64, AtomicU64>>,
    handshakes: Counters<2>,
    reloads: Counters<1>,
    routers: Routers,
    /// RPCs of the control plane that failed, by gRPC status.
    rpc_errors: Counters<1>,
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new()
    }
}

impl Metrics {
    /// All of them, at zero.
    pub fn new() -> Metrics {
        let mut r = Registry::with_prefix("sbc");
        let gauges = Gauges::default();
        register_gauges(&mut r, &gauges);
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        r.register("build", "Version of the program", prometheus_client::metrics::info::Info::new(version));
        let (requests, responses) = (Counters::<1>::default(), Counters::<1>::default());
        let (parse_errors, dropped) = (Counters::<1>::default(), Counters::<1>::default());
        let acl = Family::<RuleLabel, PromCounter>::default();
        let (claims, misrouted) = (Counters::<1>::default(), Counters::<2>::default());
        let (calls_ended, rpc_errors) = (Counters::<2>::default(), Counters::<1>::default());
        let takeovers = Counters::<2>::default();
        let (degraded, targets) = (PromCounter::default(), Counters::<1>::default());
        r.register("sip_requests_received", "SIP requests received, by method", requests.clone());
        r.register("sip_responses_sent", "SIP responses sent, by status class", responses.clone());
        r.register("sip_parse_errors", "Messages that could not be parsed, by fault", parse_errors.clone());
        r.register("sip_dropped", listed("Messages dropped without an answer, by reason", DropReason::LABELS), dropped.clone());
        r.register("sip_acl_hits", "Packets denied and requests rejected by the access list, by rule from 0", acl.clone());
        r.register("claims", listed("Claims of initial INVITEs, by outcome", ClaimOutcome::LABELS), claims.clone());
        r.register("misrouted", listed("Misrouted packets, by method and action", MisrouteAction::LABELS), misrouted.clone());
        let accept_errors = PromCounter::default();
        let help = "Connections to the gRPC and metrics ports that the kernel did not hand over, for want of descriptors";
        r.register("control_accept_errors", help, accept_errors.clone());
        r.register("calls_degraded", "Calls that went on without the store", degraded.clone());
        let unanchored = Counters::<1>::default();
        let help = "Calls that went on without media ports of ours, or with too few, by class of emergency service";
        r.register("calls_unanchored", help, unanchored.clone());
        let unread = Counters::<1>::default();
        r.register(
            "descriptions_unread",
            listed("Session descriptions not as they should be, by what came of it", UnreadOutcome::LABELS),
            unread.clone(),
        );
        r.register(
            "target_changes",
            listed("Targets that failed and were held down, and that answered again", TargetChange::LABELS),
            targets.clone(),
        );
        r.register(
            "takeovers",
            listed("Calls whose owner is gone, and legs of them, by what became of them", TakeoverStep::LABELS),
            takeovers.clone(),
        );
        r.register(
            "calls_ended",
            listed("Calls that ended, by outcome and class of emergency service", CallOutcome::LABELS),
            calls_ended.clone(),
        );
        let (auth, calls_received) = (Counters::<1>::default(), Counters::<1>::default());
        r.register("calls_received", "Calls that began, by class of emergency service", calls_received.clone());
        r.register("sip_auth", listed("Digest authentication, by outcome", AuthOutcome::LABELS), auth.clone());
        r.register("control_rpc_errors", "RPCs of the control plane that failed, by status", rpc_errors.clone());
        let banned = PromCounter::<u64, AtomicU64>::default();
        r.register("sources_banned", "Sources whose block this node has asked for", banned.clone());
        let limited = Counters::<1>::default();
        r.register(
            "calls_limited",
            listed("Initial requests that were refused for a limit, by which", Limit::LABELS),
            limited.clone(),
        );
        let (probes, trunk_up, trunk_rtt) = (Counters::<1>::default(), Family::default(), Family::default());
        r.register("trunk_probes", listed("OPTIONS to targets of trunks, by outcome", ProbeOutcome::LABELS), probes.clone());
        r.register("trunk_up", "1 while a target of a trunk with probes answers", Family::clone(&trunk_up));
        r.register("trunk_probe_seconds", "Round trip of the last OPTIONS that was answered", Family::clone(&trunk_rtt));
        let alarms = Family::<Labels<1>, Gauge>::default();
        r.register("alarm", "1 while an alarm stands", alarms.clone());
        let messages = Counters::<1>::default();
        r.register("messages_received", "MESSAGE outside of a dialog, by class of emergency service", messages.clone());
        let subscriptions = Counters::<1>::default();
        r.register(
            "subscriptions",
            listed("Subscriptions, by what became of them", SubscriptionOutcome::LABELS),
            subscriptions.clone(),
        );
        let (handshakes, reloads) = (Counters::<2>::default(), Counters::<1>::default());
        r.register("tls_handshakes", "TLS handshakes of SIP, by direction and outcome", handshakes.clone());
        r.register("certificate_reloads", "Certificates read again while running, by outcome", reloads.clone());
        let routers = Routers::default();
        routers.register(&mut r);
        Metrics {
            registry: Arc::new(RwLock::new(r)),
            gauges,
            requests,
            responses,
            parse_errors,
            dropped,
            acl,
            claims,
            misrouted,
            degraded,
            accept_errors,
            unanchored,
            unread,
            targets,
            calls_ended,
            takeovers,
            calls_received,
            auth,
            messages,
            subscriptions,
            limited,
            banned,
            probes,
            alarms,
            trunk_up,
            trunk_rtt,
            handshakes,
            reloads,
            routers,
            rpc_errors,
        }
    }

    /// What core counted.
    pub fn count(&self, counter: Counter) {
        let one = |family: &Counters<1>, label, value| {
            family.get_or_create(&Labels([(label, value)])).inc();
        };
        match counter {
            Counter::RequestReceived(method) => one(&self.requests, "method", method),
            Counter::ResponseSent(class) => one(&self.responses, "class", class_name(class)),
            Counter::ParseError(fault) => one(&self.parse_errors, "fault", fault),
            Counter::Dropped(reason) => one(&self.dropped, "reason", reason.label()),
            Counter::Acl(rule) => {
                self.acl.get_or_create(&RuleLabel(rule)).inc();
            }
            Counter::Claim(outcome) => one(&self.claims, "outcome", outcome.label()),
            Counter::Misrouted(method, action) => {
                self.misrouted.get_or_create(&Labels([("method", method), ("action", action.label())])).inc();
            }
            Counter::Unanchored(class) => one(&self.unanchored, "class", class),
            Counter::Unread(outcome) => {
                one(&self.unread, "outcome", outcome.label());
                tracing::warn!(outcome = outcome.label(), "a session description that is not as it should be");
            }
            Counter::Degraded => {
                self.degraded.inc();
            }
            Counter::Banned => {
                self.banned.inc();
            }
            Counter::Limited(limit) => one(&self.limited, "limit", limit.label()),
            Counter::Probe(outcome) => one(&self.probes, "outcome", outcome.label()),
            Counter::MessageReceived(class) => one(&self.messages, "class", class),
            Counter::Subscription(outcome) => one(&self.subscriptions, "outcome", outcome.label()),
            Counter::Target(change) => one(&self.targets, "change", change.label()),
            Counter::CallReceived(class) => one(&self.calls_received, "class", class),
            Counter::CallEnded(outcome, class) => {
                self.calls_ended.get_or_create(&Labels([("outcome", outcome.label()), ("class", class)])).inc();
            }
            Counter::Takeover(step, class) => {
                self.takeovers.get_or_create(&Labels([("step", step.label()), ("class", class)])).inc();
            }
            Counter::Auth(outcome) => one(&self.auth, "outcome", outcome.label()),
        }
    }

    /// Calls that went on without the store, since the start.
    pub fn degraded_calls(&self) -> u64 {
        self.degraded.get()
    }

    /// A connection to the gRPC or the metrics port could not be accepted.
    pub fn accept_failed(&self) {
        self.accept_errors.inc();
    }

    /// How many could not, since the start.
    pub fn accepts_failed(&self) -> u64 {
        self.accept_errors.get()
    }

    /// An alarm was raised or cleared.
    pub fn alarm(&self, kind: AlarmKind, raised: bool) {
        self.alarms.get_or_create(&Labels([("alarm", kind.as_str())])).set(i64::from(raised));
    }

    /// A target of a trunk was asked whether it is there. `up`: one of them is.
    pub fn trunk_probed(&self, trunk: &str, up: bool, rtt: Option<Duration>) {
        self.trunk_up.get_or_create(&TrunkLabel(trunk.into())).set(i64::from(up));
        if let Some(rtt) = rtt {
            self.trunk_rtt.get_or_create(&TrunkLabel(trunk.into())).set(rtt.as_secs_f64());
        }
    }

    /// How many TLS handshakes of SIP ended how, since the start: the transport counts.
    pub fn tls_handshakes(&self, direction: &'static str, outcomes: [(&'static str, u64); 5]) {
        for (outcome, count) in outcomes {
            let counter = self.handshakes.get_or_create(&Labels([("direction", direction), ("outcome", outcome)]));
            counter.inner().store(count, Ordering::Relaxed);
        }
    }

    /// Calls that this node owns, by class of emergency service.
    pub fn calls_active(&self, by_class: &[(&'static str, u64)]) {
        for &(class, calls) in by_class {
            let gauge = self.gauges.calls_active.get_or_create(&Labels([("class", class)]));
            gauge.set(i64::try_from(calls).unwrap_or(i64::MAX));
        }
    }

    /// The certificates were read again, and are in use or were refused.
    pub fn certificates_reloaded(&self, good: bool) {
        let outcome = if good { "swapped" } else { "refused" };
        self.reloads.get_or_create(&Labels([("outcome", outcome)])).inc();
    }

    /// An RPC failed.
    pub fn rpc_failed(&self, status: &'static str) {
        self.rpc_errors.get_or_create(&Labels([("status", status)])).inc();
    }

    /// How a router of the site is.
    pub fn router(&self, of: RouterReading) {
        self.routers.set(of);
    }

    /// What others count for themselves, read whenever somebody looks.
    pub fn read_from(&self, readings: Vec<Reading>) {
        self.registry.write().unwrap_or_else(PoisonError::into_inner).register_collector(Box::new(Readings(readings)));
    }

    /// The text that Prometheus reads (OpenMetrics).
    pub fn render(&self) -> String {
        let mut out = String::new();
        encode(&mut out, &self.registry.read().unwrap_or_else(PoisonError::into_inner))
            .expect("writing to a string does not fail");
        out
    }

    /// Each counter's sum over its labels, by name without the prefix.
    pub fn totals(&self) -> BTreeMap<String, u64> {
        let mut out = BTreeMap::new();
        for line in self.render().lines().filter(|l| !l.starts_with('#')) {
            let Some((name, value)) = line.rsplit_once(' ') else { continue };
            let name = name.split('{').next().unwrap_or(name);
            let Some(name) = name.strip_prefix("sbc_").filter(|n| n.ends_with("_total")) else { continue };
            *out.entry(name.to_owned()).or_insert(0) += value.parse::<u64>().unwrap_or(0);
        }
        out
    }
}

fn class_name(class: u8) -> &'static str {
    match class {
        1 => "1xx",
        2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        5 => "5xx",
        _ => "6xx",
    }
}

fn register_gauges(r: &mut Registry, g: &Gauges) {
    r.register("calls_active", "Calls that this node owns, by class of emergency service", g.calls_active.clone());
    let all: &[(&str, &str, &Gauge)] = &[
        ("transactions_active", "Live SIP transactions", &g.transactions_active),
        ("load_percent", "How busy the SIP loop is; from the setting shed_at on ordinary calls are refused", &g.load_percent),
        ("replica_calls", "Live calls in the replicated state", &g.replica_calls),
        ("anycast_announced", "1 while this node serves the anycast address", &g.anycast_announced),
        ("draining", "1 while this node drains", &g.draining),
        ("raft_term", "Raft term", &g.raft_term),
        ("raft_leader", "1 on the Raft leader", &g.raft_leader),
        ("raft_committed_index", "Highest committed log index", &g.raft_committed_index),
        ("raft_applied_index", "Highest applied log index", &g.raft_applied_index),
        ("raft_quorum", "1 while a quorum has confirmed within the lease", &g.raft_quorum),
        ("storage_free_bytes", "Free octets of the disk that the log is on", &g.storage_free_bytes),
        ("raft_stuck", "1 while what the cluster has committed is not applied here", &g.raft_stuck),
        (
            "raft_reverted_members",
            "At the leader: members that lost entries which they had acknowledged",
            &g.raft_reverted_members,
        ),
        ("certificate_not_after_seconds", "End of the certificate's validity, Unix time", &g.certificate_not_after_seconds),
        (
            "sip_certificate_not_after_seconds",
            "End of the validity of the certificate that far ends of SIP see, Unix time",
            &g.sip_certificate_not_after_seconds,
        ),
        ("media_sessions", "Media sessions", &g.media_sessions),
        ("event_watchers", "Streams of events that are being read", &g.event_watchers),
    ];
    for (name, help, gauge) in all {
        r.register(*name, *help, (*gauge).clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Dashboards and alerts name these: renaming one breaks them.
    const NAMES: &[&str] = &[
        "sbc_alarm",
        "sbc_anycast_announced",
        "sbc_build_info",
        "sbc_calls_active",
        "sbc_calls_degraded_total",
        "sbc_calls_ended_total",
        "sbc_calls_limited_total",
        "sbc_calls_received_total",
        "sbc_calls_unanchored_total",
        "sbc_certificate_not_after_seconds",
        "sbc_certificate_reloads_total",
        "sbc_claims_total",
        "sbc_control_accept_errors_total",
        "sbc_control_rpc_errors_total",
        "sbc_descriptions_unread_total",
        "sbc_draining",
        "sbc_event_watchers",
        "sbc_load_percent",
        "sbc_media_sessions",
        "sbc_messages_received_total",
        "sbc_misrouted_total",
        "sbc_raft_applied_index",
        "sbc_raft_committed_index",
        "sbc_raft_leader",
        "sbc_raft_quorum",
        "sbc_raft_reverted_members",
        "sbc_raft_stuck",
        "sbc_raft_term",
        "sbc_replica_calls",
        "sbc_sip_acl_hits_total",
        "sbc_sip_auth_total",
        "sbc_sip_certificate_not_after_seconds",
        "sbc_sip_dropped_total",
        "sbc_sip_parse_errors_total",
        "sbc_sip_requests_received_total",
        "sbc_sip_responses_sent_total",
        "sbc_sources_banned_total",
        "sbc_storage_free_bytes",
        "sbc_subscriptions_total",
        "sbc_takeovers_total",
        "sbc_target_changes_total",
        "sbc_tls_handshakes_total",
        "sbc_transactions_active",
        "sbc_trunk_probe_seconds",
        "sbc_trunk_probes_total",
        "sbc_trunk_up",
    ];

    #[test]
    fn names_are_as_documented_and_counts_arrive() {
        let m = Metrics::new();
        for c in [
            Counter::RequestReceived("INVITE"),
            Counter::RequestReceived("BYE"),
            Counter::ResponseSent(2),
            Counter::ParseError("via"),
            Counter::Dropped(DropReason::Source),
            Counter::Acl(7),
            Counter::Claim(ClaimOutcome::Won),
            Counter::Misrouted("BYE", MisrouteAction::Relay),
            Counter::Unanchored("sos"),
            Counter::Unread(UnreadOutcome::Repaired),
            Counter::Degraded,
            Counter::Takeover(TakeoverStep::Adopted, "sos"),
            Counter::Target(TargetChange::Held),
            Counter::MessageReceived("sos"),
            Counter::Subscription(SubscriptionOutcome::Begun),
            Counter::Limited(Limit::SourceRate),
            Counter::Banned,
            Counter::Probe(ProbeOutcome::Up),
            Counter::CallEnded(CallOutcome::Answered, "sos"),
            Counter::CallReceived("sos"),
            Counter::Auth(AuthOutcome::Answered),
        ] {
            m.count(c);
        }
        m.alarm(AlarmKind::DiskLow, true);
        m.trunk_probed("psap", true, Some(Duration::from_millis(20)));
        m.rpc_failed("unavailable");
        m.certificates_reloaded(false);
        m.tls_handshakes("opened", [("anonymous", 0), ("identified", 4), ("certificate", 2), ("failed", 0), ("given_up", 0)]);
        m.calls_active(&[("none", 3), ("sos", 0)]);
        let text = m.render();
        let mut names: Vec<&str> =
            text.lines().filter(|l| !l.starts_with('#')).map(|l| l.split(['{', ' ']).next().unwrap()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names, NAMES);
        assert!(text.contains("sbc_misrouted_total{method=\"BYE\",action=\"relay\"} 1"), "{text}");
        assert!(text.contains("sbc_sip_acl_hits_total{rule=\"7\"} 1"), "{text}");
        assert!(text.contains("sbc_calls_active{class=\"none\"} 3\n"), "{text}");
        assert!(text.contains("sbc_calls_active{class=\"sos\"} 0\n"), "{text}");
        assert!(text.contains("sbc_calls_ended_total{outcome=\"answered\",class=\"sos\"} 1"), "{text}");
        assert!(text.contains("sbc_trunk_up{trunk=\"psap\"} 1"), "{text}");
        assert!(text.contains("sbc_trunk_probe_seconds{trunk=\"psap\"} 0.02"), "{text}");
        assert!(text.contains("sbc_tls_handshakes_total{direction=\"opened\",outcome=\"certificate\"} 2"), "{text}");
        let totals = m.totals();
        assert_eq!(totals["sip_requests_received_total"], 2);
        assert_eq!(totals["calls_degraded_total"], 1);
        m.read_from(vec![
            Reading { name: "elsewhere", help: "Counted elsewhere", counts: true, read: Box::new(|| 7) },
            Reading { name: "present", help: "Present elsewhere", counts: false, read: Box::new(|| 3) },
        ]);
        let text = m.render();
        assert!(text.contains("\nsbc_elsewhere_total 7\n") && text.contains("\nsbc_present 3\n"), "{text}");
        assert!(!totals.contains_key("calls_active"));
    }
}
