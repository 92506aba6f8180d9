//! Encodes and decodes the header of a backup. Its table is on the [module's page](super).

use byteorder::{ByteOrder, LittleEndian};
use crc32c::crc32c;

use crate::kv::model::Revision;
use crate::raft::{Index, Term};

pub(super) const HEADER_LEN_BYTES: usize = 128;
/// The newest format, and the one that is written.
pub(super) const FORMAT: u32 = 1;

const MAGIC: &[u8; 8] = b"SYNCBAK\n";
const VERSION_LEN_MAX: usize = 32;

/// What a backup says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupHead {
    /// The cluster whose data it is.
    pub cluster_id: u64,
    /// Where the member's log was applied when the copy had been taken. Members that apply entries
    /// at that moment may have been a few entries further.
    pub index: Index,
    /// The member's term then.
    pub term: Term,
    /// The revision of the state.
    pub revision: Revision,
    /// When the copy was made, in milliseconds since 1970 (UTC).
    pub made_at_ms: u64,
    /// The feature level of the state.
    pub level: u32,
    /// How many keys it has.
    pub keys: u64,
    /// The length of all keys and values.
    pub bytes: u64,
    /// The version of the member's program; at most 32 bytes of it are kept.
    pub version: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum BadHeader {
    Damaged(&'static str),
    /// It is of this format, which this program does not know.
    Format(u32),
}

impl BackupHead {
    pub(super) fn encode(&self) -> [u8; HEADER_LEN_BYTES] {
        let mut bytes = [0; HEADER_LEN_BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        LittleEndian::write_u32(&mut bytes[12..], FORMAT);
        let numbers = [self.cluster_id, self.index.0, self.term.0, self.revision.0];
        LittleEndian::write_u64_into(&numbers, &mut bytes[16..48]);
        LittleEndian::write_u64(&mut bytes[48..], self.made_at_ms);
        LittleEndian::write_u32(&mut bytes[56..], self.level);
        LittleEndian::write_u64_into(&[self.keys, self.bytes], &mut bytes[64..80]);
        let version = cut(&self.version);
        bytes[80..80 + version.len()].copy_from_slice(version.as_bytes());
        let crc = crc32c(&bytes[12..]);
        LittleEndian::write_u32(&mut bytes[8..], crc);
        bytes
    }

    /// Decodes the beginning of a file.
    pub(super) fn decode(bytes: &[u8]) -> Result<BackupHead, BadHeader> {
        if bytes.get(..8) != Some(MAGIC) {
            return Err(BadHeader::Damaged("this is not the beginning of a backup"));
        }
        let Some(bytes) = bytes.get(..HEADER_LEN_BYTES) else {
            return Err(BadHeader::Damaged("the file is too short for the header of a backup"));
        };
        if LittleEndian::read_u32(&bytes[8..]) != crc32c(&bytes[12..]) {
            return Err(BadHeader::Damaged("the header does not match its checksum"));
        }
        let format = LittleEndian::read_u32(&bytes[12..]);
        if format != FORMAT {
            return Err(BadHeader::Format(format));
        }
        let number = |at: usize| LittleEndian::read_u64(&bytes[at..]);
        let version = bytes[80..80 + VERSION_LEN_MAX].split(|&byte| byte == 0).next();
        Ok(BackupHead {
            cluster_id: number(16),
            index: Index(number(24)),
            term: Term(number(32)),
            revision: Revision(number(40)),
            made_at_ms: number(48),
            level: LittleEndian::read_u32(&bytes[56..]),
            keys: number(64),
            bytes: number(72),
            version: String::from_utf8_lossy(version.unwrap_or_default()).into_owned(),
        })
    }

    /// The checksum from which that of the first chunk continues.
    pub(super) fn crc(&self) -> u32 {
        crc32c(&self.encode())
    }
}

/// As much of a version as the header has room for.
fn cut(version: &str) -> &str {
    let len = version.len().min(VERSION_LEN_MAX);
    (0..=len).rev().find_map(|len| version.get(..len)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(version: &str) -> BackupHead {
        BackupHead {
            cluster_id: 1,
            index: Index(2),
            term: Term(3),
            revision: Revision(4),
            made_at_ms: 5,
            level: 6,
            keys: 7,
            bytes: 8,
            version: version.to_owned(),
        }
    }

    #[test]
    fn what_was_encoded_is_decoded() {
        for version in ["", "0.1.0", &"9".repeat(32)] {
            assert_eq!(BackupHead::decode(&head(version).encode()), Ok(head(version)));
        }
        let long = BackupHead::decode(&head(&"ä".repeat(20)).encode()).unwrap();
        assert_eq!(long.version, "ä".repeat(16));
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let good = head("0.1.0").encode();
        for bit in 0..good.len() * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(BackupHead::decode(&bad), Err(BadHeader::Damaged(_))), "bit {bit}");
        }
    }

    #[test]
    fn a_newer_format_is_told_from_damage() {
        let mut newer = head("9.0.0").encode();
        LittleEndian::write_u32(&mut newer[12..], 2);
        let crc = crc32c(&newer[12..]);
        LittleEndian::write_u32(&mut newer[8..], crc);
        assert_eq!(BackupHead::decode(&newer), Err(BadHeader::Format(2)));
    }
}
