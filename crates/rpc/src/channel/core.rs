//! What all clones and threads of a channel share, and every change of its state.
//!
//! ```text
//!            a call               established
//!   Idle ───────────> Connecting ─────────────> Connected
//!    ^                  │    ^                    │
//!    └──── failed ──────┘    └── lost, with ──────┤
//!    └─────── lost, with no call unsent ──────────┘        close, from anywhere: Closed, for ever
//! ```
//!
//! One lock, `state`, held for bookkeeping and for sends (which never block), never while foreign
//! code runs. Lock order: `state`, then the outbox's own.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex, MutexGuard};

use super::calls::{Call, Calls, Outcome, Parked, Waiter, run_guarded};
use super::connection::Line;
use super::errors::{Loss, channel_closed};
use super::silence::{Silence, Verdict};
use super::{Config, Disconnect, Framing, connection, timer};
use crate::builtin::RpcStub;
use crate::frame::{HeadSize, encode};
use crate::header::RpcHeader;
use crate::net::{join, spawn};
use crate::outbox::{Cork, SendError};
use crate::payload::CODEC_PROTOBUF;
use crate::service::Reply;
use crate::transport::Waiting;
use crate::{CallError, CallOptions, Method, PayloadError, RequestId, StatusCode};

pub(super) struct Core {
    pub(super) config: Config,
    next_id: AtomicU64,
    /// Answers that came when nobody waited for them any more.
    pub(super) late_replies: AtomicU64,
    state: Mutex<State>,
    /// For the timer.
    pub(super) timer_wakes: Condvar,
}

pub(super) struct State {
    phase: Phase,
    pub(super) calls: Calls,
    /// Whether the channel's own thread reads the connection; else callers do, for each other.
    has_reader: bool,
    /// The documented call whose bare reply comes next.
    in_line: Option<u64>,
    /// That of the connection, if there is one.
    silence: Silence,
    pub(super) timer: timer::Timer,
    threads: Vec<JoinHandle<()>>,
}

enum Phase {
    Idle,
    Connecting,
    Connected(Line),
    Closed,
}

/// A call to make.
pub(super) struct Request<'a> {
    pub(super) method: &'a Method,
    pub(super) options: &'a CallOptions,
    pub(super) codec: u32,
    /// Or why there are none.
    pub(super) args: Result<Reply<'a>, PayloadError>,
    pub(super) deadline: Instant,
    pub(super) decodes: fn(&Bytes) -> bool,
}

/// A call that was made: its number, when it began, and over which connection it was sent, if at
/// once, and callers read it.
pub(super) struct Begun {
    pub(super) id: u64,
    began: Instant,
    line: Option<Line>,
}

/// Which threads read a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReadBy {
    /// The channel's own.
    Channel,
    /// Those that wait for an answer.
    Callers,
}

/// A connection that has been silent for too long, and for how long.
pub(super) type SilentLine = (Line, Duration);

/// Outcomes to deliver once the lock is given back.
pub(super) type Deliveries = Vec<(Waiter, Outcome)>;

impl Core {
    pub(super) fn new(config: Config) -> Arc<Self> {
        let state = State {
            phase: Phase::Idle,
            calls: Calls::default(),
            // Bare replies have no names: only one thread can tell whose they are.
            has_reader: config.on_disconnect.is_some() || config.framing != Framing::Extended,
            in_line: None,
            silence: Silence::new(
                config.ping_interval,
                config.bytes_per_second_min,
                Instant::now(),
            ),
            timer: timer::Timer::default(),
            threads: Vec::new(),
        };
        let (next_id, state, timer_wakes) = (AtomicU64::new(1), Mutex::new(state), Condvar::new());
        let late_replies = AtomicU64::new(0);
        Arc::new(Core { config, next_id, late_replies, state, timer_wakes })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    pub(super) fn is_connected(self: &Arc<Self>) -> bool {
        let state = self.look_whether_alive(self.lock(), Instant::now());
        match &state.phase {
            Phase::Connected(line) => state.has_reader || line.is_alive(),
            _ => false,
        }
    }

    pub(super) fn has_reader(&self) -> bool {
        self.lock().has_reader
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().is_closed()
    }

    // ---- calls ----

    /// Makes a call and waits for its outcome.
    pub(super) fn call(self: &Arc<Self>, request: &Request<'_>) -> Outcome {
        let parked = Arc::new(Parked::default());
        let call = self.start(request, Waiter::Thread(Arc::clone(&parked)));
        self.wait(call, &parked, request.deadline)
    }

    /// Waits for a connection.
    pub(super) fn connect(self: &Arc<Self>, deadline: Instant) -> Result<(), CallError> {
        if self.is_connected() {
            return Ok(());
        }
        let (parked, id) = (Arc::new(Parked::default()), self.take_id());
        let waiter = Waiter::Thread(Arc::clone(&parked));
        let began = Instant::now();
        // A call without a frame: its outcome comes when it would be sent.
        self.enter(
            id,
            Call { waiter, began, deadline, sent: false, len_bytes: 0, decodes: |_| false },
            Bytes::new(),
        );
        self.wait(Begun { id, began, line: None }, &parked, deadline).map(drop)
    }

    /// Waits for the outcome, and reads the connection meanwhile if nobody else does.
    fn wait(self: &Arc<Self>, call: Begun, parked: &Parked, deadline: Instant) -> Outcome {
        let Begun { id, began: mut now, line: mut sent_over } = call;
        // A method that calls another server is itself called under one.
        Cork::flush_all();
        loop {
            if let Some((outcome, is_asked)) = parked.take_last() {
                if is_asked {
                    self.ask_another_to_read();
                }
                return outcome;
            }
            if deadline <= now {
                break;
            }
            let line = sent_over.take().or_else(|| {
                // In this order: asked from here on, it finds the connection.
                parked.take_asked();
                self.line_to_read(id)
            });
            now = match line.and_then(|line| line.read_until(self, parked, now, deadline)) {
                Some(now) => {
                    self.ask_another_to_read();
                    now
                }
                None => {
                    parked.wait_until(deadline);
                    Instant::now()
                }
            };
        }
        let mut state = self.lock();
        match state.give_up(id, now) {
            Some((call, dead)) => {
                drop(state);
                self.drop_dead(dead);
                self.ask_another_to_read();
                Err(self.timed_out(&call))
            }
            // Someone has just taken the call out to deliver its outcome.
            None => {
                drop(state);
                parked.wait()
            }
        }
    }

    /// The connection over which this call was sent, if callers read it.
    fn line_to_read(&self, id: u64) -> Option<Line> {
        let mut state = self.lock();
        let is_sent = state.calls.get_mut(id).is_some_and(|call| call.sent);
        match &state.phase {
            Phase::Connected(line) if is_sent && !state.has_reader => Some(line.clone()),
            _ => None,
        }
    }

    /// This caller reads no more: another one that waits should.
    pub(super) fn ask_another_to_read(&self) {
        let state = self.lock();
        if state.has_reader {
            return;
        }
        // Under the lock: one that is given its outcome later has been asked before, and asks
        // another.
        if let Some(parked) = state.calls.any_parked() {
            parked.ask_to_read();
        }
    }

    /// Makes a call; `waiter` gets its outcome.
    pub(super) fn start(self: &Arc<Self>, request: &Request<'_>, waiter: Waiter) -> Begun {
        let (id, began, deadline) = (self.take_id(), Instant::now(), request.deadline);
        let (sent, len_bytes, decodes) = (false, 0, request.decodes);
        let call = Call { waiter, began, deadline, sent, len_bytes, decodes };
        if deadline <= began {
            let error = self.timed_out(&call);
            self.fail(call.waiter, error);
            return Begun { id, began, line: None };
        }
        let limit = self.config.limits.body_len_max_bytes;
        let args = match &request.args {
            Ok(args) if args.len <= limit => Ok(args),
            Ok(args) => Err(format!("arguments of {} bytes: at most {limit} are sent", args.len)),
            Err(error) => Err(format!("the arguments cannot be serialized: {error}")),
        };
        let line = match args {
            Ok(args) => {
                let frame = self.encode(request, args, id, deadline - began);
                self.enter(id, call, frame)
            }
            Err(words) => {
                let error = io::Error::new(io::ErrorKind::InvalidInput, words);
                self.fail(call.waiter, self.not_sent(&error));
                None
            }
        };
        Begun { id, began, line }
    }

    fn take_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    fn encode(
        &self,
        request: &Request<'_>,
        args: &Reply<'_>,
        id: u64,
        time_left: Duration,
    ) -> Bytes {
        let mut head = RpcHeader {
            service_name: Bytes::from_static(request.method.service.as_bytes()),
            method_name: Bytes::from_static(request.method.name.as_bytes()),
            // Within the limit, which fits a u32: the builder has seen to it.
            args_size: args.len as u32,
            ..RpcHeader::default()
        };
        if self.config.framing == Framing::Extended {
            head.call_id = id;
            // Rounded up, and at least 1: 0 would mean no limit.
            head.deadline_ms =
                time_left.as_micros().div_ceil(1000).max(1).try_into().unwrap_or(u32::MAX);
            head.caller = self.config.caller.clone();
            let CallOptions { version, trace, request: id, .. } = request.options;
            (head.codec, head.version, head.trace) = (request.codec, *version, trace.clone());
            if let Some(RequestId { client, number, attempt }) = id {
                (head.client_id, head.request_id, head.attempt) =
                    (client.clone(), *number, *attempt);
            }
        }
        encode(self.head_size(), &head, args.write)
    }

    pub(super) fn head_size(&self) -> HeadSize {
        match self.config.framing {
            Framing::Extended | Framing::Documented => HeadSize::U32Le,
            Framing::DocumentedVarint => HeadSize::Varint,
        }
    }

    /// Takes a call in, and sends it or sees to it that it will be. The connection over which it
    /// was sent at once, where callers read.
    fn enter(self: &Arc<Self>, id: u64, mut call: Call, frame: Bytes) -> Option<Line> {
        let mut state = self.look_whether_alive(self.lock(), call.began);
        if let Err(error) = self.admit(&mut state, &call, &frame) {
            drop(state);
            self.fail(call.waiter, error);
            return None;
        }
        call.len_bytes = frame.len();
        if let Some(line) = self.open_line(&state).filter(|_| !frame.is_empty()) {
            call.sent = true;
            state.silence.heard(line.heard_at());
            let is_first = state.calls.len() == 0;
            state.silence.sent(call.began, is_first, call.deadline - call.began);
            state.calls.insert(id, call);
            let has_reader = state.has_reader;
            drop(state);
            self.send(&line, id, frame);
            return (!has_reader).then_some(line);
        }
        state.calls.insert(id, call);
        state.calls.push_unsent(id, frame);
        self.move_on(state);
        None
    }

    /// A connection that nobody reads may have been closed meanwhile: better noticed before a call
    /// is sent over it, as afterwards it may have run.
    fn look_whether_alive<'a>(
        self: &'a Arc<Self>,
        mut state: MutexGuard<'a, State>,
        now: Instant,
    ) -> MutexGuard<'a, State> {
        let Some(line) = state.unread_line().filter(|line| !line.is_fresh(now)).cloned() else {
            return state;
        };
        let is_over = match line.look() {
            Waiting::Nothing => line.is_stale(now, self.config.idle_timeout),
            Waiting::End => true,
            // The last words of a server that has closed it, perhaps. They are read without the
            // lock.
            Waiting::Bytes => {
                drop(state);
                line.read_last_words(self);
                return self.lock();
            }
        };
        if is_over {
            line.outbox.cut("the server closed the connection");
            line.outbox.close();
            state.phase = Phase::Idle;
        }
        state
    }

    /// Closes a connection that has served no call for long, unless one has come meanwhile.
    pub(super) fn close_idle(&self, line: &Line) -> bool {
        let mut state = self.lock();
        let is_idle = state.calls.len() == 0
            && matches!(&state.phase, Phase::Connected(current) if current.is(line));
        if is_idle {
            state.phase = Phase::Idle;
        }
        is_idle
    }

    /// Whether the connection has been silent for too long. If it is time to, the server is asked
    /// whether it is there. For whoever reads the connection, when nothing has come for a while.
    pub(super) fn look_after(&self, line: &Line, now: Instant) -> Result<(), Loss> {
        let mut state = self.lock();
        // Where a loss is news it is looked for even if nobody waits; and so the server does not
        // find the connection idle.
        if state.calls.len() == 0 && self.config.on_disconnect.is_none() {
            return Ok(());
        }
        state.silence.heard(line.heard_at());
        let waiting_bytes = state.calls.len_bytes();
        match state.silence.judge(now, waiting_bytes) {
            Verdict::Wait => Ok(()),
            Verdict::GiveUp(silence) => Err(Loss::Silent(silence)),
            Verdict::Ping => {
                drop(state);
                self.ping(line);
                Ok(())
            }
        }
    }

    /// Gives the connection up if calls wait and nothing has come for `limit`, beside the time that
    /// a slow network needs for their bytes.
    pub(super) fn give_up_if_silent(self: &Arc<Self>, limit: Duration) {
        let mut state = self.lock();
        let Phase::Connected(line) = &state.phase else { return };
        let line = line.clone();
        state.silence.heard(line.heard_at());
        let limit = limit + state.silence.time_for(state.calls.len_bytes());
        let silence = state.silence.lasts(Instant::now());
        let is_dead = state.calls.len() > 0 && silence >= limit;
        drop(state);
        self.drop_dead(is_dead.then_some((line, silence)));
    }

    /// Gives up a connection that has been silent for too long, unless something has come since.
    pub(super) fn drop_dead(self: &Arc<Self>, dead: Option<SilentLine>) {
        let Some((line, silence)) = dead else { return };
        let is_silent = {
            let mut state = self.lock();
            state.silence.heard(line.heard_at());
            matches!(&state.phase, Phase::Connected(current) if current.is(&line))
                && state.silence.lasts(Instant::now()) >= silence
        };
        if is_silent && line.outbox.look() != Waiting::Bytes {
            line.lose_for(self, Loss::Silent(silence));
        }
    }

    /// Asks the server whether it is there. The answer is dropped: that it came is enough.
    fn ping(&self, line: &Line) {
        let id = self.take_id();
        line.set_ping(id);
        let request = Request {
            method: &RpcStub::PING,
            options: &CallOptions::default(),
            codec: CODEC_PROTOBUF,
            args: Ok(Reply { len: 0, write: &|_| {} }),
            deadline: Instant::now(),
            decodes: |_| true,
        };
        // One that cannot be sent is found missing.
        if let Ok(args) = &request.args {
            let frame = self.encode(&request, args, id, self.config.ping_interval);
            let _ = line.outbox.send(&frame);
            // Whoever asks may be a method that holds its answers back.
            Cork::flush_all();
        }
    }

    pub(super) fn has_calls(&self) -> bool {
        self.lock().calls.len() > 0
    }

    /// Gives a call up: its answer, if one comes, is dropped.
    pub(super) fn cancel(&self, id: u64) {
        let _ = self.lock().take_out(id, Instant::now());
    }

    /// The connection, if a call may go out over it at once, without the lock that everyone needs.
    fn open_line(&self, state: &State) -> Option<Line> {
        match &state.phase {
            Phase::Connected(line)
                if self.config.framing == Framing::Extended && !state.calls.has_unsent() =>
            {
                Some(line.clone())
            }
            _ => None,
        }
    }

    fn send(self: &Arc<Self>, line: &Line, id: u64, frame: Bytes) {
        let Err(error) = line.outbox.send(&frame) else { return };
        let mut state = self.lock();
        match error {
            SendError::Full => {
                let calls = state.calls.len();
                let call = state.calls.remove(id);
                drop(state);
                call.into_iter().for_each(|call| self.fail(call.waiter, self.busy(calls)));
            }
            // The connection was lost a moment ago. The next one will do, unless the reader has
            // failed the call by now.
            SendError::Closed => {
                state.calls.put_back(id, frame);
                self.move_on(state);
            }
        }
    }

    /// Sends what waits, over a connection or towards one.
    fn move_on(self: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        let mut deliveries = Vec::new();
        if matches!(state.phase, Phase::Idle) && state.calls.has_unsent() {
            self.start_connection(&mut state, &mut deliveries);
        }
        self.send_unsent(&mut state, &mut deliveries);
        let dead = state.dead_line();
        drop(state);
        for (waiter, outcome) in deliveries {
            self.deliver_elsewhere(waiter, outcome);
        }
        // Nobody reads it who would notice.
        if let Some(line) = dead {
            line.lose_and_go_on(self);
        }
    }

    fn admit(
        self: &Arc<Self>,
        state: &mut State,
        call: &Call,
        frame: &Bytes,
    ) -> Result<(), CallError> {
        if state.is_closed() {
            return Err(self.closed());
        }
        let bytes = state.calls.unsent_bytes() + frame.len();
        if state.calls.len() >= self.config.calls_max
            || (state.calls.has_unsent() && bytes > self.config.unsent_bytes_max())
        {
            return Err(self.busy(state.calls.len()));
        }
        match call.waiter {
            Waiter::Thread(_) => Ok(()),
            // Without a timer its deadline would pass unseen.
            Waiter::Completion(_) => timer::watch(self, state, call.deadline)
                .and_then(|()| self.ensure_reader(state))
                .map_err(|error| self.not_sent(&error)),
        }
    }

    /// From the first completion on the channel's own thread reads.
    fn ensure_reader(self: &Arc<Self>, state: &mut State) -> io::Result<()> {
        if state.has_reader {
            return Ok(());
        }
        if let Phase::Connected(line) = &state.phase {
            let (core, line) = (Arc::clone(self), line.clone());
            let name = self.thread_name();
            self.start_thread(state, name, move || connection::take_over(&core, &line))?;
        }
        state.has_reader = true;
        Ok(())
    }

    fn thread_name(&self) -> String {
        format!("rpc-chan-{}", self.config.port())
    }

    /// Has a thread connect.
    pub(super) fn connect_again(self: &Arc<Self>) {
        let mut deliveries = Vec::new();
        let mut state = self.lock();
        if matches!(state.phase, Phase::Connecting) {
            self.start_connection(&mut state, &mut deliveries);
        }
        drop(state);
        deliveries
            .into_iter()
            .for_each(|(waiter, outcome)| self.deliver_elsewhere(waiter, outcome));
    }

    fn start_connection(self: &Arc<Self>, state: &mut State, deliveries: &mut Deliveries) {
        let core = Arc::clone(self);
        state.phase = Phase::Connecting;
        let name = self.thread_name();
        if let Err(error) = self.start_thread(state, name, move || connection::run(&core)) {
            state.phase = Phase::Idle;
            self.fail_all(state, false, deliveries, || self.not_sent(&error));
        }
    }

    /// Starts a thread that `close` will join.
    pub(super) fn start_thread(
        &self,
        state: &mut State,
        name: String,
        run: impl FnOnce() + Send + 'static,
    ) -> io::Result<()> {
        let (ended, running) =
            std::mem::take(&mut state.threads).into_iter().partition(JoinHandle::is_finished);
        state.threads = running;
        let ended: Vec<JoinHandle<()>> = ended;
        ended.into_iter().for_each(join);
        state.threads.push(spawn(name, run)?);
        Ok(())
    }

    /// Sends what waits, as far as a connection is there and it is its turn.
    fn send_unsent(&self, state: &mut State, deliveries: &mut Deliveries) {
        let Phase::Connected(line) = &state.phase else { return };
        let outbox = Arc::clone(&line.outbox);
        let one_at_a_time = self.config.framing != Framing::Extended;
        while !(one_at_a_time && state.in_line.is_some()) {
            let Some((id, frame)) = state.calls.pop_unsent() else { return };
            if frame.is_empty() {
                state.finish(id, deliveries, Ok(Bytes::new()));
                continue;
            }
            if let Some(call) = state.calls.get_mut(id) {
                state.silence.sent(call.began, false, call.deadline - call.began);
            }
            match outbox.send(&frame) {
                Ok(()) if one_at_a_time => state.in_line = Some(id),
                Ok(()) => {}
                Err(SendError::Full) => {
                    let calls = state.calls.len();
                    state.finish(id, deliveries, Err(self.busy(calls)));
                }
                // The reader is about to notice; then it is sent over the next connection.
                Err(SendError::Closed) => return state.calls.put_back(id, frame),
            }
        }
    }

    // ---- the connection's thread ----

    /// A connection is there, and this says who reads it. `None` when the channel was closed
    /// meanwhile.
    pub(super) fn established(&self, line: &Line) -> Option<ReadBy> {
        let mut state = self.lock();
        if state.is_closed() {
            return None;
        }
        state.phase = Phase::Connected(line.clone());
        state.silence.begin_anew(line.heard_at());
        let mut deliveries = Vec::new();
        self.send_unsent(&mut state, &mut deliveries);
        let read_by = match (state.has_reader, state.dead_line()) {
            // It is found dead by reading it.
            (true, _) | (_, Some(_)) => ReadBy::Channel,
            (false, None) => ReadBy::Callers,
        };
        drop(state);
        deliver(deliveries);
        self.ask_another_to_read();
        Some(read_by)
    }

    /// No connection could be made.
    pub(super) fn connect_failed(&self, error: &io::Error) {
        let mut deliveries = Vec::new();
        let mut state = self.lock();
        if !state.is_closed() {
            state.phase = Phase::Idle;
            self.fail_all(&mut state, false, &mut deliveries, || self.not_sent(error));
        }
        drop(state);
        deliver(deliveries);
    }

    /// The connection is gone; what was sent over it fails. True when calls wait that were not
    /// sent: connect again.
    pub(super) fn lost(self: &Arc<Self>, line: &Line, why: &Loss, by: ReadBy) -> bool {
        let mut deliveries = Vec::new();
        let mut state = self.lock();
        // Of two who notice the first one tells.
        if !matches!(&state.phase, Phase::Connected(current) if current.is(line)) {
            return false;
        }
        let connect_again = state.calls.has_unsent();
        state.phase = if connect_again { Phase::Connecting } else { Phase::Idle };
        state.in_line = None;
        self.fail_all(&mut state, true, &mut deliveries, || self.loss(why));
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
        deliveries.into_iter().for_each(|(waiter, outcome)| self.deliver(waiter, outcome, by));
        connect_again
    }

    /// The answer to an extended call. An answer that nobody waits for any more is dropped.
    pub(super) fn answer(self: &Arc<Self>, call_id: u64, outcome: Outcome, by: ReadBy) {
        let call = self.lock().calls.remove(call_id);
        match call {
            Some(call) => self.deliver(call.waiter, outcome, by),
            None => {
                self.late_replies.fetch_add(1, Ordering::Relaxed);
                log::trace!("rpc: late answer of {} dropped", self.config.addr);
            }
        }
    }

    /// How to tell that the bare reply which comes next is whole; `None` when none is due.
    pub(super) fn reply_in_line(&self) -> Option<fn(&Bytes) -> bool> {
        let mut state = self.lock();
        let id = state.in_line?;
        state.calls.get_mut(id).map(|call| call.decodes)
    }

    /// The bare reply that was due; the next call's turn.
    pub(super) fn answer_in_line(&self, outcome: Outcome) {
        let mut deliveries = Vec::new();
        let mut state = self.lock();
        if let Some(id) = state.in_line.take() {
            state.finish(id, &mut deliveries, outcome);
        }
        self.send_unsent(&mut state, &mut deliveries);
        drop(state);
        deliver(deliveries);
    }

    // ---- ends ----

    /// Fails what is outstanding and joins the channel's threads, but for the calling one.
    pub(super) fn close(self: &Arc<Self>) {
        let mut deliveries = Vec::new();
        let mut state = self.lock();
        let line = match std::mem::replace(&mut state.phase, Phase::Closed) {
            Phase::Connected(line) => {
                line.outbox.cut("the channel was closed");
                Some(line)
            }
            _ => None,
        };
        state.in_line = None;
        self.fail_all(&mut state, true, &mut deliveries, || {
            self.loss(&Loss::Broken(channel_closed()))
        });
        self.fail_all(&mut state, false, &mut deliveries, || self.closed());
        drop(state);
        deliveries
            .into_iter()
            .for_each(|(waiter, outcome)| self.deliver_elsewhere(waiter, outcome));
        self.timer_wakes.notify_all();
        let threads = std::mem::take(&mut self.lock().threads);
        threads.into_iter().for_each(join);
        line.into_iter().for_each(|line| line.outbox.close());
    }

    fn fail_all(
        &self,
        state: &mut State,
        sent: bool,
        deliveries: &mut Deliveries,
        error: impl Fn() -> CallError,
    ) {
        let calls = state.calls.take_all(sent);
        deliveries.extend(calls.into_iter().map(|call| (call.waiter, Err(error()))));
    }

    fn fail(self: &Arc<Self>, waiter: Waiter, error: CallError) {
        self.deliver_elsewhere(waiter, Err(error));
    }

    fn deliver(self: &Arc<Self>, waiter: Waiter, outcome: Outcome, by: ReadBy) {
        match by {
            ReadBy::Channel => waiter.deliver(outcome),
            ReadBy::Callers => self.deliver_elsewhere(waiter, outcome),
        }
    }

    /// Delivers from a caller's thread. Completions go to the timer's thread: a caller may hold a
    /// lock that they take.
    fn deliver_elsewhere(self: &Arc<Self>, waiter: Waiter, outcome: Outcome) {
        match waiter {
            Waiter::Thread(_) => waiter.deliver(outcome),
            Waiter::Completion(_) => timer::run_soon(self, waiter, outcome),
        }
    }
}

impl State {
    /// The connection, if nobody reads it, and no call is under way over it.
    fn unread_line(&self) -> Option<&Line> {
        match &self.phase {
            Phase::Connected(line) if !self.has_reader && self.calls.len() == 0 => Some(line),
            _ => None,
        }
    }

    /// The connection, if nobody reads it who would notice that it has broken.
    fn dead_line(&self) -> Option<Line> {
        match &self.phase {
            Phase::Connected(line) if !self.has_reader && line.outbox.cut_reason().is_some() => {
                Some(line.clone())
            }
            _ => None,
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::Closed)
    }

    fn finish(&mut self, id: u64, deliveries: &mut Deliveries, outcome: Outcome) {
        deliveries.extend(self.calls.remove(id).map(|call| (call.waiter, outcome)));
    }

    /// Takes a call out because its deadline has passed. With it comes the connection, and how long
    /// it has been silent, if that is too long.
    pub(super) fn give_up(&mut self, id: u64, now: Instant) -> Option<(Call, Option<SilentLine>)> {
        let verdict = match &self.phase {
            Phase::Connected(line) => {
                self.silence.heard(line.heard_at());
                self.silence.judge_at_deadline(now)
            }
            _ => Verdict::Wait,
        };
        let call = self.take_out(id, now)?;
        let dead = match (&self.phase, verdict) {
            (Phase::Connected(line), Verdict::GiveUp(silence)) if call.sent => {
                Some((line.clone(), silence))
            }
            _ => None,
        };
        Some((call, dead))
    }

    /// Takes a call out that nobody waits for any more. If its bare reply was due, the connection
    /// goes with it: the next reply on it would be taken for another call's.
    fn take_out(&mut self, id: u64, now: Instant) -> Option<Call> {
        let call = self.calls.remove(id)?;
        if let Phase::Connected(line) = &self.phase {
            if self.in_line == Some(id) {
                line.outbox.cut("a reply did not come in time");
            }
            if self.calls.len() == 0 {
                self.silence.heard(line.heard_at());
                self.silence.pause(now);
            }
        }
        Some(call)
    }
}

fn deliver(deliveries: Deliveries) {
    deliveries.into_iter().for_each(|(waiter, outcome)| waiter.deliver(outcome));
}
