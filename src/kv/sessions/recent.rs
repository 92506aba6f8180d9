//! [`Recent`]: the sessions of a bounded number of clients, and which was used last.
//!
//! Each write of a client looks its session up, changes it and makes it the newest. So each of
//! these takes the same time for any number of sessions, and touches little memory. A session keeps
//! its slot for ever; when it is forgotten, the next client's takes its place. What is kept of it
//! is in two parts:
//!
//! | part | what it has | shared with views |
//! | --- | --- | --- |
//! | [`Table`] | all that decides outcomes: what a snapshot holds | yes, until one of the two changes |
//! | `links` | who is older and who is newer, as a list through the slots | no: it follows from the table |

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
    /// No sessions: all were forgotten that were used up to an index.
    pub(in crate::kv) fn expired(expired_up_to: Index) -> Table {
        Table { sessions: Vector::new(), expired_up_to }
    }

    /// The sessions, the one that was used longest ago first.
    pub(in crate::kv) fn oldest_first(&self) -> Vec<&Session> {
        let mut sessions: Vec<&Session> = self.sessions.iter().collect();
        sessions.sort_unstable_by_key(|session| session.last_used);
        sessions
    }

    /// The last use of any session that is there or was forgotten.
    pub(in crate::kv) fn newest_use(&self) -> Index {
        let uses = self.sessions.iter().map(|session| session.last_used);
        uses.max().unwrap_or(Index::ZERO).max(self.expired_up_to)
    }

    /// Adds a session that was used after all others.
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

/// Tables are equal if they have the same sessions, whatever their slots.
impl PartialEq for Table {
    fn eq(&self, other: &Table) -> bool {
        self.expired_up_to == other.expired_up_to && self.oldest_first() == other.oldest_first()
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

impl Recent {
    /// No sessions, with all the room that the finding of `len_max` needs. Otherwise a write would
    /// have to wait while a large index is moved.
    pub(super) fn new(len_max: usize) -> Recent {
        Recent {
            table: Table::default(),
            links: Vec::new(),
            ends: None,
            by_client: HashTable::with_capacity(len_max),
            hasher: RandomState::new(),
            with_answer: BTreeMap::new(),
            answers_len: 0,
        }
    }

    /// The sessions of a table, with room for `len_max`. `None`: a client has two.
    pub(super) fn of(table: &Table, len_max: usize) -> Option<Recent> {
        let mut recent = Recent::new(len_max);
        recent.table.expired_up_to = table.expired_up_to;
        for session in table.oldest_first() {
            if recent.find(&session.client).is_some() {
                return None;
            }
            recent.push(session.clone());
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
        if !self.with_answer.is_empty()
            && let Some(slot) = self.with_answer.remove(&last_used)
        {
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
        let (index, len) = (session.last_used, session.outcome.answer_len_bytes());
        // It is alone until it has become a part of the list.
        self.links.push(Link {
            client: session.client.clone(),
            request_id: session.request_id,
            older: slot,
            newer: slot,
        });
        self.table.push(session);
        self.index(slot);
        self.count_answer(slot, (index, 0), (index, len));
        match &mut self.ends {
            Some(ends) => {
                let before = std::mem::replace(&mut ends.newest, slot);
                self.join(before, slot);
            }
            None => self.ends = Some(Ends { oldest: slot, newest: slot }),
        }
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
        // Sessions are used in the log's order, so the oldest one left was used after all forgotten
        // ones.
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

    /// Makes a session found by its client.
    fn index(&mut self, slot: Slot) {
        let (links, hasher) = (&self.links, &self.hasher);
        let hash_of = |slot: &Slot| hasher.hash_one(&*links[slot.at()].client);
        self.by_client.insert_unique(hash_of(&slot), slot, hash_of);
    }

    /// A session had an answer of this length at its last use, and has another now.
    fn count_answer(&mut self, slot: Slot, (last_used, old): (Index, u64), new: (Index, u64)) {
        if old > 0 {
            self.with_answer.remove(&last_used);
        }
        if new.1 > 0 {
            self.with_answer.insert(new.0, slot);
        }
        self.answers_len = self.answers_len - old + new.1;
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

    fn session(client: u8, last_used: u64) -> Session {
        let outcome = Outcome::Applied { index: Index(last_used) };
        Session { client: [client].into(), last_used: Index(last_used), request_id: 1, outcome }
    }

    /// The list from its oldest end to its newest, and that it is the same in both directions.
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

    proptest! {
        #[test]
        fn the_list_is_in_the_order_of_use(
            len_max in 1usize..6,
            uses in prop::collection::vec((any::<u8>(), 0..3), 0..100),
        ) {
            let mut recent = Recent::new(len_max);
            let mut model: Vec<(u8, u64)> = Vec::new();
            for (index, (client, how)) in (1u64..).zip(uses) {
                let client = client % 8;
                let known = model.iter().position(|&(other, _)| other == client);
                let found = recent.find(&[client]);
                prop_assert_eq!(found.is_some(), known.is_some());
                match (found, known) {
                    (Some((slot, _)), Some(at)) => {
                        model.remove(at);
                        match how {
                            0 => recent.use_at(Index(index), slot),
                            _ => {
                                let outcome = Outcome::Applied { index: Index(index) };
                                recent.renew(Index(index), slot, index as i64, outcome);
                            }
                        }
                    }
                    _ if model.len() == len_max => {
                        let (_, last_used) = model.remove(0);
                        recent.replace_oldest(session(client, index));
                        prop_assert_eq!(recent.table().expired_up_to, Index(last_used));
                    }
                    _ => recent.push(session(client, index)),
                }
                model.push((client, index));
                let slots = listed(&recent);
                let in_list: Vec<(u8, u64)> = slots.iter().map(|&slot| {
                    let session = recent.table.get(slot);
                    (session.client[0], session.last_used.0)
                }).collect();
                prop_assert_eq!(&in_list, &model);
                let again = Recent::of(recent.table(), len_max).expect("no client is there twice");
                prop_assert_eq!(again.table(), recent.table());
            }
        }
    }
}
