//! The data directory: records whose it is, and lets only one process use it.
//!
//! ```text
//! data-dir/
//!   LOCK    locked (flock) while a member runs; has its process id, for a second one's message
//!   meta    whose data it is, and whether it has all of it: see storage::meta
//!   wal/    the log: see storage::wal
//!   snap/   snapshots: see storage::snapshot
//!   before-recovery-<cluster>/    what `syncraft recover` has replaced: see storage::replace
//! ```
//!
//! `log started` turns a missing log into an error. Without it, a member whose log was deleted, but
//! not its `meta`, would start as if it had never voted and never stored anything. `joining` covers
//! a member whose whole directory was deleted, or given up as damaged. It does not know what it has
//! promised, and must not vote before it does ([`raft`](crate::raft), joining).
//!
//! The cluster's id is not known at the first start: it is drawn by the first leader, and recorded
//! when its entry is committed. A member without data that hears of a running cluster records that
//! one.
//!
//! `directory` ties the files of the log to this directory. A segment that came from elsewhere, or
//! from a log that was discarded here, is refused, whichever cluster it is of.
//!
//! Because the files contain values, only their owner can read them: directories have mode 0700 and
//! files 0600, whatever the umask. If an older version left them readable for others, opening makes
//! them private; the data directory itself only if nothing else is in it. Where the file system
//! refuses to change a mode, the member logs a warning and serves.
//!
//! Invariant: no member starts with a directory that has a log or a snapshot, but no `meta`. One
//! whose making was cut off (`storage/create.rs`) looks like this.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::raft::Standing;

use super::StorageError;
use super::disk::{Disk, DiskLock, DiskPin, RealDisk};
use super::identity::{Identity, LogOwner};
use super::meta::Meta;
use super::open_dir::OpenDir;
use super::wal::segment;

/// The names in a data directory that nobody else uses. The root of a file system has `lost+found`.
const OWN_NAMES: [&str; 6] = ["LOCK", "meta", "meta.tmp", "wal", "snap", "lost+found"];

/// A data directory. This value and the [`Wal`](super::Wal) opened in it hold its lock.
#[derive(Debug)]
pub struct DataDir {
    disk: Arc<dyn Disk>,
    dir: OpenDir,
    /// Whose log is in it.
    log_owner: LogOwner,
    /// As it is on the disk.
    meta: Arc<Mutex<Meta>>,
    lock: Arc<DiskLock>,
    /// Files and directories that must stay in place while the member runs.
    pins: Mutex<Vec<(PathBuf, Box<dyn DiskPin>)>>,
}

/// The id of the directory's cluster, as it is recorded at any time; 0 while it is not known.
#[derive(Clone, Debug)]
pub(super) struct KnownCluster(Arc<Mutex<Meta>>);

impl KnownCluster {
    pub(super) fn id(&self) -> u64 {
        self.0.lock().identity.cluster_id
    }
}

impl DataDir {
    /// Opens a directory, or creates it and its missing parents, durably.
    ///
    /// A directory that exists keeps its cluster, its list and its standing, whatever the arguments
    /// say: see [`identity`](DataDir::identity) and [`standing`](DataDir::standing).
    ///
    /// # Errors
    /// - [`Locked`](StorageError::Locked): another server uses it
    /// - [`OtherMember`](StorageError::OtherMember): it contains another member's data
    /// - [`MetaDamaged`](StorageError::MetaDamaged), [`NewerFormat`](StorageError::NewerFormat),
    ///   [`UnreleasedFormat`](StorageError::UnreleasedFormat)
    /// - [`Io`](StorageError::Io), [`Full`](StorageError::Full): it cannot be created, read or
    ///   written
    pub fn open(
        path: impl AsRef<Path>,
        identity: Identity,
        standing_if_new: Standing,
    ) -> Result<DataDir, StorageError> {
        DataDir::open_on(Arc::new(RealDisk), path, identity, standing_if_new)
    }

    /// As [`open`](DataDir::open), on another disk.
    ///
    /// # Errors
    /// As there.
    pub fn open_on(
        disk: Arc<dyn Disk>,
        path: impl AsRef<Path>,
        identity: Identity,
        standing_if_new: Standing,
    ) -> Result<DataDir, StorageError> {
        DataDir::open_with(disk, path.as_ref(), |disk, path| match Meta::read(disk, path)? {
            Some(meta) => {
                // The process that wrote it may have been killed before its name was durable.
                disk.sync_dir(path).map_err(StorageError::sync(path))?;
                check_member(meta, path, identity)
            }
            None => create(disk, path, identity, standing_if_new),
        })
    }

    /// As [`open`](DataDir::open), for whichever member's data is there.
    ///
    /// # Errors
    /// As for [`open`](DataDir::open); [`NoData`](StorageError::NoData): there is no `meta`.
    pub fn open_any(path: impl AsRef<Path>) -> Result<DataDir, StorageError> {
        let path = path.as_ref();
        match Meta::read(&RealDisk, path)? {
            Some(meta) => DataDir::open(path, meta.identity, meta.standing),
            None => Err(StorageError::NoData { dir: path.to_path_buf() }),
        }
    }

    /// Takes an empty directory, or creates it and its missing parents, for a member that will have
    /// a log at once. Its `meta` is written when that log begins.
    pub(super) fn begin_on(
        disk: Arc<dyn Disk>,
        path: &Path,
        identity: Identity,
    ) -> Result<DataDir, StorageError> {
        if disk.is_dir(path) {
            check_empty(&*disk, path)?;
        }
        DataDir::open_with(disk, path, |disk, path| {
            create_dirs(disk, path)?;
            Ok(Meta::new(disk, identity, Standing::Voter))
        })
    }

    /// Locks the directory, then calls `meta` to read or write that file.
    fn open_with(
        disk: Arc<dyn Disk>,
        path: &Path,
        meta: impl FnOnce(&dyn Disk, &Path) -> Result<Meta, StorageError>,
    ) -> Result<DataDir, StorageError> {
        disk.create_dir_all(path).map_err(StorageError::io("create", path))?;
        let lock = Arc::new(take_lock(&*disk, path)?);
        let meta = meta(&*disk, path)?;
        make_private(&*disk, path);
        let pins = Mutex::default();
        let dir = OpenDir::open(&*disk, path.to_path_buf())?;
        let (log_owner, in_file) = (meta.log_owner(), Arc::new(Mutex::new(meta)));
        let data_dir = DataDir { disk, dir, log_owner, meta: in_file, lock, pins };
        data_dir.pin(data_dir.path().join("LOCK"))?;
        // If the log is missing already, opening it says so.
        if data_dir.disk.is_dir(&data_dir.wal_dir()) {
            data_dir.pin(data_dir.wal_dir())?;
        }
        data_dir.finish_discarding(meta)?;
        Ok(data_dir)
    }

    /// From now on, [`check_in_place`](DataDir::check_in_place) fails unless this is in place.
    pub(super) fn pin(&self, path: PathBuf) -> Result<(), StorageError> {
        let pin = self.disk.pin(&path).map_err(StorageError::io("open", &path))?;
        self.pins.lock().push((path, pin));
        Ok(())
    }

    /// Checks that this is still the directory that was opened. If it was removed, moved away or
    /// replaced, writes to its open files still succeed, but nobody will find them there.
    ///
    /// # Errors
    /// [`TakenAway`](StorageError::TakenAway)
    pub fn check_in_place(&self) -> Result<(), StorageError> {
        for (path, pin) in &*self.pins.lock() {
            match pin.is_in_place() {
                Ok(true) => {}
                Ok(false) => return Err(self.taken_away(path.clone())),
                // If the disk does not work, the log will notice.
                Err(err) => log::debug!("cannot look for {}: {err}", path.display()),
            }
        }
        // Not pinned, because each change replaces it.
        let meta = self.path().join("meta");
        if let Ok(false) = self.disk.exists(&meta) {
            return Err(self.taken_away(meta));
        }
        let wal = self.wal_dir();
        if self.is_log_started()
            && let Ok(names) = self.disk.list(&wal)
            && names.iter().all(|name| segment::parse_file_name(name).is_none())
        {
            return Err(self.taken_away(wal));
        }
        Ok(())
    }

    fn taken_away(&self, missed: PathBuf) -> StorageError {
        StorageError::TakenAway { dir: self.path().to_path_buf(), missed }
    }

    /// As [`open`](DataDir::open), but discards whatever is in the directory, damaged or whole,
    /// except for the ids of its cluster and list if they can be read. The member is
    /// [`Standing::Rebuilding`] until [`mark_joined`](DataDir::mark_joined).
    ///
    /// # Errors
    /// As for [`open`](DataDir::open), without those for damage.
    pub fn open_emptied(
        path: impl AsRef<Path>,
        identity: Identity,
    ) -> Result<DataDir, StorageError> {
        DataDir::open_emptied_on(Arc::new(RealDisk), path, identity)
    }

    /// As [`open_emptied`](DataDir::open_emptied), on another disk.
    ///
    /// # Errors
    /// As there.
    pub fn open_emptied_on(
        disk: Arc<dyn Disk>,
        path: impl AsRef<Path>,
        identity: Identity,
    ) -> Result<DataDir, StorageError> {
        DataDir::open_with(disk, path.as_ref(), |disk, path| {
            let found = match Meta::read(disk, path) {
                Ok(Some(meta)) => check_member(meta, path, identity)?,
                Ok(None) | Err(StorageError::MetaDamaged { .. }) => {
                    Meta::new(disk, identity, Standing::Rebuilding)
                }
                Err(error) => return Err(error),
            };
            let wal = wal_dir(path);
            disk.create_dir_all(&wal).map_err(StorageError::io("create", &wal))?;
            let meta = found.emptied(disk);
            // First, so that after a crash from here on the member knows that it has lost its data.
            meta.write(disk, &OpenDir::open(disk, path.to_path_buf())?)?;
            Ok(meta)
        })
    }

    /// Removes what is left of discarded data.
    fn finish_discarding(&self, meta: Meta) -> Result<(), StorageError> {
        if meta.log_started || meta.standing != Standing::Rebuilding {
            return Ok(());
        }
        for dir in [self.wal_dir(), self.snap_dir()] {
            if !self.disk.is_dir(&dir) {
                continue;
            }
            for name in self.disk.list(&dir).map_err(StorageError::io("list", &dir))? {
                let path = dir.join(name);
                self.disk.remove(&path).map_err(StorageError::io("remove", &path))?;
            }
            self.disk.sync_dir(&dir).map_err(StorageError::sync(&dir))?;
        }
        Ok(())
    }

    /// Whose data it holds, as it is recorded now.
    pub fn identity(&self) -> Identity {
        self.meta.lock().identity
    }

    pub(super) fn cluster(&self) -> KnownCluster {
        KnownCluster(Arc::clone(&self.meta))
    }

    /// The random number of the directory; never 0. An emptied directory has another one than
    /// before.
    pub fn directory(&self) -> u64 {
        self.log_owner.directory
    }

    pub(super) fn log_owner(&self) -> LogOwner {
        self.log_owner
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(super) fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    pub(super) fn wal_dir(&self) -> PathBuf {
        wal_dir(self.path())
    }

    pub(super) fn snap_dir(&self) -> PathBuf {
        snap_dir(self.path())
    }

    pub(super) fn lock(&self) -> &Arc<DiskLock> {
        &self.lock
    }

    /// Whether the log's first segment has ever been durable.
    pub(super) fn is_log_started(&self) -> bool {
        self.meta.lock().log_started
    }

    /// Whether the log may hold configurations: older programs, which do not know of them, refuse
    /// the directory.
    pub(super) fn has_configurations(&self) -> bool {
        self.meta.lock().has_configurations()
    }

    /// Whether the cluster's id is known to a directory that may hold configurations: then the log
    /// or a snapshot says who the members are. Only if an older version of the cluster has filled
    /// it, they may not say so yet.
    pub fn is_cluster_recorded(&self) -> bool {
        self.has_configurations() && self.identity().cluster_id != 0
    }

    /// Whether the member has all its data, as far as the directory knows.
    pub fn standing(&self) -> Standing {
        self.meta.lock().standing
    }

    /// Records, durably, that the member has all its data.
    ///
    /// # Errors
    /// [`Io`](StorageError::Io), [`Full`](StorageError::Full): it cannot be written.
    pub fn mark_joined(&self) -> Result<(), StorageError> {
        self.change_meta(|meta| meta.standing = Standing::Voter)
    }

    /// Records, durably, the id of the member's cluster, which has become known: its first
    /// configuration is committed. Programs that do not know of configurations refuse the directory
    /// from then on. Does nothing if all this is recorded.
    ///
    /// # Errors
    /// [`Io`](StorageError::Io), [`Full`](StorageError::Full): it cannot be written.
    ///
    /// # Panics
    /// If the id is 0, or the member is of another cluster.
    pub fn record_cluster(&self, cluster_id: u64) -> Result<(), StorageError> {
        let known = self.identity().cluster_id;
        assert!(cluster_id != 0, "a cluster's id is not 0");
        assert!([0, cluster_id].contains(&known), "cluster {known:016x} became {cluster_id:016x}");
        if known == cluster_id && self.has_configurations() {
            return Ok(());
        }
        self.change_meta(|meta| {
            meta.identity.cluster_id = cluster_id;
            meta.with_configurations();
        })
    }

    /// Records, durably, that the member, which has no data, belongs to this cluster, and how it
    /// begins there. Its log is empty, and stays. So does the
    /// [number](DataDir::directory) of the directory, by which the cluster may know it.
    ///
    /// # Errors
    /// [`Io`](StorageError::Io), [`Full`](StorageError::Full): it cannot be written.
    ///
    /// # Panics
    /// If the standing is one of a member that knows no cluster.
    pub fn take_cluster(
        &self,
        cluster_id: u64,
        list_id: u64,
        standing: Standing,
    ) -> Result<(), StorageError> {
        assert!(
            matches!(standing, Standing::Voter | Standing::Rebuilding),
            "a member of a cluster begins as {standing:?}"
        );
        self.change_meta(|meta| {
            meta.identity = Identity { cluster_id, list_id, ..meta.identity };
            meta.standing = standing;
            // A cluster of an older version, which is called by its list, has none yet.
            if cluster_id != list_id || standing == Standing::Voter {
                meta.with_configurations();
            }
        })
    }

    /// Records, durably, that the log has its first segment.
    pub(super) fn mark_log_started(&self) -> Result<(), StorageError> {
        self.change_meta(|meta| meta.log_started = true)
    }

    fn change_meta(&self, change: impl FnOnce(&mut Meta)) -> Result<(), StorageError> {
        let mut meta = self.meta.lock();
        let mut changed = *meta;
        change(&mut changed);
        changed.write(&*self.disk, &self.dir)?;
        *meta = changed;
        Ok(())
    }
}

fn wal_dir(path: &Path) -> PathBuf {
    path.join("wal")
}

fn snap_dir(path: &Path) -> PathBuf {
    path.join("snap")
}

/// Takes from others the access that the umask gave them under older versions. If the system
/// refuses, the member serves all the same, because a volume may belong to another user.
fn make_private(disk: &dyn Disk, path: &Path) {
    let names = |dir: &Path| disk.list(dir).unwrap_or_default();
    let mut paths: Vec<PathBuf> = ["LOCK", "meta"].map(|name| path.join(name)).into();
    for dir in [wal_dir(path), snap_dir(path)] {
        paths.extend(names(&dir).iter().map(|name| dir.join(name)));
        paths.push(dir);
    }
    // If something of another user's is in the directory, that user must be able to reach it.
    let is_own =
        |name: &String| OWN_NAMES.contains(&name.as_str()) || name.starts_with("before-recovery-");
    if names(path).iter().all(is_own) {
        paths.push(path.to_path_buf());
    }
    let (mut changed, mut refused) = (0, None);
    for path in paths {
        match disk.make_private(&path) {
            Ok(is_changed) => changed += usize::from(is_changed),
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => {}
            Err(err) => {
                refused.get_or_insert((path, err));
            }
        }
    }
    if let Some((path, err)) = refused {
        let path = path.display();
        log::warn!("other users of this machine may read {path}, perhaps more: {err}");
    }
    if changed > 0 {
        let path = path.display();
        log::info!(
            "{changed} files and directories of {path} were open to others; they are private now"
        );
    }
}

fn take_lock(disk: &dyn Disk, dir: &Path) -> Result<DiskLock, StorageError> {
    let path = dir.join("LOCK");
    let locked = disk.lock(&path).map_err(StorageError::io("lock", &path))?;
    locked.map_err(|pid| StorageError::Locked { dir: dir.to_path_buf(), pid })
}

fn check_member(meta: Meta, dir: &Path, wanted: Identity) -> Result<Meta, StorageError> {
    let (found, expected) = (meta.identity.member_id, wanted.member_id);
    if found != expected {
        return Err(StorageError::OtherMember { dir: dir.to_path_buf(), found, expected });
    }
    Ok(meta)
}

/// Checks that nothing of anybody's is in a directory. A making that failed may have left names.
fn check_empty(disk: &dyn Disk, path: &Path) -> Result<(), StorageError> {
    let list = |dir: &Path| disk.list(dir).map_err(StorageError::io("list", dir));
    for name in list(path)? {
        let is_empty = match &name[..] {
            "LOCK" | "lost+found" => true,
            "wal" | "snap" => list(&path.join(&name))?.is_empty(),
            _ => false,
        };
        if !is_empty {
            return Err(StorageError::NotEmpty { dir: path.to_path_buf(), found: name });
        }
    }
    Ok(())
}

/// A first start, perhaps after one that crashed. `meta` is written last, so the directory has no
/// log and no snapshot.
fn create(
    disk: &dyn Disk,
    path: &Path,
    identity: Identity,
    standing: Standing,
) -> Result<Meta, StorageError> {
    create_dirs(disk, path)?;
    let after_restore = "a snapshot; if `syncraft restore` was cut off, remove the directory and \
                         restore again";
    for (dir, what) in [(wal_dir(path), "a log"), (snap_dir(path), after_restore)] {
        if disk.is_dir(&dir) && !disk.list(&dir).map_err(StorageError::io("list", &dir))?.is_empty()
        {
            let reason = format!("it is missing, but there is {what}");
            return Err(StorageError::MetaDamaged { path: path.join("meta"), reason });
        }
    }
    let meta = Meta::new(disk, identity, standing);
    meta.write(disk, &OpenDir::open(disk, path.to_path_buf())?)?;
    Ok(meta)
}

/// Creates the directory of the log, durably.
fn create_dirs(disk: &dyn Disk, path: &Path) -> Result<(), StorageError> {
    // An earlier start that was killed here may have left directories whose names are not durable
    // yet. A parent that we may not open is one in which we created nothing.
    for parent in path.ancestors().skip(1) {
        let _ = disk.sync_dir(parent);
    }
    let wal = wal_dir(path);
    disk.create_dir_all(&wal).map_err(StorageError::io("create", &wal))?;
    disk.sync_dir(path).map_err(StorageError::sync(path))
}

#[cfg(test)]
mod tests {
    use super::super::sim::{Faults, SimDisk};
    use super::super::wal::{Recovered, Wal, WalOptions};
    use super::*;
    use crate::raft::MemberId;

    const WAL_OPTIONS: WalOptions = WalOptions { segment_len_bytes: 1 << 20, prepare_ahead: false };

    const ME: Identity = Identity { cluster_id: 0, list_id: 0x15, member_id: MemberId(1) };

    fn open(disk: &SimDisk) -> Result<DataDir, StorageError> {
        DataDir::open_on(Arc::new(disk.clone()), "/a/b/1", ME, Standing::New)
    }

    #[test]
    fn what_was_first_recorded_stays() {
        let disk = SimDisk::new(1);
        drop(open(&disk).unwrap());
        let other = Identity { cluster_id: 5, list_id: 6, ..ME };
        let disk = Arc::new(disk);
        let dir = DataDir::open_on(disk, "/a/b/1", other, Standing::Newcomer).unwrap();
        assert_eq!((dir.identity(), dir.standing()), (ME, Standing::New));
    }

    #[test]
    fn a_newcomer_stays_one() {
        let disk = SimDisk::new(1);
        let newcomer = DataDir::open_on(Arc::new(disk.clone()), "/a/b/1", ME, Standing::Newcomer);
        assert_eq!(newcomer.unwrap().standing(), Standing::Newcomer);
        assert_eq!(open(&disk).unwrap().standing(), Standing::Newcomer);
    }

    /// A directory in which a member began its log and then was cut off at this operation of
    /// `act`: what it says after the power has failed, and whether `act` was done.
    fn cut_off(
        stop_at: u64,
        act: impl FnOnce(&DataDir) -> Result<(), StorageError>,
    ) -> (DataDir, bool) {
        let disk = SimDisk::new(stop_at);
        let dir = open(&disk).unwrap();
        drop(Wal::open(&dir, WAL_OPTIONS, None).unwrap());
        let stop_at_op = Some(disk.counts().ops + stop_at);
        disk.set_faults(Faults { stop_at_op, ..Faults::default() });
        let is_done = act(&dir).is_ok();
        drop(dir);
        disk.crash();
        let dir = open(&disk).unwrap_or_else(|err| panic!("stop at {stop_at}: {err}"));
        (dir, is_done)
    }

    #[test]
    fn a_cluster_that_becomes_known_is_recorded_whole_or_not_at_all() {
        for stop_at in 1.. {
            let (dir, is_done) = cut_off(stop_at, |dir| dir.record_cluster(7));
            let id = dir.identity().cluster_id;
            assert!(id == 7 || !is_done && id == 0, "stop at {stop_at}: {id}");
            if is_done {
                break;
            }
        }
    }

    #[test]
    fn a_cluster_that_is_known_is_not_written_again() {
        let disk = SimDisk::new(1);
        let dir = open(&disk).unwrap();
        dir.record_cluster(7).unwrap();
        let ops = disk.counts().ops;
        dir.record_cluster(7).unwrap();
        assert_eq!((disk.counts().ops, dir.identity().cluster_id), (ops, 7));
    }

    #[test]
    #[should_panic(expected = "cluster 0000000000000007 became 0000000000000008")]
    fn a_cluster_is_never_another_one() {
        let dir = open(&SimDisk::new(1)).unwrap();
        dir.record_cluster(7).unwrap();
        let _ = dir.record_cluster(8);
    }

    /// After a crash at any moment, the directory opens, for no cluster or for the one that was
    /// taken, and its log is as empty as it was.
    #[test]
    fn a_member_without_data_may_take_a_cluster() {
        for standing in [Standing::Voter, Standing::Rebuilding] {
            for stop_at in 1.. {
                let (dir, is_done) = cut_off(stop_at, |dir| dir.take_cluster(5, 6, standing));
                let found = (dir.identity(), dir.standing());
                let taken = (Identity { cluster_id: 5, list_id: 6, ..ME }, standing);
                let is_as_before = found == (ME, Standing::New);
                assert!(found == taken || !is_done && is_as_before, "{stop_at}: {found:?}");
                let (_, recovered) = Wal::open(&dir, WAL_OPTIONS, None).unwrap();
                assert_eq!(recovered, Recovered::default(), "stop at {stop_at}");
                if is_done {
                    break;
                }
            }
        }
    }

    /// A copy of the directory is the same directory; an emptied one is another. The configuration
    /// of the cluster that is taken knows it by this number.
    #[test]
    fn a_directory_keeps_its_number_until_its_log_is_discarded() {
        let disk = SimDisk::new(1);
        let first = open(&disk).unwrap().directory();
        assert_ne!(first, 0);
        assert_eq!(open(&disk).unwrap().directory(), first);
        assert_eq!(open(&disk.fork(2)).unwrap().directory(), first);
        assert_ne!(open(&SimDisk::new(2)).unwrap().directory(), first);
        open(&disk).unwrap().take_cluster(5, 6, Standing::Voter).unwrap();
        assert_eq!(open(&disk).unwrap().directory(), first);
        let emptied = DataDir::open_emptied_on(Arc::new(disk), "/a/b/1", ME).unwrap();
        assert_ne!(emptied.directory(), first);
        let of_taken = Identity { cluster_id: 5, list_id: 6, ..ME };
        assert_eq!(emptied.identity(), of_taken, "and stays in its cluster");
    }

    #[test]
    fn another_member_is_refused_by_name_and_place() {
        let disk = SimDisk::new(1);
        drop(open(&disk).unwrap());
        let other = Identity { member_id: MemberId(2), ..ME };
        let err = DataDir::open_on(Arc::new(disk), "/a/b/1", other, Standing::New).unwrap_err();
        assert_eq!(err.to_string(), "data directory /a/b/1 belongs to member 1, not to member 2");
    }

    #[test]
    fn every_flip_and_every_cut_of_meta_is_noticed() {
        let disk = SimDisk::new(1);
        drop(open(&disk).unwrap());
        let path = Path::new("/a/b/1/meta");
        let good = disk.bytes(path).unwrap();
        let flips = (0..good.len() * 8).map(|bit| {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            bad
        });
        let cuts = (0..good.len()).map(|len| good[..len].to_vec());
        let grown = [b"x".as_slice(), b"\n", b"\0", &good].map(|tail| [&good, tail].concat());
        for bad in flips.chain(cuts).chain(grown) {
            disk.set_bytes(path, bad.clone());
            let err = open(&disk).unwrap_err();
            assert!(
                matches!(err, StorageError::MetaDamaged { .. }),
                "{err}: {:?}",
                String::from_utf8_lossy(&bad)
            );
            assert!(err.to_string().starts_with("/a/b/1/meta is damaged: "), "{err}");
        }
    }

    #[test]
    fn a_log_or_a_snapshot_without_meta_is_refused() {
        for (dir, file, what) in [("wal", "0000000001.wal", "a log"), ("snap", "x", "a snapshot")] {
            let disk = SimDisk::new(1);
            drop(open(&disk).unwrap());
            let dir = Path::new("/a/b/1").join(dir);
            let _ = disk.create_dir(&dir);
            disk.set_bytes(&dir.join(file), vec![1]);
            disk.lose(Path::new("/a/b/1/meta"));
            let err = open(&disk).unwrap_err().to_string();
            assert!(err.contains(&format!("it is missing, but there is {what}")), "{err}");
        }
    }

    #[test]
    fn a_crash_at_any_step_leaves_a_directory_that_opens() {
        for seed in 0..20 {
            for stop_at in 1.. {
                let disk = SimDisk::new(seed);
                disk.set_faults(Faults { stop_at_op: Some(stop_at), ..Faults::default() });
                let stopped = open(&disk).and_then(|dir| dir.mark_log_started()).is_err();
                disk.crash();
                let dir = open(&disk)
                    .unwrap_or_else(|err| panic!("seed {seed}, stop at {stop_at}: {err}"));
                assert!(stopped || dir.is_log_started(), "seed {seed}: what was synced is there");
                if !stopped {
                    break;
                }
            }
        }
    }
}
