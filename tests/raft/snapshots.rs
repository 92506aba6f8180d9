//! Snapshots, Raft §7 and thesis §5.

use syncraft::raft::*;

use crate::node::*;

fn taken(last: (u64, u64)) -> Event {
    Event::SnapshotTaken(end(last))
}

fn applied(index: u64) -> Event {
    Event::Applied(Index(index))
}

fn snapshots_to(effects: &[Effect]) -> Vec<u64> {
    let to = |effect: &Effect| match effect {
        Effect::SendSnapshot { to, .. } => Some(to.0),
        _ => None,
    };
    effects.iter().filter_map(to).collect()
}

fn installed(effects: &[Effect]) -> Vec<SnapshotMeta> {
    let snapshot = |effect: &Effect| match effect {
        Effect::Install(snapshot) => Some(*snapshot),
        _ => None,
    };
    effects.iter().filter_map(snapshot).collect()
}

/// What `peer` is sent, other than heartbeats.
fn appends_to(peer: u64, effects: &[Effect]) -> Vec<AppendEntries> {
    appends(&sent(effects)).into_iter().filter(|(to, _)| *to == peer).map(|it| it.1).collect()
}

const NOBODY: [u64; 0] = [];

fn snapshot_index(node: &Node) -> u64 {
    node.raft.status().snapshot_index.0
}

/// How often a snapshot is asked for.
fn asked(effects: &[Effect]) -> usize {
    effects.iter().filter(|effect| matches!(effect, Effect::TakeSnapshot)).count()
}

/// Of what was applied, so many bytes stay. A member forgets nothing before it knows its cluster.
fn keep_tail(config: &mut Config, bytes: usize) {
    (config.cluster_id, config.log_tail_bytes_max) = (1, bytes);
}

/// A leader of three in term 1 with entries 1 to 5, which member 2 has and member 3 lacks. It keeps
/// nothing that was applied.
fn leader() -> Node {
    leader_that_keeps(0)
}

/// The same, but it keeps so many bytes for peers that are behind.
fn leader_that_keeps(bytes: usize) -> Node {
    leader_with(|config| {
        keep_tail(config, 0);
        config.log_catch_up_bytes_max = bytes;
    })
}

fn leader_with(change: impl FnOnce(&mut Config)) -> Node {
    let mut leader = Node::with(3, change);
    leader.lead();
    leader.run((2..=5).map(proposal));
    for index in [1, 5] {
        leader.run([Event::Message(matched(2, 1, index))]);
    }
    assert_eq!((leader.last(), leader.commit()), (5, 5));
    leader
}

/// The leader above after member 3 has said that it has nothing: a snapshot of everything is on its
/// way.
fn sending() -> Node {
    sending_while_it_keeps(0)
}

fn sending_while_it_keeps(bytes: usize) -> Node {
    let mut leader = leader_that_keeps(bytes);
    leader.run([applied(5), taken((5, 1))]);
    let effects = leader.run([Event::Message(conflict(3, 1, 0, (0, 0)))]);
    assert_eq!(snapshots_to(&effects), [3]);
    leader
}

/// §7: the leader sends a snapshot "when the leader has already discarded the next log entry that
/// it needs to send to a follower"; until it is answered, heartbeats only.
#[test]
fn who_lacks_what_is_forgotten_is_sent_the_snapshot_and_nothing_else() {
    let mut leader = sending();
    for id in 10..30 {
        let effects = leader.run([proposal(id), Event::Message(heartbeat_reply(3, 1, 1))]);
        assert_eq!((snapshots_to(&effects), appends_to(3, &effects)), (vec![], vec![]));
        let effects = leader.tick(5);
        assert_eq!((snapshots_to(&effects), appends_to(3, &effects)), (vec![], vec![]));
        assert!(sent(&effects).iter().any(|it| it.to == MemberId(3)), "heartbeats go on");
    }
    let effects = leader.run([Event::Message(matched(3, 1, 5))]);
    let next = &appends_to(3, &effects)[0];
    assert_eq!((next.prev_log_index, next.prev_log_term), (Index(5), Term(1)));
    assert_eq!(appends_to(3, &leader.propose(99)).len(), 1, "one after the other, unanswered");
}

/// Old answers do not answer the snapshot.
#[test]
fn old_answers_do_not_end_the_wait_for_a_snapshot() {
    let mut leader = sending();
    for message in [matched(3, 1, 0), conflict(3, 1, 0, (0, 0)), conflict(3, 1, 4, (0, 0))] {
        let effects = leader.run([Event::Message(message), proposal(9)]);
        assert_eq!((snapshots_to(&effects), appends_to(3, &effects)), (vec![], vec![]));
    }
}

/// Neither at once, nor on a heartbeat that follows an answer from before the loss.
#[test]
fn a_lost_snapshot_is_sent_again_once_a_heartbeat_was_answered() {
    let stale = message(3, 1, Body::Reply(Reply::AppendEntries(AppendEntriesReply::Stale)));
    for loss in [Event::Disconnected(MemberId(3)), Event::Message(stale)] {
        let mut leader = sending();
        leader.run([Event::Message(heartbeat_reply(3, 1, 1))]);
        assert_eq!(snapshots_to(&leader.run([loss])), NOBODY);
        assert_eq!(snapshots_to(&leader.tick(5)), NOBODY, "nothing was heard since");
        leader.run([Event::Message(heartbeat_reply(3, 1, 2))]);
        let effects = leader.tick(5);
        assert_eq!((snapshots_to(&effects), appends_to(3, &effects)), (vec![3], vec![]));
    }
}

/// A snapshot that was overtaken by a newer one on its way still counts, and the newer one follows.
#[test]
fn an_answer_below_the_beginning_of_the_log_leads_to_the_next_snapshot() {
    let mut leader = sending();
    leader.propose(9);
    leader.receive(matched(2, 1, 6));
    leader.run([applied(6), taken((6, 1))]);
    assert_eq!(leader.commit(), 6);
    assert_eq!(snapshots_to(&leader.run([Event::Message(matched(3, 1, 5))])), [3]);
}

/// §5.3, with a hint below the beginning of the log: the leader tries the entries that it has, then
/// the snapshot.
#[test]
fn a_conflict_below_the_beginning_of_the_log_ends_in_a_snapshot() {
    for hint in [(0, 0), (4, 1), (3, 0)] {
        let hard_state = HardState { current_term: Term(1), voted_for: None };
        let disk = entries(1, &[1; 6]);
        let mut leader = Node::start(config(1, 3), hard_state, Some(end((5, 1))), disk);
        leader.lead();
        let effects = leader.run([Event::Message(conflict(3, 2, 6, hint))]);
        assert_eq!(appends_to(3, &effects)[0].prev_log_index, Index(5), "{hint:?}");
        let effects = leader.run([Event::Message(conflict(3, 2, 5, hint))]);
        assert_eq!((snapshots_to(&effects), appends_to(3, &effects)), (vec![3], vec![]));
    }
    let mut follower = compacted();
    let reply = follower.answer(append(2, 9, (20, 8), &[], 0));
    let AppendEntriesReply::Conflict { conflict_index, conflict_term, .. } = append_reply(&reply)
    else {
        panic!("{reply:?}");
    };
    assert_eq!((conflict_index, conflict_term), (Index(6), Term(1)));
    let reply = follower.answer(append(2, 9, (20, 0), &[], 0));
    let AppendEntriesReply::Conflict { conflict_index, .. } = append_reply(&reply) else {
        panic!("{reply:?}");
    };
    assert_eq!(conflict_index, Index(5), "no hint below its own snapshot: that is committed");
}

fn append_reply(message: &Message) -> AppendEntriesReply {
    let Body::Reply(Reply::AppendEntries(reply)) = message.body else { panic!("{message:?}") };
    reply
}

/// A follower in term 1 with entries 1 to 6. Five of them are committed, applied, and forgotten.
fn compacted() -> Node {
    let mut node = Node::with(3, |config| keep_tail(config, 0));
    node.run([Event::Message(append(2, 1, (0, 0), &[1; 6], 5))]);
    node.run([Event::Applied(Index(5)), taken((5, 1))]);
    assert_eq!((node.last(), node.commit(), snapshot_index(&node)), (6, 5, 5));
    node
}

/// §7: stale and repeated snapshots change nothing, and are answered.
#[test]
fn a_snapshot_of_what_is_committed_changes_nothing_and_is_answered() {
    for last in [(3, 1), (5, 1), (0, 0)] {
        let mut node = compacted();
        let before = node.raft.status();
        let effects = node.run([Event::Message(install(2, 1, last))]);
        assert_eq!(sent(&effects).len(), 1, "{effects:?}");
        let matched = AppendEntriesReply::Matched { match_index: Index(last.0) };
        assert_eq!(append_reply(&sent(&effects)[0]), matched);
        assert_eq!((effects.len(), node.raft.status()), (1, before), "{last:?}");
    }
}

#[test]
fn a_snapshot_of_a_deposed_leader_is_refused() {
    let mut node = Node::restarted(3, 5, None, &[1]);
    let reply = node.answer(install(2, 4, (9, 4)));
    assert_eq!((reply.term, append_reply(&reply)), (Term(5), AppendEntriesReply::Stale));
    assert_eq!((node.last(), node.commit(), snapshot_index(&node)), (1, 0, 0));
}

/// §7: "If instead the follower receives a snapshot that describes a prefix of its log, then log
/// entries covered by the snapshot are deleted but entries following the snapshot are still valid
/// and must be retained."
#[test]
fn a_snapshot_of_a_prefix_keeps_what_follows_it() {
    let mut node = Node::restarted(3, 2, None, &[1, 1, 2, 2]);
    let effects = node.run([Event::Message(install(2, 2, (3, 2)))]);
    assert_eq!(installed(&effects), []);
    assert_eq!((node.last(), node.commit(), node.terms()), (4, 3, vec![1, 1, 2, 2]));
    assert_eq!(node.applied.len(), 3, "the entries themselves lead there");
    assert!(sent(&effects).contains(&reply_to_2(2, 3)), "{effects:?}");
}

fn reply_to_2(term: u64, match_index: u64) -> Message {
    let reply = AppendEntriesReply::Matched { match_index: Index(match_index) };
    let (from, to) = (MemberId(1), MemberId(2));
    Message { from, to, term: Term(term), token: 7, body: Body::Reply(Reply::AppendEntries(reply)) }
}

/// §7: "the follower discards its entire log; it is all superseded by the snapshot and may possibly
/// have uncommitted entries that conflict with the snapshot". It is loaded, then written, and
/// answered only after that.
#[test]
fn any_other_snapshot_takes_the_place_of_log_and_state() {
    for log in [&[][..], &[1], &[1, 1, 1], &[1, 1, 2, 2, 2]] {
        let mut node = Node::restarted(3, 3, None, log);
        let effects = node.step([Event::Message(install(2, 3, (3, 3)))]);
        let [Effect::Install(snapshot), Effect::Persist(persist), Effect::RoleChanged(_)] =
            &effects[..]
        else {
            panic!("{effects:?}");
        };
        assert_eq!((*snapshot, persist.reset), (end((3, 3)), Some(end((3, 3)))));
        assert_eq!((persist.entries.len(), &persist.then), (0, &vec![reply_to_2(3, 3)]));
        let status = node.raft.status();
        assert_eq!((status.last_index, status.commit_index), (Index(3), Index(3)));
        assert!(status.durable_index < Index(3), "not before the log says so");
        assert_eq!(snapshot_index(&node), 3);
        assert_eq!(sent(&node.step([Event::Message(install(2, 3, (3, 3)))])), [], "nor repeated");
        node.run([]);
        assert_eq!(node.raft.status().durable_index, Index(3));
        // The next entries are applied after it, once.
        node.receive(append(2, 3, (3, 3), &[3, 3], 5));
        let applied: Vec<u64> = node.applied.iter().map(|it| it.index.0).collect();
        assert_eq!(applied, [4, 5]);
    }
}

/// A write that was under way when the log was replaced makes nothing durable.
#[test]
fn a_reset_takes_back_what_was_on_its_way() {
    let mut node = Node::restarted(3, 1, None, &[]);
    node.step([Event::Message(append(2, 1, (0, 0), &[1; 9], 0))]);
    node.step([Event::Message(install(3, 2, (4, 2)))]);
    node.step([Event::Message(append(3, 2, (4, 2), &[2], 0))]);
    node.persist_one();
    assert!(node.raft.status().durable_index < Index(4));
    let said = node.persist_one();
    assert_eq!(sent(&said).len(), 1, "{said:?}");
    assert_eq!(node.raft.status().durable_index, Index(4));
    node.persist_one();
    assert_eq!(node.raft.status().durable_index, Index(5));
    assert_eq!(node.entries, entries(5, &[2]));
}

/// Within one step: earlier appends are never written, later ones are, and nothing forgotten is
/// applied.
#[test]
fn a_step_may_append_install_and_append() {
    let mut node = Node::restarted(3, 2, None, &[]);
    let effects = node.step([
        Event::Message(append(2, 2, (0, 0), &[1, 1], 2)),
        Event::Message(install(2, 2, (4, 2))),
        Event::Message(append(2, 2, (4, 2), &[2, 2], 5)),
    ]);
    assert_eq!(installed(&effects), [end((4, 2))]);
    assert_eq!(node.pending[0].reset, Some(end((4, 2))));
    assert_eq!(node.pending[0].entries, entries(5, &[2, 2]));
    assert_eq!(node.applied, entries(5, &[2]));
}

/// The state machine may still be busy with earlier entries: its reports change nothing and do not
/// block later entries.
#[test]
fn late_reports_of_what_was_applied_before_the_snapshot_change_nothing() {
    let mut node = Node::with(3, |config| config.apply_bytes_max = 1);
    node.run([Event::Message(append(2, 1, (0, 0), &[1; 4], 4))]);
    assert_eq!(node.applied.len(), 1, "one at a time");
    node.run([Event::Message(install(2, 1, (9, 1)))]);
    node.receive(append(2, 1, (9, 1), &[1, 1], 11));
    assert_eq!(node.applied.last().map(|it| it.index), Some(Index(10)), "1 is not waited for");
    node.run([Event::Applied(Index(1)), taken((1, 1))]);
    assert_eq!(snapshot_index(&node), 9, "an older one is not news");
    assert_eq!(node.applied.last().map(|it| it.index), Some(Index(10)));
    node.run([Event::Applied(Index(10))]);
    assert_eq!(node.applied.last().map(|it| it.index), Some(Index(11)));
}

/// Thesis §5.1.3: a leader keeps some entries that are applied, so that a follower that is a little
/// behind does not need the snapshot.
#[test]
fn a_tail_of_what_was_applied_is_kept() {
    // An entry costs 48 bytes, and its command 3.
    for (tail_bytes, kept) in [(0, 0), (50, 0), (51, 1), (102, 2), (152, 2), (1 << 20, 5)] {
        let mut node = Node::with(3, |config| keep_tail(config, tail_bytes));
        node.run([Event::Message(append(2, 1, (0, 0), &[1; 8], 5))]);
        node.run([applied(5), taken((5, 1))]);
        // As the leader of term 2 it is asked for the entries that a peer lacks.
        node.lead();
        let base = 5 - kept;
        let effects = node.run([Event::Message(matched(2, 2, base))]);
        assert_eq!(snapshots_to(&effects), NOBODY, "{tail_bytes}");
        assert_eq!(appends_to(2, &effects)[0].entries[0].index, Index(base + 1), "{tail_bytes}");
        if base > 0 {
            let effects = node.run([Event::Message(matched(3, 2, base - 1))]);
            assert_eq!(snapshots_to(&effects), [3], "{tail_bytes}: {base} is not sent any more");
        }
    }
}

/// An entry that is not committed is never forgotten, and a snapshot older than the last is not
/// sent.
#[test]
fn an_older_snapshot_changes_nothing() {
    let mut node = compacted();
    node.run([taken((3, 1))]);
    assert_eq!(snapshot_index(&node), 5);
    node.lead();
    let effects = node.run([Event::Message(matched(2, 2, 5)), Event::Message(matched(3, 2, 4))]);
    let first = appends_to(2, &effects)[0].entries[0].clone();
    assert_eq!((first.index, first.term), (Index(6), Term(1)));
    assert_eq!(snapshots_to(&effects), [3]);
}

/// The memory does not wait for snapshots. The disk does.
#[test]
fn what_was_applied_is_forgotten_without_a_snapshot() {
    let mut leader = leader();
    assert_eq!(released(&leader.run([applied(5)])), NOBODY);
    let effects = leader.run([Event::Message(conflict(3, 1, 0, (0, 0)))]);
    assert_eq!((snapshots_to(&effects), appends_to(3, &effects)), (vec![], vec![]));
    assert_eq!(asked(&effects), 1, "what the peer lacks is nowhere else");
}

/// A snapshot has to name its cluster. Before the cluster has an id there is none, and what a peer
/// lacks is in the log alone.
#[test]
fn nothing_is_forgotten_before_a_snapshot_could_take_its_place() {
    let mut leader = leader_with(|config| config.log_tail_bytes_max = 0);
    let effects = leader.run([applied(5), Event::Message(conflict(3, 1, 0, (0, 0)))]);
    assert_eq!((asked(&effects), appends_to(3, &effects)[0].entries.len()), (0, 5));
}

/// §7: the log goes on behind a snapshot that is sent. Otherwise the peer would need another one as
/// soon as it has this one.
#[test]
fn a_snapshot_that_the_log_does_not_follow_is_not_sent_but_replaced() {
    let mut leader = leader();
    leader.run([applied(3), taken((3, 1)), applied(5)]);
    let effects = leader.run([Event::Message(conflict(3, 1, 0, (0, 0)))]);
    assert_eq!((snapshots_to(&effects), asked(&effects)), (vec![], 1));
    let effects = leader.run([taken((4, 1))]);
    assert_eq!((snapshots_to(&effects), asked(&effects)), (vec![], 1), "it began before that");
    let effects = leader.run([taken((5, 1))]);
    assert_eq!((snapshots_to(&effects), asked(&effects)), (vec![3], 0));
}

/// Each time after twice as many heartbeats, and not for a peer that does not answer them.
#[test]
fn a_snapshot_that_does_not_come_is_asked_for_again() {
    let mut leader = leader();
    leader.run([applied(5), Event::Message(conflict(3, 1, 0, (0, 0)))]);
    let mut heartbeat = |events: &[Event]| {
        leader.run([matched(2, 1, 5)].map(Event::Message));
        leader.run(events.iter().cloned());
        asked(&leader.tick(5))
    };
    let answer = [Event::Message(heartbeat_reply(3, 1, 1))];
    let counts: Vec<usize> = (0..7).map(|_| heartbeat(&answer)).collect();
    assert_eq!(counts, [1, 0, 1, 0, 0, 0, 1]);
    assert_eq!(heartbeat(&[Event::Disconnected(MemberId(3))]), 0);
    assert_eq!((0..20).map(|_| heartbeat(&[])).sum::<usize>(), 0, "the peer may be dead");
    assert_eq!(heartbeat(&answer), 1);
}

/// Entries 6 to 9 are proposed, committed with member 2 and applied.
fn go_on(leader: &mut Node) {
    leader.run((6..=9).map(proposal));
    leader.run([Event::Message(matched(2, 1, 9))]);
    leader.run([applied(9)]);
}

/// Otherwise it would need the next snapshot as soon as it has this one, and so on.
#[test]
fn what_follows_a_snapshot_stays_until_the_peer_has_it() {
    let mut sent = sending_while_it_keeps(1 << 20);
    go_on(&mut sent);
    let mut awaited = leader_that_keeps(1 << 20);
    awaited.run([applied(5)]);
    assert_eq!(asked(&awaited.run([Event::Message(conflict(3, 1, 0, (0, 0)))])), 1);
    go_on(&mut awaited);
    assert_eq!(snapshots_to(&awaited.run([taken((5, 1))])), [3]);
    for mut leader in [sent, awaited] {
        // A newer snapshot changes nothing.
        leader.run([taken((9, 1))]);
        let effects = leader.run([Event::Message(matched(3, 1, 5))]);
        assert_eq!(appends_to(3, &effects)[0].entries[0].index, Index(6));
        // Nor is anything forgotten that the peer has not acknowledged.
        leader.run([Event::Message(matched(3, 1, 7))]);
        leader.run([Event::Message(conflict(3, 1, 9, (7, 1)))]);
        let effects = leader.run([Event::Message(heartbeat_reply(3, 1, 1))]);
        assert_eq!((snapshots_to(&effects), asked(&effects)), (vec![], 0));
    }
}

#[test]
fn nothing_is_kept_for_a_peer_that_is_lost() {
    let mut leader = sending_while_it_keeps(1 << 20);
    leader.run([Event::Disconnected(MemberId(3))]);
    go_on(&mut leader);
    leader.run([Event::Message(heartbeat_reply(3, 1, 1))]);
    assert_eq!(asked(&leader.tick(5)), 1, "the snapshot up to 5 is of no more use");
}

/// A peer that is slow for long, or takes a large snapshot while much is written, costs a bounded
/// amount of memory. An entry costs 48 bytes, and its command 9.
#[test]
fn what_is_kept_for_peers_has_a_bound() {
    for (bytes, is_there) in [(4 * 57, true), (4 * 57 - 1, false)] {
        let mut leader = sending_while_it_keeps(bytes);
        go_on(&mut leader);
        let effects = leader.run([Event::Message(matched(3, 1, 5))]);
        let appends = appends_to(3, &effects).len();
        assert_eq!((appends, asked(&effects)), if is_there { (1, 0) } else { (0, 1) }, "{bytes}");
    }
}

fn released(effects: &[Effect]) -> Vec<u64> {
    let index = |effect: &Effect| match effect {
        Effect::ReleaseLog(index) => Some(index.0),
        _ => None,
    };
    effects.iter().filter_map(index).collect()
}

/// §7: a snapshot lets the log discard the entries that it holds, on the disk as well. Nothing else
/// does: not an entry that was applied, nor a snapshot that only arrived.
#[test]
fn the_log_is_released_up_to_a_snapshot_that_was_taken() {
    let mut node = Node::new(3);
    node.run([Event::Message(append(2, 1, (0, 0), &[1; 6], 5))]);
    assert_eq!(released(&node.run([applied(5)])), NOBODY, "no snapshot holds them");
    assert_eq!(released(&node.run([taken((3, 1))])), [3]);
    let effects = node.run([Event::Message(install(2, 1, (4, 1)))]);
    assert_eq!(released(&effects), NOBODY, "the log has what is in it, and goes on");
    // Before the writes of the same step, which go on behind it.
    let effects = node.step([taken((5, 1)), Event::Message(install(2, 1, (9, 1)))]);
    let [Effect::ReleaseLog(Index(5)), Effect::Install(_), Effect::Persist(persist)] = &effects[..]
    else {
        panic!("{effects:?}")
    };
    assert_eq!(persist.reset, Some(end((9, 1))), "a reset releases the rest");
    // One that was written while the newer one arrived releases no more than it holds.
    assert_eq!(released(&node.run([taken((4, 1))])), [4]);
}

#[test]
#[should_panic(expected = "a snapshot holds what was applied, no more")]
fn a_log_is_not_released_past_what_was_applied() {
    let mut node = Node::new(3);
    node.run([Event::Message(append(2, 1, (0, 0), &[1; 6], 5))]);
    node.run([taken((6, 1))]);
}

/// The log continues from its beginning with the term of the last forgotten entry (§5.3).
#[test]
fn the_first_append_behind_the_snapshot_names_the_term_it_ends_with() {
    let mut node = Node::with(3, |config| keep_tail(config, 0));
    node.receive(append(2, 3, (0, 0), &[1, 1, 2, 3], 3));
    node.run([applied(3), taken((3, 2))]);
    node.lead();
    let effects = node.run([Event::Message(matched(2, 4, 3))]);
    let first = &appends_to(2, &effects)[0];
    assert_eq!((first.prev_log_index, first.prev_log_term), (Index(3), Term(2)));
}

/// An append may begin with entries that are forgotten here: they are committed, and match
/// (§5.4.3).
#[test]
fn an_append_that_begins_below_the_log_adds_what_is_new() {
    let mut node = compacted();
    let reply = node.answer(append(2, 1, (2, 1), &[1; 5], 7));
    assert_eq!(append_reply(&reply), AppendEntriesReply::Matched { match_index: Index(7) });
    assert_eq!((node.last(), node.commit(), node.nonsense()), (7, 7, 0));
    let reply = node.answer(append(2, 1, (0, 0), &[1; 3], 7));
    assert_eq!(append_reply(&reply), AppendEntriesReply::Matched { match_index: Index(3) });
    assert_eq!((node.last(), node.commit(), node.nonsense()), (7, 7, 0));
}

/// Restart: the snapshot is the committed state, and the log continues after it.
#[test]
fn a_member_starts_from_its_snapshot_and_what_the_log_has_behind_it() {
    let check = |log: &[u64], last: u64, durable: u64| {
        let hard_state = HardState { current_term: Term(3), voted_for: None };
        let disk = entries(1, log);
        let mut node = Node::start(config(1, 3), hard_state, Some(end((4, 2))), disk);
        let status = node.raft.status();
        assert_eq!((status.commit_index, snapshot_index(&node)), (Index(4), 4), "{log:?}");
        assert_eq!((status.last_index.0, status.durable_index.0), (last, durable), "{log:?}");
        assert_eq!(node.run([]), [], "nothing is applied again");
        // Votes: the log ends at least with the snapshot's term (§5.4.1).
        let last_term = if last > 4 { 3 } else { 2 };
        assert!(!is_vote_granted(&node.answer(vote(2, 4, (last - 1, last_term)))), "{log:?}");
        assert!(!is_vote_granted(&node.answer(vote(2, 4, (99, 1)))), "{log:?}");
        assert!(is_vote_granted(&node.answer(vote(2, 4, (last, last_term)))), "{log:?}");
    };
    check(&[], 4, 4);
    check(&[1, 1, 2, 2, 2, 3], 6, 6);
    check(&[1, 1, 2], 4, 4);
    check(&[1, 1, 1, 1, 1], 4, 4);
}

/// A snapshot may be on disk before the term in which it was sent, or before the write of its
/// entries is done. A member that starts with it takes its term, in which it has promised nothing.
#[test]
fn a_snapshot_of_a_term_that_is_not_on_the_disk_yet_brings_its_term() {
    let hard_state = HardState { current_term: Term(1), voted_for: Some(MemberId(3)) };
    let mut node = Node::start(config(1, 3), hard_state, Some(end((4, 2))), entries(1, &[1, 1]));
    assert_eq!((node.term(), node.last(), node.commit()), (2, 4, 4));
    assert_eq!(sent(&node.step([Event::Message(vote(2, 2, (4, 2)))])), [], "not before it is");
    let said = sent(&node.persist_one());
    assert!(said.iter().any(is_vote_granted), "{said:?}");
    assert_eq!(node.hard_state, HardState { current_term: Term(2), voted_for: Some(MemberId(2)) });
}

/// Thesis §6.4: a new leader serves the state of a snapshot once its no-op is committed.
#[test]
fn a_leader_serves_reads_from_what_it_has_installed() {
    let mut node = Node::new(3);
    node.run([Event::Message(install(2, 3, (4, 2)))]);
    let asked = node.stand();
    let is_right = |message: &Message| match message.body {
        Body::Request(Request::RequestVote(RequestVote {
            last_log_index, last_log_term, ..
        })) => (last_log_index, last_log_term) == (Index(4), Term(2)),
        _ => true,
    };
    assert!(asked.iter().all(is_right), "{asked:?}");
    node.run([Event::Message(vote_reply(2, 4, false, true)), read(1)]);
    assert_eq!((node.role(), node.last()), (RoleName::Leader, 5));
    let effects = node.run([Event::Message(matched(2, 4, 5))]);
    assert!(!effects.iter().any(|it| matches!(it, Effect::ReadReady(_))));
    let effects = node.run([Event::Message(heartbeat_reply(2, 4, 2))]);
    assert!(effects.contains(&Effect::ReadReady(vec![RequestId(1)])), "{effects:?}");
}

/// Terms do not fall along a log, and no leader has entries of a later term.
#[test]
fn a_snapshot_that_nobody_can_have_taken_is_dropped_and_counted() {
    for last in [(9, 6), (9, 1), (u64::MAX, 5), (1 << 63, 5), (1, 6)] {
        let mut node = Node::restarted(3, 5, None, &[1, 2, 2]);
        node.receive(heartbeat(2, 5, 2, 1));
        assert_eq!(node.receive(install(2, 5, last)), [], "{last:?}");
        assert_eq!((node.nonsense(), node.last(), node.commit()), (1, 3, 2), "{last:?}");
    }
}

/// A candidate yields to the sender, as to any leader of its term (§5.2). From another leader it is
/// nonsense.
#[test]
fn a_snapshot_shows_who_leads() {
    let mut node = Node::new(3);
    node.stand();
    node.receive(install(2, 1, (4, 1)));
    assert_eq!((node.role(), node.leader(), node.commit()), (RoleName::Follower, Some(2), 4));
    node.receive(install(3, 1, (5, 1)));
    assert_eq!((node.nonsense(), node.commit()), (1, 4));
}
