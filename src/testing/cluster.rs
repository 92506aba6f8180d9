//! [`Cluster`].

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tempfile::TempDir;

use super::port::Port;
use crate::clerk::Clerk;
use crate::members::Members;
use crate::node::{NodeConfig, Timing};
use crate::raft::{MemberId, RoleName, Status};
use crate::server::{Config, Member, StartError};

/// How long [`Cluster::leader`] waits.
const LEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Between looks at what is being waited for.
const POLL_PAUSE: Duration = Duration::from_millis(2);

/// A cluster in this process. All methods take `&self`: tests may kill members from one thread while others read and write.
/// Dropping it stops all members and removes their data.
#[derive(Debug)]
pub struct Cluster {
    members: Members,
    options: Options,
    slots: BTreeMap<MemberId, Slot>,
    dir: TempDir,
}

/// What a cluster may be told.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    /// Heartbeats and elections of all members.
    pub timing: Timing,
    /// A member takes a snapshot when its log holds so many bytes behind the last one; default 64 MiB.
    pub snapshot_log_bytes: u64,
    /// How long each call of a clerk may take; default 10 s.
    pub timeout: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            timing: Timing::default(),
            snapshot_log_bytes: NodeConfig::SNAPSHOT_LOG_BYTES,
            timeout: Duration::from_secs(10),
        }
    }
}

#[derive(Debug)]
struct Slot {
    port: Port,
    /// None while it is down.
    member: Mutex<Option<Member>>,
}

/// Why a cluster does not do as it is told.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClusterError {
    /// The system gives no port or no directory.
    #[error("cannot set up the cluster: {0}")]
    Setup(#[from] io::Error),
    /// A member does not start.
    #[error("member {id} does not start: {source}")]
    Start {
        /// Which one.
        id: MemberId,
        /// Why.
        #[source]
        source: StartError,
    },
    /// Nobody leads.
    #[error("no leader within {waited:?}; the members that run say: {statuses:?}")]
    NoLeader {
        /// How long was waited.
        waited: Duration,
        /// Where the members stand.
        statuses: Vec<Status>,
    },
}

impl Cluster {
    /// Starts `size` members, with ids from 1, and waits until one leads.
    ///
    /// # Errors
    /// [`ClusterError`].
    ///
    /// # Panics
    /// If `size` is 0 or more than a cluster can have.
    pub fn start(size: usize) -> Result<Cluster, ClusterError> {
        Cluster::start_with(size, Options::default())
    }

    /// As [`start`](Cluster::start), with other options than the default.
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
        let cluster = Cluster { members, options, slots, dir: TempDir::with_prefix("syncraft-")? };
        for id in cluster.ids() {
            cluster.restart(id)?;
        }
        cluster.leader()?;
        Ok(cluster)
    }

    /// All members, with their addresses.
    pub fn members(&self) -> &Members {
        &self.members
    }

    /// All ids, of members that run or not.
    pub fn ids(&self) -> Vec<MemberId> {
        self.slots.keys().copied().collect()
    }

    /// A new client of the cluster.
    pub fn clerk(&self) -> Clerk {
        let builder = Clerk::builder().members(&self.members).timeout(self.options.timeout);
        builder.build().expect("a cluster's own list of members is in order")
    }

    /// The leader, waiting up to ten seconds for there to be one that a majority of the members that run follow.
    ///
    /// # Errors
    /// [`ClusterError::NoLeader`].
    pub fn leader(&self) -> Result<MemberId, ClusterError> {
        let deadline = Instant::now() + LEADER_TIMEOUT;
        loop {
            if let Some(leader) = self.leader_now() {
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

    /// Where a member stands, unless it is down.
    pub fn status(&self, id: impl Into<MemberId>) -> Option<Status> {
        self.slot(id.into()).member.lock().as_ref().map(|member| member.node().status())
    }

    /// Ends a member as a crash would: its sockets close, and what it had not written is lost. Nothing if it is down.
    pub fn kill(&self, id: impl Into<MemberId>) {
        if let Some(member) = self.slot(id.into()).member.lock().take() {
            member.kill();
        }
    }

    /// Stops a member in good order. Nothing if it is down.
    pub fn stop(&self, id: impl Into<MemberId>) {
        if let Some(member) = self.slot(id.into()).member.lock().take() {
            member.stop();
        }
    }

    /// Starts a member that is down, with the data that it has. Nothing if it runs.
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
                ..Config::new(id, self.members.clone(), self.data_dir(id))
            };
            let started = Member::start_on(slot.port.listen()?, config);
            *member = Some(started.map_err(|source| ClusterError::Start { id, source })?);
        }
        Ok(())
    }

    /// Where a member keeps its data: to be looked at, or damaged, while it is down.
    pub fn data_dir(&self, id: impl Into<MemberId>) -> PathBuf {
        self.dir.path().join(id.into().to_string())
    }

    /// The member that a majority follows in the latest term.
    fn leader_now(&self) -> Option<MemberId> {
        let statuses = self.statuses();
        let leader = statuses
            .iter()
            .filter(|status| status.role.role == RoleName::Leader)
            .max_by_key(|status| status.role.term)?;
        let follows = |status: &&Status| {
            status.role.term == leader.role.term && status.role.leader == Some(leader.id)
        };
        (statuses.iter().filter(follows).count() >= self.members.quorum()).then_some(leader.id)
    }

    fn statuses(&self) -> Vec<Status> {
        self.ids().into_iter().filter_map(|id| self.status(id)).collect()
    }

    fn slot(&self, id: MemberId) -> &Slot {
        self.slots.get(&id).unwrap_or_else(|| panic!("there is no member {id} in this cluster"))
    }
}
