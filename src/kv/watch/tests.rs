//! What watches tell, compared with the changes that the commands made, one after the other.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use proptest::prelude::*;

use super::cursor::{CHANGE_LEN_MAX, Cursor, TooLong};
use super::far::Far;
use super::interests::Interests;
use super::signal::Signal;
use super::sink::{NoRoom, WatchNews, WatchSink, WatchesEnd};
use super::turn::Turn;
use super::watch::{Served, Watch};
use crate::kv::Store;
use crate::kv::command::{Change as Written, Command};
use crate::kv::model::{Action, Change, Entry, KeyRange, Operation, Revision, Txn, WatchRange};
use crate::kv::state::{LogEntry, State, Timeline};
use crate::node::{Observer, StateMachine};
use crate::raft::Index;

const KEYS: [&str; 5] = ["a", "a/b", "a/c", "b", "c"];

#[derive(Clone, Debug)]
enum Step {
    Put(usize, Bytes),
    Append(usize, Bytes),
    Txn(Vec<(usize, Option<Bytes>)>),
    DeleteAll,
    /// Of what can be compacted, so many tenths.
    Compact(u64),
}

fn value() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        3 => prop::collection::vec(any::<u8>(), 0..4),
        1 => (0..3usize).prop_map(|n| vec![n as u8; 25_000]),
    ]
    .prop_map(Bytes::from)
}

fn step() -> impl Strategy<Value = Step> {
    let key = || 0..KEYS.len();
    let part = (key(), prop::option::weighted(0.7, value()));
    prop_oneof![
        4 => (key(), value()).prop_map(|(key, value)| Step::Put(key, value)),
        4 => (key(), value()).prop_map(|(key, value)| Step::Append(key, value)),
        3 => prop::collection::vec(part, 0..6).prop_map(Step::Txn),
        1 => Just(Step::DeleteAll),
        1 => (0..=10u64).prop_map(Step::Compact),
    ]
}

fn txn(operations: impl IntoIterator<Item = Action>) -> Txn {
    Txn { then: operations.into_iter().map(Operation::from).collect(), ..Txn::default() }
}

impl Step {
    fn run(&self, state: &mut State) {
        match self {
            Step::Put(key, value) => state.put(KEYS[*key].as_bytes(), value).unwrap(),
            Step::Append(key, value) => state.append(KEYS[*key].as_bytes(), value).unwrap(),
            Step::Txn(parts) => {
                let action = |(key, value): &(usize, Option<Bytes>)| match value {
                    Some(value) => Action::put(KEYS[*key], value.clone()),
                    None => Action::delete(KeyRange::key(KEYS[*key])),
                };
                state.run(LogEntry::default(), &txn(parts.iter().map(action))).unwrap();
            }
            Step::DeleteAll => drop(
                state.run(LogEntry::default(), &txn([Action::delete(KeyRange::all())])).unwrap(),
            ),
            Step::Compact(tenths) => {
                let (begin, end) = (state.history.compacted().0, state.revision.0);
                // To compact what is compacted already is refused.
                let _ = state.compact(Revision(begin + (end - begin) * tenths / 10));
            }
        }
    }
}

fn contents(state: &State) -> BTreeMap<Bytes, Entry> {
    state.tree.iter().map(|(key, stored)| (Bytes::from(key), stored.entry(key))).collect()
}

/// What a step has changed, in the order of the keys.
fn difference(before: &State, after: &State) -> Vec<Change> {
    let (before, after) = (contents(before), contents(after));
    let keys: std::collections::BTreeSet<&Bytes> = before.keys().chain(after.keys()).collect();
    let revision = |state: &BTreeMap<Bytes, Entry>| state.values().map(|it| it.mod_revision).max();
    let changed = keys.into_iter().filter(|key| before.get(*key) != after.get(*key));
    let change = |key: &Bytes| {
        let previous = before.get(key).cloned();
        match after.get(key) {
            Some(entry) => Change::Put { entry: entry.clone(), previous },
            // The caller knows the revision.
            None => Change::Delete {
                key: key.clone(),
                revision: revision(&after).unwrap_or_default(),
                previous,
            },
        }
    };
    changed.map(change).collect()
}

fn with_revision(change: Change, at: Revision) -> Change {
    match change {
        Change::Delete { key, previous, .. } => Change::Delete { key, revision: at, previous },
        put => put,
    }
}

fn is_wanted(range: &WatchRange, change: &Change) -> bool {
    let is_put = matches!(change, Change::Put { .. });
    range.keys.contains(change.key()) && if is_put { range.puts } else { range.deletes }
}

fn as_told(range: &WatchRange, change: &Change) -> Change {
    let mut change = change.clone();
    if !range.previous {
        let (Change::Put { previous, .. } | Change::Delete { previous, .. }) = &mut change;
        *previous = None;
    }
    change
}

fn keys() -> impl Strategy<Value = KeyRange> {
    prop_oneof![
        (0..KEYS.len()).prop_map(|key| KeyRange::key(KEYS[key])),
        Just(KeyRange::all()),
        Just(KeyRange::prefix("a")),
        Just(KeyRange::between("a/", "b\0").unwrap()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// A watch that looks at the state now and then is told every change that it asks for, once, in
    /// order, and knows how far it is. If it cannot be, it is because the history is forgotten.
    #[test]
    fn a_cursor_finds_what_the_commands_have_changed(
        steps in prop::collection::vec((step(), prop::bool::weighted(0.2)), 1..60),
        keys in keys(),
        from in 2..30u64,
        (puts, deletes, previous) in any::<(bool, bool, bool)>(),
    ) {
        let range = WatchRange { keys, from: Revision(from), puts, deletes, previous };
        let (mut state, mut all) = (State::default(), Vec::new());
        let (mut cursor, mut told) = (Cursor::at(range.from), Vec::new());
        let count = steps.len();
        for (n, (step, looks)) in steps.into_iter().enumerate() {
            let before = state.clone();
            step.run(&mut state);
            let at = state.revision;
            all.extend(difference(&before, &state).into_iter().map(|it| with_revision(it, at)));
            if !(looks || n + 1 == count) || cursor.next > state.revision {
                continue;
            }
            if cursor.next <= state.history.compacted() {
                // The watch ends, and what it was told so far is right.
                break;
            }
            let timeline = Timeline::new(&state, cursor.next);
            while cursor.next <= state.revision {
                let piece = cursor.read(&range, &timeline).unwrap();
                prop_assert!(piece.end != cursor, "each piece comes further");
                told.extend_from_slice(&piece.changes);
                cursor = piece.end;
                let complete = all.iter().filter(|it| {
                    let told = range.from..=cursor.complete_to();
                    told.contains(&it.revision()) && is_wanted(&range, it)
                });
                let complete: Vec<_> = complete.map(|it| as_told(&range, it)).collect();
                prop_assert!(told.len() >= complete.len());
                prop_assert_eq!(&told[..complete.len()], &complete[..]);
                let is_part = |it: &Change| it.revision() == cursor.next;
                prop_assert!(told[complete.len()..].iter().all(is_part));
            }
        }
    }
}

#[test]
fn a_thousand_appends_are_told_without_going_over_all_of_them_each_time() {
    let mut state = State::default();
    for _ in 0..50_000 {
        state.append(b"k", b"").unwrap();
    }
    let range = WatchRange::of(KeyRange::key("k"));
    let timeline = Timeline::new(&state, Revision(2));
    let (mut cursor, mut count) = (Cursor::at(Revision(2)), 0);
    let began = std::time::Instant::now();
    while cursor.next <= state.revision {
        let piece = cursor.read(&range, &timeline).unwrap();
        count += piece.changes.len();
        cursor = piece.end;
    }
    assert_eq!(count, 50_000);
    // Going over the later ones each time would take minutes.
    assert!(began.elapsed().as_secs() < 20, "{:?}", began.elapsed());
}

#[test]
fn a_revision_of_any_size_comes_in_pieces_that_end_with_it() {
    let mut state = State::default();
    let keys: Vec<String> = (0..30_000).map(|n| format!("row/{n:05}")).collect();
    let puts = keys.iter().map(|key| Action::put(key.clone(), "v"));
    state.run(LogEntry::default(), &txn(puts)).unwrap();
    state.put(b"other", b"v").unwrap();
    let deletes = state.run(LogEntry::default(), &txn([Action::delete(KeyRange::prefix("row/"))]));
    deletes.unwrap();
    let timeline = Timeline::new(&state, Revision(2));
    // One that wants nothing of it comes to its end, too.
    for (range, expected) in [("row/", 60_000), ("other", 1), ("nothing", 0)] {
        let range = WatchRange::of(KeyRange::prefix(range));
        let (mut cursor, mut told) = (Cursor::at(Revision(2)), Vec::new());
        while cursor.next <= state.revision {
            let piece = cursor.read(&range, &timeline).unwrap();
            assert!(piece.changes.iter().map(Change::len_bytes).sum::<u64>() <= 64 << 10);
            assert_ne!(piece.end, cursor);
            told.extend(piece.changes.iter().map(|it| (it.revision(), it.key().clone())));
            let last = told.last().map_or(Revision(0), |last| last.0);
            if piece.end.complete_to() < last {
                assert_eq!(piece.end.complete_to().next(), last);
            }
            cursor = piece.end;
        }
        assert_eq!(told.len(), expected);
        assert!(
            told.is_sorted()
                && told.iter().collect::<std::collections::BTreeSet<_>>().len() == expected
        );
    }
}

#[test]
fn a_change_is_too_long_only_together_with_the_entry_before() {
    let mut state = State::default();
    let value = vec![b'v'; crate::kv::VALUE_LEN_MAX];
    let key = vec![b'k'; crate::kv::KEY_LEN_MAX];
    state.put(&key, &value).unwrap();
    state.put(&key, &value).unwrap();
    let timeline = Timeline::new(&state, Revision(2));
    let range = WatchRange::of(KeyRange::key(key));
    let mut cursor = Cursor::at(Revision(2));
    for revision in [3, 4] {
        let piece = cursor.read(&range, &timeline).unwrap();
        assert_eq!((piece.changes.len(), piece.end.next.0), (1, revision));
        assert!(piece.changes[0].len_bytes() <= CHANGE_LEN_MAX);
        cursor = piece.end;
    }
    let range = WatchRange { previous: true, ..range };
    assert_eq!(Cursor::at(Revision(3)).read(&range, &timeline).unwrap_err(), TooLong);
}

/// A store, its observer, and the index of its last entry.
struct Watched(Store, Interests, u64);

impl Watched {
    fn new() -> Watched {
        let watched = Watched(Store::new(), Interests::new(Arc::new(Signal::default())), 1);
        watched.1.replaced(&watched.0);
        watched
    }

    fn apply(&mut self, change: Written) {
        self.2 += 1;
        self.0.apply(Index(self.2), &Command::unrepeated(change).encode());
        self.1.applied(&self.0);
    }

    fn put(&mut self, key: &'static str) {
        self.apply(Written::Put { key: key.into(), value: "v".into() });
    }

    fn check(&self, expected: &[(u64, u64)], noted: u64) {
        let marks = self.1.take();
        let mut spots: Vec<_> = marks.spots.iter().map(|(spot, at)| (*spot, at.0)).collect();
        spots.sort_unstable();
        assert_eq!((&spots[..], marks.noted.0), (expected, noted));
    }
}

#[test]
fn the_first_change_of_watched_keys_is_marked_and_no_other() {
    let mut watched = Watched::new();
    watched.put("a");
    watched.1.add(1, &KeyRange::key("a"));
    watched.1.add(2, &KeyRange::prefix("a"));
    watched.1.add(3, &KeyRange::key("z"));
    watched.put("b");
    watched.check(&[], 3);
    watched.put("a/1");
    watched.put("a");
    watched.put("a/2");
    watched.check(&[(1, 5), (2, 4)], 6);
    watched.check(&[], 6);
    watched.1.remove(2, &KeyRange::prefix("a"));
    let both = txn([Action::put("a", "w"), Action::put("z", "w")]);
    watched.apply(Written::Txn(both));
    watched.check(&[(1, 7), (3, 7)], 7);
}

/// Of 40,000 watches, half are of ranges.
#[test]
fn a_change_that_nobody_watches_costs_few_steps_however_many_watches_there_are() {
    let mut watched = Watched::new();
    for spot in 0..20_000 {
        watched.1.add(2 * spot, &KeyRange::key(format!("key/{spot}")));
        watched.1.add(2 * spot + 1, &KeyRange::prefix(format!("range/{spot}/")));
    }
    let began = std::time::Instant::now();
    for _ in 0..100_000 {
        watched.put("range/7");
    }
    watched.check(&[], 100_001);
    // To look at each range would take half a minute at least. This takes a fraction of a second.
    assert!(began.elapsed().as_secs() < 20, "{:?}", began.elapsed());
}

#[test]
fn another_state_concerns_all_watches_from_what_was_noted_on() {
    let mut watched = Watched::new();
    watched.1.add(1, &KeyRange::key("a"));
    watched.1.add(2, &KeyRange::prefix("b"));
    watched.put("x");
    let mut newer = Store::new();
    for index in 2..8 {
        let put = Written::Put { key: "x".into(), value: "v".into() };
        newer.apply(Index(index), &Command::unrepeated(put).encode());
    }
    watched.0 = newer;
    watched.1.replaced(&watched.0);
    watched.check(&[(1, 3), (2, 3)], 7);
    watched.2 = 8;
    watched.put("a");
    watched.check(&[(1, 8)], 8);
}

/// Notes how many changes each message has.
#[derive(Default)]
struct Counts(Mutex<Vec<usize>>);

impl WatchSink for Counts {
    fn take(&self, _: u64, news: &WatchNews<'_>) -> Result<ControlFlow<()>, NoRoom> {
        if let WatchNews::Changes { changes, .. } = news {
            self.0.lock().push(changes.len());
        }
        Ok(ControlFlow::Continue(()))
    }

    fn when_ready(&self, callback: Box<dyn FnOnce() + Send>) {
        callback();
    }

    fn end(&self, _: WatchesEnd) {}
}

/// Whoever asks how far a watch is gets an answer also if its keys change all the time.
#[test]
fn progress_is_told_between_changes_that_do_not_end() {
    let (mut state, sink) = (State::default(), Counts::default());
    let range = WatchRange::of(KeyRange::key("k"));
    let mut watch = Watch::new(0, 0, range, 0);
    watch.made(state.revision);
    watch.ask_progress();
    for _ in 0..3 {
        state.put(b"k", b"v").unwrap();
        watch.mark(state.revision);
        let mut far = Far::default();
        let mut turn = Turn::new(&state, state.revision, &mut far, [&watch].into_iter());
        let Served::Changes(piece) = watch.serve(&sink, &mut turn) else {
            panic!("there is a change")
        };
        sink.0.lock().push(piece.changes.len());
        watch.told(&piece, &turn);
    }
    assert_eq!(*sink.0.lock(), [1, 0, 1, 1]);
}
