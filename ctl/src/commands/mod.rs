//! What each command does with the cluster.

mod call;
mod cdr;
mod cluster;
mod config;
mod dispatch;
mod dns;
mod event;
mod node;
mod pki;
mod policy;
mod routing;
mod status;

use std::io::{self, BufRead, IsTerminal, Write};
use std::time::Duration;

use clap::CommandFactory;

use crate::args::{Cli, Command, Confirm, Watching};
use crate::client::Cluster;
use crate::dev;
use crate::error::{Exit, Failure};
use crate::output::{Out, line};

pub(crate) use call::all_calls;
pub(crate) use cdr::all_cdrs;

/// How often `-w` prints again.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);
/// Items asked for at once: the server's own limit.
const PAGE: u32 = 1000;
/// Pages of one listing: a hundred million items, more than a cluster keeps. Ends a listing that a faulty node never ends.
const MAX_PAGES: usize = 100_000;

/// Runs a command.
pub(crate) async fn run(cli: Cli) -> Result<(), Failure> {
    let out = Out::new(cli.global.output);
    let cluster = || Cluster::new(&cli.global);
    match cli.command {
        Command::Status(watching) => status::run(&cluster()?, out, watching).await,
        Command::Cluster(command) => cluster::run(&cluster()?, out, command).await,
        Command::Node(command) => node::run(&cluster()?, out, command).await,
        Command::Call(command) => call::run(&cluster()?, out, command).await,
        Command::Event(command) => event::run(&cluster()?, out, command).await,
        Command::Dispatch(command) => dispatch::run(&cluster()?, out, command).await,
        Command::Cdr(command) => cdr::run(&cluster()?, out, command).await,
        Command::Route(command) => routing::routes(&cluster()?, out, command).await,
        Command::Trunk(command) => routing::trunks(&cluster()?, out, command).await,
        Command::Policy(command) => policy::run(&cluster()?, out, command).await,
        Command::Number(command) => routing::numbers(&cluster()?, out, command).await,
        Command::Dns(command) => dns::run(&cluster()?, command).await,
        Command::Config(command) => config::run(&cluster()?, out, command).await,
        Command::Pki(command) => pki::run(command),
        Command::Dev(command) => dev::run(&cli.global, out, command).await,
        Command::Completion { shell } => completion(shell),
        Command::Version => line(&format!("sbcctl {}", env!("CARGO_PKG_VERSION"))),
    }
}

fn completion(shell: clap_complete::Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "sbcctl", &mut script);
    line(&String::from_utf8_lossy(&script))
}

/// Does `round` once, or every second with `-w`.
async fn rounds(out: Out, watching: Watching, mut round: impl AsyncFnMut() -> Result<(), Failure>) -> Result<(), Failure> {
    if !watching.watch {
        return round().await;
    }
    loop {
        out.fresh_screen()?;
        round().await?;
        tokio::time::sleep(WATCH_INTERVAL).await;
    }
}

/// Collects all pages of a listing, or the first `limit` items (0: all).
async fn pages<I>(
    what: &str,
    limit: usize,
    mut page: impl AsyncFnMut(u32, String) -> Result<(Vec<I>, String), Failure>,
) -> Result<Vec<I>, Failure> {
    let mut items = Vec::new();
    let mut token = String::new();
    for _ in 0..MAX_PAGES {
        let (more, next) = page(PAGE, token.clone()).await?;
        items.extend(more);
        if limit > 0 && items.len() >= limit {
            items.truncate(limit);
            return Ok(items);
        }
        if next.is_empty() {
            return Ok(items);
        }
        if next == token {
            break;
        }
        token = next;
    }
    Err(Failure::failed(format!("{what}: the node never ends the list")))
}

pub(crate) use policy::seconds;

/// Asks before something is destroyed. `what` says what is hit.
fn confirm(what: &str, confirm: Confirm) -> Result<(), Failure> {
    let stdin = io::stdin();
    ask(what, confirm.yes, stdin.is_terminal() && io::stderr().is_terminal(), &mut stdin.lock(), &mut io::stderr())
}

fn ask(what: &str, yes: bool, terminal: bool, from: &mut dyn BufRead, to: &mut dyn Write) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !terminal {
        return Err(Failure::new(Exit::Usage, format!("not done without asking: {what}")).hint("repeat with --yes"));
    }
    let mut answer = String::new();
    let asked = write!(to, "{what}\nGo on? [y/N] ").and_then(|()| to.flush()).and_then(|()| from.read_line(&mut answer));
    match asked {
        Ok(_) if matches!(answer.trim(), "y" | "Y" | "yes") => Ok(()),
        Ok(_) => Err(Failure::failed("not done")),
        Err(e) => Err(Failure::failed("not done: the terminal gave no answer").cause(e)),
    }
}

/// The emergency service of a call, for tables; empty: an ordinary call.
fn class(emergency: bool, info: Option<&sbc_proto::v1::EmergencyInfo>) -> String {
    let service = info.map(|i| i.service.clone()).filter(|s| !s.is_empty());
    if emergency { service.unwrap_or_else(|| "emergency".to_owned()) } else { String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(yes: bool, terminal: bool, typed: &str) -> Result<(), Failure> {
        ask("ends call 1-a-2f", yes, terminal, &mut typed.as_bytes(), &mut Vec::new())
    }

    #[test]
    fn asks_on_a_terminal_and_refuses_without() {
        assert!(answer(true, false, "").is_ok());
        assert!(answer(false, true, "y\n").is_ok());
        assert!(answer(false, true, "\n").is_err());
        assert!(answer(false, true, "").is_err());
        let refused = answer(false, false, "y\n").unwrap_err();
        assert_eq!(refused.exit, Exit::Usage);
        assert!(refused.to_string().contains("--yes") && refused.to_string().contains("1-a-2f"));
    }

    #[tokio::test]
    async fn pages_are_collected_up_to_the_limit() {
        async fn page(_: u32, token: String) -> Result<(Vec<u32>, String), Failure> {
            let from: u32 = token.parse().unwrap_or(0);
            Ok(((from..from + 3).collect(), if from < 9 { (from + 3).to_string() } else { String::new() }))
        }
        assert_eq!(pages("x", 0, page).await.unwrap(), (0..12).collect::<Vec<_>>());
        assert_eq!(pages("x", 4, page).await.unwrap(), [0, 1, 2, 3]);
    }

    #[tokio::test]
    async fn a_list_that_never_ends_is_an_error() {
        assert!(pages("x", 0, async |_, _| Ok((vec![1], "same".to_owned()))).await.is_err());
    }
}
