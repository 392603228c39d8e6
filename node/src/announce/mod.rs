//! Announcing and withdrawing the anycast address.
//!
//! One task owns the `machine` and the driver. With `bind` several healthy nodes want the address and one holds it:
//!
//! - a node starts wanted or not, by configuration, and as a standby takes the address when it has seen it free for its
//!   `preference` (for example a: 0, b: 150 ms, c: 300 ms);
//! - a flip is [`AnnouncerHandle::step_back`] on the holder and [`AnnouncerHandle::announce_now`] on the target. The target
//!   tries every 5 ms for 5 s; the old holder takes the address again only after it was free for its preference and a second;
//! - [`AnnouncerHandle::withdraw`] is the operator's lasting word: withdrawn until `announce_now` or `set_wanted(true)`;
//! - drain withdraws, and undrain makes the node an ordinary standby again;
//! - with `bgp` it is announced while a router has it: sessions come and go without an order (`Machine::handle_told`);
//! - a node that is cut off from the quorum, or whose disk failed, leaves the address to a peer that is well, and to nobody else (`leave`).

mod bgp;
mod driver;
mod leave;
mod machine;
#[cfg(test)]
mod machine_tests;
#[cfg(test)]
mod random_tests;
#[cfg(test)]
mod tests;

use std::time::Duration;

use sbc_core::time::Instant;
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

pub use bgp::{BfdConfig, BgpConfig, BgpHandle, IN_FLIGHT, MD5_KEY_MAX, NeighborConfig, NeighborStatus, Pulse};
pub use driver::{Driver, Exec};
pub use leave::{LEAVE_AFTER, Others, RETURN_AFTER, STAY, TAKE_LIMIT};
pub use machine::{
    AnnounceState, FAILURE_PAUSE, Health, NOW_LIMIT, NOW_RETRY, Policy, STANDBY_RETRY, STEADY, STEP_BACK, UP_AFTER_MAX,
};

use machine::{Action, Machine};

/// Orders waiting for the task. They come from people and from a health check once a second.
const ORDERS_MAX: usize = 32;

/// How long a caller waits for the outcome of an order: a command's limit and a try of `announce_now`, and a little.
const OUTCOME_LIMIT: Duration = Duration::from_secs(7);

/// Why an order of the operator was not carried out.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum AnnounceError {
    /// No other node announces: callers would reach nobody. The operator may force it.
    #[error("this is the last node that announces the anycast address; force the withdrawal to go on")]
    LastAnnouncer,
    /// The driver failed; it is tried again while it is wanted.
    #[error("{0}")]
    Driver(String),
    /// Not within the limit: unhealthy, draining, or another node holds the address.
    #[error("not done in time, the announcement is {0:?}")]
    NotInTime(AnnounceState),
    /// The node is shutting down.
    #[error("the node is shutting down")]
    Stopped,
}

/// What the announcer is built from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnnounceConfig {
    /// Announce without being told.
    pub wanted: bool,
    /// `bind`: how long the address must be seen free before this node takes it unasked.
    pub preference: Duration,
    /// How long the node must be healthy before it announces; 0 for `bind` on loopback, seconds where routes flap. Longer for one that flaps.
    pub up_after: Duration,
    /// Announce without quorum too.
    pub allow_degraded: bool,
}

#[derive(Debug)]
enum Order {
    Wanted(bool),
    Now,
    StepBack,
    Draining(bool),
    Health(Health),
    Others(Others),
    Told(Result<(), String>),
}

/// Starts the task; all else is at the handle.
pub struct Announcer;

impl Announcer {
    /// Spawns the task on the current tokio runtime. It ends, and withdraws, when every handle is gone.
    pub fn spawn(config: AnnounceConfig, driver: Driver) -> AnnouncerHandle {
        let policy = Policy {
            exclusive: driver.is_exclusive(),
            preference: config.preference,
            up_after: config.up_after,
            allow_degraded: config.allow_degraded,
            keeps_last: matches!(driver, Driver::Bgp(_)),
        };
        let origin = tokio::time::Instant::now();
        let machine = Machine::new(policy, config.wanted, Instant::default());
        let (orders, rx) = mpsc::channel(ORDERS_MAX);
        let (state_tx, state) = watch::channel(AnnounceState::NeverAnnounced);
        let (wish_tx, wish) = watch::channel(Wish { wanted: machine.is_wanted(), ..Wish::default() });
        if let Driver::Bgp(bgp) = &driver {
            tokio::spawn(follow(bgp.told(), orders.downgrade()));
        }
        tokio::spawn(Task { machine, driver, origin, orders: rx, state: state_tx, wish: wish_tx }.run());
        AnnouncerHandle { orders, state, wish }
    }
}

/// Tells the announcer what becomes of sessions. Ends with either.
async fn follow(mut told: watch::Receiver<Result<(), String>>, orders: mpsc::WeakSender<Order>) {
    while told.changed().await.is_ok() {
        let now = told.borrow_and_update().clone();
        let Some(orders) = orders.upgrade() else { return };
        if orders.send(Order::Told(now)).await.is_err() {
            return;
        }
    }
}

struct Task {
    machine: Machine,
    driver: Driver,
    origin: tokio::time::Instant,
    orders: mpsc::Receiver<Order>,
    state: watch::Sender<AnnounceState>,
    wish: watch::Sender<Wish>,
}

impl Task {
    fn now(&self) -> Instant {
        Instant::default() + self.origin.elapsed()
    }

    async fn run(mut self) {
        loop {
            while let Some(action) = self.machine.poll_action(self.now()) {
                self.publish();
                self.carry_out(action).await;
                // An order that came meanwhile counts before the next attempt.
                while let Ok(order) = self.orders.try_recv() {
                    self.on_order(order);
                }
            }
            self.publish();
            let wait = self.machine.poll_timeout().map(|at| at.since(self.now()));
            let order = match wait {
                Some(wait) => match timeout(wait, self.orders.recv()).await {
                    Ok(order) => order,
                    Err(_) => continue,
                },
                None => self.orders.recv().await,
            };
            match order {
                Some(order) => self.on_order(order),
                None => break,
            }
        }
        if let Err(reason) = self.driver.withdraw().await {
            tracing::warn!(%reason, "withdrawal at shutdown failed");
        }
    }

    fn on_order(&mut self, order: Order) {
        let now = self.now();
        match order {
            Order::Wanted(wanted) => self.machine.handle_wanted(wanted),
            Order::Now => self.machine.handle_now(now),
            Order::StepBack => self.machine.handle_step_back(),
            Order::Draining(draining) => self.machine.handle_draining(draining),
            Order::Health(health) => self.machine.handle_health(health, now),
            Order::Others(others) => {
                self.machine.handle_others(others, now);
                self.driver.set_last(self.machine.is_last());
            }
            Order::Told(told) => self.machine.handle_told(told, now),
        }
    }

    async fn carry_out(&mut self, action: Action) {
        match action {
            Action::Probe => {
                let free = self.driver.probe().await;
                self.machine.on_probe(free, self.now());
            }
            Action::Announce => {
                let attempt = self.driver.announce().await;
                self.machine.on_announced(attempt, self.now());
            }
            Action::Withdraw => {
                let result = self.driver.withdraw().await;
                self.machine.on_withdrawn(result, self.now());
            }
        }
    }

    fn publish(&self) {
        let (now, m) = (self.now(), &self.machine);
        let wish = Wish { wanted: m.is_wanted(), left: m.has_left(), stands_by: m.stands_by(now) };
        self.wish.send_if_modified(|old| {
            if old.left != wish.left {
                tracing::warn!(left = wish.left, "the anycast address is left to a node that is well, or no longer");
            }
            std::mem::replace(old, wish) != wish
        });
        self.state.send_if_modified(|state| {
            let changed = state != self.machine.state();
            if changed {
                tracing::info!(from = ?state, to = ?self.machine.state(), "anycast announcement changed");
                state.clone_from(self.machine.state());
            }
            changed
        });
    }
}

/// What is wanted of this node, drain and health apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// It is to announce, by configuration or order.
    pub wanted: bool,
    /// It is not well, and has left the address to a peer that is.
    pub left: bool,
    /// It takes the address as soon as whoever holds it lets go.
    pub stands_by: bool,
}

/// Orders to the announcer. Cheap to clone.
#[derive(Clone, Debug)]
pub struct AnnouncerHandle {
    orders: mpsc::Sender<Order>,
    state: watch::Receiver<AnnounceState>,
    wish: watch::Receiver<Wish>,
}

impl AnnouncerHandle {
    /// Wanted by configuration, or not. `true` makes a withdrawn node a standby.
    pub async fn set_wanted(&self, wanted: bool) {
        self.order(Order::Wanted(wanted)).await;
    }

    /// What is known of this node; decides at once.
    pub async fn set_health(&self, health: Health) {
        self.order(Order::Health(health)).await;
    }

    /// What peers say of themselves; decides at once.
    pub async fn set_others(&self, others: Others) {
        self.order(Order::Others(others)).await;
    }

    /// Draining withdraws; the end of it restores what was wanted before.
    pub async fn set_draining(&self, draining: bool) {
        self.order(Order::Draining(draining)).await;
    }

    /// The state, and its changes.
    pub fn watch(&self) -> watch::Receiver<AnnounceState> {
        self.state.clone()
    }

    /// What is wanted of this node, and its changes.
    pub fn wish(&self) -> watch::Receiver<Wish> {
        self.wish.clone()
    }

    /// Takes the address now, and returns when this node announces.
    pub async fn announce_now(&self) -> Result<(), AnnounceError> {
        self.order(Order::Now).await;
        self.outcome(|s| *s == AnnounceState::Announced).await
    }

    /// Gives the address up for another node that is about to take it, and returns when it is given up. This node stays a
    /// standby that waits a second longer than its preference.
    pub async fn step_back(&self) -> Result<(), AnnounceError> {
        self.order(Order::StepBack).await;
        self.outcome(is_given_up).await
    }

    /// Withdraws until further notice, and returns when it is done. `others_announcing`: other nodes that announce now, as the
    /// cluster's view has it; with none of them, and this node announcing, only `force` withdraws.
    pub async fn withdraw(&self, force: bool, others_announcing: usize) -> Result<(), AnnounceError> {
        let announces = *self.state.borrow() == AnnounceState::Announced;
        if announces && others_announcing == 0 && !force {
            return Err(AnnounceError::LastAnnouncer);
        }
        self.order(Order::Wanted(false)).await;
        self.outcome(is_given_up).await
    }

    async fn order(&self, order: Order) {
        // A closed queue means shutdown, and then nothing is announced anyway.
        let _ = self.orders.send(order).await;
    }

    async fn outcome(&self, mut reached: impl FnMut(&AnnounceState) -> bool) -> Result<(), AnnounceError> {
        // First until the task has read the order, then until the state is reached: it may be so from before, when the order
        // changes nothing. An attempt under way shows as Announcing or Withdrawing, so no outdated state passes for the outcome.
        let mut state = self.state.clone();
        let waited = timeout(OUTCOME_LIMIT, async {
            while self.orders.capacity() < ORDERS_MAX {
                // The task has not read the order yet.
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            state.wait_for(|s| reached(s)).await.map(|_| ())
        })
        .await;
        match waited {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(AnnounceError::Stopped),
            Err(_) => match self.state.borrow().clone() {
                AnnounceState::Failed { reason } => Err(AnnounceError::Driver(reason)),
                other => Err(AnnounceError::NotInTime(other)),
            },
        }
    }
}

fn is_given_up(state: &AnnounceState) -> bool {
    matches!(state, AnnounceState::NeverAnnounced | AnnounceState::Standby | AnnounceState::Withdrawn)
}
