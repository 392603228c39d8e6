//! Many worlds, each from a seed.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{invariants, scenario};

/// How many seeds the ordinary test run tries.
const SEEDS: u64 = 2000;
/// Two cores in CI.
const THREADS: usize = 2;
/// Seeds that failed once, each fixed since.
const REGRESSIONS: &[u64] = &[
    56, 298, 520, 542, 581, 767, 782, 862, 972, 986, 1025, 1339, 1361, 1618, 2803, 3112, 3127, 3215, 3263, 3667, 3718, 3897,
    3956, 4028, 4256, 5163, 6325, 6435, 7269, 7601, 7791, 9009, 9184, 9928, 10943, 11796, 13576, 14818, 16756, 17241, 18141,
    18387, 2322, 29190, 34460, 38188, 40583,
];

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|v| v.parse().unwrap_or_else(|_| panic!("{name} must be a number, not {v:?}")))
}

/// What is wrong with the world of a seed.
fn wrong_with(seed: u64, trace: bool) -> Vec<String> {
    invariants::check(&scenario::run(seed, trace))
}

/// A panic is wrong too.
fn caught(wrong: impl FnOnce() -> Vec<String>) -> Vec<String> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(wrong)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned().or(panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
        vec![format!("panic: {}", text.unwrap_or_default())]
    })
}

fn report(again: &str, seed: u64, wrong: &[String]) -> String {
    let command = format!("SIM_SEED={seed} cargo test -p sbc-core --test sim -- {again} --nocapture");
    format!("seed {seed}: {}\n  reproduce: {command}", wrong.join("\n  "))
}

/// How many seeds are tried.
pub(crate) fn count() -> u64 {
    setting("SIM_SEEDS").unwrap_or(SEEDS)
}

/// The seed of which the whole trace is wanted.
pub(crate) fn one() -> Option<u64> {
    setting("SIM_SEED")
}

#[test]
fn seeds_hold() {
    hold(count(), "one_seed", |seed| wrong_with(seed, false));
}

/// Tries that many seeds, some at a time; `again`: the test that runs one of them.
pub(crate) fn hold(count: u64, again: &str, wrong_with: impl Fn(u64) -> Vec<String> + Sync) {
    let first = setting("SIM_FIRST").unwrap_or(0);
    let next = AtomicU64::new(first);
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count {
                        break;
                    }
                    let wrong = caught(|| wrong_with(seed));
                    if !wrong.is_empty() {
                        failures.lock().expect("no panic inside").push((seed, wrong));
                    }
                }
            });
        }
    });
    let mut failures = failures.into_inner().expect("no panic inside");
    failures.sort();
    let text: Vec<String> = failures.iter().take(20).map(|(seed, wrong)| report(again, *seed, wrong)).collect();
    assert!(failures.is_empty(), "{} of {count} seeds failed\n{}", failures.len(), text.join("\n"));
}

#[test]
fn regressions_hold() {
    for &seed in REGRESSIONS {
        let wrong = caught(|| wrong_with(seed, false));
        assert!(wrong.is_empty(), "{}", report("one_seed", seed, &wrong));
    }
}

/// One seed with its whole trace.
#[test]
fn one_seed() {
    let Some(seed) = one() else { return };
    let wrong = caught(|| wrong_with(seed, true));
    assert!(wrong.is_empty(), "{}", report("one_seed", seed, &wrong));
}
