//! [`Signal`]: wakes the thread of the watches. To raise it again before the thread has woken costs
//! one atomic operation.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

#[derive(Debug, Default)]
pub(super) struct Signal {
    is_raised: AtomicBool,
    lock: Mutex<()>,
    raised: Condvar,
}

impl Signal {
    pub(super) fn raise(&self) {
        if !self.is_raised.swap(true, Ordering::AcqRel) {
            // Whoever looks under the lock sees it, or waits by now.
            drop(self.lock.lock());
            self.raised.notify_one();
        }
    }

    /// Waits until it is raised, or until this moment, and takes it back.
    pub(super) fn wait(&self, until: Instant) {
        let mut guard = self.lock.lock();
        while !self.is_raised.swap(false, Ordering::AcqRel) {
            if self.raised.wait_until(&mut guard, until).timed_out() {
                break;
            }
        }
    }
}
