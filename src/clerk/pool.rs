//! What all clones of a Clerk share: the members and the connections to them, which member leads,
//! and the newest index learned.
//!
//! Load, response times and health of the members are kept by the [`EndpointTable`] of
//! `syncraft_rpc`, the same mechanism that its `Targets` use. The Clerk adds what only a client of
//! Raft knows: the members' ids, and hints to a leader.

use std::fmt;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::endpoints::{Endpoint, Endpoints};
use super::error::BuildError;
use super::known::{self, Contact, Hinted, Known, Plan, Told, Version};
use super::route::MemberSet;
use crate::kv::model::proto::{MembersReply, MembersRequest, StoreRpcStub};
use crate::kv::proto::{KvServerRpcStub, LeaderHint};
use crate::rpc::{
    Attempt, Balancer, CallError, CallOptions, Channel, EndpointTable, HealthPolicy, Sent, hash_key,
};
use syncraft_types::MemberId;

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

/// How often a Clerk that is used asks who the members are. Too small: ten thousand clients are a
/// load. Too large: all that a Clerk knows may be gone when its member goes.
const REFRESH_PAUSE: Duration = Duration::from_secs(1);

/// The same after something has shown that the members may have changed.
const TROUBLE_PAUSE: Duration = Duration::from_millis(500);

/// How long a member has to say who the members are. It knows that without asking anybody.
const TELL_TIMEOUT: Duration = Duration::from_millis(250);

/// No member's number.
const NOBODY: usize = usize::MAX;

/// See the module.
#[derive(Debug)]
pub(super) struct Pool {
    /// Who left the list has left the table. No number is used twice.
    members: EndpointTable<Member>,
    /// The addresses that the user has given.
    seeds: Vec<Endpoint>,
    /// Held while the list changes.
    asked: Mutex<Asked>,
    /// The member that has served last, over the connection for calls.
    served_last: AtomicUsize,
    leader: AtomicUsize,
    seen_index: AtomicU64,
    next_client_id: Mutex<u128>,
    /// Whether a member that is named by a hint joins the list.
    follows_hints: bool,
    reads: ReadPolicy,
}

/// When members were asked who the members are, and what they said.
#[derive(Debug, Default)]
struct Asked {
    at: Option<Instant>,
    /// Something has shown since then that the members may have changed.
    had_trouble: bool,
    newest: Version,
}

/// Who may be asked, and who should not be.
#[derive(Debug)]
pub(super) struct Survey {
    /// The numbers of all, in ascending order.
    pub(super) members: Vec<usize>,
    /// Those at which an attempt would probably wait in vain.
    pub(super) silent: MemberSet,
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
    /// 0: not known yet.
    id: AtomicU64,
    addr: String,
    contact: AtomicU8,
    calls: Channel,
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
            seeds: endpoints.iter().cloned().collect(),
            asked: Mutex::default(),
            served_last: AtomicUsize::new(NOBODY),
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

    /// Begins an attempt at this member. `None`: it has left.
    pub(super) fn begin(&self, member: usize) -> Option<Attempt<'_, Member>> {
        self.members.begin(member)
    }

    /// The member that led last, as far as is known.
    pub(super) fn leader(&self) -> usize {
        self.leader.load(Ordering::Relaxed)
    }

    pub(super) fn set_leader(&self, member: usize) {
        self.leader.store(member, Ordering::Relaxed);
    }

    /// The members, and those at which an attempt would probably wait in vain.
    pub(super) fn survey(&self) -> Survey {
        let members = self.members.map(|number, _| number);
        let silent = self.members.silent();
        let silent = members.iter().zip(silent).filter(|(_, it)| *it).map(|(it, _)| *it).collect();
        Survey { members, silent }
    }

    /// A member has served, over the connection for calls.
    pub(super) fn has_served(&self, member: usize) {
        self.served_last.store(member, Ordering::Relaxed);
    }

    /// An attempt at this member has ended. `is_reached`: it answered, whatever it said.
    pub(super) fn note_contact(&self, member: &Member, is_reached: bool) {
        member.set_contact(if is_reached { Contact::Answered } else { Contact::Failed });
        if !is_reached {
            self.asked.lock().had_trouble = true;
        }
    }

    /// The number of the hinted leader. A leader that is not in the list joins it. A member is
    /// found by its id first: our address for it may be the one that works from here.
    pub(super) fn resolve(&self, hint: &LeaderHint) -> Option<usize> {
        let mut asked = self.asked.lock();
        let id = Some(MemberId(hint.id)).filter(|id| id.0 > 0);
        match known::hinted(&self.list(), id, &hint.addr)? {
            Hinted::At(number) => Some(number),
            Hinted::New(_) if !self.follows_hints => None,
            Hinted::New(endpoint) => {
                asked.had_trouble = true;
                Some(self.add(endpoint))
            }
        }
    }

    /// Sends the question who the members are to this member, which is about to be called and
    /// served last time, if it is time to ask.
    pub(super) fn question(&self, number: usize, member: &Member) -> Option<Sent<MembersReply>> {
        let has_served = self.served_last.load(Ordering::Relaxed) == number;
        (has_served && self.begin_asking()).then(|| member.send_question())
    }

    /// Asks this member who the members are, if there was trouble. Returns whether there are others
    /// than before.
    pub(super) fn ask_after_trouble(&self, member: usize, deadline: Instant) -> bool {
        let before = self.survey().members;
        if self.asked.lock().had_trouble && self.begin_asking() {
            self.ask(member, deadline);
        }
        self.survey().members != before
    }

    /// Whether it is time to ask who the members are. If so, the caller asks.
    pub(super) fn begin_asking(&self) -> bool {
        let (mut asked, now) = (self.asked.lock(), Instant::now());
        let pause = if asked.had_trouble { TROUBLE_PAUSE } else { REFRESH_PAUSE };
        let is_due = self.follows_hints && asked.at.is_none_or(|at| now >= at + pause);
        if is_due {
            (asked.at, asked.had_trouble) = (Some(now), false);
        }
        is_due
    }

    fn ask(&self, number: usize, deadline: Instant) {
        let Some(member) = self.begin(number) else { return };
        let deadline = deadline.min(Instant::now() + TELL_TIMEOUT);
        let told = member.store().members(&MembersRequest {}, deadline);
        self.heard(&member, told);
    }

    /// A member has said who the members are, or has not. Nothing follows from an error: a member
    /// of an older version does not know the question.
    pub(super) fn heard(&self, from: &Member, told: Result<MembersReply, CallError>) {
        let Ok(reply) = told else { return };
        if reply.id > 0 {
            from.set_id(MemberId(reply.id));
        }
        from.set_contact(Contact::Answered);
        self.take(&reply);
    }

    fn take(&self, reply: &MembersReply) {
        let mut asked = self.asked.lock();
        let version = Version { cluster_id: reply.cluster_id, index: reply.index };
        if !version.is_news_to(asked.newest) {
            return;
        }
        if version.is_certain() {
            asked.newest = version;
        }
        let endpoint = |it: &crate::kv::model::proto::MemberAddr| Endpoint {
            id: Some(MemberId(it.id)).filter(|id| id.0 > 0),
            addr: it.addr.clone(),
        };
        let members: Vec<Endpoint> = reply.members.iter().map(endpoint).collect();
        if !members.is_empty() {
            let told = Told { version, members };
            self.carry_out(known::told(&self.list(), &self.seeds, &told));
        }
    }

    /// Nobody in the list answers: the user's addresses come back, and whoever answers there is
    /// believed. Returns whether there is anybody new to ask.
    pub(super) fn fall_back(&self) -> bool {
        if !self.follows_hints {
            return false;
        }
        let mut asked = self.asked.lock();
        asked.newest = Version::default();
        let plan = known::lost_all(&self.list(), &self.seeds);
        let is_news = !plan.add.is_empty();
        self.carry_out(plan);
        is_news
    }

    fn carry_out(&self, plan: Plan) {
        for (number, id) in plan.ids {
            if let Some(member) = self.begin(number) {
                member.set_id(id);
            }
        }
        // In this order, so that the list is never empty.
        for endpoint in plan.add {
            self.add(endpoint);
        }
        plan.remove.into_iter().for_each(|number| self.members.remove(number));
    }

    fn list(&self) -> Vec<Known> {
        self.members.map(|number, member| {
            let endpoint = Endpoint { id: member.id(), addr: member.addr.clone() };
            Known { number, endpoint, contact: member.contact() }
        })
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
        let (kv, store) = (KvServerRpcStub::new(calls.clone()), StoreRpcStub::new(calls.clone()));
        let scans = StoreRpcStub::new(channel(PING_INTERVAL));
        let watches = StoreRpcStub::new(channel(WATCH_PING_INTERVAL));
        let id = AtomicU64::new(id.map_or(0, |id| id.0));
        let contact = AtomicU8::new(Contact::Untried as u8);
        self.members
            .push(addr.clone(), Member { id, addr, contact, calls, kv, store, scans, watches })
    }
}

impl Member {
    fn send_question(&self) -> Sent<MembersReply> {
        let (options, deadline) = (CallOptions::default(), Instant::now() + TELL_TIMEOUT);
        self.calls.send(&StoreRpcStub::<Channel>::MEMBERS, &options, &MembersRequest {}, deadline)
    }

    fn id(&self) -> Option<MemberId> {
        Some(MemberId(self.id.load(Ordering::Relaxed))).filter(|id| id.0 > 0)
    }

    fn set_id(&self, id: MemberId) {
        self.id.store(id.0, Ordering::Relaxed);
    }

    fn contact(&self) -> Contact {
        match self.contact.load(Ordering::Relaxed) {
            it if it == Contact::Answered as u8 => Contact::Answered,
            it if it == Contact::Failed as u8 => Contact::Failed,
            _ => Contact::Untried,
        }
    }

    fn set_contact(&self, contact: Contact) {
        self.contact.store(contact as u8, Ordering::Relaxed);
    }

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
