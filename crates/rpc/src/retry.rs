//! Calls that are repeated: which ones, when, and how often.
//!
//! A call is repeated only if it has certainly not run, or if its method is marked idempotent. The
//! call has one deadline for all attempts and the pauses between them. If a server says when to try
//! again, the next attempt is not earlier.

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

/// The number of attempts, and the pauses between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// One attempt.
    Never,
    /// The same pause each time.
    Fixed {
        /// Before each attempt but the first.
        pause: Duration,
        /// Attempts in all.
        attempts_max: u32,
    },
    /// A pause that doubles each time. It is changed at random, by up to half of it, so that
    /// callers that failed together do not come back together.
    Exponential {
        /// Before the second attempt.
        first: Duration,
        /// No pause is longer, except by the random part.
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
    /// The pause after `failed` attempts, at least one; `None`: no further attempt. `chance` is
    /// between 0 and 1.
    fn pause(&self, failed: u32, chance: f64) -> Option<Duration> {
        match *self {
            Retry::Never => None,
            Retry::Fixed { pause, attempts_max } => (failed < attempts_max).then_some(pause),
            Retry::Exponential { first, longest, attempts_max } => {
                let doubled = first.saturating_mul(1 << (failed - 1).min(30));
                let pause = doubled.min(longest).min(PAUSE_MAX);
                (failed < attempts_max).then(|| pause.mul_f64(0.5 + chance))
            }
        }
    }
}

/// Repeats calls over a [`Channel`](super::Channel), or over several ([`Targets`](super::Targets)).
/// A stub takes it in their place. Clones count requests together.
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

    /// An attempt without an answer after this long has failed; default: only the call's deadline
    /// ends an attempt. It is repeated only if the method is idempotent. Too small: calls with slow
    /// answers are repeated. Too large: one lost answer fails the call.
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
        let mut doubt = None;
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
                // This attempt has not run, but an earlier one may have.
                return Err(if error.may_have_run() { error } else { doubt.unwrap_or(error) });
            };
            doubt = Some(error).filter(CallError::may_have_run).or(doubt);
            thread::sleep(pause);
        }
    }
}

impl<I> Retrying<I> {
    /// How long to wait before another attempt, after `failed` attempts, the last of which failed
    /// with `error`; `None`: there is no other attempt.
    fn pause(
        &self,
        method: &Method,
        error: &CallError,
        failed: u32,
        deadline: Instant,
    ) -> Option<Duration> {
        let is_safe = method.is_idempotent || !error.may_have_run();
        let pause = self.retry.pause(failed, fastrand::f64()).filter(|_| is_safe)?;
        // What the server asks for, plus a random part, so that callers that were refused together
        // do not come back together.
        let pause = pause.saturating_add(retry_after(error).unwrap_or_default());
        let left = deadline.saturating_duration_since(Instant::now());
        (may_help(error) && pause < left).then_some(pause)
    }
}

/// Whether the same call could succeed another time.
fn may_help(error: &CallError) -> bool {
    match error {
        // Arguments that no channel sends, or a channel that was closed.
        CallError::NotSent { source, .. } => {
            !matches!(source.kind(), ErrorKind::InvalidInput | ErrorKind::NotConnected)
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
        CallError::BadReply { .. }
        | CallError::BadFrame { .. }
        | CallError::OtherProtocol { .. } => false,
    }
}

fn retry_after(error: &CallError) -> Option<Duration> {
    match error {
        CallError::Refused { status: Status { retry_after, .. }, .. } => *retry_after,
        _ => None,
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

    /// Fails with each of `errors`, the last one first, then answers. Records the requests.
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

    /// The number of attempts, and whether the last one succeeds.
    fn attempts(method: Method, errors: Vec<CallError>) -> (usize, bool) {
        let script = Script { errors: RefCell::new(errors), ..Script::default() };
        let retry = Retry::Fixed { pause: Duration::ZERO, attempts_max: 3 };
        let retrying = Retrying::new(&script, retry);
        let deadline = Instant::now() + Duration::from_secs(60);
        let result = retrying.invoke::<(), ()>(&method, &CallOptions::default(), &(), deadline);
        (script.asked.borrow().len(), result.is_ok())
    }

    #[test]
    fn only_what_has_not_run_or_may_run_twice_is_repeated() {
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
    fn pauses_double_up_to_the_longest_and_chance_moves_them_by_half() {
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
}
