//! Log lines to standard error, as JSON or for people.

use std::sync::OnceLock;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt, reload};

use super::repeats::Repeats;
use crate::config::{LogFormat, LogSection};

/// What is not shown unless the filter names it. Openraft warns of each try to reach a peer that is down; whether it is down the
/// links tell, once.
const QUIET: &str = "openraft=error";

/// Takes another filter.
type SetFilter = Box<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync>;

/// Of the process's subscriber.
static FILTER: OnceLock<SetFilter> = OnceLock::new();

/// Installs the process's subscriber. The error is for the operator: the filter, or that one is installed already.
pub fn init_logging(config: &LogSection) -> Result<(), String> {
    // Where standard error is a file on a full disk a line is lost. The layer's own complaint would go there too, and panic.
    let lines = fmt::layer().with_writer(std::io::stderr).log_internal_errors(false);
    let lines = match config.format {
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
        LogFormat::Text => lines.with_ansi(false).boxed(),
    };
    let repeats = Repeats::default();
    let (filter, handle) = reload::Layer::new(filter(&config.filter)?);
    let subscriber = tracing_subscriber::registry().with(lines).with(repeats.clone()).with(filter);
    subscriber.try_init().map_err(|e| e.to_string())?;
    // One subscriber, one filter: a second one has failed above.
    let _ = FILTER.set(Box::new(move |filter| handle.reload(filter).map_err(|e| e.to_string())));
    repeats.tell_regularly().map_err(|e| e.to_string())
}

/// Whether it is a filter. The error is for the operator.
pub fn check_log_filter(directives: &str) -> Result<(), String> {
    filter(directives).map(drop)
}

/// Lines from now on are filtered by this. Without a subscriber of ours nothing is to be done.
pub fn set_log_filter(directives: &str) -> Result<(), String> {
    let filter = filter(directives)?;
    FILTER.get().map_or(Ok(()), |set| set(filter))
}

/// Of two directives for one target the later one counts.
fn filter(directives: &str) -> Result<EnvFilter, String> {
    let all = format!("{QUIET},{directives}");
    EnvFilter::builder().parse(all).map_err(|e| format!("log filter \"{directives}\": {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(directives: &str) -> [bool; 3] {
        let subscriber = tracing_subscriber::registry().with(filter(directives).unwrap());
        tracing::subscriber::with_default(subscriber, || {
            [
                tracing::enabled!(target: "openraft::replication", tracing::Level::WARN),
                tracing::enabled!(target: "openraft::replication", tracing::Level::ERROR),
                tracing::enabled!(target: "sbc_node", tracing::Level::INFO),
            ]
        })
    }

    #[test]
    fn openraft_is_quiet_unless_it_is_named() {
        assert_eq!(shown("info"), [false, true, true]);
        assert_eq!(shown("info,sbc_core=debug"), [false, true, true]);
        assert_eq!(shown("info,openraft=info"), [true, true, true]);
        assert_eq!(shown("openraft=warn,info"), [true, true, true]);
        assert_eq!(shown(""), [false, true, false]);
        assert!(filter("sbc=nonsense").is_err());
    }

    #[test]
    fn a_filter_that_is_none_is_refused() {
        assert!(set_log_filter("info,sbc_core=debug").is_ok());
        assert!(set_log_filter("sbc_core=louder").unwrap_err().contains("sbc_core=louder"));
    }
}
