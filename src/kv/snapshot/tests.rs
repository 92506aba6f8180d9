use std::sync::LazyLock;

use proptest::prelude::*;
use proptest::sample::Index as Choice;

use super::*;
use crate::kv::model::{Action, KeyRange, NewLease, NewValue, Operation};
use crate::kv::{
    Change, Command, Identity, LEVEL_MAX, LimitsChange, Outcome, SessionLimits, Store,
};
use crate::node::StateMachine;

fn command(change: Change, client: &str, request_id: i64) -> Command {
    let (client_id, seen_index) = (client.to_owned().into(), Index(1));
    Command { identity: Identity { client_id, request_id, seen_index }, change }
}

fn put(key: &[u8], value: &[u8], client: &str, request_id: i64) -> Command {
    let (key, value) = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
    command(Change::Put { key, value }, client, request_id)
}

fn append(key: &[u8], value: &[u8], client: &str, request_id: i64) -> Command {
    let (key, value) = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
    command(Change::Append { key, value }, client, request_id)
}

/// Of a client that has learned enough to be admitted after others were forgotten.
fn txn(operations: Vec<Action>, client: &str, request_id: i64) -> Command {
    let then = operations.into_iter().map(Operation::from).collect();
    let mut command = command(Change::Txn(Txn { then, ..Txn::default() }), client, request_id);
    command.identity.seen_index = Index(9);
    command
}

/// The bytes of a command in the log, with a stamp if its kind has one.
fn logged(command: &Command, stamp_ms: u64) -> Bytes {
    let bytes = command.encode();
    match Store::is_stamped(&bytes) {
        true => [&bytes[..], &stamp_ms.to_le_bytes()].concat().into(),
        false => bytes,
    }
}

fn written(store: &Store) -> Vec<u8> {
    let mut bytes = Vec::new();
    store.view().write(&mut bytes).unwrap();
    bytes
}

fn store_of(sessions_max: usize) -> Store {
    let requests_max = sessions_max;
    let limits = SessionLimits { sessions_max, requests_max, ..SessionLimits::default() };
    Store::with_session_limits(limits)
}

fn loaded(mut bytes: &[u8], sessions_max: usize) -> io::Result<Store> {
    let mut store = store_of(sessions_max);
    store.load(&mut bytes).map(|()| store)
}

/// The store that is read from the bytes of another.
fn reborn(store: &Store, sessions_max: usize) -> Store {
    loaded(&written(store), sessions_max).unwrap()
}

/// One of everything: entries, a history with each kind of record, of which the first is forgotten,
/// sessions that fit and two that were forgotten, and four of the outcomes that are kept.
static SAMPLE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut store = store_of(SESSIONS_MAX);
    let longest = vec![0; VALUE_LEN_MAX];
    let limits = LimitsChange { keys_max: Some(9), ..LimitsChange::default() };
    let log = [
        put(b"k", b"value", "gone", 1),
        put(b"", b"", "too", 7),
        append(b"k", b"!", "b", -1),
        put(b"large", &longest, "", 0),
        append(b"large", b"x", "c", 2),
        put(b"large", b"", "", 0),
        append(b"k", b"!", "a", 7),
        command(Change::SetLimits(limits), "", 0),
        command(Change::Compact { revision: Revision(6) }, "", 0),
        txn(vec![Action::delete(KeyRange::key("")), Action::get("k")], "d", 3),
        txn(vec![Action::increment("k", 1)], "e", 4),
    ];
    for (index, command) in (2..).zip(log) {
        store.apply(Index(index), &command.encode());
    }
    written(&store)
});
const SESSIONS_MAX: usize = 4;

fn sample() -> Store {
    loaded(&SAMPLE, SESSIONS_MAX).unwrap()
}

#[test]
fn bytes_of_a_snapshot_never_change() {
    let golden = [
        &b"\x02\0\0\0"[..],
        b"\x01\0\0\0\x01\0\0\0\0\0\0\0",
        b"\xb1\xdfR O\xa2\xa8(\x08\0\0\0\0\0\0\0\x06\0\0\0\0\0\0\0\x04\0\0\0\0\0\0\0",
        b"\x01\0\0\0\0\0\0\0\x02\0\0\0\x09\0\0\0\0\0\0\0\0\0\0\x04\0\0\0\0",
        b"\x02\0\0\0\x02\0\0\0\0\0\0\0",
        b"\x01\0\0\0\0\0\0\0k\x07\0\0\0\0\0\0\0value!!\x02\0\0\0\0\0\0\0\x07\0\0\0\0\0\0",
        b"\0\x03\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        b"\x05\0\0\0\0\0\0\0large\0\0\0\0\0\0\0\0\x05\0\0\0\0\0\0\0\x06\0\0\0\0\0\0\0",
        b"\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        b"\x03\0\0\0\x02\0\0\0\0\0\0\0",
        b"\x07\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0k\x01\x01\0\0\0\x06\0\0\0\0\0\0\0\x02\0\0",
        b"\0\0\0\0\0\x04\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        b"\x08\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\0\x03\0\0\0\0\0\0",
        b"\0\x03\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        b"\x04\0\0\0\x04\0\0\0\0\0\0\0",
        b"\x06\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0c\x02\0\0\0\0\0\0\0\x01\0\0\0",
        b"\x08\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0a\x07\0\0\0\0\0\0\0\0\0\0\0\x08\0\0\0\0\0",
        b"\0\0",
        b"\x0b\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0d\x03\0\0\0\0\0\0\0\x05\0\0\0\x0b\0\0\0\0",
        b"\0\0\0\x08\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x01\0\0\0\x01\x22\0\0\0\0\0\0\0\x08",
        b"\x01\x12\x04\x22\x02\x08\x01\x12\x18*\x16\x0a\x12\x0a\x01k\x12\x07value!!\x18",
        b"\x02 \x07(\x03\x10\x01",
        b"\x0c\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0e\x04\0\0\0\0\0\0\0\x06\0\0\0\x0c\0\0\0\0",
        b"\0\0\0\x02\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\0",
        b"\0\0\0\0\0\0\0\0\0\0\0\0",
    ];
    assert_eq!(SAMPLE.escape_ascii().to_string(), golden.concat().escape_ascii().to_string());
    assert_eq!(written(&sample()), *SAMPLE);
}

fn put_with(key: &[u8], lease: NewLease) -> Action {
    let (key, value) = (Bytes::copy_from_slice(key), NewValue::Set("v".into()));
    Action::Put { key, value, lease, previous: false }
}

/// A store with two leases, of which one has two keys, and two keys with leases of their own.
fn sample_with_leases() -> Store {
    let mut store = store_of(SESSIONS_MAX);
    let limits = LimitsChange { leases_max: Some(5), ..LimitsChange::default() };
    let log = [
        command(Change::LeaseGrant { ttl_ms: 50, id: LeaseId(9) }, "a", 1),
        command(Change::LeaseGrant { ttl_ms: 60, id: LeaseId::NONE }, "", 0),
        command(Change::SetLimits(limits), "", 0),
        txn(vec![put_with(b"of", NewLease::Set(LeaseId(9)))], "", 0),
        txn(
            vec![
                put_with(b"own", NewLease::OfItsOwn { ttl_ms: 70 }),
                put_with(b"of too", NewLease::Set(LeaseId(9))),
                put_with(b"o", NewLease::OfItsOwn { ttl_ms: 70 }),
            ],
            "",
            0,
        ),
        command(Change::LeaseKeepAlive { ids: vec![LeaseId(9)] }, "", 0),
    ];
    for (index, command) in (2..).zip(log) {
        store.apply(Index(index), &logged(&command, 100 + index));
    }
    store
}

#[test]
fn bytes_of_leases_in_a_snapshot_never_change() {
    let golden = [
        // A session whose outcome is a grant, and then the leases.
        &b"\x02\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0a\x01\0\0\0\0\0\0\0\x07\0\0\0"[..],
        b"\x02\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x09\0\0\0\0\0\0\0\x32\0\0\0\0\0\0\0",
        b"\x05\0\0\0\x01\0\0\0\0\0\0\0",
        b"\x6b\0\0\0\0\0\0\0\x05\0\0\0\0\0\0\0",
        b"\x06\0\0\0\x02\0\0\0\0\0\0\0",
        b"\x03\0\0\0\0\0\0\0\x3c\0\0\0\0\0\0\0\xa3\0\0\0\0\0\0\0",
        b"\x09\0\0\0\0\0\0\0\x32\0\0\0\0\0\0\0\x9d\0\0\0\0\0\0\0",
        b"\x07\0\0\0\x02\0\0\0\0\0\0\0",
        b"\x01\0\0\0\0\0\0\0o\xb0\0\0\0\0\0\0\0\x06\0\0\0\0\0\0\0\x02\0\0\0",
        b"\x03\0\0\0\0\0\0\0own\xb0\0\0\0\0\0\0\0\x06\0\0\0\0\0\0\0\0\0\0\0",
        b"\0\0\0\0\0\0\0\0\0\0\0\0",
    ];
    let (golden, bytes) = (golden.concat(), written(&sample_with_leases()));
    let end = &bytes[bytes.len().saturating_sub(golden.len())..];
    assert_eq!(end.escape_ascii().to_string(), golden.escape_ascii().to_string());
    assert_eq!(written(&loaded(&bytes, SESSIONS_MAX).unwrap()), bytes);
}

fn once(key: &'static str, fingerprint: u64) -> Command {
    let then = vec![Action::append("k", key).into()];
    let (key, txn) = (key.into(), Txn { then, ..Txn::default() });
    command(Change::TxnOnce { key, fingerprint, txn }, "", 0)
}

#[test]
fn requests_are_known_after_a_snapshot_and_their_bytes_never_change() {
    let mut store = store_of(2);
    let log = [once("gone", 7), once("b", 0x0102), once("a", u64::MAX)];
    let apply = |store: &mut Store, index, command: &Command| {
        store.apply(Index(index), &logged(command, 1))
    };
    let outcomes = [2, 3, 4].map(|index| apply(&mut store, index, &log[index as usize - 2]));
    let golden = [
        &b"\x08\0\0\0\x02\0\0\0\0\0\0\0"[..],
        b"\x03\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0b\x02\x01\0\0\0\0\0\0",
        b"\x05\0\0\0\x03\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0",
        b"\x01\0\0\0\x01\x08\0\0\0\0\0\0\0\x08\x01\x12\x04\x12\x02\x08\x05",
        b"\x04\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0a\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x05\0\0\0\x04\0\0\0\0\0\0\0\x04\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0",
        b"\x01\0\0\0\x01\x08\0\0\0\0\0\0\0\x08\x01\x12\x04\x12\x02\x08\x06",
        b"\0\0\0\0\0\0\0\0\0\0\0\0",
    ];
    let (golden, bytes) = (golden.concat(), written(&store));
    let end = &bytes[bytes.len().saturating_sub(golden.len())..];
    assert_eq!(end.escape_ascii().to_string(), golden.escape_ascii().to_string());
    let mut reborn = loaded(&bytes, 2).unwrap();
    assert_eq!(written(&reborn), bytes);
    for (index, at) in [(5, 1), (6, 2)] {
        assert_eq!(apply(&mut reborn, index, &log[at]), outcomes[at], "{index}");
    }
    let Outcome::Ran { result: Ok(_), index } = apply(&mut reborn, 7, &log[0]) else { panic!() };
    assert_eq!(index, Index(7), "a key that is forgotten is a new one");
    // More than a store may have.
    assert!(loaded(&bytes, 1).is_err());
}

#[test]
fn leases_go_on_after_a_snapshot() {
    let mut store = reborn(&sample_with_leases(), SESSIONS_MAX);
    let keys = |store: &Store| (store.stats().keys, store.stats().leases);
    let mut pass = |index, stamp_ms| {
        store.apply(Index(index), &logged(&command(Change::Time, "", 0), stamp_ms));
        keys(&store)
    };
    assert_eq!(pass(20, 157), (4, 2));
    assert_eq!(pass(21, 158), (2, 1));
    assert_eq!(pass(22, 200), (0, 0));
    // The answer to a grant is known, too.
    let again = command(Change::LeaseGrant { ttl_ms: 50, id: LeaseId(9) }, "a", 1);
    let (index, revision, lease) = (Index(2), Revision(1), LeaseId(9));
    let first = Outcome::Granted { index, revision, lease, ttl_ms: 50 };
    assert_eq!(store.apply(Index(23), &logged(&again, 200)), first);
}

#[test]
fn leases_that_no_store_has_are_refused() {
    let sample = written(&sample_with_leases());
    let find = |what: &[u8]| sample.windows(what.len()).rposition(|it| it == what).unwrap();
    let check = |words: &str, at: usize, byte: u8| {
        let mut bytes = sample.clone();
        bytes[at] = byte;
        let error = loaded(&bytes, SESSIONS_MAX).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{words}: {error}");
        assert!(error.to_string().contains(words), "{words}: {error}");
    };
    let leases = find(b"\x06\0\0\0\x02\0\0\0\0\0\0\0") + 12;
    let own = find(b"\x07\0\0\0\x02\0\0\0\0\0\0\0") + 12;
    check("a lease that no store has", leases + 24, 3);
    check("a lease that no store has", leases, 0);
    check("a lease that no store has", leases + 7, 0x80);
    check("a lease that no store has", leases + 8, 0);
    check("keys of leases that are not there", leases + 24, 8);
    check("a key with a lease that no store has", own + 8, b'x');
    // Twice the same operation of the same entry.
    check("a key with a lease that no store has", own + 8 + 1 + 16, 0);
    // With the section of the time under another tag.
    check("keys of leases in a store without leases", leases - 12 - 16 - 12, 9);
    check("section 9 in place of the end", sample.len() - 12, 9);
    for len in 0..sample.len() {
        let error = loaded(&sample[..len], SESSIONS_MAX).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{len}: {error}");
    }
}

#[test]
fn an_empty_store_comes_back_empty() {
    let store = reborn(&Store::new(), 1);
    assert_eq!(store.stats(), Store::new().stats());
    assert_eq!(store.digest(), Some(0));
}

/// Pitfall 23: the table of sessions lost in a snapshot.
#[test]
fn a_repeat_after_a_snapshot_gets_the_first_outcome() {
    let mut store = Store::new();
    let append = append(b"k", b"x", "c", 1).encode();
    let first = store.apply(Index(2), &append);
    let mut store = reborn(&store, 1);
    assert_eq!(store.apply(Index(3), &append), first);
    assert_eq!(store.value(b"k").as_deref(), Some(&b"x"[..]));
}

#[test]
fn what_was_forgotten_stays_forgotten() {
    let mut store = reborn(&sample(), SESSIONS_MAX);
    let again = put(b"k", b"value", "gone", 1).encode();
    assert_eq!(store.apply(Index(19), &again), Outcome::SessionExpired { index: Index(19) });
    let refused = append(b"large", b"x", "c", 2).encode();
    assert_eq!(store.apply(Index(20), &refused), Outcome::TooLarge);
}

#[test]
fn a_view_stays_as_it_was() {
    let mut store = sample();
    let view = store.view();
    for (index, key) in (19..).zip([&b"k"[..], b"", b"new"]) {
        let append = append(key, b"more", "b", index as i64);
        store.apply(Index(index), &append.encode());
    }
    let mut bytes = Vec::new();
    view.write(&mut bytes).unwrap();
    assert_eq!(bytes, *SAMPLE);
    assert_ne!(written(&store), *SAMPLE);
}

#[test]
fn a_body_cut_anywhere_is_an_error() {
    let bytes = &SAMPLE[..];
    for len in 0..bytes.len() {
        let error = loaded(&bytes[..len], SESSIONS_MAX).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{len}: {error}");
    }
}

#[test]
fn what_no_store_writes_is_refused() {
    let check = |words: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = SAMPLE.clone();
        change(&mut bytes);
        let error = loaded(&bytes, SESSIONS_MAX).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{words}: {error}");
        assert!(error.to_string().contains(words), "{words}: {error}");
    };
    let find = |what: &[u8]| SAMPLE.windows(what.len()).position(|it| it == what).unwrap();
    let (revision, compacted) = (4 + 12 + 8, 4 + 12 + 16);
    let session_of_a = find(b"\x08\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0a");
    check("a store of format 1", &|bytes| bytes[0] = 1);
    check("bytes after", &|bytes| bytes.push(0));
    check("section 9 in place of 1", &|bytes| bytes[4] = 9);
    check("keys that are out of order", &|bytes| bytes[find(b"large")] = b'a');
    check("a history that is out of order", &|bytes| bytes[revision] = 6);
    check("revisions that no store has", &|bytes| bytes[compacted] = 9);
    check("sessions that are out of order", &|bytes| bytes[session_of_a] = 4);
    // The same client as in another session.
    check("sessions that no store", &|bytes| bytes[session_of_a + 16] = b'c');
    check("unknown reason", &|bytes| {
        let refused = find(b"\x01\0\0\0\0\0\0\0e");
        bytes[refused + 9 + 8 + 4 + 8] = 0xee;
    });
}

/// The node stops when it sees the level. What follows the head may be of a format to come.
#[test]
fn a_snapshot_of_a_level_to_come_says_which() {
    let mut bytes = SAMPLE[..4 + 12 + 68].to_vec();
    bytes[4 + 12 + 4 * 8] = LEVEL_MAX as u8 + 1;
    bytes.extend(b"of a format to come");
    let store = loaded(&bytes, SESSIONS_MAX).unwrap();
    assert_eq!((store.level(), store.level_max()), (Some(LEVEL_MAX + 1), LEVEL_MAX));
    assert_eq!(store.value(b"k"), None);
}

#[test]
fn lengths_over_a_limit_are_refused_before_anything_is_read() {
    let head = Head {
        digest: 0,
        revision: 1,
        compacted: 0,
        expired_up_to: 0,
        level: 1,
        bytes_max: 0,
        keys_max: 0,
        history_bytes_max: 0,
    };
    let bytes = |record: &[Section]| {
        record.iter().flat_map(|it| options().serialize(it).unwrap()).collect::<Vec<u8>>()
    };
    let [version, first] =
        [VERSION.to_le_bytes().to_vec(), bytes(&[Section { tag: 1, records: 1 }])];
    let head = [version, first, options().serialize(&head).unwrap()].concat();
    let entries = [head.clone(), bytes(&[Section { tag: 2, records: u64::MAX }])].concat();
    let empty = [2, 3].map(|tag| Section { tag, records: 0 });
    let no_entries = [head.clone(), bytes(&empty)].concat();
    let sessions = [no_entries, bytes(&[Section { tag: 4, records: u64::MAX }])].concat();
    let check = |start: &[u8], len: u64, expected| {
        let error = loaded(&[start, &len.to_le_bytes()].concat(), 3).unwrap_err();
        assert_eq!(error.kind(), expected, "{len}: {error}");
    };
    for len in [u64::MAX, 1 << 40, RECORD_LEN_MAX as u64] {
        check(&entries, len, io::ErrorKind::InvalidData);
    }
    check(&entries, KEY_LEN_MAX as u64, io::ErrorKind::UnexpectedEof);
    check(&sessions, 1, io::ErrorKind::UnexpectedEof);
    let meta = MetaRecord { create_revision: 1, mod_revision: 1, version: 1, lease: 0 };
    let key = vec![0; KEY_LEN_MAX + 1];
    let entry = EntryRecord { key: Borrowed(&key), value: Borrowed(b""), meta };
    let body = [entries, options().serialize(&entry).unwrap()].concat();
    assert_eq!(loaded(&body, 3).unwrap_err().to_string(), "a key or a value over its limit");
}

#[test]
fn a_snapshot_of_more_sessions_than_fit_is_refused() {
    let error = loaded(&SAMPLE, SESSIONS_MAX - 1).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
}

#[test]
fn a_failed_load_leaves_no_part_of_either_state() {
    let mut store = sample();
    let bytes = &SAMPLE[..];
    store.load(&mut &bytes[..bytes.len() - 1]).unwrap_err();
    assert_eq!(store.stats(), Store::new().stats());
    store.load(&mut &*bytes).unwrap();
    assert_eq!(written(&store), bytes);
}

/// A writer that fails after this many bytes.
struct Full(usize);

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = bytes.len().min(self.0);
        self.0 -= len;
        if len == 0 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(len) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_write_that_fails_anywhere_says_so() {
    let (len, view) = (SAMPLE.len(), sample().view());
    for room in 0..len {
        let error = view.write(&mut Full(room)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }
    view.write(&mut Full(len)).unwrap();
}

/// A change of a few of `keys` keys.
fn any_change(keys: u8) -> impl Strategy<Value = Change> {
    let key = move || (0..keys).prop_map(|key| Bytes::from(vec![key]));
    let value = || (0usize..30).prop_map(|len| Bytes::from(vec![b'1'; len]));
    let range = move || {
        (0..keys, 1..4u8).prop_map(|(begin, len)| {
            KeyRange::between(vec![begin], vec![begin.saturating_add(len), 0]).unwrap()
        })
    };
    let action = prop_oneof![
        (key(), value()).prop_map(|(key, value)| Action::put(key, value)),
        (key(), value()).prop_map(|(key, value)| Action::append(key, value)),
        (key(), any::<i64>()).prop_map(|(key, by)| Action::increment(key, by)),
        (range(), any::<bool>()).prop_map(|(keys, previous)| Action::Delete { keys, previous }),
        (key(), 1..4u64).prop_map(|(key, id)| put_with(&key, NewLease::Set(LeaseId(id)))),
        (key(), 1..200u64).prop_map(|(key, ttl_ms)| put_with(&key, NewLease::OfItsOwn { ttl_ms })),
        key().prop_map(Action::get),
    ];
    let operation = (action, any::<bool>());
    let operations = prop::collection::vec(operation, 0..5).prop_map(|operations| {
        let operation = |(action, may_fail)| Operation { action, may_fail };
        let then = operations.into_iter().map(operation).collect();
        Change::Txn(Txn { then, ..Txn::default() })
    });
    let once = (0u8..6, 0u64..2, key()).prop_map(|(request, fingerprint, key)| {
        let then = vec![Action::append(key, "1").into()];
        let (key, txn) = (vec![request].into(), Txn { then, ..Txn::default() });
        Change::TxnOnce { key, fingerprint, txn }
    });
    let limits = (0..400u64).prop_map(|max| {
        let history_bytes_max = Some(max * 10);
        Change::SetLimits(LimitsChange { history_bytes_max, ..LimitsChange::default() })
    });
    let leases = prop_oneof![
        3 => (0..4u64, 1..300u64)
            .prop_map(|(id, ttl_ms)| Change::LeaseGrant { ttl_ms, id: LeaseId(id) }),
        1 => (1..4u64).prop_map(|id| Change::LeaseRevoke { id: LeaseId(id) }),
        2 => prop::collection::vec((1..4u64).prop_map(LeaseId), 0..3)
            .prop_map(|ids| Change::LeaseKeepAlive { ids }),
        1 => Just(Change::Time),
    ];
    prop_oneof![
        4 => leases,
        4 => (key(), value()).prop_map(|(key, value)| Change::Put { key, value }),
        4 => (key(), value()).prop_map(|(key, value)| Change::Append { key, value }),
        6 => operations,
        2 => once,
        1 => (0..90u64).prop_map(|revision| Change::Compact { revision: Revision(revision) }),
        1 => limits,
    ]
}

/// A write without a session or from one of `clients` clients.
fn any_command(keys: u8, clients: u8) -> impl Strategy<Value = Command> {
    (any_change(keys), 0..=clients, 0i64..6).prop_map(|(change, client, request_id)| {
        let client = if client == 0 { String::new() } else { client.to_string() };
        command(change, &client, request_id)
    })
}

/// Few keys and clients make repeats, expiries and appends frequent. Many make trees of several
/// levels.
fn any_log() -> impl Strategy<Value = (usize, Vec<(Command, Choice, u8)>)> {
    let sizes = prop_oneof![(1usize..4, Just((4, 4))), (20usize..60, Just((200, 100)))];
    sizes.prop_flat_map(|(sessions_max, (keys, clients))| {
        let entry = (any_command(keys, clients), any::<Choice>(), 0u8..8);
        (Just(sessions_max), prop::collection::vec(entry, 0..400))
    })
}

proptest! {
    #[test]
    fn a_store_that_was_reborn_at_any_time_is_the_same((sessions_max, log) in any_log()) {
        let mut lived = store_of(sessions_max);
        let mut reborn_often = store_of(sessions_max);
        let mut views = Vec::new();
        for (index, (mut command, seen, what)) in (2u64..).zip(log) {
            command.identity.seen_index = Index(seen.index(index as usize) as u64);
            let command = logged(&command, 20 * index);
            let outcome = lived.apply(Index(index), &command);
            prop_assert_eq!(reborn_often.apply(Index(index), &command), outcome);
            prop_assert_eq!(reborn_often.digest(), lived.digest());
            match what {
                0 => reborn_often = reborn(&reborn_often, sessions_max),
                1 => views.push((reborn_often.view(), written(&lived))),
                _ => (),
            }
        }
        prop_assert_eq!(reborn_often.stats(), lived.stats());
        prop_assert_eq!(written(&reborn_often), written(&lived));
        for (view, expected) in views {
            let mut bytes = Vec::new();
            view.write(&mut bytes).unwrap();
            prop_assert_eq!(bytes, expected);
        }
    }

    #[test]
    fn garbage_is_an_error_or_a_store_that_writes_it(
        garbage in prop::collection::vec(any::<u8>(), 0..60),
        at in any::<Choice>(),
        flip in 1u8..,
    ) {
        prop_assert!(loaded(&[&VERSION.to_le_bytes()[..], &garbage].concat(), 3).is_err());
        for mut flipped in [SAMPLE.clone(), written(&sample_with_leases())] {
            let at = at.index(flipped.len());
            flipped[at] ^= flip;
            if let Ok(store) = loaded(&flipped, SESSIONS_MAX)
                && store.level() <= Some(LEVEL_MAX)
            {
                prop_assert_eq!(written(&store), flipped);
            }
        }
    }
}
