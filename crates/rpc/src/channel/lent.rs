//! A connection that carries only one stream of a server's items is lent to the stream's receiver:
//! the thread that takes the items reads them itself.
//!
//! ```text
//!   channel's thread: reads an item ── wakes the receiver ── waits: it is lent ─────────── reads
//!   receiver:         waits ── takes the item ── reads the next one itself ── ... ── is away ──┘
//! ```
//!
//! An item then wakes no thread, and often gets the memory that the item before it used, which is
//! still in the cache (ARCHITECTURE.md has what that gains).
//!
//! The channel's thread is still responsible (`State::has_reader`). It reads again when another
//! call has entered the channel, when the stream is over, when nothing has come for
//! [`READ_TIMEOUT`], and when it finds, every [`LOOK_PAUSE`], that the receiver does not read. The
//! connection is lent only if the stream is alone on its channel, its caller sends nothing on it,
//! and the channel has no `on_disconnect`. Otherwise other calls, or a sender that needs credit,
//! would wait while nobody reads.
//!
//! # Invariants
//! - A receiver may read answers to other calls before it gives the connection back. It runs none
//!   of their closures: completions run on the timer's thread, and a caller's streams have no
//!   closures.
//! - A receiver reads at most until its own deadline and that of the stream. If less than
//!   [`LOOK_PAUSE`] is left, it waits instead of reading, because a system may end a read some
//!   milliseconds late.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::connection::Connection;
use super::errors::Loss;
use super::reading::READ_TIMEOUT;
use super::shared::{ReadBy, Shared, State};
use crate::stream::{ReadTurn, Stream};

/// How often the channel's thread looks whether the receiver reads. Longer: the loss of the
/// connection, or a ping that is due, is noticed later while the receiver is away. Shorter: more
/// wake-ups.
const LOOK_PAUSE: Duration = Duration::from_millis(20);

/// What a stream's receiver needs of its channel.
pub(super) struct Lent {
    shared: Weak<Shared>,
    id: u64,
}

impl Lent {
    pub(super) fn boxed(shared: &Arc<Shared>, id: u64) -> Box<dyn ReadTurn> {
        Box::new(Lent { shared: Arc::downgrade(shared), id })
    }
}

impl ReadTurn for Lent {
    fn read(&self, stream: &Arc<Stream>, until: Option<Instant>) {
        let Some(shared) = self.shared.upgrade() else { return };
        let Some((connection, until)) = shared.lend_to(self.id, until) else { return };
        if let Err(loss) = shared.read_items(&connection, stream, self.id, until) {
            shared.lose_by_caller(&connection, loss);
        }
        if shared.lent_to.load(Ordering::Acquire) != self.id {
            // The connection may have been lent to another stream, whose receiver found this thread
            // reading.
            shared.take_back(&shared.lock());
        }
    }
}

impl Shared {
    /// Lends the connection to the receiver of this stream, which waits until `until`, if the
    /// receiver may read it. Returns the connection, and until when to read it.
    fn lend_to(&self, id: u64, until: Option<Instant>) -> Option<(Arc<Connection>, Instant)> {
        let mut state = self.lock();
        if !state.is_alone(id) || self.config.on_disconnect.is_some() {
            return None;
        }
        let deadline = state.calls.get_mut(id)?.deadline;
        let until = until.map_or(deadline, |until| until.min(deadline));
        if until.saturating_duration_since(Instant::now()) < LOOK_PAUSE {
            self.take_back(&state);
            return None;
        }
        let connection = state.connection().cloned()?;
        self.lent_to.store(id, Ordering::Release);
        Some((connection, until))
    }

    pub(super) fn is_lent(&self) -> bool {
        self.lent_to.load(Ordering::Acquire) != 0
    }

    /// This call is over. Ends the loan to its stream.
    pub(super) fn take_back_from(&self, id: u64, state: &State) {
        if self.lent_to.load(Ordering::Acquire) == id {
            self.take_back(state);
        }
    }

    /// The channel's thread is to read again.
    pub(super) fn take_back(&self, _: &State) {
        if self.lent_to.swap(0, Ordering::AcqRel) != 0 {
            self.given_back.notify_all();
        }
    }

    /// Waits, on the channel's thread, until it is to read again.
    pub(super) fn wait_while_lent(&self, connection: &Arc<Connection>) {
        let mut state = self.lock();
        // The receiver may be asleep while only a part of an item has come. It reads the rest.
        let receiver = state.calls.stream(self.lent_to.load(Ordering::Acquire));
        receiver.into_iter().for_each(|stream| stream.ask_to_read());
        while self.is_lent() && state.is_current(connection) {
            let is_late = self.given_back.wait_for(&mut state, LOOK_PAUSE).timed_out();
            if is_late && !connection.incoming.is_locked() {
                self.take_back(&state);
            }
        }
    }

    /// Reads for a stream, on the thread of its receiver.
    fn read_items(
        self: &Arc<Self>,
        connection: &Arc<Connection>,
        stream: &Arc<Stream>,
        id: u64,
        until: Instant,
    ) -> Result<(), Loss> {
        // If it is locked, the channel's thread still reads. That thread gives way once it has read
        // something.
        let Some(mut incoming) = connection.incoming.try_lock() else { return Ok(()) };
        let mut now = Instant::now();
        loop {
            self.take_answers(&mut incoming, connection, ReadBy::Callers)?;
            let is_lent = self.lent_to.load(Ordering::Acquire) == id;
            if stream.has_news() || !is_lent || until <= now {
                return Ok(());
            }
            let has_come;
            (now, has_come) = incoming.read(connection, READ_TIMEOUT.min(until - now));
            if !has_come.map_err(Loss::Broken)? {
                self.look_after(connection, now)?;
                if now < until {
                    // Nothing comes. The channel's thread waits from here on, because it wakes up
                    // less often.
                    self.take_back(&self.lock());
                }
                return Ok(());
            }
        }
    }
}

impl State {
    /// Whether this stream is all that the channel has to do, and has been sent to the server.
    fn is_alone(&mut self, id: u64) -> bool {
        self.calls.len() == 1 && self.calls.get_mut(id).is_some_and(|call| call.sent)
    }
}
