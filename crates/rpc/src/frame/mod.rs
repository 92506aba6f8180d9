//! From bytes to frames and back. No sockets here: bytes come in as they arrive, frames come out.
//!
//! # A frame
//!
//! | offset | size | field | why |
//! |---|---|---|---|
//! | 0 | 4, or 1 to 2 | `head_size` | of the header, 1 to 1,024: little-endian `u32`, or a varint |
//! | then | `head_size` | header | `RpcHeader` of a call, `RpcReplyHeader` of an extended reply |
//! | then | `args_size` or `reply_size` | body | arguments or reply; the header has the length |
//!
//! The reply to a *documented* call (a call without a `call_id`) is not a frame, but the bare
//! serialized message.
//!
//! # Which of the two framings a connection speaks
//!
//! Both generations of existing clients come to the same port. So the first three bytes `b0 b1 b2`
//! of a connection decide, once. They can, because a header is at most 1,024 bytes long, and a
//! call's header begins with the byte 0x0A, the tag of its field 1 (`service_name`).
//!
//! | framing | what the three bytes must be |
//! |---|---|
//! | `u32` | `b0 + 256 b1 + 65,536 b2 <= 1,024`: so `b1 <= 4` and `b2 = 0` |
//! | varint of one byte (`head_size < 128`) | `b0 < 0x80`; the header follows: `b1 = 0x0A` |
//! | varint of two bytes (up to 1,024) | `b0 >= 0x80`, `b1 < 0x80`; header follows: `b2 = 0x0A` |
//!
//! *No bytes fit two rows.* `u32` wants `b1 <= 4`, the first varint row wants `b1 = 10`. `u32`
//! wants `b2 = 0`, the second varint row wants `b2 = 10`. The two varint rows differ in the top bit
//! of `b0`.
//!
//! *Everything valid fits a row.* A varint of three bytes is more than 1,024, or padded, which no
//! encoder does. So a connection that fits no row speaks another protocol.
//!
//! # Other protocols
//!
//! Two of them are recognized, instead of being read as a length:
//!
//! - HTTP: a method's name. `b1` and `b2` are capital letters, so no row fits.
//! - TLS 1.0 to 1.3: a hello, `16 03 01` to `16 03 04`. `b1 = 3`, so it is not a varint, and `b2`
//!   is not 0, so it is not a `u32`. The hello of SSL 3.0 (`16 03 00`) does read as a `u32`, of 790
//!   bytes, but the header then does not begin with 0x0A.
//!
//! # Limits
//!
//! The length of a header is checked before it is read, and the length of a body before memory is
//! allocated for it. That memory grows as bytes arrive: it is at most twice what has arrived, plus
//! 64 KiB. Each body has its own allocation, so that a small value which lives on does not keep a
//! large read buffer alive.

mod decoder;
mod detect;

use bytes::Bytes;
use prost::encoding::encode_varint;

pub(super) use decoder::{Decoder, Frame, Head};
pub(super) use detect::OtherProtocol;

use super::header::{RpcHeader, RpcReplyHeader};
use super::limits::HEAD_LEN_MAX_BYTES;

/// How a connection writes `head_size`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeadSize {
    /// Four bytes, little-endian.
    U32Le,
    /// A protobuf varint.
    Varint,
}

/// Why bytes are not a frame. The stream cannot be followed any further.
#[derive(Debug, thiserror::Error)]
pub(super) enum FrameError {
    #[error("{0}")]
    OtherProtocol(OtherProtocol),
    #[error("a header of 0 bytes")]
    EmptyHead,
    #[error("a header of {len} bytes: at most {HEAD_LEN_MAX_BYTES} are taken")]
    HeadTooLong { len: u64 },
    #[error("a header that begins with byte {found:#04x} instead of 0x0a")]
    BadTag { found: u8 },
    #[error("a header that does not decode")]
    BadHead(#[source] prost::DecodeError),
}

impl Head for RpcHeader {
    const FIRST_BYTE: Option<u8> = Some(0x0a);

    fn body_len(&self) -> usize {
        self.args_size as usize
    }
}

impl Head for RpcReplyHeader {
    const FIRST_BYTE: Option<u8> = None;

    fn body_len(&self) -> usize {
        self.reply_size as usize
    }
}

/// One frame in one buffer, so that it leaves in one write. `write_body` writes exactly as many
/// bytes as `head` says.
pub(super) fn encode<H: Head>(
    head_size: HeadSize,
    head: &H,
    write_body: impl FnOnce(&mut Vec<u8>),
) -> Bytes {
    let mut buf = Vec::with_capacity(4 + head.encoded_len() + head.body_len());
    append(&mut buf, head_size, head, write_body);
    Bytes::from(buf)
}

/// Appends one frame: see [`encode`].
pub(super) fn append<H: Head>(
    buf: &mut Vec<u8>,
    head_size: HeadSize,
    head: &H,
    write_body: impl FnOnce(&mut Vec<u8>),
) {
    let (head_len, body_len) = (head.encoded_len(), head.body_len());
    assert!(head_len <= HEAD_LEN_MAX_BYTES, "a header of {head_len} bytes was built");
    buf.reserve(4 + head_len + body_len);
    match head_size {
        // It fits: at most 1,024.
        HeadSize::U32Le => buf.extend_from_slice(&(head_len as u32).to_le_bytes()),
        HeadSize::Varint => encode_varint(head_len as u64, buf),
    }
    head.encode(buf).expect("a Vec grows as needed");
    let body_at = buf.len();
    write_body(buf);
    assert_eq!(buf.len() - body_at, body_len, "a body of another length than its header says");
}

#[cfg(test)]
mod tests;
