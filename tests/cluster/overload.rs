//! Too much of everything: large values on slow networks, commands that no frame can carry, full
//! disks, calls that nobody answers.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use syncraft::clerk::Clerk;
use syncraft::front::rpc::KvService;
use syncraft::kv::Store;
use syncraft::kv::api::Api;
use syncraft::kv::proto::{KvServerRpcService, KvServerRpcStub, PutAppendArgs};
use syncraft::members::Members;
use syncraft::node::{COMMAND_LEN_MAX, FRAME_LEN_MIN, Node, NodeConfig, RequestError, Timing};
use syncraft::raft::{MemberId, Standing};
use syncraft::rpc::{CallError, CallOptions, Channel, Framing, Limits, Method, Server, StatusCode};
use syncraft::server::{Config, Member, StartError, list_id};
use syncraft::storage::sim::{Faults, SimDisk};
use syncraft::storage::{DataDir, Identity};
use syncraft::testing::{Cluster, Options, Port};

use crate::nodes::*;

/// For this long, a link may be faster than its rate after it was slower.
const CATCH_UP_MAX: Duration = Duration::from_millis(100);

/// A link to `target` that carries so many bytes a second in each direction of each connection.
fn throttled(target: String, bytes_per_second: u64) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let copy = move |mut from: TcpStream, mut to: TcpStream| {
        let mut buf = vec![0; 32 << 10];
        // The time at which the last byte has passed. If a busy machine sleeps for too long, the
        // next sleeps make up for it.
        let mut passed = Instant::now();
        while let Ok(len) = from.read(&mut buf) {
            if len == 0 || to.write_all(&buf[..len]).is_err() {
                break;
            }
            let now = Instant::now();
            passed = passed.max(now.checked_sub(CATCH_UP_MAX).unwrap_or(now));
            passed += Duration::from_nanos(len as u64 * 1_000_000_000 / bytes_per_second);
            thread::sleep(passed.saturating_duration_since(now));
        }
        let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
    };
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let Ok(to) = TcpStream::connect(&target) else { continue };
            let _ = (stream.set_nodelay(true), to.set_nodelay(true));
            let (back, there) = (stream.try_clone().unwrap(), to.try_clone().unwrap());
            thread::spawn(move || copy(stream, to));
            thread::spawn(move || copy(there, back));
        }
    });
    addr
}

/// A value takes longer than an election timeout to reach the followers: the leader stays the
/// leader.
#[test]
fn a_large_value_over_a_slow_network_costs_no_leader() {
    let ports: Vec<Port> = (0..3).map(|_| Port::free().unwrap()).collect();
    let dir = tempfile::tempdir().unwrap();
    let timing = Timing {
        election_min: Duration::from_millis(2000),
        election_max: Duration::from_millis(3000),
        ..Timing::default()
    };
    let list = members(&ports);
    let members: Vec<Member> = list
        .iter()
        .zip(&ports)
        .map(|((id, _), port)| {
            let addr = |(peer, addr): (MemberId, &str)| match peer == id {
                true => (peer, addr.to_owned()),
                false => (peer, throttled(addr.to_owned(), 4 << 20)),
            };
            let seen = Members::new(list.iter().map(addr)).unwrap();
            let path = dir.path().join(id.to_string());
            // Each member has other addresses in its list. They are one cluster because their
            // directories say so.
            let list_id = list_id(&list);
            drop(
                DataDir::open(
                    &path,
                    Identity { cluster_id: 0, list_id, member_id: id },
                    Standing::New,
                )
                .unwrap(),
            );
            let config = Config { timing, ..Config::new(id, seen, path) };
            Member::start_on(port.listen().unwrap(), config).unwrap()
        })
        .collect();
    let clerk = Clerk::builder().members(&list).timeout(2 * TEST_TIMEOUT).build().unwrap();
    clerk.put("small", "v").unwrap();
    let term = || members.iter().map(|member| member.node().status().role.term).max();
    let before = term();
    clerk.put("big", vec![7; 15 << 20]).unwrap();
    assert_eq!(term(), before);
}

/// The longest command reaches the others. A longer one is refused, and the commands after it are
/// not.
#[test]
fn a_command_that_no_frame_carries_is_refused() {
    let nodes = Nodes::start(3);
    let leader = nodes.leader();
    let end = propose(&leader, vec![0; COMMAND_LEN_MAX + 1]).recv_timeout(TEST_TIMEOUT).unwrap();
    assert_eq!(end, Err(RequestError::TooLarge { len_bytes: COMMAND_LEN_MAX + 1 }));
    assert!(!end.unwrap_err().may_apply());
    let end = propose(&leader, vec![0; COMMAND_LEN_MAX]).recv_timeout(TEST_TIMEOUT);
    assert_eq!(end, Ok(Ok(1)));
}

/// A limit on frames under which members could not send each other every entry.
#[test]
fn a_member_does_not_start_with_frames_that_are_too_short() {
    let (port, dir) = (Port::free().unwrap(), tempfile::tempdir().unwrap());
    let start = |len_bytes| {
        let mut config = Config::new(MemberId(1), members(std::slice::from_ref(&port)), dir.path());
        config.limits = Limits::default();
        config.limits.frame.body_len_max_bytes = len_bytes;
        Member::start_on(port.listen().unwrap(), config)
    };
    let refused = start(FRAME_LEN_MIN - 1);
    assert!(matches!(refused, Err(StartError::FrameLimit { .. })), "{refused:?}");
    start(FRAME_LEN_MIN).unwrap();
}

/// The fields of `HeartbeatArgs` in `proto/raft_rpc.proto` that this needs.
#[derive(Clone, PartialEq, prost::Message)]
struct HeartbeatArgs {
    #[prost(uint64, tag = "1")]
    term: u64,
    #[prost(message, optional, tag = "10")]
    envelope: Option<Envelope>,
    #[prost(uint64, tag = "11")]
    round: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Envelope {
    #[prost(uint64, tag = "2")]
    from: u64,
    #[prost(uint64, tag = "3")]
    to: u64,
    #[prost(fixed64, tag = "4")]
    list_id: u64,
}

/// The core drops nonsense without an answer. The room that these calls take on their connection
/// must come back.
#[test]
fn nonsense_gives_its_room_back() {
    let (port, dir) = (Port::free().unwrap(), tempfile::tempdir().unwrap());
    let addrs = [(MemberId(1), port.addr().to_string()), (MemberId(2), "127.0.0.1:1".to_owned())];
    let list = Members::new(addrs).unwrap();
    let list_id = list_id(&list);
    // A member that has joined votes. One without data would ask the others first.
    let identity = Identity { cluster_id: 0, list_id, member_id: MemberId(1) };
    DataDir::open(dir.path(), identity, Standing::New).unwrap().mark_joined().unwrap();
    let config = Config::new(MemberId(1), list, dir.path());
    let _member = Member::start_on(port.listen().unwrap(), config).unwrap();
    let channel = Channel::builder(port.addr().to_string()).calls_max(4096).lazy();
    let args = |to| {
        let envelope = Some(Envelope { list_id, from: 2, to });
        HeartbeatArgs { term: 1, envelope, round: 1 }
    };
    let is_answered = || {
        let deadline = Instant::now() + Duration::from_secs(2);
        channel
            .call::<_, HeartbeatArgs>(&Method::new("raftRpc", "Heartbeat"), &args(1), deadline)
            .is_ok()
    };
    until("the member answers", is_answered);
    let deadline = Instant::now() + Duration::from_millis(300);
    for _ in 0..Limits::default().calls_per_connection_max {
        let ignore = |_: Result<HeartbeatArgs, CallError>| ();
        channel.call_then(
            &Method::new("raftRpc", "Heartbeat"),
            &CallOptions::default(),
            &args(9),
            deadline,
            ignore,
        );
    }
    until("the member answers again", is_answered);
}

/// The disk of a leader is full: writes are refused with a reason that each kind of client
/// understands, reads go on, and open proposals end once there is space.
#[test]
fn a_full_disk_refuses_writes_and_serves_reads() {
    let disk = SimDisk::new(1);
    let port = Port::free().unwrap();
    let list = members(std::slice::from_ref(&port));
    let identity = Identity { cluster_id: 0, list_id: 7, member_id: MemberId(1) };
    let data_dir =
        DataDir::open_on(Arc::new(disk.clone()), "/data", identity, Standing::New).unwrap();
    let config = NodeConfig::new(MemberId(1), list.clone());
    let node = Node::start(config, data_dir, Store::new()).unwrap();
    let handle = node.handle();
    let api = Api::new(handle.clone());
    let service = KvServerRpcService::new(Arc::new(KvService::new(api)));
    let _server = Server::builder()
        .service(service)
        .listener(port.listen().unwrap())
        .build()
        .unwrap()
        .start();
    let clerk = Clerk::builder().members(&list).timeout(TEST_TIMEOUT).build().unwrap();
    clerk.put("k", "v").unwrap();

    let full_from_write = Some(disk.counts().writes);
    disk.set_faults(Faults { full_from_write, ..Faults::default() });
    let under_way = thread::spawn({
        let clerk = clerk.clone();
        move || clerk.append("k", "w")
    });
    until("the full disk is noticed", || handle.is_disk_full());

    let put = |framing| {
        let args = PutAppendArgs {
            key: Bytes::from_static(b"other"),
            op: Bytes::from_static(b"Put"),
            client_id: Bytes::from_static(b"me"),
            request_id: 1,
            ..Default::default()
        };
        let channel = Channel::builder(port.addr().to_string()).framing(framing).lazy();
        KvServerRpcStub::new(channel).put_append(&args, Instant::now() + TEST_TIMEOUT)
    };
    match put(Framing::Extended) {
        Err(CallError::Refused { status, .. }) => {
            assert_eq!(status.code, StatusCode::Busy);
            assert!(status.message.contains("disk is full"), "{status:?}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(put(Framing::Documented).unwrap().err, "ErrWrongLeader");
    assert_eq!(clerk.clone().get("k").unwrap().unwrap(), "v");

    disk.set_faults(Faults::default());
    under_way.join().unwrap().unwrap();
    assert_eq!(clerk.get("k").unwrap().unwrap(), "vw");
    until("the space is noticed", || !handle.is_disk_full());
}

/// Clients that send far more than the cluster can take, and never wait for an answer. The surplus
/// is refused, every call ends in time, nobody loses the leadership because of it, and a moment
/// later everything is normal.
#[test]
fn far_too_much_is_refused_and_costs_no_leader() {
    const SENDERS: usize = 6;
    const CALL_TIMEOUT: Duration = Duration::from_secs(5);
    let mut options = Options::default();
    // The senders take the processors, too.
    options.timing.election_min = Duration::from_millis(3000);
    options.timing.election_max = Duration::from_millis(4500);
    let cluster = Cluster::start_with(3, options).unwrap();
    let leader = cluster.leader().unwrap();
    let members = cluster.members();
    let addr = members.addr(leader).unwrap();
    let term = || {
        cluster.ids().into_iter().filter_map(|id| cluster.status(id)).map(|it| it.role.term).max()
    };
    let before = term();
    let [sent, done, refused, late] = [(); 4].map(|()| Arc::new(AtomicU64::new(0)));
    thread::scope(|scope| {
        for sender in 0..SENDERS {
            let counts = [&sent, &done, &refused, &late].map(Arc::clone);
            scope.spawn(move || send_too_much(addr, sender, CALL_TIMEOUT, counts));
        }
    });
    let count = |it: &Arc<AtomicU64>| it.load(Ordering::Acquire);
    until("every call has ended", || count(&sent) == count(&done) + count(&refused));
    let words =
        format!("{} sent, {} done, {} refused", count(&sent), count(&done), count(&refused));
    assert_eq!(count(&late), 0, "calls ended late; {words}");
    assert!(count(&done) >= ENOUGH && count(&refused) >= ENOUGH, "{words}");
    assert_eq!((cluster.leader().unwrap(), term()), (leader, before), "{words}");
    let begin = Instant::now();
    cluster.clerk().put("k", "v").unwrap();
    assert!(begin.elapsed() < TEST_TIMEOUT / 2, "still busy after {:?}", begin.elapsed());
}

/// How many calls are done, and how many are refused, before the senders stop.
const ENOUGH: u64 = 1000;

/// Sends over a connection of its own, as fast as it can, for longer than an election timeout and
/// until there was enough of everything.
fn send_too_much(addr: &str, sender: usize, timeout: Duration, counts: [Arc<AtomicU64>; 4]) {
    let stub = KvServerRpcStub::new(Channel::builder(addr).calls_max(1 << 20).lazy());
    let end = Instant::now() + Duration::from_secs(6);
    for number in 0.. {
        let begin = Instant::now();
        let [_, done, refused, _] = &counts;
        let is_enough = [done, refused].iter().all(|it| it.load(Ordering::Acquire) >= ENOUGH);
        if begin >= end && (is_enough || begin >= end + TEST_TIMEOUT) {
            return;
        }
        let args = PutAppendArgs {
            key: Bytes::from(format!("k{}", number % 100)),
            value: Bytes::from(vec![b'x'; 1024]),
            op: Bytes::from_static(b"Put"),
            client_id: Bytes::from(format!("sender {sender}, {}", number % 1000)),
            request_id: number,
            seen_index: 0,
        };
        let [sent, done, refused, late] = counts.clone();
        sent.fetch_add(1, Ordering::AcqRel);
        stub.put_append_then(&args, begin + timeout, move |reply| {
            let is_late = begin.elapsed() > 2 * timeout;
            late.fetch_add(u64::from(is_late), Ordering::AcqRel);
            let is_done = reply.is_ok_and(|reply| &reply.err[..] == b"OK");
            let count = if is_done { done } else { refused };
            count.fetch_add(1, Ordering::AcqRel);
        });
    }
}
