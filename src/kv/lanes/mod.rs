//! [`Lanes`]: writes on behalf of clients that have no identity of their own.
//!
//! A front takes requests of foreign clients, thousands at once, on any member. A session of the
//! store allows one write at a time, and a write must reach the leader, wherever that is now. So
//! each member has a pool of lanes. A lane is a client of the store: it has a client id, 16 random
//! bytes of this start and the lane's number, and one write outstanding. The proof that a write
//! takes effect at most once ([`Sessions`](super::Sessions)) needs no more than that.
//!
//! ```text
//! front ── write ──> free lane ── attempt ──> this member leads: its log
//!                        ^                    another one leads: laneRpc.Forward ──> its log
//!                        │                             │
//!                     the end <── outcome ─────────────┤
//!                        ^                             └─ no outcome: again after a pause, same id
//!                        └─ deadline
//! ```
//!
//! # What a front promises with it
//! Each request that it received takes effect at most once, however often leaders change. An error
//! says whether the request took effect ([`LaneError::may_apply`]). A foreign client that sends its
//! request again after an unknown outcome sends another request.
//!
//! # Why a lane can be used again
//! A lane that gives a write up, because its deadline has passed, may leave a copy of it on its
//! way. The lane's next write has a higher request id. If the copy arrives first, it is applied,
//! once. If it arrives later, it is older than the newest id, and changes nothing.
//!
//! # Bounds
//! At most [`LANES_MAX`] writes are outstanding; one more is [`LaneError::Busy`] at once. The lane
//! that was freed last is used first, so that few clients take up few sessions. Attempts stop at
//! the deadline of the write.
//!
//! # Threads
//! `lanes-ID` makes the attempts after the first one. Callbacks run on it, on a thread of the node,
//! on a thread of a channel, or on the thread that calls [`Lanes::write`]. They must not block.

mod forward;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use parking_lot::Mutex;

use super::{COMMAND_LEN_MAX, Change, Command, CommandError, Identity, Outcome, Store};
use crate::node::{NodeHandle, RequestError};
use crate::raft::{Index, MemberId, RoleName};
use crate::rpc::Channel;
use forward::ForwardError;

pub use forward::LaneService;

/// How many writes of foreign clients a member has outstanding.
pub const LANES_MAX: usize = 3_000;

/// A connection carries as many calls as the server of the other side takes from one.
const LANES_PER_CONNECTION: usize = 1_000;
/// The pause after the first attempt that had no outcome. It doubles with each further one.
const PAUSE_MIN: Duration = Duration::from_millis(2);
const PAUSE_MAX: Duration = Duration::from_millis(100);
/// How long the first forwarded attempt waits for its answer before the lane asks who leads now. A
/// leader that is cut off would otherwise keep the lane until the deadline. Each further attempt
/// waits twice as long, and all of them longer for long commands, so that a slow network or a busy
/// leader gets them through.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(1);
/// The slowest network on which the first attempt with a long command has enough time.
const BYTES_PER_SECOND_MIN: usize = 1 << 20;

/// Why a write has no outcome.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LaneError {
    /// All lanes are taken. The write did not take effect, and trying again soon is worth it.
    #[error("{LANES_MAX} writes of other clients are outstanding on this member")]
    Busy,
    /// The write is over a limit. It did not take effect.
    #[error("the write is over a limit")]
    Limit(#[source] CommandError),
    /// The write makes a command of this many bytes, which is over [`COMMAND_LEN_MAX`]. It did not
    /// take effect.
    #[error("a command of {0} bytes is over the limit of {COMMAND_LEN_MAX}")]
    TooLong(usize),
    /// The deadline passed. `last` is what the last attempt met.
    #[error("the deadline passed: {last}")]
    TimedOut {
        /// What the last attempt met, in words.
        last: String,
        /// Whether the write may have taken effect, or may still do so.
        may_apply: bool,
    },
    /// The lane's session was forgotten while the outcome was unknown. The write may have taken
    /// effect.
    #[error("the outcome of the write was forgotten before it could be told")]
    Forgotten,
    /// The member stopped first.
    #[error("this member is stopping")]
    Stopped {
        /// Whether the write may have taken effect, or may still do so: it was under way.
        may_apply: bool,
    },
}

impl LaneError {
    /// Whether the write may have taken effect, or may still do so. `false` is certain.
    pub fn may_apply(&self) -> bool {
        match self {
            LaneError::Busy | LaneError::Limit(_) | LaneError::TooLong(_) => false,
            LaneError::Forgotten => true,
            LaneError::TimedOut { may_apply, .. } | LaneError::Stopped { may_apply } => *may_apply,
        }
    }
}

type Callback = Box<dyn FnOnce(Result<Outcome, LaneError>) + Send>;

/// The lanes of one member. Dropping it ends all outstanding writes as [`LaneError::Stopped`].
pub struct Lanes {
    shared: Arc<Shared>,
    thread: Option<thread::JoinHandle<()>>,
}

/// The connections of all lanes to one member.
struct Connections {
    addr: String,
    channels: Vec<Channel>,
}

impl Connections {
    fn new(addr: String, own: MemberId) -> Connections {
        let channel = || Channel::builder(addr.as_str()).caller(format!("lanes-{own}")).lazy();
        let channels = (0..LANES_MAX.div_ceil(LANES_PER_CONNECTION)).map(|_| channel()).collect();
        Connections { addr, channels }
    }
}

struct Shared {
    node: NodeHandle<Store>,
    /// The connections to each other member.
    channels: Mutex<BTreeMap<MemberId, Connections>>,
    /// 16 random bytes of this start.
    start: [u8; 16],
    pool: Mutex<Pool>,
    /// `None` once the lanes end.
    retries: Mutex<Option<Sender<Retry>>>,
}

struct Pool {
    lanes: Vec<Lane>,
    /// The lanes without a write. The last one is used next.
    free: Vec<usize>,
    has_ended: bool,
}

#[derive(Default)]
struct Lane {
    /// Of the write that is outstanding, or of the last one.
    request_id: i64,
    write: Option<Write>,
}

/// A write on its way.
struct Write {
    change: Change,
    command: Bytes,
    deadline: Instant,
    /// An earlier attempt may have reached a log.
    may_apply: bool,
    attempts: u32,
    callback: Callback,
}

/// The lane's write is to be attempted again, unless the lane has another one by then.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Retry {
    due: Instant,
    lane: usize,
    request_id: i64,
}

/// How an attempt ended.
type Attempt = Result<Outcome, NoOutcome>;

/// Why an attempt has no outcome.
struct NoOutcome {
    why: String,
    may_apply: bool,
}

impl Lanes {
    /// Starts the lanes of the member that `node` is.
    ///
    /// # Errors
    /// If the system has no random bytes or no thread to give.
    pub fn start(node: NodeHandle<Store>) -> io::Result<Lanes> {
        let own = node.status().id;
        let mut start = [0; 16];
        getrandom::fill(&mut start).map_err(io::Error::other)?;
        // A lane waits for at most one retry, and one that was given up may leave one behind.
        let (retries, due) = bounded(2 * LANES_MAX);
        let shared = Arc::new(Shared {
            node,
            channels: Mutex::default(),
            start,
            pool: Mutex::new(Pool { lanes: Vec::new(), free: Vec::new(), has_ended: false }),
            retries: Mutex::new(Some(retries)),
        });
        let weak = Arc::downgrade(&shared);
        let thread = thread::Builder::new()
            .name(format!("lanes-{own}"))
            .spawn(move || retry_when_due(&due, &weak))?;
        Ok(Lanes { shared, thread: Some(thread) })
    }

    /// Writes `change`, at most once, and calls `callback` once with its outcome. The callback may
    /// run on this thread, and must not block.
    pub fn write(
        &self,
        change: Change,
        deadline: Instant,
        callback: impl FnOnce(Result<Outcome, LaneError>) + Send + 'static,
    ) {
        if let Err(error) = Command::unrepeated(change.clone()).check_of_client() {
            return callback(Err(LaneError::Limit(error)));
        }
        let mut pool = self.shared.pool.lock();
        let (lane, has_ended) = (pool.take(), pool.has_ended);
        drop(pool);
        let Some(lane) = lane.filter(|_| !has_ended) else {
            let error = LaneError::Stopped { may_apply: false };
            return callback(Err(if has_ended { error } else { LaneError::Busy }));
        };
        self.shared.begin(lane, Index(1), change, deadline, Box::new(callback));
    }

    /// Ends all outstanding writes as [`LaneError::Stopped`], and every later one.
    pub fn stop(&self) {
        drop(self.shared.retries.lock().take());
        let mut pool = self.shared.pool.lock();
        pool.has_ended = true;
        let lanes: Vec<Lane> = std::mem::take(&mut pool.lanes);
        drop(pool);
        for Write { callback, .. } in lanes.into_iter().filter_map(|lane| lane.write) {
            // The attempt that is under way may still be applied.
            callback(Err(LaneError::Stopped { may_apply: true }));
        }
    }
}

impl Drop for Lanes {
    fn drop(&mut self) {
        self.stop();
        // A callback may drop the last owner of the lanes on their own thread.
        if let Some(thread) =
            self.thread.take().filter(|it| it.thread().id() != thread::current().id())
        {
            // It ends without a panic, because it makes attempts only.
            let _ = thread.join();
        }
    }
}

impl Pool {
    /// The number of a lane without a write.
    fn take(&mut self) -> Option<usize> {
        if let Some(lane) = self.free.pop() {
            return Some(lane);
        }
        if self.lanes.len() == LANES_MAX || self.has_ended {
            return None;
        }
        self.lanes.push(Lane::default());
        Some(self.lanes.len() - 1)
    }

    /// The id of the next write of a lane that was taken. `None`: the lanes have ended.
    fn next_id(&mut self, lane: usize) -> Option<i64> {
        let lane = self.lanes.get_mut(lane)?;
        lane.request_id += 1;
        Some(lane.request_id)
    }

    /// Gives the write with that id to the lane. Returns it if the lanes have ended.
    fn put(&mut self, lane: usize, write: Write) -> Option<Write> {
        let Some(lane) = self.lanes.get_mut(lane) else { return Some(write) };
        let before = lane.write.replace(write);
        assert!(before.is_none(), "a lane has one write at a time");
        None
    }

    /// The write of a lane, if it is still this one.
    fn write(&mut self, lane: usize, request_id: i64) -> Option<&mut Write> {
        let lane = self.lanes.get_mut(lane).filter(|lane| lane.request_id == request_id)?;
        lane.write.as_mut()
    }

    /// Frees the lane of a write that has ended.
    fn end(&mut self, lane: usize, request_id: i64) -> Option<Write> {
        self.write(lane, request_id)?;
        self.free.push(lane);
        self.lanes[lane].write.take()
    }
}

impl Shared {
    /// The lane's next write: it has a new id, and the newest index that is known to be applied,
    /// which is at least `seen_index`. (The first entry of any log is a leader's no-op.)
    fn begin(
        self: &Arc<Self>,
        lane: usize,
        seen_index: Index,
        change: Change,
        deadline: Instant,
        callback: Callback,
    ) {
        let Some(request_id) = self.pool.lock().next_id(lane) else {
            return callback(Err(LaneError::Stopped { may_apply: false }));
        };
        let seen_index = self.node.applied_index().max(seen_index);
        let identity = Identity { client_id: self.client_id(lane), request_id, seen_index };
        // Without the lock, for which every other write waits: a command may have 15 MiB.
        let command = Command { identity, change: change.clone() }.encode();
        if command.len() > COMMAND_LEN_MAX {
            self.pool.lock().free.push(lane);
            return callback(Err(LaneError::TooLong(command.len())));
        }
        let (may_apply, attempts) = (false, 0);
        let write = Write { change, command, deadline, may_apply, attempts, callback };
        let refused = self.pool.lock().put(lane, write);
        match refused {
            None => self.attempt(lane, request_id),
            Some(Write { callback, .. }) => {
                callback(Err(LaneError::Stopped { may_apply: false }));
            }
        }
    }

    /// As which client a lane writes.
    fn client_id(&self, lane: usize) -> Bytes {
        let number = u16::try_from(lane).expect("there are at most 3,000 lanes");
        [&self.start[..], &number.to_be_bytes()].concat().into()
    }

    /// Proposes the lane's write where the leader is.
    fn attempt(self: &Arc<Self>, lane: usize, request_id: i64) {
        let (command, deadline, attempts) = {
            let mut pool = self.pool.lock();
            let Some(write) = pool.write(lane, request_id) else { return };
            write.attempts += 1;
            (write.command.clone(), write.deadline, write.attempts)
        };
        let role = self.node.status().role;
        let leader = role.leader.filter(|_| role.role != RoleName::Leader);
        let shared = Arc::clone(self);
        match leader.and_then(|leader| self.channel_to(leader, lane)) {
            Some(channel) => {
                let deadline =
                    deadline.min(Instant::now() + attempt_timeout(attempts, command.len()));
                forward::forward(&channel, command, deadline, move |result| {
                    shared.settle(lane, request_id, result.map_err(NoOutcome::from));
                });
            }
            None => self.node.propose(command, deadline, move |result| {
                shared.settle(lane, request_id, result.map_err(NoOutcome::from));
            }),
        }
    }

    /// The channel of this lane to a member, at the address where it is now.
    fn channel_to(&self, leader: MemberId, lane: usize) -> Option<Channel> {
        let addr = self.node.reach(leader)?;
        let mut channels = self.channels.lock();
        let is_there = channels.get(&leader).is_some_and(|it| it.addr == addr);
        if !is_there {
            channels.insert(leader, Connections::new(addr, self.node.status().id));
        }
        let channels = &channels[&leader].channels;
        Some(channels[lane % channels.len()].clone())
    }

    /// An attempt has ended.
    fn settle(self: &Arc<Self>, lane: usize, request_id: i64, attempt: Attempt) {
        let mut pool = self.pool.lock();
        let Some(write) = pool.write(lane, request_id) else { return };
        let end = match attempt {
            // The lane was forgotten. Unless a copy may have been applied, it begins anew.
            Ok(Outcome::SessionExpired { index }) if !write.may_apply => {
                let Write { change, deadline, callback, .. } =
                    pool.lanes[lane].write.take().expect("it was there");
                drop(pool);
                return self.begin(lane, index, change, deadline, callback);
            }
            Ok(Outcome::SessionExpired { .. }) => Err(LaneError::Forgotten),
            Ok(outcome) => Ok(outcome),
            Err(NoOutcome { why, may_apply }) => {
                write.may_apply |= may_apply;
                let due = Instant::now() + pause(write.attempts);
                if due < write.deadline {
                    drop(pool);
                    return self.retry(Retry { due, lane, request_id });
                }
                Err(LaneError::TimedOut { last: why, may_apply: write.may_apply })
            }
        };
        let write = pool.end(lane, request_id).expect("it was there");
        drop(pool);
        // It may be the state machine's thread that calls back.
        if catch_unwind(AssertUnwindSafe(|| (write.callback)(end))).is_err() {
            log::error!("lanes: whoever waited for a write panicked when it was told of its end");
        }
    }

    fn retry(&self, retry: Retry) {
        if let Some(retries) = &*self.retries.lock() {
            // There is room: see where the channel is made. Once the lanes end, nobody retries.
            let _ = retries.try_send(retry);
        }
    }
}

/// How long the attempt with this number may take.
fn attempt_timeout(attempt: u32, len: usize) -> Duration {
    let transfer = Duration::from_millis((len * 1000 / BYTES_PER_SECOND_MIN) as u64);
    (ATTEMPT_TIMEOUT + transfer).saturating_mul(1 << attempt.saturating_sub(1).min(10))
}

/// The pause after this many attempts.
fn pause(attempts: u32) -> Duration {
    PAUSE_MIN.saturating_mul(1 << attempts.min(10).saturating_sub(1)).min(PAUSE_MAX)
}

/// Makes attempts when they are due, until the lanes end.
fn retry_when_due(retries: &Receiver<Retry>, shared: &Weak<Shared>) {
    let mut waiting = BinaryHeap::new();
    loop {
        let next = waiting.peek().map(|Reverse(Retry { due, .. })| *due);
        let received = match next {
            Some(due) => retries.recv_deadline(due),
            None => retries.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match received {
            Ok(retry) => waiting.push(Reverse(retry)),
            Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {}
        }
        let now = Instant::now();
        while let Some(Reverse(retry)) = waiting.pop_if_due(now) {
            let Some(shared) = shared.upgrade() else { return };
            shared.attempt(retry.lane, retry.request_id);
        }
    }
}

trait PopIfDue {
    fn pop_if_due(&mut self, now: Instant) -> Option<Reverse<Retry>>;
}

impl PopIfDue for BinaryHeap<Reverse<Retry>> {
    fn pop_if_due(&mut self, now: Instant) -> Option<Reverse<Retry>> {
        self.peek().is_some_and(|Reverse(retry)| retry.due <= now).then(|| self.pop()).flatten()
    }
}

impl From<RequestError> for NoOutcome {
    fn from(error: RequestError) -> NoOutcome {
        NoOutcome { why: error.to_string(), may_apply: error.may_apply() }
    }
}

impl From<ForwardError> for NoOutcome {
    fn from(error: ForwardError) -> NoOutcome {
        let may_apply = error.may_apply();
        NoOutcome { why: crate::ErrorChain(&error).to_string(), may_apply }
    }
}
