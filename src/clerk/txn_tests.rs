//! Transactions of a Clerk with a member that follows a script.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::tests::check_kind;
use super::*;
use crate::kv::model::proto::{
    self, CompactRequest, Forgotten, LeaseGrantReply, LeaseGrantRequest, LeaseInfoReply,
    LeaseInfoRequest, LeaseKeepAliveReply, LeaseKeepAliveRequest, LeaseRevokeRequest, LeasesReply,
    LeasesRequest, LimitsRequest, MembersReply, MembersRequest, NotServed, RangeReply,
    RangeRequest, ScanReply, ScanRequest, StatsReply, StatsRequest, StoreRpc, StoreRpcService,
    TxnReply, TxnRequest, WatchReply, WatchRequest, operation_answer, stats_reply, txn_reply,
};
use crate::kv::model::{self, Refusal};
use crate::rpc::{Done, Incoming, Outgoing, Server, Status};

/// What the member answers: the last one again and again.
type Script = Vec<Result<TxnReply, Status>>;

struct Actor {
    script: Mutex<VecDeque<Result<TxnReply, Status>>>,
    asked: Arc<Mutex<Vec<TxnRequest>>>,
    stats: StatsReply,
}

impl StoreRpc for Actor {
    fn txn(&self, args: TxnRequest, done: Done<TxnReply>) {
        self.asked.lock().push(args);
        let mut script = self.script.lock();
        let next = match script.len() {
            1 => script[0].clone(),
            _ => script.pop_front().expect("a script has a line"),
        };
        match next {
            Ok(reply) => done.run(reply),
            Err(status) => done.fail(status),
        }
    }

    fn range(&self, _: RangeRequest, done: Done<RangeReply>) {
        done.run(RangeReply::default());
    }

    fn compact(&self, _: CompactRequest, done: Done<TxnReply>) {
        done.run(TxnReply::default());
    }

    fn set_limits(&self, _: LimitsRequest, done: Done<TxnReply>) {
        done.run(TxnReply::default());
    }

    fn stats(&self, _: StatsRequest, done: Done<StatsReply>) {
        done.run(self.stats.clone());
    }

    fn scan(&self, _: ScanRequest, replies: Outgoing<ScanReply>) {
        replies.end();
    }

    fn watch(&self, _: Incoming<WatchRequest, Status>, replies: Outgoing<WatchReply>) {
        replies.end();
    }

    fn lease_grant(&self, _: LeaseGrantRequest, done: Done<LeaseGrantReply>) {
        done.run(LeaseGrantReply::default());
    }

    fn lease_revoke(&self, _: LeaseRevokeRequest, done: Done<TxnReply>) {
        done.run(TxnReply::default());
    }

    fn lease_keep_alive(&self, _: LeaseKeepAliveRequest, done: Done<LeaseKeepAliveReply>) {
        done.run(LeaseKeepAliveReply::default());
    }

    fn lease_info(&self, _: LeaseInfoRequest, done: Done<LeaseInfoReply>) {
        done.run(LeaseInfoReply::default());
    }

    fn leases(&self, _: LeasesRequest, done: Done<LeasesReply>) {
        done.run(LeasesReply::default());
    }

    fn members(&self, _: MembersRequest, done: Done<MembersReply>) {
        done.run(MembersReply::default());
    }
}

/// A member and its client.
struct Play {
    clerk: Clerk,
    asked: Arc<Mutex<Vec<TxnRequest>>>,
    _server: Server,
}

impl Play {
    fn new(script: Script) -> Play {
        let (server, asked) = member(script, StatsReply::default());
        let clerk = Clerk::builder().members(server.local_addr()).timeout(Duration::from_secs(1));
        Play { clerk: clerk.build().unwrap(), asked, _server: server }
    }
}

/// A member that runs, and what it was asked.
fn member(script: Script, stats: StatsReply) -> (Server, Arc<Mutex<Vec<TxnRequest>>>) {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let actor = Actor { script: Mutex::new(script.into()), asked: asked.clone(), stats };
    let service = StoreRpcService::new(Arc::new(actor));
    let server = Server::builder().service(service).bind("127.0.0.1:0").build().unwrap();
    (server.start(), asked)
}

fn reply(result: txn_reply::Result) -> Result<TxnReply, Status> {
    Ok(TxnReply { result: Some(result), revision: 7, index: 9, ..TxnReply::default() })
}

fn answered(held: bool, answers: Vec<operation_answer::Answer>) -> Result<TxnReply, Status> {
    let answer = |answer| proto::OperationAnswer { answer: Some(answer) };
    let answers = answers.into_iter().map(answer).collect();
    reply(txn_reply::Result::Answer(proto::TxnAnswer { held, answers }))
}

fn incremented(value: i64) -> Result<TxnReply, Status> {
    answered(true, vec![operation_answer::Answer::Increment(proto::IncrementAnswer { value })])
}

fn not_served(may_apply: bool) -> Result<TxnReply, Status> {
    reply(txn_reply::Result::NotServed(NotServed { leader: None, may_apply }))
}

fn refused(reason: model::Reason) -> Result<TxnReply, Status> {
    reply(txn_reply::Result::Refusal(Refusal::of(reason, 3).into()))
}

fn forgotten(held: u64, count: u32) -> Result<TxnReply, Status> {
    reply(txn_reply::Result::Forgotten(Forgotten { held, count }))
}

#[test]
fn all_attempts_of_a_transaction_have_one_identity() {
    let busy = Err(Status::busy("as scripted", Duration::from_millis(1)));
    let play = Play::new(vec![not_served(true), busy, not_served(false), incremented(4)]);
    assert_eq!(play.clerk.increment("k", 1).unwrap(), 4);
    assert_eq!(play.clerk.increment("k", 1).unwrap(), 4);
    let asked = play.asked.lock();
    let [first, second, third, last, next] = &asked[..] else { panic!("{asked:?}") };
    assert!(first == second && second == third && third == last, "{asked:?}");
    let identity = |it: &TxnRequest| it.identity.clone().unwrap();
    let (old, new) = (identity(last), identity(next));
    assert_eq!((old.request_id, new.request_id, old.seen_index, new.seen_index), (1, 2, 1, 9));
    assert_eq!(old.client_id, new.client_id);
}

#[test]
fn an_error_says_whether_the_transaction_happened() {
    let check = |script, kind| check_kind(Play::new(script).clerk.increment("k", 1), kind);
    check(vec![not_served(false)], ClerkErrorKind::NotApplied);
    check(vec![not_served(true), not_served(false)], ClerkErrorKind::Unknown);
    // A refusal is the outcome of the earlier attempt, too.
    let number = model::Reason::NotANumber;
    check(vec![not_served(true), refused(number)], ClerkErrorKind::Rejected);
    check(vec![not_served(true), refused(model::Reason::NoSpace)], ClerkErrorKind::NotApplied);
    check(vec![refused(model::Reason::Superseded)], ClerkErrorKind::NotApplied);
    check(vec![not_served(true), refused(model::Reason::Superseded)], ClerkErrorKind::Unknown);
    check(vec![forgotten(1, 1)], ClerkErrorKind::Applied);
}

#[test]
fn a_forgotten_session_is_replaced_if_nothing_can_have_happened() {
    let expired = || refused(model::Reason::SessionExpired);
    let play = Play::new(vec![expired(), incremented(1)]);
    assert_eq!(play.clerk.increment("k", 1).unwrap(), 1);
    let ids: Vec<_> = play.asked.lock().iter().map(|it| it.identity.clone().unwrap()).collect();
    assert_ne!(ids[0].client_id, ids[1].client_id);
    assert_eq!((ids[0].seen_index, ids[1].seen_index), (1, 9));
    let play = Play::new(vec![not_served(true), expired()]);
    check_kind(play.clerk.increment("k", 1), ClerkErrorKind::Unknown);
}

#[test]
fn a_comparison_is_known_when_its_answer_is_not() {
    let swap = |script| Play::new(script).clerk.compare_and_set("k", "old", "new");
    assert_eq!(swap(vec![forgotten(1, 1)]).unwrap(), Swap::Done { revision: model::Revision(7) });
    check_kind(swap(vec![forgotten(0, 1)]), ClerkErrorKind::NotApplied);
}

/// A follower answers as well. It says who leads, and the next write goes there.
#[test]
fn a_follower_that_tells_the_size_is_not_taken_for_the_leader() {
    let (leader, _) = member(vec![incremented(1)], StatsReply::default());
    let hint = proto::Leader { id: 0, addr: leader.local_addr().to_string() };
    let size = stats_reply::Result::Stats(proto::Stats { keys: 3, ..Default::default() });
    let stats = StatsReply { result: Some(size), leader: Some(hint), ..StatsReply::default() };
    let (follower, asked) = member(vec![not_served(false)], stats);
    let members = format!("1={},2={}", follower.local_addr(), leader.local_addr());
    let clerk = Clerk::builder().members(&*members).build().unwrap();
    assert_eq!(clerk.stats().unwrap().keys, 3);
    assert_eq!(clerk.increment("k", 1).unwrap(), 1);
    assert_eq!(asked.lock().len(), 0, "the follower was asked to write");
}

/// A member of another version, or one that lies, causes no panic.
#[test]
fn an_answer_that_makes_no_sense_may_mean_anything() {
    let check = |reply| {
        check_kind(Play::new(vec![reply]).clerk.increment("k", 1), ClerkErrorKind::Unknown);
    };
    let delete = operation_answer::Answer::Delete(proto::DeleteAnswer::default());
    check(Ok(TxnReply::default()));
    check(answered(true, vec![delete]));
    check(answered(true, vec![]));
    check(answered(false, vec![]));
    check(answered(true, vec![operation_answer::Answer::Failed(2)]));
    check(answered(true, vec![operation_answer::Answer::Failed(999)]));
    let unknown = proto::Refusal { reason: 999, operation: 0, value: 0 };
    check(reply(txn_reply::Result::Refusal(unknown)));
    let play = Play::new(vec![Ok(TxnReply::default())]);
    check_kind(play.clerk.compact(model::Revision(3)), ClerkErrorKind::Unknown);
    check_kind(play.clerk.get_entry("k"), ClerkErrorKind::NotApplied);
    check_kind(play.clerk.stats(), ClerkErrorKind::NotApplied);
    check_kind(play.clerk.txn().then_get("k").commit(), ClerkErrorKind::NotApplied);
}
