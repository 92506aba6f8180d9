//! The data directory: records whose it is, and lets only one process use it.
//!
//! ```text
//! data-dir/
//!   LOCK    locked (flock) while a member runs; has its process id, for a second one's message
//!   meta    the text below, replaced as a whole: temporary file, fsync, rename, directory fsync
//!   wal/    the log: see storage::wal
//!   snap/   snapshots: see storage::snapshot
//!   before-recovery-<cluster>/    what `syncraft recover` has replaced: see storage::replace
//! ```
//!
//! `meta` is text, so that a person can read it, with a checksum, so that the member can trust it:
//!
//! ```text
//! syncraft data directory     the same in every version
//! format 2                    of meta, the log and snapshots; another one is refused
//! directory 9e3779b97f4a7c15  a random number, in the log's files too; a log that begins draws it
//! cluster 0123456789abcdef    set at the first start; changes only while the member has no data
//! member 1                    set at the first start
//! log none                    "started" once the log's first segment is durable
//! joining new                 only while it does not vote; "rebuilding" if it once had data
//! crc32c ad96d1bf             CRC32C of all above, in hexadecimal; the last line in every version
//! ```
//!
//! `log started` turns a missing log into an error. Without it, a member whose log was deleted, but
//! not its `meta`, would start as if it had never voted and never stored anything. `joining` covers
//! a member whose whole directory was deleted, or given up as damaged. It does not know what it has
//! promised, and must not vote before it does ([`raft`](crate::raft), joining).
//!
//! `directory` ties the files of the log to this directory. A segment that came from elsewhere, or
//! from a log that was discarded here, is refused, whichever cluster it is of.
//!
//! Because the files contain values, only their owner can read them: directories have mode 0700 and
//! files 0600, whatever the umask. If an older version left them readable for others, opening makes
//! them private; the data directory itself only if nothing else is in it. Where the file system
//! refuses to change a mode, the member logs a warning and serves.
//!
//! Invariant: `meta` is never half written.
//!
//! Invariant: no member starts with a directory that has a log or a snapshot, but no `meta`. One
//! whose making was cut off (`storage/create.rs`) looks like this.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::raft::{MemberId, Standing};

use super::StorageError;
use super::disk::{Disk, DiskLock, DiskPin, RealDisk};
use super::identity::{FORMAT_VERSION, Identity, LogOwner, other_format};
use super::open_dir::OpenDir;
use super::wal::segment;

const TITLE: &str = "syncraft data directory";
pub(super) const META_LEN_MAX_BYTES: usize = 4096;
/// The names in a data directory that nobody else uses. The root of a file system has `lost+found`.
const OWN_NAMES: [&str; 6] = ["LOCK", "meta", "meta.tmp", "wal", "snap", "lost+found"];

/// A data directory. This value and the [`Wal`](super::Wal) opened in it hold its lock.
#[derive(Debug)]
pub struct DataDir {
    disk: Arc<dyn Disk>,
    dir: OpenDir,
    identity: Identity,
    /// Whose log is in it.
    log_owner: LogOwner,
    /// As it is on the disk.
    meta: Mutex<Meta>,
    lock: Arc<DiskLock>,
    /// Files and directories that must stay in place while the member runs.
    pins: Mutex<Vec<(PathBuf, Box<dyn DiskPin>)>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Meta {
    /// The random number of the log that is in the directory, or will be.
    directory: u64,
    identity: Identity,
    log_started: bool,
    standing: Standing,
}

impl DataDir {
    /// Opens a directory, or creates it and its missing parents, durably.
    ///
    /// A directory that exists keeps its cluster id, whatever `identity` says: see
    /// [`identity`](DataDir::identity).
    ///
    /// # Errors
    /// - [`Locked`](StorageError::Locked): another server uses it
    /// - [`OtherMember`](StorageError::OtherMember): it contains another member's data
    /// - [`MetaDamaged`](StorageError::MetaDamaged), [`NewerFormat`](StorageError::NewerFormat),
    ///   [`UnreleasedFormat`](StorageError::UnreleasedFormat)
    /// - [`Io`](StorageError::Io), [`Full`](StorageError::Full): it cannot be created, read or
    ///   written
    pub fn open(path: impl AsRef<Path>, identity: Identity) -> Result<DataDir, StorageError> {
        DataDir::open_on(Arc::new(RealDisk), path, identity)
    }

    /// As [`open`](DataDir::open), on another disk.
    ///
    /// # Errors
    /// As there.
    pub fn open_on(
        disk: Arc<dyn Disk>,
        path: impl AsRef<Path>,
        identity: Identity,
    ) -> Result<DataDir, StorageError> {
        DataDir::open_with(disk, path.as_ref(), |disk, path| match read_meta(disk, path)? {
            Some(meta) => {
                // The process that wrote it may have been killed before its name was durable.
                disk.sync_dir(path).map_err(StorageError::sync(path))?;
                check_member(meta, path, identity)
            }
            None => create(disk, path, identity),
        })
    }

    /// As [`open`](DataDir::open), for whichever member's data is there.
    ///
    /// # Errors
    /// As for [`open`](DataDir::open); [`NoData`](StorageError::NoData): there is no `meta`.
    pub fn open_any(path: impl AsRef<Path>) -> Result<DataDir, StorageError> {
        let path = path.as_ref();
        match read_meta(&RealDisk, path)? {
            Some(meta) => DataDir::open(path, meta.identity),
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
            let (directory, standing) = (disk.random(), Standing::Voter);
            Ok(Meta { directory, identity, log_started: false, standing })
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
        let (identity, log_owner) = (meta.identity, meta.log_owner());
        let data_dir =
            DataDir { disk, dir, identity, log_owner, meta: Mutex::new(meta), lock, pins };
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
    /// except for the cluster's id if that can be read. The member is [`Standing::Rebuilding`]
    /// until [`mark_joined`](DataDir::mark_joined).
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
            let identity = match read_meta(disk, path) {
                Ok(Some(meta)) => check_member(meta, path, identity)?.identity,
                Ok(None) | Err(StorageError::MetaDamaged { .. }) => identity,
                Err(error) => return Err(error),
            };
            let wal = wal_dir(path);
            disk.create_dir_all(&wal).map_err(StorageError::io("create", &wal))?;
            let directory = disk.random();
            let standing = Standing::Rebuilding;
            let meta = Meta { directory, identity, log_started: false, standing };
            // First, so that after a crash from here on the member knows that it has lost its data.
            write_meta(disk, &OpenDir::open(disk, path.to_path_buf())?, meta)?;
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

    /// Whose data it holds.
    pub fn identity(&self) -> Identity {
        self.identity
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

    /// Records, durably, that the member belongs to this cluster and has none of its data: it is
    /// [`Standing::Rebuilding`]. The directory must be opened again before anything else is written
    /// to it. That discards the empty log.
    ///
    /// # Errors
    /// [`Io`](StorageError::Io), [`Full`](StorageError::Full): it cannot be written.
    pub fn take_cluster(&self, cluster_id: u64) -> Result<(), StorageError> {
        let directory = self.disk.random();
        self.change_meta(|meta| {
            meta.directory = directory;
            meta.identity.cluster_id = cluster_id;
            meta.log_started = false;
            meta.standing = Standing::Rebuilding;
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
        write_meta(&*self.disk, &self.dir, changed)?;
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
fn create(disk: &dyn Disk, path: &Path, identity: Identity) -> Result<Meta, StorageError> {
    create_dirs(disk, path)?;
    for (dir, what) in [(wal_dir(path), "a log"), (snap_dir(path), "a snapshot")] {
        if disk.is_dir(&dir) && !disk.list(&dir).map_err(StorageError::io("list", &dir))?.is_empty()
        {
            let reason = format!("it is missing, but there is {what}");
            return Err(StorageError::MetaDamaged { path: path.join("meta"), reason });
        }
    }
    let directory = disk.random();
    let meta = Meta { directory, identity, log_started: false, standing: Standing::New };
    write_meta(disk, &OpenDir::open(disk, path.to_path_buf())?, meta)?;
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

fn read_meta(disk: &dyn Disk, dir: &Path) -> Result<Option<Meta>, StorageError> {
    let path = dir.join("meta");
    match disk.read_to_vec(&path, META_LEN_MAX_BYTES) {
        Ok(bytes) => Meta::decode(&bytes, &path).map(Some),
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(err) => Err(StorageError::io("read", &path)(err)),
    }
}

fn write_meta(disk: &dyn Disk, dir: &OpenDir, meta: Meta) -> Result<(), StorageError> {
    let path = dir.path().join("meta");
    disk.write_atomically(dir.disk_dir(), &path, meta.encode().as_bytes())
        .map_err(StorageError::io("write", &path))
}

impl Meta {
    fn log_owner(&self) -> LogOwner {
        LogOwner { directory: self.directory, member_id: self.identity.member_id }
    }

    fn encode(&self) -> String {
        let (directory, Identity { cluster_id, member_id }) = (self.directory, self.identity);
        let log = if self.log_started { "started" } else { "none" };
        let joining = match self.standing {
            Standing::Voter => "",
            Standing::New => "joining new\n",
            Standing::Rebuilding => "joining rebuilding\n",
        };
        let body = format!(
            "{TITLE}\nformat {FORMAT_VERSION}\ndirectory {directory:016x}\n\
             cluster {cluster_id:016x}\nmember {member_id}\nlog {log}\n{joining}"
        );
        let crc = crc32c::crc32c(body.as_bytes());
        format!("{body}crc32c {crc:08x}\n")
    }

    fn decode(bytes: &[u8], path: &Path) -> Result<Meta, StorageError> {
        let damaged = |reason: &str| StorageError::MetaDamaged {
            path: path.to_path_buf(),
            reason: reason.to_string(),
        };
        let body = checked_body(bytes).ok_or_else(|| damaged("its checksum does not match"))?;
        let mut lines = body.lines();
        if lines.next() != Some(TITLE) {
            return Err(damaged("it is not the meta file of a syncraft data directory"));
        }
        let found =
            field(lines.next(), "format ").ok_or_else(|| damaged("it has no format version"))?;
        if found != FORMAT_VERSION {
            return Err(other_format(path, found));
        }
        let meta = decode_fields(lines)
            .ok_or_else(|| damaged("its lines are not those of its format version"))?;
        // Each content has one form: a file that would be written differently is not ours.
        if meta.encode().as_bytes() != bytes {
            Err(damaged("it is not as syncraft writes it"))
        } else {
            Ok(meta)
        }
    }
}

/// The lines before the checksum, if it is right.
fn checked_body(bytes: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (body, crc) = text.strip_suffix('\n')?.rsplit_once("crc32c ")?;
    let crc = u32::from_str_radix(crc, 16).ok()?;
    (crc == crc32c::crc32c(body.as_bytes())).then_some(body)
}

fn decode_fields<'a>(mut lines: impl Iterator<Item = &'a str>) -> Option<Meta> {
    let directory = hex_field(lines.next(), "directory ")?;
    let cluster_id = hex_field(lines.next(), "cluster ")?;
    let member_id = MemberId(field(lines.next(), "member ")?);
    let log: String = field(lines.next(), "log ")?;
    let standing = match lines.next() {
        None => Standing::Voter,
        Some("joining new") => Standing::New,
        Some(_) => Standing::Rebuilding,
    };
    let identity = Identity { cluster_id, member_id };
    Some(Meta { directory, identity, log_started: log == "started", standing })
}

fn field<T: std::str::FromStr>(line: Option<&str>, name: &str) -> Option<T> {
    line?.strip_prefix(name)?.parse().ok()
}

fn hex_field(line: Option<&str>, name: &str) -> Option<u64> {
    u64::from_str_radix(line?.strip_prefix(name)?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::super::sim::{Faults, SimDisk};
    use super::super::wal::{Recovered, Wal, WalOptions};
    use super::*;

    const WAL_OPTIONS: WalOptions = WalOptions { segment_len_bytes: 1 << 20, prepare_ahead: false };

    const ME: Identity = Identity { cluster_id: 0x0123_4567_89ab_cdef, member_id: MemberId(1) };

    fn open(disk: &SimDisk) -> Result<DataDir, StorageError> {
        DataDir::open_on(Arc::new(disk.clone()), "/a/b/1", ME)
    }

    #[test]
    fn meta_is_the_text_of_the_module_doc() {
        let (directory, standing) = (0x9e37_79b9_7f4a_7c15, Standing::Voter);
        let text = Meta { directory, identity: ME, log_started: false, standing }.encode();
        assert_eq!(
            text,
            "syncraft data directory\nformat 2\ndirectory 9e3779b97f4a7c15\n\
             cluster 0123456789abcdef\nmember 1\nlog none\ncrc32c ad96d1bf\n"
        );
    }

    #[test]
    fn the_first_cluster_id_stays() {
        let disk = SimDisk::new(1);
        drop(open(&disk).unwrap());
        let other = Identity { cluster_id: 5, ..ME };
        let dir = DataDir::open_on(Arc::new(disk.clone()), "/a/b/1", other).unwrap();
        assert_eq!(dir.identity(), ME);
    }

    /// After a crash at any moment, the directory opens, for one cluster or the other, and has no
    /// log of the first one.
    #[test]
    fn a_member_without_data_may_take_another_cluster() {
        let other = Identity { cluster_id: 5, ..ME };
        for stop_at in 1.. {
            let disk = SimDisk::new(stop_at);
            let dir = open(&disk).unwrap();
            drop(Wal::open(&dir, WAL_OPTIONS, None).unwrap());
            disk.set_faults(Faults { stop_at_op: Some(stop_at), ..Faults::default() });
            let is_taken = dir.take_cluster(5).is_ok();
            drop(dir);
            let is_opened = is_taken && open(&disk).is_ok();
            disk.crash();
            let dir = open(&disk).unwrap_or_else(|err| panic!("stop at {stop_at}: {err}"));
            let of_first = (ME, Standing::New);
            let of_other = (other, Standing::Rebuilding);
            let found = (dir.identity(), dir.standing());
            assert!(found == of_other || !is_taken && found == of_first, "{stop_at}: {found:?}");
            let (_, recovered) = Wal::open(&dir, WAL_OPTIONS, None).unwrap();
            assert_eq!(recovered, Recovered::default(), "stop at {stop_at}");
            if is_opened {
                break;
            }
        }
    }

    /// A copy of the directory is the same directory; an emptied one is another.
    #[test]
    fn a_directory_keeps_its_number_until_its_log_is_discarded() {
        let disk = SimDisk::new(1);
        let first = open(&disk).unwrap().log_owner();
        assert_eq!(open(&disk).unwrap().log_owner(), first);
        assert_eq!(open(&disk.fork(2)).unwrap().log_owner(), first);
        assert_ne!(open(&SimDisk::new(2)).unwrap().log_owner(), first);
        open(&disk).unwrap().take_cluster(5).unwrap();
        let second = open(&disk).unwrap().log_owner();
        assert_ne!(second, first);
        let emptied = DataDir::open_emptied_on(Arc::new(disk), "/a/b/1", ME).unwrap();
        assert!(![first, second].contains(&emptied.log_owner()));
    }

    #[test]
    fn another_member_is_refused_by_name_and_place() {
        let disk = SimDisk::new(1);
        drop(open(&disk).unwrap());
        let other = Identity { member_id: MemberId(2), ..ME };
        let err = DataDir::open_on(Arc::new(disk), "/a/b/1", other).unwrap_err();
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
    fn a_newer_format_is_refused_as_such() {
        let disk = SimDisk::new(1);
        drop(open(&disk).unwrap());
        let body = format!("{TITLE}\nformat 3\nwho knows\n");
        let text = format!("{body}crc32c {:08x}\n", crc32c::crc32c(body.as_bytes()));
        disk.set_bytes(Path::new("/a/b/1/meta"), text.into_bytes());
        let err = open(&disk).unwrap_err().to_string();
        assert_eq!(
            err,
            "/a/b/1/meta has format version 3, this program knows versions up to 2: use a newer syncraft"
        );
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
