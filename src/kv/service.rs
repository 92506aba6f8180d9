//! [`KvService`]: the service `kvServerRpc`, in front of a node that replicates a [`Store`].
//!
//! A method never waits for consensus. It hands the call's [`Done`] to the node and returns, so one
//! connection carries many calls. Each call is answered once:
//!
//! | outcome | our own clients get | existing clients get |
//! | --- | --- | --- |
//! | the write took effect, or the key was read | `OK`, `ErrNoKey`, or the store's refusal | the same |
//! | another member leads | `ErrWrongLeader` with a hint | `ErrWrongLeader` |
//! | the write was proposed and its outcome is unknown | `ErrWrongLeader` with `MayApply` | `ErrWrongLeader`; they ask again with the same id |
//! | this member's state has diverged | `ErrWrongLeader` without a hint, so they ask another member | `ErrWrongLeader` |
//! | the member has too much to do, hands over, or its disk is full | status busy, with a time to come back | `ErrWrongLeader` |
//!
//! Writes need the leader. Every member that hears a leader serves linearizable reads (ReadIndex),
//! and every member serves stale reads.
//!
//! Existing clients set no time limit, so the server sets one: [`CALL_TIMEOUT`]. They get only the
//! documented fields, so that each reply is the same to the byte as from the system for which they
//! were written.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::proto::{GetArgs, GetReply, KvServerRpc, LeaderHint, PutAppendArgs, PutAppendReply};
use super::{Answer, Change, Command, Identity, Outcome, Query, Store, words};
use crate::clock;
use crate::members::Members;
use crate::node::{NodeHandle, RequestError, Stale};
use crate::raft::{Index, MemberId, RoleName};
use crate::rpc::{Done, Payload, Status};

/// How long a call without a deadline may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// After how long a client should come back if this member is busy.
const BUSY_PAUSE: Duration = Duration::from_millis(20);
/// The same if it is handing its leadership over: about as long as an election takes that nobody
/// contests.
const HAND_OVER_PAUSE: Duration = Duration::from_millis(2);

/// `kvServerRpc` of one member.
pub struct KvService {
    node: NodeHandle<Store>,
    members: Arc<Members>,
}

impl KvService {
    /// Serves from `node`. Hints name the leader's address in `members`.
    pub fn new(node: NodeHandle<Store>, members: Members) -> KvService {
        KvService { node, members: Arc::new(members) }
    }
}

impl KvServerRpc for KvService {
    /// Brings the requests that have arrived together to the core together.
    fn after_calls(&self, _method: &str) {
        self.node.run_pending();
    }

    fn put_append(&self, args: PutAppendArgs, done: Done<PutAppendReply>) {
        let PutAppendArgs { key, value, op, client_id, request_id, seen_index } = args;
        let change = match &op[..] {
            words::PUT => Change::Put { key, value },
            words::APPEND => Change::Append { key, value },
            _ => return done.run(put_reply(words::ERR_UNKNOWN_OP)),
        };
        let identity = Identity { client_id, request_id, seen_index: Index(seen_index) };
        let command = Command { identity, change };
        if command.check_limits().is_err() {
            return done.run(put_reply(words::ERR_TOO_LARGE));
        }
        let (deadline, members) = (deadline(&done), self.members.clone());
        self.node.queue_proposal(command.encode(), deadline, move |result| {
            let reply = match result {
                Ok(outcome) => outcome_reply(outcome),
                Err(error) if is_busy(&error, &done) => return done.fail(busy(&error)),
                Err(RequestError::TooLarge { .. }) => put_reply(words::ERR_TOO_LARGE),
                Err(error) => PutAppendReply {
                    leader: hint(&error, &members),
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
        if args.may_be_stale {
            return self.get_stale(args, done);
        }
        let (deadline, members) = (deadline(&done), self.members.clone());
        let leader = self.leader_elsewhere().filter(|_| !done.is_documented());
        self.node.queue_read(Query::Get { key: args.key }, deadline, move |result| match result {
            Ok(answer) => done.run(GetReply { leader, ..answer_reply(answer) }),
            Err(error) => refuse_get(&error, &members, done),
        });
    }
}

impl KvService {
    /// The leader, if it is another member: it would answer sooner.
    fn leader_elsewhere(&self) -> Option<LeaderHint> {
        let role = self.node.status().role;
        let leader = role.leader.filter(|_| role.role != RoleName::Leader)?;
        hint_at(leader, &self.members)
    }

    /// Reads the state as it is. If that may be too old, makes a linearizable read instead.
    fn get_stale(&self, args: GetArgs, done: Done<GetReply>) {
        let (deadline, members) = (deadline(&done), self.members.clone());
        let age_max = args.age_max_ms.map(Duration::from_millis);
        let (query, node) = (Query::Get { key: args.key.clone() }, self.node.clone());
        self.node.read_stale(query, age_max, deadline, move |result| match result {
            Ok(Stale { answer, age_max }) => {
                // Rounded up, because it is a bound.
                let age_ms = Some(age_max.as_millis() as u64 + 1);
                done.run(GetReply { age_ms, ..answer_reply(answer) });
            }
            Err(RequestError::TooStale) => {
                let asked = clock::boot_time();
                node.read(Query::Get { key: args.key }, deadline, move |result| match result {
                    Ok(answer) => {
                        let age_ms = Some(clock::since(asked).as_millis() as u64 + 1);
                        done.run(GetReply { age_ms, ..answer_reply(answer) });
                    }
                    Err(error) => refuse_get(&error, &members, done),
                });
            }
            Err(error) => refuse_get(&error, &members, done),
        });
    }
}

fn answer_reply(answer: Answer) -> GetReply {
    match answer {
        Answer::Value(Some(value)) => GetReply { value, ..get_reply(words::OK) },
        _ => get_reply(words::ERR_NO_KEY),
    }
}

fn refuse_get(error: &RequestError, members: &Members, done: Done<GetReply>) {
    if is_busy(error, &done) {
        return done.fail(busy(error));
    }
    let leader = hint(error, members).filter(|_| !done.is_documented());
    done.run(GetReply { leader, ..get_reply(words::ERR_WRONG_LEADER) });
}

fn outcome_reply(outcome: Outcome) -> PutAppendReply {
    match outcome {
        Outcome::Applied { index } => PutAppendReply { index: index.0, ..put_reply(words::OK) },
        Outcome::TooLarge => put_reply(words::ERR_TOO_LARGE),
        Outcome::NoSpace => put_reply(words::ERR_NO_SPACE),
        // The id of a transaction that took effect: the client has used it for two requests.
        Outcome::Ran { index, .. } => PutAppendReply { index: index.0, ..put_reply(words::OK) },
        Outcome::SessionExpired { index } => {
            PutAppendReply { index: index.0, ..put_reply(words::ERR_SESSION_EXPIRED) }
        }
        Outcome::Malformed => put_reply(words::ERR_UNKNOWN_OP),
    }
}

fn put_reply(err: &'static [u8]) -> PutAppendReply {
    PutAppendReply { err: err.into(), ..Default::default() }
}

fn get_reply(err: &'static [u8]) -> GetReply {
    GetReply { err: err.into(), ..Default::default() }
}

fn deadline<R: Payload>(done: &Done<R>) -> Instant {
    done.deadline().unwrap_or_else(|| Instant::now() + CALL_TIMEOUT)
}

/// Existing clients know no statuses. They are sent to another member, as if this one did not lead.
fn is_busy<R: Payload>(error: &RequestError, done: &Done<R>) -> bool {
    let is_busy =
        matches!(error, RequestError::Busy | RequestError::HandingOver | RequestError::DiskFull);
    is_busy && !done.is_documented()
}

fn busy(error: &RequestError) -> Status {
    let pause = match error {
        RequestError::HandingOver => HAND_OVER_PAUSE,
        _ => BUSY_PAUSE,
    };
    Status::busy(error.to_string(), pause)
}

fn hint(error: &RequestError, members: &Members) -> Option<LeaderHint> {
    let id: MemberId = match error {
        RequestError::NotLeader { leader } | RequestError::LeadershipLost { leader } => (*leader)?,
        _ => return None,
    };
    hint_at(id, members)
}

fn hint_at(id: MemberId, members: &Members) -> Option<LeaderHint> {
    members.addr(id).map(|addr| LeaderHint { id: id.0, addr: addr.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Another member leads in a moment: writes must not wait for as long as for a busy member.
    #[test]
    fn a_client_soon_comes_back_to_a_member_that_hands_over() {
        let pause = |error| busy(&error).retry_after.expect("a client is told when to come back");
        assert!(pause(RequestError::HandingOver) * 5 <= pause(RequestError::Busy));
    }
}
