//! Equal keys to the same endpoint, by arithmetic that is the same in every process and version.

use super::{Balancer, Candidate};

/// A key for text or bytes: their 64-bit FNV-1a hash. It is the same on every machine and in every
/// version. It does not resist an attacker who looks for keys that collide.
pub fn hash_key(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01B3)
    })
}

/// A one-to-one mapping that spreads neighbouring numbers over all of `u64`: the finalizer of
/// splitmix64.
pub(super) fn spread(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// Chooses candidate number `key mod n` of the `n` candidates, in the order of their addresses.
/// Weights do not matter.
///
/// Even and cheap. But when an endpoint comes, goes or is ejected, most keys move: see
/// [`HashRing`](super::HashRing).
#[derive(Debug, Default)]
pub struct Hash;

impl Hash {
    /// A balancer without state.
    pub fn new() -> Self {
        Self
    }
}

impl Balancer for Hash {
    fn pick(&self, candidates: &[Candidate<'_>], key: u64) -> usize {
        let mut order: Vec<usize> = (0..candidates.len()).collect();
        order.sort_unstable_by_key(|i| candidates[*i].endpoint.addr());
        order[(key % candidates.len() as u64) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{counts, places, weighted};
    use super::*;

    #[test]
    fn the_order_of_the_list_does_not_matter() {
        let endpoints = weighted(&[1; 5]);
        let backwards: Vec<_> = endpoints.iter().rev().cloned().collect();
        assert_eq!(places(&Hash, &endpoints, 0..100), places(&Hash, &backwards, 0..100));
        assert_eq!(counts(&Hash, &endpoints, 100), [20; 5]);
    }

    #[test]
    fn most_keys_move_when_one_of_ten_endpoints_goes() {
        let endpoints = weighted(&[1; 10]);
        let before = places(&Hash, &endpoints, 0..10_000);
        let after = places(&Hash, &endpoints[..9], 0..10_000);
        let moved = before.iter().zip(&after).filter(|(a, b)| a != b).count();
        assert!(moved > 8_500, "{moved}");
    }

    /// Processes of other versions send the same keys to the same endpoints.
    #[test]
    fn hashes_never_change() {
        // The published test vectors of FNV-1a.
        assert_eq!(hash_key(b""), 0xCBF2_9CE4_8422_2325);
        assert_eq!(hash_key(b"a"), 0xAF63_DC4C_8601_EC8C);
        assert_eq!(hash_key(b"foobar"), 0x8594_4171_F739_67E8);
        // The first output of splitmix64 seeded with 0.
        assert_eq!(spread(0x9E37_79B9_7F4A_7C15), 0xE220_A839_7B1D_CDAF);
    }
}
