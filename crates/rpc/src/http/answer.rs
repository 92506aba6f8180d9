//! [`Answer`] and [`Stream`]: how a handler answers, at once or later, from any thread.

use std::fmt;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use super::connection::{Asked, COPIED_LEN_MAX_BYTES, Connection};
use super::{Refusal, Response};
use crate::port::Connection as _;

/// The right, and the duty, to answer one request: once, from any thread. It never waits for the
/// client. Dropped without an answer, or by a panic, it answers 500.
#[must_use = "dropped, it answers 500"]
pub struct Answer {
    connection: Option<Arc<Connection>>,
    asked: Asked,
}

impl Answer {
    pub(super) fn new(connection: Arc<Connection>, asked: Asked) -> Answer {
        Answer { connection: Some(connection), asked }
    }

    /// Sends the whole answer. The answer to HEAD is sent without its body.
    pub fn send(mut self, response: Response) {
        self.take().answer(response, self.asked);
    }

    /// Sends the status and the header fields of `response`, and then its body as the first part of
    /// a body that has no end yet. The [`Stream`] sends the rest. It may stay open for hours, and
    /// then needs no thread. To a client of HTTP/1.1 it is sent in chunks, to one of HTTP/1.0 until
    /// the connection ends. A stream that answers HEAD is over from the start.
    pub fn stream(mut self, response: Response) -> Stream {
        let connection = self.take();
        let Response { start, body } = response;
        let is_chunked = connection.begin_stream(&start, self.asked);
        let is_open = !self.asked.is_head;
        let stream = Stream { connection, is_chunked, is_open };
        // It belongs to the head: it is sent however much waits. If the client is gone, the next
        // chunk tells.
        let _ = stream.send(&body);
        stream
    }

    /// Runs `callback` once, if the client ends its side of the connection, or the connection
    /// breaks, before the answer begins. If that has happened already, it runs at once, on this
    /// thread; otherwise on that of the connection. So it must not block, and this must not be
    /// called with a lock that it takes. A second call replaces a callback that still waits.
    ///
    /// Whoever lets clients wait for long needs it: the connection of an answer that is never given
    /// stays in memory. Most clients that end their side are gone. One may still read, for
    /// [`Limits::half_close_timeout`](super::Limits::half_close_timeout).
    pub fn when_gone(&self, callback: impl FnOnce() + Send + 'static) {
        let connection = self.connection.as_ref().expect("it is there until it is used up");
        connection.when_gone(Box::new(callback));
    }

    /// Answers with a refusal, which ends the connection.
    pub(super) fn refuse(mut self, refusal: Refusal) {
        let connection = self.take();
        connection.send_refusal(refusal);
        connection.end_answer();
    }

    fn take(&mut self) -> Arc<Connection> {
        self.connection.take().expect("it is there until it is used up")
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            let response = Response::text(500, "the request was not answered\n");
            connection.answer(response, self.asked);
        }
    }
}

/// Why a chunk was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// Too much waits to be sent. The stream goes on; see [`Stream::when_ready`].
    #[error("too much waits to be sent on the stream")]
    NoRoom,
    /// The client is gone, or the server stops.
    #[error("the stream is over")]
    Over,
}

/// The body of an answer that has no end yet. Any thread may send. Dropped without its
/// [end](Stream::end), it cuts the connection, so that the client sees that the body is not whole.
pub struct Stream {
    connection: Arc<Connection>,
    is_chunked: bool,
    is_open: bool,
}

impl Stream {
    /// Sends a chunk, if there is room for it. Never waits. An empty chunk sends nothing.
    ///
    /// # Errors
    ///
    /// Every [`StreamError`]. Nothing of the chunk was sent.
    pub fn try_send(&self, chunk: &[u8]) -> Result<(), StreamError> {
        self.check_room(chunk)?;
        self.send(chunk)
    }

    /// As [`try_send`](Stream::try_send). A long chunk is not copied: many streams that wait for
    /// their clients may share it.
    ///
    /// # Errors
    ///
    /// Every [`StreamError`]. Nothing of the chunk was sent.
    pub fn try_send_shared(&self, chunk: &Bytes) -> Result<(), StreamError> {
        if chunk.len() <= COPIED_LEN_MAX_BYTES {
            return self.try_send(chunk);
        }
        self.check_room(chunk)?;
        let begin = self.is_chunked.then(|| chunk_size(chunk.len()).into());
        let end = self.is_chunked.then(|| Bytes::from_static(b"\r\n"));
        let parts = begin.into_iter().chain([chunk.clone()]).chain(end);
        parts.into_iter().try_for_each(|part| self.send_bytes(&part))
    }

    fn check_room(&self, chunk: &[u8]) -> Result<(), StreamError> {
        let has_room = chunk.is_empty() || self.connection.outbox().has_room();
        if has_room || self.is_over() { Ok(()) } else { Err(StreamError::NoRoom) }
    }

    /// Sends a chunk, however much waits.
    fn send(&self, chunk: &[u8]) -> Result<(), StreamError> {
        if chunk.is_empty() {
            return if self.is_over() { Err(StreamError::Over) } else { Ok(()) };
        }
        let bytes = if self.is_chunked { framed(chunk) } else { Bytes::copy_from_slice(chunk) };
        self.send_bytes(&bytes)
    }

    fn send_bytes(&self, bytes: &Bytes) -> Result<(), StreamError> {
        if self.is_over() {
            return Err(StreamError::Over);
        }
        self.connection.try_send(bytes).map_err(|_| StreamError::Over)
    }

    /// Runs `callback` once: when there is room for a chunk, or the stream is over. It runs on the
    /// thread that makes the room, or, if there is room already, at once on this one. So it must
    /// not block, and this must not be called with a lock that it takes. A second call replaces a
    /// callback that still waits.
    pub fn when_ready(&self, callback: impl FnOnce() + Send + 'static) {
        self.connection.when_ready(Box::new(callback));
    }

    /// Runs `callback` once, when the stream is over: also when the client has gone. The rules of
    /// [`when_ready`](Stream::when_ready) apply.
    pub fn when_over(&self, callback: impl FnOnce() + Send + 'static) {
        self.connection.when_over(Box::new(callback));
    }

    /// Whether nothing can be sent any more.
    pub fn is_over(&self) -> bool {
        !self.is_open || self.connection.is_over()
    }

    /// Ends the body well, behind all chunks that were sent.
    pub fn end(mut self) {
        if std::mem::take(&mut self.is_open) {
            if self.is_chunked {
                // A connection that is gone needs no end.
                let _ = self.connection.try_send(&Bytes::from_static(b"0\r\n\r\n"));
            }
            self.connection.end_answer();
        }
    }
}

/// How a chunk begins (RFC 9112 §7.1).
fn chunk_size(len: usize) -> String {
    format!("{len:x}\r\n")
}

fn framed(chunk: &[u8]) -> Bytes {
    let size = chunk_size(chunk.len());
    let mut bytes = BytesMut::with_capacity(size.len() + chunk.len() + 2);
    bytes.put_slice(size.as_bytes());
    bytes.put_slice(chunk);
    bytes.put_slice(b"\r\n");
    bytes.freeze()
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.is_open {
            self.connection.cut("the answer was given up");
        }
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer").field("connection", &self.connection).finish_non_exhaustive()
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("connection", &self.connection).finish_non_exhaustive()
    }
}
