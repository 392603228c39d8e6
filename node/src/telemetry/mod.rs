//! Logs and metrics.

mod alarms;
mod http;
mod log;
mod metrics;
mod repeats;

pub use alarms::{ActiveAlarm, Alarms};
pub use http::{HealthPage, HttpError, serve_http};
pub use log::init_logging;
pub use metrics::{Gauges, Metrics, Reading};
