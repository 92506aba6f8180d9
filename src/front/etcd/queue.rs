//! [`Seat`]: a key in a queue of keys under one name, on which locks and elections stand. It is the
//! queue of etcd's `concurrency` package, so its clients and this front wait for each other.
//!
//! A key is `NAME/LEASE`, the lease in hexadecimal. The keys under a name are ordered by when they
//! came to be; the first one has the lock. Who waits watches the key before its own one, so each
//! that goes wakes one. A key is gone when its lease is, and with it its place.
//!
//! # What a client can rely on
//! - Who has waited is told so only after a read has found its key still there.
//! - A claim that ends otherwise, by an error or because its client has gone, deletes its key, and
//!   with it the lease if that was made for it. While there is no leader this is tried again, for
//!   about a minute.
//! - A client that asks again, with the same lease, takes its key over: it writes it anew. A claim
//!   deletes only the key that it has itself written last. So a request that is given up does not
//!   delete what was granted to a later one.

use std::ops::ControlFlow;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;

use super::Shared;
use super::asked::has_held;
use super::error::{self, EtcdError};
use crate::kv::api::{NoRoom, WatchEnd, WatchGroup, WatchNews, WatchSink, WatchesEnd};
use crate::kv::model::{
    Action, Change, Compare, Entry, KeyRange, LeaseId, OperationAnswer, Range, RangeAnswer, Reason,
    Revision, RevisionBounds, SortBy, Txn, TxnAnswer, WatchRange,
};
use crate::kv::{Change as Write, Done, Outcome};
use crate::node::RequestError;
use crate::rpc::http::{Answer, Response};

/// How long the lease lives of a client that has named none, in milliseconds: as etcd's sessions.
const SESSION_TTL_MS: u64 = 60_000;

/// How often taking out what a claim has left is tried, and the pause in between. An attempt takes
/// [`TIMEOUT`](super::TIMEOUT) at most.
const UNDO_ATTEMPTS: u32 = 15;
const UNDO_PAUSE: Duration = Duration::from_secs(1);

const ON: ControlFlow<()> = ControlFlow::Continue(());
const OVER: ControlFlow<()> = ControlFlow::Break(());

/// What a client asks for that wants to be first.
#[derive(Clone, Debug)]
pub(super) struct Claim {
    pub(super) name: Bytes,
    pub(super) lease: LeaseId,
    /// What its key holds.
    pub(super) value: Bytes,
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

/// The client of a claim. It may go at any time.
#[derive(Default)]
struct Client(Mutex<ClientState>);

#[derive(Default)]
struct ClientState {
    /// `None` once it was told, or has gone.
    end: Option<Ended>,
    has_gone: bool,
    /// What its claim has waited for last.
    waits_for: Weak<Gone>,
}

impl Client {
    /// The client of this answer; `None` if it has gone already.
    fn of(
        answer: Answer,
        told: impl FnOnce(Result<Seat, EtcdError>) -> Response + Send + 'static,
    ) -> Option<Arc<Client>> {
        let client = Arc::new(Client::default());
        let going = Arc::downgrade(&client);
        // Under no lock: it may have gone.
        answer.when_gone(move || {
            if let Some(client) = going.upgrade() {
                client.go();
            }
        });
        {
            let mut state = client.0.lock();
            if !state.has_gone {
                state.end = Some(Box::new(|result| answer.send(told(result))));
                drop(state);
                return Some(client);
            }
        }
        answer.send(error::CANCELED.response());
        None
    }

    /// Returns `false` if it has gone, and was not told.
    fn tell(&self, result: Result<Seat, EtcdError>) -> bool {
        let end = self.0.lock().end.take();
        end.map(|end| end(result)).is_some()
    }

    /// It has gone: its claim is over. If that does not wait at the moment, it will notice.
    fn go(&self) {
        let (end, waits_for) = {
            let mut state = self.0.lock();
            state.has_gone = true;
            (state.end.take(), std::mem::take(&mut state.waits_for))
        };
        if let Some(end) = end {
            end(Err(error::CANCELED));
        }
        if let Some(gone) = waits_for.upgrade() {
            gone.go_on(Waiting::leave);
        }
    }

    /// Returns `false` if it has gone.
    fn wait_for(&self, gone: &Arc<Gone>) -> bool {
        let mut state = self.0.lock();
        state.waits_for = Arc::downgrade(gone);
        !state.has_gone
    }
}

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
    /// Waits until the client's key is the first one under the name, or the client goes.
    pub(super) fn claim(
        self: &Arc<Self>,
        claim: Claim,
        answer: Answer,
        told: impl FnOnce(Result<Seat, EtcdError>) -> Response + Send + 'static,
    ) {
        let Some(client) = Client::of(answer, told) else { return };
        if claim.lease != LeaseId::NONE {
            return self.enqueue(claim, false, client);
        }
        let shared = Arc::clone(self);
        let grant = Write::LeaseGrant { ttl_ms: SESSION_TTL_MS, id: LeaseId::NONE };
        self.write(grant, move |result| match result {
            Ok(Outcome::Granted { lease, .. }) => {
                shared.enqueue(Claim { lease, ..claim }, true, client);
            }
            Ok(outcome) => panic!("a grant was answered with {outcome:?}"),
            Err(error) => drop(client.tell(Err(error))),
        });
    }

    /// Puts the key, or takes over the one that is there. `has_own_lease`: whether the lease was
    /// made for this claim.
    fn enqueue(self: &Arc<Self>, claim: Claim, has_own_lease: bool, client: Arc<Client>) {
        let key: Bytes =
            [&claim.name, &b"/"[..], format!("{:x}", claim.lease.0).as_bytes()].concat().into();
        let put = Action::put_with(key.clone(), claim.value.clone(), claim.lease);
        let first = Action::Range(first(&claim.name));
        let txn = Txn {
            compare: vec![Compare::absent(key.clone())],
            then: vec![put.clone().into(), first.clone().into()],
            otherwise: vec![Action::get(key.clone()).into(), put.into(), first.into()],
        };
        let shared = Arc::clone(self);
        self.write_txn(txn, move |result| match result {
            Ok(done) => shared.enqueued(claim, has_own_lease, key, &done, client),
            Err(error) => {
                client.tell(Err(error.of_a_session()));
                // The put may still take effect.
                if has_own_lease {
                    shared.undo(Write::LeaseRevoke { id: claim.lease }, UNDO_ATTEMPTS);
                }
            }
        });
    }

    fn enqueued(
        self: &Arc<Self>,
        claim: Claim,
        has_own_lease: bool,
        key: Bytes,
        done: &Done,
        client: Arc<Client>,
    ) {
        let (answers, revision) = (done.answer.as_deref().map(|it| &it.answers[..]), done.revision);
        let answers = answers.unwrap_or_default();
        let is_first = entry(answers.last()).is_some_and(|first| first.key == key);
        let created = match has_held(done) {
            true => Some(revision),
            false => entry(answers.first()).map(|own| own.create_revision),
        };
        let seat = Seat { key, lease: claim.lease, created: created.unwrap_or(revision), revision };
        let shared = Arc::clone(self);
        let waiting = Waiting { shared, claim, has_own_lease, seat, written: revision, client };
        match created {
            Some(_) if is_first => waiting.over(),
            Some(_) => waiting.look(),
            // What was answered is no longer known, as after any other write of that kind.
            None => waiting.failed(error::TIMED_OUT),
        }
    }

    /// Makes a change for which nobody waits, and tries again if that fails. To make it twice must
    /// be the same as to make it once.
    fn undo(self: &Arc<Self>, change: Write, attempts: u32) {
        let (shared, again) = (Arc::clone(self), change.clone());
        self.write(change, move |result| {
            let is_worth_another = result.is_err_and(|error| error != error::LEASE_NOT_FOUND);
            if !is_worth_another || attempts <= 1 {
                return;
            }
            let undoing = Arc::clone(&shared);
            shared.later.at(Instant::now() + UNDO_PAUSE, move |is_due| {
                if is_due {
                    undoing.undo(again, attempts - 1);
                }
            });
        });
    }
}

/// A claim whose key is there.
struct Waiting {
    shared: Arc<Shared>,
    claim: Claim,
    has_own_lease: bool,
    seat: Seat,
    /// When this claim wrote the key.
    written: Revision,
    client: Arc<Client>,
}

impl Waiting {
    /// A client that goes after it was told, or while its answer is on the way, has the lock.
    fn over(self) {
        if !self.client.tell(Ok(self.seat.clone())) {
            self.leave();
        }
    }

    fn failed(self, error: EtcdError) {
        self.client.tell(Err(error.of_a_session()));
        self.leave();
    }

    fn lost(self) {
        self.client.tell(Err(self.claim.lost.clone()));
    }

    /// Takes out the key, of which the client does not know that it is first.
    fn leave(self) {
        let Seat { key, lease, .. } = self.seat;
        let change = match self.has_own_lease {
            true => Write::LeaseRevoke { id: lease },
            false => Write::Txn(Txn {
                compare: vec![Compare::mod_revision(key.clone(), self.written)],
                then: vec![Action::delete(KeyRange::key(key)).into()],
                ..Txn::default()
            }),
        };
        self.shared.undo(change, UNDO_ATTEMPTS);
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
        let client = Arc::clone(&self.client);
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
        drop(state);
        if !client.wait_for(&sink) {
            sink.go_on(Waiting::leave);
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
            // Without a leader a watch ends soon. A read waits longer for the next one.
            WatchNews::Ended { end: WatchEnd::NotServed(error), .. }
                if is_without_leader(error) =>
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

fn is_without_leader(error: &RequestError) -> bool {
    matches!(error, RequestError::NotLeader { .. } | RequestError::TimedOut { .. })
}
