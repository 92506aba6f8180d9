//! [`LeaseInfo`]: what the store tells of a lease.

use std::time::Duration;

use bytes::Bytes;

use super::{LeaseId, proto};

/// A lease, as of the state that was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaseInfo {
    /// Which lease.
    pub id: LeaseId,
    /// How long it lives without being kept alive, as it was granted, in milliseconds.
    pub ttl_ms: u64,
    /// How long it will live if it is not kept alive, in milliseconds. It is an estimate of the
    /// member that was asked: the cluster's time stands still while there is no leader.
    pub left_ms: u64,
    /// Its keys, in order, if they were asked for.
    pub keys: Vec<Bytes>,
}

impl LeaseInfo {
    /// How long it lives without being kept alive, as it was granted.
    pub fn ttl(&self) -> Duration {
        Duration::from_millis(self.ttl_ms)
    }

    /// How long it will live if it is not kept alive: see [`left_ms`](LeaseInfo::left_ms).
    pub fn left(&self) -> Duration {
        Duration::from_millis(self.left_ms)
    }
}

impl From<LeaseInfo> for proto::Lease {
    fn from(lease: LeaseInfo) -> proto::Lease {
        let LeaseInfo { id, ttl_ms, left_ms, keys } = lease;
        proto::Lease { id: id.0, ttl_ms, left_ms, keys }
    }
}

impl From<proto::Lease> for LeaseInfo {
    fn from(lease: proto::Lease) -> LeaseInfo {
        let proto::Lease { id, ttl_ms, left_ms, keys } = lease;
        LeaseInfo { id: LeaseId(id), ttl_ms, left_ms, keys }
    }
}
