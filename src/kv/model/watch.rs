//! [`WatchRange`], [`Change`] and [`Changes`]: what a watch asks for, and what it is told.

use bytes::Bytes;

use super::wire::{key_range, missing};
use super::{Entry, KeyRange, Revision, WireError, proto};

/// Which changes a watch is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchRange {
    /// Of which keys.
    pub keys: KeyRange,
    /// The first revision whose changes are wanted. [`Revision::NONE`]: those that come after the
    /// watch is made.
    pub from: Revision,
    /// Whether puts are wanted.
    pub puts: bool,
    /// Whether deletions are wanted.
    pub deletes: bool,
    /// Whether changes come with the entry before.
    pub previous: bool,
}

/// What one revision did to one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The key was written.
    Put {
        /// The key, its value, and when they changed.
        entry: Entry,
        /// The entry before, if there was one and it was asked for.
        previous: Option<Entry>,
    },
    /// The key was deleted.
    Delete {
        /// The key.
        key: Bytes,
        /// The revision that deleted it.
        revision: Revision,
        /// The entry before, if it was asked for.
        previous: Option<Entry>,
    },
}

/// All changes of one revision that a watch asks for: at least one, in the order of their keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changes {
    /// The revision.
    pub revision: Revision,
    /// The changes.
    pub changes: Vec<Change>,
}

impl WatchRange {
    /// All changes of `keys` that come after the watch is made, without the entries before.
    pub fn of(keys: KeyRange) -> WatchRange {
        WatchRange { keys, from: Revision::NONE, puts: true, deletes: true, previous: false }
    }
}

impl Change {
    /// The key.
    pub fn key(&self) -> &Bytes {
        match self {
            Change::Put { entry, .. } => &entry.key,
            Change::Delete { key, .. } => key,
        }
    }

    /// The value that the key has from this change on. `None`: it was deleted.
    pub fn value(&self) -> Option<&Bytes> {
        match self {
            Change::Put { entry, .. } => Some(&entry.value),
            Change::Delete { .. } => None,
        }
    }

    /// The revision that made the change.
    pub fn revision(&self) -> Revision {
        match self {
            Change::Put { entry, .. } => entry.mod_revision,
            Change::Delete { revision, .. } => *revision,
        }
    }

    /// The entry before, if there was one and it was asked for.
    pub fn previous(&self) -> Option<&Entry> {
        match self {
            Change::Put { previous, .. } | Change::Delete { previous, .. } => previous.as_ref(),
        }
    }

    /// What the change holds in memory, about.
    pub(crate) fn len_bytes(&self) -> u64 {
        let own = match self {
            Change::Put { entry, .. } => entry.len_bytes(),
            Change::Delete { key, .. } => key.len() as u64 + 64,
        };
        own + self.previous().map_or(0, Entry::len_bytes)
    }
}

impl From<&WatchRange> for proto::WatchCreate {
    fn from(watch: &WatchRange) -> proto::WatchCreate {
        let WatchRange { keys, from, puts, deletes, previous } = watch;
        proto::WatchCreate {
            keys: Some(keys.into()),
            from: from.0,
            without_puts: !puts,
            without_deletes: !deletes,
            previous: *previous,
        }
    }
}

impl TryFrom<proto::WatchCreate> for WatchRange {
    type Error = WireError;

    fn try_from(create: proto::WatchCreate) -> Result<WatchRange, WireError> {
        let proto::WatchCreate { keys, from, without_puts, without_deletes, previous } = create;
        Ok(WatchRange {
            keys: key_range("a watch", keys)?,
            from: Revision(from),
            puts: !without_puts,
            deletes: !without_deletes,
            previous,
        })
    }
}

impl From<&Change> for proto::WatchChange {
    fn from(change: &Change) -> proto::WatchChange {
        let entry = match change {
            Change::Put { entry, .. } => entry.into(),
            Change::Delete { key, revision, .. } => proto::Entry {
                key: key.clone(),
                mod_revision: revision.0,
                ..proto::Entry::default()
            },
        };
        proto::WatchChange {
            entry: Some(entry),
            is_delete: matches!(change, Change::Delete { .. }),
            previous: change.previous().map(Into::into),
        }
    }
}

impl TryFrom<proto::WatchChange> for Change {
    type Error = WireError;

    fn try_from(change: proto::WatchChange) -> Result<Change, WireError> {
        let proto::WatchChange { entry, is_delete, previous } = change;
        let entry: Entry = entry.ok_or_else(|| missing("a change", "entry"))?.into();
        let previous = previous.map(Into::into);
        Ok(match is_delete {
            true => Change::Delete { key: entry.key, revision: entry.mod_revision, previous },
            false => Change::Put { entry, previous },
        })
    }
}
