//! The write-ahead log.

use std::path::PathBuf;

use crate::raft::{Entry, HardState};

use super::{DataDir, StorageError};

/// How the log lays out its files.
#[derive(Clone, Debug)]
pub struct WalOptions {
    /// The length of a full-grown segment.
    pub segment_len_bytes: u64,
}

impl Default for WalOptions {
    fn default() -> Self {
        WalOptions { segment_len_bytes: 64 << 20 }
    }
}

/// What the log held when it was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// The newest hard state.
    pub hard_state: HardState,
    /// The entries, from index 1 without a gap.
    pub entries: Vec<Entry>,
    /// What was cut off the end: the rest of a write that was never acknowledged.
    pub torn: Option<TornTail>,
}

/// The rest of a write that a crash interrupted: cut off, and kept aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TornTail {
    /// The segment.
    pub file: PathBuf,
    /// Where it was cut.
    pub offset: u64,
    /// How much was cut.
    pub len_bytes: u64,
    /// Where the cut bytes are now, unless they could not be kept.
    pub kept_in: Option<PathBuf>,
}

/// The write-ahead log of one member.
#[derive(Debug)]
pub struct Wal;

impl Wal {
    /// Opens the log of a data directory.
    ///
    /// # Errors
    /// See [`StorageError`].
    pub fn open(_dir: &DataDir, _options: WalOptions) -> Result<(Wal, Recovered), StorageError> {
        Ok((Wal, Recovered::default()))
    }

    /// Buffers; nothing is durable before [`sync`](Wal::sync) has returned.
    ///
    /// # Errors
    /// After an earlier failure: the same again.
    pub fn append(
        &mut self,
        _hard_state: Option<HardState>,
        _entries: &[Entry],
    ) -> Result<(), StorageError> {
        Ok(())
    }

    /// Makes all that was appended durable: one write, one fdatasync.
    ///
    /// # Errors
    /// See [`StorageError::Full`]; anything else is final.
    pub fn sync(&mut self) -> Result<(), StorageError> {
        Ok(())
    }

    /// Syncs, and marks the log as cleanly closed.
    pub fn close(self) {}
}
