//! Kamailio, a real proxy: it records its route and forks each call in parallel.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::command::{self, Running};
use crate::wait;

/// How long it may take to start, and to end.
const LIMIT: Duration = Duration::from_secs(30);

/// One running proxy.
#[derive(Debug)]
pub struct Kamailio {
    running: Option<Running>,
    dir: PathBuf,
}

impl Kamailio {
    /// Starts one at `at` (UDP). Each INVITE goes to all of `branches` (SIP URIs) at once.
    ///
    /// # Panics
    /// There is no kamailio, or it does not start.
    pub fn start(at: SocketAddr, branches: &[&str]) -> Kamailio {
        let dir = command::scratch("kamailio");
        fs::create_dir_all(&dir).expect("the temporary directory is writable");
        let file = dir.join("kamailio.cfg");
        fs::write(&file, config(at, branches)).expect("the temporary directory is writable");
        let mut kamailio = Command::new("kamailio");
        kamailio.args(["-DD", "-E", "-m", "64", "-M", "8", "-f"]).arg(&file).arg("-Y").arg(&dir).arg("-w").arg(&dir);
        let running = command::spawn(&mut kamailio).unwrap_or_else(|e| panic!("{e}"));
        let proxy = Kamailio { running: Some(running), dir };
        let probe = std::net::UdpSocket::bind((at.ip(), 0)).expect("loopback is free");
        probe.set_read_timeout(Some(Duration::from_millis(200))).expect("not zero");
        let from = probe.local_addr().expect("it is bound");
        let ping = format!(
            "OPTIONS sip:{at} SIP/2.0\r\nVia: SIP/2.0/UDP {from};branch=z9hG4bKup;rport\r\nFrom: <sip:t@{from}>;tag=t\r\n\
             To: <sip:{at}>\r\nCall-ID: up\r\nCSeq: 1 OPTIONS\r\nMax-Forwards: 5\r\nContent-Length: 0\r\n\r\n"
        );
        wait::until("kamailio answers", LIMIT, || {
            let _ = probe.send_to(ping.as_bytes(), at);
            let mut answer = [0; 2048];
            if probe.recv(&mut answer).is_ok() { Ok(()) } else { Err(proxy.log()) }
        });
        proxy
    }

    /// What it has printed.
    pub fn log(&self) -> String {
        self.running.as_ref().map(|r| format!("{}{}", r.stdout(), r.stderr())).unwrap_or_default()
    }
}

impl Drop for Kamailio {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- kamailio\n{}", self.log());
        }
        if let Some(running) = self.running.take() {
            // Its main process ends the others.
            let _ = command::run(Command::new("kill").args(["-TERM", &running.pid().to_string()]), LIMIT);
            let _ = running.finish(Duration::from_secs(600));
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn config(at: SocketAddr, branches: &[&str]) -> String {
    let modules = fs::read_dir("/usr/lib").into_iter().flatten().flatten().map(|e| e.path().join("kamailio/modules"));
    let modules = modules.into_iter().find(|p| p.is_dir()).expect("kamailio's modules are installed");
    let (first, rest) = branches.split_first().expect("a branch");
    let rest: String = rest.iter().map(|uri| format!("    append_branch(\"{uri}\");\n")).collect();
    format!(
        r#"#!KAMAILIO
debug=2
log_stderror=yes
children=1
disable_tcp=yes
auto_aliases=no
listen=udp:{at}
mpath="{}/"
loadmodule "tm.so"
loadmodule "sl.so"
loadmodule "rr.so"
loadmodule "pv.so"
loadmodule "maxfwd.so"
loadmodule "siputils.so"
loadmodule "textops.so"
loadmodule "corex.so"
request_route {{
    if (!mf_process_maxfwd_header("10")) {{ sl_send_reply("483", "Too Many Hops"); exit; }}
    if (is_method("OPTIONS") && !has_totag()) {{ sl_send_reply("200", "OK"); exit; }}
    if (is_method("CANCEL")) {{ if (t_check_trans()) t_relay(); exit; }}
    if (has_totag()) {{
        if (loose_route()) {{ t_relay(); exit; }}
        if (is_method("ACK")) {{ if (t_check_trans()) t_relay(); exit; }}
        sl_send_reply("404", "Not Here");
        exit;
    }}
    t_check_trans();
    record_route();
    $ru = "{first}";
{rest}    t_relay();
}}
"#,
        modules.display()
    )
}
