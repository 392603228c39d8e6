//! Processes that outlive the command that started them. One is known by its pid, its start time and the boot it belongs to, and
//! signalled through a pidfd: a pid that was given to another process is never hit.

use std::fs::{self, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::error::Failure;
use crate::files;

/// Between two looks at a process that is to end.
const LOOK: Duration = Duration::from_millis(20);

/// One process, whether it still runs or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    pid: i32,
    /// Clock ticks from boot to its start.
    started: u64,
    /// The kernel's id of the boot.
    boot: String,
}

impl Process {
    /// The process that has this pid now, or had it and waits for its parent; `None`: there is none.
    fn of(pid: i32) -> Option<Process> {
        let started = started(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?;
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?.trim().to_owned();
        Some(Process { pid, started, boot })
    }

    /// What a pid file says; `None`: there is no readable one.
    pub(crate) fn load(path: &Path) -> Option<Process> {
        let text = fs::read_to_string(path).ok()?;
        let mut parts = text.split_whitespace();
        Some(Process {
            pid: parts.next()?.parse().ok().filter(|pid| *pid > 0)?,
            started: parts.next()?.parse().ok()?,
            boot: parts.next()?.to_owned(),
        })
    }

    fn save(&self, path: &Path) -> Result<(), Failure> {
        files::write(path, format!("{} {} {}\n", self.pid, self.started, self.boot).as_bytes())
    }

    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    /// True while any thread of this very process runs. A first thread that is a zombie proves nothing: the others may still hold
    /// its listening sockets, which is what who starts it again trips over.
    pub(crate) fn is_alive(&self) -> bool {
        self.handle().is_some()
    }

    /// Holds on to this very process; `None`: its last thread has ended.
    fn handle(&self) -> Option<OwnedFd> {
        let pid = Pid::from_raw(self.pid).expect("a pid file's pid is above 0");
        let handle = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        // Only now, for the handle holds on to one process, does the check tell that it is ours.
        if Process::of(self.pid).as_ref() != Some(self) {
            return None;
        }
        // A pidfd is readable once all threads have ended and closed what they had open (pidfd_open(2)).
        let mut ended = [PollFd::new(&handle, PollFlags::IN)];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        matches!(poll(&mut ended, Some(&at_once)), Ok(0) | Err(_)).then_some(handle)
    }

    /// Sends a signal. False: it is not there any more.
    pub(crate) fn signal(&self, signal: Signal) -> Result<bool, Failure> {
        let Some(handle) = self.handle() else { return Ok(false) };
        match pidfd_send_signal(&handle, signal) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::SRCH) => Ok(false),
            Err(e) => Err(Failure::failed(format!("cannot signal process {}", self.pid)).cause(e)),
        }
    }

    /// Waits until it has ended. False: it has not within `limit`.
    pub(crate) async fn wait_end(&self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        while self.is_alive() {
            if Instant::now() >= end {
                return false;
            }
            tokio::time::sleep(LOOK).await;
        }
        true
    }
}

/// Field 22 of /proc/PID/stat, counted after the command's name, which may hold anything.
fn started(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    // The state is field 3.
    rest.split_whitespace().nth(19)?.parse().ok()
}

/// Starts a program apart from this one's terminal and process group, with its output appended to `log`, and records it in
/// `pid_file`.
pub(crate) fn start(program: &Path, args: &[&str], dir: &Path, log: &Path, pid_file: &Path) -> Result<Process, Failure> {
    let output = OpenOptions::new().create(true).append(true).open(log).map_err(|e| files::failure("open", log, &e))?;
    let errors = output.try_clone().map_err(|e| files::failure("open", log, &e))?;
    // It outlives this command: a lock or a pipe that somebody handed to us would stay held or open for as long as it runs.
    close_fds::set_fds_cloexec(3, &[]);
    let child = Command::new(program)
        .args(args)
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        .process_group(0)
        .spawn()
        .map_err(|e| files::failure("start", program, &e))?;
    let pid = i32::try_from(child.id()).map_err(|e| Failure::failed("a pid out of range").cause(e))?;
    let ended = || Failure::failed(format!("{} ended at once", program.display())).cause(files::tail(log, 15));
    let process = Process::of(pid).filter(Process::is_alive).ok_or_else(ended)?;
    process.save(pid_file)?;
    Ok(process)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::TempDir;

    fn sleeper(dir: &TempDir) -> Process {
        start(Path::new("/bin/sleep"), &["60"], &dir.0, &dir.0.join("log"), &dir.0.join("pid")).unwrap()
    }

    #[tokio::test]
    async fn a_process_is_started_found_again_and_ended() {
        let dir = TempDir::new();
        let process = sleeper(&dir);
        assert_eq!(Process::load(&dir.0.join("pid")), Some(process.clone()));
        assert!(process.is_alive());
        assert!(process.signal(Signal::KILL).unwrap());
        assert!(process.wait_end(Duration::from_secs(5)).await);
        assert!(!process.signal(Signal::KILL).unwrap());
    }

    #[test]
    fn a_process_inherits_no_descriptors() {
        let dir = TempDir::new();
        let handed = fs::File::create(dir.0.join("lock")).unwrap();
        rustix::io::fcntl_setfd(&handed, rustix::io::FdFlags::empty()).unwrap();
        let process = sleeper(&dir);
        let open = fs::read_dir(format!("/proc/{}/fd", process.pid())).unwrap().flatten();
        let open: Vec<_> = open.filter_map(|fd| fs::read_link(fd.path()).ok()).collect();
        process.signal(Signal::KILL).unwrap();
        assert!(!open.contains(&dir.0.join("lock")), "{open:?}");
        assert_eq!(open.iter().filter(|to| **to == dir.0.join("log")).count(), 2, "{open:?}");
    }

    #[test]
    fn a_recycled_pid_is_never_hit() {
        let dir = TempDir::new();
        let process = sleeper(&dir);
        let mut later = process.clone();
        later.started += 1;
        let mut elsewhere = process.clone();
        elsewhere.boot = "other".to_owned();
        for other in [later, elsewhere] {
            assert!(!other.is_alive());
            assert!(!other.signal(Signal::KILL).unwrap());
        }
        assert!(process.is_alive());
        process.signal(Signal::KILL).unwrap();
    }

    #[test]
    fn reads_stat_lines_with_odd_names() {
        let tail = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20";
        assert_eq!(started(&format!("7 (a) b) {tail}")), Some(4242));
        assert_eq!(started(&format!("7 (a) {}", tail.replacen('S', "Z", 1))), Some(4242));
        assert_eq!(started("7 (a"), None);
    }

    #[test]
    fn a_wrong_pid_file_names_nobody() {
        let dir = TempDir::new();
        for text in ["", "0 1 b", "-1 1 b", "12", "x y z"] {
            files::write(&dir.0.join("pid"), text.as_bytes()).unwrap();
            assert_eq!(Process::load(&dir.0.join("pid")), None, "{text:?}");
        }
    }

    #[test]
    fn a_program_that_does_not_exist_is_named() {
        let dir = TempDir::new();
        let failure = start(Path::new("/no/sbcd"), &[], &dir.0, &dir.0.join("log"), &dir.0.join("pid")).unwrap_err();
        assert!(failure.to_string().contains("/no/sbcd"));
    }
}
