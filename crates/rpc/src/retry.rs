//! Calls that are repeated: which, how often, and after which pauses.
//!
//! A call is repeated only if it has certainly not run, or if its method is marked idempotent. All
//! its attempts and the pauses between them end by the call's one deadline. If a server says when
//! to come back, no attempt comes earlier.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{
    CallError, CallOptions, Deadline, Invoke, Method, Payload, RequestId, Status, StatusCode,
};

/// No pause is longer, whatever the settings say.
const PAUSE_MAX: Duration = Duration::from_secs(24 * 3600);

/// When a failed call is repeated: the pauses between its attempts, and how many attempts there
/// are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// One attempt.
    Never,
    /// The same pause each time.
    Fixed {
        /// The pause before each attempt but the first.
        pause: Duration,
        /// Attempts in all.
        attempts_max: u32,
    },
    /// A pause that doubles each time: see [`Backoff`].
    Exponential {
        /// The pause before the second attempt.
        first: Duration,
        /// The longest pause, before chance changes it.
        longest: Duration,
        /// Attempts in all.
        attempts_max: u32,
    },
}

impl Default for Retry {
    /// Exponential, from 10 ms to 1 s, as often as the deadline allows.
    fn default() -> Retry {
        Retry::Exponential {
            first: Duration::from_millis(10),
            longest: Duration::from_secs(1),
            attempts_max: u32::MAX,
        }
    }
}

impl Retry {
    /// The pause after `failed` attempts, at least one. `None`: there is no further attempt.
    /// `chance` is between 0 and 1.
    fn pause(&self, failed: u32, chance: f64) -> Option<Duration> {
        match *self {
            Retry::Never => None,
            Retry::Fixed { pause, attempts_max } => (failed < attempts_max).then_some(pause),
            Retry::Exponential { first, longest, attempts_max } => {
                let backoff = Backoff { first, longest };
                (failed < attempts_max).then(|| backoff.pause_by_chance(failed, chance))
            }
        }
    }
}

/// Pauses between attempts that double up to a longest one. Chance then makes each shorter or
/// longer by up to half, so that callers that failed together do not come back together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The pause after the first failed attempt.
    pub first: Duration,
    /// The longest pause, before chance changes it.
    pub longest: Duration,
}

impl Backoff {
    /// The pause after `failed` attempts.
    pub fn pause(&self, failed: u32) -> Duration {
        self.pause_by_chance(failed, fastrand::f64())
    }

    fn pause_by_chance(&self, failed: u32, chance: f64) -> Duration {
        let doubled = self.first.saturating_mul(1 << failed.saturating_sub(1).min(30));
        doubled.min(self.longest).min(PAUSE_MAX).mul_f64(0.5 + chance)
    }
}

/// Repeats calls over a [`Channel`](super::Channel) or over [`Targets`](super::Targets). A stub
/// takes it in place of these. Clones count their requests together.
#[derive(Clone, Debug)]
pub struct Retrying<I> {
    invoker: I,
    retry: Retry,
    attempt_timeout: Option<Duration>,
    client: Bytes,
    last_number: Arc<AtomicU64>,
}

impl<I> Retrying<I> {
    /// Repeats calls over `invoker`.
    pub fn new(invoker: I, retry: Retry) -> Retrying<I> {
        let client = Bytes::copy_from_slice(&fastrand::u128(..).to_be_bytes());
        Retrying { invoker, retry, attempt_timeout: None, client, last_number: Arc::default() }
    }

    /// How long one attempt may take; default: until the call's deadline. An attempt that is given
    /// up was sent, so only idempotent calls are repeated after it. Too small: answers that are
    /// merely slow are asked for again. Too large: one lost answer uses up the whole call.
    pub fn attempt_timeout(mut self, timeout: Duration) -> Retrying<I> {
        self.attempt_timeout = Some(timeout);
        self
    }

    /// What carries the attempts.
    pub fn invoker(&self) -> &I {
        &self.invoker
    }
}

impl<I: Invoke> Invoke for Retrying<I> {
    fn invoke<A: Payload, R: Payload>(
        &self,
        method: &Method,
        options: &CallOptions,
        args: &A,
        deadline: Instant,
    ) -> Result<R, CallError> {
        let number = self.last_number.fetch_add(1, Ordering::Relaxed) + 1;
        let (first_began, mut attempt) = (Instant::now(), 0);
        // The error of the last attempt that may have run.
        let mut may_have_run_error = None;
        loop {
            let request = RequestId { client: self.client.clone(), number, attempt };
            let options = CallOptions { request: Some(request), ..options.clone() };
            let attempt_deadline = self
                .attempt_timeout
                .and_then(|timeout| Instant::now().checked_add(timeout))
                .map_or(deadline, |at| at.min(deadline));
            let mut error = match self.invoker.invoke(method, &options, args, attempt_deadline) {
                Ok(reply) => return Ok(reply),
                Err(error) => error,
            };
            if let CallError::TimedOut { which, waited, .. } = &mut error {
                match attempt_deadline < deadline {
                    true => *which = Deadline::Attempt,
                    false => *waited = deadline.saturating_duration_since(first_began),
                }
            }
            attempt = attempt.saturating_add(1);
            let Some(pause) = self.pause(method, &error, attempt, deadline) else {
                // Even if this attempt has not run, an earlier one may have.
                return Err(if error.may_have_run() {
                    error
                } else {
                    may_have_run_error.unwrap_or(error)
                });
            };
            may_have_run_error = Some(error).filter(CallError::may_have_run).or(may_have_run_error);
            thread::sleep(pause);
        }
    }
}

impl<I> Retrying<I> {
    /// The pause before the next attempt, after `failed` attempts of which the last failed with
    /// `error`. `None`: there is no further attempt.
    fn pause(
        &self,
        method: &Method,
        error: &CallError,
        failed: u32,
        deadline: Instant,
    ) -> Option<Duration> {
        let is_safe = method.is_idempotent || !error.may_have_run();
        let pause = self.retry.pause(failed, fastrand::f64()).filter(|_| is_safe)?;
        // What the server asks for comes on top of the random pause: callers that were refused
        // together do not come back together.
        let pause = pause.saturating_add(error.retry_after().unwrap_or_default());
        let left = deadline.saturating_duration_since(Instant::now());
        (may_help(error) && pause < left).then_some(pause)
    }
}

/// Whether the same call may succeed later.
fn may_help(error: &CallError) -> bool {
    match error {
        // `NotConnected`: the channel was closed.
        CallError::NotSent { source, .. } => {
            !error.is_unsendable() && source.kind() != ErrorKind::NotConnected
        }
        CallError::Refused { status, .. } => matches!(
            status.code,
            StatusCode::Busy
                | StatusCode::Closing
                | StatusCode::DeadlineExceeded
                | StatusCode::ShuttingDown
                | StatusCode::Unanswered
        ),
        CallError::Lost { .. } | CallError::TimedOut { .. } | CallError::Busy { .. } => true,
        // A stream is not a call that can be made again.
        CallError::Ended { .. }
        | CallError::BadReply { .. }
        | CallError::BadFrame { .. }
        | CallError::OtherProtocol { .. } => false,
    }
}

impl CallError {
    /// Whether the server, or the channel to it, has too many calls at the moment.
    pub fn is_busy(&self) -> bool {
        match self {
            CallError::Refused { status, .. } => status.code == StatusCode::Busy,
            error => matches!(error, CallError::Busy { .. }),
        }
    }

    /// How long the server asks the caller to wait before the next attempt, if it does.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            CallError::Refused { status: Status { retry_after, .. }, .. }
            | CallError::Ended { status: Status { retry_after, .. }, .. } => *retry_after,
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::io;
    use std::mem::discriminant;

    use super::*;

    const METHOD: Method = Method::new("s", "m");
    const MS: Duration = Duration::from_millis(1);

    /// Fails with these errors, the last one first, then answers. Keeps what it was asked.
    #[derive(Default)]
    struct Script {
        errors: RefCell<Vec<CallError>>,
        asked: RefCell<Vec<RequestId>>,
    }

    impl Invoke for &Script {
        fn invoke<A: Payload, R: Payload>(
            &self,
            _: &Method,
            options: &CallOptions,
            _: &A,
            _: Instant,
        ) -> Result<R, CallError> {
            self.asked.borrow_mut().extend(options.request.clone());
            match self.errors.borrow_mut().pop() {
                Some(error) => Err(error),
                None => Ok(R::read(Bytes::new()).expect("an empty message is one")),
            }
        }
    }

    fn lost() -> CallError {
        CallError::Lost { addr: "a".to_owned(), source: io::ErrorKind::ConnectionReset.into() }
    }

    fn not_sent() -> CallError {
        CallError::NotSent { addr: "a".to_owned(), source: io::ErrorKind::ConnectionRefused.into() }
    }

    fn refused(code: StatusCode, retry_after: Option<Duration>) -> CallError {
        let status = Status { retry_after, ..Status::new(code, "") };
        CallError::Refused { addr: "a".to_owned(), status }
    }

    fn timed_out(sent: bool) -> CallError {
        let (waited, which) = (MS, Deadline::Call);
        CallError::TimedOut { addr: "a".to_owned(), waited, sent, which }
    }

    /// How many attempts a call takes, and whether the last one succeeds.
    fn attempts(method: Method, errors: Vec<CallError>) -> (usize, bool) {
        let script = Script { errors: RefCell::new(errors), ..Script::default() };
        let retry = Retry::Fixed { pause: Duration::ZERO, attempts_max: 3 };
        let retrying = Retrying::new(&script, retry);
        let deadline = Instant::now() + Duration::from_secs(60);
        let result = retrying.invoke::<(), ()>(&method, &CallOptions::default(), &(), deadline);
        (script.asked.borrow().len(), result.is_ok())
    }

    #[test]
    fn only_a_call_that_has_not_run_or_may_run_twice_is_repeated() {
        let safe = METHOD.idempotent();
        let check = |method, error: fn() -> CallError, expected| {
            assert_eq!(attempts(method, vec![error()]), expected, "{}", error());
        };
        check(METHOD, not_sent, (2, true));
        check(METHOD, lost, (1, false));
        check(safe, lost, (2, true));
        check(METHOD, || timed_out(false), (2, true));
        check(METHOD, || timed_out(true), (1, false));
        check(safe, || timed_out(true), (2, true));
        check(METHOD, || refused(StatusCode::Busy, None), (2, true));
        check(METHOD, || refused(StatusCode::Unanswered, None), (1, false));
        check(safe, || refused(StatusCode::Unanswered, None), (2, true));
        check(safe, || refused(StatusCode::UnknownMethod, None), (1, false));
        check(safe, || refused(StatusCode::VersionMismatch, None), (1, false));
        check(safe, || refused(StatusCode::Internal, None), (1, false));
    }

    #[test]
    fn attempts_are_counted_and_keep_the_request_s_id() {
        assert_eq!(attempts(METHOD, vec![not_sent(), not_sent()]), (3, true));
        assert_eq!(attempts(METHOD, vec![not_sent(), not_sent(), not_sent()]), (3, false));
        let script = Script { errors: RefCell::new(vec![not_sent()]), ..Script::default() };
        let retrying =
            Retrying::new(&script, Retry::Fixed { pause: Duration::ZERO, attempts_max: 3 });
        let deadline = Instant::now() + Duration::from_secs(60);
        for _ in 0..2 {
            retrying.invoke::<(), ()>(&METHOD, &CallOptions::default(), &(), deadline).unwrap();
        }
        let asked = script.asked.borrow();
        let known = asked.iter().map(|it| (it.number, it.attempt)).collect::<Vec<_>>();
        assert_eq!(known, [(1, 0), (1, 1), (2, 0)]);
        assert!(asked.iter().all(|it| it.client == asked[0].client && it.client.len() == 16));
    }

    #[test]
    fn a_pause_that_would_outlast_the_deadline_is_not_begun() {
        let later = Some(Duration::from_secs(3600));
        let script = Script {
            errors: RefCell::new(vec![refused(StatusCode::Busy, later)]),
            ..Script::default()
        };
        let retrying = Retrying::new(&script, Retry::default());
        let began = Instant::now();
        let deadline = began + Duration::from_secs(60);
        let result = retrying.invoke::<(), ()>(&METHOD, &CallOptions::default(), &(), deadline);
        assert!(matches!(result, Err(CallError::Refused { .. })), "{result:?}");
        assert!(began.elapsed() < Duration::from_secs(30));
    }

    /// The error of a call whose attempts fail with these errors, the last one first.
    fn last_error(errors: Vec<CallError>) -> CallError {
        let script = Script { errors: RefCell::new(errors), ..Script::default() };
        let retrying =
            Retrying::new(&script, Retry::Fixed { pause: Duration::ZERO, attempts_max: 3 });
        let deadline = Instant::now() + Duration::from_secs(60);
        let method = METHOD.idempotent();
        retrying.invoke::<(), ()>(&method, &CallOptions::default(), &(), deadline).unwrap_err()
    }

    #[test]
    fn a_call_that_may_have_run_once_is_never_said_not_to_have_run() {
        let check = |errors, expected: CallError| {
            let error = last_error(errors);
            assert_eq!(discriminant(&error), discriminant(&expected), "{error}");
            assert_eq!(error.may_have_run(), expected.may_have_run(), "{error}");
        };
        check(vec![not_sent(), not_sent(), lost()], lost());
        check(vec![not_sent(), timed_out(true), lost()], timed_out(true));
        check(vec![lost(), not_sent(), not_sent()], lost());
        check(vec![refused(StatusCode::UnknownMethod, None), lost()], lost());
        check(vec![timed_out(false), not_sent(), not_sent()], timed_out(false));
    }

    #[test]
    fn a_channel_that_is_closed_is_not_tried_again() {
        let source = io::ErrorKind::NotConnected.into();
        let closed = CallError::NotSent { addr: "a".to_owned(), source };
        assert_eq!(attempts(METHOD, vec![closed]), (1, false));
    }

    #[test]
    fn pauses_double_up_to_the_longest_and_chance_changes_them_by_up_to_half() {
        let retry = Retry::Exponential { first: 10 * MS, longest: 35 * MS, attempts_max: 6 };
        let pauses = |chance| -> Vec<_> { (1..=6).map(|n| retry.pause(n, chance)).collect() };
        assert_eq!(
            pauses(0.5),
            [Some(10 * MS), Some(20 * MS), Some(35 * MS), Some(35 * MS), Some(35 * MS), None]
        );
        assert_eq!(pauses(0.0)[0], Some(5 * MS));
        assert_eq!(pauses(1.0)[1], Some(30 * MS));
        assert_eq!(Retry::default().pause(1000, 0.5), Some(Duration::from_secs(1)));
        assert_eq!(Retry::Never.pause(1, 0.5), None);
    }

    #[test]
    fn an_error_says_whether_and_for_how_long_the_server_is_busy() {
        let busy = refused(StatusCode::Busy, Some(MS));
        assert_eq!((busy.is_busy(), busy.retry_after()), (true, Some(MS)));
        let stopping = refused(StatusCode::ShuttingDown, None);
        assert_eq!((stopping.is_busy(), stopping.retry_after()), (false, None));
        assert!(CallError::Busy { addr: "a".to_owned(), calls: 1 }.is_busy());
        assert!(!lost().is_busy());
    }

    #[test]
    fn a_backoff_needs_no_count_of_attempts() {
        let backoff = Backoff { first: 10 * MS, longest: 40 * MS };
        for (failed, expected) in [(0, 10), (1, 10), (2, 20), (3, 40), (u32::MAX, 40)] {
            let (pause, expected) = (backoff.pause(failed), expected * MS);
            assert!(pause >= expected / 2 && pause <= expected * 3 / 2, "{failed}: {pause:?}");
        }
    }
}
