//! Raft §5.3 and §5.4: what is committed, by whom, and what never changes.

use syncraft::raft::*;

use crate::cluster::Cluster;
use crate::node::*;

/// §5.3: "A log entry is committed once the leader that created the entry has replicated it on a
/// majority of the servers": for every cluster of one to five members, and every set of peers that
/// have acknowledged.
#[test]
fn an_entry_commits_when_a_majority_holds_it() {
    for members in 1..=5u64 {
        for acks in 0..1u64 << (members - 1) {
            let mut node = Node::new(members);
            node.lead();
            let term = node.term();
            for peer in (2..=members).filter(|peer| acks & (1 << (peer - 2)) != 0) {
                node.receive(matched(peer, term, 1));
            }
            let is_majority = 1 + u64::from(acks.count_ones()) > members / 2;
            assert_eq!(node.commit(), u64::from(is_majority), "{members} members, acks {acks:b}");
        }
    }
}

/// §5.3: "This also commits all preceding entries in the leader's log, including entries created by
/// previous leaders." §5.4.2: "Raft never commits log entries from previous terms by counting
/// replicas. Only log entries from the leader's current term are committed by counting replicas".
#[test]
fn only_an_entry_of_the_current_term_commits_what_is_before_it() {
    // The log before the election (its leader's no-op of term 4 follows), what a peer matches, the
    // commit index afterwards.
    let table: &[(&[u64], u64, u64)] =
        &[(&[1], 1, 0), (&[1, 3, 3], 1, 0), (&[1, 3, 3], 3, 0), (&[1, 3, 3], 4, 4), (&[], 1, 1)];
    for &(log, match_index, expected) in table {
        let mut node = Node::restarted(3, 3, None, log);
        node.lead();
        node.receive(matched(2, 4, match_index));
        assert_eq!(node.commit(), expected, "{log:?} matched up to {match_index}");
        assert_eq!(node.applied.len() as u64, expected);
    }
}

/// Figure 7: a leader of term 8 and six followers whose logs lack entries, have others, or both.
/// "the leader handles inconsistencies by forcing the followers' logs to duplicate its own" (§5.3);
/// "A leader never overwrites or deletes entries in its own log".
#[test]
fn the_six_followers_of_figure_7_converge() {
    let leading = [1, 1, 1, 4, 4, 5, 5, 6, 6, 6];
    let followers: [&[u64]; 6] = [
        &[1, 1, 1, 4, 4, 5, 5, 6, 6],
        &[1, 1, 1, 4],
        &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6],
        &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7],
        &[1, 1, 1, 4, 4, 4, 4],
        &[1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3],
    ];
    let mut cluster = Cluster::new(7);
    cluster.restart_with(1, 7, &leading);
    for (at, log) in followers.iter().enumerate() {
        cluster.restart_with(at as u64 + 2, 7, log);
    }
    cluster.elect(1);
    cluster.settle();
    let log = cluster.node(1).log.clone();
    assert_eq!(cluster.node(1).terms(), [&leading[..], &[8]].concat());
    for id in 2..=7 {
        assert_eq!(cluster.node(id).entries, log, "follower {id}");
        assert_eq!(cluster.node(id).commit(), 11);
    }
}

/// Figure 8: an entry of an old term on a majority can still be overwritten. It must not count as
/// committed until an entry of the current term is on a majority; from then on it cannot be
/// overwritten.
#[test]
fn figure_8() {
    // (c): S1 leads term 4 and has brought its entry of term 2 to S3, so that it is on a majority.
    let mut cluster = Cluster::new(5);
    for (id, log) in [(1, &[1, 2][..]), (2, &[1, 2]), (3, &[1]), (4, &[1]), (5, &[1, 3])] {
        cluster.restart_with(id, 3, log);
    }
    cluster.lose(5);
    cluster.elect(1);
    let between_1_and_3 = |message: &Message| {
        message.to == MemberId(3)
            && matches!(message.body, Body::Request(Request::AppendEntries(_)))
            || message.from == MemberId(3)
    };
    cluster.deliver_where(between_1_and_3);
    cluster.deliver_where(|message| message.from == MemberId(3));
    // S3 refuses, because it lacks entry 2. The next request brings it, together with the no-op:
    // cut the message there.
    let mut request = cluster.take_append(3);
    request.1.entries.truncate(1);
    assert_eq!((request.1.prev_log_index, request.1.entries[0].term), (Index(1), Term(2)));
    cluster.inject(1, 3, 4, Body::Request(Request::AppendEntries(request.1)));
    cluster.deliver_where(|message| matches!(message.body, Body::Reply(Reply::AppendEntries(_))));
    assert_eq!(cluster.node(3).terms(), [1, 2]);
    assert_eq!(cluster.node(1).commit(), 0, "on three of five, but of an old term");

    // (d): S1 crashes; S5 is elected by S3 and S4 (its last term, 3, is the latest), and overwrites
    // entry 2 everywhere.
    cluster.crash(1);
    cluster.queue.clear();
    cluster.restart_with(5, 4, &[1, 3]);
    cluster.elect(5);
    cluster.settle();
    for id in 2..=5 {
        assert_eq!(cluster.node(id).terms(), [1, 3, 5], "member {id}");
    }
}

/// Figure 8 (e): once S1 has brought an entry of its own term to a majority, S5 cannot win.
#[test]
fn figure_8_with_an_entry_of_the_current_term() {
    let mut cluster = Cluster::new(5);
    for (id, log) in [(1, &[1, 2][..]), (2, &[1, 2]), (3, &[1]), (4, &[1]), (5, &[1, 3])] {
        cluster.restart_with(id, 3, log);
    }
    cluster.lose(4);
    cluster.lose(5);
    cluster.elect(1);
    cluster.settle();
    assert_eq!(cluster.node(1).commit(), 3);
    cluster.crash(1);
    cluster.restart_with(4, 3, &[1]);
    cluster.restart_with(5, 3, &[1, 3]);
    assert!(!cluster.try_elect(5), "two of its four voters have a later last term");
    cluster.elect(2);
    cluster.settle();
    assert_eq!(&cluster.node(5).terms()[..3], [1, 2, 4]);
}

/// §5.4.3 (leader completeness): a member that is elected after an entry was committed has it. All
/// pairs of a log committed on two of three members, and a third member that campaigns.
#[test]
fn who_lacks_a_committed_entry_is_not_elected() {
    for (lacking, term) in [(&[][..], 2), (&[1], 5), (&[1, 1], 9), (&[1, 1, 1, 1], 3)] {
        let mut cluster = Cluster::new(3);
        cluster.restart_with(1, 2, &[1, 2]);
        cluster.restart_with(2, 2, &[1, 2]);
        cluster.restart_with(3, term, lacking);
        assert!(!cluster.try_elect(3), "{lacking:?} in term {term}");
        // The first attempt may end when it learns of the third member's later term.
        assert!(cluster.try_elect(2) || cluster.try_elect(2));
    }
}

/// All restart: what was committed is there, and is committed again with the first entry of the new
/// term.
#[test]
fn committed_entries_survive_the_restart_of_all() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.settle();
    cluster.propose(1, "x");
    cluster.settle();
    for id in 1..=3 {
        cluster.crash(id);
        cluster.restart(id);
        assert_eq!(cluster.node(id).commit(), 0, "figure 2: commitIndex is volatile");
    }
    cluster.elect(3);
    cluster.settle();
    for id in 1..=3 {
        assert_eq!((cluster.node(id).commit(), cluster.node(id).applied.len()), (3, 3));
    }
}

/// A leader that steps down keeps its log. A later leader may replace entries that were not
/// committed.
#[test]
fn a_deposed_leader_gives_way() {
    let mut node = Node::new(3);
    node.lead();
    (0..3).for_each(|id| drop(node.propose(id)));
    node.receive(append(2, 2, (0, 0), &[2], 0));
    assert_eq!((node.role(), node.terms()), (RoleName::Follower, vec![2]));
}

/// Committed entries are not replaced, whoever asks for it: that is nonsense.
#[test]
fn a_message_that_would_change_what_is_committed_is_nonsense() {
    let mut node = Node::restarted(3, 1, None, &[1, 1]);
    node.receive(heartbeat(2, 1, 2, 1));
    assert_eq!(node.receive(append(3, 5, (0, 0), &[1, 5], 0)), []);
    assert_eq!((node.terms(), node.nonsense()), (vec![1, 1], 1));
}
