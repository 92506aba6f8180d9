//! The connection of a channel: made by a thread, read by whoever waits for an answer, or by that
//! thread.
//!
//! A caller that waits reads the connection itself, and brings what it reads to those who wait
//! beside it: its own answer wakes no thread but its own. When it has its answer it has another
//! caller go on, if any waits. Where nobody waits, nobody reads; the loss of an idle connection is
//! noticed by the next call, before it is sent (see `HEARD_LATELY`).
//!
//! Where that will not do, the thread that connected reads (`State::has_reader`): for completions,
//! which run on a thread of the channel's; where a loss is news at once; and for bare replies.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;

use super::calls::{Outcome, Parked};
use super::core::{Core, ReadBy};
use super::errors::Loss;
use super::{Config, Framing};
use crate::frame::{Decoder, Frame, FrameError};
use crate::header::RpcReplyHeader;
use crate::net::{resolve, time_left};
use crate::outbox::{Cork, Outbox};
use crate::transport::{Received, Transport, Waiting};
use crate::{Status, StatusCode};

/// A server that takes nothing of what it is sent for this long loses the connection.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Bare replies are read this much at a time: a reply that is written at once is then read at once,
/// as far as possible.
const BARE_READ_BYTES: usize = 64 * 1024;

/// A reply over the limit is passed over, so that the connection can live on, up to this many times
/// the limit.
const SKIPPED_LIMITS_MAX: usize = 4;

/// What a server says as it closes a connection comes at once, or not at all.
const LAST_WORDS_WAIT: Duration = Duration::from_millis(1);

/// Answers that came too late may stand before it.
const LAST_READS_MAX: usize = 4;

/// Whoever reads looks this often at other things: how long nothing has come, and whether the
/// channel's thread is to read in its place.
const READ_TIMEOUT: Duration = Duration::from_millis(100);

/// A connection that has just brought an answer to a caller is taken for alive this long without
/// looking: a system call for each call is much where calls follow one another. A call that is sent
/// over one that ends in this time is lost, and says so. Too long: a call after a restart of the
/// server is lost, not made over a new connection.
const HEARD_LATELY: Duration = Duration::from_micros(100);

/// An established connection. Clones are the same one.
#[derive(Clone)]
pub(super) struct Line(Arc<Ends>);

pub(super) struct Ends {
    pub(super) outbox: Arc<Outbox>,
    incoming: Mutex<Incoming>,
    since: Instant,
    /// When a caller last took its answer from it, in nanoseconds after `since`; 0: never, or its
    /// end has been seen meanwhile.
    brought_ns: AtomicU64,
    /// When bytes last came over it, in nanoseconds after `since`.
    heard_ns: AtomicU64,
    /// The number of the last ping.
    ping: AtomicU64,
}

impl Deref for Line {
    type Target = Ends;

    fn deref(&self) -> &Ends {
        &self.0
    }
}

/// What has come over a connection so far; whoever holds it reads.
struct Incoming {
    decoder: Decoder,
    /// The header whose reply comes next.
    next: Option<RpcReplyHeader>,
    /// Whether any frame has come.
    any: bool,
    /// What the server has said about the connection as a whole, whoever looks: nothing comes after
    /// it.
    last_words: Option<RpcReplyHeader>,
}

impl Line {
    pub(super) fn is(&self, other: &Line) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// A caller has its answer, and it is `now`.
    fn has_brought(&self, now: Instant) {
        let after = now.saturating_duration_since(self.since).as_nanos();
        self.brought_ns.store(after.max(1) as u64, Ordering::Relaxed);
    }

    /// Bytes have come, and it is `now`.
    fn has_heard(&self, now: Instant) {
        let after = now.saturating_duration_since(self.since).as_nanos();
        self.heard_ns.store(after as u64, Ordering::Relaxed);
    }

    /// When bytes last came over it; when it was made, if none have.
    pub(super) fn heard_at(&self) -> Instant {
        self.since + Duration::from_nanos(self.heard_ns.load(Ordering::Relaxed))
    }

    fn is_ping(&self, id: u64) -> bool {
        self.ping.load(Ordering::Relaxed) == id
    }

    /// A ping with this number is sent.
    pub(super) fn set_ping(&self, id: u64) {
        self.ping.store(id, Ordering::Relaxed);
    }

    /// Whether an answer has come a moment ago.
    pub(super) fn is_fresh(&self, now: Instant) -> bool {
        let brought = match self.brought_ns.load(Ordering::Relaxed) {
            0 => return false,
            after => self.since + Duration::from_nanos(after),
        };
        now.saturating_duration_since(brought) < HEARD_LATELY
    }

    /// Whether the connection is of use still, as far as its socket knows. For one that nobody
    /// reads.
    pub(super) fn is_alive(&self) -> bool {
        self.look() != Waiting::End
    }

    /// What has come that nobody reads.
    pub(super) fn look(&self) -> Waiting {
        if self.incoming.is_locked() {
            return Waiting::Nothing;
        }
        let waiting = self.outbox.look();
        if waiting != Waiting::Nothing {
            self.brought_ns.store(0, Ordering::Relaxed);
        }
        waiting
    }

    /// Reads what has come over a connection that nobody reads: answers that came too late, or why
    /// it ends.
    pub(super) fn read_last_words(&self, core: &Arc<Core>) {
        let Some(mut incoming) = self.incoming.try_lock() else { return };
        let loss = incoming.read_rest(core, self);
        drop(incoming);
        if let Some(loss) = loss {
            self.lose_for(core, loss);
        }
        // Someone may have found it being read.
        core.ask_another_to_read();
    }

    /// Whether it has served no caller for so long that the server may be about to close it.
    pub(super) fn is_stale(&self, now: Instant, idle_timeout: Duration) -> bool {
        let served = self.since + Duration::from_nanos(self.brought_ns.load(Ordering::Relaxed));
        now.saturating_duration_since(served) >= idle_timeout
    }

    /// Reads for all callers until `parked` has its outcome, `deadline` passes, or the channel's
    /// thread takes over; it is `now` as it begins, and when it ended comes back. `None` if
    /// somebody else reads.
    pub(super) fn read_until(
        &self,
        core: &Arc<Core>,
        parked: &Parked,
        mut now: Instant,
        deadline: Instant,
    ) -> Option<Instant> {
        let (mut incoming, mut has_read) = (self.incoming.try_lock()?, false);
        let loss = loop {
            if let Err(loss) = incoming.take_frames(core, self, ReadBy::Callers) {
                break loss;
            }
            if parked.has_outcome() {
                self.has_brought(now);
                return Some(now);
            }
            let left = deadline.saturating_duration_since(now);
            // Not before it has read once: what comes meanwhile it brings to others, too.
            if left.is_zero() || (has_read && core.has_reader()) {
                return Some(now);
            }
            has_read = true;
            let read;
            (now, read) = incoming.read_for(self, left.min(READ_TIMEOUT));
            match read {
                Ok(true) => {}
                Ok(false) => {
                    if let Err(loss) = core.look_after(self, now) {
                        break loss;
                    }
                }
                Err(error) => break Loss::Broken(error),
            }
        };
        drop(incoming);
        self.lose_for(core, loss);
        Some(now)
    }

    /// The connection turned out to be gone as something was sent. What came before, answers
    /// perhaps, or why, came all the same.
    pub(super) fn lose_and_go_on(&self, core: &Arc<Core>) {
        let loss = self.incoming.lock().read_rest(core, self);
        let gone = || io::Error::new(ErrorKind::ConnectionReset, "the connection is gone");
        self.lose_for(core, loss.unwrap_or_else(|| Loss::Broken(gone())));
    }

    /// The connection is gone, as a thread finds that is not the channel's.
    pub(super) fn lose_for(&self, core: &Arc<Core>, loss: Loss) {
        if self.lose(core, loss, ReadBy::Callers) {
            core.connect_again();
        }
    }

    /// Reads until the connection is lost. True: connect again.
    fn read_on(&self, core: &Arc<Core>) -> bool {
        let loss = match core.config.framing {
            Framing::Extended => match self.incoming.lock().read_frames(core, self) {
                Ok(()) => {
                    self.outbox.cut("idle");
                    self.outbox.close();
                    return false;
                }
                Err(loss) => loss,
            },
            Framing::Documented | Framing::DocumentedVarint => read_bare(core, &self.outbox),
        };
        self.lose(core, loss, ReadBy::Channel)
    }

    /// The connection is gone. True: connect again, as calls wait, and nobody does yet.
    fn lose(&self, core: &Arc<Core>, loss: Loss, by: ReadBy) -> bool {
        // A loss that we brought about has a better reason than what the read says.
        let why = match (loss, self.outbox.cut_reason()) {
            (Loss::Broken(_), Some(reason)) => {
                Loss::Broken(io::Error::new(ErrorKind::ConnectionAborted, reason))
            }
            (loss, _) => loss,
        };
        self.outbox.cut("lost");
        let connect_again = core.lost(self, &why, by);
        self.outbox.close();
        connect_again
    }
}

/// The channel's thread: connects, and reads if nobody else will.
pub(super) fn run(core: &Arc<Core>) {
    loop {
        let line = match connect(&core.config) {
            Ok(outbox) => Line::new(core, outbox),
            Err(error) => return core.connect_failed(&error),
        };
        match core.established(&line) {
            None => return line.outbox.close(),
            Some(ReadBy::Callers) => return,
            Some(ReadBy::Channel) => {}
        }
        if !line.read_on(core) {
            return;
        }
    }
}

/// The channel's thread, where callers have read so far.
pub(super) fn take_over(core: &Arc<Core>, line: &Line) {
    if line.read_on(core) {
        run(core);
    }
}

/// Tries every address of the server, each with its share of the time.
fn connect(config: &Config) -> io::Result<Arc<Outbox>> {
    let deadline = Instant::now() + config.connect_timeout;
    let addrs: Vec<SocketAddr> = match &config.resolver {
        // Foreign code. Its panic, reported by the panic hook, is the failure of this attempt.
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
            Ok(transport) => {
                let writer_name = format!("rpc-send-{}", config.port());
                return Ok(Outbox::new(transport, writer_name, config.unsent_bytes_max()));
            }
            Err(error) => last_error = error,
        }
    }
    Err(last_error)
}

impl Line {
    fn new(core: &Core, outbox: Arc<Outbox>) -> Line {
        let decoder = Decoder::of(core.head_size(), core.config.limits);
        let incoming = Incoming { decoder, next: None, any: false, last_words: None };
        let [brought_ns, heard_ns, ping] = [0; 3].map(AtomicU64::new);
        let (incoming, since) = (Mutex::new(incoming), Instant::now());
        Line(Arc::new(Ends { outbox, incoming, since, brought_ns, heard_ns, ping }))
    }
}

impl Incoming {
    /// Reads the answers to extended calls until the connection is lost, or has served none for
    /// long.
    fn read_frames(&mut self, core: &Arc<Core>, line: &Line) -> Result<(), Loss> {
        let Config { ping_interval, idle_timeout, .. } = core.config;
        let mut idle_since = None;
        loop {
            // What completions send leaves together.
            let cork = Cork::new();
            self.take_frames(core, line, ReadBy::Channel)?;
            drop(cork);
            let (now, read) =
                self.read_for(line, READ_TIMEOUT.min(ping_interval).min(idle_timeout));
            match read {
                Ok(true) => idle_since = None,
                Ok(false) => {
                    core.look_after(line, now)?;
                    let since = *idle_since.get_or_insert(now);
                    if core.has_calls() || core.config.on_disconnect.is_some() {
                        idle_since = None;
                    } else if since.elapsed() >= idle_timeout && core.close_idle(line) {
                        return Ok(());
                    }
                }
                Err(error) => return Err(Loss::Broken(error)),
            }
        }
    }

    /// Reads what has come by now, or some of it: last words are short, and a call waits. How the
    /// connection has ended, if it has.
    fn read_rest(&mut self, core: &Arc<Core>, line: &Line) -> Option<Loss> {
        for _ in 0..LAST_READS_MAX {
            if let Err(loss) = self.take_frames(core, line, ReadBy::Callers) {
                return Some(loss);
            }
            match self.read_for(line, LAST_WORDS_WAIT).1 {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => return Some(Loss::Broken(error)),
            }
        }
        self.take_frames(core, line, ReadBy::Callers).err()
    }

    /// Reads once. Returns when that was, and whether anything has come within `timeout`.
    fn read_for(&mut self, line: &Line, timeout: Duration) -> (Instant, io::Result<bool>) {
        let received = line.outbox.transport().read(self.decoder.space(), Some(timeout));
        let now = Instant::now();
        let has_come = received.and_then(|received| match received {
            Received::Bytes(count) => {
                self.decoder.filled(count);
                line.has_heard(now);
                Ok(true)
            }
            Received::Nothing => Ok(true),
            Received::TimedOut => Ok(false),
            Received::End => Err(end_of_stream()),
        });
        (now, has_come)
    }

    /// Brings what is complete to whom it is for.
    fn take_frames(&mut self, core: &Arc<Core>, line: &Line, by: ReadBy) -> Result<(), Loss> {
        loop {
            if let Some(head) = &self.last_words {
                return Err(self.about_connection(head));
            }
            match self.decoder.next() {
                Ok(None) => return Ok(()),
                Ok(Some(frame)) => self.take(core, line, frame, by)?,
                Err(error) => return Err(self.nonsense(&error)),
            }
        }
    }

    fn nonsense(&self, error: &FrameError) -> Loss {
        match (error, self.any) {
            (_, true) => Loss::Nonsense(error.to_string()),
            (FrameError::HeadTooLong { len }, false) if let Some(name) = protocol_of(*len) => {
                Loss::Stranger(name)
            }
            _ => Loss::Nonsense(format!("it does not speak this protocol, it seems: {error}")),
        }
    }

    fn take(
        &mut self,
        core: &Arc<Core>,
        line: &Line,
        frame: Frame<RpcReplyHeader>,
        by: ReadBy,
    ) -> Result<(), Loss> {
        match frame {
            Frame::Head(head) if head.call_id == 0 => {
                self.last_words = Some(head);
                return Ok(());
            }
            Frame::Head(head) => self.next = Some(head),
            Frame::Body(_) if self.next.as_ref().is_some_and(|head| line.is_ping(head.call_id)) => {
                self.next = None;
            }
            Frame::Body(reply) => {
                let head = self.next.take().expect("the decoder gives a body only after a head");
                let outcome: Outcome = match head.status {
                    0 => Ok(reply),
                    _ => Err(core.refused(status(&head))),
                };
                core.answer(head.call_id, outcome, by);
            }
            Frame::TooLong(head) => {
                let limit = core.config.limits.body_len_max_bytes;
                let reason =
                    format!("a reply of {} bytes: at most {limit} are taken", head.reply_size);
                core.answer(head.call_id, Err(core.bad_reply(reason.clone())), by);
                if head.reply_size as usize / SKIPPED_LIMITS_MAX > limit {
                    return Err(Loss::Nonsense(reason));
                }
            }
            Frame::Skipped => {}
        }
        self.any = true;
        Ok(())
    }

    /// The server says why it ends the connection. Said before anything else it means that no call
    /// was run.
    fn about_connection(&self, head: &RpcReplyHeader) -> Loss {
        let status = status(head);
        match status.code {
            StatusCode::Busy if !self.any => Loss::Refused(status),
            // Said when all calls that it has run are answered.
            StatusCode::ShuttingDown | StatusCode::Closing => Loss::Refused(status),
            _ => Loss::Broken(io::Error::new(
                ErrorKind::ConnectionAborted,
                format!("the server says: {status}"),
            )),
        }
    }
}

/// The protocol whose answers begin with these four bytes, read as the length of a header: an HTTP
/// status line, or a TLS alert, which is what a TLS server answers to bytes in the clear.
fn protocol_of(len: u64) -> Option<&'static str> {
    match u32::try_from(len).ok()?.to_le_bytes() {
        [b'H', b'T', b'T', b'P'] => Some("HTTP"),
        [0x15, 0x03, 0..=4, 0] => Some("TLS"),
        _ => None,
    }
}

fn status(head: &RpcReplyHeader) -> Status {
    let retry_after =
        (head.retry_after_ms > 0).then(|| Duration::from_millis(head.retry_after_ms.into()));
    Status {
        code: StatusCode::from_number(head.status),
        message: head.message.clone(),
        retry_after,
    }
}

/// Reads bare replies. Where one ends is not told: what decodes is taken for whole (see
/// `Framing::Documented`).
fn read_bare(core: &Core, outbox: &Outbox) -> Loss {
    let mut buf = vec![0; BARE_READ_BYTES];
    let mut reply = Vec::new();
    loop {
        let count = match outbox.transport().read(&mut buf, None) {
            Ok(Received::Bytes(count)) => count,
            Ok(Received::TimedOut | Received::Nothing) => continue,
            Ok(Received::End) => return Loss::Broken(end_of_stream()),
            Err(error) => return Loss::Broken(error),
        };
        let Some(decodes) = core.reply_in_line() else {
            return Loss::Broken(io::Error::new(
                ErrorKind::InvalidData,
                "the server sent bytes that nobody waits for",
            ));
        };
        reply.extend_from_slice(&buf[..count]);
        if decodes(&Bytes::copy_from_slice(&reply)) {
            core.answer_in_line(Ok(Bytes::from(std::mem::take(&mut reply))));
        } else if reply.len() > core.config.limits.body_len_max_bytes {
            core.answer_in_line(Err(
                core.bad_reply(format!("{} bytes, and still no reply", reply.len()))
            ));
            return Loss::Broken(io::Error::new(ErrorKind::InvalidData, "a reply over the limit"));
        }
    }
}

fn end_of_stream() -> io::Error {
    io::Error::new(ErrorKind::UnexpectedEof, "the server closed the connection")
}
