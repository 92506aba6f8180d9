//! [`Entry`]: a key and all that the store knows of it.

use std::fmt;

use bytes::Bytes;

/// Counts the changes of a store. An empty store is at 1; 0 stands for "none" or "now".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

impl Revision {
    /// The revision of a store that has never changed.
    pub const EMPTY_STORE: Revision = Revision(1);
    /// No revision: no bound, or the current one.
    pub const NONE: Revision = Revision(0);

    /// The revision of the change that follows.
    ///
    /// # Panics
    /// If there have been 2^64 changes.
    pub fn next(self) -> Revision {
        Revision(self.0.checked_add(1).expect("no store lives for 2^64 changes"))
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Names a lease. 0: none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub u64);

impl LeaseId {
    /// No lease.
    pub const NONE: LeaseId = LeaseId(0);
    /// The highest id that a lease can have: 2^63 - 1.
    pub const MAX: LeaseId = LeaseId(i64::MAX as u64);
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A key, its value, and when they changed.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    /// Any bytes, or none.
    pub key: Bytes,
    /// Any bytes, or none. Empty in an answer that was asked for keys alone.
    pub value: Bytes,
    /// The revision at which the key came to be. A key that is deleted and written again has a new
    /// one.
    pub create_revision: Revision,
    /// The revision of the latest change.
    pub mod_revision: Revision,
    /// 1 at creation, and 1 more with each transaction that changes the key.
    pub version: u64,
    /// The lease that the key depends on. [`LeaseId::NONE`] as well for a lease of the key's own.
    pub lease: LeaseId,
}

impl Entry {
    /// What the entry counts for in an answer: its bytes, and 64 for the rest.
    pub fn len_bytes(&self) -> u64 {
        (self.key.len() + self.value.len()) as u64 + 64
    }
}

/// Shows the length in place of a long value, which may have 15 MiB.
impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut entry = f.debug_struct("Entry");
        entry.field("key", &self.key);
        match self.value.len() {
            0..=64 => entry.field("value", &self.value),
            len => entry.field("value_len", &len),
        };
        entry
            .field("create_revision", &self.create_revision.0)
            .field("mod_revision", &self.mod_revision.0)
            .field("version", &self.version)
            .field("lease", &self.lease.0)
            .finish()
    }
}
