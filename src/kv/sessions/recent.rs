//! [`Recent`]: the sessions of a bounded number of clients, and which was used last.
//!
//! Each write looks up its client's session, changes it, and makes it the newest. All three must be
//! fast however many sessions there are. So a session stays in its slot until it is forgotten; then
//! the slot goes to the next new client. Slots differ between members, and decide nothing. What is
//! kept is in two parts:
//!
//! - the [`Table`]: all that decides outcomes, which is what a snapshot holds. Views share it until
//!   one of the two changes;
//! - the rest, which follows from the table: what finds a session by its client, who is older and
//!   who is newer, and who has an answer.
//!
//! Invariant: sessions are used in the log's order. So the order of the list is that of the last
//! use, on a member that has lived as on one that has loaded a snapshot.

use std::collections::BTreeMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Arc;

use hashbrown::HashTable;
use imbl::Vector;

use crate::kv::outcome::Outcome;
use crate::raft::Index;

/// Everything that later decisions depend on. A clone shares its memory until one of the two
/// changes.
#[derive(Clone, Debug, Default)]
pub(in crate::kv) struct Table {
    /// The sessions in any order, each in its slot.
    sessions: Vector<Session>,
    /// See [`sessions`](super).
    pub(in crate::kv) expired_up_to: Index,
}

/// What is kept of a client.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::kv) struct Session {
    pub(in crate::kv) client: Arc<[u8]>,
    /// The entry that used it last. No two sessions have the same.
    pub(in crate::kv) last_used: Index,
    /// The id of the client's newest request.
    pub(in crate::kv) request_id: i64,
    /// What became of that request.
    pub(in crate::kv) outcome: Outcome,
}

/// Where a session is in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot(u32);

/// What is needed of a session at each write, close together.
#[derive(Debug)]
struct Link {
    client: Arc<[u8]>,
    request_id: i64,
    /// The session that was used just before this one; of the oldest one, itself.
    older: Slot,
    /// The session that was used just after this one; of the newest one, itself.
    newer: Slot,
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Recent {
    table: Table,
    /// By slot.
    links: Vec<Link>,
    /// The ends of the list, if there is a session.
    ends: Option<Ends>,
    /// The slots by the hash of their clients. It is only looked up by client: its order differs
    /// between members and decides nothing.
    by_client: HashTable<Slot>,
    hasher: RandomState,
    /// The sessions whose outcomes have answers, by their last use.
    with_answer: BTreeMap<Index, Slot>,
    /// What these answers have together.
    answers_len: u64,
}

#[derive(Clone, Copy, Debug)]
struct Ends {
    oldest: Slot,
    newest: Slot,
}

impl Table {
    /// A table of no sessions. All that were used up to this index have been forgotten.
    pub(in crate::kv) fn expired(expired_up_to: Index) -> Table {
        Table { sessions: Vector::new(), expired_up_to }
    }

    /// The sessions, the one that was used longest ago first.
    pub(in crate::kv) fn oldest_first(&self) -> Vec<&Session> {
        let mut sessions: Vec<&Session> = self.sessions.iter().collect();
        sessions.sort_unstable_by_key(|session| session.last_used);
        sessions
    }

    /// The highest index at which any session was used, forgotten ones included.
    pub(in crate::kv) fn newest_use(&self) -> Index {
        let uses = self.sessions.iter().map(|session| session.last_used);
        uses.max().unwrap_or(Index::ZERO).max(self.expired_up_to)
    }

    /// Adds a session, in the next slot.
    pub(in crate::kv) fn push(&mut self, session: Session) {
        self.sessions.push_back(session);
    }

    pub(in crate::kv) fn len(&self) -> usize {
        self.sessions.len()
    }

    pub(in crate::kv) fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    fn get(&self, slot: Slot) -> &Session {
        self.sessions.get(slot.at()).expect("a slot that was given has a session")
    }

    fn get_mut(&mut self, slot: Slot) -> &mut Session {
        self.sessions.get_mut(slot.at()).expect("a slot that was given has a session")
    }
}

impl Slot {
    fn new(at: usize) -> Slot {
        Slot(u32::try_from(at).expect("a table has fewer than 2^32 sessions"))
    }

    fn at(self) -> usize {
        self.0 as usize
    }
}

impl Link {
    /// That of a session that is not in the list yet.
    fn alone(session: &Session, slot: Slot) -> Link {
        let (client, request_id) = (Arc::clone(&session.client), session.request_id);
        Link { client, request_id, older: slot, newer: slot }
    }
}

impl Recent {
    /// No sessions, with room for all that finding `len_max` of them takes. Otherwise a write would
    /// have to wait while a large index is moved.
    pub(super) fn new(len_max: usize) -> Recent {
        Recent {
            table: Table::default(),
            links: Vec::with_capacity(len_max),
            ends: None,
            // A full index loses room as clients come and go. One that is half empty need not grow.
            by_client: HashTable::with_capacity(2 * len_max),
            hasher: RandomState::new(),
            with_answer: BTreeMap::new(),
            answers_len: 0,
        }
    }

    /// The sessions of a table, with room for `len_max`. `None`: a client has two.
    pub(super) fn of(table: Table, len_max: usize) -> Option<Recent> {
        let mut recent = Recent { table, ..Recent::new(len_max) };
        let mut by_use = Vec::with_capacity(recent.table.len());
        for (at, session) in recent.table.sessions.iter().enumerate() {
            let slot = Slot::new(at);
            by_use.push((session.last_used, slot));
            recent.links.push(Link::alone(session, slot));
        }
        by_use.sort_unstable_by_key(|&(last_used, _)| last_used);
        for (_, slot) in by_use {
            let client = Arc::clone(&recent.links[slot.at()].client);
            if recent.find(&client).is_some() {
                return None;
            }
            recent.enter(slot);
        }
        Some(recent)
    }

    pub(super) fn table(&self) -> &Table {
        &self.table
    }

    pub(super) fn answers_len(&self) -> u64 {
        self.answers_len
    }

    /// Where the session of `client` is, and the id of its newest request.
    pub(super) fn find(&self, client: &[u8]) -> Option<(Slot, i64)> {
        let hash = self.hasher.hash_one(client);
        let is_it = |slot: &Slot| *self.links[slot.at()].client == *client;
        let slot = *self.by_client.find(hash, is_it)?;
        Some((slot, self.links[slot.at()].request_id))
    }

    pub(super) fn outcome(&self, slot: Slot) -> &Outcome {
        &self.table.get(slot).outcome
    }

    /// The session is used by entry `index`, the newest one.
    pub(super) fn use_at(&mut self, index: Index, slot: Slot) {
        let last_used = std::mem::replace(&mut self.table.get_mut(slot).last_used, index);
        if !self.with_answer.is_empty() && self.with_answer.remove(&last_used).is_some() {
            self.with_answer.insert(index, slot);
        }
        self.make_newest(slot);
    }

    /// The session is used by entry `index`, the newest one, for a request that is newer than all
    /// of its client.
    pub(super) fn renew(&mut self, index: Index, slot: Slot, request_id: i64, outcome: Outcome) {
        self.links[slot.at()].request_id = request_id;
        let session = self.table.get_mut(slot);
        let last_used = std::mem::replace(&mut session.last_used, index);
        session.request_id = request_id;
        let (old, new) = (session.outcome.answer_len_bytes(), outcome.answer_len_bytes());
        session.outcome = outcome;
        self.count_answer(slot, (last_used, old), (index, new));
        self.make_newest(slot);
    }

    /// Adds the session of a client that has none. It is the newest.
    pub(super) fn push(&mut self, session: Session) {
        let slot = Slot::new(self.table.len());
        self.links.push(Link::alone(&session, slot));
        self.table.push(session);
        self.enter(slot);
    }

    /// Forgets the oldest session, of which there has to be one, for that of a client that has
    /// none. It is the newest.
    pub(super) fn replace_oldest(&mut self, session: Session) {
        let slot = self.ends.expect("who forgets a session has one").oldest;
        let hash = self.hasher.hash_one(&*self.links[slot.at()].client);
        let entry = self.by_client.find_entry(hash, |other| *other == slot);
        entry.expect("each session is found by its client").remove();
        let link = &mut self.links[slot.at()];
        (link.client, link.request_id) = (session.client.clone(), session.request_id);
        self.index(slot);
        let new = (session.last_used, session.outcome.answer_len_bytes());
        let old = std::mem::replace(self.table.get_mut(slot), session);
        self.count_answer(slot, (old.last_used, old.outcome.answer_len_bytes()), new);
        self.make_newest(slot);
        assert!(
            old.last_used > self.table.expired_up_to,
            "sessions are forgotten in the order of their last use"
        );
        self.table.expired_up_to = old.last_used;
    }

    /// Takes the answer from the outcome of the session that was used longest ago of those that
    /// have one. There has to be one.
    pub(super) fn forget_oldest_answer(&mut self) {
        let (last_used, slot) =
            self.with_answer.pop_first().expect("what has a length has an answer");
        let session = self.table.get_mut(slot);
        assert_eq!(session.last_used, last_used, "answers are filed under their last use");
        self.answers_len -= session.outcome.answer_len_bytes();
        session.outcome = session.outcome.clone().without_answer();
    }

    /// Makes the session in a slot a part of all that follows from the table. It is the newest.
    fn enter(&mut self, slot: Slot) {
        self.index(slot);
        let session = self.table.get(slot);
        let (index, len) = (session.last_used, session.outcome.answer_len_bytes());
        self.count_answer(slot, (index, 0), (index, len));
        match &mut self.ends {
            Some(ends) => {
                let before = std::mem::replace(&mut ends.newest, slot);
                self.join(before, slot);
            }
            None => self.ends = Some(Ends { oldest: slot, newest: slot }),
        }
    }

    /// Adds a slot to `by_client`, under the hash of its client.
    fn index(&mut self, slot: Slot) {
        let (links, hasher) = (&self.links, &self.hasher);
        let hash_of = |slot: &Slot| hasher.hash_one(&*links[slot.at()].client);
        self.by_client.insert_unique(hash_of(&slot), slot, hash_of);
    }

    /// Notes that an answer, filed under the first index, has given way to another. Their lengths
    /// are in bytes; 0: no answer.
    fn count_answer(
        &mut self,
        slot: Slot,
        (last_used, old_len): (Index, u64),
        (index, new_len): (Index, u64),
    ) {
        if old_len > 0 {
            self.with_answer.remove(&last_used);
        }
        if new_len > 0 {
            self.with_answer.insert(index, slot);
        }
        self.answers_len = self.answers_len - old_len + new_len;
    }

    /// Moves a session to the newest end of the list.
    fn make_newest(&mut self, slot: Slot) {
        let ends = self.ends.as_mut().expect("a list with a session has ends");
        if ends.newest == slot {
            return;
        }
        let before = std::mem::replace(&mut ends.newest, slot);
        let &Link { older, newer, .. } = &self.links[slot.at()];
        if ends.oldest == slot {
            ends.oldest = newer;
            self.links[newer.at()].older = newer;
        } else {
            self.join(older, newer);
        }
        self.links[slot.at()].newer = slot;
        self.join(before, slot);
    }

    fn join(&mut self, older: Slot, newer: Slot) {
        self.links[older.at()].newer = newer;
        self.links[newer.at()].older = older;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::kv::model::{OperationAnswer, Revision, TxnAnswer};
    use crate::kv::outcome::{Branches, Done};

    /// As long as an answer of so many operations is; none: no answer.
    fn outcome(index: u64, operations: usize) -> Outcome {
        let answers = vec![OperationAnswer::Increment { value: 7 }; operations];
        let answer = TxnAnswer { held: true, answers };
        let done = Done {
            revision: Revision(index),
            branches: Branches::default(),
            answer: (operations > 0).then(|| Arc::new(answer)),
        };
        Outcome::Ran { index: Index(index), result: Ok(done) }
    }

    fn session(client: u32, index: u64, outcome: Outcome) -> Session {
        let client = client.to_string().into_bytes().into();
        Session { client, last_used: Index(index), request_id: index as i64, outcome }
    }

    /// The simplest table: the sessions, the oldest first.
    #[derive(Default)]
    struct Model {
        sessions: Vec<Session>,
        expired_up_to: Index,
    }

    impl Model {
        /// Entry `index` uses the session of `client`, for a new request with this outcome, or for
        /// a repeat. Does the same with `recent`.
        fn use_at(
            &mut self,
            recent: &mut Recent,
            len_max: usize,
            (index, client): (u64, u32),
            renewed: Option<Outcome>,
        ) {
            let new = session(client, index, renewed.clone().unwrap_or_else(|| outcome(index, 0)));
            let found = recent.find(&new.client);
            let known = self.sessions.iter().position(|it| it.client == new.client);
            let (request_id, index) = (new.request_id, new.last_used);
            let used = match (found, known) {
                (Some((slot, newest)), Some(at)) => {
                    let old = self.sessions.remove(at);
                    assert_eq!(newest, old.request_id);
                    match renewed {
                        None => {
                            recent.use_at(index, slot);
                            Session { last_used: index, ..old }
                        }
                        Some(outcome) => {
                            recent.renew(index, slot, request_id, outcome);
                            new
                        }
                    }
                }
                (None, None) if self.sessions.len() == len_max => {
                    self.expired_up_to = self.sessions.remove(0).last_used;
                    recent.replace_oldest(new.clone());
                    new
                }
                (None, None) => {
                    recent.push(new.clone());
                    new
                }
                _ => panic!("{client} is found: {found:?}; is there: {known:?}"),
            };
            self.sessions.push(used);
        }

        fn forget_oldest_answer(&mut self) {
            let has_answer = |it: &&mut Session| it.outcome.answer_len_bytes() > 0;
            let oldest = self.sessions.iter_mut().find(has_answer).expect("there is one");
            oldest.outcome = oldest.outcome.clone().without_answer();
        }

        fn check(&self, recent: &Recent) {
            assert_eq!(recent.table.expired_up_to, self.expired_up_to);
            let listed = listed(recent);
            assert_eq!(listed.len(), recent.links.len());
            assert_eq!(recent.by_client.len(), recent.links.len());
            let sessions: Vec<&Session> =
                listed.iter().map(|slot| recent.table.get(*slot)).collect();
            assert_eq!(sessions, self.sessions.iter().collect::<Vec<_>>());
            assert_eq!(sessions, recent.table.oldest_first());
            let with_answer: Vec<(Index, Slot)> = listed
                .iter()
                .map(|&slot| (recent.table.get(slot), slot))
                .filter(|(session, _)| session.outcome.answer_len_bytes() > 0)
                .map(|(session, slot)| (session.last_used, slot))
                .collect();
            assert!(recent.with_answer.iter().map(|(&index, &slot)| (index, slot)).eq(with_answer));
            let lens = sessions.iter().map(|session| session.outcome.answer_len_bytes());
            assert_eq!(recent.answers_len, lens.sum::<u64>());
        }
    }

    /// The list from its oldest end to its newest, which is the same in both directions.
    fn listed(recent: &Recent) -> Vec<Slot> {
        let Some(Ends { oldest, newest }) = recent.ends else { return Vec::new() };
        let mut slots = vec![oldest];
        assert_eq!(recent.links[oldest.at()].older, oldest);
        while let Some(&slot) = slots.last().filter(|&&slot| slot != newest) {
            let newer = recent.links[slot.at()].newer;
            assert_eq!(recent.links[newer.at()].older, slot);
            slots.push(newer);
        }
        assert_eq!(recent.links[newest.at()].newer, newest);
        slots
    }

    fn reborn(recent: &Recent, len_max: usize) -> Recent {
        Recent::of(recent.table.clone(), len_max).expect("no client is there twice")
    }

    proptest! {
        #[test]
        fn the_oldest_is_known_whatever_is_used(
            len_max in 1usize..6,
            uses in prop::collection::vec((0u32..8, 0usize..9), 0..100),
        ) {
            let (mut recent, mut model) = (Recent::new(len_max), Model::default());
            for (index, (client, what)) in (1u64..).zip(uses) {
                let renewed = (what < 4).then(|| outcome(index, what));
                model.use_at(&mut recent, len_max, (index, client), renewed);
                if what == 4 && recent.answers_len() > 0 {
                    recent.forget_oldest_answer();
                    model.forget_oldest_answer();
                }
                if what == 5 {
                    recent = reborn(&recent, len_max);
                }
                model.check(&recent);
            }
        }
    }

    /// More sessions than one node of the table has, and more clients that come and go than the
    /// index has room for. Views stay as they were.
    #[test]
    fn thousands_of_clients_come_and_go() {
        const LEN_MAX: usize = 3_000;
        let mut rng = fastrand::Rng::with_seed(7);
        let (mut recent, mut model) = (Recent::new(LEN_MAX), Model::default());
        let room = recent.by_client.capacity();
        let mut views = Vec::new();
        for index in 1..=30_000u64 {
            let renewed = rng.bool().then(|| outcome(index, 0));
            model.use_at(&mut recent, LEN_MAX, (index, rng.u32(..5_000)), renewed);
            if index % 10_000 == 0 {
                model.check(&recent);
                views.push((recent.table.clone(), model.sessions.clone()));
                recent = reborn(&recent, LEN_MAX);
            }
        }
        model.check(&recent);
        for (table, sessions) in &views {
            assert!(table.oldest_first().into_iter().eq(sessions));
        }
        assert_eq!(recent.by_client.capacity(), room, "the index was moved");
    }
}
