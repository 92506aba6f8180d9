//! Elections (Raft §5.2), each preceded by a pre-vote (thesis §9.6): a member that could not win disturbs nobody.

use std::collections::BTreeMap;

use super::message::*;
use super::types::{HardState, MemberId};
use super::{Effect, Raft, Role};

#[derive(Debug, Default)]
pub(super) struct Candidate {
    votes: BTreeMap<MemberId, bool>,
}

enum Tally {
    Won,
    Lost,
    Open,
}

impl Candidate {
    fn tally(&self, quorum: usize, members: usize) -> Tally {
        let granted = self.votes.values().filter(|&&granted| granted).count();
        let refused = self.votes.len() - granted;
        match () {
            () if granted >= quorum => Tally::Won,
            () if refused > members - quorum => Tally::Lost,
            () => Tally::Open,
        }
    }
}

impl Raft {
    /// No leader was heard for an election timeout: asks whether an election could be won. Also a candidate whose
    /// election came to nothing begins here again, with the term it has.
    pub(super) fn campaign(&mut self) {
        self.set_leader(None);
        self.reset_timer();
        self.role = Role::PreCandidate(Candidate::default());
        for message in self.vote_requests(true, false) {
            self.effects.push(Effect::Send(message));
        }
        self.count_vote(self.config.id, true);
    }

    /// Begins a term and votes for itself. That vote counts, and the others are asked, once it is on the disk.
    pub(super) fn stand_for_election(&mut self, is_transfer: bool) {
        let current_term = self.current_term().next();
        self.change_hard_state(HardState { current_term, voted_for: Some(self.config.id) });
        self.set_leader(None);
        self.reset_timer();
        self.role = Role::Candidate(Candidate::default());
        let requests = self.vote_requests(false, is_transfer);
        self.persists.then.extend(requests);
    }

    /// Whether this member can take a leader's place: it knows its promises, and its disk takes new ones.
    pub(super) fn may_stand(&self) -> bool {
        self.joining.is_none() && !self.is_disk_stalled()
    }

    /// Whether a candidate's own vote is on its way to the disk. The others were not asked yet, so there is nothing to time
    /// out: to begin again would only queue another write behind this one, on a slow disk without end.
    pub(super) fn is_vote_under_way(&self) -> bool {
        matches!(self.role, Role::Candidate(_)) && !self.is_hard_state_durable()
    }

    /// The others are being asked: they have a whole timeout to answer.
    pub(super) fn own_vote_durable(&mut self) {
        if let Role::Candidate(candidate) = &self.role
            && !candidate.votes.contains_key(&self.config.id)
        {
            self.reset_timer();
            self.count_vote(self.config.id, true);
        }
    }

    fn vote_requests(&self, pre_vote: bool, is_transfer: bool) -> Vec<Message> {
        let term = if pre_vote { self.current_term().next() } else { self.current_term() };
        let request = RequestVote {
            pre_vote,
            is_transfer,
            last_log_index: self.log.last_index(),
            last_log_term: self.log.last_term(),
        };
        self.config
            .peers()
            .map(|peer| self.request(peer, term, Body::RequestVote(request)))
            .collect()
    }

    /// A vote, or the answer to whether there would be one, arrives.
    pub(super) fn on_request_vote_reply(&mut self, message: &Message, reply: RequestVoteReply) {
        let is_awaited = match self.role {
            Role::PreCandidate(_) if reply.vote_granted => {
                message.term == self.current_term().next()
            }
            Role::PreCandidate(_) => reply.pre_vote,
            Role::Candidate(_) => !reply.pre_vote,
            Role::Follower | Role::Leader(_) => false,
        };
        if is_awaited {
            self.count_vote(message.from, reply.vote_granted);
        }
    }

    /// Counts a vote. A vote given stands; a refusal may be the late answer to an older request, so a vote after it counts.
    pub(super) fn count_vote(&mut self, from: MemberId, granted: bool) {
        let (quorum, members) = (self.config.quorum(), self.config.members.len());
        let is_pre_vote = matches!(self.role, Role::PreCandidate(_));
        let (Role::PreCandidate(candidate) | Role::Candidate(candidate)) = &mut self.role else {
            return;
        };
        *candidate.votes.entry(from).or_default() |= granted;
        match (candidate.tally(quorum, members), is_pre_vote) {
            (Tally::Won, true) => self.stand_for_election(false),
            // The others' votes may be in before its own is on the disk.
            (Tally::Won, false) if !self.is_hard_state_durable() => {}
            (Tally::Won, false) => self.become_leader(),
            // Back to waiting; the timer, drawn when the campaign began, runs on.
            (Tally::Lost, _) => self.role = Role::Follower,
            (Tally::Open, _) => {}
        }
    }
}
