//! Pauses of the loop: what was checked against the lease before one must not be acted on after it, and whoever has slept has no lease until
//! it is confirmed anew (anycast.md, rule I; NothingAfterAPause in `node/core/tests/lease`).
//!
//! The time of each input is stamped before the core decides, and what it decides leaves in the same turn. Half of the margin that the leader
//! adds to a lease is for the time in between. A turn that took longer is noticed at its end: what left in it left late, and nothing more is
//! initiated under that confirmation.

use std::time::Duration;

use sbc_core::io::View;
use sbc_core::time::Instant;
use sbc_raft::LEASE_MARGIN;

/// Longest time between the stamp and the packets.
pub(super) const LONGEST: Duration = LEASE_MARGIN.checked_div(2).expect("not by 0");

/// See the module.
#[derive(Debug)]
pub(super) struct Pause {
    lease: Duration,
    /// Since when the loop is awake again.
    awake: Option<Instant>,
    view: View,
}

impl Pause {
    pub(super) fn new(lease: Duration) -> Pause {
        Pause { lease, awake: None, view: View::default() }
    }

    /// The view that the core is to have: without a lease that was confirmed before the loop woke.
    pub(super) fn admit(&mut self, view: View) -> View {
        self.view = view;
        self.present()
    }

    /// The loop has been away from `from` to `to`. The view without a lease, if that was too long.
    pub(super) fn look(&mut self, from: Instant, to: Instant) -> Option<View> {
        if to.since(from) <= LONGEST {
            return None;
        }
        self.awake = Some(to);
        let view = self.present();
        (view.lease_until != self.view.lease_until).then_some(view)
    }

    fn present(&self) -> View {
        // A lease runs from when its confirmation was asked for.
        let old = self.awake.is_some_and(|awake| self.view.lease_until < awake + self.lease);
        let lease_until = if old { Instant::default() } else { self.view.lease_until };
        View { lease_until, ..self.view.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_that_slept_has_no_lease_until_it_is_confirmed_anew() {
        let at = |ms: u64| Instant::from_micros(ms * 1000);
        let confirmed = |ms: u64| View { lease_until: at(ms + 2000), caught_up: true, ..View::default() };
        let mut pause = Pause::new(Duration::from_secs(2));
        assert_eq!(pause.admit(confirmed(10_000)).lease_until, at(12_000));
        assert_eq!(pause.look(at(10_100), at(10_350)), None, "half the margin");
        let view = pause.look(at(10_100), at(10_351)).expect("it slept");
        assert!(view.lease_until == Instant::default() && view.caught_up);
        assert_eq!(pause.admit(confirmed(10_350)).lease_until, Instant::default(), "asked for before it woke");
        assert_eq!(pause.admit(confirmed(10_351)).lease_until, at(12_351));
        assert_eq!(pause.look(at(10_400), at(10_500)), None);
    }
}
