//! The body is `bodies/uri.rs`.
#![no_main]

#[path = "../bodies/mod.rs"]
#[allow(dead_code)]
mod bodies;
#[path = "../../tests/sim/invariants/no_anycast_leak.rs"]
#[allow(dead_code)]
mod no_anycast_leak;

libfuzzer_sys::fuzz_target!(|octets: &[u8]| {
    let _ = bodies::uri::run(octets);
});
