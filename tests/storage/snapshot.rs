//! Snapshots as files. A finished snapshot stays, whatever happens while the next one is made or
//! received, and no changed byte goes unnoticed.

use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use syncraft::raft::{SnapshotMeta, Standing};
use syncraft::storage::disk::RealDisk;
use syncraft::storage::sim::{Faults, SimDisk};
use syncraft::storage::{DataDir, Identity, Snapshot, Snapshots, StorageError};

use crate::model::{DIR, ME, configuration, meta, state};

const CHUNK: usize = 64 << 10;

fn open(disk: &SimDisk) -> Result<(Snapshots, Option<Snapshot>), StorageError> {
    let dir = DataDir::open_on(Arc::new(disk.clone()), DIR, ME, Standing::New)?;
    Snapshots::open(&dir)
}

/// Opens, and returns where the only snapshot ends, and its state.
fn found(disk: &SimDisk) -> Option<(SnapshotMeta, Vec<u8>)> {
    let (_, snapshot) = open(disk).unwrap_or_else(|err| panic!("{err}"));
    snapshot.map(|snapshot| (snapshot.meta(), read(&snapshot)))
}

fn read(snapshot: &Snapshot) -> Vec<u8> {
    let mut bytes = Vec::new();
    snapshot.reader().unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

fn create(
    snapshots: &Snapshots,
    meta: SnapshotMeta,
    state: &[u8],
) -> Result<Snapshot, StorageError> {
    let mut writer = snapshots.create(meta, None)?;
    // An earlier failure is reported again at the end.
    let _ = writer.write_all(state);
    writer.finish()
}

/// As [`disk_with`], beside a configuration of this many members.
fn disk_with_members(members: u64, state: &[u8]) -> SimDisk {
    let disk = SimDisk::new(1);
    let (snapshots, _) = open(&disk).unwrap();
    let mut writer = snapshots.create(meta(10, 2), Some(&configuration(members))).unwrap();
    writer.write_all(state).unwrap();
    writer.finish().unwrap();
    disk
}

/// A disk with one snapshot of this state, at entry 10 of term 2.
fn disk_with(state: &[u8]) -> SimDisk {
    let disk = SimDisk::new(1);
    let (snapshots, none) = open(&disk).unwrap();
    assert!(none.is_none());
    create(&snapshots, meta(10, 2), state).unwrap();
    disk
}

fn snap_files(disk: &SimDisk) -> Vec<PathBuf> {
    disk.files(&Path::new(DIR).join("snap"))
}

/// Receives all of a snapshot, in chunks of this length.
fn receive(
    snapshots: &Snapshots,
    from: &Snapshot,
    chunk_len: usize,
) -> Result<Snapshot, StorageError> {
    let mut receiver = snapshots.receive(from.meta(), from.len_bytes())?;
    while !receiver.is_complete() {
        let offset = receiver.offset();
        receiver.write(offset, &from.read_chunk(offset, chunk_len).unwrap())?;
    }
    receiver.finish()
}

/// A snapshot that ends elsewhere: at entry 20 of term 3.
fn elsewhere(state: &[u8]) -> Snapshot {
    let dir = DataDir::open_on(Arc::new(SimDisk::new(2)), "/data/2", ME, Standing::New).unwrap();
    let (snapshots, _) = Snapshots::open(&dir).unwrap();
    create(&snapshots, meta(20, 3), state).unwrap()
}

#[test]
fn a_state_of_any_length_is_there_again() {
    for len in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, 1_000_000] {
        let disk = disk_with(&state(len));
        assert_eq!(found(&disk), Some((meta(10, 2), state(len))), "{len} bytes");
        let (snapshots, _) = open(&SimDisk::new(3)).unwrap();
        let (_, sent) = open(&disk).unwrap();
        let arrived = receive(&snapshots, &sent.unwrap(), 1000 + len / 3).unwrap();
        assert_eq!(read(&arrived), state(len), "{len} bytes");
    }
}

#[test]
fn a_newer_one_replaces_the_older_which_stays_readable() {
    let disk = disk_with(&state(200_000));
    let (snapshots, old) = open(&disk).unwrap();
    let old = old.unwrap();
    let mut half_read = old.reader().unwrap();
    let mut first = [0; 10];
    half_read.read_exact(&mut first).unwrap();

    let new = create(&snapshots, meta(30, 2), b"new").unwrap();
    assert_eq!(snap_files(&disk), [new.path()]);
    assert_eq!(snapshots.newest().unwrap().meta(), meta(30, 2));
    let mut rest = Vec::new();
    half_read.read_to_end(&mut rest).unwrap();
    assert_eq!([&first[..], &rest].concat(), state(200_000));
    assert_eq!(old.read_chunk(0, 1 << 20).unwrap().len() as u64, old.len_bytes());
    assert_eq!(old.read_chunk(old.len_bytes(), 10).unwrap(), b""[..]);
    assert_eq!(found(&disk.fork(0)), Some((meta(30, 2), b"new".to_vec())));
}

/// Pitfall 30 (tsoracle#426): a snapshot is being made while a newer one is installed.
#[test]
fn an_older_one_never_replaces_a_newer() {
    let disk = disk_with(b"10");
    let (snapshots, _) = open(&disk).unwrap();
    let mut building = snapshots.create(meta(15, 2), None).unwrap();
    building.write_all(b"15").unwrap();
    receive(&snapshots, &elsewhere(b"20"), 100).unwrap();
    assert_eq!(building.finish().unwrap().meta(), meta(20, 3));
    assert_eq!(found(&disk.fork(0)), Some((meta(20, 3), b"20".to_vec())));
    assert_eq!(snap_files(&disk).len(), 1);
}

#[test]
fn what_is_not_finished_leaves_nothing() {
    let disk = disk_with(b"old");
    let (snapshots, _) = open(&disk).unwrap();
    let mut writer = snapshots.create(meta(15, 2), None).unwrap();
    writer.write_all(&state(300_000)).unwrap();
    assert_eq!(snap_files(&disk).len(), 2);
    drop(writer);
    assert_eq!(snap_files(&disk).len(), 1);
}

#[test]
fn leftovers_are_removed_by_the_next_start() {
    let disk = disk_with(b"old");
    for name in ["0000000020-0000000002.snap.0.tmp", "junk.tmp"] {
        disk.set_bytes(&Path::new(DIR).join("snap").join(name), state(100));
    }
    let older = disk.bytes(&snap_files(&disk)[0]).unwrap();
    disk.set_bytes(&Path::new(DIR).join("snap/0000000003-0000000001.snap"), older);
    assert_eq!(found(&disk), Some((meta(10, 2), b"old".to_vec())));
    assert_eq!(snap_files(&disk).len(), 1);
}

/// Pitfall 14 (Jepsen on NATS): one bit on one member.
#[test]
fn every_flipped_bit_is_found_and_named() {
    for disk in [disk_with(&state(300)), disk_with_members(3, &state(300))] {
        let file = snap_files(&disk).remove(0);
        let good = disk.bytes(&file).unwrap();
        for bit in 0..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            disk.set_bytes(&file, bytes);
            assert_damaged(&disk, &file, bit as u64 / 8);
        }
    }
}

#[test]
fn a_configuration_is_there_again_wherever_the_file_goes() {
    for (members, len) in [(1, 0), (3, 1), (15, 3 * CHUNK)] {
        let disk = disk_with_members(members, &state(len));
        let (_, sent) = open(&disk).unwrap();
        let sent = sent.unwrap();
        let (snapshots, _) = open(&SimDisk::new(3)).unwrap();
        let arrived = receive(&snapshots, &sent, 1000 + len / 3).unwrap();
        for snapshot in [sent, arrived] {
            assert_eq!(snapshot.configuration().map(|it| &**it), Some(&configuration(members)));
            assert_eq!(read(&snapshot), state(len), "{members} members");
        }
    }
}

#[test]
fn a_file_that_is_cut_in_its_configuration_is_refused() {
    let disk = disk_with_members(3, b"");
    let file = snap_files(&disk).remove(0);
    let good = disk.bytes(&file).unwrap();
    for len in 0..good.len() {
        disk.set_bytes(&file, good[..len].to_vec());
        assert_damaged(&disk, &file, len as u64);
    }
}

/// Refused with the file, and with an offset at or before the damage.
fn assert_damaged(disk: &SimDisk, file: &Path, at: u64) {
    match open(disk).map(|(_, snapshot)| snapshot) {
        Err(StorageError::SnapshotCorrupt { file: named, offset, .. }) => {
            assert!(named == file && offset <= at, "{offset} of {}, not {at}", named.display());
        }
        // A later version may change the version number; its checksum is then correct.
        other => panic!("damage at {at}: {other:?}"),
    }
}

#[test]
fn every_flipped_byte_of_a_long_one_is_found_and_every_cut() {
    let disk = disk_with(&state(3 * CHUNK + 77));
    let file = snap_files(&disk).remove(0);
    let good = disk.bytes(&file).unwrap();
    let mut flip = good.clone();
    for at in (0..good.len()).step_by(173) {
        flip[at] ^= 0x40;
        disk.set_bytes(&file, flip.clone());
        assert_damaged(&disk, &file, at as u64);
        flip[at] ^= 0x40;
    }
    for len in (0..good.len()).step_by(499).chain(good.len() - 200..good.len()) {
        disk.set_bytes(&file, good[..len].to_vec());
        assert_damaged(&disk, &file, len as u64);
    }
    for added in [&b"\0"[..], b"x", &good] {
        disk.set_bytes(&file, [&good, added].concat());
        assert_damaged(&disk, &file, good.len() as u64);
    }
}

#[test]
fn chunks_of_another_place_or_another_snapshot_are_found() {
    let disk = disk_with(&state(4 * CHUNK));
    let file = snap_files(&disk).remove(0);
    let good = disk.bytes(&file).unwrap();
    let chunk = |n: usize| 64 + n * (CHUNK + 8)..64 + (n + 1) * (CHUNK + 8);
    let mut swapped = good.clone();
    swapped[chunk(1)].copy_from_slice(&good[chunk(2)]);
    swapped[chunk(2)].copy_from_slice(&good[chunk(1)]);
    let dropped = [&good[..chunk(1).start], &good[chunk(2).start..]].concat();
    let doubled = [&good[..chunk(2).start], &good[chunk(1).start..]].concat();

    let other = disk_with(&[b"!", &state(4 * CHUNK)[1..]].concat());
    let mixed = [&good[..chunk(2).start], &other.bytes(&file).unwrap()[chunk(2).start..]].concat();
    for bad in [swapped, dropped, doubled, mixed] {
        disk.set_bytes(&file, bad);
        assert_damaged(&disk, &file, chunk(2).start as u64);
    }
}

#[test]
fn one_that_was_renamed_or_is_of_another_cluster_is_refused() {
    let disk = disk_with(b"10");
    let file = snap_files(&disk).remove(0);
    let bytes = disk.bytes(&file).unwrap();
    let renamed = file.with_file_name("0000000011-0000000002.snap");
    disk.lose(&file);
    disk.set_bytes(&renamed, bytes.clone());
    assert_damaged(&disk, &renamed, 0);

    let other = SimDisk::new(1);
    let identity = Identity { cluster_id: 5, ..ME };
    drop(DataDir::open_on(Arc::new(other.clone()), DIR, identity, Standing::New).unwrap());
    drop(open(&other).unwrap());
    other.set_bytes(&file, bytes);
    assert_damaged(&other, &file, 0);
}

/// A leader of another cluster cannot fill a member that knows its own. One that does not know it
/// takes what comes.
#[test]
fn one_that_arrives_must_be_of_the_cluster_if_that_is_known() {
    let from = elsewhere(b"20");
    let newcomer = Identity { cluster_id: 0, ..ME };
    let open = |identity| {
        let disk = Arc::new(SimDisk::new(3));
        DataDir::open_on(disk, DIR, identity, Standing::Newcomer).unwrap()
    };
    let dir = open(newcomer);
    let (snapshots, _) = Snapshots::open(&dir).unwrap();
    assert_eq!(receive(&snapshots, &from, 100).unwrap().cluster_id(), ME.cluster_id);
    drop((snapshots, dir));

    let dir = open(newcomer);
    let (snapshots, _) = Snapshots::open(&dir).unwrap();
    dir.record_cluster(5).unwrap();
    let err = receive(&snapshots, &from, 100).unwrap_err().to_string();
    assert!(err.contains(" at offset 0: it belongs to cluster 0123456789abcdef"), "{err}");
}

/// The first configuration is in the log before its cluster is recorded.
#[test]
fn a_snapshot_may_name_a_cluster_before_the_directory_does() {
    let identity = Identity { cluster_id: 0, ..ME };
    let dir = DataDir::open_on(Arc::new(SimDisk::new(3)), DIR, identity, Standing::New).unwrap();
    let (snapshots, _) = Snapshots::open(&dir).unwrap();
    let writer = snapshots.create(meta(10, 2), Some(&configuration(3))).unwrap();
    assert_eq!(writer.finish().unwrap().cluster_id(), ME.cluster_id);
}

#[test]
#[should_panic(expected = "a snapshot names its cluster")]
fn a_snapshot_of_no_cluster_is_not_begun() {
    let identity = Identity { cluster_id: 0, ..ME };
    let dir = DataDir::open_on(Arc::new(SimDisk::new(3)), DIR, identity, Standing::New).unwrap();
    let (snapshots, _) = Snapshots::open(&dir).unwrap();
    let _ = snapshots.create(meta(10, 2), None);
}

#[test]
fn a_damaged_newest_one_falls_back_to_the_one_before() {
    let disk = disk_with(b"10");
    let file = snap_files(&disk).remove(0);
    let old = disk.bytes(&file).unwrap();
    let (snapshots, _) = open(&disk).unwrap();
    let newer = create(&snapshots, meta(20, 2), b"20").unwrap().path().to_path_buf();
    drop(snapshots);
    disk.set_bytes(&file, old);
    let mut bytes = disk.bytes(&newer).unwrap();
    bytes[70] ^= 1;
    disk.set_bytes(&newer, bytes);

    for _ in 0..2 {
        let (snapshots, found) = open(&disk).unwrap();
        assert_eq!(found.map(|found| found.meta()), Some(meta(10, 2)));
        let damage = snapshots.damaged().unwrap().to_string();
        let line = format!("snapshot is damaged: {} at offset 64: ", newer.display());
        assert!(damage.starts_with(&line), "{damage}");
        assert_eq!(snap_files(&disk).len(), 2, "what is damaged stays, for someone to look at");
    }
    let (snapshots, _) = open(&disk).unwrap();
    create(&snapshots, meta(20, 2), b"20 again").unwrap();
    drop(snapshots);
    assert_eq!(found(&disk), Some((meta(20, 2), b"20 again".to_vec())));
    assert_eq!(snap_files(&disk).len(), 1);
}

#[test]
fn damage_that_comes_while_it_is_read_is_found() {
    let disk = disk_with(&state(3 * CHUNK));
    let (_, snapshot) = open(&disk).unwrap();
    let snapshot = snapshot.unwrap();
    let mut reader = snapshot.reader().unwrap();
    let mut bytes = disk.bytes(snapshot.path()).unwrap();
    bytes[2 * CHUNK] ^= 1;
    disk.set_bytes(snapshot.path(), bytes);
    let mut read = Vec::new();
    let err = reader.read_to_end(&mut read).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::InvalidData);
    assert!(err.to_string().contains(" at offset 65608: "), "{err}");
    assert_eq!(read, state(3 * CHUNK)[..CHUNK], "and nothing after it was handed out");
}

/// An action on a disk that has a snapshot of entry 10, and what may be found after it.
fn check_crashes(
    what: &str,
    act: impl Fn(&SimDisk) -> Result<(), StorageError>,
    new: (SnapshotMeta, Vec<u8>),
) {
    let before = disk_with(b"10");
    for seed in 0..25 {
        for ops in 1.. {
            let disk = before.fork(seed);
            let stop_at_op = Some(disk.counts().ops + ops);
            disk.set_faults(Faults { stop_at_op, ..Faults::default() });
            let acted = act(&disk);
            disk.crash();
            let what = format!("{what}, seed {seed}, operation {ops}");
            let found = found(&disk).unwrap_or_else(|| panic!("{what}: nothing is there"));
            if acted.is_ok() {
                assert!(found == new, "{what}: acknowledged");
            } else {
                assert!(found == new || found == (meta(10, 2), b"10".to_vec()), "{what}");
            }
            assert!(!snap_files(&disk).iter().any(|file| file.extension().unwrap() == "tmp"));
            // What a start has returned is still there after the next crash.
            disk.crash();
            assert_eq!(self::found(&disk), Some(found), "{what}");
            if acted.is_ok() && disk.counts().ops < before.counts().ops + ops {
                break;
            }
        }
    }
}

#[test]
fn a_crash_at_every_operation_of_creating() {
    let state = state(150_000);
    let new = (meta(15, 2), state.clone());
    let act = |disk: &SimDisk| {
        let (snapshots, _) = open(disk)?;
        create(&snapshots, meta(15, 2), &state).map(drop)
    };
    check_crashes("creating", act, new);
}

#[test]
fn a_crash_at_every_operation_of_receiving() {
    let from = elsewhere(&state(150_000));
    let act = |disk: &SimDisk| {
        let (snapshots, _) = open(disk)?;
        receive(&snapshots, &from, 40_000).map(drop)
    };
    check_crashes("receiving", act, (meta(20, 3), state(150_000)));
}

/// A disk that is full from any write on, or a sync that fails: refused, no harm done, nothing left
/// behind.
fn check_faults(faults: impl Fn(u64, u64) -> Faults, is_expected: impl Fn(&StorageError) -> bool) {
    let before = disk_with(b"10");
    let from = elsewhere(&state(150_000));
    for (k, receives) in (1..40).flat_map(|k| [(k, false), (k, true)]) {
        let disk = before.fork(k);
        let (snapshots, _) = open(&disk).unwrap();
        let counts = disk.counts();
        disk.set_faults(faults(counts.writes + k, counts.syncs + k));
        let act = || match receives {
            true => receive(&snapshots, &from, 10_000).map(drop),
            false => create(&snapshots, meta(15, 2), &state(150_000)).map(drop),
        };
        let Err(err) = act() else { continue };
        assert!(is_expected(&err), "{k}: {err}");
        if snap_files(&disk).len() == 1 {
            assert_eq!(snapshots.newest().unwrap().meta(), meta(10, 2));
        }
        disk.set_faults(Faults::default());
        act().unwrap_or_else(|err| panic!("{k}, once it is over: {err}"));
        assert_eq!(snap_files(&disk).len(), 1, "{k}");
    }
}

/// Pitfall 17.
#[test]
fn a_full_disk_harms_nothing() {
    let full = |write, _| Faults { full_from_write: Some(write), ..Faults::default() };
    check_faults(full, StorageError::is_full);
}

#[test]
fn a_failed_sync_harms_nothing() {
    let failed = |_, sync| Faults { fail_sync: Some(sync), ..Faults::default() };
    check_faults(failed, |err| matches!(err, StorageError::Io { .. }));
}

#[test]
fn a_writer_says_in_io_terms_what_happened() {
    let disk = disk_with(b"10");
    let (snapshots, _) = open(&disk).unwrap();
    let mut writer = snapshots.create(meta(15, 2), None).unwrap();
    disk.set_faults(Faults {
        full_from_write: Some(disk.counts().writes + 1),
        ..Faults::default()
    });
    let err = writer.write_all(&state(CHUNK)).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::StorageFull);
    disk.set_faults(Faults::default());
    assert_eq!(
        writer.write_all(b"more").unwrap_err().kind(),
        ErrorKind::StorageFull,
        "it is final"
    );
    assert!(writer.finish().unwrap_err().is_full());
    assert_eq!(snap_files(&disk).len(), 1);
}

#[test]
fn short_writes_change_nothing() {
    let disk = disk_with(b"10");
    disk.set_faults(Faults { short_writes: true, ..Faults::default() });
    let (snapshots, _) = open(&disk).unwrap();
    create(&snapshots, meta(15, 2), &state(200_000)).unwrap();
    receive(&snapshots, &elsewhere(&state(200_000)), 10_000).unwrap();
    drop(snapshots);
    assert_eq!(found(&disk), Some((meta(20, 3), state(200_000))));
}

/// Pitfall 29 (raft#212): a long transfer must not start again from the beginning.
#[test]
fn a_transfer_goes_on_where_it_broke_off() {
    let from = elsewhere(&state(200_000));
    let disk = disk_with(b"10");
    let (snapshots, _) = open(&disk).unwrap();
    let chunk = |offset| from.read_chunk(offset, 50_000).unwrap();
    let mut receiver = snapshots.receive(from.meta(), from.len_bytes()).unwrap();
    assert_eq!(receiver.write(0, &chunk(0)).unwrap(), 50_000);
    assert_eq!(receiver.write(100_000, &chunk(100_000)).unwrap(), 50_000, "too early");
    assert_eq!(receiver.write(0, &chunk(0)).unwrap(), 50_000, "twice");
    assert_eq!(receiver.write(30_000, &chunk(30_000)).unwrap(), 80_000, "some of it twice");
    drop(receiver);
    let mut receiver = snapshots.receive(from.meta(), from.len_bytes()).unwrap();
    assert_eq!(receiver.offset(), 80_000);
    while !receiver.is_complete() {
        receiver.write(receiver.offset(), &chunk(receiver.offset())).unwrap();
    }
    assert_eq!(read(&receiver.finish().unwrap()), state(200_000));
    assert_eq!(snap_files(&disk).len(), 1);
}

#[test]
fn another_snapshot_takes_the_place_of_what_was_put_aside() {
    let from = elsewhere(&state(200_000));
    let disk = disk_with(b"10");
    let (snapshots, _) = open(&disk).unwrap();
    for (index, len) in [(20, from.len_bytes()), (20, from.len_bytes() + 1), (21, 50_000)] {
        let mut receiver = snapshots.receive(meta(index, 3), len).unwrap();
        assert_eq!(receiver.offset(), 0);
        receiver.write(0, &from.read_chunk(0, 10_000).unwrap()).unwrap();
        drop(receiver);
        assert_eq!(snap_files(&disk).len(), 2, "one is put aside at most");
    }
    drop(snapshots);
    assert_eq!(snap_files(&disk).len(), 1, "and none for ever");
}

#[test]
fn what_arrived_damaged_replaces_nothing() {
    let from = elsewhere(&state(100_000));
    let disk = disk_with(b"10");
    let (snapshots, _) = open(&disk).unwrap();
    let good = from.read_chunk(0, 1 << 20).unwrap();
    for at in (0..good.len()).step_by(997) {
        let mut bad = good.to_vec();
        bad[at] ^= 1;
        let mut receiver = snapshots.receive(from.meta(), from.len_bytes()).unwrap();
        assert_eq!(receiver.offset(), 0, "nothing is kept of what was damaged");
        receiver.write(0, &bad).unwrap();
        let err = receiver.finish().unwrap_err();
        assert!(matches!(err, StorageError::SnapshotCorrupt { .. }), "{err}");
        assert_eq!((snapshots.newest().unwrap().meta(), snap_files(&disk).len()), (meta(10, 2), 1));
    }
    // Announced as another snapshot than it is, too short, or too long.
    for (index, len) in [(21, good.len()), (20, good.len() + 1), (20, good.len() - 1)] {
        let mut receiver = snapshots.receive(meta(index, 3), len as u64).unwrap();
        let wrote = receiver.write(0, &good);
        assert!(receiver.finish().unwrap_err().is_corrupt());
        assert_eq!(wrote.is_err(), len < good.len());
    }
    assert_eq!(snap_files(&disk).len(), 1);
}

#[test]
fn on_the_file_system_of_this_machine() {
    let temp = tempfile::tempdir().unwrap();
    let open = || {
        let dir = DataDir::open_on(Arc::new(RealDisk), temp.path(), ME, Standing::New).unwrap();
        Snapshots::open(&dir).unwrap()
    };
    // More than is written between two syncs.
    let state = state(20 << 20);
    let (snapshots, _) = open();
    let first = create(&snapshots, meta(1, 1), &state).unwrap();
    let reading = std::thread::spawn(move || read(&first));
    create(&snapshots, meta(2, 1), b"second").unwrap();
    assert!(reading.join().unwrap() == state, "removed, and readable by who has it");
    drop(snapshots);
    let (_, found) = open();
    assert_eq!(read(&found.unwrap()), b"second");
    let names: Vec<_> = std::fs::read_dir(temp.path().join("snap")).unwrap().collect();
    assert_eq!(names.len(), 1);
}
