//! A member's state machine, and who waits for the result of an entry: what a node's applier does.

use std::collections::VecDeque;
use std::sync::Arc;

use syncraft::kv::model::{
    Action, Change, Entry as StoredEntry, KeyRange, OperationAnswer, Range, Refusal, Revision, Txn,
    WatchRange,
};
use syncraft::kv::{Answer, Outcome, Query, SessionLimits, Stats, Store, StoreView};
use syncraft::node::{StateMachine, StateView};
use syncraft::raft::{AppliedTime, Configuration, Entry, Index, Payload, RequestId, Term};
use syncraft::storage::Snapshot;

use crate::clerk::Read;

pub(crate) struct Machine {
    store: Store,
    /// The last entry that the state holds.
    applied: Index,
    /// The configuration in force at that entry.
    configuration: Option<Arc<Configuration>>,
    /// The end of the snapshot that the state began with, or was replaced by.
    loaded: Index,
    /// Proposals in the log, in order.
    expected: VecDeque<(Index, Term, RequestId)>,
}

/// The result of an entry.
pub(crate) struct Applied {
    /// `None`: it carries no command.
    pub(crate) outcome: Option<Outcome>,
    /// The request that waits for this index, and whether this is the entry that it waits for.
    pub(crate) expected: Option<(RequestId, bool)>,
}

impl Machine {
    /// Nothing is applied.
    pub(crate) fn new(limits: SessionLimits) -> Machine {
        Machine {
            store: Store::with_session_limits(limits),
            applied: Index::ZERO,
            configuration: None,
            loaded: Index::ZERO,
            expected: VecDeque::new(),
        }
    }

    /// The state of a snapshot replaces this one.
    pub(crate) fn load(&mut self, snapshot: &Snapshot) {
        let mut body = snapshot.reader().expect("what was verified can be read");
        self.store.load(&mut body).expect("a store reads what a store wrote");
        let index = snapshot.meta().last_included_index;
        (self.applied, self.loaded) = (index, index);
        self.configuration = snapshot.configuration().cloned();
    }

    /// The state is written out and read in again.
    pub(crate) fn reborn(&mut self) {
        let mut body = Vec::new();
        self.store.view().write(&mut body).expect("a buffer grows");
        self.store.load(&mut &body[..]).expect("a store reads what a store wrote");
    }

    /// The state, and the last entry in it.
    pub(crate) fn view(&self) -> (Index, StoreView) {
        (self.applied, self.store.view())
    }

    pub(crate) fn expect(&mut self, index: Index, term: Term, id: RequestId) {
        self.expected.push_back((index, term, id));
    }

    /// The leadership is lost: nobody knows what becomes of these.
    pub(crate) fn give_up(&mut self) -> Vec<RequestId> {
        self.expected.drain(..).map(|(_, _, id)| id).collect()
    }

    pub(crate) fn apply(&mut self, entry: &Entry) -> Applied {
        let outcome = match &entry.payload {
            Payload::Noop => None,
            Payload::Configuration(configuration) => {
                self.configuration = Some(configuration.clone());
                None
            }
            Payload::Command(command) => Some(self.store.apply(entry.index, command)),
        };
        self.applied = entry.index;
        let is_next = self.expected.front().is_some_and(|(index, ..)| *index == entry.index);
        let expected = is_next.then(|| self.expected.pop_front()).flatten();
        Applied { outcome, expected: expected.map(|(_, term, id)| (id, term == entry.term)) }
    }

    /// A read of the state as it is now. One that would take long is made on a view.
    pub(crate) fn read(&self, query: &Query) -> Read {
        match (self.store.query(query.clone()), query) {
            (Answer::Value(value), Query::Get { .. }) => Read::Value(value),
            (Answer::Read(answer), Query::Read(_)) => Read::Txn(*answer),
            (Answer::View(view), Query::Read(txn)) => {
                Read::Txn(view.read(txn, &|| false).expect("nothing interrupts it"))
            }
            (answer, query) => panic!("{query:?} is answered with {answer:?}"),
        }
    }

    /// The entries of a range as of a revision, or as they are now.
    pub(crate) fn entries(&self, keys: KeyRange, at: Revision) -> Vec<StoredEntry> {
        let range = Action::Range(Range { at, ..Range::of(keys) });
        let txn = Txn { then: vec![range.into()], ..Txn::default() };
        let Read::Txn(answer) = self.read(&Query::Read(Box::new(txn))) else {
            panic!("not a transaction")
        };
        match answer.result.map(|mut it| it.answers.pop()) {
            Ok(Some(OperationAnswer::Range(range))) => range.entries,
            other => panic!("a range is answered with {other:?}"),
        }
    }

    /// What a watch is told of the state as it is now.
    pub(crate) fn changes(&self, range: &WatchRange) -> Result<Vec<Change>, Refusal> {
        self.store.view().changes(range)
    }

    pub(crate) fn stats(&self) -> Stats {
        self.store.stats()
    }

    pub(crate) fn applied(&self) -> Index {
        self.applied
    }

    /// The configuration in force at the last entry that the state holds.
    pub(crate) fn configuration(&self) -> Option<&Arc<Configuration>> {
        self.configuration.as_ref()
    }

    pub(crate) fn loaded(&self) -> Index {
        self.loaded
    }

    pub(crate) fn time(&self) -> AppliedTime {
        self.store.time()
    }

    pub(crate) fn digest(&self) -> u64 {
        self.store.digest().expect("a store has a digest")
    }
}
