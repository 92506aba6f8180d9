//! What scans and backups have in common: each is one of a few, and its client takes it piece by
//! piece.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::Api;
use super::readers::Ending;
use crate::kv::watch::NoRoom;
use crate::node::RequestError;

/// How long a read waits until a piece is taken. Too short: who reads slowly must begin anew more
/// often. Too long: who reads no more takes up a thread.
const STALL_MAX: Duration = Duration::from_secs(10);

/// How often a read that waits until a piece is taken looks whether it should end.
const TURN: Duration = Duration::from_millis(100);

/// How many reads of one kind a member makes.
#[derive(Debug)]
pub(super) struct Places {
    taken: AtomicUsize,
    max: usize,
}

/// The place of one read among them.
pub(super) struct Place(Arc<Places>);

impl Places {
    /// So many reads may be made at the same time.
    pub(super) fn new(max: usize) -> Arc<Places> {
        Arc::new(Places { taken: AtomicUsize::new(0), max })
    }

    pub(super) fn take(self: &Arc<Places>) -> Result<Place, RequestError> {
        let place = Place(Arc::clone(self));
        match self.taken.fetch_add(1, Ordering::AcqRel) < self.max {
            true => Ok(place),
            false => Err(RequestError::Busy),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Api {
    /// Waits until a piece is taken. `take` is called until it takes it, each time with the moment
    /// until which it may wait for room. `Break`: nobody wants more.
    pub(super) fn offer(
        &self,
        ending: Ending<'_>,
        mut take: impl FnMut(Instant) -> Result<ControlFlow<()>, NoRoom>,
    ) -> Result<ControlFlow<()>, RequestError> {
        let offered = Instant::now();
        loop {
            self.pass_gate();
            if let Ok(taken) = take(Instant::now() + TURN) {
                return Ok(taken);
            }
            if let Some(error) = ending() {
                return Err(error);
            }
            if offered.elapsed() >= STALL_MAX {
                return Err(RequestError::TimedOut { may_apply: false });
            }
        }
    }

    /// It may have turned out meanwhile that the state is wrong.
    pub(super) fn check_state(&self) -> Result<(), RequestError> {
        match self.shared.node.divergence() {
            Some(_) => Err(RequestError::Diverged { may_apply: false }),
            None => Ok(()),
        }
    }
}
