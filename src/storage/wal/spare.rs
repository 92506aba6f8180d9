//! The next segment's file, zeroed in the background, so that appending to it only overwrites blocks.
//!
//! The thread follows the log: it begins when the active segment is a quarter full and is done when it is three quarters
//! full, [`ZERO_STEP_BYTES`] at a time. So a member that writes little uses little space, and one that writes fast is never
//! slowed by a burst of zeros. Whatever is ready when the log rolls over is taken; the rest of that segment is then a hole,
//! which costs a dearer fdatasync and nothing else. Nothing here can fail the log: a full disk is met by the log itself.
//!
//! Owns the thread `wal-spare-<member>`; it ends when this is dropped.

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
    /// What was last asked for.
    asked_bytes: u64,
}

#[derive(Debug)]
struct Shared {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    /// The file, as far as it is made. Held during each step, its sync included: once the file has been taken, nobody
    /// else writes to it, truncates it, or swallows an error of its sync. Locked before `order` where both are.
    spare: Mutex<Option<Arc<dyn DiskFile>>>,
    order: Mutex<Order>,
    ordered: Condvar,
}

#[derive(Clone, Copy, Debug, Default)]
struct Order {
    wanted_bytes: u64,
    /// How far it is zeroed; the maximum if it was given up.
    done_bytes: u64,
    stop: bool,
}

impl SpareMaker {
    /// Starts the thread; without one there is never a spare.
    pub(super) fn start(disk: Arc<dyn Disk>, path: PathBuf, member: MemberId) -> SpareMaker {
        let (spare, order, ordered) = (Mutex::default(), Mutex::default(), Condvar::new());
        let shared = Arc::new(Shared { disk, path, spare, order, ordered });
        let runner = Arc::clone(&shared);
        let thread = Builder::new().name(format!("wal-spare-{member}")).spawn(move || runner.run());
        let thread =
            thread.inspect_err(|err| log::warn!("segments are not prepared ahead: {err}")).ok();
        SpareMaker { shared, thread, asked_bytes: 0 }
    }

    /// Tells how full the active segment is, and how long the next one will be. Cheap: most calls change nothing.
    pub(super) fn follow(&mut self, end: u64, len_bytes: u64, next_len_bytes: u64) {
        let wanted_bytes = wanted_bytes(end, len_bytes, next_len_bytes);
        if wanted_bytes > self.asked_bytes {
            self.asked_bytes = wanted_bytes;
            self.shared.order.lock().wanted_bytes = wanted_bytes;
            self.shared.ordered.notify_one();
        }
    }

    /// The spare as it is, if one was begun. Waits for the step that is being written, if one is.
    pub(super) fn take(&mut self) -> Option<Blank> {
        self.asked_bytes = 0;
        let mut spare = self.shared.spare.lock();
        let mut order = self.shared.order.lock();
        (order.wanted_bytes, order.done_bytes) = (0, 0);
        let path = self.shared.path.clone();
        spare.take().map(|file| Blank { path, file, is_recycled: false })
    }
}

/// Nothing until a quarter of the active segment is used, all when three quarters are; whole steps.
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

    /// Waits until more is wanted than is done. `false`: stop.
    fn wait(&self) -> bool {
        let mut order = self.order.lock();
        while !order.stop && order.wanted_bytes <= order.done_bytes {
            self.ordered.wait(&mut order);
        }
        !order.stop
    }

    /// Writes and syncs some zeros, and returns how far the file then is.
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
            // It never panics: there is nothing to learn from it.
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
