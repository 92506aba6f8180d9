//! Encodes and decodes the bytes of a snapshot file. The tables are on the [module's page](super).

use byteorder::{ByteOrder, LittleEndian};
use crc32c::crc32c;

use crate::raft::{Index, SnapshotMeta, Term};
use crate::storage::identity::FORMAT_VERSION;

pub(super) const HEADER_LEN_BYTES: usize = 64;

const MAGIC: &[u8; 8] = b"SYNCSNP\n";

/// The first bytes of a snapshot, which say of which state it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) cluster_id: u64,
    pub(super) meta: SnapshotMeta,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadHeader {
    Damaged(&'static str),
    /// It is of this format, which is not ours.
    Format(u32),
}

impl Header {
    pub(super) fn encode(&self) -> [u8; HEADER_LEN_BYTES] {
        let mut bytes = [0; HEADER_LEN_BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        LittleEndian::write_u32(&mut bytes[12..], FORMAT_VERSION);
        LittleEndian::write_u64(&mut bytes[16..], self.cluster_id);
        LittleEndian::write_u64(&mut bytes[24..], self.meta.last_included_index.0);
        LittleEndian::write_u64(&mut bytes[32..], self.meta.last_included_term.0);
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
        let version = LittleEndian::read_u32(&bytes[12..]);
        if version != FORMAT_VERSION {
            return Err(BadHeader::Format(version));
        }
        Ok(Header {
            cluster_id: LittleEndian::read_u64(&bytes[16..]),
            meta: SnapshotMeta {
                last_included_index: Index(LittleEndian::read_u64(&bytes[24..])),
                last_included_term: Term(LittleEndian::read_u64(&bytes[32..])),
            },
        })
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
