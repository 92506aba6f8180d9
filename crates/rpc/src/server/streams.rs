//! The open streams of one connection.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::gauge::{Gauge, Room, Slot};
use super::shared::{BUSY_RETRY_AFTER, Shared};
use crate::Status;
use crate::stream::{Over, Stream};

pub(super) struct Streams {
    by_id: Mutex<HashMap<u64, Arc<Stream>>>,
    room: Arc<Room>,
    /// The last stream that was unknown when an item came for it; 0: none.
    stray_id: AtomicU64,
}

impl Streams {
    pub(super) fn new(shared: &Shared) -> Streams {
        let limits = &shared.limits;
        let own = Gauge::new(limits.streams_per_connection_max, limits.bytes_per_connection_max);
        let (all, reserved) = (Arc::clone(&shared.streams), Arc::clone(&shared.reserved_streams));
        let room = Arc::new(Room { own, all, reserved });
        Streams { by_id: Mutex::default(), room, stray_id: AtomicU64::new(0) }
    }

    /// Room for a stream whose request has so many bytes.
    ///
    /// # Errors
    ///
    /// "Busy": there is none.
    pub(super) fn try_room(&self, bytes: usize, is_reserved: bool) -> Result<Slot, Status> {
        Slot::try_take(&self.room, is_reserved, bytes)
            .ok_or_else(|| Status::busy("too many streams are open", BUSY_RETRY_AFTER))
    }

    pub(super) fn has(&self, id: u64) -> bool {
        self.by_id.lock().contains_key(&id)
    }

    pub(super) fn get(&self, id: u64) -> Option<Arc<Stream>> {
        self.by_id.lock().get(&id).cloned()
    }

    pub(super) fn insert(&self, id: u64, stream: &Arc<Stream>) {
        let before = self.by_id.lock().insert(id, Arc::clone(stream));
        assert!(before.is_none(), "stream {id} was opened twice");
    }

    pub(super) fn remove(&self, id: u64) {
        self.by_id.lock().remove(&id);
    }

    /// Ends all of them with this status. `tell`: their client does not know.
    pub(super) fn end_all(&self, status: &Status, tell: bool) {
        let streams: Vec<_> = self.by_id.lock().values().cloned().collect();
        streams.iter().for_each(|it| it.finish(Over::Ended(status.clone()), tell));
    }

    /// An item has come for a stream that is unknown. Returns whether it is the first of several in
    /// a row.
    pub(super) fn is_first_stray(&self, id: u64) -> bool {
        self.stray_id.swap(id, Ordering::Relaxed) != id
    }
}
