//! [`Cluster`]: members that run, and what a test does to them.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tempfile::TempDir;

use super::network::Network;
use super::options::{Delay, Options};
use super::port::Port;
use crate::clerk::Clerk;
use crate::kv::Lanes;
use crate::kv::api::Api;
use crate::members::Members;
use crate::raft::{MemberId, RoleName, Status};
use crate::server::{Config, Member, StartError};

/// How long [`Cluster::leader`] waits for a leader.
const LEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// The pause between two checks.
const POLL_PAUSE: Duration = Duration::from_millis(2);

/// A cluster in this process. All methods take `&self`, so a test may kill members from one thread
/// while others read and write. Dropping the cluster stops all members, whatever is wrong with them
/// or their network, and removes their data.
#[derive(Debug)]
pub struct Cluster {
    members: Members,
    options: Options,
    // Dropped in this order: members, their network, their data.
    slots: BTreeMap<MemberId, Slot>,
    network: Network,
    dir: TempDir,
}

#[derive(Debug)]
struct Slot {
    port: Port,
    /// `None` while it is down.
    member: Mutex<Option<Member>>,
}

/// Why a cluster cannot do what a test asks for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClusterError {
    /// The system gives no port or no directory.
    #[error("cannot set up the cluster")]
    Setup(#[from] io::Error),
    /// The data of a member cannot be removed.
    #[error("cannot remove the data of member {id}")]
    Wipe {
        /// The member.
        id: MemberId,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A member does not start.
    #[error("member {id} does not start")]
    Start {
        /// The member.
        id: MemberId,
        /// Why.
        #[source]
        source: StartError,
    },
    /// Nobody leads.
    #[error("no leader within {waited:?}; the members that run say: {statuses:?}")]
    NoLeader {
        /// How long the test waited.
        waited: Duration,
        /// The status of each member that runs.
        statuses: Vec<Status>,
    },
}

impl Cluster {
    /// Starts `size` members, with ids from 1, and waits until one leads and all vote: any
    /// minority may be killed next.
    ///
    /// # Errors
    /// [`ClusterError`].
    ///
    /// # Panics
    /// If `size` is 0 or more than a cluster can have.
    pub fn start(size: usize) -> Result<Cluster, ClusterError> {
        Cluster::start_with(size, Options::default())
    }

    /// As [`start`](Cluster::start), with options of its own.
    ///
    /// # Errors
    /// [`ClusterError`].
    ///
    /// # Panics
    /// If `size` is 0 or more than a cluster can have.
    pub fn start_with(size: usize, options: Options) -> Result<Cluster, ClusterError> {
        let mut slots = BTreeMap::new();
        for id in 1..=size as u64 {
            slots.insert(MemberId(id), Slot { port: Port::free()?, member: Mutex::new(None) });
        }
        let addrs = slots.iter().map(|(&id, slot)| (id, slot.port.addr().to_string()));
        let members = Members::new(addrs)
            .expect("from 1 to 15 members, each with an id and a port of its own");
        let network = Network::new(&slots.iter().map(|(&id, it)| (id, it.port.addr())).collect())?;
        let dir = TempDir::with_prefix("syncraft-")?;
        let cluster = Cluster { members, options, slots, network, dir };
        for id in cluster.ids() {
            cluster.restart(id)?;
        }
        cluster.wait_for(|| {
            let votes = |status: &Status| !status.is_joining;
            cluster.leader_now().filter(|_| cluster.statuses().iter().all(votes))
        })?;
        Ok(cluster)
    }

    /// All members, with their addresses.
    pub fn members(&self) -> &Members {
        &self.members
    }

    /// The ids of all members, whether they run or not.
    pub fn ids(&self) -> Vec<MemberId> {
        self.slots.keys().copied().collect()
    }

    /// A new client of the cluster.
    pub fn clerk(&self) -> Clerk {
        let builder = Clerk::builder().members(&self.members).timeout(self.options.timeout);
        builder.build().expect("a cluster's own list of members is in order")
    }

    /// A client that asks only this member, whatever hints it gets, so that a test learns what the
    /// member says. While the member does not lead, the client's calls fail when their time is up
    /// ([`Options::timeout`]).
    ///
    /// # Panics
    /// If there is no such member.
    pub fn clerk_of(&self, id: impl Into<MemberId>) -> Clerk {
        let addr = self.slot(id.into()).port.addr();
        let builder = Clerk::builder().members([addr]).timeout(self.options.timeout);
        builder.only_these().build().expect("a port's address is in order")
    }

    /// The leader. Waits up to ten seconds for one that a majority follows: it runs, it is not
    /// paused, and it and its followers hear each other.
    ///
    /// # Errors
    /// [`ClusterError::NoLeader`].
    pub fn leader(&self) -> Result<MemberId, ClusterError> {
        self.wait_for(|| self.leader_now())
    }

    fn wait_for(&self, leader: impl Fn() -> Option<MemberId>) -> Result<MemberId, ClusterError> {
        let deadline = Instant::now() + LEADER_TIMEOUT;
        loop {
            if let Some(leader) = leader() {
                return Ok(leader);
            }
            if Instant::now() >= deadline {
                return Err(ClusterError::NoLeader {
                    waited: LEADER_TIMEOUT,
                    statuses: self.statuses(),
                });
            }
            thread::sleep(POLL_PAUSE);
        }
    }

    /// The status of a member, unless it is down.
    pub fn status(&self, id: impl Into<MemberId>) -> Option<Status> {
        self.slot(id.into()).member.lock().as_ref().map(|member| member.node().status())
    }

    /// The lanes of a member, unless it is down: see [`Member::lanes`].
    pub fn lanes(&self, id: impl Into<MemberId>) -> Option<Arc<Lanes>> {
        self.slot(id.into()).member.lock().as_ref().map(|member| member.lanes().clone())
    }

    /// The store as a member serves it, unless it is down: see [`Member::api`].
    pub fn api(&self, id: impl Into<MemberId>) -> Option<Api> {
        self.slot(id.into()).member.lock().as_ref().map(|member| member.api())
    }

    /// Ends a member as a crash would: its sockets close, and what it has not written is lost. Does
    /// nothing if it is down.
    pub fn kill(&self, id: impl Into<MemberId>) {
        self.take_down(id.into(), Member::kill);
    }

    /// Stops a member in an orderly way. A paused member wakes for it. Does nothing if it is down.
    pub fn stop(&self, id: impl Into<MemberId>) {
        self.take_down(id.into(), Member::stop);
    }

    /// Kills a member, if it runs, and removes all its data, as if its disk had been replaced by an
    /// empty one. Such a member has forgotten what it acknowledged and for whom it voted. The
    /// README says when that is safe.
    ///
    /// # Errors
    /// [`ClusterError::Wipe`].
    pub fn wipe(&self, id: impl Into<MemberId>) -> Result<(), ClusterError> {
        let id = id.into();
        self.kill(id);
        let _down = self.slot(id).member.lock();
        match fs::remove_dir_all(self.data_dir(id)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result.map_err(|source| ClusterError::Wipe { id, source }),
        }
    }

    /// Holds a member as SIGSTOP would: its threads begin nothing, it sends nothing, and its clock
    /// stands still. Its sockets stay open, and what arrives waits in them, so clients that ask it
    /// run into their timeouts. [`status`](Cluster::status) still says what the member believed
    /// last. An operation that it has begun, such as a write to the disk, may end, but nothing
    /// follows from it. Does nothing if the member is down.
    ///
    /// ```no_run
    /// # use syncraft::testing::Cluster;
    /// let cluster = Cluster::start(3)?;
    /// let old = cluster.leader()?;
    /// cluster.pause(old);
    /// assert_ne!(cluster.leader()?, old);
    /// cluster.resume(old);                    // still believes that it leads, for a moment
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn pause(&self, id: impl Into<MemberId>) {
        let id = id.into();
        if let Some(member) = &*self.slot(id).member.lock() {
            self.network.faults.pause(id);
            member.pause();
        }
    }

    /// Lets a paused member go on exactly where it stopped, with everything that it believed then.
    /// Does nothing if it is not paused.
    pub fn resume(&self, id: impl Into<MemberId>) {
        let id = id.into();
        if let Some(member) = &*self.slot(id).member.lock() {
            self.network.faults.resume(id);
            member.resume();
        }
    }

    /// Cuts the network between each member of one group and each of the other, both ways and
    /// silently: connections stay open, and what is sent over them does not arrive. Earlier cuts
    /// stay. Clients are not cut off: they can still ask the leader of a minority.
    ///
    /// ```no_run
    /// # use syncraft::testing::Cluster;
    /// let cluster = Cluster::start(3)?;
    /// let leader = cluster.leader()?;
    /// let others: Vec<_> = cluster.ids().into_iter().filter(|&id| id != leader).collect();
    /// cluster.partition(&[leader], &others);
    /// assert!(others.contains(&cluster.leader()?));
    /// cluster.heal();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Panics
    /// If there is no such member.
    pub fn partition<A, B>(&self, one: &[A], other: &[B])
    where
        A: Into<MemberId> + Copy,
        B: Into<MemberId> + Copy,
    {
        for &a in one {
            for &b in other {
                self.partition_one_way(a, b);
                self.partition_one_way(b, a);
            }
        }
    }

    /// Cuts the network in one direction: nothing that `from` sends reaches `to`, neither requests
    /// nor answers. Otherwise as [`partition`](Cluster::partition).
    ///
    /// # Panics
    /// If there is no such member.
    pub fn partition_one_way(&self, from: impl Into<MemberId>, to: impl Into<MemberId>) {
        let (from, to) = (from.into(), to.into());
        // Panics if there is no such member.
        let _ = (self.slot(from), self.slot(to));
        self.network.faults.cut([(from, to)]);
    }

    /// Makes the existing connections between each member of one group and each of the other carry
    /// nothing, both ways: they stay open, and what is sent over them is swallowed for ever. New
    /// connections work. Firewalls behave like this after a restart, and load balancers that have
    /// forgotten a connection. [`heal`](Cluster::heal) does not bring the connections back: members
    /// must notice by themselves and connect again. Connections of clients are not changed.
    ///
    /// ```no_run
    /// # use syncraft::testing::Cluster;
    /// let cluster = Cluster::start(3)?;
    /// let ids = cluster.ids();
    /// cluster.blackhole(&ids, &ids);          // every connection between members
    /// cluster.clerk().put("k", "v")?;         // they have noticed within a second
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Panics
    /// If there is no such member.
    pub fn blackhole<A, B>(&self, one: &[A], other: &[B])
    where
        A: Into<MemberId> + Copy,
        B: Into<MemberId> + Copy,
    {
        for &a in one {
            for &b in other {
                let (a, b) = (a.into(), b.into());
                // Panics if there is no such member.
                let _ = (self.slot(a), self.slot(b));
                self.network.faults.swallow(a, b);
            }
        }
    }

    /// Undoes all cuts. What was sent in the meantime arrives now, as TCP would send it again.
    pub fn heal(&self) {
        self.network.faults.heal();
    }

    /// Delays whatever members send each other, each way: by a [`Duration`], or by a time that each
    /// chunk draws from a range. Chunks stay in order. [`Duration::ZERO`] ends the delay. If
    /// answers take longer than an election timeout, the cluster has no leader.
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # use syncraft::testing::Cluster;
    /// let cluster = Cluster::start(3)?;
    /// cluster.delay(Duration::from_millis(5));
    /// cluster.delay(Duration::from_millis(1)..=Duration::from_millis(20));
    /// cluster.delay(Duration::ZERO);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn delay(&self, delay: impl Into<Delay>) {
        self.network.faults.set_delay(delay.into().0);
    }

    /// Loses this share, from 0.0 to 1.0, of the chunks that members send each other, each with its
    /// connection. This is how a program sees a network that loses packets for longer than TCP
    /// keeps trying. Members connect again. Requests and answers on their way are lost.
    ///
    /// # Panics
    /// If `rate` is not between 0 and 1.
    pub fn drop_rate(&self, rate: f64) {
        assert!((0.0..=1.0).contains(&rate), "{rate} is not a share");
        self.network.faults.set_drop_rate(rate);
    }

    /// Starts a member that is down, with the data that it has. Does nothing if it runs.
    ///
    /// # Errors
    /// [`ClusterError::Start`].
    pub fn restart(&self, id: impl Into<MemberId>) -> Result<(), ClusterError> {
        let id = id.into();
        let slot = self.slot(id);
        let mut member = slot.member.lock();
        if member.is_none() {
            let config = Config {
                timing: self.options.timing,
                snapshot_log_bytes: self.options.snapshot_log_bytes,
                read_mode: self.options.read_mode,
                ..Config::new(id, self.members.clone(), self.data_dir(id))
            };
            let peers = self.network.seen_by(id, &self.members);
            let started = Member::start_in_test(slot.port.listen()?, config, peers);
            *member = Some(started.map_err(|source| ClusterError::Start { id, source })?);
        }
        Ok(())
    }

    /// The data directory of a member. While the member is down, a test may look at the data or
    /// damage it.
    pub fn data_dir(&self, id: impl Into<MemberId>) -> PathBuf {
        self.dir.path().join(id.into().to_string())
    }

    fn take_down(&self, id: MemberId, end: impl FnOnce(Member)) {
        let mut member = self.slot(id).member.lock();
        if let Some(member) = member.take() {
            end(member);
        }
        self.network.faults.resume(id);
    }

    /// The member that a majority follows in the latest term.
    fn leader_now(&self) -> Option<MemberId> {
        let faults = &self.network.faults;
        let mut statuses = self.statuses();
        statuses.retain(|status| !faults.is_paused(status.id));
        let leader = statuses
            .iter()
            .filter(|status| status.role.role == RoleName::Leader)
            .max_by_key(|status| status.role.term)?;
        let follows = |status: &&Status| {
            status.role.term == leader.role.term
                && status.role.leader == Some(leader.id)
                && faults.joins(leader.id, status.id)
        };
        let following = statuses.iter().filter(follows).map(|status| status.id);
        self.members.membership().is_quorum(following).then_some(leader.id)
    }

    fn statuses(&self) -> Vec<Status> {
        self.ids().into_iter().filter_map(|id| self.status(id)).collect()
    }

    fn slot(&self, id: MemberId) -> &Slot {
        self.slots.get(&id).unwrap_or_else(|| panic!("there is no member {id} in this cluster"))
    }
}
