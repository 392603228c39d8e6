//! Connections over TLS: names, clients with certificates, and certificates that change meanwhile.

use std::io;
use std::time::Duration;

use sbc_core::ids::SendId;
use sbc_core::io::{AddressRole, SendFailure, Transport as Proto};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::TransportEvent;
use super::tests::{OK, OPTIONS, WAIT, answer, config, start, until};
use crate::tls::tests::{Authority, Dir, sip};
use crate::tls::{ClientAuth, ClientAuths, SipTls};

#[tokio::test]
async fn tls_both_ways_with_names_checked() {
    let (dir, ca) = (Dir::new(), Authority::new());
    let (mut ca_conf, mut cb_conf) = (config(), config());
    for (c, stem) in [(&mut ca_conf, "a"), (&mut cb_conf, "b")] {
        let own = ca.issue(&dir.0, stem, &[&format!("{stem}.test"), &c.unicast.first().to_string()], &[]);
        c.tls = Some(SipTls::new(sip(&own, ClientAuths::default())));
        c.limits.handshake = Duration::from_secs(1);
    }
    let (mut a, mut b) = (start(ca_conf).await, start(cb_conf).await);
    let to_b = b.addr(AddressRole::Unicast, Proto::Tls);
    // By address, by name, by a wrong name.
    a.handle.send(a.transmit(AddressRole::Unicast, Proto::Tls, to_b, OPTIONS)).unwrap();
    let r = b.received().await;
    assert_eq!((r.path.transport, r.path.role), (Proto::Tls, AddressRole::Unicast));
    b.handle.send(answer(&r, OK)).unwrap();
    assert_eq!(&a.received().await.payload[..], OK);
    let mut named = a.transmit(AddressRole::Unicast, Proto::Tls, to_b, OPTIONS);
    named.tls_name = Some("b.test".into());
    a.handle.send(named.clone()).unwrap();
    assert_ne!(b.received().await.path.flow, r.path.flow, "another name, another connection");
    named.tls_name = Some("evil.test".into());
    a.handle.send(named).unwrap();
    assert_eq!(a.event().await, TransportEvent::SendFailed { id: SendId(7), reason: SendFailure::Refused });
    // Released, the anycast address resets TLS connections, also those in handshake.
    b.handle.bind_anycast().await.unwrap();
    let any = b.addr(AddressRole::Anycast, Proto::Tls);
    let mut over_any = a.transmit(AddressRole::Core, Proto::Tls, any, OPTIONS);
    over_any.tls_name = Some("b.test".into());
    a.handle.send(over_any).unwrap();
    assert_eq!(b.received().await.path.role, AddressRole::Anycast);
    let mut half = TcpStream::connect(any).await.unwrap();
    until("both accepted", || b.handle.stats().flows_open.get() == 4).await;
    b.handle.release_anycast().await;
    let error = timeout(WAIT, half.read(&mut [0; 1])).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    assert!(matches!(a.event().await, TransportEvent::FlowClosed(_)));
    // A handshake that never comes.
    let mut silent = TcpStream::connect(to_b).await.unwrap();
    assert!(!matches!(timeout(WAIT, silent.read(&mut [0; 1])).await.unwrap(), Ok(n) if n > 0));
    let (stats_a, stats_b) = (a.handle.stats(), b.handle.stats());
    until("failures counted", || stats_b.tls_accepted.failures() == 3 && stats_a.tls_opened.failures() == 1).await;
    assert_eq!((stats_a.tls_opened.certificate.get(), stats_a.tls_opened.identified.get()), (1, 3));
    assert_eq!((stats_b.tls_accepted.anonymous.get(), stats_b.tls_accepted.certificate.get()), (3, 0));
}

#[tokio::test]
async fn the_core_side_asks_for_certificates_and_the_external_does_not() {
    let (dir, ca) = (Dir::new(), Authority::new());
    let (mut near, mut known, mut stranger) = (config(), config(), config());
    let auths = ClientAuths { external: ClientAuth::None, core: ClientAuth::Require };
    near.tls = Some(SipTls::new(sip(&ca.issue(&dir.0, "near", &["sbc.test"], &[]), auths)));
    known.tls = Some(SipTls::new(sip(&ca.issue(&dir.0, "gw", &["gw.test"], &[]), auths)));
    let theirs = Authority::new().issue(&dir.0, "x", &["gw.test"], &[]);
    std::fs::copy(dir.0.join("near.ca"), &theirs.ca).unwrap();
    stranger.tls = Some(SipTls::new(sip(&theirs, auths)));
    let (mut near, known, mut stranger) = (start(near).await, start(known).await, start(stranger).await);
    let send = |from: &super::tests::Stand, role| {
        let mut message = from.transmit(AddressRole::Core, Proto::Tls, near.addr(role, Proto::Tls), OPTIONS);
        message.tls_name = Some("sbc.test".into());
        from.handle.send(message).unwrap();
    };
    send(&known, AddressRole::Core);
    send(&stranger, AddressRole::Core);
    send(&stranger, AddressRole::Unicast);
    // Before the message, and only of who has shown a certificate.
    let (mut proved, mut received) = (Vec::new(), Vec::new());
    while received.len() < 2 {
        match near.any_event().await {
            TransportEvent::FlowProved { flow, names } => proved.push((flow, names)),
            TransportEvent::Received(r) if r.path.role == AddressRole::Core => {
                assert_eq!(proved[..], [(r.path.flow.unwrap(), ["gw.test".into()].into())]);
                received.push(r);
            }
            TransportEvent::Received(r) => received.push(r),
            other => panic!("{other:?}"),
        }
    }
    let mut roles: Vec<_> = received.iter().map(|r| (r.path.role, r.path.remote.ip())).collect();
    roles.sort_by_key(|(role, _)| *role == AddressRole::Core);
    assert_eq!(roles, [(AddressRole::Unicast, stranger.config.core.first()), (AddressRole::Core, known.config.core.first())]);
    let stats = near.handle.stats();
    until("one refused", || stats.tls_accepted.certificate.get() == 1).await;
    assert_eq!((stats.tls_accepted.identified.get(), stats.tls_accepted.anonymous.get()), (1, 1));
    // The stranger hears of it, one way or another.
    assert!(matches!(stranger.event().await, TransportEvent::FlowClosed(_) | TransportEvent::SendFailed { .. }));
}

#[tokio::test]
async fn a_swap_leaves_living_connections_alone() {
    let (dir, ca, other) = (Dir::new(), Authority::new(), Authority::new());
    let (mut a, mut b) = (config(), config());
    let both = ca.issue(&dir.0, "a", &["a.test"], &[]);
    let second = other.issue(&dir.0, "b2", &["b.test"], &[]);
    let pems: Vec<u8> = [&both.ca, &second.ca].iter().flat_map(|p| std::fs::read(p).unwrap()).collect();
    std::fs::write(&both.ca, pems).unwrap();
    a.tls = Some(SipTls::new(sip(&both, ClientAuths::default())));
    let swapped = SipTls::new(sip(&ca.issue(&dir.0, "b1", &["b.test"], &[]), ClientAuths::default()));
    b.tls = Some(swapped.clone());
    let (mut a, mut b) = (start(a).await, start(b).await);
    let mut message = a.transmit(AddressRole::Unicast, Proto::Tls, b.addr(AddressRole::Unicast, Proto::Tls), OPTIONS);
    message.tls_name = Some("b.test".into());
    a.handle.send(message.clone()).unwrap();
    let first = b.received().await;
    // From here on b has another certificate, which a stricter far end than a would refuse.
    swapped.swap(sip(&second, ClientAuths::default()));
    a.handle.send(message.clone()).unwrap();
    let again = b.received().await;
    assert_eq!(again.path.flow, first.path.flow, "the connection lives");
    b.handle.send(answer(&first, OK)).unwrap();
    assert_eq!(&a.received().await.payload[..], OK);
    // A new connection has the new one.
    b.handle.close_flow(first.path.flow.unwrap());
    assert!(matches!(a.event().await, TransportEvent::FlowClosed(_)));
    a.handle.send(message).unwrap();
    assert!(matches!(b.event().await, TransportEvent::FlowClosed(_)));
    assert_ne!(b.received().await.path.flow, first.path.flow);
    assert_eq!(a.handle.stats().tls_opened.identified.get(), 2);
}
