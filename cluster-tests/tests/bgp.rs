//! A node that speaks BGP itself, and a real router (BIRD 2), each on a host of its own: what the router has while the node serves, is
//! withdrawn, stops, hangs and dies.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use cluster_tests::bird::Bird;
use cluster_tests::command::{self, Running, scratch, spawn};
use cluster_tests::netns::Namespace;
use cluster_tests::{process, wait};
use rustix::process::{Pid, Signal, kill_process};

/// Longest wait for a step on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);
/// Of the session: what is seen sooner was not seen by it.
const HOLD: Duration = Duration::from_secs(9);
const ANYCAST: [&str; 2] = ["198.18.112.112", "2001:db8:a::53"];
const PREFIXES: [&str; 2] = ["198.18.112.112/32", "2001:db8:a::53/128"];
const ROUTER: [&str; 2] = ["198.51.100.1", "2001:db8:f:1::1"];
const NODE: [&str; 2] = ["198.51.100.2", "2001:db8:f:1::2"];

/// How node and router speak.
#[derive(Clone, Copy)]
struct Setup {
    ipv6: bool,
    key: Option<&'static str>,
    gtsm: bool,
    bfd: bool,
}

impl Setup {
    fn family(self) -> usize {
        usize::from(self.ipv6)
    }

    fn bird(self) -> String {
        let family = self.family();
        let mut session = String::new();
        if let Some(key) = self.key {
            session += &format!("  password \"{key}\";\n");
        }
        if self.gtsm {
            session += "  ttl security on;\n";
        }
        if self.bfd {
            session += "  bfd on;\n";
        }
        // Slower than is meant for operation: a busy machine must not look like a dead node.
        let bfd = "protocol bfd { interface \"*\" { min rx interval 200 ms; min tx interval 200 ms; multiplier 5; }; }\n";
        format!(
            "log stderr all;\nrouter id 198.51.100.1;\nprotocol device {{}}\n{}\
             protocol static {{ ipv4; route 198.18.200.0/24 blackhole; }}\n\
             protocol bgp node {{\n  local {} as 65000;\n  neighbor {} as 65001;\n  hold time 9;\n  connect retry time 1;\n  \
             connect delay time 1;\n  error wait time 1,2;\n  passive on;\n{session}  \
             ipv4 {{ import all; export where source = RTS_STATIC; next hop address 198.51.100.1; }};\n  \
             ipv6 {{ import all; export none; }};\n}}\n",
            if self.bfd { bfd } else { "" },
            ROUTER[family],
            NODE[family]
        )
    }

    fn node(self, key_file: &str) -> String {
        let (family, other) = (self.family(), 1 - self.family());
        let mut text = format!(
            "driver = \"bgp\"\nannounce_at_start = true\nup_after_ms = 0\n[announce.bgp]\nas = 65001\nhold_time_s = {}\n\
             connect_retry_ms = 500\nprepend = 2\ncommunities = [\"65001:100\", \"no-export\"]\nlarge_communities = [\"65001:7:8\"]\n\
             [[announce.bgp.neighbors]]\naddress = \"{}\"\nas = 65000\nlocal_address = \"{}\"\nnext_hop = [\"{}\"]\nttl_security = {}\n",
            HOLD.as_secs(),
            ROUTER[family],
            NODE[family],
            NODE[other],
            self.gtsm
        );
        if self.key.is_some() {
            text += &format!("password_file = \"{key_file}\"\n");
        }
        if self.bfd {
            text += "bfd = true\nbfd_interval_ms = 200\nbfd_multiplier = 5\n";
        }
        text
    }
}

/// Gone with the value.
struct Lab {
    node: Option<Running>,
    bird: Bird,
    dir: PathBuf,
    host: Namespace,
    _router: Namespace,
}

impl Lab {
    fn start(setup: Setup) -> Lab {
        Lab::start_between(setup, setup)
    }

    /// A node and a router that may have been told differently.
    fn start_between(setup: Setup, router_has: Setup) -> Lab {
        let (router, host) = (Namespace::new("sbct-bgp-r"), Namespace::new("sbct-bgp-n"));
        let with = |ip: [&str; 2]| [format!("{}/30", ip[0]), format!("{}/64", ip[1])];
        host.link("net0", &with(NODE), &router, "net0", &with(ROUTER));
        host.address("lo", &["198.18.112.112/32", "2001:db8:a::53/128", "198.18.1.11/32"]);
        let bird = Bird::start_on(&router, &router_has.bird());
        let (dir, bin) = (scratch("bgp"), process::bin_dir());
        let path = dir.to_str().expect("scratch paths are UTF-8");
        let mut files = Command::new(process::package_file("..").join("deploy/cluster-files.sh"));
        files.arg(bin.join("sbcctl")).arg(&dir);
        files.arg(format!("node-a={}+{},198.18.1.11,{}", NODE[0], NODE[1], NODE[0]));
        files.env("ANYCAST", ANYCAST.join("+")).env("PSAP", "198.18.1.2:5060").env("AT", path).env("DATA", path);
        command::run(&mut files, LIMIT).unwrap_or_else(|e| panic!("{e}")).ok("deploy/cluster-files.sh");
        let (toml, key) = (dir.join("node-a.toml"), dir.join("bgp.key"));
        // cluster.key has the mode that a secret needs: its copy has it, too.
        std::fs::copy(dir.join("cluster.key"), &key).expect("both are ours");
        std::fs::write(&key, format!("{}\n", setup.key.unwrap_or("none"))).expect("it is ours");
        let text = std::fs::read_to_string(&toml).expect("it was written");
        let (head, tail) = text.split_once("[announce]\n").expect("it has one");
        let (_, tail) = tail.split_once("[media]").expect("it has one");
        let announce = setup.node(key.to_str().expect("UTF-8"));
        std::fs::write(&toml, format!("{head}[announce]\n{announce}\n[media]{tail}")).expect("it is ours");
        let mut lab = Lab { node: None, bird, dir, host, _router: router };
        lab.start_node(&["--init"]);
        lab
    }

    fn start_node(&mut self, arguments: &[&str]) {
        let sbcd = process::bin_dir().join("sbcd");
        let mut command = self.host.command(sbcd.to_str().expect("the build is in a UTF-8 path"));
        command.arg("--config").arg(self.dir.join("node-a.toml")).args(arguments);
        self.node = Some(spawn(&mut command).unwrap_or_else(|e| panic!("{e}")));
    }

    fn signal(&self, signal: Signal) {
        let node = self.node.as_ref().expect("it was started");
        let pid = i32::try_from(node.pid()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, signal).expect("it runs");
    }

    fn log(&self) -> String {
        self.node.as_ref().map(|n| format!("{}{}", n.stdout(), n.stderr())).unwrap_or_default()
    }

    fn ctl(&self, arguments: &[&str]) {
        let file = |name: &str| self.dir.join("pki").join(name).to_string_lossy().into_owned();
        wait::until(&format!("sbcctl {}", arguments.join(" ")), LIMIT, || {
            let mut sbcctl = self.host.command(process::bin_dir().join("sbcctl").to_str().expect("UTF-8"));
            sbcctl.args(["--ca", &file("ca.crt"), "--cert", &file("ops.crt"), "--key", &file("ops.key")]);
            sbcctl.args(["--endpoint", &format!("{}:7443", NODE[0])]).args(arguments);
            let done = command::run(&mut sbcctl, LIMIT).unwrap_or_else(|e| panic!("{e}"));
            if done.code == Some(0) { Ok(()) } else { Err(format!("{}{}", done.stdout, done.stderr)) }
        });
    }

    /// The sum of a metric over the routers.
    fn metric(&self, name: &str) -> u64 {
        let page = self.host.inside(|| {
            let mut stream = TcpStream::connect((NODE[0], 9464)).ok()?;
            stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n").ok()?;
            let mut page = String::new();
            stream.read_to_string(&mut page).ok()?;
            Some(page)
        });
        let page = page.unwrap_or_default();
        page.lines().filter(|l| l.starts_with(name)).filter_map(|l| l.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    }

    /// Until the router has exactly these.
    fn router_has(&self, wanted: [bool; 2], limit: Duration, when: &str) {
        wait::until(&format!("{when}: the router has {wanted:?} of {PREFIXES:?}"), limit, || {
            let has = PREFIXES.map(|p| !self.bird.route(p).is_empty());
            if has == wanted { Ok(()) } else { Err((has, self.bird.ask("show protocols all node"), self.log())) }
        });
    }

    fn is_up(&self, when: &str) -> String {
        wait::until(&format!("{when}: the session is Established"), LIMIT, || {
            self.bird.established("node").ok_or_else(|| (self.bird.log(), self.log()))
        })
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- node\n{}", self.log());
        }
        self.node = None;
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// One after the other: both use the same namespaces.
static ONE: std::sync::Mutex<()> = std::sync::Mutex::new(());

#[test]
fn the_router_has_the_prefixes_while_the_node_serves_and_the_session_outlives_a_withdrawal() {
    let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut lab = Lab::start(Setup { ipv6: false, key: None, gtsm: false, bfd: false });
    lab.router_has([true; 2], LIMIT, "at the start");
    for (prefix, next_hop) in PREFIXES.into_iter().zip(NODE) {
        let route = lab.bird.route(prefix);
        assert!(route.contains("BGP.as_path: 65001 65001 65001\n"), "{route}");
        assert!(route.contains(&format!("BGP.next_hop: {next_hop}")), "{route}");
        assert!(route.contains("(65001,100)") && route.contains("(65535,65281)"), "{route}");
        assert!(route.contains("(65001, 7, 8)"), "{route}");
    }
    wait::until("what the router sends is counted", LIMIT, || match lab.metric("sbc_bgp_updates_dropped_total") {
        0 => Err(lab.log()),
        n => Ok(n),
    });
    wait::until_equal("the metrics tell of it", LIMIT, &(1, 2), || {
        (lab.metric("sbc_bgp_session_up{"), lab.metric("sbc_bgp_prefixes_announced{"))
    });

    let since = lab.is_up("before the withdrawal");
    lab.ctl(&["node", "withdraw", "node-a", "--yes", "--force"]);
    lab.router_has([false; 2], LIMIT, "withdrawn");
    assert_eq!(lab.is_up("withdrawn"), since, "the same session");
    // The router's session starts again: what is withdrawn stays so.
    lab.bird.ask("restart node");
    wait::until("a second session", LIMIT, || match lab.metric("sbc_bgp_sessions_total{") {
        2.. => Ok(()),
        n => Err((n, lab.log())),
    });
    lab.is_up("after the router's restart of it");
    std::thread::sleep(Duration::from_secs(1)); // Nothing comes: that takes a while to see.
    lab.router_has([false; 2], LIMIT, "withdrawn, and a new session");
    lab.ctl(&["node", "announce", "node-a"]);
    lab.router_has([true; 2], LIMIT, "announced by order");

    // The families are decided apart.
    let since = lab.is_up("before an address goes");
    lab.host.ip(&["addr", "del", "2001:db8:a::53/128", "dev", "lo"]);
    lab.router_has([true, false], LIMIT, "the IPv6 address is gone");
    lab.host.ip(&["addr", "add", "2001:db8:a::53/128", "dev", "lo", "nodad"]);
    lab.router_has([true; 2], LIMIT, "it is back");
    assert_eq!(lab.is_up("after all that"), since, "the same session");

    lab.signal(Signal::TERM);
    lab.router_has([false; 2], LIMIT, "told to stop");
    wait::until("it ends", LIMIT, || if lab.node.as_mut().is_some_and(Running::is_running) { Err(()) } else { Ok(()) });
    let said = lab.bird.log();
    assert!(said.contains("node-a stops"), "the words of RFC 8203: {said}");
    let log = lab.log();
    let place = |what: &str| log.rfind(what).unwrap_or_else(|| panic!("{what}: {log}"));
    assert!(place("\"withdrawn\"") < place("has ended"), "first the routes, then the session");
}

/// Kill -9 is seen at once, for the connection ends; a process that hangs is seen by BFD; with MD5 and GTSM, over IPv4 and over IPv6.
#[test]
fn a_node_that_dies_or_hangs_loses_its_routes() {
    let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    for ipv6 in [false, true] {
        let setup = Setup { ipv6, key: Some("a key of both"), gtsm: true, bfd: true };
        let mut lab = Lab::start(setup);
        lab.router_has([true; 2], LIMIT, "at the start");
        wait::until("BFD is up", LIMIT, || match lab.metric("sbc_bfd_up{") {
            1 => Ok(()),
            _ => Err((lab.bird.ask("show bfd sessions"), lab.log())),
        });
        let before = Instant::now();
        lab.signal(Signal::STOP);
        lab.router_has([false; 2], HOLD - Duration::from_secs(3), "it hangs");
        let took = before.elapsed();
        lab.signal(Signal::CONT);
        lab.router_has([true; 2], LIMIT, "it goes on");
        let again = Instant::now();
        lab.node = None; // Kill -9.
        lab.router_has([false; 2], Duration::from_secs(3), "it is dead");
        println!("ipv6 {ipv6}: stopped {took:?}, killed {:?}", again.elapsed());
        lab.start_node(&[]);
        lab.router_has([true; 2], LIMIT, "it has started again");
    }
}

#[test]
fn without_the_key_or_the_ttl_of_both_there_is_no_session() {
    let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let good = Setup { ipv6: true, key: Some("a key of both"), gtsm: true, bfd: false };
    for (what, router) in [
        ("another key", Setup { key: Some("another"), ..good }),
        ("no key", Setup { key: None, ..good }),
        ("no GTSM", Setup { gtsm: false, ..good }),
    ] {
        let lab = Lab::start_between(good, router);
        wait::until("the node serves", LIMIT, || if lab.log().contains("\"serving\"") { Ok(()) } else { Err(lab.log()) });
        // Eight tries of the node, and more of the kernel.
        let end = Instant::now() + Duration::from_secs(4);
        while Instant::now() < end {
            assert_eq!(lab.bird.established("node"), None, "{what}");
            std::thread::sleep(Duration::from_millis(200));
        }
        assert_eq!(lab.metric("sbc_bgp_sessions_total{"), 0, "{what}");
        if router.gtsm {
            lab.bird.configure(&good.bird());
            lab.router_has([true; 2], LIMIT, "the right key");
        }
    }
}
