//! What the threads of one connection share: its outbox, its open calls, its room. And how a call
//! is answered.

use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};

use super::capacity::Place;
use super::gauge::{Gauge, Room, Slot};
use super::stats::MethodStats;
use super::{BUSY_RETRY_AFTER, Shared};
use crate::frame::{HeadSize, encode};
use crate::header::RpcReplyHeader;
use crate::outbox::{Ending, Outbox, SendError};
use crate::service::{Answer, Reply};
use crate::status::cut_middle;
use crate::transport::Waiting;
use crate::{Status, StatusCode};

/// A waiting reader looks this often whether its connection still lives: a safety net, it is woken
/// when it matters.
pub(super) const CHECK_EVERY: Duration = Duration::from_millis(200);

/// The middle of a longer status message is left out, so that the header it stands in stays under
/// its limit.
const MESSAGE_LEN_MAX_BYTES: usize = 512;

/// A frame shorter than this is sent whatever waits: statuses are, and replies that tell what
/// became of a write.
const SHORT_FRAME_LEN_BYTES: usize = 4096;

/// The longest bare reply that existing clients read. A longer one is for other clients: see
/// [`Connection::send_reply`].
const EXISTING_REPLY_MAX_BYTES: usize = 1024;

/// The hint that comes with a reply that found no room. Longer than that of "busy": megabytes have
/// to be read first.
const UNREAD_RETRY_AFTER: Duration = Duration::from_millis(100);

pub(super) struct Connection {
    pub(super) peer: SocketAddr,
    pub(super) outbox: Arc<Outbox>,
    pub(super) shared: Arc<Shared>,
    room: Arc<Room>,
    open: Mutex<Open>,
    answered: Condvar,
    standing: Mutex<Standing>,
    /// Whether a call to a reserved service has come.
    is_peer: AtomicBool,
}

/// Whether a connection may stay.
pub(super) enum Standing {
    /// Its first call decides.
    OnTrial,
    /// As long as its client wants: it has a place.
    Settled { _place: Place },
    /// It has been refused, and is ending.
    Refused,
}

/// What a client understands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Speaks {
    /// It has said nothing yet, so it is sent nothing: it may yet make a documented call, and take
    /// what it was sent for the reply.
    #[default]
    Nothing,
    /// Bare replies, no reply headers.
    Documented,
    /// Reply headers, framed so.
    Extended(HeadSize),
}

/// Calls that were begun and whose answers have not been handed to the outbox.
#[derive(Default)]
struct Open {
    calls: usize,
    /// One of them is a documented call: its bare reply has to come before anything else begins.
    documented: bool,
    /// Its client was told that there are no others.
    is_over: bool,
    speaks: Speaks,
}

impl Connection {
    pub(super) fn new(peer: SocketAddr, outbox: Arc<Outbox>, shared: Arc<Shared>) -> Arc<Self> {
        let limits = &shared.limits;
        let room = Arc::new(Room {
            own: Gauge::new(limits.calls_per_connection_max, limits.bytes_per_connection_max),
            all: Arc::clone(&shared.in_flight),
            reserved: Arc::clone(&shared.reserved_in_flight),
        });
        let (open, answered) = (Mutex::new(Open::default()), Condvar::new());
        // An existing client takes the end of the stream for a reply, and dies of what it sends
        // next.
        outbox.set_ending(Ending::Reset);
        Arc::new(Connection {
            peer,
            outbox,
            shared,
            room,
            open,
            answered,
            standing: Mutex::new(Standing::OnTrial),
            is_peer: AtomicBool::new(false),
        })
    }

    /// Its first call is to `service`. If it may not stay, what its client has been told; nothing
    /// if it is ending already.
    pub(super) fn settle(&self, service: &[u8]) -> Result<(), Option<Status>> {
        let Shared { table, capacity, .. } = &*self.shared;
        let mut standing = self.standing.lock();
        match *standing {
            Standing::Settled { .. } => return Ok(()),
            Standing::Refused => return Err(None),
            Standing::OnTrial => {}
        }
        if let Some(place) = capacity.try_take(table.is_reserved(service)) {
            *standing = Standing::Settled { _place: place };
            return Ok(());
        }
        self.shared.count_refused();
        let status = self.shared.too_many();
        // Before it is called refused: one that is may be ended at any time.
        if let Speaks::Extended(head_size) = self.spoken() {
            self.say_goodbye(head_size, &status);
        }
        *standing = Standing::Refused;
        // A log may block, and the lock is taken by the thread that accepts.
        drop(standing);
        self.shared.log_refused(self.peer);
        Err(Some(status))
    }

    /// Ends it if it has said nothing yet, without a word, or if it was refused, and its client has
    /// had its words; else false.
    pub(super) fn evict(&self) -> bool {
        let mut standing = self.standing.lock();
        let goes = match *standing {
            _ if self.is_cut() => false,
            Standing::Settled { .. } => false,
            // If its first call has come, its thread is about to read it.
            Standing::OnTrial => self.outbox.look() == Waiting::Nothing,
            Standing::Refused => !self.outbox.holds_over(0),
        };
        if !goes {
            return false;
        }
        let was = std::mem::replace(&mut *standing, Standing::Refused);
        drop(standing);
        if let Standing::OnTrial = was {
            self.shared.count_refused();
            self.shared.log_refused(self.peer);
        }
        self.cut("it had to make room");
        true
    }

    /// A call to a reserved service has come over it.
    pub(super) fn is_of_a_peer(&self) {
        self.is_peer.store(true, Ordering::Relaxed);
    }

    /// Ends it in favour of others, unless it is a peer's or has calls open: then false.
    pub(super) fn make_room(&self) -> bool {
        // Its first call may be about to be read.
        let is_busy = !self.is_idle() || self.outbox.look() == Waiting::Bytes;
        if is_busy || self.is_cut() || self.is_peer.load(Ordering::Relaxed) {
            return false;
        }
        let is_over = self.bid_farewell(StatusCode::Closing, "the system has no room for so many");
        if is_over {
            self.cut("it had to make room");
        }
        is_over
    }

    /// Ends the connection now, from any thread.
    pub(super) fn cut(&self, reason: &str) {
        self.outbox.cut(reason);
        // Under the lock, so that a reader that is about to wait does not miss it.
        let _open = self.open.lock();
        self.answered.notify_all();
    }

    /// Ends the connection for what its client did, with a line in the log.
    fn cut_loudly(&self, reason: &str) {
        if !self.is_cut() {
            self.shared.log.warn(&format!("rpc: connection from {} closed: {reason}", self.peer));
        }
        self.cut(reason);
    }

    pub(super) fn is_cut(&self) -> bool {
        self.outbox.is_cut()
    }

    /// What its client is known to understand.
    pub(super) fn spoken(&self) -> Speaks {
        self.open.lock().speaks
    }

    /// Whether no call is open and no answer waits to be sent.
    pub(super) fn is_idle(&self) -> bool {
        self.open.lock().calls == 0 && !self.outbox.holds_over(0)
    }

    /// Whether a next extended call may begin without waiting.
    pub(super) fn is_its_turn(&self) -> bool {
        !self.open.lock().documented && !self.outbox.holds_over(self.high_water())
    }

    /// Bytes that a client has not read above which it is given no more.
    fn high_water(&self) -> usize {
        self.shared.limits.unsent_bytes_max / 16
    }

    /// Waits until a next call may begin: documented calls run one after another, and a client that
    /// does not take its replies is not given more of them.
    pub(super) fn wait_turn(&self) {
        let mut open = self.open.lock();
        while open.documented && !self.is_cut() {
            self.answered.wait_for(&mut open, CHECK_EVERY);
        }
        drop(open);
        let high_water = self.high_water();
        if self.outbox.holds_over(high_water) {
            self.outbox.wait_until_below(high_water, None);
        }
    }

    /// Waits until every open call is answered and every answer sent, or `deadline`.
    pub(super) fn drain(&self, deadline: Instant) {
        let mut open = self.open.lock();
        while open.calls > 0 && !self.is_cut() && Instant::now() < deadline {
            self.answered.wait_for(&mut open, CHECK_EVERY);
        }
        drop(open);
        self.outbox.wait_until_below(0, Some(deadline));
    }

    /// Room for an extended call of `bytes`, or "busy".
    pub(super) fn try_room(&self, bytes: usize, is_reserved: bool) -> Result<Slot, Status> {
        Slot::try_take(&self.room, is_reserved, bytes)
            .ok_or_else(|| Status::busy("too many calls or bytes in flight", BUSY_RETRY_AFTER))
    }

    /// Room for a documented call of `bytes`, waited for: its client knows no "busy". `None` when
    /// the connection is over.
    pub(super) fn wait_room(&self, bytes: usize, is_reserved: bool) -> Option<Slot> {
        Slot::take(&self.room, is_reserved, bytes, CHECK_EVERY, || self.is_cut())
    }

    /// Counts a call as begun; what it returns answers it. `None` if its client has been told that
    /// there will be no others.
    pub(super) fn begin(
        self: &Arc<Self>,
        id: CallId,
        slot: Slot,
        of: Begun,
    ) -> Option<Box<dyn Answer>> {
        let mut open = self.open.lock();
        if open.is_over {
            return None;
        }
        open.calls += 1;
        open.documented |= id.is_documented();
        let speaks = open.speaks;
        drop(open);
        if speaks == Speaks::Documented {
            // Its client makes one call at a time: it has the reply before this one, whatever that
            // had to end with.
            self.outbox.set_ending(Ending::Reset);
        }
        let (connection, peer) = (Arc::downgrade(self), self.peer);
        Some(Box::new(WireAnswer { connection, peer, id, slot, of, began: None }))
    }

    /// What its client understands, as its calls show.
    pub(super) fn speaks(&self, speaks: Speaks) {
        self.open.lock().speaks = speaks;
        if let Speaks::Extended(_) = speaks {
            self.outbox.set_ending(Ending::InOrder);
        }
    }

    /// If all its calls are answered, tells a client that understands it that no others will be
    /// run. Whether they are, and the answers sent.
    pub(super) fn bid_farewell(&self, code: StatusCode, words: &str) -> bool {
        let mut open = self.open.lock();
        open.is_over |= open.calls == 0;
        let (is_over, speaks) = (open.is_over, open.speaks);
        drop(open);
        let is_sent = !self.outbox.holds_over(0);
        if let Speaks::Extended(head_size) = speaks
            && is_over
        {
            self.say_goodbye(head_size, &Status::new(code, words));
        }
        is_over && is_sent
    }

    fn end(&self, id: CallId) {
        let mut open = self.open.lock();
        open.calls -= 1;
        if id.is_documented() {
            open.documented = false;
        }
        // Only the reader waits, and for nothing else than this.
        if open.calls == 0 || id.is_documented() {
            self.answered.notify_all();
        }
    }

    /// Answers a call that was never begun: with a status, or, when it is a documented one, with
    /// the end of the connection.
    pub(super) fn refuse(&self, id: CallId, status: &Status) {
        match id.call_id {
            0 => self.cut_loudly(&status.to_string()),
            _ => self.send(status_frame(id, status)),
        }
    }

    /// Says about the whole connection why it ends, to a client that can understand it.
    pub(super) fn say_goodbye(&self, head_size: HeadSize, status: &Status) {
        self.send(status_frame(CallId { call_id: 0, head_size }, status));
    }

    /// Sends what has to be sent whatever waits. Bounded all the same: see `send_reply`.
    fn send(&self, frame: Bytes) {
        // A connection that is gone needs no answer.
        let _ = self.outbox.send_over_limit(&frame);
    }

    /// Sends a reply, or says that it has found no room: a client may well ask for more at once
    /// than can wait for it.
    ///
    /// Short frames always have room, and so have bare replies. For while much waits no call begins
    /// (`wait_turn`): so there are never more of the former than calls of a connection in flight,
    /// nor of the latter than one.
    ///
    /// If the process is killed, a reset destroys what the client has not acknowledged. Of a short
    /// bare reply that is nothing, unless the network loses it just then; a long one may lie in our
    /// buffer for a while, so its client sees the end of the stream, until it calls again. None of
    /// the existing clients is among those.
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
        // Foreign code. The panic is reported by the panic hook.
        let words = "the reply panicked as it was serialized";
        catch_unwind(AssertUnwindSafe(write)).map_err(|_| Status::new(StatusCode::Internal, words))
    }
}

/// How a call is told apart on its connection, and how its answer is framed.
#[derive(Clone, Copy, Debug)]
pub(super) struct CallId {
    /// 0: a documented call.
    pub(super) call_id: u64,
    pub(super) head_size: HeadSize,
}

impl CallId {
    pub(super) fn is_documented(self) -> bool {
        self.call_id == 0
    }
}

/// An error reply: a header without a body. With call id 0 it is about the connection.
pub(super) fn status_frame(id: CallId, status: &Status) -> Bytes {
    let message = cut_middle(&status.message, MESSAGE_LEN_MAX_BYTES);
    let retry_after_ms =
        status.retry_after.map_or(0, |after| after.as_millis().try_into().unwrap_or(u32::MAX));
    let (call_id, status) = (id.call_id, status.code.number());
    encode(
        id.head_size,
        &RpcReplyHeader { call_id, status, message, reply_size: 0, retry_after_ms },
        |_| {},
    )
}

/// Answers one call over its connection.
struct WireAnswer {
    /// Gone once the connection has ended: calls that are answered late, or never, keep no socket
    /// open.
    connection: Weak<Connection>,
    peer: SocketAddr,
    id: CallId,
    slot: Slot,
    of: Begun,
    /// When its method began.
    began: Option<Instant>,
}

/// What a call that was begun is about, for the counts and the log.
pub(super) struct Begun {
    pub(super) stats: Arc<MethodStats>,
    pub(super) arrived: Instant,
    pub(super) caller: Bytes,
    pub(super) trace: Bytes,
}

impl WireAnswer {
    /// Counts what is answered: a reply of so many bytes, or a status.
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
            shared.log.warn(&format!(
                "rpc: slow call: {service}.{method} of \"{caller}\" (trace \"{trace}\") was answered with {what} after {took:?}, \
                 of which it ran {ran:?}"
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
        // Whoever has the answer finds it counted.
        self.count(outcome.as_ref().map(|(len, _)| *len), Some(&connection.shared));
        // Given back first: a client that keeps exactly as many calls in flight as it may is not
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
        connection.end(id);
    }

    fn is_wanted(&self) -> bool {
        self.connection.upgrade().is_some_and(|connection| !connection.is_cut())
    }

    fn peer(&self) -> Option<SocketAddr> {
        Some(self.peer)
    }
}
