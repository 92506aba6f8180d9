//! The connections of a port and their threads: which are alive, and how each is joined.
//!
//! When a connection's thread ends, it moves its own handle from `live` to `ended`, and joins those
//! threads before it that have finished. So few handles ever wait to be joined. It does not wait
//! for a thread to finish: each would wait for the one before, in a row that grows where
//! connections come and go faster than their threads get the processor.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::Shutdown;
use std::sync::Arc;
use std::thread::{self, JoinHandle, ThreadId};
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use super::Connection;
use crate::net::{join, spawn};
use crate::outbox::Ending;

/// Names a connection in its registry. The older of two has the lower one.
pub(crate) type ConnectionId = u64;

/// How a thread leaves its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leaves {
    /// It is over.
    Ended,
    /// It goes on without a thread.
    #[cfg_attr(not(feature = "http"), expect(dead_code, reason = "no RPC connection does"))]
    Parked,
}

pub(crate) struct Registry<C> {
    state: Mutex<State<C>>,
    ended: Condvar,
}

struct State<C> {
    next_id: ConnectionId,
    /// The oldest is in front.
    live: BTreeMap<ConnectionId, Live<C>>,
    /// The one that ended first is in front.
    ended: VecDeque<JoinHandle<()>>,
    closed: bool,
}

struct Live<C> {
    connection: Arc<C>,
    /// `None`: it is parked.
    thread: Option<JoinHandle<()>>,
}

impl<C> Default for Registry<C> {
    fn default() -> Self {
        let (live, ended) = (BTreeMap::new(), VecDeque::new());
        let state = State { next_id: 0, live, ended, closed: false };
        Registry { state: Mutex::new(state), ended: Condvar::new() }
    }
}

impl<C: Connection> Registry<C> {
    pub(crate) fn len(&self) -> usize {
        self.state.lock().live.len()
    }

    /// Starts the thread of a connection.
    pub(super) fn start(
        self: &Arc<Self>,
        thread_name: String,
        connection: Arc<C>,
        run: impl FnOnce() -> Leaves + Send + 'static,
    ) -> io::Result<()> {
        let mut state = self.state.lock();
        let id = state.next_id;
        state.next_id += 1;
        let thread = self.spawn(&state, thread_name, id, run)?;
        state.live.insert(id, Live { connection, thread: Some(thread) });
        Ok(())
    }

    /// Starts a thread for a connection that is parked.
    #[cfg(feature = "http")]
    pub(crate) fn resume(
        self: &Arc<Self>,
        thread_name: String,
        id: ConnectionId,
        run: impl FnOnce() -> Leaves + Send + 'static,
    ) -> io::Result<()> {
        let mut state = self.state.lock();
        let thread = self.spawn(&state, thread_name, id, run)?;
        let live = state.live.get_mut(&id).expect("a parked connection is live until it is ended");
        live.thread = Some(thread);
        Ok(())
    }

    /// Starts a thread. The lock is held until the handle is in the table: the thread cannot end
    /// before it is there.
    fn spawn(
        self: &Arc<Self>,
        state: &State<C>,
        name: String,
        id: ConnectionId,
        run: impl FnOnce() -> Leaves + Send + 'static,
    ) -> io::Result<JoinHandle<()>> {
        if state.closed {
            return Err(io::Error::other("the server is stopping"));
        }
        let registry = Arc::clone(self);
        spawn(name, move || {
            // Made in the thread: if the thread does not start, dropping this would take the lock
            // that is held here.
            let mut leave = Leave { registry, id, leaves: Leaves::Ended };
            leave.leaves = run();
        })
    }

    /// The thread of a connection ends.
    fn leave(&self, id: ConnectionId, leaves: Leaves) {
        let mut state = self.state.lock();
        let (mine, parked) = match leaves {
            Leaves::Ended => (state.live.remove(&id).and_then(|live| live.thread), None),
            Leaves::Parked => match state.live.get_mut(&id) {
                Some(live) => (live.thread.take(), Some(Arc::clone(&live.connection))),
                None => (None, None),
            },
        };
        self.ended.notify_all();
        let mut earlier = Vec::new();
        while let Some(thread) = state.ended.pop_front_if(|it| it.is_finished()) {
            earlier.push(thread);
        }
        state.ended.extend(mine);
        drop(state);
        // Only now: it may be resumed or ended at once.
        if let Some(connection) = parked {
            connection.parked(id);
        }
        earlier.into_iter().for_each(join);
    }

    /// A parked connection is over.
    #[cfg(feature = "http")]
    pub(crate) fn end(&self, id: ConnectionId) {
        self.state.lock().live.remove(&id);
        self.ended.notify_all();
    }

    /// Whether all calls are answered, and all answers sent.
    pub(super) fn is_idle(&self) -> bool {
        self.state.lock().live.values().all(|live| live.connection.is_idle())
    }

    /// Tells each client that has all its answers that nothing further will be answered. Returns
    /// whether all clients have theirs.
    pub(super) fn announce_stop(&self) -> bool {
        let state = self.state.lock();
        state.live.values().filter(|live| !live.connection.announce_stop()).count() == 0
    }

    /// Ends all streams, and tells their clients.
    pub(super) fn end_streams(&self) {
        self.connections().iter().for_each(|it| it.end_streams());
    }

    /// Sends the end of the stream to every client, except those that are reset: they would take it
    /// for a reply.
    pub(super) fn send_ends(&self) {
        for live in self.state.lock().live.values().filter(|live| live.ends_in_order()) {
            live.connection.outbox().transport().shutdown(Shutdown::Write);
        }
    }

    /// Whether all clients that were sent the end of the stream have gone.
    pub(super) fn have_all_gone(&self) -> bool {
        !self.state.lock().live.values().any(Live::ends_in_order)
    }

    /// Ends the oldest connection that has no place, if there is one: its client has said nothing
    /// yet, or was refused and has not gone.
    pub(super) fn evict_one(&self) {
        self.connections().iter().any(|it| it.evict());
    }

    /// The connections that are not ending, the oldest first. The caller ends them without the
    /// lock, which threads that end need: ending one may log, and logging may block.
    pub(crate) fn connections(&self) -> Vec<Arc<C>> {
        let state = self.state.lock();
        let connections = state.live.values().map(|live| &live.connection);
        connections.filter(|it| !it.is_cut()).cloned().collect()
    }

    /// Waits until fewer than `connections` are left, or `deadline`.
    pub(super) fn wait_until_below(&self, connections: usize, deadline: Instant) {
        let mut state = self.state.lock();
        while state.live.len() >= connections
            && !self.ended.wait_until(&mut state, deadline).timed_out()
        {}
    }

    /// Ends idle connections until `left` stay or no idle one is left, beginning with those whose
    /// clients have said nothing. Spares the newest ones, as many as `spared`. Returns how many it
    /// ended.
    pub(super) fn make_room(&self, left: usize, spared: usize) -> usize {
        let mut connections = self.connections();
        let beyond = connections.len().saturating_sub(left);
        connections.truncate(connections.len().saturating_sub(spared));
        let (silent, others): (Vec<_>, Vec<_>) =
            connections.into_iter().partition(|it| !it.has_spoken());
        silent.iter().chain(&others).filter(|it| it.make_room()).take(beyond).count()
    }

    /// Cuts every connection and joins its thread, except the calling one. Returns how many had not
    /// ended at `deadline`.
    pub(super) fn close(&self, deadline: Instant) -> usize {
        let me = thread::current().id();
        let mut state = self.state.lock();
        state.closed = true;
        for live in state.live.values() {
            live.connection.cut("the server stopped");
        }
        while state.others(me) > 0 && !self.ended.wait_until(&mut state, deadline).timed_out() {}
        let (left, ended) = (state.others(me), std::mem::take(&mut state.ended));
        drop(state);
        ended.into_iter().for_each(join);
        left
    }
}

impl<C: Connection> Live<C> {
    fn ends_in_order(&self) -> bool {
        self.connection.outbox().ending() == Ending::InOrder
    }
}

impl<C> State<C> {
    fn others(&self, me: ThreadId) -> usize {
        self.live
            .values()
            .filter(|live| live.thread.as_ref().is_none_or(|it| it.thread().id() != me))
            .count()
    }
}

/// Takes the thread out of the table however it ends.
struct Leave<C: Connection> {
    registry: Arc<Registry<C>>,
    id: ConnectionId,
    leaves: Leaves,
}

impl<C: Connection> Drop for Leave<C> {
    fn drop(&mut self) {
        self.registry.leave(self.id, self.leaves);
    }
}
