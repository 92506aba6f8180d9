//! [`Outcome`]: what became of a write.

use std::sync::Arc;

use super::model::{LeaseId, Refusal, Revision, TxnAnswer};
pub use super::state::Branches;
use crate::raft::Index;

/// The outcome of a write. It is the same on every member. A repeat gets the first outcome again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The put or append took effect.
    Applied {
        /// The index of the entry that took effect. For a repeat, that of the first copy.
        index: Index,
    },
    /// A part of the command, or the resulting value, is over its limit. Nothing changed.
    TooLarge,
    /// The store would hold more than its [`Limits`](super::Limits) allow. Nothing changed.
    NoSpace,
    /// The client's session may have been forgotten, so this may be a second copy. Nothing changed.
    SessionExpired {
        /// The index of this entry. It is applied, so a new session may use it as `seen_index`.
        index: Index,
    },
    /// The entry is not a command of this version. Nothing changed.
    Malformed,
    /// What became of anything else; of a grant, why there was none.
    Ran {
        /// The index of the entry. For a repeat, that of the first copy.
        index: Index,
        /// What it did, or why it changed nothing.
        result: Result<Done, Refusal>,
    },
    /// A lease was granted.
    Granted {
        /// The index of the entry. For a repeat, that of the first copy.
        index: Index,
        /// The revision of the store then.
        revision: Revision,
        /// The lease.
        lease: LeaseId,
        /// How long it lives without being kept alive, in milliseconds.
        ttl_ms: u64,
    },
    /// Leases were kept alive.
    KeptAlive {
        /// The index of the entry.
        index: Index,
        /// The revision of the store then.
        revision: Revision,
        /// For each lease of the command, how long it lives from now on, in milliseconds; 0 if
        /// there is no such lease.
        ttls_ms: Arc<[u64]>,
    },
}

/// What a transaction did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// The revision of the store afterwards.
    pub revision: Revision,
    /// Which branches ran.
    pub branches: Branches,
    /// The whole answer, unless this is a repeat and the answer is no longer known.
    pub answer: Option<Arc<TxnAnswer>>,
}

impl Outcome {
    /// What a repeat costs to be answered, beside the outcome itself: 0 without an answer.
    pub(super) fn answer_len_bytes(&self) -> u64 {
        match self {
            Outcome::Ran { result: Ok(Done { answer: Some(answer), .. }), .. } => {
                answer.len_bytes()
            }
            _ => 0,
        }
    }

    /// The outcome without its answer.
    pub(super) fn without_answer(self) -> Outcome {
        match self {
            Outcome::Ran { index, result: Ok(done) } => {
                Outcome::Ran { index, result: Ok(Done { answer: None, ..done }) }
            }
            other => other,
        }
    }
}
