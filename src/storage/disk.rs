//! The disk as a trait, with no more operations than storage needs, and the real disk.
//!
//! Everything in [`storage`](crate::storage) goes through [`Disk`], so that the same code runs over
//! the file system ([`RealDisk`]) and over a disk that loses power at every operation
//! (`sim::SimDisk`). The trait promises no more than a careful reading of POSIX:
//!
//! - Written bytes and the length of the file are durable once [`DiskFile::sync_data`] has returned
//!   `Ok`. Before that, any part may be durable, in any order; a sector of 512 bytes is either old
//!   or new.
//! - A created, renamed or removed name is durable after [`DiskDir::sync`] of its directory.
//!   Renaming replaces at once.
//! - Because files contain values, only the owner of the process can read what it creates, whatever
//!   the umask, if the file system has such permissions.
//! - After a failed sync, nothing is known about what was written since the last sync that
//!   succeeded. A later success says nothing about it either, because Linux marks the pages clean.
//!   So a failed sync is never retried.

use std::any::Any;
use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Permissions of a directory: its owner's alone.
const DIR_MODE: u32 = 0o700;
/// Permissions of a file.
const FILE_MODE: u32 = 0o600;
/// The permissions of everyone but the owner.
const OTHERS_MODE: u32 = 0o077;
/// Set on directories that several users share, such as `/tmp`.
const STICKY_MODE: u32 = 0o1000;

/// A disk: names, directories and files.
pub trait Disk: Send + Sync + fmt::Debug {
    /// Creates an empty file, or empties the one of that name.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// Opens a file that exists, for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// The names in a directory, in any order.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Renames a file, and replaces whatever had the new name. A real disk renames directories too.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty directory. Leaves it by default, for a disk that nobody else can reach.
    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        let _ = dir;
        Ok(())
    }
    /// Creates one directory; its parent exists.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Whether this is a directory.
    fn is_dir(&self, path: &Path) -> bool;
    /// Whether something has this name. By default true, for a disk that nobody else can reach.
    fn exists(&self, path: &Path) -> io::Result<bool> {
        let _ = path;
        Ok(true)
    }
    /// Opens a directory in order to sync it. The empty path is the working directory.
    fn open_dir(&self, dir: &Path) -> io::Result<Arc<dyn DiskDir>>;
    /// Takes the exclusive lock on a file, which is created if absent. If another process has it,
    /// the inner result is `Err`, with that process's id if it is known.
    fn lock(&self, path: &Path) -> io::Result<Result<DiskLock, Option<u32>>>;
    /// A random number, for what must not be mistaken for its like on another disk. A simulated
    /// disk draws it from its seed.
    fn random(&self) -> u64 {
        fastrand::u64(..)
    }
    /// Takes away everyone's access but the owner's to a file or a directory that exists. Returns
    /// whether others had access. A directory that is shared on purpose (with the sticky bit) stays
    /// as it is. Does nothing by default, for a disk that nobody else can reach.
    fn make_private(&self, path: &Path) -> io::Result<bool> {
        let _ = path;
        Ok(false)
    }
    /// Remembers which file or directory has this name now. By default it keeps the name for ever,
    /// for a disk that nobody else can reach.
    fn pin(&self, path: &Path) -> io::Result<Box<dyn DiskPin>> {
        let _ = path;
        Ok(Box::new(Unreachable))
    }
}

/// An open directory. To sync it takes no further file descriptor, so a process that has run out of
/// them can still finish a change of names.
pub trait DiskDir: Send + Sync + fmt::Debug {
    /// Makes its names durable.
    fn sync(&self) -> io::Result<()>;
}

/// A file or a directory, identified by its inode instead of its name.
pub trait DiskPin: Send + Sync + fmt::Debug {
    /// Whether its name still leads to it. An error says neither yes nor no.
    fn is_in_place(&self) -> io::Result<bool>;
}

/// The pin of a disk that only this program can reach.
#[derive(Debug)]
struct Unreachable;

impl DiskPin for Unreachable {
    fn is_in_place(&self) -> io::Result<bool> {
        Ok(true)
    }
}

/// An open file. Positions are explicit, so threads can share it.
pub trait DiskFile: Send + Sync + fmt::Debug {
    /// Its length.
    fn len_bytes(&self) -> io::Result<u64>;
    /// Reads up to `buf.len()` bytes; 0 at the end.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes up to `buf.len()` bytes and returns how many.
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize>;
    /// Cuts it, or extends it with zeros.
    fn set_len(&self, len_bytes: u64) -> io::Result<()>;
    /// Makes its content and length durable.
    fn sync_data(&self) -> io::Result<()>;
}

/// A lock that is held until this is dropped, or the process dies.
pub struct DiskLock(#[allow(dead_code, reason = "held for its drop")] Box<dyn Any + Send + Sync>);

impl DiskLock {
    /// A lock that lasts as long as `guard`.
    pub fn new(guard: impl Any + Send + Sync) -> DiskLock {
        DiskLock(Box::new(guard))
    }
}

impl fmt::Debug for DiskLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DiskLock")
    }
}

impl dyn DiskFile + '_ {
    /// Writes all of `buf`, in as many writes as it takes.
    pub fn write_all_at(&self, mut buf: &[u8], mut offset: u64) -> io::Result<()> {
        while !buf.is_empty() {
            match self.write_at(buf, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => (buf, offset) = (&buf[n..], offset + n as u64),
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => return Err(err),
            }
        }
        Ok(())
    }

    /// Fills `buf` up to the end of the file, and returns how many bytes there were.
    pub fn read_full_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buf.len() {
            match self.read_at(&mut buf[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => return Err(err),
            }
        }
        Ok(filled)
    }
}

impl dyn Disk + '_ {
    /// Creates a directory and its missing parents, each durably.
    pub fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        if path.as_os_str().is_empty() || self.is_dir(path) {
            return Ok(());
        }
        let parent = path.parent().unwrap_or(Path::new(""));
        self.create_dir_all(parent)?;
        match self.create_dir(path) {
            Err(err) if err.kind() != io::ErrorKind::AlreadyExists || !self.is_dir(path) => {
                Err(err)
            }
            _ => self.sync_dir(parent),
        }
    }

    /// Makes the names in a directory durable.
    pub fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.open_dir(dir)?.sync()
    }

    /// Writes a whole file so that after a crash it is either the old one or the new one: writes a
    /// temporary file beside it, syncs and renames that, and syncs the directory `dir`.
    pub fn write_atomically(&self, dir: &dyn DiskDir, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let temporary = path.with_added_extension("tmp");
        let file = self.create(&temporary)?;
        file.write_all_at(bytes, 0)?;
        file.sync_data()?;
        self.rename(&temporary, path)?;
        dir.sync()
    }

    /// Reads a file, but no more than `len_max_bytes` of it.
    pub fn read_to_vec(&self, path: &Path, len_max_bytes: usize) -> io::Result<Vec<u8>> {
        let file = self.open(path)?;
        let mut bytes = vec![0; (file.len_bytes()?).min(len_max_bytes as u64) as usize];
        let filled = file.read_full_at(&mut bytes, 0)?;
        bytes.truncate(filled);
        Ok(bytes)
    }
}

/// The file system of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let file = private_options().create(true).truncate(true).open(path)?;
        try_permissions(path, FILE_MODE);
        Ok(Arc::new(file))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(OpenOptions::new().read(true).write(true).open(path)?))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        // A name that is not UTF-8 is not ours.
        fs::read_dir(dir)?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        fs::remove_dir(dir)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        DirBuilder::new().mode(DIR_MODE).create(path)?;
        try_permissions(path, DIR_MODE);
        Ok(())
    }

    fn is_dir(&self, path: &Path) -> bool {
        path.is_dir()
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        path.try_exists()
    }

    fn open_dir(&self, dir: &Path) -> io::Result<Arc<dyn DiskDir>> {
        let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
        Ok(Arc::new(File::open(dir)?))
    }

    fn lock(&self, path: &Path) -> io::Result<Result<DiskLock, Option<u32>>> {
        let mut file = private_options().create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => {
                try_permissions(path, FILE_MODE);
                // Only for the message that a second process gets.
                file.set_len(0)?;
                writeln!(file, "{}", std::process::id())?;
                Ok(Ok(DiskLock::new(file)))
            }
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _ = file.read_to_string(&mut holder);
                Ok(Err(holder.trim().parse().ok()))
            }
            Err(TryLockError::Error(err)) => Err(err),
        }
    }

    fn make_private(&self, path: &Path) -> io::Result<bool> {
        let mode = fs::metadata(path)?.permissions().mode();
        if mode & OTHERS_MODE == 0 || mode & STICKY_MODE != 0 {
            return Ok(false);
        }
        fs::set_permissions(path, Permissions::from_mode(mode & !OTHERS_MODE))?;
        Ok(true)
    }

    fn pin(&self, path: &Path) -> io::Result<Box<dyn DiskPin>> {
        Ok(Box::new(RealPin { file: File::open(path)?, path: path.to_path_buf() }))
    }
}

/// Sets the mode, because the umask may have taken rights from the owner too, and a file that
/// exists keeps its mode. The file system may refuse: on vfat no file has a mode, and on a shared
/// volume the file may belong to another user. It can be used all the same. [`Disk::make_private`]
/// reports whether others have access.
fn try_permissions(path: &Path, mode: u32) {
    if let Err(err) = fs::set_permissions(path, Permissions::from_mode(mode)) {
        log::debug!("{} keeps its mode: {err}", path.display());
    }
}

fn private_options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(FILE_MODE);
    options
}

/// Keeps the file or directory open, so that the system does not reuse its inode number.
#[derive(Debug)]
struct RealPin {
    file: File,
    path: PathBuf,
}

impl DiskPin for RealPin {
    fn is_in_place(&self) -> io::Result<bool> {
        use io::ErrorKind::{NotADirectory, NotFound, StaleNetworkFileHandle};
        let found = match fs::metadata(&self.path) {
            Ok(found) => found,
            Err(err) if matches!(err.kind(), NotFound | NotADirectory | StaleNetworkFileHandle) => {
                return Ok(false);
            }
            Err(err) => return Err(err),
        };
        let held = self.file.metadata()?;
        Ok((found.dev(), found.ino()) == (held.dev(), held.ino()))
    }
}

impl DiskDir for File {
    fn sync(&self) -> io::Result<()> {
        self.sync_all()
    }
}

impl DiskFile for File {
    fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(self, buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        FileExt::write_at(self, buf, offset)
    }

    fn set_len(&self, len_bytes: u64) -> io::Result<()> {
        File::set_len(self, len_bytes)
    }

    fn sync_data(&self) -> io::Result<()> {
        File::sync_data(self)
    }
}
