//! Says in the log how far a long start has come: whoever waits for it wants to know whether it gets anywhere.

use std::time::{Duration, Instant};

/// A start that is shorter says nothing.
const PAUSE: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct Progress {
    what: &'static str,
    total: u64,
    unit: &'static str,
    said: Instant,
}

impl Progress {
    /// Of `total` things to do.
    pub(super) fn new(what: &'static str, total: u64, unit: &'static str) -> Progress {
        Progress { what, total, unit, said: Instant::now() }
    }

    /// So many are done.
    pub(super) fn at(&mut self, done: u64) {
        if self.said.elapsed() >= PAUSE {
            self.said = Instant::now();
            let percent = 100 * done.min(self.total) / self.total.max(1);
            log::info!("{}: {done} of {} {} ({percent} %)", self.what, self.total, self.unit);
        }
    }
}
