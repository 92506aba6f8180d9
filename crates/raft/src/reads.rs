//! ReadIndex (thesis §6.4): linearizable reads that write nothing to the log.
//!
//! ```text
//!   waiting ──round starts: note commit_index──> in a round ──a quorum answers──> confirmed
//!   confirmed ──applied that far──> ready
//! ```
//! All reads that wait share one round of heartbeats. A round counts only answers to heartbeats
//! that were sent after its reads arrived, which proves that nobody else had become leader by then.
//! A lost round costs nothing, because an answer to any later round confirms it too.
//!
//! A round costs the same for one read as for a thousand. So reads wait until they are as many as
//! those ahead of them, which are in rounds or are being answered. Under load, about half of the
//! clients share each round. A read that finds nobody ahead of it does not wait. After a tick,
//! reads no longer wait to become more.

use std::collections::VecDeque;

use super::event::RequestId;
use super::message::{Caller, Message, ReadIndex};
use super::types::{Index, Term};

/// The most rounds under way at the same time. With the second one, reads that arrive during a
/// round need not wait for its end.
const ROUNDS_MAX: usize = 2;

#[derive(Debug, Default)]
pub(super) struct Reads {
    waiting: Readers,
    rounds: VecDeque<Batch>,
    confirmed: VecDeque<Batch>,
    len: usize,
    /// Reads that wait have waited for long enough, whatever is ahead of them.
    is_due: bool,
}

/// The readers that wait for a commit index.
#[derive(Debug, Default)]
pub(super) struct Readers {
    /// Reads that this member serves.
    pub(super) ids: Vec<RequestId>,
    /// Questions of followers, which serve reads of their own.
    pub(super) followers: Vec<Question>,
}

/// A follower that waits for an answer to its `ReadIndex`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question {
    pub(super) caller: Caller,
    pub(super) batch: u64,
}

impl Question {
    pub(super) fn new(message: &Message, request: ReadIndex) -> Question {
        Question { caller: message.caller(), batch: request.batch }
    }
}

#[derive(Debug)]
struct Batch {
    round: u64,
    /// The last committed entry.
    committed: (Index, Term),
    readers: Readers,
}

impl Readers {
    fn is_empty(&self) -> bool {
        self.ids.is_empty() && self.followers.is_empty()
    }
}

/// Followers' questions, with their answers.
pub(super) type Answers = Vec<(Question, (Index, Term))>;

impl Reads {
    /// The number of reads in all states.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn wait(&mut self, id: RequestId) {
        self.waiting.ids.push(id);
        self.len += 1;
    }

    pub(super) fn wait_for(&mut self, follower: Question) {
        self.waiting.followers.push(follower);
        self.len += 1;
    }

    /// Whether any read waits for a round.
    pub(super) fn is_any_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether any read waits for the answers of a round.
    pub(super) fn is_any_in_round(&self) -> bool {
        !self.rounds.is_empty()
    }

    /// Whether a round should start now, while so many reads that were ready have no answer yet.
    /// Followers ask for many reads at once, and are not kept waiting.
    pub(super) fn wants_round(&self, unanswered: usize) -> bool {
        let waiting = self.waiting.ids.len() + self.waiting.followers.len();
        let ahead = self.len - waiting + unanswered;
        self.is_any_waiting()
            && self.rounds.len() < ROUNDS_MAX
            && (waiting >= ahead || self.is_due || !self.waiting.followers.is_empty())
    }

    /// A tick has passed. What is ahead may be lost.
    pub(super) fn tick(&mut self) {
        self.is_due = self.is_any_waiting();
    }

    /// Starts a round. The reads that wait will be served from the state at `committed`.
    pub(super) fn start_round(&mut self, round: u64, committed: (Index, Term)) {
        if let Some(last) = self.rounds.back() {
            assert!(last.round < round, "rounds are counted up");
            assert!(last.committed <= committed, "reads never go backwards");
        }
        self.is_due = false;
        let readers = std::mem::take(&mut self.waiting);
        self.rounds.push_back(Batch { round, committed, readers });
    }

    /// A quorum has answered `round` or a later one. Returns the followers' questions that can be
    /// answered now.
    pub(super) fn confirm(&mut self, round: u64) -> Answers {
        let mut answers = Vec::new();
        while let Some(batch) = self.rounds.pop_front_if(|batch| batch.round <= round) {
            self.confirm_batch(batch, &mut answers);
        }
        answers
    }

    /// A lease confirms all reads that wait, without a round.
    pub(super) fn confirm_waiting(&mut self, committed: (Index, Term)) -> Answers {
        let (mut answers, readers) = (Vec::new(), std::mem::take(&mut self.waiting));
        self.confirm_batch(Batch { round: 0, committed, readers }, &mut answers);
        answers
    }

    fn confirm_batch(&mut self, mut batch: Batch, answers: &mut Answers) {
        let followers = std::mem::take(&mut batch.readers.followers);
        assert!(followers.len() <= self.len, "every read that is on its way is counted");
        self.len -= followers.len();
        answers.extend(followers.into_iter().map(|question| (question, batch.committed)));
        if !batch.readers.ids.is_empty() {
            self.confirmed.push_back(batch);
        }
    }

    /// The confirmed reads for which enough entries were handed out.
    pub(super) fn take_ready(&mut self, handed_out: Index) -> Vec<RequestId> {
        let mut ready = Vec::new();
        if self.confirmed.is_empty() {
            return ready;
        }
        while let Some(batch) = self.confirmed.pop_front_if(|it| it.committed.0 <= handed_out) {
            ready.extend(batch.readers.ids);
        }
        assert!(ready.len() <= self.len, "every read that is on its way is counted");
        self.len -= ready.len();
        ready
    }

    /// All reads, oldest first, when the leader steps down.
    pub(super) fn into_readers(self) -> impl Iterator<Item = Readers> {
        let batches = self.confirmed.into_iter().chain(self.rounds);
        batches.map(|batch| batch.readers).chain([self.waiting])
    }
}
