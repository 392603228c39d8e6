//! Clusters of real nodes: gRPC over loopback, logs on disk. Every wait is for a condition, with a deadline.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::{Cluster, DEADLINE, until};
use sbc_raft::{AdminError, BootTime, LEASE_MARGIN, ProposeError, Role, StartError};

fn command(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proposals_from_every_node_reach_every_node_in_one_order() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    // Alone in an idle cluster; the wait for company would show in nothing but time, so only the outcome is checked.
    let first = cluster.handle(leader).propose(command("first")).await.expect("a quorum");
    let mut outcomes = Vec::new();
    for round in 0..50 {
        for node in 1..=3 {
            outcomes.push(cluster.handle(node).propose(command(&format!("{node}-{round}"))));
        }
    }
    let mut last = first;
    for outcome in outcomes {
        last = last.max(outcome.await.expect("a quorum"));
    }
    cluster.all_applied(151).await;
    let sequence = cluster.commands(1);
    assert_eq!(sequence, cluster.commands(2));
    assert_eq!(sequence, cluster.commands(3));
    for node in 1..=3 {
        let own: Vec<_> = sequence.iter().filter(|text| text.starts_with(&format!("{node}-"))).cloned().collect();
        let wanted: Vec<_> = (0..50).map(|round| format!("{node}-{round}")).collect();
        assert_eq!(own, wanted, "the order in which node {node} proposed");
        assert!(cluster.handle(node).status().applied >= Some(last));
    }
    assert!(cluster.entries(1) < 151, "commands that wait are put into one entry");
    cluster.handle(1).initialize().await.expect("initialised already: nothing happens");
    assert_eq!(cluster.commands(1), sequence);
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_survives_its_leader_and_takes_it_back_from_disk() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let follower = leader % 3 + 1;
    cluster.handle(follower).propose(command("before")).await.expect("a quorum");
    cluster.stop(leader).await;
    // Proposed while there is no leader: kept, and sent to the next one.
    until("a proposal after the leader's death", async || cluster.handle(follower).propose(command("after")).await.is_ok()).await;
    assert_ne!(cluster.leader().await, leader);
    cluster.restart(leader).await;
    assert!(!cluster.handle(leader).status().caught_up, "nothing is confirmed right after a restart");
    cluster.caught_up(leader).await;
    assert!(cluster.commands(leader).contains(&"after".to_owned()), "caught up means applied");
    until("the same entries everywhere", async || {
        cluster.commands(1) == cluster.commands(2) && cluster.commands(2) == cluster.commands(3)
    })
    .await;
    cluster.handle(leader).propose(command("again")).await.expect("a quorum");
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_quorum_proposals_fail_and_leases_run_out() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    for node in 1..=3 {
        cluster.caught_up(node).await;
    }
    let (a, b) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    let mut watch = cluster.handle(leader).watch();
    cluster.stop(a).await;
    cluster.stop(b).await;
    let (stopped, stopped_at) = (Instant::now(), BootTime::now());
    let outcome = cluster.handle(leader).propose(command("alone")).await;
    assert_eq!(outcome, Err(ProposeError::Timeout));
    assert!(stopped.elapsed() < Duration::from_secs(3), "{:?}", stopped.elapsed());
    tokio::time::timeout(DEADLINE, watch.wait_for(|status| !status.has_lease && !status.caught_up))
        .await
        .expect("the watch tells of the end of the lease")
        .expect("still running");
    // Not prolonged by a quorum after the others stopped: at most a confirmation that was under way.
    assert!(cluster.handle(leader).status().lease_until < Some(stopped_at + Duration::from_millis(2200)));
    assert!(cluster.handle(leader).read_barrier(Duration::from_secs(1)).await.is_err());
    cluster.restart(a).await;
    cluster.caught_up(leader).await;
    cluster.caught_up(a).await;
    cluster.handle(a).propose(command("healed")).await.expect("a quorum");
    cluster.restart(b).await;
    cluster.caught_up(b).await;
    assert_eq!(cluster.handle(b).status().fatal, None);
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_is_declared_down_when_its_lease_is_over_and_not_before() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    for node in 1..=3 {
        cluster.caught_up(node).await;
    }
    let (down, other) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    let handle = cluster.handle(leader).clone();
    assert_eq!(handle.declare_down(down, command("down")).await, Ok(None), "nobody has said that it leads");
    handle.leads(Some(handle.status().term));
    // Whoever lives asks four times a second. A busy machine may be slower, but not by lease and margin.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(4) {
        assert_eq!(handle.declare_down(down, command("too soon")).await, Ok(None));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    cluster.stop(down).await;
    let last = cluster.handle(other).status().lease_until.expect("a lease");
    let declared = async || handle.declare_down(down, command("down")).await.is_ok_and(|index| index.is_some());
    until("the member is declared down", declared).await;
    assert!(
        BootTime::now() + Duration::from_millis(500) >= last + LEASE_MARGIN,
        "a lease that began then may run until {last:?}"
    );
    assert!(cluster.commands(leader).contains(&"down".to_owned()));
    assert_eq!(handle.declare_down(other, command("other")).await, Ok(None), "the other one lives");
    cluster.restart(down).await;
    cluster.caught_up(down).await;
    assert!(cluster.commands(down).contains(&"down".to_owned()), "it has a lease again, and knows what it had missed");
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_decided_in_one_term_is_appended_in_no_other() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let handle = cluster.handle(leader).clone();
    handle.leads(Some(handle.status().term));
    let (down, other) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    cluster.stop(down).await;
    // Another term: what was decided in the one before is appended in none.
    cluster.handle(leader).transfer_leader(other).await.expect("the other one takes over");
    until("its lease is over", async || handle.declare_down(down, command("of another term")).await.is_err()).await;
    until("the new leader declares it", async || {
        let handle = cluster.handle(other);
        let status = handle.status();
        handle.leads((status.role == Role::Leader && status.has_lease).then_some(status.term));
        handle.declare_down(down, command("down")).await.is_ok_and(|index| index.is_some())
    })
    .await;
    cluster.restart(down).await;
    cluster.caught_up(down).await;
    let commands = cluster.commands(down);
    assert!(commands.contains(&"down".to_owned()) && !commands.contains(&"of another term".to_owned()), "{commands:?}");
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_of_a_leader_without_quorum_has_no_lease() {
    let mut cluster = Cluster::start(5).await;
    let leader = cluster.leader().await;
    for node in 1..=5 {
        cluster.caught_up(node).await;
    }
    // The leader keeps one follower of four: it goes on sending heartbeats, and neither may count on them.
    let others: Vec<u64> = (1..=5).filter(|node| *node != leader).collect();
    for node in &others[1..] {
        cluster.stop(*node).await;
    }
    for node in [leader, others[0]] {
        until("the lease to run out", async || {
            let status = cluster.handle(node).status();
            !status.has_lease && !status.caught_up
        })
        .await;
    }
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_lags_behind_the_log_gets_a_snapshot() {
    let mut cluster = Cluster::configured(3, |config| {
        config.keep_entries = 1;
        config.snapshot_log_bytes = 20_000;
    })
    .await;
    let leader = cluster.leader().await;
    let lagging = leader % 3 + 1;
    cluster.handle(leader).propose(command("early")).await.expect("a quorum");
    cluster.all_applied(1).await;
    cluster.stop(lagging).await;
    let filler = "x".repeat(1000);
    for round in 0..100 {
        cluster.handle(leader).propose(command(&format!("{round}-{filler}"))).await.expect("a quorum");
    }
    until("a snapshot by log bytes", async || cluster.handle(leader).status().snapshot_index > Some(50)).await;
    // The one before is removed once the new one is whole, and the next may be being written.
    until("old snapshots are removed", async || cluster.snapshot_files(leader) <= 2).await;
    cluster.restart(lagging).await;
    cluster.caught_up(lagging).await;
    assert!(cluster.installs(lagging) > 0, "it came by a snapshot, not by entries");
    until("the same state", async || cluster.commands(lagging) == cluster.commands(leader)).await;
    // And back from its own disk.
    cluster.stop(lagging).await;
    cluster.restart(lagging).await;
    cluster.caught_up(lagging).await;
    assert_eq!(cluster.commands(lagging), cluster.commands(leader));
    cluster.stop_all().await;
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).expect("a directory");
    for entry in std::fs::read_dir(from).expect("a directory") {
        let path = entry.expect("readable").path();
        let to = to.join(path.file_name().expect("a name"));
        if path.is_dir() { copy(&path, &to) } else { std::fs::copy(&path, &to).map(drop).expect("a copy") }
    }
}

/// An older copy of a follower's log, with and without the entries at the leader that it lacks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_lost_acknowledged_entries_is_noticed_and_gets_them_again() {
    for (keep_entries, snapshot_log_bytes) in [(1000, 1 << 26), (1, 20_000)] {
        let mut cluster = Cluster::configured(3, |config| {
            (config.keep_entries, config.snapshot_log_bytes) = (keep_entries, snapshot_log_bytes);
        })
        .await;
        let leader = cluster.leader().await;
        let follower = leader % 3 + 1;
        cluster.handle(leader).propose(command("early")).await.expect("a quorum");
        cluster.all_applied(1).await;
        cluster.stop(follower).await;
        let old = cluster.data_dir(follower).with_extension("old");
        copy(cluster.data_dir(follower), &old);
        cluster.restart(follower).await;
        let filler = "x".repeat(1000);
        for round in 0..60 {
            cluster.handle(leader).propose(command(&format!("{round}-{filler}"))).await.expect("a quorum");
        }
        cluster.all_applied(61).await;
        if keep_entries == 1 {
            until("a snapshot at the leader", async || cluster.handle(leader).status().snapshot_index > Some(30)).await;
        }
        assert_eq!(cluster.handle(leader).status().reverted, [0; 0]);
        cluster.stop(follower).await;
        std::fs::remove_dir_all(cluster.data_dir(follower)).expect("its log is lost");
        std::fs::rename(&old, cluster.data_dir(follower)).expect("the copy is there");
        cluster.restart(follower).await;
        until("the leader notices", async || cluster.handle(leader).status().reverted == [follower]).await;
        until("the same state", async || cluster.commands(follower) == cluster.commands(leader)).await;
        cluster.caught_up(follower).await;
        assert!(!cluster.handle(follower).status().stuck);
        assert_eq!(cluster.leader().await, leader, "nobody fell over it");
        cluster.handle(follower).propose(command("after")).await.expect("a quorum");
        cluster.all_applied(62).await;
        cluster.stop_all().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_is_handed_over() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let next = leader % 3 + 1;
    assert_eq!(cluster.handle(next).transfer_leader(next).await, Err(AdminError::NotLeader { leader: Some(leader) }));
    assert!(matches!(cluster.handle(leader).transfer_leader(9).await, Err(AdminError::Refused(_))));
    cluster.handle(leader).transfer_leader(next).await.expect("handed over");
    until("the new leader", async || cluster.handle(next).status().role == Role::Leader).await;
    cluster.handle(leader).propose(command("forwarded")).await.expect("a quorum");
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_come_and_go() {
    let mut cluster = Cluster::start(1).await;
    cluster.handle(1).propose(command("one")).await.expect("a quorum of one");
    let peer = cluster.join(2).await;
    cluster.handle(1).add_learner(peer).await.expect("a learner");
    until("the learner", async || cluster.handle(2).status().role == Role::Learner && cluster.commands(2) == ["one"]).await;
    cluster.handle(1).promote(2).await.expect("a voter");
    until("two voters", async || cluster.handle(2).status().voters == [1, 2]).await;
    cluster.handle(2).propose(command("two")).await.expect("a quorum");
    cluster.handle(1).remove(2).await.expect("removed");
    until("one voter", async || cluster.handle(1).status().voters == [1]).await;
    cluster.handle(1).propose(command("three")).await.expect("a quorum of one");
    until("the removed node's lease to run out", async || {
        let status = cluster.handle(2).status();
        !status.has_lease && !status.caught_up
    })
    .await;
    assert!(matches!(cluster.handle(1).remove(1).await, Err(AdminError::Refused(_))), "the last voter stays");
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_are_refused() {
    use sbc_proto::peer::raft_service_client::RaftServiceClient;
    use sbc_proto::peer::{Ballot, ReadIndexRequest, VoteRequest};

    let mut cluster = Cluster::start(2).await;
    let leader = cluster.leader().await;
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{}", cluster.addr(1))).expect("uri");
    let mut client = RaftServiceClient::new(channel.connect_lazy());
    let ask = |metadata: [(&'static str, &'static str); 4]| {
        let mut request = tonic::Request::new(ReadIndexRequest {});
        for (key, value) in metadata {
            request.metadata_mut().insert(key, value.parse().expect("ASCII"));
        }
        request
    };
    let good = [("sbc-cluster", "test"), ("sbc-group", "1"), ("sbc-from", "2"), ("sbc-to", "1")];
    // Answered by the leader and refused with a reason by the other: either way the metadata is in order.
    match client.read_index(ask(good)).await {
        Ok(_) => assert_eq!(leader, 1),
        Err(status) => assert_eq!((leader, status.code()), (2, tonic::Code::FailedPrecondition), "{status}"),
    }
    for (field, value, code) in [
        (0, "other", tonic::Code::PermissionDenied),
        (1, "2", tonic::Code::NotFound),
        (2, "1", tonic::Code::PermissionDenied),
        (2, "x", tonic::Code::PermissionDenied),
        (2, "7", tonic::Code::PermissionDenied),
        (3, "2", tonic::Code::PermissionDenied),
    ] {
        let mut metadata = good;
        metadata[field].1 = value;
        let status = client.read_index(ask(metadata)).await.expect_err("refused");
        assert_eq!(status.code(), code, "{metadata:?}");
    }
    let term = cluster.handle(1).status().term;
    let ballot = Some(Ballot { term: 99, node: 7, committed: false });
    let status = client.vote(VoteRequest { ballot, last: None, transfer: true }).await.expect_err("refused");
    assert_eq!(status.code(), tonic::Code::PermissionDenied);
    assert_eq!(cluster.handle(1).status().term, term);
    cluster.stop_all().await;
    let error = cluster.start_error(1, |config| config.cluster_id = "other".into()).await;
    assert!(matches!(error, StartError::Identity { .. }), "{error}");
    let error = cluster.start_error(1, |config| config.node_id = 5).await;
    assert!(matches!(error, StartError::Identity { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_of_the_state_machine_is_fatal_and_shows() {
    let mut cluster = Cluster::start(1).await;
    let outcome = cluster.handle(1).propose(command("fail")).await;
    assert!(matches!(outcome, Err(ProposeError::Stopped | ProposeError::Timeout)), "{outcome:?}");
    until("the fatal status", async || cluster.handle(1).status().fatal.is_some()).await;
    let status = cluster.handle(1).status();
    assert_eq!((status.role, status.caught_up, status.has_lease), (Role::Stopped, false, false));
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proposals_are_bounded() {
    let mut cluster = Cluster::configured_without_init(1, |_| {}).await;
    let handle = cluster.handle(1).clone();
    assert_eq!(handle.propose(vec![0; (1 << 20) + 1].into()).await, Err(ProposeError::TooLarge));
    // No leader: nothing can leave. The queue and the entries in flight hold so many and no more.
    let outcomes: Vec<_> = (0..200_000).map(|_| handle.propose(Bytes::from_static(b"x"))).collect();
    let mut full = 0;
    for outcome in outcomes {
        match outcome.await {
            Err(ProposeError::QueueFull) => full += 1,
            Err(ProposeError::Timeout) => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(full > 100_000, "{full}");
    cluster.handle(1).initialize().await.expect("a cluster of one");
    until("a proposal", async || handle.propose(Bytes::from_static(b"y")).await.is_ok()).await;
    cluster.stop_all().await;
}

/// A node with a new log directory neither votes nor acknowledges before it is admitted: it may have done so with an older one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_not_admitted_makes_no_quorum() {
    let admitted = Arc::new(AtomicBool::new(false));
    let mut cluster = Cluster::configured_without_init(3, |config| {
        if config.node_id > 1 {
            config.admitted = admitted.clone();
        }
    })
    .await;
    cluster.handle(1).initialize().await.expect("it has a log of its own");
    // Several elections long.
    assert_eq!(cluster.handle(1).propose(command("early")).await, Err(ProposeError::Timeout));
    let status = cluster.handle(1).status();
    assert!(status.leader.is_none() && !status.has_lease, "{status:?}");
    for node in 2..=3 {
        assert!(cluster.handle(node).is_new().await, "nothing was written at {node}");
    }
    admitted.store(true, Ordering::Release);
    until("a quorum of all", async || cluster.handle(1).propose(command("late")).await.is_ok()).await;
    cluster.stop_all().await;
}
