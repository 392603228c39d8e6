//! The one rig that is driven by hand: a cluster, a caller, and up to two targets behind it. Each verb sends or awaits what its name says.
//!
//! | what | verbs |
//! |---|---|
//! | time | `advance` |
//! | nodes | `isolate`, `rejoin`, `die`, `start`, `lose_log`, `regain_log`, `route_to`, `w.reconfigure` |
//! | any far end | [`Far`]: `put`, `inbox`, `request`, `response`, `answer` |
//! | the caller | `send`, `dials`, `asks`, `pracks`, `acks`, `cancels`, `got`, `caller_got`, `told` (`call.rs`, `early.rs`, `targets.rs`) |
//! | the called side | `says`, `called_asks`, `called_answers`, `psap_answers`, `psap_requests`, `psap_got`, `replies` |
//! | subscriptions | `subscribes`, `resubscribes`, `notifies`, `notified` (`subscription.rs`) |
//! | what is found | `calm`, `rests`, `media`, `subscriptions_held` |

mod call;
mod early;
pub(crate) mod far;
mod read;
mod subscription;
mod targets;

use std::net::SocketAddr;

use sbc_core::io::{HostAndPort, Transport};
use sbc_core::policy::{ClusterConfig, MisroutePolicy, Route, RouteMatch, TrunkTarget};
use sbc_core::sip::Message;

use crate::world::{Fault, Net, World, addr, config};
pub(crate) use far::Far;
use far::wait;
pub(crate) use read::{anchored, flow_of, made_by, methods, origin, requests, sdp_of, sent_to, statuses, text, uri_of};
pub(crate) use subscription::{DESK_LISTENS, DESK_SOURCE, QUEUE};
pub(crate) use targets::{first, second};

/// The emergency number at the cluster's address.
pub(crate) const URI: &str = "sip:112@198.18.112.112";
/// The PSAP where there is one target.
pub(crate) const PSAP: &str = "198.18.20.9:5060";
/// The PSAP and the target after it where there are two.
pub(crate) const FIRST: &str = "198.18.20.8:5060";
pub(crate) const SECOND: &str = "198.18.20.9:5060";
/// The caller, by UDP from the port at which it listens.
pub(crate) const CALLER: &str = "198.18.10.9:5060";
/// Where a caller of its own transport listens, and where it sends from.
pub(crate) const LISTENS: &str = "198.18.10.9:5070";
pub(crate) const SOURCE: &str = "198.18.10.9:40001";
/// Header fields that make a response of the called side reliable, beside its RSeq.
pub(crate) const RELIABLE: (&str, &str) = ("Require", "100rel");

/// A message, and the address of the node that sent it.
pub(crate) type Request = (Message, SocketAddr);

/// A cluster and the far ends around it.
pub(crate) struct Rig {
    pub(crate) w: World,
    pub(crate) caller: Far,
    /// The first target, or the only one.
    pub(crate) psap: Far,
    pub(crate) second: Far,
    /// The initial request as it reached the called side, and from where.
    pub(crate) asked: Option<Request>,
    /// The 2xx that the caller has.
    pub(crate) ok: Option<Message>,
    /// The CSeq of the last request within the dialog, whoever sent it.
    pub(crate) cseq: u32,
    calls: u32,
}

/// A target by UDP.
pub(crate) fn target(text: &str) -> TrunkTarget {
    target_by(text, Some(Transport::Udp))
}

pub(crate) fn target_by(text: &str, transport: Option<Transport>) -> TrunkTarget {
    let at = addr(text);
    TrunkTarget { host: HostAndPort { host: at.ip().to_string().into(), port: Some(at.port()) }, transport }
}

impl Rig {
    /// So many nodes, that caller, and the called side as `change` says; the cluster is up.
    pub(crate) fn build(nodes: usize, caller: Far, change: impl FnOnce(&mut ClusterConfig)) -> Rig {
        let mut config = config(MisroutePolicy::Relay, false);
        config.trunks[1].targets[0].host.host = addr(PSAP).ip().to_string().into();
        change(&mut config);
        let mut w = World::with_config(3, nodes, Vec::new(), Net::calm(), |_| config);
        w.sent = Some(Vec::new());
        w.trace = std::env::var_os("SIM_TRACE").is_some();
        w.run_until(100);
        Rig { w, caller, psap: Far::at(PSAP), second: Far::at(SECOND), asked: None, ok: None, cseq: 1, calls: 0 }
    }

    /// A caller and one PSAP by UDP; the emergency number is `number`, and 112 is routed all the same.
    pub(crate) fn dialling(number: &str) -> Rig {
        Rig::dialling_with(number, |_| ())
    }

    pub(crate) fn dialling_with(number: &str, change: impl FnOnce(&mut ClusterConfig)) -> Rig {
        Rig::build(3, Far::at(CALLER), |config| {
            config.emergency_numbers = vec![number.into()];
            if number != "112" {
                config.routes.push(Route {
                    name: "others".into(),
                    matches: vec![RouteMatch::User("112".into())],
                    trunks: vec!["psap".into()],
                });
            }
            change(config);
        })
    }

    /// A caller by that transport, which sends from another port than it listens at: on connection 1 of the first node, or by UDP.
    pub(crate) fn by(transport: Transport) -> Rig {
        Rig::by_with(transport, |_| ())
    }

    pub(crate) fn by_with(transport: Transport, change: impl FnOnce(&mut ClusterConfig)) -> Rig {
        Rig::build(3, Far::from(SOURCE, LISTENS, transport), change)
    }

    /// Lets `ms` pass.
    pub(crate) fn advance(&mut self, ms: u64) {
        wait(&mut self.w, ms);
    }

    fn fault(&mut self, fault: Fault) {
        self.w.fault_at(self.w.now / 1000 + 1, fault);
        self.advance(1);
    }

    /// A node loses its peers and the log; its SIP sockets work.
    pub(crate) fn isolate(&mut self, node: usize) {
        self.fault(Fault::Cut(node));
    }

    /// It has them again.
    pub(crate) fn rejoin(&mut self, node: usize) {
        self.fault(Fault::Heal(node));
    }

    /// A node loses the log alone.
    pub(crate) fn lose_log(&mut self, node: usize) {
        self.fault(Fault::CutLog(node));
    }

    pub(crate) fn regain_log(&mut self, node: usize) {
        self.fault(Fault::HealLog(node));
    }

    /// A node dies.
    pub(crate) fn die(&mut self, node: usize) {
        self.fault(Fault::Kill(node));
    }

    /// A node that is dead is started again.
    pub(crate) fn start(&mut self, node: usize) {
        self.fault(Fault::Restart(node));
    }

    /// The anycast address reaches that node from now on.
    pub(crate) fn route_to(&mut self, node: usize) {
        self.fault(Fault::Flip(node));
    }

    /// No node said what none may.
    #[track_caller]
    pub(crate) fn calm(&self) {
        assert!(self.w.violations.is_empty(), "{:#?}", self.w.violations);
    }

    pub(crate) fn subscriptions_held(&self) -> usize {
        self.w.nodes.iter().map(|n| n.sbc.subscription_count()).sum()
    }

    /// After so many ms nothing is left of subscriptions and of transactions.
    #[track_caller]
    pub(crate) fn rests(&mut self, ms: u64) {
        self.advance(ms);
        assert_eq!(self.subscriptions_held(), 0);
        assert_eq!(self.w.nodes.iter().map(|n| n.sbc.transaction_count()).sum::<usize>(), 0);
        self.calm();
    }
}
