//! What the threads of one connection share: its outbox, and the request that is being answered.

use std::fmt;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};

use super::input::Input;
use super::parked::Parking;
use super::response::{Ends, Start};
use super::{Limits, Refusal, Response, Stats};
use crate::outbox::{Outbox, SendError};
use crate::port::{self, Admission, ConnectionId, NotAdmitted, Place, Registry, Room, Slot};
use crate::transport::{Peeked, TLS_REFUSAL};

/// Room for the bytes of a body; see [`Limits::bodies_max_bytes`].
pub(super) type BodyRoom = Slot;

pub(super) type Once = Box<dyn FnOnce() + Send>;

/// What all connections of a server share.
pub(super) struct Shared {
    pub(super) port: Arc<port::State>,
    pub(super) limits: Limits,
    /// The bodies that are being received, and those whose requests are being answered.
    pub(super) bodies: Arc<Room>,
    pub(super) parking: Parking,
    pub(super) registry: Arc<Registry<Connection>>,
    pub(super) requests: AtomicU64,
    pub(super) refused: AtomicU64,
}

impl Shared {
    pub(super) fn stats(&self) -> Stats {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Stats {
            connections: self.registry.len(),
            connections_accepted: of(&self.port.connections_accepted),
            connections_refused: of(&self.port.connections_refused),
            connections_idle: of(&self.port.connections_idle),
            requests: of(&self.requests),
            refused: of(&self.refused),
        }
    }

    /// Ends the connection that has been idle longest, in favour of one that needs its place.
    fn replace_idle(&self) -> Option<Place> {
        let connections = self.registry.connections();
        let idle = connections.iter().filter_map(|it| Some((it.idle_since()?, it)));
        let mut idle: Vec<_> = idle.collect();
        idle.sort_unstable_by_key(|(since, _)| *since);
        idle.into_iter().find_map(|(_, connection)| connection.give_up_place())
    }

    pub(super) fn body_room(&self, bytes: usize) -> Option<BodyRoom> {
        Slot::try_take(&self.bodies, false, bytes)
    }
}

pub(super) struct Connection {
    peer: SocketAddr,
    outbox: Arc<Outbox>,
    pub(super) shared: Arc<Shared>,
    admission: Admission,
    has_spoken: AtomicBool,
    /// Whether the rest of the body is too long to be read over after the answer.
    is_rest_long: AtomicBool,
    /// Whether it has no thread.
    is_parked: AtomicBool,
    /// What had arrived when its thread left it.
    unused: Mutex<Option<Box<Input>>>,
    exchange: Mutex<Exchange>,
    changed: Condvar,
}

/// Where a request and its answer are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Phase {
    /// There is none that waits: the next one may begin.
    #[default]
    Idle,
    /// It is not answered.
    Pending,
    /// Its answer has begun, and has no end yet.
    Streaming,
}

struct Exchange {
    phase: Phase,
    /// When the last request was answered, or else when the connection began.
    answered_at: Instant,
    /// Whether bytes of a further request have come.
    has_begun: bool,
    /// Whether the connection ends after this answer.
    closes: bool,
    /// Whether the client waits to be told to send the body.
    is_to_continue: bool,
    /// Whether the client has ended its side.
    is_ended: bool,
    /// Whether the connection is over.
    is_over: bool,
    room: Option<BodyRoom>,
    when_gone: Option<Once>,
    when_ready: Option<Once>,
    when_over: Option<Once>,
}

impl Exchange {
    fn new() -> Exchange {
        Exchange {
            phase: Phase::Idle,
            answered_at: Instant::now(),
            has_begun: false,
            closes: false,
            is_to_continue: false,
            is_ended: false,
            is_over: false,
            room: None,
            when_gone: None,
            when_ready: None,
            when_over: None,
        }
    }
}

impl Connection {
    pub(super) fn new(peer: SocketAddr, outbox: Arc<Outbox>, shared: Arc<Shared>) -> Arc<Self> {
        Arc::new(Connection {
            peer,
            outbox,
            shared,
            admission: Admission::default(),
            has_spoken: AtomicBool::new(false),
            is_rest_long: AtomicBool::new(false),
            is_parked: AtomicBool::new(false),
            unused: Mutex::new(None),
            exchange: Mutex::new(Exchange::new()),
            changed: Condvar::new(),
        })
    }

    pub(super) fn set_spoken(&self) {
        self.has_spoken.store(true, Ordering::Relaxed);
    }

    /// Sets whether bytes have come for which no request has begun yet. From then on the connection
    /// does not give up its place. If it has done so before, it [is cut](port::Connection::is_cut).
    pub(super) fn set_begun(&self, has_begun: bool) {
        self.exchange.lock().has_begun = has_begun;
    }

    /// Sets whether the rest of the body is too long to be read over after the answer.
    pub(super) fn set_rest_long(&self, is_long: bool) {
        self.is_rest_long.store(is_long, Ordering::Relaxed);
    }

    /// Since when nothing is asked, if that is so.
    fn idle_since(&self) -> Option<Instant> {
        self.idle_since_locked(&self.exchange.lock())
    }

    fn idle_since_locked(&self, exchange: &Exchange) -> Option<Instant> {
        let is_asked = exchange.phase != Phase::Idle || exchange.has_begun;
        (!is_asked && !self.outbox.holds_over(0)).then_some(exchange.answered_at)
    }

    /// Ends the connection and returns its place, if it has one and nothing is asked.
    fn give_up_place(&self) -> Option<Place> {
        // Under the lock, so that no request begins in between: it would be run, and its answer
        // lost.
        let exchange = self.exchange.lock();
        self.idle_since_locked(&exchange)?;
        if self.outbox.transport().peek() == Peeked::Bytes {
            return None;
        }
        let place = self.admission.give_up_place()?;
        self.outbox.cut("it had to make room");
        self.changed.notify_all();
        Some(place)
    }

    /// Its thread leaves it, and keeps what has arrived and was not used.
    pub(super) fn park(&self, input: Input) {
        if !input.is_empty() {
            *self.unused.lock() = Some(Box::new(input));
        }
        self.outbox.release_memory();
        self.is_parked.store(true, Ordering::SeqCst);
    }

    /// A thread takes it.
    pub(super) fn resume(&self) -> Input {
        self.is_parked.store(false, Ordering::SeqCst);
        self.unused.lock().take().map_or_else(Input::default, |input| *input)
    }

    /// Decides whether it may stay, as its first request has come. If no place is free, the
    /// connection that has been idle longest ends. If there is none, the client was told that it is
    /// refused.
    pub(super) fn admit(&self) -> Result<(), NotAdmitted> {
        let refuse = || self.send_refusal(Refusal::TooManyConnections);
        let replace = || self.shared.replace_idle();
        self.admission.admit_or_replace(self, &self.shared.port, false, replace, refuse)
    }

    /// Where the last request is, and whether the connection ends after it.
    pub(super) fn phase(&self) -> (Phase, bool) {
        let exchange = self.exchange.lock();
        (exchange.phase, exchange.closes)
    }

    /// Waits until the last request is answered, the connection is cut, or `timeout` passes.
    pub(super) fn wait_for_answer(&self, timeout: Duration) {
        let deadline = Instant::now() + timeout;
        let mut exchange = self.exchange.lock();
        while exchange.phase != Phase::Idle && !self.outbox.is_cut() {
            if self.changed.wait_until(&mut exchange, deadline).timed_out() {
                return;
            }
        }
    }

    pub(super) fn begin_request(&self, closes: bool, is_to_continue: bool) {
        self.shared.requests.fetch_add(1, Ordering::Relaxed);
        let mut exchange = self.exchange.lock();
        assert!(exchange.phase == Phase::Idle, "requests of a connection are answered in order");
        (exchange.phase, exchange.closes) = (Phase::Pending, closes);
        exchange.is_to_continue = is_to_continue;
    }

    /// The next request cannot be read: the connection ends after this one.
    pub(super) fn close_after_answer(&self) {
        self.exchange.lock().closes = true;
    }

    pub(super) fn is_to_continue(&self) -> bool {
        self.exchange.lock().is_to_continue
    }

    /// Tells a client that waits for it to send the body.
    pub(super) fn tell_to_continue(&self) {
        let mut exchange = self.exchange.lock();
        if std::mem::take(&mut exchange.is_to_continue) && exchange.phase == Phase::Pending {
            self.send(Bytes::from_static(b"HTTP/1.1 100 Continue\r\n\r\n"));
        }
    }

    /// The client has sent the whole body, whether it was told to or not.
    pub(super) fn set_body_read(&self) {
        self.exchange.lock().is_to_continue = false;
    }

    /// Keeps the room for a body until its request is answered.
    pub(super) fn hold(&self, room: BodyRoom) {
        self.exchange.lock().room = Some(room);
    }

    /// Sends a whole answer.
    pub(super) fn answer(&self, response: Response, asked: Asked) {
        let Response { start, body } = response;
        let len = if start.has_body() { body.len() } else { 0 };
        let closes = self.begin_answer(false);
        let mut bytes = start.encode(Ends::After(len), closes, asked.is_http_1_0);
        let body = if asked.is_head || len == 0 { Bytes::new() } else { body };
        if body.len() <= COPIED_LEN_MAX_BYTES {
            bytes.extend_from_slice(&body);
            self.send(bytes.into());
        } else {
            self.send(bytes.into());
            self.send(body);
        }
        self.end_answer();
    }

    /// Sends the head of an answer whose body is still unknown. Returns whether the body is sent in
    /// chunks.
    pub(super) fn begin_stream(&self, start: &Start, asked: Asked) -> bool {
        let closes = self.begin_answer(asked.is_http_1_0 && !asked.is_head);
        let ends = if asked.is_http_1_0 { Ends::WithConnection } else { Ends::WithLastChunk };
        self.send(start.encode(ends, closes, asked.is_http_1_0).into());
        if asked.is_head {
            self.end_answer();
        } else {
            self.exchange.lock().phase = Phase::Streaming;
        }
        !asked.is_http_1_0
    }

    fn begin_answer(&self, closes: bool) -> bool {
        let mut exchange = self.exchange.lock();
        let _unused = exchange.when_gone.take();
        // A client that was not told to send its body may send it or not.
        let is_to_continue = std::mem::take(&mut exchange.is_to_continue);
        // Nobody reads over the rest of a long body.
        let is_rest_long = self.is_rest_long.load(Ordering::Relaxed);
        let is_last = is_to_continue || is_rest_long || self.shared.port.is_draining();
        exchange.closes |= closes || is_last;
        exchange.closes
    }

    /// The answer was sent. The next request may begin.
    pub(super) fn end_answer(&self) {
        let mut exchange = self.exchange.lock();
        (exchange.phase, exchange.answered_at) = (Phase::Idle, Instant::now());
        let room = exchange.room.take();
        let callbacks = [exchange.when_ready.take(), exchange.when_over.take()];
        self.changed.notify_all();
        drop(exchange);
        drop(room);
        run(callbacks);
        if self.is_parked.load(Ordering::SeqCst) {
            self.shared.parking.wake();
        }
    }

    /// Tells the client why its request is not served, and that the connection ends.
    pub(super) fn send_refusal(&self, refusal: Refusal) {
        self.shared.refused.fetch_add(1, Ordering::Relaxed);
        if refusal == Refusal::Tls {
            return self.send(Bytes::from_static(TLS_REFUSAL));
        }
        let mut response = Response::text(refusal.status(), format!("{refusal}\n"));
        if refusal.status() == 503 {
            response = response.header("Retry-After", "1");
        }
        let Response { start, body } = response;
        let mut bytes = start.encode(Ends::After(body.len()), true, false);
        bytes.extend_from_slice(&body);
        self.send(bytes.into());
    }

    /// Sends bytes however much waits. Only one answer at a time is sent, and streams look first.
    fn send(&self, bytes: Bytes) {
        // A connection that is gone needs no answer.
        let _ = self.try_send(&bytes);
    }

    pub(super) fn try_send(&self, bytes: &Bytes) -> Result<(), SendError> {
        self.outbox.send_over_limit(bytes)
    }

    /// Runs `callback` when there is room for a chunk, or when the connection is over.
    pub(super) fn when_ready(self: &Arc<Self>, callback: Once) {
        let mut exchange = self.exchange.lock();
        if exchange.is_over || exchange.phase != Phase::Streaming {
            drop(exchange);
            return run([Some(callback)]);
        }
        exchange.when_ready = Some(callback);
        drop(exchange);
        let connection = Arc::downgrade(self);
        self.outbox.when_room(Box::new(move || {
            if let Some(connection) = connection.upgrade() {
                let callback = connection.exchange.lock().when_ready.take();
                run([callback]);
            }
        }));
    }

    /// Runs `callback` when the stream is over.
    pub(super) fn when_over(&self, callback: Once) {
        let mut exchange = self.exchange.lock();
        if exchange.is_over || exchange.phase != Phase::Streaming {
            drop(exchange);
            return run([Some(callback)]);
        }
        exchange.when_over = Some(callback);
    }

    /// Runs `callback` when the client has ended its side, or the connection is over.
    pub(super) fn when_gone(&self, callback: Once) {
        let mut exchange = self.exchange.lock();
        if exchange.is_ended {
            drop(exchange);
            return run([Some(callback)]);
        }
        exchange.when_gone = Some(callback);
    }

    /// The client has ended its side.
    pub(super) fn end_of_client(&self) {
        let mut exchange = self.exchange.lock();
        exchange.is_ended = true;
        let callback = exchange.when_gone.take();
        drop(exchange);
        run([callback]);
    }

    pub(super) fn is_over(&self) -> bool {
        self.outbox.is_cut()
    }

    /// The connection is over: cuts it, joins its writer, gives its place back, and tells those who
    /// still have its answer or its stream. They may keep it for long.
    pub(super) fn finish(&self) {
        self.outbox.close();
        self.admission.end();
        let mut exchange = self.exchange.lock();
        (exchange.is_ended, exchange.is_over) = (true, true);
        let callbacks =
            [exchange.when_gone.take(), exchange.when_ready.take(), exchange.when_over.take()];
        let room = exchange.room.take();
        drop(exchange);
        drop(room);
        run(callbacks);
    }
}

/// Shorter bodies and chunks are copied behind their heads, and leave with them.
pub(super) const COPIED_LEN_MAX_BYTES: usize = 64 << 10;

/// What an answer depends on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) is_head: bool,
    pub(super) is_http_1_0: bool,
}

/// Runs callbacks, under no lock.
fn run<const N: usize>(callbacks: [Option<Once>; N]) {
    // The panic hook reports a panic.
    let run = |callback| drop(catch_unwind(AssertUnwindSafe(callback)));
    callbacks.into_iter().flatten().for_each(run);
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
        // Under the lock, so that a thread that is about to wait does not miss it.
        let _exchange = self.exchange.lock();
        self.changed.notify_all();
    }

    fn has_spoken(&self) -> bool {
        self.has_spoken.load(Ordering::Relaxed)
    }

    fn is_idle(&self) -> bool {
        self.exchange.lock().phase == Phase::Idle && !self.outbox.holds_over(0)
    }

    fn evict(&self) -> bool {
        self.admission.evict(self, &self.shared.port)
    }

    fn tell_evicted(&self) {
        if self.has_spoken.load(Ordering::Relaxed) {
            self.send_refusal(Refusal::TooManyConnections);
        }
    }

    fn make_room(&self) -> bool {
        let is_busy = !self.is_idle() || self.outbox.transport().peek() == Peeked::Bytes;
        if is_busy || self.outbox.is_cut() {
            return false;
        }
        self.cut("it had to make room");
        true
    }

    /// Some streams never end by themselves. Without its last chunk a stream is not whole, and its
    /// client sees that.
    fn end_streams(&self) {
        if self.phase().0 == Phase::Streaming {
            self.cut("the server is stopping");
        }
    }

    /// HTTP has no words for it between answers.
    fn announce_stop(&self) -> bool {
        self.is_idle()
    }

    fn parked(self: Arc<Self>, id: ConnectionId) {
        let connection = Arc::clone(&self);
        self.shared.parking.add(id, connection);
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("peer", &self.peer).finish_non_exhaustive()
    }
}
