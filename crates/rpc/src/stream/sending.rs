//! The sending half of a stream: items leave while there is credit, and room in the outbox.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use parking_lot::MutexGuard;

use super::callbacks::Due;
use super::core::{State, Stream};
use super::flow::{SendCredit, cost};
use super::{Cause, Over, SendError};
use crate::outbox::Cork;
use crate::service::Reply;
use crate::{Payload, Status, StatusCode};

/// How much is serialized before it is sent. Larger: the peer begins later.
const TOGETHER_BYTES: usize = 64 << 10;

/// Items that leave together.
struct Gathered {
    frames: Bytes,
    items: Vec<GatheredItem>,
}

/// An item in [`Gathered`].
struct GatheredItem {
    len: usize,
    /// Where its frame ends.
    frame_end: usize,
}

impl Stream {
    /// Sends an item. If there is no room, waits for it until `until`, or not at all without it.
    pub(crate) fn send(
        self: &Arc<Self>,
        item: &Reply<'_>,
        until: Option<Instant>,
    ) -> Result<(), SendError> {
        self.check_len(item.len)?;
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

    /// Sends items, from the first one on, as long as there is room. Returns how many it has sent:
    /// at least one, if there is any.
    pub(crate) fn send_many<T: Payload>(self: &Arc<Self>, items: &[T]) -> Result<usize, SendError> {
        let mut sent = 0;
        while sent < items.len() {
            match self.send_some(&items[sent..]) {
                Ok(some) => sent += some,
                Err(error) if sent == 0 => return Err(error),
                // The next call returns it.
                Err(_) => break,
            }
        }
        Ok(sent)
    }

    /// Sends the first of these items together.
    fn send_some<T: Payload>(self: &Arc<Self>, items: &[T]) -> Result<usize, SendError> {
        let (may_send, credit) = {
            let state = self.state.lock();
            (self.may_send(&state), state.credit.clone())
        };
        may_send.or_else(|error| self.not_now(error))?;
        // Foreign code serializes the items, so this is done without the lock.
        let gathered = self.gather(items, credit)?;
        let mut state = self.state.lock();
        if let Err(error) = self.may_send(&state) {
            drop(state);
            return self.not_now(error).map(|()| 0);
        }
        let (mut credit, mut sent_bytes, mut fitting, mut end) = (state.credit.clone(), 0, 0, 0);
        for GatheredItem { len, frame_end } in gathered.items {
            // Another thread may have sent meanwhile.
            if !credit.may_send() {
                break;
            }
            credit.spend(cost(len));
            sent_bytes += len as u64;
            (fitting, end) = (fitting + 1, frame_end);
        }
        self.send_frame(&state, &gathered.frames.slice(..end))?;
        state.credit = credit;
        state.sent_bytes += sent_bytes;
        Ok(fitting)
    }

    /// Serializes as many of these items, from the first one on, as may leave together with this
    /// credit.
    fn gather<T: Payload>(
        &self,
        items: &[T],
        mut credit: SendCredit,
    ) -> Result<Gathered, SendError> {
        let (mut frames, mut gathered) = (Vec::new(), Vec::new());
        for item in items {
            if !credit.may_send() || frames.len() >= TOGETHER_BYTES {
                break;
            }
            let len = match self.measure(item) {
                Ok(len) => len,
                Err(error) if gathered.is_empty() => return Err(error),
                // The items before it are sent; the next call returns this error.
                Err(_) => break,
            };
            let write = |out: &mut Vec<u8>| item.write(out);
            self.wire.append_item(&mut frames, &Reply { len, write: &write });
            credit.spend(cost(len));
            gathered.push(GatheredItem { len, frame_end: frames.len() });
        }
        Ok(Gathered { frames: frames.into(), items: gathered })
    }

    fn measure<T: Payload>(&self, item: &T) -> Result<usize, SendError> {
        let len = item.measure().map_err(SendError::NotSerialized)?;
        self.check_len(len).map(|()| len)
    }

    fn check_len(&self, len: usize) -> Result<(), SendError> {
        let limit = self.item_len_max;
        if len > limit { Err(SendError::TooLong { len, limit }) } else { Ok(()) }
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
        let before = state.callbacks.when_ready.replace(callback);
        self.run_if_ready(state);
        // Without the lock: it may hold a half of the stream.
        drop(before);
    }

    /// Runs `callback` once the stream is over.
    pub(crate) fn when_over(&self, callback: Box<dyn FnOnce() + Send>) {
        let mut state = self.state.lock();
        // Dropped without the lock: it may hold a half of the stream.
        let before = state.callbacks.when_over.replace(callback);
        let due = match state.over {
            Some(_) => state.callbacks.take_at_end(),
            None => Due::default(),
        };
        drop(state);
        drop(before);
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
}

fn connection_lost() -> Status {
    Status::new(StatusCode::Cancelled, "the connection is gone")
}

fn deadline_passed() -> Status {
    Status::new(StatusCode::DeadlineExceeded, "the stream's deadline has passed")
}
