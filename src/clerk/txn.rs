//! Transactions: [`Clerk::txn`], and the calls that are a transaction with one operation.

use bytes::Bytes;

use super::call::{Call, Verdict};
use super::error::{ClerkError, Operation, Reason};
use super::replies::{TxnEnd, TxnResult, WriteEnd};
use super::session::refused;
use super::settings::wire;
use super::{Clerk, replies};
use crate::kv::CommandError;
use crate::kv::model::proto::{self, TxnRequest};
use crate::kv::model::{
    Action, Compare, Entry, KeyRange, Operation as Step, OperationAnswer, RangeAnswer, Revision,
    Txn, TxnAnswer,
};
use crate::rpc::prost::Message as _;

/// What a transaction found and did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The revision of the store afterwards.
    pub revision: Revision,
    /// Whether the comparisons held, so that `then` ran.
    pub held: bool,
    /// One for each operation of the branch that ran.
    pub answers: Vec<OperationAnswer>,
}

impl Committed {
    /// The first entry that operation number `at` of the branch that ran has found, if it was a
    /// read.
    pub fn entry(&self, at: usize) -> Option<&Entry> {
        match self.answers.get(at)? {
            OperationAnswer::Range(RangeAnswer { entries, .. }) => entries.first(),
            _ => None,
        }
    }
}

/// A transaction that is being written down. See [`Clerk::txn`].
#[derive(Debug)]
#[must_use = "a transaction does nothing until it is committed"]
pub struct TxnBuilder<'a> {
    clerk: &'a Clerk,
    txn: Txn,
}

impl TxnBuilder<'_> {
    /// One more comparison. All must hold for `then` to run.
    pub fn when(mut self, compare: Compare) -> Self {
        self.txn.compare.push(compare);
        self
    }

    /// One more operation for when all comparisons hold.
    pub fn then(mut self, step: impl Into<Step>) -> Self {
        self.txn.then.push(step.into());
        self
    }

    /// Puts `value`.
    pub fn then_put(self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        self.then(Action::put(key, value))
    }

    /// Appends `value`.
    pub fn then_append(self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        self.then(Action::append(key, value))
    }

    /// Adds `by`.
    pub fn then_increment(self, key: impl Into<Bytes>, by: i64) -> Self {
        self.then(Action::increment(key, by))
    }

    /// Deletes `key`.
    pub fn then_delete(self, key: impl Into<Bytes>) -> Self {
        self.then(Action::delete(KeyRange::key(key)))
    }

    /// Reads `key`.
    pub fn then_get(self, key: impl Into<Bytes>) -> Self {
        self.then(Action::get(key))
    }

    /// One more operation for when a comparison does not hold.
    pub fn or_else(mut self, step: impl Into<Step>) -> Self {
        self.txn.otherwise.push(step.into());
        self
    }

    /// Puts `value` if a comparison does not hold.
    pub fn or_else_put(self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        self.or_else(Action::put(key, value))
    }

    /// Deletes `key` if a comparison does not hold.
    pub fn or_else_delete(self, key: impl Into<Bytes>) -> Self {
        self.or_else(Action::delete(KeyRange::key(key)))
    }

    /// Reads `key` if a comparison does not hold.
    pub fn or_else_get(self, key: impl Into<Bytes>) -> Self {
        self.or_else(Action::get(key))
    }

    /// Runs the transaction: all of it takes effect, or nothing.
    ///
    /// # Errors
    /// As for [`Clerk::run`].
    pub fn commit(self) -> Result<Committed, ClerkError> {
        self.clerk.run(&self.txn)
    }
}

impl Clerk {
    /// Begins a transaction, which is sent when it is [committed](TxnBuilder::commit).
    ///
    /// ```
    /// use syncraft::kv::model::Compare;
    /// # let cluster = syncraft::testing::Cluster::start(1)?;
    /// # let clerk = cluster.clerk();
    /// let take = |me: &'static str| {
    ///     let txn = clerk.txn().when(Compare::absent("lock"));
    ///     txn.then_put("lock", me).or_else_get("lock").commit()
    /// };
    /// assert!(take("me")?.held);
    /// let second = take("you")?;
    /// assert!(!second.held);
    /// assert_eq!(second.entry(0).map(|entry| &entry.value[..]), Some(&b"me"[..]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn txn(&self) -> TxnBuilder<'_> {
        TxnBuilder { clerk: self, txn: Txn::default() }
    }

    /// Runs a transaction: all of it takes effect, or nothing. One that changes nothing is a
    /// linearizable read.
    ///
    /// ```
    /// use syncraft::kv::model::{Action, OperationAnswer, Txn};
    /// # let cluster = syncraft::testing::Cluster::start(1)?;
    /// # let clerk = cluster.clerk();
    /// let then = vec![Action::increment("visits", 1).into(), Action::put("last", "ann").into()];
    /// let done = clerk.run(&Txn { then, ..Txn::default() })?;
    /// assert_eq!(done.answers[0], OperationAnswer::Increment { value: 1 });
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`ClerkError::kind`] says whether it happened. If an operation fails,
    /// [`ClerkError::refusal`] says which one and why, and nothing has changed.
    pub fn run(&self, txn: &Txn) -> Result<Committed, ClerkError> {
        match txn.is_read() {
            true => self.run_read(txn),
            false => self.commit(Operation::write("transaction"), txn),
        }
    }

    /// Deletes `key`. Returns whether it was there.
    ///
    /// ```
    /// # let cluster = syncraft::testing::Cluster::start(1)?;
    /// # let clerk = cluster.clerk();
    /// clerk.put("k", "v")?;
    /// assert!(clerk.delete("k")?);
    /// assert!(!clerk.delete("k")?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`ClerkError::kind`] says whether the key was deleted.
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Result<bool, ClerkError> {
        let keys = KeyRange::key(Bytes::copy_from_slice(key.as_ref()));
        Ok(self.delete_range(keys)? > 0)
    }

    /// Deletes a range of keys, at most a million, all at once. Returns how many there were.
    ///
    /// ```
    /// use syncraft::kv::model::KeyRange;
    /// # let cluster = syncraft::testing::Cluster::start(1)?;
    /// # let clerk = cluster.clerk();
    /// clerk.put("user/1", "ann")?;
    /// clerk.put("user/2", "bob")?;
    /// assert_eq!(clerk.delete_range(KeyRange::prefix("user/"))?, 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`ClerkError::kind`] says whether the keys were deleted.
    pub fn delete_range(&self, keys: KeyRange) -> Result<u64, ClerkError> {
        match self.run_one(Operation::write("delete"), Action::delete(keys))? {
            OperationAnswer::Delete { count, .. } => Ok(count),
            other => panic!("an answer that does not fit is not accepted: {other:?}"),
        }
    }

    /// Adds `by` to a value that is a decimal 64-bit integer. An absent key counts as 0. Returns
    /// the value afterwards.
    ///
    /// ```
    /// # let cluster = syncraft::testing::Cluster::start(1)?;
    /// # let clerk = cluster.clerk();
    /// assert_eq!(clerk.increment("hits", 1)?, 1);
    /// assert_eq!(clerk.increment("hits", -3)?, -2);
    /// assert_eq!(clerk.get("hits")?.as_deref(), Some(&b"-2"[..]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`ClerkError::kind`] says whether it happened. The store refuses a value that is not a
    /// number, and one that would leave the range ([`ClerkError::refusal`]).
    pub fn increment(&self, key: impl AsRef<[u8]>, by: i64) -> Result<i64, ClerkError> {
        let key = Bytes::copy_from_slice(key.as_ref());
        match self.run_one(Operation::write("increment"), Action::increment(key, by))? {
            OperationAnswer::Increment { value } => Ok(value),
            other => panic!("an answer that does not fit is not accepted: {other:?}"),
        }
    }

    /// Runs one operation, and nothing but that.
    fn run_one(&self, operation: Operation, action: Action) -> Result<OperationAnswer, ClerkError> {
        let txn = Txn { then: vec![action.into()], ..Txn::default() };
        let mut committed = self.commit(operation, &txn)?;
        Ok(committed.answers.pop().expect("an answer that does not fit is not accepted"))
    }

    fn commit(&self, operation: Operation, txn: &Txn) -> Result<Committed, ClerkError> {
        let TxnEnd { revision, answer } = self.run_write(operation, txn)?;
        match answer {
            TxnResult::Whole(TxnAnswer { held, answers }) => {
                Ok(Committed { revision, held, answers })
            }
            TxnResult::Forgotten { .. } => {
                Err(self.call(operation, 0).applied(Reason::AnswerForgotten))
            }
        }
    }

    /// Runs a transaction that changes something, at most once.
    pub(super) fn run_write(&self, operation: Operation, txn: &Txn) -> Result<TxnEnd, ClerkError> {
        let (call, message) = self.begin(operation, txn)?;
        let args = TxnRequest { identity: None, txn: Some(message), staleness: None };
        let stamp = |args: &mut TxnRequest, identity| args.identity = Some(wire(identity));
        self.write(call, args, stamp, |member, args, deadline| {
            Ok(fitting(txn, replies::txn(member.store().txn(args, deadline)?)))
        })
    }

    fn run_read(&self, txn: &Txn) -> Result<Committed, ClerkError> {
        let (mut call, message) = self.begin(Operation::read("transaction"), txn)?;
        let args = TxnRequest { identity: None, txn: Some(message), staleness: None };
        let end = self.read(&mut call, |member, deadline| {
            let mut reply = member.store().txn(&args, deadline)?;
            let leader = reply.leader.take();
            Ok((fitting(txn, replies::txn(reply)), leader))
        })?;
        match end {
            WriteEnd::Applied { answer: TxnEnd { revision, answer }, .. } => match answer {
                TxnResult::Whole(TxnAnswer { held, answers }) => {
                    Ok(Committed { revision, held, answers })
                }
                TxnResult::Forgotten { .. } => Err(call.fail(Reason::AnswerForgotten)),
            },
            WriteEnd::Refused(reason) => Err(refused(&mut call, reason)),
            WriteEnd::SessionExpired { .. } => Err(call.fail(Reason::SessionExpired)),
        }
    }

    /// Begins a call, unless the transaction is over a limit.
    fn begin(&self, operation: Operation, txn: &Txn) -> Result<(Call<'_>, proto::Txn), ClerkError> {
        if let Err(error) = txn.check() {
            let limit = Reason::Limit(CommandError::Txn(error));
            return Err(self.call(operation, 0).reject(limit));
        }
        let message = proto::Txn::from(txn);
        Ok((self.call(operation, message.encoded_len()), message))
    }
}

/// An answer to another transaction is one that this version does not understand.
fn fitting(txn: &Txn, verdict: Verdict<WriteEnd<TxnEnd>>) -> Verdict<WriteEnd<TxnEnd>> {
    if let Verdict::Done(WriteEnd::Applied { answer: TxnEnd { answer, .. }, .. }) = &verdict
        && let TxnResult::Whole(answer) = answer
        && !fits(txn, answer)
    {
        return replies::unknown(b"the answer to another transaction");
    }
    verdict
}

fn fits(txn: &Txn, TxnAnswer { held, answers }: &TxnAnswer) -> bool {
    // A transaction without comparisons always holds.
    let can_be = *held || !txn.compare.is_empty();
    let steps = if *held { &txn.then } else { &txn.otherwise };
    let fits = |(step, answer): (&Step, &OperationAnswer)| match (&step.action, answer) {
        (Action::Put { .. }, OperationAnswer::Put { .. })
        | (Action::Append { .. }, OperationAnswer::Append { .. })
        | (Action::Increment { .. }, OperationAnswer::Increment { .. })
        | (Action::Delete { .. }, OperationAnswer::Delete { .. })
        | (Action::Range(_), OperationAnswer::Range(_)) => true,
        (Action::Txn(nested), OperationAnswer::Txn(answer)) => self::fits(nested, answer),
        (_, OperationAnswer::Failed(_)) => step.may_fail,
        _ => false,
    };
    can_be && steps.len() == answers.len() && steps.iter().zip(answers).all(fits)
}
