//! The announcer with real sockets and real commands.

use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::PermissionsExt;

use tokio::sync::mpsc::channel;

use super::*;
use crate::tls::tests::Dir;
use crate::transport::{AnycastMode, Limits, Ports, Transport, TransportConfig, TransportHandle};

const GOOD: Health = Health { sip_loop: true, core_side: true, raft: true, quorum: true, disk: true, media: true };

const WAIT: Duration = Duration::from_secs(10);

fn config(wanted: bool, preference: u64) -> AnnounceConfig {
    let preference = Duration::from_millis(preference);
    AnnounceConfig { wanted, preference, up_after: Duration::ZERO, allow_degraded: true }
}

/// Addresses by process and test, apart from those of the transport's tests (last octet over 200).
async fn node(test: u8, node: u8) -> TransportHandle {
    let pid = std::process::id().to_be_bytes();
    let ip = |last: u8| IpAddr::V4(Ipv4Addr::new(127, 64 | (pid[2] & 63), pid[3], 200 + test * 10 + last));
    let config = TransportConfig {
        unicast: ip(node * 2).into(),
        anycast: Some(ip(9).into()),
        core: ip(node * 2 + 1).into(),
        external_ports: Ports::default(),
        core_ports: Ports::default(),
        anycast_mode: AnycastMode::OnDemand,
        tls: None,
        limits: Limits::default(),
    };
    let (tx, mut rx) = channel(10);
    tokio::spawn(async move { while rx.recv().await.is_some() {} });
    Transport::start(config, tx).await.unwrap()
}

async fn until(handle: &AnnouncerHandle, wanted: AnnounceState) {
    let mut state = handle.watch();
    let seen = timeout(WAIT, state.wait_for(|s| *s == wanted)).await.map(|r| r.is_ok());
    assert_eq!(seen, Ok(true), "wanted {wanted:?}, is {:?}", *handle.watch().borrow());
}

#[tokio::test]
async fn bind_flips_to_its_target_and_falls_back_after_a_failure() {
    let (ta, tb) = (node(0, 0).await, node(0, 1).await);
    let a = Announcer::spawn(config(true, 0), Driver::Bind(ta.clone()));
    let b = Announcer::spawn(config(true, 150), Driver::Bind(tb.clone()));
    assert_eq!(*a.watch().borrow(), AnnounceState::NeverAnnounced, "not healthy yet");
    a.set_health(GOOD).await;
    until(&a, AnnounceState::Announced).await;
    b.set_health(GOOD).await;
    until(&b, AnnounceState::Standby).await;
    // Flip.
    let (gone, come) = tokio::join!(a.step_back(), b.announce_now());
    assert_eq!((gone, come), (Ok(()), Ok(())));
    assert!(tb.anycast_bound() && !ta.anycast_bound());
    // The new holder falls ill; the old one takes over.
    b.set_health(Health { sip_loop: false, ..GOOD }).await;
    until(&b, AnnounceState::Withdrawn).await;
    until(&a, AnnounceState::Announced).await;
    assert!(ta.anycast_bound() && !tb.anycast_bound());
}

#[tokio::test]
async fn bind_withdraws_for_operator_and_drain() {
    let t = node(1, 0).await;
    let a = Announcer::spawn(config(true, 0), Driver::Bind(t.clone()));
    a.set_health(GOOD).await;
    until(&a, AnnounceState::Announced).await;
    assert_eq!(a.withdraw(false, 0).await, Err(AnnounceError::LastAnnouncer));
    assert!(t.anycast_bound());
    assert_eq!(a.withdraw(false, 1).await, Ok(()));
    assert!(!t.anycast_bound());
    a.set_wanted(true).await;
    until(&a, AnnounceState::Announced).await;
    a.set_draining(true).await;
    until(&a, AnnounceState::Withdrawn).await;
    a.set_draining(false).await;
    until(&a, AnnounceState::Announced).await;
    assert_eq!(a.withdraw(true, 0).await, Ok(()));
    assert_eq!(a.announce_now().await, Ok(()));
    // The end of the handles withdraws.
    drop(a);
    timeout(WAIT, async {
        while t.anycast_bound() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .unwrap();
}

fn script(dir: &Dir, body: &str) -> Exec {
    let file = dir.0.join("announce.sh");
    // Written by a child process: a descriptor of ours open for writing, inherited by another test's fork, would be ETXTBSY.
    let text = format!("#!/bin/sh\ncd {}\n{body}\n", dir.0.display());
    let staged = dir.0.join("staged");
    std::fs::write(&staged, text).unwrap();
    assert!(std::process::Command::new("cp").arg(&staged).arg(&file).status().unwrap().success());
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
    Exec {
        command: vec![file.display().to_string(), "extra".into()],
        anycast: "198.18.112.112".parse::<IpAddr>().unwrap().into(),
    }
}

#[tokio::test]
async fn exec_runs_its_command() {
    let dir = Dir::new();
    let exec = script(&dir, "echo \"$1 $2 $ANYCAST\" >> log");
    let a = Announcer::spawn(config(true, 0), Driver::Exec(exec));
    a.set_health(GOOD).await;
    until(&a, AnnounceState::Announced).await;
    assert_eq!(a.step_back().await, Ok(()));
    let log = std::fs::read_to_string(dir.0.join("log")).unwrap();
    assert_eq!(log, "extra announce 198.18.112.112\nextra withdraw 198.18.112.112\n");
}

#[tokio::test]
async fn exec_failure_is_told_and_tried_again() {
    let dir = Dir::new();
    let exec = script(&dir, "test -e ready && exit 0\necho 'no such peer' >&2\ntouch ready\nexit 3");
    let a = Announcer::spawn(config(true, 0), Driver::Exec(exec));
    let mut state = a.watch();
    a.set_health(GOOD).await;
    let failed = timeout(WAIT, state.wait_for(|s| matches!(s, AnnounceState::Failed { .. }))).await.unwrap().unwrap().clone();
    let AnnounceState::Failed { reason } = failed else { unreachable!("waited for it") };
    assert!(reason.contains("announce") && reason.contains("status: 3") && reason.contains("no such peer"), "{reason}");
    until(&a, AnnounceState::Announced).await;
}

#[tokio::test]
async fn none_shows_whether_the_node_may_serve() {
    let a = Announcer::spawn(config(true, 0), Driver::None);
    a.set_health(GOOD).await;
    until(&a, AnnounceState::Announced).await;
    a.set_health(Health::default()).await;
    until(&a, AnnounceState::Withdrawn).await;
}
