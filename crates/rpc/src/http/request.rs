//! [`Request`]: what a handler sees of a request.

use std::borrow::Cow;
use std::net::SocketAddr;

use super::head::Head;
use super::target::{decode, decode_query};
use super::{Body, Method, Stats};

/// A request. Its head has arrived; its body is read by the handler.
#[derive(Debug)]
pub struct Request<'c> {
    pub(super) head: &'c Head,
    pub(super) peer: SocketAddr,
    pub(super) body: Body<'c>,
}

impl<'c> Request<'c> {
    /// What the client wants done.
    pub fn method(&self) -> Method {
        self.head.method
    }

    /// The host that the client asks for, perhaps with a port: that of a target in absolute-form
    /// (`http://HOST/PATH`), or else that of the `Host` field (RFC 9112 §3.2.2). Whoever looks only
    /// at the field may be told one host and serve another. `None`: a client of HTTP/1.0 has named
    /// none.
    pub fn host(&self) -> Option<&str> {
        let of_field = || self.header("host").and_then(|value| std::str::from_utf8(value).ok());
        self.head.target.authority().or_else(of_field)
    }

    /// The path as it was sent, in printable ASCII, with its escapes. It begins with a slash, or is
    /// `*`. Nothing in it has a meaning to the server: `..` and empty parts stay as they are.
    pub fn raw_path(&self) -> &str {
        self.head.target.path()
    }

    /// The bytes that the path stands for. They need not be UTF-8.
    pub fn path(&self) -> Cow<'_, [u8]> {
        decode(self.raw_path())
    }

    /// The query as it was sent, without the question mark.
    pub fn raw_query(&self) -> Option<&str> {
        self.head.target.query()
    }

    /// The parts `name=value` of the query, in their order. A part without `=` has an empty value.
    /// A plus sign stands for a space.
    pub fn query(&self) -> impl Iterator<Item = (Cow<'_, [u8]>, Cow<'_, [u8]>)> {
        let parts = self.raw_query().unwrap_or_default().split('&');
        parts.filter(|part| !part.is_empty()).map(|part| {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            (decode_query(name), decode_query(value))
        })
    }

    /// The value of the first header field of this name, whatever its case.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// All header fields, in their order. Values have no spaces around them.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.head.fields()
    }

    /// The client's address.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// What the server that got this request has done so far, with this request.
    pub fn server_stats(&self) -> Stats {
        self.body.server_stats()
    }

    /// The body, as far as it has not been read.
    pub fn body(&mut self) -> &mut Body<'c> {
        &mut self.body
    }
}
