//! What the files of a data directory say about themselves: whose data they hold, and in which
//! format.

use std::path::Path;

use super::StorageError;
use crate::raft::MemberId;

/// The first format that was released: of `meta`, of the log and of snapshots. Each kind of file
/// has its own versions from here on, and all of them stay readable.
pub(super) const FIRST_FORMAT: u32 = 2;

/// The refusal of a file whose format is none of those from [`FIRST_FORMAT`] to `known`.
pub(super) fn other_format(path: &Path, found: u32, known: u32) -> StorageError {
    let path = path.to_path_buf();
    match found > known {
        true => StorageError::NewerFormat { path, found, known },
        false => StorageError::UnreleasedFormat { path, found },
    }
}

/// Whose data a directory holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster; 0 until its id is known.
    pub cluster_id: u64,
    /// A hash of the list of members with which the cluster was first started
    /// ([`Configuration::list_id`](crate::raft::Configuration::list_id)).
    pub list_id: u64,
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
