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
//! The records count for 64 bytes each, plus their keys and values, and all together for at most
//! `history_bytes_max`. Whole revisions are forgotten, oldest first. The newest one always stays.
//! What is forgotten follows from the log alone, so it is the same on all members. How records lie
//! in chunks is each member's own affair.
//!
//! # Shape
//! Records are bytes, as a snapshot has them ([`Record`]), one behind the other in chunks. So a
//! change costs no allocation, the buffer of the value that it replaces serves the next one, and a
//! snapshot copies. Views share the sealed chunks, so that a view takes microseconds, and the open
//! one, which is then copied before it grows. A chunk has an index by key, which is built at the
//! first read of its past.

mod record;

use std::borrow::Cow;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use imbl::Vector;

use crate::kv::model::{KeyRange, Revision};

pub(in crate::kv) use record::{Before, BeforeValue, Record};

/// A chunk has room for this much, or for one longer record. It keeps its memory until its last
/// record is forgotten, so this is what the history may hold beyond its limit.
const CHUNK_LEN: usize = 64 << 10;

/// The latest changes. See the [module](self).
#[derive(Clone, Debug, Default)]
pub(in crate::kv) struct History {
    sealed: Vector<Arc<Chunk>>,
    open: Arc<Chunk>,
    /// What is forgotten of the first chunk, in bytes.
    skipped: usize,
    /// How many records there are that are not forgotten.
    len: usize,
    /// What they count for.
    bytes: u64,
    compacted: Revision,
    newest: Revision,
}

/// Records, oldest first. A sealed chunk does not change any more.
#[derive(Debug, Default)]
struct Chunk {
    bytes: Vec<u8>,
    newest: Revision,
    /// Where the records begin, in the order of their keys, and for each key in that of their
    /// revisions.
    by_key: OnceLock<Vec<u32>>,
}

impl History {
    /// The oldest revision that can be read: every later change is in the history.
    pub(in crate::kv) fn compacted(&self) -> Revision {
        self.compacted
    }

    /// What the records count for.
    pub(in crate::kv) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(in crate::kv) fn len(&self) -> usize {
        self.len
    }

    /// The encoded records, oldest first: whole ones in each part.
    pub(in crate::kv) fn encoded(&self) -> impl Iterator<Item = &[u8]> {
        let chunks = self.chunks().map(|chunk| &chunk.bytes[..]).enumerate();
        chunks.map(|(n, bytes)| if n == 0 { &bytes[self.skipped..] } else { bytes })
    }

    /// The records, oldest first.
    #[cfg(test)]
    pub(in crate::kv) fn records(&self) -> impl Iterator<Item = Record<'_>> {
        self.encoded().flat_map(Record::decode_all)
    }

    fn chunks(&self) -> impl Iterator<Item = &Chunk> {
        self.sealed.iter().chain([&self.open]).map(|chunk| &**chunk)
    }

    /// An empty history of a store whose earlier states are forgotten.
    pub(in crate::kv) fn compacted_at(compacted: Revision) -> History {
        History { compacted, newest: compacted, ..History::default() }
    }

    /// Adds the newest change.
    pub(in crate::kv) fn push(&mut self, record: &Record<'_>) {
        assert!(record.revision > self.compacted, "a change is newer than all that is forgotten");
        assert!(record.revision >= self.newest, "changes come in the order of their revisions");
        let open = self.open_with_room(record.encoded_len());
        record.encode(&mut open.bytes);
        open.newest = record.revision;
        self.newest = record.revision;
        self.bytes += record.cost();
        self.len += 1;
    }

    /// The open chunk, or a new one if a record of `len` bytes does not fit into it.
    fn open_with_room(&mut self, len: usize) -> &mut Chunk {
        let is_empty = self.open.bytes.is_empty();
        if is_empty || self.open.bytes.len() + len > CHUNK_LEN {
            let full = std::mem::replace(&mut self.open, Arc::new(Chunk::with_room(len)));
            if !is_empty {
                self.sealed.push_back(full);
            }
        } else if Arc::get_mut(&mut self.open).is_none() {
            let mut copy = Chunk::with_room(CHUNK_LEN);
            copy.bytes.extend_from_slice(&self.open.bytes);
            self.open = Arc::new(copy);
        }
        let open = Arc::get_mut(&mut self.open).expect("nobody else holds it now");
        open.by_key.take();
        open
    }

    /// Forgets revisions, oldest first, until the rest costs at most `bytes_max`. The newest one
    /// stays.
    pub(in crate::kv) fn shrink_to(&mut self, bytes_max: u64) {
        while self.bytes > bytes_max
            && let Some(oldest) = self.first().map(|record| record.revision)
            && oldest < self.newest
        {
            self.compact(oldest);
        }
    }

    /// Forgets all records up to `revision`.
    pub(in crate::kv) fn compact(&mut self, revision: Revision) {
        while let Some(first) = self.first()
            && first.revision <= revision
        {
            let (cost, len) = (first.cost(), first.encoded_len());
            self.bytes -= cost;
            self.len -= 1;
            self.skipped += len;
            self.drop_forgotten_chunk();
        }
        self.compacted = self.compacted.max(revision);
    }

    fn drop_forgotten_chunk(&mut self) {
        let first = self.sealed.front().unwrap_or(&self.open);
        if first.bytes.len() > self.skipped {
            return;
        }
        self.skipped = 0;
        if self.sealed.pop_front().is_none() {
            self.open = Arc::default();
        }
    }

    fn first(&self) -> Option<Record<'_>> {
        let chunk = self.sealed.front().unwrap_or(&self.open);
        (self.len > 0).then(|| Record::decode(&chunk.bytes[self.skipped..]))
    }

    /// The changes of `keys` after revision `at`, in runs, oldest first.
    pub(super) fn changes_after<'a>(
        &'a self,
        at: Revision,
        keys: &KeyRange,
    ) -> impl Iterator<Item = Run<'a>> {
        assert!(at >= self.compacted, "the caller refuses a revision that is forgotten");
        let later = self.chunks().filter(move |chunk| chunk.newest > at);
        later.map(move |chunk| Run::new(chunk, at, keys))
    }
}

impl Chunk {
    /// With room for a record of this length at least.
    fn with_room(len: usize) -> Chunk {
        Chunk { bytes: Vec::with_capacity(len.max(CHUNK_LEN)), ..Chunk::default() }
    }

    fn record(&self, begin: u32) -> Record<'_> {
        Record::decode(&self.bytes[begin as usize..])
    }

    fn by_key(&self) -> &[u32] {
        self.by_key.get_or_init(|| {
            let (mut begins, mut begin) = (Vec::new(), 0);
            for record in Record::decode_all(&self.bytes) {
                begins.push(begin);
                begin += record.encoded_len() as u32;
            }
            // It keeps the order of the revisions.
            begins.sort_by(|&a, &b| self.record(a).key.cmp(self.record(b).key));
            begins
        })
    }
}

/// Changes that lie together in the history, to be taken key by key from either end.
pub(super) struct Run<'a> {
    chunk: &'a Chunk,
    /// Where the changes begin, as [`Chunk::by_key`] has them.
    order: Cow<'a, [u32]>,
    /// Which places of `order` are left.
    left: Range<usize>,
}

impl<'a> Run<'a> {
    /// Those of `keys` after revision `at`.
    fn new(chunk: &'a Chunk, at: Revision, keys: &KeyRange) -> Run<'a> {
        let mut order = Cow::Borrowed(chunk.by_key());
        if chunk.record(0).revision <= at {
            order.to_mut().retain(|begin| chunk.record(*begin).revision > at);
        }
        let begin = order.partition_point(|it| chunk.record(*it).key < &keys.begin()[..]);
        let end = begin + order[begin..].partition_point(|it| keys.contains(chunk.record(*it).key));
        Run { chunk, order, left: begin..end }
    }

    fn record(&self, place: usize) -> Record<'a> {
        self.chunk.record(self.order[place])
    }

    /// The first key that is left, or the last one.
    pub(super) fn next_key(&self, is_last: bool) -> Option<&'a [u8]> {
        let mut left = self.left.clone();
        let place = if is_last { left.next_back() } else { left.next() };
        place.map(|place| self.record(place).key)
    }

    /// Takes the changes of [`next_key`](Run::next_key), oldest first.
    pub(super) fn take_next(&mut self, is_last: bool) -> impl Iterator<Item = Record<'a>> {
        let key = self.next_key(is_last);
        let is_of_key = |place: &usize| Some(self.record(*place).key) == key;
        let count = match is_last {
            true => self.left.clone().rev().take_while(is_of_key).count(),
            false => self.left.clone().take_while(is_of_key).count(),
        };
        let taken = match is_last {
            true => self.left.end - count..self.left.end,
            false => self.left.start..self.left.start + count,
        };
        match is_last {
            true => self.left.end = taken.start,
            false => self.left.start = taken.end,
        }
        taken.map(|place| self.record(place))
    }
}
