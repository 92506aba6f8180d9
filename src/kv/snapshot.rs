//! [`StoreView`]: the state of a store, and its bytes in a snapshot.
//!
//! | size | field |
//! |-----:|-------|
//! | 4 | format version: 1 |
//! | 8 | digest of all entries applied |
//! | 8 | `expired_up_to` of the sessions |
//! | 8 | number of keys |
//! | 8 | number of sessions |
//! | | each key with its value, in the order of the keys: 8 bytes length, key, 8 bytes length, value |
//! | | each session, in the order of last use: 8 bytes index of last use, 8 bytes length, client id, 8 bytes newest request id, the outcome: 4 bytes kind, and 8 bytes index if it has one |
//!
//! Numbers are little-endian. These are the structures below as bincode 1.3 writes them, one record
//! at a time, so that neither side holds more than one record besides the state. Nothing follows
//! the last session.
//!
//! Invariant: equal states have equal bytes. Nothing local is among them: no order of a hash map,
//! no limits, no spare room of a value.
//!
//! These bytes are on disk, and members of different versions exchange them. The golden test below
//! must never change. The container of the bytes detects damage. Reading never panics, whatever the
//! bytes are, and needs no more memory than the state and one record.

use std::io::{self, BufReader, BufWriter, Read, Write};

use bincode::Options;
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize, Serializer};

use super::digest::Digest;
use super::key::Values;
use super::outcome::Outcome;
use super::sessions::{Session, Table};
use super::{CLIENT_ID_LEN_MAX, KEY_LEN_MAX, VALUE_LEN_MAX};
use crate::node::StateView;
use crate::raft::Index;

const VERSION: u32 = 1;
/// The largest record: two lengths, the longest key, the longest value.
const RECORD_LEN_MAX: usize = 16 + KEY_LEN_MAX + VALUE_LEN_MAX;
const BUFFER_LEN: usize = 64 << 10;

/// The state of a [`Store`](super::Store) at one moment.
///
/// A view shares everything that the store has not changed since, so taking one costs the same
/// however large the store is. The store copies each node before it changes it: a few kilobytes,
/// once for each neighbourhood of keys.
#[derive(Debug)]
pub struct StoreView {
    pub(super) values: Values,
    pub(super) sessions: Table,
    pub(super) digest: Digest,
}

#[derive(Serialize, Deserialize)]
struct Head {
    digest: u64,
    expired_up_to: u64,
    keys: u64,
    sessions: u64,
}

#[derive(Serialize, Deserialize)]
struct PairRecord<B> {
    key: B,
    value: B,
}

#[derive(Serialize, Deserialize)]
struct SessionRecord<B> {
    last_used: u64,
    client: B,
    newest: i64,
    outcome: OutcomeRecord,
}

/// The order of the variants is the format.
#[derive(Serialize, Deserialize)]
enum OutcomeRecord {
    Applied { index: u64 },
    TooLarge,
    SessionExpired { index: u64 },
    Malformed,
}

/// Bytes that are written as bytes, not as a sequence of numbers.
struct Borrowed<'a>(&'a [u8]);

impl Serialize for Borrowed<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

impl StateView for StoreView {
    fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut out = BufWriter::with_capacity(BUFFER_LEN, out);
        put(&mut out, &VERSION)?;
        put(&mut out, &self.head())?;
        for (key, value) in self.values.iter() {
            put(&mut out, &PairRecord { key: Borrowed(key), value: Borrowed(value) })?;
        }
        for (last_used, session) in self.sessions.by_last_used.iter() {
            put(&mut out, &session_record(*last_used, session))?;
        }
        out.flush()
    }
}

impl StoreView {
    fn head(&self) -> Head {
        Head {
            digest: self.digest.value(),
            expired_up_to: self.sessions.expired_up_to.0,
            keys: self.values.len() as u64,
            sessions: self.sessions.by_last_used.len() as u64,
        }
    }
}

/// Reads what a view wrote, up to the end of `body`.
pub(super) fn read(body: &mut dyn Read) -> io::Result<StoreView> {
    let mut body = BufReader::with_capacity(BUFFER_LEN, body);
    let version: u32 = take(&mut body)?;
    if version != VERSION {
        return Err(invalid(format!("a store of format {version}; this version reads {VERSION}")));
    }
    let head: Head = take(&mut body)?;
    let values = read_values(&mut body, head.keys)?;
    let sessions = read_sessions(&mut body, &head)?;
    if body.read(&mut [0])? > 0 {
        return Err(invalid("bytes after the last session"));
    }
    Ok(StoreView { values, sessions, digest: Digest::from_value(head.digest) })
}

fn read_values(body: &mut impl Read, count: u64) -> io::Result<Values> {
    let mut values = Values::new();
    for _ in 0..count {
        let PairRecord::<Bytes> { key, value } = take(body)?;
        if key.len() > KEY_LEN_MAX || value.len() > VALUE_LEN_MAX {
            return Err(invalid("a key or a value over its limit"));
        }
        if values.get_max().is_some_and(|(last, _)| last[..] >= key[..]) {
            return Err(invalid("keys that are out of order"));
        }
        values.insert(key[..].into(), value);
    }
    Ok(values)
}

fn read_sessions(body: &mut impl Read, head: &Head) -> io::Result<Table> {
    let mut table = Table { expired_up_to: Index(head.expired_up_to), ..Table::default() };
    let mut last = table.expired_up_to;
    for _ in 0..head.sessions {
        let record: SessionRecord<Bytes> = take(body)?;
        let index = Index(record.last_used);
        if index <= last {
            return Err(invalid("sessions that are out of order"));
        }
        if record.client.len() > CLIENT_ID_LEN_MAX {
            return Err(invalid("a client id over its limit"));
        }
        table.by_last_used.insert(index, record.into());
        last = index;
    }
    Ok(table)
}

fn session_record(last_used: Index, session: &Session) -> SessionRecord<Borrowed<'_>> {
    SessionRecord {
        last_used: last_used.0,
        client: Borrowed(&session.client),
        newest: session.newest,
        outcome: session.outcome.into(),
    }
}

impl From<SessionRecord<Bytes>> for Session {
    fn from(record: SessionRecord<Bytes>) -> Session {
        Session {
            client: record.client[..].into(),
            newest: record.newest,
            outcome: record.outcome.into(),
        }
    }
}

impl From<Outcome> for OutcomeRecord {
    fn from(outcome: Outcome) -> OutcomeRecord {
        match outcome {
            Outcome::Applied { index } => OutcomeRecord::Applied { index: index.0 },
            Outcome::TooLarge => OutcomeRecord::TooLarge,
            Outcome::SessionExpired { index } => OutcomeRecord::SessionExpired { index: index.0 },
            Outcome::Malformed => OutcomeRecord::Malformed,
        }
    }
}

impl From<OutcomeRecord> for Outcome {
    fn from(record: OutcomeRecord) -> Outcome {
        match record {
            OutcomeRecord::Applied { index } => Outcome::Applied { index: Index(index) },
            OutcomeRecord::TooLarge => Outcome::TooLarge,
            OutcomeRecord::SessionExpired { index } => {
                Outcome::SessionExpired { index: Index(index) }
            }
            OutcomeRecord::Malformed => Outcome::Malformed,
        }
    }
}

fn options() -> impl Options {
    bincode::DefaultOptions::new().with_fixint_encoding().with_limit(RECORD_LEN_MAX as u64)
}

fn put(out: &mut impl Write, record: &impl Serialize) -> io::Result<()> {
    options().serialize_into(out, record).map_err(|error| io_error(*error))
}

fn take<T: DeserializeOwned>(body: &mut impl Read) -> io::Result<T> {
    options().deserialize_from(body).map_err(|error| io_error(*error))
}

fn io_error(error: bincode::ErrorKind) -> io::Error {
    match error {
        bincode::ErrorKind::Io(error) => error,
        other => invalid(other),
    }
}

/// The error of bytes that are not a store of this version.
pub(super) fn invalid(reason: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;
    use proptest::sample::Index as Choice;

    use super::*;
    use crate::kv::{Command, Op, Store};
    use crate::node::StateMachine;

    fn command(op: Op, key: &[u8], value: &[u8], client: &str, request_id: i64) -> Command {
        Command {
            op,
            key: Bytes::copy_from_slice(key),
            value: Bytes::copy_from_slice(value),
            client_id: client.to_owned().into(),
            request_id,
            seen_index: Index(1),
        }
    }

    fn written(store: &Store) -> Vec<u8> {
        let mut bytes = Vec::new();
        store.view().write(&mut bytes).unwrap();
        bytes
    }

    fn loaded(mut bytes: &[u8], sessions_max: usize) -> io::Result<Store> {
        let mut store = Store::with_sessions_max(sessions_max);
        store.load(&mut bytes).map(|()| store)
    }

    /// The store that is read from the bytes of another.
    fn reborn(store: &Store, sessions_max: usize) -> Store {
        loaded(&written(store), sessions_max).unwrap()
    }

    /// One of everything: keys, sessions that fit and one that was forgotten, both outcomes that
    /// are kept.
    static SAMPLE: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let mut store = Store::with_sessions_max(SESSIONS_MAX);
        let longest = vec![0; VALUE_LEN_MAX];
        let log = [
            command(Op::Put, b"k", b"value", "gone", 1),
            command(Op::Put, b"", b"", "a", 7),
            command(Op::Append, b"k", b"!", "b", -1),
            command(Op::Put, b"large", &longest, "", 0),
            command(Op::Append, b"large", b"x", "c", 2),
            command(Op::Put, b"large", b"", "", 0),
            command(Op::Append, b"k", b"!", "a", 7),
        ];
        for (index, command) in (2..).zip(log) {
            store.apply(Index(index), &command.encode());
        }
        written(&store)
    });
    const SESSIONS_MAX: usize = 3;

    fn sample() -> Store {
        loaded(&SAMPLE, SESSIONS_MAX).unwrap()
    }

    #[test]
    fn bytes_of_a_snapshot_never_change() {
        let golden = [
            &b"\x01\0\0\0"[..],
            b"\xfasUj\xb3H\xa3*\x02\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0",
            b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
            b"\x01\0\0\0\0\0\0\0k\x06\0\0\0\0\0\0\0value!",
            b"\x05\0\0\0\0\0\0\0large\0\0\0\0\0\0\0\0",
            b"\x04\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0b\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0\x04\0\0\0\0\0\0\0",
            b"\x06\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0c\x02\0\0\0\0\0\0\0\x01\0\0\0",
            b"\x08\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0a\x07\0\0\0\0\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0",
        ];
        assert_eq!(SAMPLE.escape_ascii().to_string(), golden.concat().escape_ascii().to_string());
        assert_eq!(written(&sample()), *SAMPLE);
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
        let append = command(Op::Append, b"k", b"x", "c", 1).encode();
        let first = store.apply(Index(2), &append);
        let mut store = reborn(&store, 1);
        assert_eq!(store.apply(Index(3), &append), first);
        assert_eq!(store.value(b"k").as_deref(), Some(&b"x"[..]));
    }

    #[test]
    fn what_was_forgotten_stays_forgotten() {
        let mut store = reborn(&sample(), SESSIONS_MAX);
        let again = command(Op::Put, b"k", b"value", "gone", 1).encode();
        assert_eq!(store.apply(Index(9), &again), Outcome::SessionExpired { index: Index(9) });
        let refused = command(Op::Append, b"large", b"x", "c", 2).encode();
        assert_eq!(store.apply(Index(10), &refused), Outcome::TooLarge);
    }

    #[test]
    fn a_view_stays_as_it_was() {
        let mut store = sample();
        let view = store.view();
        for (index, key) in (9..).zip([&b"k"[..], b"", b"new"]) {
            let append = command(Op::Append, key, b"more", "b", index as i64);
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
            let error = loaded(&bytes[..len], 3).unwrap_err();
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
        let second_session = find(b"\x06\0\0\0\0\0\0\0\x01");
        check("a store of format 2", &|bytes| bytes[0] = 2);
        check("bytes after", &|bytes| bytes.push(0));
        check("keys that are out of order", &|bytes| bytes[find(b"large")] = b'a');
        check("sessions that are out of order", &|bytes| bytes[second_session] = 4);
        // The same client as in the session before.
        check("sessions that no store", &|bytes| bytes[second_session + 16] = b'b');
    }

    #[test]
    fn lengths_over_a_limit_are_refused_before_anything_is_read() {
        let head = |keys, sessions| {
            let head = Head { digest: 0, expired_up_to: 0, keys, sessions };
            [&VERSION.to_le_bytes()[..], &options().serialize(&head).unwrap()].concat()
        };
        let check = |head: Vec<u8>, len: u64, expected| {
            let error = loaded(&[&head[..], &len.to_le_bytes()].concat(), 3).unwrap_err();
            assert_eq!(error.kind(), expected, "{len}: {error}");
        };
        for len in [u64::MAX, 1 << 40, RECORD_LEN_MAX as u64] {
            check(head(u64::MAX, 0), len, io::ErrorKind::InvalidData);
        }
        check(head(u64::MAX, 0), KEY_LEN_MAX as u64, io::ErrorKind::UnexpectedEof);
        check(head(0, u64::MAX), 1, io::ErrorKind::UnexpectedEof);
        let key = vec![0; KEY_LEN_MAX + 1];
        let pair = PairRecord { key: Borrowed(&key), value: Borrowed(b"") };
        let body = [head(1, 0), options().serialize(&pair).unwrap()].concat();
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

    /// A write to one of `keys` keys, without a session or from one of `clients` clients.
    fn any_command(keys: u8, clients: u8) -> impl Strategy<Value = Command> {
        (any::<bool>(), 0..keys, 0usize..9, 0..=clients, 0i64..6).prop_map(
            |(put, key, value_len, client, request_id)| {
                let op = if put { Op::Put } else { Op::Append };
                let client = if client == 0 { String::new() } else { client.to_string() };
                command(op, &[key], &vec![b'v'; value_len], &client, request_id)
            },
        )
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
            let mut lived = Store::with_sessions_max(sessions_max);
            let mut reborn_often = Store::with_sessions_max(sessions_max);
            let mut views = Vec::new();
            for (index, (mut command, seen, what)) in (2u64..).zip(log) {
                command.seen_index = Index(seen.index(index as usize) as u64);
                let command = command.encode();
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
            let mut flipped = SAMPLE.clone();
            let at = at.index(flipped.len());
            flipped[at] ^= flip;
            if let Ok(store) = loaded(&flipped, 3) {
                prop_assert_eq!(written(&store), flipped);
            }
        }
    }
}
