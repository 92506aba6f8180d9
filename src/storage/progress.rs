//! Logs how far a long start has come, for the person who waits for it.

use std::time::{Duration, Instant};

/// The pause between two lines; a shorter start logs none.
const PAUSE: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct Progress {
    what: &'static str,
    total: u64,
    unit: &'static str,
    said: Instant,
}

impl Progress {
    /// `what` is being done, and consists of `total` units.
    pub(super) fn new(what: &'static str, total: u64, unit: &'static str) -> Progress {
        Progress { what, total, unit, said: Instant::now() }
    }

    /// Reports that `done` units are done.
    pub(super) fn at(&mut self, done: u64) {
        if self.said.elapsed() >= PAUSE {
            self.said = Instant::now();
            let percent = 100 * done.min(self.total) / self.total.max(1);
            log::info!("{}: {done} of {} {} ({percent} %)", self.what, self.total, self.unit);
        }
    }
}
