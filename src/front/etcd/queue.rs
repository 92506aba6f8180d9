//! [`Seat`]: a key in a queue of keys under one name, on which locks and elections stand. It is the
//! queue of etcd's `concurrency` package, so its clients and this front wait for each other.
//!
//! A key is `NAME/LEASE`, the lease in hexadecimal. The keys under a name are ordered by when they
//! came to be; the first one has the lock. Who waits watches the key before its own one, so each
//! that goes wakes one. A key is gone when its lease is, and with it its place.
//!
//! # What a client can rely on
//! - Who has waited is told so only after a read has found its key still there.
//! - A client that goes while it waits leaves its key behind, until its lease ends.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::Shared;
use super::error::{self, EtcdError};
use crate::kv::api::{NoRoom, WatchEnd, WatchGroup, WatchNews, WatchSink, WatchesEnd};
use crate::kv::model::{
    Action, Change, Compare, Entry, KeyRange, LeaseId, OperationAnswer, Range, RangeAnswer, Reason,
    Revision, RevisionBounds, SortBy, Txn, TxnAnswer, WatchRange,
};
use crate::kv::{Change as Write, Outcome};

/// How long the lease lives of a client that has named none, in milliseconds: as etcd's sessions.
const SESSION_TTL_MS: u64 = 60_000;

const ON: ControlFlow<()> = ControlFlow::Continue(());
const OVER: ControlFlow<()> = ControlFlow::Break(());

/// What a client asks for that wants to be first.
#[derive(Clone, Debug)]
pub(super) struct Claim {
    pub(super) name: Bytes,
    pub(super) lease: LeaseId,
    /// What its key holds.
    pub(super) value: Bytes,
    /// Whether a key of the same lease that is there already is given this value.
    pub(super) replaces: bool,
    /// What is said if the key is gone before it was first.
    pub(super) lost: EtcdError,
}

/// A key that is first under its name.
#[derive(Clone, Debug)]
pub(super) struct Seat {
    pub(super) key: Bytes,
    pub(super) lease: LeaseId,
    /// When the key came to be.
    pub(super) created: Revision,
    /// The revision of the store when the key was found to be first.
    pub(super) revision: Revision,
}

/// What is told when a claim has ended.
type Ended = Box<dyn FnOnce(Result<Seat, EtcdError>) + Send>;

/// The keys under a name.
pub(super) fn keys(name: &[u8]) -> KeyRange {
    KeyRange::prefix([name, b"/"].concat())
}

/// The key that came first under a name.
pub(super) fn first(name: &[u8]) -> Range {
    Range { limit: 1, sort_by: SortBy::CreateRevision, ..Range::of(keys(name)) }
}

/// The only entry of the answer to a range.
pub(super) fn entry(answer: Option<&OperationAnswer>) -> Option<&Entry> {
    match answer {
        Some(OperationAnswer::Range(RangeAnswer { entries, .. })) => entries.first(),
        _ => None,
    }
}

impl Shared {
    /// Waits until the client's key is the first one under the name.
    pub(super) fn claim(
        self: &Arc<Self>,
        claim: Claim,
        end: impl FnOnce(Result<Seat, EtcdError>) + Send + 'static,
    ) {
        let (shared, end): (_, Ended) = (Arc::clone(self), Box::new(end));
        if claim.lease != LeaseId::NONE {
            return shared.enqueue(claim, end);
        }
        let grant = Write::LeaseGrant { ttl_ms: SESSION_TTL_MS, id: LeaseId::NONE };
        self.write(grant, move |result| match result {
            Ok(Outcome::Granted { lease, .. }) => shared.enqueue(Claim { lease, ..claim }, end),
            Ok(outcome) => panic!("a grant was answered with {outcome:?}"),
            Err(error) => end(Err(error)),
        });
    }

    /// Puts the key, unless it is there.
    fn enqueue(self: &Arc<Self>, claim: Claim, end: Ended) {
        let key: Bytes =
            [&claim.name, &b"/"[..], format!("{:x}", claim.lease.0).as_bytes()].concat().into();
        let txn = Txn {
            compare: vec![Compare::absent(key.clone())],
            then: vec![
                Action::put_with(key.clone(), claim.value.clone(), claim.lease).into(),
                Action::Range(first(&claim.name)).into(),
            ],
            otherwise: vec![
                Action::get(key.clone()).into(),
                Action::Range(first(&claim.name)).into(),
            ],
        };
        let shared = Arc::clone(self);
        self.run_txn(txn, move |result| match result {
            Ok((revision, answer)) => shared.enqueued(claim, key, revision, &answer, end),
            Err(error) => end(Err(error.of_a_session())),
        });
    }

    fn enqueued(
        self: &Arc<Self>,
        claim: Claim,
        key: Bytes,
        revision: Revision,
        answer: &TxnAnswer,
        end: Ended,
    ) {
        let own = entry(answer.answers.first());
        let created = match answer.held {
            true => revision,
            false => own.map_or(revision, |own| own.create_revision),
        };
        let is_first = entry(answer.answers.get(1)).is_some_and(|first| first.key == key);
        let differs = own.is_some_and(|own| own.value != claim.value);
        let seat = Seat { key, lease: claim.lease, created, revision };
        let waiting = Waiting { shared: Arc::clone(self), claim, seat, end };
        match waiting.claim.replaces && differs {
            true => waiting.replace(is_first),
            false if is_first => waiting.over(),
            false => waiting.look(),
        }
    }
}

/// A client that is not first yet.
struct Waiting {
    shared: Arc<Shared>,
    claim: Claim,
    seat: Seat,
    end: Ended,
}

impl Waiting {
    fn over(self) {
        (self.end)(Ok(self.seat));
    }

    fn failed(self, error: EtcdError) {
        (self.end)(Err(error.of_a_session()));
    }

    fn lost(self) {
        let lost = self.claim.lost.clone();
        (self.end)(Err(lost));
    }

    /// Gives the key that is there already another value.
    fn replace(self, is_first: bool) {
        let Seat { key, lease, created, .. } = &self.seat;
        let put = Action::put_with(key.clone(), self.claim.value.clone(), *lease);
        let compare = vec![Compare::create_revision(key.clone(), *created)];
        let txn = Txn { compare, then: vec![put.into()], ..Txn::default() };
        let shared = Arc::clone(&self.shared);
        shared.write_txn(txn, move |result| match result {
            Ok((_, Some(answer))) if !answer.held => self.lost(),
            Ok(_) if is_first => self.over(),
            Ok(_) => self.look(),
            Err(error) => self.failed(error),
        });
    }

    /// Looks who is before it, and whether it is still there itself.
    fn look(self) {
        let before = Range {
            limit: 1,
            sort_by: SortBy::CreateRevision,
            descending: true,
            create_revision: RevisionBounds {
                min: Revision::NONE,
                max: Revision(self.seat.created.0.saturating_sub(1)),
            },
            ..Range::of(keys(&self.claim.name))
        };
        let txn = Txn {
            then: vec![Action::Range(before).into(), Action::get(self.seat.key.clone()).into()],
            ..Txn::default()
        };
        let shared = Arc::clone(&self.shared);
        shared.read(txn, false, move |result| match result {
            Ok((revision, answer)) => self.looked(revision, &answer),
            Err(error) => self.failed(error),
        });
    }

    fn looked(mut self, revision: Revision, answer: &TxnAnswer) {
        let own = entry(answer.answers.get(1));
        if own.is_none_or(|own| own.create_revision != self.seat.created) {
            return self.lost();
        }
        self.seat.revision = revision;
        match entry(answer.answers.first()) {
            None => self.over(),
            Some(before) => {
                let before = before.key.clone();
                self.wait(before, revision.next());
            }
        }
    }

    /// Waits until the key before it, or its own one, is gone.
    fn wait(self, before: Bytes, from: Revision) {
        let (shared, own) = (Arc::clone(&self.shared), self.seat.key.clone());
        let sink = Arc::new(Gone(Mutex::new(GoneState { waiting: Some(self), group: None })));
        let group = shared.api.watches(Arc::clone(&sink));
        let mut state = sink.0.lock();
        // Otherwise the member is stopping, and said so.
        if state.waiting.is_some() {
            for (number, key) in (0..).zip([before, own]) {
                let range = WatchRange::of(KeyRange::key(key));
                group.create(number, WatchRange { from, puts: false, ..range });
            }
            state.group = Some(group);
        }
    }
}

/// Waits for a key to be deleted.
struct Gone(Mutex<GoneState>);

struct GoneState {
    /// `None` once it has ended.
    waiting: Option<Waiting>,
    /// Ends the watches when it is dropped.
    group: Option<WatchGroup>,
}

impl Gone {
    /// Goes on, without the lock, and lets the watches go.
    fn go_on(&self, go_on: impl FnOnce(Waiting)) {
        let (waiting, group) = {
            let mut state = self.0.lock();
            (state.waiting.take(), state.group.take())
        };
        drop(group);
        if let Some(waiting) = waiting {
            go_on(waiting);
        }
    }
}

impl WatchSink for Arc<Gone> {
    fn take(&self, _: u64, news: &WatchNews<'_>) -> Result<ControlFlow<()>, NoRoom> {
        match news {
            WatchNews::Changes { changes, .. } if changes.iter().any(is_delete) => {
                self.go_on(Waiting::look);
                Ok(OVER)
            }
            // The history has forgotten what happened: it is looked at anew.
            WatchNews::Ended { end: WatchEnd::Refused(refusal), .. }
                if refusal.reason == Reason::Compacted =>
            {
                self.go_on(Waiting::look);
                Ok(OVER)
            }
            WatchNews::Ended { end, .. } => {
                self.go_on(|waiting| waiting.failed((*end).into()));
                Ok(OVER)
            }
            WatchNews::Created { .. } | WatchNews::Changes { .. } => Ok(ON),
        }
    }

    fn when_ready(&self, callback: Box<dyn FnOnce() + Send>) {
        callback();
    }

    fn end(&self, end: WatchesEnd) {
        let error = match end {
            WatchesEnd::Stopped | WatchesEnd::Done => error::STOPPED,
            WatchesEnd::Overload => error::TOO_MANY_REQUESTS,
        };
        self.go_on(|waiting| waiting.failed(error));
    }
}

fn is_delete(change: &Change) -> bool {
    matches!(change, Change::Delete { .. })
}
