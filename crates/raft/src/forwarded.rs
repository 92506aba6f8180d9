//! Reads at a follower (thesis §6.4): it asks the leader for its commit index, and serves the read
//! from its own state once that has reached this index.
//!
//! ```text
//!   waiting ──ReadIndex──> asked ──the leader is confirmed, and answers──> confirmed
//!   confirmed ──applied that far──> ready
//! ```
//! One question serves all reads that wait. Its answer also confirms the reads of earlier
//! questions, because they too arrived before the leader was confirmed. If no answer comes for a
//! while, another question is asked, because the first may be lost. If it was only slow, its answer
//! still counts.

use std::collections::VecDeque;

use super::event::RequestId;
use super::types::Index;

/// The most questions under way at the same time, as for the rounds of a leader.
const QUESTIONS_MAX: usize = 2;

/// The most questions whose answers are still awaited. Beyond it the oldest counts as lost, and its
/// reads wait for the next answer.
const REMEMBERED_MAX: usize = 16;

#[derive(Debug, Default)]
pub(super) struct Forwarded {
    waiting: Vec<RequestId>,
    asked: VecDeque<(u64, Vec<RequestId>)>,
    confirmed: VecDeque<(Index, Vec<RequestId>)>,
    /// Questions that do not count as lost.
    asked_lately: usize,
    ticks_since_asked: u32,
    len: usize,
}

impl Forwarded {
    /// The number of reads in all states.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn wait(&mut self, id: RequestId) {
        self.waiting.push(id);
        self.len += 1;
    }

    /// A tick has passed. A question without an answer after two heartbeats may be lost.
    pub(super) fn tick(&mut self, heartbeat_ticks: u32) {
        self.ticks_since_asked += 1;
        if self.ticks_since_asked >= 2 * heartbeat_ticks {
            self.asked_lately = 0;
        }
    }

    /// Whether the leader should be asked now.
    #[inline]
    pub(super) fn wants_question(&self) -> bool {
        // A question that was asked again has no reads of its own.
        let is_any_asked = self.asked.iter().any(|(_, ids)| !ids.is_empty());
        let is_any_unanswered = !self.waiting.is_empty() || is_any_asked;
        match self.asked_lately {
            0 => is_any_unanswered,
            some => !self.waiting.is_empty() && some < QUESTIONS_MAX,
        }
    }

    /// All reads that wait are asked about in the question `batch`.
    pub(super) fn ask(&mut self, batch: u64) {
        assert!(
            self.asked.back().is_none_or(|&(last, _)| last < batch),
            "names are not used again"
        );
        self.ticks_since_asked = 0;
        self.asked_lately += 1;
        self.asked.push_back((batch, std::mem::take(&mut self.waiting)));
        if self.asked.len() > REMEMBERED_MAX
            && let Some((_, ids)) = self.asked.pop_front()
            && let Some((_, next)) = self.asked.front_mut()
        {
            next.extend(ids);
        }
    }

    /// The leader has answered the question `batch`: its reads are served from the state at
    /// `committed`.
    pub(super) fn confirm(&mut self, batch: u64, committed: Index) {
        let ids = self.take_answered(batch);
        if !ids.is_empty() {
            self.confirmed.push_back((committed, ids));
        }
    }

    /// The leader has refused the question `batch`. Returns its reads, which do not wait any more.
    pub(super) fn take_refused(&mut self, batch: u64) -> Vec<RequestId> {
        let ids = self.take_answered(batch);
        assert!(ids.len() <= self.len, "every read that is on its way is counted");
        self.len -= ids.len();
        ids
    }

    fn take_answered(&mut self, batch: u64) -> Vec<RequestId> {
        let is_asked = self.asked.iter().any(|&(asked, _)| asked == batch);
        let mut ids = Vec::new();
        while is_asked
            && let Some((_, answered)) = self.asked.pop_front_if(|(asked, _)| *asked <= batch)
        {
            ids.extend(answered);
        }
        self.asked_lately = self.asked_lately.min(self.asked.len());
        ids
    }

    /// The confirmed reads for which enough entries were handed out.
    #[inline]
    pub(super) fn take_ready(&mut self, handed_out: Index) -> Vec<RequestId> {
        let mut ready = Vec::new();
        if self.confirmed.is_empty() {
            return ready;
        }
        while let Some((_, ids)) = self.confirmed.pop_front_if(|(index, _)| *index <= handed_out) {
            ready.extend(ids);
        }
        assert!(ready.len() <= self.len, "every read that is on its way is counted");
        self.len -= ready.len();
        ready
    }

    /// All reads that no leader has confirmed.
    pub(super) fn take_unconfirmed(&mut self) -> Vec<RequestId> {
        let asked = self.asked.drain(..).flat_map(|(_, ids)| ids);
        let ids: Vec<RequestId> = asked.chain(std::mem::take(&mut self.waiting)).collect();
        self.asked_lately = 0;
        self.len -= ids.len();
        ids
    }
}
