//! A Clerk is told who the members are, by members that serve every put and know a list.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::*;
use crate::kv::model::proto::{
    CompactRequest, LeaseGrantReply, LeaseGrantRequest, LeaseInfoReply, LeaseInfoRequest,
    LeaseKeepAliveReply, LeaseKeepAliveRequest, LeaseRevokeRequest, LeasesReply, LeasesRequest,
    LimitsRequest, MemberAddr, MembersReply, MembersRequest, RangeReply, RangeRequest, ScanReply,
    ScanRequest, StatsReply, StatsRequest, StoreRpc, StoreRpcService, TxnReply, TxnRequest,
    WatchReply, WatchRequest,
};
use crate::kv::proto::{GetReply, KvServerRpc, KvServerRpcService, PutAppendReply};
use crate::rpc::{Done, Incoming, Outgoing, Server, Status};

/// What all members say of who the members are, and how often each was asked for what.
#[derive(Default)]
struct Shared {
    told: Mutex<MembersReply>,
}

struct Actor {
    shared: Arc<Shared>,
    questions: AtomicUsize,
    puts: AtomicUsize,
}

impl KvServerRpc for Actor {
    fn put_append(&self, _: PutAppendArgs, done: Done<PutAppendReply>) {
        self.puts.fetch_add(1, Ordering::Relaxed);
        done.run(PutAppendReply { err: words::OK.into(), index: 2, ..Default::default() });
    }

    fn get(&self, _: GetArgs, _: Done<GetReply>) {}
}

/// Of everything else a call is not answered.
impl StoreRpc for Actor {
    fn members(&self, _: MembersRequest, done: Done<MembersReply>) {
        self.questions.fetch_add(1, Ordering::Relaxed);
        done.run(self.shared.told.lock().clone());
    }

    fn range(&self, _: RangeRequest, _: Done<RangeReply>) {}
    fn txn(&self, _: TxnRequest, _: Done<TxnReply>) {}
    fn compact(&self, _: CompactRequest, _: Done<TxnReply>) {}
    fn set_limits(&self, _: LimitsRequest, _: Done<TxnReply>) {}
    fn stats(&self, _: StatsRequest, _: Done<StatsReply>) {}
    fn scan(&self, _: ScanRequest, _: Outgoing<ScanReply>) {}
    fn watch(&self, _: Incoming<WatchRequest, Status>, _: Outgoing<WatchReply>) {}
    fn lease_grant(&self, _: LeaseGrantRequest, _: Done<LeaseGrantReply>) {}
    fn lease_revoke(&self, _: LeaseRevokeRequest, _: Done<TxnReply>) {}
    fn lease_keep_alive(&self, _: LeaseKeepAliveRequest, _: Done<LeaseKeepAliveReply>) {}
    fn lease_info(&self, _: LeaseInfoRequest, _: Done<LeaseInfoReply>) {}
    fn leases(&self, _: LeasesRequest, _: Done<LeasesReply>) {}
}

struct Running {
    actor: Arc<Actor>,
    server: Server,
}

impl Running {
    fn start(shared: &Arc<Shared>) -> Running {
        let (questions, puts) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let actor = Arc::new(Actor { shared: shared.clone(), questions, puts });
        let server = Server::builder()
            .service(KvServerRpcService::new(actor.clone()))
            .service(StoreRpcService::new(actor.clone()))
            .bind("127.0.0.1:0")
            .build()
            .unwrap_or_else(|error| panic!("{error}"))
            .start();
        Running { actor, server }
    }

    fn addr(&self) -> String {
        self.server.local_addr().to_string()
    }

    fn puts(&self) -> usize {
        self.actor.puts.load(Ordering::Relaxed)
    }

    fn questions(&self) -> usize {
        self.actor.questions.load(Ordering::Relaxed)
    }
}

/// These members, by their ids.
fn told(index: u64, members: &[(u64, &Running)]) -> MembersReply {
    let member = |(id, it): &(u64, &Running)| MemberAddr { id: *id, addr: it.addr() };
    let members = members.iter().map(member).collect();
    MembersReply { members, id: 0, cluster_id: 7, index }
}

fn clerk(addrs: &[String]) -> Clerk {
    let builder = Clerk::builder().members(addrs).timeout(Duration::from_secs(20));
    builder.build().unwrap_or_else(|error| panic!("{error}"))
}

fn put(clerk: &Clerk) {
    clerk.put("k", "v").unwrap_or_else(|error| panic!("{error}"));
}

/// Puts until the list has these numbers. A member that is held up says too late who the members
/// are, and is asked again.
fn put_until(clerk: &Clerk, list: &[usize]) {
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while clerk.pool.survey().members != list {
        assert!(std::time::Instant::now() < deadline, "{:?}", clerk.pool.survey());
        put(clerk);
    }
}

/// A program that makes one call makes one round trip.
#[test]
fn the_first_call_asks_nothing_and_later_ones_seldom() {
    let shared = Arc::default();
    let only = Running::start(&shared);
    *shared.told.lock() = told(3, &[(1, &only)]);
    let clerk = clerk(&[only.addr()]);
    put(&clerk);
    assert_eq!(only.questions(), 0);
    put(&clerk);
    assert_eq!(only.questions(), 1);
    let began = std::time::Instant::now();
    (0..50).for_each(|_| put(&clerk));
    let most = 1 + began.elapsed().as_secs() as usize;
    assert!(only.questions() <= most, "{} questions", only.questions());
}

#[test]
fn who_has_come_is_found_when_those_who_were_known_are_gone() {
    let shared = Arc::default();
    let [first, second] = [(), ()].map(|()| Running::start(&shared));
    *shared.told.lock() = told(3, &[(1, &first), (2, &second)]);
    let clerk = clerk(&[first.addr()]);
    put_until(&clerk, &[0, 1]);
    drop(first);
    let before = second.puts();
    put(&clerk);
    assert!(second.puts() > before);
}

#[test]
fn who_has_left_is_not_asked_again() {
    let shared = Arc::default();
    let [first, second] = [(), ()].map(|()| Running::start(&shared));
    *shared.told.lock() = told(3, &[(2, &second)]);
    let clerk = clerk(&[format!("1={}", first.addr()), format!("2={}", second.addr())]);
    put_until(&clerk, &[1]);
    let before = first.puts();
    (0..5).for_each(|_| put(&clerk));
    assert_eq!(first.puts(), before);
    assert!(second.puts() >= 5, "{} puts", second.puts());
}

/// Everybody whom the members have named is gone, and the addresses that the user gave are not.
#[test]
fn the_users_addresses_come_back_when_nobody_else_answers() {
    let shared = Arc::default();
    let [first, second] = [(), ()].map(|()| Running::start(&shared));
    *shared.told.lock() = told(3, &[(2, &second)]);
    let clerk = clerk(&[format!("1={}", first.addr())]);
    put_until(&clerk, &[1]);
    put(&clerk);
    assert!(second.puts() > 0, "the first one has left");
    drop(second);
    let before = first.puts();
    put(&clerk);
    assert!(first.puts() > before);
}

#[test]
fn a_clerk_for_tests_asks_only_those_in_its_list() {
    let shared = Arc::default();
    let [first, second] = [(), ()].map(|()| Running::start(&shared));
    *shared.told.lock() = told(3, &[(2, &second)]);
    let builder = Clerk::builder().members([first.addr()]);
    let clerk = builder.only_these().build().unwrap_or_else(|error| panic!("{error}"));
    (0..3).for_each(|_| put(&clerk));
    assert_eq!((first.puts(), first.questions(), second.puts()), (3, 0, 0));
}
