//! [`Execution`]: runs one command on a tree.
//!
//! Each operation checks before it changes anything, so an operation that fails has changed
//! nothing. A transaction with several operations that change something keeps clones of the tree
//! and of the leases, which share their nodes, and goes back to them if one of the operations
//! fails.

use std::cmp::Ordering;

use super::changes::Changes;
use super::leases::{KeyLease, Leases, OwnLease};
use super::range_read;
use super::{History, LogEntry, Stored, Tree};
use crate::kv::VALUE_LEN_MAX;
use crate::kv::limits::Limits;
use crate::kv::model::{
    ANSWER_LEN_MAX, Action, Compare, Entry, KeyRange, LeaseId, NewLease, NewValue, Operand,
    Operation, OperationAnswer, Range, RangeAnswer, Reason, Refusal, Relation, Revision,
    TOUCHED_KEYS_MAX, Txn, TxnAnswer,
};

/// After this many keys a long read may rest, and looks whether it should end.
const INTERRUPTION_KEYS: u64 = 512;

/// The longest number: that of `i64::MIN`.
const NUMBER_LEN_MAX: usize = 20;

/// As many bytes of a value as count as a key.
const TOUCHED_BYTES: u64 = 4096;

/// What a command may still cost.
pub(in crate::kv) struct Budget<'a> {
    touched_keys: u64,
    answer_len: u64,
    touched_keys_max: u64,
    /// Says whether a read should end. A command of the log has none, because its outcome must not
    /// depend on it.
    interrupt: Option<&'a dyn Fn() -> bool>,
    /// Whether it ran out of keys, or was told to end. The answer may hide this: an operation that
    /// may fail then fails alone.
    pub(in crate::kv) has_run_out: bool,
}

/// Which branches ran: those of the outermost transaction and of the nested ones, in the order in
/// which they ran. Only the first 64 are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Branches {
    /// Bit n is set if the comparisons of transaction n held.
    pub held: u64,
    /// How many transactions ran.
    pub count: u32,
}

/// What a command finds and does not change.
#[derive(Clone, Copy)]
pub(super) struct Given {
    /// Of the state before this command.
    pub(super) revision: Revision,
    pub(super) limits: Limits,
    pub(super) entry: LogEntry,
}

/// A command while it runs. See the [module](self).
pub(super) struct Execution<'a, 'b> {
    tree: &'a mut Tree,
    leases: &'a mut Leases,
    changes: &'a mut Changes,
    history: &'a History,
    /// The tree before this command, if it reads the past: the history leads back from there, and
    /// knows nothing of what this command has changed.
    before: Option<Tree>,
    given: Given,
    budget: &'a mut Budget<'b>,
    /// The number of the operation that runs.
    operation: u32,
    pub(super) branches: Branches,
}

impl<'a> Budget<'a> {
    /// That of a command in the log, the same on every member.
    pub(in crate::kv) fn of_a_command() -> Budget<'a> {
        Budget::of_a_read(TOUCHED_KEYS_MAX)
    }

    /// That of a read that may look at this many keys.
    pub(in crate::kv) fn of_a_read(touched_keys_max: u64) -> Budget<'a> {
        let (touched_keys, answer_len) = (0, 0);
        let (interrupt, has_run_out) = (None, false);
        Budget { touched_keys, answer_len, touched_keys_max, interrupt, has_run_out }
    }

    /// That of a read of any number of keys, which ends as [`Reason::TooManyKeys`] once `interrupt`
    /// says so.
    pub(in crate::kv) fn until(interrupt: &'a dyn Fn() -> bool) -> Budget<'a> {
        Budget { interrupt: Some(interrupt), ..Budget::of_a_read(u64::MAX) }
    }

    /// Looks at one more key.
    pub(super) fn touch(&mut self) -> Result<(), (Reason, u64)> {
        self.touch_many(1)
    }

    /// Copies or compares a value of this length: each 4 KiB count as a key.
    pub(super) fn touch_bytes(&mut self, len: usize) -> Result<(), (Reason, u64)> {
        self.touch_many(len as u64 / TOUCHED_BYTES)
    }

    /// Looks at this many more keys.
    pub(super) fn touch_many(&mut self, keys: u64) -> Result<(), (Reason, u64)> {
        let before = self.touched_keys;
        self.touched_keys += keys;
        if self.touched_keys > self.touched_keys_max {
            self.has_run_out = true;
            return Err((Reason::TooManyKeys, self.touched_keys_max));
        }
        if let Some(interrupt) = self.interrupt
            && self.touched_keys / INTERRUPTION_KEYS > before / INTERRUPTION_KEYS
            && interrupt()
        {
            self.has_run_out = true;
            return Err((Reason::TooManyKeys, self.touched_keys));
        }
        Ok(())
    }

    /// Answers with one more entry. The first one always fits.
    pub(super) fn answer(&mut self, entry: &Entry) -> Result<(), (Reason, u64)> {
        let (before, len) = (self.answer_len, entry.len_bytes());
        if before > 0 && before + len > ANSWER_LEN_MAX {
            return Err((Reason::AnswerTooLong, ANSWER_LEN_MAX));
        }
        self.answer_len += len;
        Ok(())
    }
}

impl<'a, 'b> Execution<'a, 'b> {
    pub(super) fn new(
        tree: &'a mut Tree,
        leases: &'a mut Leases,
        changes: &'a mut Changes,
        history: &'a History,
        given: Given,
        budget: &'a mut Budget<'b>,
    ) -> Execution<'a, 'b> {
        let (before, operation, branches) = (None, 0, Branches::default());
        Execution { tree, leases, changes, history, before, given, budget, operation, branches }
    }

    /// Runs the outermost transaction. After an error, nothing has changed.
    pub(super) fn run_all(&mut self, txn: &Txn) -> Result<TxnAnswer, Refusal> {
        self.before = txn.reads_the_past().then(|| self.tree.clone());
        self.run(txn)
    }

    /// Runs a transaction. After an error, nothing has changed.
    fn run(&mut self, txn: &Txn) -> Result<TxnAnswer, Refusal> {
        let held = self.all_hold(&txn.compare)?;
        self.branches.record(held);
        let operations = if held { &txn.then } else { &txn.otherwise };
        let saved = needs_undo(operations)
            .then(|| (self.tree.clone(), self.leases.clone(), self.changes.clone()));
        let answers = operations.iter().map(|operation| self.run_operation(operation)).collect();
        if let (Err(_), Some((tree, leases, changes))) = (&answers, saved) {
            (*self.tree, *self.leases, *self.changes) = (tree, leases, changes);
        }
        Ok(TxnAnswer { held, answers: answers? })
    }

    fn run_operation(&mut self, operation: &Operation) -> Result<OperationAnswer, Refusal> {
        let answer_len = self.budget.answer_len;
        // An operation that finds no key costs something, too.
        let done = self.touch().and_then(|()| self.act(&operation.action));
        if !matches!(operation.action, Action::Txn(_)) {
            self.operation += 1;
        }
        done.or_else(|refusal| match operation.may_fail {
            true => {
                self.budget.answer_len = answer_len;
                Ok(OperationAnswer::Failed(refusal.reason))
            }
            false => Err(refusal),
        })
    }

    fn act(&mut self, action: &Action) -> Result<OperationAnswer, Refusal> {
        match action {
            Action::Put { key, value, lease, previous } => {
                let previous = self.put_as(key, value, *lease, *previous)?;
                Ok(OperationAnswer::Put { previous })
            }
            Action::Append { key, value } => {
                let value_len = self.append(key, value)?;
                Ok(OperationAnswer::Append { value_len })
            }
            Action::Increment { key, by } => {
                let value = self.increment(key, *by)?;
                Ok(OperationAnswer::Increment { value })
            }
            Action::Delete { keys, previous } => self.delete(keys, *previous),
            Action::Range(range) => {
                let read = match range.at {
                    Revision::NONE => range_read::read_tree(range, self.tree, self.budget),
                    _ => self.read_the_past(range),
                };
                read.map(OperationAnswer::Range).map_err(|why| self.refusal(why))
            }
            Action::Txn(nested) => self.run(nested).map(OperationAnswer::Txn),
        }
    }

    fn read_the_past(&mut self, range: &Range) -> Result<RangeAnswer, (Reason, u64)> {
        let before = self.before.as_ref().expect("it is kept for a transaction that needs it");
        range_read::read_as_of(range, before, self.history, self.given.revision, self.budget)
    }

    /// The command as a whole fails at this operation.
    fn refusal(&self, (reason, value): (Reason, u64)) -> Refusal {
        Refusal { reason, operation: self.operation, value }
    }

    fn refuse<T>(&self, reason: Reason, value: u64) -> Result<T, Refusal> {
        Err(self.refusal((reason, value)))
    }

    fn touch(&mut self) -> Result<(), Refusal> {
        self.budget.touch().map_err(|why| self.refusal(why))
    }

    pub(super) fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), Refusal> {
        self.write(key, value, NewLease::Set(LeaseId::NONE))
    }

    fn put_as(
        &mut self,
        key: &[u8],
        value: &NewValue,
        lease: NewLease,
        wants_previous: bool,
    ) -> Result<Option<Entry>, Refusal> {
        self.touch()?;
        let held = self.tree.get(key);
        let keeps = *value == NewValue::Keep || lease == NewLease::Keep;
        if keeps && held.is_none() {
            return self.refuse(Reason::KeyAbsent, 0);
        }
        let keeps_value = *value == NewValue::Keep;
        let kept_value = held.filter(|_| keeps_value).map(|held| held.value.to_bytes());
        let previous = held.filter(|_| wants_previous).map(|held| held.entry(key));
        let value = match value {
            NewValue::Set(value) => value.clone(),
            NewValue::Keep => kept_value.expect("checked above"),
        };
        if let NewLease::Set(id) = lease
            && id != LeaseId::NONE
            && !self.leases.contains(id)
        {
            return self.refuse(Reason::NoSuchLease, id.0);
        }
        if let Some(previous) = &previous {
            self.budget.answer(previous).map_err(|why| self.refusal(why))?;
        }
        self.write(key, &value, lease)?;
        Ok(previous)
    }

    /// Gives `key` a value and a lease, which exists.
    fn write(&mut self, key: &[u8], value: &[u8], lease: NewLease) -> Result<(), Refusal> {
        if value.len() > VALUE_LEN_MAX {
            return self.refuse(Reason::ValueTooLong, value.len() as u64);
        }
        let new_lease = self.key_lease(lease);
        let id = match new_lease {
            Some(KeyLease::WithId(id)) => Some(id),
            Some(KeyLease::Own(_)) => Some(LeaseId::NONE),
            None => None,
        };
        let (limits, at) = (self.given.limits, self.given.revision.next());
        let fits = |bytes, keys: usize| room(limits, bytes, keys as u64);
        let before = self.tree.put(key, (value, id), at, fits);
        let before = before.map_err(|why| self.refusal(why))?;
        if let Some(new_lease) = new_lease {
            let lease_before = before.as_ref().map_or(LeaseId::NONE, |before| before.lease);
            self.leases.set(key, lease_before, new_lease);
        }
        self.changes.replaced(key, before);
        Ok(())
    }

    /// `None`: the key keeps the lease that it has.
    fn key_lease(&self, lease: NewLease) -> Option<KeyLease> {
        match lease {
            NewLease::Set(id) => Some(KeyLease::WithId(id)),
            NewLease::Keep => None,
            NewLease::OfItsOwn { ttl_ms } => {
                let deadline_ms = self.given.entry.stamp_ms().saturating_add(ttl_ms);
                let (index, operation) = (self.given.entry.index, self.operation);
                Some(KeyLease::Own(OwnLease { deadline_ms, index, operation }))
            }
        }
    }

    /// Returns the length of the value afterwards.
    pub(super) fn append(&mut self, key: &[u8], more: &[u8]) -> Result<u64, Refusal> {
        self.touch()?;
        let Some(held) = self.tree.get(key) else {
            self.write(key, more, NewLease::Keep)?;
            return Ok(more.len() as u64);
        };
        let (held_len, len) = (held.value.len(), held.value.len() + more.len());
        // Within a transaction the value is copied.
        self.budget.touch_bytes(held_len).map_err(|why| self.refusal(why))?;
        if len > VALUE_LEN_MAX {
            return self.refuse(Reason::ValueTooLong, len as u64);
        }
        let bytes = self.tree.bytes() + more.len() as u64;
        room(self.given.limits, bytes, 0).map_err(|why| self.refusal(why))?;
        self.changes.appended(key, self.tree.get(key).expect("it was there"));
        self.tree.append(key, more, self.given.revision.next());
        Ok(len as u64)
    }

    /// Returns the number afterwards.
    fn increment(&mut self, key: &[u8], by: i64) -> Result<i64, Refusal> {
        self.touch()?;
        let value = match self.tree.get(key) {
            None => 0,
            Some(held) => match number(&held.value) {
                Some(value) => value,
                None => return self.refuse(Reason::NotANumber, held.value.len() as u64),
            },
        };
        let Some(sum) = value.checked_add(by) else { return self.refuse(Reason::Overflow, 0) };
        self.write(key, sum.to_string().as_bytes(), NewLease::Keep)?;
        Ok(sum)
    }

    fn delete(&mut self, keys: &KeyRange, previous: bool) -> Result<OperationAnswer, Refusal> {
        let mut doomed = Vec::new();
        let mut entries = Vec::new();
        for (key, held) in self.tree.range(keys) {
            let entry = previous.then(|| held.entry(key));
            let fits = self.budget.touch().and_then(|()| match &entry {
                Some(entry) => self.budget.answer(entry),
                None => Ok(()),
            });
            if let Err((reason, value)) = fits {
                return Err(Refusal { reason, operation: self.operation, value });
            }
            doomed.push(key.clone());
            entries.extend(entry);
        }
        for key in &doomed {
            let before = self.tree.remove(key);
            let lease = before.as_ref().map_or(LeaseId::NONE, |before| before.lease);
            self.leases.set(key, lease, KeyLease::WithId(LeaseId::NONE));
            self.changes.replaced(key, before);
        }
        Ok(OperationAnswer::Delete { count: doomed.len() as u64, previous: entries })
    }

    fn all_hold(&mut self, compare: &[Compare]) -> Result<bool, Refusal> {
        for compare in compare {
            if !self.holds(compare)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn holds(&mut self, compare: &Compare) -> Result<bool, Refusal> {
        let mut is_empty = true;
        for (_, held) in self.tree.range(&compare.keys) {
            is_empty = false;
            if let Err((reason, value)) = self.budget.touch() {
                return Err(Refusal { reason, operation: self.operation, value });
            }
            if let Operand::Value(value) = &compare.operand
                && let Err((reason, value)) =
                    self.budget.touch_bytes(value.len().min(held.value.len()))
            {
                return Err(Refusal { reason, operation: self.operation, value });
            }
            if !compare.holds(Some(held)) {
                return Ok(false);
            }
        }
        Ok(!is_empty || compare.holds(None))
    }
}

impl Branches {
    fn record(&mut self, held: bool) {
        if self.count < u64::BITS {
            self.held |= u64::from(held) << self.count;
        }
        self.count += 1;
    }
}

impl Compare {
    /// An absent key has zeros, and no value.
    fn holds(&self, held: Option<&Stored>) -> bool {
        let zero = |part: fn(&Stored) -> u64| held.map_or(0, part);
        let ordering = match &self.operand {
            Operand::Value(value) => match held {
                Some(held) => held.value[..].cmp(value),
                None => return false,
            },
            Operand::Version(version) => zero(|it| it.version).cmp(version),
            Operand::CreateRevision(revision) => zero(|it| it.create_revision.0).cmp(&revision.0),
            Operand::ModRevision(revision) => zero(|it| it.mod_revision.0).cmp(&revision.0),
            Operand::Lease(lease) => zero(|it| it.lease.0).cmp(&lease.0),
        };
        match self.relation {
            Relation::Equal => ordering == Ordering::Equal,
            Relation::NotEqual => ordering != Ordering::Equal,
            Relation::Less => ordering == Ordering::Less,
            Relation::Greater => ordering == Ordering::Greater,
        }
    }
}

/// Whether a store may hold this much. `keys` is 0 if their number does not grow.
fn room(limits: Limits, bytes: u64, keys: u64) -> Result<(), (Reason, u64)> {
    if bytes > limits.bytes_max {
        return Err((Reason::NoSpace, limits.bytes_max));
    }
    if keys > limits.keys_max {
        return Err((Reason::NoSpace, limits.keys_max));
    }
    Ok(())
}

/// Whether an operation may fail after an earlier one has changed something.
fn needs_undo(operations: &[Operation]) -> bool {
    let changes = |operation: &Operation| match &operation.action {
        Action::Range(_) => false,
        Action::Txn(nested) => !nested.is_read(),
        _ => true,
    };
    let first = operations.iter().position(changes);
    first.is_some_and(|first| first + 1 < operations.len())
}

/// A decimal 64-bit integer as Redis takes it: an optional minus sign and digits, without a plus
/// sign, spaces, or zeros in front.
fn number(value: &[u8]) -> Option<i64> {
    if value.len() > NUMBER_LEN_MAX {
        return None;
    }
    let text = str::from_utf8(value).ok()?;
    let number: i64 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}
