//! The thread of one connection: reads frames, begins calls.

use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::admitted::Admitted;
use super::connection::{CHECK_EVERY, CallId, ClientProtocol, Connection};
use super::end::End;
use super::pool::{Pool, Queued};
use super::shared::Shared;
use super::table::Target;
use crate::frame::{Decoder, Frame};
use crate::header::RpcHeader;
use crate::net::{after, time_left};
use crate::outbox::{Cork, Outbox};
use crate::port::{Connection as _, Leaves, Protocol};
use crate::service::Call;
use crate::stream::{Cause, Kind, Stream};
use crate::transport::{Received, Transport};
use crate::{Status, StatusCode};

/// A frame may take one second longer for each time this much of its body has arrived.
const BODY_BYTES_PER_SECOND: usize = 256 * 1024;

/// A body over the limit is skipped, so that the connection can live on, if it is at most this many
/// times the limit.
const SKIPPED_LIMITS_MAX: usize = 4;

/// Answers wait no longer than this for those of other calls that arrived together with theirs.
const HELD_BACK_MAX: Duration = Duration::from_millis(1);

/// The RPC, as what a port carries.
pub(super) struct Rpc {
    pub(super) shared: Arc<Shared>,
}

impl Protocol for Rpc {
    type Connection = Connection;

    fn connection(&self, socket: Transport, peer: SocketAddr) -> Arc<Connection> {
        let outbox = Outbox::new(
            socket,
            format!("rpc-send-{}", peer.port()),
            self.shared.limits.unsent_bytes_max,
        );
        Connection::new(peer, outbox, Arc::clone(&self.shared))
    }

    fn serve(&self, connection: Arc<Connection>) -> Leaves {
        Reader::new(connection).run();
        Leaves::Ended
    }

    fn write_timeout(&self) -> Duration {
        self.shared.limits.write_timeout
    }
}

pub(super) struct Reader {
    connection: Arc<Connection>,
    decoder: Decoder,
    /// The call whose arguments come next.
    next: Option<Admitted>,
    /// The stream whose item comes next.
    item: Option<Arc<Stream>>,
    /// The method that was called last, if its [`flush`](crate::Service::flush) is due.
    unflushed: Option<Target>,
    /// When the last header came, if its arguments came with it. They need not look at the clock
    /// again.
    now: Option<Instant>,
    /// Since when the rest of a frame, or of a body whose header is there, is waited for.
    began: Option<Instant>,
    /// Whether its client may be silent for as long as it likes, because it has made a documented
    /// call, or a call to a reserved service.
    may_idle: bool,
    /// Whether the connection may stay.
    is_admitted: bool,
    /// Whether the client has made an extended call, so that it understands a reply header.
    is_extended: bool,
}

impl Reader {
    pub(super) fn new(connection: Arc<Connection>) -> Self {
        let decoder = Decoder::detecting(connection.shared.limits.frame);
        Reader {
            connection,
            decoder,
            next: None,
            item: None,
            unflushed: None,
            now: None,
            began: None,
            may_idle: false,
            is_admitted: false,
            is_extended: false,
        }
    }

    /// Serves the connection until it ends.
    pub(super) fn run(mut self) {
        let end = loop {
            if let Err(end) = self.begin_calls().and_then(|()| self.read()) {
                break end;
            }
        };
        self.flush();
        // A call whose arguments never came. Nobody is answered; its room is given back last.
        let unread = self.next.take();
        self.count_unread(unread.as_ref());
        // A client that ends its stream of bytes waits for answers, but not for items: it may well
        // be gone.
        let gone = Status::new(StatusCode::Cancelled, "the connection is gone");
        self.connection.streams.end_all(&gone, false);
        end.finish(&self.connection);
        drop(unread);
        self.connection.outbox.close();
    }

    /// A stream counts as a call that ends, so it must have begun.
    fn count_unread(&self, unread: Option<&Admitted>) {
        if let Some(unread) = unread.filter(|unread| unread.answer.stream().is_some()) {
            let stats = unread.target.stats(&self.connection.shared.table);
            stats.begun(0);
            stats.dropped();
        }
    }

    fn begin_calls(&mut self) -> Result<(), End> {
        // The answers to calls that arrived together, and are answered at once, leave together.
        let mut cork = None;
        let mut flushed = None;
        self.now = None;
        while let Some(frame) = self.decoder.next().map_err(End::Frame)? {
            match frame {
                Frame::Head(head) => {
                    let now = Instant::now();
                    if now.saturating_duration_since(*flushed.get_or_insert(now)) > HELD_BACK_MAX {
                        Cork::flush_all();
                        flushed = Some(now);
                    }
                    self.listen_to(&head)?;
                    self.head(head, now)?;
                }
                Frame::Body(args) => {
                    // The answer to a call that came alone has nothing to wait for.
                    if cork.is_none() && !self.decoder.is_between_frames() {
                        cork = Some(Cork::new());
                    }
                    match self.item.take() {
                        None => self.body(args),
                        Some(stream) => {
                            self.began = None;
                            if stream.deliver(args) {
                                stream.wake_receiver();
                            }
                        }
                    }
                }
                Frame::TooLong(head) => {
                    self.listen_to(&head)?;
                    self.too_long(&head)?;
                }
                Frame::Skipped => self.began = None,
            }
        }
        self.flush();
        Ok(())
    }

    /// To be called before the thread waits for anything: it could wait for what its calls have put
    /// off.
    fn flush(&mut self) {
        if let Some(target) = self.unflushed.take() {
            Cork::flush_all();
            let service = &target.published(&self.connection.shared.table).service;
            // The panic hook reports a panic.
            let _ = catch_unwind(AssertUnwindSafe(|| service.flush(target.method)));
        }
    }

    /// Learns from a call which format its client understands and, if it is the first, whether the
    /// connection may stay.
    fn listen_to(&mut self, head: &RpcHeader) -> Result<(), End> {
        if head.call_id > 0 && !self.is_extended {
            // The decoder has just given a head, so it knows.
            let head_size = self.decoder.head_size().expect("known once a head was decoded");
            self.is_extended = true;
            self.connection.set_protocol(ClientProtocol::Extended(head_size));
        } else if !self.is_extended && !self.may_idle {
            self.connection.set_protocol(ClientProtocol::Documented);
        }
        if !self.is_admitted {
            let refuse = |status: Option<Status>| status.map_or(End::Cut, End::TooMany);
            self.connection.admit(&head.service_name).map_err(refuse)?;
            self.is_admitted = true;
        }
        Ok(())
    }

    fn head(&mut self, head: RpcHeader, arrived: Instant) -> Result<(), End> {
        let id = self.call_id(&head);
        if head.stream > 0 && !self.opens_stream(&head, id)? {
            self.item = self.connection.stream_frame(&head, id);
            if self.item.is_none() {
                self.decoder.skip_body();
            }
            self.began = None;
            return Ok(());
        }
        self.now = Some(arrived);
        self.wait_turn(id);
        self.may_idle |= id.is_documented();
        match self.connection.admit_call(head, id, arrived)? {
            Ok(admitted) => {
                let table = &self.connection.shared.table;
                if admitted.target.published(table).is_reserved {
                    self.may_idle = true;
                    self.connection.mark_as_peer();
                }
                self.next = Some(admitted);
            }
            Err(status) => {
                self.refuse(id, status)?;
                self.decoder.skip_body();
            }
        }
        self.began = None;
        Ok(())
    }

    /// Whether a frame of a stream opens it.
    fn opens_stream(&self, head: &RpcHeader, id: CallId) -> Result<bool, End> {
        if id.is_documented() {
            let words = "a frame of a stream without the stream's id";
            return Err(End::Refused(Status::new(StatusCode::BadStream, words)));
        }
        let kind = Kind::from_number(head.stream);
        let opens = matches!(kind, Some(Kind::Open | Kind::OpenOne));
        Ok(opens && !self.connection.streams.has(id.call_id))
    }

    fn wait_turn(&mut self, id: CallId) {
        // If it may have to wait, it waits for the calls before it.
        if id.is_documented() || !self.connection.is_its_turn() {
            self.flush();
            Cork::flush_all();
            self.connection.wait_turn();
            self.now = None;
        }
    }

    /// Runs the call whose arguments these are, unless its caller has stopped waiting.
    fn body(&mut self, args: Bytes) {
        self.began = None;
        let Admitted { target, answer, about } = self
            .next
            .take()
            .expect("the decoder gives a body only after a head that was not skipped");
        let table = &self.connection.shared.table;
        target.stats(table).begun(args.len());
        let (now, deadline) = (self.now.take().unwrap_or_else(Instant::now), about.deadline);
        let mut call = Call::new(answer, about);
        if deadline.is_some_and(|deadline| deadline <= now) {
            return call.fail(Status::new(
                StatusCode::DeadlineExceeded,
                "the deadline passed before the call could begin",
            ));
        }
        let shared = &self.connection.shared;
        if let Some(pool) = &shared.pool
            && !target.published(&shared.table).is_inline
        {
            let pool = Arc::clone(pool);
            return self.queue(&pool, target, args, call, now);
        }
        call.begin(now);
        if !self.unflushed.is_some_and(|last| last.is(target)) {
            self.flush();
            self.unflushed = Some(target);
        }
        let service = &target.published(&self.connection.shared.table).service;
        // The panic hook reports a panic, and the call that it drops is answered.
        let _ = catch_unwind(AssertUnwindSafe(|| service.call(target.method, args, call)));
    }

    /// Hands a call to the handlers. If they have no place for it, an extended call is refused with
    /// a hint of when they will, and a documented one waits.
    fn queue(&mut self, pool: &Pool, target: Target, args: Bytes, call: Call, now: Instant) {
        let table = &self.connection.shared.table;
        let (published, stats) = (target.published(table), Arc::clone(target.stats(table)));
        let caller = match call.caller() {
            [] => Bytes::from(self.connection.peer.ip().to_string()),
            caller => Bytes::copy_from_slice(caller),
        };
        let (service, method) = (Arc::clone(&published.service), target.method);
        let mut queued =
            Box::new(Queued { service, method, args, call, caller, stats, since: now });
        let wait_max = match queued.call.is_documented() {
            true => {
                // Before it waits, it sends what others wait for.
                self.flush();
                Cork::flush_all();
                CHECK_EVERY
            }
            false => Duration::ZERO,
        };
        while let Err((refused, hint)) = pool.offer(queued, wait_max) {
            if wait_max.is_zero() || self.connection.is_cut() {
                refused.stats.rejected();
                let words = "all handlers are busy, and no more calls may wait";
                return refused.call.fail(Status::busy(words, hint));
            }
            queued = refused;
        }
    }

    fn too_long(&mut self, head: &RpcHeader) -> Result<(), End> {
        let (id, len) = (self.call_id(head), head.args_size as usize);
        let limit = self.connection.shared.limits.frame.body_len_max_bytes;
        if head.stream > 0 && !self.opens_stream(head, id)? {
            let stream = self.connection.streams.get(id.call_id);
            stream.into_iter().for_each(|it| it.end_for(Cause::TooLong { len, limit }));
        } else {
            self.wait_turn(id);
            let words = format!("arguments of {len} bytes: at most {limit} are taken");
            self.refuse(id, Status::new(StatusCode::FrameTooLarge, words))?;
        }
        if len > limit.saturating_mul(SKIPPED_LIMITS_MAX) {
            return Err(End::TooLong(len));
        }
        self.began = None;
        Ok(())
    }

    fn call_id(&self, head: &RpcHeader) -> CallId {
        // The decoder has just given a head, so it knows.
        let head_size = self.decoder.head_size().expect("known once a head was decoded");
        CallId { call_id: head.call_id, head_size }
    }

    fn refuse(&self, id: CallId, status: Status) -> Result<(), End> {
        if id.is_documented() {
            return Err(End::Refused(status));
        }
        self.connection.refuse(id, &status);
        Ok(())
    }

    /// Reads once: between frames for as long as the client may be silent, within a frame only for
    /// the rest of the frame's time.
    fn read(&mut self) -> Result<(), End> {
        let timeout = self.time_for_frame()?;
        match self.connection.outbox.transport().read(self.decoder.space(), timeout) {
            // A client that will be reset has been told nothing, so it may go on sending.
            Ok(Received::Bytes(_) | Received::End) if self.connection.is_cut() => Err(End::Cut),
            Ok(Received::Bytes(count)) => {
                self.decoder.filled(count);
                Ok(())
            }
            Ok(Received::End) if self.decoder.is_between_frames() => Err(End::Eof),
            Ok(Received::End) => Err(End::Truncated),
            Ok(Received::TimedOut) if self.is_idle() => Err(End::Idle),
            // Whether a frame has taken too long is judged by the clock, before the next read.
            Ok(Received::TimedOut | Received::ReadAgain) => Ok(()),
            Err(_) if self.connection.is_cut() => Err(End::Cut),
            Err(error) => Err(End::Io(error)),
        }
    }

    fn time_for_frame(&mut self) -> Result<Option<Duration>, End> {
        let limits = &self.connection.shared.limits;
        if self.decoder.is_between_frames() {
            let idle = match self.is_admitted {
                true => limits.idle_timeout,
                // A client that has said nothing yet cannot be told why its connection ends, and
                // its first call may be on its way: it would not know whether that call has run.
                false => limits.idle_timeout.max(limits.frame_timeout),
            };
            return Ok((!self.may_idle).then_some(idle));
        }
        let began = *self.began.get_or_insert_with(Instant::now);
        let for_body =
            Duration::from_secs((self.decoder.body_arrived() / BODY_BYTES_PER_SECOND) as u64);
        let allowed = limits.frame_timeout.saturating_add(for_body);
        time_left(after(began, allowed)).map(Some).ok_or(End::Slow(allowed))
    }

    /// Whether a read that timed out means that the connection is idle.
    fn is_idle(&self) -> bool {
        self.decoder.is_between_frames() && !self.may_idle && self.connection.is_idle()
    }
}
