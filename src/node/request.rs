//! A client's request while it waits, and the ways in which it can end without an outcome.

use std::time::{Duration, Instant};

use crate::clock;
use crate::raft::MemberId;

/// Why a proposal or a read has no outcome. [`RequestError::may_apply`] answers the question that matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// This member does not lead; nothing was done.
    #[error("this member is not the leader")]
    NotLeader {
        /// Who leads, if this member knows.
        leader: Option<MemberId>,
    },
    /// A bound is reached; nothing was done, and it is worth trying again soon.
    #[error("this member has too much to do")]
    Busy,
    /// The command is longer than [`COMMAND_LEN_MAX`](super::COMMAND_LEN_MAX); nothing was done.
    #[error("a command of {len_bytes} bytes is more than a message between members carries")]
    TooLarge {
        /// Its length.
        len_bytes: usize,
    },
    /// This member's disk is full; nothing was done. Reads go on, and writes do when there is space.
    #[error("this member's disk is full: it takes no writes until there is space")]
    DiskFull,
    /// This member's state may be older than the read allows, or nobody knows how old it is, as the member has confirmed none of
    /// its reads since it started; nothing was done.
    #[error("this member's state may be older than the read allows")]
    TooStale,
    /// The command stood in the log of a leader that was deposed, and another leader's entry took its place: it never takes
    /// effect.
    #[error("another leader's entry took the place of this one")]
    Superseded,
    /// The command stood in the log when this member stopped leading: it may still take effect.
    #[error("this member lost the leadership before the command was committed")]
    LeadershipLost {
        /// Who leads now, if this member knows.
        leader: Option<MemberId>,
    },
    /// The deadline passed first.
    #[error("the deadline passed before the command was committed")]
    TimedOut {
        /// Whether the command stood in the log by then.
        may_apply: bool,
    },
    /// This member's state is not that of a majority ([`NodeHandle::divergence`](super::NodeHandle::divergence)): it serves
    /// nobody until it is rebuilt. Others do.
    #[error("this member's state differs from the others': it does not serve until it is rebuilt")]
    Diverged {
        /// Whether the command stood in the log when that was noticed.
        may_apply: bool,
    },
    /// The member stopped first.
    #[error("this member is stopping")]
    Stopped {
        /// Whether the command stood in the log by then.
        may_apply: bool,
    },
}

impl RequestError {
    /// Whether the command may have taken effect, or may yet. `false` is certain.
    pub fn may_apply(&self) -> bool {
        match self {
            RequestError::NotLeader { .. }
            | RequestError::Busy
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
    /// What the member's state says.
    pub answer: T,
    /// The answer reflects every write that was acknowledged longer ago than this.
    pub age_max: Duration,
}

/// A request's end: called once, from a thread of the node, and must not block.
pub(super) type Callback<T> = Box<dyn FnOnce(Result<T, RequestError>) + Send>;

/// A request that waits for its end. Lost with a thread that failed, it ends all the same.
pub(super) struct Waiting<T> {
    begun: Duration,
    deadline: Instant,
    /// None once it has ended.
    callback: Option<Callback<T>>,
}

impl<T> Waiting<T> {
    pub(super) fn new(
        deadline: Instant,
        callback: impl FnOnce(Result<T, RequestError>) + Send + 'static,
    ) -> Waiting<T> {
        Waiting { begun: clock::boot_time(), deadline, callback: Some(Box::new(callback)) }
    }

    /// When it was asked for, by the boot-time clock.
    pub(super) fn begun(&self) -> Duration {
        self.begun
    }

    pub(super) fn end(mut self, result: Result<T, RequestError>) {
        if let Some(callback) = self.callback.take() {
            callback(result);
        }
    }

    pub(super) fn is_expired(&self, now: Instant) -> bool {
        self.deadline <= now
    }
}

impl<T> Drop for Waiting<T> {
    fn drop(&mut self) {
        if let Some(callback) = self.callback.take() {
            callback(Err(RequestError::Stopped { may_apply: true }));
        }
    }
}
