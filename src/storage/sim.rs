//! A disk in memory that loses what was not synced, for tests and for the simulator.
//!
//! [`SimDisk`] keeps two states: what a running process sees, and what is durable.
//! [`crash`](SimDisk::crash) simulates a loss of power: the seed decides whether each unsynced
//! change is kept, lost or torn, and every open file is dead. The disk is as bad as POSIX allows,
//! and no worse:
//!
//! | Change | After a crash it may be | Until |
//! |---|---|---|
//! | a write | there, gone, cut at any byte, or there in any 512-byte sectors | `sync_data` |
//! | a new length | there or gone | `sync_data` |
//! | a new, renamed or removed name | there or gone, whatever others are | the directory's `sync` |
//!
//! [`set_faults`](SimDisk::set_faults) injects faults at certain operations, counted from the
//! creation of the disk ([`counts`](SimDisk::counts)). A failed sync behaves as on Linux: the bytes
//! become durable or are lost, and no later sync changes that, although reads still return them.
//!
//! The same seed and the same calls have the same result. Threads may share a disk; then the order
//! of their calls matters too.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::disk::{Disk, DiskDir, DiskFile, DiskLock};

/// A write of this many bytes, aligned, is done completely or not at all.
const SECTOR_LEN_BYTES: usize = 512;

/// A disk in memory. Clones are the same disk.
#[derive(Clone, Debug)]
pub struct SimDisk(Arc<Mutex<State>>);

/// The faults to inject. Operations are counted from 1, from the creation of the disk:
/// `fail_sync: Some(3)` fails the third sync.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// The process stops at this operation: a write may have begun, so it can be torn; any other
    /// operation has not. Every later operation fails too.
    pub stop_at_op: Option<u64>,
    /// This sync, of a file or a directory, fails with an I/O error.
    pub fail_sync: Option<u64>,
    /// The disk is full from this write on. Creating and extending files count as writes.
    pub full_from_write: Option<u64>,
    /// The process has no file descriptor left, so nothing can be opened or created.
    pub no_descriptors: bool,
    /// A write of more than one byte writes only part of it; the seed decides how much.
    pub short_writes: bool,
}

/// How many operations a disk was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Everything that changes something, syncs included.
    pub ops: u64,
    /// Operations that need space.
    pub writes: u64,
    /// Syncs of files and directories.
    pub syncs: u64,
}

#[derive(Clone, Debug)]
struct State {
    rng: fastrand::Rng,
    /// The seed, and how many [random numbers](Disk::random) were drawn. They are no part of `rng`,
    /// so that a number more does not change which changes a crash keeps.
    seed: u64,
    drawn: u64,
    /// Incremented by each crash. Files opened in an earlier epoch are dead.
    epoch: u64,
    inodes: BTreeMap<u64, Inode>,
    live: BTreeMap<PathBuf, Node>,
    durable: BTreeMap<PathBuf, Node>,
    /// Unsynced changes of names, oldest first.
    renames: Vec<NameChange>,
    locks: BTreeSet<PathBuf>,
    faults: Faults,
    counts: Counts,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Node {
    Dir,
    File(u64),
}

#[derive(Clone, Debug)]
enum NameChange {
    Add(PathBuf, Node),
    Remove(PathBuf),
    Rename(PathBuf, PathBuf),
}

#[derive(Clone, Debug, Default)]
struct Inode {
    live: Vec<u8>,
    durable: Vec<u8>,
    /// Unsynced changes, oldest first.
    unsynced: Vec<Change>,
}

#[derive(Clone, Debug)]
enum Change {
    Write(u64, Vec<u8>),
    SetLen(u64),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Op {
    Write,
    Name,
    Sync,
}

impl SimDisk {
    /// An empty disk. The seed decides what happens to unsynced changes.
    pub fn new(seed: u64) -> SimDisk {
        SimDisk(Arc::new(Mutex::new(State {
            rng: fastrand::Rng::with_seed(seed),
            seed,
            drawn: 0,
            epoch: 0,
            inodes: BTreeMap::new(),
            live: BTreeMap::from([(PathBuf::from("/"), Node::Dir)]),
            durable: BTreeMap::from([(PathBuf::from("/"), Node::Dir)]),
            renames: Vec::new(),
            locks: BTreeSet::new(),
            faults: Faults::default(),
            counts: Counts::default(),
        })))
    }

    /// Loses power: open files and locks are gone, and the seed decides which unsynced changes
    /// remain. Also removes all faults.
    pub fn crash(&self) {
        self.0.lock().crash();
    }

    /// A second disk with the same content, durable or not, and a seed of its own. Open files
    /// belong to the first disk.
    pub fn fork(&self, seed: u64) -> SimDisk {
        let mut state = self.0.lock().clone();
        state.rng = fastrand::Rng::with_seed(seed);
        state.seed = seed;
        state.epoch += 1;
        state.locks.clear();
        SimDisk(Arc::new(Mutex::new(state)))
    }

    /// Injects these faults instead of the ones that were set before.
    pub fn set_faults(&self, faults: Faults) {
        self.0.lock().faults = faults;
    }

    /// How many operations there were so far.
    pub fn counts(&self) -> Counts {
        self.0.lock().counts
    }

    /// The files below a directory, by name, as a process would see them.
    pub fn files(&self, dir: &Path) -> Vec<PathBuf> {
        let state = self.0.lock();
        let files =
            state.live.iter().filter(|(path, node)| path.starts_with(dir) && **node != Node::Dir);
        files.map(|(path, _)| path.clone()).collect()
    }

    /// The content of a file, as a process would read it.
    pub fn bytes(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.0.lock();
        match state.live.get(path)? {
            Node::File(inode) => Some(state.inodes[inode].live.clone()),
            Node::Dir => None,
        }
    }

    /// Replaces or creates a file, durably and without counting an operation.
    pub fn set_bytes(&self, path: &Path, bytes: Vec<u8>) {
        let mut state = self.0.lock();
        let inode = match state.live.get(path) {
            Some(Node::File(inode)) => *inode,
            _ => state.new_inode(),
        };
        state
            .inodes
            .insert(inode, Inode { live: bytes.clone(), durable: bytes, unsynced: Vec::new() });
        state.live.insert(path.to_path_buf(), Node::File(inode));
        state.durable.insert(path.to_path_buf(), Node::File(inode));
    }

    /// Removes a file, durably and without counting an operation.
    pub fn lose(&self, path: &Path) {
        let mut state = self.0.lock();
        state.live.remove(path);
        state.durable.remove(path);
    }
}

impl State {
    fn new_inode(&mut self) -> u64 {
        let inode = self.inodes.keys().last().map_or(1, |last| last + 1);
        self.inodes.insert(inode, Inode::default());
        inode
    }

    /// Counts an operation, and fails it if the faults say so. `Ok(true)`: it is the last one of
    /// this process.
    fn begin(&mut self, op: Op) -> io::Result<bool> {
        self.counts.ops += 1;
        self.counts.writes += u64::from(op == Op::Write);
        self.counts.syncs += u64::from(op == Op::Sync);
        let stop_at = self.faults.stop_at_op.unwrap_or(u64::MAX);
        if self.counts.ops > stop_at || (self.counts.ops == stop_at && op != Op::Write) {
            return Err(stopped());
        }
        if op == Op::Write
            && self.faults.full_from_write.is_some_and(|from| self.counts.writes >= from)
        {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(self.counts.ops == stop_at)
    }

    fn check_descriptors(&self) -> io::Result<()> {
        match self.faults.no_descriptors {
            true => Err(rustix::io::Errno::MFILE.into()),
            false => Ok(()),
        }
    }

    fn sync_fails(&self) -> bool {
        self.faults.fail_sync == Some(self.counts.syncs)
    }

    fn file(&mut self, path: &Path) -> io::Result<u64> {
        match self.live.get(path) {
            Some(Node::File(inode)) => Ok(*inode),
            Some(Node::Dir) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn parent_exists(&self, path: &Path) -> io::Result<()> {
        match path.parent().and_then(|parent| self.live.get(parent)) {
            Some(Node::Dir) => Ok(()),
            Some(Node::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn change_name(&mut self, change: NameChange) {
        apply_name(&mut self.live, &change);
        self.renames.push(change);
    }

    fn sync_names(&mut self, dir: &Path) {
        let (synced, rest) =
            std::mem::take(&mut self.renames).into_iter().partition(|change| change.is_in(dir));
        self.renames = rest;
        let synced: Vec<NameChange> = synced;
        synced.iter().for_each(|change| apply_name(&mut self.durable, change));
    }

    fn crash(&mut self) {
        let mode = self.rng.u8(0..4);
        for inode in self.inodes.values_mut() {
            inode.settle(mode, &mut self.rng);
        }
        for change in std::mem::take(&mut self.renames) {
            if keeps(mode, &mut self.rng) {
                apply_name(&mut self.durable, &change);
            }
        }
        drop_orphans(&mut self.durable);
        self.live = self.durable.clone();
        let used: BTreeSet<u64> = self.live.values().filter_map(Node::inode).collect();
        self.inodes.retain(|inode, _| used.contains(inode));
        self.epoch += 1;
        self.locks.clear();
        self.faults = Faults::default();
    }
}

/// Whether an unsynced change survives as a whole: never, always, or at random.
fn keeps(mode: u8, rng: &mut fastrand::Rng) -> bool {
    match mode {
        0 => false,
        1 => true,
        _ => rng.bool(),
    }
}

impl Inode {
    fn change(&mut self, change: Change) {
        change.apply(&mut self.live);
        self.unsynced.push(change);
    }

    fn sync(&mut self) {
        for change in std::mem::take(&mut self.unsynced) {
            change.apply(&mut self.durable);
        }
    }

    /// After a failed sync, each unsynced change is durable or lost for good.
    fn fail_sync(&mut self, rng: &mut fastrand::Rng) {
        let live = self.live.clone();
        self.settle(rng.u8(0..4), rng);
        self.live = live;
    }

    /// Decides which unsynced changes survive.
    fn settle(&mut self, mode: u8, rng: &mut fastrand::Rng) {
        for change in std::mem::take(&mut self.unsynced) {
            match change {
                Change::Write(offset, bytes) if mode >= 2 => {
                    tear(&mut self.durable, offset, &bytes, rng)
                }
                change if keeps(mode, rng) => change.apply(&mut self.durable),
                _ => {}
            }
        }
        self.live = self.durable.clone();
    }
}

/// Makes any part of a write durable.
fn tear(durable: &mut Vec<u8>, offset: u64, bytes: &[u8], rng: &mut fastrand::Rng) {
    match rng.u8(0..4) {
        0 => {}
        1 => write(durable, offset, bytes),
        2 => write(durable, offset, &bytes[..rng.usize(0..=bytes.len())]),
        _ => {
            let mut at = 0;
            while at < bytes.len() {
                let in_sector = SECTOR_LEN_BYTES - (offset as usize + at) % SECTOR_LEN_BYTES;
                let end = bytes.len().min(at + in_sector);
                if rng.bool() {
                    write(durable, offset + at as u64, &bytes[at..end]);
                }
                at = end;
            }
        }
    }
}

impl Change {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Change::Write(offset, bytes) => write(content, *offset, bytes),
            Change::SetLen(len) => content.resize(*len as usize, 0),
        }
    }
}

fn write(content: &mut Vec<u8>, offset: u64, bytes: &[u8]) {
    let (offset, end) = (offset as usize, offset as usize + bytes.len());
    if content.len() < end {
        content.resize(end, 0);
    }
    content[offset..end].copy_from_slice(bytes);
}

impl Node {
    fn inode(&self) -> Option<u64> {
        match self {
            Node::File(inode) => Some(*inode),
            Node::Dir => None,
        }
    }
}

impl NameChange {
    fn is_in(&self, dir: &Path) -> bool {
        let (NameChange::Add(path, _) | NameChange::Remove(path) | NameChange::Rename(_, path)) =
            self;
        path.parent() == Some(dir)
    }
}

fn apply_name(names: &mut BTreeMap<PathBuf, Node>, change: &NameChange) {
    match change {
        NameChange::Add(path, node) => {
            names.insert(path.clone(), *node);
        }
        NameChange::Remove(path) => {
            names.remove(path);
        }
        // If the source never became durable, nothing is renamed.
        NameChange::Rename(from, to) => {
            if let Some(node) = names.remove(from) {
                names.insert(to.clone(), node);
            }
        }
    }
}

/// Removes everything whose directory did not survive. The map's order puts a directory before its
/// content.
fn drop_orphans(names: &mut BTreeMap<PathBuf, Node>) {
    let mut kept = BTreeMap::new();
    for (path, node) in std::mem::take(names) {
        if path.parent().is_none_or(|parent| kept.get(parent) == Some(&Node::Dir)) {
            kept.insert(path, node);
        }
    }
    *names = kept;
}

/// Spreads the bits of a number (the finalizer of SplitMix64).
fn mix(number: u64) -> u64 {
    let number = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ number >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ number >> 31
}

fn stopped() -> io::Error {
    io::Error::other("the simulated process has stopped")
}

impl Disk for SimDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.0.lock();
        state.check_descriptors()?;
        state.parent_exists(path)?;
        if state.begin(Op::Write)? {
            return Err(stopped());
        }
        let inode = match state.live.get(path) {
            Some(Node::Dir) => return Err(io::ErrorKind::IsADirectory.into()),
            Some(Node::File(inode)) => *inode,
            None => {
                let inode = state.new_inode();
                state.change_name(NameChange::Add(path.to_path_buf(), Node::File(inode)));
                inode
            }
        };
        // The inode exists: it was just found or made.
        state.inodes.get_mut(&inode).expect("inode of a live name").change(Change::SetLen(0));
        Ok(Arc::new(SimFile { disk: self.clone(), inode, epoch: state.epoch }))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.0.lock();
        state.check_descriptors()?;
        let inode = state.file(path)?;
        Ok(Arc::new(SimFile { disk: self.clone(), inode, epoch: state.epoch }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let state = self.0.lock();
        if state.live.get(dir) != Some(&Node::Dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let names = state
            .live
            .keys()
            .filter(|path| path.parent() == Some(dir))
            .filter_map(|path| path.file_name());
        Ok(names.map(|name| name.to_string_lossy().into_owned()).collect())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        state.begin(Op::Name)?;
        state.file(from)?;
        state.parent_exists(to)?;
        state.change_name(NameChange::Rename(from.to_path_buf(), to.to_path_buf()));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        state.begin(Op::Name)?;
        state.file(path)?;
        state.change_name(NameChange::Remove(path.to_path_buf()));
        Ok(())
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        state.parent_exists(path)?;
        if state.live.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if state.begin(Op::Write)? {
            return Err(stopped());
        }
        state.change_name(NameChange::Add(path.to_path_buf(), Node::Dir));
        Ok(())
    }

    fn is_dir(&self, path: &Path) -> bool {
        self.0.lock().live.get(path) == Some(&Node::Dir)
    }

    fn random(&self) -> u64 {
        let mut state = self.0.lock();
        state.drawn += 1;
        mix(mix(state.seed) ^ state.drawn)
    }

    fn open_dir(&self, dir: &Path) -> io::Result<Arc<dyn DiskDir>> {
        let state = self.0.lock();
        state.check_descriptors()?;
        Ok(Arc::new(SimDir { disk: self.clone(), path: dir.to_path_buf(), epoch: state.epoch }))
    }

    fn lock(&self, path: &Path) -> io::Result<Result<DiskLock, Option<u32>>> {
        let mut state = self.0.lock();
        state.parent_exists(path)?;
        if !state.locks.insert(path.to_path_buf()) {
            return Ok(Err(None));
        }
        let guard = SimLock { disk: self.clone(), path: path.to_path_buf(), epoch: state.epoch };
        Ok(Ok(DiskLock::new(guard)))
    }
}

#[derive(Debug)]
struct SimDir {
    disk: SimDisk,
    path: PathBuf,
    epoch: u64,
}

impl DiskDir for SimDir {
    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.0.lock();
        if state.epoch != self.epoch {
            return Err(stopped());
        }
        state.begin(Op::Sync)?;
        if state.sync_fails() {
            return Err(io::Error::other("injected: the directory could not be synced"));
        }
        state.sync_names(&self.path);
        Ok(())
    }
}

struct SimLock {
    disk: SimDisk,
    path: PathBuf,
    epoch: u64,
}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut state = self.disk.0.lock();
        if state.epoch == self.epoch {
            state.locks.remove(&self.path);
        }
    }
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    inode: u64,
    epoch: u64,
}

impl SimFile {
    fn with<R>(&self, f: impl FnOnce(&mut State) -> io::Result<R>) -> io::Result<R> {
        let mut state = self.disk.0.lock();
        if state.epoch != self.epoch { Err(stopped()) } else { f(&mut state) }
    }
}

impl State {
    /// The inode of an open file. Only a crash removes inodes, and it also makes every open file
    /// dead.
    fn inode(&mut self, inode: u64) -> &mut Inode {
        self.inodes.get_mut(&inode).expect("inode of an open file")
    }
}

impl DiskFile for SimFile {
    fn len_bytes(&self) -> io::Result<u64> {
        self.with(|state| Ok(state.inode(self.inode).live.len() as u64))
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.with(|state| {
            let content = &state.inode(self.inode).live;
            let rest = content.get(offset as usize..).unwrap_or_default();
            let len = rest.len().min(buf.len());
            buf[..len].copy_from_slice(&rest[..len]);
            Ok(len)
        })
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        self.with(|state| {
            let last = state.begin(Op::Write)?;
            // Running out of space causes a short write first, and an error at the next one.
            let runs_full = state.faults.full_from_write == Some(state.counts.writes + 1);
            let short = buf.len() > 1 && (state.faults.short_writes || runs_full);
            let len = if short { state.rng.usize(1..buf.len()) } else { buf.len() };
            state.inode(self.inode).change(Change::Write(offset, buf[..len].to_vec()));
            if last { Err(stopped()) } else { Ok(len) }
        })
    }

    fn set_len(&self, len_bytes: u64) -> io::Result<()> {
        self.with(|state| {
            let last = state.begin(Op::Write)?;
            state.inode(self.inode).change(Change::SetLen(len_bytes));
            if last { Err(stopped()) } else { Ok(()) }
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.with(|state| {
            state.begin(Op::Sync)?;
            if state.sync_fails() {
                let mut rng = state.rng.fork();
                state.inode(self.inode).fail_sync(&mut rng);
                return Err(io::Error::other("injected: the file could not be synced"));
            }
            state.inode(self.inode).sync();
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "/file";

    /// What is left, after each of many crashes, of what `f` does to a disk with an empty, durable
    /// file.
    fn after_crashes(f: impl Fn(&SimDisk, &dyn DiskFile)) -> BTreeSet<Option<Vec<u8>>> {
        let outcomes = (0..200).map(|seed| {
            let disk = SimDisk::new(seed);
            let file = disk.create(Path::new(FILE)).unwrap();
            file.sync_data().unwrap();
            disk.open_dir(Path::new("/")).unwrap().sync().unwrap();
            f(&disk, &*file);
            disk.crash();
            assert!(file.write_at(b"x", 0).is_err(), "a file opened before the crash is dead");
            disk.bytes(Path::new(FILE))
        });
        outcomes.collect()
    }

    #[test]
    fn what_was_synced_survives_and_nothing_else_must() {
        let synced = after_crashes(|_, file| {
            file.write_all_at(b"abc", 0).unwrap();
            file.sync_data().unwrap();
        });
        assert_eq!(synced, BTreeSet::from([Some(b"abc".to_vec())]));
        let unsynced = after_crashes(|_, file| file.write_all_at(b"abc", 0).unwrap());
        let prefixes = ["", "a", "ab", "abc"].map(|prefix| Some(prefix.as_bytes().to_vec()));
        assert_eq!(unsynced, BTreeSet::from(prefixes));
    }

    #[test]
    fn a_long_write_tears_by_sectors() {
        let torn = after_crashes(|_, file| file.write_all_at(&[1; 1536], 0).unwrap());
        assert!(
            torn.contains(&Some([vec![0; 512], vec![1; 512]].concat())),
            "the second of three sectors alone"
        );
    }

    #[test]
    fn a_name_lasts_from_the_sync_of_its_directory_on() {
        let other = Path::new("/other");
        let left = after_crashes(|disk, _| disk.rename(Path::new(FILE), other).unwrap());
        assert_eq!(left, BTreeSet::from([None, Some(Vec::new())]));
        let left = after_crashes(|disk, _| {
            disk.rename(Path::new(FILE), other).unwrap();
            disk.open_dir(Path::new("/")).unwrap().sync().unwrap();
        });
        assert_eq!(left, BTreeSet::from([None]));
    }

    #[test]
    fn after_a_failed_sync_no_later_one_helps() {
        let left = after_crashes(|disk, file| {
            file.write_all_at(b"a", 0).unwrap();
            let fail_sync = Some(disk.counts().syncs + 1);
            disk.set_faults(Faults { fail_sync, ..Faults::default() });
            file.sync_data().unwrap_err();
            file.sync_data().unwrap();
            assert_eq!(disk.bytes(Path::new(FILE)).unwrap(), b"a", "and reads don't show it");
        });
        assert_eq!(left, BTreeSet::from([Some(Vec::new()), Some(b"a".to_vec())]));
    }

    #[test]
    fn a_full_disk_takes_a_part_and_then_nothing() {
        let disk = SimDisk::new(1);
        let file = disk.create(Path::new(FILE)).unwrap();
        disk.set_faults(Faults {
            full_from_write: Some(disk.counts().writes + 2),
            ..Faults::default()
        });
        let err = file.write_all_at(b"abcdef", 0).unwrap_err();
        assert_eq!(err.kind(), io::ErrorKind::StorageFull);
        let len = file.len_bytes().unwrap();
        assert!((1..6).contains(&len), "{len}");
        disk.set_faults(Faults::default());
        file.write_all_at(b"abcdef", 0).unwrap();
    }

    #[test]
    fn a_lock_is_held_until_dropped_or_the_power_goes() {
        let disk = SimDisk::new(1);
        let lock = || disk.lock(Path::new("/LOCK")).unwrap();
        let first = lock().unwrap();
        assert!(lock().is_err());
        drop(first);
        let second = lock().unwrap();
        disk.crash();
        let third = lock().unwrap();
        drop(second);
        assert!(lock().is_err(), "a lock from before the crash gives nothing back");
        drop(third);
    }
}
