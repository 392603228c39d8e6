//! The machine-wide guard of the fixed loopback addresses.
//!
//! A helper process holds a file lock while it reads its standard input; the end of input makes it run the clean-up
//! and let go. So a cluster is taken down even when the test is killed, and the next test waits until it is.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

/// Longest wait for the tests before us, seconds: the longest test plus its clean-up, several times.
const MAX_QUEUE: u32 = 1800;

/// The held lock; dropped: cleaned up and let go.
#[derive(Debug)]
pub struct Guard {
    child: Child,
    stdin: Option<ChildStdin>,
}

impl Guard {
    /// Waits for the lock. `clean_up` is a shell command, run at the end with its arguments as `$1`, `$2`, …
    ///
    /// # Panics
    /// There is no `flock`, or the queue did not move for half an hour.
    pub fn take(clean_up: &str, arguments: &[&Path], log: &Path) -> Guard {
        let script = format!("echo mine; cat >/dev/null; {clean_up} >>\"$0\" 2>&1 </dev/null");
        let mut child = Command::new("flock")
            .args(["-w", &MAX_QUEUE.to_string()])
            .arg(std::env::temp_dir().join("sbc-cluster-tests.lock"))
            .args(["sh", "-c", &script])
            .arg(log)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("flock of util-linux is there: deploy/setup.sh test installs it");
        let stdin = child.stdin.take();
        let mut line = String::new();
        let stdout = child.stdout.take().expect("it was asked for above");
        let _ = BufReader::new(stdout).read_line(&mut line);
        assert_eq!(line, "mine\n", "another run has held the addresses for {MAX_QUEUE} s");
        Guard { child, stdin }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.stdin = None;
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::scratch;

    #[test]
    fn cleans_up_at_the_end_and_then_lets_go() {
        let (mark, log) = (scratch("mark"), scratch("log"));
        let guard = Guard::take("touch \"$1\"", &[&mark], &log);
        assert!(!mark.exists());
        drop(guard);
        assert!(mark.exists());
        drop(Guard::take("rm \"$1\"", &[&mark], &log));
        assert!(!mark.exists());
    }
}
