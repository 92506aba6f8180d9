//! How connections end: existing clients see a reset and never the end of a stream, and no answer
//! is lost because of it.
//!
//! A client of the documented C++ system takes the end of the stream for an empty reply, sends its
//! call again, and dies of SIGPIPE. After a reset, its read fails and it goes on to the next
//! server. But a reset also discards data that the client's TCP has not acknowledged.

use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use socket2::{Domain, SockRef, Socket, Type};
use syncraft::rpc::{Limits, Server, StatusCode};

use crate::raw::*;
use crate::support::*;

/// A client that has had one documented call answered.
fn documented(server: &Server) -> Raw {
    let mut raw = Raw::connect(server.local_addr());
    raw.send(&request("Echo", 0, "x"));
    raw.expect_bare("x");
    raw
}

fn extended(server: &Server) -> Raw {
    let mut raw = Raw::connect(server.local_addr());
    raw.send(&request("Echo", 1, "x"));
    raw.expect_echo(1, "x");
    raw
}

// ---- who sees what ----

#[test]
fn existing_clients_and_those_that_may_be_some_are_reset_when_a_server_stops() {
    let stops: [fn(&Server); 3] =
        [|server| server.stop(), |server| assert!(server.drain(LONG)), |_| {}];
    for stop in stops {
        let (server, _) = serve(Limits::default());
        let (mut documented, mut extended) = (documented(&server), extended(&server));
        let mut silent = Raw::connect(server.local_addr());
        wait_until("all are there", || server.connections() == 3);
        stop(&server);
        drop(server);
        documented.expect_reset();
        silent.expect_reset();
        // Other clients first read the status, if there was one.
        extended.0.set_read_timeout(Some(LONG)).unwrap();
        assert!(std::io::copy(&mut extended.0, &mut std::io::sink()).is_ok());
    }
}

#[test]
fn existing_clients_are_reset_when_a_call_of_theirs_cannot_be_answered() {
    let (server, _) = serve(Limits::default());
    for method in ["Drop", "Panic", "Fail", "Nothing"] {
        let mut raw = documented(&server);
        raw.send(&request(method, 0, "x"));
        raw.expect_reset();
    }
    let mut raw = documented(&server);
    raw.send(&[0xff; 100]);
    raw.expect_reset();
    // Even if this is the first thing that they receive.
    let mut raw = Raw::connect(server.local_addr());
    raw.send(&request("Nothing", 0, "x"));
    raw.expect_reset();
}

#[test]
fn a_frame_that_does_not_come_costs_a_reset() {
    let limits = Limits { frame_timeout: Duration::from_millis(50), ..Limits::default() };
    let (server, _) = serve(limits);
    let mut raw = documented(&server);
    raw.send(&request("Echo", 0, "x")[..9]);
    raw.expect_reset();
}

#[test]
fn a_client_that_has_closed_its_sending_side_sees_its_answers_and_the_end() {
    let (server, service) = serve(Limits::default());
    let mut raw = Raw::connect(server.local_addr());
    raw.send(&request("Hold", 0, "x"));
    service.wait_held(1);
    raw.0.shutdown(Shutdown::Write).unwrap();
    let (args, call) = service.take_held().pop().unwrap();
    call.typed().run(args);
    raw.expect_bare("x");
    raw.expect_end();
}

#[test]
fn who_speaks_the_extended_format_is_told_and_sees_the_end() {
    let (server, _) = serve(Limits::default());
    let mut both = documented(&server);
    both.send(&request("Echo", 1, "x"));
    both.expect_echo(1, "x");
    both.send(&[0xff; 100]);
    both.expect_status(0, StatusCode::BadHeader);
    both.expect_end();
}

// ---- what is not lost ----

const REPLY: usize = 900;
const CALLS: usize = 300;

/// A connection whose client has a small receive buffer.
fn connect_with_little_room(addr: SocketAddr) -> Raw {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(&addr.into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    Raw(stream)
}

/// A client that has asked for many replies and has read none of them. All are given; most of them
/// are in the server's buffers.
fn behind_its_replies(server: &Server) -> Raw {
    let mut raw = connect_with_little_room(server.local_addr());
    for _ in 0..CALLS {
        raw.send(&request("Echo", 0, &"x".repeat(REPLY)));
    }
    wait_until("all are answered", || report(server, "Echo").running.count == CALLS as u64);
    raw
}

fn check_no_answer_is_lost(end: impl FnOnce(&Server, &mut Raw)) {
    let (server, _) = serve(Limits::default());
    let mut raw = behind_its_replies(&server);
    end(&server, &mut raw);
    // The server may no longer wait for anybody.
    wait_until("the connection has ended", || server.connections() == 0);
    drop(server);
    let expected = echo("x".repeat(REPLY)).encoded_len() * CALLS;
    assert_eq!(raw.rest().len(), expected);
}

#[cfg(target_os = "linux")]
#[test]
fn no_answer_is_lost_by_a_stop() {
    check_no_answer_is_lost(|server, _| server.stop());
}

#[cfg(target_os = "linux")]
#[test]
fn no_answer_is_lost_by_a_drain() {
    check_no_answer_is_lost(|server, _| assert!(server.drain(LONG)));
}

#[cfg(target_os = "linux")]
#[test]
fn no_answer_is_lost_by_a_call_that_cannot_be_answered() {
    for method in ["Nothing", "Drop", "Panic"] {
        check_no_answer_is_lost(|_, raw| raw.send(&request(method, 0, "x")));
    }
    check_no_answer_is_lost(|_, raw| raw.send(&[0xff; 100]));
}

#[test]
fn no_answer_is_lost_by_a_client_that_sends_nothing_more() {
    check_no_answer_is_lost(|_, raw| raw.0.shutdown(Shutdown::Write).unwrap());
}

/// Longer than existing clients can read, so this is for other clients.
#[cfg(target_os = "linux")]
#[test]
fn no_long_answer_is_lost_either() {
    const LEN: usize = 300_000;
    let (server, _) = serve(Limits::default());
    let mut raw = connect_with_little_room(server.local_addr());
    raw.send(&request("Big", 0, &LEN.to_string()));
    wait_until("it is answered", || report(&server, "Big").running.count == 1);
    server.stop();
    assert_eq!(Echo::decode(Bytes::from(raw.rest())).unwrap().data.len(), LEN);
    // After that, a client that reads is reset as before.
    let (server, _) = serve(Limits::default());
    let mut raw = Raw::connect(server.local_addr());
    raw.send(&request("Big", 0, "5000"));
    raw.read(echo(vec![0; 5000]).encoded_len());
    raw.send(&request("Echo", 0, "x"));
    raw.expect_bare("x");
    server.stop();
    raw.expect_reset();
}

/// The server does not wait for peers that are gone.
#[test]
fn a_stop_does_not_wait_for_clients_that_were_reset() {
    let (server, _) = serve(Limits::default());
    let raw = documented(&server);
    SockRef::from(&raw.0).set_linger(Some(Duration::ZERO)).unwrap();
    drop(raw);
    in_time(move || server.stop());
}
