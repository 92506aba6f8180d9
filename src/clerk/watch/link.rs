//! [`Link`]: what a watch hears, from one member after another.
//!
//! ```text
//! Idle ── route: which member ──> a stream: asks, then serves ── replies ──> the watch
//!  ^  └─ pause                                   │
//!  └── refused, silent, no leader, ended, lost ──┘
//! ```
//!
//! Members are asked as a call asks them: the balancer chooses the first one, then [`Route`] leads
//! on, with pauses between rounds. A member that has served for a while begins a new route when it
//! is lost. When a member has not answered in time how far the watch is, the next one gets twice
//! the time: one that reads much of the past for the watch may need that long.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::stream::{Stream, Turn};
use crate::clerk::call::{
    ATTEMPT_SHARE_MIN, ATTEMPT_TIMEOUT, failure_signal, has_answered, is_refusal_of_request,
};
use crate::clerk::error::{ClerkError, ClerkErrorKind, Operation, Reason};
use crate::clerk::pool::{Pool, Survey};
use crate::clerk::replies;
use crate::clerk::route::{MemberSet, Route, Step};
use crate::kv::model::proto::{
    MembersReply, MembersRequest, NotServed, WatchChanges, WatchCreate, WatchEnded, watch_ended,
    watch_reply,
};
use crate::kv::model::{Refusal, Revision};
use crate::rpc::{CallError, HealthSignal, Pending};

pub(super) const WATCH: Operation = Operation::read("watch");

/// How long a member may take to say how far a watch is: at first, and at most.
const PATIENCE_MIN: Duration = Duration::from_secs(2);
const PATIENCE_MAX: Duration = Duration::from_secs(80);

/// How long the member that serves has to say who the members are. Nothing waits for its answer, and
/// a watch that is told by nobody, on a busy machine, is lost when all that it knows have left.
const TELL_PATIENCE: Duration = Duration::from_secs(5);

/// A member that has served for this long was no false start: the next one is asked at once.
const SERVED_MIN: Duration = Duration::from_secs(1);

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
    patience: Duration,
    /// Addresses whose port speaks another protocol: no member is there.
    not_members: MemberSet,
    asked: Vec<String>,
    /// Whether any member has answered in this round, whatever it said.
    has_answer: bool,
    /// The member that serves was asked who the members are.
    asking: Option<Asking>,
    last: Reason,
}

/// Over the connection of the stream, whose answers a thread reads: it delays no change.
#[derive(Debug)]
struct Asking {
    member: usize,
    reply: Pending<MembersReply>,
}

#[derive(Debug)]
enum State {
    Idle { until: Instant },
    At(Stream),
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
            patience: PATIENCE_MIN,
            not_members: MemberSet::new(),
            has_answer: false,
            asking: None,
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
            let heard = match &mut self.state {
                State::Idle { until: pause } => {
                    let pause = *pause;
                    self.idle(pause, until);
                    None
                }
                State::At(stream) => {
                    ask_who(&self.pool, stream, &mut self.asking);
                    let turn = stream.turn(create, self.patience, until);
                    self.judge(turn)?
                }
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

    /// What the member has said makes no sense.
    pub(super) fn nonsense(&mut self, words: &str) {
        if let State::At(Stream { addr, .. }) = &self.state {
            let reason = Reason::UnknownWord { addr: addr.clone(), word: words.to_owned() };
            self.lose(HealthSignal::Unavailable, reason);
        }
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
        let first = pause.min(until).min(self.gives_up_at());
        thread::sleep(first.saturating_duration_since(Instant::now()));
        if Instant::now() < pause {
            return;
        }
        let Survey { members, silent: mut avoid } = self.pool.survey();
        self.not_members.retain(|member| members.contains(member));
        avoid.extend(&self.not_members);
        match self.route.step(&members, &avoid) {
            Step::Pause(_) if self.has_lost_all() && self.pool.fall_back() => {}
            Step::Pause(pause) | Step::Wait(pause) => {
                self.state = State::Idle { until: Instant::now() + pause };
            }
            Step::Ask(member) => self.open(member),
        }
    }

    /// A round has ended, in which nobody has answered.
    fn has_lost_all(&mut self) -> bool {
        !std::mem::take(&mut self.has_answer)
    }

    fn open(&mut self, member: usize) {
        let left = self.gives_up_at().saturating_duration_since(Instant::now());
        let time = self.attempt_timeout.min((left / 2).max(ATTEMPT_SHARE_MIN));
        // It may have just left.
        let Some(begun) = self.pool.begin(member) else { return };
        let stream = Stream::open(member, &begun, time);
        if !self.asked.contains(&stream.addr) {
            self.asked.push(stream.addr.clone());
        }
        self.state = State::At(stream);
    }

    fn judge(&mut self, turn: Turn) -> Result<Option<Heard>, ClerkError> {
        let reply = match turn {
            Turn::Said(reply) => reply,
            Turn::NotYet => return Ok(None),
            Turn::Silent(error) => {
                self.silent(error);
                return Ok(None);
            }
            Turn::Failed(error) => return self.failed(error).map(|()| None),
            Turn::Nonsense(words) => {
                self.nonsense(words);
                return Ok(None);
            }
        };
        match reply {
            watch_reply::Reply::Created(created) => {
                self.served();
                Ok(Some(Heard::Created(Revision(created.revision))))
            }
            watch_reply::Reply::Changes(changes) => {
                self.patience = PATIENCE_MIN;
                Ok(Some(Heard::Changes(changes)))
            }
            watch_reply::Reply::Ended(ended) => self.ended(ended),
        }
    }

    /// The watch is made.
    fn served(&mut self) {
        if let State::At(stream) = &self.state
            && let Some(begun) = self.pool.begin(stream.member)
        {
            self.pool.note_contact(&begun, true);
            begun.end(HealthSignal::Answered, None);
        }
        self.route.not_busy();
        self.attempt_timeout = ATTEMPT_TIMEOUT;
        self.asked.clear();
    }

    /// The member does not answer in time.
    fn silent(&mut self, error: CallError) {
        let was_serving = matches!(&self.state, State::At(stream) if stream.is_serving());
        match was_serving {
            true => self.patience = (self.patience * 2).min(PATIENCE_MAX),
            false => self.attempt_timeout = (self.attempt_timeout * 2).min(self.timeout),
        }
        self.lose(HealthSignal::Silent, Reason::Call(error));
    }

    fn ended(&mut self, ended: WatchEnded) -> Result<Option<Heard>, ClerkError> {
        let State::At(Stream { addr, .. }) = &self.state else { return Ok(None) };
        let addr = addr.clone();
        match ended.reason {
            Some(watch_ended::Reason::Refusal(refusal)) => match Refusal::try_from(refusal) {
                Ok(refusal) => {
                    let complete_to = Revision(ended.complete_to);
                    return Ok(Some(Heard::Refused { refusal, complete_to }));
                }
                Err(error) => self.nonsense(&error.to_string()),
            },
            Some(watch_ended::Reason::NotServed(NotServed { leader, .. })) => {
                let hint = leader.map(replies::hint);
                let leader = hint.as_ref().map(|hint| hint.addr.clone());
                self.lose(HealthSignal::Unavailable, Reason::NotLeader { addr, leader });
                if let Some(leader) = hint.and_then(|hint| self.pool.resolve(&hint)) {
                    self.route.hint(leader);
                }
            }
            Some(watch_ended::Reason::BadRequest(words)) => {
                self.close();
                return Err(
                    self.error(ClerkErrorKind::Rejected, Reason::BadRequest { addr, words })
                );
            }
            None => self.nonsense("the end of a watch that nobody has cancelled"),
        }
        Ok(None)
    }

    /// The stream has failed.
    fn failed(&mut self, error: CallError) -> Result<(), ClerkError> {
        let State::At(stream) = &self.state else { return Ok(()) };
        let (member, took) = (stream.member, stream.began.elapsed());
        if is_refusal_of_request(&error) {
            self.close();
            return Err(self.error(ClerkErrorKind::Rejected, Reason::Call(error)));
        }
        if matches!(error, CallError::OtherProtocol { .. }) {
            self.not_members.insert(member);
            // If no member is left, waiting does not help.
            if self.pool.survey().members.iter().all(|it| self.not_members.contains(it)) {
                self.close();
                return Err(self.error(ClerkErrorKind::NotApplied, Reason::Call(error)));
            }
        }
        let signal = match failure_signal(&error, took) {
            // It answered, but does not serve.
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
        let is_reached = match &reason {
            Reason::Call(error) => has_answered(error),
            _ => true,
        };
        self.has_answer |= is_reached;
        self.last = reason;
        let before = std::mem::replace(&mut self.state, State::Idle { until: now });
        let State::At(stream) = before else { return };
        if let Some(begun) = self.pool.begin(stream.member) {
            self.pool.note_contact(&begun, is_reached);
            begun.end(signal, None);
        }
        if stream.is_serving() {
            self.unserved_since = now;
            if stream.began.elapsed() >= SERVED_MIN {
                self.route = Route::new(self.pool.pick(&self.key).number());
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

    #[cfg(test)]
    pub(super) fn hush(&mut self) {
        if let State::At(stream) = &mut self.state {
            stream.hush();
        }
    }
}

/// Asks the member that serves who the members are, if it is time to, and hears its answer.
fn ask_who(pool: &Pool, stream: &Stream, asking: &mut Option<Asking>) {
    if let Some(asked) = asking.take_if(|it| it.reply.is_ready())
        && let Some(member) = pool.begin(asked.member)
    {
        pool.heard(&member, asked.reply.wait());
    }
    if asking.is_none() && stream.is_serving() && pool.begin_asking() {
        *asking = pool.begin(stream.member).map(|member| Asking {
            member: stream.member,
            reply: member
                .watches()
                .members_async(&MembersRequest {}, Instant::now() + TELL_PATIENCE),
        });
    }
}
