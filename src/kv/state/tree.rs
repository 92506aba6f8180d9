//! [`Tree`]: every key with what it holds now, in the order of the keys.
//!
//! The tree is copy-on-write. A clone shares its nodes, and takes well under a microsecond. Later
//! writes copy each node that the clone still holds, once. So a view of any size costs each write a
//! few copies of at most 17 slots, and no write waits for it.

use bytes::Bytes;
use imbl::OrdMap;

use super::{Key, Value};
use crate::kv::model::{Entry, KeyRange, LeaseId, Revision};

/// All entries. See the [module](self).
#[derive(Clone, Debug, Default)]
pub(in crate::kv) struct Tree {
    entries: OrdMap<Key, Stored>,
    /// The length of all keys and values.
    bytes: u64,
}

/// What a key holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::kv) struct Stored {
    pub(in crate::kv) value: Value,
    pub(in crate::kv) create_revision: Revision,
    pub(in crate::kv) mod_revision: Revision,
    pub(in crate::kv) version: u64,
    pub(in crate::kv) lease: LeaseId,
}

impl Tree {
    pub(in crate::kv) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The length of all keys and values.
    pub(in crate::kv) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(in crate::kv) fn get(&self, key: &[u8]) -> Option<&Stored> {
        self.entries.get(key)
    }

    /// The entries of a range, in the order of their keys. It can be read from both ends.
    pub(in crate::kv) fn range(
        &self,
        keys: &KeyRange,
    ) -> impl DoubleEndedIterator<Item = (&Key, &Stored)> {
        self.entries.range::<_, [u8]>(keys.bounds())
    }

    pub(in crate::kv) fn iter(&self) -> impl Iterator<Item = (&Key, &Stored)> {
        self.entries.iter()
    }

    /// Gives `key` a value and a lease at revision `at`, with one search for an existing key, and
    /// returns what it held before. Without a lease it keeps the one that it has. `fits` gets how
    /// many bytes there would be and, for a new key, how many keys (otherwise 0). Its error leaves
    /// all as it was.
    pub(in crate::kv) fn put<E>(
        &mut self,
        key: &[u8],
        (value, lease): (&[u8], Option<LeaseId>),
        at: Revision,
        fits: impl FnOnce(u64, usize) -> Result<(), E>,
    ) -> Result<Option<Stored>, E> {
        let (bytes, keys) = (self.bytes + value.len() as u64, self.entries.len());
        if let Some(held) = self.entries.get_mut(key) {
            let bytes = bytes - held.value.len() as u64;
            fits(bytes, 0)?;
            let value = Value::from(value);
            let Stored { create_revision, mod_revision, version, .. } = *held;
            let lease = lease.unwrap_or(held.lease);
            let mut stored = Stored { value, create_revision, mod_revision, version, lease };
            stored.touch(at);
            self.bytes = bytes;
            return Ok(Some(std::mem::replace(held, stored)));
        }
        let bytes = bytes + key.len() as u64;
        fits(bytes, keys + 1)?;
        self.bytes = bytes;
        let lease = lease.unwrap_or(LeaseId::NONE);
        self.entries.insert(key.into(), Stored::new(Value::from(value), lease, at));
        Ok(None)
    }

    /// Adds an entry behind all others, without a search. `false`: the key is not greater than all
    /// others, and nothing has changed.
    pub(in crate::kv) fn push(&mut self, key: &[u8], stored: Stored) -> bool {
        let is_last = self.entries.get_max().is_none_or(|(last, _)| last[..] < *key);
        if is_last {
            self.bytes += (key.len() + stored.value.len()) as u64;
            self.entries.insert(key.into(), stored);
        }
        is_last
    }

    /// Changes what `key` holds by appending to its value, in place if nobody shares it.
    ///
    /// # Panics
    /// If the key is absent.
    pub(in crate::kv) fn append(&mut self, key: &[u8], more: &[u8], at: Revision) {
        let held = self.entries.get_mut(key).expect("an append to an absent key is a put");
        held.value.append(more);
        held.touch(at);
        self.bytes += more.len() as u64;
    }

    pub(in crate::kv) fn remove(&mut self, key: &[u8]) -> Option<Stored> {
        let held = self.entries.remove(key)?;
        self.bytes -= (key.len() + held.value.len()) as u64;
        Some(held)
    }
}

impl Stored {
    /// A key that comes to be at `revision`.
    pub(in crate::kv) fn new(value: Value, lease: LeaseId, revision: Revision) -> Stored {
        Stored { value, create_revision: revision, mod_revision: revision, version: 1, lease }
    }

    /// The key changes at `revision`. Several changes at one revision are one.
    pub(in crate::kv) fn touch(&mut self, revision: Revision) {
        if self.mod_revision != revision {
            self.mod_revision = revision;
            self.version += 1;
        }
    }

    pub(in crate::kv) fn entry(&self, key: &[u8]) -> Entry {
        let &Stored { ref value, create_revision, mod_revision, version, lease } = self;
        let (key, value) = (Bytes::copy_from_slice(key), value.to_bytes());
        Entry { key, value, create_revision, mod_revision, version, lease }
    }
}
