//! The speaker's thread against a router of a few lines, on loopback.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::*;
use crate::announce::{AnnounceConfig, AnnounceState, Announcer, AnnouncerHandle, Driver, Health, Others};

const WAIT: Duration = Duration::from_secs(10);
const GOOD: Health = Health { sip_loop: true, core_side: true, raft: true, quorum: true, disk: true, media: true };
const ILL: Health = Health { core_side: false, ..GOOD };
/// 127.0.0.1/32 as NLRI.
const NLRI: [u8; 5] = [32, 127, 0, 0, 1];

/// A router that dials nobody: OPEN and KEEPALIVE of its own, and what it was told.
struct Router {
    listener: TcpListener,
    stream: Option<TcpStream>,
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![0xff; 16];
    out.extend_from_slice(&u16::try_from(19 + body.len()).unwrap().to_be_bytes());
    out.push(kind);
    out.extend_from_slice(body);
    out
}

impl Router {
    fn new() -> Router {
        Router { listener: TcpListener::bind("127.0.0.1:0").unwrap(), stream: None }
    }

    /// The next message of the node: its type, and what follows.
    fn read(&mut self) -> (u8, Vec<u8>) {
        let stream = self.stream.as_mut().expect("a connection stands");
        let mut head = [0; 19];
        stream.read_exact(&mut head).expect("a message in time");
        let mut body = vec![0; usize::from(u16::from_be_bytes([head[16], head[17]])) - 19];
        stream.read_exact(&mut body).expect("a whole message in time");
        (head[18], body)
    }

    /// The next that is no KEEPALIVE.
    fn read_other(&mut self) -> (u8, Vec<u8>) {
        loop {
            let heard = self.read();
            // A router speaks too, or the hold time ends.
            let _ = self.stream.as_mut().unwrap().write_all(&message(4, &[]));
            if heard.0 != 4 {
                return heard;
            }
        }
    }

    fn establish(&mut self) {
        let (stream, _) = self.listener.accept().unwrap();
        stream.set_read_timeout(Some(WAIT)).unwrap();
        self.stream = Some(stream);
        assert_eq!(self.read().0, 1, "an OPEN first");
        let open = [&[4, 0xfd, 0xe8, 0, 9, 127, 0, 0, 9, 0][..]].concat();
        let stream = self.stream.as_mut().unwrap();
        stream.write_all(&[message(1, &open), message(4, &[])].concat()).unwrap();
        assert_eq!(self.read().0, 4, "then a KEEPALIVE");
    }
}

fn config(router: &Router) -> BgpConfig {
    BgpConfig {
        local_as: 65_001,
        identifier: Ipv4Addr::new(127, 0, 0, 1),
        hold_time: Duration::from_secs(3),
        connect_retry: Duration::from_millis(100),
        routes: vec![Route {
            prefix: "127.0.0.1/32".parse().unwrap(),
            prepend: 0,
            communities: vec![],
            large_communities: vec![],
        }],
        addresses: vec![],
        listen: false,
        neighbors: vec![NeighborConfig {
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: router.listener.local_addr().unwrap().port(),
            remote_as: 65_000,
            local: None,
            password: None,
            ttl_security: false,
            next_hop4: None,
            next_hop6: None,
            bfd: None,
        }],
        seed: 77,
    }
}

/// A node whose serving part lives while the switch is on.
fn node(router: &Router) -> (AnnouncerHandle, BgpHandle, Arc<AtomicBool>) {
    let lives = Arc::new(AtomicBool::new(true));
    let asked = lives.clone();
    let pulse = Box::new(move || if asked.load(Ordering::Relaxed) { Ok(()) } else { Err("the test") });
    let bgp = BgpHandle::start(config(router), pulse).unwrap();
    let announce = AnnounceConfig { wanted: true, preference: Duration::ZERO, up_after: Duration::ZERO, allow_degraded: true };
    (Announcer::spawn(announce, Driver::Bgp(bgp.clone())), bgp, lives)
}

async fn until(handle: &AnnouncerHandle, what: &str, wanted: impl Fn(&AnnounceState) -> bool) {
    let mut state = handle.watch();
    let seen = timeout(WAIT, state.wait_for(|s| wanted(s))).await.map(|r| r.is_ok());
    assert_eq!(seen, Ok(true), "wanted {what}, is {:?}", *handle.watch().borrow());
}

async fn blocking<T: Send + 'static>(what: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(what).await.unwrap()
}

#[tokio::test]
async fn what_a_router_has_is_announced_and_what_none_has_is_not() {
    let mut router = Router::new();
    let (announcer, bgp, _) = node(&router);
    announcer.set_health(GOOD).await;
    until(&announcer, "a failure, for there is no session", |s| matches!(s, AnnounceState::Failed { .. })).await;
    let mut router = blocking(move || {
        router.establish();
        let (kind, body) = router.read_other();
        assert!(kind == 2 && body.ends_with(&NLRI), "{body:?}");
        router
    })
    .await;
    until(&announcer, "announced", |s| *s == AnnounceState::Announced).await;
    let status = bgp.status();
    assert!(status[0].is_established() && status[0].announced[0].0 == "127.0.0.1/32" && status[0].announced[0].1 > 0);
    // A health tick says nothing.
    for _ in 0..20 {
        announcer.set_health(GOOD).await;
    }
    // By order: withdrawn, and the session stays.
    assert_eq!(announcer.withdraw(true, 0).await, Ok(()));
    let mut router = blocking(move || {
        let (kind, body) = router.read_other();
        assert_eq!((kind, body), (2, [&[0, 5][..], &NLRI, &[0, 0]].concat()), "the withdrawal is the next that is said");
        router
    })
    .await;
    assert!(bgp.status()[0].is_established());
    // The router starts again, and hears nothing of what is withdrawn.
    router.stream = None;
    let router = blocking(move || {
        router.establish();
        router.stream.as_ref().unwrap().set_read_timeout(Some(Duration::from_millis(400))).unwrap();
        let mut octet = [0];
        assert!(router.stream.as_mut().unwrap().read(&mut octet).is_err(), "nothing");
        router.stream.as_ref().unwrap().set_read_timeout(Some(WAIT)).unwrap();
        router
    })
    .await;
    // By order again; and the end of the session is told by words.
    let (done, mut router) = tokio::join!(
        announcer.announce_now(),
        blocking(move || {
            let mut router = router;
            assert!(router.read_other().1.ends_with(&NLRI));
            router
        })
    );
    assert_eq!(done, Ok(()));
    bgp.stop("node-a stops").await;
    let said = blocking(move || router.read_other()).await;
    assert_eq!(said, (3, [&[6, 2, 12][..], b"node-a stops"].concat()));
    until(&announcer, "a failure, for the session has ended", |s| matches!(s, AnnounceState::Failed { .. })).await;
}

#[tokio::test]
async fn a_lost_session_is_noticed_and_a_new_one_is_told() {
    let mut router = Router::new();
    let (announcer, _bgp, _) = node(&router);
    announcer.set_health(GOOD).await;
    for _ in 0..3 {
        router = blocking(move || {
            router.establish();
            assert!(router.read_other().1.ends_with(&NLRI));
            router
        })
        .await;
        until(&announcer, "announced", |s| *s == AnnounceState::Announced).await;
        router.stream = None;
        until(&announcer, "not announced", |s| matches!(s, AnnounceState::Failed { .. })).await;
    }
}

#[tokio::test]
async fn ill_health_withdraws_where_another_serves_and_not_where_nobody_does() {
    let mut router = Router::new();
    let (announcer, bgp, _) = node(&router);
    announcer.set_health(GOOD).await;
    announcer.set_others(Others { serve_instead: true }).await;
    let mut router = blocking(move || {
        router.establish();
        assert!(router.read_other().1.ends_with(&NLRI));
        router
    })
    .await;
    until(&announcer, "announced", |s| *s == AnnounceState::Announced).await;
    announcer.set_others(Others { serve_instead: false }).await;
    announcer.set_health(ILL).await;
    let mut state = announcer.watch();
    let left = timeout(Duration::from_millis(300), state.wait_for(|s| *s != AnnounceState::Announced)).await.is_ok();
    assert!(!left, "the last one stays");
    announcer.set_others(Others { serve_instead: true }).await;
    until(&announcer, "withdrawn", |s| *s == AnnounceState::Withdrawn).await;
    let (said, _router) = blocking(move || (router.read_other(), router)).await;
    assert_eq!(said.1, [&[0, 5][..], &NLRI, &[0, 0]].concat());
    assert!(bgp.status()[0].is_established());
}

#[tokio::test]
async fn a_stalled_node_says_no_keepalive_unless_it_is_the_last() {
    let mut router = Router::new();
    let (announcer, bgp, lives) = node(&router);
    announcer.set_health(GOOD).await;
    announcer.set_others(Others { serve_instead: true }).await;
    let router = blocking(move || {
        router.establish();
        assert!(router.read_other().1.ends_with(&NLRI));
        router
    })
    .await;
    until(&announcer, "announced", |s| *s == AnnounceState::Announced).await;
    lives.store(false, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_millis(250)).await; // Two looks.
    let silence = move |mut router: Router| {
        // The hold time is 3 s, so a KEEPALIVE would come within 1 s.
        router.stream.as_ref().unwrap().set_read_timeout(Some(Duration::from_millis(1100))).unwrap();
        let mut octets = [0; 64];
        let mut heard = 0;
        let end = Instant::now() + Duration::from_millis(2200);
        while Instant::now() < end {
            heard += router.stream.as_mut().unwrap().read(&mut octets).unwrap_or(0);
            let _ = router.stream.as_mut().unwrap().write_all(&message(4, &[]));
        }
        (heard, router)
    };
    let (heard, router) = blocking(move || silence(router)).await;
    assert_eq!(heard, 0, "nothing is said");
    announcer.set_others(Others { serve_instead: false }).await;
    let (heard, _router) = blocking(move || silence(router)).await;
    assert!(heard >= 19, "the last one speaks");
    assert!(bgp.status()[0].is_established());
}
