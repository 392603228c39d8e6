//! How others reach the driver.

use std::sync::{Arc, RwLock};
use std::time::Duration;

use sbc_core::ids::{CallUid, MediaId};
use sbc_core::io::{Command, CommandReply, View};
use sbc_core::policy::ClusterConfig;
use sbc_core::replica::EarlyCalls;
use tokio::sync::{mpsc, oneshot, watch};

use super::Order;
use super::clock::Pulse;

/// Orders that wait for the driver: the control plane waits in turn.
const QUEUE: usize = 256;
/// The loop is alive while it has turned within this time: four beats.
const ALIVE: Duration = Duration::from_secs(2);

/// Handle to the driver; clones share it.
#[derive(Clone)]
pub struct DriverHandle {
    orders: mpsc::Sender<Order>,
    pub(super) events: watch::Sender<u64>,
    pub(super) halted: watch::Sender<Option<String>>,
    pub(super) pulse: Arc<Pulse>,
    pub(super) early: Arc<RwLock<EarlyCalls>>,
}

/// The driver is gone: the node is stopping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the SIP core has stopped")]
pub struct DriverStopped;

impl DriverHandle {
    /// A handle, and the queue for [`super::Queues::orders`].
    pub fn new() -> (DriverHandle, mpsc::Receiver<Order>) {
        let (orders, queue) = mpsc::channel(QUEUE);
        let handle = DriverHandle {
            orders,
            events: watch::Sender::new(0),
            halted: watch::Sender::new(None),
            pulse: Arc::default(),
            early: Arc::default(),
        };
        (handle, queue)
    }

    /// Carries out a command of the core.
    pub async fn command(&self, command: Command) -> Result<CommandReply, DriverStopped> {
        let (reply, answer) = oneshot::channel();
        self.orders.send(Order::Command(command, reply)).await.map_err(|_| DriverStopped)?;
        answer.await.map_err(|_| DriverStopped)
    }

    /// Tells the core what the cluster looks like.
    pub async fn set_view(&self, view: View) -> Result<(), DriverStopped> {
        self.orders.send(Order::View(view)).await.map_err(|_| DriverStopped)
    }

    /// Hands the core a configuration that did not come through the log.
    pub async fn configure(&self, config: Arc<ClusterConfig>) -> Result<(), DriverStopped> {
        self.orders.send(Order::Configure(config)).await.map_err(|_| DriverStopped)
    }

    /// The media session of a call, where this node owns it.
    pub async fn media_of(&self, call: CallUid) -> Result<Option<MediaId>, DriverStopped> {
        let (reply, answer) = oneshot::channel();
        self.orders.send(Order::MediaOf(call, reply)).await.map_err(|_| DriverStopped)?;
        answer.await.map_err(|_| DriverStopped)
    }

    /// What the log does not have of this node's calls.
    pub fn early(&self) -> Arc<RwLock<EarlyCalls>> {
        self.early.clone()
    }

    /// Changes when the replicated state, or what stands beside it, has new events.
    pub fn events(&self) -> watch::Receiver<u64> {
        self.events.subscribe()
    }

    /// Why the driver stopped, once it did.
    pub fn halted(&self) -> watch::Receiver<Option<String>> {
        self.halted.subscribe()
    }

    /// How long ago the SIP loop took its last turn: two beats a second where it has nothing to do.
    pub fn age(&self) -> Duration {
        self.pulse.age()
    }

    /// True while the SIP loop takes its turns.
    pub fn is_alive(&self) -> bool {
        self.pulse.age() < ALIVE
    }
}
