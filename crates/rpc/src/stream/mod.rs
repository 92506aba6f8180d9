//! Streams: any number of items in each direction of one call.
//!
//! ```text
//!   caller                                                                  server
//!   Sender ── item ──> credit? ── outbox ══ TCP ══ reader ── queue ──> Incoming, or a closure
//!   Incoming <── queue ──── whoever reads ══ TCP ══ outbox ── credit? <── item ── Outgoing
//! ```
//!
//! A method streams in one of three shapes: `rpc List(Args) returns (stream Item)`, `rpc
//! Upload(stream Item) returns (Reply)`, `rpc Watch(stream Args) returns (stream Item)`.
//!
//! | | the caller has | the method gets |
//! |---|---|---|
//! | the server streams | [`Incoming`] | the arguments, [`Outgoing`] |
//! | the caller streams | [`Sender`], [`StreamReply`] | [`Incoming`], [`Done`](crate::Done) |
//! | both stream | [`Sender`], [`Incoming`] | [`Incoming`], [`Outgoing`] |
//!
//! No stream has a thread of its own, on either side. The thread that reads the connection brings
//! items to the queue of their stream. At the caller, this is the channel's thread, or the thread
//! that takes the items of a stream that is alone on its channel. A method runs where a call of the
//! same service would run: on the connection's thread, or on one of the
//! [`handlers`](crate::ServerBuilder::handlers). There it may send until it is done; or it keeps
//! its halves, returns, and sends later from any thread. A method that runs on the connection's
//! thread must not wait, because that thread brings the credit for which it would wait.
//!
//! # Frames
//!
//! The crate's page, "The wire", has the frames. Streams use those of extended calls, with two more
//! fields in each header; a call without these is what it was before.
//!
//! A server refuses to open a stream with a plain status, as it refuses a call: the method did not
//! run ([`CallError::Refused`]). A status in an end says that the method may have run
//! ([`CallError::Ended`]). A server without streams takes an open for a call. Its generated
//! services do not have the method, so it answers "unknown method". If it has the method, as a
//! method without a stream, it answers with a plain reply, and the stream ends with
//! [`CallError::BadReply`]. A plain call of a method that streams is answered "unknown method", and
//! so is a stream of another shape.
//!
//! # Credit
//!
//! An item costs its length and 32 bytes. A side sends items while its credit is above zero; the
//! last one may overdraw. So the length of items is bounded by the limit of frames only, and the
//! receiver holds at most its window and one item for each stream. A caller begins with 64 KiB of
//! credit, a server with what the open says. Credit is given back when the application takes items
//! out, half a window at a time. The rest of a server's window is given with the first of it.
//!
//! A stream without credit waits by itself: its connection carries the others. When a client reads
//! nothing at all, items wait until less than a mebibyte is unsent on the connection, so that
//! answers to calls do not stand behind more.
//!
//! # The end
//!
//! A stream ends exactly once, by what comes first: the server's end, the caller's cancel, the
//! deadline, the end of the connection, a broken rule. Frames that cross the end are dropped. A
//! caller gets all items that came before the end. A server drops those that its method has not
//! taken.
//!
//! - the method ends it ([`Outgoing::end`], [`Outgoing::fail`], a reply)
//!   - the caller gets: the end, or `Ended`
//! - the method drops its [`Outgoing`], or panics
//!   - the caller gets: `Ended`: "unanswered" or "internal error"
//! - the caller drops its [`Incoming`], or its [`Sender`] without [`finish`](Sender::finish)
//!   - the caller gets: (`Ended`: "cancelled")
//!   - the method gets: "cancelled"
//! - the deadline passes
//!   - the caller gets: `TimedOut`
//!   - the method gets: "deadline exceeded" as it sends or waits, or "cancelled"
//! - the connection is lost, or ended by the client
//!   - the caller gets: `Lost`
//!   - the method gets: "cancelled"
//! - the channel is closed or dropped
//!   - the caller gets: `Lost`, `NotSent`
//!   - the method gets: "cancelled"
//! - the server stops or drains
//!   - the caller gets: `Ended`: "shutting down"
//!   - the method gets: "shutting down"
//! - an item does not decode
//!   - the caller gets: `BadReply`, `Ended`: "bad arguments"
//!   - the method gets: "cancelled", "bad arguments"
//! - an item is over the limit of frames
//!   - the caller gets: `BadReply`, `Ended`: "frame too large"
//!   - the method gets: "cancelled", "frame too large"
//! - an item without credit or after the end, credit over 1 GiB, an unknown kind
//!   - the caller gets: `BadFrame`, `Ended`: "bad stream"
//!   - the method gets: "cancelled", "bad stream"
//! - the server has no room for an item
//!   - the caller gets: `Ended`: "unanswered", with a wait hint
//!   - the method gets: "unanswered"
//!
//! A broken rule costs only the stream, unless the frame itself cannot be read. An item for a
//! stream that a server does not know is answered with "bad stream", once for several in a row; a
//! caller drops it.
//!
//! # Limits
//!
//! [`Limits::streams_per_connection_max`](crate::Limits::streams_per_connection_max),
//! [`Limits::streams_max`](crate::Limits::streams_max),
//! [`Limits::stream_window_bytes`](crate::Limits::stream_window_bytes),
//! [`ChannelBuilder::streams_max`](crate::ChannelBuilder::streams_max) and
//! [`ChannelBuilder::stream_window_bytes`](crate::ChannelBuilder::stream_window_bytes). Items that
//! a server holds count against limits as large as those of calls'
//! [`bytes_max`](crate::Limits::bytes_max) and
//! [`bytes_per_connection_max`](crate::Limits::bytes_per_connection_max), and not against these.
//! A stream is an open call: its connection is not idle, and a channel pings the server.
//!
//! # Invariants
//!
//! - Items arrive in the order in which they were sent, each once, and before the end.
//! - A stream that is over holds no room, no place in a table and no socket, whoever holds its
//!   halves.
//! - No closure runs under a lock. An item's closure runs on one thread at a time.
//!
//! # Locks
//!
//! A channel's `State`, then a stream's, then the outbox's. A stream's lock is never held while a
//! channel's is taken.
//!
//! # Files
//!
//! | file | what |
//! |---|---|
//! | `incoming`, `outgoing`, `sender` | what users see |
//! | `core` | a stream: its state and its end |
//! | `sending`, `receiving`, `callbacks` | its two directions; its closures |
//! | `wire`, `flow` | its frames; credit, as arithmetic |
//!
//! `channel/streams` opens streams. `server/opened` and `server/streams` serve them.
//!
//! # Left out
//!
//! Streams go over a [`Channel`](crate::Channel): [`Targets`](crate::Targets) and
//! [`Retrying`](crate::Retrying) do not carry them, because only the application knows how to
//! resume one. Of several streams with items to send on one connection, none has precedence.

mod callbacks;
mod core;
mod delivery;
mod flow;
mod incoming;
mod outgoing;
mod receiving;
mod sender;
mod sending;
mod wire;

pub(crate) use self::core::{Opening, Owner, ReadTurn, Stream};
pub(crate) use self::flow::{FIRST_CREDIT_BYTES, ReceiveWindow, SendCredit, WINDOW_MAX_BYTES};
pub use self::incoming::{Incoming, Next, StreamReply};
pub use self::outgoing::Outgoing;
pub use self::sender::Sender;
pub(crate) use self::wire::{Kind, Side, Wire};

use crate::{CallError, ErrorChain, PayloadError, Status, StatusCode};

/// Why an item was not sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The receiver has given no credit, or too much waits to be sent, until the deadline of this
    /// send. The stream goes on, and the item may be sent later.
    #[error("the receiver takes no more items now")]
    NoRoom,
    /// The stream is over, with this status. A caller learns more from its [`Incoming`] or
    /// [`StreamReply`].
    #[error("the stream is over: {0}")]
    Ended(Status),
    /// The item is longer than frames may be. The stream goes on.
    #[error("an item of {len} bytes: at most {limit} are sent")]
    TooLong {
        /// The length of the item in bytes.
        len: usize,
        /// The longest item that is sent, in bytes.
        limit: usize,
    },
    /// The item cannot be serialized. The stream goes on.
    #[error("the item cannot be serialized")]
    NotSerialized(#[source] PayloadError),
}

/// Why this side ends a stream.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Cause {
    #[error("an item after the end")]
    AfterEnd,
    #[error("an item for which there was no credit")]
    BeyondCredit,
    #[error("more credit than a window may have")]
    CreditOverflow,
    #[error("it was opened twice")]
    OpenedTwice,
    #[error("a frame of an unknown kind ({0})")]
    UnknownKind(u32),
    #[error("an item of {len} bytes: at most {limit} are taken")]
    TooLong { len: usize, limit: usize },
    #[error("an item that does not decode: {0}")]
    BadItem(String),
    #[error("too many bytes of items wait to be taken")]
    NoRoom,
    /// The caller gives it up.
    #[error("the caller gave the stream up: {0}")]
    Cancelled(&'static str),
}

/// How a stream has ended.
#[derive(Debug)]
pub(crate) enum Over {
    /// Well.
    Done,
    /// The server refused to open it: its method has not run.
    Refused(Status),
    /// The server knows it ended with this status.
    Ended(Status),
    /// The caller's error.
    Failed(CallError),
}

impl Over {
    /// As a status: for a method, and for those who send.
    pub(crate) fn status(&self) -> Status {
        match self {
            Over::Done => Status::new(StatusCode::Cancelled, "the stream has ended"),
            Over::Refused(status) | Over::Ended(status) => status.clone(),
            Over::Failed(CallError::Refused { status, .. } | CallError::Ended { status, .. }) => {
                status.clone()
            }
            Over::Failed(error) => {
                let code = match error {
                    CallError::TimedOut { .. } => StatusCode::DeadlineExceeded,
                    CallError::BadReply { .. } | CallError::BadFrame { .. } => {
                        StatusCode::BadStream
                    }
                    _ => StatusCode::Cancelled,
                };
                Status::new(code, ErrorChain(error).to_string())
            }
        }
    }

    /// The caller's error, once.
    pub(crate) fn take_error(&mut self) -> Option<CallError> {
        let status = self.status();
        match std::mem::replace(self, Over::Ended(status)) {
            Over::Failed(error) => Some(error),
            Over::Done | Over::Refused(_) | Over::Ended(_) => None,
        }
    }
}
