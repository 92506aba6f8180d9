//! The method's sending half of a stream: [`Outgoing`].

use std::fmt;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use super::core::Stream;
use super::{Over, SendError};
use crate::service::{About, Reply};
use crate::{Payload, Status, StatusCode};

/// What a method sends its items through, and ends its stream with, now or later, from any thread.
///
/// If it is dropped, the stream ends with [`StatusCode::Unanswered`], during a panic with
/// [`StatusCode::Internal`].
///
/// A thread that sends many small items holds a [`Cork`](crate::Cork) meanwhile: then they leave
/// together.
pub struct Outgoing<T> {
    stream: Arc<Stream>,
    about: About,
    peer: Option<SocketAddr>,
    items: PhantomData<fn(T)>,
}

impl<T> Outgoing<T> {
    pub(crate) fn new(stream: Arc<Stream>, about: About, peer: Option<SocketAddr>) -> Self {
        Outgoing { stream, about, peer, items: PhantomData }
    }
}

impl<T: Payload> Outgoing<T> {
    /// Sends an item. If the caller has given no credit for it, waits for that until `deadline`. A
    /// method that runs on the connection's own thread must not wait: it would wait for itself.
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
    /// Every [`SendError`]. [`SendError::NoRoom`]: try again [when there is
    /// room](Outgoing::when_ready).
    pub fn try_send(&self, item: &T) -> Result<(), SendError> {
        send(&self.stream, item, None)
    }

    /// As [`try_send`](Outgoing::try_send), for an item of another type, which is written as the
    /// caller reads a `T`: for example one with a part that is serialized already.
    ///
    /// # Errors
    ///
    /// Every [`SendError`].
    pub fn try_send_as<U: Payload>(&self, item: &U) -> Result<(), SendError> {
        send(&self.stream, item, None)
    }

    /// As [`try_send_as`](Outgoing::try_send_as), for several items, which cost less together:
    /// they share locks and system calls. Returns how many were sent, from the first one on: at
    /// least one, if there is any. If fewer than all were sent, a call with the rest says why.
    ///
    /// # Errors
    ///
    /// Every [`SendError`], about the first item: none was sent.
    pub fn try_send_many_as<U: Payload>(&self, items: &[U]) -> Result<usize, SendError> {
        self.stream.send_many(items)
    }

    /// Runs `callback` once: when there is room for an item, or the stream is over. It runs on the
    /// thread that brings the room, or, if there is room already, at once on this one. So it must
    /// not block, and this must not be called with a lock that it takes. A second call replaces a
    /// callback that still waits.
    pub fn when_ready(&self, callback: impl FnOnce() + Send + 'static) {
        self.stream.when_ready(Box::new(callback));
    }

    /// Runs `callback` once, when the stream is over: also when the caller gives it up, or its
    /// connection is lost. The rules of [`when_ready`](Outgoing::when_ready) apply.
    pub fn when_over(&self, callback: impl FnOnce() + Send + 'static) {
        self.stream.when_over(Box::new(callback));
    }

    /// Whether the stream is over, so that nothing can be sent any more.
    pub fn is_over(&self) -> bool {
        self.stream.is_over()
    }

    /// Ends the stream well, behind all items that were sent.
    pub fn end(self) {
        self.stream.finish(Over::Done, true);
    }

    /// Ends the stream with a status, behind all items that were sent.
    pub fn fail(self, status: Status) {
        self.stream.finish(Over::Ended(status), true);
    }

    /// When the caller's deadline for the whole stream is, if it has one. Then the stream is over.
    pub fn deadline(&self) -> Option<Instant> {
        self.about.deadline
    }

    /// The caller's name, as the caller gave it; empty if it gave none.
    pub fn caller(&self) -> &[u8] {
        &self.about.caller
    }

    /// The address at the other end of the connection: see [`Call::peer`](crate::Call::peer).
    pub fn peer(&self) -> Option<SocketAddr> {
        self.peer
    }

    /// The caller's mark; empty if it gave none.
    pub fn trace(&self) -> &[u8] {
        self.about.trace()
    }
}

/// Sends an item: waits for room until `until`, or not at all without it.
pub(super) fn send<T: Payload>(
    stream: &Arc<Stream>,
    item: &T,
    until: Option<Instant>,
) -> Result<(), SendError> {
    let len = item.measure().map_err(SendError::NotSerialized)?;
    stream.send(&Reply { len, write: &|out: &mut Vec<u8>| item.write(out) }, until)
}

impl<T> Drop for Outgoing<T> {
    fn drop(&mut self) {
        let status = match thread::panicking() {
            true => Status::new(StatusCode::Internal, "the method panicked"),
            false => Status::new(StatusCode::Unanswered, "the method gave the stream up"),
        };
        // Without effect if it is over.
        self.stream.finish(Over::Ended(status), true);
    }
}

impl<T> fmt::Debug for Outgoing<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outgoing")
            .field("is_over", &self.stream.is_over())
            .field("about", &self.about)
            .finish()
    }
}
