//! What all clones of a Clerk share: the members and the connections to them, which member leads,
//! and the newest index learned.
//!
//! Load, response times and health of the members are kept by the [`EndpointTable`] of
//! `syncraft_rpc`, the same mechanism that its `Targets` use. The Clerk adds what only a client of
//! Raft knows: the members' ids, and hints to a leader.

use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::endpoints::{Endpoint, Endpoints};
use super::error::BuildError;
use super::route::MemberSet;
use crate::kv::model::proto::StoreRpcStub;
use crate::kv::proto::{KvServerRpcStub, LeaderHint};
use crate::members::{MEMBERS_MAX, check_addr};
use crate::rpc::{Attempt, Balancer, Channel, EndpointTable, HealthPolicy, hash_key};
use syncraft_types::MemberId;

/// The most members, listed and learned from hints together. It is more than any cluster has, and
/// bounds what a hostile member can make us remember. A [`MemberSet`] has a bit for each.
const KNOWN_MEMBERS_MAX: usize = 2 * MEMBERS_MAX;

/// The slowest network, in bytes a second, for which large values are given enough time.
pub(super) const BYTES_PER_SECOND_MIN: u64 = 4 << 20;

/// How long one attempt to connect may take. Lost packets are sent again within this time.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// A member that says nothing while a call waits is pinged after this long, and its connection is
/// given up after as long again. A member answers pings at once, whatever else it does. So a Clerk
/// finds its way within two seconds even if its connections to all of three members are dead. Too
/// small: a busy machine looks dead. Too large: a call waits.
const PING_INTERVAL: Duration = Duration::from_millis(250);

/// The same while a watch waits, which is most of the time. Too small: ten thousand clients that
/// wait ping each member many times a second.
const WATCH_PING_INTERVAL: Duration = Duration::from_secs(1);

/// How long a member is ejected after it has failed once. The time does not grow: a member that
/// is back may be the leader.
const COOL_DOWN: Duration = Duration::from_secs(2);

/// See the module.
#[derive(Debug)]
pub(super) struct Pool {
    /// Members never leave the table, so a member's number in it is its place in the list.
    members: EndpointTable<Member>,
    /// Held while a hint is resolved, so that no member is added twice.
    resolving: Mutex<()>,
    leader: AtomicUsize,
    seen_index: AtomicU64,
    next_client_id: Mutex<u128>,
    /// Whether a member that is named by a hint joins the list.
    follows_hints: bool,
    reads: ReadPolicy,
}

/// Which member a read asks first.
pub(super) struct ReadPolicy {
    pub(super) balancer: Box<dyn Balancer>,
    /// Whether every read asks the member that the balancer chooses. Stale reads always do.
    pub(super) from_followers: bool,
}

impl fmt::Debug for ReadPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadPolicy")
            .field("from_followers", &self.from_followers)
            .finish_non_exhaustive()
    }
}

/// One member and the way to it.
#[derive(Debug)]
pub(super) struct Member {
    id: Option<MemberId>,
    addr: String,
    kv: KvServerRpcStub,
    store: StoreRpcStub,
    /// Over a connection of its own, which is made for the first scan: pages are long, and calls
    /// would stand behind them. On the other connection callers also read their own answers, which
    /// a channel with streams leaves to a thread.
    scans: StoreRpcStub,
    /// Over a third connection, which is made for the first watch.
    watches: StoreRpcStub,
}

impl Pool {
    pub(super) fn new(
        endpoints: &Endpoints,
        follows_hints: bool,
        reads: ReadPolicy,
    ) -> Result<Pool, BuildError> {
        let mut seed = [0; 16];
        getrandom::fill(&mut seed).map_err(BuildError::Entropy)?;
        let pool = Pool {
            members: EndpointTable::new(HealthPolicy {
                losses_max: 1,
                cool_down_min: COOL_DOWN,
                cool_down_max: COOL_DOWN,
            }),
            resolving: Mutex::new(()),
            leader: AtomicUsize::new(0),
            // The first entry of any log is a leader's no-op, so none of our writes has this index
            // or a lower one (see kv::sessions).
            seen_index: AtomicU64::new(1),
            next_client_id: Mutex::new(u128::from_le_bytes(seed)),
            follows_hints,
            reads,
        };
        for endpoint in endpoints.iter() {
            pool.add(endpoint.clone());
        }
        Ok(pool)
    }

    /// A client id that no other client has: 128 random bits plus a count, in decimal, as existing
    /// clients write it.
    pub(super) fn client_id(&self) -> String {
        let mut next = self.next_client_id.lock();
        *next = next.wrapping_add(1);
        next.to_string()
    }

    /// The highest applied index that any clone has learned.
    pub(super) fn seen_index(&self) -> u64 {
        self.seen_index.load(Ordering::Acquire)
    }

    /// An answer has named this index as applied.
    pub(super) fn learn(&self, applied_index: u64) {
        self.seen_index.fetch_max(applied_index, Ordering::AcqRel);
    }

    /// Whether every read asks the member that the balancer chooses.
    pub(super) fn reads_from_followers(&self) -> bool {
        self.reads.from_followers
    }

    /// Begins a read of `key` at the member that the balancer chooses, among those that have served
    /// what they were asked, if there are any.
    pub(super) fn pick(&self, key: &[u8]) -> Attempt<'_, Member> {
        let picked = self.members.pick(&*self.reads.balancer, hash_key(key), &[]);
        picked.expect("a Clerk has at least one member")
    }

    /// Begins an attempt at this member.
    pub(super) fn begin(&self, member: usize) -> Attempt<'_, Member> {
        self.members.begin(member).expect("members never leave the list")
    }

    /// The member that led last, as far as is known.
    pub(super) fn leader(&self) -> usize {
        self.leader.load(Ordering::Relaxed)
    }

    pub(super) fn set_leader(&self, member: usize) {
        self.leader.store(member, Ordering::Relaxed);
    }

    /// How many members there are, and those at which an attempt would probably wait in vain.
    pub(super) fn survey(&self) -> (usize, MemberSet) {
        let silent = self.members.silent();
        let bit = |(member, is_silent): (usize, &bool)| MemberSet::from(*is_silent) << member;
        (silent.len(), silent.iter().enumerate().map(bit).sum())
    }

    /// The place of the hinted leader in the list. A leader that is not in the list joins it. A
    /// member is found by its id first: our address for it may be the one that works from here.
    pub(super) fn resolve(&self, hint: &LeaderHint) -> Option<usize> {
        let _resolving = self.resolving.lock();
        let id = Some(MemberId(hint.id)).filter(|id| id.0 > 0);
        let by_id = || id.and_then(|id| self.members.find(|member| member.id == Some(id)));
        let by_addr = || self.members.find(|member| member.addr.eq_ignore_ascii_case(&hint.addr));
        if let Some(known) = by_id().or_else(by_addr) {
            return Some(known);
        }
        let is_full = self.members.len() == KNOWN_MEMBERS_MAX;
        if !self.follows_hints || is_full || check_addr(&hint.addr, &hint.addr).is_err() {
            return None;
        }
        Some(self.add(Endpoint { id, addr: hint.addr.clone() }))
    }

    fn add(&self, Endpoint { id, addr }: Endpoint) -> usize {
        let channel = |ping_interval| {
            Channel::builder(addr.clone())
                .connect_timeout(CONNECT_TIMEOUT)
                .ping_interval(ping_interval)
                .bytes_per_second_min(BYTES_PER_SECOND_MIN)
                .lazy()
        };
        let calls = channel(PING_INTERVAL);
        let (kv, store) = (KvServerRpcStub::new(calls.clone()), StoreRpcStub::new(calls));
        let scans = StoreRpcStub::new(channel(PING_INTERVAL));
        let watches = StoreRpcStub::new(channel(WATCH_PING_INTERVAL));
        self.members.push(addr.clone(), Member { id, addr, kv, store, scans, watches })
    }
}

impl Member {
    pub(super) fn addr(&self) -> &str {
        &self.addr
    }

    /// For puts, appends and gets.
    pub(super) fn kv(&self) -> &KvServerRpcStub {
        &self.kv
    }

    /// For everything else. It uses the same connection.
    pub(super) fn store(&self) -> &StoreRpcStub {
        &self.store
    }

    /// For scans.
    pub(super) fn scans(&self) -> &StoreRpcStub {
        &self.scans
    }

    /// For watches.
    pub(super) fn watches(&self) -> &StoreRpcStub {
        &self.watches
    }
}
