//! A channel's errors: each names the server, and says what may have happened.

use std::io;
use std::time::Duration;

use super::calls::Call;
use super::core::Core;
use crate::error::same_error;
use crate::{CallError, Deadline, Status};

impl Core {
    pub(super) fn not_sent(&self, source: &io::Error) -> CallError {
        CallError::NotSent { addr: self.config.addr.clone(), source: same_error(source) }
    }

    pub(super) fn closed(&self) -> CallError {
        self.not_sent(&channel_closed())
    }

    pub(super) fn busy(&self, calls: usize) -> CallError {
        CallError::Busy { addr: self.config.addr.clone(), calls }
    }

    pub(super) fn refused(&self, status: Status) -> CallError {
        CallError::Refused { addr: self.config.addr.clone(), status }
    }

    pub(super) fn bad_reply(&self, reason: String) -> CallError {
        CallError::BadReply { addr: self.config.addr.clone(), reason }
    }

    pub(super) fn timed_out(&self, call: &Call) -> CallError {
        let waited = call.deadline.saturating_duration_since(call.began);
        CallError::TimedOut {
            addr: self.config.addr.clone(),
            waited,
            sent: call.sent,
            which: Deadline::Call,
        }
    }

    pub(super) fn loss(&self, why: &Loss) -> CallError {
        match why {
            Loss::Broken(source) => {
                CallError::Lost { addr: self.config.addr.clone(), source: same_error(source) }
            }
            Loss::Silent(silence) => {
                let words = format!(
                    "nothing has come from it for {} ms, not even an answer to a ping",
                    silence.as_millis()
                );
                let source = io::Error::new(io::ErrorKind::TimedOut, words);
                CallError::Lost { addr: self.config.addr.clone(), source }
            }
            Loss::Refused(status) => self.refused(status.clone()),
            Loss::Stranger(protocol) => {
                CallError::OtherProtocol { addr: self.config.addr.clone(), protocol }
            }
            Loss::Nonsense(reason) => {
                CallError::BadFrame { addr: self.config.addr.clone(), reason: reason.clone() }
            }
        }
    }
}

/// How a connection ended.
pub(super) enum Loss {
    /// It broke, or was closed.
    Broken(io::Error),
    /// Nothing has come over it for so long, though calls waited, that it was given up.
    Silent(Duration),
    /// The server would not have it, and has run nothing from it.
    Refused(Status),
    /// The first bytes that came are of this protocol, which runs no calls.
    Stranger(&'static str),
    /// What came is no frame.
    Nonsense(String),
}

pub(super) fn channel_closed() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the channel is closed")
}
