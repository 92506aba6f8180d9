//! A member whose state diverges: the others notice, it stops serving, and the cluster goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use bytes::Bytes;
use syncraft::clerk::Clerk;
use syncraft::kv::{Change, Command, Store};
use syncraft::members::Members;
use syncraft::node::{Node, NodeConfig, NodeHandle, RequestError, StateMachine, StateView};
use syncraft::raft::{Index, MemberId, RoleName, Standing};
use syncraft::rpc::{Channel, Server};
use syncraft::server::proto::{AdminRpcStub, StatusArgs};
use syncraft::server::{Config, Member, STATE_DIVERGED, list_id};
use syncraft::storage::{DataDir, Identity, Snapshots};
use syncraft::testing::Port;

use crate::nodes::{TEST_TIMEOUT, leads, members, propose, propose_elsewhere, serve, until};

/// A command that diverging members apply wrongly.
const TRAP: u8 = 100;
/// A command that waits where the test wants it to.
const HOLD: u8 = 50;
const DIVERGED: RequestError = RequestError::Diverged { may_apply: false };

/// Adds up commands of one byte each.
struct Sum {
    total: u64,
    own: MemberId,
    conduct: Arc<Mutex<Conduct>>,
}

/// How the test makes members behave.
#[derive(Default)]
struct Conduct {
    straying: Vec<MemberId>,
    /// This member applies nothing from this command on.
    held: BTreeMap<MemberId, u8>,
    /// The members that wait there.
    waiting: BTreeSet<MemberId>,
}

impl StateMachine for Sum {
    type Outcome = u64;
    type Query = ();
    type Answer = u64;
    type View = SumView;

    fn apply(&mut self, _index: Index, command: &Bytes) -> u64 {
        let is_held = || {
            let mut conduct = self.conduct.lock().unwrap();
            let is_held = conduct.held.get(&self.own) == Some(&command[0]);
            conduct.waiting.extend(is_held.then_some(self.own));
            is_held
        };
        until("the test lets go", || !is_held());
        let strays = self.conduct.lock().unwrap().straying.contains(&self.own);
        self.total += u64::from(command[0]) + u64::from(command[0] == TRAP && strays);
        self.total
    }

    fn query(&self, (): ()) -> u64 {
        self.total
    }

    fn view(&self) -> SumView {
        SumView(self.total)
    }

    fn load(&mut self, body: &mut dyn Read) -> io::Result<()> {
        let mut bytes = [0; 8];
        body.read_exact(&mut bytes)?;
        self.total = u64::from_le_bytes(bytes);
        Ok(())
    }

    fn digest(&self) -> Option<u64> {
        Some(self.total)
    }
}

struct SumView(u64);

impl StateView for SumView {
    fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&self.0.to_le_bytes())
    }
}

struct Sums {
    nodes: Vec<Option<(Node<Sum>, Server)>>,
    conduct: Arc<Mutex<Conduct>>,
    list: Members,
    ports: Vec<Port>,
    dir: tempfile::TempDir,
}

impl Sums {
    fn start(size: u64) -> Sums {
        let ports: Vec<Port> = (0..size).map(|_| Port::free().unwrap()).collect();
        let list = members(&ports);
        let (dir, conduct) = (tempfile::tempdir().unwrap(), Arc::default());
        let mut sums = Sums { nodes: Vec::new(), conduct, list, ports, dir };
        sums.nodes.resize_with(size as usize, || None);
        (1..=size).for_each(|id| sums.start_member(MemberId(id)));
        sums
    }

    fn start_member(&mut self, id: MemberId) {
        let identity = Identity { cluster_id: 0, list_id: 7, member_id: id };
        let data_dir =
            DataDir::open(self.dir.path().join(id.to_string()), identity, Standing::New).unwrap();
        let sum = Sum { total: 0, own: id, conduct: self.conduct.clone() };
        let mut config = NodeConfig::new(id, self.list.clone());
        // A busy machine must not cost a leader its leadership: of what waits there, nobody would
        // know whether it happens.
        config.timing.election_min = Duration::from_secs(2);
        config.timing.election_max = Duration::from_secs(3);
        let node = Node::start(config, data_dir, sum).unwrap();
        let server = serve(&node, &self.ports[id.0 as usize - 1]);
        self.nodes[id.0 as usize - 1] = Some((node, server));
    }

    fn stop_member(&mut self, id: MemberId) {
        let (node, server) = self.nodes[id.0 as usize - 1].take().unwrap();
        node.stop();
        server.stop();
    }

    fn stray(&self, ids: &[MemberId]) {
        self.conduct.lock().unwrap().straying = ids.to_vec();
    }

    /// A follower whose state differs from now on, as its leader has found out. The sum is 105.
    fn let_a_follower_stray(&self) -> MemberId {
        assert_eq!(self.add(5), 5);
        let leader = self.leader();
        let strays = self.ids().into_iter().find(|&id| id != leader).unwrap();
        self.stray(&[strays]);
        assert_eq!(self.add(TRAP), 105);
        until("it is found", || self.diverged() == [strays]);
        strays
    }

    /// Member `id` waits before it applies `command`, until it is released.
    fn hold(&self, id: MemberId, command: u8) {
        self.conduct.lock().unwrap().held.insert(id, command);
    }

    fn let_go(&self, id: MemberId) {
        self.conduct.lock().unwrap().held.remove(&id);
    }

    fn ids(&self) -> Vec<MemberId> {
        self.list.iter().map(|(id, _)| id).collect()
    }

    fn handle(&self, id: MemberId) -> NodeHandle<Sum> {
        self.nodes[id.0 as usize - 1].as_ref().expect("it runs").0.handle()
    }

    fn leader(&self) -> MemberId {
        let mut leader = None;
        until("a leader", || {
            leader = self.ids().into_iter().find(|&id| leads(&self.handle(id)));
            leader.is_some()
        });
        leader.unwrap()
    }

    /// The result at the member that leads and serves.
    fn add(&self, number: u8) -> u64 {
        self.until_done(|handle| propose(handle, vec![number]).recv_timeout(TEST_TIMEOUT).unwrap())
    }

    fn total(&self) -> u64 {
        self.until_done(total)
    }

    fn until_done(&self, ask: impl Fn(&NodeHandle<Sum>) -> Result<u64, RequestError>) -> u64 {
        let mut answer = None;
        until("somebody serves", || {
            let answers = self.ids().into_iter().map(|id| ask(&self.handle(id)));
            let mut certain =
                answers.inspect(|it| assert!(!matches!(it, Err(it) if it.may_apply())));
            answer = certain.find_map(Result::ok);
            answer.is_some()
        });
        answer.unwrap()
    }

    fn diverged(&self) -> Vec<MemberId> {
        let ids = self.ids().into_iter();
        ids.filter(|&id| self.handle(id).divergence().is_some()).collect()
    }
}

fn total(handle: &NodeHandle<Sum>) -> Result<u64, RequestError> {
    read(handle).recv_timeout(TEST_TIMEOUT).unwrap()
}

fn read(handle: &NodeHandle<Sum>) -> mpsc::Receiver<Result<u64, RequestError>> {
    let (sender, receiver) = mpsc::channel();
    handle.read((), Instant::now() + TEST_TIMEOUT, move |end| sender.send(end).unwrap());
    receiver
}

fn check_refuses(handle: &NodeHandle<Sum>) {
    assert_eq!(propose(handle, vec![1]).recv_timeout(TEST_TIMEOUT).unwrap(), Err(DIVERGED));
    assert_eq!(total(handle), Err(DIVERGED));
}

/// One command is enough: an idle cluster is compared as well.
#[test]
fn a_follower_that_strays_stops_serving() {
    let sums = Sums::start(3);
    let strays = sums.let_a_follower_stray();
    check_refuses(&sums.handle(strays));
    let divergence = sums.handle(strays).divergence().unwrap();
    assert_eq!((divergence.own, divergence.agreed), (106, 105));
    until("the leader names it", || {
        sums.ids().into_iter().any(|id| sums.handle(id).different_members() == [strays])
    });
    // It votes and keeps its log: with its help, another member may stop.
    assert_eq!(sums.add(1), 106);
    until("it applies on", || sums.handle(strays).digest().is_some_and(|(_, total)| total == 107));
    assert_eq!(sums.total(), 106);
    assert_eq!(sums.diverged(), [strays], "and no other");
}

#[test]
fn a_leader_that_strays_hands_over() {
    let sums = Sums::start(3);
    assert_eq!(sums.add(5), 5);
    let leader = sums.leader();
    sums.stray(&[leader]);
    // Its own clients may get a wrong outcome until the divergence is noticed.
    sums.add(TRAP);
    until("it is found", || sums.diverged() == [leader]);
    check_refuses(&sums.handle(leader));
    until("another one leads", || {
        sums.ids().into_iter().any(|id| id != leader && leads(&sums.handle(id)))
    });
    assert_eq!(sums.total(), 105);
    assert_eq!(sums.add(1), 106);
    check_refuses(&sums.handle(leader));
    assert_eq!(sums.diverged(), [leader], "and no other");
}

/// When a leader is found to have diverged, the requests that it has accepted get nothing from its
/// wrong state.
#[test]
fn what_waits_at_a_leader_that_strays_gets_no_answer_from_it() {
    let sums = Sums::start(3);
    assert_eq!(sums.add(5), 5);
    let leader = sums.leader();
    let handle = sums.handle(leader);
    sums.stray(&[leader]);
    let followers: Vec<MemberId> = sums.ids().into_iter().filter(|&id| id != leader).collect();
    followers.iter().for_each(|&id| sums.hold(id, TRAP));
    sums.hold(leader, HOLD);
    assert_eq!(sums.add(TRAP), 106, "nobody can know yet");
    let held = propose_elsewhere(&handle, vec![HOLD]);
    until("it waits", || sums.conduct.lock().unwrap().waiting.contains(&leader));
    let (behind, read) = (propose(&handle, vec![1]), read(&handle));
    // Its state machine waits, and so do the requests. Meanwhile the others report their digests.
    followers.iter().for_each(|&id| sums.let_go(id));
    until("it is found", || sums.diverged() == [leader]);
    sums.let_go(leader);
    for waiting in [held, behind] {
        let end = waiting.recv_timeout(TEST_TIMEOUT).unwrap();
        assert!(end.is_err_and(|error| error.may_apply()), "{end:?}");
    }
    let end = read.recv_timeout(TEST_TIMEOUT).unwrap();
    assert!(end.is_err_and(|error| !error.may_apply()), "{end:?}");
    until("the right total", || sums.total() == 156);
}

#[test]
fn two_of_five_stray_the_leader_among_them() {
    let sums = Sums::start(5);
    assert_eq!(sums.add(5), 5);
    let leader = sums.leader();
    let other = sums.ids().into_iter().find(|&id| id != leader).unwrap();
    let mut straying = [leader, other];
    straying.sort();
    sums.stray(&straying);
    sums.add(TRAP);
    until("they are found", || sums.diverged() == straying);
    straying.iter().for_each(|&id| check_refuses(&sums.handle(id)));
    assert_eq!(sums.total(), 105);
    assert_eq!(sums.add(1), 106);
    assert_eq!(sums.diverged(), straying, "and no other");
}

/// After a restart, a member that has diverged applies its log again, and is compared again.
#[test]
fn a_judgement_lasts_until_the_restart() {
    let mut sums = Sums::start(3);
    let strays = sums.let_a_follower_stray();
    // Still wrong, though nobody writes.
    sums.stop_member(strays);
    sums.start_member(strays);
    until("it is found again", || sums.diverged() == [strays]);
    sums.stop_member(strays);
    sums.stray(&[]);
    sums.start_member(strays);
    until("it is right", || sums.handle(strays).digest().is_some_and(|(_, total)| total == 105));
    until("the leader has noticed", || {
        let leader = sums.handle(sums.leader());
        leader.digest() == sums.handle(strays).digest() && leader.different_members().is_empty()
    });
    assert_eq!(sums.add(1), 106);
    assert_eq!(sums.diverged(), []);
}

#[test]
fn a_member_that_has_strayed_takes_no_snapshot() {
    let sums = Sums::start(3);
    let strays = sums.let_a_follower_stray();
    sums.ids().into_iter().for_each(|id| sums.handle(id).take_snapshot());
    let snapshot_index = |id| sums.handle(id).status().snapshot_index;
    let others: Vec<MemberId> = sums.ids().into_iter().filter(|&id| id != strays).collect();
    until("the others take one", || others.iter().all(|&id| snapshot_index(id) > Index::ZERO));
    sums.add(1);
    until("it has got there", || {
        sums.handle(strays).digest().is_some_and(|(_, total)| total == 107)
    });
    assert_eq!(snapshot_index(strays), Index::ZERO);
}

/// A member of the store with a state that its log has not led to.
#[test]
fn a_tampered_snapshot_is_found() {
    let ports: Vec<Port> = (0..3).map(|_| Port::free().unwrap()).collect();
    let http = Port::free().unwrap();
    let list = members(&ports);
    let dir = tempfile::tempdir().unwrap();
    let path = |id: MemberId| dir.path().join(id.to_string());
    let start = |id: MemberId| {
        let http = (id == MemberId(3)).then(|| http.addr().to_string());
        let config = Config { http, ..Config::new(id, list.clone(), path(id)) };
        Member::start_on(ports[id.0 as usize - 1].listen().unwrap(), config).unwrap()
    };
    let mut running: Vec<Member> = (1..=3).map(|id| start(MemberId(id))).collect();
    let clerk = |members: &str| {
        Clerk::builder().members(members).timeout(Duration::from_secs(2)).build().unwrap()
    };
    let all = Clerk::builder().members(&list).timeout(TEST_TIMEOUT).build().unwrap();
    all.put("k", "v").unwrap();
    let bad = running.pop().unwrap();
    let applied = running.iter().map(|member| member.node().applied_index()).max().unwrap();
    until("it has applied that", || bad.node().applied_index() >= applied);
    bad.node().take_snapshot();
    until("a snapshot", || bad.node().status().snapshot_index > Index::ZERO);
    let taken = bad.node().status().snapshot_index;
    // One that lacks an entry could get it from the tampered snapshot, if that member leads again:
    // then two would have the wrong state.
    until("both others have it all", || {
        running.iter().all(|member| member.node().applied_index() >= taken)
    });
    bad.stop();
    tamper(&path(MemberId(3)), &list);
    let bad = start(MemberId(3));
    until("it is found", || bad.node().divergence().is_some());

    let status = AdminRpcStub::new(Channel::builder(list.addr(MemberId(3)).unwrap()).lazy())
        .status(&StatusArgs {}, Instant::now() + TEST_TIMEOUT)
        .unwrap();
    assert_eq!(status.state, STATE_DIVERGED);
    let ready = get(&http, "/readyz");
    assert!(ready.starts_with("HTTP/1.1 503 ") && ready.contains("differs"), "{ready}");
    assert!(get(&http, "/metrics").contains("\nsyncraft_diverged 1\n"));
    assert!(get(&http, "/status").contains(r#""diverged":true"#));
    until("a leader names it", || {
        running.iter().any(|member| member.node().different_members() == [MemberId(3)])
    });
    assert_eq!(all.get("k").unwrap().as_deref(), Some(&b"v"[..]));
    clerk(list.addr(MemberId(3)).unwrap()).get("k").expect_err("it does not serve");
    // The store's clients leave it even if it leads.
    let leads = |member: &Member| member.node().status().role.role == RoleName::Leader;
    until("another one hands over to it, or it leads", || {
        let Some(leader) = running.iter().find(|member| leads(member)) else { return leads(&bad) };
        leader.node().transfer(Some(MemberId(3)));
        true
    });
    for n in 0..20 {
        all.put("k", n.to_string()).unwrap();
        assert_eq!(all.get("k").unwrap().as_deref(), Some(n.to_string().as_bytes()));
    }
}

/// Changes the newest snapshot: its state has one key more.
fn tamper(path: &Path, list: &Members) {
    let identity = Identity { cluster_id: 0, list_id: list_id(list), member_id: MemberId(3) };
    let data_dir = DataDir::open(path, identity, Standing::New).unwrap();
    let newest = Snapshots::open(&data_dir).unwrap().1.expect("it has taken one");
    let mut store = Store::new();
    store.load(&mut newest.reader().unwrap()).unwrap();
    // Without a session: no two can have been used by one entry.
    let command = Command::unrepeated(Change::Put { key: "other".into(), value: "v".into() });
    store.apply(newest.meta().last_included_index, &command.encode());
    // Otherwise it would not be replaced.
    fs::remove_file(newest.path()).unwrap();
    let (snapshots, _) = Snapshots::open(&data_dir).unwrap();
    let mut writer =
        snapshots.create(newest.meta(), newest.configuration().map(|it| &**it)).unwrap();
    store.view().write(&mut writer).unwrap();
    writer.finish().unwrap();
}

fn get(http: &Port, path: &str) -> String {
    let mut stream = TcpStream::connect(http.addr()).unwrap();
    stream.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}
