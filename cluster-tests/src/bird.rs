//! BIRD 2, a real router, on a host of its own: what it has heard by BGP, and what it thinks of the far end.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::command::{self, Running, scratch, spawn};
use crate::netns::Namespace;
use crate::wait;

/// Longest answer of `birdc`, and longest start.
const LIMIT: Duration = Duration::from_secs(20);

/// A running BIRD; gone with the value.
#[derive(Debug)]
pub struct Bird {
    running: Running,
    config: PathBuf,
    socket: PathBuf,
}

impl Bird {
    /// Starts it with that configuration.
    ///
    /// # Panics
    /// There is no BIRD, or it does not like the configuration.
    pub fn start_on(host: &Namespace, config: &str) -> Bird {
        let (file, socket) = (scratch("bird.conf"), scratch("bird.ctl"));
        std::fs::write(&file, config).expect("a scratch file");
        let mut bird = host.command("bird");
        bird.arg("-f").arg("-c").arg(&file).arg("-s").arg(&socket);
        let running = spawn(&mut bird).expect("bird2 is there: deploy/setup.sh test installs it");
        let mut bird = Bird { running, config: file, socket };
        wait::until("BIRD answers", LIMIT, || {
            assert!(bird.running.is_running(), "{}", bird.log());
            bird.try_ask("show status").filter(|s| s.contains("Daemon is up")).ok_or_else(|| bird.log())
        });
        bird
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        self.running.stderr()
    }

    fn try_ask(&self, words: &str) -> Option<String> {
        let mut birdc = Command::new("birdc");
        birdc.arg("-s").arg(&self.socket).args(words.split(' '));
        let done = command::run(&mut birdc, LIMIT).unwrap_or_else(|e| panic!("{e}"));
        // 1 is "Network not found", too.
        (!done.stdout.is_empty()).then_some(done.stdout)
    }

    /// What `birdc` prints.
    ///
    /// # Panics
    /// It fails.
    pub fn ask(&self, words: &str) -> String {
        self.try_ask(words).unwrap_or_else(|| panic!("birdc {words}: {}", self.log()))
    }

    /// Takes another configuration while it runs.
    ///
    /// # Panics
    /// It does not like it.
    pub fn configure(&self, config: &str) {
        std::fs::write(&self.config, config).expect("a scratch file");
        let said = self.ask("configure");
        assert!(said.contains("Reconfigur"), "{said}");
    }

    /// All that it says of a prefix; empty: it does not have it.
    pub fn route(&self, prefix: &str) -> String {
        let said = self.ask(&format!("show route {prefix} all"));
        if said.contains("BGP.as_path") { said } else { String::new() }
    }

    /// The BGP session of that name is Established; since when, as BIRD writes it.
    pub fn established(&self, protocol: &str) -> Option<String> {
        let said = self.ask(&format!("show protocols {protocol}"));
        let line = said.lines().find(|l| l.starts_with(protocol) && l.contains("Established"))?;
        line.split_whitespace().nth(4).map(str::to_owned)
    }
}

impl Drop for Bird {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- BIRD\n{}", self.log());
        }
        let _ = std::fs::remove_file(&self.config);
        let _ = std::fs::remove_file(&self.socket);
    }
}
