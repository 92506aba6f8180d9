//! From the files to the log: what is whole, what is torn, what is damaged. The rules are in the
//! [module above](super).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use crate::raft::SnapshotMeta;
use crate::storage::StorageError;
use crate::storage::disk::Disk;
use crate::storage::identity::LogOwner;
use crate::storage::progress::Progress;

use super::TornTail;
use super::format::{
    BATCH_ALIGNMENT_BYTES, BATCH_HEADER_LEN_BYTES, BatchHeader, FIRST_BATCH_OFFSET, MARK_OFFSET,
    Mark, batch_sequence, check_body,
};
use super::replay::{Continuation, Replay, missing};
use super::segment::{Segment, parse_file_name};

/// How many bytes are read at a time.
const WINDOW_LEN_BYTES: usize = 1 << 20;
/// How many bytes of a torn tail are kept aside, and how many files of them.
const TORN_LEN_MAX_BYTES: u64 = 16 << 20;
const TORN_FILES_MAX: usize = 8;

/// The log as found, and where to go on writing.
pub(super) struct RecoveryEnd {
    pub(super) replay: Replay,
    pub(super) continuation: Continuation,
    pub(super) torn: Option<TornTail>,
    pub(super) segment: Segment,
    pub(super) end: u64,
    /// How far unfinished writes may have left bytes after the end, which the disk is too full to
    /// zero. The mark says so, too, unless the disk was too full for that.
    pub(super) dirty_end: u64,
}

/// Reads the whole log, and cuts what a crash left unfinished. `None` if there is no segment.
///
/// Everything that it returns is durable, even if it was only in the system's memory when the last
/// process died.
pub(super) fn recover(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    owner: LogOwner,
    base: Option<SnapshotMeta>,
) -> Result<Option<RecoveryEnd>, StorageError> {
    remove_temporary(&**disk, dir)?;
    let sequences = list_segments(&**disk, dir)?;
    let mut replay = Replay::default();
    let open = |sequence| Segment::open(&**disk, dir, sequence, owner);
    let mut progress = Progress::new("reading the log", sequences.len() as u64, "segments");
    let mut sealed = None;
    for (position, sequence) in sequences.iter().enumerate() {
        progress.at(position as u64);
        let segment = open(*sequence)?;
        let later = &sequences[position + 1..];
        replay.begin(&segment)?;
        let scan = scan(&segment, &mut replay)?;
        match judge(&segment, &scan, replay.sequence, later, &open)? {
            Verdict::GoOn => {
                restore_len(&**disk, &segment)?;
                segment.sync()?;
                sealed = Some((segment, scan.end, replay.sequence));
            }
            Verdict::Ends { torn: torn_end } => {
                replay.check_first_batch(dir)?;
                let continuation = replay.connect(base)?;
                restore_len(&**disk, &segment)?;
                write_again(&segment, &scan)?;
                // The sync of the last seal may have failed, as that of the last batch. Once the
                // next segment has a batch, it matters no more.
                if let Some((before, end, batch_sequence)) = sealed
                    && scan.last_batch.is_none()
                {
                    before.write_mark(Mark { is_sealed: true, ..Mark::at(end, batch_sequence) })?;
                }
                remove_blank_segments(&**disk, dir, later, &open)?;
                let end = scan.end;
                let torn = torn_end.map(|to| set_aside(&**disk, &segment, end, to));
                let dirty_end = clean(&segment, scan.mark, end, replay.sequence, torn_end)?;
                let torn = torn.filter(|_| dirty_end <= end);
                torn.iter().for_each(|torn| log::warn!("{torn}"));
                return Ok(Some(RecoveryEnd {
                    replay,
                    continuation,
                    torn,
                    segment,
                    end,
                    dirty_end,
                }));
            }
        }
    }
    Ok(None)
}

fn remove_temporary(disk: &dyn Disk, dir: &Path) -> Result<(), StorageError> {
    for name in disk.list(dir).map_err(StorageError::io("list", dir))? {
        if name.ends_with(".tmp") {
            let path = dir.join(name);
            disk.remove(&path).map_err(StorageError::io("remove", &path))?;
        }
    }
    // This also makes names durable that an earlier process made before it died.
    disk.sync_dir(dir).map_err(StorageError::sync(dir))
}

/// The sequence numbers of all segments. After the first, none is missing.
fn list_segments(disk: &dyn Disk, dir: &Path) -> Result<Vec<u64>, StorageError> {
    let names = disk.list(dir).map_err(StorageError::io("list", dir))?;
    let mut sequences: Vec<u64> = names.iter().filter_map(|name| parse_file_name(name)).collect();
    sequences.sort_unstable();
    match sequences.iter().zip(sequences.iter().skip(1)).find(|(one, next)| **next != **one + 1) {
        Some((one, _)) => Err(missing(dir, one + 1)),
        None => Ok(sequences),
    }
}

/// A segment, read as far as its batches are whole.
struct Scan {
    mark: Option<Mark>,
    end: u64,
    /// Where the last whole batch begins.
    last_batch: Option<u64>,
    /// Why there is no batch at `end`; `None` at a seal.
    stop: Option<Stop>,
}

/// Where reading stopped, and why.
struct Stop {
    offset: u64,
    reason: &'static str,
    /// The end of a batch that is not whole, if its header is.
    batch_end: Option<u64>,
}

fn scan(segment: &Segment, replay: &mut Replay) -> Result<Scan, StorageError> {
    let mark = segment.read_mark()?;
    let seal = mark.filter(|mark| mark.is_sealed).map(|mark| mark.end);
    let mut window = Window::new(segment);
    let (mut end, mut last_batch) = (FIRST_BATCH_OFFSET, None);
    while seal != Some(end) {
        match read_batch(&mut window, end, replay.sequence + 1)? {
            Ok((header, body)) => {
                replay.apply(segment, end, &header, &body)?;
                last_batch = Some(end);
                end += header.len_bytes();
            }
            Err(stop) => return Ok(Scan { mark, end, last_batch, stop: Some(stop) }),
        }
    }
    Ok(Scan { mark, end, last_batch, stop: None })
}

/// The batch at `offset`, or why there is none.
fn read_batch(
    window: &mut Window<'_>,
    offset: u64,
    sequence: u64,
) -> Result<Result<(BatchHeader, Bytes), Stop>, StorageError> {
    let segment = window.segment;
    let stop = |reason| Ok(Err(Stop { offset, reason, batch_end: None }));
    if offset + BATCH_HEADER_LEN_BYTES as u64 > segment.header.len_bytes {
        return stop("the segment is full, but not sealed");
    }
    let bytes = window.at(offset, BATCH_HEADER_LEN_BYTES)?;
    let Some(header) = BatchHeader::decode(bytes, segment.header.seed(offset)) else {
        let blank = bytes.iter().all(|byte| *byte == 0);
        return stop(if blank {
            "there is no batch"
        } else {
            "the batch header does not match its checksum"
        });
    };
    // The checksum shows that we wrote this header. From here on, an error is not a torn write.
    if header.sequence != sequence {
        return Err(segment
            .corrupt(offset, format!("this is batch {}, expected {sequence}", header.sequence)));
    }
    let end = offset + header.len_bytes();
    if end > segment.header.len_bytes {
        return Err(segment.corrupt(offset, "the batch is longer than its segment"));
    }
    let body_offset = offset + BATCH_HEADER_LEN_BYTES as u64;
    let body = window.at(body_offset, (end - body_offset) as usize)?;
    match check_body(&header, body) {
        Ok(()) => Ok(Ok((header, Bytes::copy_from_slice(&body[..header.body_len as usize])))),
        Err(bad) => Ok(Err(Stop {
            offset: body_offset + bad.offset as u64,
            reason: bad.reason,
            batch_end: Some(end),
        })),
    }
}

enum Verdict {
    /// The log goes on in the next segment.
    GoOn,
    /// The log ends in this segment. `torn` is the end of the bytes of an unfinished write, if
    /// there are any.
    Ends { torn: Option<u64> },
}

/// Decides what follows the last whole batch of a segment: nothing, a torn write, or damage.
fn judge(
    segment: &Segment,
    scan: &Scan,
    sequence: u64,
    later: &[u64],
    open: &dyn Fn(u64) -> Result<Segment, StorageError>,
) -> Result<Verdict, StorageError> {
    // A header right at the end proves nothing: it may be whole, and its body torn.
    let rest = survey(segment, scan.end, scan.end + BATCH_ALIGNMENT_BYTES, sequence)?;
    judge_len(segment, scan, &rest)?;
    let Some(stop) = &scan.stop else { return judge_sealed(segment, later) };
    let corrupt =
        |why: String| Err(segment.corrupt(stop.offset, format!("{}, but {why}", stop.reason)));
    if let Some(mark) = scan.mark.filter(|mark| mark.end > scan.end) {
        return corrupt(format!("the log was synced up to offset {}", mark.end));
    }
    if let Some((offset, batch)) = rest.batch {
        return corrupt(format!("batch {batch} at offset {offset} was written after it"));
    }
    for next in later {
        let next = open(*next)?;
        let batch = survey(&next, FIRST_BATCH_OFFSET, FIRST_BATCH_OFFSET, sequence)?.batch;
        let begins_next = match batch {
            Some(batch) => batch == (FIRST_BATCH_OFFSET, sequence + 1),
            // The log had gone on there, and the mark was written before its first batch.
            None => next.read_mark()?.is_some_and(|mark| {
                (mark.end, mark.batch_sequence) == (FIRST_BATCH_OFFSET, sequence)
            }),
        };
        // The seal cannot be read, and nothing is missing.
        if begins_next && rest.is_blank(segment) {
            return Ok(Verdict::GoOn);
        }
        let Some((_, batch)) = batch else { continue };
        return corrupt(format!("batch {batch} in {} was written after it", next.path.display()));
    }
    judge_tail(segment, scan.end, stop, &rest)
}

/// Somebody has cut a file that is shorter than its header says. It has lost nothing if the log's
/// end is in the rest: the end that the seal names, or the blank place of the next batch.
fn judge_len(segment: &Segment, scan: &Scan, rest: &Survey) -> Result<(), StorageError> {
    let is_end_there = match &scan.stop {
        None => segment.len_bytes >= scan.end,
        Some(_) => {
            segment.len_bytes >= scan.end + BATCH_HEADER_LEN_BYTES as u64 && rest.is_blank(segment)
        }
    };
    match segment.len_bytes >= segment.header.len_bytes || is_end_there {
        true => Ok(()),
        false => Err(segment.corrupt(
            segment.len_bytes,
            format!("the file ends here, and its header says at {}", segment.header.len_bytes),
        )),
    }
}

/// Bytes after the end that the seal names were never acknowledged: see the
/// [module above](super).
fn judge_sealed(segment: &Segment, later: &[u64]) -> Result<Verdict, StorageError> {
    match later.is_empty() {
        // A segment is sealed only when there is a next one, which may hold acknowledged batches.
        true => Err(missing(
            segment.path.parent().unwrap_or(Path::new("")),
            segment.header.sequence + 1,
        )),
        false => Ok(Verdict::GoOn),
    }
}

fn judge_tail(
    segment: &Segment,
    end: u64,
    stop: &Stop,
    rest: &Survey,
) -> Result<Verdict, StorageError> {
    if segment.header.is_recycled {
        // Without a valid header, the bytes may come from the file's use as an earlier segment.
        return Ok(Verdict::Ends {
            torn: stop.batch_end.map(|_| end + BATCH_HEADER_LEN_BYTES as u64),
        });
    }
    let torn = rest.last_byte.map(|last| last + 1);
    match (stop.batch_end, torn) {
        (Some(batch_end), Some(torn)) if torn > batch_end => Err(segment.corrupt(
            torn - 1,
            format!("bytes after the end of the last batch at offset {batch_end}"),
        )),
        _ => Ok(Verdict::Ends { torn }),
    }
}

/// What follows the last whole batch of a segment.
#[derive(Default)]
struct Survey {
    /// The first and the last byte that is not zero.
    first_byte: Option<u64>,
    last_byte: Option<u64>,
    /// Offset and sequence number of the first batch header that is newer than the last whole
    /// batch.
    batch: Option<(u64, u64)>,
}

impl Survey {
    /// Whether nothing was written here while the file was this segment.
    fn is_blank(&self, segment: &Segment) -> bool {
        self.first_byte.is_none() || segment.header.is_recycled
    }
}

/// Looks at all bytes from `from` on, and from `batches_from` on for batches newer than `sequence`.
fn survey(
    segment: &Segment,
    from: u64,
    batches_from: u64,
    sequence: u64,
) -> Result<Survey, StorageError> {
    let mut survey = Survey::default();
    let mut window = Window::new(segment);
    let mut at = from;
    while at < segment.header.len_bytes {
        let len = (segment.header.len_bytes - at).min(WINDOW_LEN_BYTES as u64) as usize;
        let chunk = window.at(at, len)?;
        if let Some(first) = chunk.iter().position(|byte| *byte != 0) {
            // There is a first one, so there is a last one.
            let last = chunk.iter().rposition(|byte| *byte != 0).unwrap_or(first);
            survey.first_byte.get_or_insert(at + first as u64);
            survey.last_byte = Some(at + last as u64);
            if survey.batch.is_none() {
                survey.batch = find_batch(chunk, segment, at, batches_from, sequence);
            }
        }
        if at + len as u64 == segment.header.len_bytes {
            break;
        }
        // Chunks overlap, to find a header across their border. Both lengths are multiples of the
        // alignment.
        at += (len - BATCH_HEADER_LEN_BYTES) as u64;
    }
    Ok(survey)
}

fn find_batch(
    chunk: &[u8],
    segment: &Segment,
    chunk_offset: u64,
    batches_from: u64,
    sequence: u64,
) -> Option<(u64, u64)> {
    let newest = sequence.saturating_add(u64::from(u32::MAX));
    let first = batches_from.saturating_sub(chunk_offset).min(chunk.len() as u64) as usize;
    let starts = (first..chunk.len()).step_by(BATCH_ALIGNMENT_BYTES as usize);
    let headers =
        starts.filter_map(|start| Some((start, chunk.get(start..start + BATCH_HEADER_LEN_BYTES)?)));
    headers.filter(|(_, bytes)| (sequence + 1..=newest).contains(&batch_sequence(bytes))).find_map(
        |(start, bytes)| {
            let offset = chunk_offset + start as u64;
            BatchHeader::decode(bytes, segment.header.seed(offset))
                .map(|header| (offset, header.sequence))
        },
    )
}

/// Removes the segments after the end of the log. Nothing was written to them: any byte in them is
/// damage.
fn remove_blank_segments(
    disk: &dyn Disk,
    dir: &Path,
    sequences: &[u64],
    open: &dyn Fn(u64) -> Result<Segment, StorageError>,
) -> Result<(), StorageError> {
    for sequence in sequences {
        let segment = open(*sequence)?;
        let survey = survey(&segment, MARK_OFFSET, u64::MAX, 0)?;
        if let Some(offset) = survey.first_byte.filter(|_| !survey.is_blank(&segment)) {
            return Err(segment.corrupt(offset, "bytes in a segment that the log has not reached"));
        }
    }
    // The last one first, so that a crash leaves no gap.
    for sequence in sequences.iter().rev() {
        let path = dir.join(super::segment::file_name(*sequence));
        disk.remove(&path).map_err(StorageError::io("remove", &path))?;
        disk.sync_dir(dir).map_err(StorageError::sync(dir))?;
    }
    Ok(())
}

/// Copies the bytes of a torn write aside, if there is room. They are zeroed next.
fn set_aside(disk: &dyn Disk, segment: &Segment, from: u64, to: u64) -> TornTail {
    let kept_in = keep_aside(disk, segment, from, to)
        .inspect_err(|err| {
            log::warn!("{}: the torn tail could not be kept: {err}", segment.path.display())
        })
        .ok();
    TornTail { file: segment.path.clone(), offset: from, len_bytes: to - from, kept_in }
}

/// Restores the length of a file that somebody has cut or lengthened. Added bytes are not part of
/// the log. They are kept aside.
fn restore_len(disk: &dyn Disk, segment: &Segment) -> Result<(), StorageError> {
    let (is, should_be) = (segment.len_bytes, segment.header.len_bytes);
    if is == should_be {
        return Ok(());
    }
    log::warn!("{} is {is} bytes long, not {should_be}: repaired", segment.path.display());
    if is > should_be {
        keep_aside(disk, segment, should_be, is)
            .map_err(StorageError::io("write", &segment.path))?;
    }
    segment.file.set_len(should_be).map_err(StorageError::io("write", &segment.path))?;
    segment.sync()
}

fn keep_aside(disk: &dyn Disk, segment: &Segment, from: u64, to: u64) -> std::io::Result<PathBuf> {
    let path = segment.path.with_added_extension(format!("{from}.torn"));
    let dir = path.parent().unwrap_or(Path::new(""));
    let mut kept: Vec<String> =
        disk.list(dir)?.into_iter().filter(|name| name.ends_with(".torn")).collect();
    kept.sort_unstable();
    let excess = (kept.len() + 1).saturating_sub(TORN_FILES_MAX);
    for oldest in &kept[..excess] {
        disk.remove(&dir.join(oldest))?;
    }
    let mut bytes = vec![0; (to - from).min(TORN_LEN_MAX_BYTES) as usize];
    segment.file.read_full_at(&mut bytes, from)?;
    disk.write_atomically(&*disk.open_dir(dir)?, &path, &bytes)?;
    Ok(path)
}

/// Writes the last batch once more, and syncs. If a failed sync stopped the last process, the batch
/// may be in the system's memory, marked as clean, and not on the disk. A sync alone would not
/// write it. Earlier batches were synced.
fn write_again(segment: &Segment, scan: &Scan) -> Result<(), StorageError> {
    let is_synced = scan.mark.is_some_and(|mark| mark.end == scan.end);
    if let Some(from) = scan.last_batch.filter(|_| !is_synced) {
        let mut window = Window::new(segment);
        let bytes = window.at(from, (scan.end - from) as usize)?;
        segment.file.write_all_at(bytes, from).map_err(StorageError::io("write", &segment.path))?;
    }
    segment.sync()
}

/// Zeroes what unfinished writes left after the end: the bytes up to `torn_end`, and those that
/// the mark names. Then records that the log has been synced up to here. From now on, damage before
/// this point can be told from a torn write. Returns how far the bytes reach, if the disk is full:
/// the log zeroes them before it writes.
fn clean(
    segment: &Segment,
    found: Option<Mark>,
    end: u64,
    batch_sequence: u64,
    torn_end: Option<u64>,
) -> Result<u64, StorageError> {
    let named = found.map_or(0, |mark| mark.dirty_end.min(segment.header.len_bytes));
    let dirty_end = named.max(torn_end.unwrap_or(0));
    if dirty_end > end {
        match segment.erase(end, batch_sequence, dirty_end) {
            Err(error) if error.is_full() => return Ok(dirty_end),
            erased => erased?,
        }
    }
    let mark = Mark::at(end, batch_sequence);
    let is_known = match found {
        Some(found) => found == mark,
        None => end == FIRST_BATCH_OFFSET,
    };
    if dirty_end > end || !is_known {
        segment.write_mark(mark)?;
    }
    Ok(end)
}

/// A segment read through a buffer.
struct Window<'a> {
    segment: &'a Segment,
    offset: u64,
    bytes: Vec<u8>,
}

impl<'a> Window<'a> {
    fn new(segment: &'a Segment) -> Window<'a> {
        Window { segment, offset: 0, bytes: Vec::new() }
    }

    /// The bytes at this place. The caller has checked that the segment is long enough.
    fn at(&mut self, offset: u64, len: usize) -> Result<&[u8], StorageError> {
        let window = self.offset..self.offset + self.bytes.len() as u64;
        if offset < window.start || offset + len as u64 > window.end {
            self.fill(offset, len)?;
        }
        let start = (offset - self.offset) as usize;
        Ok(&self.bytes[start..start + len])
    }

    fn fill(&mut self, offset: u64, len: usize) -> Result<(), StorageError> {
        let rest = self.segment.header.len_bytes - offset;
        self.bytes.resize((len.max(WINDOW_LEN_BYTES) as u64).min(rest) as usize, 0);
        let read = self.segment.file.read_full_at(&mut self.bytes, offset);
        let filled = read.map_err(StorageError::io("read", &self.segment.path))?;
        // Bytes that were cut off read as zeros. `judge_len` decides whether that matters.
        self.bytes[filled..].fill(0);
        self.offset = offset;
        Ok(())
    }
}
