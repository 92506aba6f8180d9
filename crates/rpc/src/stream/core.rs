//! One stream, as either side holds it: what may be sent, what has come, whether it is over.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex, MutexGuard};

use super::callbacks::Callbacks;
use super::flow::{ReceiveWindow, SendCredit};
use super::wire::{Side, Wire};
use super::{Cause, Over};
use crate::outbox::Outbox;

/// What a side of a connection does for each of its streams.
pub(crate) trait Owner: Send {
    /// How a stream ends that this side ends for this cause.
    fn over(&self, cause: Cause) -> Over;

    /// The method of the stream begins.
    fn begin(&mut self, now: Instant) {
        let _ = now;
    }

    /// Takes room for an item that is about to be received. False: there is none.
    fn try_grow(&mut self, bytes: usize) -> bool {
        let _ = bytes;
        true
    }

    /// Gives room back.
    fn shrink(&mut self, bytes: usize) {
        let _ = bytes;
    }

    /// The stream is over, after so many bytes of items were sent and received. The peer has not
    /// been told yet. Called under the stream's lock.
    fn count(&mut self, over: &Over, sent: u64, received: u64) {
        let _ = (over, sent, received);
    }

    /// The stream is over, and the frame that tells the peer is in the outbox.
    fn gone(self: Box<Self>);
}

/// Lets a thread that waits for items read the connection itself, so that nobody has to wake it.
pub(crate) trait ReadTurn: Send + Sync {
    /// Reads until the stream has something for its receiver, or until `until`. It may return
    /// before that, for any reason. Then the receiver looks for news, and waits for the thread that
    /// reads. No lock of the stream is held.
    fn read(&self, stream: &Arc<Stream>, until: Option<Instant>);
}

/// How a stream begins.
pub(crate) struct Opening {
    pub(crate) wire: Wire,
    pub(crate) owner: Box<dyn Owner>,
    /// Where the thread that waits for items may read the connection.
    pub(crate) read_turn: Option<Box<dyn ReadTurn>>,
    /// The longest item that is sent or taken.
    pub(crate) item_len_max: usize,
    /// When it ends by itself. A caller's channel has a timer for that, and gives none here.
    pub(crate) deadline: Option<Instant>,
    pub(crate) credit: SendCredit,
    pub(crate) window: ReceiveWindow,
    /// Whether the peer sends no items.
    pub(crate) has_peer_ended: bool,
}

/// A stream. `Arc`s of it are held by the table of its connection, until it is over, and by those
/// who use it.
pub(crate) struct Stream {
    pub(super) wire: Wire,
    pub(super) read_turn: Option<Box<dyn ReadTurn>>,
    pub(super) item_len_max: usize,
    pub(super) deadline: Option<Instant>,
    pub(super) state: Mutex<State>,
    /// There may be room to send, or the stream is over.
    pub(super) room: Condvar,
    /// Something has come, or the stream is over.
    pub(super) arrived: Condvar,
}

pub(super) struct State {
    /// Where frames go. `None` before the stream has a connection, and when it is over: so that a
    /// stream which somebody still holds keeps no socket open.
    pub(super) outbox: Option<Arc<Outbox>>,
    /// Until the stream is over.
    pub(super) owner: Option<Box<dyn Owner>>,
    pub(super) over: Option<Over>,
    pub(super) credit: SendCredit,
    pub(super) sent_bytes: u64,
    /// Whether the outbox will call [`Stream::wake`].
    pub(super) waits_for_outbox: bool,
    pub(super) window: ReceiveWindow,
    pub(super) queue: VecDeque<Bytes>,
    /// Whether the thread that waits for items is to read them itself.
    pub(super) is_asked_to_read: bool,
    pub(super) received_bytes: u64,
    /// Whether the peer will send no more items.
    pub(super) has_peer_ended: bool,
    /// Whether nobody wants the items that still come.
    pub(super) is_discarding: bool,
    pub(super) callbacks: Callbacks,
}

impl Stream {
    pub(crate) fn new(opening: Opening) -> Arc<Stream> {
        let Opening { wire, owner, read_turn, item_len_max, .. } = opening;
        let Opening { deadline, credit, window, has_peer_ended, .. } = opening;
        let state = State {
            outbox: None,
            owner: Some(owner),
            over: None,
            credit,
            sent_bytes: 0,
            waits_for_outbox: false,
            window,
            queue: VecDeque::new(),
            is_asked_to_read: false,
            received_bytes: 0,
            has_peer_ended,
            is_discarding: false,
            callbacks: Callbacks::default(),
        };
        let (state, room, arrived) = (Mutex::new(state), Condvar::new(), Condvar::new());
        Arc::new(Stream { wire, read_turn, item_len_max, deadline, state, room, arrived })
    }

    /// The frame that opens it is in this outbox. From now on it may send.
    pub(crate) fn attach(&self, outbox: &Arc<Outbox>) {
        let mut state = self.state.lock();
        if let Some(over) = &state.over {
            // It has ended meanwhile, and had nobody to tell.
            let _ = outbox.send_over_limit(&self.wire.last(over));
            return;
        }
        state.outbox = Some(Arc::clone(outbox));
        self.send_credit(&mut state);
        self.room.notify_all();
    }

    /// The method begins.
    pub(crate) fn begin(&self, now: Instant) {
        if let Some(owner) = &mut self.state.lock().owner {
            owner.begin(now);
        }
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    pub(crate) fn is_over(&self) -> bool {
        self.state.lock().over.is_some()
    }

    /// Whether the peer sends no items from the start on.
    pub(crate) fn has_peer_ended(&self) -> bool {
        self.state.lock().has_peer_ended
    }

    /// Ends the stream for this cause, and tells the peer.
    pub(crate) fn end_for(self: &Arc<Self>, cause: Cause) {
        self.end_locked(self.state.lock(), cause);
    }

    pub(super) fn end_locked(self: &Arc<Self>, state: MutexGuard<'_, State>, cause: Cause) {
        let over = state.owner.as_ref().map(|owner| owner.over(cause));
        drop(state);
        if let Some(over) = over {
            self.finish(over, true);
        }
    }

    /// Ends the stream, unless it is over. `tell`: the peer does not know. Those who wait wake up,
    /// and the closures that wait for the end run, on this thread.
    pub(crate) fn finish(self: &Arc<Self>, over: Over, tell: bool) {
        let mut state = self.state.lock();
        if state.over.is_some() {
            return;
        }
        let (outbox, owner) = (state.outbox.take(), state.owner.take());
        if self.wire.side == Side::Server {
            // A caller still gets what came before the end.
            state.queue = VecDeque::new();
        }
        let mut owner = owner.expect("a stream has its owner until it is over");
        owner.count(&over, state.sent_bytes, state.received_bytes);
        let last = tell.then(|| self.wire.last(&over));
        state.over = Some(over);
        if let (Some(outbox), Some(last)) = (outbox, last) {
            // A connection that is gone needs no end.
            let _ = outbox.send_over_limit(&last);
        }
        let due = state.callbacks.take_at_end();
        drop(state);
        owner.gone();
        self.room.notify_all();
        self.arrived.notify_all();
        due.run();
        self.pump();
    }
}
