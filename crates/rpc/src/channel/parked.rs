//! Who waits for the outcome of a call: a thread ([`Parked`]), or a closure.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};

use crate::CallError;

/// The outcome of a call: the serialized reply, or why there is none.
pub(super) type CallResult = Result<Bytes, CallError>;

/// Who gets a call's outcome.
pub(super) enum Waiter {
    /// A thread that waits for it.
    Thread(Arc<Parked>),
    /// A closure, to run on a thread of the channel.
    Completion(Box<dyn FnOnce(CallResult) + Send>),
}

impl Waiter {
    /// Hands the outcome over. No lock of the channel is held.
    pub(super) fn deliver(self, outcome: CallResult) {
        match self {
            Waiter::Thread(parked) => parked.wake(outcome),
            Waiter::Completion(done) => run_guarded(|| done(outcome)),
        }
    }
}

/// Runs foreign code. The panic hook reports its panic, which must not end the channel's thread.
pub(super) fn run_guarded(run: impl FnOnce()) {
    let _ = catch_unwind(AssertUnwindSafe(run));
}

/// Where a blocking call waits.
pub(super) struct Parked {
    /// Whether a thread waits here. Until then, none can be asked to read.
    is_waiting: AtomicBool,
    state: Mutex<Slot>,
    /// Whether there was an outcome; readable without the lock.
    is_over: AtomicBool,
    changed: Condvar,
}

#[derive(Default)]
struct Slot {
    outcome: Option<CallResult>,
    /// Whether the waiting thread is asked to read the connection, because nobody does.
    is_asked: bool,
}

/// For a thread that is about to wait.
impl Default for Parked {
    fn default() -> Parked {
        let parked = Parked::of_nobody();
        parked.set_waiting();
        parked
    }
}

impl Parked {
    /// For an outcome that a thread will wait for later.
    pub(super) fn of_nobody() -> Parked {
        Parked {
            is_waiting: AtomicBool::new(false),
            state: Mutex::default(),
            is_over: AtomicBool::new(false),
            changed: Condvar::new(),
        }
    }

    /// From now on a thread waits here, and reads if nobody does.
    pub(super) fn set_waiting(&self) {
        self.is_waiting.store(true, Ordering::Release);
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.is_waiting.load(Ordering::Acquire)
    }

    pub(super) fn wake(&self, outcome: CallResult) {
        let mut state = self.state.lock();
        state.outcome = Some(outcome);
        self.is_over.store(true, Ordering::Release);
        drop(state);
        self.changed.notify_one();
    }

    /// Asks the thread that waits here to read the connection.
    pub(super) fn ask_to_read(&self) {
        self.state.lock().is_asked = true;
        self.changed.notify_one();
    }

    /// Whether there is an outcome, or was one before it was taken.
    pub(super) fn has_outcome(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }

    pub(super) fn take_outcome(&self) -> Option<CallResult> {
        self.has_outcome().then(|| self.state.lock().outcome.take()).flatten()
    }

    /// The outcome, and whether the thread was asked to read before it came.
    pub(super) fn take_last(&self) -> Option<(CallResult, bool)> {
        if !self.has_outcome() {
            return None;
        }
        let mut state = self.state.lock();
        let is_asked = std::mem::take(&mut state.is_asked);
        state.outcome.take().map(|outcome| (outcome, is_asked))
    }

    /// Whether the thread was asked to read since this was called last.
    pub(super) fn take_asked(&self) -> bool {
        std::mem::take(&mut self.state.lock().is_asked)
    }

    /// Waits until there is an outcome, the thread is asked to read, or `deadline` passes.
    pub(super) fn wait_until(&self, deadline: Instant) {
        let mut state = self.state.lock();
        while state.outcome.is_none()
            && !state.is_asked
            && !self.changed.wait_until(&mut state, deadline).timed_out()
        {}
    }

    /// Waits for the outcome, which someone is about to deliver.
    pub(super) fn wait(&self) -> CallResult {
        let mut state = self.state.lock();
        loop {
            match state.outcome.take() {
                Some(outcome) => return outcome,
                None => self.changed.wait(&mut state),
            }
        }
    }
}
