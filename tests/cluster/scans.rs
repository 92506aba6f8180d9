//! Scans, from outside: one state whatever happens meanwhile, every key once, and bounds on what
//! slow readers cost.

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use syncraft::clerk::Clerk;
use syncraft::kv::model::proto::{
    KeyRange as WireKeys, Refusal, ScanReply, ScanRequest, StoreRpcStub, scan_reply,
};
use syncraft::kv::model::{Action, KeyRange, Range, Reason, Revision, ScanRange, Txn};
use syncraft::raft::MemberId;
use syncraft::rpc::{CallError, Channel, Incoming, Next, Status, StatusCode};
use syncraft::testing::{Cluster, Options};

const TEST_TIMEOUT: Duration = Duration::from_secs(60);

/// How many scans a member makes at the same time.
const SCANS_MAX: usize = 8;

/// With values of [`VALUE_LEN`] this is far more than a stream's window.
const KEYS: usize = 20_000;
const VALUE_LEN: usize = 200;

fn key(number: usize) -> String {
    format!("row/{number:06}")
}

fn fill(clerk: &Clerk, value: u8) {
    for batch in 0..KEYS / 1000 {
        let put = |at| Action::put(key(batch * 1000 + at), vec![value; VALUE_LEN]).into();
        clerk.run(&Txn { then: (0..1000).map(put).collect(), ..Txn::default() }).unwrap();
    }
}

fn rows() -> KeyRange {
    KeyRange::prefix("row/")
}

/// The keys of all rows.
fn all_keys() -> Vec<Bytes> {
    (0..KEYS).map(|number| key(number).into()).collect()
}

fn stub(cluster: &Cluster, id: MemberId) -> StoreRpcStub {
    StoreRpcStub::new(Channel::builder(cluster.members().addr(id).unwrap()).lazy())
}

fn request(keys: KeyRange, at: u64) -> ScanRequest {
    (&ScanRange { keys, keys_only: false, at: Revision(at) }).into()
}

fn open(stub: &StoreRpcStub, args: &ScanRequest) -> Incoming<ScanReply> {
    stub.scan(args, Some(Instant::now() + TEST_TIMEOUT))
}

/// Everything changes while the scan is under way, and the member that serves it dies.
#[test]
fn a_scan_goes_on_elsewhere_when_its_member_dies() {
    let cluster = Cluster::start(3).unwrap();
    let clerk = cluster.clerk();
    fill(&clerk, b'a');
    let mut scan = clerk.scan(rows());
    let mut found: Vec<_> = scan.by_ref().take(3_000).map(|entry| entry.unwrap()).collect();
    clerk.run(&Txn { then: vec![Action::delete(rows()).into()], ..Txn::default() }).unwrap();
    clerk.put("row/between", "new").unwrap();
    let leader = cluster.leader().unwrap();
    cluster.kill(leader);
    found.extend(scan.by_ref().map(|entry| entry.unwrap()));
    let revision = scan.revision();
    assert!(
        found.iter().all(|it| it.value[..] == [b'a'; VALUE_LEN] && it.mod_revision <= revision)
    );
    let keys: Vec<_> = found.into_iter().map(|entry| entry.key).collect();
    assert_eq!(keys, all_keys());
    let now: Vec<_> = clerk.scan(rows()).map(|entry| entry.unwrap().key).collect();
    assert_eq!(now, ["row/between"]);
}

/// A view needs no history. Another member has only its history to go back to that revision, and
/// says so if it is forgotten.
#[test]
fn a_compaction_does_not_end_a_stream_and_is_told_to_one_that_would_go_on() {
    let mut options = Options::default();
    // Both scans are those of the leader, and it must still lead when it is killed.
    options.timing.election_min = Duration::from_secs(3);
    options.timing.election_max = Duration::from_secs(5);
    options.timeout = TEST_TIMEOUT;
    let cluster = Cluster::start_with(3, options).unwrap();
    let clerk = cluster.clerk();
    fill(&clerk, b'a');
    let (mut whole, mut broken) = (clerk.scan(rows()), clerk.scan(rows()));
    for scan in [&mut whole, &mut broken] {
        assert_eq!(scan.by_ref().take(3_000).filter(Result::is_ok).count(), 3_000);
    }
    clerk.put("other", "x").unwrap();
    let oldest = clerk.stats().unwrap().revision;
    clerk.compact(oldest).unwrap();
    assert_eq!(whole.filter(Result::is_ok).count(), KEYS - 3_000);
    cluster.kill(cluster.leader().unwrap());
    let rest: Vec<_> = broken.by_ref().collect();
    let (error, before) = rest.split_last().unwrap();
    assert!(before.iter().all(Result::is_ok));
    let refusal = error.as_ref().unwrap_err().refusal().unwrap();
    assert_eq!((refusal.reason, refusal.value), (Reason::Compacted, oldest.0));
    assert!(broken.next().is_none(), "an error ends it");
}

/// Waits until so many scans have a place at the same time.
fn wait_for_places(stub: &StoreRpcStub, args: &ScanRequest, places: usize) {
    let deadline = Instant::now() + TEST_TIMEOUT;
    let mut held = Vec::new();
    while held.len() < places {
        let mut scan = open(stub, args);
        match busy(&mut scan) {
            None => held.push(scan),
            Some(status) => {
                assert!(Instant::now() < deadline, "{status}");
                thread::sleep(status.retry_after.expect("it is told when to come back"));
            }
        }
    }
}

/// The status, if the scan is told "busy".
fn busy(scan: &mut Incoming<ScanReply>) -> Option<Status> {
    match scan.next_timeout(TEST_TIMEOUT) {
        Next::Item(_) => None,
        Next::Failed(CallError::Ended { status, .. }) if status.code == StatusCode::Busy => {
            Some(status)
        }
        other => panic!("{other:?}"),
    }
}

/// A scan that nobody reads is not finished by buffering it: it waits for room, and holds its
/// place. There are few of these, and other reads go on. Who cancels gives the place back.
#[test]
fn scans_that_nobody_reads_wait_and_are_few() {
    let cluster = Cluster::start(1).unwrap();
    let (clerk, stub) = (cluster.clerk(), stub(&cluster, MemberId(1)));
    fill(&clerk, b'a');
    let args = request(rows(), 0);
    let mut slow: Vec<_> = (0..SCANS_MAX).map(|_| open(&stub, &args)).collect();
    for scan in &mut slow {
        assert_eq!(busy(scan), None);
    }
    for _ in 0..20 {
        assert!(busy(&mut open(&stub, &args)).is_some(), "they hold their places");
        let range = Range { limit: 5_000, ..Range::of(rows()) };
        assert_eq!(clerk.range(&range).unwrap().1.entries.len(), 5_000, "others read");
    }
    let keys: Vec<_> = clerk.scan(rows()).map(|entry| entry.unwrap().key).collect();
    assert_eq!(keys, all_keys(), "a scan without a place comes in pages");
    slow.pop();
    wait_for_places(&stub, &args, 1);
    drop(slow);
    wait_for_places(&stub, &args, SCANS_MAX);
}

/// The member gives up those who take nothing. A Clerk whose caller is that slow goes on.
#[test]
fn a_reader_that_stops_for_long_loses_its_place_and_nothing_else() {
    let cluster = Cluster::start(1).unwrap();
    let (clerk, stub) = (cluster.clerk(), stub(&cluster, MemberId(1)));
    fill(&clerk, b'a');
    let args = request(rows(), 0);
    let mut scan = clerk.scan(rows());
    let mut keys: Vec<_> = scan.by_ref().take(2_000).map(|entry| entry.unwrap().key).collect();
    let mut slow: Vec<_> = (1..SCANS_MAX).map(|_| open(&stub, &args)).collect();
    assert!(slow.iter_mut().all(|scan| busy(scan).is_none()));
    wait_for_places(&stub, &args, SCANS_MAX);
    clerk.put(key(KEYS - 1), "later").unwrap();
    for mut scan in slow {
        let end = scan.find_map(Result::err).expect("it is given up");
        let CallError::Ended { status, .. } = end else { panic!("{end:?}") };
        assert_eq!(status.code, StatusCode::DeadlineExceeded, "{status}");
    }
    let mut last = None;
    keys.extend(scan.map(|entry| last.insert(entry.unwrap()).key.clone()));
    assert_eq!(keys, all_keys());
    assert_eq!(last.unwrap().value, [b'a'; VALUE_LEN][..], "at the same revision");
}

/// A member that stops does not wait for a client to read on.
#[test]
fn a_member_that_stops_ends_its_scans() {
    let cluster = Cluster::start(1).unwrap();
    let (clerk, stub) = (cluster.clerk(), stub(&cluster, MemberId(1)));
    fill(&clerk, b'a');
    let mut scan = open(&stub, &request(rows(), 0));
    assert_eq!(busy(&mut scan), None);
    cluster.stop(MemberId(1));
    let is_last = |reply: &ScanReply| match &reply.result {
        Some(scan_reply::Result::Page(page)) => !page.more,
        _ => false,
    };
    assert!(!scan.map_while(Result::ok).any(|reply| is_last(&reply)), "it is not complete");
}

/// Nor until it has read everything, if it keeps up.
#[test]
fn a_member_that_stops_ends_a_scan_whose_client_keeps_up() {
    let cluster = Cluster::start(1).unwrap();
    let (clerk, stub) = (cluster.clerk(), stub(&cluster, MemberId(1)));
    fill(&clerk, b'a');
    let mut scan = open(&stub, &request(rows(), 0));
    assert_eq!(busy(&mut scan), None);
    let (go, may_read) = mpsc::channel();
    let reader = thread::spawn(move || {
        may_read.recv().unwrap();
        let read = |reply: Result<ScanReply, CallError>| {
            // All pages take it some seconds, and each one less than the server waits.
            thread::sleep(Duration::from_millis(100));
            match reply.ok()?.result? {
                scan_reply::Result::Page(page) => Some(page.more),
                _ => None,
            }
        };
        scan.map_while(read).all(|more| more)
    });
    go.send(()).unwrap();
    cluster.stop(MemberId(1));
    assert!(reader.join().unwrap(), "it was read to its end");
}

enum Expect {
    /// One page with so many entries, at this revision.
    Page(usize, u64),
    Refusal(Reason, u64),
    /// "Bad arguments", in words with this.
    Bad(&'static str),
}

/// What comes first is the answer, also if it is that there is nothing.
#[test]
fn a_scan_begins_with_its_revision_or_the_reason_why_there_is_none() {
    let cluster = Cluster::start(1).unwrap();
    let (clerk, stub) = (cluster.clerk(), stub(&cluster, MemberId(1)));
    for value in ["v", "w", "x"] {
        clerk.put("k", value).unwrap();
    }
    clerk.compact(Revision(3)).unwrap();
    let backwards = WireKeys { begin: "b".into(), before: Some("a".into()), open: false };
    let with_keys = |keys| ScanRequest { keys, ..ScanRequest::default() };
    let long = KeyRange::key(vec![b'x'; syncraft::kv::KEY_LEN_MAX + 1]);
    for (what, args, expected) in [
        ("one key", request(KeyRange::all(), 0), Expect::Page(1, 4)),
        ("the past", request(KeyRange::all(), 3), Expect::Page(1, 3)),
        ("nothing", request(KeyRange::prefix("none"), 0), Expect::Page(0, 4)),
        ("nothing in the past", request(KeyRange::prefix("none"), 3), Expect::Page(0, 3)),
        ("the future", request(KeyRange::all(), 5), Expect::Refusal(Reason::InTheFuture, 4)),
        ("forgotten", request(KeyRange::all(), 2), Expect::Refusal(Reason::Compacted, 3)),
        ("no keys", with_keys(None), Expect::Bad("keys")),
        ("a range that ends before it begins", with_keys(Some(backwards)), Expect::Bad("\"b\"")),
        ("a long key", request(long, 0), Expect::Bad("65537")),
    ] {
        let items: Vec<_> = open(&stub, &args).collect();
        let [item] = &items[..] else { panic!("{what}: {items:?}") };
        match (item, expected) {
            (Ok(ScanReply { result: Some(it), revision, .. }), Expect::Page(len, at)) => {
                let scan_reply::Result::Page(page) = it else { panic!("{what}: {it:?}") };
                assert_eq!((page.entries.len(), page.more, *revision), (len, false, at), "{what}");
            }
            (Ok(ScanReply { result: Some(it), .. }), Expect::Refusal(reason, value)) => {
                let scan_reply::Result::Refusal(it) = it else { panic!("{what}: {it:?}") };
                let expected = Refusal { reason: reason.number(), operation: 0, value };
                assert_eq!(*it, expected, "{what}");
            }
            (Err(CallError::Ended { status, .. }), Expect::Bad(word)) => {
                assert_eq!(status.code, StatusCode::BadArguments, "{what}");
                assert!(status.message.contains(word), "{what}: {status}");
            }
            (other, _) => panic!("{what}: {other:?}"),
        }
    }
    assert_eq!(clerk.scan(KeyRange::prefix("none")).count(), 0);
}
