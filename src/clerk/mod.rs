//! The blocking client.
//!
//! ```text
//! Clerk::put ─ lock: one write at a time ─> Call ── Route: whom next, when to pause
//!                    client id, request id        └─ attempt ─> KvServerRpcStub ─> member
//! clones share: ───── Pool: connections, the last leader, the newest applied index learned
//! ```
//!
//! A call tries until its deadline. It begins with the member that led last time, follows the members' hints, asks all of them
//! before it pauses, and gives no single member all of its time: a leader that is paused or cut off costs one
//! attempt. Every attempt of one write carries the same client id and request id, so the cluster applies it at most
//! once, however many attempts arrive.
//!
//! Invariant: a call ends. Every wait in it (for the lock, a connection, an answer, a pause) is bounded by its deadline.
//!
//! Invariant: an error of kind [`NotApplied`](ClerkErrorKind::NotApplied) is certain. Whatever answer is not understood
//! counts as "may have run".
//!
//! Threads: none of its own; each connection has those of its [`Channel`](crate::rpc::Channel).

mod call;
mod endpoints;
mod error;
mod pool;
mod route;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::clock;
use crate::kv::proto::{
    GetArgs, GetReply, KvServerRpcStub, LeaderHint, PutAppendArgs, PutAppendReply,
};
use crate::kv::{Op, check_key_and_value, words};
use crate::members::MembersError;
use crate::rpc::{Balancer, RoundRobin};
use call::{Call, Verdict};
pub use endpoints::{Endpoint, Endpoints};
use error::Reason;
pub use error::{BuildError, ClerkError, ClerkErrorKind};
use pool::{Pool, Reads};

const TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);

/// Longer ones count as this: no deadline may overflow.
const TIMEOUT_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// How often one write may begin a new session because the one it used was forgotten.
const SESSIONS_PER_WRITE_MAX: u32 = 3;

/// A blocking client of a cluster.
///
/// Any number of threads may use one Clerk. Reads go side by side; writes of one Clerk go one after another, because that is what
/// makes them countable. For writes side by side, clone it: a clone is a client of its own over the same connections.
///
/// ```no_run
/// use std::time::Duration;
/// use syncraft::clerk::Clerk;
///
/// let clerk = Clerk::builder()
///     .members("1=127.0.0.1:7001,2=127.0.0.1:7002,3=127.0.0.1:7003")
///     .timeout(Duration::from_secs(5))
///     .build()?;
/// clerk.put("motd", "hello")?;
/// clerk.append("motd", ", world")?;
/// assert_eq!(clerk.get("motd")?.as_deref(), Some(&b"hello, world"[..]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Clerk {
    pool: Arc<Pool>,
    session: Mutex<Session>,
    timeout: Duration,
}

/// What a key held, some time ago.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stale {
    /// What it held; `None`: it was absent.
    pub value: Option<Bytes>,
    /// Every write that was acknowledged longer ago than this is reflected.
    pub age_max: Duration,
}

/// Who writes, and what its last write was.
#[derive(Debug)]
struct Session {
    client_id: String,
    request_id: i64,
}

/// How a write ended for certain.
#[derive(Debug)]
enum WriteEnd {
    Applied { index: u64 },
    TooLarge,
    SessionExpired { index: u64 },
}

/// Settings of a [`Clerk`].
#[derive(Debug)]
pub struct ClerkBuilder {
    endpoints: Option<Result<Endpoints, MembersError>>,
    timeout: Duration,
    follows_hints: bool,
    reads: Reads,
}

impl ClerkBuilder {
    /// Whom to ask: see [`Endpoints`] for what will do. A list with a mistake is an error of [`build`](Self::build).
    pub fn members<M>(mut self, members: M) -> ClerkBuilder
    where
        M: TryInto<Endpoints>,
        M::Error: Into<MembersError>,
    {
        self.endpoints = Some(members.try_into().map_err(Into::into));
        self
    }

    /// How long each call may take, all its attempts together; default 10 s. Too small (below an election, about a second):
    /// calls fail while a leader is replaced. Too large: callers wait that long for a cluster that is gone.
    pub fn timeout(mut self, timeout: Duration) -> ClerkBuilder {
        self.timeout = timeout;
        self
    }

    /// Who chooses the member that a stale read asks first, and with [`follower_reads`](Self::follower_reads) every read; default
    /// [`RoundRobin`]. Those that hash go by the key that is read. Members that were asked in vain are passed over for a while.
    pub fn balancer(mut self, balancer: impl Balancer + 'static) -> ClerkBuilder {
        self.reads.balancer = Box::new(balancer);
        self
    }

    /// Whether [`get`](Clerk::get) asks the member that the balancer chooses, leader or not; default false: the leader. Either way it is
    /// linearizable: a follower asks the leader how far it must have come. It takes the work of reading, and of sending large values,
    /// off the leader, and costs each read a round trip between members.
    pub fn follower_reads(mut self, are_on: bool) -> ClerkBuilder {
        self.reads.are_of_anyone = are_on;
        self
    }

    /// Asks nobody who is not in the list; for tests that want one member's answer.
    #[cfg(feature = "testing")]
    pub(crate) fn only_these(mut self) -> ClerkBuilder {
        self.follows_hints = false;
        self
    }

    /// The Clerk. It connects when it is first used.
    ///
    /// # Errors
    /// No members or a wrong list; no random bytes from the system.
    pub fn build(self) -> Result<Clerk, BuildError> {
        let endpoints = self.endpoints.ok_or(BuildError::NoMembers)??;
        let pool = Arc::new(Pool::new(&endpoints, self.follows_hints, self.reads)?);
        Ok(Clerk::over(pool, self.timeout.min(TIMEOUT_MAX)))
    }
}

impl Clerk {
    /// Settings for a new Clerk.
    pub fn builder() -> ClerkBuilder {
        ClerkBuilder {
            endpoints: None,
            timeout: TIMEOUT_DEFAULT,
            follows_hints: true,
            reads: Reads { balancer: Box::new(RoundRobin::new()), are_of_anyone: false },
        }
    }

    /// Sets `key` to `value`.
    ///
    /// # Errors
    /// [`ClerkError::kind`] says whether it happened.
    pub fn put(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<(), ClerkError> {
        self.write("put", Op::Put, key.as_ref(), value.as_ref())
    }

    /// Adds `value` to the end of what `key` holds; an absent key counts as empty.
    ///
    /// # Errors
    /// [`ClerkError::kind`] says whether it happened.
    pub fn append(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<(), ClerkError> {
        self.write("append", Op::Append, key.as_ref(), value.as_ref())
    }

    /// What `key` holds, or `None` if it is absent. Linearizable: it sees every write that was answered before the call began.
    ///
    /// # Errors
    /// No member answered in time, or the key is over its limit.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Bytes>, ClerkError> {
        let args = GetArgs { key: Bytes::copy_from_slice(key.as_ref()), ..GetArgs::default() };
        let mut call = self.call(call::READ, args.key.len());
        if let Err(error) = check_key_and_value(&args.key, &[]) {
            return Err(call.reject(Reason::Limit(error)));
        }
        if self.pool.reads().are_of_anyone {
            call.ask_anyone(self.pool.pick(&args.key));
        }
        let (value, leader) = call.run(|stub, deadline| {
            let mut reply = stub.get(&args, deadline)?;
            let leader = reply.leader.take_if(|_| reply.err != words::ERR_WRONG_LEADER);
            Ok(judge_get(reply).map(|value| (value, leader)))
        })?;
        if let Some(leader) = leader.and_then(|hint| self.pool.resolve(&hint)) {
            self.pool.set_leader(leader);
        }
        value.map_err(|TooLarge| call.reject(Reason::TooLarge))
    }

    /// What `key` holds as the first member knows that can say how old its state is, leader or not: the
    /// [balancer](ClerkBuilder::balancer) chooses whom to ask first. It need not hear a leader now, unless `age_max` asks for a state that is
    /// no older than that; one that has heard none since it started does not answer. Reads of this kind are for where an old value will
    /// do: they cost the leader nothing, and go on when a majority is lost.
    ///
    /// # Errors
    /// No member answered in time, or none that can tell was fresh enough; or the key is over its limit.
    pub fn get_stale(
        &self,
        key: impl AsRef<[u8]>,
        age_max: Option<Duration>,
    ) -> Result<Stale, ClerkError> {
        let args = GetArgs {
            key: Bytes::copy_from_slice(key.as_ref()),
            may_be_stale: true,
            age_max_ms: age_max.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
            ..GetArgs::default()
        };
        let mut call = self.call(call::READ, args.key.len());
        if let Err(error) = check_key_and_value(&args.key, &[]) {
            return Err(call.reject(Reason::Limit(error)));
        }
        call.ask_anyone(self.pool.pick(&args.key));
        let (value, age_max) = call.run(|stub, deadline| {
            let asked = clock::boot_time();
            let reply = stub.get(&args, deadline)?;
            let age_ms = reply.age_ms;
            Ok(match (judge_get(reply), age_ms) {
                // On its way it has grown older.
                (verdict, Some(age_ms)) => verdict
                    .map(|value| (value, Duration::from_millis(age_ms) + clock::since(asked))),
                (Verdict::Done(_), None) => unknown_word(b"a value of unknown age"),
                (verdict, None) => verdict.map(|value| (value, Duration::ZERO)),
            })
        })?;
        let value = value.map_err(|TooLarge| call.reject(Reason::TooLarge))?;
        Ok(Stale { value, age_max })
    }

    /// This Clerk with another timeout for its calls.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Clerk {
        self.timeout = timeout.min(TIMEOUT_MAX);
        self
    }

    fn over(pool: Arc<Pool>, timeout: Duration) -> Clerk {
        let session = Mutex::new(Session::new(&pool));
        Clerk { pool, session, timeout }
    }

    fn call(&self, operation: &'static str, len_bytes: usize) -> Call<'_> {
        Call::new(&self.pool, operation, self.timeout, len_bytes)
    }

    fn write(
        &self,
        operation: &'static str,
        op: Op,
        key: &[u8],
        value: &[u8],
    ) -> Result<(), ClerkError> {
        let mut call = self.call(operation, key.len() + value.len());
        if let Err(error) = check_key_and_value(key, value) {
            return Err(call.reject(Reason::Limit(error)));
        }
        let Some(mut session) = self.session.try_lock_until(call.deadline()) else {
            return Err(call.fail(Reason::AnotherWrite));
        };
        let mut args = write_args(op, key, value);
        for _ in 0..SESSIONS_PER_WRITE_MAX {
            session.stamp(&mut args, &self.pool);
            let attempt = |stub: &KvServerRpcStub, deadline| {
                stub.put_append(&args, deadline).map(judge_write)
            };
            match call.run(attempt)? {
                WriteEnd::Applied { index } => {
                    self.pool.learn(index);
                    return Ok(());
                }
                WriteEnd::TooLarge => return Err(call.reject(Reason::TooLarge)),
                WriteEnd::SessionExpired { index } => {
                    self.pool.learn(index);
                    // Any later write of the old one would be refused as well.
                    *session = Session::new(&self.pool);
                }
            }
            if call.may_have_run() {
                break;
            }
        }
        Err(call.fail(Reason::SessionExpired))
    }
}

/// A client of its own (own writes, own timeout) over the same connections.
impl Clone for Clerk {
    fn clone(&self) -> Clerk {
        Clerk::over(self.pool.clone(), self.timeout)
    }
}

impl Session {
    fn new(pool: &Pool) -> Session {
        Session { client_id: pool.client_id(), request_id: 0 }
    }

    /// Makes this the session's next write. All its attempts carry what is set here.
    fn stamp(&mut self, args: &mut PutAppendArgs, pool: &Pool) {
        self.request_id += 1;
        args.request_id = self.request_id;
        args.client_id = Bytes::copy_from_slice(self.client_id.as_bytes());
        args.seen_index = pool.seen_index();
    }
}

/// The cluster refuses a key or value of this size.
#[derive(Debug)]
struct TooLarge;

fn write_args(op: Op, key: &[u8], value: &[u8]) -> PutAppendArgs {
    let op = match op {
        Op::Put => words::PUT,
        Op::Append => words::APPEND,
    };
    PutAppendArgs {
        key: Bytes::copy_from_slice(key),
        value: Bytes::copy_from_slice(value),
        op: Bytes::from_static(op),
        ..PutAppendArgs::default()
    }
}

fn judge_write(reply: PutAppendReply) -> Verdict<WriteEnd> {
    let PutAppendReply { err, leader, index, may_apply } = reply;
    match &err[..] {
        words::OK => Verdict::Done(WriteEnd::Applied { index }),
        words::ERR_TOO_LARGE => Verdict::Done(WriteEnd::TooLarge),
        words::ERR_SESSION_EXPIRED => Verdict::Done(WriteEnd::SessionExpired { index }),
        words::ERR_WRONG_LEADER => not_leader(leader, may_apply),
        other => unknown_word(other),
    }
}

fn judge_get(reply: GetReply) -> Verdict<Result<Option<Bytes>, TooLarge>> {
    match &reply.err[..] {
        words::OK => Verdict::Done(Ok(Some(reply.value))),
        words::ERR_NO_KEY => Verdict::Done(Ok(None)),
        words::ERR_TOO_LARGE => Verdict::Done(Err(TooLarge)),
        words::ERR_WRONG_LEADER => not_leader(reply.leader, false),
        other => unknown_word(other),
    }
}

fn not_leader<R>(hint: Option<LeaderHint>, may_have_run: bool) -> Verdict<R> {
    Verdict::NotLeader { hint, may_have_run }
}

/// Cut short: it goes into an error message.
fn unknown_word<R>(word: &[u8]) -> Verdict<R> {
    let word = String::from_utf8_lossy(&word[..word.len().min(64)]).into_owned();
    Verdict::UnknownWord(word)
}
