//! The errors of callers and servers.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use super::{ErrorChain, Status};

/// Why a call has no reply. [`CallError::may_have_run`] says whether the call may have run, and
/// [`ErrorChain`] shows the error with its cause.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// No byte of the call was sent, because there was no connection or the channel is closed. It
    /// did not run.
    #[error("call to {addr} was not sent")]
    NotSent {
        /// The server's address, as given to the channel.
        addr: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The server answered with an error status.
    #[error("{addr} refused the call: {status}")]
    Refused {
        /// The server's address, as given to the channel.
        addr: String,
        /// The status.
        status: Status,
    },
    /// The connection was lost after the call was sent (or while it was being sent), before its
    /// answer. It may have run.
    #[error("connection to {addr} was lost before the answer")]
    Lost {
        /// The server's address, as given to the channel.
        addr: String,
        /// How the connection ended.
        #[source]
        source: io::Error,
    },
    /// The deadline passed first.
    #[error(
        "no answer from {addr} within {} ms{} ({})",
        in_ms(.waited),
        if *.which == Deadline::Attempt { " to the last attempt" } else { "" },
        if *.sent { "sent" } else { "not sent" }
    )]
    TimedOut {
        /// The server's address, as given to the channel.
        addr: String,
        /// How long the call waited: the time from the call to its deadline.
        waited: Duration,
        /// Whether the call had been sent (or was being sent), so that it may have run.
        sent: bool,
        /// Which deadline passed.
        which: Deadline,
    },
    /// The server sent bytes that are not of this protocol, so the rest of the connection cannot be
    /// read. Calls that were sent may have run.
    #[error("{addr} sent an invalid frame: {reason}")]
    BadFrame {
        /// The server's address, as given to the channel.
        addr: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The first bytes that came are of another protocol, so no RPC server listens at this address.
    /// The call did not run.
    #[error("{addr} speaks {protocol}, not this protocol")]
    OtherProtocol {
        /// The server's address, as given to the channel.
        addr: String,
        /// The protocol's name, as in "HTTP".
        protocol: &'static str,
    },
    /// The answer is not a reply of this method. The call may have run.
    #[error("bad reply from {addr}: {reason}")]
    BadReply {
        /// The server's address, as given to the channel.
        addr: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The stream was ended with a status, after it was opened. Its method may have run.
    #[error("the stream from {addr} was ended: {status}")]
    Ended {
        /// The server's address, as given to the channel.
        addr: String,
        /// The status: the server's or, if this side has cancelled the stream,
        /// [`Cancelled`](super::StatusCode::Cancelled).
        status: Status,
    },
    /// Too many calls or streams of this channel are open. This one did not run.
    #[error("too many calls to {addr}: {calls} are waiting for answers")]
    Busy {
        /// The server's address, as given to the channel.
        addr: String,
        /// How many are waiting.
        calls: usize,
    },
}

impl CallError {
    /// Whether the call may have run on the server. If false, it has certainly not run and never
    /// will.
    pub fn may_have_run(&self) -> bool {
        match self {
            CallError::NotSent { .. }
            | CallError::Busy { .. }
            | CallError::OtherProtocol { .. } => false,
            CallError::Refused { status, .. } => status.code.may_have_run(),
            CallError::TimedOut { sent, .. } => *sent,
            CallError::Lost { .. }
            | CallError::BadReply { .. }
            | CallError::BadFrame { .. }
            | CallError::Ended { .. } => true,
        }
    }

    /// Whether no channel sends the call, because its arguments are too long or cannot be
    /// serialized. To try again does not help. The error is a [`CallError::NotSent`].
    pub fn is_unsendable(&self) -> bool {
        matches!(self, CallError::NotSent { source, .. } if unsendable(source).is_some())
    }
}

/// Why no channel sends a call, in words. As a source it is [`io::ErrorKind::InvalidInput`], which
/// a system may also say of an address.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Unsendable(pub(super) String);

impl From<Unsendable> for io::Error {
    fn from(unsendable: Unsendable) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidInput, unsendable)
    }
}

fn unsendable(error: &io::Error) -> Option<&Unsendable> {
    error.get_ref()?.downcast_ref()
}

/// Which deadline passed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Deadline {
    /// The deadline of the whole call.
    #[default]
    Call,
    /// The deadline of the last attempt: see [`Retrying`](super::Retrying).
    Attempt,
}

/// Rounded, because a deadline is computed a little before the call begins: 2000 ms instead of
/// 1999.934 ms.
fn in_ms(time: &Duration) -> u128 {
    (time.as_micros() + 500) / 1000
}

/// Why a server does not start. [`ErrorChain`] shows it with its cause.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// The server cannot listen on the address.
    #[error("cannot listen on {addr}")]
    Bind {
        /// The address as given, with the range of ports if there are several.
        addr: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The listener does not work.
    #[error("cannot serve on {}", .addr.map_or_else(|| "its listener".to_owned(), |addr| addr.to_string()))]
    Listener {
        /// The listener's address, if it is known.
        addr: Option<SocketAddr>,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Two services have the same name.
    #[error("service {name:?} is published twice")]
    DuplicateService {
        /// The name.
        name: &'static str,
    },
    /// No address to listen on was given.
    #[error("no address to listen on")]
    NoAddress,
    /// The limits contradict each other.
    #[error("limits contradict each other: {reason}")]
    BadLimits {
        /// Which limits, and how.
        reason: String,
    },
}

/// A copy of `error`: one broken connection fails many calls, and `io::Error` is not `Clone`.
pub(super) fn same_error(error: &io::Error) -> io::Error {
    if let Some(unsendable) = unsendable(error) {
        return unsendable.clone().into();
    }
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(error.kind(), ErrorChain(error).to_string()),
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::error_words::{check_all, every_variant};
    use crate::frame::{FrameError, OtherProtocol};
    use crate::{Endpoint, PayloadError, SourceError, StatusCode};

    #[test]
    fn every_error_says_its_own_part_only() {
        let addr = || "a:1".to_owned();
        let cause = || io::Error::other("no such thing");
        check_all(&every_variant!(CallError:
            NotSent { addr: addr(), source: cause() },
            Refused { addr: addr(), status: Status::new(StatusCode::Internal, "it panicked") },
            Lost { addr: addr(), source: cause() },
            TimedOut {
                addr: addr(), waited: Duration::ZERO, sent: true, which: Deadline::Attempt
            },
            BadFrame { addr: addr(), reason: "a header of 0 bytes".to_owned() },
            OtherProtocol { addr: addr(), protocol: "HTTP" },
            BadReply { addr: addr(), reason: "it is cut short".to_owned() },
            Ended { addr: addr(), status: Status::new(StatusCode::Cancelled, "it was dropped") },
            Busy { addr: addr(), calls: 3 },
        ));
        check_all(&every_variant!(ServerError:
            Bind { addr: addr(), source: cause() },
            Listener { addr: None, source: cause() },
            Listener { addr: Some(([127, 0, 0, 1], 1).into()), source: cause() },
            DuplicateService { name: "s" },
            NoAddress {},
            BadLimits { reason: "calls_max is 0".to_owned() },
        ));
        check_all(&every_variant!(FrameError:
            OtherProtocol(OtherProtocol::Http),
            OtherProtocol(OtherProtocol::Tls),
            OtherProtocol(OtherProtocol::Unknown([0; 3])),
            EmptyHead {},
            HeadTooLong { len: 2000 },
            BadTag { found: 1 },
            BadHead(u32::decode(&[0xff][..]).unwrap_err()),
        ));
        let not_an_endpoint = || "a".parse::<Endpoint>().unwrap_err();
        check_all(&every_variant!(SourceError:
            Read { path: "f".into(), source: cause() },
            BadLine { path: "f".into(), line: 7, source: not_an_endpoint() },
            Empty { path: "f".into() },
            Watch { path: "f".into(), source: cause() },
        ));
        check_all(&[not_an_endpoint()]);
        check_all(&[PayloadError::new(cause())]);
    }

    #[test]
    fn times_are_shown_in_milliseconds() {
        let waited = Duration::from_secs(2) - Duration::from_nanos(66_213);
        let check = |which, words| {
            let error = CallError::TimedOut { addr: "a:1".to_owned(), waited, sent: true, which };
            assert_eq!(error.to_string(), words);
        };
        check(Deadline::Call, "no answer from a:1 within 2000 ms (sent)");
        check(Deadline::Attempt, "no answer from a:1 within 2000 ms to the last attempt (sent)");
    }

    #[test]
    fn says_whether_the_call_may_have_run() {
        let addr = || "a:1".to_owned();
        let source = || io::Error::from(io::ErrorKind::ConnectionReset);
        let refused = |code| CallError::Refused { addr: addr(), status: Status::new(code, "") };
        let ended = |code| CallError::Ended { addr: addr(), status: Status::new(code, "") };
        let (waited, which) = (Duration::ZERO, Deadline::Call);
        let timed_out = |sent| CallError::TimedOut { addr: addr(), waited, sent, which };
        let cases = [
            (CallError::NotSent { addr: addr(), source: source() }, false),
            (CallError::Lost { addr: addr(), source: source() }, true),
            (CallError::Busy { addr: addr(), calls: 1 }, false),
            (CallError::BadReply { addr: addr(), reason: String::new() }, true),
            (CallError::BadFrame { addr: addr(), reason: String::new() }, true),
            (CallError::OtherProtocol { addr: addr(), protocol: "HTTP" }, false),
            (ended(StatusCode::ShuttingDown), true),
            (refused(StatusCode::Cancelled), true),
            (refused(StatusCode::VersionMismatch), false),
            (refused(StatusCode::ShuttingDown), false),
            (timed_out(true), true),
            (timed_out(false), false),
            (refused(StatusCode::Busy), false),
            (refused(StatusCode::UnknownMethod), false),
            (refused(StatusCode::Internal), true),
            (refused(StatusCode::Unanswered), true),
            (refused(StatusCode::Other(99)), true),
        ];
        for (error, expected) in cases {
            assert_eq!(error.may_have_run(), expected, "{error}");
        }
    }
}
