use super::*;
use crate::io::{AddressRole, Path, Transport};
use crate::transaction::{test_ids, test_server_ids};

/// How a request stands, by name. `a`: the transaction that counts; `e`: one that was passed over for its silence.
const STATES: [&str; 11] = [
    "held",
    "resolving",
    // Out: by its only way; with others left; over a connection; with one passed over.
    "only",
    "choice",
    "flow",
    "passed",
    // Something has come back.
    "trying",
    "ringing",
    "heard+e",
    // Cancelled, before and after something has come back.
    "unasked",
    "asked",
];

/// What happens: to `a`, or to `e`.
const EVENTS: [&str; 17] = [
    "100", "180", "200", "401", "482", "e100", "e200", "e486", "silent", "unsent", "timeout", "busy", "elost", "dns", "cancel",
    "stale", "sent",
];

/// A row each state, in the order of STATES; a column each event, in that of EVENTS. The state after it, if it is another, in short (held, resolving,
/// sent, x and X cancelled; what was heard: 0, trying, ringing; how many transactions), and what is to be done:
/// `P` provisional, `F` final (`F+`: it may go again), `A` aside, `T` transmit, `N` to the next hop, `W` wait, `X` it failed, `C` CANCEL, `D` over;
/// `q`: the other one is quiet; `b`: the way is blamed; `-`: nothing.
const TABLE: &str = "
    -     -     -  -  -     -     -   -     - -     -     -     -     -   D      -      X
    -     -     -  -  -     -     -   -     - -     -     -     -     h/T h/D    -      X
    st1/P sr1/P F+ F+ F+    -     -   -     - h/X   h/X   h/X   -     -   x01/-  x01/-  -
    st1/P sr1/P F+ F+ F+    -     -   -     T h/Tb  h/Xb  h/Tb  -     -   x01/-  x01/-  -
    st1/P sr1/P F+ F+ F+    -     -   -     - h/Nb  h/Xb  h/X   -     -   x01/-  x01/-  -
    st2/P sr2/P F+ F+ s01/A st2/Pq F+q s01/A - s01/W s01/W s01/W s01/W -  x02/-  x02/-  -
    P     sr1/P F+ F+ F+    -     -   -     - h/X   h/X   h/X   -     -   Xt1/C  Xt1/C  -
    P     P     F+ F+ F+    -     -   -     - h/X   h/X   h/X   -     -   Xr1/C  -      -
    P     sr2/P F+ F+ s01/A Pq    F+q st1/A - st1/W st1/W st1/W st1/W -   Xt2/C  Xt2/C  -
    Xt1/PC Xr1/PC F F F     -     -   -     - h/X   h/X   h/X   -     -   -      -      -
    P     Xr1/P F  F  F     -     -   -     - h/X   h/X   h/X   -     -   -      -      -";

fn state(name: &str) -> CrossingState {
    let tx = test_ids(2);
    let way = |flow: bool| {
        let at = ([198, 18, 0, 1], 5060).into();
        let flow = flow.then_some(crate::ids::FlowId(1));
        let path = Path { role: AddressRole::Unicast, transport: Transport::Udp, local: at, remote: at, flow };
        Way { back: ReturnPath::here(path), tls_name: None }
    };
    let out = |n: usize, more: bool, flow: bool| {
        let ways = if more { Ways::one(way(false)) } else { Ways::default() };
        Out::new(tx[n], way(flow), ways)
    };
    let mut state = CrossingState::Held;
    match name {
        "held" => {}
        "resolving" => state.resolving(ResolveId(1), "host".into()),
        "choice" => state.sent(out(0, true, false)),
        "flow" => state.sent(out(0, false, true)),
        "passed" | "heard+e" => {
            state.sent(out(1, true, false));
            _ = state.on_silent(tx[1]).expect("others are left");
            state.sent(out(0, false, false));
        }
        _ => state.sent(out(0, false, false)),
    }
    match name {
        "trying" | "heard+e" => _ = state.on_response(tx[0], 100),
        "ringing" => _ = state.on_response(tx[0], 180),
        "unasked" => assert_eq!(state.on_cancel(), Cancel::Wait),
        "asked" => {
            _ = state.on_response(tx[0], 100);
            assert_eq!(state.on_cancel(), Cancel::Send);
        }
        _ => {}
    }
    state
}

/// A state in short: how it stands, what was heard, how many transactions there are.
fn short(state: &CrossingState) -> String {
    let of = |sent: &state::Sent| format!("{}{}", sent.heard_in_short(), sent.count());
    match state {
        CrossingState::Held => "h".into(),
        CrossingState::Resolving { .. } => "r".into(),
        CrossingState::Sent(sent) => format!("s{}", of(sent)),
        CrossingState::Cancelled { sent, asked } => format!("{}{}", if *asked { "X" } else { "x" }, of(sent)),
    }
}

fn step(state: &mut CrossingState, event: &str) -> String {
    let (tx, other) = (test_ids(2)[0], test_ids(2)[1]);
    let response = |said: Option<Response>| {
        let Some(said) = said else { return "-".to_owned() };
        let counts = match said.counts {
            Counts::Aside => "A",
            Counts::Provisional { cancel: false } => "P",
            Counts::Provisional { cancel: true } => "PC",
            Counts::Final { again: false } => "F",
            Counts::Final { again: true } => "F+",
        };
        format!("{counts}{}", if said.quiet.is_some() { "q" } else { "" })
    };
    let lost = |lost: Option<Lost>| {
        let Some(lost) = lost else { return "-".to_owned() };
        let next = match lost.next {
            AfterLoss::Wait => "W",
            AfterLoss::Transmit(_) => "T",
            AfterLoss::Send => "N",
            AfterLoss::Fail(_) => "X",
        };
        format!("{next}{}", if lost.blamed.is_some() { "b" } else { "" })
    };
    let cancelled = |cancel| match cancel {
        Cancel::Wait => "-".to_owned(),
        Cancel::Send => "C".to_owned(),
        Cancel::Drop => "D".to_owned(),
    };
    // Of a far end's request (`Origin::goes_again`).
    match event {
        "silent" => state.on_silent(tx).map_or("-", |_| "T").into(),
        "unsent" => lost(state.on_lost(tx, Loss::NotSent, true)),
        "timeout" => lost(state.on_lost(tx, Loss::TimedOut, false)),
        "busy" => {
            let again = !state.is_over_connection(tx);
            lost(state.on_lost(tx, Loss::Congested, again))
        }
        "elost" => lost(state.on_lost(other, Loss::TimedOut, false)),
        "dns" => state.resolved(ResolveId(1)).map_or("-", |_| "T").into(),
        "cancel" => cancelled(state.on_cancel()),
        "stale" => cancelled(state.on_stale()),
        "sent" => state.on_not_sent().map_or("-", |_| "X").into(),
        _ => match event.strip_prefix('e') {
            Some(status) => response(state.on_response(other, status.parse().expect("a status"))),
            None => response(state.on_response(tx, event.parse().expect("a status"))),
        },
    }
}

#[test]
fn every_state_and_event() {
    let rows: Vec<Vec<&str>> =
        TABLE.lines().map(|l| l.split_whitespace().collect()).filter(|row: &Vec<_>| !row.is_empty()).collect();
    let found: Vec<Vec<String>> = STATES
        .iter()
        .map(|name| {
            let one = |event: &&str| {
                let mut state = state(name);
                let before = short(&state);
                let done = step(&mut state, event);
                let after = short(&state);
                if after == before { done } else { format!("{after}/{done}") }
            };
            EVENTS.iter().map(one).collect()
        })
        .collect();
    let shown: Vec<String> = found.iter().map(|row| row.join(" ")).collect();
    assert_eq!(rows, found, "\n{}", shown.join("\n"));
}

#[test]
fn each_transaction_is_cancelled_once_and_never_before_a_response() {
    // RFC 3261 §9.1, over all ways of length four from a request that has just gone out.
    let events = ["100", "180", "482", "e100", "e486", "elost", "silent", "unsent", "cancel", "stale"];
    let ways = (0..events.len().pow(4)).map(|n| (0..4).map(move |at| events[n / events.len().pow(at) % events.len()]));
    for way in ways {
        let way: Vec<&str> = way.collect();
        let (mut state, mut answered, mut cancelled) = (state("passed"), false, Vec::new());
        for event in &way {
            let done = step(&mut state, event);
            answered |= done.starts_with('P');
            if done.contains('C') {
                let to = state.last().expect("it is out").tx;
                assert!(answered && !cancelled.contains(&to), "{way:?}");
                cancelled.push(to);
            }
        }
    }
}

#[test]
fn it_goes_again_to_whoever_answered_and_then_the_ways_that_were_left() {
    let tx = test_ids(2);
    let mut choice = state("choice");
    let (mut ways, outs) = choice.restart(tx[0]);
    assert_eq!((outs.len(), short(&choice).as_str()), (1, "h"));
    assert!(ways.take().is_some() && ways.take().is_some() && ways.take().is_none());
    let (ways, outs) = state("passed").restart(test_ids(3)[2]);
    assert!(ways.is_empty() && outs.len() == 2, "nobody that is known has answered");
}

#[test]
fn whose_request_goes_another_way_after_which_loss() {
    let far_end = Origin::Refresh(Method::Update);
    for (origin, timeout, unsent, busy, busy_flow) in [
        (far_end, true, true, true, false),
        (Origin::Own(Purpose::Alone), true, true, true, true),
        (Origin::Own(Purpose::Question), false, false, false, false),
        (Origin::Own(Purpose::Ack(1)), false, false, false, false),
        (Origin::FarEnd(asked()), false, true, true, false),
    ] {
        let goes = [
            origin.goes_again(Loss::TimedOut, false),
            origin.goes_again(Loss::NotSent, true),
            origin.goes_again(Loss::Congested, false),
            origin.goes_again(Loss::Congested, true),
        ];
        assert_eq!(goes, [timeout, unsent, busy, busy_flow], "{origin:?}");
        // Silence: who is asked whether it is there is not asked elsewhere.
        let elsewhere = !matches!(origin, Origin::Own(Purpose::Question | Purpose::Ack(_)));
        let mut crossing = Crossing::new(1, callee(), origin, ());
        *crossing.state_mut() = state("choice");
        assert_eq!(crossing.on_silent(test_ids(2)[0]).is_some(), elsewhere);
    }
}

fn callee() -> DialogRef {
    crate::dialog::PairId::at(0).callee()
}

fn asked() -> Asked {
    let text = "INVITE sip:a@b SIP/2.0\r\nVia: SIP/2.0/UDP c;branch=z9hG4bK1\r\nFrom: <sip:a@c>;tag=f\r\nTo: <sip:b@c>;tag=t\r\n\
                Call-ID: x\r\nCSeq: 4 INVITE\r\n\r\n";
    let at = ([198, 18, 0, 1], 5060).into();
    let path = Path { role: AddressRole::Unicast, transport: Transport::Udp, local: at, remote: at, flow: None };
    let (server, back) = (test_server_ids(1)[0], ReturnPath::here(path));
    Asked { request: Message::parse(bytes::Bytes::from_static(text.as_bytes())).expect("valid"), server, back }
}

#[test]
fn the_collection_knows_what_is_open() {
    let mut all: Crossings<()> = Crossings::default();
    assert_eq!((all.refuse_invite(Side::Caller), all.count()), (None, 0));
    all.insert(Crossing::new(1, callee(), Origin::FarEnd(asked()), ()));
    assert_eq!((all.refuse_invite(Side::Caller), all.refuse_invite(Side::Callee)), (Some(500), Some(491)));
    assert_eq!(all.invite_of(Side::Caller, 4).map(Crossing::id), Some(1));
    assert!(all.invite_of(Side::Callee, 4).is_none() && all.invite_of(Side::Caller, 5).is_none());
    all.remove(1);
    all.insert(Crossing::new(2, callee(), Origin::Refresh(Method::Options), ()));
    assert_eq!(all.refuse_invite(Side::Callee), None, "it asks for nothing");
    all.insert(Crossing::new(3, callee(), Origin::Refresh(Method::Update), ()));
    assert_eq!((all.refuse_invite(Side::Caller), all.refuse_invite(Side::Callee)), (Some(491), Some(491)));
    all.insert(Crossing::new(4, callee(), Origin::Own(Purpose::Alone), ()));
    assert_eq!(all.count(), 2, "what is ours alone does not count");
}

#[test]
fn an_ack_and_a_cancel_take_the_way_of_their_invite() {
    let mut crossing = Crossing::new(1, callee(), Origin::FarEnd(asked()), ());
    assert!(crossing.same_hop(&Method::Cancel, None).is_none(), "it is not written");
    let mut draft = Draft::request(&Method::Invite, "sip:b@d");
    draft.push(HeaderId::Route, "<sip:p;lr>").push(HeaderId::From, "<sip:a@us>;tag=1").push(HeaderId::To, "<sip:b@d>;tag=2");
    draft.push(HeaderId::CallId, "y").push(HeaderId::CSeq, "9 INVITE").push(HeaderId::Contact, "<sip:us>");
    crossing.write(9, draft);
    let text = |method, to| {
        let draft = crossing.same_hop(method, to).expect("it is written");
        String::from_utf8(draft.encode().expect("it can be").to_vec()).expect("UTF-8")
    };
    let rest = "Call-ID: y\r\nMax-Forwards: 70\r\nCSeq: 9";
    let cancel = text(&Method::Cancel, None);
    assert!(cancel.starts_with("CANCEL sip:b@d SIP/2.0\r\nRoute: <sip:p;lr>\r\nFrom: <sip:a@us>;tag=1\r\n"), "{cancel}");
    assert!(cancel.contains(&format!("To: <sip:b@d>;tag=2\r\n{rest} CANCEL\r\n")) && !cancel.contains("Contact"), "{cancel}");
    assert!(text(&Method::Ack, Some("<sip:b@d>;tag=3")).contains(&format!("To: <sip:b@d>;tag=3\r\n{rest} ACK\r\n")));
}
