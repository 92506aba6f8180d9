//! What a node's threads share with each other and with the rest of the program: status, health,
//! and why the node has failed.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::configured::SharedMembers;
use super::gate::Gate;
use super::identity::Identity;
use super::joining::Obstacle;
use super::levels::{Levels, UnknownLevel, unknown_level_words};
use super::watch::Watch;
use crate::clock;
use crate::raft::{AppliedTime, MemberId, Status};
use crate::storage::StorageError;

/// Why a member had to stop by itself.
#[derive(Clone, Debug, thiserror::Error)]
pub enum NodeFailure {
    /// The log could not be written, so nothing more may be acknowledged.
    #[error("the log failed")]
    Storage(#[from] StorageError),
    /// This member had no data, and has learned which cluster it belongs to. Its data directory now
    /// says so. Started again, the member is filled.
    #[error("this member has joined cluster {0:016x}, which the others are of: start it again")]
    ClusterTaken(u64),
    /// The data directory was removed, moved or replaced: everything acknowledged from now on would
    /// be lost.
    #[error("this member has lost its data directory")]
    DataDir(#[source] StorageError),
    /// The state is at a [feature level](super::StateMachine#feature-levels) that this program does
    /// not know: the member was started with an older program than the one that announced the level
    /// to the leader. Nothing is lost, and a newer program goes on with its data.
    #[error("{}", unknown_level_words(*level, *known))]
    UnknownLevel {
        /// The level of the state.
        level: u32,
        /// The highest level that this program knows.
        known: u32,
    },
    /// This member's data is of another cluster than the one whose entries it has got, which began
    /// with the same list of members. They were started for the first time with programs of two
    /// versions, or with the data of two clusters.
    #[error(
        "the others are of cluster {0:016x}, which began with the same --members, and this data is \
         not: start this member with an empty data directory"
    )]
    OtherCluster(u64),
    /// This member was started to begin a cluster alone, without data, and that one called it as one
    /// of its own cluster. It has probably lost its data.
    #[error(
        "member {0} is of a cluster that counts this member among its own, so this one does not \
         begin another: start it with --join and the members of that cluster"
    )]
    NotAlone(MemberId),
    /// This member was removed from the cluster for ever.
    #[error("this member was removed from the cluster, and its id is not used again")]
    Removed,
    /// A thread panicked: a defect of this program, or of the state machine.
    #[error("thread {0} panicked")]
    Panicked(String),
}

impl From<UnknownLevel> for NodeFailure {
    fn from(UnknownLevel { level, known }: UnknownLevel) -> NodeFailure {
        NodeFailure::UnknownLevel { level, known }
    }
}

/// After a snapshot has failed: a full disk must not be filled again and again.
const SNAPSHOT_RETRY_PAUSE: Duration = Duration::from_secs(10);

/// If a turn of the applier, or a query, takes longer than this, the state machine is slow: until a
/// turn is quick again, only the applier's own thread waits for it.
pub(super) const SLOW_APPLY: Duration = Duration::from_millis(20);

/// Whether a snapshot is being taken, or when the next one may be.
#[derive(Default)]
struct Snapshotting {
    is_being_taken: bool,
    not_before: Option<Instant>,
}

/// How the applier tells the core that reads have been answered. Nobody is woken for it unless the
/// core holds others back until then.
#[derive(Default)]
pub(super) struct ReadCount {
    /// All that the applier has answered.
    answered: AtomicU64,
    is_waited_for: AtomicBool,
}

impl ReadCount {
    pub(super) fn answered(&self) -> u64 {
        self.answered.load(Ordering::SeqCst)
    }

    pub(super) fn add_answered(&self, reads: usize) {
        self.answered.fetch_add(reads as u64, Ordering::SeqCst);
    }

    /// Whether the core waits for answers. It looks at their count after this: then either it
    /// counts an answer, or whoever gave it sees that the core waits.
    pub(super) fn set_waited_for(&self, is_waited_for: bool) {
        self.is_waited_for.store(is_waited_for, Ordering::SeqCst);
    }

    /// Whether the core waits for the answers that have just been counted.
    pub(super) fn is_waited_for(&self) -> bool {
        self.is_waited_for.load(Ordering::SeqCst)
    }
}

/// What the state machine says of the cluster's time, until the core's next turn takes it. The
/// flag spares most turns the lock.
#[derive(Default)]
struct TimeNews {
    is_news: AtomicBool,
    /// The time, and whether the state has been replaced since the last turn.
    news: Mutex<Option<(AppliedTime, bool)>>,
    /// When the newest stamp was applied, or loaded, by the boot-time clock.
    stamped: Mutex<Duration>,
}

pub(super) struct Shared {
    pub(super) identity: Identity,
    pub(super) members: SharedMembers,
    pub(super) status: Mutex<Status>,
    /// The last entry that the state machine has applied.
    pub(super) applied_index: AtomicU64,
    time: TimeNews,
    pub(super) reads: ReadCount,
    /// Whether the members' states are the same.
    pub(super) watch: Watch,
    pub(super) levels: Levels,
    snapshotting: Mutex<Snapshotting>,
    /// The last entry that the newest snapshot holds.
    pub(super) snapshot_index: AtomicU64,
    /// The length of the newest snapshot, as far as it is known.
    pub(super) snapshot_len_bytes: AtomicU64,
    /// See [`SLOW_APPLY`].
    pub(super) is_apply_slow: AtomicBool,
    /// A turn of the log took long a moment ago, so only its own thread should wait for the disk.
    pub(super) is_disk_slow: AtomicBool,
    /// Writes wait for space on the disk.
    pub(super) is_disk_full: AtomicBool,
    /// The threads should end without closing anything in order, as a crash would end them.
    pub(super) is_killed: AtomicBool,
    /// For tests that pause a member.
    pub(super) gate: Arc<Gate>,
    /// Why this member does not vote yet, as text.
    pub(super) obstacle: Mutex<Option<Obstacle>>,
    failure: Mutex<Option<NodeFailure>>,
}

impl Shared {
    pub(super) fn new(
        identity: Identity,
        members: SharedMembers,
        status: Status,
        watch: Watch,
        levels: Levels,
    ) -> Shared {
        Shared {
            identity,
            members,
            status: Mutex::new(status),
            applied_index: AtomicU64::new(0),
            time: TimeNews::default(),
            reads: ReadCount::default(),
            watch,
            levels,
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

    /// The number of entries that this member has applied, plus the number of linearizable reads
    /// that its applier has answered. Stale reads and reads under a lease are not counted. Entries
    /// of the cluster itself are.
    pub(super) fn served(&self) -> u64 {
        self.applied_index.load(Ordering::Relaxed) + self.reads.answered()
    }

    /// The applier has come to this time. `is_anew` as in `Event::AppliedTime`.
    pub(super) fn time_applied(&self, time: AppliedTime, is_anew: bool) {
        if is_anew {
            *self.time.stamped.lock() = clock::boot_time();
        }
        let mut news = self.time.news.lock();
        let was_anew = news.is_some_and(|(_, is_anew)| is_anew);
        *news = Some((time, is_anew || was_anew));
        self.time.is_news.store(true, Ordering::Release);
    }

    /// How long ago the newest stamp was applied.
    pub(super) fn since_stamp(&self) -> Duration {
        clock::since(*self.time.stamped.lock())
    }

    /// What [`time_applied`](Shared::time_applied) has said since the last call.
    pub(super) fn take_time_news(&self) -> Option<(AppliedTime, bool)> {
        if !self.time.is_news.load(Ordering::Acquire) {
            return None;
        }
        let mut news = self.time.news.lock();
        self.time.is_news.store(false, Ordering::Release);
        news.take()
    }

    pub(super) fn fail(&self, failure: NodeFailure) {
        self.failure.lock().get_or_insert(failure);
    }

    pub(super) fn failure(&self) -> Option<NodeFailure> {
        self.failure.lock().clone()
    }

    /// False if a snapshot is being taken, or one has failed a moment ago. It counts as being taken
    /// until the log has released its entries: before that, the log still looks too long.
    pub(super) fn begin_snapshot(&self) -> bool {
        let mut snapshotting = self.snapshotting.lock();
        let is_wanted = !snapshotting.is_being_taken
            && snapshotting.not_before.is_none_or(|not_before| Instant::now() >= not_before);
        snapshotting.is_being_taken |= is_wanted;
        is_wanted
    }

    /// After a failure the next snapshot waits a while.
    pub(super) fn end_snapshot(&self, is_ok: bool) {
        let not_before = (!is_ok).then(|| Instant::now() + SNAPSHOT_RETRY_PAUSE);
        *self.snapshotting.lock() = Snapshotting { is_being_taken: false, not_before };
    }

    pub(super) fn is_killed(&self) -> bool {
        self.is_killed.load(Ordering::Acquire)
    }
}

/// Reports the panic when its thread unwinds: a member that lacks a thread must not go on.
pub(super) struct PanicGuard<F: Fn(NodeFailure)>(pub(super) F);

impl<F: Fn(NodeFailure)> Drop for PanicGuard<F> {
    fn drop(&mut self) {
        if thread::panicking() {
            let name = thread::current().name().unwrap_or("?").to_owned();
            (self.0)(NodeFailure::Panicked(name));
        }
    }
}
