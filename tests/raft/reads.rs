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

/// "If the leader has not yet marked an entry from its current term committed, it waits until it
/// has done so."
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

/// A member answers a heartbeat of an earlier term with its own, later term. If the sender leads
/// again in that term, the answer has the right term, but its round was counted in the earlier one:
/// it must confirm nothing.
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

/// All waiting reads share one round: those of one step, and those that arrive while rounds are
/// under way, until they are as many as those ahead of them.
#[test]
fn reads_share_rounds() {
    let mut node = serving();
    let effects = node.run((0..50).map(read));
    assert_eq!(rounds(&sent(&effects)).len(), 1);
    for id in 50..99 {
        assert_eq!(rounds(&sent(&node.run([read(id)]))), NONE, "these wait");
        assert!(node.raft.holds_reads());
    }
    let second = rounds(&sent(&node.run([read(99)])));
    assert_eq!(second.len(), 1, "as many as are ahead");
    let effects = node.run((100..300).map(read));
    assert_eq!(rounds(&sent(&effects)), NONE, "two rounds are the most");
    let effects = node.run([Event::Message(heartbeat_reply(2, 1, second[0]))]);
    assert_eq!(ready(&effects), (0..100).collect::<Vec<_>>(), "a later round confirms the earlier");
    let third = rounds(&sent(&effects));
    assert_eq!(third.len(), 1);
    assert_eq!(run(&mut node, heartbeat_reply(3, 1, third[0])), (100..300).collect::<Vec<_>>());
    assert!(!node.raft.holds_reads());
}

/// Reads that are being answered count as those ahead: whoever gets an answer may ask again at
/// once, and then shares the next round.
#[test]
fn reads_wait_for_each_other_while_others_are_being_answered() {
    let mut node = serving();
    let round = rounds(&sent(&node.run((0..3).map(read))))[0];
    assert_eq!(run(&mut node, heartbeat_reply(2, 1, round)), [0, 1, 2]);
    let effects = node.run([Event::Unanswered(3), read(3)]);
    assert_eq!(rounds(&sent(&effects)), NONE);
    let effects = node.run([Event::Unanswered(2), read(4)]);
    let round = rounds(&sent(&effects));
    assert_eq!(round.len(), 1, "two wait, and two are ahead");
    assert_eq!(run(&mut node, heartbeat_reply(2, 1, round[0])), [3, 4]);
    let effects = node.run([Event::Unanswered(9), read(5)]);
    assert_eq!(rounds(&sent(&effects)), NONE);
    assert_eq!(rounds(&sent(&node.run([Event::Unanswered(0)]))).len(), 1, "nobody is ahead");
}

/// A round, or an answer, may be lost: then what is behind it must not wait for it.
#[test]
fn a_read_waits_no_longer_than_a_tick_for_those_ahead() {
    let mut node = serving();
    node.run((0..3).map(read));
    assert_eq!(rounds(&sent(&node.run([read(3)]))), NONE);
    assert_eq!(rounds(&sent(&node.tick(1))).len(), 1);
    assert_eq!(rounds(&sent(&node.run([read(4)]))), NONE, "it has not waited yet");
}

/// A follower asks for all its clients at once, and they have waited there.
#[test]
fn a_followers_question_waits_for_no_other_read() {
    let mut node = serving();
    node.run((0..50).map(read));
    assert_eq!(rounds(&sent(&node.run([Event::Message(read_index(2, 1, 1))]))).len(), 1);
}

/// A lost round costs nothing: the answer to any later heartbeat confirms it too.
#[test]
fn a_later_heartbeat_confirms_a_lost_round() {
    let mut node = serving();
    node.run([read(1)]);
    let regular = rounds(&sent(&node.tick(5)))[0];
    assert_eq!(run(&mut node, heartbeat_reply(2, 1, regular)), [1]);
}

/// A read sees everything that was committed when it arrived, so it is ready after all of that was
/// handed out.
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

/// A leader that steps down gives its reads back, because it cannot know whether they were current.
/// A member that knows no leader takes no reads.
#[test]
fn a_leader_that_steps_down_gives_its_reads_back() {
    let mut node = serving();
    node.run([read(1)]);
    node.run([read(2)]);
    node.run([read(3)]);
    let effects = node.run([Event::Message(heartbeat(2, 4, 0, 1))]);
    let not_leader = |leader| Rejection::NotLeader(leader);
    assert_eq!(rejected(&effects), [1, 2, 3].map(|id| (id, not_leader(None))));
    node.run([Event::Disconnected(MemberId(2))]);
    assert_eq!(rejected(&node.run([read(4)])), [(4, not_leader(None))]);
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

/// The questions about reads among the sent messages.
fn questions(effects: &[Effect]) -> Vec<u64> {
    let question = |message: &Message| match message.body {
        Body::Request(Request::ReadIndex(ReadIndex { batch })) => Some(batch),
        _ => None,
    };
    sent(effects).iter().filter_map(question).collect()
}

/// A follower of leader 2 in term 1, whose log and state hold two entries.
fn following() -> Node {
    let mut node = Node::new(3);
    node.receive(append(2, 1, (0, 0), &[1, 1], 2));
    node
}

fn ask(node: &mut Node, id: u64) -> u64 {
    questions(&node.run([read(id)]))[0]
}

/// A follower serves a read once it has applied everything that the leader had committed after the
/// read came.
#[test]
fn a_follower_serves_a_read_that_the_leader_has_confirmed() {
    let mut node = following();
    let batch = ask(&mut node, 1);
    assert_eq!(run(&mut node, read_index_reply(2, 1, batch, Some((2, 1)))), [1]);
    let batch = ask(&mut node, 2);
    assert_eq!(run(&mut node, read_index_reply(2, 1, batch, Some((3, 1)))), NONE, "not yet there");
    assert_eq!(
        run(&mut node, append(2, 1, (2, 1), &[1], 2)),
        [2],
        "the answer said that 3 is committed"
    );
}

/// An entry that the leader calls committed is committed here only if it is the same entry.
#[test]
fn a_follower_commits_what_it_is_told_only_where_its_log_matches() {
    let mut node = Node::new(3);
    node.receive(append(2, 1, (0, 0), &[1, 1], 1));
    node.receive(append(3, 2, (1, 1), &[], 1));
    let batch = ask(&mut node, 1);
    assert_eq!(run(&mut node, read_index_reply(3, 2, batch, Some((2, 2)))), NONE);
    assert_eq!(node.commit(), 1, "its own second entry is of term 1");
    assert_eq!(run(&mut node, append(3, 2, (1, 1), &[2], 1)), [1]);
    assert_eq!(node.commit(), 2);
}

/// An answer counts only if its question was asked after the read came, of the leader of this term,
/// and in this life.
#[test]
fn no_other_answer_confirms_a_followers_read() {
    let mut node = following();
    let first = ask(&mut node, 1);
    let second = ask(&mut node, 2);
    assert_eq!(
        run(&mut node, read_index_reply(3, 1, second, Some((2, 1)))),
        NONE,
        "not the leader"
    );
    assert_eq!(
        run(&mut node, read_index_reply(2, 1, second + 1, Some((2, 1)))),
        NONE,
        "never asked"
    );
    assert_eq!(run(&mut node, read_index_reply(2, 1, first, Some((2, 1)))), [1], "not the second");
    assert_eq!(run(&mut node, read_index_reply(2, 1, first, Some((2, 1)))), NONE, "once");
    assert_eq!(run(&mut node, read_index_reply(2, 1, second, Some((2, 1)))), [2]);
    let mut other_life = Node::with(3, |config| config.seed = 1);
    other_life.receive(append(2, 1, (0, 0), &[1, 1], 2));
    assert_ne!(ask(&mut other_life, 1), first, "questions of two lives differ");
}

/// An answer to a later question also confirms reads before earlier questions.
#[test]
fn a_later_answer_confirms_earlier_reads() {
    let mut node = following();
    ask(&mut node, 1);
    let second = ask(&mut node, 2);
    assert_eq!(questions(&node.run([read(3)])), NONE, "two questions at a time");
    assert_eq!(run(&mut node, read_index_reply(2, 1, second, Some((2, 1)))), [1, 2]);
}

/// A question may be lost, or slow to be answered. Then another one is asked, and the first answer
/// that comes counts for the reads before its question.
#[test]
fn a_question_without_an_answer_is_asked_again_for_all() {
    let mut node = following();
    let first = ask(&mut node, 1);
    ask(&mut node, 2);
    let mut again = Vec::new();
    for _ in 0..10 {
        node.run([Event::Message(heartbeat(2, 1, 2, 1))]);
        again.extend(questions(&node.tick(1)));
    }
    assert_eq!(again.len(), 1);
    assert_eq!(run(&mut node, read_index_reply(2, 1, first, Some((2, 1)))), [1], "slow, not lost");
    assert_eq!(run(&mut node, read_index_reply(2, 1, again[0], Some((2, 1)))), [2]);
}

/// Reads get their answer however long it takes, and the member remembers a bounded number of
/// questions.
#[test]
fn answers_that_take_long_are_answers() {
    let mut node = following();
    let mut questions_asked = Vec::new();
    let mut answered = Vec::new();
    for id in 0..40 {
        questions_asked.extend(questions(&node.run([read(id)])));
        for _ in 0..10 {
            node.run([Event::Message(heartbeat(2, 1, 2, 1))]);
            questions_asked.extend(questions(&node.tick(1)));
        }
        // Each answer comes after this many later questions.
        if let Some(at) = questions_asked.len().checked_sub(12) {
            answered
                .extend(run(&mut node, read_index_reply(2, 1, questions_asked[at], Some((2, 1)))));
        }
    }
    assert!(answered.len() >= 20, "{answered:?}");
    assert!(questions_asked.len() <= 160, "{}", questions_asked.len());
}

/// If the leader that was asked is gone, nobody confirms. Confirmed reads stay confirmed.
#[test]
fn a_follower_that_loses_its_leader_gives_its_reads_back() {
    let mut node = following();
    let batch = ask(&mut node, 1);
    run(&mut node, read_index_reply(2, 1, batch, Some((3, 1))));
    node.run([read(2)]);
    let lost = [(2, Rejection::NotLeader(None))];
    assert_eq!(rejected(&node.run([Event::Disconnected(MemberId(2))])), lost);
    node.receive(append(2, 1, (2, 1), &[], 2));
    node.run([read(4)]);
    let new = [(4, Rejection::NotLeader(None))];
    assert_eq!(rejected(&node.run([Event::Message(heartbeat(3, 2, 0, 1))])), new);
    assert_eq!(run(&mut node, append(3, 2, (2, 1), &[1], 3)), [1]);
}

/// The leader answers followers as it serves its own reads: after a round, with the commit index
/// from before it.
#[test]
fn a_leader_answers_followers_after_a_round() {
    let mut node = serving();
    let effects = node.run([Event::Message(read_index(3, 1, 77))]);
    let round = rounds(&sent(&effects))[0];
    let answer = ReadIndexReply { batch: 77, committed: Some((Index(1), Term(1))) };
    let reply = node.answer(heartbeat_reply(2, 1, round));
    assert_eq!(
        (reply.to.0, reply.token, reply.body),
        (3, 7, Body::Reply(Reply::ReadIndex(answer)))
    );
}

#[test]
fn who_cannot_confirm_says_so_at_once() {
    let refusal = Body::Reply(Reply::ReadIndex(ReadIndexReply { batch: 77, committed: None }));
    assert_eq!(following().answer(read_index(3, 1, 77)).body, refusal, "a follower");
    assert_eq!(serving().answer(read_index(3, 0, 77)).body, refusal, "in an earlier term");
    let mut deposed = serving();
    deposed.receive(read_index(3, 1, 77));
    let replies = deposed.receive(heartbeat(2, 2, 0, 1));
    assert!(replies.iter().any(|reply| reply.body == refusal), "{replies:?}");
    let mut busy = Node::with(3, |config| config.reads_max = 1);
    busy.lead();
    busy.receive(read_index(2, 1, 76));
    assert_eq!(busy.answer(read_index(3, 1, 77)).body, refusal, "with too many");
}

/// A follower whose question is refused gives the reads back, to be retried.
#[test]
fn a_refused_question_gives_its_reads_back() {
    let mut node = following();
    let batch = ask(&mut node, 1);
    let effects = node.run([Event::Message(read_index_reply(2, 1, batch, None))]);
    assert_eq!(rejected(&effects), [(1, Rejection::Busy)]);
}

#[test]
fn a_follower_holds_so_many_reads_and_no_more() {
    let mut node = Node::with(3, |config| config.reads_max = 1);
    node.receive(append(2, 1, (0, 0), &[1, 1], 2));
    let batch = ask(&mut node, 1);
    assert_eq!(rejected(&node.run([read(2)])), [(2, Rejection::Busy)]);
    run(&mut node, read_index_reply(2, 1, batch, Some((2, 1))));
    ask(&mut node, 3);
}
