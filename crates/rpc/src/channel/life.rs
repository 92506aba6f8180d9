//! The life of a channel's connection: made, read, lost, and made again.
//!
//! ```text
//!            a call               established
//!   Idle ───────────> Connecting ─────────────> Connected
//!    ^                  │    ^                    │
//!    └──── failed ──────┘    └── lost, calls wait ┤
//!    └─────── lost, or idle, no call waits ───────┘        close, from anywhere: Closed, for ever
//! ```
//!
//! A thread of the channel connects ([`connect_and_read`]). Afterwards it reads, or ends where
//! callers read. Of several threads that notice a loss, the first one reports it.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::MutexGuard;

use super::config::{Disconnect, Framing};
use super::connection::Connection;
use super::errors::{Loss, channel_closed};
use super::parked::run_guarded;
use super::shared::{Deliveries, Phase, ReadBy, Shared, Silent, State};
use super::timer::deliver_all;
use crate::StatusCode;
use crate::transport::Peeked;

impl Shared {
    // ---- connecting ----

    /// Sends what waits, over the connection or once there is one.
    pub(super) fn send_or_connect(self: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        let mut deliveries = Vec::new();
        if matches!(state.phase, Phase::Idle) && state.calls.has_unsent() {
            self.start_connecting(&mut state, &mut deliveries);
        }
        state.send_unsent(&self.config, &mut deliveries);
        let dead = state.dead_connection();
        drop(state);
        deliver_all(self, deliveries, ReadBy::Callers);
        // Nobody reads it who would notice. What came before its end, answers perhaps, or the
        // reason, came all the same.
        if let Some(connection) = dead {
            let loss = self.read_rest(&mut connection.incoming.lock(), &connection);
            let gone = || io::Error::new(ErrorKind::ConnectionReset, "the connection is gone");
            self.lose_by_caller(&connection, loss.unwrap_or_else(|| Loss::Broken(gone())));
        }
    }

    fn start_connecting(self: &Arc<Self>, state: &mut State, deliveries: &mut Deliveries) {
        state.phase = Phase::Connecting;
        let shared = Arc::clone(self);
        let run = move || connect_and_read(&shared);
        if let Err(error) = self.start_thread(state, self.thread_name(), run) {
            state.phase = Phase::Idle;
            state.fail_all(false, deliveries, || self.config.not_sent(&error));
        }
    }

    fn thread_name(&self) -> String {
        format!("rpc-chan-{}", self.config.port())
    }

    /// From the first completion on the channel's own thread reads.
    pub(super) fn ensure_reader(self: &Arc<Self>, state: &mut State) -> io::Result<()> {
        if state.has_reader {
            return Ok(());
        }
        if let Some(connection) = state.connection().cloned() {
            let shared = Arc::clone(self);
            let run = move || {
                if shared.read_on(&connection) {
                    connect_and_read(&shared);
                }
            };
            self.start_thread(state, self.thread_name(), run)?;
        }
        state.has_reader = true;
        Ok(())
    }

    /// A connection is there. Returns who reads it; `None` if the channel was closed meanwhile.
    fn established(&self, connection: &Arc<Connection>) -> Option<ReadBy> {
        let mut deliveries = Vec::new();
        let mut state = self.lock();
        if state.is_closed() {
            return None;
        }
        state.phase = Phase::Connected(Arc::clone(connection));
        state.silence.begin_anew(connection.heard_at());
        state.send_unsent(&self.config, &mut deliveries);
        let read_by = match (state.has_reader, state.dead_connection()) {
            // Reading finds it dead.
            (true, _) | (_, Some(_)) => ReadBy::Channel,
            (false, None) => ReadBy::Callers,
        };
        drop(state);
        deliver(deliveries);
        self.ask_another_to_read();
        Some(read_by)
    }

    /// No connection could be made.
    fn connect_failed(&self, error: &io::Error) {
        let mut deliveries = Vec::new();
        let mut state = self.lock();
        if !state.is_closed() {
            state.phase = Phase::Idle;
            state.fail_all(false, &mut deliveries, || self.config.not_sent(error));
        }
        drop(state);
        deliver(deliveries);
    }

    // ---- looking whether it is alive ----

    pub(super) fn is_connected(self: &Arc<Self>) -> bool {
        let state = self.notice_end(self.lock(), Instant::now());
        // Where a thread reads, the connection stands until that thread has noticed its end: until
        // then a call would still be sent over it.
        let is_alive = |it: &Arc<Connection>| state.has_reader || it.peek() != Peeked::End;
        state.connection().is_some_and(is_alive)
    }

    /// Looks whether the server has closed a connection that nobody reads. It had better be
    /// noticed before a call is sent over it: afterwards the call may have run.
    pub(super) fn notice_end<'a>(
        self: &'a Arc<Self>,
        mut state: MutexGuard<'a, State>,
        now: Instant,
    ) -> MutexGuard<'a, State> {
        let unread = state.unread_connection().filter(|connection| !connection.is_fresh(now));
        let Some(connection) = unread.cloned() else { return state };
        let is_over = match connection.peek() {
            Peeked::Nothing => connection.is_stale(now, self.config.idle_timeout),
            Peeked::End => true,
            // Perhaps the final frame of a server that has closed it. It is read without the lock.
            Peeked::Bytes => {
                drop(state);
                self.read_final_frame(&connection);
                return self.lock();
            }
        };
        if is_over {
            connection.outbox.cut("the server closed the connection");
            connection.outbox.close();
            state.phase = Phase::Idle;
        }
        state
    }

    /// Reads what has come over a connection that nobody reads: answers that came too late, or why
    /// it ends.
    fn read_final_frame(self: &Arc<Self>, connection: &Arc<Connection>) {
        let Some(mut incoming) = connection.incoming.try_lock() else { return };
        let loss = self.read_rest(&mut incoming, connection);
        drop(incoming);
        if let Some(loss) = loss {
            self.lose_by_caller(connection, loss);
        }
        // A caller may have found that somebody reads.
        self.ask_another_to_read();
    }

    /// Gives the connection up if calls wait and nothing has come for `limit`, beside the time that
    /// a slow network needs for their bytes.
    pub(super) fn give_up_if_silent(self: &Arc<Self>, limit: Duration) {
        let mut state = self.lock();
        let Some(connection) = state.connection().cloned() else { return };
        state.silence.heard(connection.heard_at());
        let limit = limit + state.silence.time_for(state.calls.len_bytes());
        let silence = state.silence.lasts(Instant::now());
        let is_silent = state.calls.len() > 0 && silence >= limit;
        drop(state);
        self.give_up_silent(is_silent.then_some(Silent { connection, silence }));
    }

    /// Gives up a connection that has been silent for too long, unless something has come since.
    pub(super) fn give_up_silent(self: &Arc<Self>, silent: Option<Silent>) {
        let Some(silent) = silent else { return };
        let is_silent = self.lock().is_still(&silent, Instant::now());
        let Silent { connection, silence } = silent;
        if is_silent && connection.outbox.transport().peek() != Peeked::Bytes {
            self.lose_by_caller(&connection, Loss::Silent(silence));
        }
    }

    // ---- reading on, and losing it ----

    /// Reads, on the channel's own thread, until the connection is lost or idle. True: connect
    /// again.
    fn read_on(self: &Arc<Self>, connection: &Arc<Connection>) -> bool {
        let loss = match self.config.framing {
            Framing::Extended => loop {
                match self.read_until_idle(connection) {
                    Ok(()) if self.close_idle(connection) => return false,
                    // A call has come meanwhile.
                    Ok(()) => {}
                    Err(loss) => break loss,
                }
            },
            Framing::Documented | Framing::DocumentedVarint => self.read_bare(connection),
        };
        self.lose(connection, loss, ReadBy::Channel)
    }

    /// Closes a connection that has served no call for long, unless one has come meanwhile.
    fn close_idle(&self, connection: &Arc<Connection>) -> bool {
        let mut state = self.lock();
        if state.calls.len() > 0 || !state.is_current(connection) {
            return false;
        }
        state.phase = Phase::Idle;
        drop(state);
        connection.outbox.cut("idle");
        connection.outbox.close();
        true
    }

    /// The connection is gone, as a caller's thread finds.
    pub(super) fn lose_by_caller(self: &Arc<Self>, connection: &Arc<Connection>, loss: Loss) {
        if !self.lose(connection, loss, ReadBy::Callers) {
            return;
        }
        let mut deliveries = Vec::new();
        let mut state = self.lock();
        if matches!(state.phase, Phase::Connecting) {
            self.start_connecting(&mut state, &mut deliveries);
        }
        drop(state);
        deliver_all(self, deliveries, ReadBy::Callers);
    }

    /// The connection is gone. True: connect again, because calls wait, and nobody connects yet.
    fn lose(self: &Arc<Self>, connection: &Arc<Connection>, loss: Loss, by: ReadBy) -> bool {
        let why = connection.reason(loss);
        connection.outbox.cut("lost");
        let connect_again = self.lost(connection, &why, by);
        connection.outbox.close();
        connect_again
    }

    /// Fails the calls that were sent over it. True: connect again.
    fn lost(self: &Arc<Self>, connection: &Arc<Connection>, why: &Loss, by: ReadBy) -> bool {
        let mut deliveries = Vec::new();
        let mut state = self.lock();
        if !state.is_current(connection) {
            return false;
        }
        let connect_again = state.calls.has_unsent();
        state.phase = if connect_again { Phase::Connecting } else { Phase::Idle };
        state.bare_call = None;
        state.fail_all(true, &mut deliveries, || self.config.lost(why));
        drop(state);
        // "Busy" says that the server is there, and full.
        let is_there = matches!(why, Loss::Refused(status) if status.code == StatusCode::Busy);
        if let Some(on_disconnect) = self.config.on_disconnect.as_ref().filter(|_| !is_there) {
            let how = match why {
                Loss::Silent(_) => Disconnect::Silent,
                _ => Disconnect::Ended,
            };
            run_guarded(|| on_disconnect(how));
        }
        deliver_all(self, deliveries, by);
        connect_again
    }

    /// Ends the channel: fails what is outstanding and joins its threads, but for the calling one.
    pub(super) fn close(self: &Arc<Self>) {
        let mut deliveries = Vec::new();
        let mut state = self.lock();
        let connection = match std::mem::replace(&mut state.phase, Phase::Closed) {
            Phase::Connected(connection) => {
                connection.outbox.cut("the channel was closed");
                Some(connection)
            }
            Phase::Idle | Phase::Connecting | Phase::Closed => None,
        };
        state.bare_call = None;
        self.take_back(&state);
        state.fail_all(true, &mut deliveries, || self.config.lost(&Loss::Broken(channel_closed())));
        state.fail_all(false, &mut deliveries, || self.config.closed());
        drop(state);
        deliver_all(self, deliveries, ReadBy::Callers);
        self.timer_wakes.notify_all();
        self.join_threads();
        connection.into_iter().for_each(|connection| connection.outbox.close());
    }
}

/// The channel's own thread: connects, and reads if no caller will, until no call waits for a
/// connection.
fn connect_and_read(shared: &Arc<Shared>) {
    loop {
        let connection = match Connection::establish(&shared.config) {
            Ok(connection) => connection,
            Err(error) => return shared.connect_failed(&error),
        };
        match shared.established(&connection) {
            None => return connection.outbox.close(),
            Some(ReadBy::Callers) => return,
            Some(ReadBy::Channel) => {}
        }
        if !shared.read_on(&connection) {
            return;
        }
    }
}

/// Delivers outcomes on the channel's own thread.
fn deliver(deliveries: Deliveries) {
    deliveries.into_iter().for_each(|(waiter, outcome)| waiter.deliver(outcome));
}

impl State {
    /// The connection, if nobody reads it because no call is under way.
    fn unread_connection(&self) -> Option<&Arc<Connection>> {
        self.connection().filter(|_| !self.has_reader && self.calls.len() == 0)
    }

    /// The connection, if it is cut and nobody reads it who would notice.
    fn dead_connection(&self) -> Option<Arc<Connection>> {
        let is_dead = |it: &&Arc<Connection>| !self.has_reader && it.outbox.is_cut();
        self.connection().filter(is_dead).cloned()
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::sync::mpsc;
    use std::thread;

    use super::*;
    use crate::{CallError, CallOptions, Channel, Method};

    const LONG: Duration = Duration::from_secs(20);

    /// Whether the timer finds it, as it gives the call up, or the thread that reads.
    #[test]
    fn a_silent_connection_is_reported_by_the_thread_that_reads() {
        // The system accepts, and nobody answers.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (lost, losses) = mpsc::channel();
        let report = move |how| {
            let name = thread::current().name().unwrap_or_default().to_owned();
            lost.send((how, name)).unwrap();
        };
        let addr = listener.local_addr().unwrap().to_string();
        let channel = Channel::builder(addr).on_disconnect_how(report).lazy();
        let (done, outcomes) = mpsc::channel();
        let (method, deadline) =
            (Method::new("s", "m"), Instant::now() + Duration::from_millis(600));
        channel.call_then::<(), ()>(
            &method,
            &CallOptions::default(),
            &(),
            deadline,
            move |outcome| {
                done.send(outcome).unwrap();
            },
        );
        let error = outcomes.recv_timeout(LONG).unwrap().unwrap_err();
        assert!(error.may_have_run() && !matches!(error, CallError::Refused { .. }), "{error}");
        let (how, thread_name) = losses.recv_timeout(LONG).unwrap();
        assert_eq!(how, Disconnect::Silent);
        assert!(thread_name.starts_with("rpc-chan-"), "{thread_name}");
    }
}
