//! [`Link`]: what a watch hears, from one member after another.
//!
//! ```text
//! Idle ── route: which member ──> Asking ── "created" ──> Serving ── replies ──> the watch
//!  ^  └─ pause                      │                        │ nothing for a while: asks how far it is
//!  └── refused, silent, no leader ──┴── the same, ended, ────┘
//! ```
//!
//! A link never waits for longer than its caller says. A stream that is being opened stays, and the
//! next turn goes on with it. So short waits of the caller do not keep it from being opened.
//!
//! Members are asked as a call asks them: the balancer chooses the first one, then [`Route`] leads
//! on, with pauses between rounds. A member that has served for a while begins a new route when it
//! is lost.
//!
//! # Silence
//! The connection's pings notice a member that is paused, or cut off, within two seconds. A member
//! that brings nothing for [`QUIET_MIN`] is asked how far the watch is, and then again, less and
//! less often up to [`QUIET_MAX`]. The answer moves the watch on, so that it does not fall out of
//! the history while its keys rest. Without an answer the watch goes elsewhere, and is twice as
//! patient the next time: a member that reads much of the past for it may need that long.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::clerk::call::{
    ATTEMPT_SHARE_MIN, ATTEMPT_TIMEOUT, failure_signal, is_refusal_of_request,
};
use crate::clerk::error::{ClerkError, ClerkErrorKind, Operation, Reason};
use crate::clerk::pool::Pool;
use crate::clerk::replies;
use crate::clerk::route::{MemberSet, Route, Step};
use crate::kv::model::proto::{
    NotServed, WatchChanges, WatchCreate, WatchEnded, WatchProgress, WatchReply, WatchRequest,
    watch_ended, watch_reply, watch_request,
};
use crate::kv::model::{Refusal, Revision};
use crate::rpc::{CallError, Deadline, HealthSignal, Incoming, Next, Sender};

const WATCH: Operation = Operation::read("watch");

/// A member that has brought nothing for this long is asked how far the watch is.
const QUIET_MIN: Duration = Duration::from_secs(3);

/// The longest time between two such questions. Too small: ten thousand watches that rest cost
/// their members time. Too large: a watch that rests resumes far back, where the history may be
/// forgotten.
const QUIET_MAX: Duration = Duration::from_secs(12);

/// How long the answer to that may take at first, and at most.
const PATIENCE_MIN: Duration = Duration::from_secs(5);
const PATIENCE_MAX: Duration = Duration::from_secs(80);

/// A member that has served for this long was no false start: the next one is asked at once.
const SERVED_MIN: Duration = Duration::from_secs(1);

/// The only watch of its stream.
const ID: u64 = 1;

/// See the file.
#[derive(Debug)]
pub(super) struct Link {
    pool: Arc<Pool>,
    /// For the balancer.
    key: Bytes,
    /// How long nobody may serve before the caller is told.
    timeout: Duration,
    state: State,
    route: Route,
    /// Since when nobody serves, or since the caller was told so last.
    unserved_since: Instant,
    attempt_timeout: Duration,
    quiet: Duration,
    patience: Duration,
    /// Addresses whose port speaks another protocol: no member is there.
    not_members: MemberSet,
    asked: Vec<String>,
    last: Reason,
}

#[derive(Debug)]
enum State {
    Idle { until: Instant },
    Asking { stream: Stream, until: Instant, is_sent: bool },
    Serving { stream: Stream, heard_at: Instant, asked_at: Option<Instant> },
}

/// A stream with a watch.
#[derive(Debug)]
struct Stream {
    member: usize,
    addr: String,
    began: Instant,
    requests: Sender<WatchRequest>,
    replies: Incoming<WatchReply>,
}

/// What a member says.
#[derive(Debug)]
pub(super) enum Heard {
    /// The watch is made, at this revision. What was a part before will come again.
    Created(Revision),
    Changes(WatchChanges),
    /// The watch has ended for good.
    Refused {
        refusal: Refusal,
        complete_to: Revision,
    },
}

impl Link {
    pub(super) fn new(pool: Arc<Pool>, timeout: Duration, key: Bytes) -> Link {
        let now = Instant::now();
        let route = Route::new(pool.pick(&key).number());
        Link {
            pool,
            key,
            timeout,
            state: State::Idle { until: now },
            route,
            unserved_since: now,
            attempt_timeout: ATTEMPT_TIMEOUT,
            quiet: QUIET_MIN,
            patience: PATIENCE_MIN,
            not_members: 0,
            asked: Vec::new(),
            last: Reason::NoTime,
        }
    }

    /// Waits until `until` for what a member says of the watch that `create` makes. `None`: nothing
    /// yet.
    ///
    /// # Errors
    /// Nobody has served for too long, or the request makes no sense.
    pub(super) fn hear(
        &mut self,
        create: &impl Fn() -> WatchCreate,
        until: Instant,
    ) -> Result<Option<Heard>, ClerkError> {
        loop {
            let heard = match self.state {
                State::Idle { until: pause } => {
                    self.idle(pause, until);
                    None
                }
                State::Asking { .. } => self.ask(create, until)?,
                State::Serving { .. } => self.serve(until)?,
            };
            if heard.is_some() {
                return Ok(heard);
            }
            let now = Instant::now();
            // An attempt that is under way is awaited: a caller that asks seldom may find its end.
            if matches!(self.state, State::Idle { .. }) && now >= self.gives_up_at() {
                return Err(self.unserved(now));
            }
            if now >= until {
                return Ok(None);
            }
        }
    }

    /// What a member has said makes no sense.
    pub(super) fn nonsense(&mut self, words: &str) {
        let Some(addr) = self.addr() else { return };
        let reason = Reason::UnknownWord { addr, word: words.to_owned() };
        self.lose(HealthSignal::Unavailable, reason);
    }

    /// Nothing more is wanted.
    pub(super) fn close(&mut self) {
        self.state = State::Idle { until: Instant::now() };
    }

    /// When the caller is told that nobody serves.
    fn gives_up_at(&self) -> Instant {
        self.unserved_since + self.timeout
    }

    fn idle(&mut self, pause: Instant, until: Instant) {
        let now = Instant::now();
        let first = pause.min(until).min(self.gives_up_at());
        if first > now {
            thread::sleep(first - now);
        }
        if Instant::now() < pause {
            return;
        }
        let (members, silent) = self.pool.survey();
        match self.route.step(members, silent | self.not_members) {
            Step::Pause(pause) | Step::Wait(pause) => {
                self.state = State::Idle { until: Instant::now() + pause };
            }
            Step::Ask(member) => self.open(member),
        }
    }

    fn open(&mut self, member: usize) {
        let target = self.pool.begin(member);
        let addr = target.addr().to_owned();
        let (requests, replies) = target.watches().watch(None);
        if !self.asked.contains(&addr) {
            self.asked.push(addr.clone());
        }
        let now = Instant::now();
        let left = self.gives_up_at().saturating_duration_since(now);
        let share = self.attempt_timeout.min((left / 2).max(ATTEMPT_SHARE_MIN));
        let stream = Stream { member, addr, began: now, requests, replies };
        self.state = State::Asking { stream, until: now + share, is_sent: false };
    }

    /// One turn of a stream that is being opened.
    fn ask(
        &mut self,
        create: &impl Fn() -> WatchCreate,
        until: Instant,
    ) -> Result<Option<Heard>, ClerkError> {
        let State::Asking { stream, until: attempt, is_sent } = &mut self.state else {
            panic!("only a stream that is being opened is waited for");
        };
        let first = until.min(*attempt);
        if !*is_sent {
            let create = watch_request::Request::Create(create());
            // Without a connection there is no room yet. Why the stream is over, its replies tell.
            *is_sent = stream.requests.send(&request(create), first).is_ok();
            if *is_sent {
                *attempt = (*attempt).max(Instant::now() + ATTEMPT_SHARE_MIN);
            }
        }
        let (addr, attempt, is_sent) = (stream.addr.clone(), *attempt, *is_sent);
        match stream
            .replies
            .next_timeout(until.min(attempt).saturating_duration_since(Instant::now()))
        {
            Next::NotYet if Instant::now() >= attempt => {
                let waited = stream.began.elapsed();
                let error =
                    CallError::TimedOut { addr, waited, sent: is_sent, which: Deadline::default() };
                self.attempt_timeout = (self.attempt_timeout * 2).min(self.timeout);
                self.lose(HealthSignal::Silent, Reason::Call(error));
                Ok(None)
            }
            Next::NotYet => Ok(None),
            next => self.judge(next),
        }
    }

    /// One turn of a stream that serves.
    fn serve(&mut self, until: Instant) -> Result<Option<Heard>, ClerkError> {
        let (quiet, patience) = (self.quiet, self.patience);
        let State::Serving { stream, heard_at, asked_at } = &mut self.state else {
            panic!("only a stream that serves is read");
        };
        let due = match asked_at {
            Some(asked_at) => *asked_at + patience,
            None => *heard_at + quiet,
        };
        let next =
            stream.replies.next_timeout(until.min(due).saturating_duration_since(Instant::now()));
        let now = Instant::now();
        match next {
            Next::NotYet if now < due => Ok(None),
            Next::NotYet if asked_at.is_none() => {
                let progress = watch_request::Request::Progress(WatchProgress {});
                // Without room for it, nothing is answered either, and the watch goes elsewhere.
                let _ = stream.requests.try_send(&request(progress));
                *asked_at = Some(now);
                self.quiet = (quiet * 2).min(QUIET_MAX);
                Ok(None)
            }
            Next::NotYet => {
                let (addr, waited) = (stream.addr.clone(), patience);
                let error =
                    CallError::TimedOut { addr, waited, sent: true, which: Deadline::default() };
                self.patience = (patience * 2).min(PATIENCE_MAX);
                self.lose(HealthSignal::Silent, Reason::Call(error));
                Ok(None)
            }
            Next::Item(item) => {
                (*heard_at, *asked_at) = (now, None);
                self.judge(Next::Item(item))
            }
            next => self.judge(next),
        }
    }

    /// What an item, or the end of the stream, means.
    fn judge(&mut self, next: Next<WatchReply>) -> Result<Option<Heard>, ClerkError> {
        let reply = match next {
            Next::Item(WatchReply { id: ID, reply: Some(reply) }) => reply,
            Next::Item(_) => {
                self.nonsense("a reply without content, or to another watch");
                return Ok(None);
            }
            Next::Failed(error) => return self.fail(error).map(|()| None),
            Next::NotYet | Next::End => {
                self.nonsense("the end of a stream whose watch had not ended");
                return Ok(None);
            }
        };
        match reply {
            watch_reply::Reply::Created(created) if !self.is_serving() => {
                self.served();
                Ok(Some(Heard::Created(Revision(created.revision))))
            }
            watch_reply::Reply::Changes(changes) if self.is_serving() => {
                self.patience = PATIENCE_MIN;
                if !changes.changes.is_empty() {
                    self.quiet = QUIET_MIN;
                }
                Ok(Some(Heard::Changes(changes)))
            }
            watch_reply::Reply::Ended(ended) => self.ended(ended),
            watch_reply::Reply::Created(_) | watch_reply::Reply::Changes(_) => {
                self.nonsense("a watch that was made twice, or has changes before it is made");
                Ok(None)
            }
        }
    }

    fn is_serving(&self) -> bool {
        matches!(self.state, State::Serving { .. })
    }

    /// The watch is made.
    fn served(&mut self) {
        let now = Instant::now();
        let before = std::mem::replace(&mut self.state, State::Idle { until: now });
        let State::Asking { stream, .. } = before else { return };
        self.pool.begin(stream.member).end(HealthSignal::Answered, None);
        self.route.not_busy();
        self.attempt_timeout = ATTEMPT_TIMEOUT;
        self.asked.clear();
        self.state = State::Serving { stream, heard_at: now, asked_at: None };
    }

    fn ended(&mut self, ended: WatchEnded) -> Result<Option<Heard>, ClerkError> {
        let Some(addr) = self.addr() else { return Ok(None) };
        match ended.reason {
            Some(watch_ended::Reason::Refusal(refusal)) => match Refusal::try_from(refusal) {
                Ok(refusal) => {
                    let complete_to = Revision(ended.complete_to);
                    Ok(Some(Heard::Refused { refusal, complete_to }))
                }
                Err(error) => {
                    self.nonsense(&error.to_string());
                    Ok(None)
                }
            },
            Some(watch_ended::Reason::NotServed(NotServed { leader, .. })) => {
                let hint = leader.map(replies::hint);
                let leader = hint.as_ref().map(|hint| hint.addr.clone());
                self.lose(HealthSignal::Unavailable, Reason::NotLeader { addr, leader });
                if let Some(leader) = hint.and_then(|hint| self.pool.resolve(&hint)) {
                    self.route.hint(leader);
                }
                Ok(None)
            }
            Some(watch_ended::Reason::BadRequest(words)) => {
                self.lose(HealthSignal::Answered, Reason::NoTime);
                Err(self.error(ClerkErrorKind::Rejected, Reason::BadRequest { addr, words }))
            }
            None => {
                self.nonsense("the end of a watch that nobody has cancelled");
                Ok(None)
            }
        }
    }

    /// The stream has failed.
    fn fail(&mut self, error: CallError) -> Result<(), ClerkError> {
        let (State::Asking { stream, .. } | State::Serving { stream, .. }) = &self.state else {
            return Ok(());
        };
        let (member, took) = (stream.member, stream.began.elapsed());
        if is_refusal_of_request(&error) {
            self.lose(HealthSignal::Answered, Reason::NoTime);
            return Err(self.error(ClerkErrorKind::Rejected, Reason::Call(error)));
        }
        if matches!(error, CallError::OtherProtocol { .. }) {
            self.not_members |= 1 << member;
            // If no member is left, waiting does not help.
            if self.not_members.count_ones() as usize >= self.pool.survey().0 {
                self.lose(HealthSignal::Unavailable, Reason::NoTime);
                return Err(self.error(ClerkErrorKind::NotApplied, Reason::Call(error)));
            }
        }
        let signal = match failure_signal(&error, took) {
            HealthSignal::Answered => HealthSignal::Unavailable,
            signal => signal,
        };
        let busy = error.is_busy().then(|| error.retry_after());
        self.lose(signal, Reason::Call(error));
        match busy {
            Some(retry_after) => self.route.busy(member, retry_after),
            None => self.route.not_busy(),
        }
        Ok(())
    }

    /// Gives the stream up: the next turn asks another member.
    fn lose(&mut self, signal: HealthSignal, reason: Reason) {
        let now = Instant::now();
        self.last = reason;
        match std::mem::replace(&mut self.state, State::Idle { until: now }) {
            State::Idle { .. } => {}
            State::Asking { stream, .. } => {
                self.pool.begin(stream.member).end(signal, None);
            }
            State::Serving { stream, .. } => {
                self.pool.begin(stream.member).end(signal, None);
                self.unserved_since = now;
                if stream.began.elapsed() >= SERVED_MIN {
                    self.route = Route::new(self.pool.pick(&self.key).number());
                }
            }
        }
    }

    fn addr(&self) -> Option<String> {
        match &self.state {
            State::Idle { .. } => None,
            State::Asking { stream, .. } | State::Serving { stream, .. } => {
                Some(stream.addr.clone())
            }
        }
    }

    /// Nobody has served for too long. The next turn goes on trying.
    fn unserved(&mut self, now: Instant) -> ClerkError {
        let last = std::mem::replace(&mut self.last, Reason::NoTime);
        let error = self.error(ClerkErrorKind::NotApplied, last);
        self.unserved_since = now;
        error
    }

    fn error(&mut self, kind: ClerkErrorKind, reason: Reason) -> ClerkError {
        let (asked, elapsed) = (std::mem::take(&mut self.asked), self.unserved_since.elapsed());
        ClerkError::new(kind, WATCH, asked, elapsed, reason)
    }
}

#[cfg(test)]
impl Link {
    /// Makes the quiet of the member so far long enough for a question.
    pub(super) fn hush(&mut self) {
        if let State::Serving { heard_at, .. } = &mut self.state {
            *heard_at -= self.quiet;
        }
    }
}

fn request(request: watch_request::Request) -> WatchRequest {
    WatchRequest { id: ID, request: Some(request) }
}
