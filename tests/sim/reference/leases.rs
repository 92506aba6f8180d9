//! The leases of the model: a deadline for each id, and for each key that has a lease of its own.

use std::collections::BTreeMap;

use bytes::Bytes;
use syncraft::kv::model::LeaseId;
use syncraft::raft::Index;

/// All leases.
#[derive(Clone, Debug, Default)]
pub(super) struct Leases {
    pub(super) by_id: BTreeMap<LeaseId, Lease>,
    /// By their keys.
    pub(super) own: BTreeMap<Bytes, Own>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Lease {
    pub(super) ttl_ms: u64,
    pub(super) deadline_ms: u64,
}

/// A lease of a single key: its deadline, the entry that made it, and the operation.
pub(super) type Own = (u64, Index, u32);

/// A lease that ends.
pub(super) enum Due {
    WithId(LeaseId),
    OfKey(Bytes),
}

impl Leases {
    /// The leases whose deadline has passed at `now_ms`, without those that are kept, in the order
    /// in which they end.
    pub(super) fn due(&self, now_ms: u64, kept: &[LeaseId]) -> Vec<Due> {
        let with_id = self.by_id.iter().filter(|(id, _)| !kept.contains(id));
        let with_id =
            with_id.map(|(id, lease)| ((lease.deadline_ms, false, id.0, 0), Due::WithId(*id)));
        let own = self.own.iter().map(|(key, (deadline_ms, index, operation))| {
            ((*deadline_ms, true, index.0, *operation), Due::OfKey(key.clone()))
        });
        let passed = with_id.chain(own).filter(|((deadline_ms, ..), _)| *deadline_ms < now_ms);
        let mut due: Vec<_> = passed.collect();
        due.sort_by_key(|(order, _)| *order);
        due.into_iter().map(|(_, due)| due).collect()
    }

    /// The first id from `index` on that is free.
    pub(super) fn free_id(&self, index: Index) -> LeaseId {
        let free = (index.0..).map(LeaseId).find(|id| !self.by_id.contains_key(id));
        free.expect("there are more ids than leases")
    }
}
