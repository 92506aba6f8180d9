//! What the store must answer: a model of it that is as simple as it can be.
//!
//! It applies each committed entry once, in the order of the log, and keeps everything: the outcome
//! of each entry, and all versions of each key. It shares the types of `kv::model` with the store,
//! and none of its code. Where the store undoes changes, counts, or sets values back, the model
//! copies, sums up, and looks for the version that it needs.
//!
//! - [`run`]: what a transaction does.
//! - [`leases`]: which leases there are, and which of them end next.
//! - [`requests`]: which requests are repeats by their keys.
//! - [`sessions`]: which writes are repeats, and how much of their outcomes is still known.

mod leases;
mod requests;
mod run;
mod sessions;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use syncraft::kv::model::{
    Action, Change as Watched, Entry, LeaseId, Reason, Refusal, Revision, Txn, TxnAnswer,
};
use syncraft::kv::{
    Branches, Change, Command, Done, Identity, Limits, LimitsChange, Outcome, ReadAnswer,
    SessionLimits, Stamped, Stats,
};
use syncraft::raft::{self, Index, Payload};

use leases::{Due, Lease, Leases};
use requests::{Known, Requests};
use run::Run;
use sessions::{Decision, Sessions};

/// The entries of a store by their keys.
pub(crate) type Contents = BTreeMap<Bytes, Entry>;

/// A client's id, and the number of its write.
pub(crate) type WriteId = (Bytes, i64);

pub(crate) struct Reference {
    /// What each key held, from which revision on. `None`: it was absent.
    versions: BTreeMap<Bytes, Versions>,
    /// What each change costs that is not forgotten, oldest first.
    history: VecDeque<(Revision, u64)>,
    /// As of the last entry.
    stats: Stats,
    sessions: Sessions,
    requests: Requests,
    leases: Leases,
    /// How many leases have ended, because their time had passed.
    ended: u64,
    /// What each entry did.
    entries: Vec<Applied>,
    /// The entry that each write took effect with.
    took_effect: BTreeMap<WriteId, Index>,
    /// What was said about each write: once for each copy in the log.
    said: BTreeMap<WriteId, Vec<Outcome>>,
}

/// What an entry did.
pub(crate) struct Applied {
    /// `None`: it carries no command.
    pub(crate) outcome: Option<Outcome>,
    /// How much the store holds after it.
    pub(crate) stats: Stats,
    /// The keys that it changed.
    pub(crate) changed: Vec<Bytes>,
}

impl Reference {
    pub(crate) fn new(limits: SessionLimits) -> Reference {
        Reference {
            versions: BTreeMap::new(),
            history: VecDeque::new(),
            stats: Stats { revision: Revision::EMPTY_STORE, ..Stats::default() },
            sessions: Sessions::new(limits),
            requests: Requests::new(limits),
            leases: Leases::default(),
            ended: 0,
            entries: Vec::new(),
            took_effect: BTreeMap::new(),
            said: BTreeMap::new(),
        }
    }

    /// How many leases have ended, because their time had passed.
    pub(crate) fn ended(&self) -> u64 {
        self.ended
    }

    /// How many requests got the outcome of an earlier one with the same key.
    pub(crate) fn repeated_requests(&self) -> u64 {
        self.requests.repeated()
    }

    /// How much the store holds after the last entry.
    pub(crate) fn stats(&self) -> Stats {
        self.stats
    }

    /// What the entry at `index` did.
    pub(crate) fn at(&self, index: Index) -> &Applied {
        &self.entries[index.0 as usize - 1]
    }

    /// The entry that this write took effect with, if it did.
    pub(crate) fn took_effect(&self, write: &WriteId) -> Option<Index> {
        self.took_effect.get(write).copied()
    }

    /// Whether a copy of this write had this outcome.
    pub(crate) fn has_said(&self, write: &WriteId, outcome: &Outcome) -> bool {
        self.said.get(write).is_some_and(|said| said.contains(outcome))
    }

    /// All entries as of `revision`.
    pub(crate) fn contents(&self, revision: Revision) -> Contents {
        let entries = self.versions.iter();
        let held = entries.filter_map(|(key, held)| Some((key, version(held, revision)?)));
        held.map(|(key, entry)| (key.clone(), entry.clone())).collect()
    }

    /// What a key holds after the last entry.
    pub(crate) fn held(&self, key: &Bytes) -> Option<&Entry> {
        self.held_at(key, self.stats.revision)
    }

    /// What a key held as of `revision`.
    pub(crate) fn held_at(&self, key: &Bytes, revision: Revision) -> Option<&Entry> {
        version(self.versions.get(key)?, revision)
    }

    /// What the revisions from `from` to `to` have changed, in their order and that of the keys.
    pub(crate) fn changes(&self, from: Revision, to: Revision) -> Vec<Watched> {
        let of_key = |(key, versions): (&Bytes, &Versions)| {
            let begin = versions.partition_point(|(revision, _)| *revision < from);
            let end = versions.partition_point(|(revision, _)| *revision <= to);
            let change = |at: usize| {
                let (revision, entry) = versions[at].clone();
                let previous = at.checked_sub(1).and_then(|before| versions[before].1.clone());
                match entry {
                    Some(entry) => Watched::Put { entry, previous },
                    None => Watched::Delete { key: key.clone(), revision, previous },
                }
            };
            (begin..end).map(change).collect::<Vec<_>>()
        };
        let mut changes: Vec<Watched> = self.versions.iter().flat_map(of_key).collect();
        changes.sort_by(|a, b| (a.revision(), a.key()).cmp(&(b.revision(), b.key())));
        changes
    }

    /// What a read at a member answers whose last applied entry is at `index`.
    pub(crate) fn read(&self, index: Index, txn: &Txn) -> ReadAnswer {
        let stats = self.stats_at(index);
        let result = Run::new(self, stats, LogEntry { index, stamp_ms: None }).run(txn);
        ReadAnswer { revision: stats.revision, result }
    }

    /// The value of a key after the entry at `index`.
    pub(crate) fn value(&self, index: Index, key: &Bytes) -> Option<Bytes> {
        let held = self.held_at(key, self.stats_at(index).revision);
        held.map(|entry| entry.value.clone())
    }

    fn stats_at(&self, index: Index) -> Stats {
        match index.0 {
            0 => Stats { revision: Revision::EMPTY_STORE, ..Stats::default() },
            _ => self.at(index).stats,
        }
    }

    /// Applies the next entry of the log.
    pub(crate) fn apply(&mut self, entry: &raft::Entry) {
        assert_eq!(entry.index.0, self.entries.len() as u64 + 1, "entries come in order");
        let mut changed = Vec::new();
        let outcome = match &entry.payload {
            Payload::Noop | Payload::Configuration(_) => None,
            Payload::Command(command) => {
                let Stamped { command, stamp_ms } =
                    Command::decode_logged(command).expect("only commands are proposed");
                let entry = LogEntry { index: entry.index, stamp_ms };
                self.pass_time(entry, &command.change, &mut changed);
                let outcome = self.apply_command(entry, &command, &mut changed);
                self.stats.leases = self.leases.by_id.len();
                self.stats.keys_with_ttl = self.leases.own.len();
                self.stats.requests = self.requests.len();
                Some(outcome)
            }
        };
        self.entries.push(Applied { outcome, stats: self.stats, changed });
    }

    /// A stamp raises the time, whatever becomes of its command, and ends leases.
    fn pass_time(&mut self, entry: LogEntry, change: &Change, changed: &mut Vec<Bytes>) {
        let Some(stamp_ms) = entry.stamp_ms else { return };
        self.stats.time_ms = self.stats.time_ms.max(stamp_ms);
        let kept = match change {
            Change::LeaseKeepAlive { ids } => &ids[..],
            _ => &[],
        };
        for due in self.leases.due(self.stats.time_ms, kept) {
            self.ended += 1;
            match due {
                Due::WithId(id) => self.end_lease(id, changed),
                Due::OfKey(key) => {
                    self.leases.own.remove(&key);
                    self.delete(BTreeSet::from([key]), changed);
                }
            }
        }
    }

    fn end_lease(&mut self, id: LeaseId, changed: &mut Vec<Bytes>) {
        self.leases.by_id.remove(&id);
        let held = self.contents(self.stats.revision);
        let doomed = held.into_values().filter(|entry| entry.lease == id).map(|entry| entry.key);
        self.delete(doomed.collect(), changed);
    }

    /// Deletes keys, which is one revision.
    fn delete(&mut self, doomed: BTreeSet<Bytes>, changed: &mut Vec<Bytes>) {
        let mut after = self.contents(self.stats.revision);
        after.retain(|key, _| !doomed.contains(key));
        self.commit(after, &doomed, changed);
    }

    fn grant(&mut self, entry: LogEntry, id: LeaseId, ttl_ms: u64) -> Result<LeaseId, Refusal> {
        if self.leases.by_id.contains_key(&id) {
            return Err(Refusal::of(Reason::LeaseExists, id.0));
        }
        let Limits { bytes_max, leases_max, .. } = self.stats.limits;
        if self.stats.bytes > bytes_max {
            return Err(Refusal::of(Reason::NoSpace, bytes_max));
        }
        if self.leases.by_id.len() as u64 >= leases_max {
            return Err(Refusal::of(Reason::NoSpace, leases_max));
        }
        let id = if id == LeaseId::NONE { self.leases.free_id(entry.index) } else { id };
        self.leases.by_id.insert(id, Lease { ttl_ms, deadline_ms: entry.deadline_ms(ttl_ms) });
        Ok(id)
    }

    fn revoke(&mut self, id: LeaseId, changed: &mut Vec<Bytes>) -> Result<(), Refusal> {
        if !self.leases.by_id.contains_key(&id) {
            return Err(Refusal::of(Reason::NoSuchLease, id.0));
        }
        self.end_lease(id, changed);
        Ok(())
    }

    /// What a lease's time to live is, if there is one.
    fn keep_alive(&mut self, entry: LogEntry, id: LeaseId) -> u64 {
        let Some(lease) = self.leases.by_id.get_mut(&id) else { return 0 };
        lease.deadline_ms = lease.deadline_ms.max(entry.deadline_ms(lease.ttl_ms));
        lease.ttl_ms
    }

    fn apply_command(
        &mut self,
        entry: LogEntry,
        Command { identity, change }: &Command,
        changed: &mut Vec<Bytes>,
    ) -> Outcome {
        let index = entry.index;
        if identity.client_id.is_empty() {
            return self.carry_out(entry, change, changed);
        }
        let Identity { client_id, request_id, .. } = identity;
        let write = (client_id.clone(), *request_id);
        // To keep a lease alive twice is to do so once.
        if let Change::LeaseKeepAlive { .. } = change {
            let outcome = self.carry_out(entry, change, changed);
            self.took_effect.insert(write.clone(), index);
            self.said.entry(write).or_default().push(outcome.clone());
            return outcome;
        }
        let outcome = match self.sessions.decide(index, identity) {
            Decision::New => {
                let earlier = self.took_effect.insert(write.clone(), index);
                assert_eq!(earlier, None, "{write:?} takes effect again at {index}");
                let outcome = self.carry_out(entry, change, changed);
                self.sessions.record(index, identity, outcome.clone());
                outcome
            }
            Decision::Repeat(outcome) => outcome,
            Decision::Older => match change {
                Change::Put { .. } | Change::Append { .. } => Outcome::Applied { index },
                _ => Outcome::Ran { index, result: Err(Refusal::of(Reason::Superseded, 0)) },
            },
            Decision::Expired => Outcome::SessionExpired { index },
        };
        self.stats.sessions = self.sessions.len();
        self.said.entry(write).or_default().push(outcome.clone());
        outcome
    }

    fn carry_out(&mut self, entry: LogEntry, change: &Change, changed: &mut Vec<Bytes>) -> Outcome {
        let index = entry.index;
        let alone = |action: Action| Txn { then: vec![action.into()], ..Txn::default() };
        let result = match change {
            Change::Put { key, value } => {
                let txn = alone(Action::put(key.clone(), value.clone()));
                return written(index, self.run(entry, &txn, changed));
            }
            Change::Append { key, value } => {
                let txn = alone(Action::append(key.clone(), value.clone()));
                return written(index, self.run(entry, &txn, changed));
            }
            Change::Txn(txn) => self.run(entry, txn, changed),
            Change::TxnOnce { key, fingerprint, txn } => {
                match self.requests.find(key, *fingerprint) {
                    Known::Outcome(outcome) => return outcome,
                    Known::Other => Err(Refusal::of(Reason::RequestKeyTaken, 0)),
                    Known::Nothing => {
                        let result = self.run(entry, txn, changed);
                        let is_refused = result.is_err();
                        let outcome = self.ran(index, result);
                        if !is_refused {
                            self.requests.record(key, *fingerprint, outcome.clone());
                        }
                        return outcome;
                    }
                }
            }
            Change::LeaseGrant { ttl_ms, id } => match self.grant(entry, *id, *ttl_ms) {
                Ok(lease) => {
                    let (revision, ttl_ms) = (self.stats.revision, *ttl_ms);
                    return Outcome::Granted { index, revision, lease, ttl_ms };
                }
                Err(refusal) => Err(refusal),
            },
            Change::LeaseRevoke { id } => self.revoke(*id, changed).map(|()| nothing()),
            Change::LeaseKeepAlive { ids } => {
                let ttls_ms = ids.iter().map(|id| self.keep_alive(entry, *id)).collect();
                return Outcome::KeptAlive { index, revision: self.stats.revision, ttls_ms };
            }
            Change::Time => Ok(nothing()),
            Change::Compact { revision } => self.compact(*revision).map(|()| nothing()),
            Change::SetLimits(limits) => self.set_limits(*limits).map(|()| nothing()),
            Change::RaiseLevel(_) => Ok(nothing()),
        };
        self.ran(index, result)
    }

    fn ran(&self, index: Index, result: Result<Ran, Refusal>) -> Outcome {
        let revision = self.stats.revision;
        let result = result.map(|(branches, answer)| Done { revision, branches, answer });
        Outcome::Ran { index, result }
    }

    fn run(
        &mut self,
        entry: LogEntry,
        txn: &Txn,
        changed: &mut Vec<Bytes>,
    ) -> Result<Ran, Refusal> {
        let mut run = Run::new(self, self.stats, entry);
        let answer = run.run(txn)?;
        let Run { keys, replaced, branches, leases, .. } = run;
        self.leases = leases;
        self.commit(keys, &replaced, changed);
        Ok((branches, Some(Arc::new(answer))))
    }

    /// The entries are these from now on. If any of them is new, that is a revision.
    fn commit(&mut self, after: Contents, replaced: &BTreeSet<Bytes>, all: &mut Vec<Bytes>) {
        let before = self.contents(self.stats.revision);
        let keys: BTreeSet<&Bytes> = before.keys().chain(after.keys()).collect();
        let is_changed = |key: &&Bytes| before.get(*key) != after.get(*key);
        let changed: Vec<Bytes> = keys.into_iter().filter(is_changed).cloned().collect();
        if changed.is_empty() {
            return;
        }
        all.extend_from_slice(&changed);
        let revision = self.stats.revision.next();
        for key in &changed {
            // The history need not keep what is still the beginning of the value.
            let kept = before.get(key).filter(|_| replaced.contains(key));
            let cost = 64 + key.len() + kept.map_or(0, |entry| entry.value.len());
            self.history.push_back((revision, cost as u64));
            let versions = self.versions.entry(key.clone()).or_default();
            versions.push((revision, after.get(key).cloned()));
        }
        self.stats.revision = revision;
        (self.stats.keys, self.stats.bytes) = (after.len(), bytes_of(&after));
        self.shrink_history();
    }

    fn compact(&mut self, revision: Revision) -> Result<(), Refusal> {
        if revision <= self.stats.compacted {
            return Err(Refusal::of(Reason::Compacted, self.stats.compacted.0));
        }
        if revision > self.stats.revision {
            return Err(Refusal::of(Reason::InTheFuture, self.stats.revision.0));
        }
        self.forget(revision);
        Ok(())
    }

    fn forget(&mut self, up_to: Revision) {
        self.history.retain(|(revision, _)| *revision > up_to);
        self.stats.compacted = up_to;
        self.stats.history_bytes = self.history.iter().map(|(_, cost)| cost).sum();
    }

    /// Whole revisions are forgotten, and the newest one stays.
    fn shrink_history(&mut self) {
        self.stats.history_bytes = self.history.iter().map(|(_, cost)| cost).sum();
        while self.stats.history_bytes > self.stats.limits.history_bytes_max {
            let (oldest, newest) = (self.history.front(), self.history.back());
            match (oldest, newest) {
                (Some(&(oldest, _)), Some(&(newest, _))) if oldest < newest => self.forget(oldest),
                _ => break,
            }
        }
    }

    fn set_limits(&mut self, change: LimitsChange) -> Result<(), Refusal> {
        let LimitsChange { bytes_max, keys_max, history_bytes_max, leases_max } = change;
        if let Some(limit) = history_bytes_max.filter(|limit| *limit > 4 << 30) {
            return Err(Refusal::of(Reason::LimitOutOfBounds, limit));
        }
        let limits = &mut self.stats.limits;
        limits.bytes_max = bytes_max.unwrap_or(limits.bytes_max);
        limits.keys_max = keys_max.unwrap_or(limits.keys_max);
        limits.history_bytes_max = history_bytes_max.unwrap_or(limits.history_bytes_max);
        limits.leases_max = leases_max.unwrap_or(limits.leases_max);
        self.shrink_history();
        Ok(())
    }
}

/// Which entry of the log a command is.
#[derive(Clone, Copy)]
struct LogEntry {
    index: Index,
    stamp_ms: Option<u64>,
}

impl LogEntry {
    /// The deadline of a lease that begins with this entry.
    fn deadline_ms(self, ttl_ms: u64) -> u64 {
        self.stamp_ms.expect("the command is of a stamped kind") + ttl_ms
    }
}

/// What a key held, from which revision on.
type Versions = Vec<(Revision, Option<Entry>)>;

fn version(versions: &Versions, revision: Revision) -> Option<&Entry> {
    let version = versions.iter().rev().find(|(from, _)| *from <= revision);
    version.and_then(|(_, entry)| entry.as_ref())
}

type Ran = (Branches, Option<Arc<TxnAnswer>>);

/// A command without operations ran.
fn nothing() -> Ran {
    (Branches::default(), None)
}

fn written(index: Index, result: Result<Ran, Refusal>) -> Outcome {
    match result {
        Ok(_) => Outcome::Applied { index },
        Err(Refusal { reason: Reason::NoSpace, .. }) => Outcome::NoSpace,
        Err(_) => Outcome::TooLarge,
    }
}

fn bytes_of(contents: &Contents) -> u64 {
    contents.values().map(|entry| (entry.key.len() + entry.value.len()) as u64).sum()
}
