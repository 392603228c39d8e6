//! The whole table of RFC 4271 §8.2.2: every state and every event.

use std::time::Duration;

use super::fsm::{Action, Event, Fsm, IDLE_HOLD_MAX, OPEN_LIMIT, STABLE_AFTER, State};
use super::notification::Notification;
use crate::time::Instant;

const RETRY: Duration = Duration::from_secs(1);
const HOLD: Duration = Duration::from_secs(9);
const STATES: [State; 6] = [State::Idle, State::Connect, State::Active, State::OpenSent, State::OpenConfirm, State::Established];

fn ms(n: u64) -> Instant {
    Instant::from_micros(n * 1000)
}

fn drained(fsm: &mut Fsm) -> Vec<Action> {
    std::iter::from_fn(|| fsm.poll_action()).collect()
}

/// A machine in that state, after two sessions that failed.
fn at(state: State, now: Instant) -> Fsm {
    let mut fsm = Fsm::new(RETRY, 7);
    let mut go = |event| fsm.handle_event(event, now);
    go(Event::ManualStart);
    go(Event::HeaderErr(Notification::header(2, &[])));
    go(Event::IdleHoldTimerExpires);
    go(Event::HeaderErr(Notification::header(2, &[])));
    let way = match state {
        State::Idle => vec![],
        State::Connect => vec![Event::IdleHoldTimerExpires],
        State::Active => vec![Event::IdleHoldTimerExpires, Event::TcpConnected, Event::TcpConnectionFails],
        State::OpenSent => vec![Event::IdleHoldTimerExpires, Event::TcpConnected],
        State::OpenConfirm => vec![Event::IdleHoldTimerExpires, Event::TcpConnected, Event::BgpOpen { hold: HOLD }],
        State::Established => {
            vec![Event::IdleHoldTimerExpires, Event::TcpConnected, Event::BgpOpen { hold: HOLD }, Event::KeepAliveMsg]
        }
    };
    way.into_iter().for_each(go);
    assert_eq!((fsm.state(), fsm.retries()), (state, 2));
    drained(&mut fsm);
    fsm
}

/// State, actions, timers that run, and how many sessions failed in a row.
fn shown(fsm: &mut Fsm) -> String {
    let mut words = vec![fsm.state().as_str().to_owned()];
    words.extend(drained(fsm).into_iter().map(|action| match action {
        Action::Connect => "connect".to_owned(),
        Action::Drop => "drop".to_owned(),
        Action::SendOpen => "OPEN".to_owned(),
        Action::SendKeepalive => "KEEPALIVE".to_owned(),
        Action::SendNotification(n) => format!("{}/{}", n.code, n.subcode),
    }));
    let t = fsm.timers();
    let timers = [("retry", t.connect_retry), ("hold", t.hold), ("keepalive", t.keepalive), ("idle", t.idle_hold)];
    words.extend(timers.iter().filter(|(_, at)| at.is_some()).map(|(name, _)| format!("~{name}")));
    words.push(fsm.retries().to_string());
    words.join(" ")
}

fn event(name: &str) -> Event {
    match name {
        "1" => Event::ManualStart,
        "2" => Event::ManualStop(Notification::shutdown("bye")),
        "8" => Event::AutomaticStop(Notification::bfd_down()),
        "9" => Event::ConnectRetryTimerExpires,
        "10" => Event::HoldTimerExpires,
        "11" => Event::KeepaliveTimerExpires,
        "13" => Event::IdleHoldTimerExpires,
        "16/17" => Event::TcpConnected,
        "18" => Event::TcpConnectionFails,
        "19" => Event::BgpOpen { hold: HOLD },
        "21" => Event::HeaderErr(Notification::header(2, &[])),
        "22" => Event::OpenMsgErr(Notification::open(2, &[])),
        "23" => Event::OpenCollisionDump,
        "24" => Event::NotifMsgVerErr,
        "25" => Event::NotifMsg,
        "26" => Event::KeepAliveMsg,
        "27" => Event::UpdateMsg,
        other => unreachable!("{other} is no event of the table"),
    }
}

/// By event number of §8.1, then Idle, Connect, Active, OpenSent, OpenConfirm, Established. `=`: nothing changes. Elsewhere: the state after
/// it, what is done, the timers that run, and the ConnectRetryCounter, which was 2.
const TABLE: [(&str, [&str; 6]); 17] = {
    const FAILED: &str = "Idle drop ~idle 3";
    const KEPT: &str = "Established ~hold ~keepalive 2";
    [
        ("1", ["Connect connect ~retry 0", "=", "=", "=", "=", "="]),
        ("2", ["Idle 0", "Idle drop 0", "Idle drop 0", "Idle 6/2 drop 0", "Idle 6/2 drop 0", "Idle 6/2 drop 0"]),
        ("8", ["=", FAILED, FAILED, "Idle 6/10 drop ~idle 3", "Idle 6/10 drop ~idle 3", "Idle 6/10 drop ~idle 3"]),
        (
            "9",
            [
                "=",
                "Connect drop connect ~retry 2",
                "Connect connect ~retry 2",
                "Idle 5/1 drop ~idle 3",
                "Idle 5/2 drop ~idle 3",
                "Idle 5/3 drop ~idle 3",
            ],
        ),
        ("10", ["=", FAILED, FAILED, "Idle 4/0 drop ~idle 3", "Idle 4/0 drop ~idle 3", "Idle 4/0 drop ~idle 3"]),
        (
            "11",
            [
                "=",
                FAILED,
                FAILED,
                "Idle 5/1 drop ~idle 3",
                "OpenConfirm KEEPALIVE ~hold ~keepalive 2",
                "Established KEEPALIVE ~hold ~keepalive 2",
            ],
        ),
        (
            "13",
            [
                "Connect connect ~retry 2",
                FAILED,
                FAILED,
                "Idle 5/1 drop ~idle 3",
                "Idle 5/2 drop ~idle 3",
                "Idle 5/3 drop ~idle 3",
            ],
        ),
        ("16/17", ["=", "OpenSent OPEN ~hold 2", "OpenSent OPEN ~hold 2", "=", "=", "="]),
        ("18", ["=", "Idle drop ~idle 2", FAILED, "Active drop ~retry 2", FAILED, FAILED]),
        (
            "19",
            ["=", FAILED, FAILED, "OpenConfirm KEEPALIVE ~hold ~keepalive 2", "Idle 5/2 drop ~idle 3", "Idle 5/3 drop ~idle 3"],
        ),
        ("21", ["=", FAILED, FAILED, "Idle 1/2 drop ~idle 3", "Idle 1/2 drop ~idle 3", "Idle 1/2 drop ~idle 3"]),
        ("22", ["=", FAILED, FAILED, "Idle 2/2 drop ~idle 3", "Idle 2/2 drop ~idle 3", "Idle 5/3 drop ~idle 3"]),
        (
            "23",
            [
                "=",
                "Idle drop ~idle 2",
                "Idle drop ~idle 2",
                "Idle 6/7 drop ~idle 3",
                "Idle 6/7 drop ~idle 3",
                "Idle 6/7 drop ~idle 3",
            ],
        ),
        ("24", ["=", FAILED, FAILED, "Idle drop ~idle 2", "Idle drop ~idle 2", FAILED]),
        ("25", ["=", FAILED, FAILED, FAILED, FAILED, FAILED]),
        ("26", ["=", FAILED, FAILED, "Idle 5/1 drop ~idle 3", KEPT, KEPT]),
        ("27", ["=", FAILED, FAILED, "Idle 5/1 drop ~idle 3", "Idle 5/2 drop ~idle 3", KEPT]),
    ]
};

#[test]
fn every_state_and_every_event() {
    for (name, cells) in TABLE {
        for (state, expected) in STATES.into_iter().zip(cells) {
            let mut fsm = at(state, ms(0));
            let before = (fsm.timers(), shown(&mut fsm));
            fsm.handle_event(event(name), ms(100));
            let after = shown(&mut fsm);
            if expected == "=" {
                assert_eq!((fsm.timers(), after), before, "event {name} in {state:?}");
            } else {
                assert_eq!(after, expected, "event {name} in {state:?}");
            }
        }
    }
}

/// The same table for a node that has stalled: the cells that differ, and no other.
#[test]
fn a_stalled_node_says_no_keepalive_and_begins_nothing() {
    for (name, cells) in TABLE {
        for (state, expected) in STATES.into_iter().zip(cells) {
            let mut fsm = at(state, ms(0));
            fsm.handle_stalled(true);
            let before = shown(&mut fsm);
            fsm.handle_event(event(name), ms(100));
            let expected = match (name, state) {
                ("13", State::Idle) => "Idle ~idle 2".to_owned(),
                _ if expected == "=" => before,
                _ => expected.replace(" KEEPALIVE", ""),
            };
            assert_eq!(shown(&mut fsm), expected, "event {name} in {state:?}");
        }
    }
    let mut fsm = at(State::Established, ms(0));
    fsm.handle_stalled(true);
    let mut said = Vec::new();
    for n in 1..80 {
        fsm.handle_stalled(n < 40);
        fsm.handle_timeout(ms(n * 100));
        said.extend(drained(&mut fsm).into_iter().map(|_| n));
    }
    let first = *said.first().expect("it speaks again");
    assert!((40..=41).contains(&first), "at once when it takes its turns again: {said:?}");
}

#[test]
fn timers_run_for_as_long_as_they_should() {
    let fsm = at(State::OpenSent, ms(0));
    assert_eq!(fsm.timers().hold, Some(ms(0) + OPEN_LIMIT));
    let mut fsm = at(State::Established, ms(0));
    assert_eq!(fsm.timers().hold, Some(ms(9000)));
    let keepalive = fsm.timers().keepalive.unwrap();
    assert!((ms(2250)..=ms(3000)).contains(&keepalive), "a third, less jitter: {keepalive:?}");
    fsm.handle_event(Event::UpdateMsg, ms(500));
    assert_eq!(fsm.timers().hold, Some(ms(9500)));
    fsm.handle_event(Event::KeepAliveMsg, ms(700));
    assert_eq!((fsm.timers().hold, fsm.timers().keepalive), (Some(ms(9700)), Some(keepalive)));
    fsm.handle_timeout(ms(9700));
    assert_eq!(drained(&mut fsm), [Action::SendNotification(Notification::hold_timer_expired()), Action::Drop]);
    let mut retry = at(State::Connect, ms(0)).timers().connect_retry.unwrap();
    assert!((ms(750)..=ms(1000)).contains(&retry));
    retry = at(State::Active, ms(0)).timers().connect_retry.unwrap();
    assert!((ms(750)..=ms(1000)).contains(&retry));
}

/// A router that is not there is tried every second; sessions that fail are tried less and less often; one that stood is no oscillation.
#[test]
fn oscillations_are_damped_and_absence_is_not() {
    let pause = |fsm: &Fsm, now: Instant| fsm.timers().idle_hold.unwrap().since(now);
    let mut fsm = Fsm::new(RETRY, 3);
    let mut now = ms(0);
    fsm.handle_event(Event::ManualStart, now);
    for _ in 0..20 {
        fsm.handle_event(Event::TcpConnectionFails, now);
        assert!(pause(&fsm, now) <= RETRY);
        now = fsm.poll_timeout().unwrap();
        fsm.handle_timeout(now);
        assert_eq!(fsm.state(), State::Connect);
    }
    let mut pauses = Vec::new();
    for _ in 0..7 {
        fsm.handle_event(Event::TcpConnected, now);
        fsm.handle_event(Event::BgpOpen { hold: HOLD }, now);
        fsm.handle_event(Event::NotifMsg, now);
        pauses.push(pause(&fsm, now));
        now = fsm.poll_timeout().unwrap();
        fsm.handle_timeout(now);
    }
    for (n, pause) in pauses.iter().enumerate() {
        let whole = (RETRY * (1 << n.min(8))).min(IDLE_HOLD_MAX);
        assert!((whole * 3 / 4..=whole).contains(pause), "{pauses:?}");
    }
    fsm.handle_event(Event::TcpConnected, now);
    fsm.handle_event(Event::BgpOpen { hold: HOLD }, now);
    fsm.handle_event(Event::KeepAliveMsg, now);
    let later = now + STABLE_AFTER;
    fsm.handle_event(Event::TcpConnectionFails, later);
    assert!(pause(&fsm, later) <= RETRY && fsm.retries() == 1);
}
