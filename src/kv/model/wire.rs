//! Translates the model to the messages of `proto/store_rpc.proto` and back.
//!
//! A message that arrived may lack a part or have a number that this version does not know. Then
//! there is a [`WireError`], and nothing is guessed.

use super::proto;
use super::{
    Action, Compare, Entry, KeyRange, LeaseId, NewLease, NewValue, Operand, Operation,
    OperationAnswer, Range, RangeAnswer, RangeEnd, RangeError, Reason, Refusal, Relation, Revision,
    RevisionBounds, SortBy, Txn, TxnAnswer, Want,
};

/// Why a message is not one of the model's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A part is missing without which the message means nothing.
    #[error("{of} without {part}")]
    Missing {
        /// The message.
        of: &'static str,
        /// What it lacks.
        part: &'static str,
    },
    /// A number stands for something that this version does not know.
    #[error("unknown {what} {number}")]
    Unknown {
        /// What the number stands for.
        what: &'static str,
        /// The number.
        number: i64,
    },
    /// A put with a lease and with a time to live.
    #[error("a put with two leases: that of an id, and one of the key's own")]
    TwoLeases,
    /// A range that cannot hold a key.
    #[error("a range without room for a key")]
    Range(#[source] RangeError),
}

impl From<RangeError> for WireError {
    fn from(error: RangeError) -> WireError {
        WireError::Range(error)
    }
}

pub(super) fn missing(of: &'static str, part: &'static str) -> WireError {
    WireError::Missing { of, part }
}

fn unknown(what: &'static str, number: i32) -> WireError {
    WireError::Unknown { what, number: number.into() }
}

impl From<&Entry> for proto::Entry {
    fn from(entry: &Entry) -> proto::Entry {
        proto::Entry {
            key: entry.key.clone(),
            value: entry.value.clone(),
            create_revision: entry.create_revision.0,
            mod_revision: entry.mod_revision.0,
            version: entry.version,
            lease: entry.lease.0,
        }
    }
}

impl From<Entry> for proto::Entry {
    fn from(entry: Entry) -> proto::Entry {
        let Entry { key, value, create_revision, mod_revision, version, lease } = entry;
        let (create_revision, mod_revision) = (create_revision.0, mod_revision.0);
        proto::Entry { key, value, create_revision, mod_revision, version, lease: lease.0 }
    }
}

impl From<proto::Entry> for Entry {
    fn from(entry: proto::Entry) -> Entry {
        Entry {
            key: entry.key,
            value: entry.value,
            create_revision: Revision(entry.create_revision),
            mod_revision: Revision(entry.mod_revision),
            version: entry.version,
            lease: LeaseId(entry.lease),
        }
    }
}

impl From<&KeyRange> for proto::KeyRange {
    fn from(keys: &KeyRange) -> proto::KeyRange {
        let begin = keys.begin().clone();
        match keys.end() {
            RangeEnd::Alone => proto::KeyRange { begin, before: None, open: false },
            RangeEnd::Before(before) => {
                proto::KeyRange { begin, before: Some(before.clone()), open: false }
            }
            RangeEnd::Open => proto::KeyRange { begin, before: None, open: true },
        }
    }
}

impl TryFrom<proto::KeyRange> for KeyRange {
    type Error = WireError;

    fn try_from(keys: proto::KeyRange) -> Result<KeyRange, WireError> {
        match (keys.before, keys.open) {
            (None, false) => Ok(KeyRange::key(keys.begin)),
            (None, true) => Ok(KeyRange::starting_at(keys.begin)),
            (Some(before), _) => Ok(KeyRange::between(keys.begin, before)?),
        }
    }
}

pub(super) fn key_range(
    of: &'static str,
    keys: Option<proto::KeyRange>,
) -> Result<KeyRange, WireError> {
    keys.ok_or_else(|| missing(of, "keys"))?.try_into()
}

impl From<&Compare> for proto::Compare {
    fn from(compare: &Compare) -> proto::Compare {
        use proto::compare::{Operand as Wire, Relation as WireRelation};
        let relation = match compare.relation {
            Relation::Equal => WireRelation::Equal,
            Relation::NotEqual => WireRelation::NotEqual,
            Relation::Less => WireRelation::Less,
            Relation::Greater => WireRelation::Greater,
        };
        let operand = match &compare.operand {
            Operand::Value(value) => Wire::Value(value.clone()),
            Operand::Version(version) => Wire::Version(*version),
            Operand::CreateRevision(revision) => Wire::CreateRevision(revision.0),
            Operand::ModRevision(revision) => Wire::ModRevision(revision.0),
            Operand::Lease(lease) => Wire::Lease(lease.0),
        };
        proto::Compare {
            keys: Some((&compare.keys).into()),
            relation: relation.into(),
            operand: Some(operand),
        }
    }
}

impl TryFrom<proto::Compare> for Compare {
    type Error = WireError;

    fn try_from(compare: proto::Compare) -> Result<Compare, WireError> {
        use proto::compare::{Operand as Wire, Relation as WireRelation};
        let relation = match WireRelation::try_from(compare.relation) {
            Ok(WireRelation::Equal) => Relation::Equal,
            Ok(WireRelation::NotEqual) => Relation::NotEqual,
            Ok(WireRelation::Less) => Relation::Less,
            Ok(WireRelation::Greater) => Relation::Greater,
            Err(_) => return Err(unknown("relation", compare.relation)),
        };
        let operand = match compare.operand.ok_or_else(|| missing("a comparison", "operand"))? {
            Wire::Value(value) => Operand::Value(value),
            Wire::Version(version) => Operand::Version(version),
            Wire::CreateRevision(revision) => Operand::CreateRevision(Revision(revision)),
            Wire::ModRevision(revision) => Operand::ModRevision(Revision(revision)),
            Wire::Lease(lease) => Operand::Lease(LeaseId(lease)),
        };
        Ok(Compare { keys: key_range("a comparison", compare.keys)?, relation, operand })
    }
}

impl From<&Range> for proto::Range {
    fn from(range: &Range) -> proto::Range {
        let sort_by = match range.sort_by {
            SortBy::Key => proto::range::SortBy::Key,
            SortBy::Version => proto::range::SortBy::Version,
            SortBy::CreateRevision => proto::range::SortBy::CreateRevision,
            SortBy::ModRevision => proto::range::SortBy::ModRevision,
            SortBy::Value => proto::range::SortBy::Value,
        };
        let want = match range.want {
            Want::Entries => proto::range::Want::Entries,
            Want::Keys => proto::range::Want::Keys,
            Want::Count => proto::range::Want::Count,
        };
        proto::Range {
            keys: Some((&range.keys).into()),
            limit: range.limit,
            sort_by: sort_by.into(),
            descending: range.descending,
            want: want.into(),
            count_all: range.count_all,
            mod_revision_min: range.mod_revision.min.0,
            mod_revision_max: range.mod_revision.max.0,
            create_revision_min: range.create_revision.min.0,
            create_revision_max: range.create_revision.max.0,
            at: range.at.0,
        }
    }
}

impl TryFrom<proto::Range> for Range {
    type Error = WireError;

    fn try_from(range: proto::Range) -> Result<Range, WireError> {
        let sort_by = match proto::range::SortBy::try_from(range.sort_by) {
            Ok(proto::range::SortBy::Key) => SortBy::Key,
            Ok(proto::range::SortBy::Version) => SortBy::Version,
            Ok(proto::range::SortBy::CreateRevision) => SortBy::CreateRevision,
            Ok(proto::range::SortBy::ModRevision) => SortBy::ModRevision,
            Ok(proto::range::SortBy::Value) => SortBy::Value,
            Err(_) => return Err(unknown("order of a range", range.sort_by)),
        };
        let want = match proto::range::Want::try_from(range.want) {
            Ok(proto::range::Want::Entries) => Want::Entries,
            Ok(proto::range::Want::Keys) => Want::Keys,
            Ok(proto::range::Want::Count) => Want::Count,
            Err(_) => return Err(unknown("kind of range", range.want)),
        };
        let bounds = |min, max| RevisionBounds { min: Revision(min), max: Revision(max) };
        Ok(Range {
            keys: key_range("a range", range.keys)?,
            limit: range.limit,
            sort_by,
            descending: range.descending,
            want,
            count_all: range.count_all,
            mod_revision: bounds(range.mod_revision_min, range.mod_revision_max),
            create_revision: bounds(range.create_revision_min, range.create_revision_max),
            at: Revision(range.at),
        })
    }
}

impl From<&Operation> for proto::Operation {
    fn from(operation: &Operation) -> proto::Operation {
        use proto::operation::Action as Wire;
        let action = match &operation.action {
            Action::Put { key, value, lease, previous } => Wire::Put(proto::Put {
                key: key.clone(),
                value: match value {
                    NewValue::Set(value) => Some(value.clone()),
                    NewValue::Keep => None,
                },
                lease: match lease {
                    NewLease::Set(lease) => Some(lease.0),
                    NewLease::Keep | NewLease::OfItsOwn { .. } => None,
                },
                ttl_ms: match lease {
                    NewLease::OfItsOwn { ttl_ms } => *ttl_ms,
                    NewLease::Keep | NewLease::Set(_) => 0,
                },
                previous: *previous,
            }),
            Action::Append { key, value } => {
                Wire::Append(proto::Append { key: key.clone(), value: value.clone() })
            }
            Action::Increment { key, by } => {
                Wire::Increment(proto::Increment { key: key.clone(), by: *by })
            }
            Action::Delete { keys, previous } => {
                Wire::Delete(proto::Delete { keys: Some(keys.into()), previous: *previous })
            }
            Action::Range(range) => Wire::Range(range.into()),
            Action::Txn(nested) => Wire::Txn(nested.into()),
        };
        proto::Operation { action: Some(action), may_fail: operation.may_fail }
    }
}

impl TryFrom<proto::Operation> for Operation {
    type Error = WireError;

    fn try_from(operation: proto::Operation) -> Result<Operation, WireError> {
        use proto::operation::Action as Wire;
        let action = match operation.action.ok_or_else(|| missing("an operation", "action"))? {
            Wire::Put(put) => Action::Put {
                key: put.key,
                value: put.value.map_or(NewValue::Keep, NewValue::Set),
                lease: match (put.ttl_ms, put.lease) {
                    (1.., Some(_)) => return Err(WireError::TwoLeases),
                    (ttl_ms @ 1.., None) => NewLease::OfItsOwn { ttl_ms },
                    (0, Some(lease)) => NewLease::Set(LeaseId(lease)),
                    (0, None) => NewLease::Keep,
                },
                previous: put.previous,
            },
            Wire::Append(append) => Action::Append { key: append.key, value: append.value },
            Wire::Increment(it) => Action::Increment { key: it.key, by: it.by },
            Wire::Delete(delete) => Action::Delete {
                keys: key_range("a delete", delete.keys)?,
                previous: delete.previous,
            },
            Wire::Range(range) => Action::Range(range.try_into()?),
            Wire::Txn(nested) => Action::Txn(nested.try_into()?),
        };
        Ok(Operation { action, may_fail: operation.may_fail })
    }
}

impl From<&Txn> for proto::Txn {
    fn from(txn: &Txn) -> proto::Txn {
        proto::Txn {
            compare: txn.compare.iter().map(Into::into).collect(),
            then: txn.then.iter().map(Into::into).collect(),
            otherwise: txn.otherwise.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<proto::Txn> for Txn {
    type Error = WireError;

    fn try_from(txn: proto::Txn) -> Result<Txn, WireError> {
        let operations = |operations: Vec<proto::Operation>| {
            operations.into_iter().map(Operation::try_from).collect::<Result<_, _>>()
        };
        Ok(Txn {
            compare: txn.compare.into_iter().map(Compare::try_from).collect::<Result<_, _>>()?,
            then: operations(txn.then)?,
            otherwise: operations(txn.otherwise)?,
        })
    }
}

impl From<&RangeAnswer> for proto::RangeAnswer {
    fn from(answer: &RangeAnswer) -> proto::RangeAnswer {
        let entries = answer.entries.iter().map(Into::into).collect();
        proto::RangeAnswer { entries, count: answer.count, more: answer.more }
    }
}

impl From<RangeAnswer> for proto::RangeAnswer {
    fn from(answer: RangeAnswer) -> proto::RangeAnswer {
        let entries = answer.entries.into_iter().map(Into::into).collect();
        proto::RangeAnswer { entries, count: answer.count, more: answer.more }
    }
}

impl From<proto::RangeAnswer> for RangeAnswer {
    fn from(answer: proto::RangeAnswer) -> RangeAnswer {
        let entries = answer.entries.into_iter().map(Into::into).collect();
        RangeAnswer { entries, count: answer.count, more: answer.more }
    }
}

impl From<&OperationAnswer> for proto::OperationAnswer {
    fn from(answer: &OperationAnswer) -> proto::OperationAnswer {
        use proto::operation_answer::Answer as Wire;
        let answer = match answer {
            OperationAnswer::Put { previous } => {
                Wire::Put(proto::PutAnswer { previous: previous.as_ref().map(Into::into) })
            }
            OperationAnswer::Append { value_len } => {
                Wire::Append(proto::AppendAnswer { value_len: *value_len })
            }
            OperationAnswer::Increment { value } => {
                Wire::Increment(proto::IncrementAnswer { value: *value })
            }
            OperationAnswer::Delete { count, previous } => Wire::Delete(proto::DeleteAnswer {
                count: *count,
                previous: previous.iter().map(Into::into).collect(),
            }),
            OperationAnswer::Range(range) => Wire::Range(range.into()),
            OperationAnswer::Txn(nested) => Wire::Txn(nested.into()),
            OperationAnswer::Failed(reason) => Wire::Failed(reason.number()),
        };
        proto::OperationAnswer { answer: Some(answer) }
    }
}

impl TryFrom<proto::OperationAnswer> for OperationAnswer {
    type Error = WireError;

    fn try_from(answer: proto::OperationAnswer) -> Result<OperationAnswer, WireError> {
        use proto::operation_answer::Answer as Wire;
        Ok(match answer.answer.ok_or_else(|| missing("an operation's answer", "content"))? {
            Wire::Put(put) => OperationAnswer::Put { previous: put.previous.map(Into::into) },
            Wire::Append(append) => OperationAnswer::Append { value_len: append.value_len },
            Wire::Increment(it) => OperationAnswer::Increment { value: it.value },
            Wire::Delete(delete) => OperationAnswer::Delete {
                count: delete.count,
                previous: delete.previous.into_iter().map(Into::into).collect(),
            },
            Wire::Range(range) => OperationAnswer::Range(range.into()),
            Wire::Txn(nested) => OperationAnswer::Txn(nested.try_into()?),
            Wire::Failed(number) => OperationAnswer::Failed(reason(number)?),
        })
    }
}

impl From<&TxnAnswer> for proto::TxnAnswer {
    fn from(answer: &TxnAnswer) -> proto::TxnAnswer {
        let answers = answer.answers.iter().map(Into::into).collect();
        proto::TxnAnswer { held: answer.held, answers }
    }
}

impl TryFrom<proto::TxnAnswer> for TxnAnswer {
    type Error = WireError;

    fn try_from(answer: proto::TxnAnswer) -> Result<TxnAnswer, WireError> {
        let answers =
            answer.answers.into_iter().map(OperationAnswer::try_from).collect::<Result<_, _>>()?;
        Ok(TxnAnswer { held: answer.held, answers })
    }
}

impl From<Refusal> for proto::Refusal {
    fn from(refusal: Refusal) -> proto::Refusal {
        let Refusal { reason, operation, value } = refusal;
        proto::Refusal { reason: reason.number(), operation, value }
    }
}

impl TryFrom<proto::Refusal> for Refusal {
    type Error = WireError;

    fn try_from(refusal: proto::Refusal) -> Result<Refusal, WireError> {
        let proto::Refusal { reason: number, operation, value } = refusal;
        Ok(Refusal { reason: reason(number)?, operation, value })
    }
}

fn reason(number: u32) -> Result<Reason, WireError> {
    let what = "reason of a refusal";
    Reason::from_number(number).ok_or(WireError::Unknown { what, number: number.into() })
}
