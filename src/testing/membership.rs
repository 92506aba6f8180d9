//! Members that come, go and move, on the way that users take: a newcomer is started, and the
//! leader is asked over `adminRpc`.

use std::fs;
use std::thread;
use std::time::Instant;

use super::cluster::{Cluster, ClusterError, POLL_PAUSE};
use super::parts::addrs_of;
use super::port::Port;
use super::slots::{Place, Slot};
use crate::raft::{Configuration, MemberId};
use crate::server::Member;
use crate::server::admin_client::{AdminClient, AdminError, MemberChange};
use crate::server::proto::{AddMemberArgs, PromoteMemberArgs, RemoveMemberArgs};

impl Cluster {
    /// Starts another member, adds it, and returns its id when it votes. It gets an id that no
    /// member ever had, and free ports. It hears the others through the same network as they do,
    /// faults included.
    ///
    /// ```
    /// # use syncraft::testing::Cluster;
    /// let cluster = Cluster::start(1)?;
    /// let clerk = cluster.clerk();
    /// clerk.put("k", "v")?;
    /// let newcomer = cluster.add_member()?;
    /// assert_eq!(newcomer.0, 2);
    ///
    /// cluster.remove_member(1)?;              // the only one that the clerk knew at first
    /// assert_eq!(clerk.get("k")?.as_deref(), Some(&b"v"[..]));
    /// assert_eq!(cluster.ids(), [newcomer]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`ClusterError::Setup`], [`ClusterError::Start`]; [`ClusterError::Change`] if the cluster
    /// does not add it within [`Options::timeout`](super::Options::timeout), or
    /// [`ClusterError::NotSeen`]. If it was not added, it has gone again.
    pub fn add_member(&self) -> Result<MemberId, ClusterError> {
        let id = self.add_learner()?;
        self.promote_member(id)?;
        Ok(id)
    }

    /// Starts another member that learns and does not vote. It serves reads.
    ///
    /// # Errors
    /// As for [`add_member`](Cluster::add_member).
    pub fn add_learner(&self) -> Result<MemberId, ClusterError> {
        let id = self.parts.data.take_id()?;
        let slot = Slot::of_newcomer(&self.parts.options)?;
        self.parts.network.join(id, slot.addr(), &addrs_of(&self.parts.slots.all()))?;
        self.parts.slots.add(id, slot);
        if let Err(error) = self.start_and_add(id) {
            self.take_down(id, Member::kill);
            self.parts.slots.forget(id);
            // What is left of it stays in the cluster's directory, and is removed with it.
            let _ = fs::remove_dir_all(self.data_dir(id));
            return Err(error);
        }
        self.slot(id).set_place(Place::Member);
        self.parts.data.add(id)?;
        Ok(id)
    }

    fn start_and_add(&self, id: MemberId) -> Result<(), ClusterError> {
        let slot = self.slot(id);
        let member = self.parts.start_member(id, slot.with_port(Port::listen)?, false)?;
        *slot.member.lock() = Some(member);
        let args = AddMemberArgs { id: id.0, addr: slot.addr().to_string() };
        self.change(format!("add member {id}"), &args.into())
    }

    /// Makes a voter of a learner, once it has caught up, and returns when it knows that it votes.
    /// Does nothing if it votes already.
    ///
    /// ```
    /// # use syncraft::testing::Cluster;
    /// let cluster = Cluster::start(1)?;
    /// let id = cluster.add_learner()?;
    /// cluster.promote_member(id)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`ClusterError::Change`], [`ClusterError::NotSeen`].
    ///
    /// # Panics
    /// If there is no such member.
    pub fn promote_member(&self, id: impl Into<MemberId>) -> Result<(), ClusterError> {
        let id = id.into();
        // Panics if there is no such member.
        let _ = self.slot(id);
        let args = PromoteMemberArgs { id: id.0 };
        self.change(format!("promote member {id}"), &args.into())?;
        self.await_seen(id, "a voter that knows it", || {
            let votes = |it: &Configuration| it.membership.will_vote(id);
            self.status(id).is_none() || self.settled_at(id).is_some_and(|it| votes(&it))
        })
    }

    /// Removes a member for ever, whether it runs or not, and returns when the cluster has settled
    /// on it. If it runs, it goes on until it hears of it. Then it stops serving, and
    /// [`failure`](Cluster::failure) says so. It is no longer one of the
    /// [`members`](Cluster::members) but a test may go on to kill it, or start it again with its
    /// old data.
    ///
    /// ```
    /// # use syncraft::testing::Cluster;
    /// let cluster = Cluster::start(3)?;
    /// let leader = cluster.leader()?;
    /// cluster.remove_member(leader)?;
    /// assert_ne!(cluster.leader()?, leader);
    /// cluster.kill(leader);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`ClusterError::Change`], for example if no majority of the others would be left.
    ///
    /// # Panics
    /// If there is no such member.
    pub fn remove_member(&self, id: impl Into<MemberId>) -> Result<(), ClusterError> {
        let id = id.into();
        let slot = self.slot(id);
        let args = RemoveMemberArgs { id: id.0 };
        self.change(format!("remove member {id}"), &args.into())?;
        slot.set_place(Place::Left);
        Ok(self.parts.data.remove(id)?)
    }

    /// Stops a member, if it runs, starts it again at another port, and returns when it is a member
    /// there: it asks for that itself.
    ///
    /// ```
    /// # use syncraft::testing::Cluster;
    /// let cluster = Cluster::start(3)?;
    /// let before = cluster.addr(1);
    /// cluster.move_member(1)?;
    /// assert_ne!(cluster.addr(1), before);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`ClusterError::Setup`], [`ClusterError::Start`], [`ClusterError::NotSeen`].
    ///
    /// # Panics
    /// If there is no such member.
    pub fn move_member(&self, id: impl Into<MemberId>) -> Result<(), ClusterError> {
        let id = id.into();
        let slot = self.slot(id);
        self.stop(id);
        let port = Port::free()?;
        let addr = port.addr();
        self.parts.network.join(id, addr, &addrs_of(&self.parts.slots.all()))?;
        slot.move_to(port);
        self.restart(id)?;
        self.await_seen(id, "at its new address for the others", || {
            let is_there = |it: &Configuration| it.addr(id) == Some(&addr.to_string());
            let leader = self.leader_now();
            leader.and_then(|leader| self.settled_at(leader)).is_some_and(|it| is_there(&it))
        })
    }

    /// The members, as this one knows them, unless they are about to change.
    fn settled_at(&self, id: MemberId) -> Option<Configuration> {
        let slot = self.slot(id);
        let member = slot.member.lock();
        let members = member.as_ref()?.node().members();
        members.settled().map(|it| Configuration::clone(it))
    }

    fn await_seen(
        &self,
        id: MemberId,
        what: &'static str,
        is_seen: impl Fn() -> bool,
    ) -> Result<(), ClusterError> {
        let waited = self.parts.options.timeout;
        let deadline = Instant::now() + waited;
        while !is_seen() {
            if Instant::now() >= deadline {
                return Err(ClusterError::NotSeen { id, what, waited });
            }
            thread::sleep(POLL_PAUSE);
        }
        Ok(())
    }

    /// Has the leader change the members. A change whose outcome is unknown is asked for again, and
    /// so is one that must wait for the newcomer. One that is refused as things are now is asked
    /// for again at least once, and for half of the time: the cluster may have started a moment
    /// ago, and a leader may take seconds to refuse.
    fn change(&self, what: String, change: &MemberChange) -> Result<(), ClusterError> {
        let began = Instant::now();
        let timeout = self.parts.options.timeout;
        let deadline = began + timeout;
        let mut was_refused = false;
        loop {
            let source = match self.admin().change(change, deadline) {
                Ok(_) => return Ok(()),
                Err(source) => source,
            };
            let until = match source {
                AdminError::Behind { .. } | AdminError::Undecided(_) => deadline,
                AdminError::NotNow(_) if !std::mem::replace(&mut was_refused, true) => deadline,
                AdminError::NotNow(_) => began + timeout / 2,
                _ => began,
            };
            if Instant::now() >= until {
                return Err(ClusterError::Change { what, source });
            }
            thread::sleep(POLL_PAUSE);
        }
    }

    /// An operator, who reaches all members: faults are between members.
    fn admin(&self) -> AdminClient {
        AdminClient::new(
            addrs_of(&self.parts.slots.members()).iter().map(|(_, addr)| addr.to_string()),
        )
    }
}
