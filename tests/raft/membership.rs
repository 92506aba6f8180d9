//! Members come and go: chapter 4 of the thesis, one test per rule, and what this project adds.

use std::sync::Arc;

use syncraft::raft::*;

use super::node::*;

const CLUSTER: u64 = 7;

/// A fresh member 1 of these, which records them once it leads.
fn recording(members: u64) -> Node {
    Node::with(members, |config| record(config, members))
}

fn record(config: &mut Config, members: u64) {
    let addrs = (1..=members).map(|id| (MemberId(id), addr(id)));
    config.first_configuration = Some(Arc::new(Configuration::first(CLUSTER, 70, addrs)));
}

fn addr(id: u64) -> String {
    format!("h{id}:1")
}

/// A leader of term 1 whose configuration is committed, and which knows who lives.
fn leader(members: u64) -> Node {
    let mut node = recording(members);
    node.lead();
    commit_all(&mut node, 2..=members);
    node.tick(2 * node.config.heartbeat_ticks);
    hear(&mut node, 2..=members);
    node
}

/// These peers have all entries on their disks.
fn commit_all(node: &mut Node, peers: impl IntoIterator<Item = u64>) {
    let (term, last) = (node.term(), node.last());
    for peer in peers {
        node.receive(matched(peer, term, last));
    }
}

/// These peers answer a heartbeat.
fn hear(node: &mut Node, peers: impl IntoIterator<Item = u64>) {
    let term = node.term();
    for peer in peers {
        node.receive(heartbeat_reply(peer, term, 0));
    }
}

/// These peers answer heartbeats for an election timeout, after which it is known who has caught up.
fn beat(node: &mut Node, peers: &[u64]) {
    for _ in 0..=node.config.election_ticks_min.div_ceil(node.config.heartbeat_ticks) {
        node.tick(node.config.heartbeat_ticks);
        hear(node, peers.iter().copied());
    }
}

fn add(id: u64) -> Change {
    Change::AddLearner { id: MemberId(id), place: Place { addr: addr(id), directory: id } }
}

fn promote(id: u64) -> Change {
    Change::Promote(MemberId(id))
}

fn remove(id: u64) -> Change {
    Change::Remove(MemberId(id))
}

/// The refusal, if there is one.
fn change(node: &mut Node, change: Change) -> Option<Refusal> {
    let effects = node.run([Event::ChangeMembers { id: RequestId(9), change }]);
    let answer = effects.iter().find_map(|effect| match effect {
        Effect::Proposed { id: RequestId(9), .. } => Some(None),
        Effect::Rejected { id: RequestId(9), reason: Rejection::Members(why) } => Some(Some(*why)),
        _ => None,
    });
    answer.expect("each change is answered in its own step")
}

/// A leader with a learner that has caught up.
fn leader_with_learner(members: u64, id: u64) -> Node {
    let mut node = leader(members);
    assert_eq!(change(&mut node, add(id)), None);
    let all: Vec<u64> = (2..=members).chain([id]).collect();
    commit_all(&mut node, all.clone());
    beat(&mut node, &all);
    node
}

/// The newest configuration in its log.
fn configuration(node: &Node) -> Arc<Configuration> {
    let configuration = |entry: &Entry| match &entry.payload {
        Payload::Configuration(configuration) => Some(configuration.clone()),
        _ => None,
    };
    node.log.iter().rev().find_map(configuration).expect("its log has one")
}

fn voters(node: &Node) -> (Vec<u64>, Vec<u64>) {
    let configuration = configuration(node);
    let ids = |ids: &mut dyn Iterator<Item = MemberId>| ids.map(|id| id.0).collect();
    (ids(&mut configuration.membership.voters()), ids(&mut configuration.membership.outgoing()))
}

fn recipients(messages: &[Message]) -> Vec<u64> {
    let mut ids: Vec<u64> = messages.iter().map(|message| message.to.0).collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// The last `Reconfigured`: voters in force, and whether that is committed.
fn reconfigured(effects: &[Effect]) -> Option<(Vec<u64>, bool)> {
    effects.iter().rev().find_map(|effect| match effect {
        Effect::Reconfigured(Configured { latest, committed, .. }) => {
            let voters = latest.iter().flat_map(|it| it.membership.voters()).map(|id| id.0);
            Some((voters.collect(), latest == committed))
        }
        _ => None,
    })
}

/// An append of this configuration to member 1.
fn append_configuration(
    from: u64,
    term: u64,
    prev: (u64, u64),
    configuration: Configuration,
) -> Message {
    let entry = Entry {
        index: Index(prev.0 + 1),
        term: Term(term),
        payload: Payload::Configuration(Arc::new(configuration)),
    };
    let request = AppendEntries {
        prev_log_index: Index(prev.0),
        prev_log_term: Term(prev.1),
        entries: vec![entry],
        leader_commit: Index(0),
    };
    message(from, term, Body::Request(Request::AppendEntries(request)))
}

fn of_voters(ids: &[u64]) -> Configuration {
    Configuration::first(CLUSTER, 70, ids.iter().map(|&id| (MemberId(id), addr(id))))
}

// The first configuration.

#[test]
fn the_first_leader_records_the_members_behind_its_no_op() {
    let mut node = recording(3);
    node.lead();
    assert_eq!(node.log[0].payload, Payload::Noop);
    assert_eq!(voters(&node), (vec![1, 2, 3], vec![]));
    assert_eq!(configuration(&node).cluster_id, CLUSTER);
}

#[test]
fn a_leader_whose_log_has_a_configuration_records_none() {
    let mut node = recording(3);
    node.receive(append_configuration(2, 1, (0, 0), of_voters(&[1, 2, 3])));
    node.lead();
    assert_eq!(node.last(), 2, "the entry of term 1, and a no-op");
}

/// Not while some members do not know of configurations.
#[test]
fn the_first_configuration_waits_until_all_members_know_of_it() {
    let mut node = Node::with(3, |config| {
        record(config, 3);
        config.may_configure = false;
    });
    node.lead();
    commit_all(&mut node, 2..=3);
    node.tick(20);
    assert_eq!(node.last(), 1);
    assert_eq!(change(&mut node, add(4)), Some(Refusal::Unrecorded));
    let effects = node.run([Event::MayConfigure]);
    assert_eq!(reconfigured(&effects), Some((vec![1, 2, 3], false)));
}

// "A server always uses the latest configuration in its log, regardless of whether the entry is
// committed" (§4.1).

#[test]
fn a_configuration_is_in_force_when_it_is_appended() {
    let mut node = leader(3);
    assert_eq!(change(&mut node, add(4)), None);
    let sent = sent(&node.tick(node.config.heartbeat_ticks));
    assert_eq!(recipients(&sent), [2, 3, 4], "it is not committed yet");
}

#[test]
fn a_follower_uses_what_is_appended_and_takes_it_back_when_it_is_removed() {
    let mut node = recording(3);
    node.receive(append(2, 1, (0, 0), &[1], 0));
    let effects =
        node.run([Event::Message(append_configuration(2, 1, (1, 1), of_voters(&[2, 3, 4])))]);
    assert_eq!(reconfigured(&effects), Some((vec![2, 3, 4], false)));
    node.time_out();
    assert_eq!(node.role(), RoleName::PreCandidate, "it may be needed until that is committed");
    // Another leader's entry replaces it.
    let effects = node.run([Event::Message(append(3, 2, (1, 1), &[2], 0))]);
    assert_eq!(reconfigured(&effects), Some((vec![], true)), "the list counts again");
    assert_eq!(node.role(), RoleName::Follower);
    node.time_out();
    assert_eq!(node.role(), RoleName::PreCandidate);
}

#[test]
fn a_restart_reads_the_members_from_the_log_and_not_from_its_list() {
    let mut node = leader(3);
    change(&mut node, add(4));
    let log = node.entries.clone();
    // Its list would make it a cluster of one.
    let alone = Config::new(MemberId(1), [MemberId(1)]);
    let mut restarted = Node::start(alone, node.hard_state, None, log);
    restarted.time_out();
    assert_eq!(restarted.role(), RoleName::PreCandidate, "two of three are needed");
}

#[test]
fn a_snapshot_carries_the_configuration() {
    let mut follower = recording(3);
    let snapshot =
        Snapshot { meta: end((5, 1)), configuration: Some(of_voters(&[1, 4, 5]).into()) };
    let body = Body::Request(Request::InstallSnapshot(snapshot.clone()));
    let effects = follower.run([Event::Message(message(4, 1, body))]);
    assert_eq!(reconfigured(&effects), Some((vec![1, 4, 5], true)));
    let mut restarted = Raft::new(
        config(1, 3),
        HardState { current_term: Term(1), voted_for: None },
        Some(snapshot),
        Vec::new(),
    );
    let ticks = (0..100).map(|_| Event::Tick);
    assert_eq!(recipients(&sent(&restarted.step(ticks))), [4, 5]);
}

#[test]
fn of_the_configurations_in_a_snapshot_the_last_stays_in_force() {
    let mut node = leader_with_learner(3, 4);
    let last = node.log.last().expect("it has entries");
    let taken = end((last.index.0, last.term.0));
    node.run([Event::Applied(last.index), Event::SnapshotTaken(taken)]);
    node.tick(1);
    assert_eq!(change(&mut node, add(4)), Some(Refusal::IdInUse));
}

// Learners (§4.2.1).

#[test]
fn a_learner_counts_for_nothing() {
    let mut node = leader_with_learner(3, 4);
    let before = node.commit();
    node.propose(1);
    let last = node.last();
    node.receive(matched(4, 1, last));
    assert_eq!(node.commit(), before, "its acknowledgement");
    node.run([read(5)]);
    let effects = node.run([Event::Message(heartbeat_reply(4, 1, 99))]);
    assert!(!effects.iter().any(|it| matches!(it, Effect::ReadReady(_))), "its confirmation");
    node.tick(2 * node.config.election_ticks_min);
    assert_eq!(node.role(), RoleName::Follower, "check-quorum: only the learner was heard");
}

/// Otherwise it would wait for the answer of a member that has left.
#[test]
fn a_read_is_confirmed_by_those_who_are_left() {
    let mut node = leader(2);
    node.run([read(5)]);
    assert_eq!(change(&mut node, remove(2)), None);
    let last = node.last();
    let effects = node.run([Event::Message(matched(2, 1, last))]);
    assert_eq!(voters(&node), (vec![1], vec![]));
    let is_ready = |it: &Effect| matches!(it, Effect::ReadReady(ids) if *ids == [RequestId(5)]);
    assert!(effects.iter().any(is_ready), "{effects:?}");
}

/// If its log were ahead of that of a voter, it would refuse its vote. The voter may need that vote,
/// because its own log makes the learner a voter.
#[test]
fn a_learner_is_sent_what_is_committed() {
    let mut node = leader_with_learner(3, 4);
    let committed = node.commit();
    let effects = node.propose(1);
    let recipients_of_entries = |messages: &[Message]| {
        let appends = appends(messages).into_iter();
        appends.filter(|(_, it)| !it.entries.is_empty()).map(|(to, _)| to).collect::<Vec<_>>()
    };
    assert_eq!(recipients_of_entries(&sent(&effects)), [2, 3]);
    let messages = node.receive(matched(2, 1, node.last()));
    assert_eq!(node.commit(), committed + 1);
    assert_eq!(recipients_of_entries(&messages), [4]);
    let (_, append) = appends(&messages).into_iter().find(|(to, _)| *to == 4).unwrap();
    assert_eq!(append.leader_commit, append.entries.last().unwrap().index);
}

#[test]
fn a_learner_is_promoted_only_when_it_has_caught_up() {
    let mut node = leader(3);
    change(&mut node, add(4));
    commit_all(&mut node, [2, 3]);
    for id in 1..=5 {
        node.propose(id);
    }
    commit_all(&mut node, [2, 3]);
    beat(&mut node, &[2, 3, 4]);
    let lacks = node.last();
    assert_eq!(change(&mut node, promote(4)), Some(Refusal::Behind(lacks)));
    node.receive(matched(4, 1, 3));
    assert_eq!(change(&mut node, promote(4)), Some(Refusal::Behind(lacks - 3)));
    commit_all(&mut node, [4]);
    assert_eq!(change(&mut node, promote(4)), None);
}

/// A voter that cannot answer would be one that the cluster cannot do without.
#[test]
fn a_learner_that_is_silent_or_has_lost_its_data_is_not_promoted() {
    let mut node = leader_with_learner(3, 4);
    for _ in 0..10 {
        node.tick(node.config.heartbeat_ticks);
        hear(&mut node, [2, 3]);
    }
    assert_eq!(change(&mut node, promote(4)), Some(Refusal::Silent(MemberId(4))));
    hear(&mut node, [4]);
    node.answer(join(4, 0, 77));
    assert_eq!(change(&mut node, promote(4)), Some(Refusal::Silent(MemberId(4))));
}

#[test]
fn a_new_leader_promotes_nobody_before_its_own_entry_has_arrived_there() {
    let mut node = Node::restarted(3, 1, None, &[1]);
    node.receive(append_configuration(
        2,
        1,
        (1, 1),
        Configuration {
            membership: Membership::new([1, 2, 3].map(MemberId)).with_learners([MemberId(4)]),
            ..of_voters(&[1, 2, 3, 4])
        },
    ));
    node.lead();
    commit_all(&mut node, [2, 3]);
    beat(&mut node, &[2, 3, 4]);
    node.receive(matched(4, node.term(), 2));
    assert_eq!(change(&mut node, promote(4)), Some(Refusal::Behind(1)));
}

// Joint consensus (§4.3).

/// "Agreement (for elections and entry commitment) requires majorities from both the old and new
/// configurations."
#[test]
fn a_joint_configuration_commits_with_a_majority_of_both() {
    let mut node = leader_with_learner(3, 4);
    assert_eq!(change(&mut node, promote(4)), None);
    assert_eq!(voters(&node), (vec![1, 2, 3, 4], vec![1, 2, 3]));
    let (before, last) = (node.commit(), node.last());
    node.receive(matched(2, 1, last));
    assert_eq!(node.commit(), before, "two of the three, but only two of the four");
    node.receive(matched(4, 1, last));
    assert_eq!(node.commit(), last);
}

#[test]
fn a_joint_configuration_elects_with_a_majority_of_both() {
    let joint = Configuration {
        membership: Membership::new([1, 4, 5].map(MemberId)).joint_with([1, 2, 3].map(MemberId)),
        ..of_voters(&[1, 2, 3, 4, 5])
    };
    let mut node = recording(3);
    node.receive(append_configuration(2, 1, (0, 0), joint));
    node.time_out();
    node.receive(vote_reply(4, 2, true, true));
    assert_eq!(node.role(), RoleName::PreCandidate, "nobody of the old ones");
    node.receive(vote_reply(2, 2, true, true));
    assert_eq!(node.role(), RoleName::Candidate);
    node.receive(vote_reply(2, 2, false, true));
    node.receive(vote_reply(3, 2, false, true));
    assert_eq!(node.role(), RoleName::Candidate, "nobody of the new ones");
    node.receive(vote_reply(5, 2, false, true));
    assert_eq!(node.role(), RoleName::Leader);
}

#[test]
fn reads_and_leases_need_a_majority_of_both() {
    let mut node = leader_with_learner(3, 4);
    change(&mut node, promote(4));
    let messages = sent(&node.run([read(5)]));
    let round = rounds(&messages)[0];
    let is_ready = |effects: &[Effect]| effects.iter().any(|it| matches!(it, Effect::ReadReady(_)));
    assert!(!is_ready(&node.run([Event::Message(heartbeat_reply(2, 1, round))])));
    assert!(is_ready(&node.run([Event::Message(heartbeat_reply(4, 1, round))])));
}

#[test]
fn the_second_entry_follows_when_the_first_is_committed() {
    let mut node = leader_with_learner(3, 4);
    change(&mut node, promote(4));
    let joint = node.last();
    commit_all(&mut node, [2, 4]);
    assert_eq!((node.last(), voters(&node)), (joint + 1, (vec![1, 2, 3, 4], vec![])));
    assert_eq!(change(&mut node, remove(2)), Some(Refusal::UnderWay), "that is not committed yet");
    commit_all(&mut node, [2, 4]);
    beat(&mut node, &[2, 3, 4]);
    assert_eq!(change(&mut node, remove(2)), None);
}

/// A change that was cut off goes on with the next leader.
#[test]
fn a_new_leader_finishes_the_change_of_the_last_one() {
    let joint = Configuration {
        membership: Membership::new([1, 2, 3, 4].map(MemberId)).joint_with([1, 2, 3].map(MemberId)),
        ..of_voters(&[1, 2, 3, 4])
    };
    let mut node = recording(3);
    node.receive(append_configuration(2, 1, (0, 0), joint));
    node.time_out();
    for pre_vote in [true, false] {
        for peer in [2, 3] {
            node.receive(vote_reply(peer, 2, pre_vote, true));
        }
    }
    assert_eq!(node.role(), RoleName::Leader);
    assert_eq!(voters(&node).1, [1, 2, 3], "it is not committed yet");
    commit_all(&mut node, [2, 3]);
    assert_eq!(voters(&node), (vec![1, 2, 3, 4], vec![]));
}

/// The error in single-server changes that was found in 2015: a leader must have committed an entry
/// of its own term before it changes anything.
#[test]
fn nothing_changes_before_the_leaders_own_entry_is_committed() {
    let mut node = Node::restarted(3, 1, None, &[]);
    node.receive(append_configuration(2, 1, (0, 0), of_voters(&[1, 2, 3])));
    node.lead();
    node.tick(2 * node.config.heartbeat_ticks);
    hear(&mut node, [2, 3]);
    assert_eq!(change(&mut node, add(4)), Some(Refusal::UnderWay));
    commit_all(&mut node, [2]);
    assert_eq!(change(&mut node, add(4)), None);
}

#[test]
fn one_change_at_a_time() {
    let mut node = leader(3);
    assert_eq!(change(&mut node, add(4)), None);
    assert_eq!(change(&mut node, add(5)), Some(Refusal::UnderWay));
    commit_all(&mut node, [2, 3]);
    assert_eq!(change(&mut node, add(5)), None);
}

// Removing.

/// "A leader that is removed from the configuration ... steps down once the C-new entry is
/// committed ... it replicates log entries but does not count itself in majorities" (§4.2.2).
#[test]
fn a_leader_that_removes_itself_does_not_count_itself_hands_over_and_goes() {
    let mut node = leader(3);
    assert_eq!(change(&mut node, remove(1)), None);
    commit_all(&mut node, [2, 3]);
    assert_eq!(voters(&node), (vec![2, 3], vec![]));
    let last = node.last();
    node.receive(matched(2, 1, last));
    assert!(node.commit() < last, "with itself that would be two of three");
    let messages = node.receive(matched(3, 1, last));
    assert_eq!(node.commit(), last);
    let is_handing_over = |message: &Message| message.body == Body::Request(Request::TimeoutNow);
    assert!(messages.iter().any(is_handing_over), "{messages:?}");
    let effects = node.propose(7);
    assert!(
        effects
            .iter()
            .any(|it| matches!(it, Effect::Rejected { reason: Rejection::HandingOver, .. }))
    );
    // The next leader is heard.
    let effects = node.run([Event::Message(heartbeat(2, 2, 0, 1))]);
    assert!(effects.contains(&Effect::Removed) || node.tick(1).contains(&Effect::Removed));
    assert_eq!(sent(&node.tick(1_000)), [], "it is silent");
}

/// "A server that is not part of its own latest configuration should still start new elections, as
/// it might still be needed until the C-new entry is committed" (§4.2.2): here the other voter
/// lacks that entry, so it needs the vote of this member, which must not give it.
#[test]
fn a_leader_that_removed_itself_and_restarts_is_elected_again() {
    let mut node = leader(2);
    assert_eq!(change(&mut node, remove(1)), None);
    commit_all(&mut node, [2]);
    assert_eq!(voters(&node), (vec![2], vec![]));
    let Node { config, hard_state, log, .. } = node;
    let mut node = Node::start(config, hard_state, None, log);
    let refused = node.answer(vote(2, 5, (node.last() - 1, 1)));
    let Body::Reply(Reply::RequestVote(reply)) = refused.body else { panic!("{refused:?}") };
    assert!(!reply.vote_granted, "its log is longer");
    node.time_out();
    assert_eq!(node.role(), RoleName::PreCandidate, "it stands");
}

/// Nobody can take over: it goes all the same.
#[test]
fn a_leader_that_was_removed_does_not_stay() {
    let mut node = leader(3);
    change(&mut node, remove(1));
    commit_all(&mut node, [2, 3]);
    commit_all(&mut node, [2, 3]);
    let effects = node.tick(2 * node.config.election_ticks_min);
    assert!(effects.contains(&Effect::Removed));
    assert_eq!(node.role(), RoleName::Follower);
}

#[test]
fn a_member_that_learns_of_its_removal_falls_silent() {
    let mut node = recording(3);
    let mut without = of_voters(&[2, 3]);
    without.removed = [MemberId(1)].into();
    node.receive(append_configuration(2, 1, (0, 0), without));
    let effects = node.run([Event::Message(heartbeat(2, 1, 1, 1))]);
    assert!(effects.contains(&Effect::Removed), "it is committed");
    assert_eq!(node.receive(vote(3, 2, (9, 1))), []);
    assert_eq!(sent(&node.tick(1_000)), []);
    let id = RequestId(9);
    let rejected = Effect::Rejected { id, reason: Rejection::NotLeader(None) };
    assert_eq!(node.run([Event::Read { id }]), [rejected], "it asks no leader");
}

/// One that was away and comes back with its old data asks for pre-votes, and is told.
#[test]
fn a_former_member_gets_no_vote_and_is_told_why() {
    let mut node = leader(3);
    change(&mut node, remove(3));
    commit_all(&mut node, [2, 3]);
    commit_all(&mut node, [2]);
    for request in [pre_vote(3, 9, (99, 8)), vote(3, 9, (99, 8))] {
        let answer = node.answer(request);
        let Body::Reply(Reply::RequestVote(reply)) = answer.body else { panic!("{answer:?}") };
        assert!(!reply.vote_granted && reply.is_removed);
    }
    assert_eq!((node.role(), node.term()), (RoleName::Leader, 1), "it disturbs nobody");
    // Nor does a follower whose leader is gone help it.
    let mut follower = recording(3);
    let mut without = of_voters(&[1, 2]);
    without.removed = [MemberId(3)].into();
    follower.receive(append_configuration(2, 1, (0, 0), without));
    follower.run([Event::Message(heartbeat(2, 1, 1, 1)), Event::Disconnected(MemberId(2))]);
    for request in [pre_vote(3, 9, (99, 8)), vote(3, 9, (99, 8))] {
        let answer = follower.answer(request);
        let Body::Reply(Reply::RequestVote(reply)) = answer.body else { panic!("{answer:?}") };
        assert!(!reply.vote_granted && reply.is_removed);
    }
    let mut former = recording(3);
    former.time_out();
    let told = RequestVoteReply { pre_vote: true, vote_granted: false, is_removed: true };
    let body = Body::Reply(Reply::RequestVote(told));
    assert!(former.run([Event::Message(message(2, 1, body))]).contains(&Effect::Removed));
}

/// A leader goes on sending to a member that it has removed for a while: how else would it know?
#[test]
fn a_member_that_was_removed_is_sent_the_entry_that_says_so() {
    let mut node = leader(3);
    change(&mut node, remove(3));
    commit_all(&mut node, [2, 3]);
    commit_all(&mut node, [2]);
    let messages = sent(&node.tick(2 * node.config.heartbeat_ticks));
    assert_eq!(recipients(&messages), [2, 3]);
    let mut later = Vec::new();
    for _ in 0..15 {
        later = sent(&node.tick(2 * node.config.heartbeat_ticks));
        hear(&mut node, [2]);
    }
    assert_eq!(recipients(&later), [2], "not for ever");
}

/// It may have crashed and lost its data. If it were one of two, and this leader crashed, too,
/// nobody could be elected.
#[test]
fn a_voter_whose_connection_broke_does_not_count_until_it_is_heard_again() {
    let mut node = leader(3);
    hear(&mut node, [2, 3]);
    node.run([Event::Disconnected(MemberId(2))]);
    assert_eq!(change(&mut node, remove(3)), Some(Refusal::NoLiveMajority));
    hear(&mut node, [2]);
    assert_eq!(change(&mut node, remove(3)), None);
}

#[test]
fn what_would_leave_no_live_majority_is_refused() {
    let mut node = leader(3);
    // Member 3 falls silent.
    for _ in 0..10 {
        node.tick(node.config.heartbeat_ticks);
        hear(&mut node, [2]);
    }
    assert_eq!(change(&mut node, remove(2)), Some(Refusal::NoLiveMajority));
    assert_eq!(change(&mut node, remove(3)), None, "the one that is down");
    let mut alone = leader(1);
    assert_eq!(change(&mut alone, remove(1)), Some(Refusal::NoLiveMajority));
}

#[test]
fn ids_and_addresses_are_used_once() {
    let mut node = leader(3);
    assert_eq!(change(&mut node, add(2)), Some(Refusal::IdInUse));
    let place = Place { addr: "H2:1".to_owned(), directory: 4 };
    let taken = Change::AddLearner { id: MemberId(4), place };
    assert_eq!(change(&mut node, taken), Some(Refusal::AddrInUse(MemberId(2))));
    let to = |addr: &str| Change::Move { id: MemberId(3), addr: addr.to_owned() };
    assert_eq!(change(&mut node, to("h2:1")), Some(Refusal::AddrInUse(MemberId(2))));
    assert_eq!(change(&mut node, to("")), Some(Refusal::BadAddr));
    assert_eq!(change(&mut node, promote(9)), Some(Refusal::NotAMember));
    assert_eq!(change(&mut node, promote(2)), Some(Refusal::IsVoter));
    assert_eq!(change(&mut node, remove(9)), Some(Refusal::NotAMember));
    change(&mut node, remove(3));
    commit_all(&mut node, [2, 3]);
    commit_all(&mut node, [2]);
    assert_eq!(change(&mut node, add(3)), Some(Refusal::IdWasUsed));
    assert_eq!(change(&mut node, to("h9:1")), Some(Refusal::NotAMember));
}

#[test]
fn a_member_moves_at_once() {
    let mut node = leader(3);
    let to = Change::Move { id: MemberId(3), addr: "elsewhere:1".to_owned() };
    assert_eq!(change(&mut node, to), None);
    assert_eq!(configuration(&node).addr(MemberId(3)), Some("elsewhere:1"));
    assert_eq!(voters(&node), (vec![1, 2, 3], vec![]));
}

/// "Servers process incoming RPC requests without consulting their current configurations" (§4.1).
#[test]
fn a_candidate_that_is_no_member_may_have_a_newer_configuration() {
    let mut node = recording(3);
    assert!(is_vote_granted(&node.answer(vote(9, 1, (5, 0)))));
    let mut node = recording(3);
    let answer = node.answer(append(9, 1, (0, 0), &[1], 0));
    assert!(matches!(
        answer.body,
        Body::Reply(Reply::AppendEntries(AppendEntriesReply::Matched { .. }))
    ));
}

/// What a stranger acknowledges counts for nothing.
#[test]
fn answers_of_strangers_are_nonsense() {
    let mut node = leader(3);
    let before = node.nonsense();
    node.receive(matched(9, 1, 1));
    node.receive(heartbeat_reply(9, 1, 1));
    assert_eq!(node.nonsense(), before + 2);
}

/// The configurations hold still while a voter asks everybody what it may have promised.
#[test]
fn no_voters_change_while_one_of_them_rebuilds_except_by_its_removal() {
    let mut node = leader_with_learner(4, 5);
    node.answer(join(3, 0, 77));
    assert_eq!(change(&mut node, promote(5)), Some(Refusal::Rebuilding(MemberId(3))));
    assert_eq!(change(&mut node, remove(2)), Some(Refusal::Rebuilding(MemberId(3))));
    assert_eq!(change(&mut node, remove(3)), None);
    // It may be waiting for one that is down.
    let mut node = leader(4);
    for _ in 0..10 {
        node.tick(node.config.heartbeat_ticks);
        hear(&mut node, [2, 3]);
        node.answer(join(3, 0, 77));
    }
    assert_eq!(change(&mut node, remove(4)), None);
}

/// It gives no vote until a leader has filled it. If it were one of two, and the leader crashed,
/// nobody could be elected.
#[test]
fn whoever_rebuilds_does_not_count_as_alive() {
    let mut node = leader(3);
    for _ in 0..10 {
        node.tick(node.config.heartbeat_ticks);
        hear(&mut node, [2]);
        node.answer(join(2, 0, 77));
    }
    assert_eq!(change(&mut node, remove(3)), Some(Refusal::NoLiveMajority));
}

#[test]
fn changes_are_refused_by_whoever_does_not_lead() {
    let mut node = recording(3);
    let event = Event::ChangeMembers { id: RequestId(9), change: add(4) };
    let reason = Rejection::NotLeader(None);
    assert!(node.run([event]).contains(&Effect::Rejected { id: RequestId(9), reason }));
}
