//! [`Plan`]: what the store is asked for in place of a request, and how its answer is told.
//!
//! The store's model is etcd's, but for what has no meaning in it: a range whose end is not behind
//! its begin, a bound below zero. Such a part is replaced by one with the same outcome.

use bytes::Bytes;

use super::request::{
    CompareRequest, Comparison, DeleteRequest, OpRequest, Order, PutRequest, RangeRequest,
    SortTarget, Target, TxnRequest,
};
use crate::front::etcd::out::Object;
use crate::kv::model::{
    Action, Compare, Entry, KeyRange, LeaseId, NewLease, NewValue, Operand, Operation,
    OperationAnswer, Range, RangeAnswer, Relation, Revision, RevisionBounds, SortBy, Txn,
    TxnAnswer, Want,
};

/// What an operation of the store stands for.
#[derive(Clone, Debug)]
pub(super) enum Plan {
    /// `is_empty`: no key can be in the range, and what was read is something else.
    Range {
        is_empty: bool,
    },
    Put,
    /// `is_empty` as for a range: then nothing is deleted.
    Delete {
        is_empty: bool,
    },
    Txn(TxnPlan),
}

#[derive(Clone, Debug)]
pub(super) struct TxnPlan {
    success: Vec<Plan>,
    failure: Vec<Plan>,
}

/// The keys of etcd's `key` and `range_end`; `None`: there can be none. `key` is not empty.
pub(in crate::front::etcd) fn key_range(key: &Bytes, range_end: &Bytes) -> Option<KeyRange> {
    match &range_end[..] {
        b"" => Some(KeyRange::key(key.clone())),
        b"\0" => Some(KeyRange::starting_at(key.clone())),
        _ => KeyRange::between(key.clone(), range_end.clone()).ok(),
    }
}

pub(super) fn range(request: &RangeRequest) -> (Range, Plan) {
    let keys = key_range(&request.key, &request.range_end);
    let is_empty = keys.is_none();
    let want = match (is_empty || request.count_only, request.keys_only) {
        (true, _) => Want::Count,
        (false, true) => Want::Keys,
        (false, false) => Want::Entries,
    };
    let range = Range {
        // A revision that cannot be read is an error all the same.
        keys: keys.unwrap_or_else(|| KeyRange::key(request.key.clone())),
        limit: u64::try_from(request.limit).unwrap_or(0),
        sort_by: match request.target {
            SortTarget::Key => SortBy::Key,
            SortTarget::Version => SortBy::Version,
            SortTarget::Create => SortBy::CreateRevision,
            SortTarget::Mod => SortBy::ModRevision,
            SortTarget::Value => SortBy::Value,
        },
        descending: request.order == Order::Descend,
        want,
        count_all: true,
        mod_revision: bounds(request.min_mod, request.max_mod),
        create_revision: bounds(request.min_create, request.max_create),
        at: revision(request.revision),
    };
    (range, Plan::Range { is_empty })
}

/// Zero is no bound. No revision is below a maximum that is negative.
fn bounds(min: i64, max: i64) -> RevisionBounds {
    match max {
        ..0 => RevisionBounds { min: Revision(u64::MAX), max: Revision::NONE },
        max => RevisionBounds { min: revision(min), max: revision(max) },
    }
}

/// Zero and what is negative stand for none.
fn revision(revision: i64) -> Revision {
    Revision(u64::try_from(revision).unwrap_or(0))
}

/// A lease that etcd would look for. None has an id below zero, here as little as one beyond 2^63.
fn lease(id: i64) -> LeaseId {
    LeaseId(id.cast_unsigned())
}

pub(super) fn put(request: &PutRequest) -> (Action, Plan) {
    let value = match request.ignore_value {
        true => NewValue::Keep,
        false => NewValue::Set(request.value.clone()),
    };
    let lease = match request.ignore_lease {
        true => NewLease::Keep,
        false => NewLease::Set(lease(request.lease)),
    };
    let (key, previous) = (request.key.clone(), request.prev_kv);
    (Action::Put { key, value, lease, previous }, Plan::Put)
}

pub(super) fn delete(request: &DeleteRequest) -> (Action, Plan) {
    match key_range(&request.key, &request.range_end) {
        Some(keys) => {
            (Action::Delete { keys, previous: request.prev_kv }, Plan::Delete { is_empty: false })
        }
        None => {
            let nothing =
                Range { want: Want::Count, ..Range::of(KeyRange::key(request.key.clone())) };
            (Action::Range(nothing), Plan::Delete { is_empty: true })
        }
    }
}

pub(super) fn txn(request: &TxnRequest) -> (Txn, TxnPlan) {
    let branch =
        |ops: &[OpRequest]| -> (Vec<Operation>, Vec<Plan>) { ops.iter().map(operation).unzip() };
    let (then, success) = branch(&request.success);
    let (otherwise, failure) = branch(&request.failure);
    let compare = request.compare.iter().filter_map(compare).collect();
    (Txn { compare, then, otherwise }, TxnPlan { success, failure })
}

fn operation(request: &OpRequest) -> (Operation, Plan) {
    let (action, plan) = match request {
        OpRequest::Range(request) => {
            let (range, plan) = range(request);
            (Action::Range(range), plan)
        }
        OpRequest::Put(request) => put(request),
        OpRequest::Delete(request) => delete(request),
        OpRequest::Txn(request) => {
            let (txn, plan) = txn(request);
            (Action::Txn(txn), Plan::Txn(plan))
        }
    };
    (action.into(), plan)
}

/// `None`: it holds whatever the state.
fn compare(request: &CompareRequest) -> Option<Compare> {
    let relation = match request.comparison {
        Comparison::Equal => Relation::Equal,
        Comparison::Greater => Relation::Greater,
        Comparison::Less => Relation::Less,
        Comparison::NotEqual => Relation::NotEqual,
    };
    let operand = match &request.target {
        Target::Value(value) => Some(Operand::Value(value.clone())),
        Target::Version(it) => not_negative(*it).map(Operand::Version),
        Target::Create(it) => not_negative(*it).map(|it| Operand::CreateRevision(Revision(it))),
        Target::Mod(it) => not_negative(*it).map(|it| Operand::ModRevision(Revision(it))),
        Target::Lease(it) => not_negative(*it).map(|it| Operand::Lease(LeaseId(it))),
    };
    let keys = key_range(&request.key, &request.range_end);
    let outcome = match (&operand, &keys) {
        (Some(operand), Some(keys)) => {
            return Some(Compare { keys: keys.clone(), relation, operand: operand.clone() });
        }
        // Everything in the store is greater than what is negative.
        (None, _) => matches!(relation, Relation::Greater | Relation::NotEqual),
        // A range without keys compares as an absent key does.
        (Some(operand), None) => absent(relation, operand),
    };
    (!outcome).then(|| Compare {
        keys: KeyRange::key(request.key.clone()),
        relation: Relation::Less,
        operand: Operand::Version(0),
    })
}

fn not_negative(number: i64) -> Option<u64> {
    u64::try_from(number).ok()
}

/// Whether a comparison of an absent key holds.
fn absent(relation: Relation, operand: &Operand) -> bool {
    let operand = match operand {
        Operand::Value(_) => return false,
        Operand::Version(it) => *it,
        Operand::CreateRevision(it) | Operand::ModRevision(it) => it.0,
        Operand::Lease(it) => it.0,
    };
    match relation {
        Relation::Equal => operand == 0,
        Relation::NotEqual | Relation::Less => operand != 0,
        Relation::Greater => false,
    }
}

/// Which revision the answer to an operation of a transaction carries.
pub(super) struct Revisions {
    /// That of the store before the transaction.
    before: Revision,
    /// Whether an operation before this one has changed anything.
    has_changed: bool,
}

impl Revisions {
    /// For a transaction after which the store is at `after`.
    pub(super) fn of(after: Revision, answer: &TxnAnswer) -> Revisions {
        let before = if changes(answer) { Revision(after.0 - 1) } else { after };
        Revisions { before, has_changed: false }
    }

    fn now(&self) -> Revision {
        if self.has_changed { self.before.next() } else { self.before }
    }
}

/// Whether anything was changed.
fn changes(answer: &TxnAnswer) -> bool {
    answer.answers.iter().any(|answer| match answer {
        OperationAnswer::Put { .. } => true,
        OperationAnswer::Delete { count, .. } => *count > 0,
        OperationAnswer::Txn(nested) => changes(nested),
        _ => false,
    })
}

/// Writes what is told of a transaction, beside its header.
pub(super) fn txn_told(
    object: &mut Object<'_>,
    plan: &TxnPlan,
    answer: &TxnAnswer,
    revisions: &mut Revisions,
) {
    object.flag("succeeded", answer.held);
    let plans = if answer.held { &plan.success } else { &plan.failure };
    let done = plans.iter().zip(&answer.answers);
    object.objects("responses", done, |object, (plan, answer)| {
        let name = match plan {
            Plan::Range { .. } => "response_range",
            Plan::Put => "response_put",
            Plan::Delete { .. } => "response_delete_range",
            Plan::Txn(_) => "response_txn",
        };
        object.object(name, |object| match (plan, answer) {
            // etcd says nothing of its revision.
            (Plan::Txn(plan), OperationAnswer::Txn(answer)) => {
                object.object("header", |_| ());
                txn_told(object, plan, answer, revisions);
            }
            _ => {
                revisions.has_changed |= match answer {
                    OperationAnswer::Put { .. } => true,
                    OperationAnswer::Delete { count, .. } => *count > 0,
                    _ => false,
                };
                let revision = revisions.now();
                object.object("header", |header| header.number("revision", revision.0));
                told(object, plan, answer);
            }
        });
    });
}

/// Writes what is told of one operation, beside its header.
pub(super) fn told(object: &mut Object<'_>, plan: &Plan, answer: &OperationAnswer) {
    match (plan, answer) {
        (Plan::Range { is_empty: false }, OperationAnswer::Range(answer)) => {
            let RangeAnswer { entries, count, more } = answer;
            object.objects("kvs", entries, kv);
            object.flag("more", *more);
            object.number("count", *count);
        }
        (Plan::Put, OperationAnswer::Put { previous: Some(previous) }) => {
            object.object("prev_kv", |object| kv(object, previous));
        }
        (Plan::Delete { is_empty: false }, OperationAnswer::Delete { count, previous }) => {
            object.number("deleted", *count);
            object.objects("prev_kvs", previous, kv);
        }
        _ => {}
    }
}

/// Writes a key and what is known of it.
pub(in crate::front::etcd) fn kv(object: &mut Object<'_>, entry: &Entry) {
    object.bytes("key", &entry.key);
    object.number("create_revision", entry.create_revision.0);
    object.number("mod_revision", entry.mod_revision.0);
    object.number("version", entry.version);
    object.bytes("value", &entry.value);
    object.number("lease", entry.lease.0);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(target: Target, comparison: Comparison, end: &'static str) -> CompareRequest {
        CompareRequest { key: "k".into(), range_end: end.into(), comparison, target }
    }

    const NEVER: Operand = Operand::Version(0);

    /// `None`: it becomes a comparison of its own.
    fn outcome(request: &CompareRequest) -> Option<bool> {
        match compare(request) {
            None => Some(true),
            Some(Compare { relation: Relation::Less, operand: NEVER, .. }) => Some(false),
            Some(_) => None,
        }
    }

    #[test]
    fn what_the_store_cannot_compare_is_decided_at_once() {
        use Comparison::{Equal, Greater, Less, NotEqual};
        for (comparison, holds) in
            [(Equal, false), (Less, false), (Greater, true), (NotEqual, true)]
        {
            assert_eq!(outcome(&request(Target::Mod(-1), comparison, "")), Some(holds));
        }
        // A range that holds no key compares as an absent key.
        for (target, comparison, holds) in [
            (Target::Create(0), Equal, true),
            (Target::Create(5), Less, true),
            (Target::Create(5), NotEqual, true),
            (Target::Create(0), NotEqual, false),
            (Target::Version(0), Greater, false),
            (Target::Value("v".into()), NotEqual, false),
        ] {
            assert_eq!(outcome(&request(target, comparison, "a")), Some(holds));
        }
        assert_eq!(outcome(&request(Target::Create(0), Equal, "")), None);
        assert_eq!(outcome(&request(Target::Create(0), Equal, "\0")), None);
    }

    #[test]
    fn ranges_are_those_of_etcd() {
        let of = |key: &'static str, end: &'static str| key_range(&key.into(), &end.into());
        assert_eq!(of("a", ""), Some(KeyRange::key("a")));
        assert_eq!(of("a", "\0"), Some(KeyRange::starting_at("a")));
        assert_eq!(of("\0", "\0"), Some(KeyRange::starting_at("\0")));
        assert_eq!(of("a", "b"), Some(KeyRange::between("a", "b").unwrap()));
        assert_eq!((of("b", "a"), of("a", "a")), (None, None));
    }

    #[test]
    fn bounds_below_zero_are_those_of_etcd() {
        assert_eq!(bounds(0, 0), RevisionBounds::default());
        assert!(bounds(-5, 0).contain(Revision(1)));
        assert!(!bounds(0, -1).contain(Revision(1)));
        assert!(bounds(2, 3).contain(Revision(3)) && !bounds(2, 3).contain(Revision(4)));
    }
}
