//! Members come, go and move under load: nothing acknowledged is lost or happens twice, and clients
//! that knew one of the first members find the last ones.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use syncraft::clerk::Clerk;
use syncraft::kv::model::{Change, KeyRange, Revision};
use syncraft::node::NodeFailure;
use syncraft::raft::{Index, MemberId, RoleName, Term};
use syncraft::testing::{Cluster, ClusterError, History, Options};

use crate::nodes::{TEST_TIMEOUT, until};

/// Several election timeouts of a cluster that starts calm.
const QUIET: Duration = Duration::from_secs(8);

/// A cluster whose members have recorded who they are.
fn start(size: usize) -> Cluster {
    start_with(size, Options::default())
}

/// For tests of who keeps the leadership: a busy machine must not cost a leader its leadership.
fn start_calm(size: usize) -> Cluster {
    let mut options = Options::default();
    options.timing.election_min = Duration::from_secs(2);
    options.timing.election_max = Duration::from_secs(3);
    start_with(size, options)
}

fn start_with(size: usize, options: Options) -> Cluster {
    let cluster = Cluster::start_with(size, options).expect("the cluster starts");
    // The leader's no-op comes first.
    let has_recorded = |id| cluster.status(id).is_some_and(|it| it.commit_index >= Index(2));
    until("all have recorded the members", || cluster.ids().into_iter().all(has_recorded));
    cluster
}

/// A client that knows this member and nobody else.
fn clerk_knowing(cluster: &Cluster, id: MemberId) -> Clerk {
    Clerk::builder().members([cluster.addr(id)]).timeout(TEST_TIMEOUT).build().expect("one address")
}

fn others(cluster: &Cluster, id: MemberId) -> Vec<MemberId> {
    cluster.ids().into_iter().filter(|&other| other != id).collect()
}

fn remove_and_kill(cluster: &Cluster, id: MemberId) {
    cluster.remove_member(id).unwrap_or_else(|error| panic!("{error:?}"));
    cluster.kill(id);
}

fn add(cluster: &Cluster) -> MemberId {
    cluster.add_member().unwrap_or_else(|error| panic!("{error:?}"))
}

/// Ends the load also when the test fails.
struct EndsWith<'a>(&'a AtomicBool);

impl Drop for EndsWith<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// How many tokens one key gets.
const TOKENS_PER_KEY: usize = 50;

/// What a client has appended, and whether it was acknowledged.
type Tokens = Vec<(String, String, bool)>;

/// Appends tokens until it is told to end.
fn append_tokens(clerk: &Clerk, number: usize, load: &Load) -> Tokens {
    let mut tokens = Tokens::new();
    while !load.is_over.load(Ordering::Acquire) {
        let at = tokens.len();
        let (key, token) = (format!("log/{number}/{}", at / TOKENS_PER_KEY), format!("{at};"));
        let is_acknowledged = match clerk.append(&key, &token) {
            Ok(()) => true,
            Err(error) => {
                eprintln!("{error:?}");
                false
            }
        };
        tokens.push((key, token, is_acknowledged));
        load.acknowledged.fetch_add(usize::from(is_acknowledged), Ordering::Relaxed);
        thread::sleep(Duration::from_millis(2));
    }
    tokens
}

/// Clients at work.
#[derive(Default)]
struct Load {
    is_over: AtomicBool,
    acknowledged: AtomicUsize,
    history: History,
}

impl Load {
    /// Writes go on.
    fn goes_on(&self) {
        let before = self.acknowledged.load(Ordering::Relaxed);
        until("writes go on", || self.acknowledged.load(Ordering::Relaxed) >= before + 10);
    }

    /// Reads and writes of a few keys, for the history.
    fn read_and_write(&self, clerk: &Clerk, number: usize) {
        let mut at = 0;
        while !self.is_over.load(Ordering::Acquire) {
            let (key, token) = (format!("shared/{}", at % 3), format!("{number}:{at};"));
            let _ = match at % 4 {
                0 => self.history.append(clerk, &key, token),
                _ => self.history.get(clerk, &key).map(drop),
            };
            at += 1;
            thread::sleep(Duration::from_millis(4));
        }
    }
}

/// Each token that was acknowledged is there once, no token is there twice, and they are in order.
fn check_tokens(clerk: &Clerk, tokens: &Tokens) {
    let keys: BTreeSet<&String> = tokens.iter().map(|(key, ..)| key).collect();
    for key in keys {
        let value = clerk.get(key).unwrap().unwrap_or_default();
        let value = String::from_utf8(value.to_vec()).unwrap();
        let found: Vec<&str> = value.split_inclusive(';').collect();
        let of_key = || tokens.iter().filter(|(it, ..)| it == key);
        let known: Vec<&str> = of_key().map(|(_, token, _)| token.as_str()).collect();
        let mut next = 0;
        for token in &found {
            let at = known[next..].iter().position(|it| it == token);
            next += 1 + at.unwrap_or_else(|| panic!("{key}: {token:?} twice or late: {value}"));
        }
        for (_, token, is_acknowledged) in of_key().filter(|(.., it)| *it) {
            assert!(*is_acknowledged && found.contains(&token.as_str()), "{key} lost {token:?}");
        }
    }
}

/// Every change of each log is one token more than the one before.
fn check_watched(changes: &[Change]) {
    let mut values = std::collections::BTreeMap::<Vec<u8>, Vec<u8>>::new();
    for change in changes {
        let Change::Put { entry, .. } = change else { panic!("nothing was deleted: {change:?}") };
        let before = values.entry(entry.key.to_vec()).or_default();
        let added = entry.value.strip_prefix(&before[..]).expect("no change was missed");
        assert_eq!(added.iter().filter(|byte| **byte == b';').count(), 1, "one change at a time");
        *before = entry.value.to_vec();
    }
}

/// All changes of the logs from `first` until the key `log/end` is put.
fn watch_all(clerk: &Clerk, first: Revision) -> Vec<Change> {
    let mut watch = clerk.watch(KeyRange::prefix("log/")).from(first).start().unwrap();
    let (mut found, deadline) = (Vec::new(), Instant::now() + 3 * TEST_TIMEOUT);
    loop {
        match watch.next_timeout(Duration::from_secs(1)) {
            Ok(Some(changes)) => {
                found.extend(changes.changes);
                if found.last().is_some_and(|it| it.key()[..] == *b"log/end") {
                    found.pop();
                    return found;
                }
            }
            Ok(None) => assert!(Instant::now() < deadline, "the watch brings nothing more"),
            Err(error) => assert!(!error.is_final(), "{error:?}"),
        }
    }
}

/// Three become five, lose two, get two others, and none of the first ones is left.
#[test]
fn a_cluster_under_load_exchanges_all_its_members() {
    let cluster = start(3);
    let first = cluster.clerk().stats().unwrap().revision.next();
    let load = Load::default();
    let clerks: Vec<Clerk> =
        cluster.ids().into_iter().map(|id| clerk_knowing(&cluster, id)).collect();
    let (tokens, watched) = thread::scope(|scope| {
        let ends = EndsWith(&load.is_over);
        let writers: Vec<_> = clerks
            .iter()
            .enumerate()
            .map(|(number, clerk)| {
                let load = &load;
                scope.spawn(move || append_tokens(clerk, number, load))
            })
            .collect();
        for (number, clerk) in clerks.iter().enumerate() {
            let (load, clerk) = (&load, clerk.clone());
            scope.spawn(move || load.read_and_write(&clerk, number));
        }
        let watchers: Vec<_> = cluster
            .ids()
            .into_iter()
            .map(|id| {
                let clerk = clerk_knowing(&cluster, id);
                scope.spawn(move || watch_all(&clerk, first))
            })
            .collect();
        load.goes_on();
        let (four, five) = (add(&cluster), add(&cluster));
        load.goes_on();
        assert_eq!(cluster.ids().len(), 5);
        let leader = cluster.leader().unwrap();
        let follower = *others(&cluster, leader).first().unwrap();
        remove_and_kill(&cluster, follower);
        load.goes_on();
        remove_and_kill(&cluster, leader);
        load.goes_on();
        let (six, seven) = (add(&cluster), add(&cluster));
        load.goes_on();
        for id in cluster.ids().into_iter().filter(|id| id.0 <= 3) {
            remove_and_kill(&cluster, id);
            load.goes_on();
        }
        let newcomers = [four, five, six, seven];
        assert!(cluster.ids().iter().all(|id| newcomers.contains(id)), "{:?}", cluster.ids());
        drop(ends);
        let tokens: Vec<Tokens> =
            writers.into_iter().map(|writer| writer.join().unwrap()).collect();
        cluster.clerk().put("log/end", "").unwrap();
        let watched: Vec<_> = watchers.into_iter().map(|watcher| watcher.join().unwrap()).collect();
        (tokens, watched)
    });
    let clerk = cluster.clerk();
    let in_store: usize = clerk
        .scan(KeyRange::prefix("log/"))
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.key != "log/end")
        .map(|entry| entry.version as usize)
        .sum();
    for tokens in &tokens {
        assert!(tokens.len() > 50, "{}", tokens.len());
        check_tokens(&clerk, tokens);
    }
    for changes in &watched {
        check_watched(changes);
        assert_eq!(changes.len(), in_store, "every change");
    }
    for key in 0..3 {
        load.history.get(&clerk, format!("shared/{key}")).unwrap();
    }
    load.history.check().unwrap_or_else(|violation| panic!("{violation}"));
}

#[test]
fn members_that_are_cut_off_can_be_removed_and_find_out_later() {
    let cluster = start_calm(5);
    let clerk = cluster.clerk();
    clerk.put("k", "v").unwrap();
    let leader = cluster.leader().unwrap();
    let gone: Vec<MemberId> = others(&cluster, leader).into_iter().take(2).collect();
    let rest: Vec<MemberId> = cluster.ids().into_iter().filter(|id| !gone.contains(id)).collect();
    cluster.partition(&gone, &rest);
    gone.iter().for_each(|&id| cluster.remove_member(id).unwrap());
    clerk.put("k", "w").unwrap();
    assert_eq!(cluster.ids(), rest);
    until("those who are gone miss a leader", || {
        let role = |&id: &MemberId| cluster.status(id).unwrap().role.role;
        gone.iter().all(|id| role(id) == RoleName::PreCandidate)
    });
    let term = cluster.status(cluster.leader().unwrap()).unwrap().role.term;
    cluster.heal();
    disturbs_nobody(&cluster, term);
    for id in gone {
        // It has stood for election in vain, or heard from the others that it was removed.
        assert!(!matches!(cluster.failure(id), Some(NodeFailure::Panicked(_))));
    }
    assert_eq!(clerk.get("k").unwrap().as_deref(), Some(&b"w"[..]));
}

/// The same leader leads in the same term for some time.
fn disturbs_nobody(cluster: &Cluster, term: Term) {
    let leader = cluster.leader().unwrap();
    let end = Instant::now() + QUIET;
    while Instant::now() < end {
        let role = cluster.status(leader).unwrap().role;
        assert_eq!((role.term, role.leader), (term, Some(leader)));
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_member_that_was_removed_and_comes_back_disturbs_nobody_and_says_why() {
    let cluster = start_calm(3);
    let clerk = cluster.clerk();
    clerk.put("k", "v").unwrap();
    let leader = cluster.leader().unwrap();
    let gone = others(&cluster, leader)[0];
    cluster.stop(gone);
    cluster.remove_member(gone).unwrap();
    clerk.put("k", "w").unwrap();
    let term = cluster.status(leader).unwrap().role.term;
    match cluster.restart(gone) {
        // It may learn of it before it serves.
        Err(error) => assert!(format!("{error:?}").contains("emoved"), "{error:?}"),
        Ok(()) => until("it knows that it was removed", || {
            matches!(cluster.failure(gone), Some(NodeFailure::Removed))
        }),
    }
    disturbs_nobody(&cluster, term);
    assert_eq!(clerk.get("k").unwrap().as_deref(), Some(&b"w"[..]));
}

#[test]
fn a_member_is_added_while_another_one_is_down() {
    let cluster = start(3);
    let clerk = cluster.clerk();
    clerk.put("k", "v").unwrap();
    let down = others(&cluster, cluster.leader().unwrap())[0];
    cluster.kill(down);
    let newcomer = add(&cluster);
    clerk.put("k", "w").unwrap();
    cluster.restart(down).unwrap();
    // One of four may fail, whichever it is.
    cluster.kill(newcomer);
    assert_eq!(clerk.get("k").unwrap().as_deref(), Some(&b"w"[..]));
}

/// Whoever leads next finishes what was begun, or it is begun anew.
#[test]
fn a_change_goes_on_when_the_leader_dies_half_way() {
    let cluster = start(3);
    let clerk = cluster.clerk();
    for at in 0..3 {
        let learner = cluster.add_learner().unwrap();
        let leader = cluster.leader().unwrap();
        thread::scope(|scope| {
            let promoting = scope.spawn(|| cluster.promote_member(learner));
            thread::sleep(Duration::from_millis(at));
            cluster.kill(leader);
            promoting.join().unwrap().unwrap_or_else(|error| panic!("{error:?}"));
        });
        clerk.put("k", at.to_string()).unwrap();
        cluster.restart(leader).unwrap();
    }
    assert_eq!(cluster.ids().len(), 6);
}

#[test]
fn a_learner_is_not_promoted_before_it_has_caught_up() {
    let mut options = Options::default();
    options.timeout = Duration::from_secs(6);
    let cluster = Cluster::start_with(1, options).unwrap();
    let clerk = cluster.clerk();
    clerk.put("k", "v").unwrap();
    let learner = cluster.add_learner().unwrap();
    cluster.partition(&[1], &[learner.0]);
    clerk.put("k", "w").unwrap();
    let error = cluster.promote_member(learner).unwrap_err();
    assert!(matches!(error, ClusterError::Change { .. }), "{error:?}");
    // It counts for nothing.
    clerk.put("k", "x").unwrap();
    cluster.heal();
    until("it is promoted once it has everything", || cluster.promote_member(learner).is_ok());
    clerk.put("k", "y").unwrap();
}

#[test]
fn a_learner_serves_reads() {
    let cluster = start(1);
    let clerk = cluster.clerk();
    clerk.put("k", "v").unwrap();
    let learner = cluster.add_learner().unwrap();
    let at_learner = cluster.clerk_of(learner);
    until("it has caught up", || {
        let stale = at_learner.get_stale("k", None);
        stale.is_ok_and(|stale| stale.value.as_deref() == Some(b"v"))
    });
    clerk.put("k", "w").unwrap();
    let stale = at_learner.get_stale("k", Some(Duration::ZERO)).unwrap();
    assert_eq!(stale.value.as_deref(), Some(&b"w"[..]), "it asks the leader first");
}

#[test]
fn a_member_that_moves_is_found_by_the_others_and_by_clients() {
    let cluster = start(3);
    let clerks: Vec<Clerk> =
        cluster.ids().into_iter().map(|id| clerk_knowing(&cluster, id)).collect();
    let mut appended = 0;
    let mut all_write = || {
        // While it is used, a client learns within a second where the others are.
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(1200) {
            for clerk in &clerks {
                clerk.append("k", ";").unwrap();
                appended += 1;
            }
            thread::sleep(Duration::from_millis(10));
        }
        appended
    };
    all_write();
    for _ in 0..2 {
        for id in cluster.ids() {
            cluster.move_member(id).unwrap_or_else(|error| panic!("{error:?}"));
            all_write();
        }
    }
    let appended = all_write();
    assert_eq!(clerks[0].get("k").unwrap().map(|value| value.len()), Some(appended));
}

/// It is stopped as soon as the cluster serves. One time in three the first configuration has not
/// reached it by then, and it does not know where the others look for it.
#[test]
fn a_member_that_moves_before_it_knows_the_members_is_found() {
    for _ in 0..8 {
        let cluster = start(3);
        cluster.move_member(1).unwrap_or_else(|error| panic!("{error:?}"));
    }
}

fn http_get(addr: std::net::SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(addr).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn all_fronts_serve_on_a_newcomer() {
    let mut options = Options::default();
    (options.http_port, options.etcd_port) = (Some(0), Some(0));
    let cluster = Cluster::start_with(1, options).unwrap();
    cluster.clerk().put("k", "value").unwrap();
    let newcomer = add(&cluster);
    let answer = http_get(cluster.http_addr(newcomer).unwrap(), "/v1/kv/k");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("value"), "{answer}");
    let answer = http_get(cluster.etcd_addr(newcomer).unwrap(), "/version");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

/// The directory of a cluster knows who its members are, and the next cluster has the same.
#[test]
fn a_named_directory_starts_with_the_members_that_it_had() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = Options::default();
    options.data_dir = Some(dir.path().join("data"));
    let cluster = Cluster::start_with(1, options.clone()).unwrap();
    cluster.clerk().put("k", "v").unwrap();
    let (two, three) = (add(&cluster), cluster.add_learner().unwrap());
    remove_and_kill(&cluster, MemberId(1));
    drop(cluster);
    let cluster = Cluster::start_with(1, options).unwrap();
    assert_eq!(cluster.ids(), [two, three]);
    assert_eq!(cluster.clerk().get("k").unwrap().as_deref(), Some(&b"v"[..]));
    assert_eq!(add(&cluster), MemberId(4), "an id is used once");
}
