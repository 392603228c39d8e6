//! What a trunk and we prove to each other, and what is done with requests that are more than a call.

use std::time::Duration;

use crate::auth::{AuthHeader, Hash, Secret};

/// With what we answer a trunk's 401 and 407.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// User name, without quotes and backslashes.
    pub username: Box<str>,
    /// Its secret.
    pub secret: Secret,
    /// The one realm to answer; `None`: each that asks.
    pub realm: Option<Box<str>>,
}

/// How a trunk's callers are challenged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenger {
    /// The realm of our challenges.
    pub realm: Box<str>,
    /// As what we ask: there are gateways that answer a proxy only.
    pub asks: AuthHeader,
    /// Who may call.
    pub users: Vec<User>,
    /// Offered algorithms, the preferred one first (RFC 8760 §2.3).
    pub algorithms: Vec<Hash>,
    /// True: emergency calls are challenged too. Never by default: such a call is not to fail for a password.
    pub emergency: bool,
    /// How long a nonce serves.
    pub nonce_life: Duration,
}

impl Challenger {
    /// How long a nonce serves by default: long enough for a caller to be asked by a person.
    pub const NONCE_LIFE: Duration = Duration::from_secs(300);

    /// The algorithms that each user's secret allows: a client takes the first one that it knows, and must then succeed.
    pub fn offered(&self) -> impl Iterator<Item = Hash> {
        let all = |hash: &Hash| self.users.iter().all(|u| !u.secret.is_known() || u.secret.allows(*hash));
        self.algorithms.iter().copied().filter(move |hash| all(hash))
    }
}

/// One who may call over a trunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// User name.
    pub name: Box<str>,
    /// Its secret.
    pub secret: Secret,
}

/// What is done with a 3xx of the called side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RedirectPolicy {
    /// It goes to the caller.
    #[default]
    Pass,
    /// Its contacts are dialled (RFC 3261 §8.1.3.4).
    Follow,
}

/// What is done with a REFER of a trunk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReferPolicy {
    /// It goes to the other side, which transfers itself.
    #[default]
    Pass,
    /// 403.
    Reject,
}

/// What is done with a method that we do not know, within a call. One that begins something gets 501 in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MethodPolicy {
    /// 501 with Allow.
    #[default]
    Refuse,
    /// Passed on like INFO or MESSAGE.
    Pass,
}

/// What is done with SUBSCRIBE and PUBLISH of a trunk outside of a call. Within a call both pass in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SubscribePolicy {
    /// They go where a call would.
    #[default]
    Pass,
    /// 405 with Allow.
    Refuse,
}
