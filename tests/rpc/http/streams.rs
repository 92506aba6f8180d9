//! Answers that stay open.

use std::sync::mpsc::channel;
use std::time::Duration;

use syncraft::rpc::http::{Limits, StreamError};

use super::support::*;
use crate::raw::LONG;
use crate::support::wait_until;

/// Longer than a thread stays with an open stream.
const PARKED_AFTER: Duration = Duration::from_millis(300);

fn open(client: &mut Client) {
    client.send("GET /stream HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(client.head().field("transfer-encoding"), Some("chunked"));
    assert_eq!(client.chunk(), b"begin,");
}

#[test]
fn a_stream_sends_chunks_and_the_connection_goes_on() {
    let (server, held) = serve();
    let mut client = Client::connect(server.local_addr());
    // At once, and after its thread has left.
    for wait in [Duration::ZERO, PARKED_AFTER] {
        open(&mut client);
        let stream = held.stream();
        assert!(client.is_silent_for(wait + Duration::from_millis(1)));
        stream.try_send(b"").unwrap();
        stream.try_send(b"one").unwrap();
        assert_eq!(client.chunk(), b"one");
        stream.end();
        assert_eq!(client.chunk(), b"");
        assert_eq!(client.get("/show").status, 200);
    }
    held.wait_over(2);
}

#[test]
fn a_stream_begins_behind_an_answer_that_was_not_read() {
    let (server, held) = serve();
    let mut client = Client::connect(server.local_addr());
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
    client.send(get("/big") + &get("/stream"));
    assert_eq!(client.answer().body.len(), 8 << 20);
    assert_eq!(client.head().status, 200);
    assert_eq!(client.chunk(), b"begin,");
    held.stream().try_send(b"one").unwrap();
    assert_eq!(client.chunk(), b"one");
}

#[test]
fn requests_behind_a_stream_wait_for_its_end() {
    let (server, held) = serve();
    let mut client = Client::connect(server.local_addr());
    let show = "GET /show HTTP/1.1\r\nHost: x\r\n\r\n";
    client.send(format!("GET /stream HTTP/1.1\r\nHost: x\r\n\r\n{}", &show[..10]));
    assert_eq!(client.head().status, 200);
    assert_eq!(client.chunk(), b"begin,");
    assert!(client.is_silent_for(PARKED_AFTER));
    client.send(&show[10..]);
    client.send(show);
    assert!(client.is_silent_for(PARKED_AFTER));
    held.stream().end();
    assert_eq!(client.chunk(), b"");
    assert_eq!((client.answer().status, client.answer().status), (200, 200));
}

#[test]
fn a_sender_learns_that_its_client_has_gone() {
    let (server, held) = serve();
    let mut streams = Vec::new();
    for (count, wait) in [(1, Duration::ZERO), (2, PARKED_AFTER)] {
        let mut client = Client::connect(server.local_addr());
        open(&mut client);
        assert!(client.is_silent_for(wait + Duration::from_millis(1)));
        streams.push(held.stream());
        drop(client);
        held.wait_over(count);
    }
    // One that ends its side counts as gone, also behind bytes that nobody has read.
    for wait in [Duration::ZERO, PARKED_AFTER] {
        let mut client = Client::connect(server.local_addr());
        open(&mut client);
        assert!(client.is_silent_for(wait + Duration::from_millis(1)));
        streams.push(held.stream());
        client.send("GET /show");
        client.end();
        held.wait_over(streams.len());
    }
    assert!(streams.iter().all(|it| it.try_send(b"x") == Err(StreamError::Over)));
    wait_until("they end", || server.stats().connections == 0);
}

#[test]
fn a_stream_that_is_given_up_is_not_whole() {
    let (server, held) = serve();
    let mut client = Client::connect(server.local_addr());
    open(&mut client);
    drop(held.stream());
    client.expect_end();
}

#[test]
fn a_slow_client_holds_up_its_own_stream_only() {
    let mut limits = Limits::default();
    limits.stream_unsent_max_bytes = 64 << 10;
    let (server, held) = serve_with(limits);
    let mut client = Client::connect(server.local_addr());
    open(&mut client);
    let stream = held.stream();
    let chunk = vec![b'x'; 64 << 10];
    let mut sent = 0;
    let full = loop {
        match stream.try_send(&chunk) {
            Ok(()) => sent += chunk.len(),
            Err(error) => break error,
        }
        assert!(sent < 1 << 30, "nothing bounds it");
    };
    assert_eq!(full, StreamError::NoRoom);
    let (told, hears) = channel();
    stream.when_ready(move || told.send(()).unwrap());
    assert!(hears.try_recv().is_err());
    let mut other = Client::connect(server.local_addr());
    assert_eq!(other.get("/show").status, 200);
    // Once it reads, its sender is called.
    let mut got = 0;
    while got < sent {
        got += client.chunk().len();
    }
    hears.recv_timeout(LONG).unwrap();
    stream.try_send(b"last").unwrap();
    assert_eq!(client.chunk(), b"last");
}

#[test]
fn a_callback_runs_also_when_the_stream_is_over() {
    let (server, held) = serve();
    let mut client = Client::connect(server.local_addr());
    open(&mut client);
    let stream = held.stream();
    while stream.try_send(&[0; 1 << 16]).is_ok() {}
    let (told, hears) = channel();
    stream.when_ready(move || told.send(()).unwrap());
    drop(client);
    hears.recv_timeout(LONG).unwrap();
    let (told, hears) = channel();
    stream.when_over(move || told.send(()).unwrap());
    hears.recv_timeout(LONG).unwrap();
    assert!(stream.is_over());
}

#[test]
fn a_client_that_reads_nothing_is_cut() {
    let mut limits = Limits::default();
    limits.write_timeout = Duration::from_millis(100);
    let (server, held) = serve_with(limits);
    let mut client = Client::connect(server.local_addr());
    open(&mut client);
    let stream = held.stream();
    while stream.try_send(&[0; 1 << 16]).is_ok() {}
    held.wait_over(1);
    wait_until("it ends", || server.stats().connections == 0);
}

#[test]
fn a_stop_ends_streams_without_their_last_chunk() {
    let (server, held) = serve();
    let mut clients: Vec<Client> = Vec::new();
    for wait in [PARKED_AFTER, Duration::ZERO] {
        let mut client = Client::connect(server.local_addr());
        open(&mut client);
        assert!(client.is_silent_for(wait + Duration::from_millis(1)));
        clients.push(client);
    }
    let streams = [held.stream(), held.stream()];
    assert!(server.drain(LONG));
    clients.iter_mut().for_each(Client::expect_end);
    held.wait_over(2);
    assert!(streams.iter().all(|it| it.is_over()));
}
