//! What the tests of nodes share: nodes that count, and a bounded wait.

use std::io::{self, Read, Write};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use syncraft::members::Members;
use syncraft::node::{Node, NodeConfig, NodeHandle, RequestError, StateMachine, StateView};
use syncraft::raft::{Index, MemberId, RoleName, Standing};
use syncraft::rpc::Server;
use syncraft::storage::{DataDir, Identity};
use syncraft::testing::Port;

/// Long enough for a busy machine. A test that waits longer has failed.
pub(crate) const TEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Waits until `holds` is true.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + TEST_TIMEOUT;
    while !holds() {
        assert!(Instant::now() < deadline, "not within {TEST_TIMEOUT:?}: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Counts the commands that it applies; the command "panic" makes it panic.
#[derive(Default)]
pub(crate) struct Count(u64);

impl StateMachine for Count {
    type Outcome = u64;
    type Query = ();
    type Answer = u64;
    type View = CountView;

    fn apply(&mut self, _: Index, command: &Bytes) -> u64 {
        assert!(&command[..] != b"panic", "as the test wants it");
        self.0 += 1;
        self.0
    }

    fn query(&self, (): ()) -> u64 {
        self.0
    }

    fn view(&self) -> CountView {
        CountView(self.0)
    }

    fn load(&mut self, body: &mut dyn Read) -> io::Result<()> {
        let mut bytes = [0; 8];
        body.read_exact(&mut bytes)?;
        self.0 = u64::from_le_bytes(bytes);
        Ok(())
    }
}

pub(crate) struct CountView(u64);

impl StateView for CountView {
    fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&self.0.to_le_bytes())
    }
}

/// Nodes in this process. Their servers stop after them.
pub(crate) struct Nodes {
    pub(crate) nodes: Vec<Node<Count>>,
    _servers: Vec<Server>,
    _ports: Vec<Port>,
    _dir: tempfile::TempDir,
}

impl Nodes {
    /// Starts `size` nodes and waits until one leads.
    pub(crate) fn start(size: u64) -> Nodes {
        let ports: Vec<Port> = (0..size).map(|_| Port::free().unwrap()).collect();
        let dir = tempfile::tempdir().unwrap();
        let list = members(&ports);
        let (mut nodes, mut servers) = (Vec::new(), Vec::new());
        for ((id, _), port) in list.iter().zip(&ports) {
            let identity = Identity { cluster_id: 0, list_id: 7, member_id: id };
            let data_dir =
                DataDir::open(dir.path().join(id.to_string()), identity, Standing::New).unwrap();
            let config = NodeConfig::new(id, list.clone());
            let node = Node::start(config, data_dir, Count::default()).unwrap();
            servers.push(serve(&node, port));
            nodes.push(node);
        }
        let nodes = Nodes { nodes, _servers: servers, _ports: ports, _dir: dir };
        nodes.leader();
        nodes
    }

    /// The node that leads and has committed in its term.
    pub(crate) fn leader(&self) -> NodeHandle<Count> {
        let mut leader = None;
        until("a leader", || {
            let mut handles = self.nodes.iter().map(Node::handle);
            leader = handles.find(leads);
            leader.is_some()
        });
        leader.unwrap()
    }
}

/// A server for the calls of the node's peers.
pub(crate) fn serve<S: StateMachine>(node: &Node<S>, port: &Port) -> Server {
    let server = Server::builder().service(node.service()).listener(port.listen().unwrap());
    server.build().unwrap().start()
}

/// Whether it leads and its first entry is committed.
pub(crate) fn leads<S: StateMachine>(handle: &NodeHandle<S>) -> bool {
    let status = handle.status();
    status.role.role == RoleName::Leader && status.commit_index == status.last_index
}

/// Members 1, 2, ... on these ports.
pub(crate) fn members(ports: &[Port]) -> Members {
    let addrs = ports.iter().map(|port| port.addr().to_string());
    Members::new((1..).map(MemberId).zip(addrs)).unwrap()
}

/// As [`propose`], on another thread: whoever proposes may apply as well, and this command holds
/// its state machine up.
pub(crate) fn propose_elsewhere<S: StateMachine>(
    handle: &NodeHandle<S>,
    command: impl Into<Bytes>,
) -> Receiver<Result<S::Outcome, RequestError>> {
    let (sender, receiver) = mpsc::channel();
    let (handle, command) = (handle.clone(), command.into());
    thread::spawn(move || {
        let deadline = Instant::now() + TEST_TIMEOUT;
        handle.propose(command, deadline, move |end| drop(sender.send(end)));
    });
    receiver
}

/// Proposes a command. The receiver gets its outcome.
pub(crate) fn propose<S: StateMachine>(
    handle: &NodeHandle<S>,
    command: impl Into<Bytes>,
) -> Receiver<Result<S::Outcome, RequestError>> {
    let (sender, receiver) = mpsc::channel();
    handle
        .propose(command.into(), Instant::now() + TEST_TIMEOUT, move |end| drop(sender.send(end)));
    receiver
}
