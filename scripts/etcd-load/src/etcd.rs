//! etcd's v3 calls that the load needs, on one HTTP/2 connection: `KV.Put`, `KV.Range`, `KV.Txn`,
//! `Watch.Watch`, `Lease.LeaseGrant`, `Lease.LeaseKeepAlive` and `Maintenance.Status`.
//!
//! A gRPC call is a POST whose body is one message behind five bytes (not compressed: 0; then its length, big endian), and whose
//! trailers hold the outcome, `grpc-status`. Only the fields that are used are declared; protobuf skips the others.

use std::fmt;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::RecvStream;
use h2::client::SendRequest;
use http::header::{CONTENT_TYPE, TE};
use http::{HeaderMap, Request};
use prost::Message;
use tokio::net::TcpStream;

use crate::lease::{LeaseGrantRequest, LeaseGrantResponse};
use crate::stream::{Replies, Requests};

/// Frames of a window's worth of answers may be under way before the server has to wait for us.
const WINDOW_LEN: u32 = 8 << 20;
pub const PREFIX_LEN: usize = 5;

#[derive(Message)]
pub struct PutRequest {
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    pub value: Bytes,
}

#[derive(Message)]
pub struct PutResponse {
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
}

/// Linearizable, as field 7 (`serializable`) is not set.
#[derive(Message)]
pub struct RangeRequest {
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// Empty for the key alone.
    #[prost(bytes = "bytes", tag = "2")]
    pub range_end: Bytes,
    #[prost(bool, tag = "8")]
    pub keys_only: bool,
    #[prost(bool, tag = "9")]
    pub count_only: bool,
}

#[derive(Message)]
pub struct RangeResponse {
    #[prost(message, repeated, tag = "2")]
    pub kvs: Vec<KeyValue>,
    #[prost(int64, tag = "4")]
    pub count: i64,
}

/// All that a client of syncraft gets of an entry, too.
#[derive(Message)]
pub struct KeyValue {
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    #[prost(int64, tag = "2")]
    pub create_revision: i64,
    #[prost(int64, tag = "3")]
    pub mod_revision: i64,
    #[prost(int64, tag = "4")]
    pub version: i64,
    #[prost(bytes = "bytes", tag = "5")]
    pub value: Bytes,
    #[prost(int64, tag = "6")]
    pub lease: i64,
}

#[derive(Message)]
pub struct TxnRequest {
    #[prost(message, repeated, tag = "1")]
    pub compare: Vec<Compare>,
    #[prost(message, repeated, tag = "2")]
    pub success: Vec<RequestOp>,
    #[prost(message, repeated, tag = "3")]
    pub failure: Vec<RequestOp>,
}

/// Whether the mod revision of a key is equal to a number: field 1 (`result`) is not set, which
/// means "equal".
#[derive(Message)]
pub struct Compare {
    /// [`Compare::MOD`].
    #[prost(int32, tag = "2")]
    pub target: i32,
    #[prost(bytes = "bytes", tag = "3")]
    pub key: Bytes,
    /// One of a `oneof`: sent also if it is 0, which means "absent".
    #[prost(int64, optional, tag = "6")]
    pub mod_revision: Option<i64>,
}

impl Compare {
    pub const MOD: i32 = 2;
}

/// One of the two.
#[derive(Message)]
pub struct RequestOp {
    #[prost(message, optional, tag = "1")]
    pub range: Option<RangeRequest>,
    #[prost(message, optional, tag = "2")]
    pub put: Option<PutRequest>,
}

#[derive(Message)]
pub struct TxnResponse {
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    #[prost(bool, tag = "2")]
    pub succeeded: bool,
    #[prost(message, repeated, tag = "3")]
    pub responses: Vec<ResponseOp>,
}

/// Empty after a put.
#[derive(Message)]
pub struct ResponseOp {
    #[prost(message, optional, tag = "1")]
    pub range: Option<RangeResponse>,
}

#[derive(Message)]
struct StatusRequest {}

#[derive(Message)]
struct StatusResponse {
    #[prost(message, tag = "1")]
    header: Option<ResponseHeader>,
    #[prost(uint64, tag = "4")]
    leader: u64,
}

#[derive(Message)]
pub struct ResponseHeader {
    #[prost(uint64, tag = "2")]
    pub member_id: u64,
    /// Of the store, when the call was done.
    #[prost(int64, tag = "3")]
    pub revision: i64,
}

/// A call that has no answer.
#[derive(Debug)]
pub enum Error {
    /// The connection failed: whether the call took effect is not known.
    Connection(h2::Error),
    /// The member refused, with a `grpc-status` and words.
    Status(u32, String),
    /// The answer is not what it should be.
    Malformed,
    /// The member ended a stream.
    Ended,
}

impl Error {
    /// Whether the call may do better at another time or another member.
    pub fn is_retryable(&self) -> bool {
        // Unknown (raft dropped the proposal), deadline exceeded, aborted, internal, unavailable.
        matches!(self, Error::Connection(_) | Error::Status(2 | 4 | 10 | 13 | 14, _))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Connection(error) => write!(f, "connection: {error}"),
            Error::Status(code, message) => write!(f, "grpc-status {code}: {message}"),
            Error::Malformed => write!(f, "the answer is malformed"),
            Error::Ended => write!(f, "the member ended the stream"),
        }
    }
}

impl std::error::Error for Error {}

impl From<h2::Error> for Error {
    fn from(error: h2::Error) -> Error {
        Error::Connection(error)
    }
}

/// A connection to one member; clones share it.
#[derive(Clone)]
pub struct Connection {
    stream: SendRequest<Bytes>,
    put: Request<()>,
    range: Request<()>,
    txn: Request<()>,
    watch: Request<()>,
    grant: Request<()>,
    keep_alive: Request<()>,
    status: Request<()>,
}

impl Connection {
    pub async fn open(addr: &str) -> Result<Connection, Box<dyn std::error::Error + Send + Sync>> {
        let socket = TcpStream::connect(addr).await?;
        socket.set_nodelay(true)?;
        let (stream, driver) = h2::client::Builder::new()
            .initial_window_size(WINDOW_LEN)
            .initial_connection_window_size(WINDOW_LEN)
            .handshake(socket)
            .await?;
        // Its error reaches the calls as well.
        tokio::spawn(driver);
        Ok(Connection {
            stream,
            put: head(addr, "etcdserverpb.KV/Put")?,
            range: head(addr, "etcdserverpb.KV/Range")?,
            txn: head(addr, "etcdserverpb.KV/Txn")?,
            watch: head(addr, "etcdserverpb.Watch/Watch")?,
            grant: head(addr, "etcdserverpb.Lease/LeaseGrant")?,
            keep_alive: head(addr, "etcdserverpb.Lease/LeaseKeepAlive")?,
            status: head(addr, "etcdserverpb.Maintenance/Status")?,
        })
    }

    pub async fn put(&self, request: &PutRequest) -> Result<PutResponse, Error> {
        self.call(&self.put, request).await
    }

    pub async fn range(&self, request: &RangeRequest) -> Result<RangeResponse, Error> {
        self.call(&self.range, request).await
    }

    pub async fn txn(&self, request: &TxnRequest) -> Result<TxnResponse, Error> {
        self.call(&self.txn, request).await
    }

    pub async fn grant(&self, request: &LeaseGrantRequest) -> Result<LeaseGrantResponse, Error> {
        self.call(&self.grant, request).await
    }

    /// Opens a stream of watches with a first request.
    pub async fn watch(&self, first: &impl Message) -> Result<(Requests, Replies), Error> {
        self.open_stream(&self.watch, first).await
    }

    /// Opens a stream of keep-alives with a first one.
    pub async fn keep_alive(&self, first: &impl Message) -> Result<(Requests, Replies), Error> {
        self.open_stream(&self.keep_alive, first).await
    }

    /// Whether the member says that it leads.
    pub async fn is_leader(&self) -> Result<bool, Error> {
        let status: StatusResponse = self.call(&self.status, &StatusRequest {}).await?;
        Ok(status.header.is_some_and(|header| header.member_id == status.leader))
    }

    async fn call<R: Message + Default>(
        &self,
        head: &Request<()>,
        request: &impl Message,
    ) -> Result<R, Error> {
        let mut stream = self.stream.clone().ready().await?;
        let (response, mut body) = stream.send_request(head.clone(), false)?;
        body.send_data(frame(request), true)?;
        let (head, body) = response.await?.into_parts();
        receive(&head.headers, body).await
    }

    async fn open_stream(
        &self,
        head: &Request<()>,
        first: &impl Message,
    ) -> Result<(Requests, Replies), Error> {
        let mut stream = self.stream.clone().ready().await?;
        let (response, body) = stream.send_request(head.clone(), false)?;
        let mut requests = Requests::new(body);
        requests.send(first)?;
        Ok((requests, Replies::new(response)))
    }
}

fn head(addr: &str, method: &str) -> Result<Request<()>, http::Error> {
    Request::post(format!("http://{addr}/{method}"))
        .header(CONTENT_TYPE, "application/grpc")
        .header(TE, "trailers")
        .body(())
}

pub fn frame(message: &impl Message) -> Bytes {
    let len = message.encoded_len();
    let mut frame = BytesMut::with_capacity(PREFIX_LEN + len);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(len).expect("a message is far below 4 GiB"));
    message.encode(&mut frame).expect("there is room for it");
    frame.freeze()
}

async fn receive<R: Message + Default>(
    headers: &HeaderMap,
    mut body: RecvStream,
) -> Result<R, Error> {
    // A refusal may come without a body; its status is then where the headers are.
    check_status(headers)?;
    let mut chunks = Vec::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        chunks.push(chunk);
    }
    if let Some(trailers) = body.trailers().await? {
        check_status(&trailers)?;
    }
    let mut message = joined(chunks);
    if message.len() < PREFIX_LEN {
        return Err(Error::Malformed);
    }
    message.advance(PREFIX_LEN);
    // Keys and values are then parts of it, not copies.
    R::decode(message).map_err(|_| Error::Malformed)
}

/// Each byte is copied once, or not at all if there is one chunk.
fn joined(mut chunks: Vec<Bytes>) -> Bytes {
    match chunks.len() {
        1 => chunks.remove(0),
        _ => chunks.concat().into(),
    }
}

pub fn check_status(headers: &HeaderMap) -> Result<(), Error> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    match text("grpc-status") {
        None | Some("0") => Ok(()),
        Some(code) => Err(Error::Status(
            code.parse().unwrap_or(2),
            text("grpc-message").unwrap_or("").to_owned(),
        )),
    }
}
