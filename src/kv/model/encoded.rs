//! Checks the bytes of a transaction before they are decoded.
//!
//! An operation takes two bytes of a message and some hundred bytes of memory, so a request of 15
//! MiB could take gigabytes, only to be refused by [`Txn::check`](super::Txn::check). This counts
//! the operations and comparisons first. It jumps from field to field by their lengths, and
//! allocates nothing.
//!
//! # Invariants
//! - Whatever is decoded from bytes that pass has at most [`OPERATIONS_MAX`] parts and is at most
//!   [`DEPTH_MAX`] deep, or the bytes are few.
//! - A transaction that passes `Txn::check` passes here as well, if no operation in it says twice
//!   what it does. A long message that cannot be read to its end is refused: the decoder would
//!   first take in what follows it.

use super::{DEPTH_MAX, OPERATIONS_MAX, TxnError};

/// The field of a `TxnRequest` that is the transaction.
const TXN_OF_REQUEST: u64 = 2;
/// The fields of a `Txn`.
const COMPARE: u64 = 1;
const THEN: u64 = 2;
const OTHERWISE: u64 = 3;
/// The field of an `Operation` that is a nested transaction.
const TXN_OF_OPERATION: u64 = 6;

/// The least that an operation or a comparison takes: its tag and its length.
const PART_LEN_MIN: usize = 2;

/// Checks the bytes of a message `TxnRequest`.
pub(crate) fn check_request(bytes: &[u8]) -> Result<(), TxnError> {
    check(bytes, |count| {
        let mut fields = Fields::of(bytes);
        let mut txns = fields.by_ref().filter(|field| field.number == TXN_OF_REQUEST);
        txns.try_for_each(|txn| check_txn(txn.bytes, 1, count))?;
        fields.end()
    })
}

/// Checks the bytes of a message `Txn`.
pub(in crate::kv) fn check_message(bytes: &[u8]) -> Result<(), TxnError> {
    check(bytes, |count| check_txn(bytes, 1, count))
}

fn check(
    bytes: &[u8],
    scan: impl FnOnce(&mut usize) -> Result<(), TxnError>,
) -> Result<(), TxnError> {
    // Nearly all requests are too short to have too many parts.
    if bytes.len() <= OPERATIONS_MAX * PART_LEN_MIN { Ok(()) } else { scan(&mut 0) }
}

/// `count` is how many parts there were before this transaction.
fn check_txn(bytes: &[u8], depth: usize, count: &mut usize) -> Result<(), TxnError> {
    if depth > DEPTH_MAX {
        return Err(TxnError::TooDeep { depth });
    }
    let mut fields = Fields::of(bytes);
    for part in fields.by_ref().filter(|field| (COMPARE..=OTHERWISE).contains(&field.number)) {
        *count += 1;
        if *count > OPERATIONS_MAX {
            return Err(TxnError::TooMany { count: *count });
        }
        if matches!(part.number, THEN | OTHERWISE) {
            let mut fields = Fields::of(part.bytes);
            let mut txns = fields.by_ref().filter(|field| field.number == TXN_OF_OPERATION);
            txns.try_for_each(|txn| check_txn(txn.bytes, depth + 1, count))?;
            fields.end()?;
        }
    }
    fields.end()
}

/// A field of a message that has a length.
struct Field<'a> {
    number: u64,
    bytes: &'a [u8],
}

/// The fields of a message that have a length, as far as the rest of it can be read. Those within a
/// group, which no message of ours has, count as the message's own.
struct Fields<'a> {
    rest: &'a [u8],
    /// Whether the rest cannot be read.
    is_broken: bool,
}

impl<'a> Iterator for Fields<'a> {
    type Item = Field<'a>;

    fn next(&mut self) -> Option<Field<'a>> {
        while !self.rest.is_empty() {
            match self.field() {
                Some(Some(field)) => return Some(field),
                Some(None) => {}
                None => {
                    (self.rest, self.is_broken) = (&[], true);
                }
            }
        }
        None
    }
}

impl<'a> Fields<'a> {
    fn of(bytes: &'a [u8]) -> Fields<'a> {
        Fields { rest: bytes, is_broken: false }
    }

    /// To be called when all fields have been taken. The decoder reads on beyond the end of a
    /// message that is cut short, into what follows, before it says that something is wrong. So a
    /// message that cannot be read here is not left to it.
    fn end(&self) -> Result<(), TxnError> {
        if self.is_broken { Err(TxnError::Damaged) } else { Ok(()) }
    }

    /// The next field, if it has a length. `None`: it cannot be read.
    fn field(&mut self) -> Option<Option<Field<'a>>> {
        let key = self.varint()?;
        match key & 7 {
            0 => drop(self.varint()?),
            1 => drop(self.take(8)?),
            2 => {
                let len = usize::try_from(self.varint()?).ok()?;
                return Some(Some(Field { number: key >> 3, bytes: self.take(len)? }));
            }
            // A group begins, or ends.
            3 | 4 => {}
            5 => drop(self.take(4)?),
            _ => return None,
        }
        Some(None)
    }

    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(taken)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::kv::model::{Action, Compare, Operation, Txn, proto};
    use crate::rpc::prost::Message as _;

    fn encoded(txn: &Txn) -> Vec<u8> {
        proto::Txn::from(txn).encode_to_vec()
    }

    /// Without the short cut for few bytes.
    fn scan(bytes: &[u8]) -> Result<usize, TxnError> {
        let mut count = 0;
        check_txn(bytes, 1, &mut count).map(|()| count)
    }

    /// The tag and the length of an operation without anything in it.
    const EMPTY_OPERATION: [u8; 2] = [0x12, 0];

    /// The decoder takes in what follows a message that is cut short, and then says so.
    #[test]
    fn parts_behind_a_cut_message_are_not_hidden() {
        let parts = EMPTY_OPERATION.repeat(OPERATIONS_MAX + 1);
        let nested_len = [0x32, 0x80, 0x80, 0x80, 0x01];
        let operation = [&[0x12, 5][..], &nested_len].concat();
        // In a request, and in a transaction whose operation is whole.
        let request = [&[0x12, 7][..], &operation, &parts].concat();
        assert_eq!(check_request(&request), Err(TxnError::Damaged));
        let message = [&operation[..], &parts].concat();
        assert_eq!(check_message(&message), Err(TxnError::Damaged));
    }

    #[test]
    fn as_many_parts_pass_as_the_check_of_the_decoded_message_lets_pass() {
        let with = |count| Txn {
            compare: vec![Compare::absent("k"); OPERATIONS_MAX / 2],
            then: vec![Action::get("k").into(); count],
            ..Txn::default()
        };
        for (count, expected) in [
            (OPERATIONS_MAX / 2, Ok(())),
            (OPERATIONS_MAX / 2 + 1, Err(TxnError::TooMany { count: OPERATIONS_MAX + 1 })),
        ] {
            let txn = with(count);
            let request = proto::TxnRequest { txn: Some((&txn).into()), ..Default::default() };
            assert_eq!(txn.check(), expected);
            assert_eq!(check_message(&encoded(&txn)), expected);
            assert_eq!(check_request(&request.encode_to_vec()), expected);
        }
    }

    #[test]
    fn empty_operations_are_counted_before_what_is_wrong_behind_them() {
        let garbage = [&EMPTY_OPERATION.repeat(OPERATIONS_MAX + 1)[..], b"\xff"].concat();
        let too_many = Err(TxnError::TooMany { count: OPERATIONS_MAX + 1 });
        assert_eq!(check_message(&garbage), too_many);
        // Two transactions of one request: a decoder merges them.
        let half = EMPTY_OPERATION.repeat(OPERATIONS_MAX / 2 + 1);
        let mut request = proto::TxnRequest::default().encode_to_vec();
        for _ in 0..2 {
            request.push(0x12);
            crate::rpc::prost::encode_length_delimiter(half.len(), &mut request).unwrap();
            request.extend(&half);
        }
        assert_eq!(check_request(&request), Err(TxnError::TooMany { count: OPERATIONS_MAX + 1 }));
    }

    #[test]
    fn a_transaction_that_is_too_deep_is_noticed() {
        let leaf =
            Txn { then: vec![Action::get("k").into(); OPERATIONS_MAX / 2], ..Txn::default() };
        let nested = |depth| {
            (1..depth).fold(leaf.clone(), |inner, _| Txn {
                otherwise: vec![Action::Txn(inner).into()],
                ..Txn::default()
            })
        };
        assert_eq!(check_message(&encoded(&nested(DEPTH_MAX))), Ok(()));
        let too_deep = Err(TxnError::TooDeep { depth: DEPTH_MAX + 1 });
        assert_eq!(check_message(&encoded(&nested(DEPTH_MAX + 1))), too_deep);
    }

    fn parts(txn: &Txn) -> usize {
        let nested = |operation: &Operation| match &operation.action {
            Action::Txn(nested) => parts(nested),
            _ => 0,
        };
        let operations = || txn.then.iter().chain(&txn.otherwise);
        txn.compare.len() + operations().count() + operations().map(nested).sum::<usize>()
    }

    fn any_txn() -> impl Strategy<Value = Txn> {
        let leaf = (0..5usize, 0..300usize).prop_map(|(count, len)| Txn {
            compare: vec![Compare::value("k", vec![0x12; len]); count],
            then: vec![Action::put(vec![b'k'; len], "v").into(); count],
            otherwise: vec![Action::increment("n", len as i64).into()],
        });
        leaf.prop_recursive(4, 40, 4, |inner| {
            prop::collection::vec(inner, 0..4).prop_map(|inner| Txn {
                then: inner.into_iter().map(|it| Action::Txn(it).into()).collect(),
                ..Txn::default()
            })
        })
    }

    proptest! {
        #[test]
        fn every_part_is_counted_once(txn in any_txn()) {
            prop_assert_eq!(scan(&encoded(&txn)), Ok(parts(&txn)));
        }

        /// What a decoder makes of any bytes has no more parts than were counted.
        #[test]
        fn no_bytes_hide_a_part(bytes: Vec<u8>, txn in any_txn(), at: prop::sample::Index) {
            let mut damaged = encoded(&txn);
            let at = at.index(damaged.len() + 1);
            damaged.splice(at..at, bytes.iter().copied());
            for bytes in [bytes, damaged] {
                let counted = scan(&bytes);
                if let (Ok(counted), Ok(message)) = (counted, proto::Txn::decode(&bytes[..]))
                    && let Ok(txn) = Txn::try_from(message)
                {
                    prop_assert!(parts(&txn) <= counted, "{txn:?} has more than {counted}");
                }
            }
        }
    }
}
