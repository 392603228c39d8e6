//! linphonec, a real user agent of another make than baresip, in a namespace: it calls, or answers, and plays a tone.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::command::{self, Running};
use crate::netns::Namespace;
use crate::wait;
use crate::wav;

/// Longer than any test: the tone must not end first.
const TONE_SECONDS: u32 = 120;
/// How long it may take to start, or to end.
const LIMIT: Duration = Duration::from_secs(30);

/// One running user agent.
#[derive(Debug)]
pub struct Linphone {
    running: Option<Running>,
    dir: PathBuf,
    input: File,
}

impl Linphone {
    /// Starts it at `ip`, ready to call and to play `hertz`; by TLS it believes the authority in the file `ca`. The host needs a default
    /// route: without one linphone has no network.
    ///
    /// # Panics
    /// There is no linphonec, or it does not start.
    pub fn start(host: &Namespace, ip: &str, hertz: u32, ca: &Path) -> Linphone {
        // It looks for a host name in a certificate, never for an address; what it checks is who has issued it.
        let keys = format!("root_ca={}\nverify_server_certs=1\nverify_server_cn=0\n", ca.display());
        Linphone::with(host, ip, hertz, &keys, "")
    }

    /// The same, and it answers who calls.
    ///
    /// # Panics
    /// There is no linphonec, or it does not start.
    pub fn answering(host: &Namespace, ip: &str, hertz: u32) -> Linphone {
        Linphone::with(host, ip, hertz, "", "-a")
    }

    fn with(host: &Namespace, ip: &str, hertz: u32, keys: &str, flag: &str) -> Linphone {
        let dir = command::scratch("linphone");
        let (rc, fifo) = (dir.join("rc"), dir.join("in"));
        let make = || -> std::io::Result<()> {
            for below in [".local/share/linphone", ".config/linphone"] {
                fs::create_dir_all(dir.join(below))?;
            }
            wav::write_tone(&dir.join("tone.wav"), hertz, TONE_SECONDS)?;
            let config = format!(
                "[sip]\nsip_port=5060\nsip_tcp_port=5060\nsip_tls_port=5061\ncontact=sip:lin@{ip}\ndefault_proxy=-1\n{keys}[sound]\nechocancellation=0\n"
            );
            fs::write(&rc, config)
        };
        make().expect("the temporary directory is writable");
        command::run(Command::new("mkfifo").arg(&fifo), LIMIT).unwrap_or_else(|e| panic!("{e}")).ok("mkfifo");
        // Read and write: opening does not wait for linphonec, and it never sees an end of input.
        let input = File::options().read(true).write(true).open(&fifo).expect("it was just made");
        let mut command = host.command("sh");
        command.args(["-c", "exec linphonec -c \"$0\" -d 0 $2 <\"$1\""]).arg(&rc).arg(&fifo).arg(flag).env("HOME", &dir);
        let running = command::spawn(&mut command).unwrap_or_else(|e| panic!("{e}"));
        let phone = Linphone { running: Some(running), dir, input };
        wait::until("linphonec asks for a command", LIMIT, || {
            if phone.log().contains("linphonec>") { Ok(()) } else { Err(phone.log()) }
        });
        phone.command("soundcard use files");
        phone.command(&format!("play {}", phone.dir.join("tone.wav").display()));
        phone
    }

    /// Gives it a command of its prompt: call, pause, resume, transfer, terminate, quit.
    ///
    /// # Panics
    /// It reads no more.
    pub fn command(&self, line: &str) {
        writeln!(&self.input, "{line}").expect("it reads its input");
    }

    /// What it has printed.
    pub fn log(&self) -> String {
        self.running.as_ref().map(|r| format!("{}{}", r.stdout(), r.stderr())).unwrap_or_default()
    }
}

impl Drop for Linphone {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- linphonec\n{}", self.log());
        }
        self.running = None;
        let _ = fs::remove_dir_all(&self.dir);
    }
}
