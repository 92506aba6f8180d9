//! Raft §5.2 and §5.4.1, the pre-vote of thesis §9.6, and who may disturb a leader (thesis §4.2.3,
//! §6.2).

use std::collections::BTreeSet;

use syncraft::raft::*;

use crate::node::*;

/// §5.2: "If a follower receives no communication over a period of time called the election
/// timeout, then it assumes there is no viable leader and begins an election"; "election timeouts
/// are chosen randomly from a fixed interval", anew each time.
#[test]
fn election_timeouts_are_drawn_from_their_interval_each_time() {
    let mut node = Node::new(3);
    let drawn: BTreeSet<u32> = (0..300)
        .map(|round| {
            node.receive(heartbeat(2, 1, 0, round + 1));
            node.time_out()
        })
        .collect();
    assert!(drawn.iter().all(|ticks| (30..=60).contains(ticks)), "{drawn:?}");
    assert!(drawn.len() > 25, "almost every value is drawn: {drawn:?}");
}

/// §5.2: members draw different timeouts even from the same seed, so that "in most cases only a
/// single server will time out".
#[test]
fn two_members_rarely_time_out_together() {
    let timeout = |id, seed| {
        let mut config = config(id, 3);
        config.seed = seed;
        Node::start(config, HardState::default(), None, Vec::new()).time_out()
    };
    let ties = (0..1_000).filter(|&seed| timeout(1, seed) == timeout(2, seed)).count();
    assert!(ties < 80, "{ties} ties of 1,000; by chance it were 32");
}

/// A shell that knows that nobody leads wants an election now. It goes on as after a timeout.
#[test]
fn a_member_that_is_asked_to_campaigns_at_once() {
    let mut node = Node::new(3);
    let asked = sent(&node.run([Event::Campaign]));
    assert_eq!((asked.len(), node.role(), node.term()), (2, RoleName::PreCandidate, 0));
    assert_eq!(sent(&node.run([Event::Campaign])), [], "it goes on with the one that has begun");
    node.receive(vote_reply(2, 1, true, true));
    node.receive(vote_reply(2, 1, false, true));
    assert_eq!(node.role(), RoleName::Leader);
    assert_eq!(sent(&node.run([Event::Campaign])), [], "it leads");
}

/// Whoever hears a leader, or does not know its promises, does not campaign.
#[test]
fn a_member_that_may_not_stand_ignores_that_it_is_asked_to() {
    let mut follower = Node::new(3);
    follower.receive(heartbeat(2, 1, 0, 1));
    assert_eq!(sent(&follower.run([Event::Campaign])), []);
    let mut new = Node::with(3, |config| config.standing = Standing::Rebuilding);
    new.run([Event::Campaign]);
    assert_eq!((new.role(), new.term()), (RoleName::Follower, 0));
}

/// §5.2: "A server remains in follower state as long as it receives valid RPCs from a leader or
/// candidate."
#[test]
fn a_follower_that_hears_its_leader_stays_one() {
    let mut node = Node::new(3);
    for round in 1..100 {
        node.receive(heartbeat(2, 1, 0, round));
        assert_eq!(sent(&node.tick(29)), []);
    }
    assert_eq!((node.role(), node.term()), (RoleName::Follower, 1));
}

/// Figure 2, followers: "... or granting vote to candidate": a granted vote restarts the timeout; a
/// refused one does not.
#[test]
fn granting_a_vote_restarts_the_timeout() {
    let mut node = Node::restarted(3, 1, None, &[1]);
    node.tick(29);
    assert!(is_vote_granted(&node.answer(vote(2, 1, (1, 1)))));
    assert_eq!(sent(&node.tick(29)), []);
    let before = node.time_out();
    assert!(before <= 31, "what was refused in between would have put it off");
}

/// Thesis §9.6: a member first asks whether it could win, which changes neither its term nor
/// anyone's vote. §5.2: then "a follower increments its current term and transitions to candidate
/// state. It then votes for itself and issues RequestVote RPCs in parallel to each of the other
/// servers".
#[test]
fn a_campaign_asks_before_it_begins_a_term() {
    let mut node = Node::restarted(3, 4, None, &[1, 4]);
    let mut asked = Vec::new();
    while asked.is_empty() {
        asked = sent(&node.tick(1));
    }
    let ask = |pre_vote| {
        let (last_log_index, last_log_term) = (Index(2), Term(4));
        Body::Request(Request::RequestVote(RequestVote {
            pre_vote,
            is_transfer: false,
            last_log_index,
            last_log_term,
        }))
    };
    let summary = |messages: &[Message]| -> Vec<_> {
        messages.iter().map(|it| (it.to.0, it.term.0, it.body.clone())).collect()
    };
    assert_eq!(summary(&asked), [(2, 5, ask(true)), (3, 5, ask(true))]);
    assert_eq!((node.role(), node.term()), (RoleName::PreCandidate, 4));
    assert_eq!(node.hard_state.voted_for, None);

    let asked = node.receive(vote_reply(2, 5, true, true));
    assert_eq!(summary(&asked), [(2, 5, ask(false)), (3, 5, ask(false))]);
    assert_eq!((node.role(), node.term()), (RoleName::Candidate, 5));
    let voted = HardState { current_term: Term(5), voted_for: Some(MemberId(1)) };
    assert_eq!(node.hard_state, voted);
}

/// §5.2: "A candidate wins an election if it receives votes from a majority of the servers in the
/// full cluster for the same term"; or it loses, or nobody wins. The same for pre-votes.
#[test]
fn votes_decide_an_election() {
    use RoleName::{Candidate, Follower, Leader, PreCandidate};
    // Members, who grants, who refuses, the outcome of the election, the outcome of the pre-vote.
    let table: &[(u64, &[u64], &[u64], RoleName)] = &[
        (1, &[], &[], Leader),
        (2, &[], &[], Candidate),
        (2, &[2], &[], Leader),
        (2, &[], &[2], Follower),
        (3, &[], &[], Candidate),
        (3, &[2], &[], Leader),
        (3, &[3], &[2], Leader),
        (3, &[], &[2], Candidate),
        (3, &[], &[2, 3], Follower),
        (4, &[2], &[], Candidate),
        (4, &[2, 3], &[], Leader),
        (4, &[2], &[3], Candidate),
        (4, &[2], &[3, 4], Follower),
        (4, &[2, 2, 2], &[], Candidate),
        (5, &[2], &[], Candidate),
        (5, &[2, 3], &[], Leader),
        (5, &[4, 5], &[2, 3], Leader),
        (5, &[2], &[3, 4], Candidate),
        (5, &[2], &[3, 4, 5], Follower),
        (5, &[2], &[3, 3, 3], Candidate),
    ];
    for &(members, granting, refusing, expected) in table {
        for is_pre_vote in [true, false] {
            let mut node = Node::new(members);
            if is_pre_vote {
                node.time_out();
            } else {
                drop(node.stand())
            }
            let term = if is_pre_vote { 1 } else { node.term() };
            for &peer in refusing {
                // A refusal names the current term. A granted pre-vote names the next one.
                node.receive(vote_reply(peer, term - u64::from(is_pre_vote), is_pre_vote, false));
            }
            for &peer in granting {
                node.receive(vote_reply(peer, term, is_pre_vote, true));
            }
            let outcome = match (node.role(), is_pre_vote && members > 1) {
                (Candidate, true) => Leader,
                (PreCandidate, true) => Candidate,
                (role, _) => role,
            };
            let case = (members, granting, refusing, is_pre_vote);
            assert_eq!(outcome, expected, "{case:?}");
        }
    }
}

/// §5.2: "each candidate will time out and start a new election by incrementing its term"; here
/// after another pre-vote.
#[test]
fn an_election_without_a_winner_is_tried_again_in_a_later_term() {
    let mut node = Node::new(3);
    node.stand();
    assert_eq!((node.role(), node.term()), (RoleName::Candidate, 1));
    node.tick(60);
    assert_eq!((node.role(), node.term()), (RoleName::PreCandidate, 1));
    node.receive(vote_reply(3, 2, true, true));
    assert_eq!((node.role(), node.term()), (RoleName::Candidate, 2));
}

/// Votes of another term, or pre-votes, make no leader.
#[test]
fn only_votes_of_its_own_term_count() {
    let mut node = Node::new(5);
    node.stand();
    node.tick(60);
    for peer in 2..=3 {
        node.receive(vote_reply(peer, 2, true, true));
    }
    assert_eq!((node.role(), node.term()), (RoleName::Candidate, 2));
    for peer in 2..=5 {
        node.receive(vote_reply(peer, 1, false, true));
        node.receive(vote_reply(peer, 2, true, true));
        node.receive(vote_reply(peer, 3, true, true));
    }
    assert_eq!((node.role(), node.term()), (RoleName::Candidate, 2));
}

/// The answer to a request of an earlier term may come before or after the vote: a granted vote
/// stands.
#[test]
fn a_vote_counts_also_after_the_refusal_of_an_older_request() {
    let mut node = Node::new(3);
    node.stand();
    node.receive(vote_reply(2, 1, false, false));
    node.receive(vote_reply(2, 1, false, true));
    assert_eq!(node.role(), RoleName::Leader);
}

/// §5.2: "Each server will vote for at most one candidate in a given term, on a
/// first-come-first-served basis."
#[test]
fn one_vote_a_term_first_come_first_served() {
    // Voted for, asked by, granted.
    let table = [
        (None, 2, true),
        (None, 3, true),
        (Some(2), 2, true),
        (Some(3), 2, false),
        (Some(1), 2, false),
    ];
    for (voted_for, candidate, is_granted) in table {
        let mut node = Node::restarted(3, 1, voted_for, &[1]);
        let reply = node.answer(vote(candidate, 1, (1, 1)));
        assert_eq!(is_vote_granted(&reply), is_granted, "{voted_for:?} {candidate}");
        let vote = if is_granted { Some(candidate) } else { voted_for };
        assert_eq!(node.hard_state.voted_for.map(|id| id.0), vote);
    }
    let mut node = Node::new(3);
    assert!(is_vote_granted(&node.answer(vote(2, 1, (0, 0)))));
    assert!(!is_vote_granted(&node.answer(vote(3, 1, (0, 0)))), "the second comes too late");
    assert!(is_vote_granted(&node.answer(vote(2, 1, (0, 0)))), "the first may ask again");
    assert!(is_vote_granted(&node.answer(vote(3, 2, (0, 0)))), "a new term, a new vote");
}

/// §5.2: the vote survives a crash (figure 2: "Updated on stable storage before responding to
/// RPCs").
#[test]
fn a_vote_outlives_a_crash() {
    let mut node = Node::new(3);
    node.receive(vote(2, 1, (0, 0)));
    let mut again = Node::start(node.config, node.hard_state, node.snapshot, node.entries);
    assert!(!is_vote_granted(&again.answer(vote(3, 1, (0, 0)))));
    assert!(is_vote_granted(&again.answer(vote(2, 1, (0, 0)))));
}

/// §5.4.1: "the voter denies its vote if its own log is more up-to-date than that of the
/// candidate": the later last term wins, then the longer log.
#[test]
fn only_a_log_that_is_up_to_date_gets_the_vote() {
    // The voter's log, the candidate's last entry, granted.
    let table: &[(&[u64], (u64, u64), bool)] = &[
        (&[], (0, 0), true),
        (&[1], (0, 0), false),
        (&[1], (1, 1), true),
        (&[1], (2, 1), true),
        (&[1, 1], (1, 1), false),
        (&[1], (1, 2), true),
        (&[1, 1], (1, 2), true),
        (&[2], (1, 1), false),
        (&[2], (9, 1), false),
        (&[1, 2], (1, 2), false),
    ];
    for &(log, last, is_granted) in table {
        for request in [vote(2, 4, last), pre_vote(2, 4, last)] {
            let mut node = Node::restarted(3, 3, None, log);
            assert_eq!(is_vote_granted(&node.answer(request)), is_granted, "{log:?} {last:?}");
        }
    }
}

/// §5.4.1: "The RequestVote RPC includes information about the candidate's log."
#[test]
fn a_vote_request_names_the_last_entry() {
    for log in [&[][..], &[1], &[1, 2, 2]] {
        let mut node = Node::restarted(3, 2, None, log);
        for message in node.stand() {
            let Body::Request(Request::RequestVote(request)) = message.body else { continue };
            let last = (request.last_log_index.0, request.last_log_term.0);
            assert_eq!(last, (log.len() as u64, log.last().copied().unwrap_or(0)));
        }
    }
}

/// §5.2: a new leader "sends heartbeat messages to all of the other servers to establish its
/// authority and prevent new elections", and then "periodically"; §8: and it appends a no-op.
#[test]
fn a_leader_shows_itself_at_once_and_at_every_interval() {
    let mut node = Node::restarted(3, 1, None, &[1]);
    let messages = node.lead();
    assert_eq!(rounds(&messages).len(), 1);
    let noop = |request: &AppendEntries| {
        request.entries.iter().map(|it| (it.index.0, it.payload.clone())).collect::<Vec<_>>()
    };
    for (to, request) in appends(&messages) {
        assert_eq!(noop(&request), [(2, Payload::Noop)], "to {to}");
    }
    assert_eq!(appends(&messages).len(), 2);
    for _ in 0..5 {
        assert_eq!(sent(&node.tick(4)), []);
        assert_eq!(rounds(&sent(&node.tick(1))).len(), 1);
        (2..=3).for_each(|peer| drop(node.receive(heartbeat_reply(peer, 2, 0))));
    }
}

/// Thesis §4.2.3: "if a server receives a RequestVote request within the minimum election timeout
/// of hearing from a current leader, it does not update its term or grant its vote"; the same for
/// pre-votes (§9.6). Afterwards it does.
#[test]
fn who_hears_a_leader_helps_nobody_else() {
    for request in [vote(3, 9, (9, 9)), pre_vote(3, 9, (9, 9))] {
        let mut node = Node::new(3);
        node.receive(heartbeat(2, 1, 0, 1));
        node.tick(29);
        assert!(!is_vote_granted(&node.answer(request.clone())));
        assert_eq!((node.role(), node.term(), node.leader()), (RoleName::Follower, 1, Some(2)));
        node.tick(1);
        assert!(is_vote_granted(&node.answer(request)));
    }
    let mut leader = Node::new(3);
    leader.lead();
    assert!(!is_vote_granted(&leader.answer(vote(3, 9, (9, 9)))));
    assert_eq!((leader.role(), leader.term()), (RoleName::Leader, 1));
}

/// Thesis §9.6: a pre-vote is granted like a vote, but binds nobody: both candidates may have it.
#[test]
fn a_pre_vote_binds_nobody() {
    let mut node = Node::restarted(3, 3, Some(2), &[1]);
    for candidate in [2, 3] {
        let reply = node.answer(pre_vote(candidate, 4, (1, 1)));
        assert!(is_vote_granted(&reply));
        assert_eq!(reply.term, Term(4), "the grant names the term that would begin");
    }
    assert_eq!(node.hard_state, HardState { current_term: Term(3), voted_for: Some(MemberId(2)) });
    assert!(node.pending.is_empty());
    assert!(!is_vote_granted(&node.answer(pre_vote(3, 3, (1, 1)))), "that term is under way");
}

/// Thesis §9.6: a member that was cut off comes back without a higher term.
#[test]
fn a_member_that_is_cut_off_does_not_raise_its_term() {
    let mut node = Node::new(3);
    node.receive(heartbeat(2, 1, 0, 1));
    node.tick(1_000);
    assert_eq!((node.role(), node.term()), (RoleName::PreCandidate, 1));
    node.receive(heartbeat(2, 1, 0, 9));
    assert_eq!((node.role(), node.leader()), (RoleName::Follower, Some(2)));
}

/// A pre-candidate whose term is behind learns the current one from a refusal. Otherwise it would
/// ask for a stale term forever.
#[test]
fn a_refused_pre_vote_teaches_the_term() {
    let mut node = Node::restarted(3, 1, None, &[1]);
    node.time_out();
    node.receive(vote_reply(2, 5, true, false));
    assert_eq!((node.role(), node.term()), (RoleName::Follower, 5));
}

/// A member with a later term than its leader's frees itself: it answers the heartbeat with its
/// term, and the leader steps down.
#[test]
fn a_heartbeat_of_an_earlier_term_is_answered_with_the_later_one() {
    let mut stuck = Node::restarted(3, 8, Some(1), &[1]);
    let reply = stuck.answer(heartbeat(2, 3, 0, 5));
    assert_eq!(reply.term, Term(8));
    let mut leader = Node::restarted(3, 2, None, &[1, 1]);
    leader.lead();
    leader.receive(Message { from: MemberId(2), to: MemberId(1), ..reply });
    assert_eq!((leader.role(), leader.term()), (RoleName::Follower, 8));
}

/// Thesis §6.2: "a leader steps down if an election timeout elapses without a successful round of
/// heartbeats to a majority".
#[test]
fn a_leader_without_a_quorum_steps_down() {
    // Members, who answers, whether it still leads.
    let table: &[(u64, &[u64], bool)] = &[
        (1, &[], true),
        (2, &[], false),
        (2, &[2], true),
        (3, &[], false),
        (3, &[3], true),
        (5, &[2], false),
        (5, &[2, 5], true),
    ];
    for &(members, answering, is_leading) in table {
        let mut node = Node::new(members);
        node.lead();
        let term = node.term();
        for _ in 0..30 {
            node.tick(5);
            for &peer in answering {
                node.receive(heartbeat_reply(peer, term, 1));
            }
        }
        let expected = if is_leading { RoleName::Leader } else { RoleName::Follower };
        let is_as_expected =
            node.role() == expected || !is_leading && node.role() == RoleName::PreCandidate;
        assert!(is_as_expected, "{members} {answering:?}: {:?}", node.role());
        assert_eq!(node.term(), term, "to step down costs no term");
    }
}

/// A closed socket: a follower that loses the connection to its leader asks for pre-votes after a
/// short pause.
#[test]
fn a_lost_leader_is_replaced_without_waiting_out_the_timeout() {
    let mut node = Node::new(3);
    node.receive(heartbeat(2, 1, 0, 1));
    node.run([Event::Disconnected(MemberId(3))]);
    assert_eq!(node.leader(), Some(2), "another peer's connection means nothing");
    node.run([Event::Disconnected(MemberId(2))]);
    assert_eq!(node.leader(), None);
    assert!((2..=8).contains(&node.time_out()));
    assert_eq!(node.role(), RoleName::PreCandidate);
}

/// It was only the connection: the next heartbeat ends the loss, and the pause.
#[test]
fn a_broken_connection_costs_no_term() {
    let mut node = Node::new(3);
    node.receive(heartbeat(2, 1, 0, 1));
    node.run([Event::Disconnected(MemberId(2))]);
    node.tick(1);
    node.receive(heartbeat(2, 1, 0, 2));
    assert_eq!(sent(&node.tick(29)), []);
    assert_eq!((node.leader(), node.term()), (Some(2), 1));
}

/// Two followers lose their leader at the same moment: a follower that has just granted a pre-vote
/// lets the other one go first.
#[test]
fn who_grants_a_pre_vote_waits_before_it_asks() {
    let mut node = Node::new(3);
    node.receive(heartbeat(2, 1, 0, 1));
    node.run([Event::Disconnected(MemberId(2))]);
    assert!(is_vote_granted(&node.answer(pre_vote(3, 2, (0, 0)))));
    assert_eq!(sent(&node.tick(7)), []);
}
