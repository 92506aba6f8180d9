//! [`KvService`]: the service `kvServerRpc`, in front of an [`Api`].
//!
//! A method never waits for consensus. It hands the call's [`Done`] to the node and returns, so one
//! connection carries many calls. Each call is answered once:
//!
//! - the write took effect, or the key was read
//!   - all clients get: `OK`, `ErrNoKey`, or the store's refusal
//! - another member leads
//!   - our own clients get: `ErrWrongLeader` with a hint
//!   - existing clients get: `ErrWrongLeader`
//! - the write was proposed and its outcome is unknown
//!   - our own clients get: `ErrWrongLeader` with `MayApply`
//!   - existing clients get: `ErrWrongLeader`; they ask again with the same id
//! - this member's state has diverged
//!   - our own clients get: `ErrWrongLeader` without a hint, so they ask another member
//!   - existing clients get: `ErrWrongLeader`
//! - the member has too much to do, hands over, or its disk is full
//!   - our own clients get: status busy, with a time to come back
//!   - existing clients get: `ErrWrongLeader`
//!
//! Writes need the leader. Every member that hears a leader serves linearizable reads (ReadIndex),
//! and every member serves stale reads.
//!
//! Existing clients set no time limit, so the server sets one: [`CALL_TIMEOUT`]. They get only the
//! documented fields, so that each reply is the same to the byte as from the system for which they
//! were written.

use std::time::Duration;

use bytes::Bytes;

use super::{busy, deadline, is_busy};
use crate::kv::api::{Api, ApiError, Consistency, Read};
use crate::kv::proto::{GetArgs, GetReply, KvServerRpc, LeaderHint, PutAppendArgs, PutAppendReply};
use crate::kv::{Change, Command, Identity, Outcome, words};
use crate::node::RequestError;
use crate::raft::{Index, MemberId};
use crate::rpc::Done;

/// `kvServerRpc` of one member.
pub struct KvService {
    api: Api,
}

impl KvService {
    /// Serves this store.
    pub fn new(api: Api) -> KvService {
        KvService { api }
    }
}

impl KvServerRpc for KvService {
    /// Brings the requests that have arrived together to the core together.
    fn after_calls(&self, _method: &str) {
        self.api.run_pending();
    }

    fn put_append(&self, args: PutAppendArgs, done: Done<PutAppendReply>) {
        let PutAppendArgs { key, value, op, client_id, request_id, seen_index } = args;
        let change = match &op[..] {
            words::PUT => Change::Put { key, value },
            words::APPEND => Change::Append { key, value },
            _ => return done.run(put_reply(words::ERR_UNKNOWN_OP)),
        };
        let identity = Identity { client_id, request_id, seen_index: Index(seen_index) };
        let (deadline, api) = (deadline(&done), self.api.clone());
        self.api.queue_write(Command { identity, change }, deadline, move |result| {
            let reply = match result {
                Ok(outcome) => outcome_reply(outcome),
                Err(error) if !done.is_documented() && is_busy(&error) => {
                    return done.fail(busy(&error));
                }
                Err(ApiError::NotServed(RequestError::TooLarge { .. }) | ApiError::Invalid(_)) => {
                    put_reply(words::ERR_TOO_LARGE)
                }
                Err(error) => PutAppendReply {
                    leader: hint(&api, error.leader()),
                    may_apply: error.may_apply(),
                    ..put_reply(words::ERR_WRONG_LEADER)
                },
            };
            match done.is_documented() {
                true => done.run(PutAppendReply { err: reply.err, ..Default::default() }),
                false => done.run(reply),
            }
        });
    }

    fn get(&self, args: GetArgs, done: Done<GetReply>) {
        let consistency = match args.may_be_stale {
            true => Consistency::Stale { age_max: args.age_max_ms.map(Duration::from_millis) },
            false => Consistency::Linearizable,
        };
        let (deadline, api) = (deadline(&done), self.api.clone());
        let asks_leader = !args.may_be_stale && !done.is_documented();
        let leader = asks_leader.then(|| hint(&api, api.leader_elsewhere())).flatten();
        self.api.queue_get(args.key, consistency, deadline, move |result| match result {
            Ok(Read { answer, age_max }) => {
                let age_ms = age_max.map(super::age_ms);
                done.run(GetReply { leader, age_ms, ..answer_reply(answer) });
            }
            Err(error) => refuse_get(&error, &api, done),
        });
    }
}

fn answer_reply(value: Option<Bytes>) -> GetReply {
    match value {
        Some(value) => GetReply { value, ..get_reply(words::OK) },
        None => get_reply(words::ERR_NO_KEY),
    }
}

/// Existing clients know no statuses. They are sent to another member, as if this one did not lead.
fn refuse_get(error: &ApiError, api: &Api, done: Done<GetReply>) {
    if !done.is_documented() && is_busy(error) {
        return done.fail(busy(error));
    }
    let leader = hint(api, error.leader()).filter(|_| !done.is_documented());
    done.run(GetReply { leader, ..get_reply(words::ERR_WRONG_LEADER) });
}

fn outcome_reply(outcome: Outcome) -> PutAppendReply {
    match outcome {
        Outcome::Applied { index } => PutAppendReply { index: index.0, ..put_reply(words::OK) },
        Outcome::TooLarge => put_reply(words::ERR_TOO_LARGE),
        Outcome::NoSpace => put_reply(words::ERR_NO_SPACE),
        // The id of another request that took effect: the client has used it for two requests.
        Outcome::Ran { index, result: Ok(_) }
        | Outcome::Granted { index, .. }
        | Outcome::KeptAlive { index, .. } => {
            PutAppendReply { index: index.0, ..put_reply(words::OK) }
        }
        Outcome::SessionExpired { index } => {
            PutAppendReply { index: index.0, ..put_reply(words::ERR_SESSION_EXPIRED) }
        }
        Outcome::Malformed | Outcome::Ran { result: Err(_), .. } => {
            put_reply(words::ERR_UNKNOWN_OP)
        }
    }
}

fn put_reply(err: &'static [u8]) -> PutAppendReply {
    PutAppendReply { err: err.into(), ..Default::default() }
}

fn get_reply(err: &'static [u8]) -> GetReply {
    GetReply { err: err.into(), ..Default::default() }
}

fn hint(api: &Api, leader: Option<MemberId>) -> Option<LeaderHint> {
    let id = leader?;
    api.addr(id).map(|addr| LeaderHint { id: id.0, addr })
}
