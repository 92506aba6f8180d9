//! `laneRpc`: a member brings a command to the leader, and the outcome back.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::kv::model::{self, LeaseId, Reason, Refusal, Revision, WireError};
use crate::kv::{Branches, Command, CommandError, Done, Outcome, Store};
use crate::node::NodeHandle;
use crate::raft::Index;
use crate::rpc::prost::Message as _;
use crate::rpc::{CallError, CallOptions, Channel, Done as Reply, ErrorChain};

use crate::kv::lane_proto as proto;
use proto::forward_reply::Result as ReplyResult;
use proto::outcome::Kind;
use proto::{ForwardReply, ForwardRequest, LaneRpc, LaneRpcStub, NotServed};

/// How many bytes of commands may wait for their outcomes at the member that was asked. Beyond
/// that, commands are not taken, and come again. They come through the room of the members' own
/// messages, of which they must leave most.
const WAITING_BYTES_MAX: usize = 64 << 20;

/// For a call without a deadline.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a forwarded command has no outcome.
#[derive(Debug, thiserror::Error)]
pub(super) enum ForwardError {
    #[error("the leader cannot be asked")]
    Call(#[source] CallError),
    #[error("the member asked says: {why}")]
    NotServed { why: String, may_apply: bool },
    /// The command may have been applied.
    #[error("the leader's answer makes no sense")]
    Nonsense(#[source] WireError),
}

impl ForwardError {
    pub(super) fn may_apply(&self) -> bool {
        match self {
            ForwardError::Call(error) => error.may_have_run(),
            ForwardError::NotServed { may_apply, .. } => *may_apply,
            ForwardError::Nonsense(_) => true,
        }
    }
}

/// Sends `command` over `channel`. `done` runs once, on a thread of the channel.
pub(super) fn forward(
    channel: &Channel,
    command: Bytes,
    deadline: Instant,
    done: impl FnOnce(Result<Outcome, ForwardError>) + Send + 'static,
) {
    let request = ForwardRequest { command };
    let (method, options) = (&LaneRpcStub::<Channel>::FORWARD, CallOptions::default());
    channel.call_then(method, &options, &request, deadline, move |result| {
        let reply: Result<ForwardReply, CallError> = result;
        done(reply.map_err(ForwardError::Call).and_then(read_reply));
    });
}

fn read_reply(reply: ForwardReply) -> Result<Outcome, ForwardError> {
    let missing = WireError::Missing { of: "a forwarded command's reply", part: "result" };
    match reply.result.ok_or(ForwardError::Nonsense(missing))? {
        ReplyResult::Outcome(outcome) => read_outcome(outcome).map_err(ForwardError::Nonsense),
        ReplyResult::NotServed(NotServed { why, may_apply }) => {
            Err(ForwardError::NotServed { why, may_apply })
        }
    }
}

/// `laneRpc` of one member: proposes what other members bring, if it leads.
pub struct LaneService {
    node: NodeHandle<Store>,
    waiting: Arc<Waiting>,
}

/// The bytes of all commands that wait for their outcomes.
#[derive(Default)]
struct Waiting(AtomicUsize);

/// Those of one command.
struct Waits {
    all: Arc<Waiting>,
    len: usize,
}

impl Waiting {
    fn begin(self: &Arc<Self>, len: usize) -> Option<Waits> {
        let more = |bytes: usize| Some(bytes + len).filter(|sum| *sum <= WAITING_BYTES_MAX);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Waits { all: Arc::clone(self), len })
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        self.all.0.fetch_sub(self.len, Ordering::Relaxed);
    }
}

impl LaneService {
    /// Proposes to `node`.
    pub fn new(node: NodeHandle<Store>) -> LaneService {
        LaneService { node, waiting: Arc::default() }
    }
}

impl LaneRpc for LaneService {
    /// Brings the commands that have arrived together to the core together.
    fn after_calls(&self, _method: &str) {
        self.node.run_pending();
    }

    fn forward(&self, request: ForwardRequest, reply: Reply<ForwardReply>) {
        if let Err(error) = check(&request.command) {
            return reply.run(refusal(ErrorChain(&error).to_string(), false));
        }
        let Some(waits) = self.waiting.begin(request.command.len()) else {
            return reply.run(refusal("too many bytes of commands wait".to_owned(), false));
        };
        let deadline = reply.deadline().unwrap_or_else(|| Instant::now() + CALL_TIMEOUT);
        self.node.queue_proposal(request.command, deadline, move |result| {
            drop(waits);
            reply.run(match result {
                Ok(outcome) => {
                    ForwardReply { result: Some(ReplyResult::Outcome(write_outcome(&outcome))) }
                }
                Err(error) => refusal(error.to_string(), error.may_apply()),
            });
        });
    }
}

/// Whether a member of this version may have sent this command.
fn check(bytes: &Bytes) -> Result<(), CommandError> {
    let command = Command::decode_of_client(bytes)?;
    command.check_of_client()?;
    if command.encode() == *bytes { Ok(()) } else { Err(CommandError::UnknownParts) }
}

fn refusal(why: String, may_apply: bool) -> ForwardReply {
    ForwardReply { result: Some(ReplyResult::NotServed(NotServed { why, may_apply })) }
}

fn write_outcome(outcome: &Outcome) -> proto::Outcome {
    let plain = |kind: Kind, index: Index| proto::Outcome {
        kind: kind.into(),
        index: index.0,
        ..proto::Outcome::default()
    };
    match outcome {
        Outcome::Applied { index } => plain(Kind::Applied, *index),
        Outcome::TooLarge => plain(Kind::TooLarge, Index::ZERO),
        Outcome::NoSpace => plain(Kind::NoSpace, Index::ZERO),
        Outcome::SessionExpired { index } => plain(Kind::SessionExpired, *index),
        Outcome::Malformed => plain(Kind::Malformed, Index::ZERO),
        Outcome::Ran { index, result: Ok(Done { revision, branches, answer }) } => {
            let answer = answer.as_deref().map(model::proto::TxnAnswer::from);
            proto::Outcome {
                revision: revision.0,
                held: branches.held,
                branches: branches.count,
                answer: answer.map(|answer| answer.encode_to_vec().into()),
                ..plain(Kind::Done, *index)
            }
        }
        Outcome::Ran { index, result: Err(Refusal { reason, operation, value }) } => {
            proto::Outcome {
                reason: reason.number(),
                operation: *operation,
                value: *value,
                ..plain(Kind::Refused, *index)
            }
        }
        Outcome::Granted { index, revision, lease, ttl_ms } => proto::Outcome {
            revision: revision.0,
            lease: lease.0,
            ttls_ms: vec![*ttl_ms],
            ..plain(Kind::Granted, *index)
        },
        Outcome::KeptAlive { index, revision, ttls_ms } => proto::Outcome {
            revision: revision.0,
            ttls_ms: ttls_ms.to_vec(),
            ..plain(Kind::KeptAlive, *index)
        },
    }
}

fn read_outcome(outcome: proto::Outcome) -> Result<Outcome, WireError> {
    let unknown = |what, number: i64| WireError::Unknown { what, number };
    let (index, revision) = (Index(outcome.index), Revision(outcome.revision));
    Ok(match Kind::try_from(outcome.kind) {
        Ok(Kind::Applied) => Outcome::Applied { index },
        Ok(Kind::TooLarge) => Outcome::TooLarge,
        Ok(Kind::NoSpace) => Outcome::NoSpace,
        Ok(Kind::SessionExpired) => Outcome::SessionExpired { index },
        Ok(Kind::Malformed) => Outcome::Malformed,
        Ok(Kind::Done) => {
            let branches = Branches { held: outcome.held, count: outcome.branches };
            let answer = outcome.answer.map(read_answer).transpose()?;
            Outcome::Ran { index, result: Ok(Done { revision, branches, answer }) }
        }
        Ok(Kind::Refused) => {
            let (number, operation, value) = (outcome.reason, outcome.operation, outcome.value);
            let reason = Reason::from_number(number)
                .ok_or_else(|| unknown("reason of a refusal", number.into()))?;
            Outcome::Ran { index, result: Err(Refusal { reason, operation, value }) }
        }
        Ok(Kind::Granted) => {
            let missing = WireError::Missing { of: "a grant", part: "time to live" };
            let (lease, ttl_ms) =
                (LeaseId(outcome.lease), *outcome.ttls_ms.first().ok_or(missing)?);
            Outcome::Granted { index, revision, lease, ttl_ms }
        }
        Ok(Kind::KeptAlive) => {
            Outcome::KeptAlive { index, revision, ttls_ms: outcome.ttls_ms.into() }
        }
        Err(_) => return Err(unknown("kind of outcome", outcome.kind.into())),
    })
}

fn read_answer(bytes: Bytes) -> Result<Arc<model::TxnAnswer>, WireError> {
    let missing = WireError::Missing { of: "an answer", part: "a message" };
    let message = model::proto::TxnAnswer::decode(bytes).map_err(|_| missing)?;
    Ok(Arc::new(message.try_into()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::Change;
    use crate::kv::model::{Action, Txn};

    fn command() -> Bytes {
        let then = vec![Action::increment("n", 1).into()];
        Command::unrepeated(Change::Txn(Txn { then, ..Txn::default() })).encode()
    }

    #[test]
    fn commands_that_wait_have_a_bound_together() {
        let waiting = Arc::new(Waiting::default());
        let most = waiting.begin(WAITING_BYTES_MAX - 1).unwrap();
        let last = waiting.begin(1).unwrap();
        assert!(waiting.begin(1).is_none());
        drop((most, last));
        assert!(waiting.begin(WAITING_BYTES_MAX + 1).is_none());
        assert!(waiting.begin(WAITING_BYTES_MAX).is_some());
    }

    #[test]
    fn a_command_in_another_form_is_refused() {
        assert_eq!(check(&command()), Ok(()));
        // With a field 15 of the transaction, which this version does not know.
        let longer = [&command()[..], b"\x78\x01"].concat().into();
        assert_eq!(check(&longer), Err(CommandError::UnknownParts));
    }

    /// Before it is decoded: what is wrong behind the operations is not noticed.
    #[test]
    fn a_command_of_too_many_operations_is_not_decoded() {
        let empty = Command::unrepeated(Change::Txn(Txn::default())).encode();
        let operations = [0x12, 0].repeat(model::OPERATIONS_MAX + 1);
        let longer = [&empty[..], &operations, b"\xff"].concat().into();
        let count = model::OPERATIONS_MAX + 1;
        assert_eq!(check(&longer), Err(CommandError::Txn(model::TxnError::TooMany { count })));
    }

    #[test]
    fn level_and_time_are_not_a_clients_to_raise() {
        for change in [Change::RaiseLevel(2), Change::Time] {
            let bytes = Command::unrepeated(change).encode();
            assert_eq!(check(&bytes), Err(CommandError::NotForClients));
        }
    }

    #[test]
    fn every_outcome_arrives_as_it_was() {
        let (index, revision) = (Index(7), Revision(3));
        let done = Done { revision, branches: Branches { held: 1, count: 2 }, answer: None };
        let refusal = Refusal { reason: Reason::LeaseExists, operation: 0, value: 9 };
        let outcomes = [
            Outcome::Applied { index },
            Outcome::TooLarge,
            Outcome::NoSpace,
            Outcome::SessionExpired { index },
            Outcome::Malformed,
            Outcome::Ran { index, result: Ok(done) },
            Outcome::Ran { index, result: Err(refusal) },
            Outcome::Granted { index, revision, lease: LeaseId(9), ttl_ms: 5 },
            Outcome::KeptAlive { index, revision, ttls_ms: vec![5, 0, 6].into() },
        ];
        for outcome in outcomes {
            assert_eq!(read_outcome(write_outcome(&outcome)), Ok(outcome));
        }
    }
}
