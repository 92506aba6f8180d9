//! Files whose body is a sequence of checksummed chunks and a trailer: snapshots and backups.
//!
//! Their tables are on the pages of [`snapshot`](super::snapshot) and of
//! [`backup`](crate::backup). Each checksum continues from the one before, and the first from that
//! of the file's header. So a checksum matches only if everything before it is as it was written.
//! These bytes are in files of released versions: they never change.

use byteorder::{ByteOrder, LittleEndian};
use crc32c::crc32c_append;

/// Length and checksum, before the bytes of each chunk.
pub(crate) const CHUNK_PREFIX_LEN_BYTES: usize = 8;
/// Bounds the memory of a writer and a reader.
pub(crate) const CHUNK_LEN_MAX_BYTES: usize = 64 << 10;
pub(crate) const TRAILER_LEN_BYTES: usize = 24;

/// Fills in the prefix before the bytes of a chunk, and returns the checksum, which continues from
/// `previous_crc`.
pub(crate) fn seal_chunk(prefix_and_bytes: &mut [u8], previous_crc: u32) -> u32 {
    let (prefix, bytes) = prefix_and_bytes.split_at_mut(CHUNK_PREFIX_LEN_BYTES);
    // Fits: a chunk has at most CHUNK_LEN_MAX_BYTES.
    LittleEndian::write_u32(prefix, bytes.len() as u32);
    let crc = crc32c_append(crc32c_append(previous_crc, &prefix[..4]), bytes);
    LittleEndian::write_u32(&mut prefix[4..], crc);
    crc
}

/// What follows the header or a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// A chunk of `len` bytes.
    Chunk { len: usize, crc: u32 },
    /// The end.
    Trailer { body_len_bytes: u64, file_len_bytes: u64 },
}

/// Decodes and checks what `bytes` begins with. They must reach to the end of the longest possible
/// chunk, or of the file.
pub(crate) fn decode_next(bytes: &[u8], previous_crc: u32) -> Result<Next, &'static str> {
    const CUT: &str = "the file ends before its trailer";
    let prefix = bytes.get(..CHUNK_PREFIX_LEN_BYTES).ok_or(CUT)?;
    let len = LittleEndian::read_u32(prefix) as usize;
    if len > CHUNK_LEN_MAX_BYTES {
        return Err("a chunk is longer than any can be");
    }
    let content_len = if len == 0 { TRAILER_LEN_BYTES - CHUNK_PREFIX_LEN_BYTES } else { len };
    let content = bytes[CHUNK_PREFIX_LEN_BYTES..].get(..content_len).ok_or(CUT)?;
    let crc = crc32c_append(crc32c_append(previous_crc, &prefix[..4]), content);
    match (LittleEndian::read_u32(&prefix[4..]) == crc, len) {
        (true, 0) => Ok(Next::Trailer {
            body_len_bytes: LittleEndian::read_u64(content),
            file_len_bytes: LittleEndian::read_u64(&content[8..]),
        }),
        (true, len) => Ok(Next::Chunk { len, crc }),
        (false, 0) => Err("the trailer does not match its checksum"),
        (false, _) => Err("a chunk does not match its checksum"),
    }
}

pub(crate) fn encode_trailer(
    body_len_bytes: u64,
    file_len_bytes: u64,
    previous_crc: u32,
) -> [u8; TRAILER_LEN_BYTES] {
    let mut bytes = [0; TRAILER_LEN_BYTES];
    LittleEndian::write_u64(&mut bytes[8..], body_len_bytes);
    LittleEndian::write_u64(&mut bytes[16..], file_len_bytes);
    let crc = crc32c_append(crc32c_append(previous_crc, &bytes[..4]), &bytes[8..]);
    LittleEndian::write_u32(&mut bytes[4..], crc);
    bytes
}
