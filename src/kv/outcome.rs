//! [`Outcome`]: what became of a write.

use crate::raft::Index;

/// The outcome of a write. It is the same on every member. A repeat gets the first outcome again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The write took effect.
    Applied {
        /// The index of the entry that took effect. For a repeat, that of the first copy.
        index: Index,
    },
    /// A part of the command, or the resulting value, is over its limit. Nothing changed.
    TooLarge,
    /// The client's session may have been forgotten, so this may be a second copy. Nothing changed.
    SessionExpired {
        /// The index of this entry. It is applied, so a new session may use it as `seen_index`.
        index: Index,
    },
    /// The entry is not a command of this version. Nothing changed.
    Malformed,
}
