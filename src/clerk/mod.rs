//! The blocking client of a cluster.
//!
//! ```text
//! Clerk::put, txn ... ─ session: one write at a time ─> Call ── Route: which member next, pauses
//!                       client id, request id             └─ attempt ─> a stub ─> member
//! clones share ──────── Pool: the members and their health, the last leader, the newest index
//! ```
//!
//! A call makes attempts until its deadline. It begins at the member that led last time, follows
//! the members' hints, asks all members before it pauses, and gives no single member all of its
//! time: a leader that is paused or cut off costs one attempt. Every attempt of a write carries the
//! same client id and request id, so the cluster applies the write at most once, however many
//! attempts arrive.
//!
//! | file | what |
//! | --- | --- |
//! | `call`, `route`, `pool`, `endpoints` | a call's way through the members |
//! | `known` | which members are in the list: they come, go and move |
//! | `session` | a write's identity, which all its attempts carry |
//! | `ranges`, `scan` | reads of entries and ranges |
//! | `txn`, `swap` | transactions, and writes that depend on what a key holds |
//! | `lease` | leases, and the thread that keeps them alive |
//! | `watch` | changes as they happen |
//! | `lock` | locks and elections |
//! | `settings` | compaction, limits, statistics |
//! | `replies`, `error` | what members answer, and what the caller is told |
//!
//! # What it shares with `rpc`
//!
//! An [`EndpointTable`](crate::rpc::EndpointTable) keeps the members' load, response times and
//! health, and [`Backoff`](crate::rpc::Backoff) sets the pauses. `Targets` and `Retrying` use the
//! same two. Three things differ, because members are not interchangeable:
//!
//! - The route. Any endpoint of `Targets` will do; a write needs the leader, and hints name it.
//! - Which failures count. A member that refuses at once costs a call no time, and may lead as soon
//!   as it is back. So calls still ask it. They leave out only members that do not answer at all.
//! - Repeats. `Retrying` repeats a call that may have run only if its method is idempotent. A Clerk
//!   may repeat every write, because writes carry a session.
//!
//! # Invariants
//!
//! - A call ends. Its deadline bounds every wait in it: for the lock, a connection, an answer, a
//!   pause.
//! - The list of members stays bounded, and follows the cluster: who has left is asked no more, and
//!   who has come or moved is found without a restart of the client.
//! - An error of kind [`NotApplied`](ClerkErrorKind::NotApplied) is certain. An answer that is not
//!   understood counts as "may have run".
//!
//! # Threads
//!
//! None of its own, except `lease-keeper` while there are [`Lease`]s, for all clones together. Each
//! connection has those of its [`Channel`](crate::rpc::Channel). A member has three: the streams of
//! scans go over the second one, those of watches over the third. Each is made when it is first
//! needed.

mod call;
mod endpoints;
mod error;
mod known;
#[cfg(test)]
mod known_tests;
mod lease;
pub mod lock;
mod pool;
mod ranges;
mod replies;
mod route;
mod scan;
#[cfg(test)]
mod scan_tests;
mod session;
mod settings;
mod swap;
#[cfg(test)]
mod tests;
mod txn;
#[cfg(test)]
mod txn_tests;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::clock;
use crate::kv::proto::{GetArgs, PutAppendArgs};
use crate::kv::{Identity, check_key_and_value, words};
use crate::members::MembersError;
use crate::rpc::{Balancer, RoundRobin};
use call::{Call, Verdict};
pub use endpoints::{Endpoint, Endpoints};
pub use error::{BuildError, ClerkError, ClerkErrorKind};
use error::{Operation, Reason};
use lease::Keeper;
pub use lease::Lease;
pub use lock::{Guard, LockBuilder, LockError};
use pool::{Pool, ReadPolicy};
use replies::TooLarge;
pub use scan::Scan;
use session::Session;
pub use settings::Stats;
pub use swap::{Expected, Swap};
pub use txn::{Committed, TxnBuilder};
pub use watch::{Watch, WatchBuilder, WatchError};

const TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);

/// Longer timeouts count as this one, so that no deadline overflows.
const TIMEOUT_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// A blocking client of a cluster.
///
/// Any number of threads may use one Clerk. Its reads run in parallel. Its writes run one after
/// another: the cluster recognizes a repeated write by the number of the client's last one. For
/// parallel writes, clone the Clerk: a clone is a client of its own that uses the same connections.
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
    /// That of all clones.
    keeper: Arc<Keeper>,
}

/// The value of a key at some time in the past.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stale {
    /// The value. `None`: the key was absent.
    pub value: Option<Bytes>,
    /// How old the value may be: it reflects every write acknowledged longer ago than this.
    pub age_max: Duration,
}

/// Settings of a [`Clerk`].
#[derive(Debug)]
pub struct ClerkBuilder {
    endpoints: Option<Result<Endpoints, MembersError>>,
    timeout: Duration,
    follows_hints: bool,
    reads: ReadPolicy,
}

impl ClerkBuilder {
    /// The members of the cluster, in any form that [`Endpoints`] accepts. A mistake in the list is
    /// an error of [`build`](Self::build).
    pub fn members<M>(mut self, members: M) -> ClerkBuilder
    where
        M: TryInto<Endpoints>,
        M::Error: Into<MembersError>,
    {
        self.endpoints = Some(members.try_into().map_err(Into::into));
        self
    }

    /// How long each call may take with all its attempts; default 10 s. Too small (less than an
    /// election, about a second): calls fail while a leader is replaced. Too large: callers wait
    /// that long for a cluster that is gone.
    pub fn timeout(mut self, timeout: Duration) -> ClerkBuilder {
        self.timeout = timeout;
        self
    }

    /// Which balancer chooses the member that a stale read asks first, and every read with
    /// [`follower_reads`](Self::follower_reads); default [`RoundRobin`]. Balancers that hash use
    /// the key that is read. For a while, the balancer passes over a member that has failed.
    pub fn balancer(mut self, balancer: impl Balancer + 'static) -> ClerkBuilder {
        self.reads.balancer = Box::new(balancer);
        self
    }

    /// Whether [`get`](Clerk::get) asks the member that the balancer chooses, leader or not;
    /// default false: it asks the leader. Reads are linearizable either way: a follower first asks
    /// the leader which entries it must have applied. This takes the work of reading, and of
    /// sending large values, off the leader. It costs each read a round trip between members.
    pub fn follower_reads(mut self, are_on: bool) -> ClerkBuilder {
        self.reads.from_followers = are_on;
        self
    }

    /// Asks only the members in the list, whatever hints say. For tests that want one member's
    /// answer.
    #[cfg(feature = "testing")]
    pub(crate) fn only_these(mut self) -> ClerkBuilder {
        self.follows_hints = false;
        self
    }

    /// The Clerk. It connects when it is first used.
    ///
    /// # Errors
    /// [`BuildError`].
    pub fn build(self) -> Result<Clerk, BuildError> {
        let endpoints = self.endpoints.ok_or(BuildError::NoMembers)??;
        let pool = Arc::new(Pool::new(&endpoints, self.follows_hints, self.reads)?);
        Ok(Clerk::over(pool, self.timeout.min(TIMEOUT_MAX), Arc::default()))
    }
}

impl Clerk {
    /// Settings for a new Clerk.
    pub fn builder() -> ClerkBuilder {
        ClerkBuilder {
            endpoints: None,
            timeout: TIMEOUT_DEFAULT,
            follows_hints: true,
            reads: ReadPolicy { balancer: Box::new(RoundRobin::new()), from_followers: false },
        }
    }

    /// Sets `key` to `value`.
    ///
    /// # Errors
    /// [`ClerkError::kind`] says whether the write happened.
    pub fn put(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<(), ClerkError> {
        self.put_append(Operation::write("put"), words::PUT, key.as_ref(), value.as_ref())
    }

    /// Appends `value` to the value of `key`. An absent key counts as empty.
    ///
    /// # Errors
    /// [`ClerkError::kind`] says whether the write happened.
    pub fn append(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<(), ClerkError> {
        self.put_append(Operation::write("append"), words::APPEND, key.as_ref(), value.as_ref())
    }

    /// The value of `key`, or `None` if the key is absent. Linearizable: the read sees every write
    /// that was acknowledged before the call began.
    ///
    /// # Errors
    /// No member answered in time, or the key is too long.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Bytes>, ClerkError> {
        let args = GetArgs { key: Bytes::copy_from_slice(key.as_ref()), ..GetArgs::default() };
        let mut call = self.call(Operation::GET, args.key.len());
        if let Err(error) = check_key_and_value(&args.key, &[]) {
            return Err(call.reject(Reason::Limit(error)));
        }
        if self.pool.reads_from_followers() {
            call.begin_with(self.pool.pick(&args.key));
        }
        let (value, leader) = call.run(|member, deadline| {
            let mut reply = member.kv().get(&args, deadline)?;
            let leader = reply.leader.take_if(|_| reply.err != words::ERR_WRONG_LEADER);
            Ok(replies::get(reply).map(|value| (value, leader)))
        })?;
        if let Some(leader) = leader.and_then(|hint| self.pool.resolve(&hint)) {
            self.pool.set_leader(leader);
        }
        value.map_err(|TooLarge| call.reject(Reason::TooLarge))
    }

    /// The value of `key` in the state of one member, leader or not. The value may be old, and the
    /// answer says how old. The [balancer](ClerkBuilder::balancer) chooses which member to ask
    /// first.
    ///
    /// The member answers from the state that it has, unless that may be older than `age_max`. Then
    /// it first asks the leader. A member that has not heard a leader since it started cannot tell
    /// how old its state is, so it does not answer. Stale reads cost the leader nothing, and work
    /// even without a majority.
    ///
    /// # Errors
    /// No member answered in time with a state that was fresh enough, or the key is too long.
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
        let mut call = self.call(Operation::GET, args.key.len());
        if let Err(error) = check_key_and_value(&args.key, &[]) {
            return Err(call.reject(Reason::Limit(error)));
        }
        call.begin_with(self.pool.pick(&args.key));
        let (value, age_max) = call.run(|member, deadline| {
            let asked = clock::boot_time();
            let reply = member.kv().get(&args, deadline)?;
            let age_ms = reply.age_ms;
            Ok(match (replies::get(reply), age_ms) {
                // The answer has grown older on its way.
                (verdict, Some(age_ms)) => verdict
                    .map(|value| (value, Duration::from_millis(age_ms) + clock::since(asked))),
                (Verdict::Done(_), None) => replies::unknown(b"a value of unknown age"),
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

    fn over(pool: Arc<Pool>, timeout: Duration, keeper: Arc<Keeper>) -> Clerk {
        let session = Mutex::new(Session::new(&pool));
        Clerk { pool, session, timeout, keeper }
    }

    fn call(&self, operation: Operation, len_bytes: usize) -> Call<'_> {
        Call::new(&self.pool, operation, self.timeout, len_bytes)
    }

    fn put_append(
        &self,
        operation: Operation,
        op: &'static [u8],
        key: &[u8],
        value: &[u8],
    ) -> Result<(), ClerkError> {
        let mut call = self.call(operation, key.len() + value.len());
        if let Err(error) = check_key_and_value(key, value) {
            return Err(call.reject(Reason::Limit(error)));
        }
        let args = PutAppendArgs {
            key: Bytes::copy_from_slice(key),
            value: Bytes::copy_from_slice(value),
            op: Bytes::from_static(op),
            ..PutAppendArgs::default()
        };
        let stamp = |args: &mut PutAppendArgs, identity: Identity| {
            args.client_id = identity.client_id;
            args.request_id = identity.request_id;
            args.seen_index = identity.seen_index.0;
        };
        self.write(call, args, stamp, |member, args, deadline| {
            member.kv().put_append(args, deadline).map(replies::write)
        })
    }
}

/// A clone is a client of its own, with its own writes and timeout, over the same connections.
impl Clone for Clerk {
    fn clone(&self) -> Clerk {
        Clerk::over(self.pool.clone(), self.timeout, self.keeper.clone())
    }
}
