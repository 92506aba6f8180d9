//! The errors of backups.

use std::io;
use std::path::{Path, PathBuf};

use crate::kv::TooHigh;
use crate::members::Members;
use crate::raft::MemberId;
use crate::storage::StorageError;

/// Why a backup could not be written or read, or no data directory made. `Display` is one line for
/// an operator, and its cause is the source.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// The operating system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was attempted: a verb.
        action: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is there already. A backup replaces no file.
    #[error("{} is there already: give another name, or remove it", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The file is damaged, or is no backup.
    #[error("{} is damaged at offset {offset}: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The offset of the first damage, in bytes.
        offset: u64,
        /// What is wrong there.
        reason: String,
    },
    /// The checksums of the file are right, but no store of this version holds such a state.
    #[error("{} holds a state that cannot be read", path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: io::Error,
    },
    /// The file is of a format that this program does not know.
    #[error("{} has format {found}, this program knows formats up to {known}: \
         use a newer syncraft", path.display())]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest format that this program knows.
        known: u32,
    },
    /// The state is of a feature level that this program does not know.
    #[error("{} holds a state of feature level {found}, this program knows levels up to \
         {known}: use a newer syncraft", path.display())]
    NewerLevel {
        /// The file, or the data directory.
        path: PathBuf,
        /// The level of the state.
        found: u32,
        /// The highest level that this program knows.
        known: u32,
    },
    /// The numbers of the state end.
    #[error("{} cannot begin a cluster", path.display())]
    TooHigh {
        /// The file, or the data directory.
        path: PathBuf,
        /// Which numbers.
        source: TooHigh,
    },
    /// The member is not in the list.
    #[error("member {id} is not in the list of members {members}")]
    NotAMember {
        /// The member.
        id: MemberId,
        /// The list.
        members: Members,
    },
    /// The log is from before members were recorded, or says that the member was removed.
    #[error("the log in {} does not say where member {id} is (was it removed?): \
         give --members {id}=HOST:PORT",
         dir.display())]
    NoAddress {
        /// The member.
        id: MemberId,
        /// The data directory.
        dir: PathBuf,
    },
    /// The directory is that of a member that was being filled by others: what it holds is a part.
    #[error("the member of {} was still being filled by the others, so its data is only \
         a part: recover another member, or restore a backup", dir.display())]
    Partial {
        /// The data directory.
        dir: PathBuf,
    },
    /// A data directory cannot be used, or made.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl BackupError {
    /// For `map_err`: turns an error of the system while doing `action` to `path` into ours. An
    /// error that [`into_io`](BackupError::into_io) made is turned back.
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BackupError {
        let path = path.to_path_buf();
        move |error| match error.downcast::<BackupError>() {
            Ok(ours) => ours,
            Err(source) => BackupError::Io { action, path, source },
        }
    }

    /// This error as an `io::Error`, for `std::io` traits.
    pub(super) fn into_io(self) -> io::Error {
        match self {
            BackupError::Io { source, .. } => source,
            error => io::Error::new(io::ErrorKind::InvalidData, error),
        }
    }

    pub(super) fn damaged(path: &Path, offset: u64, reason: impl Into<String>) -> BackupError {
        BackupError::Damaged { path: path.to_path_buf(), offset, reason: reason.into() }
    }
}
