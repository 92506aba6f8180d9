//! What a run came to.

use std::collections::BTreeMap;

/// What a run came to: how often what happened, and the hash of all of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) counts: BTreeMap<&'static str, u64>,
    pub(crate) trace_hash: u64,
}

impl Report {
    pub(crate) fn add(&mut self, other: &Report) {
        for (name, count) in &other.counts {
            *self.counts.entry(name).or_default() += count;
        }
        self.trace_hash ^= other.trace_hash;
    }

    /// The rare paths were all taken: otherwise the runs prove less than they seem to.
    pub(crate) fn assert_nothing_was_missed(&self) {
        for name in [
            "leader elected",
            "leader stepped down",
            "entries replaced",
            "conflict answered",
            "stale append refused",
            "vote refused",
            "committed before the leader's own disk",
            "read ready",
            "request refused: busy",
            "request refused: not leader",
            "crash",
            "crash lost writes",
            "partition",
            "pause",
            "disconnect",
            "transfer",
            "disk stalled",
            "snapshot taken",
            "snapshot sent",
            "snapshot asked for while one is on its way",
            "snapshot lost",
            "snapshot waited for in vain",
            "snapshot stored by who is not told",
            "snapshot installed",
            "snapshot kept what follows it",
            "snapshot that was no news",
            "snapshot refused",
            "restart from a snapshot",
            "restart with a log that ends before the snapshot",
            "restart in the snapshot's term",
            "clerk: written",
            "clerk: read",
            "clerk: not applied",
            "clerk: outcome unknown",
            "clerk: answer lost",
            "write repeated",
            "write repeated after a snapshot",
            "session expired",
        ] {
            assert!(self.counts.get(name).is_some_and(|&count| count > 0), "never: {name}");
        }
    }
}
