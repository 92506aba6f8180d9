//! The thread of one connection: reads frames, begins calls.

use std::net::Shutdown;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::connection::{Begun, CHECK_EVERY, CallId, Connection, Speaks};
use super::pool::{Pool, Queued};
use super::table::Target;
use crate::frame::{Decoder, Frame, FrameError, Stranger};
use crate::header::RpcHeader;
use crate::net::{after, time_left};
use crate::outbox::{Cork, Ending};
use crate::service::{About, Answer, Call, More};
use crate::transport::Received;
use crate::{RequestId, Status, StatusCode};

/// The body of a frame has a second more for each of these that has arrived.
const BODY_BYTES_PER_SECOND: usize = 256 * 1024;

/// A body over the limit is passed over, so that the connection can live on, up to this many times
/// the limit.
const SKIPPED_LIMITS_MAX: usize = 4;

/// After the last word to a client its bytes are still read for this long: closing with bytes
/// unread would destroy it.
const LINGER: Duration = Duration::from_secs(1);

/// Answers wait no longer than this for those of calls that arrived together with theirs.
const HELD_BACK_MAX: Duration = Duration::from_millis(1);

const HTTP_ANSWER: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 43\r\n\
    Connection: close\r\n\r\nThis port speaks syncraft's RPC, not HTTP.\n";

/// A fatal "handshake_failure" alert (RFC 8446 §6), in the record version that every TLS client
/// reads.
const TLS_ANSWER: &[u8] = &[0x15, 0x03, 0x01, 0x00, 0x02, 0x02, 0x28];

/// How a connection ends.
#[derive(Debug, thiserror::Error)]
enum End {
    /// The client closed it between frames.
    #[error("closed by the client")]
    Eof,
    /// Nothing was asked for long.
    #[error("idle")]
    Idle,
    /// It was cut from elsewhere; whoever did has said why.
    #[error("cut")]
    Cut,
    #[error("the connection broke: {0}")]
    Io(std::io::Error),
    #[error("the client closed it within a frame")]
    Truncated,
    #[error("a frame was not complete after {0:?}")]
    Slow(Duration),
    #[error("{0}")]
    Frame(FrameError),
    /// A documented call that cannot be run: no status can be sent.
    #[error("{0}")]
    Refused(Status),
    /// A connection too many, as its first call has shown. The client has been told.
    #[error("{0}")]
    TooMany(Status),
    /// Arguments so far over the limit that they are not worth passing over. The client has been
    /// told.
    #[error("arguments of {0} bytes")]
    TooLong(usize),
}

pub(super) struct Reader {
    connection: Arc<Connection>,
    decoder: Decoder,
    /// The call whose arguments come next.
    next: Option<Admitted>,
    /// The method that was called last, and is yet to hear that there are no more calls.
    unflushed: Option<Target>,
    /// When the header came whose arguments had come with it. They need not ask again what time it
    /// is.
    now: Option<Instant>,
    /// Since when the rest of the frame (or, once the header is there, of its body) is waited for;
    /// none before it is.
    began: Option<Instant>,
    /// Whether its client may say nothing for as long as it likes: it has made a documented call,
    /// or one to a reserved service.
    may_idle: bool,
    /// Whether it is known that the connection may stay.
    is_settled: bool,
    /// Whether the client has made an extended call, so that it understands a reply header.
    is_extended: bool,
}

/// A call that will run when its arguments are here.
struct Admitted {
    target: Target,
    answer: Box<dyn Answer>,
    about: About,
}

/// What the header says about a call that came just now.
fn about(head: RpcHeader, id: CallId, arrived: Instant) -> About {
    let RpcHeader { deadline_ms, caller, client_id, request_id, attempt, trace, .. } = head;
    let after = Duration::from_millis(deadline_ms.into());
    let has_id = !client_id.is_empty();
    let has_more = has_id || !trace.is_empty();
    About {
        deadline: (deadline_ms > 0).then(|| arrived + after),
        is_documented: id.is_documented(),
        caller,
        more: has_more.then(|| {
            let request = RequestId { client: client_id, number: request_id, attempt };
            Box::new(More { request: has_id.then_some(request), trace })
        }),
    }
}

impl Reader {
    pub(super) fn new(connection: Arc<Connection>) -> Self {
        let decoder = Decoder::detecting(connection.shared.limits.frame);
        Reader {
            connection,
            decoder,
            next: None,
            unflushed: None,
            now: None,
            began: None,
            may_idle: false,
            is_settled: false,
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
        self.finish(end);
        self.connection.outbox.close();
    }

    fn begin_calls(&mut self) -> Result<(), End> {
        // Of calls that are answered at once, and have arrived together, the answers leave
        // together.
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
                    // One that has come alone has nothing to wait for.
                    if cork.is_none() && !self.decoder.is_between_frames() {
                        cork = Some(Cork::new());
                    }
                    self.body(args);
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

    /// Before the thread waits for anything: what its calls have put off may be what it would wait
    /// for.
    fn flush(&mut self) {
        if let Some(target) = self.unflushed.take() {
            Cork::flush_all();
            let service = &target.published(&self.connection.shared.table).service;
            // As for a call.
            let _ = catch_unwind(AssertUnwindSafe(|| service.flush(target.method)));
        }
    }

    /// What a call shows of its client: the format that it understands, and, if it is its first,
    /// whether it may stay.
    fn listen_to(&mut self, head: &RpcHeader) -> Result<(), End> {
        if head.call_id > 0 && !self.is_extended {
            // The decoder has just given a head, so it knows.
            let head_size = self.decoder.head_size().expect("known once a head was decoded");
            self.is_extended = true;
            self.connection.speaks(Speaks::Extended(head_size));
        } else if !self.is_extended && !self.may_idle {
            self.connection.speaks(Speaks::Documented);
        }
        if !self.is_settled {
            let refuse = |status: Option<Status>| status.map_or(End::Cut, End::TooMany);
            self.connection.settle(&head.service_name).map_err(refuse)?;
            self.is_settled = true;
        }
        Ok(())
    }

    fn head(&mut self, head: RpcHeader, arrived: Instant) -> Result<(), End> {
        let id = self.call_id(&head);
        self.now = Some(arrived);
        self.wait_turn(id);
        self.may_idle |= id.is_documented();
        match self.admit(head, id, arrived)? {
            Ok(admitted) => {
                let table = &self.connection.shared.table;
                if admitted.target.published(table).is_reserved {
                    self.may_idle = true;
                    self.connection.is_of_a_peer();
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

    fn wait_turn(&mut self, id: CallId) {
        // One that may have to wait for room waits for the calls before it.
        if id.is_documented() || !self.connection.is_its_turn() {
            self.flush();
            Cork::flush_all();
            self.connection.wait_turn();
            self.now = None;
        }
    }

    /// Room for the call and what it is for; or the status to refuse it with.
    fn admit(
        &self,
        head: RpcHeader,
        id: CallId,
        arrived: Instant,
    ) -> Result<Result<Admitted, Status>, End> {
        let shared = &self.connection.shared;
        if shared.is_draining() {
            return Ok(Err(Status::new(StatusCode::ShuttingDown, "the server is stopping")));
        }
        let target = match shared.table.find(&head) {
            Ok(target) => target,
            Err(status) => {
                shared.count_if_unknown(status.code);
                return Ok(Err(status));
            }
        };
        let (published, stats) = (target.published(&shared.table), target.stats(&shared.table));
        let (len, is_reserved) = (head.args_size as usize, published.is_reserved);
        let slot = match id.is_documented() {
            true => self.connection.wait_room(len, is_reserved).ok_or(End::Cut)?,
            false => match self.connection.try_room(len, is_reserved) {
                Ok(slot) => slot,
                Err(busy) => {
                    stats.refused(busy.code);
                    return Ok(Err(busy));
                }
            },
        };
        let about = about(head, id, arrived);
        let begun = Begun {
            stats: Arc::clone(stats),
            arrived,
            caller: about.caller.clone(),
            trace: about.trace().clone(),
        };
        match self.connection.begin(id, slot, begun) {
            Some(answer) => Ok(Ok(Admitted { target, answer, about })),
            None => Ok(Err(Status::new(StatusCode::ShuttingDown, "the connection is ending"))),
        }
    }

    /// Runs the call that waited for its arguments, unless its caller has stopped waiting.
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
        // The panic is reported by the panic hook, and answered when the call is dropped on its
        // way.
        let _ = catch_unwind(AssertUnwindSafe(|| service.call(target.method, args, call)));
    }

    /// Leaves a call to the handlers. Where they have no place for it, an extended one is told when
    /// they will, and a documented one waits.
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
        let patience = match queued.call.is_documented() {
            true => {
                // One that may have to wait sends off what others wait for.
                self.flush();
                Cork::flush_all();
                CHECK_EVERY
            }
            false => Duration::ZERO,
        };
        while let Err((refused, hint)) = pool.offer(queued, patience) {
            if patience.is_zero() || self.connection.is_cut() {
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
        self.wait_turn(id);
        let words = format!("arguments of {len} bytes: at most {limit} are taken");
        self.refuse(id, Status::new(StatusCode::FrameTooLarge, words))?;
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

    /// Reads once. Between frames it waits as long as it takes, within a frame only for the rest of
    /// the frame's time.
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
            Ok(Received::TimedOut | Received::Nothing) => Ok(()),
            Err(_) if self.connection.is_cut() => Err(End::Cut),
            Err(error) => Err(End::Io(error)),
        }
    }

    fn time_for_frame(&mut self) -> Result<Option<Duration>, End> {
        if self.decoder.is_between_frames() {
            return Ok((!self.may_idle).then_some(self.connection.shared.limits.idle_timeout));
        }
        let began = *self.began.get_or_insert_with(Instant::now);
        let for_body =
            Duration::from_secs((self.decoder.body_arrived() / BODY_BYTES_PER_SECOND) as u64);
        let allowed = self.connection.shared.limits.frame_timeout.saturating_add(for_body);
        time_left(after(began, allowed)).map(Some).ok_or(End::Slow(allowed))
    }

    /// Whether it has been between frames for a whole read timeout, with nothing left to do.
    fn is_idle(&self) -> bool {
        self.decoder.is_between_frames() && !self.may_idle && self.connection.is_idle()
    }

    fn finish(&mut self, end: End) {
        self.flush();
        // A call that was admitted and whose arguments never came: its room is given back, and
        // nobody is answered.
        let unread = self.next.take();
        match &end {
            End::Cut => log::debug!(
                "rpc: connection from {} was cut: {:?}",
                self.connection.peer,
                self.connection.outbox.cut_reason()
            ),
            End::Eof => {
                // It waits for its answers and the end of the stream, or is gone.
                self.connection.outbox.set_ending(Ending::InOrder);
                let timeout = self.connection.shared.limits.half_close_timeout;
                self.connection.drain(after(Instant::now(), timeout));
            }
            // Clients die; that is no news.
            End::Io(error) => {
                log::debug!("rpc: connection from {} broke: {error}", self.connection.peer)
            }
            End::Idle => {
                self.connection.bid_farewell(StatusCode::Closing, "nothing was asked for long");
                self.connection.shared.count_idle();
                self.linger();
            }
            End::Truncated | End::Slow(_) => self.warn(&end),
            End::TooLong(_) | End::TooMany(_) => self.linger(),
            End::Refused(_) => {
                self.warn(&end);
                self.linger();
            }
            End::Frame(error) => {
                self.warn(&end);
                self.explain(error);
                self.linger();
            }
        }
        self.connection.cut("closed");
        drop(unread);
    }

    fn warn(&self, end: &End) {
        self.connection
            .shared
            .log
            .warn(&format!("rpc: connection from {} closed: {end}", self.connection.peer));
    }

    /// Says what is wrong in the words of the one who did it.
    fn explain(&self, error: &FrameError) {
        let answer = match error {
            FrameError::Stranger(Stranger::Http) => HTTP_ANSWER,
            FrameError::Stranger(Stranger::Tls) => TLS_ANSWER,
            _ => return self.say_goodbye(&Status::new(StatusCode::BadHeader, error.to_string())),
        };
        self.connection.outbox.set_ending(Ending::InOrder);
        // What cannot be sent at once is not worth waiting for.
        let _ = self.connection.outbox.send(&Bytes::from_static(answer));
    }

    /// Says why the connection ends, if its client is known to understand it.
    fn say_goodbye(&self, status: &Status) {
        if let Speaks::Extended(head_size) = self.connection.spoken() {
            self.connection.say_goodbye(head_size, status);
        }
    }

    /// Lets the client read the last words: sends the end of the stream, and reads what still comes
    /// for a moment. One that is reset had no such words.
    fn linger(&self) {
        let deadline = Instant::now() + LINGER;
        self.connection.outbox.wait_until_below(0, Some(deadline));
        if self.connection.outbox.ending() == Ending::Reset {
            return;
        }
        let transport = self.connection.outbox.transport();
        transport.shutdown(Shutdown::Write);
        let mut sink = [0; 4096];
        while let Some(left) = time_left(deadline) {
            match transport.read(&mut sink, Some(left)) {
                Ok(Received::Bytes(_) | Received::Nothing) => {}
                Ok(Received::TimedOut | Received::End) | Err(_) => return,
            }
        }
    }
}
