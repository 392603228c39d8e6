//! The latch: every state with every kind of packet and description.

use super::*;

const GUARD: Duration = Duration::from_secs(2);

/// Another host for each letter, another port for each number.
fn a(port: u16) -> SocketAddr {
    SocketAddr::from(([198, 51, 100, 7], port))
}

fn b(port: u16) -> SocketAddr {
    SocketAddr::from(([198, 51, 100, 8], port))
}

fn said(place: Place, description: u32) -> Option<Signalled> {
    Some(Signalled { place, description, latching: true })
}

fn at(addr: SocketAddr, description: u32) -> Option<Signalled> {
    said(Place::At(addr), description)
}

/// What happens to a latch, and what must come of it.
enum Step {
    /// A description.
    Signal(Option<Signalled>),
    /// A packet, at so many milliseconds: the verdict, and where packets go from then on.
    Packet(SocketAddr, u64, Verdict, Option<SocketAddr>),
    /// Where packets go.
    Target(Option<SocketAddr>),
    Reopen,
}

use Step::{Packet, Reopen, Signal, Target};
use Verdict::{Accept, Drop, Latched};

#[track_caller]
fn run(name: &str, steps: impl IntoIterator<Item = Step>) {
    let start = Instant::now();
    let mut latch = Latch::new(GUARD);
    for (n, step) in steps.into_iter().enumerate() {
        match step {
            Signal(said) => latch.signal(said),
            Packet(source, ms, verdict, target) => {
                let got = latch.admit(source, start + Duration::from_millis(ms));
                assert_eq!((got, latch.target()), (verdict, target), "{name}, step {n}: {latch:?}");
                assert!(got == Drop || latch.hears(source), "{name}, step {n}");
            }
            Target(target) => assert_eq!(latch.target(), target, "{name}, step {n}: {latch:?}"),
            Reopen => latch.reopen(),
        }
    }
}

#[test]
fn who_is_first() {
    run(
        "the signalled one, and nobody else while it speaks",
        [
            Signal(at(a(1), 0)),
            Target(Some(a(1))),
            Packet(a(1), 0, Latched, Some(a(1))),
            Packet(a(2), 20, Drop, Some(a(1))),
            Packet(b(1), 20, Drop, Some(a(1))),
            Packet(a(1), 20, Accept, Some(a(1))),
        ],
    );
    run(
        "another; the signalled one within the guard window",
        [
            Signal(at(a(1), 0)),
            Packet(b(2), 0, Latched, Some(b(2))),
            Packet(b(3), 20, Drop, Some(b(2))),
            Packet(b(2), 1_990, Accept, Some(b(2))),
            Packet(a(1), 1_999, Latched, Some(a(1))),
            Packet(b(2), 2_000, Drop, Some(a(1))),
        ],
    );
    run(
        "another; the signalled one too late",
        [
            Signal(at(a(1), 0)),
            Packet(b(2), 0, Latched, Some(b(2))),
            Packet(b(2), 1_990, Accept, Some(b(2))),
            Packet(a(1), 2_000, Drop, Some(b(2))),
            Packet(b(2), 2_000, Accept, Some(b(2))),
        ],
    );
    run(
        "early media: one source is heard, nobody answered",
        [
            Packet(a(1), 0, Accept, None),
            Packet(a(2), 100, Drop, None),
            Packet(a(2), 200, Accept, None),
            Packet(b(1), 1_000, Drop, None),
            Signal(at(a(1), 0)),
            Packet(a(1), 1_000, Latched, Some(a(1))),
        ],
    );
}

/// AC-54, RFC 7362 §4: a mapping of a NAT changes in mid-call.
#[test]
fn a_far_end_that_moves_is_heard_again() {
    for signalled in [a(1), a(9), b(9)] {
        run(
            "another port of its host: after 200 ms of silence",
            [
                Signal(at(signalled, 0)),
                Packet(a(1), 0, Latched, Some(a(1))),
                Packet(a(1), 5_000, Accept, Some(a(1))),
                Packet(a(2), 5_199, Drop, Some(a(1))),
                Packet(a(2), 5_200, Latched, Some(a(2))),
                Packet(a(2), 5_220, Accept, Some(a(2))),
            ],
        );
        run(
            "another host: after a guard window of silence",
            [
                Signal(at(signalled, 0)),
                Packet(a(1), 0, Latched, Some(a(1))),
                Packet(a(1), 5_000, Accept, Some(a(1))),
                Packet(b(1), 6_999, Drop, Some(a(1))),
                Packet(b(1), 7_000, Latched, Some(b(1))),
            ],
        );
    }
    run(
        "who only paused takes its place again, and keeps it",
        [
            Signal(at(a(9), 0)),
            Packet(a(1), 0, Latched, Some(a(1))),
            Packet(b(1), 2_000, Latched, Some(b(1))),
            Packet(b(1), 2_980, Accept, Some(b(1))),
            Packet(a(1), 3_000, Latched, Some(a(1))),
            Packet(b(1), 3_020, Drop, Some(a(1))),
            Packet(a(1), 3_020, Accept, Some(a(1))),
        ],
    );
    run(
        "but not after the guard window",
        [
            Signal(at(a(9), 0)),
            Packet(a(1), 0, Latched, Some(a(1))),
            Packet(b(1), 2_000, Latched, Some(b(1))),
            Packet(b(1), 3_990, Accept, Some(b(1))),
            Packet(a(1), 4_000, Drop, Some(b(1))),
        ],
    );
    run(
        "the signalled address is believed after 200 ms of silence",
        [
            Signal(at(a(1), 0)),
            Packet(b(1), 0, Latched, Some(b(1))),
            Packet(b(1), 5_000, Accept, Some(b(1))),
            Packet(a(1), 5_199, Drop, Some(b(1))),
            Packet(a(1), 5_200, Latched, Some(a(1))),
            Packet(b(1), 5_220, Drop, Some(a(1))),
        ],
    );
    let start = Instant::now();
    let mut latch = Latch::new(Duration::ZERO);
    latch.signal(at(a(1), 0));
    let mut at_ms = |source, ms| latch.admit(source, start + Duration::from_millis(ms));
    assert_eq!([at_ms(a(1), 0), at_ms(b(1), 199), at_ms(b(1), 200)], [Latched, Drop, Latched], "a guard of nothing is 200 ms");
}

#[test]
fn each_new_description_opens_the_latch() {
    run(
        "the same again changes nothing",
        [
            Signal(at(a(1), 0)),
            Packet(b(2), 0, Latched, Some(b(2))),
            Signal(at(a(1), 0)),
            Target(Some(b(2))),
            Packet(b(3), 20, Drop, Some(b(2))),
        ],
    );
    run(
        "the same address in another description; packets go where they went until somebody is heard",
        [
            Signal(at(a(1), 0)),
            Packet(b(2), 0, Latched, Some(b(2))),
            Signal(at(a(1), 1)),
            Target(Some(b(2))),
            Packet(b(3), 20, Latched, Some(b(3))),
            Packet(b(3), 40, Accept, Some(b(3))),
        ],
    );
    run(
        "who was heard before it takes its place again",
        [
            Signal(at(a(1), 0)),
            Packet(b(2), 0, Latched, Some(b(2))),
            Signal(at(a(1), 1)),
            Signal(at(a(1), 2)),
            Packet(b(3), 20, Latched, Some(b(3))),
            Packet(b(2), 40, Latched, Some(b(2))),
            Packet(b(3), 60, Drop, Some(b(2))),
        ],
    );
    run(
        "another address; a late packet from the old one is no claim",
        [
            Signal(at(a(1), 0)),
            Packet(b(2), 0, Latched, Some(b(2))),
            Signal(at(a(4), 1)),
            Target(Some(a(4))),
            Packet(b(2), 20, Latched, Some(b(2))),
            Packet(b(3), 40, Latched, Some(b(3))),
            Packet(b(2), 60, Drop, Some(b(3))),
            Packet(a(4), 80, Latched, Some(a(4))),
        ],
    );
    run(
        "another address, and then the old one",
        [
            Signal(at(a(1), 0)),
            Packet(b(2), 0, Latched, Some(b(2))),
            Signal(at(a(4), 1)),
            Signal(at(a(1), 2)),
            Target(Some(a(1))),
            Packet(b(2), 20, Latched, Some(b(2))),
        ],
    );
    run(
        "forgotten: a first packet decides",
        [
            Signal(at(a(1), 0)),
            Packet(b(2), 0, Latched, Some(b(2))),
            Reopen,
            Target(Some(a(1))),
            Packet(b(3), 20, Latched, Some(b(3))),
            Packet(b(2), 40, Drop, Some(b(3))),
        ],
    );
}

/// RFC 3264 §5.1: without latching packets go where the description says, whoever is heard.
#[test]
fn without_latching() {
    let fixed = |place, description| Some(Signalled { place, description, latching: false });
    run(
        "an address",
        [
            Signal(fixed(Place::At(a(1)), 0)),
            Target(Some(a(1))),
            Packet(a(5), 0, Latched, Some(a(1))),
            Packet(a(6), 20, Drop, Some(a(1))),
            Packet(a(6), 200, Latched, Some(a(1))),
            Signal(fixed(Place::At(a(3)), 1)),
            Target(Some(a(3))),
            Packet(a(6), 220, Latched, Some(a(3))),
        ],
    );
    run("a name", [Signal(fixed(Place::Named(4_000), 0)), Target(None), Packet(a(5), 0, Latched, Some(a(5)))]);
    run(
        "the setting changes, the description does not",
        [
            Signal(fixed(Place::At(a(1)), 0)),
            Packet(a(5), 0, Latched, Some(a(1))),
            Signal(at(a(1), 0)),
            Target(Some(a(5))),
            Packet(a(6), 20, Drop, Some(a(5))),
        ],
    );
}

/// RFC 8866 §5.7: a name is as good as an address, but for who may speak first.
#[test]
fn a_named_far_end_is_where_its_first_packet_comes_from() {
    run(
        "nobody is heard yet",
        [
            Signal(said(Place::Named(4_000), 0)),
            Target(None),
            Packet(a(2), 0, Latched, Some(a(2))),
            Packet(a(3), 20, Drop, Some(a(2))),
            Signal(said(Place::Named(4_000), 0)),
            Packet(a(2), 20, Accept, Some(a(2))),
            Signal(said(Place::Named(4_002), 1)),
            Target(None),
            Packet(a(3), 40, Latched, Some(a(3))),
            Reopen,
            Packet(a(4), 60, Latched, Some(a(4))),
            Signal(at(a(5), 2)),
            Target(Some(a(5))),
        ],
    );
    run(
        "early media, then an answer with a name: the far end was heard already",
        [
            Packet(a(1), 0, Accept, None),
            Signal(said(Place::Named(4_000), 0)),
            Target(Some(a(1))),
            Signal(None),
            Signal(said(Place::Named(4_000), 1)),
            Target(None),
            Packet(a(6), 20, Latched, Some(a(6))),
        ],
    );
}

#[test]
fn off_and_held() {
    let zero = SocketAddr::from(([0, 0, 0, 0], 4_000));
    run("off", [Signal(None), Packet(a(1), 0, Drop, None), Signal(at(a(2), 0)), Packet(a(1), 20, Latched, Some(a(1)))]);
    run(
        "held: it is heard, and gets nothing",
        [
            Signal(at(zero, 0)),
            Packet(a(1), 0, Latched, None),
            Packet(a(1), 20, Accept, None),
            Signal(at(a(2), 1)),
            Target(Some(a(2))),
            Packet(a(1), 40, Latched, Some(a(1))),
        ],
    );
}
