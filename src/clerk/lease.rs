//! Leases: keys that end with whoever wrote them.
//!
//! [`Clerk::lease`] grants one and keeps it alive: see [`Lease`]. The other calls do one thing
//! each, for those who keep leases alive by themselves.

mod held;
mod keeper;

use std::time::Duration;

use super::Clerk;
use super::error::{ClerkError, Operation, Reason};
use super::replies;
use super::session::refused;
use super::settings::wire;
use crate::clock;
use crate::kv::model::proto::{
    LeaseGrantRequest, LeaseInfoRequest, LeaseKeepAliveRequest, LeaseRevokeRequest, LeasesRequest,
};
use crate::kv::model::{self, Action, LeaseId, LeaseInfo, NewLease, Txn};
use crate::kv::{LEASES_PER_REQUEST_MAX, check_grant};

pub use held::Lease;
pub(super) use keeper::Keeper;

impl Clerk {
    /// Grants a lease and keeps it alive until the [`Lease`] is dropped.
    ///
    /// ```
    /// use std::time::Duration;
    /// # let cluster = syncraft::testing::Cluster::start(1)?;
    /// # let clerk = cluster.clerk();
    /// let lease = clerk.lease(Duration::from_secs(10))?;
    /// clerk.put_with("workers/7", "busy", lease.id())?;
    /// assert!(lease.is_held());
    /// lease.revoke()?; // deletes the key
    /// assert_eq!(clerk.get("workers/7")?, None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`ClerkError::kind`] says whether there is a lease. One that nobody knows of ends by itself.
    pub fn lease(&self, ttl: Duration) -> Result<Lease, ClerkError> {
        // Before the first attempt is sent.
        let asked = clock::boot_time();
        let granted = self.grant_lease(ttl, None)?;
        Ok(Lease::keep(self, granted.id, granted.ttl(), asked))
    }

    /// Grants a lease of whole milliseconds, from one millisecond to 9,000,000,000 seconds. Without
    /// an `id`, the store chooses one. Nobody keeps it alive: see [`lease`](Clerk::lease).
    ///
    /// ```
    /// use std::time::Duration;
    /// use syncraft::kv::model::LeaseId;
    /// # let cluster = syncraft::testing::Cluster::start(1)?;
    /// # let clerk = cluster.clerk();
    /// let lease = clerk.grant_lease(Duration::from_secs(60), Some(LeaseId(7)))?;
    /// assert_eq!((lease.id, lease.ttl()), (LeaseId(7), Duration::from_secs(60)));
    /// assert!(clerk.grant_lease(Duration::from_secs(60), Some(LeaseId(7))).is_err(), "it is taken");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`ClerkError::kind`] says whether there is a lease. The store refuses an id that is in use,
    /// and one lease too many ([`ClerkError::refusal`]).
    pub fn grant_lease(&self, ttl: Duration, id: Option<LeaseId>) -> Result<LeaseInfo, ClerkError> {
        let mut call = self.call(Operation::write("lease grant"), 0);
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        let id = id.unwrap_or(LeaseId::NONE);
        if let Err(error) = check_grant(ttl_ms, id) {
            return Err(call.reject(Reason::Limit(error)));
        }
        let args = LeaseGrantRequest { identity: None, ttl_ms, id: id.0 };
        let stamp = |args: &mut LeaseGrantRequest, identity| args.identity = Some(wire(identity));
        self.write(call, args, stamp, |member, args, deadline| {
            member.store().lease_grant(args, deadline).map(replies::granted)
        })
    }

    /// Ends a lease and deletes its keys.
    ///
    /// # Errors
    /// [`ClerkError::kind`] says whether it happened. The store refuses a lease that is not there
    /// ([`ClerkError::refusal`]).
    pub fn revoke_lease(&self, id: LeaseId) -> Result<(), ClerkError> {
        let call = self.call(Operation::write("lease revocation"), 0);
        let args = LeaseRevokeRequest { identity: None, id: id.0 };
        let stamp = |args: &mut LeaseRevokeRequest, identity| args.identity = Some(wire(identity));
        self.write(call, args, stamp, |member, args, deadline| {
            member.store().lease_revoke(args, deadline).map(replies::txn)
        })?;
        Ok(())
    }

    /// Keeps leases alive: each lives for its whole time from now on. Returns how long that is, one
    /// for each lease; `None`: there is no such lease.
    ///
    /// ```
    /// use std::time::Duration;
    /// use syncraft::kv::model::LeaseId;
    /// # let cluster = syncraft::testing::Cluster::start(1)?;
    /// # let clerk = cluster.clerk();
    /// let lease = clerk.grant_lease(Duration::from_secs(60), None)?;
    /// let kept = clerk.keep_alive(&[lease.id, LeaseId(99)])?;
    /// assert_eq!(kept, [Some(Duration::from_secs(60)), None]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// No member answered in time. More than 10,000 leases take several calls to members, of which
    /// the first may have succeeded.
    pub fn keep_alive(&self, ids: &[LeaseId]) -> Result<Vec<Option<Duration>>, ClerkError> {
        let mut kept = Vec::with_capacity(ids.len());
        for ids in ids.chunks(LEASES_PER_REQUEST_MAX) {
            let mut call = self.call(Operation::write("keep-alive"), 8 * ids.len());
            let args = LeaseKeepAliveRequest { ids: ids.iter().map(|id| id.0).collect() };
            kept.extend(call.run(|member, deadline| {
                let reply = member.store().lease_keep_alive(&args, deadline)?;
                Ok(replies::kept_alive(reply, ids.len()))
            })?);
        }
        Ok(kept)
    }

    /// What is known of a lease, and its keys. `None`: there is no such lease. Linearizable, as
    /// [`get`](Clerk::get).
    ///
    /// ```
    /// use std::time::Duration;
    /// # let cluster = syncraft::testing::Cluster::start(1)?;
    /// # let clerk = cluster.clerk();
    /// let lease = clerk.grant_lease(Duration::from_secs(60), None)?;
    /// clerk.put_with("k", "v", lease.id)?;
    /// let info = clerk.lease_info(lease.id)?.expect("it was granted");
    /// assert!(info.left() <= info.ttl());
    /// assert_eq!(info.keys, ["k"]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// No member answered in time, or the keys take more than 8 MiB ([`ClerkError::refusal`]).
    pub fn lease_info(&self, id: LeaseId) -> Result<Option<LeaseInfo>, ClerkError> {
        let mut call = self.call(Operation::read("lease info"), 0);
        let args = LeaseInfoRequest { id: id.0, keys: true, staleness: None };
        let found = self.read(&mut call, |member, deadline| {
            let mut reply = member.store().lease_info(&args, deadline)?;
            let leader = reply.leader.take();
            Ok((replies::lease_info(reply), leader))
        })?;
        match found {
            Ok(lease) => Ok(Some(lease)),
            Err(refusal) if refusal.reason == model::Reason::NoSuchLease => Ok(None),
            Err(refusal) => Err(refused(&mut call, Reason::Refused(refusal))),
        }
    }

    /// All leases, in the order of their ids, without their keys. More than 10,000 of them take
    /// several reads, between which some may come or go.
    ///
    /// # Errors
    /// No member answered in time.
    pub fn leases(&self) -> Result<Vec<LeaseInfo>, ClerkError> {
        let mut leases: Vec<LeaseInfo> = Vec::new();
        loop {
            let mut call = self.call(Operation::read("list of leases"), 0);
            let after = leases.last().map_or(0, |lease| lease.id.0);
            let args = LeasesRequest { after, staleness: None };
            let (page, more) = self.read(&mut call, |member, deadline| {
                let mut reply = member.store().leases(&args, deadline)?;
                let leader = reply.leader.take();
                Ok((replies::leases(reply, LeaseId(after)), leader))
            })?;
            leases.extend(page);
            if !more {
                return Ok(leases);
            }
        }
    }

    /// Sets `key` to `value` with a lease: that of an id ([`LeaseId`]), or one of the key's own
    /// ([`NewLease::ttl`]), which nobody can keep alive and which the key's next put ends.
    ///
    /// ```
    /// use std::time::Duration;
    /// use syncraft::kv::model::NewLease;
    /// # let cluster = syncraft::testing::Cluster::start(1)?;
    /// # let clerk = cluster.clerk();
    /// clerk.put_with("session/7", "ann", NewLease::ttl(Duration::from_secs(600)))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`ClerkError::kind`] says whether the write happened. The store refuses a lease that is not
    /// there ([`ClerkError::refusal`]).
    pub fn put_with(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        lease: impl Into<NewLease>,
    ) -> Result<(), ClerkError> {
        let (key, value) = (key.as_ref().to_vec(), value.as_ref().to_vec());
        let put = Action::put_with(key, value, lease);
        self.run_write(Operation::write("put"), &Txn { then: vec![put.into()], ..Txn::default() })?;
        Ok(())
    }
}
