use std::io::Read;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::raft::{Index, Standing, Term};
use crate::storage::disk::{Disk, DiskDir, DiskFile, DiskLock, RealDisk};
use crate::storage::{Identity, Snapshots, Wal, WalOptions};

const ME: MemberId = MemberId(2);

const OLD: Identity = Identity { cluster_id: 7, list_id: 70, member_id: ME };

fn of(cluster_id: u64) -> Configuration {
    Configuration::first(cluster_id, 70, [(ME, "b.example:7001".to_owned())])
}

/// The disk of this machine, on which a process dies at a change of a name.
#[derive(Debug)]
struct Dying {
    renames_left: AtomicUsize,
}

impl Disk for Dying {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        RealDisk.create(path)
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        RealDisk.open(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        RealDisk.list(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let left = self.renames_left.load(Ordering::Relaxed);
        self.renames_left
            .store(left.checked_sub(1).ok_or(io::ErrorKind::Other)?, Ordering::Relaxed);
        RealDisk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove(path)
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        RealDisk.remove_dir(dir)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        RealDisk.create_dir(path)
    }

    fn is_dir(&self, path: &Path) -> bool {
        RealDisk.is_dir(path)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        RealDisk.exists(path)
    }

    fn open_dir(&self, dir: &Path) -> io::Result<Arc<dyn DiskDir>> {
        RealDisk.open_dir(dir)
    }

    fn lock(&self, path: &Path) -> io::Result<Result<DiskLock, Option<u32>>> {
        RealDisk.lock(path)
    }
}

fn last(index: u64) -> SnapshotMeta {
    SnapshotMeta { last_included_index: Index(index), last_included_term: Term(9) }
}

/// The cluster of a directory that a member can start with, and its state.
fn found(path: &Path) -> Result<(u64, String), StorageError> {
    let dir = DataDir::open_any(path)?;
    let snapshot = Snapshots::open(&dir)?.1;
    Wal::open(&dir, WalOptions::default(), snapshot.as_ref().map(|it| it.meta()))?;
    let mut state = String::new();
    snapshot.expect("it has a snapshot").reader()?.read_to_string(&mut state).unwrap();
    Ok((dir.identity().cluster_id, state))
}

#[test]
fn wherever_it_is_cut_off_no_member_starts_with_a_mixture_and_it_can_be_finished() {
    for renames in 0.. {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("d");
        DataDir::create_with(&path, ME, &of(7), last(5), |out| out.write_all(b"old")).unwrap();
        let disk = Arc::new(Dying { renames_left: AtomicUsize::new(renames) });
        let dir = DataDir::open_on(disk, &path, OLD, Standing::New).unwrap();
        let replace =
            |dir: DataDir| dir.replace_with(ME, &of(8), last(1 << 40), |out| out.write_all(b"new"));
        let is_done = replace(dir).is_ok();
        match found(&path) {
            Ok((7, state)) => assert_eq!((&state[..], is_done), ("old", false), "{renames}"),
            Ok((_, state)) => assert_eq!(state, "new", "{renames}"),
            Err(error) => assert!(!is_done, "{renames}: {error}"),
        }
        let dir = DataDir::open_any(&path).unwrap();
        match (dir.identity() == OLD, dir.is_half_replaced().unwrap()) {
            (true, true) => drop(dir.finish_replacing().unwrap()),
            (true, false) => drop(replace(dir).unwrap()),
            (false, _) => drop(dir),
        }
        assert_eq!(found(&path).unwrap(), (8, "new".to_owned()), "{renames}");
        let aside = path.join("before-recovery-0000000000000007");
        assert_eq!(found(&aside).unwrap(), (7, "old".to_owned()), "{renames}");
        if is_done {
            assert!(!aside.join("new").exists());
            return;
        }
    }
}
