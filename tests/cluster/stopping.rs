//! Nodes that stop or fail: every request ends, and the other members notice at once.

use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use syncraft::kv::Query;
use syncraft::node::{NodeFailure, RequestError, Timing};
use syncraft::raft::{MemberId, RoleName};
use syncraft::server::{Config, Member};
use syncraft::testing::Port;

use crate::nodes::*;

/// Some requests are in the inbox when the node stops, some in the log, and some come later.
#[test]
fn every_request_ends_with_the_node() {
    for _ in 0..10 {
        let mut nodes = Nodes::start(1);
        let handle = nodes.leader();
        // Keeps a handle: otherwise requests in the inbox would end when the last handle is
        // dropped.
        let _kept = handle.clone();
        let begun = Arc::new(AtomicUsize::new(0));
        let ended = Arc::new(AtomicUsize::new(0));
        let proposer = thread::spawn({
            let (begun, ended) = (begun.clone(), ended.clone());
            move || {
                for _ in 0..20_000 {
                    let ended = ended.clone();
                    begun.fetch_add(1, Ordering::SeqCst);
                    let deadline = Instant::now() + TEST_TIMEOUT;
                    handle.propose(Bytes::from_static(b"x"), deadline, move |_| {
                        ended.fetch_add(1, Ordering::SeqCst);
                    });
                }
            }
        });
        until("many requests", || begun.load(Ordering::SeqCst) >= 5_000);
        nodes.nodes.remove(0).stop();
        proposer.join().unwrap();
        assert_eq!(begun.load(Ordering::SeqCst), ended.load(Ordering::SeqCst));
    }
}

/// The state machine panics while requests wait behind it. The node stops and reports it, and the
/// requests end without a promise.
#[test]
fn every_request_ends_when_the_state_machine_fails() {
    let nodes = Nodes::start(1);
    let handle = nodes.leader();
    let ends: Vec<_> = ["panic", "x", "x", "x"].map(|command| propose(&handle, command)).into();
    for end in ends {
        let end = end.recv_timeout(TEST_TIMEOUT).expect("it ends");
        assert!(matches!(end, Err(RequestError::Stopped { .. })), "{end:?}");
    }
    until("the failure is told", || matches!(handle.failure(), Some(NodeFailure::Panicked(_))));
}

/// When a leader stops, its sockets close. No heartbeat may follow that the others would take for
/// its return: they would then need a minute to miss it.
///
/// By chance, another member may lead first, or both others may stand for election at the same
/// moment and then wait for a minute. So there are some attempts.
#[test]
fn followers_notice_at_once_that_a_leader_stops() {
    assert!((0..4).any(|_| is_a_stopped_leader_replaced_at_once()), "no other one leads at once");
}

fn is_a_stopped_leader_replaced_at_once() -> bool {
    const AT_ONCE: Duration = Duration::from_secs(10);
    let ports: Vec<Port> = (0..3).map(|_| Port::free().unwrap()).collect();
    let dir = tempfile::tempdir().unwrap();
    let list = members(&ports);
    let slow = Timing {
        election_min: 2 * TEST_TIMEOUT,
        election_max: 3 * TEST_TIMEOUT,
        ..Timing::default()
    };
    let start = |(index, port): (usize, &Port)| {
        let id = MemberId(index as u64 + 1);
        let timing = if index == 0 { Timing::default() } else { slow };
        let path = dir.path().join(id.to_string());
        let config = Config { timing, ..Config::new(id, list.clone(), path) };
        Member::start_on(port.listen().unwrap(), config).unwrap()
    };
    let mut members: Vec<Member> = ports.iter().enumerate().map(start).collect();
    let all_follow_the_first =
        || members.iter().all(|member| member.node().status().role.leader == Some(MemberId(1)));
    if !is_within(AT_ONCE, all_follow_the_first) {
        return false;
    }
    // Each read sends heartbeats.
    let handle = members[0].node();
    let reader = thread::spawn(move || {
        let (sender, receiver) = std::sync::mpsc::channel();
        loop {
            let sender = sender.clone();
            let query = Query::Get { key: Bytes::from_static(b"k") };
            let deadline = Instant::now() + Duration::from_secs(1);
            handle.read(query, deadline, move |end| {
                let _ = sender.send(end.is_err());
            });
            if receiver.recv().unwrap() {
                break;
            }
        }
    });
    // Each takes the closing server a little time.
    let _idle: Vec<TcpStream> =
        (0..200).map(|_| TcpStream::connect(ports[0].addr()).unwrap()).collect();
    members.remove(0).stop();
    reader.join().unwrap();
    is_within(AT_ONCE, || {
        members.iter().any(|member| member.node().status().role.role == RoleName::Leader)
    })
}

/// Whether `holds` comes true in this time.
fn is_within(time: Duration, holds: impl Fn() -> bool) -> bool {
    let deadline = Instant::now() + time;
    while !holds() {
        if Instant::now() > deadline {
            return false;
        }
        thread::sleep(Duration::from_millis(5));
    }
    true
}
