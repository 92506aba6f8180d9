//! Encodes and decodes the bytes of a snapshot file. The tables are on the [module's page](super).

use byteorder::{ByteOrder, LittleEndian};
use crc32c::{crc32c, crc32c_append};

use crate::raft::{BadConfiguration, Configuration, Index, SnapshotMeta, Term};
use crate::storage::identity::FIRST_FORMAT;

pub(super) const HEADER_LEN_BYTES: usize = 64;
/// Length and checksum, before the bytes of each chunk.
pub(super) const CHUNK_PREFIX_LEN_BYTES: usize = 8;
/// Bounds the memory of a writer and a reader.
pub(super) const CHUNK_LEN_MAX_BYTES: usize = 64 << 10;
pub(super) const TRAILER_LEN_BYTES: usize = 24;

/// The longest configuration. A change refuses what would make it longer.
pub(super) const CONFIGURATION_LEN_MAX_BYTES: usize = 1 << 20;

/// The version of a file without a configuration.
const VERSION_WITHOUT: u32 = FIRST_FORMAT;
/// The version of a file with one, and the newest.
pub(super) const VERSION: u32 = 3;

const MAGIC: &[u8; 8] = b"SYNCSNP\n";

/// The first bytes of a snapshot, which say of which state it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) cluster_id: u64,
    pub(super) meta: SnapshotMeta,
    /// The bytes of the configuration, which follow the header.
    pub(super) configuration: Option<Block>,
}

/// Bytes with a checksum of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Block {
    pub(super) len_bytes: u32,
    crc: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadHeader {
    Damaged(&'static str),
    /// It is of this format, which is none of ours.
    Format(u32),
}

impl Block {
    /// # Panics
    /// If they are longer than a configuration can be.
    pub(super) fn of(bytes: &[u8]) -> Block {
        assert!(bytes.len() <= CONFIGURATION_LEN_MAX_BYTES, "{} bytes of members", bytes.len());
        Block { len_bytes: bytes.len() as u32, crc: crc32c(bytes) }
    }
}

impl Header {
    pub(super) fn encode(&self) -> [u8; HEADER_LEN_BYTES] {
        let mut bytes = [0; HEADER_LEN_BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        let version = self.configuration.map_or(VERSION_WITHOUT, |_| VERSION);
        LittleEndian::write_u32(&mut bytes[12..], version);
        LittleEndian::write_u64(&mut bytes[16..], self.cluster_id);
        LittleEndian::write_u64(&mut bytes[24..], self.meta.last_included_index.0);
        LittleEndian::write_u64(&mut bytes[32..], self.meta.last_included_term.0);
        if let Some(Block { len_bytes, crc }) = self.configuration {
            LittleEndian::write_u32(&mut bytes[40..], len_bytes);
            LittleEndian::write_u32(&mut bytes[44..], crc);
        }
        let crc = crc32c(&bytes[12..]);
        LittleEndian::write_u32(&mut bytes[8..], crc);
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Header, BadHeader> {
        let Some(bytes) = bytes.get(..HEADER_LEN_BYTES) else {
            return Err(BadHeader::Damaged("the file is too short for a snapshot's header"));
        };
        if bytes[..8] != *MAGIC {
            return Err(BadHeader::Damaged("this is not the header of a snapshot"));
        }
        if LittleEndian::read_u32(&bytes[8..]) != crc32c(&bytes[12..]) {
            return Err(BadHeader::Damaged("the header does not match its checksum"));
        }
        let configuration = match LittleEndian::read_u32(&bytes[12..]) {
            VERSION_WITHOUT => None,
            VERSION => {
                let (len_bytes, crc) =
                    (LittleEndian::read_u32(&bytes[40..]), LittleEndian::read_u32(&bytes[44..]));
                Some(Block { len_bytes, crc })
            }
            version => return Err(BadHeader::Format(version)),
        };
        if configuration.is_some_and(|it| it.len_bytes as usize > CONFIGURATION_LEN_MAX_BYTES) {
            return Err(BadHeader::Damaged(
                "its configuration of members is longer than any can be",
            ));
        }
        Ok(Header {
            cluster_id: LittleEndian::read_u64(&bytes[16..]),
            meta: SnapshotMeta {
                last_included_index: Index(LittleEndian::read_u64(&bytes[24..])),
                last_included_term: Term(LittleEndian::read_u64(&bytes[32..])),
            },
            configuration,
        })
    }

    /// The configuration in the bytes that follow the header, which are there as far as the file
    /// goes.
    pub(super) fn decode_configuration(
        &self,
        bytes: &[u8],
    ) -> Result<Option<Configuration>, &'static str> {
        let Some(block) = self.configuration else { return Ok(None) };
        if bytes.len() < block.len_bytes as usize {
            return Err("the file ends in its configuration of members");
        }
        if Block::of(bytes) != block {
            return Err("the configuration of members does not match its checksum");
        }
        match Configuration::decode(bytes) {
            Ok(it) if it.cluster_id != self.cluster_id => {
                Err("its configuration of members is of another cluster")
            }
            Ok(configuration) => Ok(Some(configuration)),
            Err(BadConfiguration::Damaged) => Err("it has no configuration of members"),
            Err(BadConfiguration::Layout(_)) => {
                Err("its configuration of members is of a layout that this version does not know")
            }
        }
    }

    /// Where the chunks begin.
    pub(super) fn first_chunk_offset(&self) -> u64 {
        HEADER_LEN_BYTES as u64 + self.configuration.map_or(0, |it| u64::from(it.len_bytes))
    }

    /// The checksum from which that of the first chunk continues.
    pub(super) fn crc(&self) -> u32 {
        crc32c(&self.encode())
    }
}

/// Fills in the prefix before the bytes of a chunk, and returns the checksum, which continues from
/// `previous_crc`.
pub(super) fn seal_chunk(prefix_and_bytes: &mut [u8], previous_crc: u32) -> u32 {
    let (prefix, bytes) = prefix_and_bytes.split_at_mut(CHUNK_PREFIX_LEN_BYTES);
    // Fits: a chunk has at most CHUNK_LEN_MAX_BYTES.
    LittleEndian::write_u32(prefix, bytes.len() as u32);
    let crc = crc32c_append(crc32c_append(previous_crc, &prefix[..4]), bytes);
    LittleEndian::write_u32(&mut prefix[4..], crc);
    crc
}

/// What follows the header or a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// A chunk of `len` bytes.
    Chunk { len: usize, crc: u32 },
    /// The end.
    Trailer { body_len_bytes: u64, file_len_bytes: u64 },
}

/// Decodes and checks what `bytes` begins with. They must reach to the end of the longest possible
/// chunk, or of the file.
pub(super) fn decode_next(bytes: &[u8], previous_crc: u32) -> Result<Next, &'static str> {
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

pub(super) fn encode_trailer(
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

/// The name of a snapshot's file.
pub(super) fn file_name(meta: SnapshotMeta) -> String {
    format!("{:010}-{:010}.snap", meta.last_included_index.0, meta.last_included_term.0)
}

/// The snapshot in a file of this name; `None` if it is not the name of a snapshot.
pub(super) fn parse_file_name(name: &str) -> Option<SnapshotMeta> {
    let (index, term) = name.strip_suffix(".snap")?.split_once('-')?;
    let meta = SnapshotMeta {
        last_included_index: Index(index.parse().ok()?),
        last_included_term: Term(term.parse().ok()?),
    };
    (file_name(meta) == name).then_some(meta)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_snapshots_go_together() {
        for (name, meta) in [
            ("0000000120-0000000007.snap", Some((120, 7))),
            ("12345678901-0000000007.snap", Some((12345678901, 7))),
            ("120-7.snap", None),
            ("+000000120-0000000007.snap", None),
            ("0000000120-0000000007.snap.1.tmp", None),
        ] {
            let parsed = parse_file_name(name)
                .map(|meta| (meta.last_included_index.0, meta.last_included_term.0));
            assert_eq!(parsed, meta, "{name}");
        }
    }
}
