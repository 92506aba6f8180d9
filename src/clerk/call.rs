//! One call of a Clerk: attempts at one member after another, until one gives a definite answer or
//! the time is up.
//!
//! [`Route`] chooses the members. This file makes the attempts, and remembers the one thing that
//! the caller wants to know at the end: whether any attempt may have taken effect.

use std::io::ErrorKind;
use std::thread;
use std::time::{Duration, Instant};

use super::error::{ClerkError, ClerkErrorKind, Operation, Reason};
use super::pool::{BYTES_PER_SECOND_MIN, Member, Pool, Survey};
use super::route::{MemberSet, Route, Step};
use crate::kv::proto::LeaderHint;
use crate::rpc::{self, CallError, HealthSignal, StatusCode};

/// How long the first attempt may take, without the time that its bytes need on a slow network.
pub(super) const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(1);

/// How much time must be left after a pause, and before a refused write is sent again. With less,
/// the next attempt would probably end without an answer, and the outcome of a write that was known
/// would become unknown.
const ATTEMPT_TIME_MIN: Duration = Duration::from_millis(50);

/// An attempt may take half of the time left, but always this long.
pub(super) const ATTEMPT_SHARE_MIN: Duration = Duration::from_millis(100);

/// If connecting failed after this long, the member was silent. A refusal comes at once.
const SILENCE_MIN: Duration = Duration::from_millis(200);

/// What the answer to an attempt means.
#[derive(Debug)]
pub(super) enum Verdict<R> {
    /// A definite answer.
    Done(R),
    /// The member does not lead. Its hint, and whether the attempt may still take effect.
    NotLeader { hint: Option<LeaderHint>, may_have_run: bool },
    /// An answer that this version does not know. It may mean anything.
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

/// A call that has not ended.
#[derive(Debug)]
pub(super) struct Call<'a> {
    pool: &'a Pool,
    operation: Operation,
    /// Whether a balancer chose the member to ask first. Then an answer does not show who leads.
    is_balanced: bool,
    /// The first attempt, begun at the balancer's choice.
    picked: Option<rpc::Attempt<'a, Member>>,
    started: Instant,
    deadline: Instant,
    attempt_timeout: Duration,
    route: Route,
    asked: Vec<String>,
    /// The member that answered last in this round, whatever it said.
    answered: Option<usize>,
    may_have_run: bool,
    /// Addresses whose port speaks another protocol: no member is there.
    not_members: MemberSet,
    last: Reason,
}

impl<'a> Call<'a> {
    /// A call that ends within `timeout` and sends `len_bytes` with each attempt.
    pub(super) fn new(
        pool: &'a Pool,
        operation: Operation,
        timeout: Duration,
        len_bytes: usize,
    ) -> Call<'a> {
        let started = Instant::now();
        let transfer = Duration::from_millis(len_bytes as u64 * 1000 / BYTES_PER_SECOND_MIN);
        Call {
            pool,
            operation,
            is_balanced: false,
            picked: None,
            started,
            deadline: started + timeout,
            attempt_timeout: ATTEMPT_TIMEOUT + transfer,
            route: Route::new(pool.leader()),
            asked: Vec::new(),
            answered: None,
            may_have_run: false,
            not_members: MemberSet::new(),
            last: Reason::NoTime,
        }
    }

    /// Begins with this attempt, whoever leads.
    pub(super) fn begin_with(&mut self, picked: rpc::Attempt<'a, Member>) {
        self.route = Route::new(picked.number());
        self.picked = Some(picked);
        self.is_balanced = true;
    }

    /// The time by which the call ends.
    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Whether any attempt so far has perhaps taken effect, or may still do so.
    pub(super) fn may_have_run(&self) -> bool {
        self.may_have_run
    }

    /// Makes attempts until one gets a definite answer.
    ///
    /// # Errors
    /// The time is up, or the members refuse the request as such.
    pub(super) fn run<R>(
        &mut self,
        mut attempt: impl FnMut(&Member, Instant) -> Result<Verdict<R>, CallError>,
    ) -> Result<R, ClerkError> {
        loop {
            let Survey { members, silent: mut avoid } = self.pool.survey();
            // The balancer may have chosen a silent member, so that this call probes it.
            self.picked.as_ref().map(|picked| avoid.remove(&picked.number()));
            avoid.extend(&self.not_members);
            match self.route.step(&members, &avoid) {
                Step::Pause(_) if self.has_found_others() => {}
                Step::Pause(pause) => self.wait(pause.min(self.left() / 2))?,
                Step::Wait(pause) => self.wait(pause)?,
                Step::Ask(member) => {
                    if let Some(answer) = self.ask(member, &mut attempt)? {
                        return Ok(answer);
                    }
                }
            }
        }
    }

    /// A round has ended. Whether there are members now that it did not ask.
    fn has_found_others(&mut self) -> bool {
        match self.answered.take() {
            Some(member) => self.pool.ask_after_trouble(member, Instant::now() + self.left() / 4),
            None => self.pool.fall_back(),
        }
    }

    /// The error that this call ends with. The attempts so far tell whether the call happened.
    pub(super) fn fail(&mut self, reason: Reason) -> ClerkError {
        let is_unknown = self.may_have_run && self.operation.is_write;
        let kind = if is_unknown { ClerkErrorKind::Unknown } else { ClerkErrorKind::NotApplied };
        self.error(kind, reason)
    }

    /// The error of a request that is certain not to have taken effect, and may succeed another
    /// time.
    pub(super) fn not_applied(&mut self, reason: Reason) -> ClerkError {
        self.error(ClerkErrorKind::NotApplied, reason)
    }

    /// The error of a request that took effect, and whose answer is not known.
    pub(super) fn applied(&mut self, reason: Reason) -> ClerkError {
        self.error(ClerkErrorKind::Applied, reason)
    }

    /// The error of a request that no member will ever apply.
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

    /// Waits. Ends the call instead if no time would be left for an attempt.
    fn wait(&mut self, pause: Duration) -> Result<(), ClerkError> {
        if self.left() < pause + ATTEMPT_TIME_MIN {
            return Err(self.time_is_up());
        }
        thread::sleep(pause);
        Ok(())
    }

    /// How much time the next attempt needs. Only a write that every member has refused so far has
    /// something to lose.
    fn needed(&self) -> Duration {
        let is_refused_write =
            self.operation.is_write && !self.may_have_run && !self.asked.is_empty();
        if is_refused_write { ATTEMPT_TIME_MIN } else { Duration::ZERO }
    }

    fn time_is_up(&mut self) -> ClerkError {
        let last = std::mem::replace(&mut self.last, Reason::NoTime);
        self.fail(last)
    }

    fn ask<R>(
        &mut self,
        member: usize,
        attempt: &mut impl FnMut(&Member, Instant) -> Result<Verdict<R>, CallError>,
    ) -> Result<Option<R>, ClerkError> {
        let now = Instant::now();
        if now + self.needed() >= self.deadline {
            return Err(self.time_is_up());
        }
        let target = match self.picked.take() {
            Some(picked) if picked.number() == member => picked,
            _ => match self.pool.begin(member) {
                Some(begun) => begun,
                // It has just left.
                None => return Ok(None),
            },
        };
        if !self.asked.iter().any(|addr| addr == target.addr()) {
            self.asked.push(target.addr().to_owned());
        }
        let question = self.pool.question(member, &target);
        let result = attempt(&target, now + self.share_of(self.deadline - now));
        let took = now.elapsed();
        let signal = self.signal(&result, took);
        let is_reached = result.as_ref().map_or_else(has_answered, |_| true);
        self.pool.note_contact(&target, is_reached);
        if let Some(question) = question.filter(|_| is_reached) {
            self.pool.heard(&target, question.wait());
        }
        self.answered = if is_reached { Some(member) } else { self.answered };
        let answer = match result {
            Ok(verdict) => Ok(self.judge(&target, verdict)),
            Err(error) => self.note_error(&target, error).map(|()| None),
        };
        let has_read = !self.operation.is_write && signal == HealthSignal::Answered;
        target.end(signal, has_read.then_some(took));
        answer
    }

    /// How much of the time left one attempt may take. Never all of it, so that one silent member
    /// does not use up the call.
    fn share_of(&self, left: Duration) -> Duration {
        let share = self.attempt_timeout.min((left / 2).max(ATTEMPT_SHARE_MIN));
        share.min(left)
    }

    /// What the end of an attempt says about the member. A member's health decides two things:
    /// balancers choose among members in use, and routes leave out silent members.
    fn signal<R>(&self, result: &Result<Verdict<R>, CallError>, took: Duration) -> HealthSignal {
        match result {
            Ok(Verdict::Done(_)) => HealthSignal::Answered,
            // A follower is right to refuse a write. That says nothing about its reads.
            Ok(Verdict::NotLeader { .. }) if self.operation.is_write => HealthSignal::Unknown,
            Ok(_) => HealthSignal::Unavailable,
            Err(error) => match failure_signal(error, took) {
                // It answered, but has not read.
                HealthSignal::Answered if !self.operation.is_write => HealthSignal::Unavailable,
                signal => signal,
            },
        }
    }

    fn judge<R>(&mut self, target: &rpc::Attempt<'_, Member>, verdict: Verdict<R>) -> Option<R> {
        self.route.not_busy();
        match verdict {
            Verdict::Done(answer) => {
                if !self.is_balanced {
                    self.pool.set_leader(target.number());
                }
                self.pool.has_served(target.number());
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
        target: &rpc::Attempt<'_, Member>,
        error: CallError,
    ) -> Result<(), ClerkError> {
        self.may_have_run |= may_have_run(&error);
        if matches!(error, CallError::TimedOut { .. }) {
            self.attempt_timeout *= 2;
        }
        match error.is_busy() {
            true => self.route.busy(target.number(), error.retry_after()),
            false => self.route.not_busy(),
        }
        if is_refusal_of_request(&error) && !self.may_have_run {
            return Err(self.reject(Reason::Call(error)));
        }
        if matches!(error, CallError::OtherProtocol { .. }) {
            self.not_members.insert(target.number());
            // If no member is left, waiting does not help.
            if self.pool.survey().members.iter().all(|it| self.not_members.contains(it)) {
                return Err(self.fail(Reason::Call(error)));
            }
        }
        self.last = Reason::Call(error);
        Ok(())
    }
}

/// What an attempt that failed after this time says about the member.
pub(super) fn failure_signal(error: &CallError, took: Duration) -> HealthSignal {
    match HealthSignal::of(error) {
        _ if is_silence(error, took) => HealthSignal::Silent,
        // The loss was noticed at once, so another attempt costs no time.
        HealthSignal::Silent => HealthSignal::Unavailable,
        signal => signal,
    }
}

/// Whether somebody is there, although the attempt failed with this error.
pub(super) fn has_answered(error: &CallError) -> bool {
    !matches!(
        error,
        CallError::NotSent { .. }
            | CallError::Lost { .. }
            | CallError::TimedOut { .. }
            | CallError::BadFrame { .. }
            | CallError::OtherProtocol { .. }
    )
}

/// Whether an attempt that failed with this error may have taken effect, or may still do so.
fn may_have_run(error: &CallError) -> bool {
    // Our RPC answers "deadline exceeded" only for calls that it did not begin. But a member that
    // has proposed a write may well say the same once the deadline has passed, so it proves
    // nothing.
    let has_expired = match error {
        CallError::Refused { status, .. } => status.code == StatusCode::DeadlineExceeded,
        _ => false,
    };
    has_expired || error.may_have_run()
}

/// Whether the attempt has waited in vain: another one at the same member would, too.
fn is_silence(error: &CallError, took: Duration) -> bool {
    match error {
        CallError::TimedOut { .. } => true,
        CallError::Lost { source, .. } => source.kind() == ErrorKind::TimedOut,
        CallError::NotSent { .. } => took >= SILENCE_MIN,
        _ => false,
    }
}

/// Whether every member would refuse this request in the same way.
pub(super) fn is_refusal_of_request(error: &CallError) -> bool {
    match error {
        CallError::Refused { status, .. } => {
            matches!(status.code, StatusCode::FrameTooLarge | StatusCode::BadArguments)
        }
        error => error.is_unsendable(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::pool::ReadPolicy;
    use super::*;
    use crate::rpc::Status;

    #[test]
    fn a_refused_write_says_nothing_about_reads() {
        let reads =
            ReadPolicy { balancer: Box::new(rpc::RoundRobin::new()), from_followers: false };
        let pool = Pool::new(&"a:1".parse().unwrap(), false, reads).unwrap();
        for (operation, expected) in [
            (Operation::write("put"), HealthSignal::Unknown),
            (Operation::GET, HealthSignal::Unavailable),
        ] {
            let call = Call::new(&pool, operation, Duration::from_secs(1), 0);
            for hint in [None, Some(LeaderHint { id: 2, addr: "b:1".to_owned() })] {
                let refused = Ok(Verdict::<()>::NotLeader { hint, may_have_run: false });
                assert_eq!(call.signal(&refused, Duration::ZERO), expected, "{operation:?}");
            }
        }
    }

    #[test]
    fn only_some_statuses_prove_that_a_call_did_not_run() {
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
