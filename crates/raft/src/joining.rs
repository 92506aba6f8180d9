//! Members that start without their data: new ones, and those whose disk was emptied.
//!
//! A member that has lost its disk has forgotten its promises: for whom it voted, in which terms,
//! and which entries it acknowledged. Until it cannot break a promise any more, it gives no vote
//! and does not stand for election.
//!
//! ```text
//!          every member of every configuration       has all that the leader of its
//!            that it hears of has answered                  term had
//!   Asking ────────────────────────────────> Filling ──────────────────────────────> voter
//!     ├── all are as new, or a quorum is and nobody else answers: the cluster begins ─> voter
//!     └── a configuration names its very directory: it never promised anything ──────> voter
//! ```
//! - *Asking*: it answers no leader. It may have promised a later term to another leader, and its
//!   answer could commit an entry, or confirm a read, of which that leader knows nothing. It asks
//!   where the others stand, again and again, until it has an answer of each. It takes over the
//!   latest term, and counts as having voted in it.
//! - *Filling*: it is a follower that does not vote. It has what it acknowledges from now on.
//!   So it asks the leader for its last entry, and once it has that entry, it has everything.
//!
//! # Whom it asks
//! Members come and go, and its own list may be old. Each answer carries the newest configuration
//! in the log of the one who answers, committed or not. The member asks the union of all these
//! configurations, both sets of voters of joint ones included, without itself. An answer may name
//! somebody new, and is replaced by a later one of the same member. A member that was removed need
//! not answer, if an answer names a configuration that says so and is known to be committed; and
//! what it has answered does not count. Its configuration was superseded by a committed one, of
//! whose members are asked now (the first case below), or can never be committed (the second).
//!
//! # Why this is enough
//! Let X be the member, and let it have promised, before it lost its data:
//!
//! - *A vote in term t, to C.* X must not vote in t again if C can win t. C wins only with a quorum
//!   of the configuration K that was in force at C, which is in C's log. Let L be the leader that
//!   appended K. If K is still in the log of a member that X hears of, C is asked, and answers with
//!   a term of t or later: a candidate begins its term before it asks for votes. If K is in no such
//!   log, then either a later configuration was committed behind K, or the entry of K was removed
//!   from all logs that X hears of. In the first case a quorum of K holds that later entry, so C,
//!   without it, is refused by a member of every quorum of K (§5.4.1). In the second case, K was
//!   not committed, and a leader of a later term than L's was elected by a quorum of the
//!   configuration before K. A quorum of a joint K contains one of the configuration before it,
//!   and where K is not joint, the voters before it are the same, or they are one half of a
//!   committed joint one. So one member of every quorum of K has a log that ends in a later term
//!   than C's, and refuses C, too.
//! - *An entry of term t.* It is in the log of the leader that fills X, if it was committed or
//!   still can be: that leader was elected by a quorum whose votes are not forgotten (Raft §5.4.3),
//!   in a term that is not earlier than t, as the leader of t was asked or cannot count X any more,
//!   by the argument above. Entries that X acknowledged to this very leader are in its log, too.
//!
//! While X asks, the leader changes no voters, except that X or a member that is not heard is
//! removed (`reconfiguration`). So the configurations hold still until X has asked everybody.
//!
//! # Newcomers
//! A newcomer ([`Standing::Newcomer`]) has an empty directory with a random number, which the
//! leader learns before it adds the member, and which the configuration carries
//! ([`Place::directory`](super::Place::directory)). Once a configuration names this member with
//! this number, it belongs to that cluster. Everything that it can have promised would be in this
//! directory, which is empty, so it has promised nothing, and needs nobody's answer: it may join
//! while others are down. If the configuration names another directory, the member was one before
//! and has lost its data, and it goes the long way.
//!
//! From then on a member votes for whoever asks, whether its own log names it a voter or not
//! (thesis §4.1): the one who asks may have a newer configuration. It stands only if its own log
//! names it a voter, or does not show the entry that removes it as committed (thesis §4.2.2).
//!
//! # Assumptions
//! - At the first start of a cluster, members that have lost their data, together with those that
//!   were never started, are fewer than a quorum. Otherwise they would begin a cluster of their own
//!   while the others are away. An operator who knows that a member has lost its data says so
//!   ([`Standing::Rebuilding`]), and such a member never begins a cluster.
//! - A message between two members that was sent before both lost their data does not arrive after.
//!
//! # Which cluster
//! A member without data names no cluster, only the hash of its list ([`Config::list_id`]). Until
//! everybody whom it asks has named one cluster, it takes over nobody's term. If that cluster began
//! with the same list, this member learns its id ([`Effect::ClusterKnown`]). If it began with
//! another one, and their configurations name this member, [`Effect::TakeCluster`] says so and ends
//! this core, and the member starts again in that cluster, as one that has lost its data. While
//! they name different clusters it takes none and begins none. A member that has heard of another
//! cluster no longer answers that it is new.
//!
//! # Clusters of two
//! There the other member alone is not a majority. A member that is being filled votes, but does
//! not stand, if one of the others knows its promises and is in every quorum of each configuration
//! that may be in force. Everything committed needed that member, which has all of it, and so does
//! every election.
//!
//! The shell records the stage: a member that restarts before it has joined asks again.
//!
//! [`Config::list_id`]: super::Config::list_id

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::common::Common;
use super::config::{Config, Standing};
use super::configuration::Configuration;
use super::event::Effect;
use super::message::{Body, Join, JoinReply, Message, Reply, Request};
use super::types::{HardState, Index, MemberId, Term};
use super::{Raft, Role};

/// What a peer has answered to a member without its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinAnswer {
    /// It has never had any data, nor heard of a cluster that has begun.
    pub is_new: bool,
    /// Its cluster; 0 if it knows none.
    pub cluster_id: u64,
    /// The hash of the list with which its cluster was first started.
    pub list_id: u64,
    /// The configuration in force there, if there is one.
    pub configuration: Option<Arc<Configuration>>,
    /// Whether that configuration is known there to be committed.
    pub is_settled: bool,
    /// Whether it knows its promises and is in every quorum, of whichever configuration may be in
    /// force.
    pub is_needed: bool,
    /// The latest term that it has told.
    pub term: Term,
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
    /// The last entry of this term's leader, once it has answered, and whether this member may vote
    /// meanwhile.
    Filling { target: Option<(Term, Index)>, may_vote: bool },
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
            Standing::Rebuilding | Standing::Newcomer => false,
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
        let asked = asked(&self.common, answers);
        Some(asked.into_iter().map(|peer| (peer, answers.get(&peer).cloned())).collect())
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
            Some(Joining { stage: Stage::Filling { may_vote, .. }, .. }) => *may_vote,
            Some(_) => false,
        }
    }

    pub(super) fn is_leaving(&self) -> bool {
        matches!(self.joining, Some(Joining { stage: Stage::Leaving, .. }))
    }

    /// Asks repeatedly. Those who have answered are asked again: they may know others by now, and a
    /// leader sees that this member is still asking.
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
        let asked: BTreeSet<MemberId> = match &joining.stage {
            // Those of the list, too, as a former member may be the only one that has answered.
            Stage::Asking { answers, .. } => {
                asked(&self.common, answers).into_iter().chain(self.common.peers()).collect()
            }
            // So the leader knows that this member does not vote.
            Stage::Filling { .. } => self.common.leader().into_iter().collect(),
            Stage::Recording | Stage::Leaving => BTreeSet::new(),
        };
        for peer in asked {
            let join = self.common.request(
                peer,
                term,
                Request::Join(Join { question, is_stranger: false }),
            );
            self.common.effects.push(Effect::Send(join));
        }
    }

    /// Another member has lost its data, or is new.
    pub(super) fn on_join(&mut self, message: &Message, Join { question, is_stranger }: Join) {
        let is_new = match &self.joining {
            // If this member has heard of another cluster, the asker must not begin one beside it.
            Some(Joining { stage: Stage::Asking { is_new, answers }, .. }) => {
                let config = &self.common.config;
                *is_new && !answers.values().any(|answer| answer.is_of_other_cluster(config))
            }
            Some(Joining { stage: Stage::Filling { .. } | Stage::Leaving, .. }) => false,
            // This member votes, or is about to, but may not have voted yet.
            Some(Joining { stage: Stage::Recording, .. }) | None => self.is_empty(),
        };
        if let Role::Leader(leader) = &mut self.role
            && !is_stranger
        {
            leader.asked_to_join(message.from);
        }
        let knows_promises = self.joining.is_none();
        let common = &mut self.common;
        let last = common.is_leading().then(|| (common.log.last_index(), common.log.last_term()));
        let reply = JoinReply {
            question,
            is_new,
            last,
            cluster_id: common.cluster_id(),
            list_id: common.list_id(),
            configuration: common.configurations.latest().map(|(_, it)| it.clone()),
            is_settled: common.configurations.is_settled(common.commit_index()),
            is_needed: knows_promises && common.is_needed(),
            is_removed: common.was_removed(message.from),
        };
        common.reply(message.caller(), Reply::Join(reply));
    }

    pub(super) fn on_join_reply(&mut self, message: &Message, reply: &JoinReply) {
        let (term, leader) = (self.common.current_term(), self.common.leader());
        let Some(joining) = &mut self.joining else { return };
        if reply.question != joining.question {
            return;
        }
        let answer = JoinAnswer::new(reply, message.term);
        let is_of_cluster = !answer.is_of_other_cluster(&self.common.config);
        if reply.is_removed && (is_of_cluster || self.common.config.standing == Standing::Newcomer)
        {
            return self.common.removed();
        }
        match &mut joining.stage {
            Stage::Asking { answers, .. } => {
                let is_news = answers.get(&message.from) != Some(&answer);
                if let Some(configuration) = answer.configuration.clone().filter(|_| is_news) {
                    self.common.effects.push(Effect::Introduced(configuration));
                }
                let told = answers.get(&message.from).map_or(Term::ZERO, |told| told.term);
                let term = told.max(answer.term);
                answers.insert(message.from, JoinAnswer { term, ..answer });
                self.count_answers();
            }
            Stage::Filling { target, .. } => {
                let is_news = target.is_none_or(|(of, _)| of != term);
                if let Some((index, last_term)) = reply.last
                    && (leader, last_term) == (Some(message.from), term)
                    && is_news
                {
                    *target = Some((term, index));
                }
            }
            Stage::Recording | Stage::Leaving => {}
        }
    }

    /// A member that does not know its promises answers nothing but questions like its own, and
    /// takes over no term before it knows its cluster and has asked everybody.
    pub(super) fn receive_while_asking(&mut self, message: &Message) {
        match &message.body {
            Body::Request(Request::Join(join)) => self.on_join(message, *join),
            Body::Reply(Reply::Join(reply)) => self.on_join_reply(message, reply),
            _ => {}
        }
    }

    /// Whether this answer is of another cluster than the one of this member.
    pub(super) fn is_of_other_cluster(&self, reply: &JoinReply) -> bool {
        JoinAnswer::new(reply, Term::ZERO).is_of_other_cluster(&self.common.config)
    }

    /// Goes on to the next stage if enough members have answered.
    pub(super) fn count_answers(&mut self) {
        let Some(Joining { stage: Stage::Asking { is_new, answers }, ticks, .. }) = &self.joining
        else {
            return;
        };
        let (is_new, is_late) = (*is_new, *ticks >= self.common.config.election_ticks_max);
        let answers = answers.clone();
        let config = &self.common.config;
        let is_newcomer = config.standing == Standing::Newcomer;
        let named = answers.values().filter(|answer| answer.names_directory(config));
        if is_newcomer && let Some(answer) = named.max_by_key(|answer| answer.is_settled) {
            // One that is not committed may be taken back.
            if answer.is_settled {
                let (cluster_id, list_id) = (answer.cluster_id, answer.list_id);
                self.take_cluster(cluster_id, list_id, Standing::Voter);
            }
            return;
        }
        let asked = asked(&self.common, &answers);
        let has_all = asked.iter().all(|peer| answers.contains_key(peer));
        let is_elsewhere = is_newcomer
            || answers.iter().any(|(id, answer)| {
                asked.contains(id)
                    && answer.is_of_other_cluster(config)
                    && !is_waiting(&self.common, *id, answer, &answers)
            });
        if is_elsewhere {
            let named = common_cluster(&self.common, &asked, &answers);
            if has_all && let Some((cluster_id, list_id)) = named {
                self.take_cluster(cluster_id, list_id, Standing::Rebuilding);
            }
            return;
        }
        // Two clusters may have begun with the same list. It belongs to neither for certain.
        let named: BTreeSet<u64> =
            answers.values().map(|answer| answer.cluster_id).filter(|id| *id != 0).collect();
        if named.len() > 1 {
            return;
        }
        let is_all_new = is_new && answers.values().all(|answer| answer.is_new);
        let answered = answers.keys().copied().chain([config.id]);
        let is_quorum = self.common.membership().is_quorum(answered);
        // A member with data may only be slow to answer.
        let is_alone = asked.is_empty() && answers.is_empty();
        if is_alone || is_all_new && (has_all || is_quorum && is_late) {
            self.record_joined();
        } else if has_all {
            if let Some(&cluster_id) = named.first() {
                self.learn_cluster(cluster_id);
            }
            let term = answers.values().map(|answer| answer.term).max().unwrap_or(Term::ZERO);
            self.begin_filling(term, self.is_led_by_one(&answers));
        }
    }

    /// Whether one of those who have answered is in every quorum that there can be. It holds all
    /// that was committed, and nobody is elected without it.
    fn is_led_by_one(&self, answers: &BTreeMap<MemberId, JoinAnswer>) -> bool {
        let listed = self.common.membership();
        let needs = |answer: &JoinAnswer, one: MemberId| {
            let membership = answer.configuration.as_ref().map_or(listed, |it| &it.membership);
            membership.is_blocked_by(&BTreeSet::from([one]))
        };
        let needed = answers.iter().filter(|(_, answer)| answer.is_needed).map(|(id, _)| *id);
        needed.into_iter().any(|one| answers.values().all(|answer| needs(answer, one)))
    }

    /// All others name this cluster, which began with the list of this member.
    fn learn_cluster(&mut self, cluster_id: u64) {
        let common = &mut self.common;
        if common.config.cluster_id == 0 {
            common.config.cluster_id = cluster_id;
            // If none of them has a configuration, an older version began the cluster. It keeps its
            // id, and gets the first one when all members know of configurations.
            common.may_configure = false;
            if let Some(first) = &mut common.config.first_configuration {
                Arc::make_mut(first).cluster_id = cluster_id;
            }
            common.effects.push(Effect::ClusterKnown(cluster_id));
        }
    }

    /// A member that already has a term or an entry belongs to a cluster, and stays there.
    fn take_cluster(&mut self, cluster_id: u64, list_id: u64, standing: Standing) {
        if self.is_empty()
            && let Some(joining) = &mut self.joining
        {
            joining.stage = Stage::Leaving;
            self.common.effects.push(Effect::TakeCluster { cluster_id, list_id, standing });
        }
    }

    fn is_empty(&self) -> bool {
        let common = &self.common;
        common.hard_state() == HardState::default() && common.log.last_index() == Index::ZERO
    }

    /// All other members have told their terms, and the latest is the current one. This member may
    /// have voted in it.
    fn begin_filling(&mut self, term: Term, may_vote: bool) {
        if term > self.common.current_term() {
            self.become_follower(term, None);
        }
        let common = &mut self.common;
        assert!(!common.is_leading(), "whoever lacks its data does not lead");
        let question = common.next_question();
        // It may have forgotten a lease too.
        common.promise_ticks = common.config.election_ticks_min;
        let Some(joining) = &mut self.joining else { return };
        joining.stage = Stage::Filling { target: None, may_vote };
        // Earlier answers do not say what the current leader has.
        (joining.question, joining.ticks_until_asked) = (question, 1);
        // It keeps a vote that it remembers.
        let voted_for = common.hard_state().voted_for.or(Some(common.config.id));
        common.change_hard_state(HardState { voted_for, ..common.hard_state() });
    }

    /// Goes on once everything that this member can have promised is on its disk.
    pub(super) fn check_filled(&mut self) {
        let Some(Joining { stage: Stage::Filling { target: Some((term, index)), .. }, .. }) =
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
    fn new(reply: &JoinReply, term: Term) -> JoinAnswer {
        JoinAnswer {
            term,
            is_new: reply.is_new,
            cluster_id: reply.cluster_id,
            list_id: reply.list_id,
            configuration: reply.configuration.clone(),
            is_settled: reply.is_settled,
            is_needed: reply.is_needed,
        }
    }

    /// Whether it is of another cluster than the one of this member. Whoever knows no cluster yet
    /// goes by the hash of the list.
    pub fn is_of_other_cluster(&self, own: &Config) -> bool {
        let is_known = self.cluster_id != 0 && own.cluster_id != 0;
        match is_known {
            true => self.cluster_id != own.cluster_id,
            false => self.list_id != own.list_id,
        }
    }

    /// Whether its configuration names this very directory of this member.
    fn names_directory(&self, own: &Config) -> bool {
        let place = self.configuration.as_ref().and_then(|it| it.places.get(&own.id));
        own.directory != 0 && place.is_some_and(|place| place.directory == own.directory)
    }
}

/// Whom a member without its data asks, given the answers that it has: the members of all
/// configurations that it has heard of, without itself. Whoever has no configuration stands for the
/// list that this member was started with.
fn asked(common: &Common, answers: &BTreeMap<MemberId, JoinAnswer>) -> BTreeSet<MemberId> {
    let listed = common.membership();
    let mut asked: BTreeSet<MemberId> = BTreeSet::new();
    for (_, answer) in answers.iter().filter(|(id, _)| !is_superseded(**id, answers)) {
        let membership = answer.configuration.as_ref().map_or(listed, |it| &it.membership);
        asked.extend(membership.iter());
    }
    if answers.is_empty() {
        asked.extend(listed.iter());
    }
    let removed: BTreeSet<MemberId> = removed_by(answers).collect();
    asked.retain(|id| !removed.contains(id));
    asked.remove(&common.config.id);
    asked
}

/// Who was removed, by configurations that are known to be committed.
fn removed_by(answers: &BTreeMap<MemberId, JoinAnswer>) -> impl Iterator<Item = MemberId> {
    let settled = answers.values().filter(|answer| answer.is_settled);
    settled.filter_map(|answer| answer.configuration.as_ref()).flat_map(|it| &it.removed).copied()
}

/// Whether a former member has given this answer: a member of a later configuration, or of this
/// one, knows for certain that it was removed.
fn is_superseded(id: MemberId, answers: &BTreeMap<MemberId, JoinAnswer>) -> bool {
    answers.iter().filter(|(_, answer)| answer.is_settled).any(|(other, answer)| {
        let removed = answer.configuration.as_ref().map(|it| &it.removed);
        removed.is_some_and(|it| it.contains(&id) && !it.contains(other))
    })
}

/// The cluster that all whom this member asks name, if their configurations name this member. One
/// without a configuration must have begun with the same list. Newcomers that wait for their own
/// cluster do not count.
fn common_cluster(
    common: &Common,
    asked: &BTreeSet<MemberId>,
    answers: &BTreeMap<MemberId, JoinAnswer>,
) -> Option<(u64, u64)> {
    let own = &common.config;
    let counts = |id, answer| asked.contains(&id) && !is_waiting(common, id, answer, answers);
    let counted = answers.iter().filter(|(id, answer)| counts(**id, answer));
    let mut named = counted.map(|(_, answer)| {
        let is_member = match &answer.configuration {
            Some(configuration) => configuration.membership.contains(own.id),
            None => answer.list_id == own.list_id,
        };
        (answer.cluster_id != 0 && is_member).then_some((answer.cluster_id, answer.list_id))
    });
    let first = named.next()??;
    named.all(|cluster| cluster == Some(first)).then_some(first)
}

/// Whether a newcomer has given this answer that knows no cluster yet. It began none. Perhaps only
/// the own log names it: the entry that does so was removed from the others' logs.
fn is_waiting(
    common: &Common,
    id: MemberId,
    answer: &JoinAnswer,
    answers: &BTreeMap<MemberId, JoinAnswer>,
) -> bool {
    let own = common.configurations.latest().map(|(_, configuration)| configuration);
    let told = answers.values().filter_map(|it| it.configuration.as_ref());
    let mut known = told.chain(own);
    let mut is_newcomer = || known.any(|it| it.places.get(&id).is_some_and(|it| it.directory != 0));
    answer.cluster_id == 0 && is_newcomer()
}
