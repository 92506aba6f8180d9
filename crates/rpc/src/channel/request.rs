//! A call as bytes: the frame that it sends, and the reply that it gets.

use std::io;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::config::{Config, Framing};
use super::parked::CallResult;
use crate::builtin::RpcStub;
use crate::error::Unsendable;
use crate::frame::encode;
use crate::header::RpcHeader;
use crate::payload::CODEC_PROTOBUF;
use crate::service::Reply;
use crate::stream::Kind;
use crate::{CallError, CallOptions, ErrorChain, Method, Payload, PayloadError, RequestId};

/// A call to make.
pub(super) struct Request<'a> {
    pub(super) method: &'a Method,
    pub(super) options: &'a CallOptions,
    pub(super) codec: u32,
    /// The arguments, or why there are none.
    pub(super) args: Result<Reply<'a>, PayloadError>,
    pub(super) deadline: Instant,
    pub(super) decodes: fn(&Bytes) -> bool,
    /// If the call opens a stream.
    pub(super) stream: Option<OpenStream>,
}

/// What a call that opens a stream says beside the rest.
#[derive(Clone, Copy)]
pub(super) struct OpenStream {
    pub(super) kind: Kind,
    /// What the server may send.
    pub(super) credit: u64,
    pub(super) has_deadline: bool,
}

impl Request<'_> {
    /// The frame of the call with this id, which has `time_left`.
    ///
    /// # Errors
    ///
    /// [`Unsendable`]: the arguments cannot be serialized, or are too long.
    pub(super) fn encode(
        &self,
        config: &Config,
        id: u64,
        time_left: Duration,
    ) -> io::Result<Bytes> {
        let refuse = |words: String| Err(Unsendable(words).into());
        let limit = config.limits.body_len_max_bytes;
        let args = match &self.args {
            Ok(args) if args.len <= limit => args,
            Ok(args) => {
                return refuse(format!(
                    "arguments of {} bytes: at most {limit} are sent",
                    args.len
                ));
            }
            Err(error) => {
                return refuse(format!(
                    "the arguments cannot be serialized: {}",
                    ErrorChain(error)
                ));
            }
        };
        if self.stream.is_some() && config.framing != Framing::Extended {
            return refuse("a documented framing has no streams".to_owned());
        }
        let mut head = RpcHeader {
            service_name: Bytes::from_static(self.method.service.as_bytes()),
            method_name: Bytes::from_static(self.method.name.as_bytes()),
            // Within the limit, which fits a u32: the builder has seen to it.
            args_size: args.len as u32,
            ..RpcHeader::default()
        };
        if config.framing == Framing::Extended {
            head.call_id = id;
            // Rounded up, and at least 1: 0 would mean no limit.
            head.deadline_ms =
                time_left.as_micros().div_ceil(1000).max(1).try_into().unwrap_or(u32::MAX);
            head.caller = config.caller.clone();
            let CallOptions { version, trace, request: id, .. } = self.options;
            (head.codec, head.version, head.trace) = (self.codec, *version, trace.clone());
            if let Some(RequestId { client, number, attempt }) = id {
                (head.client_id, head.request_id, head.attempt) =
                    (client.clone(), *number, *attempt);
            }
            if let Some(OpenStream { kind, credit, has_deadline }) = self.stream {
                (head.stream, head.credit) = (kind as u32, credit);
                head.deadline_ms = if has_deadline { head.deadline_ms } else { 0 };
            }
        }
        Ok(encode(config.head_size(), &head, args.write))
    }
}

/// The frame of a ping with this id.
pub(super) fn encode_ping(config: &Config, id: u64) -> io::Result<Bytes> {
    let request = Request {
        method: &RpcStub::PING,
        options: &CallOptions::default(),
        codec: CODEC_PROTOBUF,
        args: Ok(Reply { len: 0, write: &|_| {} }),
        deadline: Instant::now(),
        decodes: |_| true,
        stream: None,
    };
    request.encode(config, id, config.ping_interval)
}

/// Whether `bytes` are a whole reply.
pub(super) fn decodes<R: Payload>(bytes: &Bytes) -> bool {
    R::read(bytes.clone()).is_ok()
}

/// The reply in an outcome.
pub(super) fn decode<R: Payload>(addr: &str, outcome: CallResult) -> Result<R, CallError> {
    R::read(outcome?).map_err(|error| CallError::BadReply {
        addr: addr.to_owned(),
        reason: ErrorChain(&error).to_string(),
    })
}
