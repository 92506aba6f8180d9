//! Thesis §3.8: a message that makes a promise leaves only once the promise is on disk.

use syncraft::raft::*;

use crate::node::*;

/// Whether a message promises a vote, an entry, or its sender's term.
fn promises(message: &Message) -> bool {
    match message.body {
        Body::Request(Request::RequestVote(request)) => !request.pre_vote,
        Body::Reply(Reply::RequestVote(reply)) => reply.vote_granted && !reply.pre_vote,
        Body::Reply(Reply::AppendEntries(AppendEntriesReply::Matched { match_index })) => {
            match_index.0 > 0
        }
        _ => false,
    }
}

/// While the disk is busy, the member says nothing that a crash could take back. Afterwards it
/// does.
fn check_waits(mut node: Node, event: Event, what: &str) {
    let effects = node.step([event]);
    assert_eq!(sent(&effects), [], "{what}: nothing leaves before the write");
    assert_eq!(node.pending.len(), 1, "{what}: {effects:?}");
    let said = sent(&node.persist_one());
    assert!(!said.is_empty() && said.iter().all(promises), "{what}: {said:?}");
}

/// Figure 2: persistent state is "Updated on stable storage before responding to RPCs".
#[test]
fn promises_wait_for_the_disk() {
    let message = Event::Message;
    check_waits(Node::new(3), message(vote(2, 1, (0, 0))), "a vote in a new term");
    check_waits(Node::restarted(3, 1, None, &[]), message(vote(2, 1, (0, 0))), "a vote");
    check_waits(
        Node::restarted(3, 1, None, &[]),
        message(append(2, 1, (0, 0), &[1], 0)),
        "an entry",
    );
    let mut pre_candidate = Node::new(3);
    pre_candidate.time_out();
    check_waits(pre_candidate, message(vote_reply(2, 1, true, true)), "its own vote");
}

/// A repeated request is not answered sooner because memory already has the promise.
#[test]
fn a_repeated_request_waits_for_the_same_write() {
    for request in [vote(2, 1, (0, 0)), append(2, 1, (0, 0), &[1], 0)] {
        let mut node = Node::new(3);
        for _ in 0..3 {
            assert_eq!(sent(&node.step([Event::Message(request.clone())])), []);
        }
        assert!(sent(&node.run([])).iter().all(promises));
        assert_eq!(node.receive(request).len(), 1, "now it is on the disk, and said at once");
    }
}

/// An answer names its sender's term, and waits until a crash cannot take the term back.
#[test]
fn an_answer_waits_for_its_term() {
    for request in [heartbeat(2, 5, 0, 1), append(2, 5, (9, 5), &[], 0), vote(2, 5, (0, 0))] {
        let mut node = Node::restarted(3, 1, None, &[1]);
        assert_eq!(sent(&node.step([Event::Message(request)])), []);
        assert_eq!(sent(&node.persist_one()).len(), 1);
    }
}

/// Thesis §10.2.1: a leader may send entries while its own write is under way. A follower's slow
/// disk never delays the answer to a heartbeat.
#[test]
fn what_promises_nothing_does_not_wait() {
    let mut leader = Node::new(3);
    leader.lead();
    (2..=3).for_each(|peer| drop(leader.receive(matched(peer, 1, 1))));
    assert_eq!(appends(&sent(&leader.step([proposal(1)]))).len(), 2);
    assert_eq!(leader.pending.len(), 1);

    let mut follower = Node::restarted(3, 1, None, &[]);
    follower.step([Event::Message(append(2, 1, (0, 0), &[1], 0))]);
    assert_eq!(sent(&follower.step([Event::Message(heartbeat(2, 1, 0, 1))])).len(), 1);
    assert_eq!(
        sent(&follower.step([Event::Message(append(2, 1, (5, 1), &[], 0))])).len(),
        1,
        "a refusal"
    );
}

/// Thesis §10.2.1: the leader counts itself only once its write is durable. The others may be a
/// majority without it.
#[test]
fn a_leader_counts_itself_when_its_write_is_durable() {
    let mut node = Node::new(3);
    node.lead();
    node.receive(matched(2, 1, 1));
    node.step([proposal(1)]);
    node.step([Event::Message(matched(2, 1, 2))]);
    assert_eq!(node.commit(), 1, "one other has it, and the leader not yet");
    node.persist_one();
    assert_eq!(node.commit(), 2);

    node.step([proposal(2)]);
    node.step([Event::Message(matched(2, 1, 3))]);
    node.step([Event::Message(matched(3, 1, 3))]);
    assert_eq!(node.commit(), 3, "two others are a majority");
    assert_eq!(node.raft.status().durable_index, Index(2));
}

/// A single member, too, commits nothing before its disk has it.
#[test]
fn a_single_member_commits_when_its_write_is_durable() {
    let mut node = Node::new(1);
    node.time_out();
    assert_eq!((node.role(), node.term(), node.commit()), (RoleName::Leader, 1, 1));
    node.step([proposal(1)]);
    assert_eq!(node.commit(), 1);
    node.persist_one();
    assert_eq!(node.commit(), 2);
}

/// The others' votes may arrive before the candidate's own vote is durable, if the network repeats
/// an earlier request of the same term. The candidate does not lead before its vote is durable.
#[test]
fn votes_do_not_make_a_leader_before_its_own_is_durable() {
    let mut node = Node::new(5);
    node.time_out();
    node.receive(vote_reply(2, 1, true, true));
    node.step([Event::Message(vote_reply(3, 1, true, true))]);
    for peer in 2..=5 {
        node.step([Event::Message(vote_reply(peer, 1, false, true))]);
    }
    assert_eq!((node.role(), node.pending.len()), (RoleName::Candidate, 1));
    node.persist_one();
    assert_eq!(node.role(), RoleName::Leader);
}

/// While its own vote is on its way to the disk, the candidate has asked nobody. A new election
/// would only queue another write.
#[test]
fn a_candidate_waits_for_its_own_slow_disk() {
    for members in [1, 3] {
        let mut node = Node::new(members);
        node.time_out_held();
        if members > 1 {
            node.step([Event::Message(vote_reply(2, 1, true, true))]);
        }
        for _ in 0..500 {
            node.step([Event::Tick]);
        }
        assert_eq!((node.role(), node.term()), (RoleName::Candidate, 1));
        assert_eq!(node.pending.len(), 1);
        node.persist_one();
        if members > 1 {
            for _ in 0..29 {
                assert_eq!(
                    sent(&node.step([Event::Tick])),
                    [],
                    "they have a whole timeout to answer"
                );
            }
            node.step([Event::Message(vote_reply(2, 1, false, true))]);
        }
        assert_eq!(node.role(), RoleName::Leader);
    }
}

/// A write that a truncation has overtaken makes nothing durable: the answer waits for the write of
/// the replacing entries.
#[test]
fn a_truncation_takes_back_what_was_on_its_way() {
    let mut node = Node::restarted(3, 1, None, &[1]);
    node.step([Event::Message(append(2, 1, (1, 1), &[1, 1], 0))]);
    node.step([Event::Message(append(3, 2, (1, 1), &[2, 2], 0))]);
    node.persist_one();
    assert_eq!(node.raft.status().durable_index, Index(1), "2 and 3 on the disk are the old ones");
    let said = sent(&node.persist_one());
    assert_eq!(node.raft.status().durable_index, Index(3));
    assert_eq!((said.len(), said[0].term), (1, Term(2)));
}

/// One step's write: hard state and entries together, and all messages that wait for them.
#[test]
fn a_step_writes_once() {
    let mut node = Node::new(3);
    let effects = node.step([
        Event::Message(vote(2, 1, (0, 0))),
        Event::Message(append(2, 1, (0, 0), &[1], 0)),
        Event::Message(append(2, 1, (1, 1), &[1, 1], 0)),
        Event::Message(heartbeat(2, 1, 0, 1)),
    ]);
    let [Effect::Persist(persist), Effect::RoleChanged(_)] = &effects[..] else {
        panic!("{effects:?}");
    };
    assert_eq!(persist.hard_state.map(|it| it.current_term), Some(Term(1)));
    assert_eq!((persist.entries.len(), persist.then.len()), (3, 4));
}

/// A leader whose disk does nothing for longer than an election, while a peer's disk works.
fn stalled(change: impl FnOnce(&mut Config)) -> Node {
    let mut node = Node::with(3, change);
    node.lead();
    node.receive(matched(2, 1, 1));
    node.step([proposal(1)]);
    node
}

fn told_to_stand(effects: &[Effect]) -> bool {
    sent(effects).iter().any(|message| message.body == Body::Request(Request::TimeoutNow))
}

/// Ticks, with answers of both peers to the heartbeats, and nothing from the disk.
fn tick_stalled(node: &mut Node, ticks: u32) -> Vec<Effect> {
    tick_heard(node, ticks, &[2, 3])
}

fn tick_heard(node: &mut Node, ticks: u32, by: &[u64]) -> Vec<Effect> {
    let mut all = Vec::new();
    for _ in 0..ticks {
        let effects = node.step([Event::Tick]);
        for round in rounds(&sent(&effects)) {
            node.step(by.iter().map(|&peer| Event::Message(heartbeat_reply(peer, 1, round))));
        }
        all.extend(effects);
    }
    all
}

/// A disk that stalls costs the leader its leadership: it hands over to a peer that has written
/// what it could not.
#[test]
fn a_leader_whose_disk_stalls_hands_over() {
    let mut node = stalled(|_| {});
    node.step([Event::Message(matched(2, 1, 2))]);
    assert!(!told_to_stand(&tick_stalled(&mut node, 59)), "an election takes up to 60 ticks");
    assert!(told_to_stand(&tick_stalled(&mut node, 2)));
    assert!(node.raft.status().is_disk_stalled);
}

/// If all disks stall, as on one machine, another leader would be no better.
#[test]
fn a_leader_stays_when_no_other_disk_goes_on() {
    let mut node = stalled(|_| {});
    assert!(!told_to_stand(&tick_stalled(&mut node, 200)));
}

/// A full disk is as bad as one that stalls. If the others' disks are full too, or soon will be,
/// this leader stays: it can serve reads, and a new leader could not before it has written.
#[test]
fn a_leader_whose_disk_is_full_hands_over_while_a_majority_of_others_can_write() {
    let mut node = stalled(|_| {});
    node.step([Event::Message(matched(2, 1, 2)), Event::DiskFull(true)]);
    assert!(told_to_stand(&tick_stalled(&mut node, 61)));
    let mut node = stalled(|_| {});
    node.step([Event::Message(matched(2, 1, 2)), Event::DiskFull(true)]);
    for _ in 0..200 {
        let effects = node.step([Event::Tick]);
        assert!(!told_to_stand(&effects));
        for round in rounds(&sent(&effects)) {
            node.step(
                [heartbeat_reply(2, 1, round), unable_reply(3, 1, round)].map(Event::Message),
            );
        }
    }
    assert_eq!(node.role(), RoleName::Leader);
}

/// A member that cannot write says so, and nobody hands over to it.
#[test]
fn a_member_that_cannot_write_says_so_and_is_not_chosen() {
    let mut follower = Node::new(3);
    let cannot_write = |node: &mut Node| match node.answer(heartbeat(2, 1, 0, 1)).body {
        Body::Reply(Reply::Heartbeat(reply)) => reply.cannot_write,
        body => panic!("{body:?}"),
    };
    assert!(!cannot_write(&mut follower));
    follower.run([Event::DiskFull(true)]);
    assert!(cannot_write(&mut follower));
    follower.run([Event::DiskFull(false)]);
    assert!(!cannot_write(&mut follower));
    let mut leader = Node::new(3);
    leader.lead();
    leader.receive(matched(2, 1, 1));
    leader.receive(matched(3, 1, 1));
    let round = rounds(&sent(&leader.tick(5)))[0];
    leader.receive(unable_reply(2, 1, round));
    let told: Vec<u64> = sent(&leader.run([Event::Transfer { to: None }]))
        .into_iter()
        .filter(|message| message.body == Body::Request(Request::TimeoutNow))
        .map(|message| message.to.0)
        .collect();
    assert_eq!(told, [3]);
}

/// The others must be able to elect one of them: its own vote waits for its disk.
#[test]
fn a_leader_stays_when_the_others_are_no_majority_without_it() {
    let mut node = stalled(|_| {});
    node.step([Event::Message(matched(2, 1, 2))]);
    assert!(!told_to_stand(&tick_heard(&mut node, 200, &[2])));
    assert_eq!(node.role(), RoleName::Leader);
}

/// If all disks are equally slow, a follower is only ahead for a moment: it lacks what this leader
/// received before.
#[test]
fn a_leader_stays_when_all_disks_are_as_slow() {
    let mut node = stalled(|_| {});
    node.step([proposal(2)]);
    tick_stalled(&mut node, 1);
    node.step([Event::Message(matched(2, 1, 2))]);
    assert!(!told_to_stand(&tick_stalled(&mut node, 100)));
    node.step([Event::Message(matched(2, 1, 3))]);
    assert!(told_to_stand(&tick_stalled(&mut node, 1)));
}

/// A member whose disk stalls does not stand for election, not even when told to.
#[test]
fn a_stalled_member_does_not_stand() {
    let mut node = Node::new(3);
    node.step([Event::Message(append(2, 1, (0, 0), &[1], 0))]);
    node.step((0..61).map(|_| Event::Tick));
    let role = node.role();
    let message = message(2, node.term(), Body::Request(Request::TimeoutNow));
    for _ in 0..200 {
        node.step([Event::Tick]);
    }
    node.step([Event::Message(message)]);
    assert_ne!(node.role(), RoleName::Candidate);
    assert!(matches!(role, RoleName::Follower | RoleName::PreCandidate));
    node.run([]);
    assert!(!node.raft.status().is_disk_stalled, "the disk is back");
    node.time_out();
}

/// The messages that wait for a stalled disk are bounded: the network may lose messages as well.
#[test]
fn what_waits_to_be_said_is_bounded() {
    let mut node = Node::new(3);
    for round in 0..20_000 {
        node.step([Event::Message(heartbeat(2, 1, 0, round))]);
    }
    let waiting: usize = node.pending.iter().map(|persist| persist.then.len()).sum();
    assert!((1..=16_384).contains(&waiting), "{waiting}");
    assert!(node.pending.len() <= 16_384);
}
