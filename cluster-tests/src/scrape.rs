//! What a node tells Prometheus.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::cluster::unicast;

/// Port of the metrics of a node of `dev up`.
const PORT: u16 = 9464;
/// How long one answer may take.
const LIMIT: Duration = Duration::from_secs(5);

/// The page of the n-th node.
///
/// # Panics
/// There is none.
pub fn page(node: u8) -> String {
    let at = SocketAddr::new(unicast(node).ip(), PORT);
    let mut tcp = TcpStream::connect_timeout(&at, LIMIT).unwrap_or_else(|e| panic!("cannot connect to {at}: {e}"));
    tcp.set_read_timeout(Some(LIMIT)).expect("not zero");
    let mut page = String::new();
    let asked = tcp.write_all(format!("GET /metrics HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n").as_bytes());
    asked.and_then(|()| tcp.read_to_string(&mut page).map(drop)).unwrap_or_else(|e| panic!("{at}: {e}"));
    assert!(page.starts_with("HTTP/1.1 200"), "{page}");
    page
}

/// A value at the n-th node; 0 where there is none yet. `name` with its labels: `sbc_raft_leader`, `sbc_claims_total{outcome="won"}`.
pub fn value(node: u8, name: &str) -> u64 {
    let page = page(node);
    let found = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok());
    found.unwrap_or(0)
}

/// The sum over all three nodes.
pub fn sum(name: &str) -> u64 {
    (0..3).map(|node| value(node, name)).sum()
}
