//! Members that come without their data: new ones, and those whose disk was emptied.
//!
//! Whoever has lost its disk has lost its promises with it: for whom it voted, in which terms, and which entries it had
//! acknowledged. Until it cannot break one any more it does not count: it gives no vote and does not stand for election.
//!
//! ```text
//!             every other member has said its term          holds all that the leader of its term had
//!   Asking ───────────────────────────────────────> Filling ──────────────────────────────────────> voter
//!      └── all are as new, or a quorum is and nobody else answers: the cluster begins ─────────────> voter
//! ```
//! - *Asking*: nothing that comes from a leader is answered, as an answer of a member that had promised a later term to someone
//!   else could commit an entry, or confirm a read, that this someone knows nothing of. A candidate has begun its term before
//!   it asks for votes, so no vote was given in a later term than the latest of all other members. That one is taken over, and
//!   counts as voted in.
//! - *Filling*: a follower that does not vote. What it acknowledges from now on it holds. What it had acknowledged in earlier terms
//!   the leader holds, if it was, or can ever be, committed: the leader was elected by a quorum whose votes are not
//!   forgotten (Raft §5.4.3). What it had acknowledged to this very leader is in the leader's log. So with the last entry that the
//!   leader had, asked for and answered since, it holds everything.
//!
//! # What this takes for granted
//! - Members that have lost their data, together with those that have never begun, are fewer than a quorum; or they would
//!   begin a cluster of their own while the others are away. Whoever knows that a member has lost its data says so
//!   ([`Standing::Rebuilding`]): such a member never begins one.
//! - What two members said to each other before both lost their data does not arrive after.
//!
//! # Which cluster
//! A directory that begins empty has a cluster id all the same: the one that its list of members
//! stands for. The others may have begun with another list, as addresses may change. So a peer that
//! has data of another cluster names that cluster in place of an answer, and says whether it was
//! started with the same list ([`OtherCluster`]). Once *every* other member has named one and the
//! same cluster, with the same list, this one belongs there: it is at the address where they look
//! for it. [`Effect::TakeCluster`] says so, and ends this core: the member begins anew in that
//! cluster, as one that has lost its data. While only some have named another cluster, or they name
//! different ones, nothing is taken, and no cluster is begun either: a member that has heard of
//! another cluster no longer answers that it is new.
//!
//! In a cluster of two the other member alone is no majority. There a member that is being filled votes, but does not stand:
//! nothing was ever committed without the other one, which holds everything.
//!
//! The shell remembers in between: a member that starts again before it has joined, begins with asking.

use std::collections::BTreeMap;

use super::Raft;
use super::common::Common;
use super::event::Effect;
use super::message::{Join, JoinReply, Message, Reply, Request};
use super::types::{HardState, Index, MemberId, Term};

/// Whether a member may vote as it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It has all its data.
    Voter,
    /// It has never had any, for all it knows.
    New,
    /// It had data, and has lost it.
    Rebuilding,
}

/// What a peer with data of another cluster says to a member without data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OtherCluster {
    /// The peer's cluster.
    pub cluster_id: u64,
    /// Whether the peer was started with the same list of members, addresses included.
    pub has_same_list: bool,
}

/// What a peer has answered to a member without its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinAnswer {
    /// It has never had any data either.
    New,
    /// It has data, or has had some, or has heard of a cluster that has begun.
    HasData,
    /// It is not of this member's cluster.
    OtherCluster(OtherCluster),
}

/// What a member without its data knows of the others.
#[derive(Debug)]
pub(super) struct Joining {
    stage: Stage,
    question: u64,
    ticks_until_asked: u32,
    /// How long it has asked.
    ticks: u32,
}

#[derive(Debug)]
enum Stage {
    /// Who has answered what, and whether this member is new.
    Asking { is_new: bool, answers: BTreeMap<MemberId, JoinAnswer> },
    /// It belongs to another cluster than it believed: this core does nothing any more.
    Leaving,
    /// The last entry of the leader of this term.
    Filling { target: Option<(Term, Index)> },
    /// It has everything; that this is known in later lives, too, is on its way to the disk. A member that voted before could
    /// find itself asking again, with nobody else to lead.
    Recording,
}

impl Joining {
    pub(super) fn begin(standing: Standing, is_empty: bool, question: u64) -> Option<Joining> {
        let is_new = match standing {
            Standing::Voter => return None,
            Standing::New => is_empty,
            Standing::Rebuilding => false,
        };
        let stage = Stage::Asking { is_new, answers: BTreeMap::new() };
        Some(Joining { stage, question, ticks_until_asked: 1, ticks: 0 })
    }
}

impl Raft {
    /// While this member asks the others where they stand, as it lacks its data: who has answered
    /// what, if anything.
    pub fn join_answers(&self) -> Option<BTreeMap<MemberId, Option<JoinAnswer>>> {
        match &self.common.joining {
            Some(Joining { stage: Stage::Asking { answers, .. }, .. }) => Some(
                self.common
                    .config
                    .peers()
                    .map(|peer| (peer, answers.get(&peer).copied()))
                    .collect(),
            ),
            _ => None,
        }
    }
}

impl Common {
    /// Whether this member does not know yet what it may have promised.
    pub(super) fn is_asking(&self) -> bool {
        matches!(self.joining, Some(Joining { stage: Stage::Asking { .. }, .. }))
    }

    /// Whether this member, without all of its data, may vote: see there.
    pub(super) fn is_filled_by_the_only_other(&self) -> bool {
        let is_filling = matches!(self.joining, Some(Joining { stage: Stage::Filling { .. }, .. }));
        is_filling && self.config.members.len() == 2
    }

    pub(super) fn is_leaving(&self) -> bool {
        matches!(self.joining, Some(Joining { stage: Stage::Leaving, .. }))
    }

    /// Asks those who have not answered yet, again and again.
    pub(super) fn tick_joining(&mut self) {
        let (is_durable, term) = (self.is_hard_state_durable(), self.current_term());
        let Some(joining) = &mut self.joining else { return };
        joining.ticks = joining.ticks.saturating_add(1);
        self.count_answers();
        let Some(joining) = &mut self.joining else { return };
        joining.ticks_until_asked = joining.ticks_until_asked.saturating_sub(1);
        if joining.ticks_until_asked > 0 || !is_durable {
            return;
        }
        joining.ticks_until_asked = self.config.heartbeat_ticks;
        let question = joining.question;
        let asked: Vec<MemberId> = match &joining.stage {
            Stage::Asking { answers, .. } => {
                // Where clusters differ nobody's answer is final: members are restarted until it is
                // right.
                let asks_all = answers.values().any(JoinAnswer::is_other_cluster);
                let peers = self.config.peers();
                peers.filter(|peer| asks_all || !answers.contains_key(peer)).collect()
            }
            Stage::Filling { target: Some((of, _)) } if *of == term => Vec::new(),
            Stage::Filling { .. } => self.leader().into_iter().collect(),
            Stage::Recording | Stage::Leaving => Vec::new(),
        };
        for peer in asked {
            let join = self.request(peer, term, Request::Join(Join { question }));
            self.effects.push(Effect::Send(join));
        }
    }

    /// Another member has lost its data, or is new.
    pub(super) fn on_join(&mut self, message: &Message, Join { question }: Join) {
        let is_new = match &self.joining {
            // Nor should the asker begin a cluster beside another one that only this member has
            // heard of.
            Some(Joining { stage: Stage::Asking { is_new, answers }, .. }) => {
                *is_new && !answers.values().any(JoinAnswer::is_other_cluster)
            }
            Some(Joining { stage: Stage::Filling { .. } | Stage::Leaving, .. }) => false,
            // It may vote, or is about to, and has not begun to.
            Some(Joining { stage: Stage::Recording, .. }) | None => self.is_empty(),
        };
        let last = self.is_leading().then(|| (self.log.last_index(), self.log.last_term()));
        self.reply(message.caller(), Reply::Join(JoinReply { question, is_new, last }));
    }

    pub(super) fn on_join_reply(&mut self, message: &Message, reply: JoinReply) {
        let (term, leader) = (self.current_term(), self.leader());
        let Some(joining) = &mut self.joining else { return };
        if reply.question != joining.question {
            return;
        }
        match &mut joining.stage {
            Stage::Asking { answers, .. } => {
                let answer = if reply.is_new { JoinAnswer::New } else { JoinAnswer::HasData };
                answers.insert(message.from, answer);
                self.count_answers();
            }
            Stage::Filling { target } => {
                if let Some((index, last_term)) = reply.last
                    && (leader, last_term) == (Some(message.from), term)
                {
                    *target = Some((term, index));
                }
            }
            Stage::Recording | Stage::Leaving => {}
        }
    }

    /// In place of an answer: the peer is of another cluster.
    pub(super) fn on_other_cluster(&mut self, peer: MemberId, other: OtherCluster) {
        let is_peer = self.config.peers().any(|it| it == peer);
        if let Some(Joining { stage: Stage::Asking { answers, .. }, .. }) = &mut self.joining
            && is_peer
        {
            answers.insert(peer, JoinAnswer::OtherCluster(other));
            self.count_answers();
        }
    }

    /// Whether enough is known to go on.
    pub(super) fn count_answers(&mut self) {
        let Some(Joining { stage: Stage::Asking { is_new, answers }, ticks, .. }) = &self.joining
        else {
            return;
        };
        let is_all_new = *is_new && answers.values().all(|answer| *answer == JoinAnswer::New);
        let answered = answers.keys().copied().chain([self.config.id]);
        let is_quorum = self.config.members.is_quorum(answered);
        let has_all = 1 + answers.len() == self.config.members.len();
        if answers.values().any(JoinAnswer::is_other_cluster) {
            if has_all && let Some(cluster_id) = common_cluster(answers) {
                self.take_cluster(cluster_id);
            }
            return;
        }
        // One that has data may only be slow to say so.
        let is_late = *ticks >= self.config.election_ticks_max;
        if self.config.members.len() == 1 || is_all_new && (has_all || is_quorum && is_late) {
            self.record_joined();
        } else if has_all {
            self.begin_filling();
        }
    }

    /// Whoever has taken over a term or an entry has a cluster, and stays there.
    fn take_cluster(&mut self, cluster_id: u64) {
        if self.is_empty()
            && let Some(joining) = &mut self.joining
        {
            joining.stage = Stage::Leaving;
            self.effects.push(Effect::TakeCluster(cluster_id));
        }
    }

    fn is_empty(&self) -> bool {
        self.hard_state() == HardState::default() && self.log.last_index() == Index::ZERO
    }

    /// The others' terms are known, and taken over as they came: in the latest this member may have voted.
    fn begin_filling(&mut self) {
        assert!(!self.is_leading(), "whoever lacks its data does not lead");
        let question = self.next_question();
        // As a vote, a promise to a leader may be forgotten.
        self.promise_ticks = self.config.election_ticks_min;
        let Some(joining) = &mut self.joining else { return };
        joining.stage = Stage::Filling { target: None };
        // Answers from before now say nothing about what the leader of now holds.
        (joining.question, joining.ticks_until_asked) = (question, 1);
        // A vote that it does remember stands.
        let voted_for = self.hard_state().voted_for.or(Some(self.config.id));
        self.change_hard_state(HardState { voted_for, ..self.hard_state() });
    }

    /// Whether all that can have been promised is on this member's disk.
    pub(super) fn look_whether_filled(&mut self) {
        let Some(Joining { stage: Stage::Filling { target: Some((term, index)) }, .. }) =
            self.joining
        else {
            return;
        };
        let is_held = self.log.durable_index() >= index
            && self.log.term_at(index).is_none_or(|held| held == term);
        if term == self.current_term() && self.is_hard_state_durable() && is_held {
            self.record_joined();
        }
    }

    fn record_joined(&mut self) {
        if let Some(joining) = &mut self.joining {
            assert!(!matches!(joining.stage, Stage::Recording), "that is recorded once");
            joining.stage = Stage::Recording;
            self.effects.push(Effect::Joined);
        }
    }

    /// It is on the disk that this member has all its data.
    pub(super) fn joined(&mut self) {
        assert!(
            matches!(self.joining, Some(Joining { stage: Stage::Recording, .. })),
            "only what was asked to be recorded can have been"
        );
        self.joining = None;
        self.expect_no_leader();
    }

    /// In a cluster that begins there is no leader whose silence would have to be waited out. Not at once all the same: the others
    /// may be about to hear that all are new, and one that asks a member which has voted by then is filled as if it had lost its data.
    fn expect_no_leader(&mut self) {
        if self.is_empty() {
            let (soonest, latest) =
                (2 * self.config.heartbeat_ticks, self.config.election_ticks_min);
            let pause_ticks = self.rng.u32(soonest.min(latest)..=latest);
            let due_ticks = self.timer.elapsed_ticks.saturating_add(pause_ticks);
            self.timer.timeout_ticks = self.timer.timeout_ticks.min(due_ticks);
        }
    }
}

impl JoinAnswer {
    fn is_other_cluster(&self) -> bool {
        matches!(self, JoinAnswer::OtherCluster(_))
    }
}

/// The cluster that all of these name, with the same list of members.
fn common_cluster(answers: &BTreeMap<MemberId, JoinAnswer>) -> Option<u64> {
    let mut named = answers.values().map(|answer| match answer {
        JoinAnswer::OtherCluster(OtherCluster { cluster_id, has_same_list: true }) => {
            Some(*cluster_id)
        }
        _ => None,
    });
    let first = named.next()??;
    named.all(|cluster_id| cluster_id == Some(first)).then_some(first)
}
