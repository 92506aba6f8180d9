//! Leases and their ends, by the words of `kv::state::leases`. The bounds that no simulated entry
//! reaches are left out: how many leases and keys end at one entry.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use syncraft::kv::model::{LeaseId, Reason, Refusal};
use syncraft::raft::Index;

use super::Reference;

/// All leases of a store.
#[derive(Clone, Default)]
pub(super) struct Leases {
    pub(super) by_id: BTreeMap<LeaseId, Lease>,
    /// Those of single keys.
    pub(super) own: Own,
}

/// The keys that have a lease of their own: its deadline, and the entry and operation that made it.
pub(super) type Own = BTreeMap<Bytes, (u64, Index, u32)>;

#[derive(Clone, Copy)]
pub(super) struct Lease {
    pub(super) ttl_ms: u64,
    pub(super) deadline_ms: u64,
}

/// A lease whose deadline has passed. The order is that in which they end.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    WithId(u64, LeaseId),
    OfKey((u64, Index, u32), Bytes),
}

impl Due {
    fn deadline_ms(&self) -> u64 {
        match self {
            Due::WithId(deadline, _) | Due::OfKey((deadline, ..), _) => *deadline,
        }
    }
}

impl Reference {
    /// The leases end that are due, but for those that are `kept`.
    pub(super) fn pass_time(&mut self, stamp_ms: u64, kept: &[LeaseId], changed: &mut Vec<Bytes>) {
        let time = self.stats.time_ms.max(stamp_ms);
        self.stats.time_ms = time;
        let with_id = self.leases.by_id.iter().filter(|(id, _)| !kept.contains(id));
        let with_id = with_id.map(|(id, lease)| Due::WithId(lease.deadline_ms, *id));
        let own = self.leases.own.iter().map(|(key, own)| Due::OfKey(*own, key.clone()));
        let mut due: Vec<Due> = with_id.chain(own).filter(|due| due.deadline_ms() < time).collect();
        due.sort_by(|one, other| one.deadline_ms().cmp(&other.deadline_ms()).then(one.cmp(other)));
        for due in due {
            match due {
                Due::WithId(_, id) => self.end(id, changed),
                Due::OfKey(_, key) => self.delete(BTreeSet::from([key]), changed),
            }
        }
    }

    pub(super) fn grant(
        &mut self,
        index: Index,
        stamp_ms: u64,
        ttl_ms: u64,
        id: LeaseId,
    ) -> Result<LeaseId, Refusal> {
        let leases = &mut self.leases.by_id;
        if leases.contains_key(&id) {
            return Err(Refusal::of(Reason::LeaseExists, id.0));
        }
        if leases.len() as u64 >= self.stats.limits.leases_max {
            return Err(Refusal::of(Reason::NoSpace, self.stats.limits.leases_max));
        }
        let free = (index.0..).map(LeaseId).find(|id| !leases.contains_key(id));
        let id = if id == LeaseId::NONE { free.expect("some id is free") } else { id };
        leases.insert(id, Lease { ttl_ms, deadline_ms: stamp_ms + ttl_ms });
        self.count_leases();
        Ok(id)
    }

    pub(super) fn revoke(&mut self, id: LeaseId, changed: &mut Vec<Bytes>) -> Result<(), Refusal> {
        if !self.leases.by_id.contains_key(&id) {
            return Err(Refusal::of(Reason::NoSuchLease, id.0));
        }
        self.end(id, changed);
        Ok(())
    }

    pub(super) fn keep_alive(&mut self, stamp_ms: u64, ids: &[LeaseId]) -> Vec<u64> {
        let keep = |id| match self.leases.by_id.get_mut(id) {
            Some(Lease { ttl_ms, deadline_ms }) => {
                *deadline_ms = (*deadline_ms).max(stamp_ms + *ttl_ms);
                *ttl_ms
            }
            None => 0,
        };
        ids.iter().map(keep).collect()
    }

    /// Ends a lease, and deletes the keys that name it.
    fn end(&mut self, id: LeaseId, changed: &mut Vec<Bytes>) {
        self.leases.by_id.remove(&id);
        let contents = self.contents(self.stats.revision);
        let keys = contents.values().filter(|entry| entry.lease == id);
        self.delete(keys.map(|entry| entry.key.clone()).collect(), changed);
    }

    fn delete(&mut self, keys: BTreeSet<Bytes>, changed: &mut Vec<Bytes>) {
        let mut after = self.contents(self.stats.revision);
        after.retain(|key, _| !keys.contains(key));
        self.leases.own.retain(|key, _| !keys.contains(key));
        self.count_leases();
        self.commit(after, &keys, changed);
    }

    pub(super) fn count_leases(&mut self) {
        (self.stats.leases, self.stats.keys_with_ttl) =
            (self.leases.by_id.len(), self.leases.own.len());
    }
}
