//! [`Store`]: the state machine. Keys, values and sessions as of one log index.
//!
//! A value has a buffer of its own. It is never a slice of the network frame or log entry that
//! brought it; otherwise one small value could keep 16 MiB alive. An append grows the buffer in
//! place, with room to spare, so building a value from many appends takes time in proportion to its
//! length. The buffer is copied first only if a reader or a view still holds it.
//!
//! Keys and sessions are in copy-on-write trees. Taking a view shares them and takes well under a
//! microsecond. Later writes copy each node that the view still holds, once. So a snapshot of any
//! size costs each write a few copies of at most 17 slots, and no write waits for it.

use std::io;

use bytes::{Bytes, BytesMut};

use super::digest::Digest;
use super::key::Values;
use super::outcome::Outcome;
use super::query::{Answer, Query, Stats};
use super::sessions::{Admission, Sessions};
use super::snapshot::{self, StoreView};
use super::{Command, Op, SESSIONS_MAX, VALUE_LEN_MAX};
use crate::node::StateMachine;
use crate::raft::Index;

/// The key-value state machine.
#[derive(Debug)]
pub struct Store {
    values: Values,
    /// The length of all keys and values.
    bytes: u64,
    sessions: Sessions,
    digest: Digest,
}

impl Default for Store {
    fn default() -> Store {
        Store::with_sessions_max(SESSIONS_MAX)
    }
}

impl StateMachine for Store {
    type Outcome = Outcome;
    type Query = Query;
    type Answer = Answer;
    type View = StoreView;

    fn apply(&mut self, index: Index, command: &Bytes) -> Outcome {
        let outcome = match Command::decode(command) {
            Ok(command) => self.apply_once(index, &command),
            Err(error) => {
                log::error!("entry {index} changes nothing: {error}");
                Outcome::Malformed
            }
        };
        self.digest.extend(index, command, outcome, self.stats());
        outcome
    }

    fn query(&self, query: Query) -> Answer {
        match query {
            Query::Get { key } => Answer::Value(self.value(&key)),
            Query::Stats => Answer::Stats(self.stats()),
        }
    }

    fn view(&self) -> StoreView {
        StoreView {
            values: self.values.clone(),
            sessions: self.sessions.table().clone(),
            digest: self.digest,
        }
    }

    /// Drops the old state first. After an error the store is empty.
    fn load(&mut self, body: &mut dyn io::Read) -> io::Result<()> {
        let sessions_max = self.sessions.len_max();
        *self = Store::with_sessions_max(sessions_max);
        let StoreView { values, sessions, digest } = snapshot::read(body)?;
        let sessions = Sessions::restore(sessions, sessions_max)
            .ok_or_else(|| snapshot::invalid("sessions that no store of this version holds"))?;
        let bytes = values.iter().map(|(key, value)| (key.len() + value.len()) as u64).sum();
        *self = Store { values, bytes, sessions, digest };
        Ok(())
    }

    fn digest(&self) -> Option<u64> {
        Some(self.digest.value())
    }
}

impl Store {
    /// An empty store.
    pub fn new() -> Store {
        Store::default()
    }

    /// An empty store that remembers this many clients, at least 1, in place of [`SESSIONS_MAX`].
    /// For tests and simulations. The limit decides outcomes, so all members of a cluster need the
    /// same.
    pub fn with_sessions_max(sessions_max: usize) -> Store {
        Store {
            values: Values::new(),
            bytes: 0,
            sessions: Sessions::new(sessions_max),
            digest: Digest::default(),
        }
    }

    /// The value of `key`, or `None` if it is absent.
    pub fn value(&self, key: &[u8]) -> Option<Bytes> {
        self.values.get(key).cloned()
    }

    /// How much the store holds.
    pub fn stats(&self) -> Stats {
        Stats { keys: self.values.len(), bytes: self.bytes, sessions: self.sessions.len() }
    }

    fn apply_once(&mut self, index: Index, command: &Command) -> Outcome {
        // No member proposes such a command. If one is in the log nevertheless, it has the same
        // outcome everywhere and leaves no session: the limit on client ids bounds the memory of
        // sessions.
        if command.check_limits().is_err() {
            return Outcome::TooLarge;
        }
        if !command.has_session() {
            return self.write(index, command);
        }
        match self.sessions.admit(index, &command.client_id, command.request_id, command.seen_index)
        {
            Admission::Repeat(outcome) => outcome,
            Admission::Expired => Outcome::SessionExpired { index },
            Admission::New => {
                let outcome = self.write(index, command);
                self.sessions.record(index, &command.client_id, command.request_id, outcome);
                outcome
            }
        }
    }

    fn write(&mut self, index: Index, command: &Command) -> Outcome {
        let is_done = match command.op {
            Op::Put => self.put(&command.key, &command.value),
            Op::Append => self.append(&command.key, &command.value),
        };
        if is_done { Outcome::Applied { index } } else { Outcome::TooLarge }
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> bool {
        let value = Bytes::copy_from_slice(value);
        self.bytes += value.len() as u64;
        if let Some(old) = self.values.get_mut(key) {
            self.bytes -= old.len() as u64;
            *old = value;
        } else {
            self.bytes += key.len() as u64;
            self.values.insert(key.into(), value);
        }
        true
    }

    fn append(&mut self, key: &[u8], more: &[u8]) -> bool {
        let Some(value) = self.values.get_mut(key) else { return self.put(key, more) };
        if value.len() + more.len() > VALUE_LEN_MAX {
            return false;
        }
        let mut grown = std::mem::take(value)
            .try_into_mut()
            .unwrap_or_else(|shared| with_room(&shared, more.len()));
        grown.extend_from_slice(more);
        *value = grown.freeze();
        self.bytes += more.len() as u64;
        true
    }
}

/// A copy of `value` with room for `more` bytes.
fn with_room(value: &[u8], more: usize) -> BytesMut {
    let mut copy = BytesMut::with_capacity(value.len() + more);
    copy.extend_from_slice(value);
    copy
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::kv::{CLIENT_ID_LEN_MAX, KEY_LEN_MAX};

    /// A write outside any session.
    fn write(op: Op, key: &[u8], value: &[u8]) -> Command {
        Command {
            op,
            key: Bytes::copy_from_slice(key),
            value: Bytes::copy_from_slice(value),
            client_id: Bytes::new(),
            request_id: 0,
            seen_index: Index::ZERO,
        }
    }

    fn of_client(client: &str, request_id: i64, seen: u64, command: Command) -> Command {
        Command {
            client_id: client.to_owned().into(),
            request_id,
            seen_index: Index(seen),
            ..command
        }
    }

    /// A store, and the index of its last entry.
    struct Log(Store, u64);

    impl Log {
        fn new() -> Log {
            Log(Store::new(), 1)
        }

        fn apply(&mut self, command: &Command) -> Outcome {
            self.1 += 1;
            self.0.apply(Index(self.1), &command.encode())
        }

        fn check(&self, key: &[u8], expected: Option<&[u8]>) {
            let answer = self.0.query(Query::Get { key: Bytes::copy_from_slice(key) });
            assert_eq!(answer, Answer::Value(expected.map(Bytes::copy_from_slice)));
        }
    }

    fn applied(index: u64) -> Outcome {
        Outcome::Applied { index: Index(index) }
    }

    #[test]
    fn put_replaces_and_append_appends() {
        let mut log = Log::new();
        log.check(b"k", None);
        assert_eq!(log.apply(&write(Op::Append, b"k", b"a")), applied(2));
        assert_eq!(log.apply(&write(Op::Append, b"k", b"bc")), applied(3));
        log.check(b"k", Some(b"abc"));
        assert_eq!(log.apply(&write(Op::Put, b"k", b"d")), applied(4));
        log.check(b"k", Some(b"d"));
        assert_eq!(log.apply(&write(Op::Put, b"\0\xff", b"")), applied(5));
        log.check(b"\0\xff", Some(b""));
        log.apply(&write(Op::Append, b"", b""));
        log.check(b"", Some(b""));
        assert_eq!(log.0.stats(), Stats { keys: 3, bytes: 4, sessions: 0 });
    }

    #[test]
    fn a_write_of_a_session_takes_effect_once() {
        let mut log = Log::new();
        let first = of_client("c", 1, 1, write(Op::Append, b"k", b"x"));
        let second = of_client("c", 2, 1, write(Op::Append, b"k", b"y"));
        assert_eq!(log.apply(&first), applied(2));
        assert_eq!(log.apply(&first), applied(2));
        assert_eq!(log.apply(&second), applied(4));
        assert_eq!(log.apply(&first), applied(5));
        log.check(b"k", Some(b"xy"));
        assert_eq!(log.0.stats(), Stats { keys: 1, bytes: 3, sessions: 1 });
    }

    #[test]
    fn a_refusal_is_repeated_even_when_it_would_fit_by_now() {
        let mut log = Log::new();
        log.apply(&write(Op::Put, b"k", &vec![b'v'; VALUE_LEN_MAX]));
        let append = of_client("c", 1, 1, write(Op::Append, b"k", b"x"));
        assert_eq!(log.apply(&append), Outcome::TooLarge);
        assert_eq!(log.0.value(b"k").map(|value| value.len()), Some(VALUE_LEN_MAX));
        log.apply(&write(Op::Put, b"k", b""));
        assert_eq!(log.apply(&append), Outcome::TooLarge);
        log.check(b"k", Some(b""));
    }

    #[test]
    fn a_value_may_grow_to_the_limit_and_not_past_it() {
        let mut log = Log::new();
        log.apply(&write(Op::Put, b"k", &vec![1; VALUE_LEN_MAX - 1]));
        assert_eq!(log.apply(&write(Op::Append, b"k", b"12")), Outcome::TooLarge);
        assert_eq!(log.apply(&write(Op::Append, b"k", b"1")), applied(4));
        assert_eq!(log.apply(&write(Op::Append, b"k", b"")), applied(5));
        assert_eq!(log.apply(&write(Op::Append, b"k", b"1")), Outcome::TooLarge);
    }

    #[test]
    fn a_command_that_no_member_proposes_changes_nothing() {
        let mut log = Log::new();
        assert_eq!(log.0.apply(Index(2), &Bytes::from_static(b"\xff garbage")), Outcome::Malformed);
        assert_eq!(log.0.apply(Index(3), &Bytes::new()), Outcome::Malformed);
        let oversized = write(Op::Put, b"k", &vec![0; VALUE_LEN_MAX + 1]);
        assert_eq!(log.apply(&of_client("c", 1, 1, oversized)), Outcome::TooLarge);
        assert_eq!(log.0.stats(), Stats::default());
        assert!(
            CLIENT_ID_LEN_MAX < 256 && KEY_LEN_MAX <= u32::MAX as usize,
            "lengths fit their fields"
        );
    }

    #[test]
    fn a_forgotten_session_is_told_so() {
        let mut log = Log(Store::with_sessions_max(1), 1);
        let append = of_client("a", 1, 1, write(Op::Append, b"k", b"x"));
        log.apply(&append);
        log.apply(&of_client("b", 1, 1, write(Op::Put, b"other", b"")));
        assert_eq!(log.apply(&append), Outcome::SessionExpired { index: Index(4) });
        log.check(b"k", Some(b"x"));
    }

    #[test]
    fn a_value_keeps_nothing_else_alive() {
        let mut log = Log::new();
        let frame = write(Op::Put, b"k", b"v").encode();
        log.0.apply(Index(2), &frame);
        assert!(frame.is_unique(), "the store holds a slice of the entry");
    }

    #[test]
    fn a_reader_keeps_the_value_it_read() {
        let mut log = Log::new();
        log.apply(&write(Op::Append, b"k", b"a"));
        let read = log.0.value(b"k");
        log.apply(&write(Op::Append, b"k", b"b"));
        assert_eq!(read.as_deref(), Some(&b"a"[..]));
        log.check(b"k", Some(b"ab"));
    }

    #[test]
    fn a_value_built_of_many_appends_is_not_copied_for_each() {
        let mut log = Log::new();
        let started = Instant::now();
        let appends = 100_000;
        let mut view = None;
        for i in 0..appends {
            log.apply(&write(Op::Append, b"k", &[b'x'; 100]));
            // A view costs one copy, not one for each append.
            if i == appends / 2 {
                view = Some(log.0.view());
            }
        }
        drop(view);
        assert_eq!(log.0.value(b"k").map(|value| value.len()), Some(appends * 100));
        // Copying each time would move 500 GB and take at least a minute. This takes well under a
        // second.
        assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    }

    #[test]
    fn a_view_costs_the_same_however_much_there_is() {
        let mut log = Log::new();
        for key in 0..50_000u32 {
            log.apply(&write(Op::Put, &key.to_le_bytes(), b"value"));
        }
        let started = Instant::now();
        for _ in 0..50_000 {
            log.apply(&write(Op::Put, b"k", b"value"));
            drop(log.0.view());
        }
        // Copying each time would visit 2,500,000,000 keys and take at least a minute. This takes a
        // fraction of a second.
        assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    }
}
