//! Announcing by BGP to the site's routers, with BFD beside it.
//!
//! One thread has all of it (`speaker`), apart from SIP, media and log: sockets here, decisions in [`sbc_core::bgp`] and [`sbc_core::bfd`].
//! It says KEEPALIVE, and stays up in BFD, only while what serves calls takes its turns ([`Pulse`]); the rest of the process may hang and
//! this thread not, and then the routes must go all the same. When the process dies, its sessions die with it.

mod addresses;
mod neighbor;
mod socket;
mod speaker;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sbc_core::bfd;
use sbc_core::bgp::{self, Route};
use sbc_core::io::Addresses;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

pub use socket::MD5_KEY_MAX;
use speaker::Order;

/// How long a caller waits for the thread: it answers within a turn.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

/// Between a withdrawal and the end of the sockets: what the router sent before it heard of it is still on its way here.
pub const IN_FLIGHT: Duration = Duration::from_millis(300);

/// Whether what serves calls takes its turns: asked a few times a second, from the speaker's thread. `Err`: what does not, in words.
pub type Pulse = Box<dyn FnMut() -> Result<(), &'static str> + Send>;

/// The speaker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BgpConfig {
    /// The own AS.
    pub local_as: u32,
    /// BGP Identifier; another one for each node.
    pub identifier: Ipv4Addr,
    /// Proposed to each router.
    pub hold_time: Duration,
    /// Between tries.
    pub connect_retry: Duration,
    /// What is announced while this node serves.
    pub routes: Vec<Route>,
    /// Whose absence from this machine takes the routes of their family away: anycast, unicast and core addresses.
    pub addresses: Vec<Addresses>,
    /// Routers may dial: port 179 is listened to.
    pub listen: bool,
    /// The routers.
    pub neighbors: Vec<NeighborConfig>,
    /// For jitter and discriminators: another one at each start.
    pub seed: u64,
}

/// A router.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NeighborConfig {
    /// Its address.
    pub address: IpAddr,
    /// Its BGP port.
    pub port: u16,
    /// Its AS.
    pub remote_as: u32,
    /// From where it is dialled; `None`: as the route says.
    pub local: Option<IpAddr>,
    /// TCP MD5 key, at most [`MD5_KEY_MAX`] octets.
    pub password: Option<Vec<u8>>,
    /// GTSM.
    pub ttl_security: bool,
    /// Where packets for IPv4 prefixes go; `None`: the session's own address.
    pub next_hop4: Option<Ipv4Addr>,
    /// The same for IPv6.
    pub next_hop6: Option<Ipv6Addr>,
    /// `None`: no BFD.
    pub bfd: Option<BfdConfig>,
}

/// BFD with one router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BfdConfig {
    /// Between packets.
    pub interval: Duration,
    /// Packets that may be missed, and one more.
    pub multiplier: u8,
}

/// One router, for people and metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NeighborStatus {
    /// Its address.
    pub address: IpAddr,
    /// Its AS.
    pub remote_as: u32,
    /// The session.
    pub session: bgp::Status,
    /// When it became Established, or ceased to be; milliseconds since the Unix epoch, zero before.
    pub since_unix_ms: u64,
    /// What the router has been told, and since when, milliseconds since the Unix epoch.
    pub announced: Vec<(String, u64)>,
    /// BFD's state; `None`: it is not configured.
    pub bfd: Option<bfd::State>,
    /// When BFD became Up, or ceased to be.
    pub bfd_since_unix_ms: u64,
}

impl NeighborStatus {
    /// The session may tell routes.
    pub fn is_established(&self) -> bool {
        self.session.state == Some(bgp::State::Established)
    }
}

/// Whether the routers have what they are to have: one that has it is enough. `Err`: why none has, in words.
pub(crate) type Told = Result<(), String>;

/// Orders to the speaker, and how it is. Cheap to clone; the sessions end when all are gone.
#[derive(Clone, Debug)]
pub struct BgpHandle(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    orders: speaker::Orders,
    told: watch::Receiver<Told>,
    status: Arc<Mutex<Vec<NeighborStatus>>>,
}

impl BgpHandle {
    /// Starts the thread: sessions begin at once, and nothing is announced before an order.
    ///
    /// # Errors
    /// A socket that cannot be opened (port 179 or 3784), or no thread.
    pub fn start(config: BgpConfig, pulse: Pulse) -> std::io::Result<BgpHandle> {
        let (told_tx, told) = watch::channel(Err("no router has been told yet".to_owned()));
        let status = Arc::default();
        let orders = speaker::start(config, pulse, told_tx, Arc::clone(&status))?;
        Ok(BgpHandle(Arc::new(Inner { orders, told, status })))
    }

    /// Announces from now on to each router whose session is, or becomes, Established. An error: no router has it, and why; it is wanted all
    /// the same.
    pub(crate) async fn announce(&self) -> Result<(), String> {
        self.order(|done| Order::Announce(true, done)).await?;
        self.0.told.borrow().clone()
    }

    /// Withdraws from each router, and returns when that is on its way. The sessions stay.
    pub(crate) async fn withdraw(&self) -> Result<(), String> {
        self.order(|done| Order::Announce(false, done)).await
    }

    /// Nobody else is heard who would serve: the routes stay although what serves calls has stopped.
    pub(crate) fn set_last(&self, last: bool) {
        self.0.orders.push(Order::Last(last));
    }

    /// Ends the sessions for good; the words go to the routers' operators (RFC 8203).
    pub async fn stop(&self, words: &str) {
        let words = words.to_owned();
        let _ = self.order(|done| Order::Stop(words, Some(done))).await;
    }

    /// Whether a router has what it is to have, and changes of that.
    pub(crate) fn told(&self) -> watch::Receiver<Told> {
        self.0.told.clone()
    }

    /// Each router.
    pub fn status(&self) -> Vec<NeighborStatus> {
        self.0.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn order(&self, order: impl FnOnce(oneshot::Sender<()>) -> Order) -> Result<(), String> {
        let (tx, rx) = oneshot::channel();
        self.0.orders.push(order(tx));
        match timeout(ANSWER_LIMIT, rx).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err("the BGP thread has ended".to_owned()),
            Err(_) => Err("the BGP thread does not answer".to_owned()),
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.orders.push(Order::Stop(String::new(), None));
    }
}
