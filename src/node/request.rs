//! A client's request while it waits, and the ways in which it can end without an outcome.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::state_machine::StateMachine;
use crate::clock;
use crate::raft::MemberId;

/// Why a proposal or a read has no outcome. [`RequestError::may_apply`] says whether the command
/// may have taken effect all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// This member does not lead. Nothing was done.
    #[error("this member is not the leader")]
    NotLeader {
        /// Who leads, if this member knows.
        leader: Option<MemberId>,
    },
    /// A bound is reached. Nothing was done, and trying again soon is worth it.
    #[error("this member has too much to do")]
    Busy,
    /// This member is handing its leadership over. Nothing was done. In a few milliseconds another
    /// member leads, or this one goes on.
    #[error("this member is handing its leadership over")]
    HandingOver,
    /// The command is longer than [`COMMAND_LEN_MAX`](super::COMMAND_LEN_MAX). Nothing was done.
    #[error("a command of {len_bytes} bytes does not fit into a message between members")]
    TooLarge {
        /// Its length.
        len_bytes: usize,
    },
    /// This member's disk is full. Nothing was done. Reads go on, and so do writes when there is
    /// space.
    #[error("this member's disk is full: it takes no writes until there is space")]
    DiskFull,
    /// This member's state may be older than the read allows, or its age is not known because the
    /// member has not confirmed a read since it started. Nothing was done.
    #[error("this member's state may be older than the read allows")]
    TooStale,
    /// The command was in the log of a leader that was deposed, and another leader's entry replaced
    /// it. It never takes effect.
    #[error("another leader's entry replaced this one")]
    Superseded,
    /// The command was in the log when this member stopped leading. It may still take effect.
    #[error("this member lost the leadership before the command was committed")]
    LeadershipLost {
        /// Who leads now, if this member knows.
        leader: Option<MemberId>,
    },
    /// The deadline passed first.
    #[error("the deadline passed before the command was committed")]
    TimedOut {
        /// Whether the command was in the log by then.
        may_apply: bool,
    },
    /// This member's state differs from that of a majority
    /// ([`NodeHandle::divergence`](super::NodeHandle::divergence)). It serves nobody until it is
    /// rebuilt. Other members do.
    #[error("this member's state differs from the others': it does not serve until it is rebuilt")]
    Diverged {
        /// Whether the command was in the log when this was noticed.
        may_apply: bool,
    },
    /// The member stopped first.
    #[error("this member is stopping")]
    Stopped {
        /// Whether the command was in the log by then.
        may_apply: bool,
    },
}

impl RequestError {
    /// Whether the command may have taken effect, or may still do so. `false` is certain.
    pub fn may_apply(&self) -> bool {
        match self {
            RequestError::NotLeader { .. }
            | RequestError::Busy
            | RequestError::HandingOver
            | RequestError::TooLarge { .. }
            | RequestError::DiskFull
            | RequestError::TooStale
            | RequestError::Superseded => false,
            RequestError::LeadershipLost { .. } => true,
            RequestError::TimedOut { may_apply }
            | RequestError::Diverged { may_apply }
            | RequestError::Stopped { may_apply } => *may_apply,
        }
    }
}

/// An answer that may be old.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stale<T> {
    /// The answer from the member's state.
    pub answer: T,
    /// The answer reflects every write that was acknowledged longer ago than this.
    pub age_max: Duration,
}

/// What a client wants, and whom to tell.
pub(super) enum Request<S: StateMachine> {
    Propose {
        command: Bytes,
        responder: Responder<S::Outcome>,
    },
    Read {
        query: S::Query,
        responder: Responder<S::Answer>,
    },
    /// A read of the state as it is, if it is known to be no older than `age_max`.
    ReadStale {
        query: S::Query,
        age_max: Option<Duration>,
        responder: Responder<Stale<S::Answer>>,
    },
}

impl<S: StateMachine> Request<S> {
    /// The bytes that limits count.
    pub(super) fn len_bytes(&self) -> usize {
        match self {
            Request::Propose { command, .. } => command.len(),
            Request::Read { .. } | Request::ReadStale { .. } => 0,
        }
    }

    /// Ends it without an outcome.
    pub(super) fn refuse(self, error: RequestError) {
        match self {
            Request::Propose { responder, .. } => responder.respond(Err(error)),
            Request::Read { responder, .. } => responder.respond(Err(error)),
            Request::ReadStale { responder, .. } => responder.respond(Err(error)),
        }
    }
}

/// A command that is proposed, until when its outcome is waited for, and who is told.
pub(crate) struct Proposal<T> {
    pub(crate) command: Bytes,
    pub(crate) deadline: Instant,
    pub(crate) callback: Callback<T>,
}

/// Runs once, on a thread of the node, and must not block.
pub(crate) type Callback<T> = Box<dyn FnOnce(Result<T, RequestError>) + Send>;

/// Gives a request its result, once. If it is lost with a thread that panicked, the request ends
/// all the same.
pub(super) struct Responder<T> {
    begun: Duration,
    deadline: Instant,
    /// None once the result was given.
    callback: Option<Callback<T>>,
}

impl<T> Responder<T> {
    pub(super) fn new(
        deadline: Instant,
        callback: impl FnOnce(Result<T, RequestError>) + Send + 'static,
    ) -> Responder<T> {
        Responder { begun: clock::boot_time(), deadline, callback: Some(Box::new(callback)) }
    }

    /// When the request came, by the boot-time clock.
    pub(super) fn begun(&self) -> Duration {
        self.begun
    }

    pub(super) fn respond(mut self, result: Result<T, RequestError>) {
        if let Some(callback) = self.callback.take() {
            callback(result);
        }
    }

    pub(super) fn is_expired(&self, now: Instant) -> bool {
        self.deadline <= now
    }
}

impl<T> Drop for Responder<T> {
    fn drop(&mut self) {
        if let Some(callback) = self.callback.take() {
            callback(Err(RequestError::Stopped { may_apply: true }));
        }
    }
}
