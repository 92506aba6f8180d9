//! What the threads of one connection share: its outbox, its open calls, its room, and whether it
//! may stay.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};

use super::shared::{BUSY_RETRY_AFTER, Shared};
use super::streams::Streams;
use crate::frame::{HeadSize, encode};
use crate::outbox::{Ending, Outbox};
use crate::port::{self, Admission, Connection as _, Gauge, NotAdmitted, Room, Slot};
use crate::transport::Peeked;
use crate::{Status, StatusCode};

/// A reader that waits looks this often whether its connection still lives. It is woken when that
/// matters, so this is only a safety net.
pub(super) const CHECK_EVERY: Duration = Duration::from_millis(200);

pub(super) struct Connection {
    pub(super) peer: SocketAddr,
    pub(super) outbox: Arc<Outbox>,
    pub(super) shared: Arc<Shared>,
    pub(super) streams: Streams,
    room: Arc<Room>,
    open: Mutex<Open>,
    answered: Condvar,
    admission: Admission,
    /// Whether a call to a reserved service has come.
    is_peer: AtomicBool,
}

/// What a client understands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum ClientProtocol {
    /// It has said nothing yet. So it is sent nothing either, because it could then make a
    /// documented call and take that for the reply.
    #[default]
    Unknown,
    /// Bare replies, no reply headers.
    Documented,
    /// Reply headers, with lengths written like this.
    Extended(HeadSize),
}

/// Calls that were begun, and whose answers have not been handed to the outbox.
#[derive(Default)]
struct Open {
    calls: usize,
    /// Whether one of them is a documented call. Its bare reply has to come before anything else
    /// begins.
    documented: bool,
    /// Whether the client was told that no further call will run.
    is_over: bool,
    protocol: ClientProtocol,
}

impl Connection {
    pub(super) fn new(peer: SocketAddr, outbox: Arc<Outbox>, shared: Arc<Shared>) -> Arc<Self> {
        let limits = &shared.limits;
        let room = Arc::new(Room {
            own: Gauge::new(limits.calls_per_connection_max, limits.bytes_per_connection_max),
            all: Arc::clone(&shared.in_flight),
            reserved: Arc::clone(&shared.reserved_in_flight),
        });
        let streams = Streams::new(&shared);
        let (open, answered) = (Mutex::new(Open::default()), Condvar::new());
        // An existing client takes the end of the stream for a reply, and dies when it sends its
        // next call.
        outbox.set_ending(Ending::Reset);
        Arc::new(Connection {
            peer,
            outbox,
            shared,
            streams,
            room,
            open,
            answered,
            admission: Admission::default(),
            is_peer: AtomicBool::new(false),
        })
    }

    /// Decides whether it may stay, as its first call is to `service`.
    ///
    /// # Errors
    ///
    /// It may not: what the client was told. `None` if it is ending already.
    pub(super) fn admit(&self, service: &[u8]) -> Result<(), Option<Status>> {
        let Shared { table, port, .. } = &*self.shared;
        let refuse = || {
            if let ClientProtocol::Extended(head_size) = self.protocol() {
                self.send_close_notice(head_size, &self.shared.too_many());
            }
        };
        let admitted = self.admission.admit(self, port, table.is_reserved(service), refuse);
        admitted.map_err(|why| match why {
            NotAdmitted::Refused => Some(self.shared.too_many()),
            NotAdmitted::Ending => None,
        })
    }

    /// A call to a reserved service has come over it.
    pub(super) fn mark_as_peer(&self) {
        self.is_peer.store(true, Ordering::Relaxed);
    }

    /// Ends the connection because of what its client did, with a line in the log.
    fn cut_and_log(&self, reason: &str) {
        if !self.is_cut() {
            self.shared.port.warn(&format!("connection from {} closed: {reason}", self.peer));
        }
        self.cut(reason);
    }

    /// What its client understands, as far as is known.
    pub(super) fn protocol(&self) -> ClientProtocol {
        self.open.lock().protocol
    }

    /// Whether another extended call may begin without waiting.
    pub(super) fn is_its_turn(&self) -> bool {
        !self.open.lock().documented && !self.outbox.holds_over(self.high_water())
    }

    /// While more bytes than this wait for the client to read them, no call begins.
    fn high_water(&self) -> usize {
        self.shared.limits.unsent_bytes_max / 16
    }

    /// Waits until another call may begin: documented calls run one after another, and a client
    /// that does not take its replies gets no more of them.
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

    /// Room for an extended call of `bytes`.
    ///
    /// # Errors
    ///
    /// "Busy": there is none.
    pub(super) fn try_room(&self, bytes: usize, is_reserved: bool) -> Result<Slot, Status> {
        Slot::try_take(&self.room, is_reserved, bytes)
            .ok_or_else(|| Status::busy("too many calls or bytes in flight", BUSY_RETRY_AFTER))
    }

    /// Waits for room for a documented call of `bytes`, whose client knows no "busy". `None` when
    /// the connection is over.
    pub(super) fn wait_room(&self, bytes: usize, is_reserved: bool) -> Option<Slot> {
        Slot::take(&self.room, is_reserved, bytes, CHECK_EVERY, || self.is_cut())
    }

    /// Counts a call as begun. False if the client was told that no further call will run.
    pub(super) fn open_call(&self, id: CallId) -> bool {
        let mut open = self.open.lock();
        if open.is_over {
            return false;
        }
        open.calls += 1;
        open.documented |= id.is_documented();
        let protocol = open.protocol;
        drop(open);
        if protocol == ClientProtocol::Documented {
            // Its client makes one call at a time, so it has the reply before this one, and that
            // reply's length no longer decides how the connection ends.
            self.outbox.set_ending(Ending::Reset);
        }
        true
    }

    pub(super) fn close_call(&self, id: CallId) {
        let mut open = self.open.lock();
        open.calls -= 1;
        if id.is_documented() {
            open.documented = false;
        }
        // Only the reader waits, and only for this.
        if open.calls == 0 || id.is_documented() {
            self.answered.notify_all();
        }
    }

    /// Records what its client understands, as its calls show.
    pub(super) fn set_protocol(&self, protocol: ClientProtocol) {
        self.open.lock().protocol = protocol;
        if let ClientProtocol::Extended(_) = protocol {
            self.outbox.set_ending(Ending::InOrder);
        }
    }

    /// If all its calls are answered, tells its client that no further call will run, if the client
    /// understands that. Returns whether all are answered, and the answers sent.
    pub(super) fn announce_close(&self, code: StatusCode, words: &str) -> bool {
        let mut open = self.open.lock();
        open.is_over |= open.calls == 0;
        let (is_over, protocol) = (open.is_over, open.protocol);
        drop(open);
        let is_sent = !self.outbox.holds_over(0);
        if let ClientProtocol::Extended(head_size) = protocol
            && is_over
        {
            self.send_close_notice(head_size, &Status::new(code, words));
        }
        is_over && is_sent
    }

    /// Answers a call with a status or, if it is a documented one, with the end of the connection.
    pub(super) fn refuse(&self, id: CallId, status: &Status) {
        match id.call_id {
            0 => self.cut_and_log(&status.to_string()),
            _ => self.send(status_frame(id, status)),
        }
    }

    /// Tells a client that understands it why the connection ends.
    pub(super) fn send_close_notice(&self, head_size: HeadSize, status: &Status) {
        self.send(status_frame(CallId { call_id: 0, head_size }, status));
    }

    /// Sends a frame however much waits. The number of such frames is bounded: see `send_reply`.
    pub(super) fn send(&self, frame: Bytes) {
        // A connection that is gone needs no answer.
        let _ = self.outbox.send_over_limit(&frame);
    }
}

impl port::Connection for Connection {
    fn peer(&self) -> SocketAddr {
        self.peer
    }

    fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    fn cut(&self, reason: &str) {
        self.outbox.cut(reason);
        // Under the lock, so that a reader that is about to wait does not miss it.
        let _open = self.open.lock();
        self.answered.notify_all();
    }

    fn has_spoken(&self) -> bool {
        self.protocol() != ClientProtocol::Unknown
    }

    /// Whether no call is open and no answer waits to be sent.
    fn is_idle(&self) -> bool {
        self.open.lock().calls == 0 && !self.outbox.holds_over(0)
    }

    fn evict(&self) -> bool {
        self.admission.evict(self, &self.shared.port)
    }

    /// A connection of a peer stays, and one with open calls.
    fn make_room(&self) -> bool {
        // A call may be about to be read.
        let is_busy = !self.is_idle() || self.outbox.transport().peek() == Peeked::Bytes;
        if is_busy || self.is_cut() || self.is_peer.load(Ordering::Relaxed) {
            return false;
        }
        let is_over =
            self.announce_close(StatusCode::Closing, "the system has no room for so many");
        if is_over {
            self.cut("it had to make room");
        }
        is_over
    }

    fn end_streams(&self) {
        let status = Status::new(StatusCode::ShuttingDown, "the server is stopping");
        self.streams.end_all(&status, true);
    }

    fn announce_stop(&self) -> bool {
        self.announce_close(StatusCode::ShuttingDown, "the server is stopping")
    }
}

/// Which call of its connection this is, and how its answer is framed.
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
    encode(id.head_size, &status.to_head(id.call_id), |_| {})
}
