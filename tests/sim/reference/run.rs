//! What a transaction does, by the words of `kv::model`. The bounds that no simulated transaction
//! reaches are left out: the length of values and of answers, and the number of keys.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use bytes::Bytes;
use syncraft::kv::model::{
    Action, Compare, Entry, LeaseId, NewLease, NewValue, Operand, Operation, OperationAnswer,
    Range, RangeAnswer, Reason, Refusal, Relation, Revision, SortBy, Txn, TxnAnswer, Want,
};
use syncraft::kv::{Branches, Stats};

use super::leases::Leases;
use super::{Contents, LogEntry, Reference, bytes_of};

/// A transaction while it runs.
pub(super) struct Run<'a> {
    past: &'a Reference,
    /// Of the store before it.
    stats: Stats,
    /// The entries so far.
    pub(super) keys: Contents,
    /// The keys whose value before the transaction is not the beginning of what they hold now.
    pub(super) replaced: BTreeSet<Bytes>,
    pub(super) branches: Branches,
    pub(super) leases: Leases,
    entry: LogEntry,
    /// How many operations have run, without nested transactions, which are not counted themselves.
    operation: u32,
}

impl Run<'_> {
    pub(super) fn new(past: &Reference, stats: Stats, entry: LogEntry) -> Run<'_> {
        let (keys, replaced) = (past.contents(stats.revision), BTreeSet::new());
        let (branches, leases) = (Branches::default(), past.leases.clone());
        Run { past, stats, keys, replaced, branches, leases, entry, operation: 0 }
    }

    pub(super) fn run(&mut self, txn: &Txn) -> Result<TxnAnswer, Refusal> {
        let held = txn.compare.iter().all(|compare| self.holds(compare));
        let Branches { held: bits, count } = &mut self.branches;
        if *count < 64 && held {
            *bits |= 1 << *count;
        }
        *count += 1;
        let operations = if held { &txn.then } else { &txn.otherwise };
        let answers = operations.iter().map(|operation| self.operate(operation));
        let answers: Result<_, Refusal> = answers.collect();
        Ok(TxnAnswer { held, answers: answers? })
    }

    /// What fails has changed nothing.
    fn operate(&mut self, operation: &Operation) -> Result<OperationAnswer, Refusal> {
        let before = (self.keys.clone(), self.replaced.clone(), self.leases.clone());
        let result = match &operation.action {
            Action::Txn(nested) => self.run(nested).map(OperationAnswer::Txn),
            action => {
                let number = self.operation;
                self.operation += 1;
                let result = self.act(action, number);
                result.map_err(|(reason, value)| Refusal { reason, operation: number, value })
            }
        };
        if result.is_err() {
            (self.keys, self.replaced, self.leases) = before;
        }
        match result {
            Err(Refusal { reason, .. }) if operation.may_fail => {
                Ok(OperationAnswer::Failed(reason))
            }
            result => result,
        }
    }

    fn act(&mut self, action: &Action, at: u32) -> Result<OperationAnswer, (Reason, u64)> {
        Ok(match action {
            Action::Put { key, value, lease, previous } => {
                let held = self.keys.get(key).cloned();
                let is_kept = *value == NewValue::Keep || *lease == NewLease::Keep;
                if is_kept && held.is_none() {
                    return Err((Reason::KeyAbsent, 0));
                }
                if let NewLease::Set(id @ LeaseId(1..)) = lease
                    && !self.leases.by_id.contains_key(id)
                {
                    return Err((Reason::NoSuchLease, id.0));
                }
                let kept = held.as_ref().map(|entry| entry.value.clone()).unwrap_or_default();
                let value = match value {
                    NewValue::Set(value) => value.clone(),
                    NewValue::Keep => kept,
                };
                self.replaced.insert(key.clone());
                self.write(key, value, *lease, at)?;
                OperationAnswer::Put { previous: held.filter(|_| *previous) }
            }
            Action::Append { key, value } => {
                let held = self.keys.get(key).map(|entry| entry.value.clone()).unwrap_or_default();
                let value = Bytes::from([held, value.clone()].concat());
                let value_len = value.len() as u64;
                self.write(key, value, NewLease::Keep, at)?;
                OperationAnswer::Append { value_len }
            }
            Action::Increment { key, by } => {
                let value = match self.keys.get(key) {
                    None => 0,
                    Some(entry) => number(&entry.value)
                        .ok_or((Reason::NotANumber, entry.value.len() as u64))?,
                };
                let value = value.checked_add(*by).ok_or((Reason::Overflow, 0))?;
                self.replaced.insert(key.clone());
                self.write(key, value.to_string().into(), NewLease::Keep, at)?;
                OperationAnswer::Increment { value }
            }
            Action::Delete { keys, previous } => {
                let is_doomed = |key: &Bytes| keys.contains(key);
                let doomed: Vec<Bytes> =
                    self.keys.keys().filter(|key| is_doomed(key)).cloned().collect();
                let gone: Vec<Entry> =
                    doomed.iter().filter_map(|key| self.keys.remove(key)).collect();
                self.leases.own.retain(|key, _| !is_doomed(key));
                self.replaced.extend(doomed);
                let count = gone.len() as u64;
                let previous = if *previous { gone } else { Vec::new() };
                OperationAnswer::Delete { count, previous }
            }
            Action::Range(range) => OperationAnswer::Range(self.range(range)?),
            Action::Txn(_) => panic!("a nested transaction is not a single operation"),
        })
    }

    fn write(
        &mut self,
        key: &Bytes,
        value: Bytes,
        lease: NewLease,
        number: u32,
    ) -> Result<(), (Reason, u64)> {
        if lease != NewLease::Keep {
            self.leases.own.remove(key);
        }
        let held = self.keys.get(key).map_or(LeaseId::NONE, |entry| entry.lease);
        let lease = match lease {
            NewLease::Set(id) => id,
            NewLease::Keep => held,
            NewLease::OfItsOwn { ttl_ms } => {
                let own = (self.entry.deadline_ms(ttl_ms), self.entry.index, number);
                self.leases.own.insert(key.clone(), own);
                LeaseId::NONE
            }
        };
        let revision = self.stats.revision.next();
        let new = Entry {
            key: key.clone(),
            value,
            create_revision: revision,
            mod_revision: revision,
            version: 1,
            lease,
        };
        let entry = match self.keys.get(key) {
            None => new,
            Some(held) => Entry {
                create_revision: held.create_revision,
                version: held.version + u64::from(held.mod_revision != revision),
                ..new
            },
        };
        let is_new = self.keys.insert(key.clone(), entry).is_none();
        let limits = self.stats.limits;
        if bytes_of(&self.keys) > limits.bytes_max {
            return Err((Reason::NoSpace, limits.bytes_max));
        }
        if is_new && self.keys.len() as u64 > limits.keys_max {
            return Err((Reason::NoSpace, limits.keys_max));
        }
        Ok(())
    }

    fn holds(&self, compare: &Compare) -> bool {
        let found: Vec<&Entry> =
            self.keys.values().filter(|entry| compare.keys.contains(&entry.key)).collect();
        match found.is_empty() {
            true => compares(compare, None),
            false => found.into_iter().all(|entry| compares(compare, Some(entry))),
        }
    }

    fn range(&self, range: &Range) -> Result<RangeAnswer, (Reason, u64)> {
        let Stats { revision, compacted, .. } = self.stats;
        if range.at == Revision::NONE {
            return Ok(answer(range, self.keys.clone()));
        }
        // Only older states can be forgotten.
        if range.at < compacted {
            return Err((Reason::Compacted, compacted.0));
        }
        if range.at > revision {
            return Err((Reason::InTheFuture, revision.0));
        }
        Ok(answer(range, self.past.contents(range.at)))
    }
}

fn compares(compare: &Compare, entry: Option<&Entry>) -> bool {
    let number = |part: fn(&Entry) -> u64| entry.map_or(0, part);
    let ordering = match (&compare.operand, entry) {
        (Operand::Value(_), None) => return false,
        (Operand::Value(value), Some(entry)) => entry.value.cmp(value),
        (Operand::Version(version), _) => number(|it| it.version).cmp(version),
        (Operand::CreateRevision(it), _) => number(|it| it.create_revision.0).cmp(&it.0),
        (Operand::ModRevision(it), _) => number(|it| it.mod_revision.0).cmp(&it.0),
        (Operand::Lease(it), _) => number(|it| it.lease.0).cmp(&it.0),
    };
    match compare.relation {
        Relation::Equal => ordering == Ordering::Equal,
        Relation::NotEqual => ordering != Ordering::Equal,
        Relation::Less => ordering == Ordering::Less,
        Relation::Greater => ordering == Ordering::Greater,
    }
}

fn answer(range: &Range, contents: Contents) -> RangeAnswer {
    let mut found: Vec<Entry> =
        contents.into_values().filter(|entry| range.keys.contains(&entry.key)).collect();
    // A stable sort: entries that are equal stay in the order of their keys.
    found.sort_by(|one, two| {
        let ordering = match range.sort_by {
            SortBy::Key => one.key.cmp(&two.key),
            SortBy::Version => one.version.cmp(&two.version),
            SortBy::CreateRevision => one.create_revision.cmp(&two.create_revision),
            SortBy::ModRevision => one.mod_revision.cmp(&two.mod_revision),
            SortBy::Value => one.value.cmp(&two.value),
        };
        if range.descending { ordering.reverse() } else { ordering }
    });
    let is_wanted = |entry: &Entry| {
        range.mod_revision.contain(entry.mod_revision)
            && range.create_revision.contain(entry.create_revision)
    };
    let limit = if range.limit == 0 { usize::MAX } else { range.limit as usize };
    let wanted = || found.iter().enumerate().filter(|(_, entry)| is_wanted(entry));
    let left_out = wanted().nth(limit).filter(|_| range.want != Want::Count);
    // A range in the order of its keys looks no further than it must.
    let is_all_counted =
        range.count_all || range.want == Want::Count || range.sort_by != SortBy::Key;
    let count = match left_out {
        Some((at, _)) if !is_all_counted => at,
        _ => found.len(),
    };
    let entries = wanted().take(limit).map(|(_, entry)| entry.clone());
    let entries = match range.want {
        Want::Entries => entries.collect(),
        Want::Keys => entries.map(|entry| Entry { value: Bytes::new(), ..entry }).collect(),
        Want::Count => Vec::new(),
    };
    RangeAnswer { entries, count: count as u64, more: left_out.is_some() }
}

/// A decimal integer without a plus sign, and without zeros in front.
fn number(value: &[u8]) -> Option<i64> {
    let number: i64 = str::from_utf8(value).ok()?.parse().ok()?;
    (number.to_string().as_bytes() == value).then_some(number)
}
