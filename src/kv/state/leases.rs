//! [`Leases`]: when they end, and which keys they take with them.
//!
//! A lease has a time to live, a deadline, and keys. Keeping it alive moves the deadline. When the
//! deadline has passed, the lease ends and its keys are deleted: that is one change, with one
//! revision, like any other. A key may also have a lease of its own, which has no id: the key's
//! next put ends it without deleting anything.
//!
//! # Time
//! Nothing here reads a clock. Some commands carry a stamp: the leader's time, in milliseconds,
//! when it appended the command to its log. `raft::AppliedTime` and its module say how a leader
//! tells the time. To apply a stamped command is, in this order, also if it is a repeat or is
//! refused:
//!
//! 1. time = max(time, stamp).
//! 2. The leases end whose deadline has passed (deadline < time), except those that this command
//!    keeps alive: in the order of their deadlines, then of their ids; leases of single keys come
//!    after the others of their deadline, by the index and operation that made them. At most
//!    [`ENDED_MAX`] end, and no further one after [`DELETED_MAX`] deleted keys; the rest is for
//!    the next stamped command.
//! 3. The command does what it does. A deadline that it sets becomes
//!    max(deadline, stamp + time to live).
//!
//! Commands without a stamp change no time and end no lease.
//!
//! # Never early
//! Promise: no lease ends within nine tenths of its time to live by its client's clock, counted
//! from the moment when the client sent the first attempt of the last grant or keep-alive that was
//! answered, if the clock rates of clients and members differ by less than a tenth. If the rates
//! are equal, no lease ends within its time to live. (To revoke a lease is not meant here.)
//!
//! The leader's part, which the page of `raft::AppliedTime` proves:
//!
//! - (L1) Along the log, stamps never fall, whichever leaders made them.
//! - (L2) The difference of two stamps is at most the time that passed between the readings of the
//!   clock that they come from, as the members that led then measured it, each for its own part;
//!   or less than a millisecond more, because stamps are whole milliseconds.
//!
//! Proof of the rest. Let the answered request have taken effect at the entry *e* with the stamp
//! *s*. A repeat of a grant is answered from its first copy; then *e* is the first copy.
//!
//! 1. The clock was read for *s* after the client had sent the first attempt: a leader's turn takes
//!    what has arrived, and then reads the clock.
//! 2. After *e* the deadline is at least *s* + TTL (rule 3), and it never falls: rule 3 takes the
//!    maximum, and nothing else sets it.
//! 3. Suppose the lease ends at a later entry. The time is above the deadline there (rule 2). The
//!    time is the highest stamp of all entries so far (rule 1), which by (L1) is the stamp *t* of
//!    that entry. So *t* is at least *s* + TTL + 1. The lease does not end at *e* itself,
//!    because *e* keeps it alive or makes it.
//! 4. By (L2) the members that led measured more than TTL between the two readings. The client's
//!    clock, which is at most a tenth slower, measured more than nine tenths of TTL in the same
//!    time, and by step 1 at least as much since the first attempt. ∎
//!
//! Why repeats and refusals must raise the time: their stamps are in the log, and a new leader
//! begins from the time that it has applied. If that were less than a stamp in the log, the next
//! stamps could fall, against (L1). Why a lease is spared that the same entry keeps alive: its
//! client has been waiting for this entry, and its lease was still there when the leader appended
//! it.
//!
//! # Shape
//! All maps are ordered and copy-on-write, as the [tree](super::Tree) is, so a clone takes well
//! under a microsecond, and a transaction that fails goes back to one. A store without leases pays
//! a comparison for each write. The deadlines are also in an order of their own, so a stamped
//! command that ends nothing costs one look at the first of them.

use std::collections::HashSet;

use bytes::Bytes;
use imbl::{OrdMap, OrdSet};

use super::Key;
use crate::kv::model::{ANSWER_LEN_MAX, LeaseId, LeaseInfo, Reason, Refusal};
use crate::raft::Index;

/// How many leases end at one entry, at most. Members apply this limit and the next one alike; both
/// belong to feature level 1.
pub(in crate::kv) const ENDED_MAX: usize = 1_000;

/// After as many deleted keys no further lease ends at the same entry.
pub(in crate::kv) const DELETED_MAX: u64 = 100_000;

/// How many ids are looked at for one that is free. The next entry begins one further.
const IDS_TRIED_MAX: usize = 1_000;

/// All leases, and the time. See the [module](self).
#[derive(Clone, Debug, Default)]
pub(in crate::kv) struct Leases {
    /// The highest stamp that was applied.
    time_ms: u64,
    by_id: OrdMap<LeaseId, Lease>,
    /// Follows from `by_id`.
    deadlines: OrdSet<(u64, LeaseId)>,
    /// The keys that have a lease of their own.
    own: OrdMap<Key, OwnLease>,
    /// Follows from `own`.
    own_deadlines: OrdMap<OwnLease, Key>,
}

/// A lease with an id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::kv) struct Lease {
    pub(in crate::kv) ttl_ms: u64,
    pub(in crate::kv) deadline_ms: u64,
    /// Follows from the tree.
    pub(in crate::kv) keys: OrdSet<Key>,
}

/// A lease of a single key. Of the same deadline, the one that was made first ends first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::kv) struct OwnLease {
    pub(in crate::kv) deadline_ms: u64,
    /// The entry of the log that made it.
    pub(in crate::kv) index: Index,
    /// The operation of its transaction.
    pub(in crate::kv) operation: u32,
}

/// The lease that a key gets.
#[derive(Clone, Copy, Debug)]
pub(super) enum KeyLease {
    /// That of an id, or none.
    WithId(LeaseId),
    /// One of its own.
    Own(OwnLease),
}

/// A lease whose deadline has passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Due {
    WithId(LeaseId),
    OfKey(Key),
}

impl Leases {
    /// The highest stamp that was applied, in milliseconds.
    pub(in crate::kv) fn time_ms(&self) -> u64 {
        self.time_ms
    }

    /// How many leases with an id there are.
    pub(in crate::kv) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// How many keys have a lease of their own.
    pub(in crate::kv) fn own_len(&self) -> usize {
        self.own.len()
    }

    /// The first time at which a lease has ended that is not kept alive. `None`: there is none.
    pub(in crate::kv) fn next_end_ms(&self) -> Option<u64> {
        let with_id = self.deadlines.get_min().map(|(deadline, _)| *deadline);
        let own = self.own_deadlines.get_min().map(|(own, _)| own.deadline_ms);
        with_id.into_iter().chain(own).min().map(|deadline| deadline.saturating_add(1))
    }

    pub(in crate::kv) fn iter(&self) -> impl Iterator<Item = (LeaseId, &Lease)> {
        self.by_id.iter().map(|(id, lease)| (*id, lease))
    }

    /// The keys with a lease of their own, in order.
    pub(in crate::kv) fn iter_own(&self) -> impl Iterator<Item = (&Key, OwnLease)> {
        self.own.iter().map(|(key, own)| (key, *own))
    }

    pub(super) fn contains(&self, id: LeaseId) -> bool {
        self.by_id.contains_key(&id)
    }

    /// The first id from `index` on that no lease has. `None`: it is not among the next
    /// [`IDS_TRIED_MAX`], because clients have chosen these themselves.
    pub(super) fn first_free_id(&self, index: Index) -> Option<LeaseId> {
        let mut free = LeaseId(index.0.max(1));
        for (taken, _) in self.by_id.range(free..).take(IDS_TRIED_MAX) {
            if *taken != free {
                return Some(free);
            }
            free = LeaseId(free.0 + 1);
        }
        (free.0 - index.0.max(1) < IDS_TRIED_MAX as u64).then_some(free)
    }

    pub(super) fn raise_time(&mut self, stamp_ms: u64) {
        self.time_ms = self.time_ms.max(stamp_ms);
    }

    /// The leases whose deadline has passed, in the order in which they end, without those that
    /// are `kept`: at most [`ENDED_MAX`].
    pub(super) fn due(&self, kept: &[LeaseId]) -> Vec<Due> {
        let is_due = |deadline_ms: u64| deadline_ms < self.time_ms;
        if self.next_end_ms().is_none_or(|end| end > self.time_ms) {
            return Vec::new();
        }
        let kept: HashSet<LeaseId> = kept.iter().copied().collect();
        let mut with_id = self
            .deadlines
            .iter()
            .take_while(|(deadline, _)| is_due(*deadline))
            .filter(|(_, id)| !kept.contains(id))
            .peekable();
        let mut own =
            self.own_deadlines.iter().take_while(|(own, _)| is_due(own.deadline_ms)).peekable();
        let next = || match (with_id.peek(), own.peek()) {
            (Some((deadline, _)), Some((own_lease, _))) if *deadline > own_lease.deadline_ms => {
                own.next().map(|(_, key)| Due::OfKey(key.clone()))
            }
            (Some(_), _) => with_id.next().map(|(_, id)| Due::WithId(*id)),
            (None, _) => own.next().map(|(_, key)| Due::OfKey(key.clone())),
        };
        std::iter::from_fn(next).take(ENDED_MAX).collect()
    }

    /// Adds a lease that no key has.
    ///
    /// # Panics
    /// If the id is taken.
    pub(super) fn grant(&mut self, id: LeaseId, ttl_ms: u64, stamp_ms: u64) {
        let deadline_ms = stamp_ms.saturating_add(ttl_ms);
        let is_new = self.insert(id, Lease { ttl_ms, deadline_ms, keys: OrdSet::new() });
        assert!(is_new, "the caller checks that the id is free");
    }

    /// Adds a lease. `false`: the id was taken.
    pub(in crate::kv) fn insert(&mut self, id: LeaseId, lease: Lease) -> bool {
        self.deadlines.insert((lease.deadline_ms, id));
        self.by_id.insert(id, lease).is_none()
    }

    /// Moves the deadline of a lease. Returns its time to live, if there is such a lease.
    pub(super) fn keep_alive(&mut self, id: LeaseId, stamp_ms: u64) -> Option<u64> {
        let lease = self.by_id.get_mut(&id)?;
        let deadline_ms = lease.deadline_ms.max(stamp_ms.saturating_add(lease.ttl_ms));
        if deadline_ms != lease.deadline_ms {
            self.deadlines.remove(&(lease.deadline_ms, id));
            self.deadlines.insert((deadline_ms, id));
            lease.deadline_ms = deadline_ms;
        }
        Some(lease.ttl_ms)
    }

    /// Ends a lease. Its keys are still in the tree.
    pub(super) fn remove(&mut self, id: LeaseId) -> Option<OrdSet<Key>> {
        let lease = self.by_id.remove(&id)?;
        self.deadlines.remove(&(lease.deadline_ms, id));
        Some(lease.keys)
    }

    /// `key` had the lease `before` of an id, or none, and gets another one.
    ///
    /// # Panics
    /// If there is no lease with the id that it gets.
    pub(super) fn set(&mut self, key: &[u8], before: LeaseId, after: KeyLease) {
        self.end_own(key);
        let after = match after {
            KeyLease::WithId(id) => id,
            KeyLease::Own(own) => {
                self.insert_own(key.into(), own);
                LeaseId::NONE
            }
        };
        if before == after {
            return;
        }
        if let Some(lease) = self.by_id.get_mut(&before) {
            lease.keys.remove(key);
        }
        if after != LeaseId::NONE {
            self.attach(key.into(), after);
        }
    }

    /// Ends the lease of a key's own, if it has one. The key is still in the tree.
    pub(super) fn end_own(&mut self, key: &[u8]) {
        if !self.own.is_empty()
            && let Some(own) = self.own.remove(key)
        {
            self.own_deadlines.remove(&own);
        }
    }

    /// # Panics
    /// If there is no such lease.
    pub(in crate::kv) fn attach(&mut self, key: Key, id: LeaseId) {
        let lease = self.by_id.get_mut(&id).expect("the caller checks that the lease is there");
        lease.keys.insert(key);
    }

    /// Gives a key a lease of its own. `false`: it had one, or another key has the same one.
    pub(in crate::kv) fn insert_own(&mut self, key: Key, own: OwnLease) -> bool {
        let is_of_no_other = self.own_deadlines.insert(own, key.clone()).is_none();
        self.own.insert(key, own).is_none() && is_of_no_other
    }

    /// What a client may know of a lease; with its keys if it wants them.
    pub(super) fn info(&self, id: LeaseId, wants_keys: bool) -> Result<LeaseInfo, Refusal> {
        let no_such_lease = Refusal::of(Reason::NoSuchLease, id.0);
        let lease = self.by_id.get(&id).ok_or(no_such_lease)?;
        let mut info = self.info_of(id, lease);
        if wants_keys {
            let len: u64 = lease.keys.iter().map(|key| key.len() as u64 + 64).sum();
            if len > ANSWER_LEN_MAX {
                return Err(Refusal::of(Reason::AnswerTooLong, ANSWER_LEN_MAX));
            }
            info.keys = lease.keys.iter().map(Bytes::from).collect();
        }
        Ok(info)
    }

    /// The leases with higher ids than `after`, in order, without their keys.
    pub(super) fn infos_after(&self, after: LeaseId) -> impl Iterator<Item = LeaseInfo> {
        let later = self.by_id.range(LeaseId(after.0.saturating_add(1))..);
        later.map(|(id, lease)| self.info_of(*id, lease))
    }

    /// How many keys a lease has.
    pub(in crate::kv) fn keys_of(&self, id: LeaseId) -> usize {
        self.by_id.get(&id).map_or(0, |lease| lease.keys.len())
    }

    fn info_of(&self, id: LeaseId, lease: &Lease) -> LeaseInfo {
        let left_ms = lease.deadline_ms.saturating_sub(self.time_ms);
        LeaseInfo { id, ttl_ms: lease.ttl_ms, left_ms, keys: Vec::new() }
    }

    /// An empty table at this time.
    pub(in crate::kv) fn at(time_ms: u64) -> Leases {
        Leases { time_ms, ..Leases::default() }
    }
}
