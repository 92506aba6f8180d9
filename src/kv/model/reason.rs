//! [`Reason`]: why an operation failed.

use std::fmt;

/// Why an operation, or a command, changed nothing.
///
/// The numbers are in snapshots and on the wire, so they never change. Members compute them alike
/// from the log; a repeat gets the same one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Reason {
    /// The value would be longer than [`VALUE_LEN_MAX`](crate::kv::VALUE_LEN_MAX). The refusal's
    /// value is the length it would have.
    ValueTooLong = 1,
    /// The value to increment is not a decimal 64-bit integer. The refusal's value is its length.
    NotANumber = 2,
    /// The number would leave the range of 64-bit integers.
    Overflow = 3,
    /// A key was to keep its value or its lease, and it is absent.
    KeyAbsent = 4,
    /// There is no such lease. The refusal's value is the lease.
    NoSuchLease = 5,
    /// The store would hold more than its limits allow. The refusal's value is the limit. Deletes
    /// succeed.
    NoSpace = 6,
    /// The answer would be longer than [`ANSWER_LEN_MAX`](super::ANSWER_LEN_MAX), which is the
    /// refusal's value. Ask for less: with a limit, for keys alone, or with a scan.
    AnswerTooLong = 7,
    /// More keys were touched than [`TOUCHED_KEYS_MAX`](super::TOUCHED_KEYS_MAX), which is the
    /// refusal's value.
    TooManyKeys = 8,
    /// The revision has been forgotten. The refusal's value is the oldest one that is known.
    Compacted = 9,
    /// The revision has not come yet. The refusal's value is the current one.
    InTheFuture = 10,
    /// The client's session may have been forgotten, so this may be a second copy of a request that
    /// took effect.
    SessionExpired = 11,
    /// The client has sent a later request since.
    Superseded = 12,
    /// The log holds a command that this version does not know.
    Malformed = 13,
    /// A limit is out of its bounds. The refusal's value is the limit.
    LimitOutOfBounds = 14,
    /// The lease id is in use. The refusal's value is the lease.
    LeaseExists = 15,
    /// Another request had this key: see [`REQUEST_KEY_LEN_MAX`](crate::kv::REQUEST_KEY_LEN_MAX).
    RequestKeyTaken = 16,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Reason; 16] = [
        Reason::ValueTooLong,
        Reason::NotANumber,
        Reason::Overflow,
        Reason::KeyAbsent,
        Reason::NoSuchLease,
        Reason::NoSpace,
        Reason::AnswerTooLong,
        Reason::TooManyKeys,
        Reason::Compacted,
        Reason::InTheFuture,
        Reason::SessionExpired,
        Reason::Superseded,
        Reason::Malformed,
        Reason::LimitOutOfBounds,
        Reason::LeaseExists,
        Reason::RequestKeyTaken,
    ];

    /// The number on the wire and in snapshots.
    pub fn number(self) -> u32 {
        self as u32
    }

    /// Whether only an operation of a transaction can fail for this reason.
    fn is_of_an_operation(self) -> bool {
        matches!(self, Reason::NotANumber | Reason::Overflow | Reason::KeyAbsent)
    }

    /// What a refusal's value is, as the words before the number; `None`: it has no value.
    fn about(self) -> Option<&'static str> {
        match self {
            Reason::ValueTooLong => Some("its length in bytes would be"),
            Reason::NotANumber => Some("its length in bytes is"),
            Reason::NoSuchLease | Reason::LeaseExists => Some("the lease is"),
            Reason::NoSpace | Reason::AnswerTooLong | Reason::TooManyKeys => Some("the limit is"),
            Reason::Compacted => Some("the oldest one known is"),
            Reason::InTheFuture => Some("the current one is"),
            Reason::LimitOutOfBounds => Some("the one asked for is"),
            Reason::Overflow
            | Reason::KeyAbsent
            | Reason::SessionExpired
            | Reason::Superseded
            | Reason::Malformed
            | Reason::RequestKeyTaken => None,
        }
    }

    /// The reason with this number, if this version knows it.
    pub fn from_number(number: u32) -> Option<Reason> {
        Reason::ALL.into_iter().find(|reason| reason.number() == number)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reason::ValueTooLong => "the value would be too long",
            Reason::NotANumber => "the value is not a decimal 64-bit integer",
            Reason::Overflow => "the number would leave the range of 64-bit integers",
            Reason::KeyAbsent => "the key is absent",
            Reason::NoSuchLease => "there is no such lease",
            Reason::NoSpace => "no space: the store would hold more than its limits allow",
            Reason::AnswerTooLong => "the answer would be too long",
            Reason::TooManyKeys => "too many keys",
            Reason::Compacted => "the revision has been compacted",
            Reason::InTheFuture => "the revision has not come yet",
            Reason::SessionExpired => "the client's session may have been forgotten",
            Reason::Superseded => "the client has sent a later request since",
            Reason::Malformed => "the command is not one of this version",
            Reason::LimitOutOfBounds => "the limit is out of its bounds",
            Reason::LeaseExists => "the lease id is in use",
            Reason::RequestKeyTaken => "another request had this key",
        })
    }
}

/// Why a command changed nothing.
///
/// Its text says what the numbers are:
///
/// ```
/// # use syncraft::kv::model::{Reason, Refusal};
/// let refusal = Refusal { reason: Reason::NoSpace, operation: 2, value: 4096 };
/// let words = "no space: the store would hold more than its limits allow";
/// assert_eq!(refusal.to_string(), format!("{words} (operation 2; the limit is 4096)"));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Refusal {
    /// Why.
    pub reason: Reason,
    /// Which operation failed, counted from 0 in the order in which they run, those of nested
    /// transactions included. 0 if no operation is to blame.
    pub operation: u32,
    /// The value that the reason is about: see [`Reason`]. 0 if there is none.
    pub value: u64,
}

impl Refusal {
    /// A refusal of the whole command.
    pub fn of(reason: Reason, value: u64) -> Refusal {
        Refusal { reason, operation: 0, value }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Refusal { reason, operation, value } = *self;
        // Operation 0 may stand for the command as a whole, unless only operations fail like this.
        let names_operation = operation > 0 || reason.is_of_an_operation();
        let operation = names_operation.then(|| format!("operation {operation}"));
        let value = reason.about().map(|before| format!("{before} {value}"));
        let details: Vec<String> = operation.into_iter().chain(value).collect();
        match details.is_empty() {
            true => write!(f, "{reason}"),
            false => write!(f, "{reason} ({})", details.join("; ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_never_change() {
        let numbers: Vec<u32> = Reason::ALL.into_iter().map(Reason::number).collect();
        assert_eq!(numbers, (1..=16).collect::<Vec<_>>());
        for reason in Reason::ALL {
            assert_eq!(Reason::from_number(reason.number()), Some(reason));
        }
        assert_eq!((Reason::from_number(0), Reason::from_number(17)), (None, None));
    }

    #[test]
    fn a_refusal_says_what_its_numbers_are() {
        let check = |reason, operation, value, expected: &str| {
            assert_eq!(Refusal { reason, operation, value }.to_string(), expected);
        };
        check(
            Reason::NotANumber,
            0,
            6,
            "the value is not a decimal 64-bit integer (operation 0; its length in bytes is 6)",
        );
        check(Reason::KeyAbsent, 3, 0, "the key is absent (operation 3)");
        // Of a compaction, which has no operations, and of a range in a transaction.
        let compacted = "the revision has been compacted";
        check(Reason::Compacted, 0, 7, &format!("{compacted} (the oldest one known is 7)"));
        let of_a_range = format!("{compacted} (operation 1; the oldest one known is 7)");
        check(Reason::Compacted, 1, 7, &of_a_range);
        check(Reason::Superseded, 0, 0, "the client has sent a later request since");
    }
}
