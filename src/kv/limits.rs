//! [`Limits`]: what a store may hold. Every member applies the same limits, so they are replicated.

use bytes::{BufMut, BytesMut};

/// What a store may hold. A change that would exceed `bytes_max`, `keys_max` or `leases_max` is
/// refused with "no space", and so is a grant while the store holds more than `bytes_max`. Deletes,
/// compactions, revocations and keep-alives are not, and leases end, so the state ends by itself
/// when there is space again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The length of all keys and values, in bytes. Default 8 GiB.
    pub bytes_max: u64,
    /// Keys. Default 100 million.
    pub keys_max: u64,
    /// How much of its past the store remembers: 64 bytes for each change, and its key and the
    /// value that it replaced. Default 64 MiB, at most 4 GiB. The newest change always stays.
    pub history_bytes_max: u64,
    /// Leases with an id. Default 1 million. (Keys with a lease of their own count as keys.)
    pub leases_max: u64,
}

impl Limits {
    /// The highest `history_bytes_max`.
    pub const HISTORY_BYTES_MAX_MAX: u64 = 4 << 30;
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            bytes_max: 8 << 30,
            keys_max: 100_000_000,
            history_bytes_max: 64 << 20,
            leases_max: 1_000_000,
        }
    }
}

/// Which limits change. `None`: that one stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LimitsChange {
    /// See [`Limits::bytes_max`].
    pub bytes_max: Option<u64>,
    /// See [`Limits::keys_max`].
    pub keys_max: Option<u64>,
    /// See [`Limits::history_bytes_max`].
    pub history_bytes_max: Option<u64>,
    /// See [`Limits::leases_max`].
    pub leases_max: Option<u64>,
}

impl LimitsChange {
    /// The length of its bytes in a command.
    pub(super) fn len_bytes(&self) -> usize {
        if self.leases_max.is_some() { 36 } else { 27 }
    }

    pub(super) fn encode(&self, bytes: &mut BytesMut) {
        let &LimitsChange { bytes_max, keys_max, history_bytes_max, leases_max } = self;
        for limit in [bytes_max, keys_max, history_bytes_max] {
            bytes.put_u8(limit.is_some().into());
            bytes.put_u64_le(limit.unwrap_or(0));
        }
        if let Some(limit) = leases_max {
            bytes.put_u8(1);
            bytes.put_u64_le(limit);
        }
    }
}

impl Limits {
    /// The limits after a change; as an error, the limit that would be out of its bounds.
    #[cfg(feature = "server")]
    pub(super) fn changed(self, change: LimitsChange) -> Result<Limits, u64> {
        let limits = Limits {
            bytes_max: change.bytes_max.unwrap_or(self.bytes_max),
            keys_max: change.keys_max.unwrap_or(self.keys_max),
            history_bytes_max: change.history_bytes_max.unwrap_or(self.history_bytes_max),
            leases_max: change.leases_max.unwrap_or(self.leases_max),
        };
        match limits.history_bytes_max > Limits::HISTORY_BYTES_MAX_MAX {
            true => Err(limits.history_bytes_max),
            false => Ok(limits),
        }
    }
}

#[cfg(all(test, feature = "server"))]
mod tests {
    use super::*;
    use crate::kv::model::*;
    use crate::kv::*;

    /// Members apply them alike, and clients rely on them: a number that changes needs a new
    /// feature level.
    #[test]
    fn the_limits_of_a_feature_level_never_change() {
        let limits = Limits {
            bytes_max: 8_589_934_592,
            keys_max: 100_000_000,
            history_bytes_max: 67_108_864,
            leases_max: 1_000_000,
        };
        assert_eq!(Limits::default(), limits);
        assert_eq!(Limits::HISTORY_BYTES_MAX_MAX, 4_294_967_296);
        assert_eq!((KEY_LEN_MAX, VALUE_LEN_MAX, COMMAND_LEN_MAX), (65_536, 15_728_640, 15_859_712));
        assert_eq!((DEPTH_MAX, OPERATIONS_MAX), (16, 50_000));
        assert_eq!((TOUCHED_KEYS_MAX, ANSWER_LEN_MAX), (1_000_000, 8_388_608));
        assert_eq!((ANSWER_KEPT_MAX, ANSWERS_KEPT_MAX), (1_048_576, 33_554_432));
        assert_eq!((SESSIONS_MAX, REQUESTS_MAX, LANES_MAX), (100_000, 10_000, 3_000));
        assert_eq!((CLIENT_ID_LEN_MAX, REQUEST_KEY_LEN_MAX), (64, 255));
        assert_eq!((KEEP_ALIVE_IDS_MAX, LEASES_PER_REQUEST_MAX), (100_000, 10_000));
        assert_eq!((TTL_MAX_MS, LeaseId::MAX.0), (9_000_000_000_000, 9_223_372_036_854_775_807));
    }
}
