//! Crowds of clients: whatever they do, calls of a reserved service get through.

use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use bytes::Bytes;
use syncraft::clerk::Clerk;
use syncraft::kv::proto::{GetArgs, GetReply};
use syncraft::kv::{Change, Outcome};
use syncraft::rpc::{CallError, Channel, FrameLimits, Limits, Method, Server, StatusCode};
use syncraft::testing::Cluster;

use crate::raw::*;
use crate::support::*;

fn serve_both(limits: Limits) -> Server {
    Server::builder()
        .service(Published(Arc::new(TestService::default())))
        .reserved_service(PeerRpc)
        .limits(limits)
        .bind("127.0.0.1:0")
        .build()
        .unwrap()
        .start()
}

/// Connections whose clients have made a call and wait for its answer.
fn clients(server: &Server, count: usize) -> Vec<Raw> {
    let connect = |_| {
        let mut raw = Raw::connect(server.local_addr());
        raw.send(&request("Echo", 1, "x"));
        raw.expect_echo(1, "x");
        raw
    };
    (0..count).map(connect).collect()
}

// ---- room for calls ----

#[test]
fn room_that_clients_fill_is_not_that_of_a_reserved_service() {
    for limits in [
        Limits { calls_max: 8, ..Limits::default() },
        Limits {
            frame: FrameLimits { body_len_max_bytes: 1000 },
            bytes_per_connection_max: 1000,
            bytes_max: 8000,
            ..Limits::default()
        },
    ] {
        let server = serve_both(limits);
        let mut probe = Raw::connect(server.local_addr());
        // Arguments are announced and never come.
        let _held: Vec<Raw> = (0..8)
            .map(|_| {
                let mut raw = Raw::connect(server.local_addr());
                raw.send(&frame(&head("Echo", 0, 1000), b""));
                raw
            })
            .collect();
        wait_until("clients have filled the room", || {
            probe.send(&request("Echo", 1, "x"));
            probe.reply().0.status == StatusCode::Busy.number()
        });
        peer_is_served(&mut Raw::connect(server.local_addr()));
    }
}

#[test]
fn announced_uploads_do_not_stop_a_cluster() {
    let cluster = Cluster::start(3).unwrap();
    let leader = cluster.leader().unwrap();
    let clerk = Clerk::builder().members(cluster.members()).timeout(LONG).build().unwrap();
    clerk.put("k", "v").unwrap();
    // Only to the followers: the leader serves clients all the time.
    let followers: Vec<_> = cluster.ids().into_iter().filter(|&id| id != leader).collect();
    let mut held = Vec::new();
    for id in followers {
        let members = cluster.members();
        let addr = members.addr(id).unwrap();
        let mut announce = || {
            let mut raw = Raw(TcpStream::connect(addr).unwrap());
            let head = Head { service: "kvServerRpc".into(), ..head("Get", 0, 16 << 20) };
            raw.send(&frame(&head, b""));
            held.push(raw);
        };
        (0..16).for_each(|_| announce());
        let channel = Channel::builder(addr).lazy();
        let args = GetArgs { key: Bytes::from(vec![b'k'; 100]), ..GetArgs::default() };
        wait_until("the follower has no room", || {
            let outcome =
                channel.call::<_, GetReply>(&Method::new("kvServerRpc", "Get"), &args, soon());
            let Err(CallError::Refused { status, .. }) = outcome else { return false };
            status.code == StatusCode::Busy
        });
    }
    clerk.put("k", "w").unwrap();
}

/// Other members bring the leader the writes of their clients, in room of their own.
#[test]
fn announced_uploads_do_not_stop_the_writes_that_members_bring() {
    let cluster = Cluster::start(3).unwrap();
    let leader = cluster.leader().unwrap();
    let members = cluster.members();
    let addr = members.addr(leader).unwrap();
    let head = Head { service: "kvServerRpc".into(), ..head("Get", 0, 16 << 20) };
    let announce = |_| {
        let mut raw = Raw(TcpStream::connect(addr).unwrap());
        raw.send(&frame(&head, b""));
        raw
    };
    let _held: Vec<Raw> = (0..16).map(announce).collect();
    let channel = Channel::builder(addr).lazy();
    let is_full = || {
        let args = GetArgs { key: Bytes::from(vec![b'k'; 100]), ..GetArgs::default() };
        let get = Method::new("kvServerRpc", "Get");
        let outcome = channel.call::<_, GetReply>(&get, &args, soon());
        let Err(CallError::Refused { status, .. }) = outcome else { return false };
        status.code == StatusCode::Busy
    };
    wait_until("the leader has no room", is_full);
    let follower = cluster.ids().into_iter().find(|&id| id != leader).unwrap();
    let (told, hears) = mpsc::channel();
    let change = Change::Put { key: "k".into(), value: "v".into() };
    let lanes = cluster.lanes(follower).unwrap();
    lanes.write(change, soon(), move |end| told.send(end).unwrap());
    let end = hears.recv_timeout(2 * LONG).unwrap();
    assert!(matches!(end, Ok(Outcome::Applied { .. })), "{end:?}");
    assert!(is_full(), "the write had to wait until there was room for clients");
}

// ---- connections ----

#[test]
fn a_crowd_of_connections_does_not_keep_peers_out() {
    let server = serve_both(Limits { connections_max: 4, ..Limits::default() });
    let mut taken = clients(&server, 4);
    let mut early = Raw::connect(server.local_addr());
    peer_is_served(&mut early);
    // More silent connections than there is room for: the oldest ones are closed.
    let mut silent: Vec<Raw> = (0..100).map(|_| Raw::connect(server.local_addr())).collect();
    let mut late = Raw::connect(server.local_addr());
    peer_is_served(&mut late);
    silent[0].expect_reset();
    // No client that was served has lost its connection.
    for peer in [&mut early, &mut late] {
        peer_is_served(peer);
    }
    for client in &mut taken {
        client.send(&request("Echo", 2, "still here"));
        client.expect_echo(2, "still here");
    }
    assert!(server.connections_refused() > 0);
}

#[test]
fn a_client_too_many_is_told_at_its_first_call_where_peers_are_let_in() {
    let server = serve_both(Limits { connections_max: 2, ..Limits::default() });
    let mut taken = clients(&server, 2);
    let mut refused = Raw::connect(server.local_addr());
    refused.send(&request("Echo", 1, "x"));
    let words = refused.expect_status(0, StatusCode::Busy);
    assert!(words.contains("2 connections are open"), "{words}");
    refused.expect_closed();
    let mut oversized = Raw::connect(server.local_addr());
    oversized.send(&frame(&head("Echo", 1, 17 << 20), b""));
    oversized.expect_status(0, StatusCode::Busy);
    assert_eq!(server.connections_refused(), 2);
    // A client that calls once there is room again is served.
    drop((refused, oversized));
    wait_until("they are gone", || server.connections() == 2);
    let mut patient = Raw::connect(server.local_addr());
    wait_until("it is accepted", || server.connections() == 3);
    drop(taken.pop());
    wait_until("there is room", || server.connections() == 2);
    patient.send(&request("Echo", 1, "room"));
    patient.expect_echo(1, "room");
}

#[test]
fn peers_too_many_are_refused_and_none_of_them_is_cut() {
    let server = serve_both(Limits { connections_max: 1, ..Limits::default() });
    let mut peers: Vec<Raw> = (0..73).map(|_| Raw::connect(server.local_addr())).collect();
    peers.iter_mut().for_each(peer_is_served);
    let mut one_more = Raw::connect(server.local_addr());
    one_more.send(&peer_request("beat"));
    one_more.expect_status(0, StatusCode::Busy);
    one_more.expect_closed();
    peers.iter_mut().for_each(peer_is_served);
}

#[test]
fn a_silent_crowd_does_not_keep_clients_out_either() {
    let server = serve_both(Limits { connections_max: 2, ..Limits::default() });
    let _silent: Vec<Raw> = (0..100).map(|_| Raw::connect(server.local_addr())).collect();
    let mut served = clients(&server, 2);
    served[0].send(&request("Echo", 2, "still here"));
    served[0].expect_echo(2, "still here");
}

/// The thread that refuses a connection may run before the thread that started it goes on.
#[test]
fn connections_that_are_refused_take_nothing_off_the_count_of_others() {
    let server = serve_both(Limits { connections_max: 1, ..Limits::default() });
    let _taken = clients(&server, 1);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let least = scope.spawn(|| {
            let mut least = u64::MAX;
            while !is_over.load(Ordering::SeqCst) {
                least = least.min(server.stats().connections_accepted);
            }
            least
        });
        for _ in 0..30 {
            // Many at once, so that each request is there before its thread.
            let ask = |_| {
                let mut raw = Raw::connect(server.local_addr());
                raw.send(&request("Echo", 1, "x"));
                raw
            };
            let mut crowd: Vec<Raw> = (0..30).map(ask).collect();
            crowd.iter_mut().for_each(|raw| drop(raw.expect_status(0, StatusCode::Busy)));
        }
        is_over.store(true, Ordering::SeqCst);
        assert_eq!(least.join().unwrap(), 1);
    });
    assert_eq!(server.stats().connections_accepted, 1);
}

/// Clients that were told to go and keep their end open.
#[test]
fn a_crowd_that_was_refused_and_stays_keeps_no_peers_out() {
    let server = serve_both(Limits { connections_max: 2, ..Limits::default() });
    let _taken = clients(&server, 2);
    let refused: Vec<Raw> = (0..100)
        .map(|_| {
            let mut raw = Raw::connect(server.local_addr());
            raw.send(&request("Echo", 1, "x"));
            raw.expect_status(0, StatusCode::Busy);
            raw
        })
        .collect();
    peer_is_served(&mut Raw::connect(server.local_addr()));
    drop(refused);
}

#[test]
fn an_existing_client_too_many_is_sent_no_bytes() {
    let (server, _) = serve(Limits { connections_max: 1, ..Limits::default() });
    let _taken = clients(&server, 1);
    let mut raw = Raw::connect(server.local_addr());
    raw.expect_silence(Duration::from_millis(50));
    raw.send(&request("Echo", 0, "x"));
    raw.expect_reset();
}

#[test]
fn a_refused_connection_is_not_a_lost_one() {
    let (server, _) = serve(Limits { connections_max: 1, ..Limits::default() });
    let _taken = clients(&server, 1);
    let lost = Arc::new(AtomicUsize::new(0));
    let channel = channel(server.local_addr())
        .on_disconnect({
            let lost = lost.clone();
            move || {
                lost.fetch_add(1, Ordering::SeqCst);
            }
        })
        .lazy();
    for _ in 0..5 {
        let error = call(&channel, "Echo", "x").unwrap_err();
        assert!(
            matches!(&error, CallError::Refused { status, .. } if status.code == StatusCode::Busy),
            "{error}"
        );
        assert!(!error.may_have_run());
    }
    assert_eq!(lost.load(Ordering::SeqCst), 0);
}

#[test]
fn an_upload_that_does_not_come_is_cut_long_before_all_of_it_would_have_to_be_there() {
    let (server, _) =
        serve(Limits { frame_timeout: Duration::from_millis(200), ..Limits::default() });
    let mut raw = Raw::connect(server.local_addr());
    // 64 more seconds, if all of it came at the lowest speed allowed.
    raw.send(&frame(&head("Echo", 1, 16 << 20), &[0; 100]));
    // It waits for less than that.
    raw.expect_closed();
}
