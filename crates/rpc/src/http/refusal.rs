//! [`Refusal`]: why a request is not one that can be served, with the status that says so.

/// What is wrong with what a client has sent. After its answer the connection ends, because where
/// the next request begins is not known, or not worth waiting for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("a TLS hello: this port speaks HTTP in the clear")]
    Tls,
    #[error("not an HTTP request")]
    NotHttp,
    #[error("too many empty lines before a request")]
    EmptyLines,
    #[error("a line that does not end with CR LF")]
    BareLf,
    #[error("a CR that does not end a line")]
    BareCr,
    #[error("a control character in the head")]
    Control,
    #[error("the head ends in the middle")]
    Truncated,
    #[error("the request line is malformed")]
    RequestLine,
    #[error("a header field is malformed")]
    Field,
    #[error("an HTTP/1.1 request has one Host field, which says HOST or HOST:PORT")]
    Host,
    #[error("the target is malformed")]
    Target,
    #[error("a percent sign that two hexadecimal digits do not follow")]
    Escape,
    #[error("both Content-Length and Transfer-Encoding")]
    BothLengths,
    #[error("Content-Length is not one number")]
    ContentLength,
    #[error("chunked is not the last transfer coding, or comes twice, or in HTTP/1.0")]
    NotChunkedLast,
    #[error("a transfer coding other than chunked")]
    UnknownCoding,
    #[error("a chunk is malformed")]
    Chunk,
    #[error("only HTTP/1.0 and HTTP/1.1 are spoken here")]
    Version,
    #[error("this method is not known here")]
    UnknownMethod,
    #[error("only 100-continue can be expected")]
    Expectation,
    #[error("the target is too long")]
    TargetTooLong,
    #[error("the head is too long, or has too many fields")]
    HeadTooLong,
    #[error("the body is too long")]
    BodyTooLong,
    #[error("the request took too long to arrive")]
    TooSlow,
    #[error("too many connections are open")]
    TooManyConnections,
}

impl Refusal {
    /// The status code; 0: the client does not speak HTTP.
    pub(super) fn status(self) -> u16 {
        match self {
            Refusal::Tls => 0,
            Refusal::NotHttp
            | Refusal::EmptyLines
            | Refusal::BareLf
            | Refusal::BareCr
            | Refusal::Control
            | Refusal::Truncated
            | Refusal::RequestLine
            | Refusal::Field
            | Refusal::Host
            | Refusal::Target
            | Refusal::Escape
            | Refusal::BothLengths
            | Refusal::ContentLength
            | Refusal::NotChunkedLast
            | Refusal::Chunk => 400,
            Refusal::TooSlow => 408,
            Refusal::BodyTooLong => 413,
            Refusal::TargetTooLong => 414,
            Refusal::Expectation => 417,
            Refusal::HeadTooLong => 431,
            Refusal::UnknownCoding | Refusal::UnknownMethod => 501,
            Refusal::TooManyConnections => 503,
            Refusal::Version => 505,
        }
    }
}
