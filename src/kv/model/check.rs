//! What a transaction must keep to before it is proposed.

use bytes::Bytes;

use super::{
    Action, DEPTH_MAX, KeyRange, NewLease, NewValue, OPERATIONS_MAX, Operand, Operation, RangeEnd,
    ScanRange, TTL_MAX_MS, Txn, WatchRange,
};
use crate::kv::{KEY_LEN_MAX, VALUE_LEN_MAX};

/// Why a transaction is refused before anything is done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TxnError {
    /// A key is over its limit.
    #[error("key of {len} bytes is over the limit of {KEY_LEN_MAX}")]
    KeyTooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// A value is over its limit.
    #[error("value of {len} bytes is over the limit of {VALUE_LEN_MAX}")]
    ValueTooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// There are too many operations and comparisons.
    #[error("more than {OPERATIONS_MAX} operations and comparisons: at least {count}")]
    TooMany {
        /// How many, as far as they were counted.
        count: usize,
    },
    /// Transactions are nested too deep.
    #[error("transactions nested {depth} deep: at most {DEPTH_MAX}")]
    TooDeep {
        /// How deep, as far as it was counted.
        depth: usize,
    },
    /// A key is to live shorter or longer than a lease can.
    #[error("a time to live of {ttl_ms} ms: it is from 1 ms to {TTL_MAX_MS} ms")]
    TtlOutOfBounds {
        /// How long, in milliseconds.
        ttl_ms: u64,
    },
    /// The bytes of a long transaction end within a part of it.
    #[error("the transaction cannot be read to its end")]
    Damaged,
}

impl Txn {
    /// Checks all parts against their limits. A member does this before it proposes the
    /// transaction, and again when it applies it.
    ///
    /// # Errors
    /// [`TxnError`], with the offending value.
    pub fn check(&self) -> Result<(), TxnError> {
        self.check_at(1, &mut 0)
    }

    /// `count` is how many operations and comparisons there were before this transaction.
    fn check_at(&self, depth: usize, count: &mut usize) -> Result<(), TxnError> {
        if depth > DEPTH_MAX {
            return Err(TxnError::TooDeep { depth });
        }
        *count += self.compare.len() + self.then.len() + self.otherwise.len();
        if *count > OPERATIONS_MAX {
            return Err(TxnError::TooMany { count: *count });
        }
        for compare in &self.compare {
            check_keys(&compare.keys)?;
            if let Operand::Value(value) = &compare.operand {
                check_value(value)?;
            }
        }
        let mut operations = self.then.iter().chain(&self.otherwise);
        operations.try_for_each(|operation| operation.check(depth, count))
    }
}

impl ScanRange {
    /// Checks the keys against their limit.
    ///
    /// # Errors
    /// [`TxnError::KeyTooLong`].
    pub fn check(&self) -> Result<(), TxnError> {
        check_keys(&self.keys)
    }
}

impl WatchRange {
    /// Checks the keys against their limit.
    ///
    /// # Errors
    /// [`TxnError::KeyTooLong`].
    pub fn check(&self) -> Result<(), TxnError> {
        check_keys(&self.keys)
    }
}

impl Operation {
    fn check(&self, depth: usize, count: &mut usize) -> Result<(), TxnError> {
        match &self.action {
            Action::Put { key, value, lease, .. } => {
                check_key(key)?;
                check_lease(lease)?;
                match value {
                    NewValue::Set(value) => check_value(value),
                    NewValue::Keep => Ok(()),
                }
            }
            Action::Append { key, value } => check_key(key).and_then(|()| check_value(value)),
            Action::Increment { key, .. } => check_key(key),
            Action::Delete { keys, .. } => check_keys(keys),
            Action::Range(range) => check_keys(&range.keys),
            Action::Txn(nested) => nested.check_at(depth + 1, count),
        }
    }
}

fn check_lease(lease: &NewLease) -> Result<(), TxnError> {
    match *lease {
        NewLease::OfItsOwn { ttl_ms } if !(1..=TTL_MAX_MS).contains(&ttl_ms) => {
            Err(TxnError::TtlOutOfBounds { ttl_ms })
        }
        _ => Ok(()),
    }
}

fn check_keys(keys: &KeyRange) -> Result<(), TxnError> {
    check_key(keys.begin())?;
    match keys.end() {
        RangeEnd::Before(before) => check_key(before),
        RangeEnd::Alone | RangeEnd::Open => Ok(()),
    }
}

fn check_key(key: &Bytes) -> Result<(), TxnError> {
    let len = key.len();
    if len > KEY_LEN_MAX { Err(TxnError::KeyTooLong { len }) } else { Ok(()) }
}

fn check_value(value: &Bytes) -> Result<(), TxnError> {
    let len = value.len();
    if len > VALUE_LEN_MAX { Err(TxnError::ValueTooLong { len }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::model::Compare;

    fn nested(depth: usize) -> Txn {
        let inner = Txn::default();
        (1..depth).fold(inner, |inner, _| Txn {
            otherwise: vec![Action::Txn(inner).into()],
            ..Txn::default()
        })
    }

    fn long(len: usize) -> Bytes {
        vec![0; len].into()
    }

    #[test]
    fn limits_name_the_offending_value() {
        let check = |action: Action, expected| {
            let txn = Txn { then: vec![action.into()], ..Txn::default() };
            assert_eq!(txn.check(), expected);
        };
        check(Action::put(long(KEY_LEN_MAX), long(VALUE_LEN_MAX)), Ok(()));
        let key_too_long = Err(TxnError::KeyTooLong { len: KEY_LEN_MAX + 1 });
        let value_too_long = Err(TxnError::ValueTooLong { len: VALUE_LEN_MAX + 1 });
        check(Action::put(long(KEY_LEN_MAX + 1), ""), key_too_long.clone());
        check(Action::get(long(KEY_LEN_MAX + 1)), key_too_long.clone());
        check(Action::increment(long(KEY_LEN_MAX + 1), 1), key_too_long.clone());
        let keys = KeyRange::between("", long(KEY_LEN_MAX + 1)).unwrap();
        check(Action::delete(keys), key_too_long);
        check(Action::append("", long(VALUE_LEN_MAX + 1)), value_too_long.clone());
        for ttl_ms in [0, TTL_MAX_MS + 1, u64::MAX] {
            let (key, value) = (Bytes::new(), NewValue::Keep);
            let lease = NewLease::OfItsOwn { ttl_ms };
            let put = Action::Put { key, value, lease, previous: false };
            check(put, Err(TxnError::TtlOutOfBounds { ttl_ms }));
        }
        let compare = vec![Compare::value("k", long(VALUE_LEN_MAX + 1))];
        assert_eq!(Txn { compare, ..Txn::default() }.check(), value_too_long);
    }

    #[test]
    fn a_transaction_has_a_bounded_number_of_parts() {
        let gets = |count| vec![Action::get("k").into(); count];
        let compare = || vec![Compare::absent("k"); OPERATIONS_MAX / 2];
        let inner = |count| Txn { then: gets(count), ..Txn::default() };
        let with = |count| Txn {
            compare: compare(),
            then: vec![Action::Txn(inner(count)).into()],
            ..Txn::default()
        };
        assert_eq!(with(OPERATIONS_MAX / 2 - 1).check(), Ok(()));
        let too_many = Err(TxnError::TooMany { count: OPERATIONS_MAX + 1 });
        assert_eq!(with(OPERATIONS_MAX / 2).check(), too_many);
    }

    #[test]
    fn a_transaction_is_sixteen_deep_at_most() {
        assert_eq!(nested(DEPTH_MAX).check(), Ok(()));
        assert_eq!(nested(DEPTH_MAX + 1).check(), Err(TxnError::TooDeep { depth: DEPTH_MAX + 1 }));
    }
}
