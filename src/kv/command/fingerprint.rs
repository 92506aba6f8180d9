//! [`Fingerprint`]: what a request asked for, in 64 bits.

use crate::kv::digest::mixed;

/// The fingerprint of a sequence of parts, each of any bytes. Equal sequences have equal ones, on
/// all members and in all versions: fingerprints are in the log and in snapshots.
///
/// Two requests that differ have the same one with a chance of 1 to 2^64, so that a mistake is
/// found. It is not made to find malice: who knows the key of somebody's request can send any
/// request with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fingerprint(u64);

impl Fingerprint {
    /// Adds a part.
    pub fn add(&mut self, part: &[u8]) {
        self.0 = mixed(self.0, part.len() as u64);
        for word in part.chunks(8) {
            let mut bytes = [0; 8];
            bytes[..word.len()].copy_from_slice(word);
            self.0 = mixed(self.0, u64::from_le_bytes(bytes));
        }
    }

    /// The 64 bits.
    pub fn value(self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(parts: &[&[u8]]) -> u64 {
        let mut fingerprint = Fingerprint::default();
        parts.iter().for_each(|part| fingerprint.add(part));
        fingerprint.value()
    }

    #[test]
    fn it_never_changes() {
        assert_eq!(of(&[]), 0);
        assert_eq!(of(&[b"a part of 19 bytes!", b""]), GOLDEN);
    }
    const GOLDEN: u64 = 12_568_678_667_408_751_816;

    #[test]
    fn each_part_counts_and_where_it_ends() {
        let all =
            [of(&[b"ab"]), of(&[b"a", b"b"]), of(&[b"ab", b""]), of(&[b"ab\0"]), of(&[b"ba"])];
        let distinct: std::collections::BTreeSet<u64> = all.into_iter().collect();
        assert_eq!(distinct.len(), all.len());
    }
}
