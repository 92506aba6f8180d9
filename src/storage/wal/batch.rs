//! The batch that is being filled. Records are encoded as they come, so that one write can take
//! them.

use crate::raft::{Entry, HardState, Payload};

use super::format::{
    BATCH_HEADER_LEN_BYTES, BatchHeader, EntryId, VERSION, VERSION_WITHOUT, encode_base,
    encode_entry, padded, record_len_bytes,
};

/// The longest body of a batch: far above what is useful, far below what its length field can hold.
pub(super) const BODY_LEN_MAX_BYTES: u64 = 1 << 30;

/// Memory that is kept for the next batch. A longer batch frees the rest.
const CAPACITY_KEPT_BYTES: usize = 1 << 20;

/// The records that wait for the next sync, with room for the batch header in front.
#[derive(Debug)]
pub(super) struct PendingBatch {
    bytes: Vec<u8>,
    crc: u32,
    records: u32,
    has_configuration: bool,
}

impl PendingBatch {
    pub(super) fn new() -> PendingBatch {
        PendingBatch {
            bytes: vec![0; BATCH_HEADER_LEN_BYTES],
            crc: 0,
            records: 0,
            has_configuration: false,
        }
    }

    pub(super) fn has_records(&self) -> bool {
        self.records > 0
    }

    /// The length of the body with these entries added.
    pub(super) fn body_len_with(&self, entries: &[Entry]) -> u64 {
        let added: u64 = entries.iter().map(|entry| record_len_bytes(entry) as u64).sum();
        (self.bytes.len() - BATCH_HEADER_LEN_BYTES) as u64 + added
    }

    pub(super) fn push(&mut self, entry: &Entry) {
        self.crc = encode_entry(entry, self.crc, &mut self.bytes);
        self.records += 1;
        self.has_configuration |= matches!(entry.payload, Payload::Configuration(_));
    }

    /// The version that a segment with this batch must have at least.
    pub(super) fn version(&self) -> u32 {
        if self.has_configuration { VERSION } else { VERSION_WITHOUT }
    }

    /// The log begins anew after this entry: the earlier records of this batch are dropped.
    pub(super) fn begin_anew(&mut self, base: EntryId) {
        self.clear();
        self.crc = encode_base(base, self.crc, &mut self.bytes);
        self.records += 1;
    }

    /// The batch's length on disk.
    pub(super) fn len_bytes(&self) -> u64 {
        padded(self.bytes.len() as u64)
    }

    /// Hands out the finished batch. May be called again, after more records or for another place.
    pub(super) fn with_bytes<R>(
        &mut self,
        sequence: u64,
        hard_state: HardState,
        seed: u32,
        f: impl FnOnce(&[u8]) -> R,
    ) -> R {
        let len = self.bytes.len();
        // It fits: BODY_LEN_MAX_BYTES was checked when the records came.
        let body_len = (len - BATCH_HEADER_LEN_BYTES) as u32;
        let header = BatchHeader {
            body_len,
            sequence,
            hard_state,
            body_crc: self.crc,
            records: self.records,
        };
        self.bytes[..BATCH_HEADER_LEN_BYTES].copy_from_slice(&header.encode(seed));
        self.bytes.resize(padded(len as u64) as usize, 0);
        let result = f(&self.bytes);
        self.bytes.truncate(len);
        result
    }

    pub(super) fn clear(&mut self) {
        self.bytes.truncate(BATCH_HEADER_LEN_BYTES);
        self.bytes.shrink_to(CAPACITY_KEPT_BYTES);
        (self.crc, self.records, self.has_configuration) = (0, 0, false);
    }

    #[cfg(test)]
    pub(super) fn capacity_bytes(&self) -> usize {
        self.bytes.capacity()
    }
}
