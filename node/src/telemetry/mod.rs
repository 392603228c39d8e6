//! Logs and metrics.

mod alarms;
mod http;
mod log;
mod metrics;
mod repeats;
mod routers;

pub use alarms::{ActiveAlarm, Alarms};
pub use http::{HealthPage, HttpError, serve_http};
pub use log::{check_log_filter, init_logging, set_log_filter};
pub use metrics::{Gauges, Metrics, Reading};
pub use routers::RouterReading;
