//! What the threads of a port share: how many connections there are and may be, and its phase.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::capacity::Capacity;
use super::quiet::QuietLog;

pub(crate) struct State {
    /// What log lines and the names of threads begin with.
    pub(crate) protocol: &'static str,
    pub(crate) local_addr: SocketAddr,
    pub(crate) capacity: Capacity,
    pub(crate) connections_accepted: AtomicU64,
    pub(crate) connections_refused: AtomicU64,
    pub(crate) connections_idle: AtomicU64,
    pub(crate) log: QuietLog,
    /// Whether nothing further is begun, while what is open is still answered.
    is_draining: AtomicBool,
    phase: Mutex<Phase>,
    changed: Condvar,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// It listens. Connections wait to be accepted.
    Bound,
    Serving,
    Stopping,
}

impl State {
    /// The state of a port that listens.
    pub(crate) fn new(
        protocol: &'static str,
        local_addr: SocketAddr,
        capacity: Capacity,
    ) -> Arc<State> {
        Arc::new(State {
            protocol,
            local_addr,
            capacity,
            connections_accepted: AtomicU64::new(0),
            connections_refused: AtomicU64::new(0),
            connections_idle: AtomicU64::new(0),
            log: QuietLog::new(),
            is_draining: AtomicBool::new(false),
            phase: Mutex::new(Phase::Bound),
            changed: Condvar::new(),
        })
    }

    pub(super) fn is_stopping(&self) -> bool {
        *self.phase.lock() == Phase::Stopping
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Relaxed)
    }

    pub(super) fn begin_draining(&self) {
        self.is_draining.store(true, Ordering::SeqCst);
    }

    /// Enters a phase, unless it is stopping, which is for ever.
    pub(super) fn enter(&self, next: Phase) {
        let mut phase = self.phase.lock();
        if *phase != Phase::Stopping {
            *phase = next;
        }
        drop(phase);
        self.changed.notify_all();
    }

    pub(crate) fn count_idle(&self) {
        self.connections_idle.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a connection as refused that was counted as accepted.
    pub(super) fn count_refused(&self) {
        self.connections_accepted.fetch_sub(1, Ordering::Relaxed);
        self.connections_refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn log_refused(&self, peer: SocketAddr) {
        let connections = self.capacity.connections_max();
        self.warn(&format!("connection from {peer} refused: at most {connections} may be open"));
    }

    /// Writes a line to the log, unless there were too many.
    pub(crate) fn warn(&self, line: &str) {
        self.log.warn(&format!("{}: {line}", self.protocol));
    }

    pub(super) fn wait_for_stop(&self, timeout: Duration) {
        let mut phase = self.phase.lock();
        if *phase != Phase::Stopping {
            self.changed.wait_for(&mut phase, timeout);
        }
    }

    /// Waits while it is bound and not started.
    pub(super) fn wait_for_start(&self) {
        let mut phase = self.phase.lock();
        while *phase == Phase::Bound {
            self.changed.wait(&mut phase);
        }
    }
}
