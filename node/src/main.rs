//! `sbcd`: one node of the anycast SBC.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use sbc_node::app::{self, AppError, StartOptions};
use sbc_node::config::{Faults, NodeConfig};
use sbc_node::telemetry::init_logging;

/// One node of a cluster of anycast session border controllers for emergency calls.
#[derive(Debug, Parser)]
#[command(name = "sbcd", version)]
struct Args {
    /// The node's configuration (TOML).
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Make the cluster out of all configured members, if that has not been done. Give it to one node, at its first start.
    #[arg(long)]
    init: bool,
    /// Read and check the configuration and the files that it names, and exit.
    #[arg(long)]
    check_config: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sbcd: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), String> {
    let file = args.config.display().to_string();
    let text = std::fs::read_to_string(&args.config).map_err(|e| format!("{file}: {e}"))?;
    let base = args.config.parent().map(PathBuf::from).unwrap_or_default();
    let config = NodeConfig::parse(&text, &base).map_err(|faults| faults.render(&file, &text))?;
    let log = config.log.clone();
    let checked = app::check(config).map_err(|e| match e {
        AppError::Files(faults) => Faults::at_keys(&text, &faults).render(&file, &text),
        other => other.to_string(),
    })?;
    if args.check_config {
        for warning in checked.warnings() {
            eprintln!("warning: {warning}");
        }
        println!("{file}: ok");
        return Ok(());
    }
    init_logging(&log)?;
    app::run(checked, &StartOptions { init: args.init }).map_err(|e| e.to_string())
}
