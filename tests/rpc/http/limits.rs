//! Limits: of connections, times and bodies; and the graceful end.

use std::net::TcpListener;
use std::time::Duration;

use syncraft::rpc::ServerError;
use syncraft::rpc::http::{Answer, Limits, Request, Response, Server};

use super::support::*;
use crate::raw::LONG;
use crate::support::wait_until;

const SOON: Duration = Duration::from_millis(150);

fn limits(change: impl FnOnce(&mut Limits)) -> Limits {
    let mut limits = Limits::default();
    change(&mut limits);
    limits
}

#[test]
fn slow_and_silent_clients_are_cut() {
    // A client that is held up before it sends must not be cut for that.
    let timeout = Duration::from_secs(2);
    let (server, held) = serve_with(limits(|it| {
        it.head_timeout = timeout;
        it.body_timeout = timeout;
        it.idle_timeout = timeout;
    }));
    let mut half_head = Client::connect(server.local_addr());
    half_head.send("GET /show HTTP/1.1\r\nHo");
    let mut half_body = Client::connect(server.local_addr());
    half_body.send("PUT /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhe");
    let mut silent = Client::connect(server.local_addr());
    let mut idle = Client::connect(server.local_addr());
    assert_eq!(idle.get("/show").status, 200);
    let mut waiting = Client::connect(server.local_addr());
    waiting.send("GET /hold HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!((half_head.answer().status, half_body.answer().status), (408, 408));
    for client in [&mut half_head, &mut half_body, &mut silent, &mut idle] {
        client.expect_end();
    }
    // Whoever waits for an answer is not idle.
    held.answer().send(Response::text(200, "late"));
    assert_eq!(waiting.answer().text(), "late");
    waiting.expect_end();
    wait_until("all have ended", || server.stats().connections == 0);
    assert_eq!(server.stats().connections_idle, 3);
}

/// Empty lines are no request, however often they come.
#[test]
fn a_client_that_sends_empty_lines_only_is_idle() {
    // A server that is held up closes a connection too late to show it.
    wait_until("a client is cut while it sends them", || {
        let (server, _held) = serve_with(limits(|it| it.idle_timeout = SOON));
        let mut client = Client::connect(server.local_addr());
        // Sooner than the server notices silence.
        let pauses =
            (0..8).map_while(|_| client.is_silent_for(SOON / 3).then(|| client.try_send("\r\n")));
        if pauses.count() == 8 {
            return false;
        }
        client.expect_gone();
        wait_until("it is counted", || server.stats().connections_idle == 1);
        true
    });
}

/// Whatever a client asks for without reading the answers, few of them are made.
#[test]
fn a_client_that_does_not_read_gets_no_further_answers() {
    let (server, _held) = serve_with(limits(|it| it.write_timeout = LONG));
    let mut greedy = Client::connect(server.local_addr());
    greedy.send("GET /big HTTP/1.1\r\nHost: x\r\n\r\n".repeat(20));
    for read in 1..=20 {
        assert_eq!(greedy.answer().body.len(), 8 << 20);
        // The system holds one or two of them.
        let made = server.stats().requests;
        assert!(made <= read + 4, "{made} answers were made, and {read} are read");
    }
}

/// It would fill the memory otherwise.
#[test]
fn a_client_that_asks_and_does_not_read_is_cut() {
    let (server, _held) = serve_with(limits(|it| it.write_timeout = SOON));
    let mut greedy = Client::connect(server.local_addr());
    greedy.send("GET /big HTTP/1.1\r\nHost: x\r\n\r\n".repeat(60));
    wait_until("it is cut", || server.stats().requests > 0 && server.stats().connections == 0);
    assert!(server.stats().requests <= 2, "{:?}", server.stats());
}

/// However long an answer takes, the client has time for its next request.
#[test]
fn the_time_for_the_next_request_counts_from_the_answer() {
    let (server, held) = serve_with(limits(|it| it.idle_timeout = 4 * SOON));
    let mut client = Client::connect(server.local_addr());
    client.send("GET /hold HTTP/1.1\r\nHost: x\r\n\r\n");
    let answer = held.answer();
    assert!(client.is_silent_for(6 * SOON));
    answer.send(Response::text(200, "late"));
    assert_eq!(client.answer().text(), "late");
    assert!(client.is_silent_for(SOON));
    assert_eq!(client.get("/show").status, 200);
}

#[test]
fn one_connection_too_many_is_told_so() {
    let (server, held) = serve_with(limits(|it| it.connections_max = 2));
    let mut first = [Client::connect(server.local_addr()), Client::connect(server.local_addr())];
    first.iter_mut().for_each(|it| it.send("GET /hold HTTP/1.1\r\nHost: x\r\n\r\n"));
    let answers = [held.answer(), held.answer()];
    let mut third = Client::connect(server.local_addr());
    let got = third.get("/show");
    assert_eq!((got.status, got.field("retry-after")), (503, Some("1")));
    third.expect_end();
    for answer in answers {
        answer.send(Response::text(200, "held"));
    }
    first.iter_mut().for_each(|it| assert_eq!(it.answer().text(), "held"));
    drop(first);
    wait_until("a place is free", || {
        Client::connect(server.local_addr()).get("/show").status == 200
    });
    assert!(server.stats().connections_refused > 0);
}

/// Whoever has their answers may keep them.
#[test]
fn clients_that_go_while_they_wait_keep_nobody_out() {
    let (server, held) = serve_with(limits(|it| {
        it.connections_max = 3;
        it.half_close_timeout = Duration::from_millis(10);
    }));
    let hold = "GET /hold HTTP/1.1\r\nHost: x\r\n\r\n";
    let mut kept = Vec::new();
    for count in 1..=3 {
        let mut client = Client::connect(server.local_addr());
        client.send(hold);
        kept.push(held.answer());
        drop(client);
        held.wait_gone(count);
    }
    // Of an answer that was given, nobody is told.
    let mut client = None;
    wait_until("a place is free", || {
        let next = client.insert(Client::connect(server.local_addr()));
        next.get("/show").status == 200
    });
    let mut client = client.unwrap();
    client.send(hold);
    held.answer().send(Response::text(200, "held"));
    assert_eq!(client.answer().text(), "held");
    drop(client);
    wait_until("its connection has ended", || server.stats().connections == 0);
    assert_eq!(held.gone(), 3);
    drop(kept);
}

/// Only the one that has been idle longest makes room: not who waits for an answer, has begun to
/// ask, or reads a stream.
#[test]
fn idle_connections_keep_nobody_out() {
    let (server, held) = serve_with(limits(|it| it.connections_max = 5));
    let mut clients: Vec<Client> = Vec::new();
    for path in ["/hold", "/stream", "/show", "/show", "/show"] {
        let mut client = Client::connect(server.local_addr());
        client.send(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"));
        match path {
            "/hold" => {}
            "/stream" => assert_eq!(client.head().status, 200),
            _ => assert_eq!(client.answer().status, 200),
        }
        clients.push(client);
    }
    let [mut waiting, mut streaming, mut begun, mut oldest, mut newest] =
        <[Client; 5]>::try_from(clients).ok().unwrap();
    begun.send("GET /show HTTP/1.1\r\nHo");
    for _ in 0..50 {
        assert_eq!(newest.get("/show").status, 200);
    }
    let mut newcomer = Client::connect(server.local_addr());
    assert_eq!(newcomer.get("/show").status, 200);
    oldest.expect_end();
    for client in [&mut newest, &mut newcomer] {
        assert_eq!(client.get("/show").status, 200);
    }
    begun.send("st: x\r\n\r\n");
    assert_eq!(begun.answer().status, 200);
    held.answer().send(Response::text(200, "held"));
    assert_eq!(waiting.answer().text(), "held");
    let stream = held.stream();
    stream.try_send(b"more").unwrap();
    assert_eq!((&*streaming.chunk(), &*streaming.chunk()), (&b"begin,"[..], &b"more"[..]));
    // However many come, each is served at once.
    let crowd: Vec<Client> = (0..50)
        .map(|_| {
            let mut client = Client::connect(server.local_addr());
            assert_eq!(client.get("/show").status, 200);
            client
        })
        .collect();
    assert_eq!(server.stats().connections_refused, 0);
    drop(crowd);
}

#[test]
fn half_sent_heads_keep_nobody_out() {
    let (server, _held) = serve_with(limits(|it| it.connections_max = 50));
    let mut half: Vec<Client> = Vec::new();
    for _ in 0..10_000 / 50 {
        for _ in 0..50 {
            let mut client = Client::connect(server.local_addr());
            client.try_send("GET /show HTTP/1.1\r\nHo");
            half.push(client);
        }
        assert_eq!(Client::connect(server.local_addr()).get("/show").status, 200);
        if half.len() > 500 {
            half.drain(..250);
        }
    }
    let stats = server.stats();
    assert!(stats.connections <= 60, "{stats:?}");
}

#[test]
fn bodies_share_a_bounded_room() {
    let (server, held) = serve_with(limits(|it| {
        it.body_len_max_bytes = 1000;
        it.bodies_max_bytes = 1500;
    }));
    let put = |len: usize| {
        let head = format!("PUT /echo HTTP/1.1\r\nHost: x\r\nContent-Length: {len}\r\n\r\n");
        head + &"x".repeat(len)
    };
    let mut first = Client::connect(server.local_addr());
    // All but its last byte: it holds its room.
    let whole = put(1000);
    first.send(&whole[..whole.len() - 1]);
    let mut second = Client::connect(server.local_addr());
    wait_until("the room is taken", || {
        let mut client = Client::connect(server.local_addr());
        client.send(put(900));
        client.answer().status == 503
    });
    second.send(put(500));
    assert_eq!(second.answer().body.len(), 500);
    second.send(put(1001));
    assert_eq!(second.answer().status, 413);
    first.send("x");
    assert_eq!(first.answer().body.len(), 1000);
    drop(held);
}

/// Bodies that are announced take no room until they come.
#[test]
fn announced_bodies_keep_nobody_out() {
    let (server, _held) = serve_with(limits(|it| {
        it.body_len_max_bytes = 1000;
        it.bodies_max_bytes = 1000;
    }));
    let head = "PUT /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 900\r\n\r\n";
    let half_sent: Vec<Client> = (0..18)
        .map(|_| {
            let mut client = Client::connect(server.local_addr());
            client.send(format!("{head}x"));
            client
        })
        .collect();
    wait_until("their handlers wait", || server.stats().requests == 18);
    let mut client = Client::connect(server.local_addr());
    client.send(head.to_owned() + &"x".repeat(900));
    assert_eq!(client.answer().body.len(), 900);
    drop(half_sent);
}

/// The next request cannot follow, and the client is told so.
#[test]
fn an_answer_before_a_long_body_says_that_the_connection_ends() {
    let (server, _held) = serve();
    let put = |len: usize| {
        let head = format!("PUT /show HTTP/1.1\r\nHost: x\r\nContent-Length: {len}\r\n\r\n");
        head + &"x".repeat(len)
    };
    let mut client = Client::connect(server.local_addr());
    client.send(put(256 << 10));
    assert_eq!(client.answer().field("connection"), None);
    client.send(put((256 << 10) + 1));
    let got = client.answer();
    assert_eq!((got.status, got.field("connection")), (200, Some("close")));
    client.expect_end();
    // Nobody knows how much of a chunked body is left.
    let chunked = |path: &str| {
        let head = format!("PUT {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
        head + "1\r\nx\r\n0\r\n\r\n"
    };
    let mut client = Client::connect(server.local_addr());
    client.send(chunked("/show"));
    assert_eq!(client.answer().field("connection"), Some("close"));
    client.expect_end();
    // Of a body that was read, nothing is left.
    let mut client = Client::connect(server.local_addr());
    client.send(put(1 << 20).replace("/show", "/echo"));
    assert_eq!(client.answer().field("connection"), None);
    client.send(chunked("/echo"));
    assert_eq!(client.answer().field("connection"), None);
}

/// A client that looks at the answer only once it has sent everything finds it.
#[test]
fn a_slow_upload_that_is_refused_gets_its_answer() {
    let (server, _held) = serve_with(limits(|it| it.body_len_max_bytes = 1000));
    let mut client = Client::connect(server.local_addr());
    client.send("PUT /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n");
    // Too long to be read over before the connection ends. A bad link paces it: two seconds in all.
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(100));
        client.send("x".repeat(50_000));
    }
    assert_eq!(client.answer().status, 413);
    client.expect_end();
}

#[test]
fn a_drain_answers_what_is_under_way_and_begins_nothing_more() {
    let (server, held) = serve();
    let addr = server.local_addr();
    let mut busy = Client::connect(addr);
    busy.send("GET /hold HTTP/1.1\r\nHost: x\r\n\r\n");
    let mut idle = Client::connect(addr);
    assert_eq!(idle.get("/show").status, 200);
    let answer = held.answer();
    let drain = std::thread::spawn(move || server.drain(LONG));
    wait_until("it accepts no more", || std::net::TcpStream::connect(addr).is_err());
    answer.send(Response::text(200, "the last"));
    let got = busy.answer();
    assert_eq!((got.text(), got.field("connection")), ("the last", Some("close")));
    busy.expect_end();
    idle.expect_end();
    assert!(drain.join().unwrap());
    TcpListener::bind(addr).expect("its port is free");
}

#[test]
fn a_stop_does_not_wait_for_clients() {
    let (server, held) = serve();
    let mut clients: Vec<Client> = (0..3).map(|_| Client::connect(server.local_addr())).collect();
    clients[0].send("GET /hold HTTP/1.1\r\nHost: x\r\n\r\n");
    clients[1].send("GET /sh");
    let answer = held.answer();
    server.stop();
    clients.iter_mut().for_each(Client::expect_gone);
    // It is too late, and harms nobody.
    answer.send(Response::text(200, "late"));
}

#[test]
fn a_server_says_why_it_does_not_start() {
    let builder =
        || Server::builder(|_: &mut Request<'_>, answer: Answer| answer.send(Response::new(204)));
    assert!(matches!(builder().start(), Err(ServerError::NoAddress)));
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    assert!(matches!(builder().bind(addr).start(), Err(ServerError::Bind { .. })));
    let bad = builder().bind("127.0.0.1:0").limits(limits(|it| it.connections_max = 0));
    assert!(matches!(bad.start(), Err(ServerError::BadLimits { .. })));
}
