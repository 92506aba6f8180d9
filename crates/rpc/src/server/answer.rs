//! How a call is answered over its connection: counted, serialized, sent.

use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::connection::{CallId, Connection};
use super::shared::Shared;
use super::stats::MethodStats;
use crate::frame::encode;
use crate::header::RpcReplyHeader;
use crate::outbox::{Ending, SendError};
use crate::port::{Connection as _, Slot};
use crate::service::{Answer, Reply};
use crate::{Status, StatusCode};

/// A shorter frame is sent however much waits. These are statuses, and replies that tell what
/// became of a write.
const SHORT_FRAME_LEN_BYTES: usize = 4096;

/// The longest bare reply that existing clients read. Only other clients ask for longer ones: see
/// [`Connection::send_reply`].
const EXISTING_REPLY_MAX_BYTES: usize = 1024;

/// When to ask again for a reply that found no room. Longer than for "busy", because the client has
/// to read megabytes first.
const UNREAD_RETRY_AFTER: Duration = Duration::from_millis(100);

/// Answers one call over its connection.
struct WireAnswer {
    /// Gone once the connection has ended, so that calls which are answered late, or never, keep no
    /// socket open.
    connection: Weak<Connection>,
    peer: SocketAddr,
    id: CallId,
    slot: Slot,
    of: Begun,
    /// When its method began.
    began: Option<Instant>,
}

/// What the counts and the log say about a call that was begun.
pub(super) struct Begun {
    pub(super) stats: Arc<MethodStats>,
    pub(super) arrived: Instant,
    pub(super) caller: Bytes,
    pub(super) trace: Bytes,
}

impl Connection {
    /// Begins a call. What it returns answers the call. `None` if the client was told that no
    /// further call will run.
    pub(super) fn begin(
        self: &Arc<Self>,
        id: CallId,
        slot: Slot,
        of: Begun,
    ) -> Option<Box<dyn Answer>> {
        if !self.open_call(id) {
            return None;
        }
        let (connection, peer) = (Arc::downgrade(self), self.peer);
        Some(Box::new(WireAnswer { connection, peer, id, slot, of, began: None }))
    }

    /// The reply as it is sent; or the status to send in its place.
    fn serialize(&self, id: CallId, reply: &Reply<'_>) -> Result<Bytes, Status> {
        let limit = self.shared.limits.frame.body_len_max_bytes;
        if reply.len > limit {
            let words = format!("the reply has {} bytes, and {limit} is the limit", reply.len);
            return Err(Status::new(StatusCode::Internal, words));
        }
        let write = || match id.is_documented() {
            true => {
                let mut buf = Vec::with_capacity(reply.len);
                (reply.write)(&mut buf);
                Bytes::from(buf)
            }
            false => {
                // Within `limit`, which fits a u32: see `Limits::check`.
                let (call_id, reply_size) = (id.call_id, reply.len as u32);
                let head = RpcReplyHeader { call_id, reply_size, ..RpcReplyHeader::default() };
                encode(id.head_size, &head, reply.write)
            }
        };
        // Foreign code. The panic hook reports its panic.
        let words = "the reply panicked as it was serialized";
        catch_unwind(AssertUnwindSafe(write)).map_err(|_| Status::new(StatusCode::Internal, words))
    }

    /// Sends a reply. If too much waits for the client to read, returns the status to send in its
    /// place: a client may ask at once for more than can wait for it.
    ///
    /// Short frames always have room, and so have bare replies. There are never more short frames
    /// than calls of one connection in flight, and never more than one bare reply, because no call
    /// begins while much waits (`wait_turn`).
    ///
    /// If the process is killed, a reset destroys what the client has not acknowledged. A short
    /// bare reply is acknowledged at once, unless the network loses it. A long one may stay in our
    /// buffer for a while. So after a long one the client would see the end of the stream, until it
    /// calls again. No existing client asks for long ones.
    fn send_reply(&self, id: CallId, frame: Bytes) -> Result<(), Status> {
        if id.is_documented() && frame.len() > EXISTING_REPLY_MAX_BYTES {
            self.outbox.set_ending(Ending::InOrder);
        }
        if id.is_documented() || frame.len() < SHORT_FRAME_LEN_BYTES {
            self.send(frame);
            return Ok(());
        }
        match self.outbox.send(&frame) {
            Err(SendError::Full) => {
                let words = "the reply finds no room behind those that are not read yet";
                let retry_after = Some(UNREAD_RETRY_AFTER);
                Err(Status { retry_after, ..Status::new(StatusCode::Unanswered, words) })
            }
            _ => Ok(()),
        }
    }
}

impl WireAnswer {
    /// Counts an answer: a reply of this many bytes, or a status.
    fn count(&self, outcome: Result<usize, &Status>, shared: Option<&Shared>) {
        let (now, Begun { stats, arrived, caller, trace }) = (Instant::now(), &self.of);
        let ran = self.began.map(|began| now.saturating_duration_since(began));
        stats.ended(ran, outcome.map_err(|status| status.code));
        let took = now.saturating_duration_since(*arrived);
        if let Some(shared) = shared.filter(|shared| took >= shared.limits.slow_call) {
            stats.slow();
            let (service, method) = (stats.service, stats.method);
            let (caller, trace) = (caller.escape_ascii(), trace.escape_ascii());
            let what = match outcome {
                Ok(_) => "a reply".to_owned(),
                Err(status) => format!("\"{}\"", status.code),
            };
            let ran = ran.unwrap_or_default();
            shared.port.warn(&format!(
                "slow call: {service}.{method} of \"{caller}\" (trace \"{trace}\") was \
                 answered with {what} after {took:?}, of which it ran {ran:?}"
            ));
        }
    }
}

impl Answer for WireAnswer {
    fn begin(&mut self, now: Instant) {
        self.began = Some(now);
    }

    fn answer(self: Box<Self>, outcome: Result<Reply<'_>, Status>) {
        let id = self.id;
        let Some(connection) = self.connection.upgrade() else {
            return self.count(outcome.as_ref().map(|reply| reply.len), None);
        };
        let outcome = outcome.and_then(|reply| Ok((reply.len, connection.serialize(id, &reply)?)));
        // Before it is sent, so that a caller who has the answer finds it counted.
        self.count(outcome.as_ref().map(|(len, _)| *len), Some(&connection.shared));
        // Also before: a client that keeps exactly as many calls in flight as it may must not be
        // told "busy".
        let WireAnswer { slot, of, .. } = *self;
        drop(slot);
        let sent = outcome.and_then(|(len, frame)| {
            let sent = connection.send_reply(id, frame);
            sent.inspect_err(|status| of.stats.not_sent(len, status.code))
        });
        if let Err(status) = sent {
            connection.refuse(id, &status);
        }
        // Last: a connection that drains must not end before the answer is in the outbox.
        connection.close_call(id);
    }

    fn is_wanted(&self) -> bool {
        self.connection.upgrade().is_some_and(|connection| !connection.is_cut())
    }

    fn peer(&self) -> Option<SocketAddr> {
        Some(self.peer)
    }
}
