//! Power cuts, kills, failing disks and full disks at every operation: what was acknowledged is
//! there, and what is there was written. Every failure names its seed and step.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use syncraft::ErrorChain;
use syncraft::raft::{Entry, Index, Standing};
use syncraft::storage::sim::{Faults, SimDisk};
use syncraft::storage::{DataDir, StorageError, Wal, WalOptions};

use crate::model::{Content, DIR, ME, open, write};

const SEGMENT_LEN_BYTES: u64 = 4096;
/// Some batches are longer than a segment.
const COMMAND_LEN_MAX_BYTES: usize = 700;

/// A member's view over its lives: what it was told is durable, and what it last tried to write.
struct Member {
    disk: SimDisk,
    rng: fastrand::Rng,
    acked: Content,
    tried: Option<Content>,
    what: String,
}

impl Member {
    fn new(seed: u64, what: String) -> Member {
        let rng = fastrand::Rng::with_seed(seed);
        Member { disk: SimDisk::new(seed), rng, acked: Content::default(), tried: None, what }
    }

    /// Starts, and checks what the log holds: everything acknowledged, with or without the last
    /// batch that was tried.
    fn start(&mut self) -> Result<Wal, StorageError> {
        let (wal, recovered) = open(&self.disk, SEGMENT_LEN_BYTES)?;
        let found = Content::of(&recovered);
        let as_tried = self.tried.take().is_some_and(|tried| tried == found);
        assert!(
            as_tried || found == self.acked,
            "{}: {found:?} instead of {:?}",
            self.what,
            self.acked
        );
        self.acked = found;
        Ok(wal)
    }

    fn start_well(&mut self) -> Wal {
        let what = self.what.clone();
        self.start().unwrap_or_else(|err| panic!("{what}: {err}"))
    }

    /// Appends and syncs one batch.
    fn write(&mut self, wal: &mut Wal) -> Result<(), StorageError> {
        let batch = self.acked.next_batch(&mut self.rng, COMMAND_LEN_MAX_BYTES);
        let mut content = self.acked.clone();
        content.apply(&batch);
        self.tried = Some(content.clone());
        write(wal, &batch)?;
        (self.acked, self.tried) = (content, None);
        Ok(())
    }

    /// Writes some batches, or until the disk fails; sometimes it then stops cleanly.
    fn live(&mut self, batches: usize) -> Result<(), StorageError> {
        let mut wal = self.start()?;
        for _ in 0..batches {
            self.write(&mut wal)?;
        }
        if self.rng.bool() {
            wal.close();
        }
        Ok(())
    }

    fn stop_after(&self, ops: u64) {
        let stop_at_op = Some(self.disk.counts().ops + ops);
        self.disk.set_faults(Faults { stop_at_op, ..Faults::default() });
    }
}

#[test]
fn a_crash_at_every_operation_of_a_first_life() {
    for seed in 0..12 {
        for ops in 1.. {
            let mut member = Member::new(seed, format!("seed {seed}, stopped at operation {ops}"));
            member.stop_after(ops);
            let stopped = member.live(40).is_err();
            member.disk.crash();
            drop(member.start_well());
            if !stopped && member.disk.counts().ops < ops {
                break;
            }
        }
    }
}

#[test]
fn a_crash_at_every_operation_of_a_recovery() {
    for seed in 0..150 {
        let mut before = Member::new(seed, String::new());
        before.stop_after(60 + seed % 50);
        let _ = before.live(100);
        before.disk.crash();
        for ops in 1.. {
            let what = format!("seed {seed}, recovery stopped at operation {ops}");
            let (rng, acked, tried) =
                (before.rng.clone(), before.acked.clone(), before.tried.clone());
            let mut member = Member { disk: before.disk.fork(seed), rng, acked, tried, what };
            member.stop_after(ops);
            let stopped = open(&member.disk, SEGMENT_LEN_BYTES).is_err();
            member.disk.crash();
            drop(member.start_well());
            member.live(3).unwrap();
            if !stopped {
                break;
            }
        }
    }
}

/// The process dies between a write and its sync. The next process finds the batch, which is only
/// in the system's memory, and the power goes during its start: the batch may now be torn, which is
/// not damage.
#[test]
fn a_power_cut_at_every_operation_of_a_start_after_a_kill() {
    for seed in 0..100 {
        for ops in 1.. {
            let mut member =
                Member::new(seed, format!("seed {seed}, start stopped at operation {ops}"));
            let mut wal = member.start_well();
            for _ in 0..4 {
                member.write(&mut wal).unwrap();
            }
            member.stop_after(2);
            member.write(&mut wal).unwrap_err();
            drop(wal);
            member.stop_after(ops);
            let stopped = open(&member.disk, SEGMENT_LEN_BYTES).is_err();
            member.disk.crash();
            drop(member.start_well());
            if !stopped {
                break;
            }
        }
    }
}

/// The same for the very first start: killed at any operation, then a power cut at any operation of
/// the second start.
#[test]
fn a_power_cut_at_every_operation_after_a_kill_at_every_operation_of_the_first_start() {
    for run in 0..20 * 30 * 30 {
        let (seed, kill_at, cut_at) = (run / 900, run / 30 % 30 + 1, run % 30 + 1);
        let what =
            format!("seed {seed}, killed at operation {kill_at}, power cut at {cut_at} after");
        let mut member = Member::new(seed, what);
        member.stop_after(kill_at);
        let _ = member.live(2);
        member.stop_after(cut_at);
        let _ = open(&member.disk, SEGMENT_LEN_BYTES);
        member.disk.crash();
        drop(member.start_well());
    }
}

#[test]
fn many_lives_that_end_anyhow() {
    for seed in 0..60 {
        let mut member = Member::new(seed, String::new());
        for life in 0..25 {
            member.what = format!("seed {seed}, life {life}");
            member.stop_after(member.rng.clone().u64(1..120));
            let _ = member.live(20);
            member.disk.set_faults(Faults::default());
            // Killed, without a power cut. What the next start returns must survive a power cut
            // right after it. A power cut in the middle of that start must not turn an incomplete
            // write into damage.
            match member.rng.u8(0..3) {
                0 => drop(member.start_well()),
                1 => {
                    member.stop_after(member.rng.clone().u64(1..14));
                    let _ = open(&member.disk, SEGMENT_LEN_BYTES);
                }
                _ => {}
            }
            member.disk.crash();
            drop(member.start_well());
        }
    }
}

/// A failed sync leaves what reads show and what is on the disk different. The next process goes on
/// with what it reads; its first write is torn.
#[test]
fn a_failed_sync_and_a_torn_write_after_it_lose_nothing_acknowledged() {
    for (seed, k) in (0..100).flat_map(|seed| (1..=50).map(move |k| (seed, k))) {
        let mut member = Member::new(seed, format!("seed {seed}, sync {k} fails"));
        member.disk.set_faults(Faults { fail_sync: Some(k), ..Faults::default() });
        let _ = member.live(100);
        let mut wal = member.start_well();
        member.stop_after(1);
        let _ = member.write(&mut wal);
        member.disk.crash();
        drop(member.start_well());
    }
}

#[test]
fn short_writes_change_nothing() {
    for seed in 0..20 {
        let mut member = Member::new(seed, format!("seed {seed}"));
        member.disk.set_faults(Faults { short_writes: true, ..Faults::default() });
        member.live(50).unwrap();
        drop(member.start_well());
    }
}

#[test]
fn a_failed_sync_is_final_and_loses_nothing_acknowledged() {
    for (seed, k) in (0..8).flat_map(|seed| (1..=50).map(move |k| (seed, k))) {
        let mut member = Member::new(seed, format!("seed {seed}, sync {k} fails"));
        member.disk.set_faults(Faults { fail_sync: Some(k), ..Faults::default() });
        if let Ok(mut wal) = member.start() {
            let Some(err) = (0..100).find_map(|_| member.write(&mut wal).err()) else {
                // Directories above ours are synced as far as permissions allow.
                assert!(k <= 4, "{}: and nobody noticed", member.what);
                continue;
            };
            assert!(matches!(err, StorageError::Io { .. }), "{}: {err}", member.what);
            for again in [wal.sync(), wal.append(None, &[]), wal.sync()] {
                assert_eq!(again.unwrap_err().to_string(), err.to_string(), "{}", member.what);
            }
            wal.close();
        }
        // The process starts again with what the system remembers; then the power goes.
        drop(member.start_well());
        member.disk.crash();
        drop(member.start_well());
    }
}

#[test]
fn a_full_disk_refuses_and_recovers_by_itself() {
    for (seed, k) in (0..6).flat_map(|seed| (1..=120).map(move |k| (seed, k))) {
        let mut member = Member::new(seed, format!("seed {seed}, full from write {k}"));
        let full = Faults { full_from_write: Some(k), ..Faults::default() };
        member.disk.set_faults(full);
        let mut wal = match member.start() {
            Ok(wal) => wal,
            Err(err) => {
                assert!(err.is_full(), "{}: {err}", member.what);
                member.disk.set_faults(Faults::default());
                member.start_well()
            }
        };
        let tried = loop {
            match member.write(&mut wal) {
                Ok(()) if member.disk.counts().writes > 300 => break None,
                Ok(()) => {}
                Err(err) => {
                    assert!(err.is_full(), "{}: {err}", member.what);
                    break member.tried.take();
                }
            }
        };
        if let Some(tried) = tried {
            assert!(wal.sync().unwrap_err().is_full(), "{}: still full", member.what);
            full_then(&mut member, wal, tried, seed);
        } else {
            drop(wal);
        }
        drop(member.start_well());
    }
}

/// After the full disk: space and a later sync, a crash, or a clean stop.
fn full_then(member: &mut Member, mut wal: Wal, tried: Content, seed: u64) {
    match seed % 3 {
        0 => {
            member.disk.set_faults(Faults::default());
            let mut content = tried;
            // More is appended before the next attempt.
            let more = content.next_batch(&mut member.rng, COMMAND_LEN_MAX_BYTES);
            wal.append(more.hard_state, &more.entries).unwrap();
            wal.sync().unwrap_or_else(|err| panic!("{}: {err}", member.what));
            content.apply(&more);
            (member.acked, member.tried) = (content, None);
            for _ in 0..5 {
                member.write(&mut wal).unwrap();
            }
        }
        1 => {
            drop(wal);
            member.tried = Some(tried);
            member.disk.crash();
        }
        _ => {
            wal.close();
            member.tried = Some(tried);
            member.disk.set_faults(Faults::default());
        }
    }
}

fn last_segment(disk: &SimDisk) -> PathBuf {
    let files = disk.files(&Path::new(DIR).join("wal"));
    files.into_iter().rfind(|file| file.extension().is_some_and(|it| it == "wal")).unwrap()
}

/// If a seal is lost, anything but zeros after the last batch looks like damage.
#[test]
fn what_a_write_leaves_on_a_full_disk_is_zeroed() {
    let is_zero = |byte: &u8| *byte == 0;
    let mut left_behind = 0;
    for seed in 0..50 {
        let mut member = Member::new(seed, format!("seed {seed}"));
        let mut wal = member.start_well();
        for _ in 0..10 {
            member.write(&mut wal).unwrap();
        }
        let segment = last_segment(&member.disk);
        let bytes = || member.disk.bytes(&segment).unwrap();
        let end = bytes().iter().rposition(|byte| !is_zero(byte)).unwrap() + 1;
        let batch = member.acked.next_batch(&mut member.rng, COMMAND_LEN_MAX_BYTES);
        // The next write is a short one.
        let full_from_write = Some(member.disk.counts().writes + 2);
        member.disk.set_faults(Faults { full_from_write, ..Faults::default() });
        assert!(write(&mut wal, &batch).unwrap_err().is_full(), "{}", member.what);
        left_behind += usize::from(!bytes()[end..].iter().all(is_zero));
        member.disk.set_faults(Faults::default());
        // More than what is left of the segment: the batch goes to the next one.
        let mut content = member.acked.clone();
        content.apply(&batch);
        let mut len_bytes = 0;
        while len_bytes < SEGMENT_LEN_BYTES as usize {
            let more = content.next_batch(&mut member.rng, COMMAND_LEN_MAX_BYTES);
            content.apply(&more);
            wal.append(more.hard_state, &more.entries).unwrap();
            len_bytes += more.entries.iter().map(Entry::len_bytes).sum::<usize>();
        }
        wal.sync().unwrap();
        assert_ne!(last_segment(&member.disk), segment, "{}", member.what);
        assert!(bytes()[end..].iter().all(is_zero), "{}", member.what);
    }
    assert!(left_behind >= 10, "only {left_behind} writes left something behind");
}

/// A write is left unfinished, by a full disk or by a kill, and a sync on the way to its erasure
/// fails. From then on reads may show zeros where the disk has the old bytes. They are none of the
/// log, wherever it goes on, and however a later write is torn.
#[test]
fn zeros_whose_sync_failed_are_written_again() {
    let mut failed = 0;
    for (seed, k) in (0..400).flat_map(|seed| (1..=7).map(move |k| (seed, k))) {
        let mut member = Member::new(seed, format!("seed {seed}, sync {k} fails"));
        let mut wal = member.start_well();
        member.write(&mut wal).unwrap();
        // The next write is a short one.
        let counts = member.disk.counts();
        let (full_from_write, stop_at_op) = match seed % 2 {
            0 => (Some(counts.writes + 2), None),
            _ => (None, Some(counts.ops + 1)),
        };
        let short_writes = true;
        let faults = Faults { full_from_write, stop_at_op, short_writes, ..Faults::default() };
        member.disk.set_faults(faults);
        member.write(&mut wal).unwrap_err();
        let fail_sync = Some(member.disk.counts().syncs + k);
        member.disk.set_faults(Faults { fail_sync, ..Faults::default() });
        failed += usize::from(wal.sync().is_err());
        drop(wal);
        failed += usize::from(member.start().is_err());
        member.disk.set_faults(Faults::default());
        let mut wal = member.start_well();
        // The next batch is short, so the old bytes are behind its end.
        let batch = member.acked.next_batch(&mut member.rng, 100);
        member.stop_after(1);
        let mut content = member.acked.clone();
        content.apply(&batch);
        member.tried = Some(content);
        assert!(write(&mut wal, &batch).is_err(), "{}", member.what);
        member.disk.crash();
        drop(member.start_well());
    }
    assert!(failed >= 400, "only {failed} syncs failed");
}

#[test]
fn the_same_calls_on_the_same_seed_leave_the_same_disk() {
    let run = || {
        let mut member = Member::new(9, String::new());
        member.live(40).unwrap();
        let files = member.disk.files(Path::new("/"));
        files.iter().map(|file| (file.clone(), member.disk.bytes(file))).collect::<Vec<_>>()
    };
    assert_eq!(run(), run());
}

#[test]
fn preparing_segments_ahead_changes_nothing_but_time() {
    for seed in 0..5 {
        let mut member = Member::new(seed, format!("seed {seed}"));
        let disk = std::sync::Arc::new(member.disk.clone());
        let dir = DataDir::open_on(disk, crate::model::DIR, ME, Standing::New).unwrap();
        let options = WalOptions { segment_len_bytes: SEGMENT_LEN_BYTES, prepare_ahead: true };
        let (mut wal, _) = Wal::open(&dir, options, None).unwrap();
        drop(dir);
        for _ in 0..200 {
            member.write(&mut wal).unwrap();
        }
        drop(wal);
        member.disk.crash();
        drop(member.start_well());
    }
}

/// Files are opened before anything is changed, so that a process without descriptors can wait. The
/// file that ends each segment, and the one that replaces `meta`, are opened while the member runs.
#[test]
fn a_want_of_descriptors_refuses_and_recovers_by_itself() {
    let mut member = Member::new(1, "no descriptors".to_owned());
    let mut wal = member.start_well();
    let none = Faults { no_descriptors: true, ..Faults::default() };
    for round in 0..10 {
        member.disk.set_faults(none.clone());
        let mut writes = 0;
        let err = loop {
            if let Err(err) = member.write(&mut wal) {
                break err;
            }
            writes += 1;
            assert!(writes < 200, "round {round}: no segment ends");
        };
        assert!(
            err.is_transient() && ErrorChain(&err).to_string().contains("Too many open files"),
            "{err}"
        );
        assert!(wal.sync().unwrap_err().is_transient(), "still none");
        member.disk.set_faults(Faults::default());
        wal.sync().unwrap();
        member.acked = member.tried.take().unwrap();
    }
    drop(wal);
    member.disk.crash();
    let mut wal = member.start_well();

    // A segment that is no longer needed is opened, to become the next one.
    let last = Index(member.acked.entries.len() as u64);
    member.disk.set_faults(none.clone());
    assert!(wal.release_through(last).unwrap_err().is_transient());
    member.disk.set_faults(Faults::default());
    wal.release_through(last).unwrap();
    drop(wal);

    let dir = DataDir::open_on(Arc::new(member.disk.clone()), DIR, ME, Standing::New).unwrap();
    member.disk.set_faults(none);
    assert!(dir.mark_joined().unwrap_err().is_transient());
    member.disk.set_faults(Faults::default());
    dir.mark_joined().unwrap();
}
