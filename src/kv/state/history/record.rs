//! [`Record`]: one change of one key, and its bytes.
//!
//! | size | field |
//! |-----:|-------|
//! | 8 | the revision that changed the key |
//! | 8 + n | the key, behind its length |
//! | 1 | whether the key was there. If so: |
//! | 4 | kind of value: 0: the value follows, 1: only its length does |
//! | 8 + n | the value, behind its length |
//! | 4 × 8 | create revision, mod revision, version, lease |
//!
//! Numbers are little-endian. Snapshots have the same bytes: see [`snapshot`](crate::kv::snapshot).

use crate::kv::model::{LeaseId, Revision};
use crate::kv::state::{Stored, Value};

/// What a record counts for, beside its key and its value.
const RECORD_BYTES: u64 = 64;

const KIND_WHOLE: u32 = 0;
const KIND_PREFIX: u32 = 1;

/// A change of one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::kv) struct Record<'a> {
    pub(in crate::kv) revision: Revision,
    pub(in crate::kv) key: &'a [u8],
    /// What the key held before. `None`: it was absent.
    pub(in crate::kv) before: Option<Before<&'a [u8]>>,
}

/// What a key held before a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::kv) struct Before<V> {
    pub(in crate::kv) value: BeforeValue<V>,
    pub(in crate::kv) create_revision: Revision,
    pub(in crate::kv) mod_revision: Revision,
    pub(in crate::kv) version: u64,
    pub(in crate::kv) lease: LeaseId,
}

/// The value before a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::kv) enum BeforeValue<V> {
    Whole(V),
    /// The change appended to a value of this length, so these are its first bytes.
    Prefix(usize),
}

impl<'a> Record<'a> {
    /// What the record counts for.
    pub(super) fn cost(&self) -> u64 {
        RECORD_BYTES + (self.key.len() + self.value_len()) as u64
    }

    fn value_len(&self) -> usize {
        match &self.before {
            Some(Before { value: BeforeValue::Whole(value), .. }) => value.len(),
            _ => 0,
        }
    }

    pub(super) fn encoded_len(&self) -> usize {
        let before = if self.before.is_some() { 4 + 8 + 4 * 8 } else { 0 };
        8 + 8 + self.key.len() + 1 + before + self.value_len()
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let mut number = |number: u64| out.extend_from_slice(&number.to_le_bytes());
        number(self.revision.0);
        number(self.key.len() as u64);
        out.extend_from_slice(self.key);
        out.push(u8::from(self.before.is_some()));
        let Some(before) = &self.before else { return };
        match before.value {
            BeforeValue::Whole(value) => {
                out.extend_from_slice(&KIND_WHOLE.to_le_bytes());
                out.extend_from_slice(&(value.len() as u64).to_le_bytes());
                out.extend_from_slice(value);
            }
            BeforeValue::Prefix(len) => {
                out.extend_from_slice(&KIND_PREFIX.to_le_bytes());
                out.extend_from_slice(&(len as u64).to_le_bytes());
            }
        }
        let &Before { create_revision, mod_revision, version, lease, .. } = before;
        for number in [create_revision.0, mod_revision.0, version, lease.0] {
            out.extend_from_slice(&number.to_le_bytes());
        }
    }

    /// The record at the beginning of `bytes`, which [`encode`](Record::encode) has written.
    pub(super) fn decode(mut bytes: &'a [u8]) -> Record<'a> {
        let rest = &mut bytes;
        let revision = Revision(number(rest));
        let key_len = number(rest);
        let key = take(rest, key_len);
        if take(rest, 1) == [0] {
            return Record { revision, key, before: None };
        }
        let kind = u32::from_le_bytes(*take_array(rest));
        let value_len = number(rest);
        let value = match kind {
            KIND_WHOLE => BeforeValue::Whole(take(rest, value_len)),
            _ => BeforeValue::Prefix(value_len as usize),
        };
        let [create_revision, mod_revision] = [Revision(number(rest)), Revision(number(rest))];
        let (version, lease) = (number(rest), LeaseId(number(rest)));
        let before = Before { value, create_revision, mod_revision, version, lease };
        Record { revision, key, before: Some(before) }
    }

    /// The records in `bytes`, one behind the other.
    #[cfg(test)]
    pub(super) fn decode_all(mut bytes: &'a [u8]) -> impl Iterator<Item = Record<'a>> {
        std::iter::from_fn(move || {
            let record = (!bytes.is_empty()).then(|| Record::decode(bytes))?;
            bytes = &bytes[record.encoded_len()..];
            Some(record)
        })
    }
}

fn number(bytes: &mut &[u8]) -> u64 {
    u64::from_le_bytes(*take_array(bytes))
}

fn take_array<'a, const N: usize>(bytes: &mut &'a [u8]) -> &'a [u8; N] {
    bytes.split_off(..N).and_then(|it| it.try_into().ok()).expect("a record is whole")
}

fn take<'a>(bytes: &mut &'a [u8], len: u64) -> &'a [u8] {
    bytes.split_off(..len as usize).expect("a record is whole")
}

impl Before<Value> {
    pub(in crate::kv::state) fn whole(stored: Stored) -> Before<Value> {
        let Stored { value, create_revision, mod_revision, version, lease } = stored;
        let value = BeforeValue::Whole(value);
        Before { value, create_revision, mod_revision, version, lease }
    }

    pub(in crate::kv::state) fn prefix(stored: &Stored) -> Before<Value> {
        let &Stored { ref value, create_revision, mod_revision, version, lease } = stored;
        let value = BeforeValue::Prefix(value.len());
        Before { value, create_revision, mod_revision, version, lease }
    }

    pub(in crate::kv::state) fn borrowed(&self) -> Before<&[u8]> {
        let &Before { ref value, create_revision, mod_revision, version, lease } = self;
        let value = match value {
            BeforeValue::Whole(value) => BeforeValue::Whole(&value[..]),
            BeforeValue::Prefix(len) => BeforeValue::Prefix(*len),
        };
        Before { value, create_revision, mod_revision, version, lease }
    }
}

#[cfg(test)]
mod tests {
    use proptest::option;
    use proptest::prelude::*;

    use super::*;

    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(any::<u8>(), 0..40)
    }

    proptest! {
        #[test]
        fn records_are_what_was_encoded(
            records in prop::collection::vec(
                (any::<u64>(), bytes(), option::of((option::of(bytes()), any::<[u64; 4]>()))),
                0..5,
            ),
        ) {
            let records: Vec<Record<'_>> = records.iter().map(|(revision, key, before)| {
                let before = before.as_ref().map(|(value, numbers)| Before {
                    value: match value {
                        Some(value) => BeforeValue::Whole(&value[..]),
                        None => BeforeValue::Prefix(numbers[0] as usize),
                    },
                    create_revision: Revision(numbers[0]),
                    mod_revision: Revision(numbers[1]),
                    version: numbers[2],
                    lease: LeaseId(numbers[3]),
                });
                Record { revision: Revision(*revision), key, before }
            }).collect();
            let mut bytes = Vec::new();
            records.iter().for_each(|record| record.encode(&mut bytes));
            prop_assert_eq!(bytes.len(), records.iter().map(Record::encoded_len).sum::<usize>());
            prop_assert_eq!(Record::decode_all(&bytes).collect::<Vec<_>>(), records);
        }
    }
}
