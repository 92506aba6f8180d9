//! What the files of a data directory say about themselves: whose data they hold, and in which
//! format.

use std::path::Path;

use super::StorageError;
use crate::raft::MemberId;

/// The format that this program writes, and the only one that it reads: of `meta`, of the log and
/// of snapshots.
///
/// Format 1 was never released. From here on, a new format leaves the older ones readable.
pub(super) const FORMAT_VERSION: u32 = 2;

/// The refusal of a file whose format is not [`FORMAT_VERSION`].
pub(super) fn other_format(path: &Path, found: u32) -> StorageError {
    let (path, known) = (path.to_path_buf(), FORMAT_VERSION);
    match found > known {
        true => StorageError::NewerFormat { path, found, known },
        false => StorageError::UnreleasedFormat { path, found },
    }
}

/// Whose data a directory holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster, fixed when the directory is first used.
    pub cluster_id: u64,
    /// The member.
    pub member_id: MemberId,
}

/// Whose log a file belongs to. It names no cluster: a member may write its log before it knows
/// which cluster it is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LogOwner {
    /// The random number of the data directory, drawn when the log begins.
    pub(super) directory: u64,
    pub(super) member_id: MemberId,
}
