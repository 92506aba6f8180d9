//! The result of a run.

use std::collections::BTreeMap;

const FAULTS: [&str; 30] = [
    "change begun",
    "newcomer with another directory",
    "member that was removed comes back",
    "cluster upgraded",
    "told to stand for election",
    "clock jumped",
    "member wiped",
    "snapshot chunk cut",
    "message dropped",
    "message duplicated",
    "message replayed",
    "partition",
    "pause",
    "disconnect",
    "transfer",
    "leader deposed",
    "clerk: answer lost",
    "crash: killed",
    "crash: power cut",
    "crash: stopped",
    "crash in a start",
    "crash while a snapshot arrives",
    "crash while a snapshot is written",
    "disk stalled",
    "disk full",
    "start on a full disk",
    "member stopped by its disk",
    "snapshot lost",
    "snapshot not taken",
    "snapshot did not arrive",
];

const PATHS: [&str; 88] = [
    "newcomer",
    "cluster taken",
    "member removed",
    "message of another cluster",
    "change refused: not leader",
    "change refused: handing over",
    "change refused: under way",
    "change refused: unrecorded",
    "change refused: id in use",
    "change refused: id was used",
    "change refused: address in use",
    "change refused: bad address",
    "change refused: not a member",
    "change refused: is a voter",
    "change refused: behind",
    "change refused: no live majority",
    "change refused: rebuilding",
    "change refused: silent",
    "request repeated",
    "clerk: refused: request key taken",
    "history: an order found",
    "time told",
    "lease ended",
    "clerk: lease granted",
    "clerk: lease kept alive",
    "clerk: refused: lease exists",
    "leader elected",
    "leader stepped down",
    "entries replaced",
    "conflict answered",
    "stale append refused",
    "vote refused",
    "committed before the leader's own disk",
    "read ready",
    "read under a lease",
    "read without the core",
    "member joined",
    "request refused: busy",
    "request refused: handing over",
    "request refused: disk full",
    "request refused: not leader",
    "disk full, then not",
    "segment recycled",
    "torn tail cut",
    "crash lost writes",
    "restart from a snapshot",
    "restart with a log that ends before the snapshot",
    "restart in the snapshot's term",
    "snapshot taken",
    "snapshot asked for by a leader",
    "snapshot sent",
    "snapshot sent from an earlier place",
    "snapshot resumed where it broke off",
    "snapshot asked for while one is on its way",
    "snapshot waited for in vain",
    "snapshot of a leader whose term is over",
    "snapshot arrived after a newer one",
    "snapshot stored by who is not told",
    "snapshot installed",
    "snapshot kept what follows it",
    "snapshot that ends the log",
    "snapshot that was no news",
    "snapshot refused",
    "clerk: written",
    "clerk: read",
    "clerk: not applied",
    "clerk: outcome unknown",
    "clerk: session begun anew",
    "clerk: late answer",
    "clerk: read of several keys",
    "clerk: comparisons held",
    "clerk: comparisons did not hold",
    "clerk: nested transaction",
    "clerk: operation failed alone",
    "clerk: limits changed, or compacted",
    "clerk: answer forgotten",
    "clerk: refused: not a number",
    "clerk: refused: overflow",
    "clerk: refused: key absent",
    "clerk: refused: no such lease",
    "clerk: refused: no space",
    "clerk: refused: compacted",
    "clerk: refused: in the future",
    "clerk: refused: limit out of bounds",
    "write repeated",
    "write repeated after a snapshot",
    "write superseded",
    "session expired",
];

/// The result of a run: how often each event happened, and the hash of everything.
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

    pub(crate) fn count_of(&self, name: &str) -> u64 {
        self.counts.get(name).copied().unwrap_or(0)
    }

    /// How many faults there were, of all kinds.
    pub(crate) fn faults(&self) -> u64 {
        FAULTS.iter().map(|name| self.count_of(name)).sum()
    }

    /// The rare paths were all taken: otherwise the runs prove less than they seem to.
    pub(crate) fn assert_nothing_was_missed(&self) {
        let missed: Vec<_> =
            FAULTS.iter().chain(&PATHS).filter(|name| self.count_of(name) == 0).collect();
        assert!(missed.is_empty(), "never: {missed:?}");
    }
}
