//! How items reach a receiver that does not wait on a thread: one thread at a time runs its
//! closure.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;

use super::Over;
use super::callbacks::OnItem;
use super::core::Stream;
use super::flow::cost;
use super::wire::Side;
use crate::{Status, StatusCode};

impl Stream {
    /// From now on `on_item` gets what comes, first of all what has come: of that, these are the
    /// oldest items.
    pub(super) fn on_item(self: &Arc<Self>, oldest: VecDeque<Bytes>, on_item: OnItem) {
        let mut state = self.state.lock();
        oldest.into_iter().rev().for_each(|item| state.queue.push_front(item));
        (state.callbacks.on_item, state.callbacks.takes_items) = (Some(on_item), true);
        drop(state);
        self.pump();
    }

    /// Brings what has come to the receiver's closure, if it has one. One thread at a time does:
    /// the others leave what they brought to it.
    pub(super) fn pump(self: &Arc<Self>) {
        let mut state = self.state.lock();
        while let Some(mut on_item) = state.callbacks.on_item.take() {
            let next = match (state.queue.pop_front(), &state.over) {
                (Some(item), _) => Ok(Some(item)),
                (None, Some(Over::Done)) => Ok(None),
                (None, Some(over)) => Err(over.status()),
                (None, None) if state.has_peer_ended => Ok(None),
                (None, None) => {
                    state.callbacks.on_item = Some(on_item);
                    break;
                }
            };
            drop(state);
            let (is_last, cost) = match &next {
                Ok(Some(item)) => (false, cost(item.len())),
                _ => (true, 0),
            };
            // The panic hook reports it.
            let has_panicked = catch_unwind(AssertUnwindSafe(|| on_item(next))).is_err();
            if has_panicked {
                let words = "the method panicked as it took an item";
                self.finish(Over::Ended(Status::new(StatusCode::Internal, words)), true);
            }
            // Dropped before the lock is taken: it may hold the other half of the stream.
            let on_item = (!has_panicked && !is_last).then_some(on_item);
            state = self.state.lock();
            self.give_back_locked(&mut state, cost);
            if on_item.is_some() {
                state.callbacks.on_item = on_item;
            }
        }
    }

    /// Nobody wants the items that still come, nor those that wait. Gives back their room, and that
    /// of items of this cost which were taken out. No credit: the caller stops when it has none.
    pub(super) fn discard(&self, taken: usize) {
        assert!(self.wire.side == Side::Server, "a caller that wants no items cancels");
        let mut state = self.state.lock();
        state.is_discarding = true;
        let waiting = std::mem::take(&mut state.queue);
        let waiting: usize = waiting.iter().map(|item| cost(item.len())).sum();
        state.shrink(taken + waiting);
    }
}
