//! One file of the log: its name, its first two sectors, and how it is made.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::storage::StorageError;
use crate::storage::disk::{Disk, DiskFile};
use crate::storage::identity::{LogOwner, other_format};
use crate::storage::open_dir::OpenDir;

use super::format::{
    BadHeader, FIRST_BATCH_OFFSET, MARK_LEN_BYTES, MARK_OFFSET, Mark, SEGMENT_HEADER_LEN_BYTES,
    SegmentHeader, VERSION,
};

/// How many zeros are written at a time.
pub(super) const ZERO_STEP_BYTES: usize = 128 << 10;
static ZEROS: [u8; ZERO_STEP_BYTES] = [0; ZERO_STEP_BYTES];

/// An open segment.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) path: PathBuf,
    pub(super) header: SegmentHeader,
    /// The length of the file. The header says the same, unless somebody has cut or lengthened it.
    pub(super) len_bytes: u64,
    pub(super) file: Arc<dyn DiskFile>,
}

/// A file that may become a segment. It does not have the name of one.
#[derive(Debug)]
pub(super) struct Blank {
    pub(super) path: PathBuf,
    pub(super) file: Arc<dyn DiskFile>,
    /// It was a segment before.
    pub(super) is_recycled: bool,
}

pub(super) fn file_name(sequence: u64) -> String {
    format!("{sequence:010}.wal")
}

/// The sequence number in a segment's name; `None` if it is not one.
pub(in crate::storage) fn parse_file_name(name: &str) -> Option<u64> {
    let sequence = name.strip_suffix(".wal")?.parse().ok()?;
    (file_name(sequence) == name).then_some(sequence)
}

impl Blank {
    /// A new file, empty.
    pub(super) fn create(disk: &dyn Disk, path: PathBuf) -> Result<Blank, StorageError> {
        let file = disk.create(&path).map_err(StorageError::io("create", &path))?;
        Ok(Blank { path, file, is_recycled: false })
    }

    /// Renames the file of a segment that is no longer needed, durably.
    pub(super) fn recycle(
        disk: &dyn Disk,
        dir: &OpenDir,
        segment: &Path,
        path: PathBuf,
    ) -> Result<Blank, StorageError> {
        let file = disk.open(segment).map_err(StorageError::io("open", segment))?;
        disk.rename(segment, &path).map_err(StorageError::io("rename", segment))?;
        dir.sync()?;
        Ok(Blank { path, file, is_recycled: true })
    }

    /// Makes a segment of it. It gets its name when its header and length are durable, so a segment
    /// that is found has both. The name is durable when this returns.
    pub(super) fn into_segment(
        self,
        disk: &dyn Disk,
        dir: &OpenDir,
        mut header: SegmentHeader,
    ) -> Result<Segment, StorageError> {
        let Blank { path: blank, file, is_recycled } = self;
        header.is_recycled = is_recycled;
        let path = dir.path().join(file_name(header.sequence));
        let begun = begin(&*file, &header)
            .and_then(|()| disk.rename(&blank, &path))
            .map_err(StorageError::io("create", &path));
        if let Err(err) = begun {
            // To free its space. The next start would remove it, too.
            let _ = disk.remove(&blank);
            return Err(err);
        }
        dir.sync()?;
        Ok(Segment { path, header, len_bytes: header.len_bytes, file })
    }
}

fn begin(file: &dyn DiskFile, header: &SegmentHeader) -> std::io::Result<()> {
    if file.len_bytes()? != header.len_bytes {
        file.set_len(header.len_bytes)?;
    }
    file.write_all_at(&header.encode(), 0)?;
    if header.is_recycled {
        // The old mark would count as one that cannot be read.
        file.write_all_at(&[0; MARK_LEN_BYTES], MARK_OFFSET)?;
    }
    file.sync_data()
}

/// Writes zeros over `from..to`: to allocate blocks that later writes overwrite, or to erase bytes.
pub(super) fn write_zeros(file: &dyn DiskFile, from: u64, to: u64) -> std::io::Result<()> {
    let mut at = from;
    while at < to {
        let step = (to - at).min(ZERO_STEP_BYTES as u64);
        file.write_all_at(&ZEROS[..step as usize], at)?;
        at += step;
    }
    Ok(())
}

impl Segment {
    /// Opens a segment and checks that its header agrees with its name, and that it is ours.
    pub(super) fn open(
        disk: &dyn Disk,
        dir: &Path,
        sequence: u64,
        owner: LogOwner,
    ) -> Result<Segment, StorageError> {
        let path = dir.join(file_name(sequence));
        let file = disk.open(&path).map_err(StorageError::io("open", &path))?;
        let header = read_header(&*file, &path)?;
        let corrupt =
            |offset, reason| Err(StorageError::Corrupt { file: path.clone(), offset, reason });
        if header.sequence != sequence {
            return corrupt(0, format!("it is segment {}, renamed", header.sequence));
        }
        if header.owner != owner {
            let LogOwner { directory, member_id } = header.owner;
            let whose = format!("data directory {directory:016x} of member {member_id}");
            return corrupt(0, format!("it belongs to {whose}, not to this one"));
        }
        let len_bytes = file.len_bytes().map_err(StorageError::io("read", &path))?;
        Ok(Segment { path, header, len_bytes, file })
    }

    /// The mark; `Ok(None)` if none was written. A mark that cannot be read is ignored: the power
    /// failed while it was written, or it is damaged, and the log may be whole all the same.
    pub(super) fn read_mark(&self) -> Result<Option<Mark>, StorageError> {
        let mut bytes = [0; MARK_LEN_BYTES];
        self.file
            .read_full_at(&mut bytes, MARK_OFFSET)
            .map_err(StorageError::io("read", &self.path))?;
        let mark = Mark::decode(&bytes, &self.header);
        if mark.is_none() && bytes != [0; MARK_LEN_BYTES] {
            log::warn!(
                "{}: the mark at offset {MARK_OFFSET} can't be read, going on without",
                self.path.display()
            );
        }
        Ok(mark)
    }

    /// Writes the mark durably. The batches that it names must have been synced before: if they
    /// were written together, the mark could reach the disk first.
    pub(super) fn write_mark(&self, mark: Mark) -> Result<(), StorageError> {
        let len_bytes = self.header.len_bytes;
        assert!(mark.end >= FIRST_BATCH_OFFSET && mark.end <= len_bytes, "mark {mark:?}");
        assert!(mark.dirty_end <= len_bytes, "mark {mark:?}");
        let bytes = mark.encode(&self.header);
        self.file
            .write_all_at(&bytes, MARK_OFFSET)
            .map_err(StorageError::io("write", &self.path))?;
        self.sync()
    }

    /// Zeroes, durably, what an unfinished write has left from `end` on, up to `dirty_end`. Batch
    /// `batch_sequence` ends at `end`, and is synced. The mark says so first: if the sync of the
    /// zeros fails, reads show zeros that may not be on the disk, and only the mark still tells.
    pub(super) fn erase(
        &self,
        end: u64,
        batch_sequence: u64,
        dirty_end: u64,
    ) -> Result<(), StorageError> {
        self.write_mark(Mark { dirty_end, ..Mark::at(end, batch_sequence) })?;
        write_zeros(&*self.file, end, dirty_end).map_err(StorageError::io("write", &self.path))?;
        self.sync()
    }

    pub(super) fn sync(&self) -> Result<(), StorageError> {
        self.file.sync_data().map_err(StorageError::sync(&self.path))
    }

    pub(super) fn corrupt(&self, offset: u64, reason: impl Into<String>) -> StorageError {
        StorageError::Corrupt { file: self.path.clone(), offset, reason: reason.into() }
    }
}

fn read_header(file: &dyn DiskFile, path: &Path) -> Result<SegmentHeader, StorageError> {
    let mut bytes = [0; SEGMENT_HEADER_LEN_BYTES];
    let len = file.read_full_at(&mut bytes, 0).map_err(StorageError::io("read", path))?;
    SegmentHeader::decode(&bytes[..len]).map_err(|bad| match bad {
        BadHeader::Damaged(reason) => StorageError::Corrupt {
            file: path.to_path_buf(),
            offset: 0,
            reason: reason.to_string(),
        },
        BadHeader::Format(found) => other_format(path, found, VERSION),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_sequences_go_together() {
        for (name, sequence) in [
            ("0000000001.wal", Some(1)),
            ("12345678901.wal", Some(12345678901)),
            ("1.wal", None),
            ("+000000001.wal", None),
            ("0000000001.wal.tmp", None),
            ("0000000001.wal.1024.torn", None),
        ] {
            assert_eq!(parse_file_name(name), sequence, "{name}");
        }
    }
}
