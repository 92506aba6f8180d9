//! What all threads of an RPC server share: its port, its limits, and what is in flight.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::pool::Pool;
use super::table::Table;
use crate::port::{self, Gauge};
use crate::{Limits, Status, StatusCode};

/// When a client that is told "busy" should try again.
pub(super) const BUSY_RETRY_AFTER: Duration = Duration::from_millis(20);

/// What all threads of a server share.
pub(super) struct Shared {
    pub(super) port: Arc<port::State>,
    pub(super) limits: Limits,
    pub(super) table: Table,
    pub(super) in_flight: Arc<Gauge>,
    pub(super) reserved_in_flight: Arc<Gauge>,
    /// Open streams, and the bytes of their items that no method has taken yet.
    pub(super) streams: Arc<Gauge>,
    pub(super) reserved_streams: Arc<Gauge>,
    pub(super) pool: Option<Arc<Pool>>,
    pub(super) unknown_calls: AtomicU64,
}

impl Shared {
    /// The shared state of a server that is bound.
    pub(super) fn new(
        port: Arc<port::State>,
        limits: Limits,
        table: Table,
        pool: Option<Arc<Pool>>,
    ) -> Arc<Shared> {
        let gauge = || Arc::new(Gauge::new(limits.calls_max, limits.bytes_max));
        let streams = || Arc::new(Gauge::new(limits.streams_max, limits.bytes_max));
        Arc::new(Shared {
            port,
            limits,
            table,
            in_flight: gauge(),
            reserved_in_flight: gauge(),
            streams: streams(),
            reserved_streams: streams(),
            pool,
            unknown_calls: AtomicU64::new(0),
        })
    }

    pub(super) fn count_if_unknown(&self, code: StatusCode) {
        if matches!(code, StatusCode::UnknownService | StatusCode::UnknownMethod) {
            self.unknown_calls.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What the client of a connection too many is told.
    pub(super) fn too_many(&self) -> Status {
        let connections = self.port.capacity.connections_max();
        let words = format!("{connections} connections are open, and no more are taken");
        Status::busy(words, BUSY_RETRY_AFTER)
    }
}
