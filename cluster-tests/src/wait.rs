//! Waiting for a condition, never for luck.

use std::fmt::Debug;
use std::time::{Duration, Instant};

/// Between two looks at a condition: short against what is measured, long against the cost of a look.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Looks until `look` gives `Ok`, for at most `limit`.
///
/// # Panics
/// When the limit has passed, with what the last look said.
pub fn until<T, E: Debug>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<T, E>) -> T {
    let end = Instant::now() + limit;
    loop {
        match look() {
            Ok(value) => return value,
            Err(e) if Instant::now() >= end => panic!("not within {limit:?}: {what}; last seen: {e:?}"),
            Err(_) => std::thread::sleep(LOOK_EVERY),
        }
    }
}

/// Looks until `look` gives the wanted value.
///
/// # Panics
/// As [`until`].
pub fn until_equal<T: PartialEq + Debug>(what: &str, limit: Duration, wanted: &T, mut look: impl FnMut() -> T) {
    until(what, limit, || {
        let seen = look();
        if seen == *wanted { Ok(()) } else { Err(seen) }
    });
}
