//! The closures of those who do not wait on a thread. They are never run under a lock.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;

use crate::Status;

/// What the receiver's closure gets: an item; no item, at the end of the peer's items; or why the
/// stream is over.
pub(super) type ItemResult = Result<Option<Bytes>, Status>;

pub(super) type OnItem = Box<dyn FnMut(ItemResult) + Send>;
type Once = Box<dyn FnOnce() + Send>;

#[derive(Default)]
pub(super) struct Callbacks {
    pub(super) when_ready: Option<Once>,
    pub(super) when_over: Option<Once>,
    /// Absent while a thread runs it.
    pub(super) on_item: Option<OnItem>,
    /// Whether items go to a closure.
    pub(super) takes_items: bool,
    /// Whether the sender has ended before there was a connection.
    pub(super) end_when_attached: bool,
}

/// Closures to run once the lock is given back.
#[derive(Default)]
pub(super) struct Due([Option<Once>; 2]);

impl Due {
    pub(super) fn run(self) {
        // The panic hook reports a panic.
        self.0.into_iter().flatten().for_each(|run| drop(catch_unwind(AssertUnwindSafe(run))));
    }
}

impl Callbacks {
    pub(super) fn take_when_ready(&mut self) -> Due {
        Due([self.when_ready.take(), None])
    }

    pub(super) fn take_at_end(&mut self) -> Due {
        Due([self.when_ready.take(), self.when_over.take()])
    }

    pub(super) fn has_items(&self) -> bool {
        self.takes_items
    }
}
