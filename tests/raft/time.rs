//! The cluster's time: who stamps, when, and with what.

use bytes::Bytes;
use syncraft::raft::*;

use super::node::*;

const STAMPED: &[u8] = b"stamped";

fn clock(now_ms: u64) -> Event {
    Event::Clock(now_ms * 1000)
}

fn stamped(id: u64) -> Event {
    Event::ProposeStamped { id: RequestId(id), command: Bytes::from_static(STAMPED) }
}

fn tell_time(id: u64) -> Event {
    Event::ProposeTime { id: RequestId(id), command: Bytes::from_static(STAMPED) }
}

/// The state machine has applied everything up to `index`, a stamp among it, and says this of the
/// time.
fn applied(index: u64, newest_ms: u64, next_deadline_ms: Option<u64>) -> [Event; 2] {
    let time = AppliedTime { newest_ms, next_deadline_ms };
    [Event::AppliedTime { time, is_anew: true }, Event::Applied(Index(index))]
}

/// The stamps of the entries that these effects write.
fn stamps(effects: &[Effect]) -> Vec<u64> {
    let entries = effects.iter().filter_map(|effect| match effect {
        Effect::Persist(persist) => Some(&persist.entries),
        _ => None,
    });
    let stamp = |entry: &Entry| match &entry.payload {
        Payload::Command(command) => {
            let stamp = command.strip_prefix(STAMPED).expect("the command comes first");
            Some(u64::from_le_bytes(stamp.try_into().expect("8 bytes")))
        }
        Payload::Noop | Payload::Configuration(_) => None,
    };
    entries.flatten().filter_map(stamp).collect()
}

fn is_busy(effects: &[Effect], id: u64) -> bool {
    let busy = Effect::Rejected { id: RequestId(id), reason: Rejection::Busy };
    effects.contains(&busy)
}

/// Time passes at a member, in steps of 10 ms.
fn pass(node: &mut Node, from_ms: u64, to_ms: u64) {
    (from_ms..=to_ms).step_by(10).for_each(|now_ms| drop(node.run([clock(now_ms)])));
}

/// By the last reading of the clock.
fn is_time_due(node: &Node) -> bool {
    node.raft.is_time_due(0, None)
}

/// A leader of three whose no-op is committed, and applied as the shell will say.
fn leader() -> Node {
    let mut node = Node::new(3);
    node.run([clock(1_000)]);
    node.lead();
    node.receive(matched(2, 1, 1));
    node
}

#[test]
fn a_leader_stamps_once_its_own_noop_is_applied() {
    let mut node = leader();
    assert!(is_busy(&node.run([stamped(1)]), 1));
    node.run(applied(1, 0, None));
    assert_eq!(stamps(&node.run([stamped(2)])), [0]);
    pass(&mut node, 1_010, 1_500);
    assert_eq!(stamps(&node.run([clock(1_507), stamped(3), stamped(4)])), [507, 507]);
    let effects = Node::new(3).run([stamped(1)]);
    let reason = Rejection::NotLeader(None);
    assert!(effects.contains(&Effect::Rejected { id: RequestId(1), reason }));
}

/// What a follower has learned from the stamps of a leader goes on when it leads: the time in which
/// it heard the leader counts, and the time of the election does not.
#[test]
fn a_new_leader_goes_on_where_the_last_one_was_heard() {
    let mut node = Node::new(3);
    node.run([clock(1_000)]);
    node.receive(append(2, 1, (0, 0), &[1], 1));
    node.run(applied(1, 70_000, Some(90_000)));
    pass(&mut node, 1_010, 3_000);
    node.receive(heartbeat(2, 1, 1, 1));
    // The leader dies.
    pass(&mut node, 3_010, 60_000);
    node.lead();
    let term = node.term();
    node.receive(matched(2, term, 2));
    assert!(is_busy(&node.run([stamped(1)]), 1), "its own no-op is not applied");
    // The no-op has no stamp.
    node.run([Event::Applied(Index(2))]);
    assert_eq!(stamps(&node.run([stamped(2)])), [72_000]);
}

/// A machine that was suspended, or whose clock was set, counts nothing for it. Neither does it
/// step its stamps back.
#[test]
fn jumps_of_the_clock_count_nothing() {
    let mut node = leader();
    node.run(applied(1, 0, None));
    pass(&mut node, 1_010, 2_000);
    assert_eq!(stamps(&node.run([clock(7_200_000), stamped(1)])), [1_000]);
    assert_eq!(stamps(&node.run([clock(1_000), stamped(2)])), [1_000]);
    assert_eq!(stamps(&node.run([clock(1_100), stamped(3)])), [1_100]);
}

#[test]
fn the_time_is_told_when_something_is_due_one_entry_at_a_time() {
    let mut node = leader();
    assert!(!is_time_due(&node));
    node.run(applied(1, 0, Some(500)));
    assert!(is_time_due(&node), "a new leader tells it at once");
    assert_eq!(stamps(&node.run([tell_time(1)])), [0]);
    pass(&mut node, 1_010, 1_600);
    assert!(!is_time_due(&node), "the entry is not applied yet");
    node.receive(matched(2, 1, 2));
    node.run(applied(2, 0, Some(500)));
    assert!(is_time_due(&node));
    assert_eq!(stamps(&node.run([tell_time(2)])), [600]);
    node.receive(matched(2, 1, 3));
    node.run(applied(3, 600, None));
    pass(&mut node, 1_610, 30_000);
    assert!(!is_time_due(&node), "without deadlines nothing is written");
}

/// The shell gathers what has happened before the core reads the clock.
#[test]
fn what_is_due_soon_is_judged_by_the_reading_of_now() {
    let mut node = leader();
    node.run(applied(1, 0, Some(500)));
    // The time is 0 at 1,000 ms, and soon is 100 ms: two heartbeats.
    let soon = |node: &Node, now_ms: u64| node.raft.is_any_due_soon(now_ms * 1000, None);
    assert_eq!([1_000, 1_399, 1_400].map(|now_ms| soon(&node, now_ms)), [false, false, true]);
    let news = |deadline_ms| AppliedTime { newest_ms: 0, next_deadline_ms: Some(deadline_ms) };
    assert!(node.raft.is_any_due_soon(1_000_000, Some(news(100))));
    assert!(!node.raft.is_any_due_soon(1_400_000, Some(news(501))));
    node.run([clock(1_200)]);
    assert_eq!([1_399, 1_400].map(|now_ms| soon(&node, now_ms)), [false, true]);
    assert!(!soon(&Node::new(3), 1_400), "it does not lead");
}
