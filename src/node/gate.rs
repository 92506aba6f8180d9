//! [`Gate`].

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Condvar, Mutex};

/// A member's threads pass it before each turn. While it is closed, it holds them, as SIGSTOP
/// would: for tests of clusters inside one process. An open gate costs one load.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    is_closed: AtomicBool,
    lock: Mutex<()>,
    opened: Condvar,
}

impl Gate {
    #[cfg(feature = "testing")]
    pub(crate) fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
    }

    pub(crate) fn open(&self) {
        let guard = self.lock.lock();
        self.is_closed.store(false, Ordering::Release);
        drop(guard);
        self.opened.notify_all();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }

    /// Waits while it is closed.
    pub(crate) fn pass(&self) {
        if !self.is_closed() {
            return;
        }
        let mut guard = self.lock.lock();
        while self.is_closed() {
            self.opened.wait(&mut guard);
        }
    }
}
