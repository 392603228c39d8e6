//! The cluster seen from outside, as an operator and a phone see it: real `sbcd` processes, real clients.
//!
//! Nothing here links the product's code: nodes are started by `sbcctl dev up` (or from files of the test's own), asked by
//! `sbcctl … -o json` and called by sipp, baresip or the phones of [`phone`], which
//! speak and read with `sbc-phone`. Everything that waits has a limit.

pub mod baresip;
pub mod bird;
pub mod cluster;
pub mod command;
pub mod compose;
pub mod digest;
pub mod dnsmasq;
pub mod flood;
pub mod gateway;
pub mod guard;
pub mod kamailio;
pub mod lab;
pub mod ladder;
pub mod linphone;
pub mod load;
pub mod message;
pub mod netns;
pub mod phone;
pub mod pki;
pub mod process;
pub mod rtp;
pub mod scene;
pub mod scrape;
pub mod sipp;
pub mod sites;
pub mod stream;
pub mod upgrade;
pub mod wait;
pub mod wav;
