//! Network namespaces as hosts, on 198.18.0.0/15, gone with the value.

use std::os::fd::AsFd;
use std::process::Command;
use std::time::Duration;

use rustix::thread::LinkNameSpaceType;

use crate::command;

/// Longest `ip` command.
const IP_LIMIT: Duration = Duration::from_secs(10);

/// A host of the test's own.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

fn ip(arguments: &[&str]) {
    command::run(Command::new("ip").args(arguments), IP_LIMIT)
        .unwrap_or_else(|e| panic!("{e}"))
        .ok(&format!("ip {} (needs root)", arguments.join(" ")));
}

impl Namespace {
    /// Makes one, with its loopback up; one that a killed run left behind is removed first.
    ///
    /// # Panics
    /// No right to.
    pub fn new(name: &str) -> Namespace {
        let left_over = Namespace { name: name.to_owned() };
        drop(left_over);
        ip(&["netns", "add", name]);
        let namespace = Namespace { name: name.to_owned() };
        namespace.ip(&["link", "set", "lo", "up"]);
        namespace
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `ip` in it.
    ///
    /// # Panics
    /// It fails.
    pub fn ip(&self, arguments: &[&str]) {
        ip(&[&["-n", &self.name], arguments].concat());
    }

    /// A command that will run in it.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    /// Packets that a device of it has received.
    ///
    /// # Panics
    /// There is no such device.
    pub fn received(&self, device: &str) -> u64 {
        let mut show = Command::new("ip");
        show.args(["-n", &self.name, "-s", "-j", "link", "show", device]);
        let shown = command::run(&mut show, IP_LIMIT).unwrap_or_else(|e| panic!("{e}")).ok("ip -s link");
        let links: serde_json::Value = serde_json::from_str(&shown.stdout).expect("ip -j prints JSON");
        links[0]["stats64"]["rx"]["packets"].as_u64().expect("a count")
    }

    /// A cable to another host, with an address (and prefix length) at each end.
    ///
    /// # Panics
    /// It fails.
    pub fn link(
        &self,
        device: &str,
        addresses: &[impl AsRef<str>],
        other: &Namespace,
        other_device: &str,
        other_addresses: &[impl AsRef<str>],
    ) {
        ip(&["link", "add", device, "netns", &self.name, "type", "veth", "peer", "name", other_device, "netns", &other.name]);
        self.address(device, addresses);
        other.address(other_device, other_addresses);
    }

    /// Gives a device its addresses, and brings it up.
    ///
    /// # Panics
    /// It fails.
    pub fn address(&self, device: &str, addresses: &[impl AsRef<str>]) {
        for address in addresses.iter().map(AsRef::as_ref) {
            // Nobody else can have an IPv6 address here: it need not be looked for before it may be used (RFC 4862 §5.4).
            let no_detection: &[&str] = if address.contains(':') { &["nodad"] } else { &[] };
            self.ip(&[&["addr", "add", address, "dev", device], no_detection].concat());
        }
        self.ip(&["link", "set", device, "up"]);
    }

    /// Does something in it that lasts beyond: what is opened there (a socket) stays there.
    ///
    /// # Panics
    /// No right to.
    pub fn inside<T: Send>(&self, what: impl FnOnce() -> T + Send) -> T {
        let entered = || {
            let file = std::fs::File::open(std::path::Path::new("/run/netns").join(&self.name)).expect("it was made");
            // Of this thread only, which ends here.
            rustix::thread::move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).expect("needs root");
            what()
        };
        std::thread::scope(|scope| scope.spawn(entered).join()).unwrap_or_else(|e| std::panic::resume_unwind(e))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // What still runs inside would keep it alive, unseen.
        let script = "ip netns pids \"$0\" 2>/dev/null | xargs -r kill -9; ip netns del \"$0\" 2>/dev/null; true";
        let _ = command::run(Command::new("sh").args(["-c", script, &self.name]), IP_LIMIT);
    }
}
