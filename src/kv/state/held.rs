//! [`Held`]: what a key holds, or held at an earlier revision. It borrows, so that a read copies
//! only what it answers.

use bytes::Bytes;

use super::{Before, BeforeValue, Stored, Value};
use crate::kv::model::{Entry, LeaseId, Revision};

/// See the [module](self).
#[derive(Clone, Copy)]
pub(in crate::kv) struct Held<'a> {
    value: HeldValue<'a>,
    pub(super) create_revision: Revision,
    pub(super) mod_revision: Revision,
    pub(super) version: u64,
    lease: LeaseId,
}

#[derive(Clone, Copy)]
enum HeldValue<'a> {
    /// In the tree, which shares long values.
    Now(&'a Value),
    Past(&'a [u8]),
}

impl<'a> Held<'a> {
    /// `now` is what the key holds now: nothing but appends has changed it since, if only a length
    /// is known.
    pub(super) fn before(before: Before<&'a [u8]>, now: Option<&'a Value>) -> Held<'a> {
        let Before { value, create_revision, mod_revision, version, lease } = before;
        let value = match value {
            BeforeValue::Whole(value) => value,
            BeforeValue::Prefix(len) => {
                &now.expect("a key that was only appended to is there")[..len]
            }
        };
        let value = HeldValue::Past(value);
        Held { value, create_revision, mod_revision, version, lease }
    }

    pub(in crate::kv) fn value(&self) -> &'a [u8] {
        match self.value {
            HeldValue::Now(value) => value,
            HeldValue::Past(value) => value,
        }
    }

    /// How much of the value must be copied to answer with it, beside short values.
    pub(super) fn copied_len(&self) -> usize {
        match self.value {
            HeldValue::Now(_) => 0,
            HeldValue::Past(value) => value.len(),
        }
    }

    /// The value, with a share in the tree's buffer or copied by `copy`.
    pub(in crate::kv) fn value_by(&self, copy: impl FnOnce(&[u8]) -> Bytes) -> Bytes {
        match self.value {
            HeldValue::Now(Value::Long(shared)) => shared.clone(),
            _ => copy(self.value()),
        }
    }

    /// An entry with this key, and with this value or nothing.
    pub(in crate::kv) fn entry(&self, key: Bytes, value: Bytes) -> Entry {
        let &Held { create_revision, mod_revision, version, lease, .. } = self;
        Entry { key, value, create_revision, mod_revision, version, lease }
    }
}

impl<'a> From<&'a Stored> for Held<'a> {
    fn from(stored: &'a Stored) -> Held<'a> {
        let &Stored { ref value, create_revision, mod_revision, version, lease } = stored;
        Held { value: HeldValue::Now(value), create_revision, mod_revision, version, lease }
    }
}
