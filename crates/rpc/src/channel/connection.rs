//! One connection of a channel: how it is made, and what has come over it. It knows neither calls
//! nor callers.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;

use super::config::Config;
use super::errors::{Loss, end_of_stream};
use super::parked::CallResult;
use crate::frame::{Decoder, Frame, FrameError};
use crate::header::RpcReplyHeader;
use crate::net::{resolve, time_left};
use crate::outbox::Outbox;
use crate::transport::{Peeked, Received, Transport};
use crate::{ErrorChain, Status, StatusCode};

/// A server that takes nothing of what it is sent for this long loses the connection.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// A reply over the limit is skipped, so that the connection can live on, if it is at most this
/// many times the limit.
const SKIPPED_LIMITS_MAX: usize = 4;

/// A connection that brought a caller its answer this short a time ago counts as alive without a
/// look: one system call more for each call is much where calls follow one another. A call that is
/// sent over a connection that ends within this time is lost, and its error says so. Too long: a
/// call after a restart of the server is lost, instead of made over a new connection.
const FRESH_FOR: Duration = Duration::from_micros(100);

/// Where what has come goes.
pub(super) trait Deliver {
    /// The answer to a call.
    fn answer(&mut self, id: u64, outcome: CallResult);

    /// A frame of a stream.
    fn stream_frame(&mut self, head: &RpcReplyHeader, body: Bytes);
}

/// An established connection.
pub(super) struct Connection {
    pub(super) outbox: Arc<Outbox>,
    /// Whoever holds it reads.
    pub(super) incoming: Mutex<Incoming>,
    since: Instant,
    /// When a caller last took its answer from it, in nanoseconds after `since`. 0: never, or a
    /// look has found something since.
    brought_ns: AtomicU64,
    /// When bytes last came, in nanoseconds after `since`.
    heard_ns: AtomicU64,
    /// The id of the last ping.
    ping: AtomicU64,
    /// How long it had been silent when it was given up for that.
    gave_up_after: OnceLock<Duration>,
}

/// What has come over a connection so far.
pub(super) struct Incoming {
    decoder: Decoder,
    /// The header whose reply comes next.
    next: Option<RpcReplyHeader>,
    /// Whether any frame has come.
    any: bool,
    /// What the server has said about the connection as a whole. Nothing after it counts.
    final_frame: Option<RpcReplyHeader>,
}

impl Connection {
    /// Connects, within the channel's time limit. Each address of the server gets its share of it.
    pub(super) fn establish(config: &Config) -> io::Result<Arc<Connection>> {
        let deadline = Instant::now() + config.connect_timeout;
        let addrs: Vec<SocketAddr> = match &config.resolver {
            // Foreign code. The panic hook reports its panic, which fails this attempt only.
            Some(resolve) => catch_unwind(AssertUnwindSafe(|| resolve(&config.addr)))
                .unwrap_or_else(|_| Err(io::Error::other("the resolver panicked")))?,
            None => resolve(&config.addr)?,
        };
        let mut last_error = match addrs.is_empty() {
            true => io::Error::new(ErrorKind::NotFound, "the name has no address"),
            false => io::Error::new(ErrorKind::TimedOut, "no time was left to connect in"),
        };
        for (i, addr) in addrs.iter().enumerate() {
            let Some(left) = time_left(deadline) else { break };
            match Transport::connect(addr, left / (addrs.len() - i) as u32, WRITE_TIMEOUT) {
                Ok(transport) => return Ok(Connection::new(config, transport)),
                Err(error) => last_error = error,
            }
        }
        Err(last_error)
    }

    fn new(config: &Config, transport: Transport) -> Arc<Connection> {
        let writer_name = format!("rpc-send-{}", config.port());
        let outbox = Outbox::new(transport, writer_name, config.unsent_bytes_max());
        let decoder = Decoder::of(config.head_size(), config.limits);
        let incoming = Mutex::new(Incoming { decoder, next: None, any: false, final_frame: None });
        let (since, gave_up_after) = (Instant::now(), OnceLock::new());
        let [brought_ns, heard_ns, ping] = [0; 3].map(AtomicU64::new);
        Arc::new(Connection { outbox, incoming, since, brought_ns, heard_ns, ping, gave_up_after })
    }

    /// A caller has its answer, and it is `now`.
    pub(super) fn has_brought(&self, now: Instant) {
        let after = now.saturating_duration_since(self.since).as_nanos();
        self.brought_ns.store(after.max(1) as u64, Ordering::Relaxed);
    }

    /// Bytes have come, and it is `now`.
    fn has_heard(&self, now: Instant) {
        let after = now.saturating_duration_since(self.since).as_nanos();
        self.heard_ns.store(after as u64, Ordering::Relaxed);
    }

    /// When bytes last came; when the connection was made, if none have.
    pub(super) fn heard_at(&self) -> Instant {
        self.since + Duration::from_nanos(self.heard_ns.load(Ordering::Relaxed))
    }

    /// A ping with this id is sent.
    pub(super) fn set_ping(&self, id: u64) {
        self.ping.store(id, Ordering::Relaxed);
    }

    /// Whether an answer has come a moment ago.
    pub(super) fn is_fresh(&self, now: Instant) -> bool {
        let brought = match self.brought_ns.load(Ordering::Relaxed) {
            0 => return false,
            after => self.since + Duration::from_nanos(after),
        };
        now.saturating_duration_since(brought) < FRESH_FOR
    }

    /// Whether it has served no caller for so long that the server may be about to close it.
    pub(super) fn is_stale(&self, now: Instant, idle_timeout: Duration) -> bool {
        let served = self.since + Duration::from_nanos(self.brought_ns.load(Ordering::Relaxed));
        now.saturating_duration_since(served) >= idle_timeout
    }

    /// What has come that nobody reads. `Nothing` if somebody reads.
    pub(super) fn peek(&self) -> Peeked {
        if self.incoming.is_locked() {
            return Peeked::Nothing;
        }
        let peeked = self.outbox.transport().peek();
        if peeked != Peeked::Nothing {
            self.brought_ns.store(0, Ordering::Relaxed);
        }
        peeked
    }

    /// Gives it up because it has been silent for this long. The thread that reads it wakes up, and
    /// finds it lost for that reason.
    pub(super) fn give_up(&self, silence: Duration) {
        // The first reason stays.
        let _ = self.gave_up_after.set(silence);
        self.outbox.cut("silent for too long");
    }

    /// Why it was lost. If this side brought the loss about, it knows better than the read that
    /// found `loss`.
    pub(super) fn reason(&self, loss: Loss) -> Loss {
        match (loss, self.gave_up_after.get(), self.outbox.cut_reason()) {
            (Loss::Broken(_), Some(silence), _) => Loss::Silent(*silence),
            (Loss::Broken(_), None, Some(reason)) => {
                Loss::Broken(io::Error::new(ErrorKind::ConnectionAborted, reason))
            }
            (loss, ..) => loss,
        }
    }
}

impl Incoming {
    /// Reads once. Returns when that was, and whether anything has come within `timeout`.
    ///
    /// # Errors
    ///
    /// The connection is broken, or the server has ended it.
    pub(super) fn read(
        &mut self,
        connection: &Connection,
        timeout: Duration,
    ) -> (Instant, io::Result<bool>) {
        let transport = connection.outbox.transport();
        let received = transport.read(self.decoder.space(), Some(timeout));
        let now = Instant::now();
        let has_come = received.and_then(|received| match received {
            Received::Bytes(count) => {
                self.decoder.filled(count);
                connection.has_heard(now);
                Ok(true)
            }
            Received::ReadAgain => Ok(true),
            Received::TimedOut => Ok(false),
            Received::End => Err(end_of_stream()),
        });
        (now, has_come)
    }

    /// Delivers each answer that is complete, with the id of its call, and each frame of a stream.
    ///
    /// # Errors
    ///
    /// The server has said that it ends the connection, or what came is no frame.
    pub(super) fn take_answers(
        &mut self,
        connection: &Connection,
        config: &Config,
        to: &mut impl Deliver,
    ) -> Result<(), Loss> {
        loop {
            if let Some(head) = &self.final_frame {
                return Err(self.about_connection(head));
            }
            match self.decoder.next() {
                Ok(None) => return Ok(()),
                Ok(Some(frame)) => self.take(frame, connection, config, to)?,
                Err(error) => return Err(self.nonsense(&error)),
            }
        }
    }

    fn take(
        &mut self,
        frame: Frame<RpcReplyHeader>,
        connection: &Connection,
        config: &Config,
        to: &mut impl Deliver,
    ) -> Result<(), Loss> {
        match frame {
            Frame::Head(head) if head.call_id == 0 => {
                self.final_frame = Some(head);
                return Ok(());
            }
            Frame::Head(head) => self.next = Some(head),
            Frame::Body(reply) => {
                let head = self.next.take().expect("the decoder gives a body only after a head");
                if head.stream > 0 {
                    to.stream_frame(&head, reply);
                } else if connection.ping.load(Ordering::Relaxed) != head.call_id {
                    let outcome = match head.status {
                        0 => Ok(reply),
                        _ => Err(config.refused(Status::of_head(&head))),
                    };
                    to.answer(head.call_id, outcome);
                }
            }
            Frame::TooLong(head) => {
                let limit = config.limits.body_len_max_bytes;
                let reason =
                    format!("a reply of {} bytes: at most {limit} are taken", head.reply_size);
                to.answer(head.call_id, Err(config.bad_reply(reason.clone())));
                if head.reply_size as usize / SKIPPED_LIMITS_MAX > limit {
                    return Err(Loss::Nonsense(reason));
                }
            }
            Frame::Skipped => {}
        }
        self.any = true;
        Ok(())
    }

    fn nonsense(&self, error: &FrameError) -> Loss {
        match (error, self.any) {
            (_, true) => Loss::Nonsense(ErrorChain(error).to_string()),
            (FrameError::HeadTooLong { len }, false) if let Some(name) = protocol_of(*len) => {
                Loss::OtherProtocol(name)
            }
            _ => Loss::Nonsense(format!(
                "it does not speak this protocol, it seems: {}",
                ErrorChain(error)
            )),
        }
    }

    /// The server says why it ends the connection. If it says so before anything else, no call has
    /// run.
    fn about_connection(&self, head: &RpcReplyHeader) -> Loss {
        let status = Status::of_head(head);
        match status.code {
            StatusCode::Busy if !self.any => Loss::Refused(status),
            // The server says this only when it has answered every call that it ran.
            StatusCode::ShuttingDown | StatusCode::Closing => Loss::Refused(status),
            _ => Loss::Broken(io::Error::new(
                ErrorKind::ConnectionAborted,
                format!("the server says: {status}"),
            )),
        }
    }
}

/// The protocol whose answers begin with these four bytes, read as the length of a header: an HTTP
/// status line, or a TLS alert, which is how a TLS server answers bytes in the clear.
fn protocol_of(len: u64) -> Option<&'static str> {
    match u32::try_from(len).ok()?.to_le_bytes() {
        [b'H', b'T', b'T', b'P'] => Some("HTTP"),
        [0x15, 0x03, 0..=4, 0] => Some("TLS"),
        _ => None,
    }
}
