//! The cluster's time against the simulation's: stamps never fall along the log, and no leader's
//! time runs ahead of the fastest clock. So nothing that has a deadline ends early.

use std::collections::HashMap;

use syncraft::kv::Store;
use syncraft::node::StateMachine;
use syncraft::raft::{Entry, Index, Payload, STAMP_LEN_BYTES, Term};

/// A stamp is cut to a millisecond.
const ROUNDING_MS: f64 = 1.0;

#[derive(Default)]
pub(crate) struct Times {
    /// When leaders appended entries, in the simulation's time.
    appended_us: HashMap<(Index, Term), u64>,
    newest_ms: u64,
    /// The smallest lead that a stamp had over the fastest clock. No later one may have more.
    lead_ms: Option<f64>,
}

impl Times {
    pub(crate) fn appended(&mut self, index: Index, term: Term, now_us: u64) {
        self.appended_us.insert((index, term), now_us);
    }

    /// `rate` is that of the fastest clock.
    pub(super) fn committed(&mut self, entry: &Entry, rate: f64) {
        let Some(stamp_ms) = stamp(entry) else { return };
        assert!(stamp_ms >= self.newest_ms, "the stamp of entry {} falls", entry.index);
        self.newest_ms = stamp_ms;
        let at_us = self.appended_us[&(entry.index, entry.term)];
        let lead_ms = stamp_ms as f64 - at_us as f64 * rate / 1000.0;
        let least_ms = self.lead_ms.map_or(lead_ms, |least_ms| least_ms.min(lead_ms));
        assert!(
            lead_ms <= least_ms + ROUNDING_MS,
            "the stamp of entry {}, {stamp_ms} ms, is {} ms ahead of the clocks",
            entry.index,
            lead_ms - least_ms
        );
        self.lead_ms = Some(least_ms);
    }
}

/// The stamp of an entry, if it has one.
fn stamp(entry: &Entry) -> Option<u64> {
    let Payload::Command(command) = &entry.payload else { return None };
    let stamp = command.last_chunk::<STAMP_LEN_BYTES>().filter(|_| Store::is_stamped(command));
    stamp.map(|bytes| u64::from_le_bytes(*bytes))
}
