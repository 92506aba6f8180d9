//! When leases end, and what happens to their keys.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use proptest::prelude::*;

use super::leases::ENDED_MAX;
use super::*;
use crate::kv::model::{
    Action, Compare, KeyRange, NewLease, NewValue, Operand, Operation, OperationAnswer, Relation,
};

/// A state, and the index of its last entry.
#[derive(Default)]
struct Log(State, u64);

impl Log {
    fn entry(&mut self, stamp_ms: u64) -> LogEntry {
        self.1 += 1;
        LogEntry { index: Index(self.1), stamp_ms: Some(stamp_ms) }
    }

    /// An entry that carries a time, and nothing else.
    fn pass(&mut self, stamp_ms: u64) {
        self.entry(stamp_ms);
        self.0.pass_time(stamp_ms, &[]);
    }

    fn grant(&mut self, stamp_ms: u64, id: u64, ttl_ms: u64) -> Result<u64, Refusal> {
        let entry = self.entry(stamp_ms);
        self.0.pass_time(stamp_ms, &[]);
        self.0.grant(entry, LeaseId(id), ttl_ms).map(|id| id.0)
    }

    fn keep_alive(&mut self, stamp_ms: u64, ids: &[u64]) -> Vec<u64> {
        let entry = self.entry(stamp_ms);
        let ids: Vec<LeaseId> = ids.iter().copied().map(LeaseId).collect();
        self.0.pass_time(stamp_ms, &ids);
        self.0.keep_alive(entry, &ids)
    }

    fn revoke(&mut self, stamp_ms: u64, id: u64) -> Result<(), Refusal> {
        self.entry(stamp_ms);
        self.0.pass_time(stamp_ms, &[]);
        self.0.revoke(LeaseId(id))
    }

    fn run(&mut self, stamp_ms: u64, operations: Vec<Operation>) -> Result<Ran, Refusal> {
        let txn = Txn { then: operations, ..Txn::default() };
        self.txn(stamp_ms, txn)
    }

    fn txn(&mut self, stamp_ms: u64, txn: Txn) -> Result<Ran, Refusal> {
        let entry = self.entry(stamp_ms);
        if txn.has_ttl() {
            self.0.pass_time(stamp_ms, &[]);
        }
        self.0.run(entry, &txn)
    }

    fn put(&mut self, stamp_ms: u64, key: &str, lease: NewLease) {
        self.run(stamp_ms, vec![put(key, lease)]).unwrap();
    }

    fn keys(&self) -> String {
        let keys: Vec<_> =
            self.0.tree.iter().map(|(key, _)| String::from_utf8_lossy(key).into_owned()).collect();
        keys.join(" ")
    }

    fn ids(&self) -> Vec<u64> {
        self.0.leases.iter().map(|(id, _)| id.0).collect()
    }

    fn info(&self, id: u64) -> (u64, u64, String) {
        let info = self.0.lease(LeaseId(id), true).unwrap();
        let keys: Vec<_> =
            info.keys.iter().map(|key| String::from_utf8_lossy(key).into_owned()).collect();
        (info.ttl_ms, info.left_ms, keys.join(" "))
    }
}

fn put(key: &str, lease: NewLease) -> Operation {
    let (key, value) = (Bytes::copy_from_slice(key.as_bytes()), NewValue::Set("v".into()));
    Action::Put { key, value, lease, previous: false }.into()
}

fn of(id: u64) -> NewLease {
    NewLease::Set(LeaseId(id))
}

fn ttl(ttl_ms: u64) -> NewLease {
    NewLease::OfItsOwn { ttl_ms }
}

fn history(state: &State) -> Vec<(u64, String)> {
    let text =
        |record: Record<'_>| (record.revision.0, String::from_utf8_lossy(record.key).into_owned());
    state.history.records().map(text).collect()
}

#[test]
fn a_lease_ends_when_its_deadline_has_passed_and_takes_its_keys_with_one_revision() {
    let log = &mut Log::default();
    assert_eq!(log.grant(100, 7, 50), Ok(7));
    for key in ["a", "b"] {
        log.put(0, key, of(7));
    }
    log.put(0, "c", of(0));
    assert_eq!(log.0.leases.next_end_ms(), Some(151));
    assert_eq!(log.info(7), (50, 50, "a b".to_owned()));
    log.pass(150);
    assert_eq!((log.keys(), log.0.revision.0), ("a b c".to_owned(), 4));
    assert_eq!(log.info(7).1, 0);
    log.pass(151);
    assert_eq!((log.keys(), log.0.revision.0), ("c".to_owned(), 5));
    assert!(log.ids().is_empty());
    assert_eq!(history(&log.0)[3..], [(5, "a".to_owned()), (5, "b".to_owned())]);
    assert_eq!(log.0.leases.next_end_ms(), None);
    // A lease without keys changes nothing.
    log.grant(200, 8, 1).unwrap();
    log.pass(300);
    assert_eq!((log.ids(), log.0.revision.0), (vec![], 5));
}

#[test]
fn an_entry_spares_the_leases_that_it_keeps_alive() {
    let log = &mut Log::default();
    log.grant(0, 1, 10).unwrap();
    log.grant(0, 2, 10).unwrap();
    assert_eq!(log.keep_alive(1_000, &[2, 3, 2]), [10, 0, 10]);
    assert_eq!((log.ids(), log.info(2).1), (vec![2], 10));
    assert_eq!(log.keep_alive(1_010, &[2]), [10]);
    log.pass(1_020);
    assert_eq!(log.ids(), [2]);
    log.pass(1_021);
    assert_eq!(log.keep_alive(1_021, &[2]), [0]);
}

#[test]
fn time_and_deadlines_never_fall() {
    let log = &mut Log::default();
    log.grant(100, 1, 50).unwrap();
    // No leader makes such a stamp.
    log.pass(10);
    assert_eq!(log.0.leases.time_ms(), 100);
    assert_eq!(log.keep_alive(20, &[1]), [50]);
    log.pass(150);
    assert_eq!(log.ids(), [1]);
    log.grant(u64::MAX, 2, 50).unwrap();
    assert_eq!(log.ids(), [2]);
    log.pass(u64::MAX);
    assert_eq!(log.ids(), [2]);
}

#[test]
fn ids_are_chosen_by_the_client_or_are_the_first_free_ones() {
    let log = &mut Log::default();
    assert_eq!(log.grant(0, LeaseId::MAX.0, 10), Ok(LeaseId::MAX.0));
    let refused = log.grant(0, LeaseId::MAX.0, 10).unwrap_err();
    assert_eq!(refused, Refusal::of(Reason::LeaseExists, LeaseId::MAX.0));
    assert_eq!(log.grant(0, 4, 10), Ok(4));
    assert_eq!(log.grant(0, 5, 10), Ok(5));
    // This is entry 5.
    assert_eq!(log.grant(0, 0, 10), Ok(6));
    log.revoke(0, 4).unwrap();
    assert_eq!(log.revoke(0, 4), Err(Refusal::of(Reason::NoSuchLease, 4)));
    // A lease whose deadline has passed is gone before the same entry grants its id again.
    assert_eq!(log.grant(11, 5, 20), Ok(5));
    assert_eq!(log.ids(), [5]);
}

#[test]
fn leases_have_a_limit_that_stops_only_grants() {
    let log = &mut Log::default();
    log.0.set_limits(LimitsChange { leases_max: Some(1), ..Default::default() }).unwrap();
    log.grant(0, 1, 10).unwrap();
    assert_eq!(log.grant(0, 2, 10), Err(Refusal::of(Reason::NoSpace, 1)));
    log.revoke(0, 1).unwrap();
    log.grant(0, 2, 10).unwrap();
}

#[test]
fn without_space_leases_live_and_end_as_usual() {
    let log = &mut Log::default();
    log.grant(0, 1, 10).unwrap();
    log.put(0, "own", ttl(5));
    log.put(0, "stays", of(0));
    log.0.set_limits(LimitsChange { bytes_max: Some(0), ..Default::default() }).unwrap();
    let refused = log.run(1, vec![put("more", of(1))]).unwrap_err();
    assert_eq!((refused.reason, refused.value), (Reason::NoSpace, 0));
    assert_eq!(log.grant(1, 2, 10), Err(Refusal::of(Reason::NoSpace, 0)));
    assert_eq!(log.keep_alive(2, &[1]), [10]);
    log.pass(6);
    assert_eq!(log.keys(), "stays");
    log.revoke(6, 1).unwrap();
    // At the limit there may be more leases, and beyond it there may not.
    let at_limit = LimitsChange { bytes_max: Some("staysv".len() as u64), ..Default::default() };
    log.0.set_limits(at_limit).unwrap();
    log.grant(6, 2, 10).unwrap();
    assert_eq!(log.keys(), "stays");
}

#[test]
fn a_key_belongs_to_the_lease_of_its_last_put() {
    let log = &mut Log::default();
    log.grant(0, 1, 1_000).unwrap();
    log.grant(0, 2, 1_000).unwrap();
    log.put(0, "n", of(1));
    // An append, an increment and a put that keeps the lease do not change it.
    log.run(0, vec![put("m", of(1)), Action::append("m", "1").into()]).unwrap();
    let number = Action::Put {
        key: "n".into(),
        value: NewValue::Set("1".into()),
        lease: NewLease::Keep,
        previous: false,
    };
    log.run(0, vec![number.into(), Action::increment("n", 1).into()]).unwrap();
    assert_eq!(log.info(1).2, "m n");
    log.put(0, "n", of(2));
    assert_eq!((log.info(1).2, log.info(2).2), ("m".to_owned(), "n".to_owned()));
    log.put(0, "n", of(0));
    log.run(0, vec![Action::delete(KeyRange::key("m")).into()]).unwrap();
    assert_eq!((log.info(1).2, log.info(2).2), (String::new(), String::new()));
    // A put of the first kind takes the lease away, too.
    log.put(0, "n", of(2));
    log.0.put(b"n", b"v").unwrap();
    log.revoke(0, 2).unwrap();
    assert_eq!(log.keys(), "n");
    let refused = log.run(0, vec![put("x", of(9))]).unwrap_err();
    assert_eq!(refused, Refusal::of(Reason::NoSuchLease, 9));
}

#[test]
fn revoking_a_lease_deletes_its_keys_with_one_revision() {
    let log = &mut Log::default();
    log.grant(0, 1, 1_000).unwrap();
    ["a", "b", "c"].iter().for_each(|key| log.put(0, key, of(1)));
    log.run(0, vec![Action::delete(KeyRange::key("b")).into()]).unwrap();
    log.put(0, "other", of(0));
    let before = log.0.revision;
    log.revoke(5, 1).unwrap();
    assert_eq!((log.keys(), log.0.revision), ("other".to_owned(), before.next()));
    assert_eq!(log.0.leases.next_end_ms(), None);
}

#[test]
fn a_key_may_have_a_lease_of_its_own_until_its_next_put() {
    let log = &mut Log::default();
    ["a", "b", "c", "d", "e"].iter().for_each(|key| log.put(100, key, ttl(10)));
    let lease = log.0.tree.get(b"a").unwrap().lease;
    assert_eq!((lease, log.ids(), log.0.leases.own_len()), (LeaseId::NONE, vec![], 5));
    log.put(100, "a", of(0));
    log.0.put(b"b", b"v").unwrap();
    log.put(105, "c", ttl(10));
    log.0.append(b"d", b"more").unwrap();
    log.run(105, vec![Action::delete(KeyRange::key("e")).into()]).unwrap();
    log.0.put(b"e", b"again").unwrap();
    assert_eq!(log.0.leases.own_len(), 2);
    log.pass(111);
    assert_eq!(log.keys(), "a b c e");
    log.pass(116);
    assert_eq!(log.keys(), "a b e");
    assert_eq!((log.0.leases.own_len(), log.0.leases.next_end_ms()), (0, None));
}

#[test]
fn leases_end_in_the_order_of_deadline_id_index_and_operation() {
    let log = &mut Log::default();
    log.run(0, vec![put("own 2", ttl(20)), put("own 1", ttl(20))]).unwrap();
    log.put(0, "own 0", ttl(20));
    log.put(5, "early", ttl(10));
    for id in [9, 3] {
        log.grant(10, id, 10).unwrap();
        log.put(0, &format!("of {id}"), of(id));
    }
    log.put(5, "late", ttl(16));
    let before = log.0.history.len();
    log.pass(50);
    let ended: Vec<String> = history(&log.0).drain(before..).map(|(_, key)| key).collect();
    assert_eq!(ended, ["early", "of 3", "of 9", "own 2", "own 1", "own 0", "late"]);
    let revisions: BTreeSet<u64> = history(&log.0)[before..].iter().map(|it| it.0).collect();
    assert_eq!(revisions.len(), 7, "one revision for each");
}

#[test]
fn at_most_a_thousand_leases_end_at_one_entry() {
    let log = &mut Log::default();
    for id in 1..=1_500 {
        log.grant(0, id, 10).unwrap();
    }
    let keeps: Vec<u64> = (1..=100).collect();
    // Those that are kept alive do not count.
    log.keep_alive(20, &keeps);
    assert_eq!(log.ids().len(), 1_500 - ENDED_MAX);
    assert_eq!(log.0.leases.next_end_ms(), Some(11));
    log.pass(20);
    assert_eq!(log.ids(), keeps);
}

#[test]
fn no_lease_ends_after_a_hundred_thousand_deleted_keys() {
    let log = &mut Log::default();
    for id in 1..=3 {
        log.grant(0, id, 10).unwrap();
    }
    for (id, keys) in [(1, DELETED_MAX - 1), (2, 1), (3, 1)] {
        let put = |n: u64| put(&format!("{id} {n}"), of(id));
        for begin in (0..keys).step_by(10_000) {
            log.run(0, (begin..keys.min(begin + 10_000)).map(put).collect()).unwrap();
        }
    }
    log.pass(20);
    assert_eq!(log.ids(), [3]);
    log.pass(20);
    assert_eq!((log.ids(), log.keys()), (vec![], String::new()));
}

#[test]
fn a_transaction_that_fails_leaves_leases_as_they_were() {
    let log = &mut Log::default();
    log.grant(0, 1, 1_000).unwrap();
    log.put(0, "kept", of(1));
    log.put(0, "own", ttl(1_000));
    let operations = || {
        vec![
            put("kept", ttl(5)),
            put("own", of(1)),
            put("new", of(1)),
            Action::delete(KeyRange::all()).into(),
        ]
    };
    let fails = || Operation::from(Action::increment("text", 1));
    log.0.put(b"text", b"t").unwrap();
    let before = (log.info(1).2, log.0.leases.own_len());
    let put_back = vec![Action::put("text", "t").into(), fails()];
    log.run(0, [operations(), put_back].concat()).unwrap_err();
    assert_eq!((log.info(1).2, log.0.leases.own_len()), before);
    // A part that may fail leaves them as they were before that part.
    let nested = Txn { then: [operations(), vec![put("x", of(99))]].concat(), ..Txn::default() };
    let nested = Operation { action: Action::Txn(nested), may_fail: true };
    let ran = log.run(0, vec![put("first", of(1)), nested]).unwrap();
    assert_eq!(ran.answer.answers[1], OperationAnswer::Failed(Reason::NoSuchLease));
    assert_eq!((log.info(1).2, log.0.leases.own_len()), ("first kept".to_owned(), 1));
}

#[test]
fn a_lease_can_be_compared() {
    let log = &mut Log::default();
    log.grant(0, 1, 1_000).unwrap();
    log.put(0, "k", of(1));
    log.put(0, "own", ttl(1_000));
    for (key, lease, expected) in [("k", 1, true), ("k", 0, false), ("own", 0, true)] {
        let (keys, relation) = (KeyRange::key(key), Relation::Equal);
        let operand = Operand::Lease(LeaseId(lease));
        let compare = vec![Compare { keys, relation, operand }];
        let held = log.txn(0, Txn { compare, ..Txn::default() }).unwrap().answer.held;
        assert_eq!(held, expected, "{key} {lease}");
    }
}

#[test]
fn a_page_of_leases_begins_behind_an_id() {
    let log = &mut Log::default();
    for id in [3, 1, 2, LeaseId::MAX.0] {
        log.grant(0, id, 1_000).unwrap();
    }
    let page = |after, limit| {
        let (page, more) = log.0.leases_after(LeaseId(after), limit);
        (page.iter().map(|it| it.id.0).collect::<Vec<_>>(), more)
    };
    assert_eq!(page(0, 2), (vec![1, 2], true));
    assert_eq!(page(2, 2), (vec![3, LeaseId::MAX.0], false));
    assert_eq!(page(u64::MAX, 2), (vec![], false));
}

/// The rules again, as plainly as possible.
#[derive(Default)]
struct Model {
    time: u64,
    index: u64,
    leases: BTreeMap<u64, (u64, u64)>,
    /// Each key with the lease that it depends on.
    keys: BTreeMap<u8, Option<Depends>>,
    revision: u64,
}

/// On the lease of an id, or on one of the key's own: its deadline, index and operation.
type Depends = Result<u64, (u64, u64, u32)>;

#[derive(Clone, Debug)]
enum Step {
    Grant(u64, u64),
    Revoke(u64),
    KeepAlive(Vec<u64>),
    Time,
    /// Each with the lease that it sets; `None`: delete.
    Txn(Vec<(u8, Option<NewLease>)>),
}

impl Model {
    fn pass(&mut self, stamp: u64, kept: &[u64]) {
        self.time = self.time.max(stamp);
        let mut due: Vec<(u64, bool, u64, u64, u32, Option<u8>)> = Vec::new();
        for (id, (_, deadline)) in &self.leases {
            if *deadline < self.time && !kept.contains(id) {
                due.push((*deadline, false, *id, 0, 0, None));
            }
        }
        for (key, lease) in &self.keys {
            if let Some(Err((deadline, index, operation))) = lease
                && *deadline < self.time
            {
                due.push((*deadline, true, 0, *index, *operation, Some(*key)));
            }
        }
        due.sort();
        for (.., id, _, _, key) in due {
            match key {
                Some(key) => {
                    self.keys.remove(&key);
                    self.revision += 1;
                }
                None => self.end(id),
            }
        }
    }

    fn end(&mut self, id: u64) {
        self.leases.remove(&id);
        let before = self.keys.len();
        self.keys.retain(|_, lease| *lease != Some(Ok(id)));
        self.revision += u64::from(self.keys.len() != before);
    }

    fn step(&mut self, stamp: u64, step: &Step) {
        self.index += 1;
        match step {
            Step::Grant(id, ttl) => {
                self.pass(stamp, &[]);
                let mut free = self.index;
                while self.leases.contains_key(&free) {
                    free += 1;
                }
                let id = if *id == 0 { free } else { *id };
                self.leases.entry(id).or_insert((*ttl, stamp + ttl));
            }
            Step::Revoke(id) => {
                self.pass(stamp, &[]);
                if self.leases.contains_key(id) {
                    self.end(*id);
                }
            }
            Step::KeepAlive(ids) => {
                self.pass(stamp, ids);
                for id in ids {
                    if let Some((ttl, deadline)) = self.leases.get_mut(id) {
                        *deadline = (*deadline).max(stamp + *ttl);
                    }
                }
            }
            Step::Time => self.pass(stamp, &[]),
            Step::Txn(operations) => {
                if operations.iter().any(|it| matches!(it.1, Some(NewLease::OfItsOwn { .. }))) {
                    self.pass(stamp, &[]);
                }
                self.txn(stamp, operations);
            }
        }
    }

    fn txn(&mut self, stamp: u64, operations: &[(u8, Option<NewLease>)]) {
        let mut keys = self.keys.clone();
        let mut has_changed = false;
        for (operation, (key, lease)) in (0..).zip(operations) {
            let lease = match lease {
                None => {
                    has_changed |= self.keys.contains_key(key);
                    keys.remove(key);
                    continue;
                }
                Some(NewLease::Set(LeaseId::NONE)) => None,
                Some(NewLease::Set(id)) if !self.leases.contains_key(&id.0) => return,
                Some(NewLease::Set(id)) => Some(Ok(id.0)),
                Some(NewLease::OfItsOwn { ttl_ms }) => {
                    Some(Err((stamp + ttl_ms, self.index, operation)))
                }
                Some(NewLease::Keep) => match keys.get(key) {
                    Some(lease) => *lease,
                    None => return,
                },
            };
            keys.insert(*key, lease);
        }
        has_changed |= keys
            .keys()
            .any(|key| operations.iter().any(|(touched, lease)| touched == key && lease.is_some()));
        self.keys = keys;
        self.revision += u64::from(has_changed);
    }
}

fn any_step() -> impl Strategy<Value = Step> {
    let lease = prop_oneof![
        2 => (0..5u64).prop_map(of),
        2 => (1..40u64).prop_map(ttl),
        1 => Just(NewLease::Keep),
    ];
    let operation = (0..6u8, prop::option::weighted(0.8, lease));
    prop_oneof![
        3 => (0..5u64, 1..60u64).prop_map(|(id, ttl)| Step::Grant(id, ttl)),
        1 => (1..5u64).prop_map(Step::Revoke),
        2 => prop::collection::vec(1..5u64, 0..4).prop_map(Step::KeepAlive),
        1 => Just(Step::Time),
        6 => prop::collection::vec(operation, 1..4).prop_map(Step::Txn),
    ]
}

proptest! {
    #[test]
    fn leases_do_what_a_simple_model_does(
        steps in prop::collection::vec((any_step(), 0..20u64), 0..120),
    ) {
        let (log, model) = (&mut Log::default(), &mut Model::default());
        let mut stamp = 0;
        for (step, passed) in steps {
            stamp += passed;
            model.step(stamp, &step);
            match &step {
                Step::Grant(id, ttl) => {
                    let _ = log.grant(stamp, *id, *ttl);
                }
                Step::Revoke(id) => {
                    let _ = log.revoke(stamp, *id);
                }
                Step::KeepAlive(ids) => drop(log.keep_alive(stamp, ids)),
                Step::Time => log.pass(stamp),
                Step::Txn(operations) => {
                    let operation = |(key, lease): &(u8, Option<NewLease>)| {
                        let key = char::from(b'a' + key).to_string();
                        match lease {
                            Some(lease) => put(&key, *lease),
                            None => Action::delete(KeyRange::key(key)).into(),
                        }
                    };
                    drop(log.run(stamp, operations.iter().map(operation).collect()));
                }
            }
            let leases: Vec<(u64, u64)> =
                log.0.leases.iter().map(|(id, lease)| (id.0, lease.deadline_ms)).collect();
            let expected: Vec<(u64, u64)> =
                model.leases.iter().map(|(id, (_, deadline))| (*id, *deadline)).collect();
            prop_assert_eq!(leases, expected);
            let keys: Vec<u8> = log.0.tree.iter().map(|(key, _)| key[0] - b'a').collect();
            prop_assert_eq!(keys, model.keys.keys().copied().collect::<Vec<_>>());
            prop_assert_eq!(log.0.revision.0, 1 + model.revision, "{:?}", step);
            let of_ids: BTreeSet<(u64, u8)> = log.0.leases.iter().flat_map(|(id, lease)| {
                lease.keys.iter().map(move |key| (id.0, key[0] - b'a'))
            }).collect();
            let expected: BTreeSet<(u64, u8)> = model.keys.iter().filter_map(|(key, lease)| {
                Some((lease.as_ref()?.as_ref().ok().copied()?, *key))
            }).collect();
            prop_assert_eq!(of_ids, expected);
            let own: Vec<(u8, (u64, u64, u32))> = log.0.leases.iter_own().map(|(key, own)| {
                (key[0] - b'a', (own.deadline_ms, own.index.0, own.operation))
            }).collect();
            let expected: Vec<(u8, (u64, u64, u32))> = model.keys.iter().filter_map(|(key, lease)| {
                Some((*key, lease.as_ref()?.err()?))
            }).collect();
            prop_assert_eq!(own, expected);
            let deadlines = model.leases.values().map(|(_, deadline)| *deadline);
            let own = model.keys.values().flatten().filter_map(|it| Some(it.err()?.0));
            let next = deadlines.chain(own).min().map(|deadline| deadline + 1);
            prop_assert_eq!(log.0.leases.next_end_ms(), next);
        }
    }
}
