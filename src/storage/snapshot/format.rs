//! Encodes and decodes the bytes of a snapshot file. The tables are on the [module's page](super).

use byteorder::{ByteOrder, LittleEndian};
use crc32c::crc32c;

use crate::raft::{BadConfiguration, Configuration, Index, SnapshotMeta, Term};
use crate::storage::identity::FIRST_FORMAT;

pub(super) const HEADER_LEN_BYTES: usize = 64;

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
