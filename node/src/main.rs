//! `sbcd`: one node of the anycast SBC.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use sbc_node::app::{self, StartOptions};
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
    let checked = app::read(&args.config)?;
    if args.check_config {
        for warning in checked.warnings() {
            eprintln!("warning: {warning}");
        }
        println!("{}: ok", args.config.display());
        return Ok(());
    }
    init_logging(checked.log())?;
    app::run(checked, &StartOptions { init: args.init }).map_err(|e| e.to_string())
}
