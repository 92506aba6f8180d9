//! Leases: granted, revoked, kept alive, looked at.
//!
//! What is left of a lease is counted from the newest stamp that the member has applied, and from
//! how long ago that was by its own clock. So it is an estimate; what ends a lease is an entry of
//! the log.

use std::time::{Duration, Instant};

use super::keep_alives::Waiting;
use super::{Api, ApiError, Changed, Consistency, Read};
use crate::kv::model::{LeaseId, LeaseInfo, Revision};
use crate::kv::{
    Answer, Change, Command, CommandError, Identity, LEASES_PER_REQUEST_MAX, LeaseAnswer,
    LeasesAnswer, Outcome, Query,
};
use crate::node::RequestError;
use crate::raft::Index;

/// What a grant did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Granted {
    /// The lease. Of a repeat, as it was when it was granted.
    pub lease: LeaseInfo,
    /// The entry of the log that took effect; for a repeat, the first copy.
    pub index: Index,
    /// The revision of the store then.
    pub revision: Revision,
}

/// What a request to keep leases alive did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptAlive {
    /// For each lease of the request, how long it lives from now on; `None`: there is no such
    /// lease.
    pub ttls: Vec<Option<Duration>>,
    /// The revision of the store then.
    pub revision: Revision,
}

impl Api {
    /// Grants a lease of so many milliseconds, with this id or, with [`LeaseId::NONE`], one that is
    /// free.
    pub fn lease_grant(
        &self,
        identity: Identity,
        ttl_ms: u64,
        id: LeaseId,
        deadline: Instant,
        callback: impl FnOnce(Result<Granted, ApiError>) + Send + 'static,
    ) {
        let command = Command { identity, change: Change::LeaseGrant { ttl_ms, id } };
        self.write(command, deadline, |result| callback(result.and_then(Granted::of)));
    }

    /// Ends a lease and deletes its keys.
    pub fn lease_revoke(
        &self,
        identity: Identity,
        id: LeaseId,
        deadline: Instant,
        callback: impl FnOnce(Result<Changed, ApiError>) + Send + 'static,
    ) {
        let command = Command { identity, change: Change::LeaseRevoke { id } };
        self.write(command, deadline, |result| callback(result.and_then(Changed::of)));
    }

    /// Keeps leases alive, at most [`LEASES_PER_REQUEST_MAX`]. Requests that arrive together are
    /// one entry of the log.
    pub fn lease_keep_alive(
        &self,
        ids: Vec<LeaseId>,
        deadline: Instant,
        callback: impl FnOnce(Result<KeptAlive, ApiError>) + Send + 'static,
    ) {
        self.queue_keep_alive(ids, deadline, callback);
        self.run_pending();
    }

    pub(crate) fn queue_keep_alive(
        &self,
        ids: Vec<LeaseId>,
        deadline: Instant,
        callback: impl FnOnce(Result<KeptAlive, ApiError>) + Send + 'static,
    ) {
        if ids.len() > LEASES_PER_REQUEST_MAX {
            let too_many = CommandError::TooManyLeases { count: ids.len() };
            return callback(Err(ApiError::Invalid(too_many)));
        }
        let callback = Box::new(callback);
        if let Some(batch) = self.shared.keep_alives.push(Waiting { ids, deadline, callback }) {
            batch.propose(&self.shared.node, || {});
        }
    }

    /// What is known of a lease; with its keys if they are wanted. The answer also has the revision
    /// of the state that was read.
    pub fn lease_info(
        &self,
        id: LeaseId,
        keys: bool,
        consistency: Consistency,
        deadline: Instant,
        callback: impl FnOnce(Result<Read<(Revision, LeaseInfo)>, ApiError>) + Send + 'static,
    ) {
        let api = self.clone();
        let query = Query::Lease { id, keys };
        self.queue_query(query, consistency, deadline, move |result| match result {
            Ok(Read { answer: Answer::Lease(answer), age_max }) => {
                callback(api.lease_read(*answer, age_max));
            }
            // It has many keys.
            Ok(Read { answer: Answer::View(_), age_max }) => {
                let readers = api.shared.readers.clone();
                readers.run(deadline, move |ending| match ending.and_then(|_| api.view()) {
                    Ok(view) => callback(api.lease_read(view.lease(id, keys), age_max)),
                    Err(error) => callback(Err(error.into())),
                });
            }
            Ok(Read { answer, .. }) => panic!("the store tells of a lease with {answer:?}"),
            Err(error) => callback(Err(error.into())),
        });
        self.run_pending();
    }

    /// The leases with higher ids than `after`, in the order of their ids, without their keys: at
    /// most [`LEASES_PER_REQUEST_MAX`].
    pub fn leases(
        &self,
        after: LeaseId,
        consistency: Consistency,
        deadline: Instant,
        callback: impl FnOnce(Result<Read<LeasesAnswer>, ApiError>) + Send + 'static,
    ) {
        let api = self.clone();
        let leases = move |answer| match answer {
            Answer::Leases(mut answer) => {
                answer.leases.iter_mut().for_each(|lease| api.grow_older(lease));
                *answer
            }
            other => panic!("the store lists its leases with {other:?}"),
        };
        let query = Query::Leases { after, limit: LEASES_PER_REQUEST_MAX };
        self.queue_query(query, consistency, deadline, move |result| {
            callback(result.map(|read| read.map(leases)).map_err(ApiError::NotServed));
        });
        self.run_pending();
    }

    fn lease_read(
        &self,
        LeaseAnswer { revision, result }: LeaseAnswer,
        age_max: Option<Duration>,
    ) -> Result<Read<(Revision, LeaseInfo)>, ApiError> {
        if self.shared.node.divergence().is_some() {
            return Err(RequestError::Diverged { may_apply: false }.into());
        }
        let mut lease = result.map_err(|refusal| ApiError::refused(refusal, None))?;
        self.grow_older(&mut lease);
        Ok(Read { answer: (revision, lease), age_max })
    }

    /// The store knows the time of the newest stamp. Some time has passed since.
    fn grow_older(&self, lease: &mut LeaseInfo) {
        let passed = self.shared.node.since_stamp().as_millis();
        lease.left_ms = lease.left_ms.saturating_sub(u64::try_from(passed).unwrap_or(u64::MAX));
    }
}

impl Granted {
    fn of(outcome: Outcome) -> Result<Granted, ApiError> {
        match outcome {
            Outcome::Granted { index, revision, lease: id, ttl_ms } => {
                let lease = LeaseInfo { id, ttl_ms, left_ms: ttl_ms, keys: Vec::new() };
                Ok(Granted { lease, index, revision })
            }
            // The client has used this identity for another request before.
            other => match Changed::of(other) {
                Ok(Changed { index, .. }) => Err(ApiError::superseded(index)),
                Err(error) => Err(error),
            },
        }
    }
}

impl KeptAlive {
    /// For requests that were made one after the other: each with so many leases.
    pub(super) fn split(
        outcome: Outcome,
        lens: impl Iterator<Item = usize>,
    ) -> Vec<Result<KeptAlive, ApiError>> {
        let Outcome::KeptAlive { revision, ttls_ms, .. } = outcome else {
            let error = match Changed::of(outcome) {
                Ok(Changed { index, .. }) => ApiError::superseded(index),
                Err(error) => error,
            };
            return lens.map(|_| Err(error.clone())).collect();
        };
        let mut ttls = ttls_ms.iter().map(|&ttl| (ttl > 0).then(|| Duration::from_millis(ttl)));
        lens.map(|len| Ok(KeptAlive { ttls: ttls.by_ref().take(len).collect(), revision }))
            .collect()
    }
}
