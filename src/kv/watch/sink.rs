//! [`WatchSink`]: who is told of changes.

use std::ops::ControlFlow;
use std::sync::Arc;

use crate::kv::model::{Change, Refusal, Revision};
use crate::node::RequestError;

/// Takes what several watches are told, each under the number that it was given. One thread at a
/// time calls [`take`](WatchSink::take), for one sink after the other, so no method may block.
pub trait WatchSink: Send + Sync + 'static {
    /// Takes what the watch `id` is told, if there is room for it. `Break`: nobody wants more of
    /// any watch.
    ///
    /// # Errors
    /// [`NoRoom`]: the same is offered again when there is room.
    fn take(&self, id: u64, news: &WatchNews<'_>) -> Result<ControlFlow<()>, NoRoom>;

    /// Takes what all these watches are told, one after the other, as long as there is room.
    /// Returns how many have been told. `Break`: nobody wants more of any watch.
    fn take_many(&self, ids: &[u64], news: &WatchNews<'_>) -> ControlFlow<(), usize> {
        for (told, id) in ids.iter().enumerate() {
            match self.take(*id, news) {
                Ok(wanted) => wanted?,
                Err(NoRoom) => return ControlFlow::Continue(told),
            }
        }
        ControlFlow::Continue(ids.len())
    }

    /// Runs `callback` once, on any thread or at once on this one, when there is room, or nobody
    /// wants more. It does not block.
    fn when_ready(&self, callback: Box<dyn FnOnce() + Send>);

    /// Whether its watches are told now and then how far they are even if nothing at all has
    /// changed, so that a connection that carries nothing is known to be dead.
    fn wants_heartbeats(&self) -> bool {
        false
    }

    /// All watches are over, and nothing follows. Called at most once.
    fn end(&self, end: WatchesEnd);
}

/// There was no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom;

/// What a watch is told.
#[derive(Clone, Debug)]
pub enum WatchNews<'a> {
    /// It is made, and begins behind this revision, unless another one was asked for. The state had
    /// everything that was committed before it was asked for.
    Created {
        /// The revision of the store then.
        revision: Revision,
    },
    /// Changes in the order of their revisions, and of their keys within one revision. Without
    /// changes, this only says how far the watch is.
    Changes {
        /// The changes: about 64 KiB of them, or one that is longer. Watches of the same keys that
        /// are told the same share them, and are mostly told it together or one after the other: a
        /// sink may keep what it has made of them.
        changes: &'a Arc<[Change]>,
        /// Everything up to and including this revision has been told. What there is of a later
        /// revision is a part of it, and the rest follows.
        complete_to: Revision,
    },
    /// It has ended, and nothing follows.
    Ended {
        /// Why.
        end: &'a WatchEnd,
        /// All changes up to this revision were told.
        complete_to: Revision,
    },
}

/// Why a watch has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchEnd {
    /// It was cancelled.
    Cancelled,
    /// The store refuses it.
    /// [`Reason::Compacted`](crate::kv::model::Reason::Compacted): the history has forgotten a
    /// change that it was not told, and a new watch can begin at the revision that the refusal
    /// names. [`Reason::AnswerTooLong`](crate::kv::model::Reason::AnswerTooLong): a change is too
    /// long together with the entry before; without the latter it is not.
    Refused(Refusal),
    /// This member does not serve it. Another one may.
    NotServed(RequestError),
    /// The request makes no sense: why, in words.
    BadRequest(String),
}

/// Why all watches of a sink are over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchesEnd {
    /// None is left, and none will come.
    Done,
    /// This member stops.
    Stopped,
    /// More is asked than can be answered.
    Overload,
}
