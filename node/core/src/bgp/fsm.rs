//! The finite state machine of one connection (RFC 4271 §8).
//!
//! Optional attributes of §8.1.1 as they are here: AllowAutomaticStart and DampPeerOscillations are on; DelayOpen, PassiveTcpEstablishment,
//! TrackTcpState, SendNOTIFICATIONwithoutOPEN and CollisionDetectEstablishedState are off. So events 3 to 7, 12, 14, 15 and 20 do not exist.
//! Nor does event 28, for an UPDATE's contents are not read.
//!
//! Where it departs from §8.2.2: a NOTIFICATION that comes in OpenSent is not answered by one (§6 allows none about another); a second OPEN
//! on the connection is an FSM error in every state after the first; and KEEPALIVEs go out only while what serves the prefix takes its
//! turns (`handle_stalled`), so that a node that hangs loses its routes although its BGP does not hang.

use std::collections::VecDeque;
use std::time::Duration;

use super::notification::Notification;
use crate::time::Instant;

/// How long an OPEN is waited for. RFC 4271 §8.2.2 suggests four minutes; a router that lost its power after the connection stood would be
/// kept waiting for as long when it is back.
pub const OPEN_LIMIT: Duration = Duration::from_secs(20);

/// The pause before the next try after sessions that failed doubles up to this: a site that comes back is not kept away for longer.
pub const IDLE_HOLD_MAX: Duration = Duration::from_secs(16);

/// A session that stood for so long was no oscillation.
pub const STABLE_AFTER: Duration = Duration::from_secs(60);

/// How often a stalled node looks whether it may say KEEPALIVE.
const STALLED_LOOK: Duration = Duration::from_millis(100);

/// RFC 4271 §8.2.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Nothing is tried; after a failure until the idle hold timer ends.
    Idle,
    /// The TCP connection is being made.
    Connect,
    /// A connection of the router's is waited for, or the next try.
    Active,
    /// Our OPEN is out.
    OpenSent,
    /// The router's OPEN is good; its KEEPALIVE is waited for.
    OpenConfirm,
    /// Routes may be told.
    Established,
}

impl State {
    /// Its name in the RFC.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Idle => "Idle",
            State::Connect => "Connect",
            State::Active => "Active",
            State::OpenSent => "OpenSent",
            State::OpenConfirm => "OpenConfirm",
            State::Established => "Established",
        }
    }
}

/// RFC 4271 §8.1, by number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// 1.
    ManualStart,
    /// 2: with what the router is told.
    ManualStop(Notification),
    /// 8: with what the router is told.
    AutomaticStop(Notification),
    /// 9.
    ConnectRetryTimerExpires,
    /// 10.
    HoldTimerExpires,
    /// 11.
    KeepaliveTimerExpires,
    /// 13.
    IdleHoldTimerExpires,
    /// 16 Tcp_CR_Acked, and 17 TcpConnectionConfirmed: the connection stands.
    TcpConnected,
    /// 18.
    TcpConnectionFails,
    /// 19: with the hold time that both agree on.
    BgpOpen { hold: Duration },
    /// 21.
    HeaderErr(Notification),
    /// 22.
    OpenMsgErr(Notification),
    /// 23.
    OpenCollisionDump,
    /// 24.
    NotifMsgVerErr,
    /// 25.
    NotifMsg,
    /// 26.
    KeepAliveMsg,
    /// 27, and a ROUTE-REFRESH, which RFC 2918 allows where an UPDATE is allowed.
    UpdateMsg,
}

/// What the connection's owner is to do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Make a TCP connection.
    Connect,
    /// Close it, or give up making it.
    Drop,
    SendOpen,
    SendKeepalive,
    SendNotification(Notification),
}

/// What runs, and when it ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Timers {
    pub(super) connect_retry: Option<Instant>,
    pub(super) hold: Option<Instant>,
    pub(super) keepalive: Option<Instant>,
    pub(super) idle_hold: Option<Instant>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Fsm {
    /// ConnectRetryTime, and the shortest idle hold time.
    connect_retry: Duration,
    state: State,
    timers: Timers,
    /// ConnectRetryCounter: sessions that failed in a row.
    retries: u32,
    /// As negotiated.
    hold: Duration,
    established_at: Option<Instant>,
    stalled: bool,
    /// For jitter (§10): xorshift, never zero.
    random: u64,
    actions: VecDeque<Action>,
}

impl Fsm {
    pub(super) fn new(connect_retry: Duration, seed: u64) -> Fsm {
        Fsm {
            connect_retry,
            state: State::Idle,
            timers: Timers::default(),
            retries: 0,
            hold: Duration::ZERO,
            established_at: None,
            stalled: false,
            random: seed | 1,
            actions: VecDeque::new(),
        }
    }

    /// For a connection that the router makes: its success is to follow at once.
    pub(super) fn passive(connect_retry: Duration, seed: u64) -> Fsm {
        Fsm { state: State::Active, ..Fsm::new(connect_retry, seed) }
    }

    pub(super) fn state(&self) -> State {
        self.state
    }

    #[cfg(test)]
    pub(super) fn timers(&self) -> Timers {
        self.timers
    }

    pub(super) fn retries(&self) -> u32 {
        self.retries
    }

    /// The hold time that both agreed on; zero before.
    pub(super) fn hold(&self) -> Duration {
        self.hold
    }

    /// What serves the prefix has stopped taking its turns, or takes them again.
    pub(super) fn handle_stalled(&mut self, stalled: bool) {
        self.stalled = stalled;
    }

    /// The next thing to do; `None`: nothing until the next event.
    pub(super) fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When `handle_timeout` is wanted. Changes with every event.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let Timers { connect_retry, hold, keepalive, idle_hold } = self.timers;
        [connect_retry, hold, keepalive, idle_hold].into_iter().flatten().min()
    }

    /// Timers that have ended become events. The hold timer first: a router that is silent for too long gets no KEEPALIVE more.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        let ended = |timer: &mut Option<Instant>| timer.take_if(|at| *at <= now).is_some();
        if ended(&mut self.timers.hold) {
            self.handle_event(Event::HoldTimerExpires, now);
        }
        if ended(&mut self.timers.connect_retry) {
            self.handle_event(Event::ConnectRetryTimerExpires, now);
        }
        if ended(&mut self.timers.keepalive) {
            self.handle_event(Event::KeepaliveTimerExpires, now);
        }
        if ended(&mut self.timers.idle_hold) {
            self.handle_event(Event::IdleHoldTimerExpires, now);
        }
    }

    pub(super) fn handle_event(&mut self, event: Event, now: Instant) {
        match self.state {
            State::Idle => self.on_idle(&event, now),
            State::Connect | State::Active => self.on_connecting(event, now),
            State::OpenSent => self.on_open_sent(event, now),
            State::OpenConfirm | State::Established => self.on_open(event, now),
        }
    }

    fn on_idle(&mut self, event: &Event, now: Instant) {
        match event {
            Event::ManualStart => {
                self.retries = 0;
                self.connect(now);
            }
            Event::IdleHoldTimerExpires if self.stalled => self.timers.idle_hold = Some(now + STALLED_LOOK),
            Event::IdleHoldTimerExpires => self.connect(now),
            // What runs here is the pause before the next try, and the order ends it.
            Event::ManualStop(_) => {
                self.timers.idle_hold = None;
                self.retries = 0;
            }
            _ => {}
        }
    }

    /// Connect and Active differ in two events only: the connection's end, and the retry timer.
    fn on_connecting(&mut self, event: Event, now: Instant) {
        match event {
            Event::ManualStart => {}
            Event::ManualStop(_) => self.stop(None),
            Event::ConnectRetryTimerExpires => {
                if self.state == State::Connect {
                    self.actions.push_back(Action::Drop);
                }
                self.connect(now);
            }
            Event::TcpConnected => {
                self.timers = Timers { hold: Some(now + OPEN_LIMIT), ..Timers::default() };
                self.actions.push_back(Action::SendOpen);
                self.state = State::OpenSent;
            }
            // §8.2.2, Connect: the peer was not there, which is no oscillation.
            Event::TcpConnectionFails if self.state == State::Connect => self.become_idle(None, false, now),
            // The router's own connection is Established: no oscillation either.
            Event::OpenCollisionDump => self.become_idle(None, false, now),
            _ => self.become_idle(None, true, now),
        }
    }

    fn on_open_sent(&mut self, event: Event, now: Instant) {
        match event {
            Event::ManualStart | Event::TcpConnected => {}
            Event::ManualStop(words) => self.stop(Some(words)),
            Event::AutomaticStop(why) => self.become_idle(Some(why), true, now),
            Event::HoldTimerExpires => self.become_idle(Some(Notification::hold_timer_expired()), true, now),
            Event::TcpConnectionFails => {
                self.timers = Timers { connect_retry: Some(now + self.jittered(self.connect_retry)), ..Timers::default() };
                self.actions.push_back(Action::Drop);
                self.state = State::Active;
            }
            Event::BgpOpen { hold } => {
                self.hold = hold;
                self.timers = Timers { hold: Some(now + hold), ..Timers::default() };
                self.say_keepalive(now);
                self.state = State::OpenConfirm;
            }
            Event::HeaderErr(why) | Event::OpenMsgErr(why) => self.become_idle(Some(why), true, now),
            Event::OpenCollisionDump => self.become_idle(Some(Notification::collision()), true, now),
            Event::NotifMsgVerErr => self.become_idle(None, false, now),
            Event::NotifMsg => self.become_idle(None, true, now),
            Event::ConnectRetryTimerExpires
            | Event::KeepaliveTimerExpires
            | Event::IdleHoldTimerExpires
            | Event::KeepAliveMsg
            | Event::UpdateMsg => self.become_idle(Some(Notification::fsm(1)), true, now),
        }
    }

    /// OpenConfirm and Established: they differ in what the router may say.
    fn on_open(&mut self, event: Event, now: Instant) {
        let established = self.state == State::Established;
        match event {
            Event::ManualStart | Event::TcpConnected => {}
            Event::ManualStop(words) => self.stop(Some(words)),
            Event::AutomaticStop(why) => self.become_idle(Some(why), true, now),
            Event::HoldTimerExpires => self.become_idle(Some(Notification::hold_timer_expired()), true, now),
            Event::KeepaliveTimerExpires => self.say_keepalive(now),
            Event::TcpConnectionFails | Event::NotifMsg => self.become_idle(None, true, now),
            Event::NotifMsgVerErr => self.become_idle(None, established, now),
            Event::HeaderErr(why) => self.become_idle(Some(why), true, now),
            Event::OpenMsgErr(why) if !established => self.become_idle(Some(why), true, now),
            Event::OpenCollisionDump => self.become_idle(Some(Notification::collision()), true, now),
            Event::KeepAliveMsg => {
                self.timers.hold = Some(now + self.hold);
                self.state = State::Established;
                self.established_at.get_or_insert(now);
            }
            Event::UpdateMsg if established => self.timers.hold = Some(now + self.hold),
            Event::ConnectRetryTimerExpires
            | Event::IdleHoldTimerExpires
            | Event::BgpOpen { .. }
            | Event::OpenMsgErr(_)
            | Event::UpdateMsg => self.become_idle(Some(Notification::fsm(if established { 3 } else { 2 })), true, now),
        }
    }

    fn connect(&mut self, now: Instant) {
        let retry = self.jittered(self.connect_retry);
        self.timers = Timers { connect_retry: Some(now + retry), ..Timers::default() };
        self.actions.push_back(Action::Connect);
        self.state = State::Connect;
    }

    /// A third of the hold time (§4.4), less jitter. A stalled node says nothing, and looks again soon.
    fn say_keepalive(&mut self, now: Instant) {
        let next = if self.stalled {
            STALLED_LOOK
        } else {
            self.actions.push_back(Action::SendKeepalive);
            self.jittered(self.hold / 3)
        };
        self.timers.keepalive = Some(now + next);
    }

    /// An operator's end: it is not tried again.
    fn stop(&mut self, words: Option<Notification>) {
        self.actions.extend(words.map(Action::SendNotification));
        self.actions.push_back(Action::Drop);
        self.retries = 0;
        self.reset();
    }

    fn become_idle(&mut self, why: Option<Notification>, oscillates: bool, now: Instant) {
        self.actions.extend(why.map(Action::SendNotification));
        self.actions.push_back(Action::Drop);
        if self.established_at.is_some_and(|at| now.since(at) >= STABLE_AFTER) {
            self.retries = 0;
        }
        if oscillates {
            self.retries = self.retries.saturating_add(1);
        }
        self.reset();
        self.timers.idle_hold = Some(now + self.idle_hold_time());
    }

    fn reset(&mut self) {
        self.timers = Timers::default();
        self.established_at = None;
        self.hold = Duration::ZERO;
        self.state = State::Idle;
    }

    /// DampPeerOscillations: the pause doubles with each session that failed, from the retry time on.
    fn idle_hold_time(&mut self) -> Duration {
        let doublings = self.retries.saturating_sub(1).min(8);
        let pause = (self.connect_retry * (1 << doublings)).min(IDLE_HOLD_MAX.max(self.connect_retry));
        self.jittered(pause)
    }

    /// §10: three quarters up to the whole.
    fn jittered(&mut self, whole: Duration) -> Duration {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let quarter = u32::try_from(self.random % 1001).expect("below 1001");
        whole * 3 / 4 + whole / 4 * quarter / 1000
    }
}
