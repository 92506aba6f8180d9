//! Elections (Raft §5.2), each after a pre-vote (thesis §9.6), so that a member that could not win
//! disturbs nobody.

use std::collections::{BTreeMap, BTreeSet};

use super::common::Common;
use super::event::Effect;
use super::membership::Membership;
use super::message::{Message, Reply, Request, RequestVote, RequestVoteReply};
use super::types::{HardState, MemberId};
use super::{Raft, Role};

#[derive(Debug, Default)]
pub(super) struct Candidate {
    votes: BTreeMap<MemberId, bool>,
}

/// The state of an election or a pre-vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tally {
    Won,
    Lost,
    Open,
}

impl Candidate {
    /// A peer says whether it would vote for this member.
    pub(super) fn on_pre_vote_reply(
        &mut self,
        common: &Common,
        message: &Message,
        reply: RequestVoteReply,
    ) -> Tally {
        let is_awaited = match reply.vote_granted {
            true => message.term == common.current_term().next(),
            false => reply.pre_vote,
        };
        match is_awaited {
            true => self.count(common.membership(), message.from, reply.vote_granted),
            false => Tally::Open,
        }
    }

    /// A vote arrives.
    pub(super) fn on_vote_reply(
        &mut self,
        common: &Common,
        message: &Message,
        reply: RequestVoteReply,
    ) -> Tally {
        match reply.pre_vote {
            false => self.count(common.membership(), message.from, reply.vote_granted),
            true => Tally::Open,
        }
    }

    /// The candidate's own vote is on the disk. The other members are being asked, and have a whole
    /// timeout to answer.
    pub(super) fn own_vote_durable(&mut self, common: &mut Common) -> Tally {
        let own = common.config.id;
        if self.votes.contains_key(&own) {
            return Tally::Open;
        }
        common.reset_timer();
        self.count(common.membership(), own, true)
    }

    /// Counts a vote. A granted vote is final. A refusal may be a late answer to an older request,
    /// so a vote after it counts.
    fn count(&mut self, members: &Membership, from: MemberId, granted: bool) -> Tally {
        if !members.is_voter(from) {
            return Tally::Open;
        }
        *self.votes.entry(from).or_default() |= granted;
        let of = |answer| self.votes.iter().filter(move |it| *it.1 == answer).map(|it| *it.0);
        match () {
            () if members.is_quorum(of(true)) => Tally::Won,
            () if members.is_blocked_by(&of(false).collect::<BTreeSet<_>>()) => Tally::Lost,
            () => Tally::Open,
        }
    }
}

impl Raft {
    /// No leader was heard for an election timeout: asks whether an election could be won. A
    /// candidate whose election ended without a leader starts again here, in the same term.
    pub(super) fn campaign(&mut self) {
        self.assert_may_stand();
        let common = &mut self.common;
        common.set_leader(None);
        common.reset_timer();
        for message in common.vote_requests(true, false) {
            common.effects.push(Effect::Send(message));
        }
        let mut candidate = Candidate::default();
        let tally = candidate.count(common.membership(), common.config.id, true);
        self.role = Role::PreCandidate(candidate);
        self.pre_vote_counted(tally);
    }

    /// The shell wants an election now. A candidate goes on with the one that it has begun.
    pub(super) fn campaign_if_idle(&mut self) {
        let is_idle = matches!(self.role, Role::Follower) && !self.common.hears_leader();
        if is_idle && self.may_stand() {
            self.campaign();
        }
    }

    /// Begins a term and votes for itself. Once that vote is on the disk, it counts and the other
    /// members are asked.
    pub(super) fn stand_for_election(&mut self, is_transfer: bool) {
        self.assert_may_stand();
        let common = &mut self.common;
        let current_term = common.current_term().next();
        common.change_hard_state(HardState { current_term, voted_for: Some(common.config.id) });
        common.set_leader(None);
        common.reset_timer();
        self.role = Role::Candidate(Candidate::default());
        let requests = common.vote_requests(false, is_transfer);
        common.persists.then.extend(requests);
    }

    /// The leader hands over to this member: there is no pre-vote, and members that hear the leader
    /// may vote too.
    pub(super) fn on_timeout_now(&mut self, message: &Message) {
        self.common.reply(message.caller(), Reply::TimeoutNow);
        if self.may_stand() {
            self.stand_for_election(true);
        }
    }

    /// Whether a candidate's own vote is on its way to the disk. The other members were not asked
    /// yet, so there is nothing to time out. Another start would only queue another write, and on a
    /// slow disk this would never end.
    pub(super) fn is_vote_under_way(&self) -> bool {
        matches!(self.role, Role::Candidate(_)) && !self.common.is_hard_state_durable()
    }

    pub(super) fn pre_vote_counted(&mut self, tally: Tally) {
        match tally {
            Tally::Won => self.stand_for_election(false),
            Tally::Lost => self.give_up(),
            Tally::Open => {}
        }
    }

    pub(super) fn vote_counted(&mut self, tally: Tally) {
        match tally {
            // The other votes may arrive before this member's own is on the disk.
            Tally::Won if !self.common.is_hard_state_durable() => {}
            Tally::Won => self.become_leader(),
            Tally::Lost => self.give_up(),
            Tally::Open => {}
        }
    }

    /// Waits for a leader again. The timer that was set at the start of the campaign keeps running.
    fn give_up(&mut self) {
        assert!(self.common.leader().is_none(), "whoever hears a leader has given up already");
        self.role = Role::Follower;
    }

    /// Whether this member can become leader: its log lets it, it knows its promises, and its disk
    /// accepts new ones.
    pub(super) fn may_stand(&self) -> bool {
        let common = &self.common;
        common.may_lead()
            && !common.is_removed
            && self.joining.is_none()
            && !common.is_disk_stalled()
    }

    fn assert_may_stand(&self) {
        let common = &self.common;
        assert!(!common.is_leading(), "a leader does not stand for election");
        assert!(common.may_lead(), "only voters stand, and those whose removal is not committed");
        assert!(self.joining.is_none(), "whoever does not know its promises does not stand");
    }
}

impl Common {
    fn vote_requests(&self, pre_vote: bool, is_transfer: bool) -> Vec<Message> {
        let term = if pre_vote { self.current_term().next() } else { self.current_term() };
        let request = RequestVote {
            pre_vote,
            is_transfer,
            last_log_index: self.log.last_index(),
            last_log_term: self.log.last_term(),
        };
        let voters = self.peers().filter(|&peer| self.membership().is_voter(peer));
        voters.map(|peer| self.request(peer, term, Request::RequestVote(request))).collect()
    }
}
