//! What a node's threads tell the rest of the program: where the member stands, and whether it has
//! failed.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::Gate;
use super::watch::Watch;
use crate::raft::Status;
use crate::storage::StorageError;

/// Why a member had to stop by itself.
#[derive(Clone, Debug, thiserror::Error)]
pub enum NodeFailure {
    /// The log could not be written: nothing may be acknowledged any more.
    #[error("the log failed")]
    Storage(#[from] StorageError),
    /// This member had no data, and the others are of another cluster than the one that its list of
    /// members is for. Its data directory is of theirs now: started again, it is filled.
    #[error("this member has joined cluster {0:016x}, which the others are of: start it again")]
    ClusterTaken(u64),
    /// The data directory was removed, moved away or replaced: what would be acknowledged from now
    /// on would be lost.
    #[error("it has lost its data directory")]
    DataDir(#[source] StorageError),
    /// A thread panicked: a defect of this program, or of the state machine.
    #[error("thread {0} panicked")]
    Panicked(String),
}

/// After a snapshot has failed: a disk that is full is not to be filled again and again.
const SNAPSHOT_RETRY_PAUSE: Duration = Duration::from_secs(10);

/// Whether the state machine's view is being written out, or when it may be.
#[derive(Default)]
struct Snapshotting {
    is_under_way: bool,
    not_before: Option<Instant>,
}

pub(super) struct Shared {
    pub(super) status: Mutex<Status>,
    /// The last entry that the state machine has applied.
    pub(super) applied_index: AtomicU64,
    /// Whether the members' states are the same.
    pub(super) watch: Watch,
    snapshotting: Mutex<Snapshotting>,
    /// The last entry that the newest snapshot holds.
    pub(super) snapshot_index: AtomicU64,
    /// How long the newest snapshot is, as far as it is known.
    pub(super) snapshot_len_bytes: AtomicU64,
    /// The state machine's last turn took long: only its own thread should wait for it.
    pub(super) is_apply_slow: AtomicBool,
    /// A turn of the log took long a moment ago: only its own thread should wait for the disk.
    pub(super) is_disk_slow: AtomicBool,
    /// What is to be written waits for space.
    pub(super) is_disk_full: AtomicBool,
    /// The threads should end without tidying up, as a crash would.
    pub(super) is_killed: AtomicBool,
    /// Held by tests that pause a member.
    pub(super) gate: Arc<Gate>,
    /// Why this member does not vote yet, in words.
    pub(super) obstacle: Mutex<Option<String>>,
    failure: Mutex<Option<NodeFailure>>,
}

impl Shared {
    pub(super) fn new(status: Status, watch: Watch) -> Shared {
        Shared {
            status: Mutex::new(status),
            applied_index: AtomicU64::new(0),
            watch,
            snapshotting: Mutex::default(),
            snapshot_index: AtomicU64::new(0),
            snapshot_len_bytes: AtomicU64::new(0),
            is_apply_slow: AtomicBool::new(false),
            is_disk_slow: AtomicBool::new(false),
            is_disk_full: AtomicBool::new(false),
            is_killed: AtomicBool::new(false),
            gate: Arc::default(),
            obstacle: Mutex::new(None),
            failure: Mutex::new(None),
        }
    }

    pub(super) fn fail(&self, failure: NodeFailure) {
        self.failure.lock().get_or_insert(failure);
    }

    pub(super) fn failure(&self) -> Option<NodeFailure> {
        self.failure.lock().clone()
    }

    /// False if a snapshot is under way already, or has failed a moment ago. One is under way until
    /// the log has been told of it: before that it looks as if another one were due.
    pub(super) fn begin_snapshot(&self) -> bool {
        let mut snapshotting = self.snapshotting.lock();
        let is_wanted = !snapshotting.is_under_way
            && snapshotting.not_before.is_none_or(|not_before| Instant::now() >= not_before);
        snapshotting.is_under_way |= is_wanted;
        is_wanted
    }

    pub(super) fn end_snapshot(&self, is_there: bool) {
        let not_before = (!is_there).then(|| Instant::now() + SNAPSHOT_RETRY_PAUSE);
        *self.snapshotting.lock() = Snapshotting { is_under_way: false, not_before };
    }

    pub(super) fn is_killed(&self) -> bool {
        self.is_killed.load(Ordering::Acquire)
    }
}

/// Says so when its thread unwinds: a member with a thread missing must not go on.
pub(super) struct PanicGuard<F: Fn(NodeFailure)>(pub(super) F);

impl<F: Fn(NodeFailure)> Drop for PanicGuard<F> {
    fn drop(&mut self) {
        if thread::panicking() {
            let name = thread::current().name().unwrap_or("?").to_owned();
            (self.0)(NodeFailure::Panicked(name));
        }
    }
}
