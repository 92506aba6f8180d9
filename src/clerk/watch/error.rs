//! [`WatchError`].

use crate::clerk::{ClerkError, ClerkErrorKind};
use crate::kv::model::{Refusal, Revision};

/// Why a [`Watch`](super::Watch) has no changes to give.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WatchError {
    /// The store has forgotten changes that the watch has not seen: they were compacted, or more
    /// came than its history holds. The watch has ended. Read what you watch anew, and begin a
    /// watch behind that read, or at `oldest`.
    #[error(
        "changes from revision {wanted} on are wanted, and the store has forgotten what was \
         before revision {oldest}: a new watch can begin there"
    )]
    Compacted {
        /// The first revision that the watch has not seen.
        wanted: Revision,
        /// The first revision at which a watch can begin.
        oldest: Revision,
    },
    /// One revision changed more than a watch holds in memory. The watch has ended. A new one can
    /// begin behind that revision.
    #[error("the changes of revision {revision} are more than {limit} bytes")]
    TooLarge {
        /// The revision.
        revision: Revision,
        /// How many bytes of changes a watch holds.
        limit: u64,
    },
    /// The store refuses to make this watch. It has ended.
    #[error("the store refuses the watch")]
    Refused(#[source] Refusal),
    /// No member has served the watch for as long as the Clerk's
    /// [timeout](crate::clerk::ClerkBuilder::timeout). The watch has lost nothing: if it is asked
    /// again, it goes on trying. But if the error is of kind [`ClerkErrorKind::Rejected`], the
    /// request makes no sense, and the watch has ended.
    #[error(transparent)]
    NotServed(#[from] ClerkError),
}

impl WatchError {
    /// Whether the watch has ended. Otherwise it goes on when it is asked again.
    pub fn is_final(&self) -> bool {
        match self {
            WatchError::NotServed(error) => error.kind() == ClerkErrorKind::Rejected,
            _ => true,
        }
    }

    /// Where a new watch can begin if changes were lost to this one.
    pub fn resume_at(&self) -> Option<Revision> {
        match self {
            WatchError::Compacted { oldest, .. } => Some(*oldest),
            WatchError::TooLarge { revision, .. } => Some(revision.next()),
            _ => None,
        }
    }
}

/// How a watch has ended, to be told as often as somebody asks.
#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    Compacted { wanted: Revision, oldest: Revision },
    TooLarge { revision: Revision, limit: u64 },
    Refused(Refusal),
}

impl From<End> for WatchError {
    fn from(end: End) -> WatchError {
        match end {
            End::Compacted { wanted, oldest } => WatchError::Compacted { wanted, oldest },
            End::TooLarge { revision, limit } => WatchError::TooLarge { revision, limit },
            End::Refused(refusal) => WatchError::Refused(refusal),
        }
    }
}
