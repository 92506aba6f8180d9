//! Watches over members that follow a script: what a watch asks for, and what it makes of answers,
//! good and bad.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::{Watch, WatchError};
use crate::ErrorChain;
use crate::clerk::{Clerk, ClerkErrorKind};
use crate::kv::KEY_LEN_MAX;
use crate::kv::model::proto::{
    CompactRequest, Leader, LeaseGrantReply, LeaseGrantRequest, LeaseInfoReply, LeaseInfoRequest,
    LeaseKeepAliveReply, LeaseKeepAliveRequest, LeaseRevokeRequest, LeasesReply, LeasesRequest,
    LimitsRequest, MembersReply, MembersRequest, NotServed, RangeReply, RangeRequest, ScanReply,
    ScanRequest, StatsReply, StatsRequest, StoreRpc, TxnReply, TxnRequest, WatchChanges,
    WatchCreate, WatchCreated, WatchEnded, WatchReply, WatchRequest, watch_ended, watch_reply,
    watch_request,
};
use crate::kv::model::{Change, KeyRange, Reason, Refusal, Revision};
use crate::rpc::{Done, Incoming, Outgoing, Server, Status, StatusCode};

const SOON: Duration = Duration::from_secs(10);

/// What a member does on one stream, when it is asked for a watch.
#[derive(Clone)]
enum Step {
    Created(u64),
    /// Changes of keys at revisions, and how far that is complete.
    Changes(&'static [(&'static str, u64)], u64),
    Ended(Option<watch_ended::Reason>, u64),
    /// Answers the next question how far the watch is, complete to here.
    Progress(u64),
    /// The stream fails.
    Fails(StatusCode),
    /// The stream ends.
    Ends,
}

/// A member whose streams follow scripts, one after the other. What comes after the last one is
/// not answered.
#[derive(Default)]
struct Script {
    streams: Mutex<VecDeque<Vec<Step>>>,
    asked: Mutex<Vec<WatchCreate>>,
    questions: AtomicUsize,
    over: AtomicUsize,
}

#[derive(Clone)]
struct Actor(Arc<Script>);

fn item(reply: watch_reply::Reply) -> WatchReply {
    WatchReply { id: 1, reply: Some(reply) }
}

fn changes(changes: &[(&'static str, u64)], complete_to: u64) -> WatchReply {
    let change = |&(key, revision): &(&'static str, u64)| {
        let (key, revision) = (key.into(), Revision(revision));
        (&Change::Delete { key, revision, previous: None }).into()
    };
    let changes = changes.iter().map(change).collect();
    item(watch_reply::Reply::Changes(WatchChanges { changes, complete_to }))
}

impl StoreRpc for Actor {
    fn watch(&self, requests: Incoming<WatchRequest, Status>, replies: Outgoing<WatchReply>) {
        let script = Arc::clone(&self.0);
        let over = Arc::clone(&script);
        replies.when_over(move || {
            over.over.fetch_add(1, Ordering::Relaxed);
        });
        let (mut replies, mut rest) = (Some(replies), VecDeque::new());
        requests.on_item(move |request| {
            let Ok(Some(WatchRequest { id: 1, request: Some(request) })) = request else { return };
            let is_question = match request {
                watch_request::Request::Create(create) => {
                    script.asked.lock().push(create);
                    rest = script.streams.lock().pop_front().unwrap_or_default().into();
                    false
                }
                watch_request::Request::Progress(_) => {
                    script.questions.fetch_add(1, Ordering::Relaxed);
                    true
                }
                watch_request::Request::Cancel(_) => panic!("nobody cancels one watch alone"),
            };
            while let Some(step) = rest.front() {
                if matches!(step, Step::Progress(_)) && !is_question {
                    return;
                }
                let Some(out) = &replies else { return };
                match rest.pop_front().unwrap() {
                    Step::Created(revision) => {
                        let created = watch_reply::Reply::Created(WatchCreated { revision });
                        out.try_send(&item(created)).unwrap();
                    }
                    Step::Changes(of, complete_to) => {
                        out.try_send(&changes(of, complete_to)).unwrap();
                    }
                    Step::Ended(reason, complete_to) => {
                        let ended = WatchEnded { reason, complete_to };
                        out.try_send(&item(watch_reply::Reply::Ended(ended))).unwrap();
                    }
                    Step::Progress(complete_to) => {
                        out.try_send(&changes(&[], complete_to)).unwrap();
                        return;
                    }
                    Step::Fails(code) => {
                        replies.take().unwrap().fail(Status::new(code, "on purpose"));
                    }
                    Step::Ends => replies.take().unwrap().end(),
                }
            }
        });
    }

    fn range(&self, _: RangeRequest, done: Done<RangeReply>) {
        done.run(RangeReply::default());
    }

    fn scan(&self, _: ScanRequest, replies: Outgoing<ScanReply>) {
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

/// A member with a script, and a Clerk that knows it alone.
struct Theatre {
    script: Arc<Script>,
    _server: Server,
    clerk: Clerk,
}

impl Theatre {
    fn new<const N: usize>(streams: [&[Step]; N], timeout: Duration) -> Theatre {
        let script = Script::default();
        *script.streams.lock() = streams.iter().map(|steps| steps.to_vec()).collect();
        let script = Arc::new(script);
        let service = Actor(Arc::clone(&script)).into_service();
        let server = Server::builder().service(service).bind("127.0.0.1:0").build().unwrap();
        let server = server.start();
        let clerk = Clerk::builder().members(server.local_addr()).timeout(timeout);
        Theatre { script, _server: server, clerk: clerk.build().unwrap() }
    }

    fn watch(&self) -> Watch {
        self.clerk.watch(KeyRange::prefix("k")).start().unwrap()
    }

    /// The first revisions that were asked for, one for each stream.
    fn asked_from(&self) -> Vec<u64> {
        self.script.asked.lock().iter().map(|create| create.from).collect()
    }
}

/// Waits for the next changes: their revision and keys.
#[track_caller]
fn next(watch: &mut Watch) -> (u64, Vec<String>) {
    let changes = watch.next_timeout(SOON).unwrap().expect("changes within the time");
    let key = |change: &Change| String::from_utf8(change.key().to_vec()).unwrap();
    (changes.revision.0, changes.changes.iter().map(key).collect())
}

fn refusal(reason: Reason, value: u64) -> Option<watch_ended::Reason> {
    Some(watch_ended::Reason::Refusal(Refusal::of(reason, value).into()))
}

use Step::{Changes, Created, Ended, Ends, Fails, Progress};

#[test]
fn it_resumes_behind_the_last_whole_revision() {
    let first = [Created(5), Changes(&[("k", 6), ("k", 7)], 6), Ends];
    let second = [Created(8), Changes(&[("k", 7)], 6), Changes(&[("kk", 7), ("k", 9)], 9)];
    let theatre = Theatre::new([&first, &second], SOON);
    let mut watch = theatre.watch();
    assert_eq!(watch.revision(), Revision(5));
    assert_eq!(next(&mut watch), (6, vec!["k".into()]));
    assert_eq!(next(&mut watch), (7, vec!["k".into(), "kk".into()]));
    assert_eq!(watch.revision(), Revision(8));
    assert_eq!(next(&mut watch), (9, vec!["k".into()]));
    assert_eq!(watch.revision(), Revision(9));
    assert_eq!(theatre.asked_from(), [0, 7]);
}

#[test]
fn a_watch_from_now_begins_when_it_is_made_and_not_when_it_was_asked_for() {
    let lost = [Fails(StatusCode::Busy)];
    let made = [Created(5), Fails(StatusCode::Internal)];
    let resumed = [Created(7), Changes(&[("k", 6)], 7)];
    let theatre = Theatre::new([&lost, &lost, &made, &resumed], SOON);
    let mut watch = theatre.watch();
    assert_eq!(next(&mut watch), (6, vec!["k".into()]));
    assert_eq!(theatre.asked_from(), [0, 0, 0, 6]);
}

#[test]
fn it_leaves_a_member_without_a_leader() {
    let not_served =
        NotServed { leader: Some(Leader { id: 9, addr: "nobody:1".into() }), may_apply: false };
    let no_leader = Some(watch_ended::Reason::NotServed(not_served));
    let first = [Created(5), Changes(&[("k", 6)], 6), Ended(no_leader.clone(), 6)];
    let second = [Ended(no_leader, 0)];
    let theatre = Theatre::new([&first, &second, &[Created(6), Changes(&[("k", 8)], 8)]], SOON);
    let mut watch = theatre.watch();
    assert_eq!((next(&mut watch).0, next(&mut watch).0), (6, 8));
    assert_eq!(theatre.asked_from(), [0, 7, 7]);
}

#[test]
fn a_forgotten_revision_ends_it_and_says_where_a_new_one_can_begin() {
    let first = [Created(5), Changes(&[("k", 6), ("k", 7)], 6), Ends];
    let theatre = Theatre::new([&first, &[Ended(refusal(Reason::Compacted, 20), 6)]], SOON);
    let mut watch = theatre.watch();
    assert_eq!(next(&mut watch).0, 6);
    for _ in 0..2 {
        let error = watch.next_timeout(SOON).unwrap_err();
        let resume_at = error.resume_at();
        assert!(error.is_final() && resume_at == Some(Revision(20)), "{error:?}");
        assert!(matches!(error, WatchError::Compacted { wanted: Revision(7), .. }), "{error:?}");
    }
    assert!(watch.next().is_some_and(|it| it.is_err()) && watch.next().is_none());
    assert_eq!(theatre.asked_from(), [0, 7]);
}

#[test]
fn what_can_never_be_served_is_refused_at_once() {
    let future = [Ended(refusal(Reason::InTheFuture, 5), 0)];
    let nonsense = [Ended(Some(watch_ended::Reason::BadRequest("too odd".into())), 0)];
    let theatre = Theatre::new([&future, &nonsense], SOON);
    let watch = || theatre.clerk.watch(KeyRange::key("k")).from(Revision(99)).start();
    let error = watch().unwrap_err();
    assert!(matches!(&error, WatchError::Refused(it) if it.value == 5), "{error:?}");
    let error = watch().unwrap_err();
    assert!(error.is_final() && error.to_string().contains("too odd"), "{error}");
    let long = KeyRange::key(vec![0; KEY_LEN_MAX + 1]);
    let error = theatre.clerk.watch(long).start().unwrap_err();
    assert!(error.is_final() && ErrorChain(&error).to_string().contains("65536"), "{error:?}");
    assert_eq!(theatre.asked_from(), [99, 99]);
}

#[test]
fn answers_that_make_no_sense_are_not_given_out() {
    let unordered = [Created(5), Changes(&[("k", 7), ("k", 6)], 7)];
    let early = [Changes(&[("k", 6)], 6)];
    let twice = [Created(5), Created(9)];
    let uncancelled = [Created(5), Ended(None, 9)];
    let good = [Created(8), Changes(&[("k", 6)], 8)];
    let theatre = Theatre::new([&unordered, &early, &twice, &uncancelled, &good], SOON);
    let mut watch = theatre.watch();
    assert_eq!(next(&mut watch).0, 6);
    assert_eq!(theatre.asked_from(), [0, 6, 6, 6, 6]);
}

#[test]
fn a_watch_that_nobody_serves_says_so_and_goes_on() {
    let timeout = Duration::from_millis(300);
    let theatre = Theatre::new([&[Created(5), Fails(StatusCode::ShuttingDown)]], timeout);
    let mut watch = theatre.watch();
    let began = Instant::now();
    let error = watch.next_timeout(SOON).unwrap_err();
    assert!(began.elapsed() >= timeout && began.elapsed() < SOON / 2, "{:?}", began.elapsed());
    assert!(!error.is_final(), "{error}");
    let WatchError::NotServed(error) = error else { panic!("{error:?}") };
    assert_eq!(error.kind(), ClerkErrorKind::NotApplied);
    assert!(error.to_string().starts_with("watch failed after"), "{error}");

    let asked = theatre.asked_from().len();
    assert!(asked < 20, "{asked} streams in {timeout:?}: there are pauses");
    *theatre.script.streams.lock() = [vec![Created(9), Changes(&[("k", 7)], 9)]].into();
    let mut found = watch.find_map(Result::ok);
    assert_eq!(found.take().map(|it| it.revision), Some(Revision(7)));

    let nobody = Theatre::new([], timeout);
    let error = nobody.clerk.watch(KeyRange::all()).start().unwrap_err();
    assert!(!error.is_final(), "{error}");
}

/// A member that ends each watch as soon as it has made it is not asked in a tight loop.
#[test]
fn false_starts_are_followed_by_pauses() {
    let false_start = [Created(5), Ends];
    let theatre = Theatre::new([&false_start[..]; 200], SOON);
    let mut watch = theatre.watch();
    let wait = Duration::from_millis(400);
    assert_eq!(watch.next_timeout(wait).unwrap(), None);
    let asked = theatre.asked_from().len();
    assert!(asked < 40, "{asked} streams");
    // A thread that is held up has asked for few so far.
    let deadline = Instant::now() + SOON;
    while theatre.asked_from().len() < 3 {
        assert!(Instant::now() < deadline, "it is not asked again");
        assert_eq!(watch.next_timeout(wait).unwrap(), None);
    }
}

#[test]
fn a_caller_that_only_looks_is_served_too() {
    let second = [Created(9), Changes(&[("k", 7)], 9)];
    let theatre = Theatre::new([&[Created(5), Ends], &second], Duration::from_millis(50));
    let mut watch = theatre.watch();
    let deadline = Instant::now() + SOON;
    let found = loop {
        assert!(Instant::now() < deadline);
        match watch.next_timeout(Duration::ZERO) {
            Ok(Some(changes)) => break changes,
            Ok(None) => std::thread::yield_now(),
            Err(error) => assert!(!error.is_final(), "{error}"),
        }
    };
    assert_eq!(found.revision, Revision(7));
}

#[test]
fn a_quiet_member_is_asked_how_far_it_is_and_left_if_it_does_not_say() {
    let first = [Created(5), Progress(8), Progress(11)];
    let theatre = Theatre::new([&first, &[Created(12), Changes(&[("k", 12)], 12)]], SOON * 3);
    let mut watch = theatre.watch();
    assert_eq!(watch.next_timeout(Duration::from_secs(4)).unwrap(), None);
    assert_eq!(watch.revision(), Revision(8));
    // Nobody has waited in the meantime, so that this was no silence.
    watch.link.hush();
    assert_eq!(watch.next_timeout(Duration::from_millis(500)).unwrap(), None);
    assert_eq!(watch.revision(), Revision(11));
    watch.link.hush();
    let began = Instant::now();
    assert_eq!(next(&mut watch).0, 12);
    assert!(began.elapsed() >= Duration::from_secs(2), "{:?}", began.elapsed());
    assert_eq!(theatre.script.questions.load(Ordering::Relaxed), 3);
    assert_eq!(theatre.asked_from(), [0, 12]);
}

#[test]
fn dropping_it_cancels_it() {
    fn is_send<T: Send>(_: &T) {}
    let theatre = Theatre::new([&[Created(5)]], SOON);
    let watch = theatre.watch();
    is_send(&watch);
    assert_eq!(theatre.script.over.load(Ordering::Relaxed), 0);
    drop(watch);
    let deadline = Instant::now() + SOON;
    while theatre.script.over.load(Ordering::Relaxed) == 0 {
        assert!(Instant::now() < deadline, "the member was not told");
        std::thread::yield_now();
    }
}

#[test]
fn filters_reach_the_member() {
    let theatre = Theatre::new([&[Created(5)], &[Created(5)]], SOON);
    let watch = || theatre.clerk.watch(KeyRange::key("k"));
    let _puts = watch().puts_only().previous().start().unwrap();
    let _deletes = watch().from(Revision(3)).deletes_only().start().unwrap();
    let asked = theatre.script.asked.lock();
    let seen = |it: &WatchCreate| (it.from, it.without_puts, it.without_deletes, it.previous);
    let seen: Vec<_> = asked.iter().map(seen).collect();
    assert_eq!(seen, [(0, false, true, true), (3, true, false, false)]);
}
