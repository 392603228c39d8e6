//! The whole table of RFC 5880 §6.8.6, its timers, and two sessions on a link that loses packets.

use std::collections::VecDeque;
use std::time::Duration;

use super::{Diagnostic, Output, Packet, SLOW, Session, SessionConfig, State};
use crate::time::Instant;

const INTERVAL: Duration = Duration::from_millis(50);
const CONFIG: SessionConfig = SessionConfig { interval: INTERVAL, detect_mult: 3, discriminator: 11 };

fn ms(n: u64) -> Instant {
    Instant::from_micros(n * 1000)
}

fn packet(state: State) -> Packet {
    Packet {
        state,
        diagnostic: Diagnostic::None,
        poll: false,
        is_final: false,
        demand: false,
        detect_mult: 3,
        my_discriminator: 22,
        your_discriminator: 11,
        desired_min_tx: INTERVAL,
        required_min_rx: INTERVAL,
    }
}

fn outputs(session: &mut Session) -> Vec<Output> {
    std::iter::from_fn(|| session.poll_output()).collect()
}

fn sent(session: &mut Session) -> Vec<Packet> {
    let packets = outputs(session).into_iter().filter_map(|o| match o {
        Output::Send(octets) => Some(Packet::read(&octets).expect("what is sent reads")),
        _ => None,
    });
    packets.collect()
}

fn hear(session: &mut Session, packet: Packet, at: u64) {
    session.handle_octets(&packet.to_octets(), ms(at));
}

fn at(state: State) -> Session {
    let mut session = Session::new(CONFIG, 5, ms(0));
    match state {
        State::AdminDown => session.handle_admin_down(ms(0)),
        State::Down => {}
        State::Init => hear(&mut session, packet(State::Down), 0),
        State::Up => hear(&mut session, packet(State::Init), 0),
    }
    assert_eq!(session.state(), state);
    outputs(&mut session);
    session
}

const STATES: [State; 4] = [State::AdminDown, State::Down, State::Init, State::Up];

#[test]
fn every_state_and_every_event() {
    use Diagnostic::{AdministrativelyDown, DetectionTimeExpired, ForwardingPlaneReset, NeighborSignaledDown, None};
    use State::{AdminDown, Down, Init, Up};
    // Ours; then after: the far end is AdminDown, Down, Init, Up; the detection time ends; this node stalls; the operator ends it.
    let table = [
        (AdminDown, [AdminDown; 7]),
        (Down, [Down, Init, Up, Down, Down, Down, AdminDown]),
        (Init, [Down, Init, Up, Up, Down, Down, AdminDown]),
        (Up, [Down, Down, Up, Up, Down, Down, AdminDown]),
    ];
    for (ours, row) in table {
        for (n, expected) in row.into_iter().enumerate() {
            let mut session = at(ours);
            let before = session.diagnostic();
            let reason = match n {
                0..4 => {
                    hear(&mut session, packet(STATES[n]), 10);
                    NeighborSignaledDown
                }
                4 => {
                    session.handle_timeout(ms(150));
                    DetectionTimeExpired
                }
                5 => {
                    session.handle_stalled(true, ms(10));
                    ForwardingPlaneReset
                }
                _ => {
                    session.handle_admin_down(ms(10));
                    AdministrativelyDown
                }
            };
            assert_eq!(session.state(), expected, "{ours:?}, event {n}");
            let diagnostic = match (ours, expected) {
                (_, Up) => None,
                (_, AdminDown) => AdministrativelyDown,
                (Init | Up, Down) => reason,
                _ => before,
            };
            assert_eq!(session.diagnostic(), diagnostic, "{ours:?}, event {n}");
            let outputs = outputs(&mut session);
            let count = |what: fn(&Output) -> bool| outputs.iter().filter(|o| what(o)).count();
            let (up, down) = (count(|o| matches!(o, Output::Up { .. })), count(|o| matches!(o, Output::Down { .. })));
            assert_eq!(up, usize::from(ours != Up && expected == Up), "{ours:?}, event {n}");
            assert_eq!(down, usize::from(ours == Up && expected == Down), "{ours:?}, event {n}");
            if ours != expected {
                assert!(count(|o| matches!(o, Output::Send(_))) > 0, "a change is told at once: {ours:?}, event {n}");
            }
            let administratively = outputs.iter().any(|o| matches!(o, Output::Down { administratively: true, .. }));
            assert_eq!(administratively, ours == Up && n == 0);
        }
    }
}

#[test]
fn a_stalled_node_stays_down_and_says_so() {
    let mut session = at(State::Up);
    session.handle_stalled(true, ms(1));
    let told = sent(&mut session);
    assert_eq!((told[0].state, told[0].diagnostic), (State::Down, Diagnostic::ForwardingPlaneReset));
    for (n, state) in STATES.into_iter().cycle().take(40).enumerate() {
        hear(&mut session, packet(state), 2 + n as u64 * 10);
        assert_eq!(session.state(), State::Down);
    }
    session.handle_stalled(false, ms(500));
    hear(&mut session, packet(State::Down), 510);
    hear(&mut session, packet(State::Init), 520);
    assert_eq!(session.state(), State::Up);
}

#[test]
fn it_is_slow_until_it_is_up_and_polls_when_it_becomes_fast() {
    let mut session = Session::new(CONFIG, 5, ms(0));
    session.handle_timeout(ms(0));
    let first = sent(&mut session);
    assert_eq!((first[0].desired_min_tx, first[0].required_min_rx, first[0].your_discriminator), (SLOW, INTERVAL, 0));
    let next = session.poll_timeout().unwrap();
    assert!((ms(750)..=ms(1000)).contains(&next), "{next:?}");
    hear(&mut session, packet(State::Down), 10);
    hear(&mut session, packet(State::Up), 20);
    let told = sent(&mut session);
    let last = told.last().unwrap();
    assert_eq!((last.state, last.your_discriminator, last.desired_min_tx), (State::Up, 22, INTERVAL));
    let next = session.poll_timeout().unwrap();
    assert!(next <= ms(70), "{next:?}");
    session.handle_timeout(next);
    assert!(sent(&mut session)[0].poll);
    hear(&mut session, Packet { is_final: true, ..packet(State::Up) }, 80);
    session.handle_timeout(ms(129));
    assert!(!sent(&mut session)[0].poll, "the far end has heard");
    hear(&mut session, Packet { poll: true, ..packet(State::Up) }, 130);
    let answer = sent(&mut session);
    assert!(answer.len() == 1 && answer[0].is_final && !answer[0].poll);
}

#[test]
fn the_detection_time_is_of_both() {
    let mut session = at(State::Up);
    assert_eq!(session.detection_time(), Duration::from_millis(150));
    hear(&mut session, Packet { desired_min_tx: Duration::from_millis(200), detect_mult: 5, ..packet(State::Up) }, 10);
    assert_eq!(session.detection_time(), Duration::from_secs(1));
    session.handle_timeout(ms(1009));
    assert_eq!(session.state(), State::Up);
    session.handle_timeout(ms(1010));
    assert_eq!((session.state(), session.detection_time()), (State::Down, Duration::ZERO));
    let last = sent(&mut session).pop().unwrap();
    assert_eq!(last.your_discriminator, 0, "the far end is forgotten");
}

#[test]
fn a_far_end_says_how_much_it_takes() {
    let mut session = at(State::Up);
    hear(&mut session, Packet { required_min_rx: Duration::from_millis(300), is_final: true, ..packet(State::Up) }, 1);
    session.handle_timeout(ms(50));
    outputs(&mut session);
    let next = session.transmit_after(ms(50));
    assert!((ms(275)..=ms(350)).contains(&next), "{next:?}");
    hear(&mut session, Packet { required_min_rx: Duration::ZERO, ..packet(State::Up) }, 100);
    assert_eq!(session.poll_timeout(), Some(ms(250)), "only the detection is waited for");
    hear(&mut session, packet(State::Up), 110);
    assert!(session.poll_timeout().unwrap() <= ms(160));
    hear(&mut session, Packet { demand: true, ..packet(State::Up) }, 120);
    assert_eq!(session.poll_timeout(), Some(ms(270)), "demand mode");
}

#[test]
fn what_is_for_another_session_changes_nothing() {
    let mut session = at(State::Up);
    let before = session.poll_timeout();
    hear(&mut session, Packet { your_discriminator: 12, ..packet(State::Down) }, 10);
    session.handle_octets(&[0; 60], ms(10));
    assert_eq!((session.state(), session.poll_timeout(), outputs(&mut session)), (State::Up, before, vec![]));
    // A far end that has started again does not know us.
    hear(&mut session, Packet { your_discriminator: 0, ..packet(State::Down) }, 10);
    assert_eq!(session.state(), State::Down);
}

impl Session {
    /// When the next packet goes, packets of the far end coming all the while.
    fn transmit_after(&mut self, now: Instant) -> Instant {
        let mut at = now;
        loop {
            at = at + Duration::from_millis(1);
            let heard = Packet { required_min_rx: Duration::from_millis(300), ..packet(State::Up) };
            self.handle_octets(&heard.to_octets(), at);
            self.handle_timeout(at);
            if !outputs(self).is_empty() {
                return at;
            }
        }
    }
}

struct Link {
    now: u64,
    ends: [Session; 2],
    toward: [VecDeque<(u64, Vec<u8>)>; 2],
    /// Per thousand, each way; a thousand: cut.
    loss: [u64; 2],
    random: u64,
    sent: [u64; 2],
}

impl Link {
    fn new(seed: u64) -> Link {
        let end = |discriminator| Session::new(SessionConfig { discriminator, ..CONFIG }, seed + u64::from(discriminator), ms(0));
        let random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        Link { now: 0, ends: [end(11), end(22)], toward: Default::default(), loss: [0; 2], random, sent: [0; 2] }
    }

    fn below(&mut self, n: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % n
    }

    fn turn(&mut self) {
        self.now += 1;
        for n in 0..2 {
            while let Some((_, octets)) = self.toward[n].pop_front_if(|(at, _)| *at <= self.now) {
                self.ends[n].handle_octets(&octets, ms(self.now));
            }
            if self.ends[n].poll_timeout().is_some_and(|at| at <= ms(self.now)) {
                self.ends[n].handle_timeout(ms(self.now));
            }
            for output in outputs(&mut self.ends[n]) {
                if let Output::Send(octets) = output {
                    self.sent[n] += 1;
                    if self.below(1000) >= self.loss[n] {
                        self.toward[1 - n].push_back((self.now + 2, octets.to_vec()));
                    }
                }
            }
        }
    }

    fn run(&mut self, millis: u64) {
        (0..millis).for_each(|_| self.turn());
    }

    fn states(&self) -> [State; 2] {
        [self.ends[0].state(), self.ends[1].state()]
    }
}

/// Whatever was lost before: a good link is up soon, stays up, costs no more packets than agreed; and a cut, on one way or both, is seen by
/// both ends within two detection times.
#[test]
fn a_good_link_is_up_and_a_cut_is_seen() {
    for seed in 0..200 {
        let mut link = Link::new(seed);
        for _ in 0..6 {
            for _ in 0..link.below(8) {
                let way = usize::try_from(link.below(2)).unwrap();
                link.loss[way] = [0, 300, 700, 1000][usize::try_from(link.below(4)).unwrap()];
                let stalled = link.below(4) == 0;
                let now = ms(link.now);
                link.ends[way].handle_stalled(stalled, now);
                let millis = link.below(600);
                link.run(millis);
            }
            link.loss = [0; 2];
            let now = ms(link.now);
            link.ends.iter_mut().for_each(|e| e.handle_stalled(false, now));
            link.run(4000);
            assert_eq!(link.states(), [State::Up; 2], "seed {seed}");
            let before = link.sent;
            for _ in 0..2000 {
                link.turn();
                assert_eq!(link.states(), [State::Up; 2], "seed {seed}: it does not flap");
            }
            for (after, before) in link.sent.iter().zip(before) {
                let rate = after - before;
                assert!((40..=54).contains(&rate), "seed {seed}: {rate} packets in 2 s");
            }
            let way = usize::try_from(link.below(3)).unwrap();
            link.loss = [[1000, 0], [0, 1000], [1000, 1000]][way];
            let mut seen = [None; 2];
            for after in 0..400 {
                link.turn();
                for (seen, state) in seen.iter_mut().zip(link.states()) {
                    if state < State::Up {
                        seen.get_or_insert(after);
                    }
                }
            }
            let within = if way == 2 { 155 } else { 310 };
            assert!(seen.iter().all(|at| at.is_some_and(|at| at <= within)), "seed {seed}, way {way}: {seen:?}");
        }
    }
}
