//! ReadIndex (thesis §6.4).

use syncraft::raft::*;

use crate::node::*;

/// No read.
const NONE: [u64; 0] = [];

fn ready(effects: &[Effect]) -> Vec<u64> {
    let ids = |effect: &Effect| match effect {
        Effect::ReadReady(ids) => ids.iter().map(|id| id.0).collect(),
        _ => Vec::new(),
    };
    effects.iter().flat_map(ids).collect()
}

fn rejected(effects: &[Effect]) -> Vec<(u64, Rejection)> {
    let rejection = |effect: &Effect| match effect {
        Effect::Rejected { id, reason } => Some((id.0, *reason)),
        _ => None,
    };
    effects.iter().filter_map(rejection).collect()
}

fn run(node: &mut Node, message: Message) -> Vec<u64> {
    ready(&node.run([Event::Message(message)]))
}

/// A leader of three with its no-op committed.
fn serving() -> Node {
    let mut node = Node::new(3);
    node.lead();
    node.receive(matched(2, 1, 1));
    node
}

/// A read starts a round of heartbeats, and is ready when a quorum has answered it.
#[test]
fn a_read_is_ready_when_a_quorum_has_answered_its_round() {
    for members in 1..=5u64 {
        let mut node = Node::new(members);
        node.lead();
        let term = node.term();
        (2..=members).for_each(|peer| drop(node.receive(matched(peer, term, 1))));
        let effects = node.run([read(7)]);
        let Some(&round) = rounds(&sent(&effects)).first() else {
            assert_eq!((members, ready(&effects)), (1, vec![7]), "alone, it is its own quorum");
            continue;
        };
        for peer in 2..=members {
            let is_quorum = peer == members / 2 + 1;
            let expected = if is_quorum { vec![7] } else { vec![] };
            assert_eq!(run(&mut node, heartbeat_reply(peer, term, round)), expected, "{members}");
        }
    }
}

/// "If the leader has not yet marked an entry from its current term committed, it waits until it has done so."
#[test]
fn a_read_waits_for_an_entry_of_the_current_term() {
    let mut node = Node::restarted(3, 1, None, &[1]);
    node.lead();
    assert_eq!(rounds(&sent(&node.run([read(1)]))), NONE);
    for round in 1..9 {
        assert_eq!(run(&mut node, heartbeat_reply(2, 2, 1)), NONE, "answer {round}");
    }
    let round = rounds(&node.receive(matched(2, 2, 2)));
    assert_eq!(round, [2], "now it starts");
    assert_eq!(run(&mut node, heartbeat_reply(2, 2, 2)), [1]);
}

/// Only answers to heartbeats that were sent after the read arrived count.
#[test]
fn an_answer_to_an_earlier_heartbeat_confirms_nothing() {
    let mut node = serving();
    let before = rounds(&sent(&node.tick(5)))[0];
    let round = rounds(&sent(&node.run([read(1)])))[0];
    assert!(round > before);
    assert_eq!(run(&mut node, heartbeat_reply(2, 1, before)), NONE);
    assert_eq!(run(&mut node, heartbeat_reply(3, 1, before)), NONE);
    assert_eq!(run(&mut node, heartbeat_reply(3, 1, round)), [1]);
}

/// A member answers the heartbeat of an earlier term with its own, later one. If that is the term in which the asker leads
/// again, the answer is of this term, but its round was counted in the earlier one: it must confirm nothing.
#[test]
fn an_answer_to_a_heartbeat_of_an_earlier_term_confirms_nothing() {
    let mut follower = Node::restarted(3, 2, None, &[1, 2]);
    for round in 1..20 {
        let late = follower.answer(heartbeat(2, 1, 0, round));
        let mut leader = Node::restarted(3, 1, None, &[1]);
        leader.lead();
        leader.receive(matched(3, 2, 2));
        leader.run([read(1)]);
        assert_eq!(
            run(&mut leader, Message { from: MemberId(2), to: MemberId(1), ..late }),
            NONE,
            "round {round}"
        );
        assert_eq!(leader.nonsense(), 0);
    }
}

/// All reads that wait share one round: those of one step, and those that arrive while rounds are under way.
#[test]
fn reads_share_rounds() {
    let mut node = serving();
    let effects = node.run((0..50).map(read));
    assert_eq!(rounds(&sent(&effects)).len(), 1);
    let second = rounds(&sent(&node.run([read(50)])));
    assert_eq!(second.len(), 1, "one more may start at once");
    for id in 51..60 {
        assert_eq!(rounds(&sent(&node.run([read(id)]))), NONE, "these wait");
    }
    let effects = node.run([Event::Message(heartbeat_reply(2, 1, second[0]))]);
    assert_eq!(ready(&effects), (0..=50).collect::<Vec<_>>(), "a later round confirms the earlier");
    let third = rounds(&sent(&effects));
    assert_eq!(third.len(), 1);
    assert_eq!(run(&mut node, heartbeat_reply(3, 1, third[0])), (51..60).collect::<Vec<_>>());
}

/// A lost round costs nothing: the answer to any later heartbeat confirms it too.
#[test]
fn a_later_heartbeat_confirms_a_lost_round() {
    let mut node = serving();
    node.run([read(1)]);
    let regular = rounds(&sent(&node.tick(5)))[0];
    assert_eq!(run(&mut node, heartbeat_reply(2, 1, regular)), [1]);
}

/// The read sees everything that was committed when it arrived: it is ready after that was handed out.
#[test]
fn a_read_is_ready_after_what_was_committed_is_handed_out() {
    let mut node = Node::with(3, |config| config.apply_bytes_max = 1);
    node.lead();
    (0..2).for_each(|id| drop(node.propose(id)));
    node.receive(matched(2, 1, 3));
    assert_eq!((node.commit(), node.applied.len()), (3, 1), "the state machine is slow");
    let round = rounds(&sent(&node.run([read(1)])))[0];
    assert_eq!(run(&mut node, heartbeat_reply(2, 1, round)), NONE);
    assert_eq!(ready(&node.run([Event::Applied(Index(1))])), NONE);
    let effects = node.run([Event::Applied(Index(2))]);
    assert_eq!(ready(&effects), [1]);
    let apply = effects.iter().position(|it| matches!(it, Effect::Apply(_)));
    let serve = effects.iter().position(|it| matches!(it, Effect::ReadReady(_)));
    assert!(apply < serve, "in this order: {effects:?}");
}

/// A leader that steps down gives its reads back: it cannot know whether they were current. Whoever does not lead takes none.
#[test]
fn a_leader_that_steps_down_gives_its_reads_back() {
    let mut node = serving();
    node.run([read(1)]);
    node.run([read(2)]);
    node.run([read(3)]);
    let effects = node.run([Event::Message(heartbeat(2, 4, 0, 1))]);
    let not_leader = |leader| Rejection::NotLeader(leader);
    assert_eq!(rejected(&effects), [1, 2, 3].map(|id| (id, not_leader(None))));
    assert_eq!(rejected(&node.run([read(4)])), [(4, not_leader(Some(MemberId(2))))]);
    assert_eq!(run(&mut node, heartbeat_reply(3, 4, 9)), NONE);
}

/// The same when check-quorum deposes it.
#[test]
fn reads_of_a_leader_without_a_quorum_are_given_back() {
    let mut node = serving();
    node.run([read(1)]);
    let effects = node.tick(60);
    assert_eq!(rejected(&effects), [(1, Rejection::NotLeader(None))]);
}
