//! Raft §5.1: terms and roles.

use syncraft::raft::*;

use crate::node::*;

/// A node in each role, in term 3 (a pre-candidate asks about the next one).
fn in_each_role() -> Vec<(RoleName, Node)> {
    let follower = Node::restarted(3, 3, None, &[1]);
    let mut pre_candidate = Node::restarted(3, 3, None, &[1]);
    pre_candidate.time_out();
    let mut candidate = Node::restarted(3, 2, None, &[1]);
    candidate.stand();
    let mut leader = Node::restarted(3, 2, None, &[1]);
    leader.lead();
    let nodes = vec![
        (RoleName::Follower, follower),
        (RoleName::PreCandidate, pre_candidate),
        (RoleName::Candidate, candidate),
        (RoleName::Leader, leader),
    ];
    for (role, node) in &nodes {
        assert_eq!((node.role(), node.term()), (*role, 3));
    }
    nodes
}

/// §5.2: "When servers start up, they begin as followers."
#[test]
fn a_server_starts_as_a_follower_with_what_its_disk_holds() {
    let node = Node::restarted(3, 5, Some(2), &[1, 4]);
    let status = node.raft.status();
    let role = RoleChange { role: RoleName::Follower, term: Term(5), leader: None };
    assert_eq!((status.role, status.last_index, status.durable_index), (role, Index(2), Index(2)));
    assert_eq!(status.commit_index, Index::ZERO, "figure 2: volatile state is initialised to 0");
}

/// §5.1: "If one server's current term is smaller than the other's, then it updates its current
/// term to the larger value. If a candidate or leader discovers that its term is out of date, it
/// immediately reverts to follower state." Figure 2, all servers.
#[test]
fn a_later_term_makes_a_follower_of_every_role() {
    for at in 0..every_message(9).len() {
        for (role, mut node) in in_each_role() {
            let message = every_message(9).swap_remove(at);
            // While a leader is heard, or the node itself leads, a vote request changes nothing
            // (thesis §4.2.3).
            let is_sticky = role == RoleName::Leader
                && matches!(message.body, Body::Request(Request::RequestVote(_)));
            node.receive(message.clone());
            let expected = if is_sticky { (role, 3) } else { (RoleName::Follower, 9) };
            assert_eq!((node.role(), node.term()), expected, "{role:?} gets {message:?}");
            assert_eq!(node.hard_state.current_term.0, expected.1, "the term is durable");
        }
    }
}

/// §5.1: "If a server receives a request with a stale term number, it rejects the request."
#[test]
fn a_request_of_an_earlier_term_is_refused_with_the_current_one() {
    for (role, mut node) in in_each_role() {
        let before = node.raft.status();
        // A member that has lost its data asks in an early term, and is answered.
        let is_request =
            |message: &Message| !matches!(message.body, Body::Request(Request::Join(_)));
        for message in every_message(2).into_iter().filter(is_request) {
            let replies = node.receive(message.clone());
            assert_eq!(
                replies.len(),
                usize::from(!matches!(message.body, Body::Reply(_))),
                "{message:?}"
            );
            for reply in replies {
                assert_eq!((reply.term, reply.token, reply.to.0), (Term(3), 7, 2), "{role:?}");
                let is_refusal = match reply.body {
                    Body::Reply(Reply::RequestVote(reply)) => !reply.vote_granted,
                    Body::Reply(Reply::AppendEntries(reply)) => reply == AppendEntriesReply::Stale,
                    Body::Reply(Reply::Heartbeat(reply)) => reply.round == HeartbeatReply::NO_ROUND,
                    Body::Reply(Reply::ReadIndex(reply)) => reply.committed.is_none(),
                    _ => false,
                };
                assert!(is_refusal, "{reply:?}");
            }
        }
        assert_eq!(node.raft.status(), before, "{role:?}: nothing else has changed");
    }
}

/// §5.2: a candidate that hears from the leader of its term "recognizes the leader as legitimate
/// and returns to follower state"; of an earlier term, "the candidate rejects the RPC and continues
/// in candidate state".
#[test]
fn a_candidate_yields_to_the_leader_of_its_term() {
    for message in [append(2, 3, (0, 0), &[], 0), heartbeat(2, 3, 0, 1)] {
        for (role, mut node) in in_each_role().into_iter().take(3) {
            node.receive(message.clone());
            assert_eq!((node.role(), node.leader()), (RoleName::Follower, Some(2)), "{role:?}");
        }
    }
    let (_, mut candidate) = in_each_role().swap_remove(2);
    candidate.receive(append(2, 2, (0, 0), &[], 0));
    assert_eq!(candidate.role(), RoleName::Candidate);
}

/// §5.1: "at most one leader" a term: no message makes a leader step down in its own term.
#[test]
fn a_second_leader_of_a_term_is_nonsense() {
    let (_, mut leader) = in_each_role().swap_remove(3);
    assert_eq!(leader.receive(heartbeat(2, 3, 0, 1)), []);
    assert_eq!((leader.role(), leader.nonsense()), (RoleName::Leader, 1));
    let (_, mut follower) = in_each_role().swap_remove(0);
    follower.receive(heartbeat(2, 3, 0, 1));
    assert_eq!(follower.receive(append(3, 3, (0, 0), &[3], 0)), []);
    assert_eq!((follower.leader(), follower.nonsense()), (Some(2), 1));
}

/// The shell is told each change of role, term or leader once.
#[test]
fn a_change_of_role_is_told_once() {
    let mut node = Node::new(3);
    let mut told = Vec::new();
    let mut run = |node: &mut Node, message| {
        let effects = node.run([Event::Message(message)]);
        told.extend(effects.into_iter().filter_map(|effect| match effect {
            Effect::RoleChanged(role) => Some((role.role, role.term.0, role.leader.map(|id| id.0))),
            _ => None,
        }));
    };
    run(&mut node, heartbeat(2, 1, 0, 1));
    run(&mut node, heartbeat(2, 1, 0, 2));
    run(&mut node, heartbeat(3, 4, 0, 1));
    assert_eq!(told, [(RoleName::Follower, 1, Some(2)), (RoleName::Follower, 4, Some(3))]);
}
