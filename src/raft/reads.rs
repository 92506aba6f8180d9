//! ReadIndex (thesis §6.4): linearizable reads that write nothing to the log.
//!
//! ```text
//!   waiting ──round starts: note commit_index──> in a round ──a quorum answers──> confirmed ──applied that far──> ready
//! ```
//! All reads that wait share one round of heartbeats. A round only counts answers to heartbeats that were sent after its
//! reads arrived: that is what proves that nobody else had become leader by then. A round that is lost costs nothing:
//! an answer to any later round confirms it too.

use std::collections::VecDeque;

use super::event::RequestId;
use super::types::Index;

/// Rounds under way at the same time. One would do; a second lets reads that arrive during a round start at once.
const ROUNDS_MAX: usize = 2;

#[derive(Debug, Default)]
pub(super) struct Reads {
    waiting: Vec<RequestId>,
    rounds: VecDeque<Batch>,
    confirmed: VecDeque<Batch>,
    len: usize,
}

#[derive(Debug)]
struct Batch {
    round: u64,
    read_index: Index,
    ids: Vec<RequestId>,
}

impl Reads {
    /// How many reads are anywhere on their way.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn wait(&mut self, id: RequestId) {
        self.waiting.push(id);
        self.len += 1;
    }

    /// Whether a round should start now.
    pub(super) fn wants_round(&self) -> bool {
        !self.waiting.is_empty() && self.rounds.len() < ROUNDS_MAX
    }

    /// A round starts: what waits will be served from the state at `read_index`.
    pub(super) fn start_round(&mut self, round: u64, read_index: Index) {
        self.rounds.push_back(Batch { round, read_index, ids: std::mem::take(&mut self.waiting) });
    }

    /// A quorum has answered `round` or a later one.
    pub(super) fn confirm(&mut self, round: u64) {
        while self.rounds.front().is_some_and(|batch| batch.round <= round) {
            self.confirmed.extend(self.rounds.pop_front());
        }
    }

    /// The confirmed reads that the entries handed out so far satisfy.
    pub(super) fn take_ready(&mut self, handed_out: Index) -> Vec<RequestId> {
        let mut ready = Vec::new();
        while let Some(batch) = self.confirmed.front()
            && batch.read_index <= handed_out
        {
            ready.extend(self.confirmed.pop_front().into_iter().flat_map(|batch| batch.ids));
        }
        self.len -= ready.len();
        ready
    }

    /// All that are on their way, oldest first: the leader steps down.
    pub(super) fn into_ids(self) -> impl Iterator<Item = RequestId> {
        let batches = self.confirmed.into_iter().chain(self.rounds);
        batches.flat_map(|batch| batch.ids).chain(self.waiting)
    }
}
