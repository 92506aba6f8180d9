//! [`StoreService`]: the service `storeRpc`, in front of an [`Api`].
//!
//! - *it was done, or read*: `answer`; for a repeat whose answer is gone, `forgotten`
//! - *the store refuses it*: `refusal`: this copy changed nothing. See [`ApiError::Refused`]
//! - *the request makes no sense, or is over a limit*: status "bad arguments", in words that name
//!   the offending value; nothing was done
//! - *the member has too much to do, hands over, or its disk is full*: status "busy", with a time
//!   to come back
//! - *another member leads, the time ran out, the leadership was lost*: `not_served`, with the
//!   leader if it is known, and whether a write may still take effect

use std::sync::Arc;

use super::answered::{changed, consistency, identity, refuse, refuse_txn, reply_of_txn};
use super::checked::Checked;
use super::refused::{Refused, bad_arguments, leader};
use super::{age_ms, deadline, lease, scan, watch};
use crate::kv::api::{Api, Read};
use crate::kv::model::proto::{
    self, CompactRequest, LeaseGrantReply, LeaseGrantRequest, LeaseInfoReply, LeaseInfoRequest,
    LeaseKeepAliveReply, LeaseKeepAliveRequest, LeaseRevokeRequest, LeasesReply, LeasesRequest,
    LimitsRequest, MemberAddr, MembersReply, MembersRequest, RangeReply, RangeRequest, ScanReply,
    ScanRequest, StatsReply, StatsRequest, StoreRpc, TxnReply, TxnRequest, WatchReply,
    WatchRequest, range_reply, stats_reply,
};
use crate::kv::model::{Range, Revision, Txn, WireError};
use crate::kv::{LimitsChange, Stats};
use crate::raft::MemberId;
use crate::rpc::{Done, Incoming, Outgoing, Service, Status};

/// `storeRpc` of one member.
pub struct StoreService {
    api: Api,
    encoded: Arc<watch::Encoded>,
}

impl StoreService {
    /// Serves this store.
    pub fn new(api: Api) -> StoreService {
        StoreService { api, encoded: Arc::default() }
    }

    /// The service that a server publishes.
    pub fn published(self) -> impl Service {
        Checked(self.into_service())
    }

    fn leader_elsewhere(&self) -> Option<proto::Leader> {
        leader(&self.api, self.api.leader_elsewhere())
    }
}

impl StoreRpc for StoreService {
    /// Brings the requests that have arrived together to the core together.
    fn after_calls(&self, _method: &str) {
        self.api.run_pending();
    }

    fn range(&self, args: RangeRequest, done: Done<RangeReply>) {
        let range = match args.range.ok_or(missing("range")).and_then(Range::try_from) {
            Ok(range) => range,
            Err(error) => return done.fail(bad_arguments(&error)),
        };
        let (api, leader) = (self.api.clone(), self.leader_elsewhere());
        let (consistency, deadline) = (consistency(args.staleness), deadline(&done));
        self.api.queue_range(range, consistency, deadline, move |result| match result {
            Ok(Read { answer: (revision, range), age_max }) => done.run(RangeReply {
                result: Some(range_reply::Result::Answer(range.into())),
                revision: revision.0,
                age_ms: age_max.map(age_ms),
                leader,
            }),
            Err(error) => refuse(&api, &error, done, |refused| {
                let result = match refused {
                    Refused::Refusal(refusal, _) => range_reply::Result::Refusal(refusal),
                    Refused::NotServed(it) => range_reply::Result::NotServed(it),
                };
                RangeReply { result: Some(result), ..RangeReply::default() }
            }),
        });
    }

    fn txn(&self, args: TxnRequest, done: Done<TxnReply>) {
        let txn = match args.txn.ok_or(missing("txn")).and_then(Txn::try_from) {
            Ok(txn) => txn,
            Err(error) => return done.fail(bad_arguments(&error)),
        };
        let leader = if txn.is_read() { self.leader_elsewhere() } else { None };
        let (api, identity) = (self.api.clone(), identity(args.identity));
        let (consistency, deadline) = (consistency(args.staleness), deadline(&done));
        self.api.queue_txn(identity, txn, consistency, deadline, move |result| match result {
            Ok(txn_done) => done.run(TxnReply { leader, ..reply_of_txn(txn_done) }),
            Err(error) => refuse_txn(&api, &error, done),
        });
    }

    fn compact(&self, args: CompactRequest, done: Done<TxnReply>) {
        let (deadline, api) = (deadline(&done), self.api.clone());
        let (identity, revision) = (identity(args.identity), Revision(args.revision));
        self.api.compact(identity, revision, deadline, move |result| changed(&api, result, done));
    }

    fn set_limits(&self, args: LimitsRequest, done: Done<TxnReply>) {
        let (deadline, api) = (deadline(&done), self.api.clone());
        let LimitsRequest { identity: it, bytes_max, keys_max, history_bytes_max, leases_max } =
            args;
        let change = LimitsChange { bytes_max, keys_max, history_bytes_max, leases_max };
        self.api.set_limits(identity(it), change, deadline, move |result| {
            changed(&api, result, done);
        });
    }

    fn stats(&self, args: StatsRequest, done: Done<StatsReply>) {
        let (deadline, api) = (deadline(&done), self.api.clone());
        let leader = self.leader_elsewhere();
        self.api.stats(consistency(args.staleness), deadline, move |result| match result {
            Ok(Read { answer, age_max }) => done.run(StatsReply {
                result: Some(stats_reply::Result::Stats(stats(answer))),
                age_ms: age_max.map(age_ms),
                leader,
            }),
            Err(error) => refuse(&api, &error, done, |refused| StatsReply {
                result: match refused {
                    Refused::NotServed(it) => Some(stats_reply::Result::NotServed(it)),
                    Refused::Refusal(..) => None,
                },
                ..StatsReply::default()
            }),
        });
    }

    fn scan(&self, args: ScanRequest, replies: Outgoing<ScanReply>) {
        scan::scan(&self.api, self.leader_elsewhere(), args, replies);
    }

    fn watch(&self, requests: Incoming<WatchRequest, Status>, replies: Outgoing<WatchReply>) {
        watch::watch(&self.api, &self.encoded, requests, replies);
    }

    fn lease_grant(&self, args: LeaseGrantRequest, done: Done<LeaseGrantReply>) {
        lease::grant(&self.api, args, done);
    }

    fn lease_revoke(&self, args: LeaseRevokeRequest, done: Done<TxnReply>) {
        lease::revoke(&self.api, args, done);
    }

    fn lease_keep_alive(&self, args: LeaseKeepAliveRequest, done: Done<LeaseKeepAliveReply>) {
        lease::keep_alive(&self.api, args, done);
    }

    fn lease_info(&self, args: LeaseInfoRequest, done: Done<LeaseInfoReply>) {
        lease::info(&self.api, args, done);
    }

    fn leases(&self, args: LeasesRequest, done: Done<LeasesReply>) {
        lease::list(&self.api, args, done);
    }

    fn members(&self, MembersRequest {}: MembersRequest, done: Done<MembersReply>) {
        let (members, index) = self.api.members_at();
        let member = |(id, addr): (MemberId, &str)| MemberAddr { id: id.0, addr: addr.to_owned() };
        done.run(MembersReply {
            members: members.iter().map(member).collect(),
            id: self.api.status().id.0,
            cluster_id: self.api.cluster_id(),
            index: index.0,
        });
    }
}

fn missing(part: &'static str) -> WireError {
    WireError::Missing { of: "a request", part }
}

fn stats(stats: Stats) -> proto::Stats {
    proto::Stats {
        keys: stats.keys as u64,
        bytes: stats.bytes,
        sessions: stats.sessions as u64,
        revision: stats.revision.0,
        compacted: stats.compacted.0,
        history_bytes: stats.history_bytes,
        bytes_max: stats.limits.bytes_max,
        keys_max: stats.limits.keys_max,
        history_bytes_max: stats.limits.history_bytes_max,
        leases: stats.leases as u64,
        keys_with_ttl: stats.keys_with_ttl as u64,
        time_ms: stats.time_ms,
        leases_max: stats.limits.leases_max,
    }
}
