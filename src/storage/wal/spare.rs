//! The file of the next segment, zeroed in the background, so that appending to it only overwrites
//! blocks.
//!
//! A thread follows the log, [`ZERO_STEP_BYTES`] at a time: it begins when the active segment is a
//! quarter full, and is done when it is three quarters full. So a member that writes little uses
//! little space, and a burst of zeros never slows a member that writes fast. When the log rolls
//! over, it takes the file as it is. The rest of that segment is then a hole, which only makes its
//! fdatasync slower. An error here never fails the log: the log itself finds out that a disk is
//! full.
//!
//! The thread `wal-spare-<member>` ends when this is dropped.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use parking_lot::{Condvar, Mutex};

use crate::raft::MemberId;
use crate::storage::disk::{Disk, DiskFile};

use super::segment::{Blank, ZERO_STEP_BYTES, write_zeros};

#[derive(Debug)]
pub(super) struct SpareMaker {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    /// The last order.
    asked_bytes: u64,
}

#[derive(Debug)]
struct Shared {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    /// The file, as far as it is made. The lock is held during each step and its sync: once the log
    /// has taken the file, the thread does not write to it, truncate it, or swallow an error of its
    /// sync. Where both are locked, this one is locked before `order`.
    spare: Mutex<Option<Arc<dyn DiskFile>>>,
    order: Mutex<Order>,
    ordered: Condvar,
}

#[derive(Clone, Copy, Debug, Default)]
struct Order {
    wanted_bytes: u64,
    /// How far the file is zeroed; the maximum if it was given up.
    done_bytes: u64,
    stop: bool,
}

impl SpareMaker {
    /// Starts the thread. If the system gives no thread, there is never a spare.
    pub(super) fn start(disk: Arc<dyn Disk>, path: PathBuf, member: MemberId) -> SpareMaker {
        let (spare, order, ordered) = (Mutex::default(), Mutex::default(), Condvar::new());
        let shared = Arc::new(Shared { disk, path, spare, order, ordered });
        let runner = Arc::clone(&shared);
        let thread = Builder::new().name(format!("wal-spare-{member}")).spawn(move || runner.run());
        let thread =
            thread.inspect_err(|err| log::warn!("segments are not prepared ahead: {err}")).ok();
        SpareMaker { shared, thread, asked_bytes: 0 }
    }

    /// Tells the thread how full the active segment is, and how long the next one will be. Most
    /// calls change nothing and cost little.
    pub(super) fn follow(&mut self, end: u64, len_bytes: u64, next_len_bytes: u64) {
        let wanted_bytes = wanted_bytes(end, len_bytes, next_len_bytes);
        if wanted_bytes > self.asked_bytes {
            self.asked_bytes = wanted_bytes;
            self.shared.order.lock().wanted_bytes = wanted_bytes;
            self.shared.ordered.notify_one();
        }
    }

    /// The spare as it is, if one was begun. Waits for a step that is being written.
    pub(super) fn take(&mut self) -> Option<Blank> {
        self.asked_bytes = 0;
        let mut spare = self.shared.spare.lock();
        let mut order = self.shared.order.lock();
        (order.wanted_bytes, order.done_bytes) = (0, 0);
        let path = self.shared.path.clone();
        spare.take().map(|file| Blank { path, file, is_recycled: false })
    }
}

/// How many bytes should be zeroed, in whole steps: none until a quarter of the active segment is
/// used, all when three quarters are.
fn wanted_bytes(end: u64, len_bytes: u64, next_len_bytes: u64) -> u64 {
    let twice_beyond_quarter = (4 * end).saturating_sub(len_bytes);
    let wanted =
        u128::from(next_len_bytes) * u128::from(twice_beyond_quarter) / u128::from(2 * len_bytes);
    let wanted = (wanted as u64).min(next_len_bytes);
    if wanted == next_len_bytes { wanted } else { wanted - wanted % ZERO_STEP_BYTES as u64 }
}

impl Shared {
    fn run(&self) {
        while self.wait() {
            let mut spare = self.spare.lock();
            let Order { wanted_bytes, done_bytes, .. } = *self.order.lock();
            if wanted_bytes <= done_bytes {
                continue;
            }
            let done = self.step(&mut spare, done_bytes, wanted_bytes).unwrap_or_else(|err| {
                log::debug!("{} is given up: {err}", self.path.display());
                self.give_up(&mut spare);
                u64::MAX
            });
            self.order.lock().done_bytes = done;
        }
    }

    /// Waits until more is ordered than is done. False if the thread must stop.
    fn wait(&self) -> bool {
        let mut order = self.order.lock();
        while !order.stop && order.wanted_bytes <= order.done_bytes {
            self.ordered.wait(&mut order);
        }
        !order.stop
    }

    /// Writes and syncs some zeros, and returns how far the file is zeroed then.
    fn step(
        &self,
        spare: &mut Option<Arc<dyn DiskFile>>,
        done: u64,
        wanted: u64,
    ) -> std::io::Result<u64> {
        let file = match spare {
            Some(file) => file,
            None => spare.insert(self.disk.create(&self.path)?),
        };
        let end = wanted.min(done + ZERO_STEP_BYTES as u64);
        write_zeros(&**file, done, end)?;
        file.sync_data()?;
        Ok(end)
    }

    fn give_up(&self, spare: &mut Option<Arc<dyn DiskFile>>) {
        if spare.take().is_some() {
            let _ = self.disk.remove(&self.path);
        }
    }
}

impl Drop for SpareMaker {
    fn drop(&mut self) {
        self.shared.order.lock().stop = true;
        self.shared.ordered.notify_one();
        if let Some(thread) = self.thread.take() {
            // It never panics, so its result says nothing.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeroing_follows_the_log() {
        const MIB: u64 = 1 << 20;
        for (end_mib, wanted_mib) in [(0, 0), (16, 0), (24, 16), (32, 32), (48, 64), (64, 64)] {
            assert_eq!(
                wanted_bytes(end_mib * MIB, 64 * MIB, 64 * MIB),
                wanted_mib * MIB,
                "at {end_mib} MiB"
            );
        }
        assert_eq!(wanted_bytes(4096, 4096, 4096), 4096);
        assert_eq!(wanted_bytes(2000, 4096, 4096), 0, "less than a step waits");
    }
}
