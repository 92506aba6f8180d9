//! What the files of a data directory say about themselves: whose data they hold, and in which
//! format.

use crate::raft::MemberId;

/// The format that this program writes, and the newest that it reads.
pub(super) const FORMAT_VERSION: u32 = 1;

/// Whose data a directory holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster, fixed when the directory is first used.
    pub cluster_id: u64,
    /// The member.
    pub member_id: MemberId,
}
