//! The cluster's configuration as the core uses it: trunks, routes, limits. Parsed and validated by the node.

mod config;
mod rate;
mod trust;

pub use config::{ClusterConfig, MisroutePolicy, Prefix, Route, RouteMatch, Settings, Trunk, TrunkTarget};
pub use rate::SourceRates;
pub use trust::{Challenger, Credentials, MethodPolicy, RedirectPolicy, ReferPolicy, User};
