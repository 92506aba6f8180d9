//! Raft §5.3: log replication; and pipelining (thesis §10.2.1).

use syncraft::raft::*;

use crate::node::*;

/// The answer of member 1: matched up to here, or the hint at a conflict (index, term).
#[derive(Debug, PartialEq)]
enum Answer {
    Matched(u64),
    Conflict(u64, u64),
}

fn answer_of(reply: &Message) -> Answer {
    match reply.body {
        Body::Reply(Reply::AppendEntries(AppendEntriesReply::Matched { match_index })) => {
            Answer::Matched(match_index.0)
        }
        Body::Reply(Reply::AppendEntries(AppendEntriesReply::Conflict {
            conflict_index,
            conflict_term,
            ..
        })) => Answer::Conflict(conflict_index.0, conflict_term.0),
        _ => panic!("no answer to an append: {reply:?}"),
    }
}

/// A leader of term 1 in three members. Both peers hold its no-op, so they are sent entries as they
/// come.
fn replicating(change: impl FnOnce(&mut Config)) -> Node {
    let mut node = Node::with(3, change);
    node.lead();
    for peer in 2..=3 {
        node.receive(matched(peer, 1, 1));
    }
    node
}

/// §5.3: "The leader appends the command to its log as a new entry, then issues AppendEntries RPCs
/// in parallel to each of the other servers"; it "includes the index and term of the entry in its
/// log that immediately precedes the new entries".
#[test]
fn a_proposal_goes_to_all_with_what_precedes_it() {
    let mut node = replicating(|_| {});
    let effects = node.propose(5);
    let proposed = Effect::Proposed { id: RequestId(5), index: Index(2), term: Term(1) };
    assert!(effects.contains(&proposed));
    let requests = appends(&sent(&effects));
    assert_eq!(requests.iter().map(|(to, _)| *to).collect::<Vec<_>>(), [2, 3]);
    for (_, request) in requests {
        assert_eq!((request.prev_log_index, request.prev_log_term), (Index(1), Term(1)));
        assert_eq!(request.entries, node.log[1..]);
        assert_eq!(request.leader_commit, Index(1));
    }
}

/// §5.3, figure 2, AppendEntries 1 to 4: the consistency check, the removal of conflicts, and the
/// append of new entries. A matching suffix stays if a message is shorter: an old message must not
/// truncate.
#[test]
fn a_follower_takes_what_follows_its_log() {
    use Answer::*;
    type Case<'a> = (&'a [u64], (u64, u64), &'a [u64], Answer, &'a [u64]);
    // The follower's log, what precedes the entries, the entries, the answer, the log afterwards.
    // The leader's term is 4.
    let table: &[Case] = &[
        (&[], (0, 0), &[], Matched(0), &[]),
        (&[], (0, 0), &[1, 2], Matched(2), &[1, 2]),
        (&[1, 2], (2, 2), &[], Matched(2), &[1, 2]),
        (&[1, 2], (2, 2), &[4, 4], Matched(4), &[1, 2, 4, 4]),
        // It matches already, as a whole or in part; or it is longer than the message.
        (&[1, 2, 3], (1, 1), &[2], Matched(2), &[1, 2, 3]),
        (&[1, 2, 3], (0, 0), &[1], Matched(1), &[1, 2, 3]),
        (&[1, 2, 3], (0, 0), &[], Matched(0), &[1, 2, 3]),
        (&[1, 2, 3], (0, 0), &[1, 2, 3, 4], Matched(4), &[1, 2, 3, 4]),
        // Conflicts.
        (&[1, 2, 2], (1, 1), &[3], Matched(2), &[1, 3]),
        (&[1, 2, 2], (0, 0), &[1, 2, 3], Matched(3), &[1, 2, 3]),
        (&[1, 2, 2], (0, 0), &[4], Matched(1), &[4]),
        (&[1, 1, 1, 3, 3], (2, 1), &[1, 4], Matched(4), &[1, 1, 1, 4]),
        // The check fails: too short, or another term there. The hint is the last entry that could
        // match.
        (&[], (1, 1), &[2], Conflict(0, 0), &[]),
        (&[1], (3, 2), &[4], Conflict(1, 1), &[1]),
        (&[1, 2, 2], (3, 3), &[4], Conflict(3, 2), &[1, 2, 2]),
        (&[1, 3, 3, 3], (4, 2), &[4], Conflict(1, 1), &[1, 3, 3, 3]),
        (&[3, 3], (2, 1), &[4], Conflict(0, 0), &[3, 3]),
        (&[1, 1, 3, 3, 3], (9, 2), &[4], Conflict(2, 1), &[1, 1, 3, 3, 3]),
    ];
    for (log, prev, new, answer, expected) in table {
        let mut node = Node::restarted(3, 3, None, log);
        let reply = node.answer(append(2, 4, *prev, new, 0));
        assert_eq!(answer_of(&reply), *answer, "{log:?} gets {prev:?} {new:?}");
        assert_eq!((node.terms(), &node.entries), (expected.to_vec(), &node.log));
    }
}

/// Figure 2, AppendEntries 5: "If leaderCommit > commitIndex, set commitIndex = min(leaderCommit,
/// index of last new entry)": entries after the last new one are not known to match.
#[test]
fn a_follower_commits_no_more_than_it_knows_to_match() {
    // The log, what precedes, the entries, the leader's commit index, the commit index afterwards.
    type Case<'a> = (&'a [u64], (u64, u64), &'a [u64], u64, u64);
    let table: &[Case] = &[
        (&[1], (1, 1), &[2], 0, 0),
        (&[1], (1, 1), &[2], 1, 1),
        (&[1], (1, 1), &[2], 2, 2),
        (&[1], (1, 1), &[2], 9, 2),
        (&[1, 1, 1], (1, 1), &[], 3, 1),
        (&[1, 1, 1], (0, 0), &[1], 3, 1),
        (&[1, 1, 1], (9, 2), &[2], 9, 0),
    ];
    for &(log, prev, new, leader_commit, expected) in table {
        let mut node = Node::restarted(3, 1, None, log);
        node.receive(append(2, 2, prev, new, leader_commit));
        assert_eq!(node.commit(), expected, "{log:?} {prev:?} {new:?} {leader_commit}");
        node.receive(append(2, 2, (0, 0), &log[..1], 0));
        assert_eq!(node.commit(), expected, "a commit index never falls");
    }
}

/// §5.3: "Once a follower learns that a log entry is committed, it applies the entry to its local
/// state machine (in log order)", each once.
#[test]
fn a_follower_applies_in_order_and_once() {
    let mut node = Node::restarted(3, 1, None, &[1, 1]);
    for commit in [1, 0, 3, 2, 3] {
        node.receive(append(2, 1, (2, 1), &[1, 1], commit));
        node.receive(heartbeat(2, 1, commit, 1));
    }
    assert_eq!(node.applied, entries(1, &[1, 1, 1]));
}

/// A heartbeat carries the commit index, but no more than the follower is known to hold.
#[test]
fn a_heartbeat_commits_what_the_follower_holds() {
    let mut leader = Node::restarted(3, 1, None, &[1, 1, 1]);
    leader.lead();
    leader.receive(matched(2, 2, 4));
    let commits: Vec<(u64, u64)> = sent(&leader.tick(5))
        .iter()
        .filter_map(|message| match message.body {
            Body::Request(Request::Heartbeat(heartbeat)) => {
                Some((message.to.0, heartbeat.leader_commit.0))
            }
            _ => None,
        })
        .collect();
    assert_eq!(commits, [(2, 4), (3, 0)], "3 has matched nothing yet");

    let mut follower = Node::restarted(3, 1, None, &[1, 1]);
    follower.receive(heartbeat(2, 1, 2, 1));
    assert_eq!(follower.commit(), 2);
    // The leader can only mean more if this disk has lost entries. The answer says that the member
    // is alive, and no more.
    let reply = follower.answer(heartbeat(2, 1, 3, 1));
    assert_eq!(
        reply.body,
        Body::Reply(Reply::Heartbeat(HeartbeatReply {
            round: 1,
            promised_us: 0,
            cannot_write: false
        }))
    );
    assert_eq!((follower.commit(), follower.nonsense()), (2, 0));
}

/// A follower comes back with an empty disk while the leader still leads and nobody writes. Once
/// its connection is back, the leader probes it, notices the loss, and fills it. The leader counts
/// only entries that the follower holds.
#[test]
fn a_follower_that_has_lost_its_disk_is_filled_again() {
    let mut leader = replicating(|_| {});
    leader.propose(1);
    leader.receive(matched(2, 1, 2));
    let probes = appends(&sent(&leader.run([Event::Disconnected(MemberId(2))])));
    assert_eq!(probes.len(), 1, "{probes:?}");
    assert_eq!((probes[0].1.prev_log_index, probes[0].1.entries.len()), (Index(2), 0));

    let effects = leader.run([Event::Message(conflict(2, 1, 2, (0, 0)))]);
    let found = Effect::PeerLostData { peer: MemberId(2), match_index: Index(2) };
    assert!(effects.contains(&found), "{effects:?}");
    let filled = appends(&sent(&effects));
    assert_eq!((filled[0].0, filled[0].1.entries.len()), (2, 2), "{filled:?}");

    leader.propose(2);
    assert_eq!(leader.commit(), 2, "3 has not answered, and 2 holds nothing now");
    leader.receive(matched(2, 1, 3));
    assert_eq!(leader.commit(), 3);
}

/// §5.3: "After a rejection, the leader decrements nextIndex and retries"; and at its end: "one
/// AppendEntries RPC will be required for each term with conflicting entries, rather than one RPC
/// per entry". Figure 7, and the pairs of logs in etcd's tests: how many probes it takes until the
/// logs agree, at most one per term.
#[test]
fn a_leader_finds_where_the_logs_agree() {
    // The leader's log, the follower's log, the most probes needed.
    let table: &[(&[u64], &[u64], usize)] = &[
        (&[1, 2, 2, 4, 4, 4, 4], &[1, 2, 2, 3, 3, 3, 3, 3, 3, 3], 2),
        (&[1, 2, 2, 4, 4, 4, 5], &[1, 2, 2, 2, 2], 3),
        (&[1, 2, 2, 4, 4, 4, 4], &[1, 2, 2, 3, 3], 2),
        (&[1, 3, 3, 3, 5, 5, 5, 5, 5], &[1, 1, 1, 1, 2, 2], 2),
        (&[1, 1, 1, 1, 1, 1, 1, 1, 1], &[1, 1, 1], 2),
        (&[2, 2, 2, 2, 2, 2, 2, 2, 2], &[1, 1, 1, 1], 2),
        (&[1, 1, 1, 4, 4, 5, 5, 6, 6, 6], &[1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3], 2),
        (&[1, 1, 1, 4, 4, 5, 5, 6, 6, 6], &[1, 1, 1, 4, 4, 4, 4], 3),
        (&[5; 30], &[], 2),
    ];
    for &(leading, following, probes_max) in table {
        let mut leader = Node::restarted(2, 9, None, leading);
        let mut follower = Node::restarted(2, 9, None, following);
        let mut requests = leader.lead();
        let mut probes = 0;
        while leader.commit() < leader.last() {
            requests
                .retain(|message| matches!(message.body, Body::Request(Request::AppendEntries(_))));
            probes += requests.len();
            let replies = requests.drain(..).flat_map(|it| follower.receive(as_sent_by(2, it)));
            let replies: Vec<Message> = replies.collect();
            requests =
                replies.into_iter().flat_map(|it| leader.receive(as_sent_by(2, it))).collect();
        }
        assert_eq!(follower.log, leader.log, "{leading:?} {following:?}");
        assert!(probes <= probes_max, "{leading:?} {following:?}: {probes} probes");
    }
}

/// Both nodes of this file are member 1 in their own view; here the other one is member `from`.
fn as_sent_by(from: u64, message: Message) -> Message {
    Message { from: MemberId(from), to: MemberId(1), ..message }
}

/// Thesis §10.2.1: the leader sends as many appends as the window allows, without waiting for
/// answers.
#[test]
fn appends_are_pipelined_up_to_the_window() {
    let mut node = replicating(|config| config.window_messages_max = 3);
    let mut sent_to_2 = Vec::new();
    for id in 0..5 {
        let requests = appends(&sent(&node.propose(id)));
        sent_to_2.extend(requests.into_iter().filter(|(to, _)| *to == 2).map(|(_, it)| it));
    }
    let prevs: Vec<u64> = sent_to_2.iter().map(|request| request.prev_log_index.0).collect();
    assert_eq!(prevs, [1, 2, 3]);
    let next = appends(&node.receive(matched(2, 1, 2)));
    assert_eq!(next.len(), 1, "one answer, one place: {next:?}");
    assert_eq!(
        (next[0].1.prev_log_index, next[0].1.entries.len()),
        (Index(4), 2),
        "what waits goes together"
    );
}

/// The window is also bounded in bytes, and so is each message.
#[test]
fn appends_are_bounded_in_bytes() {
    let mut node = replicating(|config| {
        (config.append_bytes_max, config.window_bytes_max) = (150, 400);
    });
    // An entry costs 48 bytes and its command 9: two entries a message, four messages in the
    // window.
    let requests = appends(&sent(&node.run((0..20).map(proposal))));
    let lens: Vec<usize> =
        requests.iter().filter(|it| it.0 == 2).map(|it| it.1.entries.len()).collect();
    assert_eq!(lens, [2, 2, 2, 2]);
}

/// A step of many proposals makes one append for each peer, and one write.
#[test]
fn proposals_of_one_step_travel_together() {
    let mut node = replicating(|_| {});
    let effects = node.step((0..100).map(proposal));
    let requests = appends(&sent(&effects));
    assert_eq!(requests.iter().map(|it| it.1.entries.len()).collect::<Vec<_>>(), [100, 100]);
    let persists: Vec<_> = effects.iter().filter(|it| matches!(it, Effect::Persist(_))).collect();
    assert_eq!(persists.len(), 1);
}

/// A new leader knows nothing about its peers: one message at a time until the first match.
#[test]
fn a_peer_is_probed_by_one_message_at_a_time() {
    let mut node = Node::new(3);
    node.lead();
    assert_eq!(appends(&sent(&node.propose(1))).len(), 0, "the no-op's probes are under way");
    let requests = appends(&node.receive(matched(2, 1, 1)));
    assert_eq!(requests.iter().map(|it| (it.0, it.1.entries.len())).collect::<Vec<_>>(), [(2, 1)]);
}

/// §5.3: "If followers crash or run slowly, or if network packets are lost, the leader retries
/// AppendEntries RPCs indefinitely".
#[test]
fn lost_appends_are_sent_again() {
    let mut node = replicating(|_| {});
    node.propose(1);
    let mut again = Vec::new();
    for _ in 0..6 {
        again.extend(appends(&sent(&node.tick(5))));
        (2..=3).for_each(|peer| again.extend(appends(&node.receive(heartbeat_reply(peer, 1, 1)))));
    }
    let prevs: Vec<(u64, u64)> = again.iter().map(|(to, it)| (*to, it.prev_log_index.0)).collect();
    assert!(prevs.contains(&(2, 1)) && prevs.contains(&(3, 1)), "{prevs:?}");
}

/// A broken connection shows at once that messages on their way may be lost.
#[test]
fn a_broken_connection_sends_again_at_once() {
    let mut node = replicating(|_| {});
    node.propose(1);
    let again = appends(&sent(&node.run([Event::Disconnected(MemberId(3))])));
    assert_eq!(
        again.iter().map(|(to, it)| (*to, it.prev_log_index.0)).collect::<Vec<_>>(),
        [(3, 1)]
    );
    assert_eq!(sent(&node.run([Event::Disconnected(MemberId(3))])), [], "and then it waits");
}

/// One message of the pipeline is lost: the follower refuses the next one, and the leader sends
/// everything again from the lost one on.
#[test]
fn a_gap_in_the_pipeline_is_filled() {
    let mut node = replicating(|_| {});
    (0..3).for_each(|id| drop(node.propose(id)));
    let again = appends(&node.receive(conflict(2, 1, 2, (1, 1))));
    assert_eq!(again.len(), 1);
    assert_eq!((again[0].1.prev_log_index, again[0].1.entries.len()), (Index(1), 3));
    let stale = node.receive(conflict(2, 1, 3, (1, 1)));
    assert_eq!(appends(&stale), [], "the refusal of what was also under way changes nothing");
}

/// Answers that come late, twice or in another order do no harm.
#[test]
fn reordered_answers_take_nothing_back() {
    let mut node = replicating(|_| {});
    (0..3).for_each(|id| drop(node.propose(id)));
    node.receive(matched(2, 1, 4));
    assert_eq!(node.commit(), 4);
    for late in [matched(2, 1, 2), matched(2, 1, 3), conflict(2, 1, 1, (0, 0)), matched(2, 1, 4)] {
        assert_eq!(appends(&node.receive(late)), []);
    }
    let next = appends(&sent(&node.propose(9)));
    assert_eq!(next[0].1.prev_log_index, Index(4));
}

/// The ticks until a leader sends its next heartbeats, and what they say is committed, at most.
/// Then these peers answer them.
fn next_heartbeat(node: &mut Node, answered_by: &[u64]) -> (u32, u64) {
    for ticks in 1..=100 {
        let heartbeats = sent(&node.tick(1)).into_iter().filter_map(|message| match message.body {
            Body::Request(Request::Heartbeat(heartbeat)) => Some(heartbeat),
            _ => None,
        });
        let most = heartbeats.max_by_key(|heartbeat| heartbeat.leader_commit);
        let Some(Heartbeat { leader_commit, round }) = most else { continue };
        for &peer in answered_by {
            node.receive(heartbeat_reply(peer, 1, round));
        }
        return (ticks, leader_commit.0);
    }
    panic!("no heartbeat");
}

/// Nothing is late because heartbeats are rare: they are so only when there is nothing to tell.
#[test]
fn heartbeats_are_rare_while_all_peers_have_everything_and_know_it() {
    let mut node = replicating(|_| {});
    let Config { heartbeat_ticks: often, rare_heartbeat_ticks: rare, .. } = node.config;
    assert_eq!(next_heartbeat(&mut node, &[2, 3]), (often, 1), "it tells of the no-op");
    for _ in 0..3 {
        assert_eq!(next_heartbeat(&mut node, &[2, 3]), (rare, 1));
    }
    // An entry is told of as soon as without rare heartbeats: here one is overdue.
    node.tick(often + 1);
    node.propose(1);
    node.receive(matched(2, 1, 2));
    assert_eq!(next_heartbeat(&mut node, &[2, 3]), (1, 2));
    assert_eq!(next_heartbeat(&mut node, &[2, 3]), (often, 2), "member 3 lacks the entry");
    node.receive(matched(3, 1, 2));
    assert_eq!(next_heartbeat(&mut node, &[2]), (often, 2), "and has not been told of it");
    assert_eq!(next_heartbeat(&mut node, &[2, 3]), (often, 2), "that was perhaps lost");
    assert_eq!(next_heartbeat(&mut node, &[2, 3]), (rare, 2));
    node.run([read(1)]);
    assert_eq!(next_heartbeat(&mut node, &[2, 3]), (often, 2), "a round is under way");
}

#[test]
fn a_peer_that_is_silent_or_lost_gets_all_heartbeats() {
    let mut node = replicating(|_| {});
    let Config { heartbeat_ticks: often, rare_heartbeat_ticks: rare, .. } = node.config;
    assert_eq!(next_heartbeat(&mut node, &[2, 3]).0, often);
    assert_eq!(next_heartbeat(&mut node, &[2]).0, rare);
    assert_eq!(next_heartbeat(&mut node, &[2]).0, rare, "one may be late");
    assert_eq!(next_heartbeat(&mut node, &[2, 3]).0, often, "member 3 has not answered two");
    assert_eq!(next_heartbeat(&mut node, &[2, 3]).0, rare);
    node.step([Event::Disconnected(MemberId(3))]);
    assert_eq!(next_heartbeat(&mut node, &[2, 3]).0, often);
}

/// The shell lets so many ticks pass without a turn.
#[test]
fn a_core_is_calm_until_a_tick_matters() {
    let mut node = replicating(|config| config.append_gather_from = 1);
    let Config { heartbeat_ticks: often, rare_heartbeat_ticks: rare, .. } = node.config;
    assert_eq!(node.raft.calm_ticks(), 0, "its no-op is not applied");
    node.step([Event::Applied(Index(1))]);
    assert_eq!(node.raft.calm_ticks(), often);
    next_heartbeat(&mut node, &[2, 3]);
    assert_eq!(node.raft.calm_ticks(), rare);
    node.tick(often + 1);
    node.propose(1);
    assert_eq!(node.raft.calm_ticks(), 1, "a heartbeat is overdue");
    next_heartbeat(&mut node, &[2, 3]);
    node.propose(2);
    node.propose(3);
    assert_eq!(node.raft.calm_ticks(), 0, "an entry gathers until the next tick");
    node.tick(1);
    assert_eq!(node.raft.calm_ticks(), often - 1);
    node.run([read(1)]);
    assert_eq!(node.raft.calm_ticks(), often - 1, "its round is under way");
    node.receive(matched(2, 1, 2));
    assert_eq!(node.raft.calm_ticks(), 1, "an entry is being applied");
    node.step([Event::Applied(Index(2))]);
    assert_eq!(node.raft.calm_ticks(), often - 1);

    let mut follower = Node::new(3);
    assert_eq!(follower.raft.calm_ticks(), 0, "nobody leads");
    follower.receive(heartbeat(2, 1, 0, 1));
    let calm = follower.raft.calm_ticks();
    assert_eq!(calm, follower.config.election_ticks_min / 2);
    follower.step([Event::Tick, Event::Tick]);
    assert_eq!(follower.raft.calm_ticks(), calm - 2);
    follower.tick(calm);
    assert_eq!(follower.raft.calm_ticks(), 0, "the leader may be gone");
}
