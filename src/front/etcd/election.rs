//! etcd's service `Election`: a queue of candidates, the first of which leads.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;

use super::asked::has_held;
use super::error::{self, EtcdError};
use super::lease::stream_head;
use super::out::Object;
use super::parse::Fields;
use super::queue::{Claim, entry, first, keys};
use super::{EtcdFront, Shared, Task, kv, ok};
use crate::kv::Change;
use crate::kv::api::{NoRoom, WatchGroup, WatchNews, WatchSink, WatchesEnd};
use crate::kv::model::{Action, Compare, Entry, KeyRange, LeaseId, Revision, Txn, WatchRange};
use crate::rpc::http::{Answer, Stream, StreamError};

const ON: ControlFlow<()> = ControlFlow::Continue(());
const OVER: ControlFlow<()> = ControlFlow::Break(());

/// How long an observer waits that has no room for what it is to be told.
const ROOM_PAUSE: Duration = Duration::from_millis(100);

/// How a client proves that it leads.
struct Leader {
    key: Bytes,
    created: Revision,
    lease: LeaseId,
}

impl Leader {
    fn read(fields: &Fields<'_>) -> Result<Leader, EtcdError> {
        let Some(leader) = fields.message("leader")? else { return Err(error::LEADER_MISSING) };
        leader.bytes("name")?;
        let key = leader.bytes("key")?;
        if key.is_empty() {
            return Err(error::SESSION_KEY_EMPTY);
        }
        Ok(Leader {
            key,
            // No key comes to be at a revision below zero, nor at the last one.
            created: Revision(u64::try_from(leader.int64("rev")?).unwrap_or(u64::MAX)),
            lease: LeaseId(leader.int64("lease")?.cast_unsigned()),
        })
    }

    /// Does this if the client still leads.
    fn txn(&self, action: Action) -> Txn {
        let compare = vec![Compare::create_revision(self.key.clone(), self.created)];
        Txn { compare, then: vec![action.into()], ..Txn::default() }
    }
}

impl EtcdFront {
    pub(super) fn campaign(&self, fields: &Fields<'_>) -> Result<Task, EtcdError> {
        let claim = Claim {
            name: fields.bytes("name")?,
            lease: LeaseId(fields.int64("lease")?.cast_unsigned()),
            value: fields.bytes("value")?,
            lost: error::CAMPAIGN_LOST,
        };
        let shared = Arc::clone(&self.shared);
        Ok(Box::new(move |answer| {
            let (told, name) = (Arc::clone(&shared), claim.name.clone());
            shared.claim(claim, answer, move |result| match result {
                Ok(seat) => ok(|body| {
                    told.header().write(body, seat.revision);
                    body.object("leader", |leader| {
                        leader.bytes("name", &name);
                        leader.bytes("key", &seat.key);
                        leader.number("rev", seat.created.0);
                        leader.number("lease", seat.lease.0);
                    });
                }),
                Err(error) => error.response(),
            });
        }))
    }

    pub(super) fn proclaim(&self, fields: &Fields<'_>) -> Result<Task, EtcdError> {
        let leader = Leader::read(fields)?;
        let put = Action::put_with(leader.key.clone(), fields.bytes("value")?, leader.lease);
        let (shared, txn) = (Arc::clone(&self.shared), leader.txn(put));
        Ok(Box::new(move |answer| {
            let told = Arc::clone(&shared);
            shared.write_txn(txn, move |result| {
                answer.send(match result {
                    Ok(done) if has_held(&done) => {
                        ok(|body| told.header().write(body, done.revision))
                    }
                    Ok(_) => error::ELECTION_NOT_LEADER.response(),
                    Err(error) => error.of_a_session().response(),
                });
            });
        }))
    }

    pub(super) fn leader(&self, fields: &Fields<'_>) -> Result<Task, EtcdError> {
        let txn = first_txn(&fields.bytes("name")?);
        let shared = Arc::clone(&self.shared);
        Ok(Box::new(move |answer| {
            let told = Arc::clone(&shared);
            shared.read(txn, false, move |result| {
                answer.send(match result {
                    Ok((revision, done)) => match entry(done.answers.first()) {
                        None => error::ELECTION_NO_LEADER.response(),
                        Some(leader) => ok(|body| {
                            told.header().write(body, revision);
                            body.object("kv", |object| kv::kv(object, leader));
                        }),
                    },
                    Err(error) => error.response(),
                });
            });
        }))
    }

    pub(super) fn resign(&self, fields: &Fields<'_>) -> Result<Task, EtcdError> {
        let leader = Leader::read(fields)?;
        let delete = Action::delete(KeyRange::key(leader.key.clone()));
        // Who does not lead any more has nothing left to do.
        Ok(self.write_and_tell_header(Change::Txn(leader.txn(delete))))
    }

    pub(super) fn observe(&self, fields: &Fields<'_>) -> Result<Task, EtcdError> {
        let name = fields.bytes("name")?;
        let shared = Arc::clone(&self.shared);
        Ok(Box::new(move |answer| Observer::begin(&shared, name, answer)))
    }
}

fn first_txn(name: &[u8]) -> Txn {
    Txn { then: vec![Action::Range(first(name)).into()], ..Txn::default() }
}

/// Tells a client who leads, and each time that this, or what the leader proclaims, changes.
struct Observer {
    shared: Arc<Shared>,
    name: Bytes,
    state: Mutex<Observed>,
}

struct Observed {
    line: Line,
    /// Whether something has changed since the last read began.
    is_stale: bool,
    is_reading: bool,
    /// The revision of what was told last.
    told: Revision,
}

enum Line {
    /// It has not begun to watch.
    New,
    /// Nothing was told yet.
    Waiting(Answer, Option<WatchGroup>),
    Open(Stream),
    Over,
}

impl Observer {
    fn begin(shared: &Arc<Shared>, name: Bytes, answer: Answer) {
        let state =
            Observed { line: Line::New, is_stale: false, is_reading: false, told: Revision::NONE };
        let observer = Arc::new(Observer {
            shared: Arc::clone(shared),
            name: name.clone(),
            state: Mutex::new(state),
        });
        let watched = Arc::downgrade(&observer);
        answer.when_gone(move || {
            if let Some(observer) = watched.upgrade() {
                observer.failed(&error::CANCELED);
            }
        });
        {
            let mut state = observer.state.lock();
            if matches!(state.line, Line::Over) {
                drop(state);
                return answer.send(error::CANCELED.response());
            }
            state.line = Line::Waiting(answer, None);
        }
        let group = shared.api.watches(Arc::clone(&observer));
        let mut state = observer.state.lock();
        // Otherwise the client has gone, or the member is stopping.
        if let Line::Waiting(_, place) = &mut state.line {
            group.create(0, WatchRange::of(keys(&name)));
            *place = Some(group);
        }
    }

    /// Reads who leads, unless that is being done already.
    fn look(self: &Arc<Self>) {
        {
            let mut state = self.state.lock();
            state.is_stale = true;
            if std::mem::replace(&mut state.is_reading, true) {
                return;
            }
            state.is_stale = false;
        }
        let observer = Arc::clone(self);
        let txn = first_txn(&self.name);
        // What the watch has told is in this member's state.
        self.shared.read(txn, true, move |result| match result {
            Ok((revision, done)) => {
                let is_told = entry(done.answers.first())
                    .is_none_or(|leader| observer.tell(revision, leader));
                observer.looked();
                if !is_told {
                    observer.look_later();
                }
            }
            Err(error) => observer.failed(&error),
        });
    }

    /// Returns `false` if the client has no room for it.
    fn tell(&self, revision: Revision, leader: &Entry) -> bool {
        let mut state = self.state.lock();
        if leader.mod_revision == state.told {
            return true;
        }
        let header = self.shared.header();
        let message = Object::message(|message| {
            header.write(message, revision);
            message.object("kv", |object| kv::kv(object, leader));
        });
        let is_told = match &state.line {
            Line::Open(stream) => stream.try_send(&message) != Err(StreamError::NoRoom),
            Line::Waiting(..) => {
                state.line.open(message);
                true
            }
            Line::New | Line::Over => true,
        };
        if is_told {
            state.told = leader.mod_revision;
        }
        is_told
    }

    /// Looks again when the client may have room: then it is told who leads by then.
    fn look_later(self: &Arc<Self>) {
        let observer = Arc::clone(self);
        self.shared.later.at(Instant::now() + ROOM_PAUSE, move |is_due| {
            if is_due {
                observer.look();
            }
        });
    }

    /// A read has ended. Another one follows if something has changed since it began.
    fn looked(self: &Arc<Self>) {
        let again = {
            let mut state = self.state.lock();
            state.is_reading = false;
            state.is_stale
        };
        if again {
            self.look();
        }
    }

    /// It ends: with an error, or because the client has gone.
    fn failed(&self, error: &EtcdError) {
        let line = std::mem::replace(&mut self.state.lock().line, Line::Over);
        match line {
            Line::Waiting(answer, _) => answer.send(error.response()),
            Line::Open(stream) => {
                // A client that has no room for it sees that its answer is not whole.
                if stream.try_send(&error.last_message()).is_ok() {
                    stream.end();
                }
            }
            Line::New | Line::Over => {}
        }
    }
}

impl Line {
    /// Begins the answer with this message.
    fn open(&mut self, first: Vec<u8>) {
        if let Line::Waiting(answer, group) = std::mem::replace(self, Line::Over) {
            let stream = answer.stream(stream_head().body(first));
            // A client that goes ends the watch.
            stream.when_over(move || drop(group));
            *self = Line::Open(stream);
        }
    }
}

impl WatchSink for Arc<Observer> {
    fn take(&self, _: u64, news: &WatchNews<'_>) -> Result<ControlFlow<()>, NoRoom> {
        match news {
            WatchNews::Created { .. } => self.look(),
            WatchNews::Changes { changes, .. } if !changes.is_empty() => self.look(),
            WatchNews::Changes { .. } => {}
            WatchNews::Ended { end, .. } => {
                self.failed(&(*end).into());
                return Ok(OVER);
            }
        }
        Ok(ON)
    }

    fn when_ready(&self, callback: Box<dyn FnOnce() + Send>) {
        callback();
    }

    fn end(&self, end: WatchesEnd) {
        self.failed(&match end {
            WatchesEnd::Stopped | WatchesEnd::Done => error::STOPPED,
            WatchesEnd::Overload => error::TOO_MANY_REQUESTS,
        });
    }
}
