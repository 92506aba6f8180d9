//! [`Faults`]: what is wrong with the network between members at the moment.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Shutdown, TcpStream};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::raft::MemberId;

/// The direction of bytes: from which member to which, whichever of them opened the connection.
pub(super) type Way = (MemberId, MemberId);

/// All links read it, and the test changes it.
#[derive(Debug)]
pub(super) struct Faults {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    cut: BTreeSet<Way>,
    paused: BTreeSet<MemberId>,
    delay: RangeInclusive<Duration>,
    drop_rate: f64,
    /// The cluster is being dropped.
    is_over: bool,
    last_connection: u64,
    connections: BTreeMap<u64, Connection>,
}

/// A connection between two members.
#[derive(Debug)]
struct Connection {
    /// The member that opened it, and the other one.
    ends: Way,
    sockets: [TcpStream; 2],
    /// Everything that is sent over it is swallowed.
    is_dead: Arc<AtomicBool>,
}

impl Faults {
    pub(super) fn none() -> Faults {
        let state = State {
            cut: BTreeSet::new(),
            paused: BTreeSet::new(),
            delay: Duration::ZERO..=Duration::ZERO,
            drop_rate: 0.0,
            is_over: false,
            last_connection: 0,
            connections: BTreeMap::new(),
        };
        Faults { state: Mutex::new(state), changed: Condvar::new() }
    }

    pub(super) fn cut(&self, ways: impl IntoIterator<Item = Way>) {
        self.state.lock().cut.extend(ways);
    }

    /// Opens all ways again, except those from paused members.
    pub(super) fn heal(&self) {
        self.state.lock().cut.clear();
        self.changed.notify_all();
    }

    /// From now on the existing connections between these two members carry nothing.
    pub(super) fn swallow(&self, one: MemberId, other: MemberId) {
        let state = self.state.lock();
        let connections = state.connections.values();
        connections
            .filter(|it| it.ends == (one, other) || it.ends == (other, one))
            .for_each(|it| it.is_dead.store(true, Ordering::Relaxed));
    }

    /// The ways that are cut, the delay, and the share of chunks that are lost.
    pub(super) fn now(&self) -> (Vec<Way>, RangeInclusive<Duration>, f64) {
        let state = self.state.lock();
        (state.cut.iter().copied().collect(), state.delay.clone(), state.drop_rate)
    }

    /// Pauses a member. Returns whether it was not paused before.
    pub(super) fn pause(&self, id: MemberId) -> bool {
        self.state.lock().paused.insert(id)
    }

    /// Returns whether the member was paused.
    pub(super) fn resume(&self, id: MemberId) -> bool {
        let was_paused = self.state.lock().paused.remove(&id);
        self.changed.notify_all();
        was_paused
    }

    pub(super) fn is_paused(&self, id: MemberId) -> bool {
        self.state.lock().paused.contains(&id)
    }

    pub(super) fn set_delay(&self, delay: RangeInclusive<Duration>) {
        self.state.lock().delay = delay;
    }

    pub(super) fn set_drop_rate(&self, rate: f64) {
        self.state.lock().drop_rate = rate;
    }

    /// Whether two members hear each other.
    pub(super) fn joins(&self, one: MemberId, other: MemberId) -> bool {
        let state = self.state.lock();
        !state.cut.contains(&(one, other)) && !state.cut.contains(&(other, one))
    }

    /// When a chunk that is sent now arrives. `None`: it is lost.
    pub(super) fn arrival(&self) -> Option<Instant> {
        let state = self.state.lock();
        if state.drop_rate > 0.0 && fastrand::f64() < state.drop_rate {
            return None;
        }
        let (least, most) = (*state.delay.start(), *state.delay.end());
        let delay = least + most.saturating_sub(least).mul_f64(fastrand::f64());
        Some(Instant::now() + delay)
    }

    /// Waits until the ways are open. Returns false if the cluster is being dropped.
    pub(super) fn wait_open(&self, ways: &[Way]) -> bool {
        let mut state = self.state.lock();
        while !state.is_over && ways.iter().any(|way| state.is_blocked(way)) {
            self.changed.wait(&mut state);
        }
        !state.is_over
    }

    /// Waits until then. Returns false if the cluster is being dropped.
    pub(super) fn wait_until(&self, then: Instant) -> bool {
        let mut state = self.state.lock();
        while !state.is_over && Instant::now() < then {
            self.changed.wait_until(&mut state, then);
        }
        !state.is_over
    }

    pub(super) fn is_over(&self) -> bool {
        self.state.lock().is_over
    }

    /// Ends all waiting, and every connection.
    pub(super) fn end(&self) {
        let mut state = self.state.lock();
        state.is_over = true;
        for connection in std::mem::take(&mut state.connections).values() {
            for socket in &connection.sockets {
                let _ = socket.shutdown(Shutdown::Both);
            }
        }
        self.changed.notify_all();
    }

    /// Registers a connection, which is closed with the cluster. Returns its number, and a flag
    /// that says whether to swallow what is sent over it, now or later. `None`: the cluster is
    /// being dropped.
    pub(super) fn register(
        &self,
        ends: Way,
        sockets: [TcpStream; 2],
    ) -> Option<(u64, Arc<AtomicBool>)> {
        let mut state = self.state.lock();
        if state.is_over {
            return None;
        }
        state.last_connection += 1;
        let (number, is_dead) = (state.last_connection, Arc::default());
        state
            .connections
            .insert(number, Connection { ends, sockets, is_dead: Arc::clone(&is_dead) });
        Some((number, is_dead))
    }

    pub(super) fn forget(&self, connection: u64) {
        self.state.lock().connections.remove(&connection);
    }
}

impl State {
    fn is_blocked(&self, way: &Way) -> bool {
        self.cut.contains(way) || self.paused.contains(&way.0)
    }
}
