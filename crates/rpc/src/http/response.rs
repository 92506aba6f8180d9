//! [`Response`]: what a request is answered with, and its bytes.

use std::borrow::Cow;
use std::fmt::Write;

use bytes::Bytes;

use super::date;
use super::head::is_token;

/// An answer with its whole body.
///
/// ```
/// use syncraft_rpc::http::Response;
///
/// let response = Response::text(404, "no such page\n").header("Cache-Control", "no-store");
/// assert_eq!(response.status(), 404);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    pub(super) start: Start,
    pub(super) body: Bytes,
}

/// The status and the header fields of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Start {
    status: u16,
    fields: Vec<(Cow<'static, str>, String)>,
}

impl Response {
    /// An answer with this status code, from 200 to 599, and without a body.
    pub fn new(status: u16) -> Response {
        assert!((200..600).contains(&status), "{status} is not the status of an answer");
        Response { start: Start { status, fields: Vec::new() }, body: Bytes::new() }
    }

    /// An answer of UTF-8 text.
    pub fn text(status: u16, text: impl Into<String>) -> Response {
        let response = Response::new(status).header("Content-Type", "text/plain; charset=utf-8");
        response.body(text.into())
    }

    /// The same, with a header field more. In `value`, line ends and other control characters
    /// become spaces, so that no value can begin another field.
    ///
    /// # Panics
    ///
    /// If `name` is not a name, or one that the server itself sets: `Connection`, `Content-Length`,
    /// `Date`, `Transfer-Encoding`.
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Response {
        self.start.add(name.into(), value.into());
        self
    }

    /// The same, with this body.
    pub fn body(mut self, body: impl Into<Bytes>) -> Response {
        self.body = body.into();
        self
    }

    /// The status code.
    pub fn status(&self) -> u16 {
        self.start.status
    }
}

/// How the end of an answer's body is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ends {
    After(usize),
    WithLastChunk,
    WithConnection,
}

impl Start {
    fn add(&mut self, name: Cow<'static, str>, value: String) {
        const OWN: [&str; 4] = ["connection", "content-length", "date", "transfer-encoding"];
        assert!(!name.is_empty() && name.bytes().all(is_token), "{name:?} is not a field's name");
        assert!(!OWN.iter().any(|own| name.eq_ignore_ascii_case(own)), "the server sets {name}");
        let is_safe = |c: char| c == '\t' || !c.is_control();
        let value = match value.chars().all(is_safe) {
            true => value,
            false => value.chars().map(|c| if is_safe(c) { c } else { ' ' }).collect(),
        };
        self.fields.push((name, value));
    }

    /// Whether there may be a body (RFC 9110 §6.4.1).
    pub(super) fn has_body(&self) -> bool {
        !matches!(self.status, 204 | 304)
    }

    /// The bytes of the head. `closes`: the connection ends after this answer.
    pub(super) fn encode(&self, ends: Ends, closes: bool, is_http_1_0: bool) -> Vec<u8> {
        let mut head = String::with_capacity(256);
        let Start { status, fields } = self;
        // Writing to a string does not fail.
        let _ = write!(head, "HTTP/1.1 {status} {}\r\nDate: {}\r\n", reason(*status), date::now());
        for (name, value) in fields {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        match ends {
            // RFC 9110 §8.6: there is no length where there never is a body.
            Ends::After(_) if !self.has_body() => {}
            Ends::After(len) => {
                let _ = write!(head, "Content-Length: {len}\r\n");
            }
            Ends::WithLastChunk => head.push_str("Transfer-Encoding: chunked\r\n"),
            Ends::WithConnection => {}
        }
        match (closes, is_http_1_0) {
            (true, _) => head.push_str("Connection: close\r\n"),
            (false, true) => head.push_str("Connection: keep-alive\r\n"),
            (false, false) => {}
        }
        head.push_str("\r\n");
        head.into_bytes()
    }
}

/// The words of a status (RFC 9110 §15, RFC 6585).
fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        301 => "Moved Permanently",
        302 => "Found",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        417 => "Expectation Failed",
        422 => "Unprocessable Content",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        507 => "Insufficient Storage",
        _ => "Other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(response: &Response, ends: Ends, closes: bool, is_http_1_0: bool) -> Vec<String> {
        let head = String::from_utf8(response.start.encode(ends, closes, is_http_1_0)).unwrap();
        let lines = head.strip_suffix("\r\n\r\n").unwrap().split("\r\n");
        lines.filter(|line| !line.starts_with("Date: ")).map(str::to_owned).collect()
    }

    #[test]
    fn a_head_says_how_the_body_ends() {
        let ok = Response::new(200);
        let check = |ends, closes, is_http_1_0, rest: &[&str]| {
            let expected: Vec<&str> = [&["HTTP/1.1 200 OK"], rest].concat();
            assert_eq!(lines(&ok, ends, closes, is_http_1_0), expected);
        };
        check(Ends::After(7), false, false, &["Content-Length: 7"]);
        check(Ends::After(0), true, false, &["Content-Length: 0", "Connection: close"]);
        check(Ends::WithLastChunk, false, false, &["Transfer-Encoding: chunked"]);
        check(Ends::WithConnection, true, true, &["Connection: close"]);
        check(Ends::After(1), false, true, &["Content-Length: 1", "Connection: keep-alive"]);
        assert_eq!(lines(&Response::new(304), Ends::After(0), false, false).len(), 1);
    }

    #[test]
    fn no_value_begins_another_field() {
        let response = Response::new(200).header("X", "a\r\nSet-Cookie: b\n\0\x7f\u{85}c\td");
        let lines = lines(&response, Ends::After(0), false, false);
        assert_eq!(lines[1], "X: a  Set-Cookie: b    c\td");
        assert_eq!(lines.len(), 3);
    }

    #[test]
    #[should_panic(expected = "the server sets Content-Length")]
    fn what_the_server_sets_is_not_set_twice() {
        let _ = Response::new(200).header("Content-Length", "7");
    }
}
