//! Watches, from outside: every change, once, in order and whole, or an end that says why not.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use syncraft::clerk::Clerk;
use syncraft::kv::model::proto::{
    KeyRange as WireKeys, NotServed, Refusal, StoreRpcStub, WatchCancel, WatchCreate, WatchEnded,
    WatchProgress, WatchReply, WatchRequest, watch_ended, watch_reply, watch_request,
};
use syncraft::kv::model::{Action, Change, KeyRange, Operation, Reason, Revision, Txn, WatchRange};
use syncraft::raft::MemberId;
use syncraft::rpc::{CallError, Channel, Incoming, Next, Sender, StatusCode};
use syncraft::testing::{Cluster, Options};

const TEST_TIMEOUT: Duration = Duration::from_secs(60);

/// The watches of one stream, and what they were told.
struct Watches {
    /// Keeps the connection.
    _stub: StoreRpcStub,
    sender: Sender<WatchRequest>,
    replies: Incoming<WatchReply>,
    told: BTreeMap<u64, Told>,
}

#[derive(Debug, Default)]
struct Told {
    created: Option<u64>,
    changes: Vec<Change>,
    complete_to: u64,
    ended: Option<WatchEnded>,
}

impl Told {
    /// Checks what every message must keep to.
    fn take(&mut self, id: u64, reply: watch_reply::Reply) {
        assert_eq!(self.ended, None, "watch {id}: nothing follows its end");
        match reply {
            watch_reply::Reply::Created(it) => {
                assert_eq!(self.created.replace(it.revision), None, "watch {id} is made once");
            }
            watch_reply::Reply::Changes(it) => {
                assert!(self.created.is_some(), "watch {id} is made first");
                assert!(it.complete_to >= self.complete_to, "watch {id} goes back");
                for change in it.changes {
                    let change = Change::try_from(change).unwrap();
                    let place = |it: &Change| (it.revision(), it.key().clone());
                    let last = self.changes.last().map(place);
                    assert!(last < Some(place(&change)), "watch {id}: {last:?}, then {change:?}");
                    assert!(change.revision().0 > self.complete_to, "watch {id}: {change:?}");
                    self.changes.push(change);
                }
                self.complete_to = it.complete_to;
            }
            watch_reply::Reply::Ended(it) => {
                assert!(it.complete_to >= self.complete_to || self.created.is_none());
                self.complete_to = it.complete_to;
                self.ended = Some(it);
            }
        }
    }

    /// Those of complete revisions.
    fn complete(&self) -> impl Iterator<Item = &Change> {
        self.changes.iter().filter(|it| it.revision().0 <= self.complete_to)
    }

    fn is_not_served(&self) -> bool {
        let reason = self.ended.as_ref().and_then(|it| it.reason.as_ref());
        matches!(reason, Some(watch_ended::Reason::NotServed(_)))
    }

    fn refusal(&self) -> Option<(Reason, u64)> {
        match self.ended.as_ref()?.reason.as_ref()? {
            watch_ended::Reason::Refusal(Refusal { reason, value, .. }) => {
                Some((Reason::from_number(*reason).unwrap(), *value))
            }
            _ => None,
        }
    }
}

impl Watches {
    fn open(stub: &StoreRpcStub) -> Watches {
        let (sender, replies) = stub.watch(Some(Instant::now() + 2 * TEST_TIMEOUT));
        Watches { _stub: stub.clone(), sender, replies, told: BTreeMap::new() }
    }

    fn at(cluster: &Cluster, id: MemberId) -> Watches {
        Watches::open(&stub(cluster, id))
    }

    fn ask(&self, id: u64, request: impl Into<Option<watch_request::Request>>) {
        let request = WatchRequest { id, request: request.into() };
        self.sender.send(&request, Instant::now() + TEST_TIMEOUT).unwrap();
    }

    fn create(&self, id: u64, range: &WatchRange) {
        self.ask(id, watch_request::Request::Create(range.into()));
    }

    /// Makes a watch of these keys, and waits until it is made.
    fn watch(&mut self, id: u64, keys: KeyRange, from: u64) {
        let range = WatchRange { from: Revision(from), ..WatchRange::of(keys) };
        let deadline = Instant::now() + TEST_TIMEOUT;
        loop {
            self.create(id, &range);
            let told = self.until(id, |told| told.created.is_some() || told.ended.is_some());
            if told.created.is_some() {
                return;
            }
            // On a busy machine a member may know no leader for a moment.
            assert!(told.is_not_served() && Instant::now() < deadline, "{told:?}");
            self.told.remove(&id);
        }
    }

    fn cancel(&self, id: u64) {
        self.ask(id, watch_request::Request::Cancel(WatchCancel {}));
    }

    fn progress(&self, id: u64) {
        self.ask(id, watch_request::Request::Progress(WatchProgress {}));
    }

    /// What the next message of the stream says, if it is not the end.
    fn next(&mut self) -> Result<(), CallError> {
        match self.replies.next_timeout(TEST_TIMEOUT) {
            Next::Item(WatchReply { id, reply }) => {
                self.told.entry(id).or_default().take(id, reply.expect("a reply says something"));
                Ok(())
            }
            Next::Failed(error) => Err(error),
            other => panic!("{other:?}; told: {:?}", self.told),
        }
    }

    fn until(&mut self, id: u64, is_so: impl Fn(&Told) -> bool) -> &Told {
        while !self.told.get(&id).is_some_and(&is_so) {
            self.next().unwrap();
        }
        &self.told[&id]
    }

    fn until_complete(&mut self, id: u64, revision: Revision) -> &Told {
        self.until(id, |told| told.complete_to >= revision.0 || told.ended.is_some())
    }
}

fn stub(cluster: &Cluster, id: MemberId) -> StoreRpcStub {
    StoreRpcStub::new(Channel::builder(cluster.members().addr(id).unwrap()).lazy())
}

fn txn(actions: impl IntoIterator<Item = Action>) -> Txn {
    Txn { then: actions.into_iter().map(Operation::from).collect(), ..Txn::default() }
}

fn revision(clerk: &Clerk) -> Revision {
    clerk.stats().unwrap().revision
}

fn strings<const N: usize>(values: [&str; N]) -> Vec<String> {
    values.map(str::to_owned).to_vec()
}

fn values(changes: &[Change]) -> Vec<String> {
    let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
    let value = |it: &Change| it.value().map_or("-".to_owned(), text);
    changes.iter().map(value).collect()
}

/// Each transaction changes three keys at once, so half of one would show.
#[test]
fn all_members_tell_the_same_changes_whole_and_in_order() {
    const WRITERS: u64 = 4;
    const WRITES: u64 = 100;
    let cluster = Cluster::start(3).unwrap();
    let first = revision(&cluster.clerk());
    let mut watches: Vec<Watches> =
        cluster.ids().into_iter().map(|id| Watches::at(&cluster, id)).collect();
    for watches in &mut watches {
        watches.watch(1, KeyRange::prefix("k/"), 0);
        watches.watch(2, KeyRange::key("k/a/1"), 0);
    }
    thread::scope(|scope| {
        for writer in 0..WRITERS {
            let clerk = cluster.clerk();
            scope.spawn(move || {
                for n in 0..WRITES {
                    let key = |place| format!("k/{place}/{writer}");
                    let last = match n % 10 {
                        9 => Action::delete(KeyRange::key(key("c"))),
                        _ => Action::put(key("c"), n.to_string()),
                    };
                    let (a, b) = (Action::put(key("b"), "v"), Action::append(key("a"), "x"));
                    clerk.run(&txn([a, b, last])).unwrap();
                    clerk.put("other", "v").unwrap();
                }
            });
        }
    });
    let clerk = cluster.clerk();
    let last = revision(&clerk);
    clerk.run(&txn([Action::put("k/a/1", ""), Action::put("k/end", "")])).unwrap();
    let all: Vec<Vec<Change>> = watches
        .iter_mut()
        .map(|it| {
            // The last transaction may be told already, or not yet.
            let complete = it.until_complete(1, last).complete();
            complete.filter(|it| it.revision() <= last).cloned().collect()
        })
        .collect();
    assert!(all[0] == all[1] && all[1] == all[2]);
    let mut by_revision = BTreeMap::<u64, Vec<&Change>>::new();
    all[0].iter().for_each(|it| by_revision.entry(it.revision().0).or_default().push(it));
    assert_eq!(by_revision.len() as u64, WRITERS * WRITES);
    assert!(by_revision.values().all(|changes| changes.len() == 3));
    assert_eq!(last.0 - first.0, 2 * WRITERS * WRITES);
    for watches in &mut watches {
        let told = watches.until_complete(2, last).complete();
        let lens: Vec<usize> = told.filter_map(|it| it.value()).map(Bytes::len).collect();
        assert_eq!(lens[..WRITES as usize], (1..=WRITES as usize).collect::<Vec<_>>());
    }
}

#[test]
fn a_watch_goes_on_at_another_member_when_its_own_dies() {
    let cluster = Cluster::start(3).unwrap();
    let leader = cluster.leader().unwrap();
    let mut watches = Watches::at(&cluster, leader);
    watches.watch(1, KeyRange::prefix("k"), 0);
    let clerk = cluster.clerk();
    let write =
        |n: usize| clerk.run(&txn([Action::put("k1", n.to_string()), Action::put("k2", "")]));
    (0..200).for_each(|n| drop(write(n).unwrap()));
    watches.until(1, |told| told.changes.len() > 100);
    cluster.kill(leader);
    while watches.next().is_ok() {}
    let before = &watches.told[&1];
    let told: Vec<Change> = before.complete().cloned().collect();
    let resume = before.complete_to + 1;
    (200..300).for_each(|n| drop(write(n).unwrap()));
    let last = revision(&clerk);
    for id in cluster.ids().into_iter().filter(|id| *id != leader) {
        let mut other = Watches::at(&cluster, id);
        other.watch(1, KeyRange::prefix("k"), resume);
        let rest = other.until_complete(1, last).changes.clone();
        let all: Vec<String> = values(&[&told[..], &rest[..]].concat())
            .into_iter()
            .filter(|it| !it.is_empty())
            .collect();
        assert_eq!(all, (0..300).map(|n| n.to_string()).collect::<Vec<_>>());
    }
}

/// A follower that was away for long gets a snapshot. Its watches find what they have missed in the
/// history that came with it, or that it is forgotten.
#[test]
fn watches_outlive_a_snapshot_that_replaces_the_state() {
    let mut options = Options::default();
    options.snapshot_log_bytes = 64 << 10;
    // Watches end after three times this.
    options.timing.election_max = Duration::from_secs(10);
    let cluster = Cluster::start_with(3, options).unwrap();
    let leader = cluster.leader().unwrap();
    let (one, others): (Vec<_>, Vec<_>) = cluster
        .ids()
        .into_iter()
        .partition(|id| *id == MemberId(if leader == MemberId(1) { 2 } else { 1 }));
    let (follower, clerk) = (one[0], cluster.clerk_of(leader));
    let snapshot_of = |id| cluster.status(id).unwrap().snapshot_index;
    for is_compacted in [false, true] {
        let mut watches = Watches::at(&cluster, follower);
        watches.watch(1, KeyRange::key("k"), 0);
        watches.watch(2, KeyRange::key("quiet"), 0);
        let cut_at = cluster.status(leader).unwrap().commit_index;
        cluster.partition(&one, &others);
        let fill = |count| {
            (0..count).for_each(|_| clerk.put("filler", vec![b'x'; 200_000]).unwrap());
        };
        // What is on its way meanwhile arrives late: 8 MiB.
        fill(50);
        (0..50).for_each(|n| clerk.put("k", n.to_string()).unwrap());
        let last = revision(&clerk);
        if is_compacted {
            clerk.compact(last).unwrap();
        }
        // The leader keeps some entries for followers that are a little late: 32 MiB.
        fill(200);
        let compacted_at = cluster.status(leader).unwrap().commit_index;
        let deadline = Instant::now() + TEST_TIMEOUT;
        while snapshot_of(leader) <= compacted_at {
            assert!(Instant::now() < deadline, "no snapshot");
            clerk.put("filler", vec![b'x'; 2_000]).unwrap();
        }
        clerk.put("quiet", "v").unwrap();
        cluster.heal();
        let told = watches.until_complete(1, last);
        let told_quiet = match is_compacted {
            false => {
                assert_eq!(
                    values(&told.changes),
                    (0..50).map(|n| n.to_string()).collect::<Vec<_>>()
                );
                watches.until(2, |told| !told.changes.is_empty())
            }
            true => {
                let compacted = Some((Reason::Compacted, last.0 + 1));
                assert_eq!((told.refusal(), told.changes.len()), (compacted, 0));
                let told = watches.until(2, |told| told.ended.is_some());
                assert_eq!((told.refusal(), told.changes.len()), (compacted, 0));
                continue;
            }
        };
        assert_eq!(values(&told_quiet.changes), ["v"]);
        assert!(snapshot_of(follower) > cut_at, "it got a snapshot");
    }
}

/// A follower learns a moment later than its leader what is committed.
#[test]
fn a_new_watch_knows_what_was_written_before_it() {
    let cluster = Cluster::start(3).unwrap();
    let (leader, clerk) = (cluster.leader().unwrap(), cluster.clerk());
    let followers = cluster.ids().into_iter().filter(|id| *id != leader);
    let mut all: Vec<Watches> = followers.map(|id| Watches::at(&cluster, id)).collect();
    for id in 0..20 {
        clerk.put("k", id.to_string()).unwrap();
        let written = revision(&clerk).0;
        for watches in &mut all {
            watches.watch(id, KeyRange::key("k"), 0);
            assert!(watches.told[&id].created >= Some(written), "{id}");
        }
    }
}

#[test]
fn what_is_forgotten_ends_a_watch_that_needs_it_and_no_other() {
    let cluster = Cluster::start(1).unwrap();
    let (clerk, mut watches) = (cluster.clerk(), Watches::at(&cluster, MemberId(1)));
    watches.watch(1, KeyRange::key("quiet"), 0);
    (0..10).for_each(|n| clerk.put("k", n.to_string()).unwrap());
    let now = revision(&clerk);
    clerk.compact(now).unwrap();
    for (id, from) in [(2, 1), (3, 2), (4, now.0)] {
        watches.create(id, &WatchRange { from: Revision(from), ..WatchRange::of(KeyRange::all()) });
        let told = watches.until(id, |told| told.ended.is_some());
        assert_eq!(told.refusal(), Some((Reason::Compacted, now.0 + 1)), "from {from}");
        assert!(told.changes.is_empty());
    }
    watches.watch(5, KeyRange::all(), now.0 + 1);
    clerk.put("quiet", "v").unwrap();
    for id in [1, 5] {
        let told = watches.until_complete(id, now.next());
        assert_eq!((values(&told.changes), &told.ended), (strings(["v"]), &None));
    }
    // A deletion at the very revision that is compacted is not lost: a watch from there is refused.
    clerk.delete("quiet").unwrap();
    let deleted = revision(&clerk);
    assert_eq!(values(&watches.until_complete(1, deleted).changes), ["v", "-"]);
    clerk.compact(deleted).unwrap();
    watches.create(6, &WatchRange { from: deleted, ..WatchRange::of(KeyRange::all()) });
    let told = watches.until(6, |told| told.ended.is_some());
    assert_eq!(told.refusal(), Some((Reason::Compacted, deleted.0 + 1)));
    clerk.put("quiet", "w").unwrap();
    let told = watches.until_complete(1, deleted.next());
    assert_eq!((values(&told.changes), &told.ended), (strings(["v", "-", "w"]), &None));
}

/// What a client does not read is not kept for it. Others get theirs meanwhile, also over the same
/// connection.
#[test]
fn a_slow_client_costs_others_nothing_and_is_told_what_it_has_lost() {
    const WRITES: usize = 2_000;
    let cluster = Cluster::start(1).unwrap();
    let (clerk, stub) = (cluster.clerk(), stub(&cluster, MemberId(1)));
    let [mut slow, mut fast, mut lost] = [(); 3].map(|()| Watches::open(&stub));
    for watches in [&mut slow, &mut fast, &mut lost] {
        watches.watch(1, KeyRange::key("k"), 0);
    }
    let begin = revision(&clerk);
    let write = |n: usize| clerk.put("k", format!("{n}{}", "x".repeat(2_000))).unwrap();
    (0..WRITES).for_each(write);
    let last = revision(&clerk);
    let count = |told: &Told| {
        let number = |it: &Change| it.revision().0 - begin.0;
        assert!(told.complete().map(number).eq(1..=told.complete().count() as u64));
        told.complete().count()
    };
    assert_eq!(count(fast.until_complete(1, last)), WRITES);
    assert_eq!(count(slow.until_complete(1, last)), WRITES);
    clerk.compact(last).unwrap();
    let told = lost.until(1, |told| told.ended.is_some());
    assert_eq!(told.refusal(), Some((Reason::Compacted, last.0 + 1)));
    assert!(count(told) < WRITES && told.complete_to < last.0);
    lost.watch(2, KeyRange::key("k"), last.0 + 1);
    write(WRITES);
    assert_eq!(lost.until_complete(2, last.next()).changes.len(), 1);
}

/// A member tells such watches together, and again and again there is room for a part of them only.
#[test]
fn watches_that_share_a_stream_and_a_key_lose_nothing_when_there_is_no_room() {
    const WATCHES: u64 = 400;
    const WRITES: usize = 200;
    let cluster = Cluster::start(1).unwrap();
    let clerk = cluster.clerk();
    let mut streams = [(); 2].map(|()| Watches::at(&cluster, MemberId(1)));
    for id in 0..WATCHES {
        streams.iter_mut().for_each(|watches| watches.watch(id, KeyRange::key("k"), 0));
    }
    // A client that leaves takes its watches with it, and no others.
    let mut leaves = Watches::at(&cluster, MemberId(1));
    (0..WATCHES).for_each(|id| leaves.watch(id, KeyRange::key("k"), 0));
    let begin = revision(&clerk);
    let pad = "x".repeat(500);
    for n in 0..WRITES {
        clerk.put("k", format!("{n}{pad}")).unwrap();
        if n == WRITES / 2 {
            leaves = Watches::at(&cluster, MemberId(1));
        }
    }
    let last = revision(&clerk);
    for watches in &mut streams {
        for id in 0..WATCHES {
            let told = watches.until_complete(id, last);
            let numbers = told.complete().map(|it| it.revision().0 - begin.0);
            assert!(numbers.eq(1..=WRITES as u64), "watch {id}");
        }
    }
    assert!(leaves.told.is_empty());
}

/// They are read from an index that another thread makes, and do not hold up the others.
#[test]
fn watches_that_are_far_behind_catch_up() {
    const KEYS: usize = 100;
    const WRITES: usize = 200;
    let cluster = Cluster::start(1).unwrap();
    let clerk = cluster.clerk();
    for n in 0..WRITES {
        let put = |key| Action::put(format!("k/{key:03}"), n.to_string());
        clerk.run(&txn((0..KEYS).map(put))).unwrap();
    }
    let last = revision(&clerk);
    let mut near = Watches::at(&cluster, MemberId(1));
    near.watch(1, KeyRange::key("new"), 0);
    let mut watches = Watches::at(&cluster, MemberId(1));
    for id in 0..20 {
        watches.create(id, &WatchRange { from: Revision(2), ..WatchRange::of(KeyRange::all()) });
        let range = WatchRange { from: Revision(2), ..WatchRange::of(KeyRange::key("k/007")) };
        watches.create(100 + id, &range);
    }
    clerk.put("new", "v").unwrap();
    assert_eq!(values(&near.until_complete(1, last.next()).changes), ["v"]);
    for id in 0..20 {
        let told = watches.until_complete(id, last.next());
        assert_eq!((told.changes.len(), &told.ended), (KEYS * WRITES + 1, &None));
        let told = watches.until_complete(100 + id, last);
        assert_eq!(values(&told.changes), (0..WRITES).map(|n| n.to_string()).collect::<Vec<_>>());
    }
}

#[test]
fn a_member_that_is_cut_off_says_so_and_ends_its_watches() {
    let cluster = Cluster::start(3).unwrap();
    for is_leader in [false, true] {
        let leader = cluster.leader().unwrap();
        let is_it = |id: &MemberId| (*id == leader) == is_leader;
        let (cut, others): (Vec<_>, Vec<_>) = match is_leader {
            true => cluster.ids().into_iter().partition(is_it),
            false => {
                let cut = cluster.ids().into_iter().find(is_it).unwrap();
                cluster.ids().into_iter().partition(|id| *id == cut)
            }
        };
        let mut watches = Watches::at(&cluster, cut[0]);
        watches.watch(1, KeyRange::all(), 0);
        let begin = Instant::now();
        cluster.partition(&cut, &others);
        let not_served = |told: &Told| {
            let reason = told.ended.as_ref().and_then(|ended| ended.reason.as_ref());
            matches!(
                reason,
                Some(watch_ended::Reason::NotServed(NotServed { may_apply: false, .. }))
            )
        };
        assert!(not_served(watches.until(1, |told| told.ended.is_some())));
        // A leader may be lost for a moment: three election timeouts.
        let patience = 3 * Duration::from_millis(600);
        // The last look at the leader was before.
        let look = Duration::from_millis(200);
        assert!(begin.elapsed() + look >= patience, "{:?}", begin.elapsed());
        watches.create(2, &WatchRange::of(KeyRange::all()));
        assert!(not_served(watches.until(2, |told| told.ended.is_some())));
        cluster.heal();
        let clerk = cluster.clerk();
        clerk.put("k", "v").unwrap();
        let deadline = Instant::now() + TEST_TIMEOUT;
        for id in 3.. {
            watches.create(id, &WatchRange::of(KeyRange::all()));
            let told = watches.until(id, |told| told.ended.is_some() || told.created.is_some());
            if told.created.is_some() {
                break;
            }
            assert!(Instant::now() < deadline, "{told:?}");
        }
    }
}

/// Also if clients do not read.
#[test]
fn a_member_that_stops_ends_its_watches() {
    let cluster = Cluster::start(1).unwrap();
    let clerk = cluster.clerk();
    let [mut idle, mut slow] = [(); 2].map(|()| Watches::at(&cluster, MemberId(1)));
    idle.watch(1, KeyRange::key("quiet"), 0);
    slow.watch(1, KeyRange::key("k"), 0);
    (0..300).for_each(|_| clerk.put("k", vec![b'x'; 4_000]).unwrap());
    cluster.stop(1);
    for mut watches in [idle, slow] {
        let error = loop {
            if let Err(error) = watches.next() {
                break error;
            }
        };
        let is_told = match &error {
            CallError::Ended { status, .. } => status.code == StatusCode::ShuttingDown,
            CallError::Lost { .. } => true,
            _ => false,
        };
        assert!(is_told, "{error:?}");
    }
}

#[test]
fn a_request_that_makes_no_sense_is_answered_in_words_and_the_others_go_on() {
    let cluster = Cluster::start(1).unwrap();
    let (clerk, mut watches) = (cluster.clerk(), Watches::at(&cluster, MemberId(1)));
    watches.watch(1, KeyRange::all(), 0);
    let with_keys =
        |keys| watch_request::Request::Create(WatchCreate { keys, ..Default::default() });
    let backwards = WireKeys { begin: "b".into(), before: Some("a".into()), open: false };
    let long = KeyRange::key(vec![b'x'; syncraft::kv::KEY_LEN_MAX + 1]);
    let cancel = watch_request::Request::Cancel(WatchCancel {});
    let progress = watch_request::Request::Progress(WatchProgress {});
    let bad: [(_, Option<watch_request::Request>, _); 6] = [
        (10, None, "does not say"),
        (11, Some(with_keys(None)), "keys"),
        (12, Some(with_keys(Some(backwards))), "\"b\""),
        (13, Some(with_keys(Some((&long).into()))), "65537"),
        (14, Some(cancel), "no watch 14"),
        (15, Some(progress), "no watch 15"),
    ];
    for (id, request, word) in bad {
        watches.ask(id, request);
        let told = watches.until(id, |told| told.ended.is_some());
        let reason = told.ended.clone().unwrap().reason;
        let Some(watch_ended::Reason::BadRequest(words)) = reason else { panic!("{reason:?}") };
        assert!(words.contains(word), "{words}");
    }
    watches.watch(20, KeyRange::all(), 0);
    watches.create(20, &WatchRange::of(KeyRange::all()));
    let reason = watches.until(20, |told| told.ended.is_some()).ended.clone().unwrap().reason;
    assert!(matches!(reason, Some(watch_ended::Reason::BadRequest(_))), "{reason:?}");
    clerk.put("k", "v").unwrap();
    assert_eq!(values(&watches.until_complete(1, revision(&clerk)).changes), ["v"]);
}

#[test]
fn a_watch_of_the_future_begins_there() {
    let cluster = Cluster::start(1).unwrap();
    let (clerk, mut watches) = (cluster.clerk(), Watches::at(&cluster, MemberId(1)));
    let now = revision(&clerk).0;
    watches.watch(1, KeyRange::all(), now + 3);
    (0..5).for_each(|n| clerk.put("k", n.to_string()).unwrap());
    assert_eq!(values(&watches.until_complete(1, Revision(now + 5)).changes), ["2", "3", "4"]);
    assert_eq!(watches.told[&1].created, Some(now));
}

#[test]
fn what_is_not_asked_for_is_not_told() {
    let cluster = Cluster::start(1).unwrap();
    let (clerk, mut watches) = (cluster.clerk(), Watches::at(&cluster, MemberId(1)));
    let range = WatchRange { previous: true, ..WatchRange::of(KeyRange::all()) };
    for (id, puts, deletes) in
        [(1, true, true), (2, true, false), (3, false, true), (4, false, false)]
    {
        watches.create(id, &WatchRange { puts, deletes, ..range.clone() });
        watches.until(id, |told| told.created.is_some());
    }
    clerk.put("k", "v").unwrap();
    clerk.append("k", "w").unwrap();
    clerk.delete("k").unwrap();
    let last = revision(&clerk);
    for (id, expected) in
        [(1, vec!["v", "vw", "-"]), (2, vec!["v", "vw"]), (3, vec!["-"]), (4, vec![])]
    {
        watches.progress(id);
        assert_eq!(values(&watches.until_complete(id, last).changes), expected, "watch {id}");
    }
    let previous = |it: &Change| it.previous().map(|entry| entry.value.clone());
    let previous: Vec<_> = watches.told[&1].changes.iter().map(previous).collect();
    assert_eq!(previous, [None, Some("v".into()), Some("vw".into())]);
}

/// A watch whose keys do not change knows how far it is, so that it can be resumed there.
#[test]
fn a_watch_is_told_how_far_it_is() {
    let cluster = Cluster::start(3).unwrap();
    let (clerk, leader) = (cluster.clerk(), cluster.leader().unwrap());
    let mut watches = Watches::at(&cluster, leader);
    watches.watch(1, KeyRange::key("quiet"), 0);
    (0..10).for_each(|n| clerk.put("k", n.to_string()).unwrap());
    let last = revision(&clerk);
    watches.progress(1);
    assert_eq!(watches.until_complete(1, last).complete_to, last.0);
    // It is also told now and then without having asked.
    (0..10).for_each(|n| clerk.put("k", n.to_string()).unwrap());
    let last = revision(&clerk);
    assert_eq!(watches.until_complete(1, last).changes.len(), 0);
}

/// A cancelled watch is told so, and nothing after that, whatever is under way.
#[test]
fn a_watch_ends_when_it_is_cancelled() {
    let cluster = Cluster::start(1).unwrap();
    let (clerk, mut watches) = (cluster.clerk(), Watches::at(&cluster, MemberId(1)));
    watches.watch(0, KeyRange::all(), 0);
    thread::scope(|scope| {
        let writer = scope.spawn(|| (0..500).for_each(|n| clerk.put("k", n.to_string()).unwrap()));
        for id in 1..200 {
            watches.create(id, &WatchRange::of(KeyRange::all()));
            if id % 2 == 0 {
                watches.until(id, |told| told.created.is_some());
            }
            watches.cancel(id);
        }
        for id in 1..200 {
            let told = watches.until(id, |told| told.ended.is_some());
            assert_eq!(told.ended.as_ref().unwrap().reason, None);
        }
        writer.join().unwrap();
    });
    let told = watches.until_complete(0, revision(&cluster.clerk()));
    assert_eq!(values(&told.changes), (0..500).map(|n| n.to_string()).collect::<Vec<_>>());
}

/// Requests may end before the watches do. The stream ends with the last of them.
#[test]
fn a_client_that_asks_for_nothing_more_is_told_on() {
    let cluster = Cluster::start(1).unwrap();
    let (clerk, stub) = (cluster.clerk(), stub(&cluster, MemberId(1)));
    let (sender, replies) = stub.watch(Some(Instant::now() + TEST_TIMEOUT));
    let create = WatchCreate { from: 2, ..(&WatchRange::of(KeyRange::all())).into() };
    let request = Some(watch_request::Request::Create(create));
    sender.send(&WatchRequest { id: 1, request }, Instant::now() + TEST_TIMEOUT).unwrap();
    sender.finish().unwrap();
    let writer =
        thread::spawn(move || (0..10).for_each(|n| clerk.put("k", n.to_string()).unwrap()));
    let mut told = Told::default();
    for reply in replies {
        told.take(1, reply.unwrap().reply.unwrap());
        if told.changes.len() == 10 {
            break;
        }
    }
    writer.join().unwrap();
    assert_eq!(told.changes.len(), 10);
}
