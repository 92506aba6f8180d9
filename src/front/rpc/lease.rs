//! The methods of `storeRpc` that are about leases.

use std::time::Duration;

use super::answered::{changed, consistency, identity, refuse};
use super::refused::{Refused, leader};
use super::{age_ms, deadline};
use crate::kv::LeasesAnswer;
use crate::kv::api::{Api, Granted, KeptAlive, Read};
use crate::kv::model::LeaseId;
use crate::kv::model::proto::{
    Lease, LeaseGrantReply, LeaseGrantRequest, LeaseInfoReply, LeaseInfoRequest,
    LeaseKeepAliveReply, LeaseKeepAliveRequest, LeaseRevokeRequest, LeasesReply, LeasesRequest,
    TxnReply, lease_grant_reply, lease_info_reply,
};
use crate::rpc::Done;

pub(super) fn grant(api: &Api, args: LeaseGrantRequest, done: Done<LeaseGrantReply>) {
    let (deadline, it) = (deadline(&done), api.clone());
    let LeaseGrantRequest { identity: who, ttl_ms, id } = args;
    api.lease_grant(identity(who), ttl_ms, LeaseId(id), deadline, move |result| match result {
        Ok(Granted { lease, index, revision }) => done.run(LeaseGrantReply {
            result: Some(lease_grant_reply::Result::Lease(lease.into())),
            revision: revision.0,
            index: index.0,
        }),
        Err(error) => refuse(&it, &error, done, |refused| {
            let (result, index) = match refused {
                Refused::Refusal(refusal, index) => {
                    (lease_grant_reply::Result::Refusal(refusal), index)
                }
                Refused::NotServed(it) => (lease_grant_reply::Result::NotServed(it), 0),
            };
            LeaseGrantReply { result: Some(result), index, ..LeaseGrantReply::default() }
        }),
    });
}

pub(super) fn revoke(api: &Api, args: LeaseRevokeRequest, done: Done<TxnReply>) {
    let (deadline, it) = (deadline(&done), api.clone());
    let LeaseRevokeRequest { identity: who, id } = args;
    api.lease_revoke(identity(who), LeaseId(id), deadline, move |result| {
        changed(&it, result, done);
    });
}

pub(super) fn keep_alive(api: &Api, args: LeaseKeepAliveRequest, done: Done<LeaseKeepAliveReply>) {
    let (deadline, it) = (deadline(&done), api.clone());
    let ids: Vec<LeaseId> = args.ids.iter().copied().map(LeaseId).collect();
    api.queue_keep_alive(ids, deadline, move |result| match result {
        Ok(KeptAlive { ttls, revision }) => done.run(LeaseKeepAliveReply {
            leases: args.ids.into_iter().zip(ttls).map(|(id, ttl)| kept(id, ttl)).collect(),
            revision: revision.0,
            not_served: None,
        }),
        Err(error) => refuse(&it, &error, done, |refused| LeaseKeepAliveReply {
            not_served: match refused {
                Refused::NotServed(it) => Some(it),
                // The store refuses no such request.
                Refused::Refusal(..) => None,
            },
            ..LeaseKeepAliveReply::default()
        }),
    });
}

/// A lease right after it was kept alive.
fn kept(id: u64, ttl: Option<Duration>) -> Lease {
    let ttl_ms = ttl.map_or(0, |ttl| ttl.as_millis() as u64);
    Lease { id, ttl_ms, left_ms: ttl_ms, keys: Vec::new() }
}

pub(super) fn info(api: &Api, args: LeaseInfoRequest, done: Done<LeaseInfoReply>) {
    let (deadline, it) = (deadline(&done), api.clone());
    let leader = leader(api, api.leader_elsewhere());
    let LeaseInfoRequest { id, keys, staleness } = args;
    let consistency = consistency(staleness);
    api.lease_info(LeaseId(id), keys, consistency, deadline, move |result| match result {
        Ok(Read { answer: (revision, lease), age_max }) => done.run(LeaseInfoReply {
            result: Some(lease_info_reply::Result::Lease(lease.into())),
            revision: revision.0,
            age_ms: age_max.map(age_ms),
            leader,
        }),
        Err(error) => refuse(&it, &error, done, |refused| LeaseInfoReply {
            result: Some(match refused {
                Refused::Refusal(refusal, _) => lease_info_reply::Result::Refusal(refusal),
                Refused::NotServed(it) => lease_info_reply::Result::NotServed(it),
            }),
            ..LeaseInfoReply::default()
        }),
    });
}

pub(super) fn list(api: &Api, args: LeasesRequest, done: Done<LeasesReply>) {
    let (deadline, it) = (deadline(&done), api.clone());
    let leader = leader(api, api.leader_elsewhere());
    let (after, consistency) = (LeaseId(args.after), consistency(args.staleness));
    api.leases(after, consistency, deadline, move |result| match result {
        Ok(Read { answer: LeasesAnswer { revision, leases, more }, age_max }) => {
            done.run(LeasesReply {
                leases: leases.into_iter().map(Lease::from).collect(),
                more,
                not_served: None,
                revision: revision.0,
                age_ms: age_max.map(age_ms),
                leader,
            });
        }
        Err(error) => refuse(&it, &error, done, |refused| LeasesReply {
            not_served: match refused {
                Refused::NotServed(it) => Some(it),
                // The store refuses no such request.
                Refused::Refusal(..) => None,
            },
            ..LeasesReply::default()
        }),
    });
}
