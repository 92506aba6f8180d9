//! [`ApiError`]: why a request has no answer.

use crate::kv::CommandError;
use crate::kv::model::{Reason, Refusal};
use crate::node::RequestError;
use crate::raft::{Index, MemberId};

/// Why a request has no answer. [`ApiError::may_apply`] says whether a write may have taken effect
/// all the same.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ApiError {
    /// This member did not serve the request: it does not lead, is busy, hands over, has no space
    /// on its disk, has diverged or stops; or the time ran out, or the leadership was lost.
    #[error(transparent)]
    NotServed(#[from] RequestError),
    /// The request is over a limit, whatever the store holds. Nothing was done.
    #[error("the request is invalid")]
    Invalid(#[from] CommandError),
    /// Revisions begin at 1, so there is nothing to compact at 0. Nothing was done.
    #[error("revision 0 cannot be compacted: revisions begin at 1")]
    RevisionZero,
    /// The store refused the request, and this copy of it changed nothing. With
    /// [`Reason::SessionExpired`] or [`Reason::Superseded`] an earlier copy may have taken effect.
    /// After any other reason none has, and a repeat with the same identity gets the same answer.
    #[error("the store refused the request")]
    Refused {
        /// Why.
        #[source]
        refusal: Refusal,
        /// The entry of the log that was refused, or its first copy. `None`: it was a read, or the
        /// entry is not known any more.
        index: Option<Index>,
    },
}

impl ApiError {
    /// Whether a write may have taken effect, or may still do so. `false` is certain.
    pub fn may_apply(&self) -> bool {
        match self {
            ApiError::NotServed(error) => error.may_apply(),
            // An earlier copy may have taken effect.
            ApiError::Refused { refusal, .. } => {
                matches!(refusal.reason, Reason::SessionExpired | Reason::Superseded)
            }
            ApiError::Invalid(_) | ApiError::RevisionZero => false,
        }
    }

    /// The member that leads, if this one does not and knows who does.
    pub fn leader(&self) -> Option<MemberId> {
        match self {
            ApiError::NotServed(
                RequestError::NotLeader { leader } | RequestError::LeadershipLost { leader },
            ) => *leader,
            _ => None,
        }
    }

    /// The identity has been used for a request of another kind, at this index.
    pub(super) fn superseded(index: Index) -> ApiError {
        ApiError::refused(Refusal::of(Reason::Superseded, 0), Some(index))
    }

    pub(super) fn refused(refusal: Refusal, index: Option<Index>) -> ApiError {
        ApiError::Refused { refusal, index }
    }
}
