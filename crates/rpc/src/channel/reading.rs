//! Reading a connection: answers go to those who wait for them, whoever reads.
//!
//! A caller reads in its turn (`turns`), or the channel's own thread does. Nothing here ends a
//! connection: a [`Loss`] goes back to the thread that reads.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::connection::{Connection, Deliver, Incoming};
use super::errors::{Loss, end_of_stream};
use super::parked::CallResult;
use super::request::encode_ping;
use super::shared::{Deliveries, ReadBy, Shared, State};
use super::silence::Verdict;
use super::timer;
use crate::header::RpcReplyHeader;
use crate::outbox::Cork;
use crate::stream::Stream;
use crate::transport::Received;

/// Whoever reads stops this often to see how long nothing has come, and whether the channel's own
/// thread is to read in its place.
pub(super) const READ_TIMEOUT: Duration = Duration::from_millis(100);

/// The same while no call waits. A call that is sent meanwhile is looked after this late. It is then
/// time for the first ping, if the call is one of those with the shortest timeouts.
const IDLE_READ_TIMEOUT: Duration = Duration::from_millis(300);

/// The shortest wait for bytes.
const READ_TIMEOUT_MIN: Duration = Duration::from_millis(1);

/// Bare replies are read in pieces of this size, so that a reply which is written at once is also
/// read at once, as far as possible.
const BARE_READ_BYTES: usize = 64 * 1024;

/// What a server says as it closes a connection comes at once, or not at all.
const FINAL_FRAME_WAIT: Duration = Duration::from_millis(1);

/// Reads for it: answers that came too late may stand before it.
const LAST_READS_MAX: usize = 4;

/// Those who wait.
struct Receivers<'a> {
    shared: &'a Arc<Shared>,
    by: ReadBy,
    /// The stream that got the last frame, with its id. The next frame is usually for the same one.
    stream: Option<(u64, Arc<Stream>)>,
    /// Whether that stream's receiver may sleep although items have come. Items that come together
    /// wake it once: to wake a thread takes as long as to bring it dozens of them.
    needs_wake: bool,
}

impl Receivers<'_> {
    fn wake(&mut self) {
        if std::mem::take(&mut self.needs_wake)
            && let Some((_, stream)) = &self.stream
        {
            stream.wake_receiver();
        }
    }
}

impl Deliver for Receivers<'_> {
    fn answer(&mut self, id: u64, outcome: CallResult) {
        // What runs at the end of a call may take a while.
        self.wake();
        // The call that has opened a stream has an answer: what still comes is dropped.
        self.stream.take_if(|(last, _)| *last == id);
        self.shared.answer(id, outcome, self.by);
    }

    fn stream_frame(&mut self, head: &RpcReplyHeader, body: Bytes) {
        let id = head.call_id;
        if self.stream.as_ref().is_none_or(|(last, _)| *last != id) {
            self.wake();
            self.stream = self.shared.stream(id).map(|stream| (id, stream));
        }
        // Otherwise the stream had ended before this frame came, which is dropped.
        if let Some((_, stream)) = &self.stream {
            self.needs_wake |= self.shared.stream_frame(stream, head, body);
        }
    }
}

impl Drop for Receivers<'_> {
    fn drop(&mut self) {
        self.wake();
    }
}

impl Shared {
    /// Brings the answers that are complete to whom they are for.
    pub(super) fn take_answers(
        self: &Arc<Self>,
        incoming: &mut Incoming,
        connection: &Connection,
        by: ReadBy,
    ) -> Result<(), Loss> {
        let mut receivers = Receivers { shared: self, by, stream: None, needs_wake: false };
        incoming.take_answers(connection, &self.config, &mut receivers)
    }

    /// Brings an answer to its call. If the call was given up, the answer is dropped.
    fn answer(self: &Arc<Self>, id: u64, outcome: CallResult, by: ReadBy) {
        let mut state = self.lock();
        let call = state.calls.remove(id);
        // A stream that was not opened, for one. The timer's thread tells its receiver.
        self.take_back_from(id, &state);
        drop(state);
        match call {
            Some(call) => timer::deliver(self, call.waiter, outcome, by),
            None => {
                self.late_replies.fetch_add(1, Ordering::Relaxed);
                log::trace!("rpc: late answer of {} dropped", self.config.addr);
            }
        }
    }

    /// Asks a caller that waits to read, because this thread does not any more.
    pub(super) fn ask_another_to_read(&self) {
        let state = self.lock();
        if state.has_reader {
            return;
        }
        // Under the lock: a caller that gets its outcome later has been asked before, and asks
        // another.
        if let Some(parked) = state.calls.any_parked() {
            parked.ask_to_read();
        }
    }

    /// Whether the connection has been silent for too long. Pings the server when it is time to.
    /// For whoever reads, when nothing has come for a while. Returns when to look again.
    pub(super) fn look_after(
        &self,
        connection: &Connection,
        now: Instant,
    ) -> Result<Duration, Loss> {
        let mut state = self.lock();
        let is_waited_for = state.calls.len() > 0;
        // With `on_disconnect` a loss is looked for even if nobody waits. The pings also keep the
        // server from finding the connection idle.
        if !is_waited_for && self.config.on_disconnect.is_none() {
            return Ok(IDLE_READ_TIMEOUT);
        }
        state.silence.heard(connection.heard_at());
        let waiting_bytes = is_waited_for.then(|| state.calls.len_bytes());
        let verdict = state.silence.judge(now, waiting_bytes);
        let pause = match is_waited_for {
            true => READ_TIMEOUT,
            false => state.silence.until_next(now).clamp(READ_TIMEOUT_MIN, IDLE_READ_TIMEOUT),
        };
        drop(state);
        match verdict {
            Verdict::Wait => {}
            Verdict::GiveUp(silence) => return Err(Loss::Silent(silence)),
            Verdict::Ping => self.ping(connection),
        }
        Ok(pause)
    }

    /// Asks the server whether it is there. The answer is dropped: that it came is enough.
    fn ping(&self, connection: &Connection) {
        let id = self.take_id();
        connection.set_ping(id);
        // A ping that cannot be sent goes unanswered.
        if let Ok(frame) = encode_ping(&self.config, id) {
            let _ = connection.outbox.send(&frame);
            // The thread that reads may be running a method that holds its answers back.
            Cork::flush_all();
        }
    }

    // ---- the channel's own thread ----

    /// Reads the answers to extended calls. Returns when the connection has served no call for
    /// long.
    pub(super) fn read_until_idle(
        self: &Arc<Self>,
        connection: &Arc<Connection>,
    ) -> Result<(), Loss> {
        let most = self.config.ping_interval.min(self.config.idle_timeout);
        let mut timeout = READ_TIMEOUT.min(most);
        let mut incoming = connection.incoming.lock();
        let (mut idle_since, mut has_read) = (None, false);
        loop {
            // What completions send leaves together.
            let cork = Cork::new();
            self.take_answers(&mut incoming, connection, ReadBy::Channel)?;
            drop(cork);
            // Lends only after something has come. While nothing comes, this thread waits.
            if std::mem::take(&mut has_read) && self.is_lent() {
                drop(incoming);
                self.wait_while_lent(connection);
                incoming = connection.incoming.lock();
                continue;
            }
            match incoming.read(connection, timeout) {
                (_, Ok(true)) => (idle_since, has_read) = (None, true),
                (now, Ok(false)) => {
                    timeout = self.look_after(connection, now)?.min(most);
                    let since = *idle_since.get_or_insert(now);
                    if self.lock().calls.len() > 0 || self.config.on_disconnect.is_some() {
                        idle_since = None;
                    } else if since.elapsed() >= self.config.idle_timeout {
                        return Ok(());
                    }
                }
                (_, Err(error)) => return Err(Loss::Broken(error)),
            }
        }
    }

    /// Reads bare replies. Nothing says where one ends, so bytes that decode count as whole: see
    /// [`Framing::Documented`](super::Framing::Documented).
    pub(super) fn read_bare(&self, connection: &Connection) -> Loss {
        let broken = |words| Loss::Broken(io::Error::new(ErrorKind::InvalidData, words));
        let mut buf = vec![0; BARE_READ_BYTES];
        let mut reply = Vec::new();
        loop {
            let count = match connection.outbox.transport().read(&mut buf, None) {
                Ok(Received::Bytes(count)) => count,
                Ok(Received::TimedOut | Received::ReadAgain) => continue,
                Ok(Received::End) => return Loss::Broken(end_of_stream()),
                Err(error) => return Loss::Broken(error),
            };
            let Some(decodes) = self.lock().bare_reply() else {
                return broken("the server sent bytes that nobody waits for");
            };
            reply.extend_from_slice(&buf[..count]);
            if decodes(&Bytes::copy_from_slice(&reply)) {
                self.answer_bare(Ok(Bytes::from(std::mem::take(&mut reply))));
            } else if reply.len() > self.config.limits.body_len_max_bytes {
                let reason = format!("{} bytes, and still no reply", reply.len());
                self.answer_bare(Err(self.config.bad_reply(reason)));
                return broken("a reply over the limit");
            }
        }
    }

    /// Answers the call whose bare reply was due. It is the next call's turn.
    fn answer_bare(&self, outcome: CallResult) {
        let mut deliveries = Deliveries::new();
        let mut state = self.lock();
        if let Some(id) = state.bare_call.take() {
            state.finish(id, &mut deliveries, outcome);
        }
        state.send_unsent(&self.config, &mut deliveries);
        drop(state);
        deliveries.into_iter().for_each(|(waiter, outcome)| waiter.deliver(outcome));
    }

    // ---- a connection that nobody reads ----

    /// Reads what has come by now, or a part of it: a final frame is short, and a call waits.
    /// Returns how the connection has ended, if it has.
    pub(super) fn read_rest(
        self: &Arc<Self>,
        incoming: &mut Incoming,
        connection: &Connection,
    ) -> Option<Loss> {
        for _ in 0..LAST_READS_MAX {
            if let Err(loss) = self.take_answers(incoming, connection, ReadBy::Callers) {
                return Some(loss);
            }
            match incoming.read(connection, FINAL_FRAME_WAIT).1 {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => return Some(Loss::Broken(error)),
            }
        }
        self.take_answers(incoming, connection, ReadBy::Callers).err()
    }
}

impl State {
    /// How to tell that the bare reply which comes next is whole; `None` when none is due.
    fn bare_reply(&mut self) -> Option<fn(&Bytes) -> bool> {
        let id = self.bare_call?;
        self.calls.get_mut(id).map(|call| call.decodes)
    }
}
