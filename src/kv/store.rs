//! [`Store`]: the state machine. Entries, their past, and sessions as of one log index.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::command::{Change, Command, Identity, Stamped};
use super::digest::Digest;
use super::model::{LeaseId, Reason, Refusal, Revision, Txn, TxnAnswer};
use super::outcome::{Branches, Done, Outcome};
use super::query::{Answer, LeaseAnswer, LeasesAnswer, Query, Stats};
use super::requests::{Known, Requests};
use super::sessions::{Admission, SessionLimits, Sessions};
use super::snapshot::{self, StoreView};
use super::state::{Budget, LogEntry, State};
use super::{LEVEL_CONFIGURATIONS, LEVEL_MAX};
use crate::node::StateMachine;
use crate::raft::{AppliedTime, Index};

/// How many keys a read may look at, or tell, on a thread that others wait for. Reads that need
/// more are made on a view, elsewhere.
const QUICK_READ_KEYS_MAX: u64 = 1_000;

const _: () = assert!(super::COMMAND_LEN_MAX == crate::node::COMMAND_LEN_MAX);

/// The key-value state machine.
#[derive(Debug)]
pub struct Store {
    state: State,
    sessions: Sessions,
    requests: Requests,
    digest: Digest,
}

impl Default for Store {
    fn default() -> Store {
        Store::with_session_limits(SessionLimits::default())
    }
}

impl StateMachine for Store {
    type Outcome = Outcome;
    type Query = Query;
    type Answer = Answer;
    type View = StoreView;

    fn apply(&mut self, index: Index, command: &Bytes) -> Outcome {
        let outcome = match Command::decode_borrowed(command) {
            Ok(Stamped { command, stamp_ms }) => {
                self.apply_stamped(LogEntry { index, stamp_ms }, &command)
            }
            Err(error) => {
                log::error!("entry {index} changes nothing: {}", crate::ErrorChain(&error));
                Outcome::Malformed
            }
        };
        self.digest.extend(index, command, &outcome, &self.stats());
        outcome
    }

    fn query(&self, query: Query) -> Answer {
        match query {
            Query::Get { key } => Answer::Value(self.value(&key)),
            Query::Read(txn) => self.read(&txn),
            Query::View => Answer::View(Box::new(self.view())),
            Query::Stats => Answer::Stats(Box::new(self.stats())),
            Query::Lease { id, keys } => self.lease(id, keys),
            Query::Leases { after, limit } => {
                let (leases, more) = self.state.leases_after(after, limit);
                let revision = self.state.revision;
                Answer::Leases(Box::new(LeasesAnswer { revision, leases, more }))
            }
        }
    }

    fn view(&self) -> StoreView {
        StoreView {
            state: self.state.clone(),
            sessions: self.sessions.table().clone(),
            requests: self.requests.table().clone(),
            digest: self.digest,
        }
    }

    /// Drops the old state first. After an error the store is empty.
    fn load(&mut self, body: &mut dyn io::Read) -> io::Result<()> {
        let limits = self.sessions.limits();
        *self = Store::with_session_limits(limits);
        let StoreView { state, sessions, requests, digest } = snapshot::read(body)?;
        let sessions = Sessions::restore(sessions, limits)
            .ok_or_else(|| snapshot::invalid("sessions that no store of this version holds"))?;
        let requests = Requests::restore(requests, limits)
            .ok_or_else(|| snapshot::invalid("requests that no store of this version holds"))?;
        *self = Store { state, sessions, requests, digest };
        Ok(())
    }

    fn digest(&self) -> Option<u64> {
        Some(self.digest.value())
    }

    fn level(&self) -> Option<u32> {
        Some(self.state.level)
    }

    fn level_max(&self) -> u32 {
        LEVEL_MAX
    }

    fn configurations_level() -> u32 {
        LEVEL_CONFIGURATIONS
    }

    fn level_command(&self, level: u32) -> Bytes {
        Command::unrepeated(Change::RaiseLevel(level)).encode()
    }

    fn is_stamped(command: &[u8]) -> bool {
        Command::is_stamped(command)
    }

    fn keeps_alive(command: &[u8]) -> bool {
        Command::keeps_alive(command)
    }

    fn time(&self) -> AppliedTime {
        let leases = &self.state.leases;
        AppliedTime { newest_ms: leases.time_ms(), next_deadline_ms: leases.next_end_ms() }
    }

    fn time_command() -> Bytes {
        Command::unrepeated(Change::Time).encode()
    }
}

impl Store {
    /// An empty store.
    pub fn new() -> Store {
        Store::default()
    }

    /// An empty store that remembers as much of its clients as `limits` say. For tests and
    /// simulations: the limits decide outcomes, so all members of a cluster need the same.
    pub fn with_session_limits(limits: SessionLimits) -> Store {
        Store {
            state: State::default(),
            sessions: Sessions::new(limits),
            requests: Requests::new(limits),
            digest: Digest::default(),
        }
    }

    /// The value of `key`, or `None` if it is absent.
    pub fn value(&self, key: &[u8]) -> Option<Bytes> {
        self.state.value(key)
    }

    /// How many changes there have been.
    pub fn revision(&self) -> Revision {
        self.state.revision
    }

    /// How much the store holds, and may hold.
    pub fn stats(&self) -> Stats {
        Stats {
            keys: self.state.tree.len(),
            bytes: self.state.tree.bytes(),
            sessions: self.sessions.len(),
            requests: self.requests.len(),
            revision: self.state.revision,
            compacted: self.state.history.compacted(),
            history_bytes: self.state.history.bytes(),
            leases: self.state.leases.len(),
            keys_with_ttl: self.state.leases.own_len(),
            time_ms: self.state.leases.time_ms(),
            limits: self.state.limits,
        }
    }

    /// Calls `see` with each key that was changed after revision `at`, newest first, as far as the
    /// history has it; several times if it was changed at several revisions.
    pub(super) fn changed_after(&self, at: Revision, see: impl FnMut(Revision, &[u8])) {
        self.state.history.newest_first(at, see);
    }

    /// The oldest revision that can be read: all later changes are in the history.
    pub(super) fn compacted(&self) -> Revision {
        self.state.history.compacted()
    }

    /// The entries and their history, without the sessions.
    pub(super) fn state(&self) -> State {
        self.state.clone()
    }

    /// What a new cluster takes over in part.
    pub(super) fn parts_mut(&mut self) -> (&mut State, &mut Sessions) {
        (&mut self.state, &mut self.sessions)
    }

    /// Makes a read at once, or answers with a view if it takes longer.
    fn read(&self, txn: &Txn) -> Answer {
        if txn.reads_the_past() {
            return Answer::View(Box::new(self.view()));
        }
        let mut budget = Budget::of_a_read(QUICK_READ_KEYS_MAX);
        let result = self.state.read(txn, &mut budget);
        match budget.has_run_out {
            true => Answer::View(Box::new(self.view())),
            false => {
                let revision = self.state.revision;
                Answer::Read(Box::new(super::ReadAnswer { revision, result }))
            }
        }
    }

    /// Tells what is known of a lease at once, or answers with a view if that takes longer.
    fn lease(&self, id: LeaseId, keys: bool) -> Answer {
        if keys && self.state.leases.keys_of(id) as u64 > QUICK_READ_KEYS_MAX {
            return Answer::View(Box::new(self.view()));
        }
        let (revision, result) = (self.state.revision, self.state.lease(id, keys));
        Answer::Lease(Box::new(LeaseAnswer { revision, result }))
    }

    /// Every stamp raises the time, whatever becomes of its command: see
    /// [`leases`](super::state::Leases).
    fn apply_stamped(&mut self, entry: LogEntry, command: &Command<&[u8]>) -> Outcome {
        // No member proposes such a command. If one is in the log nevertheless, it has the same
        // outcome everywhere and leaves no session: the limit on client ids bounds the memory of
        // sessions.
        let is_within_limits = command.check_limits().is_ok();
        if let Some(stamp_ms) = entry.stamp_ms {
            let kept = match &command.change {
                Change::LeaseKeepAlive { ids } if is_within_limits => &ids[..],
                _ => &[],
            };
            self.state.pass_time(stamp_ms, kept);
        }
        if is_within_limits { self.apply_once(entry, command) } else { Outcome::TooLarge }
    }

    fn apply_once(&mut self, entry: LogEntry, command: &Command<&[u8]>) -> Outcome {
        let index = entry.index;
        let Command { identity, change } = command;
        let &Identity { client_id, request_id, seen_index } = identity;
        if !command.has_session() {
            return self.carry_out(entry, change);
        }
        match self.sessions.admit(index, client_id, request_id, seen_index) {
            Admission::Repeat(outcome) => outcome,
            Admission::Older => superseded(index, change),
            Admission::Expired => Outcome::SessionExpired { index },
            Admission::New => {
                let outcome = self.carry_out(entry, change);
                self.sessions.record(index, client_id, request_id, outcome.clone());
                outcome
            }
        }
    }

    /// Runs a transaction, unless one with the same key has run.
    fn run_once(&mut self, entry: LogEntry, key: &[u8], fingerprint: u64, txn: &Txn) -> Outcome {
        match self.requests.find(key, fingerprint) {
            Known::Outcome(outcome) => outcome,
            Known::Other => {
                let refusal = Refusal::of(Reason::RequestKeyTaken, 0);
                Outcome::Ran { index: entry.index, result: Err(refusal) }
            }
            Known::Nothing => {
                let result = self.state.run(entry, txn);
                let result = result.map(|ran| (ran.branches, Some(ran.answer)));
                let is_refused = result.is_err();
                let outcome = self.ran(entry.index, result);
                if !is_refused {
                    self.requests.record(entry.index, key, fingerprint, outcome.clone());
                }
                outcome
            }
        }
    }

    fn carry_out(&mut self, entry: LogEntry, change: &Change<&[u8]>) -> Outcome {
        let (index, state) = (entry.index, &mut self.state);
        let result = match change {
            Change::Put { key, value } => return written(index, state.put(key, value)),
            Change::Append { key, value } => return written(index, state.append(key, value)),
            Change::LeaseKeepAlive { ids } => {
                let ttls_ms = state.keep_alive(entry, ids).into();
                return Outcome::KeptAlive { index, revision: state.revision, ttls_ms };
            }
            Change::LeaseGrant { ttl_ms, id } => match state.grant(entry, *id, *ttl_ms) {
                Ok(lease) => {
                    let (revision, ttl_ms) = (state.revision, *ttl_ms);
                    return Outcome::Granted { index, revision, lease, ttl_ms };
                }
                Err(refusal) => Err(refusal),
            },
            Change::Txn(txn) => state.run(entry, txn).map(|ran| (ran.branches, Some(ran.answer))),
            Change::TxnOnce { key, fingerprint, txn } => {
                return self.run_once(entry, key, *fingerprint, txn);
            }
            Change::LeaseRevoke { id } => state.revoke(*id).map(nothing),
            Change::Compact { revision } => state.compact(*revision).map(nothing),
            Change::SetLimits(change) => state.set_limits(*change).map(nothing),
            Change::RaiseLevel(level) => {
                state.level = state.level.max(*level);
                Ok(nothing(()))
            }
            Change::Time => Ok(nothing(())),
        };
        self.ran(index, result)
    }

    fn ran(&self, index: Index, result: Result<(Branches, Option<TxnAnswer>), Refusal>) -> Outcome {
        let revision = self.state.revision;
        let result = result.map(|(branches, answer)| Done {
            revision,
            branches,
            answer: answer.map(Arc::new),
        });
        Outcome::Ran { index, result }
    }
}

/// What became of a put or an append.
fn written(index: Index, result: Result<(), Refusal>) -> Outcome {
    match result.map_err(|refusal| refusal.reason) {
        Ok(()) => Outcome::Applied { index },
        Err(Reason::NoSpace) => Outcome::NoSpace,
        Err(_) => Outcome::TooLarge,
    }
}

/// A command without operations ran.
fn nothing((): ()) -> (Branches, Option<TxnAnswer>) {
    (Branches::default(), None)
}

/// The client has sent a later request. It waits for this one's answer no more.
fn superseded(index: Index, change: &Change<&[u8]>) -> Outcome {
    match change {
        Change::Put { .. } | Change::Append { .. } => Outcome::Applied { index },
        _ => Outcome::Ran { index, result: Err(Refusal::of(Reason::Superseded, 0)) },
    }
}

#[cfg(test)]
mod lease_tests;

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::kv::model::{Action, KeyRange, Operation, OperationAnswer, Range};
    use crate::kv::{
        ANSWER_KEPT_MAX, ANSWERS_KEPT_MAX, CLIENT_ID_LEN_MAX, Identity, KEY_LEN_MAX, VALUE_LEN_MAX,
    };

    fn store_of(sessions_max: usize) -> Store {
        Store::with_session_limits(SessionLimits { sessions_max, ..SessionLimits::default() })
    }

    /// A put outside any session.
    fn put(key: &[u8], value: &[u8]) -> Command {
        let (key, value) = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
        Command::unrepeated(Change::Put { key, value })
    }

    /// An append outside any session.
    fn append(key: &[u8], value: &[u8]) -> Command {
        let (key, value) = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
        Command::unrepeated(Change::Append { key, value })
    }

    fn of_client(client: &str, request_id: i64, seen: u64, command: Command) -> Command {
        let (client_id, seen_index) = (client.to_owned().into(), Index(seen));
        Command { identity: Identity { client_id, request_id, seen_index }, ..command }
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
            match self.0.query(Query::Get { key: Bytes::copy_from_slice(key) }) {
                Answer::Value(value) => assert_eq!(value.as_deref(), expected),
                other => panic!("{other:?}"),
            }
        }
    }

    fn applied(index: u64) -> Outcome {
        Outcome::Applied { index: Index(index) }
    }

    #[test]
    fn put_replaces_and_append_appends() {
        let mut log = Log::new();
        log.check(b"k", None);
        assert_eq!(log.apply(&append(b"k", b"a")), applied(2));
        assert_eq!(log.apply(&append(b"k", b"bc")), applied(3));
        log.check(b"k", Some(b"abc"));
        assert_eq!(log.apply(&put(b"k", b"d")), applied(4));
        log.check(b"k", Some(b"d"));
        assert_eq!(log.apply(&put(b"\0\xff", b"")), applied(5));
        log.check(b"\0\xff", Some(b""));
        log.apply(&append(b"", b""));
        log.check(b"", Some(b""));
        let stats = log.0.stats();
        assert_eq!((stats.keys, stats.bytes, stats.sessions), (3, 4, 0));
        assert_eq!(stats.revision, Revision(6));
    }

    #[test]
    fn a_write_of_a_session_takes_effect_once() {
        let mut log = Log::new();
        let first = of_client("c", 1, 1, append(b"k", b"x"));
        let second = of_client("c", 2, 1, append(b"k", b"y"));
        assert_eq!(log.apply(&first), applied(2));
        assert_eq!(log.apply(&first), applied(2));
        assert_eq!(log.apply(&second), applied(4));
        assert_eq!(log.apply(&first), applied(5));
        log.check(b"k", Some(b"xy"));
        let stats = log.0.stats();
        assert_eq!((stats.keys, stats.bytes, stats.sessions), (1, 3, 1));
        assert_eq!(stats.revision, Revision(3));
    }

    #[test]
    fn a_refusal_is_repeated_even_when_it_would_fit_by_now() {
        let mut log = Log::new();
        log.apply(&put(b"k", &vec![b'v'; VALUE_LEN_MAX]));
        let append = of_client("c", 1, 1, append(b"k", b"x"));
        assert_eq!(log.apply(&append), Outcome::TooLarge);
        assert_eq!(log.0.value(b"k").map(|value| value.len()), Some(VALUE_LEN_MAX));
        log.apply(&put(b"k", b""));
        assert_eq!(log.apply(&append), Outcome::TooLarge);
        log.check(b"k", Some(b""));
    }

    #[test]
    fn a_value_may_grow_to_the_limit_and_not_past_it() {
        let mut log = Log::new();
        log.apply(&put(b"k", &vec![1; VALUE_LEN_MAX - 1]));
        assert_eq!(log.apply(&append(b"k", b"12")), Outcome::TooLarge);
        assert_eq!(log.apply(&append(b"k", b"1")), applied(4));
        assert_eq!(log.apply(&append(b"k", b"")), applied(5));
        assert_eq!(log.apply(&append(b"k", b"1")), Outcome::TooLarge);
    }

    #[test]
    fn a_command_that_no_member_proposes_changes_nothing() {
        let mut log = Log::new();
        assert_eq!(log.0.apply(Index(2), &Bytes::from_static(b"\xff garbage")), Outcome::Malformed);
        assert_eq!(log.0.apply(Index(3), &Bytes::new()), Outcome::Malformed);
        let oversized = put(b"k", &vec![0; VALUE_LEN_MAX + 1]);
        assert_eq!(log.apply(&of_client("c", 1, 1, oversized)), Outcome::TooLarge);
        assert_eq!(log.0.stats(), Store::new().stats());
        assert!(
            CLIENT_ID_LEN_MAX < 256 && KEY_LEN_MAX <= u32::MAX as usize,
            "lengths fit their fields"
        );
    }

    /// A transaction of `client` that increments a key and reads another one.
    fn count(client: &str, request_id: i64) -> Command {
        let then = vec![Action::increment("n", 1).into(), Action::get("k").into()];
        let txn = Txn { then, ..Txn::default() };
        of_client(client, request_id, 1, Command::unrepeated(Change::Txn(txn)))
    }

    fn done(outcome: Outcome) -> Done {
        match outcome {
            Outcome::Ran { result: Ok(done), .. } => done,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_repeat_of_a_transaction_gets_the_first_answer() {
        let mut log = Log::new();
        log.apply(&put(b"k", b"old"));
        let first = log.apply(&count("c", 1));
        log.apply(&put(b"k", b"new"));
        assert_eq!(log.apply(&count("c", 1)), first);
        log.check(b"n", Some(b"1"));
        let answer = done(first).answer.unwrap();
        let OperationAnswer::Range(range) = &answer.answers[1] else { panic!("{answer:?}") };
        assert_eq!(range.entries[0].value, "old");
        // A later request of the same client: nobody waits for the first one's answer any more.
        log.apply(&count("c", 2));
        let refused = Refusal::of(Reason::Superseded, 0);
        let superseded = Outcome::Ran { index: Index(7), result: Err(refused) };
        assert_eq!(log.apply(&count("c", 1)), superseded);
    }

    fn once(key: &'static str, fingerprint: u64) -> Change {
        let then = vec![Action::increment("n", 1).into()];
        Change::TxnOnce { key: key.into(), fingerprint, txn: Txn { then, ..Txn::default() } }
    }

    #[test]
    fn a_request_with_a_key_takes_effect_once_whoever_sends_it() {
        let mut log = Log::new();
        let apply = |log: &mut Log, command: &Command| {
            log.1 += 1;
            let bytes = [&command.encode()[..], &1u64.to_le_bytes()].concat();
            log.0.apply(Index(log.1), &bytes.into())
        };
        let first = apply(&mut log, &of_client("a", 1, 1, Command::unrepeated(once("key", 7))));
        for command in [
            of_client("a", 1, 1, Command::unrepeated(once("key", 7))),
            of_client("a", 2, 1, Command::unrepeated(once("key", 7))),
            of_client("b", 1, 1, Command::unrepeated(once("key", 7))),
            Command::unrepeated(once("key", 7)),
        ] {
            assert_eq!(apply(&mut log, &command), first);
        }
        log.check(b"n", Some(b"1"));
        let Outcome::Ran { result, .. } = apply(&mut log, &Command::unrepeated(once("key", 8)))
        else {
            panic!("a transaction ran")
        };
        assert_eq!(result, Err(Refusal::of(Reason::RequestKeyTaken, 0)));
        apply(&mut log, &Command::unrepeated(once("other", 7)));
        log.check(b"n", Some(b"2"));
        assert_eq!(log.0.stats().requests, 2);
    }

    #[test]
    fn a_long_answer_is_given_once() {
        let mut log = Log::new();
        log.apply(&put(b"k", &vec![0; ANSWER_KEPT_MAX as usize]));
        let first = done(log.apply(&count("c", 1)));
        assert!(first.answer.is_some());
        let forgotten = Done { answer: None, ..first };
        assert_eq!(done(log.apply(&count("c", 1))), forgotten);
        assert_eq!((forgotten.branches.held, forgotten.branches.count), (1, 1));
        log.check(b"n", Some(b"1"));
    }

    #[test]
    fn the_oldest_answers_are_forgotten_first() {
        let mut log = Log::new();
        let len = 1_000_000;
        log.apply(&put(b"k", &vec![0; len]));
        let fits = ANSWERS_KEPT_MAX as usize / (len + 200);
        let client = |n: usize| format!("c{n}");
        (0..fits).for_each(|n| drop(log.apply(&count(&client(n), 1))));
        // A repeat is a use, so now the second one is the oldest.
        let is_known =
            |log: &mut Log, n: usize| done(log.apply(&count(&client(n), 1))).answer.is_some();
        assert!(is_known(&mut log, 0));
        log.apply(&count("one too many", 1));
        assert!(!is_known(&mut log, 1));
        assert!((2..fits).chain([0]).all(|n| is_known(&mut log, n)));
        log.check(b"n", Some((fits + 1).to_string().as_bytes()));
    }

    #[test]
    fn a_read_that_takes_long_is_made_on_a_view() {
        let mut log = Log::new();
        // The operation counts as a key, too.
        let keys = QUICK_READ_KEYS_MAX as u32 - 1;
        (0..keys).for_each(|key| drop(log.apply(&put(&key.to_be_bytes(), b"v"))));
        let all = Action::Range(Range::of(KeyRange::all()));
        let read = Txn { then: vec![all.clone().into()], ..Txn::default() };
        let Answer::Read(quick) = log.0.query(Query::Read(Box::new(read.clone()))) else {
            panic!("a view")
        };
        log.apply(&put(b"one more", b"v"));
        let Answer::View(view) = log.0.query(Query::Read(Box::new(read.clone()))) else {
            panic!("no view")
        };
        // So is one whose operations may fail: none of them failed.
        let operation = Operation { action: all.clone(), may_fail: true };
        let may_fail = Txn { then: vec![operation], ..Txn::default() };
        assert!(matches!(log.0.query(Query::Read(Box::new(may_fail))), Answer::View(_)));
        log.apply(&put(b"after the view", b"v"));
        let answer = view.read(&read, &|| false).unwrap();
        assert_eq!(answer.revision, quick.revision.next());
        let OperationAnswer::Range(range) = &answer.result.unwrap().answers[0] else { panic!() };
        assert_eq!((range.entries.len(), range.count), (keys as usize + 1, keys as u64 + 1));
        let past = Range { at: Revision(2), ..Range::of(KeyRange::all()) };
        let past = Txn { then: vec![Action::Range(past).into()], ..Txn::default() };
        assert!(matches!(log.0.query(Query::Read(Box::new(past))), Answer::View(_)));
        // A read that is told to end does.
        (0..5_000u32).for_each(|key| drop(log.apply(&put(&key.to_be_bytes(), b"v"))));
        assert_eq!(log.0.view().read(&read, &|| true), None);
    }

    #[test]
    fn a_forgotten_session_is_told_so() {
        let mut log = Log(store_of(1), 1);
        let append = of_client("a", 1, 1, append(b"k", b"x"));
        log.apply(&append);
        log.apply(&of_client("b", 1, 1, put(b"other", b"")));
        assert_eq!(log.apply(&append), Outcome::SessionExpired { index: Index(4) });
        log.check(b"k", Some(b"x"));
    }

    #[test]
    fn a_value_keeps_nothing_else_alive() {
        let mut log = Log::new();
        let frame = put(b"k", b"v").encode();
        log.0.apply(Index(2), &frame);
        assert!(frame.is_unique(), "the store holds a slice of the entry");
    }

    #[test]
    fn a_reader_keeps_the_value_it_read() {
        let mut log = Log::new();
        log.apply(&append(b"k", b"a"));
        let read = log.0.value(b"k");
        log.apply(&append(b"k", b"b"));
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
            log.apply(&append(b"k", &[b'x'; 100]));
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
            log.apply(&put(&key.to_le_bytes(), b"value"));
        }
        let started = Instant::now();
        for _ in 0..50_000 {
            log.apply(&put(b"k", b"value"));
            drop(log.0.view());
        }
        // Copying each time would visit 2,500,000,000 keys and take at least a minute. This takes a
        // fraction of a second.
        assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    }
}
