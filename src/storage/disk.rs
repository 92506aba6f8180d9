//! The disk, as little of it as storage needs: a trait, and the real one.
//!
//! Everything in [`storage`](crate::storage) goes through [`Disk`], so that the same code runs over
//! the file system ([`RealDisk`]) and over one that loses power at every operation
//! (`sim::SimDisk`). The trait promises no more than POSIX and a careful reading of it do:
//!
//! - What was written is durable after [`DiskFile::sync_data`] has returned `Ok`, the length of the file included. Before
//!   that, any part of it may be, in any order; a sector of 512 bytes is either old or new.
//! - A created, renamed or removed name is durable after [`DiskDir::sync`] of its directory. Renaming replaces at once.
//! - What is created is private, where the file system can do that: the owner of the process may use it, and nobody else,
//!   whatever the umask. Values are in it.
//! - After a failed sync nothing is known about what was written since the last good one, and a later sync that succeeds
//!   says nothing about it either (on Linux the pages were marked clean): so a failed sync is never retried.

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
/// The permissions of everybody but the owner.
const OTHERS_MODE: u32 = 0o077;
/// Set on directories that several users share, such as `/tmp`.
const STICKY_MODE: u32 = 0o1000;

/// A disk: names, directories and files.
pub trait Disk: Send + Sync + fmt::Debug {
    /// Creates a file, empty; one of that name is emptied.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// Opens a file that exists, for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// The names in a directory, in no order.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Gives a file another name, replacing what had it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Creates one directory; its parent exists.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Whether this is a directory.
    fn is_dir(&self, path: &Path) -> bool;
    /// Whether something has this name.
    ///
    /// By default what was made stays: nobody else can reach this disk.
    fn exists(&self, path: &Path) -> io::Result<bool> {
        let _ = path;
        Ok(true)
    }
    /// Opens a directory, to sync it. The empty path is the working directory.
    fn open_dir(&self, dir: &Path) -> io::Result<Arc<dyn DiskDir>>;
    /// Takes the exclusive lock on a file, created when absent; `Err` with the holder's process id
    /// if someone has it.
    fn lock(&self, path: &Path) -> io::Result<Result<DiskLock, Option<u32>>>;
    /// Takes a file or a directory that is there already from everybody but its owner. Returns
    /// whether others had access before. A directory that is shared on purpose (with the sticky
    /// bit) is left as it is.
    ///
    /// By default nothing: nobody else can reach this disk.
    fn make_private(&self, path: &Path) -> io::Result<bool> {
        let _ = path;
        Ok(false)
    }
    /// Remembers which file or directory has this name now.
    ///
    /// By default it keeps its name for ever: nobody else can reach this disk.
    fn pin(&self, path: &Path) -> io::Result<Box<dyn DiskPin>> {
        let _ = path;
        Ok(Box::new(Unreachable))
    }
}

/// An open directory. Syncing it needs no further file descriptor: a process that has run out of
/// them can still finish a change of names that it has begun.
pub trait DiskDir: Send + Sync + fmt::Debug {
    /// Makes durable which names it has.
    fn sync(&self) -> io::Result<()>;
}

/// A file or a directory by what it is, and not by its name.
pub trait DiskPin: Send + Sync + fmt::Debug {
    /// Whether its name still leads to it. An error says nothing about that.
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

/// An open file. Positions are explicit, so it can be shared between threads.
pub trait DiskFile: Send + Sync + fmt::Debug {
    /// Its length.
    fn len_bytes(&self) -> io::Result<u64>;
    /// Reads up to `buf.len()` bytes; 0 at the end.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes up to `buf.len()` bytes and says how many.
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize>;
    /// Cuts it, or extends it with zeros.
    fn set_len(&self, len_bytes: u64) -> io::Result<()>;
    /// Makes its content and length durable.
    fn sync_data(&self) -> io::Result<()>;
}

/// A held lock: given back when dropped, and by the kernel when the process dies.
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
    /// Writes all of `buf`: as many writes as it takes.
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

    /// Fills `buf` as far as the file reaches, and says how far.
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
    /// Creates a directory and those above it that are missing, each one durable.
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

    /// Makes durable which names a directory has.
    pub fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.open_dir(dir)?.sync()
    }

    /// Writes a whole file so that after a crash it is the old one or the new one, never half: a
    /// temporary file beside it, synced, renamed, and its directory `dir` synced.
    pub fn write_atomically(&self, dir: &dyn DiskDir, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let temporary = path.with_added_extension("tmp");
        let file = self.create(&temporary)?;
        file.write_all_at(bytes, 0)?;
        file.sync_data()?;
        self.rename(&temporary, path)?;
        dir.sync()
    }

    /// Reads a whole file of at most `len_max_bytes`; what is beyond is left out.
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
        // A name that is not UTF-8 is none of ours.
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
                // For the message that a second process gets; nothing depends on it.
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

/// The umask may have taken rights from the owner, too, and a file that exists keeps its mode. The
/// file system may refuse the change: on vfat no file has a mode, and on a shared volume the file
/// may belong to another user. It can be used all the same. Whether others have access is what
/// [`Disk::make_private`] reports.
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

/// Holds the file or directory open, so that the system gives its inode number to no other.
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
