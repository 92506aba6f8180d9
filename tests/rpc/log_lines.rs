//! A client whose connection is closed for what it sent leaves exactly one line in the log.

use std::net::Shutdown;
use std::time::Duration;

use syncraft::rpc::Limits;

use crate::alone::alone;
use crate::collector::{collect, lines};
use crate::raw::*;
use crate::support::*;

/// Sends `bytes` on a new connection to a new server. The connection is closed, and the log has one
/// line, which contains `words`.
fn check(bytes: &[u8], closes_sending: bool, words: &str) {
    let (server, _) =
        serve(Limits { frame_timeout: Duration::from_millis(100), ..Limits::default() });
    let mut raw = Raw::connect(server.local_addr());
    let client = raw.0.local_addr().unwrap().to_string();
    raw.send(bytes);
    if closes_sending {
        raw.0.shutdown(Shutdown::Write).unwrap();
    }
    raw.rest();
    drop(server);
    let lines = lines(&client);
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains(words) && !lines[0].contains('\n'), "{lines:?}");
}

#[test]
fn one_line_says_who_was_closed_and_why() {
    alone(|| {
        collect();
        check(
            &request("Nothing", 0, "x"),
            false,
            r#"unknown method: service "testRpc" has no method "Nothing""#,
        );
        check(&frame(&head("Echo", 0, 2), &[0x0a, 9]), false, "bad arguments");
        check(
            &frame(&head("Echo", 0, 1 << 30), b""),
            false,
            "frame too large: arguments of 1073741824 bytes",
        );
        check(&request("Drop", 0, "x"), false, "unanswered");
        check(&request("Panic", 0, "x"), false, "internal error: the method panicked");
        check(b"GET / HTTP/1.1\r\n\r\n", false, "an HTTP request");
        check(&[0x16, 3, 1, 2, 0, 1], false, "a TLS hello");
        check(b"\xff\xfe\xfd", false, "unknown protocol");
        check(&[1, 4, 0, 0], false, "a header of 1025 bytes");
        check(&request("Echo", 0, "x")[..9], true, "within a frame");
        check(&request("Echo", 0, "x")[..9], false, "not complete after 100ms");
        check(&[request("Echo", 1, "x"), vec![0; 4]].concat(), false, "a header of 0 bytes");
    });
}
