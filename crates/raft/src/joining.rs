//! Members that start without their data: new ones, and those whose disk was emptied.
//!
//! A member that has lost its disk has forgotten its promises: for whom it voted, in which terms,
//! and which entries it acknowledged. Until it cannot break a promise any more, it gives no vote
//! and does not stand for election.
//!
//! ```text
//!          every other member has told its term        has all that the leader of its term had
//!   Asking ────────────────────────────────────> Filling ──────────────────────────────────> voter
//!      └── all are as new, or a quorum is and nobody else answers: the cluster begins ─────> voter
//! ```
//! - *Asking*: it answers no leader. It may have promised a later term to another leader, and its
//!   answer could commit an entry, or confirm a read, of which that leader knows nothing. A
//!   candidate begins its term before it asks for votes, so this member gave no vote in a later
//!   term than the latest of all other members. It takes over that term, and counts as having voted
//!   in it.
//! - *Filling*: it is a follower that does not vote. It has what it acknowledges from now on.
//!   Entries that it acknowledged in earlier terms are in the leader's log if they were committed
//!   or still can be, because the leader was elected by a quorum whose votes are not forgotten
//!   (Raft §5.4.3). Entries that it acknowledged to this very leader are in the leader's log too.
//!   So it asks the leader for its last entry, and once it has that entry, it has everything.
//!
//! # Assumptions
//! - Members that have lost their data, together with those that were never started, are fewer than
//!   a quorum. Otherwise they would begin a cluster of their own while the others are away. An
//!   operator who knows that a member has lost its data says so ([`Standing::Rebuilding`]), and
//!   such a member never begins a cluster.
//! - A message between two members that was sent before both lost their data does not arrive after.
//!
//! # Which cluster
//! An empty directory has a cluster id too, which follows from its list of members. The other
//! members may have begun with another list, because addresses may change. So a peer with data of
//! another cluster answers with that cluster's id, and says whether it was started with the same
//! list ([`OtherCluster`]). Once *every* other member has named the same cluster, with the same
//! list, this member belongs there: it is at the address where they expect it.
//! [`Effect::TakeCluster`] says so and ends this core, and the member starts again in that cluster,
//! as one that has lost its data. While only some have named another cluster, or they name
//! different ones, it takes no cluster and begins none: a member that has heard of another cluster
//! no longer answers that it is new.
//!
//! In a cluster of two, the other member alone is not a majority. There a member that is being
//! filled votes, but does not stand: everything committed needed the other member, which has all of
//! it.
//!
//! The shell records the stage: a member that restarts before it has joined asks again.

use std::collections::BTreeMap;

use super::Raft;
use super::common::Common;
use super::config::Standing;
use super::event::{Effect, OtherCluster};
use super::message::{Join, JoinReply, Message, Reply, Request};
use super::types::{HardState, Index, MemberId, Term};

/// What a peer has answered to a member without its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinAnswer {
    /// It has never had any data.
    New,
    /// It has data, or has had some, or has heard of a cluster that has begun.
    HasData,
    /// It belongs to another cluster.
    OtherCluster(OtherCluster),
}

/// What a member without its data knows about the others.
#[derive(Debug)]
pub(super) struct Joining {
    stage: Stage,
    question: u64,
    ticks_until_asked: u32,
    /// How long it has been asking.
    ticks: u32,
}

#[derive(Debug)]
enum Stage {
    /// Whether this member is new, and the answers so far.
    Asking { is_new: bool, answers: BTreeMap<MemberId, JoinAnswer> },
    /// It belongs to another cluster, so this core does nothing any more.
    Leaving,
    /// The last entry of this term's leader, once it has answered.
    Filling { target: Option<(Term, Index)> },
    /// It has everything, and the record of this is on its way to the disk. If it voted before
    /// that, it could ask again after a restart, with nobody else to lead.
    Recording,
}

impl Raft {
    /// At the start: a member without its data asks the others.
    pub(super) fn begin_joining(&mut self) {
        let is_new = match self.common.config.standing {
            Standing::Voter => return,
            Standing::New => self.is_empty(),
            Standing::Rebuilding => false,
        };
        let stage = Stage::Asking { is_new, answers: BTreeMap::new() };
        let question = self.common.last_question;
        self.joining = Some(Joining { stage, question, ticks_until_asked: 1, ticks: 0 });
        // A cluster of one has no other member to ask.
        self.count_answers();
    }

    /// While this member lacks its data and asks the other members: the answer of each, if there is
    /// one.
    pub fn join_answers(&self) -> Option<BTreeMap<MemberId, Option<JoinAnswer>>> {
        let Some(Joining { stage: Stage::Asking { answers, .. }, .. }) = &self.joining else {
            return None;
        };
        let peers = self.common.config.peers();
        Some(peers.map(|peer| (peer, answers.get(&peer).copied())).collect())
    }

    /// Whether this member does not know its promises yet.
    pub(super) fn is_asking(&self) -> bool {
        matches!(self.joining, Some(Joining { stage: Stage::Asking { .. }, .. }))
    }

    /// Whether this member may vote: it knows its promises, or the only other member fills it (see
    /// the module's page).
    pub(super) fn may_vote(&self) -> bool {
        match &self.joining {
            None => true,
            Some(Joining { stage: Stage::Filling { .. }, .. }) => {
                self.common.config.members.len() == 2
            }
            Some(_) => false,
        }
    }

    pub(super) fn is_leaving(&self) -> bool {
        matches!(self.joining, Some(Joining { stage: Stage::Leaving, .. }))
    }

    /// Asks the members that have not answered yet, repeatedly.
    pub(super) fn tick_joining(&mut self) {
        let (is_durable, term) = (self.common.is_hard_state_durable(), self.common.current_term());
        let Some(joining) = &mut self.joining else { return };
        joining.ticks = joining.ticks.saturating_add(1);
        self.count_answers();
        let Some(joining) = &mut self.joining else { return };
        joining.ticks_until_asked = joining.ticks_until_asked.saturating_sub(1);
        if joining.ticks_until_asked > 0 || !is_durable {
            return;
        }
        joining.ticks_until_asked = self.common.config.heartbeat_ticks;
        let question = joining.question;
        let asked: Vec<MemberId> = match &joining.stage {
            Stage::Asking { answers, .. } => {
                // If clusters differ, no answer is final: operators restart members until they
                // agree.
                let asks_all = answers.values().any(JoinAnswer::is_other_cluster);
                let peers = self.common.config.peers();
                peers.filter(|peer| asks_all || !answers.contains_key(peer)).collect()
            }
            Stage::Filling { target: Some((of, _)) } if *of == term => Vec::new(),
            Stage::Filling { .. } => self.common.leader().into_iter().collect(),
            Stage::Recording | Stage::Leaving => Vec::new(),
        };
        for peer in asked {
            let join = self.common.request(peer, term, Request::Join(Join { question }));
            self.common.effects.push(Effect::Send(join));
        }
    }

    /// Another member has lost its data, or is new.
    pub(super) fn on_join(&mut self, message: &Message, Join { question }: Join) {
        let is_new = match &self.joining {
            // If this member has heard of another cluster, the asker must not begin one beside it.
            Some(Joining { stage: Stage::Asking { is_new, answers }, .. }) => {
                *is_new && !answers.values().any(JoinAnswer::is_other_cluster)
            }
            Some(Joining { stage: Stage::Filling { .. } | Stage::Leaving, .. }) => false,
            // This member votes, or is about to, but may not have voted yet.
            Some(Joining { stage: Stage::Recording, .. }) | None => self.is_empty(),
        };
        let common = &mut self.common;
        let last = common.is_leading().then(|| (common.log.last_index(), common.log.last_term()));
        common.reply(message.caller(), Reply::Join(JoinReply { question, is_new, last }));
    }

    pub(super) fn on_join_reply(&mut self, message: &Message, reply: JoinReply) {
        let (term, leader) = (self.common.current_term(), self.common.leader());
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

    /// Instead of an answer: the peer belongs to another cluster.
    pub(super) fn on_other_cluster(&mut self, peer: MemberId, other: OtherCluster) {
        let is_peer = self.common.config.peers().any(|it| it == peer);
        if let Some(Joining { stage: Stage::Asking { answers, .. }, .. }) = &mut self.joining
            && is_peer
        {
            answers.insert(peer, JoinAnswer::OtherCluster(other));
            self.count_answers();
        }
    }

    /// Goes on to the next stage if enough members have answered.
    pub(super) fn count_answers(&mut self) {
        let Some(Joining { stage: Stage::Asking { is_new, answers }, ticks, .. }) = &self.joining
        else {
            return;
        };
        let is_all_new = *is_new && answers.values().all(|answer| *answer == JoinAnswer::New);
        let config = &self.common.config;
        let answered = answers.keys().copied().chain([config.id]);
        let is_quorum = config.members.is_quorum(answered);
        let has_all = 1 + answers.len() == config.members.len();
        if answers.values().any(JoinAnswer::is_other_cluster) {
            if has_all && let Some(cluster_id) = common_cluster(answers) {
                self.take_cluster(cluster_id);
            }
            return;
        }
        // A member with data may only be slow to answer.
        let is_late = *ticks >= config.election_ticks_max;
        if config.members.len() == 1 || is_all_new && (has_all || is_quorum && is_late) {
            self.record_joined();
        } else if has_all {
            self.begin_filling();
        }
    }

    /// A member that already has a term or an entry belongs to a cluster, and stays there.
    fn take_cluster(&mut self, cluster_id: u64) {
        if self.is_empty()
            && let Some(joining) = &mut self.joining
        {
            joining.stage = Stage::Leaving;
            self.common.effects.push(Effect::TakeCluster(cluster_id));
        }
    }

    fn is_empty(&self) -> bool {
        let common = &self.common;
        common.hard_state() == HardState::default() && common.log.last_index() == Index::ZERO
    }

    /// All other members have told their terms, and the latest is the current one. This member may
    /// have voted in it.
    fn begin_filling(&mut self) {
        let common = &mut self.common;
        assert!(!common.is_leading(), "whoever lacks its data does not lead");
        let question = common.next_question();
        // It may have forgotten a lease too.
        common.promise_ticks = common.config.election_ticks_min;
        let Some(joining) = &mut self.joining else { return };
        joining.stage = Stage::Filling { target: None };
        // Earlier answers do not say what the current leader has.
        (joining.question, joining.ticks_until_asked) = (question, 1);
        // It keeps a vote that it remembers.
        let voted_for = common.hard_state().voted_for.or(Some(common.config.id));
        common.change_hard_state(HardState { voted_for, ..common.hard_state() });
    }

    /// Goes on once everything that this member can have promised is on its disk.
    pub(super) fn check_filled(&mut self) {
        let Some(Joining { stage: Stage::Filling { target: Some((term, index)) }, .. }) =
            self.joining
        else {
            return;
        };
        let common = &self.common;
        let is_held = common.log.durable_index() >= index
            && common.log.term_at(index).is_none_or(|held| held == term);
        if term == common.current_term() && common.is_hard_state_durable() && is_held {
            self.record_joined();
        }
    }

    fn record_joined(&mut self) {
        if let Some(joining) = &mut self.joining {
            assert!(!matches!(joining.stage, Stage::Recording), "that is recorded once");
            joining.stage = Stage::Recording;
            self.common.effects.push(Effect::Joined);
        }
    }

    /// The disk has the record that this member has all its data.
    pub(super) fn joined(&mut self) {
        assert!(
            matches!(self.joining, Some(Joining { stage: Stage::Recording, .. })),
            "only what was asked to be recorded can have been"
        );
        self.joining = None;
        self.expect_no_leader();
    }

    /// In a new cluster there is no leader to wait for. A short pause remains: the other members
    /// may be about to hear that all are new. If one of them asked a member that has voted by then,
    /// it would be filled as if it had lost its data.
    fn expect_no_leader(&mut self) {
        if self.is_empty() {
            let Common { config, rng, timer, .. } = &mut self.common;
            let (soonest, latest) = (2 * config.heartbeat_ticks, config.election_ticks_min);
            let pause_ticks = rng.u32(soonest.min(latest)..=latest);
            let due_ticks = timer.elapsed_ticks.saturating_add(pause_ticks);
            timer.timeout_ticks = timer.timeout_ticks.min(due_ticks);
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
