//! An HTTP/1.1 server in plain threads (RFC 9110, RFC 9112). Accepting, limits, counting and the
//! graceful end are the RPC server's own (`port`).
//!
//! ```text
//!                      ┌───────────── connection thread ─────────────┐
//!  client ── bytes ──> input ──> head ──> Handler::handle(request, answer)
//!                                                │ body: read by the handler, waits for the client
//!                                                v
//!  client <── outbox <── Answer::send, Answer::stream, from any thread, now or later
//! ```
//!
//! ```
//! use syncraft_rpc::http::{Answer, Request, Response, Server};
//!
//! let handler = |request: &mut Request<'_>, answer: Answer| match request.raw_path() {
//!     "/" => answer.send(Response::text(200, "hello\n")),
//!     _ => answer.send(Response::text(404, "there is only /\n")),
//! };
//! let server = Server::builder(handler).bind("127.0.0.1:0").start()?;
//! println!("http://{}/", server.local_addr());
//! # Ok::<(), syncraft_rpc::ServerError>(())
//! ```
//!
//! # Requests of one connection
//!
//! They are served one after the other, also when they arrive together. The next one begins when
//! the answer before it is on its way, and no more than [`Limits::stream_unsent_max_bytes`] of it
//! are left to send. So a client that asks and does not read holds one answer, and the write
//! timeout cuts it. A handler runs on the connection's thread. It should leave what takes long to
//! others, which answer later; but it may wait for the body.
//!
//! # Streams
//!
//! The body of an answer may be a [`Stream`], which stays open for hours. Its sender never waits:
//! it is told that there is no room, and called back. A connection whose answer is a stream has no
//! thread after a tenth of a second. One thread, `http-parked`, waits for all of them, and tells
//! their senders when clients have gone. A client that ends its side of the connection counts as
//! gone.
//!
//! # What a client gets for what it does
//!
//! Each of these answers says in its body what is wrong, and ends the connection. What came before
//! on it is answered first. No other connection notices.
//!
//! A client that sends
//!
//! - bytes that do not begin a request; more than eight empty lines before one; half a head, and
//!   then the end of its stream: 400 (RFC 9112 §2.2, §8)
//! - a line that ends with LF alone; a CR within a line; any other control character: 400
//!   (RFC 9112 §2.2, RFC 9110 §5.5)
//! - a malformed request line; a continued line (obs-fold); a space before a colon: 400
//!   (RFC 9112 §3, §5.1, §5.2)
//! - HTTP/1.1 without `Host`, or any version with two; a `Host` that is not `HOST` or `HOST:PORT`,
//!   such as `a, b`; an empty one, unless the target names the host: 400 (RFC 9112 §3.2)
//! - both `Content-Length` and `Transfer-Encoding`: 400 (RFC 9112 §6.3)
//! - two `Content-Length`, or one that is not a number of digits, or too large a number:
//!   400 (RFC 9112 §6.3)
//! - `Transfer-Encoding` whose last coding is not `chunked` (also `xchunked`, `chunked;a=b`,
//!   `gzip`, and none); `chunked` twice, or in HTTP/1.0: 400 (RFC 9112 §6.1, §6.3)
//! - another transfer coding before `chunked`: 501 (RFC 9112 §6.1)
//! - a chunk whose size is no hexadecimal number or overflows 64 bits, or is followed by anything
//!   but spaces, an extension (`;`) and the end of the line; bad trailers: 400, by the handler:
//!   [`BodyError`] (RFC 9112 §7.1)
//! - a target that is neither a path, nor `http://HOST/PATH`, nor `*`; a fragment; bytes
//!   that are not printable ASCII: 400 (RFC 9112 §3.2)
//! - a percent sign without two hexadecimal digits behind it: 400 (RFC 3986 §2.1)
//! - a method other than those of [`Method`], also CONNECT and TRACE: 501 (RFC 9110 §9.1)
//! - HTTP/2 (its preface), or any version other than 1.0 and 1.1: 505 (RFC 9110 §15.6.6)
//! - a TLS hello: a TLS alert (RFC 8446 §6)
//! - an expectation other than `100-continue`: 417 (RFC 9110 §10.1.1)
//! - a target that does not fit into [`Limits::head_len_max_bytes`]: 414 (RFC 9110
//!   §15.5.15)
//! - a head that does not, or more than 100 fields: 431 (RFC 6585 §5)
//! - a body over [`Limits::body_len_max_bytes`] or the handler's limit: 413 (RFC 9110
//!   §15.5.14)
//! - a body that finds no room in [`Limits::bodies_max_bytes`]: 503, `Retry-After` (RFC
//!   9110 §15.6.4)
//! - half a head for [`Limits::head_timeout`], a body slower than [`Limits::body_timeout`]:
//!   408 (RFC 9110 §15.5.9)
//! - its first request over a connection too many, while none is idle: 503, `Retry-After` (RFC 9110
//!   §15.6.4)
//! - nothing, or only empty lines, for [`Limits::idle_timeout`]: nothing; closed (RFC 9112 §9.5)
//!
//! A path is bytes: `..`, `//`, `%00` and escapes that are not UTF-8 reach the handler as they are.
//! A request without a length has no body (RFC 9112 §6.3), so 411 is never sent. A client that is
//! not told to go on (`Expect: 100-continue`), because its request was answered without its body,
//! is told that the connection ends. So is a client of whose announced body more than 256 KiB are
//! unread when the answer begins. Where a connection ends, bytes that still come are read over
//! until none come for a second, at most for [`Limits::body_timeout`]: closing sooner would destroy
//! the answer. Header fields of answers have no line ends within them, whatever the handler gives.
//!
//! If requests have come over [`Limits::connections_max`] connections, and one comes over another,
//! the connection that has been idle longest is closed in its favour. A connection is idle if all
//! its requests are answered, no byte of a further one has come, and its answer is not an open
//! stream. So idle clients keep nobody out.
//!
//! While more than [`Limits::connections_max`] and eight clients are connected, the oldest one that
//! has not sent a whole request makes room for the next: half-sent heads keep nobody out.
//!
//! # Files
//!
//! | file | what |
//! |---|---|
//! | `server`, `limits` | what users see: how a server is made, its bounds |
//! | `request`, `body`, `answer`, `response`, `date` | what handlers see |
//! | `reader` | a connection's thread |
//! | `parked` | the thread for connections without one |
//! | `connection` | what the threads of one connection share |
//! | `head`, `target`, `chunked`, `refusal` | the protocol, without sockets |
//! | `input` | bytes that have arrived |
//!
//! # Threads
//!
//! `http-accept`; `http-conn-PORT` for each connection; `http-send-PORT` for each connection whose
//! client reads slowly; `http-parked`. [`Server::stop`] joins them.
//!
//! # Left out
//!
//! HTTP/2, compression, ranges, `Upgrade`, trailers (they are read over).

mod answer;
mod body;
mod chunked;
mod connection;
mod date;
mod head;
mod input;
mod limits;
mod parked;
mod reader;
mod refusal;
mod request;
mod response;
mod server;
mod target;
#[cfg(test)]
mod tests;

pub use answer::{Answer, Stream, StreamError};
pub use body::{Body, BodyError};
pub use head::Method;
pub use limits::Limits;
use refusal::Refusal;
pub use request::Request;
pub use response::Response;
pub use server::{Server, ServerBuilder, Stats};

/// What answers requests.
pub trait Handler: Send + Sync + 'static {
    /// Answers a request, now or later. It runs on the thread of the request's connection, whose
    /// stack is 256 KiB. Whatever waits long, except for the body, belongs on another thread.
    fn handle(&self, request: &mut Request<'_>, answer: Answer);
}

impl<F> Handler for F
where
    F: Fn(&mut Request<'_>, Answer) + Send + Sync + 'static,
{
    fn handle(&self, request: &mut Request<'_>, answer: Answer) {
        self(request, answer);
    }
}
