//! The announcement's state machine: pure, driven by [`Announcer`](super::Announcer).
//!
//! Three things decide: what the operator wants, whether the node drains, whether it is healthy. With a driver that excludes
//! other holders (`bind`) there is a fourth: a node that merely *may* hold the address takes it only after it has seen it free
//! for `preference`, so that after a failure the nodes take over in their order, and after a flip the target of the flip wins:
//! it tries at once and often, while the node that gave up waits for its preference and a second more. Whether a node that is not well leaves
//! the address to one that is, the `leave` module decides.

use std::time::Duration;

use sbc_core::time::Instant;

use super::leave::{Leaving, Others, STAY, TAKE_LIMIT};

/// Look-out for a free address: a take-over begins within this time. 50 looks a second cost nothing measurable.
pub const STANDBY_RETRY: Duration = Duration::from_millis(20);

/// Attempts after an explicit order: the holder gives up at about the same moment.
pub const NOW_RETRY: Duration = Duration::from_millis(5);

/// How long an explicit order is pursued before the node is an ordinary standby again.
pub const NOW_LIMIT: Duration = Duration::from_secs(5);

/// What a node that was told to step back waits beyond its preference: longer than a flip takes, so that it does not take the
/// address back before the target has it.
pub const STEP_BACK: Duration = Duration::from_secs(1);

/// Pause after a driver failed: a broken command or address is not hammered.
pub const FAILURE_PAUSE: Duration = Duration::from_secs(1);

/// A node that was healthy for so long had not flapped.
pub const STEADY: Duration = Duration::from_secs(60);

/// Longest that health must last before a node that has flapped announces again.
pub const UP_AFTER_MAX: Duration = Duration::from_secs(30);

/// What is known about this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// The SIP loop takes its turns.
    pub sip_loop: bool,
    /// The core side is bound and reachable.
    pub core_side: bool,
    /// Raft is caught up under a quorum.
    pub raft: bool,
    /// A quorum has confirmed this node within the lease.
    pub quorum: bool,
    /// The disk takes the log.
    pub disk: bool,
    /// The media engine carries out orders: without it calls connect and nobody hears anything.
    pub media: bool,
}

/// What the machine is told once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The driver's address is held by one node at a time: look before taking it.
    pub exclusive: bool,
    /// How long the address must be seen free before this node takes it unasked.
    pub preference: Duration,
    /// How long the node must be healthy before it announces (against flapping).
    pub up_after: Duration,
    /// A node without quorum announces too: emergency calls go on degraded.
    pub allow_degraded: bool,
    /// What it has announced it keeps in ill health, as long as nobody else is heard who would serve instead.
    pub keeps_last: bool,
}

/// What the operator wants of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    /// Nothing: stays withdrawn until told otherwise.
    Off,
    /// Take the address when it is free; `stepped_back`: wait longer.
    Standby { stepped_back: bool },
    /// Take it now; until when it is tried often.
    Now { until: Instant },
}

/// The announcement, for people and for the control plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AnnounceState {
    /// Not since this start.
    NeverAnnounced,
    /// Wanted; another node holds the address, or it is not free for long enough.
    Standby,
    /// The driver is at it.
    Announcing,
    /// This node announces.
    Announced,
    /// The driver is at it.
    Withdrawing,
    /// Given up, by order, drain or health.
    Withdrawn,
    /// The driver failed; tried again while it is wanted.
    Failed {
        /// Its words.
        reason: String,
    },
}

/// What the driver is to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// See whether the address is free; answered by `on_probe`.
    Probe,
    /// Answered by `on_announced`.
    Announce,
    /// Answered by `on_withdrawn`.
    Withdraw,
}

/// What came of an attempt to announce.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Attempt {
    Done,
    /// Another node was faster.
    InUse,
    Failed(String),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Machine {
    policy: Policy,
    wanted: Wanted,
    draining: bool,
    health: Health,
    healthy_since: Option<Instant>,
    /// How often health was lost before it was steady, in a row.
    flaps: u32,
    free_since: Option<Instant>,
    /// Not before this: the next look or attempt.
    next: Instant,
    /// The driver may hold something: a failed withdrawal is tried again.
    holding: bool,
    /// Whether it has left the address to a peer that is well.
    leaving: Leaving,
    /// When the driver failed to announce last.
    failed_at: Option<Instant>,
    state: AnnounceState,
}

impl Machine {
    /// Starts unhealthy, and as a standby if `wanted`.
    pub(crate) fn new(policy: Policy, wanted: bool, now: Instant) -> Machine {
        let wanted = if wanted { Wanted::Standby { stepped_back: false } } else { Wanted::Off };
        Machine {
            policy,
            wanted,
            draining: false,
            health: Health::default(),
            healthy_since: None,
            flaps: 0,
            free_since: None,
            next: now,
            holding: false,
            leaving: Leaving::new(now),
            failed_at: None,
            state: AnnounceState::NeverAnnounced,
        }
    }

    pub(crate) fn state(&self) -> &AnnounceState {
        &self.state
    }

    /// It is to announce, by configuration or order.
    pub(crate) fn is_wanted(&self) -> bool {
        self.wanted != Wanted::Off
    }

    /// Wanted or not, by configuration or undrain; does not turn a standing order into a waiting one.
    pub(crate) fn handle_wanted(&mut self, wanted: bool) {
        match (wanted, self.wanted) {
            (false, _) => self.wanted = Wanted::Off,
            (true, Wanted::Off) => self.wanted = Wanted::Standby { stepped_back: false },
            (true, _) => {}
        }
    }

    /// The operator orders this node to take the address.
    pub(crate) fn handle_now(&mut self, now: Instant) {
        self.wanted = Wanted::Now { until: now + NOW_LIMIT };
        self.leaving.ordered(now);
        self.next = now;
    }

    /// The operator moves the address elsewhere: give it up, and take it again only if nobody else does.
    pub(crate) fn handle_step_back(&mut self) {
        // Where nodes announce side by side nobody excludes us: stepping back is staying away.
        self.wanted = if self.policy.exclusive { Wanted::Standby { stepped_back: true } } else { Wanted::Off };
        self.free_since = None;
    }

    pub(crate) fn handle_draining(&mut self, draining: bool) {
        self.draining = draining;
    }

    pub(crate) fn handle_health(&mut self, health: Health, now: Instant) {
        self.health = health;
        self.healthy_since = match (self.is_healthy(), self.healthy_since) {
            (false, None) => None,
            (false, Some(since)) => {
                self.flaps = if now.since(since) >= STEADY { 0 } else { self.flaps.saturating_add(1) };
                None
            }
            (true, None) => Some(now),
            (true, since) => since,
        };
        self.leaving.handle_well(self.is_well(), now);
    }

    /// What peers say of themselves.
    pub(crate) fn handle_others(&mut self, others: Others, now: Instant) {
        self.leaving.handle_others(others, now);
    }

    /// It has left the address to a peer that is well, and does not hold it.
    pub(crate) fn has_left(&self) -> bool {
        self.leaving.has_left() && !self.holding
    }

    /// It takes the address as soon as it is free, as far as it knows: peers that are not well may leave it to this node.
    pub(crate) fn stands_by(&self, now: Instant) -> bool {
        let failed = self.failed_at.is_some_and(|at| now < at + STAY);
        self.policy.exclusive && self.state == AnnounceState::Standby && self.may_take() && !self.leaving.has_left() && !failed
    }

    /// Nothing is wrong with it: it leaves the address to nobody.
    fn is_well(&self) -> bool {
        self.is_healthy() && self.health.quorum && self.health.disk
    }

    pub(crate) fn is_healthy(&self) -> bool {
        let Health { sip_loop, core_side, raft, media, .. } = self.health;
        sip_loop && core_side && media && (raft || self.policy.allow_degraded)
    }

    /// When health allows the announcement; `None`: it does not. A node that flaps must be healthy for longer and longer, while another
    /// serves.
    fn ready_at(&self) -> Option<Instant> {
        let doublings = if self.is_last() { 0 } else { self.flaps.min(8) };
        let longest = UP_AFTER_MAX.max(self.policy.up_after);
        self.healthy_since.map(|since| since + (self.policy.up_after * (1 << doublings)).min(longest))
    }

    /// Nobody is heard who would serve instead.
    pub(crate) fn is_last(&self) -> bool {
        !self.leaving.others().serve_instead
    }

    /// Ill, and it goes on: better a node that may recover than none.
    fn stays_as_last(&self) -> bool {
        self.policy.keeps_last && self.holding && self.is_last()
    }

    /// A node that stepped back holds what it has only until the driver has given it up.
    fn may_hold(&self) -> bool {
        let wanted = match self.wanted {
            Wanted::Off => false,
            Wanted::Standby { stepped_back } => !stepped_back,
            Wanted::Now { .. } => true,
        };
        wanted && !self.draining && (self.is_healthy() || self.stays_as_last()) && !self.leaving.has_left()
    }

    /// Where one node holds the address, one that has left it may take it again: when nobody else does.
    fn may_take(&self) -> bool {
        let left = self.leaving.has_left() && !self.policy.exclusive;
        self.wanted != Wanted::Off && !self.draining && self.is_healthy() && !left
    }

    /// The next thing to do at `now`. Whatever it is must be carried out and answered before the next call.
    pub(crate) fn poll_action(&mut self, now: Instant) -> Option<Action> {
        self.leaving.handle_timeout(now);
        if let Wanted::Now { until } = self.wanted
            && now >= until
            && !self.holding
        {
            self.wanted = Wanted::Standby { stepped_back: false };
        }
        if self.holding && self.state == AnnounceState::Announced {
            if self.may_hold() {
                return None;
            }
            self.state = AnnounceState::Withdrawing;
            return Some(Action::Withdraw);
        }
        if now < self.next {
            return None;
        }
        if self.holding && !self.may_hold() {
            self.state = AnnounceState::Withdrawing;
            return Some(Action::Withdraw);
        }
        if !self.may_take() {
            self.on_not_taking();
            return None;
        }
        if self.ready_at().is_none_or(|at| now < at) {
            return None;
        }
        let waits = self.policy.exclusive && !matches!(self.wanted, Wanted::Now { .. }) && !self.holding;
        if waits && !self.free_for_long_enough(now) {
            if !matches!(self.state, AnnounceState::Failed { .. }) {
                self.state = AnnounceState::Standby;
            }
            return Some(Action::Probe);
        }
        self.state = AnnounceState::Announcing;
        Some(Action::Announce)
    }

    /// When to poll again if nothing else happens.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let leaving = self.leaving.poll_timeout();
        let holds = self.holding && self.state == AnnounceState::Announced;
        if holds || !self.may_take() && !self.holding {
            return leaving;
        }
        let own = self.ready_at().map_or(self.next, |at| at.max(self.next));
        Some(leaving.map_or(own, |at| at.min(own)))
    }

    fn on_not_taking(&mut self) {
        self.free_since = None;
        if !self.holding && !matches!(self.state, AnnounceState::NeverAnnounced) {
            self.state = AnnounceState::Withdrawn;
        }
    }

    fn free_for_long_enough(&self, now: Instant) -> bool {
        let stepped_back = self.wanted == (Wanted::Standby { stepped_back: true });
        let extra = match (self.leaving.has_left(), stepped_back) {
            (true, _) => TAKE_LIMIT,
            (false, true) => STEP_BACK,
            (false, false) => Duration::ZERO,
        };
        self.free_since.is_some_and(|since| now >= since + self.policy.preference + extra)
    }

    /// The answer to `Action::Probe`.
    pub(crate) fn on_probe(&mut self, free: Result<bool, String>, now: Instant) {
        match free {
            Ok(true) => {
                let since = *self.free_since.get_or_insert(now);
                self.state = AnnounceState::Standby;
                // Nothing more to wait for: at once.
                let at_once = since == now && self.free_for_long_enough(now);
                self.next = if at_once { now } else { now + STANDBY_RETRY };
            }
            Ok(false) => {
                self.free_since = None;
                self.state = AnnounceState::Standby;
                self.next = now + STANDBY_RETRY;
            }
            Err(reason) => {
                self.free_since = None;
                self.state = AnnounceState::Failed { reason };
                self.next = now + FAILURE_PAUSE;
            }
        }
    }

    /// The answer to `Action::Announce`.
    pub(crate) fn on_announced(&mut self, attempt: Attempt, now: Instant) {
        self.free_since = None;
        match attempt {
            Attempt::Done => {
                self.holding = true;
                self.state = AnnounceState::Announced;
                if self.leaving.has_left() {
                    // Nobody else took it.
                    self.leaving.stay(now);
                }
                if self.wanted == (Wanted::Standby { stepped_back: true }) || matches!(self.wanted, Wanted::Now { .. }) {
                    self.wanted = Wanted::Standby { stepped_back: false };
                }
            }
            Attempt::InUse => {
                self.state = AnnounceState::Standby;
                self.next = now + if matches!(self.wanted, Wanted::Now { .. }) { NOW_RETRY } else { STANDBY_RETRY };
            }
            Attempt::Failed(reason) => {
                self.failed_at = Some(now);
                // A command that failed half-way may have announced: withdraw it when it is no longer wanted.
                self.holding = !self.policy.exclusive;
                self.state = AnnounceState::Failed { reason };
                self.next = now + FAILURE_PAUSE;
            }
        }
    }

    /// The driver has lost what it announced, or has it again, without an order.
    pub(crate) fn handle_told(&mut self, told: Result<(), String>, now: Instant) {
        match (told, &self.state) {
            (Err(reason), AnnounceState::Announced | AnnounceState::Failed { .. }) if self.holding => {
                self.state = AnnounceState::Failed { reason };
                self.next = now + FAILURE_PAUSE;
            }
            (Ok(()), AnnounceState::Failed { .. }) if self.holding => self.next = now,
            _ => {}
        }
    }

    /// The answer to `Action::Withdraw`.
    pub(crate) fn on_withdrawn(&mut self, result: Result<(), String>, now: Instant) {
        self.free_since = None;
        match result {
            Ok(()) => {
                self.holding = false;
                self.state = AnnounceState::Withdrawn;
                self.next = now;
            }
            Err(reason) => {
                self.state = AnnounceState::Failed { reason };
                self.next = now + FAILURE_PAUSE;
            }
        }
    }
}
