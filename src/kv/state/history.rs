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
//! in chunks is each member's own affair. To forget takes a step for each chunk, not for each
//! record, so that a compaction holds up nobody.
//!
//! # Shape
//! Records are bytes, as a snapshot has them ([`Record`]), one behind the other in chunks. So a
//! change costs no allocation, the buffer of the value that it replaces serves the next one, and a
//! snapshot copies. Views share the sealed chunks, so that a view takes microseconds, and the open
//! one, which is then copied before it grows. A chunk has an index by key, which is built at the
//! first read of its past.

mod record;
mod timeline;

use std::borrow::Cow;
use std::ops::{AddAssign, Range, SubAssign};
use std::sync::{Arc, OnceLock};

use imbl::Vector;

use crate::kv::model::{KeyRange, Revision};

pub(in crate::kv) use record::{Before, BeforeValue, Record};
pub(in crate::kv) use timeline::{KeyChange, Timeline};

/// A chunk has room for this much, or for one longer record. It keeps its memory until its last
/// record is forgotten, and records of more than half of this may each need a chunk: with such
/// values the history takes up to twice what it counts for.
const CHUNK_LEN: usize = 64 << 10;

/// The latest changes. See the [module](self).
#[derive(Clone, Debug, Default)]
pub(in crate::kv) struct History {
    sealed: Vector<Arc<Chunk>>,
    open: Arc<Chunk>,
    spare: Spare,
    /// What is forgotten of the first chunk.
    skipped: Extent,
    /// What is not forgotten.
    kept: Extent,
    compacted: Revision,
    newest: Revision,
}

/// So much of the history.
#[derive(Clone, Copy, Debug, Default)]
struct Extent {
    records: usize,
    encoded_len: usize,
    /// What they count for.
    cost: u64,
}

/// Records, oldest first. A sealed chunk does not change any more.
#[derive(Debug, Default)]
struct Chunk {
    bytes: Vec<u8>,
    /// One for each record. What is forgotten is found here: the bytes of the oldest records are in
    /// no cache any more.
    marks: Vec<Mark>,
    all: Extent,
    newest: Revision,
    /// Where the records begin, in the order of their keys, and for each key in that of their
    /// revisions.
    by_key: OnceLock<Vec<u32>>,
}

/// The memory of the chunk that was forgotten last, for the next one. The system would take it
/// back, and clear it again page by page.
#[derive(Debug, Default)]
struct Spare(Chunk);

impl Clone for Spare {
    fn clone(&self) -> Spare {
        Spare::default()
    }
}

/// What must be known of a record to forget it.
#[derive(Clone, Copy, Debug)]
struct Mark {
    revision: Revision,
    encoded_len: u32,
    cost: u32,
}

impl History {
    /// The oldest revision that can be read: every later change is in the history.
    pub(in crate::kv) fn compacted(&self) -> Revision {
        self.compacted
    }

    /// What the records count for.
    pub(in crate::kv) fn bytes(&self) -> u64 {
        self.kept.cost
    }

    pub(in crate::kv) fn len(&self) -> usize {
        self.kept.records
    }

    /// The encoded records, oldest first: whole ones in each part.
    pub(in crate::kv) fn encoded(&self) -> impl Iterator<Item = &[u8]> {
        let chunks = self.chunks().map(|chunk| &chunk.bytes[..]).enumerate();
        chunks.map(|(n, bytes)| if n == 0 { &bytes[self.skipped.encoded_len..] } else { bytes })
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
        let mark = Mark::of(record);
        let extent = mark.extent();
        let open = self.open_with_room(extent.encoded_len);
        record.encode(&mut open.bytes);
        open.marks.push(mark);
        open.newest = record.revision;
        open.all += extent;
        self.newest = record.revision;
        self.kept += extent;
    }

    /// The open chunk, or a new one if a record of `len` bytes does not fit into it.
    fn open_with_room(&mut self, len: usize) -> &mut Chunk {
        let is_empty = self.open.bytes.is_empty();
        if is_empty || self.open.bytes.len() + len > CHUNK_LEN {
            let next = std::mem::take(&mut self.spare.0).emptied(len);
            let full = std::mem::replace(&mut self.open, Arc::new(next));
            if !is_empty {
                self.sealed.push_back(full);
            }
        } else if Arc::get_mut(&mut self.open).is_none() {
            let mut copy = std::mem::take(&mut self.spare.0).emptied(CHUNK_LEN);
            copy.bytes.extend_from_slice(&self.open.bytes);
            copy.marks.extend_from_slice(&self.open.marks);
            self.open = Arc::new(Chunk { all: self.open.all, newest: self.open.newest, ..copy });
        }
        let open = Arc::get_mut(&mut self.open).expect("nobody else holds it now");
        open.by_key.take();
        open
    }

    /// Forgets revisions, oldest first, until the rest costs at most `bytes_max`. The newest one
    /// stays.
    pub(in crate::kv) fn shrink_to(&mut self, bytes_max: u64) {
        while self.kept.cost > bytes_max
            && let Some(oldest) = self.first().map(|first| first.revision)
            && oldest < self.newest
        {
            // Without the whole chunk it still costs too much, so that all of its revisions go.
            let costs_too_much = |chunk: &&Arc<Chunk>| {
                chunk.newest < self.newest
                    && self.kept.cost - (chunk.all.cost - self.skipped.cost) > bytes_max
            };
            let chunk = self.sealed.front().filter(costs_too_much);
            self.compact(chunk.map_or(oldest, |chunk| chunk.newest));
        }
    }

    /// Forgets all records up to `revision`.
    pub(in crate::kv) fn compact(&mut self, revision: Revision) {
        while let Some(chunk) = self.sealed.front()
            && chunk.newest <= revision
        {
            self.kept += std::mem::take(&mut self.skipped);
            self.kept -= chunk.all;
            // A view may hold it, too.
            if let Some(Ok(chunk)) = self.sealed.pop_front().map(Arc::try_unwrap) {
                self.spare = Spare(chunk);
            }
        }
        while let Some(first) = self.first()
            && first.revision <= revision
        {
            let extent = first.extent();
            self.kept -= extent;
            self.skipped += extent;
        }
        if self.sealed.is_empty() && self.kept.records == 0 {
            (self.open, self.skipped) = (Arc::default(), Extent::default());
        }
        self.compacted = self.compacted.max(revision);
    }

    fn first(&self) -> Option<Mark> {
        let chunk = self.sealed.front().unwrap_or(&self.open);
        chunk.marks.get(self.skipped.records).copied()
    }

    /// Calls `see` with each change after revision `at` that is not forgotten, newest first.
    pub(in crate::kv) fn newest_first(&self, at: Revision, mut see: impl FnMut(Revision, &[u8])) {
        for (chunk, begin) in self.places_after(at.max(self.compacted)) {
            let Record { revision, key, .. } = chunk.record(begin);
            see(revision, key);
        }
    }

    /// Where the changes after revision `at` lie, newest first: their chunks, and where they begin
    /// there. None of them may be forgotten.
    fn places_after(&self, at: Revision) -> impl Iterator<Item = (&Arc<Chunk>, u32)> {
        let chunks = std::iter::once(&self.open).chain(self.sealed.iter().rev());
        chunks.take_while(move |chunk| chunk.newest > at).flat_map(move |chunk| {
            let mut begin = chunk.all.encoded_len as u32;
            let marks = chunk.marks.iter().rev().take_while(move |mark| mark.revision > at);
            marks.map(move |mark| {
                begin -= mark.encoded_len;
                (chunk, begin)
            })
        })
    }

    /// The revision before which there are at least `records` newer changes. `None`: there are not
    /// so many in all.
    pub(in crate::kv) fn revision_before_newest(&self, records: usize) -> Option<Revision> {
        let mut left = records;
        for chunk in std::iter::once(&self.open).chain(self.sealed.iter().rev()) {
            match chunk.marks.len().checked_sub(left + 1) {
                Some(place) => return Some(chunk.marks[place].revision),
                None => left -= chunk.marks.len(),
            }
        }
        None
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

impl Mark {
    fn of(record: &Record<'_>) -> Mark {
        // A key and a value together have at most 16 MiB.
        let (encoded_len, cost) = (record.encoded_len() as u32, record.cost() as u32);
        Mark { revision: record.revision, encoded_len, cost }
    }

    fn extent(self) -> Extent {
        let (encoded_len, cost) = (self.encoded_len as usize, u64::from(self.cost));
        Extent { records: 1, encoded_len, cost }
    }
}

impl AddAssign for Extent {
    fn add_assign(&mut self, more: Extent) {
        self.records += more.records;
        self.encoded_len += more.encoded_len;
        self.cost += more.cost;
    }
}

impl SubAssign for Extent {
    fn sub_assign(&mut self, less: Extent) {
        self.records -= less.records;
        self.encoded_len -= less.encoded_len;
        self.cost -= less.cost;
    }
}

impl Chunk {
    /// An empty chunk of the same memory, with room for a record of this length at least. It is
    /// not much more: a chunk may have held one long record.
    fn emptied(self, len: usize) -> Chunk {
        let Chunk { mut bytes, mut marks, .. } = self;
        bytes.clear();
        marks.clear();
        let len = len.max(CHUNK_LEN);
        if !(len..=2 * len).contains(&bytes.capacity()) {
            bytes = Vec::with_capacity(len);
        }
        Chunk { bytes, marks, ..Chunk::default() }
    }

    fn record(&self, begin: u32) -> Record<'_> {
        Record::decode(&self.bytes[begin as usize..])
    }

    fn by_key(&self) -> &[u32] {
        self.by_key.get_or_init(|| {
            let mut begin = 0;
            let begins = self.marks.iter().map(|mark| {
                begin += mark.encoded_len;
                begin - mark.encoded_len
            });
            let mut begins: Vec<u32> = begins.collect();
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: &[u8] = &[b'k'; 1000];

    /// A history with revisions of so many changes each, from 2 on.
    fn history(changes: &[usize]) -> History {
        let mut history = History::default();
        for (revision, &count) in (2..).zip(changes) {
            for n in 0..count {
                let key = &KEY[..n * 30 % KEY.len()];
                history.push(&Record { revision: Revision(revision), key, before: None });
            }
        }
        history
    }

    #[test]
    fn a_chunk_has_an_index_from_the_first_read_of_its_past_on() {
        // Six hundred changes of 450 bytes in the mean, so about 145 in a chunk.
        let history = history(&[30; 20]);
        let indexed = || history.chunks().map(|it| it.by_key.get().is_some()).collect::<Vec<_>>();
        let chunks = indexed().len();
        assert!(chunks > 3, "{chunks}");
        assert_eq!(indexed(), vec![false; chunks], "changes make none");
        let at = history.sealed[chunks - 3].newest;
        let read = || history.changes_after(at, &KeyRange::all()).count();
        assert_eq!(read(), 2);
        let mut expected = vec![false; chunks - 2];
        expected.extend([true; 2]);
        assert_eq!(indexed(), expected, "those that the read has not touched have none");
        read();
        assert_eq!(indexed(), expected);
    }

    /// Forgets revision by revision, as the page says.
    fn shrink_slowly(records: &mut Vec<Record<'_>>, bytes_max: u64) {
        let bytes = |records: &[Record<'_>]| records.iter().map(Record::cost).sum::<u64>();
        while let (Some(first), Some(last)) = (records.first(), records.last())
            && bytes(records) > bytes_max
            && first.revision < last.revision
        {
            let oldest = first.revision;
            records.retain(|record| record.revision > oldest);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// What is forgotten depends on the records and the limit, not on how records lie in
        /// chunks: a member that has loaded a snapshot has others.
        #[test]
        fn whole_chunks_and_parts_of_them_are_forgotten_alike(
            changes in prop::collection::vec(1..300usize, 1..20),
            part in 0..=10u64,
            compacted in 0..20u64,
        ) {
            let mut one = history(&changes);
            let whole = one.clone();
            one.compact(Revision(compacted));
            let mut other = History::compacted_at(Revision(compacted));
            let is_kept = |record: &Record<'_>| record.revision > Revision(compacted);
            whole.records().filter(is_kept).for_each(|record| other.push(&record));
            let mut expected: Vec<Record<'_>> = whole.records().filter(is_kept).collect();
            let bytes_max = one.bytes() * part / 10;
            shrink_slowly(&mut expected, bytes_max);
            for history in [&mut one, &mut other] {
                history.shrink_to(bytes_max);
                prop_assert!(history.records().eq(expected.iter().copied()));
                prop_assert_eq!(history.len(), expected.len());
                prop_assert_eq!(history.bytes(), expected.iter().map(Record::cost).sum::<u64>());
            }
            prop_assert_eq!(one.compacted(), other.compacted());
            // And it goes on.
            for history in [&mut one, &mut other] {
                let revision = Revision(100);
                history.push(&Record { revision, key: b"k", before: None });
                history.compact(revision);
                prop_assert_eq!((history.len(), history.bytes()), (0, 0));
            }
        }
    }
}
