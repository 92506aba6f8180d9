//! Random commands and reads of all kinds. Half of what they compare with, or go back to, is what
//! the store holds: otherwise hardly a comparison would hold.

use std::ops::Range as Span;

use bytes::Bytes;
use syncraft::kv::model::{
    Action, Compare, KeyRange, LeaseId, NewLease, NewValue, Operand, Operation, Range, Relation,
    Revision, RevisionBounds, SortBy, Txn, Want,
};
use syncraft::kv::{Change, LimitsChange, Query};

use crate::reference::Reference;

/// How deep transactions are nested.
const DEPTH_MAX: usize = 3;

/// Keys of requests that clerks choose.
const REQUESTS: u8 = 6;

/// Ids of leases that clerks choose.
const LEASES: u64 = 4;

/// Which commands there are.
#[derive(Clone, Debug)]
pub(crate) struct Kinds {
    /// How many keys are written most.
    pub(crate) keys: usize,
    /// Not only puts, appends and gets.
    pub(crate) are_all: bool,
    pub(crate) has_limits: bool,
    pub(crate) has_compaction: bool,
    pub(crate) has_leases: bool,
    /// Transactions that have keys of requests.
    pub(crate) has_requests: bool,
    /// How long values are, beside what makes them unique.
    pub(crate) value_len: Span<usize>,
}

impl Kinds {
    /// All kinds, on this many keys.
    pub(crate) fn of_keys(keys: usize) -> Kinds {
        let (are_all, has_limits, has_compaction) = (true, true, true);
        let (has_leases, has_requests, value_len) = (true, true, 0..1);
        Kinds { keys, are_all, has_limits, has_compaction, has_leases, has_requests, value_len }
    }

    /// Leaves some kinds out, in some runs.
    pub(crate) fn draw(&mut self, rng: &mut fastrand::Rng) {
        self.are_all = rng.u8(0..8) > 0;
        (self.has_limits, self.has_compaction) = (rng.bool(), rng.bool());
        self.value_len = 0..[1, 1, 30, 300][rng.usize(..4)];
        self.has_leases = rng.u8(0..3) > 0;
    }
}

/// What a clerk does next.
#[derive(Clone)]
pub(crate) enum Drawn {
    Read(Query),
    Write(Change),
}

pub(crate) struct Commands {
    pub(crate) rng: fastrand::Rng,
    kinds: Kinds,
    /// So that each value is written once.
    written: u64,
}

impl Commands {
    pub(crate) fn new(kinds: Kinds, seed: u64) -> Commands {
        Commands { rng: fastrand::Rng::with_seed(seed), kinds, written: 0 }
    }

    pub(crate) fn draw(&mut self, store: &Reference) -> Drawn {
        if self.kinds.are_all && self.kinds.has_leases && self.rng.u8(0..3) == 0 {
            return Drawn::Write(self.of_leases());
        }
        match self.rng.u8(0..20) {
            0..3 => Drawn::Write(Change::Put { key: self.key(), value: self.value() }),
            3..6 => Drawn::Write(Change::Append { key: self.key(), value: self.value() }),
            6..9 => Drawn::Read(Query::Get { key: self.key() }),
            _ if !self.kinds.are_all => Drawn::Read(Query::Get { key: self.key() }),
            9..13 => Drawn::Read(Query::Read(Box::new(self.read(store)))),
            13 if self.kinds.has_compaction => {
                Drawn::Write(Change::Compact { revision: self.revision(store) })
            }
            14 if self.kinds.has_limits => Drawn::Write(Change::SetLimits(self.limits(store))),
            _ => {
                let txn = self.txn(store, 1);
                match txn.is_read() {
                    true => Drawn::Read(Query::Read(Box::new(txn))),
                    false if self.kinds.has_requests && self.rng.bool() => {
                        Drawn::Write(self.once(txn))
                    }
                    false => Drawn::Write(Change::Txn(txn)),
                }
            }
        }
    }

    /// A request with a key that others have used as well, mostly for the same.
    fn once(&mut self, txn: Txn) -> Change {
        let number = self.rng.u8(0..REQUESTS);
        let fingerprint = if self.rng.u8(0..6) == 0 { 1 } else { 0 };
        Change::TxnOnce { key: Bytes::from(format!("request {number}")), fingerprint, txn }
    }

    fn of_leases(&mut self) -> Change {
        match self.rng.u8(0..8) {
            0..3 => {
                let id = if self.rng.bool() { LeaseId::NONE } else { self.lease() };
                Change::LeaseGrant { ttl_ms: self.ttl_ms(), id }
            }
            3..6 => {
                let ids = (0..self.rng.usize(1..4)).map(|_| self.lease()).collect();
                Change::LeaseKeepAlive { ids }
            }
            6 => Change::LeaseRevoke { id: self.lease() },
            _ => {
                let (key, value) = (self.key(), NewValue::Set(self.value()));
                let lease = NewLease::OfItsOwn { ttl_ms: self.ttl_ms() };
                let put = Action::Put { key, value, lease, previous: false };
                Change::Txn(Txn { then: vec![put.into()], ..Txn::default() })
            }
        }
    }

    fn lease(&mut self) -> LeaseId {
        LeaseId(self.rng.u64(1..=LEASES))
    }

    /// Shorter than a run, and often shorter than an election.
    fn ttl_ms(&mut self) -> u64 {
        let longest = [20, 300, 3_000][self.rng.usize(..3)];
        self.rng.u64(1..=longest)
    }

    /// A value that nobody wrote before.
    fn value(&mut self) -> Bytes {
        self.written += 1;
        let mut value = format!("[{}]", self.written).into_bytes();
        let more = self.rng.usize(self.kinds.value_len.clone());
        value.resize(value.len() + more, b'.');
        value.into()
    }

    fn key(&mut self) -> Bytes {
        match self.rng.u8(0..16) {
            0 => Bytes::new(),
            1 => Bytes::from("key"),
            2 => Bytes::from(format!("load {}", self.rng.u8(0..40))),
            3 => self.counter(),
            _ => Bytes::from(format!("key {}", self.rng.usize(..self.kinds.keys))),
        }
    }

    fn counter(&mut self) -> Bytes {
        Bytes::from(format!("counter {}", self.rng.u8(0..2)))
    }

    fn keys(&mut self) -> KeyRange {
        match self.rng.u8(0..10) {
            0 => KeyRange::all(),
            1..3 => KeyRange::prefix("key"),
            3 => KeyRange::prefix("counter "),
            4 => KeyRange::starting_at(self.key()),
            5 => {
                let (one, other) = (self.key(), self.key());
                KeyRange::between(one.clone(), other).unwrap_or_else(|_| KeyRange::key(one))
            }
            _ => KeyRange::key(self.key()),
        }
    }

    /// A revision that is known, or lies a little outside.
    pub(crate) fn revision(&mut self, store: &Reference) -> Revision {
        let (first, last) = (store.stats().compacted.0, store.stats().revision.0);
        match self.rng.u8(0..8) {
            0 => Revision(first.saturating_sub(self.rng.u64(0..3))),
            1 => Revision(last + self.rng.u64(0..3)),
            2..5 => Revision(self.rng.u64(first.max(last.saturating_sub(8))..=last)),
            _ => Revision(self.rng.u64(first..=last)),
        }
    }

    fn txn(&mut self, store: &Reference, depth: usize) -> Txn {
        let compares = [0, 0, 1, 1, 2][self.rng.usize(..5)];
        let compare = (0..compares).map(|_| self.compare(store)).collect();
        let (then, otherwise) = (self.operations(store, depth), self.operations(store, depth));
        Txn { compare, then, otherwise }
    }

    fn operations(&mut self, store: &Reference, depth: usize) -> Vec<Operation> {
        let count = [0, 1, 1, 2, 3, 4][self.rng.usize(..6)];
        let operation =
            |_| Operation { action: self.action(store, depth), may_fail: self.rng.u8(0..4) == 0 };
        (0..count).map(operation).collect()
    }

    fn action(&mut self, store: &Reference, depth: usize) -> Action {
        match self.rng.u8(0..16) {
            0..4 => Action::Put {
                key: self.key(),
                value: match self.rng.u8(0..8) {
                    0 => NewValue::Keep,
                    _ => NewValue::Set(self.value()),
                },
                lease: match self.rng.u8(0..24) {
                    0..3 => NewLease::Set(self.lease()),
                    3 if self.kinds.has_leases => NewLease::OfItsOwn { ttl_ms: self.ttl_ms() },
                    4 => NewLease::Keep,
                    _ => NewLease::Set(LeaseId::NONE),
                },
                previous: self.rng.bool(),
            },
            4..7 => Action::append(self.key(), self.value()),
            7..9 => {
                let key = if self.rng.u8(0..10) == 0 { self.key() } else { self.counter() };
                let by = if self.rng.u8(0..10) == 0 { i64::MAX } else { self.rng.i64(-9..99) };
                Action::increment(key, by)
            }
            9..11 => Action::Delete { keys: self.keys(), previous: self.rng.bool() },
            11 | 12 if depth < DEPTH_MAX => Action::Txn(self.txn(store, depth + 1)),
            _ => Action::Range(self.range(store)),
        }
    }

    /// A transaction of ranges.
    fn read(&mut self, store: &Reference) -> Txn {
        let compares = self.rng.usize(0..2);
        let compare = (0..compares).map(|_| self.compare(store)).collect();
        let mut ranges = |count| -> Vec<Operation> {
            let range = |_| Operation {
                action: Action::Range(self.range(store)),
                may_fail: self.rng.u8(0..4) == 0,
            };
            (0..count).map(range).collect()
        };
        let (then, otherwise) = (ranges(2), ranges(1));
        Txn { compare, then, otherwise }
    }

    fn range(&mut self, store: &Reference) -> Range {
        let sorts = [SortBy::Version, SortBy::CreateRevision, SortBy::ModRevision, SortBy::Value];
        Range {
            keys: self.keys(),
            limit: [0, 0, 1, 2, 5][self.rng.usize(..5)],
            sort_by: if self.rng.bool() { SortBy::Key } else { sorts[self.rng.usize(..4)] },
            descending: self.rng.bool(),
            want: [Want::Entries, Want::Entries, Want::Keys, Want::Count][self.rng.usize(..4)],
            count_all: self.rng.bool(),
            mod_revision: self.bounds(store),
            create_revision: self.bounds(store),
            at: if self.rng.bool() { Revision::NONE } else { self.revision(store) },
        }
    }

    fn bounds(&mut self, store: &Reference) -> RevisionBounds {
        let mut bound = || match self.rng.u8(0..8) {
            0 => self.revision(store),
            _ => Revision::NONE,
        };
        RevisionBounds { min: bound(), max: bound() }
    }

    fn compare(&mut self, store: &Reference) -> Compare {
        let keys = self.keys();
        let relations = [Relation::Equal, Relation::NotEqual, Relation::Less, Relation::Greater];
        let relation = match self.rng.bool() {
            true => Relation::Equal,
            false => relations[self.rng.usize(..4)],
        };
        let held = store.held(keys.begin()).filter(|_| self.rng.bool());
        let number =
            |number: Option<u64>, rng: &mut fastrand::Rng| number.unwrap_or_else(|| rng.u64(0..4));
        let operand = match self.rng.u8(0..8) {
            0..3 => Operand::Value(held.map_or_else(|| self.value(), |entry| entry.value.clone())),
            3 => Operand::Version(number(held.map(|it| it.version), &mut self.rng)),
            4 => Operand::CreateRevision(Revision(number(
                held.map(|it| it.create_revision.0),
                &mut self.rng,
            ))),
            5..7 => Operand::ModRevision(Revision(number(
                held.map(|it| it.mod_revision.0),
                &mut self.rng,
            ))),
            _ => Operand::Lease(LeaseId(self.rng.u64(0..=LEASES))),
        };
        Compare { keys, relation, operand }
    }

    /// Limits that are nearly reached, or exceeded, as often as those that nobody reaches.
    fn limits(&mut self, store: &Reference) -> LimitsChange {
        let stats = store.stats();
        let (bytes, keys) = (stats.bytes, stats.keys as u64);
        let mut change = LimitsChange::default();
        if self.rng.bool() {
            change.history_bytes_max =
                Some([0, 300, 3_000, 64 << 20, u64::MAX][self.rng.usize(..5)]);
        }
        if self.kinds.has_leases && self.rng.bool() {
            change.leases_max = Some([0, 1, 2, 1_000_000][self.rng.usize(..4)]);
        }
        match self.rng.u8(0..4) {
            0 => {
                let near = [bytes.saturating_sub(50), bytes + 10, bytes + 200, bytes + 2_000];
                change.bytes_max = Some(near[self.rng.usize(..4)]);
            }
            1 => change.keys_max = Some((keys + self.rng.u64(0..3)).saturating_sub(1)),
            _ => (change.bytes_max, change.keys_max) = (Some(8 << 30), Some(100_000_000)),
        }
        change
    }
}
