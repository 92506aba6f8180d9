//! Scans of a Clerk with members that have no stream for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

use super::Clerk;
use crate::kv::model::proto::{
    CompactRequest, LeaseGrantReply, LeaseGrantRequest, LeaseInfoReply, LeaseInfoRequest,
    LeaseKeepAliveReply, LeaseKeepAliveRequest, LeaseRevokeRequest, LeasesReply, LeasesRequest,
    LimitsRequest, MembersReply, MembersRequest, RangeReply, RangeRequest, ScanReply, ScanRequest,
    StatsReply, StatsRequest, StoreRpc, StoreRpcService, TxnReply, TxnRequest, WatchReply,
    WatchRequest, range_reply, scan_reply,
};
use crate::kv::model::{Entry, KeyRange, LeaseId, Range, RangeAnswer, Revision, ScanPage};
use crate::rpc::{Call, Done, Incoming, Outgoing, Server, Service, Status};

const KEYS: usize = 25_000;

/// How a member answers a request for a stream.
#[derive(Clone, Copy)]
enum Script {
    Busy,
    /// With a page that says there is more, and nothing else.
    EndsAtOnce,
    /// With a page that nothing could follow, though it says so.
    Nonsense,
}

/// A member whose keys are the numbers up to [`KEYS`].
struct Actor {
    script: Script,
    pages: Arc<AtomicUsize>,
    scans: Arc<AtomicUsize>,
}

fn entry(number: usize) -> Entry {
    let revision = Revision(1);
    Entry {
        key: format!("{number:06}").into(),
        value: Bytes::new(),
        create_revision: revision,
        mod_revision: revision,
        version: 1,
        lease: LeaseId::NONE,
    }
}

/// The first entries of `keys`, and whether there are more.
fn entries(keys: &KeyRange, limit: usize) -> (Vec<Entry>, bool) {
    let found = (0..KEYS).map(entry).filter(|entry| keys.contains(&entry.key));
    let mut entries: Vec<_> = found.take(limit + 1).collect();
    let more = entries.len() > limit;
    entries.truncate(limit);
    (entries, more)
}

impl StoreRpc for Actor {
    fn range(&self, args: RangeRequest, done: Done<RangeReply>) {
        self.pages.fetch_add(1, Ordering::Relaxed);
        let range = Range::try_from(args.range.unwrap()).unwrap();
        let (entries, more) = entries(&range.keys, range.limit as usize);
        let answer = RangeAnswer { count: entries.len() as u64, entries, more };
        let result = Some(range_reply::Result::Answer((&answer).into()));
        done.run(RangeReply { result, revision: 7, ..RangeReply::default() });
    }

    fn scan(&self, args: ScanRequest, replies: Outgoing<ScanReply>) {
        self.scans.fetch_add(1, Ordering::Relaxed);
        assert_eq!(args.at, 7, "the revision of the first page");
        let page = match self.script {
            Script::Busy => return replies.fail(Status::busy("on purpose", Default::default())),
            Script::EndsAtOnce => {
                let keys = KeyRange::try_from(args.keys.unwrap()).unwrap();
                let (entries, more) = entries(&keys, 5_000);
                ScanPage { entries, more }
            }
            Script::Nonsense => ScanPage { entries: Vec::new(), more: true },
        };
        let result = Some(scan_reply::Result::Page((&page).into()));
        replies.try_send(&ScanReply { result, revision: 7, leader: None }).unwrap();
        replies.end();
    }

    fn txn(&self, _: TxnRequest, done: Done<TxnReply>) {
        done.run(TxnReply::default());
    }

    fn compact(&self, _: CompactRequest, done: Done<TxnReply>) {
        done.run(TxnReply::default());
    }

    fn set_limits(&self, _: LimitsRequest, done: Done<TxnReply>) {
        done.run(TxnReply::default());
    }

    fn stats(&self, _: StatsRequest, done: Done<StatsReply>) {
        done.run(StatsReply::default());
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

/// A member of a version without streams: to it, a stream is an unknown method.
struct Older(StoreRpcService<Actor>);

impl Service for Older {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn methods(&self) -> &'static [&'static str] {
        self.0.methods()
    }

    fn call(&self, method: usize, args: Bytes, call: Call) {
        self.0.call(method, args, call);
    }
}

/// What a scan of all keys finds, and how many pages and streams it asked for.
fn scan(
    script: Script,
    publish: impl FnOnce(StoreRpcService<Actor>) -> Server,
) -> (Vec<Result<Entry, super::ClerkError>>, usize, usize) {
    let (pages, scans) = (Arc::default(), Arc::default());
    let actor = Actor { script, pages: Arc::clone(&pages), scans: Arc::clone(&scans) };
    let server = publish(StoreRpcService::new(Arc::new(actor)));
    let timeout = std::time::Duration::from_secs(1);
    let clerk = Clerk::builder().members(server.local_addr()).timeout(timeout).build().unwrap();
    let found = clerk.scan(KeyRange::all()).collect();
    (found, pages.load(Ordering::Relaxed), scans.load(Ordering::Relaxed))
}

fn serve(service: impl Service) -> Server {
    Server::builder().service(service).bind("127.0.0.1:0").build().unwrap().start()
}

fn check(found: Vec<Result<Entry, super::ClerkError>>) {
    let found: Vec<_> = found.into_iter().map(Result::unwrap).collect();
    assert_eq!(found, (0..KEYS).map(entry).collect::<Vec<_>>());
}

#[test]
fn a_busy_member_is_asked_for_pages_and_then_again_for_a_stream() {
    let (found, pages, scans) = scan(Script::Busy, serve);
    check(found);
    assert_eq!((pages, scans), (4, 3), "a short page, then two of 10,000, then the rest");
}

#[test]
fn a_member_without_streams_is_asked_for_pages_alone() {
    let (found, pages, scans) = scan(Script::Busy, |service| serve(Older(service)));
    check(found);
    assert_eq!((pages, scans), (4, 0));
}

#[test]
fn a_stream_that_ends_early_is_a_part() {
    let (found, pages, scans) = scan(Script::EndsAtOnce, serve);
    check(found);
    assert_eq!((pages, scans), (1, 5), "998 in a page, then 5,000 from each stream");
}

#[test]
fn an_empty_page_is_not_taken_for_the_end() {
    let (mut found, _, _) = scan(Script::Nonsense, serve);
    let error = found.pop().unwrap().unwrap_err();
    assert!(error.to_string().contains("empty page"), "{error}");
    assert_eq!(found.len(), 998);
}
