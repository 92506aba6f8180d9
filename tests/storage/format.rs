//! Bytes of the formats, kept in `tests/golden`: today's code writes the same bytes and reads them.
//!
//! - `storage-v3*`: the formats of today, with configurations.
//! - `storage-v2*`: from before there were configurations. A directory of that time is read, and
//!   written as then, until there is one.
//! - `storage-unreleased-1`: format 1, which was never released. It is refused in words.
//!
//! `UPDATE_GOLDENFILES=1` writes the first two anew. A released version must never need this: a
//! changed format gets a new number and a new directory, and the old format stays readable.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use syncraft::raft::{
    Configuration, Entry, HardState, Index, MemberId, Membership, Payload, Standing, Term,
};
use syncraft::storage::sim::{Faults, SimDisk};
use syncraft::storage::{DataDir, Identity, Snapshots, Wal};

use crate::model::{Batch, Content, DIR, ME, configuration, meta, open, options, state, write};

const SEGMENT_LEN_BYTES: u64 = 4096;

fn golden_dir(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn batch(term: u64, vote: Option<u64>, first: u64, payloads: &[Payload]) -> Batch {
    let hard_state = HardState { current_term: Term(term), voted_for: vote.map(MemberId) };
    let entries = payloads.iter().zip(first..);
    let entry = |(payload, index): (&Payload, u64)| Entry {
        index: Index(index),
        term: Term(term),
        payload: payload.clone(),
    };
    Batch { hard_state: Some(hard_state), entries: entries.map(entry).collect() }
}

/// Everything that format 2 can express: terms with and without a vote, each kind of record, an
/// empty command, a batch without records, replaced entries, a sealed segment, a segment longer
/// than the others, a closed log.
fn history() -> Vec<Batch> {
    let command = |bytes: &'static [u8]| Payload::Command(Bytes::from_static(bytes));
    let long = |len: usize| Payload::Command((0..len).map(|n| (n % 251) as u8).collect());
    vec![
        batch(1, Some(1), 1, &[]),
        batch(1, Some(1), 1, &[Payload::Noop, command(b"put x 1"), command(b"")]),
        batch(2, None, 4, &[command(b"lost"), command(b"lost too")]),
        batch(3, Some(3), 4, &[Payload::Noop]),
        batch(3, Some(3), 5, &[long(5000)]),
        batch(3, Some(3), 6, &[command(b"\0\xff\n"), Payload::Noop]),
        batch(3, Some(3), 8, &[long(2500)]),
        batch(u64::MAX, Some(u64::MAX), 9, &[command(b"the last")]),
    ]
}

/// What format 3 adds: a configuration with everything that one can have.
fn of_members() -> Batch {
    let mut configuration = configuration(4);
    configuration.membership = Membership::new([2, 3].map(MemberId))
        .joint_with([1, 2].map(MemberId))
        .with_learners([MemberId(4)]);
    configuration.places.get_mut(&MemberId(4)).unwrap().directory = 77;
    configuration.removed = [MemberId(9)].into();
    let payload = Payload::Configuration(Arc::new(configuration));
    batch(u64::MAX, Some(u64::MAX), 10, &[payload])
}

fn history_with_members() -> Vec<Batch> {
    history().into_iter().chain([of_members()]).collect()
}

fn content(history: &[Batch]) -> Content {
    let mut content = Content::default();
    history.iter().for_each(|batch| content.apply(batch));
    content
}

/// Writes this history.
fn add_history(disk: &SimDisk, history: &[Batch]) {
    let (mut wal, _) = open(disk, SEGMENT_LEN_BYTES).unwrap();
    history.iter().for_each(|batch| write(&mut wal, batch).unwrap());
    wal.close();
    data_dir(disk).mark_joined().unwrap();
}

/// A new directory that an older version has made.
fn new_v2() -> SimDisk {
    let disk = SimDisk::new(1);
    let directory = data_dir(&disk).directory();
    let Identity { cluster_id, member_id, .. } = ME;
    let body = format!(
        "syncraft data directory\nformat 2\ndirectory {directory:016x}\n\
         cluster {cluster_id:016x}\nmember {member_id}\nlog none\njoining new\n"
    );
    let text = format!("{body}crc32c {:08x}\n", crc32c::crc32c(body.as_bytes()));
    disk.set_bytes(&Path::new(DIR).join("meta"), text.into_bytes());
    disk
}

/// A disk after that history, in an older directory.
fn with_history_v2() -> SimDisk {
    let disk = new_v2();
    add_history(&disk, &history());
    disk
}

/// A disk after a history with members, in a new directory.
fn with_history() -> SimDisk {
    let disk = SimDisk::new(1);
    add_history(&disk, &history_with_members());
    disk
}

/// The rest of the format: a snapshot of more than one chunk, and a log begun anew after it.
fn add_snapshot(disk: &SimDisk, configuration: Option<&Configuration>) {
    let dir = data_dir(disk);
    let (snapshots, _) = Snapshots::open(&dir).unwrap();
    let mut writer = snapshots.create(meta(1000, 3), configuration).unwrap();
    writer.write_all(&state(STATE_LEN_BYTES)).unwrap();
    writer.finish().unwrap();
    let (mut wal, _) = Wal::open(&dir, options(SEGMENT_LEN_BYTES), None).unwrap();
    wal.reset(meta(1000, 3)).unwrap();
    write(&mut wal, &after_snapshot()).unwrap();
    wal.close();
}

const STATE_LEN_BYTES: usize = 70_000;

fn after_snapshot() -> Batch {
    batch(u64::MAX, Some(u64::MAX), 1001, &[Payload::Noop])
}

fn data_dir(disk: &SimDisk) -> DataDir {
    DataDir::open_on(Arc::new(disk.clone()), DIR, ME, Standing::New).unwrap()
}

fn check_written(name: &str, disk: &SimDisk, count: usize) {
    let mut files = disk.files(Path::new(DIR));
    files.retain(|file| file.extension().is_none_or(|extension| extension != "tmp"));
    assert_eq!(files.len(), count, "{files:?}");
    for file in files {
        let bytes = disk.bytes(&file).unwrap();
        let golden = golden_dir(name).join(file.strip_prefix(DIR).unwrap());
        if std::env::var_os("UPDATE_GOLDENFILES").is_some() {
            std::fs::create_dir_all(golden.parent().unwrap()).unwrap();
            std::fs::write(&golden, &bytes).unwrap();
        }
        let stored = std::fs::read(&golden).unwrap();
        let differs = bytes.iter().zip(&stored).position(|(new, old)| new != old);
        assert!(bytes == stored, "{} differs at {differs:?}", file.display());
    }
}

/// A disk with stored files on it.
fn stored(name: &str) -> SimDisk {
    let disk = SimDisk::new(1);
    drop(Snapshots::open(&data_dir(&disk)).unwrap());
    add_stored(&disk, name);
    disk
}

fn add_stored(disk: &SimDisk, name: &str) {
    for dir in ["", "wal", "snap"] {
        let Ok(files) = std::fs::read_dir(golden_dir(name).join(dir)) else { continue };
        let files = files.map(|file| file.unwrap().path()).filter(|file| file.is_file());
        for file in files {
            let path = Path::new(DIR).join(dir).join(file.file_name().unwrap());
            disk.set_bytes(&path, std::fs::read(file).unwrap());
        }
    }
}

const UNRELEASED: &str = "storage-unreleased-1";
const REFUSAL: &str = "has format version 1, which was never released and is no longer read: start \
                       with an empty data directory";

/// Everything on the disk.
fn contents(disk: &SimDisk) -> Vec<(PathBuf, Option<Vec<u8>>)> {
    let files = disk.files(Path::new(DIR)).into_iter();
    files.map(|file| (file.clone(), disk.bytes(&file))).collect()
}

#[test]
fn a_directory_of_an_unreleased_format_is_refused_in_a_sentence() {
    let disk = stored(UNRELEASED);
    let before = contents(&disk);
    let err = DataDir::open_on(Arc::new(disk.clone()), DIR, ME, Standing::New).unwrap_err();
    assert_eq!(err.to_string(), format!("{DIR}/meta {REFUSAL}"));
    assert!(!err.is_corrupt(), "it is not damaged");
    let emptied = DataDir::open_emptied_on(Arc::new(disk.clone()), DIR, ME).unwrap_err();
    assert_eq!(emptied.to_string(), err.to_string(), "nor is it discarded");
    assert!(contents(&disk) == before, "a refused directory was changed");
}

/// The other files of such a directory, beside a `meta` of today.
#[test]
fn a_log_or_a_snapshot_of_an_unreleased_format_is_refused_in_a_sentence() {
    let disk = with_history();
    let meta = disk.bytes(&Path::new(DIR).join("meta")).unwrap();
    disk.files(&Path::new(DIR).join("wal")).iter().for_each(|file| disk.lose(file));
    drop(Snapshots::open(&data_dir(&disk)).unwrap());
    add_stored(&disk, UNRELEASED);
    disk.set_bytes(&Path::new(DIR).join("meta"), meta);
    let before = contents(&disk);
    let dir = data_dir(&disk);
    let err = Wal::open(&dir, options(SEGMENT_LEN_BYTES), None).unwrap_err();
    assert_eq!(err.to_string(), format!("{DIR}/wal/0000000003.wal {REFUSAL}"));
    let err = Snapshots::open(&dir).unwrap_err();
    assert_eq!(err.to_string(), format!("{DIR}/snap/0000001000-0000000003.snap {REFUSAL}"));
    assert!(contents(&disk) == before, "a refused directory was changed");
}

#[test]
fn format_2_is_written_as_ever() {
    let disk = with_history_v2();
    // meta and three segments
    check_written("storage-v2", &disk, 4);
    add_snapshot(&disk, None);
    // meta, a snapshot, and the segment in which the log was begun anew
    check_written("storage-v2-compacted", &disk, 3);
}

#[test]
fn format_3_is_written_as_ever() {
    let disk = with_history();
    check_written("storage-v3", &disk, 4);
    add_snapshot(&disk, Some(&configuration(3)));
    check_written("storage-v3-compacted", &disk, 3);
}

#[test]
fn the_log_of_every_format_is_read_as_ever() {
    for (name, history) in [("storage-v2", history()), ("storage-v3", history_with_members())] {
        let (_, recovered) = open(&stored(name), SEGMENT_LEN_BYTES).unwrap();
        assert_eq!(Content::of(&recovered), content(&history), "{name}");
    }
}

#[test]
fn the_snapshot_of_every_format_is_read_as_ever() {
    for (name, configured) in
        [("storage-v2-compacted", None), ("storage-v3-compacted", Some(configuration(3)))]
    {
        let disk = stored(name);
        let dir = data_dir(&disk);
        let (_, snapshot) = Snapshots::open(&dir).unwrap();
        let snapshot = snapshot.unwrap();
        let mut bytes = Vec::new();
        snapshot.reader().unwrap().read_to_end(&mut bytes).unwrap();
        assert!(snapshot.meta() == meta(1000, 3) && bytes == state(STATE_LEN_BYTES), "{name}");
        assert_eq!(snapshot.configuration().map(|it| &**it), configured.as_ref(), "{name}");
        assert_eq!(snapshot.cluster_id(), ME.cluster_id, "{name}");
        let base = Some(snapshot.meta());
        let (_, recovered) = Wal::open(&dir, options(SEGMENT_LEN_BYTES), base).unwrap();
        assert_eq!(recovered.entries, after_snapshot().entries, "{name}");
    }
}

/// The version in each segment.
fn segment_versions(disk: &SimDisk) -> Vec<u8> {
    let files = disk.files(&Path::new(DIR).join("wal")).into_iter();
    let segments = files.filter(|file| file.extension().is_some_and(|it| it == "wal"));
    segments.map(|file| disk.bytes(&file).unwrap()[12]).collect()
}

/// An older program refuses the new segment by its version, and the directory by that of `meta`.
#[test]
fn an_older_directory_goes_on_in_format_3_with_its_first_configuration() {
    let disk = stored("storage-v2");
    let list_id = ME.cluster_id;
    assert_eq!(
        data_dir(&disk).identity(),
        Identity { list_id, ..ME },
        "the id stands for the list"
    );
    let (mut wal, _) = open(&disk, SEGMENT_LEN_BYTES).unwrap();
    write(&mut wal, &of_members()).unwrap();
    write(&mut wal, &batch(u64::MAX, Some(u64::MAX), 11, &[Payload::Noop])).unwrap();
    wal.close();
    assert_eq!(segment_versions(&disk), [2, 2, 2, 3]);
    let (_, recovered) = open(&disk, SEGMENT_LEN_BYTES).unwrap();
    assert_eq!(recovered.entries[..10], content(&history_with_members()).entries);
    assert_eq!(recovered.entries.len(), 11);

    let meta = || String::from_utf8(disk.bytes(&Path::new(DIR).join("meta")).unwrap()).unwrap();
    assert!(meta().contains("\nformat 2\n"), "{}", meta());
    data_dir(&disk).record_cluster(ME.cluster_id).unwrap();
    assert!(meta().contains("\nformat 3\n"), "{}", meta());
    assert_eq!(data_dir(&disk).identity(), Identity { list_id, ..ME });
}

#[test]
fn a_crash_at_every_operation_of_that_step() {
    let before = content(&history());
    let after = content(&history_with_members());
    for stop_at in 1.. {
        let disk = stored("storage-v2").fork(stop_at);
        let (mut wal, _) = open(&disk, SEGMENT_LEN_BYTES).unwrap();
        let stop_at_op = Some(disk.counts().ops + stop_at);
        disk.set_faults(Faults { stop_at_op, ..Faults::default() });
        let is_written = write(&mut wal, &of_members()).is_ok();
        drop(wal);
        disk.crash();
        let (_, recovered) = open(&disk, SEGMENT_LEN_BYTES).unwrap();
        let found = Content::of(&recovered);
        assert!(found == after || !is_written && found == before, "stop at {stop_at}");
        if is_written {
            break;
        }
    }
}

/// Members of both versions send each other snapshots.
#[test]
fn a_snapshot_without_a_configuration_is_of_format_2() {
    let (older, newer) = (with_history_v2(), with_history());
    [&older, &newer].iter().for_each(|disk| add_snapshot(disk, None));
    let file = Path::new(DIR).join("snap/0000001000-0000000003.snap");
    assert!(older.bytes(&file) == newer.bytes(&file));
}
