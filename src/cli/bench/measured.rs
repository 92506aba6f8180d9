//! What a run has measured: latencies, and counts of the operations that failed.

use std::time::Duration;

use hdrhistogram::Histogram;
use syncraft::ErrorChain;
use syncraft::clerk::{ClerkError, ClerkErrorKind};

/// The longest latency that can be recorded, in microseconds: an hour.
pub(super) const LATENCY_MAX_US: u64 = 3_600_000_000;
/// Significant digits of a recorded latency.
const LATENCY_DIGITS: u8 = 3;

/// The results of a run.
pub(super) struct Measured {
    /// How many operations succeeded.
    pub(super) operations: u64,
    /// The latencies of operations that succeeded, in microseconds.
    pub(super) latencies: Histogram<u64>,
    pub(super) elapsed: Duration,
    pub(super) errors: Errors,
    pub(super) first_error: Option<String>,
}

/// Counts of failed operations, by kind of failure.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Errors {
    pub(super) not_applied: u64,
    pub(super) unknown: u64,
    pub(super) rejected: u64,
    /// Due before an open loop ended, but no client was free.
    pub(super) not_begun: u64,
}

/// How an operation failed.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) kind: ClerkErrorKind,
    pub(super) words: String,
}

impl Failed {
    /// It certainly changed nothing.
    pub(super) fn not_applied(words: impl Into<String>) -> Failed {
        Failed { kind: ClerkErrorKind::NotApplied, words: words.into() }
    }
}

impl From<ClerkError> for Failed {
    fn from(error: ClerkError) -> Failed {
        Failed { kind: error.kind(), words: ErrorChain(&error).to_string() }
    }
}

/// What the clients of one connection have measured.
pub(super) struct Shard {
    pub(super) latencies: Histogram<u64>,
    pub(super) errors: Errors,
    pub(super) first_error: Option<String>,
}

impl Shard {
    pub(super) fn new() -> Shard {
        let latencies = Histogram::new_with_bounds(1, LATENCY_MAX_US, LATENCY_DIGITS)
            .expect("these bounds are in order");
        Shard { latencies, errors: Errors::default(), first_error: None }
    }

    pub(super) fn count(&mut self, latency_us: u64, result: Result<(), Failed>) {
        let Err(Failed { kind, words }) = result else {
            return self.latencies.saturating_record(latency_us);
        };
        *match kind {
            ClerkErrorKind::NotApplied => &mut self.errors.not_applied,
            ClerkErrorKind::Unknown | ClerkErrorKind::Applied => &mut self.errors.unknown,
            ClerkErrorKind::Rejected => &mut self.errors.rejected,
        } += 1;
        self.first_error.get_or_insert(words);
    }

    /// Of this shard alone. An operation for each of `each` counts as so many.
    pub(super) fn measured(self, each: u64, elapsed: Duration) -> Measured {
        let Shard { latencies, errors, first_error } = self;
        Measured { operations: latencies.len() * each, latencies, elapsed, errors, first_error }
    }

    pub(super) fn add(&mut self, other: &mut Shard) {
        self.latencies.add(&other.latencies).expect("all have the same bounds");
        self.errors.not_applied += other.errors.not_applied;
        self.errors.unknown += other.errors.unknown;
        self.errors.rejected += other.errors.rejected;
        self.errors.not_begun += other.errors.not_begun;
        if let Some(error) = other.first_error.take() {
            self.first_error.get_or_insert(error);
        }
    }
}
