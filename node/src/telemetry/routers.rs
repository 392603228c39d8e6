//! What the routers of the site have of this node, as metrics.

use std::net::IpAddr;
use std::sync::atomic::Ordering;

use prometheus_client::encoding::{EncodeLabelSet, LabelSetEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// A router: the configuration bounds how many there are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct RouterLabel(IpAddr);

impl EncodeLabelSet for RouterLabel {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), std::fmt::Error> {
        prometheus_client::encoding::EncodeLabel::encode(&("router", self.0.to_string()), encoder.encode_label())
    }
}

/// One router at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouterReading {
    /// Its address.
    pub router: IpAddr,
    /// The session is Established.
    pub up: bool,
    /// Prefixes that it has been told.
    pub prefixes: u64,
    /// Sessions that were Established, since the start.
    pub established: u64,
    /// UPDATEs of the router that were dropped unread, since the start.
    pub updates_dropped: u64,
    /// BFD is Up; `None`: it is not configured.
    pub bfd: Option<bool>,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub(super) struct Routers {
    up: Family<RouterLabel, Gauge>,
    prefixes: Family<RouterLabel, Gauge>,
    bfd: Family<RouterLabel, Gauge>,
    established: Family<RouterLabel, Counter>,
    dropped: Family<RouterLabel, Counter>,
}

impl Routers {
    pub(super) fn register(&self, r: &mut Registry) {
        r.register("bgp_session_up", "1 while the BGP session with a router is Established", self.up.clone());
        r.register("bgp_prefixes_announced", "Prefixes that a router has been told", self.prefixes.clone());
        r.register("bfd_up", "1 while BFD with a router is Up", self.bfd.clone());
        r.register("bgp_sessions", "BGP sessions with a router that were Established", self.established.clone());
        r.register("bgp_updates_dropped", "UPDATEs of a router, which are dropped unread", self.dropped.clone());
    }

    pub(super) fn set(&self, of: RouterReading) {
        let label = RouterLabel(of.router);
        self.up.get_or_create(&label).set(i64::from(of.up));
        self.prefixes.get_or_create(&label).set(i64::try_from(of.prefixes).unwrap_or(i64::MAX));
        if let Some(bfd) = of.bfd {
            self.bfd.get_or_create(&label).set(i64::from(bfd));
        }
        self.established.get_or_create(&label).inner().store(of.established, Ordering::Relaxed);
        self.dropped.get_or_create(&label).inner().store(of.updates_dropped, Ordering::Relaxed);
    }
}
