//! [`Api`]: what the store offers to everything that serves it to others: our own services, other
//! protocols, and programs that have a member inside.
//!
//! ```text
//! front (rpc, ...), programs ─> Api ─┬─ writes ──> NodeHandle: the log, the applier ──> callback
//!                                    ├─ reads ───> NodeHandle: the state ─────────────> callback
//!                                    │               └─ large ones: a view ─> Readers ─> callback
//!                                    │                           scans ─> Readers ─> PageSink
//!                                    │                         backups ─> Readers ─> BackupSink
//!                                    ├─ watches ─> Hub: the history ─────────────────> WatchSink
//!                                    └─ input over a limit ───────────────────────────> callback
//! ```
//!
//! Each request has a deadline and a callback, which runs once, on any thread, and must not block.
//! Each write has an [`Identity`]; each read a [`Consistency`]. A read at an earlier revision says
//! so in its [`Range`](super::model::Range::at).
//!
//! # Invariants
//! - [`Api::txn`] never lets a transaction enter the log that changes nothing or is over a limit.
//! - No thread that applies entries, carries heartbeats or reads a connection makes a large read.
//!   A large read takes at most five minutes, a backup at most an hour; and at most until its
//!   deadline. Ranges, scans and backups rest while others are served, so that these do not wait.
//! - A revision is "in the future" only if no write that was acknowledged before the request began
//!   has that revision, also for a stale read.
//!
//! # Threads
//! `read-N`, at most 16, while there are large reads. `watch-N`, from the first watch on.

mod answers;
mod backup;
mod bulk;
mod error;
mod keep_alives;
mod lease;
mod member;
mod pace;
mod read;
mod readers;
mod scan;
mod watch;

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

pub use answers::{Changed, Consistency, Read, TxnDone, TxnResult};
pub use backup::{BackupHead, BackupSink};
pub use error::ApiError;
pub use lease::{Granted, KeptAlive};
pub use scan::PageSink;

pub use super::watch::{NoRoom, WatchEnd, WatchGroup, WatchNews, WatchSink, WatchesEnd};

use super::model::{Action, OperationAnswer, Range, RangeAnswer, Revision, Txn};
use super::watch::Hub;
use super::{
    Answer, Change, Command, Identity, LimitsChange, Outcome, Query, ReadAnswer, Stats, Store,
};
use crate::node::NodeHandle;
use crate::raft::{MemberId, RoleName};
use backup::BACKUPS_MAX;
use bulk::Places;
use keep_alives::KeepAlives;
use readers::Readers;
use scan::SCANS_MAX;

/// The store, as one member serves it. See the [module](self). Clones belong to the same member.
///
/// ```no_run
/// use std::sync::mpsc::channel;
/// use std::time::{Duration, Instant};
/// use syncraft::kv::api::{Api, Consistency};
/// use syncraft::kv::model::{Action, Txn};
/// use syncraft::kv::Identity;
/// # fn example(api: Api) -> Result<(), Box<dyn std::error::Error>> {
/// let (told, hears) = channel();
/// let deadline = Instant::now() + Duration::from_secs(5);
/// let txn = Txn { then: vec![Action::increment("hits", 1).into()], ..Txn::default() };
/// api.txn(Identity::default(), txn, Consistency::Linearizable, deadline, move |result| {
///     let _ = told.send(result);
/// });
/// println!("revision {}", hears.recv()??.revision);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Api {
    shared: Arc<Shared>,
}

/// Behind one pointer, because each request has a clone.
struct Shared {
    node: NodeHandle<Store>,
    readers: Arc<Readers>,
    scans: Arc<Places>,
    backups: Arc<Places>,
    hub: Arc<Hub>,
    keep_alives: KeepAlives,
}

/// The thread of the watches ends with the last owner.
impl Drop for Shared {
    fn drop(&mut self) {
        self.hub.stop();
    }
}

impl Api {
    /// Serves what `node` replicates.
    pub fn new(node: NodeHandle<Store>) -> Api {
        let (name, served) = (format!("read-{}", node.status().id), node.clone());
        let readers = Arc::new(Readers::new(name, move || served.served()));
        let (scans, backups) = (Places::new(SCANS_MAX), Places::new(BACKUPS_MAX));
        let hub = watch::hub(&node, &readers);
        let keep_alives = KeepAlives::default();
        let waiting = keep_alives.clone();
        node.at_each_tick(move |is_any_due_soon, now| waiting.tick(is_any_due_soon, now));
        let shared = Shared { node, readers, scans, backups, hub, keep_alives };
        Api { shared: Arc::new(shared) }
    }

    /// The address of a member, if there is such a member.
    pub fn addr(&self, id: MemberId) -> Option<String> {
        self.members().addr(id).map(str::to_owned)
    }

    /// The member that leads, if it is another one and this one knows it.
    pub fn leader_elsewhere(&self) -> Option<MemberId> {
        let role = self.shared.node.status().role;
        role.leader.filter(|_| role.role != RoleName::Leader)
    }

    /// Replicates a command of any kind. `callback` gets what became of it. A transaction goes
    /// through [`txn`](Api::txn), which also knows those that only read.
    pub fn write(
        &self,
        command: Command,
        deadline: Instant,
        callback: impl FnOnce(Result<Outcome, ApiError>) + Send + 'static,
    ) {
        self.queue_write(command, deadline, callback);
        self.run_pending();
    }

    /// Like [`write`](Api::write), but only queues the command until
    /// [`run_pending`](Api::run_pending) is called. So it is with every method that queues: what
    /// arrives together is done together.
    pub(crate) fn queue_write(
        &self,
        command: Command,
        deadline: Instant,
        callback: impl FnOnce(Result<Outcome, ApiError>) + Send + 'static,
    ) {
        if let Err(error) = command.check_of_client() {
            return callback(Err(ApiError::Invalid(error)));
        }
        self.shared.node.queue_proposal(command.encode(), deadline, move |result| {
            callback(result.map_err(ApiError::NotServed));
        });
    }

    /// Runs a transaction. If it changes nothing it is a read of this consistency, and its identity
    /// does not matter.
    pub fn txn(
        &self,
        identity: Identity,
        txn: Txn,
        consistency: Consistency,
        deadline: Instant,
        callback: impl FnOnce(Result<TxnDone, ApiError>) + Send + 'static,
    ) {
        self.queue_txn(identity, txn, consistency, deadline, callback);
        self.run_pending();
    }

    pub(crate) fn queue_txn(
        &self,
        identity: Identity,
        txn: Txn,
        consistency: Consistency,
        deadline: Instant,
        callback: impl FnOnce(Result<TxnDone, ApiError>) + Send + 'static,
    ) {
        if txn.is_read() {
            return self.queue_read(txn, consistency, deadline, move |result| {
                callback(result.and_then(TxnDone::of_read));
            });
        }
        let command = Command { identity, change: Change::Txn(txn) };
        self.queue_write(command, deadline, move |result| {
            callback(result.and_then(TxnDone::of_write));
        });
    }

    /// Reads a range of keys. The answer also has the revision of the state that was read.
    pub fn range(
        &self,
        range: Range,
        consistency: Consistency,
        deadline: Instant,
        callback: impl FnOnce(Result<Read<(Revision, RangeAnswer)>, ApiError>) + Send + 'static,
    ) {
        self.queue_range(range, consistency, deadline, callback);
        self.run_pending();
    }

    pub(crate) fn queue_range(
        &self,
        range: Range,
        consistency: Consistency,
        deadline: Instant,
        callback: impl FnOnce(Result<Read<(Revision, RangeAnswer)>, ApiError>) + Send + 'static,
    ) {
        let txn = Txn { then: vec![Action::Range(range).into()], ..Txn::default() };
        self.queue_read(txn, consistency, deadline, move |result| {
            callback(result.and_then(range_read));
        });
    }

    /// Reads the value of a key. `None`: the key is absent.
    pub fn get(
        &self,
        key: Bytes,
        consistency: Consistency,
        deadline: Instant,
        callback: impl FnOnce(Result<Read<Option<Bytes>>, ApiError>) + Send + 'static,
    ) {
        self.queue_get(key, consistency, deadline, callback);
        self.run_pending();
    }

    pub(crate) fn queue_get(
        &self,
        key: Bytes,
        consistency: Consistency,
        deadline: Instant,
        callback: impl FnOnce(Result<Read<Option<Bytes>>, ApiError>) + Send + 'static,
    ) {
        let value = |answer| match answer {
            Answer::Value(value) => value,
            other => panic!("the store answered a get with {other:?}"),
        };
        self.queue_query(Query::Get { key }, consistency, deadline, move |result| {
            callback(result.map(|read| read.map(value)).map_err(ApiError::NotServed));
        });
    }

    /// Forgets what the store was like before `revision`, which can still be read.
    pub fn compact(
        &self,
        identity: Identity,
        revision: Revision,
        deadline: Instant,
        callback: impl FnOnce(Result<Changed, ApiError>) + Send + 'static,
    ) {
        if revision == Revision::NONE {
            return callback(Err(ApiError::RevisionZero));
        }
        let command = Command { identity, change: Change::Compact { revision } };
        self.write(command, deadline, |result| callback(result.and_then(Changed::of)));
    }

    /// Changes what the store may hold.
    pub fn set_limits(
        &self,
        identity: Identity,
        change: LimitsChange,
        deadline: Instant,
        callback: impl FnOnce(Result<Changed, ApiError>) + Send + 'static,
    ) {
        let command = Command { identity, change: Change::SetLimits(change) };
        self.write(command, deadline, |result| callback(result.and_then(Changed::of)));
    }

    /// How much the store holds, and may hold.
    pub fn stats(
        &self,
        consistency: Consistency,
        deadline: Instant,
        callback: impl FnOnce(Result<Read<Stats>, ApiError>) + Send + 'static,
    ) {
        let stats = |answer| match answer {
            Answer::Stats(stats) => *stats,
            other => panic!("the store answered a question for its size with {other:?}"),
        };
        self.queue_query(Query::Stats, consistency, deadline, move |result| {
            callback(result.map(|read| read.map(stats)).map_err(ApiError::NotServed));
        });
        self.run_pending();
    }

    /// Does what is queued, on this thread if no other one is doing it.
    pub(crate) fn run_pending(&self) {
        self.shared.keep_alives.propose(&self.shared.node);
        self.shared.node.run_pending();
    }

    /// Ends the watches and the large reads, and their threads. Later ones are refused.
    pub fn stop(&self) {
        self.shared.hub.stop();
        self.shared.readers.stop();
    }
}

/// The answer to a transaction of a single range.
fn range_read(read: Read<ReadAnswer>) -> Result<Read<(Revision, RangeAnswer)>, ApiError> {
    let Read { answer: ReadAnswer { revision, result }, age_max } = read;
    let answer = result.map_err(|refusal| ApiError::refused(refusal, None))?;
    match answer.answers.into_iter().next() {
        Some(OperationAnswer::Range(range)) => Ok(Read { answer: (revision, range), age_max }),
        other => panic!("the store answered a range with {other:?}"),
    }
}
