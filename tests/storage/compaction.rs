//! Snapshots and the log together. Whatever is taken, installed, released or begun anew, and
//! wherever it is interrupted: the snapshot and the log after it are the complete acknowledged
//! history.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use syncraft::raft::{Entry, HardState, Index, MemberId, Payload, SnapshotMeta, Standing, Term};
use syncraft::storage::sim::{Faults, SimDisk};
use syncraft::storage::{DataDir, Recovered, Snapshot, Snapshots, StorageError, Wal};

use crate::model::{Batch, Content, DIR, ME, meta, options, write};

const SEGMENT_LEN_BYTES: u64 = 4096;
const COMMAND_LEN_MAX_BYTES: usize = 700;

struct Opened {
    wal: Wal,
    snapshots: Snapshots,
    base: Option<Snapshot>,
    recovered: Recovered,
}

/// As a member starts: the snapshot, then the log after it.
fn open(disk: &SimDisk) -> Result<Opened, StorageError> {
    let dir = DataDir::open_on(Arc::new(disk.clone()), DIR, ME, Standing::New)?;
    let (snapshots, base) = Snapshots::open(&dir)?;
    let meta = base.as_ref().map(Snapshot::meta);
    let (wal, recovered) = Wal::open(&dir, options(SEGMENT_LEN_BYTES), meta)?;
    Ok(Opened { wal, snapshots, base, recovered })
}

/// A state machine that forgets nothing, so that a snapshot can be compared with a history.
fn state_after(entries: &[Entry]) -> String {
    entries.iter().map(line_of).collect()
}

fn line_of(entry: &Entry) -> String {
    let Entry { index, term, payload } = entry;
    match payload {
        Payload::Noop => format!("{index} of term {term}: nothing\n"),
        Payload::Command(command) => {
            format!("{index} of term {term}: {:08x}\n", crc32c::crc32c(command))
        }
        Payload::Configuration(it) => format!("{index} of term {term}: {:?}\n", it.membership),
    }
}

fn state_in(snapshot: &Snapshot) -> String {
    let mut state = String::new();
    snapshot.reader().unwrap().read_to_string(&mut state).unwrap();
    state
}

fn meta_of(entries: &[Entry]) -> SnapshotMeta {
    let last = entries.last().expect("no snapshot of nothing");
    meta(last.index.0, last.term.0)
}

fn create(snapshots: &Snapshots, entries: &[Entry]) -> Result<(), StorageError> {
    let configuration = entries.iter().rev().find_map(|entry| match &entry.payload {
        Payload::Configuration(configuration) => Some(&**configuration),
        _ => None,
    });
    let mut writer = snapshots.create(meta_of(entries), configuration)?;
    let _ = writer.write_all(state_after(entries).as_bytes());
    writer.finish().map(drop)
}

/// A leader sends its snapshot of these entries.
fn receive(snapshots: &Snapshots, entries: &[Entry]) -> Result<SnapshotMeta, StorageError> {
    let dir = DataDir::open_on(Arc::new(SimDisk::new(1)), "/leader", ME, Standing::New).unwrap();
    let (leader, _) = Snapshots::open(&dir).unwrap();
    create(&leader, entries).unwrap();
    let sent = leader.newest().unwrap();
    let mut receiver = snapshots.receive(sent.meta(), sent.len_bytes())?;
    while !receiver.is_complete() {
        let offset = receiver.offset();
        receiver.write(offset, &sent.read_chunk(offset, 8000).unwrap())?;
    }
    receiver.finish().map(|snapshot| snapshot.meta())
}

/// A member's view over its lives: what it was told is durable, from the first entry on, and what
/// else may be found.
#[derive(Clone)]
struct Member {
    disk: SimDisk,
    rng: fastrand::Rng,
    acked: Content,
    tried: Vec<Content>,
    /// Where its snapshot ends.
    snapshot: usize,
    what: String,
}

impl Member {
    fn new(seed: u64, what: String) -> Member {
        let (disk, rng) = (SimDisk::new(seed), fastrand::Rng::with_seed(seed));
        Member { disk, rng, acked: Content::default(), tried: Vec::new(), snapshot: 0, what }
    }

    fn start(&mut self) -> Result<Opened, StorageError> {
        let opened = open(&self.disk)?;
        let (base, recovered) = (&opened.base, &opened.recovered);
        let history =
            base.as_ref().map(state_in).unwrap_or_default() + &state_after(&recovered.entries);
        let is_found = |content: &&Content| {
            content.hard_state == recovered.hard_state && state_after(&content.entries) == history
        };
        let found = self.tried.iter().chain([&self.acked]).find(is_found).cloned();
        self.acked = found.unwrap_or_else(|| {
            let say = |it: &Content| format!("{:?}\n{}", it.hard_state, state_after(&it.entries));
            panic!(
                "{}: found {:?} {:?}\n{history}instead of {}or {:?}",
                self.what,
                base.as_ref().map(Snapshot::meta),
                recovered.hard_state,
                say(&self.acked),
                self.tried.iter().map(say).collect::<String>()
            )
        });
        self.tried.clear();
        let base = base.as_ref().map_or(0, |base| base.meta().last_included_index.0 as usize);
        assert!(base >= self.snapshot, "{}: an older snapshot is back", self.what);
        self.snapshot = base;
        Ok(opened)
    }

    fn start_well(&mut self) -> Opened {
        let what = self.what.clone();
        self.start().unwrap_or_else(|err| panic!("{what}: {err}"))
    }

    /// The next batch. It leaves the entries in the snapshot alone.
    fn next(&mut self) -> (Batch, Content) {
        let snapshot = Index(self.snapshot as u64);
        // Only an entry of a newer term replaces another one.
        let follows = |batch: &Batch, old: &[Entry]| {
            batch.entries.iter().all(|entry| match old.get(entry.index.0 as usize - 1) {
                Some(old) => entry.index > snapshot && entry.term > old.term,
                None => true,
            })
        };
        let batch = (0..100)
            .map(|_| self.acked.next_batch(&mut self.rng, COMMAND_LEN_MAX_BYTES))
            .find(|batch| follows(batch, &self.acked.entries))
            .unwrap_or_default();
        let mut content = self.acked.clone();
        content.apply(&batch);
        (batch, content)
    }

    fn step(&mut self, opened: &mut Opened) -> Result<(), StorageError> {
        match self.rng.u8(0..16) {
            0..=10 => self.write(opened),
            11 | 12 => self.take_snapshot(opened),
            13 => self.take_snapshot_ahead(opened),
            14 => self.install(opened),
            _ => self.install_of_own_history(opened),
        }
    }

    fn write(&mut self, opened: &mut Opened) -> Result<(), StorageError> {
        let (batch, content) = self.next();
        self.tried = vec![content];
        write(&mut opened.wal, &batch)?;
        self.acknowledged()
    }

    /// The last attempt has succeeded.
    fn acknowledged(&mut self) -> Result<(), StorageError> {
        self.acked = self.tried.pop().expect("something was tried");
        self.tried.clear();
        Ok(())
    }

    fn take_snapshot(&mut self, opened: &mut Opened) -> Result<(), StorageError> {
        if self.acked.entries.len() == self.snapshot {
            return Ok(());
        }
        let index = self.rng.usize(self.snapshot + 1..=self.acked.entries.len());
        create(&opened.snapshots, &self.acked.entries[..index])?;
        self.snapshot = index;
        let tail = self.rng.u64(0..10);
        opened.wal.release_through(Index((index as u64).saturating_sub(tail)))
    }

    /// A leader may apply entries that its own disk does not have yet.
    fn take_snapshot_ahead(&mut self, opened: &mut Opened) -> Result<(), StorageError> {
        let (batch, content) = self.next();
        let Some(last) = batch.entries.last() else { return Ok(()) };
        opened.wal.append(batch.hard_state, &batch.entries)?;
        let mut without_batch = Content { hard_state: self.acked.hard_state, ..content.clone() };
        if last.term > without_batch.hard_state.current_term {
            without_batch.hard_state = HardState { current_term: last.term, voted_for: None };
        }
        self.tried = vec![without_batch, content.clone()];
        create(&opened.snapshots, &content.entries)?;
        self.snapshot = content.entries.len();
        opened.wal.release_through(last.index)?;
        opened.wal.sync()?;
        self.acknowledged()
    }

    /// A leader's history differs from some entry on, or is longer.
    fn install(&mut self, opened: &mut Opened) -> Result<(), StorageError> {
        let current_term = self.acked.hard_state.current_term.next();
        let hard_state = HardState { current_term, voted_for: None };
        let keep = self.rng.usize(self.snapshot..=self.acked.entries.len());
        let mut content = Content { hard_state, entries: self.acked.entries[..keep].to_vec() };
        for index in keep + 1..=keep + self.rng.usize(1..6) {
            let payload = Payload::Command(Bytes::from(format!("the leader's {index}")));
            content.entries.push(Entry { index: Index(index as u64), term: current_term, payload });
        }
        opened.wal.append(Some(hard_state), &[])?;
        if self.rng.bool() {
            self.tried = vec![Content { hard_state, ..self.acked.clone() }];
            opened.wal.sync()?;
            self.acknowledged()?;
        }
        // After a full disk, the hard state alone may be synced.
        let without_snapshot = Content { hard_state, ..self.acked.clone() };
        self.tried = vec![without_snapshot, content.clone()];
        let base = receive(&opened.snapshots, &content.entries)?;
        self.snapshot = content.entries.len();
        opened.wal.reset(base)?;
        self.acknowledged()
    }

    fn install_of_own_history(&mut self, opened: &mut Opened) -> Result<(), StorageError> {
        if self.acked.entries.len() == self.snapshot {
            return Ok(());
        }
        let index = self.rng.usize(self.snapshot + 1..=self.acked.entries.len());
        let base = receive(&opened.snapshots, &self.acked.entries[..index])?;
        self.snapshot = index;
        opened.wal.release_through(base.last_included_index)
    }

    fn live(&mut self, steps: usize) -> Result<(), StorageError> {
        let mut opened = self.start()?;
        for _ in 0..steps {
            self.step(&mut opened)?;
        }
        if self.rng.bool() {
            opened.wal.close();
        }
        Ok(())
    }

    fn stop_after(&self, ops: u64) {
        let stop_at_op = Some(self.disk.counts().ops + ops);
        self.disk.set_faults(Faults { stop_at_op, ..Faults::default() });
    }
}

/// Pitfalls 18 and 20 (etcd#10219): the snapshot is there and the log is not trimmed, or the
/// reverse.
#[test]
fn a_crash_at_every_operation_of_a_life() {
    for seed in 0..8 {
        // Different beginnings, so that later operations are interrupted as well.
        let mut before = Member::new(seed, format!("seed {seed}"));
        before.live((seed as usize % 4) * 30).unwrap();
        for ops in 1.. {
            let mut member = before.clone();
            member.disk = before.disk.fork(seed);
            member.what = format!("seed {seed}, stopped at operation {ops}");
            member.stop_after(ops);
            let stopped = member.live(40).is_err();
            member.disk.crash();
            drop(member.start_well());
            member.live(3).unwrap();
            if !stopped && member.disk.counts().ops < before.disk.counts().ops + ops {
                break;
            }
        }
    }
}

#[test]
fn many_lives_that_end_anyhow() {
    for seed in 100..140 {
        let mut member = Member::new(seed, String::new());
        for life in 0..25 {
            member.what = format!("seed {seed}, life {life}");
            member.stop_after(member.rng.clone().u64(1..200));
            let _ = member.live(30);
            member.disk.set_faults(Faults::default());
            // Killed, or cut from power; and the next start may be interrupted as well.
            match member.rng.u8(0..3) {
                0 => drop(member.start_well()),
                1 => {
                    member.stop_after(member.rng.clone().u64(1..25));
                    let _ = open(&member.disk);
                }
                _ => {}
            }
            member.disk.crash();
            drop(member.start_well());
        }
    }
}

/// Pitfall 17.
#[test]
fn a_disk_that_is_full_from_any_write_on_costs_nothing() {
    for (seed, k) in (0..5).flat_map(|seed| (1..150).map(move |k| (seed, k))) {
        let mut member = Member::new(seed, format!("seed {seed}, full from write {k}"));
        drop(member.start_well());
        let full_from_write = Some(member.disk.counts().writes + k);
        member.disk.set_faults(Faults { full_from_write, ..Faults::default() });
        let Ok(mut opened) = member.start() else { panic!("{}: nothing is written", member.what) };
        let err = (0..500).find_map(|_| member.step(&mut opened).err());
        let err = err.unwrap_or_else(|| panic!("{}: and nobody noticed", member.what));
        assert!(err.is_full(), "{}: {err}", member.what);
        if seed % 2 == 0 {
            member.disk.set_faults(Faults::default());
            opened.wal.sync().unwrap();
        } else {
            member.disk.crash();
        }
        drop(opened);
        drop(member.start_well());
        member.live(20).unwrap_or_else(|err| panic!("{}: {err}", member.what));
    }
}

/// Pitfall 16 (fsyncgate).
#[test]
fn a_sync_that_fails_loses_nothing_acknowledged() {
    for (seed, k) in (0..8).flat_map(|seed| (1..80).map(move |k| (seed, k))) {
        let mut member = Member::new(seed, format!("seed {seed}, sync {k} fails"));
        drop(member.start_well());
        let fail_sync = Some(member.disk.counts().syncs + k);
        member.disk.set_faults(Faults { fail_sync, ..Faults::default() });
        let Ok(mut opened) = member.start() else { continue };
        let err = (0..500).find_map(|_| member.step(&mut opened).err());
        let err = err.unwrap_or_else(|| panic!("{}: and nobody noticed", member.what));
        assert!(matches!(err, StorageError::Io { .. }), "{}: {err}", member.what);
        drop(opened);
        // Started again without a power cut. Then the power goes, at once or while it writes.
        drop(member.start_well());
        if seed % 2 == 0 {
            member.stop_after(member.rng.clone().u64(1..60));
            let _ = member.live(30);
        }
        member.disk.crash();
        drop(member.start_well());
    }
}

fn entries(range: std::ops::RangeInclusive<u64>, term: u64) -> Vec<Entry> {
    let payload = |index| Payload::Command(Bytes::from(format!("{index} of term {term}")));
    range
        .map(|index| Entry { index: Index(index), term: Term(term), payload: payload(index) })
        .collect()
}

fn hard_state(term: u64, vote: Option<u64>) -> HardState {
    HardState { current_term: Term(term), voted_for: vote.map(MemberId) }
}

/// A disk with entries 1 to 200 of term 3, a batch each, over several segments.
fn disk_with_log() -> (SimDisk, Opened) {
    let disk = SimDisk::new(1);
    let mut opened = open(&disk).unwrap();
    for entry in entries(1..=200, 3) {
        opened.wal.append(Some(hard_state(3, Some(2))), &[entry]).unwrap();
        opened.wal.sync().unwrap();
    }
    (disk, opened)
}

fn segments(disk: &SimDisk) -> Vec<PathBuf> {
    let mut files = disk.files(&Path::new(DIR).join("wal"));
    files.retain(|file| file.extension().is_some_and(|extension| extension == "wal"));
    files
}

fn lose_snapshots(disk: &SimDisk) {
    disk.files(&Path::new(DIR).join("snap")).iter().for_each(|file| disk.lose(file));
}

fn corrupt(disk: &SimDisk) -> (PathBuf, u64, String) {
    match open(disk) {
        Err(StorageError::Corrupt { file, offset, reason }) => (file, offset, reason),
        Err(err) => panic!("{err}"),
        Ok(opened) => panic!("{:?}", opened.recovered),
    }
}

#[test]
fn whole_segments_go_and_two_become_the_next() {
    let (disk, mut opened) = disk_with_log();
    let before = segments(&disk);
    assert!(before.len() >= 4, "{before:?}");
    create(&opened.snapshots, &entries(1..=150, 3)).unwrap();
    opened.wal.release_through(Index(0)).unwrap();
    assert_eq!(segments(&disk), before);
    opened.wal.release_through(Index(150)).unwrap();
    let after = segments(&disk);
    assert!(before.ends_with(&after) && after.len() < before.len(), "{after:?}");
    let recycled = || {
        let mut files = disk.files(&Path::new(DIR).join("wal"));
        files.retain(|file| file.to_string_lossy().contains("recycled"));
        files.len()
    };
    assert_eq!(recycled(), 2, "two are kept for later");

    for entry in entries(201..=260, 3) {
        opened.wal.append(None, &[entry]).unwrap();
        opened.wal.sync().unwrap();
    }
    assert!(recycled() < 2, "one was used");
    drop(opened);
    let opened = open(&disk).unwrap();
    assert_eq!(opened.recovered.entries, entries(151..=260, 3));
    assert_eq!(opened.recovered.hard_state, hard_state(3, Some(2)));
}

#[test]
fn the_log_stays_short_for_ever() {
    let (disk, mut opened) = disk_with_log();
    for round in 4..20 {
        let first = round * 50 + 1;
        for entry in entries(first..=first + 49, 3) {
            opened.wal.append(None, &[entry]).unwrap();
            opened.wal.sync().unwrap();
        }
        create(&opened.snapshots, &entries(1..=first + 40, 3)).unwrap();
        opened.wal.release_through(Index(first + 40)).unwrap();
        assert!(disk.files(Path::new(DIR)).len() <= 7, "{:?}", disk.files(Path::new(DIR)));
        assert!(opened.wal.len_bytes_after(Index(first + 40)) < 64 << 10);
    }
}

#[test]
fn a_released_log_without_its_snapshot_is_refused() {
    let (disk, mut opened) = disk_with_log();
    create(&opened.snapshots, &entries(1..=150, 3)).unwrap();
    opened.wal.release_through(Index(150)).unwrap();
    drop(opened);
    let first_kept = segments(&disk).remove(0);
    lose_snapshots(&disk);
    let (file, offset, reason) = corrupt(&disk);
    assert!(file < first_kept && offset == 0, "{}", file.display());
    assert!(reason.starts_with("the log begins after entry "), "{reason}");
    assert!(reason.ends_with(", and there is no snapshot"), "{reason}");

    // Nor with an older one.
    let dir = DataDir::open_on(Arc::new(disk.clone()), DIR, ME, Standing::New).unwrap();
    let (snapshots, _) = Snapshots::open(&dir).unwrap();
    create(&snapshots, &entries(1..=10, 3)).unwrap();
    drop((snapshots, dir));
    assert!(corrupt(&disk).2.ends_with(", the snapshot ends at entry 10"));
}

#[test]
fn a_log_begun_anew_without_its_snapshot_is_refused() {
    let (disk, mut opened) = disk_with_log();
    opened.wal.append(Some(hard_state(5, None)), &[]).unwrap();
    let base = receive(&opened.snapshots, &entries(1..=500, 4)).unwrap();
    opened.wal.reset(base).unwrap();
    assert_eq!(segments(&disk).len(), 1, "nothing of the old log is left");
    let before = disk.fork(0);
    lose_snapshots(&before);
    assert_eq!(corrupt(&before).2, "the log begins after entry 500, and there is no snapshot");

    opened.wal.append(None, &entries(501..=510, 5)).unwrap();
    opened.wal.sync().unwrap();
    drop(opened);
    let opened = open(&disk).unwrap();
    assert_eq!(opened.recovered.entries, entries(501..=510, 5));
    assert_eq!(opened.recovered.hard_state, hard_state(5, None));
}

/// A snapshot was installed, and the process died before the log was reset. `log_term` is the term
/// of the log's entry where the snapshot ends.
fn check_conflict(log_term: u64, snapshot_index: u64, snapshot_term: u64, expected: Vec<Entry>) {
    let disk = SimDisk::new(1);
    let mut opened = open(&disk).unwrap();
    let log = [entries(1..=5, 1), entries(6..=20, log_term)].concat();
    opened.wal.append(Some(hard_state(log_term, Some(3))), &log).unwrap();
    opened.wal.sync().unwrap();
    let snapshot = [entries(1..=5, 1), entries(6..=snapshot_index, snapshot_term)].concat();
    receive(&opened.snapshots, &snapshot).unwrap();
    drop(opened);
    let vote = (log_term >= snapshot_term).then_some(3);
    for _ in 0..2 {
        let opened = open(&disk).unwrap();
        assert_eq!(opened.recovered.entries, expected);
        assert_eq!(opened.recovered.hard_state, hard_state(log_term.max(snapshot_term), vote));
    }
    // What was discarded does not come back.
    let mut opened = open(&disk).unwrap();
    let term = log_term.max(snapshot_term);
    let first = expected.last().map_or(snapshot_index, |last| last.index.0) + 1;
    opened.wal.append(None, &entries(first..=first + 1, term)).unwrap();
    opened.wal.sync().unwrap();
    drop(opened);
    let expected = [expected, entries(first..=first + 1, term)].concat();
    assert_eq!(open(&disk).unwrap().recovered.entries, expected);
}

/// Raft §7: the entries after a matching one stay; all others go. A higher term in the log is no
/// sign of a newer entry: in figure 8 (c), S1 may commit the entry of term 2 while S5's log has one
/// of term 3 there.
#[test]
fn what_conflicts_with_an_installed_snapshot_goes() {
    check_conflict(2, 10, 2, entries(11..=20, 2));
    check_conflict(2, 20, 2, Vec::new());
    check_conflict(2, 10, 4, Vec::new());
    check_conflict(3, 10, 2, Vec::new());
    check_conflict(2, 50, 2, Vec::new());
    check_conflict(2, 50, 7, Vec::new());
}

#[test]
fn a_snapshot_alone_begins_a_log() {
    let disk = SimDisk::new(1);
    let dir = DataDir::open_on(Arc::new(disk.clone()), DIR, ME, Standing::New).unwrap();
    let (snapshots, _) = Snapshots::open(&dir).unwrap();
    create(&snapshots, &entries(1..=10, 4)).unwrap();
    drop((dir, snapshots));
    let mut opened = open(&disk).unwrap();
    assert_eq!(opened.recovered.hard_state, hard_state(4, None));
    opened.wal.append(None, &entries(11..=12, 4)).unwrap();
    opened.wal.sync().unwrap();
    drop(opened);
    assert_eq!(open(&disk).unwrap().recovered.entries, entries(11..=12, 4));
}

/// Pitfall 11: a vote must not disappear with the segment that it was first written to.
#[test]
fn the_hard_state_outlives_every_segment() {
    let (disk, mut opened) = disk_with_log();
    create(&opened.snapshots, &entries(1..=200, 3)).unwrap();
    // Batches without entries, until one segment has nothing else.
    for term in 4..200 {
        opened.wal.append(Some(hard_state(term, Some(1))), &[]).unwrap();
        opened.wal.sync().unwrap();
        opened.wal.release_through(Index(200)).unwrap();
        let copy = disk.fork(term);
        copy.crash();
        let found = open(&copy).unwrap().recovered;
        assert_eq!(found.hard_state, hard_state(term, Some(1)));
    }
    drop(opened);
    // The first remaining segment holds it. If it is no longer there, the log is damaged, not
    // empty.
    let file = segments(&disk).remove(0);
    let mut bytes = disk.bytes(&file).unwrap();
    bytes[512..].fill(0);
    disk.set_bytes(&file, bytes);
    let (named, offset, _) = corrupt(&disk);
    assert_eq!((named, offset), (file, 1024));
}

#[test]
fn every_flipped_bit_of_a_compacted_log_is_harmless_or_named() {
    let (disk, mut opened) = disk_with_log();
    create(&opened.snapshots, &entries(1..=180, 3)).unwrap();
    opened.wal.release_through(Index(150)).unwrap();
    opened.wal.append(None, &entries(201..=260, 3)).unwrap();
    opened.wal.sync().unwrap();
    opened.wal.append(None, &entries(261..=300, 3)).unwrap();
    opened.wal.close();
    let expected = entries(181..=300, 3);
    for file in segments(&disk) {
        let good = disk.bytes(&file).unwrap();
        for bit in (0..good.len() * 8).step_by(3) {
            let copy = disk.fork(0);
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            copy.set_bytes(&file, bytes);
            match open(&copy) {
                Ok(opened) => assert_eq!(opened.recovered.entries, expected, "bit {bit}"),
                Err(StorageError::Corrupt { file: named, .. }) => assert_eq!(named, file),
                Err(err) => panic!("bit {bit}: {err}"),
            }
        }
        let copy = disk.fork(0);
        copy.lose(&file);
        match open(&copy) {
            // The snapshot holds everything that was in it, so the log need not have begun there.
            Ok(opened) => assert_eq!(opened.recovered.entries, expected),
            Err(_) => assert_eq!(corrupt(&copy).0, file, "a lost segment is named"),
        }
    }
}

#[test]
#[should_panic(expected = "goes back")]
fn a_log_is_not_reset_to_an_older_snapshot() {
    let (_, mut opened) = disk_with_log();
    opened.wal.reset(meta(100, 3)).unwrap();
    opened.wal.reset(meta(99, 3)).unwrap();
}

#[test]
fn what_is_in_the_snapshot_is_not_replaced() {
    let (_, mut opened) = disk_with_log();
    opened.wal.reset(meta(100, 3)).unwrap();
    let replace = std::panic::AssertUnwindSafe(|| opened.wal.append(None, &entries(100..=100, 3)));
    assert!(std::panic::catch_unwind(replace).is_err());
}
