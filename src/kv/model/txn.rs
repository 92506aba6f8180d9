//! [`Txn`]: comparisons, and what to do if they hold or do not hold.

use std::time::Duration;

use bytes::Bytes;

use super::{KeyRange, LeaseId, Range, Revision};

/// A transaction. See the [module](super).
///
/// ```
/// # use syncraft::kv::model::{Action, Compare, Txn};
/// // Take a lock if nobody has it.
/// let txn = Txn {
///     compare: vec![Compare::absent("lock")],
///     then: vec![Action::put("lock", "me").into()],
///     otherwise: vec![Action::get("lock").into()],
/// };
/// assert!(!txn.is_read());
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// All must hold for `then` to run. None: `then` runs.
    pub compare: Vec<Compare>,
    /// What to do if all comparisons hold, in this order.
    pub then: Vec<Operation>,
    /// What to do otherwise, in this order.
    pub otherwise: Vec<Operation>,
}

/// A comparison. Of a range, every entry must compare so.
///
/// An absent key, or a range without keys, has version, revisions and lease 0, and has no value: no
/// comparison of its value holds, not even "not equal".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    /// What is compared.
    pub keys: KeyRange,
    /// How.
    pub relation: Relation,
    /// With what, and in which part.
    pub operand: Operand,
}

/// How the entry's part stands to the operand: `Less` holds if the entry's part is less.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// They are equal.
    Equal,
    /// They differ.
    NotEqual,
    /// The entry's is less.
    Less,
    /// The entry's is greater.
    Greater,
}

/// Which part of an entry is compared, and with what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operand {
    /// The value, by its bytes.
    Value(Bytes),
    /// How often the key was changed.
    Version(u64),
    /// When the key came to be.
    CreateRevision(Revision),
    /// When the key was last changed.
    ModRevision(Revision),
    /// The lease that the key depends on.
    Lease(LeaseId),
}

/// One step of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// What to do.
    pub action: Action,
    /// If it fails, its [`Reason`](super::Reason) is its answer, and the transaction goes on as if
    /// it had not been there.
    pub may_fail: bool,
}

/// What an operation does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Writes a key.
    Put {
        /// The key.
        key: Bytes,
        /// Its value from now on.
        value: NewValue,
        /// Its lease from now on.
        lease: NewLease,
        /// Whether the answer has the entry as it was before.
        previous: bool,
    },
    /// Appends to a value. An absent key counts as empty. The key keeps its lease.
    Append {
        /// The key.
        key: Bytes,
        /// What is appended.
        value: Bytes,
    },
    /// Adds to a value that is a decimal 64-bit integer, as `INCRBY` of Redis does. An absent key
    /// counts as 0. The key keeps its lease.
    Increment {
        /// The key.
        key: Bytes,
        /// How much is added.
        by: i64,
    },
    /// Deletes keys.
    Delete {
        /// Which ones.
        keys: KeyRange,
        /// Whether the answer has the entries as they were before.
        previous: bool,
    },
    /// Reads keys.
    Range(Range),
    /// Runs another transaction as a part of this one.
    Txn(Txn),
}

/// The value that a put gives its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NewValue {
    /// This one.
    Set(Bytes),
    /// The one that it has. The put fails if the key is absent.
    Keep,
}

/// The lease that a put gives its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewLease {
    /// This one; [`LeaseId::NONE`] for none. The put fails if there is no such lease.
    Set(LeaseId),
    /// The one that it has. The put fails if the key is absent.
    Keep,
    /// One of its own, of so many milliseconds, from 1 to
    /// [`TTL_MAX_MS`](super::TTL_MAX_MS). It has no id, and the key's next put ends it.
    OfItsOwn {
        /// How long it lives.
        ttl_ms: u64,
    },
}

impl Txn {
    /// Whether neither branch can change anything.
    pub fn is_read(&self) -> bool {
        self.then.iter().chain(&self.otherwise).all(|operation| match &operation.action {
            Action::Range(_) => true,
            Action::Txn(nested) => nested.is_read(),
            _ => false,
        })
    }
}

impl Txn {
    /// Whether either branch has a put with a time to live of its own.
    pub(in crate::kv) fn has_ttl(&self) -> bool {
        self.then.iter().chain(&self.otherwise).any(|operation| match &operation.action {
            Action::Put { lease: NewLease::OfItsOwn { .. }, .. } => true,
            Action::Txn(nested) => nested.has_ttl(),
            _ => false,
        })
    }

    /// Whether either branch reads as of an earlier revision.
    #[cfg(feature = "server")]
    pub(in crate::kv) fn reads_the_past(&self) -> bool {
        self.then.iter().chain(&self.otherwise).any(|operation| match &operation.action {
            Action::Range(range) => range.at != Revision::NONE,
            Action::Txn(nested) => nested.reads_the_past(),
            _ => false,
        })
    }
}

impl Compare {
    /// Holds if the key is absent.
    pub fn absent(key: impl Into<Bytes>) -> Compare {
        Compare::key(key, Relation::Equal, Operand::Version(0))
    }

    /// Holds if the key is there.
    pub fn present(key: impl Into<Bytes>) -> Compare {
        Compare::key(key, Relation::Greater, Operand::Version(0))
    }

    /// Holds if the key has this value.
    pub fn value(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Compare {
        Compare::key(key, Relation::Equal, Operand::Value(value.into()))
    }

    /// Holds if the key was last changed at this revision.
    pub fn mod_revision(key: impl Into<Bytes>, revision: Revision) -> Compare {
        Compare::key(key, Relation::Equal, Operand::ModRevision(revision))
    }

    /// Holds if the key came to be at this revision, and was not deleted since.
    pub fn create_revision(key: impl Into<Bytes>, revision: Revision) -> Compare {
        Compare::key(key, Relation::Equal, Operand::CreateRevision(revision))
    }

    fn key(key: impl Into<Bytes>, relation: Relation, operand: Operand) -> Compare {
        Compare { keys: KeyRange::key(key), relation, operand }
    }
}

impl Action {
    /// Writes `value` without a lease.
    pub fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Action {
        Action::Put {
            key: key.into(),
            value: NewValue::Set(value.into()),
            lease: NewLease::Set(LeaseId::NONE),
            previous: false,
        }
    }

    /// Writes `value` with a lease.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use syncraft::kv::model::{Action, LeaseId, NewLease};
    /// let of_a_lease = Action::put_with("k", "v", LeaseId(7));
    /// let for_a_minute = Action::put_with("k", "v", NewLease::ttl(Duration::from_secs(60)));
    /// ```
    pub fn put_with(
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
        lease: impl Into<NewLease>,
    ) -> Action {
        let (key, value, lease) = (key.into(), NewValue::Set(value.into()), lease.into());
        Action::Put { key, value, lease, previous: false }
    }

    /// Appends `value`.
    pub fn append(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Action {
        Action::Append { key: key.into(), value: value.into() }
    }

    /// Adds `by`.
    pub fn increment(key: impl Into<Bytes>, by: i64) -> Action {
        Action::Increment { key: key.into(), by }
    }

    /// Deletes `keys`.
    pub fn delete(keys: KeyRange) -> Action {
        Action::Delete { keys, previous: false }
    }

    /// Reads one key.
    pub fn get(key: impl Into<Bytes>) -> Action {
        Action::Range(Range::of(KeyRange::key(key)))
    }
}

impl NewLease {
    /// A lease of the key's own, of whole milliseconds.
    pub fn ttl(ttl: Duration) -> NewLease {
        NewLease::OfItsOwn { ttl_ms: u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX) }
    }
}

impl From<LeaseId> for NewLease {
    fn from(lease: LeaseId) -> NewLease {
        NewLease::Set(lease)
    }
}

impl From<Action> for Operation {
    fn from(action: Action) -> Operation {
        Operation { action, may_fail: false }
    }
}
