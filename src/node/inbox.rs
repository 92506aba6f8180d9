//! Where everything that happens to a member waits for its raft thread, which takes all of it at once: that is what makes
//! batches, one write and one message for many proposals.
//!
//! Bounds: requests of clients by count and bytes, messages of peers by count; past them the caller is told at once.
//! What the member's own threads report is bounded by what they have been given to do. Of ticks at most one waits: a
//! member that was starved of processor time must not take the backlog for a silent leader.

use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};

use super::request::{RequestError, Stale, Waiting};
use super::{Mailbox, StateMachine};
use crate::raft::{MemberId, Message, PersistId, SnapshotMeta};
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

pub(super) struct Inbox<S: StateMachine> {
    state: Mutex<State<S>>,
    arrived: Condvar,
}

struct State<S: StateMachine> {
    inputs: Vec<Input<S>>,
    requests: usize,
    request_bytes: usize,
    messages: usize,
    has_ticked: bool,
    is_stopped: bool,
}

/// All that had arrived.
pub(super) struct Arrivals<S: StateMachine> {
    pub(super) inputs: Vec<Input<S>>,
    pub(super) has_ticked: bool,
}

impl<S: StateMachine> Default for State<S> {
    fn default() -> State<S> {
        let inputs = Vec::new();
        State {
            inputs,
            requests: 0,
            request_bytes: 0,
            messages: 0,
            has_ticked: false,
            is_stopped: false,
        }
    }
}

impl<S: StateMachine> Inbox<S> {
    pub(super) fn new() -> Inbox<S> {
        Inbox { state: Mutex::default(), arrived: Condvar::new() }
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
        let mut state = self.state.lock();
        if state.is_stopped {
            return Err((RequestError::Stopped { may_apply: false }, input));
        }
        if state.requests >= REQUESTS_MAX || state.request_bytes >= REQUEST_BYTES_MAX {
            return Err((RequestError::Busy, input));
        }
        state.requests += 1;
        state.request_bytes += bytes;
        self.push(&mut state, input);
        Ok(())
    }

    /// A write has reached the disk.
    pub(super) fn persisted(&self, id: PersistId) {
        self.push(&mut self.state.lock(), Input::Persisted(id));
    }

    /// An operator wants another leader.
    pub(super) fn transfer(&self, to: Option<MemberId>) {
        self.push(&mut self.state.lock(), Input::Transfer(to));
    }

    /// What is to be written waits for space, or no longer does.
    pub(super) fn disk_full(&self, is_full: bool) {
        self.push(&mut self.state.lock(), Input::DiskFull(is_full));
    }

    /// That this member has its data is recorded.
    pub(super) fn joined(&self) {
        self.push(&mut self.state.lock(), Input::Joined);
    }

    /// A snapshot is wanted.
    pub(super) fn take_snapshot(&self) {
        self.push(&mut self.state.lock(), Input::TakeSnapshot);
    }

    /// A snapshot of this member's own is on the disk.
    pub(super) fn snapshot_taken(&self, meta: SnapshotMeta) {
        self.push(&mut self.state.lock(), Input::SnapshotTaken(meta));
    }

    /// A snapshot of the leader's is on the disk. False if the node is stopping.
    pub(super) fn snapshot_received(&self, message: Message, snapshot: Snapshot) -> bool {
        let mut state = self.state.lock();
        let is_running = !state.is_stopped;
        if is_running {
            self.push(
                &mut state,
                Input::SnapshotReceived { message, snapshot: Box::new(snapshot) },
            );
        }
        is_running
    }

    /// A tick has passed.
    pub(super) fn tick(&self) {
        let mut state = self.state.lock();
        self.wake(&state);
        state.has_ticked = true;
    }

    /// Ends the raft thread, and refuses everything from now on.
    pub(super) fn stop(&self) {
        let left = {
            let mut state = self.state.lock();
            state.is_stopped = true;
            std::mem::take(&mut state.inputs)
        };
        self.arrived.notify_all();
        // Nobody takes these any more: none of them has come to the core.
        let stopped = RequestError::Stopped { may_apply: false };
        for input in left {
            match input {
                Input::Propose { waiting, .. } => waiting.end(Err(stopped)),
                Input::Read { waiting, .. } => waiting.end(Err(stopped)),
                Input::ReadStale { waiting, .. } => waiting.end(Err(stopped)),
                _ => {}
            }
        }
    }

    /// Waits until something has arrived and takes it all. `None` once stopped.
    pub(super) fn take(&self) -> Option<Arrivals<S>> {
        let mut state = self.state.lock();
        while state.is_idle() && !state.is_stopped {
            self.arrived.wait(&mut state);
        }
        if state.is_stopped {
            return None;
        }
        let State { inputs, has_ticked, .. } = std::mem::take(&mut *state);
        Some(Arrivals { inputs, has_ticked })
    }

    fn push(&self, state: &mut State<S>, input: Input<S>) {
        self.wake(state);
        state.inputs.push(input);
    }

    /// The raft thread sleeps only when there is nothing.
    fn wake(&self, before: &State<S>) {
        if before.is_idle() {
            self.arrived.notify_one();
        }
    }
}

impl<S: StateMachine> State<S> {
    fn is_idle(&self) -> bool {
        self.inputs.is_empty() && !self.has_ticked
    }
}

impl<S: StateMachine> Mailbox for Inbox<S> {
    fn message(&self, message: Message) -> bool {
        let mut state = self.state.lock();
        if state.is_stopped || state.messages >= MESSAGES_MAX {
            return false;
        }
        state.messages += 1;
        self.push(&mut state, Input::Message(message));
        true
    }

    fn disconnected(&self, peer: MemberId) {
        let mut state = self.state.lock();
        // Many calls fail with one connection: once is enough.
        if !matches!(state.inputs.last(), Some(Input::Disconnected(last)) if *last == peer) {
            self.push(&mut state, Input::Disconnected(peer));
        }
    }
}
