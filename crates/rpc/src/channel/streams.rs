//! Streams of a channel: how one is opened, what the server's frames do, how it ends.

use std::sync::{Arc, Weak};
use std::time::Instant;

use bytes::Bytes;

use super::Channel;
use super::lent::Lent;
use super::parked::{CallResult, Waiter};
use super::request::{OpenStream, Request};
use super::shared::Shared;
use crate::header::RpcReplyHeader;
use crate::net::without_end;
use crate::service::Reply;
use crate::stream::{
    Cause, FIRST_CREDIT_BYTES, Incoming, Kind, Opening, Over, Owner, ReceiveWindow, SendCredit,
    Sender, Side, Stream, StreamReply, Wire,
};
use crate::{CallError, CallOptions, Method, Payload, Status, StatusCode};

impl Channel {
    /// Opens a stream of the server's items with one request, without waiting. It ends at
    /// `deadline`, if there is one. Whether it could be opened, what it returns will tell.
    pub fn open_stream<A: Payload, R: Payload>(
        &self,
        method: &Method,
        options: &CallOptions,
        args: &A,
        deadline: Option<Instant>,
    ) -> Incoming<R> {
        let write = |out: &mut Vec<u8>| args.write(out);
        let args = args.measure().map(|len| Reply { len, write: &write });
        let request = Request { args, codec: A::CODEC, ..request(method, options) };
        Incoming::of_caller(self.shared().open(request, Kind::OpenOne, deadline))
    }

    /// Opens a stream of this side's items, which the server answers with one reply. See
    /// [`open_stream`](Channel::open_stream).
    pub fn open_upload<A: Payload, R: Payload>(
        &self,
        method: &Method,
        options: &CallOptions,
        deadline: Option<Instant>,
    ) -> (Sender<A>, StreamReply<R>) {
        let request = Request { codec: A::CODEC, ..request(method, options) };
        let stream = self.shared().open(request, Kind::Open, deadline);
        (Sender::new(Arc::clone(&stream)), StreamReply::new(self.addr().to_owned(), stream))
    }

    /// Opens a stream of items both ways. See [`open_stream`](Channel::open_stream).
    pub fn open_duplex<A: Payload, R: Payload>(
        &self,
        method: &Method,
        options: &CallOptions,
        deadline: Option<Instant>,
    ) -> (Sender<A>, Incoming<R>) {
        let request = Request { codec: A::CODEC, ..request(method, options) };
        let stream = self.shared().open(request, Kind::Open, deadline);
        (Sender::new(Arc::clone(&stream)), Incoming::of_caller(stream))
    }
}

/// A request without arguments, and whose deadline and stream are not set yet.
fn request<'a>(method: &'a Method, options: &'a CallOptions) -> Request<'a> {
    Request {
        method,
        options,
        codec: 0,
        args: Ok(Reply { len: 0, write: &|_| {} }),
        deadline: without_end(),
        decodes: |_| true,
        stream: None,
    }
}

impl Shared {
    fn open(
        self: &Arc<Self>,
        mut request: Request<'_>,
        kind: Kind,
        deadline: Option<Instant>,
    ) -> Arc<Stream> {
        let (id, window) = (self.take_id(), self.config.stream_window_bytes);
        let stream = Stream::new(Opening {
            wire: Wire { side: Side::Caller, head_size: self.config.head_size(), id },
            owner: Box::new(CallerOwner { shared: Arc::downgrade(self), id }),
            // Where both sides send, whoever sends waits for what is read, too.
            read_turn: (kind == Kind::OpenOne).then(|| Lent::boxed(self, id)),
            item_len_max: self.config.limits.body_len_max_bytes,
            // The channel's timer ends it.
            deadline: None,
            credit: SendCredit::new(FIRST_CREDIT_BYTES as u64),
            window: ReceiveWindow::new(window, window),
            has_peer_ended: false,
        });
        request.deadline = deadline.unwrap_or(request.deadline);
        let (credit, has_deadline) = (window as u64, deadline.is_some());
        request.stream = Some(OpenStream { kind, credit, has_deadline });
        let waiter = Waiter::Completion(Box::new({
            let (shared, stream) = (Arc::downgrade(self), Arc::clone(&stream));
            move |outcome| end_with(&shared, &stream, outcome)
        }));
        self.start_as(id, &request, waiter, Some(Arc::clone(&stream)));
        stream
    }

    /// A stream that is not over.
    pub(super) fn stream(&self, id: u64) -> Option<Arc<Stream>> {
        self.lock().calls.stream(id).cloned()
    }

    /// Handles a frame of `stream`, which may have ended meanwhile. Returns whether its receiver is
    /// to be woken.
    pub(super) fn stream_frame(
        &self,
        stream: &Arc<Stream>,
        head: &RpcReplyHeader,
        body: Bytes,
    ) -> bool {
        match Kind::from_number(head.stream) {
            Some(Kind::Item) => return stream.receive(body),
            Some(Kind::Credit) => stream.credit(head.credit),
            Some(Kind::End) => {
                let over = match head.status {
                    0 => Over::Done,
                    _ => Over::Failed(self.config.ended(Status::of_head(head))),
                };
                stream.finish(over, false);
            }
            Some(Kind::Open | Kind::OpenOne | Kind::Cancel) | None => {
                stream.end_for(Cause::UnknownKind(head.stream));
            }
        }
        false
    }
}

/// The call that opened the stream has an outcome: there was no end of the stream before.
fn end_with(shared: &Weak<Shared>, stream: &Arc<Stream>, outcome: CallResult) {
    match outcome {
        Ok(_) => {
            if let Some(shared) = shared.upgrade() {
                let words = "the server took the stream for a call, and answered that";
                let error = shared.config.bad_reply(words.to_owned());
                stream.finish(Over::Failed(error), false);
            }
        }
        Err(error) => {
            let tell = matches!(error, CallError::TimedOut { .. } | CallError::BadReply { .. });
            stream.finish(Over::Failed(error), tell);
        }
    }
}

/// What a stream needs of its channel.
struct CallerOwner {
    shared: Weak<Shared>,
    id: u64,
}

impl Owner for CallerOwner {
    fn over(&self, cause: Cause) -> Over {
        let status = || Status::new(StatusCode::Cancelled, cause.to_string());
        let Some(shared) = self.shared.upgrade() else { return Over::Ended(status()) };
        let config = &shared.config;
        Over::Failed(match cause {
            Cause::Cancelled(_) | Cause::NoRoom => config.ended(status()),
            Cause::TooLong { .. } | Cause::BadItem(_) => config.bad_reply(cause.to_string()),
            Cause::AfterEnd
            | Cause::BeyondCredit
            | Cause::CreditOverflow
            | Cause::OpenedTwice
            | Cause::UnknownKind(_) => config.bad_frame(cause.to_string()),
        })
    }

    fn gone(self: Box<Self>) {
        if let Some(shared) = self.shared.upgrade() {
            // Without effect if its end came as the outcome of its call.
            shared.cancel(self.id);
        }
    }
}
