//! baresip, a real user agent, in a namespace: it plays a tone and records what it hears.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use crate::command::{self, Running};
use crate::netns::Namespace;
use crate::wav;

/// Longer than any test: the tone must not end first.
const TONE_SECONDS: u32 = 120;
/// How long it may take to hang up and end.
const END_LIMIT: Duration = Duration::from_secs(180);

/// How one is set up.
#[derive(Clone, Debug)]
pub struct Setup<'a> {
    /// Where it runs.
    pub host: &'a Namespace,
    /// Its network device.
    pub device: &'a str,
    /// Its address there.
    pub ip: &'a str,
    /// Its user name.
    pub user: &'a str,
    /// What it plays.
    pub hertz: u32,
    /// The URI that it calls; without one it answers.
    pub dial: Option<&'a str>,
    /// udp, tcp or tls: how it registers its account's transport, and so how it calls.
    pub transport: &'a str,
    /// For TLS: a PEM file with certificate and key, and one with the CA that it trusts.
    pub tls: Option<(&'a Path, &'a Path)>,
}

/// One running user agent.
#[derive(Debug)]
pub struct Baresip {
    running: Option<Running>,
    dir: PathBuf,
    log: String,
    namespace: String,
    control: u16,
}

/// The next one's control port: those of one host must differ.
static NEXT_CONTROL: AtomicU16 = AtomicU16::new(4400);

impl Baresip {
    /// Starts it as `user` at `ip` on `device`; it plays `hertz`. With `dial` it calls that URI, without it answers.
    ///
    /// # Panics
    /// There is no baresip.
    pub fn start(host: &Namespace, device: &str, ip: &str, user: &str, hertz: u32, dial: Option<&str>) -> Baresip {
        Baresip::with(&Setup { host, device, ip, user, hertz, dial, transport: "udp", tls: None })
    }

    /// The same with all that can be chosen.
    ///
    /// # Panics
    /// There is no baresip.
    pub fn with(setup: &Setup<'_>) -> Baresip {
        let Setup { host, ip, user, hertz, dial, transport, .. } = *setup;
        let control = NEXT_CONTROL.fetch_add(1, Ordering::Relaxed);
        let dir = command::scratch(&format!("baresip-{user}"));
        let make = || -> std::io::Result<()> {
            fs::create_dir_all(dir.join("heard"))?;
            wav::write_tone(&dir.join("tone.wav"), hertz, TONE_SECONDS)?;
            fs::write(dir.join("config"), config(&dir, setup, control))?;
            fs::write(dir.join("contacts"), "")?;
            let answer = if dial.is_some() { "manual" } else { "auto" };
            let ip = crate::message::bracketed(ip);
            let account = format!("<sip:{user}@{ip};transport={transport}>;regint=0;answermode={answer};audio_codecs=pcmu\n");
            fs::write(dir.join("accounts"), account)
        };
        make().expect("the temporary directory is writable");
        let mut command = host.command("baresip");
        command.arg("-f").arg(&dir).arg("-v");
        if let Some(uri) = dial {
            command.args(["-e", &format!("/dial {uri}")]);
        }
        let running = command::spawn(&mut command).unwrap_or_else(|e| panic!("{e}"));
        Baresip { running: Some(running), dir, log: String::new(), namespace: host.name().to_owned(), control }
    }

    /// Gives it a command as a person would (`hold`, `resume`, `transfer`); its answer is in its log.
    ///
    /// # Panics
    /// It does not take it.
    pub fn command(&self, command: &str, parameters: &str) {
        let json = format!("{{\"command\":\"{command}\",\"params\":\"{parameters}\",\"token\":\"t\"}}");
        // A netstring; the answer is one too, and ends in a comma.
        let script =
            format!("exec 3<>/dev/tcp/127.0.0.1/{}; printf '%s' \"$0\" >&3; read -r -t 10 -d , -u 3 answer", self.control);
        let mut shell = Command::new("ip");
        shell.args(["netns", "exec", &self.namespace, "bash", "-c", &script, &format!("{}:{json},", json.len())]);
        command::run(&mut shell, Duration::from_secs(20)).unwrap_or_else(|e| panic!("{e}")).ok(&format!("baresip's {command}"));
    }

    /// What it has printed.
    pub fn log(&self) -> String {
        self.running.as_ref().map_or_else(|| self.log.clone(), |r| format!("{}{}", r.stdout(), r.stderr()))
    }

    /// True once its call is up.
    pub fn is_in_call(&self) -> bool {
        self.log().contains("Call established")
    }

    /// All samples heard so far, in the order of the calls.
    pub fn heard(&self) -> Vec<i16> {
        let mut files: Vec<PathBuf> =
            fs::read_dir(self.dir.join("heard")).map(|d| d.flatten().map(|e| e.path()).collect()).unwrap_or_default();
        files.retain(|p| p.to_string_lossy().ends_with("-dec.wav"));
        files.sort();
        files.iter().flat_map(|p| wav::read(p).unwrap_or_default()).collect()
    }

    /// Hangs up (SIGTERM makes baresip send BYE) and ends. Returns RTP packets sent and received, by its own count.
    ///
    /// # Panics
    /// It does not end, or counted nothing.
    pub fn hang_up(&mut self) -> (u64, u64) {
        let running = self.running.take().expect("it hangs up once");
        let _ = command::run(Command::new("kill").args(["-TERM", &running.pid().to_string()]), Duration::from_secs(5));
        let done = running.finish(END_LIMIT).unwrap_or_else(|e| panic!("{e}"));
        self.log = format!("{}{}", done.stdout, done.stderr);
        let line =
            self.log.lines().find(|l| l.starts_with("packets:")).unwrap_or_else(|| panic!("no packet counts in:\n{}", self.log));
        let mut counts = line.split_whitespace().skip(1).map(|n| n.parse().unwrap_or(0));
        (counts.next().unwrap_or(0), counts.next().unwrap_or(0))
    }
}

impl Drop for Baresip {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            eprintln!("---- baresip {}\n{}", self.dir.display(), log.replace('\r', "\n"));
        }
        self.running = None;
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Where Debian puts the modules of this architecture-independent path.
const MODULES: &str = "/usr/lib/baresip/modules";

fn config(dir: &Path, setup: &Setup<'_>, control: u16) -> String {
    let (dir, Setup { device, .. }) = (dir.display(), setup);
    let ip = crate::message::bracketed(setup.ip);
    let tls = setup.tls.map(|(own, ca)| format!("sip_certificate {}\nsip_cafile {}\n", own.display(), ca.display()));
    format!(
        "sip_listen {ip}:5060\nnet_interface {device}\ncall_local_timeout 60\ncall_max_calls 4\n{}\
         audio_source aufile,{dir}/tone.wav\naudio_player aubridge,sink\naudio_alert aubridge,alert\n\
         ausrc_srate 8000\nauplay_srate 8000\nausrc_channels 1\nauplay_channels 1\nrtp_stats yes\nsnd_path {dir}/heard\n\
         module_path {MODULES}\nmodule g711.so\nmodule aufile.so\nmodule aubridge.so\nmodule sndfile.so\n\
         module_app account.so\nmodule_app contact.so\nmodule_app menu.so\nmodule_app ctrl_tcp.so\n\
         ctrl_tcp_listen 127.0.0.1:{control}\n",
        tls.unwrap_or_default()
    )
}
