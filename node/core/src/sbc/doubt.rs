//! Requests within a call from where anybody may be (AC-52): they are held while the far end is asked at the address where it was last
//! seen, and while it is looked where its media come from. What a forger sent goes no further; a far end that has moved is followed.

use std::collections::HashSet;

use crate::ids::LocalId;
use crate::io::Side;

/// Legs that are in doubt at once: each holds four requests for 2 s. Real far ends that move within the same 2 s are a handful.
const MAX_DOUBTED: usize = 500;

/// Legs about which a question is open, by call.
#[derive(Debug, Default)]
pub(super) struct Doubted(HashSet<(LocalId, Side)>);

impl Doubted {
    /// One more request of that leg. False: too many are in doubt.
    pub(super) fn open(&mut self, id: LocalId, side: Side) -> bool {
        let known = self.0.contains(&(id, side));
        let fits = known || self.0.len() < MAX_DOUBTED;
        if fits && !known {
            self.0.insert((id, side));
        }
        fits
    }

    pub(super) fn close(&mut self, id: LocalId, side: Side) {
        self.0.remove(&(id, side));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_legs_are_in_doubt_and_no_more() {
        let mut doubted = Doubted::default();
        let call = LocalId;
        assert!((0..MAX_DOUBTED as u64).all(|n| doubted.open(call(n), Side::Caller)));
        assert!(!doubted.open(call(0), Side::Callee) && doubted.open(call(7), Side::Caller), "a leg that is in doubt holds more");
        doubted.close(call(7), Side::Caller);
        assert!(doubted.open(call(0), Side::Callee) && !doubted.open(call(7), Side::Caller));
    }
}
