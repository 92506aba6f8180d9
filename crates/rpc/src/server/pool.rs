//! Handlers: threads that run methods which take long, fed by one bounded queue.
//!
//! ```text
//!   readers ── offer ──> queue (plain or fair) ── take ──> handlers ──> Service::call
//!      │                                                      ^
//!      ├── a handler is idle: handed over, takes no place ────┘
//!      └── full: "busy" at once, with a hint of when a place will be free
//! ```
//!
//! When its turn comes, a call runs if its caller still waits and its connection still exists.
//! Otherwise it is dropped. In a fair queue, a caller is charged for the time that its methods kept
//! a handler busy.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};

use super::queue::CallQueue;
use super::stats::MethodStats;
use crate::service::Call;
use crate::{Service, Status, StatusCode};

/// Bounds of the hint that comes with "busy".
const HINT_MIN: Duration = Duration::from_millis(5);
const HINT_MAX: Duration = Duration::from_secs(1);

/// A call that waits for a handler.
pub(super) struct Queued {
    pub(super) service: Arc<dyn Service>,
    pub(super) method: usize,
    pub(super) args: Bytes,
    pub(super) call: Call,
    /// The caller that is charged for it.
    pub(super) caller: Bytes,
    pub(super) stats: Arc<MethodStats>,
    pub(super) since: Instant,
}

pub(super) struct Pool {
    handlers: usize,
    state: Mutex<State>,
    /// A call was offered, or the pool was closed.
    offered: Condvar,
    /// A place is free, or the pool was closed.
    taken: Condvar,
}

struct State {
    queue: CallQueue<Box<Queued>>,
    /// Handlers that run a call.
    busy: usize,
    /// Calls for idle handlers, which are waking up.
    for_idle_handlers: VecDeque<Box<Queued>>,
    is_closed: bool,
    /// How long a call keeps a handler busy: a running mean over about ten calls.
    mean_us: u64,
}

impl Pool {
    /// A pool without threads yet. Each runs [`handle`](Pool::handle).
    pub(super) fn new(handlers: usize, queue: CallQueue<Box<Queued>>) -> Pool {
        let state = State {
            queue,
            busy: 0,
            for_idle_handlers: VecDeque::new(),
            is_closed: false,
            mean_us: 0,
        };
        let (offered, taken) = (Condvar::new(), Condvar::new());
        Pool { handlers, state: Mutex::new(state), offered, taken }
    }

    /// Hands a call to the handlers. If it finds no place within `wait_max` it comes back, with the
    /// time after which a place may be free.
    pub(super) fn offer(
        &self,
        queued: Box<Queued>,
        wait_max: Duration,
    ) -> Result<(), (Box<Queued>, Duration)> {
        let mut state = self.state.lock();
        let mut result = state.offer(queued, self.handlers);
        if !wait_max.is_zero() && matches!(result, Offered::Full(_)) {
            self.taken.wait_for(&mut state, wait_max);
            result = result.again(&mut state, self.handlers);
        }
        match result {
            Offered::Taken => {
                drop(state);
                self.offered.notify_one();
                Ok(())
            }
            Offered::Full(queued) => {
                let waiting_us = state.mean_us.saturating_mul(state.queue.len() as u64);
                let hint = Duration::from_micros(waiting_us / self.handlers as u64);
                Err((queued, hint.clamp(HINT_MIN, HINT_MAX)))
            }
            Offered::Closed(queued) => {
                drop(state);
                queued.refuse();
                Ok(())
            }
        }
    }

    /// Calls that wait.
    pub(super) fn len(&self) -> usize {
        self.state.lock().waiting()
    }

    /// A handler: runs calls until the pool is closed.
    pub(super) fn handle(&self) {
        while let Some(queued) = self.next() {
            let (caller, began) = (queued.caller.clone(), Instant::now());
            run(*queued, began);
            let cost_us = began.elapsed().as_micros().max(1) as u64;
            let mut state = self.state.lock();
            state.busy -= 1;
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
            if let Some(queued) = state.take() {
                state.busy += 1;
                drop(state);
                self.taken.notify_all();
                return Some(queued);
            }
            self.offered.wait(&mut state);
        }
    }

    /// Ends the handlers. Calls that still wait do not run, and are refused.
    pub(super) fn close(&self) {
        let left = {
            let mut state = self.state.lock();
            state.is_closed = true;
            let mut left = Vec::from(std::mem::take(&mut state.for_idle_handlers));
            left.extend(state.queue.drain());
            left
        };
        self.offered.notify_all();
        self.taken.notify_all();
        left.into_iter().for_each(|queued| queued.refuse());
    }
}

/// What became of a call that was offered.
enum Offered {
    Taken,
    Full(Box<Queued>),
    Closed(Box<Queued>),
}

impl Offered {
    fn again(self, state: &mut State, handlers: usize) -> Offered {
        match self {
            Offered::Full(queued) => state.offer(queued, handlers),
            other => other,
        }
    }
}

impl State {
    fn offer(&mut self, queued: Box<Queued>, handlers: usize) -> Offered {
        if self.is_closed {
            return Offered::Closed(queued);
        }
        // A call for an idle handler needs no place in the queue.
        if self.queue.len() == 0 && self.for_idle_handlers.len() < handlers - self.busy {
            self.for_idle_handlers.push_back(queued);
            return Offered::Taken;
        }
        let (caller, since) = (queued.caller.clone(), queued.since);
        match self.queue.offer(&caller, queued, since) {
            Ok(()) => Offered::Taken,
            Err(queued) => Offered::Full(queued),
        }
    }

    /// Calls for idle handlers came before those in the queue.
    fn take(&mut self) -> Option<Box<Queued>> {
        self.for_idle_handlers.pop_front().or_else(|| self.queue.take())
    }

    fn waiting(&self) -> usize {
        self.for_idle_handlers.len() + self.queue.len()
    }
}

impl Queued {
    /// Refuses it, because there are no handlers any more.
    fn refuse(self) {
        self.call.fail(Status::new(StatusCode::ShuttingDown, "the server is stopping"));
    }
}

/// Runs a call, unless nobody waits for it any more.
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
    // The panic hook reports a panic, and the call that it drops is answered.
    let _ = catch_unwind(AssertUnwindSafe(|| {
        service.call(method, args, call);
        service.flush(method);
    }));
}
