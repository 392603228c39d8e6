//! sipp with the scenarios of this package, a hard end and a report.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::command::{self, Running};
use crate::ladder::{self, Step};
use crate::netns::Namespace;
use crate::process;

/// One run of sipp.
#[derive(Debug)]
pub struct Sipp {
    command: Command,
    name: String,
    errors: PathBuf,
    stats: PathBuf,
    trace: Option<PathBuf>,
    limit: Duration,
}

/// A run under way.
#[derive(Debug)]
pub struct SippRun {
    running: Running,
    name: String,
    errors: PathBuf,
    stats: PathBuf,
    trace: Option<PathBuf>,
    limit: Duration,
}

/// What sipp counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Calls that ran the scenario to its end.
    pub successful: u64,
    /// Calls that did not.
    pub failed: u64,
    /// Messages sent again for lack of an answer.
    pub retransmissions: u64,
    /// What went over the wire, where the run was traced.
    pub wire: Vec<Step>,
}

impl Sipp {
    /// A scenario of `scenarios/`, from the address `local`.
    pub fn scenario(name: &str, local: IpAddr, limit: Duration) -> Sipp {
        let mut sipp = Sipp::new(name, local, limit);
        sipp.command.arg("-sf").arg(process::package_file("scenarios").join(format!("{name}.xml")));
        sipp
    }

    /// One of sipp's own scenarios (`uac`, `uas`).
    pub fn built_in(name: &str, local: IpAddr, limit: Duration) -> Sipp {
        let mut sipp = Sipp::new(name, local, limit);
        sipp.command.args(["-sn", name]);
        sipp
    }

    fn new(name: &str, local: IpAddr, limit: Duration) -> Sipp {
        let (errors, stats) = (command::scratch("sipp-errors"), command::scratch("sipp.csv"));
        let mut command = Command::new("sipp");
        command.args(["-i", &local.to_string(), "-nostdin", "-trace_err", "-trace_stat", "-fd", "1"]);
        command.arg("-error_file").arg(&errors).arg("-stf").arg(&stats);
        command.args(["-timeout", &format!("{}s", limit.as_secs()), "-timeout_error"]);
        command.current_dir(std::env::temp_dir());
        Sipp { command, name: name.to_owned(), errors, stats, trace: None, limit }
    }

    /// Keeps a list of its messages for the report.
    #[must_use]
    pub fn traced(mut self) -> Sipp {
        let trace = command::scratch("sipp-messages");
        self.command.arg("-trace_shortmsg").arg("-shortmessage_file").arg(&trace);
        self.trace = Some(trace);
        self
    }

    /// More arguments of sipp.
    #[must_use]
    pub fn args(mut self, args: &[&str]) -> Sipp {
        self.command.args(args);
        self
    }

    /// Runs it on a host of the test's own.
    #[must_use]
    pub fn on(mut self, host: &Namespace) -> Sipp {
        let mut there = host.command("sipp");
        there.args(self.command.get_args()).current_dir(std::env::temp_dir());
        self.command = there;
        self
    }

    /// Calls this address.
    #[must_use]
    pub fn to(self, remote: SocketAddr) -> Sipp {
        self.args(&[&remote.to_string()])
    }

    /// Starts it.
    ///
    /// # Panics
    /// There is no sipp.
    pub fn start(mut self) -> SippRun {
        let running = command::spawn(&mut self.command).unwrap_or_else(|e| panic!("{e}"));
        SippRun { running, name: self.name, errors: self.errors, stats: self.stats, trace: self.trace, limit: self.limit }
    }

    /// Starts it as the called side and returns when its port is bound.
    ///
    /// # Panics
    /// It does not bind.
    pub fn serve(self, at: SocketAddr) -> SippRun {
        let mut run = self.args(&["-p", &at.port().to_string()]).start();
        crate::wait::until(&format!("sipp {} bound at {at}", run.name), Duration::from_secs(10), || {
            if !run.running.is_running() {
                return Err(format!("it ended: {}", run.running.stderr()));
            }
            match std::net::UdpSocket::bind(at) {
                Err(e) if e.kind() == std::io::ErrorKind::AddrInUse => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
        run
    }
}

impl SippRun {
    /// True until it ends.
    pub fn is_running(&mut self) -> bool {
        self.running.is_running()
    }

    /// Waits for its end; every call must have succeeded.
    ///
    /// # Panics
    /// One did not, or sipp hangs; with its complaints.
    #[track_caller]
    pub fn succeed(self) -> Report {
        let (code, report, complaints) = self.end();
        assert_eq!((code, report.failed), (Some(0), 0), "sipp: {report:?}\n{complaints}");
        report
    }

    /// Waits for its end: exit code, counts, complaints.
    ///
    /// # Panics
    /// It hangs beyond its own limit.
    pub fn end(self) -> (Option<i32>, Report, String) {
        let SippRun { running, name, errors, stats, trace, limit } = self;
        // sipp ends itself at `limit`; the margin is for its own shutdown.
        let done = running.finish(limit + Duration::from_secs(10)).unwrap_or_else(|e| panic!("{e}"));
        let mut report = report(&fs::read_to_string(&stats).unwrap_or_default());
        if let Some(trace) = trace {
            report.wire = ladder::of_sipp(&fs::read_to_string(&trace).unwrap_or_default());
            let _ = fs::remove_file(trace);
        }
        let text = fs::read_to_string(&errors).unwrap_or_default();
        let first: String = text.lines().take(60).collect::<Vec<_>>().join("\n");
        let _ = fs::remove_file(stats);
        let _ = fs::remove_file(errors);
        (done.code, report, format!("{name} ended with {:?} after {:?}\n{first}\n{}", done.code, done.took, done.stderr))
    }
}

/// The last line of sipp's statistics; columns ending in `(C)` are totals.
fn report(csv: &str) -> Report {
    let mut lines = csv.lines().filter(|l| !l.trim().is_empty());
    let (Some(head), Some(last)) = (lines.next(), lines.next_back()) else { return Report::default() };
    let value = |name: &str| {
        let column = head.split(';').position(|c| c == name);
        column.and_then(|i| last.split(';').nth(i)?.trim().parse().ok()).unwrap_or(0)
    };
    Report {
        successful: value("SuccessfulCall(C)"),
        failed: value("FailedCall(C)"),
        retransmissions: value("Retransmissions(C)"),
        wire: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_counts() {
        let csv = "StartTime;SuccessfulCall(C);FailedCall(C);Retransmissions(C);\n1;0;0;0;\n2;9;1;3;\n";
        assert_eq!(report(csv), Report { successful: 9, failed: 1, retransmissions: 3, wire: Vec::new() });
        assert_eq!(report(""), Report::default());
    }

    /// Each scenario says which section it is after, and a test plays it.
    #[test]
    fn every_scenario_names_its_rfc_and_is_played() {
        let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let read = |dir: &str, ending: &str| -> Vec<(String, String)> {
            let files = fs::read_dir(here.join(dir)).expect("it is there").map(|f| f.expect("readable").path());
            let wanted = files.filter(|p| p.extension().is_some_and(|e| e == ending));
            let stem = |p: &std::path::Path| p.file_stem().expect("a name").to_string_lossy().into_owned();
            wanted.map(|p| (stem(&p), fs::read_to_string(&p).expect("text"))).collect()
        };
        let tests: String = read("tests", "rs").into_iter().chain(read("src", "rs")).map(|(_, text)| text).collect();
        let scenarios = read("scenarios", "xml");
        assert!(scenarios.len() >= 40, "{} scenarios", scenarios.len());
        for (name, text) in scenarios {
            let comment = text.split("<!--").nth(1).and_then(|c| c.split("-->").next()).unwrap_or_default();
            assert!(comment.contains("RFC "), "{name} names no RFC: {comment}");
            assert!(tests.contains(&format!("\"{name}\"")), "no test plays {name}");
            // A call may last (`-d`) for what happens to the cluster meanwhile; no scenario waits by itself for time to pass.
            let lasts = ["uac", "uac-ignores-contact"].contains(&&*name);
            let pauses = text.matches("<pause").count();
            assert_eq!((pauses, text.matches("<pause/>").count()), (usize::from(lasts), usize::from(lasts)), "{name}");
        }
    }

    /// The scenarios of both sides agree with each other when nothing stands between them; but for `unavailable`, where the cluster says
    /// 500 for the target's 503.
    #[test]
    fn scenarios_fit_together() {
        let pairs = [
            ("uac", "uas"),
            ("uac-ignores-contact", "uas"),
            ("uac", "uas-early-media"),
            ("uac-delayed-offer", "uas-delayed-offer"),
            ("uac-cancel", "uas-cancelled"),
            ("uac-busy", "uas-busy"),
            ("uac-hold", "uas-reinvited"),
            ("uac-held", "uas-holds"),
            ("uac-info-options", "uas-info-options"),
            ("uac-waits-for-bye", "uas-hangs-up"),
            ("uac-subscribe", "uas-subscribe"),
            ("uac-notified-first", "uas-notifies-first"),
            ("uac-publish", "uas-publish"),
            ("uac-moved", "uas-moved"),
            ("uac-message", "uas-message"),
            ("uac-message-refused", "uas-message-refused"),
            ("uac-call-later", "uas-call-later"),
        ];
        let limit = Duration::from_secs(20);
        let (here, there) = ("127.0.8.1".parse().unwrap(), "127.0.8.2".parse::<IpAddr>().unwrap());
        let runs: Vec<_> = (0u16..)
            .zip(pairs)
            .map(|(n, (uac, uas))| {
                let at = SocketAddr::new(there, 6100 + n);
                let server = Sipp::scenario(uas, there, limit).args(&["-m", "1"]).serve(at);
                let client =
                    Sipp::scenario(uac, here, limit).args(&["-m", "1", "-key", "ruri", &format!("sip:112@{at}")]).to(at).start();
                (client, server)
            })
            .collect();
        for (client, server) in runs {
            assert_eq!(client.succeed().successful, 1);
            assert_eq!(server.succeed().successful, 1);
        }
    }
}
