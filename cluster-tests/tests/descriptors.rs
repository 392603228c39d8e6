//! Nodes with few descriptors: a burst of calls and idle connections takes what there is, and neither a node nor its log ends for it.

use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use cluster_tests::cluster::{Cluster, Options, PSAP, anycast, core, unicast};
use cluster_tests::load::{self, Answerer, Load};
use cluster_tests::rtp::{heard, media};
use cluster_tests::scene::Scene;
use cluster_tests::wait;

/// So many that a node can run, and few calls can have media.
const DESCRIPTORS: u32 = 600;
/// More calls at once than there are sockets for.
const CALLS: u32 = 150;
/// Longest wait for what was freed.
const LIMIT: Duration = Duration::from_secs(30);

fn pids(cluster: &Cluster) -> Vec<Option<u32>> {
    (0..3).map(|node| cluster.pid(node).filter(|_| cluster.is_up(node))).collect()
}

fn have_quorum(cluster: &Cluster) -> bool {
    (0..3).all(|node| cluster.metric(node, "sbc_raft_quorum") == 1)
}

#[test]
fn a_burst_of_calls_and_connections_ends_nobody() {
    let cluster = Cluster::start(Options { descriptors: Some(DESCRIPTORS), ..Options::with_own_psap() });
    let (owner, before) = (cluster.holder(), pids(&cluster));
    assert!(before.iter().all(Option::is_some), "{before:?}");
    let most = cluster.metric(owner, "sbc_media_sockets");
    assert!((50..4 * u64::from(CALLS)).contains(&most), "media sockets: {most}");
    // Whoever connects and says nothing, to each of the node's addresses.
    let idle = |at: SocketAddr| (0..200).filter_map(move |_| TcpStream::connect_timeout(&at, Duration::from_secs(1)).ok());
    let connections: Vec<TcpStream> = [anycast(), unicast(owner), core(owner)].into_iter().flat_map(idle).collect();
    let answerer = Answerer::start(PSAP);
    let load = Load { to: anycast(), rate: 40, calls: CALLS, hold: Duration::from_secs(6) };
    let mut held = false;
    let outcome = load::run(load, || {
        held = true;
        assert!(cluster.metric(owner, "sbc_media_ports_exhausted_total") > 0, "else this shows nothing");
        assert!(cluster.metric(owner, "sbc_transport_refused_total_limit_total") > 0, "else this shows nothing");
        wait::until("the alarm", LIMIT, || {
            let raised = cluster.metric(owner, "sbc_alarm{alarm=\"media-ports\"}");
            if raised == 1 { Ok(()) } else { Err(raised) }
        });
        assert!(have_quorum(&cluster));
    });
    assert!(held && outcome.completed == CALLS, "{outcome:?}");
    drop((answerer, connections));
    assert_eq!(pids(&cluster), before, "the same processes");
    assert!(have_quorum(&cluster) && !cluster.logs().contains("Too many open files"), "{}", cluster.logs());

    // All of it comes back.
    wait::until("all sockets are free again", LIMIT, || {
        let free = cluster.metric(owner, "sbc_media_sockets_free");
        if free == most { Ok(()) } else { Err(free) }
    });
    let mut scene = Scene::new();
    let mut call = scene.established(anycast());
    let bind = |at: &str| UdpSocket::bind(at).expect("free");
    let (caller, psap) = (bind("127.0.3.1:40000"), bind("127.0.2.1:42000"));
    assert_ne!(media(&call.ok), SocketAddr::new(PSAP.ip(), 42_000), "anchored");
    assert!(heard(&caller, media(&call.ok), &psap, 0) > 40 && heard(&psap, media(&call.psap_invite), &caller, 0) > 40);
    scene.hang_up(&mut call, anycast());
}
