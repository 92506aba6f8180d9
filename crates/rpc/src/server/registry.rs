//! The threads of a server's connections: which are alive, and how each is joined.
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

use super::connection::{ClientProtocol, Connection};
use crate::net::{join, spawn};
use crate::outbox::Ending;
use crate::{Status, StatusCode};

#[derive(Default)]
pub(super) struct Registry {
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Default)]
struct State {
    next_id: u64,
    /// The oldest is in front.
    live: BTreeMap<u64, Live>,
    /// The one that ended first is in front.
    ended: VecDeque<JoinHandle<()>>,
    closed: bool,
}

struct Live {
    connection: Arc<Connection>,
    thread: JoinHandle<()>,
}

impl Registry {
    pub(super) fn len(&self) -> usize {
        self.state.lock().live.len()
    }

    /// Starts the thread of a connection.
    pub(super) fn start(
        self: &Arc<Self>,
        thread_name: String,
        connection: Arc<Connection>,
        run: impl FnOnce() + Send + 'static,
    ) -> io::Result<()> {
        // Held until the handle is in the table: the thread cannot end before it is there.
        let mut state = self.state.lock();
        if state.closed {
            return Err(io::Error::other("the server is stopping"));
        }
        let id = state.next_id;
        state.next_id += 1;
        let registry = Arc::clone(self);
        let thread = spawn(thread_name, move || {
            // Made in the thread: if the thread does not start, dropping this would take the lock
            // that is held here.
            let _end = End { registry, id };
            run();
        })?;
        state.live.insert(id, Live { connection, thread });
        Ok(())
    }

    fn end(&self, id: u64) {
        let mut state = self.state.lock();
        let mine = state.live.remove(&id).map(|live| live.thread);
        self.ended.notify_all();
        let mut earlier = Vec::new();
        while let Some(thread) = state.ended.pop_front_if(|it| it.is_finished()) {
            earlier.push(thread);
        }
        state.ended.extend(mine);
        drop(state);
        earlier.into_iter().for_each(join);
    }

    /// Whether all calls are answered, and all answers sent.
    pub(super) fn is_idle(&self) -> bool {
        self.state.lock().live.values().all(|live| live.connection.is_idle())
    }

    /// Tells each client that has all its answers that no further call will run. Returns whether
    /// all clients have theirs.
    pub(super) fn announce_close(&self) -> bool {
        let words = "the server is stopping";
        let state = self.state.lock();
        let code = StatusCode::ShuttingDown;
        state.live.values().filter(|live| !live.connection.announce_close(code, words)).count() == 0
    }

    /// Ends all streams, and tells their clients.
    pub(super) fn end_all_streams(&self) {
        let status = Status::new(StatusCode::ShuttingDown, "the server is stopping");
        self.connections().iter().for_each(|it| it.streams.end_all(&status, true));
    }

    /// Sends the end of the stream to every client, except those that are reset: they would take it
    /// for a reply.
    pub(super) fn end_streams(&self) {
        for live in self.state.lock().live.values().filter(|live| live.ends_in_order()) {
            live.connection.outbox.transport().shutdown(Shutdown::Write);
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
    fn connections(&self) -> Vec<Arc<Connection>> {
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
            connections.into_iter().partition(|it| it.protocol() == ClientProtocol::Unknown);
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

impl Live {
    fn ends_in_order(&self) -> bool {
        self.connection.outbox.ending() == Ending::InOrder
    }
}

impl State {
    fn others(&self, me: ThreadId) -> usize {
        self.live.values().filter(|live| live.thread.thread().id() != me).count()
    }
}

/// Takes the thread out of the table however it ends.
struct End {
    registry: Arc<Registry>,
    id: u64,
}

impl Drop for End {
    fn drop(&mut self) {
        self.registry.end(self.id);
    }
}
