//! [`Cluster`]: members that run, and what a test does to them.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::data::{Data, Roster};
use super::faults::Faults;
use super::network::Network;
use super::options::{Delay, Options};
use super::parts::{Attendant, Parts, addrs_of, members_of};
use super::port::Port;
use super::slots::{Slot, Slots, reserve};
use crate::clerk::Clerk;
use crate::kv::Lanes;
use crate::kv::api::Api;
use crate::members::Members;
use crate::node::NodeFailure;
use crate::raft::{MemberId, Membership, RoleName, Status};
use crate::server::admin_client::AdminError;
use crate::server::{Member, StartError, list_id};

/// The pause between two checks.
pub(super) const POLL_PAUSE: Duration = Duration::from_millis(2);

/// A cluster in this process. All methods take `&self`, so a test may kill members from one thread
/// while others read and write. Dropping the cluster stops all members, whatever is wrong with them
/// or their network, and removes their data.
#[derive(Debug)]
pub struct Cluster {
    // Dropped first.
    _attendant: Attendant,
    pub(super) parts: Arc<Parts>,
}

/// Why a cluster cannot do what a test asks for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClusterError {
    /// The system gives no port or no directory.
    #[error("cannot set up the cluster")]
    Setup(#[from] io::Error),
    /// A port that was asked for cannot be used.
    #[error("cannot use port {port}")]
    Port {
        /// The port.
        port: u16,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The directory for the data cannot be used.
    #[error("cannot use the data directory {}", dir.display())]
    DataDir {
        /// The directory.
        dir: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The directory for the data holds something else.
    #[error("{} is not empty, and no cluster of this kind has its data there", dir.display())]
    NotItsData {
        /// The directory.
        dir: PathBuf,
    },
    /// The directory for the data belongs to a cluster of another size.
    #[error("{} has the data of {found} members, not of {wanted}", dir.display())]
    OtherSize {
        /// The directory.
        dir: PathBuf,
        /// How many members have their data there.
        found: usize,
        /// How many were asked for.
        wanted: usize,
    },
    /// Another cluster that runs has its data there.
    #[error("{} belongs to a cluster that runs", dir.display())]
    InUse {
        /// The directory.
        dir: PathBuf,
    },
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
    /// The members are not as the test wants them.
    #[error("the cluster does not {what}")]
    Change {
        /// What was to be done.
        what: String,
        /// Why it was not.
        #[source]
        source: AdminError,
    },
    /// A member has started, and the cluster takes no notice of it.
    #[error("member {id} is not {what} within {waited:?}")]
    NotSeen {
        /// The member.
        id: MemberId,
        /// What it should be.
        what: &'static str,
        /// How long the test waited.
        waited: Duration,
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
        let roster = match &options.data_dir {
            None => Roster::new(size),
            Some(path) => Roster::read(path, size),
        };
        let slots = Slots::of(reserve(&roster.ids(), size, &options)?);
        let addrs = addrs_of(&slots.members());
        let mut data = match &options.data_dir {
            None => Data::temporary(list_id(&members_of(&addrs)))?,
            Some(path) => Data::named(path, size, list_id(&members_of(&addrs)))?,
        };
        let network = Arc::new(Network::new(&addrs)?);
        data.set_roster(roster);
        let parts = Arc::new(Parts { options, slots, network, data });
        let cluster = Cluster { _attendant: Attendant::start(Arc::clone(&parts))?, parts };
        cluster.start_all()?;
        cluster.first_leader()?;
        cluster.parts.data.keep();
        Ok(cluster)
    }

    /// Starts all members at the same time. All listen before the first one starts, so that none
    /// finds another one away. The data is locked, so no leader of an earlier cluster runs.
    fn start_all(&self) -> Result<(), ClusterError> {
        let members = self.parts.slots.members().into_iter();
        let listening = members.map(|(id, slot)| Ok((id, slot.with_port(Port::listen)?)));
        let listening = listening.collect::<io::Result<Vec<_>>>()?;
        thread::scope(|scope| {
            let start = |(id, listener): (MemberId, TcpListener)| {
                let start = move || {
                    let member = self.parts.start_member(id, listener, false)?;
                    *self.slot(id).member.lock() = Some(member);
                    Ok(())
                };
                thread::Builder::new().name(format!("start-{id}")).spawn_scoped(scope, start)
            };
            let starting = listening.into_iter().map(start).collect::<io::Result<Vec<_>>>()?;
            starting
                .into_iter()
                .try_for_each(|thread| thread.join().expect("a start does not panic"))
        })
    }

    /// Waits until one leads and all vote. As soon as all vote, one of them, drawn at random,
    /// stands for election: all know that there is no leader to wait for.
    fn first_leader(&self) -> Result<MemberId, ClusterError> {
        let ids = self.ids();
        let candidate = ids[fastrand::usize(..ids.len())];
        self.wait_for(|| {
            if self.statuses().iter().any(|status| status.is_joining) {
                return None;
            }
            let leader = self.leader_now();
            if leader.is_none()
                && let Some(member) = &*self.slot(candidate).member.lock()
            {
                member.node().campaign();
            }
            leader
        })
    }

    /// All members, with their addresses.
    pub fn members(&self) -> Members {
        members_of(&addrs_of(&self.parts.slots.members()))
    }

    /// The ids of all members, whether they run or not.
    pub fn ids(&self) -> Vec<MemberId> {
        self.parts.slots.members().into_iter().map(|(id, _)| id).collect()
    }

    /// The address at which clients and members reach a member.
    ///
    /// # Panics
    /// If there is no such member.
    pub fn addr(&self, id: impl Into<MemberId>) -> SocketAddr {
        self.slot(id.into()).addr()
    }

    /// The address at which a member serves HTTP while it runs, if it does
    /// ([`Options::http_port`]).
    ///
    /// # Panics
    /// If there is no such member.
    pub fn http_addr(&self, id: impl Into<MemberId>) -> Option<SocketAddr> {
        self.slot(id.into()).http.as_ref().map(Port::addr)
    }

    /// The address at which a member serves etcd's clients while it runs, if it does
    /// ([`Options::etcd_port`]).
    ///
    /// # Panics
    /// If there is no such member.
    pub fn etcd_addr(&self, id: impl Into<MemberId>) -> Option<SocketAddr> {
        self.slot(id.into()).etcd.as_ref().map(Port::addr)
    }

    /// A new client of the cluster.
    pub fn clerk(&self) -> Clerk {
        let builder = Clerk::builder().members(self.members()).timeout(self.parts.options.timeout);
        builder.build().expect("a cluster's own list of members is in order")
    }

    /// A client that asks only this member, whatever hints it gets, so that a test learns what the
    /// member says. While the member does not lead, the client's calls fail when their time is up
    /// ([`Options::timeout`]).
    ///
    /// # Panics
    /// If there is no such member.
    pub fn clerk_of(&self, id: impl Into<MemberId>) -> Clerk {
        let addr = self.slot(id.into()).addr();
        let builder = Clerk::builder().members([addr]).timeout(self.parts.options.timeout);
        builder.only_these().build().expect("a port's address is in order")
    }

    /// The leader. Waits up to [`Options::leader_timeout`] for one that a majority follows: it
    /// runs, it is not paused, and it and its followers hear each other.
    ///
    /// # Errors
    /// [`ClusterError::NoLeader`].
    pub fn leader(&self) -> Result<MemberId, ClusterError> {
        self.wait_for(|| self.leader_now())
    }

    fn wait_for(&self, leader: impl Fn() -> Option<MemberId>) -> Result<MemberId, ClusterError> {
        let waited = self.parts.options.leader_timeout;
        let deadline = Instant::now() + waited;
        loop {
            if let Some(leader) = leader() {
                return Ok(leader);
            }
            if Instant::now() >= deadline {
                return Err(ClusterError::NoLeader { waited, statuses: self.statuses() });
            }
            thread::sleep(POLL_PAUSE);
        }
    }

    /// The status of a member, unless it is down.
    pub fn status(&self, id: impl Into<MemberId>) -> Option<Status> {
        self.slot(id.into()).member.lock().as_ref().map(|member| member.node().status())
    }

    /// Why a member has stopped serving by itself, if it has: see [`Member::failure`].
    pub fn failure(&self, id: impl Into<MemberId>) -> Option<NodeFailure> {
        self.slot(id.into()).member.lock().as_ref()?.failure()
    }

    /// Whether a member is [paused](Cluster::pause).
    pub fn is_paused(&self, id: impl Into<MemberId>) -> bool {
        self.parts.network.faults.is_paused(id.into())
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
        self.try_kill(id.into());
    }

    /// Stops a member in an orderly way. A paused member wakes for it. Does nothing if it is down.
    pub fn stop(&self, id: impl Into<MemberId>) {
        self.try_stop(id.into());
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
        let slot = self.slot(id);
        let _down = slot.member.lock();
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
        self.try_pause(id.into());
    }

    /// Lets a paused member go on exactly where it stopped, with everything that it believed then.
    /// Does nothing if it is not paused.
    pub fn resume(&self, id: impl Into<MemberId>) {
        self.try_resume(id.into());
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
        self.parts.network.faults.cut([(from, to)]);
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
                self.parts.network.faults.swallow(a, b);
            }
        }
    }

    /// Undoes all cuts. What was sent in the meantime arrives now, as TCP would send it again.
    pub fn heal(&self) {
        self.parts.network.faults.heal();
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
        self.parts.network.faults.set_delay(delay.into().0);
    }

    /// Loses this share, from 0.0 to 1.0, of the chunks that members send each other, each with its
    /// connection. This is how a program sees a network that loses packets for longer than TCP
    /// keeps trying. Members connect again. Requests and answers on their way are lost.
    ///
    /// # Panics
    /// If `rate` is not between 0 and 1.
    pub fn drop_rate(&self, rate: f64) {
        assert!((0.0..=1.0).contains(&rate), "{rate} is not a share");
        self.parts.network.faults.set_drop_rate(rate);
    }

    /// Starts a member that is down, with the data that it has. Does nothing if it runs.
    ///
    /// # Errors
    /// [`ClusterError::Start`].
    pub fn restart(&self, id: impl Into<MemberId>) -> Result<(), ClusterError> {
        self.try_restart(id.into()).map(drop)
    }

    /// Returns whether it ran.
    pub(super) fn try_kill(&self, id: MemberId) -> bool {
        self.take_down(id, Member::kill)
    }

    /// Returns whether it ran.
    pub(super) fn try_stop(&self, id: MemberId) -> bool {
        self.take_down(id, Member::stop)
    }

    /// Returns whether it ran and was not paused.
    pub(super) fn try_pause(&self, id: MemberId) -> bool {
        let slot = self.slot(id);
        let member = slot.member.lock();
        member.as_ref().is_some_and(|member| {
            let is_new = self.parts.network.faults.pause(id);
            member.pause();
            is_new
        })
    }

    /// Returns whether it was paused.
    pub(super) fn try_resume(&self, id: MemberId) -> bool {
        let slot = self.slot(id);
        let member = slot.member.lock();
        member.as_ref().is_some_and(|member| {
            let was_paused = self.parts.network.faults.resume(id);
            member.resume();
            was_paused
        })
    }

    /// Returns whether it was down.
    pub(super) fn try_restart(&self, id: MemberId) -> Result<bool, ClusterError> {
        let slot = self.slot(id);
        let mut member = slot.member.lock();
        if member.is_some() {
            return Ok(false);
        }
        *member = Some(self.parts.start_member(id, slot.with_port(Port::listen)?, true)?);
        Ok(true)
    }

    /// The data directory of a member. While the member is down, a test may look at the data or
    /// damage it.
    pub fn data_dir(&self, id: impl Into<MemberId>) -> PathBuf {
        self.parts.data.of(id.into())
    }

    pub(super) fn leader_timeout(&self) -> Duration {
        self.parts.options.leader_timeout
    }

    pub(super) fn faults(&self) -> &Faults {
        &self.parts.network.faults
    }

    pub(super) fn take_down(&self, id: MemberId, end: impl FnOnce(Member)) -> bool {
        let slot = self.slot(id);
        let mut member = slot.member.lock();
        let ran = member.take().map(end).is_some();
        self.parts.network.faults.resume(id);
        ran
    }

    /// The member that a majority follows in the latest term.
    pub(super) fn leader_now(&self) -> Option<MemberId> {
        let faults = &self.parts.network.faults;
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
        self.membership_at(leader.id).is_quorum(following).then_some(leader.id)
    }

    fn statuses(&self) -> Vec<Status> {
        self.ids().into_iter().filter_map(|id| self.status(id)).collect()
    }

    /// Who votes, as this member knows.
    fn membership_at(&self, id: MemberId) -> Membership {
        let slot = self.slot(id);
        let member = slot.member.lock();
        let latest = member.as_ref().and_then(|member| member.node().members().latest);
        latest.map_or_else(|| self.members().membership(), |latest| latest.membership.clone())
    }

    pub(super) fn slot(&self, id: MemberId) -> Arc<Slot> {
        self.parts.slots.get(id)
    }
}
