//! Leadership transfer, thesis §3.10.

use syncraft::raft::{
    Body, Effect, Event, MemberId, Message, Rejection, Reply, Request, RequestId, RequestVote,
    RoleName,
};

use super::node::*;

fn transfer(to: Option<u64>) -> Event {
    Event::Transfer { to: to.map(MemberId) }
}

/// The member that is told to stand for election.
fn told(effects: &[Effect]) -> Vec<u64> {
    let is_order = |message: &Message| message.body == Body::Request(Request::TimeoutNow);
    sent(effects).into_iter().filter(is_order).map(|message| message.to.0).collect()
}

/// A leader of three. Follower 2 has everything, and follower 3 does not.
fn leader() -> Node {
    let mut leader = Node::new(3);
    leader.lead();
    leader.propose(1);
    leader.receive(matched(2, 1, 2));
    leader.receive(matched(3, 1, 1));
    leader
}

const NOBODY: [u64; 0] = [];

/// "The prior leader sends a TimeoutNow request to the target server" once "the target server's log
/// matches its own".
#[test]
fn a_peer_that_has_everything_is_told_at_once_and_once() {
    let mut leader = leader();
    assert_eq!(told(&leader.run([transfer(Some(2))])), [2]);
    assert_eq!(told(&leader.tick(10)), NOBODY);
}

/// "The prior leader fully updates the target server's log to match its own".
#[test]
fn a_peer_that_lacks_entries_gets_them_first() {
    let mut leader = leader();
    assert_eq!(told(&leader.run([transfer(Some(3))])), NOBODY);
    assert_eq!(told(&leader.run([Event::Message(matched(3, 1, 2))])), [3]);
}

#[test]
fn without_a_name_the_peer_that_is_furthest_is_chosen() {
    assert_eq!(told(&leader().run([transfer(None)])), [2]);
}

/// "The prior leader stops accepting new client requests."
#[test]
fn proposals_are_refused_while_it_is_under_way_and_taken_again_after() {
    let mut leader = leader();
    leader.run([transfer(Some(3))]);
    let is_refused = |effects: Vec<Effect>| {
        let reason = Rejection::HandingOver;
        effects.contains(&Effect::Rejected { id: RequestId(7), reason })
    };
    assert!(is_refused(leader.propose(7)));
    // "If leadership transfer does not complete after about an election timeout, the prior leader
    // aborts the transfer."
    for round in 1..4 {
        leader.tick(10);
        leader.receive(heartbeat_reply(2, 1, round));
    }
    assert_eq!(leader.role(), RoleName::Leader);
    assert!(!is_refused(leader.propose(7)));
}

#[test]
fn strangers_and_the_leader_itself_are_no_target() {
    for to in [1, 9] {
        let mut leader = leader();
        assert_eq!(told(&leader.run([transfer(Some(to))])), NOBODY);
        assert!(leader.propose(7).iter().any(|it| matches!(it, Effect::Proposed { .. })), "{to}");
    }
    let mut follower = Node::new(3);
    assert_eq!(told(&follower.run([transfer(Some(2))])), NOBODY, "only a leader can");
}

/// The target "starts a new election (incrementing its term and becoming a candidate)", without a
/// pre-vote.
#[test]
fn who_is_told_stands_at_once() {
    let mut follower = Node::restarted(3, 1, None, &[1]);
    let sent = follower.receive(message(2, 1, Body::Request(Request::TimeoutNow)));
    assert_eq!((follower.role(), follower.term()), (RoleName::Candidate, 2));
    let requests: Vec<_> =
        sent.iter().filter(|it| it.body != Body::Reply(Reply::TimeoutNow)).collect();
    assert_eq!(requests.len(), 2);
    let asks = |message: &&Message| {
        let vote = |it: &RequestVote| !it.pre_vote && it.is_transfer;
        matches!(&message.body, Body::Request(Request::RequestVote(request)) if vote(request))
    };
    assert!(requests.iter().all(asks));
}

/// §4.2.3: the request has "a special flag to override" what protects a leader that is heard.
#[test]
fn who_hears_the_leader_votes_for_its_heir_all_the_same() {
    let mut follower = Node::restarted(3, 1, None, &[1]);
    follower.receive(heartbeat(2, 1, 0, 1));
    let mut request = vote(3, 2, (1, 1));
    assert!(!is_vote_granted(&follower.answer(request.clone())));
    if let Body::Request(Request::RequestVote(request)) = &mut request.body {
        request.is_transfer = true;
    }
    assert!(is_vote_granted(&follower.answer(request)));
}

#[test]
fn an_order_of_an_earlier_term_is_answered_and_not_obeyed() {
    let mut follower = Node::restarted(3, 5, None, &[1]);
    let answer = follower.answer(message(2, 4, Body::Request(Request::TimeoutNow)));
    assert_eq!((answer.term.0, answer.body), (5, Body::Reply(Reply::TimeoutNow)));
    assert_eq!((follower.role(), follower.term()), (RoleName::Follower, 5));
}
