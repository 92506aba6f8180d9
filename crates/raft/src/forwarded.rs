//! Reads at a follower (thesis §6.4): it asks the leader for its commit index, and serves the read
//! from its own state once that has reached this index.
//!
//! ```text
//!   waiting ──ReadIndex──> asked ──the leader is confirmed, and answers──> confirmed ──applied that far──> ready
//! ```
//! One question serves all reads that wait. Its answer also confirms the reads of earlier
//! questions, because they too arrived before the leader was confirmed. If no answer comes for a
//! while, another question is asked, because the first may be lost. If it was only slow, its answer
//! still counts.

use std::collections::VecDeque;

use super::common::Common;
use super::event::{Effect, Rejection, RequestId};
use super::message::{Message, ReadIndex, ReadIndexReply, Request};
use super::reads::Question;
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

    fn wants_question(&self) -> bool {
        let is_any_unanswered = !self.waiting.is_empty() || !self.asked.is_empty();
        match self.asked_lately {
            0 => is_any_unanswered,
            some => !self.waiting.is_empty() && some < QUESTIONS_MAX,
        }
    }

    fn ask(&mut self, batch: u64) {
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

    fn take_ready(&mut self, handed_out: Index) -> Vec<RequestId> {
        let mut ready = Vec::new();
        while let Some((_, ids)) = self.confirmed.pop_front_if(|(index, _)| *index <= handed_out) {
            ready.extend(ids);
        }
        assert!(ready.len() <= self.len, "every read that is on its way is counted");
        self.len -= ready.len();
        ready
    }

    /// All reads that no leader has confirmed.
    fn take_unconfirmed(&mut self) -> Vec<RequestId> {
        let asked = self.asked.drain(..).flat_map(|(_, ids)| ids);
        let ids: Vec<RequestId> = asked.chain(std::mem::take(&mut self.waiting)).collect();
        self.asked_lately = 0;
        self.len -= ids.len();
        ids
    }
}

impl Common {
    /// A client's read at a member that does not lead: asks the leader, or refuses the read.
    pub(super) fn read_through_leader(&mut self, id: RequestId) {
        match self.leader() {
            None => self.reject(id, Rejection::NotLeader(None)),
            _ if self.forwarded.len() >= self.config.reads_max => self.reject(id, Rejection::Busy),
            _ => self.forwarded.wait(id),
        }
    }

    /// Asks the leader for all reads that wait.
    #[inline]
    pub(super) fn ask_for_reads(&mut self) {
        let may_ask = self.forwarded.wants_question() && self.is_hard_state_durable();
        let Some(leader) = self.leader().filter(|_| may_ask) else { return };
        assert_ne!(leader, self.config.id, "a leader asks nobody");
        let batch = self.next_question();
        self.forwarded.ask(batch);
        let request = Request::ReadIndex(ReadIndex { batch });
        let question = self.request(leader, self.current_term(), request);
        self.effects.push(Effect::Send(question));
    }

    /// A question without an answer after two heartbeats may be lost.
    pub(super) fn tick_forwarded(&mut self) {
        self.forwarded.ticks_since_asked += 1;
        if self.forwarded.ticks_since_asked >= 2 * self.config.heartbeat_ticks {
            self.forwarded.asked_lately = 0;
        }
    }

    /// There is no leader, or another one, and nobody will confirm the reads that the last one was
    /// asked about.
    pub(super) fn reject_forwarded(&mut self) {
        let reason = Rejection::NotLeader(self.leader());
        let ids = self.forwarded.take_unconfirmed();
        self.effects.extend(ids.into_iter().map(|id| Effect::Rejected { id, reason }));
    }

    #[inline]
    pub(super) fn release_forwarded(&mut self) {
        if self.forwarded.confirmed.is_empty() {
            return;
        }
        let ready = self.forwarded.take_ready(self.handed_out());
        if !ready.is_empty() {
            self.effects.push(Effect::ReadReady(ready));
        }
    }

    /// Refuses, because this member does not lead this term or has too much to do.
    pub(super) fn refuse_read_index(&mut self, message: &Message, request: ReadIndex) {
        self.answer_question(Question::new(message, request), None);
    }

    pub(super) fn on_read_index_reply(&mut self, message: &Message, reply: ReadIndexReply) {
        if self.leader() != Some(message.from) {
            return;
        }
        let ids = self.forwarded.take_answered(reply.batch);
        let Some((index, term)) = reply.committed else {
            self.forwarded.len -= ids.len();
            let reason = Rejection::Busy;
            return self.effects.extend(ids.into_iter().map(|id| Effect::Rejected { id, reason }));
        };
        if !ids.is_empty() {
            self.forwarded.confirmed.push_back((index, ids));
        }
        self.known_committed = self.known_committed.max(Some((index, term)));
        self.commit_what_is_known();
    }
}
