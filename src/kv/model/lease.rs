//! [`LeaseInfo`]: what the store tells of a lease.

use bytes::Bytes;

use super::{LeaseId, proto};

/// A lease, as of the state that was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaseInfo {
    /// Which lease.
    pub id: LeaseId,
    /// How long it lives without being kept alive, as it was granted, in milliseconds.
    pub ttl_ms: u64,
    /// How long it will live if it is not kept alive, in milliseconds. It is counted from the
    /// newest time that the member has applied, so it may be up to ten seconds too long, and longer
    /// where a stale answer was asked for.
    pub left_ms: u64,
    /// Its keys, in order, if they were asked for.
    pub keys: Vec<Bytes>,
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
