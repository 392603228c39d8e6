//! Log lines to standard error, as JSON or for people.

use tracing_subscriber::EnvFilter;

use crate::config::{LogFormat, LogSection};

/// Installs the process's subscriber. The error is for the operator: the filter, or that one is installed already.
pub fn init_logging(config: &LogSection) -> Result<(), String> {
    let filter = EnvFilter::builder().parse(&config.filter).map_err(|e| format!("log filter \"{}\": {e}", config.filter))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match config.format {
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
        LogFormat::Text => builder.with_ansi(false).try_init(),
    }
    .map_err(|e| e.to_string())
}
