//! How many sockets the engine may have: the rest of the process's descriptors is somebody else's.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::limits::reserve_of;

/// The engine's share of descriptors.
#[derive(Debug)]
pub(super) struct SocketShare {
    most: usize,
    used: AtomicUsize,
}

impl SocketShare {
    pub(super) fn new(most: usize) -> Arc<SocketShare> {
        Arc::new(SocketShare { most, used: AtomicUsize::new(0) })
    }

    /// Room for `count` sockets until the grant is dropped; `None`: there is none, or what is left is kept for `urgent` ones.
    pub(super) fn take(self: &Arc<SocketShare>, count: usize, urgent: bool) -> Option<SocketGrant> {
        let most = if urgent { self.most } else { self.most - reserve_of(self.most) };
        let more = |used: usize| used.checked_add(count).filter(|sum| *sum <= most);
        self.used.fetch_update(Relaxed, Relaxed, more).ok()?;
        Some(SocketGrant { share: Arc::clone(self), count })
    }

    /// How many there may be, and how many more.
    pub(super) fn room(&self) -> (usize, usize) {
        (self.most, self.most.saturating_sub(self.used.load(Relaxed)))
    }
}

/// Room for some sockets; given back when dropped.
#[derive(Debug)]
pub(super) struct SocketGrant {
    share: Arc<SocketShare>,
    count: usize,
}

impl Drop for SocketGrant {
    fn drop(&mut self) {
        self.share.used.fetch_sub(self.count, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_are_kept_for_emergency_calls_and_all_come_back() {
        let share = SocketShare::new(32);
        let ordinary: Vec<_> = std::iter::from_fn(|| share.take(2, false)).collect();
        assert_eq!((ordinary.len(), share.room()), (14, (32, 4)));
        let urgent: Vec<_> = std::iter::from_fn(|| share.take(2, true)).collect();
        assert_eq!((urgent.len(), share.room()), (2, (32, 0)));
        drop(urgent);
        assert!(share.take(2, false).is_none());
        drop(ordinary);
        assert_eq!(share.room(), (32, 32));
        assert!(share.take(33, true).is_none() && share.take(usize::MAX, true).is_none());
    }
}
