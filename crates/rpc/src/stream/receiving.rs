//! The receiving half of a stream: items come within the credit that was granted, and wait in a
//! queue until they are taken.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::MutexGuard;

use super::Cause;
use super::core::{State, Stream};
use super::flow::cost;

impl State {
    /// Whether there is something for a thread that waits for items: one of them, or the end.
    pub(super) fn has_news(&self) -> bool {
        !self.queue.is_empty() || self.over.is_some() || self.has_peer_ended
    }

    /// Gives back the room of items of this cost, unless the end of the stream has done so.
    pub(super) fn shrink(&mut self, cost: usize) {
        if let Some(owner) = &mut self.owner {
            owner.shrink(cost);
        }
    }
}

impl Stream {
    /// The header of an item has come. Returns whether its body is wanted.
    pub(crate) fn expect(self: &Arc<Self>, len: usize) -> bool {
        self.expect_locked(self.state.lock(), len).is_some()
    }

    /// As [`expect`](Stream::expect), with the state locked. Returns the lock if the body is wanted.
    fn expect_locked<'a>(
        self: &Arc<Self>,
        mut state: MutexGuard<'a, State>,
        len: usize,
    ) -> Option<MutexGuard<'a, State>> {
        let cost = cost(len);
        if state.over.is_some() {
            return None;
        }
        let cause = if state.has_peer_ended {
            Cause::AfterEnd
        } else if !state.window.take(cost) {
            Cause::BeyondCredit
        } else if state.is_discarding {
            return None;
        } else if !state.owner.as_mut().is_some_and(|owner| owner.try_grow(cost)) {
            Cause::NoRoom
        } else {
            return Some(state);
        };
        self.end_locked(state, cause);
        None
    }

    /// The item that was expected has come. Returns whether a thread may wait for it: then
    /// [`wake_receiver`](Stream::wake_receiver) is due, once for all items that have come together.
    #[must_use]
    pub(crate) fn deliver(self: &Arc<Self>, item: Bytes) -> bool {
        self.deliver_locked(self.state.lock(), item)
    }

    /// An item has come as a whole: [`expect`](Stream::expect) and [`deliver`](Stream::deliver).
    #[must_use]
    pub(crate) fn receive(self: &Arc<Self>, item: Bytes) -> bool {
        let state = self.expect_locked(self.state.lock(), item.len());
        state.is_some_and(|state| self.deliver_locked(state, item))
    }

    fn deliver_locked(self: &Arc<Self>, mut state: MutexGuard<'_, State>, item: Bytes) -> bool {
        if state.over.is_some() {
            return false;
        }
        if state.is_discarding {
            // It was expected before.
            state.shrink(cost(item.len()));
            return false;
        }
        state.received_bytes += item.len() as u64;
        state.queue.push_back(item);
        if state.callbacks.has_items() {
            drop(state);
            self.pump();
            return false;
        }
        state.queue.len() == 1
    }

    /// See [`State::has_news`].
    pub(crate) fn has_news(&self) -> bool {
        self.state.lock().has_news()
    }

    /// Wakes the thread that waits for items, if there is one.
    pub(crate) fn wake_receiver(&self) {
        self.arrived.notify_one();
    }

    /// Asks the thread that waits for items, if there is one, to read them itself.
    pub(crate) fn ask_to_read(&self) {
        self.state.lock().is_asked_to_read = true;
        self.arrived.notify_one();
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
        state.shrink(cost);
        state.window.consumed(cost);
        self.send_credit(state);
    }

    /// Sends what is due, over a connection that is there: the credit for what was consumed, and
    /// the end of a sender that has ended before.
    pub(super) fn send_credit(&self, state: &mut State) {
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
}
