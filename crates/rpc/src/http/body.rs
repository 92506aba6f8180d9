//! [`Body`]: the body of a request, read by its handler.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::chunked::{Chunked, Step};
use super::connection::Connection;
use super::head::Framing;
use super::input::Input;
use super::{Refusal, Response, Stats};
use crate::net::{after, time_left};
use crate::port::Connection as _;
use crate::transport::Received;

/// A body may take one second longer for each time this much of it has arrived.
const BYTES_PER_SECOND: u64 = 256 * 1024;

/// A body that its handler has left is read and dropped up to this length, so that the connection
/// can live on.
const DISCARDED_MAX_BYTES: u64 = 256 << 10;

/// Why the body of a request could not be read. [`BodyError::response`] is the answer to it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BodyError {
    /// It is longer than the handler or the server takes.
    #[error("the body is longer than {max_bytes} bytes")]
    TooLong {
        /// The most that is taken.
        max_bytes: usize,
    },
    /// Its chunks are malformed.
    #[error("a chunk of the body is malformed, or its trailers are")]
    Malformed,
    /// It did not arrive in time.
    #[error("the body took too long to arrive")]
    TooSlow,
    /// Too many bytes of other bodies are being received. Nothing is wrong with this one.
    #[error("there is no room for the body at the moment")]
    NoRoom,
    /// The connection ended in the middle of the body.
    #[error("the connection ended before the body")]
    Gone,
}

impl BodyError {
    /// What the client is told.
    pub fn response(&self) -> Response {
        let status = match self {
            BodyError::TooLong { .. } => 413,
            BodyError::Malformed | BodyError::Gone => 400,
            BodyError::TooSlow => 408,
            BodyError::NoRoom => 503,
        };
        let response = Response::text(status, format!("{self}\n"));
        if status == 503 { response.header("Retry-After", "1") } else { response }
    }
}

/// The body of a request, as far as it has not been read. Whoever reads it waits for the client, at
/// most for [`Limits::body_timeout`](super::Limits::body_timeout). A client that waits to be told
/// to send it (`Expect: 100-continue`) is told by the first read.
#[derive(Debug)]
pub struct Body<'c> {
    connection: &'c Connection,
    input: &'c mut Input,
    framing: Rest,
    began: Instant,
    arrived: u64,
    is_broken: bool,
}

#[derive(Debug)]
enum Rest {
    Length(u64),
    Chunked(Chunked),
}

impl<'c> Body<'c> {
    pub(super) fn new(
        connection: &'c Connection,
        input: &'c mut Input,
        framing: Framing,
    ) -> Body<'c> {
        let framing = match framing {
            Framing::Length(len) => Rest::Length(len),
            Framing::Chunked => Rest::Chunked(Chunked::new()),
        };
        let began = Instant::now();
        let body = Body { connection, input, framing, began, arrived: 0, is_broken: false };
        connection.set_rest_long(body.is_rest_long());
        body
    }

    pub(super) fn server_stats(&self) -> Stats {
        self.connection.shared.stats()
    }

    /// Whether so much is left, or may be, that it is not discarded: then the connection ends with
    /// the answer.
    fn is_rest_long(&self) -> bool {
        match &self.framing {
            Rest::Length(left) => *left > DISCARDED_MAX_BYTES,
            Rest::Chunked(chunked) => !chunked.is_done(),
        }
    }

    /// How many bytes are left, if the client has said so.
    pub fn len(&self) -> Option<u64> {
        match self.framing {
            Rest::Length(left) => Some(left),
            Rest::Chunked(_) => None,
        }
    }

    /// Whether all of it was read, or there is none.
    pub fn is_empty(&self) -> bool {
        match &self.framing {
            Rest::Length(left) => *left == 0,
            Rest::Chunked(chunked) => chunked.is_done(),
        }
    }

    /// Reads all of it, at most `max_bytes` and what the server's limits allow.
    ///
    /// # Errors
    ///
    /// Every [`BodyError`].
    pub fn read_all(&mut self, max_bytes: usize) -> Result<Bytes, BodyError> {
        let max_bytes = max_bytes.min(self.connection.shared.limits.body_len_max_bytes);
        let too_long = || BodyError::TooLong { max_bytes };
        let known = self.len().map(|len| usize::try_from(len).unwrap_or(usize::MAX));
        if known.is_some_and(|len| len > max_bytes) {
            self.give_up();
            return Err(too_long());
        }
        // Given back when the request is answered.
        let mut room = self.connection.shared.body_room(0).ok_or(BodyError::NoRoom)?;
        let mut all = BytesMut::new();
        while !self.is_empty() {
            // Only bytes that have arrived take room: a client that announces a long body and sends
            // nothing keeps nobody out.
            self.receive_some()?;
            // One byte more than it may have, to see whether it has more.
            let part_max = self.input.bytes().len().min(max_bytes - all.len() + 1);
            let begin = all.len();
            if !room.try_grow(part_max) {
                self.give_up();
                return Err(BodyError::NoRoom);
            }
            self.read_part(part_max, |part| all.extend_from_slice(part))?;
            if all.len() > max_bytes {
                self.give_up();
                return Err(too_long());
            }
            room.shrink(part_max - (all.len() - begin));
        }
        self.connection.hold(room);
        Ok(all.freeze())
    }

    /// Reads a part of it to `space`. Returns how much; 0 at its end, or if `space` is empty. How
    /// long a chunked body may be is up to the handler.
    ///
    /// # Errors
    ///
    /// [`BodyError::Malformed`], [`BodyError::TooSlow`], [`BodyError::Gone`].
    pub fn read(&mut self, space: &mut [u8]) -> Result<usize, BodyError> {
        let mut len = 0;
        while len == 0 && !space.is_empty() && !self.is_empty() {
            self.read_part(space.len(), |part| {
                space[..part.len()].copy_from_slice(part);
                len = part.len();
            })?;
        }
        Ok(len)
    }

    /// Reads on, and gives at most `data_max` bytes of the body, perhaps none.
    fn read_part(&mut self, data_max: usize, take: impl FnOnce(&[u8])) -> Result<(), BodyError> {
        self.receive_some()?;
        let bytes = self.input.bytes();
        let step = match &mut self.framing {
            Rest::Length(left) => {
                let left_len = usize::try_from(*left).unwrap_or(usize::MAX);
                let data = bytes.len().min(data_max).min(left_len);
                *left -= data as u64;
                Ok(Step { used: data, data })
            }
            Rest::Chunked(chunked) => chunked.step(bytes, data_max),
        };
        let Step { used, data } = step.map_err(|_| {
            self.give_up();
            BodyError::Malformed
        })?;
        take(&self.input.bytes()[used - data..used]);
        self.input.consume(used);
        self.arrived += used as u64;
        self.connection.set_rest_long(self.is_rest_long());
        if self.is_empty() {
            self.connection.set_body_read();
        }
        Ok(())
    }

    /// Waits until some bytes are there.
    fn receive_some(&mut self) -> Result<(), BodyError> {
        if self.input.is_empty() { self.receive() } else { Ok(()) }
    }

    fn receive(&mut self) -> Result<(), BodyError> {
        self.connection.tell_to_continue();
        let limits = &self.connection.shared.limits;
        loop {
            let more = Duration::from_secs(self.arrived / BYTES_PER_SECOND);
            let deadline = after(self.began, limits.body_timeout.saturating_add(more));
            let transport = self.connection.outbox().transport();
            let result = match time_left(deadline) {
                None => Err(BodyError::TooSlow),
                Some(left) => match self.input.fill(transport, Some(left)) {
                    Ok(Received::Bytes(_)) => return Ok(()),
                    Ok(Received::TimedOut | Received::ReadAgain) => continue,
                    Ok(Received::End) | Err(_) => Err(BodyError::Gone),
                },
            };
            self.give_up();
            return result;
        }
    }

    /// Reads and drops what the handler has left. Returns whether the next request can follow.
    pub(super) fn discard(&mut self) -> bool {
        if self.is_broken || (!self.is_empty() && self.connection.is_to_continue()) {
            return false;
        }
        let limit = self.arrived + DISCARDED_MAX_BYTES;
        while !self.is_empty() {
            if self.is_rest_long()
                || self.arrived > limit
                || self.read_part(usize::MAX, |_| {}).is_err()
            {
                return false;
            }
        }
        true
    }

    /// It cannot be read to its end, so no other request can follow.
    fn give_up(&mut self) {
        self.is_broken = true;
        self.connection.close_after_answer();
    }

    /// The refusal of a body whose length is known to be over the limit.
    pub(super) fn check_len(&self) -> Result<(), Refusal> {
        let max = self.connection.shared.limits.body_len_max_bytes as u64;
        if self.len().is_some_and(|len| len > max) { Err(Refusal::BodyTooLong) } else { Ok(()) }
    }
}
