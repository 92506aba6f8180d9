//! [`Cursor`]: how far a watch is, and what it is told next.

use std::sync::Arc;

use bytes::Bytes;

use crate::kv::model::{Change, Entry, Revision, WatchRange};
use crate::kv::state::{KeyChange, Timeline};
use crate::node::FRAME_LEN_MIN;

/// How long a message is, unless its only change is longer. A change counts as
/// [`Change::len_bytes`].
const PIECE_LEN_MAX: u64 = 64 << 10;

/// The longest change that can be told. A key and a value are shorter, but with an entry before
/// they may be longer.
pub(super) const CHANGE_LEN_MAX: u64 = FRAME_LEN_MIN as u64 - 1024;

/// How many changes a range looks at for one message. More: the other watches wait longer.
const LOOKS_MAX: usize = 20_000;

/// A place in the sequence of changes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Cursor {
    /// The first revision of which something may still have to be told. Everything before was.
    pub(super) next: Revision,
    /// Of that revision, everything up to this key was told.
    pub(super) after: Option<Bytes>,
}

/// What a watch is told next.
#[derive(Debug)]
pub(super) struct Piece {
    /// Perhaps nothing.
    pub(super) changes: Arc<[Change]>,
    /// Where the watch is then.
    pub(super) end: Cursor,
}

/// A change is longer than [`CHANGE_LEN_MAX`].
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLong;

impl Cursor {
    pub(super) fn at(next: Revision) -> Cursor {
        Cursor { next, after: None }
    }

    /// Everything up to this revision was told.
    pub(super) fn complete_to(&self) -> Revision {
        Revision(self.next.0.saturating_sub(1))
    }

    /// Nothing before this revision is to be told.
    pub(super) fn skip_to(&mut self, next: Revision) {
        if next > self.next {
            *self = Cursor::at(next);
        }
    }

    /// Reads on, up to the last revision of the timeline. The caller has made sure that it reaches
    /// back to the cursor.
    pub(super) fn read(&self, range: &WatchRange, timeline: &Timeline) -> Result<Piece, TooLong> {
        let (mut changes, mut len, mut end) = (Vec::new(), 0, self.clone());
        let places = timeline.places(&range.keys, self.next, self.after.as_deref());
        for (looks, place) in (1..).zip(places) {
            let (revision, key) = timeline.look(place);
            let change = match range.keys.contains(key) {
                true => told(range, timeline.see(place)),
                false => None,
            };
            if let Some(change) = change {
                end.skip_to(revision);
                len += change.len_bytes();
                if len > PIECE_LEN_MAX && !changes.is_empty() {
                    return Ok(Piece { changes: changes.into(), end });
                }
                if len > CHANGE_LEN_MAX {
                    return Err(TooLong);
                }
                end.after = Some(change.key().clone());
                changes.push(change);
            }
            if looks == LOOKS_MAX {
                // The next piece comes further in any case.
                end = Cursor { next: revision, after: Some(Bytes::copy_from_slice(key)) };
                return Ok(Piece { changes: changes.into(), end });
            }
        }
        end.skip_to(timeline.revision().next());
        Ok(Piece { changes: changes.into(), end })
    }
}

/// What a watch is told of a change; `None`: nothing.
fn told(range: &WatchRange, change: KeyChange<'_>) -> Option<Change> {
    let KeyChange { revision, key, before, after } = change;
    let is_wanted = if after.is_some() { range.puts } else { range.deletes };
    if !is_wanted {
        return None;
    }
    let key = Bytes::copy_from_slice(key);
    let entry = |held: crate::kv::state::Held<'_>| -> Entry {
        held.entry(key.clone(), held.value_by(Bytes::copy_from_slice))
    };
    let previous = before.filter(|_| range.previous).map(entry);
    Some(match after.map(entry) {
        Some(entry) => Change::Put { entry, previous },
        None => Change::Delete { key, revision, previous },
    })
}
