//! What a call costs: CPU, set-up latency and memory of `sbcd` alone, of three with replication, and of Kamailio in turns.
//!
//! `bench --flood emergency|ordinary [--rate INVITES_A_SECOND] [--sources N] [--seconds N] [--rounds N]`: what becomes of emergency callers beside a flood.
//! `bench [--rate CALLS_A_SECOND] [--seconds N] [--rounds N] [--hold CALLS] [--only "sbcd x1"]`. Compare only figures of one run: they change with
//! the machine, the rate and what else runs.

use std::fs;
use std::net::SocketAddr;
use std::process::{Command, ExitCode};
use std::time::Duration;

use cluster_tests::cluster::{Cluster, Options, PSAP, anycast, unicast};
use cluster_tests::command::{self, Running, scratch};
use cluster_tests::flood::{self, Callers, Flood, Psap};
use cluster_tests::load::{self, Answerer, Load};
use cluster_tests::process;

/// Calls before the measurement: caches, pages, connections.
const WARM_UP: u32 = 200;
/// How long held calls last: all are up before the first ends.
const HELD_FOR: Duration = Duration::from_secs(20);
/// Most that one run may ask for, so that a slip of the finger does not run for hours.
const MAX_CALLS: u32 = 1_000_000;
/// Where Kamailio listens.
const KAMAILIO: &str = "127.0.4.1:5060";
/// How long Kamailio may take to start.
const KAMAILIO_START: Duration = Duration::from_secs(10);

/// What a flood calls when it means to be taken for ordinary calls, and that there is a route for.
const ORDINARY: &str = "sip:service@127.0.0.100";
/// The callers beside a flood.
const EMERGENCY: &str = "sip:112@127.0.0.100";
/// How many of them a second.
const CALLERS: u32 = 2;

struct Arguments {
    flood: Option<bool>,
    sources: u32,
    rate: u32,
    seconds: u32,
    rounds: u32,
    hold: u32,
    only: Option<String>,
}

fn arguments() -> Result<Arguments, String> {
    let mut parsed = Arguments { flood: None, sources: 300, rate: 300, seconds: 10, rounds: 2, hold: 1000, only: None };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        if word == "--only" {
            parsed.only = words.next();
            continue;
        }
        if word == "--flood" {
            parsed.flood = match words.next().as_deref() {
                Some("emergency") => Some(true),
                Some("ordinary") => Some(false),
                _ => return Err("--flood needs emergency or ordinary".into()),
            };
            continue;
        }
        let value = words
            .next()
            .and_then(|v| v.parse::<u32>().ok())
            .filter(|v| *v > 0)
            .ok_or(format!("{word} needs a number above 0"))?;
        match word.as_str() {
            "--sources" => parsed.sources = value.min(10_000),
            "--rate" => parsed.rate = value,
            "--seconds" => parsed.seconds = value,
            "--rounds" => parsed.rounds = value,
            "--hold" => parsed.hold = value,
            other => return Err(format!("unknown: {other}; known: --flood --sources --rate --seconds --rounds --hold --only")),
        }
    }
    match u64::from(parsed.rate) * u64::from(parsed.seconds) <= u64::from(MAX_CALLS) && parsed.hold <= MAX_CALLS {
        true => Ok(parsed),
        false => Err(format!("more than {MAX_CALLS} calls")),
    }
}

/// Something that carries calls to [`PSAP`].
enum Subject {
    Nodes(Cluster, u8),
    Kamailio(Running),
}

/// A subject and the phone behind it. The phone starts once the cluster's lock is held: its address is the same for all test
/// programs.
struct Stand {
    subject: Subject,
    _answerer: Answerer,
}

impl Stand {
    fn start(name: &str) -> Stand {
        let nodes = |count| {
            // All calls come from one address here, and all are emergency calls that last.
            let set = ["settings.emergency_source_rate=0".to_owned()].into();
            let cluster = Cluster::start(Options { nodes: count, set, ..Options::with_own_psap() });
            Stand { subject: Subject::Nodes(cluster, count), _answerer: Answerer::start(PSAP) }
        };
        match name {
            "kamailio" => {
                // Its start asks for a call that goes through.
                let answerer = Answerer::start(PSAP);
                Stand { subject: Subject::Kamailio(start_kamailio()), _answerer: answerer }
            }
            "sbcd x1" => nodes(1),
            _ => nodes(3),
        }
    }
}

impl Subject {
    fn address(&self) -> SocketAddr {
        match self {
            Subject::Nodes(..) => unicast(0),
            Subject::Kamailio(..) => KAMAILIO.parse().expect("it is an address"),
        }
    }

    /// The processes that own the calls, and those that only replicate.
    fn processes(&self) -> (Vec<u32>, Vec<u32>) {
        match self {
            Subject::Nodes(cluster, count) => {
                let mut pids = (0..*count).filter_map(|n| cluster.pid(n));
                (pids.next().into_iter().collect(), pids.collect())
            }
            Subject::Kamailio(..) => (process::find(&["kamailio", "sbc-bench-kamailio.cfg"]), Vec::new()),
        }
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        if let Subject::Kamailio(running) = self {
            // SIGTERM to its first process ends its children too; SIGKILL would leave them at the port.
            let _ = command::run(Command::new("kill").args(["-TERM", &running.pid().to_string()]), KAMAILIO_START);
            cluster_tests::wait::until("kamailio ends", KAMAILIO_START, || {
                if running.is_running() { Err("it runs") } else { Ok(()) }
            });
        }
    }
}

fn cpu(pids: &[u32]) -> Duration {
    pids.iter().filter_map(|p| process::cpu_time(*p)).sum()
}

fn memory(pids: &[u32]) -> u64 {
    pids.iter().filter_map(|p| process::resident(*p)).sum()
}

fn micros(time: Duration, calls: u32) -> f64 {
    time.as_secs_f64() * 1e6 / f64::from(calls)
}

/// One measurement: a row of the table. Returns the number of failed calls.
fn measure(name: &str, arguments: &Arguments) -> u32 {
    let Stand { subject, _answerer } = Stand::start(name);
    let (to, rate) = (subject.address(), arguments.rate);
    let calls = rate * arguments.seconds;
    load::run(Load { to, rate, calls: WARM_UP, hold: Duration::ZERO }, || {});
    let (owner, others) = subject.processes();
    let before = (cpu(&owner), cpu(&others));
    let outcome = load::run(Load { to, rate, calls, hold: Duration::ZERO }, || {});
    let spent = (cpu(&owner) - before.0, cpu(&others) - before.1);
    let real = f64::from(outcome.completed) / outcome.took.as_secs_f64();
    let others_each = if others.is_empty() { 0.0 } else { micros(spent.1, calls) / others.len() as f64 };
    println!(
        "{name:<10} {real:>8.0} {:>10.0} {others_each:>10.0} {:>9} {:>9} {:>7} {:>9}",
        micros(spent.0, calls),
        outcome.quantile(0.5).as_micros(),
        outcome.quantile(0.99).as_micros(),
        outcome.failed,
        outcome.repeated,
    );
    outcome.failed
}

/// Memory of held calls. Returns the number of failed calls.
fn measure_memory(name: &str, arguments: &Arguments) -> u32 {
    let Stand { subject, _answerer } = Stand::start(name);
    load::run(Load { to: subject.address(), rate: arguments.rate, calls: WARM_UP, hold: Duration::ZERO }, || {});
    let (owner, others) = subject.processes();
    let before = (memory(&owner), memory(&others));
    let mut held = before;
    let load = Load { to: subject.address(), rate: arguments.rate, calls: arguments.hold, hold: HELD_FOR };
    let outcome = load::run(load, || held = (memory(&owner), memory(&others)));
    let each =
        |now: u64, then: u64, processes: usize| now.saturating_sub(then) / u64::from(arguments.hold) / processes.max(1) as u64;
    println!(
        "{name:<10} {:>10} {:>14} {:>14} {:>7}",
        arguments.hold,
        each(held.0, before.0, 1),
        each(held.1, before.1, others.len()),
        outcome.failed
    );
    outcome.failed
}

/// Callers beside a flood: a row of figures. Returns the number of callers who were not connected.
fn measure_flood(emergency: bool, arguments: &Arguments) -> u32 {
    let cluster = Cluster::start(Options::with_own_psap());
    let psap = Psap::start(PSAP);
    let pids: Vec<Option<u32>> = (0..3).map(|n| cluster.pid(n)).collect();
    let spent = || pids.iter().flatten().filter_map(|p| process::cpu_time(*p)).sum::<Duration>();
    let before = spent();
    let flood = Flood {
        to: anycast(),
        uri: if emergency { EMERGENCY } else { ORDINARY },
        rate: arguments.rate,
        sources: u16::try_from(arguments.sources).unwrap_or(u16::MAX),
        time: Duration::from_secs(arguments.seconds.into()),
    };
    let callers =
        Callers { to: anycast(), uri: EMERGENCY, every: Duration::from_secs(1) / CALLERS, count: arguments.seconds * CALLERS };
    let figures = flood::run(flood, callers);
    let (asked, calls) = psap.asked();
    let alive = (0..3).all(|n| cluster.pid(n).is_some() && cluster.pid(n) == pids[usize::from(n)] && cluster.is_up(n));
    println!(
        "{:<10} {:>8.0} {:>8} {:>9} {:>9} {:>9} {:>9} {:>9} {:>7.3} {:>7.1} {:>6}",
        if emergency { "emergency" } else { "ordinary" },
        figures.rate(),
        figures.callers,
        figures.connected,
        figures.quantile(0.5).as_millis(),
        figures.quantile(0.99).as_millis(),
        calls,
        asked,
        asked as f64 / (calls.max(1)) as f64,
        (spent() - before).as_secs_f64(),
        alive
    );
    if !figures.refused.is_empty() {
        println!("           not connected, by final answer (0: none): {:?}", figures.refused);
    }
    figures.callers - figures.connected + u32::from(!alive)
}

fn main() -> ExitCode {
    let arguments = match arguments() {
        Ok(arguments) => arguments,
        Err(e) => {
            eprintln!("bench: {e}");
            return ExitCode::from(2);
        }
    };
    if let Some(emergency) = arguments.flood {
        println!(
            "a flood of {} INVITEs a second from {} addresses that hears nothing, and {CALLERS} emergency callers a second, each at an address of its own; \
             set-up is INVITE to 200, milliseconds; CPU is that of three nodes\n",
            arguments.rate, arguments.sources
        );
        println!(
            "{:<10} {:>8} {:>8} {:>9} {:>9} {:>9} {:>9} {:>9} {:>7} {:>7} {:>6}",
            "flood of", "sent/s", "callers", "connected", "p50 ms", "p99 ms", "at PSAP", "INVITEs", "a call", "CPU s", "alive"
        );
        let failed: u32 = (0..arguments.rounds).map(|_| measure_flood(emergency, &arguments)).sum();
        return if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let mut subjects = vec!["sbcd x1", "sbcd x3"];
    match command::run(Command::new("kamailio").arg("-v"), KAMAILIO_START) {
        Ok(done) if done.code == Some(0) => subjects.push("kamailio"),
        _ => println!("kamailio is not installed (apt-get install kamailio): no comparison"),
    }
    subjects.retain(|s| arguments.only.as_ref().is_none_or(|only| only == s));
    println!(
        "{} calls a second for {} s, {} rounds in turns; CPU in microseconds a call from /proc (x3: the owner, and the mean of the others);",
        arguments.rate, arguments.seconds, arguments.rounds
    );
    println!(
        "set-up is INVITE to 200, microseconds; kamailio is `-x fm` with tm and dialog, a proxy: no media, no replication\n"
    );
    println!(
        "{:<10} {:>8} {:>10} {:>10} {:>9} {:>9} {:>7} {:>9}",
        "", "calls/s", "CPU us", "others us", "p50 us", "p99 us", "failed", "repeated"
    );
    let mut failed = 0;
    for _ in 0..arguments.rounds {
        for name in &subjects {
            failed += measure(name, &arguments);
        }
    }
    println!("\n{:<10} {:>10} {:>14} {:>14} {:>7}", "", "held calls", "octets a call", "others octets", "failed");
    for name in &subjects {
        failed += measure_memory(name, &arguments);
    }
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn start_kamailio() -> Running {
    let config = std::env::temp_dir().join("sbc-bench-kamailio.cfg");
    fs::write(&config, KAMAILIO_CONFIG.replace("LISTEN", KAMAILIO).replace("PSAP", &PSAP.to_string()))
        .expect("the temporary directory is writable");
    let run_dir = scratch("kamailio");
    fs::create_dir_all(&run_dir).expect("the temporary directory is writable");
    let mut command = Command::new("kamailio");
    command.args(["-x", "fm", "-DD", "-E", "-m", "256", "-M", "16", "-Y"]).arg(&run_dir).arg("-f").arg(&config);
    let running = command::spawn(&mut command).unwrap_or_else(|e| panic!("{e}"));
    cluster_tests::wait::until("kamailio answers", KAMAILIO_START, || {
        let probe =
            load::run(Load { to: KAMAILIO.parse().expect("it is an address"), rate: 1, calls: 1, hold: Duration::ZERO }, || {});
        if probe.completed == 1 { Ok(()) } else { Err(running.stderr()) }
    });
    running
}

/// The least that makes a stateful proxy with dialogs: what the bench compares with.
const KAMAILIO_CONFIG: &str = r#"#!KAMAILIO
debug=-1
log_stderror=yes
children=2
disable_tcp=yes
auto_aliases=no
listen=udp:LISTEN
loadmodule "tm.so"
loadmodule "sl.so"
loadmodule "rr.so"
loadmodule "pv.so"
loadmodule "maxfwd.so"
loadmodule "siputils.so"
loadmodule "dialog.so"
request_route {
    if (!mf_process_maxfwd_header("10")) { sl_send_reply("483", "Too Many Hops"); exit; }
    if (has_totag()) {
        if (loose_route()) { t_relay(); exit; }
        if (method == "ACK") { if (t_check_trans()) { t_relay(); } exit; }
        sl_send_reply("404", "Not here");
        exit;
    }
    if (method == "INVITE") { record_route(); dlg_manage(); }
    $du = "sip:PSAP";
    t_relay();
}
"#;
