//! A stage: a queue, one worker, and the threads that run the worker.
//!
//! ```text
//!   with_queue ──> queue ──┬── try_run: the thread that pushed runs the worker, if it is free
//!                          └── run:     the stage's own thread does what other threads leave
//! ```
//! Handing work to another thread costs a wake-up, and there would be one at every stage. So a
//! thread that pushes work runs the worker itself, with everything that waits in the queue. If
//! another thread is running the worker at that moment, it takes the new work as its next batch. No
//! thread but the stage's own waits for a busy worker.
//!
//! A worker knows nothing of the other stages: what it has for them goes into a sink
//! ([`Sink`]), which whoever runs the stage passes in (`pipeline`).
//!
//! # Invariants
//! - There is one worker. It does one batch after another, in the order of the pushes.
//! - Everything that is pushed is done: by the thread that runs the worker, which looks at the
//!   queue again when it is through; by the thread that pushed, with [`try_run`](Stage::try_run);
//!   or by the stage's own thread, which [`wake`](Stage::wake) wakes.
//! - A thread that is not the stage's own does a bounded number of batches, so that it soon reads
//!   its own connection again.
//! - A worker that panics stops its stage, whichever thread ran it.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{Ordering, fence};

use parking_lot::{Condvar, Mutex};

/// Batches that a thread does which is not the stage's own. It leaves the rest to the stage's own.
const BATCHES_MAX: usize = 4;

thread_local! {
    static IN_TURN: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is running a worker. What it pushes then, from a client's callback for
/// example, is left to other threads.
pub(super) fn is_in_turn() -> bool {
    IN_TURN.get()
}

/// Runs a client's callback as a worker's turn would.
pub(super) fn in_turn<R>(run: impl FnOnce() -> R) -> R {
    let was_in_turn = IN_TURN.replace(true);
    let result = catch_unwind(AssertUnwindSafe(run));
    IN_TURN.set(was_in_turn);
    result.unwrap_or_else(|panic| resume_unwind(panic))
}

/// The work that waits at a stage.
pub(super) trait Queue: Default {
    /// Everything that is taken at once.
    type Batch;

    /// Takes everything that waits; `None` if nothing is worth a turn.
    fn take(&mut self) -> Option<Self::Batch>;

    /// Whether [`take`](Queue::take) would take something.
    fn has_work(&self) -> bool;
}

/// Takes the outputs of a worker. When the call returns, the output is in the next stage's queue.
pub(super) type Sink<'a, T> = dyn FnMut(T) + 'a;

/// What does the work.
pub(super) trait Worker: Send {
    type Queue: Queue;
    /// What it has for the other stages.
    type Output;

    /// Does one batch.
    fn turn(&mut self, batch: <Self::Queue as Queue>::Batch, out: &mut Sink<'_, Self::Output>);

    /// What goes into the sink when a turn has panicked. There is no other turn.
    fn panicked(&self) -> Self::Output;
}

pub(super) struct Stage<W: Worker> {
    state: Mutex<State<W::Queue>>,
    woken: Condvar,
    worker: Mutex<Option<W>>,
}

struct State<Q> {
    queue: Q,
    /// The stage's own thread should look at the queue.
    is_woken: bool,
    is_stopped: bool,
}

impl<T> Queue for Vec<T> {
    type Batch = Vec<T>;

    fn take(&mut self) -> Option<Vec<T>> {
        self.has_work().then(|| std::mem::take(self))
    }

    fn has_work(&self) -> bool {
        !self.is_empty()
    }
}

impl<W: Worker> Stage<W> {
    /// A stage without a worker yet.
    pub(super) fn new() -> Stage<W> {
        let state = State { queue: Default::default(), is_woken: false, is_stopped: false };
        Stage { state: Mutex::new(state), woken: Condvar::new(), worker: Mutex::new(None) }
    }

    pub(super) fn set_worker(&self, worker: W) {
        *self.worker.lock() = Some(worker);
    }

    /// Gives access to the queue; `None` once the stage is stopped. A thread that pushes must then
    /// call [`try_run`](Stage::try_run) or [`wake`](Stage::wake).
    pub(super) fn with_queue<R>(&self, access: impl FnOnce(&mut W::Queue) -> R) -> Option<R> {
        let mut state = self.state.lock();
        if state.is_stopped {
            // `access` may hold a request. Dropping it runs the request's callback: not under the
            // lock.
            drop(state);
            return None;
        }
        Some(access(&mut state.queue))
    }

    /// Does the work that waits, unless another thread is doing it. Whether this thread did any.
    pub(super) fn try_run(&self, out: &mut Sink<'_, W::Output>) -> bool {
        self.try_run_if(|_| true, out)
    }

    /// Like [`try_run`](Stage::try_run) while `may_run` allows it. Otherwise it wakes the stage's
    /// own thread.
    pub(super) fn try_run_if(
        &self,
        may_run: impl Fn(&W::Queue) -> bool,
        out: &mut Sink<'_, W::Output>,
    ) -> bool {
        let mut has_run = false;
        for _ in 0..BATCHES_MAX {
            // Either the thread that holds the worker sees what was pushed before this, or this
            // thread sees that the worker is free.
            fence(Ordering::SeqCst);
            let Some(mut worker) = self.worker.try_lock() else { return has_run };
            let batch = {
                let mut state = self.state.lock();
                if state.is_stopped || !state.queue.has_work() {
                    None
                } else if !may_run(&state.queue) {
                    self.wake_locked(&mut state);
                    return has_run;
                } else {
                    state.queue.take()
                }
            };
            if let Some(batch) = batch {
                self.turn(&mut worker, batch, out);
                has_run = true;
            }
            drop(worker);
            fence(Ordering::SeqCst);
            if !self.has_work() {
                return has_run;
            }
        }
        self.wake();
        has_run
    }

    /// Wakes the stage's own thread if work waits that no thread is doing.
    pub(super) fn wake(&self) {
        fence(Ordering::SeqCst);
        if !self.worker.is_locked() {
            let mut state = self.state.lock();
            if state.queue.has_work() {
                self.wake_locked(&mut state);
            }
        }
    }

    fn wake_locked(&self, state: &mut State<W::Queue>) {
        if !std::mem::replace(&mut state.is_woken, true) {
            self.woken.notify_one();
        }
    }

    /// Whether any work waits.
    pub(super) fn has_work(&self) -> bool {
        let state = self.state.lock();
        !state.is_stopped && state.queue.has_work()
    }

    /// The stage's own thread: does work whenever it is woken, until the stage is stopped. Returns
    /// the worker, and what is left in the queue. There is no worker if it was never set, or has
    /// panicked.
    pub(super) fn run(
        &self,
        out: &mut Sink<'_, W::Output>,
        after_turn: impl Fn(),
    ) -> (Option<W>, W::Queue) {
        while self.wait() {
            {
                let mut worker = self.worker.lock();
                if let Some(batch) = self.with_queue(Queue::take).flatten() {
                    self.turn(&mut worker, batch, out);
                }
            }
            after_turn();
            fence(Ordering::SeqCst);
            if self.has_work() {
                self.wake();
            }
        }
        let worker = self.worker.lock().take();
        (worker, std::mem::take(&mut self.state.lock().queue))
    }

    /// Waits until it is woken. False once the stage is stopped.
    fn wait(&self) -> bool {
        let mut state = self.state.lock();
        while !state.is_woken && !state.is_stopped {
            self.woken.wait(&mut state);
        }
        state.is_woken = false;
        !state.is_stopped
    }

    /// The panic hook reports a panic. The worker may be in any state after it, so it is dropped.
    fn turn(
        &self,
        slot: &mut Option<W>,
        batch: <W::Queue as Queue>::Batch,
        out: &mut Sink<'_, W::Output>,
    ) {
        let Some(worker) = slot else { return };
        let was_in_turn = IN_TURN.replace(true);
        let result = catch_unwind(AssertUnwindSafe(|| worker.turn(batch, out)));
        IN_TURN.set(was_in_turn);
        if result.is_err() {
            self.stop();
            out(worker.panicked());
            *slot = None;
        }
    }

    /// Stops the stage and drops the worker, where there is no thread that takes it out.
    pub(super) fn drop_worker(&self) {
        self.stop();
        drop(self.worker.lock().take());
    }

    /// Takes no more work, and ends the stage's own thread.
    pub(super) fn stop(&self) {
        self.state.lock().is_stopped = true;
        self.woken.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use super::*;

    const BAD: u64 = u64::MAX;

    /// Passes on the numbers that it is given, and says `BAD` when it has panicked.
    struct PassOn;

    impl Worker for PassOn {
        type Queue = Vec<u64>;
        type Output = u64;

        fn turn(&mut self, batch: Vec<u64>, out: &mut Sink<'_, u64>) {
            assert!(is_in_turn());
            for n in batch {
                assert!(n != BAD, "the test asked for this panic");
                out(n);
            }
        }

        fn panicked(&self) -> u64 {
            BAD
        }
    }

    fn stage() -> Stage<PassOn> {
        let stage = Stage::new();
        stage.set_worker(PassOn);
        stage
    }

    /// No thread of the stage's own runs: a thread that pushes leaves only when its work is done,
    /// or belongs to the thread that runs the worker.
    #[test]
    fn all_work_is_done_and_each_thread_keeps_its_order() {
        const THREADS: u64 = 8;
        const EACH: u64 = 20_000;
        let (stage, done) = (stage(), Mutex::new(Vec::new()));
        let try_run = || stage.try_run(&mut |n| done.lock().push(n));
        thread::scope(|scope| {
            for thread in 0..THREADS {
                let (stage, try_run) = (&stage, &try_run);
                scope.spawn(move || {
                    for n in 0..EACH {
                        stage.with_queue(|queue| queue.push(thread * EACH + n));
                        try_run();
                        // What is left to the stage's own thread, which is this one for now.
                        if std::mem::take(&mut stage.state.lock().is_woken) {
                            try_run();
                        }
                    }
                });
            }
        });
        assert!(!stage.has_work());
        let done = done.lock();
        assert_eq!(done.len() as u64, THREADS * EACH);
        for thread in 0..THREADS {
            let own = done.iter().filter(|n| **n / EACH == thread);
            assert!(own.is_sorted(), "thread {thread}");
        }
    }

    #[test]
    fn its_own_thread_does_what_others_leave_until_it_is_stopped() {
        let stage = Arc::new(stage());
        let done = Arc::new(Mutex::new(Vec::new()));
        let own = thread::spawn({
            let (stage, done) = (stage.clone(), done.clone());
            move || stage.run(&mut |n| done.lock().push(n), || {})
        });
        let mut nobody = |n| panic!("{n} is for the stage's own thread");
        stage.with_queue(|queue| queue.push(1));
        assert!(!stage.try_run_if(|_| false, &mut nobody));
        while done.lock().is_empty() {
            thread::yield_now();
        }
        stage.with_queue(|queue| queue.push(2));
        stage.wake();
        while done.lock().len() < 2 {
            thread::yield_now();
        }
        stage.with_queue(|queue| queue.push(3));
        stage.stop();
        let (worker, left) = own.join().unwrap();
        assert!(worker.is_some());
        assert_eq!(left, [3], "returned to the thread that ends the stage");
        assert_eq!(stage.with_queue(|queue| queue.push(4)), None);
        assert!(!stage.try_run(&mut nobody));
    }

    #[test]
    fn a_worker_that_has_panicked_gets_no_other_turn() {
        let (stage, mut done) = (stage(), Vec::new());
        stage.with_queue(|queue| queue.extend([1, BAD, 2]));
        stage.try_run(&mut |n| done.push(n));
        assert_eq!(done, [1, BAD]);
        assert!(!is_in_turn(), "the thread that ran it goes on");
        assert_eq!(stage.with_queue(|queue| queue.push(3)), None);
        let (worker, _) = stage.run(&mut |n| done.push(n), || {});
        assert!(worker.is_none());
        assert_eq!(done, [1, BAD]);
    }
}
