//! The sending half of a connection: any thread that has a frame sends it, and none waits.
//!
//! ```text
//! any thread ── send ──> [lock] nothing waits? ── try_write ──> transport    (the common path)
//!                              │ otherwise, or for what was not taken
//!                              └──> queue (bounded) ──> writer thread ── write_all ──> transport
//! ```
//!
//! If one thread answers many calls, frames for the same connection leave in one system call: see
//! [`Cork`].
//!
//! # Invariants
//!
//! - Frames leave in the order in which `send` took the lock. While anything waits, everything
//!   queues behind it. What the transport has not taken is offered to it again before anything
//!   else.
//! - At most `bytes_max` bytes wait, with two exceptions. A frame that finds the queue empty is
//!   always taken, because frames are bounded, too. What is sent by
//!   [`send_over_limit`](Outbox::send_over_limit) comes on top; its sender bounds it.
//! - A peer that takes nothing for the transport's write timeout is cut.
//!
//! # Threads
//!
//! A writer. It is started when the transport first takes less than a whole frame, and ends after a
//! second without work.
//!
//! # How a connection ends
//!
//! The peer sees the end of the stream behind all that was sent ([`Ending::InOrder`]), or a reset
//! ([`Ending::Reset`]). After a reset the peer knows for certain: what it sends next fails. But a
//! reset destroys what the peer has not acknowledged. The system resets when the socket is closed,
//! even if the process is killed. If the process is not killed, [`close`](Outbox::close) waits
//! until everything is acknowledged. If something is not, it ends the connection in order.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::marker::PhantomData;
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex, MutexGuard};

use super::net::{join, spawn};
use super::transport::Transport;

/// Longer frames are not held back, because one system call costs little beside them.
const CORKED_FRAME_LEN_MAX_BYTES: usize = 8 << 10;

/// When this much is held back for one connection, it leaves.
const CORKED_LEN_MAX_BYTES: usize = 64 << 10;

/// The memory for it is kept for the next time if it is no more than this.
const CORKED_KEPT_MAX_BYTES: usize = 4 << 10;

/// How long a writer without work stays, because a client that is slow once is slow again.
const WRITER_IDLE: Duration = Duration::from_secs(1);

/// How long a peer has to acknowledge what it was sent, before its connection ends in order instead
/// of by a reset. A round trip across the world takes 0.3 s.
const ACKNOWLEDGED_WITHIN: Duration = Duration::from_millis(500);

/// While more than this waits to be sent, an RPC connection's streams send no items: answers to
/// calls would stand behind them. Too small: the writer runs out of work before a sender has woken
/// up.
const STREAMS_UNSENT_MAX_BYTES: usize = 1 << 20;

/// How the peer learns that the connection is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// By the end of the stream, behind all that was sent.
    InOrder,
    /// By a reset, without an end of the stream before it.
    Reset,
}

/// Why a frame was not sent. The peer gets none of it, or a part that will never be whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SendError {
    /// The queue is full. The connection goes on.
    Full,
    /// The connection is gone.
    Closed,
}

pub(super) struct Outbox {
    transport: Transport,
    thread_name: String,
    bytes_max: usize,
    /// While more than this waits, streams may not send.
    streams_bytes_max: usize,
    /// Bytes that wait or are being written. Readable without the lock, which is held during system
    /// calls.
    unsent_bytes: AtomicUsize,
    /// Whether `State::cut` is there. Readable without the lock.
    is_cut: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
    /// What to do once streams may send again.
    room_waiters: Mutex<Vec<Box<dyn FnOnce() + Send>>>,
    /// Whether there are such waiters. Readable without the lock.
    has_room_waiters: AtomicBool,
}

struct State {
    /// Frames that threads under a cork hold back.
    corked: Vec<u8>,
    /// The newest of these corks; 0: none. Each of them will send all of `corked`.
    corker: u64,
    queue: VecDeque<Bytes>,
    writer: Writer,
    thread: Option<JoinHandle<()>>,
    /// Why the connection is over.
    cut: Option<String>,
    ending: Ending,
    /// Whether anything was ever sent.
    has_sent: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Writer {
    Absent,
    Idle,
    Busy,
}

impl Outbox {
    pub(super) fn new(transport: Transport, thread_name: String, bytes_max: usize) -> Arc<Self> {
        Outbox::with_room(transport, thread_name, bytes_max, STREAMS_UNSENT_MAX_BYTES)
    }

    /// The same. While more than `streams_bytes_max` waits, streams may not send.
    pub(super) fn with_room(
        transport: Transport,
        thread_name: String,
        bytes_max: usize,
        streams_bytes_max: usize,
    ) -> Arc<Self> {
        let state = State {
            corked: Vec::new(),
            corker: 0,
            queue: VecDeque::new(),
            writer: Writer::Absent,
            thread: None,
            cut: None,
            ending: Ending::InOrder,
            has_sent: false,
        };
        let (state, changed) = (Mutex::new(state), Condvar::new());
        Arc::new(Outbox {
            transport,
            thread_name,
            bytes_max,
            streams_bytes_max,
            unsent_bytes: AtomicUsize::new(0),
            is_cut: AtomicBool::new(false),
            state,
            changed,
            room_waiters: Mutex::default(),
            has_room_waiters: AtomicBool::new(false),
        })
    }

    /// The connection, for the thread that reads it.
    pub(super) fn transport(&self) -> &Transport {
        &self.transport
    }

    /// Sets how the connection will end, also if the process is killed. It begins as `InOrder`.
    pub(super) fn set_ending(&self, ending: Ending) {
        self.set_ending_locked(&mut self.state.lock(), ending);
    }

    fn set_ending_locked(&self, state: &mut MutexGuard<'_, State>, ending: Ending) {
        // A system that refuses ends all connections in order.
        if state.ending != ending && self.transport.set_reset_on_close(ending == Ending::Reset) {
            state.ending = ending;
        }
    }

    pub(super) fn ending(&self) -> Ending {
        self.state.lock().ending
    }

    /// Sends `frame`, or queues what the transport does not take now. Never waits for the peer.
    pub(super) fn send(self: &Arc<Self>, frame: &Bytes) -> Result<(), SendError> {
        self.send_up_to(self.bytes_max, frame)
    }

    /// The same, however much waits. For frames whose number and length are bounded elsewhere.
    pub(super) fn send_over_limit(self: &Arc<Self>, frame: &Bytes) -> Result<(), SendError> {
        self.send_up_to(usize::MAX, frame)
    }

    fn send_up_to(self: &Arc<Self>, bytes_max: usize, frame: &Bytes) -> Result<(), SendError> {
        let mut state = self.state.lock();
        if state.cut.is_some() {
            return Err(SendError::Closed);
        }
        state.has_sent = true;
        let is_short = frame.len() <= CORKED_FRAME_LEN_MAX_BYTES;
        if is_short && !state.is_draining() && Cork::holds(self, &mut state.corker) {
            self.unsent_bytes.fetch_add(frame.len(), Ordering::Relaxed);
            state.corked.extend_from_slice(frame);
            return match state.corked.len() < CORKED_LEN_MAX_BYTES {
                true => Ok(()),
                false => self.send_corked(&mut state),
            };
        }
        // What was held back came first.
        self.send_corked(&mut state)?;
        if state.is_draining() {
            if self.holds_over(bytes_max.saturating_sub(frame.len())) {
                return Err(SendError::Full);
            }
            return self.enqueue(&mut state, frame.clone());
        }
        match self.send_first(&mut state, frame)? {
            sent if sent == frame.len() => Ok(()),
            sent => self.enqueue(&mut state, frame.slice(sent..)),
        }
    }

    /// Sends bytes that nothing waits before. Returns how many were taken.
    fn send_first(
        &self,
        state: &mut MutexGuard<'_, State>,
        bytes: &[u8],
    ) -> Result<usize, SendError> {
        self.transport.try_write(bytes).map_err(|error| {
            self.cut_locked(state, &error.to_string());
            SendError::Closed
        })
    }

    /// Sends what was held back.
    fn send_corked(self: &Arc<Self>, state: &mut MutexGuard<'_, State>) -> Result<(), SendError> {
        state.corker = 0;
        if state.corked.is_empty() || state.cut.is_some() {
            return Ok(());
        }
        let mut frames = std::mem::take(&mut state.corked);
        self.unsent_bytes.fetch_sub(frames.len(), Ordering::Relaxed);
        let result = match state.is_draining() {
            true => self.enqueue(state, Bytes::from(frames)),
            false => self.send_first(state, &frames).and_then(|sent| {
                if sent < frames.len() {
                    return self.enqueue(state, Bytes::from(frames.split_off(sent)));
                }
                if frames.capacity() <= CORKED_KEPT_MAX_BYTES {
                    frames.clear();
                    state.corked = frames;
                }
                Ok(())
            }),
        };
        // A thread may wait for it to be on its way.
        self.changed.notify_all();
        result
    }

    fn uncork(self: &Arc<Self>) {
        // The thread that reads notices if the connection is gone.
        let _ = self.send_corked(&mut self.state.lock());
    }

    fn enqueue(
        self: &Arc<Self>,
        state: &mut MutexGuard<'_, State>,
        frame: Bytes,
    ) -> Result<(), SendError> {
        if state.writer == Writer::Absent && !self.start_writer(state) {
            return Err(SendError::Closed);
        }
        self.unsent_bytes.fetch_add(frame.len(), Ordering::Relaxed);
        state.queue.push_back(frame);
        self.changed.notify_all();
        Ok(())
    }

    /// Returns whether there is a writer. If not, the connection is cut, because half a frame may
    /// have left.
    fn start_writer(self: &Arc<Self>, state: &mut MutexGuard<'_, State>) -> bool {
        if let Some(ended) = state.thread.take() {
            // It set `Absent` under this lock, and did nothing after that.
            join(ended);
        }
        let outbox = Arc::clone(self);
        match spawn(self.thread_name.clone(), move || outbox.write_queue()) {
            Ok(thread) => {
                (state.writer, state.thread) = (Writer::Busy, Some(thread));
                true
            }
            Err(error) => {
                self.cut_locked(state, &format!("no thread to write with: {error}"));
                false
            }
        }
    }

    fn write_queue(&self) {
        while let Some(chunk) = self.next_chunk() {
            match self.transport.write_all(&chunk) {
                Ok(()) => {
                    // In one order with `when_room`: one of both sees what the other has done.
                    self.unsent_bytes.fetch_sub(chunk.len(), Ordering::SeqCst);
                    self.tell_of_room(self.streams_bytes_max / 2);
                }
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    return self.cut("the peer does not read what it is sent");
                }
                Err(error) => return self.cut(&error.to_string()),
            }
        }
    }

    fn next_chunk(&self) -> Option<Bytes> {
        let mut state = self.state.lock();
        loop {
            if state.cut.is_some() {
                return None;
            }
            if let Some(chunk) = state.queue.pop_front() {
                state.writer = Writer::Busy;
                // A thread may wait for the queue to shrink.
                self.changed.notify_all();
                return Some(chunk);
            }
            state.writer = Writer::Idle;
            self.changed.notify_all();
            if self.changed.wait_for(&mut state, WRITER_IDLE).timed_out() && state.queue.is_empty()
            {
                state.writer = Writer::Absent;
                return None;
            }
        }
    }

    /// Whether more than `bytes` wait to be sent.
    pub(super) fn holds_over(&self, bytes: usize) -> bool {
        self.unsent_bytes.load(Ordering::Relaxed) > bytes
    }

    /// Whether streams may send.
    pub(super) fn has_room(&self) -> bool {
        !self.holds_over(self.streams_bytes_max)
    }

    /// Runs `waiter` once streams may send: on this thread, or on the writer's. It never blocks. If
    /// the connection is cut before that, it may never run.
    pub(super) fn when_room(&self, waiter: Box<dyn FnOnce() + Send>) {
        self.room_waiters.lock().push(waiter);
        self.has_room_waiters.store(true, Ordering::SeqCst);
        self.tell_of_room(self.streams_bytes_max);
    }

    /// Runs the waiters, if at most `bytes` wait to be sent.
    fn tell_of_room(&self, bytes: usize) {
        if self.has_room_waiters.load(Ordering::SeqCst)
            && self.unsent_bytes.load(Ordering::SeqCst) <= bytes
            && self.has_room_waiters.swap(false, Ordering::SeqCst)
        {
            let waiters = std::mem::take(&mut *self.room_waiters.lock());
            waiters.into_iter().for_each(|waiter| waiter());
        }
    }

    /// Waits until at most `bytes` wait to be sent, the connection is cut, or `deadline` passes.
    pub(super) fn wait_until_below(&self, bytes: usize, deadline: Option<Instant>) {
        let mut state = self.state.lock();
        while state.cut.is_none() && (self.holds_over(bytes) || (bytes == 0 && state.is_draining()))
        {
            match deadline {
                None => self.changed.wait(&mut state),
                Some(deadline) if self.changed.wait_until(&mut state, deadline).timed_out() => {
                    return;
                }
                Some(_) => {}
            }
        }
    }

    /// Gives back the memory that is kept for the next frames: they may be hours away.
    #[cfg(feature = "http")]
    pub(super) fn release_memory(&self) {
        self.state.lock().corked.shrink_to_fit();
    }

    /// Ends the connection now. Threads that read or write wake up. The first reason stays.
    pub(super) fn cut(&self, reason: &str) {
        self.cut_locked(&mut self.state.lock(), reason);
    }

    fn cut_locked(&self, state: &mut MutexGuard<'_, State>, reason: &str) {
        if state.cut.is_none() {
            // These answers were given before the cut. What the transport does not take now is
            // lost, like the queue.
            if !state.corked.is_empty() && !state.is_draining() {
                let _ = self.transport.try_write(&state.corked);
            }
            if state.is_draining() {
                // Nothing else wakes a writer that waits for the peer. What the socket has taken
                // still arrives.
                self.set_ending_locked(state, Ending::InOrder);
            }
            state.cut = Some(reason.to_owned());
            self.is_cut.store(true, Ordering::Release);
            state.queue.clear();
            state.corked = Vec::new();
            let directions = match state.ending {
                Ending::InOrder => Shutdown::Both,
                // This wakes the reader, and tells the peer nothing.
                Ending::Reset => Shutdown::Read,
            };
            self.transport.shutdown(directions);
            self.changed.notify_all();
        }
    }

    /// Why the connection was cut; `None` if it was not.
    pub(super) fn cut_reason(&self) -> Option<String> {
        self.state.lock().cut.clone()
    }

    pub(super) fn is_cut(&self) -> bool {
        self.is_cut.load(Ordering::Acquire)
    }

    /// Cuts the connection and joins the writer. If the connection is to end by a reset, and the
    /// peer does not acknowledge all that it was sent, it ends in order instead.
    pub(super) fn close(&self) {
        self.cut("closed");
        let thread = self.state.lock().thread.take();
        thread.into_iter().for_each(join);
        let may_lose = {
            let state = self.state.lock();
            state.ending == Ending::Reset && state.has_sent
        };
        let deadline = Instant::now() + ACKNOWLEDGED_WITHIN;
        if may_lose && !self.transport.wait_until_acknowledged(deadline) {
            self.set_ending(Ending::InOrder);
            self.transport.shutdown(Shutdown::Write);
            self.transport.discard_received();
        }
    }
}

/// Gathers the short frames that its thread sends, calls and answers alike, until it is dropped.
/// Then all frames for one connection leave in one system call.
///
/// For a thread that answers many calls in a row. If something between two answers may take long,
/// [`flush`](Cork::flush) before it. If a thread has several corks, the newest one gathers. A long
/// frame leaves at once, behind those that were gathered for its connection.
///
/// ```
/// use syncraft_rpc::{Cork, Done};
///
/// fn answer_all(waiting: Vec<Done<String>>) {
///     let _cork = Cork::new();
///     for done in waiting {
///         done.run("ready".to_owned());
///     }
/// }
/// ```
#[derive(Debug)]
pub struct Cork {
    _on_this_thread: PhantomData<*const ()>,
}

/// The connections that a cork holds frames for.
struct Held {
    cork: u64,
    outboxes: Vec<Arc<Outbox>>,
}

thread_local! {
    static HELD: RefCell<Vec<Held>> = const { RefCell::new(Vec::new()) };
}

static LAST_CORK: AtomicU64 = AtomicU64::new(0);

impl Default for Cork {
    fn default() -> Cork {
        Cork::new()
    }
}

impl Cork {
    /// Starts to gather the frames of this thread.
    pub fn new() -> Cork {
        let cork = 1 + LAST_CORK.fetch_add(1, Ordering::Relaxed);
        HELD.with_borrow_mut(|held| held.push(Held { cork, outboxes: Vec::new() }));
        Cork { _on_this_thread: PhantomData }
    }

    /// Sends what the newest cork of this thread has gathered, and goes on gathering.
    pub fn flush(&self) {
        Cork::flush_all();
    }

    /// Sends what the newest cork of this thread holds back, if there is one.
    pub(super) fn flush_all() {
        let top = |held: &mut Vec<Held>| held.last_mut().map(|it| std::mem::take(&mut it.outboxes));
        let outboxes = HELD.with_borrow_mut(top).unwrap_or_default();
        outboxes.iter().for_each(Outbox::uncork);
    }

    /// Whether this thread holds frames back. If so, its cork will send those of `outbox`, whose
    /// newest cork is `corker`.
    fn holds(outbox: &Arc<Outbox>, corker: &mut u64) -> bool {
        HELD.with_borrow_mut(|held| {
            let Some(held) = held.last_mut() else { return false };
            if std::mem::replace(corker, held.cork) != held.cork {
                held.outboxes.push(Arc::clone(outbox));
            }
            true
        })
    }
}

impl Drop for Cork {
    fn drop(&mut self) {
        self.flush();
        HELD.with_borrow_mut(Vec::pop);
    }
}

impl State {
    /// Whether something waits or is being written, so that the next frame has to queue.
    fn is_draining(&self) -> bool {
        !self.queue.is_empty() || self.writer == Writer::Busy
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::thread;

    use super::*;
    use crate::transport::Received;

    const SOON: Duration = Duration::from_millis(50);
    const LONG: Duration = Duration::from_secs(20);

    fn pair(bytes_max: usize, write_timeout: Duration) -> (Arc<Outbox>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let transport = Transport::accepted(listener.accept().unwrap().0, write_timeout).unwrap();
        (Outbox::new(transport, "rpc-test".into(), bytes_max), peer)
    }

    #[test]
    fn a_frame_that_fits_needs_no_thread() {
        let (outbox, mut peer) = pair(100, LONG);
        outbox.send(&Bytes::from_static(b"hello")).unwrap();
        let mut got = [0; 5];
        peer.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"hello");
        assert!(outbox.state.lock().thread.is_none());
    }

    #[test]
    fn what_does_not_fit_arrives_in_order() {
        const FRAME: usize = 100_000;
        let (outbox, mut peer) = pair(1 << 30, LONG);
        for i in 0..200 {
            outbox.send(&Bytes::from(vec![i as u8; FRAME])).unwrap();
        }
        assert!(outbox.state.lock().thread.is_some());
        let mut got = vec![0; FRAME];
        for i in 0..200 {
            peer.read_exact(&mut got).unwrap();
            assert!(got.iter().all(|byte| *byte == i as u8), "frame {i}");
        }
        outbox.wait_until_below(0, Some(Instant::now() + LONG));
        assert!(!outbox.holds_over(0));
        // Now that nothing waits, sending is direct again.
        outbox.send(&Bytes::from_static(b"x")).unwrap();
        assert!(!outbox.holds_over(0));
        outbox.close();
        assert_eq!(outbox.send(&Bytes::from_static(b"x")), Err(SendError::Closed));
    }

    fn read(peer: &mut TcpStream, len: usize) -> Vec<u8> {
        let mut got = vec![0; len];
        peer.read_exact(&mut got).unwrap();
        got
    }

    fn send(outbox: &Arc<Outbox>, frame: &'static str) {
        outbox.send(&Bytes::from_static(frame.as_bytes())).unwrap();
    }

    fn is_silent(peer: &TcpStream) -> bool {
        peer.set_nonblocking(true).unwrap();
        let result = peer.peek(&mut [0]);
        peer.set_nonblocking(false).unwrap();
        result.is_err()
    }

    #[test]
    fn under_a_cork_frames_leave_together_when_it_is_dropped() {
        let (outbox, mut peer) = pair(100, LONG);
        let cork = Cork::new();
        send(&outbox, "one,");
        send(&outbox, "two,");
        assert!(is_silent(&peer) && outbox.holds_over(0));
        cork.flush();
        assert_eq!(read(&mut peer, 8), b"one,two,");
        send(&outbox, "three");
        drop(cork);
        assert_eq!(read(&mut peer, 5), b"three");
        assert!(!outbox.holds_over(0));
        send(&outbox, "four");
        assert_eq!(read(&mut peer, 4), b"four");
    }

    /// A reply that was given first must leave first: only their order tells bare replies apart.
    #[test]
    fn nothing_overtakes_what_is_held_back() {
        let (outbox, mut peer) = pair(1 << 20, LONG);
        let _cork = Cork::new();
        send(&outbox, "first,");
        thread::spawn({
            let outbox = outbox.clone();
            move || send(&outbox, "second")
        })
        .join()
        .unwrap();
        assert_eq!(read(&mut peer, 12), b"first,second");
        send(&outbox, "small,");
        outbox.send(&Bytes::from(vec![b'l'; CORKED_FRAME_LEN_MAX_BYTES + 1])).unwrap();
        assert_eq!(read(&mut peer, 7), b"small,l");
    }

    #[test]
    fn each_cork_sends_what_its_own_thread_holds_back() {
        let (outbox, mut peer) = pair(100, LONG);
        let outer = Cork::new();
        send(&outbox, "a");
        {
            let _inner = Cork::new();
            send(&outbox, "b");
        }
        assert_eq!(read(&mut peer, 2), b"ab");
        send(&outbox, "c");
        // Another thread's frame joins what is held back here, and leaves when that thread's cork
        // is dropped.
        thread::spawn({
            let outbox = outbox.clone();
            move || {
                let _cork = Cork::new();
                send(&outbox, "d");
            }
        })
        .join()
        .unwrap();
        assert_eq!(read(&mut peer, 2), b"cd");
        drop(outer);
    }

    #[test]
    fn a_cut_leaves_no_answer_behind_that_was_given() {
        let (outbox, mut peer) = pair(100, LONG);
        let _cork = Cork::new();
        send(&outbox, "given");
        outbox.cut("the next call was refused");
        let mut got = Vec::new();
        peer.read_to_end(&mut got).unwrap();
        assert_eq!(got, b"given");
    }

    #[test]
    fn a_full_queue_refuses_at_once() {
        const FRAME: usize = 1 << 20;
        let (outbox, _peer) = pair(4 * FRAME, LONG);
        let refused =
            (0..100).any(|_| outbox.send(&Bytes::from(vec![0; FRAME])) == Err(SendError::Full));
        assert!(refused);
        assert!(!outbox.holds_over(4 * FRAME));
        assert_eq!(outbox.send(&Bytes::from(vec![0; FRAME])), Err(SendError::Full));
        outbox.send_over_limit(&Bytes::from(vec![0; FRAME])).unwrap();
        outbox.close();
    }

    #[test]
    fn a_peer_that_does_not_read_is_cut() {
        let (outbox, _peer) = pair(1 << 30, SOON);
        outbox.send(&Bytes::from(vec![0; 64 << 20])).unwrap();
        outbox.wait_until_below(0, Some(Instant::now() + LONG));
        assert_eq!(outbox.cut_reason().unwrap(), "the peer does not read what it is sent");
        outbox.close();
    }

    /// How many bytes come, and how the stream ends.
    fn read_all(peer: &mut TcpStream) -> (usize, io::Result<usize>) {
        let mut got = Vec::new();
        let end = peer.read_to_end(&mut got);
        (got.len(), end)
    }

    #[test]
    fn a_reset_is_seen_behind_what_was_sent() {
        let (outbox, mut peer) = pair(100, LONG);
        outbox.set_ending(Ending::Reset);
        send(&outbox, "the reply");
        outbox.close();
        drop(outbox);
        let (len, end) = read_all(&mut peer);
        assert_eq!((len, end.unwrap_err().kind()), (9, io::ErrorKind::ConnectionReset));
    }

    #[test]
    fn until_it_is_closed_a_connection_that_will_be_reset_has_no_end() {
        let (outbox, peer) = pair(100, LONG);
        outbox.set_ending(Ending::Reset);
        outbox.cut("for a test");
        assert!(is_silent(&peer));
        // Our own reader wakes up.
        assert_eq!(outbox.transport().read(&mut [0], None).unwrap(), Received::End);
    }

    /// The peer's buffer is full, so the rest is in this system's buffer.
    #[cfg(target_os = "linux")]
    #[test]
    fn what_is_not_acknowledged_is_not_destroyed_by_a_reset() {
        const FRAME: usize = 1000;
        for sends_more in [false, true] {
            let (outbox, mut peer) = pair(1 << 30, LONG);
            socket2::SockRef::from(&peer).set_recv_buffer_size(4096).unwrap();
            outbox.set_ending(Ending::Reset);
            for _ in 0..300 {
                outbox.send(&Bytes::from(vec![0; FRAME])).unwrap();
            }
            assert!(!outbox.holds_over(0), "the socket has taken all");
            if sends_more {
                peer.write_all(b"a next call, which nobody reads").unwrap();
            }
            outbox.close();
            drop(outbox);
            assert_eq!(read_all(&mut peer).0, 300 * FRAME);
        }
    }

    #[test]
    fn a_writer_that_waits_for_the_peer_is_woken_though_a_reset_was_to_end_it() {
        let (outbox, _peer) = pair(1 << 30, LONG);
        outbox.set_ending(Ending::Reset);
        outbox.send(&Bytes::from(vec![0; 64 << 20])).unwrap();
        let began = Instant::now();
        outbox.close();
        assert!(began.elapsed() < LONG);
    }
}
