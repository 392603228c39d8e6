//! What is asked of arbitrary octets: one function a target, which panics where something is wrong. `cargo fuzz` runs them from
//! `fuzz_targets`, `tests/torture.rs` from a seed, without any extra toolchain.

pub(crate) mod call;
pub(crate) mod lab;
pub(crate) mod message;
pub(crate) mod multipart;
pub(crate) mod policy;
pub(crate) mod sdp;
pub(crate) mod stream;
pub(crate) mod uri;
