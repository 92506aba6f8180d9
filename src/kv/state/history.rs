//! [`History`]: what keys held before their latest changes, for reads at an earlier revision.
//!
//! One record for each key that a revision changed: the key, and what it held before. So the state
//! as of revision R is the current one, with every key that changed after R set back to what its
//! first change after R replaced.
//!
//! The record of an append has the length of the value before, not the value, which is the
//! beginning of the longer one. So a thousand appends to a value of a megabyte do not take a
//! gigabyte.
//!
//! # What is forgotten
//! The records cost 64 bytes each, plus their keys and values, and all together at most
//! `history_bytes_max`. Whole revisions are forgotten, oldest first. The newest one always stays.
//! What is forgotten follows from the log alone, so it is the same on all members. How records lie
//! in chunks is each member's own affair.
//!
//! # Shape
//! Records lie in sealed chunks that views share, so that a view takes microseconds, and an open
//! one. A chunk has an index by key, which is built at the first read of its past.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Slot;
use std::sync::{Arc, OnceLock};

use imbl::Vector;

use super::{Key, Stored, Tree, Value};
use crate::kv::model::{KeyRange, LeaseId, Revision};

/// A chunk is sealed when it has this many records, ...
const CHUNK_RECORDS_MAX: usize = 256;
/// ... or costs this much. It keeps its memory until its last record is forgotten, so this is what
/// the history may hold beyond its limit.
const CHUNK_BYTES_MAX: u64 = 256 << 10;
const RECORD_BYTES: u64 = 64;

/// The latest changes. See the [module](self).
#[derive(Clone, Debug, Default)]
pub(in crate::kv) struct History {
    sealed: Vector<Arc<Chunk>>,
    open: Arc<Vec<Record>>,
    open_bytes: u64,
    /// How many records of the first chunk are forgotten.
    skipped: usize,
    /// What the records cost that are not forgotten.
    bytes: u64,
    compacted: Revision,
}

/// A change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::kv) struct Record {
    pub(in crate::kv) revision: Revision,
    pub(in crate::kv) key: Key,
    /// What the key held before. `None`: it was absent.
    pub(in crate::kv) before: Option<Box<Before>>,
}

/// What a key held before a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::kv) struct Before {
    pub(in crate::kv) value: BeforeValue,
    pub(in crate::kv) create_revision: Revision,
    pub(in crate::kv) mod_revision: Revision,
    pub(in crate::kv) version: u64,
    pub(in crate::kv) lease: LeaseId,
}

/// The value before a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::kv) enum BeforeValue {
    Whole(Value),
    /// The change appended to a value of this length, so these are its first bytes.
    Prefix(usize),
}

/// Records that do not change any more.
#[derive(Debug)]
struct Chunk {
    records: Vec<Record>,
    /// The positions of the records, in the order of their keys, and for each key in that of their
    /// revisions.
    by_key: OnceLock<Vec<u16>>,
}

impl History {
    /// The oldest revision that can be read: every later change is in the history.
    pub(in crate::kv) fn compacted(&self) -> Revision {
        self.compacted
    }

    /// What the records cost.
    pub(in crate::kv) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(in crate::kv) fn len(&self) -> usize {
        let sealed: usize = self.sealed.iter().map(|chunk| chunk.records.len()).sum();
        sealed + self.open.len() - self.skipped
    }

    /// The records, oldest first.
    pub(in crate::kv) fn records(&self) -> impl Iterator<Item = &Record> {
        let sealed = self.sealed.iter().flat_map(|chunk| &chunk.records);
        sealed.chain(self.open.iter()).skip(self.skipped)
    }

    /// An empty history of a store whose earlier states are forgotten.
    pub(in crate::kv) fn compacted_at(compacted: Revision) -> History {
        History { compacted, ..History::default() }
    }

    /// Adds the newest change.
    pub(in crate::kv) fn push(&mut self, record: Record) {
        assert!(record.revision > self.compacted, "a change is newer than all that is forgotten");
        let cost = record.cost();
        self.bytes += cost;
        self.open_bytes += cost;
        Arc::make_mut(&mut self.open).push(record);
        if self.open.len() >= CHUNK_RECORDS_MAX || self.open_bytes >= CHUNK_BYTES_MAX {
            let records = std::mem::take(Arc::make_mut(&mut self.open));
            self.sealed.push_back(Arc::new(Chunk { records, by_key: OnceLock::new() }));
            self.open_bytes = 0;
        }
    }

    /// Forgets revisions, oldest first, until the rest costs at most `bytes_max`. The newest one
    /// stays.
    pub(in crate::kv) fn shrink_to(&mut self, bytes_max: u64) {
        while self.bytes > bytes_max
            && let (Some(oldest), Some(newest)) = (self.oldest(), self.newest())
            && oldest < newest
        {
            self.compact(oldest);
        }
    }

    /// Forgets all records up to `revision`.
    pub(in crate::kv) fn compact(&mut self, revision: Revision) {
        while let Some(first) = self.first()
            && first.revision <= revision
        {
            self.bytes -= first.cost();
            self.skipped += 1;
            self.drop_forgotten_chunk();
        }
        self.compacted = self.compacted.max(revision);
    }

    fn drop_forgotten_chunk(&mut self) {
        match self.sealed.front() {
            Some(chunk) if chunk.records.len() == self.skipped => {
                self.sealed.pop_front();
                self.skipped = 0;
            }
            None if self.open.len() == self.skipped => {
                Arc::make_mut(&mut self.open).clear();
                (self.open_bytes, self.skipped) = (0, 0);
            }
            _ => {}
        }
    }

    fn first(&self) -> Option<&Record> {
        match self.sealed.front() {
            Some(chunk) => chunk.records.get(self.skipped),
            None => self.open.get(self.skipped),
        }
    }

    fn oldest(&self) -> Option<Revision> {
        self.first().map(|record| record.revision)
    }

    fn newest(&self) -> Option<Revision> {
        let sealed = || self.sealed.back().and_then(|chunk| chunk.records.last());
        self.open.last().or_else(sealed).map(|record| record.revision)
    }

    /// The entries of `keys` as they were at revision `at`, if `tree` has the current ones. What
    /// the result holds of other keys means nothing. `touch` runs for each change that is undone,
    /// and its error ends this.
    pub(in crate::kv) fn as_of<E>(
        &self,
        at: Revision,
        tree: &Tree,
        keys: &KeyRange,
        mut touch: impl FnMut() -> Result<(), E>,
    ) -> Result<Tree, E> {
        assert!(at >= self.compacted, "the caller refuses a revision that is forgotten");
        let mut past: BTreeMap<&Key, Option<Before>> = BTreeMap::new();
        for chunk in &self.sealed {
            if chunk.records.last().is_some_and(|last| last.revision > at) {
                for record in chunk.of_keys(keys).filter(|record| record.revision > at) {
                    touch()?;
                    record.set_back(&mut past);
                }
            }
        }
        let open = self.open.iter().filter(|record| keys.contains(&record.key));
        for record in open.filter(|record| record.revision > at) {
            touch()?;
            record.set_back(&mut past);
        }
        let mut then = tree.clone();
        for (key, before) in past {
            match before {
                Some(before) => {
                    let stored = before.stored(|| tree.get(key).map(|now| &now.value));
                    then.insert(key, stored);
                }
                None => drop(then.remove(key)),
            }
        }
        Ok(then)
    }
}

impl Record {
    /// What the record counts for.
    fn cost(&self) -> u64 {
        let value_len = match &self.before {
            Some(before) => match &before.value {
                BeforeValue::Whole(value) => value.len(),
                BeforeValue::Prefix(_) => 0,
            },
            None => 0,
        };
        RECORD_BYTES + (self.key.len() + value_len) as u64
    }

    /// Records come in the order of their revisions, from the one that follows the revision that is
    /// read. The first one of a key says what the key held then, or how long its value was, and a
    /// later one that value.
    fn set_back<'a>(&'a self, past: &mut BTreeMap<&'a Key, Option<Before>>) {
        match past.entry(&self.key) {
            Slot::Vacant(slot) => {
                slot.insert(self.before.as_deref().cloned());
            }
            Slot::Occupied(mut slot) => {
                if let Some(Before { value, .. }) = slot.get_mut()
                    && let BeforeValue::Prefix(len) = *value
                    && let Some(BeforeValue::Whole(later)) =
                        self.before.as_ref().map(|it| &it.value)
                {
                    *value = BeforeValue::Whole(later.prefix(len));
                }
            }
        }
    }
}

impl Before {
    pub(super) fn whole(stored: Stored) -> Before {
        let Stored { value, create_revision, mod_revision, version, lease } = stored;
        let value = BeforeValue::Whole(value);
        Before { value, create_revision, mod_revision, version, lease }
    }

    pub(super) fn prefix(stored: &Stored) -> Before {
        let &Stored { ref value, create_revision, mod_revision, version, lease } = stored;
        let value = BeforeValue::Prefix(value.len());
        Before { value, create_revision, mod_revision, version, lease }
    }

    /// `now` is what the key holds now: nothing but appends has changed it since, if only a length
    /// is known.
    fn stored<'a>(self, now: impl FnOnce() -> Option<&'a Value>) -> Stored {
        let Before { value, create_revision, mod_revision, version, lease } = self;
        let value = match value {
            BeforeValue::Whole(value) => value,
            BeforeValue::Prefix(len) => {
                now().expect("a key that was only appended to is there").prefix(len)
            }
        };
        Stored { value, create_revision, mod_revision, version, lease }
    }
}

impl Chunk {
    /// The records of some keys, for each key in the order of their revisions.
    fn of_keys<'a>(&'a self, keys: &'a KeyRange) -> impl Iterator<Item = &'a Record> {
        let by_key = self.by_key.get_or_init(|| {
            let mut positions: Vec<u16> = (0..self.records.len() as u16).collect();
            positions.sort_by(|&a, &b| {
                let key = |position| &self.records[usize::from(position)].key;
                key(a).cmp(key(b)).then(a.cmp(&b))
            });
            positions
        });
        let record = |&position: &u16| &self.records[usize::from(position)];
        let first = by_key.partition_point(|position| record(position).key[..] < keys.begin()[..]);
        by_key[first..].iter().map(record).take_while(|record| keys.contains(&record.key))
    }
}
