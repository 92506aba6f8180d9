//! What the end of an attempt means for the call, and for the endpoint.

use std::io::ErrorKind;
use std::time::Duration;

use super::health::Sign;
use crate::{CallError, StatusCode};

/// How far an attempt got before it failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// To the connection.
    Connect(CallError),
    /// Beyond it.
    Call(CallError),
}

impl Failure {
    pub(super) fn into_error(self) -> CallError {
        match self {
            Failure::Connect(error) | Failure::Call(error) => error,
        }
    }

    /// Whether another endpoint may be tried: the call has certainly not run, and it is this endpoint that is not there.
    pub(super) fn goes_on(&self) -> bool {
        match self {
            Failure::Connect(error) => {
                matches!(error, CallError::NotSent { .. } | CallError::TimedOut { .. })
            }
            Failure::Call(error) if error.may_have_run() => false,
            Failure::Call(error) => self.sign() == Sign::Gone || is_closing(error),
        }
    }

    /// What it says of the endpoint.
    pub(super) fn sign(&self) -> Sign {
        match self {
            Failure::Connect(CallError::NotSent { .. }) => Sign::Gone,
            // Perhaps only its share of the time was short.
            Failure::Connect(CallError::TimedOut { .. }) => Sign::Silent,
            Failure::Call(error) => sign_of(error),
            Failure::Connect(_) => Sign::None,
        }
    }

    /// What it says of the response time, when the call took `took`.
    pub(super) fn sample(&self, took: Duration) -> Option<Duration> {
        matches!(self, Failure::Call(CallError::TimedOut { sent: true, .. })).then_some(took)
    }
}

/// The connection was over when the call came to it; the endpoint is well.
fn is_closing(error: &CallError) -> bool {
    matches!(error, CallError::Refused { status, .. } if status.code == StatusCode::Closing)
}

fn sign_of(error: &CallError) -> Sign {
    match error {
        // The arguments are too long for any endpoint.
        CallError::NotSent { source, .. } if source.kind() == ErrorKind::InvalidInput => Sign::None,
        CallError::NotSent { .. } => Sign::Gone,
        CallError::Refused { status, .. } if status.code == StatusCode::ShuttingDown => Sign::Gone,
        CallError::Refused { .. } | CallError::BadReply { .. } => Sign::Alive,
        CallError::Lost { .. }
        | CallError::BadFrame { .. }
        | CallError::OtherProtocol { .. }
        | CallError::TimedOut { sent: true, .. } => Sign::Silent,
        CallError::TimedOut { sent: false, .. } | CallError::Busy { .. } => Sign::None,
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::{Deadline, Status};

    #[test]
    fn each_failure_has_its_meaning() {
        let addr = || "a:1".to_owned();
        let not_sent = |kind: ErrorKind| CallError::NotSent { addr: addr(), source: kind.into() };
        let lost = || CallError::Lost { addr: addr(), source: io::ErrorKind::UnexpectedEof.into() };
        let refused = |code| CallError::Refused { addr: addr(), status: Status::new(code, "") };
        let timed_out = |sent| CallError::TimedOut {
            addr: addr(),
            waited: Duration::ZERO,
            sent,
            which: Deadline::Call,
        };
        let bad_frame =
            || CallError::BadFrame { addr: addr(), reason: "HTTP, not this".to_owned() };
        let busy = || CallError::Busy { addr: addr(), calls: 1 };
        let check = |failure: Failure, sign: Sign, goes_on: bool| {
            assert_eq!((failure.sign(), failure.goes_on()), (sign, goes_on), "{failure:?}");
            let may_run_twice = goes_on && failure.into_error().may_have_run();
            assert!(!may_run_twice);
        };
        check(Failure::Connect(not_sent(ErrorKind::ConnectionRefused)), Sign::Gone, true);
        check(Failure::Connect(not_sent(ErrorKind::InvalidInput)), Sign::Gone, true);
        check(Failure::Connect(timed_out(false)), Sign::Silent, true);
        check(Failure::Connect(busy()), Sign::None, false);
        check(Failure::Call(not_sent(ErrorKind::ConnectionRefused)), Sign::Gone, true);
        check(Failure::Call(not_sent(ErrorKind::InvalidInput)), Sign::None, false);
        check(Failure::Call(refused(StatusCode::ShuttingDown)), Sign::Gone, true);
        check(Failure::Call(refused(StatusCode::Closing)), Sign::Alive, true);
        check(Failure::Call(refused(StatusCode::Busy)), Sign::Alive, false);
        check(Failure::Call(bad_frame()), Sign::Silent, false);
        check(Failure::Call(refused(StatusCode::Internal)), Sign::Alive, false);
        check(Failure::Call(lost()), Sign::Silent, false);
        check(Failure::Call(timed_out(true)), Sign::Silent, false);
        check(Failure::Call(timed_out(false)), Sign::None, false);
        check(Failure::Call(busy()), Sign::None, false);
    }

    #[test]
    fn of_the_failures_only_a_timeout_is_a_sample() {
        let timed_out = |sent| CallError::TimedOut {
            addr: "a:1".to_owned(),
            waited: Duration::ZERO,
            sent,
            which: Deadline::Call,
        };
        let took = Duration::from_secs(1);
        assert_eq!(Failure::Call(timed_out(true)).sample(took), Some(took));
        assert_eq!(Failure::Call(timed_out(false)).sample(took), None);
        assert_eq!(Failure::Connect(timed_out(false)).sample(took), None);
    }
}
