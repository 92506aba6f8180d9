//! From bytes to frames, in whatever pieces the bytes arrive.

use bytes::Bytes;
use prost::Message;

use super::detect::{DETECT_LEN_BYTES, detect};
use super::{FrameError, HeadSize};
use crate::limits::{FrameLimits, HEAD_LEN_MAX_BYTES};

/// What is read at once when no body is being received. Many small frames fit. Each connection
/// holds one such buffer.
const READ_LEN_BYTES: usize = 16 * 1024;

/// The buffer of a channel doubles up to this size whenever a read has filled it. A server has many
/// connections, and its buffers do not grow.
const READ_LEN_MAX_BYTES: usize = 128 * 1024;

/// How far a body's memory is ahead of what has arrived, at first. Later it doubles.
const BODY_STEP_BYTES: usize = 64 * 1024;

/// A header that says how long the body after it is.
pub(crate) trait Head: Message + Default {
    /// The byte that it must begin with, where there is one.
    const FIRST_BYTE: Option<u8>;

    fn body_len(&self) -> usize;
}

/// The parts of a frame, in the order in which they come: a `Head`, then its `Body`; or a
/// `TooLong`, then `Skipped`.
#[derive(Debug, PartialEq)]
pub(crate) enum Frame<H> {
    /// A header. Its body is within the limit, and comes next. Nothing has been allocated for it
    /// yet.
    Head(H),
    /// The body of the header before it.
    Body(Bytes),
    /// A header whose body is over the limit. The body's bytes are skipped as they come.
    TooLong(H),
    /// The end of a body that was skipped.
    Skipped,
}

/// An incremental decoder. The caller reads bytes to [`space`](Decoder::space), tells
/// [`filled`](Decoder::filled) how many came, and takes what is complete from
/// [`next`](Decoder::next). A read that times out loses nothing.
pub(crate) struct Decoder {
    limits: FrameLimits,
    head_size: Option<HeadSize>,
    buf: Box<[u8]>,
    /// How long `buf` may become.
    buf_len_max: usize,
    /// Whether the last read has filled `buf`.
    was_filled: bool,
    start: usize,
    end: usize,
    state: State,
}

enum State {
    /// Waiting for a header, or for the rest of it.
    Head,
    /// A body is next.
    Body(Body),
    /// Bytes still to be skipped, and how many were.
    Skip { left: usize, skipped: usize },
}

/// A body of `len` bytes. The first `filled` bytes of `bytes` have arrived; the rest is room for
/// more.
struct Body {
    bytes: Vec<u8>,
    filled: usize,
    len: usize,
}

impl Decoder {
    /// A decoder for a connection whose first bytes tell its framing.
    pub(crate) fn detecting(limits: FrameLimits) -> Self {
        let buf = vec![0; READ_LEN_BYTES].into_boxed_slice();
        Decoder {
            limits,
            head_size: None,
            buf,
            buf_len_max: READ_LEN_BYTES,
            was_filled: false,
            start: 0,
            end: 0,
            state: State::Head,
        }
    }

    /// A decoder for a channel's connection, whose framing is known.
    pub(crate) fn of(head_size: HeadSize, limits: FrameLimits) -> Self {
        let (head_size, buf_len_max) = (Some(head_size), READ_LEN_MAX_BYTES);
        Decoder { head_size, buf_len_max, ..Decoder::detecting(limits) }
    }

    /// The connection's framing, once it is known.
    pub(crate) fn head_size(&self) -> Option<HeadSize> {
        self.head_size
    }

    /// Whether no frame has begun: the only place where a stream may end.
    pub(crate) fn is_between_frames(&self) -> bool {
        self.start == self.end && matches!(self.state, State::Head)
    }

    /// How much has arrived of the body that is being received or skipped.
    pub(crate) fn body_arrived(&self) -> usize {
        match &self.state {
            State::Head => 0,
            State::Body(body) => body.filled,
            State::Skip { skipped, .. } => *skipped,
        }
    }

    /// Skips the body that comes next instead of receiving it. To be called right after its `Head`.
    pub(crate) fn skip_body(&mut self) {
        match &self.state {
            State::Body(Body { filled: 0, len, .. }) => {
                self.state = State::Skip { left: *len, skipped: 0 }
            }
            _ => panic!("skip_body is called right after a head"),
        }
    }

    /// Where the next bytes are to be read to. Never empty after [`next`](Decoder::next) has
    /// returned `None`.
    pub(crate) fn space(&mut self) -> &mut [u8] {
        match &mut self.state {
            State::Body(Body { bytes, filled, len }) => {
                if *filled == bytes.len() {
                    let step = bytes.len().max(BODY_STEP_BYTES).min(*len - *filled);
                    bytes.reserve_exact(step);
                    bytes.resize(*filled + step, 0);
                }
                &mut bytes[*filled..]
            }
            State::Head | State::Skip { .. } => {
                let rest = self.start..self.end;
                (self.start, self.end) = (0, rest.len());
                // A header is far shorter than the buffer, so there is room once it is moved to the
                // front.
                if self.was_filled && self.buf.len() < self.buf_len_max {
                    let mut longer = vec![0; self.buf.len() * 2].into_boxed_slice();
                    longer[..rest.len()].copy_from_slice(&self.buf[rest]);
                    self.buf = longer;
                } else {
                    self.buf.copy_within(rest, 0);
                }
                &mut self.buf[self.end..]
            }
        }
    }

    /// `count` bytes were read to [`space`](Decoder::space).
    pub(crate) fn filled(&mut self, count: usize) {
        match &mut self.state {
            // What is longer than the buffer needs no longer buffer.
            State::Body(body) => (body.filled, self.was_filled) = (body.filled + count, false),
            State::Head | State::Skip { .. } => {
                self.end += count;
                self.was_filled = self.end == self.buf.len();
            }
        }
    }

    /// The next part that is complete; `None` when more bytes are needed. After an error the stream
    /// cannot be followed.
    #[inline]
    pub(crate) fn next<H: Head>(&mut self) -> Result<Option<Frame<H>>, FrameError> {
        match &mut self.state {
            State::Head => self.next_head(),
            State::Body(body) => {
                let (taken, whole) = body.take(&self.buf[self.start..self.end]);
                self.start += taken;
                let Some(whole) = whole else { return Ok(None) };
                self.state = State::Head;
                Ok(Some(Frame::Body(whole)))
            }
            State::Skip { left, skipped } => {
                let count = (self.end - self.start).min(*left);
                self.start += count;
                *left -= count;
                *skipped += count;
                if *left > 0 {
                    return Ok(None);
                }
                self.state = State::Head;
                Ok(Some(Frame::Skipped))
            }
        }
    }

    #[inline]
    fn next_head<H: Head>(&mut self) -> Result<Option<Frame<H>>, FrameError> {
        let buf = &self.buf[self.start..self.end];
        let head_size = match (self.head_size, buf) {
            (Some(head_size), _) => head_size,
            (None, [b0, b1, b2, ..]) => detect([*b0, *b1, *b2])?,
            (None, _) => return Ok(None),
        };
        self.head_size = Some(head_size);
        let Some((head_at, head_len)) = head_len(head_size, buf)? else { return Ok(None) };
        check_first_byte::<H>(buf.get(head_at))?;
        let Some(head) = buf.get(head_at..head_at + head_len) else { return Ok(None) };
        let head = H::decode(head).map_err(FrameError::BadHead)?;
        self.start += head_at + head_len;
        let len = head.body_len();
        if len > self.limits.body_len_max_bytes {
            self.state = State::Skip { left: len, skipped: 0 };
            return Ok(Some(Frame::TooLong(head)));
        }
        self.state = State::Body(Body { bytes: Vec::new(), filled: 0, len });
        Ok(Some(Frame::Head(head)))
    }
}

impl Body {
    /// Takes what it needs of the bytes that are buffered: how many, and the body if it is whole.
    #[inline]
    fn take(&mut self, buffered: &[u8]) -> (usize, Option<Bytes>) {
        if self.filled == 0 && buffered.len() >= self.len {
            return (self.len, Some(Bytes::copy_from_slice(&buffered[..self.len])));
        }
        if !buffered.is_empty() {
            // The start of a body that is longer than what was read with its header.
            self.bytes.reserve_exact(BODY_STEP_BYTES.min(self.len).max(buffered.len()));
            self.bytes.extend_from_slice(buffered);
            self.filled = buffered.len();
        }
        let whole = (self.filled == self.len).then(|| Bytes::from(std::mem::take(&mut self.bytes)));
        (buffered.len(), whole)
    }
}

/// Where the header starts and how long it is; `None` when more bytes are needed to tell.
fn head_len(head_size: HeadSize, buf: &[u8]) -> Result<Option<(usize, usize)>, FrameError> {
    let (at, len) = match (head_size, buf) {
        (HeadSize::U32Le, [b0, b1, b2, b3, ..]) => {
            (4, u64::from(u32::from_le_bytes([*b0, *b1, *b2, *b3])))
        }
        (HeadSize::Varint, [b0 @ 0..0x80, ..]) => (1, u64::from(*b0)),
        (HeadSize::Varint, [b0, b1, ..]) => (2, u64::from(b0 & 0x7f) | u64::from(*b1) << 7),
        _ => return Ok(None),
    };
    match len {
        0 => Err(FrameError::EmptyHead),
        // A varint of three bytes is over the limit, too: the flag for the third byte is bit 7 of
        // the second, which counts as 16,384 here.
        _ if len > HEAD_LEN_MAX_BYTES as u64 => Err(FrameError::HeadTooLong { len }),
        _ => Ok(Some((at, len as usize))),
    }
}

fn check_first_byte<H: Head>(first: Option<&u8>) -> Result<(), FrameError> {
    match (H::FIRST_BYTE, first) {
        (Some(expected), Some(&found)) if expected != found => Err(FrameError::BadTag { found }),
        _ => Ok(()),
    }
}

// The bytes that decide the framing must fit, and so must a whole header with its length.
const _: () =
    assert!(READ_LEN_BYTES > DETECT_LEN_BYTES && READ_LEN_BYTES >= 4 + HEAD_LEN_MAX_BYTES);
