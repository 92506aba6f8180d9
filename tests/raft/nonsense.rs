//! Whatever arrives from outside, the core neither panics nor breaks its own promises.

use bytes::Bytes;
use proptest::prelude::*;
use syncraft::raft::*;

use crate::node::*;

/// From nobody, addressed to other members, or from the member itself.
#[test]
fn what_is_not_from_somebody_else_to_this_member_is_dropped_and_counted() {
    let mut node = Node::new(3);
    let message = vote(2, 5, (9, 9));
    for (from, to) in [(0, 1), (1, 1), (2, 3), (2, 0)] {
        let stray = Message { from: MemberId(from), to: MemberId(to), ..message.clone() };
        assert_eq!(node.receive(stray), []);
    }
    assert_eq!((node.nonsense(), node.term()), (4, 0));
}

/// Entries that leave gaps, whose terms fall, or that are of a future term.
#[test]
fn entries_that_do_not_follow_each_other_are_dropped_and_counted() {
    let broken: [fn(&mut AppendEntries); 5] = [
        |request| request.entries[1].index = Index(9),
        |request| request.entries.swap(0, 1),
        |request| request.entries[2].term = Term(1),
        |request| request.entries[2].term = Term(6),
        |request| request.prev_log_index = Index(u64::MAX),
    ];
    for (case, breaks) in broken.iter().enumerate() {
        let mut node = Node::new(3);
        let mut message = append(2, 5, (0, 0), &[2, 2, 2], 3);
        let Body::Request(Request::AppendEntries(request)) = &mut message.body else {
            unreachable!()
        };
        breaks(request);
        assert_eq!(node.receive(message), [], "case {case}");
        assert_eq!((node.nonsense(), node.last(), node.commit()), (1, 0, 0), "case {case}");
    }
}

/// Committed entries match, so their term is not compared. But terms must not fall where the new
/// entries join.
#[test]
fn entries_with_a_term_that_falls_are_dropped_and_counted() {
    let mut node = Node::restarted(3, 5, None, &[1, 5]);
    node.receive(heartbeat(2, 5, 2, 1));
    assert_eq!(node.receive(append(2, 5, (2, 1), &[2], 0)), []);
    assert_eq!((node.nonsense(), node.terms()), (1, vec![1, 5]));
}

/// Answers to messages that were never sent.
#[test]
fn answers_to_what_was_never_sent_are_dropped_and_counted() {
    let mut node = Node::new(3);
    node.lead();
    node.receive(matched(2, 1, 2));
    node.receive(heartbeat_reply(2, 1, 9));
    assert_eq!((node.nonsense(), node.commit()), (2, 0));
    node.receive(conflict(2, 1, u64::MAX, (u64::MAX, u64::MAX)));
    assert_eq!(node.role(), RoleName::Leader);
}

/// One bad message must not use up all terms: a term out of reach is nonsense.
#[test]
fn a_term_out_of_reach_is_dropped_and_counted() {
    for message in every_message(u64::MAX).into_iter().chain([pre_vote(2, u64::MAX, (0, 0))]) {
        for mut node in [Node::new(3), Node::restarted(3, 7, None, &[7])] {
            let before = node.raft.status();
            assert_eq!(node.receive(message.clone()), []);
            assert_eq!(node.raft.status(), Status { nonsense_count: 1, ..before });
            node.lead();
        }
    }
}

/// Small numbers, which sometimes make sense, and extreme ones.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![12 => 0..8u64, 1 => Just(u64::MAX), 1 => Just(u64::MAX - 1), 1 => any::<u64>()]
}

fn body() -> impl Strategy<Value = Body> {
    let entry = (number(), number()).prop_map(|(index, term)| Entry {
        index: Index(index),
        term: Term(term),
        payload: Payload::Command(Bytes::from_static(b"x")),
    });
    prop_oneof![
        (any::<bool>(), number(), number()).prop_map(|(pre_vote, index, term)| {
            let (last_log_index, last_log_term) = (Index(index), Term(term));
            Body::Request(Request::RequestVote(RequestVote {
                pre_vote,
                is_transfer: false,
                last_log_index,
                last_log_term,
            }))
        }),
        (any::<bool>(), any::<bool>()).prop_map(|(pre_vote, vote_granted)| {
            Body::Reply(Reply::RequestVote(RequestVoteReply {
                pre_vote,
                vote_granted,
                is_removed: false,
            }))
        }),
        (number(), number(), proptest::collection::vec(entry, 0..4), number()).prop_map(
            |(index, term, entries, commit)| Body::Request(Request::AppendEntries(AppendEntries {
                prev_log_index: Index(index),
                prev_log_term: Term(term),
                entries,
                leader_commit: Index(commit),
            }))
        ),
        (number(), number(), number(), proptest::collection::vec(0..3u64, 0..4)).prop_map(
            |(index, term, commit, steps)| {
                // Entries that do follow each other.
                let mut last = term;
                let terms: Vec<u64> = steps
                    .iter()
                    .map(|step| {
                        last = last.saturating_add(*step);
                        last
                    })
                    .collect();
                append(2, 0, (index.min(u64::MAX - 9), term), &terms, commit).body
            }
        ),
        (number(), number(), number(), 0..3).prop_map(|(a, b, c, kind)| {
            Body::Reply(Reply::AppendEntries(match kind {
                0 => AppendEntriesReply::Matched { match_index: Index(a) },
                1 => AppendEntriesReply::Conflict {
                    rejected_index: Index(a),
                    conflict_index: Index(b),
                    conflict_term: Term(c),
                },
                _ => AppendEntriesReply::Stale,
            }))
        }),
        (number(), number()).prop_map(|(commit, round)| {
            Body::Request(Request::Heartbeat(Heartbeat { leader_commit: Index(commit), round }))
        }),
        (number(), number())
            .prop_map(|last| Body::Request(Request::InstallSnapshot(snapshot_of(end(last))))),
        (number(), number(), any::<bool>()).prop_map(|(round, promised_us, cannot_write)| {
            Body::Reply(Reply::Heartbeat(HeartbeatReply { round, promised_us, cannot_write }))
        }),
        number().prop_map(|batch| Body::Request(Request::ReadIndex(ReadIndex { batch }))),
        (number(), proptest::option::of(place())).prop_map(|(batch, committed)| {
            Body::Reply(Reply::ReadIndex(ReadIndexReply { batch, committed }))
        }),
        (number(), any::<bool>()).prop_map(|(question, is_stranger)| {
            Body::Request(Request::Join(Join { question, is_stranger }))
        }),
        (number(), any::<bool>(), proptest::option::of(place())).prop_map(
            |(question, is_new, last)| Body::Reply(Reply::Join(JoinReply {
                last,
                ..standpoint(question, is_new)
            }))
        ),
        Just(Body::Request(Request::TimeoutNow)),
    ]
}

fn place() -> impl Strategy<Value = (Index, Term)> {
    (number(), number()).prop_map(|(index, term)| (Index(index), Term(term)))
}

#[derive(Clone, Debug)]
enum Input {
    Event(Event),
    PersistOne,
    Campaign,
    ApplyAll,
    /// Of the last applied entry, or of one before.
    TakeSnapshot(usize),
}

fn input() -> impl Strategy<Value = Input> {
    let message = (0..4u64, 0..5u64, number(), body()).prop_map(|(from, to, term, body)| {
        let (from, to) = (MemberId(from), MemberId(to.min(1)));
        Input::Event(Event::Message(Message { from, to, term: Term(term), token: 1, body }))
    });
    prop_oneof![
        20 => message,
        2 => Just(Input::Event(Event::Tick)),
        2 => Just(Input::Campaign),
        4 => Just(Input::PersistOne),
        1 => Just(Input::ApplyAll),
        2 => (0..3usize).prop_map(Input::TakeSnapshot),
        2 => any::<u64>().prop_map(|id| Input::Event(proposal(id))),
        1 => (any::<u64>(), any::<bool>()).prop_map(|(id, is_time)| {
            let (id, command) = (RequestId(id), Bytes::from_static(b"stamped"));
            Input::Event(match is_time {
                true => Event::ProposeTime { id, command },
                false => Event::ProposeStamped { id, command },
            })
        }),
        2 => any::<u64>().prop_map(|id| Input::Event(read(id))),
        1 => (0..4u64).prop_map(|peer| Input::Event(Event::Disconnected(MemberId(peer)))),
        1 => number().prop_map(|now_us| Input::Event(Event::Clock(now_us))),
        1 => any::<bool>().prop_map(|is_full| Input::Event(Event::DiskFull(is_full))),
    ]
}

/// Helps an election along, so that leaders are fuzzed too.
fn campaign(node: &mut Node) {
    if node.role() == RoleName::Follower {
        node.time_out();
    }
    for pre_vote in [true, false] {
        let term = node.term() + u64::from(pre_vote);
        node.run([Event::Message(vote_reply(2, term, pre_vote, true))]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 3_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Peers that say anything at all neither bring a member down nor make it break its promises.
    #[test]
    fn no_message_brings_a_member_down(
        inputs in proptest::collection::vec(input(), 1..60),
        tail_bytes in prop_oneof![Just(0), Just(100), Just(1 << 20)],
        cluster_id in 0..2u64,
        lease in any::<bool>(),
        standing in prop_oneof![
            Just(Standing::Voter), Just(Standing::New), Just(Standing::Rebuilding)
        ],
    ) {
        let mut node = Node::with(3, |config| {
            (config.cluster_id, config.log_tail_bytes_max) = (cluster_id, tail_bytes);
            (config.lease, config.standing) = (lease, standing);
        });
        for input in inputs {
            let before = node.raft.status();
            match input {
                Input::Event(event) => drop(node.step([event])),
                Input::PersistOne => drop(node.persist_one()),
                Input::Campaign => campaign(&mut node),
                Input::TakeSnapshot(back) => {
                    let last = node.applied.iter().rev().nth(back);
                    if let Some(last) = last.map(|entry| (entry.index.0, entry.term.0)) {
                        node.step([Event::SnapshotTaken(end(last))]);
                    }
                }
                Input::ApplyAll => drop(node.step([Event::Applied(before.commit_index)])),
            }
            let after = node.raft.status();
            prop_assert!(after.role.term >= before.role.term);
            prop_assert!(after.commit_index >= before.commit_index);
            prop_assert!(after.commit_index <= after.last_index);
            let last = node.log.last().map_or(after.snapshot_index, |entry| entry.index);
            prop_assert_eq!(after.last_index, last);
            prop_assert!(after.snapshot_index >= before.snapshot_index);
            prop_assert!(after.snapshot_index <= after.commit_index);
            prop_assert!(node.terms().is_sorted());
        }
    }
}
