//! Snapshots of the state machine: what the log no longer has to hold (Raft §7).
//!
//! ```text
//! our state ── create ──> SnapshotWriter ─┐ finish: sync, read back and verify,       snap/0000000120-0000000007.snap
//! a leader ─── receive ─> Receiver ───────┴─ rename, sync the directory ────────────> the newest; older ones go after that
//!                                                                                      ├─ reader: the state
//!                                                                                      └─ read_chunk: bytes for a follower
//! ```
//!
//! # Files
//!
//! | Name in `snap/` | What |
//! |---|---|
//! | `<index>-<term>.snap` | the state after this entry; ten digits each, or more |
//! | `<snapshot>.<n>.tmp` | one in the making; removed when it is given up, and by the next start |
//!
//! All numbers are little-endian. All checksums are CRC32C. Version 1 is a header, chunks, a trailer:
//!
//! | Offset | Size | Field | Why |
//! |---|---|---|---|
//! | 0 | 8 | `SYNCSNP\n` | to know the file |
//! | 8 | 4 | checksum of bytes 12 to 63 | |
//! | 12 | 4 | format version: 1 | a later one is refused. In all versions up to here the same |
//! | 16 | 8 | cluster id | a file of another cluster is noticed. No member id: members send each other these files |
//! | 24 | 8 | index of the last entry in it | the name says both too: a renamed file is noticed |
//! | 32 | 8 | its term | |
//! | 40 | 24 | zero | |
//! | 64 | | chunks, one after the other | |
//!
//! **A chunk** is a piece of the state, 64 KiB but for the last one:
//!
//! | Offset | Size | Field | Why |
//! |---|---|---|---|
//! | 0 | 4 | length of the bytes, 1 to 65,536 | bounds what a reader holds in memory |
//! | 4 | 4 | checksum of the length and the bytes, continued from the one before | order and number count |
//! | 8 | | the bytes | |
//!
//! **The trailer** is where a chunk would be:
//!
//! | Offset | Size | Field | Why |
//! |---|---|---|---|
//! | 0 | 4 | zero | no chunk has this length |
//! | 4 | 4 | checksum of the rest and of this zero, continued from the last chunk | |
//! | 8 | 8 | length of the state | |
//! | 16 | 8 | length of the file | a file that was cut, or added to, is noticed |
//!
//! The first chunk's checksum continues from that of the whole header. So each checksum vouches for all before it: chunks
//! that changed places, that are missing or doubled, or that came from another snapshot of the same state do not match, and
//! the trailer's vouches for the file. A reader still hands out what it has verified, without having seen the end.
//!
//! # What is promised
//!
//! - A snapshot that has its name is whole: it was synced and read back before the rename. One that does not verify at the
//!   start was damaged, and is refused with file and offset.
//! - Until a new one is durable, name included, the one before is there; then older ones go. A crash may leave two.
//! - Indexes go up: a file that is finished after a newer one was installed is dropped.
//! - What goes wrong while one is made or received, a full disk included, costs that one and nothing else.
//! - What a leader sends is verified as a whole before it replaces anything. A transfer that breaks off is put aside, one at
//!   most, and goes on from there if it is the same one; if it was not (another leader's file of the same length, say), the
//!   checksums tell, and it begins anew.
//!
//! Memory is bounded by a chunk, a half-written file in the system's memory by 8 MiB: it is synced as it grows, so that the
//! log's fdatasync does not wait behind a gigabyte.
//!
//! With the log: a snapshot is durable first, then the log may release what is in it
//! ([`release_through`](super::Wal::release_through)), or begin anew after it ([`reset`](super::Wal::reset)). In between,
//! a start finds both, and [`Wal::open`](super::Wal::open) takes of the log what follows the snapshot. An installed snapshot
//! is acknowledged after the log was reset, or found to continue it: from then on no older snapshot can be taken for it.
//!
//! # Left out
//!
//! Transfers that go on after a restart, incremental snapshots, compression: the state machine may compress.

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

use crate::raft::SnapshotMeta;

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
    cluster_id: u64,
    newest: Mutex<Option<Snapshot>>,
    /// Held while a file becomes the newest snapshot, its syncs included: the order of renames is that of indexes.
    publishing: Mutex<()>,
    /// What had arrived when a receiver was dropped: one at most.
    partial: Mutex<Option<Partial>>,
    temporaries: AtomicU64,
    damaged: Option<StorageError>,
    /// The directory stays ours for as long as we write in it.
    _lock: Arc<DiskLock>,
}

/// A snapshot, verified. A clone is cheap and reads the same open file, which stays readable when a newer snapshot has
/// replaced it.
#[derive(Clone, Debug)]
pub struct Snapshot {
    meta: SnapshotMeta,
    len_bytes: u64,
    cluster_id: u64,
    path: Arc<Path>,
    file: Arc<dyn DiskFile>,
}

impl Snapshots {
    /// Opens the snapshots of a data directory, and returns the newest that verifies. Files in the making and older
    /// snapshots are removed.
    ///
    /// If the newest is damaged, an older one is returned if there is one (a crash may have left it): whether the log still
    /// reaches back to it is for [`Wal::open`](super::Wal::open) to say. The damage is in the log and in
    /// [`damaged`](Snapshots::damaged), and the damaged file stays until there is a newer snapshot.
    ///
    /// # Errors
    /// - [`SnapshotCorrupt`](StorageError::SnapshotCorrupt): there are snapshots and none verifies; the newest one's damage
    /// - [`NewerFormat`](StorageError::NewerFormat): written by a later version
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
            metas.retain(|meta| *meta != newest.meta);
            remove(&*disk, &snap_dir, &metas);
        }
        let shared = Shared {
            dir: OpenDir::open(&*disk, snap_dir)?,
            disk,
            cluster_id: dir.identity().cluster_id,
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

    /// What was wrong with a newer snapshot than the one that [`open`](Snapshots::open) returned. If the log does not reach
    /// back to that older one, this is why the member cannot start.
    pub fn damaged(&self) -> Option<&StorageError> {
        self.0.damaged.as_ref()
    }

    /// Begins a snapshot of the state as it is after this entry.
    ///
    /// # Errors
    /// [`Full`](StorageError::Full), [`Io`](StorageError::Io): the system refused.
    pub fn create(&self, meta: SnapshotMeta) -> Result<SnapshotWriter, StorageError> {
        SnapshotWriter::create(Arc::clone(&self.0), meta)
    }

    /// Begins to receive a snapshot whose file is so long, or goes on with it: [`Receiver::offset`] says where.
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

    /// Makes a written file the newest snapshot, unless there is one as new.
    fn publish(
        &self,
        mut temporary: Temporary,
        meta: SnapshotMeta,
    ) -> Result<Snapshot, StorageError> {
        temporary.sync()?;
        let written: Arc<Path> = temporary.path.as_path().into();
        let snapshot =
            Snapshot::verify(Arc::clone(&temporary.file), written, self.cluster_id, meta)?;
        let _publishing = self.publishing.lock();
        if let Some(newest) = self.newest.lock().clone()
            && newest.meta.last_included_index >= meta.last_included_index
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
            Err(err) => log::warn!("cannot remove older snapshots: {err}"),
        }
    }
}

impl Snapshot {
    /// Reads all of it once.
    fn verify(
        file: Arc<dyn DiskFile>,
        path: Arc<Path>,
        cluster_id: u64,
        meta: SnapshotMeta,
    ) -> Result<Snapshot, StorageError> {
        let header = Header { cluster_id, meta };
        let len_bytes =
            SnapshotReader::open(Arc::clone(&file), Arc::clone(&path), header)?.verify()?;
        Ok(Snapshot { meta, len_bytes, cluster_id, path, file })
    }

    /// Where it ends: everything up to and including that entry is in it.
    pub fn meta(&self) -> SnapshotMeta {
        self.meta
    }

    /// The length of its file.
    pub fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// Its file. It may be gone by now, or be another snapshot of the same state.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the state in it; every byte is verified once more.
    ///
    /// # Errors
    /// [`SnapshotCorrupt`](StorageError::SnapshotCorrupt), [`Io`](StorageError::Io): its first bytes can't be read, or have
    /// changed.
    pub fn reader(&self) -> Result<SnapshotReader, StorageError> {
        let header = Header { cluster_id: self.cluster_id, meta: self.meta };
        SnapshotReader::open(Arc::clone(&self.file), Arc::clone(&self.path), header)
    }

    /// Bytes of its file, for a [`Receiver`] elsewhere, which verifies them: from `offset` up to `len_max_bytes` of them,
    /// none at its end.
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
    // Also for the name of a snapshot that a process before us made, and died before it was durable.
    disk.sync_dir(dir).map_err(StorageError::sync(dir))
}

/// What snapshots there are, the newest first.
fn list(disk: &dyn Disk, dir: &Path) -> Result<Vec<SnapshotMeta>, StorageError> {
    let names = disk.list(dir).map_err(StorageError::io("list", dir))?;
    let mut metas: Vec<SnapshotMeta> =
        names.iter().filter_map(|name| format::parse_file_name(name)).collect();
    metas.sort_unstable_by_key(|meta| {
        std::cmp::Reverse((meta.last_included_index, meta.last_included_term))
    });
    Ok(metas)
}

/// The first of these that is whole, and what is wrong with the newest one if that is not it.
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

/// None verifies: what an operator can do.
fn with_advice(err: StorageError) -> StorageError {
    const ADVICE: &str = "this member must not start without it: restore the file, or remove the data directory and let \
                          the member rejoin as a new one";
    match err {
        StorageError::SnapshotCorrupt { file, offset, reason } => {
            StorageError::SnapshotCorrupt { file, offset, reason: format!("{reason}; {ADVICE}") }
        }
        err => err,
    }
}

/// Removes what is no longer needed. What can't be removed takes space, and is tried again by the next start.
fn remove(disk: &dyn Disk, dir: &Path, metas: &[SnapshotMeta]) {
    for meta in metas {
        let path = dir.join(format::file_name(*meta));
        if let Err(err) = disk.remove(&path) {
            log::warn!("cannot remove {}, which is no longer needed: {err}", path.display());
        }
    }
}
