//! Snapshots of the state machine: the state, so that the log need not hold what led to it (Raft
//! §7).
//!
//! ```text
//! own state ── create ──> SnapshotWriter ─┐ finish: sync, read back and verify,
//! a leader ─── receive ─> Receiver ───────┴─ rename, sync the directory
//!                                             │
//!                                             v
//!                                 snap/0000000120-0000000007.snap: the newest; then older ones go
//!                                   ├─ reader: the state
//!                                   └─ read_chunk: bytes for a follower
//! ```
//!
//! # Files
//!
//! | Name in `snap/` | Content |
//! |---|---|
//! | `<index>-<term>.snap` | the state after this entry; ten digits each, or more |
//! | `<snapshot>.<n>.tmp` | an unfinished one; removed when it is given up, and by the next start |
//!
//! All numbers are little-endian. All checksums are CRC32C. A file is a header, perhaps a
//! configuration of the members, chunks, a trailer:
//!
//! | Offset | Size | Field | Why |
//! |---|---|---|---|
//! | 0 | 8 | `SYNCSNP\n` | identifies the file |
//! | 8 | 4 | checksum of bytes 12 to 63 | |
//! | 12 | 4 | format version: 3 with a configuration, 2 without | others are refused. Up to here, all versions are the same |
//! | 16 | 8 | cluster id, as in the configuration | detects a file of another cluster. No member id: files travel |
//! | 24 | 8 | index of the last entry in it | the name has both too, which detects a renamed file |
//! | 32 | 8 | its term | |
//! | 40 | 4 | version 3: length of the configuration, up to 1 MiB | bounds a reader's memory |
//! | 44 | 4 | version 3: its checksum | the first chunk's checksum covers it with the header |
//! | 48 | 16 | zero, and in version 2 from 40 on | |
//! | 64 | | the configuration ([`Configuration`]) | the members as of the last entry |
//! | | | chunks, one after the other | |
//!
//! Version 2 is from before there were configurations. What has none is still written so, because
//! members of both versions send each other snapshots. In version 3, a new layout of configurations
//! needs a new version of the file.
//!
//! **A chunk** is a piece of the state. All but the last one are 64 KiB long:
//!
//! | Offset | Size | Field | Why |
//! |---|---|---|---|
//! | 0 | 4 | length of the bytes, 1 to 65,536 | bounds a reader's memory |
//! | 4 | 4 | checksum of the rest, continued from the chunk before | order and number count |
//! | 8 | | the bytes | |
//!
//! **The trailer** follows the last chunk:
//!
//! | Offset | Size | Field | Why |
//! |---|---|---|---|
//! | 0 | 4 | zero | no chunk has this length |
//! | 4 | 4 | checksum of the rest and of this zero, continued from the last chunk | |
//! | 8 | 8 | length of the state | |
//! | 16 | 8 | length of the file | detects a file that was cut or extended |
//!
//! The first chunk's checksum continues from that of the whole header, so each checksum covers
//! everything before it. It does not match if chunks changed places, are missing or repeated, or
//! came from another snapshot of the same state. The trailer's checksum covers the file. A reader
//! hands out each verified chunk before it has seen the end.
//!
//! # Promises
//!
//! - A snapshot with its final name is whole: it was synced and read back before the rename. If it
//!   does not verify at the next start, it was damaged, and is refused with file and offset.
//! - A snapshot of another cluster is refused, here and from a leader, if the directory knows its
//!   own.
//! - Older snapshots are removed only after the new one and its name are durable. A crash may leave
//!   two.
//! - Indexes go up: a file that is finished after a newer one was installed is dropped.
//! - A failure while a snapshot is written or received, for example because the disk is full, loses
//!   that snapshot and nothing else.
//! - A received snapshot is verified as a whole before it replaces anything. A transfer that breaks
//!   off is kept, one at most, and continues if the next one is of the same snapshot. If the file
//!   turns out to be another (say another leader's, of the same length), its checksums do not
//!   match, and the transfer begins again.
//!
//! Memory is bounded by one chunk. A file is synced after each MiB, so that the log's fdatasync
//! never waits behind a gigabyte in the system's memory.
//!
//! # Order with the log
//!
//! A snapshot is durable before the log releases the entries in it
//! ([`release_through`](super::Wal::release_through)) or begins again after it
//! ([`reset`](super::Wal::reset)). After a crash in between, a start finds both, and
//! [`Wal::open`](super::Wal::open) returns the part of the log that follows the snapshot. A
//! received snapshot is acknowledged after the log was reset, or found to continue it: from then
//! on, no start can take an older snapshot for it.
//!
//! # Left out
//!
//! Transfers that continue after a restart; incremental snapshots; compression, which the state
//! machine may do.

mod format;
mod reader;
mod receiver;
mod temporary;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::ErrorChain;
use crate::raft::{Configuration, SnapshotMeta};

use super::data_dir::KnownCluster;
use super::disk::{Disk, DiskFile, DiskLock};
use super::open_dir::OpenDir;
use super::{DataDir, StorageError};
use format::Header;
use receiver::Partial;
use temporary::Temporary;

pub use reader::SnapshotReader;
pub use receiver::Receiver;
pub use writer::SnapshotWriter;

/// The snapshots of one member. Clones are the same; any thread may use them.
#[derive(Clone, Debug)]
pub struct Snapshots(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    disk: Arc<dyn Disk>,
    dir: OpenDir,
    cluster: KnownCluster,
    newest: Mutex<Option<Snapshot>>,
    /// Held while a file becomes the newest snapshot, syncs included, so that renames happen in the
    /// order of indexes.
    publishing: Mutex<()>,
    /// What had arrived when the last receiver was dropped.
    partial: Mutex<Option<Partial>>,
    temporaries: AtomicU64,
    damaged: Option<StorageError>,
    /// Keeps other processes out for as long as we write.
    _lock: Arc<DiskLock>,
}

/// A verified snapshot. A clone is cheap and reads the same open file, which stays readable after a
/// newer snapshot has replaced it.
#[derive(Clone, Debug)]
pub struct Snapshot {
    header: Header,
    configuration: Option<Arc<Configuration>>,
    len_bytes: u64,
    path: Arc<Path>,
    file: Arc<dyn DiskFile>,
}

impl Snapshots {
    /// Opens the snapshots of a data directory, and returns the newest that verifies. Removes
    /// unfinished files and older snapshots.
    ///
    /// If the newest is damaged, returns an older one, which a crash may have left.
    /// [`Wal::open`](super::Wal::open) decides whether the log still reaches back to it. The damage
    /// is logged and available from [`damaged`](Snapshots::damaged). The damaged file stays until
    /// there is a newer snapshot.
    ///
    /// # Errors
    /// - [`SnapshotCorrupt`](StorageError::SnapshotCorrupt): there are snapshots, and none
    ///   verifies; describes the newest one's damage
    /// - [`NewerFormat`](StorageError::NewerFormat),
    ///   [`UnreleasedFormat`](StorageError::UnreleasedFormat): written by another version
    /// - [`Io`](StorageError::Io), [`Full`](StorageError::Full): the system refused
    pub fn open(dir: &DataDir) -> Result<(Snapshots, Option<Snapshot>), StorageError> {
        let (disk, snap_dir) = (Arc::clone(dir.disk()), dir.snap_dir());
        disk.create_dir_all(&snap_dir).map_err(StorageError::io("create", &snap_dir))?;
        dir.pin(snap_dir.clone())?;
        remove_temporary(&*disk, &snap_dir)?;
        let mut metas = list(&*disk, &snap_dir)?;
        let (newest, damaged) =
            newest_that_verifies(&*disk, &snap_dir, dir.identity().cluster_id, &metas)?;
        if let (Some(newest), None) = (&newest, &damaged) {
            metas.retain(|meta| *meta != newest.meta());
            remove(&*disk, &snap_dir, &metas);
        }
        let shared = Shared {
            dir: OpenDir::open(&*disk, snap_dir)?,
            disk,
            cluster: dir.cluster(),
            newest: Mutex::new(newest.clone()),
            publishing: Mutex::new(()),
            partial: Mutex::new(None),
            temporaries: AtomicU64::new(0),
            damaged,
            _lock: Arc::clone(dir.lock()),
        };
        Ok((Snapshots(Arc::new(shared)), newest))
    }

    /// The newest snapshot.
    pub fn newest(&self) -> Option<Snapshot> {
        self.0.newest.lock().clone()
    }

    /// The damage of a newer snapshot than the one that [`open`](Snapshots::open) returned. If the
    /// log does not reach back to the older one, this is why the member cannot start.
    pub fn damaged(&self) -> Option<&StorageError> {
        self.0.damaged.as_ref()
    }

    /// Begins a snapshot of the state as it is after this entry, where this configuration was in
    /// force, if there was one.
    ///
    /// # Errors
    /// [`Full`](StorageError::Full), [`Io`](StorageError::Io): the system refused.
    ///
    /// # Panics
    /// If the configuration is of another cluster. If there is none, and the directory does not
    /// know its cluster.
    pub fn create(
        &self,
        meta: SnapshotMeta,
        configuration: Option<&Configuration>,
    ) -> Result<SnapshotWriter, StorageError> {
        SnapshotWriter::create(Arc::clone(&self.0), meta, configuration)
    }

    /// Begins to receive a snapshot whose file is `len_bytes` long, or continues with it from
    /// [`Receiver::offset`].
    ///
    /// # Errors
    /// [`Full`](StorageError::Full), [`Io`](StorageError::Io): the system refused.
    pub fn receive(&self, meta: SnapshotMeta, len_bytes: u64) -> Result<Receiver, StorageError> {
        Receiver::new(Arc::clone(&self.0), meta, len_bytes)
    }
}

impl Shared {
    fn path(&self, meta: SnapshotMeta) -> PathBuf {
        self.dir.path().join(format::file_name(meta))
    }

    fn temporary(&self, meta: SnapshotMeta) -> Result<Temporary, StorageError> {
        let number = self.temporaries.fetch_add(1, Ordering::Relaxed);
        let path = self.path(meta).with_added_extension(format!("{number}.tmp"));
        Temporary::create(Arc::clone(&self.disk), path)
    }

    /// Makes a written file the newest snapshot, unless there is one that is at least as new.
    fn publish(
        &self,
        mut temporary: Temporary,
        meta: SnapshotMeta,
    ) -> Result<Snapshot, StorageError> {
        temporary.sync()?;
        let written: Arc<Path> = temporary.path.as_path().into();
        let file = Arc::clone(&temporary.file);
        let snapshot = Snapshot::verify(file, written, self.cluster.id(), meta)?;
        let _publishing = self.publishing.lock();
        if let Some(newest) = self.newest.lock().clone()
            && newest.meta().last_included_index >= meta.last_included_index
        {
            return Ok(newest);
        }
        let path = self.path(meta);
        temporary.rename(&path)?;
        self.dir.sync()?;
        let snapshot = Snapshot { path: path.into(), ..snapshot };
        *self.newest.lock() = Some(snapshot.clone());
        self.remove_older(meta);
        Ok(snapshot)
    }

    fn remove_older(&self, newest: SnapshotMeta) {
        match list(&*self.disk, self.dir.path()) {
            Ok(mut metas) => {
                metas.retain(|meta| *meta != newest);
                remove(&*self.disk, self.dir.path(), &metas);
            }
            Err(err) => log::warn!("cannot remove older snapshots: {}", ErrorChain(&err)),
        }
    }
}

impl Snapshot {
    /// Reads and checks all of it once.
    fn verify(
        file: Arc<dyn DiskFile>,
        path: Arc<Path>,
        cluster_id: u64,
        meta: SnapshotMeta,
    ) -> Result<Snapshot, StorageError> {
        let reader = SnapshotReader::open(Arc::clone(&file), Arc::clone(&path))?;
        reader.check(cluster_id, meta)?;
        let (header, configuration) = (reader.header(), reader.configuration());
        Ok(Snapshot { header, configuration, len_bytes: reader.verify()?, path, file })
    }

    /// The last entry that is in it.
    pub fn meta(&self) -> SnapshotMeta {
        self.header.meta
    }

    /// The cluster that it is of.
    pub fn cluster_id(&self) -> u64 {
        self.header.cluster_id
    }

    /// The configuration in force at its last entry; `None` if there was none yet.
    pub fn configuration(&self) -> Option<&Arc<Configuration>> {
        self.configuration.as_ref()
    }

    /// The length of its file.
    pub fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// The path of its file. By now it may be gone, or be another snapshot of the same state.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the state in it, and verifies every byte once more.
    ///
    /// # Errors
    /// [`SnapshotCorrupt`](StorageError::SnapshotCorrupt), [`Io`](StorageError::Io): its first
    /// bytes cannot be read, or have changed.
    pub fn reader(&self) -> Result<SnapshotReader, StorageError> {
        let reader = SnapshotReader::open(Arc::clone(&self.file), Arc::clone(&self.path))?;
        match reader.header() == self.header {
            true => Ok(reader),
            false => Err(reader::corrupt(&self.path, 0, "the header has changed")),
        }
    }

    /// Up to `len_max_bytes` bytes of its file from `offset` on, for another member's [`Receiver`],
    /// which verifies them. None at its end.
    ///
    /// # Errors
    /// - [`Io`](StorageError::Io): the system refused
    /// - [`SnapshotCorrupt`](StorageError::SnapshotCorrupt): the file has become shorter
    pub fn read_chunk(&self, offset: u64, len_max_bytes: usize) -> Result<Bytes, StorageError> {
        let rest = self.len_bytes.saturating_sub(offset);
        let mut bytes = vec![0; rest.min(len_max_bytes as u64) as usize];
        let filled = self
            .file
            .read_full_at(&mut bytes, offset)
            .map_err(StorageError::io("read", &*self.path))?;
        match filled == bytes.len() {
            true => Ok(bytes.into()),
            false => Err(reader::corrupt(&self.path, offset + filled as u64, "the file ends here")),
        }
    }
}

fn remove_temporary(disk: &dyn Disk, dir: &Path) -> Result<(), StorageError> {
    for name in disk.list(dir).map_err(StorageError::io("list", dir))? {
        if name.ends_with(".tmp") {
            let path = dir.join(name);
            disk.remove(&path).map_err(StorageError::io("remove", &path))?;
        }
    }
    // Also for the name of a snapshot whose process died before the name was durable.
    disk.sync_dir(dir).map_err(StorageError::sync(dir))
}

/// All snapshots, the newest first.
fn list(disk: &dyn Disk, dir: &Path) -> Result<Vec<SnapshotMeta>, StorageError> {
    let names = disk.list(dir).map_err(StorageError::io("list", dir))?;
    let mut metas: Vec<SnapshotMeta> =
        names.iter().filter_map(|name| format::parse_file_name(name)).collect();
    metas.sort_unstable_by_key(|meta| {
        std::cmp::Reverse((meta.last_included_index, meta.last_included_term))
    });
    Ok(metas)
}

/// The first of these that verifies, and the damage of the newest one if that is another.
fn newest_that_verifies(
    disk: &dyn Disk,
    dir: &Path,
    cluster_id: u64,
    metas: &[SnapshotMeta],
) -> Result<(Option<Snapshot>, Option<StorageError>), StorageError> {
    let mut damaged = None;
    for meta in metas {
        let path: Arc<Path> = dir.join(format::file_name(*meta)).into();
        let file = disk.open(&path).map_err(StorageError::io("open", &*path))?;
        match Snapshot::verify(file, path, cluster_id, *meta) {
            Ok(snapshot) => return Ok((Some(snapshot), damaged)),
            Err(err) if err.is_corrupt() => {
                log::error!("{err}");
                damaged.get_or_insert(err);
            }
            Err(err) => return Err(err),
        }
    }
    damaged.map_or(Ok((None, None)), |err| Err(with_advice(err)))
}

/// Adds what an operator can do when no snapshot verifies.
fn with_advice(err: StorageError) -> StorageError {
    const ADVICE: &str = "this member must not start without it: restore the file, or remove the \
                          data directory and let the member rejoin as a new one";
    match err {
        StorageError::SnapshotCorrupt { file, offset, reason } => {
            StorageError::SnapshotCorrupt { file, offset, reason: format!("{reason}; {ADVICE}") }
        }
        err => err,
    }
}

/// Removes snapshots that are no longer needed. If that fails, the next start tries again.
fn remove(disk: &dyn Disk, dir: &Path, metas: &[SnapshotMeta]) {
    for meta in metas {
        let path = dir.join(format::file_name(*meta));
        if let Err(err) = disk.remove(&path) {
            log::warn!("cannot remove {}, which is no longer needed: {err}", path.display());
        }
    }
}
