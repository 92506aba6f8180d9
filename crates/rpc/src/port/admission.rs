//! Whether a connection may stay: its first request decides.

use parking_lot::Mutex;

use super::capacity::Place;
use super::{Connection, State};
use crate::transport::Peeked;

/// Whether a connection may stay.
#[derive(Default)]
pub(crate) struct Admission {
    stage: Mutex<Stage>,
}

#[derive(Default)]
enum Stage {
    /// Its first request decides.
    #[default]
    Pending,
    /// It has a place, until it ends or gives the place up.
    Admitted {
        #[cfg_attr(not(feature = "http"), expect(dead_code, reason = "it is held"))]
        place: Place,
    },
    /// It was refused or gave its place up, and is ending.
    Refused,
}

/// Why a connection may not stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotAdmitted {
    /// There was no place for it, and its client was just told so.
    Refused,
    /// It was refused before, and is ending.
    Ending,
}

impl Admission {
    /// Decides whether `connection` may stay, as its first request has come. `refuse` tells its
    /// client if it may not.
    pub(crate) fn admit(
        &self,
        connection: &impl Connection,
        state: &State,
        is_reserved: bool,
        refuse: impl FnOnce(),
    ) -> Result<(), NotAdmitted> {
        self.admit_or_replace(connection, state, is_reserved, || None, refuse)
    }

    /// The same. If no place is free, `replace` may end another connection and return its place.
    pub(crate) fn admit_or_replace(
        &self,
        connection: &impl Connection,
        state: &State,
        is_reserved: bool,
        replace: impl FnOnce() -> Option<Place>,
        refuse: impl FnOnce(),
    ) -> Result<(), NotAdmitted> {
        let mut stage = self.stage.lock();
        match *stage {
            Stage::Admitted { .. } => return Ok(()),
            Stage::Refused => return Err(NotAdmitted::Ending),
            Stage::Pending => {}
        }
        if let Some(place) = state.capacity.try_take(is_reserved).or_else(replace) {
            *stage = Stage::Admitted { place };
            return Ok(());
        }
        state.count_refused();
        // Before it counts as refused: then it may be ended at any time.
        refuse();
        *stage = Stage::Refused;
        // Without the lock, which the thread that accepts takes: writing to a log may block.
        drop(stage);
        state.log_refused(connection.peer());
        Err(NotAdmitted::Refused)
    }

    /// Takes the place away from a connection that its caller ends. Never waits for a decision
    /// about another connection, which may be waiting for this one.
    #[cfg(feature = "http")]
    pub(crate) fn give_up_place(&self) -> Option<Place> {
        let mut stage = self.stage.try_lock()?;
        match std::mem::replace(&mut *stage, Stage::Refused) {
            Stage::Admitted { place } => Some(place),
            other => {
                *stage = other;
                None
            }
        }
    }

    /// The connection has ended: gives its place back, although somebody may still hold it.
    #[cfg(feature = "http")]
    pub(crate) fn end(&self) {
        *self.stage.lock() = Stage::Refused;
    }

    /// Ends `connection` if no request has come over it, or if it was refused and its client told
    /// so. Returns whether it did.
    pub(crate) fn evict(&self, connection: &impl Connection, state: &State) -> bool {
        let mut stage = self.stage.lock();
        let goes = match *stage {
            _ if connection.is_cut() => false,
            Stage::Admitted { .. } => false,
            // If its first request has come, its thread is about to read it.
            Stage::Pending => connection.outbox().transport().peek() == Peeked::Nothing,
            Stage::Refused => !connection.outbox().holds_over(0),
        };
        if !goes {
            return false;
        }
        let was = std::mem::replace(&mut *stage, Stage::Refused);
        drop(stage);
        if let Stage::Pending = was {
            state.count_refused();
            state.log_refused(connection.peer());
            connection.tell_evicted();
        }
        connection.cut("it had to make room");
        true
    }
}
