//! One stream, as either side holds it: what may be sent, what has come, whether it is over.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex, MutexGuard};

use super::callbacks::{Callbacks, Due};
use super::flow::{ReceiveWindow, SendCredit, cost};
use super::wire::{Side, Wire};
use super::{Cause, Over, SendError};
use crate::outbox::{Cork, Outbox};
use crate::service::Reply;
use crate::{Status, StatusCode};

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

/// How a stream begins.
pub(crate) struct Opening {
    pub(crate) wire: Wire,
    pub(crate) owner: Box<dyn Owner>,
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
    pub(super) item_len_max: usize,
    deadline: Option<Instant>,
    pub(super) state: Mutex<State>,
    /// There may be room to send, or the stream is over.
    room: Condvar,
    /// Something has come, or the stream is over.
    pub(super) arrived: Condvar,
}

pub(super) struct State {
    /// Where frames go. `None` before the stream has a connection, and when it is over: so that a
    /// stream which somebody still holds keeps no socket open.
    outbox: Option<Arc<Outbox>>,
    /// Until the stream is over.
    owner: Option<Box<dyn Owner>>,
    pub(super) over: Option<Over>,
    credit: SendCredit,
    sent_bytes: u64,
    /// Whether the outbox will call [`Stream::wake`].
    waits_for_outbox: bool,
    window: ReceiveWindow,
    pub(super) queue: VecDeque<Bytes>,
    received_bytes: u64,
    /// Whether the peer will send no more items.
    pub(super) has_peer_ended: bool,
    /// Whether nobody wants the items that still come.
    pub(super) is_discarding: bool,
    pub(super) callbacks: Callbacks,
}

impl Stream {
    pub(crate) fn new(opening: Opening) -> Arc<Stream> {
        let Opening { wire, owner, item_len_max, deadline, credit, window, has_peer_ended } =
            opening;
        let state = State {
            outbox: None,
            owner: Some(owner),
            over: None,
            credit,
            sent_bytes: 0,
            waits_for_outbox: false,
            window,
            queue: VecDeque::new(),
            received_bytes: 0,
            has_peer_ended,
            is_discarding: false,
            callbacks: Callbacks::default(),
        };
        let (state, room, arrived) = (Mutex::new(state), Condvar::new(), Condvar::new());
        Arc::new(Stream { wire, item_len_max, deadline, state, room, arrived })
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

    // ---- sending ----

    /// Sends an item. If there is no room, waits for it until `until`, or not at all without it.
    pub(crate) fn send(
        self: &Arc<Self>,
        item: &Reply<'_>,
        until: Option<Instant>,
    ) -> Result<(), SendError> {
        if item.len > self.item_len_max {
            return Err(SendError::TooLong { len: item.len, limit: self.item_len_max });
        }
        if until.is_none() {
            let may_send = self.may_send(&self.state.lock());
            may_send.or_else(|error| self.not_now(error))?;
        }
        // Foreign code serializes the item, so this is done without the lock.
        let frame = self.wire.item(item);
        let mut state = self.state.lock();
        loop {
            let error = match self.may_send(&state) {
                Ok(()) => break,
                Err(error) => error,
            };
            let (SendError::NoRoom, Some(until)) = (&error, until) else {
                drop(state);
                return self.not_now(error);
            };
            if until <= Instant::now() {
                return Err(error);
            }
            state = self.wait_for_room(state, until);
        }
        self.push(&mut state, &frame, item.len)
    }

    /// Sends an item whatever the credit, and ends the stream: the reply of a method with one
    /// reply.
    pub(crate) fn reply(self: &Arc<Self>, reply: &Reply<'_>) {
        if reply.len > self.item_len_max {
            let limit = self.item_len_max;
            let words = format!("the reply has {} bytes, and {limit} is the limit", reply.len);
            self.finish(Over::Ended(Status::new(StatusCode::Internal, words)), true);
            return;
        }
        let frame = self.wire.item(reply);
        // If it cannot be sent, the stream is over, or about to be.
        let _ = self.push(&mut self.state.lock(), &frame, reply.len);
        self.finish(Over::Done, true);
    }

    /// Tells the peer that no more items follow.
    pub(crate) fn send_end(&self) -> Result<(), SendError> {
        let mut state = self.state.lock();
        match self.may_send(&state) {
            Ok(()) | Err(SendError::NoRoom) if state.outbox.is_some() => {
                self.send_frame(&state, &self.wire.no_more())
            }
            Ok(()) | Err(SendError::NoRoom) => {
                state.callbacks.end_when_attached = true;
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Sends the frame of an item of `len` bytes.
    fn push(&self, state: &mut State, frame: &Bytes, len: usize) -> Result<(), SendError> {
        self.send_frame(state, frame)?;
        state.credit.spend(cost(len));
        state.sent_bytes += len as u64;
        Ok(())
    }

    fn send_frame(&self, state: &State, frame: &Bytes) -> Result<(), SendError> {
        match state.outbox.as_ref().is_some_and(|outbox| outbox.send_over_limit(frame).is_ok()) {
            true => Ok(()),
            // Whoever reads the connection is about to notice, and ends the stream.
            false => Err(SendError::Ended(connection_lost())),
        }
    }

    fn may_send(&self, state: &State) -> Result<(), SendError> {
        if let Some(over) = &state.over {
            return Err(SendError::Ended(over.status()));
        }
        if self.is_past_deadline() {
            return Err(SendError::Ended(deadline_passed()));
        }
        match &state.outbox {
            Some(outbox) if outbox.is_cut() => Err(SendError::Ended(connection_lost())),
            Some(outbox) if state.credit.may_send() && outbox.has_room() => Ok(()),
            _ => Err(SendError::NoRoom),
        }
    }

    /// An item was not sent. If the deadline has passed, nobody has ended the stream yet.
    fn not_now(self: &Arc<Self>, error: SendError) -> Result<(), SendError> {
        self.end_if_past_deadline();
        Err(error)
    }

    fn is_past_deadline(&self) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= Instant::now())
    }

    /// Ends a stream whose deadline has passed. Not under its lock.
    pub(super) fn end_if_past_deadline(self: &Arc<Self>) {
        if self.is_past_deadline() {
            self.finish(Over::Ended(deadline_passed()), true);
        }
    }

    /// Waits until there may be room, or a deadline passes.
    fn wait_for_room<'a>(
        self: &'a Arc<Self>,
        mut state: MutexGuard<'a, State>,
        until: Instant,
    ) -> MutexGuard<'a, State> {
        // What this thread holds back may be what the peer waits for.
        Cork::flush_all();
        if self.needs_outbox(&mut state) {
            self.watch_outbox(state);
            return self.state.lock();
        }
        let first = self.deadline.map_or(until, |deadline| deadline.min(until));
        self.room.wait_until(&mut state, first);
        state
    }

    /// Whether only the outbox is in the way, and does not know yet that this stream waits.
    fn needs_outbox(&self, state: &mut State) -> bool {
        let is_full = state.outbox.as_ref().is_some_and(|outbox| !outbox.has_room());
        is_full && state.over.is_none() && !std::mem::replace(&mut state.waits_for_outbox, true)
    }

    fn watch_outbox(self: &Arc<Self>, state: MutexGuard<'_, State>) {
        let (outbox, stream) = (state.outbox.clone(), Arc::downgrade(self));
        drop(state);
        if let Some(outbox) = outbox {
            outbox.when_room(Box::new(move || {
                stream.upgrade().into_iter().for_each(|stream| stream.wake());
            }));
        }
    }

    /// The outbox has room again.
    fn wake(self: &Arc<Self>) {
        let mut state = self.state.lock();
        state.waits_for_outbox = false;
        self.room.notify_all();
        self.run_if_ready(state);
    }

    /// Runs `callback` once there is room, or the stream is over.
    pub(crate) fn when_ready(self: &Arc<Self>, callback: Box<dyn FnOnce() + Send>) {
        let mut state = self.state.lock();
        state.callbacks.when_ready = Some(callback);
        self.run_if_ready(state);
    }

    /// Runs `callback` once the stream is over.
    pub(crate) fn when_over(&self, callback: Box<dyn FnOnce() + Send>) {
        let mut state = self.state.lock();
        state.callbacks.when_over = Some(callback);
        let due = match state.over {
            Some(_) => state.callbacks.take_at_end(),
            None => Due::default(),
        };
        drop(state);
        due.run();
    }

    fn run_if_ready(self: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        if state.callbacks.when_ready.is_none() {
            return;
        }
        if let Err(SendError::NoRoom) = self.may_send(&state) {
            if self.needs_outbox(&mut state) {
                self.watch_outbox(state);
            }
            return;
        }
        let due = state.callbacks.take_when_ready();
        drop(state);
        due.run();
    }

    /// The peer grants credit.
    pub(crate) fn credit(self: &Arc<Self>, bytes: u64) {
        let mut state = self.state.lock();
        if state.over.is_some() {
            return;
        }
        if !state.credit.add(bytes) {
            return self.end_locked(state, Cause::CreditOverflow);
        }
        self.room.notify_all();
        self.run_if_ready(state);
    }

    // ---- receiving ----

    /// The header of an item has come. Returns whether its body is wanted.
    pub(crate) fn expect(self: &Arc<Self>, len: usize) -> bool {
        let (mut state, cost) = (self.state.lock(), cost(len));
        if state.over.is_some() {
            return false;
        }
        let cause = if state.has_peer_ended {
            Cause::AfterEnd
        } else if !state.window.take(cost) {
            Cause::BeyondCredit
        } else if state.is_discarding {
            return false;
        } else if !state.owner.as_mut().is_some_and(|owner| owner.try_grow(cost)) {
            Cause::NoRoom
        } else {
            return true;
        };
        self.end_locked(state, cause);
        false
    }

    /// The item that was expected has come.
    pub(crate) fn deliver(self: &Arc<Self>, item: Bytes) {
        let mut state = self.state.lock();
        if state.over.is_some() || state.is_discarding {
            return;
        }
        state.received_bytes += item.len() as u64;
        state.queue.push_back(item);
        if state.callbacks.has_items() {
            drop(state);
            return self.pump();
        }
        if state.queue.len() == 1 {
            self.arrived.notify_one();
        }
    }

    /// The peer will send no more items.
    pub(crate) fn peer_ended(self: &Arc<Self>) {
        let mut state = self.state.lock();
        if state.over.is_some() {
            return;
        }
        if state.has_peer_ended {
            return self.end_locked(state, Cause::AfterEnd);
        }
        state.has_peer_ended = true;
        drop(state);
        self.arrived.notify_all();
        self.pump();
    }

    /// Items of this cost were consumed.
    pub(super) fn give_back(&self, cost: usize) {
        self.give_back_locked(&mut self.state.lock(), cost);
    }

    pub(super) fn give_back_locked(&self, state: &mut State, cost: usize) {
        if let Some(owner) = &mut state.owner {
            owner.shrink(cost);
        }
        state.window.consumed(cost);
        self.send_credit(state);
    }

    /// Sends what is due, over a connection that is there: the credit for what was consumed, and
    /// the end of a sender that has ended before.
    fn send_credit(&self, state: &mut State) {
        let Some(outbox) = state.outbox.clone() else { return };
        if !state.has_peer_ended
            && let Some(due) = state.window.take_due()
        {
            // A connection that is gone needs no credit.
            let _ = outbox.send_over_limit(&self.wire.credit(due));
        }
        if std::mem::take(&mut state.callbacks.end_when_attached) {
            let _ = outbox.send_over_limit(&self.wire.no_more());
        }
    }

    // ---- the end ----

    /// Ends the stream for this cause, and tells the peer.
    pub(crate) fn end_for(self: &Arc<Self>, cause: Cause) {
        self.end_locked(self.state.lock(), cause);
    }

    fn end_locked(self: &Arc<Self>, state: MutexGuard<'_, State>, cause: Cause) {
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

fn connection_lost() -> Status {
    Status::new(StatusCode::Cancelled, "the connection is gone")
}

fn deadline_passed() -> Status {
    Status::new(StatusCode::DeadlineExceeded, "the stream's deadline has passed")
}
