//! Running a program with a hard end, its output kept.
//!
//! Output goes to files, not to pipes: a program that leaves a daemon behind (`sbcctl dev up`) would keep a pipe open for ever.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Between two looks whether a program has ended.
const LOOK_EVERY: Duration = Duration::from_millis(10);

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Why a program gave no result.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// It is not there or may not be run: install it (deploy/setup.sh test).
    #[error("cannot start {program}: {source}")]
    Spawn {
        /// What was to be run.
        program: String,
        /// Why not.
        source: std::io::Error,
    },
    /// It was still running at its limit and has been killed.
    #[error("{program} was still running after {limit:?}; it said:\n{output}")]
    TooSlow {
        /// What was run.
        program: String,
        /// Its limit.
        limit: Duration,
        /// What it had printed.
        output: String,
    },
}

/// A program that has ended.
#[derive(Clone, Debug)]
pub struct Finished {
    /// Its exit code; `None`: a signal ended it.
    pub code: Option<i32>,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
    /// How long it ran.
    pub took: Duration,
}

/// A program under way.
#[derive(Debug)]
pub struct Running {
    child: Child,
    program: String,
    began: Instant,
    stdout: PathBuf,
    stderr: PathBuf,
}

/// A path that no other test uses.
pub fn scratch(name: &str) -> PathBuf {
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("sbc-tests-{}-{n}-{name}", std::process::id()))
}

/// Starts a program. Its input is empty.
///
/// # Errors
/// It cannot be started.
pub fn spawn(command: &mut Command) -> Result<Running, CommandError> {
    let program = format!("{command:?}");
    let fail = |source| CommandError::Spawn { program: program.clone(), source };
    let (stdout, stderr) = (scratch("out"), scratch("err"));
    let out = File::create(&stdout).map_err(fail)?;
    let err = File::create(&stderr).map_err(fail)?;
    let child = command.stdin(Stdio::null()).stdout(out).stderr(err).spawn().map_err(fail)?;
    Ok(Running { child, program, began: Instant::now(), stdout, stderr })
}

/// Runs a program to its end, for at most `limit`.
///
/// # Errors
/// It cannot be started, or was too slow.
pub fn run(command: &mut Command, limit: Duration) -> Result<Finished, CommandError> {
    spawn(command)?.finish(limit)
}

impl Running {
    /// Waits for its end, at most until `limit` after its start.
    ///
    /// # Errors
    /// It was too slow; it is killed then.
    pub fn finish(mut self, limit: Duration) -> Result<Finished, CommandError> {
        while self.began.elapsed() < limit {
            if let Ok(Some(status)) = self.child.try_wait() {
                let (stdout, stderr) = (self.stdout(), self.stderr());
                return Ok(Finished { code: status.code(), stdout, stderr, took: self.began.elapsed() });
            }
            std::thread::sleep(LOOK_EVERY);
        }
        let output = format!("{}{}", self.stdout(), self.stderr());
        Err(CommandError::TooSlow { program: self.program.clone(), limit, output })
    }

    /// True until it has ended.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has printed so far.
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.stdout).unwrap_or_default()).into_owned()
    }

    /// What it has complained of so far.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.stderr).unwrap_or_default()).into_owned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.stdout);
        let _ = fs::remove_file(&self.stderr);
    }
}

impl Finished {
    /// Itself when the exit code is 0.
    ///
    /// # Panics
    /// It is not, with all that was printed.
    #[track_caller]
    pub fn ok(self, what: &str) -> Finished {
        assert_eq!(self.code, Some(0), "{what} failed after {:?}:\n{}{}", self.took, self.stdout, self.stderr);
        self
    }
}

/// Writes a file that nobody else can read: a node refuses a secret that others could.
///
/// # Panics
/// It cannot be written.
pub fn write_secret(path: &std::path::Path, content: &str) {
    use std::os::unix::fs::PermissionsExt;
    fs::write(path, content).expect("the temporary directory is writable");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("it is ours");
}
