//! The bytes of the log: encoding and decoding, no files. The tables are in the [module
//! above](super).

use std::sync::Arc;

use byteorder::{ByteOrder, LittleEndian};
use bytes::Bytes;
use crc32c::{crc32c, crc32c_append};

use crate::raft::{
    BadConfiguration, Configuration, Entry, HardState, Index, MemberId, Payload, SnapshotMeta, Term,
};
use crate::storage::identity::{FIRST_FORMAT, LogOwner};

/// A disk writes this many bytes as a whole or not at all.
pub(super) const SECTOR_LEN_BYTES: u64 = 512;
/// The segment header has the first sector to itself.
pub(super) const SEGMENT_HEADER_LEN_BYTES: usize = SECTOR_LEN_BYTES as usize;
/// The mark has the second sector.
pub(super) const MARK_OFFSET: u64 = SECTOR_LEN_BYTES;
pub(super) const MARK_LEN_BYTES: usize = SECTOR_LEN_BYTES as usize;
/// Where the batches begin.
pub(super) const FIRST_BATCH_OFFSET: u64 = 2 * SECTOR_LEN_BYTES;
/// Batches begin at multiples of this.
pub(super) const BATCH_ALIGNMENT_BYTES: u64 = 8;
pub(super) const BATCH_HEADER_LEN_BYTES: usize = 40;
/// Length and checksum, in front of each record.
const RECORD_PREFIX_LEN_BYTES: usize = 8;
/// Kind, index and term, which come before the content of an entry.
const ENTRY_PREFIX_LEN_BYTES: usize = 17;

/// Where the fields of a segment's header begin that say how the log goes on in the segment.
pub(super) const FIRST_BATCH_FIELD_OFFSET: u64 = 56;

/// The version of segments without configurations.
pub(super) const VERSION_WITHOUT: u32 = FIRST_FORMAT;
/// The version of segments that may have configurations, and the newest.
pub(super) const VERSION: u32 = 3;

const MAGIC: &[u8; 8] = b"SYNCWAL\n";
const FLAG_RECYCLED: u32 = 1;
const FLAG_SEALED: u32 = 1;
const KIND_NOOP: u8 = 1;
const KIND_COMMAND: u8 = 2;
const KIND_BASE: u8 = 3;
const KIND_CONFIGURATION: u8 = 4;

/// An entry's index and term. Index 0: no entry. Term 0 with another index: the term is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct EntryId {
    pub(super) index: Index,
    pub(super) term: Term,
}

impl EntryId {
    pub(super) fn of(entry: &Entry) -> EntryId {
        EntryId { index: entry.index, term: entry.term }
    }
}

impl From<SnapshotMeta> for EntryId {
    fn from(meta: SnapshotMeta) -> EntryId {
        EntryId { index: meta.last_included_index, term: meta.last_included_term }
    }
}

/// The first sector of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub(super) version: u32,
    pub(super) sequence: u64,
    pub(super) len_bytes: u64,
    pub(super) owner: LogOwner,
    /// The file was a segment before: the bytes after the log's end mean nothing.
    pub(super) is_recycled: bool,
    /// The number of its first batch, from 1.
    pub(super) first_batch: u64,
    /// The last entry of the log before that batch.
    pub(super) previous: EntryId,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadHeader {
    Damaged(&'static str),
    /// It is of this format, which is none of ours.
    Format(u32),
}

impl SegmentHeader {
    pub(super) fn encode(&self) -> [u8; SEGMENT_HEADER_LEN_BYTES] {
        let mut bytes = [0; SEGMENT_HEADER_LEN_BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        LittleEndian::write_u32(&mut bytes[12..], self.version);
        LittleEndian::write_u64(&mut bytes[16..], self.sequence);
        LittleEndian::write_u64(&mut bytes[24..], self.len_bytes);
        LittleEndian::write_u64(&mut bytes[32..], self.owner.directory);
        LittleEndian::write_u64(&mut bytes[40..], self.owner.member_id.0);
        LittleEndian::write_u32(&mut bytes[48..], if self.is_recycled { FLAG_RECYCLED } else { 0 });
        LittleEndian::write_u64(&mut bytes[56..], self.first_batch);
        LittleEndian::write_u64(&mut bytes[64..], self.previous.index.0);
        LittleEndian::write_u64(&mut bytes[72..], self.previous.term.0);
        let crc = crc32c(&bytes[12..]);
        LittleEndian::write_u32(&mut bytes[8..], crc);
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<SegmentHeader, BadHeader> {
        if bytes.len() < SEGMENT_HEADER_LEN_BYTES {
            return Err(BadHeader::Damaged("the file is too short for a segment header"));
        }
        let bytes = &bytes[..SEGMENT_HEADER_LEN_BYTES];
        if bytes[..8] != *MAGIC {
            return Err(BadHeader::Damaged("this is not the header of a log segment"));
        }
        if LittleEndian::read_u32(&bytes[8..]) != crc32c(&bytes[12..]) {
            return Err(BadHeader::Damaged("the segment header does not match its checksum"));
        }
        let version = LittleEndian::read_u32(&bytes[12..]);
        if !(VERSION_WITHOUT..=VERSION).contains(&version) {
            return Err(BadHeader::Format(version));
        }
        let first_batch = LittleEndian::read_u64(&bytes[56..]);
        if first_batch == 0 {
            return Err(BadHeader::Damaged("the segment header names no first batch"));
        }
        Ok(SegmentHeader {
            version,
            sequence: LittleEndian::read_u64(&bytes[16..]),
            len_bytes: LittleEndian::read_u64(&bytes[24..]),
            owner: LogOwner {
                directory: LittleEndian::read_u64(&bytes[32..]),
                member_id: MemberId(LittleEndian::read_u64(&bytes[40..])),
            },
            is_recycled: LittleEndian::read_u32(&bytes[48..]) & FLAG_RECYCLED != 0,
            first_batch,
            previous: EntryId {
                index: Index(LittleEndian::read_u64(&bytes[64..])),
                term: Term(LittleEndian::read_u64(&bytes[72..])),
            },
        })
    }

    /// The seed of checksums at `offset`: bytes of another segment, place or directory do not
    /// match.
    pub(super) fn seed(&self, offset: u64) -> u32 {
        let mut bytes = [0; 32];
        LittleEndian::write_u64(&mut bytes, self.owner.directory);
        LittleEndian::write_u64(&mut bytes[8..], self.owner.member_id.0);
        LittleEndian::write_u64(&mut bytes[16..], self.sequence);
        LittleEndian::write_u64(&mut bytes[24..], offset);
        crc32c(&bytes)
    }
}

/// The second sector of a segment: how far it is known to have been synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    /// The end of the last batch that is known to be synced.
    pub(super) end: u64,
    /// The number of that batch; 0 if there is none.
    pub(super) batch_sequence: u64,
    /// The log goes on in the next segment.
    pub(super) is_sealed: bool,
    /// How far an unfinished write may have left bytes after `end`; 0: none. They are zeroed before
    /// anything is written there.
    pub(super) dirty_end: u64,
}

impl Mark {
    /// The log goes on in this segment, and has been synced up to `end`.
    pub(super) fn at(end: u64, batch_sequence: u64) -> Mark {
        Mark { end, batch_sequence, is_sealed: false, dirty_end: 0 }
    }

    pub(super) fn encode(&self, segment: &SegmentHeader) -> [u8; MARK_LEN_BYTES] {
        let mut bytes = [0; MARK_LEN_BYTES];
        LittleEndian::write_u32(&mut bytes[4..], if self.is_sealed { FLAG_SEALED } else { 0 });
        LittleEndian::write_u64(&mut bytes[8..], self.end);
        LittleEndian::write_u64(&mut bytes[16..], self.batch_sequence);
        LittleEndian::write_u64(&mut bytes[24..], self.dirty_end);
        let crc = crc32c_append(segment.seed(MARK_OFFSET), &bytes[4..]);
        LittleEndian::write_u32(&mut bytes, crc);
        bytes
    }

    pub(super) fn decode(bytes: &[u8], segment: &SegmentHeader) -> Option<Mark> {
        let bytes = bytes.get(..MARK_LEN_BYTES)?;
        let crc = crc32c_append(segment.seed(MARK_OFFSET), &bytes[4..]);
        (LittleEndian::read_u32(bytes) == crc).then(|| Mark {
            end: LittleEndian::read_u64(&bytes[8..]),
            batch_sequence: LittleEndian::read_u64(&bytes[16..]),
            is_sealed: LittleEndian::read_u32(&bytes[4..]) & FLAG_SEALED != 0,
            dirty_end: LittleEndian::read_u64(&bytes[24..]),
        })
    }
}

/// The header in front of the records of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BatchHeader {
    pub(super) body_len: u32,
    pub(super) sequence: u64,
    pub(super) hard_state: HardState,
    pub(super) body_crc: u32,
    pub(super) records: u32,
}

impl BatchHeader {
    pub(super) fn encode(&self, seed: u32) -> [u8; BATCH_HEADER_LEN_BYTES] {
        let mut bytes = [0; BATCH_HEADER_LEN_BYTES];
        LittleEndian::write_u32(&mut bytes[4..], self.body_len);
        LittleEndian::write_u64(&mut bytes[8..], self.sequence);
        LittleEndian::write_u64(&mut bytes[16..], self.hard_state.current_term.0);
        LittleEndian::write_u64(
            &mut bytes[24..],
            self.hard_state.voted_for.map_or(0, |member| member.0),
        );
        LittleEndian::write_u32(&mut bytes[32..], self.body_crc);
        LittleEndian::write_u32(&mut bytes[36..], self.records);
        let crc = crc32c_append(seed, &bytes[4..]);
        LittleEndian::write_u32(&mut bytes, crc);
        bytes
    }

    pub(super) fn decode(bytes: &[u8], seed: u32) -> Option<BatchHeader> {
        let bytes = bytes.get(..BATCH_HEADER_LEN_BYTES)?;
        let crc = crc32c_append(seed, &bytes[4..]);
        if LittleEndian::read_u32(bytes) != crc {
            return None;
        }
        let vote = LittleEndian::read_u64(&bytes[24..]);
        Some(BatchHeader {
            body_len: LittleEndian::read_u32(&bytes[4..]),
            sequence: batch_sequence(bytes),
            hard_state: HardState {
                current_term: Term(LittleEndian::read_u64(&bytes[16..])),
                voted_for: (vote != 0).then_some(MemberId(vote)),
            },
            body_crc: LittleEndian::read_u32(&bytes[32..]),
            records: LittleEndian::read_u32(&bytes[36..]),
        })
    }

    /// The length of the whole batch, padding included.
    pub(super) fn len_bytes(&self) -> u64 {
        padded(BATCH_HEADER_LEN_BYTES as u64 + u64::from(self.body_len))
    }
}

/// The sequence number, if these bytes are a batch header: a quick check before the checksum.
pub(super) fn batch_sequence(header: &[u8]) -> u64 {
    LittleEndian::read_u64(&header[8..])
}

pub(super) fn padded(len_bytes: u64) -> u64 {
    len_bytes.next_multiple_of(BATCH_ALIGNMENT_BYTES)
}

/// The length of an entry's record.
pub(super) fn record_len_bytes(entry: &Entry) -> usize {
    RECORD_PREFIX_LEN_BYTES + ENTRY_PREFIX_LEN_BYTES + entry.len_bytes()
}

/// The content of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record {
    Entry(Entry),
    /// The log begins anew after this entry, which is in a snapshot.
    Base(EntryId),
}

/// Appends an entry's record to `out` and returns its checksum, which continues that of the record
/// before it.
pub(super) fn encode_entry(entry: &Entry, previous_crc: u32, out: &mut Vec<u8>) -> u32 {
    let id = EntryId::of(entry);
    match &entry.payload {
        Payload::Noop => encode_record(KIND_NOOP, id, &[], previous_crc, out),
        Payload::Command(command) => encode_record(KIND_COMMAND, id, command, previous_crc, out),
        Payload::Configuration(configuration) => {
            encode_record(KIND_CONFIGURATION, id, &configuration.encode(), previous_crc, out)
        }
    }
}

/// As [`encode_entry`], for the record that begins the log anew.
pub(super) fn encode_base(base: EntryId, previous_crc: u32, out: &mut Vec<u8>) -> u32 {
    encode_record(KIND_BASE, base, &[], previous_crc, out)
}

fn encode_record(
    kind: u8,
    id: EntryId,
    content: &[u8],
    previous_crc: u32,
    out: &mut Vec<u8>,
) -> u32 {
    let mut prefix = [0; RECORD_PREFIX_LEN_BYTES + ENTRY_PREFIX_LEN_BYTES];
    LittleEndian::write_u32(&mut prefix, (ENTRY_PREFIX_LEN_BYTES + content.len()) as u32);
    prefix[8] = kind;
    LittleEndian::write_u64(&mut prefix[9..], id.index.0);
    LittleEndian::write_u64(&mut prefix[17..], id.term.0);
    let crc = record_crc(previous_crc, &prefix[..4], &prefix[8..], content);
    LittleEndian::write_u32(&mut prefix[4..], crc);
    out.extend_from_slice(&prefix);
    out.extend_from_slice(content);
    crc
}

fn record_crc(previous: u32, len: &[u8], prefix: &[u8], content: &[u8]) -> u32 {
    crc32c_append(crc32c_append(crc32c_append(previous, len), prefix), content)
}

/// A damaged or unknown record: where in the body it is, and what is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BadRecord {
    pub(super) offset: usize,
    pub(super) reason: &'static str,
}

/// Checks every checksum of a body, which includes the padding.
pub(super) fn check_body(header: &BatchHeader, body: &[u8]) -> Result<(), BadRecord> {
    let (body, padding) = body.split_at(header.body_len as usize);
    let (mut at, mut crc) = (0, 0);
    for _ in 0..header.records {
        let bad = |reason| BadRecord { offset: at, reason };
        let rest = &body[at..];
        if rest.len() < RECORD_PREFIX_LEN_BYTES {
            return Err(bad("a record is cut short by the end of its batch"));
        }
        let len = LittleEndian::read_u32(rest) as usize;
        let content = &rest[RECORD_PREFIX_LEN_BYTES..];
        if len > content.len() {
            return Err(bad("a record is longer than its batch"));
        }
        crc = record_crc(crc, &rest[..4], &content[..len], &[]);
        if crc != LittleEndian::read_u32(&rest[4..]) {
            return Err(bad("a record does not match its checksum"));
        }
        at += RECORD_PREFIX_LEN_BYTES + len;
    }
    let bad = |offset, reason| Err(BadRecord { offset, reason });
    if at != body.len() || crc != header.body_crc {
        return bad(0, "the records of a batch are not those of its header");
    }
    match padding.iter().position(|byte| *byte != 0) {
        Some(position) => bad(body.len() + position, "the padding of a batch is not zero"),
        None => Ok(()),
    }
}

/// The records of a body that [`check_body`] has accepted, each with its offset in the body.
/// Commands share the body's memory.
pub(super) fn decode_records(
    body: &Bytes,
    records: u32,
) -> impl Iterator<Item = Result<(usize, Record), BadRecord>> {
    let mut at = 0;
    (0..records).map(move |_| {
        let offset = at;
        let start = at + RECORD_PREFIX_LEN_BYTES;
        at = start + LittleEndian::read_u32(&body[offset..]) as usize;
        decode_record(&body.slice(start..at))
            .map(|record| (offset, record))
            .map_err(|reason| BadRecord { offset, reason })
    })
}

fn decode_record(record: &Bytes) -> Result<Record, &'static str> {
    if record.len() < ENTRY_PREFIX_LEN_BYTES {
        return Err("a record is too short for an entry");
    }
    let index = Index(LittleEndian::read_u64(&record[1..]));
    let term = Term(LittleEndian::read_u64(&record[9..]));
    let entry = |payload| Ok(Record::Entry(Entry { index, term, payload }));
    let content = record.slice(ENTRY_PREFIX_LEN_BYTES..);
    match record[0] {
        KIND_COMMAND => entry(Payload::Command(content)),
        KIND_CONFIGURATION => entry(Payload::Configuration(decode_configuration(&content)?)),
        KIND_NOOP | KIND_BASE if !content.is_empty() => Err("a record without a command has one"),
        KIND_NOOP => entry(Payload::Noop),
        KIND_BASE => Ok(Record::Base(EntryId { index, term })),
        _ => Err("a record is of a kind that this version does not know"),
    }
}

fn decode_configuration(bytes: &[u8]) -> Result<Arc<Configuration>, &'static str> {
    Configuration::decode(bytes).map(Arc::new).map_err(|bad| match bad {
        BadConfiguration::Damaged => "a record is not a configuration of members",
        BadConfiguration::Layout(_) => {
            "a configuration of members is of a layout that this version does not know"
        }
    })
}
