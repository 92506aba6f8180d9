//! [`Digest`]: a running digest of the applied state, by which members compare their states at the
//! same index.
//!
//! The digest is a chain over all entries: the entry, its outcome, and the size of the state after
//! it. So the digests of two members differ from the first entry on which their states differ. They
//! stay different, because each link maps different digests to different digests. A link costs one
//! pass over the command, whatever the size of the state.
//!
//! Time and leases, and requests with keys, are in a link only once there is something of them,
//! because stores without them have had links before there were any.
//!
//! Left out: the values themselves. A bit that flips in memory is noticed only if it changes an
//! outcome or a size. Left out as well: the store's limits, which the chain of level 1 does not
//! have, and which a later level may add. The commands that change them are in the chain. A member
//! whose limits differ nevertheless is noticed as soon as they decide an outcome, or what the
//! history holds.
//!
//! Members of different versions compare digests, and snapshots contain them. The golden test below
//! must never change.

use bytes::Bytes;

use super::model::Refusal;
use super::outcome::{Branches, Outcome};
use super::query::Stats;
use crate::raft::Index;

/// See the [module](self). Zero: nothing has been applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Digest(u64);

impl Digest {
    pub(super) fn from_value(value: u64) -> Digest {
        Digest(value)
    }

    pub(super) fn value(self) -> u64 {
        self.0
    }

    /// Adds a link: `command` at `index` had this `outcome`, and the state now has the size
    /// `after`.
    pub(super) fn extend(
        &mut self,
        index: Index,
        command: &Bytes,
        outcome: &Outcome,
        after: &Stats,
    ) {
        self.link(index.0);
        self.link(u64::from(crc32c::crc32c(command)) << 32 | command.len() as u64);
        self.link_outcome(outcome);
        self.link(after.keys as u64);
        self.link(after.bytes);
        self.link(after.sessions as u64);
        self.link(after.revision.0);
        self.link(after.compacted.0);
        self.link(after.history_bytes);
        let &Stats { time_ms, leases, keys_with_ttl, .. } = after;
        if (time_ms, leases, keys_with_ttl) != (0, 0, 0) {
            self.link(time_ms);
            self.link(leases as u64);
            self.link(keys_with_ttl as u64);
        }
        if after.requests != 0 {
            self.link(after.requests as u64);
        }
    }

    fn link_outcome(&mut self, outcome: &Outcome) {
        let mut link = |words: &[u64]| words.iter().for_each(|&word| self.link(word));
        match outcome {
            Outcome::Applied { index } => link(&[1, index.0]),
            Outcome::TooLarge => link(&[2]),
            Outcome::SessionExpired { index } => link(&[3, index.0]),
            Outcome::Malformed => link(&[4]),
            Outcome::NoSpace => link(&[5]),
            Outcome::Ran { index, result: Ok(done) } => {
                let Branches { held, count } = done.branches;
                link(&[
                    6,
                    index.0,
                    done.revision.0,
                    held,
                    count.into(),
                    outcome.answer_len_bytes(),
                ]);
            }
            Outcome::Ran { index, result: Err(Refusal { reason, operation, value }) } => {
                link(&[7, index.0, reason.number().into(), (*operation).into(), *value]);
            }
            Outcome::Granted { index, revision, lease, ttl_ms } => {
                link(&[8, index.0, revision.0, lease.0, *ttl_ms]);
            }
            Outcome::KeptAlive { index, revision, ttls_ms } => {
                link(&[9, index.0, revision.0, ttls_ms.len() as u64]);
                link(ttls_ms);
            }
        }
    }

    fn link(&mut self, word: u64) {
        self.0 = mixed(self.0, word);
    }
}

/// The next link of a chain: one round of SplitMix64, which maps different chains to different
/// ones. It is in digests and in fingerprints of requests, so it never changes.
pub(super) fn mixed(chain: u64, word: u64) -> u64 {
    let mut bits = (chain ^ word).wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::limits::Limits;
    use crate::kv::model::{LeaseId, Reason, Revision};
    use crate::kv::outcome::Done;

    const APPLIED: Outcome = Outcome::Applied { index: Index(2) };
    const DONE: Done =
        Done { revision: Revision(2), branches: Branches { held: 1, count: 1 }, answer: None };
    const GOLDEN: u64 = 11_982_935_788_902_129_072;

    fn stats() -> Stats {
        Stats {
            keys: 1,
            bytes: 2,
            sessions: 3,
            requests: 0,
            revision: Revision(4),
            compacted: Revision(5),
            history_bytes: 6,
            limits: Limits::default(),
            leases: 0,
            keys_with_ttl: 0,
            time_ms: 0,
        }
    }

    fn digest(index: u64, command: &'static [u8], outcome: Outcome, after: Stats) -> u64 {
        let mut digest = Digest::default();
        digest.extend(Index(index), &Bytes::from_static(command), &outcome, &after);
        digest.value()
    }

    #[test]
    fn the_chain_never_changes() {
        assert_eq!(Digest::default().value(), 0);
        assert_eq!(digest(2, b"command", APPLIED, stats()), GOLDEN);
    }

    #[test]
    fn each_part_counts() {
        let ran = |result| Outcome::Ran { index: Index(2), result };
        let (index, revision) = (Index(2), Revision(4));
        let granted = |lease, ttl_ms| {
            let lease = LeaseId(lease);
            Outcome::Granted { index, revision, lease, ttl_ms }
        };
        let kept_alive = |ttls_ms: &[u64]| {
            let ttls_ms = ttls_ms.into();
            Outcome::KeptAlive { index, revision, ttls_ms }
        };
        let refused = |reason, operation, value| ran(Err(Refusal { reason, operation, value }));
        let all = [
            digest(2, b"", APPLIED, stats()),
            digest(3, b"", APPLIED, stats()),
            digest(2, b"\0", APPLIED, stats()),
            digest(2, b"", Outcome::Applied { index: Index(3) }, stats()),
            digest(2, b"", Outcome::SessionExpired { index: Index(2) }, stats()),
            digest(2, b"", Outcome::TooLarge, stats()),
            digest(2, b"", Outcome::NoSpace, stats()),
            digest(2, b"", Outcome::Malformed, stats()),
            digest(2, b"", ran(Ok(DONE)), stats()),
            digest(2, b"", ran(Ok(Done { revision: Revision(3), ..DONE })), stats()),
            digest(2, b"", ran(Ok(Done { branches: Branches::default(), ..DONE })), stats()),
            digest(2, b"", refused(Reason::NoSpace, 0, 0), stats()),
            digest(2, b"", refused(Reason::Overflow, 0, 0), stats()),
            digest(2, b"", refused(Reason::NoSpace, 1, 0), stats()),
            digest(2, b"", refused(Reason::NoSpace, 0, 1), stats()),
            digest(2, b"", APPLIED, Stats { keys: 0, ..stats() }),
            digest(2, b"", APPLIED, Stats { bytes: 0, ..stats() }),
            digest(2, b"", APPLIED, Stats { sessions: 0, ..stats() }),
            digest(2, b"", APPLIED, Stats { revision: Revision(0), ..stats() }),
            digest(2, b"", APPLIED, Stats { compacted: Revision(0), ..stats() }),
            digest(2, b"", APPLIED, Stats { history_bytes: 0, ..stats() }),
            digest(2, b"", APPLIED, Stats { time_ms: 1, ..stats() }),
            digest(2, b"", APPLIED, Stats { leases: 1, ..stats() }),
            digest(2, b"", APPLIED, Stats { keys_with_ttl: 1, ..stats() }),
            digest(2, b"", granted(1, 1), stats()),
            digest(2, b"", granted(2, 1), stats()),
            digest(2, b"", granted(1, 2), stats()),
            digest(2, b"", kept_alive(&[0]), stats()),
            digest(2, b"", kept_alive(&[1]), stats()),
            digest(2, b"", kept_alive(&[1, 0]), stats()),
        ];
        let distinct: std::collections::BTreeSet<u64> = all.into();
        assert_eq!(distinct.len(), all.len());
    }

    #[test]
    fn a_difference_stays() {
        let (mut one, mut other) = (Digest::from_value(1), Digest::from_value(2));
        for index in 2..1000 {
            one.extend(Index(index), &Bytes::new(), &APPLIED, &stats());
            other.extend(Index(index), &Bytes::new(), &APPLIED, &stats());
            assert_ne!(one, other);
        }
    }
}
