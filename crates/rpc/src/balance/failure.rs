//! What the failure of an attempt means: for the call, and for the health of the endpoint.

use std::time::Duration;

use super::health::HealthSignal;
use crate::{CallError, StatusCode};

/// How far an attempt got before it failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// There was no connection.
    Connect(CallError),
    /// There was one.
    Call(CallError),
}

impl Failure {
    pub(super) fn into_error(self) -> CallError {
        match self {
            Failure::Connect(error) | Failure::Call(error) => error,
        }
    }

    /// Whether the call may go on to another endpoint: it has certainly not run, and another
    /// endpoint may be able to run it.
    pub(super) fn goes_on(&self) -> bool {
        match self {
            Failure::Connect(error) => {
                matches!(error, CallError::NotSent { .. } | CallError::TimedOut { .. })
            }
            Failure::Call(error) if error.may_have_run() => false,
            Failure::Call(error) => self.signal() == HealthSignal::Unavailable || is_closing(error),
        }
    }

    /// What it says about the endpoint's health.
    pub(super) fn signal(&self) -> HealthSignal {
        match self {
            Failure::Connect(CallError::NotSent { .. }) => HealthSignal::Unavailable,
            // Connecting had a share of the call's time. It may just have been too short.
            Failure::Connect(CallError::TimedOut { .. }) => HealthSignal::Silent,
            Failure::Connect(_) => HealthSignal::Unknown,
            Failure::Call(error) => HealthSignal::of(error),
        }
    }

    /// What it says about the response time, if the call took `took`.
    pub(super) fn sample(&self, took: Duration) -> Option<Duration> {
        matches!(self, Failure::Call(CallError::TimedOut { sent: true, .. })).then_some(took)
    }
}

impl HealthSignal {
    /// What `error` says about the endpoint that the call went to.
    pub fn of(error: &CallError) -> HealthSignal {
        match error {
            // The arguments are too long for any endpoint.
            error if error.is_unsendable() => HealthSignal::Unknown,
            CallError::NotSent { .. } => HealthSignal::Unavailable,
            CallError::Refused { status, .. } | CallError::Ended { status, .. }
                if status.code == StatusCode::ShuttingDown =>
            {
                HealthSignal::Unavailable
            }
            CallError::Refused { .. } | CallError::Ended { .. } | CallError::BadReply { .. } => {
                HealthSignal::Answered
            }
            CallError::Lost { .. }
            | CallError::BadFrame { .. }
            | CallError::OtherProtocol { .. }
            | CallError::TimedOut { sent: true, .. } => HealthSignal::Silent,
            CallError::TimedOut { sent: false, .. } | CallError::Busy { .. } => {
                HealthSignal::Unknown
            }
        }
    }
}

/// Whether the call arrived on a connection that was ending. The endpoint itself is well.
fn is_closing(error: &CallError) -> bool {
    matches!(error, CallError::Refused { status, .. } if status.code == StatusCode::Closing)
}

#[cfg(test)]
mod tests {
    use std::io::{self, ErrorKind};

    use super::*;
    use crate::error::Unsendable;
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
        let check = |failure: Failure, signal: HealthSignal, goes_on: bool| {
            assert_eq!((failure.signal(), failure.goes_on()), (signal, goes_on), "{failure:?}");
            let may_run_twice = goes_on && failure.into_error().may_have_run();
            assert!(!may_run_twice);
        };
        check(
            Failure::Connect(not_sent(ErrorKind::ConnectionRefused)),
            HealthSignal::Unavailable,
            true,
        );
        check(Failure::Connect(not_sent(ErrorKind::InvalidInput)), HealthSignal::Unavailable, true);
        check(Failure::Connect(timed_out(false)), HealthSignal::Silent, true);
        check(Failure::Connect(busy()), HealthSignal::Unknown, false);
        check(
            Failure::Call(not_sent(ErrorKind::ConnectionRefused)),
            HealthSignal::Unavailable,
            true,
        );
        // A system may say it of an address.
        check(Failure::Call(not_sent(ErrorKind::InvalidInput)), HealthSignal::Unavailable, true);
        let source = Unsendable("too long".to_owned()).into();
        let unsendable = CallError::NotSent { addr: addr(), source };
        check(Failure::Call(unsendable), HealthSignal::Unknown, false);
        check(Failure::Call(refused(StatusCode::ShuttingDown)), HealthSignal::Unavailable, true);
        check(Failure::Call(refused(StatusCode::Closing)), HealthSignal::Answered, true);
        check(Failure::Call(refused(StatusCode::Busy)), HealthSignal::Answered, false);
        check(Failure::Call(bad_frame()), HealthSignal::Silent, false);
        check(Failure::Call(refused(StatusCode::Internal)), HealthSignal::Answered, false);
        check(Failure::Call(lost()), HealthSignal::Silent, false);
        check(Failure::Call(timed_out(true)), HealthSignal::Silent, false);
        check(Failure::Call(timed_out(false)), HealthSignal::Unknown, false);
        check(Failure::Call(busy()), HealthSignal::Unknown, false);
    }

    #[test]
    fn a_timeout_is_the_only_failure_that_is_a_sample() {
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
