//! Streams of a connection: how one is opened, what its frames do, how it ends.

use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::connection::{CallId, Connection, status_frame};
use super::stats::MethodStats;
use crate::header::RpcHeader;
use crate::port::Slot;
use crate::service::{Answer, Reply};
use crate::stream::{
    Cause, FIRST_CREDIT_BYTES, Kind, Opening, Over, Owner, ReceiveWindow, SendCredit, Side, Stream,
    Wire,
};
use crate::{Status, StatusCode};

/// When a caller whose item found no room should try again.
const UNREAD_RETRY_AFTER: Duration = Duration::from_millis(100);

/// What a stream needs of the server.
struct ServerOwner {
    connection: Weak<Connection>,
    id: CallId,
    slot: Slot,
    stats: Arc<MethodStats>,
    /// When its method began.
    began: Option<Instant>,
}

impl Owner for ServerOwner {
    fn over(&self, cause: Cause) -> Over {
        let code = match &cause {
            Cause::TooLong { .. } => StatusCode::FrameTooLarge,
            Cause::BadItem(_) => StatusCode::BadArguments,
            Cause::NoRoom => StatusCode::Unanswered,
            Cause::Cancelled(_) => StatusCode::Cancelled,
            Cause::AfterEnd
            | Cause::BeyondCredit
            | Cause::CreditOverflow
            | Cause::OpenedTwice
            | Cause::UnknownKind(_) => StatusCode::BadStream,
        };
        let retry_after = matches!(cause, Cause::NoRoom).then_some(UNREAD_RETRY_AFTER);
        Over::Ended(Status { retry_after, ..Status::new(code, cause.to_string()) })
    }

    fn begin(&mut self, now: Instant) {
        self.began = Some(now);
    }

    fn try_grow(&mut self, bytes: usize) -> bool {
        self.slot.try_grow(bytes)
    }

    fn shrink(&mut self, bytes: usize) {
        self.slot.shrink(bytes);
    }

    fn count(&mut self, over: &Over, sent: u64, received: u64) {
        let ran = self.began.map(|began| began.elapsed());
        let outcome = match over {
            Over::Done => Ok(0),
            over => Err(over.status().code),
        };
        self.stats.streamed(sent, received);
        self.stats.ended(ran, outcome);
    }

    fn gone(self: Box<Self>) {
        if let Some(connection) = self.connection.upgrade() {
            connection.streams.remove(self.id.call_id);
            // Before the call counts as answered: a connection without calls may be ended.
            drop(self.slot);
            connection.close_call(self.id);
        }
    }
}

/// Ends a stream as a call is answered: by a method that has one reply, and before a method has
/// taken the stream.
struct StreamAnswer {
    stream: Arc<Stream>,
    peer: SocketAddr,
    has_begun: bool,
}

impl Answer for StreamAnswer {
    fn begin(&mut self, now: Instant) {
        self.has_begun = true;
        self.stream.begin(now);
    }

    fn answer(self: Box<Self>, outcome: Result<Reply<'_>, Status>) {
        match outcome {
            Ok(reply) => self.stream.reply(&reply),
            Err(status) if self.has_begun => self.stream.finish(Over::Ended(status), true),
            Err(status) => self.stream.finish(Over::Refused(status), true),
        }
    }

    fn is_wanted(&self) -> bool {
        !self.stream.is_over()
    }

    fn peer(&self) -> Option<SocketAddr> {
        Some(self.peer)
    }

    fn stream(&self) -> Option<Arc<Stream>> {
        Some(Arc::clone(&self.stream))
    }
}

impl Connection {
    /// Opens a stream, as a call is begun. What it returns ends the stream. `None` if the client
    /// was told that no further call will run.
    pub(super) fn open_stream(
        self: &Arc<Self>,
        kind: u32,
        credit: u64,
        id: CallId,
        slot: Slot,
        stats: Arc<MethodStats>,
        deadline: Option<Instant>,
    ) -> Option<Box<dyn Answer>> {
        if !self.open_call(id) {
            return None;
        }
        let limits = &self.shared.limits;
        let connection = Arc::downgrade(self);
        let owner = ServerOwner { connection, id, slot, stats, began: None };
        let stream = Stream::new(Opening {
            wire: Wire { side: Side::Server, head_size: id.head_size, id: id.call_id },
            read_turn: None,
            owner: Box::new(owner),
            item_len_max: limits.frame.body_len_max_bytes,
            deadline,
            credit: SendCredit::new(credit),
            window: ReceiveWindow::new(limits.stream_window_bytes, FIRST_CREDIT_BYTES),
            has_peer_ended: Kind::from_number(kind) == Some(Kind::OpenOne),
        });
        let inserted = self.streams.insert(id.call_id, &stream);
        stream.attach(&self.outbox);
        if let Err(status) = inserted {
            stream.finish(Over::Ended(status), true);
        }
        Some(Box::new(StreamAnswer { stream, peer: self.peer, has_begun: false }))
    }

    /// A frame of a stream has come, but for its body. Returns the stream if it gets the body.
    pub(super) fn stream_frame(&self, head: &RpcHeader, id: CallId) -> Option<Arc<Stream>> {
        let kind = Kind::from_number(head.stream);
        let Some(stream) = self.streams.get(id.call_id) else {
            // The other frames may cross the end of their stream.
            if kind == Some(Kind::Item) {
                self.refuse_stray(id);
            }
            return None;
        };
        match kind {
            Some(Kind::Item) => return stream.expect(head.args_size as usize).then_some(stream),
            Some(Kind::Credit) => stream.credit(head.credit),
            Some(Kind::End) => stream.peer_ended(),
            Some(Kind::Cancel) => {
                let status = Status::new(StatusCode::Cancelled, "the caller gave the stream up");
                stream.finish(Over::Ended(status), false);
            }
            Some(Kind::Open | Kind::OpenOne) => stream.end_for(Cause::OpenedTwice),
            None => stream.end_for(Cause::UnknownKind(head.stream)),
        }
        None
    }

    /// Says that there is no such stream, unless much waits to be sent: nobody may need to know.
    fn refuse_stray(&self, id: CallId) {
        if self.streams.is_first_stray(id.call_id) {
            let status = Status::new(StatusCode::BadStream, "there is no such stream");
            let _ = self.outbox.send(&status_frame(id, &status));
        }
    }
}
