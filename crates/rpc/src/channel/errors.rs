//! The errors of a channel. Each one names the server, and says what may have happened.

use std::io::{self, ErrorKind};
use std::time::Duration;

use super::calls::Call;
use super::config::Config;
use crate::error::same_error;
use crate::{CallError, Deadline, Status};

impl Config {
    pub(super) fn not_sent(&self, source: &io::Error) -> CallError {
        CallError::NotSent { addr: self.addr.clone(), source: same_error(source) }
    }

    pub(super) fn closed(&self) -> CallError {
        self.not_sent(&channel_closed())
    }

    pub(super) fn busy(&self, calls: usize) -> CallError {
        CallError::Busy { addr: self.addr.clone(), calls }
    }

    pub(super) fn refused(&self, status: Status) -> CallError {
        CallError::Refused { addr: self.addr.clone(), status }
    }

    pub(super) fn ended(&self, status: Status) -> CallError {
        CallError::Ended { addr: self.addr.clone(), status }
    }

    pub(super) fn bad_frame(&self, reason: String) -> CallError {
        CallError::BadFrame { addr: self.addr.clone(), reason }
    }

    pub(super) fn bad_reply(&self, reason: String) -> CallError {
        CallError::BadReply { addr: self.addr.clone(), reason }
    }

    pub(super) fn timed_out(&self, call: &Call) -> CallError {
        let waited = call.deadline.saturating_duration_since(call.began);
        let (addr, sent, which) = (self.addr.clone(), call.sent, Deadline::Call);
        CallError::TimedOut { addr, waited, sent, which }
    }

    /// The error of each call that was sent over a connection that ended like this.
    pub(super) fn lost(&self, why: &Loss) -> CallError {
        let addr = self.addr.clone();
        match why {
            Loss::Broken(source) => CallError::Lost { addr, source: same_error(source) },
            Loss::Silent(silence) => {
                let words = format!(
                    "nothing has come from it for {} ms, not even an answer to a ping",
                    silence.as_millis()
                );
                CallError::Lost { addr, source: io::Error::new(ErrorKind::TimedOut, words) }
            }
            Loss::Refused(status) => self.refused(status.clone()),
            Loss::OtherProtocol(protocol) => CallError::OtherProtocol { addr, protocol },
            Loss::Nonsense(reason) => CallError::BadFrame { addr, reason: reason.clone() },
        }
    }
}

/// How a connection ended.
pub(super) enum Loss {
    /// It broke, or was closed.
    Broken(io::Error),
    /// Calls waited, and nothing came for this long.
    Silent(Duration),
    /// The server ended it and said why. It has run none of the calls without an answer.
    Refused(Status),
    /// The first bytes that came are of this protocol, which runs no calls.
    OtherProtocol(&'static str),
    /// What came is no frame.
    Nonsense(String),
}

pub(super) fn channel_closed() -> io::Error {
    io::Error::new(ErrorKind::NotConnected, "the channel is closed")
}

pub(super) fn end_of_stream() -> io::Error {
    io::Error::new(ErrorKind::UnexpectedEof, "the server closed the connection")
}
