//! Handlers: threads that run what takes long, fed by one bounded queue.
//!
//! ```text
//!   readers ── offer ──> queue (FIFO, or by the callers' shares) ── take ──> handlers ──> Service::call
//!      └── full: "busy" at once, with a hint of when a place will be free
//! ```
//! A call is run if, when its turn comes, its caller still waits and its connection still stands; else it is dropped unrun.
//! What a caller is charged for, where shares count, is the time that its methods held a handler.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};

use super::queue::CallQueue;
use super::stats::MethodStats;
use crate::rpc::service::Call;
use crate::rpc::{Service, Status, StatusCode};

/// Bounds of the hint that comes with "busy".
const HINT_MIN: Duration = Duration::from_millis(5);
const HINT_MAX: Duration = Duration::from_secs(1);

/// A call that waits for a handler.
pub(super) struct Queued {
    pub(super) service: Arc<dyn Service>,
    pub(super) method: usize,
    pub(super) args: Bytes,
    pub(super) call: Call,
    /// Who is charged for it.
    pub(super) caller: Bytes,
    pub(super) stats: Arc<MethodStats>,
    pub(super) since: Instant,
}

pub(super) struct Pool {
    handlers: usize,
    state: Mutex<State>,
    /// A call has come, or there will be no more.
    offered: Condvar,
    /// A place is free, or there will be no more.
    taken: Condvar,
}

struct State {
    queue: CallQueue<Box<Queued>>,
    is_closed: bool,
    /// What a call takes of a handler, averaged over some ten.
    mean_us: u64,
}

impl Pool {
    /// Without threads yet: each runs [`handle`](Pool::handle).
    pub(super) fn new(handlers: usize, queue: CallQueue<Box<Queued>>) -> Pool {
        let state = Mutex::new(State { queue, is_closed: false, mean_us: 0 });
        Pool { handlers, state, offered: Condvar::new(), taken: Condvar::new() }
    }

    /// Queues a call for the handlers. One that finds no place comes back, with the time in which one may be free.
    pub(super) fn offer(&self, queued: Box<Queued>) -> Result<(), (Box<Queued>, Duration)> {
        let caller = queued.caller.clone();
        let mut state = self.state.lock();
        if state.is_closed {
            return Err((queued, HINT_MAX));
        }
        let since = queued.since;
        if let Err(queued) = state.queue.offer(&caller, queued, since) {
            let waiting_us = state.mean_us.saturating_mul(state.queue.len() as u64);
            let hint = Duration::from_micros(waiting_us / self.handlers as u64);
            return Err((queued, hint.clamp(HINT_MIN, HINT_MAX)));
        }
        drop(state);
        self.offered.notify_one();
        Ok(())
    }

    /// Waits until a call has left the queue, at most for `timeout`.
    pub(super) fn wait_for_place(&self, timeout: Duration) {
        let mut state = self.state.lock();
        if !state.is_closed {
            self.taken.wait_for(&mut state, timeout);
        }
    }

    /// Calls that wait.
    pub(super) fn len(&self) -> usize {
        self.state.lock().queue.len()
    }

    /// A handler: runs calls until the pool is closed.
    pub(super) fn handle(&self) {
        while let Some(queued) = self.next() {
            let (caller, began) = (queued.caller.clone(), Instant::now());
            run(*queued, began);
            let cost_us = began.elapsed().as_micros().max(1) as u64;
            let mut state = self.state.lock();
            state.queue.charge(&caller, cost_us, began);
            state.mean_us = (state.mean_us * 9 + cost_us).div_ceil(10);
        }
    }

    fn next(&self) -> Option<Box<Queued>> {
        let mut state = self.state.lock();
        loop {
            if state.is_closed {
                return None;
            }
            if let Some(queued) = state.queue.take() {
                drop(state);
                self.taken.notify_all();
                return Some(queued);
            }
            self.offered.wait(&mut state);
        }
    }

    /// Ends the handlers. What still waits is not run, and answered so.
    pub(super) fn close(&self) {
        let left = {
            let mut state = self.state.lock();
            state.is_closed = true;
            state.queue.drain()
        };
        self.offered.notify_all();
        self.taken.notify_all();
        for queued in left {
            queued.call.fail(Status::new(StatusCode::ShuttingDown, "the server is stopping"));
        }
    }
}

/// Runs it, unless nobody waits for it any more.
fn run(queued: Queued, now: Instant) {
    let Queued { service, method, args, mut call, stats, since, .. } = queued;
    stats.waited(now.saturating_duration_since(since));
    if !call.is_wanted() {
        stats.dropped();
        return call.fail(Status::new(StatusCode::Unanswered, "the connection is gone"));
    }
    if call.deadline().is_some_and(|deadline| deadline <= now) {
        return call.fail(Status::new(
            StatusCode::DeadlineExceeded,
            "the deadline passed while the call waited for a handler",
        ));
    }
    call.begin(now);
    // A panic is reported by the panic hook, and answered when the call is dropped on its way.
    let _ = catch_unwind(AssertUnwindSafe(|| {
        service.call(method, args, call);
        service.flush(method);
    }));
}
