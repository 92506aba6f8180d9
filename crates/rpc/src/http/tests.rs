//! The protocol without sockets: what is a request, what is refused, and that it does not matter
//! how the bytes are cut.

use proptest::prelude::*;

use super::chunked::Chunked;
use super::head::{Framing, Head, Scan, empty_lines};

use super::{BodyError, Refusal, StreamError};
use crate::error_words::{check_all, every_variant};

const HEAD_LEN_MAX_BYTES: usize = 1000;

/// Reads a head whose bytes arrive in parts that end where `cuts` says.
fn read(bytes: &[u8], cuts: impl Iterator<Item = usize>) -> Result<Option<(Head, usize)>, Refusal> {
    let mut scan = Scan::default();
    for cut in cuts.chain([bytes.len()]) {
        if let Some(len) = scan.end(&bytes[..cut], HEAD_LEN_MAX_BYTES)? {
            return Head::parse(&bytes[..len]).map(|head| Some((head, len)));
        }
    }
    Ok(None)
}

/// The same however it is cut in two, and byte by byte.
fn parse(text: &[u8]) -> Result<Option<(Head, usize)>, Refusal> {
    let whole = read(text, [].into_iter());
    for cut in 0..text.len() {
        assert_eq!(read(text, [cut].into_iter()), whole, "cut at {cut}: {:?}", text.escape_ascii());
    }
    assert_eq!(read(text, 0..text.len()), whole, "{:?}", text.escape_ascii());
    whole
}

fn head(lines: &str) -> Head {
    let text = lines.replace('\n', "\r\n") + "\r\n\r\n";
    let (head, len) = parse((text.clone() + "behind").as_bytes()).unwrap().expect("it is whole");
    assert_eq!(len, text.len());
    head
}

#[test]
fn a_head_says_what_is_asked_for() {
    let found = head("PUT /v1/kv/a%2Fb?cas=7 HTTP/1.1\nHost: x\nX-One:  a\t b \nX-Two:");
    assert_eq!((found.target.path(), found.target.query()), ("/v1/kv/a%2Fb", Some("cas=7")));
    let fields: Vec<_> = found.fields().collect();
    assert_eq!(fields, [("Host", &b"x"[..]), ("X-One", b"a\t b"), ("X-Two", b"")]);
    assert_eq!(found.framing, Framing::Length(0));
    assert!(found.keeps_alive && !found.expects_continue && !found.is_http_1_0);
}

#[test]
fn the_body_and_the_connection_follow_from_the_fields() {
    let with = |fields: &str| head(&format!("GET / HTTP/1.1\nHost: x\n{fields}"));
    assert_eq!(with("Content-Length: 007").framing, Framing::Length(7));
    assert_eq!(with("transfer-encoding: Chunked").framing, Framing::Chunked);
    assert_eq!(with("Transfer-Encoding: ,chunked,").framing, Framing::Chunked);
    assert!(with("Expect: 100-Continue").expects_continue);
    assert!(!with("Connection: x, Close").keeps_alive);
    assert!(with("Connection: keep-alive").keeps_alive);
    assert!(!head("GET / HTTP/1.0").keeps_alive);
    assert!(head("GET / HTTP/1.0\nConnection: Keep-Alive").keeps_alive);
    assert!(!head("GET / HTTP/1.0\nExpect: 100-continue").expects_continue);
}

#[test]
fn what_is_no_request_is_refused() {
    let check = |text: &str, refusal| assert_eq!(parse(text.as_bytes()), Err(refusal), "{text:?}");
    check("\x16\x03\x01", Refusal::Tls);
    check(" GET / HTTP/1.1\r\n", Refusal::NotHttp);
    check("\r\nGET", Refusal::NotHttp);
    check("\0\0\0\x05", Refusal::NotHttp);
    check("GET / HTTP/1.1\n", Refusal::BareLf);
    check("GET / HTTP/1.1\r\nHost: x\n\r\n", Refusal::BareLf);
    check("GET / HTTP/1.1\rHost: x", Refusal::BareCr);
    check("GET / HTTP/1.1\r\nHost: x\r\r\n", Refusal::BareCr);
    check("GET / HTTP/1.1\r\nHost: \0", Refusal::Control);
    check("GET / HTTP/1.1\r\nHost: \x7f", Refusal::Control);
    check("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Refusal::Version);
    check("GET / HTTP/3.0\r\n\r\n", Refusal::Version);
    for line in ["GET", "GET /", "GET  / HTTP/1.1", "GET / HTTP/1.1 ", "GET / http/1.1", "GET / x"]
    {
        check(&format!("{line}\r\n\r\n"), Refusal::RequestLine);
    }
    let target = format!("GET /{}", "a".repeat(HEAD_LEN_MAX_BYTES));
    check(&target, Refusal::TargetTooLong);
    let field = format!("GET / HTTP/1.1\r\na: {}", "a".repeat(HEAD_LEN_MAX_BYTES));
    check(&field, Refusal::HeadTooLong);
    check(&format!("GET / HTTP/1.1\r\n{}\r\n", "a:\r\n".repeat(101)), Refusal::HeadTooLong);
}

#[test]
fn fields_that_contradict_each_other_are_refused() {
    let check = |fields: &str, refusal| {
        let fields = fields.replace('\n', "\r\n");
        let text = format!("POST / HTTP/1.1\r\nHost: x\r\n{fields}\r\n\r\n");
        assert_eq!(parse(text.as_bytes()), Err(refusal), "{text:?}");
    };
    check("Host: x", Refusal::Host);
    let check_host = |target: &str, host: &str, is_right: bool| {
        let text = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let found = parse(text.as_bytes()).map(|_| ());
        assert_eq!(found, if is_right { Ok(()) } else { Err(Refusal::Host) }, "{text:?}");
    };
    for host in ["", "a, b", "a,b", "a b", "user@a", "a:b", "[::1", "\u{e4}"] {
        check_host("/", host, false);
        check_host("*", host, false);
        // A target that names its host needs none.
        check_host("http://x/", host, host.is_empty());
    }
    for host in ["a", "a.example:80", "10.0.0.1:", "[::1]:80"] {
        check_host("/", host, true);
    }
    check("Content-Length: 5\nTransfer-Encoding: chunked", Refusal::BothLengths);
    check("Transfer-Encoding: chunked\nContent-Length: 0", Refusal::BothLengths);
    check("Content-Length: 5\nContent-Length: 6", Refusal::ContentLength);
    check("Content-Length: 5\ncontent-length: 5", Refusal::ContentLength);
    for length in ["", "+5", "-5", "5,5", "0x5", "5 5", "18446744073709551616"] {
        check(&format!("Content-Length: {length}"), Refusal::ContentLength);
    }
    for coding in
        ["chunked, chunked", "chunked, gzip", "gzip", "identity", "", "xchunked", "chunked;a=b"]
    {
        check(&format!("Transfer-Encoding: {coding}"), Refusal::NotChunkedLast);
    }
    check("Transfer-Encoding: chunked\nTransfer-Encoding: chunked", Refusal::NotChunkedLast);
    check("Transfer-Encoding: gzip, chunked", Refusal::UnknownCoding);
    check("Transfer-Encoding: gzip\nTransfer-Encoding: chunked", Refusal::UnknownCoding);
    check("Expect: 100-continue, x", Refusal::Expectation);
    for field in ["a : b", " a: b", "a\nb: c", "a: b\n c", ": b", "a b: c", "\u{e4}: b"] {
        check(field, Refusal::Field);
    }
    let one = |line: &str, refusal| {
        assert_eq!(parse(format!("{line}\r\n\r\n").as_bytes()), Err(refusal), "{line:?}");
    };
    one("GET / HTTP/1.1", Refusal::Host);
    one("GET / HTTP/1.0\r\nHost: x\r\nHost: y", Refusal::Host);
    one("POST / HTTP/1.0\r\nTransfer-Encoding: chunked", Refusal::NotChunkedLast);
    one("BREW / HTTP/1.1\r\nHost: x", Refusal::UnknownMethod);
    one("get / HTTP/1.1\r\nHost: x", Refusal::UnknownMethod);
    one("CONNECT x:80 HTTP/1.1\r\nHost: x", Refusal::UnknownMethod);
    one("GET /%0 HTTP/1.1\r\nHost: x", Refusal::Escape);
    one("GET a HTTP/1.1\r\nHost: x", Refusal::Target);
}

#[test]
fn every_error_says_its_own_part_only() {
    check_all(&every_variant!(BodyError:
        TooLong { max_bytes: 7 },
        Malformed {},
        TooSlow {},
        NoRoom {},
        Gone {},
    ));
    check_all(&every_variant!(StreamError: NoRoom {}, Over {}));
}

#[test]
fn empty_lines_before_a_request_are_skipped() {
    let check = |text: &[u8], len| assert_eq!(empty_lines(text), len, "{:?}", text.escape_ascii());
    check(b"\r\n\r\nGET", 4);
    check(b"\r\n\r", 2);
    check(b"\n\r\n", 0);
    check(b"", 0);
}

/// Bytes that are often parts of a request, and sometimes anything.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    const WORDS: &[&str] = &[
        "GET ",
        "POST ",
        "/",
        "/a%20b?c",
        " HTTP/1.1",
        " HTTP/1.0",
        "\r\n",
        "\r\n\r\n",
        "\n",
        "\r",
        "Host: x\r\n",
        "Content-Length: ",
        "Transfer-Encoding: chunked\r\n",
        "5",
        "0",
        ":",
        " ",
        "\t",
        "\0",
        "a",
        "ffffffffffffffff",
        ";",
    ];
    let word = prop_oneof![
        8 => proptest::sample::select(WORDS).prop_map(|word| word.as_bytes().to_vec()),
        1 => proptest::collection::vec(any::<u8>(), 0..8),
    ];
    proptest::collection::vec(word, 0..16).prop_map(|words| words.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Whatever comes, the answer is the same however it is cut, and nothing panics.
    #[test]
    fn any_bytes_are_a_request_or_refused(bytes in bytes()) {
        let _ = parse(&bytes);
        let with_head = [b"GET / HTTP/1.1\r\nHost: x\r\n", &bytes[..]].concat();
        let _ = parse(&with_head);
    }

    #[test]
    fn any_bytes_are_chunks_or_refused(bytes in bytes(), cut in 0usize..64, data_max in 1usize..9) {
        let read = |parts: [&[u8]; 2]| {
            let (mut chunked, mut body) = (Chunked::new(), Vec::new());
            for mut part in parts {
                while !part.is_empty() && !chunked.is_done() {
                    let step = chunked.step(part, data_max)?;
                    assert!(step.used > 0, "a step uses something up");
                    body.extend_from_slice(&part[step.used - step.data..step.used]);
                    part = &part[step.used..];
                }
            }
            Ok::<_, Refusal>((body, chunked.is_done()))
        };
        let cut = cut.min(bytes.len());
        prop_assert_eq!(read([&bytes[..cut], &bytes[cut..]]), read([&bytes, &[]]));
    }
}
