//! The caller's sending half of a stream: [`Sender`].

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Instant;

use super::core::Stream;
use super::outgoing::send;
use super::{Cause, SendError};
use crate::Payload;

/// What a caller sends its items through. [`finish`](Sender::finish) says that there are no more.
/// Dropping it without that cancels the stream: a part must not pass for the whole.
///
/// A thread that sends many small items holds a [`Cork`](crate::Cork) meanwhile: then they leave
/// together.
pub struct Sender<T> {
    stream: Arc<Stream>,
    is_finished: bool,
    items: PhantomData<fn(T)>,
}

impl<T> Sender<T> {
    pub(crate) fn new(stream: Arc<Stream>) -> Self {
        Sender { stream, is_finished: false, items: PhantomData }
    }
}

impl<T: Payload> Sender<T> {
    /// Sends an item. If the server has given no credit for it, or there is no connection yet,
    /// waits for that until `deadline`.
    ///
    /// # Errors
    ///
    /// Every [`SendError`]. After [`SendError::NoRoom`] the stream goes on without the item.
    pub fn send(&self, item: &T, deadline: Instant) -> Result<(), SendError> {
        send(&self.stream, item, Some(deadline))
    }

    /// Sends an item if there is room for it. Never waits.
    ///
    /// # Errors
    ///
    /// Every [`SendError`].
    pub fn try_send(&self, item: &T) -> Result<(), SendError> {
        send(&self.stream, item, None)
    }

    /// Says that there are no more items. The server's items still come.
    ///
    /// # Errors
    ///
    /// [`SendError::Ended`]: the stream is over already.
    pub fn finish(mut self) -> Result<(), SendError> {
        self.is_finished = true;
        self.stream.send_end()
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        if !self.is_finished {
            // Without effect if it is over.
            self.stream.end_for(Cause::Cancelled("its sender was dropped before the last item"));
        }
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").field("is_over", &self.stream.is_over()).finish()
    }
}
