//! Writes that depend on what a key holds: compare and set, put if absent.

use bytes::Bytes;

use super::Clerk;
use super::error::{ClerkError, Operation, Reason};
use super::replies::{TxnEnd, TxnResult};
use crate::kv::model::{Action, Compare, Entry, KeyRange, OperationAnswer, Revision, Txn};

/// What a key must hold for [`compare_and_set`](Clerk::compare_and_set) to change it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// This value.
    Value(Bytes),
    /// Nothing: the key is absent.
    Absent,
}

impl<T: AsRef<[u8]>> From<T> for Expected {
    fn from(value: T) -> Expected {
        Expected::Value(Bytes::copy_from_slice(value.as_ref()))
    }
}

/// What became of a [`compare_and_set`](Clerk::compare_and_set).
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "it says whether anything was changed"]
pub enum Swap {
    /// The key held what was expected, and was changed.
    Done {
        /// The revision of the store afterwards.
        revision: Revision,
    },
    /// The key held something else. Nothing changed.
    Differs {
        /// What it held. `None`: it was absent.
        found: Option<Entry>,
    },
}

impl Swap {
    /// Whether the key was changed.
    pub fn is_done(&self) -> bool {
        matches!(self, Swap::Done { .. })
    }
}

impl Clerk {
    /// Sets `key` to `new` if it holds what is expected. Compares and sets at once, so no other
    /// write comes between. An empty value is not an absent key.
    ///
    /// ```
    /// use syncraft::clerk::{Expected, Swap};
    /// # let cluster = syncraft::testing::Cluster::start(1)?;
    /// # let clerk = cluster.clerk();
    /// assert!(clerk.compare_and_set("light", Expected::Absent, "red")?.is_done());
    /// assert!(clerk.compare_and_set("light", "red", "green")?.is_done());
    /// match clerk.compare_and_set("light", "red", "green")? {
    ///     Swap::Differs { found: Some(entry) } => assert_eq!(&entry.value[..], b"green"),
    ///     other => panic!("{other:?}"),
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`ClerkError::kind`] says whether the key was changed.
    pub fn compare_and_set(
        &self,
        key: impl AsRef<[u8]>,
        expected: impl Into<Expected>,
        new: impl AsRef<[u8]>,
    ) -> Result<Swap, ClerkError> {
        let key = Bytes::copy_from_slice(key.as_ref());
        let put = Action::put(key.clone(), Bytes::copy_from_slice(new.as_ref()));
        self.swap(Operation::write("compare and set"), key, expected.into(), put)
    }

    /// Deletes `key` if it has the value that is expected.
    ///
    /// ```
    /// # let cluster = syncraft::testing::Cluster::start(1)?;
    /// # let clerk = cluster.clerk();
    /// clerk.put("lock", "me")?;
    /// assert!(!clerk.compare_and_delete("lock", "you")?.is_done());
    /// assert!(clerk.compare_and_delete("lock", "me")?.is_done());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`ClerkError::kind`] says whether the key was deleted.
    pub fn compare_and_delete(
        &self,
        key: impl AsRef<[u8]>,
        expected: impl Into<Expected>,
    ) -> Result<Swap, ClerkError> {
        let key = Bytes::copy_from_slice(key.as_ref());
        let delete = Action::delete(KeyRange::key(key.clone()));
        self.swap(Operation::write("compare and delete"), key, expected.into(), delete)
    }

    /// Sets `key` to `value` if the key is absent.
    ///
    /// ```
    /// # let cluster = syncraft::testing::Cluster::start(1)?;
    /// # let clerk = cluster.clerk();
    /// assert!(clerk.put_if_absent("leader", "me")?.is_done());
    /// assert!(!clerk.put_if_absent("leader", "you")?.is_done());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`ClerkError::kind`] says whether the key was set.
    pub fn put_if_absent(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
    ) -> Result<Swap, ClerkError> {
        let key = Bytes::copy_from_slice(key.as_ref());
        let put = Action::put(key.clone(), Bytes::copy_from_slice(value.as_ref()));
        self.swap(Operation::write("put if absent"), key, Expected::Absent, put)
    }

    fn swap(
        &self,
        operation: Operation,
        key: Bytes,
        expected: Expected,
        change: Action,
    ) -> Result<Swap, ClerkError> {
        let compare = match expected {
            Expected::Value(value) => Compare::value(key.clone(), value),
            Expected::Absent => Compare::absent(key.clone()),
        };
        let (then, otherwise) = (vec![change.into()], vec![Action::get(key).into()]);
        let txn = Txn { compare: vec![compare], then, otherwise };
        let TxnEnd { revision, answer } = self.run_write(operation, &txn)?;
        let answer = match answer {
            TxnResult::Whole(answer) if answer.held => return Ok(Swap::Done { revision }),
            TxnResult::Whole(answer) => answer,
            TxnResult::Forgotten { held: Some(true) } => return Ok(Swap::Done { revision }),
            // It changed nothing, and the long value that it found is not known any more.
            TxnResult::Forgotten { held: Some(false) } => {
                return Err(self.call(operation, 0).not_applied(Reason::AnswerForgotten));
            }
            TxnResult::Forgotten { held: None } => {
                return Err(self.call(operation, 0).applied(Reason::AnswerForgotten));
            }
        };
        match answer.answers.into_iter().next() {
            Some(OperationAnswer::Range(mut range)) => {
                Ok(Swap::Differs { found: range.entries.pop() })
            }
            other => panic!("an answer that does not fit is not accepted: {other:?}"),
        }
    }
}
