//! A disk that does not fail, but hangs: syncs do not return.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use syncraft::node::{Node, NodeConfig, NodeHandle};
use syncraft::raft::{MemberId, Standing};
use syncraft::rpc::Server;
use syncraft::storage::disk::{Disk, DiskDir, DiskFile, DiskLock, RealDisk};
use syncraft::storage::{DataDir, Identity};
use syncraft::testing::Port;

use crate::nodes::*;

/// The real disk, whose syncs hang while it is stalled.
#[derive(Clone, Debug, Default)]
struct StallingDisk(Arc<Stall>);

#[derive(Debug, Default)]
struct Stall {
    is_stalled: Mutex<bool>,
    changed: Condvar,
}

impl Stall {
    fn set(&self, is_stalled: bool) {
        *self.is_stalled.lock() = is_stalled;
        self.changed.notify_all();
    }

    fn pass(&self) {
        self.changed.wait_while(&mut self.is_stalled.lock(), |is_stalled| *is_stalled);
    }
}

#[derive(Debug)]
struct StallingFile(Arc<dyn DiskFile>, Arc<Stall>);

impl Disk for StallingDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(StallingFile(RealDisk.create(path)?, self.0.clone())))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(StallingFile(RealDisk.open(path)?, self.0.clone())))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        RealDisk.list(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        RealDisk.create_dir(path)
    }

    fn is_dir(&self, path: &Path) -> bool {
        RealDisk.is_dir(path)
    }

    fn open_dir(&self, dir: &Path) -> io::Result<Arc<dyn DiskDir>> {
        RealDisk.open_dir(dir)
    }

    fn lock(&self, path: &Path) -> io::Result<Result<DiskLock, Option<u32>>> {
        RealDisk.lock(path)
    }
}

impl DiskFile for StallingFile {
    fn len_bytes(&self) -> io::Result<u64> {
        self.0.len_bytes()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        self.0.write_at(buf, offset)
    }

    fn set_len(&self, len_bytes: u64) -> io::Result<()> {
        self.0.set_len(len_bytes)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.1.pass();
        self.0.sync_data()
    }
}

const ELECTION: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(2));

struct Cluster {
    nodes: Vec<Node<Count>>,
    disks: Vec<StallingDisk>,
    servers: Vec<Server>,
    _dir: tempfile::TempDir,
}

impl Cluster {
    fn start() -> Cluster {
        let ports: Vec<Port> = (0..3).map(|_| Port::free().unwrap()).collect();
        let (dir, list) = (tempfile::tempdir().unwrap(), members(&ports));
        let (mut nodes, mut disks, mut servers) = (Vec::new(), Vec::new(), Vec::new());
        for ((id, _), port) in list.iter().zip(&ports) {
            let disk = StallingDisk::default();
            let identity = Identity { cluster_id: 0, list_id: 7, member_id: id };
            let path = dir.path().join(id.to_string());
            let data_dir =
                DataDir::open_on(Arc::new(disk.clone()), path, identity, Standing::New).unwrap();
            let mut config = NodeConfig::new(id, list.clone());
            // A busy machine must not cost the leader its leadership.
            (config.timing.election_min, config.timing.election_max) = ELECTION;
            let node = Node::start(config, data_dir, Count::default()).unwrap();
            servers.push(serve(&node, port));
            nodes.push(node);
            disks.push(disk);
        }
        Cluster { nodes, disks, servers, _dir: dir }
    }

    /// A leader whose disk works.
    fn leader(&self, is_wanted: impl Fn(MemberId) -> bool) -> NodeHandle<Count> {
        let mut leader = None;
        until("a leader", || {
            let mut handles = self.nodes.iter().map(Node::handle);
            leader = handles.find(|handle| leads(handle) && is_wanted(handle.status().id));
            leader.is_some()
        });
        leader.unwrap()
    }

    fn disk(&self, id: MemberId) -> &Stall {
        &self.disks[id.0 as usize - 1].0
    }
}

/// Dropping a cluster would wait for a disk that hangs.
impl Drop for Cluster {
    fn drop(&mut self) {
        self.disks.iter().for_each(|disk| disk.0.set(false));
    }
}

/// A sync that hangs for longer than an election costs the leader its leadership, and the cluster
/// goes on. Proposals under way are not lost, and the member becomes a follower when its disk comes
/// back.
#[test]
fn a_leader_whose_disk_hangs_is_replaced_and_comes_back() {
    let cluster = Cluster::start();
    let old = cluster.leader(|_| true);
    let id = old.status().id;
    assert_eq!(propose(&old, "1").recv_timeout(TEST_TIMEOUT).unwrap(), Ok(1));
    cluster.disk(id).set(true);
    // The others are a majority, so it is committed even now.
    assert_eq!(propose(&old, "2").recv_timeout(TEST_TIMEOUT).unwrap(), Ok(2));
    let new = cluster.leader(|other| other != id);
    assert_eq!(propose(&new, "3").recv_timeout(TEST_TIMEOUT).unwrap(), Ok(3));
    assert!(old.status().is_disk_stalled);
    until("it follows", || old.status().role.leader == Some(new.status().id));
    cluster.disk(id).set(false);
    until("it has caught up", || {
        let (old, new) = (old.status(), new.status());
        !old.is_disk_stalled && old.durable_index == new.last_index
    });
    assert_eq!(propose(&new, "4").recv_timeout(TEST_TIMEOUT).unwrap(), Ok(4));
}

/// If every disk hangs, another leader would be no better: the old one still serves reads.
#[test]
fn where_all_disks_hang_reads_go_on() {
    let cluster = Cluster::start();
    let leader = cluster.leader(|_| true);
    assert_eq!(propose(&leader, "1").recv_timeout(TEST_TIMEOUT).unwrap(), Ok(1));
    (1..=3).for_each(|id| cluster.disk(MemberId(id)).set(true));
    let under_way = propose(&leader, "2");
    until("it is noticed", || leader.status().is_disk_stalled);
    let begun = Instant::now();
    while begun.elapsed() < 2 * ELECTION.1 {
        let (sender, receiver) = std::sync::mpsc::channel();
        leader.read((), Instant::now() + TEST_TIMEOUT, move |end| {
            let _ = sender.send(end);
        });
        assert_eq!(receiver.recv_timeout(TEST_TIMEOUT).unwrap(), Ok(1));
    }
    (1..=3).for_each(|id| cluster.disk(MemberId(id)).set(false));
    assert_eq!(under_way.recv_timeout(TEST_TIMEOUT).unwrap(), Ok(2));
}

/// A follower whose disk is known to be slow answers pings while it writes, so the leader keeps its
/// connections.
#[test]
fn a_slow_disk_costs_no_connection() {
    let cluster = Cluster::start();
    let leader = cluster.leader(|_| true);
    let slow = MemberId(if leader.status().id == MemberId(1) { 2 } else { 1 });
    let follower = cluster.nodes[slow.0 as usize - 1].handle();
    let stall_for = |time: Duration| {
        let began = Instant::now();
        cluster.disk(slow).set(true);
        let mut proposed = 0;
        while began.elapsed() < time {
            assert!(propose(&leader, "x").recv_timeout(TEST_TIMEOUT).unwrap().is_ok());
            proposed += 1;
        }
        cluster.disk(slow).set(false);
        assert!(proposed > 0);
        until("it has caught up", || follower.status().durable_index == leader.status().last_index);
    };
    // One slow write, so that the member knows about its disk.
    stall_for(Duration::from_millis(300));
    let connections = || cluster.servers[slow.0 as usize - 1].stats().connections_accepted;
    let before = connections();
    stall_for(3 * ELECTION.1);
    assert_eq!(connections(), before, "connections were made anew");
}
