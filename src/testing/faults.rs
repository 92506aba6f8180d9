//! [`Faults`]: what is wrong with the network between members, now.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Shutdown, TcpStream};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::raft::MemberId;

/// From whom to whom bytes go, whoever opened the connection.
pub(super) type Way = (MemberId, MemberId);

/// Looked at by all links, changed by the test.
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
    last_socket: u64,
    sockets: BTreeMap<u64, TcpStream>,
}

impl Faults {
    pub(super) fn none() -> Faults {
        let state = State {
            cut: BTreeSet::new(),
            paused: BTreeSet::new(),
            delay: Duration::ZERO..=Duration::ZERO,
            drop_rate: 0.0,
            is_over: false,
            last_socket: 0,
            sockets: BTreeMap::new(),
        };
        Faults { state: Mutex::new(state), changed: Condvar::new() }
    }

    pub(super) fn cut(&self, ways: impl IntoIterator<Item = Way>) {
        self.state.lock().cut.extend(ways);
    }

    /// All ways are open again, but those from members that are paused.
    pub(super) fn heal(&self) {
        self.state.lock().cut.clear();
        self.changed.notify_all();
    }

    /// True if it was not paused before.
    pub(super) fn pause(&self, id: MemberId) -> bool {
        self.state.lock().paused.insert(id)
    }

    pub(super) fn resume(&self, id: MemberId) {
        self.state.lock().paused.remove(&id);
        self.changed.notify_all();
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

    /// When a chunk that leaves now arrives; `None` if it is lost.
    pub(super) fn arrival(&self) -> Option<Instant> {
        let state = self.state.lock();
        if state.drop_rate > 0.0 && fastrand::f64() < state.drop_rate {
            return None;
        }
        let (least, most) = (*state.delay.start(), *state.delay.end());
        let delay = least + most.saturating_sub(least).mul_f64(fastrand::f64());
        Some(Instant::now() + delay)
    }

    /// Waits until the ways are open. False if the cluster is being dropped.
    pub(super) fn wait_open(&self, ways: &[Way]) -> bool {
        let mut state = self.state.lock();
        while !state.is_over && ways.iter().any(|way| state.is_blocked(way)) {
            self.changed.wait(&mut state);
        }
        !state.is_over
    }

    /// Waits until then. False if the cluster is being dropped.
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
        for socket in std::mem::take(&mut state.sockets).values() {
            let _ = socket.shutdown(Shutdown::Both);
        }
        self.changed.notify_all();
    }

    /// Notes a socket that is to be closed with the cluster. `None` if that is now.
    pub(super) fn register(&self, socket: TcpStream) -> Option<u64> {
        let mut state = self.state.lock();
        if state.is_over {
            return None;
        }
        state.last_socket += 1;
        let number = state.last_socket;
        state.sockets.insert(number, socket);
        Some(number)
    }

    pub(super) fn forget(&self, socket: u64) {
        self.state.lock().sockets.remove(&socket);
    }
}

impl State {
    fn is_blocked(&self, way: &Way) -> bool {
        self.cut.contains(way) || self.paused.contains(&way.0)
    }
}
