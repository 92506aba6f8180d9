//! What all threads of a server share: its limits, counts and phase.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::capacity::Capacity;
use super::gauge::Gauge;
use super::pool::Pool;
use super::quiet::QuietLog;
use super::table::Table;
use crate::{Limits, Status, StatusCode};

/// When a client that is told "busy" should try again.
pub(super) const BUSY_RETRY_AFTER: Duration = Duration::from_millis(20);

/// What all threads of a server share.
pub(super) struct Shared {
    pub(super) local_addr: SocketAddr,
    pub(super) limits: Limits,
    pub(super) table: Table,
    pub(super) in_flight: Arc<Gauge>,
    pub(super) reserved_in_flight: Arc<Gauge>,
    /// Open streams, and the bytes of their items that no method has taken yet.
    pub(super) streams: Arc<Gauge>,
    pub(super) reserved_streams: Arc<Gauge>,
    pub(super) pool: Option<Arc<Pool>>,
    pub(super) capacity: Capacity,
    pub(super) connections_accepted: AtomicU64,
    pub(super) connections_refused: AtomicU64,
    pub(super) connections_idle: AtomicU64,
    pub(super) unknown_calls: AtomicU64,
    pub(super) log: QuietLog,
    /// Whether further calls are refused, while the open ones are still answered.
    pub(super) is_draining: AtomicBool,
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

impl Shared {
    /// The shared state of a server that is bound.
    pub(super) fn new(
        local_addr: SocketAddr,
        limits: Limits,
        table: Table,
        pool: Option<Arc<Pool>>,
    ) -> Arc<Shared> {
        let gauge = || Arc::new(Gauge::new(limits.calls_max, limits.bytes_max));
        let streams = || Arc::new(Gauge::new(limits.streams_max, limits.bytes_max));
        Arc::new(Shared {
            local_addr,
            limits,
            table,
            in_flight: gauge(),
            reserved_in_flight: gauge(),
            streams: streams(),
            reserved_streams: streams(),
            pool,
            capacity: Capacity::new(limits.connections_max),
            connections_accepted: AtomicU64::new(0),
            connections_refused: AtomicU64::new(0),
            connections_idle: AtomicU64::new(0),
            unknown_calls: AtomicU64::new(0),
            log: QuietLog::new(),
            is_draining: AtomicBool::new(false),
            phase: Mutex::new(Phase::Bound),
            changed: Condvar::new(),
        })
    }

    pub(super) fn is_stopping(&self) -> bool {
        *self.phase.lock() == Phase::Stopping
    }

    pub(super) fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Relaxed)
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

    pub(super) fn count_if_unknown(&self, code: StatusCode) {
        if matches!(code, StatusCode::UnknownService | StatusCode::UnknownMethod) {
            self.unknown_calls.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn count_idle(&self) {
        self.connections_idle.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a connection as refused that was counted as accepted.
    pub(super) fn count_refused(&self) {
        self.connections_accepted.fetch_sub(1, Ordering::Relaxed);
        self.connections_refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn log_refused(&self, peer: SocketAddr) {
        let connections = self.capacity.connections_max();
        self.log.warn(&format!(
            "rpc: connection from {peer} refused: at most {connections} may be open"
        ));
    }

    /// What the client of a connection too many is told.
    pub(super) fn too_many(&self) -> Status {
        let connections = self.capacity.connections_max();
        let words = format!("{connections} connections are open, and no more are taken");
        Status::busy(words, BUSY_RETRY_AFTER)
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
