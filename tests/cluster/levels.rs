//! Feature levels: members of several versions in one cluster apply the same rules, and a member
//! that is too old stops in words.
//!
//! The state machine here weighs each number by its level, so members that applied one entry at
//! different levels would have different totals. Their digests would say so.

use std::fs;
use std::io::{self, Read, Write};
use std::time::Duration;

use bytes::Bytes;
use syncraft::members::Members;
use syncraft::node::{
    Node, NodeConfig, NodeError, NodeFailure, NodeHandle, RequestError, StateMachine, StateView,
    Timing,
};
use syncraft::raft::{Index, MemberId, Standing};
use syncraft::rpc::Server;
use syncraft::storage::{DataDir, Identity};
use syncraft::testing::Port;

use crate::nodes::{TEST_TIMEOUT, leads, members, propose, serve, until};

/// Begins a command that raises the level. Other commands are numbers to add.
const RAISE: u8 = 200;

/// Adds numbers, each times the level.
#[derive(Clone, Debug)]
struct Weighted {
    level: u32,
    /// What this version knows.
    level_max: u32,
    /// How many numbers were added.
    count: u64,
    total: u64,
}

impl Weighted {
    fn new(level_max: u32) -> Weighted {
        Weighted { level: 1, level_max, count: 0, total: 0 }
    }
}

impl StateMachine for Weighted {
    type Outcome = u64;
    type Query = ();
    type Answer = u64;
    type View = Weighted;

    fn apply(&mut self, _: Index, command: &Bytes) -> u64 {
        match command[..] {
            [RAISE, level] => self.level = self.level.max(u32::from(level)),
            _ => {
                self.count += 1;
                self.total += u64::from(command[0]) * u64::from(self.level);
            }
        }
        self.total
    }

    fn query(&self, (): ()) -> u64 {
        self.total
    }

    fn view(&self) -> Weighted {
        self.clone()
    }

    fn load(&mut self, body: &mut dyn Read) -> io::Result<()> {
        let mut next = || {
            let mut bytes = [0; 8];
            body.read_exact(&mut bytes).map(|()| u64::from_le_bytes(bytes))
        };
        self.level = next()? as u32;
        if self.level > self.level_max {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "what follows is not known"));
        }
        (self.count, self.total) = (next()?, next()?);
        Ok(())
    }

    fn digest(&self) -> Option<u64> {
        Some(self.total << 16 | self.count << 4 | u64::from(self.level))
    }

    fn level(&self) -> Option<u32> {
        Some(self.level)
    }

    fn level_max(&self) -> u32 {
        self.level_max
    }

    fn level_command(&self, level: u32) -> Bytes {
        Bytes::from(vec![RAISE, level as u8])
    }
}

impl StateView for Weighted {
    fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let numbers = [u64::from(self.level), self.count, self.total];
        numbers.iter().try_for_each(|number| out.write_all(&number.to_le_bytes()))
    }
}

/// Members that a test starts with different programs.
struct Mixed {
    nodes: Vec<Option<(Node<Weighted>, Server)>>,
    list: Members,
    ports: Vec<Port>,
    dir: tempfile::TempDir,
}

impl Mixed {
    /// Member 1 knows the first of these levels, and so on.
    fn start(levels: &[u32]) -> Mixed {
        let ports: Vec<Port> = levels.iter().map(|_| Port::free().unwrap()).collect();
        let (list, dir) = (members(&ports), tempfile::tempdir().unwrap());
        let nodes = levels.iter().map(|_| None).collect();
        let mut mixed = Mixed { nodes, list, ports, dir };
        (1..).zip(levels).for_each(|(id, level)| mixed.start_member(id, *level));
        mixed
    }

    fn try_start(&mut self, id: u64, level_max: u32) -> Result<(), NodeError> {
        let identity = Identity { cluster_id: 0, list_id: 7, member_id: MemberId(id) };
        let data_dir = DataDir::open(self.data_dir(id), identity, Standing::New).unwrap();
        // No test here wants an election that it has not asked for.
        let timing = Timing {
            election_min: Duration::from_secs(2),
            election_max: Duration::from_secs(3),
            ..Timing::default()
        };
        let config = NodeConfig { timing, ..NodeConfig::new(MemberId(id), self.list.clone()) };
        let node = Node::start(config, data_dir, Weighted::new(level_max))?;
        let server = serve(&node, &self.ports[id as usize - 1]);
        self.nodes[id as usize - 1] = Some((node, server));
        Ok(())
    }

    fn start_member(&mut self, id: u64, level_max: u32) {
        self.try_start(id, level_max).unwrap();
    }

    fn stop_member(&mut self, id: u64) {
        let (node, server) = self.nodes[id as usize - 1].take().unwrap();
        node.stop();
        server.stop();
    }

    fn data_dir(&self, id: u64) -> std::path::PathBuf {
        self.dir.path().join(id.to_string())
    }

    fn handle(&self, id: u64) -> NodeHandle<Weighted> {
        self.nodes[id as usize - 1].as_ref().expect("it runs").0.handle()
    }

    /// Of the members that run.
    fn handles(&self) -> Vec<NodeHandle<Weighted>> {
        self.nodes.iter().flatten().map(|(node, _)| node.handle()).collect()
    }

    fn leader(&self) -> NodeHandle<Weighted> {
        let mut leader = None;
        until("a leader", || {
            leader = self.handles().into_iter().find(leads);
            leader.is_some()
        });
        leader.unwrap()
    }

    /// Has this member lead.
    fn lead(&self, id: u64) {
        until("it leads", || {
            let leader = self.leader();
            leader.transfer(Some(MemberId(id)));
            leads(&self.handle(id))
        });
    }

    /// Adds a number, and returns the total.
    fn add(&self, number: u8) -> u64 {
        let mut total = None;
        until("somebody serves", || {
            let add = |it: &NodeHandle<Weighted>| propose(it, vec![number]).recv().unwrap();
            let ends = self.handles().into_iter().map(|handle| add(&handle));
            let mut certain = ends.inspect(|end| {
                assert!(!end.is_err_and(|error| error.may_apply()), "{end:?}");
            });
            total = certain.find_map(Result::ok);
            total.is_some()
        });
        total.unwrap()
    }

    /// Waits until all members that run have this level, and the same state.
    fn until_level(&self, level: u32) {
        until(&format!("level {level}"), || {
            let handles = self.handles();
            let digests: Vec<_> = handles.iter().map(NodeHandle::digest).collect();
            handles.iter().all(|it| it.level() == Some(level))
                && digests.iter().all(|digest| *digest == digests[0])
        });
    }

    /// Waits until all members that run have this state.
    fn until_state(&self, level: u32, count: u64, total: u64) {
        let expected = Weighted { level, level_max: level, count, total }.digest();
        until(&format!("{count} numbers that are {total} at level {level}"), || {
            self.handles().iter().all(|it| it.digest().map(|(_, digest)| digest) == expected)
        });
    }

    /// Waits until the leader has heard from all members what they know, and returns that.
    fn announced(&self) -> Vec<u32> {
        let mut levels = Vec::new();
        until("all have announced a level", || {
            levels = self.leader().announced_levels().into_values().collect();
            !levels.is_empty() && levels.iter().all(|level| *level != 0)
        });
        levels
    }

    /// Waits until this member has stopped by itself.
    fn failure(&self, id: u64) -> NodeFailure {
        let handle = self.handle(id);
        until("it stops", || handle.failure().is_some());
        handle.failure().unwrap()
    }
}

fn check_words(error: &dyn std::error::Error) {
    let expected = "the cluster is at feature level 2, and this program knows levels up to 1: start \
                    a newer one with the same data";
    assert_eq!(error.to_string(), expected);
}

#[test]
fn members_of_two_levels_stay_at_the_lower_one_until_the_old_one_comes_back_newer() {
    let mut mixed = Mixed::start(&[2, 2, 1]);
    assert_eq!(mixed.announced(), [2, 2, 1]);
    // Under each leader, and after many ticks.
    for id in 1..=3 {
        mixed.lead(id);
        assert_eq!(mixed.announced(), [2, 2, 1]);
        for n in 1..=20 {
            assert_eq!(mixed.add(1), (id - 1) * 20 + n, "the rules of level 1");
        }
    }
    mixed.until_level(1);

    // It has announced nothing newer, so the level stays while it is down.
    mixed.stop_member(3);
    assert_eq!(mixed.add(1), 61);
    assert_eq!(mixed.leader().announced_levels().into_values().min(), Some(0));
    mixed.until_level(1);
    mixed.start_member(3, 2);
    mixed.until_level(2);
    assert_eq!(mixed.add(1), 63, "the rules of level 2");
    mixed.until_state(2, 62, 63);
    assert!(mixed.handles().iter().all(|handle| handle.divergence().is_none()));
}

#[test]
fn a_member_that_is_down_holds_nothing_up_once_it_has_announced_the_level() {
    let mut mixed = Mixed::start(&[2, 1, 2, 2, 2]);
    mixed.lead(1);
    assert_eq!(mixed.announced(), [2, 1, 2, 2, 2]);
    assert_eq!(mixed.add(5), 5);
    mixed.until_state(1, 1, 5);
    mixed.stop_member(3);
    mixed.stop_member(2);
    mixed.start_member(2, 2);
    mixed.until_level(2);
    assert_eq!(mixed.add(5), 15);

    // It comes back with an older program, and meets the entry that raised the level.
    mixed.start_member(3, 1);
    let failure = mixed.failure(3);
    assert!(matches!(failure, NodeFailure::UnknownLevel { level: 2, known: 1 }), "{failure:?}");
    check_words(&failure);
    assert_eq!(mixed.handle(3).level(), Some(1), "nothing of that entry is shown");
    assert_eq!(mixed.handle(3).digest().unwrap().1, 5 << 16 | 1 << 4 | 1);
    // Its log has the entry, so it does not get beyond it the next time either.
    mixed.stop_member(3);
    mixed.start_member(3, 1);
    check_words(&mixed.failure(3));
    mixed.stop_member(3);

    assert_eq!(mixed.add(5), 25, "the others go on");
    mixed.start_member(3, 2);
    // Nothing is lost.
    mixed.until_state(2, 3, 25);
}

#[test]
fn a_member_that_is_too_old_stops_at_a_snapshot() {
    let mut mixed = Mixed::start(&[2, 2, 2]);
    mixed.until_level(2);
    assert_eq!(mixed.add(5), 10);
    // Whoever starts from a snapshot has no older entries to send.
    for id in [1, 2] {
        let handle = mixed.handle(id);
        until("it has applied the number", || handle.digest().is_some_and(|it| it.1 >> 16 == 10));
        handle.take_snapshot();
        until("a snapshot", || handle.status().snapshot_index > Index::ZERO);
        mixed.stop_member(id);
        mixed.start_member(id, 2);
        assert_eq!(mixed.handle(id).level(), Some(2), "a snapshot carries the level");
        mixed.leader();
    }
    mixed.stop_member(3);
    fs::remove_dir_all(mixed.data_dir(3)).unwrap();
    mixed.start_member(3, 1);
    let failure = mixed.failure(3);
    assert!(matches!(failure, NodeFailure::UnknownLevel { level: 2, known: 1 }), "{failure:?}");
    mixed.stop_member(3);

    // The snapshot is on its disk now.
    let error = mixed.try_start(3, 1).unwrap_err();
    assert!(matches!(error, NodeError::UnknownLevel { level: 2, known: 1 }), "{error:?}");
    check_words(&error);
    mixed.start_member(3, 2);
    mixed.until_level(2);
    assert_eq!(mixed.add(5), 20);
    mixed.until_state(2, 2, 20);
}

/// Each restart may change the leader, and numbers are added meanwhile.
#[test]
fn a_rolling_upgrade_raises_the_level_and_loses_nothing() {
    let mut mixed = Mixed::start(&[1, 1, 1]);
    let (mut sum, mut count) = (0, 0);
    for level in 2..=4 {
        for id in 1..=3 {
            mixed.lead(if level % 2 == 0 { id } else { id % 3 + 1 });
            mixed.stop_member(id);
            sum += u64::from(level - 1);
            assert_eq!(mixed.add(1), sum, "the old rules hold while one is old");
            mixed.start_member(id, level);
            count += 1;
        }
        mixed.until_level(level);
        sum += u64::from(level);
        assert_eq!(mixed.add(1), sum);
        count += 1;
    }
    mixed.until_state(4, count, sum);
    for handle in mixed.handles() {
        assert!(handle.failure().is_none() && handle.divergence().is_none());
    }
}

#[test]
fn nothing_is_answered_from_a_state_of_an_unknown_level() {
    let mut mixed = Mixed::start(&[1]);
    assert_eq!(mixed.add(3), 3);
    let handle = mixed.handle(1);
    let applied = handle.applied_index();
    // The digest follows the answer.
    until("its digest", || handle.digest().is_some_and(|(index, _)| index == applied));
    let before = (applied, handle.digest());
    let end = propose(&handle, vec![RAISE, 2]).recv_timeout(TEST_TIMEOUT).unwrap();
    assert_eq!(end, Err(RequestError::Stopped { may_apply: true }));
    check_words(&mixed.failure(1));
    assert_eq!((handle.applied_index(), handle.digest()), before);
    let end = propose(&handle, vec![1]).recv_timeout(TEST_TIMEOUT).unwrap();
    assert_eq!(end, Err(RequestError::Stopped { may_apply: false }));
    mixed.stop_member(1);
    mixed.start_member(1, 2);
    assert_eq!(mixed.add(3), 9);
}

/// A test may have a program announce, and accept, another level than it knows.
#[test]
fn the_level_that_a_member_knows_may_be_set() {
    let (port, dir) = (Port::free().unwrap(), tempfile::tempdir().unwrap());
    let list = members(std::slice::from_ref(&port));
    let start = |level_max| {
        let identity = Identity { cluster_id: 0, list_id: 7, member_id: MemberId(1) };
        let data_dir = DataDir::open(dir.path(), identity, Standing::New).unwrap();
        let config = NodeConfig { level_max, ..NodeConfig::new(MemberId(1), list.clone()) };
        Node::start(config, data_dir, Weighted::new(3)).unwrap()
    };
    for (level_max, level) in [(Some(1), 1), (Some(2), 2), (None, 3), (Some(4), 4)] {
        let node = start(level_max);
        let handle = node.handle();
        until("it leads", || leads(&handle) && handle.level() == Some(level));
        node.stop();
    }
}

/// A directory that was made anew while the cluster ran an older version knows the cluster, and
/// nothing in it says who the members are: the list does, if the cluster began with it.
#[test]
fn members_that_were_rebuilt_before_they_were_recorded_elect_a_leader() {
    let ports: Vec<Port> = (0..3).map(|_| Port::free().unwrap()).collect();
    let (list, dir) = (members(&ports), tempfile::tempdir().unwrap());
    let start = |(id, port): (u64, &Port)| {
        let identity = Identity { cluster_id: 7, list_id: 7, member_id: MemberId(id) };
        let path = dir.path().join(id.to_string());
        let data_dir = DataDir::open(path, identity, Standing::Voter).unwrap();
        let config = NodeConfig::new(MemberId(id), list.clone());
        let config = NodeConfig { is_first_list: true, ..config };
        let node = Node::start(config, data_dir, Weighted::new(1)).unwrap();
        let server = serve(&node, port);
        (node, server)
    };
    let nodes: Vec<_> = (1..).zip(&ports).map(start).collect();
    until("a leader", || nodes.iter().any(|(node, _)| leads(&node.handle())));
    for (node, server) in nodes {
        node.stop();
        server.stop();
    }
}
