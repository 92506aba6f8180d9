//! What requests are answered with.

use std::sync::Arc;
use std::time::Duration;

use super::ApiError;
use crate::kv::model::{Reason, Refusal, Revision, TxnAnswer};
use crate::kv::{Branches, Done, Outcome, ReadAnswer};
use crate::raft::Index;

/// How recent the state must be that a read sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Consistency {
    /// The read sees every write that was acknowledged before it began.
    #[default]
    Linearizable,
    /// The read sees this member's state, which may be old. The answer says how old.
    Stale {
        /// The oldest state that will do; `None`: any. If this member's state may be older, the
        /// read becomes a linearizable one.
        age_max: Option<Duration>,
    },
}

/// What a read found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read<T> {
    /// The answer.
    pub answer: T,
    /// The answer reflects every write that was acknowledged longer ago than this. `None`: it
    /// reflects every write that was acknowledged before the read began.
    pub age_max: Option<Duration>,
}

impl<T> Read<T> {
    pub(super) fn map<U>(self, change: impl FnOnce(T) -> U) -> Read<U> {
        Read { answer: change(self.answer), age_max: self.age_max }
    }
}

/// What a transaction did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TxnDone {
    /// The revision of the store afterwards; of a read, that of the state that it saw.
    pub revision: Revision,
    /// The entry of the log that took effect; for a repeat, the first copy. `None`: the transaction
    /// was a read, which never enters the log.
    pub index: Option<Index>,
    /// Its answer.
    pub answer: TxnResult,
    /// As [`Read::age_max`].
    pub age_max: Option<Duration>,
}

/// The answer to a transaction that took effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TxnResult {
    /// All of it.
    Whole(Arc<TxnAnswer>),
    /// This was a repeat, and what is left of the first answer is which branches ran.
    Forgotten(Branches),
}

/// What a compaction or a change of limits did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Changed {
    /// The entry of the log that took effect; for a repeat, the first copy.
    pub index: Index,
    /// The revision of the store then.
    pub revision: Revision,
}

/// A command that took effect, whatever it was.
fn done(outcome: Outcome) -> Result<(Index, Done), ApiError> {
    let refused = |reason, index| Err(ApiError::refused(Refusal::of(reason, 0), index));
    match outcome {
        Outcome::Ran { index, result: Ok(done) } => Ok((index, done)),
        Outcome::Ran { index, result: Err(refusal) } => {
            Err(ApiError::refused(refusal, Some(index)))
        }
        // The client has used this identity for another request before.
        Outcome::Granted { index, revision, .. } | Outcome::KeptAlive { index, revision, .. } => {
            Ok((index, Done { revision, branches: Branches::default(), answer: None }))
        }
        Outcome::Applied { index } => {
            let (revision, branches) = (Revision::NONE, Branches::default());
            Ok((index, Done { revision, branches, answer: None }))
        }
        Outcome::TooLarge => refused(Reason::ValueTooLong, None),
        Outcome::NoSpace => refused(Reason::NoSpace, None),
        Outcome::SessionExpired { index } => refused(Reason::SessionExpired, Some(index)),
        Outcome::Malformed => refused(Reason::Malformed, None),
    }
}

impl TxnDone {
    pub(super) fn of_write(outcome: Outcome) -> Result<TxnDone, ApiError> {
        let (index, Done { revision, branches, answer }) = done(outcome)?;
        let answer = answer.map_or(TxnResult::Forgotten(branches), TxnResult::Whole);
        Ok(TxnDone { revision, index: Some(index), answer, age_max: None })
    }

    pub(super) fn of_read(read: Read<ReadAnswer>) -> Result<TxnDone, ApiError> {
        let Read { answer: ReadAnswer { revision, result }, age_max } = read;
        let answer = result.map_err(|refusal| ApiError::refused(refusal, None))?;
        let answer = TxnResult::Whole(Arc::new(answer));
        Ok(TxnDone { revision, index: None, answer, age_max })
    }
}

impl Changed {
    pub(super) fn of(outcome: Outcome) -> Result<Changed, ApiError> {
        done(outcome).map(|(index, Done { revision, .. })| Changed { index, revision })
    }
}
