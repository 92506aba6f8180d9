//! One call of a Clerk: attempts at one member after another until one gives a definite answer or
//! the time is up.
//!
//! What is kept from attempt to attempt is the one thing that the caller wants to know at the end:
//! whether any of them may have taken effect.

use std::io::ErrorKind;
use std::thread;
use std::time::{Duration, Instant};

use super::error::{ClerkError, ClerkErrorKind, Reason};
use super::pool::{Pool, Target, UnderWay};
use super::route::{MemberSet, Route, Step};
use crate::kv::proto::{KvServerRpcStub, LeaderHint};
use crate::rpc::{CallError, StatusCode};

/// How long the first attempt at a member may take, besides the time that its bytes need.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(1);

/// The slowest network that large values are given time for, in bytes a second.
pub(super) const BYTES_PER_SECOND_MIN: u64 = 4 << 20;

/// There must be so much time left after a pause, and before a refused write is sent again. With
/// less, an attempt is more likely to end without an answer, and to make a write whose outcome is
/// known one whose outcome is not.
const ATTEMPT_TIME_MIN: Duration = Duration::from_millis(50);

/// What is left of a call's time is halved by each attempt that waits in vain, down to this.
const ATTEMPT_SHARE_MIN: Duration = Duration::from_millis(100);

/// An attempt that failed to connect after this long met silence, not a refusal.
const SILENCE_MIN: Duration = Duration::from_millis(200);

/// The operation that changes nothing, whatever becomes of it.
pub(super) const READ: &str = "get";

/// What an attempt came to.
#[derive(Debug)]
pub(super) enum Verdict<R> {
    /// A definite answer.
    Done(R),
    /// The member does not lead; its hint, and whether the attempt may take effect nevertheless.
    NotLeader { hint: Option<LeaderHint>, may_have_run: bool },
    /// An answer that we do not understand: it may mean anything.
    UnknownWord(String),
}

impl<R> Verdict<R> {
    /// The same with another answer.
    pub(super) fn map<T>(self, change: impl FnOnce(R) -> T) -> Verdict<T> {
        match self {
            Verdict::Done(answer) => Verdict::Done(change(answer)),
            Verdict::NotLeader { hint, may_have_run } => Verdict::NotLeader { hint, may_have_run },
            Verdict::UnknownWord(word) => Verdict::UnknownWord(word),
        }
    }
}

/// A call on its way.
#[derive(Debug)]
pub(super) struct Call<'a> {
    pool: &'a Pool,
    operation: &'static str,
    is_write: bool,
    is_anyone_asked: bool,
    /// Until it is asked, the member that a balancer has chosen counts as busy with this.
    picked: Option<UnderWay>,
    started: Instant,
    deadline: Instant,
    attempt_timeout: Duration,
    route: Route,
    asked: Vec<String>,
    may_have_run: bool,
    /// Those whose port speaks another protocol: no member of any cluster.
    strangers: MemberSet,
    last: Reason,
}

impl<'a> Call<'a> {
    /// A call that ends after `timeout` at the latest and sends `len_bytes` with each attempt.
    pub(super) fn new(
        pool: &'a Pool,
        operation: &'static str,
        timeout: Duration,
        len_bytes: usize,
    ) -> Call<'a> {
        let started = Instant::now();
        let transfer = Duration::from_millis(len_bytes as u64 * 1000 / BYTES_PER_SECOND_MIN);
        Call {
            pool,
            operation,
            is_write: operation != READ,
            is_anyone_asked: false,
            picked: None,
            started,
            deadline: started + timeout,
            attempt_timeout: ATTEMPT_TIMEOUT + transfer,
            route: Route::new(pool.leader()),
            asked: Vec::new(),
            may_have_run: false,
            strangers: 0,
            last: Reason::NoTime,
        }
    }

    /// Begins with this member, whoever leads; who answers says nothing about who does.
    pub(super) fn ask_anyone(&mut self, (first, picked): (usize, UnderWay)) {
        self.route = Route::new(first);
        self.picked = Some(picked);
        self.is_anyone_asked = true;
    }

    /// When it ends at the latest.
    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Whether any attempt so far may have taken effect, or still may.
    pub(super) fn may_have_run(&self) -> bool {
        self.may_have_run
    }

    /// Attempts until a definite answer.
    ///
    /// # Errors
    /// The time is up, or the request is refused as such.
    pub(super) fn run<R>(
        &mut self,
        mut attempt: impl FnMut(&KvServerRpcStub, Instant) -> Result<Verdict<R>, CallError>,
    ) -> Result<R, ClerkError> {
        loop {
            let avoid = self.pool.silent(Instant::now()) | self.strangers;
            match self.route.step(self.pool.len(), avoid) {
                Step::Pause(pause) => self.wait(with_jitter(pause).min(self.left() / 2))?,
                Step::Wait(pause) => self.wait(with_jitter(pause))?,
                Step::Ask(member) => {
                    if let Some(answer) = self.ask(member, &mut attempt)? {
                        return Ok(answer);
                    }
                }
            }
        }
    }

    /// The error that this call ends with: whether it happened follows from the attempts so far.
    pub(super) fn fail(&mut self, reason: Reason) -> ClerkError {
        let is_unknown = self.may_have_run && self.is_write;
        let kind = if is_unknown { ClerkErrorKind::Unknown } else { ClerkErrorKind::NotApplied };
        self.error(kind, reason)
    }

    /// The error of a request that will never be applied, whoever is asked.
    pub(super) fn reject(&mut self, reason: Reason) -> ClerkError {
        self.error(ClerkErrorKind::Rejected, reason)
    }

    fn error(&mut self, kind: ClerkErrorKind, reason: Reason) -> ClerkError {
        let asked = std::mem::take(&mut self.asked);
        ClerkError::new(kind, self.operation, asked, self.started.elapsed(), reason)
    }

    fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Ends the call if there would be no time for an attempt afterwards.
    fn wait(&mut self, pause: Duration) -> Result<(), ClerkError> {
        if self.left() < pause + ATTEMPT_TIME_MIN {
            return Err(self.time_is_up());
        }
        thread::sleep(pause);
        Ok(())
    }

    /// How much time there must be for the next attempt. Only a write that was refused so far has
    /// something to lose.
    fn needed(&self) -> Duration {
        let is_refused_write = self.is_write && !self.may_have_run && !self.asked.is_empty();
        if is_refused_write { ATTEMPT_TIME_MIN } else { Duration::ZERO }
    }

    fn time_is_up(&mut self) -> ClerkError {
        let last = std::mem::replace(&mut self.last, Reason::NoTime);
        self.fail(last)
    }

    fn ask<R>(
        &mut self,
        member: usize,
        attempt: &mut impl FnMut(&KvServerRpcStub, Instant) -> Result<Verdict<R>, CallError>,
    ) -> Result<Option<R>, ClerkError> {
        let now = Instant::now();
        if now + self.needed() >= self.deadline {
            return Err(self.time_is_up());
        }
        let target = self.pool.target(member);
        if !self.asked.iter().any(|addr| addr == target.addr()) {
            self.asked.push(target.addr().to_owned());
        }
        let under_way = Target::begin(&target);
        self.picked = None;
        let result = attempt(target.stub(), now + self.share_of(self.deadline - now));
        drop(under_way);
        // Of a write, that says nothing: a follower is right to refuse it.
        if !self.is_write {
            let is_done = matches!(&result, Ok(Verdict::Done(_)));
            target.has_served(is_done.then(|| now.elapsed()), Instant::now());
        }
        match result {
            Ok(verdict) => Ok(self.judge(member, &target, verdict)),
            Err(error) => self.note_error(member, &target, now, error).map(|()| None),
        }
    }

    /// How much of the time that is left one attempt may take: never all of it, so that one silent
    /// member does not cost the call.
    fn share_of(&self, left: Duration) -> Duration {
        let share = self.attempt_timeout.min((left / 2).max(ATTEMPT_SHARE_MIN));
        share.min(left)
    }

    fn judge<R>(&mut self, member: usize, target: &Target, verdict: Verdict<R>) -> Option<R> {
        self.route.not_busy();
        target.set_silent(None);
        match verdict {
            Verdict::Done(answer) => {
                if !self.is_anyone_asked {
                    self.pool.set_leader(member);
                }
                return Some(answer);
            }
            Verdict::NotLeader { hint, may_have_run } => {
                self.may_have_run |= may_have_run;
                self.last = Reason::NotLeader {
                    addr: target.addr().to_owned(),
                    leader: hint.as_ref().map(|hint| hint.addr.clone()),
                };
                if let Some(leader) = hint.and_then(|hint| self.pool.resolve(&hint)) {
                    self.route.hint(leader);
                }
            }
            Verdict::UnknownWord(word) => {
                self.may_have_run = true;
                self.last = Reason::UnknownWord { addr: target.addr().to_owned(), word };
            }
        }
        None
    }

    fn note_error(
        &mut self,
        member: usize,
        target: &Target,
        asked_at: Instant,
        error: CallError,
    ) -> Result<(), ClerkError> {
        self.may_have_run |= may_have_run(&error);
        let waited = asked_at.elapsed();
        if matches!(error, CallError::TimedOut { .. }) {
            self.attempt_timeout *= 2;
        }
        if is_silence(&error, waited) {
            target.set_silent(Some(Instant::now()));
        }
        match busy(&error) {
            Some(retry_after) => self.route.busy(member, retry_after),
            None => self.route.not_busy(),
        }
        if is_refusal_of_request(&error) && !self.may_have_run {
            return Err(self.reject(Reason::Call(error)));
        }
        if matches!(error, CallError::OtherProtocol { .. }) {
            self.strangers |= 1 << member;
            // Nobody is left who could do it, however long we waited.
            if self.strangers.count_ones() as usize >= self.pool.len() {
                return Err(self.fail(Reason::Call(error)));
            }
        }
        self.last = Reason::Call(error);
        Ok(())
    }
}

/// Up to half as long again, so that many clients do not come back in step.
fn with_jitter(pause: Duration) -> Duration {
    pause.mul_f64(1.0 + fastrand::f64() / 2.0)
}

/// Whether the attempt that ended so may have taken effect, or still may.
fn may_have_run(error: &CallError) -> bool {
    // The RPC answers "deadline exceeded" only for what it did not begin. A member that proposed a
    // write and then saw its deadline pass has every reason to use the same words, so they prove
    // nothing.
    let deadline = matches!(error, CallError::Refused { status, .. } if status.code == StatusCode::DeadlineExceeded);
    deadline || error.may_have_run()
}

fn is_silence(error: &CallError, waited: Duration) -> bool {
    match error {
        CallError::TimedOut { .. } => true,
        CallError::Lost { source, .. } => source.kind() == ErrorKind::TimedOut,
        CallError::NotSent { .. } => waited >= SILENCE_MIN,
        _ => false,
    }
}

/// Busy, and when to come back if that was said.
fn busy(error: &CallError) -> Option<Option<Duration>> {
    match error {
        CallError::Refused { status, .. } if status.code == StatusCode::Busy => {
            Some(status.retry_after)
        }
        CallError::Busy { .. } => Some(None),
        _ => None,
    }
}

/// Whether any member would refuse this request in the same way.
fn is_refusal_of_request(error: &CallError) -> bool {
    let CallError::Refused { status, .. } = error else { return false };
    matches!(status.code, StatusCode::FrameTooLarge | StatusCode::BadArguments)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::Status;

    #[test]
    fn what_proves_that_a_call_did_not_run() {
        let cases = [
            (StatusCode::Busy, false),
            (StatusCode::ShuttingDown, false),
            (StatusCode::UnknownService, false),
            (StatusCode::UnknownMethod, false),
            (StatusCode::FrameTooLarge, false),
            (StatusCode::DeadlineExceeded, true),
            (StatusCode::Unanswered, true),
            (StatusCode::Internal, true),
            (StatusCode::Other(77), true),
        ];
        for (code, expected) in cases {
            let error =
                CallError::Refused { addr: "a:1".to_owned(), status: Status::new(code, "") };
            assert_eq!(may_have_run(&error), expected, "{code}");
        }
    }
}
