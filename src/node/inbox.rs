//! Where everything that happens to a member waits for its core, which takes all of it at once: that is what makes batches,
//! one write and one message for many proposals.
//!
//! Bounds: requests of clients by count and bytes, messages of peers by count; past them the caller is told at once.
//! What the member's own threads report is bounded by what they have been given to do. Of ticks at most one waits: a
//! member that was starved of processor time must not take the backlog for a silent leader.

use std::time::Duration;

use bytes::Bytes;

use super::StateMachine;
use super::driver::Driver;
use super::request::{RequestError, Stale, Waiting};
use super::stage::{Queue, Stage};
use crate::raft::{MemberId, Message, OtherCluster, PersistId, SnapshotMeta};
use crate::storage::Snapshot;

const REQUESTS_MAX: usize = 16_384;
const REQUEST_BYTES_MAX: usize = 64 << 20;
const MESSAGES_MAX: usize = 4_096;

/// Something that happened.
pub(super) enum Input<S: StateMachine> {
    Propose {
        command: Bytes,
        waiting: Waiting<S::Outcome>,
    },
    Read {
        query: S::Query,
        waiting: Waiting<S::Answer>,
    },
    /// A read of the state as it is.
    ReadStale {
        query: S::Query,
        age_max: Option<Duration>,
        waiting: Waiting<Stale<S::Answer>>,
    },
    Message(Message),
    Persisted(PersistId),
    Disconnected(MemberId),
    Transfer(Option<MemberId>),
    DiskFull(bool),
    Joined,
    /// A peer is of another cluster than this member, which asked where it stands.
    OtherCluster {
        peer: MemberId,
        other: OtherCluster,
    },
    /// A snapshot is wanted.
    TakeSnapshot,
    /// One of this member's own is on the disk.
    SnapshotTaken(SnapshotMeta),
    /// One of the leader's is, and this says so.
    SnapshotReceived {
        message: Message,
        snapshot: Box<Snapshot>,
    },
}

/// The stage of the core.
pub(super) struct Inbox<S: StateMachine> {
    stage: Stage<Driver<S>>,
}

/// What waits there.
pub(super) struct Waiters<S: StateMachine> {
    inputs: Vec<Input<S>>,
    requests: usize,
    request_bytes: usize,
    messages: usize,
    has_ticked: bool,
}

/// All that had arrived.
pub(super) struct Arrivals<S: StateMachine> {
    pub(super) inputs: Vec<Input<S>>,
    pub(super) has_ticked: bool,
}

impl<S: StateMachine> Default for Waiters<S> {
    fn default() -> Waiters<S> {
        let inputs = Vec::new();
        Waiters { inputs, requests: 0, request_bytes: 0, messages: 0, has_ticked: false }
    }
}

impl<S: StateMachine> Queue for Waiters<S> {
    type Batch = Arrivals<S>;

    fn take(&mut self) -> Option<Arrivals<S>> {
        self.has_work().then(|| {
            let Waiters { inputs, has_ticked, .. } = std::mem::take(self);
            Arrivals { inputs, has_ticked }
        })
    }

    fn has_work(&self) -> bool {
        !self.inputs.is_empty() || self.has_ticked
    }
}

impl<S: StateMachine> Inbox<S> {
    pub(super) fn new() -> Inbox<S> {
        Inbox { stage: Stage::new() }
    }

    pub(super) fn stage(&self) -> &Stage<Driver<S>> {
        &self.stage
    }

    /// A client's command.
    pub(super) fn propose(&self, command: Bytes, waiting: Waiting<S::Outcome>) {
        let bytes = command.len();
        if let Err((refusal, Input::Propose { waiting, .. })) =
            self.push_request(bytes, Input::Propose { command, waiting })
        {
            waiting.end(Err(refusal));
        }
    }

    /// A client's read.
    pub(super) fn read(&self, query: S::Query, waiting: Waiting<S::Answer>) {
        if let Err((refusal, Input::Read { waiting, .. })) =
            self.push_request(0, Input::Read { query, waiting })
        {
            waiting.end(Err(refusal));
        }
    }

    /// A client's read of whatever this member has.
    pub(super) fn read_stale(
        &self,
        query: S::Query,
        age_max: Option<Duration>,
        waiting: Waiting<Stale<S::Answer>>,
    ) {
        let input = Input::ReadStale { query, age_max, waiting };
        if let Err((refusal, Input::ReadStale { waiting, .. })) = self.push_request(0, input) {
            waiting.end(Err(refusal));
        }
    }

    fn push_request(&self, bytes: usize, input: Input<S>) -> Result<(), (RequestError, Input<S>)> {
        // Taken out again below, unless nobody looks at the queue any more.
        let mut input = Some(input);
        let refusal = self.stage.with_queue(|queue| {
            if queue.requests >= REQUESTS_MAX || queue.request_bytes >= REQUEST_BYTES_MAX {
                return Some(RequestError::Busy);
            }
            queue.requests += 1;
            queue.request_bytes += bytes;
            queue.inputs.extend(input.take());
            None
        });
        match (refusal.unwrap_or(Some(RequestError::Stopped { may_apply: false })), input) {
            (Some(refusal), Some(input)) => Err((refusal, input)),
            _ => Ok(()),
        }
    }

    /// What the member's own threads report, and what operators want.
    pub(super) fn report(&self, input: Input<S>) {
        self.stage.with_queue(|queue| queue.inputs.push(input));
    }

    /// A snapshot of the leader's is on the disk. False if the node is stopping.
    pub(super) fn snapshot_received(&self, message: Message, snapshot: Snapshot) -> bool {
        let input = Input::SnapshotReceived { message, snapshot: Box::new(snapshot) };
        self.stage.with_queue(|queue| queue.inputs.push(input)).is_some()
    }

    /// A message of a peer's. False if there is no place for it.
    pub(super) fn message(&self, message: Message) -> bool {
        let is_taken = self.stage.with_queue(|queue| {
            let has_place = queue.messages < MESSAGES_MAX;
            if has_place {
                queue.messages += 1;
                queue.inputs.push(Input::Message(message));
            }
            has_place
        });
        is_taken == Some(true)
    }

    /// The connection to a peer has closed, or a call to it failed.
    pub(super) fn disconnected(&self, peer: MemberId) {
        self.stage.with_queue(|queue| {
            // Many calls fail with one connection: once is enough.
            if !matches!(queue.inputs.last(), Some(Input::Disconnected(last)) if *last == peer) {
                queue.inputs.push(Input::Disconnected(peer));
            }
        });
    }

    /// A tick has passed.
    pub(super) fn tick(&self) {
        self.stage.with_queue(|queue| queue.has_ticked = true);
    }

    /// Ends the core's stage, and refuses everything from now on.
    pub(super) fn stop(&self) {
        let left = self.stage.with_queue(std::mem::take);
        self.stage.stop();
        left.into_iter().for_each(Waiters::refuse);
    }
}

impl<S: StateMachine> Waiters<S> {
    /// Nobody takes these any more: none of them has come to the core.
    pub(super) fn refuse(self) {
        let stopped = RequestError::Stopped { may_apply: false };
        for input in self.inputs {
            match input {
                Input::Propose { waiting, .. } => waiting.end(Err(stopped)),
                Input::Read { waiting, .. } => waiting.end(Err(stopped)),
                Input::ReadStale { waiting, .. } => waiting.end(Err(stopped)),
                _ => {}
            }
        }
    }
}
