//! [`Digest`]: a running digest of the applied state, by which members compare their states at the
//! same index.
//!
//! The digest is a chain over all entries: the entry, its outcome, and the size of the state after
//! it. So the digests of two members differ from the first entry on which their states differ. They
//! stay different, because each link maps different digests to different digests. A link costs one
//! pass over the command, whatever the size of the state.
//!
//! Left out: the values themselves. A bit that flips in memory is noticed only if it changes an
//! outcome or a size.
//!
//! Members of different versions compare digests, and snapshots contain them. The golden test below
//! must never change.

use bytes::Bytes;

use super::outcome::Outcome;
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
    pub(super) fn extend(&mut self, index: Index, command: &Bytes, outcome: Outcome, after: Stats) {
        let (kind, applied) = match outcome {
            Outcome::Applied { index } => (1, index),
            Outcome::TooLarge => (2, Index::ZERO),
            Outcome::SessionExpired { index } => (3, index),
            Outcome::Malformed => (4, Index::ZERO),
        };
        self.link(index.0);
        self.link(u64::from(crc32c::crc32c(command)) << 32 | command.len() as u64);
        self.link(kind);
        self.link(applied.0);
        self.link(after.keys as u64);
        self.link(after.bytes);
        self.link(after.sessions as u64);
    }

    /// One round of SplitMix64, which is a bijection.
    fn link(&mut self, word: u64) {
        let mut bits = (self.0 ^ word).wrapping_add(0x9e37_79b9_7f4a_7c15);
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        self.0 = bits ^ (bits >> 31);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const APPLIED: Outcome = Outcome::Applied { index: Index(2) };
    const STATS: Stats = Stats { keys: 1, bytes: 2, sessions: 3 };
    const GOLDEN: u64 = 2_526_503_362_964_292_530;

    fn digest(index: u64, command: &'static [u8], outcome: Outcome, after: Stats) -> u64 {
        let mut digest = Digest::default();
        digest.extend(Index(index), &Bytes::from_static(command), outcome, after);
        digest.value()
    }

    #[test]
    fn the_chain_never_changes() {
        assert_eq!(Digest::default().value(), 0);
        assert_eq!(digest(2, b"command", APPLIED, STATS), GOLDEN);
    }

    #[test]
    fn each_part_counts() {
        let refused = Outcome::SessionExpired { index: Index(2) };
        let all = [
            digest(2, b"", APPLIED, STATS),
            digest(3, b"", APPLIED, STATS),
            digest(2, b"\0", APPLIED, STATS),
            digest(2, b"", Outcome::Applied { index: Index(3) }, STATS),
            digest(2, b"", refused, STATS),
            digest(2, b"", Outcome::TooLarge, STATS),
            digest(2, b"", Outcome::Malformed, STATS),
            digest(2, b"", APPLIED, Stats { keys: 0, ..STATS }),
            digest(2, b"", APPLIED, Stats { bytes: 0, ..STATS }),
            digest(2, b"", APPLIED, Stats { sessions: 0, ..STATS }),
        ];
        let distinct: std::collections::BTreeSet<u64> = all.into();
        assert_eq!(distinct.len(), all.len());
    }

    #[test]
    fn a_difference_stays() {
        let (mut one, mut other) = (Digest::from_value(1), Digest::from_value(2));
        for index in 2..1000 {
            one.extend(Index(index), &Bytes::new(), APPLIED, STATS);
            other.extend(Index(index), &Bytes::new(), APPLIED, STATS);
            assert_ne!(one, other);
        }
    }
}
