//! Starts, stops, kills and heals a development cluster.

use std::path::Path;
use std::time::Duration;
use std::{fs, io};

use rustix::process::Signal;

use crate::args::Global;
use crate::context::{self, Contexts};
use crate::dev::args::UpArgs;
use crate::dev::process::{self, Process};
use crate::dev::stand::{self, ANYCAST, CLUSTER, NodeSpec, SIP_PORT, Spec, Stand, USER};
use crate::dev::{config, flip, ready};
use crate::error::{Exit, Failure};
use crate::files;
use crate::output::note;
use crate::pki::{Authority, Role, Subject};

/// Name of the context that `up` writes.
const CONTEXT: &str = "dev";
/// How long a process may take to end after SIGTERM before it gets SIGKILL.
const TERMINATE: Duration = Duration::from_secs(5);
/// How long one may take to be gone after SIGKILL.
const KILL: Duration = Duration::from_secs(5);
/// Its certificates outlive any use of it.
const CERT_DAYS: u32 = 365;

/// `dev up`.
pub(crate) async fn up(global: &Global, args: UpArgs) -> Result<(), Failure> {
    let stand = Stand { dir: stand::directory(&args.dir)?, spec: Spec { nodes: args.nodes, psap: args.psap, set: args.set } };
    raise(&stand).await?;
    let path = context::path(global)?;
    let mut contexts = Contexts::load(&path)?;
    contexts.contexts.insert(CONTEXT.to_owned(), stand.context());
    contexts.current = Some(CONTEXT.to_owned());
    contexts.save(&path)?;
    note(&format!("{} nodes serve {ANYCAST}:{SIP_PORT}; calls go to {}", stand.spec.nodes, stand.psap()));
    note(&format!("context {CONTEXT:?} in {} is current: try `sbcctl status`", path.display()));
    Ok(())
}

/// Makes a new cluster in the stand's directory and waits until it is ready. What was started is stopped again when it does not
/// get ready.
pub(crate) async fn raise(stand: &Stand) -> Result<(), Failure> {
    let sbcd = stand::sbcd()?;
    prepare(stand)?;
    refuse_taken(stand)?;
    let started = async {
        start_psap(stand)?;
        for node in stand.nodes() {
            start_node(stand, &sbcd, &node, node.id == 1)?;
        }
        note(&format!("started {} nodes in {}", stand.spec.nodes, stand.dir.display()));
        ready::wait(stand).await?;
        let first = stand.nodes().swap_remove(0);
        if ready::announcers(stand).await? != [first.name.as_str()] {
            flip::flip(stand, &first).await?;
        }
        Ok(())
    };
    match started.await {
        Ok(()) => Ok(()),
        Err(failure) => {
            stop(stand).await?;
            Err(failure)
        }
    }
}

/// Writes certificates and configurations into an empty directory, or over those of a cluster that no longer runs.
fn prepare(stand: &Stand) -> Result<(), Failure> {
    files::make_dir(&stand.dir)?;
    if stand.dir.join("stand.toml").exists() {
        refuse_running(stand)?;
        wipe(&stand.dir)?;
    } else if stand.pki().exists() {
        return Err(Failure::new(Exit::Conflict, format!("{} is not from `sbcctl dev up`", stand.pki().display()))
            .hint("name another directory with --dir"));
    }
    // First: whatever is written from here on is known to be ours.
    stand.save()?;
    let pki = stand.pki();
    let authority = Authority::create(&pki, CLUSTER, false)?;
    authority.issue(&pki, &Subject::User { name: USER, role: Role::Admin }, CERT_DAYS, false)?;
    for node in stand.nodes() {
        // Not the core side's: callers see this certificate too.
        let addresses = [node.unicast().into(), ANYCAST.into()];
        authority.issue(&pki, &Subject::Node { name: &node.name, addresses: &addresses }, CERT_DAYS, false)?;
        files::make_dir(&stand.dir.join(&node.name))?;
        files::write(&stand.config(&node.name), config::node(stand, &node)?.as_bytes())?;
    }
    files::write_secret(&stand.dir.join("cluster.key"), files::hex(&files::random::<32>()?).as_bytes())?;
    files::write(&stand.dir.join("cluster.toml"), config::cluster(stand)?.as_bytes())
}

/// The addresses are fixed: a cluster in another directory has the same ones.
fn refuse_taken(stand: &Stand) -> Result<(), Failure> {
    for node in stand.nodes() {
        if let Err(e) = std::net::TcpListener::bind(node.grpc()) {
            return Err(Failure::new(Exit::Conflict, format!("{} needs {}", node.name, node.grpc()))
                .cause(e)
                .hint("another cluster or demonstration runs on this machine; `sbcctl dev down --dir DIR` stops one"));
        }
    }
    Ok(())
}

/// Nine nodes at the most: also those that an earlier, larger cluster had.
fn all_names(dir: &Path) -> Vec<(String, Stand)> {
    let stand = Stand { dir: dir.to_owned(), spec: Spec { nodes: 9, psap: None, set: Vec::new() } };
    stand.process_names().into_iter().map(|name| (name, stand.clone())).collect()
}

fn refuse_running(stand: &Stand) -> Result<(), Failure> {
    let running: Vec<String> = all_names(&stand.dir)
        .into_iter()
        .filter_map(|(name, all)| {
            Process::load(&all.pid(&name)).filter(Process::is_alive).map(|p| format!("{name} (pid {})", p.pid()))
        })
        .collect();
    match running.is_empty() {
        true => Ok(()),
        false => Err(Failure::new(Exit::Conflict, format!("a development cluster runs already in {}", stand.dir.display()))
            .cause(running.join(", "))
            .hint("`sbcctl dev down` stops it, `sbcctl dev heal` starts what is dead")),
    }
}

/// Removes what `up` wrote, and nothing else.
fn wipe(dir: &Path) -> Result<(), Failure> {
    let gone = |path: &Path, removed: io::Result<()>| match removed {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(files::failure("remove", path, &e)),
        _ => Ok(()),
    };
    for (name, all) in all_names(dir) {
        for path in [all.pid(&name), all.log(&name), all.config(&name)] {
            gone(&path, fs::remove_file(&path))?;
        }
        let data = dir.join(&name);
        gone(&data, fs::remove_dir_all(&data))?;
    }
    let pki = dir.join("pki");
    gone(&pki, fs::remove_dir_all(&pki))?;
    for name in ["cluster.key", "cluster.toml", "stand.toml"] {
        gone(&dir.join(name), fs::remove_file(dir.join(name)))?;
    }
    Ok(())
}

fn start_node(stand: &Stand, sbcd: &Path, node: &NodeSpec, init: bool) -> Result<(), Failure> {
    let config = stand.config(&node.name);
    let config = config.to_string_lossy();
    let mut args = vec!["--config", &*config];
    if init {
        args.push("--init");
    }
    process::start(sbcd, &args, &stand.dir, &stand.log(&node.name), &stand.pid(&node.name)).map(|_| ())
}

fn start_psap(stand: &Stand) -> Result<(), Failure> {
    if stand.spec.psap.is_some() {
        return Ok(());
    }
    let bind = stand.psap().to_string();
    let log = stand.log("psap");
    // Readiness is read from the log: an earlier phone's must not count.
    files::write(&log, b"")?;
    process::start(&stand::own_path()?, &["dev", "psap", "--bind", &bind], &stand.dir, &log, &stand.pid("psap")).map(|_| ())
}

/// `dev heal`.
pub(crate) async fn heal(stand: &Stand) -> Result<(), Failure> {
    let sbcd = stand::sbcd()?;
    let dead = |name: &str| !Process::load(&stand.pid(name)).is_some_and(|p| p.is_alive());
    if stand.spec.psap.is_none() && dead("psap") {
        note("starting psap");
        start_psap(stand)?;
    }
    for node in stand.nodes().iter().filter(|n| dead(&n.name)) {
        note(&format!("starting {}", node.name));
        start_node(stand, &sbcd, node, false)?;
    }
    ready::wait(stand).await
}

/// `dev kill`: SIGKILL, and gone when it returns.
pub(crate) async fn kill(stand: &Stand, name: &str) -> Result<(), Failure> {
    let not_running = || Failure::new(Exit::NotFound, format!("{name} does not run")).hint("`sbcctl dev heal` starts it");
    let process = Process::load(&stand.pid(name)).ok_or_else(not_running)?;
    if !process.signal(Signal::KILL)? {
        return Err(not_running());
    }
    match process.wait_end(KILL).await {
        true => Ok(()),
        false => Err(Failure::failed(format!("{name} (pid {}) is not gone after SIGKILL", process.pid()))),
    }
}

/// `dev down`.
pub(crate) async fn down(stand: &Stand) -> Result<(), Failure> {
    let stopped = stop(stand).await?;
    note(&match stopped.is_empty() {
        true => "nothing ran".to_owned(),
        false => format!("stopped {}", stopped.join(", ")),
    });
    Ok(())
}

/// Stops all that runs; returns the names.
pub(crate) async fn stop(stand: &Stand) -> Result<Vec<String>, Failure> {
    let mut stopping = Vec::new();
    for (name, all) in all_names(&stand.dir) {
        let path = all.pid(&name);
        if let Some(process) = Process::load(&path) {
            let ran = process.signal(Signal::TERM)?;
            stopping.push((name, path, process, ran));
        }
    }
    let mut stopped = Vec::new();
    for (name, path, process, ran) in stopping {
        if !process.wait_end(TERMINATE).await {
            note(&format!("{name} does not end by SIGTERM: killing it"));
            process.signal(Signal::KILL)?;
            if !process.wait_end(KILL).await {
                return Err(Failure::failed(format!("{name} (pid {}) is not gone after SIGKILL", process.pid())));
            }
        }
        fs::remove_file(&path).map_err(|e| files::failure("remove", &path, &e))?;
        if ran {
            stopped.push(name);
        }
    }
    Ok(stopped)
}

/// Kills all that runs, at once and without waiting: for a stand whose command is being given up.
pub(crate) fn kill_all(dir: &Path) {
    for (name, all) in all_names(dir) {
        if let Some(process) = Process::load(&all.pid(&name)) {
            // Nobody is left to hear of a failure.
            let _ = process.signal(Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::TempDir;

    fn stand(dir: &TempDir, nodes: u8) -> Stand {
        Stand { dir: dir.0.clone(), spec: Spec { nodes, psap: None, set: Vec::new() } }
    }

    fn sleeper(stand: &Stand, name: &str) -> Process {
        process::start(Path::new("/bin/sleep"), &["60"], &stand.dir, &stand.log(name), &stand.pid(name)).unwrap()
    }

    #[tokio::test]
    async fn prepares_refuses_and_prepares_again() {
        let dir = TempDir::new();
        prepare(&stand(&dir, 3)).unwrap();
        let first = fs::read(dir.0.join("pki/ca.crt")).unwrap();
        for name in ["node-a.toml", "node-c.toml", "cluster.toml", "pki/node-b.key", "pki/admin.crt"] {
            assert!(dir.0.join(name).is_file(), "{name}");
        }
        let key = fs::read_to_string(dir.0.join("cluster.key")).unwrap();
        assert!(key.len() == 64 && key.chars().all(|c| c.is_ascii_hexdigit()));

        let process = sleeper(&stand(&dir, 3), "node-c");
        let refused = prepare(&stand(&dir, 1)).unwrap_err();
        assert_eq!(refused.exit, Exit::Conflict);
        assert!(refused.to_string().contains("node-c (pid"));

        assert_eq!(stop(&stand(&dir, 1)).await.unwrap(), ["node-c"]);
        assert!(!process.is_alive());
        files::write(&dir.0.join("mine.txt"), b"keep").unwrap();
        prepare(&stand(&dir, 1)).unwrap();
        assert_ne!(fs::read(dir.0.join("pki/ca.crt")).unwrap(), first);
        assert!(!dir.0.join("node-c.toml").exists() && dir.0.join("mine.txt").exists());
    }

    #[test]
    fn what_is_not_ours_is_not_overwritten() {
        let dir = TempDir::new();
        files::make_dir(&dir.0.join("pki")).unwrap();
        files::write(&dir.0.join("pki/ca.crt"), b"someone's").unwrap();
        assert_eq!(prepare(&stand(&dir, 1)).unwrap_err().exit, Exit::Conflict);
        assert_eq!(fs::read(dir.0.join("pki/ca.crt")).unwrap(), b"someone's");
    }

    #[tokio::test]
    async fn a_node_that_ends_is_reported_with_its_log() {
        let dir = TempDir::new();
        let stand = stand(&dir, 1);
        prepare(&stand).unwrap();
        let script = ["-c", "sleep 0.2; echo 'no such key: sip.prot' >&2; exit 1"];
        process::start(Path::new("/bin/sh"), &script, &dir.0, &stand.log("node-a"), &stand.pid("node-a")).unwrap();
        let failure = ready::wait(&stand).await.unwrap_err().to_string();
        assert!(failure.contains("node-a ended") && failure.contains("no such key: sip.prot"), "{failure}");
    }

    #[tokio::test]
    async fn kill_names_a_node_that_does_not_run() {
        let dir = TempDir::new();
        let stand = stand(&dir, 3);
        assert_eq!(kill(&stand, "node-a").await.unwrap_err().exit, Exit::NotFound);
        let process = sleeper(&stand, "node-a");
        kill(&stand, "node-a").await.unwrap();
        assert!(!process.is_alive());
        assert_eq!(kill(&stand, "node-a").await.unwrap_err().exit, Exit::NotFound);
    }
}
