//! Makes a data directory from a state: the first one of a member of a new cluster, whose state
//! comes from a file instead of a log.
//!
//! `meta` is written last, once the state and the log behind it are durable. So a making that is
//! cut off leaves a directory without `meta`, which no member starts with.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use crate::raft::{Configuration, MemberId, SnapshotMeta};

use super::disk::{Disk, RealDisk};
use super::{DataDir, Identity, Snapshots, StorageError, Wal, WalOptions};

impl DataDir {
    /// Makes the data directory of a member that has promised nothing yet and holds this state: a
    /// snapshot that ends with the entry `last`, whose bytes `write` writes, with this
    /// configuration in force, and an empty log behind it.
    ///
    /// # Errors
    /// - [`NotEmpty`](StorageError::NotEmpty): something is in the directory already
    /// - [`Locked`](StorageError::Locked), [`Io`](StorageError::Io), [`Full`](StorageError::Full):
    ///   the directory cannot be used. It holds no data that a member starts with.
    pub fn create_with(
        path: impl AsRef<Path>,
        member_id: MemberId,
        configuration: &Configuration,
        last: SnapshotMeta,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(), StorageError> {
        let (disk, path) = (Arc::new(RealDisk), path.as_ref());
        DataDir::create_with_on(disk, path, member_id, configuration, last, write)
    }

    /// As [`create_with`](DataDir::create_with), on another disk.
    ///
    /// # Errors
    /// As there.
    pub fn create_with_on(
        disk: Arc<dyn Disk>,
        path: &Path,
        member_id: MemberId,
        configuration: &Configuration,
        last: SnapshotMeta,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(), StorageError> {
        let &Configuration { cluster_id, list_id, .. } = configuration;
        let dir = DataDir::begin_on(disk, path, Identity { cluster_id, list_id, member_id })?;
        let (snapshots, _) = Snapshots::open(&dir)?;
        let mut snapshot = snapshots.create(last, Some(configuration))?;
        write(&mut snapshot).map_err(StorageError::io("write a snapshot to", path))?;
        snapshot.finish()?;
        let options = WalOptions { prepare_ahead: false, ..WalOptions::default() };
        // Writes `meta`, and the term of `last` as the member's own.
        let (wal, _) = Wal::open(&dir, options, Some(last))?;
        wal.close();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::super::sim::{Faults, SimDisk};
    use super::*;
    use crate::raft::{Index, MemberId, Standing, Term};

    const ME: Identity = Identity { cluster_id: 7, list_id: 70, member_id: MemberId(2) };
    const LAST: SnapshotMeta =
        SnapshotMeta { last_included_index: Index(1 << 40), last_included_term: Term(9) };

    fn configuration() -> Configuration {
        Configuration::first(7, 70, [(MemberId(2), "b.example:7001".to_owned())])
    }

    fn create(disk: &SimDisk) -> Result<(), StorageError> {
        let (disk, dir) = (Arc::new(disk.clone()), Path::new("/d"));
        DataDir::create_with_on(disk, dir, ME.member_id, &configuration(), LAST, |out| {
            out.write_all(b"the state")
        })
    }

    fn open(disk: &SimDisk) -> Result<DataDir, StorageError> {
        DataDir::open_on(Arc::new(disk.clone()), "/d", ME, Standing::New)
    }

    #[test]
    fn a_member_starts_with_the_state_and_an_empty_log() {
        let disk = SimDisk::new(1);
        create(&disk).unwrap();
        let dir = open(&disk).unwrap();
        assert_eq!((dir.identity(), dir.standing()), (ME, Standing::Voter));
        let snapshot = Snapshots::open(&dir).unwrap().1.expect("it has a snapshot");
        assert_eq!(snapshot.meta(), LAST);
        assert_eq!(snapshot.configuration().map(|it| &**it), Some(&configuration()));
        assert!(dir.is_cluster_recorded());
        let mut state = Vec::new();
        snapshot.reader().unwrap().read_to_end(&mut state).unwrap();
        assert_eq!(state, b"the state");
        let (_, recovered) = Wal::open(&dir, WalOptions::default(), Some(LAST)).unwrap();
        assert_eq!(recovered.hard_state.current_term, Term(9));
        assert_eq!((recovered.hard_state.voted_for, recovered.entries.len()), (None, 0));
    }

    #[test]
    fn a_directory_with_something_in_it_is_refused() {
        let disk = SimDisk::new(1);
        create(&disk).unwrap();
        let error = create(&disk).unwrap_err();
        assert!(matches!(error, StorageError::NotEmpty { .. }), "{error}");
        assert!(error.to_string().contains("/d is not empty"), "{error}");
    }

    /// After a crash at any moment, the directory is whole, or no member starts with it as if it
    /// had a part of the state.
    #[test]
    fn a_making_that_is_cut_off_leaves_no_member() {
        for stop_at in 1.. {
            let disk = SimDisk::new(stop_at);
            disk.set_faults(Faults { stop_at_op: Some(stop_at), ..Faults::default() });
            let is_made = create(&disk).is_ok();
            disk.crash();
            match open(&disk) {
                Ok(dir) => {
                    let snapshot = Snapshots::open(&dir).unwrap().1;
                    assert_eq!(snapshot.is_some(), dir.standing() == Standing::Voter, "{stop_at}");
                }
                Err(error) => assert!(!is_made, "stop at {stop_at}: {error}"),
            }
            if is_made {
                break;
            }
        }
    }
}
