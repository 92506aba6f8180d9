//! [`TxnAnswer`]: what the operations of a transaction found and did.

use super::{Entry, Reason};

/// The answer to a [`Txn`](super::Txn).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TxnAnswer {
    /// Whether the comparisons held, so that `then` ran.
    pub held: bool,
    /// One for each operation of the branch that ran.
    pub answers: Vec<OperationAnswer>,
}

/// The answer to an [`Operation`](super::Operation).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OperationAnswer {
    /// The key was written.
    Put {
        /// The entry before, if there was one and it was asked for.
        previous: Option<Entry>,
    },
    /// The value grew.
    Append {
        /// Its length in bytes afterwards.
        value_len: u64,
    },
    /// The number changed.
    Increment {
        /// Its value afterwards.
        value: i64,
    },
    /// The keys are gone.
    Delete {
        /// How many there were.
        count: u64,
        /// The entries before, if they were asked for.
        previous: Vec<Entry>,
    },
    /// The keys were read.
    Range(RangeAnswer),
    /// The nested transaction ran.
    Txn(TxnAnswer),
    /// The operation may fail, and did. It changed nothing.
    Failed(Reason),
}

/// The answer to a [`Range`](super::Range).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeAnswer {
    /// The entries, at most `limit`.
    pub entries: Vec<Entry>,
    /// How many keys the range holds, whatever their revisions: all of them with
    /// [`count_all`](super::Range::count_all) or [`Want::Count`](super::Want::Count), otherwise
    /// those that were looked at.
    pub count: u64,
    /// Whether entries were left out because of the limit.
    pub more: bool,
}

impl TxnAnswer {
    /// Whether an operation that may fail has failed for this reason.
    #[cfg(feature = "server")]
    pub(in crate::kv) fn has_failed(&self, reason: Reason) -> bool {
        self.answers.iter().any(|answer| match answer {
            OperationAnswer::Failed(why) => *why == reason,
            OperationAnswer::Txn(nested) => nested.has_failed(reason),
            _ => false,
        })
    }

    /// What the answer counts for: its entries ([`Entry::len_bytes`]), and 16 bytes for each
    /// operation and transaction.
    pub fn len_bytes(&self) -> u64 {
        let len = |answer: &OperationAnswer| match answer {
            OperationAnswer::Put { previous } => previous.iter().map(Entry::len_bytes).sum(),
            OperationAnswer::Delete { previous, .. } => {
                previous.iter().map(Entry::len_bytes).sum::<u64>()
            }
            OperationAnswer::Range(range) => range.entries.iter().map(Entry::len_bytes).sum(),
            OperationAnswer::Txn(nested) => nested.len_bytes(),
            OperationAnswer::Append { .. }
            | OperationAnswer::Increment { .. }
            | OperationAnswer::Failed(_) => 0,
        };
        16 + self.answers.iter().map(|answer| 16 + len(answer)).sum::<u64>()
    }
}
