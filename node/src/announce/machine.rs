//! The announcement's state machine: pure, driven by [`Announcer`](super::Announcer).
//!
//! Three things decide: what the operator wants, whether the node drains, whether it is healthy. With a driver that excludes
//! other holders (`bind`) there is a fourth: a node that merely *may* hold the address takes it only after it has seen it free
//! for `preference`, so that after a failure the nodes take over in their order, and after a flip the target of the flip wins:
//! it tries at once and often, while the node that gave up waits for its preference and a second more.

use std::time::Duration;

use sbc_core::time::Instant;

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

/// What is known about this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// The SIP loop takes its turns.
    pub sip_loop: bool,
    /// The core side is bound and reachable.
    pub core_side: bool,
    /// Raft is caught up under a quorum.
    pub raft: bool,
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
    free_since: Option<Instant>,
    /// Not before this: the next look or attempt.
    next: Instant,
    /// The driver may hold something: a failed withdrawal is tried again.
    holding: bool,
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
            free_since: None,
            next: now,
            holding: false,
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
            (false, _) => None,
            (true, None) => Some(now),
            (true, since) => since,
        };
    }

    pub(crate) fn is_healthy(&self) -> bool {
        let Health { sip_loop, core_side, raft, media } = self.health;
        sip_loop && core_side && media && (raft || self.policy.allow_degraded)
    }

    /// When health allows the announcement; `None`: it does not.
    fn ready_at(&self) -> Option<Instant> {
        self.healthy_since.map(|since| since + self.policy.up_after)
    }

    /// A node that stepped back holds what it has only until the driver has given it up.
    fn may_hold(&self) -> bool {
        let wanted = match self.wanted {
            Wanted::Off => false,
            Wanted::Standby { stepped_back } => !stepped_back,
            Wanted::Now { .. } => true,
        };
        wanted && !self.draining && self.is_healthy()
    }

    fn may_take(&self) -> bool {
        self.wanted != Wanted::Off && !self.draining && self.is_healthy()
    }

    /// The next thing to do at `now`. Whatever it is must be carried out and answered before the next call.
    pub(crate) fn poll_action(&mut self, now: Instant) -> Option<Action> {
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
        if self.holding && self.state == AnnounceState::Announced {
            return None;
        }
        if !self.may_take() && !self.holding {
            return None;
        }
        Some(self.ready_at().map_or(self.next, |at| at.max(self.next)))
    }

    fn on_not_taking(&mut self) {
        self.free_since = None;
        if !self.holding && !matches!(self.state, AnnounceState::NeverAnnounced) {
            self.state = AnnounceState::Withdrawn;
        }
    }

    fn free_for_long_enough(&self, now: Instant) -> bool {
        let extra = if self.wanted == (Wanted::Standby { stepped_back: true }) { STEP_BACK } else { Duration::ZERO };
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
                if self.wanted == (Wanted::Standby { stepped_back: true }) || matches!(self.wanted, Wanted::Now { .. }) {
                    self.wanted = Wanted::Standby { stepped_back: false };
                }
            }
            Attempt::InUse => {
                self.state = AnnounceState::Standby;
                self.next = now + if matches!(self.wanted, Wanted::Now { .. }) { NOW_RETRY } else { STANDBY_RETRY };
            }
            Attempt::Failed(reason) => {
                // A command that failed half-way may have announced: withdraw it when it is no longer wanted.
                self.holding = !self.policy.exclusive;
                self.state = AnnounceState::Failed { reason };
                self.next = now + FAILURE_PAUSE;
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: Health = Health { sip_loop: true, core_side: true, raft: true, media: true };

    fn ms(n: u64) -> Instant {
        Instant::from_micros(n * 1000)
    }

    fn policy(preference: u64) -> Policy {
        let preference = Duration::from_millis(preference);
        Policy { exclusive: true, preference, up_after: Duration::ZERO, allow_degraded: false }
    }

    /// Each state by the shortest way.
    fn in_state(name: &str) -> Machine {
        let mut m = Machine::new(policy(0), true, ms(0));
        if name == "never" {
            return m;
        }
        m.handle_health(GOOD, ms(0));
        assert_eq!(m.poll_action(ms(0)), Some(Action::Probe));
        if name == "standby" {
            m.on_probe(Ok(false), ms(0));
            return m;
        }
        m.on_probe(Ok(true), ms(0));
        assert_eq!(m.poll_action(ms(0)), Some(Action::Announce));
        if name == "failed" {
            m.on_announced(Attempt::Failed("x".into()), ms(0));
            return m;
        }
        m.on_announced(Attempt::Done, ms(0));
        if name == "withdrawn" {
            m.handle_wanted(false);
            assert_eq!(m.poll_action(ms(0)), Some(Action::Withdraw));
            m.on_withdrawn(Ok(()), ms(0));
        }
        m
    }

    /// The whole table: (state, event) → the next action, long after.
    #[test]
    fn table() {
        type Event = (&'static str, fn(&mut Machine));
        let events: [Event; 9] = [
            ("nothing", |_| {}),
            ("wanted", |m| m.handle_wanted(true)),
            ("not wanted", |m| m.handle_wanted(false)),
            ("now", |m| m.handle_now(ms(10_000))),
            ("step back", Machine::handle_step_back),
            ("drain", |m| m.handle_draining(true)),
            ("undrain", |m| m.handle_draining(false)),
            ("healthy", |m| m.handle_health(GOOD, ms(10_000))),
            ("ill", |m| m.handle_health(Health { sip_loop: false, ..GOOD }, ms(10_000))),
        ];
        let (p, a, w) = (Some(Action::Probe), Some(Action::Announce), Some(Action::Withdraw));
        let rows = [
            // nothing, wanted, not wanted, now, step back, drain, undrain, healthy, ill
            ("never", [None, None, None, None, None, None, None, p, None]),
            ("standby", [p, p, None, a, p, None, p, p, None]),
            ("announced", [None, None, w, None, w, w, None, None, w]),
            ("withdrawn", [None, p, None, a, p, None, None, None, None]),
            ("failed", [p, p, None, a, p, None, p, p, None]),
        ];
        for (state, expected) in rows {
            for ((event, apply), expected) in events.iter().zip(expected) {
                let mut m = in_state(state);
                apply(&mut m);
                assert_eq!(m.poll_action(ms(10_000)), expected, "{state} + {event}");
            }
        }
    }

    /// Runs `m` against an address that is free from `free_at` on; when it announces.
    fn takes_at(m: &mut Machine, from: u64, free_at: u64) -> u64 {
        for t in from..from + 20_000 {
            while let Some(action) = m.poll_action(ms(t)) {
                match action {
                    Action::Probe => m.on_probe(Ok(t >= free_at), ms(t)),
                    Action::Announce if t >= free_at => {
                        m.on_announced(Attempt::Done, ms(t));
                        return t;
                    }
                    Action::Announce => m.on_announced(Attempt::InUse, ms(t)),
                    Action::Withdraw => m.on_withdrawn(Ok(()), ms(t)),
                }
            }
        }
        panic!("never announced");
    }

    #[test]
    fn preferences_order_the_takeover_and_a_flip_lands_on_its_target() {
        let standby = |preference| {
            let mut m = Machine::new(policy(preference), true, ms(0));
            m.handle_health(GOOD, ms(0));
            m
        };
        assert_eq!(takes_at(&mut standby(0), 0, 0), 0);
        let (mut a, mut b, mut c) = (standby(0), standby(150), standby(300));
        let (ta, tb, tc) = (takes_at(&mut a, 0, 1000), takes_at(&mut b, 0, 1000), takes_at(&mut c, 0, 1000));
        assert!((1000..1020).contains(&ta) && (1150..1190).contains(&tb) && (1300..1340).contains(&tc), "{ta} {tb} {tc}");
        // Flip from a (preference 0) to b.
        a.handle_step_back();
        assert_eq!(a.poll_action(ms(5000)), Some(Action::Withdraw));
        a.on_withdrawn(Ok(()), ms(5000));
        let mut b = standby(150);
        b.handle_now(ms(5000));
        assert!(takes_at(&mut b, 5000, 5001) <= 5006);
        // b is killed at 9000: a comes back, a second later than it would else; then it is an ordinary holder.
        let back = takes_at(&mut a, 5000, 9000);
        assert!((10_000..10_040).contains(&back), "{back}");
        assert_eq!(a.poll_action(ms(20_000)), None);
    }

    #[test]
    fn an_order_is_pursued_for_its_limit_only() {
        let mut m = in_state("standby");
        m.handle_now(ms(0));
        let mut last = None;
        for t in 0..10_000 {
            match m.poll_action(ms(t)) {
                Some(Action::Announce) => {
                    last = Some(t);
                    m.on_announced(Attempt::InUse, ms(t));
                }
                Some(Action::Probe) => m.on_probe(Ok(false), ms(t)),
                _ => {}
            }
        }
        assert_eq!(last, Some(4995));
    }

    #[test]
    fn health_comes_back_after_the_hold() {
        let mut m = Machine::new(Policy { up_after: Duration::from_secs(3), ..policy(0) }, true, ms(0));
        m.handle_health(Health { raft: false, ..GOOD }, ms(0));
        assert!(!m.is_healthy());
        m.handle_health(GOOD, ms(1000));
        assert_eq!((m.poll_action(ms(3999)), m.poll_timeout()), (None, Some(ms(4000))));
        assert_eq!(m.poll_action(ms(4000)), Some(Action::Probe));
        let mut degraded = Machine::new(Policy { allow_degraded: true, ..policy(0) }, true, ms(0));
        degraded.handle_health(Health { raft: false, ..GOOD }, ms(0));
        assert!(degraded.is_healthy());
        for ill in [Health { media: false, ..GOOD }, Health { core_side: false, ..GOOD }, Health { sip_loop: false, ..GOOD }] {
            degraded.handle_health(ill, ms(0));
            assert!(!degraded.is_healthy(), "{ill:?}");
        }
    }

    #[test]
    fn a_failed_withdrawal_is_tried_again() {
        let mut m = in_state("announced");
        m.handle_draining(true);
        assert_eq!(m.poll_action(ms(0)), Some(Action::Withdraw));
        m.on_withdrawn(Err("no".into()), ms(0));
        assert_eq!(m.state(), &AnnounceState::Failed { reason: "no".into() });
        assert_eq!((m.poll_action(ms(999)), m.poll_timeout()), (None, Some(ms(1000))));
        assert_eq!(m.poll_action(ms(1000)), Some(Action::Withdraw));
    }
}
