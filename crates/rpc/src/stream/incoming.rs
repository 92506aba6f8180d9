//! The receiving half of a stream: [`Incoming`], [`StreamReply`].

use std::collections::VecDeque;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::core::Stream;
use super::flow::{FIRST_CREDIT_BYTES, cost};
use super::wire::Side;
use super::{Cause, Over};
use crate::net::after;
use crate::outbox::Cork;
use crate::{CallError, ErrorChain, Payload, Status, StatusCode};

/// The items of a stream, in the order in which they were sent.
///
/// A caller gets one, whose errors are [`CallError`]s. A method gets one with the items of its
/// caller, whose errors are a [`Status`].
///
/// It is an iterator that waits for each item. After the last item it ends, if the stream has ended
/// well; otherwise it gives one error, and then ends. Items that came before the error come first.
/// [`next_timeout`](Incoming::next_timeout) waits for a limited time.
///
/// Dropping a caller's cancels the stream. Dropping a method's lets the stream go on: what the
/// caller still sends, as far as it has credit, is dropped.
pub struct Incoming<T, E = CallError> {
    stream: Arc<Stream>,
    /// Items that were taken out of the stream together, so that its lock is taken less often.
    taken: VecDeque<Bytes>,
    /// What the items given out have cost, as far as the stream has not been told. It is told often
    /// enough for the smallest window.
    consumed: usize,
    /// Whether the error or the end was given out.
    is_done: bool,
    /// The stream goes on when this is dropped.
    is_detached: bool,
    error: fn(&mut Over) -> Option<E>,
    items: PhantomData<fn() -> T>,
}

/// What [`Incoming::next_timeout`] finds.
#[derive(Debug)]
pub enum Next<T, E = CallError> {
    /// The next item.
    Item(T),
    /// Nothing within the time. The stream goes on.
    NotYet,
    /// All items have come, and the stream has ended well.
    End,
    /// The stream has ended with an error. After that comes [`Next::End`].
    Failed(E),
}

impl<T, E> Incoming<T, E> {
    fn new(stream: Arc<Stream>, error: fn(&mut Over) -> Option<E>) -> Self {
        Incoming {
            stream,
            taken: VecDeque::new(),
            consumed: 0,
            is_done: false,
            is_detached: false,
            error,
            items: PhantomData,
        }
    }
}

impl<T> Incoming<T> {
    pub(crate) fn of_caller(stream: Arc<Stream>) -> Self {
        Incoming::new(stream, Over::take_error)
    }
}

impl<T> Incoming<T, Status> {
    pub(crate) fn of_server(stream: Arc<Stream>) -> Self {
        Incoming::new(stream, |over| match over {
            Over::Done => None,
            over => Some(over.status()),
        })
    }
}

impl<T: Payload, E> Incoming<T, E> {
    /// Waits for the next item, but not for longer than `timeout`. With a timeout of zero it only
    /// looks.
    pub fn next_timeout(&mut self, timeout: Duration) -> Next<T, E> {
        // Items at hand need no clock: to read it takes as long as to give out a small item.
        if let Some(item) = self.taken.pop_front() {
            return self.open(item);
        }
        self.next_until(Some(after(Instant::now(), timeout)))
    }

    fn next_until(&mut self, until: Option<Instant>) -> Next<T, E> {
        if self.is_done {
            return Next::End;
        }
        loop {
            if let Some(item) = self.taken.pop_front() {
                return self.open(item);
            }
            match self.take(until) {
                Some(next) => return next,
                None => self.stream.end_if_past_deadline(),
            }
        }
    }

    /// Takes out what has come, and waits for it. `None` means: look again.
    fn take(&mut self, until: Option<Instant>) -> Option<Next<T, E>> {
        let mut state = self.stream.state.lock();
        if !state.queue.is_empty() {
            std::mem::swap(&mut self.taken, &mut state.queue);
            return None;
        }
        if let Some(over) = &mut state.over {
            self.is_done = true;
            return Some((self.error)(over).map_or(Next::End, Next::Failed));
        }
        if state.has_peer_ended {
            self.is_done = true;
            return Some(Next::End);
        }
        // What this thread holds back may be what the peer waits for.
        Cork::flush_all();
        let deadline = self.stream.deadline();
        let first = [until, deadline].into_iter().flatten().min();
        if let Some(turn) = &self.stream.read_turn {
            state.is_asked_to_read = false;
            drop(state);
            turn.read(&self.stream, first);
            state = self.stream.state.lock();
            if state.has_news() || std::mem::take(&mut state.is_asked_to_read) {
                return None;
            }
        }
        let has_passed = match first {
            Some(first) => self.stream.arrived.wait_until(&mut state, first).timed_out(),
            None => {
                self.stream.arrived.wait(&mut state);
                false
            }
        };
        let is_over = has_passed && state.queue.is_empty() && first == until;
        is_over.then_some(Next::NotYet)
    }

    fn open(&mut self, item: Bytes) -> Next<T, E> {
        self.consumed += cost(item.len());
        if self.consumed >= FIRST_CREDIT_BYTES / 2 {
            self.stream.give_back(std::mem::take(&mut self.consumed));
        }
        match T::read(item) {
            Ok(item) => Next::Item(item),
            Err(error) => {
                self.taken.clear();
                self.stream.end_for(Cause::BadItem(ErrorChain(&error).to_string()));
                let mut state = self.stream.state.lock();
                state.queue.clear();
                self.is_done = true;
                let over = state.over.as_mut().expect("this ends the stream");
                (self.error)(over).map_or(Next::End, Next::Failed)
            }
        }
    }
}

impl<T: Payload + 'static> Incoming<T, Status> {
    /// Brings the items to a closure, so that no thread has to wait for them: `Ok(Some(item))` for
    /// each, then once `Ok(None)` if the caller has sent all its items, or the status with which
    /// the stream has ended.
    ///
    /// It runs on the thread that reads the connection (for items that have come before, on this
    /// one), one item at a time. So it must not block. The credit of an item is given back when the
    /// closure returns. If it panics, the stream ends with
    /// [`StatusCode::Internal`](crate::StatusCode::Internal).
    pub fn on_item(mut self, mut on_item: impl FnMut(Result<Option<T>, Status>) + Send + 'static) {
        self.is_detached = true;
        // Those that were given out are consumed.
        self.stream.give_back(std::mem::take(&mut self.consumed));
        let (stream, mut has_failed) = (Arc::clone(&self.stream), false);
        let oldest = std::mem::take(&mut self.taken);
        self.stream.on_item(
            oldest,
            Box::new(move |next| match next {
                _ if has_failed => {}
                Ok(None) => on_item(Ok(None)),
                Err(status) => on_item(Err(status)),
                Ok(Some(item)) => match T::read(item) {
                    Ok(item) => on_item(Ok(Some(item))),
                    Err(error) => {
                        has_failed = true;
                        let words = ErrorChain(&error).to_string();
                        stream.end_for(Cause::BadItem(words.clone()));
                        on_item(Err(Status::new(StatusCode::BadArguments, words)));
                    }
                },
            }),
        );
    }
}

impl<T: Payload, E> Iterator for Incoming<T, E> {
    type Item = Result<T, E>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.next_until(None) {
            Next::Item(item) => Some(Ok(item)),
            Next::Failed(error) => Some(Err(error)),
            Next::End | Next::NotYet => None,
        }
    }
}

impl<T, E> Drop for Incoming<T, E> {
    fn drop(&mut self) {
        match self.stream.wire.side {
            // Without effect if it is over.
            Side::Caller => self.stream.end_for(Cause::Cancelled("nobody waits for its items")),
            Side::Server if !self.is_detached => {
                let taken: usize = self.taken.iter().map(|item| cost(item.len())).sum();
                self.stream.discard(self.consumed + taken);
            }
            Side::Server => {}
        }
    }
}

impl<T, E> fmt::Debug for Incoming<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming").field("id", &self.stream.wire.id).finish_non_exhaustive()
    }
}

/// The one reply of a method that takes a stream. Dropping it cancels the stream.
pub struct StreamReply<R> {
    addr: String,
    incoming: Incoming<R>,
}

impl<R: Payload> StreamReply<R> {
    pub(crate) fn new(addr: String, stream: Arc<Stream>) -> Self {
        StreamReply { addr, incoming: Incoming::of_caller(stream) }
    }

    /// Waits for the reply. It comes when the method gives it, which may be before all items were
    /// sent.
    ///
    /// # Errors
    ///
    /// Every [`CallError`].
    pub fn wait(mut self) -> Result<R, CallError> {
        match self.incoming.next() {
            Some(Ok(reply)) => match self.incoming.next() {
                None => Ok(reply),
                Some(Err(error)) => Err(error),
                Some(Ok(_)) => Err(self.bad("more than one reply")),
            },
            Some(Err(error)) => Err(error),
            None => Err(self.bad("no reply")),
        }
    }

    fn bad(&self, words: &str) -> CallError {
        CallError::BadReply { addr: self.addr.clone(), reason: words.to_owned() }
    }
}

impl<R> fmt::Debug for StreamReply<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamReply").field("incoming", &self.incoming).finish()
    }
}
