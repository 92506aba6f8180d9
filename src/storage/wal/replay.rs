//! The log while it is read, and the rules that its content must keep.

use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::raft::{Entry, HardState, Index, SnapshotMeta, Term};
use crate::storage::StorageError;

use super::format::{
    BATCH_HEADER_LEN_BYTES, BatchHeader, EntryId, FIRST_BATCH_FIELD_OFFSET, FIRST_BATCH_OFFSET,
    Record, decode_records,
};
use super::kept::{KeptSegments, Lengths};
use super::segment::{Segment, file_name};

#[derive(Default)]
pub(super) struct Replay {
    /// The number of the last batch.
    pub(super) sequence: u64,
    pub(super) hard_state: HardState,
    pub(super) kept: KeptSegments,
    pub(super) lengths: Lengths,
    /// The entry before the first one.
    start: EntryId,
    entries: Vec<Entry>,
    /// The log began anew after this entry, so no entry up to here is replaced any more.
    floor: Index,
    /// File and offset that say after which entry the log begins, if it does not begin with entry
    /// 1.
    begins_at: Option<(PathBuf, u64)>,
    has_batches: bool,
}

/// How a log continues the snapshot that was loaded.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Continuation {
    /// These entries follow the snapshot.
    Entries(Vec<Entry>),
    /// No entry follows the snapshot: the log must begin anew.
    Nothing,
}

impl Replay {
    /// The last entry so far.
    pub(super) fn last(&self) -> EntryId {
        self.entries.last().map_or(self.start, EntryId::of)
    }

    /// Goes on in this segment, if it is the next one.
    pub(super) fn begin(&mut self, segment: &Segment) -> Result<(), StorageError> {
        let header = &segment.header;
        let follows = (self.sequence + 1, self.last());
        let says = (header.first_batch, header.previous);
        if self.kept.is_empty() && header.sequence > 1 {
            (self.sequence, self.start) = (header.first_batch - 1, header.previous);
            let released = parent(&segment.path).join(file_name(header.sequence - 1));
            self.begins_at = Some((released, 0));
        } else if says != follows {
            return Err(segment.corrupt(
                FIRST_BATCH_FIELD_OFFSET,
                format!(
                    "it begins with batch {} after entry {}, and the segment before it ends with \
                     batch {} and entry {}",
                    header.first_batch,
                    header.previous.index,
                    self.sequence,
                    self.last().index
                ),
            ));
        }
        self.kept.begin(header.sequence, header.len_bytes);
        Ok(())
    }

    /// Applies a batch.
    pub(super) fn apply(
        &mut self,
        segment: &Segment,
        offset: u64,
        header: &BatchHeader,
        body: &Bytes,
    ) -> Result<(), StorageError> {
        self.apply_hard_state(header.hard_state)
            .map_err(|reason| segment.corrupt(offset, reason))?;
        let mut from: Option<Index> = None;
        for record in decode_records(body, header.records) {
            let in_file = |in_body: usize| offset + (BATCH_HEADER_LEN_BYTES + in_body) as u64;
            let (at, record) =
                record.map_err(|bad| segment.corrupt(in_file(bad.offset), bad.reason))?;
            let first =
                self.apply_record(record).map_err(|reason| segment.corrupt(in_file(at), reason))?;
            from = Some(from.map_or(first, |from| from.min(first)));
            if first == Index(1) && self.entries.is_empty() {
                self.begins_at = Some((segment.path.clone(), in_file(at)));
            }
        }
        self.sequence = header.sequence;
        self.has_batches = true;
        self.kept.wrote(from, self.last().index);
        self.lengths.wrote(from, self.last().index, header.len_bytes());
        Ok(())
    }

    fn apply_hard_state(&mut self, new: HardState) -> Result<(), String> {
        let old = std::mem::replace(&mut self.hard_state, new);
        if new.current_term < old.current_term {
            return Err(format!(
                "the term goes back from {} to {}",
                old.current_term, new.current_term
            ));
        }
        if new.current_term == old.current_term
            && old.voted_for.is_some()
            && new.voted_for != old.voted_for
        {
            return Err(format!("the vote in term {} changes", new.current_term));
        }
        Ok(())
    }

    /// Returns the first index that it replaced.
    fn apply_record(&mut self, record: Record) -> Result<Index, String> {
        match record {
            Record::Entry(entry) => self.apply_entry(entry),
            Record::Base(base) => self.apply_base(base),
        }
    }

    fn apply_entry(&mut self, entry: Entry) -> Result<Index, String> {
        let (index, last) = (entry.index, self.last().index);
        if index <= self.floor || index > last.next() {
            return Err(format!("entry {index} follows entry {last}"));
        }
        self.truncate(index.prev());
        let (previous, current) = (self.last().term, self.hard_state.current_term);
        if entry.term < previous || entry.term > current {
            let term = entry.term;
            return Err(format!(
                "entry {index} has term {term}, after term {previous} in term {current}"
            ));
        }
        self.entries.push(entry);
        Ok(index)
    }

    /// Keeps the entries up to this one. If this one was released, its term is not known any more.
    fn truncate(&mut self, last: Index) {
        if last < self.start.index {
            self.start = EntryId { index: last, term: Term::ZERO };
        }
        self.entries.truncate((last.0 - self.start.index.0) as usize);
    }

    fn apply_base(&mut self, base: EntryId) -> Result<Index, String> {
        let EntryId { index, term } = base;
        if index < self.floor || index == Index::ZERO {
            return Err(format!(
                "the log begins anew after entry {index}, and before that after entry {}",
                self.floor
            ));
        }
        if term > self.hard_state.current_term {
            let current = self.hard_state.current_term;
            return Err(format!("the log begins anew in term {term}, in term {current}"));
        }
        (self.start, self.floor) = (base, index);
        self.entries.clear();
        Ok(Index(1))
    }

    /// Hands out the entries that follow this snapshot, or all entries without one. The whole log
    /// has been read. The rules are in the [module above](super).
    pub(super) fn connect(
        &mut self,
        base: Option<SnapshotMeta>,
    ) -> Result<Continuation, StorageError> {
        let base = base.map_or(EntryId::default(), EntryId::from);
        if base.index < self.start.index {
            return Err(self.gap(base.index));
        }
        if base.index > self.last().index || !self.may_have(base) {
            return Ok(Continuation::Nothing);
        }
        let (first, last) = (self.start.index, self.last());
        let mut entries = std::mem::take(&mut self.entries);
        entries.drain(..(base.index.0 - first.0) as usize);
        // The entries are handed out, and the log still has them.
        self.start = last;
        Ok(Continuation::Entries(entries))
    }

    /// Whether the log has this entry. True also if only later entries are left and it is not
    /// known.
    fn may_have(&self, id: EntryId) -> bool {
        match id.index.0.checked_sub(self.start.index.0 + 1) {
            None => self.start.term == id.term || self.start.term == Term::ZERO,
            Some(position) => self.entries[position as usize].term == id.term,
        }
    }

    fn gap(&self, base: Index) -> StorageError {
        let start = self.start.index;
        let reason = match base {
            Index::ZERO => format!("the log begins after entry {start}, and there is no snapshot"),
            base => {
                format!("the log begins after entry {start}, the snapshot ends at entry {base}")
            }
        };
        // A log that begins after an entry says where, so this is set.
        let (file, offset) = self.begins_at.clone().unwrap_or_default();
        StorageError::Corrupt { file, offset, reason }
    }

    /// Segments are removed only when a later one has a synced batch, and with it the hard state.
    /// So the first segment has a batch, unless it is segment 1.
    pub(super) fn check_first_batch(&self, dir: &Path) -> Result<(), StorageError> {
        match self.kept.first() {
            Some(first) if first.sequence > 1 && !self.has_batches => Err(StorageError::Corrupt {
                file: dir.join(file_name(first.sequence)),
                offset: FIRST_BATCH_OFFSET,
                reason: "the first batch of the log is missing".to_string(),
            }),
            _ => Ok(()),
        }
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new(""))
}

pub(super) fn missing(dir: &Path, sequence: u64) -> StorageError {
    let reason = "the segment is missing".to_string();
    StorageError::Corrupt { file: dir.join(file_name(sequence)), offset: 0, reason }
}
