//! One order about the announcement at a time, and the numbers by which the log tells an old word of this node from a new one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{Mutex, OwnedMutexGuard};

/// Shared by the orders of operators and by what the node reports by itself.
#[derive(Debug, Default)]
pub struct Intents {
    order: Arc<Mutex<()>>,
    said: AtomicU64,
}

impl Intents {
    /// Waits for the order under way. Until the guard is gone the node says nothing of itself by itself: what the log has decided may not be
    /// carried out yet.
    pub async fn hold(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.order).lock_owned().await
    }

    /// The same where none is under way.
    pub fn try_hold(&self) -> Option<OwnedMutexGuard<()>> {
        Arc::clone(&self.order).try_lock_owned().ok()
    }

    /// The number of the next word of this start; the first is 1.
    pub fn next(&self) -> u64 {
        self.said.fetch_add(1, Ordering::Relaxed) + 1
    }
}
