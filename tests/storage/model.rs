//! What these tests share: a random history of a log, and what the log must hold after each step.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use syncraft::raft::{
    Configuration, Entry, HardState, Index, MemberId, Payload, SnapshotMeta, Standing, Term,
};
use syncraft::storage::sim::SimDisk;
use syncraft::storage::{DataDir, Identity, Recovered, StorageError, Wal, WalOptions};

pub(crate) const ME: Identity =
    Identity { cluster_id: 0x0123_4567_89ab_cdef, list_id: 0xc0ff_ee15, member_id: MemberId(1) };
pub(crate) const DIR: &str = "/data/1";

/// What a log holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) hard_state: HardState,
    pub(crate) entries: Vec<Entry>,
}

/// What one batch adds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Batch {
    pub(crate) hard_state: Option<HardState>,
    pub(crate) entries: Vec<Entry>,
}

impl Content {
    pub(crate) fn of(recovered: &Recovered) -> Content {
        Content { hard_state: recovered.hard_state, entries: recovered.entries.clone() }
    }

    pub(crate) fn apply(&mut self, batch: &Batch) {
        self.hard_state = batch.hard_state.unwrap_or(self.hard_state);
        if let Some(first) = batch.entries.first() {
            self.entries.truncate(first.index.0 as usize - 1);
            self.entries.extend_from_slice(&batch.entries);
        }
    }

    /// A batch that could come next: new entries, sometimes a new term or a vote, sometimes entries
    /// that replace older ones.
    pub(crate) fn next_batch(&self, rng: &mut fastrand::Rng, command_len_max: usize) -> Batch {
        let mut hard_state = self.hard_state;
        if rng.u8(0..4) == 0 || hard_state.current_term == Term::ZERO {
            hard_state =
                HardState { current_term: hard_state.current_term.next(), voted_for: None };
        }
        if hard_state.voted_for.is_none() && rng.bool() {
            hard_state.voted_for = Some(MemberId(rng.u64(1..=3)));
        }
        let last = self.entries.len() as u64;
        let first = if rng.u8(0..5) == 0 { last - rng.u64(0..=last.min(4)) + 1 } else { last + 1 };
        let count = if hard_state != self.hard_state && rng.bool() { 0 } else { rng.u64(1..6) };
        let entries = (first..first + count)
            .map(|index| entry(index, hard_state.current_term, rng, command_len_max));
        let changed = (hard_state != self.hard_state).then_some(hard_state);
        Batch { hard_state: changed, entries: entries.collect() }
    }
}

fn entry(index: u64, term: Term, rng: &mut fastrand::Rng, command_len_max: usize) -> Entry {
    let len = rng.usize(0..=command_len_max);
    let command: Bytes = std::iter::repeat_with(|| rng.u8(..)).take(len).collect();
    let payload = match index {
        _ if index.is_multiple_of(7) => Payload::Noop,
        _ if index.is_multiple_of(11) => Payload::Configuration(Arc::new(configuration(3))),
        _ => Payload::Command(command),
    };
    Entry { index: Index(index), term, payload }
}

/// The first configuration of a cluster of so many members.
pub(crate) fn configuration(members: u64) -> Configuration {
    let addrs = (1..=members).map(|id| (MemberId(id), format!("host-{id}:7000")));
    Configuration::first(ME.cluster_id, ME.list_id, addrs)
}

pub(crate) fn options(segment_len_bytes: u64) -> WalOptions {
    WalOptions { segment_len_bytes, prepare_ahead: false }
}

pub(crate) fn open(
    disk: &SimDisk,
    segment_len_bytes: u64,
) -> Result<(Wal, Recovered), StorageError> {
    let dir = DataDir::open_on(Arc::new(disk.clone()), DIR, ME, Standing::New)?;
    Wal::open(&dir, options(segment_len_bytes), None)
}

/// Appends, in up to two calls, and syncs.
pub(crate) fn write(wal: &mut Wal, batch: &Batch) -> Result<(), StorageError> {
    let (first, second) = batch.entries.split_at(batch.entries.len() / 2);
    wal.append(batch.hard_state, first)?;
    wal.append(None, second)?;
    wal.sync()
}

/// A written log, and what it held after each batch, beginning with the empty log.
pub(crate) struct Log {
    pub(crate) disk: SimDisk,
    pub(crate) contents: Vec<Content>,
    pub(crate) segment_len_bytes: u64,
}

impl Log {
    /// Writes batches until there are so many segments and the last is half full.
    pub(crate) fn write(seed: u64, segments: usize, segment_len_bytes: u64, close: bool) -> Log {
        let (disk, mut rng) = (SimDisk::new(seed), fastrand::Rng::with_seed(seed));
        let (mut wal, _) = open(&disk, segment_len_bytes).expect("a fresh disk");
        let mut contents = vec![Content::default()];
        let mut log = Log { disk, contents: Vec::new(), segment_len_bytes };
        while log.segments().len() < segments || log.end() < segment_len_bytes as usize / 2 {
            let mut content = contents[contents.len() - 1].clone();
            let batch = content.next_batch(&mut rng, 60);
            write(&mut wal, &batch).expect("a healthy disk");
            content.apply(&batch);
            contents.push(content);
        }
        if close {
            wal.close();
        }
        log.contents = contents;
        log
    }

    pub(crate) fn segments(&self) -> Vec<PathBuf> {
        let files = self.disk.files(&Path::new(DIR).join("wal"));
        files
            .into_iter()
            .filter(|file| file.extension().is_some_and(|extension| extension == "wal"))
            .collect()
    }

    pub(crate) fn last_segment(&self) -> PathBuf {
        self.segments().pop().expect("a log has a segment")
    }

    /// The offset just after the last non-zero byte of the last segment.
    pub(crate) fn end(&self) -> usize {
        let bytes = self.disk.bytes(&self.last_segment()).expect("it was listed");
        bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)
    }

    pub(crate) fn full(&self) -> &Content {
        self.contents.last().expect("the empty log at least")
    }

    /// A copy with one file's bytes changed.
    pub(crate) fn damaged(&self, file: &Path, damage: impl FnOnce(&mut Vec<u8>)) -> SimDisk {
        let disk = self.disk.fork(0);
        let mut bytes = disk.bytes(file).expect("a file of the log");
        damage(&mut bytes);
        disk.set_bytes(file, bytes);
        disk
    }
}

pub(crate) fn meta(index: u64, term: u64) -> SnapshotMeta {
    SnapshotMeta { last_included_index: Index(index), last_included_term: Term(term) }
}

/// A state of this length.
pub(crate) fn state(len: usize) -> Vec<u8> {
    (0..len as u64).map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}
