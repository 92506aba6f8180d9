//! Requests and their answers.

use std::time::Duration;

use syncraft::rpc::http::Response;

use super::support::*;

#[test]
fn a_connection_serves_one_request_after_the_other() {
    let (server, _held) = serve();
    let mut client = Client::connect(server.local_addr());
    for _ in 0..3 {
        assert_eq!(client.get("/show?a=1&b").text(), "get /show [a=1 b=] ");
        assert_eq!(client.get("/nothing").status, 404);
    }
    let got = client.get("/show");
    assert_eq!((got.status, got.field("connection")), (200, None));
    assert!(got.field("date").unwrap().ends_with(" GMT"));
    let stats = server.stats();
    assert_eq!((stats.connections, stats.requests, stats.refused), (1, 7, 0));
}

/// A target that names its host outweighs the field (RFC 9112 §3.2.2).
#[test]
fn a_request_says_which_host_is_meant() {
    let (server, _held) = serve();
    let mut client = Client::connect(server.local_addr());
    let mut ask = |head: &str| {
        client.send(head.replace('\n', "\r\n") + "\r\n\r\n");
        client.answer().text().to_owned()
    };
    assert_eq!(ask("GET /host HTTP/1.1\nHost: a:80"), "a:80");
    assert_eq!(ask("GET http://b:81/host HTTP/1.1\nHost: a:80"), "b:81");
    assert_eq!(ask("GET http://[::1]/host HTTP/1.1\nHost:"), "[::1]");
    assert_eq!(ask("GET /host HTTP/1.0"), "none");
}

#[test]
fn a_handler_sees_what_the_server_has_done() {
    let (server, _held) = serve();
    let mut client = Client::connect(server.local_addr());
    assert_eq!(client.get("/show").status, 200);
    let shown = client.get("/stats");
    assert_eq!(shown.text(), format!("{:?}", server.stats()));
    assert_eq!(server.stats().requests, 2);
}

#[test]
fn requests_that_arrive_together_are_answered_in_order() {
    let (server, held) = serve();
    let mut client = Client::connect(server.local_addr());
    let one = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
    client.send(one("/hold") + &one("/show?2") + &one("/hold") + "\r\n\r\n" + &one("/show?4"));
    // None overtakes one that is not answered.
    held.answer().send(Response::text(200, "1"));
    assert_eq!(client.answer().text(), "1");
    assert_eq!(client.answer().text(), "get /show [2=] ");
    held.answer().send(Response::text(200, "3"));
    assert_eq!(client.answer().text(), "3");
    assert_eq!(client.answer().text(), "get /show [4=] ");
}

#[test]
fn a_body_is_whole_however_it_is_sent() {
    let (server, _held) = serve();
    let mut client = Client::connect(server.local_addr());
    for path in ["/echo", "/parts"] {
        for method in ["POST", "PUT", "PATCH", "DELETE", "GET"] {
            let head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\n");
            client.send(format!("{head}Content-Length: 11\r\n\r\nhello world"));
            assert_eq!(client.answer().text(), "hello world", "{method} {path}");
            let body = "6;x=y\r\nhello \r\n5\r\nworld\r\n0\r\nTrailer: x\r\n\r\n";
            client.send(format!("{head}Transfer-Encoding: chunked\r\n\r\n{body}"));
            assert_eq!(client.answer().text(), "hello world", "{method} {path}");
        }
    }
    client.send("POST /echo HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(client.answer().body, b"");
}

/// A whole conversation, cut in two at every byte.
#[test]
fn it_does_not_matter_where_bytes_are_cut() {
    let (server, _held) = serve();
    let bytes = "\r\nPOST /echo?x HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello\
        PUT /parts HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n\
        3\r\nabc\r\n0\r\n\r\nGET /show HTTP/1.1\r\nHost: x\r\nX-Test: y\r\n\r\n";
    for cut in 0..bytes.len() {
        let mut client = Client::connect(server.local_addr());
        client.send(&bytes[..cut]);
        client.send(&bytes[cut..]);
        for expected in ["hello", "abc", "get /show [] y"] {
            assert_eq!(client.answer().text(), expected, "cut at {cut}");
        }
    }
}

/// Also when the two halves of its end are read apart.
#[test]
fn an_empty_line_before_a_request_is_skipped() {
    let (server, _held) = serve();
    let mut client = Client::connect(server.local_addr());
    client.send("\r");
    assert!(client.is_silent_for(Duration::from_millis(100)));
    client.send("\n\r\nGET /show HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(client.answer().status, 200);
    client.send("\r\r");
    assert_eq!(client.answer().status, 400);
}

#[test]
fn a_client_that_waits_to_send_its_body_is_told_to_or_answered() {
    let (server, _held) = serve();
    let mut client = Client::connect(server.local_addr());
    let head = |path: &str| {
        let fields = "Host: x\r\nContent-Length: 5\r\nExpect: 100-continue";
        format!("PUT {path} HTTP/1.1\r\n{fields}\r\n\r\n")
    };
    client.send(head("/echo"));
    assert_eq!(client.head().status, 100);
    client.send("hello");
    assert_eq!(client.answer().text(), "hello");
    // If it comes at once, nobody needs to be told.
    client.send(head("/echo") + "hello");
    assert_eq!(client.answer().text(), "hello");
    client.send(head("/nothing"));
    let got = client.answer();
    assert_eq!((got.status, got.field("connection")), (404, Some("close")));
    client.expect_end();
}

#[test]
fn head_is_get_without_the_body() {
    let (server, _held) = serve();
    let mut client = Client::connect(server.local_addr());
    client.send("HEAD /big HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(client.head().field("content-length"), Some("8388608"));
    client.send("HEAD /stream HTTP/1.1\r\nHost: x\r\n\r\n");
    let got = client.head();
    assert_eq!((got.status, got.field("transfer-encoding")), (200, Some("chunked")));
    assert_eq!(client.get("/show").status, 200);
    assert_eq!(client.get("/empty").field("content-length"), None);
    assert_eq!(client.get("/show").status, 200);
}

#[test]
fn http_1_0_has_one_request_unless_it_asks_for_more() {
    let (server, held) = serve();
    let mut client = Client::connect(server.local_addr());
    client.send("GET /show HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert_eq!(client.answer().field("connection"), Some("keep-alive"));
    client.send("GET /show HTTP/1.0\r\n\r\n");
    assert_eq!(client.answer().field("connection"), Some("close"));
    client.expect_end();
    // It knows no chunks.
    let mut client = Client::connect(server.local_addr());
    client.send("GET /stream HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    let stream = held.stream();
    stream.try_send(b"more").unwrap();
    stream.end();
    let got = client.answer();
    assert_eq!((got.field("transfer-encoding"), got.text()), (None, "begin,more"));
}

#[test]
fn a_client_that_says_so_gets_the_end_of_the_connection() {
    let (server, held) = serve();
    let mut client = Client::connect(server.local_addr());
    client.send("GET /hold HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\nGET /show");
    held.answer().send(Response::text(200, "1"));
    assert_eq!(client.answer().field("connection"), Some("close"));
    client.expect_end();
    // One that ends its own side waits for its answer.
    let mut client = Client::connect(server.local_addr());
    client.send("GET /hold HTTP/1.1\r\nHost: x\r\n\r\n");
    client.end();
    held.answer().send(Response::text(200, "2"));
    assert_eq!(client.answer().text(), "2");
    client.expect_end();
}

#[test]
fn paths_are_bytes() {
    let (server, _held) = serve();
    let mut client = Client::connect(server.local_addr());
    let check = |client: &mut Client, target: &str, shown: &str| {
        assert_eq!(client.get(target).text(), shown, "{target}");
    };
    check(&mut client, "/%73how?q=%00%ff&a+b=c%2Bd&&", "get /%73how [q=\\x00\\xff a b=c+d] ");
    check(&mut client, "http://other:1/show", "get /show [] ");
    check(&mut client, "/a/../show", "nothing\n");
    check(&mut client, "/show/%00", "nothing\n");
    check(&mut client, "//%ff/..//", "nothing\n");
    client.send("OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(client.answer().status, 404);
}

#[test]
fn an_answer_that_is_never_given_is_an_error_of_the_server() {
    let (server, _held) = serve();
    let mut client = Client::connect(server.local_addr());
    for path in ["/drop", "/panic"] {
        assert_eq!(client.get(path).status, 500, "{path}");
        assert_eq!(client.get("/show").status, 200);
    }
}

#[test]
fn nothing_in_an_answer_begins_another_field() {
    let (server, _held) = serve();
    let mut client = Client::connect(server.local_addr());
    let got = client.get("/inject");
    assert_eq!(got.field("x-echo"), Some("a  X-Bad: 1    body"));
    assert_eq!((got.field("x-bad"), got.text()), (None, "x"));
}

#[test]
fn a_long_answer_to_a_slow_client_is_whole() {
    let (server, _held) = serve();
    let mut client = Client::connect(server.local_addr());
    client.send("GET /big HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let mut other = Client::connect(server.local_addr());
    assert_eq!(other.get("/show").status, 200);
    assert_eq!(client.answer().body.len(), 8 << 20);
    client.expect_end();
}
