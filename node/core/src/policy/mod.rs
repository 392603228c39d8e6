//! The cluster's configuration as the core uses it: trunks, routes, limits. Parsed and validated by the node.

mod acl;
mod blocks;
mod config;
mod fair;
mod header_rules;
mod media;
mod numbers;
mod prack;
mod profile;
mod rate;
mod source_check;
mod trust;

pub use acl::{AclAction, AclRule, acl_of};
pub use blocks::{Blocked, Blocks};
pub use config::{
    ClusterConfig, MisroutePolicy, Prefix, RequestPolicies, Route, RouteMatch, Settings, Trunk, TrunkAuth, TrunkLimits,
    TrunkTarget, TrunkTimers,
};
pub use fair::FairQueue;
pub use header_rules::{HeaderAction, HeaderRule, MessageKind, Passing, RuleDirection, apply_header_rules, is_protected};
pub use media::{MediaPolicy, PastUs, latches, past_us};
pub use numbers::{NumberRange, Numbers};
pub use prack::PrackPolicy;
pub use profile::{Codecs, IdentityPolicy, Topology, apply_profile};
pub use rate::{Rates, SourceRates};
pub use source_check::{SourceCheck, SourceStanding, standing};
pub use trust::{Challenger, Credentials, MethodPolicy, RedirectPolicy, ReferPolicy, SubscribePolicy, User};
