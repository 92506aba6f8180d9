//! [`Sessions`]: how a write that is in the log twice takes effect once.
//!
//! For each client, the table keeps the newest request id and its outcome. A request id that is not
//! newer is a repeat: it changes nothing and gets the first outcome again. The first id of a client
//! may be any number. The table no longer has the outcomes of ids older than the newest. A client
//! has one write outstanding at a time, so it does not wait for the answer to an older one: a put
//! or an append is answered as done, and anything else as superseded.
//!
//! # Answers
//! The outcome of a transaction has an answer, which may have megabytes. The table keeps answers of
//! up to [`ANSWER_KEPT_MAX`] each and [`ANSWERS_KEPT_MAX`] in all; the client whose last request
//! has the lowest index loses its answer first. What is left of such an outcome says that the
//! transaction took effect, at which revision, and which branches ran. An answer is never computed
//! again from a later state: a repeat would be told of a state that its first copy never saw.
//! Whether a write is a repeat does not depend on answers, so the proof below does not either.
//!
//! # What is forgotten, and why no write is applied twice nevertheless
//!
//! The table holds a bounded number of clients. It forgets the client whose last request has the
//! lowest log index, which is the same on all members. A retry from a forgotten client looks like
//! the first request of a new client. Two indexes tell them apart:
//!
//! - Each write carries `seen_index`: an applied index that the client had learned *before it first
//!   sent* the write. Retries repeat it.
//! - The table has `expired_up_to`: the highest index at which any forgotten session was last used.
//!
//! The rule for a client that is not in the table:
//!
//! ```text
//! seen_index <  expired_up_to   refused: Expired. It may have been applied and forgotten
//! seen_index >= expired_up_to   admitted: it has not been applied before
//! ```
//!
//! Proof of the second line. Suppose the write was applied before, at index `a`, and its client has
//! been forgotten since.
//!
//! 1. `a > seen_index`. Entry `seen_index` was applied, hence committed, before the write was first
//!    sent, and so was every entry below it. So none of these entries is this write, and by leader
//!    completeness (Raft §5.4.3) none becomes it later. A client that has learned no index yet
//!    sends 1: the first entry of any log is a leader's no-op (Raft §8).
//! 2. When the client was forgotten, it was in the table and last used at `a` or later.
//!    `expired_up_to` has been at least that since, because it never falls.
//! 3. So `expired_up_to >= a > seen_index`, and the first line applies, not the second. ∎
//!
//! While the client is in the table, the newest request id is enough: a late copy of a write that
//! was applied is not newer. If a client is forgotten and admitted again with a newer write, copies
//! of its older writes are not newer than that one. If it is then forgotten again, step 2 holds as
//! before.
//!
//! A write that was refused as Expired stays refused, because `expired_up_to` never falls and the
//! write's `seen_index` never changes. So a client that knows that no earlier copy was applied may
//! begin a new session at once. Otherwise the outcome is unknown and is reported as such, but
//! nothing happens twice.
//!
//! # Left out
//!
//! Clients of the documented system know no index and send `seen_index` 0. They are always
//! admitted. A retry of theirs would be applied again if [`SESSIONS_MAX`](super::SESSIONS_MAX)
//! other clients have written in between. The rule of the documented system has no better answer.

mod recent;

use std::cmp::Ordering;

use recent::Recent;
pub(super) use recent::{Session, Table};

use super::outcome::Outcome;
use crate::raft::Index;

/// The longest answer that is kept for a repeat, by [`TxnAnswer::len_bytes`]: 1 MiB. Every member
/// applies this limit and the next one alike; both belong to feature level 1.
///
/// [`TxnAnswer::len_bytes`]: super::model::TxnAnswer::len_bytes
pub const ANSWER_KEPT_MAX: u64 = 1 << 20;

/// How much the answers that are kept may have together: 32 MiB.
pub const ANSWERS_KEPT_MAX: u64 = 32 << 20;

/// What a table of sessions may hold. These limits decide outcomes, so all members of a cluster
/// need the same. Only tests and simulations use others than the default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionLimits {
    /// How many clients are remembered, at least 1. Default [`SESSIONS_MAX`](super::SESSIONS_MAX).
    pub sessions_max: usize,
    /// How many keys of requests are remembered, at least 1. Default
    /// [`REQUESTS_MAX`](super::REQUESTS_MAX).
    pub requests_max: usize,
    /// The longest answer that is kept, in bytes. Default [`ANSWER_KEPT_MAX`].
    pub answer_kept_max: u64,
    /// How much the answers that are kept may have together, in bytes. Default
    /// [`ANSWERS_KEPT_MAX`].
    pub answers_kept_max: u64,
}

impl Default for SessionLimits {
    fn default() -> SessionLimits {
        SessionLimits {
            sessions_max: super::SESSIONS_MAX,
            requests_max: super::REQUESTS_MAX,
            answer_kept_max: ANSWER_KEPT_MAX,
            answers_kept_max: ANSWERS_KEPT_MAX,
        }
    }
}

/// The sessions of all clients, as of one log index.
#[derive(Debug)]
pub struct Sessions {
    recent: Recent,
    limits: SessionLimits,
}

/// What to do with a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Apply it, then [`record`](Sessions::record) its outcome.
    New,
    /// It was applied before. Answer with this outcome and change nothing.
    Repeat(Outcome),
    /// The client has sent a later write since. This one may have been applied before. Change
    /// nothing.
    Older,
    /// Its session may have been forgotten. Change nothing.
    Expired,
}

impl Sessions {
    /// An empty table that never holds more than `limits`.
    pub fn new(limits: SessionLimits) -> Sessions {
        let len_max = limits.sessions_max;
        assert!(len_max > 0, "a table of no sessions would forget each write at once");
        Sessions { recent: Recent::new(len_max), limits }
    }

    /// Decides what to do with the write `request_id` of `client`, which is entry `index` of the
    /// log. A repeat counts as a use of the session.
    pub fn admit(
        &mut self,
        index: Index,
        client: &[u8],
        request_id: i64,
        seen_index: Index,
    ) -> Admission {
        let Some((slot, newest)) = self.recent.find(client) else {
            let is_expired = seen_index > Index::ZERO && seen_index < self.expired_up_to();
            return if is_expired { Admission::Expired } else { Admission::New };
        };
        let admission = match request_id.cmp(&newest) {
            Ordering::Greater => return Admission::New,
            Ordering::Equal => Admission::Repeat(self.recent.outcome(slot).clone()),
            Ordering::Less => Admission::Older,
        };
        self.recent.use_at(index, slot);
        admission
    }

    /// Keeps the outcome of a write that was [`New`](Admission::New). Forgets the oldest session if
    /// there is no room.
    pub fn record(&mut self, index: Index, client: &[u8], request_id: i64, outcome: Outcome) {
        let outcome = match outcome.answer_len_bytes() > self.limits.answer_kept_max {
            true => outcome.without_answer(),
            false => outcome,
        };
        if let Some((slot, _)) = self.recent.find(client) {
            self.recent.renew(index, slot, request_id, outcome);
        } else {
            let session = Session { client: client.into(), last_used: index, request_id, outcome };
            match self.len() == self.limits.sessions_max {
                true => self.recent.replace_oldest(session),
                false => self.recent.push(session),
            }
        }
        // Until the answers that are left have the length that they may have.
        while self.recent.answers_len() > self.limits.answers_kept_max {
            self.recent.forget_oldest_answer();
        }
    }

    /// The newest write of `client`, and its outcome. To ask is no use of the session.
    pub(super) fn newest_of(&self, client: &[u8]) -> Option<(i64, &Outcome)> {
        let (slot, newest) = self.recent.find(client)?;
        Some((newest, self.recent.outcome(slot)))
    }

    /// How many clients are remembered.
    pub fn len(&self) -> usize {
        self.table().len()
    }

    /// Whether no client is remembered.
    pub fn is_empty(&self) -> bool {
        self.table().is_empty()
    }

    /// The highest index at which any forgotten session was last used. Zero: none has been
    /// forgotten.
    pub fn expired_up_to(&self) -> Index {
        self.table().expired_up_to
    }

    pub(super) fn table(&self) -> &Table {
        self.recent.table()
    }

    pub(super) fn limits(&self) -> SessionLimits {
        self.limits
    }

    /// Sessions from the table of a snapshot. `None`: the table is too long, has a client twice, or
    /// has too many answers.
    pub(super) fn restore(table: Table, limits: SessionLimits) -> Option<Sessions> {
        if table.len() > limits.sessions_max {
            return None;
        }
        let recent = Recent::of(table, limits.sessions_max)?;
        let is_sound = recent.answers_len() <= limits.answers_kept_max;
        is_sound.then_some(Sessions { recent, limits })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    // Any outcome that differs from the answer to an older id.
    const OK: Outcome = Outcome::TooLarge;

    fn of_at_most(sessions_max: usize) -> Sessions {
        Sessions::new(SessionLimits { sessions_max, ..SessionLimits::default() })
    }

    /// Admits a write and, if it is new, records it.
    fn apply(
        sessions: &mut Sessions,
        index: u64,
        client: &str,
        request_id: i64,
        seen: u64,
    ) -> Admission {
        let admission = sessions.admit(Index(index), client.as_bytes(), request_id, Index(seen));
        if admission == Admission::New {
            sessions.record(Index(index), client.as_bytes(), request_id, OK);
        }
        admission
    }

    #[test]
    fn a_repeat_gets_the_first_outcome() {
        let sessions = &mut of_at_most(2);
        assert_eq!(apply(sessions, 2, "a", 7, 0), Admission::New);
        assert_eq!(apply(sessions, 3, "a", 7, 0), Admission::Repeat(OK));
        assert_eq!(apply(sessions, 4, "a", 8, 0), Admission::New);
        assert_eq!(apply(sessions, 5, "a", 7, 0), Admission::Older);
        assert_eq!(apply(sessions, 6, "a", i64::MIN, 0), Admission::Older);
        assert_eq!(apply(sessions, 7, "a", 8, 0), Admission::Repeat(OK));
    }

    #[test]
    fn the_first_id_may_be_any() {
        let sessions = &mut of_at_most(3);
        for (index, first) in [(2, i64::MIN), (3, 0), (4, i64::MAX)] {
            assert_eq!(apply(sessions, index, &first.to_string(), first, 1), Admission::New);
        }
    }

    #[test]
    fn the_least_recently_used_is_forgotten_and_its_retry_refused() {
        let sessions = &mut of_at_most(2);
        apply(sessions, 2, "a", 1, 1);
        apply(sessions, 3, "b", 1, 1);
        apply(sessions, 4, "a", 1, 1); // A repeat is a use: now b is the oldest.
        apply(sessions, 5, "c", 1, 1);
        assert_eq!((sessions.len(), sessions.expired_up_to()), (2, Index(3)));
        assert_eq!(apply(sessions, 6, "b", 1, 1), Admission::Expired);
        assert_eq!(apply(sessions, 7, "b", 2, 2), Admission::Expired);
        assert_eq!(apply(sessions, 8, "a", 1, 1), Admission::Repeat(OK));
        // The client had seen index 3 before it sent this write, so the write is newer than all
        // that was forgotten.
        assert_eq!(apply(sessions, 9, "b", 2, 3), Admission::New);
        // A client of the documented system is always admitted.
        assert_eq!(apply(sessions, 10, "c", 1, 0), Admission::New);
    }

    /// A cluster's log and clients, with a table that never forgets next to the bounded one.
    #[derive(Clone, Default)]
    struct Model {
        applied: BTreeSet<(usize, i64)>,
        unbounded: BTreeMap<usize, i64>,
        sent: Vec<(usize, i64, u64)>,
        newest: BTreeMap<usize, i64>,
        forgotten_ever: bool,
    }

    impl Model {
        /// A client's next write, sent after it had learned of `seen`.
        fn send(&mut self, client: usize, seen: u64) -> (usize, i64, u64) {
            let request_id =
                *self.newest.entry(client).and_modify(|newest| *newest += 1).or_insert(1);
            self.sent.push((client, request_id, seen));
            (client, request_id, seen)
        }

        /// Entry `index` of the log is a copy of this write. Asserts all that the table promises.
        fn deliver(
            &mut self,
            sessions: &mut Sessions,
            index: u64,
            (client, request_id, seen): (usize, i64, u64),
        ) {
            let is_forgotten = sessions.newest_of(client.to_string().as_bytes()).is_none();
            let before = sessions.expired_up_to();
            let admission = apply(sessions, index, &client.to_string(), request_id, seen);
            self.forgotten_ever |= sessions.expired_up_to() > Index::ZERO;
            let newest = self.unbounded.get(&client).copied();
            let is_new = newest.is_none_or(|newest| request_id > newest);
            match admission {
                Admission::New => {
                    assert!(self.applied.insert((client, request_id)), "applied twice")
                }
                Admission::Repeat(_) | Admission::Older => {
                    assert!(!is_new, "a first write was taken for a repeat")
                }
                Admission::Expired => assert!(is_forgotten && seen < before.0),
            }
            if admission == Admission::New {
                assert!(is_new, "a table that forgets nothing would have known it");
                self.unbounded.insert(client, request_id);
            }
            // No write is refused without need.
            if is_new && (!is_forgotten || Index(seen) >= before) {
                assert_eq!(admission, Admission::New);
            }
        }
    }

    /// Every history of `steps` entries. At each step, one of two clients sends a new write,
    /// knowing all or nothing, or any write that was ever sent arrives again. Returns how many
    /// histories there are.
    fn every_history(
        model: &Model,
        rebuild: &mut Vec<(usize, i64, u64)>,
        steps: usize,
        len_max: usize,
    ) -> usize {
        if steps == 0 {
            return 1;
        }
        let index = rebuild.len() as u64 + 2;
        let mut count = 0;
        let mut choices: Vec<(Option<usize>, (usize, u64))> =
            (0..model.sent.len()).map(|i| (Some(i), (0, 0))).collect();
        choices.extend(
            [0, 1]
                .into_iter()
                .flat_map(|client| [(None, (client, 1)), (None, (client, index - 1))]),
        );
        for (again, (client, seen)) in choices {
            let mut model = model.clone();
            let write = match again {
                Some(i) => model.sent[i],
                None => model.send(client, seen),
            };
            let mut sessions = of_at_most(len_max);
            for (i, &(client, request_id, seen)) in rebuild.iter().enumerate() {
                apply(&mut sessions, i as u64 + 2, &client.to_string(), request_id, seen);
            }
            model.deliver(&mut sessions, index, write);
            rebuild.push(write);
            count += every_history(&model, rebuild, steps - 1, len_max);
            rebuild.pop();
        }
        count
    }

    #[test]
    fn no_short_history_applies_a_write_twice() {
        // There are 4 ways to begin, and one more after each step that sent something new.
        let count = every_history(&Model::default(), &mut Vec::new(), 7, 1);
        assert!(count > 300_000, "{count}");
    }

    proptest! {
        #[test]
        fn no_long_history_applies_a_write_twice(
            len_max in 1usize..5,
            steps in prop::collection::vec((0..3, 0usize..7, any::<prop::sample::Index>()), 1..200),
        ) {
            let mut sessions = of_at_most(len_max);
            let mut model = Model::default();
            let mut index = 1;
            for (what, client, choice) in steps {
                // A client may have learned any index that was applied before it sends.
                let seen = 1 + choice.index(index as usize) as u64;
                let write = match what {
                    0 => model.send(client, seen),
                    // Sent. It arrives when it is chosen below.
                    1 => {
                        model.send(client, seen);
                        continue;
                    }
                    _ if model.sent.is_empty() => continue,
                    _ => model.sent[choice.index(model.sent.len())],
                };
                index += 1;
                model.deliver(&mut sessions, index, write);
            }
            prop_assert!(sessions.len() <= len_max);
            prop_assert_eq!(model.forgotten_ever, sessions.expired_up_to() > Index::ZERO);
        }
    }
}
