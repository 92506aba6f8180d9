//! The errors of storage.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::io::Errno;

use crate::raft::MemberId;

/// Why the data directory, the log or a snapshot could not be used. `Display` is one line for an
/// operator: what failed, where, and what to do about it. What the system said is the source:
/// [`ErrorChain`](crate::ErrorChain) shows both.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    /// The operating system refused. Once a write or a sync of the log has failed, every later call
    /// returns the same error.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was attempted: a verb.
        action: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },

    /// The disk is full. Nothing was lost: the log is unchanged, appended entries are still
    /// buffered, and [`sync`](crate::storage::Wal::sync) succeeds once there is space. A snapshot
    /// that did not fit is removed; the one before it is still there.
    #[error("cannot {action} {} (writes wait until there is space)", path.display())]
    Full {
        /// What was attempted: a verb.
        action: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },

    /// The process, or the machine, has no file descriptor left. Nothing was changed, and the same
    /// call succeeds once some are closed.
    #[error("cannot {action} {} (this waits until files or connections are closed)", path.display())]
    NoDescriptor {
        /// What was attempted: a verb.
        action: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },

    /// More was appended between two syncs than a batch can hold. This call appended nothing.
    #[error(
        "{len_bytes} bytes between two syncs are more than the log can take: at most {max_bytes}"
    )]
    TooLarge {
        /// How many bytes the batch would have held.
        len_bytes: u64,
        /// How many bytes a batch can hold.
        max_bytes: u64,
    },

    /// Another process, or another server in this one, holds the directory.
    #[error("data directory {} is in use{}: only one server may run on it", dir.display(), by_process(pid))]
    Locked {
        /// The data directory.
        dir: PathBuf,
        /// The process that holds it, if known.
        pid: Option<u32>,
    },

    /// The directory was removed, moved or replaced while a member used it. Later writes would be
    /// lost.
    #[error(
        "data directory {} is not the one that this member started with: {} was removed, moved away or replaced",
        dir.display(), missed.display()
    )]
    TakenAway {
        /// The data directory.
        dir: PathBuf,
        /// The first file or directory found missing.
        missed: PathBuf,
    },

    /// A data directory was to be made where something is already.
    #[error("{} is not empty: {found} is in it; give a directory that is empty or absent", dir.display())]
    NotEmpty {
        /// The directory.
        dir: PathBuf,
        /// The name of something in it.
        found: String,
    },

    /// The directory holds no member's data.
    #[error("{} is not the data directory of a member: it has no meta file", dir.display())]
    NoData {
        /// The directory.
        dir: PathBuf,
    },

    /// The directory holds the data of another member.
    #[error("data directory {} belongs to member {found}, not to member {expected}", dir.display())]
    OtherMember {
        /// The data directory.
        dir: PathBuf,
        /// Whose data it holds.
        found: MemberId,
        /// The member that opened it.
        expected: MemberId,
    },

    /// `meta` is missing where it must exist, or was changed.
    #[error("{} is damaged: {reason}; restore it from a copy, or see \"A damaged member\" in the README", path.display())]
    MetaDamaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },

    /// The files were written by a later version of this program.
    #[error("{} has format version {found}, this program knows versions up to {known}: use a newer syncraft", path.display())]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// The version it has.
        found: u32,
        /// The newest version that we can read.
        known: u32,
    },

    /// The files were written before the first release of this program, in a format that no release
    /// reads.
    #[error(
        "{} has format version {found}, which was never released and is no longer read: start with \
         an empty data directory",
        path.display()
    )]
    UnreleasedFormat {
        /// The file.
        path: PathBuf,
        /// The version it has.
        found: u32,
    },

    /// The log is damaged where it had been synced. Acknowledged data may be gone, so the member
    /// must not start.
    #[error("log is damaged: {} at offset {offset}: {reason}; this member must not start with it: restore the file from \
             a copy, or see \"A damaged member\" in the README", file.display())]
    Corrupt {
        /// The segment.
        file: PathBuf,
        /// The offset of the first damage, in bytes.
        offset: u64,
        /// What is wrong there.
        reason: String,
    },

    /// A snapshot was damaged, on this disk or on its way to this member.
    #[error("snapshot is damaged: {} at offset {offset}: {reason}", file.display())]
    SnapshotCorrupt {
        /// The snapshot.
        file: PathBuf,
        /// The offset of the first damage, in bytes.
        offset: u64,
        /// What is wrong there.
        reason: String,
    },
}

impl StorageError {
    /// Whether the disk is full: nothing was lost, and the same call may succeed later.
    pub fn is_full(&self) -> bool {
        matches!(self, StorageError::Full { .. })
    }

    /// Whether nothing was changed or lost, and the same call may succeed later.
    pub fn is_transient(&self) -> bool {
        matches!(self, StorageError::Full { .. } | StorageError::NoDescriptor { .. })
    }

    /// Whether data that had been written and synced has changed.
    pub fn is_corrupt(&self) -> bool {
        matches!(
            self,
            StorageError::Corrupt { .. }
                | StorageError::SnapshotCorrupt { .. }
                | StorageError::MetaDamaged { .. }
        )
    }

    /// This error as an `io::Error` of the kind that the system gave, for `std::io` traits.
    pub(crate) fn into_io(self) -> io::Error {
        let kind = match &self {
            StorageError::Io { source, .. }
            | StorageError::Full { source, .. }
            | StorageError::NoDescriptor { source, .. } => source.kind(),
            _ => io::ErrorKind::InvalidData,
        };
        io::Error::new(kind, self)
    }

    /// For `map_err`: turns an error of the system while doing `action` to `path` into ours. An
    /// error that [`into_io`](StorageError::into_io) made is turned back.
    pub(crate) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> StorageError {
        let path = path.into();
        move |error| {
            let source = match error.downcast::<StorageError>() {
                Ok(ours) => return ours,
                Err(source) => source,
            };
            let is_full =
                matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
            // Only opening a file fails with these, before anything has changed.
            let is_no_descriptor =
                matches!(Errno::from_io_error(&source), Some(Errno::MFILE | Errno::NFILE));
            let source = Arc::new(source);
            match (is_full, is_no_descriptor) {
                (true, _) => StorageError::Full { action, path, source },
                (_, true) => StorageError::NoDescriptor { action, path, source },
                _ => StorageError::Io { action, path, source },
            }
        }
    }

    /// For `map_err`: a sync failed. Even if the disk is full, it cannot be retried, because the
    /// data may be gone.
    pub(crate) fn sync(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> StorageError {
        let path = path.into();
        move |source| StorageError::Io { action: "sync", path, source: Arc::new(source) }
    }
}

fn by_process(pid: &Option<u32>) -> String {
    pid.map(|pid| format!(" by process {pid}")).unwrap_or_default()
}
