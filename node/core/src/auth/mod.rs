//! Digest authentication for SIP (RFC 3261 §22, RFC 7616, RFC 8760): the arithmetic, the challenges of others, and our own.
//!
//! Written by hand: rsip's generator counts requests in decimal and below 256, has no `-sess` and no stored HA1, and takes no
//! Request-URI that its parser refuses (`tests/rsip_agrees.rs` compares the two where rsip is right). What is kept true: no secret is ever
//! formatted, and a nonce of ours is verified by each node of the cluster from the nonce alone.

mod client;
mod digest;
mod fields;
mod secret;
mod server;

pub use client::{AuthHeader, Challenge, challenges};
pub use digest::{Algorithm, DigestInputs, Hash, Qop, ha1};
pub use fields::realm_of;
pub use secret::Secret;
pub use server::{NonceState, Presented, check_nonce, mint_nonce, our_challenge, presented};
