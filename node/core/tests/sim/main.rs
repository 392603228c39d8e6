//! The cluster in one process and in virtual time: N cores, a seeded network, an anycast route that flips, a log that fails,
//! phones that retransmit (issue "Three nodes carry a call"). A failing seed is reproduced by
//! `SIM_SEED=<seed> cargo test -p sbc-core --test sim -- one_seed --nocapture`.
//! `SIM_SEEDS=<count> SIM_FIRST=<seed>` runs others than the ordinary ones.

mod addresses;
mod admission;
mod answers;
mod auth;
mod basic;
mod cases;
mod claims;
mod crowd;
mod cut;
mod dialling;
mod early;
mod emergency;
mod explained;
mod failover;
mod invariants;
mod legs;
mod loops;
mod neighbours;
mod outage;
mod overtaken;
mod pages;
mod phone;
mod plan;
mod quiet;
mod redirects;
mod refreshed;
mod repeated;
mod restart;
mod restored;
mod rig;
mod rng;
mod scenario;
mod secure;
mod seeds;
mod subscription_ways;
mod subscriptions;
mod takeover;
mod timer_c;
mod uncommitted;
mod world;
