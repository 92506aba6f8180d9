//! What a client may ask of the store as a whole: compaction, limits, statistics.

use super::error::{ClerkError, Operation};
use super::{Clerk, replies};
use crate::kv::model::Revision;
use crate::kv::model::proto::{self, CompactRequest, LimitsRequest, StatsRequest};
use crate::kv::{Limits, LimitsChange};

/// How much a store holds, and may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stats {
    /// Keys.
    pub keys: u64,
    /// The length of all keys and values together.
    pub bytes: u64,
    /// Clients whose sessions are remembered.
    pub sessions: u64,
    /// The store's revision.
    pub revision: Revision,
    /// The oldest revision that can be read.
    pub compacted: Revision,
    /// What the history costs: see [`Limits::history_bytes_max`].
    pub history_bytes: u64,
    /// Leases with an id.
    pub leases: u64,
    /// Keys that have a lease of their own.
    pub keys_with_ttl: u64,
    /// The cluster's time, in milliseconds, as of the last entry that carried it. It stands still
    /// while there is no lease.
    pub time_ms: u64,
    /// What the store may hold.
    pub limits: Limits,
}

impl From<proto::Stats> for Stats {
    fn from(stats: proto::Stats) -> Stats {
        Stats {
            keys: stats.keys,
            bytes: stats.bytes,
            sessions: stats.sessions,
            revision: Revision(stats.revision),
            compacted: Revision(stats.compacted),
            history_bytes: stats.history_bytes,
            leases: stats.leases,
            keys_with_ttl: stats.keys_with_ttl,
            time_ms: stats.time_ms,
            limits: Limits {
                bytes_max: stats.bytes_max,
                keys_max: stats.keys_max,
                history_bytes_max: stats.history_bytes_max,
                leases_max: stats.leases_max,
            },
        }
    }
}

impl Clerk {
    /// Forgets what the store was like before `revision`, which can still be read afterwards. The
    /// store also forgets by itself, oldest revisions first, when its history is over its
    /// [limit](Limits::history_bytes_max).
    ///
    /// ```
    /// use syncraft::kv::model::Reason;
    /// # let cluster = syncraft::testing::Cluster::start(1)?;
    /// # let clerk = cluster.clerk();
    /// clerk.put("motd", "hello")?;
    /// let old = clerk.get_entry("motd")?.expect("it was put").mod_revision;
    /// clerk.put("motd", "good morning")?;
    /// clerk.compact(old.next())?;
    /// let error = clerk.get_at("motd", old).expect_err("it was forgotten");
    /// assert_eq!(error.refusal().map(|it| it.reason), Some(Reason::Compacted));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`ClerkError::kind`] says whether it happened. The store refuses a revision that is
    /// forgotten already, or has not come yet ([`ClerkError::refusal`]).
    pub fn compact(&self, revision: Revision) -> Result<(), ClerkError> {
        let call = self.call(Operation::write("compact"), 0);
        let args = CompactRequest { identity: None, revision: revision.0 };
        let stamp = |args: &mut CompactRequest, identity| args.identity = Some(wire(identity));
        self.write(call, args, stamp, |member, args, deadline| {
            member.store().compact(args, deadline).map(replies::txn)
        })?;
        Ok(())
    }

    /// Changes what the store may hold. Limits that are `None` stay as they are.
    ///
    /// ```
    /// use syncraft::kv::LimitsChange;
    /// # let cluster = syncraft::testing::Cluster::start(1)?;
    /// # let clerk = cluster.clerk();
    /// clerk.set_limits(LimitsChange { keys_max: Some(1), ..LimitsChange::default() })?;
    /// clerk.put("one", "1")?;
    /// let error = clerk.put("two", "2").expect_err("there is room for one key");
    /// assert!(error.is_retryable(), "there may be space later");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`ClerkError::kind`] says whether it happened. The store refuses a limit that is out of its
    /// bounds ([`ClerkError::refusal`]).
    pub fn set_limits(&self, change: LimitsChange) -> Result<(), ClerkError> {
        let call = self.call(Operation::write("change of limits"), 0);
        let LimitsChange { bytes_max, keys_max, history_bytes_max, leases_max } = change;
        let identity = None;
        let args = LimitsRequest { identity, bytes_max, keys_max, history_bytes_max, leases_max };
        let stamp = |args: &mut LimitsRequest, identity| args.identity = Some(wire(identity));
        self.write(call, args, stamp, |member, args, deadline| {
            member.store().set_limits(args, deadline).map(replies::txn)
        })?;
        Ok(())
    }

    /// How much the store holds, and may hold. Linearizable, as [`get`](Clerk::get).
    ///
    /// ```
    /// # let cluster = syncraft::testing::Cluster::start(1)?;
    /// # let clerk = cluster.clerk();
    /// clerk.put("k", "value")?;
    /// let stats = clerk.stats()?;
    /// assert_eq!((stats.keys, stats.bytes, stats.revision.0), (1, 6, 2));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// No member answered in time.
    pub fn stats(&self) -> Result<Stats, ClerkError> {
        let mut call = self.call(Operation::read("stats"), 0);
        let args = StatsRequest { staleness: None };
        let stats = self.read(&mut call, |member, deadline| {
            let mut reply = member.store().stats(&args, deadline)?;
            let leader = reply.leader.take();
            Ok((replies::stats(reply), leader))
        })?;
        Ok(stats.into())
    }
}

pub(super) fn wire(identity: crate::kv::Identity) -> proto::Identity {
    let crate::kv::Identity { client_id, request_id, seen_index } = identity;
    proto::Identity { client_id, request_id, seen_index: seen_index.0 }
}
