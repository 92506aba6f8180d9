//! Leases (thesis §6.4.1): reads without a round, and what a promise forbids.

use syncraft::raft::*;

use super::node::*;

/// What members with the default times promise: 28 ticks of 10 ms.
const PROMISED_US: u64 = 280_000;
/// The lease that a leader takes from it.
const LEASE_US: u64 = 252_000;

fn lease(config: &mut Config) {
    config.lease = true;
}

fn clock(now_us: u64) -> Event {
    Event::Clock(now_us)
}

/// A leader of three. Its clock reads 1 s as it sends a round, which a quorum answers with a
/// promise.
fn promised() -> Node {
    let mut node = Node::with(3, lease);
    node.run([clock(1_000_000)]);
    node.lead();
    node.receive(matched(2, 1, 1));
    let round = rounds(&sent(&node.tick(5)))[0];
    node.receive(promising_reply(2, 1, round, PROMISED_US));
    node
}

/// Whether a read is served at once. What the shell is told beforehand says the same.
fn is_served(node: &mut Node, now_us: u64) -> bool {
    let is_allowed = now_us < node.raft.lease_end_us();
    let effects = node.run([clock(now_us), read(1)]);
    let is_served = effects.iter().any(|effect| matches!(effect, Effect::ReadReady(_)));
    assert_eq!(is_served, is_allowed);
    is_served
}

#[test]
fn a_read_within_the_lease_is_served_at_once_and_after_it_takes_a_round() {
    assert!(is_served(&mut promised(), 1_000_000 + LEASE_US - 1));
    let mut node = promised();
    let effects = node.run([clock(1_000_000 + LEASE_US), read(1)]);
    assert_eq!(rounds(&sent(&effects)).len(), 1);
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::ReadReady(_))));
}

/// The lease counts from the departure of the answered round, not from the answer.
#[test]
fn a_late_answer_gives_no_more_time() {
    let mut node = Node::with(3, lease);
    node.run([clock(1_000_000)]);
    node.lead();
    node.receive(matched(2, 1, 1));
    let round = rounds(&sent(&node.tick(5)))[0];
    node.run([clock(1_200_000), Event::Message(promising_reply(2, 1, round, PROMISED_US))]);
    assert!(is_served(&mut node, 1_000_000 + LEASE_US - 1));
    assert!(!is_served(&mut node, 1_000_000 + LEASE_US));
}

/// Only the promises of a quorum make a lease.
#[test]
fn only_promises_of_a_quorum_count() {
    let mut without = Node::with(3, lease);
    without.run([clock(1_000_000)]);
    without.lead();
    without.receive(matched(2, 1, 1));
    let round = rounds(&sent(&without.tick(5)))[0];
    without.receive(heartbeat_reply(2, 1, round));
    without.receive(matched(2, 1, 1));
    assert!(!is_served(&mut without, 1_000_001), "an answer without a promise");

    let mut five = Node::with(5, lease);
    five.run([clock(1_000_000)]);
    five.lead();
    for peer in [2, 3] {
        five.receive(matched(peer, 1, 1));
    }
    let round = rounds(&sent(&five.tick(5)))[0];
    five.receive(promising_reply(2, 1, round, PROMISED_US));
    assert!(!is_served(&mut five, 1_000_001), "two of five");
    five.receive(promising_reply(3, 1, round, PROMISED_US));
    assert!(is_served(&mut five, 1_000_001));
}

#[test]
fn a_lease_needs_a_committed_entry_of_the_term_and_the_option() {
    let mut node = Node::with(3, lease);
    node.run([clock(1_000_000)]);
    node.lead();
    let round = rounds(&sent(&node.tick(5)))[0];
    node.receive(promising_reply(2, 1, round, PROMISED_US));
    assert!(!is_served(&mut node, 1_000_001), "what is committed is unknown");
    let mut off = Node::new(3);
    off.run([clock(1_000_000)]);
    off.lead();
    off.receive(matched(2, 1, 1));
    let round = rounds(&sent(&off.tick(5)))[0];
    off.receive(promising_reply(2, 1, round, PROMISED_US));
    assert!(!is_served(&mut off, 1_000_001));
}

/// A leader that hands over allows a vote that breaks the promises: for the rest of its term it
/// uses a round for each read.
#[test]
fn a_leader_that_hands_over_gives_its_lease_away_for_good() {
    let mut node = promised();
    assert!(is_served(&mut node, 1_000_001));
    node.run([Event::Transfer { to: Some(MemberId(2)) }]);
    assert!(!is_served(&mut node, 1_000_002));
    for round in rounds(&sent(&node.tick(40))) {
        node.receive(promising_reply(2, 1, round, PROMISED_US));
        node.receive(promising_reply(3, 1, round, PROMISED_US));
    }
    assert!(!is_served(&mut node, 1_000_003), "the order may still be on its way");
}

#[test]
fn a_leader_answers_followers_under_its_lease() {
    let mut node = promised();
    let reply = node.answer(read_index(3, 1, 77));
    let answer = ReadIndexReply { batch: 77, committed: Some((Index(1), Term(1))) };
    assert_eq!(reply.body, Body::Reply(Reply::ReadIndex(answer)));
}

/// A follower that has made a promise to leader 2 in term 1.
fn bound() -> Node {
    let mut node = Node::with(3, lease);
    let reply = node.answer(heartbeat(2, 1, 0, 1));
    let promise = HeartbeatReply { round: 1, promised_us: PROMISED_US, cannot_write: false };
    assert_eq!(reply.body, Body::Reply(Reply::Heartbeat(promise)));
    node
}

fn transfer_vote(from: u64, term: u64) -> Message {
    let Message { body: Body::Request(Request::RequestVote(request)), .. } =
        vote(from, term, (0, 0))
    else {
        unreachable!("it is one")
    };
    message(
        from,
        term,
        Body::Request(Request::RequestVote(RequestVote { is_transfer: true, ..request })),
    )
}

/// The promise holds whatever the member learns: that its leader is gone, or that a later term has
/// begun.
#[test]
fn a_promise_holds_when_the_leader_is_lost_and_when_the_term_changes() {
    let mut node = bound();
    node.run([Event::Disconnected(MemberId(2))]);
    node.tick(29);
    assert!(!is_vote_granted(&node.answer(pre_vote(3, 2, (9, 1)))));
    assert!(!is_vote_granted(&node.answer(vote(3, 2, (9, 1)))));
    assert_eq!((node.role(), node.term()), (RoleName::Follower, 1), "nor does it ask for itself");
    node.receive(join_reply(3, 5, 0, false, None));
    assert_eq!(node.term(), 5);
    assert!(!is_vote_granted(&node.answer(vote(3, 5, (9, 1)))));
    node.tick(1);
    assert!(is_vote_granted(&node.answer(vote(3, 5, (9, 1)))), "it has expired");
}

/// Except for the election that the leader itself has asked for.
#[test]
fn a_promise_does_not_bind_when_the_leader_hands_over() {
    assert!(is_vote_granted(&bound().answer(transfer_vote(3, 2))));
}

/// A member that restarts may have made a promise before. A member without a term has not.
#[test]
fn a_promise_holds_over_a_restart() {
    let mut config = config(1, 3);
    config.lease = true;
    let hard_state = HardState { current_term: Term(1), voted_for: None };
    let mut node = Node::start(config, hard_state, None, Vec::new());
    node.tick(29);
    assert!(!is_vote_granted(&node.answer(vote(3, 2, (9, 1)))));
    node.tick(1);
    assert!(is_vote_granted(&node.answer(vote(3, 2, (9, 1)))));
    assert!(is_vote_granted(&Node::with(3, lease).answer(vote(3, 2, (9, 1)))));
}

/// Without the option nothing is promised, and a lost leader is replaced at once.
#[test]
fn who_knows_no_leases_promises_nothing() {
    let mut node = Node::new(3);
    let reply = node.answer(heartbeat(2, 1, 0, 1));
    let nothing = HeartbeatReply { round: 1, promised_us: 0, cannot_write: false };
    assert_eq!(reply.body, Body::Reply(Reply::Heartbeat(nothing)));
    node.run([Event::Disconnected(MemberId(2))]);
    assert!(is_vote_granted(&node.answer(vote(3, 2, (9, 1)))));
}
