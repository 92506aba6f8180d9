//! Bad input: each gets an answer in the words of the protocol, the connection ends, and nobody
//! else notices.

use super::support::*;

/// What a client gets that sends `bytes` in two parts, and then its end.
fn check(server: &syncraft::rpc::http::Server, bytes: &[u8], status: u16) {
    let mut client = Client::connect(server.local_addr());
    let (first, second) = bytes.split_at(bytes.len() / 2);
    client.try_send(first);
    client.try_send(second);
    let shown = bytes[..bytes.len().min(200)].escape_ascii();
    let got = client.answer();
    assert_eq!(got.status, status, "{shown}: {}", got.text());
    assert_eq!(got.field("connection"), Some("close"), "{shown}");
    client.expect_end();
}

#[test]
fn what_cannot_be_served_is_told_why() {
    let (server, _held) = serve();
    let mut other = Client::connect(server.local_addr());
    let with = |fields: &str| format!("POST /echo HTTP/1.1\r\nHost: x\r\n{fields}\r\n\r\n");
    let cases: [(String, u16); 28] = [
        ("hello\n".into(), 400),
        ("GET / HTTP/1.1\nHost: x\n\n".into(), 400),
        ("GET / HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n".into(), 400),
        ("GET / HTTP/1.1\r\n\r\n".into(), 400),
        ("GET / HTTP/1.1\r\nHost:\r\n\r\n".into(), 400),
        ("GET / HTTP/1.1\r\nHost: a, b\r\n\r\n".into(), 400),
        ("\r\n".repeat(10), 400),
        (with("Content-Length: 5\r\nTransfer-Encoding: chunked") + "0\r\n\r\nhello", 400),
        (with("Content-Length: 5\r\nContent-Length: 4") + "hello", 400),
        (with("Content-Length: 99999999999999999999"), 400),
        (with("Content-Length: 99999999999"), 413),
        (with("Content-Length: 1048577"), 413),
        (with("Content-Length: 99999999999\r\nExpect: 100-continue"), 413),
        (with("Transfer-Encoding: chunked") + "fffffffffffffffff\r\n", 400),
        (with("Transfer-Encoding: chunked") + "5\nhello", 400),
        (with("Transfer-Encoding: chunked") + "ffffffffffffffff\r\n" + &"x".repeat(2 << 20), 413),
        (with("Transfer-Encoding: gzip, chunked"), 501),
        (with("Transfer-Encoding: chunked, chunked"), 400),
        (with("Transfer-Encoding: xchunked") + "0\r\n\r\n", 400),
        (with("Transfer-Encoding: chunked;a=b") + "0\r\n\r\n", 400),
        (with("Transfer-Encoding: chunked") + "1 2\r\nx\r\n0\r\n\r\n", 400),
        (with("Expect: miracles"), 417),
        ("BREW / HTTP/1.1\r\nHost: x\r\n\r\n".into(), 501),
        ("CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n".into(), 501),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0".into(), 505),
        (format!("GET /{} HTTP/1.1\r\n", "a".repeat(20_000)), 414),
        (with(&format!("X: {}", "a".repeat(20_000))), 431),
        (with(&"X: y\r\n".repeat(200)), 431),
    ];
    for (bytes, status) in &cases {
        check(&server, bytes.as_bytes(), *status);
        assert_eq!(other.get("/show").status, 200);
    }
    check(&server, b"\x00\x00\x00\x05hello", 400);
    check(&server, b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n", 400);
    check(&server, b"GET / HTTP/1.1\r\nHost: x\r\nX: \x00\r\n\r\n", 400);
    assert!(server.stats().refused > 20);
}

#[test]
fn a_tls_hello_is_answered_with_an_alert() {
    let (server, _held) = serve();
    let mut client = Client::connect(server.local_addr());
    client.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03");
    assert_eq!(client.rest(), b"\x15\x03\x01\x00\x02\x02\x28");
}

/// Whatever stands behind the refused request is not run.
#[test]
fn nothing_is_smuggled_behind_a_request_that_is_refused() {
    let (server, _held) = serve();
    let smuggled = "0\r\n\r\nGET /show HTTP/1.1\r\nHost: x\r\n\r\n";
    for fields in [
        "Content-Length: 6\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 6",
        "Transfer-Encoding: xchunked\r\nContent-Length: 6",
        "Transfer-Encoding : chunked\r\nContent-Length: 6",
        "Content-Length: 0\r\nContent-Length: 60",
        "Transfer-Encoding: chunked, identity",
    ] {
        let request = format!("POST /echo HTTP/1.1\r\nHost: x\r\n{fields}\r\n\r\n{smuggled}");
        check(&server, request.as_bytes(), 400);
    }
    assert_eq!(server.stats().requests, 0);
}

#[test]
fn what_came_before_is_answered_first() {
    let (server, held) = serve();
    let mut client = Client::connect(server.local_addr());
    client.send("GET /hold HTTP/1.1\r\nHost: x\r\n\r\nnonsense\n\n");
    held.answer().send(syncraft::rpc::http::Response::text(200, "1"));
    assert_eq!(client.answer().text(), "1");
    assert_eq!(client.answer().status, 400);
    client.expect_end();
}

/// A request cut off at each of its bytes: either nothing was sent, or half a head, or half a body.
#[test]
fn half_a_request_and_the_end_of_the_stream() {
    let (server, _held) = serve();
    let head = "PUT /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n";
    let whole = format!("{head}hello");
    for cut in 0..whole.len() {
        let mut client = Client::connect(server.local_addr());
        client.send(&whole[..cut]);
        client.end();
        if cut > 0 {
            let got = client.answer();
            assert_eq!((got.status, got.field("connection")), (400, Some("close")), "{cut}");
        }
        client.expect_end();
    }
}

/// Arbitrary bytes: each is answered by a status below 500 or 501, 505, and the server lives.
#[test]
fn random_bytes_are_answered_or_end() {
    let (server, _held) = serve();
    let mut random = fastrand::Rng::with_seed(7);
    for round in 0..100 {
        let mut bytes =
            b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        for _ in 0..random.usize(1..20) {
            let at = random.usize(..bytes.len());
            match random.u8(..3) {
                0 => bytes[at] = random.u8(..),
                1 => drop(bytes.remove(at)),
                _ => bytes.insert(at, random.u8(..)),
            }
        }
        let mut client = Client::connect(server.local_addr());
        client.try_send(&bytes);
        client.end();
        let rest = client.rest();
        let status = rest.get(9..12).map(|it| std::str::from_utf8(it).unwrap().to_owned());
        let is_known = |it: &str| ["200", "400", "404", "413", "417", "501", "505"].contains(&it);
        let is_alert = rest.first() == Some(&0x15);
        assert!(is_alert || status.is_none_or(|it| is_known(&it)), "{round}: {rest:?}");
    }
    assert_eq!(Client::connect(server.local_addr()).get("/show").status, 200);
}
