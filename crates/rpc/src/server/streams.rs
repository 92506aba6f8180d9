//! The open streams of one connection.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::shared::{BUSY_RETRY_AFTER, Shared};
use crate::Status;
use crate::port::{Gauge, Room, Slot};
use crate::stream::{Over, Stream};

pub(super) struct Streams {
    open: Mutex<Open>,
    room: Arc<Room>,
    /// The last stream that was unknown when an item came for it; 0: none.
    stray_id: AtomicU64,
}

#[derive(Default)]
struct Open {
    by_id: HashMap<u64, Arc<Stream>>,
    /// With what all of them were ended. So is each one that is opened after that.
    ended_with: Option<Status>,
}

impl Streams {
    pub(super) fn new(shared: &Shared) -> Streams {
        let limits = &shared.limits;
        let own = Gauge::new(limits.streams_per_connection_max, limits.bytes_per_connection_max);
        let (all, reserved) = (Arc::clone(&shared.streams), Arc::clone(&shared.reserved_streams));
        let room = Arc::new(Room { own, all, reserved });
        Streams { open: Mutex::default(), room, stray_id: AtomicU64::new(0) }
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
        self.open.lock().by_id.contains_key(&id)
    }

    pub(super) fn get(&self, id: u64) -> Option<Arc<Stream>> {
        self.open.lock().by_id.get(&id).cloned()
    }

    /// Adds a stream.
    ///
    /// # Errors
    ///
    /// All streams have been ended: the status with which this one is to end, too. The thread that
    /// opens it may have looked whether the server drains before the server began to.
    pub(super) fn insert(&self, id: u64, stream: &Arc<Stream>) -> Result<(), Status> {
        let mut open = self.open.lock();
        let before = open.by_id.insert(id, Arc::clone(stream));
        assert!(before.is_none(), "stream {id} was opened twice");
        open.ended_with.clone().map_or(Ok(()), Err)
    }

    pub(super) fn remove(&self, id: u64) {
        self.open.lock().by_id.remove(&id);
    }

    /// Ends all of them with this status, and each one that is opened after that. `tell`: their
    /// client does not know.
    pub(super) fn end_all(&self, status: &Status, tell: bool) {
        let mut open = self.open.lock();
        open.ended_with.get_or_insert_with(|| status.clone());
        let streams: Vec<_> = open.by_id.values().cloned().collect();
        drop(open);
        streams.iter().for_each(|it| it.finish(Over::Ended(status.clone()), tell));
    }

    /// An item has come for a stream that is unknown. Returns whether it is the first of several in
    /// a row.
    pub(super) fn is_first_stray(&self, id: u64) -> bool {
        self.stray_id.swap(id, Ordering::Relaxed) != id
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::HeadSize;
    use crate::port::{self, Capacity};
    use crate::server::table::Table;
    use crate::stream::{
        Cause, FIRST_CREDIT_BYTES, Opening, Owner, ReceiveWindow, SendCredit, Side, Wire,
    };
    use crate::{Limits, StatusCode};

    struct Nobody;

    impl Owner for Nobody {
        fn over(&self, cause: Cause) -> Over {
            Over::Ended(Status::new(StatusCode::BadStream, cause.to_string()))
        }

        fn gone(self: Box<Self>) {}
    }

    fn stream(id: u64) -> Arc<Stream> {
        Stream::new(Opening {
            wire: Wire { side: Side::Server, head_size: HeadSize::U32Le, id },
            read_turn: None,
            owner: Box::new(Nobody),
            item_len_max: 100,
            deadline: None,
            credit: SendCredit::new(100),
            window: ReceiveWindow::new(FIRST_CREDIT_BYTES, FIRST_CREDIT_BYTES),
            has_peer_ended: false,
        })
    }

    /// Otherwise a server that drains would wait for it in vain.
    #[test]
    fn a_stream_that_is_opened_as_all_are_ended_ends_as_well() {
        let table = Table::new(Vec::new()).unwrap();
        let addr = "127.0.0.1:1".parse().unwrap();
        let port = port::State::new("rpc", addr, Capacity::new(1, 0));
        let streams = Streams::new(&Shared::new(port, Limits::default(), table, None));
        let early = stream(1);
        assert_eq!(streams.insert(1, &early), Ok(()));
        let status = Status::new(StatusCode::ShuttingDown, "the server is stopping");
        streams.end_all(&status, false);
        assert!(early.is_over());
        assert_eq!(streams.insert(2, &stream(2)), Err(status));
    }
}
