//! `sbcctl dev`: a whole cluster on this machine, of real `sbcd` processes on loopback addresses, without root.

pub(crate) mod args;
mod call;
mod config;
mod demo;
mod evidence;
mod flip;
mod handset;
mod process;
mod ready;
mod report;
mod run;
mod stand;

use crate::args::Global;
use crate::error::Failure;
use crate::output::{Out, Table, note};
use args::DevCommand;
use process::Process;
use stand::Stand;

/// Runs a command.
pub(crate) async fn run(global: &Global, out: Out, command: DevCommand) -> Result<(), Failure> {
    match command {
        DevCommand::Up(args) => run::up(global, args).await,
        DevCommand::Down(dir) => run::down(&Stand::load(&dir)?).await,
        DevCommand::Status(dir) => status(&Stand::load(&dir)?, out).await,
        DevCommand::Flip { node, dir } => {
            let stand = Stand::load(&dir)?;
            let took = flip::flip(&stand, &stand.node(&node)?).await?;
            note(&format!("{} serves {} after {} ms", node, stand::ANYCAST, took.as_millis()));
            Ok(())
        }
        DevCommand::Kill { node, dir } => {
            let stand = Stand::load(&dir)?;
            run::kill(&stand, &stand.node(&node)?.name).await
        }
        DevCommand::Heal(dir) => run::heal(&Stand::load(&dir)?).await,
        DevCommand::Call(args) => call::call(out, &args).await,
        DevCommand::Demo => demo::demo().await,
        DevCommand::Psap { bind } => call::psap(bind).await,
    }
}

async fn status(stand: &Stand, out: Out) -> Result<(), Failure> {
    let announcers = ready::announcers(stand).await?;
    let mut table = Table::new(&["PROCESS", "PID", "STATE", "ANYCAST", "SIP", "GRPC", "LOG"]);
    let mut processes = Vec::new();
    for name in stand.process_names() {
        if name == "psap" && stand.spec.psap.is_some() {
            continue;
        }
        let process = Process::load(&stand.pid(&name)).filter(Process::is_alive);
        let pid = process.map(|p| p.pid());
        let announced = announcers.contains(&name);
        let (sip, grpc) = match stand.node(&name) {
            Ok(node) => (format!("{}:{}", node.unicast(), stand::SIP_PORT), node.grpc().to_string()),
            Err(_) => (stand.psap().to_string(), String::new()),
        };
        let log = stand.log(&name).display().to_string();
        processes.push(serde_json::json!({
            "name": name, "pid": pid, "running": pid.is_some(), "announced": announced, "sip": sip, "grpc": grpc, "log": log,
        }));
        table.row([
            name,
            pid.map(|p| p.to_string()).unwrap_or_default(),
            if pid.is_some() { "running" } else { "dead" }.to_owned(),
            if announced { stand::ANYCAST.to_string() } else { String::new() },
            sip,
            grpc,
            log,
        ]);
    }
    let value = serde_json::json!({ "dir": stand.dir, "psap": stand.psap(), "processes": processes });
    out.value(&value, || table)
}
