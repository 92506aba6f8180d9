//! A simulated client with the rules of `syncraft::clerk`: one call at a time; a write keeps its
//! number through all its attempts; a call that fails has an unknown outcome if an attempt may have
//! run.
//!
//! It decides which member to ask and what an answer means. Time, messages and the history belong
//! to the world.

use std::collections::BTreeSet;
use std::fmt;

use bytes::Bytes;
use syncraft::kv::model::{Reason, Refusal};
use syncraft::kv::{Change, Command, Identity, Outcome, Query, ReadAnswer};
use syncraft::raft::{Index, MemberId};

use crate::history::CallId;
use crate::reference::{Reference, WriteId};
use crate::show;

/// How often one write may begin a new session.
const SESSIONS_PER_WRITE_MAX: u32 = 3;

const PAUSES_US: std::ops::Range<u64> = 4_000..140_000;

pub(crate) struct Clerk {
    number: usize,
    rng: fastrand::Rng,
    /// How many sessions it has begun: to the members, each is a client of its own.
    pub(crate) sessions: u64,
    request_id: i64,
    seen_index: Index,
    leader: usize,
    /// Counts attempts and pauses, so that late answers to earlier ones are recognised.
    pub(crate) attempt: u64,
    call: Option<UnderWay>,
}

struct UnderWay {
    id: CallId,
    request: Request,
    /// One for each session in which the write was sent.
    writes: Vec<WriteId>,
    deadline_us: u64,
    asked: BTreeSet<usize>,
    at: usize,
    hint: Option<usize>,
    is_busy: bool,
    may_have_run: bool,
    sessions: u32,
}

/// What a member is asked.
#[derive(Clone, Debug)]
pub(crate) enum Request {
    Write(Command),
    Read(Query),
}

/// What was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Read {
    Value(Option<Bytes>),
    Txn(ReadAnswer),
}

/// What a member answers.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    Written(Outcome),
    /// What was read, after the entry at `at`.
    Read {
        at: Index,
        read: Read,
    },
    NotLeader {
        hint: Option<MemberId>,
        may_apply: bool,
    },
    Busy,
    /// There was no answer: the time was up, or the connection broke.
    None,
}

/// What to do next.
pub(crate) enum Next {
    Ask(usize, Request),
    Pause(u64),
    End(CallId, Ended),
}

/// The end of a call.
#[derive(Clone, Debug)]
pub(crate) struct Ended {
    pub(crate) writes: Vec<WriteId>,
    pub(crate) end: End,
}

/// How a call ended.
#[derive(Clone, Debug)]
pub(crate) enum End {
    Written(Outcome),
    Read { query: Query, at: Index, read: Read },
    NotApplied,
    Unknown,
}

impl Read {
    /// What must be read after the entry at `at`.
    pub(crate) fn expected(query: &Query, at: Index, reference: &Reference) -> Read {
        match query {
            Query::Get { key } => Read::Value(reference.value(at, key)),
            Query::Read(txn) => Read::Txn(reference.read(at, txn)),
            other => panic!("no clerk asks for {other:?}"),
        }
    }
}

impl Clerk {
    pub(crate) fn new(number: usize, seed: u64) -> Clerk {
        Clerk {
            number,
            rng: fastrand::Rng::with_seed(seed),
            sessions: 0,
            request_id: 0,
            seen_index: Index(1),
            leader: 0,
            attempt: 0,
            call: None,
        }
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.call.is_none()
    }

    /// Begins a read.
    pub(crate) fn begin_read(&mut self, id: CallId, query: Query, deadline_us: u64) {
        self.begin(id, Request::Read(query), deadline_us);
    }

    /// Begins a write.
    pub(crate) fn begin_write(&mut self, id: CallId, change: Change, deadline_us: u64) {
        let command = self.stamp(change);
        self.begin(id, Request::Write(command), deadline_us);
    }

    fn begin(&mut self, id: CallId, request: Request, deadline_us: u64) {
        self.call = Some(UnderWay {
            id,
            writes: request.write_id().into_iter().collect(),
            request,
            deadline_us,
            asked: BTreeSet::new(),
            at: self.leader,
            hint: Some(self.leader),
            is_busy: false,
            may_have_run: false,
            sessions: 1,
        });
    }

    /// The next write of this session.
    fn stamp(&mut self, change: Change) -> Command {
        self.request_id += 1;
        let client_id = Bytes::from(format!("{}.{}", self.number, self.sessions));
        let (request_id, seen_index) = (self.request_id, self.seen_index);
        Command { identity: Identity { client_id, request_id, seen_index }, change }
    }

    /// The next of `members` to ask, each once in a round. Between rounds, and after a busy member,
    /// a pause.
    pub(crate) fn next(&mut self, members: usize, now_us: u64) -> Option<Next> {
        let call = self.call.as_mut()?;
        self.attempt += 1;
        if now_us >= call.deadline_us {
            return Some(self.fail());
        }
        if call.is_busy || call.asked.len() == members {
            call.is_busy = false;
            call.asked.clear();
            return Some(Next::Pause(self.rng.u64(PAUSES_US)));
        }
        let hint = call.hint.take().filter(|hint| !call.asked.contains(hint));
        let others = (1..=members).map(|step| (call.at + step) % members);
        let next = hint.or_else(|| others.clone().find(|at| !call.asked.contains(at)))?;
        call.asked.insert(next);
        call.at = next;
        Some(Next::Ask(next, call.request.clone()))
    }

    /// What the answer to the newest attempt means. `None`: go on with the next attempt.
    pub(crate) fn judge(&mut self, answer: Answer) -> Option<Next> {
        let call = self.call.as_mut()?;
        match answer {
            Answer::Written(Outcome::SessionExpired { index }) => self.begin_session(index),
            Answer::Written(Outcome::Ran {
                result: Err(Refusal { reason: Reason::Superseded, .. }),
                ..
            }) => panic!("a clerk goes on only when its write has ended"),
            Answer::Written(outcome) => {
                if let Outcome::Ran { index, .. }
                | Outcome::Applied { index }
                | Outcome::Granted { index, .. }
                | Outcome::KeptAlive { index, .. } = &outcome
                {
                    self.seen_index = self.seen_index.max(*index);
                }
                Some(self.done(End::Written(outcome)))
            }
            Answer::Read { at, read } => {
                let Request::Read(query) = call.request.clone() else {
                    panic!("a write is not answered like a read");
                };
                Some(self.done(End::Read { query, at, read }))
            }
            Answer::NotLeader { hint, may_apply } => {
                call.may_have_run |= may_apply;
                call.hint = hint.map(|id| id.0 as usize - 1);
                None
            }
            Answer::Busy => {
                call.is_busy = true;
                None
            }
            Answer::None => {
                call.may_have_run = true;
                None
            }
        }
    }

    /// The old session was forgotten. If no attempt can have run, the write goes on in the new one.
    fn begin_session(&mut self, index: Index) -> Option<Next> {
        self.seen_index = self.seen_index.max(index);
        (self.sessions, self.request_id) = (self.sessions + 1, 0);
        let call = self.call.as_mut()?;
        call.sessions += 1;
        let is_over = call.may_have_run || call.sessions > SESSIONS_PER_WRITE_MAX;
        let Request::Write(Command { change, .. }) = call.request.clone() else {
            panic!("a read has no session");
        };
        if is_over {
            return Some(self.fail());
        }
        call.hint = Some(call.at);
        call.asked.clear();
        let request = Request::Write(self.stamp(change));
        let call = self.call.as_mut()?;
        call.writes.extend(request.write_id());
        call.request = request;
        None
    }

    fn done(&mut self, end: End) -> Next {
        let call = self.call.take().expect("only what was asked is answered");
        self.leader = call.at;
        Next::End(call.id, Ended { writes: call.writes, end })
    }

    fn fail(&mut self) -> Next {
        let call = self.call.take().expect("only what was asked fails");
        let is_unknown = call.may_have_run && matches!(call.request, Request::Write(_));
        let end = if is_unknown { End::Unknown } else { End::NotApplied };
        Next::End(call.id, Ended { writes: call.writes, end })
    }
}

impl Request {
    fn write_id(&self) -> Option<WriteId> {
        match self {
            Request::Write(Command { identity, .. }) => {
                Some((identity.client_id.clone(), identity.request_id))
            }
            Request::Read(_) => None,
        }
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Request::Read(Query::Get { key }) => {
                write!(f, "get {}", String::from_utf8_lossy(key))
            }
            Request::Read(Query::Read(txn)) => f.write_str(&show::txn(txn)),
            Request::Read(query) => write!(f, "{query:?}"),
            Request::Write(Command { identity, change }) => {
                let Identity { client_id, request_id, seen_index } = identity;
                let client = String::from_utf8_lossy(client_id);
                write!(f, "{} ({client} #{request_id}, seen {seen_index})", show::change(change))
            }
        }
    }
}
