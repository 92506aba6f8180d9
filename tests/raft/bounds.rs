//! Everything that can grow has a bound, and a clear refusal beyond it.

use syncraft::raft::*;

use crate::node::*;

fn is_busy(effects: &[Effect]) -> bool {
    effects.iter().any(|it| matches!(it, Effect::Rejected { reason: Rejection::Busy, .. }))
}

fn leader(change: impl FnOnce(&mut Config)) -> Node {
    let mut node = Node::with(3, change);
    node.lead();
    node.receive(matched(2, 1, 1));
    node
}

/// Proposals not yet committed, by number: the no-op counts as well.
#[test]
fn too_many_uncommitted_proposals_are_refused() {
    let mut node = leader(|config| config.uncommitted_entries_max = 3);
    for id in 0..3 {
        assert!(!is_busy(&node.propose(id)));
    }
    assert!(is_busy(&node.propose(3)));
    assert_eq!(node.last(), 4, "nothing was appended");
    node.receive(matched(2, 1, 2));
    assert!(!is_busy(&node.propose(4)), "one was committed");
    assert!(is_busy(&node.propose(5)));
}

/// ... and by bytes; one proposal alone may exceed the limit.
#[test]
fn too_many_uncommitted_bytes_are_refused() {
    let mut node = leader(|config| config.uncommitted_bytes_max = 100);
    let large = |id| Event::Propose { id: RequestId(id), command: vec![0; 1_000].into() };
    assert!(!is_busy(&node.run([large(1)])));
    assert!(is_busy(&node.run([large(2)])));
    node.receive(matched(3, 1, 2));
    assert!(!is_busy(&node.run([large(3)])));
}

/// Entries of earlier leaders count by number, not by bytes, and their room is given back once.
#[test]
fn the_count_of_bytes_survives_a_change_of_leaders() {
    let mut config = config(1, 3);
    config.uncommitted_bytes_max = 200;
    let hard_state = HardState { current_term: Term(1), voted_for: None };
    let mut node = Node::start(config, hard_state, None, entries(1, &[1; 50]));
    node.lead();
    assert!(!is_busy(&node.propose(1)));
    node.receive(matched(2, 2, 52));
    assert_eq!(node.commit(), 52);
    for id in 0..4 {
        assert!(!is_busy(&node.propose(id)), "{id}");
    }
    assert!(is_busy(&node.propose(9)));
}

/// Reads that wait.
#[test]
fn too_many_reads_are_refused() {
    let mut node = leader(|config| config.reads_max = 2);
    assert!(!is_busy(&node.run([read(1), read(2)])));
    assert!(is_busy(&node.run([read(3)])));
    node.receive(heartbeat_reply(2, 1, 2));
    assert!(!is_busy(&node.run([read(4)])));
}

/// A member that does not lead refuses, and names the leader.
#[test]
fn who_does_not_lead_names_the_leader() {
    let mut node = Node::new(3);
    let rejection = |node: &mut Node| match &node.propose(1)[..] {
        [Effect::Rejected { reason, .. }] => *reason,
        other => panic!("{other:?}"),
    };
    assert_eq!(rejection(&mut node), Rejection::NotLeader(None));
    node.receive(heartbeat(3, 1, 0, 1));
    assert_eq!(rejection(&mut node), Rejection::NotLeader(Some(MemberId(3))));
    node.tick(60);
    assert_eq!(rejection(&mut node), Rejection::NotLeader(None));
    assert_eq!(node.last(), 0);
}

/// Entries handed out and not yet applied: a slow state machine is not flooded.
#[test]
fn what_is_handed_out_waits_for_the_state_machine() {
    let mut node = Node::with(3, |config| config.apply_bytes_max = 120);
    node.receive(append(2, 1, (0, 0), &[1; 6], 6));
    assert_eq!(
        (node.commit(), node.applied.len()),
        (6, 3),
        "two fit; the third is begun by what is left"
    );
    node.run([Event::Applied(Index(1))]);
    let before = node.applied.len();
    node.run([Event::Applied(Index(before as u64))]);
    assert!(before < 6 && node.applied.len() == 6);
    assert_eq!(node.applied, node.log);
}

/// A configuration that cannot work is refused at the start, instead of a panic at the first broken
/// connection.
#[test]
fn a_configuration_that_cannot_work_is_refused_at_the_start() {
    let broken: [fn(&mut Config); 8] = [
        |config| config.heartbeat_ticks = 0,
        |config| config.rare_heartbeat_ticks = config.heartbeat_ticks - 1,
        |config| config.rare_heartbeat_ticks = config.election_ticks_min,
        |config| config.election_ticks_min = config.heartbeat_ticks,
        |config| config.election_ticks_max = config.election_ticks_min - 1,
        |config| config.leader_lost_ticks_max = 1,
        |config| config.apply_bytes_max = 0,
        |config| config.window_messages_max = 0,
    ];
    for (case, breaks) in broken.into_iter().enumerate() {
        let start = std::panic::catch_unwind(|| Node::with(3, breaks));
        assert!(start.is_err(), "case {case}");
    }
    let ahead = std::panic::catch_unwind(|| Node::restarted(3, 1, None, &[1, 2]));
    assert!(ahead.is_err(), "a disk with an entry of a term that it has not reached");
}

/// Committed entries wait for the state machine: behind a slow one they would grow without end.
#[test]
fn a_state_machine_that_falls_behind_stops_proposals() {
    let mut node = Node::with(1, |config| config.unapplied_entries_max = 2);
    node.time_out();
    node.run([]);
    assert!(!is_busy(&node.propose(1)), "the no-op is not applied yet");
    assert!(is_busy(&node.propose(2)), "nor is this");
    node.step([Event::Applied(Index(1))]);
    assert!(!is_busy(&node.propose(3)));
}
