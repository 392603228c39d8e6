//! A node whose disk is full leaves the log, not its calls; it joins again when there is room.

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use cluster_tests::cluster::list;
use cluster_tests::message::{Dialog, Message, sdp};
use cluster_tests::phone::Phone;
use cluster_tests::sites::{LIMIT, Sites};
use cluster_tests::{command, wait};
use serde_json::Value;

/// The node with the small disk.
const NODE: usize = 1;
const AT: &str = "198.18.0.12:5060";
const PSAP: &str = "198.18.1.2:5060";
/// Low when 6 MiB are free, tried again with 3.
const SIZE: &str = "64m";
/// Calls whose records fill more than a page by far.
const FEW: usize = 40;

/// A small disk at a directory; gone with the value.
struct Disk(PathBuf);

impl Disk {
    fn mount(at: &Path) -> Disk {
        fs::create_dir_all(at).expect("the temporary directory is writable");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={SIZE}"), "tmpfs"]).arg(at);
        command::run(&mut mount, LIMIT).unwrap_or_else(|e| panic!("{e}")).ok("mount (needs root)");
        Disk(at.to_owned())
    }

    /// Fills it until `left` octets are free.
    fn fill(&self, left: u64) {
        let mut file = fs::File::create(self.0.join("filler")).expect("there is room for a name");
        let free = || {
            let stat = rustix::fs::statvfs(&self.0).expect("it is mounted");
            stat.f_bavail * stat.f_frsize
        };
        while free() > left {
            let piece = usize::try_from((free() - left).min(1 << 20)).expect("a megabyte");
            if file.write_all(&vec![1; piece]).is_err() {
                return;
            }
        }
    }

    fn make_room(&self) {
        fs::remove_file(self.0.join("filler")).expect("it was filled");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = command::run(Command::new("umount").arg("-l").arg(&self.0), LIMIT);
        let _ = fs::remove_dir_all(self.0.parent().unwrap_or(&self.0));
    }
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

struct Phones {
    caller: Phone,
    psap: Phone,
}

impl Phones {
    /// A call at the node, answered and acknowledged.
    fn call(&mut self) -> Dialog {
        let invite = Message::invite("sip:112@198.18.0.12", self.caller.at(), "UDP");
        self.caller.send(&invite, address(AT));
        let (asked, from) = self.psap.expect_request("INVITE");
        let ok = asked.response(200, "OK", "psap").with("Contact", &format!("<sip:psap@{PSAP}>"));
        self.psap.send(&ok.with_sdp(sdp(address("198.18.1.2:42000"), 1, "sendrecv")), from);
        let (ok, _) = self.caller.expect_response(200, "INVITE");
        let dialog = Dialog::of_caller(&invite, &ok, self.caller.at(), "UDP");
        self.caller.send(&dialog.ack(1), address(AT));
        self.psap.expect_request("ACK");
        dialog
    }

    fn hang_up(&mut self, mut dialog: Dialog) {
        self.caller.send(&dialog.request("BYE"), address(AT));
        let (bye, from) = self.psap.expect_request("BYE");
        self.psap.send(&bye.response(200, "OK", ""), from);
        self.caller.expect_response(200, "BYE");
    }
}

/// What the node says of itself.
fn node(sites: &Sites) -> Value {
    let nodes = list(&sites.ctl_of(NODE, &["node", "list"]).unwrap_or_default(), "nodes");
    nodes.into_iter().find(|n| n["name"] == "node-b").unwrap_or_default()
}

fn until(sites: &Sites, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    wait::until(what, LIMIT, || {
        let node = node(sites);
        if wanted(&node) { Ok(node) } else { Err((node, sites.logs())) }
    })
}

fn has_alarm(node: &Value, kind: &str) -> bool {
    list(node, "alarms").iter().any(|alarm| alarm["kind"] == kind)
}

fn failed(node: &Value) -> bool {
    node["reachable"] == true && node["health"]["storage"] != true && has_alarm(node, "disk-fault")
}

fn well(node: &Value) -> bool {
    node["health"]["storage"] == true && node["health"]["raftCaughtUp"] == true && !has_alarm(node, "disk-fault")
}

/// The others and this node have the same records, `wanted` of them.
fn records(sites: &Sites, wanted: usize) {
    for n in 0..3 {
        wait::until_equal("the records", LIMIT, &wanted, || {
            list(&sites.ctl_of(n, &["cdr", "list"]).unwrap_or_default(), "cdrs").len()
        });
    }
}

#[test]
fn a_full_disk_ends_no_call_and_the_node_joins_again() {
    let mut disk = None;
    let mut sites = Sites::start(|dir| disk = Some(Disk::mount(&dir.join("node-b"))));
    let disk = disk.expect("mounted above");
    let mut phones = sites.hub.inside(|| Phones { caller: Phone::bind("198.18.0.2:0"), psap: Phone::bind(PSAP) });
    let before = until(&sites, "all is well", well);

    // Warned before.
    disk.fill(4 << 20);
    until(&sites, "the disk is low", |node| has_alarm(node, "disk-low") && node["health"]["raftCaughtUp"] == true);

    let lasting = phones.call();
    disk.fill(0);
    // Its record cannot be written, the call can be made; a few, as the last page of the log's file has room yet.
    let next = phones.call();
    let mut more = 0;
    while !failed(&node(&sites)) {
        assert!(more < FEW, "the log takes everything: {}", sites.logs());
        let one = phones.call();
        phones.hang_up(one);
        more += 1;
    }
    assert!(sites.node(NODE).is_running());
    phones.hang_up(next);
    let third = phones.call();
    phones.hang_up(third);
    assert!(sites.ctl_of(0, &["status"]).is_some_and(|s| s["quorumOk"] == true), "the others go on");
    disk.make_room();
    let again = until(&sites, "it takes part again", well);
    assert_eq!(again["incarnation"], before["incarnation"], "it is the same process");
    phones.hang_up(lasting);
    records(&sites, 3 + more);

    // It starts with a full disk too.
    disk.fill(0);
    sites.kill(NODE);
    sites.start_node(NODE, &[]);
    let started = until(&sites, "it serves without the log", failed);
    assert!(started["incarnation"].as_u64() > before["incarnation"].as_u64(), "{started}");
    let fourth = phones.call();
    phones.hang_up(fourth);
    // And again: no number is given twice.
    sites.kill(NODE);
    sites.start_node(NODE, &[]);
    let newer = until(&sites, "it serves without the log", failed);
    assert!(newer["incarnation"].as_u64() > started["incarnation"].as_u64(), "{newer}");
    let fifth = phones.call();
    disk.make_room();
    until(&sites, "it takes part again", well);
    phones.hang_up(fifth);
    records(&sites, 4 + more);
}
