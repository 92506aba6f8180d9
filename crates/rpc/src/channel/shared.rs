//! What all clones and threads of a channel share: one lock, and the state under it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex, MutexGuard};

use super::calls::{Call, Calls};
use super::config::{Config, Framing};
use super::connection::Connection;
use super::parked::{CallResult, Waiter};
use super::silence::{Silence, Verdict};
use crate::CallError;
use crate::net::{join, spawn};
use crate::outbox::SendError;

pub(super) struct Shared {
    pub(super) config: Config,
    next_id: AtomicU64,
    /// Answers that came when their calls had been given up.
    pub(super) late_replies: AtomicU64,
    state: Mutex<State>,
    pub(super) timer_wakes: Condvar,
    /// The stream whose receiver may read the connection: see `lent`. 0: none. It changes under the
    /// lock of the state.
    pub(super) lent_to: AtomicU64,
    /// The connection was given back.
    pub(super) given_back: Condvar,
}

pub(super) struct State {
    pub(super) phase: Phase,
    pub(super) calls: Calls,
    /// Whether the channel's own thread reads the connection, or lends it to a receiver. Otherwise
    /// the callers read it.
    pub(super) has_reader: bool,
    /// The documented call whose bare reply comes next.
    pub(super) bare_call: Option<u64>,
    /// That of the connection, if there is one.
    pub(super) silence: Silence,
    pub(super) timer: Timer,
    threads: Vec<JoinHandle<()>>,
}

/// The life of the channel's connection: see `life`.
pub(super) enum Phase {
    Idle,
    Connecting,
    Connected(Arc<Connection>),
    Closed,
}

/// The thread that runs completions at deadlines: see `timer`.
#[derive(Default)]
pub(super) struct Timer {
    pub(super) is_running: bool,
    /// Until when it sleeps. `None` while it is awake, or sleeps without a deadline to watch.
    pub(super) wakes_at: Option<Instant>,
    /// Completions to run now.
    pub(super) ready: Deliveries,
}

/// Outcomes to deliver once the lock is given back.
pub(super) type Deliveries = Vec<(Waiter, CallResult)>;

/// Who reads a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReadBy {
    /// The channel's own thread.
    Channel,
    /// The threads that wait for an answer, in turns; or the receiver to which it is lent.
    Callers,
}

/// A connection that has been silent for too long, and for how long.
pub(super) struct Silent {
    pub(super) connection: Arc<Connection>,
    pub(super) silence: Duration,
}

impl Shared {
    pub(super) fn new(config: Config) -> Arc<Self> {
        let Config { ping_interval, bytes_per_second_min, .. } = config;
        let state = State {
            phase: Phase::Idle,
            calls: Calls::default(),
            // Bare replies have no ids, so only one thread can tell whose they are.
            has_reader: config.on_disconnect.is_some() || config.framing != Framing::Extended,
            bare_call: None,
            silence: Silence::new(ping_interval, bytes_per_second_min, Instant::now()),
            timer: Timer::default(),
            threads: Vec::new(),
        };
        let (next_id, state, timer_wakes) = (AtomicU64::new(1), Mutex::new(state), Condvar::new());
        let late_replies = AtomicU64::new(0);
        let (lent_to, given_back) = (AtomicU64::new(0), Condvar::new());
        Arc::new(Shared { config, next_id, late_replies, state, timer_wakes, lent_to, given_back })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    pub(super) fn take_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().is_closed()
    }

    /// Starts a thread that `close` will join.
    pub(super) fn start_thread(
        &self,
        state: &mut State,
        name: String,
        run: impl FnOnce() + Send + 'static,
    ) -> io::Result<()> {
        let (ended, running): (Vec<_>, Vec<_>) =
            std::mem::take(&mut state.threads).into_iter().partition(JoinHandle::is_finished);
        state.threads = running;
        ended.into_iter().for_each(join);
        state.threads.push(spawn(name, run)?);
        Ok(())
    }

    /// Joins every thread of the channel but the calling one.
    pub(super) fn join_threads(&self) {
        let threads = std::mem::take(&mut self.lock().threads);
        threads.into_iter().for_each(join);
    }
}

impl State {
    pub(super) fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::Closed)
    }

    /// The connection, if there is one.
    pub(super) fn connection(&self) -> Option<&Arc<Connection>> {
        match &self.phase {
            Phase::Connected(connection) => Some(connection),
            Phase::Idle | Phase::Connecting | Phase::Closed => None,
        }
    }

    /// Whether this is the channel's connection.
    pub(super) fn is_current(&self, connection: &Arc<Connection>) -> bool {
        self.connection().is_some_and(|current| Arc::ptr_eq(current, connection))
    }

    /// Takes a call out, and has its outcome delivered.
    pub(super) fn finish(&mut self, id: u64, deliveries: &mut Deliveries, outcome: CallResult) {
        deliveries.extend(self.calls.remove(id).map(|call| (call.waiter, outcome)));
    }

    /// Fails every call that was sent or, with `sent` false, every call that was not.
    pub(super) fn fail_all(
        &mut self,
        sent: bool,
        deliveries: &mut Deliveries,
        error: impl Fn() -> CallError,
    ) {
        let calls = self.calls.take_all(sent);
        deliveries.extend(calls.into_iter().map(|call| (call.waiter, Err(error()))));
    }

    /// Takes a call out because its deadline has passed. The connection comes along if it has been
    /// silent for too long.
    pub(super) fn give_up(&mut self, id: u64, now: Instant) -> Option<(Call, Option<Silent>)> {
        let silent = self.connection().cloned().and_then(|connection| {
            self.silence.heard(connection.heard_at());
            match self.silence.judge_at_deadline(now) {
                Verdict::GiveUp(silence) => Some(Silent { connection, silence }),
                Verdict::Wait | Verdict::Ping => None,
            }
        });
        let call = self.take_out(id, now)?;
        let silent = silent.filter(|_| call.sent);
        Some((call, silent))
    }

    /// Takes a call out that nobody waits for any more. If its bare reply was due, the connection
    /// goes with it: the next reply on it would be taken for another call's.
    pub(super) fn take_out(&mut self, id: u64, now: Instant) -> Option<Call> {
        let call = self.calls.remove(id)?;
        if let Phase::Connected(connection) = &self.phase {
            if self.bare_call == Some(id) {
                connection.outbox.cut("a reply did not come in time");
            }
            if self.calls.len() == 0 {
                self.silence.heard(connection.heard_at());
                self.silence.pause(now);
            }
        }
        Some(call)
    }

    /// Whether a connection that was silent for too long still is, and still the channel's.
    pub(super) fn is_still(&mut self, silent: &Silent, now: Instant) -> bool {
        self.silence.heard(silent.connection.heard_at());
        self.is_current(&silent.connection) && self.silence.lasts(now) >= silent.silence
    }

    /// Sends what waits, as far as a connection is there and it is its turn.
    pub(super) fn send_unsent(&mut self, config: &Config, deliveries: &mut Deliveries) {
        let Some(connection) = self.connection().cloned() else { return };
        let one_at_a_time = config.framing != Framing::Extended;
        while !(one_at_a_time && self.bare_call.is_some()) {
            let Some((id, frame)) = self.calls.pop_unsent() else { return };
            if frame.is_empty() {
                self.finish(id, deliveries, Ok(Bytes::new()));
                continue;
            }
            if let Some(call) = self.calls.get_mut(id) {
                self.silence.sent(call.began, false, call.deadline - call.began);
            }
            match connection.outbox.send(&frame) {
                Ok(()) if one_at_a_time => self.bare_call = Some(id),
                Ok(()) => {
                    let stream = self.calls.stream(id);
                    stream.into_iter().for_each(|it| it.attach(&connection.outbox));
                }
                Err(SendError::Full) => {
                    let calls = self.calls.len();
                    self.finish(id, deliveries, Err(config.busy(calls)));
                }
                // Whoever reads the connection is about to notice. Then it is sent over the next.
                Err(SendError::Closed) => return self.calls.put_back(id, frame),
            }
        }
    }
}
