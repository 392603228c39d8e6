//! A BFD session in asynchronous mode (RFC 5880 §6.8); echo and demand mode are not used here, and a far end's demand mode is honoured.

use std::collections::VecDeque;
use std::time::Duration;

use super::packet::{Diagnostic, PACKET_LEN, Packet, State};
use crate::time::Instant;

/// RFC 5880 §6.8.3: while a session is not up, no more than one packet a second.
pub const SLOW: Duration = Duration::from_secs(1);

/// What a session is told once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionConfig {
    /// Between packets, either way, when it is up.
    pub interval: Duration,
    /// Packets that may be missed, and one more; not zero.
    pub detect_mult: u8,
    /// Not zero, and no other session's of this node.
    pub discriminator: u32,
}

/// What its owner is to do, or to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// To the far end, with a TTL of 255 (RFC 5881 §5).
    Send([u8; PACKET_LEN]),
    /// Both hear each other, within that time of silence.
    Up {
        /// bfd.DetectMult of the far end times the longer of the two intervals, as it is now.
        detection: Duration,
    },
    /// They did, and do not any more. Of a far end that was set AdminDown the path is not to be thought down (RFC 5882 §3.2).
    Down {
        /// Why.
        diagnostic: Diagnostic,
        /// By the far end's operator.
        administratively: bool,
    },
}

/// What is known of the far end.
#[derive(Clone, Copy, Debug)]
struct Remote {
    discriminator: u32,
    state: State,
    min_rx: Duration,
    min_tx: Duration,
    detect_mult: u8,
    demand: bool,
}

/// RFC 5880 §6.8.1: what stands before anything was heard.
const UNHEARD: Remote = Remote {
    discriminator: 0,
    state: State::Down,
    min_rx: Duration::from_micros(1),
    min_tx: Duration::ZERO,
    detect_mult: 0,
    demand: false,
};

/// See the module.
#[derive(Debug)]
pub struct Session {
    config: SessionConfig,
    state: State,
    diagnostic: Diagnostic,
    remote: Remote,
    /// What serves at this node has stopped taking its turns: the session stays down.
    stalled: bool,
    /// A poll sequence is under way (§6.5).
    polling: bool,
    /// The far end has asked for an answer.
    answer: bool,
    /// When the next packet goes.
    transmit: Option<Instant>,
    /// When the far end has been silent for too long.
    detect: Option<Instant>,
    random: u64,
    outputs: VecDeque<Output>,
}

impl Session {
    /// Begins to send at once, slowly. `seed`: for jitter.
    pub fn new(config: SessionConfig, seed: u64, now: Instant) -> Session {
        Session {
            config,
            state: State::Down,
            diagnostic: Diagnostic::None,
            remote: UNHEARD,
            stalled: false,
            polling: false,
            answer: false,
            transmit: Some(now),
            detect: None,
            random: seed | 1,
            outputs: VecDeque::new(),
        }
    }

    /// bfd.SessionState.
    pub fn state(&self) -> State {
        self.state
    }

    /// bfd.LocalDiag: why it went down last.
    pub fn diagnostic(&self) -> Diagnostic {
        self.diagnostic
    }

    /// How long the far end may be silent; zero before it was heard (§6.8.4).
    pub fn detection_time(&self) -> Duration {
        self.config.interval.max(self.remote.min_tx) * u32::from(self.remote.detect_mult)
    }

    /// A packet from the far end's address with a TTL of 255; what is not for this session changes nothing.
    pub fn handle_octets(&mut self, octets: &[u8], now: Instant) {
        // §6.8.6, in its order.
        let Some(packet) = Packet::read(octets) else { return };
        if packet.your_discriminator != 0 && packet.your_discriminator != self.config.discriminator {
            return;
        }
        self.remote = Remote {
            discriminator: packet.my_discriminator,
            state: packet.state,
            min_rx: packet.required_min_rx,
            min_tx: packet.desired_min_tx,
            detect_mult: packet.detect_mult,
            demand: packet.demand,
        };
        if packet.is_final {
            self.polling = false;
        }
        self.detect = Some(now + self.detection_time());
        if self.state == State::AdminDown {
            return;
        }
        self.on_state(packet.state, now);
        if packet.poll {
            self.answer = true;
            self.send();
        }
        // A shorter interval counts at once.
        self.transmit = match (self.transmit, self.is_periodic()) {
            (_, false) => None,
            (Some(at), true) => Some(at.min(now + self.interval())),
            (None, true) => Some(now + self.jittered()),
        };
    }

    /// The table of §6.8.6 and §6.2.
    fn on_state(&mut self, theirs: State, now: Instant) {
        match (self.state, theirs) {
            (State::Init | State::Up, State::AdminDown) | (State::Up, State::Down) => {
                self.become_down(Diagnostic::NeighborSignaledDown, now);
            }
            // What has stalled stays down.
            (State::Down, _) if self.stalled => {}
            (State::Down, State::Down) => self.enter(State::Init, now),
            (State::Down, State::Init) | (State::Init, State::Init | State::Up) => {
                self.enter(State::Up, now);
                // §6.8.3: the interval is another one now, so the far end is asked whether it has heard.
                self.polling = true;
                self.outputs.push_back(Output::Up { detection: self.detection_time() });
            }
            _ => {}
        }
    }

    /// What serves at this node has stopped taking its turns, or takes them again.
    pub fn handle_stalled(&mut self, stalled: bool, now: Instant) {
        if std::mem::replace(&mut self.stalled, stalled) != stalled && stalled && self.state > State::Down {
            self.become_down(Diagnostic::ForwardingPlaneReset, now);
        }
    }

    /// An operator's end of it: the far end is told, and does not think the path down (§6.8.16).
    pub fn handle_admin_down(&mut self, now: Instant) {
        self.diagnostic = Diagnostic::AdministrativelyDown;
        self.polling = false;
        self.enter(State::AdminDown, now);
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.detect.take_if(|at| *at <= now).is_some() {
            // §6.8.1: forgotten after a detection time of silence.
            self.remote.discriminator = 0;
            if matches!(self.state, State::Init | State::Up) {
                self.become_down(Diagnostic::DetectionTimeExpired, now);
            }
            self.remote = UNHEARD;
        }
        if self.transmit.is_some_and(|at| at <= now) {
            self.send();
            self.transmit = self.is_periodic().then(|| now + self.jittered());
        }
    }

    /// When `handle_timeout` is wanted. Changes with every input.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.transmit.into_iter().chain(self.detect).min()
    }

    /// The next thing to do; `None`: nothing until the next input.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn become_down(&mut self, why: Diagnostic, now: Instant) {
        let was_up = self.state == State::Up;
        self.diagnostic = why;
        self.polling = false;
        self.enter(State::Down, now);
        if was_up {
            let administratively = self.remote.state == State::AdminDown;
            self.outputs.push_back(Output::Down { diagnostic: why, administratively });
        }
    }

    /// A change of state is told at once (§6.8.7 leaves it to us), and the next packet is due an interval later.
    fn enter(&mut self, state: State, now: Instant) {
        self.state = state;
        if state == State::Up {
            self.diagnostic = Diagnostic::None;
        }
        self.polling |= state == State::Up;
        self.send();
        self.transmit = Some(now + self.jittered());
    }

    /// bfd.DesiredMinTxInterval (§6.8.3).
    fn desired_min_tx(&self) -> Duration {
        if self.state == State::Up { self.config.interval } else { self.config.interval.max(SLOW) }
    }

    /// §6.8.7.
    fn interval(&self) -> Duration {
        self.desired_min_tx().max(self.remote.min_rx)
    }

    /// §6.8.7: not where the far end takes none, nor where it is in demand mode and both are up.
    fn is_periodic(&self) -> bool {
        let demanded = self.remote.demand && self.state == State::Up && self.remote.state == State::Up && !self.polling;
        self.remote.min_rx != Duration::ZERO && !demanded
    }

    fn send(&mut self) {
        let is_final = std::mem::take(&mut self.answer);
        let packet = Packet {
            state: self.state,
            diagnostic: self.diagnostic,
            // §6.5: never both.
            poll: self.polling && !is_final,
            is_final,
            demand: false,
            detect_mult: self.config.detect_mult,
            my_discriminator: self.config.discriminator,
            your_discriminator: self.remote.discriminator,
            desired_min_tx: self.desired_min_tx(),
            required_min_rx: self.config.interval,
        };
        self.outputs.push_back(Output::Send(packet.to_octets()));
    }

    /// §6.8.7: three quarters up to the whole, or up to nine tenths where no packet may be missed.
    fn jittered(&mut self) -> Duration {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let most = if self.config.detect_mult == 1 { 151 } else { 251 };
        let thousandths = 750 + u32::try_from(self.random % most).expect("below 251");
        self.interval() * thousandths / 1000
    }
}
