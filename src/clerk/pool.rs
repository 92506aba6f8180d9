//! What all clones of a Clerk share: the connections, who leads, and the newest index learned.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};

use super::call::BYTES_PER_SECOND_MIN;
use super::endpoints::{Endpoint, Endpoints};
use super::error::BuildError;
use super::route::MemberSet;
use crate::kv::proto::{KvServerRpcStub, LeaderHint};
use crate::members::{MEMBERS_MAX, check_addr};
use crate::rpc::{self, Balancer, Candidate, Channel, ResponseTime};
use syncraft_types::MemberId;

/// Members known from the start and learned from hints, together: more than any cluster has, so
/// that a hostile member cannot make us collect addresses. A [`MemberSet`] has room for them.
const TARGETS_MAX: usize = 2 * MEMBERS_MAX;

/// How long one attempt to connect may take: twice the first repeat of a lost SYN would be,
/// locally, a long time.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// A member that says nothing while a call waits is asked after this whether it is there, and its
/// connection is given up after as long again. A member answers pings at once, whatever else it
/// does. So a Clerk finds its way within two seconds even if its connections to all of three
/// members are dead. Too small: a busy machine looks dead. Too large: a call waits.
const PING_INTERVAL: Duration = Duration::from_millis(250);

/// How long a member that let a call wait in vain is left alone.
const COOL_DOWN: Duration = Duration::from_secs(2);

/// See the module.
#[derive(Debug)]
pub(super) struct Pool {
    targets: RwLock<Vec<Arc<Target>>>,
    leader: AtomicUsize,
    seen_index: AtomicU64,
    next_client_id: Mutex<u128>,
    /// Whether a member that a hint names joins the list.
    follows_hints: bool,
    reads: Reads,
    /// Held while a balancer picks, so that it never sees the same counts twice.
    picking: Mutex<()>,
}

/// Whom reads ask first.
pub(super) struct Reads {
    pub(super) balancer: Box<dyn Balancer>,
    /// Not only stale ones ask whom the balancer chooses.
    pub(super) are_of_anyone: bool,
}

impl fmt::Debug for Reads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reads").field("are_of_anyone", &self.are_of_anyone).finish_non_exhaustive()
    }
}

/// One member and the way to it.
#[derive(Debug)]
pub(super) struct Target {
    id: Option<MemberId>,
    addr: String,
    stub: KvServerRpcStub,
    silent_since: Mutex<Option<Instant>>,
    /// It was asked to read and did not: its process is gone, say, or it knows no leader.
    useless_since: Mutex<Option<Instant>>,
    /// What a balancer goes by.
    endpoint: rpc::Endpoint,
    load: Mutex<Load>,
}

#[derive(Debug, Default)]
struct Load {
    outstanding: usize,
    response_time: ResponseTime,
}

/// A call that is on its way to a member, or about to be; ended when dropped.
#[derive(Debug)]
pub(super) struct UnderWay {
    target: Arc<Target>,
}

impl Pool {
    pub(super) fn new(
        endpoints: &Endpoints,
        follows_hints: bool,
        reads: Reads,
    ) -> Result<Pool, BuildError> {
        let mut seed = [0; 16];
        getrandom::fill(&mut seed).map_err(BuildError::Entropy)?;
        Ok(Pool {
            targets: RwLock::new(endpoints.iter().cloned().map(Target::new).collect()),
            leader: AtomicUsize::new(0),
            // The first entry of any log is a leader's no-op, so no write of ours is at or below it
            // (see kv::sessions).
            seen_index: AtomicU64::new(1),
            next_client_id: Mutex::new(u128::from_le_bytes(seed)),
            follows_hints,
            reads,
            picking: Mutex::default(),
        })
    }

    /// A client id that nobody else has: 128 random bits plus a count, in decimal, as existing
    /// clients write it.
    pub(super) fn client_id(&self) -> String {
        let mut next = self.next_client_id.lock();
        *next = next.wrapping_add(1);
        next.to_string()
    }

    /// The highest applied index that any clone has been told of.
    pub(super) fn seen_index(&self) -> u64 {
        self.seen_index.load(Ordering::Acquire)
    }

    /// An answer named this index as applied.
    pub(super) fn learn(&self, applied_index: u64) {
        self.seen_index.fetch_max(applied_index, Ordering::AcqRel);
    }

    pub(super) fn reads(&self) -> &Reads {
        &self.reads
    }

    /// The member that the balancer chooses for a read of `key`, among those that have served what
    /// they were asked lately, if there are any. It counts as busy with the read from here on.
    pub(super) fn pick(&self, key: &[u8]) -> (usize, UnderWay) {
        let _one_at_a_time = self.picking.lock();
        let (targets, now) = (self.targets.read(), Instant::now());
        let serves = |target: &Target| !target.is_silent(now) && !target.is_useless(now);
        let does_any = targets.iter().any(|target| serves(target));
        let members = (0..targets.len()).filter(|i| !does_any || serves(&targets[*i]));
        let members: Vec<usize> = members.collect();
        let candidates: Vec<Candidate<'_>> =
            members.iter().map(|i| targets[*i].candidate(now)).collect();
        let picked = self.reads.balancer.pick(&candidates, rpc::hash_key(key));
        let member = members[picked % members.len()];
        (member, Target::begin(&targets[member]))
    }

    pub(super) fn leader(&self) -> usize {
        self.leader.load(Ordering::Relaxed)
    }

    pub(super) fn set_leader(&self, target: usize) {
        self.leader.store(target, Ordering::Relaxed);
    }

    pub(super) fn len(&self) -> usize {
        self.targets.read().len()
    }

    pub(super) fn target(&self, index: usize) -> Arc<Target> {
        self.targets.read()[index].clone()
    }

    /// Those that let a call wait in vain a short time ago.
    pub(super) fn silent(&self, now: Instant) -> MemberSet {
        let targets = self.targets.read();
        let bits = targets
            .iter()
            .enumerate()
            .map(|(i, target)| MemberSet::from(target.is_silent(now)) << i);
        bits.fold(0, |set, bit| set | bit)
    }

    /// Where the hinted leader is in the list. A member that is not in it joins it. A member's id
    /// counts for more than its address: ours may be the one that works from here.
    pub(super) fn resolve(&self, hint: &LeaderHint) -> Option<usize> {
        let id = Some(MemberId(hint.id)).filter(|id| id.0 > 0);
        let mut targets = self.targets.write();
        let by_id = || targets.iter().position(|target| id.is_some() && target.id == id);
        let by_addr =
            || targets.iter().position(|target| target.addr.eq_ignore_ascii_case(&hint.addr));
        if let Some(known) = by_id().or_else(by_addr) {
            return Some(known);
        }
        let is_full = targets.len() == TARGETS_MAX;
        if !self.follows_hints || is_full || check_addr(&hint.addr, &hint.addr).is_err() {
            return None;
        }
        targets.push(Target::new(Endpoint { id, addr: hint.addr.clone() }));
        Some(targets.len() - 1)
    }
}

impl Target {
    fn new(endpoint: Endpoint) -> Arc<Target> {
        let Endpoint { id, addr } = endpoint;
        let channel = Channel::builder(addr.clone())
            .connect_timeout(CONNECT_TIMEOUT)
            .ping_interval(PING_INTERVAL)
            .bytes_per_second_min(BYTES_PER_SECOND_MIN)
            .lazy();
        Arc::new(Target {
            id,
            endpoint: rpc::Endpoint::new(addr.clone()),
            load: Mutex::default(),
            addr,
            stub: KvServerRpcStub::new(channel),
            silent_since: Mutex::new(None),
            useless_since: Mutex::new(None),
        })
    }

    pub(super) fn addr(&self) -> &str {
        &self.addr
    }

    pub(super) fn stub(&self) -> &KvServerRpcStub {
        &self.stub
    }

    /// A call to it is on its way.
    pub(super) fn begin(target: &Arc<Target>) -> UnderWay {
        target.load.lock().outstanding += 1;
        UnderWay { target: Arc::clone(target) }
    }

    /// It has done what it was asked, in so much time; or it has not, which says nothing about how
    /// fast it is.
    pub(super) fn has_served(&self, took: Option<Duration>, now: Instant) {
        *self.useless_since.lock() = took.is_none().then_some(now);
        if let Some(took) = took {
            self.load.lock().response_time.add(took, now);
        }
    }

    fn is_useless(&self, now: Instant) -> bool {
        is_recent(*self.useless_since.lock(), now)
    }

    fn candidate(&self, now: Instant) -> Candidate<'_> {
        let load = self.load.lock();
        Candidate {
            endpoint: &self.endpoint,
            outstanding: load.outstanding,
            response_time: load.response_time.at(now),
        }
    }

    /// It let a call wait in vain (`Some`: since then), or it answered (`None`).
    pub(super) fn set_silent(&self, since: Option<Instant>) {
        *self.silent_since.lock() = since;
    }

    fn is_silent(&self, now: Instant) -> bool {
        is_recent(*self.silent_since.lock(), now)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.target.load.lock().outstanding -= 1;
    }
}

fn is_recent(moment: Option<Instant>, now: Instant) -> bool {
    moment.is_some_and(|moment| now.saturating_duration_since(moment) < COOL_DOWN)
}
