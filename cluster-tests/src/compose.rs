//! deploy/compose.yaml, driven as a person would drive it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::command::{self, Finished};
use crate::{process, wait};

/// Longest single docker command: ten containers started on a busy machine.
const LIMIT: Duration = Duration::from_secs(180);
/// From `up` to a cluster with a leader.
const READY: Duration = Duration::from_secs(60);
/// Name of the project, so that nothing of a person's own is touched.
const PROJECT: &str = "sbc-tests";

/// The three sites, running; dropped: gone with networks and volumes.
#[derive(Debug)]
pub struct Compose {
    files: PathBuf,
}

fn deploy(name: &str) -> PathBuf {
    process::package_file("..").join("deploy").join(name)
}

fn run(command: &mut Command) -> Finished {
    command::run(command, LIMIT).unwrap_or_else(|e| panic!("{e}"))
}

fn docker_compose() -> Command {
    let v1 = command::run(Command::new("docker-compose").arg("version"), LIMIT).is_ok_and(|d| d.code == Some(0));
    if v1 {
        return Command::new("docker-compose");
    }
    let mut command = Command::new("docker");
    command.arg("compose");
    command
}

impl Compose {
    /// Builds the images from this build's binaries, writes the nodes' files and starts everything.
    ///
    /// # Panics
    /// There is no docker (with how to get it), or something does not start.
    pub fn up() -> Compose {
        let docker = command::run(Command::new("docker").arg("info"), LIMIT);
        assert!(
            docker.is_ok_and(|d| d.code == Some(0)),
            "no docker: {}",
            run(Command::new(deploy("setup.sh")).arg("missing-docker")).stdout
        );
        let bin = process::bin_dir();
        run(Command::new(deploy("images.sh")).arg(&bin)).ok("deploy/images.sh");
        let files = command::scratch("compose");
        let compose = Compose { files };
        compose.down();
        run(Command::new(deploy("cluster-files.sh")).arg(bin.join("sbcctl")).arg(&compose.files)).ok("deploy/cluster-files.sh");
        compose.compose(&["up", "-d"]).ok("docker-compose up");
        wait::until("the cluster has a leader and three members", READY, || {
            let done = compose.compose(&["run", "--rm", "-T", "ops", "status", "-o", "json"]);
            let status: Value = serde_json::from_str(&done.stdout).unwrap_or_default();
            let text = status.to_string();
            if done.code == Some(0) && text.contains("\"quorumOk\":true") && text.matches("\"reachable\":true").count() == 3 {
                Ok(())
            } else {
                Err((text, done.stderr))
            }
        });
        compose
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = docker_compose();
        command.args(["-p", PROJECT, "-f"]).arg(deploy("compose.yaml")).args(arguments).env("SBC_FILES", &self.files);
        command
    }

    /// `docker-compose` on the project, whatever it says.
    ///
    /// # Panics
    /// It hangs.
    pub fn compose(&self, arguments: &[&str]) -> Finished {
        run(&mut self.command(arguments))
    }

    /// A command in one of the tool containers.
    ///
    /// # Panics
    /// It fails.
    #[track_caller]
    pub fn exec(&self, service: &str, arguments: &[&str]) -> Finished {
        self.compose(&[&["exec", "-T", service], arguments].concat()).ok(&format!("in {service}: {arguments:?}"))
    }

    /// `sbcctl … -o json` inside, at the node of one site.
    ///
    /// # Panics
    /// It fails.
    #[track_caller]
    pub fn ctl(&self, site: char, arguments: &[&str]) -> Value {
        let endpoint = format!("{}:7443", address(site));
        let all = [&["run", "--rm", "-T", "ops"], arguments, &["-o", "json", "--endpoint", &endpoint]].concat();
        let done = self.compose(&all).ok(&format!("sbcctl {arguments:?} at {site}"));
        serde_json::from_str(&done.stdout).unwrap_or_else(|e| panic!("no JSON ({e}): {}", done.stdout))
    }

    /// Points the anycast route at a site.
    pub fn route_to(&self, site: char) {
        self.exec("transit", &["ip", "route", "replace", "198.18.112.112", "via", address(site)]);
    }

    /// Calls by sipp to the anycast address, each `milliseconds` long; all must succeed.
    ///
    /// # Panics
    /// One does not.
    #[track_caller]
    pub fn calls(&self, count: u32, milliseconds: u32, scenario: &str) {
        let (count, milliseconds) = (count.to_string(), milliseconds.to_string());
        let scenario = format!("/scenarios/{scenario}.xml");
        let uri = "sip:112@198.18.112.112:5060";
        let line = [
            "sipp",
            "198.18.112.112:5060",
            "-sf",
            &scenario,
            "-i",
            "198.18.2.2",
            "-key",
            "ruri",
            uri,
            "-m",
            &count,
            "-d",
            &milliseconds,
        ];
        let end = ["-r", "5", "-nostdin", "-timeout", "60s", "-timeout_error", "-trace_err", "-error_file", "/dev/stderr"];
        let done = self.exec("caller", &[&line[..], &end].concat());
        assert!(
            done.stdout.contains("Successful call") && !done.stdout.contains("Aborted"),
            "{}{}\n{}",
            done.stdout,
            done.stderr,
            self.logs()
        );
    }

    /// What the nodes say.
    pub fn logs(&self) -> String {
        self.compose(&["logs", "--tail", "40", "node-a", "node-b", "node-c", "psap"]).stdout
    }

    fn down(&self) {
        let _ = command::run(&mut self.command(&["--profile", "ops", "down", "-v", "--remove-orphans", "-t", "1"]), LIMIT);
    }
}

impl Drop for Compose {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- logs of the containers\n{}", self.logs());
        }
        self.down();
        let _ = std::fs::remove_dir_all(Path::new(&self.files));
    }
}

/// Unicast address of a site.
///
/// # Panics
/// There is no such site.
pub fn address(site: char) -> &'static str {
    match site {
        'a' => "198.18.2.18",
        'b' => "198.18.2.34",
        'c' => "198.18.2.50",
        other => panic!("no site {other}"),
    }
}
