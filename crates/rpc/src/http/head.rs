//! The head of a request: where it ends, and what it says. Pure: no sockets, no clock.
//!
//! The bytes are first searched for the end of the head, line by line, and whatever no HTTP client
//! sends is refused as soon as it comes. `httparse` reads the whole head. What follows from its
//! fields is decided here.
//!
//! The server half of `ureq-proto` (0.7.1) was tried in its place. It stands on `httparse`, too,
//! and takes what is refused here: both lengths at once (as chunked), every transfer coding as
//! chunked, lines that end with LF alone, requests without a `Host` or with two. So all of this
//! would be checked beside it, over types of one more crate.

use std::ops::Range;

use super::Refusal;
use super::limits::FIELDS_MAX;
use super::target::{Target, is_authority};

/// What a request asks for. Others are answered with 501.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Method {
    /// GET
    Get,
    /// HEAD: as GET, without the body of the answer, which the server leaves out by itself.
    Head,
    /// POST
    Post,
    /// PUT
    Put,
    /// PATCH
    Patch,
    /// DELETE
    Delete,
    /// OPTIONS
    Options,
}

impl Method {
    fn parse(word: &str) -> Option<Method> {
        Some(match word {
            "GET" => Method::Get,
            "HEAD" => Method::Head,
            "POST" => Method::Post,
            "PUT" => Method::Put,
            "PATCH" => Method::Patch,
            "DELETE" => Method::Delete,
            "OPTIONS" => Method::Options,
            _ => return None,
        })
    }
}

/// How the body of a request is framed (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    Length(u64),
    Chunked,
}

/// The head of a request that can be served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// All of its bytes.
    text: Vec<u8>,
    /// The names and values of its fields within `text`.
    fields: Vec<(Range<usize>, Range<usize>)>,
    pub(super) method: Method,
    pub(super) target: Target,
    /// HTTP/1.0: the client knows no chunks.
    pub(super) is_http_1_0: bool,
    pub(super) framing: Framing,
    pub(super) expects_continue: bool,
    /// Whether the client wants to send another request afterwards.
    pub(super) keeps_alive: bool,
}

/// Searches for the end of a head as its bytes arrive.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// How many bytes were searched.
    scanned: usize,
    has_line: bool,
}

impl Scan {
    /// Whether no head has begun to arrive.
    pub(super) fn is_new(&self) -> bool {
        self.scanned == 0
    }

    /// How many bytes the head has, if all of it is in `bytes`. These begin with it, and only grow
    /// between two calls.
    pub(super) fn end(&mut self, bytes: &[u8], len_max: usize) -> Result<Option<usize>, Refusal> {
        let len = bytes.len().min(len_max);
        while self.scanned < len {
            let at = self.scanned;
            let (byte, before) = (bytes[at], at.checked_sub(1).map(|before| bytes[before]));
            match byte {
                0x16 if at == 0 => return Err(Refusal::Tls),
                // The first half of an empty line before the head.
                b'\r' if at == 0 && bytes.len() == 1 => return Ok(None),
                _ if at == 0 && !is_token(byte) => return Err(Refusal::NotHttp),
                b'\n' if before != Some(b'\r') => return Err(Refusal::BareLf),
                b'\n' if bytes[..=at].ends_with(b"\r\n\r\n") => return Ok(Some(at + 1)),
                b'\n' => self.has_line = true,
                _ if before == Some(b'\r') => return Err(Refusal::BareCr),
                b'\r' | b'\t' => {}
                0..=0x1f | 0x7f => return Err(Refusal::Control),
                _ => {}
            }
            self.scanned += 1;
        }
        match bytes.len() >= len_max {
            false => Ok(None),
            true if self.has_line => Err(Refusal::HeadTooLong),
            true => Err(Refusal::TargetTooLong),
        }
    }
}

/// How many bytes of empty lines there are before a head (RFC 9112 §2.2).
pub(super) fn empty_lines(bytes: &[u8]) -> usize {
    bytes.chunks(2).take_while(|line| *line == b"\r\n").count() * 2
}

/// Whether it may be a part of a name (RFC 9110 §5.6.2).
pub(super) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

impl Head {
    /// Reads a head, up to and with the empty line.
    pub(super) fn parse(text: &[u8]) -> Result<Head, Refusal> {
        let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let mut request = httparse::Request::new(&mut fields);
        let is_whole = request.parse(text).map_err(|error| refusal(error, text))?.is_complete();
        let (Some(method), Some(target), Some(version), true) =
            (request.method, request.path, request.version, is_whole)
        else {
            return Err(Refusal::RequestLine);
        };
        let is_http_1_0 = version == 0;
        let fields = Fields(request.headers);
        let method = Method::parse(method).ok_or(Refusal::UnknownMethod)?;
        let target = Target::parse(target)?;
        fields.check_host(is_http_1_0, target.authority().is_some())?;
        let framing = fields.framing(is_http_1_0)?;
        let (expects_continue, keeps_alive) =
            (fields.expects_continue(is_http_1_0)?, fields.keeps_alive(is_http_1_0));
        let range = |part: &[u8]| {
            let begin = part.as_ptr() as usize - text.as_ptr() as usize;
            begin..begin + part.len()
        };
        let fields = fields.0.iter().map(|it| (range(it.name.as_bytes()), range(trim(it.value))));
        let (text, fields) = (text.to_vec(), fields.collect());
        Ok(Head {
            text,
            fields,
            method,
            target,
            is_http_1_0,
            framing,
            expects_continue,
            keeps_alive,
        })
    }

    /// The fields, in their order.
    pub(super) fn fields(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.fields.iter().map(|(name, value)| {
            let name = std::str::from_utf8(&self.text[name.clone()]);
            (name.expect("names are ASCII"), &self.text[value.clone()])
        })
    }
}

fn refusal(error: httparse::Error, text: &[u8]) -> Refusal {
    match error {
        httparse::Error::TooManyHeaders => Refusal::HeadTooLong,
        httparse::Error::HeaderName | httparse::Error::HeaderValue => Refusal::Field,
        httparse::Error::Version if names_http(text) => Refusal::Version,
        _ => Refusal::RequestLine,
    }
}

/// Whether the request line ends with a version of HTTP.
fn names_http(text: &[u8]) -> bool {
    let line = text.split(|&byte| byte == b'\r').next().unwrap_or_default();
    let version = line.rsplit(|&byte| byte == b' ').next().unwrap_or_default();
    matches!(version, [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'])
}

fn trim(value: &[u8]) -> &[u8] {
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t');
    let begin = value.iter().position(|byte| !is_space(byte)).unwrap_or(value.len());
    let end = value.iter().rposition(|byte| !is_space(byte)).map_or(begin, |last| last + 1);
    &value[begin..end]
}

/// The fields of a head, and what follows from them.
struct Fields<'a>(&'a [httparse::Header<'a>]);

impl<'a> Fields<'a> {
    fn values(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        let fields = self.0.iter().filter(move |field| field.name.eq_ignore_ascii_case(name));
        fields.map(|field| trim(field.value))
    }

    /// The elements of a list, over all fields of this name (RFC 9110 §5.6.1).
    fn words(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        let lists = self.values(name).flat_map(|value| value.split(|&byte| byte == b','));
        lists.map(trim).filter(|word| !word.is_empty())
    }

    /// RFC 9112 §3.2. Only a target that names its host itself may leave it out of the field.
    fn check_host(&self, is_http_1_0: bool, is_absolute: bool) -> Result<(), Refusal> {
        let mut values = self.values("host");
        let is_right = match (values.next(), values.next()) {
            (None, _) => is_http_1_0,
            (Some(b""), None) => is_absolute,
            (Some(host), None) => is_authority(host),
            (Some(_), Some(_)) => false,
        };
        if is_right { Ok(()) } else { Err(Refusal::Host) }
    }

    /// RFC 9112 §6.1 to §6.3.
    fn framing(&self, is_http_1_0: bool) -> Result<Framing, Refusal> {
        let mut lengths = self.values("content-length");
        let length = lengths.next();
        if self.values("transfer-encoding").next().is_none() {
            return match (length, lengths.next()) {
                (None, _) => Ok(Framing::Length(0)),
                (Some(length), None) => number(length).map(Framing::Length),
                (Some(_), Some(_)) => Err(Refusal::ContentLength),
            };
        }
        if length.is_some() {
            return Err(Refusal::BothLengths);
        }
        let codings: Vec<&[u8]> = self.words("transfer-encoding").collect();
        let is_chunked = |coding: &[u8]| coding.eq_ignore_ascii_case(b"chunked");
        match &codings[..] {
            [one] if is_chunked(one) && !is_http_1_0 => Ok(Framing::Chunked),
            [others @ .., last]
                if is_chunked(last) && !is_http_1_0 && !others.iter().any(|it| is_chunked(it)) =>
            {
                Err(Refusal::UnknownCoding)
            }
            _ => Err(Refusal::NotChunkedLast),
        }
    }

    /// RFC 9110 §10.1.1.
    fn expects_continue(&self, is_http_1_0: bool) -> Result<bool, Refusal> {
        let mut expects = false;
        for word in self.words("expect").filter(|_| !is_http_1_0) {
            if !word.eq_ignore_ascii_case(b"100-continue") {
                return Err(Refusal::Expectation);
            }
            expects = true;
        }
        Ok(expects)
    }

    /// RFC 9112 §9.3.
    fn keeps_alive(&self, is_http_1_0: bool) -> bool {
        let says =
            |option: &[u8]| self.words("connection").any(|word| word.eq_ignore_ascii_case(option));
        !says(b"close") && (!is_http_1_0 || says(b"keep-alive"))
    }
}

/// A number of decimal digits only: no sign, no list.
fn number(digits: &[u8]) -> Result<u64, Refusal> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(Refusal::ContentLength);
    }
    let text = std::str::from_utf8(digits).expect("digits are ASCII");
    text.parse().map_err(|_| Refusal::ContentLength)
}
