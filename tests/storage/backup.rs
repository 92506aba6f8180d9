//! Backups as files: damage of every kind is noticed, and a file that an earlier version wrote, in
//! `tests/golden/backup-1`, is restored.
//!
//! `UPDATE_GOLDENFILES=1` writes that file anew. A released version must never need this: a changed
//! format gets a new number and a new directory, and the old format stays readable.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use syncraft::backup::{self, BackupError, BackupFile, BackupHead, Restored};
use syncraft::kv::model::{LeaseId, Revision};
use syncraft::kv::{Change, Command, Identity, LEVEL_MAX, Outcome, RAISED_BY, Store};
use syncraft::members::Members;
use syncraft::node::{StateMachine, StateView};
use syncraft::raft::{Index, MemberId, Term};
use syncraft::storage::{DataDir, Snapshots, StorageError, Wal, WalOptions};

const INDEX: u64 = 40;
const TERM: u64 = 3;

/// A store with everything that a backup can hold: entries of more than one chunk, an empty key and
/// value, leases of both kinds, the key of a request, and sessions, which it leaves out.
fn store() -> Store {
    let mut store = Store::new();
    let mut index = INDEX - 20;
    let mut apply = |change: Change, stamp_ms: Option<u64>| {
        index += 1;
        let identity =
            Identity { client_id: "client".into(), request_id: index as i64, seen_index: Index(1) };
        let mut bytes = Command { identity, change }.encode().to_vec();
        bytes.extend(stamp_ms.into_iter().flat_map(u64::to_le_bytes));
        store.apply(Index(index), &bytes.into());
    };
    let put = |key: &str, value: Vec<u8>| Change::Put {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: value.into(),
    };
    apply(put("long", (0..70_000).map(|n: u32| (n % 251) as u8).collect()), None);
    apply(put("", Vec::new()), None);
    apply(put("greeting", b"hallo".to_vec()), None);
    apply(put("greeting", b"hello".to_vec()), None);
    apply(Change::LeaseGrant { ttl_ms: 60_000, id: LeaseId(7) }, Some(1_000));
    store
}

fn head(store: &Store) -> BackupHead {
    let (view, stats) = (store.view(), store.stats());
    BackupHead {
        cluster_id: 0x0123_4567_89ab_cdef,
        index: Index(INDEX),
        term: Term(TERM),
        revision: view.revision(),
        made_at_ms: 1_795_942_505_000,
        level: view.level(),
        keys: stats.keys as u64,
        bytes: stats.bytes,
        version: "0.1.0".to_owned(),
    }
}

fn write(path: &Path, head: &BackupHead) {
    let mut file = BackupFile::create(path, head).unwrap();
    store().view().without_past().write(&mut file).unwrap();
    file.finish().unwrap();
}

fn written(path: &Path) -> Vec<u8> {
    write(path, &head(&store()));
    fs::read(path).unwrap()
}

fn members(list: &str) -> Members {
    list.parse().unwrap()
}

const LIST: &str = "1=a.example:7001,2=b.example:7001,3=c.example:7001";

fn restore(file: &Path, dir: &Path, id: u64, token: &str) -> Result<Restored, BackupError> {
    backup::restore(file, dir, &members(LIST), MemberId(id), token)
}

fn temporary() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.backup");
    (dir, path)
}

/// The state that a member starts with, and its first index.
fn started(dir: &Path) -> (Store, Index) {
    let dir = DataDir::open_any(dir).unwrap();
    let snapshot = Snapshots::open(&dir).unwrap().1.unwrap();
    let meta = snapshot.meta();
    let (_, recovered) = Wal::open(&dir, WalOptions::default(), Some(meta)).unwrap();
    assert_eq!(recovered.entries, []);
    assert_eq!(recovered.hard_state.current_term, Term(TERM));
    let mut store = Store::new();
    store.load(&mut snapshot.reader().unwrap()).unwrap();
    (store, meta.last_included_index)
}

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/backup-1/store.backup")
}

#[test]
fn a_backup_of_an_earlier_version_is_written_and_restored_as_ever() {
    let (_dir, path) = temporary();
    let bytes = written(&path);
    if std::env::var_os("UPDATE_GOLDENFILES").is_some() {
        fs::create_dir_all(golden().parent().unwrap()).unwrap();
        fs::write(golden(), &bytes).unwrap();
    }
    assert!(fs::read(golden()).unwrap() == bytes, "today's code writes other bytes");

    let contents = backup::verify(&golden()).unwrap();
    assert_eq!(contents.head, head(&store()));
    assert_eq!((contents.head.keys, contents.leases, contents.head.level), (3, 1, 1));
    let dir = tempfile::tempdir().unwrap();
    let restored = restore(&golden(), dir.path(), 2, "").unwrap();
    let (mut store, index) = started(dir.path());
    assert_eq!((restored.index, index.0), (index, INDEX + RAISED_BY));
    assert_eq!(restored.revision, Revision(5 + RAISED_BY));
    assert_eq!((store.revision(), store.stats().compacted), (restored.revision, restored.revision));
    assert_eq!((store.stats().leases, store.stats().sessions), (1, 0));
    assert_eq!(store.value(b"greeting").as_deref(), Some(&b"hello"[..]));
    assert_eq!(store.value(b"").as_deref(), Some(&b""[..]));
    assert_eq!(store.value(b"long").unwrap().len(), 70_000);
    // Whatever an old client sends again is refused.
    let old = Identity { client_id: "client".into(), request_id: 24, seen_index: Index(INDEX) };
    let change = Change::Put { key: "greeting".into(), value: "twice".into() };
    let outcome = store.apply(Index(index.0 + 1), &Command { identity: old, change }.encode());
    assert_eq!(outcome, Outcome::SessionExpired { index: Index(index.0 + 1) });
    // It serves: the state is sound.
    let (key, value) = ("greeting".into(), "again".into());
    store.apply(Index(index.0 + 2), &Command::unrepeated(Change::Put { key, value }).encode());
    assert_eq!(store.revision(), Revision(restored.revision.0 + 1));
}

#[test]
fn every_cut_is_noticed() {
    let (dir, path) = temporary();
    let good = written(&path);
    let (header, chunk) = (128, 8 + (64 << 10));
    let ends = [0, 1, 8, header - 1, header, header + 4, header + 8, header + 9, header + chunk];
    let around = ends.iter().flat_map(|&at| [at, at + 1, at + 7]);
    let last = (good.len() - 40..good.len()).chain((0..good.len()).step_by(3_001));
    for len in around.chain(last) {
        fs::write(&path, &good[..len]).unwrap();
        refused(&path, dir.path(), &format!("{len} bytes"));
    }
    fs::write(&path, [&good[..], b"x"].concat()).unwrap();
    refused(&path, dir.path(), "a byte more");
    fs::write(&path, [&good[..], &good].concat()).unwrap();
    refused(&path, dir.path(), "twice");
}

#[test]
fn every_flip_is_noticed() {
    let (dir, path) = temporary();
    let good = written(&path);
    let ends = (0..160).chain(good.len() - 40..good.len());
    for at in ends.chain((160..good.len()).step_by(1_277)) {
        let mut bad = good.clone();
        bad[at] ^= 1 << (at % 8);
        fs::write(&path, bad).unwrap();
        refused(&path, dir.path(), &format!("byte {at}"));
    }
}

/// Chunks that are whole, but not those of this file at this place.
#[test]
fn chunks_in_another_order_are_noticed() {
    let (dir, path) = temporary();
    let good = written(&path);
    let (header, rest) = good.split_at(128);
    let (first, rest) = rest.split_at(8 + (64 << 10));
    for parts in [&[header, rest][..], &[header, first, first, rest], &[header, rest, first]] {
        fs::write(&path, parts.concat()).unwrap();
        refused(&path, dir.path(), "chunks");
    }
}

#[track_caller]
fn refused(path: &Path, dir: &Path, what: &str) {
    let error = backup::verify(path).unwrap_err();
    assert!(matches!(error, BackupError::Damaged { .. }), "{what}: {error}");
    let data_dir = dir.join("data");
    let error = restore(path, &data_dir, 1, "").unwrap_err();
    assert!(matches!(error, BackupError::Damaged { .. }), "{what}: {error}");
    assert!(!data_dir.exists(), "{what}: nothing was made");
}

#[test]
fn a_header_that_describes_another_state_is_noticed() {
    let (dir, path) = temporary();
    let head = head(&store());
    write(&path, &BackupHead { keys: head.keys + 1, ..head });
    refused(&path, dir.path(), "one key too many");
}

#[test]
fn what_is_newer_is_refused_in_words() {
    let (_dir, path) = temporary();
    let head = head(&store());
    write(&path, &BackupHead { level: LEVEL_MAX + 1, ..head });
    let words = backup::verify(&path).unwrap_err().to_string();
    assert!(words.contains("feature level") && words.ends_with("use a newer syncraft"), "{words}");
    let mut bytes = fs::read(&path).unwrap();
    bytes[12] = 2;
    let crc = crc32c::crc32c(&bytes[12..128]);
    bytes[8..12].copy_from_slice(&crc.to_le_bytes());
    fs::write(&path, bytes).unwrap();
    let words = backup::verify(&path).unwrap_err().to_string();
    assert!(words.contains("format 2") && words.ends_with("use a newer syncraft"), "{words}");
}

#[test]
fn members_of_one_cluster_agree_and_no_other_cluster_has_their_id() {
    let (dir, path) = temporary();
    written(&path);
    let at = |name: &str| dir.path().join(name);
    let first = restore(&path, &at("1"), 1, "").unwrap();
    let bytes = |name: &str| {
        let mut bytes = Vec::new();
        started(&at(name)).0.view().write(&mut bytes).unwrap();
        bytes
    };
    for id in [2, 3] {
        let name = id.to_string();
        assert_eq!(restore(&path, &at(&name), id, "").unwrap(), first);
        assert!(bytes(&name) == bytes("1"), "member {id} has another state");
    }
    let token = restore(&path, &at("token"), 1, "again").unwrap();
    let alone = members("1=a.example:7001");
    let list = backup::restore(&path, &at("list"), &alone, MemberId(1), "").unwrap();
    fs::remove_file(&path).unwrap();
    let head = head(&store());
    write(&path, &BackupHead { made_at_ms: head.made_at_ms + 1, ..head });
    let later = restore(&path, &at("later"), 1, "").unwrap();
    let ids = [first, token, list, later].map(|it| it.cluster_id);
    assert!((1..4).all(|n| !ids[..n].contains(&ids[n])), "{ids:x?}");
}

#[test]
fn only_an_empty_directory_and_a_member_of_the_list_will_do() {
    let (dir, path) = temporary();
    written(&path);
    let data_dir = dir.path().join("data");
    let error = restore(&path, &data_dir, 4, "").unwrap_err();
    assert_eq!(error.to_string(), format!("member 4 is not in the list of members {LIST}"));
    assert!(!data_dir.exists());
    fs::create_dir(&data_dir).unwrap();
    fs::write(data_dir.join("notes"), "mine").unwrap();
    let error = restore(&path, &data_dir, 1, "").unwrap_err();
    let BackupError::Storage(StorageError::NotEmpty { found, .. }) = error else {
        panic!("{error}");
    };
    assert_eq!(found, "notes");
    assert_eq!(fs::read_dir(&data_dir).unwrap().count(), 1, "nothing was added");
    fs::remove_file(data_dir.join("notes")).unwrap();
    restore(&path, &data_dir, 1, "").unwrap();
    assert!(restore(&path, &data_dir, 1, "").is_err(), "a member's data is never replaced");
}

#[test]
fn a_backup_replaces_no_file_and_leaves_none_behind() {
    let (dir, path) = temporary();
    let good = written(&path);
    let error = BackupFile::create(&path, &head(&store())).unwrap_err();
    assert!(matches!(error, BackupError::Exists { .. }), "{error}");
    assert!(fs::read(&path).unwrap() == good);
    let mut file = BackupFile::create(&dir.path().join("other"), &head(&store())).unwrap();
    file.write_all(b"a part").unwrap();
    drop(file);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "an unfinished one is removed");
}
