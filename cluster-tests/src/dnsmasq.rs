//! dnsmasq, a real DNS server, with the records of a test.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::process::Command;
use std::time::Duration;

use crate::command::{self, Running};
use crate::wait;

/// Where it serves; clusters are told by `--set dns.servers=["…"]`.
pub const DNS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 2, 53)), 5353);
/// Time to live of all records.
pub const TTL: Duration = Duration::from_secs(1);
/// How long it may take to start and to end.
const LIMIT: Duration = Duration::from_secs(10);

/// A running server for the names under `test.`; dropped: gone, and its port free.
#[derive(Debug)]
pub struct Dnsmasq(Option<Running>);

impl Dnsmasq {
    /// Starts it with records in the words of its command line, without the dashes: `host-record=a.test,127.0.2.1`,
    /// `srv-host=_sip._udp.b.test,a.test,5060,10,100`, `naptr-record=b.test,20,10,s,SIP+D2U,,_sip._udp.b.test`.
    ///
    /// # Panics
    /// There is no dnsmasq, or it does not start.
    pub fn start<S: AsRef<str>>(records: impl IntoIterator<Item = S>) -> Dnsmasq {
        let mut dnsmasq = Command::new("dnsmasq");
        dnsmasq.args(["--keep-in-foreground", "--conf-file=/dev/null", "--pid-file=", "--no-resolv", "--no-hosts"]);
        dnsmasq.args(["--local=/test/", "--bind-interfaces", "--except-interface=none"]);
        dnsmasq.arg(format!("--listen-address={}", DNS.ip())).arg(format!("--port={}", DNS.port()));
        dnsmasq.arg(format!("--local-ttl={}", TTL.as_secs()));
        dnsmasq.args(records.into_iter().map(|r| format!("--{}", r.as_ref())));
        let mut running = command::spawn(&mut dnsmasq).expect("dnsmasq is there: deploy/setup.sh test installs it");
        wait::until("dnsmasq serves", LIMIT, || {
            assert!(running.is_running(), "{}", running.stderr());
            UdpSocket::bind(DNS).map_or(Ok(()), |_| Err("the port is free"))
        });
        Dnsmasq(Some(running))
    }

    /// Ends it and takes its port, on which then nobody answers.
    ///
    /// # Panics
    /// The port does not become free.
    pub fn hang(mut self) -> UdpSocket {
        self.0 = None;
        wait::until("the port is free", LIMIT, || UdpSocket::bind(DNS))
    }
}

impl Drop for Dnsmasq {
    fn drop(&mut self) {
        if self.0.take().is_some() {
            // The next test's server must find it free.
            wait::until("the port is free", LIMIT, || UdpSocket::bind(DNS).map(drop));
        }
    }
}
