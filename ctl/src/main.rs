//! `sbcctl`: operates a cluster of anycast SBCs. It sees a node as an operator and a phone do: gRPC and SIP.

mod args;
mod client;
mod commands;
mod context;
mod dev;
mod error;
mod files;
mod follow;
mod output;
mod pki;
mod zone;

use std::process::ExitCode;

use clap::Parser;

use args::Cli;
use error::{Exit, Failure};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return finish(Err(Failure::failed("cannot start").cause(e))),
    };
    finish(runtime.block_on(run(cli)))
}

/// Runs the command until it ends or the user interrupts it. Dropping it runs its clean-up.
async fn run(cli: Cli) -> Result<(), Failure> {
    tokio::select! {
        result = Box::pin(commands::run(cli)) => result,
        _ = tokio::signal::ctrl_c() => Err(Failure::silent(Exit::Interrupted)),
    }
}

fn finish(result: Result<(), Failure>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.error.is_empty() {
                output::note(&failure.to_string());
            }
            ExitCode::from(failure.exit as u8)
        }
    }
}
