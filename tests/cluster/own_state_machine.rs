//! A program that replicates state of its own through the public API: a counter that hands out
//! tickets.

use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use bytes::Bytes;
use syncraft::members::Members;
use syncraft::node::{
    Node, NodeConfig, NodeHandle, Observer, ReadMode, RequestError, StateMachine, StateView,
};
use syncraft::raft::{Index, MemberId, Standing};
use syncraft::rpc::Server;
use syncraft::storage::{DataDir, Identity};
use syncraft::testing::Port;

#[derive(Default)]
struct Tickets {
    handed_out: u64,
    /// To see when the state machine is dropped.
    _life: Arc<()>,
}

impl StateMachine for Tickets {
    type Outcome = u64;
    type Query = ();
    type Answer = u64;
    type View = TicketsView;

    fn apply(&mut self, _index: Index, command: &Bytes) -> u64 {
        self.handed_out += u64::from(command[0]);
        self.handed_out
    }

    fn query(&self, (): ()) -> u64 {
        self.handed_out
    }

    fn view(&self) -> TicketsView {
        TicketsView { handed_out: self.handed_out }
    }

    fn load(&mut self, body: &mut dyn Read) -> io::Result<()> {
        let mut bytes = [0; 9];
        body.read_exact(&mut bytes)?;
        let [VERSION, handed_out @ ..] = bytes else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "tickets of another version"));
        };
        self.handed_out = u64::from_le_bytes(handed_out);
        Ok(())
    }
}

/// The length of a snapshot in bytes.
const VERSION: u8 = 1;

struct TicketsView {
    handed_out: u64,
}

impl StateView for TicketsView {
    fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&[VERSION])?;
        out.write_all(&self.handed_out.to_le_bytes())
    }
}

struct Member {
    node: Node<Tickets>,
    _server: Server,
}

struct Counters {
    members: Vec<Member>,
    _ports: Vec<Port>,
    _dir: tempfile::TempDir,
}

fn start(size: u64) -> Counters {
    start_with(size, ReadMode::ReadIndex, &Arc::default())
}

fn start_with(size: u64, read_mode: ReadMode, life: &Arc<()>) -> Counters {
    let ports: Vec<Port> = (0..size).map(|_| Port::free().unwrap()).collect();
    let dir = tempfile::tempdir().unwrap();
    let ids = (1..=size).map(MemberId);
    let members =
        Members::new(ids.zip(&ports).map(|(id, port)| (id, port.addr().to_string()))).unwrap();
    let start = |(id, port): (MemberId, &Port)| {
        let listener = port.listen().unwrap();
        let identity = Identity { cluster_id: 0, list_id: 7, member_id: id };
        let data_dir =
            DataDir::open(dir.path().join(id.to_string()), identity, Standing::New).unwrap();
        let config = NodeConfig { read_mode, ..NodeConfig::new(id, members.clone()) };
        let tickets = Tickets { handed_out: 0, _life: life.clone() };
        let node = Node::start(config, data_dir, tickets).unwrap();
        let server =
            Server::builder().service(node.service()).listener(listener).build().unwrap().start();
        Member { node, _server: server }
    };
    let members = (1..=size).map(MemberId).zip(&ports).map(start).collect();
    Counters { members, _ports: ports, _dir: dir }
}

/// Asks one member after the other until one answers: an election may be under way.
fn until_done<T>(
    counters: &Counters,
    ask: impl Fn(&Node<Tickets>) -> Result<T, RequestError>,
) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        for member in &counters.members {
            match ask(&member.node) {
                Ok(outcome) => return outcome,
                Err(error) => assert!(!error.may_apply(), "{error}"),
            }
        }
        assert!(Instant::now() < deadline, "nobody leads");
        std::thread::yield_now();
    }
}

fn take(node: &Node<Tickets>, tickets: u8) -> Result<u64, RequestError> {
    let (sender, receiver) = mpsc::channel();
    let deadline = Instant::now() + Duration::from_secs(20);
    let command = Bytes::from(vec![tickets]);
    node.handle().propose(command, deadline, move |outcome| sender.send(outcome).unwrap());
    receiver.recv().unwrap()
}

fn taken(node: &Node<Tickets>) -> Result<u64, RequestError> {
    let (sender, receiver) = mpsc::channel();
    node.handle().read((), Instant::now() + Duration::from_secs(20), move |answer| {
        sender.send(answer).unwrap()
    });
    receiver.recv().unwrap()
}

/// What the state was after each entry.
#[derive(Default)]
struct Totals(Mutex<Vec<u64>>);

impl Observer<Tickets> for Totals {
    fn applied(&self, tickets: &Tickets) {
        self.0.lock().unwrap().push(tickets.handed_out);
    }

    fn replaced(&self, tickets: &Tickets) {
        self.0.lock().unwrap().push(tickets.handed_out);
    }
}

#[test]
fn an_observer_is_told_of_each_entry_before_its_client_is() {
    let counters = start(1);
    until_done(&counters, |node| take(node, 1));
    let (handle, totals) = (counters.members[0].node.handle(), Arc::new(Totals::default()));
    handle.observe(totals.clone());
    for (tickets, expected) in [(2, vec![1, 3]), (4, vec![1, 3, 7])] {
        until_done(&counters, |node| take(node, tickets));
        assert_eq!(*totals.0.lock().unwrap(), expected);
    }
    assert_eq!(handle.inspect(|tickets| tickets.handed_out), Some(7));
}

#[test]
fn a_counter_counts_across_members() {
    let counters = start(3);
    assert_eq!(until_done(&counters, |node| take(node, 3)), 3);
    assert_eq!(until_done(&counters, |node| take(node, 4)), 7);
    assert_eq!(until_done(&counters, taken), 7);
}

#[test]
fn a_view_keeps_its_moment_and_loads_elsewhere() {
    let mut tickets = Tickets { handed_out: 3, ..Tickets::default() };
    let (view, mut body, mut other) = (tickets.view(), Vec::new(), Tickets::default());
    tickets.apply(Index(2), &Bytes::from_static(&[1]));
    view.write(&mut body).unwrap();
    other.load(&mut &body[..]).unwrap();
    assert_eq!((tickets.query(()), other.query(())), (4, 3));
    assert!(other.load(&mut &[VERSION + 1; 9][..]).is_err());
    assert_eq!(tickets.digest(), None, "unless it says otherwise");
}

#[test]
fn requests_end_when_the_node_stops() {
    let mut counters = start(3);
    assert_eq!(until_done(&counters, |node| take(node, 1)), 1);
    let Member { node, .. } = counters.members.remove(0);
    let handle = node.handle();
    node.stop();
    let (sender, receiver) = mpsc::channel();
    let deadline = Instant::now() + Duration::from_secs(20);
    handle
        .propose(Bytes::from_static(&[1]), deadline, move |outcome| sender.send(outcome).unwrap());
    assert_eq!(receiver.recv().unwrap(), Err(RequestError::Stopped { may_apply: false }));
}

/// Under a lease, the thread that reads also answers: a callback that reads again must not run
/// within itself.
#[test]
fn a_callback_may_read_again_for_as_long_as_it_likes() {
    fn read_again(handle: NodeHandle<Tickets>, left: u32, done: mpsc::Sender<u64>) {
        let deadline = Instant::now() + Duration::from_secs(60);
        handle.clone().read((), deadline, move |answer| match left {
            0 => done.send(answer.unwrap()).unwrap(),
            _ => read_again(handle, left - 1, done),
        });
    }
    let counters = start_with(1, ReadMode::Lease, &Arc::default());
    assert_eq!(until_done(&counters, |node| take(node, 2)), 2);
    let (sender, receiver) = mpsc::channel();
    read_again(counters.members[0].node.handle(), 20_000, sender);
    assert_eq!(receiver.recv().unwrap(), 2);
}

/// It may own files, or much memory. A handle does not keep it.
#[test]
fn the_state_machine_ends_with_its_node() {
    let life = Arc::new(());
    let mut counters = start_with(1, ReadMode::Lease, &life);
    assert_eq!(until_done(&counters, |node| take(node, 1)), 1);
    assert_eq!(Arc::strong_count(&life), 2);
    let Member { node, .. } = counters.members.remove(0);
    let handle = node.handle();
    node.stop();
    assert_eq!(Arc::strong_count(&life), 1);
    drop(handle);
}
