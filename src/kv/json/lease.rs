//! Leases as they are printed.

use serde::Serialize;

use super::Octets;
use crate::kv::model::LeaseInfo;

/// A lease.
#[derive(Debug, Serialize)]
pub struct LeaseJson {
    lease: u64,
    ttl_ms: u64,
    left_ms: u64,
    /// `None` where they are not wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    keys: Option<Vec<Octets>>,
}

impl LeaseJson {
    /// With its keys.
    pub fn whole(lease: LeaseInfo) -> LeaseJson {
        let without_keys = LeaseJson::without_keys(&lease);
        LeaseJson { keys: Some(lease.keys.into_iter().map(Octets).collect()), ..without_keys }
    }

    /// Without its keys, as in a list.
    pub fn without_keys(lease: &LeaseInfo) -> LeaseJson {
        let &LeaseInfo { id, ttl_ms, left_ms, .. } = lease;
        LeaseJson { lease: id.0, ttl_ms, left_ms, keys: None }
    }
}
